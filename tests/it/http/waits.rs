//! Runs that wait for somebody outside, over HTTP: approvals, signals, and tasks for external workers with the examples' workers.

use std::{
    fs::File,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use futures_util::{StreamExt as _, stream};
use ledgerline_domain::permission::Role;
use serde_json::{Value, json};

use crate::support::http::{Answer, Deployment, Person};

/// Asks, and says by which branch it went on.
fn asking(config: &Value) -> Value {
    let mut ask = json!({"title": "Ship {{ input.boxes }} boxes?"});
    for (name, value) in config.as_object().expect("an object") {
        ask[name] = value.clone();
    }
    let said = |id: &str| json!({"id": id, "type": "logic.transform", "config": {"expression": format!("'{id}'")}});
    let mut nodes = vec![json!({"id": "ask", "type": "logic.approval", "config": ask})];
    nodes.extend(["yes", "no", "late"].map(said));
    let mut connections = vec![
        json!({"from": "ask", "to": "yes", "port": "approved"}),
        json!({"from": "ask", "to": "no", "port": "rejected"}),
    ];
    if config["timeout_ms"].is_number() {
        connections.push(json!({"from": "ask", "to": "late", "port": "timeout"}));
    } else {
        nodes.pop();
    }
    json!({"name": "Asking", "nodes": nodes, "connections": connections})
}

fn listening() -> Value {
    json!({
        "name": "Listening",
        "nodes": [
            {"id": "paid", "type": "logic.signal", "config": {"name": "payment {{ input.order }}"}},
            {"id": "amount", "type": "logic.transform", "config": {"expression": "nodes.paid.output.amount"}},
        ],
        "connections": [{"from": "paid", "to": "amount"}],
    })
}

/// One task.
fn working(queue: &str, node: &Value) -> Value {
    let config = json!({"queue": queue, "input": {"name": "{{ input.name }}"}, "heartbeat_timeout_ms": 60_000});
    let mut step = json!({"id": "step", "type": "integration.worker", "config": config});
    for (name, value) in node.as_object().expect("an object") {
        step[name] = value.clone();
    }
    json!({"name": "Working", "nodes": [step], "connections": []})
}

/// One task, whose worker is lost when it is silent for a second.
fn impatient(queue: &str, node: &Value) -> Value {
    let mut workflow = working(queue, node);
    workflow["nodes"][0]["config"]["heartbeat_timeout_ms"] = json!(1_000);
    workflow
}

async fn start(person: &Person, workflow: &str, data: &Value) -> String {
    let body = json!({"workflow_id": workflow, "trigger_data": data});
    person.post("/executions", &body).await.expect(202).id()
}

async fn run(person: &Person, workflow: &Value, data: &Value) -> String {
    let workflow = person.make_workflow(workflow).await;
    start(person, &workflow, data).await
}

async fn waits(person: &Person, id: &str) -> Answer {
    person.until(&format!("/executions/{id}"), |body| body["waiting"] == true).await
}

async fn ended(person: &Person, id: &str) -> Value {
    let words = ["completed", "failed", "cancelled"];
    let fits = |body: &Value| words.iter().any(|word| body["status"] == *word);
    person.until(&format!("/executions/{id}"), fits).await.body
}

async fn answer(person: &Person, id: &str, body: &Value) -> Answer {
    person.post(&format!("/executions/{id}/approvals/ask"), body).await
}

/// Whether an event of this type is in the history of a run.
async fn has(person: &Person, id: &str, r#type: &str) -> bool {
    let events = person.get(&format!("/executions/{id}/events")).await.expect(200);
    events.each("type").iter().any(|name| name.contains(r#type))
}

async fn poll(person: &Person, queue: &str, wait_ms: u64) -> Value {
    let body = json!({"queue": queue, "wait_ms": wait_ms, "worker": "tester"});
    person.post("/worker-tasks/poll", &body).await.expect(200).body["task"].clone()
}

async fn report(person: &Person, task: &Value, verb: &str, body: &Value) -> Answer {
    let mut body = body.clone();
    body["lease"] = task["lease"].clone();
    let id = task["id"].as_str().expect("a task");
    person.post(&format!("/worker-tasks/{id}/{verb}"), &body).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approval_is_listed_and_its_answer_chooses_the_branch() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let form = json!([
        {"name": "carrier", "type": "choice", "required": true, "options": ["rail", "road"]},
        {"name": "boxes", "type": "integer"},
    ]);
    let id = run(&ada, &asking(&json!({"fields": form})), &json!({"boxes": 4})).await;
    let waiting = waits(&ada, &id).await;
    assert_eq!(waiting.body["waits_for"]["nodes"][0]["for"], "approval", "{waiting:?}");
    assert_eq!(waiting.body["claim"], 1);
    let why = ada.get(&format!("/executions/{id}/why")).await.expect(200);
    let told = why.text("explanation");
    assert_eq!(told, "node 'ask' waits for an answer by anybody who may approve");

    let open = ada.until("/approvals", |body| body["total"] == 1).await;
    let asked = &open.items()[0];
    assert_eq!((&asked["execution_id"], &asked["node"]), (&json!(id), &json!("ask")));
    assert_eq!(asked["approval"]["title"], "Ship 4 boxes?");
    assert_eq!(asked["workflow_name"], "Asking");
    let path = format!("/executions/{id}/nodes");
    let nodes = ada.until(&path, |body| body["items"][0]["status"] == "waiting").await;
    assert_eq!(nodes.items()[0]["path"], "ask");

    let refused =
        answer(&ada, &id, &json!({"decision": "approved", "values": {"boxes": "x"}})).await;
    refused.is_problem(422, "invalid-value");
    assert_eq!(refused.pointers(), ["/values/carrier", "/values/boxes"]);
    answer(&ada, &id, &json!({"decision": "perhaps"})).await.is_problem(422, "invalid-value");

    let body = json!({"decision": "approved", "values": {"carrier": "rail"}, "comment": "by noon"});
    let dry =
        ada.post(&format!("/executions/{id}/approvals/ask?dry_run=true"), &body).await.expect(200);
    assert_eq!(dry.body["events"][0]["type"], "approval_given");
    answer(&ada, &id, &body).await.expect(200);
    let done = ended(&ada, &id).await;
    assert_eq!((&done["status"], &done["output"]), (&json!("completed"), &json!({"yes": "yes"})));
    let nodes = ada.get(&format!("/executions/{id}/nodes")).await.expect(200);
    let output = &nodes.items()[0]["output"];
    assert_eq!(
        (&output["values"]["carrier"], &output["comment"]),
        (&json!("rail"), &json!("by noon"))
    );
    assert_eq!(output["by"], json!(ada.user_id));
    ada.until("/approvals", |body| body["total"] == 0).await;
    answer(&ada, &id, &body).await.refused_by("execution_ended");
}

/// Beside it is a second question, so that the run is still open when the first one has its answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approval_is_answered_once() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let ask = |id: &str| json!({"id": id, "type": "logic.approval", "config": {"title": "Well?"}});
    let workflow = json!({"name": "Two", "nodes": [ask("ask"), ask("beside")], "connections": []});
    let id = run(&ada, &workflow, &json!({})).await;
    waits(&ada, &id).await;
    let key = [("idempotency-key", "one")];
    let path = format!("/executions/{id}/approvals/ask");
    let body = json!({"decision": "approved"});
    let send = async |body| ada.send(reqwest::Method::POST, &path, Some(body), &key).await;
    let first = send(&body).await.expect(200);
    assert_eq!(send(&body).await.expect(200).body["version"], first.body["version"], "a repeat");
    answer(&ada, &id, &json!({"decision": "rejected"})).await.refused_by("approval_not_open");
    ada.post(&format!("/executions/{id}/approvals/none"), &body)
        .await
        .refused_by("approval_not_open");
    ada.post(&format!("/executions/{id}/approvals/beside"), &body).await.expect(200);
    let output = ended(&ada, &id).await["output"].clone();
    assert_eq!(output["ask"]["decision"], "approved", "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_may_answer_an_approval_does() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let (vera, ed, eve) =
        (house.sign_up("vera").await, house.sign_up("ed").await, house.sign_up("eve").await);
    let workspace = ada.make_workspace("Shipping").await;
    house.let_in(&ada, &workspace, &vera, Role::Viewer).await;
    house.let_in(&ada, &workspace, &ed, Role::Editor).await;
    let headers = [("ledgerline-workspace", workspace.as_str())];
    let body = asking(&json!({"roles": ["administrator"]}));
    let made = ada.send(reqwest::Method::POST, "/workflows", Some(&body), &headers).await;
    let id = start(&ada, &made.expect(201).id(), &json!({"boxes": 1})).await;
    waits(&ada, &id).await;
    let body = json!({"decision": "rejected"});
    answer(&vera, &id, &body).await.is_problem(403, "forbidden");
    answer(&ed, &id, &body).await.is_problem(403, "forbidden");
    answer(&eve, &id, &body).await.is_problem(404, "not-found");
    let list = async |person: &Person, query: &str| {
        let path = format!("/approvals?workspace_id={workspace}{query}");
        person.get(&path).await.expect(200).body["total"].clone()
    };
    ada.until(&format!("/approvals?workspace_id={workspace}"), |body| body["total"] == 1).await;
    assert_eq!((list(&ed, "").await, list(&ed, "&all=true").await), (json!(0), json!(1)));
    assert_eq!((list(&vera, "").await, list(&vera, "&all=true").await), (json!(0), json!(1)));
    answer(&ada, &id, &body).await.expect(200);
    assert_eq!(ended(&ada, &id).await["output"], json!({"no": "no"}));
    assert!(has(&ada, &id, "approval_refused").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approval_is_given_up_and_a_paused_one_keeps_its_answer() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let id = run(&ada, &asking(&json!({"timeout_ms": 50})), &json!({"boxes": 1})).await;
    assert_eq!(ended(&ada, &id).await["output"], json!({"late": "late"}));
    assert!(has(&ada, &id, "approval_timed_out").await);

    let id = run(&ada, &asking(&json!({})), &json!({"boxes": 1})).await;
    waits(&ada, &id).await;
    ada.command(&format!("/executions/{id}/pause")).await.expect(200);
    let answered = answer(&ada, &id, &json!({"decision": "approved"})).await.expect(200);
    assert_eq!(answered.body["status"], "paused");
    ada.command(&format!("/executions/{id}/resume")).await.expect(200);
    assert_eq!(ended(&ada, &id).await["output"], json!({"yes": "yes"}));

    let id = run(&ada, &asking(&json!({})), &json!({"boxes": 1})).await;
    waits(&ada, &id).await;
    let cancelled = ada.command(&format!("/executions/{id}/cancel")).await.expect(202);
    assert_eq!(cancelled.body["status"], "cancelled", "{cancelled:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approval_inside_a_loop_is_reached_by_its_path() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let body = json!([
        {"id": "ask", "type": "logic.approval", "config": {"title": "{{ item }}?"}},
        {"id": "by", "type": "logic.transform", "config": {"expression": "nodes.ask.output.decision"}},
    ]);
    let connections = json!([{"from": "ask", "to": "by", "port": "approved"}]);
    let each =
        json!({"items": "['a', 'b']", "concurrency": 2, "nodes": body, "connections": connections});
    let workflow = json!({"name": "Each", "nodes": [{"id": "each", "type": "logic.for_each", "config": each}], "connections": []});
    let id = run(&ada, &workflow, &json!({})).await;
    waits(&ada, &id).await;
    for item in [1, 0] {
        let path = format!("/executions/{id}/approvals/each%5B{item}%5D%2Fask");
        ada.post(&path, &json!({"decision": "approved"})).await.expect(200);
    }
    assert_eq!(ended(&ada, &id).await["output"], json!(["approved", "approved"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_wakes_the_node_that_waits_and_one_that_came_first_is_kept() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let workflow = ada.make_workflow(&listening()).await;
    let id = start(&ada, &workflow, &json!({"order": 7})).await;
    let waiting = waits(&ada, &id).await;
    let first = &waiting.body["waits_for"]["nodes"][0];
    assert_eq!((&first["for"], &first["name"]), (&json!("signal"), &json!("payment 7")));
    let path = format!("/executions/{id}/signals/payment%207");
    ada.post(&path, &json!({"amount": 12})).await.expect(200);
    assert_eq!(ended(&ada, &id).await["output"], 12);
    ada.post(&path, &json!({"amount": 12})).await.refused_by("execution_ended");

    let pause = json!({"id": "pause", "type": "logic.approval", "config": {"title": "Go on?"}});
    let mut later = listening();
    later["nodes"].as_array_mut().expect("nodes").push(pause);
    later["connections"]
        .as_array_mut()
        .expect("connections")
        .push(json!({"from": "pause", "to": "paid", "port": "approved"}));
    let id = run(&ada, &later, &json!({"order": 8})).await;
    waits(&ada, &id).await;
    let path = format!("/executions/{id}/signals/payment%208");
    for amount in [1, 2] {
        let kept = ada.post(&path, &json!({"amount": amount})).await.expect(200);
        assert_eq!(kept.body["waiting"], true);
    }
    ada.post(&format!("/executions/{id}/approvals/pause"), &json!({"decision": "approved"}))
        .await
        .expect(200);
    assert_eq!(ended(&ada, &id).await["output"], 1);
    let eve = house.sign_up("eve").await;
    eve.post(&path, &json!({})).await.is_problem(404, "not-found");
    let large = json!({"text": "x".repeat(70_000)});
    let id = start(&ada, &workflow, &json!({"order": 9})).await;
    waits(&ada, &id).await;
    ada.post(&format!("/executions/{id}/signals/other"), &large)
        .await
        .is_problem(422, "invalid-value");
}

/// All of them share one slot: each that waits must have given it back, or the next would never have been begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_runs_that_wait_for_a_signal_hold_no_slot() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let mut workflow = listening();
    workflow["settings"] = json!({"concurrency": {"limit": 1}});
    let workflow = &ada.make_workflow(&workflow).await;
    let starts = (0..1_000).map(|order| {
        let ada = ada.clone();
        async move { start(&ada, workflow, &json!({"order": order})).await }
    });
    let ids: Vec<String> = stream::iter(starts).buffered(16).collect().await;
    for id in &ids {
        waits(&ada, id).await;
    }
    let path = format!("/executions/{}/signals/payment%20500", ids[500]);
    ada.post(&path, &json!({"amount": 3})).await.expect(200);
    assert_eq!(ended(&ada, &ids[500]).await["output"], 3);
    let others = format!("/executions?workflow_id={workflow}&status=running&limit=1");
    ada.until(&others, |body| body["total"] == 999).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_is_taken_done_and_reported_once() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    assert_eq!(poll(&ada, "images", 0).await, Value::Null);
    let workflow = ada.make_workflow(&working("images", &json!({}))).await;
    // The poll is there first, and hears of the task.
    let input = json!({"name": "Ada"});
    let (task, id) = tokio::join!(poll(&ada, "images", 20_000), start(&ada, &workflow, &input));
    assert_eq!((&task["execution_id"], &task["input"]), (&json!(id), &json!({"name": "Ada"})));
    assert_eq!(task["idempotency_key"], json!(format!("{id}/step/1")));
    assert_eq!(poll(&ada, "images", 0).await, Value::Null, "it is taken");
    let why = ada.get(&format!("/executions/{id}/why")).await.expect(200);
    assert!(why.text("explanation").contains("the worker tester of the queue 'images'"), "{why:?}");
    let beat = report(&ada, &task, "heartbeat", &json!({})).await.expect(200);
    assert!(beat.body["expires_at"].as_str() > task["expires_at"].as_str(), "{beat:?}");
    let eve = house.sign_up("eve").await;
    assert_eq!(poll(&eve, "images", 0).await, Value::Null, "a queue belongs to a workspace");
    report(&eve, &task, "complete", &json!({"output": 1})).await.is_problem(404, "not-found");
    let mut older = task.clone();
    older["lease"] = json!(0);
    report(&ada, &older, "complete", &json!({"output": 1})).await.refused_by("task_lost");
    report(&ada, &task, "complete", &json!({"output": {"size": 3}})).await.expect(200);
    assert_eq!(ended(&ada, &id).await["output"], json!({"size": 3}));
    report(&ada, &task, "complete", &json!({"output": 2})).await.refused_by("execution_ended");
    report(&ada, &task, "heartbeat", &json!({})).await.refused_by("execution_ended");
    let wrong = ada.post("/worker-tasks/none/heartbeat", &json!({"lease": 1})).await;
    wrong.is_problem(404, "not-found");
    let long =
        ada.post("/worker-tasks/poll", &json!({"queue": "images", "wait_ms": 600_000})).await;
    assert_eq!(long.pointers(), ["/wait_ms"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_task_goes_by_the_retry_policy_of_its_node() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let retry = json!({"retry": {"max_retries": 1, "backoff_ms": [10]}});
    let id = run(&ada, &working("flaky", &retry), &json!({"name": "x"})).await;
    let first = poll(&ada, "flaky", 20_000).await;
    let error = |kind: &str| json!({"error": {"kind": kind, "message": "the camera is busy", "details": {"code": 7}}});
    report(&ada, &first, "fail", &error("transient")).await.expect(200);
    let second = poll(&ada, "flaky", 20_000).await;
    assert_eq!((&second["attempt"], &second["lease"]), (&json!(2), &json!(1)));
    report(&ada, &first, "complete", &json!({})).await.refused_by("task_lost");
    report(&ada, &second, "fail", &error("permanent")).await.expect(200);
    let done = ended(&ada, &id).await;
    assert_eq!((&done["status"], &done["error"]["kind"]), (&json!("failed"), &json!("permanent")));
    assert_eq!(done["error"]["details"], json!({"code": 7}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_task_of_a_lost_worker_goes_to_another_one() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let id =
        run(&ada, &impatient("lost", &json!({"idempotent": true})), &json!({"name": "x"})).await;
    let first = poll(&ada, "lost", 20_000).await;
    // It is never heard of again.
    let second = poll(&ada, "lost", 20_000).await;
    assert_eq!((&second["attempt"], &second["lease"]), (&json!(1), &json!(2)));
    report(&ada, &first, "heartbeat", &json!({})).await.refused_by("task_lost");
    report(&ada, &first, "complete", &json!({"output": "first"})).await.refused_by("task_lost");
    report(&ada, &second, "complete", &json!({"output": "second"})).await.expect(200);
    assert_eq!(ended(&ada, &id).await["output"], "second");

    let once = impatient("once", &json!({"retry": {"max_retries": 0}}));
    let id = run(&ada, &once, &json!({"name": "x"})).await;
    assert_eq!(poll(&ada, "once", 20_000).await["execution_id"], json!(id));
    let done = ended(&ada, &id).await;
    assert_eq!(done["error"]["kind"], "unknown_outcome", "{done}");
}

/// A worker's program, ended with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // Where it has ended by itself there is nothing to do.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn workers() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/workers")
}

fn spawn(person: &Person, command: &mut Command) -> Program {
    let command = command
        .env("LEDGERLINE_URL", person.base())
        .env("LEDGERLINE_TOKEN", &person.token)
        .env("QUEUE", "greetings");
    Program(command.spawn().expect("python3 and node are there"))
}

async fn greets(mut command: Command, by: &str) {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let workflow = ada.make_workflow(&impatient("greetings", &json!({"idempotent": true}))).await;
    // A worker that takes a task and dies: the one that lives does it.
    let lost = start(&ada, &workflow, &json!({"name": "Grace"})).await;
    poll(&ada, "greetings", 20_000).await;
    let _worker = spawn(&ada, &mut command);
    let id = start(&ada, &workflow, &json!({"name": "Ada"})).await;
    for (id, name) in [(id, "Ada"), (lost, "Grace")] {
        let greeting = json!({"greeting": format!("Hello, {name}"), "by": by});
        assert_eq!(ended(&ada, &id).await["output"], greeting);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_worker_in_python_does_tasks() {
    let mut command = Command::new("python3");
    command.arg(workers().join("worker.py"));
    greets(command, "python").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_worker_in_typescript_does_tasks() {
    let source = File::open(workers().join("worker.ts")).expect("the example is there");
    let mut command = Command::new("node");
    command.arg("--input-type=module").stdin(Stdio::from(source));
    greets(command, "typescript").await;
}
