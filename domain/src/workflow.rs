//! A workflow: its drafts, its published version, and whether it takes in work.
//!
//! Every version that was ever saved stays in the state, because a run keeps the version it started with to its end. Commands carry a
//! [`Definition`], which only parsing makes, so that what is saved is known to be sound; the event keeps the text as it was written.

use std::sync::{Arc, OnceLock};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    Aggregate,
    event::{corrupt, events},
    execution::{Queue, TriggerType},
    graph::{Concurrency, Definition, Graph},
    id::{WorkflowId, WorkspaceId},
    json::Json,
    limits,
};

events! {
    /// What happened to a workflow.
    WorkflowEvent in "workflow" {
        "workflow_created" 1 => WorkflowCreated,
        "draft_saved" 1 => DraftSaved,
        "workflow_published" 1 => WorkflowPublished,
        "workflow_unpublished" 1 => WorkflowUnpublished,
        "workflow_archived" 1 => WorkflowArchived,
        "workflow_unarchived" 1 => WorkflowUnarchived,
        "intake_activated" 1 => IntakeActivated,
        "intake_paused" 1 => IntakePaused,
        "intake_deactivated" 1 => IntakeDeactivated,
        "workflow_deleted" 1 => WorkflowDeleted,
    }
}

/// A version of a workflow, from 1; every saved draft is the next one.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct WorkflowVersion(pub i32);

/// What a person wrote: name, graph, settings. Kept whole in each draft, so that a version is one event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Draft {
    /// 1 to 255 characters.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// `{nodes, connections, settings}`: see `graph::Definition`.
    pub definition: Json,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// Whether any signed-in user may see the definition (never the runs).
    pub is_public: bool,
}

/// A workflow came to be, with version 1 as its draft.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkflowCreated {
    /// The workspace it belongs to.
    pub workspace_id: WorkspaceId,
    /// The workflow it was copied from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_workflow_id: Option<WorkflowId>,
    /// Version 1.
    pub draft: Draft,
}

/// A draft was saved as the next version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DraftSaved {
    /// Its number.
    pub version: WorkflowVersion,
    /// What it holds.
    pub draft: Draft,
}

/// A version became the one that triggers run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkflowPublished {
    /// Which.
    pub version: WorkflowVersion,
}

/// No version is published any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkflowUnpublished {}

/// Put away: it can't be edited or started until it is taken out again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkflowArchived {}

/// Taken out of the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkflowUnarchived {}

/// Triggers start executions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntakeActivated {}

/// Triggers hold, and running executions pause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntakePaused {}

/// Triggers are off, and running executions are cancelled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntakeDeactivated {}

/// Gone from every list; its runs stay readable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkflowDeleted {}

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

/// What a person wrote, after its definition was parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct NewDraft {
    /// 1 to 255 characters.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// The parsed graph with its text.
    pub definition: Definition,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// Whether any signed-in user may see the definition.
    pub is_public: bool,
}

/// What a workflow is told to do.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkflowCommand {
    /// Make it.
    Create(CreateWorkflow),
    /// Save the next version.
    SaveDraft(SaveDraft),
    /// Make a version the one that triggers run.
    Publish(PublishWorkflow),
    /// Publish no version any more.
    Unpublish,
    /// Put it away; unpublishes it and turns its intake off.
    Archive,
    /// Take it out of the archive, as a draft.
    Unarchive,
    /// Let triggers start executions.
    ActivateIntake,
    /// Hold triggers.
    PauseIntake,
    /// Turn triggers off.
    DeactivateIntake,
    /// Take it from every list for ever.
    Delete,
}

/// Makes a workflow with version 1.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateWorkflow {
    /// The workspace it belongs to.
    pub workspace_id: WorkspaceId,
    /// The workflow it is copied from.
    pub parent_workflow_id: Option<WorkflowId>,
    /// Version 1.
    pub draft: NewDraft,
}

/// Saves the next version.
#[derive(Clone, Debug, PartialEq)]
pub struct SaveDraft {
    /// What it holds.
    pub draft: NewDraft,
}

/// Publishes a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishWorkflow {
    /// Which; none for the latest.
    pub version: Option<WorkflowVersion>,
}

/// Which rule refuses a command on a workflow, or a start of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkflowRejection {
    /// There is none with this id, or it was deleted.
    #[error("the workflow does not exist")]
    NotFound,
    /// One with this id exists and is another one.
    #[error("the workflow already exists")]
    AlreadyExists,
    /// A name has 1 to 255 characters that are not all white space.
    #[error("the name of a workflow has 1 to {} characters", limits::MAX_NAME_CHARS)]
    NameInvalid,
    /// The description is too long.
    #[error(
        "the description of a workflow has at most {} characters",
        limits::MAX_DESCRIPTION_CHARS
    )]
    DescriptionTooLong,
    /// Too many tags, or one that is empty or too long.
    #[error(
        "a workflow has at most {} tags of 1 to {} characters",
        limits::MAX_TAGS,
        limits::MAX_TAG_CHARS
    )]
    TagsInvalid,
    /// The definition does not fit in one event.
    #[error("the definition of a workflow has at most {} bytes", limits::MAX_DEFINITION_BYTES)]
    DefinitionTooLarge,
    /// Too many versions.
    #[error("a workflow has at most {} versions", limits::MAX_VERSIONS)]
    TooManyVersions,
    /// There is no such version.
    #[error("the workflow has no such version")]
    VersionNotFound,
    /// A graph without nodes is a valid draft and nothing more.
    #[error("a workflow without nodes cannot be published or started")]
    GraphEmpty,
    /// The version was saved under rules that have become stricter since.
    #[error("the definition of this version is no longer valid: save it again to see why")]
    DefinitionInvalid,
    /// Triggers run published versions only.
    #[error("the workflow has no published version, and triggers run nothing else")]
    NotPublished,
    /// It is in the archive.
    #[error("the workflow is archived: it can't be edited, published or started")]
    Archived,
    /// Nothing starts while the intake is paused.
    #[error("the intake of the workflow is paused: resume it to start executions")]
    IntakePaused,
    /// Triggers start nothing while the intake is off.
    #[error("the intake of the workflow is inactive: triggers start nothing")]
    IntakeInactive,
}

impl WorkflowRejection {
    /// The rule's stable name, for programs.
    #[must_use]
    pub const fn rule(self) -> &'static str {
        match self {
            Self::NotFound => "workflow_not_found",
            Self::AlreadyExists => "workflow_already_exists",
            Self::NameInvalid => "name_invalid",
            Self::DescriptionTooLong => "description_too_long",
            Self::TagsInvalid => "tags_invalid",
            Self::DefinitionTooLarge => "definition_too_large",
            Self::TooManyVersions => "too_many_versions",
            Self::VersionNotFound => "version_not_found",
            Self::GraphEmpty => "graph_empty",
            Self::DefinitionInvalid => "definition_invalid",
            Self::NotPublished => "workflow_not_published",
            Self::Archived => "workflow_archived",
            Self::IntakePaused => "intake_paused",
            Self::IntakeInactive => "intake_inactive",
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
            (WorkflowStatus::Published, _) => {
                WorkflowCommand::Publish(PublishWorkflow { version: None })
            }
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

    /// The content, where commands may still change it.
    fn editable(&self) -> Result<&Content, WorkflowRejection> {
        match self {
            Self::Absent | Self::Deleted(_) => Err(WorkflowRejection::NotFound),
            Self::Archived(_) => Err(WorkflowRejection::Archived),
            Self::Draft(content) | Self::Published { content, .. } => Ok(content),
        }
    }

    /// A repeat of the same creation leads to nothing.
    fn create(&self, command: &CreateWorkflow) -> Result<Vec<WorkflowEvent>, WorkflowRejection> {
        let draft = command.draft.checked()?;
        match self {
            Self::Absent => Ok(vec![
                WorkflowCreated {
                    workspace_id: command.workspace_id,
                    parent_workflow_id: command.parent_workflow_id,
                    draft,
                }
                .into(),
            ]),
            Self::Draft(content)
                if content.workspace_id == command.workspace_id
                    && content.parent_workflow_id == command.parent_workflow_id
                    && content.versions.len() == 1
                    && content.latest() == &draft =>
            {
                Ok(vec![])
            }
            Self::Draft(_) | Self::Published { .. } | Self::Archived(_) | Self::Deleted(_) => {
                Err(WorkflowRejection::AlreadyExists)
            }
        }
    }

    /// What the latest version already holds leads to nothing.
    fn save_draft(&self, command: &SaveDraft) -> Result<Vec<WorkflowEvent>, WorkflowRejection> {
        let content = self.editable()?;
        let draft = command.draft.checked()?;
        if content.latest() == &draft {
            return Ok(vec![]);
        }
        if content.versions.len() >= limits::MAX_VERSIONS {
            return Err(WorkflowRejection::TooManyVersions);
        }
        let version = WorkflowVersion(content.latest_version().0 + 1);
        Ok(vec![DraftSaved { version, draft }.into()])
    }

    /// The version that is already published leads to nothing.
    fn publish(&self, command: &PublishWorkflow) -> Result<Vec<WorkflowEvent>, WorkflowRejection> {
        let content = self.editable()?;
        let version = command.version.unwrap_or_else(|| content.latest_version());
        if self.published_version() == Some(version) {
            return Ok(vec![]);
        }
        content.plan(version)?;
        Ok(vec![WorkflowPublished { version }.into()])
    }

    /// Without a published version it leads to nothing.
    fn unpublish(&self) -> Result<Vec<WorkflowEvent>, WorkflowRejection> {
        self.editable()?;
        Ok(self.published_version().map(|_| WorkflowUnpublished {}.into()).into_iter().collect())
    }

    /// In the archive already, it leads to nothing. Says in events of their own that it is unpublished and takes in nothing, so
    /// that no reader has to know what archiving implies.
    fn archive(&self) -> Result<Vec<WorkflowEvent>, WorkflowRejection> {
        if matches!(self, Self::Archived(_)) {
            return Ok(vec![]);
        }
        let content = self.editable()?;
        let mut events = Vec::new();
        if content.intake != Intake::Inactive {
            events.push(IntakeDeactivated {}.into());
        }
        if self.published_version().is_some() {
            events.push(WorkflowUnpublished {}.into());
        }
        events.push(WorkflowArchived {}.into());
        Ok(events)
    }

    /// Outside the archive it leads to nothing.
    fn unarchive(&self) -> Result<Vec<WorkflowEvent>, WorkflowRejection> {
        match self {
            Self::Absent | Self::Deleted(_) => Err(WorkflowRejection::NotFound),
            Self::Draft(_) | Self::Published { .. } => Ok(vec![]),
            Self::Archived(_) => Ok(vec![WorkflowUnarchived {}.into()]),
        }
    }

    /// The intake it already has leads to nothing.
    fn set_intake(&self, intake: Intake) -> Result<Vec<WorkflowEvent>, WorkflowRejection> {
        // An archived workflow takes in nothing already, so turning it off is true there and no edit.
        let content = match self {
            Self::Archived(content) if intake == Intake::Inactive => content,
            Self::Absent
            | Self::Draft(_)
            | Self::Published { .. }
            | Self::Archived(_)
            | Self::Deleted(_) => self.editable()?,
        };
        if content.intake == intake {
            return Ok(vec![]);
        }
        Ok(vec![match intake {
            Intake::Active => IntakeActivated {}.into(),
            Intake::Paused => IntakePaused {}.into(),
            Intake::Inactive => IntakeDeactivated {}.into(),
        }])
    }

    /// Deleted already, it leads to nothing.
    fn delete(&self) -> Result<Vec<WorkflowEvent>, WorkflowRejection> {
        match self {
            Self::Absent => Err(WorkflowRejection::NotFound),
            Self::Deleted(_) => Ok(vec![]),
            Self::Draft(_) | Self::Published { .. } | Self::Archived(_) => {
                Ok(vec![WorkflowDeleted {}.into()])
            }
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

impl NewDraft {
    /// The draft as it is stored.
    fn checked(&self) -> Result<Draft, WorkflowRejection> {
        if self.name.trim().is_empty() || self.name.chars().count() > limits::MAX_NAME_CHARS {
            return Err(WorkflowRejection::NameInvalid);
        }
        if self.description.chars().count() > limits::MAX_DESCRIPTION_CHARS {
            return Err(WorkflowRejection::DescriptionTooLong);
        }
        let tag_fits =
            |tag: &String| !tag.trim().is_empty() && tag.chars().count() <= limits::MAX_TAG_CHARS;
        if self.tags.len() > limits::MAX_TAGS || !self.tags.iter().all(tag_fits) {
            return Err(WorkflowRejection::TagsInvalid);
        }
        if self.definition.text().as_str().len() > limits::MAX_DEFINITION_BYTES {
            return Err(WorkflowRejection::DefinitionTooLarge);
        }
        Ok(Draft {
            name: self.name.clone(),
            description: self.description.clone(),
            definition: self.definition.text().clone(),
            tags: self.tags.clone(),
            is_public: self.is_public,
        })
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

    const SNAPSHOT: &'static str = "workflow/1";

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
