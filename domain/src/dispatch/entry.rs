//! An open execution as the slots and lines see it.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::line::{Rank, Ticket};
use crate::{
    event::{Actor, AnyEvent, Recorded},
    execution::{Claim, ConcurrencyLimit, ExecutionEvent, ExecutionRequested, PauseReason, Queue},
    id::{ExecutionId, WorkflowId, WorkspaceId},
};

/// An open execution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) workspace: WorkspaceId,
    pub(super) workflow: WorkflowId,
    pub(super) limits: Arc<[ConcurrencyLimit]>,
    pub(super) queue: Queue,
    /// The newest claim.
    pub(super) claim: Claim,
    pub(super) place: Place,
    /// Since when it is there.
    pub(super) since: DateTime<Utc>,
    /// Who paused it, while it is or is about to be.
    pub(super) paused_by: Option<Actor>,
    /// Position of its request: its age.
    pub(super) requested: i64,
    /// Whether `ExecutionQueued` is in the log.
    pub(super) told: bool,
    /// Whether its worker was told to end it.
    pub(super) cancelling: bool,
    /// Whether it undoes what it did, and ends then.
    pub(super) undoing: bool,
    /// What was decided and not seen yet. Not part of a snapshot: a decision that is made twice is a repeat.
    #[serde(skip)]
    pub(super) pending: Pending,
}

/// A decision that is not seen in the log yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Pending {
    #[default]
    Nothing,
    Queue,
    /// It is on its way out: it gets no slot, and keeps the one it has until it has ended.
    Cancel,
    /// Its slot is held until the answer, whatever is seen meanwhile: the command may still succeed.
    Dispatch,
}

/// Where an execution is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Place {
    /// In the line of its limit; `resumed` is the position at which it got there again.
    Line { resumed: Option<i64> },
    /// Handed out, not taken.
    Dispatched { since: DateTime<Utc> },
    /// With a worker.
    Running { worker: String, pausing: Option<PauseReason> },
    /// Its nodes wait.
    Waiting,
    /// Held.
    Paused { rest: Rest, reason: PauseReason },
}

/// Where a paused execution goes back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Rest {
    /// Its line, where it never ran.
    Line,
    /// The head of its line.
    Head,
    /// What its nodes wait for.
    Waiting,
}

impl Entry {
    pub(super) fn new(event: &ExecutionRequested, recorded: &Recorded<AnyEvent>) -> Self {
        Self {
            workspace: event.workspace_id,
            workflow: event.workflow_id,
            limits: event.limits.clone().into(),
            queue: event.queue,
            claim: Claim(0),
            place: Place::Line { resumed: None },
            since: recorded.recorded_at,
            paused_by: None,
            requested: recorded.position,
            told: false,
            cancelling: false,
            undoing: false,
            pending: Pending::Nothing,
        }
    }

    /// Its card in the line of its limits.
    pub(super) fn ticket(&self, id: ExecutionId) -> Ticket {
        let rank = match &self.place {
            Place::Line { resumed: Some(position) } => Rank::Resumed(*position),
            Place::Line { resumed: None }
            | Place::Dispatched { .. }
            | Place::Running { .. }
            | Place::Waiting
            | Place::Paused { .. } => Rank::New(self.queue, self.requested),
        };
        Ticket {
            execution: id,
            workspace: self.workspace,
            limits: Arc::clone(&self.limits),
            requested: self.requested,
            rank,
        }
    }

    /// Whether it has its slots: from the decision to dispatch it until it lets go or ends.
    pub(super) fn holds(&self) -> bool {
        self.pending == Pending::Dispatch
            || matches!(self.place, Place::Dispatched { .. } | Place::Running { .. })
    }

    /// Whether it stands in its line and may be chosen.
    pub(super) fn waits(&self) -> bool {
        match self.pending {
            Pending::Nothing | Pending::Queue => matches!(self.place, Place::Line { .. }),
            Pending::Cancel | Pending::Dispatch => false,
        }
    }

    /// Whether it is about to end.
    pub(super) fn leaves(&self) -> bool {
        self.cancelling || self.undoing || self.pending == Pending::Cancel
    }

    /// Whether no worker ever took it and it still waits for that.
    pub(super) fn is_queued(&self) -> bool {
        match self.place {
            Place::Line { resumed } => resumed.is_none(),
            Place::Dispatched { .. } => self.claim == Claim(1),
            Place::Running { .. } | Place::Waiting | Place::Paused { .. } => false,
        }
    }

    /// Whether it is still open.
    pub(super) fn apply(&mut self, event: &ExecutionEvent, recorded: &Recorded<AnyEvent>) -> bool {
        let before = self.place.clone();
        let is_open = self.move_on(event, recorded);
        if self.place != before {
            self.since = recorded.recorded_at;
        }
        is_open
    }

    fn move_on(&mut self, event: &ExecutionEvent, recorded: &Recorded<AnyEvent>) -> bool {
        match event {
            ExecutionEvent::ExecutionQueued(_) => {
                self.told = true;
                if self.pending == Pending::Queue {
                    self.pending = Pending::Nothing;
                }
            }
            ExecutionEvent::ExecutionDispatched(event) => {
                if self.pending != Pending::Cancel {
                    self.pending = Pending::Nothing;
                }
                self.claim = event.claim;
                self.place = Place::Dispatched { since: recorded.recorded_at };
            }
            ExecutionEvent::ExecutionStarted(event) => self.taken(&event.worker),
            ExecutionEvent::ExecutionResumed(event) => self.taken(&event.worker),
            ExecutionEvent::ExecutionWaiting(_) => self.let_go(),
            ExecutionEvent::ExecutionPaused(event) => {
                self.paused_by = Some(recorded.metadata.actor.clone());
                self.pause(event.reason);
            }
            ExecutionEvent::ExecutionUnpaused(_) => {
                self.paused_by = None;
                self.unpause(recorded.position);
            }
            ExecutionEvent::ChildFinished(_) => self.wake(recorded.position),
            ExecutionEvent::TimerFired(event) if event.kind.wakes() => {
                self.wake(recorded.position);
            }
            ExecutionEvent::SignalReceived(event) if event.node.is_some() => {
                self.wake(recorded.position);
            }
            ExecutionEvent::ApprovalGiven(_)
            | ExecutionEvent::ApprovalRefused(_)
            | ExecutionEvent::ApprovalTimedOut(_)
            | ExecutionEvent::TaskCompleted(_)
            | ExecutionEvent::TaskFailed(_) => self.wake(recorded.position),
            ExecutionEvent::ExecutionCompleted(_)
            | ExecutionEvent::ExecutionFailed(_)
            | ExecutionEvent::ExecutionCancelled(_) => return false,
            ExecutionEvent::ExecutionRequested(_)
            | ExecutionEvent::NodeStarted(_)
            | ExecutionEvent::NodeCompleted(_)
            | ExecutionEvent::NodeFailed(_)
            | ExecutionEvent::NodeSkipped(_)
            | ExecutionEvent::LoopIterated(_)
            | ExecutionEvent::LoopItemFailed(_)
            | ExecutionEvent::NodeResolved(_)
            | ExecutionEvent::ChildStarted(_)
            | ExecutionEvent::TimerSet(_)
            | ExecutionEvent::TimerFired(_)
            | ExecutionEvent::ApprovalRequested(_)
            | ExecutionEvent::SignalAwaited(_)
            | ExecutionEvent::SignalReceived(_)
            | ExecutionEvent::SignalConsumed(_)
            | ExecutionEvent::TaskOffered(_)
            | ExecutionEvent::TaskTaken(_)
            | ExecutionEvent::TaskReturned(_)
            | ExecutionEvent::NodesCarried(_)
            | ExecutionEvent::VariableSet(_)
            | ExecutionEvent::UsageRecorded(_) => {}
            ExecutionEvent::CompensationStarted(_) => self.turn_back(recorded.position),
            ExecutionEvent::CancelRequested(_) => {
                self.cancelling = true;
                if self.pending == Pending::Cancel {
                    self.pending = Pending::Nothing;
                }
            }
        }
        true
    }

    fn let_go(&mut self) {
        self.place = match self.place {
            Place::Running { pausing: Some(reason), .. } => {
                Place::Paused { rest: Rest::Head, reason }
            }
            Place::Running { pausing: None, .. }
            | Place::Line { .. }
            | Place::Dispatched { .. }
            | Place::Waiting
            | Place::Paused { .. } => Place::Waiting,
        };
    }

    fn taken(&mut self, worker: &str) {
        self.place = Place::Running { worker: worker.to_owned(), pausing: None };
    }

    fn pause(&mut self, reason: PauseReason) {
        let rest = match &mut self.place {
            // Its worker finishes what runs, and holds the slot until then.
            Place::Running { pausing, .. } => {
                // A node that fails meanwhile gives it no other reason.
                pausing.get_or_insert(reason);
                return;
            }
            Place::Line { resumed: None } => Rest::Line,
            Place::Line { resumed: Some(_) } | Place::Dispatched { .. } => Rest::Head,
            Place::Waiting => Rest::Waiting,
            Place::Paused { rest, .. } => *rest,
        };
        self.place = Place::Paused { rest, reason };
    }

    fn unpause(&mut self, position: i64) {
        match &mut self.place {
            Place::Running { pausing, .. } => *pausing = None,
            Place::Paused { rest, .. } => {
                self.place = match rest {
                    Rest::Line => Place::Line { resumed: None },
                    Rest::Head => Place::Line { resumed: Some(position) },
                    Rest::Waiting => Place::Waiting,
                };
            }
            Place::Line { .. } | Place::Dispatched { .. } | Place::Waiting => {}
        }
    }

    /// It has what it did to undo, whatever held it back before.
    fn turn_back(&mut self, position: i64) {
        (self.cancelling, self.undoing) = (false, true);
        self.paused_by = None;
        if self.pending == Pending::Cancel {
            self.pending = Pending::Nothing;
        }
        match &mut self.place {
            Place::Running { pausing, .. } => *pausing = None,
            Place::Dispatched { .. } => {}
            Place::Line { .. } | Place::Waiting | Place::Paused { .. } => {
                self.place = Place::Line { resumed: Some(position) };
            }
        }
    }

    fn wake(&mut self, position: i64) {
        match &mut self.place {
            Place::Waiting => self.place = Place::Line { resumed: Some(position) },
            Place::Paused { rest: rest @ Rest::Waiting, .. } => *rest = Rest::Head,
            Place::Paused { rest: Rest::Line | Rest::Head, .. }
            | Place::Line { .. }
            | Place::Dispatched { .. }
            | Place::Running { .. } => {}
        }
    }
}

/// Whether an event can change where an execution is. Most events are about nodes and pass by at no cost.
pub(super) fn moves(event: &ExecutionEvent) -> bool {
    match event {
        ExecutionEvent::ExecutionRequested(_)
        | ExecutionEvent::ExecutionQueued(_)
        | ExecutionEvent::ExecutionDispatched(_)
        | ExecutionEvent::ExecutionStarted(_)
        | ExecutionEvent::ExecutionResumed(_)
        | ExecutionEvent::TimerFired(_)
        | ExecutionEvent::ApprovalGiven(_)
        | ExecutionEvent::ApprovalRefused(_)
        | ExecutionEvent::ApprovalTimedOut(_)
        | ExecutionEvent::SignalReceived(_)
        | ExecutionEvent::TaskCompleted(_)
        | ExecutionEvent::TaskFailed(_)
        | ExecutionEvent::ChildFinished(_)
        | ExecutionEvent::ExecutionWaiting(_)
        | ExecutionEvent::ExecutionPaused(_)
        | ExecutionEvent::ExecutionUnpaused(_)
        | ExecutionEvent::ExecutionCompleted(_)
        | ExecutionEvent::ExecutionFailed(_)
        | ExecutionEvent::CancelRequested(_)
        | ExecutionEvent::CompensationStarted(_)
        | ExecutionEvent::ExecutionCancelled(_) => true,
        ExecutionEvent::NodeStarted(_)
        | ExecutionEvent::NodeCompleted(_)
        | ExecutionEvent::NodeFailed(_)
        | ExecutionEvent::NodeSkipped(_)
        | ExecutionEvent::LoopIterated(_)
        | ExecutionEvent::LoopItemFailed(_)
        | ExecutionEvent::NodeResolved(_)
        | ExecutionEvent::ChildStarted(_)
        | ExecutionEvent::TimerSet(_)
        | ExecutionEvent::ApprovalRequested(_)
        | ExecutionEvent::SignalAwaited(_)
        | ExecutionEvent::SignalConsumed(_)
        | ExecutionEvent::TaskOffered(_)
        | ExecutionEvent::TaskTaken(_)
        | ExecutionEvent::TaskReturned(_)
        | ExecutionEvent::NodesCarried(_)
        | ExecutionEvent::VariableSet(_)
        | ExecutionEvent::UsageRecorded(_) => false,
    }
}
