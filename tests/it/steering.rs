//! What steers a run, on workers: merges, loops by a condition and without an item, children, and people who decide.

use std::sync::Arc;

use ledgerline_domain::{
    execution::{
        Attempt, CancelReason, ErrorKind, Execution, ExecutionCommand, ExecutionEvent, NodeOutput,
        PauseReason, Resolution, Status, TriggerType, WaitsFor,
    },
    id::{ExecutionId, WorkflowId},
};
use ledgerline_store::simulated::SimulatedLog;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::engine::{Engine, wall_clock};

fn engine() -> Engine {
    Engine::on(SimulatedLog::new(Uuid::now_v7(), wall_clock()) as Arc<_>)
}

fn node(id: &str, kind: &str, config: Value) -> Value {
    json!({"id": id, "type": kind, "config": config})
}

fn transform(id: &str, expression: &str) -> Value {
    node(id, "logic.transform", json!({"expression": expression}))
}

fn output(execution: &Execution) -> Value {
    match execution {
        Execution::Completed { output: NodeOutput::Inline(value), .. } => value.to_value(),
        other => panic!("not completed: {other:?}"),
    }
}

/// How many appends the worker made.
async fn appends(engine: &Engine, id: ExecutionId) -> usize {
    let events = engine.events(id).await;
    let by_worker = events.iter().filter(|event| event.metadata.contains("\"worker\""));
    by_worker.map(|event| event.recorded_at).collect::<std::collections::BTreeSet<_>>().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merge_of_any_goes_on_while_the_other_branch_waits() {
    let engine = engine();
    let worker = engine.worker();
    let definition = json!({
        "nodes": [
            node("slow", "logic.wait", json!({"duration_ms": 300})),
            transform("quick", "'quick'"),
            node("first", "logic.merge", json!({"mode": "any"})),
            transform("after", "'after ' + nodes.first.output"),
            node("both", "logic.merge", json!({})),
        ],
        "connections": [
            {"from": "slow", "to": "first"}, {"from": "quick", "to": "first"},
            {"from": "first", "to": "after"},
            {"from": "after", "to": "both"}, {"from": "slow", "to": "both"},
        ],
    });
    let (id, execution) = engine.run(&definition, &json!({})).await;
    assert_eq!(output(&execution), json!({"after": "after quick", "slow": null}));
    let facts = engine.facts(id).await;
    let place = |which: fn(&ExecutionEvent) -> bool| facts.iter().position(which);
    let after = place(
        |fact| matches!(fact, ExecutionEvent::NodeCompleted(done) if done.path.as_str() == "after"),
    );
    let fired = place(|fact| matches!(fact, ExecutionEvent::TimerFired(_)));
    assert!(after < fired, "{facts:#?}");
    worker.stop().await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_while_goes_on_until_its_condition_does_not_hold() {
    let engine = engine();
    let worker = engine.worker();
    let definition = json!({
        "nodes": [node("grow", "logic.while", json!({
            "condition": "index == 0 || last.size < input.wanted", "max_iterations": 100,
            "nodes": [
                transform("more", "{'size': index * 3, 'before': last}"),
                {"id": "keep", "type": "action.file", "idempotent": true, "config": {
                    "operation": "write", "path": "sizes/{{ index }}.txt", "content": "{{ nodes.more.output.size }}"}},
                transform("give", "{'size': nodes.more.output.size}"),
            ],
            "connections": [{"from": "more", "to": "keep"}, {"from": "keep", "to": "give"}],
        }))],
        "connections": [],
    });
    let (id, execution) = engine.run(&definition, &json!({"wanted": 10})).await;
    assert_eq!(output(&execution), json!({"output": {"size": 12}, "iterations": 5}));
    assert_eq!(std::fs::read_to_string(engine.files().join("sizes/4.txt")).unwrap(), "12");
    assert!(appends(&engine, id).await <= 6, "one append for each of five effects, and the start");
    worker.stop().await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_while_that_would_not_end_fails_at_its_bound_and_says_so() {
    let engine = engine();
    let worker = engine.worker();
    let forever = |on_error: Value| {
        json!({
            "nodes": [{"id": "forever", "type": "logic.while", "on_error": on_error, "config": {
                "condition": "true", "max_iterations": 300, "nodes": [transform("count", "index")]}}],
            "connections": [],
        })
    };
    let (_, execution) = engine.run(&forever(json!("fail")), &json!({})).await;
    let Execution::Failed { node: Some(path), error, .. } = &*execution else {
        panic!("it never ends: {execution:?}")
    };
    assert_eq!((path.as_str(), error.kind), ("forever", ErrorKind::Permanent));
    assert_eq!(error.message, "the condition still holds after 300 iterations");
    let caught = json!({"action": "continue", "value": "enough"});
    let (_, execution) = engine.run(&forever(caught), &json!({})).await;
    assert_eq!(output(&execution), json!("enough"));
    let wrong = json!({
        "nodes": [node("odd", "logic.while", json!({
            "condition": "last.missing > 1", "max_iterations": 3, "nodes": [transform("one", "1")]}))],
        "connections": [],
    });
    let (_, execution) = engine.run(&wrong, &json!({})).await;
    let Execution::Failed { error, .. } = &*execution else { panic!("{execution:?}") };
    assert_eq!(error.kind, ErrorKind::Validation);
    assert!(error.message.starts_with("`/condition`"), "{error:?}");
    worker.stop().await;
    engine.stop().await;
}

fn reading(policy: &str, concurrency: u32) -> Value {
    json!({
        "nodes": [node("each", "logic.for_each", json!({
            "items": "input.items", "concurrency": concurrency, "on_item_error": policy,
            "nodes": [node("read", "action.file", json!({"operation": "read", "path": "{{ item }}.txt"})),
                      transform("content", "nodes.read.output.content")],
            "connections": [{"from": "read", "to": "content"}],
        }))],
        "connections": [],
        "settings": {"parallelism": 100},
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_may_fail_go_on_or_collect_when_an_item_fails() {
    let engine = engine();
    let worker = engine.worker();
    std::fs::create_dir_all(engine.files()).unwrap();
    for name in ["a", "c"] {
        std::fs::write(engine.files().join(format!("{name}.txt")), name).unwrap();
    }
    let items = json!({"items": ["a", "b", "c"]});
    let (_, failed) = engine.run(&reading("fail", 1), &items).await;
    let Execution::Failed { node, .. } = &*failed else { panic!("{failed:?}") };
    assert_eq!(node.as_ref().map(|node| node.as_str()), Some("each"));
    let (_, went_on) = engine.run(&reading("continue", 2), &items).await;
    assert_eq!(output(&went_on), json!(["a", null, "c"]));
    let (_, collected) = engine.run(&reading("collect", 2), &items).await;
    let list = output(&collected);
    assert_eq!((&list[0], &list[2]), (&json!("a"), &json!("c")));
    let error = &list[1]["error"];
    assert_eq!((&error["node"], &error["kind"]), (&json!("each[1]/read"), &json!("permanent")));
    assert!(error["message"].is_string(), "{list}");
    worker.stop().await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fan_out_of_100_costs_few_appends() {
    let engine = engine();
    let worker = engine.worker();
    let items: Vec<String> = (0..100).map(|n| format!("n{n}")).collect();
    let (id, execution) = engine.run(&reading("continue", 100), &json!({"items": items})).await;
    assert_eq!(output(&execution), json!(vec![Value::Null; 100]));
    let appends = appends(&engine, id).await;
    assert!(appends <= 50, "{appends} appends for a hundred items");
    worker.stop().await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pure_nodes_of_every_kind_are_free_and_ten_effects_cost_eleven_appends() {
    let engine = engine();
    let worker = engine.worker();
    let chain = |nodes: Vec<Value>| {
        let ids: Vec<&str> = nodes.iter().map(|node| node["id"].as_str().unwrap()).collect();
        let connections: Vec<Value> =
            ids.windows(2).map(|pair| json!({"from": pair[0], "to": pair[1]})).collect();
        json!({"nodes": nodes, "connections": connections})
    };
    let repeat = json!({"condition": "index < 10", "max_iterations": 10, "nodes": [transform("again", "index")]});
    let each = json!({"items": "[1, 2, 3]", "nodes": [transform("one", "item")]});
    let pure = vec![
        node("start", "trigger.manual", json!({})),
        node("merge_any", "logic.merge", json!({"mode": "any"})),
        node("merge_all", "logic.merge", json!({"mode": "all"})),
        node("while", "logic.while", repeat),
        node("each", "logic.for_each", each),
        node("set", "logic.set_variable", json!({"name": "v", "expression": "1"})),
        transform("a", "1"),
        transform("b", "2"),
        transform("c", "3"),
        transform("d", "4"),
    ];
    let (id, execution) = engine.run(&chain(pure), &json!({})).await;
    assert_eq!(output(&execution), json!(4));
    let cost = appends(&engine, id).await;
    assert!(cost <= 2, "{cost} appends for ten pure nodes");
    let effects = (0..10)
        .map(|n| {
            let config = json!({"operation": "write", "path": format!("{n}.txt"), "content": "x"});
            node(&format!("n{n}"), "action.file", config)
        })
        .collect();
    let (id, _) = engine.run(&chain(effects), &json!({})).await;
    let cost = appends(&engine, id).await;
    assert!(cost <= 11, "{cost} appends for ten effects");
    worker.stop().await;
    engine.stop().await;
}

fn workflow_node(id: &str, workflow: WorkflowId, more: Value) -> Value {
    let mut config = json!({"workflow_id": workflow});
    for (name, value) in more.as_object().expect("fields") {
        config[name] = value.clone();
    }
    node(id, "logic.workflow", config)
}

fn only(node: Value) -> Value {
    json!({"nodes": [node], "connections": []})
}

/// The child that the node `sub` of a run started.
fn child_of(id: ExecutionId) -> ExecutionId {
    id.child(&"sub".into(), Attempt(1))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_gives_its_output_while_its_parent_holds_nothing() {
    let engine = engine();
    let worker = engine.worker();
    // One slot, which the child needs: a parent that held it would wait for ever.
    let child = engine.workflow(&json!({
        "nodes": [node("pause", "logic.wait", json!({"duration_ms": 20})), transform("double", "input.n * 2")],
        "connections": [{"from": "pause", "to": "double"}],
        "settings": {"concurrency": {"limit": 1}},
    })).await;
    let parent = json!({
        "nodes": [workflow_node("sub", child, json!({"input": {"n": "{{ input.n }}"}})),
                  transform("after", "nodes.sub.output + 1")],
        "connections": [{"from": "sub", "to": "after"}],
        "settings": {"concurrency": {"limit": 1}},
    });
    let (id, execution) = engine.run(&parent, &json!({"n": 20})).await;
    assert_eq!(output(&execution), json!(41));
    let facts = engine.facts(id).await;
    assert!(
        facts.iter().any(|fact| matches!(fact, ExecutionEvent::ExecutionWaiting(_))),
        "{facts:#?}"
    );
    let made = engine.ended(child_of(id)).await;
    let request = &made.run().expect("it ran").request;
    assert_eq!((request.depth, request.trigger_type), (1, TriggerType::Workflow));
    let parent = request.parent.as_ref().expect("it is a child");
    assert_eq!((parent.execution_id, parent.path.as_str(), parent.waits), (id, "sub", true));
    worker.stop().await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_that_fails_or_cannot_begin_fails_its_node_and_names_itself() {
    let engine = engine();
    let worker = engine.worker();
    let failing = engine
        .workflow(&only(node("read", "action.file", json!({"operation": "read", "path": "none"}))))
        .await;
    let (id, execution) =
        engine.run(&only(workflow_node("sub", failing, json!({}))), &json!({})).await;
    let Execution::Failed { node: Some(path), error, .. } = &*execution else {
        panic!("{execution:?}")
    };
    assert_eq!((path.as_str(), error.kind), ("sub", ErrorKind::Permanent));
    assert!(error.message.starts_with("the child execution failed: "), "{error:?}");
    let details = error.details.as_ref().expect("details").to_value();
    assert_eq!(details["execution_id"], json!(child_of(id)));
    assert_eq!(details["error"]["node"], json!("read"));
    let nowhere = workflow_node("sub", WorkflowId(Uuid::now_v7()), json!({}));
    let (_, execution) = engine.run(&only(nowhere), &json!({})).await;
    let Execution::Failed { error, .. } = &*execution else { panic!("{execution:?}") };
    assert!(error.message.starts_with("the child execution was refused: "), "{error:?}");
    worker.stop().await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_stopped_run_waits_for_is_stopped_with_it_and_what_it_let_go_is_not() {
    let engine = engine();
    let worker = engine.worker();
    let long =
        engine.workflow(&only(node("wait", "logic.wait", json!({"duration_ms": 3_600_000})))).await;
    let short = engine.workflow(&only(transform("one", "1"))).await;
    let parent = json!({
        "nodes": [workflow_node("sub", long, json!({})), workflow_node("alone", short, json!({"wait": false}))],
        "connections": [],
    });
    let workflow = engine.workflow(&parent).await;
    let id = engine.start(workflow, &json!({})).await;
    engine.until(child_of(id), "to wait", Execution::is_waiting).await;
    engine.tell(id, ExecutionCommand::Cancel { reason: CancelReason::StoppedByUser }).await;
    let stopped = engine.ended(child_of(id)).await;
    assert!(
        matches!(&*stopped, Execution::Cancelled { reason: CancelReason::ParentEnded, .. }),
        "{stopped:?}"
    );
    let alone = engine.ended(id.child(&"alone".into(), Attempt(1))).await;
    assert_eq!(output(&alone), json!(1));
    worker.stop().await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workflow_that_starts_itself_comes_to_an_end() {
    let engine = engine();
    let worker = engine.worker();
    let workflow = engine.workflow(&only(transform("one", "1"))).await;
    engine.save(workflow, &only(workflow_node("sub", workflow, json!({})))).await;
    let id = engine.start(workflow, &json!({})).await;
    let execution = engine.ended(id).await;
    let Execution::Failed { error, .. } = &*execution else { panic!("{execution:?}") };
    assert!(error.message.ends_with("nested 17 deep, more than 16"), "{error:?}");
    worker.stop().await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_starts_the_error_workflow_once() {
    let engine = engine();
    let worker = engine.worker();
    let handler =
        engine.workflow(&only(transform("seen", "input.error.kind + ' in ' + input.node"))).await;
    let mut failing =
        only(node("read", "action.file", json!({"operation": "read", "path": "none"})));
    failing["settings"] = json!({"error_workflow_id": handler});
    let (id, _) = engine.run(&failing, &json!({})).await;
    let handled = engine.ended(id.of_failure()).await;
    assert_eq!(output(&handled), json!("permanent in read"));
    let request = &handled.run().expect("it ran").request;
    assert_eq!((request.depth, request.trigger_type), (1, TriggerType::Workflow));
    assert_eq!(request.input.to_value()["execution_id"], json!(id));
    worker.stop().await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_pauses_for_a_person_after_the_last_attempt() {
    let engine = engine();
    let worker = engine.worker();
    let workflow = engine.workflow(&json!({
        "nodes": [{"id": "read", "type": "action.file", "on_error": "pause", "config": {"operation": "read", "path": "late.txt"}},
                  transform("use", "nodes.read.output.content")],
        "connections": [{"from": "read", "to": "use"}],
    })).await;
    let paused =
        |execution: &Execution| matches!(execution.waits_for(), Some(WaitsFor::Resume { .. }));
    let resolve = |resolution| ExecutionCommand::Resolve { path: "read".into(), resolution };
    let by_hand = engine.start(workflow, &json!({})).await;
    let execution = engine.until(by_hand, "to be paused", paused).await;
    let (reason, held) = (PauseReason::NodeFailed, vec!["read".into()]);
    assert_eq!(execution.waits_for(), Some(WaitsFor::Resume { reason, held }));
    let given = json!({"content": "by hand"});
    let complete = Resolution::Complete { output: given.into(), port: None };
    engine.tell(by_hand, resolve(complete)).await;
    assert_eq!(output(&*engine.ended(by_hand).await), json!("by hand"));
    let again = engine.start(workflow, &json!({})).await;
    engine.until(again, "to be paused", paused).await;
    std::fs::create_dir_all(engine.files()).unwrap();
    std::fs::write(engine.files().join("late.txt"), "at last").unwrap();
    engine.tell(again, ExecutionCommand::Unpause { reason: PauseReason::User }).await;
    assert_eq!(output(&*engine.ended(again).await), json!("at last"));
    std::fs::remove_file(engine.files().join("late.txt")).unwrap();
    let failed = engine.start(workflow, &json!({})).await;
    engine.until(failed, "to be paused", paused).await;
    engine.tell(failed, resolve(Resolution::Fail)).await;
    assert_eq!(engine.ended(failed).await.status(), Some(Status::Failed));
    worker.stop().await;
    engine.stop().await;
}
