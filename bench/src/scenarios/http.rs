//! The API of the real program: listing among 10,000 workflows, and starting one. The raw limit is the same program's `/health`.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::{
    load::{Measured, closed_loop},
    report::Report,
    server::{Client, Server},
    servers::Servers,
};

const WORKFLOWS: usize = 10_000;
const CONNECTIONS: usize = 32;

pub(crate) fn definition(name: &str) -> Value {
    json!({"name": name, "nodes": [{"id": "a", "type": "logic.transform", "config": {"expression": "1"}}], "connections": [],
           "settings": {"concurrency": {"limit": 10_000}}, "tags": ["bench"]})
}

async fn hammer(
    server: &Server,
    connections: usize,
    seconds: f64,
    method: &'static str,
    path: &str,
    body: &str,
) -> anyhow::Result<Measured> {
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(Mutex::new(server.client().await?));
    }
    let (clients, path, body): (Arc<Vec<Mutex<Client>>>, Arc<str>, Arc<str>) =
        (Arc::new(clients), path.into(), body.into());
    closed_loop(connections, seconds, move |caller, _| {
        let (clients, path, body) = (Arc::clone(&clients), Arc::clone(&path), Arc::clone(&body));
        async move {
            let (status, answer) = clients[caller].lock().await.send(method, &path, &body).await?;
            anyhow::ensure!(status < 300, "{method} {path} answered {status}: {answer}");
            Ok(())
        }
    })
    .await
}

pub(crate) async fn run(
    servers: &Servers,
    report: &mut Report,
    seconds: f64,
) -> anyhow::Result<()> {
    let server = Server::start(servers, "http").await?;
    let server = &server;
    let makers = (0..CONNECTIONS).map(|maker| async move {
        let mut client = server.client().await?;
        let mut made = String::new();
        for n in 0..WORKFLOWS / CONNECTIONS {
            let (status, answer) = client
                .send(
                    "POST",
                    "/api/v1/workflows",
                    &definition(&format!("Workflow {maker}-{n}")).to_string(),
                )
                .await?;
            anyhow::ensure!(status == 201, "{status}: {answer}");
            made = answer;
        }
        anyhow::Ok(made)
    });
    let made = futures_util::future::try_join_all(makers).await?;
    let id = serde_json::from_str::<Value>(&made[0])?["id"].as_str().unwrap_or_default().to_owned();
    for connections in [1, CONNECTIONS] {
        let raw = hammer(server, connections, seconds, "GET", "/health", "").await?.per_second;
        let list =
            hammer(server, connections, seconds, "GET", "/api/v1/workflows?limit=50", "").await?;
        report.row(
            json!({"request": "list", "workflows": WORKFLOWS, "connections": connections}),
            list.per_second,
            "requests/s",
            Some(&list.latency),
            Some(raw),
        );
        let short =
            hammer(server, connections, seconds, "GET", "/api/v1/workflows?limit=10", "").await?;
        report.row(
            json!({"request": "list 10", "workflows": WORKFLOWS, "connections": connections}),
            short.per_second,
            "requests/s",
            Some(&short.latency),
            Some(raw),
        );
        let start = hammer(
            server,
            connections,
            seconds,
            "POST",
            &format!("/api/v1/workflows/{id}/start"),
            "{}",
        )
        .await?;
        report.row(
            json!({"request": "start", "connections": connections}),
            start.per_second,
            "requests/s",
            Some(&start.latency),
            Some(raw),
        );
    }
    Ok(())
}
