//! How often a user may ask: one limit for reads, one for writes, one for all requests, each over every process of the deployment.
//!
//! A row in Postgres holds each user's window of each limit. A process leases a slice of it ([`share`]) and counts within it by itself, so most
//! requests ask nobody. A window is exact (never more than the quota is let in), and a user who moves from one process to another loses
//! at most what the first one still held.
//!
//! Every request of a signed-in caller is counted once, where the caller is found out ([`crate::extract::Caller`]); what anybody may ask has bounds of its
//! own ([`crate::identity::allowance`], [`crate::identity::backoff`], [`crate::hooks`]). How the windows stand is on every counted answer
//! (`RateLimit` and `RateLimit-Policy`, draft-ietf-httpapi-ratelimit-headers-10).

pub mod quota;
pub mod share;

use std::{
    fmt::Write as _,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use chrono::{DateTime, SubsecRound as _, Utc};
use ledgerline_domain::id::UserId;
use moka::sync::Cache;
use sqlx::PgPool;
use tokio::sync::Mutex;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    quota::{Quota, RateLimitsConfig},
    share::{Lease, Share, Standing, Turn},
};
use crate::{
    clock::Clock,
    problem::{Problem, ProblemKind},
};

/// How the windows of a caller stand.
pub const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// Which limits a caller has.
pub const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Of how many users and limits a process remembers its share. Beyond it a share is forgotten, and with it what was leased.
const MAX_SHARES: u64 = 50_000;

/// How often windows that have ended are removed.
const PRUNE_EVERY: Duration = Duration::from_secs(600);

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Requests that only look.
    Reads,
    /// Requests that may change something.
    Writes,
    /// All of them.
    Requests,
}

impl Policy {
    /// The name in headers and in the database.
    const fn name(self) -> &'static str {
        match self {
            Self::Reads => "reads",
            Self::Writes => "writes",
            Self::Requests => "requests",
        }
    }

    /// The policy that a request falls under beside [`Policy::Requests`]. What external workers ask is counted with the reads: it keeps the pace
    /// of the steps that they carry out, and no person's.
    #[must_use]
    pub fn of(method: &Method, route: &str) -> Self {
        let of_worker = route
            .strip_prefix(crate::router::BASE_PATH)
            .is_some_and(|noun| noun.starts_with("/worker-tasks/"));
        if method.is_safe() || of_worker { Self::Reads } else { Self::Writes }
    }
}

/// What one request left of each limit that it was counted under.
#[derive(Clone, Debug, Default)]
struct Standings(Vec<(Policy, Quota, Standing)>);

impl Standings {
    fn add_to(&self, headers: &mut HeaderMap) {
        let (mut policies, mut limits) = (String::new(), String::new());
        for (policy, Quota { requests, window_s }, standing) in &self.0 {
            let separator = if limits.is_empty() { "" } else { ", " };
            let name = policy.name();
            // Writing to a String does not fail.
            let _ = write!(policies, "{separator}\"{name}\";q={requests};w={window_s}");
            let Standing { remaining, resets_in_s } = standing;
            let _ = write!(limits, "{separator}\"{name}\";r={remaining};t={resets_in_s}");
        }
        for (name, text) in [(RATE_LIMIT_POLICY, policies), (RATE_LIMIT, limits)] {
            if let Ok(value) = HeaderValue::try_from(text)
                && !value.is_empty()
            {
                headers.insert(name, value);
            }
        }
    }
}

/// Carries what a request was counted as from the extractor, which counts, to the layer that writes the answer's headers.
#[derive(Clone, Debug, Default)]
pub struct Announcement(Arc<OnceLock<Standings>>);

impl Announcement {
    /// Says on an answer how the windows stand, where the request was counted.
    pub fn add_to(&self, headers: &mut HeaderMap) {
        if let Some(standings) = self.0.get() {
            standings.add_to(headers);
        }
    }
}

/// The limits of the deployment, with what this process holds of them. Cheap to clone; all clones share.
#[derive(Clone)]
pub struct RateLimits(Arc<Inner>);

struct Inner {
    pool: PgPool,
    config: RateLimitsConfig,
    shares: Cache<(UserId, Policy), Arc<Mutex<Share>>>,
}

impl RateLimits {
    /// Starts with nothing leased, and removes windows that have ended for as long as the process runs.
    #[must_use]
    pub fn start(
        pool: PgPool,
        config: RateLimitsConfig,
        clock: Clock,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let shares = Cache::builder().max_capacity(MAX_SHARES).name("rate limit shares").build();
        let forgetting = forget(pool.clone(), clock);
        tasks.spawn(async move {
            stop.run_until_cancelled(forgetting).await;
        });
        Self(Arc::new(Inner { pool, config, shares }))
    }

    /// Counts a request of a user and says on the announcement how it stands.
    ///
    /// # Errors
    /// 429 with the wait when a window is used up; 503 when the database is away.
    pub async fn count(
        &self,
        user: UserId,
        policy: Policy,
        now: DateTime<Utc>,
        announcement: Option<&Announcement>,
    ) -> Result<(), Problem> {
        let RateLimitsConfig { reads, writes, requests } = self.0.config;
        let own = match policy {
            Policy::Reads => reads,
            Policy::Writes => writes,
            Policy::Requests => quota::Limit::Off,
        };
        let limits = [(policy, own.quota()), (Policy::Requests, requests.quota())];
        let mut standings = Standings::default();
        let mut refused = None;
        for (policy, quota) in limits {
            let Some(quota) = quota else { continue };
            let (granted, standing) = self.take(user, policy, quota, now).await?;
            standings.0.push((policy, quota, standing));
            if !granted {
                refused = Some((policy, quota, standing));
                break;
            }
        }
        if let Some(Announcement(announced)) = announcement {
            // A request is counted once, so nothing was announced before.
            let _ = announced.set(standings);
        }
        match refused {
            None => Ok(()),
            Some((policy, quota, standing)) => Err(refusal(policy, quota, standing)),
        }
    }

    async fn take(
        &self,
        user: UserId,
        policy: Policy,
        quota: Quota,
        now: DateTime<Utc>,
    ) -> Result<(bool, Standing), Problem> {
        let share = self.0.shares.get_with((user, policy), Arc::default);
        // Held while a slice is leased: the user's other requests wait for that one and lease no further.
        let mut share = share.lock().await;
        for _ in 0..2 {
            match share.take(quota, now) {
                Turn::Granted(standing) => return Ok((true, standing)),
                Turn::Refused(standing) => return Ok((false, standing)),
                Turn::Lease(wanted) => {
                    share.receive(self.lease(user, policy, quota, wanted, now).await?);
                }
            }
        }
        // The window that was leased from ended by this request's own time, so another process has a clock that is far ahead.
        Ok((false, Standing { remaining: 0, resets_in_s: 1 }))
    }

    async fn lease(
        &self,
        user: UserId,
        policy: Policy,
        quota: Quota,
        wanted: u32,
        now: DateTime<Utc>,
    ) -> Result<Lease, Problem> {
        // As the database keeps it.
        let now = now.trunc_subsecs(6);
        let most = i64::from(quota.requests);
        let row = sqlx::query_file!(
            "sql/rate_limit/lease.sql",
            user.0,
            policy.name(),
            now,
            now + quota.window(),
            i64::from(wanted),
            most
        )
        .fetch_one(&self.0.pool)
        .await?;
        let count = |number: i64| u32::try_from(number).unwrap_or(0);
        Ok(Lease {
            granted: count(row.granted),
            rest: count(most - row.taken),
            ends_at: row.ends_at,
        })
    }
}

fn refusal(policy: Policy, quota: Quota, standing: Standing) -> Problem {
    metrics::counter!("http_rate_limited_total", "policy" => policy.name()).increment(1);
    let Quota { requests, window_s } = quota;
    let name = policy.name();
    let detail = format!("more than {requests} {name} in {window_s} seconds; wait before the next");
    Problem::new(ProblemKind::RateLimited, detail).with_retry_after(u64::from(standing.resets_in_s))
}

async fn forget(pool: PgPool, clock: Clock) {
    let mut ticks = tokio::time::interval(PRUNE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = clock.now();
        let pruned = sqlx::query!("DELETE FROM rate_windows WHERE ends_at <= $1", now);
        if let Err(error) = pruned.execute(&pool).await {
            tracing::warn!(%error, "rate windows that have ended can't be removed now");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_fall_under_the_limit_of_their_method() {
        let writes = [
            (Method::POST, "/api/v1/workflows"),
            (Method::DELETE, "/api/v1/auth/me"),
            (Method::PUT, "/api/v1/secrets/{name}"),
        ];
        for (method, path) in writes {
            assert_eq!(Policy::of(&method, path), Policy::Writes, "{method} {path}");
        }
        let reads = [
            (Method::GET, "/api/v1/workflows"),
            (Method::HEAD, "/api/v1/workflows"),
            (Method::POST, "/api/v1/worker-tasks/poll"),
            (Method::POST, "/api/v1/worker-tasks/{id}/complete"),
        ];
        for (method, path) in reads {
            assert_eq!(Policy::of(&method, path), Policy::Reads, "{method} {path}");
        }
    }

    #[test]
    fn an_answer_says_which_limits_there_are_and_how_they_stand() {
        let quota = |requests, window_s| Quota { requests, window_s };
        let standing = |remaining, resets_in_s| Standing { remaining, resets_in_s };
        let announcement = Announcement::default();
        let mut headers = HeaderMap::new();
        announcement.add_to(&mut headers);
        assert!(headers.is_empty(), "nothing was counted");
        let standings = Standings(vec![
            (Policy::Writes, quota(600, 60), standing(599, 42)),
            (Policy::Requests, quota(1_000, 3_600), standing(7, 3_000)),
        ]);
        announcement.0.set(standings).unwrap();
        announcement.add_to(&mut headers);
        assert_eq!(headers[RATE_LIMIT], r#""writes";r=599;t=42, "requests";r=7;t=3000"#);
        assert_eq!(headers[RATE_LIMIT_POLICY], r#""writes";q=600;w=60, "requests";q=1000;w=3600"#);
    }
}
