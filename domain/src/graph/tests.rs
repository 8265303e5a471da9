//! What a definition may be, and the exact problems of those that may not.

mod fuzz;
mod refused;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    execution::{ErrorKind, Queue},
    expression::Scope,
    node::{Backoff, NodeConfig, OnError, RetryPolicy},
};

/// A definition of these nodes alone.
fn nodes(nodes: &Value) -> Value {
    json!({ "nodes": nodes })
}

/// A definition of one node `a` of this kind and configuration.
fn one(kind: &str, config: &Value) -> Value {
    nodes(&json!([{ "id": "a", "type": kind, "config": config }]))
}

fn transform(id: &str) -> Value {
    json!({ "id": id, "type": "logic.transform", "config": { "expression": "1" } })
}

fn sound() -> Value {
    json!({
        "nodes": [
            { "id": "start", "type": "trigger.manual", "name": "Start", "position": { "x": 1, "y": -2.5 } },
            { "id": "fetch", "type": "action.http", "config": {
                "method": "GET", "url": "https://example.org/{{ input.id }}",
                "headers": { "Accept": "application/json" }, "query": { "page": 1, "q": "{{ input.q }}" },
                "expect_status": [200, 404], "max_response_bytes": 1000,
            }, "retry": { "max_retries": 5, "exponential": { "base_ms": 100, "factor": 3, "max_ms": 5000, "jitter": 0.2 }, "retry_on": ["transient"] },
               "timeout_ms": 5000, "on_error": "branch", "idempotent": false },
            { "id": "check", "type": "logic.if", "config": { "condition": "nodes.fetch.output.status == 200" } },
            { "id": "route", "type": "logic.switch", "config": { "cases": [
                { "when": "input.kind == 'a'", "port": "a" }, { "when": "input.kind == 'b'", "port": "b" },
            ] } },
            { "id": "each", "type": "logic.for_each", "config": {
                "items": "nodes.fetch.output.body.items", "concurrency": 4,
                "nodes": [
                    { "id": "inner", "type": "logic.transform", "config": { "expression": "item.id + index" } },
                    { "id": "write", "type": "action.file", "config": { "operation": "write", "path": "out/{{ index }}.json", "content": { "v": "{{ nodes.inner.output }}" } } },
                ],
                "connections": [{ "from": "inner", "to": "write" }],
            }, "on_error": { "action": "continue", "value": [] } },
            { "id": "remember", "type": "logic.set_variable", "config": { "name": "seen", "expression": "true" } },
            { "id": "wait", "type": "logic.wait", "config": { "duration_ms": 1000 } },
            { "id": "log", "type": "action.command", "config": { "program": "echo", "args": ["{{ input.id }}", 2], "env": { "A": "b" }, "allow_exit_codes": [3] } },
        ],
        "connections": [
            { "from": "start", "to": "fetch" },
            { "from": "fetch", "to": "check" },
            { "from": "fetch", "to": "log", "port": "error" },
            { "from": "check", "to": "route", "port": "true" },
            { "from": "check", "to": "wait", "port": "false" },
            { "from": "route", "to": "each", "port": "a" },
            { "from": "route", "to": "remember", "port": "default" },
            { "from": "each", "to": "wait" },
        ],
        "settings": {
            "concurrency": { "limit": null, "key": "input.customer", "strategy": "cancel_running", "max_queued": 5 },
            "queue": "low", "timeout_ms": 1000, "parallelism": 2,
            "retry": { "max_retries": 1, "backoff_ms": [10] },
        },
    })
}

#[test]
fn a_sound_definition_becomes_a_graph() {
    let graph = Graph::parse(&sound()).expect("sound");
    assert_eq!(graph.len(), 8);
    let ids = |indices: &mut dyn Iterator<Item = NodeIndex>| -> Vec<String> {
        indices.map(|index| graph.node(index).id().to_owned()).collect()
    };
    assert_eq!(ids(&mut graph.roots()), ["start"]);
    let mut leaves = ids(&mut graph.leaves());
    leaves.sort();
    assert_eq!(leaves, ["log", "remember", "wait"]);
    let at = |id: &str| graph.index_of(id).expect("there");
    assert_eq!(ids(&mut graph.outgoing_by_port(at("fetch"), Some("error"))), ["log"]);
    assert_eq!(ids(&mut graph.outgoing_by_port(at("fetch"), None)), ["check"]);
    let to_wait: Vec<_> = graph
        .incoming(at("wait"))
        .iter()
        .map(|edge| (graph.node(edge.node).id(), edge.port.as_deref()))
        .collect();
    assert_eq!(to_wait, [("check", Some("false")), ("each", None)]);
    let place = |id: &str| graph.nodes().position(|(_, node)| node.id() == id).expect("there");
    for (before, after) in
        [("start", "fetch"), ("fetch", "check"), ("each", "wait"), ("route", "each")]
    {
        assert!(place(before) < place(after), "{before} before {after}");
    }
    let (body, inner) = graph.find("inner").expect("in the body");
    assert_eq!((body.len(), body.node(inner).id()), (2, "inner"));
    assert!(graph.find("gone").is_none());
}

#[test]
fn nodes_know_what_was_written_about_them() {
    let graph = Graph::parse(&sound()).expect("sound");
    let node = |id: &str| graph.node_by_id(id).expect("there");
    let fetch = node("fetch");
    assert_eq!(
        fetch.retry(),
        &RetryPolicy {
            max_retries: 5,
            backoff: Backoff::Exponential { base_ms: 100, factor: 3.0, max_ms: 5_000, jitter: 0.2 },
            retry_on: vec![ErrorKind::Transient],
        }
    );
    assert_eq!(fetch.timeout_ms(), Some(5_000));
    assert_eq!(fetch.on_error(), &OnError::Branch);
    assert_eq!(fetch.ports(), ["error"]);
    assert!(fetch.has_unnamed_port() && !fetch.is_idempotent() && !fetch.is_inline());
    assert_eq!(node("check").ports(), ["true", "false"]);
    assert_eq!(node("check").references(), ["fetch"]);
    assert!(node("check").is_inline() && node("check").is_idempotent());
    assert_eq!(node("route").ports(), ["a", "b", "default"]);
    assert_eq!(node("each").on_error(), &OnError::Continue(json!([])));
    assert_eq!(node("log").retry().max_retries, 1);
    assert_eq!(node("log").timeout_ms(), Some(300_000));
    assert!(!node("log").is_idempotent());
    assert_eq!(node("start").name(), "Start");
    assert_eq!(node("wait").name(), "wait");
    assert_eq!(
        node("start").position().map(|position| (position.x, position.y)),
        Some((1.0, -2.5))
    );
    let NodeConfig::Command(command) = node("log").config() else { panic!("a command") };
    assert_eq!(command.allow_exit_codes, [3, 0]);
}

#[test]
fn settings_are_what_was_written_or_the_usual() {
    let graph = Graph::parse(&sound()).expect("sound");
    let settings = graph.settings();
    assert_eq!(settings.concurrency.limit, None);
    assert_eq!(settings.concurrency.strategy, crate::execution::LimitStrategy::CancelRunning);
    assert_eq!(settings.concurrency.max_queued, 5);
    assert_eq!(settings.queue, Queue::Low);
    assert_eq!((settings.timeout_ms, settings.parallelism), (Some(1_000), 2));
    let usual = Graph::parse(&json!({})).expect("an empty draft is sound");
    assert!(usual.is_empty());
    assert_eq!(usual.settings(), &Settings::default());
    assert_eq!(usual.settings().concurrency.limit, Some(3));
    assert_eq!(usual.settings().concurrency.strategy, crate::execution::LimitStrategy::Queue);
    assert_eq!(usual.settings().parallelism, 8);
    assert_eq!(usual.settings().retry.max_retries, 3);
}

#[test]
fn a_key_is_a_text_whatever_it_evaluates_to() {
    let settings = json!({ "settings": { "concurrency": { "key": "input.k" } } });
    let graph = Graph::parse(&settings).expect("sound");
    let key = |input: Value| graph.settings().concurrency.key_of(&input.into());
    assert_eq!(key(json!({ "k": "x" })), Ok(Some("x".to_owned())));
    assert_eq!(key(json!({ "k": 7 })), Ok(Some("7".to_owned())));
    assert_eq!(key(json!({ "k": [1, "a"] })), Ok(Some("[1,\"a\"]".to_owned())));
    assert!(key(json!({})).is_err());
}

#[test]
fn configurations_resolve_against_a_scope() {
    let graph = Graph::parse(&sound()).expect("sound");
    let mut scope = Scope::of_input(json!({ "id": 7, "q": "a b", "kind": "b" }).into());
    scope
        .nodes
        .insert("fetch".to_owned(), json!({ "status": 200, "body": { "items": [1, 2] } }).into());
    scope.nodes.insert("inner".to_owned(), json!("x").into());
    scope.index = Some(4);
    let resolve = |id: &str| {
        let (graph, index) = graph.find(id).expect("there");
        let resolved = graph.node(index).resolve(&scope).expect("resolves");
        let input = resolved.input();
        let again = crate::node::Resolved::from_input(resolved.kind(), &input).expect("reads back");
        assert_eq!(again, resolved);
        input.to_value()
    };
    let table = [
        ("start", json!({})),
        (
            "fetch",
            json!({
                "method": "GET", "url": "https://example.org/7", "headers": [["Accept", "application/json"]],
                "query": [["page", "1"], ["q", "a b"]], "expect_status": [200, 404], "max_response_bytes": 1000,
            }),
        ),
        ("check", json!({ "condition": true })),
        ("route", json!({ "port": "b" })),
        ("each", json!({ "items": [1, 2], "concurrency": 4 })),
        (
            "write",
            json!({ "operation": "write", "path": "out/4.json", "content": "{\"v\":\"x\"}" }),
        ),
        ("remember", json!({ "name": "seen", "value": true })),
        ("wait", json!({ "duration_ms": 1000 })),
        (
            "log",
            json!({
                "program": "echo", "args": ["7", "2"], "env": [["A", "b"]], "max_output_bytes": 262_144, "allow_exit_codes": [3, 0],
            }),
        ),
    ];
    for (id, expected) in table {
        assert_eq!(resolve(id), expected, "{id}");
    }
}

#[test]
fn what_cannot_be_resolved_names_its_field() {
    let scope =
        Scope::of_input(json!({ "url": "ftp://x", "text": "a\nb", "n": -1, "list": 1 }).into());
    let table = [
        ("action.http", json!({ "url": "{{ input.url }}" }), "/url"),
        (
            "action.http",
            json!({ "url": "https://e.org", "headers": { "X": "{{ input.text }}" } }),
            "/headers/X",
        ),
        ("action.http", json!({ "url": "https://e.org", "body": "{{ input.gone }}" }), "/body"),
        ("logic.if", json!({ "condition": "input.n" }), "/condition"),
        (
            "logic.switch",
            json!({ "cases": [{ "when": "input.gone", "port": "a" }] }),
            "/cases/0/when",
        ),
        ("logic.wait", json!({ "duration_ms": "{{ input.n }}" }), "/duration_ms"),
        ("logic.wait", json!({ "until": "{{ input.text }}" }), "/until"),
        ("logic.for_each", json!({ "items": "input.list", "nodes": [transform("b")] }), "/items"),
        (
            "action.command",
            json!({ "program": "echo", "args": ["ok", "{{ input.gone }}"] }),
            "/args/1",
        ),
    ];
    for (kind, config, field) in table {
        let graph = Graph::parse(&one(kind, &config)).expect("sound");
        let error = graph.node_by_id("a").expect("there").resolve(&scope).expect_err("fails");
        assert_eq!(error.field, field, "{kind}: {error}");
    }
}

#[test]
fn every_kind_is_described_by_what_it_accepts() {
    let described = crate::node::node_kinds();
    assert_eq!(described.len(), NodeKind::ALL.len());
    for description in described {
        let properties = description.config["properties"].as_object().expect("properties");
        let Err(problems) = Graph::parse(&one(description.r#type, &json!({ "no such field": 1 })))
        else {
            panic!("{} took an unknown field", description.r#type)
        };
        let unknown = problems.iter().find(|problem| problem.code == ProblemCode::UnknownField);
        let reason = &unknown.expect("an unknown field").reason;
        let known = reason.split("known are ").nth(1).expect("lists the known ones");
        let mut read: Vec<&str> = known.split(", ").filter(|name| !name.is_empty()).collect();
        let mut served: Vec<&str> = properties.keys().map(String::as_str).collect();
        read.sort_unstable();
        served.sort_unstable();
        assert_eq!(read, served, "{}", description.r#type);
    }
}

/// A chain of this many nodes, each with an expression and a template of its own.
fn chain(length: usize) -> Value {
    let nodes: Vec<Value> = (0..length)
        .map(|n| {
            if n % 2 == 0 {
                json!({ "id": format!("n{n}"), "type": "logic.transform", "config": { "expression": format!("input.total + {}", n % 50) } })
            } else {
                json!({ "id": format!("n{n}"), "type": "action.http", "config": { "url": format!("https://example.org/{n}/{{{{ input.id }}}}") } })
            }
        })
        .collect();
    let connections: Vec<Value> = (1..length)
        .map(|n| json!({ "from": format!("n{}", n - 1), "to": format!("n{n}") }))
        .collect();
    json!({ "nodes": nodes, "connections": connections })
}

#[test]
fn the_largest_graph_is_read_on_a_small_stack() {
    let definition = chain(limits::MAX_NODES);
    let read = std::thread::Builder::new()
        .stack_size(512 * 1024)
        .spawn(move || Graph::parse(&definition).map(|graph| graph.len()))
        .expect("starts");
    assert_eq!(read.join().expect("does not overflow"), Ok(limits::MAX_NODES));
}

fn any_json() -> impl Strategy<Value = Value> {
    let word = prop::sample::select(vec![
        "id",
        "type",
        "config",
        "nodes",
        "connections",
        "settings",
        "from",
        "to",
        "port",
        "a",
        "b",
        "logic.if",
        "logic.for_each",
        "logic.merge",
        "logic.while",
        "action.http",
        "trigger.manual",
        "items",
        "condition",
        "url",
        "https://e.org/{{ input.x }}",
        "input.x",
        "retry",
        "on_error",
        "cases",
        "when",
        "true",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((word.clone(), inner), 0..6).prop_map(|entries| {
                Value::Object(entries.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    /// No JSON brings the reader down, every problem points at something that is there or is missing from something that is, and what is
    /// refused has a reason.
    #[test]
    fn no_json_brings_the_reader_down(nodes in any_json(), connections in any_json(), settings in any_json()) {
        let definition = json!({ "nodes": [nodes, { "id": "a", "type": "logic.if", "config": connections.clone() }], "connections": [connections], "settings": settings });
        if let Err(problems) = Graph::parse(&definition) {
            prop_assert!(!problems.is_empty());
            for problem in problems {
                // A field may be missing from a `config` that is missing too, and from nothing that is missing deeper.
                let above = |field: &str| field.rsplit_once('/').map_or_else(String::new, |(above, _)| above.to_owned());
                let parent = above(&problem.field);
                let there = |field: &str| definition.pointer(field).is_some();
                prop_assert!(there(&parent) || there(&above(&parent)), "{}", problem.field);
                prop_assert!(!problem.reason.is_empty());
            }
        }
    }
}

/// Every field of every kind that holds strings: those that the schema marks take a secret, and no other does.
#[test]
fn secrets_stand_where_the_schema_marks_them_and_nowhere_else() {
    fn try_each(kind: &str, schema: &Value, base: &Value) {
        let properties = schema["properties"].as_object().expect("properties");
        for (name, property) in properties {
            let secret = json!("{{ secrets.KEY }}");
            let value = match property["type"].as_str() {
                Some("object") => json!({ "A": secret }),
                Some("array") => json!([secret]),
                Some("integer" | "boolean") => continue,
                _ if property.get("enum").is_some() => continue,
                _ => secret,
            };
            let mut config = base.clone();
            config[name] = value;
            let read = Graph::parse(&one(kind, &config));
            if name == "statement" {
                // SQL is no template: braces stand for themselves in it, and nothing is put in their place.
                assert_eq!(read.expect("any text is a statement").secrets(), []);
                continue;
            }
            let pointer = format!("/nodes/0/config/{name}");
            let misplaced = read.as_ref().err().is_some_and(|problems| {
                problems.iter().any(|problem| problem.field.starts_with(&pointer))
            });
            let marked = property["x-secrets"] == true;
            assert_eq!(misplaced, !marked, "{kind} {name}: {read:?}");
            if let Ok(graph) = read {
                let named: Vec<_> = graph.secrets().iter().map(ToString::to_string).collect();
                assert_eq!(named, ["KEY"], "{kind} {name}");
            }
        }
    }
    let bases = [
        ("action.http", json!({ "url": "https://e.org", "method": "POST" })),
        ("action.command", json!({ "program": "echo" })),
        ("action.file", json!({ "operation": "write", "path": "a", "content": "b" })),
        ("action.sql", json!({ "connection": "db", "statement": "SELECT 1" })),
        (
            "action.email",
            json!({ "connection": "mail", "to": "a@b.co", "subject": "s", "text": "t" }),
        ),
        ("logic.if", json!({ "condition": "true" })),
        ("logic.switch", json!({ "cases": [] })),
        ("logic.transform", json!({ "expression": "1" })),
        ("logic.set_variable", json!({ "name": "x", "expression": "1" })),
    ];
    for (kind, base) in bases {
        let described = crate::node::node_kinds();
        let description = described.iter().find(|description| description.r#type == kind);
        try_each(kind, &description.expect("a kind").config, &base);
    }
}

#[test]
fn a_definition_says_which_secrets_its_workspace_lacks() {
    use crate::{
        Aggregate as _,
        vault::{SecretSet, Vault},
    };
    let request = |id: &str, name: &str| {
        let headers = json!({ "X": format!("{{{{ secrets.{name} }}}}") });
        json!({ "id": id, "type": "action.http", "config": { "url": "https://e.org", "headers": headers } })
    };
    let definition = json!({ "nodes": [
        request("a", "HERE"),
        { "id": "each", "type": "logic.for_each", "config": { "items": "[1]", "nodes": [request("b", "GONE")] } },
    ] });
    let graph = Graph::parse(&definition).expect("sound");
    assert!(graph.names_anything());
    let vault = Vault::default()
        .evolve(&SecretSet { name: "HERE".parse().expect("a name"), version: 1 }.into());
    let missing = graph.missing_from(&vault);
    let found: Vec<_> = missing
        .iter()
        .map(|problem| (problem.node_id.as_deref(), problem.field.as_str(), problem.code))
        .collect();
    assert_eq!(found, [(Some("b"), "/nodes/1/config/nodes/0/config", ProblemCode::SecretUnknown)]);
    assert_eq!(graph.missing_from(&Vault::default()).len(), 2);
}
