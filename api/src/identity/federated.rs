//! Accounts of people who sign in with another provider.
//!
//! Somebody is found by who they are at the provider (issuer and subject). Who comes for the first time is linked to the account of the
//! same address only if the provider says that it has verified the address and the account's address is verified here as well: else
//! whoever registers somebody else's address first would share the account with its owner later. Without an account one is made, where
//! registration is open.

use chrono::{DateTime, TimeDelta, Utc};
use ledgerline_domain::{audit::SignInMethod, id::UserId};
use secrecy::{ExposeSecret, SecretString};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::{
    Identity,
    allowance::{self, Allowance},
    challenge,
    registration::{Registration, address_key, clean_name, is_address},
    session::Client,
    token,
};
use crate::problem::{Problem, ProblemKind};

/// How long a browser may take at a provider.
pub const STATE_TTL: TimeDelta = TimeDelta::minutes(10);

/// Somebody, as a provider knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Federated {
    /// Who says so.
    pub issuer: String,
    /// Who they are there.
    pub subject: String,
    /// Their address, where the provider has verified it.
    pub verified_email: Option<String>,
    /// Their name.
    pub full_name: Option<String>,
}

/// Why somebody whom a provider vouches for is not let in.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refused {
    /// The provider does not say that it has verified the address.
    #[error("the provider has not verified the address")]
    AddressUnverified,
    /// The address is of a domain that is not allowed.
    #[error("addresses of this domain may not sign in with the provider")]
    Domain,
    /// There is an account of the address whose owner never proved that it is theirs.
    #[error("an account has this address, and it was never verified here")]
    AccountUnverified,
    /// There is no account, and none is made.
    #[error("registration is closed")]
    Closed,
    /// Something else is in the way.
    #[error(transparent)]
    Other(#[from] Problem),
}

impl From<sqlx::Error> for Refused {
    fn from(error: sqlx::Error) -> Self {
        Self::Other(error.into())
    }
}

impl Refused {
    /// The word for the page.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::AddressUnverified => "address_unverified",
            Self::Domain => "domain",
            Self::AccountUnverified => "account_unverified",
            Self::Closed => "closed",
            Self::Other(_) => "away",
        }
    }
}

impl Identity {
    /// Notes that a browser is sent to a provider.
    ///
    /// # Errors
    /// 429 after many from one place, 503 when the database is away.
    pub async fn begin_federated(
        &self,
        provider: &str,
        state: &SecretString,
        browser: &SecretString,
        client: &Client,
        now: DateTime<Utc>,
    ) -> Result<(), Problem> {
        let place: Vec<Allowance<'_>> =
            client.ip.map(Allowance::FederatedFrom).into_iter().collect();
        allowance::take(self.pool(), &place, now).await?;
        let state = token::hash(state.expose_secret());
        let browser = token::hash(browser.expose_secret());
        sqlx::query!(
            "INSERT INTO federated_sign_ins (state_hash, provider, browser_hash, expires_at) VALUES ($1, $2, $3, $4)",
            state.as_slice(),
            provider,
            browser.as_slice(),
            now + STATE_TTL
        )
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// Takes a browser back. False when its state is unknown, used or too old, or another browser's or provider's; it is used up in
    /// any case.
    ///
    /// # Errors
    /// 503 when the database is away.
    pub async fn end_federated(
        &self,
        provider: &str,
        state: &str,
        browser: &str,
        now: DateTime<Utc>,
    ) -> Result<bool, Problem> {
        let state = token::hash(state);
        let row = sqlx::query!(
            "DELETE FROM federated_sign_ins WHERE state_hash = $1 RETURNING provider, browser_hash, expires_at",
            state.as_slice()
        )
        .fetch_optional(self.pool())
        .await?;
        Ok(row.is_some_and(|row| {
            row.provider == provider
                && row.expires_at > now
                && token::same_hash(&row.browser_hash, &token::hash(browser))
        }))
    }

    /// The account of somebody whom a provider vouches for: the one that is linked, the one of the same verified address, or a new one.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn federated_user(
        &self,
        person: &Federated,
        allowed_domains: &[String],
        now: DateTime<Utc>,
    ) -> Result<UserId, Refused> {
        let email = person.verified_email.as_deref().map(str::trim);
        let email = email.filter(|email| is_address(email));
        if !allowed_domains.is_empty() {
            let domain = email.and_then(|email| email.rsplit_once('@')).map(|(_, domain)| domain);
            let domain = domain.ok_or(Refused::AddressUnverified)?;
            if !allowed_domains.iter().any(|allowed| allowed.eq_ignore_ascii_case(domain)) {
                return Err(Refused::Domain);
            }
        }
        let linked = sqlx::query_scalar!(
            "UPDATE federated_identities SET last_used_at = $3 WHERE issuer = $1 AND subject = $2 RETURNING user_id",
            person.issuer,
            person.subject,
            now
        )
        .fetch_optional(self.pool())
        .await?;
        if let Some(user) = linked {
            self.ensure_personal_workspace(UserId(user), now).await?;
            return Ok(UserId(user));
        }
        let email = email.ok_or(Refused::AddressUnverified)?;
        // Asked before the transaction begins, so that nobody holds one connection while waiting for another.
        let open = self.demand_open_registration().await;
        let mut transaction = self.pool().begin().await?;
        let account = sqlx::query!(
            "SELECT user_id, email_verified_at FROM users WHERE email_key = $1 FOR UPDATE",
            address_key(email)
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let user = match account {
            Some(account) if account.email_verified_at.is_none() => {
                return Err(Refused::AccountUnverified);
            }
            Some(account) => UserId(account.user_id),
            None => {
                open.map_err(|problem| match problem.kind() {
                    ProblemKind::Forbidden => Refused::Closed,
                    _ => Refused::Other(problem),
                })?;
                self.make_federated(&mut transaction, email, person, now).await?
            }
        };
        sqlx::query!(
            "INSERT INTO federated_identities (issuer, subject, user_id, linked_at, last_used_at) VALUES ($1, $2, $3, $4, $4)
             ON CONFLICT (issuer, subject) DO NOTHING",
            person.issuer,
            person.subject,
            user.0,
            now
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        self.ensure_personal_workspace(user, now).await?;
        metrics::counter!("auth_federated_links_total").increment(1);
        Ok(user)
    }

    /// Makes an account without a password, whose address the provider has verified.
    async fn make_federated(
        &self,
        connection: &mut PgConnection,
        email: &str,
        person: &Federated,
        now: DateTime<Utc>,
    ) -> Result<UserId, Refused> {
        let told = person.full_name.as_deref().and_then(|name| clean_name(name).ok());
        let local = email.rsplit_once('@').map_or(email, |(local, _)| local);
        let registration = Registration {
            email: email.to_owned(),
            password: None,
            full_name: told.unwrap_or_else(|| local.to_owned()),
        };
        let user = UserId(Uuid::now_v7());
        self.insert_account(connection, user, &registration, Some(now), now).await?;
        metrics::counter!("auth_registrations_total").increment(1);
        Ok(user)
    }

    /// The challenge with which a browser goes on that came back from a provider.
    ///
    /// # Errors
    /// 503 when the database is away.
    pub async fn challenge_browser(
        &self,
        user: UserId,
        browser: &str,
        now: DateTime<Utc>,
    ) -> Result<SecretString, Problem> {
        let mut connection = self.pool().acquire().await?;
        challenge::put(&mut connection, user, SignInMethod::Provider, Some(browser), now).await
    }
}

/// Removes what browsers began and did not end.
pub(super) async fn prune(pool: &PgPool, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM federated_sign_ins WHERE expires_at <= $1", now)
        .execute(pool)
        .await?;
    Ok(())
}
