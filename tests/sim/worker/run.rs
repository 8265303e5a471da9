//! One execution in a worker: a round, its append, the effects that it begins.

use std::{collections::BTreeMap, pin::Pin, sync::Arc, time::Duration};

use chrono::TimeDelta;
use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use ledgerline_commands::{CommandError, Context, Target, definitions::at_hand};
use ledgerline_domain::{
    Aggregate as _,
    event::Actor,
    execution::{
        Action, Approval, Attempt, Awaited, ChildRun, Claim, Ending, ErrorKind, Execution,
        ExecutionCommand, ExecutionRejection, NodeError, NodeOutput, NodePath, Outcome, Plan,
        Planner, Report, Step, Task, TaskLease,
    },
    graph::Graph,
    id::ExecutionId,
    json::Json,
    node::NodeConfig,
    workflow::Workflow,
};
use serde_json::json;
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;

use super::Worker;
use crate::graphs::SIGNAL;

/// How often in a row the state may turn out to be another before the item is handed back.
const MAX_REPLANS: u32 = 20;

/// How often the body of a `logic.while` runs at most.
const MAX_ITERATIONS: u32 = 3;

/// What becomes of the delivery.
pub(super) enum After {
    /// It was taken, or is of no use any more.
    Done,
    /// It was never taken.
    DeliverAgain,
}

enum Stop {
    StandDown,
    HandBack,
}

type Tried = (NodePath, Attempt, Result<(), ErrorKind>);

struct Planned {
    planner: Planner,
    report: Report,
    begin: Vec<(NodePath, Attempt)>,
    abort: bool,
    over: bool,
    /// It turned back instead of ending.
    more: bool,
}

struct Running<'a> {
    worker: &'a Worker,
    id: ExecutionId,
    claim: Claim,
    plan: Arc<Plan>,
    graph: Arc<Graph>,
    base: Arc<Execution>,
    planner: Planner,
    tried: Vec<Tried>,
    effects: FuturesUnordered<Pin<Box<dyn Future<Output = Tried> + Send>>>,
    under_way: BTreeMap<NodePath, Attempt>,
    replans: u32,
}

pub(super) async fn run(
    worker: &Worker,
    id: ExecutionId,
    claim: Claim,
    heard: &Notify,
    abandon: &CancellationToken,
) -> After {
    let mut taken = false;
    let ended = tokio::select! {
        biased;
        () = abandon.cancelled() => Err(Stop::HandBack),
        ended = go(worker, id, claim, heard, &mut taken) => ended,
    };
    match ended {
        Ok(()) | Err(Stop::StandDown) => After::Done,
        Err(Stop::HandBack) if !taken => After::DeliverAgain,
        Err(Stop::HandBack) => {
            give_back(worker, id, claim).await;
            After::Done
        }
    }
}

/// Has a claim that was taken handed out again.
async fn give_back(worker: &Worker, id: ExecutionId, claim: Claim) {
    let command = ExecutionCommand::Redispatch { claim };
    loop {
        sleep(Duration::from_millis(500)).await;
        let (target, context) = (Target::existing(id), context());
        match worker.commands.execute::<Execution>(target, &command, &context).await {
            Err(error) if error.may_pass() => {}
            Ok(_) | Err(_) => return,
        }
    }
}

async fn go(
    worker: &Worker,
    id: ExecutionId,
    claim: Claim,
    heard: &Notify,
    taken: &mut bool,
) -> Result<(), Stop> {
    let Some(mut running) = Running::take_up(worker, id, claim).await? else { return Ok(()) };
    loop {
        if running.turned_back() {
            running.abort();
        }
        let planned = running.round().map_err(|_| Stop::StandDown)?;
        if planned.abort {
            running.abort();
        }
        let (over, more) = (planned.over, planned.more);
        if !running.append(planned).await? {
            continue;
        }
        *taken = true;
        if over {
            return Ok(());
        }
        if more {
            continue;
        }
        tokio::select! {
            biased;
            Some(tried) = running.effects.next() => {
                running.under_way.remove(&tried.0);
                running.tried.push(tried);
            }
            () = heard.notified() => {
                running.again().await?;
                running.replans = 0;
            }
        }
    }
}

fn context() -> Context {
    Context::new(Actor::system("worker"))
}

impl<'a> Running<'a> {
    async fn take_up(
        worker: &'a Worker,
        id: ExecutionId,
        claim: Claim,
    ) -> Result<Option<Self>, Stop> {
        let loaded = worker.commands.load::<Execution>(id).await.map_err(|_| Stop::HandBack)?;
        let Some(open) = loaded.state.open().filter(|open| open.claim == claim) else {
            return Ok(None);
        };
        let (workflow, version) = (open.run.request.workflow_id, open.run.request.workflow_version);
        let id_of_workflow = workflow;
        let workflow =
            worker.commands.load::<Workflow>(workflow).await.map_err(|_| Stop::HandBack)?;
        let content = workflow.state.content().expect("no workflow is ever gone");
        let log = worker.commands.log().as_ref();
        at_hand(log, id_of_workflow, content, version).await.map_err(|_| Stop::HandBack)?;
        let graph = content.graph(version).expect("the version was run");
        let plan = Plan::of(&graph);
        Ok(Some(Self {
            planner: Planner::new(Arc::clone(&plan)),
            base: loaded.state,
            tried: Vec::new(),
            effects: FuturesUnordered::new(),
            under_way: BTreeMap::new(),
            replans: 0,
            worker,
            id,
            claim,
            plan,
            graph,
        }))
    }

    /// Whether the run undoes what it did since somebody else ended it while effects of it were under way here.
    fn turned_back(&self) -> bool {
        let runs = |path: &NodePath| self.base.in_flight().any(|(running, _)| running == path);
        self.base.open().is_some_and(|open| open.undoing().is_some())
            && self.under_way.keys().any(|path| !runs(path))
    }

    fn abort(&mut self) {
        self.effects.clear();
        self.under_way.clear();
        self.tried.clear();
    }

    /// What is appended next: the outcomes, and all that follows from them at once.
    fn round(&self) -> Result<Planned, ExecutionRejection> {
        let mut spec = Execution::clone(&self.base);
        let mut planned = Planned {
            planner: self.planner.clone(),
            report: Report {
                worker: self.worker.name.clone(),
                claim: self.claim,
                interventions: self.base.interventions(),
                steps: Vec::new(),
            },
            begin: Vec::new(),
            abort: false,
            over: false,
            more: false,
        };
        let awaited = |tried: &&Tried| {
            spec.in_flight().any(|(path, node)| *path == tried.0 && node.attempt == tried.1)
        };
        let tried: Vec<Tried> = self.tried.iter().filter(awaited).cloned().collect();
        let outcomes = tried.into_iter().map(|tried| self.ended(tried)).collect();
        self.apply(&mut spec, &mut planned.report, outcomes)?;
        // The answer to its append was lost, so its effect never began.
        let unknown = spec.in_flight().filter(|(path, _)| !self.under_way.contains_key(*path));
        planned.begin = unknown.map(|(path, node)| (path.clone(), node.attempt)).collect();
        while !planned.over && !planned.more {
            let actions = planned.planner.next(&spec);
            let (mut steps, mut held) = (Vec::new(), false);
            for action in actions {
                if held && !action.may_follow_a_hold() {
                    continue;
                }
                let step = self.step(action, &mut planned);
                held |= step.as_ref().is_some_and(Step::holds_run);
                steps.extend(step);
            }
            if steps.is_empty() {
                break;
            }
            let is_last = steps.iter().any(Step::is_last);
            self.apply(&mut spec, &mut planned.report, steps)?;
            planned.over |= spec.has_ended();
            planned.more = is_last && !planned.over;
        }
        if planned.abort {
            planned.begin.clear();
        }
        Ok(planned)
    }

    fn apply(
        &self,
        spec: &mut Execution,
        report: &mut Report,
        steps: Vec<Step>,
    ) -> Result<(), ExecutionRejection> {
        let part = Report { steps: steps.clone(), ..report.clone() };
        let now = self.worker.commands.clock().now();
        for event in &spec.decide(&ExecutionCommand::Report(part), now)? {
            *spec = std::mem::take(spec).evolve(event);
        }
        report.steps.extend(steps);
        Ok(())
    }

    fn step(&self, action: Action, planned: &mut Planned) -> Option<Step> {
        let dice = &self.worker.ground.dice;
        let input = Json::null();
        Some(match action {
            Action::RunNode { path, attempt } => {
                planned.begin.push((path.clone(), attempt));
                Step::Start { path, attempt, input, secrets: Vec::new() }
            }
            Action::EvaluateInline { path, attempt } => {
                let failed = dice.once_in(30).then_some(ErrorKind::Validation);
                self.ended((path, attempt, failed.map_or(Ok(()), Err)))
            }
            Action::BeginWait { path, attempt } => self.wait(path, attempt),
            Action::Merge { path, attempt, output } => {
                complete(path, attempt, NodeOutput::Inline(gathered(&output)), None)
            }
            Action::OpenLoop { path, attempt } if path.node_id().starts_with("while") => {
                Step::OpenWhile { path, attempt, max_iterations: MAX_ITERATIONS }
            }
            Action::CheckCondition { path, attempt, iteration, max_iterations, last } => {
                match (dice.once_in(3), iteration < max_iterations) {
                    (false, true) => Step::Iterate { path, iteration },
                    (false, false) => self.ended((path, attempt, Err(ErrorKind::Permanent))),
                    (true, _) => complete(path, attempt, NodeOutput::Inline(gathered(&last)), None),
                }
            }
            Action::FailItem { path, item, node, error } => {
                Step::FailItem { path, item, node, error }
            }
            Action::OpenLoop { path, attempt } => {
                let items = (0..dice.below(4)).map(|item| Json::from_value(&json!(item)));
                Step::OpenLoop { path, attempt, items: items.collect() }
            }
            Action::CloseLoop { path, attempt, output } => {
                let output = NodeOutput::Inline(gathered(&output));
                complete(path, attempt, output, None)
            }
            Action::SkipNode { path, reason } => Step::Skip { path, reason },
            Action::FailNode { path, attempt, error, .. } => self.failed(path, attempt, error),
            Action::Abort => {
                planned.abort = true;
                return None;
            }
            Action::LetGo { .. } => {
                planned.over = true;
                Step::LetGo
            }
            Action::Finish(ending) => Step::Finish(match ending {
                Ending::Completed(output) => {
                    Outcome::Completed { output: NodeOutput::Inline(gathered(&output)) }
                }
                Ending::Failed { node, error } => {
                    assert!(node.is_some(), "{}: the run got stuck: {}", self.id, error.message);
                    Outcome::Failed { node, error }
                }
                Ending::Cancelled => Outcome::Cancelled,
                Ending::Undone => Outcome::Undone,
            }),
        })
    }

    /// What a node waits for, and until when.
    fn wait(&self, path: NodePath, attempt: Attempt) -> Step {
        let after = |ms: u64| {
            let wait = TimeDelta::milliseconds(i64::try_from(ms).expect("some seconds"));
            self.worker.commands.clock().now() + wait
        };
        let (graph, index) = self.graph.find(path.node_id()).expect("it is in the plan");
        let node = graph.node(index);
        let (awaited, until) = match node.config() {
            NodeConfig::Workflow(config) => {
                let child = ChildRun {
                    execution_id: self.id.child(&path, attempt),
                    workflow_id: config.workflow_id,
                    version: config.version,
                    input: Json::null(),
                    waits: config.wait,
                };
                return Step::StartChild { path, attempt, input: Json::null(), child };
            }
            NodeConfig::Approval(config) => {
                let approval = Approval {
                    title: "May it?".to_owned(),
                    description: None,
                    fields: Vec::new(),
                    buttons: config.buttons.clone(),
                    roles: Vec::new(),
                    users: Vec::new(),
                    timeout_ms: config.timeout_ms,
                };
                (Awaited::Approval(Box::new(approval)), config.timeout_ms.map(after))
            }
            NodeConfig::Signal(config) => {
                (Awaited::Signal { name: SIGNAL.to_owned() }, config.timeout_ms.map(after))
            }
            NodeConfig::Worker(config) => {
                let task = Task {
                    queue: config.queue.clone(),
                    heartbeat_timeout_ms: config.heartbeat_timeout_ms,
                    idempotent: node.is_idempotent(),
                    lease: TaskLease(0),
                    worker: None,
                };
                (Awaited::Task(Box::new(task)), node.timeout_ms().map(after))
            }
            _ => (Awaited::Time, Some(after(self.worker.ground.dice.below(1_500)))),
        };
        Step::Wait { path, attempt, input: Json::null(), awaited, until }
    }

    fn ended(&self, (path, attempt, result): Tried) -> Step {
        match result {
            Ok(()) => {
                let is_choice = path.node_id().starts_with("if");
                let port = if self.worker.ground.dice.once_in(2) { "true" } else { "false" };
                let port = is_choice.then(|| port.to_owned());
                complete(path, attempt, NodeOutput::Inline(Json::null()), port)
            }
            Err(kind) => {
                let error = NodeError { kind, message: "by chance".to_owned(), details: None };
                self.failed(path, attempt, error)
            }
        }
    }

    fn failed(&self, path: NodePath, attempt: Attempt, error: NodeError) -> Step {
        let now = self.worker.commands.clock().now();
        let then = self.plan.after_failure(&path, attempt, &error, now, 0.5);
        Step::Fail { path, attempt, error, duration_ms: 0, then }
    }

    /// Appends a round and begins its effects. False when the state turned out to be another.
    async fn append(&mut self, planned: Planned) -> Result<bool, Stop> {
        let command = ExecutionCommand::Report(planned.report);
        let target = Target::existing(self.id);
        let context = context();
        match self.worker.commands.execute::<Execution>(target, &command, &context).await {
            Ok(executed) => {
                self.base = executed.state;
                self.planner = planned.planner;
                self.tried.clear();
                self.replans = 0;
                for (path, attempt) in planned.begin {
                    self.begin(path, attempt);
                }
                Ok(true)
            }
            Err(CommandError::Rejected(
                ExecutionRejection::ClaimLost { .. }
                | ExecutionRejection::Ended(_)
                | ExecutionRejection::NotRequested,
            )) => Err(Stop::StandDown),
            Err(CommandError::Rejected(rejection @ ExecutionRejection::Contradiction { .. })) => {
                panic!("{}: what was planned on the state is refused: {rejection}", self.id)
            }
            Err(CommandError::Invalid { reason }) => panic!("{}: {reason}", self.id),
            Err(error) if error.must_stand_down() => panic!("{}: {error}", self.id),
            Err(_) => self.again().await,
        }
    }

    async fn again(&mut self) -> Result<bool, Stop> {
        self.replans += 1;
        if self.replans > MAX_REPLANS {
            return Err(Stop::HandBack);
        }
        sleep(Duration::from_millis(u64::from(self.replans) * 10)).await;
        // When it can't be read, what is known is planned on again.
        if let Ok(loaded) = self.worker.commands.load::<Execution>(self.id).await {
            self.base = loaded.state;
            self.planner = Planner::new(Arc::clone(&self.plan));
        }
        Ok(false)
    }

    fn begin(&mut self, path: NodePath, attempt: Attempt) {
        let idempotent = self.plan.node(&path).is_some_and(|node| node.idempotent);
        let ground = &self.worker.ground;
        // A process that died of this append begins nothing: its tasks are ended before they are polled again.
        if ground.weather.is_dead(self.worker.number) {
            return;
        }
        ground.effects.begin(self.id, &path, attempt, idempotent);
        self.under_way.insert(path.clone(), attempt);
        let takes = Duration::from_millis(ground.dice.below(400));
        let result = match ground.dice.below(20) {
            0 | 1 => Err(ErrorKind::Transient),
            2 => Err(ErrorKind::Permanent),
            _ => Ok(()),
        };
        let effect = async move {
            sleep(takes).await;
            (path, attempt, result)
        };
        self.effects.push(effect.boxed());
    }
}

fn complete(path: NodePath, attempt: Attempt, output: NodeOutput, port: Option<String>) -> Step {
    Step::Complete { path, attempt, output, port, variable: None, duration_ms: 0 }
}

fn gathered(output: &ledgerline_domain::execution::Gather) -> Json {
    output.to_json(&Default::default()).expect("there are no blobs here")
}
