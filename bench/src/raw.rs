//! What Postgres does without us: rows of the same shape, with the same indexes, inserted with nothing checked.

use sqlx::PgPool;
use uuid::Uuid;

use crate::load::{Measured, closed_loop};

/// The payload of every measured event: 250 bytes of JSON.
pub(crate) fn payload() -> String {
    format!("{{\"path\":\"fetch\",\"attempt\":1,\"filler\":\"{}\"}}", "x".repeat(250 - 43))
}

/// The metadata of every measured event.
pub(crate) const METADATA: &str = r#"{"actor":{"kind":"system","name":"bench"},"correlation_id":"00000000-0000-0000-0000-000000000001"}"#;

/// A table like `events`, with a sequence for positions.
pub(crate) async fn create(pool: &PgPool) -> anyhow::Result<()> {
    sqlx::raw_sql(
        "DROP TABLE IF EXISTS raw_events;
         CREATE TABLE raw_events (
           position bigserial PRIMARY KEY, stream_id uuid NOT NULL, version bigint NOT NULL, workspace_id uuid NOT NULL,
           workspace_seq bigint NOT NULL, category text NOT NULL, type text NOT NULL, schema_version smallint NOT NULL,
           event_id uuid NOT NULL, payload json NOT NULL, metadata json NOT NULL, recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
           UNIQUE (stream_id, version), UNIQUE (event_id), UNIQUE (workspace_id, workspace_seq))",
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Inserts `rows` a transaction over `connections`; the result is in rows a second.
pub(crate) async fn insert(
    pool: &PgPool,
    connections: usize,
    rows: usize,
    seconds: f64,
) -> anyhow::Result<Measured> {
    let (pool, payload) = (pool.clone(), payload());
    let mut measured = closed_loop(connections, seconds, move |_, _| {
        let (pool, payload) = (pool.clone(), payload.clone());
        async move {
            let ids: Vec<Uuid> = (0..rows).map(|_| Uuid::now_v7()).collect();
            let streams: Vec<Uuid> = (0..rows).map(|_| Uuid::now_v7()).collect();
            let workspace = Uuid::now_v7();
            sqlx::query(
                "INSERT INTO raw_events (stream_id, version, workspace_id, workspace_seq, category, type, schema_version, event_id, payload, metadata)
                 SELECT s, 1, $3, n, 'execution', 'node_completed', 1, e, $4::json, $5::json
                 FROM unnest($1::uuid[], $2::uuid[]) WITH ORDINALITY AS r (s, e, n)",
            )
            .bind(&streams)
            .bind(&ids)
            .bind(workspace)
            .bind(&payload)
            .bind(METADATA)
            .execute(&pool)
            .await?;
            Ok(())
        }
    })
    .await?;
    measured.per_second *= rows as f64;
    Ok(measured)
}
