//! Where an execution stands, folded from its events: the one reading of them that `executions` and `workflows` share.

use chrono::{DateTime, Utc};
use ledgerline_domain::execution::{CarriedNode, ExecutionEvent, ExecutionRequested, NodePath};

use crate::values::ExecutionStatus;

/// Where an execution stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lifecycle {
    pub(crate) status: ExecutionStatus,
    /// No worker has it and it only waits for timers.
    pub(crate) waiting: bool,
    /// A cancel was accepted and its end is to come.
    pub(crate) cancelling: bool,
    pub(crate) queued_at: Option<DateTime<Utc>>,
    pub(crate) started_at: Option<DateTime<Utc>>,
    pub(crate) finished_at: Option<DateTime<Utc>>,
    /// Nodes at the top level of its graph.
    pub(crate) planned: i32,
    /// How many of them came to an end.
    pub(crate) finished: i32,
}

impl Lifecycle {
    /// A new execution. What it took over from its origin counts as finished.
    pub(crate) fn requested(event: &ExecutionRequested) -> Self {
        let carried = event.origin.iter().flat_map(|origin| &origin.carried);
        Self {
            status: ExecutionStatus::Pending,
            waiting: false,
            cancelling: false,
            queued_at: None,
            started_at: None,
            finished_at: None,
            planned: i32::try_from(event.planned_nodes).unwrap_or(i32::MAX),
            finished: finished(carried),
        }
    }

    /// What an event makes of it.
    pub(crate) fn apply(&mut self, event: &ExecutionEvent, at: DateTime<Utc>) {
        match event {
            ExecutionEvent::ExecutionQueued(_) => {
                self.queued_at = self.queued_at.or(Some(at));
                self.status = self.reached();
            }
            ExecutionEvent::ExecutionStarted(_) | ExecutionEvent::ExecutionResumed(_) => {
                self.started_at = self.started_at.or(Some(at));
                self.waiting = false;
                self.status = ExecutionStatus::Running;
            }
            ExecutionEvent::NodesCarried(event) => self.finished += finished(&event.nodes),
            // What undoes another one is no part of what was planned.
            ExecutionEvent::NodeCompleted(event) if event.undoes.is_some() => {}
            ExecutionEvent::NodeCompleted(event) => self.count(&event.path),
            ExecutionEvent::NodeSkipped(event) => self.count(&event.path),
            ExecutionEvent::ExecutionWaiting(_) => self.waiting = true,
            ExecutionEvent::ExecutionPaused(_) => self.status = ExecutionStatus::Paused,
            ExecutionEvent::ExecutionUnpaused(_) => self.status = self.reached(),
            ExecutionEvent::CancelRequested(_) => self.cancelling = true,
            ExecutionEvent::CompensationStarted(_) => {
                self.cancelling = false;
                self.status = self.reached();
            }
            ExecutionEvent::ExecutionCompleted(_) => self.end(ExecutionStatus::Completed, at),
            ExecutionEvent::ExecutionFailed(_) => self.end(ExecutionStatus::Failed, at),
            ExecutionEvent::ExecutionCancelled(_) => self.end(ExecutionStatus::Cancelled, at),
            ExecutionEvent::ExecutionRequested(_)
            | ExecutionEvent::ExecutionDispatched(_)
            | ExecutionEvent::NodeStarted(_)
            | ExecutionEvent::NodeFailed(_)
            | ExecutionEvent::LoopIterated(_)
            | ExecutionEvent::LoopItemFailed(_)
            | ExecutionEvent::NodeResolved(_)
            | ExecutionEvent::ChildStarted(_)
            | ExecutionEvent::ChildFinished(_)
            | ExecutionEvent::TimerSet(_)
            | ExecutionEvent::TimerFired(_)
            | ExecutionEvent::ApprovalRequested(_)
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
            | ExecutionEvent::TaskFailed(_)
            | ExecutionEvent::VariableSet(_)
            | ExecutionEvent::UsageRecorded(_) => {}
        }
    }

    /// Whether an event changes anything here, so that a row need not be read for the others.
    pub(crate) fn concerns(event: &ExecutionEvent) -> bool {
        match event {
            ExecutionEvent::ExecutionQueued(_)
            | ExecutionEvent::ExecutionStarted(_)
            | ExecutionEvent::ExecutionResumed(_)
            | ExecutionEvent::ExecutionWaiting(_)
            | ExecutionEvent::ExecutionPaused(_)
            | ExecutionEvent::ExecutionUnpaused(_)
            | ExecutionEvent::CancelRequested(_)
            | ExecutionEvent::CompensationStarted(_)
            | ExecutionEvent::NodesCarried(_)
            | ExecutionEvent::ExecutionCompleted(_)
            | ExecutionEvent::ExecutionFailed(_)
            | ExecutionEvent::ExecutionCancelled(_) => true,
            ExecutionEvent::NodeCompleted(event) => top_level(&event.path),
            ExecutionEvent::NodeSkipped(event) => top_level(&event.path),
            ExecutionEvent::ExecutionRequested(_)
            | ExecutionEvent::ExecutionDispatched(_)
            | ExecutionEvent::NodeStarted(_)
            | ExecutionEvent::NodeFailed(_)
            | ExecutionEvent::LoopIterated(_)
            | ExecutionEvent::LoopItemFailed(_)
            | ExecutionEvent::NodeResolved(_)
            | ExecutionEvent::ChildStarted(_)
            | ExecutionEvent::ChildFinished(_)
            | ExecutionEvent::TimerSet(_)
            | ExecutionEvent::TimerFired(_)
            | ExecutionEvent::ApprovalRequested(_)
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
            | ExecutionEvent::TaskFailed(_)
            | ExecutionEvent::VariableSet(_)
            | ExecutionEvent::UsageRecorded(_) => false,
        }
    }

    /// Finished nodes over planned ones, 0 to 1. A completed run is at 1, whatever it left out.
    pub(crate) fn progress(status: ExecutionStatus, finished: i32, planned: i32) -> f64 {
        if status == ExecutionStatus::Completed {
            return 1.0;
        }
        if planned <= 0 {
            return 0.0;
        }
        (f64::from(finished) / f64::from(planned)).min(1.0)
    }

    /// The furthest it came, which a paused run goes back to.
    fn reached(&self) -> ExecutionStatus {
        if self.started_at.is_some() {
            ExecutionStatus::Running
        } else if self.queued_at.is_some() {
            ExecutionStatus::Queued
        } else {
            ExecutionStatus::Pending
        }
    }

    fn count(&mut self, path: &NodePath) {
        if top_level(path) {
            self.finished += 1;
        }
    }

    fn end(&mut self, status: ExecutionStatus, at: DateTime<Utc>) {
        self.status = status;
        self.waiting = false;
        self.cancelling = false;
        self.finished_at = Some(at);
    }
}

/// How many nodes of the top level were carried over with their outcome.
fn finished<'a>(carried: impl IntoIterator<Item = &'a CarriedNode>) -> i32 {
    let ended = |node: &&CarriedNode| top_level(&node.path) && node.looping.is_none();
    i32::try_from(carried.into_iter().filter(ended).count()).unwrap_or(i32::MAX)
}

/// Whether a path names a node of the graph itself, not of the body of a loop.
fn top_level(path: &NodePath) -> bool {
    !path.0.contains('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_stays_between_nothing_and_all() {
        assert_eq!(Lifecycle::progress(ExecutionStatus::Running, 0, 0), 0.0);
        assert_eq!(Lifecycle::progress(ExecutionStatus::Running, 1, 4), 0.25);
        assert_eq!(Lifecycle::progress(ExecutionStatus::Running, 9, 4), 1.0);
        assert_eq!(Lifecycle::progress(ExecutionStatus::Completed, 1, 4), 1.0);
    }
}
