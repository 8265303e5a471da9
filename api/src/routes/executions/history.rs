//! The history of an execution: its events as the log holds them, in order.

use std::sync::Arc;

use axum::{
    extract::State,
    http::HeaderMap,
    response::{IntoResponse as _, Response},
};
use ledgerline_domain::{
    audit::Export,
    event::DomainEvent as _,
    execution::ExecutionEvent,
    id::{ExecutionId, WorkspaceId},
    permission::Permission,
};
use ledgerline_store::{StreamId, StreamVersion};

use super::nodes::by_cursor;
use crate::{
    access::demand,
    app::AppState,
    extract::{ListQuery, Path},
    problem::Problem,
    reading::Reading,
    routes::log::{
        CloudEvent, EventPage,
        feed::{Feed, Part, ndjson, version_of, wants_ndjson},
        stream_page,
    },
};

/// Read the events of an execution in order: a page, or all of them (`Accept: application/x-ndjson`).
#[utoipa::path(get, path = "/executions/{id}/events", tag = "executions",
    params(
        ("id" = Uuid, Path),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, content((EventPage = "application/json"), (CloudEvent = "application/x-ndjson")))))]
pub async fn list(
    State(state): State<AppState>,
    reading: Reading,
    Path(id): Path<ExecutionId>,
    paging: ListQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    by_cursor(&paging)?;
    let position = reading.log();
    let stream = StreamId(id.0);
    let (workspace, version) = found(&state, &reading, stream).await?;
    if wants_ndjson(&headers) {
        reading.took_out(&state, Some(workspace), Export::Events, Some(id.0));
        let part = Part::of_stream(stream, &paging, version)?;
        let feed = Feed::new(Arc::clone(state.commands.log()), &state, part).await?;
        return Ok(ndjson(reading.answer((), position), feed.into_body()));
    }
    let page = stream_page(&state, stream, &paging, version).await?;
    Ok(reading.answer(page, position).versioned(version).into_response())
}

/// The workspace of an execution and its version, for who may see it. Its state is not folded: whoever pages through a long history asks for its events
/// alone.
async fn found(
    state: &AppState,
    reading: &Reading,
    stream: StreamId,
) -> Result<(WorkspaceId, StreamVersion), Problem> {
    let log = state.commands.log();
    let first = log.read_stream(stream, StreamVersion::NEW, 1).await?;
    let first = first.first().filter(|event| event.category == ExecutionEvent::CATEGORY);
    let first = first.ok_or_else(|| Problem::not_found("execution"))?;
    let workspace = WorkspaceId(first.workspace.0);
    let permission = Permission::ViewExecution;
    demand(state, &reading.caller, workspace, permission, "execution").await?;
    Ok((workspace, version_of(log.as_ref(), first).await?))
}
