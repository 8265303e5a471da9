//! Asking people in: an invitation is open until it is accepted, taken back, or its time is over.
//!
//! The state knows an invitation by its id, which follows from the address under a key of the deployment; the address itself is in an
//! erasable table. Whoever accepts has shown that the invitation is theirs before the command is given.

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::{
    AcceptInvitation, ActiveWorkspace, ChangeInvitation, ExpireInvitation, InvitationAccepted,
    InvitationExpired, InvitationRenewed, InvitationRevoked, InvitationSent, Invite, MemberAdded,
    RevokeReason, WorkspaceEvent, WorkspaceRejection, members::may_manage,
};
use crate::{
    id::{InvitationId, UserId},
    limits,
    permission::Role,
};

/// How long an invitation is good.
pub const INVITATION_TTL: TimeDelta = TimeDelta::days(7);

/// An invitation that can be accepted, unless its time is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// The role that it offers.
    pub role: Role,
    /// The member who sent it last.
    pub invited_by: UserId,
    /// Until when it is good.
    pub expires_at: DateTime<Utc>,
}

impl Invitation {
    /// Whether it can be accepted at a time.
    #[must_use]
    pub fn is_good(&self, now: DateTime<Utc>) -> bool {
        now < self.expires_at
    }
}

impl ActiveWorkspace {
    /// One that is open is sent once more.
    pub(super) fn invite(
        &self,
        command: &Invite,
        now: DateTime<Utc>,
    ) -> Result<Vec<WorkspaceEvent>, WorkspaceRejection> {
        self.check_manages(command.by, command.role)?;
        if self.personal {
            return Err(WorkspaceRejection::PersonalWorkspace);
        }
        if command.invitee.is_some_and(|invitee| self.members.contains_key(&invitee)) {
            return Err(WorkspaceRejection::AlreadyAMember);
        }
        let Invite { by, invitation_id, role, .. } = *command;
        if let Some(open) = self.invitations.get(&invitation_id) {
            self.check_manages(by, open.role)?;
            return Ok(vec![renewed(invitation_id, role, by, now)]);
        }
        if self.invitations.len() >= limits::MAX_INVITATIONS {
            return Err(WorkspaceRejection::TooManyInvitations);
        }
        let sent = InvitationSent { invitation_id, role, invited_by: by, expires_at: expiry(now) };
        Ok(vec![sent.into()])
    }

    pub(super) fn renew_invitation(
        &self,
        command: &ChangeInvitation,
        now: DateTime<Utc>,
    ) -> Result<Vec<WorkspaceEvent>, WorkspaceRejection> {
        let role = self.changeable(command)?;
        Ok(vec![renewed(command.invitation_id, role, command.by, now)])
    }

    pub(super) fn revoke_invitation(
        &self,
        command: &ChangeInvitation,
    ) -> Result<Vec<WorkspaceEvent>, WorkspaceRejection> {
        self.changeable(command)?;
        let ChangeInvitation { invitation_id, .. } = *command;
        Ok(vec![InvitationRevoked { invitation_id, reason: RevokeReason::Withdrawn }.into()])
    }

    pub(super) fn accept_invitation(
        &self,
        command: &AcceptInvitation,
        now: DateTime<Utc>,
    ) -> Result<Vec<WorkspaceEvent>, WorkspaceRejection> {
        let AcceptInvitation { invitation_id, user_id } = *command;
        let open = self.open_invitation(invitation_id)?;
        if !open.is_good(now) {
            return Err(WorkspaceRejection::InvitationExpired);
        }
        if self.members.contains_key(&user_id) {
            return Err(WorkspaceRejection::AlreadyAMember);
        }
        if self.members.len() >= limits::MAX_MEMBERS {
            return Err(WorkspaceRejection::TooManyMembers);
        }
        let role = open.role;
        Ok(vec![
            InvitationAccepted { invitation_id, user_id }.into(),
            MemberAdded { user_id, role }.into(),
        ])
    }

    /// One that was accepted, taken back or renewed in the meantime leads to nothing.
    pub(super) fn expire_invitation(&self, command: &ExpireInvitation) -> Vec<WorkspaceEvent> {
        let ExpireInvitation { invitation_id, expires_at } = *command;
        match self.invitations.get(&invitation_id) {
            Some(open) if open.expires_at == expires_at => {
                vec![InvitationExpired { invitation_id }.into()]
            }
            Some(_) | None => vec![],
        }
    }

    /// What becomes of the invitations of a member who has another role from now on, or none.
    pub(super) fn close_invitations_of(
        &self,
        member: UserId,
        role: Option<Role>,
    ) -> impl Iterator<Item = WorkspaceEvent> {
        let may_send =
            move |open: &Invitation| role.is_some_and(|role| may_manage(role, open.role).is_ok());
        let theirs = self.invitations.iter().filter(move |(_, open)| open.invited_by == member);
        theirs.filter(move |(_, open)| !may_send(open)).map(|(id, _)| {
            let reason = RevokeReason::InviterLostRole;
            InvitationRevoked { invitation_id: *id, reason }.into()
        })
    }

    fn open_invitation(&self, id: InvitationId) -> Result<&Invitation, WorkspaceRejection> {
        self.invitations.get(&id).ok_or(WorkspaceRejection::InvitationNotFound)
    }

    /// The role of an open invitation that somebody may change.
    fn changeable(&self, command: &ChangeInvitation) -> Result<Role, WorkspaceRejection> {
        let role = self.open_invitation(command.invitation_id)?.role;
        self.check_manages(command.by, role)?;
        Ok(role)
    }
}

fn renewed(
    invitation_id: InvitationId,
    role: Role,
    invited_by: UserId,
    now: DateTime<Utc>,
) -> WorkspaceEvent {
    InvitationRenewed { invitation_id, role, invited_by, expires_at: expiry(now) }.into()
}

/// As exact as tables keep it, so that a time that was stored is the same time when it comes back.
fn expiry(now: DateTime<Utc>) -> DateTime<Utc> {
    (now + INVITATION_TTL).trunc_subsecs(6)
}
