//! What a node waits for while no worker has it: always something that has a name.
//!
//! Waiting holds no worker, no slot and no memory but the fold's own. What ends it is written by somebody else (the timers, a person, a
//! program, another run): an event that names the node, and its outcome in the same append. After that the run is at the head of its line, and
//! dispatch hands it out: also where no limit concerns it, because dispatch may be paused.
//!
//! To add something to wait for: a variant of [`Awaited`], its event in [`super::report`] where the wait begins, and a command that ends it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{
    Attempt, NodeCompleted, NodeError, NodeOutput, NodePath, NodeState, Open, TimerKind, TimerSet,
};
use crate::json::Json;

/// A node that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Since when.
    pub since: DateTime<Utc>,
    /// Until when: the end of a wait for a time, and when any other wait is given up.
    pub until: Option<DateTime<Utc>>,
    /// For what.
    pub awaited: Awaited,
}

/// What a node may wait for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Awaited {
    /// Nothing but that its time comes.
    Time,
}

/// What a node waited for came to nothing, outside of any worker; its plan says what follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failing {
    /// Why.
    pub error: NodeError,
    /// How long the try took.
    pub duration_ms: u64,
}

/// One of the things that an execution waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeWait {
    /// The node.
    pub path: NodePath,
    /// Until when, where that is known.
    pub until: Option<DateTime<Utc>>,
    /// For what; none for its next try after a failure.
    pub awaited: Option<Awaited>,
}

impl Waiting {
    /// How long it has been so.
    pub(super) fn duration_ms(&self, now: DateTime<Utc>) -> u64 {
        u64::try_from((now - self.since).num_milliseconds()).unwrap_or(0)
    }

    /// The outcome of a node whose wait ended well.
    pub(super) fn completed(
        &self,
        path: &NodePath,
        attempt: Attempt,
        output: Json,
        port: Option<String>,
        now: DateTime<Utc>,
    ) -> NodeCompleted {
        NodeCompleted {
            path: path.clone(),
            attempt,
            output: NodeOutput::Inline(output),
            port,
            duration_ms: self.duration_ms(now),
        }
    }
}

impl Open {
    /// A node that waits, of this try.
    pub(super) fn waiting(&self, path: &NodePath, attempt: Attempt) -> Option<&Waiting> {
        match self.run.waiting_state(path, attempt)? {
            NodeState::Waiting(waiting) => Some(waiting),
            NodeState::Running(_)
            | NodeState::Retrying { .. }
            | NodeState::Ready
            | NodeState::Failing(_)
            | NodeState::Looping(_)
            | NodeState::Completed(_)
            | NodeState::Skipped
            | NodeState::Failed(_) => None,
        }
    }
}

/// The timer of a wait that does not last for ever.
pub(super) fn timer(
    path: &NodePath,
    attempt: Attempt,
    awaited: &Awaited,
    set_at: DateTime<Utc>,
    due_at: DateTime<Utc>,
) -> TimerSet {
    let kind = match awaited {
        Awaited::Time => TimerKind::Wait,
    };
    TimerSet { path: path.clone(), attempt, kind, set_at, due_at }
}
