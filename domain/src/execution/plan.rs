//! A graph as a run walks it: nodes by index, what leads where, and what follows on a failure.
//!
//! Made once per workflow version and kept by the worker; [`super::Planner`] asks it for every step, so everything is an index.

use std::{collections::HashMap, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};

use super::{AfterFailure, Attempt, ErrorKind, NodeError, NodeOutput, NodePath, path::scope_item};
use crate::json::Json;

/// A graph, or the body of a loop, ready to be walked.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    nodes: Vec<PlanNode>,
    index: HashMap<String, u32>,
    outgoing: Vec<Vec<PlanConnection>>,
    incoming: Vec<u32>,
    leaves: Vec<u32>,
    parallelism: usize,
}

/// A node as a run sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanNode {
    /// Its id in the definition.
    pub id: String,
    /// How it is done.
    pub work: Work,
    /// Whether its effect may be begun again when nobody knows how far it came.
    pub idempotent: bool,
    /// When a failed try is repeated.
    pub retry: Retry,
    /// What follows on the last failure.
    pub on_error: OnError,
    /// When it may begin.
    pub join: Join,
}

/// How a node is done.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// In the worker's own thread, without an effect: its outcome needs no start before it.
    Inline,
    /// With an effect outside, so its start is recorded first.
    Effect,
    /// By letting time pass.
    Wait,
    /// By running a body for each item.
    Loop {
        /// The body.
        body: Arc<Plan>,
        /// How many items at once.
        concurrency: u32,
    },
}

/// When a node that several connections lead to may begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Join {
    /// When all have arrived; a skipped one counts as arrived.
    #[default]
    All,
    /// When the first one that was taken has arrived.
    Any,
}

/// Where a node leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanConnection {
    /// Index of the target.
    pub to: u32,
    /// By which port; none for the only one.
    pub port: Option<String>,
}

/// When a failed try is repeated.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// How many tries follow on the first.
    pub max_retries: u32,
    /// How long each waits.
    pub backoff: Backoff,
    /// Which failures are repeated.
    pub retry_on: Vec<ErrorKind>,
}

/// How long a retry waits.
#[derive(Clone, Debug, PartialEq)]
pub enum Backoff {
    /// One after another; the last one repeats.
    Steps(Vec<u64>),
    /// `base × factor^n` up to `max`, of which `jitter` (0 to 1) is left to chance.
    Exponential {
        /// The first.
        base_ms: u64,
        /// How it grows.
        factor: f64,
        /// The longest.
        max_ms: u64,
        /// How much of it is left to chance.
        jitter: f64,
    },
}

/// What follows on the last failure of a node.
#[derive(Clone, Debug, PartialEq)]
pub enum OnError {
    /// The run fails, or the loop that it is in.
    Fail,
    /// The run goes on with this output.
    Continue(Json),
    /// The run goes on by the port `error`, with the error as output.
    Branch,
}

/// The port of the error branch.
const ERROR_PORT: &str = "error";

impl Plan {
    /// A plan of nodes and of connections `(from, port, to)` between their ids.
    ///
    /// `None` when a connection names an unknown node: a [`crate::graph::Graph`] never does.
    #[must_use]
    pub fn assemble(
        nodes: Vec<PlanNode>,
        connections: &[(&str, Option<&str>, &str)],
        parallelism: usize,
    ) -> Option<Self> {
        let index: HashMap<String, u32> =
            (0..).zip(&nodes).map(|(index, node)| (node.id.clone(), index)).collect();
        let mut outgoing = vec![Vec::new(); nodes.len()];
        let mut incoming = vec![0; nodes.len()];
        for (from, port, to) in connections {
            let (from, to) = (*index.get(*from)?, *index.get(*to)?);
            let port = port.map(str::to_owned);
            outgoing[from as usize].push(PlanConnection { to, port });
            incoming[to as usize] += 1;
        }
        let leaves = (0..).zip(&outgoing).filter(|(_, to)| to.is_empty()).map(|(i, _)| i).collect();
        Some(Self { nodes, index, outgoing, incoming, leaves, parallelism: parallelism.max(1) })
    }

    /// How many nodes it has at its own level.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
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
        if !matches!(node.work, Work::Loop { .. })
            && let Some(at) = node.retry.next_try(attempt, error.kind, now, chance)
        {
            return AfterFailure::Retry { at };
        }
        match &node.on_error {
            OnError::Fail => AfterFailure::Stop,
            OnError::Continue(value) => {
                AfterFailure::Continue { output: NodeOutput::Inline(value.clone()), port: None }
            }
            OnError::Branch => {
                let value = serde_json::json!({ "error": error });
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
        match &outer.at(outer.index_of(id)?).work {
            Work::Loop { body, .. } => Some(body),
            Work::Inline | Work::Effect | Work::Wait => None,
        }
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

    pub(super) fn leaves(&self) -> &[u32] {
        &self.leaves
    }

    /// Indexes of every node that cannot be reached without passing one of these, these included.
    pub(super) fn downstream(&self, from: &[u32]) -> Vec<bool> {
        let mut reached = vec![false; self.nodes.len()];
        let mut todo = from.to_vec();
        while let Some(index) = todo.pop() {
            if !std::mem::replace(&mut reached[index as usize], true) {
                todo.extend(self.outgoing(index).iter().map(|connection| connection.to));
            }
        }
        reached
    }
}

impl Retry {
    fn next_try(
        &self,
        attempt: Attempt,
        kind: ErrorKind,
        now: DateTime<Utc>,
        chance: f64,
    ) -> Option<DateTime<Utc>> {
        let done = u32::try_from(attempt.0).ok()?;
        if done > self.max_retries || !self.retry_on.contains(&kind) {
            return None;
        }
        let delay = i64::try_from(self.backoff.delay_ms(done - 1, chance)).ok()?;
        now.checked_add_signed(TimeDelta::try_milliseconds(delay)?)
    }
}

impl Backoff {
    fn delay_ms(&self, retry: u32, chance: f64) -> u64 {
        match self {
            Self::Steps(steps) => {
                steps.get(retry as usize).or(steps.last()).copied().unwrap_or_default()
            }
            Self::Exponential { base_ms, factor, max_ms, jitter } => {
                let grown = *base_ms as f64 * factor.powi(retry.min(1_000) as i32);
                let whole = grown.min(*max_ms as f64);
                (whole * (1.0 - jitter * chance.clamp(0.0, 1.0))).max(0.0) as u64
            }
        }
    }
}
