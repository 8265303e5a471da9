//! Rebuilding read models from the whole log beside the live ones.

use std::{sync::Arc, time::Instant};

use ledgerline_projections::{
    Model, prepare, rebuild,
    rebuild::{Phase, Progress},
    search_path,
};
use ledgerline_store::{EventLog, LogConfig, PostgresLog};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::replay::{fill, scan};
use crate::{report::Report, servers::Servers};

/// Runs of ten events each in the log.
const RUNS: i64 = 40_000;

pub(crate) async fn run(servers: &Servers, report: &mut Report) -> anyhow::Result<()> {
    let pool = servers.pool("rebuild", &search_path()).await?;
    ledgerline_store::migrate(&pool).await?;
    prepare(&pool).await?;
    fill(&pool, RUNS).await?;
    let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
    let log: Arc<dyn EventLog> =
        PostgresLog::connect(pool.clone(), LogConfig::default(), &tracker, cancel.clone()).await?;
    for models in [
        &[Model::Executions][..],
        &[Model::ExecutionNodes],
        &[Model::Executions, Model::ExecutionNodes],
    ] {
        let scanned = scan(&pool).await?;
        let begun = Instant::now();
        let rebuilds = models.iter().map(|model| {
            let (pool, log, cancel) = (&pool, &log, &cancel);
            async move {
                let (progress, _) =
                    watch::channel(Progress { phase: Phase::Filling, position: 0, head: 0 });
                rebuild(pool, log, *model, "bench", &progress, cancel).await
            }
        });
        for rebuilt in futures_util::future::join_all(rebuilds).await {
            rebuilt?;
        }
        let names: Vec<&str> = models.iter().map(|model| model.as_str()).collect();
        report.row(
            json!({"models": names.join("+"), "events": RUNS * 10}),
            (RUNS * 10) as f64 / begun.elapsed().as_secs_f64(),
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
