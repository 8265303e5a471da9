//! What must hold whatever goes wrong: folds the log beside the processes, and believes none of them.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use ledgerline_commands::{due::due_key, record::recorded};
use ledgerline_domain::{
    Aggregate as _,
    event::AnyEvent,
    execution::{
        Awaited, ChildOutcome, Execution, ExecutionEvent, Intent, NodeState, Phase, Rest, Status,
        TimerKind,
    },
    id::ExecutionId,
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
        let forever = chrono::DateTime::<chrono::Utc>::MAX_UTC;
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
            let kind = match node.state {
                NodeState::Waiting(ref waiting) if waiting.until.is_none() => continue,
                NodeState::Waiting { .. } => TimerKind::Wait,
                NodeState::Retrying { .. } => TimerKind::Retry,
                NodeState::Running(_)
                | NodeState::Ready
                | NodeState::Failing(_)
                | NodeState::Looping(_)
                | NodeState::Completed(_)
                | NodeState::Skipped
                | NodeState::Failed(_) => continue,
            };
            let key = due_key(StreamId(id.0), kind, path, node.attempt);
            assert!(due.contains(&key), "{id} waits for a time that nobody keeps: {key:?}");
        }
    }

    fn take_in(&mut self, row: &RecordedEvent) {
        let version = self.versions.entry(row.stream).or_default();
        *version += 1;
        assert_eq!(row.version.0, *version, "{} has a gap", row.stream);
        assert!(self.event_ids.insert(row.event_id), "{} is in the log twice", row.event_id);
        let event = recorded(row).expect("a readable event");
        let AnyEvent::Execution(fact) = event.event else { return };
        let id = ExecutionId(event.stream);
        let before = self.executions.remove(&id).unwrap_or_default();
        self.allowed(id, &before, &fact);
        let after = before.evolve(&fact);
        self.count(id, &after);
        self.executions.insert(id, after);
    }

    fn allowed(&mut self, id: ExecutionId, before: &Execution, fact: &ExecutionEvent) {
        assert!(!before.has_ended(), "{id} ended as {:?}, and then: {fact:?}", before.status());
        match fact {
            ExecutionEvent::NodeStarted(started) => {
                assert!(!self.cancelled.contains(&id), "{id} was cancelled, and then: {started:?}");
                let phase = before.open().map(|open| &open.phase);
                assert!(
                    matches!(phase, Some(Phase::Running { intent: Intent::GoOn, .. })),
                    "{id} is {phase:?}, and then: {started:?}"
                );
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
                let ended = found.has_ended();
                let waits = found.awaits_child(&parent.path, parent.attempt, id);
                // The parent may end between the look at it and the request; its child is cancelled then.
                assert!(ended || waits, "{id} is a child that nobody waits for: {parent:?}");
            }
            ExecutionEvent::CancelRequested(_) => {
                self.cancelled.insert(id);
            }
            ExecutionEvent::ExecutionCompleted(_) | ExecutionEvent::ExecutionFailed(_) => {
                assert!(!self.cancelled.contains(&id), "{id} was cancelled, and then: {fact:?}");
            }
            _ => {}
        }
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

    /// Whoever has neither ended nor waits for a person, be it through a child.
    pub(crate) fn under_way(&self) -> impl Iterator<Item = (&ExecutionId, &Execution)> {
        self.executions
            .iter()
            .filter(|(_, execution)| !execution.has_ended() && !self.rests(execution))
    }

    /// Whether only a person can move it: it is paused, or all that it waits for are children of which that is true.
    fn rests(&self, execution: &Execution) -> bool {
        let Some(open) = execution.open() else { return false };
        if execution.status() == Some(Status::Paused) {
            return true;
        }
        let mut waits = false;
        let all_rest = open.run.active().all(|(_, node)| match &node.state {
            NodeState::Waiting(waiting) => {
                waits = true;
                let Awaited::Child(child) = waiting.awaited else { return false };
                self.executions.get(&child).is_some_and(|child| self.rests(child))
            }
            // A loop moves when something in it does.
            NodeState::Looping(_) => true,
            _ => false,
        });
        matches!(open.phase, Phase::Idle(Rest::Waiting)) && waits && all_rest
    }

    pub(crate) fn paused(&self) -> Vec<ExecutionId> {
        let paused = self
            .executions
            .iter()
            .filter(|(_, execution)| execution.status() == Some(Status::Paused));
        paused.map(|(id, _)| *id).collect()
    }

    pub(crate) fn events(&self) -> usize {
        self.seen
    }
}
