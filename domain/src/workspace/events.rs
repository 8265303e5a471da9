//! The events of a workspace.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    id::{InvitationId, UserId},
    permission::Role,
};

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

/// Another number of its executions may run at once. It holds for those that are requested from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConcurrencyChanged {
    /// How many; none for what the deployment gives every workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// None of its executions is handed to a worker from now on. Those that workers have go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DispatchPaused {
    /// Why, in the words of whoever paused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Its executions are handed to workers again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DispatchResumed {}

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

/// Its deletion was asked for. Nothing is taken in or changed from now on, and what runs is cancelled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceDeletionRequested {
    /// Until when that can be taken back.
    pub ends_at: DateTime<Utc>,
}

/// Its deletion was taken back: everything is as it was, but for what was cancelled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceRestored {}

/// Nobody took its deletion back in time. Nobody belongs to it from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceDeleted {}

/// Somebody was asked to become a member, by a mail to an address that the log does not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvitationSent {
    /// Which invitation: one for each address and workspace.
    pub invitation_id: InvitationId,
    /// The role that it offers.
    pub role: Role,
    /// The member who asked, and who must be able to give this role until it is accepted.
    pub invited_by: UserId,
    /// Until when it is good.
    pub expires_at: DateTime<Utc>,
}

/// An open invitation was sent once more, maybe for another role. The mail before it is good no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvitationRenewed {
    /// Which.
    pub invitation_id: InvitationId,
    /// The role that it offers from now on.
    pub role: Role,
    /// The member who asked, from now on.
    pub invited_by: UserId,
    /// Until when it is good now.
    pub expires_at: DateTime<Utc>,
}

/// An open invitation is good no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvitationRevoked {
    /// Which.
    pub invitation_id: InvitationId,
    /// Why.
    pub reason: RevokeReason,
}

/// Why an invitation is good no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevokeReason {
    /// A member took it back.
    Withdrawn,
    /// Whoever sent it left, or may no longer give its role: nobody keeps a way in that they could not open now.
    InviterLostRole,
    /// The workspace is being deleted.
    WorkspaceDeleted,
}

/// Somebody came in by an invitation. They are a member by the `member_added` that follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvitationAccepted {
    /// Which.
    pub invitation_id: InvitationId,
    /// Who.
    pub user_id: UserId,
}

/// Nobody accepted an invitation in its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvitationExpired {
    /// Which.
    pub invitation_id: InvitationId,
}
