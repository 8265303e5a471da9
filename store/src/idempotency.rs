//! Keys under which commands are known, and the receipts that repeats get. Written by `append_batch`, read here.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use crate::{AppendError, IdempotencyKey, Position, Receipt, StoreError};

/// How many keys one statement of a pruning removes.
const PRUNE_BATCH: i64 = 1_000;

/// See [`crate::EventLog::find_receipt`].
pub(crate) async fn find_receipt(
    pool: &PgPool,
    key: &IdempotencyKey,
) -> Result<Option<Receipt>, AppendError> {
    let found = sqlx::query!(
        "SELECT body_hash, first_position, position, versions, answer, recorded_at
           FROM idempotency WHERE scope = $1 AND key = $2",
        key.scope,
        key.key,
    )
    .fetch_optional(pool)
    .await
    .map_err(|error| AppendError::Unavailable(error.into()))?;
    let Some(row) = found else { return Ok(None) };
    if row.body_hash != key.body_hash {
        return Err(AppendError::KeyReused);
    }
    let versions = serde_json::from_str(&row.versions)
        .map_err(|error| AppendError::Unavailable(error.into()))?;
    Ok(Some(Receipt {
        first_position: Position(row.first_position),
        position: Position(row.position),
        versions,
        recorded_at: row.recorded_at,
        answer: row.answer,
        repeated: true,
    }))
}

/// See [`crate::EventLog::prune_keys`].
pub(crate) async fn prune(pool: &PgPool, before: DateTime<Utc>) -> Result<u64, StoreError> {
    let mut pruned = 0;
    loop {
        let removed = sqlx::query!(
            "DELETE FROM idempotency WHERE (scope, key) IN
                (SELECT scope, key FROM idempotency WHERE recorded_at < $1 ORDER BY recorded_at LIMIT $2)",
            before,
            PRUNE_BATCH,
        )
        .execute(pool)
        .await?
        .rows_affected();
        pruned += removed;
        if removed < PRUNE_BATCH.unsigned_abs() {
            break;
        }
    }
    sqlx::query!("DELETE FROM worker_leases WHERE expires_at < $1", before).execute(pool).await?;
    Ok(pruned)
}
