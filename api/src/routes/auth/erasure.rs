//! The end of an account, by its owner or by an operator, and the erasure of people whom a workspace holds data about.

use axum::{extract::State, http::StatusCode};
use ledgerline_domain::{
    id::{UserId, WorkspaceId},
    permission::Permission,
};
use secrecy::SecretString;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::{
    access::demand,
    app::AppState,
    erasure,
    extract::{Caller, JsonBody, Path, RequestContext},
    identity::registration::address_key,
    problem::Problem,
};

/// The end of the own account. There is no way back.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EraseMeRequest {
    /// The own address, so that nobody erases an account by mistake.
    #[schema(example = "ada@example.com")]
    pub email: String,
    /// The password; may be left out within five minutes after signing in.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = Password)]
    pub password: Option<SecretString>,
}

/// Erase the own account: address, name, credentials, sessions, keys, mails, and what the log holds sealed about you. Your runs and
/// changes stay, by an id that leads to nobody. You leave every workspace; what is yours alone runs nothing more.
///
/// Refused (rule `last_owner`) while you are the last owner of a workspace that others belong to.
#[utoipa::path(delete, path = "/auth/me", tag = "auth", request_body = EraseMeRequest, responses((status = 204)))]
pub async fn erase_me(
    State(state): State<AppState>,
    context: RequestContext,
    caller: Caller,
    JsonBody { value: request, .. }: JsonBody<EraseMeRequest>,
) -> Result<StatusCode, Problem> {
    let session = caller.session()?;
    let user = state.identity.user(caller.user_id).await?;
    let user = user.ok_or_else(|| Problem::not_found("user"))?;
    if address_key(&request.email) != address_key(&user.email) {
        return Err(Problem::invalid("/email", "mismatch", "must be the address of the account"));
    }
    state.identity.reconfirm(&user, session, request.password, context.now).await?;
    erasure::erase(&state, user.id, &caller.actor(), &context).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Erase the account of a person who asked for it. For operators; the own account ends at `DELETE /auth/me`.
#[utoipa::path(delete, path = "/system/users/{user_id}", tag = "operations", params(("user_id" = Uuid, Path)),
    responses((status = 204)))]
pub async fn erase_user(
    State(state): State<AppState>,
    context: RequestContext,
    caller: Caller,
    Path(user): Path<UserId>,
) -> Result<StatusCode, Problem> {
    caller.demand_operator()?;
    if user == caller.user_id {
        return Err(Problem::forbidden("the own account ends at DELETE /auth/me"));
    }
    erasure::erase(&state, user, &caller.actor(), &context).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Erase a person whom runs of the workspace hold data about, by the name that marked it. What was sealed stays in the log and opens no
/// more: answers show `{"$erased": …}` in its place, and a step that needs it fails.
#[utoipa::path(delete, path = "/workspaces/{id}/subjects/{subject}", tag = "workspaces",
    params(("id" = Uuid, Path), ("subject" = String, Path, max_length = 200)), responses((status = 204)))]
pub async fn erase_subject(
    State(state): State<AppState>,
    context: RequestContext,
    caller: Caller,
    Path((id, subject)): Path<(WorkspaceId, String)>,
) -> Result<StatusCode, Problem> {
    demand(&state, &caller, id, Permission::EraseSubject, "workspace").await?;
    let (by, client) = (caller.user_id, context.client());
    state.identity.erase_subject(id, &subject, by, &client, context.now).await?;
    Ok(StatusCode::NO_CONTENT)
}
