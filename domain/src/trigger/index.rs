//! Which triggers there are: a fold of the log, and what a workflow asks of its triggers.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use super::{EventConfig, OffReason, TriggerConfig, TriggerEvent};
use crate::{
    event::{AnyEvent, Recorded},
    id::{TriggerId, WorkflowId, WorkspaceId},
    workflow::{Intake, Workflow, WorkflowEvent, WorkflowVersion},
    workspace::WorkspaceEvent,
};

/// The triggers of each workflow, and those that listen to the log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TriggerIndex {
    workflows: HashMap<WorkflowId, BTreeSet<TriggerId>>,
    of: HashMap<TriggerId, WorkflowId>,
    /// The workflows with triggers.
    workspaces: HashMap<WorkspaceId, BTreeSet<WorkflowId>>,
    listeners: HashMap<WorkspaceId, BTreeMap<TriggerId, EventConfig>>,
}

impl TriggerIndex {
    /// Takes note of an event.
    pub fn apply(&mut self, recorded: &Recorded<AnyEvent>) {
        let event = match &recorded.event {
            AnyEvent::Trigger(event) => event,
            AnyEvent::Workspace(WorkspaceEvent::WorkspaceDeleted(_)) => {
                return self.forget_workspace(WorkspaceId(recorded.stream));
            }
            AnyEvent::Workspace(_)
            | AnyEvent::Workflow(_)
            | AnyEvent::Execution(_)
            | AnyEvent::Vault(_)
            | AnyEvent::Deployment(_)
            | AnyEvent::Audit(_) => return,
        };
        let (id, workspace) = (TriggerId(recorded.stream), WorkspaceId(recorded.workspace));
        match event {
            TriggerEvent::TriggerArmed(armed) => {
                self.of.insert(id, armed.workflow_id);
                self.workflows.entry(armed.workflow_id).or_default().insert(id);
                self.workspaces.entry(workspace).or_default().insert(armed.workflow_id);
                match &armed.config {
                    TriggerConfig::Event(config) => {
                        self.listeners.entry(workspace).or_default().insert(id, config.clone());
                    }
                    TriggerConfig::Cron(_) | TriggerConfig::Webhook(_) => {
                        self.deafen(workspace, id);
                    }
                }
            }
            TriggerEvent::TriggerDisarmed(event) => {
                self.deafen(workspace, id);
                match event.reason {
                    OffReason::NodeRemoved | OffReason::WorkflowDeleted => {
                        self.forget(workspace, id);
                    }
                    OffReason::NotPublished
                    | OffReason::IntakePaused
                    | OffReason::IntakeInactive
                    | OffReason::WorkspaceDeleted => {}
                }
            }
            TriggerEvent::TriggerPaused(_)
            | TriggerEvent::TriggerResumed(_)
            | TriggerEvent::TriggerFired(_)
            | TriggerEvent::TriggerRefused(_)
            | TriggerEvent::FiresMissed(_)
            | TriggerEvent::WebhookTokenChanged(_)
            | TriggerEvent::WebhookSecretChanged(_) => {}
        }
    }

    /// The triggers of a workflow, but for those whose node is gone.
    pub fn of_workflow(&self, workflow: WorkflowId) -> impl Iterator<Item = TriggerId> {
        self.workflows.get(&workflow).into_iter().flatten().copied()
    }

    /// The workflows of a workspace that have triggers.
    pub fn of_workspace(&self, workspace: WorkspaceId) -> impl Iterator<Item = WorkflowId> {
        self.workspaces.get(&workspace).into_iter().flatten().copied()
    }

    /// The triggers that listen to a type of event in a workspace, in the order of their ids.
    pub fn listeners<'a>(
        &'a self,
        workspace: WorkspaceId,
        event_type: &'a str,
    ) -> impl Iterator<Item = (TriggerId, &'a EventConfig)> {
        let all = self.listeners.get(&workspace).into_iter().flatten();
        all.filter(move |(_, config)| config.event_type == event_type)
            .map(|(id, config)| (*id, config))
    }

    fn deafen(&mut self, workspace: WorkspaceId, id: TriggerId) {
        if let Some(listeners) = self.listeners.get_mut(&workspace) {
            listeners.remove(&id);
            if listeners.is_empty() {
                self.listeners.remove(&workspace);
            }
        }
    }

    fn forget(&mut self, workspace: WorkspaceId, id: TriggerId) {
        let Some(workflow) = self.of.remove(&id) else { return };
        let Some(triggers) = self.workflows.get_mut(&workflow) else { return };
        triggers.remove(&id);
        if !triggers.is_empty() {
            return;
        }
        self.workflows.remove(&workflow);
        if let Some(workflows) = self.workspaces.get_mut(&workspace) {
            workflows.remove(&workflow);
            if workflows.is_empty() {
                self.workspaces.remove(&workspace);
            }
        }
    }

    fn forget_workspace(&mut self, workspace: WorkspaceId) {
        self.listeners.remove(&workspace);
        for workflow in self.workspaces.remove(&workspace).into_iter().flatten() {
            for trigger in self.workflows.remove(&workflow).into_iter().flatten() {
                self.of.remove(&trigger);
            }
        }
    }
}

/// Whether an event of a workflow may change how its triggers stand.
#[must_use]
pub fn concerns_triggers(event: &WorkflowEvent) -> bool {
    match event {
        WorkflowEvent::WorkflowPublished(_)
        | WorkflowEvent::WorkflowUnpublished(_)
        | WorkflowEvent::WorkflowArchived(_)
        | WorkflowEvent::IntakeActivated(_)
        | WorkflowEvent::IntakePaused(_)
        | WorkflowEvent::IntakeDeactivated(_)
        | WorkflowEvent::WorkflowDeleted(_) => true,
        WorkflowEvent::WorkflowCreated(_)
        | WorkflowEvent::DraftSaved(_)
        | WorkflowEvent::VersionNamed(_)
        | WorkflowEvent::WorkflowUnarchived(_) => false,
    }
}

/// The same of an event of a workspace and the triggers of all its workflows.
#[must_use]
pub fn concerns_all_triggers(event: &WorkspaceEvent) -> bool {
    matches!(
        event,
        WorkspaceEvent::WorkspaceDeletionRequested(_) | WorkspaceEvent::WorkspaceRestored(_)
    )
}

/// What a workflow asks of its triggers as it stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    /// A version is published, with these trigger nodes.
    Nodes {
        /// The version.
        version: WorkflowVersion,
        /// Their ids and configurations.
        nodes: Vec<(String, TriggerConfig)>,
        /// Why none of them runs for all that.
        off: Option<OffReason>,
    },
    /// All are off.
    Off(OffReason),
}

/// What a workflow asks of its triggers as it stands.
#[must_use]
pub fn wanted(workflow: &Workflow) -> Wanted {
    let (content, version) = match workflow {
        Workflow::Absent | Workflow::Deleted(_) => return Wanted::Off(OffReason::WorkflowDeleted),
        Workflow::Draft(_) | Workflow::Archived(_) => return Wanted::Off(OffReason::NotPublished),
        Workflow::Published { content, version } => (content, *version),
    };
    // One that was saved under looser rules can't be started either.
    let Ok(graph) = content.graph(version) else { return Wanted::Off(OffReason::NotPublished) };
    let of_node = |node: &crate::node::Node| Some((node.id().to_owned(), node.config().trigger()?));
    Wanted::Nodes {
        version,
        nodes: graph.nodes().filter_map(|(_, node)| of_node(node)).collect(),
        off: match content.intake {
            Intake::Active => None,
            Intake::Paused => Some(OffReason::IntakePaused),
            Intake::Inactive => Some(OffReason::IntakeInactive),
        },
    }
}
