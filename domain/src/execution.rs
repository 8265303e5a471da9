//! One run of a workflow: its state is the fold of its events, and [`next`] decides from it what happens now.
//!
//! A worker is a loop around pure functions: fold the stream, ask [`Planner::next`], do what it says, [`Report`] it, append. Nothing
//! about a run lives only in a worker, so a worker may die between any two appends and another one comes to the same end.
//!
//! Invariants: an ended run never changes; at most one claim is live, and only its worker reports; an open run always waits for
//! something that has a name ([`Execution::waits_for`]).

mod approval;
mod child;
mod command;
mod compare;
mod decide;
mod events;
mod evolve;
mod gather;
mod next;
mod origin;
mod path;
mod plan;
mod report;
mod resolve;
mod signal;
mod single;
mod task;
mod undo;
mod view;
mod waiting;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

pub use approval::{
    AnswerApproval, AnswerError, Approval, Button, FieldType, FormField, TIMEOUT_PORT,
};
pub use command::{
    AfterFailure, ChildEnd, ChildRun, ExecutionCommand, ExecutionRejection, NotCarried,
    NotCarriedReason, Outcome, ProviderUse, Report, RequestExecution, Resolution, Step,
    VariableValue,
};
pub use compare::{
    Comparison, EventRef, NodeDelta, NodeOutline, Outline, Parting, UsageDelta, ValueChange,
    ValueDelta, compare,
};
pub use events::*;
pub use gather::Gather;
pub use next::{Action, Ending, Planner, next};
pub use origin::{Versions, fork_of, rerun_from, rerun_of, retry_of};
pub use plan::{Plan, PlanConnection, PlanNode, Work};
pub use signal::{KeptSignal, is_signal_name};
pub use single::single_node;
pub use task::{Task, TaskLease, TaskOutcome, TaskRef};
pub use undo::{Course, Undoing};
pub use view::{ScopeView, Status, WaitsFor};
pub use waiting::{Awaited, Failing, NodeWait, Waiting};

use crate::{Aggregate, json::Json};

/// One run of a workflow.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Execution {
    /// Nobody asked for it yet.
    #[default]
    New,
    /// Requested and not ended.
    Open(Box<Open>),
    /// Ended well.
    Completed {
        /// What ran.
        run: Box<Run>,
        /// What came out.
        output: NodeOutput,
    },
    /// Ended with a failure.
    Failed {
        /// What ran.
        run: Box<Run>,
        /// The node that failed, when one did.
        node: Option<NodePath>,
        /// Why.
        error: NodeError,
    },
    /// Was stopped.
    Cancelled {
        /// What ran.
        run: Box<Run>,
        /// Why.
        reason: CancelReason,
    },
}

/// An execution that has not ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Open {
    /// What ran so far.
    pub run: Run,
    /// Who moves it now.
    pub phase: Phase,
    /// The newest claim that was handed out; 0 before the first.
    pub claim: Claim,
    /// How many claims in a row were lost with nothing to show for them.
    pub lost_claims: u32,
    /// The furthest it came, for the status that people see.
    pub reached: Reached,
    /// How many events others than its worker appended while it was open. A report names the count that it was planned on.
    pub interventions: u32,
    /// Which way it goes.
    pub course: Course,
    /// Whether somebody said that what it did stays, undo or not.
    pub undo_waived: bool,
}

/// Who moves an open execution now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// No claim is live.
    Idle(Rest),
    /// A claim is handed out and no worker has taken it yet.
    Dispatched,
    /// A worker has it, under the newest claim.
    Running {
        /// The worker process.
        worker: String,
        /// What the worker was told meanwhile.
        intent: Intent,
    },
    /// No claim is live, and nothing starts until it is resumed.
    Paused {
        /// What it goes back to.
        rest: Rest,
        /// What paused it.
        reason: PauseReason,
    },
}

/// What an execution without a live claim waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rest {
    /// The dispatch policy has not looked at it yet.
    Pending,
    /// A slot, in its line.
    Queued,
    /// What its nodes wait for.
    Waiting,
    /// A slot, at the head of its line: it ran before.
    Ready,
}

/// What the worker of a running execution was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Intent {
    /// Nothing.
    GoOn,
    /// To finish the running steps and let go.
    Pause(PauseReason),
    /// To abort the running steps and end it.
    Cancel(CancelReason),
}

/// The furthest an execution came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Reached {
    /// Requested.
    Pending,
    /// Waited in a line.
    Queued,
    /// Was begun by a worker.
    Started,
}

/// What an execution was asked to do and what its nodes did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Its first event; the outputs that `origin` carried are in `nodes`.
    pub request: ExecutionRequested,
    /// Every node that was begun, skipped or carried over, in the order in which that happened.
    pub nodes: IndexMap<NodePath, NodeRun>,
    /// Its variables by name.
    pub variables: BTreeMap<String, Variable>,
    /// Signals that nobody waited for yet, the oldest first.
    pub signals: Vec<KeptSignal>,
    /// What its nodes used of providers, all together.
    pub usage: Usage,
    /// Indexes in `nodes` of what completed or was skipped, in that order.
    settled: Vec<u32>,
    /// Indexes in `nodes` of what was begun and did not end.
    active: BTreeSet<u32>,
    /// Indexes in `nodes` of what failed for good and nothing caught, in that order.
    failures: Vec<u32>,
    /// Indexes in `nodes` of what has an undo and did not do anything here that it could undo: it was taken over, or failed and was gone
    /// on without.
    not_done: BTreeSet<u32>,
    /// What came of undoing what it had done, once it has ended.
    pub compensation: Option<Compensation>,
    /// About how many bytes of values it holds.
    bytes: usize,
    /// The newest claim that was handed out; 0 before the first. Also known once it has ended.
    pub claim: Claim,
    /// The worker process that took it last.
    pub worker: Option<String>,
}

/// What was used of providers, all together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens that went in.
    pub input_tokens: u64,
    /// Tokens that came out.
    pub output_tokens: u64,
    /// What it cost, in millionths of a dollar.
    pub cost_microusd: u64,
}

/// A variable of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variable {
    /// Its value.
    pub value: Json,
    /// The node that set it last.
    pub set_by: NodePath,
}

/// One run of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRun {
    /// The try that it is at.
    pub attempt: Attempt,
    /// How far that is.
    pub state: NodeState,
}

/// How far a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeState {
    /// Its effect may be under way since this claim.
    Running(Claim),
    /// It waits for something, and no worker has it.
    Waiting(Box<Waiting>),
    /// What it waited for came to nothing, and what follows was not decided yet.
    Failing(Box<Failing>),
    /// A try failed, and the next one comes.
    Retrying {
        /// When.
        due_at: DateTime<Utc>,
    },
    /// The time of the next try came.
    Ready,
    /// A loop runs its body.
    Looping(Box<Loop>),
    /// It has its output.
    Completed(Box<Completed>),
    /// It does not run.
    Skipped,
    /// It failed for good.
    Failed(Box<NodeError>),
}

/// A loop that runs its body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Loop {
    /// Once for each item.
    Each {
        /// Its items, in order.
        items: Arc<[Json]>,
        /// Those that failed and that the loop goes on without, by index.
        failed: BTreeMap<u32, ItemFailure>,
    },
    /// As long as its condition holds.
    While {
        /// How many iterations there may be.
        max_iterations: u32,
        /// How many were begun; only the last of them may be under way.
        iterations: u32,
    },
}

/// Why an item of a loop failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemFailure {
    /// The node of the body that failed first.
    pub node: NodePath,
    /// Why.
    pub error: NodeError,
}

/// The outcome of a node that completed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completed {
    /// What it gave.
    pub output: NodeOutput,
    /// The port it left by, where its kind has ports.
    pub port: Option<String>,
}

impl Aggregate for Execution {
    type Command = ExecutionCommand;
    type Event = ExecutionEvent;
    type Rejection = ExecutionRejection;

    const SNAPSHOT: &'static str = "execution-7";

    fn decide(
        &self,
        command: &Self::Command,
        now: DateTime<Utc>,
    ) -> Result<Vec<Self::Event>, Self::Rejection> {
        decide::decide(self, command, now)
    }

    fn evolve(self, event: &Self::Event) -> Self {
        evolve::evolve(self, event)
    }

    fn weight(&self) -> usize {
        self.run().map_or(size_of::<Self>(), Run::weight)
    }

    fn is_final(&self) -> bool {
        self.has_ended()
    }
}

#[cfg(test)]
mod tests;
