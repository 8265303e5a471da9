//! Keeps one server running: started, watched, started again when it dies, stopped when told.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::ServiceState;
use super::error::EmbeddedError;
use super::nats::Nats;
use super::postgres::Postgres;
use super::process::Process;

/// The first pause after a death; doubled for each attempt that fails, because what killed it may need time to go.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause between attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A server that ran this long has recovered: the next death begins with the first pause again.
const RECOVERED_AFTER: Duration = Duration::from_secs(60);

/// A server under supervision.
pub(super) enum Service {
    /// The database.
    Postgres(Postgres),
    /// The message server.
    Nats(Nats),
}

impl Service {
    fn name(&self) -> &'static str {
        match self {
            Self::Postgres(_) => "postgres",
            Self::Nats(_) => "nats-server",
        }
    }

    /// Starts it, or takes over one that runs, and returns when it takes connections. On `cancel` and on any error
    /// nothing that was started here is left running.
    async fn launch(&self, cancel: &CancellationToken) -> Result<Process, EmbeddedError> {
        match self {
            Self::Postgres(postgres) => postgres.launch(cancel).await,
            Self::Nats(nats) => nats.launch(cancel).await,
        }
    }

    async fn stop(&self, process: &mut Process) {
        match self {
            Self::Postgres(_) => process.stop(&super::postgres::STOP_STEPS).await,
            Self::Nats(_) => process.stop(&super::nats::STOP_STEPS).await,
        }
    }
}

/// Launches the service and keeps it running until `stop`. Returns once it takes connections for the first time.
pub(super) async fn supervise(
    service: Service,
    tasks: &TaskTracker,
    stop: &CancellationToken,
    cancel: &CancellationToken,
) -> Result<watch::Receiver<ServiceState>, EmbeddedError> {
    let (state, observed) = watch::channel(ServiceState::Restarting { attempt: 1 });
    let process = service.launch(cancel).await?;
    state.send_replace(ServiceState::Running);
    tasks.spawn(keep_running(service, process, state, stop.clone()));
    Ok(observed)
}

async fn keep_running(
    service: Service,
    mut process: Process,
    state: watch::Sender<ServiceState>,
    stop: CancellationToken,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let started = Instant::now();
        tokio::select! {
            () = stop.cancelled() => break,
            ended = process.wait() => {
                tracing::error!(server = service.name(), pid = %process.pid(), %ended, "the server died; starting it again");
            }
        }
        if started.elapsed() >= RECOVERED_AFTER {
            pause = FIRST_PAUSE;
        }
        let Some(next) = start_again(&service, &state, &stop, &mut pause).await else {
            state.send_replace(ServiceState::Stopped);
            return;
        };
        process = next;
        tracing::info!(server = service.name(), pid = %process.pid(), "the server runs again");
        state.send_replace(ServiceState::Running);
    }
    service.stop(&mut process).await;
    state.send_replace(ServiceState::Stopped);
}

/// Tries until it runs; `None` when told to stop meanwhile.
async fn start_again(
    service: &Service,
    state: &watch::Sender<ServiceState>,
    stop: &CancellationToken,
    pause: &mut Duration,
) -> Option<Process> {
    let mut attempt = 1;
    loop {
        state.send_replace(ServiceState::Restarting { attempt });
        tokio::select! {
            () = stop.cancelled() => return None,
            () = sleep(*pause) => {}
        }
        *pause = (*pause * 2).min(LONGEST_PAUSE);
        match service.launch(stop).await {
            Ok(process) => return Some(process),
            Err(EmbeddedError::Cancelled) => return None,
            Err(error) => {
                tracing::error!(server = service.name(), attempt, %error, "the server does not start");
                attempt = attempt.saturating_add(1);
            }
        }
    }
}
