//! The engine of a deployment on one log: commands, dispatch, policies and timers in this test's runtime, and workers in runtimes of
//! their own, so that a worker can be killed between any two instructions.

use std::{future::Future, path::PathBuf, sync::Arc, time::Duration};

use chrono::Utc;
use ledgerline_commands::{
    Clock, Commands, Context, DispatchSettings, Dispatcher, Leading, Policies, Settings, Survey,
    Target, Timers, Triggers,
    audit::{GRACE, audit},
    start::{Start, StartRejection, start},
};
use ledgerline_domain::{
    event::{Actor, AnyEvent},
    execution::{Execution, ExecutionCommand, ExecutionEvent, TriggerType},
    graph::Definition,
    id::{ExecutionId, WorkflowId, WorkspaceId},
    json::Json,
    workflow::{CreateWorkflow, NewDraft, SaveDraft, Workflow, WorkflowCommand},
};
use ledgerline_nats::{LiveLogs, WorkSource, WorkSourceConfig};
use ledgerline_store::{
    EventLog, LogQuery, Position, RecordedEvent, StreamId, StreamVersion, Tail,
};
use ledgerline_worker::{Worker, WorkerSettings};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

/// How long anything that must happen may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Leases in tests: a dead worker is missed after this.
const LEASE: Duration = Duration::from_millis(500);

/// A running engine.
pub(crate) struct Engine {
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) commands: Commands,
    pub(crate) workspace: WorkspaceId,
    pub(crate) folder: tempfile::TempDir,
    tracker: TaskTracker,
    cancel: CancellationToken,
}

/// A worker process, as far as one fits into a test.
pub(crate) struct TestWorker {
    runtime: Option<tokio::runtime::Runtime>,
    tracker: TaskTracker,
    stop: CancellationToken,
    /// Why it takes no more work, once that is so.
    pub(crate) standing_down: watch::Receiver<Option<String>>,
    /// What the worker stands on, which outlives it.
    below: CancellationToken,
}

impl Engine {
    pub(crate) fn on(log: Arc<dyn EventLog>) -> Self {
        let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
        let commands = Commands::new(Arc::clone(&log), Clock::system(), Settings::default());
        let tail = Tail::start(Arc::clone(&log), &tracker, cancel.clone());
        let leading = Leading { owner: "test".to_owned(), lease_ttl: LEASE };
        let settings = DispatchSettings {
            leading: leading.clone(),
            look_every: LEASE / 5,
            untaken_grace: LEASE * 4,
        };
        let dispatcher = Dispatcher::new(commands.clone(), Arc::clone(&tail), settings);
        let triggers = Triggers::new(commands.clone(), Arc::clone(&tail), leading.clone());
        let policies = Policies::new(commands.clone(), tail, leading.clone());
        let timers = Timers::new(commands.clone(), leading);
        let (a, b, c, d) = (cancel.clone(), cancel.clone(), cancel.clone(), cancel.clone());
        tracker.spawn(async move { dispatcher.run(a).await.expect("dispatch knows every event") });
        tracker.spawn(async move { policies.run(b).await.expect("the policies know every event") });
        tracker.spawn(async move { timers.run(c).await.expect("the timers know every event") });
        tracker.spawn(async move { triggers.run(d).await.expect("the triggers know every event") });
        let folder = tempfile::tempdir().expect("a folder");
        Self { log, commands, workspace: WorkspaceId(Uuid::now_v7()), folder, tracker, cancel }
    }

    /// Where the workspace's files are.
    pub(crate) fn files(&self) -> PathBuf {
        self.folder.path().join("files").join(self.workspace.to_string())
    }

    /// Starts a worker process.
    pub(crate) fn worker(&self) -> TestWorker {
        self.worker_with(|settings| settings)
    }

    pub(crate) fn worker_with(
        &self,
        change: impl FnOnce(WorkerSettings) -> WorkerSettings,
    ) -> TestWorker {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let settings = WorkerSettings {
            lease_ttl: LEASE,
            drain: Duration::from_secs(5),
            ..WorkerSettings::new(Uuid::now_v7().to_string(), self.folder.path())
        };
        let settings = change(settings);
        // A worker has caches of its own, as another process would.
        let commands = Commands::new(Arc::clone(&self.log), Clock::system(), Settings::default());
        let entered = runtime.enter();
        let (carry, below) = (TaskTracker::new(), CancellationToken::new());
        let tail = Tail::start(Arc::clone(&self.log), &carry, below.clone());
        let work = WorkSourceConfig { start: Some(Position::START), ..WorkSourceConfig::default() };
        let source = WorkSource::start(Arc::clone(&self.log), None, work, &carry, below.clone());
        let live = LiveLogs::new(None, Uuid::now_v7());
        let worker = Worker::start(settings, commands, tail, source, live, &tracker, stop.clone())
            .expect("a worker");
        drop(entered);
        let standing_down = worker.standing_down();
        TestWorker { runtime: Some(runtime), tracker, stop, standing_down, below }
    }

    /// Saves a workflow in the workspace.
    pub(crate) async fn workflow(&self, definition: &Value) -> WorkflowId {
        let id = WorkflowId(Uuid::now_v7());
        let definition =
            Definition::parse(Json::from_value(definition)).expect("a sound definition");
        let draft = NewDraft {
            name: "test".to_owned(),
            description: String::new(),
            definition,
            tags: Vec::new(),
            is_public: false,
        };
        let create =
            CreateWorkflow { workspace_id: self.workspace, parent_workflow_id: None, draft };
        self.commands
            .execute::<Workflow>(
                Target::new(id, self.workspace),
                &WorkflowCommand::Create(create),
                &context(),
            )
            .await
            .expect("a workflow");
        id
    }

    /// Saves the next version of a workflow.
    pub(crate) async fn save(&self, id: WorkflowId, definition: &Value) {
        let definition =
            Definition::parse(Json::from_value(definition)).expect("a sound definition");
        let draft = NewDraft {
            name: "test".to_owned(),
            description: String::new(),
            definition,
            tags: Vec::new(),
            is_public: false,
        };
        let save = WorkflowCommand::SaveDraft(SaveDraft { draft });
        let (target, context) = (Target::existing(id), context());
        let saved = self.commands.execute::<Workflow>(target, &save, &context).await;
        saved.expect("a draft");
    }

    /// Requests a run of a workflow.
    pub(crate) async fn start(&self, workflow_id: WorkflowId, input: &Value) -> ExecutionId {
        let execution_id = ExecutionId(Uuid::now_v7());
        let wanted = Start {
            execution_id,
            workflow_id,
            trigger_type: TriggerType::Manual,
            input: Json::from_value(input),
            depth: 0,
        };
        let wanted = &wanted;
        self.commands
            .execute_with::<Execution, StartRejection, _, _>(&context(), |scope| async move {
                start(&scope, wanted).await
            })
            .await
            .expect("a start");
        execution_id
    }

    /// Saves a workflow, runs it and waits for its end.
    pub(crate) async fn run(
        &self,
        definition: &Value,
        input: &Value,
    ) -> (ExecutionId, Arc<Execution>) {
        let workflow = self.workflow(definition).await;
        let id = self.start(workflow, input).await;
        (id, self.ended(id).await)
    }

    pub(crate) async fn tell(&self, id: ExecutionId, command: ExecutionCommand) {
        self.commands
            .execute::<Execution>(Target::existing(id), &command, &context())
            .await
            .expect("an accepted command");
    }

    /// Waits until a run has ended.
    pub(crate) async fn ended(&self, id: ExecutionId) -> Arc<Execution> {
        self.until(id, "to end", Execution::has_ended).await
    }

    /// Waits until a run is in a state.
    pub(crate) async fn until(
        &self,
        id: ExecutionId,
        what: &str,
        is: impl Fn(&Execution) -> bool,
    ) -> Arc<Execution> {
        let waiting = async {
            let mut head = self.log.watch_head();
            loop {
                head.mark_unchanged();
                let state =
                    self.commands.load::<Execution>(id).await.expect("a readable run").state;
                if is(&state) {
                    return state;
                }
                let _ = tokio::time::timeout(Duration::from_secs(1), head.changed()).await;
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(state) => state,
            Err(_) => panic!(
                "waited in vain for {id} {what}; its history:\n{}",
                self.history(id).await.join("\n")
            ),
        }
    }

    /// The types of a run's events, in order.
    pub(crate) async fn history(&self, id: ExecutionId) -> Vec<String> {
        self.events(id)
            .await
            .into_iter()
            .map(|event| format!("{} {}", event.r#type, event.payload))
            .collect()
    }

    pub(crate) async fn events(&self, id: ExecutionId) -> Vec<RecordedEvent> {
        self.log
            .read_stream(StreamId(id.0), StreamVersion::NEW, 10_000)
            .await
            .expect("a readable stream")
    }

    /// What happened to a run.
    pub(crate) async fn facts(&self, id: ExecutionId) -> Vec<ExecutionEvent> {
        let decode = |event: RecordedEvent| match AnyEvent::decode(
            &event.category,
            &event.r#type,
            event.schema_version,
            &event.payload,
        ) {
            Ok(AnyEvent::Execution(event)) => event,
            other => panic!("not an event of an execution: {other:?}"),
        };
        self.events(id).await.into_iter().map(decode).collect()
    }

    /// Waits until a run has printed a line, and gives all its messages. Lines are written in batches beside the events.
    pub(crate) async fn printed(&self, id: ExecutionId, line: &str) -> Vec<String> {
        let printing = async {
            loop {
                let lines = self.lines(id).await;
                if lines.iter().any(|printed| printed.contains(line)) {
                    return lines;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, printing)
            .await
            .unwrap_or_else(|_| panic!("{id} never printed {line}"))
    }

    async fn lines(&self, id: ExecutionId) -> Vec<String> {
        let query = LogQuery {
            execution_id: id.0,
            after: None,
            min_level: None,
            node: None,
            search: None,
            limit: 1_000,
        };
        self.log
            .log_lines(&query)
            .await
            .expect("readable lines")
            .into_iter()
            .map(|line| line.message)
            .collect()
    }

    /// Every open execution waits for something that will come: what the auditor finds over the whole log is nothing, whatever crashed.
    pub(crate) async fn nothing_is_stuck(&self) {
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let tail = Tail::start(Arc::clone(&self.log), &tracker, stop.clone());
        let survey = Survey::of_log(&self.commands, &tail).await.expect("the log is there");
        let found = audit(&self.commands, &survey, 0, GRACE).await.expect("the log is there");
        assert_eq!(found.stuck, [], "open, and nobody will move them");
        assert!(found.complete, "all of them were looked at");
        stop.cancel();
    }

    /// Ends it, and demands that nothing is stuck.
    pub(crate) async fn stop(self) {
        self.nothing_is_stuck().await;
        self.stop_unread().await;
    }

    /// Ends it where nobody can read the log any more.
    pub(crate) async fn stop_unread(self) {
        self.cancel.cancel();
        self.tracker.close();
        within(self.tracker.wait()).await;
    }
}

impl TestWorker {
    /// As `kill -9`: nothing of it runs any more, whatever it was doing.
    pub(crate) fn kill(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// The same, and returns once nothing of it runs: what its end makes of its tasks is no longer reported by anybody.
    pub(crate) async fn killed(mut self) {
        if let Some(runtime) = self.runtime.take() {
            let gone = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(PATIENCE));
            gone.await.expect("a runtime can be shut down");
        }
    }

    /// As a stop by its operator: it drains.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        self.tracker.close();
        within(self.tracker.wait()).await;
        self.below.cancel();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for TestWorker {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub(crate) fn context() -> Context {
    Context::new(Actor::system("test"))
}

/// The wall clock, for a simulated log in real time.
pub(crate) fn wall_clock() -> ledgerline_store::simulated::SimulatedClock {
    Arc::new(Utc::now)
}

/// Fails the test when something does not happen in time.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens in time")
}
