//! Whatever is sent as a definition is read or refused: never with a panic, never without an end.

use std::time::{Duration, Instant};

use proptest::{prelude::*, sample::select};
use serde_json::{Map, Value, json};

use crate::{
    graph::Definition,
    json::Json,
    limits,
    node::{NodeKind, node_kinds},
};

/// Names that mean something somewhere in a definition.
const NAMES: &[&str] = &[
    "id",
    "type",
    "name",
    "config",
    "nodes",
    "connections",
    "settings",
    "from",
    "to",
    "port",
    "retry",
    "timeout_ms",
    "on_error",
    "position",
    "condition",
    "expression",
    "items",
    "cases",
    "when",
    "code",
    "input",
    "url",
    "headers",
    "program",
    "args",
    "operation",
    "path",
    "content",
    "duration_ms",
    "until",
    "concurrency",
    "limit",
    "key",
    "queue",
    "parallelism",
    "max_retries",
    "backoff_ms",
    "mode",
    "max_iterations",
    "pinned_output",
    "idempotent",
    "a/b",
    "~",
    "",
];

/// Texts that mean something, or nearly do.
const TEXTS: &[&str] = &[
    "a",
    "b",
    "c",
    "start",
    "true",
    "false",
    "default",
    "error",
    "input.x + 1",
    "nodes.a.output",
    "{{ input.x }}",
    "{{ nodes.a.output | join(',') }}",
    "{{",
    "}}",
    "{% for %}",
    "1 +",
    "((((((",
    "item",
    "[1, 2].map(x, x)",
    "all",
    "any",
    "fail",
    "branch",
    "continue",
    "GET",
    "https://example.org/",
    "read",
    "return 1",
    "\u{0}",
    "\u{202e}",
    "é\u{1f600}",
    "2026-01-31T08:00:00Z",
    "-1",
    "1e999",
    "",
];

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        select(vec![-1_i64, 0, 1, 3, 10_001, i64::MAX, i64::MIN]).prop_map(Value::from),
        (-1.0e300..1.0e300).prop_map(Value::from),
        select(TEXTS).prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((select(NAMES), inner), 0..6).prop_map(object),
        ]
    })
}

fn object(entries: Vec<(&str, Value)>) -> Value {
    Value::Object(entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// A node of a real kind whose configuration has the kind's own fields, with any values.
fn any_node() -> impl Strategy<Value = Value> {
    let fields = |kind: &str| -> Vec<String> {
        let kinds = node_kinds();
        let described = kinds.iter().find(|described| described.r#type == kind);
        let properties = described.and_then(|described| described.config["properties"].as_object());
        properties.into_iter().flat_map(Map::keys).cloned().collect()
    };
    let kind = select(NodeKind::ALL.map(NodeKind::as_str).to_vec());
    let values = prop::collection::vec(any_json(), 12);
    let extra = prop::collection::vec((select(NAMES), any_json()), 0..2);
    (select(vec!["a", "b", "c", "d"]), kind, values, extra).prop_map(
        move |(id, kind, values, extra)| {
            let config: Map<String, Value> = fields(kind).into_iter().zip(values).collect();
            let mut node = object(extra);
            node["id"] = json!(id);
            node["type"] = json!(kind);
            node["config"] = Value::Object(config);
            node
        },
    )
}

/// A definition that is nearly sound: real nodes, and connections between them that may be there or not.
fn nearly_sound() -> impl Strategy<Value = Value> {
    let sound = select(vec![
        json!({ "id": "a", "type": "trigger.manual" }),
        json!({ "id": "b", "type": "logic.transform", "config": { "expression": "input.x" } }),
        json!({ "id": "c", "type": "logic.if", "config": { "condition": "input.x > 1" } }),
        json!({ "id": "d", "type": "logic.wait", "config": { "duration_ms": 1 } }),
    ]);
    let node = prop_oneof![3 => sound, 1 => any_node()];
    let id = || select(vec!["a", "b", "c", "d", "e"]);
    let connection = (id(), id(), prop::option::of(select(vec!["true", "false", "x"]))).prop_map(
        |(from, to, port)| match port {
            Some(port) => json!({ "from": from, "to": to, "port": port }),
            None => json!({ "from": from, "to": to }),
        },
    );
    let settings = prop_oneof![3 => Just(json!({})), 1 => any_json()];
    (prop::collection::vec(node, 0..5), prop::collection::vec(connection, 0..5), settings).prop_map(
        |(nodes, connections, settings)| {
            json!({ "nodes": nodes, "connections": connections, "settings": settings })
        },
    )
}

/// Reads a definition within a time that no request would notice.
fn read(definition: &Value) -> Result<(), TestCaseError> {
    let begun = Instant::now();
    let parsed = Definition::parse(Json::from_value(definition));
    prop_assert!(begun.elapsed() < Duration::from_secs(5), "{:?}: {definition}", begun.elapsed());
    match parsed {
        Ok(parsed) => {
            let again = Definition::parse(Json::from_value(&parsed.text().to_value()));
            let again = again.map_err(|problems| TestCaseError::fail(format!("{problems:?}")))?;
            prop_assert_eq!(again.graph(), parsed.graph(), "what is sound stays what it is");
        }
        Err(problems) => {
            prop_assert!((1..=limits::MAX_PROBLEMS).contains(&problems.len()), "{definition}");
            for problem in problems {
                prop_assert!(!problem.reason.is_empty());
                let is_pointer = problem.field.is_empty() || problem.field.starts_with('/');
                prop_assert!(is_pointer, "{problem:?}");
                prop_assert!(problem.field.len() + problem.reason.len() < 64 * 1024, "{problem:?}");
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_json_is_read_or_refused(definition in any_json()) {
        read(&definition)?;
    }

    #[test]
    fn a_definition_of_real_kinds_is_read_or_refused(nodes in prop::collection::vec(any_node(), 1..5), settings in any_json()) {
        read(&json!({ "nodes": nodes, "connections": [], "settings": settings }))?;
    }

    #[test]
    fn a_nearly_sound_definition_is_read_or_refused(definition in nearly_sound()) {
        read(&definition)?;
    }
}
