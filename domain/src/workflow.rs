//! A workflow: its drafts, its published version, and whether it takes in work.
//!
//! Every version that was ever saved stays known, because a run keeps the version it started with to its end; the definitions of those
//! that nothing new runs are looked up when they are asked for ([`Content::whereabouts`]). Commands carry a
//! [`Definition`](crate::graph::Definition), which only parsing makes, so that what is saved is known to be sound; the event keeps the text as
//! it was written, or names the blob that does.

mod command;
mod content;
mod decide;
pub mod diff;
mod events;

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    Aggregate,
    event::corrupt,
    execution::{Queue, TriggerType},
    graph::{Concurrency, Graph},
    id::{WorkflowId, WorkspaceId},
    json::Json,
};

pub use self::{
    command::{
        CreateWorkflow, NameVersion, NewDraft, PublishWorkflow, SaveDraft, WorkflowCommand,
        WorkflowRejection,
    },
    content::{Content, SavedVersion, VersionName, Whereabouts},
    events::*,
};

/// The fold of a workflow's stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Workflow {
    /// Nothing happened yet.
    #[default]
    Absent,
    /// It is edited; no version is published.
    Draft(Content),
    /// A version is published; drafts may be newer.
    Published {
        /// What it holds.
        content: Content,
        /// The version that triggers run.
        version: WorkflowVersion,
    },
    /// Put away.
    Archived(Content),
    /// Gone from every list. The versions stay, since runs name them.
    Deleted(Content),
}

/// Whether a workflow takes in work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intake {
    /// Triggers start executions.
    Active,
    /// Triggers hold, and nothing starts until it is resumed.
    Paused,
    /// Triggers are off; a person may still start it.
    #[default]
    Inactive,
}

impl Intake {
    /// The stored and served word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Inactive => "inactive",
        }
    }
}

/// Where a workflow stands, in the words of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkflowStatus {
    /// No version is published.
    Draft,
    /// A version is published.
    Published,
    /// Put away.
    Archived,
}

impl WorkflowStatus {
    /// The stored and served word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Published => "published",
            Self::Archived => "archived",
        }
    }
}

/// What a start of a workflow needs to know: all of it stays as it is for the whole run.
#[derive(Clone, Debug)]
pub struct StartPlan {
    /// The workspace it belongs to.
    pub workspace_id: WorkspaceId,
    /// The version that runs.
    pub version: WorkflowVersion,
    /// Its definition as it was written.
    pub definition: Json,
    /// Its definition, parsed.
    pub graph: Arc<Graph>,
    /// How many nodes stand at its top level.
    pub planned_nodes: u32,
    /// The line a run waits in.
    pub queue: Queue,
    /// How many runs there may be at once, and of what.
    pub concurrency: Concurrency,
    /// How long a run may take.
    pub timeout_ms: Option<u64>,
    /// The workflow that is started when a run fails.
    pub error_workflow_id: Option<WorkflowId>,
    /// Which node undoes which, by id: the undo nodes by what they undo.
    pub undoes: BTreeMap<String, String>,
}

impl Workflow {
    /// What it holds, also once it is deleted.
    #[must_use]
    pub fn content(&self) -> Option<&Content> {
        match self {
            Self::Absent => None,
            Self::Draft(content)
            | Self::Published { content, .. }
            | Self::Archived(content)
            | Self::Deleted(content) => Some(content),
        }
    }

    /// Where it stands; none where it does not exist or was deleted.
    #[must_use]
    pub fn status(&self) -> Option<WorkflowStatus> {
        match self {
            Self::Absent | Self::Deleted(_) => None,
            Self::Draft(_) => Some(WorkflowStatus::Draft),
            Self::Published { .. } => Some(WorkflowStatus::Published),
            Self::Archived(_) => Some(WorkflowStatus::Archived),
        }
    }

    /// The version that triggers run.
    #[must_use]
    pub fn published_version(&self) -> Option<WorkflowVersion> {
        match self {
            Self::Published { version, .. } => Some(*version),
            Self::Absent | Self::Draft(_) | Self::Archived(_) | Self::Deleted(_) => None,
        }
    }

    /// The command that brings it to a status, for the contract's `PATCH status`.
    #[must_use]
    pub fn command_for(&self, status: WorkflowStatus) -> WorkflowCommand {
        match (status, self) {
            (WorkflowStatus::Draft, Self::Archived(_)) => WorkflowCommand::Unarchive,
            (
                WorkflowStatus::Draft,
                Self::Absent | Self::Draft(_) | Self::Published { .. } | Self::Deleted(_),
            ) => WorkflowCommand::Unpublish,
            (WorkflowStatus::Published, _) => WorkflowCommand::Publish(PublishWorkflow::default()),
            (WorkflowStatus::Archived, _) => WorkflowCommand::Archive,
        }
    }

    /// What a start needs: the published version, else (by a person or a parent run) the latest draft.
    ///
    /// # Errors
    /// The rule that refuses the start.
    pub fn start_plan(&self, trigger: TriggerType) -> Result<StartPlan, WorkflowRejection> {
        self.version_plan(self.started_version(trigger)?)
    }

    /// The version that a start runs, whose definition [`Self::start_plan`] must have at hand.
    ///
    /// # Errors
    /// The rule that refuses the start.
    pub fn started_version(
        &self,
        trigger: TriggerType,
    ) -> Result<WorkflowVersion, WorkflowRejection> {
        let (content, published) = match self {
            Self::Absent | Self::Deleted(_) => return Err(WorkflowRejection::NotFound),
            Self::Archived(_) => return Err(WorkflowRejection::Archived),
            Self::Draft(content) => (content, None),
            Self::Published { content, version } => (content, Some(*version)),
        };
        let by_trigger = match trigger {
            TriggerType::Manual | TriggerType::Workflow => false,
            TriggerType::Cron | TriggerType::Webhook | TriggerType::Event => true,
        };
        match content.intake {
            Intake::Paused => return Err(WorkflowRejection::IntakePaused),
            Intake::Inactive if by_trigger => return Err(WorkflowRejection::IntakeInactive),
            Intake::Active | Intake::Inactive => {}
        }
        match published {
            Some(version) => Ok(version),
            None if by_trigger => Err(WorkflowRejection::NotPublished),
            None => Ok(content.latest_version()),
        }
    }

    /// What another run of a version needs, whatever the intake: a retry or rerun of an execution that names it.
    ///
    /// # Errors
    /// [`WorkflowRejection::NotFound`], [`WorkflowRejection::Archived`], or what is wrong with the version.
    pub fn version_plan(&self, version: WorkflowVersion) -> Result<StartPlan, WorkflowRejection> {
        match self {
            Self::Absent | Self::Deleted(_) => Err(WorkflowRejection::NotFound),
            Self::Archived(_) => Err(WorkflowRejection::Archived),
            Self::Draft(content) | Self::Published { content, .. } => content.plan(version),
        }
    }
}

impl Aggregate for Workflow {
    type Command = WorkflowCommand;
    type Event = WorkflowEvent;
    type Rejection = WorkflowRejection;

    fn decide(
        &self,
        command: &WorkflowCommand,
        _now: DateTime<Utc>,
    ) -> Result<Vec<WorkflowEvent>, WorkflowRejection> {
        match command {
            WorkflowCommand::Create(command) => self.create(command),
            WorkflowCommand::SaveDraft(command) => self.save_draft(command),
            WorkflowCommand::NameVersion(command) => self.name_version(command),
            WorkflowCommand::Publish(command) => self.publish(command),
            WorkflowCommand::Unpublish => self.unpublish(),
            WorkflowCommand::Archive => self.archive(),
            WorkflowCommand::Unarchive => self.unarchive(),
            WorkflowCommand::ActivateIntake => self.set_intake(Intake::Active),
            WorkflowCommand::PauseIntake => self.set_intake(Intake::Paused),
            WorkflowCommand::DeactivateIntake => self.set_intake(Intake::Inactive),
            WorkflowCommand::Stop => self.stop(),
            WorkflowCommand::Delete => self.delete(),
        }
    }

    fn evolve(self, event: &WorkflowEvent) -> Self {
        let (mut content, shape) = match (self, event) {
            (Self::Absent, WorkflowEvent::WorkflowCreated(created)) => {
                return Self::Draft(Content::created(created));
            }
            (Self::Absent, event) => corrupt!("the workflow was not created", event),
            (Self::Deleted(_), event) => corrupt!("the workflow was deleted", event),
            (Self::Draft(content), _) => (content, Shape::Draft),
            (Self::Archived(content), _) => (content, Shape::Archived),
            (Self::Published { content, version }, _) => (content, Shape::Published(version)),
        };
        content.folded();
        let shape = match event {
            WorkflowEvent::WorkflowCreated(_) => corrupt!("created twice", event),
            WorkflowEvent::DraftSaved(saved) => {
                content.push(&saved.draft);
                shape
            }
            WorkflowEvent::VersionNamed(named) => {
                content.call(named);
                shape
            }
            WorkflowEvent::IntakeActivated(_) => {
                content.intake = Intake::Active;
                shape
            }
            WorkflowEvent::IntakePaused(_) => {
                content.intake = Intake::Paused;
                shape
            }
            WorkflowEvent::IntakeDeactivated(_) => {
                content.intake = Intake::Inactive;
                shape
            }
            WorkflowEvent::WorkflowPublished(event) => Shape::Published(event.version),
            WorkflowEvent::WorkflowUnpublished(_) | WorkflowEvent::WorkflowUnarchived(_) => {
                Shape::Draft
            }
            WorkflowEvent::WorkflowArchived(_) => Shape::Archived,
            WorkflowEvent::WorkflowDeleted(_) => return Self::Deleted(content),
        };
        content.keep_at_hand(match shape {
            Shape::Published(version) => Some(version),
            Shape::Draft | Shape::Archived => None,
        });
        match shape {
            Shape::Draft => Self::Draft(content),
            Shape::Published(version) => Self::Published { content, version },
            Shape::Archived => Self::Archived(content),
        }
    }

    const SNAPSHOT: &'static str = "workflow/3";

    fn weight(&self) -> usize {
        self.content().map_or(0, Content::weight)
    }
}

/// The shape of a workflow that exists, while its content is being changed.
enum Shape {
    Draft,
    Published(WorkflowVersion),
    Archived,
}

#[cfg(test)]
mod tests;
