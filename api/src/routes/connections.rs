//! Connections: where databases and mail servers are that workflows use by name, with passwords that nobody reads again.

use axum::{extract::State, http::StatusCode, response::IntoResponse};
use chrono::{DateTime, Utc};
use ledgerline_domain::{
    id::{ConnectionId, UserId, WorkspaceId},
    limits::MAX_SECRET_BYTES,
    permission::{Permission, Role},
    vault::{ConnectionKind, ConnectionSettings, KeptConnection, VaultCommand},
};
use ledgerline_projections::Page;
use ledgerline_store::{StreamId, StreamVersion, sealed::Wanted};
use ledgerline_worker::connections::{self, DoesNotWork, StoredConnection};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    access,
    answer::Answer,
    app::AppState,
    extract::{Caller, JsonBody, ListQuery, Path, WorkspaceSelector},
    problem::{FieldError, Problem, ProblemKind},
    reading::{self, Reading},
    vault::{self, Holding},
    writing::{Reply, Writing, hash_of},
};

/// A connection, without its password: that is never shown again.
#[derive(Debug, Serialize, ToSchema)]
pub struct ConnectionView {
    /// Its id.
    #[schema(value_type = Uuid)]
    pub id: ConnectionId,
    /// Its workspace.
    #[schema(value_type = Uuid)]
    pub workspace_id: WorkspaceId,
    /// What nodes call it.
    #[schema(example = "orders")]
    pub name: String,
    /// To what it leads: `postgres` or `smtp`.
    #[schema(value_type = String, example = "postgres")]
    pub kind: ConnectionKind,
    /// Which of its settings count; higher with every change.
    pub version: i32,
    /// Where it leads; only shown to those who manage secrets.
    #[schema(value_type = Option<Object>)]
    pub settings: Option<ConnectionSettings>,
    /// Whether it has a password; only shown to those who manage secrets.
    pub has_password: Option<bool>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was changed last.
    pub updated_at: DateTime<Utc>,
    /// Who changed it last.
    #[schema(value_type = Option<Uuid>)]
    pub updated_by: Option<UserId>,
}

/// A connection to keep.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConnectionRequest {
    /// What nodes call it: 1 to 64 letters, digits, `_` or `-`.
    #[schema(example = "orders", min_length = 1, max_length = 64)]
    pub name: String,
    /// Where it leads. `{kind: "postgres", host, port, database, user, tls: verify|off}` or
    /// `{kind: "smtp", host, port, user, tls: verify|implicit|off, from}`.
    #[schema(value_type = Object, example = json!({
        "kind": "postgres", "host": "db.example.com", "port": 5432, "database": "orders", "user": "reporter", "tls": "verify",
    }))]
    #[serde(deserialize_with = "crate::extract::body::object")]
    pub settings: ConnectionSettings,
    /// The password. Left out of a change it stays as it is.
    #[serde(default)]
    #[schema(value_type = Option<String>, write_only)]
    pub password: Option<SecretString>,
}

/// A connection that works.
#[derive(Debug, Serialize, ToSchema)]
pub struct ConnectionTest {
    /// Always true: what does not work is a problem.
    pub works: bool,
    /// The server, in its own words.
    pub server: String,
    /// How long it took to get there.
    pub duration_ms: u64,
}

/// Connections come in the order in which they were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ByAge;

/// The connections of a workspace. Where they lead is shown to those who manage secrets, their names to whoever builds workflows.
#[utoipa::path(get, path = "/connections", tag = "secrets", params(reading::PageParams, reading::WorkspaceParams),
    responses((status = 200, body = Page<ConnectionView>)))]
pub async fn list(
    State(state): State<AppState>,
    reading: Reading,
    workspace: WorkspaceSelector,
    list: ListQuery,
) -> Result<Answer<Page<ConnectionView>>, Problem> {
    let workspace = workspace.or_default(&reading.caller);
    let role = may_use(&state, &reading.caller, workspace, "workspace").await?;
    let page = reading::page(list, &[("created_at", ByAge)])?;
    let position = reading.log();
    let now = vault::vault(&state, workspace).await?;
    let kept = now.state.connections().map(|(id, kept)| (id, kept.clone())).collect();
    let page = reading::page_of(kept, &page)?;
    let mut items = Vec::with_capacity(page.items.len());
    for (id, kept) in page.items {
        items.push(view(&state, workspace, role, id, &kept).await?);
    }
    let page = Page {
        items,
        next_cursor: page.next_cursor,
        total: page.total,
        total_is_estimate: page.total_is_estimate,
        limit: page.limit,
        offset: page.offset,
    };
    Ok(reading.answer(page, position).versioned(now.version))
}

/// Make a connection.
#[utoipa::path(post, path = "/connections", tag = "secrets", params(reading::WorkspaceParams),
    request_body = ConnectionRequest, responses((status = 201, body = ConnectionView)))]
pub async fn create(
    State(state): State<AppState>,
    writing: Writing,
    workspace: WorkspaceSelector,
    JsonBody { value: request, hash }: JsonBody<ConnectionRequest>,
) -> Reply {
    let workspace = workspace.or_default(&writing.caller);
    let role = may_manage(&state, &writing.caller, workspace, "workspace").await?;
    check(&request)?;
    let id = ConnectionId(state.commands.clock().new_id());
    let mut context = writing.context(workspace, vault::hash_of_secret(&state, hash)?);
    context.made_ids.push(id.0);
    let ConnectionRequest { name, settings, password } = request;
    let kind = settings.kind();
    let value = sealable(&StoredConnection { settings, password })?;
    let holding = Holding { workspace, holder: id.holder(), noun: "workspace" };
    let command =
        |version| VaultCommand::CreateConnection { id, name: name.clone(), kind, version };
    let made = vault::keep(&state, &writing, &context, &holding, &value, None, command).await?;
    // A repeat made none: the first one's connection has the same name.
    let found = made.state.connection(id).map(|kept| (id, kept));
    let found = found.or_else(|| made.state.connection_named(&name));
    let (id, kept) = found.ok_or_else(|| Problem::not_found("connection"))?;
    let view = view(&state, workspace, role, id, kept).await?;
    let answer = writing.answer(StatusCode::CREATED, view, made.position);
    Ok(answer.versioned(made.version).at(format!("/api/v1/connections/{id}")).into_response())
}

/// One connection, without its password.
#[utoipa::path(get, path = "/connections/{id}", tag = "secrets", params(("id" = Uuid, Path)),
    responses((status = 200, body = ConnectionView)))]
pub async fn get(
    State(state): State<AppState>,
    reading: Reading,
    Path(id): Path<ConnectionId>,
) -> Result<Answer<ConnectionView>, Problem> {
    let workspace = workspace_of(&state, id).await?;
    let role = may_use(&state, &reading.caller, workspace, "connection").await?;
    let position = reading.log();
    let now = vault::vault(&state, workspace).await?;
    let kept = now.state.connection(id).ok_or_else(|| Problem::not_found("connection"))?;
    let view = view(&state, workspace, role, id, kept).await?;
    Ok(reading.answer(view, position).versioned(now.version))
}

/// Name a connection otherwise or lead it elsewhere. A password that is left out stays.
#[utoipa::path(put, path = "/connections/{id}", tag = "secrets", params(("id" = Uuid, Path)),
    request_body = ConnectionRequest, responses((status = 200, body = ConnectionView)))]
pub async fn update(
    State(state): State<AppState>,
    writing: Writing,
    Path(id): Path<ConnectionId>,
    JsonBody { value: request, hash }: JsonBody<ConnectionRequest>,
) -> Reply {
    let workspace = workspace_of(&state, id).await?;
    let role = may_manage(&state, &writing.caller, workspace, "connection").await?;
    check(&request)?;
    let now = vault::vault(&state, workspace).await?;
    let kept = now.state.connection(id).ok_or_else(|| Problem::not_found("connection"))?;
    let last = kept.version;
    let before = opened(&state, workspace, id, last).await?;
    let ConnectionRequest { name, settings, password } = request;
    // Else whoever may not read it could have it sent to a server of their own.
    if password.is_none() && before.password.is_some() && before.settings.host() != settings.host()
    {
        let detail = "is needed again when the host changes";
        return Err(Problem::invalid("/password", "required", detail).into());
    }
    let kind = settings.kind();
    let value = sealable(&StoredConnection { settings, password: password.or(before.password) })?;
    let context = writing.context(workspace, vault::hash_of_secret(&state, hash)?);
    let holding = Holding { workspace, holder: id.holder(), noun: "connection" };
    let command =
        |version| VaultCommand::ChangeConnection { id, name: name.clone(), kind, version };
    let last = Some(last);
    let changed = vault::keep(&state, &writing, &context, &holding, &value, last, command).await?;
    let kept = changed.state.connection(id).ok_or_else(|| Problem::not_found("connection"))?;
    let view = view(&state, workspace, role, id, kept).await?;
    let answer = writing.answer(StatusCode::OK, view, changed.position);
    Ok(answer.versioned(changed.version).into_response())
}

/// Delete a connection and erase its settings. Nodes that name it fail from now on.
#[utoipa::path(delete, path = "/connections/{id}", tag = "secrets", params(("id" = Uuid, Path)), responses((status = 204)))]
pub async fn delete(
    State(state): State<AppState>,
    writing: Writing,
    Path(id): Path<ConnectionId>,
) -> Reply {
    let workspace = workspace_of(&state, id).await?;
    may_manage(&state, &writing.caller, workspace, "connection").await?;
    let context = writing.context(workspace, hash_of(&[]));
    let now = vault::vault(&state, workspace).await?;
    let last = now.state.connection(id).map_or(0, |kept| kept.version);
    let holding = Holding { workspace, holder: id.holder(), noun: "connection" };
    let command = VaultCommand::DeleteConnection { id };
    let gone = vault::give_up(&state, &writing, &context, &holding, last, command).await?;
    let answer = writing.answer(StatusCode::NO_CONTENT, (), gone.position);
    Ok(answer.versioned(gone.version).into_response())
}

/// Try a connection out: go there, sign in, and leave. What does not work is answered in words.
#[utoipa::path(post, path = "/connections/{id}/test", tag = "secrets", params(("id" = Uuid, Path)),
    responses((status = 200, body = ConnectionTest)))]
pub async fn test(
    State(state): State<AppState>,
    reading: Reading,
    Path(id): Path<ConnectionId>,
) -> Result<Answer<ConnectionTest>, Problem> {
    let workspace = workspace_of(&state, id).await?;
    may_manage(&state, &reading.caller, workspace, "connection").await?;
    let position = reading.log();
    let now = vault::vault(&state, workspace).await?;
    let kept = now.state.connection(id).ok_or_else(|| Problem::not_found("connection"))?;
    let stored = opened(&state, workspace, id, kept.version).await?;
    let works = connections::test(&stored, &state.reach).await?;
    let answer =
        ConnectionTest { works: true, server: works.server, duration_ms: works.duration_ms };
    Ok(reading.answer(answer, position))
}

/// The workspace of a connection. It never changes; what nobody may know of has none.
async fn workspace_of(state: &AppState, id: ConnectionId) -> Result<WorkspaceId, Problem> {
    let found = state.sealed.workspace_of(&id.holder()).await?;
    found.map(WorkspaceId).ok_or_else(|| Problem::not_found("connection"))
}

async fn may_manage(
    state: &AppState,
    caller: &Caller,
    workspace: WorkspaceId,
    noun: &'static str,
) -> Result<Role, Problem> {
    let demanded = access::demand(state, caller, workspace, Permission::ManageSecrets, noun);
    demanded.await.map(|(role, _)| role)
}

/// Whoever builds workflows may know what to name.
async fn may_use(
    state: &AppState,
    caller: &Caller,
    workspace: WorkspaceId,
    noun: &'static str,
) -> Result<Role, Problem> {
    let demanded = access::demand(state, caller, workspace, Permission::EditWorkflow, noun);
    demanded.await.map(|(role, _)| role)
}

fn check(request: &ConnectionRequest) -> Result<(), Problem> {
    let problems = request.settings.problems().into_iter();
    let mut wrong: Vec<FieldError> = problems
        .map(|wrong| FieldError::new(format!("/settings/{}", wrong.field), "invalid", wrong.reason))
        .collect();
    if let Some(password) = &request.password {
        let text = password.expose_secret();
        if text.is_empty() || text.len() > MAX_SECRET_BYTES || text.contains('\0') {
            let detail = format!("must have 1 to {MAX_SECRET_BYTES} bytes");
            wrong.push(FieldError::new("/password", "out_of_range", detail));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(Problem::invalid_values(wrong)) }
}

fn sealable(stored: &StoredConnection) -> Result<Vec<u8>, Problem> {
    serde_json::to_vec(stored).map_err(|error| Problem::internal(&error))
}

async fn opened(
    state: &AppState,
    workspace: WorkspaceId,
    id: ConnectionId,
    version: i32,
) -> Result<StoredConnection, Problem> {
    let wanted = Wanted { holder: id.holder(), version };
    let mut found = state.sealed.open(workspace.0, std::slice::from_ref(&wanted)).await?;
    // Changed or deleted right now.
    let value = found.remove(&wanted.holder).ok_or_else(|| {
        Problem::new(ProblemKind::ConcurrentChange, "the connection is being changed; try again")
    })?;
    serde_json::from_slice(value.expose_secret()).map_err(|error| Problem::internal(&error))
}

async fn view(
    state: &AppState,
    workspace: WorkspaceId,
    role: Role,
    id: ConnectionId,
    kept: &KeptConnection,
) -> Result<ConnectionView, Problem> {
    let stream = StreamId(workspace.vault().0);
    let created = state.ledger.touch(stream, StreamVersion(kept.created_in)).await?;
    let changed = state.ledger.touch(stream, StreamVersion(kept.changed_in)).await?;
    let stored = match role.may(Permission::ManageSecrets) {
        true => Some(opened(state, workspace, id, kept.version).await?),
        false => None,
    };
    Ok(ConnectionView {
        id,
        workspace_id: workspace,
        name: kept.name.clone(),
        kind: kept.kind,
        version: kept.version,
        has_password: stored.as_ref().map(|stored| stored.password.is_some()),
        settings: stored.map(|stored| stored.settings),
        created_at: created.at,
        updated_at: changed.at,
        updated_by: changed.by,
    })
}

impl From<DoesNotWork> for Problem {
    fn from(error: DoesNotWork) -> Self {
        Self::new(ProblemKind::ConnectionFailed, error.reason).with_rule(error.step.as_str())
    }
}
