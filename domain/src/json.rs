//! A JSON value that is kept as the text it arrived in.
//!
//! Inputs and outputs of nodes pass through most of the system unread: events, read rows and wire messages carry the same bytes.
//! Parsing them at every hop would be the largest cost of a replay, and printing them again could change them.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

/// JSON text that is known to parse. Cheap to clone; equal when the text is equal.
#[derive(Clone)]
pub struct Json(Arc<RawValue>);

impl Json {
    /// The JSON `null`.
    #[must_use]
    pub fn null() -> Self {
        Self::from_value(&Value::Null)
    }

    /// The text of a value.
    #[must_use]
    pub fn from_value(value: &Value) -> Self {
        let raw = serde_json::value::to_raw_value(value).expect("a JSON value always serialises");
        Self(Arc::from(raw))
    }

    /// The text of what serialises to one JSON value, with the values in it as they are.
    #[must_use]
    pub fn of<T: Serialize>(value: &T) -> Self {
        let raw = serde_json::value::to_raw_value(value);
        Self(Arc::from(raw.expect("a struct with texts for keys always serialises")))
    }

    /// Takes text that must be one JSON value.
    ///
    /// # Errors
    /// When it is not.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str::<Box<RawValue>>(text).map(|raw| Self(Arc::from(raw)))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// The value.
    #[must_use]
    pub fn to_value(&self) -> Value {
        serde_json::from_str(self.0.get()).unwrap_or(Value::Null)
    }

    /// The value as a type.
    ///
    /// # Errors
    /// When the value has another shape.
    pub fn to<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.0.get())
    }
}

impl Default for Json {
    fn default() -> Self {
        Self::null()
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

impl Eq for Json {}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.get())
    }
}

impl From<Value> for Json {
    fn from(value: Value) -> Self {
        Self::from_value(&value)
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(|raw| Self(Arc::from(raw)))
    }
}
