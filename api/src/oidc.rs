//! Signing in with other providers: OpenID Connect, any provider by discovery.
//!
//! Authorization code with PKCE, state and nonce. A browser is sent to the provider ([`begin`]) with a state that is good once and for
//! that browser, and comes back ([`come_back`]) with a code, which is exchanged for an ID token; that is checked ([`id_token`]) against
//! the provider's keys ([`provider`]). Who it names is then found or made ([`crate::identity::federated`]), and the browser gets a
//! challenge for the rest of the sign-in, because a redirect can carry no tokens.
//!
//! What is fetched goes through the same guard as the requests of workflows ([`ledgerline_worker::outbound`]): an issuer is named by an
//! operator, but where its documents lead is the provider's word.

pub mod id_token;
pub mod provider;

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use ledgerline_store::seal::MasterKey;
use ledgerline_worker::outbound::Reach;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use url::Url;

use self::{
    id_token::Expected,
    provider::{Provider, ProviderError},
};
use crate::{
    app::AppState,
    config::OidcConfig,
    identity::{
        federated::{Federated, Refused},
        session::Client,
        token,
    },
    problem::{Problem, ProblemKind},
    router::BASE_PATH,
};

/// The first letters of a state.
const STATE_PREFIX: &str = "lls_";
/// The first letters of the cookie that marks a browser.
const BROWSER_PREFIX: &str = "llb_";

/// The providers of a deployment. Cheap to clone.
#[derive(Clone)]
pub struct Providers(Arc<[Provider]>);

impl std::fmt::Debug for Providers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|provider| &provider.config.id)).finish()
    }
}

impl Providers {
    /// Those that are configured.
    #[must_use]
    pub fn new(configured: &[OidcConfig], reach: &Arc<Reach>) -> Self {
        let provider = |config: &OidcConfig| Provider::new(config.clone(), Arc::clone(reach));
        Self(configured.iter().map(provider).collect())
    }

    /// All of them, in the order in which they are configured.
    pub fn iter(&self) -> impl Iterator<Item = &Provider> {
        self.0.iter()
    }

    /// The one with a name.
    ///
    /// # Errors
    /// 404 where there is none.
    pub fn get(&self, id: &str) -> Result<&Provider, Problem> {
        let found = self.0.iter().find(|provider| provider.config.id == id);
        found.ok_or_else(|| Problem::not_found("sign-in provider"))
    }
}

/// Why a browser that came back is not signed in. Its word goes to the page, the rest to the log.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    /// The state is unknown, used, too old, or of another browser or provider.
    #[error("the state is unknown, used, too old, or another browser's")]
    State,
    /// The provider says that the person did not agree, or that something else is in the way.
    #[error("the provider answered {0:?}")]
    Denied(String),
    /// The provider cannot be asked, or does not answer as it must.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// The ID token is not good.
    #[error("the ID token is refused")]
    Token(#[from] id_token::Refused),
    /// Who it names is not let in.
    #[error(transparent)]
    Person(#[from] Refused),
    /// Something of ours.
    #[error(transparent)]
    Ours(#[from] Problem),
}

impl SignInError {
    /// The word for the page: what a person can do about it differs, the details do not help them.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Denied(_) => "denied",
            Self::Provider(ProviderError::Refused(_)) | Self::Token(_) => "refused",
            Self::Provider(_) => "away",
            Self::Person(refused) => refused.word(),
            Self::Ours(problem) => match problem.kind() {
                ProblemKind::TooManyRequests => "too_many",
                _ => "away",
            },
        }
    }
}

/// Where a browser is sent, and the cookie that marks it.
#[derive(Debug)]
pub struct Begun {
    /// The provider's page, with everything in it.
    pub location: Url,
    /// The value of the cookie.
    pub browser: SecretString,
}

/// What a provider sends a browser back with.
#[derive(Debug, Default)]
pub struct Returned {
    /// The code to exchange.
    pub code: Option<String>,
    /// The state that went out.
    pub state: Option<String>,
    /// Why there is no code.
    pub error: Option<String>,
    /// Who answers (RFC 9207).
    pub iss: Option<String>,
}

/// Sends a browser to a provider.
///
/// # Errors
/// [`SignInError`] when the provider or the database is away, or after many tries.
pub async fn begin(
    state: &AppState,
    provider: &Provider,
    client: &Client,
    now: DateTime<Utc>,
) -> Result<Begun, SignInError> {
    let known = provider.known(now).await?;
    let (sent, browser) = (token::opaque(STATE_PREFIX), token::opaque(BROWSER_PREFIX));
    state.identity.begin_federated(&provider.config.id, &sent, &browser, client, now).await?;
    let secrets = Secrets::of(state.sealed.master(), sent.expose_secret())?;
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(&secrets.code_verifier));
    let mut location = known.authorization_endpoint.clone();
    location
        .query_pairs_mut()
        .append_pair("response_type", "code")
        .append_pair("client_id", &provider.config.client_id)
        .append_pair("redirect_uri", redirect_uri(state, provider).as_str())
        .append_pair("scope", "openid email profile")
        .append_pair("state", sent.expose_secret())
        .append_pair("nonce", &secrets.nonce)
        .append_pair("code_challenge", &challenge)
        .append_pair("code_challenge_method", "S256");
    Ok(Begun { location, browser })
}

/// Takes a browser back from a provider: gives the challenge with which it goes on.
///
/// # Errors
/// [`SignInError`].
pub async fn come_back(
    state: &AppState,
    provider: &Provider,
    returned: Returned,
    browser: Option<&str>,
    now: DateTime<Utc>,
) -> Result<SecretString, SignInError> {
    // The state first: without it nobody here began anything, and nothing else of it is looked at.
    let sent = returned.state.filter(|sent| token::looks_like(sent, STATE_PREFIX));
    let (sent, browser) = sent.zip(browser).ok_or(SignInError::State)?;
    let id = &provider.config.id;
    if !state.identity.end_federated(id, &sent, browser, now).await? {
        return Err(SignInError::State);
    }
    if let Some(error) = returned.error {
        return Err(SignInError::Denied(error.chars().take(100).collect()));
    }
    // Mix-up: an answer of one provider that is brought to another.
    if returned.iss.is_some_and(|iss| iss != provider.config.issuer) {
        return Err(id_token::Refused::Issuer.into());
    }
    let code = returned.code.ok_or_else(|| SignInError::Denied("no code".to_owned()))?;
    let secrets = Secrets::of(state.sealed.master(), &sent)?;
    let redirect = redirect_uri(state, provider);
    let token = provider.exchange(&code, &secrets.code_verifier, &redirect, now).await?;
    let keys = provider.keys_for(token.expose_secret(), now).await?;
    let expected = Expected {
        issuer: &provider.config.issuer,
        client_id: &provider.config.client_id,
        nonce: &secrets.nonce,
        now,
    };
    let said = id_token::verify(token.expose_secret(), &keys, &expected)?;
    let person = Federated {
        issuer: provider.config.issuer.clone(),
        subject: said.subject,
        verified_email: said.verified_email,
        full_name: said.full_name,
    };
    let domains = &provider.config.allowed_domains;
    let user = state.identity.federated_user(&person, domains, now).await?;
    Ok(state.identity.challenge_browser(user, browser, now).await?)
}

/// Where the provider sends browsers back to; it is registered there.
fn redirect_uri(state: &AppState, provider: &Provider) -> Url {
    let mut url = state.config.http.public_url.clone();
    url.set_path(&format!("{BASE_PATH}/auth/oidc/{}/callback", provider.config.id));
    url
}

/// What belongs to a state and is not to be known to who sees it: both follow from it under the master key, so nothing is stored.
struct Secrets {
    nonce: String,
    code_verifier: String,
}

impl Secrets {
    fn of(master: &MasterKey, sent: &str) -> Result<Self, Problem> {
        let derive = |what: &str| {
            let digest = Sha256::digest(format!("federated sign-in\n{what}\n{sent}"));
            let derived = master.fingerprint(digest.into());
            derived
                .map(|bytes| URL_SAFE_NO_PAD.encode(bytes))
                .map_err(|error| Problem::internal(&error))
        };
        Ok(Self { nonce: derive("nonce")?, code_verifier: derive("code verifier")? })
    }
}
