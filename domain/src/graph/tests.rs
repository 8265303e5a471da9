//! What a definition may be, and the exact problems of those that may not.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    execution::{ErrorKind, Queue},
    expression::Scope,
    node::{Backoff, NodeConfig, OnError, RetryPolicy},
};

/// Node, field and code of each expected problem.
type Expected<'a> = &'a [(Option<&'a str>, &'a str, ProblemCode)];
/// Field, below the place in question, and code of each expected problem.
type Below<'a> = &'a [(&'a str, ProblemCode)];

/// Node, field and code of each problem, in order.
fn problems(definition: &Value) -> Vec<(Option<String>, String, ProblemCode)> {
    match Graph::parse(definition) {
        Ok(_) => Vec::new(),
        Err(problems) => problems
            .into_iter()
            .map(|problem| (problem.node_id, problem.field, problem.code))
            .collect(),
    }
}

#[track_caller]
fn expect(definition: &Value, expected: Expected<'_>) {
    let expected: Vec<_> = expected
        .iter()
        .map(|(node, field, code)| (node.map(str::to_owned), (*field).to_owned(), *code))
        .collect();
    assert_eq!(problems(definition), expected, "{definition}");
}

/// A definition of these nodes alone.
fn nodes(nodes: &Value) -> Value {
    json!({ "nodes": nodes })
}

/// A definition of one node `a` of this kind and configuration.
fn one(kind: &str, config: &Value) -> Value {
    nodes(&json!([{ "id": "a", "type": kind, "config": config }]))
}

/// A definition of one sound node `a` with further fields.
fn with(fields: &Value) -> Value {
    let mut node = json!({ "id": "a", "type": "logic.transform", "config": { "expression": "1" } });
    for (name, value) in fields.as_object().expect("an object") {
        node[name] = value.clone();
    }
    nodes(&json!([node]))
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
            "concurrency": { "limit": null, "key": "input.customer", "strategy": "queue" },
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
    assert_eq!(settings.queue, Queue::Low);
    assert_eq!((settings.timeout_ms, settings.parallelism), (Some(1_000), 2));
    let usual = Graph::parse(&json!({})).expect("an empty draft is sound");
    assert!(usual.is_empty());
    assert_eq!(usual.settings(), &Settings::default());
    assert_eq!(usual.settings().concurrency.limit, Some(3));
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
fn what_is_not_a_definition_is_refused() {
    use ProblemCode as P;
    expect(&json!([]), &[(None, "", P::WrongType)]);
    expect(&json!({ "nodes": {} }), &[(None, "/nodes", P::WrongType)]);
    expect(&json!({ "connections": 1 }), &[(None, "/connections", P::WrongType)]);
    expect(&json!({ "nodes": [1] }), &[(None, "/nodes/0", P::WrongType)]);
    expect(&json!({ "edges": [] }), &[(None, "/edges", P::UnknownField)]);
    expect(&json!({ "a/b~c": 1 }), &[(None, "/a~1b~0c", P::UnknownField)]);
    let mut deep = json!(1);
    for _ in 0..70 {
        deep = json!([deep]);
    }
    expect(
        &one("action.http", &json!({ "url": "https://e.org", "body": deep })),
        &[(None, "", P::NestedTooDeep)],
    );
    let many: Vec<Value> = (0..=limits::MAX_NODES).map(|n| transform(&format!("n{n}"))).collect();
    expect(&json!({ "nodes": many }), &[(None, "/nodes", P::TooManyNodes)]);
    let many = vec![json!({}); limits::MAX_CONNECTIONS + 1];
    expect(&json!({ "connections": many }), &[(None, "/connections", P::TooManyConnections)]);
}

#[test]
fn ids_and_kinds_are_checked() {
    use ProblemCode as P;
    expect(&nodes(&json!([{ "type": "trigger.manual" }])), &[(None, "/nodes/0/id", P::Required)]);
    expect(
        &nodes(&json!([{ "id": 1, "type": "trigger.manual" }])),
        &[(None, "/nodes/0/id", P::WrongType)],
    );
    for id in ["", "a b", "a/b", "a[0]", "a.b", "é", &"x".repeat(65)] {
        let definition = nodes(&json!([{ "id": id, "type": "trigger.manual" }]));
        expect(&definition, &[(None, "/nodes/0/id", P::IdInvalid)]);
    }
    expect(
        &nodes(&json!([transform("a"), transform("b"), transform("a")])),
        &[(Some("a"), "/nodes/2/id", P::IdDuplicate)],
    );
    expect(&nodes(&json!([{ "id": "a" }])), &[(Some("a"), "/nodes/0/type", P::Required)]);
    expect(
        &nodes(&json!([{ "id": "a", "type": 5 }])),
        &[(Some("a"), "/nodes/0/type", P::WrongType)],
    );
    let unknown = one("action.ftp", &json!({}));
    expect(&unknown, &[(Some("a"), "/nodes/0/type", P::KindUnknown)]);
    let reason = &Graph::parse(&unknown).unwrap_err()[0].reason;
    assert!(NodeKind::ALL.iter().all(|kind| reason.contains(kind.as_str())), "{reason}");
}

#[test]
fn connections_are_checked() {
    use ProblemCode as P;
    let between = |connections: Value| {
        json!({
            "nodes": [transform("a"), transform("b"),
                { "id": "c", "type": "logic.if", "config": { "condition": "true" } },
                { "id": "bad", "type": "logic.if", "config": {} }],
            "connections": connections,
        })
    };
    // The unsound node is reported once, and nothing is concluded from it.
    let bad = (Some("bad"), "/nodes/3/config/condition", P::Required);
    let table: [(Value, Expected<'_>); 11] = [
        (json!([{ "from": "a", "to": "b" }]), &[bad]),
        (json!([{ "from": "a" }]), &[bad, (None, "/connections/0/to", P::Required)]),
        (
            json!([{ "from": "x", "to": "b" }]),
            &[bad, (None, "/connections/0/from", P::NodeUnknown)],
        ),
        (json!([{ "from": "a", "to": 7 }]), &[bad, (None, "/connections/0/to", P::WrongType)]),
        (
            json!([{ "from": "a", "to": "b", "port": "x" }]),
            &[bad, (Some("a"), "/connections/0/port", P::PortUnknown)],
        ),
        (
            json!([{ "from": "a", "to": "b", "port": "error" }]),
            &[bad, (Some("a"), "/connections/0/port", P::PortUnknown)],
        ),
        (
            json!([{ "from": "c", "to": "b" }]),
            &[bad, (Some("c"), "/connections/0/port", P::PortUnknown)],
        ),
        (
            json!([{ "from": "c", "to": "b", "port": "yes" }]),
            &[bad, (Some("c"), "/connections/0/port", P::PortUnknown)],
        ),
        (json!([{ "from": "bad", "to": "b", "port": "x" }]), &[bad]),
        (
            json!([{ "from": "a", "to": "b" }, { "from": "a", "to": "b" }]),
            &[bad, (Some("a"), "/connections/1", P::ConnectionDuplicate)],
        ),
        (
            json!([{ "from": "a", "to": "b", "label": "x" }]),
            &[bad, (None, "/connections/0/label", P::UnknownField)],
        ),
    ];
    for (connections, expected) in table {
        expect(&between(connections), expected);
    }
}

#[test]
fn nothing_waits_for_itself_and_everything_can_be_reached() {
    use ProblemCode as P;
    let ring = json!({
        "nodes": [transform("a"), transform("b"), transform("c"), transform("d")],
        "connections": [
            { "from": "a", "to": "b" }, { "from": "b", "to": "c" }, { "from": "c", "to": "b" }, { "from": "d", "to": "d" },
        ],
    });
    expect(&ring, &[(Some("b"), "/nodes/1", P::Cycle), (Some("d"), "/nodes/3", P::Cycle)]);
    assert!(Graph::parse(&ring).unwrap_err()[0].reason.ends_with("b, c"));
    let two_roots = json!({
        "nodes": [{ "id": "t", "type": "trigger.manual" }, transform("a"), transform("b"), transform("c")],
        "connections": [{ "from": "t", "to": "a" }, { "from": "b", "to": "c" }],
    });
    expect(
        &two_roots,
        &[(Some("b"), "/nodes/2", P::Unreachable), (Some("c"), "/nodes/3", P::Unreachable)],
    );
    let without_trigger = json!({ "nodes": [transform("a"), transform("b")] });
    expect(&without_trigger, &[]);
    let into_trigger = json!({
        "nodes": [{ "id": "t", "type": "trigger.manual" }, { "id": "u", "type": "trigger.manual" }],
        "connections": [{ "from": "t", "to": "u" }],
    });
    expect(&into_trigger, &[(Some("u"), "/connections/0/to", P::TriggerMisplaced)]);
}

#[test]
fn fields_of_every_node_are_checked() {
    use ProblemCode as P;
    let a = Some("a");
    let table: [(Value, Expected<'_>); 22] = [
        (json!({ "label": "x" }), &[(a, "/nodes/0/label", P::UnknownField)]),
        (json!({ "name": 7 }), &[(a, "/nodes/0/name", P::WrongType)]),
        (json!({ "name": "x".repeat(256) }), &[(a, "/nodes/0/name", P::OutOfRange)]),
        (json!({ "timeout_ms": 0 }), &[(a, "/nodes/0/timeout_ms", P::OutOfRange)]),
        (json!({ "timeout_ms": -1 }), &[(a, "/nodes/0/timeout_ms", P::OutOfRange)]),
        (json!({ "timeout_ms": 1.5 }), &[(a, "/nodes/0/timeout_ms", P::OutOfRange)]),
        (json!({ "timeout_ms": "5s" }), &[(a, "/nodes/0/timeout_ms", P::WrongType)]),
        (json!({ "timeout_ms": 86_400_001 }), &[(a, "/nodes/0/timeout_ms", P::OutOfRange)]),
        (json!({ "idempotent": "yes" }), &[(a, "/nodes/0/idempotent", P::WrongType)]),
        (
            json!({ "position": { "x": "left", "z": 1 } }),
            &[
                (a, "/nodes/0/position/x", P::WrongType),
                (a, "/nodes/0/position/z", P::UnknownField),
            ],
        ),
        (json!({ "on_error": "ignore" }), &[(a, "/nodes/0/on_error", P::UnknownValue)]),
        (json!({ "on_error": "pause" }), &[(a, "/nodes/0/on_error", P::Unsupported)]),
        (json!({ "on_error": { "value": 1 } }), &[(a, "/nodes/0/on_error/action", P::Required)]),
        (
            json!({ "on_error": { "action": "fail", "value": 1 } }),
            &[(a, "/nodes/0/on_error/value", P::InvalidValue)],
        ),
        (
            json!({ "retry": { "max_retries": 101 } }),
            &[(a, "/nodes/0/retry/max_retries", P::OutOfRange)],
        ),
        (
            json!({ "retry": { "backoff_ms": [] } }),
            &[(a, "/nodes/0/retry/backoff_ms", P::OutOfRange)],
        ),
        (
            json!({ "retry": { "backoff_ms": [1, -1] } }),
            &[(a, "/nodes/0/retry/backoff_ms/1", P::OutOfRange)],
        ),
        (
            json!({ "retry": { "exponential": {} } }),
            &[(a, "/nodes/0/retry/exponential/base_ms", P::Required)],
        ),
        (
            json!({ "retry": { "exponential": { "base_ms": 1, "jitter": 2 } } }),
            &[(a, "/nodes/0/retry/exponential/jitter", P::OutOfRange)],
        ),
        (
            json!({ "retry": { "backoff_ms": [1], "exponential": { "base_ms": 1 } } }),
            &[(a, "/nodes/0/retry/exponential", P::InvalidValue)],
        ),
        (
            json!({ "retry": { "retry_on": ["cancelled"] } }),
            &[(a, "/nodes/0/retry/retry_on/0", P::UnknownValue)],
        ),
        (json!({ "retry": { "tries": 3 } }), &[(a, "/nodes/0/retry/tries", P::UnknownField)]),
    ];
    for (fields, expected) in table {
        expect(&with(&fields), expected);
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn configurations_are_checked_field_by_field() {
    use ProblemCode as P;
    let long = format!("'{}'", "x".repeat(limits::MAX_EXPRESSION_BYTES));
    let nested = "[1].map(x, [1].map(y, [1].map(z, x)))";
    let table: [(&str, Value, Below<'_>); 38] = [
        ("trigger.manual", json!({ "x": 1 }), &[("/x", P::UnknownField)]),
        ("logic.transform", json!({}), &[("/expression", P::Required)]),
        ("logic.transform", json!({ "expression": 1 }), &[("/expression", P::WrongType)]),
        ("logic.transform", json!({ "expression": "" }), &[("/expression", P::ExpressionInvalid)]),
        (
            "logic.transform",
            json!({ "expression": "1 +" }),
            &[("/expression", P::ExpressionInvalid)],
        ),
        (
            "logic.transform",
            json!({ "expression": long }),
            &[("/expression", P::ExpressionTooLong)],
        ),
        (
            "logic.transform",
            json!({ "expression": nested }),
            &[("/expression", P::ExpressionTooDeep)],
        ),
        (
            "logic.transform",
            json!({ "expression": "item" }),
            &[("/expression", P::UnknownVariable)],
        ),
        ("logic.transform", json!({ "expression": "1", "to": "x" }), &[("/to", P::UnknownField)]),
        ("logic.if", json!({ "condition": "a ||" }), &[("/condition", P::ExpressionInvalid)]),
        (
            "logic.set_variable",
            json!({ "name": "1x", "expression": "1" }),
            &[("/name", P::InvalidValue)],
        ),
        (
            "logic.set_variable",
            json!({ "expression": "x" }),
            &[("/name", P::Required), ("/expression", P::UnknownVariable)],
        ),
        ("logic.switch", json!({}), &[("/cases", P::Required)]),
        (
            "logic.switch",
            json!({ "cases": [{}] }),
            &[("/cases/0/when", P::Required), ("/cases/0/port", P::Required)],
        ),
        (
            "logic.switch",
            json!({ "cases": [{ "when": "true", "port": "default" }] }),
            &[("/cases/0/port", P::InvalidValue)],
        ),
        (
            "logic.switch",
            json!({ "cases": [{ "when": "true", "port": "a" }, { "when": "true", "port": "a" }] }),
            &[("/cases/1/port", P::InvalidValue)],
        ),
        ("logic.switch", json!({ "cases": vec![json!({}); 101] }), &[("/cases", P::OutOfRange)]),
        ("logic.wait", json!({}), &[("", P::InvalidValue)]),
        (
            "logic.wait",
            json!({ "duration_ms": 1, "until": "2026-01-01T00:00:00Z" }),
            &[("", P::InvalidValue)],
        ),
        ("logic.wait", json!({ "duration_ms": "soon" }), &[("/duration_ms", P::WrongType)]),
        (
            "logic.wait",
            json!({ "duration_ms": 31_536_000_001_u64 }),
            &[("/duration_ms", P::OutOfRange)],
        ),
        ("logic.wait", json!({ "until": "tomorrow" }), &[("/until", P::InvalidValue)]),
        ("action.http", json!({}), &[("/url", P::Required)]),
        ("action.http", json!({ "url": "" }), &[("/url", P::Required), ("/url", P::InvalidValue)]),
        ("action.http", json!({ "url": "file:///etc/passwd" }), &[("/url", P::InvalidValue)]),
        (
            "action.http",
            json!({ "url": "https://e.org", "method": "FETCH" }),
            &[("/method", P::UnknownValue)],
        ),
        (
            "action.http",
            json!({ "url": "https://e.org/{{ input. }}" }),
            &[("/url", P::ExpressionInvalid)],
        ),
        (
            "action.http",
            json!({ "url": "https://e.org", "body": { "a": ["{% x %}"] } }),
            &[("/body/a/0", P::ExpressionInvalid)],
        ),
        (
            "action.http",
            json!({ "url": "https://e.org", "headers": { "a b": "c" } }),
            &[("/headers/a b", P::InvalidValue)],
        ),
        (
            "action.http",
            json!({ "url": "https://e.org", "query": { "q": [1] } }),
            &[("/query/q", P::WrongType)],
        ),
        (
            "action.http",
            json!({ "url": "https://e.org", "expect_status": [99, 200, 600] }),
            &[("/expect_status/0", P::OutOfRange), ("/expect_status/2", P::OutOfRange)],
        ),
        (
            "action.http",
            json!({ "url": "https://e.org", "max_response_bytes": 999_999_999 }),
            &[("/max_response_bytes", P::OutOfRange)],
        ),
        (
            "action.command",
            json!({ "args": "x" }),
            &[("/program", P::Required), ("/args", P::WrongType)],
        ),
        (
            "action.command",
            json!({ "program": "echo", "env": { "A=B": "c" } }),
            &[("/env/A=B", P::InvalidValue)],
        ),
        (
            "action.file",
            json!({ "operation": "copy", "path": "x" }),
            &[("/operation", P::UnknownValue)],
        ),
        ("action.file", json!({ "operation": "write", "path": "x" }), &[("/content", P::Required)]),
        (
            "action.file",
            json!({ "operation": "read", "path": "x", "content": "y" }),
            &[("/content", P::InvalidValue)],
        ),
        (
            "logic.for_each",
            json!({ "items": "input", "concurrency": 0 }),
            &[("/concurrency", P::OutOfRange), ("/nodes", P::Required)],
        ),
    ];
    for (kind, config, expected) in table {
        let expected: Vec<_> = expected
            .iter()
            .map(|(field, code)| (Some("a".to_owned()), format!("/nodes/0/config{field}"), *code))
            .collect();
        assert_eq!(problems(&one(kind, &config)), expected, "{kind} {config}");
    }
}

#[test]
fn bodies_of_loops_are_checked_like_the_whole() {
    use ProblemCode as P;
    let body = |nodes: Value, connections: Value| {
        one(
            "logic.for_each",
            &json!({ "items": "input.list", "nodes": nodes, "connections": connections }),
        )
    };
    expect(
        &body(json!([{ "id": "t", "type": "trigger.manual" }]), json!([])),
        &[(Some("t"), "/nodes/0/config/nodes/0/type", P::TriggerMisplaced)],
    );
    expect(
        &body(json!([transform("b")]), json!([{ "from": "b", "to": "x" }])),
        &[(Some("a"), "/nodes/0/config/connections/0/to", P::NodeUnknown)],
    );
    expect(
        &body(
            json!([transform("b"), transform("c")]),
            json!([{ "from": "b", "to": "c" }, { "from": "c", "to": "b" }]),
        ),
        &[(Some("b"), "/nodes/0/config/nodes/0", P::Cycle)],
    );
    let same = json!({
        "nodes": [transform("b"), { "id": "a", "type": "logic.for_each", "config": { "items": "[1]", "nodes": [transform("b")] } }],
    });
    expect(&same, &[(Some("b"), "/nodes/1/config/nodes/0/id", P::IdDuplicate)]);
    let mut nested = json!([transform("x")]);
    for level in 0..=limits::MAX_LOOP_DEPTH {
        nested = json!([{ "id": format!("l{level}"), "type": "logic.for_each", "config": { "items": "[1]", "nodes": nested } }]);
    }
    let found = problems(&nodes(&nested));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].0.as_deref(), found[0].2), (Some("l0"), P::LoopTooDeep));
}

#[test]
fn settings_are_checked() {
    use ProblemCode as P;
    let table: [(Value, Below<'_>); 14] = [
        (json!(1), &[("", P::WrongType)]),
        (json!({ "colour": "red" }), &[("/colour", P::UnknownField)]),
        (json!({ "queue": "urgent" }), &[("/queue", P::UnknownValue)]),
        (json!({ "timeout_ms": 0 }), &[("/timeout_ms", P::OutOfRange)]),
        (json!({ "parallelism": 101 }), &[("/parallelism", P::OutOfRange)]),
        (json!({ "retry": [] }), &[("/retry", P::WrongType)]),
        (json!({ "concurrency": 3 }), &[("/concurrency", P::WrongType)]),
        (json!({ "concurrency": { "limit": 0 } }), &[("/concurrency/limit", P::OutOfRange)]),
        (
            json!({ "concurrency": { "strategy": "reject" } }),
            &[("/concurrency/strategy", P::Unsupported)],
        ),
        (
            json!({ "concurrency": { "strategy": "drop" } }),
            &[("/concurrency/strategy", P::UnknownValue)],
        ),
        (
            json!({ "concurrency": { "key": "input." } }),
            &[("/concurrency/key", P::ExpressionInvalid)],
        ),
        (
            json!({ "concurrency": { "key": "vars.x" } }),
            &[("/concurrency/key", P::UnknownVariable)],
        ),
        (json!({ "concurrency": { "max": 1 } }), &[("/concurrency/max", P::UnknownField)]),
        (
            json!({ "error_workflow_id": "x", "retention_days": 3 }),
            &[("/error_workflow_id", P::Unsupported), ("/retention_days", P::Unsupported)],
        ),
    ];
    for (settings, expected) in table {
        let expected: Vec<_> = expected
            .iter()
            .map(|(field, code)| (None, format!("/settings{field}"), *code))
            .collect();
        assert_eq!(problems(&json!({ "settings": settings })), expected, "{settings}");
    }
}

#[test]
fn all_problems_come_at_once_and_not_without_end() {
    use ProblemCode as P;
    let definition = json!({
        "nodes": [
            { "id": "a", "type": "logic.transform", "config": { "expression": "1 +" }, "timeout_ms": 0 },
            { "id": "b", "type": "nothing" },
            transform("c"),
        ],
        "connections": [{ "from": "a", "to": "gone" }, { "from": "c", "to": "c" }],
        "settings": { "queue": 5 },
    });
    expect(
        &definition,
        &[
            (None, "/settings/queue", P::UnknownValue),
            (Some("a"), "/nodes/0/timeout_ms", P::OutOfRange),
            (Some("a"), "/nodes/0/config/expression", P::ExpressionInvalid),
            (Some("b"), "/nodes/1/type", P::KindUnknown),
            (None, "/connections/0/to", P::NodeUnknown),
            (Some("c"), "/nodes/2", P::Cycle),
        ],
    );
    let many = json!({ "nodes": vec![json!({}); 5_000] });
    assert_eq!(problems(&many).len(), limits::MAX_PROBLEMS);
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
