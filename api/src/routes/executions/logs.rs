//! The log lines of an execution: a page, all of them, or as they are printed.

use std::{io, sync::Arc};

use axum::{
    body::Body,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse as _, Response},
};
use futures_util::stream;
use ledgerline_domain::{
    audit::Export,
    id::{ExecutionId, WorkspaceId},
};
use ledgerline_store::{EventLog, LogLevel, LogLine, LogQuery};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{find, nodes::by_cursor};
use crate::{
    app::AppState,
    extract::{ListQuery, Path, Query},
    live,
    problem::Problem,
    reading::{Reading, search},
    routes::log::feed::{broke_off, ndjson, wants_ndjson},
};

/// Lines that are read at once for a stream of all of them.
const STREAMED: i64 = 1_000;

/// Which lines are wanted, and how.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default, deny_unknown_fields)]
pub struct LineQuery {
    /// Only this level and worse: `debug`, `info`, `warning` or `error`.
    #[param(value_type = Option<String>)]
    pub level: Option<LogLevel>,
    /// Only of this node path; empty for the run itself.
    pub node: Option<String>,
    /// Only lines with this text in them, in any case.
    #[param(max_length = 255)]
    pub search: Option<String>,
    /// Only lines after this one, named `<claim>.<n>`.
    pub after: Option<String>,
    /// `sse` sends what was printed before and then each line as it is printed, as server-sent events; it takes no filter.
    #[param(inline)]
    pub follow: Option<Follow>,
}

/// How lines are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Follow {
    /// As server-sent events.
    Sse,
}

/// A line that a step printed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LogLine)]
pub struct LineView {
    /// The workspace of the execution.
    pub workspace_id: Uuid,
    /// The execution that printed it.
    pub execution_id: Uuid,
    /// The claim under which it ran.
    pub claim: i32,
    /// Number of the line within the claim, from 1.
    pub n: i64,
    /// When it was printed, by the worker's clock.
    pub at: chrono::DateTime<chrono::Utc>,
    /// `debug`, `info`, `warning` or `error`.
    #[schema(value_type = String)]
    pub level: LogLevel,
    /// The path of the node, empty for the run itself.
    pub node: String,
    /// The attempt, from 1; 0 for the run itself.
    pub attempt: i32,
    /// The text, secrets masked.
    pub message: String,
    /// Structured context, when there is any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fields: Option<serde_json::Value>,
    /// What the run belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<Uuid>,
}

impl From<LogLine> for LineView {
    fn from(line: LogLine) -> Self {
        let LogLine {
            workspace_id,
            execution_id,
            claim,
            n,
            at,
            level,
            node,
            attempt,
            message,
            fields,
            correlation_id,
        } = line;
        Self {
            workspace_id,
            execution_id,
            claim,
            n,
            at,
            level,
            node,
            attempt,
            message,
            fields,
            correlation_id,
        }
    }
}

/// A page of log lines.
#[derive(Debug, Serialize, ToSchema)]
pub struct LinePage {
    /// In the order in which they were printed.
    pub items: Vec<LineView>,
    /// Asks for the page after it; none when that would be empty by now.
    pub next_cursor: Option<String>,
    /// The last line of this page, to ask for what is printed later; the one that was asked with when the page is empty.
    pub last: Option<String>,
    /// The limit that was applied.
    pub limit: u32,
}

/// Read the log lines of an execution: a page, all of them (`Accept: application/x-ndjson`), or as they are printed (`follow=sse`).
#[utoipa::path(get, path = "/executions/{id}/logs", tag = "executions",
    params(
        ("id" = Uuid, Path),
        LineQuery,
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200),
        ("cursor" = Option<String>, Query, description = "The same as `after`"),
    ),
    responses((status = 200, content((LinePage = "application/json"), (LineView = "application/x-ndjson"), (LineView = "text/event-stream")))))]
pub async fn list(
    State(state): State<AppState>,
    reading: Reading,
    Path(id): Path<ExecutionId>,
    Query(query): Query<LineQuery>,
    paging: ListQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    by_cursor(&paging)?;
    let after = after(&query, &paging, &headers)?;
    if query.follow == Some(Follow::Sse) {
        no_filter(&query)?;
        return live::follow_logs(state, reading.caller, id, after).await;
    }
    let position = reading.log();
    let found = find(&state, &reading, id).await?;
    let mut wanted = wanted(id, &query, after)?;
    let log = state.commands.log();
    if wants_ndjson(&headers) {
        let workspace = found.origin.map(|origin| WorkspaceId(origin.workspace.0));
        reading.took_out(&state, workspace, Export::LogLines, Some(id.0));
        wanted.limit = STREAMED;
        let lines = all_lines(Arc::clone(log), wanted, state.stop.clone());
        return Ok(ndjson(reading.answer((), position), lines));
    }
    wanted.limit = i64::from(paging.limit) + 1;
    let page = page(log.log_lines(&wanted).await?, after, paging.limit);
    Ok(reading.answer(page, position).into_response())
}

fn page(mut lines: Vec<LogLine>, after: Option<(i32, i64)>, limit: u32) -> LinePage {
    let kept = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = lines.len() > kept;
    lines.truncate(kept);
    let last = lines.last().map(|line| (line.claim, line.n)).or(after);
    let last = last.map(|(claim, n)| format!("{claim}.{n}"));
    let next_cursor = last.clone().filter(|_| more);
    LinePage { items: lines.into_iter().map(LineView::from).collect(), next_cursor, last, limit }
}

fn wanted(
    id: ExecutionId,
    query: &LineQuery,
    after: Option<(i32, i64)>,
) -> Result<LogQuery, Problem> {
    Ok(LogQuery {
        execution_id: id.0,
        after,
        min_level: query.level,
        node: query.node.clone(),
        search: search(query.search.clone())?,
        limit: STREAMED,
    })
}

/// The line to go on after: `after`, `cursor`, or where a browser that follows was when its connection broke.
fn after(
    query: &LineQuery,
    paging: &ListQuery,
    headers: &HeaderMap,
) -> Result<Option<(i32, i64)>, Problem> {
    let resumed = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let (name, text) = match (&query.after, &paging.cursor) {
        (Some(_), Some(_)) => {
            return Err(Problem::invalid("/cursor", "conflict", "cannot be given with after"));
        }
        (Some(after), None) => ("/after", after.as_str()),
        (None, Some(cursor)) => ("/cursor", cursor.as_str()),
        (None, None) => match resumed.filter(|_| query.follow.is_some()) {
            Some(resumed) => ("/Last-Event-ID", resumed),
            None => return Ok(None),
        },
    };
    let line =
        text.split_once('.').and_then(|(claim, n)| Some((claim.parse().ok()?, n.parse().ok()?)));
    line.map(Some).ok_or_else(|| Problem::invalid(name, "invalid", "must be <claim>.<n> of a line"))
}

fn no_filter(query: &LineQuery) -> Result<(), Problem> {
    if query.level.is_some() || query.node.is_some() || query.search.is_some() {
        let detail = "cannot be given with level, node or search: what is followed is all of it";
        return Err(Problem::invalid("/follow", "conflict", detail));
    }
    Ok(())
}

/// Every line after a place, in pages, so that a million of them are never in memory.
fn all_lines(log: Arc<dyn EventLog>, query: LogQuery, stop: CancellationToken) -> Body {
    let pages = stream::try_unfold(Some(query), move |next| {
        let (log, stop) = (Arc::clone(&log), stop.clone());
        async move {
            let Some(mut query) = next else { return Ok(None) };
            if stop.is_cancelled() {
                return Err(io::Error::other("the process stops"));
            }
            let lines = log.log_lines(&query).await.map_err(|error| broke_off(&error))?;
            let Some(last) = lines.last() else { return Ok(None) };
            query.after = Some((last.claim, last.n));
            let full = i64::try_from(lines.len()).is_ok_and(|count| count == query.limit);
            let mut text = Vec::with_capacity(lines.len() * 256);
            for line in lines {
                serde_json::to_writer(&mut text, &LineView::from(line))?;
                text.push(b'\n');
            }
            Ok(Some((text, full.then_some(query))))
        }
    });
    Body::from_stream(pages)
}
