//! Jobs over many executions: written down whole before the first of them is touched, and carried out by whoever has time.
//!
//! A job is rows, so it outlives every process. Its items are done a batch at a time under a lock on the job's row, which a process that
//! dies lets go of; what it had done by then is done again, and nothing comes of that: each item has an idempotency key, and the
//! execution that a retry or rerun makes an id, that follow from the job and the execution. The person who asked is asked for at each
//! item: whoever lost the right in between changes nothing more.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt as _, stream};
use ledgerline_commands::{
    CommandError, Commands, Context, Scope, Target,
    start::{self, Rerun, Retry},
};
use ledgerline_domain::{
    event::Actor,
    execution::{CancelReason, Execution, ExecutionCommand, PauseReason},
    id::{CorrelationId, ExecutionId, UserId, WorkspaceId, derived},
    permission::Permission,
    workspace::Workspace,
};
use ledgerline_projections::values::ExecutionStatus;
use ledgerline_store::IdempotencyKey;
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{problem::chain, refusal::Refusal};

/// Executions of one job: what one person can mean to do at once, and a list that is written in one statement.
pub const MAX_EXECUTIONS: usize = 10_000;

/// Unfinished jobs of one workspace: they are done one after the other, and a longer line would only be noise.
pub const MAX_OPEN_JOBS: i64 = 10;

/// Items that are done under one lock. A crash costs at most so many repeats.
const BATCH: i64 = 100;

/// Items that are done beside each other.
const CONCURRENT: usize = 16;

/// How often to look for a job that another process wrote down.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long to wait when the database is away.
const AGAIN: Duration = Duration::from_secs(2);

/// How long a finished job can be looked at, and how often those that are older are looked for.
const KEPT: TimeDelta = TimeDelta::days(30);
const FORGET_EVERY: Duration = Duration::from_secs(60 * 60);

/// What is done to each execution of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BulkAction {
    /// Stop it.
    Cancel,
    /// Hold it.
    Pause,
    /// Let it go on.
    Resume,
    /// Go on where it failed, as a new execution.
    Retry,
    /// Run everything again, as a new execution.
    Rerun,
}

impl BulkAction {
    const ALL: [Self; 5] = [Self::Cancel, Self::Pause, Self::Resume, Self::Retry, Self::Rerun];

    /// The stored and served word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Retry => "retry",
            Self::Rerun => "rerun",
        }
    }

    /// The action of a word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == word)
    }

    /// Executions in which status it can do anything to.
    #[must_use]
    pub const fn statuses(self) -> &'static [ExecutionStatus] {
        use ExecutionStatus::{Cancelled, Completed, Failed, Paused, Pending, Queued, Running};
        match self {
            Self::Cancel => &[Pending, Queued, Running, Paused],
            Self::Pause => &[Pending, Queued, Running],
            Self::Resume => &[Paused],
            Self::Retry => &[Failed, Cancelled],
            Self::Rerun => &[Completed, Failed, Cancelled],
        }
    }
}

/// A job to write down.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// Its id: new, or one that follows from the caller's idempotency key.
    pub id: Uuid,
    /// Whose executions.
    pub workspace: WorkspaceId,
    /// Who asked.
    pub requested_by: UserId,
    /// Whether that is a service account.
    pub by_service_account: bool,
    /// What is done.
    pub action: BulkAction,
    /// Hash of what was asked for, so that a key that is used for something else is found out.
    pub body_hash: [u8; 32],
    /// Which executions, in the order in which they are done.
    pub executions: Vec<Uuid>,
    /// When.
    pub now: DateTime<Utc>,
}

/// Wakes the runner of this process. Cheap to clone; all clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Bell(Arc<Notify>);

/// Writes a job down, all of it or nothing. Answers whether it is new: one with its id may be there already.
///
/// # Errors
/// When the database is away.
pub async fn write_down(pool: &PgPool, job: &NewJob, bell: &Bell) -> Result<bool, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let total = i32::try_from(job.executions.len()).unwrap_or(i32::MAX);
    let written = sqlx::query!(
        "INSERT INTO bulk_jobs (id, workspace_id, requested_by, by_service_account, action, body_hash, total, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (id) DO NOTHING",
        job.id,
        job.workspace.0,
        job.requested_by.0,
        job.by_service_account,
        job.action.as_str(),
        &job.body_hash,
        total,
        job.now
    );
    if written.execute(&mut *transaction).await?.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query!(
        "INSERT INTO bulk_items (job_id, execution_id, n)
         SELECT $1, item.id, item.n::integer FROM unnest($2::uuid[]) WITH ORDINALITY AS item (id, n)",
        job.id,
        &job.executions
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    bell.0.notify_one();
    Ok(true)
}

/// How many jobs of a workspace are not finished.
///
/// # Errors
/// When the database is away.
pub async fn open_jobs(pool: &PgPool, workspace: WorkspaceId) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM bulk_jobs WHERE workspace_id = $1 AND finished_at IS NULL"#,
        workspace.0
    )
    .fetch_one(pool)
    .await
}

/// Carries jobs out until it is stopped. Any number of processes may.
pub async fn run(commands: Commands, pool: PgPool, bell: Bell, stop: CancellationToken) {
    let runner = Runner { commands, pool };
    let forgetting = async {
        let mut ticks = tokio::time::interval(FORGET_EVERY);
        loop {
            ticks.tick().await;
            runner.forget().await;
        }
    };
    let working = async {
        loop {
            match runner.batch().await {
                Ok(true) => {}
                Ok(false) => _ = timeout(LOOK_EVERY, bell.0.notified()).await,
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "bulk jobs wait");
                    sleep(AGAIN).await;
                }
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = forgetting => {}
        () = working => {}
    }
}

struct Runner {
    commands: Commands,
    pool: PgPool,
}

/// A job under its lock.
struct Job {
    id: Uuid,
    workspace: WorkspaceId,
    requested_by: UserId,
    actor: Actor,
    action: BulkAction,
}

/// What became of an item; one that must wait has none.
struct Done {
    n: i32,
    succeeded: bool,
    detail: Option<String>,
    made: Option<Uuid>,
}

impl Runner {
    /// Does one batch of a job that nobody else works on. False when there is none, or when what is left must wait.
    async fn batch(&self) -> Result<bool, sqlx::Error> {
        let mut transaction = self.pool.begin().await?;
        let row = sqlx::query!(
            "SELECT id, workspace_id, requested_by, by_service_account, action FROM bulk_jobs WHERE finished_at IS NULL
             ORDER BY created_at, id LIMIT 1 FOR UPDATE SKIP LOCKED"
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(row) = row else { return Ok(false) };
        let Some(action) = BulkAction::parse(&row.action) else {
            tracing::error!(job = %row.id, action = row.action, "a bulk job of a newer build");
            return Ok(false);
        };
        let (workspace, requested_by) = (WorkspaceId(row.workspace_id), UserId(row.requested_by));
        let actor = match row.by_service_account {
            false => Actor::Human { user_id: requested_by },
            true => Actor::service_account(requested_by),
        };
        let job = Job { id: row.id, workspace, requested_by, actor, action };
        let items = sqlx::query!(
            "SELECT n, execution_id FROM bulk_items WHERE job_id = $1 AND outcome IS NULL ORDER BY n LIMIT $2",
            job.id,
            BATCH
        )
        .fetch_all(&mut *transaction)
        .await?;
        let wanted = items.len();
        let items: Vec<(i32, ExecutionId)> =
            items.into_iter().map(|item| (item.n, ExecutionId(item.execution_id))).collect();
        let done: Vec<Done> = stream::iter(items)
            .map(|(n, execution)| self.item(&job, n, execution))
            .buffer_unordered(CONCURRENT)
            .filter_map(|done| async move { done })
            .collect()
            .await;
        record(&mut transaction, job.id, &done).await?;
        if wanted < usize::try_from(BATCH).unwrap_or(usize::MAX) && done.len() == wanted {
            let now = self.commands.clock().now();
            sqlx::query!("UPDATE bulk_jobs SET finished_at = $2 WHERE id = $1", job.id, now)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        let word = job.action.as_str();
        metrics::counter!("ledgerline_bulk_items_total", "action" => word)
            .increment(u64::try_from(done.len()).unwrap_or(u64::MAX));
        Ok(!done.is_empty() || wanted == 0)
    }

    /// Does one item. None when the log refuses for a while.
    async fn item(&self, job: &Job, n: i32, of: ExecutionId) -> Option<Done> {
        let made = ExecutionId(derived(&["bulk", &job.id.to_string(), &of.to_string()]));
        let context = Context {
            correlation_id: Some(CorrelationId(job.id)),
            key: Some(IdempotencyKey {
                scope: format!("bulk {}", job.id),
                key: of.to_string(),
                body_hash: [0; 32],
            }),
            ..Context::new(job.actor.clone())
        };
        let plan = |scope: Scope| async move {
            let workspace = scope.read::<Workspace>(job.workspace).await?;
            let role = workspace.state.role_of(job.requested_by);
            let role = role.ok_or(CommandError::Denied(Refusal::Hidden("workspace")))?;
            let permission = Permission::ControlExecution;
            if !role.may(permission) {
                return Err(CommandError::Denied(Refusal::NotAllowed { role, permission }));
            }
            let told = |command| Ok((Target::existing(of), command));
            match job.action {
                BulkAction::Cancel => {
                    told(ExecutionCommand::Cancel { reason: CancelReason::StoppedByUser })
                }
                BulkAction::Pause => told(ExecutionCommand::Pause { reason: PauseReason::User }),
                BulkAction::Resume => told(ExecutionCommand::Unpause { reason: PauseReason::User }),
                BulkAction::Retry => {
                    let retry = Retry { execution_id: made, of };
                    start::retry(&scope, &retry).await.map_err(CommandError::widen)
                }
                BulkAction::Rerun => {
                    let rerun = Rerun {
                        execution_id: made,
                        of,
                        from_node: None,
                        input: None,
                        node_input: None,
                        version: None,
                    };
                    start::rerun(&scope, &rerun).await.map_err(CommandError::widen)
                }
            }
        };
        let makes = matches!(job.action, BulkAction::Retry | BulkAction::Rerun);
        match self.commands.execute_with::<Execution, Refusal, _, _>(&context, plan).await {
            Ok(executed) => {
                let nothing = executed.events.is_empty() && !executed.repeated;
                let detail = nothing.then(|| "it was so already".to_owned());
                Some(Done { n, succeeded: true, detail, made: makes.then_some(made.0) })
            }
            Err(CommandError::Rejected(refusal) | CommandError::Denied(refusal)) => {
                let detail = Some(refusal.to_string());
                Some(Done { n, succeeded: false, detail, made: None })
            }
            Err(error) if error.may_pass() => {
                tracing::warn!(job = %job.id, execution = %of, error = %chain(&error), "an item waits");
                None
            }
            Err(error) => {
                tracing::error!(job = %job.id, execution = %of, error = %chain(&error), "an item failed");
                Some(Done { n, succeeded: false, detail: Some(error.to_string()), made: None })
            }
        }
    }

    async fn forget(&self) {
        let before = self.commands.clock().now() - KEPT;
        let forgotten = sqlx::query!("DELETE FROM bulk_jobs WHERE finished_at < $1", before)
            .execute(&self.pool);
        match forgotten.await {
            Ok(done) if done.rows_affected() == 0 => {}
            Ok(done) => {
                tracing::debug!(jobs = done.rows_affected(), "old bulk jobs were forgotten")
            }
            Err(error) => tracing::warn!(%error, "old bulk jobs can't be forgotten now"),
        }
    }
}

async fn record(
    connection: &mut PgConnection,
    job: Uuid,
    done: &[Done],
) -> Result<(), sqlx::Error> {
    let numbers: Vec<i32> = done.iter().map(|done| done.n).collect();
    let outcomes: Vec<&str> =
        done.iter().map(|done| if done.succeeded { "succeeded" } else { "failed" }).collect();
    let details: Vec<Option<&str>> = done.iter().map(|done| done.detail.as_deref()).collect();
    let made: Vec<Option<Uuid>> = done.iter().map(|done| done.made).collect();
    sqlx::query!(
        "UPDATE bulk_items AS i SET outcome = x.outcome, detail = x.detail, made_execution_id = x.made
           FROM unnest($2::integer[], $3::text[], $4::text[], $5::uuid[]) AS x (n, outcome, detail, made)
          WHERE i.job_id = $1 AND i.n = x.n",
        job,
        &numbers,
        &outcomes as &[&str],
        &details as &[Option<&str>],
        &made as &[Option<Uuid>]
    )
    .execute(connection)
    .await?;
    Ok(())
}
