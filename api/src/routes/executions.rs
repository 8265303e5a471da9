//! Executions: started, looked at, stopped, held, and run again.
//!
//! Rules are the domain's; a handler names the command and who may give it. Reading order: here (start, list, one), [`control`] (the
//! commands on one), [`fork`], [`view`] (how one is shown), [`compensation`], [`output`], [`nodes`], [`logs`], [`history`], [`diff`], [`export`], [`why`], [`stuck`].

pub mod answers;
pub mod bulk;
pub mod compensation;
pub mod control;
pub mod diff;
pub mod export;
pub mod fork;
pub mod history;
pub mod logs;
pub mod nodes;
pub mod output;
pub mod scope;
pub mod stuck;
pub mod view;
pub mod waits;
pub mod why;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use chrono::{DateTime, Utc};
use ledgerline_commands::{
    CommandError, Context, Executed, Loaded, Scope, Seen,
    start::{self, Start},
};
use ledgerline_domain::{
    execution::{Execution, TriggerType},
    id::{ExecutionId, WorkflowId, WorkspaceId},
    json::Json,
    permission::Permission,
    workflow::Workflow,
};
use ledgerline_projections::{
    Model, Page,
    executions::{ExecutionFilter, ExecutionItem, ExecutionSort, list as list_rows},
    values::{ExecutionStatus, Trigger},
};
use ledgerline_store::{Position, StreamId};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use self::view::{ExecutionView, view};
use crate::{
    access::demand,
    answer::Answer,
    app::AppState,
    extract::{AsOf, JsonBody, ListQuery, Path, Query, WorkspaceSelector},
    personal::{self, Given},
    problem::Problem,
    reading::{AsOfParams, PageParams, Reading, WorkspaceParams, page, search},
    refusal::Refusal,
    writing::{Reply, Writing},
};

/// A run to start.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartExecution {
    /// Of which workflow.
    #[schema(value_type = Uuid)]
    pub workflow_id: WorkflowId,
    /// What starts it. All but `manual` run the published version only, and only while the workflow's intake is active.
    #[serde(default)]
    pub trigger_type: StartTrigger,
    /// What it is given: the run's `input`.
    #[serde(default = "nothing_given")]
    #[schema(value_type = Object)]
    pub trigger_data: Json,
}

/// What may be named as the start of a run from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StartTrigger {
    /// A person or a program asks for it.
    #[default]
    Manual,
    /// A schedule outside.
    Cron,
    /// A delivery that somebody else took in.
    Webhook,
    /// Something that happened elsewhere.
    Event,
}

impl From<StartTrigger> for TriggerType {
    fn from(trigger: StartTrigger) -> Self {
        match trigger {
            StartTrigger::Manual => Self::Manual,
            StartTrigger::Cron => Self::Cron,
            StartTrigger::Webhook => Self::Webhook,
            StartTrigger::Event => Self::Event,
        }
    }
}

/// An empty object and not null, so that expressions over fields of the input say which one is missing.
fn nothing_given() -> Json {
    Json::from_value(&serde_json::json!({}))
}

/// What a list of executions is narrowed to.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default, deny_unknown_fields)]
pub struct ExecutionQuery {
    /// Only of this workflow.
    pub workflow_id: Option<Uuid>,
    /// Only in this status.
    pub status: Option<ExecutionStatus>,
    /// Only children of this execution.
    pub parent_execution_id: Option<Uuid>,
    /// Only started by this.
    pub trigger_type: Option<Trigger>,
    /// Only requested at or after this time.
    pub from: Option<DateTime<Utc>>,
    /// Only requested before this time.
    pub to: Option<DateTime<Utc>>,
    /// Only of workflows with this tag; may be repeated, and then all of them.
    pub tag: Vec<String>,
    /// Only of workflows with this text in their name, in any case.
    #[param(max_length = 255)]
    pub search: Option<String>,
}

/// Start a run of a workflow: of its published version, else of its latest draft.
#[utoipa::path(post, path = "/executions", tag = "executions", request_body = StartExecution,
    responses((status = 202, body = ExecutionView)))]
pub async fn start(
    State(state): State<AppState>,
    writing: Writing,
    JsonBody { value, hash }: JsonBody<StartExecution>,
) -> Reply {
    let workflow_id = value.workflow_id;
    let workspace = workspace_of::<Workflow>(&state, workflow_id.0, "workflow").await?;
    let given = Given {
        workspace,
        needed: Permission::StartExecution,
        noun: "workflow",
        pointer: "/trigger_data",
    };
    let input = personal::seal(&state, &writing.caller, given, value.trigger_data).await?;
    let wanted = Start {
        execution_id: ExecutionId(state.commands.clock().new_id()),
        workflow_id,
        trigger_type: value.trigger_type.into(),
        input,
        depth: 0,
    };
    let (context, seen) = making(writing.context(workspace, hash), wanted.execution_id);
    let (writer, wanted, seen) = (&writing, &wanted, &seen);
    let plan = |scope: Scope| async move {
        let permission = Permission::StartExecution;
        writer.authorise(&scope, workspace, permission, "workflow").await?;
        demand_seen::<Workflow>(&scope, workflow_id.0, seen.as_ref()).await?;
        start::start(&scope, wanted).await.map_err(CommandError::widen)
    };
    let executed = writing.execute::<Execution, _, _>(&context, plan).await?;
    Ok(started(&state, &writing, executed).await?)
}

/// List the executions of a workspace.
#[utoipa::path(get, path = "/executions", tag = "executions",
    params(ExecutionQuery, WorkspaceParams, PageParams),
    responses((status = 200, body = Page<ExecutionItem>)))]
pub async fn list(
    State(state): State<AppState>,
    reading: Reading,
    workspace: WorkspaceSelector,
    Query(query): Query<ExecutionQuery>,
    paging: ListQuery,
) -> Result<Answer<Page<ExecutionItem>>, Problem> {
    let workspace = workspace.or_default(&reading.caller);
    let permission = Permission::ViewExecution;
    demand(&state, &reading.caller, workspace, permission, "workspace").await?;
    let offered = [("-created_at", ExecutionSort::Newest), ("created_at", ExecutionSort::Oldest)];
    let request = page(paging, &offered)?;
    let filter = filter(workspace, query)?;
    let position = reading.rows(&[Model::Executions]).await?;
    let rows = list_rows(&state.pool, &filter, &request).await?;
    Ok(reading.answer(rows, position))
}

/// List the executions that nodes of this one started as their children.
#[utoipa::path(get, path = "/executions/{id}/children", tag = "executions",
    params(("id" = Uuid, Path), PageParams),
    responses((status = 200, body = Page<ExecutionItem>)))]
pub async fn children(
    State(state): State<AppState>,
    reading: Reading,
    Path(id): Path<ExecutionId>,
    paging: ListQuery,
) -> Result<Answer<Page<ExecutionItem>>, Problem> {
    let found = find(&state, &reading, id).await?;
    let workspace_id = found.origin.ok_or_else(|| Problem::not_found("execution"))?.workspace.0;
    let offered = [("created_at", ExecutionSort::Oldest), ("-created_at", ExecutionSort::Newest)];
    let request = page(paging, &offered)?;
    let filter = ExecutionFilter {
        workspace_id,
        parent_execution_id: Some(id.0),
        ..ExecutionFilter::default()
    };
    let position = reading.rows(&[Model::Executions]).await?;
    let rows = list_rows(&state.pool, &filter, &request).await?;
    Ok(reading.answer(rows, position))
}

fn filter(workspace: WorkspaceId, query: ExecutionQuery) -> Result<ExecutionFilter, Problem> {
    Ok(ExecutionFilter {
        workspace_id: workspace.0,
        workflow_id: query.workflow_id,
        status: query.status,
        parent_execution_id: query.parent_execution_id,
        trigger_type: query.trigger_type,
        from: query.from,
        to: query.to,
        tags: query.tag,
        search: search(query.search)?,
    })
}

/// Show an execution as its events prove it, now or as it was at a time or position.
#[utoipa::path(get, path = "/executions/{id}", tag = "executions",
    params(("id" = Uuid, Path), AsOfParams),
    responses((status = 200, body = ExecutionView)))]
pub async fn get(
    State(state): State<AppState>,
    reading: Reading,
    Path(id): Path<ExecutionId>,
    at: AsOf,
) -> Result<Answer<ExecutionView>, Problem> {
    let (found, position) = find_at(&state, &reading, id, at).await?;
    let body = view(&state, id, &found).await?;
    Ok(reading.answer(body, position).versioned(found.version))
}

/// Demands that what a new execution is made from is still at the version that the caller saw.
pub(in crate::routes) async fn demand_seen<A: ledgerline_domain::Aggregate>(
    scope: &Scope,
    id: Uuid,
    seen: Option<&Seen>,
) -> Result<(), CommandError<Refusal>> {
    let Some(seen) = seen else { return Ok(()) };
    let current = scope.read::<A>(id).await?.version;
    if seen.is(current) { Ok(()) } else { Err(CommandError::VersionMismatch { current }) }
}

/// The context of a command that makes an execution, and the version of what it is made from that `If-Match` names: the new
/// stream itself has none yet.
pub(in crate::routes) fn making(
    mut context: Context,
    made: ExecutionId,
) -> (Context, Option<Seen>) {
    context.made_ids.push(made.0);
    let seen = context.if_match.take();
    (context, seen)
}

/// The workspace that a resource belongs to, which never changes.
pub(crate) async fn workspace_of<A: ledgerline_domain::Aggregate>(
    state: &AppState,
    id: Uuid,
    noun: &'static str,
) -> Result<WorkspaceId, Problem> {
    let loaded = state.commands.load_cached::<A>(id).await?;
    let origin = loaded.origin.ok_or_else(|| Problem::not_found(noun))?;
    Ok(WorkspaceId(origin.workspace.0))
}

/// An execution as the log holds it now, for who may see it.
///
/// # Errors
/// 404 when there is none or the caller is no member of its workspace.
pub(crate) async fn find(
    state: &AppState,
    reading: &Reading,
    id: ExecutionId,
) -> Result<Loaded<Execution>, Problem> {
    let loaded = state.commands.load::<Execution>(id).await?;
    let origin = loaded.origin.ok_or_else(|| Problem::not_found("execution"))?;
    let workspace = WorkspaceId(origin.workspace.0);
    let permission = Permission::ViewExecution;
    demand(state, &reading.caller, workspace, permission, "execution").await?;
    Ok(loaded)
}

/// An execution as it was at a moment, for who may see it now, and the position of that.
///
/// # Errors
/// 404 also where it did not exist then.
async fn find_at(
    state: &AppState,
    reading: &Reading,
    id: ExecutionId,
    at: AsOf,
) -> Result<(Loaded<Execution>, Position), Problem> {
    let present = reading.log();
    let found = find(state, reading, id).await?;
    let Some((moment, past)) = reading.past(state, at).await? else { return Ok((found, present)) };
    let then = state.commands.load_at::<Execution>(id, moment).await?;
    if then.exists() { Ok((then, past)) } else { Err(Problem::not_found("execution")) }
}

pub(crate) async fn answer(
    state: &AppState,
    writing: &Writing,
    executed: Executed<Execution>,
    status: StatusCode,
) -> Result<Answer<ExecutionView>, Problem> {
    let Executed { stream: StreamId(id), state: execution, version, position, .. } = executed;
    let loaded = Loaded { state: execution, version, position, origin: None };
    let body = view(state, ExecutionId(id), &loaded).await?;
    Ok(writing.answer(status, body, position).versioned(version))
}

/// The answer of a command that made an execution.
pub(in crate::routes) async fn started(
    state: &AppState,
    writing: &Writing,
    executed: Executed<Execution>,
) -> Result<Response, Problem> {
    let location = format!("{}/executions/{}", crate::router::BASE_PATH, executed.stream);
    let answer = answer(state, writing, executed, StatusCode::ACCEPTED).await?;
    Ok(answer.at(location).into_response())
}
