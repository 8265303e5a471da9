//! What follows from what happened: "when X, then Y", readable in one file.
//!
//! | when | then, for each of its open executions |
//! | --- | --- |
//! | a workflow's intake is paused | it is paused |
//! | it is active again | what that had paused goes on |
//! | it is deactivated, or the workflow is deleted | it is cancelled |
//!
//! Reactions to one execution are submitted in the order in which they are given, each under an id that derives from its cause, so that
//! a reaction that is given twice is one.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::{
    event::{AnyEvent, Recorded},
    execution::{CancelReason, ExecutionCommand, ExecutionEvent, PauseReason},
    id::{EventId, ExecutionId, WorkflowId},
    workflow::WorkflowEvent,
};

/// What the reactions rest on: a fold of the log. Only open executions are kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PolicyState {
    workflows: HashMap<WorkflowId, BTreeSet<ExecutionId>>,
    executions: HashMap<ExecutionId, WorkflowId>,
    paused: HashSet<WorkflowId>,
}

/// Something that is told to an execution because of an event.
#[derive(Clone, Debug, PartialEq)]
pub struct Reaction {
    /// The event that it follows from.
    pub cause: EventId,
    /// The execution.
    pub execution: ExecutionId,
    /// What it is told. A refusal means that it ended or changed meanwhile, and needs nothing more.
    pub command: ExecutionCommand,
}

/// What follows from an event, given the state before it.
#[must_use]
pub fn react(state: &PolicyState, recorded: &Recorded<AnyEvent>) -> Vec<Reaction> {
    let AnyEvent::Workflow(event) = &recorded.event else { return Vec::new() };
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
        command: command.clone(),
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
            | AnyEvent::Trigger(_) => {}
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
                self.executions.insert(execution, event.workflow_id);
            }
            ExecutionEvent::ExecutionCompleted(_)
            | ExecutionEvent::ExecutionFailed(_)
            | ExecutionEvent::ExecutionCancelled(_) => self.ended(execution),
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

    fn ended(&mut self, execution: ExecutionId) {
        let Some(workflow) = self.executions.remove(&execution) else { return };
        if let Some(executions) = self.workflows.get_mut(&workflow) {
            executions.remove(&execution);
            if executions.is_empty() {
                self.workflows.remove(&workflow);
            }
        }
    }
}

#[cfg(test)]
mod tests;
