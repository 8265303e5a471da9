//! Diffs say what differs, all of it and nothing else.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn document(nodes: Value, connections: Value) -> Value {
    json!({
        "name": "n", "description": "", "tags": [], "is_public": false, "settings": {},
        "nodes": nodes, "connections": connections,
    })
}

fn node(id: &str, expression: &str) -> Value {
    json!({ "id": id, "type": "logic.transform", "config": { "expression": expression } })
}

#[track_caller]
fn diff(from: &Value, to: &Value) -> Diff {
    let diff = Diff::of_documents(from, to);
    assert_eq!(diff.apply(from).as_ref(), Some(to), "{diff:?}");
    diff
}

#[test]
fn a_node_is_added_removed_and_changed_field_by_field() {
    let from =
        document(json!([node("a", "1"), node("b", "2")]), json!([{ "from": "a", "to": "b" }]));
    let mut changed = node("b", "3");
    changed["timeout_ms"] = json!(5);
    let to = document(json!([changed, node("c", "4")]), json!([{ "from": "b", "to": "c" }]));
    let diff = diff(&from, &to);
    assert_eq!(diff.fields, []);
    assert_eq!(diff.nodes.added, [PlacedItem { index: 1, value: node("c", "4") }]);
    assert_eq!(diff.nodes.removed, [PlacedItem { index: 0, value: node("a", "1") }]);
    let [changed] = diff.nodes.changed.as_slice() else { panic!("{diff:?}") };
    assert_eq!((changed.id.as_deref(), changed.from_index, changed.to_index), (Some("b"), 1, 0));
    assert!(!changed.moved, "it stands where the removed one stood");
    let text = serde_json::to_value(&changed.fields).unwrap();
    assert_eq!(
        text,
        json!([
            { "pointer": "/config/expression", "from": "2", "to": "3" },
            { "pointer": "/timeout_ms", "to": 5 },
        ])
    );
    assert_eq!((diff.connections.added.len(), diff.connections.removed.len()), (1, 1));
}

#[test]
fn settings_name_and_tags_are_fields_too() {
    let from = document(json!([]), json!([]));
    let mut to = from.clone();
    to["name"] = json!("other");
    to["tags"] = json!(["x"]);
    to["settings"] = json!({ "concurrency": { "limit": 2 } });
    let diff = diff(&from, &to);
    let pointers: Vec<&str> = diff.fields.iter().map(|change| change.pointer.as_str()).collect();
    assert_eq!(pointers, ["/name", "/settings/concurrency", "/tags"]);
    assert!(diff.nodes.is_empty() && diff.connections.is_empty());
}

#[test]
fn a_connection_that_takes_another_port_is_changed() {
    let by = |port: &str| json!({ "from": "a", "to": "b", "port": port });
    let from = document(json!([]), json!([by("true"), { "from": "b", "to": "c" }]));
    let to = document(json!([]), json!([by("false"), { "from": "b", "to": "c" }]));
    let diff = diff(&from, &to);
    let [changed] = diff.connections.changed.as_slice() else { panic!("{diff:?}") };
    assert_eq!(changed.fields[0].pointer, "/port");
    assert!(diff.connections.added.is_empty() && diff.connections.removed.is_empty());
}

#[test]
fn of_those_that_stand_in_another_order_the_fewest_have_moved() {
    let ids = |ids: &[&str]| document(ids.iter().map(|id| node(id, "1")).collect(), json!([]));
    let diff = diff(&ids(&["a", "b", "c", "d"]), &ids(&["d", "a", "b", "c"]));
    let moved: Vec<_> = diff.nodes.changed.iter().map(|item| item.id.as_deref()).collect();
    assert_eq!(moved, [Some("d")]);
}

#[test]
fn the_body_of_a_loop_is_compared_as_a_graph() {
    let each = |inner: Value| {
        let config = json!({ "items": "[1]", "nodes": inner, "connections": [] });
        document(json!([{ "id": "each", "type": "logic.for_each", "config": config }]), json!([]))
    };
    let from = each(json!([node("x", "1"), node("y", "2")]));
    let diff = diff(&from, &each(json!([node("y", "3")])));
    let [changed] = diff.nodes.changed.as_slice() else { panic!("{diff:?}") };
    assert_eq!(changed.fields, [], "the body is not a field");
    let body = changed.body.as_ref().expect("a diff of the body");
    assert_eq!(body.nodes.removed[0].value["id"], "x");
    assert_eq!(body.nodes.changed[0].fields[0].pointer, "/config/expression");
}

#[test]
fn ten_thousand_nodes_are_compared_in_time_for_an_answer() {
    let ids = |from: usize| (from..from + 10_000).map(|id| node(&format!("n{id}"), "1")).collect();
    let (from, to) = (document(ids(0), json!([])), document(ids(5_000), json!([])));
    let begun = std::time::Instant::now();
    let diff = diff(&from, &to);
    assert_eq!((diff.nodes.added.len(), diff.nodes.removed.len()), (5_000, 5_000));
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
}

/// Any JSON, small, with the names that matter to the comparison among its keys.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..4).prop_map(Value::from),
        "[ab~/]{0,2}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let name = prop::sample::select(vec!["id", "config", "nodes", "connections", "a/b", "~"]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name, inner), 0..4).prop_map(|entries| {
                Value::Object(entries.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
            }),
        ]
    })
}

fn any_node() -> impl Strategy<Value = Value> {
    let id = prop::option::of("[a-e]");
    (id, any_json(), prop::option::of(prop::collection::vec(any_json(), 0..3))).prop_map(
        |(id, config, body)| {
            let mut node = json!({ "type": "x", "config": config });
            if let Some(id) = id {
                node["id"] = json!(id);
            }
            if let Some(body) = body {
                node["config"] = json!({ "nodes": body, "connections": [], "items": "x" });
            }
            node
        },
    )
}

fn any_document() -> impl Strategy<Value = Value> {
    let connection = ("[a-c]", "[a-c]", prop::option::of("[tf]")).prop_map(|(from, to, port)| {
        let mut connection = json!({ "from": from, "to": to });
        if let Some(port) = port {
            connection["port"] = json!(port);
        }
        connection
    });
    let nodes = prop::collection::vec(any_node(), 0..7);
    let connections = prop::collection::vec(connection, 0..7);
    (nodes, connections, any_json(), "[a-b]").prop_map(|(nodes, connections, settings, name)| {
        json!({ "name": name, "settings": settings, "nodes": nodes, "connections": connections })
    })
}

proptest! {
    /// Whatever two documents are, the diff leads from the one to the other, and is empty only where nothing differs.
    #[test]
    fn applying_a_diff_to_what_it_is_from_gives_what_it_is_to(from in any_document(), to in any_document()) {
        let diff = Diff::of_documents(&from, &to);
        prop_assert_eq!(diff.apply(&from), Some(to.clone()));
        prop_assert_eq!(diff.is_empty(), from == to);
        prop_assert!(Diff::of_documents(&to, &to).is_empty());
    }
}
