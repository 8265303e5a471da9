//! Who belongs to a workspace: letting in, changing, handing over, taking out.

use super::{
    ActiveWorkspace, AddMember, ChangeMemberRole, MemberAdded, MemberRemoved, MemberRoleChanged,
    RemoveMember, TransferOwnership, WorkspaceEvent, WorkspaceRejection,
};
use crate::{id::UserId, limits, permission::Role};

impl ActiveWorkspace {
    /// A member with that very role leads to nothing.
    pub(super) fn add_member(
        &self,
        command: &AddMember,
    ) -> Result<Vec<WorkspaceEvent>, WorkspaceRejection> {
        self.check_manages(command.by, command.role)?;
        match self.members.get(&command.user_id) {
            Some(role) if *role == command.role => return Ok(vec![]),
            Some(_) => return Err(WorkspaceRejection::AlreadyAMember),
            None => {}
        }
        if self.personal {
            return Err(WorkspaceRejection::PersonalWorkspace);
        }
        if self.members.len() >= limits::MAX_MEMBERS {
            return Err(WorkspaceRejection::TooManyMembers);
        }
        Ok(vec![MemberAdded { user_id: command.user_id, role: command.role }.into()])
    }

    /// The role that a member already has leads to nothing. Invitations close that the member could not send with the new one.
    pub(super) fn change_role(
        &self,
        command: &ChangeMemberRole,
    ) -> Result<Vec<WorkspaceEvent>, WorkspaceRejection> {
        let role = self.role(command.user_id)?;
        self.check_manages(command.by, role.min(command.role))?;
        if role == command.role {
            return Ok(vec![]);
        }
        if self.personal {
            return Err(WorkspaceRejection::PersonalWorkspace);
        }
        if command.role == Role::Owner && self.is_service(command.user_id) {
            return Err(WorkspaceRejection::ServiceAccountOwner);
        }
        self.check_owner_remains(command.user_id)?;
        let mut events =
            vec![MemberRoleChanged { user_id: command.user_id, role: command.role }.into()];
        events.extend(self.close_invitations_of(command.user_id, Some(command.role)));
        Ok(events)
    }

    /// Both become what they are to be in one append, so that there is no moment without an owner. To hand it to another owner is to
    /// step back.
    pub(super) fn transfer(
        &self,
        command: &TransferOwnership,
    ) -> Result<Vec<WorkspaceEvent>, WorkspaceRejection> {
        if self.role(command.by)? != Role::Owner {
            return Err(WorkspaceRejection::NotAnOwner);
        }
        if command.by == command.to {
            return Err(WorkspaceRejection::TransferToSelf);
        }
        if self.personal {
            return Err(WorkspaceRejection::PersonalWorkspace);
        }
        if self.is_service(command.to) {
            return Err(WorkspaceRejection::ServiceAccountOwner);
        }
        let mut events = Vec::new();
        if self.role(command.to)? != Role::Owner {
            events.push(MemberRoleChanged { user_id: command.to, role: Role::Owner }.into());
        }
        let role = Role::Administrator;
        events.push(MemberRoleChanged { user_id: command.by, role }.into());
        events.extend(self.close_invitations_of(command.by, Some(role)));
        Ok(events)
    }

    /// The invitations close with the member who sent them.
    pub(super) fn remove_member(
        &self,
        command: &RemoveMember,
    ) -> Result<Vec<WorkspaceEvent>, WorkspaceRejection> {
        let role = self.role(command.user_id)?;
        if command.by != command.user_id {
            self.check_manages(command.by, role)?;
        }
        if self.personal {
            return Err(WorkspaceRejection::PersonalWorkspace);
        }
        self.check_owner_remains(command.user_id)?;
        let mut events = vec![MemberRemoved { user_id: command.user_id }.into()];
        events.extend(self.close_invitations_of(command.user_id, None));
        Ok(events)
    }

    pub(super) fn role(&self, user: UserId) -> Result<Role, WorkspaceRejection> {
        self.members.get(&user).copied().ok_or(WorkspaceRejection::NotAMember)
    }

    /// Whether somebody may act on a member who has, or is to have, this role.
    pub(super) fn check_manages(&self, by: UserId, role: Role) -> Result<(), WorkspaceRejection> {
        may_manage(self.role(by)?, role)
    }

    /// Whether there is still an owner when this member no longer is one.
    fn check_owner_remains(&self, user: UserId) -> Result<(), WorkspaceRejection> {
        let another = self.members.iter().any(|(id, role)| *id != user && *role == Role::Owner);
        if another || self.members.get(&user) != Some(&Role::Owner) {
            Ok(())
        } else {
            Err(WorkspaceRejection::LastOwner)
        }
    }
}

/// Whether a member with one role may act on a member who has, or is to have, another.
pub(super) fn may_manage(role: Role, other: Role) -> Result<(), WorkspaceRejection> {
    match (role, other) {
        (Role::Owner, _)
        | (Role::Administrator, Role::Administrator | Role::Editor | Role::Viewer) => Ok(()),
        (Role::Administrator, Role::Owner) => Err(WorkspaceRejection::OwnerIsAboveAdministrator),
        (Role::Editor | Role::Viewer, _) => Err(WorkspaceRejection::MayNotManageMembers),
    }
}
