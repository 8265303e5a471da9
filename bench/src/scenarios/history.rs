//! A run with a hundred thousand events: pages of its history from the real program, and how soon a process that never saw it goes on
//! with it through snapshots. The raw limit of a page is the same rows read from Postgres.

use std::{sync::Arc, time::Instant};

use anyhow::Context as _;
use ledgerline_commands::{Clock, Commands, Settings, Snapshots};
use ledgerline_domain::{
    event::{Actor, DomainEvent as _, Metadata},
    execution::{Attempt, Execution, ExecutionEvent, NodeCompleted, NodeOutput, NodePath},
    id::CorrelationId,
};
use ledgerline_store::{
    EventLog, Intent, LogConfig, NewEvent, PostgresLog, StreamId, StreamVersion, StreamWrite,
    Workspace,
};
use serde_json::{Value, json};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::http::definition;
use crate::{latency::Latency, report::Report, runs::workflow, server::Server, servers::Servers};

/// Events of the run.
const EVENTS: usize = 100_000;
/// Events of one append.
const APPENDED: usize = 1_000;
/// Events of a page: the most that a request may ask for.
const PAGE: usize = 200;
/// How often each thing is asked for.
const ROUNDS: usize = 20;

/// A run that was paused at once, so that nobody goes on with it, and then did many steps.
fn history(workspace: Uuid, workflow: &str) -> anyhow::Result<Vec<ExecutionEvent>> {
    let requested = json!({
        "workspace_id": workspace, "workflow_id": workflow, "workflow_version": 1,
        "trigger_type": "manual", "input": {}, "queue": "default", "planned_nodes": 1,
    });
    let paused = json!({"reason": "user"});
    let mut events = vec![
        ExecutionEvent::ExecutionRequested(serde_json::from_value(requested)?),
        ExecutionEvent::ExecutionPaused(serde_json::from_value(paused)?),
    ];
    for item in 0..(EVENTS - 2) / 2 {
        let path = NodePath(format!("step{item}"));
        let started = json!({"path": path, "attempt": 1, "input": {"url": "https://example.com/", "n": item}});
        let output = json!({"status": 200, "body": "x".repeat(64), "n": item});
        let completed = NodeCompleted {
            path,
            attempt: Attempt(1),
            output: NodeOutput::Inline(output.into()),
            port: None,
            duration_ms: 3,
            undoes: None,
        };
        events.push(ExecutionEvent::NodeStarted(serde_json::from_value(started)?));
        events.push(completed.into());
    }
    Ok(events)
}

async fn append(
    log: &dyn EventLog,
    workspace: Uuid,
    stream: StreamId,
    events: &[ExecutionEvent],
) -> anyhow::Result<()> {
    let metadata = Metadata {
        actor: Actor::system("bench"),
        correlation_id: CorrelationId(Uuid::now_v7()),
        causation_id: None,
        trace: None,
    };
    let metadata = serde_json::to_string(&metadata)?;
    let mut expected = 0;
    for part in events.chunks(APPENDED) {
        let new = part.iter().map(|event| NewEvent {
            event_id: Uuid::now_v7(),
            r#type: event.type_name(),
            schema_version: event.schema_version(),
            payload: event.payload(),
            metadata: metadata.clone(),
        });
        let write = StreamWrite {
            workspace: Workspace(workspace),
            stream,
            category: ExecutionEvent::CATEGORY,
            expected: StreamVersion(expected),
            events: new.collect(),
        };
        log.append(Intent { writes: vec![write], ..Intent::default() }).await?;
        expected += i64::try_from(part.len())?;
    }
    Ok(())
}

/// A process that never saw the run.
fn stranger(log: &Arc<dyn EventLog>) -> Commands {
    let settings =
        Settings { snapshots: Snapshots::default().with::<Execution>(), ..Settings::default() };
    Commands::new(Arc::clone(log), Clock::system(), settings)
}

pub(crate) async fn run(servers: &Servers, report: &mut Report) -> anyhow::Result<()> {
    let server = Server::start(servers, "history").await?;
    let mut client = server.client().await?;
    let (_, workspaces) = client.send("GET", "/api/v1/workspaces", "").await?;
    let workspaces: Value = serde_json::from_str(&workspaces)?;
    let workspace = workspaces["items"][0]["id"].as_str().context("a workspace")?.parse()?;
    let workflow = workflow(&server, &definition("History")).await?;

    let pool = sqlx::PgPool::connect_with(servers.options("history")?).await?;
    let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
    let log = PostgresLog::connect(pool.clone(), LogConfig::default(), &tracker, cancel.clone());
    let log: Arc<dyn EventLog> = log.await?;
    let stream = StreamId(Uuid::now_v7());
    append(log.as_ref(), workspace, stream, &history(workspace, &workflow)?).await?;

    let raw = raw_page(&pool, stream).await?;
    let path = format!("/api/v1/executions/{}/events?limit={PAGE}", stream.0);
    let (mut pages, mut cursor, mut read) = (Latency::default(), None::<String>, 0);
    let begun = Instant::now();
    while read < EVENTS {
        let path = cursor.as_ref().map_or_else(|| path.clone(), |at| format!("{path}&cursor={at}"));
        let asked = Instant::now();
        let (status, answer) = client.send("GET", &path, "").await?;
        pages.record(asked.elapsed());
        anyhow::ensure!(status == 200, "{path} answered {status}: {answer}");
        let page: Value = serde_json::from_str(&answer)?;
        read += page["items"].as_array().map_or(0, Vec::len);
        match page["next_cursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => break,
        }
    }
    anyhow::ensure!(read == EVENTS, "read {read} of {EVENTS} events");
    let speed = pages.len() as f64 / begun.elapsed().as_secs_f64();
    let params = json!({"what": "all pages", "events": EVENTS, "page": PAGE});
    report.row(params, speed, "pages/s", Some(&pages), Some(raw));

    let mut whole = Latency::default();
    let asked = Instant::now();
    let folded = stranger(&log).load::<Execution>(stream.0).await?;
    whole.record(asked.elapsed());
    anyhow::ensure!(folded.version.0 == i64::try_from(EVENTS)?, "it folds");
    let took = whole.quantiles_ms([0.5]).map_or(0.0, |[took]| took);
    report.row(json!({"what": "folded whole, once"}), took, "ms", Some(&whole), None);
    let mut resumed = Latency::default();
    for _ in 0..ROUNDS {
        let asked = Instant::now();
        let loaded = stranger(&log).load::<Execution>(stream.0).await?;
        resumed.record(asked.elapsed());
        anyhow::ensure!(loaded.state == folded.state, "a snapshot is the state");
    }
    let took = resumed.quantiles_ms([0.5]).map_or(0.0, |[took]| took);
    report.row(json!({"what": "resumed by a snapshot"}), took, "ms", Some(&resumed), None);
    cancel.cancel();
    tracker.close();
    tracker.wait().await;
    pool.close().await;
    Ok(())
}

/// Pages a second of the same rows, with nothing done to them.
async fn raw_page(pool: &sqlx::PgPool, stream: StreamId) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let last = i64::try_from(EVENTS - PAGE)?;
    for round in 0..ROUNDS {
        let after = last * i64::try_from(round)? / i64::try_from(ROUNDS)?;
        let rows = sqlx::query(
            "SELECT position, version, workspace_seq, recorded_at, stream_id, workspace_id, event_id, schema_version, category, type,
                    payload::text, metadata::text
               FROM events WHERE stream_id = $1 AND version > $2 ORDER BY version LIMIT $3",
        )
        .bind(stream.0)
        .bind(after)
        .bind(i64::try_from(PAGE)?)
        .fetch_all(pool)
        .await?;
        anyhow::ensure!(rows.len() == PAGE, "a page is full");
    }
    Ok(ROUNDS as f64 / begun.elapsed().as_secs_f64())
}
