//! Who leads: leases with an epoch, so that a leader that was only asleep is fenced off.

use chrono::{DateTime, Utc};

use sqlx::PgPool;

use crate::checkpoint::fenced;
use crate::{Position, StoreError};

/// Leadership of one reader of the log (a projector, the relay, the policies), with its checkpoint in the same row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The reader.
    pub reader: String,
    /// The process that holds it.
    pub owner: String,
    /// Rises each time the lease changes hands.
    pub epoch: i64,
    /// Everything up to here has been done.
    pub position: Position,
}

/// A worker process's sign of life. One row a process, so heartbeats grow with workers, not with executions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerLease {
    /// The worker process.
    pub worker: String,
    /// Rises when an expired lease is taken up again.
    pub epoch: i64,
    /// How many executions it runs at once.
    pub slots: i32,
    /// By the database's clock.
    pub expires_at: DateTime<Utc>,
    /// Whether it had expired when it was read, by the database's clock.
    pub expired: bool,
}

/// See [`crate::EventLog::acquire_lease`].
///
/// A takeover and an append never overlap: both hold the append lock. So what the last leader appended under its epoch is in
/// the log before the new one reads its head, and nothing of it comes later. The row is locked first and without waiting:
/// the leader may be in the middle of a long transaction, and nobody may wait for that while holding up all appends.
pub(crate) async fn acquire(
    pool: &PgPool,
    reader: &str,
    owner: &str,
    ttl_ms: i64,
) -> Result<Option<Lease>, StoreError> {
    let held_by_other = sqlx::query_scalar!(
        r#"SELECT coalesce(owner <> $2 AND expires_at > clock_timestamp(), false) AS "held!"
             FROM checkpoints WHERE reader = $1"#,
        reader,
        owner,
    )
    .fetch_optional(pool)
    .await?;
    match held_by_other {
        Some(true) => return Ok(None),
        Some(false) => {}
        None => {
            sqlx::query!(
                "INSERT INTO checkpoints (reader) VALUES ($1) ON CONFLICT ON CONSTRAINT checkpoints_pkey DO NOTHING",
                reader,
            )
            .execute(pool)
            .await?;
        }
    }
    let mut transaction = pool.begin().await?;
    let locked = sqlx::query!(
        "SELECT reader FROM checkpoints WHERE reader = $1 FOR UPDATE SKIP LOCKED",
        reader,
    )
    .fetch_optional(&mut *transaction)
    .await?;
    if locked.is_none() {
        return Ok(None);
    }
    sqlx::query!("SELECT pg_advisory_xact_lock(append_lock_key()) AS locked")
        .fetch_one(&mut *transaction)
        .await?;
    let taken = sqlx::query_file!("sql/acquire_lease.sql", reader, owner, ttl_ms)
        .fetch_optional(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(taken.map(|row| Lease {
        reader: reader.to_owned(),
        owner: owner.to_owned(),
        epoch: row.epoch,
        position: Position(row.position),
    }))
}

/// See [`crate::EventLog::renew_lease`].
pub(crate) async fn renew(pool: &PgPool, lease: &Lease, ttl_ms: i64) -> Result<(), StoreError> {
    let renewed = sqlx::query!(
        "UPDATE checkpoints SET expires_at = clock_timestamp() + $4::bigint * interval '1 millisecond'
          WHERE reader = $1 AND owner = $2 AND epoch = $3",
        lease.reader,
        lease.owner,
        lease.epoch,
        ttl_ms,
    )
    .execute(pool)
    .await?;
    if renewed.rows_affected() == 1 { Ok(()) } else { Err(fenced(&lease.reader)) }
}

/// See [`crate::EventLog::release_lease`]. The epoch stays: it only ever rises.
pub(crate) async fn release(pool: &PgPool, lease: &Lease) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE checkpoints SET owner = NULL, expires_at = NULL WHERE reader = $1 AND owner = $2 AND epoch = $3",
        lease.reader,
        lease.owner,
        lease.epoch,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// See [`crate::EventLog::renew_worker_lease`].
pub(crate) async fn renew_worker(
    pool: &PgPool,
    worker: &str,
    slots: i32,
    ttl_ms: i64,
) -> Result<WorkerLease, StoreError> {
    let row = sqlx::query_file!("sql/renew_worker_lease.sql", worker, slots, ttl_ms)
        .fetch_one(pool)
        .await?;
    Ok(WorkerLease {
        worker: row.worker,
        epoch: row.epoch,
        slots: row.slots,
        expires_at: row.expires_at,
        expired: false,
    })
}

/// See [`crate::EventLog::release_worker_lease`]. The row stays, expired, so that the epoch goes on rising.
pub(crate) async fn release_worker(pool: &PgPool, worker: &str) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE worker_leases SET expires_at = clock_timestamp() WHERE worker = $1 AND expires_at > clock_timestamp()",
        worker,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// See [`crate::EventLog::worker_leases`].
pub(crate) async fn workers(pool: &PgPool) -> Result<Vec<WorkerLease>, StoreError> {
    let leases = sqlx::query_as!(
        WorkerLease,
        r#"SELECT worker, epoch, slots, expires_at, expires_at <= clock_timestamp() AS "expired!"
             FROM worker_leases ORDER BY worker"#
    )
    .fetch_all(pool)
    .await?;
    Ok(leases)
}
