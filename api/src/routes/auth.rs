//! Signing up, in and out; sessions, tickets and keys of the own account.

pub mod code;
pub mod erasure;
pub mod oidc;
pub mod service_accounts;
pub mod totp;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use ledgerline_domain::{
    audit::SessionEnd,
    id::{ApiKeyId, SessionId, WorkspaceId},
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    app::AppState,
    extract::{
        Caller, JsonBody, Path, RequestContext,
        caller::{ACCESS_COOKIE, REFRESH_COOKIE, cookie, demand_same_site},
    },
    identity::{
        account::User,
        api_key::{ApiKeyView, CreatedApiKey, KeyHolder, NewApiKey, Scope},
        keys::KeySet,
        registration::Registration,
        session::{SessionView, TokenAnswer},
    },
    problem::Problem,
};

/// Where the refresh cookie is sent.
const REFRESH_COOKIE_PATH: &str = "/api/v1/auth";

/// Somebody new.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterRequest {
    /// The address; upper and lower case make no difference.
    #[schema(example = "ada@example.com", format = Email, max_length = 254)]
    pub email: String,
    /// The password.
    #[schema(value_type = String, format = Password, min_length = 12, max_length = 1024)]
    pub password: SecretString,
    /// The name that others see.
    #[schema(example = "Ada Lovelace", min_length = 1, max_length = 255)]
    pub full_name: String,
    /// The token in the mail of an invitation to this address: the address is verified by that. It is not used up here; see
    /// `POST /invitations/{token}/accept`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub invitation_token: Option<SecretString>,
    /// Whether the tokens are also set as httpOnly cookies, for browsers.
    #[serde(default)]
    pub cookies: bool,
}

/// Somebody who was here before.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginRequest {
    /// The address.
    #[schema(example = "ada@example.com")]
    pub email: String,
    /// The password.
    #[schema(value_type = String, format = Password)]
    pub password: SecretString,
    /// Whether the tokens are also set as httpOnly cookies, for browsers.
    #[serde(default)]
    pub cookies: bool,
}

/// The refresh token to exchange.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RefreshRequest {
    /// The token; left out by a browser that has it as a cookie.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub refresh_token: Option<SecretString>,
}

/// What to change of the own account.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateMeRequest {
    /// The name from now on.
    #[schema(min_length = 1, max_length = 255)]
    pub full_name: String,
}

/// The open sessions.
#[derive(Debug, Serialize, ToSchema)]
pub struct SessionList {
    /// The newest first.
    pub items: Vec<SessionView>,
}

/// What opens a WebSocket where no header can be set.
#[derive(Debug, Serialize, ToSchema)]
pub struct TicketAnswer {
    /// Goes as `?ticket=`; it is used up by the first use.
    pub ticket: String,
    /// For how many seconds it is good.
    #[schema(example = 30)]
    pub expires_in: i64,
}

/// A key to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiKeyRequest {
    /// What it is for.
    #[schema(example = "nightly import", min_length = 1, max_length = 255)]
    pub name: String,
    /// What it may do; never more than you.
    #[schema(min_items = 1)]
    pub scopes: Vec<Scope>,
    /// The only workspace that it reaches. Left out: all of yours.
    #[serde(default)]
    #[schema(value_type = Option<Uuid>)]
    pub workspace_id: Option<WorkspaceId>,
    /// For how many days it is good.
    #[serde(default = "default_days")]
    #[schema(minimum = 1, maximum = 366, default = 90)]
    pub expires_in_days: i64,
}

const fn default_days() -> i64 {
    90
}

/// The good keys.
#[derive(Debug, Serialize, ToSchema)]
pub struct ApiKeyList {
    /// The newest first.
    pub items: Vec<ApiKeyView>,
}

/// Make an account. The first one of a deployment is its operator.
#[utoipa::path(post, path = "/auth/register", tag = "auth", security(()), request_body = RegisterRequest,
    responses((status = 201, body = TokenAnswer)))]
pub async fn register(
    State(state): State<AppState>,
    context: RequestContext,
    JsonBody { value: request, .. }: JsonBody<RegisterRequest>,
) -> Result<Response, Problem> {
    let RegisterRequest { email, password, full_name, invitation_token, cookies } = request;
    let registration = Registration { email, password: Some(password), full_name };
    let (invited, client) = (invitation_token.as_ref(), context.client());
    let tokens = state.identity.register(registration, invited, &client, context.now).await?;
    let mut response = signed_in(&state, StatusCode::CREATED, tokens, cookies);
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/api/v1/auth/me"));
    Ok(response)
}

/// Sign in. After several tries in a row the next has to wait (429 with `Retry-After`). An account with a second factor is answered 401
/// with a challenge, for `POST /auth/login/continue`.
#[utoipa::path(post, path = "/auth/login", tag = "auth", security(()), request_body = LoginRequest,
    responses((status = 200, body = TokenAnswer)))]
pub async fn login(
    State(state): State<AppState>,
    context: RequestContext,
    JsonBody { value: request, .. }: JsonBody<LoginRequest>,
) -> Result<Response, Problem> {
    let LoginRequest { email, password, cookies } = request;
    let tokens = state.identity.login(&email, password, &context.client(), context.now).await?;
    Ok(signed_in(&state, StatusCode::OK, tokens, cookies))
}

/// Exchange a refresh token for the next pair. A token that was spent before ends the whole session: somebody has a copy.
#[utoipa::path(post, path = "/auth/refresh", tag = "auth", security(()), request_body = RefreshRequest,
    responses((status = 200, body = TokenAnswer)))]
pub async fn refresh(
    State(state): State<AppState>,
    parts: Parts,
    context: RequestContext,
    JsonBody { value: request, .. }: JsonBody<RefreshRequest>,
) -> Result<Response, Problem> {
    let (token, cookies) = match request.refresh_token {
        Some(token) => (token, false),
        None => {
            demand_same_site(&parts, &state)?;
            let token = cookie(&parts.headers, REFRESH_COOKIE).ok_or_else(|| {
                Problem::unauthenticated("no refresh token came with the request")
            })?;
            (token.into(), true)
        }
    };
    let tokens = state.identity.refresh(token.expose_secret(), context.now).await?;
    Ok(signed_in(&state, StatusCode::OK, tokens, cookies))
}

/// Sign out: the session ends on all its tokens at once.
#[utoipa::path(post, path = "/auth/logout", tag = "auth", responses((status = 204)))]
pub async fn logout(
    State(state): State<AppState>,
    context: RequestContext,
    caller: Caller,
) -> Result<Response, Problem> {
    let session = caller.session()?;
    let because = SessionEnd::Logout;
    state.identity.end_session(caller.user_id, session, because, context.now).await?;
    let mut response = StatusCode::NO_CONTENT.into_response();
    let secure = state.config.http.secure();
    set_cookie(response.headers_mut(), ACCESS_COOKIE, "", "/", 0, secure);
    set_cookie(response.headers_mut(), REFRESH_COOKIE, "", REFRESH_COOKIE_PATH, 0, secure);
    Ok(response)
}

/// The own account.
#[utoipa::path(get, path = "/auth/me", tag = "auth", responses((status = 200, body = User)))]
pub async fn me(State(state): State<AppState>, caller: Caller) -> Result<Json<User>, Problem> {
    caller.demand_person()?;
    state.identity.user(caller.user_id).await?.map(Json).ok_or_else(|| Problem::not_found("user"))
}

/// Change the own account.
#[utoipa::path(patch, path = "/auth/me", tag = "auth", request_body = UpdateMeRequest,
    responses((status = 200, body = User)))]
pub async fn update_me(
    State(state): State<AppState>,
    context: RequestContext,
    caller: Caller,
    JsonBody { value: request, .. }: JsonBody<UpdateMeRequest>,
) -> Result<Json<User>, Problem> {
    caller.session()?;
    let user = state.identity.rename(caller.user_id, &request.full_name, context.now).await?;
    user.map(Json).ok_or_else(|| Problem::not_found("user"))
}

/// The open sessions of the own account.
#[utoipa::path(get, path = "/auth/sessions", tag = "auth", responses((status = 200, body = SessionList)))]
pub async fn sessions(
    State(state): State<AppState>,
    context: RequestContext,
    caller: Caller,
) -> Result<Json<SessionList>, Problem> {
    caller.demand_person()?;
    let current = caller.session().ok();
    let items = state.identity.sessions(caller.user_id, current, context.now).await?;
    Ok(Json(SessionList { items }))
}

/// End a session of the own account. It acts on the next request.
#[utoipa::path(delete, path = "/auth/sessions/{id}", tag = "auth", params(("id" = Uuid, Path)), responses((status = 204)))]
pub async fn end_session(
    State(state): State<AppState>,
    context: RequestContext,
    caller: Caller,
    Path(id): Path<SessionId>,
) -> Result<StatusCode, Problem> {
    caller.session()?;
    let because = SessionEnd::Revoked;
    if state.identity.end_session(caller.user_id, id, because, context.now).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::not_found("session"))
    }
}

/// A ticket that opens one WebSocket within 30 seconds, where a browser can set no header.
#[utoipa::path(post, path = "/auth/ws-ticket", tag = "auth", responses((status = 201, body = TicketAnswer)))]
pub async fn ws_ticket(
    State(state): State<AppState>,
    context: RequestContext,
    caller: Caller,
) -> Result<(StatusCode, Json<TicketAnswer>), Problem> {
    let (ticket, expires_in) = state.identity.make_ticket(caller.session()?, context.now).await?;
    let ticket = ticket.expose_secret().to_owned();
    Ok((StatusCode::CREATED, Json(TicketAnswer { ticket, expires_in })))
}

/// The API keys of the own account.
#[utoipa::path(get, path = "/auth/api-keys", tag = "auth", responses((status = 200, body = ApiKeyList)))]
pub async fn api_keys(
    State(state): State<AppState>,
    context: RequestContext,
    caller: Caller,
) -> Result<Json<ApiKeyList>, Problem> {
    caller.session()?;
    let holder = KeyHolder::Person(caller.user_id);
    Ok(Json(ApiKeyList { items: state.identity.api_keys(holder, context.now).await? }))
}

/// Make an API key. It is shown this once.
#[utoipa::path(post, path = "/auth/api-keys", tag = "auth", request_body = ApiKeyRequest,
    responses((status = 201, body = CreatedApiKey)))]
pub async fn make_api_key(
    State(state): State<AppState>,
    context: RequestContext,
    caller: Caller,
    JsonBody { value: request, .. }: JsonBody<ApiKeyRequest>,
) -> Result<Response, Problem> {
    caller.session()?;
    let ApiKeyRequest { name, scopes, workspace_id, expires_in_days } = request;
    let wanted = NewApiKey { name, scopes, workspace_id, expires_in_days };
    let (by, client) = (caller.user_id, context.client());
    let holder = KeyHolder::Person(by);
    let made = state.identity.make_api_key(holder, by, wanted, &client, context.now);
    let created = made.await?;
    let location = format!("/api/v1/auth/api-keys/{}", created.api_key.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(created)).into_response())
}

/// End an API key. It acts on the next request.
#[utoipa::path(delete, path = "/auth/api-keys/{id}", tag = "auth", params(("id" = Uuid, Path)), responses((status = 204)))]
pub async fn end_api_key(
    State(state): State<AppState>,
    context: RequestContext,
    caller: Caller,
    Path(id): Path<ApiKeyId>,
) -> Result<StatusCode, Problem> {
    caller.session()?;
    let (holder, by) = (KeyHolder::Person(caller.user_id), caller.actor());
    if state.identity.end_api_key(holder, &by, id, context.now).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::not_found("API key"))
    }
}

/// The public keys with which anybody can verify our access tokens (RFC 7517).
#[utoipa::path(get, path = "/.well-known/jwks.json", tag = "auth", security(()), responses((status = 200, body = KeySet)))]
pub async fn jwks(State(state): State<AppState>) -> Response {
    let cache = [(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"))];
    (cache, Json(state.identity.keys().public())).into_response()
}

pub(super) fn signed_in(
    state: &AppState,
    status: StatusCode,
    tokens: TokenAnswer,
    cookies: bool,
) -> Response {
    let mut headers = HeaderMap::new();
    if cookies {
        let secure = state.config.http.secure();
        let auth = &state.config.auth;
        let access_ttl = auth.access_token_ttl_s;
        set_cookie(&mut headers, ACCESS_COOKIE, &tokens.access_token, "/", access_ttl, secure);
        let refresh_ttl = auth.refresh_token_ttl_s;
        let path = REFRESH_COOKIE_PATH;
        set_cookie(&mut headers, REFRESH_COOKIE, &tokens.refresh_token, path, refresh_ttl, secure);
    }
    (status, headers, Json(tokens)).into_response()
}

fn set_cookie(
    headers: &mut HeaderMap,
    name: &str,
    value: &str,
    path: &str,
    max_age_s: u32,
    secure: bool,
) {
    let secure = if secure { "; Secure" } else { "" };
    let text = format!(
        "{name}={value}; Path={path}; Max-Age={max_age_s}; HttpOnly; SameSite=Strict{secure}"
    );
    let value =
        HeaderValue::try_from(text).expect("tokens are base64url, so the cookie is a header value");
    headers.append(header::SET_COOKIE, value);
}
