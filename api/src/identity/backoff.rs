//! Back-off of logins, by address and by network address, shared by all processes.
//!
//! An attempt is counted before it is looked at and forgiven when it succeeds. Subjects are stored hashed, so that the table holds no
//! contact data. Waits are short (at most five minutes), so that nobody can be kept out of an account for long by others' guesses.

use std::net::IpAddr;

use chrono::{DateTime, TimeDelta, Utc};
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

    fn key(self) -> Vec<u8> {
        let digest = match self {
            Self::Address(address) => Sha256::digest(format!("address {address}")),
            Self::Ip(ip) => Sha256::digest(format!("ip {}", network(ip))),
        };
        digest.to_vec()
    }
}

/// One household has a whole /64 of IPv6, so that is what is counted.
fn network(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => ip.segments()[..4].iter().map(|part| format!("{part:x}:")).collect(),
    }
}

/// Counts an attempt of each subject.
///
/// # Errors
/// 429 with the wait when one of them has to wait; the attempt must then not be looked at.
pub async fn count(
    pool: &PgPool,
    subjects: &[Subject<'_>],
    now: DateTime<Utc>,
) -> Result<(), Problem> {
    for subject in subjects {
        let key = subject.key();
        let counted = sqlx::query_file!(
            "sql/identity/count_login_attempt.sql",
            key,
            now,
            subject.free_attempts(),
            MAX_WAIT_S
        )
        .fetch_optional(pool)
        .await?;
        if counted.is_none() {
            return Err(refusal(pool, &key, now).await?);
        }
    }
    Ok(())
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

/// Takes back what was counted, after a success: the address starts anew, the network address gets this one attempt back.
///
/// # Errors
/// 503 when the database is away.
pub async fn forgive(
    pool: &PgPool,
    subjects: &[Subject<'_>],
    now: DateTime<Utc>,
) -> Result<(), Problem> {
    for subject in subjects {
        let key = subject.key();
        match subject {
            Subject::Address(_) => {
                sqlx::query!("DELETE FROM login_attempts WHERE subject = $1", key)
                    .execute(pool)
                    .await?;
            }
            Subject::Ip(_) => {
                sqlx::query!(
                    "UPDATE login_attempts SET attempts = greatest(attempts - 1, 0), blocked_until = $2
                     WHERE subject = $1",
                    key,
                    now
                )
                .execute(pool)
                .await?;
            }
        }
    }
    Ok(())
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
