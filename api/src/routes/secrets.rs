//! Secrets: values that workflows use as `secrets.<name>` and that nobody reads again.

use axum::{extract::State, http::StatusCode, response::IntoResponse};
use chrono::{DateTime, Utc};
use ledgerline_domain::{
    id::{UserId, WorkspaceId},
    limits::{MAX_SECRET_BYTES, MIN_SECRET_BYTES},
    permission::Permission,
    vault::{KeptSecret, SecretName, VaultCommand},
};
use ledgerline_projections::Page;
use ledgerline_store::{StreamId, StreamVersion};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    access,
    answer::Answer,
    app::AppState,
    extract::{Caller, JsonBody, ListQuery, Path, WorkspaceSelector},
    problem::Problem,
    reading::{self, Reading},
    vault::{self, Holding},
    writing::{Reply, Writing, hash_of},
};

/// A secret, without its value: that is never shown again.
#[derive(Debug, Serialize, ToSchema)]
pub struct SecretView {
    /// Its name: workflows use it as `{{ secrets.<name> }}`.
    #[schema(value_type = String, example = "API_KEY")]
    pub name: SecretName,
    /// Which of its values counts; higher with every one that is set.
    pub version: i32,
    /// When the value was set.
    pub updated_at: DateTime<Utc>,
    /// Who set it.
    #[schema(value_type = Option<Uuid>)]
    pub updated_by: Option<UserId>,
}

/// A value to keep.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetSecretRequest {
    /// The value: 4 to 65,536 bytes of text.
    #[schema(value_type = String, write_only, min_length = 4, max_length = 65_536)]
    pub value: SecretString,
}

/// The secrets of a workspace: names and versions, never values.
#[utoipa::path(get, path = "/secrets", tag = "secrets", params(reading::PageParams, reading::WorkspaceParams),
    responses((status = 200, body = Page<SecretView>)))]
pub async fn list(
    State(state): State<AppState>,
    reading: Reading,
    workspace: WorkspaceSelector,
    list: ListQuery,
) -> Result<Answer<Page<SecretView>>, Problem> {
    let workspace = workspace.or_default(&reading.caller);
    may_manage(&state, &reading.caller, workspace).await?;
    let page = reading::page(list, &[("name", ByName)])?;
    let position = reading.log();
    let now = vault::vault(&state, workspace).await?;
    let kept = now.state.secrets().map(|(name, kept)| (name.clone(), kept)).collect();
    let page = reading::page_of(kept, &page)?;
    let mut items = Vec::with_capacity(page.items.len());
    for (name, kept) in page.items {
        items.push(view(&state, workspace, name, kept).await?);
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

/// Secrets come by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ByName;

/// One secret, without its value.
#[utoipa::path(get, path = "/secrets/{name}", tag = "secrets", params(("name" = String, Path), reading::WorkspaceParams),
    responses((status = 200, body = SecretView)))]
pub async fn get(
    State(state): State<AppState>,
    reading: Reading,
    workspace: WorkspaceSelector,
    Path(name): Path<SecretName>,
) -> Result<Answer<SecretView>, Problem> {
    let workspace = workspace.or_default(&reading.caller);
    may_manage(&state, &reading.caller, workspace).await?;
    let position = reading.log();
    let now = vault::vault(&state, workspace).await?;
    let kept = now.state.secret(&name).ok_or_else(|| Problem::not_found("secret"))?;
    Ok(reading.answer(view(&state, workspace, name, kept).await?, position).versioned(now.version))
}

/// Give a secret a value. One that it had before is erased.
#[utoipa::path(put, path = "/secrets/{name}", tag = "secrets", params(("name" = String, Path), reading::WorkspaceParams),
    request_body = SetSecretRequest, responses((status = 200, body = SecretView)))]
pub async fn set(
    State(state): State<AppState>,
    writing: Writing,
    workspace: WorkspaceSelector,
    Path(name): Path<SecretName>,
    JsonBody { value: request, hash }: JsonBody<SetSecretRequest>,
) -> Reply {
    let workspace = workspace.or_default(&writing.caller);
    may_manage(&state, &writing.caller, workspace).await?;
    let value = request.value.expose_secret().as_bytes();
    if !(MIN_SECRET_BYTES..=MAX_SECRET_BYTES).contains(&value.len()) {
        let detail = format!("must have {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes");
        return Err(Problem::invalid("/value", "out_of_range", detail).into());
    }
    let context = writing.context(workspace, vault::hash_of_secret(&state, hash)?);
    let last = vault::vault(&state, workspace).await?.state.secret(&name);
    let holding = Holding { workspace, holder: name.holder(), noun: "workspace" };
    let last = last.map(|kept| kept.version);
    let command = |version| VaultCommand::SetSecret { name: name.clone(), version };
    let set = vault::keep(&state, &writing, &context, &holding, value, last, command).await?;
    let kept = set.state.secret(&name).ok_or_else(|| Problem::not_found("secret"))?;
    let view = view(&state, workspace, name, kept).await?;
    Ok(writing.answer(StatusCode::OK, view, set.position).versioned(set.version).into_response())
}

/// Delete a secret and erase its value. Nodes that use it fail from now on.
#[utoipa::path(delete, path = "/secrets/{name}", tag = "secrets", params(("name" = String, Path), reading::WorkspaceParams),
    responses((status = 204)))]
pub async fn delete(
    State(state): State<AppState>,
    writing: Writing,
    workspace: WorkspaceSelector,
    Path(name): Path<SecretName>,
) -> Reply {
    let workspace = workspace.or_default(&writing.caller);
    may_manage(&state, &writing.caller, workspace).await?;
    let context = writing.context(workspace, hash_of(&[]));
    let last = vault::vault(&state, workspace).await?.state.secret(&name);
    let last = last.map_or(0, |kept| kept.version);
    let holding = Holding { workspace, holder: name.holder(), noun: "workspace" };
    let command = VaultCommand::DeleteSecret { name };
    let gone = vault::give_up(&state, &writing, &context, &holding, last, command).await?;
    let answer = writing.answer(StatusCode::NO_CONTENT, (), gone.position);
    Ok(answer.versioned(gone.version).into_response())
}

/// Seal all secrets and connections of a workspace again under a new key.
#[utoipa::path(post, path = "/secrets/rotate-key", tag = "secrets", params(reading::WorkspaceParams), responses((status = 204)))]
pub async fn rotate_key(
    State(state): State<AppState>,
    writing: Writing,
    workspace: WorkspaceSelector,
) -> Reply {
    let workspace = workspace.or_default(&writing.caller);
    may_manage(&state, &writing.caller, workspace).await?;
    let context = writing.context(workspace, hash_of(&[]));
    if !writing.is_dry_run() {
        state.sealed.rotate_key(workspace.0, state.clock.now()).await?;
    }
    let holding = Holding { workspace, holder: String::new(), noun: "workspace" };
    let noted = vault::tell(&writing, &context, &holding, VaultCommand::NoteKeyRotation).await?;
    let answer = writing.answer(StatusCode::NO_CONTENT, (), noted.position);
    Ok(answer.versioned(noted.version).into_response())
}

/// Before anything is read, kept or parsed: who is no member learns nothing.
async fn may_manage(
    state: &AppState,
    caller: &Caller,
    workspace: WorkspaceId,
) -> Result<(), Problem> {
    let needed = Permission::ManageSecrets;
    access::demand(state, caller, workspace, needed, "workspace").await.map(|_| ())
}

async fn view(
    state: &AppState,
    workspace: WorkspaceId,
    name: SecretName,
    kept: KeptSecret,
) -> Result<SecretView, Problem> {
    let stream = StreamId(workspace.vault().0);
    let touch = state.ledger.touch(stream, StreamVersion(kept.set_in)).await?;
    Ok(SecretView { name, version: kept.version, updated_at: touch.at, updated_by: touch.by })
}
