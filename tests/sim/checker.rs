//! What must hold whatever goes wrong: folds the log beside the processes, and believes none of them.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chrono::{DateTime, Utc};
use ledgerline_commands::{due::due_key, record::recorded};
use ledgerline_domain::{
    Aggregate as _,
    event::AnyEvent,
    execution::{
        Attempt, Awaited, ChildOutcome, Compensation, Execution, ExecutionEvent, Intent, NodePath,
        NodeState, Phase, Rest, Status, TaskLease, TimerKind,
    },
    id::ExecutionId,
    trigger::{Cause, TriggerEvent},
};
use ledgerline_store::{DueKey, EventLog as _, RecordedEvent, SimulatedLog, StreamId};
use uuid::Uuid;

use crate::weather::Weather;

/// The fold of the log so far.
#[derive(Default)]
pub(crate) struct Checker {
    seen: usize,
    versions: BTreeMap<StreamId, i64>,
    event_ids: HashSet<Uuid>,
    pub(crate) executions: BTreeMap<ExecutionId, Execution>,
    /// Who holds slots, by limit.
    held: BTreeMap<String, BTreeSet<ExecutionId>>,
    /// Those that were told to end.
    cancelled: BTreeSet<ExecutionId>,
    /// When schedules fire next, by what they said last.
    next_fires: BTreeMap<StreamId, Option<DateTime<Utc>>>,
    /// What triggers fired for.
    causes: BTreeSet<(StreamId, String)>,
    /// What triggers started.
    fired: BTreeSet<ExecutionId>,
    /// When the lease of each try of a task runs out at the earliest.
    leases: BTreeMap<(ExecutionId, NodePath, i32), DateTime<Utc>>,
    /// Under which leases tasks came to an end.
    pub(crate) reported: BTreeSet<(ExecutionId, NodePath, i32, TaskLease)>,
    /// What open executions did and have not undone yet, of what can be.
    done: BTreeMap<ExecutionId, Vec<NodePath>>,
}

impl Checker {
    /// Takes in what was appended since, and looks at what every open execution waits for.
    pub(crate) async fn check(&mut self, log: &SimulatedLog, weather: &Weather) {
        weather.look(true);
        let events = log.events();
        for row in &events[self.seen..] {
            self.take_in(row);
        }
        self.seen = events.len();
        let forever = DateTime::<Utc>::MAX_UTC;
        let due =
            log.due(forever, usize::MAX >> 1).await.expect("nothing goes wrong for a checker");
        weather.look(false);
        let due: HashSet<DueKey> = due.into_iter().map(|due| due.due).collect();
        for (id, execution) in &self.executions {
            if execution.has_ended() {
                continue;
            }
            let open = execution.open();
            assert!(execution.waits_for().is_some(), "{id} waits for nothing: {open:?}");
            self.timers_are_due(*id, execution, &due);
        }
    }

    /// Whatever a run waits for in time has its row, or it would wait for ever.
    fn timers_are_due(&self, id: ExecutionId, execution: &Execution, due: &HashSet<DueKey>) {
        let Some(run) = execution.run() else { return };
        for (path, node) in run.active() {
            let mut kinds = Vec::new();
            match &node.state {
                NodeState::Waiting(waiting) => {
                    if waiting.until.is_some() {
                        let by_time = waiting.awaited == Awaited::Time;
                        kinds.push(if by_time { TimerKind::Wait } else { TimerKind::WaitTimeout });
                    }
                    if let Awaited::Task(task) = &waiting.awaited
                        && task.worker.is_some()
                    {
                        kinds.push(TimerKind::TaskLease);
                    }
                }
                NodeState::Retrying { .. } => kinds.push(TimerKind::Retry),
                NodeState::Running(_)
                | NodeState::Ready
                | NodeState::Failing(_)
                | NodeState::Looping(_)
                | NodeState::Completed(_)
                | NodeState::Skipped
                | NodeState::Failed(_) => {}
            }
            for kind in kinds {
                let key = due_key(StreamId(id.0), kind, path, node.attempt);
                assert!(due.contains(&key), "{id} waits for a time that nobody keeps: {key:?}");
            }
        }
    }

    fn take_in(&mut self, row: &RecordedEvent) {
        let version = self.versions.entry(row.stream).or_default();
        *version += 1;
        assert_eq!(row.version.0, *version, "{} has a gap", row.stream);
        assert!(self.event_ids.insert(row.event_id), "{} is in the log twice", row.event_id);
        let event = recorded(row).expect("a readable event");
        let fact = match event.event {
            AnyEvent::Execution(fact) => fact,
            AnyEvent::Trigger(fact) => return self.trigger(row.stream, &fact),
            _ => return,
        };
        let id = ExecutionId(event.stream);
        let before = self.executions.remove(&id).unwrap_or_default();
        self.allowed(id, &before, &fact);
        self.allowed_of_task(id, &before, &fact, row.recorded_at);
        let after = before.evolve(&fact);
        self.count(id, &after);
        self.executions.insert(id, after);
    }

    fn allowed(&mut self, id: ExecutionId, before: &Execution, fact: &ExecutionEvent) {
        assert!(!before.has_ended(), "{id} ended as {:?}, and then: {fact:?}", before.status());
        match fact {
            ExecutionEvent::NodeStarted(started) => {
                assert!(
                    started.undoes.is_some() || !self.cancelled.contains(&id),
                    "{id} was cancelled, and then: {started:?}"
                );
                if let Some(node) = &started.undoes {
                    self.undo(id, before, node);
                }
                let phase = before.open().map(|open| &open.phase);
                assert!(
                    matches!(phase, Some(Phase::Running { intent: Intent::GoOn, .. })),
                    "{id} is {phase:?}, and then: {started:?}"
                );
            }
            ExecutionEvent::NodeCompleted(completed) if completed.undoes.is_none() => {
                let run = before.run().expect("it was requested");
                let failed = run
                    .nodes
                    .get(&completed.path)
                    .is_some_and(|node| matches!(node.state, NodeState::Failed(_)));
                if run.request.undoes.contains_key(completed.path.node_id()) && !failed {
                    self.done.entry(id).or_default().push(completed.path.clone());
                }
            }
            ExecutionEvent::CompensationStarted(started) => {
                let done = self.done.get(&id).map_or(0, Vec::len);
                assert_eq!(started.undoes as usize, done, "{id} undoes what it did, all of it");
            }
            ExecutionEvent::ChildFinished(finished) => {
                let child = self.executions.get(&finished.execution_id);
                let status = child.and_then(Execution::status);
                let expected = match finished.outcome {
                    ChildOutcome::Completed => Some(Status::Completed),
                    ChildOutcome::Failed => Some(Status::Failed),
                    ChildOutcome::Cancelled => Some(Status::Cancelled),
                    ChildOutcome::Refused => None,
                };
                assert_eq!(status, expected, "{id} hears another end of its child: {finished:?}");
            }
            ExecutionEvent::ExecutionRequested(request) => {
                let Some(parent) = request.parent.as_ref().filter(|parent| parent.waits) else {
                    return;
                };
                let found = &self.executions[&parent.execution_id];
                let turned = found.open().is_some_and(|open| open.undoing().is_some());
                let ended = found.has_ended() || turned;
                let waits = found.awaits_child(&parent.path, parent.attempt, id);
                // The parent may end between the look at it and the request; its child is cancelled then.
                assert!(ended || waits, "{id} is a child that nobody waits for: {parent:?}");
            }
            // One that undoes what it did ends as it was to end before.
            ExecutionEvent::CancelRequested(_)
                if before.open().is_some_and(|open| open.undoing().is_none()) =>
            {
                self.cancelled.insert(id);
            }
            ExecutionEvent::ExecutionCompleted(_) => {
                assert!(!self.cancelled.contains(&id), "{id} was cancelled, and then: {fact:?}");
            }
            ExecutionEvent::ExecutionFailed(failed) => {
                assert!(!self.cancelled.contains(&id), "{id} was cancelled, and then: {fact:?}");
                self.all_is_undone_or_named(id, failed.compensation.as_ref());
            }
            ExecutionEvent::ExecutionCancelled(cancelled) => {
                self.all_is_undone_or_named(id, cancelled.compensation.as_ref());
            }
            _ => {}
        }
    }

    /// A cause starts one run for ever, and no fire time of a schedule is passed over.
    fn trigger(&mut self, stream: StreamId, fact: &TriggerEvent) {
        let due = |cause: &Cause, next: &Option<DateTime<Utc>>| {
            if let Cause::Schedule { fire_at } = cause {
                assert_eq!(next.as_ref(), Some(fire_at), "{stream} passes fire times over");
            }
        };
        let next = match fact {
            TriggerEvent::TriggerArmed(armed) => armed.next_fire_at,
            TriggerEvent::TriggerFired(fired) => {
                due(&fired.cause, self.next_fires.get(&stream).unwrap_or(&None));
                let cause = (stream, format!("{:?}", fired.cause));
                assert!(self.causes.insert(cause), "{stream} fires twice: {fired:?}");
                let is_new = self.fired.insert(fired.execution_id);
                assert!(is_new, "{} is started twice", fired.execution_id);
                fired.next_fire_at
            }
            TriggerEvent::TriggerRefused(refused) => {
                due(&refused.cause, self.next_fires.get(&stream).unwrap_or(&None));
                refused.next_fire_at
            }
            TriggerEvent::FiresMissed(missed) => {
                panic!("{stream} was late for longer than anything went wrong: {missed:?}")
            }
            _ => return,
        };
        self.next_fires.insert(stream, next);
    }

    /// What a trigger started was requested, and what says that a trigger started it was.
    pub(crate) fn every_start_has_its_cause(&self) {
        let by_trigger = self.executions.iter().filter(|(_, execution)| {
            let request = execution.run().map(|run| &run.request);
            request.is_some_and(|request| {
                let is_again = request.origin.is_some();
                request.trigger_node.is_some() && !is_again
            })
        });
        let by_trigger: BTreeSet<ExecutionId> = by_trigger.map(|(id, _)| *id).collect();
        assert_eq!(by_trigger, self.fired, "runs by triggers, and what triggers started");
    }

    /// A task is one worker's at a time: only the newest lease ends it, and it is taken away only when its time is over.
    fn allowed_of_task(
        &mut self,
        id: ExecutionId,
        before: &Execution,
        fact: &ExecutionEvent,
        at: DateTime<Utc>,
    ) {
        let held = |path: &NodePath, attempt: Attempt| {
            let run = before.run()?;
            let (_, node) = run.active().find(|(active, _)| *active == path)?;
            match &node.state {
                NodeState::Waiting(waiting) if node.attempt == attempt => match &waiting.awaited {
                    Awaited::Task(task) => Some((task.lease, task.worker.is_some())),
                    _ => None,
                },
                _ => None,
            }
        };
        match fact {
            ExecutionEvent::TaskTaken(taken) => {
                let lease = TaskLease(taken.lease.0 - 1);
                let found = held(&taken.path, taken.attempt);
                assert_eq!(found, Some((lease, false)), "{id} gives a task away: {taken:?}");
            }
            ExecutionEvent::TaskCompleted(done) => {
                let found = held(&done.path, done.attempt);
                assert_eq!(
                    found,
                    Some((done.lease, true)),
                    "{id} believes a stale lease: {done:?}"
                );
                let done = (id, done.path.clone(), done.attempt.0, done.lease);
                assert!(self.reported.insert(done.clone()), "{done:?} is in the log twice");
            }
            ExecutionEvent::TaskFailed(failed) => {
                let found = held(&failed.path, failed.attempt).map(|(lease, _)| lease);
                assert_eq!(found, Some(failed.lease), "{id} believes a stale lease: {failed:?}");
                self.reported.insert((id, failed.path.clone(), failed.attempt.0, failed.lease));
            }
            ExecutionEvent::TaskReturned(back) => {
                let found = held(&back.path, back.attempt);
                assert_eq!(found, Some((back.lease, true)), "{id} takes a task away: {back:?}");
            }
            ExecutionEvent::TimerSet(set) if set.kind == TimerKind::TaskLease => {
                self.leases.insert((id, set.path.clone(), set.attempt.0), set.due_at);
            }
            ExecutionEvent::TimerFired(fired) if fired.kind == TimerKind::TaskLease => {
                let due_at = self.leases[&(id, fired.path.clone(), fired.attempt.0)];
                assert!(due_at <= at, "{id} takes a task away before its time: {fired:?}");
            }
            _ => {}
        }
    }

    /// What completed last is undone first. A worker that is lost has the same undo begin again.
    fn undo(&mut self, id: ExecutionId, before: &Execution, node: &NodePath) {
        let undoing = before.open().is_some_and(|open| open.undoing().is_some());
        assert!(undoing, "{id} undoes {node} while it goes forward");
        let done = self.done.entry(id).or_default();
        if done.last() == Some(node) {
            done.pop();
        }
        assert!(!done.contains(node), "{id} undoes {node} before {:?}", done.last());
    }

    fn all_is_undone_or_named(&mut self, id: ExecutionId, came: Option<&Compensation>) {
        let left = self.done.remove(&id).unwrap_or_default();
        let named = came.map_or(0, |came| came.not_undone as usize);
        assert!(left.len() <= named, "{id} ended, and nobody says that these stay: {left:?}");
    }

    fn count(&mut self, id: ExecutionId, after: &Execution) {
        let Some(run) = after.run() else { return };
        let holds = after.open().is_some_and(|open| match open.phase {
            Phase::Dispatched | Phase::Running { .. } => true,
            Phase::Idle(_) | Phase::Paused { .. } => false,
        });
        for limit in &run.request.limits {
            let held = self.held.entry(limit.key.clone()).or_default();
            if holds {
                held.insert(id);
            } else {
                held.remove(&id);
            }
            assert!(held.len() <= limit.limit as usize, "{limit:?} is over-filled by {held:?}");
        }
    }

    /// Whoever has neither ended nor waits for somebody outside, be it through a child.
    pub(crate) fn under_way(&self) -> impl Iterator<Item = (&ExecutionId, &Execution)> {
        self.executions
            .iter()
            .filter(|(_, execution)| !execution.has_ended() && !self.rests(execution))
    }

    /// Whether only somebody outside can move it: it is paused, or all that it waits for is a person, a program, an external worker, or
    /// a child of which that is true.
    fn rests(&self, execution: &Execution) -> bool {
        let Some(open) = execution.open() else { return false };
        if execution.status() == Some(Status::Paused) {
            return true;
        }
        let mut waits = false;
        let all_rest = open.run.active().all(|(_, node)| match &node.state {
            NodeState::Waiting(waiting) => {
                waits = true;
                let has_time = waiting.until.is_some();
                match &waiting.awaited {
                    Awaited::Child(child) => {
                        self.executions.get(child).is_some_and(|child| self.rests(child))
                    }
                    Awaited::Approval(_) | Awaited::Signal { .. } => !has_time,
                    // A worker who is not heard of loses it.
                    Awaited::Task(task) => !has_time && task.worker.is_none(),
                    Awaited::Time | Awaited::Decision(_) => false,
                }
            }
            // A loop moves when something in it does.
            NodeState::Looping(_) => true,
            _ => false,
        });
        matches!(open.phase, Phase::Idle(Rest::Waiting)) && waits && all_rest
    }

    pub(crate) fn open(&self) -> Vec<ExecutionId> {
        let open = self.executions.iter().filter(|(_, execution)| !execution.has_ended());
        open.map(|(id, _)| *id).collect()
    }

    pub(crate) fn events(&self) -> usize {
        self.seen
    }
}
