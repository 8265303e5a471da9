//! One node of a workflow, run by itself to see what it does.

use std::collections::BTreeMap;

use axum::extract::State;
use ledgerline_commands::{
    CommandError, Scope,
    start::{self, RunNode},
};
use ledgerline_domain::{
    execution::Execution,
    id::{ExecutionId, WorkflowId},
    json::Json,
    permission::Permission,
    workflow::{Workflow, WorkflowVersion},
};
use ledgerline_projections::workflows as rows;
use serde::Deserialize;
use utoipa::ToSchema;

use super::workspace_of;
use crate::{
    access,
    app::AppState,
    extract::{JsonBody, Path},
    problem::Problem,
    routes::executions::{demand_seen, making, started, view::ExecutionView},
    writing::{Reply, Writing, hash_of},
};

/// What a node is run with. What leads to it is taken from here, else from what the definition pins (`pinned_output`), else from a run.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RunNodeRequest {
    /// What the node sees as `input`; that of `from` where it is left out.
    #[schema(value_type = Option<Object>)]
    pub input: Option<Json>,
    /// Outputs of other nodes, by id.
    #[schema(value_type = Object)]
    pub outputs: BTreeMap<String, Json>,
    /// The execution whose outputs and variables it sees; the newest one of the workflow where it is left out.
    #[schema(value_type = Option<Uuid>)]
    pub from: Option<ExecutionId>,
    /// The version of the definition; the latest where it is left out.
    #[schema(minimum = 1)]
    pub version: Option<i32>,
}

/// Run one node of the latest draft, as an execution of its own: with given input, pinned data, or what an earlier run had. Nothing
/// that follows the node runs.
#[utoipa::path(post, path = "/workflows/{id}/nodes/{node}/run", tag = "workflows",
    params(("id" = Uuid, Path), ("node" = String, Path)), request_body = Option<RunNodeRequest>,
    responses((status = 202, body = ExecutionView)))]
pub async fn run_node(
    State(state): State<AppState>,
    writing: Writing,
    Path((id, node)): Path<(WorkflowId, String)>,
    body: Option<JsonBody<RunNodeRequest>>,
) -> Reply {
    let (request, hash) = body
        .map_or_else(|| (RunNodeRequest::default(), hash_of(&[])), |body| (body.value, body.hash));
    let workspace = workspace_of(&state, id).await?;
    access::demand(&state, &writing.caller, workspace, Permission::StartExecution, "workflow")
        .await?;
    let RunNodeRequest { input, outputs, from, version } = request;
    let from = match from {
        Some(from) => Some(from),
        None => newest(&state, id).await?,
    };
    let execution_id = ExecutionId(state.commands.clock().new_id());
    let (context, seen) = making(writing.context(workspace, hash), execution_id);
    let version = version.map(WorkflowVersion);
    let wanted = &RunNode { execution_id, workflow_id: id, node, version, from, outputs, input };
    let (writer, seen) = (&writing, &seen);
    let plan = |scope: Scope| async move {
        writer.authorise(&scope, workspace, Permission::StartExecution, "workflow").await?;
        demand_seen::<Workflow>(&scope, id.0, seen.as_ref()).await?;
        start::run_node(&scope, wanted).await.map_err(CommandError::widen)
    };
    let executed = writing.execute::<Execution, _, _>(&context, plan).await?;
    Ok(started(&state, &writing, executed).await?)
}

/// The execution of a workflow that was requested last.
async fn newest(state: &AppState, id: WorkflowId) -> Result<Option<ExecutionId>, Problem> {
    #[derive(Deserialize)]
    struct Named {
        id: ExecutionId,
    }
    let row = rows::get(&state.pool, id.0).await?;
    let last = row.and_then(|row| row.last_execution);
    Ok(last.and_then(|last| serde_json::from_str::<Named>(last.0.get()).ok()).map(|last| last.id))
}
