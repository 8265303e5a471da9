//! Executions over HTTP: a workflow is saved, run, looked at, stopped and tried again, with the conventions of all commands.

use chrono::DateTime;
use ledgerline_domain::permission::Role;
use ledgerline_store::{LogLevel, LogLine};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::http::{Answer, Deployment, Person, waiting};

/// Adds up, writes it down, and doubles it.
fn sum() -> Value {
    json!({
        "name": "Sum",
        "nodes": [
            {"id": "add", "type": "logic.transform", "config": {"expression": "input.a + input.b"}},
            {"id": "keep", "type": "action.file", "idempotent": true,
             "config": {"operation": "write", "path": "sum.txt", "content": "{{ nodes.add.output }}"}},
            {"id": "double", "type": "logic.transform", "config": {"expression": "nodes.add.output * 2"}},
        ],
        "connections": [{"from": "add", "to": "keep"}, {"from": "keep", "to": "double"}],
        "tags": ["numbers"],
    })
}

/// Keeps a value, then reads a file that is not there.
fn failing() -> Value {
    json!({
        "name": "Reads",
        "nodes": [
            {"id": "first", "type": "logic.transform", "config": {"expression": "'kept'"}},
            {"id": "read", "type": "action.file", "retry": {"max_retries": 0},
             "config": {"operation": "read", "path": "later.txt"}},
        ],
        "connections": [{"from": "first", "to": "read"}],
    })
}

/// Starts a run.
async fn start(person: &Person, workflow: &str, data: &Value) -> Answer {
    let body = json!({"workflow_id": workflow, "trigger_data": data});
    person.post("/executions", &body).await.expect(202)
}

/// Waits until an execution has ended.
async fn ended(person: &Person, id: &str) -> Answer {
    let words = ["completed", "failed", "cancelled"];
    let fits = |body: &Value| words.iter().any(|word| body["status"] == *word);
    person.until(&format!("/executions/{id}"), fits).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workflow_is_saved_run_and_looked_at() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let workflow = ada.make_workflow(&sum()).await;
    let started = start(&ada, &workflow, &json!({"a": 20, "b": 1})).await;
    let id = started.id();
    assert_eq!(started.body["status"], "pending", "{started:?}");
    assert_eq!(started.header("location"), format!("/api/v1/executions/{id}"));
    assert!(started.header("etag").starts_with('"'));
    assert_eq!(started.body["input"], json!({"a": 20, "b": 1}));
    assert_eq!(started.body["workflow_name"], "Sum");
    assert!(started.position() > 0);

    let ended = ended(&ada, &id).await;
    assert_eq!(ended.body["status"], "completed", "{ended:?}");
    assert_eq!(ended.body["output"], 42);
    assert_eq!(ended.body["progress"], 1.0);
    assert!(ended.body["duration_ms"].is_i64(), "{ended:?}");
    assert_eq!(ended.body["created_at"], started.body["created_at"]);
    assert_eq!(ended.body["waits_for"], Value::Null);

    let reflected = ended.body["position"].to_string();
    let nodes = ada.get(&format!("/executions/{id}/nodes?min_position={reflected}")).await;
    let paths: Vec<&str> =
        nodes.items().iter().map(|node| node["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["add", "keep", "double"]);
    assert!(nodes.items().iter().all(|node| node["status"] == "completed"), "{nodes:?}");
    assert_eq!(nodes.items()[0]["output"], 21);
    assert_eq!(nodes.body["total"], 3);
    let first = ada.get(&format!("/executions/{id}/nodes?limit=1")).await;
    let rest = format!("/executions/{id}/nodes?limit=2&cursor={}", first.text("next_cursor"));
    let rest = ada.get(&rest).await;
    assert_eq!(rest.items()[0]["path"], "keep");
    assert_eq!(rest.body["next_cursor"], Value::Null);

    let list = format!("/executions?min_position={reflected}&workflow_id={workflow}");
    let list = ada.get(&format!("{list}&status=completed&tag=numbers&search=SU")).await;
    assert_eq!(list.body["total"], 1, "{list:?}");
    assert_eq!(list.items()[0]["id"], id);
    let none = ada.get("/executions?tag=others").await;
    assert_eq!(none.body["total"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_history_is_whole_by_page_and_by_stream_and_the_past_is_shown() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let workflow = ada.make_workflow(&sum()).await;
    let id = start(&ada, &workflow, &json!({"a": 1, "b": 2})).await.id();
    let ended = ended(&ada, &id).await;

    let mut paged = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = ada.get(&format!("/executions/{id}/events?limit=2{cursor}")).await;
        assert!(page.items().len() <= 2);
        assert_eq!(page.body["total"], ended.body["version"]);
        paged.extend(page.items().to_vec());
        match page.body["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let versions: Vec<i64> = paged.iter().map(|e| e["streamversion"].as_i64().unwrap()).collect();
    assert_eq!(versions, (1..=ended.body["version"].as_i64().unwrap()).collect::<Vec<_>>());
    assert_eq!(paged[0]["type"], "ledgerline.execution.execution_requested.v2");
    assert_eq!(paged[0]["specversion"], "1.0");
    assert_eq!(paged.last().unwrap()["type"], "ledgerline.execution.execution_completed.v1");

    let ndjson = [("accept", "application/x-ndjson")];
    let path = format!("/executions/{id}/events");
    let streamed = ada.send(Method::GET, &path, None, &ndjson).await;
    assert_eq!(streamed.header("content-type"), "application/x-ndjson");
    let lines: Vec<Value> = streamed
        .body
        .as_str()
        .expect("several lines are not one JSON value")
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines, paged);

    let requested = paged[0]["position"].as_i64().unwrap();
    let then = ada.get(&format!("/executions/{id}?at_position={requested}")).await;
    assert_eq!(then.body["status"], "pending");
    assert_eq!(then.body["finished_at"], Value::Null);
    assert_eq!(then.body["output"], Value::Null);
    assert_eq!(then.position(), requested);
    let before = ada.get(&format!("/executions/{id}?at_position={}", requested - 1)).await;
    before.is_problem(404, "not-found");
    let never = ada.get(&format!("/executions/{id}?at_position=999999")).await;
    never.is_problem(422, "position-unknown");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_execution_is_held_and_stopped() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let workflow = ada.make_workflow(&waiting("Slow")).await;
    let id = start(&ada, &workflow, &json!({})).await.id();
    let waiting = ada.until(&format!("/executions/{id}"), |body| body["waiting"] == true).await;
    assert_eq!(waiting.body["status"], "running");
    let why = ada.get(&format!("/executions/{id}/why")).await;
    assert_eq!(why.body["waits_for"]["kind"], "nodes", "{why:?}");
    assert_eq!(why.body["waits_for"]["nodes"][0]["for"], "time", "{why:?}");
    assert_eq!(why.body["waits_for"]["count"], 1);

    let paused = ada.post(&format!("/executions/{id}/pause"), &json!({})).await;
    assert_eq!((paused.status.as_u16(), &paused.body["status"]), (200, &json!("paused")));
    assert_eq!(paused.body["waits_for"], json!({"kind": "resume", "reason": "user", "held": []}));
    let resumed = ada.post(&format!("/executions/{id}/resume"), &json!({})).await;
    assert_eq!((resumed.status.as_u16(), &resumed.body["status"]), (200, &json!("running")));

    let seen = [("if-match", paused.header("etag"))];
    let cancel = format!("/executions/{id}/cancel");
    let stale = ada.send(Method::POST, &cancel, None, &seen).await;
    stale.is_problem(412, "stale-version");

    let plan = ada.post(&format!("{cancel}?dry_run=true"), &json!({})).await;
    assert_eq!(plan.status.as_u16(), 200);
    assert_eq!(plan.body["events"][0]["type"], "execution_cancelled", "{plan:?}");
    assert_eq!(plan.body["permissions"], json!(["control_execution"]));
    let still = ada.get(&format!("/executions/{id}")).await;
    assert_eq!(still.body["version"], resumed.body["version"], "a dry run appends nothing");

    let plan_hash = [("if-plan", plan.text("plan_hash"))];
    let stopped = ada.send(Method::POST, &cancel, Some(&json!({})), &plan_hash).await;
    assert_eq!(stopped.status.as_u16(), 202, "{stopped:?}");
    assert_eq!(stopped.body["status"], "cancelled");
    assert_eq!(stopped.body["cancel_reason"], "stopped_by_user");
    assert!(stopped.body["finished_at"].is_string());
    let again = ada.post(&cancel, &json!({})).await;
    assert_eq!(again.body["version"], stopped.body["version"], "asking twice appends nothing");
    let late = ada.post(&format!("/executions/{id}/pause"), &json!({})).await;
    late.is_problem(409, "rule-refused");
    assert_eq!(late.body["rule"], "execution_ended");
    let odd = ada.post(&cancel, &json!({"reason": "because"})).await;
    odd.is_problem(422, "invalid-value");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_execution_is_tried_again_and_run_again() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let workflow = ada.make_workflow(&failing()).await;
    let id = start(&ada, &workflow, &json!({"n": 1})).await.id();
    let failed = ended(&ada, &id).await;
    assert_eq!(failed.body["status"], "failed", "{failed:?}");
    assert_eq!(failed.body["failed_node"], "read");
    assert!(failed.body["error"]["message"].is_string());

    // The file comes to be, so the second try succeeds.
    let writes = json!({"name": "Writes", "connections": [], "nodes": [
        {"id": "write", "type": "action.file", "idempotent": true,
         "config": {"operation": "write", "path": "later.txt", "content": "here"}}]});
    let writes = ada.make_workflow(&writes).await;
    let wrote = start(&ada, &writes, &json!({})).await.id();
    assert_eq!(ended(&ada, &wrote).await.body["status"], "completed");

    let retry = format!("/executions/{id}/retry");
    let stale = [("if-match", "\"1\"")];
    let refused = ada.send(Method::POST, &retry, None, &stale).await;
    refused.is_problem(412, "stale-version");
    let seen = [("if-match", failed.header("etag"))];
    let retried = ada.send(Method::POST, &retry, None, &seen).await;
    assert_eq!(retried.status.as_u16(), 202, "{retried:?}");
    assert_eq!(retried.body["origin_execution_id"], id);
    assert_eq!(retried.body["origin_kind"], "retry");
    let next = retried.id();
    assert_ne!(next, id);
    let ended = ended(&ada, &next).await;
    assert_eq!(ended.body["status"], "completed", "{ended:?}");
    let position = ended.body["position"].to_string();
    let nodes = ada.get(&format!("/executions/{next}/nodes?min_position={position}")).await;
    assert_eq!(
        (&nodes.items()[0]["path"], &nodes.items()[0]["carried"]),
        (&json!("first"), &json!(true))
    );
    let nothing = ada.post(&format!("/executions/{next}/retry"), &json!({})).await;
    nothing.is_problem(409, "rule-refused");
    assert_eq!(nothing.body["rule"], "nothing_to_retry");

    let rerun = ada.post(&format!("/executions/{id}/rerun"), &json!({"input": {"n": 2}})).await;
    assert_eq!(rerun.status.as_u16(), 202, "{rerun:?}");
    assert_eq!(rerun.body["input"], json!({"n": 2}));
    assert_eq!(rerun.body["origin_kind"], "rerun");
    let no_version = ada.post(&format!("/executions/{id}/rerun"), &json!({"version": 9})).await;
    no_version.is_problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_with_a_key_happens_once() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let workflow = ada.make_workflow(&waiting("Slow")).await;
    let body = json!({"workflow_id": workflow, "trigger_data": {"n": 1.50}});
    let key = [("idempotency-key", "order 7")];
    let first = ada.send(Method::POST, "/executions", Some(&body), &key).await;
    assert_eq!(first.status.as_u16(), 202, "{first:?}");
    ada.until(&format!("/executions/{}", first.id()), |body| body["waiting"] == true).await;
    let again = ada.send(Method::POST, "/executions", Some(&body), &key).await;
    assert_eq!(again.body, first.body, "the same answer, whatever happened since");
    assert_eq!(again.header("ledgerline-position"), first.header("ledgerline-position"));
    let other = json!({"workflow_id": workflow});
    let other = ada.send(Method::POST, "/executions", Some(&other), &key).await;
    other.is_problem(422, "idempotency-key-reused");
    let list = ada.get("/executions").await;
    assert_eq!(list.body["total"], 1, "{list:?}");

    let absent = json!({"workflow_id": "0199a0c0-0000-7000-8000-000000000001"});
    ada.post("/executions", &absent).await.is_problem(404, "not-found");
    let child = json!({"workflow_id": workflow, "trigger_type": "workflow"});
    let child = ada.post("/executions", &child).await;
    child.is_problem(422, "invalid-value");
    let unpublished = json!({"workflow_id": workflow, "trigger_type": "cron"});
    let unpublished = ada.post("/executions", &unpublished).await;
    unpublished.is_problem(409, "rule-refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_workflow_says_who_holds_its_slots_and_a_busy_run_is_stopped() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let long = json!({
        "name": "One at a time",
        "nodes": [{"id": "each", "type": "logic.for_each", "config": {
            "items": "input.items", "concurrency": 1, "connections": [],
            "nodes": [{"id": "keep", "type": "action.file", "idempotent": true,
                "config": {"operation": "write", "path": "items/{{ index }}.txt", "content": "x"}}]}}],
        "connections": [],
        "settings": {"concurrency": {"limit": 1}},
    });
    let workflow = ada.make_workflow(&long).await;
    let items: Vec<u32> = (0..5_000).collect();
    let first = start(&ada, &workflow, &json!({"items": items})).await.id();
    let started = |body: &Value| body["status"] == "running";
    ada.until(&format!("/executions/{first}"), started).await;
    let second = start(&ada, &workflow, &json!({"items": []})).await.id();

    let in_line = |body: &Value| body["line"].is_object();
    let why = ada.until(&format!("/executions/{second}/why"), in_line).await;
    assert_eq!(why.body["waits_for"]["kind"], "slot", "{why:?}");
    assert_eq!(why.body["waits_for"]["limits"][0]["limit"], 1);
    assert_eq!(why.body["line"]["place"], 1);
    assert_eq!(why.body["line"]["holders"], json!([first]));
    let queued = |body: &Value| body["status"] == "queued";
    let queued = ada.until(&format!("/executions/{second}"), queued).await;
    assert!(queued.body["queued_at"].is_string(), "{queued:?}");
    let open = ada.get("/executions/stuck").await.expect(200);
    assert_eq!(open.body, json!({"items": [], "looked_at": 2, "complete": true}));

    let busy = ada.post(&format!("/executions/{first}/cancel"), &json!({})).await.expect(202);
    assert_eq!(busy.body["cancelling"], true, "{busy:?}");
    assert_eq!(busy.body["cancel_reason"], "stopped_by_user");
    assert_eq!(ended(&ada, &first).await.body["status"], "cancelled");
    assert_eq!(ended(&ada, &second).await.body["status"], "completed", "the slot was given on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_lines_are_read_by_page_level_and_stream() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let workflow = ada.make_workflow(&failing()).await;
    let id = start(&ada, &workflow, &json!({})).await.id();
    ended(&ada, &id).await;
    let line = |n: i64, level: LogLevel, message: &str| LogLine {
        workspace_id: ada.workspace.0,
        execution_id: id.parse().expect("an id"),
        claim: 7,
        n,
        at: DateTime::UNIX_EPOCH,
        level,
        node: "read".to_owned(),
        attempt: 1,
        message: message.to_owned(),
        fields: None,
        correlation_id: Some(Uuid::nil()),
    };
    let printed = [
        line(1, LogLevel::Info, "Opening the file"),
        line(2, LogLevel::Error, "No such file"),
        line(3, LogLevel::Info, "closing"),
    ];
    house.elsewhere().log().write_log_lines(&printed).await.expect("lines are written");

    let page = ada.get(&format!("/executions/{id}/logs?after=7.0&limit=2")).await;
    assert_eq!(page.status.as_u16(), 200, "{page:?}");
    let messages = |answer: &Answer| -> Vec<String> {
        answer.each("message").into_iter().map(str::to_owned).collect()
    };
    assert_eq!(messages(&page), ["Opening the file", "No such file"]);
    assert_eq!(page.body["next_cursor"], "7.2");
    let rest = ada.get(&format!("/executions/{id}/logs?after=7.2")).await;
    assert_eq!(messages(&rest), ["closing"]);
    assert_eq!((&rest.body["next_cursor"], &rest.body["last"]), (&Value::Null, &json!("7.3")));
    let worse = ada.get(&format!("/executions/{id}/logs?after=7.0&level=warning")).await;
    assert_eq!(messages(&worse), ["No such file"]);
    let found = ada.get(&format!("/executions/{id}/logs?after=7.0&search=FILE")).await;
    assert_eq!(messages(&found).len(), 2);
    let path = format!("/executions/{id}/logs?after=7.0");
    let ndjson = [("accept", "application/x-ndjson")];
    let streamed = ada.send(Method::GET, &path, None, &ndjson).await;
    assert_eq!(streamed.body.as_str().unwrap().lines().count(), 3);
    for bad in
        ["after=x", "after=1.1&cursor=1.1", "offset=5", "level=loud", "follow=sse&level=info"]
    {
        let refused = ada.get(&format!("/executions/{id}/logs?{bad}")).await;
        refused.is_problem(422, "invalid-value");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_see_nothing_and_viewers_change_nothing() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let eve = house.sign_up("eve").await;
    let team = ada.make_workspace("Team").await;
    let here = [("ledgerline-workspace", team.as_str())];
    let saved = ada.send(Method::POST, "/workflows", Some(&waiting("Slow")), &here).await;
    let workflow = saved.id();
    let id = start(&ada, &workflow, &json!({})).await.id();
    ada.until(&format!("/executions/{id}"), |body| body["waiting"] == true).await;

    let reads = ["", "/nodes", "/logs", "/events", "/why", "/logs?follow=sse"];
    let commands = ["cancel", "pause", "resume", "retry", "rerun"];
    for path in reads {
        let hidden = eve.get(&format!("/executions/{id}{path}")).await;
        hidden.is_problem(404, "not-found");
        let anybody = house.nobody().get(&format!("/executions/{id}{path}")).await;
        anybody.is_problem(401, "unauthenticated");
    }
    for command in commands {
        let hidden = eve.post(&format!("/executions/{id}/{command}"), &json!({})).await;
        hidden.is_problem(404, "not-found");
    }
    let body = json!({"workflow_id": workflow});
    eve.post("/executions", &body).await.is_problem(404, "not-found");
    for list in ["/executions", "/executions/stuck"] {
        let hidden = eve.send(Method::GET, list, None, &here).await;
        hidden.is_problem(404, "not-found");
    }

    house.let_in(&ada, &team, &eve, Role::Viewer).await;
    for path in reads.iter().filter(|path| !path.contains("follow")) {
        let shown = eve.get(&format!("/executions/{id}{path}")).await;
        assert_eq!(shown.status.as_u16(), 200, "{path}: {shown:?}");
    }
    for command in commands {
        let refused = eve.post(&format!("/executions/{id}/{command}"), &json!({})).await;
        refused.is_problem(403, "forbidden");
    }
    eve.post("/executions", &body).await.is_problem(403, "forbidden");
    let shown = ada.get(&format!("/executions/{id}")).await;
    assert_eq!(shown.body["status"], "running", "nobody's refused command did anything");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_output_is_shown_up_to_a_size_and_read_whole() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let twice = json!({
        "name": "Echo",
        "nodes": [{"id": "echo", "type": "logic.transform", "config": {"expression": "input.text"}}],
        "connections": [],
    });
    let workflow = ada.make_workflow(&twice).await;
    let text = "x".repeat(300 * 1024);
    let id = start(&ada, &workflow, &json!({"text": text})).await.id();
    let shown = ended(&ada, &id).await;
    assert_eq!(shown.body["status"], "completed");
    assert!(shown.body["output"] == json!(text), "an output of 300 KiB is shown");
    let size = i64::try_from(text.len()).unwrap() + 2;
    assert_eq!(shown.body["output_blob"]["size_bytes"], size, "though it is kept as a blob");
    let position = shown.body["position"].to_string();
    let nodes = ada.get(&format!("/executions/{id}/nodes?min_position={position}")).await;
    assert_eq!(nodes.items()[0]["output"], Value::Null);
    assert_eq!(nodes.items()[0]["output_blob"]["size_bytes"], size);

    for path in ["output", "output?node=echo"] {
        let whole = ada.get(&format!("/executions/{id}/{path}")).await.expect(200);
        assert_eq!(whole.header("content-type"), "application/json");
        assert!(whole.body == json!(text), "{path}");
    }
    for path in ["output?node=other", "output?node="] {
        let none = ada.get(&format!("/executions/{id}/{path}")).await;
        none.is_problem(404, "not-found");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_decides_about_a_node_that_failed_for_the_last_time() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let workflow = ada
        .make_workflow(&json!({
            "name": "Holds",
            "nodes": [{"id": "each", "type": "logic.for_each", "config": {"items": "[1]", "nodes": [
                {"id": "read", "type": "action.file", "on_error": "pause", "config": {"operation": "read", "path": "none"}}]}}],
        }))
        .await;
    let id = start(&ada, &workflow, &json!({})).await.id();
    let held = |body: &Value| body["waits_for"]["kind"] == "resume";
    let paused = ada.until(&format!("/executions/{id}"), held).await;
    assert_eq!(paused.body["status"], "paused", "{paused:?}");
    let why = ada.get(&format!("/executions/{id}/why")).await.expect(200);
    assert_eq!(why.body["waits_for"]["reason"], "node_failed");
    assert_eq!(why.body["waits_for"]["held"], json!(["each[0]/read"]));
    let explanation = why.text("explanation");
    assert!(explanation.contains("'each[0]/read' has failed"), "{explanation}");
    let reflected = paused.body["position"].to_string();
    let nodes = ada.get(&format!("/executions/{id}/nodes?min_position={reflected}")).await;
    let read = nodes.items().iter().find(|node| node["path"] == "each[0]/read");
    assert_eq!(read.expect("it began")["status"], "waiting", "{nodes:?}");

    let resolve = |node: &str| format!("/executions/{id}/nodes/{node}/resolve");
    let encoded = resolve("each%5B0%5D%2Fread");
    let wrong = [
        json!({}),
        json!({"action": "forget"}),
        json!({"action": "retry", "output": 1}),
        json!({"action": "fail", "port": "x"}),
        json!({"action": "complete", "port": "x"}),
    ];
    for body in wrong {
        let refused = ada.post(&encoded, &body).await;
        assert!([400, 422].contains(&refused.status.as_u16()), "{body}: {refused:?}");
    }
    let other = ada.post(&resolve("each"), &json!({"action": "retry"})).await;
    assert_eq!(other.expect(409).body["rule"], "node_not_held");
    let complete = json!({"action": "complete", "output": {"content": "by hand"}});
    ada.post(&encoded, &complete).await.expect(200);
    let ended = ended(&ada, &id).await;
    assert_eq!(ended.body["output"], json!([{"content": "by hand"}]), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_children_of_a_run_are_its_tree_and_an_unknown_workflow_is_refused_at_save() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let child = ada.make_workflow(&sum()).await;
    let calls = |workflow: &str| {
        json!({
            "name": "Calls",
            "nodes": [{"id": "each", "type": "logic.for_each", "config": {"items": "[1, 2]", "nodes": [
                {"id": "sub", "type": "logic.workflow",
                 "config": {"workflow_id": workflow, "input": {"a": "{{ item }}", "b": 1}}}]}}],
        })
    };
    let workflow = ada.make_workflow(&calls(&child)).await;
    let id = start(&ada, &workflow, &json!({})).await.id();
    let whole = ended(&ada, &id).await;
    assert_eq!(whole.body["output"], json!([4, 6]), "{whole:?}");
    let reflected = whole.body["position"].to_string();
    let children = ada.get(&format!("/executions/{id}/children?min_position={reflected}")).await;
    assert_eq!(children.body["total"], 2, "{children:?}");
    // Items run beside each other, so either child may have been requested last.
    let mut nodes = Vec::new();
    for one in children.items() {
        assert_eq!((&one["parent_execution_id"], &one["workflow_id"]), (&json!(id), &json!(child)));
        let one = ada.get(&format!("/executions/{}", one["id"].as_str().unwrap())).await;
        assert_eq!((&one.body["parent_execution_id"], &one.body["depth"]), (&json!(id), &json!(1)));
        nodes.push(one.body["parent_node"].clone());
    }
    nodes.sort_by_key(Value::to_string);
    assert_eq!(nodes, ["each[0]/sub", "each[1]/sub"]);
    let list = ada.get(&format!("/executions?parent_execution_id={id}")).await;
    assert_eq!(list.body["total"], 2, "{list:?}");

    let unknown = ada.post("/workflows", &calls(&Uuid::now_v7().to_string())).await.expect(422);
    let error = &unknown.body["errors"][0];
    assert_eq!(error["pointer"], "/nodes/0/config/nodes/0/config/workflow_id", "{unknown:?}");
    let eve = house.sign_up("eve").await;
    eve.post("/workflows", &calls(&child)).await.expect(422);
    let mut settings = sum();
    settings["settings"] = json!({"error_workflow_id": Uuid::now_v7()});
    ada.post("/workflows", &settings).await.expect(422);
}
