//! Executions made from others over HTTP: run again from a node, on another version, with other values, and forked at any event.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::http::{Answer, Deployment, Person};

/// Three steps in a row that each say what they saw, and one beside them.
fn steps(last: &str) -> Value {
    json!({
        "name": "Steps",
        "nodes": [
            {"id": "first", "type": "logic.transform", "config": {"expression": "input.n"}},
            {"id": "keep", "type": "logic.set_variable", "config": {"name": "seen", "expression": "nodes.first.output"}},
            {"id": "last", "type": "logic.transform", "config": {"expression": last}},
            {"id": "beside", "type": "logic.transform", "config": {"expression": "'beside'"}},
        ],
        "connections": [{"from": "first", "to": "keep"}, {"from": "keep", "to": "last"}],
    })
}

async fn ended(person: &Person, id: &str) -> Answer {
    person.until(&format!("/executions/{id}"), |body| body["finished_at"].is_string()).await
}

async fn run(person: &Person, workflow: &str, data: &Value) -> Answer {
    let body = json!({"workflow_id": workflow, "trigger_data": data});
    let id = person.post("/executions", &body).await.expect(202).id();
    ended(person, &id).await
}

/// What was carried over, by path.
async fn carried(person: &Person, run: &Answer) -> Vec<String> {
    let position = run.position();
    let path = format!("/executions/{}/nodes?limit=200&min_position={position}", run.id());
    let nodes = person.get(&path).await.expect(200);
    let carried = nodes.items().iter().filter(|node| node["carried"] == true);
    let mut paths: Vec<String> =
        carried.map(|node| node["path"].as_str().unwrap().to_owned()).collect();
    paths.sort();
    paths
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_is_repeated_from_a_node_with_other_values_and_on_another_version() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let workflow = ada.make_workflow(&steps("nodes.first.output + vars.seen")).await;
    let first = run(&ada, &workflow, &json!({"n": 4})).await;
    assert_eq!(first.body["output"]["last"], 8, "{first:?}");
    let rerun = format!("/executions/{}/rerun", first.id());

    let again = ada.post(&rerun, &json!({"from_node": "last", "input": {"n": 100}})).await;
    let again = ended(&ada, &again.expect(202).id()).await;
    assert_eq!(again.body["output"]["last"], 8, "what was before it is as it was: {again:?}");
    assert_eq!(again.body["origin_kind"], "rerun");
    assert_eq!(again.body["origin_node"], "last");
    assert_eq!(carried(&ada, &again).await, ["beside", "first", "keep"]);
    let events = ada.get(&format!("/executions/{}/events", again.id())).await;
    assert_eq!(events.items()[0]["data"]["origin"]["execution_id"], json!(first.id()));

    let edit = json!({"from_node": "last", "node_input": {"expression": "vars.seen * 100"}});
    let edited = ada.post(&rerun, &edit).await.expect(202);
    let edited = ended(&ada, &edited.id()).await;
    assert_eq!(edited.body["output"]["last"], 400, "{edited:?}");
    let whole = ada.post(&format!("/executions/{}/rerun", edited.id()), &json!({})).await;
    let whole = ended(&ada, &whole.expect(202).id()).await;
    assert_eq!(whole.body["output"]["last"], 400, "the edit belongs to what that run did");

    ada.put(&format!("/workflows/{workflow}"), &steps("'new ' + string(vars.seen)"))
        .await
        .expect(200);
    let newer = ada.post(&rerun, &json!({"from_node": "last", "version": 2})).await.expect(202);
    let newer = ended(&ada, &newer.id()).await;
    assert_eq!(newer.body["output"]["last"], "new 4", "{newer:?}");
    let mut other = steps("1");
    other["nodes"][0]["config"]["expression"] = json!("input.n * 2");
    ada.put(&format!("/workflows/{workflow}"), &other).await.expect(200);
    let refused = ada.post(&rerun, &json!({"from_node": "last", "version": 3})).await;
    refused.is_problem(409, "rule-refused");
    assert_eq!(refused.body["rule"], "not_carried");
    assert_eq!(refused.body["errors"][0]["code"], "differs");
    assert!(
        refused.body["errors"][0]["detail"].as_str().unwrap().contains("`first`"),
        "{refused:?}"
    );

    for (body, pointer) in [
        (json!({"from_node": "nowhere"}), "/from_node"),
        (json!({"from_node": "each[0]/x"}), "/from_node"),
        (json!({"node_input": {}}), "/node_input"),
        (json!({"from_node": "last", "node_input": [1]}), "/node_input"),
        (
            json!({"from_node": "last", "node_input": {"expression": "1 +"}}),
            "/node_input/expression",
        ),
        (json!({"from_node": "last", "node_input": {"colour": 1}}), "/node_input/colour"),
    ] {
        let refused = ada.post(&rerun, &body).await;
        refused.is_problem(422, "invalid-value");
        assert_eq!(refused.body["errors"][0]["pointer"], pointer, "{body}: {refused:?}");
    }
    let plan = ada.post(&format!("{rerun}?dry_run=true"), &json!({"from_node": "last"})).await;
    assert_eq!(plan.expect(200).body["events"][0]["type"], "execution_requested");
}

/// Waits in the middle of a loop, after some of its items are done.
fn paused_loop() -> Value {
    json!({
        "name": "Loop",
        "nodes": [
            {"id": "before", "type": "logic.set_variable", "config": {"name": "factor", "expression": "input.n"}},
            {"id": "each", "type": "logic.for_each", "config": {"items": "[1, 2, 3]", "concurrency": 1,
                "connections": [{"from": "keep", "to": "times"}],
                "nodes": [
                    {"id": "keep", "type": "action.file", "config":
                        {"operation": "append", "path": "kept.txt", "content": "{{ item }}\n"}},
                    {"id": "times", "type": "logic.transform", "config": {"expression": "item * vars.factor"}}]}},
        ],
        "connections": [{"from": "before", "to": "each"}],
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_at_any_event_goes_on_from_there_and_does_nothing_twice() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let workflow = ada.make_workflow(&paused_loop()).await;
    let origin = run(&ada, &workflow, &json!({"n": 10})).await;
    assert_eq!(origin.body["output"], json!([10, 20, 30]), "{origin:?}");
    let events = ada.get(&format!("/executions/{}/events?limit=200", origin.id())).await;
    let events = events.items().to_vec();
    let fork = format!("/executions/{}/fork", origin.id());
    for (index, event) in events.iter().enumerate() {
        let body = json!({"event_id": event["id"], "variables": {"factor": 7}});
        let answer = ada.post(&fork, &body).await;
        if index + 1 == events.len() {
            answer.is_problem(409, "rule-refused");
            assert_eq!(answer.body["rule"], "nothing_to_fork");
            continue;
        }
        let forked = ended(&ada, &answer.expect(202).id()).await;
        assert_eq!(forked.body["status"], "completed", "{forked:?}");
        assert_eq!(forked.body["origin_kind"], "fork");
        assert_eq!(forked.body["origin_version"], event["streamversion"]);
        let done = carried(&ada, &forked).await;
        // `before` sets the factor again where it was not done; an item that was done keeps what it came to.
        let has = |path: &str| done.iter().any(|done| done == path);
        let factor = if has("before") { 7 } else { 10 };
        let closed = origin_had_closed(&events[..=index]);
        let item = |item: usize| match closed || has(&format!("each[{item}]/times")) {
            true => (item + 1) * 10,
            false => (item + 1) * factor,
        };
        assert_eq!(forked.body["output"], json!([item(0), item(1), item(2)]), "{done:?}");
        let again = ada.get(&format!("/executions/{}/events?limit=200", forked.id())).await;
        let started = again
            .items()
            .iter()
            .filter(|event| event["type"] == "ledgerline.execution.node_started.v1");
        for started in started {
            let path = started["data"]["path"].as_str().unwrap().to_owned();
            assert!(!done.contains(&path) || path == "each", "{path} was done already: {done:?}");
        }
    }

    let middle = events.iter().position(|event| event["data"]["path"] == "each[1]/keep").unwrap();
    let position = events[middle]["position"].as_i64().unwrap();
    let by_position = ada.post(&fork, &json!({"at_position": position})).await.expect(202);
    let by_position = ended(&ada, &by_position.id()).await;
    assert_eq!(by_position.body["output"], json!([10, 20, 30]));
    assert!(carried(&ada, &by_position).await.contains(&"each[0]/keep".to_owned()));
    let stranger = run(&ada, &workflow, &json!({"n": 1})).await;
    let requested = events[0]["position"].as_i64().unwrap();
    for (body, status, slug) in [
        (json!({}), 422, "invalid-value"),
        (json!({"at_position": position, "event_id": events[0]["id"]}), 422, "invalid-value"),
        (json!({"at_position": 999_999}), 422, "position-unknown"),
        (json!({"at_position": requested - 1}), 422, "invalid-value"),
        (json!({"event_id": stranger.id()}), 422, "invalid-value"),
        (json!({"at_position": position, "variables": {"no name": 1}}), 422, "invalid-value"),
        (json!({"at_position": position, "version": 9}), 404, "not-found"),
    ] {
        ada.post(&fork, &body).await.is_problem(status, slug);
    }
    let mut other = paused_loop();
    other["nodes"][1]["config"]["items"] = json!("[1, 2, 3, 4]");
    ada.put(&format!("/workflows/{workflow}"), &other).await.expect(200);
    let refused = ada.post(&fork, &json!({"at_position": position, "version": 2})).await;
    refused.is_problem(409, "rule-refused");
    assert!(refused.body["detail"].as_str().unwrap().contains("`each`"), "{refused:?}");
    let key = [("idempotency-key", "fork once")];
    let body = json!({"at_position": position});
    let one = ada.send(Method::POST, &fork, Some(&body), &key).await.expect(202);
    let two = ada.send(Method::POST, &fork, Some(&body), &key).await.expect(202);
    assert_eq!(one.id(), two.id());
}

/// Whether the loop itself had its output by then.
fn origin_had_closed(events: &[Value]) -> bool {
    let closed = "ledgerline.execution.node_completed.v1";
    events.iter().any(|event| event["type"] == closed && event["data"]["path"] == "each")
}
