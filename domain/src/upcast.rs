//! The one place where old shapes of events are read.
//!
//! A change of an event's fields is a new version in the `events!` list of its aggregate and an arm here that turns the old payload
//! into the new one. Golden files of every (type, version) that was ever written stay in `tests/golden/events/` and are read through this.

use std::borrow::Cow;

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
    _category: &str,
    _type: &str,
    schema_version: i16,
    payload: &'a str,
) -> Upcast<'a> {
    Upcast { schema_version, payload: Cow::Borrowed(payload) }
}
