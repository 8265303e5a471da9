//! Workflows as YAML: the same document as the JSON one, with its fields in the order in which they were written.
//!
//! YAML lets a few bytes stand for a great many (aliases), nest without end, and mean other things than they look like. What is read
//! here is bounded before anything is built from it, and becomes JSON text, which goes through the same checks as if it had been sent.

use std::fmt;

use ledgerline_domain::limits;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Number, value::RawValue};

/// How many values a document may hold. A definition of the largest graph has fewer.
const MAX_VALUES: usize = 1_000_000;
/// How many anchors, and how many uses of them.
const MAX_ALIASES: usize = 1_000;
/// How many values the uses of anchors may stand for, all together.
const MAX_REPEATED_VALUES: usize = 100_000;

/// Why a text is not a document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason} (line {line}, column {column})")]
pub struct YamlError {
    /// What is wrong, for a person.
    pub reason: String,
    /// Where, from 1; 0 where it concerns the whole.
    pub line: u64,
    /// Where in the line, from 1; 0 where it concerns the whole.
    pub column: u64,
}

/// The JSON text of a YAML document.
///
/// # Errors
/// [`YamlError`] for what is not YAML, is no JSON when it is read, or is over a bound.
pub fn to_json(text: &str) -> Result<String, YamlError> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: limits::MAX_JSON_DEPTH,
            flow_nesting_limit: limits::MAX_JSON_DEPTH,
            max_documents: 1,
            max_nodes: MAX_VALUES,
            max_events: MAX_VALUES * 2,
            max_anchors: MAX_ALIASES,
            max_aliases: MAX_ALIASES,
            max_merge_keys: MAX_ALIASES,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_REPEATED_VALUES,
            max_replay_stack_depth: limits::MAX_JSON_DEPTH,
        },
        with_snippet: false,
        // Only `true` and `false` are booleans, as in YAML 1.2: `no` is a country.
        strict_booleans: true,
    };
    let document: Ordered =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            let place = error.location();
            let reason = error.without_snippet().to_string();
            YamlError {
                reason: reason.lines().next().unwrap_or_default().to_owned(),
                line: place.map_or(0, |place| place.line()),
                column: place.map_or(0, |place| place.column()),
            }
        })?;
    Ok(document.to_json())
}

/// The YAML text of a JSON document. Its fields stay in their order.
///
/// # Errors
/// When the text is not JSON.
pub fn from_json(text: &str) -> Result<String, serde_json::Error> {
    let document = Ordered::of_json(text)?;
    // Long lines stay lines: folding them would make every edit of one a change of many.
    let options = serde_saphyr::ser_options! { folded_wrap_chars: usize::MAX };
    serde_saphyr::to_string_with_options(&document, options).map_err(serde::ser::Error::custom)
}

/// The JSON text of a JSON document, with two spaces a level and its fields in their order.
///
/// # Errors
/// When the text is not JSON.
pub fn pretty_json(text: &str) -> Result<String, serde_json::Error> {
    let document = Ordered::of_json(text)?;
    Ok(format!("{}\n", serde_json::to_string_pretty(&document)?))
}

/// A JSON value whose fields keep their order.
#[derive(Clone, Debug, PartialEq)]
enum Ordered {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Ordered>),
    Object(Vec<(String, Ordered)>),
}

impl Ordered {
    /// Reads JSON text. Numbers are read one by one from their text: serde_json's own way may miss the nearest by a little, and then
    /// a document would drift each time it is read and written.
    fn of_json(text: &str) -> Result<Self, serde_json::Error> {
        Ok(match text.trim_start().as_bytes().first() {
            Some(b'{') => {
                let Entries(entries) = serde_json::from_str(text)?;
                let entries = entries.into_iter();
                let read = |(name, raw): (String, &RawValue)| Ok((name, Self::of_json(raw.get())?));
                Self::Object(entries.map(read).collect::<Result<_, serde_json::Error>>()?)
            }
            Some(b'[') => {
                let items: Vec<&RawValue> = serde_json::from_str(text)?;
                let items = items.into_iter().map(|raw| Self::of_json(raw.get()));
                Self::List(items.collect::<Result<_, _>>()?)
            }
            Some(b'-' | b'0'..=b'9') => match text.trim().parse::<f64>() {
                Ok(number) if text.contains(['.', 'e', 'E']) => {
                    let number = Number::from_f64(number);
                    Self::Number(number.ok_or_else(|| Error::custom("a number is too large"))?)
                }
                Ok(_) | Err(_) => serde_json::from_str(text)?,
            },
            _ => serde_json::from_str(text)?,
        })
    }

    fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a value with texts for keys always serialises")
    }
}

impl Serialize for Ordered {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(number) => number.serialize(serializer),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(items) => serializer.collect_seq(items),
            Self::Object(entries) => {
                serializer.collect_map(entries.iter().map(|(name, value)| (name, value)))
            }
        }
    }
}

/// The fields of an object in their order, unread.
struct Entries<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;
        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_map(EntriesVisitor).map(Entries)
    }
}

impl<'de> Deserialize<'de> for Ordered {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OrderedVisitor)
    }
}

struct OrderedVisitor;

impl<'de> Visitor<'de> for OrderedVisitor {
    type Value = Ordered;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Ordered, E> {
        Ok(Ordered::Null)
    }

    fn visit_none<E>(self) -> Result<Ordered, E> {
        Ok(Ordered::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Ordered, D::Error> {
        Deserialize::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Ordered, E> {
        Ok(Ordered::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Ordered, E> {
        Ok(Ordered::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Ordered, E> {
        Ok(Ordered::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Ordered, E> {
        let number = Number::from_f64(value);
        number.map(Ordered::Number).ok_or_else(|| E::custom("a number of JSON is finite"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Ordered, E> {
        Ok(Ordered::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Ordered, E> {
        Ok(Ordered::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Ordered, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Ordered::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Ordered, A::Error> {
        let mut object: Vec<(String, Ordered)> = Vec::new();
        let mut known = std::collections::HashSet::new();
        while let Some((name, value)) = entries.next_entry::<String, Ordered>()? {
            if !known.insert(name.clone()) {
                return Err(A::Error::custom(format!("the field `{name}` is there twice")));
            }
            object.push((name, value));
        }
        Ok(Ordered::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn value(yaml: &str) -> Value {
        serde_json::from_str(&to_json(yaml).unwrap_or_else(|why| panic!("{yaml}: {why}"))).unwrap()
    }

    #[test]
    fn fields_keep_their_order_and_texts_stay_texts() {
        let json = r#"{"z":1,"a":{"y":"yes","b":"1.50","n":"null","t":"{{ input.x }}"},"l":["- x","a: b","","\n a\n"]}"#;
        let yaml = from_json(json).unwrap();
        assert_eq!(to_json(&yaml).unwrap(), json, "{yaml}");
        assert!(yaml.find("z:").unwrap() < yaml.find("a:").unwrap());
    }

    #[test]
    fn what_people_write_is_read_as_they_mean_it() {
        let yaml = "# comment\nname: Nightly\nlimits: &l {a: 1, b: 2.5}\nsame: *l\ncountry: no\nempty:\nlist:\n- one\n- 'two'\ntext: |\n  a\n  b\n";
        assert_eq!(
            value(yaml),
            json!({
                "name": "Nightly", "limits": {"a": 1, "b": 2.5}, "same": {"a": 1, "b": 2.5},
                "country": "no", "empty": null, "list": ["one", "two"], "text": "a\nb\n",
            })
        );
    }

    #[test]
    fn what_would_not_end_is_refused() {
        let bomb = {
            let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
            for level in 1..9 {
                let inner = vec![format!("*a{}", level - 1); 10].join(",");
                text.push_str(&format!("a{level}: &a{level} [{inner}]\n"));
            }
            text
        };
        let deep_flow = format!("a: {}1{}", "[".repeat(100_000), "]".repeat(100_000));
        let deep_block: String =
            (0..2_000).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
        let itself = "a: &a [*a]".to_owned();
        let two = "a: 1\n---\na: 2\n".to_owned();
        let twice = "a: 1\na: 2\n".to_owned();
        let endless = "a: .inf".to_owned();
        let torn = "a: [1, 2".to_owned();
        let tabs = "a:\n\t- b".to_owned();
        for text in [bomb, deep_flow, deep_block, itself, two, twice, endless, torn, tabs] {
            let begun = std::time::Instant::now();
            let refused = to_json(&text);
            assert!(refused.is_err(), "{}", &text[..text.len().min(80)]);
            assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
        }
        let place = to_json("a: 1\nb: [\n").unwrap_err();
        assert!(place.line >= 2, "{place}");
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let text = prop_oneof![
            any::<String>().prop_map(|text| text.replace('\0', "")),
            "[ \n\t:#'\"|>&*!%@`{}\\[\\]-]{0,6}",
            "(yes|no|on|off|null|~|true|1e3|0x1F|0o7|1_000|\\.5|2026-01-31|12:30:45|<<|=|-|\\? x)",
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-1.0e12..1.0e12).prop_map(Value::from),
            text.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(text.clone(), inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

        /// Every JSON value is the same after it was YAML, whatever its texts look like.
        #[test]
        fn a_value_survives_being_yaml(value in any_json()) {
            let json = value.to_string();
            prop_assert_eq!(&Ordered::of_json(&json).unwrap().to_json(), &json);
            let yaml = from_json(&json).unwrap();
            let back = to_json(&yaml).map_err(|why| TestCaseError::fail(format!("{why}\n{yaml}")))?;
            prop_assert_eq!(back, json, "{}", yaml);
        }

        /// Whatever is sent as YAML is read or refused.
        #[test]
        fn nothing_breaks_the_reader(text in "[ \n\t:#'\"|>&*!%@`{},\\[\\]?a-c0-2-]{0,60}") {
            let _ = to_json(&text);
        }
    }
}
