//! Who may do what: membership and role, asked of the workspace's own stream.
//!
//! For a command the answer is part of its plan ([`authorise`]): it reads the workspace through the [`Scope`], so the append is refused
//! when the membership has moved by then. For a read ([`demand`]) the workspace is looked at as the log holds it at that moment, so that a
//! removal acts on the next request, in whatever process it was made. Such a look costs one short statement; requests for one workspace
//! that come while a look is under way share the next one ([`Looks`]), so a busy workspace costs few of them and none is ever older
//! than the request that it answers.
//!
//! Whoever is no member is told that there is no such thing (404); a member without the permission is refused (403).

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use ledgerline_commands::{CommandError, Commands, LoadError, Loaded, Scope};
use ledgerline_domain::{
    id::WorkspaceId,
    permission::{Permission, Role},
    workspace::{Workspace, WorkspaceRejection},
};
use moka::sync::Cache;
use tokio::sync::Mutex;

use crate::{
    app::AppState, extract::Caller, identity::api_key, problem::Problem, refusal::Refusal,
};

/// For how many workspaces a look can be shared at the same time. Beyond it looks are merely not shared.
const MAX_SHARED: u64 = 10_000;

/// Demands a permission within the plan of a command. `noun` is what does not exist for whoever may not know of it.
///
/// # Errors
/// [`CommandError::Denied`] with [`Refusal::Hidden`] for who is no member, or whose key does not reach the workspace; with
/// [`Refusal::NotAllowed`] or [`Refusal::KeyScope`] for a member without the permission. [`CommandError::Rejected`] where the workspace is
/// being deleted.
pub async fn authorise(
    scope: &Scope,
    caller: &Caller,
    workspace: WorkspaceId,
    permission: Permission,
    noun: &'static str,
) -> Result<Role, CommandError<Refusal>> {
    let loaded = scope.read::<Workspace>(workspace).await?;
    let role = permit(&loaded.state, caller, workspace, permission, noun);
    let role = role.map_err(CommandError::Denied)?;
    // Who may delete a workspace may take that back; nothing else of it is changed any more.
    if permission != Permission::DeleteWorkspace && loaded.state.is_ending() {
        return Err(CommandError::Rejected(WorkspaceRejection::BeingDeleted.into()));
    }
    Ok(role)
}

/// Demands a permission of a read; gives the caller's role and the workspace as it is now. `noun` is what does not exist for whoever may not know of it.
///
/// # Errors
/// 404 for who is no member, 403 for a member without the permission, 503 when the log is away.
pub async fn demand(
    state: &AppState,
    caller: &Caller,
    workspace: WorkspaceId,
    permission: Permission,
    noun: &'static str,
) -> Result<(Role, Loaded<Workspace>), Problem> {
    let loaded = state.looks.workspace(&state.commands, workspace).await?;
    let role = permit(&loaded.state, caller, workspace, permission, noun)?;
    Ok((role, loaded))
}

fn permit(
    membership: &Workspace,
    caller: &Caller,
    workspace: WorkspaceId,
    permission: Permission,
    noun: &'static str,
) -> Result<Role, Refusal> {
    if caller.demand_reach(workspace).is_err() {
        return Err(Refusal::Hidden(noun));
    }
    let role = membership.role_of(caller.user_id).ok_or(Refusal::Hidden(noun))?;
    let needed = scope_of(permission);
    if caller.demand_scope(needed).is_err() {
        return Err(Refusal::KeyScope(needed));
    }
    if role.may(permission) { Ok(role) } else { Err(Refusal::NotAllowed { role, permission }) }
}

/// The scope that an API key needs beside the permission of the person it acts for.
#[must_use]
pub const fn scope_of(permission: Permission) -> api_key::Scope {
    match permission {
        Permission::ViewWorkflow
        | Permission::ViewExecution
        | Permission::ViewAnalytics
        | Permission::ViewWorkspace => api_key::Scope::Read,
        Permission::CreateWorkflow | Permission::EditWorkflow | Permission::DeleteWorkflow => {
            api_key::Scope::Write
        }
        Permission::StartExecution | Permission::ControlExecution | Permission::Approve => {
            api_key::Scope::Execute
        }
        Permission::AddMember
        | Permission::RemoveMember
        | Permission::ChangeMemberRole
        | Permission::EditWorkspace
        | Permission::ManageSecrets
        | Permission::DeleteWorkspace
        | Permission::TransferWorkspace
        | Permission::ViewAudit
        | Permission::EraseSubject => api_key::Scope::Admin,
    }
}

/// Looks at workspaces that are shared between requests. Cheap to clone; all clones share.
#[derive(Clone)]
pub struct Looks(Arc<Shared>);

struct Shared {
    slots: Cache<WorkspaceId, Arc<Mutex<Option<Look>>>>,
    /// Orders arrivals and looks: a look serves whoever arrived before it began.
    ticks: AtomicU64,
}

struct Look {
    begun: u64,
    loaded: Loaded<Workspace>,
}

impl Default for Looks {
    fn default() -> Self {
        let slots = Cache::builder().max_capacity(MAX_SHARED).name("workspace looks").build();
        Self(Arc::new(Shared { slots, ticks: AtomicU64::new(0) }))
    }
}

impl Looks {
    /// The workspace as the log held it at some moment after this was called.
    ///
    /// # Errors
    /// When the log is away.
    pub async fn workspace(
        &self,
        commands: &Commands,
        id: WorkspaceId,
    ) -> Result<Loaded<Workspace>, LoadError> {
        let arrived = self.tick();
        let slot = self.0.slots.get_with(id, Arc::default);
        let mut last = slot.lock().await;
        if let Some(look) = last.as_ref().filter(|look| look.begun > arrived) {
            return Ok(look.loaded.clone());
        }
        let begun = self.tick();
        let loaded = commands.load::<Workspace>(id).await?;
        *last = Some(Look { begun, loaded: loaded.clone() });
        Ok(loaded)
    }

    fn tick(&self) -> u64 {
        self.0.ticks.fetch_add(1, Ordering::SeqCst)
    }
}
