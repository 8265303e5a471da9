//! Ten thousand runs of the real program that wait for a signal: what a waiting run costs in memory, how fast signals are taken, and how
//! soon a run goes on.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    latency::Latency,
    report::Report,
    runs::{CONNECTIONS, Watch, between, post_all, start, workflow},
    server::Server,
    servers::Servers,
};

/// Runs that wait.
const WAITING: usize = 10_000;
/// Runs that are signalled one after the other, so that what one takes is seen.
const SINGLE: usize = 200;
/// Runs that fill caches, plans and connections before memory is looked at.
const WARM_UP: usize = 1_000;

fn definition() -> Value {
    json!({
        "name": "Signals",
        "nodes": [
            {"id": "paid", "type": "logic.signal", "config": {"name": "paid"}},
            {"id": "amount", "type": "logic.transform", "config": {"expression": "nodes.paid.output.amount"}},
        ],
        "connections": [{"from": "paid", "to": "amount"}],
        "settings": {"concurrency": {"limit": 10_000}},
    })
}

fn signal(id: &uuid::Uuid) -> (Arc<str>, String) {
    let path = format!("/api/v1/executions/{id}/signals/paid");
    (path.into(), json!({"payload": {"amount": 7}}).to_string())
}

pub(crate) async fn run(servers: &Servers, report: &mut Report) -> anyhow::Result<()> {
    let server = Server::start(servers, "signals").await?;
    let mut watch = Watch::of(servers, "signals").await?;
    let workflow = workflow(&server, &definition()).await?;
    let warm = start(&server, &workflow, vec![json!({}); WARM_UP]).await?;
    watch.until("execution_waiting", WARM_UP).await?;
    post_all(&server, warm.iter().map(signal).collect()).await?;
    watch.until("execution_completed", WARM_UP).await?;

    let before = server.resident_mib()?;
    let runs = start(&server, &workflow, vec![json!({}); WAITING]).await?;
    watch.until("execution_waiting", WARM_UP + WAITING).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let grown = (server.resident_mib()? - before) * 1_024.0 / WAITING as f64;
    report.row(json!({"what": "memory", "waiting": WAITING}), grown, "KiB a run", None, None);

    let (single, rest) = runs.split_at(SINGLE);
    let (mut client, mut latency) = (server.client().await?, Latency::default());
    let (begun, after) = (Instant::now(), watch.position());
    for id in single {
        let ((path, body), asked) = (signal(id), Instant::now());
        let (status, answer) = client.send("POST", &path, &body).await?;
        anyhow::ensure!(status < 300, "{path} answered {status}: {answer}");
        latency.record(asked.elapsed());
    }
    let speed = SINGLE as f64 / begun.elapsed().as_secs_f64();
    report.row(
        json!({"what": "answered", "in_flight": 1}),
        speed,
        "signals/s",
        Some(&latency),
        None,
    );
    watch.until("execution_completed", WARM_UP + SINGLE).await?;
    ends(&watch, report, after, 1).await?;

    let (begun, after) = (Instant::now(), watch.position());
    post_all(&server, rest.iter().map(signal).collect()).await?;
    let speed = rest.len() as f64 / begun.elapsed().as_secs_f64();
    let params = json!({"what": "answered", "in_flight": CONNECTIONS});
    report.row(params, speed, "signals/s", None, None);
    watch.until("execution_completed", WARM_UP + WAITING).await?;
    ends(&watch, report, after, CONNECTIONS).await
}

/// From the commit of a signal to that of the end of its run.
async fn ends(
    watch: &Watch,
    report: &mut Report,
    after: i64,
    in_flight: usize,
) -> anyhow::Result<()> {
    let received = watch.times("signal_received", after).await?;
    let completed = watch.times("execution_completed", after).await?;
    let latency = between(&received, &completed);
    let last = latency.quantiles_ms([1.0]).map_or(0.0, |[last]| last);
    let params = json!({"what": "their ends", "in_flight": in_flight});
    report.row(params, last, "ms at most", Some(&latency), None);
    Ok(())
}
