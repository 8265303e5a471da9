//! Random workflows of every way in which a run moves: effects that repeat or don't, choices, waits for times, people, programs and
//! external workers, loops, failures that are caught.

use ledgerline_domain::{graph::Definition, id::WorkflowId, json::Json};
use serde_json::{Value, json};

use crate::dice::Dice;

/// The name of every signal.
pub(crate) const SIGNAL: &str = "go";

/// A definition of up to six nodes, each after one or two of those before it. It may start runs of other workflows.
pub(crate) fn definition(dice: &Dice, others: &[WorkflowId]) -> Definition {
    let mut nodes: Vec<Value> = Vec::new();
    let mut connections = Vec::new();
    for index in 0..1 + dice.below(6) {
        let made = node(dice, index, others);
        let mut sources: Vec<&Value> =
            [dice.of(&nodes), dice.of(&nodes)].into_iter().flatten().collect();
        sources.dedup_by_key(|source| source["id"].clone());
        for source in sources {
            let (from, to) = (&source["id"], &made["id"]);
            connections.push(match dice.of(&ports(source)).copied().flatten() {
                Some(port) => json!({"from": from, "to": to, "port": port}),
                None => json!({"from": from, "to": to}),
            });
        }
        nodes.push(made);
    }
    for index in 0..nodes.len() {
        let can_be_undone =
            ["action.http", "logic.for_each", "logic.workflow", "integration.worker"];
        if can_be_undone.iter().any(|kind| nodes[index]["type"] == **kind) && dice.once_in(3) {
            let undo = undo(dice, &mut nodes[index]);
            nodes.push(undo);
        }
        if nodes[index]["type"] == "logic.for_each" && dice.once_in(2) {
            let body = nodes[index]["config"]["nodes"].as_array_mut().expect("a body");
            let undo = undo(dice, &mut body[0]);
            body.push(undo);
        }
    }
    let limit = dice.of(&[Some(1), Some(2), Some(3), None]).expect("there are four");
    let strategies = ["queue", "queue", "queue", "reject", "cancel_running", "cancel_newest"];
    let strategy = dice.of(&strategies).expect("there are six");
    let mut settings = json!({
        "concurrency": {"limit": limit, "strategy": strategy, "max_queued": 4 + dice.below(8)},
        "parallelism": 1 + dice.below(3),
    });
    if dice.once_in(6) {
        settings["timeout_ms"] = json!(2_000);
    }
    if let Some(other) = dice.of(others).filter(|_| dice.once_in(4)) {
        settings["error_workflow_id"] = json!(other);
    }
    let text = json!({"nodes": nodes, "connections": connections, "settings": settings});
    Definition::parse(Json::from_value(&text))
        .unwrap_or_else(|problems| panic!("{text} is not sound: {problems:?}"))
}

/// A workflow that starts by itself: every other second, or for each run that is requested of another workflow.
pub(crate) fn triggered(dice: &Dice, other: WorkflowId) -> Definition {
    let trigger = if dice.once_in(2) {
        let overlap = dice.of(&["allow", "skip", "queue", "cancel_running"]).expect("four");
        let config =
            json!({"cron": "*/2 * * * * *", "timezone": "Europe/Berlin", "overlap": overlap});
        json!({"id": "trigger", "type": "trigger.cron", "config": config})
    } else {
        let filter = format!("event.data.workflow_id == '{other}'");
        let config = json!({"event_type": "execution_requested", "filter": filter});
        json!({"id": "trigger", "type": "trigger.event", "config": config})
    };
    let limit = dice.of(&[Some(1), Some(3), None]).expect("there are three");
    let text = json!({
        "nodes": [trigger, {"id": "n1", "type": "logic.wait", "config": {"duration_ms": 1}}],
        "connections": [{"from": "trigger", "to": "n1"}],
        "settings": {"concurrency": {"limit": limit}},
    });
    Definition::parse(Json::from_value(&text))
        .unwrap_or_else(|problems| panic!("{text} is not sound: {problems:?}"))
}

/// The ports that a node may be left by; none is its only or usual one.
fn ports(node: &Value) -> Vec<Option<&'static str>> {
    let mut ports = match node["type"].as_str() {
        Some("logic.if") => vec![Some("true"), Some("false")],
        Some("logic.approval") => vec![Some("approved"), Some("rejected")],
        _ => vec![None],
    };
    if node["config"]["timeout_ms"].is_number() {
        ports.push(Some("timeout"));
    }
    if node["on_error"] == "branch" {
        ports.push(Some("error"));
    }
    ports
}

fn node(dice: &Dice, index: u64, others: &[WorkflowId]) -> Value {
    let id = format!("n{index}");
    match dice.below(17) {
        13 | 14 => waiting(dice, &id),
        15 | 16 => task(dice, &id),
        0..=2 => effect(dice, &id),
        3 => json!({"id": id, "type": "logic.transform", "config": {"expression": "1"}}),
        4 => {
            json!({"id": format!("if{index}"), "type": "logic.if", "config": {"condition": "true"}})
        }
        5 | 6 => json!({"id": id, "type": "logic.wait", "config": {"duration_ms": 1}}),
        7 => json!({"id": id, "type": "logic.set_variable",
            "config": {"name": "v", "expression": "1"}}),
        8 => {
            let mode = if dice.once_in(3) { "all" } else { "any" };
            json!({"id": id, "type": "logic.merge", "config": {"mode": mode}})
        }
        12 if !others.is_empty() => {
            let other = dice.of(others).expect("there is one");
            json!({"id": format!("child{index}"), "type": "logic.workflow",
                "on_error": caught(dice),
                "config": {"workflow_id": other, "wait": !dice.once_in(4)}})
        }
        9 => {
            let (one, two) = (effect(dice, &format!("{id}a")), effect(dice, &format!("{id}b")));
            json!({"id": format!("while{index}"), "type": "logic.while", "on_error": caught(dice),
                "config": {"condition": "true", "max_iterations": 3, "nodes": [one, two],
                    "connections": []}})
        }
        _ => {
            let (one, two) = (effect(dice, &format!("{id}a")), effect(dice, &format!("{id}b")));
            let connections = json!([{"from": one["id"], "to": two["id"]}]);
            let on_item_error = dice.of(&["fail", "continue", "collect"]).expect("there are three");
            json!({"id": id, "type": "logic.for_each", "on_error": caught(dice),
                "config": {"items": "[1]", "concurrency": 2, "nodes": [one, two],
                    "on_item_error": on_item_error, "connections": connections}})
        }
    }
}

/// Waits for a person or for a program, and may give up.
fn waiting(dice: &Dice, id: &str) -> Value {
    let (kind, mut config) = if dice.once_in(2) {
        ("logic.approval", json!({"title": "May it?"}))
    } else {
        ("logic.signal", json!({"name": SIGNAL}))
    };
    if dice.once_in(2) {
        config["timeout_ms"] = json!(100 + dice.below(3_000));
    }
    json!({"id": id, "type": kind, "config": config})
}

/// A step for an external worker, who must be heard of every second.
fn task(dice: &Dice, id: &str) -> Value {
    let mut node = json!({"id": id, "type": "integration.worker", "idempotent": dice.once_in(2),
        "on_error": dice.of(&["fail", "branch", "pause"]).expect("there are three"),
        "retry": {"max_retries": dice.below(3), "backoff_ms": [100, 700]},
        "config": {"queue": "outside", "heartbeat_timeout_ms": 1_000}});
    if dice.once_in(3) {
        node["timeout_ms"] = json!(500 + dice.below(4_000));
    }
    node
}

/// Gives a node an undo, and answers that.
fn undo(dice: &Dice, node: &mut Value) -> Value {
    let id = format!("undo_{}", node["id"].as_str().expect("an id is a string"));
    node["undo"] = json!(id);
    let mut undo = if dice.once_in(3) { task(dice, &id) } else { effect(dice, &id) };
    undo["on_error"] = if dice.once_in(4) { json!("pause") } else { json!("fail") };
    undo
}

fn caught(dice: &Dice) -> &'static str {
    if dice.once_in(2) { "fail" } else { "branch" }
}

fn effect(dice: &Dice, id: &str) -> Value {
    let on_error = match dice.below(6) {
        2 => json!("pause"),
        0 => json!({"action": "continue", "value": 1}),
        1 => json!("branch"),
        _ => json!("fail"),
    };
    json!({"id": id, "type": "action.http", "idempotent": dice.once_in(2), "on_error": on_error,
        "retry": {"max_retries": dice.below(3), "backoff_ms": [100, 700]},
        "config": {"method": "GET", "url": "https://a.test"}})
}
