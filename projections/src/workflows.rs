//! Workflows as lists show them, with what their executions made of them: counts, the last run and its progress.
//!
//! An execution's events name only the execution; `workflow_runs` remembers, while it is open, which workflow it is a run of.

mod query;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use ledgerline_domain::{
    event::{AnyEvent, DomainEvent},
    execution::{ExecutionEvent, ExecutionRequested},
    workflow::{Draft, WorkflowCreated, WorkflowEvent},
};
use sqlx::PgConnection;
use uuid::Uuid;

pub use query::{
    LastExecution, WorkflowCount, WorkflowFilter, WorkflowItem, WorkflowSort, counts, get, list,
};

use crate::{
    lifecycle::Lifecycle,
    page::searched,
    projection::{LogEvent, Poison, Projection},
    rows::{Rows, column},
    values::{ExecutionStatus, Intake, WorkflowStatus},
};

/// Rows held in memory at most.
const HELD: usize = 20_000;

type Group = (Uuid, WorkflowStatus, Intake);

/// A workflow's row while it is folded.
#[derive(Debug)]
struct Row {
    workspace_id: Uuid,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    parent_workflow_id: Option<Uuid>,
    created_by: Option<Uuid>,
    execution_count: i64,
    completed_count: i64,
    failed_count: i64,
    /// Position of the request of the last execution.
    last_position: i64,
    position: i64,
    progress: Option<f64>,
    version: i32,
    published_version: Option<i32>,
    public: bool,
    deleted: bool,
    status: WorkflowStatus,
    intake: Intake,
    name: String,
    description: String,
    tags: Vec<String>,
    last_execution: Option<String>,
    /// Where the table's counts have it.
    counted: Option<Group>,
}

impl Row {
    fn created(event: &LogEvent, created: &WorkflowCreated) -> Result<Self, Poison> {
        Ok(Self {
            workspace_id: created.workspace_id.0,
            created_at: event.at,
            updated_at: event.at,
            parent_workflow_id: created.parent_workflow_id.map(|id| id.0),
            created_by: event.user()?,
            execution_count: 0,
            completed_count: 0,
            failed_count: 0,
            last_position: 0,
            position: event.position,
            progress: None,
            version: 1,
            published_version: None,
            public: created.draft.is_public,
            deleted: false,
            status: WorkflowStatus::Draft,
            intake: Intake::Inactive,
            name: created.draft.name.clone(),
            description: created.draft.description.clone(),
            tags: created.draft.tags.clone(),
            last_execution: None,
            counted: None,
        })
    }

    fn edit(&mut self, draft: &Draft) {
        self.name.clone_from(&draft.name);
        self.description.clone_from(&draft.description);
        self.tags.clone_from(&draft.tags);
        self.public = draft.is_public;
    }

    fn apply(&mut self, event: &WorkflowEvent) -> Result<(), Poison> {
        match event {
            WorkflowEvent::WorkflowCreated(_) => {
                return Err(Poison::new("the workflow was created twice"));
            }
            WorkflowEvent::DraftSaved(saved) => {
                self.version = saved.version.0;
                self.edit(&saved.draft);
            }
            WorkflowEvent::VersionNamed(_) => {}
            WorkflowEvent::WorkflowPublished(published) => {
                self.status = WorkflowStatus::Published;
                self.published_version = Some(published.version.0);
            }
            WorkflowEvent::WorkflowUnpublished(_) | WorkflowEvent::WorkflowUnarchived(_) => {
                self.status = WorkflowStatus::Draft;
                self.published_version = None;
            }
            WorkflowEvent::WorkflowArchived(_) => {
                self.status = WorkflowStatus::Archived;
                self.published_version = None;
            }
            WorkflowEvent::IntakeActivated(_) => self.intake = Intake::Active,
            WorkflowEvent::IntakePaused(_) => self.intake = Intake::Paused,
            WorkflowEvent::IntakeDeactivated(_) => self.intake = Intake::Inactive,
            WorkflowEvent::WorkflowDeleted(_) => self.deleted = true,
        }
        Ok(())
    }

    /// Shows an execution as the last one, unless a later one is shown already.
    fn show(&mut self, id: Uuid, run: &Run) {
        if run.requested_position < self.last_position {
            return;
        }
        self.last_position = run.requested_position;
        let Lifecycle { status, started_at, finished_at, planned, finished, .. } = run.lifecycle;
        self.progress = Some(Lifecycle::progress(status, finished, planned));
        let last =
            LastExecution { id, status, created_at: run.requested_at, started_at, finished_at };
        self.last_execution = serde_json::to_string(&last).ok();
    }

    fn group(&self) -> Option<Group> {
        (!self.deleted).then_some((self.workspace_id, self.status, self.intake))
    }
}

/// An open execution.
#[derive(Debug)]
struct Run {
    workflow_id: Uuid,
    requested_position: i64,
    requested_at: DateTime<Utc>,
    lifecycle: Lifecycle,
}

/// The read model.
#[derive(Debug, Default)]
pub struct Workflows {
    workflows: Rows<Uuid, Row>,
    runs: Rows<Uuid, Run>,
}

impl Workflows {
    fn workflow(&mut self, id: Uuid, position: i64) -> Result<&mut Row, Poison> {
        let row = self.workflows.edit(&id).ok_or_else(|| {
            Poison::new(format!("its workflow {id} is not there, or waits in the quarantine"))
        })?;
        row.position = row.position.max(position);
        Ok(row)
    }

    fn apply_workflow(&mut self, at: &LogEvent, event: &WorkflowEvent) -> Result<(), Poison> {
        if let WorkflowEvent::WorkflowCreated(created) = event
            && self.workflows.get(&at.stream).is_none()
        {
            self.workflows.put(at.stream, Row::created(at, created)?);
            return Ok(());
        }
        let row = self.workflow(at.stream, at.position)?;
        row.updated_at = at.at;
        row.apply(event)
    }

    fn request(&mut self, at: &LogEvent, event: &ExecutionRequested) -> Result<(), Poison> {
        let run = Run {
            workflow_id: event.workflow_id.0,
            requested_position: at.position,
            requested_at: at.at,
            lifecycle: Lifecycle::requested(event),
        };
        let row = self.workflow(run.workflow_id, at.position)?;
        row.execution_count += 1;
        row.show(at.stream, &run);
        self.runs.put(at.stream, run);
        Ok(())
    }

    fn apply_execution(&mut self, at: &LogEvent, event: &ExecutionEvent) -> Result<(), Poison> {
        if let ExecutionEvent::ExecutionRequested(requested) = event {
            return self.request(at, requested);
        }
        if !Lifecycle::concerns(event) {
            return Ok(());
        }
        // What follows the end of a run changes nothing that a list of workflows shows.
        let Some(run) = self.runs.edit(&at.stream) else { return Ok(()) };
        run.lifecycle.apply(event, at.at);
        let row = self
            .workflows
            .edit(&run.workflow_id)
            .ok_or_else(|| Poison::new(format!("its workflow {} is not there", run.workflow_id)))?;
        row.position = row.position.max(at.position);
        row.show(at.stream, run);
        match run.lifecycle.status {
            ExecutionStatus::Completed => row.completed_count += 1,
            ExecutionStatus::Failed => row.failed_count += 1,
            ExecutionStatus::Cancelled => {}
            ExecutionStatus::Pending
            | ExecutionStatus::Queued
            | ExecutionStatus::Running
            | ExecutionStatus::Paused => return Ok(()),
        }
        self.runs.remove(&at.stream);
        Ok(())
    }
}

impl Projection for Workflows {
    const NAME: &'static str = "workflows";
    const VERSION: i32 = 1;
    const SCHEMA: &'static str = include_str!("../sql/workflows/schema.sql");
    const CATEGORIES: &'static [&'static str] =
        &[WorkflowEvent::CATEGORY, ExecutionEvent::CATEGORY];

    fn want(&mut self, event: &LogEvent) {
        match &event.event {
            AnyEvent::Workflow(_) if event.version == 1 => self.workflows.want_new(event.stream),
            AnyEvent::Workflow(_) => self.workflows.want(event.stream),
            AnyEvent::Execution(ExecutionEvent::ExecutionRequested(requested)) => {
                self.runs.want_new(event.stream);
                self.workflows.want(requested.workflow_id.0);
            }
            AnyEvent::Execution(execution) => {
                if Lifecycle::concerns(execution) {
                    self.runs.want(event.stream);
                    if let Some(run) = self.runs.get(&event.stream) {
                        self.workflows.want(run.workflow_id);
                    }
                }
            }
            AnyEvent::Workspace(_)
            | AnyEvent::Vault(_)
            | AnyEvent::Deployment(_)
            | AnyEvent::Trigger(_)
            | AnyEvent::Audit(_) => {}
        }
    }

    async fn load(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let wanted = self.runs.take_wanted();
        if !wanted.is_empty() {
            for row in sqlx::query_file!("sql/workflows/load_runs.sql", &wanted)
                .fetch_all(&mut *connection)
                .await?
            {
                self.workflows.want(row.workflow_id);
                let run = Run {
                    workflow_id: row.workflow_id,
                    requested_position: row.requested_position,
                    requested_at: row.requested_at,
                    lifecycle: Lifecycle {
                        status: row.status,
                        waiting: row.waiting,
                        cancelling: row.cancelling,
                        queued_at: row.queued_at,
                        started_at: row.started_at,
                        finished_at: None,
                        planned: row.planned,
                        finished: row.finished,
                    },
                };
                self.runs.found(row.execution_id, run);
            }
        }
        let wanted = self.workflows.take_wanted();
        if !wanted.is_empty() {
            self.load_workflows(connection, &wanted).await?;
        }
        Ok(())
    }

    fn apply(&mut self, event: &LogEvent) -> Result<(), Poison> {
        match &event.event {
            AnyEvent::Workflow(workflow) => self.apply_workflow(event, workflow),
            AnyEvent::Execution(execution) => self.apply_execution(event, execution),
            AnyEvent::Workspace(_)
            | AnyEvent::Vault(_)
            | AnyEvent::Deployment(_)
            | AnyEvent::Trigger(_)
            | AnyEvent::Audit(_) => Ok(()),
        }
    }

    async fn write(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        self.write_counts(connection).await?;
        self.write_workflows(connection).await?;
        self.write_runs(connection).await?;
        self.workflows.written(HELD, |row| row.counted = row.group());
        self.runs.written(HELD * 5, |_| ());
        Ok(())
    }

    fn held(&self) -> usize {
        self.workflows.len() + self.runs.len()
    }
}

impl Workflows {
    async fn load_workflows(
        &mut self,
        connection: &mut PgConnection,
        wanted: &[Uuid],
    ) -> Result<(), sqlx::Error> {
        for row in sqlx::query_file!("sql/workflows/load.sql", wanted).fetch_all(connection).await?
        {
            let mut loaded = Row {
                workspace_id: row.workspace_id,
                created_at: row.created_at,
                updated_at: row.updated_at,
                parent_workflow_id: row.parent_workflow_id,
                created_by: row.created_by,
                execution_count: row.execution_count,
                completed_count: row.completed_count,
                failed_count: row.failed_count,
                last_position: row.last_position,
                position: row.position,
                progress: row.progress,
                version: row.version,
                published_version: row.published_version,
                public: row.public,
                deleted: row.deleted,
                status: row.status,
                intake: row.intake,
                name: row.name,
                description: row.description,
                tags: row.tags,
                last_execution: row.last_execution,
                counted: None,
            };
            loaded.counted = loaded.group();
            self.workflows.found(row.id, loaded);
        }
        Ok(())
    }

    async fn write_counts(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let mut moved: BTreeMap<Group, i64> = BTreeMap::new();
        for (_, row) in self.workflows.changed() {
            if row.counted != row.group() {
                row.counted.into_iter().for_each(|group| *moved.entry(group).or_default() -= 1);
                row.group().into_iter().for_each(|group| *moved.entry(group).or_default() += 1);
            }
        }
        moved.retain(|_, by| *by != 0);
        if moved.is_empty() {
            return Ok(());
        }
        let moved: Vec<(Group, i64)> = moved.into_iter().collect();
        sqlx::query_file!(
            "sql/workflows/add_counts.sql",
            &column!(moved, |row| row.0.0),
            &column!(moved, |row| row.0.1.as_str()) as &[&str],
            &column!(moved, |row| row.0.2.as_str()) as &[&str],
            &column!(moved, |row| row.1),
        )
        .execute(&mut *connection)
        .await?;
        if moved.iter().any(|(_, by)| *by < 0) {
            let workspaces = column!(moved, |row| row.0.0);
            sqlx::query!(
                "DELETE FROM workflow_counts WHERE workspace_id = ANY ($1) AND count = 0",
                &workspaces
            )
            .execute(connection)
            .await?;
        }
        Ok(())
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
            "sql/workflows/upsert.sql",
            &column!(rows, |(id, _)| **id),
            &column!(rows, |(_, row)| row.workspace_id),
            &column!(rows, |(_, row)| row.created_at),
            &column!(rows, |(_, row)| row.updated_at),
            &column!(rows, |(_, row)| row.parent_workflow_id) as &[Option<Uuid>],
            &column!(rows, |(_, row)| row.created_by) as &[Option<Uuid>],
            &column!(rows, |(_, row)| row.execution_count),
            &column!(rows, |(_, row)| row.completed_count),
            &column!(rows, |(_, row)| row.failed_count),
            &column!(rows, |(_, row)| row.last_position),
            &column!(rows, |(_, row)| row.position),
            &column!(rows, |(_, row)| row.progress) as &[Option<f64>],
            &column!(rows, |(_, row)| row.version),
            &column!(rows, |(_, row)| row.published_version) as &[Option<i32>],
            &column!(rows, |(_, row)| row.public),
            &column!(rows, |(_, row)| row.deleted),
            &column!(rows, |(_, row)| row.status.as_str()) as &[&str],
            &column!(rows, |(_, row)| row.intake.as_str()) as &[&str],
            &column!(rows, |(_, row)| row.name.as_str()) as &[&str],
            &column!(rows, |(_, row)| row.description.as_str()) as &[&str],
            &column!(rows, |(_, row)| row.name.to_lowercase()),
            &column!(rows, |(_, row)| searched(&row.name, &row.description)),
            &tags,
            &column!(rows, |(_, row)| row.last_execution.as_deref()) as &[Option<&str>],
        )
        .execute(connection)
        .await?;
        Ok(())
    }

    async fn write_runs(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let ended = self.runs.removed();
        if !ended.is_empty() {
            sqlx::query!("DELETE FROM workflow_runs WHERE execution_id = ANY ($1)", &ended)
                .execute(&mut *connection)
                .await?;
        }
        let rows = self.runs.changed();
        if rows.is_empty() {
            return Ok(());
        }
        sqlx::query_file!(
            "sql/workflows/upsert_runs.sql",
            &column!(rows, |(id, _)| **id),
            &column!(rows, |(_, run)| run.workflow_id),
            &column!(rows, |(_, run)| run.requested_position),
            &column!(rows, |(_, run)| run.requested_at),
            &column!(rows, |(_, run)| run.lifecycle.queued_at) as &[Option<DateTime<Utc>>],
            &column!(rows, |(_, run)| run.lifecycle.started_at) as &[Option<DateTime<Utc>>],
            &column!(rows, |(_, run)| run.lifecycle.planned),
            &column!(rows, |(_, run)| run.lifecycle.finished),
            &column!(rows, |(_, run)| run.lifecycle.waiting),
            &column!(rows, |(_, run)| run.lifecycle.cancelling),
            &column!(rows, |(_, run)| run.lifecycle.status.as_str()) as &[&str],
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}
