//! What the webhooks of a process share: how often each may be called, and the secrets that were opened lately.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use ledgerline_domain::{id::TriggerId, trigger::Content};
use ledgerline_store::sealed::{SealedError, SealedValues, Wanted};
use moka::sync::Cache;
use secrecy::{ExposeSecret as _, SecretBox};
use sqlx::PgPool;

/// Deliveries that one webhook takes in a second, over a while, in one process: beyond it whoever knows the address is asked to wait.
const PER_SECOND: f64 = 50.0;
/// Deliveries that it takes at once.
const BURST: f64 = 200.0;
/// For how many webhooks a process counts. One that is not among them begins with a full burst.
const MAX_COUNTED: u64 = 10_000;
/// How long an opened secret is kept: a busy webhook then costs no statement a delivery.
const OPENED_FOR: Duration = Duration::from_secs(30);
/// How long refusals are kept, by the hour.
const REFUSALS_KEPT: TimeDelta = TimeDelta::days(7);

/// Which sealed value: of which trigger, under which name, in which version.
type Sealed = (TriggerId, String, i32);
/// A value that was opened.
type Opened = Arc<SecretBox<Vec<u8>>>;

/// See the module. Cheap to clone; all clones share.
#[derive(Clone)]
pub struct Hooks {
    buckets: Cache<TriggerId, Arc<Mutex<Bucket>>>,
    opened: Cache<Sealed, Opened>,
}

struct Bucket {
    left: f64,
    filled_at: Instant,
    over: bool,
}

/// Whether a delivery may be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It may.
    Yes,
    /// It must wait; `first` since one was let in.
    Wait {
        /// Whether this is the first one that must wait.
        first: bool,
    },
}

impl Default for Hooks {
    fn default() -> Self {
        let buckets = Cache::builder()
            .max_capacity(MAX_COUNTED)
            .time_to_idle(Duration::from_secs(60))
            .name("webhook rates")
            .build();
        let opened = Cache::builder()
            .max_capacity(MAX_COUNTED)
            .time_to_live(OPENED_FOR)
            .name("webhook secrets")
            .build();
        Self { buckets, opened }
    }
}

impl Bucket {
    fn take(&mut self, now: Instant) -> Turn {
        let since = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.left = (self.left + since * PER_SECOND).min(BURST);
        self.filled_at = now;
        if self.left >= 1.0 {
            self.left -= 1.0;
            self.over = false;
            return Turn::Yes;
        }
        Turn::Wait { first: !std::mem::replace(&mut self.over, true) }
    }
}

/// Where the address of a webhook is sealed.
#[must_use]
pub fn token_holder(id: TriggerId) -> String {
    format!("webhook_token:{id}")
}

/// Where the signing secret of a webhook is sealed.
#[must_use]
pub fn secret_holder(id: TriggerId) -> String {
    format!("webhook_secret:{id}")
}

impl Hooks {
    /// Whether a delivery to a webhook may be looked at now.
    #[must_use]
    pub fn turn(&self, id: TriggerId) -> Turn {
        let full =
            || Arc::new(Mutex::new(Bucket { left: BURST, filled_at: Instant::now(), over: false }));
        let bucket = self.buckets.get_with(id, full);
        bucket.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now())
    }

    /// A value of a webhook in the version that the log names; none where it was never made.
    ///
    /// # Errors
    /// When it can't be read or opened.
    pub async fn open(
        &self,
        sealed: &SealedValues,
        content: &Content,
        holder: String,
        version: Option<i32>,
    ) -> Result<Option<Vec<u8>>, SealedError> {
        let Some(version) = version else { return Ok(None) };
        let key = (content.id, holder, version);
        if let Some(known) = self.opened.get(&key) {
            return Ok(Some(known.expose_secret().clone()));
        }
        let wanted = Wanted { holder: key.1.clone(), version };
        let opened = sealed.open(content.workspace_id.0, &[wanted]).await?;
        let Some((_, value)) = opened.into_iter().next() else { return Ok(None) };
        let plain = value.expose_secret().clone();
        self.opened.insert(key, Arc::new(value));
        Ok(Some(plain))
    }
}

/// How often deliveries to a webhook were refused for a reason, over the last days.
#[derive(Clone, Debug, serde::Serialize, utoipa::ToSchema)]
pub struct RefusedDeliveries {
    /// Why: `wrong_signature`, `stale_signature`, `unsigned`, `no_secret`, `body_too_large`, `rate_limited` (bursts, not deliveries), or the rule that refused.
    pub reason: String,
    /// How often.
    pub count: i64,
    /// When it was last so.
    pub last_at: DateTime<Utc>,
}

/// Counts a refusal: a row an hour and reason, however many come.
///
/// # Errors
/// When the database is away.
pub async fn note_refusal(
    pool: &PgPool,
    id: TriggerId,
    reason: &str,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "WITH gone AS (DELETE FROM webhook_refusals WHERE trigger_id = $1 AND hour < $4)
         INSERT INTO webhook_refusals AS r (trigger_id, reason, hour, count, last_at)
         VALUES ($1, $2, date_trunc('hour', $3::timestamptz), 1, $3)
         ON CONFLICT (trigger_id, reason, hour) DO UPDATE SET count = r.count + 1, last_at = excluded.last_at",
        id.0,
        reason,
        now,
        now - REFUSALS_KEPT
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// What was refused of a webhook over the last days, the most recent first.
///
/// # Errors
/// When the database is away.
pub async fn refusals(
    pool: &PgPool,
    id: TriggerId,
    now: DateTime<Utc>,
) -> Result<Vec<RefusedDeliveries>, sqlx::Error> {
    sqlx::query_as!(
        RefusedDeliveries,
        r#"SELECT reason, sum(count)::bigint AS "count!", max(last_at) AS "last_at!" FROM webhook_refusals
           WHERE trigger_id = $1 AND hour >= $2 GROUP BY reason ORDER BY max(last_at) DESC, reason"#,
        id.0,
        now - REFUSALS_KEPT
    )
    .fetch_all(pool)
    .await
}
