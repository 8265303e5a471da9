//! A workspace: who belongs to it and with which role.
//!
//! Its members are its state, so "may this person do that" is answered from the stream itself ([`Workspace::role_of`]) and a removal
//! takes effect on the next command. Who may give a command at all is the role matrix of [`crate::permission`]; what is decided here
//! are the rules that hold whoever gives it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    Aggregate,
    event::{corrupt, events},
    id::UserId,
    limits,
    permission::Role,
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

/// The fold of a workspace's stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Workspace {
    /// Nothing happened yet.
    #[default]
    Absent,
    /// It exists.
    Active(ActiveWorkspace),
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
    /// How many of its executions may run at once; none for what the deployment gives every workspace.
    pub max_concurrency: Option<u32>,
    /// Whether dispatch is paused in it.
    pub dispatch_paused: bool,
}

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

/// Which rule refuses a command on a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkspaceRejection {
    /// There is none with this id.
    #[error("the workspace does not exist")]
    NotFound,
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
    /// The person is a member already, with another role.
    #[error("this person is already a member of the workspace, with another role")]
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
    #[error("a personal workspace belongs to one person and cannot be shared or left")]
    PersonalWorkspace,
    /// There are too many members.
    #[error("a workspace has at most {} members", limits::MAX_MEMBERS)]
    TooManyMembers,
}

impl WorkspaceRejection {
    /// The rule's stable name, for programs.
    #[must_use]
    pub const fn rule(self) -> &'static str {
        match self {
            Self::NotFound => "workspace_not_found",
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
        }
    }
}

impl Workspace {
    /// The role of a person; none when they are not a member or the workspace does not exist.
    #[must_use]
    pub fn role_of(&self, user: UserId) -> Option<Role> {
        self.active().ok().and_then(|workspace| workspace.members.get(&user).copied())
    }

    /// The workspace, where it exists.
    ///
    /// # Errors
    /// [`WorkspaceRejection::NotFound`] where it doesn't.
    pub fn active(&self) -> Result<&ActiveWorkspace, WorkspaceRejection> {
        match self {
            Self::Absent => Err(WorkspaceRejection::NotFound),
            Self::Active(workspace) => Ok(workspace),
        }
    }

    /// A repeat of the same creation is already true and leads to nothing.
    fn create(&self, command: &CreateWorkspace) -> Result<Vec<WorkspaceEvent>, WorkspaceRejection> {
        check_name(&command.name, &command.description)?;
        match self {
            Self::Absent => Ok(vec![
                WorkspaceCreated {
                    name: command.name.clone(),
                    description: command.description.clone(),
                    owner: command.owner,
                    personal: command.personal,
                }
                .into(),
            ]),
            // A personal workspace's id follows from its owner, so whoever tries again means the same one.
            Self::Active(workspace)
                if workspace.personal
                    && command.personal
                    && workspace.members.contains_key(&command.owner) =>
            {
                Ok(vec![])
            }
            Self::Active(_) => Err(WorkspaceRejection::AlreadyExists),
        }
    }
}

impl ActiveWorkspace {
    /// A name and description that it already has lead to nothing.
    fn rename(&self, command: &RenameWorkspace) -> Result<Vec<WorkspaceEvent>, WorkspaceRejection> {
        check_name(&command.name, &command.description)?;
        if self.name == command.name && self.description == command.description {
            return Ok(vec![]);
        }
        Ok(vec![
            WorkspaceRenamed {
                name: command.name.clone(),
                description: command.description.clone(),
            }
            .into(),
        ])
    }

    /// The limit that it has leads to nothing.
    fn limit_concurrency(
        &self,
        limit: Option<u32>,
    ) -> Result<Vec<WorkspaceEvent>, WorkspaceRejection> {
        if limit.is_some_and(|limit| !(1..=limits::MAX_CONCURRENCY).contains(&limit)) {
            return Err(WorkspaceRejection::ConcurrencyOutOfRange);
        }
        if self.max_concurrency == limit {
            return Ok(vec![]);
        }
        Ok(vec![ConcurrencyChanged { limit }.into()])
    }

    /// Pausing what is paused leads to nothing.
    fn pause_dispatch(
        &self,
        reason: Option<&str>,
    ) -> Result<Vec<WorkspaceEvent>, WorkspaceRejection> {
        if reason.is_some_and(|reason| reason.chars().count() > limits::MAX_REASON_CHARS) {
            return Err(WorkspaceRejection::ReasonTooLong);
        }
        match self.dispatch_paused {
            true => Ok(vec![]),
            false => Ok(vec![DispatchPaused { reason: reason.map(str::to_owned) }.into()]),
        }
    }

    /// Resuming what is not paused leads to nothing.
    fn resume_dispatch(&self) -> Vec<WorkspaceEvent> {
        match self.dispatch_paused {
            true => vec![DispatchResumed {}.into()],
            false => vec![],
        }
    }

    /// A member with that very role leads to nothing.
    fn add_member(&self, command: &AddMember) -> Result<Vec<WorkspaceEvent>, WorkspaceRejection> {
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

    /// The role that a member already has leads to nothing.
    fn change_role(
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
        self.check_owner_remains(command.user_id)?;
        Ok(vec![MemberRoleChanged { user_id: command.user_id, role: command.role }.into()])
    }

    fn remove_member(
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
        Ok(vec![MemberRemoved { user_id: command.user_id }.into()])
    }

    fn role(&self, user: UserId) -> Result<Role, WorkspaceRejection> {
        self.members.get(&user).copied().ok_or(WorkspaceRejection::NotAMember)
    }

    /// Whether somebody may act on a member who has, or is to have, this role.
    fn check_manages(&self, by: UserId, role: Role) -> Result<(), WorkspaceRejection> {
        match (self.role(by)?, role) {
            (Role::Owner, _)
            | (Role::Administrator, Role::Administrator | Role::Editor | Role::Viewer) => Ok(()),
            (Role::Administrator, Role::Owner) => {
                Err(WorkspaceRejection::OwnerIsAboveAdministrator)
            }
            (Role::Editor | Role::Viewer, _) => Err(WorkspaceRejection::MayNotManageMembers),
        }
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

fn check_name(name: &str, description: &str) -> Result<(), WorkspaceRejection> {
    if name.trim().is_empty() || name.chars().count() > limits::MAX_NAME_CHARS {
        return Err(WorkspaceRejection::NameInvalid);
    }
    if description.chars().count() > limits::MAX_DESCRIPTION_CHARS {
        return Err(WorkspaceRejection::DescriptionTooLong);
    }
    Ok(())
}

impl Aggregate for Workspace {
    type Command = WorkspaceCommand;
    type Event = WorkspaceEvent;
    type Rejection = WorkspaceRejection;

    fn decide(
        &self,
        command: &WorkspaceCommand,
        _now: DateTime<Utc>,
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
                    max_concurrency: None,
                    dispatch_paused: false,
                })
            }
            (Self::Active(mut workspace), event) => {
                match event {
                    WorkspaceEvent::WorkspaceRenamed(event) => {
                        workspace.name.clone_from(&event.name);
                        workspace.description.clone_from(&event.description);
                    }
                    WorkspaceEvent::ConcurrencyChanged(event) => {
                        workspace.max_concurrency = event.limit;
                    }
                    WorkspaceEvent::DispatchPaused(_) => workspace.dispatch_paused = true,
                    WorkspaceEvent::DispatchResumed(_) => workspace.dispatch_paused = false,
                    WorkspaceEvent::MemberAdded(event) => {
                        workspace.members.insert(event.user_id, event.role);
                    }
                    WorkspaceEvent::MemberRoleChanged(event) => {
                        workspace.members.insert(event.user_id, event.role);
                    }
                    WorkspaceEvent::MemberRemoved(event) => {
                        workspace.members.remove(&event.user_id);
                    }
                    WorkspaceEvent::WorkspaceCreated(_) => corrupt!("created twice", event),
                }
                Self::Active(workspace)
            }
            (Self::Absent, event) => corrupt!("the workspace was not created", event),
        }
    }

    const SNAPSHOT: &'static str = "workspace/2";

    fn weight(&self) -> usize {
        match self {
            Self::Absent => 0,
            Self::Active(workspace) => {
                workspace.name.len() + workspace.description.len() + workspace.members.len() * 48
            }
        }
    }
}

#[cfg(test)]
mod tests;
