//! An execution that was exported elsewhere: opened as it was, and run again as a regression.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::http::{Answer, Deployment, Person};

fn steps(last: &str) -> Value {
    json!({
        "name": "Steps",
        "nodes": [
            {"id": "begin", "type": "trigger.manual"},
            {"id": "first", "type": "logic.transform", "config": {"expression": "{'n': input.n, 'same': true}"}},
            {"id": "last", "type": "logic.transform", "config": {"expression": last}},
        ],
        "connections": [{"from": "begin", "to": "first"}, {"from": "first", "to": "last"}],
    })
}

async fn exported(person: &Person, last: &str) -> (String, String) {
    let workflow = person.make_workflow(&steps(last)).await;
    let body = json!({"workflow_id": workflow, "trigger_data": {"n": 21}});
    let id = person.post("/executions", &body).await.expect(202).id();
    person.until(&format!("/executions/{id}"), |body| body["finished_at"].is_string()).await;
    let file = person.get(&format!("/executions/{id}/export")).await.expect(200);
    (id, file.body.as_str().expect("several lines are not one JSON value").to_owned())
}

async fn import(person: &Person, file: &str, more: &str) -> Answer {
    let path = format!("/api/v1/executions/import{more}");
    let headers = [("content-type", "application/x-ndjson")];
    person.send_raw(Method::POST, &path, Some(file.as_bytes().to_vec()), &headers).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exported_run_opens_elsewhere_as_it_was() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let bob = house.sign_up("bob").await;
    let (original, file) = exported(&ada, "nodes.first.output.n * 2").await;

    let dry = import(&bob, &file, "?dry_run=true").await.expect(200);
    assert_eq!(dry.body["output"], 42);
    assert_eq!(bob.get("/imported-executions").await.expect(200).body["total"], 0);

    let made = import(&bob, &file, "").await.expect(201);
    let id = made.body["imported"]["id"].as_str().unwrap().to_owned();
    assert_eq!(made.header("location"), format!("/api/v1/imported-executions/{id}"));
    let again = import(&bob, &file, "").await.expect(201);
    assert_eq!(again.body["imported"], made.body["imported"], "the same file is the same import");
    let listed = bob.get("/imported-executions").await.expect(200);
    assert_eq!(listed.items(), [made.body["imported"].clone()]);
    assert_eq!(listed.items()[0]["execution_id"], original.as_str());
    assert_eq!(listed.items()[0]["workflow_name"], "Steps");

    let shown = bob.get(&format!("/imported-executions/{id}")).await.expect(200);
    assert_eq!(
        (&shown.body["status"], &shown.body["input"]),
        (&json!("completed"), &json!({"n": 21}))
    );
    assert_eq!(shown.body["definition"]["nodes"][2]["id"], "last");
    let own = ada.get(&format!("/executions/{original}/events?limit=200")).await.expect(200);
    let events = bob.get(&format!("/imported-executions/{id}/events?limit=200")).await.expect(200);
    assert_eq!(events.items(), own.items());
    let first = bob.get(&format!("/imported-executions/{id}/events?limit=2")).await.expect(200);
    let cursor = first.text("next_cursor");
    let rest = format!("/imported-executions/{id}/events?limit=200&cursor={cursor}");
    assert_eq!(bob.get(&rest).await.expect(200).items(), &own.items()[2..]);
    let own = ada.get(&format!("/executions/{original}/nodes")).await.expect(200);
    let nodes = bob.get(&format!("/imported-executions/{id}/nodes")).await.expect(200);
    assert_eq!((nodes.items(), &nodes.body["total"]), (own.items(), &own.body["total"]));
    let page = bob.get(&format!("/imported-executions/{id}/nodes?limit=2")).await.expect(200);
    let cursor = page.text("next_cursor");
    let rest = bob.get(&format!("/imported-executions/{id}/nodes?limit=2&cursor={cursor}")).await;
    assert_eq!([page.items(), rest.expect(200).items()].concat(), own.items());
    bob.get(&format!("/imported-executions/{id}/logs")).await.expect(200);

    ada.get(&format!("/imported-executions/{id}")).await.is_problem(404, "not-found");
    ada.delete(&format!("/imported-executions/{id}")).await.is_problem(404, "not-found");
    bob.delete(&format!("/imported-executions/{id}")).await.expect(204);
    bob.get(&format!("/imported-executions/{id}")).await.is_problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_altered_is_refused_with_every_place() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let (_, file) = exported(&ada, "nodes.first.output.n * 2").await;
    let altered = import(&ada, &file.replace("\"n\":21", "\"n\":22"), "").await;
    altered.is_problem(422, "invalid-value");
    let lines: Vec<&str> = file.lines().collect();
    assert_eq!(altered.pointers(), [format!("/{}", lines.len())], "{altered:?}");
    // A line that is missing leaves a gap, wrong counts and another hash.
    let missing = [&lines[..3], &lines[4..]].concat().join("\n");
    let missing = import(&ada, &missing, "").await;
    missing.is_problem(422, "invalid-value");
    assert!(missing.pointers().len() > 3, "{missing:?}");
    import(&ada, "", "").await.is_problem(422, "invalid-value");
    let path = "/api/v1/executions/import";
    let json = [("content-type", "application/json")];
    let sent = ada.send_raw(Method::POST, path, Some(file.into_bytes()), &json).await;
    sent.is_problem(415, "unsupported-media-type");
    assert_eq!(ada.get("/imported-executions").await.expect(200).body["total"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_imported_run_is_run_again_and_held_side_by_side() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let bob = house.sign_up("bob").await;
    let (_, file) = exported(&ada, "nodes.first.output.n * 2").await;
    let id = import(&bob, &file, "").await.expect(201).body["imported"]["id"].clone();
    let base = format!("/imported-executions/{}/regressions", id.as_str().unwrap());
    let held = async |run: &str| {
        bob.until(&format!("/executions/{run}"), |body| body["finished_at"].is_string()).await;
        bob.get(&format!("{base}/{run}")).await.expect(200)
    };

    // On a workflow that is made of the file, once.
    let started = bob.command(&base).await.expect(202);
    let same = held(&started.id()).await;
    assert_eq!(
        (&same.body["verdict"], &same.body["differing"]),
        (&json!("same"), &json!([])),
        "{same:?}"
    );
    let once_more = bob.command(&base).await.expect(202);
    assert_eq!(once_more.body["workflow_id"], started.body["workflow_id"]);
    let made = bob.get("/workflows?tag=imported").await.expect(200);
    assert_eq!(made.items()[0]["name"], "Steps (imported)");

    // On a workflow that does something else.
    let other = bob.make_workflow(&steps("nodes.first.output.n * 3")).await;
    let started = bob.post(&base, &json!({"workflow_id": other})).await.expect(202);
    let differs = held(&started.id()).await;
    assert_eq!(differs.body["verdict"], "differs");
    assert_eq!(differs.body["differing"], json!(["", "last"]));
    let last = differs.body["diff"]["items"].as_array().unwrap().iter();
    let last = last.clone().find(|node| node["path"] == "last").unwrap();
    assert_eq!(last["output"]["changes"], json!([{"pointer": "", "a": 42, "b": 63}]));
    let listed = bob.get(&base).await.expect(200);
    assert_eq!(listed.body["total"], 3);

    let theirs = ada.make_workflow(&steps("1")).await;
    bob.post(&base, &json!({"workflow_id": theirs})).await.is_problem(422, "invalid-value");
    let theirs = ada.post("/executions", &json!({"workflow_id": theirs})).await.expect(202).id();
    bob.get(&format!("{base}/{theirs}")).await.is_problem(404, "not-found");
    ada.command(&base).await.is_problem(404, "not-found");
}
