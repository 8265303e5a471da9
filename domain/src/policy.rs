//! What follows from what happened: "when X, then Y", readable in one file.
//!
//! | when | then, for each of its open executions |
//! | --- | --- |
//! | a workflow's intake is paused | it is paused |
//! | it is active again | what that had paused goes on |
//! | it is deactivated, or the workflow is deleted | it is cancelled |
//! | the deletion of a workspace is asked for | it is cancelled |
//!
//! | when | then |
//! | --- | --- |
//! | a node starts a child | the child is requested, once for ever, since its id follows from the node |
//! | a child ends that its parent waits for | its end is the outcome of the node |
//! | a run ends, or begins to undo what it did, while it waits for children | they are cancelled |
//! | a run fails whose workflow names an error workflow | a run of that is requested, once for ever |
//!
//! Reactions to one execution are submitted in the order in which they are given, each under an id that derives from its cause, so that
//! a reaction that is given twice is one.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    event::{AnyEvent, Recorded},
    execution::{
        CancelReason, ChildEnd, ExecutionCommand, ExecutionEvent, ExecutionFailed, Parent,
        PauseReason,
    },
    id::{EventId, ExecutionId, WorkflowId, WorkspaceId},
    json::Json,
    workflow::{WorkflowEvent, WorkflowVersion},
    workspace::WorkspaceEvent,
};

/// What the reactions rest on: a fold of the log. Only open executions are kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PolicyState {
    workflows: HashMap<WorkflowId, BTreeSet<ExecutionId>>,
    executions: HashMap<ExecutionId, Belongs>,
    paused: HashSet<WorkflowId>,
    /// Nodes that wait for open executions.
    parents: HashMap<ExecutionId, Parent>,
    /// Children that open executions wait for.
    children: HashMap<ExecutionId, BTreeSet<ExecutionId>>,
    /// What follows on the failure of open executions.
    error_workflows: HashMap<ExecutionId, WorkflowId>,
    /// How deep open executions are that a person did not start.
    depths: HashMap<ExecutionId, u16>,
}

/// Where an open execution belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Belongs {
    workspace: WorkspaceId,
    workflow: WorkflowId,
}

/// Something that is told to an execution because of an event.
#[derive(Clone, Debug, PartialEq)]
pub struct Reaction {
    /// The event that it follows from.
    pub cause: EventId,
    /// The execution.
    pub execution: ExecutionId,
    /// What it is told.
    pub told: Told,
}

/// What an execution is told because of an event.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// A refusal means that it ended or changed meanwhile, and needs nothing more.
    Command(ExecutionCommand),
    /// To come to be. A parent that waits for it hears of a refusal.
    Start(Box<NewRun>),
}

impl From<ExecutionCommand> for Told {
    fn from(command: ExecutionCommand) -> Self {
        Self::Command(command)
    }
}

/// A run that follows from an event.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRun {
    /// The workspace that its workflow must be of.
    pub workspace_id: WorkspaceId,
    /// Of which workflow.
    pub workflow_id: WorkflowId,
    /// Which version of it; none for the published one, else the latest draft.
    pub version: Option<WorkflowVersion>,
    /// What it is given.
    pub input: Json,
    /// How many triggers and child runs lie between it and a person.
    pub depth: u16,
    /// The node that starts it as its child.
    pub parent: Option<Parent>,
}

/// What follows from an event, given the state before it.
#[must_use]
pub fn react(state: &PolicyState, recorded: &Recorded<AnyEvent>) -> Vec<Reaction> {
    let event = match &recorded.event {
        AnyEvent::Workflow(event) => event,
        AnyEvent::Execution(event) => return state.follow(recorded, event),
        AnyEvent::Workspace(WorkspaceEvent::WorkspaceDeletionRequested(_)) => {
            return state.cancel_all(recorded);
        }
        AnyEvent::Workspace(_)
        | AnyEvent::Vault(_)
        | AnyEvent::Deployment(_)
        | AnyEvent::Trigger(_)
        | AnyEvent::Audit(_) => return Vec::new(),
    };
    let workflow = WorkflowId(recorded.stream);
    let command = match event {
        WorkflowEvent::IntakePaused(_) => {
            ExecutionCommand::Pause { reason: PauseReason::WorkflowPaused }
        }
        // Told to all, since the pause of one may still be on its way; whoever was not paused by it ignores it.
        WorkflowEvent::IntakeActivated(_) if state.paused.contains(&workflow) => {
            ExecutionCommand::Unpause { reason: PauseReason::WorkflowPaused }
        }
        WorkflowEvent::IntakeDeactivated(_) => {
            ExecutionCommand::Cancel { reason: CancelReason::WorkflowStopped }
        }
        WorkflowEvent::WorkflowDeleted(_) => {
            ExecutionCommand::Cancel { reason: CancelReason::WorkflowDeleted }
        }
        WorkflowEvent::IntakeActivated(_)
        | WorkflowEvent::WorkflowCreated(_)
        | WorkflowEvent::DraftSaved(_)
        | WorkflowEvent::VersionNamed(_)
        | WorkflowEvent::WorkflowPublished(_)
        | WorkflowEvent::WorkflowUnpublished(_)
        | WorkflowEvent::WorkflowArchived(_)
        | WorkflowEvent::WorkflowUnarchived(_) => return Vec::new(),
    };
    let reaction = |execution: &ExecutionId| Reaction {
        cause: recorded.event_id,
        execution: *execution,
        told: command.clone().into(),
    };
    state.workflows.get(&workflow).into_iter().flatten().map(reaction).collect()
}

impl PolicyState {
    /// Takes note of an event, after [`react`] was asked about it.
    pub fn apply(&mut self, recorded: &Recorded<AnyEvent>) {
        match &recorded.event {
            AnyEvent::Workflow(event) => self.apply_workflow(WorkflowId(recorded.stream), event),
            AnyEvent::Execution(event) => {
                self.apply_execution(ExecutionId(recorded.stream), event);
            }
            AnyEvent::Workspace(_)
            | AnyEvent::Vault(_)
            | AnyEvent::Deployment(_)
            | AnyEvent::Trigger(_)
            | AnyEvent::Audit(_) => {}
        }
    }

    /// How many executions of a workflow are open.
    #[must_use]
    pub fn open_executions(&self, workflow: WorkflowId) -> usize {
        self.workflows.get(&workflow).map_or(0, BTreeSet::len)
    }

    fn apply_workflow(&mut self, workflow: WorkflowId, event: &WorkflowEvent) {
        match event {
            WorkflowEvent::IntakePaused(_) => {
                self.paused.insert(workflow);
            }
            WorkflowEvent::IntakeActivated(_)
            | WorkflowEvent::IntakeDeactivated(_)
            | WorkflowEvent::WorkflowDeleted(_) => {
                self.paused.remove(&workflow);
            }
            WorkflowEvent::WorkflowCreated(_)
            | WorkflowEvent::DraftSaved(_)
            | WorkflowEvent::VersionNamed(_)
            | WorkflowEvent::WorkflowPublished(_)
            | WorkflowEvent::WorkflowUnpublished(_)
            | WorkflowEvent::WorkflowArchived(_)
            | WorkflowEvent::WorkflowUnarchived(_) => {}
        }
    }

    fn apply_execution(&mut self, execution: ExecutionId, event: &ExecutionEvent) {
        match event {
            ExecutionEvent::ExecutionRequested(event) => {
                self.workflows.entry(event.workflow_id).or_default().insert(execution);
                let (workspace, workflow) = (event.workspace_id, event.workflow_id);
                self.executions.insert(execution, Belongs { workspace, workflow });
                if event.depth > 0 {
                    self.depths.insert(execution, event.depth);
                }
                if let Some(workflow) = event.error_workflow_id {
                    self.error_workflows.insert(execution, workflow);
                }
                if let Some(parent) = event.parent.as_ref().filter(|parent| parent.waits) {
                    self.parents.insert(execution, parent.clone());
                }
            }
            // Noted before it exists, so that the end of its parent is never missed.
            ExecutionEvent::ChildStarted(event) if event.waits => {
                self.children.entry(execution).or_default().insert(event.execution_id);
            }
            ExecutionEvent::ChildFinished(event) => self.child_ended(execution, event.execution_id),
            ExecutionEvent::ExecutionCompleted(_)
            | ExecutionEvent::ExecutionFailed(_)
            | ExecutionEvent::ExecutionCancelled(_) => self.ended(execution),
            // It waits for none of them any more, and what it starts from here on is part of undoing what it did.
            ExecutionEvent::CompensationStarted(_) => {
                self.children.remove(&execution);
            }
            ExecutionEvent::ExecutionQueued(_)
            | ExecutionEvent::ExecutionDispatched(_)
            | ExecutionEvent::ExecutionStarted(_)
            | ExecutionEvent::ExecutionResumed(_)
            | ExecutionEvent::NodeStarted(_)
            | ExecutionEvent::NodeCompleted(_)
            | ExecutionEvent::NodeFailed(_)
            | ExecutionEvent::NodeSkipped(_)
            | ExecutionEvent::LoopIterated(_)
            | ExecutionEvent::LoopItemFailed(_)
            | ExecutionEvent::NodeResolved(_)
            | ExecutionEvent::ChildStarted(_)
            | ExecutionEvent::TimerSet(_)
            | ExecutionEvent::TimerFired(_)
            | ExecutionEvent::ApprovalRequested(_)
            | ExecutionEvent::ApprovalGiven(_)
            | ExecutionEvent::ApprovalRefused(_)
            | ExecutionEvent::ApprovalTimedOut(_)
            | ExecutionEvent::SignalAwaited(_)
            | ExecutionEvent::SignalReceived(_)
            | ExecutionEvent::SignalConsumed(_)
            | ExecutionEvent::TaskOffered(_)
            | ExecutionEvent::TaskTaken(_)
            | ExecutionEvent::TaskReturned(_)
            | ExecutionEvent::TaskCompleted(_)
            | ExecutionEvent::TaskFailed(_)
            | ExecutionEvent::NodesCarried(_)
            | ExecutionEvent::VariableSet(_)
            | ExecutionEvent::UsageRecorded(_)
            | ExecutionEvent::ExecutionWaiting(_)
            | ExecutionEvent::ExecutionPaused(_)
            | ExecutionEvent::ExecutionUnpaused(_)
            | ExecutionEvent::CancelRequested(_) => {}
        }
    }

    /// Ends what is open in a workspace that is being deleted. Nothing is requested in it any more, so whoever is open is known.
    fn cancel_all(&self, recorded: &Recorded<AnyEvent>) -> Vec<Reaction> {
        let workspace = WorkspaceId(recorded.stream);
        let of_it = self.executions.iter().filter(|(_, belongs)| belongs.workspace == workspace);
        let mut open: Vec<ExecutionId> = of_it.map(|(execution, _)| *execution).collect();
        open.sort_unstable();
        let cancel = ExecutionCommand::Cancel { reason: CancelReason::WorkspaceDeleted };
        let reaction = |execution| Reaction {
            cause: recorded.event_id,
            execution,
            told: cancel.clone().into(),
        };
        open.into_iter().map(reaction).collect()
    }

    fn follow(&self, recorded: &Recorded<AnyEvent>, event: &ExecutionEvent) -> Vec<Reaction> {
        let execution = ExecutionId(recorded.stream);
        if let ExecutionEvent::ChildStarted(event) = event {
            let parent = Parent {
                execution_id: execution,
                path: event.path.clone(),
                attempt: event.attempt,
                waits: event.waits,
            };
            let child = NewRun {
                version: event.version,
                parent: Some(parent),
                ..self.new_run(recorded, event.workflow_id, event.input.clone())
            };
            let told = Told::Start(Box::new(child));
            return vec![Reaction {
                cause: recorded.event_id,
                execution: event.execution_id,
                told,
            }];
        }
        if let ExecutionEvent::CompensationStarted(_) = event {
            return self.end_children(recorded);
        }
        let Some(end) = end_of(event) else { return Vec::new() };
        let mut reactions = self.tell_parent(recorded, end);
        reactions.extend(self.end_children(recorded));
        if let ExecutionEvent::ExecutionFailed(event) = event {
            reactions.extend(self.error_workflow(recorded, event));
        }
        reactions
    }

    fn end_children(&self, recorded: &Recorded<AnyEvent>) -> Vec<Reaction> {
        let cancel = ExecutionCommand::Cancel { reason: CancelReason::ParentEnded };
        let children = self.children.get(&ExecutionId(recorded.stream)).into_iter().flatten();
        let reaction = |child: &ExecutionId| Reaction {
            cause: recorded.event_id,
            execution: *child,
            told: cancel.clone().into(),
        };
        children.map(reaction).collect()
    }

    fn tell_parent(&self, recorded: &Recorded<AnyEvent>, end: ChildEnd) -> Vec<Reaction> {
        let child = ExecutionId(recorded.stream);
        let Some(parent) = self.parents.get(&child) else { return Vec::new() };
        let (path, attempt) = (parent.path.clone(), parent.attempt);
        let told = ExecutionCommand::FinishChild { path, attempt, child, end }.into();
        vec![Reaction { cause: recorded.event_id, execution: parent.execution_id, told }]
    }

    fn error_workflow(
        &self,
        recorded: &Recorded<AnyEvent>,
        event: &ExecutionFailed,
    ) -> Option<Reaction> {
        let failed = ExecutionId(recorded.stream);
        let workflow = *self.error_workflows.get(&failed)?;
        let input = json!({
            "execution_id": failed,
            "workflow_id": self.executions.get(&failed).map(|belongs| belongs.workflow),
            "node": event.node,
            "error": event.error,
        });
        let run = self.new_run(recorded, workflow, input.into());
        let told = Told::Start(Box::new(run));
        Some(Reaction { cause: recorded.event_id, execution: failed.of_failure(), told })
    }

    fn new_run(
        &self,
        recorded: &Recorded<AnyEvent>,
        workflow_id: WorkflowId,
        input: Json,
    ) -> NewRun {
        let depth = self.depths.get(&ExecutionId(recorded.stream)).copied().unwrap_or(0);
        NewRun {
            workspace_id: WorkspaceId(recorded.workspace),
            workflow_id,
            version: None,
            input,
            depth: depth.saturating_add(1),
            parent: None,
        }
    }

    fn child_ended(&mut self, parent: ExecutionId, child: ExecutionId) {
        if let Some(children) = self.children.get_mut(&parent) {
            children.remove(&child);
            if children.is_empty() {
                self.children.remove(&parent);
            }
        }
    }

    fn ended(&mut self, execution: ExecutionId) {
        self.depths.remove(&execution);
        self.error_workflows.remove(&execution);
        self.children.remove(&execution);
        if let Some(parent) = self.parents.remove(&execution) {
            self.child_ended(parent.execution_id, execution);
        }
        let Some(Belongs { workflow, .. }) = self.executions.remove(&execution) else { return };
        if let Some(executions) = self.workflows.get_mut(&workflow) {
            executions.remove(&execution);
            if executions.is_empty() {
                self.workflows.remove(&workflow);
            }
        }
    }
}

/// How an event ends its execution, where it does.
fn end_of(event: &ExecutionEvent) -> Option<ChildEnd> {
    if let ExecutionEvent::ExecutionCompleted(event) = event {
        return Some(ChildEnd::Completed { output: event.output.clone() });
    }
    if let ExecutionEvent::ExecutionFailed(event) = event {
        let (node, error) = (event.node.clone(), event.error.clone());
        return Some(ChildEnd::Failed { node, error });
    }
    let ExecutionEvent::ExecutionCancelled(event) = event else { return None };
    Some(ChildEnd::Cancelled { reason: event.reason })
}

#[cfg(test)]
mod tests;
