//! The nodes of an execution: every run of each, with what went in, what came out and every failed try.

use axum::extract::State;
use ledgerline_domain::id::ExecutionId;
use ledgerline_projections::{
    Model,
    execution_nodes::{self, ExecutionNode, PastNodes},
};
use ledgerline_store::{StreamId, StreamVersion};
use serde::Serialize;
use utoipa::ToSchema;

use super::{find, find_at};
use crate::{
    answer::Answer,
    app::AppState,
    extract::{AsOf, ListQuery, Path},
    personal,
    problem::Problem,
    reading::{AsOfParams, Reading},
};

/// Events that are read at once when nodes are folded as they were.
const EVENTS_READ: usize = 500;

/// A page of the nodes of an execution.
#[derive(Debug, Serialize, ToSchema)]
pub struct NodePage {
    /// In the order in which they began.
    pub items: Vec<ExecutionNode>,
    /// Asks for the page after it; none on the last one.
    pub next_cursor: Option<String>,
    /// How many there are, or were then.
    pub total: usize,
    /// The limit that was applied.
    pub limit: u32,
    /// Always 0: a further page is asked for by cursor.
    pub offset: u64,
}

/// List the nodes of an execution in the order in which they began, now or as they were.
#[utoipa::path(get, path = "/executions/{id}/nodes", tag = "executions",
    params(
        ("id" = Uuid, Path),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        AsOfParams,
    ),
    responses((status = 200, body = NodePage)))]
pub async fn list(
    State(state): State<AppState>,
    reading: Reading,
    Path(id): Path<ExecutionId>,
    paging: ListQuery,
    at: AsOf,
) -> Result<Answer<NodePage>, Problem> {
    by_cursor(&paging)?;
    let after = paging.cursor.as_deref().map_or(Ok((0, "")), place)?;
    let kept = usize::try_from(paging.limit).unwrap_or(usize::MAX);
    let (found, position, mut items) = if at == AsOf::Now {
        let found = find(&state, &reading, id).await?;
        let position = reading.rows(&[Model::ExecutionNodes]).await?;
        let wanted = i64::from(paging.limit) + 1;
        let items = execution_nodes::list(&state.pool, id.0, after, wanted).await?;
        (found, position, items)
    } else {
        let (found, position) = find_at(&state, &reading, id, at).await?;
        let items = as_of(&state, StreamId(id.0), found.version, after, kept + 1).await?;
        (found, position, items)
    };
    let more = items.len() > kept;
    items.truncate(kept);
    if let Some(run) = found.state.run() {
        for node in &mut items {
            personal::show_raw(&state, run.request.workspace_id, &mut node.input).await?;
            personal::show_raw(&state, run.request.workspace_id, &mut node.output).await?;
        }
    }
    let next_cursor =
        items.last().filter(|_| more).map(|node| format!("{}.{}", node.first_position, node.path));
    let total = found.state.run().map_or(0, |run| run.nodes.len());
    let body = NodePage { items, next_cursor, total, limit: paging.limit, offset: 0 };
    Ok(reading.answer(body, position))
}

/// Nodes as they were when the execution had a version: folded from its events in the way in which the read model folds them.
async fn as_of(
    state: &AppState,
    stream: StreamId,
    version: StreamVersion,
    after: (i64, &str),
    limit: usize,
) -> Result<Vec<ExecutionNode>, Problem> {
    let mut nodes = PastNodes::new(after, limit);
    let mut read = StreamVersion::NEW;
    while read < version {
        let page = state.commands.log().read_stream(stream, read, EVENTS_READ).await?;
        let Some(last) = page.last() else { break };
        read = last.version;
        for event in page.into_iter().take_while(|event| event.version <= version) {
            nodes.apply(event)?;
        }
    }
    Ok(nodes.into_items()?)
}

/// Lists in the order of the log are paged by cursor alone.
///
/// # Errors
/// 422 for an offset or an order.
pub(crate) fn by_cursor(paging: &ListQuery) -> Result<(), Problem> {
    if paging.offset > 0 {
        return Err(Problem::invalid("/offset", "unsupported", "is not possible here: use cursor"));
    }
    if paging.sort.is_some() {
        return Err(Problem::invalid("/sort", "unsupported", "is not possible here"));
    }
    Ok(())
}

/// A place in the order of the list: the first position, then the path.
fn place(cursor: &str) -> Result<(i64, &str), Problem> {
    cursor
        .split_once('.')
        .and_then(|(position, path)| Some((position.parse().ok()?, path)))
        .ok_or_else(|| Problem::invalid("/cursor", "invalid", "is not a cursor of this list"))
}
