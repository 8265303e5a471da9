//! Where a workflow stands and whether it takes in work: each intent is a route of its own.

use axum::extract::State;
use ledgerline_domain::{
    id::WorkflowId,
    workflow::{self, PublishWorkflow, WorkflowCommand, WorkflowVersion},
};
use ledgerline_projections::values::WorkflowStatus;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{WorkflowView, apply, workspace_of};
use crate::{
    app::AppState,
    extract::{JsonBody, Path},
    writing::{Reply, Writing, hash_of},
};

/// A status to bring a workflow to.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StatusRequest {
    /// `draft` unpublishes it or takes it out of the archive, `published` publishes the latest version, `archived` puts it away.
    pub status: WorkflowStatus,
}

/// A version to publish.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PublishRequest {
    /// Which; the latest where it is left out.
    #[schema(minimum = 1)]
    pub version: Option<i32>,
    /// A short name for it, which no other version has; an empty one takes the name away.
    #[schema(max_length = 64)]
    pub label: Option<String>,
    /// What is to be said about it; an empty one takes the note away.
    #[schema(max_length = 2_000)]
    pub note: Option<String>,
}

/// Bring a workflow to a status.
#[utoipa::path(patch, path = "/workflows/{id}/status", tag = "workflows", params(("id" = Uuid, Path)),
    request_body = StatusRequest, responses((status = 200, body = WorkflowView)))]
pub async fn change_status(
    State(state): State<AppState>,
    writing: Writing,
    Path(id): Path<WorkflowId>,
    JsonBody { value: request, hash }: JsonBody<StatusRequest>,
) -> Reply {
    let workspace = workspace_of(&state, id).await?;
    let wanted = match request.status {
        WorkflowStatus::Draft => workflow::WorkflowStatus::Draft,
        WorkflowStatus::Published => workflow::WorkflowStatus::Published,
        WorkflowStatus::Archived => workflow::WorkflowStatus::Archived,
    };
    let context = writing.context(workspace, hash);
    apply(&state, &writing, context, id, workspace, |now| now.command_for(wanted)).await
}

/// Publish a version: triggers and starts run it from now on.
#[utoipa::path(post, path = "/workflows/{id}/publish", tag = "workflows", params(("id" = Uuid, Path)),
    request_body = Option<PublishRequest>, responses((status = 200, body = WorkflowView)))]
pub async fn publish(
    State(state): State<AppState>,
    writing: Writing,
    Path(id): Path<WorkflowId>,
    body: Option<JsonBody<PublishRequest>>,
) -> Reply {
    let (request, hash) = body
        .map_or_else(|| (PublishRequest::default(), hash_of(&[])), |body| (body.value, body.hash));
    let workspace = workspace_of(&state, id).await?;
    let PublishRequest { version, label, note } = request;
    let publish =
        PublishWorkflow { version: version.map(WorkflowVersion), label, note, definition: None };
    let context = writing.context(workspace, hash);
    let publish = |_: &_| WorkflowCommand::Publish(publish.clone());
    apply(&state, &writing, context, id, workspace, publish).await
}

/// Stop a workflow: triggers are off, and its open executions are cancelled.
#[utoipa::path(post, path = "/workflows/{id}/stop", tag = "workflows", params(("id" = Uuid, Path)),
    responses((status = 200, body = WorkflowView)))]
pub async fn stop(
    State(state): State<AppState>,
    writing: Writing,
    Path(id): Path<WorkflowId>,
) -> Reply {
    set_intake(&state, &writing, id, WorkflowCommand::Stop).await
}

/// Pause a workflow: triggers hold, nothing starts, and its open executions pause.
#[utoipa::path(post, path = "/workflows/{id}/pause", tag = "workflows", params(("id" = Uuid, Path)),
    responses((status = 200, body = WorkflowView)))]
pub async fn pause(
    State(state): State<AppState>,
    writing: Writing,
    Path(id): Path<WorkflowId>,
) -> Reply {
    set_intake(&state, &writing, id, WorkflowCommand::PauseIntake).await
}

/// Resume a workflow: it takes in work, and what its pause had paused goes on.
#[utoipa::path(post, path = "/workflows/{id}/resume", tag = "workflows", params(("id" = Uuid, Path)),
    responses((status = 200, body = WorkflowView)))]
pub async fn resume(
    State(state): State<AppState>,
    writing: Writing,
    Path(id): Path<WorkflowId>,
) -> Reply {
    set_intake(&state, &writing, id, WorkflowCommand::ActivateIntake).await
}

async fn set_intake(
    state: &AppState,
    writing: &Writing,
    id: WorkflowId,
    command: WorkflowCommand,
) -> Reply {
    let workspace = workspace_of(state, id).await?;
    let context = writing.context(workspace, hash_of(&[]));
    apply(state, writing, context, id, workspace, |_| command.clone()).await
}
