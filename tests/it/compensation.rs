//! Runs that undo what they did, on workers: files that are there are gone again.

use std::sync::Arc;

use ledgerline_domain::execution::{
    CancelReason, ErrorKind, Execution, ExecutionCommand, ExecutionEvent, Status,
};
use ledgerline_store::simulated::SimulatedLog;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::engine::{Engine, wall_clock};

fn engine() -> Engine {
    Engine::on(SimulatedLog::new(Uuid::now_v7(), wall_clock()) as Arc<_>)
}

/// Writes a file, and names the node that deletes it.
fn writes(id: &str) -> Value {
    json!({"id": id, "type": "action.file", "undo": format!("un{id}"),
        "config": {"operation": "write", "path": format!("{id}.txt"), "content": "here"}})
}

/// Deletes the file that another node wrote, by that node's output.
fn deletes(id: &str) -> Value {
    json!({"id": format!("un{id}"), "type": "action.file", "retry": {"max_retries": 0},
        "config": {"operation": "delete", "path": format!("{{{{ nodes.{id}.output.path }}}}")}})
}

/// Two files one after the other, then `last`.
fn definition(last: Value, settings: Value) -> Value {
    let to = last["id"].clone();
    json!({
        "nodes": [writes("book"), writes("pay"), last, deletes("book"), deletes("pay")],
        "connections": [{"from": "book", "to": "pay"}, {"from": "pay", "to": to}],
        "settings": settings,
    })
}

/// The undo nodes that were begun, in order, with what each of them undoes.
async fn undone(engine: &Engine, id: ledgerline_domain::id::ExecutionId) -> Vec<(String, String)> {
    let begun = engine.facts(id).await.into_iter().filter_map(|event| match event {
        ExecutionEvent::NodeStarted(started) => {
            Some((started.path.to_string(), started.undoes?.to_string()))
        }
        _ => None,
    });
    begun.collect()
}

fn pairs(of: &[&str]) -> Vec<(String, String)> {
    of.iter().map(|node| (format!("un{node}"), (*node).to_owned())).collect()
}

fn is_there(engine: &Engine, file: &str) -> bool {
    engine.files().join(file).exists()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_fails_undoes_what_it_did_by_what_that_gave() {
    let engine = engine();
    let worker = engine.worker();
    let fails = json!({"id": "ship", "type": "action.file", "retry": {"max_retries": 0},
        "config": {"operation": "read", "path": "nowhere.txt"}});
    let (id, ended) = engine.run(&definition(fails, json!({})), &json!({})).await;
    assert_eq!(ended.status(), Some(Status::Failed));
    assert_eq!(undone(&engine, id).await, pairs(&["pay", "book"]));
    assert!(!is_there(&engine, "book.txt") && !is_there(&engine, "pay.txt"));
    let Execution::Failed { node, run, .. } = &*ended else { panic!("it failed") };
    assert_eq!(node.as_ref().map(|node| node.as_str()), Some("ship"));
    let came = run.compensation.as_ref().expect("there was something to undo");
    assert_eq!((came.undone, came.not_undone), (2, 0));
    worker.stop().await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_undoes_what_was_done_and_names_what_it_could_not() {
    let engine = engine();
    let worker = engine.worker();
    let waits = json!({"id": "ship", "type": "logic.wait", "config": {"duration_ms": 3_600_000}});
    let mut undoes = definition(waits, json!({}));
    undoes["nodes"][4]["config"]["operation"] = json!("read");
    let workflow = engine.workflow(&undoes).await;
    let id = engine.start(workflow, &json!({})).await;
    engine.until(id, "to wait", Execution::is_waiting).await;
    // Somebody else was there first.
    std::fs::remove_file(engine.files().join("pay.txt")).expect("it was written");
    engine.tell(id, ExecutionCommand::Cancel { reason: CancelReason::StoppedByUser }).await;
    let ended = engine.ended(id).await;
    assert_eq!(ended.status(), Some(Status::Cancelled));
    assert_eq!(undone(&engine, id).await, pairs(&["pay", "book"]));
    assert!(!is_there(&engine, "book.txt"));
    let came =
        ended.run().and_then(|run| run.compensation.clone()).expect("it says what came of it");
    assert_eq!((came.undone, came.not_undone), (1, 1));
    assert_eq!((came.named[0].node.as_str(), came.named[0].undo.as_str()), ("pay", "unpay"));
    assert!(came.named[0].error.is_some());
    worker.stop().await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_limit_ends_the_step_that_runs_before_anything_is_undone() {
    let engine = engine();
    let worker = engine.worker();
    let runs = json!({"id": "ship", "type": "code.javascript", "timeout_ms": 60_000,
        "config": {"code": "while (true) {}"}});
    let limited = definition(runs, json!({"timeout_ms": 700}));
    let (id, ended) = engine.run(&limited, &json!({})).await;
    let Execution::Failed { node: None, error, run } = &*ended else { panic!("it took too long") };
    assert_eq!(error.kind, ErrorKind::Timeout);
    assert_eq!(run.compensation.as_ref().map(|came| came.undone), Some(2));
    assert_eq!(undone(&engine, id).await, pairs(&["pay", "book"]));
    assert!(!is_there(&engine, "book.txt") && !is_there(&engine, "pay.txt"));
    worker.stop().await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_worker_goes_on_with_undoing_when_one_dies() {
    let engine = engine();
    let first = engine.worker();
    let mut undoes = definition(
        json!({"id": "ship", "type": "action.file", "retry": {"max_retries": 0},
            "config": {"operation": "read", "path": "nowhere.txt"}}),
        json!({}),
    );
    // What undoes the payment takes its time, and may be done twice.
    undoes["nodes"][4] = json!({"id": "unpay", "type": "code.javascript", "idempotent": true,
        "timeout_ms": 60_000, "config": {
            "code": "let sum = 0; for (let i = 0; i < 3000000; i++) { sum += i; } return sum;"}});
    let workflow = engine.workflow(&undoes).await;
    let id = engine.start(workflow, &json!({})).await;
    engine
        .until(id, "to undo", |execution| {
            execution.in_flight().any(|(path, _)| path.as_str() == "unpay")
        })
        .await;
    first.kill();
    let second = engine.worker();
    let ended = engine.ended(id).await;
    let came =
        ended.run().and_then(|run| run.compensation.clone()).expect("it says what came of it");
    assert_eq!((came.undone, came.not_undone), (2, 0), "{:?}", engine.history(id).await);
    assert!(!is_there(&engine, "book.txt"));
    second.stop().await;
    engine.stop().await;
}
