//! The state after an event. Total, and does not judge: that was done when the event was decided.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use indexmap::{IndexMap, map::Entry};

use super::{
    Attempt, Awaited, CancelRequested, CarriedFailure, CarriedLoop, CarriedNode, CarriedVariable,
    ChildFinished, ChildStarted, Claim, Compensation, CompensationStarted, Completed, Course,
    Execution, ExecutionEvent, ExecutionPaused, ExecutionRequested, Failing, Intent, ItemFailure,
    KeptSignal, Loop, LoopItemFailed, NodeOutput, NodePath, NodeResolved, NodeRun, NodeStarted,
    NodeState, Open, Phase, Reached, ResolutionKind, Rest, Run, Task, TaskLease, TimerKind,
    Undoing, Usage, UsageRecorded, Variable, Waiting, path::body_of,
};
use crate::json::Json;

/// A history that no sequence of decisions can have written: stop rather than go on in a wrong state.
macro_rules! corrupt {
    ($event:expr, $state:expr) => {
        panic!("the log is corrupt: {} on an execution that is {}", $event, $state)
    };
}

pub(super) fn evolve(execution: Execution, event: &ExecutionEvent) -> Execution {
    use crate::event::DomainEvent as _;
    match (execution, event) {
        (Execution::New, ExecutionEvent::ExecutionRequested(event)) => {
            Execution::Open(Box::new(Open::new(event)))
        }
        (Execution::Open(open), ExecutionEvent::ExecutionCompleted(event)) => {
            Execution::Completed { run: open.run.ended(None), output: event.output.clone() }
        }
        (Execution::Open(open), ExecutionEvent::ExecutionFailed(event)) => Execution::Failed {
            run: open.run.ended(event.compensation.clone()),
            node: event.node.clone(),
            error: event.error.clone(),
        },
        (Execution::Open(open), ExecutionEvent::ExecutionCancelled(event)) => {
            let run = open.run.ended(event.compensation.clone());
            Execution::Cancelled { run, reason: event.reason }
        }
        (Execution::Open(mut open), event) => {
            open.apply(event);
            Execution::Open(open)
        }
        (
            state @ (Execution::New
            | Execution::Completed { .. }
            | Execution::Failed { .. }
            | Execution::Cancelled { .. }),
            event,
        ) => corrupt!(event.type_name(), state.status().map_or("new", |status| status.as_str())),
    }
}

impl Open {
    fn new(event: &ExecutionRequested) -> Self {
        Self {
            run: Run::new(event),
            phase: Phase::Idle(Rest::Pending),
            claim: Claim(0),
            lost_claims: 0,
            reached: Reached::Pending,
            interventions: 0,
            course: Course::Forward,
            undo_waived: false,
        }
    }

    #[expect(clippy::too_many_lines, reason = "one arm an event: the list is the length")]
    pub(super) fn apply(&mut self, event: &ExecutionEvent) {
        use crate::event::DomainEvent as _;
        match event {
            ExecutionEvent::NodesCarried(event) => {
                let (nodes, variables) = (event.nodes.clone(), event.variables.clone());
                self.run.carry(nodes, variables, event.signals.clone());
            }
            ExecutionEvent::ExecutionQueued(_) => self.queue(),
            ExecutionEvent::ExecutionDispatched(event) => self.dispatch(event.claim),
            ExecutionEvent::ExecutionStarted(event) => self.take(&event.worker),
            ExecutionEvent::ExecutionResumed(event) => self.take(&event.worker),
            ExecutionEvent::ExecutionWaiting(_) => self.let_go(),
            ExecutionEvent::ExecutionPaused(event) => self.pause(event),
            ExecutionEvent::ExecutionUnpaused(_) => self.unpause(),
            ExecutionEvent::CancelRequested(event) => self.cancel(event),
            ExecutionEvent::CompensationStarted(event) => self.compensate(event),
            ExecutionEvent::NodeStarted(event) => {
                self.note_undo(&event.path);
                self.start_node(event);
            }
            ExecutionEvent::NodeCompleted(event) => {
                self.lost_claims = 0;
                self.note_undo(&event.path);
                self.run.complete(
                    &event.path,
                    event.attempt,
                    Completed { output: event.output.clone(), port: event.port.clone() },
                );
            }
            ExecutionEvent::NodeFailed(event) => {
                self.lost_claims = 0;
                self.note_undo(&event.path);
                let state = match event.retry_at {
                    Some(due_at) => NodeState::Retrying { due_at },
                    None => NodeState::Failed(Box::new(event.error.clone())),
                };
                let is_last = event.retry_at.is_none();
                self.run.set(&event.path, event.attempt, state);
                if is_last {
                    self.run.mark_not_done(&event.path);
                }
            }
            ExecutionEvent::NodeSkipped(event) => {
                self.run.set(&event.path, Attempt(1), NodeState::Skipped);
            }
            ExecutionEvent::NodeResolved(event) => self.resolve(event),
            ExecutionEvent::ChildStarted(event) => self.start_child(event),
            ExecutionEvent::ChildFinished(event) => self.finish_child(event),
            ExecutionEvent::LoopIterated(event) => match self.run.open_loop(&event.path) {
                Some(Loop::While { iterations, .. }) => *iterations = event.iteration + 1,
                Some(Loop::Each { .. }) | None => corrupt!("loop_iterated", "in no such loop"),
            },
            ExecutionEvent::LoopItemFailed(event) => self.run.fail_item(event),
            ExecutionEvent::TimerSet(event) => match event.kind {
                TimerKind::Wait => {
                    let (since, until) = (event.set_at, Some(event.due_at));
                    self.run.wait(&event.path, event.attempt, Awaited::Time, since, until);
                }
                // Known already: from the failure, the request or the offer before it.
                TimerKind::Retry
                | TimerKind::ExecutionTimeout
                | TimerKind::WaitTimeout
                | TimerKind::TaskLease => {}
            },
            ExecutionEvent::TimerFired(event) => self.fire(&event.path, event.attempt, event.kind),
            ExecutionEvent::ApprovalRequested(_)
            | ExecutionEvent::ApprovalGiven(_)
            | ExecutionEvent::ApprovalRefused(_)
            | ExecutionEvent::ApprovalTimedOut(_)
            | ExecutionEvent::SignalAwaited(_)
            | ExecutionEvent::SignalReceived(_)
            | ExecutionEvent::SignalConsumed(_)
            | ExecutionEvent::TaskOffered(_)
            | ExecutionEvent::TaskTaken(_)
            | ExecutionEvent::TaskReturned(_)
            | ExecutionEvent::TaskCompleted(_)
            | ExecutionEvent::TaskFailed(_) => self.apply_wait(event),
            ExecutionEvent::UsageRecorded(event) => self.run.usage.add(event),
            ExecutionEvent::VariableSet(event) => {
                self.run.bytes += event.value.as_str().len();
                let variable = Variable { value: event.value.clone(), set_by: event.path.clone() };
                self.run.variables.insert(event.name.clone(), variable);
            }
            ExecutionEvent::ExecutionRequested(_)
            | ExecutionEvent::ExecutionCompleted(_)
            | ExecutionEvent::ExecutionFailed(_)
            | ExecutionEvent::ExecutionCancelled(_) => corrupt!(event.type_name(), "open"),
        }
    }

    /// What begins or ends a wait for something from outside. Where an outcome follows, it follows in the same append.
    #[expect(clippy::too_many_lines, reason = "one arm an event: the list is the length")]
    fn apply_wait(&mut self, event: &ExecutionEvent) {
        match event {
            ExecutionEvent::ApprovalRequested(event) => {
                let awaited = Awaited::Approval(Box::new(event.approval.clone()));
                self.run.wait(&event.path, event.attempt, awaited, event.since, event.until);
            }
            ExecutionEvent::SignalAwaited(event) => {
                let awaited = Awaited::Signal { name: event.name.clone() };
                self.run.wait(&event.path, event.attempt, awaited, event.since, event.until);
            }
            ExecutionEvent::TaskOffered(event) => {
                let awaited = Awaited::Task(Box::new(Task::offered(event)));
                self.run.wait(&event.path, event.attempt, awaited, event.since, event.until);
            }
            ExecutionEvent::SignalReceived(event) if event.node.is_none() => {
                self.interventions += 1;
                self.run.bytes += event.payload.as_str().len();
                let (name, payload) = (event.name.clone(), event.payload.clone());
                self.run.signals.push(KeptSignal { name, payload });
            }
            ExecutionEvent::SignalConsumed(event) => {
                let kept = self.run.signals.iter().position(|signal| signal.name == event.name);
                match kept {
                    Some(kept) => _ = self.run.signals.remove(kept),
                    None => corrupt!("signal_consumed", "without that signal"),
                }
            }
            ExecutionEvent::TaskTaken(event) => {
                self.interventions += 1;
                let worker = Some(event.worker.clone());
                self.run.hand_task(&event.path, event.lease, worker);
            }
            ExecutionEvent::TaskReturned(event) => {
                self.interventions += 1;
                self.run.hand_task(&event.path, event.lease, None);
            }
            ExecutionEvent::TaskFailed(event) => {
                let (error, duration_ms) = (event.error.clone(), event.duration_ms);
                let failing = NodeState::Failing(Box::new(Failing { error, duration_ms }));
                self.run.set(&event.path, event.attempt, failing);
                self.wake();
            }
            // What was waited for came; the outcome follows.
            ExecutionEvent::ApprovalGiven(_)
            | ExecutionEvent::ApprovalRefused(_)
            | ExecutionEvent::ApprovalTimedOut(_)
            | ExecutionEvent::SignalReceived(_)
            | ExecutionEvent::TaskCompleted(_) => self.wake(),
            ExecutionEvent::ExecutionRequested(_)
            | ExecutionEvent::NodesCarried(_)
            | ExecutionEvent::ExecutionQueued(_)
            | ExecutionEvent::ExecutionDispatched(_)
            | ExecutionEvent::ExecutionStarted(_)
            | ExecutionEvent::ExecutionResumed(_)
            | ExecutionEvent::ExecutionWaiting(_)
            | ExecutionEvent::ExecutionPaused(_)
            | ExecutionEvent::ExecutionUnpaused(_)
            | ExecutionEvent::ExecutionCompleted(_)
            | ExecutionEvent::ExecutionFailed(_)
            | ExecutionEvent::ExecutionCancelled(_)
            | ExecutionEvent::CancelRequested(_)
            | ExecutionEvent::CompensationStarted(_)
            | ExecutionEvent::NodeStarted(_)
            | ExecutionEvent::NodeCompleted(_)
            | ExecutionEvent::NodeFailed(_)
            | ExecutionEvent::NodeSkipped(_)
            | ExecutionEvent::NodeResolved(_)
            | ExecutionEvent::LoopIterated(_)
            | ExecutionEvent::LoopItemFailed(_)
            | ExecutionEvent::ChildStarted(_)
            | ExecutionEvent::ChildFinished(_)
            | ExecutionEvent::TimerSet(_)
            | ExecutionEvent::TimerFired(_)
            | ExecutionEvent::VariableSet(_)
            | ExecutionEvent::UsageRecorded(_) => corrupt!("an event", "of another sort"),
        }
    }

    fn start_node(&mut self, event: &NodeStarted) {
        let state = match (event.items, event.max_iterations) {
            (Some(_), _) => {
                self.run.bytes += event.input.as_str().len();
                let items = items_of(&event.input);
                NodeState::Looping(Box::new(Loop::Each { items, failed: BTreeMap::new() }))
            }
            (None, Some(max_iterations)) => {
                NodeState::Looping(Box::new(Loop::While { max_iterations, iterations: 0 }))
            }
            (None, None) => NodeState::Running(self.claim),
        };
        self.run.set(&event.path, event.attempt, state);
        self.run.mark_done(&event.path);
    }

    fn start_child(&mut self, event: &ChildStarted) {
        if event.waits {
            let awaited = Awaited::Child(event.execution_id);
            let waiting = Waiting { since: event.started_at, until: None, awaited };
            let state = NodeState::Waiting(Box::new(waiting));
            self.run.set(&event.path, event.attempt, state);
        }
    }

    fn finish_child(&mut self, event: &ChildFinished) {
        if let Some(error) = &event.error {
            let (error, duration_ms) = (error.clone(), event.duration_ms);
            let failing = NodeState::Failing(Box::new(Failing { error, duration_ms }));
            self.run.set(&event.path, event.attempt, failing);
        }
        self.wake();
    }

    fn queue(&mut self) {
        match self.phase {
            Phase::Idle(Rest::Pending) => {
                self.phase = Phase::Idle(Rest::Queued);
                self.reached = Reached::Queued;
            }
            Phase::Idle(Rest::Queued | Rest::Waiting | Rest::Ready)
            | Phase::Dispatched
            | Phase::Running { .. }
            | Phase::Paused { .. } => corrupt!("execution_queued", "not pending"),
        }
    }

    fn dispatch(&mut self, claim: Claim) {
        match self.phase {
            Phase::Running { .. } => self.lost_claims += 1,
            Phase::Idle(_) | Phase::Dispatched => {}
            Phase::Paused { .. } => corrupt!("execution_dispatched", "paused"),
        }
        self.claim = claim;
        self.run.claim = claim;
        self.phase = Phase::Dispatched;
    }

    fn take(&mut self, worker: &str) {
        match self.phase {
            Phase::Dispatched => {
                self.phase = Phase::Running { worker: worker.to_owned(), intent: Intent::GoOn };
                self.reached = Reached::Started;
                self.run.worker = Some(worker.to_owned());
            }
            Phase::Idle(_) | Phase::Running { .. } | Phase::Paused { .. } => {
                corrupt!("execution_started", "not dispatched")
            }
        }
    }

    fn let_go(&mut self) {
        self.lost_claims = 0;
        self.phase = match self.phase {
            // The worker of one that is to end was lost: what it did is undone by another, which follows in the same append.
            Phase::Running { intent: Intent::GoOn | Intent::Cancel(_), .. } => {
                Phase::Idle(Rest::Waiting)
            }
            Phase::Running { intent: Intent::Pause(reason), .. } => {
                Phase::Paused { rest: Rest::Ready, reason }
            }
            Phase::Idle(_) | Phase::Dispatched | Phase::Paused { .. } => {
                corrupt!("execution_waiting", "without a worker")
            }
        };
    }

    fn pause(&mut self, event: &ExecutionPaused) {
        let reason = event.reason;
        // What its own worker paused it for is no news to that.
        match &event.node {
            Some(node) => self.run.hold(node),
            None => self.interventions += 1,
        }
        match &mut self.phase {
            Phase::Running { intent: Intent::Pause(_), .. } if event.node.is_some() => {}
            Phase::Idle(rest) => self.phase = Phase::Paused { rest: *rest, reason },
            // The claim that nobody took is void with this.
            Phase::Dispatched => self.phase = Phase::Paused { rest: Rest::Ready, reason },
            Phase::Running { intent, .. } => *intent = Intent::Pause(reason),
            Phase::Paused { .. } => corrupt!("execution_paused", "paused"),
        }
    }

    fn unpause(&mut self) {
        self.interventions += 1;
        match &mut self.phase {
            Phase::Paused { rest, .. } => self.phase = Phase::Idle(*rest),
            Phase::Running { intent, .. } => *intent = Intent::GoOn,
            Phase::Idle(_) | Phase::Dispatched => corrupt!("execution_unpaused", "not paused"),
        }
    }

    fn cancel(&mut self, event: &CancelRequested) {
        self.interventions += 1;
        self.undo_waived |= event.without_undo;
        match &mut self.phase {
            Phase::Running { intent, .. } => *intent = Intent::Cancel(event.reason),
            Phase::Idle(_) | Phase::Dispatched | Phase::Paused { .. } => {
                corrupt!("cancel_requested", "without a worker")
            }
        }
    }

    /// It turns back. What was not done is not done any more, and whatever held it back does so no longer.
    fn compensate(&mut self, event: &CompensationStarted) {
        self.lost_claims = 0;
        let order = self.run.turn_back();
        self.course = Course::Undoing(Box::new(Undoing::new(event, order)));
        match &mut self.phase {
            Phase::Running { intent, .. } => *intent = Intent::GoOn,
            Phase::Idle(_) | Phase::Paused { .. } => self.phase = Phase::Idle(Rest::Ready),
            Phase::Dispatched => {}
        }
    }

    /// Counts an undo node that begins.
    fn note_undo(&mut self, path: &NodePath) {
        if let Course::Undoing(undoing) = &mut self.course
            && !self.run.nodes.contains_key(path)
        {
            undoing.begin();
        }
    }

    fn fire(&mut self, path: &NodePath, attempt: Attempt, kind: TimerKind) {
        match kind {
            TimerKind::Retry => self.run.set(path, Attempt(attempt.0 + 1), NodeState::Ready),
            // The outcome of the wait, or of the run, follows in the same append.
            TimerKind::Wait | TimerKind::ExecutionTimeout | TimerKind::WaitTimeout => {}
            // Whether the run has anything to do is said by the event that follows.
            TimerKind::TaskLease => return,
        }
        self.wake();
    }

    fn resolve(&mut self, event: &NodeResolved) {
        self.interventions += 1;
        match event.resolution {
            ResolutionKind::Retry => {
                self.run.set(&event.path, Attempt(event.attempt.0 + 1), NodeState::Ready);
            }
            ResolutionKind::Fail => self.run.give_up(&event.path, event.attempt),
            // Its completion follows, and whoever says so knows that it took place.
            ResolutionKind::Complete => self.run.mark_done(&event.path),
        }
    }

    /// What a node waited for came: its outcome follows in the same append, and the run has something to do.
    fn wake(&mut self) {
        self.interventions += 1;
        match &mut self.phase {
            Phase::Idle(rest @ Rest::Waiting)
            | Phase::Paused { rest: rest @ Rest::Waiting, .. } => *rest = Rest::Ready,
            Phase::Idle(Rest::Pending | Rest::Queued | Rest::Ready)
            | Phase::Paused { rest: Rest::Pending | Rest::Queued | Rest::Ready, .. }
            | Phase::Dispatched
            | Phase::Running { .. } => {}
        }
    }
}

impl Usage {
    /// Adds up what was used of a provider.
    pub(super) fn add(&mut self, event: &UsageRecorded) {
        self.input_tokens = self.input_tokens.saturating_add(event.input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(event.output_tokens);
        self.cost_microusd = self.cost_microusd.saturating_add(event.cost_microusd);
    }
}

impl Run {
    fn new(event: &ExecutionRequested) -> Self {
        let mut request = event.clone();
        let mut run = Self {
            nodes: IndexMap::new(),
            variables: BTreeMap::new(),
            signals: Vec::new(),
            usage: Usage::default(),
            settled: Vec::new(),
            active: BTreeSet::new(),
            failures: Vec::new(),
            not_done: BTreeSet::new(),
            compensation: None,
            bytes: event.input.as_str().len(),
            claim: Claim(0),
            worker: None,
            request: event.clone(),
        };
        if let Some(origin) = &mut request.origin {
            let nodes = std::mem::take(&mut origin.carried);
            let variables = std::mem::take(&mut origin.variables);
            run.carry(nodes, variables, std::mem::take(&mut origin.signals));
        }
        run.request = request;
        run
    }

    fn wait(
        &mut self,
        path: &NodePath,
        attempt: Attempt,
        awaited: Awaited,
        since: DateTime<Utc>,
        until: Option<DateTime<Utc>>,
    ) {
        let waiting = Waiting { since, until, awaited };
        self.set(path, attempt, NodeState::Waiting(Box::new(waiting)));
    }

    /// A task goes to a worker, or comes back from one.
    fn hand_task(&mut self, path: &NodePath, lease: TaskLease, worker: Option<String>) {
        let Some(NodeState::Waiting(waiting)) =
            self.nodes.get_mut(path).map(|node| &mut node.state)
        else {
            corrupt!("task_taken", "not waiting for it")
        };
        let Awaited::Task(task) = &mut waiting.awaited else {
            corrupt!("task_taken", "waiting for something else")
        };
        task.lease = lease;
        task.worker = worker;
    }

    /// Takes over what the origin had done.
    fn carry(
        &mut self,
        nodes: Vec<CarriedNode>,
        variables: Vec<CarriedVariable>,
        signals: Vec<KeptSignal>,
    ) {
        for CarriedNode { path, output, port, looping } in nodes {
            match (output, looping) {
                (Some(output), _) => {
                    self.complete(&path, Attempt(1), Completed { output, port });
                    self.mark_not_done(&path);
                }
                (None, Some(looping)) => {
                    let open = self.carried_loop(looping);
                    self.set(&path, Attempt(1), NodeState::Looping(Box::new(open)));
                }
                (None, None) => self.set(&path, Attempt(1), NodeState::Skipped),
            }
        }
        for carried in variables {
            self.bytes += carried.value.as_str().len();
            let variable = Variable { value: carried.value, set_by: carried.path };
            self.variables.insert(carried.name, variable);
        }
        self.bytes += signals.iter().map(|signal| signal.payload.as_str().len()).sum::<usize>();
        self.signals.extend(signals);
    }

    fn carried_loop(&mut self, looping: CarriedLoop) -> Loop {
        match looping {
            CarriedLoop::Each { items, failed } => {
                self.bytes += items.as_str().len();
                let items = match items.to() {
                    Ok(items) => items,
                    Err(_) => corrupt!("a loop carried without its items", "new"),
                };
                let failed = failed.into_iter().map(|CarriedFailure { item, node, error }| {
                    self.bytes += error.message.len();
                    (item, ItemFailure { node, error })
                });
                Loop::Each { items, failed: failed.collect() }
            }
            CarriedLoop::While { max_iterations, iterations } => {
                Loop::While { max_iterations, iterations }
            }
        }
    }

    fn complete(&mut self, path: &NodePath, attempt: Attempt, completed: Completed) {
        self.bytes += match &completed.output {
            NodeOutput::Inline(value) => value.as_str().len(),
            NodeOutput::Blob { hash, .. } => hash.len(),
        };
        self.set(path, attempt, NodeState::Completed(Box::new(completed)));
    }

    /// Puts a node into a state and keeps the indexes in step: every change of a node goes through here.
    fn set(&mut self, path: &NodePath, attempt: Attempt, state: NodeState) {
        let settles = matches!(state, NodeState::Completed(_) | NodeState::Skipped);
        let fails = matches!(state, NodeState::Failed(_));
        let (index, was_loop, had_failed) = match self.nodes.entry(path.clone()) {
            Entry::Occupied(mut entry) => {
                let before = std::mem::replace(entry.get_mut(), NodeRun { attempt, state });
                (
                    entry.index(),
                    matches!(before.state, NodeState::Looping(_)),
                    matches!(before.state, NodeState::Failed(_)),
                )
            }
            Entry::Vacant(entry) => {
                let index = entry.index();
                entry.insert(NodeRun { attempt, state });
                (index, false, false)
            }
        };
        let index = u32::try_from(index).expect("a run has far fewer nodes than 2^32");
        if had_failed {
            self.failures.retain(|failure| *failure != index);
        }
        if !settles && !fails {
            self.active.insert(index);
            return;
        }
        self.active.remove(&index);
        if was_loop {
            self.close(&body_of(path));
        }
        if settles {
            self.settled.push(index);
        } else {
            self.failures.push(index);
        }
    }

    /// There is nothing that its undo could undo.
    fn mark_not_done(&mut self, path: &NodePath) {
        if self.request.undoes.contains_key(path.node_id())
            && let Some(index) = self.nodes.get_index_of(path)
        {
            self.not_done
                .insert(u32::try_from(index).expect("a run has far fewer nodes than 2^32"));
        }
    }

    /// It does something, or did after all.
    fn mark_done(&mut self, path: &NodePath) {
        if !self.not_done.is_empty()
            && let Some(index) = self.nodes.get_index_of(path)
        {
            self.not_done.remove(&u32::try_from(index).unwrap_or(u32::MAX));
        }
    }

    /// Nothing of what was under way is any more. Answers what there is to undo, in that order.
    fn turn_back(&mut self) -> Vec<u32> {
        self.active.clear();
        self.failures.clear();
        self.undoable()
    }

    fn open_loop(&mut self, path: &NodePath) -> Option<&mut Loop> {
        let node = self.nodes.get_mut(path)?;
        if let NodeState::Looping(open) = &mut node.state { Some(open) } else { None }
    }

    /// A node that failed for the last time waits for a decision. One that does already goes on doing so.
    fn hold(&mut self, path: &NodePath) {
        let Some(node) = self.nodes.get(path) else {
            corrupt!("execution_paused", "without the node that failed")
        };
        if let NodeState::Failed(error) = &node.state {
            let (attempt, awaited) = (node.attempt, Awaited::Decision(error.clone()));
            let waiting = Waiting { since: DateTime::UNIX_EPOCH, until: None, awaited };
            self.set(path, attempt, NodeState::Waiting(Box::new(waiting)));
        }
    }

    /// Somebody decided that a node failed for good.
    fn give_up(&mut self, path: &NodePath, attempt: Attempt) {
        let state = self.nodes.get(path).map(|node| &node.state);
        let Some(NodeState::Waiting(waiting)) = state else {
            corrupt!("node_resolved", "not waiting for a decision")
        };
        let Awaited::Decision(error) = &waiting.awaited else {
            corrupt!("node_resolved", "not waiting for a decision")
        };
        let error = error.clone();
        self.set(path, attempt, NodeState::Failed(error));
    }

    fn fail_item(&mut self, event: &LoopItemFailed) {
        let failure = ItemFailure { node: event.node.clone(), error: event.error.clone() };
        self.bytes += event.error.message.len()
            + event.error.details.as_ref().map_or(0, |details| details.as_str().len());
        match self.open_loop(&event.path) {
            Some(Loop::Each { failed, .. }) => failed.insert(event.item, failure),
            Some(Loop::While { .. }) | None => corrupt!("loop_item_failed", "in no such loop"),
        };
        self.close(&event.path.item_scope(event.item));
    }

    /// What is left below a path, i.e. in a loop or an item of one that ended, counts no more.
    fn close(&mut self, below: &str) {
        let nodes = &self.nodes;
        let outside = |index: &u32| {
            nodes
                .get_index(*index as usize)
                .is_some_and(|(path, _)| !path.as_str().starts_with(below))
        };
        self.active.retain(outside);
        self.failures.retain(outside);
    }

    fn ended(mut self, compensation: Option<Compensation>) -> Box<Self> {
        self.compensation = compensation;
        self.not_done = BTreeSet::new();
        self.active = BTreeSet::new();
        self.settled = Vec::new();
        self.failures = Vec::new();
        Box::new(self)
    }
}

fn items_of(input: &Json) -> Arc<[Json]> {
    #[derive(serde::Deserialize)]
    struct Items {
        items: Arc<[Json]>,
    }
    match input.to::<Items>() {
        Ok(items) => items.items,
        Err(_) => corrupt!("node_started without its items", "running a loop"),
    }
}
