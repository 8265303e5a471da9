//! What a workflow is told to do, and the rules that may refuse it.

use super::{Draft, WorkflowVersion};
use crate::{
    graph::Definition,
    id::{WorkflowId, WorkspaceId},
    json::Json,
    limits,
};

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
    /// Call a version something.
    NameVersion(NameVersion),
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
    /// The same, and what is open ends, whatever the intake was.
    Stop,
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

/// Calls a version something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameVersion {
    /// Which.
    pub version: WorkflowVersion,
    /// Its label; none keeps the one it has, an empty one takes it away.
    pub label: Option<String>,
    /// Its note; none keeps the one it has, an empty one takes it away.
    pub note: Option<String>,
}

/// Publishes a version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishWorkflow {
    /// Which; none for the latest.
    pub version: Option<WorkflowVersion>,
    /// Its label, as in [`NameVersion`].
    pub label: Option<String>,
    /// Its note, as in [`NameVersion`].
    pub note: Option<String>,
    /// The definition of the version where it had to be looked up.
    pub definition: Option<Json>,
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
    /// The definition is too large, or does not fit in an event and is kept nowhere else.
    #[error("the definition of a workflow has at most {} bytes", limits::MAX_DEFINITION_BYTES)]
    DefinitionTooLarge,
    /// Too many versions.
    #[error("a workflow has at most {} versions", limits::MAX_VERSIONS)]
    TooManyVersions,
    /// A label that is too long or nothing but white space.
    #[error("the label of a version has 1 to {} characters", limits::MAX_LABEL_CHARS)]
    LabelInvalid,
    /// A label names one version.
    #[error("another version of the workflow has this label")]
    LabelTaken,
    /// A note that is too long.
    #[error("the note of a version has at most {} characters", limits::MAX_NOTE_CHARS)]
    NoteTooLong,
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
    /// Its definition was not looked up: a fault of whoever gave the command, and none of its sender.
    #[error("the definition of this version is not at hand")]
    DefinitionElsewhere,
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
            Self::LabelInvalid => "label_invalid",
            Self::LabelTaken => "label_taken",
            Self::NoteTooLong => "note_too_long",
            Self::VersionNotFound => "version_not_found",
            Self::GraphEmpty => "graph_empty",
            Self::DefinitionInvalid => "definition_invalid",
            Self::DefinitionElsewhere => "definition_elsewhere",
            Self::NotPublished => "workflow_not_published",
            Self::Archived => "workflow_archived",
            Self::IntakePaused => "intake_paused",
            Self::IntakeInactive => "intake_inactive",
        }
    }
}

impl NewDraft {
    /// The draft as it is stored.
    pub(super) fn checked(&self) -> Result<Draft, WorkflowRejection> {
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
        let size = self.definition.text().as_str().len();
        let fits = size <= limits::MAX_INLINE_DEFINITION_BYTES;
        if size > limits::MAX_DEFINITION_BYTES || !fits && self.definition.blob().is_none() {
            return Err(WorkflowRejection::DefinitionTooLarge);
        }
        let blob = self.definition.blob().cloned().filter(|_| !fits);
        Ok(Draft {
            name: self.name.clone(),
            description: self.description.clone(),
            definition: match blob {
                Some(_) => Json::null(),
                None => self.definition.text().clone(),
            },
            blob,
            tags: self.tags.clone(),
            is_public: self.is_public,
        })
    }
}
