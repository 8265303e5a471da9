//! Back-off of logins, by address and by network address, shared by all processes.
//!
//! An attempt is counted before it is looked at and forgiven when it succeeds, so what is refused is what would exceed the free
//! attempts if all that are being looked at were to fail: guesses at once are bounded like guesses in a row, and somebody who signs
//! in twice at once gets in twice. Subjects are stored hashed, so that the table holds no contact data. Waits are short (at most
//! five minutes), so that nobody can be kept out of an account for long by others' guesses.

use std::net::IpAddr;

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use sha2::{Digest, Sha256};
use sqlx::PgPool;

use crate::problem::Problem;

/// The longest wait.
const MAX_WAIT_S: f64 = 300.0;

/// Whose attempts are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject<'a> {
    /// One account, known or not.
    Address(&'a str),
    /// One place in the network. Many people can share it, so it has more attempts.
    Ip(IpAddr),
}

impl Subject<'_> {
    const fn free_attempts(self) -> i32 {
        match self {
            Self::Address(_) => 5,
            Self::Ip(_) => 50,
        }
    }

    pub(super) fn key(self) -> Vec<u8> {
        let digest = match self {
            Self::Address(address) => Sha256::digest(format!("address {address}")),
            Self::Ip(ip) => Sha256::digest(format!("ip {}", network(ip))),
        };
        digest.to_vec()
    }
}

/// One household has a whole /64 of IPv6, so that is what is counted.
pub(super) fn network(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => ip.segments()[..4].iter().map(|part| format!("{part:x}:")).collect(),
    }
}

/// An attempt that was counted and may be looked at.
#[derive(Debug)]
#[must_use = "a success is forgiven"]
pub struct Attempt<'a> {
    /// The subjects, each with the number this attempt has among theirs.
    counted: Vec<(Subject<'a>, i32)>,
    at: DateTime<Utc>,
}

/// Counts an attempt of each subject.
///
/// # Errors
/// 429 with the wait when one of them has to wait; the attempt must then not be looked at.
pub async fn count<'a>(
    pool: &PgPool,
    subjects: &[Subject<'a>],
    now: DateTime<Utc>,
) -> Result<Attempt<'a>, Problem> {
    // As the database keeps it.
    let now = now.trunc_subsecs(6);
    let mut counted = Vec::with_capacity(subjects.len());
    for subject in subjects {
        let key = subject.key();
        let number = sqlx::query_file_scalar!(
            "sql/identity/count_login_attempt.sql",
            key,
            now,
            subject.free_attempts(),
            MAX_WAIT_S
        )
        .fetch_optional(pool)
        .await?;
        match number {
            Some(number) => counted.push((*subject, number)),
            None => return Err(refusal(pool, &key, now).await?),
        }
    }
    Ok(Attempt { counted, at: now })
}

async fn refusal(pool: &PgPool, key: &[u8], now: DateTime<Utc>) -> Result<Problem, Problem> {
    let blocked_until =
        sqlx::query_scalar!("SELECT blocked_until FROM login_attempts WHERE subject = $1", key)
            .fetch_optional(pool)
            .await?
            .unwrap_or(now);
    let wait = (blocked_until - now).max(TimeDelta::seconds(1));
    let seconds = u64::try_from((wait.num_milliseconds() + 999) / 1_000).unwrap_or(1);
    Ok(Problem::too_many_requests("too many attempts to sign in; wait before the next", seconds))
}

impl Attempt<'_> {
    /// Takes back what was counted, after a success: the address starts anew from this attempt on, and what was counted after it
    /// stays; the network address gets this one attempt back.
    ///
    /// # Errors
    /// 503 when the database is away.
    pub async fn forgive(self, pool: &PgPool) -> Result<(), Problem> {
        for (subject, number) in self.counted {
            let given_back = match subject {
                Subject::Address(_) => number,
                Subject::Ip(_) => 1,
            };
            sqlx::query_file!(
                "sql/identity/forgive_login_attempts.sql",
                subject.key(),
                given_back,
                subject.free_attempts(),
                self.at
            )
            .execute(pool)
            .await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_household_of_ipv6_is_one_subject() {
        let key = |ip: &str| Subject::Ip(ip.parse().unwrap()).key();
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::9"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
    }
}
