//! Links that are good once: to verify an address, to set a new password.

use chrono::{DateTime, TimeDelta, Utc};
use ledgerline_domain::id::UserId;
use secrecy::{ExposeSecret, SecretString};
use sqlx::{PgConnection, PgPool};

use super::{
    Identity,
    account::User,
    allowance::{self, Allowance},
    mail::{self, Mail},
    registration::address_key,
    token,
};
use crate::problem::{Problem, ProblemKind};

/// How long the link that verifies an address is good.
const VERIFY_TTL: TimeDelta = TimeDelta::hours(24);

/// What a link is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkPurpose {
    Reset,
    Verify,
}

impl LinkPurpose {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Verify => "verify",
        }
    }

    const fn prefix(self) -> &'static str {
        match self {
            Self::Reset => "llp_",
            Self::Verify => "llv_",
        }
    }
}

/// Makes a link's token. Older ones of the purpose are good no more.
pub(super) async fn put(
    connection: &mut PgConnection,
    user: UserId,
    purpose: LinkPurpose,
    email_key: &str,
    expires_at: DateTime<Utc>,
) -> Result<SecretString, Problem> {
    sqlx::query!(
        "DELETE FROM one_time_links WHERE user_id = $1 AND purpose = $2",
        user.0,
        purpose.as_str()
    )
    .execute(&mut *connection)
    .await?;
    let token = token::opaque(purpose.prefix());
    let hash = token::hash(token.expose_secret());
    sqlx::query!(
        "INSERT INTO one_time_links (token_hash, user_id, purpose, email_key, expires_at) VALUES ($1, $2, $3, $4, $5)",
        hash.as_slice(),
        user.0,
        purpose.as_str(),
        email_key,
        expires_at
    )
    .execute(connection)
    .await?;
    Ok(token)
}

/// Whether a token would be taken.
pub(super) async fn is_good(
    pool: &PgPool,
    purpose: LinkPurpose,
    token: &str,
    now: DateTime<Utc>,
) -> Result<bool, Problem> {
    if !token::looks_like(token, purpose.prefix()) {
        return Ok(false);
    }
    let hash = token::hash(token);
    let good = sqlx::query_scalar!(
        r#"SELECT EXISTS (
            SELECT 1 FROM one_time_links WHERE token_hash = $1 AND purpose = $2 AND expires_at > $3
        ) AS "good!""#,
        hash.as_slice(),
        purpose.as_str(),
        now
    )
    .fetch_one(pool)
    .await?;
    Ok(good)
}

/// Uses a token up. None when it is unknown, used or too old, or the account has another address by now.
pub(super) async fn take(
    connection: &mut PgConnection,
    purpose: LinkPurpose,
    token: &str,
    now: DateTime<Utc>,
) -> Result<Option<UserId>, Problem> {
    if !token::looks_like(token, purpose.prefix()) {
        return Ok(None);
    }
    let hash = token::hash(token);
    let taken = sqlx::query!(
        "DELETE FROM one_time_links AS l USING users AS u
         WHERE l.token_hash = $1 AND l.purpose = $2 AND u.user_id = l.user_id
         RETURNING l.user_id, l.expires_at, l.email_key = u.email_key AS \"same_address!\"",
        hash.as_slice(),
        purpose.as_str()
    )
    .fetch_optional(connection)
    .await?;
    let good = taken.filter(|row| row.expires_at > now && row.same_address);
    Ok(good.map(|row| UserId(row.user_id)))
}

impl Identity {
    /// Sends the link that verifies the own address. Nothing where it is verified already.
    ///
    /// # Errors
    /// 429 when it was asked too often.
    pub async fn request_verification(
        &self,
        user: &User,
        now: DateTime<Utc>,
    ) -> Result<(), Problem> {
        if user.email_verified {
            return Ok(());
        }
        let key = address_key(&user.email);
        allowance::take(self.pool(), &[Allowance::CodesAskedFor(&key)], now).await?;
        let mut transaction = self.pool().begin().await?;
        self.put_verification(&mut transaction, user.id, &user.email, now).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Writes the mail with the link that verifies an address.
    pub(super) async fn put_verification(
        &self,
        connection: &mut PgConnection,
        user: UserId,
        email: &str,
        now: DateTime<Utc>,
    ) -> Result<(), Problem> {
        let (purpose, key) = (LinkPurpose::Verify, address_key(email));
        let token = put(connection, user, purpose, &key, now + VERIFY_TTL).await?;
        let link = self.page_link("verify", &token);
        let mail = Mail::Verify { link: &link, hours: VERIFY_TTL.num_hours() };
        mail::put(connection, email, &mail, VERIFY_TTL, now).await
    }

    /// A link to our page that carries a token behind the `#`, where no server and no log sees it.
    pub(super) fn page_link(&self, name: &str, token: &SecretString) -> String {
        let page = self.0.public_url.as_str().trim_end_matches('/');
        format!("{page}/#{name}={}", token.expose_secret())
    }

    /// Verifies an address with the token of its link.
    ///
    /// # Errors
    /// 401 when it is unknown, used or too old.
    pub async fn verify_address(
        &self,
        token: &SecretString,
        now: DateTime<Utc>,
    ) -> Result<(), Problem> {
        let mut transaction = self.pool().begin().await?;
        let user = take(&mut transaction, LinkPurpose::Verify, token.expose_secret(), now).await?;
        let user = user.ok_or_else(|| {
            Problem::new(ProblemKind::WrongCredentials, "the link is unknown, used, or too old")
        })?;
        sqlx::query!(
            "UPDATE users SET email_verified_at = coalesce(email_verified_at, $2) WHERE user_id = $1",
            user.0,
            now
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }
}
