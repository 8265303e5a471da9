//! A hundred runs of the real program, each with a subprocess that would go on for minutes, cancelled at the same time: how soon each has
//! stopped, and that no subprocess is left.

use std::{
    collections::HashMap,
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    latency::Latency,
    report::Report,
    runs::{Watch, between, post_all, start, workflow},
    server::Server,
    servers::Servers,
};

/// Subprocesses that run at the same time.
const SUBPROCESSES: usize = 100;
/// How often all of them are cancelled.
const ROUNDS: usize = 5;
/// How long each would go on. The odd fraction tells ours from any other on the machine.
const SECONDS: &str = "600.718281";
/// How long subprocesses may take to begin, and to be gone.
const PATIENCE: Duration = Duration::from_secs(60);

const CONFIG: &str = "[worker]\nslots = 128\nallowed_commands = [{ program = \"sleep\" }]\n";

fn definition() -> Value {
    json!({
        "name": "Cancel",
        "nodes": [{"id": "sleep", "type": "action.command", "config": {"program": "sleep", "args": [SECONDS]}}],
        "connections": [],
        "settings": {"concurrency": {"limit": 10_000}},
    })
}

/// Our subprocesses that the machine has now.
fn subprocesses() -> anyhow::Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir("/proc")? {
        // One that ends while it is looked at is not there any more.
        let command = fs::read(entry?.path().join("cmdline")).unwrap_or_default();
        count += usize::from(command.split(|byte| *byte == 0).any(|arg| arg == SECONDS.as_bytes()));
    }
    Ok(count)
}

async fn until_there_are(wanted: usize) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    loop {
        let count = subprocesses()?;
        if count == wanted {
            return Ok(begun.elapsed());
        }
        anyhow::ensure!(begun.elapsed() < PATIENCE, "{count} subprocesses, not {wanted}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn run(servers: &Servers, report: &mut Report) -> anyhow::Result<()> {
    let server = Server::start_with(servers, "cancel", CONFIG).await?;
    let mut watch = Watch::of(servers, "cancel").await?;
    let workflow = workflow(&server, &definition()).await?;
    let (mut latency, mut gone) = (Latency::default(), Duration::ZERO);
    for round in 1..=ROUNDS {
        let runs = start(&server, &workflow, vec![json!({}); SUBPROCESSES]).await?;
        watch.until("node_started", round * SUBPROCESSES).await?;
        until_there_are(SUBPROCESSES).await?;
        let after = watch.position();
        let cancel = |id: &uuid::Uuid| {
            let path: Arc<str> = format!("/api/v1/executions/{id}/cancel").into();
            (path, "{}".to_owned())
        };
        let asked = post_all(&server, runs.iter().map(cancel).collect()).await?;
        let asked: HashMap<_, _> =
            runs.iter().copied().zip(asked.into_iter().map(|(at, _)| at)).collect();
        watch.until("execution_cancelled", round * SUBPROCESSES).await?;
        gone = gone.max(until_there_are(0).await?);
        let cancelled = watch.times("execution_cancelled", after).await?;
        anyhow::ensure!(cancelled.len() == SUBPROCESSES, "{} were cancelled", cancelled.len());
        latency.add(between(&asked, &cancelled));
    }
    let last = latency.quantiles_ms([1.0]).map_or(0.0, |[last]| last);
    let params = json!({"subprocesses": SUBPROCESSES, "cancels": ROUNDS * SUBPROCESSES});
    report.row(params, last, "ms at most", Some(&latency), None);
    let params = json!({"what": "left after the last end"});
    report.row(params, gone.as_secs_f64() * 1_000.0, "ms at most", None, None);
    Ok(())
}
