//! The providers that people may sign in with.

use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;
use url::Url;

/// A provider that people may sign in with (OpenID Connect). It is told `<public_url>/api/v1/auth/oidc/<id>/callback` as the address to
/// send them back to.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OidcConfig {
    /// Its name in paths: lower-case letters, digits and hyphens.
    pub id: String,
    /// What the button says after "Sign in with".
    pub title: String,
    /// The issuer, exactly as its discovery document names itself. `https`; `http` only on the own machine.
    pub issuer: String,
    /// What the provider knows us by.
    pub client_id: String,
    /// What only the provider and we know. None: a public client.
    #[serde(default)]
    pub client_secret: Option<SecretString>,
    /// A file that holds it, in place of it.
    #[serde(default)]
    pub client_secret_file: Option<PathBuf>,
    /// Only people with a verified address of one of these domains come in. Empty: everybody whom the provider knows.
    #[serde(default)]
    pub allowed_domains: Vec<String>,
}

impl OidcConfig {
    /// What is wrong with it.
    pub(super) fn problem(&self) -> Option<&'static str> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if !(1..=64).contains(&self.id.len()) || !self.id.chars().all(plain) {
            return Some("auth.oidc: id must be 1 to 64 lower-case letters, digits and hyphens");
        }
        let issuer = Url::parse(&self.issuer).ok();
        let sound = issuer.is_some_and(|url| {
            let own = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
            let scheme = url.scheme() == "https" || (url.scheme() == "http" && own);
            scheme && url.query().is_none() && url.fragment().is_none()
        });
        if !sound {
            return Some("auth.oidc: issuer must be an https URL without query and fragment");
        }
        let named = [&self.title, &self.client_id].iter().all(|text| !text.trim().is_empty());
        (!named).then_some("auth.oidc: title and client_id must not be empty")
    }
}
