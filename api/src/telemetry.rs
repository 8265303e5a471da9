//! What a process says about itself: log lines and metrics.

use std::{io::IsTerminal as _, time::Duration};

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::{LogFormat, TelemetryConfig};

/// How often the recorder folds what was measured; without it histograms grow without end when nobody scrapes.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Upper bounds in seconds, from a point read to a long poll.
const LATENCY_BUCKETS_S: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Why telemetry could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not in the syntax of `tracing`.
    #[error("failed to understand telemetry.log_filter")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Another subscriber was installed before.
    #[error("failed to install the log subscriber")]
    Subscriber(#[from] tracing_subscriber::util::TryInitError),
    /// Another recorder was installed before.
    #[error("failed to install the metrics recorder")]
    Recorder(#[from] BuildError),
}

/// Sends log lines to standard error, so that standard output stays free for what a command prints.
///
/// # Errors
/// When the filter cannot be read, or when it was called before.
pub fn install_logs(config: &TelemetryConfig) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(&config.log_filter)?;
    let registry = tracing_subscriber::registry().with(filter);
    // Colours are for a person at a terminal; in a file they are noise around what is searched for.
    let lines =
        fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    match config.log_format {
        LogFormat::Pretty => registry.with(lines).try_init()?,
        LogFormat::Json => {
            registry.with(lines.json().flatten_event(true).with_current_span(true)).try_init()?;
        }
    }
    Ok(())
}

/// Starts to keep what is measured, and returns what `/metrics` renders. The folding runs on the process's tasks until they stop.
///
/// # Errors
/// When a recorder is installed already.
pub fn install_metrics(
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<PrometheusHandle, TelemetryError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), LATENCY_BUCKETS_S)?
        .install_recorder()?;
    let (recorder, stop) = (handle.clone(), stop.clone());
    tasks.spawn(async move {
        let mut tick = tokio::time::interval(UPKEEP_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            recorder.run_upkeep();
        }
    });
    Ok(handle)
}
