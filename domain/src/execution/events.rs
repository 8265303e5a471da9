//! What happens to an execution: the facts that its state is folded from.
//!
//! To add one: a struct and a line in the `events!` list, a golden file, and an arm in [`super::evolve`].

mod origin;
mod undo;
mod waits;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub use self::{origin::*, undo::*, waits::*};
use crate::{
    event::events,
    id::{ExecutionId, WorkflowId, WorkspaceId},
    json::Json,
    vault::SecretName,
    workflow::WorkflowVersion,
};

events! {
    /// What happened to an execution.
    ExecutionEvent in "execution" {
        "execution_requested" 2 => ExecutionRequested,
        "execution_queued" 1 => ExecutionQueued,
        "nodes_carried" 1 => NodesCarried,
        "execution_dispatched" 1 => ExecutionDispatched,
        "execution_started" 1 => ExecutionStarted,
        "execution_resumed" 1 => ExecutionResumed,
        "node_started" 1 => NodeStarted,
        "node_completed" 1 => NodeCompleted,
        "node_failed" 1 => NodeFailed,
        "node_skipped" 1 => NodeSkipped,
        "loop_iterated" 1 => LoopIterated,
        "loop_item_failed" 1 => LoopItemFailed,
        "node_resolved" 1 => NodeResolved,
        "child_started" 1 => ChildStarted,
        "child_finished" 1 => ChildFinished,
        "timer_set" 1 => TimerSet,
        "timer_fired" 1 => TimerFired,
        "approval_requested" 1 => ApprovalRequested,
        "approval_given" 1 => ApprovalGiven,
        "approval_refused" 1 => ApprovalRefused,
        "approval_timed_out" 1 => ApprovalTimedOut,
        "signal_awaited" 1 => SignalAwaited,
        "signal_received" 1 => SignalReceived,
        "signal_consumed" 1 => SignalConsumed,
        "task_offered" 1 => TaskOffered,
        "task_taken" 1 => TaskTaken,
        "task_returned" 1 => TaskReturned,
        "task_completed" 1 => TaskCompleted,
        "task_failed" 1 => TaskFailed,
        "variable_set" 1 => VariableSet,
        "usage_recorded" 1 => UsageRecorded,
        "execution_waiting" 1 => ExecutionWaiting,
        "execution_paused" 1 => ExecutionPaused,
        "execution_unpaused" 1 => ExecutionUnpaused,
        "cancel_requested" 1 => CancelRequested,
        "compensation_started" 1 => CompensationStarted,
        "execution_completed" 1 => ExecutionCompleted,
        "execution_failed" 1 => ExecutionFailed,
        "execution_cancelled" 1 => ExecutionCancelled,
    }
}

/// How often the right to run an execution was handed out, from 1. The newest claim wins; an older one stands down.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Claim(pub i32);

/// How often a node was tried, from 1. Rises only after a recorded failure.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Attempt(pub i32);

/// One run of a node: `fetch`, or `each[3]/fetch` inside a loop.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodePath(pub String);

/// What started an execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TriggerType {
    /// A person or a program asked for it.
    Manual,
    /// A schedule's fire time came.
    Cron,
    /// A webhook delivery arrived.
    Webhook,
    /// An event of the log matched.
    Event,
    /// A node of another execution started it.
    Workflow,
}

/// Which line an execution waits in; drained by weight so that low is never starved.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Queue {
    /// First.
    High,
    /// The usual one.
    #[default]
    Default,
    /// Last.
    Low,
}

/// A limit that concerns an execution, decided when it was requested.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ConcurrencyLimit {
    /// What is counted: the workspace, the workflow, or the workflow and a key of the input.
    pub key: String,
    /// How many may run at once.
    pub limit: u32,
    /// Whose runs are counted.
    #[serde(default, skip_serializing_if = "LimitScope::is_workflow")]
    pub scope: LimitScope,
    /// What happens when all slots are taken.
    #[serde(default, skip_serializing_if = "LimitStrategy::is_queue")]
    pub strategy: LimitStrategy,
}

impl ConcurrencyLimit {
    /// A limit of a workflow, under which runs wait in line.
    pub fn new(key: impl Into<String>, limit: u32) -> Self {
        let (scope, strategy) = (LimitScope::default(), LimitStrategy::default());
        Self { key: key.into(), limit, scope, strategy }
    }

    /// The limit of a workspace, under which runs wait in line.
    #[must_use]
    pub fn of_workspace(workspace: WorkspaceId, limit: u32) -> Self {
        let scope = LimitScope::Workspace;
        Self { scope, ..Self::new(format!("workspace:{workspace}"), limit) }
    }
}

/// Whose runs a limit counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitScope {
    /// All runs of a workspace.
    Workspace,
    /// All runs of a workflow.
    #[default]
    Workflow,
    /// The runs of a workflow that have the same key.
    Key,
}

impl LimitScope {
    fn is_workflow(&self) -> bool {
        *self == Self::Workflow
    }

    /// The stored and served word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Workspace => "workspace",
            Self::Workflow => "workflow",
            Self::Key => "key",
        }
    }
}

/// What happens when a run is requested and all slots of a limit are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitStrategy {
    /// It waits in line.
    #[default]
    Queue,
    /// The request is refused. What comes in at the very moment in which another takes the last slot is cancelled.
    Reject,
    /// The oldest run is cancelled, and the new one takes its slot.
    CancelRunning,
    /// The new run is cancelled, so that it is seen that it was asked for.
    CancelNewest,
}

impl LimitStrategy {
    fn is_queue(&self) -> bool {
        *self == Self::Queue
    }

    /// The stored and served word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Reject => "reject",
            Self::CancelRunning => "cancel_running",
            Self::CancelNewest => "cancel_newest",
        }
    }
}

/// The output of a node: inline up to the limit, else by reference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeOutput {
    /// The value itself, at most [`crate::limits::MAX_INLINE_OUTPUT_BYTES`].
    Inline(Json),
    /// A blob: SHA-256 in lower-case hex, and its size.
    Blob {
        /// Hash of the content.
        hash: String,
        /// Size of the content.
        size_bytes: u64,
    },
}

/// Why a node or a run failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeError {
    /// Decides whether it is tried again.
    pub kind: ErrorKind,
    /// For a person; secrets are masked.
    pub message: String,
    /// What the kind of node has to say (status code, exit code, field errors), as a JSON object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Json>,
}

/// What sort of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// May pass: tried again.
    Transient,
    /// Will not pass: fails at once.
    Permanent,
    /// The configuration or the input is wrong: fails with field details.
    Validation,
    /// Took too long: tried again.
    Timeout,
    /// Aborted by a cancel.
    Cancelled,
    /// The process died after the effect began and the node isn't idempotent: a person decides.
    UnknownOutcome,
}

/// Somebody or something asked for a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExecutionRequested {
    /// The workspace it belongs to.
    pub workspace_id: WorkspaceId,
    /// The workflow.
    pub workflow_id: WorkflowId,
    /// The version it keeps to its end.
    pub workflow_version: WorkflowVersion,
    /// What started it.
    pub trigger_type: TriggerType,
    /// What the trigger gave: the run's `input`.
    pub input: Json,
    /// Which line it waits in.
    pub queue: Queue,
    /// The limits that concern it: it runs while it has a slot of each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<ConcurrencyLimit>,
    /// When the whole run times out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_at: Option<DateTime<Utc>>,
    /// The execution it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// The trigger node that the run begins at; none for a run by hand or by another run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger_node: Option<String>,
    /// How many nodes the graph has at its top level, so that progress needs no definition.
    pub planned_nodes: u32,
    /// How many triggers and child runs lie between this and a person; refused above 16.
    #[serde(default)]
    pub depth: u16,
    /// The node of another run that started this one as its child.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
    /// The workflow that is started when this run fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_workflow_id: Option<WorkflowId>,
    /// Which node undoes which, by id, so that what is left to undo follows from the run alone: the undo nodes by what they undo.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub undoes: BTreeMap<String, String>,
}

/// The node that started a run as its child.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Parent {
    /// The run.
    pub execution_id: ExecutionId,
    /// The node.
    pub path: NodePath,
    /// Which try of it.
    pub attempt: Attempt,
    /// Whether the node waits for this run's end, which then ends with the parent.
    pub waits: bool,
}

/// What a new execution takes over from its origin, where it is too much for its first event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodesCarried {
    /// Nodes that do not run again.
    pub nodes: Vec<CarriedNode>,
    /// Variables that had been set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub variables: Vec<CarriedVariable>,
    /// Signals that nobody had waited for, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signals: Vec<super::KeptSignal>,
}

/// It waits for a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutionQueued {
    /// The limit that it waits for.
    pub limit: ConcurrencyLimit,
}

/// It has a slot, and a worker may claim it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutionDispatched {
    /// The claim that the worker runs it under.
    pub claim: Claim,
    /// The line that it is carried to, so that whoever carries it need not fold the run.
    #[serde(default)]
    pub queue: Queue,
}

/// A worker began it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutionStarted {
    /// The worker process.
    pub worker: String,
    /// Under which claim.
    pub claim: Claim,
}

/// A worker went on with it: after a crash of the one before, a wait, or a pause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutionResumed {
    /// The worker process.
    pub worker: String,
    /// Under which claim.
    pub claim: Claim,
}

/// The intent to run a node is durable; its effect begins after this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStarted {
    /// The node.
    pub path: NodePath,
    /// Which try.
    pub attempt: Attempt,
    /// Its configuration with all expressions and templates resolved, secrets masked. Of a loop: `{"items": […]}`.
    pub input: Json,
    /// How many items a `logic.for_each` runs its body for; none for every other kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<u32>,
    /// How many iterations a `logic.while` may have; none for every other kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_iterations: Option<u32>,
    /// The secrets that were put into its configuration, by name: who uses what is on record, and the values never are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretName>,
    /// The node that it undoes, where it is an undo node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undoes: Option<NodePath>,
}

/// A node has its output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeCompleted {
    /// The node.
    pub path: NodePath,
    /// Which try.
    pub attempt: Attempt,
    /// What it gave.
    pub output: NodeOutput,
    /// The port it left by, where its kind has ports (`true`, `false`, a case, `error`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// How long the try took.
    pub duration_ms: u64,
    /// The node that is undone with this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undoes: Option<NodePath>,
}

/// A try failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFailed {
    /// The node.
    pub path: NodePath,
    /// Which try.
    pub attempt: Attempt,
    /// Why.
    pub error: NodeError,
    /// How long the try took.
    pub duration_ms: u64,
    /// When it is tried again; none when this was the last try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<DateTime<Utc>>,
}

/// A node does not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSkipped {
    /// The node.
    pub path: NodePath,
    /// Why.
    pub reason: SkipReason,
}

/// Why a node does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// No branch that leads to it was taken.
    BranchNotTaken,
}

/// The condition of a `logic.while` holds, and its body runs once more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoopIterated {
    /// The loop.
    pub path: NodePath,
    /// Which iteration begins, from 0.
    pub iteration: u32,
}

/// An item of a loop failed, and the loop goes on without it. What was left to do for the item is not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoopItemFailed {
    /// The loop.
    pub path: NodePath,
    /// Which item, from 0.
    pub item: u32,
    /// The node of the body that failed first.
    pub node: NodePath,
    /// Why.
    pub error: NodeError,
}

/// A person decided what becomes of a node that failed for the last time and paused its run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeResolved {
    /// The node.
    pub path: NodePath,
    /// The try that had failed.
    pub attempt: Attempt,
    /// What becomes of it.
    pub resolution: ResolutionKind,
}

/// What becomes of a node that failed for the last time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResolutionKind {
    /// It is tried again.
    Retry,
    /// It has the output that the person gave; its completion follows in the same append.
    Complete,
    /// It failed for good.
    Fail,
}

/// A node starts another run. That run is requested by a reaction to this, under the id that is named here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildStarted {
    /// The node.
    pub path: NodePath,
    /// Which try.
    pub attempt: Attempt,
    /// The id of the child: it follows from this run, the node and the try.
    pub execution_id: ExecutionId,
    /// Of which workflow.
    pub workflow_id: WorkflowId,
    /// Which version of it; none for the published one, else the latest draft.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<WorkflowVersion>,
    /// What it is given.
    pub input: Json,
    /// Whether the node waits for its end.
    pub waits: bool,
    /// When.
    pub started_at: DateTime<Utc>,
}

/// A child that a node waits for came to its end. Its output follows as that of the node, in the same append.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildFinished {
    /// The node.
    pub path: NodePath,
    /// Which try.
    pub attempt: Attempt,
    /// The child.
    pub execution_id: ExecutionId,
    /// How it ended.
    pub outcome: ChildOutcome,
    /// What that means for the node, where it did not end well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<NodeError>,
    /// How long the node waited.
    pub duration_ms: u64,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChildOutcome {
    /// Well.
    Completed,
    /// With a failure.
    Failed,
    /// It was stopped.
    Cancelled,
    /// It never began: its workflow refused.
    Refused,
}

/// The run waits for a time, or a node's next try does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerSet {
    /// The node.
    pub path: NodePath,
    /// Which try of the node it belongs to.
    pub attempt: Attempt,
    /// What for.
    pub kind: TimerKind,
    /// When it was set, so that the length of a wait follows from the log.
    pub set_at: DateTime<Utc>,
    /// When it is due.
    pub due_at: DateTime<Utc>,
}

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimerKind {
    /// A `logic.wait` ends.
    Wait,
    /// A failed node is tried again.
    Retry,
    /// What a node waits for did not come: an answer, a signal, the end of a task.
    WaitTimeout,
    /// The worker of a task was not heard of.
    TaskLease,
    /// The whole run times out.
    ExecutionTimeout,
}

impl TimerKind {
    /// Whether a run has something to do as soon as it fires.
    #[must_use]
    pub const fn wakes(self) -> bool {
        match self {
            Self::Wait | Self::Retry | Self::WaitTimeout => true,
            // The one ends the run, and what follows on the other is said by the event after it.
            Self::ExecutionTimeout | Self::TaskLease => false,
        }
    }
}

/// A time came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerFired {
    /// The node; empty for the whole run.
    pub path: NodePath,
    /// Which try of the node it belongs to.
    pub attempt: Attempt,
    /// What for.
    pub kind: TimerKind,
}

/// A variable of the run has a value from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VariableSet {
    /// The node that set it.
    pub path: NodePath,
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Json,
}

/// A node used a provider that counts what it is used for. Recorded with the outcome of the try, whatever that is: it was used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRecorded {
    /// The node.
    pub path: NodePath,
    /// Which try.
    pub attempt: Attempt,
    /// Who was used.
    pub provider: String,
    /// What of theirs.
    pub model: String,
    /// Tokens that went in.
    pub input_tokens: u64,
    /// Tokens that came out.
    pub output_tokens: u64,
    /// What it cost, in millionths of a dollar.
    pub cost_microusd: u64,
}

/// Nothing is running and it only waits for what its nodes wait for: the worker let go of it and its slot is free for others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutionWaiting {
    /// The claim that ended with this.
    pub claim: Claim,
}

/// Who holds a paused run: what it was paused by is what resumes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PauseReason {
    /// Somebody paused this run.
    #[default]
    User,
    /// Its workflow was paused, and resuming that resumes this.
    WorkflowPaused,
    /// A node failed for the last time, and a person decides what becomes of it.
    NodeFailed,
}

/// The running steps finish, and no other starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutionPaused {
    /// What paused it.
    #[serde(default)]
    pub reason: PauseReason,
    /// The node that failed, where that paused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodePath>,
}

/// It may go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutionUnpaused {}

/// Why a run was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelReason {
    /// Somebody stopped this run.
    StoppedByUser,
    /// Its workflow was stopped.
    WorkflowStopped,
    /// Its workflow was deleted.
    WorkflowDeleted,
    /// The deletion of its workspace was asked for.
    WorkspaceDeleted,
    /// The run that waited for it as its child has ended.
    ParentEnded,
    /// All slots of a limit were taken when it came, and the limit's strategy is not to wait.
    LimitReached,
    /// A newer run took its slot, as the limit's strategy has it.
    Superseded,
}

/// No further step starts, and the running ones are aborted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelRequested {
    /// Why.
    pub reason: CancelReason,
    /// Whether what it did stays, undo or not: what is being undone is left as it is then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_undo: bool,
}

/// It ended well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutionCompleted {
    /// The output of its only leaf, else an object by leaf.
    pub output: NodeOutput,
}

/// It ended with a failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutionFailed {
    /// The node that failed, when one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodePath>,
    /// Why.
    pub error: NodeError,
    /// What came of undoing what it had done, where there was anything to undo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compensation: Option<Compensation>,
}

/// It was stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutionCancelled {
    /// Why.
    pub reason: CancelReason,
    /// What came of undoing what it had done, where there was anything to undo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compensation: Option<Compensation>,
}
