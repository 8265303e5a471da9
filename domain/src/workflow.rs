//! A workflow: its drafts, its published version, and whether it takes in work.
//!
//! Every version that was ever saved stays in the state, because a run keeps the version it started with to its end. Commands carry a
//! [`Definition`], which only parsing makes, so that what is saved is known to be sound; the event keeps the text as it was written.

mod command;
mod decide;
pub mod diff;
mod events;

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    Aggregate,
    event::corrupt,
    execution::{Queue, TriggerType},
    graph::{Concurrency, Definition, Graph},
    id::{WorkflowId, WorkspaceId},
    json::Json,
};

pub use self::{
    command::{
        CreateWorkflow, NameVersion, NewDraft, PublishWorkflow, SaveDraft, WorkflowCommand,
        WorkflowRejection,
    },
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

/// What a workflow holds in every shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Content {
    /// The workspace it belongs to.
    pub workspace_id: WorkspaceId,
    /// The workflow it was copied from.
    pub parent_workflow_id: Option<WorkflowId>,
    /// Whether triggers start executions.
    pub intake: Intake,
    /// Every version, from 1, in order.
    versions: Vec<Arc<SavedVersion>>,
    /// What people call versions; most have no name.
    names: BTreeMap<WorkflowVersion, VersionName>,
}

/// What people call a version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionName {
    /// A short name, which no other version of the workflow has.
    pub label: Option<String>,
    /// What is to be said about it.
    pub note: Option<String>,
}

/// One saved version, with its graph once somebody asked for it.
#[derive(Debug, Serialize, Deserialize)]
struct SavedVersion {
    draft: Draft,
    /// Parsing is pure, so this is a memory of a result and no part of the state: never stored, never compared.
    #[serde(skip)]
    graph: OnceLock<Option<Arc<Graph>>>,
}

impl PartialEq for SavedVersion {
    fn eq(&self, other: &Self) -> bool {
        self.draft == other.draft
    }
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
        let version = match published {
            Some(version) => version,
            None if by_trigger => return Err(WorkflowRejection::NotPublished),
            None => content.latest_version(),
        };
        content.plan(version)
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

impl Content {
    /// The number of the latest version.
    #[must_use]
    pub fn latest_version(&self) -> WorkflowVersion {
        WorkflowVersion(i32::try_from(self.versions.len()).unwrap_or(i32::MAX))
    }

    /// The latest version.
    #[must_use]
    pub fn latest(&self) -> &Draft {
        &self.versions.last().expect("a workflow is created with version 1").draft
    }

    /// A version, where there is one.
    #[must_use]
    pub fn version(&self, version: WorkflowVersion) -> Option<&Draft> {
        self.saved(version).map(|saved| &saved.draft)
    }

    /// What people call a version.
    #[must_use]
    pub fn name_of(&self, version: WorkflowVersion) -> VersionName {
        self.names.get(&version).cloned().unwrap_or_default()
    }

    /// The graph of a version, parsed once for as long as this state lives.
    ///
    /// # Errors
    /// [`WorkflowRejection::VersionNotFound`], or [`WorkflowRejection::DefinitionInvalid`] when it was saved under looser rules.
    pub fn graph(&self, version: WorkflowVersion) -> Result<Arc<Graph>, WorkflowRejection> {
        let saved = self.saved(version).ok_or(WorkflowRejection::VersionNotFound)?;
        saved
            .graph
            .get_or_init(|| {
                Definition::parse(saved.draft.definition.clone())
                    .ok()
                    .map(|definition| Arc::clone(definition.graph()))
            })
            .clone()
            .ok_or(WorkflowRejection::DefinitionInvalid)
    }

    fn saved(&self, version: WorkflowVersion) -> Option<&SavedVersion> {
        let index = usize::try_from(version.0).ok()?.checked_sub(1)?;
        self.versions.get(index).map(Arc::as_ref)
    }

    fn plan(&self, version: WorkflowVersion) -> Result<StartPlan, WorkflowRejection> {
        let graph = self.graph(version)?;
        if graph.is_empty() {
            return Err(WorkflowRejection::GraphEmpty);
        }
        let draft = self.version(version).ok_or(WorkflowRejection::VersionNotFound)?;
        let settings = graph.settings();
        Ok(StartPlan {
            workspace_id: self.workspace_id,
            version,
            definition: draft.definition.clone(),
            planned_nodes: u32::try_from(graph.len()).unwrap_or(u32::MAX),
            queue: settings.queue,
            concurrency: settings.concurrency.clone(),
            timeout_ms: settings.timeout_ms,
            graph,
        })
    }

    fn push(&mut self, draft: &Draft) {
        self.versions.push(Arc::new(SavedVersion { draft: draft.clone(), graph: OnceLock::new() }));
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
            WorkflowCommand::Delete => self.delete(),
        }
    }

    fn evolve(self, event: &WorkflowEvent) -> Self {
        let (mut content, shape) = match (self, event) {
            (Self::Absent, WorkflowEvent::WorkflowCreated(created)) => {
                let mut content = Content {
                    workspace_id: created.workspace_id,
                    parent_workflow_id: created.parent_workflow_id,
                    intake: Intake::Inactive,
                    versions: Vec::new(),
                    names: BTreeMap::new(),
                };
                content.push(&created.draft);
                return Self::Draft(content);
            }
            (Self::Absent, event) => corrupt!("the workflow was not created", event),
            (Self::Deleted(_), event) => corrupt!("the workflow was deleted", event),
            (Self::Draft(content), _) => (content, Shape::Draft),
            (Self::Archived(content), _) => (content, Shape::Archived),
            (Self::Published { content, version }, _) => (content, Shape::Published(version)),
        };
        let shape = match event {
            WorkflowEvent::WorkflowCreated(_) => corrupt!("created twice", event),
            WorkflowEvent::DraftSaved(saved) => {
                content.push(&saved.draft);
                shape
            }
            WorkflowEvent::VersionNamed(named) => {
                let VersionNamed { version, label, note } = named.clone();
                if label.is_none() && note.is_none() {
                    content.names.remove(&version);
                } else {
                    content.names.insert(version, VersionName { label, note });
                }
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
        match shape {
            Shape::Draft => Self::Draft(content),
            Shape::Published(version) => Self::Published { content, version },
            Shape::Archived => Self::Archived(content),
        }
    }

    const SNAPSHOT: &'static str = "workflow/2";

    fn weight(&self) -> usize {
        let Some(content) = self.content() else { return 0 };
        let versions = content.versions.iter();
        // A parsed graph takes a small multiple of its text.
        versions
            .map(|saved| {
                let text = saved.draft.definition.as_str().len();
                256 + text + if saved.graph.get().is_some() { text * 8 } else { 0 }
            })
            .sum()
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
