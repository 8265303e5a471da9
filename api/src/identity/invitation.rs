//! Where invitations go: addresses and tokens, beside the log that says which invitations there are.
//!
//! An invitation's id follows from its workspace and address under a key of the deployment, so an address has one invitation in a
//! workspace, and the log, which holds the id, gives no address away. What is here is brought in line with the log after each change
//! of it ([`crate::invitations`]): the mail of an open invitation is written once for each time it is sent, and the address of a closed
//! one is erased.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use ledgerline_domain::{
    id::{InvitationId, derived},
    workspace::INVITATION_TTL,
};
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use uuid::Uuid;

use super::{
    Identity, UserId, WorkspaceId,
    account::User,
    allowance::{self, Allowance},
    mail::{self, Mail},
    registration::{address_key, is_address},
    token,
};
use crate::problem::Problem;

/// The first letters of the token in an invitation's mail.
const PREFIX: &str = "lli_";

/// How many invitations one person is shown that were sent to them.
const SHOWN: i64 = 200;

/// What is known of an invitation beside what the log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// Which invitation.
    pub id: InvitationId,
    /// To which workspace.
    pub workspace_id: WorkspaceId,
    /// The address in the form in which two spellings are equal; none once the invitation is closed.
    email_key: Option<String>,
}

/// An invitation that somebody names who wants to come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meant {
    /// Which.
    pub contact: Contact,
    /// Whether they have shown that it went to them. Without that an open one stays closed to them.
    pub shown: bool,
}

/// What the mail of an invitation says, beside its link.
#[derive(Clone, Copy, Debug)]
pub struct Letter<'a> {
    /// The name of the workspace.
    pub workspace: &'a str,
    /// The name of who asks.
    pub inviter: &'a str,
    /// The role that is offered.
    pub role: &'a str,
}

impl Identity {
    /// The invitation of an address to a workspace. After the master key was replaced an address has another one: two mails to it may
    /// be good for a while, and either lets the same person in.
    ///
    /// # Errors
    /// When the cryptographic library refuses, which it has no reason to.
    pub fn invitation_id(
        &self,
        workspace: WorkspaceId,
        email: &str,
    ) -> Result<InvitationId, Problem> {
        let text = format!("invitation\n{workspace}\n{}", address_key(email));
        let fingerprint = self.0.master_key.fingerprint(Sha256::digest(text).into());
        let fingerprint = fingerprint.map_err(|error| Problem::internal(&error))?;
        let hex: String = fingerprint.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(InvitationId(derived(&["invitation", &hex])))
    }

    /// Takes one use of what a person may send, and of what an address may get.
    ///
    /// # Errors
    /// 429 when there is none left.
    pub async fn take_invitation_allowance(
        &self,
        by: UserId,
        email: &str,
        now: DateTime<Utc>,
    ) -> Result<(), Problem> {
        let key = address_key(email);
        let allowances = [Allowance::InvitationsBy(by), Allowance::InvitationsTo(&key)];
        allowance::take(self.pool(), &allowances, now).await
    }

    /// Notes an address before its invitation goes into the log, so that the log never names one that nobody can be reached by.
    ///
    /// # Errors
    /// 503 when the database is away.
    pub async fn note_invitation(
        &self,
        id: InvitationId,
        workspace: WorkspaceId,
        email: &str,
        now: DateTime<Utc>,
    ) -> Result<(), Problem> {
        let email = email.trim();
        sqlx::query_file!(
            "sql/identity/note_invitation.sql",
            id.0,
            workspace.0,
            email,
            address_key(email),
            now,
            now + INVITATION_TTL
        )
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// Notes that an invitation is about to be changed in the log, so that what is here follows even if this process ends before.
    ///
    /// # Errors
    /// 503 when the database is away.
    pub async fn unsettle_invitation(
        &self,
        id: InvitationId,
        now: DateTime<Utc>,
    ) -> Result<(), Problem> {
        sqlx::query!(
            "UPDATE invitations SET unsettled_at = $2 WHERE invitation_id = $1",
            id.0,
            now
        )
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// Writes the mail of an open invitation, unless the one for this very end of its time was written.
    ///
    /// # Errors
    /// 503 when the database is away.
    pub async fn mail_invitation(
        &self,
        id: InvitationId,
        expires_at: DateTime<Utc>,
        letter: Letter<'_>,
        now: DateTime<Utc>,
    ) -> Result<(), Problem> {
        let token = token::opaque(PREFIX);
        let hash = token::hash(token.expose_secret());
        let mut transaction = self.pool().begin().await?;
        // Of two at once the second one waits for the row, and finds it written.
        let unwritten = sqlx::query_scalar!(
            r#"UPDATE invitations SET token_hash = $2, mailed_expiry = $3, expires_at = $3
               WHERE invitation_id = $1 AND email IS NOT NULL AND (mailed_expiry IS NULL OR mailed_expiry < $3)
               RETURNING email AS "email!""#,
            id.0,
            hash.as_slice(),
            expires_at
        )
        .fetch_optional(&mut *transaction)
        .await?;
        if let Some(email) = unwritten {
            let link = self.page_link("invitation", &token);
            let Letter { workspace, inviter, role } = letter;
            let days = INVITATION_TTL.num_days();
            let mail = Mail::Invitation { workspace, inviter, role, link: &link, days };
            mail::put(&mut transaction, &email, &mail, INVITATION_TTL, now).await?;
            metrics::counter!("invitations_mailed_total").increment(1);
        }
        sqlx::query!(
            "UPDATE invitations SET unsettled_at = NULL WHERE invitation_id = $1 AND mailed_expiry = $2",
            id.0,
            expires_at
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Erases the address of an invitation that is open no more.
    ///
    /// # Errors
    /// 503 when the database is away.
    pub async fn erase_invitation(&self, id: InvitationId) -> Result<(), Problem> {
        sqlx::query!(
            "UPDATE invitations SET email = NULL, email_key = NULL, unsettled_at = NULL WHERE invitation_id = $1",
            id.0
        )
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// An invitation by its id.
    ///
    /// # Errors
    /// 503 when the database is away.
    pub async fn invitation(&self, id: InvitationId) -> Result<Option<Contact>, Problem> {
        let row = sqlx::query!(
            "SELECT invitation_id, workspace_id, email_key FROM invitations WHERE invitation_id = $1",
            id.0
        )
        .fetch_optional(self.pool())
        .await?;
        Ok(row.map(|row| Contact {
            id: InvitationId(row.invitation_id),
            workspace_id: WorkspaceId(row.workspace_id),
            email_key: row.email_key,
        }))
    }

    /// The invitation whose mail holds a token.
    ///
    /// # Errors
    /// 503 when the database is away.
    pub async fn invitation_of_token(&self, token: &str) -> Result<Option<Contact>, Problem> {
        if !token::looks_like(token, PREFIX) {
            return Ok(None);
        }
        let hash = token::hash(token);
        let id = sqlx::query_scalar!(
            "SELECT invitation_id FROM invitations WHERE token_hash = $1",
            hash.as_slice()
        )
        .fetch_optional(self.pool())
        .await?;
        match id {
            None => Ok(None),
            Some(id) => self.invitation(InvitationId(id)).await,
        }
    }

    /// The invitation that somebody means who names it by the token of its mail, or by its id where the mail went to the verified address
    /// of the own account. Of one without an address nobody can say so any more: it is found by its id, as not shown to be theirs, for
    /// those who repeat what closed it.
    ///
    /// # Errors
    /// 503 when the database is away.
    pub async fn invitation_for(&self, named: &str, user: &User) -> Result<Option<Meant>, Problem> {
        let Ok(id) = Uuid::try_parse(named) else {
            let found = self.invitation_of_token(named).await?;
            return Ok(found.map(|contact| Meant { contact, shown: true }));
        };
        let Some(contact) = self.invitation(InvitationId(id)).await? else { return Ok(None) };
        let key = address_key(&user.email);
        Ok(match &contact.email_key {
            None => Some(Meant { contact, shown: false }),
            Some(email_key) if user.email_verified && *email_key == key => {
                Some(Meant { contact, shown: true })
            }
            Some(_) => None,
        })
    }

    /// The invitations to the verified address of an account, the newest first.
    ///
    /// # Errors
    /// 503 when the database is away.
    pub async fn invitations_to(&self, user: &User) -> Result<Vec<Contact>, Problem> {
        if !user.email_verified {
            return Ok(Vec::new());
        }
        let rows = sqlx::query!(
            "SELECT invitation_id, workspace_id, email_key FROM invitations WHERE email_key = $1
             ORDER BY expires_at DESC, invitation_id LIMIT $2",
            address_key(&user.email),
            SHOWN
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| Contact {
                id: InvitationId(row.invitation_id),
                workspace_id: WorkspaceId(row.workspace_id),
                email_key: row.email_key,
            })
            .collect())
    }

    /// The addresses of invitations, of those that have one.
    ///
    /// # Errors
    /// 503 when the database is away.
    pub async fn invited_addresses(
        &self,
        ids: &[InvitationId],
    ) -> Result<HashMap<InvitationId, String>, Problem> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        let rows = sqlx::query!(
            r#"SELECT invitation_id, email AS "email!" FROM invitations
               WHERE invitation_id = ANY ($1) AND email IS NOT NULL"#,
            &ids
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows.into_iter().map(|row| (InvitationId(row.invitation_id), row.email)).collect())
    }

    /// Invitations that somebody was about to change before a time and that may not say what the log says, the oldest first.
    ///
    /// # Errors
    /// 503 when the database is away.
    pub async fn unsettled_invitations(
        &self,
        before: DateTime<Utc>,
        limit: i64,
    ) -> Result<Vec<Contact>, Problem> {
        let rows = sqlx::query!(
            "SELECT invitation_id, workspace_id, email_key FROM invitations WHERE unsettled_at <= $1
             ORDER BY unsettled_at LIMIT $2",
            before,
            limit
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| Contact {
                id: InvitationId(row.invitation_id),
                workspace_id: WorkspaceId(row.workspace_id),
                email_key: row.email_key,
            })
            .collect())
    }

    /// Whether somebody who registers was asked to by this token: then the address is theirs, and registration need not be open.
    ///
    /// # Errors
    /// 422 for a token that is not good for the address.
    pub(super) async fn demand_invited(
        &self,
        token: &str,
        email: &str,
        now: DateTime<Utc>,
    ) -> Result<(), Problem> {
        let hash = token::hash(token);
        let invited = sqlx::query_scalar!(
            r#"SELECT EXISTS (
                SELECT 1 FROM invitations WHERE token_hash = $1 AND email_key = $2 AND expires_at > $3
            ) AS "invited!""#,
            hash.as_slice(),
            address_key(email),
            now
        )
        .fetch_one(self.pool())
        .await?;
        if token::looks_like(token, PREFIX) && invited {
            return Ok(());
        }
        let detail = "is not, or no longer, the token of an invitation to this address";
        Err(Problem::invalid("/invitation_token", "invalid", detail))
    }
}

/// An address as it was typed, without what is around it.
///
/// # Errors
/// 422 for what is no address.
pub fn read_address(email: &str) -> Result<&str, Problem> {
    let email = email.trim();
    if is_address(email) {
        return Ok(email);
    }
    Err(Problem::invalid("/email", "invalid", "must be an email address"))
}

/// Removes what nobody can accept any more.
pub(super) async fn prune(pool: &PgPool, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM invitations WHERE expires_at <= $1", now).execute(pool).await?;
    Ok(())
}
