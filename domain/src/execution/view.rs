//! What others see of an execution: its status, what it waits for, and the values that its nodes may use.

use std::{collections::HashMap, fmt};

use chrono::{DateTime, Utc};

use super::{
    Claim, ConcurrencyLimit, Execution, ExecutionEvent, Gather, Intent, Loop, NodeOutput, NodePath,
    NodeRun, NodeState, NodeWait, Open, PauseReason, Phase, Plan, Reached, Rest, Run, Work,
    path::{loops_around, scope_item},
};
use crate::{expression::Scope, json::Json, limits::MAX_NAMED_WAITS};

/// The word for where an execution is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// Requested.
    Pending,
    /// Waits for its first slot.
    Queued,
    /// Was begun and has not ended.
    Running,
    /// Held until it is resumed.
    Paused,
    /// Ended well.
    Completed,
    /// Ended with a failure.
    Failed,
    /// Was stopped.
    Cancelled,
}

/// What an open execution waits for: there is always something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitsFor {
    /// A slot of each of its limits, and its turn; `resumed` when it ran before and is at the head of its line.
    Slot {
        /// The limits; none where only its turn has to come.
        limits: Vec<ConcurrencyLimit>,
        /// Whether it ran before.
        resumed: bool,
    },
    /// A worker that takes the claim.
    Worker {
        /// The claim.
        claim: Claim,
    },
    /// The worker that has it, i.e. its lease.
    Lease {
        /// The worker process.
        worker: String,
        /// Its claim.
        claim: Claim,
    },
    /// What its nodes wait for: times, and what comes from outside.
    Nodes {
        /// How many wait.
        count: usize,
        /// The next due time among them.
        next_due_at: Option<DateTime<Utc>>,
        /// The first of them, at most [`MAX_NAMED_WAITS`], in the order in which they were begun.
        first: Vec<NodeWait>,
    },
    /// Somebody who resumes it.
    Resume {
        /// What paused it.
        reason: PauseReason,
        /// The first of the nodes that wait for a person to decide what becomes of them, at most [`MAX_NAMED_WAITS`].
        held: Vec<NodePath>,
    },
}

impl Execution {
    /// Its status; none before it was requested.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        Some(match self {
            Self::New => return None,
            Self::Open(open) => open.status(),
            Self::Completed { .. } => Status::Completed,
            Self::Failed { .. } => Status::Failed,
            Self::Cancelled { .. } => Status::Cancelled,
        })
    }

    /// Whether it ran before and now only waits: for a time, or for a slot to go on.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.open().is_some_and(|open| {
            open.phase == Phase::Idle(Rest::Waiting) || open.phase == Phase::Idle(Rest::Ready)
        })
    }

    /// Whether it has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.run().is_some() && self.open().is_none()
    }

    /// What it waits for; none when it is new or has ended.
    #[must_use]
    pub fn waits_for(&self) -> Option<WaitsFor> {
        self.open().and_then(Open::waits_for)
    }

    /// The execution while it has not ended.
    #[must_use]
    pub fn open(&self) -> Option<&Open> {
        match self {
            Self::Open(open) => Some(open),
            Self::New | Self::Completed { .. } | Self::Failed { .. } | Self::Cancelled { .. } => {
                None
            }
        }
    }

    /// What ran; none before it was requested.
    #[must_use]
    pub fn run(&self) -> Option<&Run> {
        match self {
            Self::New => None,
            Self::Open(open) => Some(&open.run),
            Self::Completed { run, .. }
            | Self::Failed { run, .. }
            | Self::Cancelled { run, .. } => Some(run),
        }
    }

    /// The count that a [`super::Report`] must name.
    #[must_use]
    pub fn interventions(&self) -> u32 {
        self.open().map_or(0, |open| open.interventions)
    }

    /// Nodes whose effect should be under way in the worker of the live claim. One that its worker does not know was recorded by an append
    /// whose answer was lost, and is to be begun now.
    pub fn in_flight(&self) -> impl Iterator<Item = (&NodePath, &NodeRun)> {
        self.open().into_iter().flat_map(|open| {
            open.run.active().filter(|(_, node)| node.state == NodeState::Running(open.claim))
        })
    }
}

impl Open {
    fn status(&self) -> Status {
        match self.phase {
            Phase::Paused { .. } | Phase::Running { intent: Intent::Pause(_), .. } => {
                Status::Paused
            }
            Phase::Idle(_) | Phase::Dispatched | Phase::Running { .. } => match self.reached {
                Reached::Pending => Status::Pending,
                Reached::Queued => Status::Queued,
                Reached::Started => Status::Running,
            },
        }
    }

    fn waits_for(&self) -> Option<WaitsFor> {
        match &self.phase {
            Phase::Idle(rest @ (Rest::Pending | Rest::Queued | Rest::Ready)) => {
                let limits = self.run.request.limits.clone();
                Some(WaitsFor::Slot { limits, resumed: *rest == Rest::Ready })
            }
            Phase::Idle(Rest::Waiting) => {
                let waits = || self.run.active().filter_map(|(path, node)| node.wait(path));
                let first: Vec<NodeWait> = waits().take(MAX_NAMED_WAITS).collect();
                let count = waits().count();
                let next_due_at = waits().filter_map(|wait| wait.until).min();
                (count > 0).then_some(WaitsFor::Nodes { count, next_due_at, first })
            }
            Phase::Dispatched => Some(WaitsFor::Worker { claim: self.claim }),
            Phase::Running { worker, .. } => {
                Some(WaitsFor::Lease { worker: worker.clone(), claim: self.claim })
            }
            Phase::Paused { reason, .. } => {
                let held = self.held().take(MAX_NAMED_WAITS).map(|(path, _)| path.clone());
                Some(WaitsFor::Resume { reason: *reason, held: held.collect() })
            }
        }
    }
}

impl Run {
    /// Every node that was begun and did not end, in the order in which they were begun.
    pub fn active(&self) -> impl Iterator<Item = (&NodePath, &NodeRun)> {
        self.active.iter().filter_map(|index| self.nodes.get_index(*index as usize))
    }

    /// A node's state while it waits for something of this try.
    pub(super) fn waiting_state(
        &self,
        path: &NodePath,
        attempt: super::Attempt,
    ) -> Option<&NodeState> {
        let (index, _, node) = self.nodes.get_full(path)?;
        let is_active = u32::try_from(index).is_ok_and(|index| self.active.contains(&index));
        (is_active && node.attempt == attempt).then_some(&node.state)
    }

    pub(super) fn settled(&self) -> &[u32] {
        &self.settled
    }

    pub(super) fn failures(&self) -> impl Iterator<Item = (&NodePath, &super::NodeError)> {
        self.failures.iter().filter_map(|index| {
            let (path, node) = self.nodes.get_index(*index as usize)?;
            match &node.state {
                NodeState::Failed(error) => Some((path, &**error)),
                NodeState::Running(_)
                | NodeState::Waiting { .. }
                | NodeState::Retrying { .. }
                | NodeState::Ready
                | NodeState::Failing(_)
                | NodeState::Looping(_)
                | NodeState::Completed(_)
                | NodeState::Skipped => None,
            }
        })
    }

    /// Finished nodes of the top level, for a progress against `planned_nodes`. What undoes others is not counted.
    #[must_use]
    pub fn finished_nodes(&self) -> usize {
        let top = self.nodes.iter().filter(|(path, _)| path.scope().is_empty());
        top.filter(|(path, node)| node.has_ended() && self.undone_by(path).is_none()).count()
    }

    pub(super) fn weight(&self) -> usize {
        /// A path and its state with what they point to, and its share of the indexes.
        const NODE_BYTES: usize = 256;
        size_of::<Execution>() + self.bytes + self.nodes.len() * NODE_BYTES
    }

    /// The values that a node may use.
    #[must_use]
    pub fn scope<'a>(&'a self, path: &'a NodePath) -> ScopeView<'a> {
        ScopeView { run: self, scope: path.scope() }
    }
}

impl ExecutionEvent {
    /// Shows every output that it holds or names.
    pub fn for_each_output(&self, show: &mut dyn FnMut(&NodeOutput)) {
        match self {
            Self::ExecutionRequested(event) => {
                let carried = event.origin.iter().flat_map(|origin| &origin.carried);
                carried.filter_map(|node| node.output.as_ref()).for_each(show);
            }
            Self::NodesCarried(event) => {
                event.nodes.iter().filter_map(|node| node.output.as_ref()).for_each(show);
            }
            Self::NodeCompleted(event) => show(&event.output),
            Self::ExecutionCompleted(event) => show(&event.output),
            Self::ExecutionQueued(_)
            | Self::ExecutionDispatched(_)
            | Self::ExecutionStarted(_)
            | Self::ExecutionResumed(_)
            | Self::NodeStarted(_)
            | Self::NodeFailed(_)
            | Self::NodeSkipped(_)
            | Self::LoopIterated(_)
            | Self::LoopItemFailed(_)
            | Self::TimerSet(_)
            | Self::TimerFired(_)
            | Self::ApprovalRequested(_)
            | Self::ApprovalGiven(_)
            | Self::ApprovalRefused(_)
            | Self::ApprovalTimedOut(_)
            | Self::SignalAwaited(_)
            | Self::SignalReceived(_)
            | Self::SignalConsumed(_)
            | Self::TaskOffered(_)
            | Self::TaskTaken(_)
            | Self::TaskReturned(_)
            | Self::TaskCompleted(_)
            | Self::TaskFailed(_)
            | Self::NodeResolved(_)
            | Self::ChildStarted(_)
            | Self::ChildFinished(_)
            | Self::UsageRecorded(_)
            | Self::VariableSet(_)
            | Self::ExecutionWaiting(_)
            | Self::ExecutionPaused(_)
            | Self::ExecutionUnpaused(_)
            | Self::CancelRequested(_)
            | Self::CompensationStarted(_)
            | Self::ExecutionFailed(_)
            | Self::ExecutionCancelled(_) => {}
        }
    }
}

impl NodeRun {
    /// Whether it completed, failed or was skipped.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        match self.state {
            NodeState::Completed(_) | NodeState::Skipped | NodeState::Failed(_) => true,
            NodeState::Running(_)
            | NodeState::Waiting { .. }
            | NodeState::Retrying { .. }
            | NodeState::Ready
            | NodeState::Failing(_)
            | NodeState::Looping(_) => false,
        }
    }

    /// What it waits for, where it waits.
    fn wait(&self, path: &NodePath) -> Option<NodeWait> {
        let awaited = match &self.state {
            NodeState::Waiting(waiting) => Some(waiting.awaited.clone()),
            NodeState::Retrying { .. } => None,
            NodeState::Running(_)
            | NodeState::Ready
            | NodeState::Failing(_)
            | NodeState::Looping(_)
            | NodeState::Completed(_)
            | NodeState::Skipped
            | NodeState::Failed(_) => return None,
        };
        Some(NodeWait { path: path.clone(), until: self.due_at(), awaited })
    }

    /// When its timer is due.
    #[must_use]
    pub fn due_at(&self) -> Option<DateTime<Utc>> {
        match self.state {
            NodeState::Waiting(ref waiting) => waiting.until,
            NodeState::Retrying { due_at } => Some(due_at),
            NodeState::Running(_)
            | NodeState::Ready
            | NodeState::Failing(_)
            | NodeState::Looping(_)
            | NodeState::Completed(_)
            | NodeState::Skipped
            | NodeState::Failed(_) => None,
        }
    }
}

/// The values that a node may use, by reference: the worker loads what lies in blobs.
#[derive(Clone, Copy, Debug)]
pub struct ScopeView<'a> {
    run: &'a Run,
    scope: &'a str,
}

impl<'a> ScopeView<'a> {
    /// The run's input.
    #[must_use]
    pub fn input(&self) -> &'a Json {
        &self.run.request.input
    }

    /// The run's variables.
    pub fn variables(&self) -> impl Iterator<Item = (&'a str, &'a Json)> {
        self.run.variables.iter().map(|(name, variable)| (name.as_str(), &variable.value))
    }

    /// The output of a node by its id: of this run of a loop's body first, then of what is around it.
    #[must_use]
    pub fn output(&self, id: &str) -> Option<&'a NodeOutput> {
        let mut scope = self.scope;
        loop {
            if let Some(node) = self.run.nodes.get(&NodePath::within(scope, id)) {
                return match &node.state {
                    NodeState::Completed(completed) => Some(&completed.output),
                    NodeState::Running(_)
                    | NodeState::Waiting { .. }
                    | NodeState::Retrying { .. }
                    | NodeState::Ready
                    | NodeState::Failing(_)
                    | NodeState::Looping(_)
                    | NodeState::Skipped
                    | NodeState::Failed(_) => None,
                };
            }
            let (owner, _) = scope_item(scope)?;
            scope = owner.rfind('/').map_or("", |slash| &owner[..=slash]);
        }
    }

    /// Hashes of the blobs among the outputs of these nodes.
    #[must_use]
    pub fn blobs(&self, references: &[String]) -> Vec<&'a str> {
        let outputs = references.iter().filter_map(|id| self.output(id));
        outputs
            .filter_map(|output| match output {
                NodeOutput::Blob { hash, .. } => Some(hash.as_str()),
                NodeOutput::Inline(_) => None,
            })
            .collect()
    }

    /// What expressions and templates see, with the outputs of these nodes ([`crate::node::Node::references`]). A node that was skipped
    /// has none, nor has one whose blob is not among `blobs`. The caller adds `execution`, `workflow` and `env`.
    #[must_use]
    pub fn to_scope(&self, references: &[String], blobs: &HashMap<String, Json>) -> Scope {
        let value = |id: &String| {
            let value = match self.output(id)? {
                NodeOutput::Inline(value) => value.clone(),
                NodeOutput::Blob { hash, .. } => blobs.get(hash)?.clone(),
            };
            Some((id.clone(), value))
        };
        Scope {
            vars: self.variables().map(|(name, value)| (name.to_owned(), value.clone())).collect(),
            nodes: references.iter().filter_map(value).collect(),
            item: self.item().cloned(),
            index: self.index().map(u64::from),
            ..Scope::of_input(self.input().clone())
        }
    }

    /// The index of the innermost loop's item, where the node is in a loop.
    #[must_use]
    pub fn index(&self) -> Option<u32> {
        scope_item(self.scope).map(|(_, index)| index)
    }

    /// The item of the innermost loop over items.
    #[must_use]
    pub fn item(&self) -> Option<&'a Json> {
        loops_around(self.scope).find_map(|(owner, index)| {
            let NodeState::Looping(open) = &self.run.nodes.get(owner)?.state else { return None };
            let Loop::Each { items, .. } = &**open else { return None };
            items.get(index as usize)
        })
    }

    /// What the iteration before gave in the innermost `logic.while`: nothing in its first one, and none outside of one.
    #[must_use]
    pub fn last(&self, plan: &Plan) -> Option<Gather> {
        loops_around(self.scope).find_map(|(owner, index)| {
            let owner = NodePath::from(owner);
            let Work::While { body } = &plan.node(&owner)?.work else { return None };
            Some(Gather::of_iteration(self.run, body, &owner, index))
        })
    }
}

impl Status {
    /// The stored and served word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
