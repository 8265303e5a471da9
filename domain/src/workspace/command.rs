//! What a workspace is told, and the rules that refuse it.

use chrono::{DateTime, Utc};

use super::{AddServiceAccount, SetStanding};
use crate::{
    id::{InvitationId, UserId},
    limits,
    permission::Role,
};

/// What a workspace is told to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkspaceCommand {
    /// Make it.
    Create(CreateWorkspace),
    /// Name or describe it otherwise.
    Rename(RenameWorkspace),
    /// Name or describe it otherwise, and let another number of its executions run at once.
    Configure {
        /// Its name and description.
        name: RenameWorkspace,
        /// How many; none for what the deployment gives every workspace.
        max_concurrency: Option<u32>,
    },
    /// Hand none of its executions to a worker.
    PauseDispatch {
        /// Why, for others to read.
        reason: Option<String>,
    },
    /// Hand its executions to workers again.
    ResumeDispatch,
    /// Let a person in.
    AddMember(AddMember),
    /// Give a member another role.
    ChangeMemberRole(ChangeMemberRole),
    /// Take a member out, also on the member's own wish.
    RemoveMember(RemoveMember),
    /// Make another member an owner in place of the one who says so.
    TransferOwnership(TransferOwnership),
    /// Ask somebody to become a member.
    Invite(Invite),
    /// Send an open invitation once more.
    RenewInvitation(ChangeInvitation),
    /// Take an open invitation back.
    RevokeInvitation(ChangeInvitation),
    /// Come in by an invitation.
    AcceptInvitation(AcceptInvitation),
    /// Its time is over.
    ExpireInvitation(ExpireInvitation),
    /// Delete it, once its grace is over.
    Delete,
    /// Take its deletion back.
    Restore,
    /// Its grace is over.
    EndGrace(EndGrace),
    /// Let a service account in.
    AddServiceAccount(AddServiceAccount),
    /// Turn a service account off or on.
    SetStanding(SetStanding),
}

/// Makes a workspace with its first owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateWorkspace {
    /// 1 to 255 characters.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Its first owner.
    pub owner: UserId,
    /// Whether it is the owner's personal one.
    pub personal: bool,
}

/// Names or describes it otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenameWorkspace {
    /// 1 to 255 characters.
    pub name: String,
    /// What it is for.
    pub description: String,
}

/// Lets a person in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddMember {
    /// Who does it; must be a member whose role is not below the given one.
    pub by: UserId,
    /// Who comes in.
    pub user_id: UserId,
    /// With which role.
    pub role: Role,
}

/// Gives a member another role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeMemberRole {
    /// Who does it.
    pub by: UserId,
    /// Whose role.
    pub user_id: UserId,
    /// The role from now on.
    pub role: Role,
}

/// Takes a member out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoveMember {
    /// Who does it; a member may always take themselves out, as far as the other rules allow.
    pub by: UserId,
    /// Who goes.
    pub user_id: UserId,
}

/// Makes another member an owner; whoever hands it over is an administrator from then on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferOwnership {
    /// The owner who hands it over.
    pub by: UserId,
    /// The member who takes it.
    pub to: UserId,
}

/// Asks somebody to become a member. To ask an address anew that was asked before sends the same invitation once more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invite {
    /// Who asks; must be a member whose role is not below the given one.
    pub by: UserId,
    /// The invitation: it follows from the workspace and the address.
    pub invitation_id: InvitationId,
    /// The person who has the address already, where somebody does.
    pub invitee: Option<UserId>,
    /// The role that is offered.
    pub role: Role,
}

/// Does something with an open invitation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeInvitation {
    /// Who does it; must be a member who could send the same invitation.
    pub by: UserId,
    /// Which invitation.
    pub invitation_id: InvitationId,
}

/// Comes in by an invitation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptInvitation {
    /// Which. That it is this person's was shown by whoever gives the command.
    pub invitation_id: InvitationId,
    /// Who comes in.
    pub user_id: UserId,
}

/// Ends an invitation whose time is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpireInvitation {
    /// Which.
    pub invitation_id: InvitationId,
    /// The time that was waited for: an invitation that was renewed since has another one and stays.
    pub expires_at: DateTime<Utc>,
}

/// Ends a workspace whose grace is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndGrace {
    /// The time that was waited for: a deletion that was taken back and asked for anew has another one.
    pub ends_at: DateTime<Utc>,
}

/// Which rule refuses a command on a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkspaceRejection {
    /// There is none with this id.
    #[error("the workspace does not exist")]
    NotFound,
    /// Its deletion was asked for, and nothing but taking that back is possible.
    #[error("the workspace is being deleted; an owner may restore it until its grace is over")]
    BeingDeleted,
    /// One with this id exists and is another one.
    #[error("the workspace already exists")]
    AlreadyExists,
    /// A name has 1 to 255 characters that are not all white space.
    #[error("the name of a workspace has 1 to {} characters", limits::MAX_NAME_CHARS)]
    NameInvalid,
    /// The description is too long.
    #[error(
        "the description of a workspace has at most {} characters",
        limits::MAX_DESCRIPTION_CHARS
    )]
    DescriptionTooLong,
    /// A limit of concurrency is out of range.
    #[error("a workspace may run 1 to {} executions at once", limits::MAX_CONCURRENCY)]
    ConcurrencyOutOfRange,
    /// A reason is too long.
    #[error("a reason has at most {} characters", limits::MAX_REASON_CHARS)]
    ReasonTooLong,
    /// Somebody who is not a member was named.
    #[error("this person is not a member of the workspace")]
    NotAMember,
    /// The person is a member already.
    #[error("this person is already a member of the workspace")]
    AlreadyAMember,
    /// The one who gave the command may not manage members.
    #[error("only an owner or an administrator manages the members of a workspace")]
    MayNotManageMembers,
    /// An administrator tried to make, change or remove an owner.
    #[error("an administrator cannot make, change or remove an owner")]
    OwnerIsAboveAdministrator,
    /// A workspace always has an owner.
    #[error("the last owner of a workspace cannot leave it or get another role")]
    LastOwner,
    /// A personal workspace has one member for ever.
    #[error("a personal workspace belongs to one person: it cannot be shared, left or deleted")]
    PersonalWorkspace,
    /// There are too many members.
    #[error("a workspace has at most {} members", limits::MAX_MEMBERS)]
    TooManyMembers,
    /// A service account cannot sign in, so it cannot answer for a workspace.
    #[error("a service account cannot be an owner")]
    ServiceAccountOwner,
    /// What was named is no service account of it.
    #[error("this is no service account of the workspace")]
    NotAServiceAccount,
    /// There are too many service accounts.
    #[error("a workspace has at most {} service accounts", limits::MAX_SERVICE_ACCOUNTS)]
    TooManyServiceAccounts,
    /// There is no such open invitation.
    #[error("the invitation is not open")]
    InvitationNotFound,
    /// Its time is over.
    #[error("the invitation has expired; ask for another one")]
    InvitationExpired,
    /// There are too many open ones.
    #[error("a workspace has at most {} open invitations", limits::MAX_INVITATIONS)]
    TooManyInvitations,
    /// Somebody wants to hand over what is not theirs.
    #[error("only an owner hands a workspace over")]
    NotAnOwner,
    /// To whom it belongs already.
    #[error("an owner cannot hand the workspace over to themselves")]
    TransferToSelf,
}

impl WorkspaceRejection {
    /// The rule's stable name, for programs.
    #[must_use]
    pub const fn rule(self) -> &'static str {
        match self {
            Self::NotFound => "workspace_not_found",
            Self::BeingDeleted => "workspace_being_deleted",
            Self::AlreadyExists => "workspace_already_exists",
            Self::NameInvalid => "name_invalid",
            Self::DescriptionTooLong => "description_too_long",
            Self::ConcurrencyOutOfRange => "concurrency_out_of_range",
            Self::ReasonTooLong => "reason_too_long",
            Self::NotAMember => "not_a_member",
            Self::AlreadyAMember => "already_a_member",
            Self::MayNotManageMembers => "may_not_manage_members",
            Self::OwnerIsAboveAdministrator => "owner_is_above_administrator",
            Self::LastOwner => "last_owner",
            Self::PersonalWorkspace => "personal_workspace",
            Self::TooManyMembers => "too_many_members",
            Self::ServiceAccountOwner => "service_account_owner",
            Self::NotAServiceAccount => "not_a_service_account",
            Self::TooManyServiceAccounts => "too_many_service_accounts",
            Self::InvitationNotFound => "invitation_not_found",
            Self::InvitationExpired => "invitation_expired",
            Self::TooManyInvitations => "too_many_invitations",
            Self::NotAnOwner => "not_an_owner",
            Self::TransferToSelf => "transfer_to_self",
        }
    }
}
