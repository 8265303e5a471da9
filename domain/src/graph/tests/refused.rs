//! Bad definitions and the exact problems of each.

use serde_json::{Value, json};

use super::{nodes, one, transform};
use crate::{
    graph::{Graph, ProblemCode},
    limits,
    node::NodeKind,
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

/// A definition of one sound node `a` with further fields.
fn with(fields: &Value) -> Value {
    let mut node = json!({ "id": "a", "type": "logic.transform", "config": { "expression": "1" } });
    for (name, value) in fields.as_object().expect("an object") {
        node[name] = value.clone();
    }
    nodes(&json!([node]))
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
        (
            json!({ "on_error": { "action": "pause", "value": 1 } }),
            &[(a, "/nodes/0/on_error/value", P::InvalidValue)],
        ),
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
    let table: [(&str, Value, Below<'_>); 46] = [
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
        (
            "logic.for_each",
            json!({ "items": "input", "on_item_error": "ignore", "nodes": [transform("b")] }),
            &[("/on_item_error", P::UnknownValue)],
        ),
        ("logic.workflow", json!({}), &[("/workflow_id", P::Required)]),
        (
            "logic.workflow",
            json!({ "workflow_id": "mine", "version": 0, "wait": "yes", "input": "{{ nope }}" }),
            &[
                ("/workflow_id", P::InvalidValue),
                ("/version", P::OutOfRange),
                ("/input", P::UnknownVariable),
                ("/wait", P::WrongType),
            ],
        ),
        ("logic.merge", json!({ "mode": "first" }), &[("/mode", P::UnknownValue)]),
        (
            "logic.merge",
            json!({ "mode": 1, "of": [] }),
            &[("/mode", P::UnknownValue), ("/of", P::UnknownField)],
        ),
        (
            "logic.while",
            json!({}),
            &[
                ("/condition", P::Required),
                ("/nodes", P::Required),
                ("/max_iterations", P::Required),
            ],
        ),
        (
            "logic.while",
            json!({ "condition": "item > 1", "max_iterations": 0, "nodes": [] }),
            &[
                ("/condition", P::UnknownVariable),
                ("/nodes", P::Required),
                ("/max_iterations", P::OutOfRange),
            ],
        ),
        (
            "logic.while",
            json!({ "condition": "last <", "max_iterations": 10_001, "nodes": [transform("b")] }),
            &[("/condition", P::ExpressionInvalid), ("/max_iterations", P::OutOfRange)],
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
            json!({ "concurrency": { "strategy": "reject", "max_queued": 0 } }),
            &[("/concurrency/max_queued", P::OutOfRange)],
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
            &[("/error_workflow_id", P::InvalidValue), ("/retention_days", P::Unsupported)],
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
fn an_undo_stands_outside_the_flow_and_belongs_to_one_node_that_does_something() {
    use ProblemCode as P;
    let http = |id: &str, fields: Value| {
        let mut node =
            json!({ "id": id, "type": "action.http", "config": { "url": "https://e.org" } });
        for (name, value) in fields.as_object().expect("an object") {
            node[name] = value.clone();
        }
        node
    };
    let undone = |undo: &Value| {
        nodes(
            &json!([{ "id": "go", "type": "trigger.manual" }, http("a", json!({ "undo": "u" })), undo]),
        )
    };
    let with_flow = |mut definition: Value, more: Value| {
        definition["connections"] = json!([{ "from": "go", "to": "a" }]);
        definition["connections"]
            .as_array_mut()
            .expect("a list")
            .extend(more.as_array().expect("a list").iter().cloned());
        definition
    };
    expect(&with_flow(undone(&http("u", json!({}))), json!([])), &[]);
    let at_a = |code| [(Some("a"), "/nodes/1/undo", code)];
    let unsound = [
        (transform("u"), json!([])),
        (json!({ "id": "u", "type": "logic.wait", "config": { "duration_ms": 1 } }), json!([])),
        (http("u", json!({ "on_error": "continue" })), json!([])),
        (http("u", json!({ "on_error": "branch" })), json!([])),
        (http("u", json!({})), json!([{ "from": "a", "to": "u" }])),
    ];
    for (undo, more) in unsound {
        expect(&with_flow(undone(&undo), more), &at_a(P::UndoInvalid));
    }
    expect(
        &with_flow(undone(&http("v", json!({}))), json!([{ "from": "a", "to": "v" }])),
        &at_a(P::NodeUnknown),
    );
    let at_first = |code| [(Some("a"), "/nodes/0/undo", code)];
    expect(&nodes(&json!([http("a", json!({ "undo": 1 }))])), &at_first(P::WrongType));
    expect(&nodes(&json!([http("a", json!({ "undo": "a" }))])), &at_first(P::UndoInvalid));
    let pure = json!({ "id": "a", "type": "logic.transform", "config": { "expression": "1" }, "undo": "u" });
    expect(&nodes(&json!([pure, http("u", json!({}))])), &at_first(P::UndoInvalid));
    // One undoes the other undoes the third; and two name the same.
    let chain = [("a", Some("b")), ("b", Some("c")), ("c", None)];
    let chain = chain.map(|(id, undo)| http(id, json!({ "undo": undo })));
    expect(&nodes(&json!(chain)), &[(Some("a"), "/nodes/0/undo", P::UndoInvalid)]);
    let twice = [("a", Some("u")), ("b", Some("u")), ("u", None)];
    let twice = twice.map(|(id, undo)| http(id, json!({ "undo": undo })));
    expect(&nodes(&json!(twice)), &[(Some("b"), "/nodes/1/undo", P::UndoInvalid)]);
    // Of the same body.
    let body = json!({ "items": "input", "nodes": [http("in", json!({ "undo": "out" }))] });
    let outside = nodes(&json!([
        { "id": "each", "type": "logic.for_each", "config": body }, http("out", json!({})),
    ]));
    expect(&outside, &[(Some("in"), "/nodes/0/config/nodes/0/undo", P::NodeUnknown)]);
    let many = (0..=limits::MAX_UNDOES).flat_map(|n| {
        [
            http(&format!("a{n}"), json!({ "undo": format!("u{n}") })),
            http(&format!("u{n}"), json!({})),
        ]
    });
    let last = format!("/nodes/{}/undo", 2 * limits::MAX_UNDOES);
    let node = format!("a{}", limits::MAX_UNDOES);
    expect(&nodes(&json!(many.collect::<Vec<_>>())), &[(Some(&node), &last, P::OutOfRange)]);
}
