//! Clears away what belonged to workspaces whose grace is over: secrets and keys first, then what executions printed and the read rows.
//!
//! What a workspace holds outside the log is erasable, and here it is erased. Values that are stored by their content stay, since others
//! may have stored the same.

use std::time::Duration;

use ledgerline_projections::purge;
use sqlx::PgPool;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How often it is looked for workspaces whose grace is over.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Workspaces that are cleared away in one look.
const BATCH: i64 = 20;

/// Clears away, until it is stopped. Several processes may do so: a repeat changes nothing.
pub async fn keep(pool: PgPool, stop: CancellationToken) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        if let Some(Err(error)) = stop.run_until_cancelled(clear(&pool)).await {
            tracing::warn!(%error, "what belonged to a deleted workspace cannot be cleared away now");
        }
    }
}

/// Clears away what is left of workspaces whose grace is over; gives those that something was left of.
///
/// # Errors
/// When Postgres is away; what was done until then stays done.
pub async fn clear(pool: &PgPool) -> Result<Vec<Uuid>, sqlx::Error> {
    let left = purge::left(pool, BATCH).await?;
    for workspace in &left {
        clear_one(pool, *workspace).await?;
        tracing::info!(%workspace, "what belonged to a deleted workspace was cleared away");
    }
    Ok(left)
}

async fn clear_one(pool: &PgPool, workspace: Uuid) -> Result<(), sqlx::Error> {
    // The key with which its secrets were sealed goes with them, so that no copy of them opens any more.
    sqlx::query!("DELETE FROM workspace_keys WHERE workspace_id = $1", workspace)
        .execute(pool)
        .await?;
    // The same for what is personal in the log: its subjects' keys are gone for good.
    sqlx::query!("DELETE FROM subject_keys WHERE workspace_id = $1", workspace)
        .execute(pool)
        .await?;
    sqlx::query!("DELETE FROM invitations WHERE workspace_id = $1", workspace)
        .execute(pool)
        .await?;
    // With its service accounts go their keys.
    sqlx::query!("DELETE FROM service_accounts WHERE workspace_id = $1", workspace)
        .execute(pool)
        .await?;
    sqlx::query!("DELETE FROM api_keys WHERE workspace_id = $1", workspace).execute(pool).await?;
    sqlx::query!("DELETE FROM bulk_jobs WHERE workspace_id = $1", workspace).execute(pool).await?;
    loop {
        let ids = purge::executions(pool, workspace).await?;
        if ids.is_empty() {
            break;
        }
        sqlx::query!("DELETE FROM log_lines WHERE execution_id = ANY ($1)", &ids)
            .execute(pool)
            .await?;
        sqlx::query!("DELETE FROM snapshots WHERE stream_id = ANY ($1)", &ids)
            .execute(pool)
            .await?;
        purge::remove_executions(pool, &ids).await?;
    }
    loop {
        let ids = purge::triggers(pool, workspace).await?;
        if ids.is_empty() {
            break;
        }
        sqlx::query!("DELETE FROM webhook_refusals WHERE trigger_id = ANY ($1)", &ids)
            .execute(pool)
            .await?;
        purge::remove_triggers(pool, &ids).await?;
    }
    purge::remove_rest(pool, workspace).await
}
