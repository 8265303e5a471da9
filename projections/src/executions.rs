//! Executions as lists and their own pages show them.

mod query;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use ledgerline_domain::{
    event::{AnyEvent, DomainEvent},
    execution::{ExecutionEvent, ExecutionRequested},
    workflow::{Draft, WorkflowEvent},
};
use sqlx::PgConnection;
use uuid::Uuid;

pub use query::{
    BlobReference, ExecutionCount, ExecutionFilter, ExecutionItem, ExecutionSort, counts, get, ids,
    list,
};

use crate::{
    copy::{self, Copy},
    lifecycle::Lifecycle,
    projection::{LogEvent, Poison, Projection},
    rows::{Rows, column},
    values::{
        ExecutionStatus, Trigger, cancel_word, error_column, origin_word, output_columns,
        queue_word,
    },
};

/// Rows held in memory at most; without input and output they are a few hundred bytes each.
const HELD: usize = 50_000;

/// Where a row is counted: the workspace, the workflow, the status.
type Group = (Uuid, Uuid, ExecutionStatus);

/// An execution's row while it is folded.
#[derive(Debug)]
struct Row {
    workspace_id: Uuid,
    workflow_id: Uuid,
    workflow_version: i32,
    created_at: DateTime<Utc>,
    created_by: Option<Uuid>,
    timeout_at: Option<DateTime<Utc>>,
    origin: Option<(Uuid, String)>,
    parent: Option<Uuid>,
    position: i64,
    claim: i32,
    lifecycle: Lifecycle,
    trigger_type: Trigger,
    queue: String,
    cancel_reason: Option<String>,
    worker: Option<String>,
    limit_key: Option<String>,
    input_tokens: i64,
    output_tokens: i64,
    cost_microusd: i64,
    failed_node: Option<String>,
    error: Option<String>,
    /// Held until it is written, as are the outputs.
    input: Option<String>,
    output: Option<String>,
    output_blob: Option<String>,
    /// The status under which the table's counts have it.
    counted: Option<ExecutionStatus>,
}

impl Row {
    fn requested(at: &LogEvent, event: &ExecutionRequested) -> Result<Self, Poison> {
        let origin = event.origin.as_ref();
        Ok(Self {
            workspace_id: event.workspace_id.0,
            workflow_id: event.workflow_id.0,
            workflow_version: event.workflow_version.0,
            created_at: at.at,
            created_by: at.user()?,
            timeout_at: event.timeout_at,
            origin: origin
                .map(|origin| (origin.execution_id.0, origin_word(origin.kind).to_owned())),
            parent: event.parent.as_ref().map(|parent| parent.execution_id.0),
            position: at.position,
            claim: 0,
            lifecycle: Lifecycle::requested(event),
            trigger_type: event.trigger_type.into(),
            queue: queue_word(event.queue).to_owned(),
            cancel_reason: None,
            worker: None,
            limit_key: event.limits.first().map(|limit| limit.key.clone()),
            input_tokens: 0,
            output_tokens: 0,
            cost_microusd: 0,
            failed_node: None,
            error: None,
            input: Some(event.input.as_str().to_owned()),
            output: None,
            output_blob: None,
            counted: None,
        })
    }

    fn apply(&mut self, at: &LogEvent, event: &ExecutionEvent) -> Result<(), Poison> {
        self.position = at.position;
        self.lifecycle.apply(event, at.at);
        match event {
            ExecutionEvent::ExecutionRequested(_) => {
                return Err(Poison::new("the execution was requested twice"));
            }
            ExecutionEvent::ExecutionDispatched(event) => self.claim = event.claim.0,
            ExecutionEvent::ExecutionStarted(event) => {
                self.claim = event.claim.0;
                self.worker = Some(event.worker.clone());
            }
            ExecutionEvent::ExecutionResumed(event) => {
                self.claim = event.claim.0;
                self.worker = Some(event.worker.clone());
            }
            ExecutionEvent::CancelRequested(event) => {
                self.cancel_reason = Some(cancel_word(event.reason).to_owned());
            }
            ExecutionEvent::UsageRecorded(event) => {
                let add = |total: &mut i64, more: u64| {
                    *total = total.saturating_add(i64::try_from(more).unwrap_or(i64::MAX));
                };
                add(&mut self.input_tokens, event.input_tokens);
                add(&mut self.output_tokens, event.output_tokens);
                add(&mut self.cost_microusd, event.cost_microusd);
            }
            ExecutionEvent::ExecutionCompleted(event) => {
                (self.output, self.output_blob) = output_columns(&event.output);
            }
            ExecutionEvent::ExecutionFailed(event) => {
                self.failed_node = event.node.as_ref().map(|node| node.0.clone());
                self.error = Some(error_column(&event.error));
            }
            ExecutionEvent::ExecutionCancelled(event) => {
                self.cancel_reason = Some(cancel_word(event.reason).to_owned());
            }
            // The nodes have a read model of their own; what they mean for the run is in its lifecycle.
            ExecutionEvent::ExecutionQueued(_)
            | ExecutionEvent::CompensationStarted(_)
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
            | ExecutionEvent::ApprovalGiven(_)
            | ExecutionEvent::ApprovalRefused(_)
            | ExecutionEvent::ApprovalTimedOut(_)
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
            | ExecutionEvent::ExecutionWaiting(_)
            | ExecutionEvent::ExecutionPaused(_)
            | ExecutionEvent::ExecutionUnpaused(_) => {}
        }
        Ok(())
    }

    /// Lets go of what is in the table and no event will look at again.
    fn lighten(&mut self) {
        self.counted = Some(self.lifecycle.status);
        self.input = None;
        self.output = None;
        self.output_blob = None;
    }
}

/// What executions show of their workflow.
#[derive(Debug)]
struct WorkflowName {
    workspace_id: Uuid,
    name: String,
    tags: Vec<String>,
}

/// The read model.
#[derive(Debug, Default)]
pub struct Executions {
    executions: Rows<Uuid, Row>,
    workflows: Rows<Uuid, WorkflowName>,
}

/// Whether an event changes the row: the steps of a run are many, and only their ends move its progress.
fn concerns(event: &ExecutionEvent) -> bool {
    Lifecycle::concerns(event)
        || matches!(
            event,
            ExecutionEvent::ExecutionRequested(_)
                | ExecutionEvent::ExecutionDispatched(_)
                | ExecutionEvent::UsageRecorded(_)
        )
}

/// The draft that an event of a workflow brings, if it does.
fn draft(event: &WorkflowEvent) -> Option<&Draft> {
    match event {
        WorkflowEvent::WorkflowCreated(created) => Some(&created.draft),
        WorkflowEvent::DraftSaved(saved) => Some(&saved.draft),
        WorkflowEvent::VersionNamed(_)
        | WorkflowEvent::WorkflowPublished(_)
        | WorkflowEvent::WorkflowUnpublished(_)
        | WorkflowEvent::WorkflowArchived(_)
        | WorkflowEvent::WorkflowUnarchived(_)
        | WorkflowEvent::IntakeActivated(_)
        | WorkflowEvent::IntakePaused(_)
        | WorkflowEvent::IntakeDeactivated(_)
        | WorkflowEvent::WorkflowDeleted(_) => None,
    }
}

impl Projection for Executions {
    const NAME: &'static str = "executions";
    const VERSION: i32 = 2;
    const SCHEMA: &'static str = include_str!("../sql/executions/schema.sql");
    const CATEGORIES: &'static [&'static str] =
        &[WorkflowEvent::CATEGORY, ExecutionEvent::CATEGORY];

    fn want(&mut self, event: &LogEvent) {
        match &event.event {
            AnyEvent::Execution(ExecutionEvent::ExecutionRequested(_)) => {
                self.executions.want_new(event.stream);
            }
            AnyEvent::Execution(execution) if concerns(execution) => {
                self.executions.want(event.stream);
            }
            AnyEvent::Execution(_)
            | AnyEvent::Workflow(_)
            | AnyEvent::Workspace(_)
            | AnyEvent::Vault(_)
            | AnyEvent::Deployment(_)
            | AnyEvent::Trigger(_)
            | AnyEvent::Audit(_) => {}
        }
    }

    async fn load(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let wanted = self.executions.take_wanted();
        if wanted.is_empty() {
            return Ok(());
        }
        for row in
            sqlx::query_file!("sql/executions/load.sql", &wanted).fetch_all(connection).await?
        {
            let loaded = Row {
                workspace_id: row.workspace_id,
                workflow_id: row.workflow_id,
                workflow_version: row.workflow_version,
                created_at: row.created_at,
                created_by: row.created_by,
                timeout_at: row.timeout_at,
                origin: row.origin_execution_id.zip(row.origin_kind),
                parent: row.parent_execution_id,
                position: row.position,
                claim: row.claim,
                lifecycle: Lifecycle {
                    status: row.status,
                    waiting: row.waiting,
                    cancelling: row.cancelling,
                    queued_at: row.queued_at,
                    started_at: row.started_at,
                    finished_at: row.finished_at,
                    planned: row.planned_nodes,
                    finished: row.finished_nodes,
                },
                trigger_type: row.trigger_type,
                queue: row.queue,
                cancel_reason: row.cancel_reason,
                worker: row.worker,
                limit_key: row.limit_key,
                input_tokens: row.input_tokens,
                output_tokens: row.output_tokens,
                cost_microusd: row.cost_microusd,
                failed_node: row.failed_node,
                error: row.error,
                input: None,
                output: None,
                output_blob: None,
                counted: Some(row.status),
            };
            self.executions.found(row.id, loaded);
        }
        Ok(())
    }

    fn apply(&mut self, at: &LogEvent) -> Result<(), Poison> {
        match &at.event {
            AnyEvent::Workflow(event) => {
                if let Some(draft) = draft(event) {
                    let name = WorkflowName {
                        workspace_id: at.workspace,
                        name: draft.name.clone(),
                        tags: draft.tags.clone(),
                    };
                    self.workflows.put(at.stream, name);
                }
                Ok(())
            }
            AnyEvent::Execution(event) if concerns(event) => {
                if let Some(row) = self.executions.edit(&at.stream) {
                    return row.apply(at, event);
                }
                let ExecutionEvent::ExecutionRequested(requested) = event else {
                    return Err(Poison::new("the execution was never requested"));
                };
                self.executions.put(at.stream, Row::requested(at, requested)?);
                Ok(())
            }
            AnyEvent::Execution(_)
            | AnyEvent::Workspace(_)
            | AnyEvent::Vault(_)
            | AnyEvent::Deployment(_)
            | AnyEvent::Trigger(_)
            | AnyEvent::Audit(_) => Ok(()),
        }
    }

    async fn write(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        self.write_counts(connection).await?;
        self.write_executions(connection).await?;
        self.write_workflows(connection).await?;
        self.executions.written(HELD, Row::lighten);
        // Names are written and never read back: holding them would serve nobody.
        self.workflows.written(0, |_| ());
        Ok(())
    }

    fn held(&self) -> usize {
        self.executions.len()
    }
}

impl Executions {
    /// Each row counts for its workflow and, under the nil workflow, for its whole workspace.
    async fn write_counts(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let mut moved: BTreeMap<Group, i64> = BTreeMap::new();
        for (_, row) in self.executions.changed() {
            let status = row.lifecycle.status;
            if row.counted == Some(status) {
                continue;
            }
            for workflow in [row.workflow_id, Uuid::nil()] {
                *moved.entry((row.workspace_id, workflow, status)).or_default() += 1;
                if let Some(before) = row.counted {
                    *moved.entry((row.workspace_id, workflow, before)).or_default() -= 1;
                }
            }
        }
        moved.retain(|_, by| *by != 0);
        if moved.is_empty() {
            return Ok(());
        }
        let moved: Vec<(Group, i64)> = moved.into_iter().collect();
        sqlx::query_file!(
            "sql/executions/add_counts.sql",
            &column!(moved, |row| row.0.0),
            &column!(moved, |row| row.0.1),
            &column!(moved, |row| row.0.2.as_str()) as &[&str],
            &column!(moved, |row| row.1),
        )
        .execute(&mut *connection)
        .await?;
        let less: Vec<&Group> =
            moved.iter().filter(|(_, by)| *by < 0).map(|(group, _)| group).collect();
        if !less.is_empty() {
            sqlx::query_file!(
                "sql/executions/remove_empty_counts.sql",
                &column!(less, |group| group.0),
                &column!(less, |group| group.1),
                &column!(less, |group| group.2.as_str()) as &[&str],
            )
            .execute(connection)
            .await?;
        }
        Ok(())
    }

    async fn write_executions(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        // What was not counted yet is not in the table yet.
        let (new, rows): (Vec<_>, Vec<_>) =
            self.executions.changed().into_iter().partition(|(_, row)| row.counted.is_none());
        let (new, rows) = copy::split(new, rows);
        if !new.is_empty() {
            self.copy_executions(connection, &new).await?;
        }
        if rows.is_empty() {
            return Ok(());
        }
        sqlx::query_file!(
            "sql/executions/upsert.sql",
            &column!(rows, |(id, _)| **id),
            &column!(rows, |(_, row)| row.workspace_id),
            &column!(rows, |(_, row)| row.workflow_id),
            &column!(rows, |(_, row)| row.created_at),
            &column!(rows, |(_, row)| row.lifecycle.queued_at) as &[Option<DateTime<Utc>>],
            &column!(rows, |(_, row)| row.lifecycle.started_at) as &[Option<DateTime<Utc>>],
            &column!(rows, |(_, row)| row.lifecycle.finished_at) as &[Option<DateTime<Utc>>],
            &column!(rows, |(_, row)| row.timeout_at) as &[Option<DateTime<Utc>>],
            &column!(rows, |(_, row)| row.created_by) as &[Option<Uuid>],
            &column!(rows, |(_, row)| row.origin.as_ref().map(|origin| origin.0))
                as &[Option<Uuid>],
            &column!(rows, |(_, row)| row.position),
            &column!(rows, |(_, row)| row.workflow_version),
            &column!(rows, |(_, row)| row.claim),
            &column!(rows, |(_, row)| row.lifecycle.planned),
            &column!(rows, |(_, row)| row.lifecycle.finished),
            &column!(rows, |(_, row)| row.lifecycle.waiting),
            &column!(rows, |(_, row)| row.lifecycle.cancelling),
            &column!(rows, |(_, row)| row.lifecycle.status.as_str()) as &[&str],
            &column!(rows, |(_, row)| row.trigger_type.as_str()) as &[&str],
            &column!(rows, |(_, row)| row.queue.as_str()) as &[&str],
            &column!(rows, |(_, row)| row.origin.as_ref().map(|origin| origin.1.as_str()))
                as &[Option<&str>],
            &column!(rows, |(_, row)| row.cancel_reason.as_deref()) as &[Option<&str>],
            &column!(rows, |(_, row)| row.worker.as_deref()) as &[Option<&str>],
            &column!(rows, |(_, row)| row.limit_key.as_deref()) as &[Option<&str>],
            &column!(rows, |(_, row)| row.failed_node.as_deref()) as &[Option<&str>],
            &column!(rows, |(_, row)| row.error.as_deref()) as &[Option<&str>],
            &column!(rows, |(_, row)| row.input.as_deref()) as &[Option<&str>],
            &column!(rows, |(_, row)| row.output.as_deref()) as &[Option<&str>],
            &column!(rows, |(_, row)| row.output_blob.as_deref()) as &[Option<&str>],
            &column!(rows, |(_, row)| row.input_tokens),
            &column!(rows, |(_, row)| row.output_tokens),
            &column!(rows, |(_, row)| row.cost_microusd),
            &column!(rows, |(_, row)| row.parent) as &[Option<Uuid>],
        )
        .execute(connection)
        .await?;
        Ok(())
    }

    async fn copy_executions(
        &self,
        connection: &mut PgConnection,
        rows: &[(&Uuid, &Row)],
    ) -> Result<(), sqlx::Error> {
        let mut copy = Copy::new();
        for (id, row) in rows {
            copy.row(&[
                id,
                &row.workspace_id,
                &row.workflow_id,
                &row.created_at,
                &row.lifecycle.queued_at,
                &row.lifecycle.started_at,
                &row.lifecycle.finished_at,
                &row.timeout_at,
                &row.created_by,
                &row.origin.as_ref().map(|origin| origin.0),
                &row.position,
                &row.workflow_version,
                &row.claim,
                &row.lifecycle.planned,
                &row.lifecycle.finished,
                &row.lifecycle.waiting,
                &row.lifecycle.cancelling,
                &row.lifecycle.status.as_str(),
                &row.trigger_type.as_str(),
                &row.queue.as_str(),
                &row.origin.as_ref().map(|origin| origin.1.as_str()),
                &row.cancel_reason.as_deref(),
                &row.worker.as_deref(),
                &row.limit_key.as_deref(),
                &row.failed_node.as_deref(),
                &row.error.as_deref(),
                &row.input.as_deref(),
                &row.output.as_deref(),
                &row.output_blob.as_deref(),
                &row.input_tokens,
                &row.output_tokens,
                &row.cost_microusd,
                &row.parent,
            ]);
        }
        copy.write(connection, include_str!("../sql/executions/copy.sql")).await
    }

    async fn write_workflows(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let rows = self.workflows.changed();
        if rows.is_empty() {
            return Ok(());
        }
        let tags: Vec<String> = rows
            .iter()
            .map(|(_, row)| serde_json::to_string(&row.tags).expect("a list of text serialises"))
            .collect();
        sqlx::query_file!(
            "sql/executions/upsert_workflows.sql",
            &column!(rows, |(id, _)| **id),
            &column!(rows, |(_, row)| row.workspace_id),
            &column!(rows, |(_, row)| row.name.as_str()) as &[&str],
            &column!(rows, |(_, row)| row.name.to_lowercase()),
            &tags,
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}
