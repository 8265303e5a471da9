//! Takes secrets out of whatever a step gives or prints, before it leaves the worker.
//!
//! A secret is found as it is, and in the spellings in which servers and programs give it back: percent-encoded, escaped for JSON or
//! HTML, in hexadecimal, and in base64 wherever in the encoded text it stands (`user:secret` of Basic authentication, for one). Several
//! lines are found line by line too. What a program does to a secret beyond that (reversing it, printing it letter by letter) can't be
//! told from other text, so a program that is given a secret is one that is trusted with it.

use std::{borrow::Cow, collections::BTreeSet};

use base64::{
    Engine as _,
    alphabet::{STANDARD, URL_SAFE},
    engine::{GeneralPurpose, GeneralPurposeConfig},
};
use ledgerline_domain::{execution::NodeError, expression::MASKED, json::Json};
use serde_json::{Map, Value};

/// A shorter one is part of many words, so that masking it would take ordinary text apart.
const MIN_BYTES: usize = 4;
/// The same for one line of a secret of several, where any line is worth less than the whole.
const MIN_LINE_BYTES: usize = 8;
/// The same for what is certain of a secret in base64.
const MIN_BASE64_CHARS: usize = 5;
/// The longest spelling of one byte: `\u00e9` and `&quot;`.
const LONGEST_SPELLING: usize = 6;

/// What is taken out of texts.
#[derive(Default)]
pub struct Mask {
    needles: Vec<Needle>,
    /// With which bytes a needle can begin.
    begins: Vec<bool>,
    longest: usize,
}

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mask").field("needles", &self.needles.len()).finish_non_exhaustive()
    }
}

enum Needle {
    /// Each byte in any of its spellings.
    Spelled(Vec<u8>),
    /// These bytes.
    Exact(Vec<u8>),
}

impl Mask {
    /// Takes nothing out.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Takes these secrets out.
    #[must_use]
    pub fn of<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let (mut spelled, mut exact) = (BTreeSet::new(), BTreeSet::new());
        for secret in secrets {
            add(secret, MIN_BYTES, &mut spelled, &mut exact);
            // With and without the line feed that a file ends with.
            add(secret.trim(), MIN_BYTES, &mut spelled, &mut exact);
            if secret.trim().contains('\n') {
                for line in secret.lines() {
                    add(line.trim(), MIN_LINE_BYTES, &mut spelled, &mut exact);
                }
            }
        }
        let mut begins = vec![false; 256];
        for needle in &spelled {
            for byte in begins_of(needle) {
                begins[usize::from(byte)] = true;
            }
        }
        for byte in exact.iter().filter_map(|needle: &Vec<u8>| needle.first()) {
            begins[usize::from(*byte)] = true;
        }
        let of_spelled = spelled.iter().map(|needle| needle.len() * LONGEST_SPELLING).max();
        let of_exact = exact.iter().map(Vec::len).max();
        Self {
            longest: of_spelled.max(of_exact).unwrap_or_default(),
            begins,
            // The longest first, so that of two that begin at one place the longer is taken out.
            needles: exact
                .into_iter()
                .map(Needle::Exact)
                .chain(spelled.into_iter().map(Needle::Spelled))
                .collect(),
        }
    }

    /// Whether there is nothing to take out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.needles.is_empty()
    }

    /// A text without the secrets.
    #[must_use]
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let bytes = text.as_bytes();
        let Some((first, _)) = self.next(bytes, 0) else { return Cow::Borrowed(text) };
        let mut masked = text[..first].to_owned();
        let mut at = first;
        while let Some((begin, end)) = self.next(bytes, at) {
            push(&mut masked, &bytes[at..begin]);
            masked.push_str(MASKED);
            at = end;
        }
        push(&mut masked, &bytes[at..]);
        Cow::Owned(masked)
    }

    /// A value without the secrets, also in the names of its fields and in numbers that are one.
    #[must_use]
    pub fn value(&self, value: Value) -> Value {
        if self.is_empty() {
            return value;
        }
        match value {
            Value::String(text) => match self.text(&text) {
                Cow::Borrowed(_) => Value::String(text),
                Cow::Owned(masked) => Value::String(masked),
            },
            Value::Number(number) => match self.text(&number.to_string()) {
                Cow::Borrowed(_) => Value::Number(number),
                Cow::Owned(masked) => Value::String(masked),
            },
            Value::Array(items) => items.into_iter().map(|item| self.value(item)).collect(),
            Value::Object(fields) => {
                let mut masked = Map::new();
                for (name, value) in fields {
                    masked.insert(self.text(&name).into_owned(), self.value(value));
                }
                Value::Object(masked)
            }
            Value::Null | Value::Bool(_) => value,
        }
    }

    /// A failure without the secrets.
    #[must_use]
    pub fn error(&self, error: NodeError) -> NodeError {
        if self.is_empty() {
            return error;
        }
        NodeError {
            kind: error.kind,
            message: self.text(&error.message).into_owned(),
            details: error.details.map(|details| Json::from_value(&self.value(details.to_value()))),
        }
    }

    /// What of a text that is still being written can be shown: the rest stays in `held`, because a secret may have begun in it.
    /// At its end everything is shown.
    pub fn stream(&self, held: &mut String, ended: bool) -> String {
        if ended || self.is_empty() {
            let masked = self.text(held).into_owned();
            held.clear();
            return masked;
        }
        let bytes = held.as_bytes();
        let mut safe = held.len().saturating_sub(self.longest.saturating_sub(1));
        let mut at = 0;
        while let Some((begin, end)) = self.next(bytes, at) {
            if begin >= safe {
                break;
            }
            at = end;
            safe = safe.max(end);
        }
        while !held.is_char_boundary(safe) {
            safe -= 1;
        }
        let rest = held.split_off(safe);
        let masked = self.text(held).into_owned();
        *held = rest;
        masked
    }

    /// The next secret from a place on: where it begins and ends.
    fn next(&self, text: &[u8], from: usize) -> Option<(usize, usize)> {
        if self.is_empty() {
            return None;
        }
        (from..text.len()).find_map(|at| {
            if !self.begins[usize::from(text[at])] {
                return None;
            }
            let ends = self.needles.iter().filter_map(|needle| match needle {
                Needle::Exact(needle) => {
                    text[at..].starts_with(needle).then_some(at + needle.len())
                }
                Needle::Spelled(needle) => spelled_end(needle, text, at),
            });
            ends.max().map(|end| (at, end))
        })
    }
}

/// A place that is not between two characters can't be: a secret is a text, and so is what it is looked for in.
fn push(text: &mut String, bytes: &[u8]) {
    text.push_str(&String::from_utf8_lossy(bytes));
}

fn add(
    secret: &str,
    min_bytes: usize,
    spelled: &mut BTreeSet<Vec<u8>>,
    exact: &mut BTreeSet<Vec<u8>>,
) {
    if secret.len() < min_bytes {
        return;
    }
    let bytes = secret.as_bytes();
    spelled.insert(bytes.to_vec());
    exact.insert(hex::encode(bytes).into_bytes());
    exact.insert(hex::encode_upper(bytes).into_bytes());
    for alphabet in [STANDARD, URL_SAFE] {
        let engine = GeneralPurpose::new(&alphabet, GeneralPurposeConfig::new());
        for before in 0..3 {
            let padded: Vec<u8> =
                std::iter::repeat_n(0, before).chain(bytes.iter().copied()).collect();
            let text = engine.encode(&padded);
            // What stands before and after it has a part in the characters at its edges.
            let (begin, end) = ((before * 8).div_ceil(6), padded.len() * 8 / 6);
            if end >= begin + MIN_BASE64_CHARS {
                exact.insert(text.as_bytes()[begin..end].to_vec());
            }
        }
    }
    if !secret.is_ascii() {
        let escaped = |upper: bool| {
            let mut text = String::new();
            for unit in secret.encode_utf16() {
                match char::from_u32(u32::from(unit)).filter(char::is_ascii) {
                    Some(c) => text.push(c),
                    None if upper => text.push_str(&format!("\\u{unit:04X}")),
                    None => text.push_str(&format!("\\u{unit:04x}")),
                }
            }
            text.into_bytes()
        };
        exact.insert(escaped(false));
        exact.insert(escaped(true));
    }
}

/// With which bytes any spelling of a text can begin.
fn begins_of(needle: &[u8]) -> impl Iterator<Item = u8> {
    let first = needle.first().copied();
    let plus = first.filter(|byte| *byte == b' ').map(|_| b'+');
    first.into_iter().chain(plus).chain([b'%', b'\\', b'&'])
}

/// Where a text ends that begins here in any spelling of its bytes.
fn spelled_end(needle: &[u8], text: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    for byte in needle {
        at += spelling(*byte, &text[at..])?;
    }
    Some(at)
}

/// How long the spelling of a byte is that a text begins with.
fn spelling(byte: u8, text: &[u8]) -> Option<usize> {
    match *text.first()? {
        // A byte that stands for itself, unless it begins an escape of itself: `\\` is one backslash, `&amp;` one ampersand.
        b'\\' => escaped(byte, text).or_else(|| (byte == b'\\').then_some(1)),
        b'&' => entity(byte, text).or_else(|| (byte == b'&').then_some(1)),
        b'%' => percent(byte, text).or_else(|| (byte == b'%').then_some(1)),
        b'+' if byte == b' ' => Some(1),
        first => (first == byte).then_some(1),
    }
}

fn percent(byte: u8, text: &[u8]) -> Option<usize> {
    let digits = std::str::from_utf8(text.get(1..3)?).ok()?;
    (u8::from_str_radix(digits, 16).ok()? == byte).then_some(3)
}

/// An escape of JSON.
fn escaped(byte: u8, text: &[u8]) -> Option<usize> {
    let short = match text.get(1)? {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'f' => 12,
        b'u' => {
            let digits = std::str::from_utf8(text.get(2..6)?).ok()?;
            let code = u16::from_str_radix(digits, 16).ok()?;
            return (byte.is_ascii() && code == u16::from(byte)).then_some(6);
        }
        other @ (b'"' | b'\\' | b'/') => *other,
        _ => return None,
    };
    (short == byte).then_some(2)
}

/// An entity of HTML.
fn entity(byte: u8, text: &[u8]) -> Option<usize> {
    const ENTITIES: [(&[u8], u8); 8] = [
        (b"&amp;", b'&'),
        (b"&lt;", b'<'),
        (b"&gt;", b'>'),
        (b"&quot;", b'"'),
        (b"&#34;", b'"'),
        (b"&#39;", b'\''),
        (b"&#x27;", b'\''),
        (b"&apos;", b'\''),
    ];
    let mut found =
        ENTITIES.iter().filter(|(word, stands_for)| *stands_for == byte && text.starts_with(word));
    found.next().map(|(word, _)| word.len())
}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
    use ledgerline_domain::execution::ErrorKind;
    use serde_json::json;

    use super::*;

    const SECRET: &str = "p4ss/w\"rd+&é %41";

    fn gone(text: &str) {
        let masked = Mask::of([SECRET]);
        let masked = masked.text(text);
        assert!(masked.contains(MASKED), "{text} stayed {masked}");
        assert!(masked.starts_with("<") && masked.ends_with(">"), "{text} became {masked}");
    }

    #[test]
    fn a_secret_is_found_in_every_spelling() {
        gone(&format!("<{SECRET}>"));
        gone(&format!("<{}>", serde_json::to_string(SECRET).unwrap().trim_matches('"')));
        gone("<p4ss\\/w\\u0022rd\\u002b\\u0026\\u00e9 \\u002541>".replace("\\u00e9", "é").as_str());
        gone("<p4ss/w\"rd+&\\u00e9 %41>");
        gone("<p4ss%2Fw%22rd%2B%26%C3%A9%20%2541>");
        gone("<p4ss%2fw%22rd%2b%26%c3%a9+%2541>");
        gone("<p4ss/w%22rd+&%C3%A9%20%41>".replace("%41", "%2541").as_str());
        gone("<p4ss/w&quot;rd+&amp;é %41>");
        gone(&format!("<{}>", hex::encode(SECRET)));
        gone(&format!("<{}>", hex::encode_upper(SECRET)));
        let url: String = url::form_urlencoded::byte_serialize(SECRET.as_bytes()).collect();
        gone(&format!("<{url}>"));
    }

    #[test]
    fn a_secret_is_found_in_base64_wherever_it_stands() {
        let mask = Mask::of([SECRET]);
        for before in ["", "u", "us", "use", "user:"] {
            for after in ["", "\n", "xy", "xyz"] {
                let text = format!("{before}{SECRET}{after}");
                let encoded = [BASE64_STANDARD.encode(&text), BASE64_URL_SAFE_NO_PAD.encode(&text)];
                for encoded in encoded {
                    let masked = mask.text(&encoded).into_owned();
                    assert!(masked.contains(MASKED), "{encoded} stayed {masked}");
                    assert!(masked.len() <= encoded.len() - 15, "{encoded} became {masked}");
                }
            }
        }
    }

    #[test]
    fn each_line_of_a_secret_of_several_is_found() {
        let mask = Mask::of(["-----BEGIN KEY-----\nMIIEvQIBADANBgkq\nshort\n-----END KEY-----\n"]);
        assert_eq!(mask.text("x MIIEvQIBADANBgkq y"), "x *** y");
        assert_eq!(mask.text("short"), "short");
        assert_eq!(Mask::of(["a token\n"]).text("<a token>"), "<***>");
    }

    #[test]
    fn other_text_stays_as_it_is() {
        let mask = Mask::of([SECRET, "abc", "12345678"]);
        for text in
            ["", "p4ss", "%", "\\", "&", "abc", "p4ss/w\"rd+&", "\\u12", "%4", "é%ff", "1234567"]
        {
            assert_eq!(mask.text(text), text);
        }
        assert!(Mask::none().is_empty() && Mask::of(["abc"]).is_empty());
        assert_eq!(Mask::none().text(SECRET), SECRET);
    }

    #[test]
    fn of_two_secrets_the_longer_is_taken_out_whole() {
        let mask = Mask::of(["token", "token-and-more"]);
        assert_eq!(mask.text("a token-and-more, a token"), "a ***, a ***");
        assert_eq!(mask.text("tokentokentoke"), "******toke");
    }

    #[test]
    fn values_are_masked_in_depth_in_names_and_as_numbers() {
        let mask = Mask::of(["12345678", "hunter22"]);
        let value = json!({"hunter22": [1, {"a": "x hunter22"}, 12_345_678, true], "n": 1234});
        let masked = json!({"***": [1, {"a": "x ***"}, "***", true], "n": 1234});
        assert_eq!(mask.value(value), masked);
        let details = Some(Json::from_value(&json!({"body": "hunter22"})));
        let error =
            NodeError { kind: ErrorKind::Permanent, message: "no hunter22".into(), details };
        let error = mask.error(error);
        assert_eq!(error.message, "no ***");
        assert_eq!(error.details.unwrap().to_value(), json!({"body": "***"}));
    }

    #[test]
    fn a_secret_that_is_cut_anywhere_is_not_shown_by_a_stream() {
        let mask = Mask::of([SECRET, "another one"]);
        let text =
            format!("before {SECRET} between é another one after, and much more text in the end");
        let whole = mask.text(&text).into_owned();
        for size in 1..text.len() {
            let (mut held, mut shown) = (String::new(), String::new());
            let mut rest = text.as_str();
            while !rest.is_empty() {
                let mut end = size.min(rest.len());
                while !rest.is_char_boundary(end) {
                    end += 1;
                }
                held.push_str(&rest[..end]);
                rest = &rest[end..];
                shown.push_str(&mask.stream(&mut held, false));
                assert!(held.len() <= mask.longest + size + 4, "{} are held", held.len());
            }
            shown.push_str(&mask.stream(&mut held, true));
            assert_eq!(shown, whole, "in parts of {size}");
        }
    }
}
