//! From the commit of an event to its frame on a socket: 200 commands a second, 100 sockets.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};

use super::http::definition;
use crate::{latency::Latency, report::Report, server::Server, servers::Servers};

const SOCKETS: usize = 100;
const COMMANDS_PER_SECOND: u64 = 200;

pub(crate) async fn run(
    servers: &Servers,
    report: &mut Report,
    seconds: f64,
) -> anyhow::Result<()> {
    let server = Server::start(servers, "live").await?;
    let (ready, mut subscribed) = mpsc::channel(SOCKETS);
    let end = Instant::now() + Duration::from_secs_f64(seconds + 4.0);
    let mut sockets = JoinSet::new();
    for _ in 0..SOCKETS {
        sockets.spawn(listen(server.address.clone(), server.token.clone(), ready.clone(), end));
    }
    for _ in 0..SOCKETS {
        subscribed.recv().await;
    }
    let mut client = server.client().await?;
    let mut ticks = tokio::time::interval(Duration::from_micros(1_000_000 / COMMANDS_PER_SECOND));
    let mut sent = 0_u64;
    let stop = Instant::now() + Duration::from_secs_f64(seconds);
    while Instant::now() < stop {
        ticks.tick().await;
        let (status, answer) = client
            .send("POST", "/api/v1/workflows", &definition(&format!("Live {sent}")).to_string())
            .await?;
        anyhow::ensure!(status == 201, "{status}: {answer}");
        sent += 1;
    }
    let mut latency = Latency::default();
    while let Some(heard) = sockets.join_next().await {
        let heard = heard??;
        let count = heard.len();
        anyhow::ensure!(count as u64 == sent, "a socket heard {count} of {sent} events");
        latency.add(heard);
    }
    report.row(
        json!({"sockets": SOCKETS, "commands_per_s": COMMANDS_PER_SECOND}),
        latency.len() as f64 / seconds,
        "frames/s",
        Some(&latency),
        None,
    );
    Ok(())
}

/// How long it took from commit to frame, of every event that one socket hears.
async fn listen(
    address: String,
    token: String,
    ready: mpsc::Sender<()>,
    end: Instant,
) -> anyhow::Result<Latency> {
    let mut request = format!("ws://{address}/api/v1/ws").into_client_request()?;
    request
        .headers_mut()
        .insert("Sec-WebSocket-Protocol", format!("ledgerline.v1, bearer.{token}").parse()?);
    let (mut socket, _) = connect_async(request).await?;
    socket
        .send(Message::text(json!({"action": "subscribe", "channel": "workflows"}).to_string()))
        .await?;
    let mut latency = Latency::default();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let Ok(message) = tokio::time::timeout(left, socket.next()).await else {
            return Ok(latency);
        };
        let Message::Text(text) = message.ok_or_else(|| anyhow::anyhow!("the socket closed"))??
        else {
            continue;
        };
        let now = Utc::now();
        let frame: Value = serde_json::from_str(&text)?;
        match frame["type"].as_str() {
            Some("subscribed") => ready.send(()).await?,
            Some("event") => {
                let committed: DateTime<Utc> =
                    frame["event"]["time"].as_str().unwrap_or_default().parse()?;
                latency.record((now - committed).to_std().unwrap_or_default());
            }
            _ => {}
        }
    }
}
