//! The second factor of the own account, and the second step of signing in with one.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use utoipa::ToSchema;

use super::signed_in;
use crate::{
    app::AppState,
    extract::{
        Caller, JsonBody, RequestContext,
        caller::{BROWSER_COOKIE, cookie},
    },
    identity::{
        account::User,
        second_factor::{Enrolment, RecoveryCodes, SecondFactorView},
        session::TokenAnswer,
    },
    problem::Problem,
};

/// Who wants a second factor.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BeginRequest {
    /// The password; left out where the account has none.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub password: Option<SecretString>,
}

/// A code of the second factor.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CodeOfApp {
    /// What the authenticator app shows, or (once it is on) a recovery code.
    #[schema(value_type = String, example = "287082")]
    pub code: SecretString,
}

/// Who wants no second factor any more.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveRequest {
    /// The password; left out where the account has none.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub password: Option<SecretString>,
    /// What the authenticator app shows, or a recovery code.
    #[schema(value_type = String, example = "287082")]
    pub code: SecretString,
}

/// The second step of signing in.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ContinueRequest {
    /// What the first step gave.
    #[schema(value_type = String)]
    pub challenge: SecretString,
    /// What the authenticator app shows, or a recovery code; left out where the account has no second factor.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "287082")]
    pub code: Option<SecretString>,
    /// Whether the tokens are also set as httpOnly cookies, for browsers.
    #[serde(default)]
    pub cookies: bool,
}

/// How the second factor of the own account stands.
#[utoipa::path(get, path = "/auth/totp", tag = "auth", responses((status = 200, body = SecondFactorView)))]
pub async fn get(
    State(state): State<AppState>,
    caller: Caller,
) -> Result<Json<SecondFactorView>, Problem> {
    caller.session()?;
    Ok(Json(state.identity.second_factor(caller.user_id).await?))
}

/// Begin a second factor: a secret for an authenticator app. It counts once it is confirmed with a code.
#[utoipa::path(post, path = "/auth/totp", tag = "auth", request_body = BeginRequest,
    responses((status = 201, body = Enrolment)))]
pub async fn begin(
    State(state): State<AppState>,
    context: RequestContext,
    caller: Caller,
    JsonBody { value: request, .. }: JsonBody<BeginRequest>,
) -> Result<(StatusCode, Json<Enrolment>), Problem> {
    let session = caller.session()?;
    let user = own(&state, &caller).await?;
    let (password, now) = (request.password, context.now);
    let begun = state.identity.begin_second_factor(&user, session, password, now).await?;
    Ok((StatusCode::CREATED, Json(begun)))
}

/// Turn the second factor on with a code of the app. All other sessions end. The recovery codes are shown this once.
#[utoipa::path(post, path = "/auth/totp/confirm", tag = "auth", request_body = CodeOfApp,
    responses((status = 200, body = RecoveryCodes)))]
pub async fn confirm(
    State(state): State<AppState>,
    context: RequestContext,
    caller: Caller,
    JsonBody { value: request, .. }: JsonBody<CodeOfApp>,
) -> Result<Json<RecoveryCodes>, Problem> {
    let (session, code) = (caller.session()?, request.code.expose_secret());
    let identity = &state.identity;
    identity.confirm_second_factor(caller.user_id, session, code, context.now).await.map(Json)
}

/// Get new recovery codes. Those before are good no more.
#[utoipa::path(post, path = "/auth/totp/recovery-codes", tag = "auth", request_body = CodeOfApp,
    responses((status = 200, body = RecoveryCodes)))]
pub async fn recovery_codes(
    State(state): State<AppState>,
    context: RequestContext,
    caller: Caller,
    JsonBody { value: request, .. }: JsonBody<CodeOfApp>,
) -> Result<Json<RecoveryCodes>, Problem> {
    caller.session()?;
    let code = request.code.expose_secret();
    state.identity.renew_recovery_codes(caller.user_id, code, context.now).await.map(Json)
}

/// Turn the second factor off, with the password and a code.
#[utoipa::path(post, path = "/auth/totp/remove", tag = "auth", request_body = RemoveRequest, responses((status = 204)))]
pub async fn remove(
    State(state): State<AppState>,
    context: RequestContext,
    caller: Caller,
    JsonBody { value: request, .. }: JsonBody<RemoveRequest>,
) -> Result<StatusCode, Problem> {
    let session = caller.session()?;
    let user = own(&state, &caller).await?;
    let RemoveRequest { password, code } = request;
    let (code, now) = (code.expose_secret(), context.now);
    state.identity.remove_second_factor(&user, session, password, code, now).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Go on with signing in where the first step answered a challenge. It is good once and takes five tries.
#[utoipa::path(post, path = "/auth/login/continue", tag = "auth", security(()), request_body = ContinueRequest,
    responses((status = 200, body = TokenAnswer)))]
pub async fn go_on(
    State(state): State<AppState>,
    headers: HeaderMap,
    context: RequestContext,
    JsonBody { value: request, .. }: JsonBody<ContinueRequest>,
) -> Result<Response, Problem> {
    let ContinueRequest { challenge, code, cookies } = request;
    let code = code.as_ref().map(ExposeSecret::expose_secret);
    let browser = cookie(&headers, BROWSER_COOKIE);
    let (client, now) = (context.client(), context.now);
    let answer =
        state.identity.answer_challenge(&challenge, code, browser.as_deref(), &client, now);
    Ok(signed_in(&state, StatusCode::OK, answer.await?, cookies))
}

async fn own(state: &AppState, caller: &Caller) -> Result<User, Problem> {
    let user = state.identity.user(caller.user_id).await?;
    user.ok_or_else(|| Problem::not_found("user"))
}
