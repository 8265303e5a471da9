//! Executions from their request to their end, on workers that are paused, told to stop, and killed.

mod killed;
mod races;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use ledgerline_domain::execution::{
    CancelReason, Claim, ErrorKind, Execution, ExecutionCommand, ExecutionEvent, NodeOutput,
    PauseReason, Status, WaitsFor,
};
use ledgerline_store::{
    Intent, NewEvent, StreamId, StreamWrite, Workspace, simulated::SimulatedLog,
};
use ledgerline_worker::allowed::{AllowList, AllowedCommand};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::engine::{Engine, TestWorker, wall_clock, within};

fn simulated() -> (Arc<SimulatedLog>, Engine) {
    let log = SimulatedLog::new(Uuid::now_v7(), wall_clock());
    let engine = Engine::on(Arc::<SimulatedLog>::clone(&log));
    (log, engine)
}

fn output(execution: &Execution) -> Value {
    match execution {
        Execution::Completed { output: NodeOutput::Inline(value), .. } => value.to_value(),
        other => panic!("not completed: {other:?}"),
    }
}

fn failure(execution: &Execution) -> (Option<String>, ErrorKind, String) {
    match execution {
        Execution::Failed { node, error, .. } => {
            (node.as_ref().map(|node| node.as_str().to_owned()), error.kind, error.message.clone())
        }
        other => panic!("not failed: {other:?}"),
    }
}

fn node(id: &str, kind: &str, config: Value) -> Value {
    json!({"id": id, "type": kind, "config": config})
}

fn chain(nodes: Vec<Value>) -> Value {
    let ids: Vec<&str> = nodes.iter().map(|node| node["id"].as_str().unwrap()).collect();
    let connections: Vec<Value> =
        ids.windows(2).map(|pair| json!({"from": pair[0], "to": pair[1]})).collect();
    json!({"nodes": nodes, "connections": connections, "settings": {}})
}

fn shell(engine: &Engine) -> TestWorker {
    engine.worker_with(|mut settings| {
        settings.allowed = Arc::new(AllowList(vec![AllowedCommand::exactly("sh", &["-c"])]));
        settings
    })
}

/// Every kind of node in one run, with a loop, branches and a wait.
fn every_kind() -> Value {
    json!({
        "nodes": [
            node("start", "trigger.manual", json!({})),
            node("count", "logic.set_variable", json!({"name": "count", "expression": "size(input.items)"})),
            node("many", "logic.if", json!({"condition": "vars.count > 2"})),
            node("few", "logic.transform", json!({"expression": "'few'"})),
            node("size", "logic.switch", json!({"cases": [{"when": "vars.count == 3", "port": "three"}]})),
            node("pause", "logic.wait", json!({"duration_ms": 30})),
            node("each", "logic.for_each", json!({
                "items": "input.items", "concurrency": 2,
                "nodes": [
                    node("double", "logic.transform", json!({"expression": "item * 2"})),
                    {"id": "keep", "type": "action.file", "idempotent": true,
                     "config": {"operation": "write", "path": "items/{{ index }}.txt", "content": "{{ nodes.double.output }}"}},
                ],
                "connections": [{"from": "double", "to": "keep"}],
            })),
            {"id": "list", "type": "action.file", "idempotent": true, "config": {"operation": "list", "path": "items"}},
        ],
        "connections": [
            {"from": "start", "to": "count"}, {"from": "count", "to": "many"}, {"from": "many", "to": "few", "port": "false"},
            {"from": "many", "to": "size", "port": "true"}, {"from": "size", "to": "pause", "port": "three"},
            {"from": "pause", "to": "each"}, {"from": "each", "to": "list"},
        ],
        "settings": {},
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_node_takes_part_in_a_run() {
    let (_, engine) = simulated();
    let worker = engine.worker();
    let (id, execution) = engine.run(&every_kind(), &json!({"items": [1, 2, 3]})).await;
    let files = &output(&execution)["list"]["files"];
    let paths: Vec<&str> =
        files.as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["items/0.txt", "items/1.txt", "items/2.txt"]);
    assert_eq!(std::fs::read_to_string(engine.files().join("items/2.txt")).unwrap(), "6");
    let history = engine.history(id).await.join("\n");
    assert!(history.contains("execution_waiting"), "{history}");
    worker.stop().await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pure_nodes_are_appended_with_the_next_effect() {
    let (_, engine) = simulated();
    let worker = engine.worker();
    let pure = (0..10)
        .map(|n| node(&format!("n{n}"), "logic.transform", json!({"expression": "1 + 1"})))
        .collect();
    let (id, _) = engine.run(&chain(pure), &json!({})).await;
    let events = engine.events(id).await;
    let by_worker: std::collections::BTreeSet<_> = events
        .iter()
        .filter(|event| event.metadata.contains("\"worker\""))
        .map(|event| event.recorded_at)
        .collect();
    assert!(by_worker.len() <= 2, "{} appends for ten pure nodes", by_worker.len());
    worker.stop().await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_node_is_tried_again_and_then_fails_the_run() {
    let (_, engine) = simulated();
    let worker = engine.worker();
    let refused = json!({
        "nodes": [{"id": "fetch", "type": "action.http", "config": {"method": "GET", "url": "http://127.0.0.1:9/"}},
                  {"id": "after", "type": "logic.transform", "config": {"expression": "1"}}],
        "connections": [{"from": "fetch", "to": "after"}], "settings": {},
    });
    let (_, execution) = engine.run(&refused, &json!({})).await;
    let (node, kind, message) = failure(&execution);
    assert_eq!((node.as_deref(), kind), (Some("fetch"), ErrorKind::Permanent));
    assert!(message.contains("not reachable from workflows"), "{message}");

    let missing = json!({
        "nodes": [{"id": "run", "type": "action.http", "retry": {"max_retries": 2, "backoff_ms": [10]},
                   "config": {"method": "GET", "url": "http://name.invalid/"}}],
        "connections": [], "settings": {},
    });
    let (id, execution) = engine.run(&missing, &json!({})).await;
    assert_eq!(failure(&execution).1, ErrorKind::Transient);
    let tries = engine
        .facts(id)
        .await
        .iter()
        .filter(|event| matches!(event, ExecutionEvent::NodeFailed(_)))
        .count();
    assert_eq!(tries, 3, "{:#?}", engine.history(id).await);
    engine.printed(id, "failed, next try at").await;
    worker.stop().await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_may_be_replaced_or_take_its_own_branch() {
    let (_, engine) = simulated();
    let worker = engine.worker();
    let bad = json!({"operation": "read", "path": "missing.txt"});
    let replaced = json!({
        "nodes": [{"id": "read", "type": "action.file", "config": bad, "on_error": {"action": "continue", "value": {"content": "none"}}},
                  {"id": "use", "type": "logic.transform", "config": {"expression": "nodes.read.output.content"}}],
        "connections": [{"from": "read", "to": "use"}], "settings": {},
    });
    assert_eq!(output(&engine.run(&replaced, &json!({})).await.1), json!("none"));
    let branched = json!({
        "nodes": [{"id": "read", "type": "action.file", "config": bad, "on_error": {"action": "branch"}},
                  {"id": "well", "type": "logic.transform", "config": {"expression": "'well'"}},
                  {"id": "ill", "type": "logic.transform", "config": {"expression": "nodes.read.output.kind"}}],
        "connections": [{"from": "read", "to": "well"}, {"from": "read", "to": "ill", "port": "error"}], "settings": {},
    });
    assert_eq!(output(&engine.run(&branched, &json!({})).await.1), json!({"ill": "permanent"}));
    worker.stop().await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_prints_lines_and_fails_by_its_exit_code() {
    let (_, engine) = simulated();
    let worker = shell(&engine);
    let printing = chain(vec![node(
        "run",
        "action.command",
        json!({"program": "sh", "args": ["-c", "echo one; echo two >&2"]}),
    )]);
    let (id, execution) = engine.run(&printing, &json!({})).await;
    assert_eq!(output(&execution)["stdout"], json!("one\n"));
    engine.printed(id, "one").await;
    engine.printed(id, "two").await;
    let failing = chain(vec![node(
        "run",
        "action.command",
        json!({"program": "sh", "args": ["-c", "exit 7"]}),
    )]);
    assert_eq!(failure(&engine.run(&failing, &json!({})).await.1).1, ErrorKind::Permanent);
    let refused =
        chain(vec![node("run", "action.command", json!({"program": "rm", "args": ["-rf", "/"]}))]);
    assert!(failure(&engine.run(&refused, &json!({})).await.1).2.contains("not allowed"));
    let slow = json!({"nodes": [{"id": "run", "type": "action.command", "timeout_ms": 100, "retry": {"max_retries": 0},
        "config": {"program": "sh", "args": ["-c", "sleep 30"]}}], "connections": [], "settings": {}});
    assert_eq!(failure(&engine.run(&slow, &json!({})).await.1).1, ErrorKind::Timeout);
    worker.stop().await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_8_a_cancel_ends_a_running_step_within_a_second() {
    let (_, engine) = simulated();
    let worker = shell(&engine);
    let marker = engine.folder.path().join("alive");
    let script = format!("trap '' TERM; (sleep 3; echo alive > {}) & sleep 30", marker.display());
    let definition = chain(vec![
        node("run", "action.command", json!({"program": "sh", "args": ["-c", script]})),
        node("after", "logic.transform", json!({"expression": "1"})),
    ]);
    let workflow = engine.workflow(&definition).await;
    let id = engine.start(workflow, &json!({})).await;
    engine.until(id, "to run its step", |run| run.in_flight().next().is_some()).await;
    let begun = Instant::now();
    engine.tell(id, ExecutionCommand::Cancel { reason: CancelReason::StoppedByUser }).await;
    let execution = engine.ended(id).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "it took {:?}", begun.elapsed());
    assert_eq!(execution.status(), Some(Status::Cancelled));
    let history = engine.history(id).await;
    let cancel = history.iter().position(|event| event.starts_with("cancel_requested")).unwrap();
    assert!(
        !history[cancel..].iter().any(|event| event.starts_with("node_started")),
        "{history:#?}"
    );
    tokio::time::sleep(Duration::from_millis(3_200)).await;
    assert!(!marker.exists(), "a child of the step outlived the cancel");
    worker.stop().await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_finishes_the_running_step_and_starts_no_other() {
    let (_, engine) = simulated();
    let worker = shell(&engine);
    let definition = chain(vec![
        node(
            "first",
            "action.command",
            json!({"program": "sh", "args": ["-c", "sleep 0.3; echo done"]}),
        ),
        node(
            "second",
            "action.command",
            json!({"program": "sh", "args": ["-c", "echo {{ nodes.first.output.stdout }}"]}),
        ),
    ]);
    let workflow = engine.workflow(&definition).await;
    let id = engine.start(workflow, &json!({})).await;
    engine.until(id, "to run its step", |run| run.in_flight().next().is_some()).await;
    engine.tell(id, ExecutionCommand::Pause { reason: PauseReason::User }).await;
    let paused = engine.until(id, "to let go", |run| run.in_flight().next().is_none()).await;
    assert_eq!(paused.status(), Some(Status::Paused));
    let history = engine.history(id).await.join("\n");
    assert!(history.contains("node_completed {\"path\":\"first\""), "{history}");
    assert!(!history.contains("\"second\""), "{history}");
    engine.tell(id, ExecutionCommand::Unpause { reason: PauseReason::User }).await;
    let execution = engine.ended(id).await;
    assert_eq!(output(&execution)["stdout"], json!("done\n"));
    worker.stop().await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_worker_hands_its_runs_to_the_next_one() {
    let (_, engine) = simulated();
    let first = shell(&engine);
    let step = |n: u32| {
        json!({"id": format!("s{n}"), "type": "action.command", "idempotent": true,
        "config": {"program": "sh", "args": ["-c", "sleep 0.05; echo x"]}})
    };
    let definition = chain((0..8).map(step).collect());
    let workflow = engine.workflow(&definition).await;
    let id = engine.start(workflow, &json!({})).await;
    engine
        .until(id, "to run its third step", |run| {
            run.in_flight().any(|(path, _)| path.as_str() == "s2")
        })
        .await;
    first.stop().await;
    assert!(!engine.commands.load::<Execution>(id).await.unwrap().state.has_ended());
    let second = shell(&engine);
    let execution = engine.ended(id).await;
    assert_eq!(output(&execution)["exit_code"], json!(0));
    let history = engine.history(id).await.join("\n");
    assert!(!history.contains("unknown_outcome"), "{history}");
    second.stop().await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_8_a_cancel_is_obeyed_by_a_worker_that_drains() {
    let (_, engine) = simulated();
    let worker = shell(&engine);
    let step = node("run", "action.command", json!({"program": "sh", "args": ["-c", "sleep 600"]}));
    let workflow = engine.workflow(&chain(vec![step])).await;
    let id = engine.start(workflow, &json!({})).await;
    engine.until(id, "to run its step", |run| run.in_flight().next().is_some()).await;
    let cancelled = async {
        engine.tell(id, ExecutionCommand::Cancel { reason: CancelReason::StoppedByUser }).await;
        let told = Instant::now();
        assert_eq!(engine.ended(id).await.status(), Some(Status::Cancelled));
        told.elapsed()
    };
    // Draining takes up to five seconds.
    let ((), took) = tokio::join!(worker.stop(), cancelled);
    assert!(took < Duration::from_secs(3), "{took:?}");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_missed_its_own_lease_gives_its_runs_back() {
    let (_, engine) = simulated();
    let name = Uuid::now_v7().to_string();
    let worker = engine.worker_with(|mut settings| {
        settings.worker.clone_from(&name);
        settings.allowed = Arc::new(AllowList(vec![AllowedCommand::exactly("sh", &["-c"])]));
        settings
    });
    let mark = engine.folder.path().join("mark");
    let script = format!("if [ -e {0} ]; then exit 0; fi; touch {0}; sleep 600", mark.display());
    let step = json!({"id": "run", "type": "action.command", "idempotent": true, "config": {"program": "sh", "args": ["-c", script]}});
    let workflow = engine.workflow(&chain(vec![step])).await;
    let id = engine.start(workflow, &json!({})).await;
    engine.until(id, "to run its step", |run| run.in_flight().next().is_some()).await;
    while !mark.exists() {
        tokio::task::yield_now().await;
    }
    // It expires and is taken up again before anybody looks, as after a time in which the whole process stood still.
    engine.log.renew_worker_lease(&name, 256, 0).await.unwrap();
    engine.log.renew_worker_lease(&name, 256, 60_000).await.unwrap();
    let execution = engine.ended(id).await;
    assert_eq!(output(&execution)["exit_code"], json!(0));
    worker.stop().await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_meets_what_a_newer_build_wrote_lets_go_of_everything() {
    let (_, engine) = simulated();
    let name = Uuid::now_v7().to_string();
    let mut worker = engine.worker_with(|mut settings| {
        settings.worker.clone_from(&name);
        settings.allowed = Arc::new(AllowList(vec![AllowedCommand::exactly("sh", &["-c"])]));
        settings
    });
    let step = node("run", "action.command", json!({"program": "sh", "args": ["-c", "sleep 600"]}));
    let workflow = engine.workflow(&chain(vec![step])).await;
    let [newer, other] =
        [engine.start(workflow, &json!({})).await, engine.start(workflow, &json!({})).await];
    for id in [newer, other] {
        engine.until(id, "to run its step", |run| run.in_flight().next().is_some()).await;
    }
    let version = engine.events(newer).await.last().expect("a history").version;
    let event = NewEvent {
        event_id: Uuid::now_v7(),
        r#type: "execution_teleported",
        schema_version: 1,
        payload: "{}".to_owned(),
        metadata: "{}".to_owned(),
    };
    let write = StreamWrite {
        workspace: Workspace(engine.workspace.0),
        stream: StreamId(newer.0),
        category: "execution",
        expected: version,
        events: vec![event],
    };
    // Whoever dispatches in this process stands down as well; what follows is the worker's own doing.
    engine.log.append(Intent { writes: vec![write], ..Intent::default() }).await.unwrap();
    let why = within(worker.standing_down.wait_for(Option::is_some)).await.unwrap().clone();
    assert!(why.as_ref().is_some_and(|why| why.contains("execution_teleported")), "{why:?}");
    engine
        .until(other, "to be given back", |run| run.open().is_some_and(|open| open.claim.0 == 2))
        .await;
    within(async {
        let holds = async || {
            let leases = engine.log.worker_leases().await.unwrap();
            leases.iter().any(|lease| lease.worker == name && !lease.expired)
        };
        while holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    worker.stop().await;
    engine.stop_unread().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_effect_of_which_nobody_knows_the_outcome_waits_for_a_person() {
    let (_, engine) = simulated();
    let first = shell(&engine);
    let log_file: PathBuf = engine.folder.path().join("effects");
    let script = format!("echo x >> {}; sleep 30", log_file.display());
    let definition = chain(vec![node(
        "run",
        "action.command",
        json!({"program": "sh", "args": ["-c", script]}),
    )]);
    let workflow = engine.workflow(&definition).await;
    let id = engine.start(workflow, &json!({})).await;
    engine.until(id, "to run its step", |run| run.in_flight().next().is_some()).await;
    while !std::fs::read_to_string(&log_file).is_ok_and(|effects| !effects.is_empty()) {
        tokio::task::yield_now().await;
    }
    first.kill();
    let second = shell(&engine);
    let execution = engine.ended(id).await;
    assert_eq!(failure(&execution).1, ErrorKind::UnknownOutcome);
    assert_eq!(std::fs::read_to_string(&log_file).unwrap(), "x\n", "the effect was done twice");
    second.stop().await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_of_a_workflow_is_never_overfilled_and_every_run_gets_its_turn() {
    let (_, engine) = simulated();
    let worker = shell(&engine);
    let definition = json!({"nodes": [node("run", "action.command", json!({"program": "sh", "args": ["-c", "sleep 0.02"]}))],
        "connections": [], "settings": {"concurrency": {"limit": 2}}});
    let workflow = engine.workflow(&definition).await;
    let mut ids = Vec::new();
    for _ in 0..12 {
        ids.push(engine.start(workflow, &json!({})).await);
    }
    for id in &ids {
        assert_eq!(engine.ended(*id).await.status(), Some(Status::Completed));
    }
    let mut events = Vec::new();
    for id in &ids {
        events.extend(engine.events(*id).await);
    }
    events.sort_by_key(|event| event.position);
    let (mut holding, mut most) = (0_i32, 0);
    for event in events {
        match event.r#type.as_str() {
            "execution_dispatched" => holding += 1,
            "execution_completed" => holding -= 1,
            _ => {}
        }
        most = most.max(holding);
    }
    assert_eq!(most, 2, "slots were overfilled or left empty");
    worker.stop().await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_7_an_open_run_says_what_it_waits_for() {
    let (_, engine) = simulated();
    let worker = shell(&engine);
    let slow = node("run", "action.command", json!({"program": "sh", "args": ["-c", "sleep 600"]}));
    let mut definition = chain(vec![slow]);
    definition["settings"] = json!({"concurrency": {"limit": 1}});
    let workflow = engine.workflow(&definition).await;
    let running = engine.start(workflow, &json!({})).await;
    let run =
        engine.until(running, "to run its step", |run| run.in_flight().next().is_some()).await;
    assert!(matches!(run.waits_for(), Some(WaitsFor::Lease { claim: Claim(1), .. })), "{run:?}");
    let in_line = engine.start(workflow, &json!({})).await;
    let run = engine.until(in_line, "to stand in line", |run| run.status() == Some(Status::Queued));
    match run.await.waits_for() {
        Some(WaitsFor::Slot { limits, resumed: false }) => {
            assert_eq!(
                (limits[0].key.as_str(), limits[0].limit),
                (workflow.to_string().as_str(), 1)
            );
        }
        other => panic!("in line, and waits for {other:?}"),
    }
    engine.tell(in_line, ExecutionCommand::Pause { reason: PauseReason::User }).await;
    let run = engine.until(in_line, "to be paused", |run| run.status() == Some(Status::Paused));
    let person = WaitsFor::Resume { reason: PauseReason::User, held: Vec::new() };
    assert_eq!(run.await.waits_for(), Some(person));
    let pause = node("pause", "logic.wait", json!({"duration_ms": 600_000}));
    let workflow = engine.workflow(&chain(vec![pause])).await;
    let waiting = engine.start(workflow, &json!({})).await;
    let run = engine.until(waiting, "to wait for its time", Execution::is_waiting).await;
    match run.waits_for() {
        Some(WaitsFor::Nodes { count: 1, next_due_at: Some(next_due_at), .. }) => {
            let kept = engine.log.next_due().await.unwrap();
            // The log keeps microseconds.
            let apart = (kept.unwrap() - next_due_at).abs();
            assert!(apart < chrono::TimeDelta::milliseconds(1), "{kept:?}, {next_due_at}");
        }
        other => panic!("waits for a time, and says {other:?}"),
    }
    for id in [running, in_line, waiting] {
        engine.tell(id, ExecutionCommand::Cancel { reason: CancelReason::StoppedByUser }).await;
        assert_eq!(engine.ended(id).await.waits_for(), None);
    }
    worker.stop().await;
    engine.stop().await;
}
