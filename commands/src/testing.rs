//! A deployment in memory for the tests of the loops: the simulated log, paused time, and workers that only report.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use ledgerline_domain::{
    deployment::{Deployment, DeploymentCommand},
    event::{Actor, AnyEvent, Recorded},
    execution::{
        Attempt, Awaited, Execution, ExecutionCommand, ExecutionEvent, LimitScope, NodeOutput,
        NodePath, Outcome, Report, Step, TriggerType,
    },
    graph::Definition,
    id::{ExecutionId, WorkflowId, WorkspaceId},
    json::Json,
    workflow::{CreateWorkflow, NewDraft, Workflow, WorkflowCommand},
};
use ledgerline_store::{EventLog, SimulatedLog, Tail};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::{
    Clock, CommandError, Commands, Context, DispatchSettings, Dispatcher, Executed, Leading, Lines,
    Policies, Scope, Settings, Survey, Target, Timers, Triggers, WorkspaceLimits,
    audit::{GRACE, audit},
    record::recorded,
    start,
    start::{Start, StartRejection},
};

pub(crate) const LEASE: Duration = Duration::from_millis(500);

/// The log and the time. Everything else belongs to a [`Process`].
pub(crate) struct World {
    pub(crate) log: Arc<SimulatedLog>,
    pub(crate) clock: Clock,
    pub(crate) workspace: WorkspaceId,
    /// By how much the clocks of processes are wrong, in milliseconds.
    pub(crate) wrong_by: Arc<AtomicI64>,
}

/// One process on the log; dropped, it has crashed.
pub(crate) struct Process {
    pub(crate) commands: Commands,
    pub(crate) tail: Arc<Tail>,
    pub(crate) stop: CancellationToken,
    tracker: TaskTracker,
    name: String,
    aborts: Vec<tokio::task::AbortHandle>,
}

impl World {
    pub(crate) fn new() -> Self {
        let began = Instant::now();
        let epoch = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let now = move || epoch + TimeDelta::from_std(began.elapsed()).unwrap();
        let log = SimulatedLog::new(Uuid::now_v7(), Arc::new(now));
        let wrong_by = Arc::new(AtomicI64::new(0));
        let skew = Arc::clone(&wrong_by);
        let wrong = move || now() + TimeDelta::milliseconds(skew.load(Ordering::SeqCst));
        let clock = Clock::new(wrong, Uuid::now_v7);
        Self { log, clock, workspace: WorkspaceId(Uuid::now_v7()), wrong_by }
    }

    /// Sets the clocks of all processes wrong; the log's own goes on as it was.
    pub(crate) fn set_wrong_by(&self, by: TimeDelta) {
        self.wrong_by.store(by.num_milliseconds(), Ordering::SeqCst);
    }

    /// The same log, clock and workspace.
    pub(crate) fn share(&self) -> Self {
        let Self { log, clock, workspace, wrong_by } = self;
        let (log, wrong_by) = (Arc::clone(log), Arc::clone(wrong_by));
        Self { log, clock: clock.clone(), workspace: *workspace, wrong_by }
    }

    pub(crate) fn process(&self, name: &str) -> Process {
        self.process_of(name, WorkspaceLimits::default())
    }

    pub(crate) fn process_with(&self, workspaces: WorkspaceLimits) -> Process {
        self.process_of("one", workspaces)
    }

    fn process_of(&self, name: &str, workspaces: WorkspaceLimits) -> Process {
        let log: Arc<dyn EventLog> = Arc::<SimulatedLog>::clone(&self.log);
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let tail = Tail::start(Arc::clone(&log), &tracker, stop.clone());
        let settings = Settings { workspaces, ..Settings::default() };
        let commands = Commands::new(log, self.clock.clone(), settings);
        Process { commands, tail, stop, tracker, name: name.to_owned(), aborts: Vec::new() }
    }

    /// Everything that happened, in order.
    pub(crate) fn history(&self) -> Vec<Recorded<AnyEvent>> {
        self.log.events().iter().map(|row| recorded(row).unwrap()).collect()
    }

    /// What happened to executions, in order.
    pub(crate) fn executions(&self) -> Vec<(ExecutionId, ExecutionEvent)> {
        let of_execution = |recorded: Recorded<AnyEvent>| match recorded.event {
            AnyEvent::Execution(event) => Some((ExecutionId(recorded.stream), event)),
            AnyEvent::Workflow(_)
            | AnyEvent::Workspace(_)
            | AnyEvent::Vault(_)
            | AnyEvent::Deployment(_)
            | AnyEvent::Trigger(_)
            | AnyEvent::Audit(_) => None,
        };
        self.history().into_iter().filter_map(of_execution).collect()
    }

    /// How many events are such.
    pub(crate) fn count(&self, is_such: impl Fn(&ExecutionEvent) -> bool) -> usize {
        self.executions().iter().filter(|(_, event)| is_such(event)).count()
    }

    /// Demands that every open execution waits for something that will come, as the auditor looks at the whole log.
    pub(crate) async fn nothing_is_stuck(&self) {
        let auditor = self.process("auditor");
        let survey = Survey::of_log(&auditor.commands, &auditor.tail).await.unwrap();
        let found = audit(&auditor.commands, &survey, 0, GRACE).await.unwrap();
        assert_eq!((found.stuck, found.complete), (Vec::new(), true));
    }

    /// Waits until something holds, at most a minute of simulated time.
    pub(crate) async fn until(&self, holds: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !holds(self) {
                sleep(Duration::from_millis(25)).await;
            }
        };
        if timeout(Duration::from_secs(60), waiting).await.is_err() {
            let tail: Vec<_> = self.executions().into_iter().rev().take(20).collect();
            panic!("it never came to hold; the last events, newest first: {tail:#?}");
        }
    }

    /// A workflow with this limit and no more settings.
    pub(crate) async fn workflow(&self, limit: Option<u32>) -> WorkflowId {
        self.workflow_with(json!({"concurrency": {"limit": limit}})).await
    }

    pub(crate) async fn workflow_with(&self, settings: serde_json::Value) -> WorkflowId {
        let definition = json!({
            "nodes": [
                {"id": "one", "type": "logic.transform", "name": "One", "config": {"expression": "1"}},
                {"id": "two", "type": "logic.transform", "name": "Two", "config": {"expression": "2"}},
            ],
            "connections": [{"from": "one", "to": "two"}],
            "settings": settings,
        });
        self.workflow_of(&definition).await
    }

    pub(crate) async fn workflow_of(&self, definition: &serde_json::Value) -> WorkflowId {
        let workflow_id = WorkflowId(Uuid::now_v7());
        let draft = NewDraft {
            name: "Test".into(),
            description: String::new(),
            definition: Definition::parse(Json::from_value(definition)).unwrap(),
            tags: Vec::new(),
            is_public: false,
        };
        let create =
            CreateWorkflow { workspace_id: self.workspace, parent_workflow_id: None, draft };
        let process = self.process("setup");
        process
            .commands
            .execute::<Workflow>(
                Target::new(workflow_id, self.workspace),
                &WorkflowCommand::Create(create),
                &context(),
            )
            .await
            .unwrap();
        workflow_id
    }
}

/// A new run of a workflow, started by hand.
pub(crate) fn wanted(workflow_id: WorkflowId, input: Json) -> Start {
    let execution_id = ExecutionId(Uuid::now_v7());
    Start { execution_id, workflow_id, trigger_type: TriggerType::Manual, input, depth: 0 }
}

pub(crate) fn context() -> Context {
    Context::new(Actor::system("test"))
}

impl Process {
    fn leading(&self) -> Leading {
        Leading { owner: self.name.clone(), lease_ttl: LEASE }
    }

    fn spawn(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        self.aborts.push(self.tracker.spawn(work).abort_handle());
    }

    pub(crate) fn dispatch(&mut self) -> Lines {
        let settings = DispatchSettings {
            leading: self.leading(),
            look_every: Duration::from_millis(100),
            untaken_grace: Duration::from_secs(5),
        };
        let (commands, tail) = (self.commands.clone(), Arc::clone(&self.tail));
        let (dispatcher, stop) = (Dispatcher::new(commands, tail, settings), self.stop.clone());
        let lines = self.lines();
        self.spawn(async move { dispatcher.run(stop).await.unwrap() });
        lines
    }

    /// Watches the lines, and lets requests in by them.
    pub(crate) fn lines(&mut self) -> Lines {
        let (lines, stop) = (Lines::default(), self.stop.clone());
        let following = lines.clone().follow(self.commands.clone(), Arc::clone(&self.tail), stop);
        self.spawn(async move { following.await.unwrap() });
        self.commands.watch_lines(lines.clone());
        lines
    }

    pub(crate) fn policies(&mut self) {
        let (commands, tail) = (self.commands.clone(), Arc::clone(&self.tail));
        let policies = Policies::new(commands, tail, self.leading());
        let stop = self.stop.clone();
        self.spawn(async move { policies.run(stop).await.unwrap() });
    }

    pub(crate) fn triggers(&mut self) {
        let triggers = Triggers::new(self.commands.clone(), Arc::clone(&self.tail), self.leading());
        let stop = self.stop.clone();
        self.spawn(async move { triggers.run(stop).await.unwrap() });
    }

    pub(crate) fn timers(&mut self) {
        let timers = Timers::new(self.commands.clone(), self.leading());
        let stop = self.stop.clone();
        self.spawn(async move { timers.run(stop).await.unwrap() });
    }

    /// A worker that takes what is dispatched while it has a slot free, and finishes it after a time; never, when there is none.
    pub(crate) fn worker(&mut self, slots: usize, takes: Option<Duration>) {
        let worker = Arc::new(Worker {
            commands: self.commands.clone(),
            name: self.name.clone(),
            slots: tokio::sync::Semaphore::new(slots),
        });
        let (beat, log) = (Arc::clone(&worker), Arc::clone(self.commands.log()));
        self.spawn(async move {
            let ttl_ms = i64::try_from(LEASE.as_millis()).unwrap();
            loop {
                let slots = i32::try_from(slots).unwrap();
                log.renew_worker_lease(&beat.name, slots, ttl_ms).await.unwrap();
                sleep(LEASE / 4).await;
            }
        });
        let mut reader = self.tail.reader(ledgerline_store::Position::START);
        let runs = self.tracker.clone();
        self.spawn(async move {
            loop {
                for row in reader.next_batch(100).await.unwrap() {
                    let recorded = recorded(&row).unwrap();
                    let AnyEvent::Execution(ExecutionEvent::ExecutionDispatched(event)) =
                        recorded.event
                    else {
                        continue;
                    };
                    let (worker, id) = (Arc::clone(&worker), ExecutionId(recorded.stream));
                    runs.spawn(async move { worker.run(id, event.claim, takes).await });
                }
            }
        });
    }

    pub(crate) async fn start(&self, workflow_id: WorkflowId) -> ExecutionId {
        let wanted = wanted(workflow_id, Json::null());
        self.try_start(&wanted).await.unwrap();
        wanted.execution_id
    }

    pub(crate) async fn try_start(
        &self,
        wanted: &Start,
    ) -> Result<Executed<Execution>, CommandError<StartRejection>> {
        let plan = |scope: Scope| async move { start::start(&scope, wanted).await };
        self.commands.execute_with(&context(), plan).await
    }

    pub(crate) async fn tell(&self, id: ExecutionId, command: ExecutionCommand) {
        self.commands
            .execute::<Execution>(Target::existing(id), &command, &context())
            .await
            .unwrap();
    }

    pub(crate) async fn tell_workflow(&self, id: WorkflowId, command: WorkflowCommand) {
        self.commands
            .execute::<Workflow>(Target::existing(id), &command, &context())
            .await
            .unwrap();
    }

    pub(crate) async fn tell_deployment(&self, command: DeploymentCommand) {
        let target = Target::new(Deployment::id(), Uuid::nil());
        self.commands.execute::<Deployment>(target, &command, &context()).await.unwrap();
    }

    /// Takes the newest claim of an execution and reports steps.
    pub(crate) async fn report(&self, id: ExecutionId, steps: Vec<Step>) {
        let state = self.commands.load::<Execution>(id).await.unwrap().state;
        let (worker, claim) = (self.name.clone(), state.open().unwrap().claim);
        let interventions = state.interventions();
        let report = Report { worker, claim, interventions, steps };
        self.tell(id, ExecutionCommand::Report(report)).await;
    }

    /// A step that waits until a time, and lets go.
    pub(crate) fn wait(&self, due_at: DateTime<Utc>) -> Vec<Step> {
        let path = NodePath::from("one");
        let (attempt, input, until) = (Attempt(1), Json::null(), Some(due_at));
        vec![Step::Wait { path, attempt, input, awaited: Awaited::Time, until }, Step::LetGo]
    }

    /// Stops at once, with whatever is half done.
    pub(crate) fn crash(self) {
        for abort in &self.aborts {
            abort.abort();
        }
        self.stop.cancel();
    }
}

struct Worker {
    commands: Commands,
    name: String,
    slots: tokio::sync::Semaphore,
}

impl Worker {
    async fn run(
        &self,
        id: ExecutionId,
        claim: ledgerline_domain::execution::Claim,
        takes: Option<Duration>,
    ) {
        let _slot = self.slots.acquire().await.unwrap();
        if !self.report(id, claim, Vec::new()).await {
            return;
        }
        let Some(takes) = takes else { return };
        sleep(takes).await;
        let output = NodeOutput::Inline(Json::null());
        self.report(id, claim, vec![Step::Finish(Outcome::Completed { output })]).await;
    }

    /// Whether the claim was this worker's.
    async fn report(
        &self,
        id: ExecutionId,
        claim: ledgerline_domain::execution::Claim,
        steps: Vec<Step>,
    ) -> bool {
        let worker = self.name.clone();
        let interventions =
            self.commands.load::<Execution>(id).await.unwrap().state.interventions();
        let report = Report { worker, claim, interventions, steps };
        let command = ExecutionCommand::Report(report);
        let (target, context) = (Target::existing(id), context());
        self.commands.execute::<Execution>(target, &command, &context).await.is_ok()
    }
}

/// Walks through the history and asserts that no limit ever held more executions than it has slots. Answers the most that one held.
pub(crate) fn most_at_once(world: &World) -> usize {
    let scopes = [LimitScope::Workflow, LimitScope::Key, LimitScope::Workspace];
    scopes.into_iter().map(|scope| most_under(world, scope)).max().unwrap_or(0)
}

/// The same of the limits of one scope.
pub(crate) fn most_under(world: &World, scope: LimitScope) -> usize {
    let mut limits: BTreeMap<ExecutionId, (String, u32)> = BTreeMap::new();
    let mut held: BTreeMap<String, BTreeSet<ExecutionId>> = BTreeMap::new();
    let mut most = 0;
    for (id, event) in world.executions() {
        if let ExecutionEvent::ExecutionRequested(event) = &event {
            if let Some(limit) = event.limits.iter().find(|limit| limit.scope == scope) {
                limits.insert(id, (limit.key.clone(), limit.limit));
            }
            continue;
        }
        let Some((key, limit)) = limits.get(&id) else { continue };
        let held = held.entry(key.clone()).or_default();
        match event {
            ExecutionEvent::ExecutionDispatched(_) => {
                held.insert(id);
                assert!(held.len() <= *limit as usize, "{key} holds {held:?}");
                most = most.max(held.len());
            }
            ExecutionEvent::ExecutionWaiting(_)
            | ExecutionEvent::ExecutionCompleted(_)
            | ExecutionEvent::ExecutionFailed(_)
            | ExecutionEvent::ExecutionCancelled(_) => {
                held.remove(&id);
            }
            _ => {}
        }
    }
    most
}
