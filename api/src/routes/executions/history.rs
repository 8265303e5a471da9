//! The history of an execution: its events as the log holds them, in order.

use std::sync::Arc;

use axum::{
    extract::State,
    http::HeaderMap,
    response::{IntoResponse as _, Response},
};
use ledgerline_domain::id::ExecutionId;
use ledgerline_store::StreamId;

use super::{find, nodes::by_cursor};
use crate::{
    app::AppState,
    extract::{ListQuery, Path},
    problem::Problem,
    reading::Reading,
    routes::log::{
        CloudEvent, EventPage,
        feed::{Feed, Part, ndjson, wants_ndjson},
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
    let found = find(&state, &reading, id).await?;
    let stream = StreamId(id.0);
    if wants_ndjson(&headers) {
        let part = Part::of_stream(stream, &paging, found.version)?;
        let feed = Feed::new(Arc::clone(state.commands.log()), &state, part).await?;
        return Ok(ndjson(reading.answer((), position), feed.into_body()));
    }
    let page = stream_page(&state, stream, &paging, found.version).await?;
    Ok(reading.answer(page, position).versioned(found.version).into_response())
}
