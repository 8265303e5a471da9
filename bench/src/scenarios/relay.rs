//! The relay catching up with the log, beside publishing messages of the same size with nothing read.

use std::{sync::Arc, time::Instant};

use async_nats::jetstream;
use futures_util::{StreamExt as _, stream};
use ledgerline_nats::{CarrierConfig, Nats, NatsConfig, Prefix, relay};
use ledgerline_store::{EventLog, LogConfig, Position, PostgresLog};
use secrecy::ExposeSecret as _;
use serde_json::json;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::replay::fill;
use crate::{report::Report, servers::Servers};

const RUNS: i64 = 20_000;
const WINDOW: usize = 1_024;
/// About what an event is on the wire.
const MESSAGE_BYTES: usize = 700;

pub(crate) async fn run(servers: &Servers, report: &mut Report) -> anyhow::Result<()> {
    let Some(address) = &servers.embedded.nats else {
        anyhow::bail!("nats-server is not on this machine");
    };
    let pool = servers.database("relay").await?;
    fill(&pool, RUNS).await?;
    let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
    let log: Arc<dyn EventLog> =
        PostgresLog::connect(pool.clone(), LogConfig::default(), &tracker, cancel.clone()).await?;
    let client = async_nats::ConnectOptions::with_token(address.token.expose_secret().to_owned())
        .connect(&address.url)
        .await?;
    let raw = publish(jetstream::new(client)).await?;

    let prefix = Prefix::new(&format!("bench{}", Uuid::now_v7().simple()))?;
    let config =
        NatsConfig { token: Some(address.token.clone()), prefix, ..NatsConfig::new(&address.url) };
    let nats = Nats::connect(config, &tracker, cancel.clone()).await?;
    nats.ready().await;
    let head = log.head().await?.position;
    let begun = Instant::now();
    let carrier = relay::start(
        Arc::clone(&log),
        nats,
        CarrierConfig { window: WINDOW, ..CarrierConfig::new("bench") },
        &tracker,
        cancel.clone(),
    );
    let mut status = carrier.status();
    while status.borrow_and_update().position < head {
        status.changed().await?;
    }
    let per_second = head.0 as f64 / begun.elapsed().as_secs_f64();
    anyhow::ensure!(head == Position(RUNS * 10), "the log has {head} events");
    report.row(
        json!({"events": head.0, "window": WINDOW}),
        per_second,
        "events/s",
        None,
        Some(raw),
    );
    cancel.cancel();
    tracker.close();
    tracker.wait().await;
    pool.close().await;
    Ok(())
}

/// Messages a second that JetStream takes with the same window.
async fn publish(context: jetstream::Context) -> anyhow::Result<f64> {
    let name = format!("raw{}", Uuid::now_v7().simple());
    let config = jetstream::stream::Config {
        name: name.clone(),
        subjects: vec![format!("{name}.>")],
        ..Default::default()
    };
    context.create_stream(config).await?;
    let (context, name) = (&context, &name);
    let begun = Instant::now();
    let count = RUNS * 10;
    let published = stream::iter(0..count)
        .map(|n| async move {
            let mut headers = async_nats::HeaderMap::new();
            headers.insert("Nats-Msg-Id", n.to_string());
            let acked = context
                .publish_with_headers(
                    format!("{name}.x"),
                    headers,
                    vec![b'x'; MESSAGE_BYTES].into(),
                )
                .await?;
            acked.await?;
            anyhow::Ok(())
        })
        .buffered(WINDOW);
    let results: Vec<_> = published.collect().await;
    let per_second = count as f64 / begun.elapsed().as_secs_f64();
    results.into_iter().collect::<Result<Vec<_>, _>>()?;
    context.delete_stream(name).await?;
    Ok(per_second)
}
