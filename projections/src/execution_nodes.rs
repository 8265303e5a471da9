//! The nodes of executions: each run of a node by its path, with what went in, what came out and every failed try.

mod past;

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use ledgerline_domain::{
    event::{AnyEvent, DomainEvent},
    execution::{
        CarriedLoop, CarriedNode, ExecutionEvent, NodeError, NodeFailed, NodePath, NodeStarted,
        ResolutionKind, TimerKind,
    },
    json::Json,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sqlx::{PgConnection, PgPool};
use utoipa::ToSchema;
use uuid::Uuid;

pub use past::{PastError, PastNodes};

use crate::{
    copy::{self, Copy},
    page::QueryError,
    projection::{LogEvent, Poison, Projection},
    rows::{Rows, column},
    values::{NodeStatus, RawJson, error_column, output_columns},
};

/// Rows held in memory at most; without their values they are a few hundred bytes each.
const HELD: usize = 100_000;

/// The most nodes of one page.
pub const MAX_NODES: i64 = 1_000;

/// One run of a node.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ExecutionNode {
    /// `fetch`, or `each[3]/fetch` inside a loop.
    pub path: String,
    /// Where it stands.
    pub status: NodeStatus,
    /// The try it is at, from 1; 0 for a node that was skipped.
    pub attempt: i32,
    /// How many items a loop runs its body for; of a `logic.while` how many iterations it has begun.
    pub items: Option<i32>,
    /// True when its outcome was taken over from the execution's origin.
    pub carried: bool,
    /// The port it left by, where its kind has ports.
    pub port: Option<String>,
    /// When the newest try began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// How long the newest try took.
    pub duration_ms: Option<i64>,
    /// When it is tried again.
    pub retry_at: Option<DateTime<Utc>>,
    /// Until when it waits.
    pub wait_until: Option<DateTime<Utc>>,
    /// The tries that failed, in order.
    #[schema(value_type = Vec<FailedAttempt>)]
    pub failed_attempts: RawJson,
    /// Its configuration with all expressions resolved, secrets masked.
    #[schema(value_type = Option<serde_json::Value>)]
    pub input: Option<RawJson>,
    /// What it gave, where it is small enough to be kept inline.
    #[schema(value_type = Option<serde_json::Value>)]
    pub output: Option<RawJson>,
    /// Where a larger output is.
    #[schema(value_type = Option<crate::executions::BlobReference>)]
    pub output_blob: Option<RawJson>,
    /// Why the newest try failed: `{kind, message, details}`.
    #[schema(value_type = Option<Object>)]
    pub error: Option<RawJson>,
    /// Position of its first event: the order of the list.
    pub first_position: i64,
    /// Position of its last event.
    pub position: i64,
}

/// A try that failed.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct FailedAttempt {
    /// Which, from 1.
    pub attempt: i32,
    /// Why: `{kind, message, details}`.
    #[schema(value_type = Object)]
    pub error: Box<RawValue>,
    /// When it began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: DateTime<Utc>,
    /// How long it took.
    pub duration_ms: i64,
}

/// Nodes of an execution in the order in which they began, after a place in that order (`(0, "")` for the first page). There
/// are more when as many come back as were asked for, at most [`MAX_NODES`].
///
/// # Errors
/// When Postgres is away.
pub async fn list(
    pool: &PgPool,
    execution_id: Uuid,
    after: (i64, &str),
    limit: i64,
) -> Result<Vec<ExecutionNode>, QueryError> {
    Ok(sqlx::query_file_as!(
        ExecutionNode,
        "sql/execution_nodes/list.sql",
        execution_id,
        after.0,
        after.1,
        limit.clamp(1, MAX_NODES)
    )
    .fetch_all(pool)
    .await?)
}

/// One node of an execution.
///
/// # Errors
/// When Postgres is away.
pub async fn get(
    pool: &PgPool,
    execution_id: Uuid,
    path: &str,
) -> Result<Option<ExecutionNode>, QueryError> {
    Ok(sqlx::query_file_as!(ExecutionNode, "sql/execution_nodes/get.sql", execution_id, path)
        .fetch_optional(pool)
        .await?)
}

/// When nodes of an execution began, by path.
///
/// # Errors
/// When the database is away.
pub async fn started_at(
    pool: &PgPool,
    execution_id: Uuid,
    paths: &[String],
) -> Result<HashMap<String, DateTime<Utc>>, QueryError> {
    if paths.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query!(
        "SELECT path, started_at FROM execution_nodes WHERE execution_id = $1 AND path = ANY($2)",
        execution_id,
        paths
    );
    let rows = rows.fetch_all(pool).await?;
    Ok(rows.into_iter().filter_map(|row| Some((row.path, row.started_at?))).collect())
}

/// A node's row while it is folded.
#[derive(Debug)]
struct Row {
    status: NodeStatus,
    attempt: i32,
    items: Option<i32>,
    carried: bool,
    port: Option<String>,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
    duration_ms: Option<i64>,
    retry_at: Option<DateTime<Utc>>,
    wait_until: Option<DateTime<Utc>>,
    error: Option<String>,
    /// A JSON list of [`FailedAttempt`]. Tries are few, so it is grown as text.
    failed_attempts: String,
    first_position: i64,
    position: i64,
    /// Held until it is written, as are the outputs.
    input: Option<String>,
    output: Option<String>,
    output_blob: Option<String>,
    /// Whether the table has it.
    stored: bool,
}

impl Row {
    fn new(status: NodeStatus, position: i64) -> Self {
        Self {
            status,
            attempt: 0,
            items: None,
            carried: false,
            port: None,
            started_at: None,
            finished_at: None,
            duration_ms: None,
            retry_at: None,
            wait_until: None,
            error: None,
            failed_attempts: "[]".to_owned(),
            first_position: position,
            position,
            input: None,
            output: None,
            output_blob: None,
            stored: false,
        }
    }

    fn start(&mut self, at: DateTime<Utc>, event: &NodeStarted) {
        self.status = NodeStatus::Running;
        // The same try may begin again after a crash: it keeps the time of its first beginning.
        if self.attempt != event.attempt.0 || self.started_at.is_none() {
            self.started_at = Some(at);
        }
        self.attempt = event.attempt.0;
        self.items = event.items.and_then(|items| i32::try_from(items).ok());
        self.retry_at = None;
        self.wait_until = None;
        self.finished_at = None;
        self.duration_ms = None;
        self.error = None;
        self.input = Some(event.input.as_str().to_owned());
    }

    fn fail(&mut self, at: DateTime<Utc>, event: &NodeFailed) {
        let duration_ms = millis(event.duration_ms);
        self.attempt = event.attempt.0;
        self.duration_ms = Some(duration_ms);
        self.retry_at = event.retry_at;
        self.status =
            if event.retry_at.is_some() { NodeStatus::Retrying } else { NodeStatus::Failed };
        self.finished_at = event.retry_at.is_none().then_some(at);
        self.error = Some(error_column(&event.error));
        self.remember(&event.error, at, duration_ms);
    }

    fn remember(&mut self, error: &NodeError, finished_at: DateTime<Utc>, duration_ms: i64) {
        let error = serde_json::value::to_raw_value(error)
            .expect("an error has only string keys, so it always serialises");
        let attempt = FailedAttempt {
            attempt: self.attempt,
            error,
            started_at: self.started_at,
            finished_at,
            duration_ms,
        };
        let text = serde_json::to_string(&attempt)
            .expect("an attempt has only string keys, so it always serialises");
        self.failed_attempts.pop();
        if self.failed_attempts.len() > 1 {
            self.failed_attempts.push(',');
        }
        self.failed_attempts.push_str(&text);
        self.failed_attempts.push(']');
    }

    fn lighten(&mut self) {
        self.stored = true;
        self.input = None;
        self.output = None;
        self.output_blob = None;
    }
}

fn millis(duration_ms: u64) -> i64 {
    i64::try_from(duration_ms).unwrap_or(i64::MAX)
}

/// An execution and a path in it.
type Key = (Uuid, String);

/// The read model.
#[derive(Debug, Default)]
pub struct ExecutionNodes {
    nodes: Rows<Key, Row>,
    /// The held nodes of each execution that have not ended: the end of the run ends them.
    open: HashMap<Uuid, HashSet<String>>,
    /// Executions of which every node that has not ended is held, because nothing was let go since their first event.
    whole: HashSet<Uuid>,
    /// Ended executions whose open nodes are to be looked for.
    ending: Vec<Uuid>,
}

impl ExecutionNodes {
    /// The row of a node, made when it is not there.
    fn node(&mut self, at: &LogEvent, path: &str, status: NodeStatus) -> &mut Row {
        let key = (at.stream, path.to_owned());
        if self.nodes.get(&key).is_none() {
            self.nodes.put(key.clone(), Row::new(status, at.position));
        }
        if status.ended() {
            if let Some(open) = self.open.get_mut(&at.stream) {
                open.remove(path);
            }
        } else {
            self.open.entry(at.stream).or_default().insert(path.to_owned());
        }
        let row = self.nodes.edit(&key).expect("it was put above where it was not there");
        row.status = status;
        row.position = at.position;
        row
    }

    /// A node waits for something from outside.
    fn wait(&mut self, at: &LogEvent, path: &NodePath, until: Option<DateTime<Utc>>) {
        self.node(at, &path.0, NodeStatus::Waiting).wait_until = until;
    }

    /// A change of a node that must be there; an event for one that was never begun changes nothing.
    fn change(&mut self, at: &LogEvent, path: &str, change: impl FnOnce(&mut Row)) {
        if let Some(row) = self.nodes.edit(&(at.stream, path.to_owned())) {
            row.position = at.position;
            change(row);
        }
    }

    /// The run ended: what had not is cancelled with it.
    fn end(&mut self, at: &LogEvent) {
        self.cancel_open(at);
        self.whole.remove(&at.stream);
    }

    /// What has not ended does not any more.
    fn cancel_open(&mut self, at: &LogEvent) {
        for path in self.open.remove(&at.stream).into_iter().flatten() {
            self.change(at, &path, |row| {
                row.status = NodeStatus::Cancelled;
                row.finished_at = Some(at.at);
                row.retry_at = None;
                row.wait_until = None;
            });
        }
    }

    /// What was taken over from the origin of the run.
    fn carry(&mut self, at: &LogEvent, carried: &CarriedNode) {
        let status = match (&carried.output, &carried.looping) {
            (Some(_), _) => NodeStatus::Completed,
            (None, Some(_)) => NodeStatus::Running,
            (None, None) => NodeStatus::Skipped,
        };
        let row = self.node(at, &carried.path.0, status);
        row.carried = true;
        row.port.clone_from(&carried.port);
        if let Some(looping) = &carried.looping {
            row.attempt = 1;
            row.started_at = Some(at.at);
            match looping {
                CarriedLoop::Each { items, .. } => {
                    let count = items.to::<Vec<Json>>().map_or(0, |items| items.len());
                    row.items = i32::try_from(count).ok();
                    row.input = Some(format!(r#"{{"items":{}}}"#, items.as_str()));
                }
                CarriedLoop::While { iterations, .. } => {
                    row.items = i32::try_from(*iterations).ok();
                }
            }
        } else {
            row.finished_at = Some(at.at);
        }
        if let Some(output) = &carried.output {
            (row.output, row.output_blob) = output_columns(output);
        }
    }

    #[expect(clippy::too_many_lines, reason = "one arm an event: the list is the length")]
    fn apply_execution(&mut self, at: &LogEvent, event: &ExecutionEvent) {
        match event {
            ExecutionEvent::ExecutionRequested(requested) => {
                for carried in requested.origin.iter().flat_map(|origin| &origin.carried) {
                    self.carry(at, carried);
                }
            }
            ExecutionEvent::NodesCarried(event) => {
                for carried in &event.nodes {
                    self.carry(at, carried);
                }
            }
            ExecutionEvent::NodeStarted(event) => {
                self.node(at, &event.path.0, NodeStatus::Running).start(at.at, event);
            }
            ExecutionEvent::NodeCompleted(event) => {
                let row = self.node(at, &event.path.0, NodeStatus::Completed);
                row.attempt = event.attempt.0;
                row.port.clone_from(&event.port);
                row.finished_at = Some(at.at);
                row.duration_ms = Some(millis(event.duration_ms));
                row.retry_at = None;
                row.wait_until = None;
                row.error = None;
                (row.output, row.output_blob) = output_columns(&event.output);
            }
            ExecutionEvent::NodeFailed(event) => {
                let status = match event.retry_at {
                    Some(_) => NodeStatus::Retrying,
                    None => NodeStatus::Failed,
                };
                self.node(at, &event.path.0, status).fail(at.at, event);
            }
            ExecutionEvent::NodeSkipped(event) => {
                self.node(at, &event.path.0, NodeStatus::Skipped).finished_at = Some(at.at);
            }
            ExecutionEvent::ExecutionPaused(event) => {
                if let Some(node) = &event.node {
                    self.node(at, &node.0, NodeStatus::Waiting).finished_at = None;
                }
            }
            ExecutionEvent::NodeResolved(event) => {
                let status = match event.resolution {
                    ResolutionKind::Retry => NodeStatus::Retrying,
                    ResolutionKind::Complete => NodeStatus::Waiting,
                    ResolutionKind::Fail => NodeStatus::Failed,
                };
                let row = self.node(at, &event.path.0, status);
                row.retry_at = (status == NodeStatus::Retrying).then_some(at.at);
                row.finished_at = (status == NodeStatus::Failed).then_some(at.at);
            }
            ExecutionEvent::ChildStarted(event) => {
                self.node(at, &event.path.0, NodeStatus::Waiting);
            }
            ExecutionEvent::ChildFinished(event) => {
                self.node(at, &event.path.0, NodeStatus::Running);
            }
            ExecutionEvent::LoopIterated(event) => self.change(at, &event.path.0, |row| {
                row.items = i32::try_from(event.iteration + 1).ok();
            }),
            ExecutionEvent::TimerSet(event) => match event.kind {
                TimerKind::Wait => {
                    let row = self.node(at, &event.path.0, NodeStatus::Waiting);
                    row.wait_until = Some(event.due_at);
                }
                TimerKind::Retry => {
                    self.change(at, &event.path.0, |row| row.retry_at = Some(event.due_at));
                }
                // Said by what began the wait.
                TimerKind::ExecutionTimeout | TimerKind::WaitTimeout | TimerKind::TaskLease => {}
            },
            ExecutionEvent::TimerFired(event) => match event.kind {
                TimerKind::Wait => {
                    self.node(at, &event.path.0, NodeStatus::Running).wait_until = None;
                }
                TimerKind::Retry
                | TimerKind::ExecutionTimeout
                | TimerKind::WaitTimeout
                | TimerKind::TaskLease => {}
            },
            ExecutionEvent::ApprovalRequested(event) => {
                self.wait(at, &event.path, event.until);
            }
            ExecutionEvent::SignalAwaited(event) => self.wait(at, &event.path, event.until),
            ExecutionEvent::TaskOffered(event) => self.wait(at, &event.path, event.until),
            ExecutionEvent::TaskTaken(event) => {
                self.node(at, &event.path.0, NodeStatus::Running);
            }
            ExecutionEvent::TaskReturned(event) => {
                self.node(at, &event.path.0, NodeStatus::Waiting);
            }
            ExecutionEvent::ExecutionCompleted(_)
            | ExecutionEvent::ExecutionFailed(_)
            | ExecutionEvent::ExecutionCancelled(_) => self.end(at),
            ExecutionEvent::CompensationStarted(_) => self.cancel_open(at),
            ExecutionEvent::ExecutionQueued(_)
            | ExecutionEvent::ExecutionDispatched(_)
            | ExecutionEvent::ExecutionStarted(_)
            | ExecutionEvent::ExecutionResumed(_)
            | ExecutionEvent::ApprovalGiven(_)
            | ExecutionEvent::ApprovalRefused(_)
            | ExecutionEvent::ApprovalTimedOut(_)
            | ExecutionEvent::SignalReceived(_)
            | ExecutionEvent::SignalConsumed(_)
            | ExecutionEvent::TaskCompleted(_)
            | ExecutionEvent::TaskFailed(_)
            | ExecutionEvent::VariableSet(_)
            | ExecutionEvent::UsageRecorded(_)
            | ExecutionEvent::LoopItemFailed(_)
            | ExecutionEvent::ExecutionWaiting(_)
            | ExecutionEvent::ExecutionUnpaused(_)
            | ExecutionEvent::CancelRequested(_) => {}
        }
    }

    fn want_execution(&mut self, at: &LogEvent, event: &ExecutionEvent) {
        if matches!(event, ExecutionEvent::ExecutionRequested(_)) {
            self.whole.insert(at.stream);
        }
        // What is not held of a whole execution does not exist.
        if self.whole.contains(&at.stream) {
            return;
        }
        if matches!(
            event,
            ExecutionEvent::ExecutionCompleted(_)
                | ExecutionEvent::ExecutionFailed(_)
                | ExecutionEvent::ExecutionCancelled(_)
                | ExecutionEvent::CompensationStarted(_)
        ) {
            self.ending.push(at.stream);
        }
        if let Some(path) = path_of(event) {
            self.nodes.want((at.stream, path.0.clone()));
        }
    }
}

/// The node that an event is about.
fn path_of(event: &ExecutionEvent) -> Option<&NodePath> {
    match event {
        ExecutionEvent::NodeStarted(event) => Some(&event.path),
        ExecutionEvent::NodeCompleted(event) => Some(&event.path),
        ExecutionEvent::NodeFailed(event) => Some(&event.path),
        ExecutionEvent::NodeSkipped(event) => Some(&event.path),
        ExecutionEvent::LoopIterated(event) => Some(&event.path),
        ExecutionEvent::NodeResolved(event) => Some(&event.path),
        ExecutionEvent::ChildStarted(event) => Some(&event.path),
        ExecutionEvent::ChildFinished(event) => Some(&event.path),
        ExecutionEvent::ExecutionPaused(event) => event.node.as_ref(),
        ExecutionEvent::TimerSet(event) if event.kind != TimerKind::ExecutionTimeout => {
            Some(&event.path)
        }
        ExecutionEvent::TimerFired(event) if event.kind != TimerKind::ExecutionTimeout => {
            Some(&event.path)
        }
        ExecutionEvent::ApprovalRequested(event) => Some(&event.path),
        ExecutionEvent::SignalAwaited(event) => Some(&event.path),
        ExecutionEvent::TaskOffered(event) => Some(&event.path),
        ExecutionEvent::TaskTaken(event) => Some(&event.path),
        ExecutionEvent::TaskReturned(event) => Some(&event.path),
        ExecutionEvent::TimerSet(_)
        | ExecutionEvent::TimerFired(_)
        | ExecutionEvent::ApprovalGiven(_)
        | ExecutionEvent::ApprovalRefused(_)
        | ExecutionEvent::ApprovalTimedOut(_)
        | ExecutionEvent::SignalReceived(_)
        | ExecutionEvent::SignalConsumed(_)
        | ExecutionEvent::TaskCompleted(_)
        | ExecutionEvent::TaskFailed(_)
        | ExecutionEvent::ExecutionRequested(_)
        | ExecutionEvent::NodesCarried(_)
        | ExecutionEvent::ExecutionCompleted(_)
        | ExecutionEvent::ExecutionFailed(_)
        | ExecutionEvent::ExecutionCancelled(_)
        | ExecutionEvent::ExecutionQueued(_)
        | ExecutionEvent::ExecutionDispatched(_)
        | ExecutionEvent::ExecutionStarted(_)
        | ExecutionEvent::ExecutionResumed(_)
        | ExecutionEvent::VariableSet(_)
        | ExecutionEvent::UsageRecorded(_)
        | ExecutionEvent::LoopItemFailed(_)
        | ExecutionEvent::ExecutionWaiting(_)
        | ExecutionEvent::ExecutionUnpaused(_)
        | ExecutionEvent::CompensationStarted(_)
        | ExecutionEvent::CancelRequested(_) => None,
    }
}

/// Writes rows that are not in the table yet.
async fn copy_nodes(
    connection: &mut PgConnection,
    rows: &[(&Key, &Row)],
) -> Result<(), sqlx::Error> {
    let mut copy = Copy::new();
    for ((execution, path), row) in rows {
        copy.row(&[
            execution,
            &path.as_str(),
            &row.started_at,
            &row.finished_at,
            &row.retry_at,
            &row.wait_until,
            &row.duration_ms,
            &row.first_position,
            &row.position,
            &row.attempt,
            &row.items,
            &row.carried,
            &row.status.as_str(),
            &row.port.as_deref(),
            &row.error.as_deref(),
            &row.failed_attempts.as_str(),
            &row.input.as_deref(),
            &row.output.as_deref(),
            &row.output_blob.as_deref(),
        ]);
    }
    copy.write(connection, include_str!("../sql/execution_nodes/copy.sql")).await
}

/// Turns a record of either load statement into a row.
macro_rules! found {
    ($self:ident, $row:ident) => {{
        if !$row.status.ended() {
            $self.open.entry($row.execution_id).or_default().insert($row.path.clone());
        }
        let loaded = Row {
            status: $row.status,
            attempt: $row.attempt,
            items: $row.items,
            carried: $row.carried,
            port: $row.port,
            started_at: $row.started_at,
            finished_at: $row.finished_at,
            duration_ms: $row.duration_ms,
            retry_at: $row.retry_at,
            wait_until: $row.wait_until,
            error: $row.error,
            failed_attempts: $row.failed_attempts,
            first_position: $row.first_position,
            position: $row.position,
            input: None,
            output: None,
            output_blob: None,
            stored: true,
        };
        $self.nodes.found(($row.execution_id, $row.path), loaded);
    }};
}

impl Projection for ExecutionNodes {
    const NAME: &'static str = "execution_nodes";
    const VERSION: i32 = 1;
    const SCHEMA: &'static str = include_str!("../sql/execution_nodes/schema.sql");
    const CATEGORIES: &'static [&'static str] = &[ExecutionEvent::CATEGORY];

    fn want(&mut self, event: &LogEvent) {
        match &event.event {
            AnyEvent::Execution(execution) => self.want_execution(event, execution),
            AnyEvent::Workflow(_)
            | AnyEvent::Workspace(_)
            | AnyEvent::Vault(_)
            | AnyEvent::Deployment(_)
            | AnyEvent::Trigger(_)
            | AnyEvent::Audit(_) => {}
        }
    }

    async fn load(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let ending = std::mem::take(&mut self.ending);
        if !ending.is_empty() {
            for row in sqlx::query_file!("sql/execution_nodes/load_open.sql", &ending)
                .fetch_all(&mut *connection)
                .await?
            {
                if self.nodes.get(&(row.execution_id, row.path.clone())).is_none() {
                    found!(self, row);
                }
            }
        }
        let wanted = self.nodes.take_wanted_absent();
        if wanted.is_empty() {
            return Ok(());
        }
        let (executions, paths): (Vec<Uuid>, Vec<String>) = wanted.into_iter().unzip();
        for row in sqlx::query_file!("sql/execution_nodes/load.sql", &executions, &paths)
            .fetch_all(connection)
            .await?
        {
            found!(self, row);
        }
        Ok(())
    }

    fn apply(&mut self, event: &LogEvent) -> Result<(), Poison> {
        match &event.event {
            AnyEvent::Execution(execution) => self.apply_execution(event, execution),
            AnyEvent::Workflow(_)
            | AnyEvent::Workspace(_)
            | AnyEvent::Vault(_)
            | AnyEvent::Deployment(_)
            | AnyEvent::Trigger(_)
            | AnyEvent::Audit(_) => {}
        }
        Ok(())
    }

    async fn write(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let (rows, new): (Vec<_>, Vec<_>) =
            self.nodes.changed().into_iter().partition(|(_, row)| row.stored);
        let (new, rows) = copy::split(new, rows);
        if !new.is_empty() {
            copy_nodes(&mut *connection, &new).await?;
        }
        if !rows.is_empty() {
            sqlx::query_file!(
                "sql/execution_nodes/upsert.sql",
                &column!(rows, |(key, _)| key.0),
                &column!(rows, |(key, _)| key.1.as_str()) as &[&str],
                &column!(rows, |(_, row)| row.started_at) as &[Option<DateTime<Utc>>],
                &column!(rows, |(_, row)| row.finished_at) as &[Option<DateTime<Utc>>],
                &column!(rows, |(_, row)| row.retry_at) as &[Option<DateTime<Utc>>],
                &column!(rows, |(_, row)| row.wait_until) as &[Option<DateTime<Utc>>],
                &column!(rows, |(_, row)| row.duration_ms) as &[Option<i64>],
                &column!(rows, |(_, row)| row.first_position),
                &column!(rows, |(_, row)| row.position),
                &column!(rows, |(_, row)| row.attempt),
                &column!(rows, |(_, row)| row.items) as &[Option<i32>],
                &column!(rows, |(_, row)| row.carried),
                &column!(rows, |(_, row)| row.status.as_str()) as &[&str],
                &column!(rows, |(_, row)| row.port.as_deref()) as &[Option<&str>],
                &column!(rows, |(_, row)| row.error.as_deref()) as &[Option<&str>],
                &column!(rows, |(_, row)| row.failed_attempts.as_str()) as &[&str],
                &column!(rows, |(_, row)| row.input.as_deref()) as &[Option<&str>],
                &column!(rows, |(_, row)| row.output.as_deref()) as &[Option<&str>],
                &column!(rows, |(_, row)| row.output_blob.as_deref()) as &[Option<&str>],
            )
            .execute(connection)
            .await?;
        }
        self.nodes.written(HELD, Row::lighten);
        if self.nodes.len() == 0 {
            self.open.clear();
            self.whole.clear();
        }
        Ok(())
    }

    fn held(&self) -> usize {
        self.nodes.len()
    }
}
