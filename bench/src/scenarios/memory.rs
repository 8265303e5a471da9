//! What the real program (all roles in one process) holds in memory while it does very many short runs: it must not grow with them.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::http::definition;
use crate::{report::Report, server::Server, servers::Servers};

/// The runs are started over so many connections.
const CONNECTIONS: usize = 32;
/// How often the memory is looked at.
const STEPS: usize = 10;

pub(crate) async fn run(servers: &Servers, report: &mut Report, runs: usize) -> anyhow::Result<()> {
    let server = Server::start(servers, "memory").await?;
    let mut client = server.client().await?;
    let body = definition("Memory").to_string();
    let (status, answer) = client.send("POST", "/api/v1/workflows", &body).await?;
    anyhow::ensure!(status == 201, "{status}: {answer}");
    let id = serde_json::from_str::<Value>(&answer)?["id"].as_str().context("an id")?.to_owned();
    let mut after = Vec::new();
    let each = (runs / STEPS / CONNECTIONS).max(1);
    for step in 1..=STEPS {
        let mut callers = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let mut client = server.client().await?;
            let path = format!("/api/v1/workflows/{id}/start");
            callers.spawn(async move {
                for _ in 0..each {
                    let (status, answer) = client.send("POST", &path, "{}").await?;
                    anyhow::ensure!(status == 202, "{status}: {answer}");
                }
                anyhow::Ok(())
            });
        }
        while let Some(started) = callers.join_next().await {
            started??;
        }
        let done = step * each * CONNECTIONS;
        completed(&server, done).await?;
        let resident = server.resident_mib()?;
        after.push(resident);
        report.row(json!({"runs": done}), resident, "MiB resident", None, None);
    }
    // Caches fill within the first half; whatever grows after it grows with the runs.
    let grew = after[STEPS - 1] - after[STEPS / 2 - 1];
    report.row(json!({"grew_in": "second half"}), grew, "MiB", None, None);
    Ok(())
}

/// Waits until so many runs have completed.
async fn completed(server: &Server, runs: usize) -> anyhow::Result<()> {
    let mut client = server.client().await?;
    loop {
        let path = "/api/v1/executions?status=completed&limit=1";
        let (status, answer) = client.send("GET", path, "").await?;
        anyhow::ensure!(status == 200, "{status}: {answer}");
        let total = serde_json::from_str::<Value>(&answer)?["total"].as_u64().context("a total")?;
        if usize::try_from(total)? >= runs {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
