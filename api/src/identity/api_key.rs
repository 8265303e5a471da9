//! API keys: a program acts for a person, with less than that person may. Shown once, stored hashed, always expiring.

use chrono::{DateTime, TimeDelta, Utc};
use ledgerline_domain::{
    audit::{ApiKeyEnded, ApiKeyMade},
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
/// How many keys one person may have.
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
    /// Makes a key of a person.
    ///
    /// # Errors
    /// 422 for values that are not valid, 409 when the person has too many keys.
    pub async fn make_api_key(
        &self,
        user: UserId,
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
        let made = sqlx::query!(
            "INSERT INTO api_keys (api_key_id, user_id, name, secret_hash, scopes, workspace_id, created_at, expires_at)
             SELECT $1, $2, $3, $4, $5, $6, $7, $8
             WHERE (SELECT count(*) FROM api_keys WHERE user_id = $2 AND revoked_at IS NULL AND expires_at > $7) < $9",
            id.0,
            user.0,
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
                "a person has at most 100 keys; remove one first",
            ));
        }
        let event = ApiKeyMade {
            user_id: user,
            api_key_id: id,
            scopes: names,
            workspace_id: wanted.workspace_id,
            expires_at,
            at: now,
        };
        audit::note(&mut transaction, event, user, client, now).await?;
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

    /// The keys of a person that are good, the newest first.
    ///
    /// # Errors
    /// 503 when the database is away.
    pub async fn api_keys(
        &self,
        user: UserId,
        now: DateTime<Utc>,
    ) -> Result<Vec<ApiKeyView>, Problem> {
        let rows = sqlx::query!(
            "SELECT api_key_id, name, scopes, workspace_id, created_at, expires_at FROM api_keys
             WHERE user_id = $1 AND revoked_at IS NULL AND expires_at > $2 ORDER BY created_at DESC, api_key_id DESC",
            user.0,
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

    /// Ends a key of a person. False when that person has no such key.
    ///
    /// # Errors
    /// 503 when the database is away.
    pub async fn end_api_key(
        &self,
        user: UserId,
        key: ApiKeyId,
        now: DateTime<Utc>,
    ) -> Result<bool, Problem> {
        let mut transaction = self.pool().begin().await?;
        let ended = sqlx::query!(
            "UPDATE api_keys SET revoked_at = $3 WHERE api_key_id = $1 AND user_id = $2 AND revoked_at IS NULL",
            key.0,
            user.0,
            now
        )
        .execute(&mut *transaction)
        .await?;
        if ended.rows_affected() == 0 {
            return Ok(false);
        }
        let event = ApiKeyEnded { user_id: user, api_key_id: key, at: now };
        audit::note(&mut transaction, event, user, &Client::default(), now).await?;
        transaction.commit().await?;
        Ok(true)
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
                SELECT 1 FROM api_keys WHERE api_key_id = $1 AND revoked_at IS NULL AND expires_at > $2
            ) AS "good!""#,
            key.0,
            now
        )
        .fetch_one(self.pool())
        .await?;
        Ok(good)
    }
}
