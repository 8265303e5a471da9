//! Coming in with a code, a forgotten password, and proof that an address is one's own.

use axum::{
    Json,
    extract::{FromRequestParts, State},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::signed_in;
use crate::{
    app::AppState,
    extract::{Caller, JsonBody, RequestContext},
    identity::{
        code::{CODE_TTL, CodeAnswer, CodePurpose, Newcomer, RESET_TTL},
        session::TokenAnswer,
    },
    problem::Problem,
};

/// Who wants a code, and what for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CodeRequest {
    /// The address that the code is sent to.
    #[schema(example = "ada@example.com", format = Email, max_length = 254)]
    pub email: String,
    /// What the code is for.
    pub purpose: CodePurpose,
}

/// The same whether or not the address is known.
#[derive(Debug, Serialize, ToSchema)]
pub struct CodeSent {
    /// Always true.
    pub success: bool,
    /// What to do now.
    #[schema(example = "If this address can be used, a code is on its way to it.")]
    pub message: &'static str,
    /// For how many seconds the code is good.
    #[schema(example = 300)]
    pub expires_in: i64,
}

/// A code that arrived.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CodeProof {
    /// The address that it was sent to.
    #[schema(example = "ada@example.com")]
    pub email: String,
    /// What it is for; as it was asked for.
    pub purpose: CodePurpose,
    /// The six digits.
    #[schema(value_type = String, example = "123456", min_length = 6, max_length = 6)]
    pub code: SecretString,
    /// The name that others see; needed to sign up.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 255)]
    pub full_name: Option<String>,
    /// A password, to sign up with one beside codes.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = Password, min_length = 12, max_length = 1024)]
    pub password: Option<SecretString>,
    /// Whether the tokens are also set as httpOnly cookies, for browsers.
    #[serde(default)]
    pub cookies: bool,
}

/// What a right code to set a new password gives.
#[derive(Debug, Serialize, ToSchema)]
pub struct ResetAnswer {
    /// Goes with the new password to `POST /auth/password`, once.
    pub reset_token: String,
    /// For how many seconds it is good.
    #[schema(example = 600)]
    pub expires_in: i64,
}

/// What a right code gives: a session, or the right to set a new password.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum CodeOutcome {
    /// To sign in and to sign up.
    SignedIn(TokenAnswer),
    /// To set a new password.
    MayReset(ResetAnswer),
}

/// A new password, by the old one or by the token that a code gave.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PasswordRequest {
    /// The one so far; needs a session.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = Password)]
    pub old_password: Option<SecretString>,
    /// What `POST /auth/verify-otp` gave for the purpose `reset`; needs no session.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub reset_token: Option<SecretString>,
    /// The one from now on.
    #[schema(value_type = String, format = Password, min_length = 12, max_length = 1024)]
    pub new_password: SecretString,
}

/// The token of a link that arrived by mail.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifyEmailRequest {
    /// What stands behind `#verify=` in the link.
    #[schema(value_type = String)]
    pub token: SecretString,
}

/// Send a code of six digits to an address. The answer is the same whether or not the address is known.
#[utoipa::path(post, path = "/auth/request-otp", tag = "auth", security(()), request_body = CodeRequest,
    responses((status = 200, body = CodeSent)))]
pub async fn request_otp(
    State(state): State<AppState>,
    context: RequestContext,
    JsonBody { value: request, .. }: JsonBody<CodeRequest>,
) -> Result<Json<CodeSent>, Problem> {
    let CodeRequest { email, purpose } = request;
    state.identity.request_code(&email, purpose, &context.client(), context.now).await?;
    Ok(Json(CodeSent {
        success: true,
        message: "If this address can be used, a code is on its way to it.",
        expires_in: CODE_TTL.num_seconds(),
    }))
}

/// Come in with a code. It is good once, and dies after five wrong tries.
#[utoipa::path(post, path = "/auth/verify-otp", tag = "auth", security(()), request_body = CodeProof,
    responses((status = 200, body = CodeOutcome)))]
pub async fn verify_otp(
    State(state): State<AppState>,
    context: RequestContext,
    JsonBody { value: proof, .. }: JsonBody<CodeProof>,
) -> Result<Response, Problem> {
    let CodeProof { email, purpose, code, full_name, password, cookies } = proof;
    let newcomer = full_name.map(|full_name| Newcomer { full_name, password });
    let client = context.client();
    let code = code.expose_secret();
    let answer = state.identity.verify_code(&email, purpose, code, newcomer, &client, context.now);
    match answer.await? {
        CodeAnswer::SignedIn(tokens) => Ok(signed_in(&state, StatusCode::OK, *tokens, cookies)),
        CodeAnswer::MayReset { reset_token } => Ok(Json(ResetAnswer {
            reset_token: reset_token.expose_secret().to_owned(),
            expires_in: RESET_TTL.num_seconds(),
        })
        .into_response()),
    }
}

/// Set a new password: with the old one (all other sessions end), or with the token that a code gave (all sessions end).
#[utoipa::path(post, path = "/auth/password", tag = "auth", request_body = PasswordRequest, responses((status = 204)))]
pub async fn password(
    State(state): State<AppState>,
    mut parts: Parts,
    context: RequestContext,
    body: Result<JsonBody<PasswordRequest>, Problem>,
) -> Result<StatusCode, Problem> {
    let by_token = body.as_ref().is_ok_and(|body| body.value.reset_token.is_some());
    if by_token {
        let PasswordRequest { reset_token, new_password, old_password } = body?.value;
        if old_password.is_some() {
            return Err(one_proof());
        }
        let token = reset_token.unwrap_or_default();
        let client = context.client();
        state.identity.reset_password(&token, new_password, &client, context.now).await?;
        return Ok(StatusCode::NO_CONTENT);
    }
    // Whoever is not signed in learns that, and not what is wrong with the body.
    let caller = Caller::from_request_parts(&mut parts, &state).await?;
    let session = caller.session()?;
    let PasswordRequest { old_password, new_password, .. } = body?.value;
    let old_password = old_password.ok_or_else(one_proof)?;
    let user = state.identity.user(caller.user_id).await?;
    let user = user.ok_or_else(|| Problem::not_found("user"))?;
    let (client, now) = (context.client(), context.now);
    let changed =
        state.identity.change_password(&user, session, old_password, new_password, &client, now);
    changed.await?;
    Ok(StatusCode::NO_CONTENT)
}

fn one_proof() -> Problem {
    Problem::invalid("/old_password", "required", "either this or `reset_token` must be given")
}

/// Send the link that verifies the own address once more.
#[utoipa::path(post, path = "/auth/request-verification", tag = "auth", responses((status = 202)))]
pub async fn request_verification(
    State(state): State<AppState>,
    context: RequestContext,
    caller: Caller,
) -> Result<StatusCode, Problem> {
    caller.session()?;
    let user = state.identity.user(caller.user_id).await?;
    let user = user.ok_or_else(|| Problem::not_found("user"))?;
    state.identity.request_verification(&user, context.now).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Verify an address with the token of the link that was sent to it.
#[utoipa::path(post, path = "/auth/verify-email", tag = "auth", security(()), request_body = VerifyEmailRequest,
    responses((status = 204)))]
pub async fn verify_email(
    State(state): State<AppState>,
    context: RequestContext,
    JsonBody { value: request, .. }: JsonBody<VerifyEmailRequest>,
) -> Result<StatusCode, Problem> {
    state.identity.verify_address(&request.token, context.now).await?;
    Ok(StatusCode::NO_CONTENT)
}
