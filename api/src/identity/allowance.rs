//! How often something may be done in a while: exact over all processes, because each use is a row in Postgres.
//!
//! For what is rare and dear: asking for a code, trying one, writing to somebody. What is frequent has a bound of its own kind.

use std::net::IpAddr;

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use ledgerline_domain::id::UserId;
use sha2::{Digest, Sha256};
use sqlx::PgPool;

use super::backoff::network;
use crate::problem::Problem;

/// The window in which uses are counted.
const WINDOW: TimeDelta = TimeDelta::minutes(15);

/// What is bounded, and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance<'a> {
    /// Asking for a code from one place in the network.
    CodesAskedFrom(IpAddr),
    /// Asking for a code for one address, so that nobody's mailbox is flooded from many places.
    CodesAskedFor(&'a str),
    /// Trying a code from one place in the network.
    CodesTriedFrom(IpAddr),
    /// Invitations that one person sends.
    InvitationsBy(UserId),
    /// Invitations to one address, from whomever, so that nobody is pressed.
    InvitationsTo(&'a str),
    /// Trying a code of the second factor of one person, from wherever.
    SecondFactorTried(UserId),
    /// Going to another provider to sign in, from one place in the network. Many people can share it.
    FederatedFrom(IpAddr),
}

impl Allowance<'_> {
    /// How many uses there are in the window.
    const fn uses(self) -> i64 {
        match self {
            Self::CodesAskedFrom(_) | Self::CodesAskedFor(_) | Self::InvitationsTo(_) => 5,
            Self::CodesTriedFrom(_) | Self::SecondFactorTried(_) => 10,
            // A team is asked in at one go.
            Self::InvitationsBy(_) => 50,
            Self::FederatedFrom(_) => 100,
        }
    }

    /// The table holds no contact data.
    pub(super) fn key(self) -> Vec<u8> {
        let digest = match self {
            Self::CodesAskedFrom(ip) => Sha256::digest(format!("codes from {}", network(ip))),
            Self::CodesAskedFor(address) => Sha256::digest(format!("codes for {address}")),
            Self::CodesTriedFrom(ip) => Sha256::digest(format!("tries from {}", network(ip))),
            Self::InvitationsBy(user) => Sha256::digest(format!("invitations by {user}")),
            Self::InvitationsTo(address) => Sha256::digest(format!("invitations to {address}")),
            Self::SecondFactorTried(user) => Sha256::digest(format!("second factor of {user}")),
            Self::FederatedFrom(ip) => Sha256::digest(format!("providers from {}", network(ip))),
        };
        digest.to_vec()
    }
}

/// Takes one use of each.
///
/// # Errors
/// 429 with the wait when one has none left; the uses of those before it are taken all the same.
pub async fn take(
    pool: &PgPool,
    allowances: &[Allowance<'_>],
    now: DateTime<Utc>,
) -> Result<(), Problem> {
    // As the database keeps it.
    let now = now.trunc_subsecs(6);
    let since = now - WINDOW;
    for allowance in allowances {
        let key = allowance.key();
        let uses = allowance.uses();
        let used =
            sqlx::query_file_scalar!("sql/identity/use_allowance.sql", key, now, since, uses)
                .fetch_optional(pool)
                .await?;
        if used.is_none() {
            return Err(refusal(pool, &key, since, now).await?);
        }
    }
    Ok(())
}

/// The next use is there when the oldest one leaves the window.
async fn refusal(
    pool: &PgPool,
    key: &[u8],
    since: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<Problem, Problem> {
    let oldest = sqlx::query_scalar!(
        "SELECT min(used) FROM allowances, unnest(used_at) AS used WHERE subject = $1 AND used > $2",
        key,
        since
    )
    .fetch_one(pool)
    .await?;
    let wait = oldest.map_or(TimeDelta::zero(), |oldest| oldest + WINDOW - now);
    let seconds = u64::try_from((wait.num_milliseconds() + 999) / 1_000).unwrap_or(0).max(1);
    Ok(Problem::too_many_requests("this was done too often; wait before the next try", seconds))
}

/// Removes what no longer counts.
pub(super) async fn prune(pool: &PgPool, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    let since = now - WINDOW;
    sqlx::query!("DELETE FROM allowances WHERE last_used_at <= $1", since).execute(pool).await?;
    Ok(())
}
