//! Starting a workflow by hand: a new execution, and an intake that is active from then on, in one append.

use axum::{extract::State, http::StatusCode, response::IntoResponse};
use ledgerline_commands::{
    AsOf, CommandError, Loaded, Scope, Transacted,
    start::{Start, start_and_activate},
};
use ledgerline_domain::{
    execution::{Execution, Queue, TriggerType},
    id::{ExecutionId, WorkflowId},
    json::Json,
    permission::Permission,
    workflow::Workflow,
};
use ledgerline_store::Position;
use serde::Deserialize;
use utoipa::ToSchema;

use super::workspace_of;
use crate::{
    app::AppState,
    extract::{JsonBody, Path},
    personal::{self, Given},
    problem::Problem,
    routes::executions::view::{ExecutionView, view},
    writing::{Reply, Writing, hash_of},
};

/// What a run is started with.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StartRequest {
    /// What expressions and templates see as `input`.
    #[schema(value_type = Object)]
    pub input: Json,
    /// The line that it waits in, where it is not the definition's: `high`, `default` or `low`.
    #[schema(value_type = Option<String>)]
    pub priority: Option<Queue>,
}

impl Default for StartRequest {
    fn default() -> Self {
        Self { input: Json::from_value(&serde_json::json!({})), priority: None }
    }
}

/// Start a workflow now: its published version, else its latest draft. Its intake is active from then on.
#[utoipa::path(post, path = "/workflows/{id}/start", tag = "workflows", params(("id" = Uuid, Path)),
    request_body = Option<StartRequest>, responses((status = 202, body = ExecutionView)))]
pub async fn start(
    State(state): State<AppState>,
    writing: Writing,
    Path(id): Path<WorkflowId>,
    body: Option<JsonBody<StartRequest>>,
) -> Reply {
    let (request, hash) = body
        .map_or_else(|| (StartRequest::default(), hash_of(&[])), |body| (body.value, body.hash));
    let workspace = workspace_of(&state, id).await?;
    let mut context = writing.context(workspace, hash);
    // It names a version of the workflow, which is read here; what is written first is the execution.
    let seen = context.if_match.take();
    let execution_id = ExecutionId(state.commands.clock().new_id());
    context.made_ids.push(execution_id.0);
    let StartRequest { input, priority } = request;
    let given = Given {
        workspace,
        needed: Permission::StartExecution,
        noun: "workflow",
        pointer: "/input",
    };
    let input = personal::seal(&state, &writing.caller, given, input).await?;
    let trigger_type = TriggerType::Manual;
    let wanted = &Start { execution_id, workflow_id: id, trigger_type, input, depth: 0 };
    let (writer, seen) = (&writing, &seen);
    let plan = |scope: Scope| async move {
        writer.authorise(&scope, workspace, Permission::StartExecution, "workflow").await?;
        let current = scope.read::<Workflow>(id).await?.version;
        if seen.as_ref().is_some_and(|seen| !seen.is(current)) {
            return Err(CommandError::VersionMismatch { current });
        }
        start_and_activate(&scope, wanted, priority).await.map_err(CommandError::widen)
    };
    let (execution_id, loaded, position) = match writing.transact(&context, plan).await? {
        Transacted::Applied { value, receipt } => {
            let events = i64::try_from(value.events.len()).unwrap_or(i64::MAX);
            let last = Position(receipt.first_position.0 + events - 1);
            let loaded =
                Loaded { state: value.state, version: value.version, position: last, origin: None };
            (execution_id, loaded, receipt.position)
        }
        Transacted::Unchanged { value } => {
            let position = value.position;
            let loaded =
                Loaded { state: value.state, version: value.version, position, origin: None };
            (execution_id, loaded, position)
        }
        Transacted::Repeated { receipt } => {
            let (stream, version) =
                receipt.versions.first().copied().ok_or_else(Problem::broken)?;
            let then = state.commands.load_at::<Execution>(stream.0, AsOf::Version(version));
            (ExecutionId(stream.0), then.await?, receipt.position)
        }
    };
    let version = loaded.version;
    let view = view(&state, execution_id, &loaded).await?;
    let answer = writing.answer(StatusCode::ACCEPTED, view, position).versioned(version);
    Ok(answer.at(format!("/api/v1/executions/{execution_id}")).into_response())
}
