//! Limits, strategies and pauses of dispatch as callers meet them.

use ledgerline_domain::permission::Role;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::http::{Answer, Deployment, Person};

/// A workflow whose runs hold their slot until they are cancelled: each is busy with a long list.
fn busy(concurrency: &Value) -> Value {
    json!({
        "name": "Busy",
        "nodes": [{"id": "each", "type": "logic.for_each", "config": {
            "items": "input.items", "concurrency": 1, "connections": [],
            "nodes": [{"id": "keep", "type": "action.file", "idempotent": true,
                "config": {"operation": "write", "path": "items/{{ index }}.txt", "content": "x"}}]}}],
        "connections": [],
        "settings": {"concurrency": concurrency},
    })
}

async fn start(person: &Person, workflow: &str) -> Answer {
    let items: Vec<u32> = (0..5_000).collect();
    let body = json!({"workflow_id": workflow, "trigger_data": {"items": items}});
    person.post("/executions", &body).await
}

async fn running(person: &Person, id: &str) {
    person.until(&format!("/executions/{id}"), |body| body["status"] == "running").await;
}

async fn stop(person: &Person, id: &str) {
    person.post(&format!("/executions/{id}/cancel"), &json!({})).await.expect(202);
    person.until(&format!("/executions/{id}"), |body| body["status"] == "cancelled").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_limit_refuses_replaces_or_cancels_as_its_strategy_says() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;

    let rejecting = ada.make_workflow(&busy(&json!({"limit": 1, "strategy": "reject"}))).await;
    let first = start(&ada, &rejecting).await.expect(202);
    assert_eq!(first.body["limits"][0]["strategy"], "reject", "{first:?}");
    let before = ada.get("/executions").await.body["total"].clone();
    let refused = start(&ada, &rejecting).await;
    refused.is_problem(429, "queue-full");
    assert_eq!(refused.header("retry-after"), "5");
    assert_eq!(ada.get("/executions").await.body["total"], before, "nothing is recorded");
    stop(&ada, &first.id()).await;
    let next = start(&ada, &rejecting).await.expect(202).id();
    running(&ada, &next).await;
    stop(&ada, &next).await;

    let newest = ada.make_workflow(&busy(&json!({"limit": 1, "strategy": "cancel_newest"}))).await;
    let first = start(&ada, &newest).await.expect(202).id();
    running(&ada, &first).await;
    let second = start(&ada, &newest).await.expect(202).id();
    let second =
        ada.until(&format!("/executions/{second}"), |body| body["status"] == "cancelled").await;
    assert_eq!(second.body["cancel_reason"], "limit_reached");
    stop(&ada, &first).await;

    let oldest = ada.make_workflow(&busy(&json!({"limit": 1, "strategy": "cancel_running"}))).await;
    let first = start(&ada, &oldest).await.expect(202).id();
    running(&ada, &first).await;
    let second = start(&ada, &oldest).await.expect(202).id();
    let first =
        ada.until(&format!("/executions/{first}"), |body| body["status"] == "cancelled").await;
    assert_eq!(first.body["cancel_reason"], "superseded");
    running(&ada, &second).await;
    stop(&ada, &second).await;

    let short = ada.make_workflow(&busy(&json!({"limit": 1, "max_queued": 1}))).await;
    let first = start(&ada, &short).await.expect(202).id();
    running(&ada, &first).await;
    let second = start(&ada, &short).await.expect(202).id();
    start(&ada, &short).await.is_problem(429, "queue-full");
    stop(&ada, &first).await;
    running(&ada, &second).await;
    stop(&ada, &second).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workspace_limits_all_its_workflows_together() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let workspace = format!("/workspaces/{}", ada.workspace);
    ada.patch(&workspace, &json!({"max_concurrency": 0})).await.is_problem(422, "invalid-value");
    let limited = ada.patch(&workspace, &json!({"max_concurrency": 1})).await.expect(200);
    assert_eq!(limited.body["max_concurrency"], 1);
    assert_eq!(limited.body["effective_concurrency"], 1);
    let again = ada.patch(&workspace, &json!({"name": "Renamed"})).await.expect(200);
    assert_eq!(again.body["max_concurrency"], 1, "what is left out stays");

    let workflows = [
        ada.make_workflow(&busy(&json!({"limit": 5}))).await,
        ada.make_workflow(&busy(&json!({"limit": null}))).await,
    ];
    let first = start(&ada, &workflows[0]).await.expect(202).id();
    running(&ada, &first).await;
    let second = start(&ada, &workflows[1]).await.expect(202).id();
    let in_line = |body: &Value| body["line"]["full"] == true;
    let why = ada.until(&format!("/executions/{second}/why"), in_line).await;
    assert_eq!(why.body["line"]["limit"]["scope"], "workspace", "{why:?}");
    assert_eq!(why.body["line"]["holders"], json!([first]));
    assert_eq!(
        why.body["explanation"],
        "it is number 1 in line for the one slot of its workspace, held by 1 execution"
    );
    let why = ada.get(&format!("/executions/{first}/why")).await.expect(200);
    assert_eq!(why.body["waits_for"]["kind"], "lease");
    assert_eq!(why.body["worker"]["alive"], true, "{why:?}");
    assert_eq!(why.body["running"][0]["attempt"], 1, "{why:?}");
    stop(&ada, &first).await;
    running(&ada, &second).await;
    stop(&ada, &second).await;
    let free = ada.patch(&workspace, &json!({"max_concurrency": null})).await.expect(200);
    assert_eq!(free.body["effective_concurrency"], Value::Null);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_of_dispatch_holds_what_is_asked_for_and_says_who_and_why() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let workspace = ada.make_workspace("Operations").await;
    let here = [("ledgerline-workspace", workspace.as_str())];
    let eve = house.sign_up("eve").await;
    house.let_in(&ada, &workspace, &eve, Role::Editor).await;
    let pause = format!("/workspaces/{workspace}/pause");
    eve.post(&pause, &json!({})).await.is_problem(403, "forbidden");
    let long = json!({"reason": "x".repeat(1_001)});
    ada.post(&pause, &long).await.is_problem(422, "invalid-value");
    let planned = ada.post(&format!("{pause}?dry_run=true"), &json!({})).await.expect(200);
    assert_eq!(planned.body["events"][0]["type"], "dispatch_paused", "{planned:?}");
    let reason = json!({"reason": "the provider is down"});
    let paused = ada.post(&pause, &reason).await.expect(200);
    assert_eq!(paused.body["dispatch_paused"], true);

    let quick = json!({
        "name": "Quick",
        "nodes": [{"id": "one", "type": "logic.transform", "config": {"expression": "1"}}],
        "connections": [],
        "settings": {"concurrency": {"limit": null}},
    });
    let made = ada.send(Method::POST, "/workflows", Some(&quick), &here).await.expect(201).id();
    let held = ada.post("/executions", &json!({"workflow_id": made})).await.expect(202).id();
    let why = ada.get(&format!("/executions/{held}/why")).await.expect(200);
    let hold = &why.body["dispatch_paused"];
    assert_eq!(hold["by"], json!(ada.user_id), "{why:?}");
    assert_eq!(hold["reason"], "the provider is down");
    let told = why.text("explanation");
    assert!(told.starts_with("dispatch is paused since ") && told.ends_with("is down"), "{told}");
    let system = ada.get("/system").await.expect(200);
    assert_eq!(system.body["dispatch"]["paused_workspace_count"], 1, "{system:?}");
    assert!(system.body["dispatch"]["paused_workspaces"][&workspace].is_object(), "{system:?}");
    // Elsewhere work goes on.
    let other = ada.make_workflow(&quick).await;
    let other = ada.post("/executions", &json!({"workflow_id": other})).await.expect(202).id();
    ada.until(&format!("/executions/{other}"), |body| body["status"] == "completed").await;
    let stuck = ada.send(Method::GET, "/executions/stuck", None, &here).await.expect(200);
    assert_eq!(stuck.body, json!({"items": [], "looked_at": 1, "complete": true}));
    ada.post(&format!("/workspaces/{workspace}/resume"), &json!({})).await.expect(200);
    ada.until(&format!("/executions/{held}"), |body| body["status"] == "completed").await;

    // The whole deployment, by its operators only.
    eve.post("/system/dispatch/pause", &json!({})).await.is_problem(403, "forbidden");
    let paused =
        ada.post("/system/dispatch/pause", &json!({"reason": "upgrade"})).await.expect(200);
    assert_eq!(paused.body["paused"]["reason"], "upgrade", "{paused:?}");
    let held = ada.post("/executions", &json!({"workflow_id": made})).await.expect(202).id();
    let why = ada.get(&format!("/executions/{held}/why")).await.expect(200);
    assert_eq!(why.body["dispatch_paused"]["reason"], "upgrade", "{why:?}");
    ada.get("/executions/stuck?all=true").await.expect(200);
    eve.get("/executions/stuck?all=true").await.is_problem(403, "forbidden");
    let resumed = ada.post("/system/dispatch/resume", &json!({})).await.expect(200);
    assert_eq!(resumed.body["paused"], Value::Null);
    ada.until(&format!("/executions/{held}"), |body| body["status"] == "completed").await;
}
