//! Invitations: asking people into a workspace, and coming in.
//!
//! Which invitations are open is answered from the workspace's own stream; to whom they went is joined here from the erasable table.

use std::collections::HashMap;

use axum::{extract::State, http::StatusCode, response::IntoResponse};
use chrono::{DateTime, Utc};
use ledgerline_commands::{CommandError, Executed, Scope, Target};
use ledgerline_domain::{
    id::{InvitationId, UserId, WorkspaceId},
    permission::Permission,
    workspace::{
        AcceptInvitation, ActiveWorkspace, ChangeInvitation, Invitation, Invite, Workspace,
        WorkspaceCommand, WorkspaceRejection,
    },
};
use ledgerline_projections::{Page, values::MemberRole};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    access,
    answer::Answer,
    app::AppState,
    extract::{JsonBody, ListQuery, Path},
    identity::{
        account::User,
        invitation::{Meant, read_address},
    },
    invitations::settle_or_leave,
    problem::Problem,
    reading::{self, Reading, page_of},
    refusal::Refusal,
    routes::{
        executions::control::NoFields,
        workspaces::{self, WorkspaceView},
    },
    writing::{Instead, Reply, Writing, hash_of},
};

/// Somebody to ask in.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InviteRequest {
    /// The address that the invitation is sent to.
    #[schema(example = "grace@example.com", format = Email, max_length = 254)]
    pub email: String,
    /// The role that it offers; not above your own.
    pub role: MemberRole,
}

/// An open invitation, as those see it who manage the members of its workspace.
#[derive(Debug, Serialize, ToSchema)]
pub struct InvitationView {
    /// Its id.
    #[schema(value_type = Uuid)]
    pub id: InvitationId,
    /// The workspace.
    #[schema(value_type = Uuid)]
    pub workspace_id: WorkspaceId,
    /// To which address it was sent; none where that was erased.
    pub email: Option<String>,
    /// The role that it offers.
    pub role: MemberRole,
    /// Who sent it last.
    #[schema(value_type = Uuid)]
    pub invited_by: UserId,
    /// Until when it is good.
    pub expires_at: DateTime<Utc>,
}

/// An open invitation, as the person sees it to whom it was sent.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReceivedInvitation {
    /// Its id: goes to `POST /invitations/{token}/accept` in place of the mail's token.
    #[schema(value_type = Uuid)]
    pub id: InvitationId,
    /// The workspace.
    #[schema(value_type = Uuid)]
    pub workspace_id: WorkspaceId,
    /// What the workspace is called.
    pub workspace_name: String,
    /// The role that it offers.
    pub role: MemberRole,
    /// The name of who sent it; none when that account was erased.
    pub invited_by_name: Option<String>,
    /// Until when it is good.
    pub expires_at: DateTime<Utc>,
}

/// The order of a list of invitations: the one that was sent last comes first.
#[derive(Clone, Copy, Debug, Default)]
struct InvitationSort;

const SORTS: &[(&str, InvitationSort)] = &[("-expires_at", InvitationSort)];

/// Ask somebody to become a member, by a mail with a link that is good for seven days. To ask an address again sends it a new one.
#[utoipa::path(post, path = "/workspaces/{id}/invite", tag = "workspaces", params(("id" = Uuid, Path)),
    request_body = InviteRequest, responses((status = 201, body = InvitationView)))]
pub async fn invite(
    State(state): State<AppState>,
    writing: Writing,
    Path(workspace): Path<WorkspaceId>,
    JsonBody { value: request, hash }: JsonBody<InviteRequest>,
) -> Reply {
    let (by, now) = (writing.caller.user_id, state.clock.now());
    // Before anything is noted or used up: a stranger must not be able to.
    let (caller, permission) = (&writing.caller, Permission::AddMember);
    access::demand(&state, caller, workspace, permission, "workspace").await?;
    let email = read_address(&request.email)?;
    let id = state.identity.invitation_id(workspace, email)?;
    let invitee = state.identity.user_by_address(email).await?.map(|user| user.id);
    if !writing.is_dry_run() {
        state.identity.take_invitation_allowance(by, email, now).await?;
        state.identity.note_invitation(id, workspace, email, now).await?;
    }
    let invite = Invite { by, invitation_id: id, invitee, role: request.role.into() };
    let command = WorkspaceCommand::Invite(invite);
    let sent = tell(&state, &writing, workspace, id, command, hash).await?;
    let location = format!("/api/v1/invitations/{id}");
    let answer = show(&state, &writing, StatusCode::CREATED, workspace, id, &sent).await?;
    Ok(answer.at(location).into_response())
}

/// The open invitations of a workspace, the one that was sent last first.
#[utoipa::path(get, path = "/workspaces/{id}/invitations", tag = "workspaces",
    params(("id" = Uuid, Path), reading::PageParams), responses((status = 200, body = Page<InvitationView>)))]
pub async fn list(
    State(state): State<AppState>,
    reading: Reading,
    Path(workspace): Path<WorkspaceId>,
    list: ListQuery,
) -> Result<Answer<Page<InvitationView>>, Problem> {
    let position = reading.log();
    let (caller, permission) = (&reading.caller, Permission::AddMember);
    let (_, loaded) = access::demand(&state, caller, workspace, permission, "workspace").await?;
    let now = state.clock.now();
    let is = loaded.state.content().ok_or_else(|| Problem::not_found("workspace"))?;
    let good = is.invitations.iter().filter(|(_, open)| open.is_good(now));
    let mut all: Vec<InvitationView> =
        good.map(|(id, open)| view(workspace, *id, open, None)).collect();
    all.sort_by_key(|open| std::cmp::Reverse((open.expires_at, open.id)));
    let mut page = page_of(all, &reading::page(list, SORTS)?)?;
    let ids: Vec<InvitationId> = page.items.iter().map(|item| item.id).collect();
    let mut addresses = state.identity.invited_addresses(&ids).await?;
    for item in &mut page.items {
        item.email = addresses.remove(&item.id);
    }
    Ok(reading.answer(page, position).versioned(loaded.version))
}

/// The open invitations that were sent to your verified address.
#[utoipa::path(get, path = "/invitations", tag = "workspaces", params(reading::PageParams),
    responses((status = 200, body = Page<ReceivedInvitation>)))]
pub async fn received(
    State(state): State<AppState>,
    reading: Reading,
    list: ListQuery,
) -> Result<Answer<Page<ReceivedInvitation>>, Problem> {
    reading.caller.session()?;
    let position = reading.log();
    let wanted = reading::page(list, SORTS)?;
    let user = own_account(&state, reading.caller.user_id).await?;
    let now = state.clock.now();
    let mut all = Vec::new();
    for contact in state.identity.invitations_to(&user).await? {
        let loaded = state.looks.workspace(&state.commands, contact.workspace_id).await?;
        let Ok(is) = loaded.state.active() else { continue };
        let Some(open) = is.invitations.get(&contact.id).filter(|it| it.is_good(now)) else {
            continue;
        };
        let received = ReceivedInvitation {
            id: contact.id,
            workspace_id: contact.workspace_id,
            workspace_name: is.name.clone(),
            role: open.role.into(),
            invited_by_name: None,
            expires_at: open.expires_at,
        };
        all.push((open.invited_by, received));
    }
    let inviters: Vec<UserId> = all.iter().map(|(by, _)| *by).collect();
    let people = state.identity.people(&inviters).await?;
    let names: HashMap<UserId, String> =
        people.into_iter().map(|person| (person.id, person.full_name)).collect();
    let named = all.into_iter().map(|(by, received)| ReceivedInvitation {
        invited_by_name: names.get(&by).cloned(),
        ..received
    });
    Ok(reading.answer(page_of(named.collect(), &wanted)?, position))
}

/// Send an open invitation once more, good for another seven days. The link in the mail before it is good no more.
#[utoipa::path(post, path = "/invitations/{id}/resend", tag = "workspaces", params(("id" = Uuid, Path)),
    request_body = Option<NoFields>, responses((status = 200, body = InvitationView)))]
pub async fn resend(
    State(state): State<AppState>,
    writing: Writing,
    Path(id): Path<InvitationId>,
    body: Option<JsonBody<NoFields>>,
) -> Reply {
    let (by, now) = (writing.caller.user_id, state.clock.now());
    let workspace = managed(&state, &writing, id).await?;
    if !writing.is_dry_run() {
        // Without an address there is no mail either.
        if let Some(email) = state.identity.invited_addresses(&[id]).await?.get(&id) {
            state.identity.take_invitation_allowance(by, email, now).await?;
        }
        state.identity.unsettle_invitation(id, now).await?;
    }
    let change = ChangeInvitation { by, invitation_id: id };
    let command = WorkspaceCommand::RenewInvitation(change);
    let hash = body.map_or([0; 32], |body| body.hash);
    let sent = tell(&state, &writing, workspace, id, command, hash).await?;
    let answer = show(&state, &writing, StatusCode::OK, workspace, id, &sent).await?;
    Ok(answer.into_response())
}

/// Take an open invitation back. Its link is good no more.
#[utoipa::path(delete, path = "/invitations/{id}", tag = "workspaces", params(("id" = Uuid, Path)), responses((status = 204)))]
pub async fn revoke(
    State(state): State<AppState>,
    writing: Writing,
    Path(id): Path<InvitationId>,
) -> Reply {
    let workspace = managed(&state, &writing, id).await?;
    if !writing.is_dry_run() {
        state.identity.unsettle_invitation(id, state.clock.now()).await?;
    }
    let change = ChangeInvitation { by: writing.caller.user_id, invitation_id: id };
    let command = WorkspaceCommand::RevokeInvitation(change);
    let revoked = tell(&state, &writing, workspace, id, command, hash_of(&[])).await?;
    let answer = writing.answer(StatusCode::NO_CONTENT, (), revoked.position);
    Ok(answer.versioned(revoked.version).into_response())
}

/// Come in: with the token of the mail, or with the invitation's id where it went to your verified address. Whoever has no account yet
/// makes one first, with the same token (`POST /auth/register`).
#[utoipa::path(post, path = "/invitations/{token}/accept", tag = "workspaces", params(("token" = String, Path)),
    request_body = Option<NoFields>, responses((status = 200, body = WorkspaceView)))]
pub async fn accept(
    State(state): State<AppState>,
    writing: Writing,
    Path(named): Path<String>,
    body: Option<JsonBody<NoFields>>,
) -> Reply {
    // A key acts in the workspaces that its person is in; where that is, the person decides.
    writing.caller.session()?;
    let user = own_account(&state, writing.caller.user_id).await?;
    let found = state.identity.invitation_for(&named, &user).await?;
    let Meant { contact, shown } = found.ok_or_else(|| Problem::not_found("invitation"))?;
    if !writing.is_dry_run() {
        state.identity.unsettle_invitation(contact.id, state.clock.now()).await?;
    }
    let accept = AcceptInvitation { invitation_id: contact.id, user_id: user.id };
    let workspace = contact.workspace_id;
    let context = writing.context(workspace, body.map_or([0; 32], |body| body.hash));
    let accept = &accept;
    let plan = |scope: Scope| async move {
        let is = scope.read::<Workspace>(workspace).await?.state;
        let is_open = |is: &ActiveWorkspace| is.invitations.contains_key(&accept.invitation_id);
        if !shown && is.active().is_ok_and(is_open) {
            return Err(CommandError::Denied(Refusal::Hidden("invitation")));
        }
        let command = WorkspaceCommand::AcceptInvitation(accept.clone());
        Ok((Target::existing(workspace), command))
    };
    let accepted = writing.execute::<Workspace, _, _>(&context, plan).await?;
    settle_or_leave(&state, workspace, contact.id).await;
    workspaces::answer(&state, &writing, workspace, &accepted).await
}

async fn own_account(state: &AppState, user: UserId) -> Result<User, Problem> {
    state.identity.user(user).await?.ok_or_else(|| Problem::not_found("user"))
}

/// The workspace of an invitation, for somebody who manages its members. Others don't learn that there is one.
async fn managed(
    state: &AppState,
    writing: &Writing,
    id: InvitationId,
) -> Result<WorkspaceId, Problem> {
    let contact = state.identity.invitation(id).await?;
    let workspace = contact.ok_or_else(|| Problem::not_found("invitation"))?.workspace_id;
    let permission = Permission::AddMember;
    access::demand(state, &writing.caller, workspace, permission, "invitation").await?;
    Ok(workspace)
}

/// Tells a workspace something about an invitation, and settles that.
async fn tell(
    state: &AppState,
    writing: &Writing,
    workspace: WorkspaceId,
    id: InvitationId,
    command: WorkspaceCommand,
    hash: [u8; 32],
) -> Result<Executed<Workspace>, Instead> {
    let context = writing.context(workspace, hash);
    let command = &command;
    let plan = |scope: Scope| async move {
        writing.authorise(&scope, workspace, Permission::AddMember, "workspace").await?;
        Ok((Target::existing(workspace), command.clone()))
    };
    let told = writing.execute::<Workspace, _, _>(&context, plan).await?;
    settle_or_leave(state, workspace, id).await;
    Ok(told)
}

/// The answer with an invitation as it was after a command.
async fn show(
    state: &AppState,
    writing: &Writing,
    status: StatusCode,
    workspace: WorkspaceId,
    id: InvitationId,
    after: &Executed<Workspace>,
) -> Result<Answer<InvitationView>, Problem> {
    let is = after.state.active().map_err(|_| Problem::not_found("workspace"))?;
    let open = is.invitations.get(&id).ok_or_else(|| {
        Problem::from(CommandError::Rejected(Refusal::from(WorkspaceRejection::InvitationNotFound)))
    })?;
    let email = state.identity.invited_addresses(&[id]).await?.remove(&id);
    let view = view(workspace, id, open, email);
    Ok(writing.answer(status, view, after.position).versioned(after.version))
}

fn view(
    workspace_id: WorkspaceId,
    id: InvitationId,
    open: &Invitation,
    email: Option<String>,
) -> InvitationView {
    InvitationView {
        id,
        workspace_id,
        email,
        role: open.role.into(),
        invited_by: open.invited_by,
        expires_at: open.expires_at,
    }
}
