//! A workflow as it is shown: the fold of its stream, with what its runs made of it.

use chrono::{DateTime, Utc};
use ledgerline_commands::{Context, Executed};
use ledgerline_domain::{
    id::{UserId, WorkflowId, WorkspaceId},
    workflow::{Content, Intake, SavedVersion, Workflow, WorkflowStatus},
};
use ledgerline_projections::{values, workflows as rows};
use ledgerline_store::{StreamId, StreamVersion};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sqlx::PgPool;
use utoipa::ToSchema;

use crate::{ledger::Ledger, problem::Problem};

/// A workflow with its latest definition.
#[derive(Debug, Serialize, ToSchema)]
pub struct WorkflowView {
    /// Its id.
    #[schema(value_type = Uuid)]
    pub id: WorkflowId,
    /// The workspace it belongs to.
    #[schema(value_type = Uuid)]
    pub workspace_id: WorkspaceId,
    /// 1 to 255 characters.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Its nodes.
    #[schema(value_type = Vec<Object>)]
    pub nodes: Box<RawValue>,
    /// What leads to what.
    #[schema(value_type = Vec<Object>)]
    pub connections: Box<RawValue>,
    /// What holds for a whole run.
    #[schema(value_type = Object)]
    pub settings: Box<RawValue>,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// Whether everybody who is signed in may see the definition.
    pub is_public: bool,
    /// Where it stands.
    pub status: values::WorkflowStatus,
    /// Whether it takes in work.
    pub intake: values::Intake,
    /// Its latest version: the one whose definition this is.
    pub version: i32,
    /// The version that triggers run; none when nothing is published.
    pub published_version: Option<i32>,
    /// Finished nodes over planned ones of the last execution, 0 to 1; none before the first.
    pub progress: Option<f64>,
    /// How often it was started; none where runs are not shown.
    pub execution_count: Option<i64>,
    /// Completed executions over completed and failed ones, 0 to 1; none before the first has ended.
    pub success_rate: Option<f64>,
    /// The execution that was requested last.
    #[schema(value_type = Option<rows::LastExecution>)]
    pub last_execution: Option<Box<RawValue>>,
    /// Who made it; none where a program did.
    #[schema(value_type = Option<Uuid>)]
    pub created_by: Option<UserId>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was changed last.
    pub updated_at: DateTime<Utc>,
    /// The workflow it was copied from.
    #[schema(value_type = Option<Uuid>)]
    pub parent_workflow_id: Option<WorkflowId>,
}

/// What the runs of a workflow made of it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Figures {
    progress: Option<f64>,
    execution_count: Option<i64>,
    success_rate: Option<f64>,
    last_execution: Option<Box<RawValue>>,
}

impl Figures {
    /// Those of a workflow whose runs are not shown, or are not there.
    pub(super) fn none() -> Self {
        Self::default()
    }

    /// What is kept with the key of a command, when it has one: the figures move on with the runs, and a repeat is answered like
    /// the first one.
    pub(super) fn kept(&self, context: &Context) -> Option<String> {
        context.key.as_ref().and_then(|_| serde_json::to_string(self).ok())
    }

    /// Those that the command was answered with the first time.
    pub(super) fn of_first_time(self, executed: &Executed<Workflow>) -> Self {
        let repeated = executed.receipt.as_ref().filter(|_| executed.repeated);
        let kept = repeated.and_then(|receipt| receipt.answer.as_deref());
        kept.and_then(|kept| serde_json::from_str(kept).ok()).unwrap_or(self)
    }

    /// Those of the read model; none where it doesn't have the workflow yet.
    pub(super) async fn of(pool: &PgPool, id: WorkflowId) -> Result<Self, Problem> {
        let row = rows::get(pool, id.0).await?;
        Ok(row.map_or_else(
            || Self { execution_count: Some(0), ..Self::default() },
            |row| Self {
                progress: row.progress,
                execution_count: Some(row.execution_count),
                success_rate: row.success_rate,
                last_execution: row.last_execution.map(|last| last.0),
            },
        ))
    }
}

/// The three parts of a definition, each in its own text.
#[derive(Deserialize)]
pub(super) struct Parts {
    pub(super) nodes: Box<RawValue>,
    pub(super) connections: Box<RawValue>,
    pub(super) settings: Box<RawValue>,
}

impl Parts {
    /// The parts of the definition of a version that is at hand.
    pub(super) fn of_version(version: &SavedVersion) -> Result<Self, Problem> {
        Self::of(version.definition().ok_or_else(Problem::broken)?)
    }

    /// The parts of a stored definition.
    fn of(definition: &ledgerline_domain::json::Json) -> Result<Self, Problem> {
        definition.to().map_err(|error| {
            tracing::error!("a stored definition has not its three parts");
            Problem::internal(&error)
        })
    }
}

/// What is shown of a workflow in a state.
pub(super) async fn of(
    ledger: &Ledger,
    id: WorkflowId,
    workflow: &Workflow,
    content: &Content,
    version: StreamVersion,
    figures: Figures,
) -> Result<WorkflowView, Problem> {
    let created = ledger.touch(StreamId(id.0), StreamVersion(1)).await?;
    let updated = ledger.touch(StreamId(id.0), version).await?;
    let draft = ledger.stored(id, content, content.latest_version()).await?;
    let Parts { nodes, connections, settings } = Parts::of_version(draft)?;
    let Figures { progress, execution_count, success_rate, last_execution } = figures;
    Ok(WorkflowView {
        id,
        workspace_id: content.workspace_id,
        name: draft.name.clone(),
        description: draft.description.clone(),
        nodes,
        connections,
        settings,
        tags: draft.tags.clone(),
        is_public: draft.is_public,
        status: status_word(workflow.status().unwrap_or(WorkflowStatus::Archived)),
        intake: intake_word(content.intake),
        version: content.latest_version().0,
        published_version: workflow.published_version().map(|version| version.0),
        progress,
        execution_count,
        success_rate,
        last_execution,
        created_by: created.by,
        created_at: created.at,
        updated_at: updated.at,
        parent_workflow_id: content.parent_workflow_id,
    })
}

const fn status_word(status: WorkflowStatus) -> values::WorkflowStatus {
    match status {
        WorkflowStatus::Draft => values::WorkflowStatus::Draft,
        WorkflowStatus::Published => values::WorkflowStatus::Published,
        WorkflowStatus::Archived => values::WorkflowStatus::Archived,
    }
}

const fn intake_word(intake: Intake) -> values::Intake {
    match intake {
        Intake::Active => values::Intake::Active,
        Intake::Paused => values::Intake::Paused,
        Intake::Inactive => values::Intake::Inactive,
    }
}
