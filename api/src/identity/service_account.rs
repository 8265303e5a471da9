//! What is kept of service accounts beside the log: what they are called, and whether their keys are good.
//!
//! That an account is a member, and with which role, is what its workspace's stream says. A row that no stream names (its writer died in
//! between) has no role anywhere, so its keys open nothing.

use chrono::{DateTime, Utc};
use ledgerline_domain::id::{UserId, WorkspaceId};
use uuid::Uuid;

use super::Identity;
use crate::problem::{FieldError, Problem};

/// The longest name.
const MAX_NAME_CHARS: usize = 255;

/// A service account, as it is kept beside the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptAccount {
    /// The id by which its workspace and events name it.
    pub id: UserId,
    /// Where it is a member.
    pub workspace_id: WorkspaceId,
    /// What people call it.
    pub name: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// The name of an account without what surrounds it.
///
/// # Errors
/// 422 when it is empty, too long or does not print.
pub fn clean_name(name: &str) -> Result<String, Problem> {
    let name = name.trim();
    if (1..=MAX_NAME_CHARS).contains(&name.chars().count()) && !name.chars().any(char::is_control) {
        return Ok(name.to_owned());
    }
    let detail = "must have 1 to 255 printable characters";
    Err(Problem::invalid_values(vec![FieldError::new("/name", "invalid", detail)]))
}

impl Identity {
    /// Keeps what an account is called. False where an account of this id is kept already.
    ///
    /// # Errors
    /// 503 when the database is away.
    pub async fn keep_service_account(&self, account: &KeptAccount) -> Result<bool, Problem> {
        let kept = sqlx::query!(
            "INSERT INTO service_accounts (account_id, workspace_id, name, created_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT (account_id) DO NOTHING",
            account.id.0,
            account.workspace_id.0,
            account.name,
            account.created_at
        )
        .execute(self.pool())
        .await?;
        Ok(kept.rows_affected() > 0)
    }

    /// One account; None when there is none.
    ///
    /// # Errors
    /// 503 when the database is away.
    pub async fn service_account(&self, id: UserId) -> Result<Option<KeptAccount>, Problem> {
        Ok(self.service_accounts(&[id]).await?.pop())
    }

    /// Those of these ids that are service accounts, the newest first.
    ///
    /// # Errors
    /// 503 when the database is away.
    pub async fn service_accounts(&self, ids: &[UserId]) -> Result<Vec<KeptAccount>, Problem> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        let rows = sqlx::query!(
            "SELECT account_id, workspace_id, name, created_at FROM service_accounts WHERE account_id = ANY ($1)
             ORDER BY created_at DESC, account_id DESC",
            &ids
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| KeptAccount {
                id: UserId(row.account_id),
                workspace_id: WorkspaceId(row.workspace_id),
                name: row.name,
                created_at: row.created_at,
            })
            .collect())
    }

    /// Lets no key of an account be good from the next request on, or all of them again.
    ///
    /// # Errors
    /// 503 when the database is away.
    pub async fn set_service_account_keys(
        &self,
        id: UserId,
        disabled_at: Option<DateTime<Utc>>,
    ) -> Result<(), Problem> {
        sqlx::query!(
            "UPDATE service_accounts SET disabled_at = $2 WHERE account_id = $1",
            id.0,
            disabled_at
        )
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// Erases an account with its keys. One that is not there is gone already.
    ///
    /// # Errors
    /// 503 when the database is away.
    pub async fn erase_service_account(&self, id: UserId) -> Result<(), Problem> {
        sqlx::query!("DELETE FROM service_accounts WHERE account_id = $1", id.0)
            .execute(self.pool())
            .await?;
        Ok(())
    }
}
