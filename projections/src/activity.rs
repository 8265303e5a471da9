//! Who did what in a workspace: the feed that people read.
//!
//! The steps of a run are left out, they are on the run's own page; what a person or a trigger did to it, and how it ended, is here.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use ledgerline_domain::{
    event::{AnyEvent, DomainEvent},
    execution::ExecutionEvent,
    trigger::TriggerEvent,
    vault::VaultEvent,
    workflow::WorkflowEvent,
    workspace::WorkspaceEvent,
};
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::{FromRow, PgConnection, PgPool};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    page::{Conditions, List, Order, Page, PageRequest, QueryError, SortKey, Sorted},
    projection::{LogEvent, Poison, Projection},
    rows::column,
    values::{MemberRole, RawJson, Trigger, cancel_word},
};

/// Something that was done.
#[derive(Clone, Debug, FromRow, Serialize, ToSchema)]
pub struct Activity {
    /// Position in the log of what was done.
    pub position: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// In which workspace.
    pub workspace_id: Uuid,
    /// By whom: `{kind: human, user_id}`, `{kind: agent, name}` or `{kind: system, name}`.
    #[schema(value_type = Object)]
    pub actor: RawJson,
    /// What: the stored name of the event, e.g. `workflow_published`.
    pub action: String,
    /// To what: `workspace`, `workflow`, `execution` or `trigger`.
    pub resource_kind: String,
    /// To which.
    pub resource_id: Uuid,
    /// What goes with it: a name, a role, a version.
    #[schema(value_type = Object)]
    pub detail: RawJson,
}

/// What the feed is narrowed to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActivityFilter {
    /// The workspace; always.
    pub workspace_id: Uuid,
    /// Only what was done to this.
    pub resource_id: Option<Uuid>,
    /// Only by this person.
    pub user_id: Option<Uuid>,
    /// Only this action.
    pub action: Option<String>,
}

/// The order of the feed: the newest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActivitySort;

impl Sorted for Activity {
    fn sort_key(&self, _order: Order) -> (SortKey, Uuid) {
        (SortKey::Number(self.position), Uuid::nil())
    }
}

/// A page of the feed of a workspace, the newest first.
///
/// # Errors
/// [`QueryError`].
pub async fn list(
    pool: &PgPool,
    filter: &ActivityFilter,
    page: &PageRequest<ActivitySort>,
) -> Result<Page<Activity>, QueryError> {
    let counted =
        filter.resource_id.is_none() && filter.user_id.is_none() && filter.action.is_none();
    let kept_total: Conditions = &|query| {
        query.push(
            "SELECT coalesce(sum(count), 0)::bigint FROM activity_counts WHERE workspace_id = ",
        );
        query.push_bind(filter.workspace_id);
    };
    let list = List {
        columns: "SELECT position, at, workspace_id, actor, action, resource_kind, resource_id, detail",
        from: "FROM activity WHERE true",
        conditions: &|query| {
            query.push(" AND workspace_id = ").push_bind(filter.workspace_id);
            if let Some(resource) = filter.resource_id {
                query.push(" AND resource_id = ").push_bind(resource);
            }
            if let Some(user) = filter.user_id {
                query.push(" AND actor_user_id = ").push_bind(user);
            }
            if let Some(action) = &filter.action {
                query.push(" AND action = ").push_bind(action.clone());
            }
        },
        kept_total: counted.then_some(kept_total),
        order: Order { word: "-position", column: "position", tie: "", descending: true },
    };
    list.page(pool, page).await
}

/// A row of the feed. It is never changed, so nothing is held between batches.
#[derive(Debug)]
struct Row {
    position: i64,
    at: DateTime<Utc>,
    workspace_id: Uuid,
    resource_id: Uuid,
    user_id: Option<Uuid>,
    action: &'static str,
    resource_kind: &'static str,
    actor: String,
    detail: String,
}

/// The read model.
#[derive(Debug, Default)]
pub struct ActivityFeed {
    rows: Vec<Row>,
}

/// What the feed says beside the action.
pub(crate) fn workspace_detail(event: &WorkspaceEvent) -> Value {
    match event {
        WorkspaceEvent::WorkspaceCreated(event) => json!({ "name": event.name }),
        WorkspaceEvent::WorkspaceRenamed(event) => json!({ "name": event.name }),
        WorkspaceEvent::ConcurrencyChanged(event) => json!({ "limit": event.limit }),
        WorkspaceEvent::DispatchPaused(event) => json!({ "reason": event.reason }),
        WorkspaceEvent::DispatchResumed(_)
        | WorkspaceEvent::WorkspaceRestored(_)
        | WorkspaceEvent::WorkspaceDeleted(_) => json!({}),
        WorkspaceEvent::WorkspaceDeletionRequested(event) => json!({ "ends_at": event.ends_at }),
        WorkspaceEvent::MemberAdded(event) => {
            json!({ "user_id": event.user_id, "role": MemberRole::from(event.role) })
        }
        WorkspaceEvent::MemberRoleChanged(event) => {
            json!({ "user_id": event.user_id, "role": MemberRole::from(event.role) })
        }
        WorkspaceEvent::MemberRemoved(event) => json!({ "user_id": event.user_id }),
        WorkspaceEvent::InvitationSent(event) => json!({
            "invitation_id": event.invitation_id, "role": MemberRole::from(event.role),
        }),
        WorkspaceEvent::InvitationRenewed(event) => json!({
            "invitation_id": event.invitation_id, "role": MemberRole::from(event.role),
        }),
        WorkspaceEvent::InvitationRevoked(event) => {
            json!({ "invitation_id": event.invitation_id, "reason": event.reason })
        }
        WorkspaceEvent::InvitationAccepted(event) => {
            json!({ "invitation_id": event.invitation_id, "user_id": event.user_id })
        }
        WorkspaceEvent::InvitationExpired(event) => {
            json!({ "invitation_id": event.invitation_id })
        }
        WorkspaceEvent::ServiceAccountAdded(event) => {
            json!({ "user_id": event.account_id, "role": MemberRole::from(event.role) })
        }
        WorkspaceEvent::ServiceAccountDisabled(event) => json!({ "user_id": event.account_id }),
        WorkspaceEvent::ServiceAccountEnabled(event) => json!({ "user_id": event.account_id }),
    }
}

pub(crate) fn vault_detail(event: &VaultEvent) -> Value {
    match event {
        VaultEvent::SecretSet(event) => json!({ "name": event.name, "version": event.version }),
        VaultEvent::SecretDeleted(event) => json!({ "name": event.name }),
        VaultEvent::ConnectionCreated(event) => json!({
            "connection_id": event.connection_id, "name": event.name, "kind": event.kind,
        }),
        VaultEvent::ConnectionChanged(event) => {
            json!({ "connection_id": event.connection_id, "name": event.name })
        }
        VaultEvent::ConnectionDeleted(event) => json!({ "connection_id": event.connection_id }),
        VaultEvent::VaultKeyRotated(_) => json!({}),
    }
}

fn workflow_detail(event: &WorkflowEvent) -> Value {
    match event {
        WorkflowEvent::WorkflowCreated(event) => json!({ "name": event.draft.name, "version": 1 }),
        WorkflowEvent::DraftSaved(event) => {
            json!({ "name": event.draft.name, "version": event.version })
        }
        WorkflowEvent::VersionNamed(event) => {
            json!({ "version": event.version, "label": event.label })
        }
        WorkflowEvent::WorkflowPublished(event) => json!({ "version": event.version }),
        WorkflowEvent::WorkflowUnpublished(_)
        | WorkflowEvent::WorkflowArchived(_)
        | WorkflowEvent::WorkflowUnarchived(_)
        | WorkflowEvent::IntakeActivated(_)
        | WorkflowEvent::IntakePaused(_)
        | WorkflowEvent::IntakeDeactivated(_)
        | WorkflowEvent::WorkflowDeleted(_) => json!({}),
    }
}

/// None for the steps of a run.
fn execution_detail(event: &ExecutionEvent) -> Option<Value> {
    match event {
        ExecutionEvent::ExecutionRequested(event) => Some(json!({
            "workflow_id": event.workflow_id,
            "workflow_version": event.workflow_version,
            "trigger_type": Trigger::from(event.trigger_type),
        })),
        ExecutionEvent::ExecutionPaused(event) => {
            Some(json!({ "reason": event.reason, "node": event.node }))
        }
        ExecutionEvent::ExecutionUnpaused(_) | ExecutionEvent::ExecutionCompleted(_) => {
            Some(json!({}))
        }
        ExecutionEvent::CancelRequested(event) => {
            Some(json!({ "reason": cancel_word(event.reason) }))
        }
        ExecutionEvent::CompensationStarted(event) => Some(json!({ "undoes": event.undoes })),
        ExecutionEvent::ExecutionFailed(event) => {
            Some(json!({ "node": event.node, "kind": event.error.kind }))
        }
        ExecutionEvent::ExecutionCancelled(event) => {
            Some(json!({ "reason": cancel_word(event.reason) }))
        }
        ExecutionEvent::ApprovalGiven(event) => {
            Some(json!({ "node": event.path, "decision": event.decision }))
        }
        ExecutionEvent::ApprovalRefused(event) => {
            Some(json!({ "node": event.path, "decision": event.decision }))
        }
        ExecutionEvent::ApprovalTimedOut(event) => Some(json!({ "node": event.path })),
        ExecutionEvent::ExecutionQueued(_)
        | ExecutionEvent::ExecutionDispatched(_)
        | ExecutionEvent::ExecutionStarted(_)
        | ExecutionEvent::ExecutionResumed(_)
        | ExecutionEvent::NodeStarted(_)
        | ExecutionEvent::NodeCompleted(_)
        | ExecutionEvent::NodeFailed(_)
        | ExecutionEvent::NodeSkipped(_)
        | ExecutionEvent::LoopIterated(_)
        | ExecutionEvent::LoopItemFailed(_)
        | ExecutionEvent::NodeResolved(_)
        | ExecutionEvent::ChildStarted(_)
        | ExecutionEvent::ChildFinished(_)
        | ExecutionEvent::TimerSet(_)
        | ExecutionEvent::TimerFired(_)
        | ExecutionEvent::ApprovalRequested(_)
        | ExecutionEvent::SignalAwaited(_)
        | ExecutionEvent::SignalReceived(_)
        | ExecutionEvent::SignalConsumed(_)
        | ExecutionEvent::TaskOffered(_)
        | ExecutionEvent::TaskTaken(_)
        | ExecutionEvent::TaskReturned(_)
        | ExecutionEvent::TaskCompleted(_)
        | ExecutionEvent::TaskFailed(_)
        | ExecutionEvent::NodesCarried(_)
        | ExecutionEvent::VariableSet(_)
        | ExecutionEvent::UsageRecorded(_)
        | ExecutionEvent::ExecutionWaiting(_) => None,
    }
}

/// None for what it fires for: that is the run's own entry, or on the trigger's page.
pub(crate) fn trigger_detail(event: &TriggerEvent) -> Option<Value> {
    match event {
        TriggerEvent::TriggerArmed(event) => Some(json!({
            "workflow_id": event.workflow_id,
            "workflow_version": event.workflow_version,
            "node_id": event.node_id,
        })),
        TriggerEvent::TriggerDisarmed(event) => Some(json!({ "reason": event.reason })),
        TriggerEvent::TriggerPaused(_)
        | TriggerEvent::TriggerResumed(_)
        | TriggerEvent::WebhookTokenChanged(_)
        | TriggerEvent::WebhookSecretChanged(_) => Some(json!({})),
        TriggerEvent::FiresMissed(event) => Some(json!({ "count": event.count })),
        TriggerEvent::TriggerFired(_) | TriggerEvent::TriggerRefused(_) => None,
    }
}

/// Kind of the resource, action and detail; none where the feed says nothing.
fn entry(event: &AnyEvent) -> Option<(&'static str, &'static str, Value)> {
    match event {
        AnyEvent::Workspace(event) => {
            Some((WorkspaceEvent::CATEGORY, event.type_name(), workspace_detail(event)))
        }
        AnyEvent::Workflow(event) => {
            Some((WorkflowEvent::CATEGORY, event.type_name(), workflow_detail(event)))
        }
        AnyEvent::Vault(event) => {
            Some((VaultEvent::CATEGORY, event.type_name(), vault_detail(event)))
        }
        AnyEvent::Execution(event) => {
            Some((ExecutionEvent::CATEGORY, event.type_name(), execution_detail(event)?))
        }
        // The feed is of one workspace each, and these belong to none.
        AnyEvent::Deployment(_) | AnyEvent::Audit(_) => None,
        AnyEvent::Trigger(event) => {
            Some((TriggerEvent::CATEGORY, event.type_name(), trigger_detail(event)?))
        }
    }
}

impl Projection for ActivityFeed {
    const NAME: &'static str = "activity";
    const VERSION: i32 = 1;
    const SCHEMA: &'static str = include_str!("../sql/activity/schema.sql");
    const CATEGORIES: &'static [&'static str] = &[
        WorkspaceEvent::CATEGORY,
        WorkflowEvent::CATEGORY,
        ExecutionEvent::CATEGORY,
        VaultEvent::CATEGORY,
        TriggerEvent::CATEGORY,
    ];

    fn want(&mut self, _event: &LogEvent) {}

    async fn load(&mut self, _connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        Ok(())
    }

    fn apply(&mut self, at: &LogEvent) -> Result<(), Poison> {
        let Some((resource_kind, action, detail)) = entry(&at.event) else { return Ok(()) };
        let actor = at.actor()?;
        self.rows.push(Row {
            position: at.position,
            at: at.at,
            workspace_id: at.workspace,
            resource_id: at.stream,
            user_id: actor.member().map(|member| member.0),
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
        let mut added: BTreeMap<Uuid, i64> = BTreeMap::new();
        for row in &rows {
            *added.entry(row.workspace_id).or_default() += 1;
        }
        let (workspaces, counts): (Vec<Uuid>, Vec<i64>) = added.into_iter().unzip();
        sqlx::query!(
            "INSERT INTO activity_counts AS kept (workspace_id, count)
             SELECT * FROM unnest($1::uuid[], $2::bigint[])
             ON CONFLICT (workspace_id) DO UPDATE SET count = kept.count + excluded.count",
            &workspaces,
            &counts
        )
        .execute(&mut *connection)
        .await?;
        sqlx::query_file!(
            "sql/activity/insert.sql",
            &column!(rows, |row| row.position),
            &column!(rows, |row| row.at),
            &column!(rows, |row| row.workspace_id),
            &column!(rows, |row| row.resource_id),
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
