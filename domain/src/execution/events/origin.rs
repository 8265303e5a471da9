//! Where an execution came from when it was made from another one, and what it took over.

use serde::{Deserialize, Serialize};

use super::{NodeError, NodeOutput, NodePath};
use crate::{execution::KeptSignal, id::ExecutionId, json::Json};

/// Where an execution came from when it was made from another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The execution it was made from.
    pub execution_id: ExecutionId,
    /// How.
    pub kind: OriginKind,
    /// The node that a rerun begins with, where it is not all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_node: Option<NodePath>,
    /// How many events of that execution a fork takes as its past.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_version: Option<i64>,
    /// Nodes whose configuration differs from the definition's in this run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edits: Vec<NodeEdit>,
    /// Outputs of nodes that are taken over and do not run again, by path; many of them follow in [`NodesCarried`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub carried: Vec<CarriedNode>,
    /// Variables that nodes of `carried` had set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub variables: Vec<CarriedVariable>,
    /// Signals that nobody had waited for, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signals: Vec<KeptSignal>,
}

/// A variable that was carried over from the origin with the node that set it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriedVariable {
    /// The node that had set it.
    pub path: NodePath,
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Json,
}

/// How an execution was made from another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OriginKind {
    /// From the failed node on, with what had succeeded carried over.
    Retry,
    /// Everything again, or from a node on.
    Rerun,
    /// From a moment of it on.
    Fork,
    /// A node by itself, with everything around it carried over.
    Node,
}

/// Fields of a node's configuration that are others than its definition has, for one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEdit {
    /// The node.
    pub node: String,
    /// An object of the fields that are replaced.
    pub config: Json,
}

/// The outcome of a node that was carried over from the origin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriedNode {
    /// The node.
    pub path: NodePath,
    /// Its output then; none where it was skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<NodeOutput>,
    /// The port it left by, where its kind has ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// How far a loop was that had not ended: it goes on from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub looping: Option<CarriedLoop>,
}

/// How far a loop was when it was carried over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CarriedLoop {
    /// A `logic.for_each`.
    Each {
        /// Its items, as a list.
        items: Json,
        /// Those that had failed and that it goes on without.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        failed: Vec<CarriedFailure>,
    },
    /// A `logic.while`.
    While {
        /// How many iterations there may be.
        max_iterations: u32,
        /// How many were begun.
        iterations: u32,
    },
}

/// An item of a loop that had failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriedFailure {
    /// Which, from 0.
    pub item: u32,
    /// The node of the body that failed first.
    pub node: NodePath,
    /// Why.
    pub error: NodeError,
}
