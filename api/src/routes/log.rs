//! The log itself: every event in the one order, as CloudEvents, by page or as a stream without bound.

pub(crate) mod feed;

use std::sync::Arc;

use axum::{
    extract::State,
    http::HeaderMap,
    response::{IntoResponse as _, Response},
};
use chrono::{DateTime, Utc};
use ledgerline_domain::{audit::Export, event::AnyEvent, id::WorkspaceId, permission::Permission};
use ledgerline_nats::envelope::{EventSource, encode};
use ledgerline_store::{Filter, Position, RecordedEvent, StreamId, StreamVersion, Workspace};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use self::feed::{Feed, Part, ndjson, wants_ndjson};
use crate::{
    access::demand,
    app::AppState,
    extract::{ListQuery, Path, PositionToken, Query, WorkspaceSelector},
    problem::Problem,
    reading::{Reading, WorkspaceParams},
    routes::executions::nodes::by_cursor,
};

/// How many reads one page of a sparse filter may take; the caller goes on from where they ended.
const READS_PER_PAGE: usize = 16;

/// An event as others see it: CloudEvents 1.0 in structured JSON.
#[derive(Debug, Serialize, ToSchema)]
pub struct CloudEvent {
    /// `1.0`.
    pub specversion: String,
    /// The event's own id.
    pub id: Uuid,
    /// Which log it is of.
    pub source: String,
    /// `ledgerline.<category>.<type>.v<version>`.
    #[schema(example = "ledgerline.execution.node_completed.v1")]
    pub r#type: String,
    /// The stream it belongs to.
    pub subject: Uuid,
    /// When it was committed, by the log's own clock, which never runs backwards.
    pub time: DateTime<Utc>,
    /// `application/json`.
    pub datacontenttype: String,
    /// Its place in the log, from 1 without gaps.
    pub position: i64,
    /// Its place in its stream, from 1 without gaps.
    pub streamversion: i64,
    /// The workspace it belongs to.
    pub workspaceid: Uuid,
    /// Its place among the events of its workspace, from 1 without gaps.
    pub workspaceseq: i64,
    /// What it belongs to.
    pub correlationid: Option<Uuid>,
    /// The event that led to it.
    pub causationid: Option<Uuid>,
    /// Who caused it: `<kind>:<id or name>`.
    pub actor: Option<String>,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// What happened.
    #[schema(value_type = Object)]
    pub data: Box<RawValue>,
}

/// A page of one stream's events.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventPage {
    /// In order.
    #[schema(value_type = Vec<CloudEvent>)]
    pub items: Vec<Box<RawValue>>,
    /// Asks for the page after it; none on the last one.
    pub next_cursor: Option<String>,
    /// How many events the stream has.
    pub total: i64,
    /// The limit that was applied.
    pub limit: u32,
    /// Always 0: a further page is asked for by cursor.
    pub offset: u64,
}

/// A page of the log.
#[derive(Debug, Serialize, ToSchema)]
pub struct LogPage {
    /// In the order of the log. There may be fewer than the limit, or none, before the end: what counts is `next_cursor`.
    #[schema(value_type = Vec<CloudEvent>)]
    pub items: Vec<Box<RawValue>>,
    /// Asks for what follows; none when the end (or `until`) was reached.
    pub next_cursor: Option<String>,
    /// The position up to which the log was looked through: ask after it for what comes later.
    pub position: i64,
    /// The limit that was applied.
    pub limit: u32,
}

/// Which events are wanted.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default, deny_unknown_fields)]
pub struct LogEventsQuery {
    /// Only after this position, or after this time.
    pub after: Option<String>,
    /// Only up to this position, or up to this time.
    pub until: Option<String>,
    /// Only of this category (`workspace`, `workflow`, `execution`); may be repeated.
    pub category: Vec<String>,
    /// Only of this stream.
    pub stream: Option<Uuid>,
    /// Only of this type (`node_completed`); may be repeated.
    pub r#type: Vec<String>,
    /// Only of this workspace. Who is no operator must name one.
    pub workspace: Option<Uuid>,
}

/// Read the log in its order: a page, or everything (`Accept: application/x-ndjson`). Members read their workspace's events, only
/// operators those of all.
#[utoipa::path(get, path = "/log/events", tag = "log",
    params(
        LogEventsQuery,
        WorkspaceParams,
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before; in place of `after`"),
    ),
    responses((status = 200, content((LogPage = "application/json"), (CloudEvent = "application/x-ndjson")))))]
pub async fn events(
    State(state): State<AppState>,
    reading: Reading,
    selected: WorkspaceSelector,
    Query(query): Query<LogEventsQuery>,
    paging: ListQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    by_cursor(&paging)?;
    demand_known(&query)?;
    let workspace = scope(&state, &reading, selected, query.workspace).await?;
    let head = state.commands.log().head().await?.position;
    let after = bound(&state, "/after", starting(&query, &paging)?).await?;
    let until = bound(&state, "/until", query.until.as_deref()).await?.unwrap_or(head).min(head);
    let filter = Filter {
        workspace: workspace.map(|workspace| Workspace(workspace.0)),
        stream: query.stream.map(StreamId),
        categories: query.category,
        types: query.r#type,
    };
    let part = Part::OfLog { after: after.unwrap_or(Position::START), until, filter };
    if wants_ndjson(&headers) {
        reading.took_out(&state, workspace, Export::Events, None);
        let feed = Feed::new(Arc::clone(state.commands.log()), &state, part).await?;
        return Ok(ndjson(reading.answer((), until), feed.into_body()));
    }
    let page = log_page(&state, part, paging.limit).await?;
    Ok(reading.answer(page, head).into_response())
}

/// Read the events of one stream in order: a page, or all of them (`Accept: application/x-ndjson`).
#[utoipa::path(get, path = "/log/streams/{id}", tag = "log",
    params(
        ("id" = Uuid, Path),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, content((EventPage = "application/json"), (CloudEvent = "application/x-ndjson")))))]
pub async fn stream(
    State(state): State<AppState>,
    reading: Reading,
    Path(id): Path<Uuid>,
    paging: ListQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    by_cursor(&paging)?;
    let position = reading.log();
    let stream = StreamId(id);
    let (workspace, version) = demand_stream(&state, &reading, stream).await?;
    if wants_ndjson(&headers) {
        reading.took_out(&state, workspace, Export::Events, Some(id));
        let part = Part::of_stream(stream, &paging, version)?;
        let feed = Feed::new(Arc::clone(state.commands.log()), &state, part).await?;
        return Ok(ndjson(reading.answer((), position), feed.into_body()));
    }
    let page = stream_page(&state, stream, &paging, version).await?;
    Ok(reading.answer(page, position).versioned(version).into_response())
}

/// Demands that there are events of this kind at all: a misspelt one would be answered with an empty list, as if nothing had happened.
fn demand_known(query: &LogEventsQuery) -> Result<(), Problem> {
    let unknown = |pointer: &str, detail: String| {
        Err(Problem::invalid(pointer.to_owned(), "unknown_value", detail))
    };
    let mut categories = query.category.iter();
    if let Some(name) = categories.find(|name| AnyEvent::TYPES.iter().all(|(is, _)| is != name)) {
        let known: Vec<&str> = AnyEvent::TYPES.iter().map(|(category, _)| *category).collect();
        return unknown("/category", format!("{name:?} is none of {}", known.join(", ")));
    }
    let exists = |name: &str| {
        AnyEvent::TYPES.iter().any(|(_, types)| types.iter().any(|(is, _)| *is == name))
    };
    match query.r#type.iter().find(|name| !exists(name)) {
        Some(name) => unknown("/type", format!("{name:?} is no type of event")),
        None => Ok(()),
    }
}

/// The workspace that is asked about; none for the whole log, which only operators read.
async fn scope(
    state: &AppState,
    reading: &Reading,
    selected: WorkspaceSelector,
    named: Option<Uuid>,
) -> Result<Option<WorkspaceId>, Problem> {
    let named = named.map(WorkspaceId);
    if let (Some(selected), Some(named)) = (selected.0, named)
        && selected != named
    {
        return Err(Problem::not_found("workspace"));
    }
    let workspace = selected.0.or(named);
    if reading.caller.operator {
        return Ok(workspace);
    }
    let Some(workspace) = workspace else {
        let detail = "only operators of this deployment read the whole log; name a workspace";
        return Err(Problem::forbidden(detail));
    };
    demand_history(state, reading, workspace, "workspace").await?;
    Ok(Some(workspace))
}

/// The history of a workspace shows all that its members see.
async fn demand_history(
    state: &AppState,
    reading: &Reading,
    workspace: WorkspaceId,
    noun: &'static str,
) -> Result<(), Problem> {
    for permission in
        [Permission::ViewWorkspace, Permission::ViewWorkflow, Permission::ViewExecution]
    {
        demand(state, &reading.caller, workspace, permission, noun).await?;
    }
    Ok(())
}

/// The workspace of a stream and its version, for who may read it.
async fn demand_stream(
    state: &AppState,
    reading: &Reading,
    stream: StreamId,
) -> Result<(Option<WorkspaceId>, StreamVersion), Problem> {
    let log = state.commands.log();
    let first = log.read_stream(stream, StreamVersion::NEW, 1).await?;
    let first = first.first().ok_or_else(|| Problem::not_found("stream"))?;
    if !reading.caller.operator {
        demand_history(state, reading, WorkspaceId(first.workspace.0), "stream").await?;
    }
    let workspace = Some(first.workspace).filter(|workspace| *workspace != Workspace::NIL);
    let version = feed::version_of(log.as_ref(), first).await?;
    Ok((workspace.map(|workspace| WorkspaceId(workspace.0)), version))
}

fn starting<'a>(
    query: &'a LogEventsQuery,
    paging: &'a ListQuery,
) -> Result<Option<&'a str>, Problem> {
    match (&query.after, &paging.cursor) {
        (Some(_), Some(_)) => {
            Err(Problem::invalid("/cursor", "conflict", "cannot be given with after"))
        }
        (after, cursor) => Ok(after.as_deref().or(cursor.as_deref())),
    }
}

/// A position as it is, or the one at which the log stood at a time.
async fn bound(
    state: &AppState,
    pointer: &str,
    text: Option<&str>,
) -> Result<Option<Position>, Problem> {
    let Some(text) = text else { return Ok(None) };
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(Some(state.commands.log().position_at(time.to_utc()).await?));
    }
    let token = PositionToken::parse(text)
        .map_err(|_| Problem::invalid(pointer, "invalid", "must be a position or a time"))?;
    state.ledger.resolve(token).await.map(Some)
}

async fn log_page(state: &AppState, part: Part, limit: u32) -> Result<LogPage, Problem> {
    let Part::OfLog { mut after, until, filter } = part else { return Err(Problem::broken()) };
    let source = EventSource::of_log(state.ledger.name().await?.id);
    let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut items = Vec::new();
    for _ in 0..READS_PER_PAGE {
        if after >= until || items.len() >= wanted {
            break;
        }
        let log = state.commands.log();
        let (events, upto) = log.read(after, wanted - items.len(), &filter).await?;
        if upto == after {
            after = until;
            break;
        }
        let within = events.iter().filter(|event| event.position <= until);
        items.extend(within.map(|event| outside(event, &source)));
        after = upto.min(until);
    }
    let next_cursor = (after < until).then(|| after.to_string());
    Ok(LogPage { items, next_cursor, position: after.0, limit })
}

/// One page of a stream whose version is known.
pub(crate) async fn stream_page(
    state: &AppState,
    stream: StreamId,
    paging: &ListQuery,
    version: StreamVersion,
) -> Result<EventPage, Problem> {
    let source = EventSource::of_log(state.ledger.name().await?.id);
    let after = feed::version_cursor(paging)?;
    let wanted = usize::try_from(paging.limit).unwrap_or(usize::MAX);
    let events = state.commands.log().read_stream(stream, after, wanted).await?;
    let events: Vec<&RecordedEvent> =
        events.iter().take_while(|event| event.version <= version).collect();
    let last = events.last().map_or(version, |event| event.version);
    Ok(EventPage {
        items: events.iter().map(|event| outside(event, &source)).collect(),
        next_cursor: (last < version).then(|| last.to_string()),
        total: version.0,
        limit: paging.limit,
        offset: 0,
    })
}

fn outside(event: &RecordedEvent, source: &EventSource) -> Box<RawValue> {
    let text = String::from_utf8(encode(event, source)).expect("an envelope is made of texts");
    RawValue::from_string(text).expect("an envelope is one JSON object")
}
