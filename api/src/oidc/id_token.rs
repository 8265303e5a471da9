//! Whether an ID token is good, and who it names (OpenID Connect Core, 3.1.3.7).
//!
//! The token says which key and algorithm it was signed with, and is believed in neither: the algorithm must be one with a public key,
//! and the key one of the provider's that is of the algorithm's kind, for signatures, and the only one of its name.

use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::{
    Algorithm, DecodingKey, Header, Validation,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;
use subtle::ConstantTimeEq as _;

/// How far the provider's clock may differ.
const LEEWAY: TimeDelta = TimeDelta::seconds(60);
/// The longest subject (OpenID Connect Core, 2).
const MAX_SUBJECT_BYTES: usize = 255;

/// What a token must say.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// Who makes it.
    pub issuer: &'a str,
    /// For whom.
    pub client_id: &'a str,
    /// For which sign-in.
    pub nonce: &'a str,
    /// When.
    pub now: DateTime<Utc>,
}

/// Who a token names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The person, as the issuer knows them.
    pub subject: String,
    /// Their address, where the issuer says that it has verified it.
    pub verified_email: Option<String>,
    /// Their name.
    pub full_name: Option<String>,
}

/// Why a token is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is not a token.
    #[error("it is not a token")]
    Malformed,
    /// Its algorithm has no public key.
    #[error("its algorithm is not one of a public key")]
    Algorithm,
    /// No key of the provider, or more than one, fits its name and algorithm.
    #[error("no single key of the provider fits its name and algorithm")]
    Key,
    /// The signature is not the key's.
    #[error("its signature is not the key's")]
    Signature,
    /// Another issuer.
    #[error("it is of another issuer")]
    Issuer,
    /// For somebody else.
    #[error("it is for somebody else")]
    Audience,
    /// Past its time, or from the future.
    #[error("its time is over or has not come")]
    Time,
    /// For another sign-in.
    #[error("it is for another sign-in")]
    Nonce,
    /// It names nobody.
    #[error("it names nobody")]
    Subject,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Value,
    #[serde(default)]
    azp: Option<String>,
    exp: f64,
    iat: f64,
    #[serde(default)]
    nbf: Option<f64>,
    #[serde(default)]
    nonce: Option<String>,
    #[serde(default)]
    email: Option<String>,
    #[serde(default)]
    email_verified: Value,
    #[serde(default)]
    name: Option<String>,
}

/// Checks a token against a provider's keys.
///
/// # Errors
/// [`Refused`].
pub fn verify(token: &str, keys: &[Jwk], expected: &Expected<'_>) -> Result<Said, Refused> {
    let header = jsonwebtoken::decode_header(token).map_err(|_| Refused::Malformed)?;
    let key = key_for(&header, keys)?;
    let key = DecodingKey::from_jwk(key).map_err(|_| Refused::Key)?;
    let mut validation = Validation::new(header.alg);
    // The rest is checked below, against the clock and the values that were handed in.
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let claims = jsonwebtoken::decode::<Claims>(token, &key, &validation);
    check(claims.map_err(|_| Refused::Signature)?.claims, expected)
}

/// The one key that fits.
fn key_for<'a>(header: &Header, keys: &'a [Jwk]) -> Result<&'a Jwk, Refused> {
    let fits = |key: &&Jwk| {
        let common = &key.common;
        let signs = matches!(common.public_key_use, None | Some(PublicKeyUse::Signature));
        let named = header.kid.is_none() || common.key_id == header.kid;
        signs && named && is_of_kind(key, header.alg)
    };
    if !is_public(header.alg) {
        return Err(Refused::Algorithm);
    }
    let mut fitting = keys.iter().filter(fits);
    match (fitting.next(), fitting.next()) {
        (Some(key), None) => Ok(key),
        _ => Err(Refused::Key),
    }
}

const fn is_public(algorithm: Algorithm) -> bool {
    matches!(
        algorithm,
        Algorithm::RS256
            | Algorithm::RS384
            | Algorithm::RS512
            | Algorithm::PS256
            | Algorithm::PS384
            | Algorithm::PS512
            | Algorithm::ES256
            | Algorithm::ES384
            | Algorithm::EdDSA
    )
}

/// Whether a key is of the kind that an algorithm needs, and not for another one.
fn is_of_kind(key: &Jwk, algorithm: Algorithm) -> bool {
    let kind = match (&key.algorithm, algorithm) {
        (
            AlgorithmParameters::RSA(_),
            Algorithm::RS256
            | Algorithm::RS384
            | Algorithm::RS512
            | Algorithm::PS256
            | Algorithm::PS384
            | Algorithm::PS512,
        ) => true,
        (AlgorithmParameters::EllipticCurve(curve), Algorithm::ES256) => {
            curve.curve == EllipticCurve::P256
        }
        (AlgorithmParameters::EllipticCurve(curve), Algorithm::ES384) => {
            curve.curve == EllipticCurve::P384
        }
        (AlgorithmParameters::OctetKeyPair(curve), Algorithm::EdDSA) => {
            curve.curve == EllipticCurve::Ed25519
        }
        _ => false,
    };
    kind && key.common.key_algorithm.is_none_or(|named| named == KeyAlgorithm::from(algorithm))
}

fn check(claims: Claims, expected: &Expected<'_>) -> Result<Said, Refused> {
    if claims.iss != expected.issuer {
        return Err(Refused::Issuer);
    }
    let for_us = |value: &Value| value.as_str() == Some(expected.client_id);
    let (named, others) = match &claims.aud {
        Value::String(_) => (for_us(&claims.aud), false),
        Value::Array(all) => (all.iter().any(for_us), all.len() > 1),
        _ => (false, false),
    };
    let party = claims.azp.as_deref();
    // Who asked for it must be us where it says so, and it must say so where it is for several.
    if !named
        || party.is_some_and(|party| party != expected.client_id)
        || (others && party.is_none())
    {
        return Err(Refused::Audience);
    }
    let seconds = |time: DateTime<Utc>| time.timestamp() as f64;
    let (soon, lately) = (seconds(expected.now + LEEWAY), seconds(expected.now - LEEWAY));
    let begun = claims.iat <= soon && claims.nbf.is_none_or(|from| from <= soon);
    if !begun || claims.exp <= lately || !claims.exp.is_finite() {
        return Err(Refused::Time);
    }
    let nonce = claims.nonce.unwrap_or_default();
    if !bool::from(nonce.as_bytes().ct_eq(expected.nonce.as_bytes())) {
        return Err(Refused::Nonce);
    }
    if claims.sub.is_empty() || claims.sub.len() > MAX_SUBJECT_BYTES || claims.sub.contains('\0') {
        return Err(Refused::Subject);
    }
    // Some providers write the truth as a text.
    let verified = matches!(&claims.email_verified, Value::Bool(true))
        || claims.email_verified.as_str() == Some("true");
    Ok(Said {
        subject: claims.sub,
        verified_email: claims.email.filter(|_| verified),
        full_name: claims.name,
    })
}
