//! Which triggers a workspace has. How each stands is the fold of its own stream, and its history that stream itself.

use ledgerline_domain::{
    event::{AnyEvent, DomainEvent},
    trigger::{OffReason, TriggerConfig, TriggerEvent},
};
use sqlx::{FromRow, PgConnection, PgPool};
use uuid::Uuid;

use crate::{
    page::{List, Order, Page, PageRequest, QueryError, SortKey, Sorted},
    projection::{LogEvent, Poison, Projection},
    rows::{Rows, column},
    values::words,
};

/// Rows held in memory at most.
const HELD: usize = 20_000;

words! {
    /// What a trigger listens to.
    TriggerKind {
        /// The clock.
        Cron = "cron",
        /// Its address.
        Webhook = "webhook",
        /// The log.
        Event = "event",
    }
}

/// A trigger whose node the published version of its workflow has, or had when it was last published.
#[derive(Clone, Debug, PartialEq, FromRow)]
pub struct TriggerItem {
    /// Its id.
    pub id: Uuid,
    /// The workflow that it starts.
    pub workflow_id: Uuid,
    /// What the workflow is called.
    pub workflow_name: String,
    /// Position of the event that made it known.
    pub position: i64,
}

/// The order of a list of triggers: the newest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TriggerSort;

impl Sorted for TriggerItem {
    fn sort_key(&self, _order: Order) -> (SortKey, Uuid) {
        (SortKey::Number(self.position), Uuid::nil())
    }
}

/// A page of the triggers of a kind in a workspace, the newest first; only those of a workflow where one is named.
///
/// # Errors
/// [`QueryError`].
pub async fn list(
    pool: &PgPool,
    workspace_id: Uuid,
    kind: TriggerKind,
    workflow_id: Option<Uuid>,
    page: &PageRequest<TriggerSort>,
) -> Result<Page<TriggerItem>, QueryError> {
    let list = List {
        columns: "SELECT t.id, t.workflow_id, coalesce(w.name, '') AS workflow_name, t.position",
        from: "FROM triggers AS t LEFT JOIN workflows AS w ON w.id = t.workflow_id WHERE true",
        conditions: &|query| {
            query.push(" AND t.workspace_id = ").push_bind(workspace_id);
            query.push(" AND t.kind = ").push_bind(kind.as_str());
            if let Some(workflow) = workflow_id {
                query.push(" AND t.workflow_id = ").push_bind(workflow);
            }
        },
        kept_total: None,
        order: Order { word: "-position", column: "t.position", tie: "", descending: true },
    };
    list.page(pool, page).await
}

#[derive(Debug)]
struct Row {
    workspace_id: Uuid,
    workflow_id: Uuid,
    position: i64,
    kind: TriggerKind,
}

/// The read model.
#[derive(Debug, Default)]
pub struct Triggers {
    triggers: Rows<Uuid, Row>,
}

impl Projection for Triggers {
    const NAME: &'static str = "triggers";
    const VERSION: i32 = 1;
    const SCHEMA: &'static str = include_str!("../sql/triggers/schema.sql");
    const CATEGORIES: &'static [&'static str] = &[TriggerEvent::CATEGORY];

    fn want(&mut self, event: &LogEvent) {
        if let AnyEvent::Trigger(TriggerEvent::TriggerArmed(_) | TriggerEvent::TriggerDisarmed(_)) =
            &event.event
        {
            self.triggers.want(event.stream);
        }
    }

    async fn load(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let wanted = self.triggers.take_wanted();
        if wanted.is_empty() {
            return Ok(());
        }
        let rows = sqlx::query!(
            r#"SELECT id, workspace_id, workflow_id, position, kind AS "kind: TriggerKind" FROM triggers WHERE id = ANY ($1)"#,
            &wanted
        )
        .fetch_all(connection)
        .await?;
        for row in rows {
            let loaded = Row {
                workspace_id: row.workspace_id,
                workflow_id: row.workflow_id,
                position: row.position,
                kind: row.kind,
            };
            self.triggers.found(row.id, loaded);
        }
        Ok(())
    }

    fn apply(&mut self, at: &LogEvent) -> Result<(), Poison> {
        let AnyEvent::Trigger(event) = &at.event else { return Ok(()) };
        match event {
            TriggerEvent::TriggerArmed(armed) => {
                let kind = match &armed.config {
                    TriggerConfig::Cron(_) => TriggerKind::Cron,
                    TriggerConfig::Webhook(_) => TriggerKind::Webhook,
                    TriggerConfig::Event(_) => TriggerKind::Event,
                };
                match self.triggers.edit(&at.stream) {
                    Some(row) => row.kind = kind,
                    None => {
                        let row = Row {
                            workspace_id: at.workspace,
                            workflow_id: armed.workflow_id.0,
                            position: at.position,
                            kind,
                        };
                        self.triggers.put(at.stream, row);
                    }
                }
            }
            TriggerEvent::TriggerDisarmed(event) => match event.reason {
                OffReason::NodeRemoved | OffReason::WorkflowDeleted => {
                    self.triggers.remove(&at.stream);
                }
                OffReason::NotPublished
                | OffReason::IntakePaused
                | OffReason::IntakeInactive
                | OffReason::WorkspaceDeleted => {}
            },
            TriggerEvent::TriggerPaused(_)
            | TriggerEvent::TriggerResumed(_)
            | TriggerEvent::TriggerFired(_)
            | TriggerEvent::TriggerRefused(_)
            | TriggerEvent::FiresMissed(_)
            | TriggerEvent::WebhookTokenChanged(_)
            | TriggerEvent::WebhookSecretChanged(_) => {}
        }
        Ok(())
    }

    async fn write(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let removed = self.triggers.removed();
        if !removed.is_empty() {
            sqlx::query!("DELETE FROM triggers WHERE id = ANY ($1)", &removed)
                .execute(&mut *connection)
                .await?;
        }
        let rows = self.triggers.changed();
        if !rows.is_empty() {
            sqlx::query!(
                "INSERT INTO triggers (id, workspace_id, workflow_id, position, kind)
                 SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[], $5::text[])
                 ON CONFLICT (id) DO UPDATE SET kind = excluded.kind",
                &column!(rows, |(id, _)| **id),
                &column!(rows, |(_, row)| row.workspace_id),
                &column!(rows, |(_, row)| row.workflow_id),
                &column!(rows, |(_, row)| row.position),
                &column!(rows, |(_, row)| row.kind.as_str()) as &[&str],
            )
            .execute(connection)
            .await?;
        }
        self.triggers.written(HELD, |_| ());
        Ok(())
    }

    fn held(&self) -> usize {
        self.triggers.len()
    }
}
