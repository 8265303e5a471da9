//! What can be asked about executions.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgPool, Postgres, QueryBuilder};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    page::{
        Conditions, List, Order, Page, PageRequest, QueryError, SortKey, Sorted, substring_pattern,
    },
    values::{ExecutionStatus, RawJson, Trigger},
};

/// An execution. Lists leave out `input`, `output` and `output_blob`, which may be large.
#[derive(Clone, Debug, FromRow, Serialize, ToSchema)]
pub struct ExecutionItem {
    /// Its id.
    pub id: Uuid,
    /// The workspace it belongs to.
    pub workspace_id: Uuid,
    /// The workflow it is a run of.
    pub workflow_id: Uuid,
    /// The version that it keeps to its end.
    pub workflow_version: i32,
    /// The name that the workflow has now.
    pub workflow_name: Option<String>,
    /// Where it stands.
    pub status: ExecutionStatus,
    /// True while no worker has it and it only waits for timers.
    pub waiting: bool,
    /// True when a cancel was accepted and the running step is being aborted.
    pub cancelling: bool,
    /// What started it.
    pub trigger_type: Trigger,
    /// Which line it waits in: `high`, `default` or `low`.
    pub queue: String,
    /// The limit that concerns it.
    pub limit_key: Option<String>,
    /// Tokens that its nodes sent to providers.
    pub input_tokens: i64,
    /// Tokens that its nodes got from providers.
    pub output_tokens: i64,
    /// What its nodes spent with providers, in millionths of a dollar.
    pub cost_microusd: i64,
    /// Who asked for it; none where a program did.
    pub created_by: Option<Uuid>,
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
    pub finished_nodes: i32,
    /// How many nodes the graph has at its top level.
    pub planned_nodes: i32,
    /// How often the right to run it was handed out.
    pub claim: i32,
    /// The worker process that has or had it.
    pub worker: Option<String>,
    /// The execution it was made from.
    pub origin_execution_id: Option<Uuid>,
    /// How: `retry`, `rerun` or `fork`.
    pub origin_kind: Option<String>,
    /// The execution whose node started it as its child.
    pub parent_execution_id: Option<Uuid>,
    /// Why it was or is being stopped.
    pub cancel_reason: Option<String>,
    /// The node that failed it.
    pub failed_node: Option<String>,
    /// Why it failed: `{kind, message, details}`.
    #[schema(value_type = Option<Object>)]
    pub error: Option<RawJson>,
    /// What the trigger gave.
    #[schema(value_type = Option<serde_json::Value>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[sqlx(default)]
    pub input: Option<RawJson>,
    /// What came out, where it is small enough to be kept inline.
    #[schema(value_type = Option<serde_json::Value>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[sqlx(default)]
    pub output: Option<RawJson>,
    /// Where a larger output is.
    #[schema(value_type = Option<BlobReference>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[sqlx(default)]
    pub output_blob: Option<RawJson>,
    /// Position of the last event that changed this row.
    pub position: i64,
}

/// A value that is kept by its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BlobReference {
    /// SHA-256 in lower-case hex.
    pub hash: String,
    /// Its size.
    pub size_bytes: u64,
}

/// What a list of executions is narrowed to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecutionFilter {
    /// The workspace; always.
    pub workspace_id: Uuid,
    /// Only of this workflow.
    pub workflow_id: Option<Uuid>,
    /// Only this status.
    pub status: Option<ExecutionStatus>,
    /// Only children of this execution.
    pub parent_execution_id: Option<Uuid>,
    /// Only started by this.
    pub trigger_type: Option<Trigger>,
    /// Only requested at or after this time.
    pub from: Option<DateTime<Utc>>,
    /// Only requested before this time.
    pub to: Option<DateTime<Utc>>,
    /// Only of workflows with all of these tags.
    pub tags: Vec<String>,
    /// Only of workflows with this text in their name, in any case.
    pub search: Option<String>,
}

impl ExecutionFilter {
    /// Whether the kept counts answer it.
    fn counted(&self) -> bool {
        self.trigger_type.is_none()
            && self.parent_execution_id.is_none()
            && self.from.is_none()
            && self.to.is_none()
            && self.tags.is_empty()
            && self.search.is_none()
    }
}

/// The order of a list of executions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub enum ExecutionSort {
    /// The newest first.
    #[default]
    #[serde(rename = "-created_at")]
    Newest,
    /// The oldest first.
    #[serde(rename = "created_at")]
    Oldest,
}

impl ExecutionSort {
    const fn order(self) -> Order {
        let (word, descending) = match self {
            Self::Newest => ("-created_at", true),
            Self::Oldest => ("created_at", false),
        };
        Order { word, column: "e.created_at", tie: "e.id", descending }
    }
}

impl Sorted for ExecutionItem {
    fn sort_key(&self, _order: Order) -> (SortKey, Uuid) {
        (SortKey::Time(self.created_at), self.id)
    }
}

/// How many executions there are in a status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ExecutionCount {
    /// The status.
    pub status: ExecutionStatus,
    /// How many.
    pub count: i64,
}

/// A page of the executions of a workspace.
///
/// # Errors
/// [`QueryError`].
pub async fn list(
    pool: &PgPool,
    filter: &ExecutionFilter,
    page: &PageRequest<ExecutionSort>,
) -> Result<Page<ExecutionItem>, QueryError> {
    let kept_total: Conditions = &|query| {
        query.push(
            "SELECT coalesce(sum(count), 0)::bigint FROM execution_counts WHERE workspace_id = ",
        );
        query.push_bind(filter.workspace_id).push(" AND workflow_id = ");
        query.push_bind(filter.workflow_id.unwrap_or_default());
        if let Some(status) = filter.status {
            query.push(" AND status = ").push_bind(status.as_str());
        }
    };
    let list = List {
        columns: "SELECT e.id, e.workspace_id, e.workflow_id, e.workflow_version, \
                  (SELECT w.name FROM execution_workflows AS w WHERE w.id = e.workflow_id) AS workflow_name, e.status, \
                  e.waiting, e.cancelling, e.trigger_type, e.queue, e.limit_key, e.input_tokens, e.output_tokens, e.cost_microusd, e.created_by, e.created_at, e.queued_at, \
                  e.started_at, e.finished_at, e.timeout_at, \
                  (extract(epoch FROM e.finished_at - e.started_at) * 1000)::bigint AS duration_ms, \
                  CASE WHEN e.status = 'completed' THEN 1.0::double precision \
                  ELSE least(coalesce(e.finished_nodes::double precision / nullif(e.planned_nodes, 0), 0.0), 1.0) \
                  END AS progress, e.finished_nodes, e.planned_nodes, e.claim, e.worker, e.origin_execution_id, \
                  e.origin_kind, e.parent_execution_id, e.cancel_reason, e.failed_node, e.error, e.position",
        from: "FROM executions AS e WHERE true",
        conditions: &|query| push_conditions(query, filter),
        kept_total: filter.counted().then_some(kept_total),
        order: page.sort.order(),
    };
    list.page(pool, page).await
}

/// Binds what a list of executions is narrowed to.
fn push_conditions(query: &mut QueryBuilder<Postgres>, filter: &ExecutionFilter) {
    query.push(" AND e.workspace_id = ").push_bind(filter.workspace_id);
    if let Some(workflow) = filter.workflow_id {
        query.push(" AND e.workflow_id = ").push_bind(workflow);
    }
    if let Some(status) = filter.status {
        query.push(" AND e.status = ").push_bind(status.as_str());
    }
    if let Some(trigger) = filter.trigger_type {
        query.push(" AND e.trigger_type = ").push_bind(trigger.as_str());
    }
    if let Some(parent) = filter.parent_execution_id {
        query.push(" AND e.parent_execution_id = ").push_bind(parent);
    }
    if let Some(from) = filter.from {
        query.push(" AND e.created_at >= ").push_bind(from);
    }
    if let Some(to) = filter.to {
        query.push(" AND e.created_at < ").push_bind(to);
    }
    if !filter.tags.is_empty() || filter.search.is_some() {
        query.push(" AND e.workflow_id IN (SELECT w.id FROM execution_workflows AS w WHERE w.workspace_id = ");
        query.push_bind(filter.workspace_id);
        if !filter.tags.is_empty() {
            query.push(" AND w.tags @> ").push_bind(filter.tags.clone());
        }
        if let Some(search) = &filter.search {
            query.push(" AND w.search LIKE ").push_bind(substring_pattern(search));
        }
        query.push(")");
    }
}

/// The executions that fit a filter and are in one of these statuses (and among these, where some are named), the newest first.
///
/// # Errors
/// When Postgres is away.
pub async fn ids(
    pool: &PgPool,
    filter: &ExecutionFilter,
    statuses: &[ExecutionStatus],
    among: Option<&[Uuid]>,
    limit: i64,
) -> Result<Vec<Uuid>, QueryError> {
    let mut query = QueryBuilder::new("SELECT e.id FROM executions AS e WHERE true");
    push_conditions(&mut query, filter);
    let words: Vec<&str> = statuses.iter().map(|status| status.as_str()).collect();
    query.push(" AND e.status = ANY (").push_bind(words).push(")");
    if let Some(among) = among {
        query.push(" AND e.id = ANY (").push_bind(among.to_vec()).push(")");
    }
    query.push(" ORDER BY e.created_at DESC, e.id DESC LIMIT ").push_bind(limit);
    Ok(query.build_query_scalar().fetch_all(pool).await?)
}

/// One execution, with its input and output.
///
/// # Errors
/// When Postgres is away.
pub async fn get(pool: &PgPool, id: Uuid) -> Result<Option<ExecutionItem>, QueryError> {
    Ok(sqlx::query_file_as!(ExecutionItem, "sql/executions/get.sql", id)
        .fetch_optional(pool)
        .await?)
}

/// How many executions a workspace, or one of its workflows, has by status.
///
/// # Errors
/// When Postgres is away.
pub async fn counts(
    pool: &PgPool,
    workspace_id: Uuid,
    workflow_id: Option<Uuid>,
) -> Result<Vec<ExecutionCount>, QueryError> {
    Ok(sqlx::query_as!(
        ExecutionCount,
        r#"SELECT status AS "status: ExecutionStatus", count
           FROM execution_counts WHERE workspace_id = $1 AND workflow_id = $2 ORDER BY status"#,
        workspace_id,
        workflow_id.unwrap_or_default()
    )
    .fetch_all(pool)
    .await?)
}
