//! One provider: what its discovery document says, its keys, and the exchange of a code. Fetched when needed and kept for a while.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::jwk::Jwk;
use ledgerline_worker::outbound::{self, OutboundError, Reach, Redirects};
use reqwest::{RequestBuilder, StatusCode, header};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::sync::{Mutex, OnceCell};
use url::{Url, form_urlencoded};

use crate::config::OidcConfig;

/// How long what a provider says of itself is kept.
const KEPT: TimeDelta = TimeDelta::minutes(10);
/// How often a key that is not known may make the keys be read again, so that forged tokens are no load for a provider.
const REREAD_AFTER: TimeDelta = TimeDelta::seconds(10);
/// For how long a provider that failed is not asked again, so that a queue of browsers does not wait for each timeout in turn.
const PAUSE_AFTER_FAILURE: TimeDelta = TimeDelta::seconds(2);
/// How long one request to a provider may take, all of it.
const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);
/// The longest document of a provider: those of the large ones have some kilobytes.
const MAX_DOCUMENT_BYTES: usize = 256 * 1024;
/// How many keys of a provider are looked at.
const MAX_KEYS: usize = 100;

/// Why a provider cannot be used right now, or refuses.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProviderError {
    /// It cannot be reached, takes too long, or failed a moment ago.
    #[error("the provider is away: {0}")]
    Away(String),
    /// What it answers is not what it must be.
    #[error("the provider answers nonsense: {0}")]
    Nonsense(&'static str),
    /// It does not accept the code.
    #[error("the provider refuses the code with {0}")]
    Refused(StatusCode),
    /// An address that it names may not be asked.
    #[error("the provider leads where nobody may go")]
    Outbound(#[from] OutboundError),
}

/// What a discovery document says, as far as it is needed.
#[derive(Debug, Deserialize)]
struct Discovery {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
}

/// What is known of a provider.
#[derive(Debug)]
pub struct Known {
    /// Where browsers are sent.
    pub authorization_endpoint: Url,
    token_endpoint: Url,
    jwks_uri: Url,
    /// Whether the client's secret goes in the header; else in the body.
    basic: bool,
    keys: Arc<[Jwk]>,
    read_at: DateTime<Utc>,
    keys_read_at: DateTime<Utc>,
}

#[derive(Debug, Default)]
struct Memory {
    known: Option<Arc<Known>>,
    failed: Option<(DateTime<Utc>, ProviderError)>,
}

/// A provider.
pub struct Provider {
    /// What the deployment says of it.
    pub config: OidcConfig,
    reach: Arc<Reach>,
    client: OnceCell<reqwest::Client>,
    /// Locked while it is asked: browsers that come meanwhile wait for the one answer.
    memory: Mutex<Memory>,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct TokenResponse {
    id_token: SecretString,
}

impl Provider {
    /// A provider that was not asked yet.
    #[must_use]
    pub fn new(config: OidcConfig, reach: Arc<Reach>) -> Self {
        Self { config, reach, client: OnceCell::new(), memory: Mutex::default() }
    }

    /// What it says of itself: as read within the last minutes, or read now.
    ///
    /// # Errors
    /// [`ProviderError`].
    pub async fn known(&self, now: DateTime<Utc>) -> Result<Arc<Known>, ProviderError> {
        let mut memory = self.memory.lock().await;
        if let Some(known) = memory.known.as_ref().filter(|known| now - known.read_at < KEPT) {
            return Ok(Arc::clone(known));
        }
        if let Some((at, error)) = &memory.failed
            && now - *at < PAUSE_AFTER_FAILURE
        {
            return Err(error.clone());
        }
        match self.discover(now).await {
            Ok(known) => {
                let known = Arc::new(known);
                *memory = Memory { known: Some(Arc::clone(&known)), failed: None };
                Ok(known)
            }
            Err(error) => {
                *memory = Memory { known: None, failed: Some((now, error.clone())) };
                Err(error)
            }
        }
    }

    /// The keys with which a token may be checked. Where they do not hold the one that it names, they are read again: providers change
    /// their keys as they like.
    ///
    /// # Errors
    /// [`ProviderError`].
    pub async fn keys_for(
        &self,
        token: &str,
        now: DateTime<Utc>,
    ) -> Result<Arc<[Jwk]>, ProviderError> {
        let known = self.known(now).await?;
        let kid = jsonwebtoken::decode_header(token).ok().and_then(|header| header.kid);
        let has = |known: &Known| known.keys.iter().any(|key| key.common.key_id == kid);
        if has(&known) {
            return Ok(Arc::clone(&known.keys));
        }
        let mut memory = self.memory.lock().await;
        let last = memory.known.clone().unwrap_or(known);
        if has(&last) || now - last.keys_read_at < REREAD_AFTER {
            return Ok(Arc::clone(&last.keys));
        }
        let keys = self.read_keys(&last.jwks_uri).await?;
        memory.known = Some(Arc::new(Known {
            authorization_endpoint: last.authorization_endpoint.clone(),
            token_endpoint: last.token_endpoint.clone(),
            jwks_uri: last.jwks_uri.clone(),
            basic: last.basic,
            keys: Arc::clone(&keys),
            read_at: last.read_at,
            keys_read_at: now,
        }));
        Ok(keys)
    }

    /// Exchanges a code for an ID token.
    ///
    /// # Errors
    /// [`ProviderError`].
    pub async fn exchange(
        &self,
        code: &str,
        code_verifier: &str,
        redirect_uri: &Url,
        now: DateTime<Utc>,
    ) -> Result<SecretString, ProviderError> {
        let known = self.known(now).await?;
        let (body, authorization) = self.exchange_form(&known, code, code_verifier, redirect_uri);
        let mut request = self
            .client()
            .await?
            .post(known.token_endpoint.clone())
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(body);
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let answer: TokenResponse = fetch(request).await?;
        Ok(answer.id_token)
    }

    /// The body of an exchange, and the header that names the client where the provider takes one.
    fn exchange_form(
        &self,
        known: &Known,
        code: &str,
        code_verifier: &str,
        redirect_uri: &Url,
    ) -> (String, Option<String>) {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "authorization_code")
            .append_pair("code", code)
            .append_pair("redirect_uri", redirect_uri.as_str())
            .append_pair("code_verifier", code_verifier);
        let id = &self.config.client_id;
        let secret = self.config.client_secret.as_ref().map(ExposeSecret::expose_secret);
        if let Some(secret) = secret.filter(|_| known.basic) {
            // Each half is form-encoded before they are joined (RFC 6749, 2.3.1).
            let half = |text: &str| -> String {
                form_urlencoded::byte_serialize(text.as_bytes()).collect()
            };
            let pair = STANDARD.encode(format!("{}:{}", half(id), half(secret)));
            return (form.finish(), Some(format!("Basic {pair}")));
        }
        form.append_pair("client_id", id);
        if let Some(secret) = secret {
            form.append_pair("client_secret", secret);
        }
        (form.finish(), None)
    }

    async fn discover(&self, now: DateTime<Utc>) -> Result<Known, ProviderError> {
        let issuer = self.config.issuer.trim_end_matches('/');
        let url = self.address(&format!("{issuer}/.well-known/openid-configuration"))?;
        let said: Discovery = fetch(self.client().await?.get(url)).await?;
        if said.issuer != self.config.issuer {
            return Err(ProviderError::Nonsense("it says that it is another issuer"));
        }
        let jwks_uri = self.address(&said.jwks_uri)?;
        let basic = said
            .token_endpoint_auth_methods_supported
            .is_none_or(|methods| methods.iter().any(|method| method == "client_secret_basic"));
        Ok(Known {
            authorization_endpoint: self.address(&said.authorization_endpoint)?,
            token_endpoint: self.address(&said.token_endpoint)?,
            basic,
            keys: self.read_keys(&jwks_uri).await?,
            jwks_uri,
            read_at: now,
            keys_read_at: now,
        })
    }

    async fn read_keys(&self, jwks_uri: &Url) -> Result<Arc<[Jwk]>, ProviderError> {
        let set: KeySet = fetch(self.client().await?.get(jwks_uri.clone())).await?;
        // A kind of key that is not known is none of ours.
        let keys = set.keys.into_iter().take(MAX_KEYS);
        Ok(keys.filter_map(|key| serde_json::from_value(key).ok()).collect())
    }

    /// An address that may be asked; without encryption only where the issuer itself has none.
    fn address(&self, text: &str) -> Result<Url, ProviderError> {
        let url = outbound::check(text, &self.reach)?;
        if url.scheme() == "https" || self.config.issuer.starts_with("http://") {
            Ok(url)
        } else {
            Err(ProviderError::Nonsense("it names an address without encryption"))
        }
    }

    async fn client(&self) -> Result<&reqwest::Client, ProviderError> {
        let make = || async { outbound::client(Arc::clone(&self.reach), Redirects::SameOrigin) };
        self.client.get_or_try_init(make).await.map_err(|error| away(&error))
    }
}

fn away(error: &(dyn std::error::Error + 'static)) -> ProviderError {
    ProviderError::Away(crate::problem::chain(error))
}

/// Reads one JSON document, bounded in time and length.
async fn fetch<T: DeserializeOwned>(request: RequestBuilder) -> Result<T, ProviderError> {
    let request = request.header(header::ACCEPT, "application/json").timeout(TIMEOUT);
    let mut response = request.send().await.map_err(|error| away(&error.without_url()))?;
    let status = response.status();
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        return Err(ProviderError::Away(format!("it answers {status}")));
    }
    if status != StatusCode::OK {
        return Err(ProviderError::Refused(status));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| away(&error.without_url()))? {
        if body.len() + chunk.len() > MAX_DOCUMENT_BYTES {
            return Err(ProviderError::Nonsense("a document that is too long"));
        }
        body.extend_from_slice(&chunk);
    }
    serde_json::from_slice(&body)
        .map_err(|_| ProviderError::Nonsense("a document that is not what it must be"))
}
