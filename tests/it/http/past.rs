//! Reads of the past over HTTP, and what a read refuses: any execution at any position is what its events prove up to there.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::http::{Answer, Deployment, Person, greeting, waiting};

/// A loop beside a branch that is not taken, a try that fails, and a wait.
fn varied() -> Value {
    json!({
        "name": "Varied",
        "nodes": [
            {"id": "choose", "type": "logic.if", "config": {"condition": "input.n > 0"}},
            {"id": "never", "type": "logic.transform", "config": {"expression": "1"}},
            {"id": "each", "type": "logic.for_each", "config": {"items": "[1, 2, 3]", "concurrency": 2,
                "connections": [{"from": "double", "to": "keep"}],
                "nodes": [
                    {"id": "double", "type": "logic.transform", "config": {"expression": "item * 2"}},
                    {"id": "keep", "type": "action.file", "idempotent": true, "config":
                        {"operation": "write", "path": "{{ index }}.txt", "content": "{{ nodes.double.output }}"}}]}},
            {"id": "rest", "type": "logic.wait", "config": {"duration_ms": 1}},
            {"id": "read", "type": "action.file", "on_error": {"action": "continue", "value": "none"},
                "retry": {"max_retries": 1, "backoff_ms": [1]},
                "config": {"operation": "read", "path": "absent.txt"}},
        ],
        "connections": [
            {"from": "choose", "to": "each", "port": "true"},
            {"from": "choose", "to": "never", "port": "false"},
            {"from": "each", "to": "rest"}, {"from": "rest", "to": "read"}],
    })
}

async fn ended(person: &Person, workflow: &str, data: &Value) -> Answer {
    let body = json!({"workflow_id": workflow, "trigger_data": data});
    let id = person.post("/executions", &body).await.expect(202).id();
    person.until(&format!("/executions/{id}"), |body| body["finished_at"].is_string()).await
}

async fn history(person: &Person, id: &str) -> Vec<Value> {
    let page = person.get(&format!("/executions/{id}/events?limit=200")).await.expect(200);
    assert_eq!(page.body["next_cursor"], Value::Null, "one page is enough for a test");
    page.items().to_vec()
}

/// What the events say of the nodes, by the plainest possible reading of them.
fn read_plainly(events: &[Value]) -> BTreeMap<String, &'static str> {
    let mut nodes = BTreeMap::new();
    for event in events {
        let data = &event["data"];
        let kind = event["type"].as_str().unwrap().rsplit('.').nth(1).unwrap();
        let status = match kind {
            "node_started" => "running",
            "node_completed" => "completed",
            "node_failed" if data["retry_at"].is_string() => "retrying",
            "node_failed" => "failed",
            "node_skipped" => "skipped",
            "timer_set" if data["kind"] == "wait" => "waiting",
            "timer_fired" if data["kind"] == "wait" => "running",
            _ => continue,
        };
        nodes.insert(data["path"].as_str().unwrap().to_owned(), status);
    }
    nodes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_execution_at_any_position_is_what_its_events_prove_up_to_there() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let workflow = ada.make_workflow(&varied()).await;
    let run = ended(&ada, &workflow, &json!({"n": 1})).await;
    assert_eq!(run.body["status"], "completed", "{run:?}");
    assert!(run.body["worker"].is_string() && run.body["claim"].is_i64(), "who ran it stays known");
    let id = run.id();
    let events = history(&ada, &id).await;
    for (index, event) in events.iter().enumerate() {
        let position = event["position"].as_i64().unwrap();
        let then = ada.get(&format!("/executions/{id}?at_position={position}")).await.expect(200);
        assert_eq!(then.body["version"], event["streamversion"]);
        assert_eq!(then.body["finished_at"].is_string(), index + 1 == events.len());
        assert_eq!(then.position(), position);
        let path = format!("/executions/{id}/nodes?limit=200&at_position={position}");
        let nodes = ada.get(&path).await.expect(200);
        let shown = nodes.items().iter().map(|node| (node.text_of("path"), node.text_of("status")));
        let proved = read_plainly(&events[..=index]);
        assert_eq!(
            shown.collect::<BTreeMap<_, _>>(),
            proved.into_iter().map(|(path, status)| (path, status.to_owned())).collect(),
            "at {position}"
        );
        assert_eq!(nodes.body["total"], nodes.items().len());
    }
    // Not the position of an answer: that is what it reflects at least.
    let last = events.last().unwrap()["position"].as_i64().unwrap();
    let now = ada.get(&format!("/executions/{id}/nodes?limit=200&min_position={last}")).await;
    let then = ada.get(&format!("/executions/{id}/nodes?limit=200&at_position={last}")).await;
    assert_eq!(now.items(), then.items(), "the fold is the table");
    let time = events.last().unwrap()["time"].as_str().unwrap();
    let by_time = ada.get(&format!("/executions/{id}/nodes?limit=200&at={time}")).await;
    assert_eq!(by_time.items(), now.items());

    let mut paged = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/executions/{id}/nodes?limit=2&at_position={last}{cursor}");
        let page = ada.get(&path).await.expect(200);
        assert!(page.items().len() <= 2);
        paged.extend(page.items().to_vec());
        match page.body["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(paged, now.items());
}

/// A field of a node as text.
trait TextOf {
    fn text_of(&self, field: &str) -> String;
}

impl TextOf for Value {
    fn text_of(&self, field: &str) -> String {
        self[field].as_str().unwrap_or_default().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_past_has_bounds_on_every_read_that_shows_it() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let workflow = ada.make_workflow(&greeting("First")).await;
    let run = ended(&ada, &workflow, &json!({"name": "x"})).await;
    let id = run.id();
    let requested = history(&ada, &id).await[0]["position"].as_i64().unwrap();
    for path in ["", "/nodes", "/output"] {
        let before =
            ada.get(&format!("/executions/{id}{path}?at_position={}", requested - 1)).await;
        before.is_problem(404, "not-found");
        let before = ada.get(&format!("/executions/{id}{path}?at=2020-01-01T00:00:00Z")).await;
        before.is_problem(404, "not-found");
        let never = ada.get(&format!("/executions/{id}{path}?at_position=999999")).await;
        never.is_problem(422, "position-unknown");
        let both = format!("/executions/{id}{path}?at=2020-01-01T00:00:00Z&at_position=1");
        ada.get(&both).await.is_problem(422, "invalid-value");
    }
    let not_yet = ada.get(&format!("/executions/{id}/output?at_position={requested}")).await;
    not_yet.is_problem(404, "not-found");

    let first = run.position();
    let seen = ada.get(&format!("/workflows/{workflow}")).await;
    let renamed = ada.put(&format!("/workflows/{workflow}"), &greeting("Second")).await.expect(200);
    let then = ada.get(&format!("/workflows/{workflow}?at_position={first}")).await.expect(200);
    assert_eq!((&then.body["name"], &then.body["version"]), (&json!("First"), &json!(1)));
    assert_eq!(then.header("etag"), seen.header("etag"));
    ada.get(&format!("/workflows/{workflow}?at_position=1")).await.is_problem(404, "not-found");

    let workspace = ada.make_workspace("Old").await;
    let made = ada.get(&format!("/workspaces/{workspace}")).await.position();
    let of = format!("/workspaces/{workspace}");
    ada.patch(&of, &json!({"name": "New"})).await.expect(200);
    let then = ada.get(&format!("{of}?at_position={made}")).await.expect(200);
    assert_eq!(then.body["name"], "Old");
    let then = ada.get(&format!("{of}/members?at_position={made}")).await.expect(200);
    assert_eq!(then.items().len(), 1);
    for path in ["", "/members"] {
        let before = ada.get(&format!("{of}{path}?at_position={}", renamed.position())).await;
        before.is_problem(404, "not-found");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_refuses_what_it_does_not_know() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let workflow = ada.make_workflow(&waiting("Wait")).await;
    let id = ada.command(&format!("/workflows/{workflow}/start")).await.expect(202).id();
    for (path, parameter) in [
        (format!("/executions/{id}?zzz=1"), "/zzz"),
        (format!("/executions/{id}?limit=5"), "/limit"),
        (format!("/executions/{id}/why?at_position=1"), "/at_position"),
        (format!("/executions/{id}/events?at=2026-01-01T00:00:00Z"), "/at"),
        (format!("/executions/{id}/logs?at_position=1"), "/at_position"),
        ("/executions?at_position=1".to_owned(), "/at_position"),
        (format!("/workflows/{workflow}?verbose"), "/verbose"),
        (format!("/workflows/{workflow}/versions?at_position=1"), "/at_position"),
        ("/auth/me?dry_run=true".to_owned(), "/dry_run"),
        ("/node-kinds?kind=x".to_owned(), "/kind"),
        ("/log/events?category=exection".to_owned(), "/category"),
        ("/log/events?type=node_complete".to_owned(), "/type"),
    ] {
        let refused = ada.get(&path).await;
        refused.is_problem(422, "invalid-value");
        assert_eq!(refused.body["errors"][0]["pointer"], parameter, "{path}");
    }
    let ahead = ada.get(&format!("/stream?channel=execution:{id}&after=999999")).await;
    ahead.is_problem(422, "position-unknown");

    let named = [("x-correlation-id", "order 7/ä".trim_end_matches('ä'))];
    let cancel = format!("/executions/{id}/cancel");
    let cancelled = ada.send(Method::POST, &cancel, None, &named).await.expect(202);
    assert_eq!(cancelled.header("x-correlation-id"), "order 7/");
    let last = history(&ada, &id).await.pop().unwrap();
    assert!(uuid::Uuid::parse_str(last["correlationid"].as_str().unwrap()).is_ok(), "{last:?}");
    let absent = ada.send(Method::GET, "/executions/zzz", None, &named).await;
    assert_eq!(absent.body["correlation_id"], "order 7/");

    let large = json!({"workflow_id": workflow, "trigger_data": {"text": "x".repeat(9 << 20)}});
    let refused = ada.post("/executions", &large).await;
    refused.is_problem(422, "invalid-value");
    assert_eq!(refused.body["errors"][0]["pointer"], "/input");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn if_match_takes_a_list_and_a_star() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let workflow = ada.make_workflow(&greeting("First")).await;
    let path = format!("/workflows/{workflow}");
    let put = async |tag: &str, name: &str| {
        let body = greeting(name);
        ada.send(Method::PUT, &path, Some(&body), &[("if-match", tag)]).await
    };
    assert_eq!(put("\"7\", \"1\"", "Second").await.expect(200).header("etag"), "\"2\"");
    put("\"1\", \"7\"", "Third").await.is_problem(412, "stale-version");
    put("W/\"2\"", "Third").await.is_problem(412, "stale-version");
    put("\"not ours\"", "Third").await.is_problem(400, "malformed-request");
    put("\"other\"", "Third").await.is_problem(412, "stale-version");
    put("*", "Third").await.expect(200);
    put("3", "Fourth").await.is_problem(400, "malformed-request");
}
