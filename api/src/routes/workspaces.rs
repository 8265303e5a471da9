//! Workspaces, who belongs to them, and what was done in them.
//!
//! What a workspace is and who is in it is answered from its own stream; lists come from the read models. Names and addresses of
//! members are joined here from the erasable tables, so the log and the read models know people by id only.

mod members;

use axum::{extract::State, http::StatusCode, response::IntoResponse};
use chrono::{DateTime, Utc};
use ledgerline_commands::{CommandError, Context, Executed, Loaded, Scope, Target};
use ledgerline_domain::{
    id::{UserId, WorkspaceId},
    permission::{Permission, Role},
    workspace::{
        CreateWorkspace, RenameWorkspace, Workspace, WorkspaceCommand, WorkspaceRejection,
    },
};
use ledgerline_projections::{
    Model, Page,
    activity::{self, Activity, ActivityFilter, ActivitySort},
    values::MemberRole,
    workspaces::{self, WorkspaceItem, WorkspaceSort},
};
use ledgerline_store::{StreamId, StreamVersion};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

pub use self::members::{
    __path_change_role, __path_leave, __path_members, __path_remove_member, __path_transfer,
    change_role, leave, members, remove_member, transfer,
};
pub use self::members::{ChangeRoleRequest, MemberFilters, MemberView, TransferRequest};
use crate::{
    access,
    answer::Answer,
    app::AppState,
    extract::{AsOf, Caller, JsonBody, ListQuery, Path, Query, WorkspaceSelector},
    identity::api_key,
    invitations::settle_closed,
    problem::Problem,
    reading::{self, Reading, search},
    refusal::Refusal,
    routes::executions::control::NoFields,
    writing::{Instead, Reply, Writing, hash_of},
};

/// A workspace, as one of its members sees it.
#[derive(Debug, Serialize, ToSchema)]
pub struct WorkspaceView {
    /// Its id.
    #[schema(value_type = Uuid)]
    pub id: WorkspaceId,
    /// 1 to 255 characters.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Whether it is the personal workspace of its owner.
    pub personal: bool,
    /// What you are in it.
    pub role: MemberRole,
    /// How many members it has.
    pub member_count: usize,
    /// How many of its executions may run at once by its own setting; none for what the deployment gives every workspace.
    pub max_concurrency: Option<u32>,
    /// How many may run at once after what the deployment gives and allows; none for no limit.
    pub effective_concurrency: Option<u32>,
    /// Whether dispatch is paused in it: nothing of it is handed to a worker.
    pub dispatch_paused: bool,
    /// Until when its deletion can be taken back; none where it is not being deleted.
    pub deletion_ends_at: Option<DateTime<Utc>>,
    /// Who made it.
    #[schema(value_type = Option<Uuid>)]
    pub created_by: Option<UserId>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When its name, description or membership changed last.
    pub updated_at: DateTime<Utc>,
}

/// A workspace to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateWorkspaceRequest {
    /// What it is called.
    #[schema(example = "Operations", min_length = 1, max_length = 255)]
    pub name: String,
    /// What it is for.
    #[serde(default)]
    #[schema(max_length = 10_000)]
    pub description: String,
}

/// What to change of a workspace. What is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateWorkspaceRequest {
    /// What it is called from now on.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 255)]
    pub name: Option<String>,
    /// What it is for from now on.
    #[serde(default)]
    #[schema(max_length = 10_000)]
    pub description: Option<String>,
    /// How many of its executions may run at once from now on; `null` for what the deployment gives every workspace. It holds for
    /// executions that are requested after it.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 10_000)]
    pub max_concurrency: Option<Option<u32>>,
}

/// A field that says something by being `null`.
fn given<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Option<u32>>, D::Error> {
    Option::deserialize(value).map(Some)
}

/// Why dispatch is paused.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PauseDispatchRequest {
    /// For others to read.
    #[serde(default)]
    #[schema(max_length = 1_000)]
    pub reason: Option<String>,
}

/// Which workspaces.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WorkspaceFilters {
    /// Only with this text in name or description, in any case.
    pub search: Option<String>,
}

/// Which activity.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ActivityFilters {
    /// Only what was done to this workspace, workflow or execution.
    pub resource_id: Option<Uuid>,
    /// Only by this person.
    pub user_id: Option<Uuid>,
    /// Only this, e.g. `workflow_published`.
    pub action: Option<String>,
}

/// Your workspaces.
#[utoipa::path(get, path = "/workspaces", tag = "workspaces", params(WorkspaceFilters, reading::PageParams),
    responses((status = 200, body = Page<WorkspaceItem>)))]
pub async fn list(
    State(state): State<AppState>,
    reading: Reading,
    list: ListQuery,
    Query(filters): Query<WorkspaceFilters>,
) -> Result<Answer<Page<WorkspaceItem>>, Problem> {
    reading.caller.demand_scope(api_key::Scope::Read)?;
    let page = reading::page(
        list,
        &[
            ("-created_at", WorkspaceSort::Newest),
            ("created_at", WorkspaceSort::Oldest),
            ("name", WorkspaceSort::Name),
            ("-name", WorkspaceSort::NameDescending),
        ],
    )?;
    let search = search(filters.search)?;
    let position = reading.rows(&[Model::Workspaces, Model::Members]).await?;
    let user = reading.caller.user_id.0;
    let page = match reading.caller.only_workspace() {
        None => workspaces::list(&state.pool, user, search.as_deref(), &page).await?,
        Some(only) => {
            let items: Vec<_> =
                workspaces::get(&state.pool, only.0, user).await?.into_iter().collect();
            let total = i64::from(u8::from(!items.is_empty()));
            let (limit, offset) = (page.limit, 0);
            Page { items, next_cursor: None, total, total_is_estimate: false, limit, offset }
        }
    };
    Ok(reading.answer(page, position))
}

/// Make a workspace. You are its first owner.
#[utoipa::path(post, path = "/workspaces", tag = "workspaces", request_body = CreateWorkspaceRequest,
    responses((status = 201, body = WorkspaceView)))]
pub async fn create(
    State(state): State<AppState>,
    writing: Writing,
    JsonBody { value: request, hash }: JsonBody<CreateWorkspaceRequest>,
) -> Reply {
    let caller = &writing.caller;
    caller.demand_scope(api_key::Scope::Admin)?;
    if caller.only_workspace().is_some() {
        let detail = "the API key reaches one workspace only, so it cannot make another";
        return Err(Problem::forbidden(detail).into());
    }
    let id = WorkspaceId(state.commands.clock().new_id());
    let CreateWorkspaceRequest { name, description } = request;
    let make = CreateWorkspace { name, description, owner: caller.user_id, personal: false };
    let mut context = writing.context(caller.personal_workspace(), hash);
    context.made_ids.push(id.0);
    let make = &make;
    let plan =
        |_: Scope| async move { Ok((Target::new(id, id), WorkspaceCommand::Create(make.clone()))) };
    let made = writing.execute::<Workspace, _, _>(&context, plan).await?;
    let id = WorkspaceId(made.stream.0);
    let view = view(&state, &writing.caller, id, &made.state, made.version).await?;
    let answer = writing.answer(StatusCode::CREATED, view, made.position);
    Ok(answer.versioned(made.version).at(format!("/api/v1/workspaces/{id}")).into_response())
}

/// One workspace, as it is or was.
#[utoipa::path(get, path = "/workspaces/{id}", tag = "workspaces", params(("id" = Uuid, Path), reading::AsOfParams),
    responses((status = 200, body = WorkspaceView)))]
pub async fn get(
    State(state): State<AppState>,
    reading: Reading,
    Path(id): Path<WorkspaceId>,
    at: AsOf,
) -> Result<Answer<WorkspaceView>, Problem> {
    let position = reading.log();
    let now = may_view(&state, &reading.caller, id).await?;
    let (loaded, position) = match reading.past(&state, at).await? {
        None => (now, position),
        Some((at, position)) => (state.commands.load_at(id, at).await?, position),
    };
    let view = view(&state, &reading.caller, id, &loaded.state, loaded.version).await?;
    Ok(reading.answer(view, position).versioned(loaded.version))
}

/// Name or describe a workspace otherwise.
#[utoipa::path(patch, path = "/workspaces/{id}", tag = "workspaces", params(("id" = Uuid, Path)),
    request_body = UpdateWorkspaceRequest, responses((status = 200, body = WorkspaceView)))]
pub async fn update(
    State(state): State<AppState>,
    writing: Writing,
    Path(id): Path<WorkspaceId>,
    JsonBody { value: request, hash }: JsonBody<UpdateWorkspaceRequest>,
) -> Reply {
    let context = writing.context(id, hash);
    let (writing, request) = (&writing, &request);
    let plan = |scope: Scope| async move {
        writing.authorise(&scope, id, Permission::EditWorkspace, "workspace").await?;
        let loaded = scope.read::<Workspace>(id).await?;
        let is = loaded
            .state
            .active()
            .map_err(|absent: WorkspaceRejection| CommandError::Rejected(Refusal::from(absent)))?;
        let max_concurrency = request.max_concurrency.unwrap_or(is.max_concurrency);
        let name = RenameWorkspace {
            name: request.name.clone().unwrap_or_else(|| is.name.clone()),
            description: request.description.clone().unwrap_or_else(|| is.description.clone()),
        };
        Ok((Target::existing(id), WorkspaceCommand::Configure { name, max_concurrency }))
    };
    let changed = writing.execute::<Workspace, _, _>(&context, plan).await?;
    answer(&state, writing, id, &changed).await
}

/// Delete a workspace. For 30 days an owner can restore it: members still look at what is there, nothing is taken in or changed any more, and
/// what runs is cancelled. After that nobody reaches anything of it.
#[utoipa::path(delete, path = "/workspaces/{id}", tag = "workspaces", params(("id" = Uuid, Path)), responses((status = 204)))]
pub async fn delete(
    State(state): State<AppState>,
    writing: Writing,
    Path(id): Path<WorkspaceId>,
) -> Reply {
    let context = writing.context(id, hash_of(&[]));
    let deleted = end_or_restore(&writing, &context, id, WorkspaceCommand::Delete).await?;
    settle_closed(&state, id, &deleted.events).await;
    let answer = writing.answer(StatusCode::NO_CONTENT, (), deleted.position);
    Ok(answer.versioned(deleted.version).into_response())
}

/// Take the deletion of a workspace back. Schedules, webhooks and other triggers go on; what was cancelled stays so.
#[utoipa::path(post, path = "/workspaces/{id}/restore", tag = "workspaces", params(("id" = Uuid, Path)),
    request_body = Option<NoFields>, responses((status = 200, body = WorkspaceView)))]
pub async fn restore(
    State(state): State<AppState>,
    writing: Writing,
    Path(id): Path<WorkspaceId>,
    body: Option<JsonBody<NoFields>>,
) -> Reply {
    let context = writing.context(id, body.map_or([0; 32], |body| body.hash));
    let restored = end_or_restore(&writing, &context, id, WorkspaceCommand::Restore).await?;
    answer(&state, &writing, id, &restored).await
}

async fn end_or_restore(
    writing: &Writing,
    context: &Context,
    id: WorkspaceId,
    command: WorkspaceCommand,
) -> Result<Executed<Workspace>, Instead> {
    let command = &command;
    let plan = |scope: Scope| async move {
        writing.authorise(&scope, id, Permission::DeleteWorkspace, "workspace").await?;
        Ok((Target::existing(id), command.clone()))
    };
    writing.execute::<Workspace, _, _>(context, plan).await
}

/// Pause all dispatch in a workspace: nothing of it is handed to a worker until it is resumed. What workers have goes on.
#[utoipa::path(post, path = "/workspaces/{id}/pause", tag = "workspaces", params(("id" = Uuid, Path)),
    request_body = Option<PauseDispatchRequest>, responses((status = 200, body = WorkspaceView)))]
pub async fn pause(
    State(state): State<AppState>,
    writing: Writing,
    Path(id): Path<WorkspaceId>,
    body: Option<JsonBody<PauseDispatchRequest>>,
) -> Reply {
    let hash = body.as_ref().map_or([0; 32], |body| body.hash);
    let reason = body.and_then(|body| body.value.reason);
    tell(&state, &writing, id, WorkspaceCommand::PauseDispatch { reason }, hash).await
}

/// Resume dispatch in a workspace.
#[utoipa::path(post, path = "/workspaces/{id}/resume", tag = "workspaces", params(("id" = Uuid, Path)),
    request_body = Option<NoFields>, responses((status = 200, body = WorkspaceView)))]
pub async fn resume(
    State(state): State<AppState>,
    writing: Writing,
    Path(id): Path<WorkspaceId>,
    body: Option<JsonBody<NoFields>>,
) -> Reply {
    let hash = body.map_or([0; 32], |body| body.hash);
    tell(&state, &writing, id, WorkspaceCommand::ResumeDispatch, hash).await
}

/// Tells a workspace something that takes the right to its settings, and shows it as it is then.
async fn tell(
    state: &AppState,
    writing: &Writing,
    id: WorkspaceId,
    command: WorkspaceCommand,
    hash: [u8; 32],
) -> Reply {
    let context = writing.context(id, hash);
    let command = &command;
    let plan = |scope: Scope| async move {
        writing.authorise(&scope, id, Permission::EditWorkspace, "workspace").await?;
        Ok((Target::existing(id), command.clone()))
    };
    let told = writing.execute::<Workspace, _, _>(&context, plan).await?;
    answer(state, writing, id, &told).await
}

/// The answer with a workspace as it was after a command.
pub(super) async fn answer(
    state: &AppState,
    writing: &Writing,
    id: WorkspaceId,
    after: &Executed<Workspace>,
) -> Reply {
    let view = view(state, &writing.caller, id, &after.state, after.version).await?;
    let answer = writing.answer(StatusCode::OK, view, after.position);
    Ok(answer.versioned(after.version).into_response())
}

/// What was done in a workspace, the newest first.
#[utoipa::path(get, path = "/activity", tag = "workspaces",
    params(ActivityFilters, reading::PageParams, reading::WorkspaceParams), responses((status = 200, body = Page<Activity>)))]
pub async fn activity(
    State(state): State<AppState>,
    reading: Reading,
    workspace: WorkspaceSelector,
    list: ListQuery,
    Query(filters): Query<ActivityFilters>,
) -> Result<Answer<Page<Activity>>, Problem> {
    let workspace = workspace.or_default(&reading.caller);
    may_view(&state, &reading.caller, workspace).await?;
    let page = reading::page(list, &[("-position", ActivitySort), ("-at", ActivitySort)])?;
    let ActivityFilters { resource_id, user_id, action } = filters;
    let filter =
        ActivityFilter { workspace_id: workspace.0, resource_id, user_id, action: search(action)? };
    let position = reading.rows(&[Model::Activity]).await?;
    Ok(reading.answer(activity::list(&state.pool, &filter, &page).await?, position))
}

/// The workspace as the log holds it now, for one of its members.
async fn may_view(
    state: &AppState,
    caller: &Caller,
    id: WorkspaceId,
) -> Result<Loaded<Workspace>, Problem> {
    let noun = "workspace";
    access::demand(state, caller, id, Permission::ViewWorkspace, noun).await.map(|(_, now)| now)
}

/// What is shown of a state of a workspace.
async fn view(
    state: &AppState,
    caller: &Caller,
    id: WorkspaceId,
    workspace: &Workspace,
    version: StreamVersion,
) -> Result<WorkspaceView, Problem> {
    let is = workspace.content().ok_or_else(|| Problem::not_found("workspace"))?;
    let created = state.ledger.touch(StreamId(id.0), StreamVersion(1)).await?;
    let updated = state.ledger.touch(StreamId(id.0), version).await?;
    // Who sees a past in which they were no member yet, or an answer after leaving, sees it as who merely looks.
    let role = workspace.role_of(caller.user_id).unwrap_or(Role::Viewer);
    Ok(WorkspaceView {
        id,
        name: is.name.clone(),
        description: is.description.clone(),
        personal: is.personal,
        role: role.into(),
        member_count: is.members.len(),
        max_concurrency: is.max_concurrency,
        effective_concurrency: state.commands.workspace_limits().of(is.max_concurrency),
        dispatch_paused: is.dispatch_paused,
        deletion_ends_at: workspace.grace_ends_at(),
        created_by: created.by,
        created_at: created.at,
        updated_at: updated.at,
    })
}
