//! Reading and decoding the whole log, as every rebuild, export and audit does.

use std::time::Instant;

use futures_util::TryStreamExt as _;
use ledgerline_domain::event::AnyEvent;
use ledgerline_store::{
    EventLog, Filter, Position,
    postgres::{LogConfig, PostgresLog},
};
use serde_json::json;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{raw, report::Report, servers::Servers};

/// Events in the log that is replayed.
const EVENTS: i64 = 500_000;
const ROUNDS: usize = 3;

/// Fills the log of a bench database in bulk, past its appender: how it got there is not what is measured.
pub async fn fill(pool: &sqlx::PgPool, events: i64) -> anyhow::Result<()> {
    sqlx::query(
        r#"INSERT INTO events (position, stream_id, version, workspace_id, workspace_seq, category, type, schema_version, event_id, payload, metadata, recorded_at)
           SELECT n, md5((n / 10)::text)::uuid, n % 10 + 1, md5('w')::uuid, n, 'execution', 'node_completed', 1, md5('e' || n)::uuid,
                  json_build_object('path', 'fetch', 'attempt', 1, 'output', json_build_object('inline', json_build_object('status', 200, 'body', repeat('x', 150))), 'duration_ms', 12)::text::json,
                  $2::json, now() FROM generate_series(1, $1) AS n"#,
    )
    .bind(events)
    .bind(raw::METADATA)
    .execute(pool)
    .await?;
    sqlx::raw_sql(
        "UPDATE log_head SET position = (SELECT max(position) FROM events); VACUUM ANALYZE events",
    )
    .execute(pool)
    .await?;
    Ok(())
}

pub async fn run(servers: &Servers, report: &mut Report) -> anyhow::Result<()> {
    let pool = servers.database("replay").await?;
    fill(&pool, EVENTS).await?;
    let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
    let log =
        PostgresLog::connect(pool.clone(), LogConfig::default(), &tracker, cancel.clone()).await?;
    for round in 1..=ROUNDS {
        let scan = Instant::now();
        let mut rows = sqlx::query("SELECT position, stream_id, version, workspace_id, workspace_seq, category, type, schema_version, event_id, payload::text, metadata::text, recorded_at FROM events ORDER BY position").fetch(&pool);
        let mut count = 0_i64;
        while rows.try_next().await?.is_some() {
            count += 1;
        }
        drop(rows);
        let scanned = count as f64 / scan.elapsed().as_secs_f64();

        let replay = Instant::now();
        let head = log.head().await?.position;
        let mut events = log.stream(Position::START, head, Filter::default());
        let mut decoded = 0_i64;
        while let Some(event) = events.try_next().await? {
            AnyEvent::decode(&event.category, &event.r#type, event.schema_version, &event.payload)?;
            decoded += 1;
        }
        anyhow::ensure!(
            decoded == EVENTS && count == EVENTS,
            "read {decoded} and {count} of {EVENTS} events"
        );
        report.row(
            json!({"events": EVENTS, "round": round}),
            decoded as f64 / replay.elapsed().as_secs_f64(),
            "events/s",
            None,
            Some(scanned),
        );
    }
    cancel.cancel();
    tracker.close();
    tracker.wait().await;
    pool.close().await;
    Ok(())
}
