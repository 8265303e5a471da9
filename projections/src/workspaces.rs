//! Workspaces, as their members see them.

use chrono::{DateTime, Utc};
use ledgerline_domain::{
    event::{AnyEvent, DomainEvent},
    workspace::WorkspaceEvent,
};
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection, PgPool};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    page::{
        List, Order, Page, PageRequest, QueryError, SortKey, Sorted, searched, substring_pattern,
    },
    projection::{LogEvent, Poison, Projection},
    rows::{Rows, column},
    values::MemberRole,
};

/// Rows held in memory at most.
const HELD: usize = 20_000;

/// A workspace, with the role of the person who asks.
#[derive(Clone, Debug, PartialEq, FromRow, Serialize, ToSchema)]
pub struct WorkspaceItem {
    /// Its id.
    pub id: Uuid,
    /// 1 to 255 characters.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Whether it is the personal workspace of its owner.
    pub personal: bool,
    /// What the person who asks is in it.
    pub role: MemberRole,
    /// How many members it has.
    pub member_count: i32,
    /// Its first owner.
    pub created_by: Uuid,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When its name, description or membership changed last.
    pub updated_at: DateTime<Utc>,
    /// Until when its deletion can be taken back; none where it is not being deleted.
    pub deletion_ends_at: Option<DateTime<Utc>>,
    /// Position of the last event that changed this row.
    pub position: i64,
}

/// The order of a list of workspaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub enum WorkspaceSort {
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
}

impl WorkspaceSort {
    const fn order(self) -> Order {
        let (word, column, descending) = match self {
            Self::Newest => ("-created_at", "w.created_at", true),
            Self::Oldest => ("created_at", "w.created_at", false),
            Self::Name => ("name", "w.sort_name", false),
            Self::NameDescending => ("-name", "w.sort_name", true),
        };
        Order { word, column, tie: "w.id", descending }
    }
}

#[derive(FromRow)]
struct Listed {
    #[sqlx(flatten)]
    item: WorkspaceItem,
    sort_name: String,
}

impl Sorted for Listed {
    fn sort_key(&self, order: Order) -> (SortKey, Uuid) {
        let key = match order.column {
            "w.sort_name" => SortKey::Text(self.sort_name.clone()),
            _ => SortKey::Time(self.item.created_at),
        };
        (key, self.item.id)
    }
}

/// A page of the workspaces that a person is a member of.
///
/// # Errors
/// [`QueryError`].
pub async fn list(
    pool: &PgPool,
    user_id: Uuid,
    search: Option<&str>,
    page: &PageRequest<WorkspaceSort>,
) -> Result<Page<WorkspaceItem>, QueryError> {
    let list = List {
        columns: "SELECT w.id, w.name, w.description, w.personal, m.role, w.member_count, w.created_by, w.created_at, \
                  w.updated_at, w.deletion_ends_at, w.position, w.sort_name",
        from: "FROM members AS m JOIN workspaces AS w ON w.id = m.workspace_id WHERE true",
        conditions: &|query| {
            query.push(" AND m.user_id = ").push_bind(user_id);
            if let Some(search) = search {
                query.push(" AND w.search LIKE ");
                query.push_bind(substring_pattern(search));
            }
        },
        kept_total: None,
        order: page.sort.order(),
    };
    let Page { items, next_cursor, total, total_is_estimate, limit, offset } =
        list.page::<Listed, _>(pool, page).await?;
    let items = items.into_iter().map(|listed| listed.item).collect();
    Ok(Page { items, next_cursor, total, total_is_estimate, limit, offset })
}

/// One workspace; none when it does not exist or the person is no member of it.
///
/// # Errors
/// When Postgres is away.
pub async fn get(
    pool: &PgPool,
    id: Uuid,
    user_id: Uuid,
) -> Result<Option<WorkspaceItem>, QueryError> {
    Ok(sqlx::query_file_as!(WorkspaceItem, "sql/workspaces/get.sql", id, user_id)
        .fetch_optional(pool)
        .await?)
}

/// A workspace's row while it is folded.
#[derive(Debug)]
struct Row {
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    deletion_ends_at: Option<DateTime<Utc>>,
    created_by: Uuid,
    position: i64,
    member_count: i32,
    personal: bool,
    name: String,
    description: String,
}

/// The read model.
#[derive(Debug, Default)]
pub struct Workspaces {
    workspaces: Rows<Uuid, Row>,
    deleted: Vec<(Uuid, DateTime<Utc>)>,
}

impl Workspaces {
    /// What was deleted is not listed any more; that it was is kept, for whoever clears away what belonged to it.
    async fn write_deleted(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let deleted = std::mem::take(&mut self.deleted);
        if deleted.is_empty() {
            return Ok(());
        }
        let (ids, times): (Vec<Uuid>, Vec<DateTime<Utc>>) = deleted.into_iter().unzip();
        sqlx::query!("DELETE FROM workspaces WHERE id = ANY ($1)", &ids)
            .execute(&mut *connection)
            .await?;
        sqlx::query!(
            "INSERT INTO deleted_workspaces (id, deleted_at) SELECT * FROM unnest($1::uuid[], $2::timestamptz[])",
            &ids,
            &times
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}

impl Projection for Workspaces {
    const NAME: &'static str = "workspaces";
    const VERSION: i32 = 2;
    const SCHEMA: &'static str = include_str!("../sql/workspaces/schema.sql");
    const CATEGORIES: &'static [&'static str] = &[WorkspaceEvent::CATEGORY];

    fn want(&mut self, event: &LogEvent) {
        match &event.event {
            AnyEvent::Workspace(_) if event.version == 1 => self.workspaces.want_new(event.stream),
            AnyEvent::Workspace(_) => self.workspaces.want(event.stream),
            AnyEvent::Workflow(_)
            | AnyEvent::Execution(_)
            | AnyEvent::Vault(_)
            | AnyEvent::Deployment(_)
            | AnyEvent::Trigger(_)
            | AnyEvent::Audit(_) => {}
        }
    }

    async fn load(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let wanted = self.workspaces.take_wanted();
        if wanted.is_empty() {
            return Ok(());
        }
        let rows = sqlx::query!(
            "SELECT id, created_at, updated_at, deletion_ends_at, created_by, position, member_count, personal, name, description
             FROM workspaces WHERE id = ANY ($1)",
            &wanted
        )
        .fetch_all(connection)
        .await?;
        for row in rows {
            let loaded = Row {
                created_at: row.created_at,
                updated_at: row.updated_at,
                deletion_ends_at: row.deletion_ends_at,
                created_by: row.created_by,
                position: row.position,
                member_count: row.member_count,
                personal: row.personal,
                name: row.name,
                description: row.description,
            };
            self.workspaces.found(row.id, loaded);
        }
        Ok(())
    }

    fn apply(&mut self, at: &LogEvent) -> Result<(), Poison> {
        let AnyEvent::Workspace(event) = &at.event else { return Ok(()) };
        let row = self.workspaces.edit(&at.stream);
        let Some(row) = row else {
            let WorkspaceEvent::WorkspaceCreated(created) = event else {
                return Err(Poison::new("the workspace was never created"));
            };
            let row = Row {
                created_at: at.at,
                updated_at: at.at,
                deletion_ends_at: None,
                created_by: created.owner.0,
                position: at.position,
                member_count: 1,
                personal: created.personal,
                name: created.name.clone(),
                description: created.description.clone(),
            };
            self.workspaces.put(at.stream, row);
            return Ok(());
        };
        row.position = at.position;
        row.updated_at = at.at;
        match event {
            WorkspaceEvent::WorkspaceCreated(_) => {
                return Err(Poison::new("the workspace was created twice"));
            }
            WorkspaceEvent::WorkspaceRenamed(event) => {
                row.name.clone_from(&event.name);
                row.description.clone_from(&event.description);
            }
            WorkspaceEvent::MemberAdded(_) | WorkspaceEvent::ServiceAccountAdded(_) => {
                row.member_count += 1;
            }
            WorkspaceEvent::MemberRemoved(_) => row.member_count -= 1,
            WorkspaceEvent::MemberRoleChanged(_)
            | WorkspaceEvent::ConcurrencyChanged(_)
            | WorkspaceEvent::DispatchPaused(_)
            | WorkspaceEvent::DispatchResumed(_)
            | WorkspaceEvent::InvitationSent(_)
            | WorkspaceEvent::InvitationRenewed(_)
            | WorkspaceEvent::InvitationRevoked(_)
            | WorkspaceEvent::InvitationAccepted(_)
            | WorkspaceEvent::InvitationExpired(_)
            | WorkspaceEvent::ServiceAccountDisabled(_)
            | WorkspaceEvent::ServiceAccountEnabled(_) => {}
            WorkspaceEvent::WorkspaceDeletionRequested(event) => {
                row.deletion_ends_at = Some(event.ends_at);
            }
            WorkspaceEvent::WorkspaceRestored(_) => row.deletion_ends_at = None,
            WorkspaceEvent::WorkspaceDeleted(_) => {
                self.workspaces.remove(&at.stream);
                self.deleted.push((at.stream, at.at));
            }
        }
        Ok(())
    }

    async fn write(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        self.write_deleted(connection).await?;
        let rows = self.workspaces.changed();
        if !rows.is_empty() {
            sqlx::query_file!(
                "sql/workspaces/upsert.sql",
                &column!(rows, |(id, _)| **id),
                &column!(rows, |(_, row)| row.created_at),
                &column!(rows, |(_, row)| row.updated_at),
                &column!(rows, |(_, row)| row.deletion_ends_at) as &[Option<DateTime<Utc>>],
                &column!(rows, |(_, row)| row.created_by),
                &column!(rows, |(_, row)| row.position),
                &column!(rows, |(_, row)| row.member_count),
                &column!(rows, |(_, row)| row.personal),
                &column!(rows, |(_, row)| row.name.as_str()) as &[&str],
                &column!(rows, |(_, row)| row.description.as_str()) as &[&str],
                &column!(rows, |(_, row)| row.name.to_lowercase()),
                &column!(rows, |(_, row)| searched(&row.name, &row.description)),
            )
            .execute(connection)
            .await?;
        }
        self.workspaces.written(HELD, |_| ());
        Ok(())
    }

    fn held(&self) -> usize {
        self.workspaces.len()
    }
}
