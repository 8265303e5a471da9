//! What a run that comes to its end undoes of what it did.

use serde::{Deserialize, Serialize};

use super::{CancelReason, NodeError, NodePath};

/// The run comes to its end, and what it did is undone first: the undo nodes of its completed nodes run, that of the last one first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompensationStarted {
    /// How the run ends when that is done.
    pub because: EndCause,
    /// How many nodes there are to undo.
    pub undoes: u32,
}

/// How a run ends that does not end well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndCause {
    /// With a failure.
    Failed {
        /// The node that failed, when one did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<NodePath>,
        /// Why.
        error: NodeError,
    },
    /// It was stopped.
    Cancelled {
        /// Why.
        reason: CancelReason,
    },
}

/// What came of undoing what a run had done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compensation {
    /// How many nodes were undone.
    pub undone: u32,
    /// How many were not.
    pub not_undone: u32,
    /// The first of those, at most [`crate::limits::MAX_NAMED_NOT_UNDONE`], in the order in which they were to be undone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub named: Vec<NotUndone>,
}

/// A node whose effect is still there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotUndone {
    /// The node.
    pub node: NodePath,
    /// The node that was to undo it.
    pub undo: NodePath,
    /// Why that failed, without its details, which are in its own event; none when it never began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<NodeError>,
}
