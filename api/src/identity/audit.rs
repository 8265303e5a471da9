//! What the audit is told of accounts: written down in the transaction of what it tells of, and taken into the log afterwards.

use chrono::{DateTime, Utc};
use ledgerline_commands::recorder;
use ledgerline_domain::{
    audit::{AuditEvent, SignInMethod, Tally},
    event::Actor,
    id::UserId,
};
use ledgerline_store::facts::{self, Origin};
use sqlx::PgConnection;

use super::{
    Identity,
    session::{self, Client},
};
use crate::problem::Problem;

/// Notes a fact about a person that the person caused.
pub(super) async fn note(
    connection: &mut PgConnection,
    event: impl Into<AuditEvent>,
    by: UserId,
    client: &Client,
    at: DateTime<Utc>,
) -> Result<(), Problem> {
    note_by(connection, event, by, &Actor::Human { user_id: by }, client, at).await
}

/// Notes a fact about a person that somebody else caused. From where it came goes with the person's account.
pub(super) async fn note_by(
    connection: &mut PgConnection,
    event: impl Into<AuditEvent>,
    about: UserId,
    actor: &Actor,
    client: &Client,
    at: DateTime<Utc>,
) -> Result<(), Problem> {
    let origin = Origin {
        user_id: Some(about.0),
        ips: client.ip.into_iter().collect(),
        user_agent: client.user_agent.as_deref().map(session::told_agent),
    };
    Ok(facts::note(connection, &recorder::fact(&event.into(), actor, at), &origin).await?)
}

impl Identity {
    /// Counts a sign-in that was refused: anybody can cause as many as they like, so none is an event by itself.
    pub(super) fn count_refusal(
        &self,
        user_id: Option<UserId>,
        method: SignInMethod,
        client: &Client,
        at: DateTime<Utc>,
    ) {
        let tally = Tally::SignInsRefused { user_id, method };
        recorder::count(&self.0.tallies, &tally, None, client.ip, at);
    }
}
