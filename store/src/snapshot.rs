//! Folds kept for a faster start, by a fingerprint of their shape: a stale one is ignored and replaced.

use sqlx::PgPool;

use crate::{StoreError, StreamId, StreamVersion};

/// See [`crate::EventLog::save_snapshot`].
pub(crate) async fn save(
    pool: &PgPool,
    stream: StreamId,
    version: StreamVersion,
    fingerprint: &str,
    state: &str,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO snapshots AS s (stream_id, version, fingerprint, state) VALUES ($1, $2, $3, $4)
         ON CONFLICT ON CONSTRAINT snapshots_pkey DO UPDATE
            SET version = excluded.version, fingerprint = excluded.fingerprint, state = excluded.state
          WHERE s.version <= excluded.version",
        stream.0,
        version.0,
        fingerprint,
        state,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// See [`crate::EventLog::snapshot`].
pub(crate) async fn load(
    pool: &PgPool,
    stream: StreamId,
    fingerprint: &str,
) -> Result<Option<(StreamVersion, String)>, StoreError> {
    let found = sqlx::query!(
        "SELECT version, state FROM snapshots WHERE stream_id = $1 AND fingerprint = $2",
        stream.0,
        fingerprint,
    )
    .fetch_optional(pool)
    .await?;
    Ok(found.map(|row| (StreamVersion(row.version), row.state)))
}
