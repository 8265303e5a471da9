//! A workspace: who belongs to it and with which role.

use serde::{Deserialize, Serialize};

use crate::{event::events, id::UserId, permission::Role};

events! {
    /// What happened to a workspace.
    WorkspaceEvent in "workspace" {
        "workspace_created" 1 => WorkspaceCreated,
        "workspace_renamed" 1 => WorkspaceRenamed,
        "member_added" 1 => MemberAdded,
        "member_role_changed" 1 => MemberRoleChanged,
        "member_removed" 1 => MemberRemoved,
    }
}

/// A workspace came to be; the owner is its first member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceCreated {
    /// Its name, 1 to 255 characters.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Its first owner.
    pub owner: UserId,
    /// Whether it is the personal workspace of its owner, which can't be left or shared away.
    pub personal: bool,
}

/// It was given another name or description.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceRenamed {
    /// The name from now on.
    pub name: String,
    /// The description from now on.
    pub description: String,
}

/// A person became a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberAdded {
    /// Who.
    pub user_id: UserId,
    /// With which role.
    pub role: Role,
}

/// A member has another role from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRoleChanged {
    /// Who.
    pub user_id: UserId,
    /// The role from now on.
    pub role: Role,
}

/// A person is no longer a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRemoved {
    /// Who.
    pub user_id: UserId,
}
