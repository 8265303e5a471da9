//! What a worker reports, and what of it becomes events.
//!
//! A report is all or none. A step that is recorded already gives no event, so a report may be repeated; a step that contradicts what
//! is recorded refuses the whole.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::json;

use super::{
    AfterFailure, Attempt, Awaited, ChildRun, ChildStarted, Claim, EndCause, ErrorKind,
    ExecutionCompleted, ExecutionEvent, ExecutionPaused, ExecutionRejection, ExecutionResumed,
    ExecutionStarted, ExecutionWaiting, Intent, Loop, LoopItemFailed, LoopIterated, NodeCompleted,
    NodeError, NodeFailed, NodeOutput, NodePath, NodeSkipped, NodeStarted, NodeState, Open,
    Outcome, PauseReason, Phase, ProviderUse, Reached, Report, SignalConsumed, Step, TimerKind,
    TimerSet, Usage, UsageRecorded, VariableSet, path::body_of, undo::Undo, waiting,
};
use crate::json::Json;

pub(super) fn decide(
    open: &Open,
    report: &Report,
    now: DateTime<Utc>,
) -> Result<Vec<ExecutionEvent>, ExecutionRejection> {
    let mut events = Vec::with_capacity(report.steps.len() + 1);
    let intent = take_claim(open, report, &mut events)?;
    let mut deciding = Deciding {
        open,
        claim: report.claim,
        intent,
        now,
        touched: HashMap::new(),
        closed: Vec::new(),
        pauses: false,
        iterated: HashMap::new(),
        consumed: HashMap::new(),
        undos_begun: 0,
        is_over: false,
        events,
    };
    for (index, step) in report.steps.iter().enumerate() {
        deciding.step(step).map_err(|Contradiction(path)| ExecutionRejection::Contradiction {
            step: index,
            path: path.as_str().to_owned(),
        })?;
    }
    Ok(deciding.events)
}

/// The first report of a claim takes it; every other one must come from who has it.
fn take_claim(
    open: &Open,
    report: &Report,
    events: &mut Vec<ExecutionEvent>,
) -> Result<Intent, ExecutionRejection> {
    if report.claim != open.claim {
        return Err(open.claim_lost(report.claim));
    }
    let intent = match &open.phase {
        Phase::Dispatched => {
            let (worker, claim) = (report.worker.clone(), report.claim);
            events.push(match open.reached {
                Reached::Pending | Reached::Queued => ExecutionStarted { worker, claim }.into(),
                Reached::Started => ExecutionResumed { worker, claim }.into(),
            });
            Intent::GoOn
        }
        Phase::Running { worker, intent } if *worker == report.worker => *intent,
        Phase::Running { .. } | Phase::Idle(_) | Phase::Paused { .. } => {
            return Err(open.claim_lost(report.claim));
        }
    };
    if report.interventions != open.interventions && !report.steps.is_empty() {
        return Err(ExecutionRejection::Overtaken);
    }
    Ok(intent)
}

/// A step that contradicts what is recorded of this node.
struct Contradiction(NodePath);

/// A node as it is after the steps so far.
#[derive(Clone, Copy)]
enum Seen {
    Absent,
    Running {
        attempt: Attempt,
        here: bool,
    },
    Ready(Attempt),
    Looping(Attempt),
    /// Waits for something that belongs to this try.
    Waiting(Attempt),
    /// What it waited for came to nothing.
    Failing(Attempt),
    Completed(Attempt),
    Skipped,
    Failed(Attempt),
}

/// A report half decided.
struct Deciding<'a> {
    open: &'a Open,
    claim: Claim,
    intent: Intent,
    now: DateTime<Utc>,
    /// What the steps so far changed, so that the state need not be copied.
    touched: HashMap<&'a NodePath, Seen>,
    /// What the paths in loops and items begin with that the steps so far ended: what is left in them counts no more.
    closed: Vec<String>,
    /// Whether one of the steps so far pauses the run.
    pauses: bool,
    /// How many iterations the loops have by the steps so far, and may have.
    iterated: HashMap<&'a NodePath, (u32, u32)>,
    /// How many kept signals of a name the steps so far took.
    consumed: HashMap<&'a str, usize>,
    /// How many undo nodes the steps so far began.
    undos_begun: u32,
    /// Whether a step so far was one that nothing may follow.
    is_over: bool,
    events: Vec<ExecutionEvent>,
}

impl<'a> Deciding<'a> {
    fn step(&mut self, step: &'a Step) -> Result<(), Contradiction> {
        if self.is_over {
            return Err(Contradiction(NodePath::run()));
        }
        self.is_over = step.is_last();
        match step {
            Step::Start { path, attempt, input, secrets } => {
                if self.begins(path, *attempt, Seen::Running { attempt: *attempt, here: true })? {
                    let started = started(path, *attempt, input.clone(), None);
                    self.push(NodeStarted { secrets: secrets.clone(), ..started });
                }
            }
            Step::Wait { path, attempt, input, awaited, until } => {
                if *awaited == Awaited::Time && until.is_none() {
                    return Err(Contradiction(path.clone()));
                }
                self.wait(path, *attempt, input, awaited, *until)?;
            }
            Step::StartChild { path, attempt, input, child } => {
                self.start_child(path, *attempt, input, child)?;
            }
            Step::OpenLoop { path, attempt, items } => {
                if self.begins(path, *attempt, Seen::Looping(*attempt))? {
                    let count = u32::try_from(items.len()).unwrap_or(u32::MAX);
                    self.push(started(path, *attempt, items_object(items), Some(count)));
                }
            }
            Step::OpenWhile { path, attempt, max_iterations } => {
                if self.begins(path, *attempt, Seen::Looping(*attempt))? {
                    self.iterated.insert(path, (0, *max_iterations));
                    let input = json!({"max_iterations": max_iterations}).into();
                    let max_iterations = Some(*max_iterations);
                    let begun = started(path, *attempt, input, None);
                    self.push(NodeStarted { max_iterations, ..begun });
                }
            }
            Step::Iterate { path, iteration } => self.iterate(path, *iteration)?,
            Step::FailItem { path, item, node, error } => {
                self.fail_item(path, *item, node, error)?;
            }
            Step::Complete { path, attempt, output, port, variable, duration_ms } => {
                if self.ends(path, *attempt, Seen::Completed(*attempt))? {
                    if let Some(variable) = variable {
                        let (name, value) = (variable.name.clone(), variable.value.clone());
                        self.push(VariableSet { path: path.clone(), name, value });
                    }
                    let (path, output) = (path.clone(), output.clone());
                    self.complete(path, *attempt, output, port.clone(), *duration_ms);
                }
            }
            Step::Use { path, attempt, used } => self.uses(path, *attempt, used)?,
            Step::Fail { path, attempt, error, duration_ms, then } => {
                self.fail(path, *attempt, error, *duration_ms, then)?;
            }
            Step::Skip { path, .. } if matches!(self.seen(path), Seen::Skipped) => {}
            Step::Skip { path, reason } => {
                let is_absent = matches!(self.seen(path), Seen::Absent);
                if !is_absent || !self.may_begin() || self.open.undoing().is_some() {
                    return Err(Contradiction(path.clone()));
                }
                self.touched.insert(path, Seen::Skipped);
                self.push(NodeSkipped { path: path.clone(), reason: *reason });
            }
            Step::LetGo => self.let_go()?,
            Step::Finish(outcome) => self.finish(outcome)?,
            Step::GiveUp { error } => self.give_up(error),
        }
        Ok(())
    }

    fn push(&mut self, event: impl Into<ExecutionEvent>) {
        self.events.push(event.into());
    }

    fn seen(&self, path: &NodePath) -> Seen {
        if let Some(seen) = self.touched.get(path) {
            return *seen;
        }
        let Some(node) = self.open.run.nodes.get(path) else { return Seen::Absent };
        match &node.state {
            NodeState::Running(claim) => {
                Seen::Running { attempt: node.attempt, here: *claim == self.claim }
            }
            NodeState::Waiting(_) | NodeState::Retrying { .. } => Seen::Waiting(node.attempt),
            NodeState::Failing(_) => Seen::Failing(node.attempt),
            NodeState::Ready => Seen::Ready(node.attempt),
            NodeState::Looping(_) => Seen::Looping(node.attempt),
            NodeState::Completed(_) => Seen::Completed(node.attempt),
            NodeState::Skipped => Seen::Skipped,
            NodeState::Failed(_) => Seen::Failed(node.attempt),
        }
    }

    /// Whether anything new may begin: not once the run is to pause or end, nor after a step that holds it.
    fn may_begin(&self) -> bool {
        self.intent == Intent::GoOn && !self.pauses
    }

    /// Whether a start is new: again under a new claim it is, since the effect begins again.
    fn begins(
        &mut self,
        path: &'a NodePath,
        attempt: Attempt,
        becomes: Seen,
    ) -> Result<bool, Contradiction> {
        let before = self.seen(path);
        let new = match before {
            Seen::Absent => attempt == Attempt(1) && self.is_due(path),
            Seen::Ready(ready) => attempt == ready,
            Seen::Running { attempt: running, here: false } => attempt == running,
            Seen::Running { attempt: seen, here: true }
            | Seen::Looping(seen)
            | Seen::Waiting(seen)
            | Seen::Completed(seen)
            | Seen::Failed(seen) => {
                return if seen == attempt { Ok(false) } else { Err(Contradiction(path.clone())) };
            }
            Seen::Skipped | Seen::Failing(_) => false,
        };
        if !new || !self.may_begin() {
            return Err(Contradiction(path.clone()));
        }
        self.touch(path, before, becomes);
        Ok(true)
    }

    fn touch(&mut self, path: &'a NodePath, before: Seen, becomes: Seen) {
        if matches!(before, Seen::Absent) && self.open.undoing().is_some() {
            self.undos_begun += 1;
        }
        self.touched.insert(path, becomes);
    }

    /// Whether it is the turn of a node that has not begun: of an undo node when the one before has come to its end, and of no other while
    /// the run undoes what it did.
    fn is_due(&self, path: &NodePath) -> bool {
        if self.open.undoing().is_none() {
            return self.open.run.undone_by(path).is_none();
        }
        self.is_all_settled() && self.open.undo_after(self.undos_begun).as_ref() == Some(path)
    }

    /// Whether an outcome is new. An outcome of what never started is that of a node that was evaluated inline.
    fn ends(
        &mut self,
        path: &'a NodePath,
        attempt: Attempt,
        becomes: Seen,
    ) -> Result<bool, Contradiction> {
        let before = self.seen(path);
        let new = match before {
            Seen::Absent => attempt == Attempt(1) && self.may_begin() && self.is_due(path),
            Seen::Ready(ready) => attempt == ready && self.may_begin(),
            Seen::Running { attempt: running, .. }
            | Seen::Looping(running)
            | Seen::Failing(running) => attempt == running,
            Seen::Completed(done) | Seen::Failed(done) | Seen::Waiting(done) if done == attempt => {
                return Ok(false);
            }
            Seen::Waiting(_) | Seen::Completed(_) | Seen::Skipped | Seen::Failed(_) => false,
        };
        if !new {
            return Err(Contradiction(path.clone()));
        }
        if matches!(before, Seen::Looping(_)) {
            let message = "its worker was lost, and its loop ended before it ran again";
            self.close(body_of(path), message);
        }
        self.touch(path, before, becomes);
        Ok(true)
    }

    /// Without an event where the outcome of that try is recorded already, and this with it.
    fn uses(
        &mut self,
        path: &'a NodePath,
        attempt: Attempt,
        used: &ProviderUse,
    ) -> Result<(), Contradiction> {
        match self.seen(path) {
            Seen::Running { attempt: running, .. } if running == attempt => {}
            Seen::Completed(done) | Seen::Failed(done) | Seen::Waiting(done) if done == attempt => {
                return Ok(());
            }
            Seen::Absent
            | Seen::Running { .. }
            | Seen::Ready(_)
            | Seen::Looping(_)
            | Seen::Waiting(_)
            | Seen::Failing(_)
            | Seen::Completed(_)
            | Seen::Skipped
            | Seen::Failed(_) => return Err(Contradiction(path.clone())),
        }
        let Usage { input_tokens, output_tokens, cost_microusd } = used.usage;
        self.push(UsageRecorded {
            path: path.clone(),
            attempt,
            provider: used.provider.clone(),
            model: used.model.clone(),
            input_tokens,
            output_tokens,
            cost_microusd,
        });
        Ok(())
    }

    fn fail(
        &mut self,
        path: &'a NodePath,
        attempt: Attempt,
        error: &NodeError,
        duration_ms: u64,
        then: &AfterFailure,
    ) -> Result<(), Contradiction> {
        let is_loop = matches!(self.seen(path), Seen::Looping(_));
        // A run that is to end waits for nobody's decision about a node of it.
        let then = match (then, self.intent) {
            (AfterFailure::Pause, Intent::Cancel(_)) => &AfterFailure::Stop,
            _ => then,
        };
        let (becomes, retry_at) = match then {
            // What a loop's body did is recorded for good, so the loop cannot begin again.
            AfterFailure::Retry { .. } if is_loop => return Err(Contradiction(path.clone())),
            AfterFailure::Retry { at } => (Seen::Waiting(attempt), Some(*at)),
            AfterFailure::Stop => (Seen::Failed(attempt), None),
            AfterFailure::Pause => (Seen::Waiting(attempt), None),
            AfterFailure::Continue { .. } => (Seen::Completed(attempt), None),
        };
        if !self.ends(path, attempt, becomes)? {
            return Ok(());
        }
        let (path, error) = (path.clone(), error.clone());
        self.push(NodeFailed { path: path.clone(), attempt, error, duration_ms, retry_at });
        match then {
            AfterFailure::Stop => {}
            AfterFailure::Pause => {
                self.pauses = true;
                let (reason, node) = (PauseReason::NodeFailed, Some(path));
                self.push(ExecutionPaused { reason, node });
            }
            AfterFailure::Retry { at } => {
                self.push(self.timer(&path, attempt, TimerKind::Retry, *at));
            }
            AfterFailure::Continue { output, port } => {
                let (output, port) = (output.clone(), port.clone());
                self.complete(path, attempt, output, port, duration_ms);
            }
        }
        Ok(())
    }

    fn complete(
        &mut self,
        path: NodePath,
        attempt: Attempt,
        output: NodeOutput,
        port: Option<String>,
        duration_ms: u64,
    ) {
        // What an undo node undoes is named when all is decided.
        let undoes = None;
        self.push(NodeCompleted { path, attempt, output, port, duration_ms, undoes });
    }

    /// A node that does not wait for its child is done as soon as that is asked for; its output names the child.
    fn start_child(
        &mut self,
        path: &'a NodePath,
        attempt: Attempt,
        input: &Json,
        child: &ChildRun,
    ) -> Result<(), Contradiction> {
        let becomes = if child.waits { Seen::Waiting(attempt) } else { Seen::Completed(attempt) };
        if !self.begins(path, attempt, becomes)? {
            return Ok(());
        }
        self.push(started(path, attempt, input.clone(), None));
        self.push(ChildStarted {
            path: path.clone(),
            attempt,
            execution_id: child.execution_id,
            workflow_id: child.workflow_id,
            version: child.version,
            input: child.input.clone(),
            waits: child.waits,
            started_at: self.now,
        });
        if !child.waits {
            let output = json!({"execution_id": child.execution_id}).into();
            self.complete(path.clone(), attempt, NodeOutput::Inline(output), None, 0);
        }
        Ok(())
    }

    /// Without an event where that iteration was begun already.
    fn iterate(&mut self, path: &'a NodePath, iteration: u32) -> Result<(), Contradiction> {
        let recorded = match self.open_loop(path) {
            Some(Loop::While { iterations, max_iterations }) => (*iterations, *max_iterations),
            Some(Loop::Each { .. }) | None => (0, 0),
        };
        let (so_far, max) = self.iterated.get(path).copied().unwrap_or(recorded);
        if iteration < so_far {
            return Ok(());
        }
        let is_open = matches!(self.seen(path), Seen::Looping(_));
        if !is_open || iteration > so_far || iteration >= max || !self.may_begin() {
            return Err(Contradiction(path.clone()));
        }
        self.iterated.insert(path, (iteration + 1, max));
        self.push(LoopIterated { path: path.clone(), iteration });
        Ok(())
    }

    /// Without an event where it is recorded already.
    fn fail_item(
        &mut self,
        path: &NodePath,
        item: u32,
        node: &NodePath,
        error: &NodeError,
    ) -> Result<(), Contradiction> {
        let below = path.item_scope(item);
        let recorded = match self.open_loop(path) {
            Some(Loop::Each { failed, .. }) => failed.contains_key(&item),
            Some(Loop::While { .. }) => return Err(Contradiction(path.clone())),
            None => false,
        };
        if recorded || self.closed.contains(&below) {
            return Ok(());
        }
        if !matches!(self.seen(path), Seen::Looping(_)) || !self.may_begin() {
            return Err(Contradiction(path.clone()));
        }
        self.close(below, "its worker was lost, and its item failed before it ran again");
        let (path, node, error) = (path.clone(), node.clone(), error.clone());
        self.push(LoopItemFailed { path, item, node, error });
        Ok(())
    }

    /// A loop as it is recorded.
    fn open_loop(&self, path: &NodePath) -> Option<&'a Loop> {
        let NodeState::Looping(open) = &self.open.run.nodes.get(path)?.state else { return None };
        Some(open)
    }

    /// Ends what is left below a path.
    fn close(&mut self, below: String, message: &str) {
        self.abandon(ErrorKind::UnknownOutcome, message, |node| node.as_str().starts_with(&below));
        self.closed.push(below);
    }

    /// A node begins to wait; for a signal that came before, it need not.
    fn wait(
        &mut self,
        path: &'a NodePath,
        attempt: Attempt,
        input: &Json,
        awaited: &'a Awaited,
        until: Option<DateTime<Utc>>,
    ) -> Result<(), Contradiction> {
        let kept = match awaited {
            Awaited::Signal { name } => self.kept_signal(name).map(|payload| (name, payload)),
            Awaited::Time
            | Awaited::Approval(_)
            | Awaited::Task(_)
            | Awaited::Decision(_)
            | Awaited::Child(_) => None,
        };
        let Some((name, payload)) = kept else {
            if self.begins(path, attempt, Seen::Waiting(attempt))? {
                self.push(started(path, attempt, input.clone(), None));
                self.events.extend(waiting::begun(path, attempt, awaited, self.now, until));
            }
            return Ok(());
        };
        if self.begins(path, attempt, Seen::Completed(attempt))? {
            *self.consumed.entry(name).or_default() += 1;
            self.push(started(path, attempt, input.clone(), None));
            self.push(SignalConsumed { path: path.clone(), attempt, name: name.clone() });
            self.complete(path.clone(), attempt, NodeOutput::Inline(payload), None, 0);
        }
        Ok(())
    }

    /// The oldest signal of a name that no step so far took.
    fn kept_signal(&self, name: &str) -> Option<Json> {
        let taken = self.consumed.get(name).copied().unwrap_or(0);
        let kept = self.open.run.signals.iter().filter(|signal| signal.name == name);
        kept.map(|signal| signal.payload.clone()).nth(taken)
    }

    fn timer(
        &self,
        path: &NodePath,
        attempt: Attempt,
        kind: TimerKind,
        due_at: DateTime<Utc>,
    ) -> TimerSet {
        TimerSet { path: path.clone(), attempt, kind, set_at: self.now, due_at }
    }

    /// Every node that was begun and did not end, after the steps so far.
    fn active(&self) -> impl Iterator<Item = Seen> {
        let untouched = self
            .open
            .run
            .active()
            .map(|(path, _)| path)
            .filter(|path| !self.is_closed(path) && !self.touched.contains_key(path))
            .map(|path| self.seen(path));
        let touched = self.touched.iter().filter(|(path, _)| !self.is_closed(path));
        touched.map(|(_, seen)| *seen).chain(untouched)
    }

    fn let_go(&mut self) -> Result<(), Contradiction> {
        let runs = self.active().any(|seen| matches!(seen, Seen::Running { here: true, .. }));
        let waits = match self.intent {
            Intent::GoOn if self.pauses => true,
            Intent::GoOn => {
                self.active().any(|seen| matches!(seen, Seen::Waiting(_)))
                    && !self.active().any(|seen| matches!(seen, Seen::Ready(_) | Seen::Failing(_)))
            }
            Intent::Pause(_) => true,
            Intent::Cancel(_) => false,
        };
        if runs || !waits {
            return Err(Contradiction(NodePath::run()));
        }
        self.push(ExecutionWaiting { claim: self.claim });
        Ok(())
    }

    fn finish(&mut self, outcome: &Outcome) -> Result<(), Contradiction> {
        let runs = self.active().any(|seen| matches!(seen, Seen::Running { here: true, .. }));
        let undoing = self.open.undoing();
        match (outcome, self.intent) {
            (Outcome::Cancelled, Intent::Cancel(reason)) if undoing.is_none() => {
                self.abandon(ErrorKind::Cancelled, "the execution was cancelled", |_| true);
                self.end(EndCause::Cancelled { reason }, Undo::First);
            }
            (Outcome::Completed { output }, Intent::GoOn | Intent::Pause(_))
                if undoing.is_none() && self.is_all_settled() =>
            {
                self.push(ExecutionCompleted { output: output.clone() });
            }
            (Outcome::Failed { node, error }, Intent::GoOn | Intent::Pause(_))
                if undoing.is_none() && !runs =>
            {
                self.abandon(
                    ErrorKind::UnknownOutcome,
                    "its worker was lost, and another node failed before it ran again",
                    |_| true,
                );
                let (node, error) = (node.clone(), error.clone());
                self.end(EndCause::Failed { node, error }, Undo::First);
            }
            (Outcome::Undone, intent) => {
                let given_up = matches!(intent, Intent::Cancel(_));
                let is_done =
                    self.is_all_settled() && self.open.undo_after(self.undos_begun).is_none();
                let because = undoing.filter(|_| given_up || is_done);
                let because = because.map(|undoing| undoing.because.clone());
                let because = because.ok_or_else(|| Contradiction(NodePath::run()))?;
                self.abandon(ErrorKind::Cancelled, "the execution was cancelled", |_| true);
                self.end(because, Undo::Never);
            }
            (Outcome::Cancelled | Outcome::Completed { .. } | Outcome::Failed { .. }, _) => {
                return Err(Contradiction(NodePath::run()));
            }
        }
        Ok(())
    }

    /// Ends the run where nobody can go on with it: as it was to end, where somebody had said that before.
    fn give_up(&mut self, error: &NodeError) {
        let because = match self.intent {
            Intent::Cancel(reason) => EndCause::Cancelled { reason },
            Intent::GoOn | Intent::Pause(_) => {
                EndCause::Failed { node: None, error: error.clone() }
            }
        };
        self.abandon(error.kind, &error.message, |_| true);
        self.end(because, Undo::Never);
    }

    fn end(&mut self, because: EndCause, undo: Undo) {
        let event = self.open.end_after(&self.events, because, undo);
        self.events.push(event);
    }

    /// Ends what the fold has as running and the steps so far did not end.
    fn abandon(&mut self, kind: ErrorKind, message: &str, which: impl Fn(&NodePath) -> bool) {
        for event in self.open.abandon(kind, message) {
            if which(&event.path)
                && !self.touched.contains_key(&event.path)
                && !self.is_closed(&event.path)
            {
                self.push(event);
            }
        }
    }

    /// Whether a node stands in a loop, or in an item of one, that the steps so far ended.
    fn is_closed(&self, path: &NodePath) -> bool {
        self.closed.iter().any(|below| path.as_str().starts_with(below))
    }

    fn is_all_settled(&self) -> bool {
        !self.active().any(|seen| match seen {
            Seen::Running { .. }
            | Seen::Ready(_)
            | Seen::Looping(_)
            | Seen::Waiting(_)
            | Seen::Failing(_) => true,
            Seen::Absent | Seen::Completed(_) | Seen::Skipped | Seen::Failed(_) => false,
        })
    }
}

fn started(path: &NodePath, attempt: Attempt, input: Json, items: Option<u32>) -> NodeStarted {
    let (max_iterations, secrets, undoes) = (None, Vec::new(), None);
    NodeStarted { path: path.clone(), attempt, input, items, max_iterations, secrets, undoes }
}

/// `{"items": […]}`, put together from text that is known to parse.
fn items_object(items: &[Json]) -> Json {
    let size = items.iter().map(|item| item.as_str().len() + 1).sum::<usize>();
    let mut text = String::with_capacity(size + 16);
    text.push_str("{\"items\":[");
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(item.as_str());
    }
    text.push_str("]}");
    Json::parse(&text).expect("a list of JSON values is one")
}
