//! Tasks for external workers: a step that a program in any language takes, does, and reports.
//!
//! A task is offered, taken under a lease, and comes to an end or is lost. The lease is the fence: it rises each time the task is taken, and
//! whoever names an older one is told that the task is somebody else's by now. The worker must be heard of before its lease runs out; when
//! it is not, an idempotent task is offered again and any other fails, because nobody knows how far it came. A failure goes by the retry
//! policy of the node: the next try is a task of its own.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::{
    Attempt, Awaited, ErrorKind, Execution, ExecutionEvent, ExecutionRejection, Intent,
    NodeCompleted, NodeError, NodeOutput, NodePath, Open, Phase, TaskCompleted, TaskFailed,
    TaskOffered, TaskReturned, TaskTaken, TimerFired, TimerKind, TimerSet, Waiting,
};

/// A step that an external worker does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// The queue that its workers ask.
    pub queue: String,
    /// How long its worker may not be heard of.
    pub heartbeat_timeout_ms: u64,
    /// Whether it may be done again when its worker was lost.
    pub idempotent: bool,
    /// How often this try was taken; 0 before the first time.
    #[serde(default)]
    pub lease: TaskLease,
    /// Who has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
}

/// How often a try of a task was taken, from 1. The newest lease wins.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct TaskLease(pub u32);

/// One try of a task, as commands name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TaskRef {
    /// The node.
    pub path: NodePath,
    /// Which try.
    pub attempt: Attempt,
}

/// What a worker made of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskOutcome {
    /// It is done.
    Completed(NodeOutput),
    /// It failed; the kind decides whether it is tried again.
    Failed(NodeError),
}

impl Execution {
    /// The task that a worker says it has.
    ///
    /// # Errors
    /// [`ExecutionRejection::TaskLost`] when it is not its worker's any more, [`ExecutionRejection::Ended`].
    pub fn held_task(&self, task: &TaskRef, lease: TaskLease) -> Result<&Task, ExecutionRejection> {
        match self {
            Self::New => Err(ExecutionRejection::NotRequested),
            Self::Open(open) => held(open, task, lease).map(|(_, task)| task),
            Self::Completed { .. } | Self::Failed { .. } | Self::Cancelled { .. } => {
                Err(ExecutionRejection::Ended(self.status().expect("it has ended")))
            }
        }
    }
}

impl Task {
    pub(super) fn offered(event: &TaskOffered) -> Self {
        Self {
            queue: event.queue.clone(),
            heartbeat_timeout_ms: event.heartbeat_timeout_ms,
            idempotent: event.idempotent,
            lease: TaskLease(0),
            worker: None,
        }
    }

    /// When the lease runs out of a worker that was heard of at this time.
    #[must_use]
    pub fn lease_until(&self, heard_at: DateTime<Utc>) -> DateTime<Utc> {
        let timeout = i64::try_from(self.heartbeat_timeout_ms).unwrap_or(i64::MAX);
        let timeout = TimeDelta::try_milliseconds(timeout).unwrap_or_default();
        heard_at.checked_add_signed(timeout).unwrap_or(heard_at)
    }
}

/// Taken by one worker, where nothing holds the run back.
pub(super) fn taken(
    open: &Open,
    task: &TaskRef,
    worker: &str,
    now: DateTime<Utc>,
) -> Result<Vec<ExecutionEvent>, ExecutionRejection> {
    let (_, offered) = waiting_task(open, task)?;
    if offered.worker.is_some() {
        return Err(ExecutionRejection::TaskTaken);
    }
    match open.phase {
        Phase::Paused { .. } | Phase::Running { intent: Intent::Pause(_), .. } => {
            return Err(ExecutionRejection::Paused);
        }
        Phase::Running { intent: Intent::Cancel(_), .. } => {
            return Err(ExecutionRejection::Cancelling);
        }
        Phase::Idle(_) | Phase::Dispatched | Phase::Running { intent: Intent::GoOn, .. } => {}
    }
    let due_at = offered.lease_until(now);
    let (path, attempt) = (task.path.clone(), task.attempt);
    let lease = TaskLease(offered.lease.0 + 1);
    let taken = TaskTaken { path: path.clone(), attempt, lease, worker: worker.to_owned() };
    let timer = TimerSet { path, attempt, kind: TimerKind::TaskLease, set_at: now, due_at };
    Ok(vec![taken.into(), timer.into()])
}

/// The outcome that the worker of the newest lease reports.
pub(super) fn finished(
    open: &Open,
    task: &TaskRef,
    lease: TaskLease,
    outcome: &TaskOutcome,
    now: DateTime<Utc>,
) -> Result<Vec<ExecutionEvent>, ExecutionRejection> {
    let (waiting, _) = held(open, task, lease)?;
    let TaskRef { path, attempt } = task.clone();
    Ok(match outcome {
        TaskOutcome::Completed(output) => {
            let completed = NodeCompleted {
                path: path.clone(),
                attempt,
                output: output.clone(),
                port: None,
                duration_ms: waiting.duration_ms(now),
                undoes: None,
            };
            vec![TaskCompleted { path, attempt, lease }.into(), completed.into()]
        }
        TaskOutcome::Failed(error) => {
            vec![failed(task, lease, waiting, error.clone(), now).into()]
        }
    })
}

/// Its worker was not heard of in time.
pub(super) fn lost(open: &Open, task: &TaskRef, now: DateTime<Utc>) -> Vec<ExecutionEvent> {
    let Ok((waiting, taken)) = waiting_task(open, task) else { return Vec::new() };
    let Some(worker) = &taken.worker else { return Vec::new() };
    let TaskRef { path, attempt } = task.clone();
    let fired = TimerFired { path: path.clone(), attempt, kind: TimerKind::TaskLease };
    if taken.idempotent {
        return vec![fired.into(), TaskReturned { path, attempt, lease: taken.lease }.into()];
    }
    let message = format!(
        "the worker {worker} was not heard of for {} ms, so nobody knows whether the step took place",
        taken.heartbeat_timeout_ms
    );
    let error = NodeError { kind: ErrorKind::UnknownOutcome, message, details: None };
    let failed = failed(task, taken.lease, waiting, error, now);
    vec![fired.into(), failed.into()]
}

/// It was not done in the time of its node.
pub(super) fn timed_out(
    task: &TaskRef,
    waiting: &Waiting,
    offered: &Task,
    now: DateTime<Utc>,
) -> TaskFailed {
    let took = waiting.duration_ms(now);
    let message = match &offered.worker {
        Some(worker) => format!("the worker {worker} did not end within {took} ms"),
        None => format!("no worker of the queue '{}' took it within {took} ms", offered.queue),
    };
    let error = NodeError { kind: ErrorKind::Timeout, message, details: None };
    failed(task, offered.lease, waiting, error, now)
}

fn failed(
    task: &TaskRef,
    lease: TaskLease,
    waiting: &Waiting,
    error: NodeError,
    now: DateTime<Utc>,
) -> TaskFailed {
    let TaskRef { path, attempt } = task.clone();
    TaskFailed { path, attempt, lease, error, duration_ms: waiting.duration_ms(now) }
}

/// The task of a node that waits for its worker.
fn waiting_task<'a>(
    open: &'a Open,
    task: &TaskRef,
) -> Result<(&'a Waiting, &'a Task), ExecutionRejection> {
    let waiting = open.waiting(&task.path, task.attempt).ok_or(ExecutionRejection::TaskLost)?;
    match &waiting.awaited {
        Awaited::Task(task) => Ok((waiting, task)),
        Awaited::Time
        | Awaited::Decision(_)
        | Awaited::Child(_)
        | Awaited::Approval(_)
        | Awaited::Signal { .. } => Err(ExecutionRejection::TaskLost),
    }
}

/// The task under a lease that is the newest.
fn held<'a>(
    open: &'a Open,
    task: &TaskRef,
    lease: TaskLease,
) -> Result<(&'a Waiting, &'a Task), ExecutionRejection> {
    let (waiting, task) = waiting_task(open, task)?;
    if task.worker.is_none() || task.lease != lease {
        return Err(ExecutionRejection::TaskLost);
    }
    if open.is_cancelling() {
        return Err(ExecutionRejection::Cancelling);
    }
    Ok((waiting, task))
}
