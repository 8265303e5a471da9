//! What an execution is told: to stop, to hold, to go on, to be tried again.

use axum::{extract::State, http::StatusCode, response::IntoResponse as _};
use ledgerline_commands::{
    CommandError, Scope, Target, resolve,
    start::{self, Rerun, Retry},
};
use ledgerline_domain::{
    execution::{CancelReason, Execution, ExecutionCommand, NodePath, PauseReason, Resolution},
    id::{ExecutionId, WorkspaceId},
    json::Json,
    permission::Permission,
    workflow::WorkflowVersion,
};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{answer, demand_seen, making, started, view::ExecutionView, workspace_of};
use crate::{
    app::AppState,
    extract::{JsonBody, Path},
    personal::{self, Given},
    problem::Problem,
    refusal::Refusal,
    writing::{Reply, Writing},
};

/// The hash of a request without a body.
const NO_BODY: [u8; 32] = [0; 32];

/// The largest replacement of a node's configuration: it stands in the new run's first event, beside the input.
const MAX_NODE_INPUT_BYTES: usize = 64 * 1024;

/// What is run again, and how.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RerunExecution {
    /// The node of the top level to begin with; left out for all of them. It and everything downstream of it run again; what lies
    /// before or beside it is taken over.
    #[serde(default)]
    pub from_node: Option<String>,
    /// Fields of the configuration of `from_node` that have other values in this run. Templates and expressions in them are
    /// evaluated as in a definition.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub node_input: Option<Json>,
    /// Another input; left out for the same.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub input: Option<Json>,
    /// Another version of the workflow; left out for the same.
    #[serde(default)]
    #[schema(value_type = Option<i32>)]
    pub version: Option<WorkflowVersion>,
}

/// What becomes of a node that failed for the last time.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResolveNode {
    /// What becomes of it.
    pub action: ResolveAction,
    /// With `complete`: what the node gave; `null` where it is left out.
    #[serde(default)]
    #[schema(value_type = Option<serde_json::Value>)]
    pub output: Option<Json>,
    /// With `complete`: the port it is left by, where its kind has ports.
    #[serde(default)]
    #[schema(max_length = 64)]
    pub port: Option<String>,
}

/// What becomes of a node that failed for the last time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResolveAction {
    /// It is tried again.
    Retry,
    /// It is done, with the given output.
    Complete,
    /// It failed for good.
    Fail,
}

impl ResolveNode {
    fn resolution(self) -> Result<Resolution, Problem> {
        let Self { action, output, port } = self;
        let given = match (&output, &port) {
            _ if action == ResolveAction::Complete => None,
            (Some(_), _) => Some("/output"),
            (None, Some(_)) => Some("/port"),
            (None, None) => None,
        };
        if let Some(pointer) = given {
            let detail = "is only for the action `complete`";
            return Err(Problem::invalid(pointer, "invalid_value", detail));
        }
        Ok(match action {
            ResolveAction::Retry => Resolution::Retry,
            ResolveAction::Fail => Resolution::Fail,
            ResolveAction::Complete => {
                let output = output.unwrap_or_else(Json::null);
                Resolution::Complete { output, port }
            }
        })
    }
}

/// A command that says everything by its path.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NoFields {}

/// How an execution is stopped.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CancelExecution {
    /// Whether what it did is undone first, by the nodes that its definition names for that. With `false` all of that stays, and what is
    /// being undone is left as it is.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub undo: bool,
}

const fn yes() -> bool {
    true
}

/// Stop an execution: no further step starts, a running one is aborted, and what was done is undone where its definition says how.
#[utoipa::path(post, path = "/executions/{id}/cancel", tag = "executions", params(("id" = Uuid, Path)),
    request_body = Option<CancelExecution>, responses((status = 202, body = ExecutionView)))]
pub async fn cancel(
    State(state): State<AppState>,
    writing: Writing,
    Path(id): Path<ExecutionId>,
    body: Option<JsonBody<CancelExecution>>,
) -> Reply {
    let reason = CancelReason::StoppedByUser;
    let command = match body.as_ref().is_none_or(|body| body.value.undo) {
        true => ExecutionCommand::Cancel { reason },
        false => ExecutionCommand::CancelWithoutUndo { reason },
    };
    tell(&state, &writing, id, command, hash_of(&body), StatusCode::ACCEPTED).await
}

/// Hold an execution: the running steps finish and no other starts.
#[utoipa::path(post, path = "/executions/{id}/pause", tag = "executions", params(("id" = Uuid, Path)),
    request_body = Option<NoFields>, responses((status = 200, body = ExecutionView)))]
pub async fn pause(
    State(state): State<AppState>,
    writing: Writing,
    Path(id): Path<ExecutionId>,
    body: Option<JsonBody<NoFields>>,
) -> Reply {
    let command = ExecutionCommand::Pause { reason: PauseReason::User };
    tell(&state, &writing, id, command, hash_of(&body), StatusCode::OK).await
}

/// Let an execution go on, whatever paused it.
#[utoipa::path(post, path = "/executions/{id}/resume", tag = "executions", params(("id" = Uuid, Path)),
    request_body = Option<NoFields>, responses((status = 200, body = ExecutionView)))]
pub async fn resume(
    State(state): State<AppState>,
    writing: Writing,
    Path(id): Path<ExecutionId>,
    body: Option<JsonBody<NoFields>>,
) -> Reply {
    let command = ExecutionCommand::Unpause { reason: PauseReason::User };
    tell(&state, &writing, id, command, hash_of(&body), StatusCode::OK).await
}

/// Go on where an execution failed or was stopped, as a new execution: what had completed is carried over.
#[utoipa::path(post, path = "/executions/{id}/retry", tag = "executions", params(("id" = Uuid, Path)),
    request_body = Option<NoFields>, responses((status = 202, body = ExecutionView)))]
pub async fn retry(
    State(state): State<AppState>,
    writing: Writing,
    Path(of): Path<ExecutionId>,
    body: Option<JsonBody<NoFields>>,
) -> Reply {
    let workspace = workspace_of::<Execution>(&state, of.0, "execution").await?;
    let wanted = Retry { execution_id: ExecutionId(state.commands.clock().new_id()), of };
    let context = writing.context(workspace, hash_of(&body));
    let (context, seen) = making(context, wanted.execution_id);
    let (writer, wanted, seen) = (&writing, &wanted, &seen);
    let plan = |scope: Scope| async move {
        control(&scope, writer, workspace).await?;
        demand_seen::<Execution>(&scope, of.0, seen.as_ref()).await?;
        start::retry(&scope, wanted).await.map_err(CommandError::widen)
    };
    let executed = writing.execute::<Execution, _, _>(&context, plan).await?;
    Ok(started(&state, &writing, executed).await?)
}

/// Run everything again as a new execution, or from one node on, with the same input on the same version or with others. A node
/// before that one which had not come to its end, or is not the same in both versions, is named in a refusal.
#[utoipa::path(post, path = "/executions/{id}/rerun", tag = "executions", params(("id" = Uuid, Path)),
    request_body = Option<RerunExecution>, responses((status = 202, body = ExecutionView)))]
pub async fn rerun(
    State(state): State<AppState>,
    writing: Writing,
    Path(of): Path<ExecutionId>,
    body: Option<JsonBody<RerunExecution>>,
) -> Reply {
    let hash = hash_of(&body);
    let wanted = body.map(|body| body.value).unwrap_or_default();
    demand_object(&wanted)?;
    let RerunExecution { from_node, node_input, input, version } = wanted;
    let workspace = workspace_of::<Execution>(&state, of.0, "execution").await?;
    let input = match input {
        Some(input) => {
            let needed = Permission::ControlExecution;
            let given = Given { workspace, needed, noun: "execution", pointer: "/input" };
            Some(personal::seal(&state, &writing.caller, given, input).await?)
        }
        None => None,
    };
    let execution_id = ExecutionId(state.commands.clock().new_id());
    let (context, seen) = making(writing.context(workspace, hash), execution_id);
    let (writer, wanted, seen) =
        (&writing, &Rerun { execution_id, of, from_node, input, version, node_input }, &seen);
    let plan = |scope: Scope| async move {
        control(&scope, writer, workspace).await?;
        demand_seen::<Execution>(&scope, of.0, seen.as_ref()).await?;
        start::rerun(&scope, wanted).await.map_err(CommandError::widen)
    };
    let executed = writing.execute::<Execution, _, _>(&context, plan).await?;
    Ok(started(&state, &writing, executed).await?)
}

fn demand_object(wanted: &RerunExecution) -> Result<(), Problem> {
    let Some(fields) = &wanted.node_input else { return Ok(()) };
    if wanted.from_node.is_none() {
        let detail = "needs from_node, whose configuration it is";
        return Err(Problem::invalid("/node_input", "conflict", detail));
    }
    if fields.as_str().len() > MAX_NODE_INPUT_BYTES {
        return Err(Problem::invalid("/node_input", "too_large", "must have at most 64 KiB"));
    }
    if !fields.to_value().is_object() {
        return Err(Problem::invalid("/node_input", "wrong_type", "must be an object of fields"));
    }
    Ok(())
}

/// Decide what becomes of a node that failed for the last time and paused its execution: try it again, complete it, or let it fail.
/// The execution goes on when nothing is left to decide.
#[utoipa::path(post, path = "/executions/{id}/nodes/{node}/resolve", tag = "executions",
    params(("id" = Uuid, Path), ("node" = String, Path, description = "The path of the node, encoded: `charge`, `each%5B3%5D%2Fcharge`")),
    request_body = ResolveNode, responses((status = 200, body = ExecutionView)))]
pub async fn resolve_node(
    State(state): State<AppState>,
    writing: Writing,
    Path((id, node)): Path<(ExecutionId, String)>,
    JsonBody { value, hash }: JsonBody<ResolveNode>,
) -> Reply {
    let workspace = workspace_of::<Execution>(&state, id.0, "execution").await?;
    let context = writing.context(workspace, hash);
    let (writer, path, resolution) =
        (&writing, &NodePath::from(node.as_str()), &value.resolution()?);
    let plan = |scope: Scope| async move {
        control(&scope, writer, workspace).await?;
        resolve::resolve(&scope, id, path, resolution).await.map_err(CommandError::widen)
    };
    let executed = writing.execute::<Execution, _, _>(&context, plan).await?;
    Ok(answer(&state, &writing, executed, StatusCode::OK).await?.into_response())
}

/// Tells an execution something and shows it as it is then.
async fn tell(
    state: &AppState,
    writing: &Writing,
    id: ExecutionId,
    command: ExecutionCommand,
    body: [u8; 32],
    status: StatusCode,
) -> Reply {
    let workspace = workspace_of::<Execution>(state, id.0, "execution").await?;
    let context = writing.context(workspace, body);
    let command = &command;
    let plan = |scope: Scope| async move {
        control(&scope, writing, workspace).await?;
        Ok((Target::existing(id), command.clone()))
    };
    let executed = writing.execute::<Execution, _, _>(&context, plan).await?;
    Ok(answer(state, writing, executed, status).await?.into_response())
}

pub(super) async fn control(
    scope: &Scope,
    writing: &Writing,
    workspace: WorkspaceId,
) -> Result<(), CommandError<Refusal>> {
    let permission = Permission::ControlExecution;
    writing.authorise(scope, workspace, permission, "execution").await.map(|_| ())
}

fn hash_of<T>(body: &Option<JsonBody<T>>) -> [u8; 32] {
    body.as_ref().map_or(NO_BODY, |body| body.hash)
}
