//! JSON bodies: bounded, free of what breaks later (U+0000, deep nesting), and refused with a pointer to what is wrong.

use std::{fmt, marker::PhantomData};

use axum::{
    body::Bytes,
    extract::{FromRequest, OptionalFromRequest, Request, rejection::BytesRejection},
    http::{HeaderMap, header},
};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::Value;
use serde_path_to_error::{Path, Segment};
use sha2::{Digest, Sha256};

use crate::problem::{Problem, ProblemKind};

/// How deep arrays and objects may be nested.
pub const MAX_DEPTH: usize = 64;

/// The body as a type, and the hash by which a repeat with the same idempotency key is told from another request.
#[derive(Clone, Debug)]
pub struct JsonBody<T> {
    /// What it says.
    pub value: T,
    /// SHA-256 of its bytes.
    pub hash: [u8; 32],
}

impl<S, T> FromRequest<S> for JsonBody<T>
where
    S: Send + Sync,
    T: DeserializeOwned,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        demand_json(request.headers())?;
        let bytes = Bytes::from_request(request, state).await.map_err(unreadable)?;
        let value = parse_object(&bytes)?;
        Ok(Self { value, hash: Sha256::digest(&bytes).into() })
    }
}

/// A command that asks for little may come without a body.
impl<S, T> OptionalFromRequest<S> for JsonBody<T>
where
    S: Send + Sync,
    T: DeserializeOwned,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Option<Self>, Problem> {
        let (parts, body) = request.into_parts();
        let again = Request::from_parts(parts.clone(), body);
        let bytes = Bytes::from_request(again, state).await.map_err(unreadable)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let whole = Request::from_parts(parts, axum::body::Body::from(bytes));
        <Self as FromRequest<S>>::from_request(whole, state).await.map(Some)
    }
}

fn demand_json(headers: &HeaderMap) -> Result<(), Problem> {
    // Nothing is ever unpacked here, so no small body becomes a large one.
    if headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
        return Err(Problem::new(
            ProblemKind::UnsupportedMediaType,
            "the body must be sent as it is: Content-Encoding is not supported",
        ));
    }
    let essence = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .map(|value| value.trim().to_ascii_lowercase());
    match essence.as_deref() {
        Some("application/json") => Ok(()),
        Some(other) if other.starts_with("application/") && other.ends_with("+json") => Ok(()),
        _ => Err(Problem::new(
            ProblemKind::UnsupportedMediaType,
            "the body must be sent as Content-Type: application/json",
        )),
    }
}

pub(crate) fn unreadable(rejection: BytesRejection) -> Problem {
    if rejection.status() == axum::http::StatusCode::PAYLOAD_TOO_LARGE {
        return Problem::new(ProblemKind::BodyTooLarge, "the body is over the limit of 10 MB");
    }
    Problem::malformed("the body broke off")
}

/// Reads a JSON text that must be an object.
///
/// # Errors
/// As [`parse`]; 422 for a list.
pub fn parse_object<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let parsed = parse(bytes);
    // serde would take a list of values for a struct, in the order of its fields; no body of ours is meant so.
    let is_list = bytes.trim_ascii_start().first() == Some(&b'[');
    let is_json = parsed
        .as_ref()
        .map_or_else(|problem: &Problem| problem.kind() == ProblemKind::InvalidValue, |_| true);
    if is_list && is_json {
        return Err(Problem::invalid("", "invalid", "must be a JSON object, not a list"));
    }
    parsed
}

/// Reads an object within a body, for a field whose type is a struct: serde would take a list of values for it, in the order of its fields.
///
/// # Errors
/// When it is no object, or not that one.
pub fn object<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Object<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(fields))
        }
    }

    deserializer.deserialize_map(Object(PhantomData))
}

/// Reads a JSON text as a type.
///
/// # Errors
/// 400 when it is not JSON; 422 with a pointer when a value is not valid.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(Problem::malformed("the body is empty; JSON is expected"));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        Problem::malformed(format!("the body is not UTF-8 at byte {}", error.valid_up_to()))
    })?;
    let found = scan(text.as_bytes());
    if found.too_deep {
        let detail = format!("is nested deeper than {MAX_DEPTH} levels");
        return Err(Problem::invalid("", "too_deep", detail));
    }
    if found.holds_nul {
        return Err(nul_problem(text));
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let pointer = pointer(error.path());
        refusal(error.into_inner(), pointer)
    })?;
    deserializer.end().map_err(|error| refusal(error, String::new()))?;
    Ok(value)
}

fn refusal(error: serde_json::Error, pointer: String) -> Problem {
    use serde_json::error::Category;
    match error.classify() {
        Category::Data => {
            let text = error.to_string();
            // The place is in the pointer; line and column of a compact body help nobody.
            let detail = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
            invalid(pointer, detail)
        }
        Category::Syntax | Category::Eof | Category::Io => {
            Problem::malformed(format!("the body is not JSON: {error}"))
        }
    }
}

/// What serde refuses, with the place and the code of it.
pub(super) fn invalid(pointer: String, detail: &str) -> Problem {
    let (pointer, code) = match field_of(detail) {
        Some((code, field)) if code != "missing_field" => (with_last(&pointer, &field), code),
        Some((code, field)) => (format!("{pointer}/{}", escape(&field)), code),
        None => (pointer, "invalid"),
    };
    // The name of a type of ours tells a caller nothing.
    let detail = match detail.split_once("expected struct ") {
        Some((found, _)) => format!("{found}expected an object"),
        None => detail.to_owned(),
    };
    Problem::invalid(pointer, code, format!("is not valid: {detail}"))
}

/// The field that serde's message is about, and the code of what is wrong with it.
fn field_of(detail: &str) -> Option<(&'static str, String)> {
    let field = |rest: &str| rest.split('`').next().map(str::to_owned);
    if let Some(rest) = detail.strip_prefix("unknown field `") {
        return field(rest).map(|field| ("unknown_field", field));
    }
    if let Some(rest) = detail.strip_prefix("missing field `") {
        return field(rest).map(|field| ("missing_field", field));
    }
    None
}

/// The path of an unknown field already ends in the field, except where serde could not tell; then it is added.
fn with_last(pointer: &str, field: &str) -> String {
    let last = escape(field);
    if pointer.rsplit('/').next() == Some(&last) {
        pointer.to_owned()
    } else {
        format!("{pointer}/{last}")
    }
}

/// A path as a JSON Pointer (RFC 6901).
pub(super) fn pointer(path: &Path) -> String {
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } => pointer.push_str(&format!("/{}", escape(key))),
            // The variant is not part of the text, and what is unknown has no name.
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    pointer
}

fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

struct Scan {
    too_deep: bool,
    holds_nul: bool,
}

/// One pass over the bytes, before anything is built from them.
fn scan(bytes: &[u8]) -> Scan {
    let (mut depth, mut deepest) = (0_usize, 0_usize);
    let (mut in_string, mut holds_nul) = (false, false);
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'\\' if in_string => {
                holds_nul |= bytes.get(at + 1..at + 6) == Some(b"u0000");
                at += 1;
            }
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    Scan { too_deep: deepest > MAX_DEPTH, holds_nul }
}

/// Says where the character is. The text is bounded in depth already, so it can be read whole.
fn nul_problem(text: &str) -> Problem {
    match serde_json::from_str::<Value>(text) {
        Err(error) => Problem::malformed(format!("the body is not JSON: {error}")),
        Ok(value) => {
            let pointer = find_nul(&value, String::new()).unwrap_or_default();
            Problem::invalid(pointer, "nul_character", "must not hold the character U+0000")
        }
    }
}

fn find_nul(value: &Value, at: String) -> Option<String> {
    match value {
        Value::String(text) => text.contains('\0').then_some(at),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .find_map(|(index, item)| find_nul(item, format!("{at}/{index}"))),
        Value::Object(fields) => fields.iter().find_map(|(key, item)| {
            if key.contains('\0') {
                return Some(at.clone());
            }
            find_nul(item, format!("{at}/{}", escape(key)))
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[expect(dead_code, reason = "only the shape matters here")]
        items: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[expect(dead_code, reason = "only the shape matters here")]
        count: u32,
    }

    #[track_caller]
    fn refused(text: &str, status: u16, pointer: &str, code: &str) {
        let problem = parse::<Outer>(text.as_bytes()).unwrap_err();
        assert_eq!(problem.kind().status().as_u16(), status, "{problem}");
        if status == 422 {
            assert_eq!(problem.errors()[0].pointer, pointer, "{problem}");
            assert_eq!(problem.errors()[0].code, code, "{problem}");
        }
    }

    #[test]
    fn what_is_wrong_is_pointed_at() {
        assert!(parse::<Outer>(br#"{"items":[{"count":1}]}"#).is_ok());
        refused(r#"{"items":[{"count":1},{"count":"x"}]}"#, 422, "/items/1/count", "invalid");
        refused(r#"{"items":[{"count":1,"a/b":2}]}"#, 422, "/items/0/a~1b", "unknown_field");
        refused(r#"{"items":[{}]}"#, 422, "/items/0/count", "missing_field");
        refused(r#"{"items":[{"count":-1}]}"#, 422, "/items/0/count", "invalid");
        refused("[]", 422, "", "invalid");
        refused("null", 422, "", "invalid");
    }

    #[test]
    fn a_list_is_no_object_at_any_depth() {
        #[derive(Debug, Deserialize)]
        struct Whole {
            #[serde(deserialize_with = "object")]
            #[expect(dead_code, reason = "only the shape matters here")]
            inner: Inner,
        }
        assert!(parse::<Whole>(br#"{"inner":{"count":1}}"#).is_ok());
        for (text, pointer) in [
            (r#"{"inner":[1]}"#, "/inner"),
            (r#"{"inner":null}"#, "/inner"),
            (r#"{"inner":{"count":"x"}}"#, "/inner/count"),
        ] {
            let problem = parse::<Whole>(text.as_bytes()).unwrap_err();
            assert_eq!(problem.errors()[0].pointer, pointer, "{text}: {problem}");
        }
    }

    #[test]
    fn what_is_no_json_is_malformed() {
        for text in
            ["", "  ", "{", r#"{"items":[]"#, r#"{"items":[]} x"#, "{'items':[]}", "\u{feff}{}"]
        {
            refused(text, 400, "", "");
        }
        assert_eq!(parse::<Value>(b"\"\xff\"").unwrap_err().kind(), ProblemKind::MalformedRequest);
    }

    #[test]
    fn nesting_is_bounded_and_brackets_in_text_do_not_count() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse::<Value>(nested(MAX_DEPTH).as_bytes()).is_ok());
        let problem = parse::<Value>(nested(MAX_DEPTH + 1).as_bytes()).unwrap_err();
        assert_eq!(problem.errors()[0].code, "too_deep");
        assert!(parse::<Value>(nested(200_000).as_bytes()).is_err());
        assert!(parse::<Value>(format!("\"{}\\\"[\"", "[".repeat(200)).as_bytes()).is_ok());
    }

    #[test]
    fn the_nul_character_is_found_where_it_is() {
        let problem = parse::<Value>(br#"{"a":["x","y\u0000"]}"#).unwrap_err();
        assert_eq!(problem.errors()[0].pointer, "/a/1");
        assert_eq!(problem.errors()[0].code, "nul_character");
        assert!(parse::<Value>(br#"{"a\u0000":1}"#).is_err());
        assert!(parse::<Value>(br#"["\\u0000"]"#).is_ok());
    }
}
