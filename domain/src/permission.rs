//! The role matrix as a function.

use serde::{Deserialize, Serialize};

/// What a member is in a workspace, from the most to the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything, also deleting the workspace.
    Owner,
    /// Everything but deleting and transferring it.
    Administrator,
    /// Builds and runs workflows.
    Editor,
    /// Looks.
    Viewer,
}

/// What a member may be allowed to do, one variant a line of the matrix's actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    /// See workflows, their versions and definitions.
    ViewWorkflow,
    /// See executions, their nodes, log lines and history.
    ViewExecution,
    /// See counts, durations, usage and costs.
    ViewAnalytics,
    /// See the workspace and who belongs to it.
    ViewWorkspace,
    /// Create, copy and import workflows.
    CreateWorkflow,
    /// Save drafts, publish, archive, and turn intake on and off.
    EditWorkflow,
    /// Delete workflows.
    DeleteWorkflow,
    /// Start executions.
    StartExecution,
    /// Cancel, pause, resume, retry and rerun executions.
    ControlExecution,
    /// Answer an approval.
    Approve,
    /// Invite and add members.
    AddMember,
    /// Remove members.
    RemoveMember,
    /// Change the role of members.
    ChangeMemberRole,
    /// Rename the workspace and change its settings.
    EditWorkspace,
    /// Write and delete secrets.
    ManageSecrets,
    /// Delete the workspace.
    DeleteWorkspace,
    /// Hand the workspace to another owner.
    TransferWorkspace,
    /// See who came in, what was refused, used and taken out.
    ViewAudit,
    /// Erase people whom runs hold data about.
    EraseSubject,
}

impl Permission {
    /// Every permission, in the order of the matrix.
    pub const ALL: [Self; 19] = [
        Self::ViewWorkflow,
        Self::ViewExecution,
        Self::ViewAnalytics,
        Self::ViewWorkspace,
        Self::CreateWorkflow,
        Self::EditWorkflow,
        Self::DeleteWorkflow,
        Self::StartExecution,
        Self::ControlExecution,
        Self::Approve,
        Self::AddMember,
        Self::RemoveMember,
        Self::ChangeMemberRole,
        Self::EditWorkspace,
        Self::ManageSecrets,
        Self::DeleteWorkspace,
        Self::TransferWorkspace,
        Self::ViewAudit,
        Self::EraseSubject,
    ];

    /// The least role that has it: whoever has more has it too.
    #[must_use]
    pub const fn least_role(self) -> Role {
        match self {
            Self::ViewWorkflow
            | Self::ViewExecution
            | Self::ViewAnalytics
            | Self::ViewWorkspace => Role::Viewer,
            Self::CreateWorkflow
            | Self::EditWorkflow
            | Self::DeleteWorkflow
            | Self::StartExecution
            | Self::ControlExecution
            | Self::Approve => Role::Editor,
            Self::AddMember
            | Self::RemoveMember
            | Self::ChangeMemberRole
            | Self::EditWorkspace
            | Self::ManageSecrets
            | Self::EraseSubject => Role::Administrator,
            Self::DeleteWorkspace | Self::TransferWorkspace | Self::ViewAudit => Role::Owner,
        }
    }
}

impl Role {
    /// Every role, from the most to the least.
    pub const ALL: [Self; 4] = [Self::Owner, Self::Administrator, Self::Editor, Self::Viewer];

    /// Whether a member with this role may do it.
    #[must_use]
    pub fn may(self, permission: Permission) -> bool {
        // Roles are declared from the most to the least, so "at least as much as" is "not after".
        self <= permission.least_role()
    }

    /// The stored and served word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Administrator => "administrator",
            Self::Editor => "editor",
            Self::Viewer => "viewer",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The matrix as it stands in the contract: owner, administrator, editor, viewer.
    fn row(permission: Permission) -> [bool; 4] {
        match permission {
            Permission::ViewWorkflow
            | Permission::ViewExecution
            | Permission::ViewAnalytics
            | Permission::ViewWorkspace => [true, true, true, true],
            Permission::CreateWorkflow
            | Permission::EditWorkflow
            | Permission::DeleteWorkflow
            | Permission::StartExecution
            | Permission::ControlExecution
            | Permission::Approve => [true, true, true, false],
            Permission::AddMember
            | Permission::RemoveMember
            | Permission::ChangeMemberRole
            | Permission::EditWorkspace
            | Permission::ManageSecrets
            | Permission::EraseSubject => [true, true, false, false],
            Permission::DeleteWorkspace | Permission::TransferWorkspace | Permission::ViewAudit => {
                [true, false, false, false]
            }
        }
    }

    #[test]
    fn every_role_may_exactly_what_the_matrix_says() {
        for permission in Permission::ALL {
            assert_eq!(
                Role::ALL.map(|role| role.may(permission)),
                row(permission),
                "{permission:?}"
            );
        }
    }

    #[test]
    fn all_lists_every_permission_once() {
        let distinct: std::collections::BTreeSet<_> = Permission::ALL.into_iter().collect();
        assert_eq!(distinct.len(), Permission::ALL.len());
    }

    #[test]
    fn the_word_is_the_stored_one() {
        for role in Role::ALL {
            assert_eq!(serde_json::to_value(role).unwrap(), role.as_str());
        }
    }
}
