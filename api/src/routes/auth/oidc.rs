//! Sign-in with other providers. A browser walks through these; what goes wrong is told by the page it ends on, not by a problem document.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    app::AppState,
    extract::{
        Path, Query, RequestContext,
        caller::{BROWSER_COOKIE, cookie},
    },
    oidc::{self, Returned, SignInError},
    problem::Problem,
    router::BASE_PATH,
};

/// Where the browser's cookie is sent.
const COOKIE_PATH: &str = "/api/v1/auth";
/// For how long: as long as somebody may take at the provider, and then for the second factor.
const COOKIE_TTL_S: u32 = 15 * 60;

/// A provider that people may sign in with.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProviderView {
    /// Its name in paths.
    #[schema(example = "example")]
    pub id: String,
    /// What the button says.
    #[schema(example = "Example")]
    pub title: String,
    /// Where the button leads.
    #[schema(example = "/api/v1/auth/oidc/example/start")]
    pub start: String,
}

/// The providers of a deployment.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProviderList {
    /// In the order in which they are configured.
    pub items: Vec<ProviderView>,
}

/// What a provider sends a browser back with. Others than these are its own and are not looked at.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub struct CallbackQuery {
    /// What is exchanged for an ID token.
    pub code: Option<String>,
    /// What went out.
    pub state: Option<String>,
    /// Why there is no code.
    pub error: Option<String>,
    /// Who answers (RFC 9207).
    pub iss: Option<String>,
}

/// The providers that people may sign in with.
#[utoipa::path(get, path = "/auth/oidc", tag = "auth", security(()), responses((status = 200, body = ProviderList)))]
pub async fn list(State(state): State<AppState>) -> Json<ProviderList> {
    let view = |config: &crate::config::OidcConfig| ProviderView {
        id: config.id.clone(),
        title: config.title.clone(),
        start: format!("{BASE_PATH}/auth/oidc/{}/start", config.id),
    };
    let items = state.oidc.iter().map(|provider| view(&provider.config)).collect();
    Json(ProviderList { items })
}

/// Send a browser to a provider to sign in there.
#[utoipa::path(get, path = "/auth/oidc/{provider}/start", tag = "auth", security(()),
    params(("provider" = String, Path)), responses((status = 303, description = "To the provider, or back to the first page with `#sign-in-failed=<why>`")))]
pub async fn start(
    State(state): State<AppState>,
    context: RequestContext,
    Path(provider): Path<String>,
) -> Result<Response, Problem> {
    let provider = state.oidc.get(&provider)?;
    match oidc::begin(&state, provider, &context.client(), context.now).await {
        Err(error) => Ok(failed(&provider.config.id, &error)),
        Ok(begun) => {
            let secure = if state.config.http.secure() { "; Secure" } else { "" };
            // Lax, because the browser comes back from another site.
            let cookie = format!(
                "{BROWSER_COOKIE}={}; Path={COOKIE_PATH}; Max-Age={COOKIE_TTL_S}; HttpOnly; SameSite=Lax{secure}",
                begun.browser.expose_secret()
            );
            let mut response = to(begun.location.as_str());
            let cookie = HeaderValue::try_from(cookie)
                .expect("a token is base64url, so it is a header value");
            response.headers_mut().insert(header::SET_COOKIE, cookie);
            Ok(response)
        }
    }
}

/// Take a browser back from a provider. It goes on with `POST /auth/login/continue`.
#[utoipa::path(get, path = "/auth/oidc/{provider}/callback", tag = "auth", security(()),
    params(("provider" = String, Path), CallbackQuery),
    responses((status = 303, description = "To the first page with `#sign-in=<challenge>` or `#sign-in-failed=<why>`")))]
pub async fn callback(
    State(state): State<AppState>,
    headers: HeaderMap,
    context: RequestContext,
    Path(provider): Path<String>,
    Query(query): Query<CallbackQuery>,
) -> Result<Response, Problem> {
    let provider = state.oidc.get(&provider)?;
    let CallbackQuery { code, state: sent, error, iss } = query;
    let returned = Returned { code, state: sent, error, iss };
    let browser = cookie(&headers, BROWSER_COOKIE);
    let back = oidc::come_back(&state, provider, returned, browser.as_deref(), context.now);
    match back.await {
        Ok(challenge) => Ok(to(&format!("/#sign-in={}", challenge.expose_secret()))),
        Err(error) => Ok(failed(&provider.config.id, &error)),
    }
}

fn failed(provider: &str, error: &SignInError) -> Response {
    let why = error.word();
    let detail = crate::problem::chain(error);
    tracing::info!(provider, why, detail, "a sign-in with a provider failed");
    metrics::counter!("auth_federated_failures_total", "why" => why).increment(1);
    to(&format!("/#sign-in-failed={why}"))
}

/// Nothing of it is kept: what stands behind `#` is good once.
fn to(location: &str) -> Response {
    let location =
        HeaderValue::try_from(location).expect("a URL is ASCII without control characters");
    let kept = HeaderValue::from_static("no-store");
    let headers = [(header::LOCATION, location), (header::CACHE_CONTROL, kept)];
    (StatusCode::SEE_OTHER, headers).into_response()
}
