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
/// Ten events a run, the shape of a run of three steps.
pub(crate) async fn fill(pool: &sqlx::PgPool, runs: i64) -> anyhow::Result<()> {
    sqlx::query(
        r#"INSERT INTO events (position, stream_id, version, workspace_id, workspace_seq, category, type, schema_version, event_id, payload, metadata, recorded_at)
           SELECT n, md5('run' || run)::uuid, k, $2, n, 'execution',
                  (ARRAY['execution_requested', 'execution_dispatched', 'execution_started', 'node_started', 'node_completed', 'node_started',
                         'node_completed', 'node_started', 'node_completed', 'execution_completed'])[k], 1, md5('e' || n)::uuid,
                  (CASE k
                   WHEN 1 THEN json_build_object('workspace_id', $2, 'workflow_id', md5('w')::uuid, 'workflow_version', 1, 'trigger_type', 'manual',
                                                 'input', json_build_object('n', run), 'queue', 'default', 'planned_nodes', 3, 'depth', 0)
                   WHEN 2 THEN json_build_object('claim', 1, 'queue', 'default')
                   WHEN 3 THEN json_build_object('worker', 'w1', 'claim', 1)
                   WHEN 10 THEN json_build_object('output', json_build_object('inline', json_build_object('status', 200)))
                   ELSE CASE WHEN k % 2 = 0
                        THEN json_build_object('path', 's' || k / 2, 'attempt', 1, 'input', json_build_object('url', repeat('u', 100)))
                        ELSE json_build_object('path', 's' || (k - 1) / 2, 'attempt', 1, 'duration_ms', 12,
                                               'output', json_build_object('inline', json_build_object('status', 200, 'body', repeat('x', 150)))) END
                   END)::text::json,
                  $3::json, now()
           FROM generate_series(1, $1) AS run, generate_series(1, 10) AS k, LATERAL (SELECT (run - 1) * 10 + k AS n) AS place"#,
    )
    .bind(runs)
    .bind(uuid::Uuid::now_v7())
    .bind(raw::METADATA)
    .execute(pool)
    .await?;
    sqlx::query("UPDATE log_head SET position = (SELECT max(position) FROM events)")
        .execute(pool)
        .await?;
    sqlx::query("VACUUM ANALYZE events").execute(pool).await?;
    Ok(())
}

/// Events a second that Postgres gives in order, with nothing done to them.
pub(crate) async fn scan(pool: &sqlx::PgPool) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let mut rows = sqlx::query("SELECT position, stream_id, version, workspace_id, workspace_seq, category, type, schema_version, event_id, payload::text, metadata::text, recorded_at FROM events ORDER BY position").fetch(pool);
    let mut count = 0_i64;
    while rows.try_next().await?.is_some() {
        count += 1;
    }
    Ok(count as f64 / begun.elapsed().as_secs_f64())
}

pub(crate) async fn run(servers: &Servers, report: &mut Report) -> anyhow::Result<()> {
    let pool = servers.database("replay").await?;
    fill(&pool, EVENTS / 10).await?;
    let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
    let log =
        PostgresLog::connect(pool.clone(), LogConfig::default(), &tracker, cancel.clone()).await?;
    for round in 1..=ROUNDS {
        let scanned = scan(&pool).await?;
        let replay = Instant::now();
        let head = log.head().await?.position;
        let mut events = log.stream(Position::START, head, Filter::default());
        let mut decoded = 0_i64;
        while let Some(event) = events.try_next().await? {
            AnyEvent::decode(&event.category, &event.r#type, event.schema_version, &event.payload)?;
            decoded += 1;
        }
        anyhow::ensure!(decoded == EVENTS, "read {decoded} of {EVENTS} events");
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
