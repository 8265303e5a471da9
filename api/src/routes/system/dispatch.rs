//! All dispatch of the deployment: paused and resumed by its operators.

use std::collections::BTreeMap;

use axum::{extract::State, http::StatusCode, response::IntoResponse as _};
use ledgerline_commands::{Scope, Target};
use ledgerline_domain::{
    deployment::{Deployment, DeploymentCommand},
    id::WorkspaceId,
};
use ledgerline_store::Position;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    app::AppState,
    extract::JsonBody,
    routes::{
        executions::{control::NoFields, why::HoldView},
        workspaces::PauseDispatchRequest,
    },
    writing::{Reply, Writing},
};

/// At most so many paused workspaces are named.
const MAX_NAMED: usize = 200;

/// Where dispatch is paused.
#[derive(Debug, Serialize, ToSchema)]
pub struct DispatchView {
    /// The pause of the whole deployment; nothing while it is not paused.
    pub paused: Option<HoldView>,
    /// How many workspaces are paused by themselves.
    pub paused_workspace_count: usize,
    /// Which, at most two hundred.
    #[schema(value_type = BTreeMap<Uuid, HoldView>)]
    pub paused_workspaces: BTreeMap<WorkspaceId, HoldView>,
    /// How many executions are open.
    pub open_executions: usize,
    /// How many of them workers have.
    pub running_executions: usize,
}

/// Where dispatch is paused, reflecting a position as far as this process has seen it.
pub(crate) async fn view(state: &AppState, position: Position) -> DispatchView {
    state.lines.reach(position).await;
    let look = state.lines.look(|fold| DispatchView {
        paused: fold.deployment_hold().map(Into::into),
        paused_workspace_count: fold.workspace_holds().count(),
        paused_workspaces: fold
            .workspace_holds()
            .take(MAX_NAMED)
            .map(|(workspace, hold)| (workspace, hold.into()))
            .collect(),
        open_executions: fold.len(),
        running_executions: fold.running_len(),
    });
    look.unwrap_or_else(|| DispatchView {
        paused: None,
        paused_workspace_count: 0,
        paused_workspaces: BTreeMap::new(),
        open_executions: 0,
        running_executions: 0,
    })
}

/// Pause all dispatch of the deployment: nothing is handed to a worker until it is resumed. What workers have goes on. For operators.
#[utoipa::path(post, path = "/system/dispatch/pause", tag = "operations", request_body = Option<PauseDispatchRequest>,
    responses((status = 200, body = DispatchView)))]
pub async fn pause(
    State(state): State<AppState>,
    writing: Writing,
    body: Option<JsonBody<PauseDispatchRequest>>,
) -> Reply {
    let hash = body.as_ref().map_or([0; 32], |body| body.hash);
    let reason = body.and_then(|body| body.value.reason);
    tell(&state, &writing, DeploymentCommand::PauseDispatch { reason }, hash).await
}

/// Resume the dispatch of the deployment. For operators.
#[utoipa::path(post, path = "/system/dispatch/resume", tag = "operations", request_body = Option<NoFields>,
    responses((status = 200, body = DispatchView)))]
pub async fn resume(
    State(state): State<AppState>,
    writing: Writing,
    body: Option<JsonBody<NoFields>>,
) -> Reply {
    let hash = body.map_or([0; 32], |body| body.hash);
    tell(&state, &writing, DeploymentCommand::ResumeDispatch, hash).await
}

async fn tell(
    state: &AppState,
    writing: &Writing,
    command: DeploymentCommand,
    hash: [u8; 32],
) -> Reply {
    writing.caller.demand_operator()?;
    let context = writing.context(WorkspaceId(Uuid::nil()), hash);
    let command = &command;
    let plan =
        |_: Scope| async move { Ok((Target::new(Deployment::id(), Uuid::nil()), command.clone())) };
    let told = writing.execute::<Deployment, _, _>(&context, plan).await?;
    let body = view(state, told.position).await;
    Ok(writing.answer(StatusCode::OK, body, told.position).versioned(told.version).into_response())
}
