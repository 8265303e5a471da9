//! What can be asked about workflows.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgPool};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    page::{
        Conditions, List, Order, Page, PageRequest, QueryError, SortKey, Sorted, substring_pattern,
    },
    values::{ExecutionStatus, Intake, RawJson, WorkflowStatus},
};

/// A workflow as lists show it.
#[derive(Clone, Debug, FromRow, Serialize, ToSchema)]
pub struct WorkflowItem {
    /// Its id.
    pub id: Uuid,
    /// The workspace it belongs to.
    pub workspace_id: Uuid,
    /// 1 to 255 characters.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Where it stands.
    pub status: WorkflowStatus,
    /// Whether it takes in work.
    pub intake: Intake,
    /// Its latest version.
    pub version: i32,
    /// The version that triggers run; none when nothing is published.
    pub published_version: Option<i32>,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// Whether any signed-in user may see the definition.
    pub is_public: bool,
    /// Finished nodes over planned ones of the last execution, 0 to 1; none before the first.
    pub progress: Option<f64>,
    /// How often it was started.
    pub execution_count: i64,
    /// Completed executions over completed and failed ones, 0 to 1; none before the first has ended.
    pub success_rate: Option<f64>,
    /// The execution that was requested last.
    #[schema(value_type = Option<LastExecution>)]
    pub last_execution: Option<RawJson>,
    /// Who made it; none where a program did.
    pub created_by: Option<Uuid>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was edited last.
    pub updated_at: DateTime<Utc>,
    /// The workflow it was copied from.
    pub parent_workflow_id: Option<Uuid>,
    /// Position of the last event that changed this row.
    pub position: i64,
}

/// The last execution of a workflow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LastExecution {
    /// Its id.
    pub id: Uuid,
    /// Where it stands.
    pub status: ExecutionStatus,
    /// When it was requested.
    pub created_at: DateTime<Utc>,
    /// When a worker began it.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// What a list of workflows is narrowed to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkflowFilter {
    /// The workspace; always.
    pub workspace_id: Uuid,
    /// Only this status.
    pub status: Option<WorkflowStatus>,
    /// Only this intake.
    pub intake: Option<Intake>,
    /// Only with all of these tags.
    pub tags: Vec<String>,
    /// Only with this text in name or description, in any case.
    pub search: Option<String>,
    /// Only by this person.
    pub created_by: Option<Uuid>,
}

/// The order of a list of workflows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub enum WorkflowSort {
    /// The newest first.
    #[default]
    #[serde(rename = "-created_at")]
    Newest,
    /// The oldest first.
    #[serde(rename = "created_at")]
    Oldest,
    /// By name, in any case.
    #[serde(rename = "name")]
    Name,
    /// By name, backwards.
    #[serde(rename = "-name")]
    NameDescending,
    /// The one edited last comes first.
    #[serde(rename = "-updated_at")]
    LastEdited,
    /// The one edited last comes last.
    #[serde(rename = "updated_at")]
    FirstEdited,
}

impl WorkflowSort {
    const fn order(self) -> Order {
        let (word, column, descending) = match self {
            Self::Newest => ("-created_at", "created_at", true),
            Self::Oldest => ("created_at", "created_at", false),
            Self::Name => ("name", "sort_name", false),
            Self::NameDescending => ("-name", "sort_name", true),
            Self::LastEdited => ("-updated_at", "updated_at", true),
            Self::FirstEdited => ("updated_at", "updated_at", false),
        };
        Order { word, column, tie: "id", descending }
    }
}

/// A workflow with what only its order needs.
#[derive(FromRow)]
struct Listed {
    #[sqlx(flatten)]
    item: WorkflowItem,
    sort_name: String,
}

impl Sorted for Listed {
    fn sort_key(&self, order: Order) -> (SortKey, Uuid) {
        let key = match order.column {
            "sort_name" => SortKey::Text(self.sort_name.clone()),
            "updated_at" => SortKey::Time(self.item.updated_at),
            _ => SortKey::Time(self.item.created_at),
        };
        (key, self.item.id)
    }
}

/// How many workflows there are in a status and intake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct WorkflowCount {
    /// The status.
    pub status: WorkflowStatus,
    /// The intake.
    pub intake: Intake,
    /// How many.
    pub count: i64,
}

/// A page of the workflows of a workspace.
///
/// # Errors
/// [`QueryError`].
pub async fn list(
    pool: &PgPool,
    filter: &WorkflowFilter,
    page: &PageRequest<WorkflowSort>,
) -> Result<Page<WorkflowItem>, QueryError> {
    let counted = filter.tags.is_empty() && filter.search.is_none() && filter.created_by.is_none();
    let kept_total: Conditions = &|query| {
        query.push(
            "SELECT coalesce(sum(count), 0)::bigint FROM workflow_counts WHERE workspace_id = ",
        );
        query.push_bind(filter.workspace_id);
        if let Some(status) = filter.status {
            query.push(" AND status = ").push_bind(status.as_str());
        }
        if let Some(intake) = filter.intake {
            query.push(" AND intake = ").push_bind(intake.as_str());
        }
    };
    let list = List {
        columns: "SELECT id, workspace_id, name, description, status, intake, version, published_version, tags, \
                  public AS is_public, progress, execution_count, \
                  completed_count::double precision / nullif(completed_count + failed_count, 0) AS success_rate, \
                  last_execution, created_by, created_at, updated_at, parent_workflow_id, position, sort_name",
        from: "FROM workflows WHERE NOT deleted",
        conditions: &|query| {
            query.push(" AND workspace_id = ").push_bind(filter.workspace_id);
            if let Some(status) = filter.status {
                query.push(" AND status = ").push_bind(status.as_str());
            }
            if let Some(intake) = filter.intake {
                query.push(" AND intake = ").push_bind(intake.as_str());
            }
            if !filter.tags.is_empty() {
                query.push(" AND tags @> ").push_bind(filter.tags.clone());
            }
            if let Some(search) = &filter.search {
                query.push(" AND search LIKE ").push_bind(substring_pattern(search));
            }
            if let Some(user) = filter.created_by {
                query.push(" AND created_by = ").push_bind(user);
            }
        },
        kept_total: counted.then_some(kept_total),
        order: page.sort.order(),
    };
    let Page { items, next_cursor, total, total_is_estimate, limit, offset } =
        list.page::<Listed, _>(pool, page).await?;
    let items = items.into_iter().map(|listed| listed.item).collect();
    Ok(Page { items, next_cursor, total, total_is_estimate, limit, offset })
}

/// One workflow; none when it does not exist or was deleted.
///
/// # Errors
/// When Postgres is away.
pub async fn get(pool: &PgPool, id: Uuid) -> Result<Option<WorkflowItem>, QueryError> {
    Ok(sqlx::query_file_as!(WorkflowItem, "sql/workflows/get.sql", id).fetch_optional(pool).await?)
}

/// How many workflows a workspace has, by status and intake.
///
/// # Errors
/// When Postgres is away.
pub async fn counts(pool: &PgPool, workspace_id: Uuid) -> Result<Vec<WorkflowCount>, QueryError> {
    Ok(sqlx::query_as!(
        WorkflowCount,
        r#"SELECT status AS "status: WorkflowStatus", intake AS "intake: Intake", count
           FROM workflow_counts WHERE workspace_id = $1 ORDER BY status, intake"#,
        workspace_id
    )
    .fetch_all(pool)
    .await?)
}
