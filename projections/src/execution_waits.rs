//! What nodes of open executions wait for from outside: approvals to answer, signals, tasks to take.
//!
//! Each row comes with the event that begins a wait and goes with the one that ends it, so no row is read before it is written.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use ledgerline_domain::{
    event::{AnyEvent, DomainEvent},
    execution::{Attempt, ExecutionEvent, NodePath},
    permission::Role,
};
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection, PgPool};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    page::{List, Order, Page, PageRequest, QueryError, SortKey, Sorted},
    projection::{LogEvent, Poison, Projection},
    rows::column,
    values::RawJson,
};

/// An approval that nobody answered yet.
#[derive(Clone, Debug, Serialize, ToSchema, FromRow)]
pub struct OpenApproval {
    /// The execution that waits.
    pub execution_id: Uuid,
    /// The node that asks: the last part of `POST /executions/{id}/approvals/{node}`, percent-encoded where it stands in a loop.
    pub node: String,
    /// The workflow that it is a run of.
    pub workflow_id: Option<Uuid>,
    /// The name that the workflow has now.
    pub workflow_name: Option<String>,
    /// What is asked: `{title, description, fields, buttons, roles, users, timeout_ms}`.
    #[schema(value_type = Object)]
    pub approval: RawJson,
    /// Since when.
    pub since: DateTime<Utc>,
    /// When nobody need answer any more.
    pub until: Option<DateTime<Utc>>,
    /// Position of the event that asked.
    pub position: i64,
}

/// A task that may be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferedTask {
    /// The execution.
    pub execution_id: Uuid,
    /// The node.
    pub path: String,
    /// Which try.
    pub attempt: i32,
    /// Position of the event that offered it.
    pub position: i64,
}

/// Who wants to know which approvals are open.
#[derive(Clone, Debug)]
pub struct ApprovalFilter {
    /// The workspace; always.
    pub workspace_id: Uuid,
    /// Only those that this person, with this role, may answer.
    pub answerable_by: Option<(Uuid, Role)>,
}

/// The order of a list of approvals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub enum ApprovalSort {
    /// Those that have waited longest first.
    #[default]
    #[serde(rename = "since")]
    Oldest,
    /// The newest first.
    #[serde(rename = "-since")]
    Newest,
}

impl Sorted for OpenApproval {
    fn sort_key(&self, _order: Order) -> (SortKey, Uuid) {
        (SortKey::Number(self.position), self.execution_id)
    }
}

/// A page of the approvals of a workspace that nobody answered yet.
///
/// # Errors
/// [`QueryError`].
pub async fn approvals(
    pool: &PgPool,
    filter: &ApprovalFilter,
    page: &PageRequest<ApprovalSort>,
) -> Result<Page<OpenApproval>, QueryError> {
    let (word, descending) = match page.sort {
        ApprovalSort::Oldest => ("since", false),
        ApprovalSort::Newest => ("-since", true),
    };
    let list = List {
        columns: "SELECT w.execution_id, w.path AS node, e.workflow_id, f.name AS workflow_name, w.detail AS approval, \
                  w.since, w.until, w.position",
        from: "FROM execution_waits AS w LEFT JOIN executions AS e ON e.id = w.execution_id \
               LEFT JOIN workflows AS f ON f.id = e.workflow_id WHERE w.kind = 'approval'",
        conditions: &|query| {
            query.push(" AND w.workspace_id = ").push_bind(filter.workspace_id);
            if let Some((user_id, role)) = filter.answerable_by {
                // Who has more has what less have: a least role admits every role from it up.
                let admitting: Vec<&str> = Role::ALL
                    .into_iter()
                    .filter(|least| role <= *least)
                    .map(Role::as_str)
                    .collect();
                query.push(" AND ((w.roles = '{}' AND w.users = '{}') OR w.roles && ");
                query.push_bind(admitting).push("::text[] OR ");
                query.push_bind(user_id).push(" = ANY (w.users))");
            }
        },
        kept_total: None,
        order: Order { word, column: "w.position", tie: "", descending },
    };
    list.page(pool, page).await
}

/// Tasks of a queue that nobody took yet, the oldest first. Whether one may be taken is for its execution to say.
///
/// # Errors
/// When Postgres is away.
pub async fn offered(
    pool: &PgPool,
    workspace_id: Uuid,
    queue: &str,
    limit: i64,
) -> Result<Vec<OfferedTask>, QueryError> {
    Ok(sqlx::query_file_as!(
        OfferedTask,
        "sql/execution_waits/offered.sql",
        workspace_id,
        queue,
        limit
    )
    .fetch_all(pool)
    .await?)
}

/// A wait that began.
#[derive(Debug)]
struct Row {
    workspace_id: Uuid,
    since: DateTime<Utc>,
    until: Option<DateTime<Utc>>,
    position: i64,
    attempt: i32,
    kind: &'static str,
    name: String,
    /// JSON lists, because a parameter is a list already.
    roles: String,
    users: String,
    detail: Option<String>,
}

/// What became of a row.
#[derive(Debug)]
enum Change {
    Began(Box<Row>),
    Ended,
}

/// The read model: the changes of one batch.
#[derive(Debug, Default)]
pub struct ExecutionWaits {
    changes: BTreeMap<(Uuid, String), Change>,
    /// Whether a worker has the task, of those that changed.
    taken: BTreeMap<(Uuid, String), bool>,
    /// Executions that ended, and whatever of them waited.
    ended: BTreeSet<Uuid>,
}

impl Row {
    fn new(
        at: &LogEvent,
        attempt: Attempt,
        (since, until): (DateTime<Utc>, Option<DateTime<Utc>>),
        (kind, name): (&'static str, &str),
    ) -> Self {
        Self {
            workspace_id: at.workspace,
            since,
            until,
            position: at.position,
            attempt: attempt.0,
            kind,
            name: name.to_owned(),
            roles: "[]".to_owned(),
            users: "[]".to_owned(),
            detail: None,
        }
    }
}

impl ExecutionWaits {
    fn begin(&mut self, at: &LogEvent, path: &NodePath, row: Row) {
        let key = (at.stream, path.0.clone());
        self.taken.remove(&key);
        self.changes.insert(key, Change::Began(Box::new(row)));
    }

    /// What waited in the body of a loop that ended goes with it.
    fn end(&mut self, at: &LogEvent, path: &NodePath) {
        let body = format!("{}[", path.0);
        let below = self.changes.range((at.stream, body.clone())..);
        let below = below
            .map(|(key, _)| key)
            .take_while(|(execution, path)| *execution == at.stream && path.starts_with(&body));
        let below: Vec<(Uuid, String)> = below.cloned().collect();
        let key = (at.stream, path.0.clone());
        for key in below.iter().chain([&key]) {
            self.changes.remove(key);
            self.taken.remove(key);
        }
        self.changes.insert(key, Change::Ended);
    }

    fn apply_execution(&mut self, at: &LogEvent, event: &ExecutionEvent) {
        match event {
            ExecutionEvent::ApprovalRequested(event) => {
                let what = ("approval", event.approval.title.as_str());
                let mut row = Row::new(at, event.attempt, (event.since, event.until), what);
                row.roles = json(&event.approval.roles);
                row.users = json(&event.approval.users);
                row.detail = Some(json(&event.approval));
                self.begin(at, &event.path, row);
            }
            ExecutionEvent::SignalAwaited(event) => {
                let what = ("signal", event.name.as_str());
                let row = Row::new(at, event.attempt, (event.since, event.until), what);
                self.begin(at, &event.path, row);
            }
            ExecutionEvent::TaskOffered(event) => {
                let what = ("task", event.queue.as_str());
                let row = Row::new(at, event.attempt, (event.since, event.until), what);
                self.begin(at, &event.path, row);
            }
            ExecutionEvent::TaskTaken(event) => {
                self.taken.insert((at.stream, event.path.0.clone()), true);
            }
            ExecutionEvent::TaskReturned(event) => {
                self.taken.insert((at.stream, event.path.0.clone()), false);
            }
            ExecutionEvent::TaskFailed(event) => self.end(at, &event.path),
            ExecutionEvent::NodeCompleted(event) => self.end(at, &event.path),
            ExecutionEvent::NodeFailed(event) => self.end(at, &event.path),
            ExecutionEvent::ExecutionCompleted(_)
            | ExecutionEvent::ExecutionFailed(_)
            | ExecutionEvent::ExecutionCancelled(_)
            // What it waited for it does not wait for any more; what undoes may.
            | ExecutionEvent::CompensationStarted(_) => {
                self.ended.insert(at.stream);
                self.changes.retain(|(execution, _), _| *execution != at.stream);
                self.taken.retain(|(execution, _), _| *execution != at.stream);
            }
            ExecutionEvent::ExecutionRequested(_)
            | ExecutionEvent::ExecutionQueued(_)
            | ExecutionEvent::NodesCarried(_)
            | ExecutionEvent::ExecutionDispatched(_)
            | ExecutionEvent::ExecutionStarted(_)
            | ExecutionEvent::ExecutionResumed(_)
            | ExecutionEvent::NodeStarted(_)
            | ExecutionEvent::NodeSkipped(_)
            | ExecutionEvent::LoopIterated(_)
            | ExecutionEvent::LoopItemFailed(_)
            | ExecutionEvent::NodeResolved(_)
            | ExecutionEvent::ChildStarted(_)
            | ExecutionEvent::ChildFinished(_)
            | ExecutionEvent::TimerSet(_)
            | ExecutionEvent::TimerFired(_)
            | ExecutionEvent::ApprovalGiven(_)
            | ExecutionEvent::ApprovalRefused(_)
            | ExecutionEvent::ApprovalTimedOut(_)
            | ExecutionEvent::SignalReceived(_)
            | ExecutionEvent::SignalConsumed(_)
            | ExecutionEvent::TaskCompleted(_)
            | ExecutionEvent::VariableSet(_)
            | ExecutionEvent::UsageRecorded(_)
            | ExecutionEvent::ExecutionWaiting(_)
            | ExecutionEvent::ExecutionPaused(_)
            | ExecutionEvent::ExecutionUnpaused(_)
            | ExecutionEvent::CancelRequested(_) => {}
        }
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("it has only string keys, so it always serialises")
}

impl Projection for ExecutionWaits {
    const NAME: &'static str = "execution_waits";
    const VERSION: i32 = 1;
    const SCHEMA: &'static str = include_str!("../sql/execution_waits/schema.sql");
    const CATEGORIES: &'static [&'static str] = &[ExecutionEvent::CATEGORY];

    fn want(&mut self, _event: &LogEvent) {}

    async fn load(&mut self, _connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        Ok(())
    }

    fn apply(&mut self, at: &LogEvent) -> Result<(), Poison> {
        if let AnyEvent::Execution(event) = &at.event {
            self.apply_execution(at, event);
        }
        Ok(())
    }

    async fn write(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let ended: Vec<Uuid> = std::mem::take(&mut self.ended).into_iter().collect();
        if !ended.is_empty() {
            sqlx::query!("DELETE FROM execution_waits WHERE execution_id = ANY ($1)", &ended)
                .execute(&mut *connection)
                .await?;
        }
        let (mut began, mut gone) = (Vec::new(), Vec::new());
        for (key, change) in std::mem::take(&mut self.changes) {
            match change {
                Change::Began(row) => began.push((key, row)),
                Change::Ended => gone.push(key),
            }
        }
        if !gone.is_empty() {
            // What waited in the body of a loop that ended goes with it.
            sqlx::query!(
                "DELETE FROM execution_waits AS w USING unnest($1::uuid[], $2::text[]) AS x (execution_id, path)
                  WHERE w.execution_id = x.execution_id
                    AND (w.path = x.path OR starts_with(w.path, x.path || '['))",
                &column!(gone, |(execution, _)| *execution),
                &column!(gone, |(_, path)| path.as_str()) as &[&str],
            )
            .execute(&mut *connection)
            .await?;
        }
        if !began.is_empty() {
            sqlx::query_file!(
                "sql/execution_waits/upsert.sql",
                &column!(began, |(key, _)| key.0),
                &column!(began, |(_, row)| row.workspace_id),
                &column!(began, |(_, row)| row.since),
                &column!(began, |(_, row)| row.until) as &[Option<DateTime<Utc>>],
                &column!(began, |(_, row)| row.position),
                &column!(began, |(_, row)| row.attempt),
                &column!(began, |(_, row)| row.kind) as &[&str],
                &column!(began, |(key, _)| key.1.as_str()) as &[&str],
                &column!(began, |(_, row)| row.name.as_str()) as &[&str],
                &column!(began, |(_, row)| row.roles.as_str()) as &[&str],
                &column!(began, |(_, row)| row.users.as_str()) as &[&str],
                &column!(began, |(_, row)| row.detail.as_deref()) as &[Option<&str>],
            )
            .execute(&mut *connection)
            .await?;
        }
        let taken: Vec<_> = std::mem::take(&mut self.taken).into_iter().collect();
        if !taken.is_empty() {
            sqlx::query!(
                "UPDATE execution_waits AS w SET taken = x.taken
                   FROM unnest($1::uuid[], $2::text[], $3::boolean[]) AS x (execution_id, path, taken)
                  WHERE w.execution_id = x.execution_id AND w.path = x.path",
                &column!(taken, |(key, _)| key.0),
                &column!(taken, |(key, _)| key.1.as_str()) as &[&str],
                &column!(taken, |(_, taken)| *taken),
            )
            .execute(connection)
            .await?;
        }
        Ok(())
    }

    fn held(&self) -> usize {
        self.changes.len()
    }
}
