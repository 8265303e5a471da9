//! An execution as its own page and the answers of its commands show it: the fold of its events, so never behind them.
//!
//! The fields have the names of the list's items. Times are those of the events themselves, which the fold does not keep.

use chrono::{DateTime, Utc};
use ledgerline_commands::Loaded;
use ledgerline_domain::{
    execution::{
        CancelReason, EndCause, Execution, Intent, NodeError, NodeOutput, NodePath, OriginKind,
        Phase, Queue, Reached, Run, Status,
    },
    id::{ExecutionId, UserId, WorkflowId, WorkspaceId},
    json::Json,
    workflow::{Workflow, WorkflowVersion},
};
use ledgerline_projections::{
    executions::BlobReference,
    values::{ExecutionStatus, Trigger},
};
use ledgerline_store::{StreamId, StreamVersion};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    compensation::{CompensationView, ExecutionPhase, compensation, phase},
    why::{LimitView, WaitsForView},
};
use crate::{app::AppState, personal, problem::Problem};

/// The largest output that is answered as a value; a larger one is named by its hash.
const MAX_RESOLVED_BYTES: u64 = 1024 * 1024;

/// Events of a run that are read at once for its first times: what comes before its start are a handful.
const FIRST_EVENTS: usize = 16;

/// An execution as folded.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Execution)]
pub struct ExecutionView {
    /// Its id.
    #[schema(value_type = Uuid)]
    pub id: ExecutionId,
    /// The workspace it belongs to.
    #[schema(value_type = Uuid)]
    pub workspace_id: WorkspaceId,
    /// The workflow it is a run of.
    #[schema(value_type = Uuid)]
    pub workflow_id: WorkflowId,
    /// The version that it keeps to its end.
    #[schema(value_type = i32)]
    pub workflow_version: WorkflowVersion,
    /// The name that the workflow has now.
    pub workflow_name: Option<String>,
    /// Where it stands.
    pub status: ExecutionStatus,
    /// True while no worker has it and it only waits: for a time, or for a slot to go on.
    pub waiting: bool,
    /// True when a cancel was accepted and the running step is being aborted.
    pub cancelling: bool,
    /// Which way it goes: `forward`, or `compensating` while it undoes what it did; nothing once it has ended.
    pub phase: Option<ExecutionPhase>,
    /// What it undoes or undid, where it comes or came to a bad end and there was anything to undo.
    pub compensation: Option<CompensationView>,
    /// What it waits for; nothing once it has ended.
    pub waits_for: Option<WaitsForView>,
    /// What started it.
    pub trigger_type: Trigger,
    /// Which line it waits in: `high`, `default` or `low`.
    #[schema(value_type = String)]
    pub queue: Queue,
    /// What its first limit counts.
    pub limit_key: Option<String>,
    /// The limits that concern it: it runs while it has a slot of each.
    pub limits: Vec<LimitView>,
    /// Tokens that its nodes sent to providers.
    pub input_tokens: u64,
    /// Tokens that its nodes got from providers.
    pub output_tokens: u64,
    /// What its nodes spent with providers, in millionths of a dollar.
    pub cost_microusd: u64,
    /// Who asked for it; none where a program did.
    #[schema(value_type = Option<Uuid>)]
    pub created_by: Option<UserId>,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// When it first waited for a slot.
    pub queued_at: Option<DateTime<Utc>>,
    /// When a worker began it.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// When the whole run times out.
    pub timeout_at: Option<DateTime<Utc>>,
    /// From its start to its end.
    pub duration_ms: Option<i64>,
    /// Finished nodes over planned ones, 0 to 1.
    pub progress: f64,
    /// How many nodes of the top level came to an end.
    pub finished_nodes: usize,
    /// How many nodes the graph has at its top level.
    pub planned_nodes: u32,
    /// How often the right to run it was handed out; none before the first time.
    pub claim: Option<i32>,
    /// The worker process that has or had it.
    pub worker: Option<String>,
    /// The execution it was made from.
    #[schema(value_type = Option<Uuid>)]
    pub origin_execution_id: Option<ExecutionId>,
    /// How: `retry`, `rerun` or `fork`.
    #[schema(value_type = Option<String>)]
    pub origin_kind: Option<OriginKind>,
    /// The node that it began with, where it is a rerun from a node.
    #[schema(value_type = Option<String>)]
    pub origin_node: Option<NodePath>,
    /// How many events of its origin it took as its past, where it is a fork.
    pub origin_version: Option<i64>,
    /// The execution whose node started it as its child.
    #[schema(value_type = Option<Uuid>)]
    pub parent_execution_id: Option<ExecutionId>,
    /// That node.
    #[schema(value_type = Option<String>)]
    pub parent_node: Option<NodePath>,
    /// How many triggers and child runs lie between it and a person.
    pub depth: u16,
    /// Why it was or is being stopped.
    #[schema(value_type = Option<String>)]
    pub cancel_reason: Option<CancelReason>,
    /// The node that failed it.
    #[schema(value_type = Option<String>)]
    pub failed_node: Option<NodePath>,
    /// Why it failed: `{kind, message, details}`.
    #[schema(value_type = Option<Object>)]
    pub error: Option<NodeError>,
    /// What the trigger gave.
    #[schema(value_type = serde_json::Value)]
    pub input: Json,
    /// What came out. Of an output over 1 MiB only the reference is here: `GET /executions/{id}/output` has it.
    #[schema(value_type = Option<serde_json::Value>)]
    pub output: Option<Json>,
    /// Where an output is that is not kept inline.
    pub output_blob: Option<BlobReference>,
    /// How many events it has: its `ETag`.
    pub version: i64,
    /// Position of its last event.
    pub position: i64,
}

/// When the first steps of a run were recorded.
#[derive(Clone, Copy, Debug, Default)]
struct FirstTimes {
    queued_at: Option<DateTime<Utc>>,
    started_at: Option<DateTime<Utc>>,
}

/// Shows an execution at the version that was loaded.
///
/// # Errors
/// 404 where it does not exist (at that moment); 503 when the log is away.
pub(crate) async fn view(
    state: &AppState,
    id: ExecutionId,
    loaded: &Loaded<Execution>,
) -> Result<ExecutionView, Problem> {
    let execution = loaded.state.as_ref();
    let (Some(run), Some(status)) = (execution.run(), execution.status()) else {
        return Err(Problem::not_found("execution"));
    };
    let stream = StreamId(id.0);
    let created = state.ledger.touch(stream, StreamVersion(1)).await?;
    let times = first_times(state, stream, execution, loaded.version).await?;
    // Nothing follows on the event that ends a run.
    let finished_at = match execution.has_ended() {
        true => Some(state.ledger.touch(stream, loaded.version).await?.at),
        false => None,
    };
    let workflow = state.commands.load::<Workflow>(run.request.workflow_id).await?;
    let workflow_name = workflow.state.content().map(|content| content.latest().name.clone());
    let (output, output_blob) = resolve(state, execution).await?;
    let output = match output {
        Some(output) => Some(personal::show(state, run.request.workspace_id, output).await?),
        None => None,
    };
    let (ended, request) = (Ended::of(execution), &run.request);
    let taken = times.started_at.zip(finished_at).map(|(from, to)| (to - from).num_milliseconds());
    let origin = request.origin.as_ref();
    Ok(ExecutionView {
        id,
        workspace_id: request.workspace_id,
        workflow_id: request.workflow_id,
        workflow_version: request.workflow_version,
        workflow_name,
        status: word(status),
        waiting: execution.is_waiting(),
        cancelling: ended.cancelling,
        phase: phase(execution),
        compensation: compensation(execution),
        waits_for: execution.waits_for().map(Into::into),
        trigger_type: request.trigger_type.into(),
        queue: request.queue,
        limit_key: request.limits.first().map(|limit| limit.key.clone()),
        limits: request.limits.iter().map(Into::into).collect(),
        input_tokens: run.usage.input_tokens,
        output_tokens: run.usage.output_tokens,
        cost_microusd: run.usage.cost_microusd,
        created_by: created.by,
        created_at: created.at,
        queued_at: times.queued_at,
        started_at: times.started_at,
        finished_at,
        timeout_at: request.timeout_at,
        duration_ms: taken,
        progress: progress(status, run),
        finished_nodes: run.finished_nodes(),
        planned_nodes: request.planned_nodes,
        claim: (run.claim.0 > 0).then_some(run.claim.0),
        worker: run.worker.clone(),
        origin_execution_id: origin.map(|origin| origin.execution_id),
        origin_kind: origin.map(|origin| origin.kind),
        origin_node: origin.and_then(|origin| origin.from_node.clone()),
        origin_version: origin.and_then(|origin| origin.at_version),
        parent_execution_id: request.parent.as_ref().map(|parent| parent.execution_id),
        parent_node: request.parent.as_ref().map(|parent| parent.path.clone()),
        depth: request.depth,
        cancel_reason: ended.cancel_reason,
        failed_node: ended.failed_node,
        error: ended.error,
        input: personal::show(state, request.workspace_id, request.input.clone()).await?,
        output,
        output_blob,
        version: loaded.version.0,
        position: loaded.position.0,
    })
}

/// What only some of the states have.
#[derive(Default)]
struct Ended {
    cancelling: bool,
    cancel_reason: Option<CancelReason>,
    failed_node: Option<NodePath>,
    error: Option<NodeError>,
}

impl Ended {
    fn of(execution: &Execution) -> Self {
        match execution {
            Execution::New | Execution::Completed { .. } => Self::default(),
            Execution::Open(open) => {
                let told = match &open.phase {
                    Phase::Running { intent: Intent::Cancel(reason), .. } => Some(*reason),
                    Phase::Running { intent: Intent::GoOn | Intent::Pause(_), .. }
                    | Phase::Idle(_)
                    | Phase::Dispatched
                    | Phase::Paused { .. } => None,
                };
                let ended = match open.undoing().map(|undoing| &undoing.because) {
                    None => Self { cancel_reason: told, ..Self::default() },
                    Some(EndCause::Cancelled { reason }) => {
                        Self { cancel_reason: Some(*reason), ..Self::default() }
                    }
                    Some(EndCause::Failed { node, error }) => Self {
                        failed_node: node.clone(),
                        error: Some(error.clone()),
                        ..Self::default()
                    },
                };
                Self { cancelling: told.is_some(), ..ended }
            }
            Execution::Failed { node, error, .. } => {
                Self { failed_node: node.clone(), error: Some(error.clone()), ..Self::default() }
            }
            Execution::Cancelled { reason, .. } => {
                Self { cancel_reason: Some(*reason), ..Self::default() }
            }
        }
    }
}

/// The word of a status for rows and answers.
pub(crate) const fn word(status: Status) -> ExecutionStatus {
    match status {
        Status::Pending => ExecutionStatus::Pending,
        Status::Queued => ExecutionStatus::Queued,
        Status::Running => ExecutionStatus::Running,
        Status::Paused => ExecutionStatus::Paused,
        Status::Completed => ExecutionStatus::Completed,
        Status::Failed => ExecutionStatus::Failed,
        Status::Cancelled => ExecutionStatus::Cancelled,
    }
}

fn progress(status: Status, run: &Run) -> f64 {
    let planned = f64::from(run.request.planned_nodes);
    if status == Status::Completed {
        return 1.0;
    }
    if planned == 0.0 {
        return 0.0;
    }
    let finished = u32::try_from(run.finished_nodes()).unwrap_or(u32::MAX);
    (f64::from(finished) / planned).min(1.0)
}

/// When it was first queued and started. Both come before any node, so they are among the first events.
async fn first_times(
    state: &AppState,
    stream: StreamId,
    execution: &Execution,
    version: StreamVersion,
) -> Result<FirstTimes, Problem> {
    let mut times = FirstTimes::default();
    if execution.open().is_some_and(|open| open.reached == Reached::Pending) {
        return Ok(times);
    }
    let mut after = StreamVersion::NEW;
    while after < version {
        let events = state.commands.log().read_stream(stream, after, FIRST_EVENTS).await?;
        let Some(last) = events.last() else { break };
        after = last.version;
        for event in events.iter().filter(|event| event.version <= version) {
            match event.r#type.as_str() {
                "execution_queued" => times.queued_at = times.queued_at.or(Some(event.recorded_at)),
                "execution_started" => {
                    times.started_at = Some(event.recorded_at);
                    return Ok(times);
                }
                _ => {}
            }
        }
    }
    Ok(times)
}

/// The output as a value where it is small enough, and where it is kept when it is a blob.
async fn resolve(
    state: &AppState,
    execution: &Execution,
) -> Result<(Option<Json>, Option<BlobReference>), Problem> {
    let Execution::Completed { output, .. } = execution else { return Ok((None, None)) };
    let (hash, size_bytes) = match output {
        NodeOutput::Inline(value) => return Ok((Some(value.clone()), None)),
        NodeOutput::Blob { hash, size_bytes } => (hash, *size_bytes),
    };
    let reference = BlobReference { hash: hash.clone(), size_bytes };
    if size_bytes > MAX_RESOLVED_BYTES {
        return Ok((None, Some(reference)));
    }
    let content = state.commands.log().blob(hash).await?;
    let text = content.as_deref().and_then(|content| std::str::from_utf8(content).ok());
    let value = text.and_then(|text| Json::parse(text).ok());
    if value.is_none() {
        tracing::error!(%hash, "an output is missing among the blobs or is not JSON");
    }
    Ok((value, Some(reference)))
}
