//! What matters for security, in one list: the facts of the audit trails, and what the log says anyhow about members, secrets, webhooks
//! and the deployment. Nothing is told twice: a change of role is the workspace's own event and stands here as such.

use chrono::{DateTime, Utc};
use ledgerline_domain::{
    audit::AuditEvent,
    deployment::DeploymentEvent,
    event::{AnyEvent, DomainEvent},
    trigger::TriggerEvent,
    vault::VaultEvent,
    workspace::WorkspaceEvent,
};
use serde_json::{Value, json};
use sqlx::{FromRow, PgConnection, PgPool};
use uuid::Uuid;

use crate::{
    activity::{trigger_detail, vault_detail, workspace_detail},
    page::{List, Order, Page, PageRequest, QueryError, SortKey, Sorted},
    projection::{LogEvent, Poison, Projection},
    rows::column,
    values::RawJson,
};

/// Something that matters for security.
#[derive(Clone, Debug, FromRow)]
pub struct AuditEntry {
    /// Position in the log.
    pub position: i64,
    /// When it was recorded.
    pub at: DateTime<Utc>,
    /// The event.
    pub event_id: Uuid,
    /// In which workspace; none for the deployment.
    pub workspace_id: Option<Uuid>,
    /// By whom.
    pub actor: RawJson,
    /// What: the stored name of the event.
    pub action: String,
    /// To what: the category of the event.
    pub resource_kind: String,
    /// To which: the stream of the event.
    pub resource_id: Uuid,
    /// Whom it is about.
    pub user_id: Option<Uuid>,
    /// What goes with it.
    pub detail: RawJson,
}

/// What the list is narrowed to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// The workspace; none for the whole deployment.
    pub workspace_id: Option<Uuid>,
    /// Only what this person did, or what was done to them.
    pub user_id: Option<Uuid>,
    /// Only these actions; empty for all.
    pub actions: Vec<String>,
    /// Only from here on.
    pub from: Option<DateTime<Utc>>,
    /// Only before this.
    pub to: Option<DateTime<Utc>>,
}

/// The order of the list: the newest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditSort;

impl Sorted for AuditEntry {
    fn sort_key(&self, _order: Order) -> (SortKey, Uuid) {
        (SortKey::Number(self.position), Uuid::nil())
    }
}

/// A page of the audit, the newest first.
///
/// # Errors
/// [`QueryError`].
pub async fn list(
    pool: &PgPool,
    filter: &AuditFilter,
    page: &PageRequest<AuditSort>,
) -> Result<Page<AuditEntry>, QueryError> {
    let list = List {
        columns: "SELECT position, at, event_id, workspace_id, actor, action, resource_kind, resource_id, user_id, detail",
        from: "FROM audit WHERE true",
        conditions: &|query| {
            if let Some(workspace) = filter.workspace_id {
                query.push(" AND workspace_id = ").push_bind(workspace);
            }
            if let Some(user) = filter.user_id {
                query.push(" AND (user_id = ").push_bind(user);
                query.push(" OR actor_user_id = ").push_bind(user).push(")");
            }
            if !filter.actions.is_empty() {
                query.push(" AND action = ANY (").push_bind(filter.actions.clone()).push(")");
            }
            if let Some(from) = filter.from {
                query.push(" AND at >= ").push_bind(from);
            }
            if let Some(to) = filter.to {
                query.push(" AND at < ").push_bind(to);
            }
        },
        kept_total: None,
        order: Order { word: "-position", column: "position", tie: "", descending: true },
    };
    list.page(pool, page).await
}

/// Every action that the list can hold.
pub fn actions() -> impl Iterator<Item = &'static str> {
    let types = [
        WorkspaceEvent::TYPES,
        VaultEvent::TYPES,
        DeploymentEvent::TYPES,
        TriggerEvent::TYPES,
        AuditEvent::TYPES,
    ];
    types.into_iter().flatten().map(|(name, _)| *name)
}

/// A row of the list. It is never changed, so nothing is held between batches.
#[derive(Debug)]
struct Row {
    position: i64,
    at: DateTime<Utc>,
    event_id: Uuid,
    workspace_id: Option<Uuid>,
    resource_id: Uuid,
    actor_user_id: Option<Uuid>,
    user_id: Option<Uuid>,
    action: &'static str,
    resource_kind: &'static str,
    actor: String,
    detail: String,
}

/// The read model.
#[derive(Debug, Default)]
pub struct Audit {
    rows: Vec<Row>,
}

/// Kind of the resource, action and detail; none for what does not matter for security.
fn entry(event: &AnyEvent) -> Option<(&'static str, &'static str, Value)> {
    match event {
        AnyEvent::Workspace(event) => {
            Some((WorkspaceEvent::CATEGORY, event.type_name(), workspace_detail(event)))
        }
        AnyEvent::Vault(event) => {
            Some((VaultEvent::CATEGORY, event.type_name(), vault_detail(event)))
        }
        AnyEvent::Deployment(event) => {
            let detail = serde_json::from_str(&event.payload()).unwrap_or_else(|_| json!({}));
            Some((DeploymentEvent::CATEGORY, event.type_name(), detail))
        }
        AnyEvent::Audit(event) => {
            let detail = serde_json::from_str(&event.payload()).unwrap_or_else(|_| json!({}));
            Some((AuditEvent::CATEGORY, event.type_name(), detail))
        }
        // What lets others in from outside.
        AnyEvent::Trigger(
            event @ (TriggerEvent::WebhookTokenChanged(_) | TriggerEvent::WebhookSecretChanged(_)),
        ) => Some((TriggerEvent::CATEGORY, event.type_name(), trigger_detail(event)?)),
        AnyEvent::Trigger(_) | AnyEvent::Workflow(_) | AnyEvent::Execution(_) => None,
    }
}

impl Projection for Audit {
    const NAME: &'static str = "audit";
    const VERSION: i32 = 1;
    const SCHEMA: &'static str = include_str!("../sql/audit/schema.sql");
    const CATEGORIES: &'static [&'static str] = &[
        WorkspaceEvent::CATEGORY,
        VaultEvent::CATEGORY,
        DeploymentEvent::CATEGORY,
        TriggerEvent::CATEGORY,
        AuditEvent::CATEGORY,
    ];

    fn want(&mut self, _event: &LogEvent) {}

    async fn load(&mut self, _connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        Ok(())
    }

    fn apply(&mut self, at: &LogEvent) -> Result<(), Poison> {
        let Some((resource_kind, action, detail)) = entry(&at.event) else { return Ok(()) };
        let actor = at.actor()?;
        let workspace_id = match &at.event {
            AnyEvent::Audit(event) => event.workspace().map(|workspace| workspace.0),
            AnyEvent::Workspace(_)
            | AnyEvent::Workflow(_)
            | AnyEvent::Execution(_)
            | AnyEvent::Vault(_)
            | AnyEvent::Deployment(_)
            | AnyEvent::Trigger(_) => Some(at.workspace).filter(|workspace| !workspace.is_nil()),
        };
        let about = detail.get("user_id").and_then(Value::as_str);
        self.rows.push(Row {
            position: at.position,
            at: at.at,
            event_id: at.event_id,
            workspace_id,
            resource_id: at.stream,
            actor_user_id: actor.member().map(|member| member.0),
            user_id: about.and_then(|id| id.parse().ok()),
            action,
            resource_kind,
            actor: serde_json::to_string(&actor).expect("an actor has only string keys"),
            detail: detail.to_string(),
        });
        Ok(())
    }

    async fn write(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let rows = std::mem::take(&mut self.rows);
        if rows.is_empty() {
            return Ok(());
        }
        sqlx::query_file!(
            "sql/audit/insert.sql",
            &column!(rows, |row| row.position),
            &column!(rows, |row| row.at),
            &column!(rows, |row| row.event_id),
            &column!(rows, |row| row.workspace_id) as &[Option<Uuid>],
            &column!(rows, |row| row.resource_id),
            &column!(rows, |row| row.actor_user_id) as &[Option<Uuid>],
            &column!(rows, |row| row.user_id) as &[Option<Uuid>],
            &column!(rows, |row| row.action) as &[&str],
            &column!(rows, |row| row.resource_kind) as &[&str],
            &column!(rows, |row| row.actor.as_str()) as &[&str],
            &column!(rows, |row| row.detail.as_str()) as &[&str],
        )
        .execute(connection)
        .await?;
        Ok(())
    }

    fn held(&self) -> usize {
        self.rows.len()
    }
}
