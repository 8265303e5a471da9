//! What a delivery to a webhook must be: who signed it, when, under which name, and what a run sees of it.
//!
//! Pure but for the clock that is handed in. Every comparison of what is secret takes the same time wherever it differs.

use aws_lc_rs::hmac;
use axum::http::{HeaderMap, header};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use ledgerline_domain::{
    id::TriggerId,
    json::Json,
    limits,
    trigger::{Signature, WebhookConfig},
};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

/// The first letters of an address, so that a leaked one is recognised by scanners.
const TOKEN_PREFIX: &str = "hook_";
/// The first letters of a signing secret that was generated here.
const SECRET_PREFIX: &str = "whsec_";
/// Random bytes of an address and of a secret.
const RANDOM_BYTES: usize = 24;

/// The largest body of a delivery. With headers and query it must fit in the first event of a run.
pub const MAX_BODY_BYTES: usize = 256 * 1024;
/// The most parameters of a query or form that are looked at.
const MAX_PARAMETERS: usize = 1_000;

/// Why a delivery is not taken. The sender is told little; whoever looks after the webhook sees the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No secret was made yet.
    NoSecret,
    /// The header with the signature is not there or can't be read.
    Unsigned,
    /// It was made with another secret, or over something else.
    WrongSignature,
    /// It was made too long ago, or by a clock that is ahead.
    Stale,
    /// The name of the delivery can't be one.
    DeliveryId,
    /// The body is not what its type says.
    Body,
}

impl Refused {
    /// The word that refusals are counted under.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoSecret => "no_secret",
            Self::Unsigned => "unsigned",
            Self::WrongSignature => "wrong_signature",
            Self::Stale => "stale_signature",
            Self::DeliveryId => "delivery_id_invalid",
            Self::Body => "body_invalid",
        }
    }
}

/// A new address: the trigger's id and random bytes.
#[must_use]
pub fn new_token(id: TriggerId) -> String {
    let mut bytes = id.0.as_bytes().to_vec();
    bytes.extend_from_slice(&rand::random::<[u8; RANDOM_BYTES]>());
    format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// The trigger that an address is of, if it is one of ours.
#[must_use]
pub fn trigger_of(token: &str) -> Option<TriggerId> {
    let bytes = URL_SAFE_NO_PAD.decode(token.strip_prefix(TOKEN_PREFIX)?).ok()?;
    let (id, random) = bytes.split_first_chunk::<16>()?;
    (random.len() == RANDOM_BYTES).then(|| TriggerId(Uuid::from_bytes(*id)))
}

/// Whether two addresses are the same.
#[must_use]
pub fn same_token(left: &[u8], right: &[u8]) -> bool {
    left.ct_eq(right).into()
}

/// A new signing secret.
#[must_use]
pub fn new_secret() -> String {
    let bytes: [u8; RANDOM_BYTES] = rand::random();
    format!("{SECRET_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// Looks at the signature of a delivery and gives its name; none where nothing names it.
///
/// # Errors
/// Why it is not taken.
pub fn verify(
    config: &WebhookConfig,
    headers: &HeaderMap,
    body: &[u8],
    secret: Option<&[u8]>,
    now: DateTime<Utc>,
) -> Result<Option<String>, Refused> {
    let named = named(config, headers)?;
    if config.signature == Signature::None {
        return Ok(named);
    }
    let secret = secret.ok_or(Refused::NoSecret)?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let signature = match config.signature {
        Signature::None => return Ok(named),
        Signature::Ledgerline => {
            let signed = Timed::read(headers, "ledgerline-signature")?;
            // The name of the delivery is signed too: otherwise a copy under another name would be another delivery.
            let name = named.as_deref().unwrap_or("");
            if name.contains('.') {
                // Where the name ends and the body begins must be certain.
                return Err(Refused::DeliveryId);
            }
            let text = [signed.at_text.as_bytes(), b".", name.as_bytes(), b".", body].concat();
            signed.check(&key, &text, config.replay_window_ms, now)?
        }
        Signature::Stripe => {
            let signed = Timed::read(headers, "stripe-signature")?;
            let text = [signed.at_text.as_bytes(), b".", body].concat();
            let signature = signed.check(&key, &text, config.replay_window_ms, now)?;
            let event: Value = serde_json::from_slice(body).unwrap_or_default();
            if let Some(id) = event["id"].as_str().filter(|id| is_name(id)) {
                return Ok(Some(id.to_owned()));
            }
            signature
        }
        Signature::Github => {
            let text = text_of(headers, "x-hub-signature-256").ok_or(Refused::Unsigned)?;
            let signature = text.strip_prefix("sha256=").ok_or(Refused::Unsigned)?;
            let bytes = hex::decode(signature).map_err(|_| Refused::Unsigned)?;
            hmac::verify(&key, body, &bytes).map_err(|_| Refused::WrongSignature)?;
            signature.to_ascii_lowercase()
        }
    };
    // Whoever signs the very same thing again delivers the same thing again.
    Ok(Some(named.unwrap_or(signature)))
}

/// The name that a header gives the delivery.
fn named(config: &WebhookConfig, headers: &HeaderMap) -> Result<Option<String>, Refused> {
    let usual = match config.signature {
        Signature::None | Signature::Ledgerline => "ledgerline-delivery",
        Signature::Github => "x-github-delivery",
        // It is in the body, where the signature covers it.
        Signature::Stripe => "",
    };
    let name = config.delivery_id_header.as_deref().unwrap_or(usual);
    if name.is_empty() || !headers.contains_key(name) {
        return Ok(None);
    }
    let text = text_of(headers, name).filter(|text| is_name(text)).ok_or(Refused::DeliveryId)?;
    Ok(Some(text.to_owned()))
}

fn is_name(text: &str) -> bool {
    (1..=limits::MAX_DELIVERY_ID_CHARS).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
}

fn text_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// A signature that names its time: `t=<seconds>,v1=<hex>`, with as many `v1` as there are secrets.
struct Timed<'a> {
    at_text: &'a str,
    at: i64,
    signatures: Vec<Vec<u8>>,
}

impl<'a> Timed<'a> {
    fn read(headers: &'a HeaderMap, name: &str) -> Result<Self, Refused> {
        const MAX_SIGNATURES: usize = 8;
        let text = text_of(headers, name).ok_or(Refused::Unsigned)?;
        let pairs = || text.split(',').filter_map(|pair| pair.trim().split_once('='));
        let at_text = pairs().find(|(key, _)| *key == "t").ok_or(Refused::Unsigned)?.1;
        let at = at_text.parse().map_err(|_| Refused::Unsigned)?;
        let signatures: Vec<Vec<u8>> = pairs()
            .filter(|(key, _)| *key == "v1")
            .take(MAX_SIGNATURES)
            .filter_map(|(_, value)| hex::decode(value).ok())
            .collect();
        if signatures.is_empty() {
            return Err(Refused::Unsigned);
        }
        Ok(Self { at_text, at, signatures })
    }

    fn check(
        &self,
        key: &hmac::Key,
        text: &[u8],
        window_ms: u64,
        now: DateTime<Utc>,
    ) -> Result<String, Refused> {
        let good = self.signatures.iter().find(|bytes| hmac::verify(key, text, bytes).is_ok());
        let good = good.ok_or(Refused::WrongSignature)?;
        let age_s = now.timestamp().saturating_sub(self.at).unsigned_abs();
        if age_s.saturating_mul(1_000) > window_ms {
            return Err(Refused::Stale);
        }
        Ok(hex::encode(good))
    }
}

/// What a run sees of a delivery: headers that its node names, query, body, and the name.
///
/// # Errors
/// [`Refused::Body`] where the body is not what its type says.
pub fn input(
    config: &WebhookConfig,
    headers: &HeaderMap,
    query: &str,
    body: &[u8],
    delivery_id: &str,
) -> Result<Json, Refused> {
    let shown = config
        .headers
        .iter()
        .filter_map(|name| Some((name.clone(), Value::from(text_of(headers, name)?))));
    Ok(Json::from_value(&json!({
        "headers": shown.collect::<Map<String, Value>>(),
        "query": parameters(query.as_bytes()),
        "body": read_body(headers, body)?,
        "delivery_id": delivery_id,
    })))
}

fn read_body(headers: &HeaderMap, body: &[u8]) -> Result<Value, Refused> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = kind.unwrap_or("").split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    if kind == "application/json" || kind.ends_with("+json") {
        return serde_json::from_slice(body).map_err(|_| Refused::Body);
    }
    if kind == "application/x-www-form-urlencoded" {
        return Ok(parameters(body));
    }
    std::str::from_utf8(body).map(Value::from).map_err(|_| Refused::Body)
}

/// Parameters as an object; one that is given several times is a list.
fn parameters(text: &[u8]) -> Value {
    let mut all: Map<String, Value> = Map::new();
    for (name, value) in url::form_urlencoded::parse(text).take(MAX_PARAMETERS) {
        let value = Value::from(value.into_owned());
        match all.get_mut(name.as_ref()) {
            None => {
                all.insert(name.into_owned(), value);
            }
            Some(Value::Array(values)) => values.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }
    Value::Object(all)
}

/// A name for a delivery that nothing names: it is never the same as another.
#[must_use]
pub fn unnamed(id: Uuid) -> String {
    let digest = Sha256::digest(id.as_bytes());
    format!("unnamed-{}", hex::encode(&digest[..16]))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const SECRET: &[u8] = b"whsec_a secret of a test";
    const BODY: &[u8] = br#"{"id":"evt_1","n":1}"#;

    fn config(signature: Signature) -> WebhookConfig {
        WebhookConfig {
            signature,
            replay_window_ms: 300_000,
            delivery_id_header: None,
            headers: vec!["x-github-event".to_owned()],
        }
    }

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    fn sign(secret: &[u8], parts: &[&[u8]]) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        hex::encode(hmac::sign(&key, &parts.concat()))
    }

    fn headers(pairs: &[(&'static str, String)]) -> HeaderMap {
        let value = |text: &String| HeaderValue::try_from(text.as_str()).unwrap();
        pairs.iter().map(|(name, text)| (name.parse().unwrap(), value(text))).collect()
    }

    fn ledgerline(secret: &[u8], at: i64, delivery: &str, body: &[u8]) -> HeaderMap {
        let at = at.to_string();
        let v1 = sign(secret, &[at.as_bytes(), b".", delivery.as_bytes(), b".", body]);
        let mut pairs = vec![("ledgerline-signature", format!("t={at},v1={v1}"))];
        if !delivery.is_empty() {
            pairs.push(("ledgerline-delivery", delivery.to_owned()));
        }
        headers(&pairs)
    }

    fn check(signature: Signature, headers: &HeaderMap) -> Result<Option<String>, Refused> {
        verify(&config(signature), headers, BODY, Some(SECRET), now())
    }

    #[test]
    fn our_own_signature() {
        let at = now().timestamp();
        let taken = |headers: HeaderMap| check(Signature::Ledgerline, &headers);
        assert_eq!(taken(ledgerline(SECRET, at, "d 1", BODY)), Ok(Some("d 1".to_owned())));
        let nameless = ledgerline(SECRET, at, "", BODY);
        let first = taken(nameless.clone()).unwrap();
        assert_eq!(taken(nameless).unwrap(), first, "the same delivery has the same name");
        assert_eq!(taken(ledgerline(b"other", at, "d", BODY)), Err(Refused::WrongSignature));
        assert_eq!(taken(ledgerline(SECRET, at, "d", b"{}")), Err(Refused::WrongSignature));
        assert_eq!(taken(ledgerline(SECRET, at - 301, "d", BODY)), Err(Refused::Stale));
        assert_eq!(taken(ledgerline(SECRET, at + 301, "d", BODY)), Err(Refused::Stale));
        assert!(taken(ledgerline(SECRET, at - 300, "d", BODY)).is_ok());
        assert_eq!(taken(HeaderMap::new()), Err(Refused::Unsigned));
        // A copy under another name is not what was signed.
        let mut renamed = ledgerline(SECRET, at, "d", BODY);
        renamed.insert("ledgerline-delivery", HeaderValue::from_static("e"));
        assert_eq!(taken(renamed), Err(Refused::WrongSignature));
        let dotted = ledgerline(SECRET, at, "d.x", BODY);
        assert_eq!(taken(dotted), Err(Refused::DeliveryId));
        for text in ["", "t=x,v1=00", "t=1", "v1=00", "t=1,v1=zz", "t=1,v1="] {
            let headers = headers(&[("ledgerline-signature", text.to_owned())]);
            let refused = taken(headers).unwrap_err();
            assert!(matches!(refused, Refused::Unsigned | Refused::WrongSignature), "{text}");
        }
    }

    #[test]
    fn the_signature_of_github() {
        let good = || format!("sha256={}", sign(SECRET, &[BODY]));
        let signed = |text: String| {
            headers(&[("x-hub-signature-256", text), ("x-github-delivery", "d-1".to_owned())])
        };
        assert_eq!(check(Signature::Github, &signed(good())), Ok(Some("d-1".to_owned())));
        for (text, refused) in [
            (format!("sha256={}", sign(b"other", &[BODY])), Refused::WrongSignature),
            (format!("sha256={}", sign(SECRET, &[b"{}"])), Refused::WrongSignature),
            (sign(SECRET, &[BODY]), Refused::Unsigned),
            ("sha256=zz".to_owned(), Refused::Unsigned),
        ] {
            assert_eq!(check(Signature::Github, &signed(text)), Err(refused));
        }
        let nameless = headers(&[("x-hub-signature-256", good())]);
        assert_eq!(check(Signature::Github, &nameless), Ok(Some(sign(SECRET, &[BODY]))));
    }

    #[test]
    fn the_signature_of_stripe() {
        let signed = |secret: &[u8], at: i64, body: &[u8]| {
            let at = at.to_string();
            let v1 = sign(secret, &[at.as_bytes(), b".", body]);
            headers(&[("stripe-signature", format!("t={at},v1={},v0=x,v1={v1}", "00".repeat(32)))])
        };
        let at = now().timestamp();
        let taken = |headers: HeaderMap| check(Signature::Stripe, &headers);
        assert_eq!(taken(signed(SECRET, at, BODY)), Ok(Some("evt_1".to_owned())));
        assert_eq!(taken(signed(b"other", at, BODY)), Err(Refused::WrongSignature));
        assert_eq!(taken(signed(SECRET, at, b"{}")), Err(Refused::WrongSignature));
        assert_eq!(taken(signed(SECRET, at - 301, BODY)), Err(Refused::Stale));
    }

    #[test]
    fn without_a_secret_nothing_that_must_be_signed_is_taken() {
        for signature in [Signature::Ledgerline, Signature::Github, Signature::Stripe] {
            let refused = verify(&config(signature), &HeaderMap::new(), BODY, None, now());
            assert_eq!(refused, Err(Refused::NoSecret));
        }
        assert_eq!(check(Signature::None, &HeaderMap::new()), Ok(None));
        let odd = headers(&[("ledgerline-delivery", "x".repeat(256))]);
        assert_eq!(check(Signature::None, &odd), Err(Refused::DeliveryId));
    }

    #[test]
    fn an_address_says_whose_it_is() {
        let id = TriggerId(Uuid::from_u128(7));
        let token = new_token(id);
        assert_eq!(trigger_of(&token), Some(id));
        assert_ne!(new_token(id), token);
        assert!(same_token(token.as_bytes(), token.as_bytes()));
        for text in ["", "hook_", "hook_zz", "hook_é", &format!("{token}x"), &token[1..]] {
            assert_eq!(trigger_of(text), None, "{text}");
        }
    }

    #[test]
    fn a_run_sees_what_its_node_names() {
        let sent = headers(&[
            ("content-type", "application/x-www-form-urlencoded".to_owned()),
            ("x-github-event", "push".to_owned()),
            ("authorization", "Bearer x".to_owned()),
        ]);
        let seen = input(&config(Signature::None), &sent, "a=1&a=2&b=%20", b"c=3&d", "d-1");
        assert_eq!(
            seen.unwrap().to_value(),
            json!({
                "headers": {"x-github-event": "push"},
                "query": {"a": ["1", "2"], "b": " "},
                "body": {"c": "3", "d": ""},
                "delivery_id": "d-1",
            })
        );
        let of = |kind: &str, body: &[u8]| {
            read_body(&headers(&[("content-type", kind.to_owned())]), body)
        };
        assert_eq!(of("application/json; charset=utf-8", b"[1]"), Ok(json!([1])));
        assert_eq!(of("application/cloudevents+json", b"{}"), Ok(json!({})));
        assert_eq!(of("application/json", b"{"), Err(Refused::Body));
        assert_eq!(of("application/json", "[".repeat(100_000).as_bytes()), Err(Refused::Body));
        assert_eq!(of("text/plain", b"hello"), Ok(json!("hello")));
        assert_eq!(of("", b"\xff"), Err(Refused::Body));
        assert_eq!(of("", b""), Ok(Value::Null));
    }
}
