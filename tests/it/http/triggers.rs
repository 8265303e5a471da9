//! Workflows that start by themselves: from the clock, from deliveries, from events of the log.

use std::{io::Write as _, process::Stdio};

use ledgerline_domain::{
    id::{TriggerId, WorkflowId},
    permission::Role,
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::http::{Answer, Deployment, Person};

/// A workflow that a trigger starts, with a node that gives back what it was given.
fn triggered(name: &str, kind: &str, config: &Value) -> Value {
    json!({
        "name": name,
        "nodes": [
            { "id": "trigger", "type": format!("trigger.{kind}"), "config": config },
            { "id": "echo", "type": "logic.transform", "config": { "expression": "input" } },
        ],
        "connections": [{ "from": "trigger", "to": "echo" }],
        "settings": { "concurrency": { "limit": 100 } },
    })
}

/// Makes it, publishes it and lets it take in work. Gives the ids of the workflow and of its trigger.
async fn live(person: &Person, body: &Value, noun: &str) -> (String, String) {
    let workflow = person.make_workflow(body).await;
    person.command(&format!("/workflows/{workflow}/publish")).await.expect(200);
    person.command(&format!("/workflows/{workflow}/resume")).await.expect(200);
    let trigger = TriggerId::of(WorkflowId(workflow.parse().unwrap()), "trigger").to_string();
    armed(person, &workflow, noun).await;
    (workflow, trigger)
}

async fn armed(person: &Person, workflow: &str, noun: &str) {
    let path = format!("/{noun}?workflow_id={workflow}");
    person.until(&path, |body| body["items"][0]["state"] == "armed").await;
}

/// The types of what happened to a trigger, in order.
fn happened(answer: &Answer) -> Vec<String> {
    let types = answer.each("type").into_iter();
    types.map(|name| name.split('.').nth(2).unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_is_listed_paused_run_and_remembered() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let config =
        json!({ "cron": "0 8 * * MON-FRI", "timezone": "Europe/Berlin", "payload": { "n": 1 } });
    let (workflow, id) = live(&ada, &triggered("Nightly", "cron", &config), "schedules").await;
    let listed = ada.get("/schedules").await.expect(200);
    let item = &listed.items()[0];
    assert_eq!(item["id"], id.as_str());
    assert_eq!(item["workflow_name"], "Nightly");
    assert_eq!(item["next_fire_times"].as_array().unwrap().len(), 5);
    assert!(item["description"].as_str().unwrap().contains("Europe/Berlin"), "{item}");
    let path = format!("/schedules/{id}");
    let paused = ada.command(&format!("{path}/pause")).await.expect(200);
    assert_eq!(paused.body["state"], "paused");
    assert_eq!(paused.body["next_fire_times"], json!([]));
    let run = ada.command(&format!("{path}/run")).await.expect(202);
    let execution = run.text("execution_id").to_owned();
    let ended =
        ada.until(&format!("/executions/{execution}"), |body| body["status"] == "completed").await;
    assert_eq!(ended.body["trigger_type"], "cron");
    let resumed = ada.command(&format!("{path}/resume")).await.expect(200);
    assert_eq!(resumed.body["state"], "armed");
    assert_eq!(resumed.body["last_execution_id"], execution.as_str());
    let history = ada.get(&format!("{path}/history")).await.expect(200);
    let types = happened(&history);
    for name in ["trigger_armed", "trigger_paused", "trigger_fired", "trigger_resumed"] {
        assert!(types.iter().any(|seen| seen == name), "{types:?}");
    }
    ada.command(&format!("/workflows/{workflow}/stop")).await.expect(200);
    let off = ada.until(&path, |body| body["state"] == "off").await;
    assert_eq!(off.body["off_reason"], "intake_inactive");
    ada.command(&format!("{path}/run")).await.refused_by("intake_inactive");
    house.nobody().get("/schedules").await.expect(401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_fires_by_itself_and_a_preview_says_when() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let (workflow, id) =
        live(&ada, &triggered("Often", "cron", &json!({ "cron": "* * * * * *" })), "schedules")
            .await;
    let runs = format!("/executions?workflow_id={workflow}&trigger_type=cron");
    ada.until(&runs, |body| body["total"].as_i64() >= Some(2)).await;
    let history = ada.get(&format!("/schedules/{id}/history?limit=200")).await.expect(200);
    let fired: Vec<&Value> = history
        .items()
        .iter()
        .filter(|event| event["type"] == "ledgerline.trigger.trigger_fired.v1")
        .collect();
    assert!(fired.len() >= 2);
    let times: Vec<&Value> = fired.iter().map(|event| &event["data"]["cause"]["fire_at"]).collect();
    assert!(times.windows(2).all(|pair| pair[0] != pair[1]), "{times:?}");
    let wanted = json!({ "cron": "30 2 * * *", "timezone": "Europe/Berlin", "count": 2, "after": "2026-03-28T12:00:00Z" });
    let preview = ada.post("/schedules/preview", &wanted).await.expect(200);
    assert_eq!(
        preview.body["local_times"],
        json!(["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"])
    );
    let wrong = json!({ "cron": "x", "timezone": "UTC" });
    assert_eq!(ada.post("/schedules/preview", &wrong).await.pointers(), ["/cron"]);
    let wrong = json!({ "cron": "* * * * *", "timezone": "Mars" });
    assert_eq!(ada.post("/schedules/preview", &wrong).await.pointers(), ["/timezone"]);
}

/// Makes address and secret of a webhook. Gives the path of the address and the secret.
async fn rotated(person: &Person, id: &str) -> (String, String) {
    let body = json!({ "url": true, "secret": true });
    let made = person.post(&format!("/webhooks/{id}/rotate"), &body).await.expect(200);
    let url = made.text("url");
    let path = url[url.find("/hooks/").expect("an address")..].to_owned();
    (path, made.text("secret").to_owned())
}

/// As the README does it.
fn sign(secret: &str, text: &str) -> String {
    let mut openssl = std::process::Command::new("openssl")
        .args(["dgst", "-sha256", "-hmac", secret, "-r"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("openssl runs");
    openssl.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = openssl.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().split_whitespace().next().unwrap().to_owned()
}

async fn deliver(house: &Deployment, path: &str, body: &str, headers: &[(&str, &str)]) -> Answer {
    let mut sent = vec![("content-type", "application/json")];
    sent.extend_from_slice(headers);
    house.nobody().send_raw(Method::POST, path, Some(body.into()), &sent).await
}

async fn deliver_signed(
    house: &Deployment,
    path: &str,
    secret: &str,
    at: i64,
    name: &str,
    body: &str,
) -> Answer {
    let v1 = sign(secret, &format!("{at}.{name}.{body}"));
    let signature = format!("t={at},v1={v1}");
    let headers = [("ledgerline-signature", signature.as_str()), ("ledgerline-delivery", name)];
    deliver(house, path, body, &headers).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_starts_one_run_and_can_be_replayed() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let (workflow, id) =
        live(&ada, &triggered("Hook", "webhook", &json!({ "headers": ["x-kind"] })), "webhooks")
            .await;
    assert_eq!(ada.get(&format!("/webhooks/{id}")).await.expect(200).body["url"], Value::Null);
    let (path, secret) = rotated(&ada, &id).await;
    let now = chrono::Utc::now().timestamp();
    let body = r#"{"order":7}"#;
    let first = deliver_signed(&house, &path, &secret, now, "d-1", body).await.expect(202);
    let again = deliver_signed(&house, &path, &secret, now, "d-1", body).await.expect(202);
    assert_eq!(first.body, again.body);
    let run = first.text("execution_id").to_owned();
    let seen = format!("/executions/{run}");
    let ended = ada.until(&seen, |body| body["status"] == "completed").await;
    assert_eq!(ended.body["trigger_type"], "webhook");
    let replayed = ada.command(&format!("/webhooks/{id}/deliveries/d-1/replay")).await.expect(202);
    assert_ne!(replayed.text("execution_id"), run);
    ada.command(&format!("/webhooks/{id}/deliveries/none/replay")).await.expect(404);

    let other = deliver_signed(&house, &path, "whsec_another one", now, "d-2", body).await;
    other.is_problem(401, "unauthenticated");
    deliver_signed(&house, &path, &secret, now - 3_600, "d-2", body).await.expect(401);
    deliver(&house, &path, body, &[]).await.expect(401);
    deliver(&house, "/hooks/hook_AAAA", body, &[]).await.expect(404);
    let shown = ada.get(&format!("/webhooks/{id}")).await.expect(200);
    let refused = shown.body["refused"].as_array().unwrap();
    let count = |reason: &str| {
        let of = refused.iter().find(|refused| refused["reason"] == reason);
        of.map_or(0, |refused| refused["count"].as_i64().unwrap())
    };
    assert_eq!((count("wrong_signature"), count("stale_signature"), count("unsigned")), (1, 1, 1));

    // Whoever only looks does not see the address.
    let eve = house.sign_up("eve").await;
    let workspace = ada.make_workspace("Ops").await;
    house.let_in(&ada, &workspace, &eve, Role::Viewer).await;
    let here = [("ledgerline-workspace", workspace.as_str())];
    let shared = triggered("Shared hook", "webhook", &json!({}));
    let shared = ada.send(Method::POST, "/workflows", Some(&shared), &here).await.expect(201).id();
    ada.command(&format!("/workflows/{shared}/publish")).await.expect(200);
    let theirs = TriggerId::of(WorkflowId(shared.parse().unwrap()), "trigger").to_string();
    let theirs = format!("/webhooks/{theirs}");
    let list = format!("/webhooks?workspace_id={workspace}");
    ada.until(&list, |body| body["total"] == 1).await;
    rotated(&ada, theirs.rsplit('/').next().unwrap()).await;
    assert!(ada.get(&theirs).await.expect(200).body["url"].is_string());
    assert_eq!(eve.get(&theirs).await.expect(200).body["url"], Value::Null);
    eve.post(&format!("{theirs}/rotate"), &json!({ "url": true })).await.expect(403);

    ada.command(&format!("/webhooks/{id}/pause")).await.expect(200);
    let held = deliver_signed(&house, &path, &secret, now, "d-3", body).await;
    held.is_problem(503, "webhook-paused");
    assert_eq!(held.header("retry-after"), "60");
    ada.command(&format!("/webhooks/{id}/resume")).await.expect(200);
    deliver_signed(&house, &path, &secret, now, "d-3", body).await.expect(202);
    ada.command(&format!("/workflows/{workflow}/stop")).await.expect(200);
    ada.until(&format!("/webhooks/{id}"), |body| body["state"] == "off").await;
    deliver_signed(&house, &path, &secret, now, "d-4", body).await.refused_by("intake_inactive");
    // Another address: the one before is no more.
    rotated(&ada, &id).await;
    deliver_signed(&house, &path, &secret, now, "d-5", body).await.expect(404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_delivery_breaks_a_webhook() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let config = json!({ "signature": "none" });
    let (_, id) = live(&ada, &triggered("Open", "webhook", &config), "webhooks").await;
    let (path, _) = rotated(&ada, &id).await;
    let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
    let deeper = "[".repeat(200_000);
    let hostile = [
        ("deep", deep.as_str()),
        ("very deep", deeper.as_str()),
        ("U+0000", r#"{"a":"\u0000"}"#),
        ("no JSON", "{"),
        ("a lone surrogate", r#"{"a":"\ud800"}"#),
    ];
    for (what, body) in hostile {
        let answer = deliver(&house, &path, body, &[]).await;
        let status = answer.status.as_u16();
        assert!((400..500).contains(&status), "{what}: {answer:?}");
    }
    let large = "x".repeat(300 * 1024);
    deliver(&house, &path, &large, &[]).await.is_problem(413, "body-too-large");
    let long = "x".repeat(300);
    deliver(&house, &path, "{}", &[("ledgerline-delivery", &long)]).await.expect(400);
    for token in ["", "x", "hook_", "..%2f..", "%00", "hook_%ff"] {
        let status = deliver(&house, &format!("/hooks/{token}"), "{}", &[]).await.status.as_u16();
        assert!((400..500).contains(&status), "{token}: {status}");
    }
    deliver(&house, &path, "{}", &[]).await.expect(202);
    let more = deliver(&house, &format!("{path}?a=1&a=2"), "{}", &[]).await.expect(202);
    let run = format!("/executions/{}", more.text("execution_id"));
    ada.until(&run, |body| body["status"] == "completed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_of_the_log_starts_a_workflow_once() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let first = ada.make_workflow(&crate::support::http::greeting("First")).await;
    let config = json!({
        "event_type": "execution_requested",
        "filter": format!("event.data.workflow_id == '{first}' && event.data.input.name == 'Bob'"),
    });
    let (workflow, id) = live(&ada, &triggered("Second", "event", &config), "event-triggers").await;
    for name in ["Ann", "Bob"] {
        let input = json!({ "input": { "name": name } });
        ada.post(&format!("/workflows/{first}/start"), &input).await.expect(202);
    }
    let runs = format!("/executions?workflow_id={workflow}&status=completed");
    let ran = ada.until(&runs, |body| body["total"] == 1).await;
    assert_eq!(ran.items()[0]["trigger_type"], "event");
    let run = ran.items()[0]["id"].as_str().unwrap().to_owned();
    let history = ada.get(&format!("/event-triggers/{id}/history")).await.expect(200);
    assert_eq!(happened(&history).iter().filter(|name| *name == "trigger_fired").count(), 1);
    let replay = format!("/event-triggers/{id}/executions/{run}/replay");
    ada.command(&replay).await.expect(202);
    ada.until(&runs, |body| body["total"] == 2).await;
    let paused = ada.command(&format!("/event-triggers/{id}/pause")).await.expect(200);
    assert_eq!(paused.body["event_type"], "execution_requested");
    ada.command(&format!("/event-triggers/{id}/resume")).await.expect(200);
}
