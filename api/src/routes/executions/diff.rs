//! Two executions side by side: where they part, and what each node came to in both.

use axum::extract::State;
use chrono::{DateTime, Utc};
use ledgerline_commands::{Loaded, record::recorded};
use ledgerline_domain::{
    event::AnyEvent,
    execution::{
        Comparison, EventRef, Execution, NodeDelta, NodeError, NodeOutline, Outline, Parting,
        ValueDelta, compare,
    },
    id::{ExecutionId, WorkflowId},
    workflow::WorkflowVersion,
};
use ledgerline_projections::values::ExecutionStatus;
use ledgerline_store::{StreamId, StreamVersion};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::{find, view};
use crate::{
    answer::Answer,
    app::AppState,
    extract::{ListQuery, Path, Query},
    problem::Problem,
    reading::Reading,
    routes::executions::nodes::by_cursor,
};

/// Events that are read at once.
const EVENTS_READ: usize = 500;

/// With what, and how much of it is shown.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct DiffQuery {
    /// The other execution, of whatever version or workflow.
    #[param(value_type = Uuid)]
    pub with: ExecutionId,
    /// Also what is the same in both.
    #[serde(default)]
    pub all: bool,
}

/// Two executions side by side: `a` is the one of the path, `b` the other one.
#[derive(Debug, Serialize, ToSchema)]
pub struct DiffView {
    /// The one of the path.
    pub a: RunView,
    /// The other one.
    pub b: RunView,
    /// The first event at which they part; none where they did the same.
    pub parting: Option<PartingView>,
    /// How many nodes came to what, the run itself not counted.
    pub counts: DiffCounts,
    /// Node by node in the order of the first run; the run itself has the empty path.
    pub items: Vec<NodeDeltaView>,
    /// Asks for the page after it; none on the last one.
    pub next_cursor: Option<String>,
    /// How many items there are on all pages.
    pub total: usize,
    /// The limit that was applied.
    pub limit: u32,
    /// Always 0: a further page is asked for by cursor.
    pub offset: u64,
    /// Whether an execution is too long to be compared to its end.
    pub truncated: bool,
}

/// One of the two.
#[derive(Debug, Serialize, ToSchema)]
pub struct RunView {
    /// Which.
    #[schema(value_type = Uuid)]
    pub execution_id: ExecutionId,
    /// Of which workflow.
    #[schema(value_type = Uuid)]
    pub workflow_id: WorkflowId,
    /// Of which version.
    #[schema(value_type = i32)]
    pub workflow_version: WorkflowVersion,
    /// Where it stands.
    pub status: ExecutionStatus,
    /// How many events it has.
    pub events: i64,
}

/// Where two executions part.
#[derive(Debug, Serialize, ToSchema)]
pub struct PartingView {
    /// The node; empty for the run itself.
    pub path: String,
    /// The event of the first one; none where it has no more of that node.
    pub a: Option<EventRefView>,
    /// That of the other one.
    pub b: Option<EventRefView>,
}

/// An event of an execution.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventRefView {
    /// Its place in the execution, from 1.
    pub version: i64,
    /// Its stored type.
    pub r#type: &'static str,
    /// When it was recorded.
    pub at: DateTime<Utc>,
}

/// How many nodes came to what.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct DiffCounts {
    /// The same in both.
    pub same: usize,
    /// In both, and not the same.
    pub changed: usize,
    /// Only in the first one.
    pub only_a: usize,
    /// Only in the other one.
    pub only_b: usize,
}

/// A node in both.
#[derive(Debug, Serialize, ToSchema)]
pub struct NodeDeltaView {
    /// Its path.
    pub path: String,
    /// What differs, of `presence`, `status`, `attempts`, `input`, `output`, `port` and `error`.
    pub changed: Vec<&'static str>,
    /// What it came to in the first one; none where it is not in it.
    pub a: Option<NodeSide>,
    /// What it came to in the other one.
    pub b: Option<NodeSide>,
    /// Where the inputs differ.
    pub input: Option<ValueDeltaView>,
    /// Where the outputs differ.
    pub output: Option<ValueDeltaView>,
    /// How much longer it took in the other one; none where it did not come to its end in both, or was carried over.
    pub duration_delta_ms: Option<i64>,
    /// How much more the other one used of providers for it; none where neither used any. Of the empty path: all of the run.
    pub usage_delta: Option<UsageDeltaView>,
}

/// How much more the other execution used of providers; less is below 0.
#[derive(Debug, Serialize, ToSchema)]
pub struct UsageDeltaView {
    /// Tokens that went in.
    pub input_tokens: i64,
    /// Tokens that came out.
    pub output_tokens: i64,
    /// What it cost, in millionths of a dollar.
    pub cost_microusd: i64,
}

/// What a node came to in one execution.
#[derive(Debug, Serialize, ToSchema)]
pub struct NodeSide {
    /// `running`, `waiting`, `retrying`, `completed`, `skipped`, `failed` or, of the run, `cancelled`.
    pub status: &'static str,
    /// Whether it was carried over from the origin.
    pub carried: bool,
    /// The try that it is at.
    pub attempts: i32,
    /// When its first try began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it came to its end.
    pub finished_at: Option<DateTime<Utc>>,
    /// How long its tries took together.
    pub duration_ms: u64,
    /// Tokens that its tries sent to providers; of the run, those of all nodes.
    pub input_tokens: u64,
    /// Tokens that they got from providers.
    pub output_tokens: u64,
    /// What they spent with providers, in millionths of a dollar.
    pub cost_microusd: u64,
    /// The port it left by.
    pub port: Option<String>,
    /// Why its last try failed: `{kind, message, details}`.
    #[schema(value_type = Option<Object>)]
    pub error: Option<NodeError>,
}

/// Where two values differ.
#[derive(Debug, Serialize, ToSchema)]
pub struct ValueDeltaView {
    /// The places, at most 20.
    pub changes: Vec<ValueChangeView>,
    /// Whether there are more, or a value is too large to be looked into.
    pub truncated: bool,
}

/// A place at which two values differ.
#[derive(Debug, Serialize, ToSchema)]
pub struct ValueChangeView {
    /// JSON Pointer to it.
    pub pointer: String,
    /// What the first one has there; left out where it has nothing. What is large is named by its size, a blob by its hash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub a: Option<Value>,
    /// What the other one has there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub b: Option<Value>,
}

/// Hold an execution against another one: the first event at which they part, and node by node what differs in input, output, status,
/// tries and time. They may be of different versions.
#[utoipa::path(get, path = "/executions/{id}/diff", tag = "executions",
    params(
        ("id" = Uuid, Path),
        DiffQuery,
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, body = DiffView)))]
pub async fn get(
    State(state): State<AppState>,
    reading: Reading,
    Path(id): Path<ExecutionId>,
    Query(query): Query<DiffQuery>,
    paging: ListQuery,
) -> Result<Answer<DiffView>, Problem> {
    by_cursor(&paging)?;
    let position = reading.log();
    let found = find(&state, &reading, id).await?;
    let other = find(&state, &reading, query.with).await?;
    let a = Side { run: run(id, &found)?, outline: outline(&state, id, &found).await? };
    let outline = outline(&state, query.with, &other).await?;
    let b = Side { run: run(query.with, &other)?, outline };
    let comparison = compare(&a.outline, &b.outline);
    Ok(reading.answer(side_by_side(a, b, comparison, query.all, &paging)?, position))
}

/// One of two executions that are compared.
pub(crate) struct Side {
    /// Which.
    pub(crate) run: RunView,
    /// What it did.
    pub(crate) outline: Outline,
}

/// A page of what two executions came to side by side.
///
/// # Errors
/// 422 for what is no cursor of this list.
pub(crate) fn side_by_side(
    a: Side,
    b: Side,
    comparison: Comparison,
    all: bool,
    paging: &ListQuery,
) -> Result<DiffView, Problem> {
    let (Side { run: run_a, outline: a }, Side { run: run_b, outline: b }) = (a, b);
    let counts = count(&comparison, &a);
    let parting = comparison.parting.map(parting);
    let shown: Vec<&NodeDelta> =
        comparison.nodes.iter().filter(|node| all || !node.changed.is_empty()).collect();
    let from = match paging.cursor.as_deref().map(str::parse::<usize>) {
        None => 0,
        Some(Ok(from)) => from,
        Some(Err(_)) => {
            return Err(Problem::invalid("/cursor", "invalid", "is not a cursor of this list"));
        }
    };
    let limit = usize::try_from(paging.limit).unwrap_or(usize::MAX);
    let items = shown.iter().skip(from).take(limit).map(|node| item(node, &a, &b)).collect();
    let next = from.saturating_add(limit);
    Ok(DiffView {
        a: run_a,
        b: run_b,
        parting,
        counts,
        items,
        next_cursor: (next < shown.len()).then(|| next.to_string()),
        total: shown.len(),
        limit: paging.limit,
        offset: 0,
        truncated: comparison.truncated,
    })
}

/// An execution as far as it is compared.
pub(crate) async fn outline(
    state: &AppState,
    id: ExecutionId,
    loaded: &Loaded<Execution>,
) -> Result<Outline, Problem> {
    let mut outline = Outline::default();
    let mut read = StreamVersion::NEW;
    while read < loaded.version && !outline.truncated() {
        let page = state.commands.log().read_stream(StreamId(id.0), read, EVENTS_READ).await?;
        let Some(last) = page.last() else { break };
        read = last.version;
        for row in page.iter().take_while(|row| row.version <= loaded.version) {
            let event = recorded(row)?;
            if let AnyEvent::Execution(execution) = &event.event {
                outline.apply(event.version, event.recorded_at, execution);
            }
        }
    }
    Ok(outline)
}

pub(crate) fn run(id: ExecutionId, loaded: &Loaded<Execution>) -> Result<RunView, Problem> {
    let run = loaded.state.run().ok_or_else(|| Problem::not_found("execution"))?;
    let status = loaded.state.status().ok_or_else(|| Problem::not_found("execution"))?;
    Ok(RunView {
        execution_id: id,
        workflow_id: run.request.workflow_id,
        workflow_version: run.request.workflow_version,
        status: view::word(status),
        events: loaded.version.0,
    })
}

fn count(comparison: &Comparison, a: &Outline) -> DiffCounts {
    let mut counts = DiffCounts::default();
    for node in comparison.nodes.iter().filter(|node| !node.path.as_str().is_empty()) {
        let counted = match (node.changed.contains(&"presence"), a.get(&node.path)) {
            (true, Some(_)) => &mut counts.only_a,
            (true, None) => &mut counts.only_b,
            (false, _) if node.changed.is_empty() => &mut counts.same,
            (false, _) => &mut counts.changed,
        };
        *counted += 1;
    }
    counts
}

fn parting(parting: Parting) -> PartingView {
    let event = |event: EventRef| {
        let EventRef { version, r#type, at } = event;
        EventRefView { version, r#type, at }
    };
    PartingView { path: parting.path.0, a: parting.a.map(event), b: parting.b.map(event) }
}

fn item(node: &NodeDelta, a: &Outline, b: &Outline) -> NodeDeltaView {
    NodeDeltaView {
        path: node.path.0.clone(),
        changed: node.changed.clone(),
        a: a.get(&node.path).map(side),
        b: b.get(&node.path).map(side),
        input: node.input.as_ref().map(value),
        output: node.output.as_ref().map(value),
        duration_delta_ms: node.duration_delta_ms,
        usage_delta: node.usage_delta.map(|delta| UsageDeltaView {
            input_tokens: delta.input_tokens,
            output_tokens: delta.output_tokens,
            cost_microusd: delta.cost_microusd,
        }),
    }
}

fn side(node: &NodeOutline) -> NodeSide {
    NodeSide {
        status: node.status,
        carried: node.carried,
        attempts: node.attempts,
        started_at: node.started_at,
        finished_at: node.finished_at,
        duration_ms: node.duration_ms,
        input_tokens: node.usage.input_tokens,
        output_tokens: node.usage.output_tokens,
        cost_microusd: node.usage.cost_microusd,
        port: node.port.clone(),
        error: node.error.clone(),
    }
}

fn value(delta: &ValueDelta) -> ValueDeltaView {
    let changes = delta.changes.iter().map(|change| ValueChangeView {
        pointer: change.pointer.clone(),
        a: change.a.clone(),
        b: change.b.clone(),
    });
    ValueDeltaView { changes: changes.collect(), truncated: delta.truncated }
}
