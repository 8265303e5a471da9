//! The end of an account: everything personal goes, in one transaction; what the log says stays, by an id that leads to nobody.

use chrono::{DateTime, TimeDelta, Utc};
use ledgerline_domain::{
    audit::{AccountErased, SubjectErased},
    event::Actor,
    id::{UserId, WorkspaceId},
};
use ledgerline_store::facts;
use secrecy::SecretString;

use super::{
    Identity, SessionId,
    account::User,
    allowance::Allowance,
    audit,
    backoff::{self, Subject},
    code::subject,
    mail::invites,
    registration::address_key,
    session::Client,
};
use crate::problem::{Problem, ProblemKind};

/// How fresh a session must be to stand for the password: as long as a code is good.
const FRESH: TimeDelta = TimeDelta::minutes(5);

impl Identity {
    /// Demands that it is the person who asks, and not somebody who found an open browser: by the password, or by a session that was
    /// opened just now.
    ///
    /// # Errors
    /// 401 for a wrong password, 403 where there is neither, 429 after many tries.
    pub async fn reconfirm(
        &self,
        user: &User,
        session: SessionId,
        password: Option<SecretString>,
        now: DateTime<Utc>,
    ) -> Result<(), Problem> {
        let Some(password) = password else {
            let fresh = sqlx::query_scalar!(
                r#"SELECT EXISTS (SELECT 1 FROM sessions WHERE session_id = $1 AND created_at > $2) AS "fresh!""#,
                session.0,
                now - FRESH
            );
            return match fresh.fetch_one(self.pool()).await? {
                true => Ok(()),
                false => Err(Problem::forbidden(
                    "give your password, or sign in again and repeat this within five minutes",
                )),
            };
        };
        let key = address_key(&user.email);
        let attempt = backoff::count(self.pool(), &[Subject::Address(&key)], now).await?;
        let hash = sqlx::query_scalar!(
            "SELECT password_hash FROM credentials WHERE user_id = $1",
            user.id.0
        );
        let hash = hash.fetch_optional(self.pool()).await?;
        if !self.passwords().verify(password, hash).await? {
            let detail = "this is not the account's password";
            return Err(Problem::new(ProblemKind::WrongCredentials, detail));
        }
        attempt.forgive(self.pool()).await
    }

    /// Erases a person: the account with its credentials, sessions, keys and links, codes and mails to the address, what was counted by
    /// it, from where the person came, and the keys of what the log holds sealed about them. False when there is no such person.
    ///
    /// # Errors
    /// 503 when the database is away; then nothing was erased.
    pub async fn erase(
        &self,
        user: UserId,
        by: &Actor,
        now: DateTime<Utc>,
    ) -> Result<bool, Problem> {
        let mut transaction = self.pool().begin().await?;
        let known = sqlx::query!(
            "SELECT email, email_key, full_name FROM users WHERE user_id = $1 FOR UPDATE",
            user.0
        );
        let Some(known) = known.fetch_optional(&mut *transaction).await? else { return Ok(false) };
        let key = known.email_key;
        // From where is not kept: it would be personal again.
        let (erased, nowhere) = (AccountErased { user_id: user, at: now }, Client::default());
        audit::note_by(&mut transaction, erased, user, by, &nowhere, now).await?;
        facts::forget(&mut transaction, user.0).await?;
        let counted = [
            subject(&key),
            Subject::Address(&key).key(),
            Allowance::CodesAskedFor(&key).key(),
            Allowance::SecondFactorTried(user).key(),
        ];
        sqlx::query!("DELETE FROM one_time_codes WHERE subject = ANY ($1)", &counted as &[Vec<u8>])
            .execute(&mut *transaction)
            .await?;
        sqlx::query!("DELETE FROM login_attempts WHERE subject = ANY ($1)", &counted as &[Vec<u8>])
            .execute(&mut *transaction)
            .await?;
        sqlx::query!("DELETE FROM allowances WHERE subject = ANY ($1)", &counted as &[Vec<u8>])
            .execute(&mut *transaction)
            .await?;
        // Mails to the person, and those in which the person invites others, whose invitations closed when the person left. One that
        // is being delivered is waited for. Letters beyond ASCII are not lower-cased by every database, so the address as it was typed
        // counts too.
        sqlx::query!(
            "DELETE FROM outbox WHERE lower(recipient) = $1 OR recipient = $2 OR starts_with(subject, $3)",
            key,
            known.email,
            invites(&known.full_name)
        )
        .execute(&mut *transaction)
        .await?;
        sqlx::query!(
            "UPDATE invitations SET email = NULL, email_key = NULL, token_hash = NULL WHERE email_key = $1",
            key
        )
        .execute(&mut *transaction)
        .await?;
        sqlx::query!("DELETE FROM subject_keys WHERE name = $1", subject_name(user))
            .execute(&mut *transaction)
            .await?;
        // That of the first one stays, by its id: nobody inherits it.
        sqlx::query!(
            "DELETE FROM operators WHERE user_id = $1 AND first_registered IS NULL",
            user.0
        )
        .execute(&mut *transaction)
        .await?;
        // With it go credentials, sessions with their tokens and tickets, keys and links, the second factor with its recovery codes,
        // challenges, and who the person is at other providers.
        sqlx::query!("DELETE FROM users WHERE user_id = $1", user.0)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        tracing::info!(user_id = %user, "a person was erased");
        metrics::counter!("auth_erasures_total").increment(1);
        Ok(true)
    }

    /// Erases whom a workspace knows by a name: what the log holds sealed about them opens no more.
    ///
    /// # Errors
    /// 404 where nothing is sealed about them, or it was erased before.
    pub async fn erase_subject(
        &self,
        workspace: WorkspaceId,
        name: &str,
        by: UserId,
        client: &Client,
        now: DateTime<Utc>,
    ) -> Result<(), Problem> {
        let mut transaction = self.pool().begin().await?;
        let erased = sqlx::query_scalar!(
            "DELETE FROM subject_keys WHERE workspace_id = $1 AND name = $2 RETURNING subject",
            workspace.0,
            name
        );
        let erased = erased.fetch_optional(&mut *transaction).await?;
        let subject = erased.ok_or_else(|| Problem::not_found("subject"))?;
        let event = SubjectErased { workspace_id: workspace, subject, at: now };
        audit::note(&mut transaction, event, by, client, now).await?;
        transaction.commit().await?;
        metrics::counter!("subject_erasures_total").increment(1);
        Ok(())
    }
}

/// The name under which data about a person with an account is marked in any workspace. Not the address: whoever signs up with another's
/// must not be able to erase what workspaces hold about them.
fn subject_name(user: UserId) -> String {
    format!("user:{user}")
}
