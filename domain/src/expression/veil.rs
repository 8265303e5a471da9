//! What stands for secrets while a configuration is evaluated.
//!
//! The engine never has the value of a secret: it puts a stand-in where one is named, which is masked in what is recorded and replaced by
//! the value in the worker, right before the effect. A stand-in can't be guessed, so nobody who writes a run's input can have a secret
//! put where they like.

use crate::{json::Json, vault::SecretName};

/// What is shown in place of a secret.
pub const MASKED: &str = "***";

/// Begins and ends a stand-in: a private character (U+F8FF), which texts hardly hold.
const EDGE: char = '\u{f8ff}';

/// The stand-ins of one evaluation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Veil {
    mark: String,
}

impl Veil {
    /// Stand-ins that only whoever knows this number can write. It must be random, and new for each evaluation.
    #[must_use]
    pub fn new(random: u128) -> Self {
        Self { mark: format!("{EDGE}{random:032x}:") }
    }

    /// Whether a text begins with the stand-in of some secret.
    #[must_use]
    pub(crate) fn begins(text: &str) -> bool {
        text.starts_with(EDGE)
    }

    /// What stands for a secret.
    pub(super) fn stand_in(&self, name: &SecretName) -> String {
        format!("{}{name}{EDGE}", self.mark)
    }

    /// A value as it is recorded: every stand-in is [`MASKED`].
    #[must_use]
    pub fn masked(&self, value: Json) -> Json {
        if !value.as_str().contains(&self.mark) {
            return value;
        }
        let text = self.replaced(value.as_str(), |_| MASKED.to_owned());
        // A stand-in has only letters, digits and signs that JSON needs no escape for, and so has what replaces it.
        Json::parse(&text).expect("a JSON text with other letters in its strings is one")
    }

    /// A text with what `value` gives in place of every stand-in. What names no secret stays as it is.
    #[must_use]
    pub fn replaced(&self, text: &str, value: impl Fn(&SecretName) -> String) -> String {
        let mut made = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once(&self.mark) {
            made.push_str(before);
            let named = after.split_once(EDGE).and_then(|(name, after)| {
                name.parse::<SecretName>().ok().map(|name| (name, after))
            });
            match named {
                Some((name, after)) => {
                    made.push_str(&value(&name));
                    rest = after;
                }
                None => {
                    made.push_str(&self.mark);
                    rest = after;
                }
            }
        }
        made.push_str(rest);
        made
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn stand_ins_are_masked_or_replaced_and_nothing_else_is() {
        let veil = Veil::new(7);
        let (key, other) = ("KEY".parse().unwrap(), "OTHER".parse().unwrap());
        let text =
            format!("a{}b{}{}c", veil.stand_in(&key), veil.stand_in(&other), veil.stand_in(&key));
        assert_eq!(veil.replaced(&text, |name| format!("<{name}>")), "a<KEY>b<OTHER><KEY>c");
        let value = Json::from_value(&json!({ "x": [text, "y"] }));
        assert_eq!(veil.masked(value).to_value(), json!({ "x": ["a***b******c", "y"] }));
        let forged = Veil::new(8).stand_in(&key);
        assert_eq!(veil.replaced(&forged, |_| "value".to_owned()), forged);
        let torn = format!("{}no name{EDGE}", veil.mark);
        assert_eq!(veil.replaced(&torn, |_| "value".to_owned()), torn);
        let endless = veil.mark.clone();
        assert_eq!(veil.replaced(&endless, |_| "value".to_owned()), endless);
    }
}
