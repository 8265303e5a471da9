//! Executions that were exported elsewhere, opened here as they were: read-only, and run again as a regression.
//!
//! A file is believed as far as it proves itself ([`crate::imported`]) and is kept as it came. Nothing of it enters the log of this
//! deployment. [`regressions`] runs what it did on a workflow here and holds the two side by side.

pub mod regressions;

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::{FromRequest, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use chrono::{DateTime, Utc};
use ledgerline_domain::{
    execution::{Execution, NodeError, NodeOutput, NodePath},
    id::{UserId, WorkspaceId, derived},
    json::Json,
    permission::Permission,
};
use ledgerline_projections::{
    Page, execution_nodes::PastNodes, executions::BlobReference, values::ExecutionStatus,
};
use serde::Serialize;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    access::demand,
    answer::Answer,
    app::AppState,
    extract::{DryRun, Idempotency, ListQuery, Path, WorkspaceSelector, body::unreadable},
    imported::{self, ImportedExecution},
    problem::{FieldError, Problem, ProblemKind},
    reading::{Reading, WorkspaceParams},
    routes::{
        executions::{
            logs::LineView,
            nodes::{NodePage, by_cursor},
            view::word,
        },
        log::EventPage,
    },
};

/// Imported executions of one workspace: each may have 10 MB.
const MAX_IMPORTED: i64 = 100;

/// The media type of a file.
const NDJSON: &str = "application/x-ndjson";

/// What is not there for whoever may not know of it.
const NOUN: &str = "imported execution";

/// An imported execution as lists show it.
#[derive(Debug, Serialize, ToSchema)]
pub struct ImportedExecutionItem {
    /// Its id here.
    pub id: Uuid,
    /// The workspace it was imported into.
    #[schema(value_type = Uuid)]
    pub workspace_id: WorkspaceId,
    /// Who imported it.
    #[schema(value_type = Uuid)]
    pub imported_by: UserId,
    /// When.
    pub imported_at: DateTime<Utc>,
    /// The log that it is of, as `<log id>:<epoch>`.
    pub source: String,
    /// The id that it has there.
    pub execution_id: Uuid,
    /// The name that its workflow had, where the file has the definition.
    pub workflow_name: Option<String>,
    /// Where it stood when it was exported.
    pub status: String,
    /// How many events it has.
    pub events: i32,
    /// How large the file is.
    pub size_bytes: i32,
}

/// An imported execution as its own page shows it.
#[derive(Debug, Serialize, ToSchema)]
pub struct ImportedExecutionView {
    /// What lists show.
    pub imported: ImportedExecutionItem,
    /// When the file was written.
    pub exported_at: DateTime<Utc>,
    /// Where its events say that it stood.
    pub status: ExecutionStatus,
    /// The workflow that it was a run of, there.
    pub workflow_id: Uuid,
    /// Its version.
    pub workflow_version: i32,
    /// `{nodes, connections, settings}` of that version, where the file has it.
    #[schema(value_type = Option<Object>)]
    pub definition: Option<Json>,
    /// What the trigger gave.
    #[schema(value_type = serde_json::Value)]
    pub input: Json,
    /// What came out.
    #[schema(value_type = Option<serde_json::Value>)]
    pub output: Option<Json>,
    /// Where an output was that the file does not have.
    pub output_blob: Option<BlobReference>,
    /// The node that failed it.
    #[schema(value_type = Option<String>)]
    pub failed_node: Option<NodePath>,
    /// Why it failed: `{kind, message, details}`.
    #[schema(value_type = Option<Object>)]
    pub error: Option<NodeError>,
    /// How many nodes were begun, skipped or carried over.
    pub nodes: usize,
    /// How many log lines the file has.
    pub log_lines: usize,
    /// Whether there were more.
    pub log_lines_truncated: bool,
    /// When its first event was recorded.
    pub created_at: DateTime<Utc>,
    /// When its last one was.
    pub last_event_at: DateTime<Utc>,
}

/// A page of what the steps of an imported execution printed.
#[derive(Debug, Serialize, ToSchema)]
pub struct ImportedLinePage {
    /// In the order in which they were printed.
    #[schema(value_type = Vec<LineView>)]
    pub items: Vec<Box<RawValue>>,
    /// Asks for the page after it; none on the last one.
    pub next_cursor: Option<String>,
    /// How many the file has.
    pub total: usize,
    /// The limit that was applied.
    pub limit: u32,
    /// Always 0: a further page is asked for by cursor.
    pub offset: u64,
}

/// An exported execution as it is sent. What it is sent as is looked at when it is known who sends it.
pub struct ExecutionFile {
    content: Bytes,
    is_ndjson: bool,
}

impl FromRequest<AppState> for ExecutionFile {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Problem> {
        let media_type = request.headers().get(header::CONTENT_TYPE);
        let media_type = media_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = media_type.split(';').next().unwrap_or_default().trim();
        let is_ndjson = essence.eq_ignore_ascii_case(NDJSON);
        let content = Bytes::from_request(request, state).await.map_err(unreadable)?;
        Ok(Self { content, is_ndjson })
    }
}

/// Import an exported execution, to be looked at here and run again. Everything that is wrong with the file is answered at once (422), each
/// with its line as `/<line>`.
///
/// The file is that of `GET /executions/{id}/export`, at most 10 MB: `?log_lines=` there makes a smaller one. `?dry_run=true` answers
/// 200 with what it holds, and keeps nothing.
#[utoipa::path(post, path = "/executions/import", tag = "executions", params(WorkspaceParams),
    request_body(content((String = "application/x-ndjson"))),
    responses((status = 201, body = ImportedExecutionView), (status = 200, body = ImportedExecutionView)))]
pub async fn import(
    State(state): State<AppState>,
    reading: Reading,
    workspace: WorkspaceSelector,
    DryRun(dry_run): DryRun,
    idempotency: Idempotency,
    ExecutionFile { content, is_ndjson }: ExecutionFile,
) -> Result<Response, Problem> {
    let workspace = workspace.or_default(&reading.caller);
    // Whoever brings a definition in may write one; running it is another matter.
    let permission = Permission::CreateWorkflow;
    demand(&state, &reading.caller, workspace, permission, "workspace").await?;
    if !is_ndjson {
        let detail = format!("the file must be sent as Content-Type: {NDJSON}");
        return Err(Problem::new(ProblemKind::UnsupportedMediaType, detail));
    }
    let position = reading.log();
    let hash: [u8; 32] = Sha256::digest(&content).into();
    let key = idempotency.scoped(workspace, &reading.caller, hash);
    // The same file is the same import, also without a key.
    let id = match &key {
        Some(key) => derived(&["imported-execution", &key.scope, &key.key]),
        None => derived(&["imported-execution", &workspace.0.to_string(), &hex::encode(hash)]),
    };
    let file = read(content.clone()).await?.map_err(Problem::invalid_values)?;
    let item = ImportedExecutionItem {
        id,
        workspace_id: workspace,
        imported_by: reading.caller.user_id,
        imported_at: state.clock.now(),
        source: file.manifest.source.clone(),
        execution_id: file.manifest.execution_id,
        workflow_name: file.definition.as_ref().map(|definition| definition.name.clone()),
        status: file.manifest.status.clone(),
        events: i32::try_from(file.events.len()).unwrap_or(i32::MAX),
        size_bytes: i32::try_from(content.len()).unwrap_or(i32::MAX),
    };
    if dry_run {
        return Ok(reading.answer(shown(item, &file)?, position).into_response());
    }
    if find_row(&state, id).await?.is_none() {
        keep(&state, &item, hash, &content).await?;
    }
    // As it is kept, which another request may have done first.
    let item = find_row(&state, id).await?.ok_or_else(|| Problem::not_found(NOUN))?;
    let kept =
        sqlx::query_scalar!("SELECT content_hash FROM imported_executions WHERE id = $1", id);
    if kept.fetch_optional(&state.pool).await?.is_some_and(|kept| kept != hash) {
        let detail = "the idempotency key was used with another body";
        return Err(Problem::new(ProblemKind::KeyReused, detail));
    }
    let mut response = reading.answer(shown(item, &file)?, position).into_response();
    *response.status_mut() = StatusCode::CREATED;
    let location = format!("/api/v1/imported-executions/{id}");
    let location = location.parse().map_err(|_| Problem::broken())?;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

/// List the imported executions of a workspace, the newest first.
#[utoipa::path(get, path = "/imported-executions", tag = "executions",
    params(WorkspaceParams,
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("offset" = Option<u64>, Query, maximum = 10_000)),
    responses((status = 200, body = Page<ImportedExecutionItem>)))]
pub async fn list(
    State(state): State<AppState>,
    reading: Reading,
    workspace: WorkspaceSelector,
    paging: ListQuery,
) -> Result<Answer<Page<ImportedExecutionItem>>, Problem> {
    let workspace = workspace.or_default(&reading.caller);
    demand(&state, &reading.caller, workspace, Permission::ViewExecution, "workspace").await?;
    if paging.sort.is_some() {
        return Err(Problem::invalid("/sort", "unsupported", "is not possible here"));
    }
    let position = reading.log();
    let after = paging.cursor.as_deref().map(place).transpose()?;
    let (after_at, after_id) = after.unzip();
    let (limit, offset) =
        (i64::from(paging.limit), i64::try_from(paging.offset).unwrap_or(i64::MAX));
    let rows = sqlx::query_file!(
        "sql/imported_executions/list.sql",
        workspace.0,
        after_at,
        after_id,
        offset,
        limit + 1
    );
    let mut rows = rows.fetch_all(&state.pool).await?;
    let more = rows.len() > usize::try_from(limit).unwrap_or(usize::MAX);
    rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let next_cursor = rows.last().filter(|_| more);
    let next_cursor =
        next_cursor.map(|row| format!("{}.{}", row.imported_at.timestamp_micros(), row.id));
    let items = rows.into_iter().map(|row| ImportedExecutionItem {
        id: row.id,
        workspace_id: WorkspaceId(row.workspace_id),
        imported_by: UserId(row.imported_by),
        imported_at: row.imported_at,
        source: row.source,
        execution_id: row.execution_id,
        workflow_name: row.workflow_name,
        status: row.status,
        events: row.events,
        size_bytes: row.size_bytes,
    });
    let items = items.collect();
    let total = count(&state, workspace).await?;
    let page = Page { items, next_cursor, total, total_is_estimate: false, limit, offset };
    Ok(reading.answer(page, position))
}

/// One imported execution as its file has it.
#[utoipa::path(get, path = "/imported-executions/{id}", tag = "executions", params(("id" = Uuid, Path)),
    responses((status = 200, body = ImportedExecutionView)))]
pub async fn get(
    State(state): State<AppState>,
    reading: Reading,
    Path(id): Path<Uuid>,
) -> Result<Answer<ImportedExecutionView>, Problem> {
    let position = reading.log();
    let (item, file) = find(&state, &reading, id, Permission::ViewExecution).await?;
    Ok(reading.answer(shown(item, &file)?, position))
}

/// Forget an imported execution. Runs that were held against it stay. `?dry_run=true` answers 200 with what would be forgotten.
#[utoipa::path(delete, path = "/imported-executions/{id}", tag = "executions", params(("id" = Uuid, Path)),
    responses((status = 204), (status = 200, body = ImportedExecutionItem)))]
pub async fn delete(
    State(state): State<AppState>,
    reading: Reading,
    Path(id): Path<Uuid>,
    DryRun(dry_run): DryRun,
) -> Result<Response, Problem> {
    let item = find_row(&state, id).await?.ok_or_else(|| Problem::not_found(NOUN))?;
    let permission = Permission::CreateWorkflow;
    demand(&state, &reading.caller, item.workspace_id, permission, NOUN).await?;
    if dry_run {
        return Ok(reading.answer(item, reading.log()).into_response());
    }
    let gone = sqlx::query!("DELETE FROM imported_executions WHERE id = $1", id);
    gone.execute(&state.pool).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The events of an imported execution, in order, as they are in the file.
#[utoipa::path(get, path = "/imported-executions/{id}/events", tag = "executions",
    params(
        ("id" = Uuid, Path),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, body = EventPage)))]
pub async fn events(
    State(state): State<AppState>,
    reading: Reading,
    Path(id): Path<Uuid>,
    paging: ListQuery,
) -> Result<Answer<EventPage>, Problem> {
    by_cursor(&paging)?;
    let position = reading.log();
    let from = index(&paging)?;
    let (_, file) = find(&state, &reading, id, Permission::ViewExecution).await?;
    let limit = usize::try_from(paging.limit).unwrap_or(usize::MAX);
    let items: Vec<Box<RawValue>> =
        file.events.iter().skip(from).take(limit).map(|event| event.raw.clone()).collect();
    let next = from.saturating_add(items.len());
    let body = EventPage {
        next_cursor: (next < file.events.len()).then(|| next.to_string()),
        total: i64::try_from(file.events.len()).unwrap_or(i64::MAX),
        items,
        limit: paging.limit,
        offset: 0,
    };
    Ok(reading.answer(body, position))
}

/// The nodes of an imported execution in the order in which they began, as those of an own one are shown.
#[utoipa::path(get, path = "/imported-executions/{id}/nodes", tag = "executions",
    params(
        ("id" = Uuid, Path),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, body = NodePage)))]
pub async fn nodes(
    State(state): State<AppState>,
    reading: Reading,
    Path(id): Path<Uuid>,
    paging: ListQuery,
) -> Result<Answer<NodePage>, Problem> {
    by_cursor(&paging)?;
    let position = reading.log();
    let from = index(&paging)?;
    let (_, file) = find(&state, &reading, id, Permission::ViewExecution).await?;
    let limit = usize::try_from(paging.limit).unwrap_or(usize::MAX);
    let total = file.execution.run().map_or(0, |run| run.nodes.len());
    let items = spawn_blocking(move || {
        let mut nodes = PastNodes::new((0, ""), from.saturating_add(limit).saturating_add(1));
        for event in &file.events {
            nodes.apply(event.row.clone())?;
        }
        nodes.into_items()
    });
    let mut items = items.await.map_err(|error| Problem::internal(&error))??;
    let items: Vec<_> = items.drain(from.min(items.len())..).collect();
    let more = items.len() > limit;
    let items: Vec<_> = items.into_iter().take(limit).collect();
    let next_cursor = more.then(|| from.saturating_add(limit).to_string());
    Ok(reading
        .answer(NodePage { items, next_cursor, total, limit: paging.limit, offset: 0 }, position))
}

/// What the steps of an imported execution printed, as far as the file has it.
#[utoipa::path(get, path = "/imported-executions/{id}/logs", tag = "executions",
    params(
        ("id" = Uuid, Path),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, body = ImportedLinePage)))]
pub async fn logs(
    State(state): State<AppState>,
    reading: Reading,
    Path(id): Path<Uuid>,
    paging: ListQuery,
) -> Result<Answer<ImportedLinePage>, Problem> {
    by_cursor(&paging)?;
    let position = reading.log();
    let from = index(&paging)?;
    let (_, file) = find(&state, &reading, id, Permission::ViewExecution).await?;
    let limit = usize::try_from(paging.limit).unwrap_or(usize::MAX);
    let items: Vec<Box<RawValue>> = file.lines.iter().skip(from).take(limit).cloned().collect();
    let next = from.saturating_add(items.len());
    let body = ImportedLinePage {
        next_cursor: (next < file.lines.len()).then(|| next.to_string()),
        total: file.lines.len(),
        items,
        limit: paging.limit,
        offset: 0,
    };
    Ok(reading.answer(body, position))
}

/// An imported execution with its file, for who may.
async fn find(
    state: &AppState,
    reading: &Reading,
    id: Uuid,
    permission: Permission,
) -> Result<(ImportedExecutionItem, Arc<ImportedExecution>), Problem> {
    let item = find_row(state, id).await?.ok_or_else(|| Problem::not_found(NOUN))?;
    demand(state, &reading.caller, item.workspace_id, permission, NOUN).await?;
    let content = sqlx::query_scalar!("SELECT content FROM imported_executions WHERE id = $1", id);
    let content = content.fetch_optional(&state.pool).await?;
    let content = content.ok_or_else(|| Problem::not_found(NOUN))?;
    // It was sound when it was kept; an older build may have read what this one does not.
    let file = read(content.into()).await?.map_err(|problems| {
        let first = problems.first().map(|problem| problem.detail.clone()).unwrap_or_default();
        Problem::rule_refused("import_unreadable", format!("this build can't read it: {first}"))
    })?;
    Ok((item, Arc::new(file)))
}

async fn find_row(state: &AppState, id: Uuid) -> Result<Option<ImportedExecutionItem>, Problem> {
    let row = sqlx::query_file!("sql/imported_executions/get.sql", id);
    let row = row.fetch_optional(&state.pool).await?;
    Ok(row.map(|row| ImportedExecutionItem {
        id: row.id,
        workspace_id: WorkspaceId(row.workspace_id),
        imported_by: UserId(row.imported_by),
        imported_at: row.imported_at,
        source: row.source,
        execution_id: row.execution_id,
        workflow_name: row.workflow_name,
        status: row.status,
        events: row.events,
        size_bytes: row.size_bytes,
    }))
}

async fn keep(
    state: &AppState,
    item: &ImportedExecutionItem,
    hash: [u8; 32],
    content: &[u8],
) -> Result<(), Problem> {
    if count(state, item.workspace_id).await? >= MAX_IMPORTED {
        let detail = format!("a workspace keeps at most {MAX_IMPORTED} imported executions");
        return Err(Problem::rule_refused("too_many_imported_executions", detail));
    }
    sqlx::query_file!(
        "sql/imported_executions/insert.sql",
        item.id,
        item.workspace_id.0,
        item.imported_by.0,
        item.imported_at,
        item.source,
        item.execution_id,
        item.workflow_name,
        item.status,
        item.events,
        item.size_bytes,
        &hash[..],
        content
    )
    .execute(&state.pool)
    .await?;
    Ok(())
}

async fn count(state: &AppState, workspace: WorkspaceId) -> Result<i64, Problem> {
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM imported_executions WHERE workspace_id = $1"#,
        workspace.0
    );
    Ok(count.fetch_one(&state.pool).await?)
}

/// Reads a file beside the threads that serve: it may have ten megabytes.
async fn read(content: Bytes) -> Result<Result<ImportedExecution, Vec<FieldError>>, Problem> {
    let read = spawn_blocking(move || imported::read(&content)).await;
    read.map_err(|error| Problem::internal(&error))
}

fn shown(
    imported: ImportedExecutionItem,
    file: &ImportedExecution,
) -> Result<ImportedExecutionView, Problem> {
    let (Some(run), Some(status)) = (file.execution.run(), file.execution.status()) else {
        return Err(Problem::not_found(NOUN));
    };
    let (Some(first), Some(last)) = (file.events.first(), file.events.last()) else {
        return Err(Problem::not_found(NOUN));
    };
    let (output, output_blob) = match &file.execution {
        Execution::Completed { output, .. } => {
            let value = file.value_of(output);
            let blob = match (output, &value) {
                (NodeOutput::Blob { hash, size_bytes }, None) => {
                    Some(BlobReference { hash: hash.clone(), size_bytes: *size_bytes })
                }
                (NodeOutput::Blob { .. } | NodeOutput::Inline(_), _) => None,
            };
            (value, blob)
        }
        Execution::New
        | Execution::Open(_)
        | Execution::Failed { .. }
        | Execution::Cancelled { .. } => (None, None),
    };
    let (failed_node, error) = match &file.execution {
        Execution::Failed { node, error, .. } => (node.clone(), Some(error.clone())),
        Execution::New
        | Execution::Open(_)
        | Execution::Completed { .. }
        | Execution::Cancelled { .. } => (None, None),
    };
    Ok(ImportedExecutionView {
        imported,
        exported_at: file.manifest.exported_at,
        status: word(status),
        workflow_id: run.request.workflow_id.0,
        workflow_version: run.request.workflow_version.0,
        definition: file.definition.as_ref().map(|definition| definition.definition.clone()),
        input: run.request.input.clone(),
        output,
        output_blob,
        failed_node,
        error,
        nodes: run.nodes.len(),
        log_lines: file.lines.len(),
        log_lines_truncated: file.lines_truncated,
        created_at: first.row.recorded_at,
        last_event_at: last.row.recorded_at,
    })
}

/// Where a page begins, by the number of what is before it.
fn index(paging: &ListQuery) -> Result<usize, Problem> {
    let wrong = |_| Problem::invalid("/cursor", "invalid", "is not a cursor of this list");
    paging.cursor.as_deref().map_or(Ok(0), |cursor| cursor.parse().map_err(wrong))
}

/// A place in the order of the list: when it was imported, then its id.
fn place(cursor: &str) -> Result<(DateTime<Utc>, Uuid), Problem> {
    cursor
        .split_once('.')
        .and_then(|(at, id)| {
            Some((DateTime::from_timestamp_micros(at.parse().ok()?)?, id.parse().ok()?))
        })
        .ok_or_else(|| Problem::invalid("/cursor", "invalid", "is not a cursor of this list"))
}
