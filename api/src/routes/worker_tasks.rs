//! Steps for external workers: a worker in any language asks for a task, does it, and reports, over HTTP alone.
//!
//! A task is taken under a lease. The worker is heard of by its heartbeats; where it is not, the task goes to another one, and whatever the
//! first one reports is refused with the rule `task_lost`: that, and not the network, is what keeps a step from being done twice in the log.

use std::time::Duration;

use axum::{extract::State, http::StatusCode, response::IntoResponse as _};
use chrono::{DateTime, Utc};
use ledgerline_commands::{CommandError, Scope, Target, Transacted, due::due_key};
use ledgerline_domain::{
    execution::{
        Attempt, ErrorKind, Execution, ExecutionCommand, ExecutionRejection, NodeError, NodeOutput,
        NodePath, TaskLease, TaskOutcome, TaskRef, TimerKind,
    },
    id::{ExecutionId, WorkflowId, WorkspaceId},
    json::Json,
    limits::{MAX_INLINE_OUTPUT_BYTES, MAX_NODE_ID_CHARS, MAX_WORKER_NAME_CHARS},
    permission::Permission,
};
use ledgerline_projections::{
    Model, execution_nodes,
    execution_waits::{OfferedTask, offered},
    values::RawJson,
};
use ledgerline_store::{DueTime, Filter, Position, StreamId, Workspace};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};
use utoipa::ToSchema;
use uuid::Uuid;

use super::executions::{answer, view::ExecutionView, workspace_of};
use crate::{
    access::demand,
    app::AppState,
    extract::{JsonBody, Path, WorkspaceSelector},
    personal,
    problem::{Problem, ProblemKind},
    reading::WorkspaceParams,
    refusal::Refusal,
    writing::{Instead, Reply, Writing},
};

/// The longest that a poll waits: below what proxies and the deadline of requests allow.
const MAX_WAIT_MS: u64 = 20_000;
/// Tasks that one look at the queue considers: as many pollers as this may come at the same instant without leaving empty-handed.
const CANDIDATES: i64 = 32;
/// How long rows may be behind what woke a poll.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a worker asks for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PollTask {
    /// The queue that the tasks name.
    #[schema(example = "images")]
    pub queue: String,
    /// How long to wait for a task when there is none, at most 20 s.
    #[serde(default)]
    #[schema(maximum = 20_000)]
    pub wait_ms: u64,
    /// What the worker calls itself, as the history shows it.
    #[serde(default = "anonymous")]
    #[schema(max_length = 255)]
    pub worker: String,
}

fn anonymous() -> String {
    "worker".to_owned()
}

/// What a poll found.
#[derive(Debug, Serialize, ToSchema)]
pub struct Polled {
    /// The task that is the worker's now; none when there was none in time.
    pub task: Option<TakenTask>,
}

/// A task that a worker has.
#[derive(Debug, Serialize, ToSchema)]
pub struct TakenTask {
    /// Its name in the other calls.
    pub id: String,
    /// Proves that it is this worker's: goes with every other call. Whoever takes it later has a higher one.
    #[schema(value_type = u32)]
    pub lease: TaskLease,
    /// The execution that waits for it.
    #[schema(value_type = Uuid)]
    pub execution_id: ExecutionId,
    /// The workflow that this is a run of.
    #[schema(value_type = Uuid)]
    pub workflow_id: WorkflowId,
    /// The node.
    #[schema(value_type = String)]
    pub node: NodePath,
    /// Which try, from 1.
    #[schema(value_type = i32)]
    pub attempt: Attempt,
    /// The same for every time that this try is done: for services that take such a key.
    pub idempotency_key: String,
    /// The queue.
    pub queue: String,
    /// What to work on.
    #[schema(value_type = serde_json::Value)]
    pub input: Option<RawJson>,
    /// How long the worker may not be heard of.
    pub heartbeat_timeout_ms: u64,
    /// When it counts as lost unless it is heard of.
    pub expires_at: DateTime<Utc>,
}

/// What came of a task.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CompleteTask {
    /// The lease that the worker has.
    #[schema(value_type = u32)]
    pub lease: TaskLease,
    /// The output of the node.
    #[serde(default)]
    #[schema(value_type = serde_json::Value)]
    pub output: Json,
}

/// Why a task failed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FailTask {
    /// The lease that the worker has.
    #[schema(value_type = u32)]
    pub lease: TaskLease,
    /// Why.
    #[serde(deserialize_with = "crate::extract::body::object")]
    pub error: TaskError,
}

/// A failure as a worker tells it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskError {
    /// Whether it may pass (`transient`, `timeout`: the node's retry policy says when it is tried again) or not (`permanent`,
    /// `validation`).
    #[serde(default)]
    pub kind: TaskErrorKind,
    /// For a person.
    #[schema(max_length = 10_000)]
    pub message: String,
    /// For programs.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub details: Option<serde_json::Map<String, serde_json::Value>>,
}

/// The kinds of failures that a worker may tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskErrorKind {
    /// May pass.
    #[default]
    Transient,
    /// Will not pass.
    Permanent,
    /// What it was given is wrong.
    Validation,
    /// Took too long.
    Timeout,
}

/// A sign of life.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HeartbeatTask {
    /// The lease that the worker has.
    #[schema(value_type = u32)]
    pub lease: TaskLease,
}

/// What a sign of life is good for.
#[derive(Debug, Serialize, ToSchema)]
pub struct Heartbeat {
    /// When the worker counts as lost unless it is heard of again.
    pub expires_at: DateTime<Utc>,
}

/// Take the oldest task of a queue, or wait for one. A worker asks in the workspace that the tasks belong to.
///
/// The answer to a poll that is lost on the way is made good when the lease runs out; an `Idempotency-Key` has no meaning here.
#[utoipa::path(post, path = "/worker-tasks/poll", tag = "worker-tasks", params(WorkspaceParams),
    request_body = PollTask, responses((status = 200, body = Polled)))]
pub async fn poll(
    State(state): State<AppState>,
    writing: Writing,
    workspace: WorkspaceSelector,
    JsonBody { value: wanted, hash }: JsonBody<PollTask>,
) -> Reply {
    let workspace = workspace.or_default(&writing.caller);
    let permission = Permission::ControlExecution;
    demand(&state, &writing.caller, workspace, permission, "workspace").await?;
    check(&wanted)?;
    let deadline = Instant::now() + Duration::from_millis(wanted.wait_ms);
    // Whoever may not wait any more is answered at once: workers must not use up what other requests need.
    let permit = state.polls.try_acquire().ok();
    let deadline = if permit.is_some() { deadline } else { Instant::now() };
    let mut seen = state.positions.current(&[Model::ExecutionWaits]).await?;
    let task = loop {
        if let Some(task) = take(&state, &writing, workspace, &wanted, hash).await? {
            break Some(task);
        }
        match timeout_at(deadline, next_offer(&state, workspace, seen)).await {
            Ok(next) => seen = next?,
            Err(_) => break None,
        }
    };
    let position = state.ledger.head();
    Ok(writing.answer(StatusCode::OK, Polled { task }, position).into_response())
}

fn check(wanted: &PollTask) -> Result<(), Problem> {
    if wanted.queue.is_empty() || wanted.queue.len() > MAX_NODE_ID_CHARS {
        let detail = format!("must have 1 to {MAX_NODE_ID_CHARS} characters");
        return Err(Problem::invalid("/queue", "out_of_range", detail));
    }
    if wanted.wait_ms > MAX_WAIT_MS {
        let detail = format!("must be at most {MAX_WAIT_MS}");
        return Err(Problem::invalid("/wait_ms", "out_of_range", detail));
    }
    if !(1..=MAX_WORKER_NAME_CHARS).contains(&wanted.worker.chars().count()) {
        let detail = format!("must have 1 to {MAX_WORKER_NAME_CHARS} characters");
        return Err(Problem::invalid("/worker", "out_of_range", detail));
    }
    Ok(())
}

/// Waits until a task of the workspace is offered, or may be taken again, and the rows say so.
async fn next_offer(
    state: &AppState,
    workspace: WorkspaceId,
    after: Position,
) -> Result<Position, Problem> {
    let filter = Filter {
        workspace: Some(Workspace(workspace.0)),
        types: ["task_offered", "task_returned", "execution_unpaused"].map(str::to_owned).into(),
        ..Filter::default()
    };
    let restart = || Problem::new(ProblemKind::Overloaded, "the process is restarting");
    let mut follow = state.gateway.follow(after, filter).await.map_err(|_stopped| restart())?;
    let event = follow.next().await.map_err(|_stopped| restart())?;
    let models = [Model::ExecutionWaits, Model::Executions];
    // Where the rows are late the next look finds them: the task is not lost.
    let _late = state.positions.wait(&models, event.position, PATIENCE).await;
    Ok(event.position)
}

/// Takes the first task that may be taken.
async fn take(
    state: &AppState,
    writing: &Writing,
    workspace: WorkspaceId,
    wanted: &PollTask,
    hash: [u8; 32],
) -> Result<Option<TakenTask>, Instead> {
    for found in offered(&state.pool, workspace.0, &wanted.queue, CANDIDATES).await? {
        let id = ExecutionId(found.execution_id);
        // Looked up before it is taken: once it is, nothing may fail.
        let mut input = input_of(state, &found).await?;
        // Whoever does the work of the node is given what the node would be.
        personal::show_raw(state, workspace, &mut input).await?;
        let Some(input) = input else { continue };
        let task = TaskRef { path: NodePath(found.path), attempt: Attempt(found.attempt) };
        let (task, worker) = (&task, &wanted.worker);
        let context =
            ledgerline_commands::Context { key: None, ..writing.context(workspace, hash) };
        let plan = |scope: Scope| async move {
            let permission = Permission::ControlExecution;
            writing.authorise(&scope, workspace, permission, "workspace").await?;
            let command = ExecutionCommand::TakeTask { task: task.clone(), worker: worker.clone() };
            Ok((Target::existing(id), command))
        };
        let executed = match writing.execute::<Execution, _, _>(&context, plan).await {
            Ok(executed) => executed,
            // Another worker was first, or the run is held or over: the next one.
            Err(Instead::Problem(problem)) if problem.kind() == ProblemKind::RuleRefused => {
                continue;
            }
            Err(instead) => return Err(instead),
        };
        let Some((lease, expires_at)) = taken_by(&executed.events) else { continue };
        let Some(run) = executed.state.run() else { continue };
        let held = executed.state.held_task(task, lease);
        let held = held.map_err(|rejection| Problem::from(Refusal::from(rejection)))?;
        return Ok(Some(TakenTask {
            id: task_id(id, task),
            lease,
            execution_id: id,
            workflow_id: run.request.workflow_id,
            node: task.path.clone(),
            attempt: task.attempt,
            idempotency_key: format!("{id}/{}/{}", task.path.as_str(), task.attempt.0),
            queue: held.queue.clone(),
            input: Some(input),
            heartbeat_timeout_ms: held.heartbeat_timeout_ms,
            expires_at,
        }));
    }
    Ok(None)
}

/// Under which lease a task was taken, and when that runs out.
fn taken_by(
    events: &[ledgerline_domain::execution::ExecutionEvent],
) -> Option<(TaskLease, DateTime<Utc>)> {
    use ledgerline_domain::execution::ExecutionEvent;
    let mut taken = (None, None);
    for event in events {
        match event {
            ExecutionEvent::TaskTaken(event) => taken.0 = Some(event.lease),
            ExecutionEvent::TimerSet(event) => taken.1 = Some(event.due_at),
            _ => {}
        }
    }
    taken.0.zip(taken.1)
}

/// The input of a task; none when the node's row does not hold it (any more).
async fn input_of(state: &AppState, task: &OfferedTask) -> Result<Option<RawJson>, Problem> {
    #[derive(Deserialize)]
    struct Recorded {
        input: Box<serde_json::value::RawValue>,
    }
    let models = [Model::ExecutionNodes];
    if state.positions.wait(&models, Position(task.position), PATIENCE).await.is_err() {
        return Ok(None);
    }
    let node = execution_nodes::get(&state.pool, task.execution_id, &task.path).await?;
    let input = node.filter(|node| node.attempt == task.attempt).and_then(|node| node.input);
    let recorded = input.and_then(|input| serde_json::from_str::<Recorded>(input.0.get()).ok());
    Ok(recorded.map(|recorded| sqlx::types::Json(recorded.input)))
}

/// Report that a task is done. `output` is the output of the node.
#[utoipa::path(post, path = "/worker-tasks/{id}/complete", tag = "worker-tasks",
    params(("id" = String, Path)), request_body = CompleteTask,
    responses((status = 200, body = ExecutionView)))]
pub async fn complete(
    State(state): State<AppState>,
    writing: Writing,
    Path(id): Path<String>,
    JsonBody { value, hash }: JsonBody<CompleteTask>,
) -> Reply {
    let (execution, task) = parse_task(&id)?;
    let workspace = permitted(&state, &writing, execution).await?;
    let text = value.output.as_str();
    let output = if text.len() > MAX_INLINE_OUTPUT_BYTES {
        // Stored before the event that names it; a value that no event comes to name is only in nobody's way.
        let hash = state.commands.log().put_blob(text.as_bytes()).await?;
        let size_bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
        NodeOutput::Blob { hash, size_bytes }
    } else {
        NodeOutput::Inline(value.output)
    };
    let outcome = TaskOutcome::Completed(output);
    finish(&state, &writing, (workspace, execution), (task, value.lease, outcome), hash).await
}

/// Report that a task failed. The retry policy of the node says whether and when it is offered again, as another try.
#[utoipa::path(post, path = "/worker-tasks/{id}/fail", tag = "worker-tasks",
    params(("id" = String, Path)), request_body = FailTask,
    responses((status = 200, body = ExecutionView)))]
pub async fn fail(
    State(state): State<AppState>,
    writing: Writing,
    Path(id): Path<String>,
    JsonBody { value, hash }: JsonBody<FailTask>,
) -> Reply {
    let (execution, task) = parse_task(&id)?;
    let workspace = permitted(&state, &writing, execution).await?;
    let TaskError { kind, message, details } = value.error;
    let details = details.map(|details| Json::from_value(&serde_json::Value::Object(details)));
    if message.chars().count() > 10_000 {
        return Err(Problem::invalid(
            "/error/message",
            "out_of_range",
            "has at most 10000 characters",
        )
        .into());
    }
    if details.as_ref().is_some_and(|details| details.as_str().len() > MAX_INLINE_OUTPUT_BYTES) {
        let detail = format!("has at most {MAX_INLINE_OUTPUT_BYTES} bytes");
        return Err(Problem::invalid("/error/details", "out_of_range", detail).into());
    }
    let kind = match kind {
        TaskErrorKind::Transient => ErrorKind::Transient,
        TaskErrorKind::Permanent => ErrorKind::Permanent,
        TaskErrorKind::Validation => ErrorKind::Validation,
        TaskErrorKind::Timeout => ErrorKind::Timeout,
    };
    let outcome = TaskOutcome::Failed(NodeError { kind, message, details });
    finish(&state, &writing, (workspace, execution), (task, value.lease, outcome), hash).await
}

/// Say that a task is still being done. 409 with the rule `task_lost` when it is not this worker's any more: stop, and ask for another.
#[utoipa::path(post, path = "/worker-tasks/{id}/heartbeat", tag = "worker-tasks",
    params(("id" = String, Path)), request_body = HeartbeatTask,
    responses((status = 200, body = Heartbeat)))]
pub async fn heartbeat(
    State(state): State<AppState>,
    writing: Writing,
    Path(id): Path<String>,
    JsonBody { value, hash }: JsonBody<HeartbeatTask>,
) -> Reply {
    let (execution, task) = parse_task(&id)?;
    let workspace = workspace_of::<Execution>(&state, execution.0, "task").await?;
    let context = writing.context(workspace, hash);
    let (writer, asked, lease) = (&writing, &task, value.lease);
    let plan = |scope: Scope| async move {
        let permission = Permission::ControlExecution;
        writer.authorise(&scope, workspace, permission, "task").await?;
        let loaded = scope.read::<Execution>(execution).await?;
        let held = loaded.state.held_task(asked, lease);
        let held = held.map_err(|rejection| CommandError::Rejected(Refusal::from(rejection)))?;
        Ok(held.lease_until(scope.now()))
    };
    let (Transacted::Unchanged { value: expires_at }
    | Transacted::Applied { value: expires_at, .. }) = writing.transact(&context, plan).await?
    else {
        return Err(lost().into());
    };
    // Signs of life are many and no facts that anybody reads later: only the due time moves.
    let stream = StreamId(execution.0);
    let due = due_key(stream, TimerKind::TaskLease, &task.path, task.attempt);
    if !state.commands.log().move_due(&DueTime { due_at: expires_at, due }).await? {
        return Err(lost().into());
    }
    let position = state.ledger.head();
    Ok(writing.answer(StatusCode::OK, Heartbeat { expires_at }, position).into_response())
}

fn lost() -> Problem {
    Problem::from(Refusal::from(ExecutionRejection::TaskLost))
}

async fn permitted(
    state: &AppState,
    writing: &Writing,
    execution: ExecutionId,
) -> Result<WorkspaceId, Problem> {
    let workspace = workspace_of::<Execution>(state, execution.0, "task").await?;
    let permission = Permission::ControlExecution;
    demand(state, &writing.caller, workspace, permission, "task").await?;
    Ok(workspace)
}

async fn finish(
    state: &AppState,
    writing: &Writing,
    (workspace, execution): (WorkspaceId, ExecutionId),
    (task, lease, outcome): (TaskRef, TaskLease, TaskOutcome),
    hash: [u8; 32],
) -> Reply {
    let context = writing.context(workspace, hash);
    let command = &ExecutionCommand::FinishTask { task, lease, outcome };
    let plan = |scope: Scope| async move {
        let permission = Permission::ControlExecution;
        writing.authorise(&scope, workspace, permission, "task").await?;
        Ok((Target::existing(execution), command.clone()))
    };
    let executed = writing.execute::<Execution, _, _>(&context, plan).await?;
    Ok(answer(state, writing, executed, StatusCode::OK).await?.into_response())
}

/// A task's name: where it is found, so that nothing need be looked up, and a second report of one that is over is told so.
fn task_id(execution: ExecutionId, task: &TaskRef) -> String {
    format!("{execution}.{}.{}", task.attempt.0, hex::encode(task.path.as_str()))
}

/// Reads what [`task_id`] wrote.
fn parse_task(id: &str) -> Result<(ExecutionId, TaskRef), Problem> {
    let parse = || {
        let (execution, rest) = id.split_once('.')?;
        let (attempt, path) = rest.split_once('.')?;
        let execution: Uuid = execution.parse().ok()?;
        let path = String::from_utf8(hex::decode(path).ok()?).ok()?;
        let task = TaskRef { path: NodePath(path), attempt: Attempt(attempt.parse().ok()?) };
        Some((ExecutionId(execution), task))
    };
    parse().ok_or_else(|| Problem::not_found("task"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_was_written() {
        let execution = ExecutionId(Uuid::from_u128(7));
        let task = TaskRef { path: NodePath("each[3]/label".to_owned()), attempt: Attempt(2) };
        assert_eq!(parse_task(&task_id(execution, &task)).unwrap(), (execution, task));
        for wrong in ["", "x", "x.1.61", "00000000-0000-0000-0000-000000000007.x.61", "..", "é"] {
            assert_eq!(parse_task(wrong).unwrap_err().kind(), ProblemKind::NotFound);
        }
    }
}
