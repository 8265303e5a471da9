//! The output of an execution or of one of its nodes, whole, however large: answers that show one name larger outputs by their hash.

use axum::{
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use ledgerline_domain::{
    execution::{Execution, NodeOutput, NodeState},
    id::ExecutionId,
    json::Json,
    personal::may_be_sealed,
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::find_at;
use crate::{
    app::AppState,
    extract::{AsOf, Path, Query},
    personal,
    problem::Problem,
    reading::{AsOfParams, Reading},
};

/// Which output.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default, deny_unknown_fields)]
pub struct OutputQuery {
    /// The path of a node (`fetch`, `each[3]/fetch`); left out for the output of the whole run.
    pub node: Option<String>,
}

/// Read the whole output of an execution, or of one of its nodes, as the JSON value that it is, now or as it was.
#[utoipa::path(get, path = "/executions/{id}/output", tag = "executions", params(("id" = Uuid, Path), OutputQuery, AsOfParams),
    responses((status = 200, body = serde_json::Value)))]
pub async fn get(
    State(state): State<AppState>,
    reading: Reading,
    Path(id): Path<ExecutionId>,
    Query(query): Query<OutputQuery>,
    at: AsOf,
) -> Result<Response, Problem> {
    let (found, position) = find_at(&state, &reading, id, at).await?;
    let output = output_of(&found.state, query.node.as_deref());
    let content = match output.ok_or_else(|| Problem::not_found("output"))? {
        NodeOutput::Inline(value) => value.as_str().as_bytes().to_vec(),
        NodeOutput::Blob { hash, .. } => {
            state.commands.log().blob(hash).await?.ok_or_else(|| {
                tracing::error!(%hash, "an output is missing among the blobs");
                Problem::broken()
            })?
        }
    };
    let content = shown(&state, &found.state, content).await?;
    let answer = reading.answer((), position).versioned(found.version);
    let (mut parts, _) = answer.into_response().into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(Response::from_parts(parts, content.into()))
}

/// An output with what is sealed in it opened.
async fn shown(
    state: &AppState,
    execution: &Execution,
    content: Vec<u8>,
) -> Result<Vec<u8>, Problem> {
    let text = std::str::from_utf8(&content).ok().filter(|text| may_be_sealed(text));
    let value = text.and_then(|text| Json::parse(text).ok());
    let Some((value, run)) = value.zip(execution.run()) else { return Ok(content) };
    let shown = personal::show(state, run.request.workspace_id, value).await?;
    Ok(shown.as_str().as_bytes().to_vec())
}

fn output_of<'a>(execution: &'a Execution, node: Option<&str>) -> Option<&'a NodeOutput> {
    match (node, execution) {
        (None, Execution::Completed { output, .. }) => Some(output),
        (None, _) => None,
        (Some(path), _) => match &execution.run()?.nodes.get(path)?.state {
            NodeState::Completed(completed) => Some(&completed.output),
            NodeState::Running(_)
            | NodeState::Waiting { .. }
            | NodeState::Retrying { .. }
            | NodeState::Ready
            | NodeState::Failing(_)
            | NodeState::Looping(_)
            | NodeState::Skipped
            | NodeState::Failed(_) => None,
        },
    }
}
