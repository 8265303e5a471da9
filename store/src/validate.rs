//! What is refused before it reaches the log, in the caller's own task, so that no batch ever fails for one bad intent's text.

use std::collections::HashSet;

use serde::de::IgnoredAny;

use crate::{
    AppendError, IdempotencyKey, Intent, MAX_EVENTS_PER_INTENT, MAX_METADATA_BYTES, MAX_NESTING,
    MAX_PAYLOAD_BYTES, NewEvent,
};

/// Refuses an intent that cannot be stored as it is.
///
/// # Errors
/// [`AppendError::Invalid`] with the reason.
pub(crate) fn check(intent: &Intent) -> Result<(), AppendError> {
    let events: usize = intent.writes.iter().map(|write| write.events.len()).sum();
    if events > MAX_EVENTS_PER_INTENT {
        return invalid(format!("{events} events are more than {MAX_EVENTS_PER_INTENT}"));
    }
    let mut streams = HashSet::with_capacity(intent.writes.len());
    for write in &intent.writes {
        if !streams.insert(write.stream) {
            return invalid(format!("stream {} is written twice", write.stream));
        }
        if write.events.is_empty() {
            return invalid(format!("nothing is written to stream {}", write.stream));
        }
        if write.expected.0 < 0 {
            return invalid(format!("version {} is below zero", write.expected));
        }
        check_text("category", write.category)?;
        for event in &write.events {
            check_event(event)?;
        }
    }
    if let Some(key) = &intent.key {
        check_key(key)?;
    }
    if let Some(answer) = &intent.answer {
        check_json("answer", answer, MAX_PAYLOAD_BYTES)?;
    }
    if let Some(fence) = &intent.fence {
        check_text("reader", &fence.reader)?;
    }
    for due in intent.due.iter().map(|due| &due.due).chain(&intent.due_done) {
        check_text("kind of a due time", &due.kind)?;
        check_text("key of a due time", &due.key)?;
    }
    Ok(())
}

fn check_event(event: &NewEvent) -> Result<(), AppendError> {
    check_text("type", event.r#type)?;
    if event.schema_version < 1 {
        return invalid(format!("schema version {} of {}", event.schema_version, event.r#type));
    }
    check_json("payload", &event.payload, MAX_PAYLOAD_BYTES)?;
    check_json("metadata", &event.metadata, MAX_METADATA_BYTES)
}

/// Refuses a key that is not 1 to 255 printable ASCII characters.
pub(crate) fn check_key(key: &IdempotencyKey) -> Result<(), AppendError> {
    check_text("scope of the idempotency key", &key.scope)?;
    let printable = key.key.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if key.key.is_empty() || key.key.len() > 255 || !printable {
        return invalid("an idempotency key is 1 to 255 printable ASCII characters".to_owned());
    }
    Ok(())
}

fn check_text(name: &str, text: &str) -> Result<(), AppendError> {
    if text.contains('\0') {
        return invalid(format!("{name} holds U+0000"));
    }
    Ok(())
}

fn check_json(name: &str, text: &str, max_bytes: usize) -> Result<(), AppendError> {
    if text.len() > max_bytes {
        return invalid(format!("{name} of {} bytes is over {max_bytes}", text.len()));
    }
    if let Err(error) = serde_json::from_str::<IgnoredAny>(text) {
        return invalid(format!("{name} is not JSON: {error}"));
    }
    match trait_of(text.as_bytes()) {
        Trait::Plain => Ok(()),
        Trait::HoldsNul => invalid(format!("{name} holds U+0000")),
        Trait::TooDeep => invalid(format!("{name} is nested deeper than {MAX_NESTING}")),
    }
}

/// What makes valid JSON unfit for `text`, `->>` and recursive readers.
enum Trait {
    Plain,
    HoldsNul,
    TooDeep,
}

/// Walks over valid JSON once: counts brackets outside of strings and looks for `\u0000` inside.
fn trait_of(text: &[u8]) -> Trait {
    let (mut depth, mut in_string, mut at) = (0_usize, false, 0);
    while let Some(&byte) = text.get(at) {
        match (in_string, byte) {
            (_, b'"') => in_string = !in_string,
            (true, b'\\') => {
                if text[at + 1..].starts_with(b"u0000") {
                    return Trait::HoldsNul;
                }
                // The escaped character is skipped, so that `\"` and `\\` neither end the string nor start an escape.
                at += 1;
            }
            (false, b'{' | b'[') => {
                depth += 1;
                if depth > MAX_NESTING {
                    return Trait::TooDeep;
                }
            }
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    Trait::Plain
}

fn invalid<T>(reason: String) -> Result<T, AppendError> {
    Err(AppendError::Invalid { reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> bool {
        check_json("payload", text, MAX_PAYLOAD_BYTES).is_err()
    }

    #[test]
    fn nul_is_refused_only_where_it_is_a_character() {
        assert!(refused(r#"{"a":"x\u0000"}"#));
        assert!(refused(r#"{"a\u0000":1}"#));
        assert!(refused(r#"["\\\u0000"]"#));
        assert!(!refused(r#"{"a":"\\u0000"}"#));
        assert!(!refused(r#"{"a":"\"u0000"}"#));
    }

    #[test]
    fn nesting_counts_brackets_outside_of_strings() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(!refused(&nested(MAX_NESTING)));
        assert!(refused(&nested(MAX_NESTING + 1)));
        assert!(!refused(&format!("[\"{}\"]", "[".repeat(100))));
        assert!(!refused(&format!("[{}]", "[],".repeat(100) + "[]")));
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for text in ["", "{", "nul", "{\"a\":1}x", "\"\u{1}\""] {
            assert!(refused(text), "{text:?} passed");
        }
    }
}
