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
    Approval, ApprovalRequested, Attempt, ExecutionEvent, NodeCompleted, NodeError, NodeOutput,
    NodePath, NodeState, Open, SignalAwaited, Task, TaskOffered, TimerKind, TimerSet,
};
use crate::{id::ExecutionId, json::Json};

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
    /// The answer of a person.
    Approval(Box<Approval>),
    /// A signal of this name.
    Signal {
        /// The name.
        name: String,
    },
    /// That an external worker does a task.
    Task(Box<Task>),
    /// A person who decides what becomes of it: it failed like this for the last time.
    Decision(Box<NodeError>),
    /// The end of this run.
    Child(ExecutionId),
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
            undoes: None,
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

/// What is recorded when a node begins to wait, after its start.
pub(super) fn begun(
    path: &NodePath,
    attempt: Attempt,
    awaited: &Awaited,
    since: DateTime<Utc>,
    until: Option<DateTime<Utc>>,
) -> Vec<ExecutionEvent> {
    let path = || path.clone();
    let named: Option<ExecutionEvent> = match awaited {
        // The timer says it all.
        Awaited::Time => None,
        // Their own steps say it.
        Awaited::Decision(_) | Awaited::Child(_) => None,
        Awaited::Approval(approval) => {
            let approval = Approval::clone(approval);
            Some(ApprovalRequested { path: path(), attempt, approval, since, until }.into())
        }
        Awaited::Signal { name } => {
            let name = name.clone();
            Some(SignalAwaited { path: path(), attempt, name, since, until }.into())
        }
        Awaited::Task(task) => Some(
            TaskOffered {
                path: path(),
                attempt,
                queue: task.queue.clone(),
                heartbeat_timeout_ms: task.heartbeat_timeout_ms,
                idempotent: task.idempotent,
                since,
                until,
            }
            .into(),
        ),
    };
    let kind = match awaited {
        Awaited::Time => TimerKind::Wait,
        Awaited::Approval(_) | Awaited::Signal { .. } | Awaited::Task(_) => TimerKind::WaitTimeout,
        // Neither is given up by time: the run may have a timeout.
        Awaited::Decision(_) | Awaited::Child(_) => TimerKind::WaitTimeout,
    };
    let timer =
        until.map(|due_at| TimerSet { path: path(), attempt, kind, set_at: since, due_at }.into());
    named.into_iter().chain(timer).collect()
}
