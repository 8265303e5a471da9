//! What goes before the end of an account: the person leaves every workspace, and no workspace is left without an owner.

use ledgerline_commands::{Context, Target};
use ledgerline_domain::{
    event::Actor,
    id::{UserId, WorkspaceId},
    permission::Role,
    workspace::{RemoveMember, Workspace, WorkspaceCommand},
};
use ledgerline_projections::{Model, members};

use crate::{
    app::AppState, extract::RequestContext, invitations::settle_closed, problem::Problem,
    refusal::Refusal,
};

/// How many workspaces a refusal names; whoever has more finds the others when these are handed over.
const MAX_NAMED: usize = 20;

/// Why the dispatch of a workspace without people is paused.
const NOBODY_LEFT: &str = "the account of its only member was erased";

/// Erases a person. What breaks off is done by a repeat.
///
/// # Errors
/// 404 when there is no such person; 409 when they are the last owner of a workspace that others belong to; 503 when the log or the
/// database is away.
pub async fn erase(
    state: &AppState,
    user: UserId,
    by: &Actor,
    request: &RequestContext,
) -> Result<(), Problem> {
    if state.identity.user(user).await?.is_none() {
        return Err(Problem::not_found("user"));
    }
    let head = state.commands.log().head().await?.position;
    state.ledger.reflecting(&[Model::Members], head).await?;
    let (mut shared, mut alone, mut held) = (Vec::new(), Vec::new(), Vec::new());
    for id in members::workspaces_of(&state.pool, user.0).await? {
        let id = WorkspaceId(id);
        // The rows only say where to look.
        let loaded = state.commands.load::<Workspace>(id).await?;
        let Ok(workspace) = loaded.state.active() else { continue };
        let Some(role) = workspace.members.get(&user) else { continue };
        let owners = workspace.members.values().filter(|role| **role == Role::Owner).count();
        if workspace.members.len() == 1 {
            alone.push(id);
        } else if *role == Role::Owner && owners == 1 {
            held.push(format!("{} ({id})", workspace.name));
        } else {
            shared.push(id);
        }
    }
    if !held.is_empty() {
        let (count, named) = (held.len(), held.into_iter().take(MAX_NAMED).collect::<Vec<_>>());
        let detail = format!(
            "the last owner of a workspace that others belong to can't be erased; hand over or empty {count} first: {}",
            named.join(", ")
        );
        return Err(Problem::rule_refused("last_owner", detail));
    }
    for id in shared {
        let leave = WorkspaceCommand::RemoveMember(RemoveMember { by: user, user_id: user });
        tell(state, id, leave, by, request).await?;
    }
    for id in alone {
        let pause = WorkspaceCommand::PauseDispatch { reason: Some(NOBODY_LEFT.to_owned()) };
        tell(state, id, pause, by, request).await?;
    }
    match state.identity.erase(user, by, request.now).await? {
        true => Ok(()),
        false => Err(Problem::not_found("user")),
    }
}

async fn tell(
    state: &AppState,
    workspace: WorkspaceId,
    command: WorkspaceCommand,
    by: &Actor,
    request: &RequestContext,
) -> Result<(), Problem> {
    let context = Context::new(by.clone()).correlated(request.correlation_id);
    let target = Target::existing(workspace);
    let told = state.commands.execute::<Workspace>(target, &command, &context).await;
    let told = told.map_err(|error| Problem::from(error.widen::<Refusal>()))?;
    settle_closed(state, workspace, &told.events).await;
    Ok(())
}
