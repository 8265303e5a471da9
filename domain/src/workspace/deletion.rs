//! The end of a workspace: asked for, waited for, and final.
//!
//! From the moment it is asked for nothing is taken in any more and nothing is changed; members still look at what is there, and an owner
//! may take it back. When the grace is over nobody belongs to it any more, and so nobody reaches anything of it.

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};

use super::{
    ActiveWorkspace, EndGrace, InvitationRevoked, RevokeReason, Workspace, WorkspaceDeleted,
    WorkspaceDeletionRequested, WorkspaceEvent, WorkspaceRejection, WorkspaceRestored,
};
use crate::limits;

/// How long a deletion can be taken back.
pub const DELETION_GRACE: TimeDelta = TimeDelta::days(limits::DELETION_GRACE_DAYS);

impl Workspace {
    /// One that is being deleted already leads to nothing. The mails of open invitations are good no more at once.
    pub(super) fn delete(
        &self,
        now: DateTime<Utc>,
    ) -> Result<Vec<WorkspaceEvent>, WorkspaceRejection> {
        let workspace = match self {
            Self::Absent | Self::Deleted => return Err(WorkspaceRejection::NotFound),
            Self::Deleting { .. } => return Ok(vec![]),
            Self::Active(workspace) => workspace,
        };
        if workspace.personal {
            return Err(WorkspaceRejection::PersonalWorkspace);
        }
        // As exact as tables keep it, so that a time that was stored is the same time when it comes back.
        let ends_at = (now + DELETION_GRACE).trunc_subsecs(6);
        let mut events = vec![WorkspaceDeletionRequested { ends_at }.into()];
        events.extend(workspace.invitations.keys().map(|id| {
            let reason = RevokeReason::WorkspaceDeleted;
            InvitationRevoked { invitation_id: *id, reason }.into()
        }));
        Ok(events)
    }

    /// One that is not being deleted leads to nothing.
    pub(super) fn restore(&self) -> Result<Vec<WorkspaceEvent>, WorkspaceRejection> {
        match self {
            Self::Absent | Self::Deleted => Err(WorkspaceRejection::NotFound),
            Self::Active(_) => Ok(vec![]),
            Self::Deleting { .. } => Ok(vec![WorkspaceRestored {}.into()]),
        }
    }

    /// A grace that was taken back, or that another one followed, leads to nothing.
    pub(super) fn end_grace(&self, command: &EndGrace) -> Vec<WorkspaceEvent> {
        match self {
            Self::Deleting { ends_at, .. } if *ends_at == command.ends_at => {
                vec![WorkspaceDeleted {}.into()]
            }
            Self::Absent | Self::Active(_) | Self::Deleting { .. } | Self::Deleted => vec![],
        }
    }

    /// What is there to look at: also while it is being deleted, and not after.
    #[must_use]
    pub fn content(&self) -> Option<&ActiveWorkspace> {
        match self {
            Self::Absent | Self::Deleted => None,
            Self::Active(workspace) | Self::Deleting { workspace, .. } => Some(workspace),
        }
    }

    /// Whether its deletion was asked for, or is over: nothing is taken in any more.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        match self {
            Self::Absent | Self::Active(_) => false,
            Self::Deleting { .. } | Self::Deleted => true,
        }
    }

    /// Until when its deletion can be taken back; none where it is not being deleted.
    #[must_use]
    pub fn grace_ends_at(&self) -> Option<DateTime<Utc>> {
        match self {
            Self::Deleting { ends_at, .. } => Some(*ends_at),
            Self::Absent | Self::Active(_) | Self::Deleted => None,
        }
    }
}
