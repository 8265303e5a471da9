//! Brings what is known of an invitation outside the log in line with it: its mail, and its address.
//!
//! Whoever changes an invitation marks it before ([`Identity::unsettle_invitation`], [`Identity::note_invitation`]) and settles it
//! after its events are in the log. A process that ends in between leaves the mark, and [`keep`] settles what was left.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use ledgerline_commands::Commands;
use ledgerline_domain::{
    id::{InvitationId, WorkspaceId},
    workspace::{Workspace, WorkspaceEvent},
};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{
    app::AppState,
    clock::Clock,
    identity::{Identity, invitation::Letter},
    problem::Problem,
};

/// How often what was left is looked for.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// After what time a mark was left: longer than any request takes.
const LEFT_AFTER: TimeDelta = TimeDelta::minutes(2);

/// How many are settled in one look.
const BATCH: i64 = 100;

/// Writes the mail of an invitation that is open, if it is not written, and erases the address of one that is not.
///
/// # Errors
/// 503 when the log or the database is away; [`keep`] tries again.
pub async fn settle(
    commands: &Commands,
    identity: &Identity,
    workspace: WorkspaceId,
    id: InvitationId,
    now: DateTime<Utc>,
) -> Result<(), Problem> {
    let loaded = commands.load::<Workspace>(workspace).await?;
    let active = loaded.state.active().ok();
    let open = active.and_then(|is| is.invitations.get(&id).map(|open| (is, open)));
    let Some((is, open)) = open.filter(|(_, open)| open.is_good(now)) else {
        return identity.erase_invitation(id).await;
    };
    let people = identity.people(&[open.invited_by]).await?;
    let inviter = people.first().map_or("A member", |person| person.full_name.as_str());
    let letter = Letter { workspace: &is.name, inviter, role: open.role.as_str() };
    identity.mail_invitation(id, open.expires_at, letter, now).await
}

/// The same for whoever has an answer to give: what fails now is settled later.
pub async fn settle_or_leave(state: &AppState, workspace: WorkspaceId, id: InvitationId) {
    let (commands, identity) = (&state.commands, &state.identity);
    if let Err(problem) = settle(commands, identity, workspace, id, state.clock.now()).await {
        tracing::warn!(invitation = %id, %problem, "an invitation is settled later");
    }
}

/// Settles the invitations that events on members closed.
pub async fn settle_closed(state: &AppState, workspace: WorkspaceId, events: &[WorkspaceEvent]) {
    for event in events {
        if let WorkspaceEvent::InvitationRevoked(revoked) = event {
            settle_or_leave(state, workspace, revoked.invitation_id).await;
        }
    }
}

/// Settles what was left, until it is stopped. Several processes may do so: a repeat changes nothing.
pub async fn keep(commands: Commands, identity: Identity, clock: Clock, stop: CancellationToken) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let looked = settle_left(&commands, &identity, clock.now());
        if let Some(Err(problem)) = stop.run_until_cancelled(looked).await {
            tracing::warn!(%problem, "invitations that were left cannot be settled now");
        }
    }
}

/// Settles what was left some time before a moment.
///
/// # Errors
/// 503 when the log or the database is away.
pub async fn settle_left(
    commands: &Commands,
    identity: &Identity,
    now: DateTime<Utc>,
) -> Result<(), Problem> {
    for left in identity.unsettled_invitations(now - LEFT_AFTER, BATCH).await? {
        // One that can't be settled must not hold up the others.
        if let Err(problem) = settle(commands, identity, left.workspace_id, left.id, now).await {
            tracing::warn!(invitation = %left.id, %problem, "an invitation cannot be settled now");
        }
    }
    Ok(())
}
