//! API keys: a program acts for a person, or as a service account, with less than that may. Shown once, stored hashed, always expiring.

use chrono::{DateTime, TimeDelta, Utc};
use ledgerline_domain::{
    audit::{ApiKeyEnded, ApiKeyMade},
    event::Actor,
    id::{ApiKeyId, UserId, WorkspaceId},
};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Identity, audit, session::Client, token};
use crate::problem::{FieldError, Problem};

/// The longest life of a key, in days.
pub const MAX_DAYS: i64 = 366;
/// How many keys one person or service account may have.
pub const MAX_KEYS: i64 = 100;

/// What a key may do at most; never more than its owner.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Look.
    Read,
    /// Create, edit and delete.
    Write,
    /// Start, stop and steer executions, and approve.
    Execute,
    /// Members, roles, settings and secrets of workspaces.
    Admin,
}

impl Scope {
    /// The stored and served word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Execute => "execute",
            Self::Admin => "admin",
        }
    }

    /// The scopes among stored names. A name that this build does not know gives nothing.
    pub(super) fn parse_all(names: &[String]) -> Vec<Self> {
        let all = [Self::Read, Self::Write, Self::Execute, Self::Admin];
        all.into_iter().filter(|scope| names.iter().any(|name| name == scope.as_str())).collect()
    }
}

/// Whose a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyHolder {
    /// A person: the key does what the person may.
    Person(UserId),
    /// A service account: the key does what the account may, in its workspace.
    ServiceAccount(UserId),
}

impl KeyHolder {
    /// The id of the person or the account; no person has the id of an account.
    const fn user_id(self) -> UserId {
        match self {
            Self::Person(id) | Self::ServiceAccount(id) => id,
        }
    }

    /// The same for the two columns that name a holder.
    const fn columns(self) -> (Option<Uuid>, Option<Uuid>) {
        match self {
            Self::Person(id) => (Some(id.0), None),
            Self::ServiceAccount(id) => (None, Some(id.0)),
        }
    }
}

/// What somebody wants who makes a key.
#[derive(Clone, Debug)]
pub struct NewApiKey {
    /// What it is for.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// The only workspace that it reaches; None for all of its owner's.
    pub workspace_id: Option<WorkspaceId>,
    /// For how many days it is good.
    pub expires_in_days: i64,
}

/// A key as its owner sees it: without the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ApiKeyView {
    /// Its id.
    #[schema(value_type = Uuid)]
    pub id: ApiKeyId,
    /// What it is for.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// The only workspace that it reaches.
    #[schema(value_type = Option<Uuid>)]
    pub workspace_id: Option<WorkspaceId>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
}

/// A new key: the only time that the key itself is shown.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CreatedApiKey {
    /// Goes with every request as `Authorization: Bearer …`. Keep it: it is not shown again.
    pub key: String,
    /// The key's description.
    pub api_key: ApiKeyView,
}

impl NewApiKey {
    fn check(&self) -> Result<(), Problem> {
        let mut errors = Vec::new();
        let length = self.name.trim().chars().count();
        if !(1..=255).contains(&length) || self.name.chars().any(char::is_control) {
            errors.push(FieldError::new(
                "/name",
                "invalid",
                "must have 1 to 255 printable characters",
            ));
        }
        if self.scopes.is_empty() {
            errors.push(FieldError::new("/scopes", "too_short", "must name at least one scope"));
        }
        if !(1..=MAX_DAYS).contains(&self.expires_in_days) {
            let detail = format!("must be between 1 and {MAX_DAYS}");
            errors.push(FieldError::new("/expires_in_days", "out_of_range", detail));
        }
        if errors.is_empty() { Ok(()) } else { Err(Problem::invalid_values(errors)) }
    }
}

impl Identity {
    /// Makes a key of a person or a service account; `by` is the person who makes it.
    ///
    /// # Errors
    /// 422 for values that are not valid, 409 when the holder has too many keys.
    pub async fn make_api_key(
        &self,
        holder: KeyHolder,
        by: UserId,
        wanted: NewApiKey,
        client: &Client,
        now: DateTime<Utc>,
    ) -> Result<CreatedApiKey, Problem> {
        wanted.check()?;
        let mut scopes = wanted.scopes.clone();
        scopes.sort_unstable();
        scopes.dedup();
        let names: Vec<String> = scopes.iter().map(|scope| scope.as_str().to_owned()).collect();
        let id = ApiKeyId(Uuid::now_v7());
        let (key, secret_hash) = token::new_api_key(id);
        let expires_at = now + TimeDelta::days(wanted.expires_in_days);
        let mut transaction = self.pool().begin().await?;
        let (user, account) = holder.columns();
        let made = sqlx::query_file!(
            "sql/identity/make_api_key.sql",
            id.0,
            user,
            account,
            wanted.name.trim(),
            secret_hash.as_slice(),
            &names,
            wanted.workspace_id.map(|id| id.0),
            now,
            expires_at,
            MAX_KEYS
        )
        .execute(&mut *transaction)
        .await?;
        if made.rows_affected() == 0 {
            return Err(Problem::rule_refused(
                "too_many_api_keys",
                "a person or service account has at most 100 keys; remove one first",
            ));
        }
        let event = ApiKeyMade {
            user_id: holder.user_id(),
            api_key_id: id,
            scopes: names,
            workspace_id: wanted.workspace_id,
            expires_at,
            at: now,
        };
        audit::note(&mut transaction, event, by, client, now).await?;
        transaction.commit().await?;
        let api_key = ApiKeyView {
            id,
            name: wanted.name.trim().to_owned(),
            scopes,
            workspace_id: wanted.workspace_id,
            created_at: now,
            expires_at,
        };
        Ok(CreatedApiKey { key: key.expose_secret().to_owned(), api_key })
    }

    /// The keys of a person or service account that have not ended, the newest first.
    ///
    /// # Errors
    /// 503 when the database is away.
    pub async fn api_keys(
        &self,
        holder: KeyHolder,
        now: DateTime<Utc>,
    ) -> Result<Vec<ApiKeyView>, Problem> {
        let rows = sqlx::query!(
            "SELECT api_key_id, name, scopes, workspace_id, created_at, expires_at FROM api_keys
             WHERE (user_id = $1 OR account_id = $1) AND revoked_at IS NULL AND expires_at > $2
             ORDER BY created_at DESC, api_key_id DESC",
            holder.user_id().0,
            now
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| ApiKeyView {
                id: ApiKeyId(row.api_key_id),
                name: row.name,
                scopes: Scope::parse_all(&row.scopes),
                workspace_id: row.workspace_id.map(WorkspaceId),
                created_at: row.created_at,
                expires_at: row.expires_at,
            })
            .collect())
    }

    /// Ends a key of a person or service account. False when that one has no such key.
    ///
    /// # Errors
    /// 503 when the database is away.
    pub async fn end_api_key(
        &self,
        holder: KeyHolder,
        by: &Actor,
        key: ApiKeyId,
        now: DateTime<Utc>,
    ) -> Result<bool, Problem> {
        let mut transaction = self.pool().begin().await?;
        let ended = sqlx::query!(
            "UPDATE api_keys SET revoked_at = $3
             WHERE api_key_id = $1 AND (user_id = $2 OR account_id = $2) AND revoked_at IS NULL
             RETURNING workspace_id",
            key.0,
            holder.user_id().0,
            now
        );
        let Some(ended) = ended.fetch_optional(&mut *transaction).await? else { return Ok(false) };
        let (user_id, workspace_id) = (holder.user_id(), ended.workspace_id.map(WorkspaceId));
        let event = ApiKeyEnded { user_id, api_key_id: key, workspace_id, at: now };
        audit::note_by(&mut transaction, event, user_id, by, &Client::default(), now).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Whether a person or service account has such a key, good or ended.
    ///
    /// # Errors
    /// 503 when the database is away.
    pub async fn has_api_key(&self, holder: KeyHolder, key: ApiKeyId) -> Result<bool, Problem> {
        let has = sqlx::query_scalar!(
            r#"SELECT EXISTS (
                SELECT 1 FROM api_keys WHERE api_key_id = $1 AND (user_id = $2 OR account_id = $2)
            ) AS "has!""#,
            key.0,
            holder.user_id().0
        )
        .fetch_one(self.pool())
        .await?;
        Ok(has)
    }

    /// Whether a key is still good, for what outlives the request that opened it.
    ///
    /// # Errors
    /// 503 when the database is away.
    pub async fn api_key_is_good(
        &self,
        key: ApiKeyId,
        now: DateTime<Utc>,
    ) -> Result<bool, Problem> {
        let good = sqlx::query_scalar!(
            r#"SELECT EXISTS (
                SELECT 1 FROM api_keys k LEFT JOIN service_accounts a ON a.account_id = k.account_id
                WHERE k.api_key_id = $1 AND k.revoked_at IS NULL AND k.expires_at > $2 AND a.disabled_at IS NULL
            ) AS "good!""#,
            key.0,
            now
        )
        .fetch_one(self.pool())
        .await?;
        Ok(good)
    }
}
