//! What happens to a workflow: the facts that its state is folded from.

use serde::{Deserialize, Serialize};

use crate::{
    event::events,
    id::{WorkflowId, WorkspaceId},
    json::Json,
};

events! {
    /// What happened to a workflow.
    WorkflowEvent in "workflow" {
        "workflow_created" 1 => WorkflowCreated,
        "draft_saved" 1 => DraftSaved,
        "version_named" 1 => VersionNamed,
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

/// A definition that is kept beside the log, by what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefinitionBlob {
    /// SHA-256 of its text, in lower-case hex.
    pub hash: String,
    /// Size of its text.
    pub size_bytes: u64,
}

/// What a person wrote: name, graph, settings. A version is one event; only its definition may be a blob beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Draft {
    /// 1 to 255 characters.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// `{nodes, connections, settings}`: see `graph::Definition`. `null` where it is a blob.
    pub definition: Json,
    /// The blob that holds the definition, where it is too large for an event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<DefinitionBlob>,
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

/// A version is called something from now on, or nothing any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionNamed {
    /// Which.
    pub version: WorkflowVersion,
    /// Its label, which no other version of the workflow has; none where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// What is said about it; none where nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
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
