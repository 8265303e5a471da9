//! Personal data in what runs are given: marked by whoever gives it, sealed before it enters the log, and gone for good when the key of
//! the person it is about is erased, while every byte of the log stays as it was.
//!
//! Who starts a run marks a value: `{"$personal": {"subject": "customer 42", "value": …}}`. What the log holds in its place is
//! `{"$sealed": {"subject", "key", "nonce", "ct"}}`, where the subject is an id that says nothing. Expressions see a sealed value as a
//! text that they can hand on and put into other texts, and can't look into; it is opened right before an effect, and for who may see the
//! run. What is opened and comes back is masked like a secret.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::{json::Json, limits};

/// The field that marks a value.
const MARK: &str = "$personal";
/// The field that holds a sealed value.
const SEALED: &str = "$sealed";
/// How a sealed value begins in a text.
const BEGINS: &str = "{\"$sealed\":";

/// A value that somebody marked.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Marked {
    /// Whom it is about, by a name that the workspace has for them.
    pub subject: String,
    /// The value.
    pub value: Value,
}

/// A value that nobody reads without its subject's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealed {
    /// Whom it is about, by an id that says nothing.
    pub subject: Uuid,
    /// Under which of the subject's keys.
    pub key: Uuid,
    /// In base64.
    pub nonce: String,
    /// In base64.
    pub ct: String,
}

/// What is wrong with a mark.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MarkError {
    /// It has not the shape of one.
    #[error("a marked value is {{\"$personal\": {{\"subject\": …, \"value\": …}}}}")]
    Shape,
    /// The name of a subject has no length that is allowed.
    #[error("the name of a subject has 1 to {} characters", limits::MAX_SUBJECT_CHARS)]
    Subject,
    /// There are too many.
    #[error("at most {} values may be marked at once", limits::MAX_MARKED_VALUES)]
    TooMany,
}

/// Whether a text may hold marked values. Cheap: most hold none.
#[must_use]
pub fn may_be_marked(text: &str) -> bool {
    text.contains(MARK)
}

/// Whether a text may hold sealed values, also within its strings.
#[must_use]
pub fn may_be_sealed(text: &str) -> bool {
    text.contains(SEALED)
}

/// The subjects of the marked values in a value.
///
/// # Errors
/// The first mark that is none.
pub fn subjects_marked(value: &Value) -> Result<BTreeSet<String>, MarkError> {
    let (mut subjects, mut count) = (BTreeSet::new(), 0);
    collect_marked(value, &mut subjects, &mut count)?;
    Ok(subjects)
}

fn collect_marked(
    value: &Value,
    subjects: &mut BTreeSet<String>,
    count: &mut usize,
) -> Result<(), MarkError> {
    match value {
        Value::Array(items) => {
            items.iter().try_for_each(|item| collect_marked(item, subjects, count))
        }
        Value::Object(fields) if fields.contains_key(MARK) => {
            let marked = marked(fields).ok_or(MarkError::Shape)?;
            let length = marked.subject.chars().count();
            if !(1..=limits::MAX_SUBJECT_CHARS).contains(&length)
                || marked.subject.chars().any(char::is_control)
            {
                return Err(MarkError::Subject);
            }
            *count += 1;
            if *count > limits::MAX_MARKED_VALUES {
                return Err(MarkError::TooMany);
            }
            subjects.insert(marked.subject);
            Ok(())
        }
        Value::Object(fields) => {
            fields.values().try_for_each(|field| collect_marked(field, subjects, count))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

fn marked(fields: &Map<String, Value>) -> Option<Marked> {
    if fields.len() != 1 {
        return None;
    }
    serde_json::from_value(fields.get(MARK)?.clone()).ok()
}

/// A value with what `seal` gives in place of every marked one.
///
/// # Errors
/// The first error of `seal`.
pub fn seal_marked<E>(
    value: Value,
    seal: &mut impl FnMut(&Marked) -> Result<Sealed, E>,
) -> Result<Value, E> {
    Ok(match value {
        Value::Array(items) => Value::Array(
            items.into_iter().map(|item| seal_marked(item, seal)).collect::<Result<_, E>>()?,
        ),
        Value::Object(fields) => match marked(&fields) {
            Some(marked) => json!({ SEALED: seal(&marked)? }),
            None => {
                let fields = fields.into_iter();
                let sealed = fields.map(|(name, field)| Ok((name, seal_marked(field, seal)?)));
                Value::Object(sealed.collect::<Result<_, E>>()?)
            }
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    })
}

/// The subjects of the sealed values in a value, also within its strings.
#[must_use]
pub fn subjects_sealed(value: &Value) -> BTreeSet<Uuid> {
    let mut subjects = BTreeSet::new();
    collect_sealed(value, &mut subjects);
    subjects
}

fn collect_sealed(value: &Value, subjects: &mut BTreeSet<Uuid>) {
    match value {
        Value::String(text) => {
            subjects.extend(pieces(text).filter_map(|piece| match piece {
                Piece::Sealed(sealed) => Some(sealed.subject),
                Piece::Text(_) => None,
            }));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_sealed(item, subjects)),
        Value::Object(fields) => match sealed(fields) {
            Some(sealed) => {
                subjects.insert(sealed.subject);
            }
            None => fields.values().for_each(|field| collect_sealed(field, subjects)),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A value with what `open` gives in place of every sealed one. One that is a part of a longer text becomes a part of that text.
///
/// # Errors
/// The first error of `open`.
pub fn open_sealed<E>(
    value: Value,
    open: &mut impl FnMut(&Sealed) -> Result<Value, E>,
) -> Result<Value, E> {
    Ok(match value {
        Value::String(text) if text.contains(BEGINS) => open_text(&text, open)?,
        Value::Array(items) => Value::Array(
            items.into_iter().map(|item| open_sealed(item, open)).collect::<Result<_, E>>()?,
        ),
        Value::Object(fields) => match sealed(&fields) {
            Some(sealed) => open(&sealed)?,
            None => {
                let fields = fields.into_iter();
                let opened = fields.map(|(name, field)| Ok((name, open_sealed(field, open)?)));
                Value::Object(opened.collect::<Result<_, E>>()?)
            }
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    })
}

fn open_text<E>(
    text: &str,
    open: &mut impl FnMut(&Sealed) -> Result<Value, E>,
) -> Result<Value, E> {
    let pieces: Vec<Piece<'_>> = pieces(text).collect();
    if let [Piece::Sealed(sealed)] = pieces.as_slice() {
        return open(sealed);
    }
    let mut whole = String::with_capacity(text.len());
    for piece in pieces {
        match piece {
            Piece::Text(text) => whole.push_str(text),
            Piece::Sealed(sealed) => match open(&sealed)? {
                Value::String(text) => whole.push_str(&text),
                value @ (Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::Array(_)
                | Value::Object(_)) => whole.push_str(&value.to_string()),
            },
        }
    }
    Ok(Value::String(whole))
}

fn sealed(fields: &Map<String, Value>) -> Option<Sealed> {
    if fields.len() != 1 {
        return None;
    }
    serde_json::from_value(fields.get(SEALED)?.clone()).ok()
}

enum Piece<'a> {
    Text(&'a str),
    Sealed(Sealed),
}

/// A text in its pieces. What only looks like a sealed value is text.
fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    #[derive(Deserialize)]
    struct Whole {
        #[serde(rename = "$sealed")]
        sealed: Sealed,
    }
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut from = 0;
        while let Some(found) = rest[from..].find(BEGINS) {
            let at = from + found;
            let mut stream = serde_json::Deserializer::from_str(&rest[at..]).into_iter::<Whole>();
            let Some(Ok(whole)) = stream.next() else {
                from = at + BEGINS.len();
                continue;
            };
            if at > 0 {
                let before = &rest[..at];
                rest = &rest[at..];
                return Some(Piece::Text(before));
            }
            rest = &rest[stream.byte_offset()..];
            return Some(Piece::Sealed(whole.sealed));
        }
        Some(Piece::Text(std::mem::take(&mut rest)))
    })
}

/// A value as expressions see it: every sealed value in it is a text.
#[must_use]
pub(crate) fn as_texts(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(as_texts).collect(),
        Value::Object(fields) => match sealed(&fields) {
            // As it is written here it begins as `pieces` looks for it.
            Some(sealed) => Value::String(Json::of(&json!({ SEALED: sealed })).as_str().to_owned()),
            None => Value::Object(
                fields.into_iter().map(|(name, field)| (name, as_texts(field))).collect(),
            ),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn sealing(marked: &Marked) -> Result<Sealed, Infallible> {
        let id = if marked.subject == "ada" { 1 } else { 2 };
        let ct = marked.value.to_string();
        Ok(Sealed { subject: Uuid::from_u128(id), key: Uuid::nil(), nonce: "n".to_owned(), ct })
    }

    fn opening(sealed: &Sealed) -> Result<Value, Infallible> {
        Ok(serde_json::from_str(&sealed.ct).expect("it was sealed here"))
    }

    fn given() -> Value {
        json!({
            "order": 7,
            "email": { "$personal": { "subject": "ada", "value": "ada@example.com" } },
            "items": [{ "for": { "$personal": { "subject": "bob", "value": { "name": "Bob" } } } }],
        })
    }

    #[test]
    fn what_is_marked_is_sealed_and_opens_to_what_it_was() {
        let subjects = subjects_marked(&given()).unwrap();
        assert_eq!(subjects, BTreeSet::from(["ada".to_owned(), "bob".to_owned()]));
        let Ok(sealed) = seal_marked(given(), &mut sealing);
        assert!(!may_be_marked(&sealed.to_string()) && may_be_sealed(&sealed.to_string()));
        assert_eq!(sealed["order"], 7);
        assert_eq!(subjects_sealed(&sealed).len(), 2);
        let Ok(opened) = open_sealed(sealed, &mut opening);
        assert_eq!(
            opened,
            json!({ "order": 7, "email": "ada@example.com", "items": [{ "for": { "name": "Bob" } }] })
        );
    }

    #[test]
    fn expressions_see_a_text_that_opens_where_it_stands() {
        let Ok(sealed) = seal_marked(given(), &mut sealing);
        let seen = as_texts(sealed);
        let email = seen["email"].as_str().unwrap().to_owned();
        let mixed = json!({
            "to": email,
            "text": format!("Dear {email}, see {{\"$sealed\": no}} and {email}!"),
            "typed": seen["items"][0]["for"],
        });
        assert_eq!(subjects_sealed(&mixed).len(), 2);
        let Ok(opened) = open_sealed(mixed, &mut opening);
        assert_eq!(opened["to"], "ada@example.com");
        assert_eq!(
            opened["text"],
            "Dear ada@example.com, see {\"$sealed\": no} and ada@example.com!"
        );
        assert_eq!(opened["typed"], json!({ "name": "Bob" }));
    }

    #[test]
    fn what_is_no_mark_is_refused_and_what_is_no_sealed_value_is_left() {
        let long = "x".repeat(limits::MAX_SUBJECT_CHARS + 1);
        for (value, error) in [
            (json!({ "$personal": 7 }), MarkError::Shape),
            (json!({ "$personal": { "subject": "a", "value": 1 }, "b": 1 }), MarkError::Shape),
            (json!({ "$personal": { "subject": "a" , "value": 1, "c": 1 } }), MarkError::Shape),
            (json!([{ "$personal": { "subject": "", "value": 1 } }]), MarkError::Subject),
            (json!([{ "$personal": { "subject": long, "value": 1 } }]), MarkError::Subject),
        ] {
            assert_eq!(subjects_marked(&value), Err(error), "{value}");
        }
        let one = json!({ "$personal": { "subject": "a", "value": 1 } });
        let many = Value::Array(vec![one; limits::MAX_MARKED_VALUES + 1]);
        assert_eq!(subjects_marked(&many), Err(MarkError::TooMany));
        for value in [json!({ "$sealed": 1 }), json!("{\"$sealed\":"), json!("{\"$sealed\":{}}")] {
            let Ok(left) = open_sealed(value.clone(), &mut opening);
            assert_eq!(left, value);
            assert_eq!(as_texts(value.clone()), value);
        }
    }
}
