//! Opaque tokens: refresh tokens, WebSocket tickets and API keys. Only their SHA-256 is stored: they are random, so a slow hash
//! would protect nothing.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ledgerline_domain::id::ApiKeyId;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use uuid::Uuid;

/// The first letters of a refresh token, so that a leaked one is recognised by scanners.
pub const REFRESH_PREFIX: &str = "llr_";
/// The first letters of a WebSocket ticket.
pub const TICKET_PREFIX: &str = "llt_";
/// The first letters of an API key.
pub const API_KEY_PREFIX: &str = "llk_";

/// The longest opaque token that is looked at.
const MAX_TOKEN_BYTES: usize = 256;

/// A new token: a prefix and 32 random bytes in base64url.
#[must_use]
pub fn opaque(prefix: &str) -> SecretString {
    let bytes: [u8; 32] = rand::random();
    format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes)).into()
}

/// What is stored of a token.
#[must_use]
pub fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Whether a text can be a token with this prefix; others are refused without a look into the database.
#[must_use]
pub fn looks_like(token: &str, prefix: &str) -> bool {
    token.len() <= MAX_TOKEN_BYTES && token.starts_with(prefix)
}

/// A new API key, `llk_<id>_<secret>`, and the hash of its secret.
#[must_use]
pub fn new_api_key(id: ApiKeyId) -> (SecretString, [u8; 32]) {
    let secret = opaque("");
    let secret = secret.expose_secret();
    (format!("{API_KEY_PREFIX}{}_{secret}", id.0.simple()).into(), hash(secret))
}

/// The id and the hash of the secret in an API key.
#[must_use]
pub fn parse_api_key(key: &str) -> Option<(ApiKeyId, [u8; 32])> {
    if !looks_like(key, API_KEY_PREFIX) {
        return None;
    }
    let (id, secret) = key.strip_prefix(API_KEY_PREFIX)?.split_once('_')?;
    Some((ApiKeyId(Uuid::try_parse(id).ok()?), hash(secret)))
}

/// Whether two hashes are equal, in the same time wherever they differ.
#[must_use]
pub fn same_hash(left: &[u8], right: &[u8]) -> bool {
    left.ct_eq(right).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_key_parses_back_to_its_id_and_hash() {
        let id = ApiKeyId(Uuid::now_v7());
        let (key, stored) = new_api_key(id);
        let (parsed, presented) = parse_api_key(key.expose_secret()).unwrap();
        assert_eq!(parsed, id);
        assert!(same_hash(&stored, &presented));
        let altered = format!("{}x", key.expose_secret());
        assert!(!same_hash(&stored, &parse_api_key(&altered).unwrap().1));
    }

    #[test]
    fn what_is_no_api_key_is_none() {
        for text in ["", "llk_", "llk_abc_def", "llr_0_0", "llk_é_", &"llk_".repeat(500)] {
            assert!(parse_api_key(text).is_none(), "{text}");
        }
    }
}
