//! The one place where old shapes of events are read.
//!
//! A change of an event's fields is a new version in the `events!` list of its aggregate and an arm here that turns the old payload
//! into the new one. Golden files of every (type, version) that was ever written stay in `tests/golden/events/` and are read through this.
//! A payload that has not the shape of its version passes unchanged: decoding refuses it by name.

use std::{borrow::Cow, collections::BTreeMap};

use serde_json::value::{RawValue, to_raw_value};

use crate::execution::{ConcurrencyLimit, LimitScope};

/// A payload in the shape of the version that this build reads.
#[derive(Debug, PartialEq, Eq)]
pub struct Upcast<'a> {
    /// The version after upcasting.
    pub schema_version: i16,
    /// The payload after upcasting; borrowed where nothing had to change.
    pub payload: Cow<'a, str>,
}

/// Brings a stored payload to the current version of its type. A pair that no arm knows passes unchanged, and decoding refuses it by name.
#[must_use]
pub fn upcast<'a>(
    category: &str,
    r#type: &str,
    schema_version: i16,
    payload: &'a str,
) -> Upcast<'a> {
    let changed = match (category, r#type, schema_version) {
        ("execution", "execution_requested", 1) => limits_of_requested(payload).ok(),
        _ => None,
    };
    match changed {
        Some(payload) => Upcast { schema_version: 2, payload: Cow::Owned(payload) },
        None => Upcast { schema_version, payload: Cow::Borrowed(payload) },
    }
}

/// Version 2 of `execution_requested` has a list of limits in place of the one that version 1 could have. Values are moved as the text
/// that they are, so that a run's input stays byte for byte what it was.
fn limits_of_requested(payload: &str) -> Result<String, serde_json::Error> {
    let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(payload)?;
    if let Some(limit) = fields.remove("limit") {
        let mut limit: ConcurrencyLimit = serde_json::from_str(limit.get())?;
        // A workflow's id has no colon; what follows one is the key.
        if limit.key.split_once(':').is_some_and(|(workflow, _)| workflow.len() == 36) {
            limit.scope = LimitScope::Key;
        }
        fields.insert("limits".to_owned(), to_raw_value(&[limit])?);
    }
    serde_json::to_string(&fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::AnyEvent;

    #[test]
    fn the_one_limit_of_version_1_becomes_a_list_and_the_input_stays_as_it_was() {
        let workflow = "0192f0c1-0000-7000-8000-0000000000c1";
        let requested = |key: &str| {
            format!(
                r#"{{"workspace_id":"{workflow}","workflow_id":"{workflow}","workflow_version":1,"trigger_type":"manual","input":{{"b":2.50}},"queue":"default","limit":{{"key":"{key}","limit":3}},"planned_nodes":1}}"#
            )
        };
        for (key, scope) in [
            (workflow.to_owned(), LimitScope::Workflow),
            (format!("{workflow}:a"), LimitScope::Key),
        ] {
            let read = AnyEvent::decode("execution", "execution_requested", 1, &requested(&key));
            let Ok(AnyEvent::Execution(crate::execution::ExecutionEvent::ExecutionRequested(read))) =
                read
            else {
                panic!("it is not read: {read:?}")
            };
            assert_eq!(read.limits, [ConcurrencyLimit { scope, ..ConcurrencyLimit::new(key, 3) }]);
            assert_eq!(read.input.as_str(), r#"{"b":2.50}"#);
        }
    }

    #[test]
    fn what_has_not_the_shape_of_its_version_is_refused_by_name() {
        assert!(AnyEvent::decode("execution", "execution_requested", 1, "[]").is_err());
        assert!(AnyEvent::decode("execution", "execution_requested", 1, r#"{"limit":7}"#).is_err());
    }
}
