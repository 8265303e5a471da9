//! One action on many executions: a job with progress and a result for each.

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use chrono::{DateTime, Utc};
use ledgerline_domain::{
    id::{UserId, WorkspaceId, derived},
    permission::Permission,
};
use ledgerline_projections::{
    Model, Page,
    executions::{self, ExecutionFilter, ExecutionItem},
    values::{ExecutionStatus, Trigger},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    access::demand,
    answer::Answer,
    app::AppState,
    bulk::{self, BulkAction, MAX_EXECUTIONS, MAX_OPEN_JOBS, NewJob},
    extract::{DryRun, Idempotency, JsonBody, ListQuery, Path, Query, WorkspaceSelector},
    problem::{Problem, ProblemKind},
    reading::{PageParams, Reading, search},
};

/// Executions that a dry run shows.
const SAMPLE: usize = 10;

/// One action on many executions.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BulkRequest {
    /// What is done to each.
    pub action: BulkAction,
    /// Which executions: those of the workspace that fit all of it. Without a status, those that the action can do anything to.
    #[serde(default, deserialize_with = "crate::extract::body::object")]
    pub filter: BulkFilter,
}

/// Which executions.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BulkFilter {
    /// Only these.
    #[schema(max_items = 10_000)]
    pub ids: Option<Vec<Uuid>>,
    /// Only of this workflow.
    pub workflow_id: Option<Uuid>,
    /// Only in this status.
    pub status: Option<ExecutionStatus>,
    /// Only started by this.
    pub trigger_type: Option<Trigger>,
    /// Only requested at or after this time.
    pub from: Option<DateTime<Utc>>,
    /// Only requested before this time.
    pub to: Option<DateTime<Utc>>,
    /// Only of workflows with all of these tags.
    pub tags: Vec<String>,
    /// Only of workflows with this text in their name, in any case.
    #[schema(max_length = 255)]
    pub search: Option<String>,
}

/// What a job would be done to.
#[derive(Debug, Serialize, ToSchema)]
pub struct BulkPlan {
    /// What is done to each.
    pub action: BulkAction,
    /// How many executions.
    pub total: usize,
    /// The first of them.
    pub sample: Vec<ExecutionItem>,
}

/// How far a job is.
#[derive(Debug, Serialize, ToSchema)]
pub struct BulkView {
    /// Its id, which is the correlation id of everything that it does.
    pub id: Uuid,
    /// `running` or `finished`.
    #[schema(example = "running")]
    pub status: &'static str,
    /// What is done to each.
    #[schema(value_type = BulkAction)]
    pub action: String,
    /// How many executions it is for.
    pub total: i32,
    /// How many it is done with.
    pub done: i64,
    /// How many of those are as was asked for.
    pub succeeded: i64,
    /// How many refused.
    pub failed: i64,
    /// Who asked for it.
    #[schema(value_type = Uuid)]
    pub requested_by: UserId,
    /// When.
    pub created_at: DateTime<Utc>,
    /// When it was done with all of them.
    pub finished_at: Option<DateTime<Utc>>,
}

/// What became of one execution of a job.
#[derive(Debug, Serialize, ToSchema)]
pub struct BulkResult {
    /// The execution.
    pub execution_id: Uuid,
    /// The execution that a retry or rerun made.
    pub made_execution_id: Option<Uuid>,
    /// `succeeded` or `failed`; nothing while it was not its turn.
    pub outcome: Option<String>,
    /// Why it refused, or that there was nothing to do.
    pub detail: Option<String>,
}

/// Which results.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct BulkResultQuery {
    /// Only `succeeded` or `failed`.
    #[param(inline)]
    pub outcome: Option<BulkOutcome>,
}

/// What became of an execution of a job.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BulkOutcome {
    /// It is as was asked for.
    Succeeded,
    /// It refused.
    Failed,
}

impl BulkOutcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }
}

/// Do the same to many executions: a job that goes on whatever happens to this server, with a result for each execution.
///
/// `?dry_run=true` answers 200 with how many executions fit and the first of them, and does nothing.
#[utoipa::path(post, path = "/executions/bulk", tag = "executions", request_body = BulkRequest,
    responses((status = 202, body = BulkView), (status = 200, body = BulkPlan)))]
pub async fn begin(
    State(state): State<AppState>,
    reading: Reading,
    workspace: WorkspaceSelector,
    DryRun(dry_run): DryRun,
    idempotency: Idempotency,
    JsonBody { value: request, hash }: JsonBody<BulkRequest>,
) -> Result<Response, Problem> {
    let workspace = workspace.or_default(&reading.caller);
    let permission = Permission::ControlExecution;
    demand(&state, &reading.caller, workspace, permission, "workspace").await?;
    let key = idempotency.scoped(workspace, &reading.caller, hash);
    let id = match &key {
        Some(key) => derived(&["bulk", &key.scope, &key.key]),
        None => state.commands.clock().new_id(),
    };
    let position = reading.log();
    if key.is_some() && !dry_run && find(&state, id).await?.is_some() {
        let body = shown(&state, id, Some(hash)).await?;
        return Ok(accepted(&reading, body, position));
    }
    let action = request.action;
    let position = reading.rows(&[Model::Executions]).await?;
    let executions = selected(&state, workspace, action, request.filter).await?;
    if dry_run {
        let mut sample = Vec::new();
        for id in executions.iter().take(SAMPLE) {
            sample.extend(executions::get(&state.pool, *id).await?);
        }
        let plan = BulkPlan { action, total: executions.len(), sample };
        return Ok(reading.answer(plan, position).into_response());
    }
    if bulk::open_jobs(&state.pool, workspace).await? >= MAX_OPEN_JOBS {
        let detail = format!("{MAX_OPEN_JOBS} bulk jobs of this workspace are not finished");
        return Err(Problem::rule_refused("too_many_bulk_jobs", detail));
    }
    let job = NewJob {
        id,
        workspace,
        requested_by: reading.caller.user_id,
        by_service_account: reading.caller.is_service_account(),
        action,
        body_hash: hash,
        executions,
        now: state.clock.now(),
    };
    bulk::write_down(&state.pool, &job, &state.bulk).await?;
    let body = shown(&state, id, Some(hash)).await?;
    Ok(accepted(&reading, body, position))
}

/// Show how far a job over many executions is.
#[utoipa::path(get, path = "/executions/bulk/{id}", tag = "executions", params(("id" = Uuid, Path)),
    responses((status = 200, body = BulkView)))]
pub async fn get(
    State(state): State<AppState>,
    reading: Reading,
    Path(id): Path<Uuid>,
) -> Result<Answer<BulkView>, Problem> {
    let position = reading.log();
    may_see(&state, &reading, id).await?;
    let body = shown(&state, id, None).await?;
    Ok(reading.answer(body, position))
}

/// List what became of each execution of a job, in the order in which they are done.
#[utoipa::path(get, path = "/executions/bulk/{id}/results", tag = "executions",
    params(("id" = Uuid, Path), BulkResultQuery, PageParams), responses((status = 200, body = Page<BulkResult>)))]
pub async fn results(
    State(state): State<AppState>,
    reading: Reading,
    Path(id): Path<Uuid>,
    Query(query): Query<BulkResultQuery>,
    list: ListQuery,
) -> Result<Answer<Page<BulkResult>>, Problem> {
    let position = reading.log();
    let outcome = query.outcome.map(BulkOutcome::as_str);
    if list.sort.is_some() {
        let detail = "results come in the order in which they are done";
        return Err(Problem::invalid("/sort", "unknown_value", detail));
    }
    let wrong = || Problem::invalid("/cursor", "invalid", "is not a cursor of this list");
    let after: i32 = match &list.cursor {
        Some(cursor) => cursor.parse().map_err(|_| wrong())?,
        None => i32::try_from(list.offset).unwrap_or(i32::MAX),
    };
    may_see(&state, &reading, id).await?;
    let limit = i64::from(list.limit);
    let rows = sqlx::query_file!("sql/bulk/results.sql", id, after, outcome, limit + 1);
    let mut rows = rows.fetch_all(&state.pool).await?;
    let more = rows.len() > usize::try_from(limit).unwrap_or(usize::MAX);
    rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let next_cursor = rows.last().filter(|_| more).map(|row| row.n.to_string());
    let total = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM bulk_items WHERE job_id = $1 AND ($2::text IS NULL OR outcome = $2)"#,
        id,
        outcome
    );
    let total = total.fetch_one(&state.pool).await?;
    let items = rows.into_iter().map(|row| BulkResult {
        execution_id: row.execution_id,
        made_execution_id: row.made_execution_id,
        outcome: row.outcome,
        detail: row.detail,
    });
    let offset = i64::try_from(list.offset).unwrap_or(i64::MAX);
    let items = items.collect();
    let page = Page { items, next_cursor, total, total_is_estimate: false, limit, offset };
    Ok(reading.answer(page, position))
}

/// The executions that a job is for, the newest first.
async fn selected(
    state: &AppState,
    workspace: WorkspaceId,
    action: BulkAction,
    filter: BulkFilter,
) -> Result<Vec<Uuid>, Problem> {
    if filter.ids.as_ref().is_some_and(|ids| ids.len() > MAX_EXECUTIONS) {
        let detail = format!("must name at most {MAX_EXECUTIONS} executions");
        return Err(Problem::invalid("/filter/ids", "out_of_range", detail));
    }
    let statuses = match filter.status {
        Some(status) => vec![status],
        None => action.statuses().to_vec(),
    };
    let of = ExecutionFilter {
        parent_execution_id: None,
        workspace_id: workspace.0,
        workflow_id: filter.workflow_id,
        status: None,
        trigger_type: filter.trigger_type,
        from: filter.from,
        to: filter.to,
        tags: filter.tags,
        search: search(filter.search)?,
    };
    let most = i64::try_from(MAX_EXECUTIONS + 1).unwrap_or(i64::MAX);
    let ids = executions::ids(&state.pool, &of, &statuses, filter.ids.as_deref(), most).await?;
    if ids.len() > MAX_EXECUTIONS {
        let detail = format!("fits more than {MAX_EXECUTIONS} executions: narrow it");
        return Err(Problem::invalid("/filter", "out_of_range", detail));
    }
    Ok(ids)
}

/// The workspace of a job.
async fn find(state: &AppState, id: Uuid) -> Result<Option<WorkspaceId>, Problem> {
    let found = sqlx::query_scalar!("SELECT workspace_id FROM bulk_jobs WHERE id = $1", id);
    Ok(found.fetch_optional(&state.pool).await?.map(WorkspaceId))
}

async fn may_see(state: &AppState, reading: &Reading, id: Uuid) -> Result<(), Problem> {
    let noun = "bulk job";
    let workspace = find(state, id).await?.ok_or_else(|| Problem::not_found(noun))?;
    demand(state, &reading.caller, workspace, Permission::ViewExecution, noun).await.map(|_| ())
}

/// A job as it is now; `asked` is the hash of what the caller asks for under its key.
async fn shown(state: &AppState, id: Uuid, asked: Option<[u8; 32]>) -> Result<BulkView, Problem> {
    let row = sqlx::query_file!("sql/bulk/get.sql", id).fetch_optional(&state.pool).await?;
    let row = row.ok_or_else(|| Problem::not_found("bulk job"))?;
    if asked.is_some_and(|asked| row.body_hash != asked) {
        let detail = "the idempotency key was used with another body";
        return Err(Problem::new(ProblemKind::KeyReused, detail));
    }
    Ok(BulkView {
        id: row.id,
        status: if row.finished_at.is_some() { "finished" } else { "running" },
        action: row.action,
        total: row.total,
        done: row.succeeded + row.failed,
        succeeded: row.succeeded,
        failed: row.failed,
        requested_by: UserId(row.requested_by),
        created_at: row.created_at,
        finished_at: row.finished_at,
    })
}

fn accepted(reading: &Reading, body: BulkView, position: ledgerline_store::Position) -> Response {
    let location = format!("{}/executions/bulk/{}", crate::router::BASE_PATH, body.id);
    let mut response = reading.answer(body, position).at(location).into_response();
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}
