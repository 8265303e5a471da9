//! Service accounts: members of a workspace that are programs, and their keys.
//!
//! Whoever may add members makes them, whoever may remove members turns them off and deletes them. What gives somebody new access (an
//! account, a key) takes a person who is signed in, so that a stolen key cannot make itself others that outlive it.

use std::collections::HashMap;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use ledgerline_commands::{Context, Executed, Scope, Target};
use ledgerline_domain::{
    id::{ApiKeyId, UserId, WorkspaceId, derived},
    permission::Permission,
    workspace::{
        ActiveWorkspace, AddServiceAccount, RemoveMember, SetStanding, Standing, Workspace,
        WorkspaceCommand,
    },
};
use ledgerline_projections::values::MemberRole;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ApiKeyList;
use crate::{
    access,
    answer::Answer,
    app::AppState,
    extract::{Caller, JsonBody, Path, RequestContext, WorkspaceSelector},
    identity::{
        api_key::{CreatedApiKey, KeyHolder, NewApiKey, Scope as KeyScope},
        service_account::{KeptAccount, clean_name},
    },
    invitations::settle_closed,
    problem::Problem,
    reading::{self, Reading},
    writing::{Instead, Reply, Writing, hash_of},
};

/// What does not exist for whoever may not know of it.
const NOUN: &str = "service account";

/// A service account.
#[derive(Debug, Serialize, ToSchema)]
pub struct ServiceAccountView {
    /// The id by which events and members' lists name it.
    #[schema(value_type = Uuid)]
    pub id: UserId,
    /// Where it is a member, and nowhere else.
    #[schema(value_type = Uuid)]
    pub workspace_id: WorkspaceId,
    /// What people call it.
    pub name: String,
    /// With which role. It is changed like that of every member, with `PATCH /workspaces/{id}/members/{user_id}`.
    pub role: MemberRole,
    /// Whether none of its keys is good for now.
    pub disabled: bool,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// The service accounts of a workspace.
#[derive(Debug, Serialize, ToSchema)]
pub struct ServiceAccountList {
    /// The newest first; a workspace has at most 200.
    pub items: Vec<ServiceAccountView>,
}

/// A service account to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceAccountRequest {
    /// What people call it.
    #[schema(example = "nightly import", min_length = 1, max_length = 255)]
    pub name: String,
    /// With which role it is a member: not `owner`, and not more than you are.
    pub role: MemberRole,
}

/// A key of a service account to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceKeyRequest {
    /// What it is for.
    #[schema(example = "import on host 7", min_length = 1, max_length = 255)]
    pub name: String,
    /// What it may do; never more than the account's role.
    #[schema(min_items = 1)]
    pub scopes: Vec<KeyScope>,
    /// For how many days it is good.
    #[serde(default = "super::default_days")]
    #[schema(minimum = 1, maximum = 366, default = 90)]
    pub expires_in_days: i64,
}

/// The service accounts of a workspace.
#[utoipa::path(get, path = "/auth/service-accounts", tag = "auth", params(reading::WorkspaceParams),
    responses((status = 200, body = ServiceAccountList)))]
pub async fn list(
    State(state): State<AppState>,
    reading: Reading,
    workspace: WorkspaceSelector,
) -> Result<Answer<ServiceAccountList>, Problem> {
    let workspace = workspace.or_default(&reading.caller);
    let position = reading.log();
    let needed = Permission::ViewWorkspace;
    let (_, now) = access::demand(&state, &reading.caller, workspace, needed, "workspace").await?;
    let is = now.state.content().ok_or_else(|| Problem::not_found("workspace"))?;
    let ids: Vec<UserId> = is.service_accounts.keys().copied().collect();
    let kept = state.identity.service_accounts(&ids).await?;
    let items = kept.into_iter().filter_map(|account| view(is, account)).collect();
    Ok(reading.answer(ServiceAccountList { items }, position).versioned(now.version))
}

/// Make a service account. It does nothing before it has a key.
#[utoipa::path(post, path = "/auth/service-accounts", tag = "auth", params(reading::WorkspaceParams),
    request_body = ServiceAccountRequest, responses((status = 201, body = ServiceAccountView)))]
pub async fn create(
    State(state): State<AppState>,
    writing: Writing,
    workspace: WorkspaceSelector,
    JsonBody { value: request, hash }: JsonBody<ServiceAccountRequest>,
) -> Reply {
    let workspace = workspace.or_default(&writing.caller);
    // Before anything is kept: who is no member leaves nothing behind.
    let needed = Permission::AddMember;
    access::demand(&state, &writing.caller, workspace, needed, "workspace").await?;
    writing.caller.session()?;
    let mut context = writing.context(workspace, hash);
    let account = KeptAccount {
        id: id_for(&state, &context),
        workspace_id: workspace,
        name: clean_name(&request.name)?,
        created_at: state.clock.now(),
    };
    context.made_ids.push(account.id.0);
    let by = writing.caller.user_id;
    let add = AddServiceAccount { by, account_id: account.id, role: request.role.into() };
    // Its name first, so that the log never has a member whom nobody can name.
    let kept = !writing.is_dry_run() && state.identity.keep_service_account(&account).await?;
    let command = WorkspaceCommand::AddServiceAccount(add);
    let told = tell(&writing, &context, workspace, needed, "workspace", command).await;
    let made = match told {
        Ok(made) => made,
        // Where it is not known whether it landed, the name stays.
        Err(Instead::Problem(problem)) if !problem.kind().status().is_server_error() => {
            if kept {
                state.identity.erase_service_account(account.id).await?;
            }
            return Err(problem.into());
        }
        Err(other) => return Err(other),
    };
    let id = account.id;
    let view = shown(&state, &made.state, id).await?;
    let answer = writing.answer(StatusCode::CREATED, view, made.position);
    let answer = answer.versioned(made.version);
    Ok(answer.at(format!("/api/v1/auth/service-accounts/{id}")).into_response())
}

/// One service account.
#[utoipa::path(get, path = "/auth/service-accounts/{id}", tag = "auth", params(("id" = Uuid, Path)),
    responses((status = 200, body = ServiceAccountView)))]
pub async fn get(
    State(state): State<AppState>,
    reading: Reading,
    Path(id): Path<UserId>,
) -> Result<Answer<ServiceAccountView>, Problem> {
    let workspace = workspace_of(&state, id).await?;
    let position = reading.log();
    let needed = Permission::ViewWorkspace;
    let (_, now) = access::demand(&state, &reading.caller, workspace, needed, NOUN).await?;
    let view = shown(&state, &now.state, id).await?;
    Ok(reading.answer(view, position).versioned(now.version))
}

/// Delete a service account with its keys: it is no longer a member. It acts on the next request.
#[utoipa::path(delete, path = "/auth/service-accounts/{id}", tag = "auth", params(("id" = Uuid, Path)),
    responses((status = 204)))]
pub async fn delete(
    State(state): State<AppState>,
    writing: Writing,
    Path(id): Path<UserId>,
) -> Reply {
    let workspace = workspace_of(&state, id).await?;
    let context = writing.context(workspace, hash_of(&[]));
    let by = writing.caller.user_id;
    let remove = WorkspaceCommand::RemoveMember(RemoveMember { by, user_id: id });
    let gone = tell(&writing, &context, workspace, Permission::RemoveMember, NOUN, remove).await?;
    settle_closed(&state, workspace, &gone.events).await;
    state.identity.erase_service_account(id).await?;
    let answer = writing.answer(StatusCode::NO_CONTENT, (), gone.position);
    Ok(answer.versioned(gone.version).into_response())
}

/// Turn a service account off: none of its keys is good from the next request on, in every process. It stays a member.
#[utoipa::path(post, path = "/auth/service-accounts/{id}/disable", tag = "auth", params(("id" = Uuid, Path)),
    responses((status = 200, body = ServiceAccountView)))]
pub async fn disable(
    State(state): State<AppState>,
    writing: Writing,
    Path(id): Path<UserId>,
) -> Reply {
    stand(&state, &writing, id, Standing::Disabled).await
}

/// Turn a service account on again. Its keys that have not ended are good again.
#[utoipa::path(post, path = "/auth/service-accounts/{id}/enable", tag = "auth", params(("id" = Uuid, Path)),
    responses((status = 200, body = ServiceAccountView)))]
pub async fn enable(
    State(state): State<AppState>,
    writing: Writing,
    Path(id): Path<UserId>,
) -> Reply {
    manage(&state, &writing.caller, id, Permission::AddMember).await?;
    writing.caller.session()?;
    stand(&state, &writing, id, Standing::Enabled).await
}

/// The keys of a service account.
#[utoipa::path(get, path = "/auth/service-accounts/{id}/api-keys", tag = "auth", params(("id" = Uuid, Path)),
    responses((status = 200, body = ApiKeyList)))]
pub async fn keys(
    State(state): State<AppState>,
    context: RequestContext,
    caller: Caller,
    Path(id): Path<UserId>,
) -> Result<Json<ApiKeyList>, Problem> {
    manage(&state, &caller, id, Permission::AddMember).await?;
    let holder = KeyHolder::ServiceAccount(id);
    Ok(Json(ApiKeyList { items: state.identity.api_keys(holder, context.now).await? }))
}

/// Make a key of a service account. It is shown this once.
#[utoipa::path(post, path = "/auth/service-accounts/{id}/api-keys", tag = "auth", params(("id" = Uuid, Path)),
    request_body = ServiceKeyRequest, responses((status = 201, body = CreatedApiKey)))]
pub async fn make_key(
    State(state): State<AppState>,
    context: RequestContext,
    caller: Caller,
    Path(id): Path<UserId>,
    JsonBody { value: request, .. }: JsonBody<ServiceKeyRequest>,
) -> Result<Response, Problem> {
    let workspace = manage(&state, &caller, id, Permission::AddMember).await?;
    caller.session()?;
    let ServiceKeyRequest { name, scopes, expires_in_days } = request;
    let wanted = NewApiKey { name, scopes, workspace_id: Some(workspace), expires_in_days };
    let holder = KeyHolder::ServiceAccount(id);
    let (by, client) = (caller.user_id, context.client());
    let made = state.identity.make_api_key(holder, by, wanted, &client, context.now);
    let created = made.await?;
    let key = created.api_key.id;
    let location = format!("/api/v1/auth/service-accounts/{id}/api-keys/{key}");
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(created)).into_response())
}

/// End a key of a service account. It acts on the next request; to end it once more changes nothing.
#[utoipa::path(delete, path = "/auth/service-accounts/{id}/api-keys/{key_id}", tag = "auth",
    params(("id" = Uuid, Path), ("key_id" = Uuid, Path)), responses((status = 204)))]
pub async fn end_key(
    State(state): State<AppState>,
    context: RequestContext,
    caller: Caller,
    Path((id, key)): Path<(UserId, ApiKeyId)>,
) -> Result<StatusCode, Problem> {
    manage(&state, &caller, id, Permission::RemoveMember).await?;
    let holder = KeyHolder::ServiceAccount(id);
    let ended = state.identity.end_api_key(holder, &caller.actor(), key, context.now).await?;
    if ended || state.identity.has_api_key(holder, key).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::not_found("API key"))
    }
}

/// The id of an account to make: one that follows from the idempotency key, so that a repeat finds what the first one made.
fn id_for(state: &AppState, context: &Context) -> UserId {
    UserId(match &context.key {
        Some(key) => {
            derived(&["service_account", &key.scope, &key.key, &hex::encode(key.body_hash)])
        }
        None => state.commands.clock().new_id(),
    })
}

/// The only workspace of an account.
async fn workspace_of(state: &AppState, id: UserId) -> Result<WorkspaceId, Problem> {
    let account = state.identity.service_account(id).await?;
    account.map(|account| account.workspace_id).ok_or_else(|| Problem::not_found(NOUN))
}

/// The workspace of an account whose keys the caller may look after: one of those who may have made the account.
async fn manage(
    state: &AppState,
    caller: &Caller,
    id: UserId,
    needed: Permission,
) -> Result<WorkspaceId, Problem> {
    let workspace = workspace_of(state, id).await?;
    let (_, now) = access::demand(state, caller, workspace, needed, NOUN).await?;
    let is = now.state.content().ok_or_else(|| Problem::not_found(NOUN))?;
    if is.is_service(id) { Ok(workspace) } else { Err(Problem::not_found(NOUN)) }
}

/// Turns an account off or on: in the log, where its role ends or begins at once, then for its keys.
async fn stand(state: &AppState, writing: &Writing, id: UserId, standing: Standing) -> Reply {
    let workspace = workspace_of(state, id).await?;
    let context = writing.context(workspace, hash_of(&[]));
    let by = writing.caller.user_id;
    let set = WorkspaceCommand::SetStanding(SetStanding { by, account_id: id, standing });
    let needed = match standing {
        Standing::Enabled => Permission::AddMember,
        Standing::Disabled => Permission::RemoveMember,
    };
    let told = tell(writing, &context, workspace, needed, NOUN, set).await?;
    settle_closed(state, workspace, &told.events).await;
    // As the log has it by now: a repeat of an old request says what it said then, and changes no key.
    let now = state.commands.load::<Workspace>(workspace).await?;
    let enabled = now.state.content().is_some_and(|is| is.is_enabled(id));
    let disabled_at = (!enabled).then(|| state.clock.now());
    state.identity.set_service_account_keys(id, disabled_at).await?;
    let view = shown(state, &told.state, id).await?;
    let answer = writing.answer(StatusCode::OK, view, told.position);
    Ok(answer.versioned(told.version).into_response())
}

/// Gives a workspace a command within the plan that authorises it.
async fn tell(
    writing: &Writing,
    context: &Context,
    workspace: WorkspaceId,
    needed: Permission,
    noun: &'static str,
    command: WorkspaceCommand,
) -> Result<Executed<Workspace>, Instead> {
    let command = &command;
    let plan = |scope: Scope| async move {
        writing.authorise(&scope, workspace, needed, noun).await?;
        Ok((Target::existing(workspace), command.clone()))
    };
    writing.execute::<Workspace, _, _>(context, plan).await
}

async fn shown(
    state: &AppState,
    workspace: &Workspace,
    id: UserId,
) -> Result<ServiceAccountView, Problem> {
    let gone = || Problem::not_found(NOUN);
    let account = state.identity.service_account(id).await?.ok_or_else(gone)?;
    view(workspace.content().ok_or_else(gone)?, account).ok_or_else(gone)
}

/// None for what the workspace does not have as a service account.
fn view(workspace: &ActiveWorkspace, account: KeptAccount) -> Option<ServiceAccountView> {
    let standing = workspace.service_accounts.get(&account.id)?;
    let role = workspace.members.get(&account.id)?;
    Some(ServiceAccountView {
        id: account.id,
        workspace_id: account.workspace_id,
        name: account.name,
        role: (*role).into(),
        disabled: *standing == Standing::Disabled,
        created_at: account.created_at,
    })
}

/// The names of those of these members that are service accounts.
///
/// # Errors
/// 503 when the database is away.
pub async fn names(state: &AppState, ids: &[UserId]) -> Result<HashMap<UserId, String>, Problem> {
    let accounts = state.identity.service_accounts(ids).await?;
    Ok(accounts.into_iter().map(|account| (account.id, account.name)).collect())
}
