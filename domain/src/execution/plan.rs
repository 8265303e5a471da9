//! A graph as a run walks it: nodes by index, what leads where, and what follows on a failure.
//!
//! Made once per workflow version and kept by the worker; [`super::Planner`] asks it for every step, so everything is an index.

use std::{collections::HashMap, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};

use super::{AfterFailure, Attempt, NodeError, NodeOutput, NodePath, path::scope_item};
use crate::{
    graph::{Edge, Graph, NodeIndex},
    json::Json,
    node::{
        ERROR_PORT, MergeMode, Node, NodeClass, NodeConfig, NodeKind, OnError, OnItemError,
        RetryPolicy,
    },
};

/// A graph, or the body of a loop, ready to be walked.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    nodes: Vec<PlanNode>,
    index: HashMap<String, u32>,
    outgoing: Vec<Vec<PlanConnection>>,
    incoming: Vec<u32>,
    sources: Vec<Vec<PlanSource>>,
    leaves: Vec<u32>,
    /// Per node, whether it undoes another, and so stands outside the ordinary flow.
    undoes: Vec<bool>,
    /// How many nodes do not.
    flow_len: usize,
    /// Where runs begin: index, and whether it is where a person's do.
    triggers: Vec<(u32, bool)>,
    parallelism: usize,
}

/// A node as a run sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanNode {
    /// Its id in the definition.
    pub id: String,
    /// How it is done.
    pub work: Work,
    /// Whether its effect may begin again when nobody knows how far it came.
    pub idempotent: bool,
    /// When a failed try is repeated.
    pub retry: RetryPolicy,
    /// What follows on the last failure.
    pub on_error: OnError,
}

/// How a node is done.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// In the worker's own thread, without an effect: its outcome needs no start before it.
    Inline,
    /// With an effect outside, so its start is recorded first.
    Effect,
    /// By waiting, for a time or for something from outside.
    Wait,
    /// By passing on what came by its connections.
    Merge(MergeMode),
    /// By running a body for each item.
    Each {
        /// The body.
        body: Arc<Plan>,
        /// How many items at once.
        concurrency: u32,
        /// What follows when one fails.
        on_item_error: OnItemError,
    },
    /// By running a body as long as a condition holds.
    While {
        /// The body.
        body: Arc<Plan>,
    },
}

impl Work {
    /// What a loop runs, and how many times at once.
    pub(super) fn body(&self) -> Option<(&Arc<Plan>, u32)> {
        match self {
            Self::Each { body, concurrency, .. } => Some((body, (*concurrency).max(1))),
            Self::While { body } => Some((body, 1)),
            Self::Inline | Self::Effect | Self::Wait | Self::Merge(_) => None,
        }
    }
}

/// What leads to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlanSource {
    pub(super) from: u32,
    pub(super) port: Option<String>,
}

/// Where a node leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanConnection {
    /// Index of the target.
    pub to: u32,
    /// By which port; none for the only one.
    pub port: Option<String>,
}

impl Plan {
    /// The plan of a graph, with those of its loops' bodies.
    #[must_use]
    pub fn of(graph: &Graph) -> Arc<Self> {
        let mut indexed: Vec<(NodeIndex, &Node)> = graph.nodes().collect();
        // What may begin at the same time begins in the order in which it was written.
        indexed.sort_unstable_by_key(|(index, _)| *index);
        let index: HashMap<String, u32> =
            (0..).zip(&indexed).map(|(index, (_, node))| (node.id().to_owned(), index)).collect();
        let target = |edge: &Edge| PlanConnection {
            to: index[graph.node(edge.node).id()],
            port: edge.port.clone(),
        };
        let outgoing: Vec<Vec<PlanConnection>> = indexed
            .iter()
            .map(|(node, _)| graph.outgoing(*node).iter().map(target).collect())
            .collect();
        let incoming = indexed
            .iter()
            .map(|(node, _)| u32::try_from(graph.incoming(*node).len()).unwrap_or(u32::MAX))
            .collect();
        let source = |edge: &Edge| PlanSource {
            from: index[graph.node(edge.node).id()],
            port: edge.port.clone(),
        };
        let sources = indexed
            .iter()
            .map(|(node, _)| graph.incoming(*node).iter().map(source).collect())
            .collect();
        let undoes: Vec<bool> = indexed.iter().map(|(index, _)| graph.is_undo(*index)).collect();
        let leaves = (0..).zip(outgoing.iter().zip(&undoes));
        let leaves = leaves.filter(|(_, (to, undoes))| to.is_empty() && !**undoes);
        let leaves = leaves.map(|(index, _)| index).collect();
        let triggers = (0..)
            .zip(&indexed)
            .filter(|(_, (_, node))| node.kind().is_trigger())
            .map(|(index, (_, node))| (index, node.kind() == NodeKind::TriggerManual))
            .collect();
        Arc::new(Self {
            nodes: indexed.iter().map(|(_, node)| PlanNode::of(node)).collect(),
            index,
            outgoing,
            incoming,
            sources,
            leaves,
            flow_len: undoes.iter().filter(|undoes| !**undoes).count(),
            undoes,
            triggers,
            parallelism: graph.settings().parallelism.max(1) as usize,
        })
    }

    /// How many nodes of the ordinary flow it has at its own level: those that undo others are not counted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flow_len
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flow_len == 0
    }

    /// The nodes of the ordinary flow at its own level.
    pub(super) fn flow(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.undoes).filter(|(_, undoes)| !**undoes).map(|(index, _)| index)
    }

    /// The nodes that nothing leads to and that begin by themselves.
    pub(super) fn roots(&self) -> impl Iterator<Item = u32> {
        self.flow().filter(|index| self.incoming[*index as usize] == 0)
    }

    /// How many effects may be under way at once.
    #[must_use]
    pub fn parallelism(&self) -> usize {
        self.parallelism
    }

    /// The node of a path, in whatever loop it is.
    #[must_use]
    pub fn node(&self, path: &NodePath) -> Option<&PlanNode> {
        let plan = self.in_scope(path.scope())?;
        plan.index_of(path.node_id()).map(|index| plan.at(index))
    }

    /// What follows on a failed try. `chance` (0 to 1) is the jitter of the retry.
    ///
    /// A loop is not repeated: what its body did is recorded for good.
    #[must_use]
    pub fn after_failure(
        &self,
        path: &NodePath,
        attempt: Attempt,
        error: &NodeError,
        now: DateTime<Utc>,
        chance: f64,
    ) -> AfterFailure {
        let Some(node) = self.node(path) else { return AfterFailure::Stop };
        let tried = u32::try_from(attempt.0).unwrap_or(u32::MAX);
        if node.work.body().is_none() && node.retry.retries(tried, error.kind) {
            let delay = i64::try_from(node.retry.delay_ms(tried, chance)).unwrap_or(i64::MAX);
            let delay = TimeDelta::try_milliseconds(delay).unwrap_or_default();
            return AfterFailure::Retry { at: now.checked_add_signed(delay).unwrap_or(now) };
        }
        match &node.on_error {
            OnError::Fail => AfterFailure::Stop,
            OnError::Pause => AfterFailure::Pause,
            OnError::Continue(value) => AfterFailure::Continue {
                output: NodeOutput::Inline(Json::from_value(value)),
                port: None,
            },
            OnError::Branch => {
                let value = serde_json::to_value(error).unwrap_or_default();
                AfterFailure::Continue {
                    output: NodeOutput::Inline(Json::from_value(&value)),
                    port: Some(ERROR_PORT.to_owned()),
                }
            }
        }
    }

    pub(super) fn in_scope(&self, scope: &str) -> Option<&Self> {
        let Some((owner, _)) = scope_item(scope) else {
            return scope.is_empty().then_some(self);
        };
        let (outer, id) = owner.rfind('/').map_or(("", owner), |slash| owner.split_at(slash + 1));
        let outer = self.in_scope(outer)?;
        outer.at(outer.index_of(id)?).work.body().map(|(body, _)| &**body)
    }

    pub(super) fn index_of(&self, id: &str) -> Option<u32> {
        self.index.get(id).copied()
    }

    pub(super) fn at(&self, index: u32) -> &PlanNode {
        &self.nodes[index as usize]
    }

    pub(super) fn outgoing(&self, index: u32) -> &[PlanConnection] {
        &self.outgoing[index as usize]
    }

    pub(super) fn incoming(&self) -> &[u32] {
        &self.incoming
    }

    pub(super) fn sources(&self, index: u32) -> &[PlanSource] {
        &self.sources[index as usize]
    }

    /// The triggers that a run does not begin at: all but the one that started it; of a run by hand all but those for that, where there
    /// are any.
    pub(super) fn idle_triggers(&self, started_by: Option<&str>) -> impl Iterator<Item = u32> {
        let started_by = started_by.and_then(|id| self.index_of(id));
        let by_hand = self.triggers.iter().any(|(_, manual)| *manual);
        self.triggers
            .iter()
            .filter(move |(index, manual)| match started_by {
                Some(begun) => *index != begun,
                None => by_hand && !manual,
            })
            .map(|(index, _)| *index)
    }

    pub(super) fn leaves(&self) -> &[u32] {
        &self.leaves
    }

    /// Whether a node goes on with the first connection that is taken.
    pub(super) fn takes_first(&self, index: u32) -> bool {
        matches!(self.at(index).work, Work::Merge(MergeMode::Any))
    }

    /// Which nodes lie behind these, these included. What has gone on already with another branch than theirs does not.
    pub(super) fn downstream(&self, from: &[u32], went_on: impl Fn(u32) -> bool) -> Vec<bool> {
        let mut reached = vec![false; self.nodes.len()];
        let mut todo = from.to_vec();
        while let Some(index) = todo.pop() {
            if !std::mem::replace(&mut reached[index as usize], true) {
                let next = self.outgoing(index).iter().map(|connection| connection.to);
                todo.extend(next.filter(|to| !(self.takes_first(*to) && went_on(*to))));
            }
        }
        reached
    }
}

impl PlanNode {
    fn of(node: &Node) -> Self {
        Self {
            id: node.id().to_owned(),
            work: match (node.class(), node.config()) {
                (_, NodeConfig::ForEach(config)) => Work::Each {
                    body: Plan::of(&config.body),
                    concurrency: config.concurrency,
                    on_item_error: config.on_item_error,
                },
                (_, NodeConfig::While(config)) => Work::While { body: Plan::of(&config.body) },
                (_, NodeConfig::Merge(config)) => Work::Merge(config.mode),
                (NodeClass::Wait, _) => Work::Wait,
                (NodeClass::Inline, _) => Work::Inline,
                (NodeClass::Effect | NodeClass::Loop, _) => Work::Effect,
            },
            idempotent: node.is_idempotent(),
            retry: node.retry().clone(),
            on_error: node.on_error().clone(),
        }
    }
}
