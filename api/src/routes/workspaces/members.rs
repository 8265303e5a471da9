//! Who belongs to a workspace, with which role.

use std::collections::HashMap;

use axum::{extract::State, http::StatusCode, response::IntoResponse};
use chrono::{DateTime, Utc};
use ledgerline_commands::{Scope, Target};
use ledgerline_domain::{
    id::{UserId, WorkspaceId},
    permission::Permission,
    workspace::{ChangeMemberRole, RemoveMember, TransferOwnership, Workspace, WorkspaceCommand},
};
use ledgerline_projections::{
    Model, Page,
    members::{self as rows, MemberSort},
    values::MemberRole,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{WorkspaceView, answer, may_view};
use crate::{
    access::scope_of,
    answer::Answer,
    app::AppState,
    extract::{AsOf, JsonBody, ListQuery, Path, Query},
    identity::account::Person,
    invitations::settle_closed,
    problem::Problem,
    reading::{self, Reading},
    routes::auth::service_accounts,
    routes::executions::control::NoFields,
    writing::{Reply, Writing, hash_of},
};

/// A member of a workspace.
#[derive(Debug, Serialize, ToSchema)]
pub struct MemberView {
    /// Who.
    #[schema(value_type = Uuid)]
    pub user_id: UserId,
    /// The name; none when the account was erased.
    pub full_name: Option<String>,
    /// The address; none when the account was erased, and of a service account.
    pub email: Option<String>,
    /// Whether it is a service account: a program with a name and keys.
    pub service_account: bool,
    /// With which role.
    pub role: MemberRole,
    /// Since when; none when a past is asked for.
    pub added_at: Option<DateTime<Utc>>,
    /// Who added them; none where a program did, or when a past is asked for.
    #[schema(value_type = Option<Uuid>)]
    pub added_by: Option<UserId>,
    /// When the role changed last; none when a past is asked for.
    pub updated_at: Option<DateTime<Utc>>,
}

/// Which members.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct MemberFilters {
    /// Only with this role.
    #[param(inline)]
    pub role: Option<MemberRole>,
}

/// A role to give.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeRoleRequest {
    /// The role from now on.
    pub role: MemberRole,
}

/// Who takes a workspace over.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TransferRequest {
    /// A member of it.
    #[schema(value_type = Uuid)]
    pub user_id: UserId,
}

/// The members of a workspace, as they are in the order in which they came, or as they were at a moment.
#[utoipa::path(get, path = "/workspaces/{id}/members", tag = "workspaces",
    params(("id" = Uuid, Path), MemberFilters, reading::PageParams, reading::AsOfParams),
    responses((status = 200, body = Page<MemberView>)))]
pub async fn members(
    State(state): State<AppState>,
    reading: Reading,
    Path(id): Path<WorkspaceId>,
    at: AsOf,
    list: ListQuery,
    Query(filters): Query<MemberFilters>,
) -> Result<Answer<Page<MemberView>>, Problem> {
    may_view(&state, &reading.caller, id).await?;
    if let Some((at, position)) = reading.past(&state, at).await? {
        let then = state.commands.load_at::<Workspace>(id, at).await?;
        let mut page = past_page(&then.state, filters.role, &list)?;
        name(&state, &mut page.items).await?;
        return Ok(reading.answer(page, position));
    }
    let page = reading::page(list, &[("added_at", MemberSort)])?;
    let position = reading.rows(&[Model::Members]).await?;
    let Page { items, next_cursor, total, total_is_estimate, limit, offset } =
        rows::list(&state.pool, id.0, filters.role, &page).await?;
    let items = items.into_iter().map(|row| MemberView {
        user_id: UserId(row.user_id),
        full_name: None,
        email: None,
        service_account: false,
        role: row.role,
        added_at: Some(row.added_at),
        added_by: row.added_by.map(UserId),
        updated_at: Some(row.updated_at),
    });
    let mut items: Vec<MemberView> = items.collect();
    name(&state, &mut items).await?;
    let page = Page { items, next_cursor, total, total_is_estimate, limit, offset };
    Ok(reading.answer(page, position))
}

/// Give a member another role. The last owner stays one, and only an owner makes or changes an owner.
#[utoipa::path(patch, path = "/workspaces/{id}/members/{user_id}", tag = "workspaces",
    params(("id" = Uuid, Path), ("user_id" = Uuid, Path)), request_body = ChangeRoleRequest,
    responses((status = 200, body = MemberView)))]
pub async fn change_role(
    State(state): State<AppState>,
    writing: Writing,
    Path((id, user_id)): Path<(WorkspaceId, UserId)>,
    JsonBody { value: request, hash }: JsonBody<ChangeRoleRequest>,
) -> Reply {
    let context = writing.context(id, hash);
    let writing = &writing;
    let change =
        ChangeMemberRole { by: writing.caller.user_id, user_id, role: request.role.into() };
    let change = &change;
    let plan = |scope: Scope| async move {
        writing.authorise(&scope, id, Permission::ChangeMemberRole, "workspace").await?;
        Ok((Target::existing(id), WorkspaceCommand::ChangeMemberRole(change.clone())))
    };
    let changed = writing.execute::<Workspace, _, _>(&context, plan).await?;
    settle_closed(&state, id, &changed.events).await;
    let is = changed.state.active().map_err(|_| Problem::not_found("workspace"))?;
    let role = is.members.get(&user_id).ok_or_else(|| Problem::not_found("member"))?;
    let mut views = [past_member(user_id, (*role).into())];
    name(&state, &mut views).await?;
    let [view] = views;
    let answer = writing.answer(StatusCode::OK, view, changed.position);
    Ok(answer.versioned(changed.version).into_response())
}

/// Take a member out, or leave. It acts on the next request, and closes their sockets.
#[utoipa::path(delete, path = "/workspaces/{id}/members/{user_id}", tag = "workspaces",
    params(("id" = Uuid, Path), ("user_id" = Uuid, Path)), responses((status = 204)))]
pub async fn remove_member(
    State(state): State<AppState>,
    writing: Writing,
    Path((id, user_id)): Path<(WorkspaceId, UserId)>,
) -> Reply {
    remove(&state, &writing, id, user_id, hash_of(&[])).await
}

/// Leave a workspace. Its last owner can't; a personal one can't be left.
#[utoipa::path(post, path = "/workspaces/{id}/leave", tag = "workspaces", params(("id" = Uuid, Path)),
    request_body = Option<NoFields>, responses((status = 204)))]
pub async fn leave(
    State(state): State<AppState>,
    writing: Writing,
    Path(id): Path<WorkspaceId>,
    body: Option<JsonBody<NoFields>>,
) -> Reply {
    let hash = body.map_or([0; 32], |body| body.hash);
    remove(&state, &writing, id, writing.caller.user_id, hash).await
}

/// Hand a workspace over: the other member is an owner from then on, and you are an administrator.
#[utoipa::path(post, path = "/workspaces/{id}/transfer", tag = "workspaces", params(("id" = Uuid, Path)),
    request_body = TransferRequest, responses((status = 200, body = WorkspaceView)))]
pub async fn transfer(
    State(state): State<AppState>,
    writing: Writing,
    Path(id): Path<WorkspaceId>,
    JsonBody { value: request, hash }: JsonBody<TransferRequest>,
) -> Reply {
    let context = writing.context(id, hash);
    let writing = &writing;
    let transfer = TransferOwnership { by: writing.caller.user_id, to: request.user_id };
    let transfer = &transfer;
    let plan = |scope: Scope| async move {
        writing.authorise(&scope, id, Permission::TransferWorkspace, "workspace").await?;
        Ok((Target::existing(id), WorkspaceCommand::TransferOwnership(transfer.clone())))
    };
    let handed_over = writing.execute::<Workspace, _, _>(&context, plan).await?;
    settle_closed(&state, id, &handed_over.events).await;
    answer(&state, writing, id, &handed_over).await
}

async fn remove(
    state: &AppState,
    writing: &Writing,
    id: WorkspaceId,
    user_id: UserId,
    hash: [u8; 32],
) -> Reply {
    let context = writing.context(id, hash);
    let by = writing.caller.user_id;
    // Everybody may leave; whom else one may take out is the matrix's and the workspace's to say.
    let needed = if by == user_id { Permission::ViewWorkspace } else { Permission::RemoveMember };
    // It changes who belongs to the workspace, so a key needs as much for either.
    writing.caller.demand_scope(scope_of(Permission::RemoveMember))?;
    let plan = |scope: Scope| async move {
        writing.authorise(&scope, id, needed, "workspace").await?;
        Ok((Target::existing(id), WorkspaceCommand::RemoveMember(RemoveMember { by, user_id })))
    };
    let removed = writing.execute::<Workspace, _, _>(&context, plan).await?;
    settle_closed(state, id, &removed.events).await;
    // Of a service account nothing is left: it belongs to this workspace alone.
    let account = state.identity.service_account(user_id).await?;
    if account.is_some_and(|account| account.workspace_id == id) {
        state.identity.erase_service_account(user_id).await?;
    }
    let answer = writing.answer(StatusCode::NO_CONTENT, (), removed.position);
    Ok(answer.versioned(removed.version).into_response())
}

/// Members of a past, by id; its cursor is an offset, because the past doesn't change.
fn past_page(
    then: &Workspace,
    role: Option<MemberRole>,
    list: &ListQuery,
) -> Result<Page<MemberView>, Problem> {
    let is = then.content().ok_or_else(|| Problem::not_found("workspace"))?;
    let offset = match &list.cursor {
        None => list.offset,
        Some(cursor) => cursor
            .parse::<u64>()
            .map_err(|_| Problem::invalid("/cursor", "invalid", "is not a cursor of this list"))?,
    };
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let limit = list.limit as usize;
    let wanted = |member: &MemberRole| role.is_none_or(|role| role == *member);
    let all = is.members.iter().map(|(id, role)| (*id, MemberRole::from(*role)));
    let all: Vec<_> = all.filter(|(_, role)| wanted(role)).collect();
    let items = all.iter().skip(start).take(limit).map(|(id, role)| past_member(*id, *role));
    let next = start.saturating_add(limit);
    Ok(Page {
        items: items.collect(),
        next_cursor: (next < all.len()).then(|| next.to_string()),
        total: i64::try_from(all.len()).unwrap_or(i64::MAX),
        total_is_estimate: false,
        limit: i64::from(list.limit),
        offset: i64::try_from(offset).unwrap_or(i64::MAX),
    })
}

const fn past_member(user_id: UserId, role: MemberRole) -> MemberView {
    MemberView {
        user_id,
        full_name: None,
        email: None,
        service_account: false,
        role,
        added_at: None,
        added_by: None,
        updated_at: None,
    }
}

/// Adds names and addresses.
async fn name(state: &AppState, members: &mut [MemberView]) -> Result<(), Problem> {
    let ids: Vec<UserId> = members.iter().map(|member| member.user_id).collect();
    let people = state.identity.people(&ids).await?;
    let people: HashMap<UserId, Person> =
        people.into_iter().map(|person| (person.id, person)).collect();
    let programs = service_accounts::names(state, &ids).await?;
    for member in members {
        if let Some(person) = people.get(&member.user_id) {
            member.full_name = Some(person.full_name.clone());
            member.email = Some(person.email.clone());
        } else if let Some(name) = programs.get(&member.user_id) {
            member.full_name = Some(name.clone());
            member.service_account = true;
        }
    }
    Ok(())
}
