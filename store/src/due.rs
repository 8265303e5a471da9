//! What must happen at a time: rows written by the append that causes them, read by the timers.

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use uuid::Uuid;

use crate::{DueKey, DueTime, StoreError, StreamId};

/// See [`crate::EventLog::due`].
pub(crate) async fn due(
    pool: &PgPool,
    now: DateTime<Utc>,
    limit: usize,
) -> Result<Vec<DueTime>, StoreError> {
    let rows = sqlx::query!(
        "SELECT stream_id, kind, key, due_at FROM due_times WHERE due_at <= $1
          ORDER BY due_at, stream_id, kind, key LIMIT $2",
        now,
        i64::try_from(limit).unwrap_or(i64::MAX),
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| DueTime {
            due_at: row.due_at,
            due: DueKey { stream: StreamId(row.stream_id), kind: row.kind, key: row.key },
        })
        .collect())
}

/// See [`crate::EventLog::next_due`].
pub(crate) async fn next_due(pool: &PgPool) -> Result<Option<DateTime<Utc>>, StoreError> {
    Ok(sqlx::query_scalar!("SELECT min(due_at) FROM due_times").fetch_one(pool).await?)
}

/// See [`crate::EventLog::move_due`].
pub(crate) async fn move_due(pool: &PgPool, due: &DueTime) -> Result<bool, StoreError> {
    let moved = sqlx::query!(
        "UPDATE due_times SET due_at = $4 WHERE stream_id = $1 AND kind = $2 AND key = $3",
        due.due.stream.0,
        due.due.kind,
        due.due.key,
        due.due_at,
    )
    .execute(pool)
    .await?;
    Ok(moved.rows_affected() > 0)
}

/// See [`crate::EventLog::without_due`].
pub(crate) async fn without_due(
    pool: &PgPool,
    streams: &[StreamId],
) -> Result<Vec<StreamId>, StoreError> {
    let ids: Vec<Uuid> = streams.iter().map(|stream| stream.0).collect();
    let rows = sqlx::query_scalar!(
        r#"SELECT s.id AS "id!" FROM unnest($1::uuid[]) AS s (id)
            WHERE NOT EXISTS (SELECT 1 FROM due_times d WHERE d.stream_id = s.id)"#,
        &ids
    );
    Ok(rows.fetch_all(pool).await?.into_iter().map(StreamId).collect())
}

/// See [`crate::EventLog::remove_due`].
pub(crate) async fn remove_due(pool: &PgPool, done: &[DueKey]) -> Result<(), StoreError> {
    let streams: Vec<Uuid> = done.iter().map(|due| due.stream.0).collect();
    let kinds: Vec<&str> = done.iter().map(|due| due.kind.as_str()).collect();
    let keys: Vec<&str> = done.iter().map(|due| due.key.as_str()).collect();
    sqlx::query!(
        "DELETE FROM due_times d USING unnest($1::uuid[], $2::text[], $3::text[]) AS x (stream_id, kind, key)
          WHERE d.stream_id = x.stream_id AND d.kind = x.kind AND d.key = x.key",
        &streams,
        &kinds as &[&str],
        &keys as &[&str],
    )
    .execute(pool)
    .await?;
    Ok(())
}
