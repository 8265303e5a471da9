//! Outputs on their way into the log: cleaned, and inline or as a blob.

use ledgerline_domain::{
    execution::{ErrorKind, NodeError, NodeOutput},
    json::Json,
    limits::{MAX_INLINE_OUTPUT_BYTES, MAX_JSON_DEPTH},
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// The largest output of a node, inline or not: what a run may carry from step to step.
pub(crate) const MAX_OUTPUT_BYTES: usize = 32 * 1024 * 1024;

/// A value that is too large for an event, to be stored before the event that names it.
#[derive(Debug)]
pub(crate) struct LargeValue(pub(crate) Vec<u8>);

/// Replaces U+0000, which passes JSON and breaks text columns later.
///
/// # Errors
/// A `validation` failure when the value nests too deep.
pub(crate) fn cleaned(value: Value) -> Result<Value, NodeError> {
    fn clean(value: Value, left: usize) -> Option<Value> {
        Some(match value {
            Value::String(text) if text.contains('\0') => {
                Value::String(text.replace('\0', "\u{fffd}"))
            }
            Value::Array(items) => {
                let left = left.checked_sub(1)?;
                Value::Array(
                    items.into_iter().map(|item| clean(item, left)).collect::<Option<_>>()?,
                )
            }
            Value::Object(entries) => {
                let left = left.checked_sub(1)?;
                let entries = entries
                    .into_iter()
                    .map(|(name, item)| Some((name.replace('\0', "\u{fffd}"), clean(item, left)?)));
                Value::Object(entries.collect::<Option<_>>()?)
            }
            other => other,
        })
    }
    clean(value, MAX_JSON_DEPTH).ok_or_else(|| {
        failure(
            ErrorKind::Validation,
            format!("the output nests deeper than {MAX_JSON_DEPTH} levels"),
        )
    })
}

/// How an event holds an output: itself, or the hash of a blob that is stored first.
///
/// # Errors
/// A `validation` failure when it is over [`MAX_OUTPUT_BYTES`].
pub(crate) fn held(output: Json) -> Result<(NodeOutput, Option<LargeValue>), NodeError> {
    let size = output.as_str().len();
    if size <= MAX_INLINE_OUTPUT_BYTES {
        return Ok((NodeOutput::Inline(output), None));
    }
    if size > MAX_OUTPUT_BYTES {
        return Err(failure(
            ErrorKind::Validation,
            format!("the output has {size} bytes, more than {MAX_OUTPUT_BYTES}"),
        ));
    }
    let content = output.as_str().as_bytes().to_vec();
    let hash = hex::encode(Sha256::digest(&content));
    let size_bytes = u64::try_from(size).unwrap_or(u64::MAX);
    Ok((NodeOutput::Blob { hash, size_bytes }, Some(LargeValue(content))))
}

/// A failure without details.
pub(crate) fn failure(kind: ErrorKind, message: impl Into<String>) -> NodeError {
    NodeError { kind, message: message.into(), details: None }
}

/// A failure with what its kind of node has to say.
pub(crate) fn detailed(kind: ErrorKind, message: impl Into<String>, details: &Value) -> NodeError {
    NodeError { kind, message: message.into(), details: Some(Json::from_value(details)) }
}

/// The end of a text that may be long, for an error message.
pub(crate) fn excerpt(text: &str) -> String {
    const MAX_CHARS: usize = 2_000;
    let count = text.chars().count();
    if count <= MAX_CHARS {
        return text.replace('\0', "\u{fffd}");
    }
    let end: String = text.chars().skip(count - MAX_CHARS).collect();
    format!("… {}", end.replace('\0', "\u{fffd}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nul_is_replaced_in_texts_and_names() {
        assert_eq!(
            cleaned(json!({"a\0": ["b\0", 1]})).unwrap(),
            json!({"a\u{fffd}": ["b\u{fffd}", 1]})
        );
    }

    #[test]
    fn what_nests_too_deep_is_a_validation_failure() {
        let deep = (0..=MAX_JSON_DEPTH).fold(json!(1), |inner, _| json!([inner]));
        assert_eq!(cleaned(deep).unwrap_err().kind, ErrorKind::Validation);
    }

    #[test]
    fn a_large_output_is_held_by_its_hash() {
        let (small, none) = held(Json::from_value(&json!("x"))).unwrap();
        assert!(matches!(small, NodeOutput::Inline(_)) && none.is_none());
        let (large, blob) =
            held(Json::from_value(&json!("x".repeat(MAX_INLINE_OUTPUT_BYTES)))).unwrap();
        let LargeValue(content) = blob.unwrap();
        assert!(
            matches!(large, NodeOutput::Blob { size_bytes, .. } if size_bytes == content.len() as u64)
        );
    }
}
