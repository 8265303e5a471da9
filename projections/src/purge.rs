//! Clears the read rows of workspaces away whose grace is over.
//!
//! Nobody reaches them any more, since nobody belongs to the workspace: this gives their room back, and leaves nothing in the tables that
//! was to be deleted. It goes beside the projectors in small steps, so that the rows of one large workspace hold up nobody's reads, and is
//! repeated for as long as there is anything: after a rebuild the rows are there once more. The log keeps what happened.

use sqlx::PgPool;
use uuid::Uuid;

/// Rows of one table that one statement removes: what takes some milliseconds.
const STEP: i64 = 2_000;

/// Executions that are taken at once: each may have many nodes.
const EXECUTIONS: i64 = 100;

/// The workspaces whose grace is over and of which rows are left, at most so many.
///
/// # Errors
/// When Postgres is away.
pub async fn left(pool: &PgPool, limit: i64) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_file_scalar!("sql/purge/left.sql", limit).fetch_all(pool).await
}

/// Executions of a workspace whose rows are still there. What else is kept of them has to go before their rows do.
///
/// # Errors
/// When Postgres is away.
pub async fn executions(pool: &PgPool, workspace: Uuid) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT id FROM executions WHERE workspace_id = $1 ORDER BY id LIMIT $2",
        workspace,
        EXECUTIONS
    )
    .fetch_all(pool)
    .await
}

/// Removes the rows of executions.
///
/// # Errors
/// When Postgres is away.
pub async fn remove_executions(pool: &PgPool, ids: &[Uuid]) -> Result<(), sqlx::Error> {
    let mut transaction = pool.begin().await?;
    sqlx::query!("DELETE FROM execution_nodes WHERE execution_id = ANY ($1)", ids)
        .execute(&mut *transaction)
        .await?;
    sqlx::query!("DELETE FROM execution_waits WHERE execution_id = ANY ($1)", ids)
        .execute(&mut *transaction)
        .await?;
    sqlx::query!("DELETE FROM workflow_runs WHERE execution_id = ANY ($1)", ids)
        .execute(&mut *transaction)
        .await?;
    sqlx::query!("DELETE FROM executions WHERE id = ANY ($1)", ids)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}

/// The triggers of a workspace whose rows are still there.
///
/// # Errors
/// When Postgres is away.
pub async fn triggers(pool: &PgPool, workspace: Uuid) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT id FROM triggers WHERE workspace_id = $1 ORDER BY id LIMIT $2",
        workspace,
        STEP
    )
    .fetch_all(pool)
    .await
}

/// Removes the rows of triggers.
///
/// # Errors
/// When Postgres is away.
pub async fn remove_triggers(pool: &PgPool, ids: &[Uuid]) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM triggers WHERE id = ANY ($1)", ids).execute(pool).await?;
    Ok(())
}

/// Removes what is left of a workspace, once its executions and triggers are gone.
///
/// # Errors
/// When Postgres is away.
pub async fn remove_rest(pool: &PgPool, workspace: Uuid) -> Result<(), sqlx::Error> {
    loop {
        let removed = sqlx::query!(
            "DELETE FROM activity WHERE position IN (SELECT position FROM activity WHERE workspace_id = $1 LIMIT $2)",
            workspace,
            STEP
        );
        if removed.execute(pool).await?.rows_affected() == 0 {
            break;
        }
    }
    loop {
        let removed = sqlx::query!(
            "DELETE FROM workflows WHERE id IN (SELECT id FROM workflows WHERE workspace_id = $1 LIMIT $2)",
            workspace,
            STEP
        );
        if removed.execute(pool).await?.rows_affected() == 0 {
            break;
        }
    }
    sqlx::query!("DELETE FROM execution_workflows WHERE workspace_id = $1", workspace)
        .execute(pool)
        .await?;
    sqlx::query!("DELETE FROM execution_counts WHERE workspace_id = $1", workspace)
        .execute(pool)
        .await?;
    sqlx::query!("DELETE FROM workflow_counts WHERE workspace_id = $1", workspace)
        .execute(pool)
        .await?;
    sqlx::query!("DELETE FROM activity_counts WHERE workspace_id = $1", workspace)
        .execute(pool)
        .await?;
    Ok(())
}
