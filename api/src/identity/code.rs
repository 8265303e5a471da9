//! One-time codes: six digits that prove that somebody reads an address.
//!
//! A code is good for five minutes, once, and dies after five wrong tries; a newer one supersedes it. Asking for one does the same
//! work and gets the same answer whether or not the address is known: the mail tells, and only its reader learns it.

use chrono::{DateTime, TimeDelta, Utc};
use ledgerline_domain::{
    audit::{PasswordProof, PasswordSet, SessionEnd, SignInMethod},
    id::UserId,
};
use rand::RngExt as _;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::{PgConnection, PgPool};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Identity, account,
    allowance::{self, Allowance},
    audit,
    link::{self, LinkPurpose},
    mail::{self, Mail},
    registration::{Registration, address_key, check_password, is_address},
    session::{self, Client, TokenAnswer},
};
use crate::problem::{Problem, ProblemKind};

/// How long a code is good.
pub const CODE_TTL: TimeDelta = TimeDelta::minutes(5);
/// After how many wrong tries a code is dead.
const MAX_TRIES: i32 = 5;
/// How long the link to set a new password is good after the code.
pub const RESET_TTL: TimeDelta = TimeDelta::minutes(10);

/// What a code is for. A code for one is no code for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CodePurpose {
    /// Sign in without a password.
    Login,
    /// Make an account.
    Signup,
    /// Set a new password.
    Reset,
}

impl CodePurpose {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Signup => "signup",
            Self::Reset => "reset",
        }
    }
}

/// Who somebody is that signs up with a code.
#[derive(Debug)]
pub struct Newcomer {
    /// The name.
    pub full_name: String,
    /// A password, beside codes; none to come in by codes alone.
    pub password: Option<SecretString>,
}

/// What a right code gives.
#[derive(Debug)]
pub enum CodeAnswer {
    /// A session.
    SignedIn(Box<TokenAnswer>),
    /// The right to set a new password.
    MayReset {
        /// Goes with the new password to `POST /auth/password`.
        reset_token: SecretString,
    },
}

fn refused() -> Problem {
    Problem::new(ProblemKind::WrongCredentials, "the code is wrong, used, or too old")
}

impl Identity {
    /// Sends a code to an address, where its purpose fits; else a mail that says so.
    ///
    /// # Errors
    /// 422 for what is no address, 403 when registration is closed, 429 when it was asked too often.
    pub async fn request_code(
        &self,
        email: &str,
        purpose: CodePurpose,
        client: &Client,
        now: DateTime<Utc>,
    ) -> Result<(), Problem> {
        let email = email.trim();
        if !is_address(email) {
            return Err(Problem::invalid("/email", "invalid", "must be an email address"));
        }
        let key = address_key(email);
        let mut allowances = vec![Allowance::CodesAskedFor(&key)];
        allowances.extend(client.ip.map(Allowance::CodesAskedFrom));
        allowance::take(self.pool(), &allowances, now).await?;
        if purpose == CodePurpose::Signup {
            self.demand_open_registration().await?;
        }
        let known = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT 1 FROM users WHERE email_key = $1) AS "known!""#,
            key
        )
        .fetch_one(self.pool())
        .await?;
        let usable = known != (purpose == CodePurpose::Signup);
        let code = format!("{:06}", rand::rng().random_range(0..1_000_000_u32));
        let mail = match (usable, purpose) {
            (true, _) => Mail::Code { purpose, code: &code, minutes: CODE_TTL.num_minutes() },
            (false, CodePurpose::Signup) => Mail::AccountExists,
            (false, CodePurpose::Login | CodePurpose::Reset) => Mail::NoAccount,
        };
        let mut transaction = self.pool().begin().await?;
        self.put_code(&mut transaction, &key, purpose, &code, usable, client, now).await?;
        mail::put(&mut transaction, email, &mail, CODE_TTL, now).await?;
        transaction.commit().await?;
        metrics::counter!("auth_codes_total", "purpose" => purpose.as_str()).increment(1);
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "a row has so many columns")]
    async fn put_code(
        &self,
        connection: &mut PgConnection,
        key: &str,
        purpose: CodePurpose,
        code: &str,
        usable: bool,
        client: &Client,
        now: DateTime<Utc>,
    ) -> Result<(), Problem> {
        let subject = subject(key);
        sqlx::query!(
            "UPDATE one_time_codes SET spent_at = $3 WHERE subject = $1 AND purpose = $2 AND spent_at IS NULL",
            subject,
            purpose.as_str(),
            now
        )
        .execute(&mut *connection)
        .await?;
        // Of two requests at once the later one finds the row of the first: its own code supersedes that.
        sqlx::query!(
            "INSERT INTO one_time_codes (code_id, subject, purpose, code_mac, usable, ip, user_agent, created_at, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             ON CONFLICT (subject, purpose) WHERE spent_at IS NULL DO UPDATE SET
                 code_mac = excluded.code_mac, usable = excluded.usable, tries = 0,
                 created_at = excluded.created_at, expires_at = excluded.expires_at",
            Uuid::now_v7(),
            subject,
            purpose.as_str(),
            self.code_mac(key, purpose, code)?,
            usable,
            client.ip.map(|ip| ip.to_canonical().to_string()),
            client.user_agent.as_deref().map(session::told_agent),
            now,
            now + CODE_TTL
        )
        .execute(connection)
        .await?;
        Ok(())
    }

    fn code_mac(&self, key: &str, purpose: CodePurpose, code: &str) -> Result<Vec<u8>, Problem> {
        let message = format!("one-time code\n{}\n{key}\n{code}", purpose.as_str());
        let mac = self.0.master_key.fingerprint(Sha256::digest(message).into());
        Ok(mac.map_err(|error| Problem::internal(&error))?.to_vec())
    }

    /// Looks at a code. A right one is used up, and its reader is signed in, or may set a new password.
    ///
    /// # Errors
    /// 401 for a code that is wrong, used, dead or too old, whatever the address; 401 with a challenge for a second factor; 422 for what is missing to sign up; 429 after
    /// many tries.
    pub async fn verify_code(
        &self,
        email: &str,
        purpose: CodePurpose,
        code: &str,
        newcomer: Option<Newcomer>,
        client: &Client,
        now: DateTime<Utc>,
    ) -> Result<CodeAnswer, Problem> {
        // Before the code is used up: whoever typed a password that is too short tries again with the same code.
        let registration = match (purpose, newcomer) {
            (CodePurpose::Signup, Some(newcomer)) => Some(Registration::of(email, newcomer)?),
            (CodePurpose::Signup, None) => {
                return Err(Problem::invalid("/full_name", "required", "is needed to sign up"));
            }
            (CodePurpose::Login | CodePurpose::Reset, _) => None,
        };
        let key = address_key(email);
        let place: Vec<Allowance<'_>> =
            client.ip.map(Allowance::CodesTriedFrom).into_iter().collect();
        allowance::take(self.pool(), &place, now).await?;
        let right = sqlx::query_file_scalar!(
            "sql/identity/try_code.sql",
            subject(&key),
            purpose.as_str(),
            self.code_mac(&key, purpose, code.trim())?,
            now,
            MAX_TRIES
        )
        .fetch_optional(self.pool())
        .await?;
        if right != Some(true) {
            metrics::counter!("auth_code_tries_total", "outcome" => "refused").increment(1);
            let known = sqlx::query_scalar!("SELECT user_id FROM users WHERE email_key = $1", &key)
                .fetch_optional(self.pool())
                .await?;
            self.count_refusal(known.map(UserId), SignInMethod::Code, client, now);
            return Err(refused());
        }
        metrics::counter!("auth_code_tries_total", "outcome" => "accepted").increment(1);
        match registration {
            Some(registration) => self
                .sign_up(registration, client, now)
                .await
                .map(Box::new)
                .map(CodeAnswer::SignedIn),
            None if purpose == CodePurpose::Reset => self.allow_reset(&key, now).await,
            None => self.sign_in(&key, client, now).await.map(Box::new).map(CodeAnswer::SignedIn),
        }
    }

    async fn sign_up(
        &self,
        registration: Registration,
        client: &Client,
        now: DateTime<Utc>,
    ) -> Result<TokenAnswer, Problem> {
        self.demand_open_registration().await?;
        self.make_account(registration, Some(now), client, now).await
    }

    async fn sign_in(
        &self,
        key: &str,
        client: &Client,
        now: DateTime<Utc>,
    ) -> Result<TokenAnswer, Problem> {
        let mut transaction = self.pool().begin().await?;
        let user = self.reader_of(&mut transaction, key, now).await?;
        transaction.commit().await?;
        self.ensure_personal_workspace(user, now).await?;
        self.admit(user, SignInMethod::Code, client, now).await
    }

    async fn allow_reset(&self, key: &str, now: DateTime<Utc>) -> Result<CodeAnswer, Problem> {
        let mut transaction = self.pool().begin().await?;
        let user = self.reader_of(&mut transaction, key, now).await?;
        let expires_at = now + RESET_TTL;
        let reset_token =
            link::put(&mut transaction, user, LinkPurpose::Reset, key, expires_at).await?;
        transaction.commit().await?;
        Ok(CodeAnswer::MayReset { reset_token })
    }

    /// Whoever has the code reads the address, so it is verified by that.
    async fn reader_of(
        &self,
        connection: &mut PgConnection,
        key: &str,
        now: DateTime<Utc>,
    ) -> Result<UserId, Problem> {
        sqlx::query_scalar!(
            "UPDATE users SET email_verified_at = coalesce(email_verified_at, $2) WHERE email_key = $1 RETURNING user_id",
            key,
            now
        )
        .fetch_optional(connection)
        .await?
        .map(UserId)
        .ok_or_else(refused)
    }

    /// Sets a new password with the right that a code gave; all sessions of the person end.
    ///
    /// # Errors
    /// 401 when the token is unknown, used or too old, 422 when the password is not valid.
    pub async fn reset_password(
        &self,
        reset_token: &SecretString,
        password: SecretString,
        client: &Client,
        now: DateTime<Utc>,
    ) -> Result<(), Problem> {
        if let Some(error) = check_password("/new_password", &password) {
            return Err(Problem::invalid_values(vec![error]));
        }
        let over = || {
            Problem::new(
                ProblemKind::WrongCredentials,
                "the token to set a new password is unknown, used, or too old; ask for a new code",
            )
        };
        // Looked at before the password is hashed, so that a token that is none costs no work.
        let token = reset_token.expose_secret();
        if !link::is_good(self.pool(), LinkPurpose::Reset, token, now).await? {
            return Err(over());
        }
        let hash = self.passwords().hash(password).await?;
        let mut transaction = self.pool().begin().await?;
        let user =
            link::take(&mut transaction, LinkPurpose::Reset, token, now).await?.ok_or_else(over)?;
        account::set_password(&mut transaction, user, &hash, now).await?;
        let set = PasswordSet { user_id: user, proof: PasswordProof::Code, at: now };
        audit::note(&mut transaction, set, user, client, now).await?;
        let because = SessionEnd::PasswordReset;
        session::revoke_all(&mut transaction, user, None, because, now).await?;
        transaction.commit().await?;
        Ok(())
    }
}

pub(super) fn subject(key: &str) -> Vec<u8> {
    Sha256::digest(format!("address {key}")).to_vec()
}

/// Removes codes that have run out.
pub(super) async fn prune(pool: &PgPool, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    let since = now - TimeDelta::hours(1);
    sqlx::query!("DELETE FROM one_time_codes WHERE expires_at <= $1", since).execute(pool).await?;
    sqlx::query!("DELETE FROM one_time_links WHERE expires_at <= $1", now).execute(pool).await?;
    Ok(())
}
