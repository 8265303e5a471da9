//! What comes to an execution from outside: the answer to an approval, and signals.

use axum::{extract::State, http::StatusCode, response::IntoResponse as _};
use ledgerline_commands::{Scope, Target};
use ledgerline_domain::{
    execution::{AnswerApproval, Execution, ExecutionCommand, NodePath},
    id::ExecutionId,
    json::Json,
    permission::Permission,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{answer, view::ExecutionView, workspace_of};
use crate::{
    app::AppState,
    extract::{JsonBody, Path},
    personal::{self, Given},
    writing::{Reply, Writing},
};

/// An answer to an approval.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApprovalAnswer {
    /// The port of the button that is pressed: `approved` or `rejected` where the node names no buttons of its own.
    #[schema(example = "approved")]
    pub decision: String,
    /// The values of the form by the names of its fields.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub values: Map<String, Value>,
    /// In the words of who answers.
    #[serde(default)]
    #[schema(max_length = 10_000)]
    pub comment: Option<String>,
}

/// Answer an approval that an execution waits for. Once only: whoever comes second is refused with the rule `approval_not_open`.
///
/// `node` is the path of the node, percent-encoded where it stands in a loop: `each[3]/ask` is `each%5B3%5D%2Fask`.
#[utoipa::path(post, path = "/executions/{id}/approvals/{node}", tag = "executions",
    params(("id" = Uuid, Path), ("node" = String, Path)),
    request_body = ApprovalAnswer, responses((status = 200, body = ExecutionView)))]
pub async fn approve(
    State(state): State<AppState>,
    writing: Writing,
    Path((id, node)): Path<(ExecutionId, String)>,
    JsonBody { value, hash }: JsonBody<ApprovalAnswer>,
) -> Reply {
    let workspace = workspace_of::<Execution>(&state, id.0, "execution").await?;
    let context = writing.context(workspace, hash);
    let ApprovalAnswer { decision, values, comment } = value;
    let values = Json::from_value(&Value::Object(values));
    let (writer, node) = (&writing, &NodePath(node));
    let (decision, values, comment) = (&decision, &values, &comment);
    let plan = |scope: Scope| async move {
        let role = writer.authorise(&scope, workspace, Permission::Approve, "execution").await?;
        let answer = AnswerApproval {
            path: node.clone(),
            decision: decision.clone(),
            values: values.clone(),
            comment: comment.clone(),
            by: writer.caller.user_id,
            role,
        };
        Ok((Target::existing(id), ExecutionCommand::AnswerApproval(answer)))
    };
    let executed = writing.execute::<Execution, _, _>(&context, plan).await?;
    Ok(answer(&state, &writing, executed, StatusCode::OK).await?.into_response())
}

/// Send a signal to an execution: the first node that waits for its name goes on with what came with it (at most 64 KiB).
///
/// One that nobody waits for yet is kept for the next node that does, in order, at most 100 of them and 1 MiB.
#[utoipa::path(post, path = "/executions/{id}/signals/{name}", tag = "executions",
    params(("id" = Uuid, Path), ("name" = String, Path, max_length = 128)),
    request_body = Option<Value>, responses((status = 200, body = ExecutionView)))]
pub async fn signal(
    State(state): State<AppState>,
    writing: Writing,
    Path((id, name)): Path<(ExecutionId, String)>,
    body: Option<JsonBody<Json>>,
) -> Reply {
    let workspace = workspace_of::<Execution>(&state, id.0, "execution").await?;
    let (payload, hash) =
        body.map_or_else(|| (Json::null(), [0; 32]), |body| (body.value, body.hash));
    let needed = Permission::ControlExecution;
    let given = Given { workspace, needed, noun: "execution", pointer: "" };
    let payload = personal::seal(&state, &writing.caller, given, payload).await?;
    let context = writing.context(workspace, hash);
    let (writer, command) = (&writing, &ExecutionCommand::Signal { name, payload });
    let plan = |scope: Scope| async move {
        let permission = Permission::ControlExecution;
        writer.authorise(&scope, workspace, permission, "execution").await?;
        Ok((Target::existing(id), command.clone()))
    };
    let executed = writing.execute::<Execution, _, _>(&context, plan).await?;
    Ok(answer(&state, &writing, executed, StatusCode::OK).await?.into_response())
}
