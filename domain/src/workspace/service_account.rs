//! Service accounts: members of a workspace that are programs, not persons.
//!
//! A service account has a role like everybody and acts by keys alone. It is never an owner, because somebody who can sign in must be
//! able to hand the workspace on. While it is disabled it has no role, so nothing that it was allowed still is; its place among the
//! members stays, for when it is enabled again. Taking it out is [`super::RemoveMember`], another role is [`super::ChangeMemberRole`].

use serde::{Deserialize, Serialize};

use super::{ActiveWorkspace, WorkspaceEvent, WorkspaceRejection};
use crate::{id::UserId, limits, permission::Role};

/// A service account became a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceAccountAdded {
    /// Which. What it is called is kept beside the log.
    pub account_id: UserId,
    /// With which role.
    pub role: Role,
}

/// A service account may do nothing from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceAccountDisabled {
    /// Which.
    pub account_id: UserId,
}

/// A service account may do again what its role allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceAccountEnabled {
    /// Which.
    pub account_id: UserId,
}

/// Whether a service account may act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It does what its role allows.
    Enabled,
    /// It has no role for now.
    Disabled,
}

/// Lets a service account in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddServiceAccount {
    /// Who does it; must be a member whose role is not below the given one.
    pub by: UserId,
    /// The account.
    pub account_id: UserId,
    /// With which role; not as an owner.
    pub role: Role,
}

/// Turns a service account off or on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetStanding {
    /// Who does it; must be a member whose role is not below the account's.
    pub by: UserId,
    /// The account.
    pub account_id: UserId,
    /// What it is from now on.
    pub standing: Standing,
}

impl ActiveWorkspace {
    /// An account that is in with that very role leads to nothing.
    pub(super) fn add_service_account(
        &self,
        command: &AddServiceAccount,
    ) -> Result<Vec<WorkspaceEvent>, WorkspaceRejection> {
        self.check_manages(command.by, command.role)?;
        if command.role == Role::Owner {
            return Err(WorkspaceRejection::ServiceAccountOwner);
        }
        match self.members.get(&command.account_id) {
            Some(role) if *role == command.role && self.is_service(command.account_id) => {
                return Ok(vec![]);
            }
            Some(_) => return Err(WorkspaceRejection::AlreadyAMember),
            None => {}
        }
        if self.personal {
            return Err(WorkspaceRejection::PersonalWorkspace);
        }
        if self.members.len() >= limits::MAX_MEMBERS {
            return Err(WorkspaceRejection::TooManyMembers);
        }
        if self.service_accounts.len() >= limits::MAX_SERVICE_ACCOUNTS {
            return Err(WorkspaceRejection::TooManyServiceAccounts);
        }
        let added = ServiceAccountAdded { account_id: command.account_id, role: command.role };
        Ok(vec![added.into()])
    }

    /// What it is already leads to nothing. The invitations close that an account sent which may do nothing from now on.
    pub(super) fn set_standing(
        &self,
        command: &SetStanding,
    ) -> Result<Vec<WorkspaceEvent>, WorkspaceRejection> {
        let account_id = command.account_id;
        let standing = self.service_accounts.get(&account_id);
        let standing = *standing.ok_or(WorkspaceRejection::NotAServiceAccount)?;
        self.check_manages(command.by, self.role(account_id)?)?;
        Ok(match (standing, command.standing) {
            (Standing::Enabled, Standing::Disabled) => {
                let mut events = vec![ServiceAccountDisabled { account_id }.into()];
                events.extend(self.close_invitations_of(account_id, None));
                events
            }
            (Standing::Disabled, Standing::Enabled) => {
                vec![ServiceAccountEnabled { account_id }.into()]
            }
            (Standing::Enabled, Standing::Enabled) | (Standing::Disabled, Standing::Disabled) => {
                vec![]
            }
        })
    }

    /// Whether a member is a service account.
    #[must_use]
    pub fn is_service(&self, member: UserId) -> bool {
        self.service_accounts.contains_key(&member)
    }

    /// Whether a member may act at all: everybody but a service account that is disabled.
    #[must_use]
    pub fn is_enabled(&self, member: UserId) -> bool {
        self.service_accounts.get(&member) != Some(&Standing::Disabled)
    }
}

#[cfg(test)]
mod tests;
