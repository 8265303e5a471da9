//! Commands that append one event each to many streams, with an expected version and one guarded read stream.

use std::sync::Arc;

use ledgerline_store::{
    EventLog, Intent, NewEvent, StreamId, StreamRead, StreamVersion, StreamWrite, Workspace,
    postgres::{LogConfig, PostgresLog},
};
use serde_json::json;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::{
    load::{Measured, closed_loop},
    raw,
    report::Report,
    servers::Servers,
};

/// How many events one stream gets before the caller takes another.
const EVENTS_A_STREAM: i64 = 10;

pub(crate) fn intent(
    workspace: Uuid,
    stream: Uuid,
    version: i64,
    guard: (Uuid, i64),
    payload: &str,
) -> Intent {
    Intent {
        writes: vec![StreamWrite {
            workspace: Workspace(workspace),
            stream: StreamId(stream),
            category: "execution",
            expected: StreamVersion(version),
            events: vec![NewEvent {
                event_id: Uuid::now_v7(),
                r#type: "node_completed",
                schema_version: 1,
                payload: payload.to_owned(),
                metadata: raw::METADATA.to_owned(),
            }],
        }],
        reads: vec![StreamRead { stream: StreamId(guard.0), version: StreamVersion(guard.1) }],
        ..Intent::default()
    }
}

pub(crate) async fn run(
    servers: &Servers,
    report: &mut Report,
    seconds: f64,
) -> anyhow::Result<()> {
    let pool = servers.database("append").await?;
    raw::create(&pool).await?;
    let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
    let log =
        PostgresLog::connect(pool.clone(), LogConfig::default(), &tracker, cancel.clone()).await?;
    let payload = Arc::new(raw::payload());
    let workspaces: Arc<Vec<Uuid>> = Arc::new((0..8).map(|_| Uuid::now_v7()).collect());
    let guard = Uuid::now_v7();
    log.append(Intent {
        reads: Vec::new(),
        ..intent(workspaces[0], guard, 0, (guard, 0), &payload)
    })
    .await?;

    let single = raw::insert(&pool, 1, 1, seconds).await?;
    report.row(
        json!({"raw": "single row", "connections": 1}),
        single.per_second,
        "events/s",
        Some(&single.latency),
        None,
    );
    for in_flight in [1usize, 16, 64, 256] {
        let bulk = raw::insert(&pool, 4, 100, seconds).await?.per_second;
        let measured =
            append_from(in_flight, &log, (guard, 1), &workspaces, &payload, seconds).await?;
        report.row(
            json!({"in_flight": in_flight}),
            measured.per_second,
            "events/s",
            Some(&measured.latency),
            Some(bulk),
        );
    }
    let dense = sqlx::query_as::<_, (i64, i64)>("SELECT count(*), max(position) FROM events")
        .fetch_one(&pool)
        .await?;
    anyhow::ensure!(dense.0 == dense.1, "positions have a gap: {dense:?}");
    cancel.cancel();
    tracker.close();
    tracker.wait().await;
    pool.close().await;
    Ok(())
}

/// Appends from so many callers at once, each to streams of its own.
async fn append_from(
    in_flight: usize,
    log: &Arc<PostgresLog>,
    guard: (Uuid, i64),
    workspaces: &Arc<Vec<Uuid>>,
    payload: &Arc<String>,
    seconds: f64,
) -> anyhow::Result<Measured> {
    let (log, payload, workspaces) = (Arc::clone(log), Arc::clone(payload), Arc::clone(workspaces));
    let streams = Arc::new(
        (0..in_flight).map(|_| std::sync::Mutex::new((Uuid::now_v7(), 0_i64))).collect::<Vec<_>>(),
    );
    closed_loop(in_flight, seconds, move |caller, _| {
        let (log, payload, workspaces, streams) =
            (Arc::clone(&log), Arc::clone(&payload), Arc::clone(&workspaces), Arc::clone(&streams));
        async move {
            let (stream, version) = {
                let mut slot = streams[caller].lock().expect("no caller panics with its slot");
                if slot.1 == EVENTS_A_STREAM {
                    *slot = (Uuid::now_v7(), 0);
                }
                *slot
            };
            log.append(intent(
                workspaces[caller % workspaces.len()],
                stream,
                version,
                guard,
                &payload,
            ))
            .await?;
            streams[caller].lock().expect("no caller panics with its slot").1 = version + 1;
            Ok(())
        }
    })
    .await
}
