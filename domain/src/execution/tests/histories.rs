//! Random graphs under random pauses, cancels, timers and crashes: every history ends, and a crash changes nothing but the time it takes.

mod in_turn;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// The run of every history.
const RUN: crate::id::ExecutionId = crate::id::ExecutionId(Uuid::from_u128(3));

/// How many sorts of nodes there are in a random graph.
const KINDS: u8 = 18;

/// What the outside world does at a boundary between two appends.
#[derive(Clone, Copy, Debug)]
enum Happening {
    /// The worker goes on; the number chooses which of its effects ends first.
    Work(u8),
    /// The worker is gone with everything that it did not report.
    Crash,
    Pause,
    Unpause,
    Cancel,
    Fire,
}

/// A worker process: what it remembers is gone with it.
struct Worker {
    planner: Planner,
    effects: BTreeMap<NodePath, Attempt>,
}

struct World {
    plan: Arc<Plan>,
    history: Vec<ExecutionEvent>,
    execution: Execution,
    worker: Option<Worker>,
    seconds: i64,
    /// The node that fails whatever it is.
    fails: Option<String>,
}

impl World {
    fn new(plan: Arc<Plan>, limit: Option<ConcurrencyLimit>) -> Self {
        Self::of(plan, request(limit))
    }

    fn of(plan: Arc<Plan>, request: RequestExecution) -> Self {
        let mut undoes = BTreeMap::new();
        collect_undoes(&plan, &mut undoes);
        let request = RequestExecution { undoes, ..request };
        let mut world = Self {
            plan,
            history: Vec::new(),
            execution: Execution::New,
            worker: None,
            seconds: 0,
            fails: None,
        };
        world.tell(ExecutionCommand::Request(Box::new(request))).expect("it is new");
        world
    }

    fn tell(&mut self, command: ExecutionCommand) -> Result<usize, ExecutionRejection> {
        self.seconds += 1;
        let events = self.execution.decide(&command, at(self.seconds))?;
        for event in &events {
            self.execution = std::mem::take(&mut self.execution).evolve(event);
        }
        self.history.extend(events.iter().cloned());
        let is_open = self.execution.open().is_some();
        assert_eq!(self.execution.waits_for().is_some(), is_open, "{command:?}");
        Ok(events.len())
    }

    fn happen(&mut self, happening: Happening) {
        let Some(open) = self.execution.open() else { return };
        let claim = open.claim;
        match happening {
            Happening::Work(choice) => self.go_on(choice),
            Happening::Crash => {
                // Five in a row end a run by themselves.
                if open.lost_claims < 3 {
                    self.worker = None;
                    self.tell(ExecutionCommand::Redispatch { claim }).expect("a repeat at worst");
                }
            }
            Happening::Pause => {
                let _ = self.tell(ExecutionCommand::Pause { reason: PauseReason::User });
            }
            Happening::Unpause => {
                let _ = self.tell(ExecutionCommand::Unpause { reason: PauseReason::User });
            }
            Happening::Cancel => {
                let reason = CancelReason::StoppedByUser;
                let told = self.tell(ExecutionCommand::Cancel { reason });
                let refused = ExecutionRejection::Compensating;
                assert!(told.is_ok() || told == Err(refused), "a repeat at worst: {told:?}");
            }
            Happening::Fire => self.fire(),
        }
    }

    /// Whoever is to move the run moves it.
    fn go_on(&mut self, choice: u8) {
        let Some(waits_for) = self.execution.waits_for() else { return };
        match waits_for {
            WaitsFor::Slot { .. } => {
                let claim = Claim(self.execution.open().expect("it waits").claim.0 + 1);
                self.worker = None;
                self.tell(ExecutionCommand::Dispatch { claim }).expect("it has no claim");
            }
            WaitsFor::Nodes { .. } if self.a_child_ends() => {}
            WaitsFor::Nodes { .. } => self.fire(),
            WaitsFor::Worker { claim } => {
                let planner = Planner::new(Arc::clone(&self.plan));
                self.worker = Some(Worker { planner, effects: BTreeMap::new() });
                self.work(claim, choice);
            }
            WaitsFor::Lease { claim, .. } if self.worker.is_some() => self.work(claim, choice),
            // It crashed and its lease ran out.
            WaitsFor::Lease { claim, .. } => {
                self.tell(ExecutionCommand::Redispatch { claim }).expect("the claim is live");
            }
            WaitsFor::Resume { held, .. } if !held.is_empty() => {
                let (path, output) = (held[0].clone(), json!("decided").into());
                let resolution = match number_of(&path) % 3 {
                    0 => Resolution::Fail,
                    _ => Resolution::Complete { output, port: None },
                };
                self.tell(ExecutionCommand::Resolve { path, resolution }).expect("it is held");
            }
            WaitsFor::Resume { reason, .. } => {
                self.tell(ExecutionCommand::Unpause { reason }).expect("it is paused");
            }
        }
    }

    /// Whether a node waited for a child, which then comes to its end.
    fn a_child_ends(&mut self) -> bool {
        let Some(open) = self.execution.open() else { return false };
        let child = open.run.active().find_map(|(path, node)| match &node.state {
            NodeState::Waiting(waiting) => match waiting.awaited {
                Awaited::Child(child) => Some((path.clone(), node.attempt, child)),
                _ => None,
            },
            _ => None,
        });
        let Some((path, attempt, child)) = child else { return false };
        let end = match number_of(&path) % 4 {
            0 => ChildEnd::Failed { node: None, error: failure(ErrorKind::Permanent) },
            1 => ChildEnd::Refused { reason: "there is none".to_owned() },
            2 => ChildEnd::Cancelled { reason: CancelReason::StoppedByUser },
            _ => ChildEnd::Completed { output: NodeOutput::Inline(json!("child").into()) },
        };
        self.tell(ExecutionCommand::FinishChild { path, attempt, child, end })
            .expect("never refused");
        true
    }

    fn fire(&mut self) {
        let Some(open) = self.execution.open() else { return };
        let due = open.run.active().filter_map(|(path, node)| {
            let kind = match node.state {
                NodeState::Waiting { .. } => TimerKind::Wait,
                NodeState::Retrying { .. } => TimerKind::Retry,
                _ => return None,
            };
            Some((node.due_at()?, path.clone(), node.attempt, kind))
        });
        if let Some((_, path, attempt, kind)) = due.min() {
            self.tell(ExecutionCommand::FireTimer { path, attempt, kind }).expect("never refused");
        }
    }

    /// One round of a worker: the outcome of one effect, what follows from it, one append.
    fn work(&mut self, claim: Claim, choice: u8) {
        let mut worker = self.worker.take().expect("a worker has it");
        let mut report = Report {
            worker: WORKER.to_owned(),
            claim,
            interventions: self.execution.interventions(),
            steps: Vec::new(),
        };
        let mut local = self.execution.clone();
        let mut events = Vec::new();
        self.try_out(&mut local, &mut report, &mut events, Vec::new());
        let is_cancelled = matches!(
            local.open().map(|open| &open.phase),
            Some(Phase::Running { intent: Intent::Cancel(_), .. })
        );
        if !is_cancelled && !worker.effects.is_empty() {
            let nth = usize::from(choice) % worker.effects.len();
            let (path, attempt) = worker.effects.iter().nth(nth).expect("it is in range");
            let step = self.outcome(path, *attempt);
            self.try_out(&mut local, &mut report, &mut events, vec![step]);
        }
        loop {
            let actions = worker.planner.next(&local);
            assert_eq!(actions, next(&local, &self.plan), "memory changes no answer");
            let (mut steps, mut held) = (Vec::new(), false);
            for action in &actions {
                if held && !action.may_follow_a_hold() {
                    continue;
                }
                let step = self.step(action);
                held |= step.as_ref().is_some_and(Step::holds_run);
                steps.extend(step);
            }
            if steps.is_empty() {
                break;
            }
            let is_last = steps.iter().any(Step::is_last);
            self.try_out(&mut local, &mut report, &mut events, steps);
            if is_last {
                break;
            }
        }
        let before = self.history.len();
        let appended = self.tell(ExecutionCommand::Report(report)).expect("nobody intervened");
        assert_eq!(self.history[before..], events, "in parts or as a whole");
        assert!(appended > 0 || !worker.effects.is_empty(), "a round leads to something");
        assert_eq!(self.execution, local);
        worker.effects =
            self.execution.in_flight().map(|(path, node)| (path.clone(), node.attempt)).collect();
        let keeps = matches!(self.execution.waits_for(), Some(WaitsFor::Lease { .. }));
        self.worker = keeps.then_some(worker);
    }

    /// Decides steps on a state that is not appended yet.
    fn try_out(
        &self,
        local: &mut Execution,
        report: &mut Report,
        events: &mut Vec<ExecutionEvent>,
        steps: Vec<Step>,
    ) {
        let part = Report { steps: steps.clone(), ..report.clone() };
        let decided = local
            .decide(&ExecutionCommand::Report(part), at(self.seconds + 1))
            .expect("what is planned is accepted");
        for event in &decided {
            *local = std::mem::take(local).evolve(event);
        }
        events.extend(decided);
        report.steps.extend(steps);
    }

    fn step(&self, action: &Action) -> Option<Step> {
        let input = json!({}).into();
        Some(match action.clone() {
            Action::RunNode { path, attempt } => {
                Step::Start { path, attempt, input, secrets: Vec::new() }
            }
            Action::EvaluateInline { path, attempt } => self.outcome(&path, attempt),
            Action::BeginWait { path, attempt } if path.node_id().starts_with("child") => {
                let child = ChildRun {
                    execution_id: RUN.child(&path, attempt),
                    workflow_id: WorkflowId(Uuid::from_u128(4)),
                    version: None,
                    input: Json::null(),
                    waits: !path.node_id().starts_with("child_go"),
                };
                Step::StartChild { path, attempt, input, child }
            }
            Action::BeginWait { path, attempt } => {
                let until = Some(at(1_000 + i64::from(number_of(&path) % 100)));
                Step::Wait { path, attempt, input, awaited: Awaited::Time, until }
            }
            Action::Merge { path, attempt, output } => {
                // Which branch comes first is a matter of time, and nothing may depend on it here.
                let output = match output {
                    Gather::One(_) => NodeOutput::Inline(json!("one").into()),
                    all => NodeOutput::Inline(gathered(&all)),
                };
                completed(path, attempt, output)
            }
            Action::OpenLoop { path, attempt } if path.node_id().starts_with("while") => {
                Step::OpenWhile { path, attempt, max_iterations: 2 }
            }
            Action::CheckCondition { path, attempt, iteration, max_iterations, last } => {
                if iteration == u32::from(number_of(&path) % 4) {
                    completed(path, attempt, NodeOutput::Inline(gathered(&last)))
                } else if iteration < max_iterations {
                    Step::Iterate { path, iteration }
                } else {
                    self.failed(path, attempt, failure(ErrorKind::Permanent))
                }
            }
            Action::FailItem { path, item, node, error } => {
                Step::FailItem { path, item, node, error }
            }
            Action::OpenLoop { path, attempt } => {
                let items = vec![json!(1).into(); usize::from(number_of(&path) % 4)];
                Step::OpenLoop { path, attempt, items }
            }
            Action::CloseLoop { path, attempt, output } => {
                completed(path, attempt, NodeOutput::Inline(gathered(&output)))
            }
            Action::SkipNode { path, reason } => Step::Skip { path, reason },
            Action::FailNode { path, attempt, error, .. } => self.failed(path, attempt, error),
            Action::Abort => return None,
            Action::LetGo { .. } => Step::LetGo,
            Action::Finish(Ending::Completed(output)) => {
                let output = NodeOutput::Inline(gathered(&output));
                Step::Finish(Outcome::Completed { output })
            }
            Action::Finish(Ending::Failed { node, error }) => {
                assert!(node.is_some(), "a run never gets stuck");
                Step::Finish(Outcome::Failed { node, error })
            }
            Action::Finish(Ending::Cancelled) => Step::Finish(Outcome::Cancelled),
            Action::Finish(Ending::Undone) => Step::Finish(Outcome::Undone),
        })
    }

    /// What a node comes to follows from its path and try alone.
    fn outcome(&self, path: &NodePath, attempt: Attempt) -> Step {
        let id = path.node_id();
        let number = number_of(path);
        let fails = (id.starts_with("half") && number.is_multiple_of(3))
            || (id.starts_with("undo") && number.is_multiple_of(4));
        if id.starts_with("bad") || fails || self.fails.as_deref() == Some(id) {
            return self.failed(path.clone(), attempt, failure(ErrorKind::Permanent));
        }
        let is_flaky = id.starts_with("flaky") || (id.starts_with("undo") && number % 4 == 1);
        if is_flaky && attempt == Attempt(1) {
            return self.failed(path.clone(), attempt, failure(ErrorKind::Transient));
        }
        let is_choice = id.starts_with("if");
        let port = if number_of(path).is_multiple_of(2) { "true" } else { "false" };
        Step::Complete {
            path: path.clone(),
            attempt,
            output: NodeOutput::Inline(json!(path.as_str()).into()),
            port: is_choice.then(|| port.to_owned()),
            variable: None,
            duration_ms: 0,
        }
    }

    fn failed(&self, path: NodePath, attempt: Attempt, error: NodeError) -> Step {
        let then = self.plan.after_failure(&path, attempt, &error, at(self.seconds), 0.5);
        Step::Fail { path, attempt, error, duration_ms: 0, then }
    }

    /// Goes on undisturbed until it ends.
    fn settle(&mut self) {
        for _ in 0..2_000 {
            if self.execution.has_ended() {
                return;
            }
            self.go_on(0);
        }
        panic!("it never ends: {:?}", self.execution.waits_for());
    }

    fn ending(&self) -> (Option<Status>, Option<NodeOutput>) {
        let output = match &self.execution {
            Execution::Completed { output, .. } => Some(output.clone()),
            _ => None,
        };
        (self.execution.status(), output)
    }
}

/// Nodes that undo are called after what they undo.
fn collect_undoes(plan: &Plan, undoes: &mut BTreeMap<String, String>) {
    let undoing = |id: &str| format!("undo_{id}");
    for index in plan.flow() {
        let node = plan.at(index);
        if plan.index_of(&undoing(&node.id)).is_some() {
            undoes.insert(node.id.clone(), undoing(&node.id));
        }
        if let Some((body, _)) = node.work.body() {
            collect_undoes(body, undoes);
        }
    }
}

fn completed(path: NodePath, attempt: Attempt, output: NodeOutput) -> Step {
    Step::Complete { path, attempt, output, port: None, variable: None, duration_ms: 0 }
}

fn gathered(output: &Gather) -> Json {
    output.to_json(&Default::default()).expect("there are no blobs here")
}

fn number_of(path: &NodePath) -> u8 {
    path.as_str().bytes().fold(7, |hash: u8, byte| hash.wrapping_mul(31).wrapping_add(byte))
}

/// A node of a random graph: its kind, two sources among those before it, and by which port.
type Sketch = (u8, u8, u8, bool);

fn definition(sketches: &[Sketch], effects_repeat: bool) -> Arc<Plan> {
    Plan::of(&graph(sketches, effects_repeat))
}

fn graph(sketches: &[Sketch], effects_repeat: bool) -> Graph {
    let mut nodes: Vec<Value> = Vec::new();
    let mut connections = Vec::new();
    let mut undoing = Vec::new();
    for (index, (kind, first, second, port)) in sketches.iter().enumerate() {
        let mut node = sketched(index, *kind, effects_repeat);
        if matches!(kind % KINDS, 0 | 4 | 7 | 15) && kind % 4 != 1 {
            undoing.push(undoable(&mut node, effects_repeat));
        }
        nodes.push(node);
        let mut sources: Vec<usize> = [first, second]
            .into_iter()
            .filter(|_| index > 0)
            .map(|source| usize::from(*source) % index)
            .collect();
        sources.dedup();
        for source in sources {
            let from = nodes[source]["id"].clone();
            let to = nodes[index]["id"].clone();
            let id = from.as_str().expect("an id is a string");
            connections.push(match (id.starts_with("if"), id.contains("branch"), port) {
                (true, _, true) => json!({"from": from, "to": to, "port": "true"}),
                (true, _, false) => json!({"from": from, "to": to, "port": "false"}),
                (false, true, true) => json!({"from": from, "to": to, "port": "error"}),
                (false, _, _) => json!({"from": from, "to": to}),
            });
        }
    }
    nodes.extend(undoing);
    graph_of(json!(nodes), json!(connections))
}

/// Gives a node an undo, and answers that.
fn undoable(node: &mut Value, effects_repeat: bool) -> Value {
    let undo = format!("undo_{}", node["id"].as_str().expect("an id is a string"));
    let config = json!({"method": "GET", "url": "https://a.test"});
    node["undo"] = json!(undo);
    json!({"id": undo, "type": "action.http", "config": config, "idempotent": effects_repeat})
}

#[expect(clippy::too_many_lines, reason = "one arm a kind of node: the list is the length")]
fn sketched(index: usize, kind: u8, effects_repeat: bool) -> Value {
    let config = json!({"method": "GET", "url": "https://a.test"});
    let effect = |id: String, on_error: Value| {
        json!({"id": id, "type": "action.http", "config": config, "on_error": on_error,
            "idempotent": effects_repeat})
    };
    let fail = || json!("fail");
    let each = |id: String, nodes: Value, connections: Value, on_error: &str| {
        json!({"id": id, "type": "logic.for_each", "on_error": on_error, "config": {
            "items": "input", "concurrency": 2, "nodes": nodes, "connections": connections}})
    };
    let wait = |id: String| json!({"id": id, "type": "logic.wait", "config": {"duration_ms": 1}});
    let choice =
        |id: String| json!({"id": id, "type": "logic.if", "config": {"condition": "true"}});
    match kind % KINDS {
        0 => effect(format!("ok{index}"), fail()),
        1 => json!({"id": format!("map{index}"), "type": "logic.transform",
            "config": {"expression": "1"}}),
        2 => choice(format!("if{index}")),
        3 => wait(format!("wait{index}")),
        4 => effect(format!("flaky{index}"), fail()),
        5 => effect(format!("bad_go{index}"), json!({"action": "continue", "value": 1})),
        6 => effect(format!("bad_branch{index}"), json!("branch")),
        7 => {
            let mut undone = effect(format!("ok_in{index}"), fail());
            let inner = json!([
                undoable(&mut undone, effects_repeat),
                undone,
                choice(format!("if_in{index}")),
                wait(format!("wait_in{index}")),
                effect(format!("flaky_in{index}"), fail()),
            ]);
            let connections = json!([
                {"from": format!("ok_in{index}"), "to": format!("if_in{index}")},
                {"from": format!("if_in{index}"), "to": format!("wait_in{index}"), "port": "true"},
                {"from": format!("if_in{index}"), "to": format!("flaky_in{index}"),
                    "port": "false"},
            ]);
            each(format!("each{index}"), inner, connections, "fail")
        }
        8 => {
            let bad = json!([
                effect(format!("bad_in{index}"), fail()),
                wait(format!("wait_in{index}")),
                effect(format!("ok_in{index}"), fail()),
            ]);
            let nested = each(format!("inner{index}"), bad, json!([]), "fail");
            let on_error = "continue";
            each(format!("each{index}"), json!([nested]), json!([]), on_error)
        }
        9 => effect(format!("bad{index}"), fail()),
        14 => effect(format!("bad_hold{index}"), json!("pause")),
        15 | 16 => {
            let id = if kind.is_multiple_of(2) { "child" } else { "child_go" };
            let config = json!({"workflow_id": Uuid::from_u128(4)});
            json!({"id": format!("{id}{index}"), "type": "logic.workflow", "config": config,
                "on_error": "branch"})
        }
        10 | 11 => {
            let mode = if kind.is_multiple_of(2) { "any" } else { "all" };
            json!({"id": format!("merge{index}"), "type": "logic.merge", "config": {"mode": mode}})
        }
        12 => {
            let inner = json!([
                effect(format!("half_in{index}"), fail()),
                wait(format!("wait_in{index}")),
                effect(format!("after_in{index}"), fail()),
            ]);
            let connections =
                json!([{"from": format!("half_in{index}"), "to": format!("after_in{index}")}]);
            let mut tolerant = each(format!("each{index}"), inner, connections, "fail");
            let word = if kind < 128 { "continue" } else { "collect" };
            tolerant["config"]["on_item_error"] = json!(word);
            tolerant
        }
        13 => {
            let inner = json!([
                effect(format!("flaky_in{index}"), fail()),
                wait(format!("wait_in{index}")),
                each(
                    format!("inner{index}"),
                    json!([choice(format!("if_in{index}"))]),
                    json!([]),
                    "fail"
                ),
            ]);
            json!({"id": format!("while{index}"), "type": "logic.while", "on_error": "continue",
                "config": {"condition": "last == null", "max_iterations": 2, "nodes": inner}})
        }
        _ => effect(format!("ok{index}"), json!("branch")),
    }
}

/// Every node that completed here and has an undo is undone once, the last one first, or named as not undone; and nothing else is.
fn check_undoing(history: &[ExecutionEvent]) {
    let turn =
        history.iter().position(|event| matches!(event, ExecutionEvent::CompensationStarted(_)));
    let Some(ExecutionEvent::ExecutionRequested(request)) = history.first() else { return };
    let undoes = &request.undoes;
    let (before, after) = history.split_at(turn.unwrap_or(history.len()));
    let early = before.iter().any(|event| {
        matches!(
            event, ExecutionEvent::NodeStarted(started) if started.undoes.is_some()
        )
    });
    assert!(!early, "nothing is undone before the run turns back");
    let mut to_undo: Vec<&NodePath> = Vec::new();
    for event in before {
        let ExecutionEvent::NodeCompleted(done) = event else { continue };
        if undoes.contains_key(done.path.node_id()) {
            to_undo.push(&done.path);
        }
    }
    to_undo.reverse();
    let mut begun: Vec<&NodePath> = Vec::new();
    for event in after {
        let ExecutionEvent::NodeStarted(started) = event else { continue };
        let undone = started.undoes.as_ref().expect("only what undoes begins after the turn");
        if begun.last() != Some(&undone) {
            begun.push(undone);
        }
    }
    let compensation = match history.last() {
        Some(ExecutionEvent::ExecutionFailed(event)) => &event.compensation,
        Some(ExecutionEvent::ExecutionCancelled(event)) => &event.compensation,
        _ => &None,
    };
    let completed = matches!(history.last(), Some(ExecutionEvent::ExecutionCompleted(_)));
    match compensation {
        None => assert!(to_undo.is_empty() || completed, "nobody says what became of {to_undo:?}"),
        Some(compensation) => {
            assert_eq!(begun, to_undo, "in reverse order, each once");
            let undone = after.iter().filter(|event| {
                matches!(
                    event, ExecutionEvent::NodeCompleted(done) if done.undoes.is_some()
                )
            });
            assert_eq!(compensation.undone as usize, undone.count());
            let all = (compensation.undone + compensation.not_undone) as usize;
            assert_eq!(all, to_undo.len());
        }
    }
}

fn sketches() -> impl Strategy<Value = Vec<Sketch>> {
    prop::collection::vec(any::<Sketch>(), 1..9)
}

fn limit() -> impl Strategy<Value = Option<ConcurrencyLimit>> {
    prop::option::of(Just(one_at_a_time()))
}

fn crashes() -> impl Strategy<Value = Vec<Happening>> {
    let happening = prop_oneof![
        4 => any::<u8>().prop_map(Happening::Work),
        3 => Just(Happening::Crash),
        1 => Just(Happening::Pause),
        2 => Just(Happening::Unpause),
        1 => Just(Happening::Fire),
    ];
    prop::collection::vec(happening, 0..40)
}

fn everything() -> impl Strategy<Value = Vec<Happening>> {
    let happening = prop_oneof![
        20 => any::<u8>().prop_map(Happening::Work),
        4 => Just(Happening::Crash),
        2 => Just(Happening::Pause),
        3 => Just(Happening::Unpause),
        3 => Just(Happening::Fire),
        1 => Just(Happening::Cancel),
    ];
    prop::collection::vec(happening, 0..60)
}

proptest! {
    #[test]
    fn every_history_ends_and_a_cancel_that_was_accepted_is_kept(
        sketches in sketches(),
        limit in limit(),
        repeats in any::<bool>(),
        happenings in everything(),
    ) {
        let mut world = World::new(definition(&sketches, repeats), limit);
        for happening in happenings {
            world.happen(happening);
        }
        let requested =
            world.history.iter().position(|event| matches!(event, ExecutionEvent::CancelRequested(_)));
        world.settle();
        if let Some(position) = requested {
            prop_assert_eq!(world.execution.status(), Some(Status::Cancelled));
            let starts = |event: &ExecutionEvent| matches!(
                event, ExecutionEvent::NodeStarted(started) if started.undoes.is_none()
            );
            prop_assert!(!world.history[position..].iter().any(starts));
        }
        check_undoing(&world.history);
        let running = world.execution.run().expect("it ran").nodes.values();
        let is_running = |node: &NodeRun| matches!(node.state, NodeState::Running(_));
        prop_assert!(!running.into_iter().any(is_running), "nothing is left running");
    }

    #[test]
    fn crashes_and_pauses_do_not_change_the_outcome(
        sketches in sketches(),
        limit in limit(),
        happenings in crashes(),
    ) {
        let plan = definition(&sketches, true);
        let mut undisturbed = World::new(Arc::clone(&plan), limit.clone());
        undisturbed.settle();
        let mut disturbed = World::new(plan, limit);
        for happening in happenings {
            disturbed.happen(happening);
        }
        disturbed.settle();
        prop_assert_eq!(disturbed.ending(), undisturbed.ending());
    }

    #[test]
    fn a_fork_at_any_event_comes_to_the_same_end_and_does_nothing_twice(
        sketches in sketches(),
        happenings in crashes(),
        at in any::<prop::sample::Index>(),
    ) {
        let graph = graph(&sketches, true);
        let plan = Plan::of(&graph);
        let mut undisturbed = World::new(Arc::clone(&plan), None);
        undisturbed.settle();
        let mut origin = World::new(Arc::clone(&plan), None);
        for happening in happenings {
            origin.happen(happening);
        }
        let length = at.index(origin.history.len()) + 1;
        let then = fold(&origin.history[..length]);
        let versions = Versions { ran: &graph, runs: &graph, same: true };
        let id = crate::id::ExecutionId(Uuid::from_u128(9));
        let forked = fork_of(id, length as i64, &then, versions, None);
        if matches!(then, Execution::Completed { .. }) {
            prop_assert_eq!(forked, Err(ExecutionRejection::NothingToFork));
            return Ok(());
        }
        let mut fork = World::of(plan, forked.expect("every state can be gone on from"));
        fork.settle();
        prop_assert_eq!(fork.ending(), undisturbed.ending());
        // What was undone by then, and what rests on it, is done again.
        if !then.run().expect("it was requested").undone().is_empty() {
            return Ok(());
        }
        let done = then.run().expect("it was requested").nodes.iter();
        let looping = |path: &NodePath| matches!(
            path.item().and_then(|(owner, _)| then.run()?.nodes.get(owner)).map(|node| &node.state),
            None | Some(NodeState::Looping(_))
        );
        for (path, _) in done.filter(|(path, node)| {
            looping(path) && matches!(node.state, NodeState::Completed(_) | NodeState::Skipped)
        }) {
            let again = |event: &ExecutionEvent| match event {
                ExecutionEvent::NodeStarted(event) => event.path == *path,
                ExecutionEvent::NodeCompleted(event) => event.path == *path,
                ExecutionEvent::NodeSkipped(event) => event.path == *path,
                _ => false,
            };
            prop_assert!(!fork.history.iter().any(again), "{} is done again", path);
        }
    }

    #[test]
    fn a_rerun_from_any_node_does_that_and_what_follows_and_no_more(
        sketches in sketches(),
        node in any::<prop::sample::Index>(),
    ) {
        let graph = graph(&sketches, true);
        let plan = Plan::of(&graph);
        let mut origin = World::new(Arc::clone(&plan), None);
        origin.settle();
        let index = u32::try_from(node.index(plan.len())).expect("it is small");
        let from = plan.at(index).id.clone();
        let versions = Versions { ran: &graph, runs: &graph, same: true };
        let id = crate::id::ExecutionId(Uuid::from_u128(9));
        let request = match rerun_from(id, &origin.execution, versions, &from, None) {
            Ok(request) => request,
            Err(ExecutionRejection::NotCarried(nodes)) => {
                prop_assert_ne!(origin.execution.status(), Some(Status::Completed));
                prop_assert!(nodes.iter().all(|node| matches!(
                    node.reason, NotCarriedReason::NotSettled | NotCarriedReason::Undone
                )));
                return Ok(());
            }
            Err(other) => panic!("{other}"),
        };
        let mut again = World::of(Arc::clone(&plan), request);
        again.settle();
        prop_assert_eq!(again.ending(), origin.ending());
        if origin.execution.status() == Some(Status::Completed) {
            let follows = plan.downstream(&[index], |_| false);
            for event in &again.history {
                let ExecutionEvent::NodeStarted(event) = event else { continue };
                let top = event.path.as_str().split('[').next().expect("there is a first part");
                let index = plan.index_of(top).expect("it is in the plan");
                prop_assert!(follows[index as usize], "{} does not follow on {}", event.path, from);
            }
        }
    }

    #[test]
    fn every_prefix_of_a_history_folds_as_it_was_made(
        sketches in sketches(),
        happenings in everything(),
    ) {
        let mut world = World::new(definition(&sketches, true), None);
        for happening in happenings {
            world.happen(happening);
        }
        let mut incremental = Execution::New;
        for (length, event) in world.history.iter().enumerate() {
            incremental = incremental.evolve(event);
            prop_assert_eq!(&fold(&world.history[..=length]), &incremental);
            let text = serde_json::to_string(&incremental).expect("a state is plain data");
            let read: Execution = serde_json::from_str(&text).expect("it was written like that");
            prop_assert_eq!(&read, &incremental, "a snapshot is the state");
        }
        prop_assert_eq!(incremental, world.execution);
    }
}
