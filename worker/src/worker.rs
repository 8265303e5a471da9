//! The worker of a process: takes as many executions as it has room for, and shows that it lives.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ledgerline_commands::Commands;
use ledgerline_nats::{Delivery, LiveLogs, WorkSource};
use ledgerline_store::{Position, Tail};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::{
    definitions::Definitions,
    file_space::AppendTurns,
    hear,
    lease::{self, Tenure},
    log_lines::LogWriter,
    nodes::{Equipment, sql::Pools},
    outbound::{self, Redirects},
    run::{Signals, run},
    secrets::Vaults,
    settings::WorkerSettings,
    stand_down::StandDown,
};

/// How long an item rests that is for a run which this worker still has under an older claim.
const OVERLAP_REST: Duration = Duration::from_millis(200);

/// Why a worker can't start.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The HTTP client can't be made: the machine's TLS roots are unreadable.
    #[error("failed to make the HTTP client for action.http")]
    HttpClient(#[from] reqwest::Error),
}

/// What all runs of this process share.
pub(crate) struct Shared {
    pub(crate) commands: Commands,
    pub(crate) definitions: Definitions,
    pub(crate) equipment: Arc<Equipment>,
    pub(crate) lines: LogWriter,
    pub(crate) env: Arc<BTreeMap<String, String>>,
    pub(crate) runs: Runs,
    pub(crate) stand_down: StandDown,
}

impl Shared {
    pub(crate) fn settings(&self) -> &WorkerSettings {
        &self.equipment.settings
    }
}

/// A run that wants to hear what others write to its stream.
struct Listening {
    /// Where its claim was handed out: what stands before that is part of what it began with.
    since: Position,
    heard: Arc<Notify>,
}

/// The runs that this process has now, and how to tell each that its stream moved.
#[derive(Default)]
pub(crate) struct Runs {
    listening: Mutex<HashMap<Uuid, Listening>>,
    active: watch::Sender<usize>,
}

impl Runs {
    fn enter(&self, execution: Uuid, since: Position) -> Option<Arc<Notify>> {
        let mut runs = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        if runs.contains_key(&execution) {
            return None;
        }
        let heard = Arc::new(Notify::new());
        runs.insert(execution, Listening { since, heard: Arc::clone(&heard) });
        self.active.send_replace(runs.len());
        Some(heard)
    }

    fn leave(&self, execution: Uuid) {
        let mut runs = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        runs.remove(&execution);
        self.active.send_replace(runs.len());
    }

    /// Tells a run that somebody else wrote its stream at a position.
    pub(crate) fn tell(&self, execution: Uuid, position: Position) {
        let runs = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(run) = runs.get(&execution).filter(|run| run.since < position) {
            run.heard.notify_one();
        }
    }
}

/// The worker of this process.
pub struct Worker {
    shared: Arc<Shared>,
}

impl Worker {
    /// Starts it on the tracker. Cancelling `stop` drains it: nothing new is taken, running steps finish or are handed back within
    /// [`WorkerSettings::drain`], the lease is given up, and log lines are written. Wait for the tracker to know that it is done.
    ///
    /// # Errors
    /// [`WorkerError`].
    pub fn start(
        settings: WorkerSettings,
        commands: Commands,
        tail: Arc<Tail>,
        source: WorkSource,
        live: LiveLogs,
        tracker: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<Self, WorkerError> {
        let http = outbound::client(Arc::clone(&settings.reach), Redirects::Anywhere)?;
        let http_with_secrets =
            outbound::client(Arc::clone(&settings.reach), Redirects::SameOrigin)?;
        let written = CancellationToken::new();
        let databases = Pools::new(Arc::clone(&settings.reach), tracker.clone(), written.clone());
        let vaults = Vaults::new(commands.clone(), settings.sealed.clone());
        let env = Arc::new(settings.env.clone());
        let shared = Arc::new(Shared {
            definitions: Definitions::new(commands.clone()),
            lines: LogWriter::start(
                Arc::clone(commands.log()),
                live,
                commands.clock().clone(),
                tracker,
                written.clone(),
            ),
            equipment: Arc::new(Equipment {
                settings,
                http,
                http_with_secrets,
                vaults,
                databases,
                appends: AppendTurns::default(),
                scripts: Arc::new(Semaphore::new(scripts_at_once())),
            }),
            env,
            runs: Runs::default(),
            stand_down: StandDown::default(),
            commands,
        });
        tracker.spawn(work(Arc::clone(&shared), tail, source, stop, written));
        Ok(Self { shared })
    }

    /// How many executions it runs now.
    #[must_use]
    pub fn active(&self) -> watch::Receiver<usize> {
        self.shared.runs.active.subscribe()
    }

    /// Why it takes no more work in this process, once that is so: it read what only a newer build knows. Its runs and its lease
    /// are let go of then, so that a newer process is given them.
    #[must_use]
    pub fn standing_down(&self) -> watch::Receiver<Option<String>> {
        self.shared.stand_down.watch()
    }
}

async fn work(
    shared: Arc<Shared>,
    tail: Arc<Tail>,
    source: WorkSource,
    stop: CancellationToken,
    written: CancellationToken,
) {
    let tenure = Arc::new(Tenure::new());
    let over = CancellationToken::new();
    let runs = TaskTracker::new();
    let hearing = hear::listen(Arc::clone(&shared), tail, over.clone());
    let living = lease::hold(Arc::clone(&shared), Arc::clone(&tenure), over.clone());
    let working = async {
        // What was taken and not begun when the worker stands down is delivered again.
        tokio::select! {
            () = pull(&shared, &source, &runs, &stop, &tenure) => {}
            () = shared.stand_down.begun() => {}
        }
        runs.close();
        let all_ended = tokio::select! {
            biased;
            () = shared.stand_down.begun() => false,
            () = runs.wait() => true,
            () = tokio::time::sleep(shared.settings().drain) => {
                tracing::warn!("steps that did not end in time are handed back");
                false
            }
        };
        if !all_ended {
            tenure.end();
            runs.wait().await;
        }
        over.cancel();
    };
    tokio::join!(hearing, living, working);
    written.cancel();
}

/// Takes work until the process stops.
async fn pull(
    shared: &Arc<Shared>,
    source: &WorkSource,
    runs: &TaskTracker,
    stop: &CancellationToken,
    tenure: &Tenure,
) {
    let slots = Arc::new(Semaphore::new(shared.settings().slots.max(1)));
    metrics::gauge!("ledgerline_worker_slots").set(slots.available_permits() as f64);
    metrics::gauge!("ledgerline_worker_free_slots").set(slots.available_permits() as f64);
    loop {
        let first = tokio::select! {
            permit = Arc::clone(&slots).acquire_owned() => permit,
            () = stop.cancelled() => return,
        };
        let Ok(first) = first else { return };
        let taken = tokio::select! {
            taken = source.take(1 + slots.available_permits()) => taken,
            () = stop.cancelled() => return,
        };
        let Some(deliveries) = taken else { return };
        let mut permit = Some(first);
        for delivery in deliveries {
            let permit = match permit.take() {
                Some(permit) => permit,
                None => match Arc::clone(&slots).acquire_owned().await {
                    Ok(permit) => permit,
                    Err(_) => return,
                },
            };
            take_on(shared, delivery, permit, runs, stop, tenure);
        }
        metrics::gauge!("ledgerline_worker_free_slots").set(slots.available_permits() as f64);
    }
}

/// As many scripts at once as there are cores, but for one that is left to everything else.
fn scripts_at_once() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().saturating_sub(1).max(1))
}

fn take_on(
    shared: &Arc<Shared>,
    delivery: Delivery,
    permit: OwnedSemaphorePermit,
    runs: &TaskTracker,
    stop: &CancellationToken,
    tenure: &Tenure,
) {
    let (execution, since) = (delivery.item().execution_id, delivery.item().position);
    let Some(heard) = shared.runs.enter(execution, since) else {
        runs.spawn(async move {
            delivery.nak(OVERLAP_REST).await;
            drop(permit);
        });
        return;
    };
    let signals = Signals { heard, drain: stop.clone(), abandon: tenure.token() };
    let shared = Arc::clone(shared);
    runs.spawn(async move {
        let leaving = Leaving { shared: Arc::clone(&shared), execution };
        run(shared, delivery, signals).await;
        drop(leaving);
        drop(permit);
    });
}

/// Takes a run off the list however its task ends.
struct Leaving {
    shared: Arc<Shared>,
    execution: Uuid,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.shared.runs.leave(self.execution);
    }
}
