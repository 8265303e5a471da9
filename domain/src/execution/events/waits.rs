//! What a node waits for from outside, and what came of it: approvals, signals, tasks.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Attempt, NodeError, NodePath};
use crate::{
    execution::{Approval, TaskLease},
    id::UserId,
    json::Json,
};

/// A person is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalRequested {
    /// The node.
    pub path: NodePath,
    /// Which try.
    pub attempt: Attempt,
    /// What is asked, and of whom.
    pub approval: Approval,
    /// When, so that the length of the wait follows from the log.
    pub since: DateTime<Utc>,
    /// When nobody need answer any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
}

/// Somebody answered by a button that does not refuse.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalGiven {
    /// The node.
    pub path: NodePath,
    /// Which try.
    pub attempt: Attempt,
    /// The port of the button.
    pub decision: String,
    /// What was filled in.
    pub values: Json,
    /// In their words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Who answered.
    pub by: UserId,
}

/// Somebody answered by a button that refuses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalRefused {
    /// The node.
    pub path: NodePath,
    /// Which try.
    pub attempt: Attempt,
    /// The port of the button.
    pub decision: String,
    /// What was filled in.
    pub values: Json,
    /// In their words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Who answered.
    pub by: UserId,
}

/// Nobody answered in time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalTimedOut {
    /// The node.
    pub path: NodePath,
    /// Which try.
    pub attempt: Attempt,
}

/// A node waits for a signal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalAwaited {
    /// The node.
    pub path: NodePath,
    /// Which try.
    pub attempt: Attempt,
    /// The name of the signal.
    pub name: String,
    /// Since when, so that the length of the wait follows from the log.
    pub since: DateTime<Utc>,
    /// When it waits no longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
}

/// Something outside said something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalReceived {
    /// The name of the signal.
    pub name: String,
    /// What came with it.
    pub payload: Json,
    /// The node that waited for it; none when it is kept for one that will.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<SignalNode>,
}

/// The node that a signal goes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalNode {
    /// The node.
    pub path: NodePath,
    /// Which try.
    pub attempt: Attempt,
}

/// A node took the oldest kept signal of its name, and need not wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalConsumed {
    /// The node.
    pub path: NodePath,
    /// Which try.
    pub attempt: Attempt,
    /// The name of the signal.
    pub name: String,
}

/// A step waits for an external worker. What it works on is the input of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskOffered {
    /// The node.
    pub path: NodePath,
    /// Which try.
    pub attempt: Attempt,
    /// The queue that its workers ask.
    pub queue: String,
    /// How long its worker may not be heard of.
    pub heartbeat_timeout_ms: u64,
    /// Whether it may be done again when its worker was lost.
    pub idempotent: bool,
    /// Since when, so that the length of the wait follows from the log.
    pub since: DateTime<Utc>,
    /// When it must have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
}

/// An external worker took a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskTaken {
    /// The node.
    pub path: NodePath,
    /// Which try.
    pub attempt: Attempt,
    /// Under which lease.
    pub lease: TaskLease,
    /// What the worker calls itself.
    pub worker: String,
}

/// The worker of a task was lost, and it is offered again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskReturned {
    /// The node.
    pub path: NodePath,
    /// Which try.
    pub attempt: Attempt,
    /// The lease that was lost.
    pub lease: TaskLease,
}

/// An external worker is done with a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskCompleted {
    /// The node.
    pub path: NodePath,
    /// Which try.
    pub attempt: Attempt,
    /// Under which lease.
    pub lease: TaskLease,
}

/// A task failed: its worker says so, was lost, or took too long. What follows is decided when the run goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskFailed {
    /// The node.
    pub path: NodePath,
    /// Which try.
    pub attempt: Attempt,
    /// Under which lease; 0 when it was never taken.
    pub lease: TaskLease,
    /// Why.
    pub error: NodeError,
    /// How long the try took.
    pub duration_ms: u64,
}
