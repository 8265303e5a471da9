//! Processes that can die between any two awaits: the production loops, and a worker that models the transport.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ledgerline_commands::{
    Auditor, Clock, Commands, DispatchSettings, Dispatcher, Leading, Lines, Policies, Settings,
    Timers, Triggers, WorkspaceLimits,
};
use ledgerline_store::{EventLog, SimulatedLog, Tail};
use tokio::task::JoinSet;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    dice::Dice,
    weather::{ProcessNo, Weather},
    worker::{Effects, Worker},
};

/// A dead process is missed after this.
pub(crate) const LEASE: Duration = Duration::from_millis(500);

/// What all processes stand on: it stands for the machines and the database.
#[derive(Clone)]
pub(crate) struct Ground {
    pub(crate) log: Arc<SimulatedLog>,
    pub(crate) clock: Clock,
    pub(crate) weather: Arc<Weather>,
    pub(crate) dice: Dice,
    pub(crate) effects: Arc<Effects>,
}

/// The tasks of one process. Clones are the same process.
#[derive(Clone)]
pub(crate) struct Crew {
    pub(crate) number: ProcessNo,
    weather: Arc<Weather>,
    tasks: Arc<Mutex<JoinSet<()>>>,
}

impl Crew {
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let task = tasks.spawn(work);
        self.weather.belongs(task.id(), self.number);
    }
}

/// Which part of a deployment a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Dispatch, policies and timers.
    Engine,
    /// Runs executions.
    Worker,
}

/// A process on the log.
pub(crate) struct Process {
    pub(crate) role: Role,
    pub(crate) name: String,
    crew: Crew,
    stop: CancellationToken,
}

impl Process {
    pub(crate) fn start(ground: &Ground, role: Role, number: ProcessNo) -> Self {
        let crew = Crew { number, weather: Arc::clone(&ground.weather), tasks: Arc::default() };
        let name = format!("{role:?}-{number}").to_lowercase();
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let log: Arc<dyn EventLog> = Arc::<SimulatedLog>::clone(&ground.log);
        let tail = Tail::start(Arc::clone(&log), &tracker, stop.clone());
        let workspaces = WorkspaceLimits { default: Some(4), max: None };
        let settings = Settings { workspaces, ..Settings::default() };
        let commands = Commands::new(log, ground.clock.clone(), settings);
        match role {
            Role::Engine => engine(&crew, &name, &commands, &tail, &stop),
            Role::Worker => {
                Worker::start(&crew, ground.clone(), name.clone(), commands, &tail);
            }
        }
        Self { role, name, crew, stop }
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.crew.weather.is_dead(self.crew.number)
    }

    /// As `kill -9`.
    pub(crate) fn crash(&self) {
        self.crew.weather.kill(self.crew.number);
        self.crew.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        self.stop.cancel();
    }

    /// Nothing of a process may end by a panic.
    pub(crate) fn is_sound(&self) {
        let mut tasks = self.crew.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(ended) = tasks.try_join_next() {
            if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}

fn engine(
    crew: &Crew,
    name: &str,
    commands: &Commands,
    tail: &Arc<Tail>,
    stop: &CancellationToken,
) {
    let leading = Leading { owner: name.to_owned(), lease_ttl: LEASE };
    let settings = DispatchSettings {
        leading: leading.clone(),
        look_every: LEASE / 5,
        untaken_grace: LEASE * 4,
    };
    let dispatcher = Dispatcher::new(commands.clone(), Arc::clone(tail), settings);
    let policies = Policies::new(commands.clone(), Arc::clone(tail), leading.clone());
    let triggers = Triggers::new(commands.clone(), Arc::clone(tail), leading.clone());
    let timers = Timers::new(commands.clone(), leading.clone());
    let lines = Lines::default();
    commands.watch_lines(lines.clone());
    let following = lines.clone().follow(commands.clone(), Arc::clone(tail), stop.clone());
    let auditor = Auditor::new(commands.clone(), lines, leading);
    let (a, b, c, d, e) = (stop.clone(), stop.clone(), stop.clone(), stop.clone(), stop.clone());
    crew.spawn(async move { following.await.expect("the lines know every event") });
    crew.spawn(async move { auditor.run(e).await.expect("the auditor reads no event") });
    crew.spawn(async move { dispatcher.run(a).await.expect("dispatch knows every event") });
    crew.spawn(async move { policies.run(b).await.expect("the policies know every event") });
    crew.spawn(async move { timers.run(c).await.expect("the timers know every event") });
    crew.spawn(async move { triggers.run(d).await.expect("the triggers know every event") });
}
