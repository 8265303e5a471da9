//! Who asks: the person behind an access token, an API key, a cookie or a WebSocket ticket, or the service account behind its key.

use axum::{
    extract::{FromRequestParts, MatchedPath},
    http::{HeaderMap, Method, header, request::Parts},
};
use chrono::{DateTime, Utc};
use ledgerline_commands::recorder;
use ledgerline_domain::{
    audit::Tally,
    event::Actor,
    id::{ApiKeyId, SessionId, UserId, WorkspaceId},
};

use super::{RequestContext, params};
use crate::{
    app::AppState,
    identity::{
        api_key::Scope,
        check::{Live, Presented},
        token,
    },
    problem::{Problem, ProblemKind},
    rate_limit::{Announcement, Policy},
};

/// The cookie with the access token.
pub const ACCESS_COOKIE: &str = "ledgerline_access";
/// The cookie with the refresh token, sent to the authentication routes only.
pub const REFRESH_COOKIE: &str = "ledgerline_refresh";
/// The cookie that marks a browser between two steps of signing in, sent to the authentication routes only.
pub const BROWSER_COOKIE: &str = "ledgerline_browser";
/// The word before a token among the WebSocket subprotocols.
const SUBPROTOCOL_BEARER: &str = "bearer.";
/// The longest token that is looked at.
const MAX_TOKEN_BYTES: usize = 4_096;

/// What somebody is signed in with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A session of a person, by access token, cookie or ticket.
    Session(SessionId),
    /// A key that acts for a person, or as a service account.
    ApiKey(ApiKeyId),
}

/// A person or a service account that is signed in; the session or key was looked up for this request.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who: the person, or the service account.
    pub user_id: UserId,
    /// With what.
    pub credential: Credential,
    /// Whether it is an operator of the deployment, signed in as a person: a key is never one.
    pub operator: bool,
    /// Until when the session or key is good, for what outlives the request (sockets).
    pub expires_at: DateTime<Utc>,
    live: Live,
}

impl Caller {
    /// The session, for what only a person may do, not a key.
    ///
    /// # Errors
    /// 403 for an API key.
    pub fn session(&self) -> Result<SessionId, Problem> {
        match self.credential {
            Credential::Session(session) => Ok(session),
            Credential::ApiKey(_) => {
                Err(Problem::forbidden("an API key may not do this; sign in as a person"))
            }
        }
    }

    /// Demands that the credential has a scope. A session has all.
    ///
    /// # Errors
    /// 403 for an API key without it.
    pub fn demand_scope(&self, scope: Scope) -> Result<(), Problem> {
        match &self.live.scopes {
            Some(scopes) if !scopes.contains(&scope) => {
                Err(Problem::forbidden(format!("the API key does not have the scope {scope:?}")))
            }
            _ => Ok(()),
        }
    }

    /// Demands that the credential reaches a workspace. Membership is another question.
    ///
    /// # Errors
    /// 404 for an API key of another workspace, as if there were none.
    pub fn demand_reach(&self, workspace: WorkspaceId) -> Result<(), Problem> {
        match self.live.workspace_id {
            Some(only) if only != workspace => Err(Problem::not_found("workspace")),
            _ => Ok(()),
        }
    }

    /// Demands a person, for what a service account has not: an account of its own.
    ///
    /// # Errors
    /// 403 for a service account.
    pub fn demand_person(&self) -> Result<(), Problem> {
        match self.live.service_account {
            false => Ok(()),
            true => {
                Err(Problem::forbidden("a service account is no person and has no own account"))
            }
        }
    }

    /// Whether it is a service account.
    #[must_use]
    pub fn is_service_account(&self) -> bool {
        self.live.service_account
    }

    /// The workspace that is the person's own.
    #[must_use]
    pub fn personal_workspace(&self) -> WorkspaceId {
        WorkspaceId::personal(self.user_id)
    }

    /// Where lists and creations go when the request names no workspace: a key's only one, or the personal one.
    #[must_use]
    pub fn default_workspace(&self) -> WorkspaceId {
        self.live.workspace_id.unwrap_or_else(|| self.personal_workspace())
    }

    /// The only workspace that an API key reaches; none where the credential reaches all of the person's.
    #[must_use]
    pub fn only_workspace(&self) -> Option<WorkspaceId> {
        self.live.workspace_id
    }

    /// Demands an operator of the deployment.
    ///
    /// # Errors
    /// 403 for everybody else.
    pub fn demand_operator(&self) -> Result<(), Problem> {
        if self.operator {
            Ok(())
        } else {
            Err(Problem::forbidden("only operators of this deployment may do this"))
        }
    }

    /// The name under which the log knows this person or service account.
    #[must_use]
    pub fn actor(&self) -> Actor {
        match self.live.service_account {
            false => Actor::Human { user_id: self.user_id },
            true => Actor::service_account(self.user_id),
        }
    }

    /// Looks up a token of any kind. Also for sockets, which ask again while they are open.
    ///
    /// # Errors
    /// 401 when it is not good, 503 when that cannot be found out.
    pub async fn of_token(
        state: &AppState,
        bearer: &str,
        now: DateTime<Utc>,
    ) -> Result<Self, Problem> {
        let (presented, credential) = match token::parse_api_key(bearer) {
            Some((id, hash)) => (Presented::ApiKey(id, hash), Credential::ApiKey(id)),
            None => {
                let claims =
                    state.identity.keys().verify(bearer, now).await.map_err(|refused| {
                        tracing::debug!(%refused, "an access token was refused");
                        Problem::unauthenticated(
                            "the access token is not good; refresh it or sign in",
                        )
                    })?;
                (Presented::Session(claims.sid), Credential::Session(claims.sid))
            }
        };
        Self::of_presented(state, presented, credential).await
    }

    /// Uses up a WebSocket ticket.
    ///
    /// # Errors
    /// 401 when it is not good, 503 when that cannot be found out.
    pub async fn of_ticket(
        state: &AppState,
        ticket: &str,
        now: DateTime<Utc>,
    ) -> Result<Self, Problem> {
        let session = state.identity.take_ticket(ticket, now).await?.ok_or_else(|| {
            Problem::unauthenticated("the ticket is unknown, used or too old; take a new one")
        })?;
        Self::of_presented(state, Presented::Session(session), Credential::Session(session)).await
    }

    /// Whether the session or key is still good, for what outlives the request that opened it.
    ///
    /// # Errors
    /// 401 when it is not, 503 when that cannot be found out.
    pub async fn still(&self, state: &AppState) -> Result<(), Problem> {
        match self.credential {
            Credential::Session(session) => {
                let presented = Presented::Session(session);
                Self::of_presented(state, presented, self.credential).await.map(|_| ())
            }
            Credential::ApiKey(id) => {
                if state.identity.api_key_is_good(id, state.clock.now()).await? {
                    return Ok(());
                }
                Err(Problem::unauthenticated("the API key is over"))
            }
        }
    }

    async fn of_presented(
        state: &AppState,
        presented: Presented,
        credential: Credential,
    ) -> Result<Self, Problem> {
        let live =
            state.identity.check(presented).await?.ok_or_else(|| {
                Problem::unauthenticated("the session or key is over; sign in again")
            })?;
        Ok(Self {
            user_id: live.user_id,
            credential,
            operator: live.operator && matches!(credential, Credential::Session(_)),
            expires_at: live.expires_at,
            live,
        })
    }
}

impl FromRequestParts<AppState> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        if let Some(known) = parts.extensions.get::<Self>() {
            return Ok(known.clone());
        }
        let RequestContext { now, ip, .. } =
            RequestContext::from_request_parts(parts, state).await?;
        let caller = match presented(parts)? {
            Token::Bearer(token) => Self::of_token(state, &token, now).await?,
            Token::Cookie(token) => {
                demand_same_site(parts, state)?;
                Self::of_token(state, &token, now).await?
            }
            Token::Ticket(ticket) => Self::of_ticket(state, &ticket, now).await?,
        };
        let route = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
        let policy = Policy::of(&parts.method, route);
        let announcement = parts.extensions.get::<Announcement>();
        state.rate_limits.count(caller.user_id, policy, now, announcement).await?;
        if !parts.method.is_safe() {
            // The finer question is each handler's; a key that may only look changes nothing anywhere.
            let may_change = [Scope::Write, Scope::Execute, Scope::Admin]
                .into_iter()
                .any(|scope| caller.demand_scope(scope).is_ok());
            if !may_change {
                return Err(Problem::forbidden("the API key may only read"));
            }
        }
        if let Credential::ApiKey(api_key_id) = caller.credential {
            let used = Tally::ApiKeyUsed {
                user_id: caller.user_id,
                service_account: caller.is_service_account(),
                api_key_id,
                workspace_id: caller.only_workspace(),
            };
            recorder::count(state.commands.tallies(), &used, None, ip, now);
        }
        tracing::Span::current().record("user_id", tracing::field::display(caller.user_id));
        parts.extensions.insert(caller.clone());
        Ok(caller)
    }
}

enum Token {
    Bearer(String),
    Cookie(String),
    Ticket(String),
}

/// The token of a request: the header before the subprotocol, that before a ticket, that before the cookie.
fn presented(parts: &Parts) -> Result<Token, Problem> {
    let headers = &parts.headers;
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let text = value.to_str().map_err(|_| Problem::malformed("Authorization is not text"))?;
        let token = text
            .split_once(' ')
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or_else(|| Problem::unauthenticated("Authorization must be Bearer and a token"))?;
        return bounded(token).map(Token::Bearer);
    }
    if parts.headers.contains_key(header::UPGRADE) || parts.method == Method::GET {
        if let Some(token) = subprotocol_token(headers) {
            return bounded(&token).map(Token::Bearer);
        }
        if let Some(ticket) = params::raw(&parts.uri, "ticket") {
            return bounded(&ticket).map(Token::Ticket);
        }
    }
    match cookie(headers, ACCESS_COOKIE) {
        Some(token) => bounded(&token).map(Token::Cookie),
        None => Err(Problem::unauthenticated("no access token came with the request")),
    }
}

fn bounded(token: &str) -> Result<String, Problem> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(Problem::unauthenticated("the token is too long to be one of ours"));
    }
    Ok(token.to_owned())
}

fn subprotocol_token(headers: &HeaderMap) -> Option<String> {
    headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(|name| name.trim().strip_prefix(SUBPROTOCOL_BEARER).map(str::to_owned))
}

/// The value of a cookie.
pub(crate) fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.to_owned())
}

/// A cookie comes by itself, so a request that changes something (or opens a socket) must be shown to come from our own pages.
///
/// # Errors
/// 403 when the browser does not say so.
pub(crate) fn demand_same_site(parts: &Parts, state: &AppState) -> Result<(), Problem> {
    let opens_socket = parts.headers.contains_key(header::UPGRADE);
    if parts.method.is_safe() && !opens_socket {
        return Ok(());
    }
    let text = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let ours = match text("sec-fetch-site") {
        Some(site) => site == "same-origin",
        None => text("origin").is_some_and(|origin| origin == state.config.http.own_origin()),
    };
    if ours {
        return Ok(());
    }
    Err(Problem::new(
        ProblemKind::CrossSiteRequest,
        "a request with a cookie must come from a page of this site; send Authorization in its place",
    ))
}
