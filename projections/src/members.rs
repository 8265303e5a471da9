//! Who belongs to which workspace, with which role.

use chrono::{DateTime, Utc};
use ledgerline_domain::{
    event::{AnyEvent, DomainEvent},
    id::UserId,
    workspace::WorkspaceEvent,
};
use serde::Serialize;
use sqlx::{FromRow, PgConnection, PgPool};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    page::{List, Order, Page, PageRequest, QueryError, SortKey, Sorted},
    projection::{LogEvent, Poison, Projection},
    rows::{Rows, column},
    values::MemberRole,
};

/// Rows held in memory at most.
const HELD: usize = 50_000;

/// A member of a workspace. Names and addresses are in the erasable tables of identity.
#[derive(Clone, Debug, PartialEq, FromRow, Serialize, ToSchema)]
pub struct Member {
    /// The workspace.
    pub workspace_id: Uuid,
    /// Who.
    pub user_id: Uuid,
    /// With which role.
    pub role: MemberRole,
    /// Since when.
    pub added_at: DateTime<Utc>,
    /// Who added them; none where a program did.
    pub added_by: Option<Uuid>,
    /// When the role changed last.
    pub updated_at: DateTime<Utc>,
    /// Position of the last event that changed this row.
    pub position: i64,
}

/// The order of a list of members: who came first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberSort;

impl Sorted for Member {
    fn sort_key(&self, _order: Order) -> (SortKey, Uuid) {
        (SortKey::Time(self.added_at), self.user_id)
    }
}

/// A page of the members of a workspace, in the order in which they came.
///
/// # Errors
/// [`QueryError`].
pub async fn list(
    pool: &PgPool,
    workspace_id: Uuid,
    role: Option<MemberRole>,
    page: &PageRequest<MemberSort>,
) -> Result<Page<Member>, QueryError> {
    let list = List {
        columns: "SELECT workspace_id, user_id, role, added_at, added_by, updated_at, position",
        from: "FROM members WHERE true",
        conditions: &|query| {
            query.push(" AND workspace_id = ").push_bind(workspace_id);
            if let Some(role) = role {
                query.push(" AND role = ").push_bind(role.as_str());
            }
        },
        kept_total: None,
        order: Order { word: "added_at", column: "added_at", tie: "user_id", descending: false },
    };
    list.page(pool, page).await
}

/// What a person is in a workspace; none when they are no member.
///
/// # Errors
/// When Postgres is away.
pub async fn role(
    pool: &PgPool,
    workspace_id: Uuid,
    user_id: Uuid,
) -> Result<Option<MemberRole>, QueryError> {
    Ok(sqlx::query_scalar!(
        r#"SELECT role AS "role: MemberRole" FROM members WHERE workspace_id = $1 AND user_id = $2"#,
        workspace_id,
        user_id
    )
    .fetch_optional(pool)
    .await?)
}

/// The workspaces that a person belongs to.
///
/// # Errors
/// When Postgres is away.
pub async fn workspaces_of(pool: &PgPool, user_id: Uuid) -> Result<Vec<Uuid>, QueryError> {
    let ids = sqlx::query_scalar!(
        "SELECT workspace_id FROM members WHERE user_id = $1 ORDER BY workspace_id",
        user_id
    );
    Ok(ids.fetch_all(pool).await?)
}

/// A member's row while it is folded.
#[derive(Debug)]
struct Row {
    role: MemberRole,
    added_at: DateTime<Utc>,
    added_by: Option<Uuid>,
    updated_at: DateTime<Utc>,
    position: i64,
}

/// A workspace and a user.
type Key = (Uuid, Uuid);

/// The read model.
#[derive(Debug, Default)]
pub struct Members {
    members: Rows<Key, Row>,
    /// Workspaces of which nobody is a member any more.
    deleted: Vec<Uuid>,
}

/// Whom an event concerns.
fn concerned(event: &WorkspaceEvent) -> Option<UserId> {
    match event {
        WorkspaceEvent::WorkspaceCreated(event) => Some(event.owner),
        WorkspaceEvent::MemberAdded(event) => Some(event.user_id),
        WorkspaceEvent::MemberRoleChanged(event) => Some(event.user_id),
        WorkspaceEvent::MemberRemoved(event) => Some(event.user_id),
        WorkspaceEvent::ServiceAccountAdded(event) => Some(event.account_id),
        WorkspaceEvent::WorkspaceRenamed(_)
        | WorkspaceEvent::ConcurrencyChanged(_)
        | WorkspaceEvent::DispatchPaused(_)
        | WorkspaceEvent::DispatchResumed(_)
        | WorkspaceEvent::InvitationSent(_)
        | WorkspaceEvent::InvitationRenewed(_)
        | WorkspaceEvent::InvitationRevoked(_)
        | WorkspaceEvent::InvitationAccepted(_)
        | WorkspaceEvent::InvitationExpired(_)
        | WorkspaceEvent::WorkspaceDeletionRequested(_)
        | WorkspaceEvent::WorkspaceRestored(_)
        | WorkspaceEvent::WorkspaceDeleted(_)
        | WorkspaceEvent::ServiceAccountDisabled(_)
        | WorkspaceEvent::ServiceAccountEnabled(_) => None,
    }
}

impl Members {
    fn add(&mut self, at: &LogEvent, user: UserId, role: MemberRole) -> Result<(), Poison> {
        let row = Row {
            role,
            added_at: at.at,
            added_by: at.user()?,
            updated_at: at.at,
            position: at.position,
        };
        self.members.put((at.stream, user.0), row);
        Ok(())
    }
}

impl Projection for Members {
    const NAME: &'static str = "members";
    const VERSION: i32 = 1;
    const SCHEMA: &'static str = include_str!("../sql/members/schema.sql");
    const CATEGORIES: &'static [&'static str] = &[WorkspaceEvent::CATEGORY];

    fn want(&mut self, event: &LogEvent) {
        let AnyEvent::Workspace(workspace) = &event.event else { return };
        if let Some(user) = concerned(workspace) {
            self.members.want((event.stream, user.0));
        }
    }

    async fn load(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let wanted = self.members.take_wanted();
        if wanted.is_empty() {
            return Ok(());
        }
        let (workspaces, users): (Vec<Uuid>, Vec<Uuid>) = wanted.into_iter().unzip();
        let rows = sqlx::query_file!("sql/members/load.sql", &workspaces, &users);
        for row in rows.fetch_all(connection).await? {
            let loaded = Row {
                role: row.role,
                added_at: row.added_at,
                added_by: row.added_by,
                updated_at: row.updated_at,
                position: row.position,
            };
            self.members.found((row.workspace_id, row.user_id), loaded);
        }
        Ok(())
    }

    fn apply(&mut self, at: &LogEvent) -> Result<(), Poison> {
        let AnyEvent::Workspace(event) = &at.event else { return Ok(()) };
        match event {
            WorkspaceEvent::WorkspaceCreated(event) => self.add(at, event.owner, MemberRole::Owner),
            WorkspaceEvent::MemberAdded(event) => self.add(at, event.user_id, event.role.into()),
            WorkspaceEvent::ServiceAccountAdded(event) => {
                self.add(at, event.account_id, event.role.into())
            }
            WorkspaceEvent::MemberRoleChanged(event) => {
                let key = (at.stream, event.user_id.0);
                let row = self.members.edit(&key).ok_or_else(|| {
                    Poison::new(format!("the user {} is no member", event.user_id))
                })?;
                row.role = event.role.into();
                row.updated_at = at.at;
                row.position = at.position;
                Ok(())
            }
            WorkspaceEvent::MemberRemoved(event) => {
                self.members.remove(&(at.stream, event.user_id.0));
                Ok(())
            }
            WorkspaceEvent::WorkspaceRenamed(_)
            | WorkspaceEvent::ConcurrencyChanged(_)
            | WorkspaceEvent::DispatchPaused(_)
            | WorkspaceEvent::DispatchResumed(_)
            | WorkspaceEvent::InvitationSent(_)
            | WorkspaceEvent::InvitationRenewed(_)
            | WorkspaceEvent::InvitationRevoked(_)
            | WorkspaceEvent::InvitationAccepted(_)
            | WorkspaceEvent::InvitationExpired(_)
            | WorkspaceEvent::ServiceAccountDisabled(_)
            | WorkspaceEvent::ServiceAccountEnabled(_)
            | WorkspaceEvent::WorkspaceDeletionRequested(_)
            | WorkspaceEvent::WorkspaceRestored(_) => Ok(()),
            WorkspaceEvent::WorkspaceDeleted(_) => {
                self.members.remove_if(|(workspace, _)| *workspace == at.stream);
                self.deleted.push(at.stream);
                Ok(())
            }
        }
    }

    async fn write(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let deleted = std::mem::take(&mut self.deleted);
        if !deleted.is_empty() {
            sqlx::query!("DELETE FROM members WHERE workspace_id = ANY ($1)", &deleted)
                .execute(&mut *connection)
                .await?;
        }
        let removed = self.members.removed();
        if !removed.is_empty() {
            let (workspaces, users): (Vec<Uuid>, Vec<Uuid>) = removed.into_iter().unzip();
            sqlx::query!(
                "DELETE FROM members AS m USING unnest($1::uuid[], $2::uuid[]) AS gone (workspace_id, user_id)
                 WHERE m.workspace_id = gone.workspace_id AND m.user_id = gone.user_id",
                &workspaces,
                &users
            )
            .execute(&mut *connection)
            .await?;
        }
        let rows = self.members.changed();
        if !rows.is_empty() {
            sqlx::query_file!(
                "sql/members/upsert.sql",
                &column!(rows, |(key, _)| key.0),
                &column!(rows, |(key, _)| key.1),
                &column!(rows, |(_, row)| row.added_at),
                &column!(rows, |(_, row)| row.added_by) as &[Option<Uuid>],
                &column!(rows, |(_, row)| row.updated_at),
                &column!(rows, |(_, row)| row.position),
                &column!(rows, |(_, row)| row.role.as_str()) as &[&str],
            )
            .execute(connection)
            .await?;
        }
        self.members.written(HELD, |_| ());
        Ok(())
    }

    fn held(&self) -> usize {
        self.members.len()
    }
}
