//! What an execution is told, and which rule refuses it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::{
    AnswerApproval, AnswerError, Attempt, Awaited, CancelReason, Claim, ConcurrencyLimit,
    NodeError, NodeOutput, NodePath, Origin, Parent, PauseReason, Queue, SkipReason, Status,
    TaskLease, TaskOutcome, TaskRef, TimerKind, TriggerType, Usage,
};
use crate::{
    id::{ExecutionId, WorkflowId, WorkspaceId},
    json::Json,
    limits::{MAX_SIGNAL_BYTES, MAX_SIGNAL_NAME_CHARS},
    vault::SecretName,
    workflow::WorkflowVersion,
};

/// What an execution is told to do.
#[derive(Clone, Debug, PartialEq)]
pub enum ExecutionCommand {
    /// Come to be. A repeat on an execution that exists gives no events.
    Request(Box<RequestExecution>),
    /// Wait for a slot (the dispatch policy).
    Queue {
        /// The limit that it waits for.
        limit: ConcurrencyLimit,
    },
    /// Be offered to workers (the dispatch policy).
    Dispatch {
        /// The next claim.
        claim: Claim,
    },
    /// Take note of what its worker did.
    Report(Report),
    /// Finish the running steps and start no other.
    Pause {
        /// What pauses it.
        reason: PauseReason,
    },
    /// Go on. `WorkflowPaused` resumes only what that had paused; `User` resumes whatever paused it.
    Unpause {
        /// What resumes it.
        reason: PauseReason,
    },
    /// End. At once where no worker has it, else its worker is told to abort.
    Cancel {
        /// Why.
        reason: CancelReason,
    },
    /// End without undoing anything: what it did stays, and what is being undone is left as it is. At once where no worker has it.
    CancelWithoutUndo {
        /// Why.
        reason: CancelReason,
    },
    /// A due time came: exactly the fields of the `TimerSet`. Without effect when it no longer waits for that.
    FireTimer {
        /// The node; empty for the whole run.
        path: NodePath,
        /// Which try of the node it belongs to.
        attempt: Attempt,
        /// What for.
        kind: TimerKind,
    },
    /// Answer an approval.
    AnswerApproval(AnswerApproval),
    /// Hear a signal: the first node that waits for its name goes on, else it is kept.
    Signal {
        /// Its name.
        name: String,
        /// What comes with it.
        payload: Json,
    },
    /// Give a task to a worker.
    TakeTask {
        /// Which.
        task: TaskRef,
        /// What the worker calls itself.
        worker: String,
    },
    /// Take note of what a worker made of a task.
    FinishTask {
        /// Which.
        task: TaskRef,
        /// The lease that the worker has.
        lease: TaskLease,
        /// What came of it.
        outcome: TaskOutcome,
    },
    /// Decide what becomes of a node that failed for the last time and paused the run.
    Resolve {
        /// The node.
        path: NodePath,
        /// What becomes of it.
        resolution: Resolution,
    },
    /// A child came to its end. Without effect when no node waits for it any more.
    FinishChild {
        /// The node that started it.
        path: NodePath,
        /// Which try of it.
        attempt: Attempt,
        /// The child.
        child: ExecutionId,
        /// How it ended.
        end: ChildEnd,
    },
    /// The worker that held this claim is gone, or nobody took it: be offered again under the next claim.
    Redispatch {
        /// The claim that was lost. Without effect when a newer one is out or it has ended.
        claim: Claim,
    },
}

/// What becomes of a node that failed for the last time.
#[derive(Clone, Debug, PartialEq)]
pub enum Resolution {
    /// It is tried again.
    Retry,
    /// It is done, with this outcome.
    Complete {
        /// What it gave.
        output: Json,
        /// By which port it is left, where its kind has ports.
        port: Option<String>,
    },
    /// It failed for good.
    Fail,
}

/// How a child ended.
#[derive(Clone, Debug, PartialEq)]
pub enum ChildEnd {
    /// Well.
    Completed {
        /// What came out.
        output: NodeOutput,
    },
    /// With a failure.
    Failed {
        /// The node that failed, when one did.
        node: Option<NodePath>,
        /// Why.
        error: NodeError,
    },
    /// It was stopped.
    Cancelled {
        /// Why.
        reason: CancelReason,
    },
    /// It never began.
    Refused {
        /// Why, for a person.
        reason: String,
    },
}

/// A run that a node starts.
#[derive(Clone, Debug, PartialEq)]
pub struct ChildRun {
    /// Its id: it follows from the run, the node and the try.
    pub execution_id: ExecutionId,
    /// Of which workflow.
    pub workflow_id: WorkflowId,
    /// Which version of it; none for the published one, else the latest draft.
    pub version: Option<WorkflowVersion>,
    /// What it is given.
    pub input: Json,
    /// Whether the node waits for its end.
    pub waits: bool,
}

/// A run is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestExecution {
    /// The workspace it belongs to.
    pub workspace_id: WorkspaceId,
    /// The workflow.
    pub workflow_id: WorkflowId,
    /// The version it keeps to its end.
    pub workflow_version: WorkflowVersion,
    /// What starts it.
    pub trigger_type: TriggerType,
    /// What the trigger gives.
    pub input: Json,
    /// Which line it waits in.
    pub queue: Queue,
    /// The limits that concern it; without any, and unless it is held, it is dispatched in the same append.
    pub limits: Vec<ConcurrencyLimit>,
    /// Whether dispatch is paused where it belongs, so that it waits even where no limit concerns it.
    pub held: bool,
    /// How long the whole run may take.
    pub timeout_ms: Option<u64>,
    /// The execution it is made from.
    pub origin: Option<Origin>,
    /// The trigger node that it begins at; none for a run by hand or by another run.
    pub trigger_node: Option<String>,
    /// How many nodes the graph has at its top level.
    pub planned_nodes: u32,
    /// How many triggers and child runs lie between this and a person.
    pub depth: u16,
    /// The node of another run that starts this one as its child.
    pub parent: Option<Parent>,
    /// The workflow that is started when this run fails.
    pub error_workflow_id: Option<WorkflowId>,
    /// Which node undoes which, by id: the undo nodes by what they undo.
    pub undoes: BTreeMap<String, String>,
}

/// What a worker did, for one append: any outcomes together with the starts that follow from them.
///
/// The first report of a claim also takes the claim, so it may hold no steps at all. It is all or none: a report that was planned on
/// an older state is refused as [`ExecutionRejection::Overtaken`], and the worker plans again with the outcomes it has.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The worker process.
    pub worker: String,
    /// The claim it works under.
    pub claim: Claim,
    /// [`super::Execution::interventions`] of the state that the steps were planned on.
    pub interventions: u32,
    /// In the order in which they happened.
    pub steps: Vec<Step>,
}

/// One thing that a worker did or is about to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A node's effect begins once this is appended. Again under a new claim: the same try after a crash.
    Start {
        /// The node.
        path: NodePath,
        /// Which try.
        attempt: Attempt,
        /// Its resolved configuration, masked.
        input: Json,
        /// The secrets that its configuration names.
        secrets: Vec<SecretName>,
    },
    /// A node waits, for a time or for something from outside.
    Wait {
        /// The node.
        path: NodePath,
        /// Which try.
        attempt: Attempt,
        /// Its resolved configuration.
        input: Json,
        /// For what.
        awaited: Awaited,
        /// Until when; a wait for a time has one.
        until: Option<DateTime<Utc>>,
    },
    /// A node starts another run, and waits for it or is done.
    StartChild {
        /// The node.
        path: NodePath,
        /// Which try.
        attempt: Attempt,
        /// Its resolved configuration.
        input: Json,
        /// The run.
        child: ChildRun,
    },
    /// A loop has its items and runs its body for each.
    OpenLoop {
        /// The node.
        path: NodePath,
        /// Which try.
        attempt: Attempt,
        /// The items, in order: at most [`crate::limits::MAX_LOOP_ITEMS`].
        items: Vec<Json>,
    },
    /// A loop opens whose condition is asked before each iteration.
    OpenWhile {
        /// The node.
        path: NodePath,
        /// Which try.
        attempt: Attempt,
        /// How many iterations there may be.
        max_iterations: u32,
    },
    /// The condition of an open loop holds: its body runs once more.
    Iterate {
        /// The loop.
        path: NodePath,
        /// Which iteration begins, from 0.
        iteration: u32,
    },
    /// An item of an open loop failed, and the loop goes on without it.
    FailItem {
        /// The loop.
        path: NodePath,
        /// Which item.
        item: u32,
        /// The node of the body that failed first.
        node: NodePath,
        /// Why.
        error: NodeError,
    },
    /// A node has its output. Of a node that was not started before: it was evaluated inline.
    Complete {
        /// The node.
        path: NodePath,
        /// Which try.
        attempt: Attempt,
        /// What it gave.
        output: NodeOutput,
        /// The port it left by, where its kind has ports.
        port: Option<String>,
        /// The variable that it set, where its kind does.
        variable: Option<VariableValue>,
        /// How long the try took.
        duration_ms: u64,
    },
    /// A node used a provider. Goes into the report of the try's outcome, before it, so that a report that is repeated records it once.
    Use {
        /// The node.
        path: NodePath,
        /// Which try.
        attempt: Attempt,
        /// What of whom.
        used: ProviderUse,
    },
    /// A try failed.
    Fail {
        /// The node.
        path: NodePath,
        /// Which try.
        attempt: Attempt,
        /// Why.
        error: NodeError,
        /// How long the try took.
        duration_ms: u64,
        /// What follows: see [`super::Plan::after_failure`].
        then: AfterFailure,
    },
    /// A node does not run.
    Skip {
        /// The node.
        path: NodePath,
        /// Why.
        reason: SkipReason,
    },
    /// Nothing runs and nothing can start: the worker lets go of it, and its slot is free.
    LetGo,
    /// The run ends. Where there is anything to undo it turns back instead; what follows is planned on the state after that.
    Finish(Outcome),
    /// Nobody can go on with it: the run ends as it is, and what it did is not undone.
    GiveUp {
        /// Why.
        error: NodeError,
    },
}

impl Step {
    /// Whether nothing may follow it in its report.
    #[must_use]
    pub const fn is_last(&self) -> bool {
        matches!(self, Self::LetGo | Self::Finish(_) | Self::GiveUp { .. })
    }

    /// Whether the run pauses with it, until a person decides about the node. After it nothing new begins, also in the same report.
    #[must_use]
    pub const fn holds_run(&self) -> bool {
        matches!(self, Self::Fail { then: AfterFailure::Pause, .. })
    }
}

/// What a node used of a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderUse {
    /// Who.
    pub provider: String,
    /// What of theirs.
    pub model: String,
    /// How much, and for how much.
    pub usage: Usage,
}

/// A variable and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VariableValue {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Json,
}

/// What follows on a failed try.
#[derive(Clone, Debug, PartialEq)]
pub enum AfterFailure {
    /// The node failed for good.
    Stop,
    /// The run pauses, and a person decides.
    Pause,
    /// It is tried again.
    Retry {
        /// When.
        at: DateTime<Utc>,
    },
    /// The run goes on as if the node had completed.
    Continue {
        /// With this output.
        output: NodeOutput,
        /// By this port: `error` for the error branch.
        port: Option<String>,
    },
}

/// How a run ends.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Well.
    Completed {
        /// What came out.
        output: NodeOutput,
    },
    /// With a failure.
    Failed {
        /// The node that failed.
        node: Option<NodePath>,
        /// Why.
        error: NodeError,
    },
    /// As it was told to; the reason is the one of the request.
    Cancelled,
    /// As it was to end before it undid what it did: all of that is done, or given up.
    Undone,
}

/// A node that can't be taken over, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotCarried {
    /// The node.
    pub node: String,
    /// Why.
    pub reason: NotCarriedReason,
}

/// Why a node can't be taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotCarriedReason {
    /// It had not come to its end.
    NotSettled,
    /// The version that the new execution runs does not have it, or the one that it ran on did not.
    Absent,
    /// It does something else, or follows on something else, in the version that the new execution runs.
    Differs,
    /// What it did was undone, or begun to be.
    Undone,
}

impl NotCarriedReason {
    /// The word for programs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotSettled => "not_settled",
            Self::Absent => "absent",
            Self::Differs => "differs",
            Self::Undone => "undone",
        }
    }

    /// Why, for a person.
    #[must_use]
    pub const fn detail(self) -> &'static str {
        match self {
            Self::NotSettled => "had not come to its end",
            Self::Absent => "is not in both versions",
            Self::Differs => "is not the same in both versions",
            Self::Undone => "was undone",
        }
    }
}

/// The nodes with their reasons, as far as a sentence goes.
fn said(nodes: &[NotCarried]) -> String {
    const NAMED: usize = 5;
    let named = nodes.iter().take(NAMED);
    let named = named.map(|node| format!("`{}` {}", node.node, node.reason.detail()));
    let mut text = named.collect::<Vec<_>>().join(", ");
    if nodes.len() > NAMED {
        text.push_str(&format!(" and {} more", nodes.len() - NAMED));
    }
    text
}

/// Which rule refuses a command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExecutionRejection {
    /// The execution does not exist.
    #[error("the execution was never requested")]
    NotRequested,
    /// An ended run never changes.
    #[error("the execution has ended: {0}")]
    Ended(Status),
    /// Triggers and child runs are nested too deep.
    #[error("triggers and child runs are nested {depth} deep, more than {max}")]
    TooDeep {
        /// How deep it would be.
        depth: u16,
        /// How deep it may be.
        max: u16,
    },
    /// A node that is to run again, or on another version, rests on something that can't be taken over as it is.
    #[error("what comes before can't be taken over: {}", said(.0))]
    NotCarried(Vec<NotCarried>),
    /// A rerun begins with a node of the top level that the version has.
    #[error("the version has no node `{0}` at its top level")]
    NoSuchNode(String),
    /// A node that undoes another one is no part of the ordinary flow.
    #[error("node '{0}' undoes another one, and runs after that one alone")]
    NotInFlow(String),
    /// What would be taken over is too much for one append.
    #[error("{count} outcomes of {bytes} bytes are more than a new execution takes over")]
    TooMuchCarried {
        /// How many there are.
        count: usize,
        /// How large they are together.
        bytes: usize,
    },
    /// All of it was done by then.
    #[error("the execution had completed by then, so nothing is left to go on with")]
    NothingToFork,
    /// The input does not fit in the run's first event.
    #[error("the input has {bytes} bytes, more than {max}; pass a reference to what is larger")]
    InputTooLarge {
        /// How large it is.
        bytes: usize,
        /// How large it may be.
        max: usize,
    },
    /// It already was told to end.
    #[error("the execution is being cancelled")]
    Cancelling,
    /// It failed, and undoes what it did before it ends.
    #[error(
        "the execution failed and undoes what it did; it ends when that is done, or when it is cancelled without that"
    )]
    Compensating,
    /// Nothing starts while it is paused.
    #[error("the execution is paused")]
    Paused,
    /// Its nodes wait, so it needs no slot.
    #[error("the execution waits for what its nodes wait for")]
    Waiting,
    /// A newer claim is out, another worker has this one, or it was let go: stand down.
    #[error("claim {reported} is not live, the newest one is {newest}")]
    ClaimLost {
        /// The claim that was named.
        reported: i32,
        /// The newest one.
        newest: i32,
    },
    /// The state that the report was planned on is older than an intervention: plan again.
    #[error("the report was planned before somebody else changed the execution")]
    Overtaken,
    /// A step contradicts what is recorded.
    #[error("step {step} of the report contradicts what is recorded of node '{path}'")]
    Contradiction {
        /// Index in the report.
        step: usize,
        /// The node; empty for the whole run.
        path: String,
    },
    /// There is no such node at the top level of the definition.
    #[error("the definition has no node '{node}' outside its loops")]
    NodeUnknown {
        /// The id.
        node: String,
    },
    /// A node reads the output of one that has none.
    #[error(
        "the node reads the output of '{node}', which is not given, not pinned, and not in the run that it is made from"
    )]
    OutputUnknown {
        /// Whose output.
        node: String,
    },
    /// The node has not failed for the last time, or somebody has decided already.
    #[error("node '{path}' does not wait for anybody to decide about it")]
    NotHeld {
        /// The node.
        path: String,
    },
    /// Only what failed or was cancelled can be retried.
    #[error("the execution has neither failed nor been cancelled")]
    NothingToRetry,
    /// The node does not wait for an answer, or not any more: an approval is answered once.
    #[error("node '{path}' does not wait for an answer, or was answered already")]
    ApprovalNotOpen {
        /// The node.
        path: String,
    },
    /// The approval is for others.
    #[error("the approval of node '{path}' is for others to answer")]
    NotAnApprover {
        /// The node.
        path: String,
    },
    /// The answer does not fit the form.
    #[error("the answer does not fit the form")]
    AnswerInvalid(Vec<AnswerError>),
    /// A signal has no such name.
    #[error("a signal has a name of 1 to {MAX_SIGNAL_NAME_CHARS} characters")]
    SignalNameInvalid,
    /// A signal is too large.
    #[error("has at most {MAX_SIGNAL_BYTES} bytes")]
    SignalTooLarge,
    /// Too many signals came that nobody waits for.
    #[error("{kept} signals are kept already that nobody waits for, and no more fit")]
    SignalsFull {
        /// How many.
        kept: usize,
    },
    /// Another worker has the task.
    #[error("another worker has the task")]
    TaskTaken,
    /// The lease is not the newest, or the task has come to an end: what the worker does is of no use any more.
    #[error("the task is not this worker's any more")]
    TaskLost,
    /// No limit concerns it, or others do.
    #[error("the execution does not wait for this limit")]
    OtherLimit,
}
