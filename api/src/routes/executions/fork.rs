//! Forks: a new execution that takes the past of another one up to some moment, and goes on from there.

use std::collections::BTreeMap;

use axum::extract::State;
use ledgerline_commands::{
    AsOf, CommandError, Scope,
    start::{self, Fork},
};
use ledgerline_domain::{
    execution::Execution, id::ExecutionId, json::Json, limits::MAX_NODE_ID_CHARS,
    workflow::WorkflowVersion,
};
use ledgerline_store::{Position, StreamId};
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{control::control, demand_seen, making, started, view::ExecutionView, workspace_of};
use crate::{
    app::AppState,
    extract::{JsonBody, Path, PositionToken},
    personal::{self, Given},
    problem::Problem,
    writing::{Reply, Writing},
};

/// Variables that one fork sets.
const MAX_VARIABLES: usize = 100;

/// The largest value of all variables that a fork sets: they stand in one event.
const MAX_VARIABLE_BYTES: usize = 256 * 1024;

/// From where a new execution goes on, and what is different from there.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ForkExecution {
    /// The position of the log up to which the past is taken; this or `event_id`.
    #[serde(default)]
    pub at_position: Option<i64>,
    /// The event of the execution up to which the past is taken, itself included; this or `at_position`.
    #[serde(default)]
    pub event_id: Option<Uuid>,
    /// Another input for what is still to run; left out for the same.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub input: Option<Json>,
    /// Variables that have other values from there on, or are new.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub variables: BTreeMap<String, Json>,
    /// Another version of the workflow; left out for the same.
    #[serde(default)]
    #[schema(value_type = Option<i32>)]
    pub version: Option<WorkflowVersion>,
}

/// Go on from any event of an execution, as a new execution. What had come to its end by then is taken over, also the items of a loop
/// that was at work; what had only begun begins again. On another version every node that is taken over must be the same there.
#[utoipa::path(post, path = "/executions/{id}/fork", tag = "executions", params(("id" = Uuid, Path)),
    request_body = ForkExecution, responses((status = 202, body = ExecutionView)))]
pub async fn fork(
    State(state): State<AppState>,
    writing: Writing,
    Path(of): Path<ExecutionId>,
    JsonBody { value: body, hash }: JsonBody<ForkExecution>,
) -> Reply {
    let workspace = workspace_of::<Execution>(&state, of.0, "execution").await?;
    // What it says of an execution that the caller may not see would tell of it.
    let permission = ledgerline_domain::permission::Permission::ControlExecution;
    crate::access::demand(&state, &writing.caller, workspace, permission, "execution").await?;
    demand_sound(&body.variables)?;
    let at = moment(&state, of, &body).await?;
    let execution_id = ExecutionId(state.commands.clock().new_id());
    let (context, seen) = making(writing.context(workspace, hash), execution_id);
    let ForkExecution { input, variables, version, .. } = body;
    let input = match input {
        Some(input) => {
            let given =
                Given { workspace, needed: permission, noun: "execution", pointer: "/input" };
            Some(personal::seal(&state, &writing.caller, given, input).await?)
        }
        None => None,
    };
    let wanted = &Fork { execution_id, of, at, input, variables, version };
    let (writer, seen) = (&writing, &seen);
    let plan = |scope: Scope| async move {
        control(&scope, writer, workspace).await?;
        demand_seen::<Execution>(&scope, of.0, seen.as_ref()).await?;
        start::fork(&scope, wanted).await.map_err(CommandError::widen)
    };
    let executed = writing.execute::<Execution, _, _>(&context, plan).await?;
    Ok(started(&state, &writing, executed).await?)
}

/// The moment that is named, of an execution that existed then.
async fn moment(state: &AppState, of: ExecutionId, body: &ForkExecution) -> Result<AsOf, Problem> {
    let at = match (body.at_position, body.event_id) {
        (Some(position), None) => {
            let token = PositionToken { log: None, position: Position(position) };
            AsOf::Position(state.ledger.resolve(token).await?)
        }
        (None, Some(event_id)) => {
            let event = state.commands.log().event(event_id).await?;
            let event = event.filter(|event| event.stream == StreamId(of.0));
            let absent =
                || Problem::invalid("/event_id", "unknown", "is not an event of this execution");
            AsOf::Version(event.ok_or_else(absent)?.version)
        }
        (Some(_), Some(_)) => {
            let detail = "cannot be given with at_position";
            return Err(Problem::invalid("/event_id", "conflict", detail));
        }
        (None, None) => {
            let detail = "is required, or event_id in its place";
            return Err(Problem::invalid("/at_position", "missing_field", detail));
        }
    };
    let then = state.commands.load_at::<Execution>(of, at).await?;
    if !then.exists() {
        let detail = "is before the execution was requested";
        return Err(Problem::invalid("/at_position", "out_of_range", detail));
    }
    Ok(at)
}

fn demand_sound(variables: &BTreeMap<String, Json>) -> Result<(), Problem> {
    let bytes: usize = variables.values().map(|value| value.as_str().len()).sum();
    if variables.len() > MAX_VARIABLES || bytes > MAX_VARIABLE_BYTES {
        let detail = format!("are at most {MAX_VARIABLES}, of {MAX_VARIABLE_BYTES} bytes together");
        return Err(Problem::invalid("/variables", "too_large", detail));
    }
    let sound = |name: &str| {
        let mut characters = name.chars();
        name.len() <= MAX_NODE_ID_CHARS
            && characters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
            && characters.all(|other| other.is_ascii_alphanumeric() || other == '_')
    };
    match variables.keys().find(|name| !sound(name)) {
        Some(name) => {
            let detail = "must be a letter or _, then letters, digits or _, at most 64 of them";
            let pointer = format!("/variables/{}", name.replace('~', "~0").replace('/', "~1"));
            Err(Problem::invalid(pointer, "invalid", detail))
        }
        None => Ok(()),
    }
}
