//! A worker that is killed at every append of a run, before and after it is committed, and another one that takes over.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use ledgerline_domain::execution::Execution;
use ledgerline_store::{
    Intent,
    simulated::{AppendFault, Faults},
};
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{every_kind, node, simulated};

/// What a worker's append holds, each named as in every run of the same workflow; nothing for the appends of others.
fn held(intent: &Intent) -> Vec<String> {
    let events = || intent.writes.iter().flat_map(|write| &write.events);
    if !events().any(|event| event.metadata.contains("\"name\":\"worker\"")) {
        return Vec::new();
    }
    let name = |payload: &str, kind: &str| {
        let payload: Value = serde_json::from_str(payload).expect("payloads are JSON");
        let of = ["path", "attempt", "iteration", "index"].map(|name| payload[name].to_string());
        format!("{kind} {}", of.join(" "))
    };
    events().map(|event| name(&event.payload, event.r#type)).collect()
}

/// Writes down the appends of a worker.
#[derive(Default)]
struct Written(Mutex<Vec<String>>);

impl Faults for Written {
    fn on_append(&self, intent: &Intent) -> AppendFault {
        self.0.lock().unwrap().extend(held(intent).pop());
        AppendFault::None
    }
}

/// Fails the append of the worker that holds an event, before or after it is committed, and every one after it until the worker is gone.
/// What else it holds is up to what runs side by side.
struct KillAt {
    at: String,
    after_commit: bool,
    dead: AtomicBool,
    died: Notify,
}

impl Faults for KillAt {
    fn on_append(&self, intent: &Intent) -> AppendFault {
        let held = held(intent);
        if held.is_empty() {
            return AppendFault::None;
        }
        if self.dead.load(Ordering::SeqCst) {
            return AppendFault::BeforeCommit;
        }
        if !held.contains(&self.at) {
            return AppendFault::None;
        }
        self.dead.store(true, Ordering::SeqCst);
        self.died.notify_one();
        if self.after_commit { AppendFault::AfterCommit } else { AppendFault::BeforeCommit }
    }
}

/// Every kind of node, beside a second branch in which a step fails, is tried again, fails for good, and leaves by its error branch.
fn every_way() -> Value {
    let mut definition = every_kind();
    let missing = json!({
        "id": "missing", "type": "action.file", "idempotent": true, "on_error": "branch",
        "config": { "operation": "read", "path": "not-there" },
        "retry": { "max_retries": 1, "backoff_ms": [10], "retry_on": ["permanent"] },
    });
    let sorry =
        node("sorry", "logic.transform", json!({ "expression": "nodes.missing.output.kind" }));
    definition["nodes"].as_array_mut().unwrap().extend([missing, sorry]);
    definition["connections"].as_array_mut().unwrap().extend([
        json!({ "from": "start", "to": "missing" }),
        json!({ "from": "missing", "to": "sorry", "port": "error" }),
    ]);
    definition
}

/// How a run ended: its status, its output, its variables, and of every node its attempt, how that ended and what it gave. Not how
/// long it took, and not in which order branches that run side by side came to it.
fn end(execution: &Execution) -> Value {
    let run = execution.run().expect("it was requested");
    let nodes: BTreeMap<String, Value> = run
        .nodes
        .iter()
        .map(|(path, node)| (path.to_string(), serde_json::to_value(node).unwrap()))
        .collect();
    let output = match execution {
        Execution::Completed { output, .. } => serde_json::to_value(output).unwrap(),
        other => panic!("not completed: {other:?}"),
    };
    let mut end = json!({
        "status": format!("{:?}", execution.status()), "output": output, "nodes": nodes,
        "variables": run.variables,
    });
    strip(&mut end);
    end
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(entries) => {
            entries.retain(|name, _| name != "duration_ms");
            entries.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

/// How the run ends when nobody disturbs it, and the appends that its worker makes.
async fn undisturbed() -> (Value, Vec<String>) {
    let (log, engine) = simulated();
    let written = Arc::new(Written::default());
    log.set_faults(Some(Arc::<Written>::clone(&written)));
    let worker = engine.worker();
    let (id, execution) = engine.run(&every_way(), &json!({ "items": [1, 2, 3] })).await;
    let tries = engine.history(id).await;
    let tries = tries.iter().filter(|event| event.starts_with("node_failed")).count();
    assert_eq!(tries, 2, "the step that fails is tried twice");
    worker.stop().await;
    engine.stop().await;
    let written = written.0.lock().unwrap().clone();
    (end(&execution), written)
}

/// The same run with a worker that is killed at an append, and a second one.
async fn killed_at(at: &str, after_commit: bool) -> (Value, Vec<String>) {
    let (log, engine) = simulated();
    let faults = Arc::new(KillAt {
        at: at.to_owned(),
        after_commit,
        dead: AtomicBool::new(false),
        died: Notify::new(),
    });
    log.set_faults(Some(Arc::<KillAt>::clone(&faults)));
    let first = engine.worker();
    let workflow = engine.workflow(&every_way()).await;
    let id = engine.start(workflow, &json!({ "items": [1, 2, 3] })).await;
    tokio::select! {
        () = faults.died.notified() => {}
        _ = engine.ended(id) => {}
    }
    assert!(faults.dead.load(Ordering::SeqCst), "{at} was never appended");
    // While it dies it is still cut off: else it would report the steps that its own end breaks off.
    first.killed().await;
    log.set_faults(None);
    let second = engine.worker();
    let execution = engine.ended(id).await;
    assert!(execution.waits_for().is_none());
    let history = engine.history(id).await;
    second.stop().await;
    engine.stop().await;
    (end(&execution), history)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_7_a_worker_killed_at_every_append_leads_to_the_same_end() {
    let (expected, boundaries) = undisturbed().await;
    let nodes = expected["nodes"].as_object().unwrap();
    let path = |name: &str| format!("{name} in {:?}", nodes.keys().collect::<Vec<_>>());
    assert_eq!(nodes["missing"]["attempt"], 2, "{}", path("missing"));
    assert_eq!(nodes["few"]["state"], "Skipped", "{}", path("few"));
    assert_eq!(expected["variables"]["count"]["value"], 3);
    let mut kills = 0;
    for at in &boundaries {
        for after_commit in [false, true] {
            let (came_out, history) = killed_at(at, after_commit).await;
            assert_eq!(
                came_out, expected,
                "killed at {at}, after_commit {after_commit}: {history:#?}"
            );
            kills += 1;
        }
    }
    assert_eq!(kills, 2 * boundaries.len());
    // The first node, each try of the one that fails, each write of the loop, the wait, and the end are appends of their own.
    assert!(boundaries.len() >= 8, "{boundaries:#?}");
}
