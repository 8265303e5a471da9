//! One simulation: random commands and crashes in foul weather, then fair weather until every run has ended.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use chrono::{DateTime, TimeDelta};
use ledgerline_commands::{
    Clock, Commands, Context, Settings, Survey, Target, WorkspaceLimits,
    audit::audit,
    start::{Rerun, Retry, Start, StartRejection, rerun, retry, start},
};
use ledgerline_domain::{
    deployment::{Deployment, DeploymentCommand},
    event::Actor,
    execution::{
        CancelReason, EndCause, Execution, ExecutionCommand, NodePath, Open, PauseReason,
        Resolution, Status, TriggerType,
    },
    graph::Definition,
    id::{ExecutionId, WorkflowId, WorkspaceId},
    json::Json,
    workflow::{CreateWorkflow, NewDraft, PublishWorkflow, Workflow, WorkflowCommand},
};
use ledgerline_store::{EventLog, SimulatedLog, Tail};
use tokio::time::{Instant, sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::{Builder, Uuid};

use crate::{
    checker::Checker,
    dice::Dice,
    graphs,
    outside::Outside,
    process::{Ground, Process, Role},
    weather::{ProcessNo, Weather},
};

/// How many things the outside world does in foul weather.
const STEPS: usize = 45;
/// How many runs are started at most, so that all of them end in good time.
const MAX_RUNS: usize = 16;
/// How often everybody outside does their part at most: decides, resumes, answers, signals, does tasks.
const MAX_DECISIONS: usize = 60;
/// How long everything may take to end once nothing goes wrong any more.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a simulation came to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) steps: usize,
    pub(crate) runs: usize,
    pub(crate) events: usize,
    pub(crate) appends: usize,
    pub(crate) faults: usize,
    pub(crate) crashes: usize,
    pub(crate) effects: usize,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Self) {
        self.steps += other.steps;
        self.runs += other.runs;
        self.events += other.events;
        self.appends += other.appends;
        self.faults += other.faults;
        self.crashes += other.crashes;
        self.effects += other.effects;
    }
}

struct Simulation {
    ground: Ground,
    dice: Dice,
    client: Commands,
    workspace: WorkspaceId,
    workflows: Vec<WorkflowId>,
    /// The one that starts by itself, where there is one.
    triggered: Option<WorkflowId>,
    runs: Vec<ExecutionId>,
    /// Runs whose cancel was answered with yes.
    cancelled: BTreeSet<ExecutionId>,
    processes: Vec<Process>,
    next_process: ProcessNo,
    checker: Checker,
    outside: Outside,
    tally: Tally,
}

/// Runs one seed to its end, or panics with what does not hold.
pub(crate) fn simulate(seed: u64) -> Tally {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut simulation = Simulation::new(seed).await;
        simulation.safety().await;
        simulation.liveness().await;
        simulation.tally()
    })
}

impl Simulation {
    async fn new(seed: u64) -> Self {
        let dice = Dice::new(seed);
        let began = Instant::now();
        let epoch = DateTime::from_timestamp(1_800_000_000, 0).expect("a date that exists");
        let now = move || epoch + TimeDelta::from_std(began.elapsed()).expect("minutes");
        let ids = dice.part();
        let id = move || {
            let ms = u64::try_from(now().timestamp_millis()).expect("after 1970");
            let mut chance = [0; 10];
            chance[..8].copy_from_slice(&ids.next().to_be_bytes());
            Builder::from_unix_timestamp_millis(ms, &chance).into_uuid()
        };
        let clock = Clock::new(now, id);
        let weather = Weather::new(dice.part());
        let log = SimulatedLog::new(Uuid::nil(), Arc::new(now));
        log.set_faults(Some(Arc::<Weather>::clone(&weather)));
        let reached: Arc<dyn EventLog> = Arc::<SimulatedLog>::clone(&log);
        let workspaces = WorkspaceLimits { default: Some(4), max: None };
        let settings = Settings { workspaces, ..Settings::default() };
        let client = Commands::new(reached, clock.clone(), settings);
        let workspace = WorkspaceId(clock.new_id());
        let effects = Arc::default();
        let outside = Outside::new(client.clone(), dice.part());
        let ground = Ground { log, clock, weather, dice: dice.part(), effects };
        let mut simulation = Self {
            ground,
            dice,
            client,
            workspace,
            workflows: Vec::new(),
            triggered: None,
            runs: Vec::new(),
            cancelled: BTreeSet::new(),
            processes: Vec::new(),
            next_process: 1,
            checker: Checker::default(),
            outside,
            tally: Tally::default(),
        };
        for _ in 0..3 {
            let definition = graphs::definition(&simulation.dice, &simulation.workflows);
            simulation.create_workflow(definition).await;
        }
        if simulation.dice.once_in(2) {
            let definition = graphs::triggered(&simulation.dice, simulation.workflows[0]);
            let id = simulation.create_workflow(definition).await;
            let publish = WorkflowCommand::Publish(PublishWorkflow::default());
            simulation.tell_workflow(id, publish).await;
            simulation.tell_workflow(id, WorkflowCommand::ActivateIntake).await;
            simulation.triggered = Some(id);
        }
        for role in [Role::Engine, Role::Engine, Role::Worker, Role::Worker] {
            simulation.start_process(role);
        }
        simulation
    }

    /// Everything may go wrong.
    async fn safety(&mut self) {
        self.ground.weather.turn_foul();
        for _ in 0..STEPS {
            self.happen().await;
            sleep(Duration::from_millis(self.dice.below(150))).await;
            self.look().await;
        }
    }

    /// Nothing goes wrong any more, and whatever was begun comes to its end.
    async fn liveness(&mut self) {
        self.ground.weather.clear_up();
        self.tell_deployment(DeploymentCommand::ResumeDispatch).await;
        // A schedule would never come to its end.
        if let Some(triggered) = self.triggered {
            self.tell_workflow(triggered, WorkflowCommand::DeactivateIntake).await;
        }
        self.settle().await;
        // Those that wait for somebody outside are still open.
        self.nothing_is_stuck().await;
        for workflow in self.workflows.clone() {
            if self.triggered == Some(workflow) {
                continue;
            }
            // One whose intake was turned off stays so; what a pause of it held goes on.
            self.tell_workflow(workflow, WorkflowCommand::ActivateIntake).await;
        }
        // What is tried again may fail again, and then somebody decides.
        for _ in 0..MAX_DECISIONS {
            let open = self.checker.open();
            if open.is_empty() {
                break;
            }
            for id in open {
                self.decide(id).await;
                self.tell(id, ExecutionCommand::Unpause { reason: PauseReason::User }).await;
                let execution = self.checker.executions[&id].clone();
                self.outside.serve(id, &execution).await;
            }
            self.tasks_are_done().await;
            self.settle().await;
        }
        let open = self.checker.open();
        assert!(open.is_empty(), "everybody did their part, and still open: {open:?}");
        self.nothing_is_stuck().await;
        self.checker.every_start_has_its_cause();
        let unknown: Vec<_> =
            self.outside.acknowledged.difference(&self.checker.reported).collect();
        assert!(
            unknown.is_empty(),
            "reports that were taken in and are not in the log: {unknown:?}"
        );
        for (id, execution) in &self.checker.executions {
            let loaded = self.client.load::<Execution>(*id).await.expect("fair weather").state;
            assert_eq!(*loaded, *execution, "a process sees {id} as the log has it");
            if self.cancelled.contains(id) {
                assert_eq!(execution.status(), Some(Status::Cancelled), "{id} was told to end");
            }
        }
        // Timers that nobody waits for any more go when their time comes.
        let begun = Instant::now();
        while self.ground.log.next_due().await.expect("fair weather").is_some() {
            assert!(begun.elapsed() < PATIENCE, "a due time stays for ever");
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// Workers take what is offered, and report for as long as they have something that is theirs.
    async fn tasks_are_done(&mut self) {
        for _ in 0..self.checker.executions.len() {
            self.look().await;
            self.outside.take(&self.checker).await;
            self.outside.finish_last().await;
        }
    }

    async fn settle(&mut self) {
        let begun = Instant::now();
        loop {
            self.look().await;
            let under_way: Vec<_> = self.checker.under_way().collect();
            if under_way.is_empty() {
                return;
            }
            if begun.elapsed() > PATIENCE {
                let stuck: Vec<_> = under_way
                    .iter()
                    .map(|(id, execution)| {
                        (id, execution.waits_for(), execution.open().map(|open| &open.phase))
                    })
                    .collect();
                panic!("nothing goes wrong, and these never end: {stuck:#?}");
            }
            sleep(Duration::from_millis(250)).await;
        }
    }

    /// Buries the dead, starts others in their place, and checks what must hold.
    async fn look(&mut self) {
        for process in &self.processes {
            process.is_sound();
        }
        let (dead, live): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.processes).into_iter().partition(Process::is_dead);
        self.processes = live;
        for process in dead {
            process.crash();
            self.tally.crashes += 1;
        }
        let foul = self.ground.weather.is_foul();
        for role in [Role::Engine, Role::Worker] {
            let live = self.processes.iter().filter(|process| process.role == role).count();
            // In foul weather it may take a while until somebody starts another.
            if live < 2 && (!foul || self.dice.once_in(4)) {
                self.start_process(role);
            }
        }
        let (log, weather) = (Arc::clone(&self.ground.log), Arc::clone(&self.ground.weather));
        self.checker.check(&log, &weather).await;
        self.tally.steps += 1;
    }

    fn start_process(&mut self, role: Role) {
        self.processes.push(Process::start(&self.ground, role, self.next_process));
        self.next_process += 1;
    }

    /// Something that the outside world does.
    async fn happen(&mut self) {
        let workflow = self.dice.of(&self.workflows).copied();
        let run = self.dice.of(&self.runs).copied();
        let reason = PauseReason::User;
        match (self.dice.below(36), workflow, run) {
            (24 | 25, _, Some(run)) => {
                if let Some(execution) = self.checker.executions.get(&run) {
                    self.outside.answer(run, execution).await;
                }
            }
            (26 | 27, _, Some(run)) => self.outside.signal(run).await,
            (28..=30, ..) => self.outside.take(&self.checker).await,
            (31..=33, ..) => self.outside.report().await,
            (34, ..) => self.outside.beat().await,
            (0..=7, Some(workflow), _) => self.start_run(workflow).await,
            (8 | 9, _, Some(run)) => self.tell(run, ExecutionCommand::Pause { reason }).await,
            (10 | 11, _, Some(run)) => self.tell(run, ExecutionCommand::Unpause { reason }).await,
            (12, _, Some(run)) => self.cancel(run).await,
            (13, Some(workflow), _) => {
                self.tell_workflow(workflow, WorkflowCommand::PauseIntake).await;
            }
            (14 | 15, Some(workflow), _) => {
                self.tell_workflow(workflow, WorkflowCommand::ActivateIntake).await;
            }
            (16, Some(workflow), _) if self.dice.once_in(2) => {
                self.tell_workflow(workflow, WorkflowCommand::DeactivateIntake).await;
            }
            (17, _, Some(run)) => self.again(run).await,
            (21, _, Some(run)) => self.decide(run).await,
            (18, ..) => {
                if let Some(process) = self.dice.of(&self.processes) {
                    process.crash();
                }
            }
            (19, ..) => self.take_leases_away().await,
            (35, ..) => {
                self.tell_deployment(DeploymentCommand::PauseDispatch { reason: None }).await
            }
            (22, ..) => self.tell_deployment(DeploymentCommand::ResumeDispatch).await,
            (20, ..) => {
                self.ground.weather.set_outage(true);
                sleep(Duration::from_millis(self.dice.below(1_200))).await;
                self.ground.weather.set_outage(false);
            }
            _ => {}
        }
    }

    /// Whoever leads finds out that it does not any more, wherever it is.
    async fn take_leases_away(&self) {
        let readers = [
            ledgerline_commands::dispatch::READER,
            ledgerline_commands::policies::READER,
            ledgerline_commands::timers::READER,
            ledgerline_commands::triggers::READER,
        ];
        let reader = self.dice.of(&readers).expect("there are four");
        for process in &self.processes {
            // Only its holder may ask for one that is held; asking again makes the old term's appends void.
            let _held = self.ground.log.acquire_lease(reader, &process.name, 0).await;
        }
    }

    async fn start_run(&mut self, workflow_id: WorkflowId) {
        if self.runs.len() >= MAX_RUNS {
            return;
        }
        let execution_id = ExecutionId(self.ground.clock.new_id());
        let trigger_type = TriggerType::Manual;
        let wanted =
            &Start { execution_id, workflow_id, trigger_type, input: Json::null(), depth: 0 };
        self.runs.push(execution_id);
        let context = &context();
        // A caller that was told that the log is away asks again; the id makes it the same run.
        for _ in 0..3 {
            let started = self
                .client
                .execute_with::<Execution, StartRejection, _, _>(context, |scope| async move {
                    start(&scope, wanted).await
                });
            match started.await {
                Err(error) if error.may_pass() => {}
                Ok(_) | Err(_) => return,
            }
        }
    }

    /// A retry or a re-run of what has ended, twice at the same time.
    async fn again(&mut self, of: ExecutionId) {
        if self.runs.len() >= MAX_RUNS {
            return;
        }
        let execution_id = ExecutionId(self.ground.clock.new_id());
        self.runs.push(execution_id);
        let context = &context();
        if self.dice.once_in(2) {
            let wanted = &Retry { execution_id, of };
            let once = || {
                self.client
                    .execute_with::<Execution, StartRejection, _, _>(context, |scope| async move {
                        retry(&scope, wanted).await
                    })
            };
            let _either_may_be_refused = tokio::join!(biased; once(), once());
        } else {
            let wanted = &Rerun {
                execution_id,
                of,
                from_node: None,
                input: None,
                version: None,
                node_input: None,
            };
            let once = || {
                self.client
                    .execute_with::<Execution, StartRejection, _, _>(context, |scope| async move {
                        rerun(&scope, wanted).await
                    })
            };
            let _either_may_be_refused = tokio::join!(biased; once(), once());
        }
    }

    /// Somebody decides what becomes of the nodes of a run that failed for the last time.
    async fn decide(&self, id: ExecutionId) {
        let execution = self.checker.executions.get(&id);
        let Some(open) = execution.and_then(Execution::open) else { return };
        let held: Vec<NodePath> = open.held().map(|(path, _)| path.clone()).collect();
        for path in held {
            let resolution = match self.dice.below(3) {
                0 => Resolution::Fail,
                1 => Resolution::Retry,
                _ => Resolution::Complete { output: Json::null(), port: None },
            };
            self.tell(id, ExecutionCommand::Resolve { path, resolution }).await;
        }
    }

    async fn cancel(&mut self, id: ExecutionId) {
        let reason = CancelReason::StoppedByUser;
        let command = match self.dice.once_in(3) {
            true => ExecutionCommand::CancelWithoutUndo { reason },
            false => ExecutionCommand::Cancel { reason },
        };
        let target = Target::existing(id);
        let Ok(told) = self.client.execute::<Execution>(target, &command, &context()).await else {
            return;
        };
        let failed = match told.state.open().and_then(Open::undoing) {
            // One that undoes what it did ends as it was to end before.
            Some(undoing) => matches!(undoing.because, EndCause::Failed { .. }),
            None => told.state.status() == Some(Status::Failed),
        };
        if !failed {
            self.cancelled.insert(id);
        }
    }

    async fn tell(&self, id: ExecutionId, command: ExecutionCommand) {
        // Refused or lost: the log says what came of it.
        let target = Target::existing(id);
        let _told = self.client.execute::<Execution>(target, &command, &context()).await;
    }

    async fn tell_deployment(&self, command: DeploymentCommand) {
        let target = Target::new(Deployment::id(), Uuid::nil());
        let _told = self.client.execute::<Deployment>(target, &command, &context()).await;
    }

    /// What the auditor finds over the whole log. Fair weather has lasted for so long that nothing may be late.
    async fn nothing_is_stuck(&self) {
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let log: Arc<dyn EventLog> = Arc::<SimulatedLog>::clone(&self.ground.log);
        let tail = Tail::start(log, &tracker, stop.clone());
        let survey = Survey::of_log(&self.client, &tail).await.expect("fair weather");
        let found = audit(&self.client, &survey, 0, TimeDelta::seconds(10)).await;
        assert_eq!(found.expect("fair weather").stuck, [], "open, and nobody will move them");
        stop.cancel();
    }

    async fn tell_workflow(&self, id: WorkflowId, command: WorkflowCommand) {
        let target = Target::existing(id);
        let _told = self.client.execute::<Workflow>(target, &command, &context()).await;
    }

    async fn create_workflow(&mut self, definition: Definition) -> WorkflowId {
        let id = WorkflowId(self.ground.clock.new_id());
        let draft = NewDraft {
            name: "simulated".to_owned(),
            description: String::new(),
            definition,
            tags: Vec::new(),
            is_public: false,
        };
        let workspace_id = self.workspace;
        let create = CreateWorkflow { workspace_id, parent_workflow_id: None, draft };
        let target = Target::new(id, workspace_id);
        let created = self
            .client
            .execute::<Workflow>(target, &WorkflowCommand::Create(create), &context())
            .await;
        created.expect("fair weather");
        self.workflows.push(id);
        id
    }

    fn tally(&self) -> Tally {
        let weather = &self.ground.weather;
        Tally {
            runs: self.checker.executions.len(),
            events: self.checker.events(),
            appends: weather.appends.load(Ordering::Relaxed),
            faults: weather.faults.load(Ordering::Relaxed),
            effects: self.ground.effects.count(),
            ..self.tally
        }
    }
}

fn context() -> Context {
    Context::new(Actor::system("simulation"))
}
