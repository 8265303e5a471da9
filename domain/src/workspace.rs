//! A workspace: who belongs to it and with which role.
//!
//! Its members are its state, so "may this person do that" is answered from the stream itself ([`Workspace::role_of`]) and a removal
//! takes effect on the next command. Who may give a command at all is the role matrix of [`crate::permission`]; what is decided here
//! are the rules that hold whoever gives it.

mod command;
mod decide;
mod deletion;
mod events;
mod invitations;
mod members;
mod service_account;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    Aggregate,
    event::{corrupt, events},
    id::{InvitationId, UserId},
    permission::Role,
};

pub use self::{
    command::*,
    deletion::DELETION_GRACE,
    events::*,
    invitations::{INVITATION_TTL, Invitation},
    service_account::*,
};

events! {
    /// What happened to a workspace.
    WorkspaceEvent in "workspace" {
        "workspace_created" 1 => WorkspaceCreated,
        "workspace_renamed" 1 => WorkspaceRenamed,
        "concurrency_changed" 1 => ConcurrencyChanged,
        "dispatch_paused" 1 => DispatchPaused,
        "dispatch_resumed" 1 => DispatchResumed,
        "member_added" 1 => MemberAdded,
        "member_role_changed" 1 => MemberRoleChanged,
        "member_removed" 1 => MemberRemoved,
        "invitation_sent" 1 => InvitationSent,
        "invitation_renewed" 1 => InvitationRenewed,
        "invitation_revoked" 1 => InvitationRevoked,
        "invitation_accepted" 1 => InvitationAccepted,
        "invitation_expired" 1 => InvitationExpired,
        "workspace_deletion_requested" 1 => WorkspaceDeletionRequested,
        "workspace_restored" 1 => WorkspaceRestored,
        "workspace_deleted" 1 => WorkspaceDeleted,
        "service_account_added" 1 => ServiceAccountAdded,
        "service_account_disabled" 1 => ServiceAccountDisabled,
        "service_account_enabled" 1 => ServiceAccountEnabled,
    }
}

/// The fold of a workspace's stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Workspace {
    /// Nothing happened yet.
    #[default]
    Absent,
    /// It exists.
    Active(ActiveWorkspace),
    /// Its deletion was asked for.
    Deleting {
        /// What it was then.
        workspace: ActiveWorkspace,
        /// Until when that can be taken back.
        ends_at: DateTime<Utc>,
    },
    /// It was deleted.
    Deleted,
}

/// A workspace that exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveWorkspace {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Whether it is the personal workspace of its owner.
    pub personal: bool,
    /// Everybody who belongs to it.
    pub members: BTreeMap<UserId, Role>,
    /// Those of them that are service accounts.
    pub service_accounts: BTreeMap<UserId, Standing>,
    /// How many of its executions may run at once; none for what the deployment gives every workspace.
    pub max_concurrency: Option<u32>,
    /// Whether dispatch is paused in it.
    pub dispatch_paused: bool,
    /// The invitations that are open.
    pub invitations: BTreeMap<InvitationId, Invitation>,
}

impl Workspace {
    /// The role in which a person or service account may act; none when they are no member, the account is disabled, or the
    /// workspace does not exist.
    #[must_use]
    pub fn role_of(&self, user: UserId) -> Option<Role> {
        let workspace = self.content()?;
        workspace.members.get(&user).copied().filter(|_| workspace.is_enabled(user))
    }

    /// The workspace, where it can be changed and takes in work.
    ///
    /// # Errors
    /// [`WorkspaceRejection::BeingDeleted`] where its deletion was asked for, [`WorkspaceRejection::NotFound`] where there is none.
    pub fn active(&self) -> Result<&ActiveWorkspace, WorkspaceRejection> {
        match self {
            Self::Absent | Self::Deleted => Err(WorkspaceRejection::NotFound),
            Self::Active(workspace) => Ok(workspace),
            Self::Deleting { .. } => Err(WorkspaceRejection::BeingDeleted),
        }
    }
}

impl Aggregate for Workspace {
    type Command = WorkspaceCommand;
    type Event = WorkspaceEvent;
    type Rejection = WorkspaceRejection;

    fn decide(
        &self,
        command: &WorkspaceCommand,
        now: DateTime<Utc>,
    ) -> Result<Vec<WorkspaceEvent>, WorkspaceRejection> {
        match command {
            WorkspaceCommand::Create(command) => self.create(command),
            WorkspaceCommand::Rename(command) => self.active()?.rename(command),
            WorkspaceCommand::Configure { name, max_concurrency } => {
                let workspace = self.active()?;
                let mut events = workspace.rename(name)?;
                events.extend(workspace.limit_concurrency(*max_concurrency)?);
                Ok(events)
            }
            WorkspaceCommand::PauseDispatch { reason } => {
                self.active()?.pause_dispatch(reason.as_deref())
            }
            WorkspaceCommand::ResumeDispatch => Ok(self.active()?.resume_dispatch()),
            WorkspaceCommand::AddMember(command) => self.active()?.add_member(command),
            WorkspaceCommand::ChangeMemberRole(command) => self.active()?.change_role(command),
            WorkspaceCommand::RemoveMember(command) => self.active()?.remove_member(command),
            WorkspaceCommand::TransferOwnership(command) => self.active()?.transfer(command),
            WorkspaceCommand::Invite(command) => self.active()?.invite(command, now),
            WorkspaceCommand::RenewInvitation(command) => {
                self.active()?.renew_invitation(command, now)
            }
            WorkspaceCommand::RevokeInvitation(command) => {
                self.active()?.revoke_invitation(command)
            }
            WorkspaceCommand::AcceptInvitation(command) => {
                self.active()?.accept_invitation(command, now)
            }
            WorkspaceCommand::ExpireInvitation(command) => {
                Ok(self.active()?.expire_invitation(command))
            }
            WorkspaceCommand::Delete => self.delete(now),
            WorkspaceCommand::Restore => self.restore(),
            WorkspaceCommand::EndGrace(command) => Ok(self.end_grace(command)),
            WorkspaceCommand::AddServiceAccount(command) => {
                self.active()?.add_service_account(command)
            }
            WorkspaceCommand::SetStanding(command) => self.active()?.set_standing(command),
        }
    }

    fn evolve(self, event: &WorkspaceEvent) -> Self {
        match (self, event) {
            (Self::Absent, WorkspaceEvent::WorkspaceCreated(event)) => {
                Self::Active(ActiveWorkspace {
                    name: event.name.clone(),
                    description: event.description.clone(),
                    personal: event.personal,
                    members: BTreeMap::from([(event.owner, Role::Owner)]),
                    service_accounts: BTreeMap::new(),
                    max_concurrency: None,
                    dispatch_paused: false,
                    invitations: BTreeMap::new(),
                })
            }
            (
                Self::Active(workspace),
                WorkspaceEvent::WorkspaceDeletionRequested(WorkspaceDeletionRequested { ends_at }),
            ) => Self::Deleting { workspace, ends_at: *ends_at },
            (Self::Deleting { workspace, .. }, WorkspaceEvent::WorkspaceRestored(_)) => {
                Self::Active(workspace)
            }
            (Self::Deleting { .. }, WorkspaceEvent::WorkspaceDeleted(_)) => Self::Deleted,
            (Self::Active(workspace), event) => Self::Active(workspace.after(event)),
            // The invitations that close with the request come after it.
            (
                Self::Deleting { workspace, ends_at },
                event @ WorkspaceEvent::InvitationRevoked(_),
            ) => Self::Deleting { workspace: workspace.after(event), ends_at },
            (Self::Deleting { .. }, event) => corrupt!("the workspace is being deleted", event),
            (Self::Absent, event) => corrupt!("the workspace was not created", event),
            (Self::Deleted, event) => corrupt!("the workspace was deleted", event),
        }
    }

    const SNAPSHOT: &'static str = "workspace/5";

    fn weight(&self) -> usize {
        self.content().map_or(0, |workspace| {
            let text = workspace.name.len() + workspace.description.len();
            text + workspace.members.len() * 48 + workspace.invitations.len() * 96
        })
    }
}

impl ActiveWorkspace {
    /// The workspace after an event that neither begins nor ends it.
    fn after(mut self, event: &WorkspaceEvent) -> Self {
        match event {
            WorkspaceEvent::WorkspaceRenamed(event) => {
                self.name.clone_from(&event.name);
                self.description.clone_from(&event.description);
            }
            WorkspaceEvent::ConcurrencyChanged(event) => self.max_concurrency = event.limit,
            WorkspaceEvent::DispatchPaused(_) => self.dispatch_paused = true,
            WorkspaceEvent::DispatchResumed(_) => self.dispatch_paused = false,
            WorkspaceEvent::MemberAdded(event) => {
                self.members.insert(event.user_id, event.role);
            }
            WorkspaceEvent::MemberRoleChanged(event) => {
                self.members.insert(event.user_id, event.role);
            }
            WorkspaceEvent::MemberRemoved(event) => {
                self.members.remove(&event.user_id);
                self.service_accounts.remove(&event.user_id);
            }
            WorkspaceEvent::ServiceAccountAdded(event) => {
                self.members.insert(event.account_id, event.role);
                self.service_accounts.insert(event.account_id, Standing::Enabled);
            }
            WorkspaceEvent::ServiceAccountDisabled(event) => {
                self.service_accounts.insert(event.account_id, Standing::Disabled);
            }
            WorkspaceEvent::ServiceAccountEnabled(event) => {
                self.service_accounts.insert(event.account_id, Standing::Enabled);
            }
            WorkspaceEvent::InvitationSent(event) => {
                let InvitationSent { invitation_id, role, invited_by, expires_at } = *event;
                self.invitations.insert(invitation_id, Invitation { role, invited_by, expires_at });
            }
            WorkspaceEvent::InvitationRenewed(event) => {
                let InvitationRenewed { invitation_id, role, invited_by, expires_at } = *event;
                self.invitations.insert(invitation_id, Invitation { role, invited_by, expires_at });
            }
            WorkspaceEvent::InvitationRevoked(event) => {
                self.invitations.remove(&event.invitation_id);
            }
            WorkspaceEvent::InvitationAccepted(event) => {
                self.invitations.remove(&event.invitation_id);
            }
            WorkspaceEvent::InvitationExpired(event) => {
                self.invitations.remove(&event.invitation_id);
            }
            WorkspaceEvent::WorkspaceCreated(_) => corrupt!("created twice", event),
            WorkspaceEvent::WorkspaceDeletionRequested(_)
            | WorkspaceEvent::WorkspaceRestored(_)
            | WorkspaceEvent::WorkspaceDeleted(_) => corrupt!("it is not being deleted", event),
        }
        self
    }
}

#[cfg(test)]
mod tests;
