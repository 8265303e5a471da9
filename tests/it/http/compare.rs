//! Two executions side by side, and one as a file.

use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::http::{Answer, Deployment, Person};

fn steps(last: &str) -> Value {
    json!({
        "name": "Steps",
        "nodes": [
            {"id": "first", "type": "logic.transform", "config": {"expression": "{'n': input.n, 'same': true}"}},
            {"id": "last", "type": "logic.transform", "config": {"expression": last}},
        ],
        "connections": [{"from": "first", "to": "last"}],
    })
}

async fn run(person: &Person, workflow: &str, data: &Value) -> Answer {
    let body = json!({"workflow_id": workflow, "trigger_data": data});
    let id = person.post("/executions", &body).await.expect(202).id();
    person.until(&format!("/executions/{id}"), |body| body["finished_at"].is_string()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_runs_are_held_side_by_side_whatever_their_versions() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let workflow = ada.make_workflow(&steps("nodes.first.output.n * 2")).await;
    let one = run(&ada, &workflow, &json!({"n": 1})).await.id();
    let same = run(&ada, &workflow, &json!({"n": 1})).await.id();
    let diff = async |with: &str, more: &str| {
        ada.get(&format!("/executions/{one}/diff?with={with}{more}")).await
    };
    let nothing = diff(&same, "").await.expect(200);
    assert_eq!(nothing.body["parting"], Value::Null, "{nothing:?}");
    assert_eq!(nothing.items().len(), 0);
    assert_eq!(nothing.body["counts"], json!({"same": 2, "changed": 0, "only_a": 0, "only_b": 0}));
    let all = diff(&same, "&all=true").await.expect(200);
    assert_eq!(all.items().len(), 3, "the run and its two nodes: {all:?}");
    assert!(all.items()[1]["duration_delta_ms"].is_i64());

    ada.put(&format!("/workflows/{workflow}"), &steps("nodes.first.output.n * 3"))
        .await
        .expect(200);
    let other = run(&ada, &workflow, &json!({"n": 5})).await.id();
    let found = diff(&other, "").await.expect(200);
    assert_eq!(found.body["parting"]["path"], "", "their inputs differ: {found:?}");
    assert_eq!(found.body["parting"]["a"]["type"], "execution_requested");
    assert_eq!(
        (&found.body["a"]["workflow_version"], &found.body["b"]["workflow_version"]),
        (&json!(1), &json!(2))
    );
    let first = found.items().iter().find(|node| node["path"] == "first").unwrap();
    assert_eq!(first["output"]["changes"], json!([{"pointer": "/n", "a": 1, "b": 5}]));
    let last = found.items().iter().find(|node| node["path"] == "last").unwrap();
    assert_eq!(last["output"]["changes"], json!([{"pointer": "", "a": 2, "b": 15}]));

    let page = diff(&other, "&limit=1").await.expect(200);
    assert_eq!(
        (page.items().len(), page.body["total"].as_u64()),
        (1, Some(found.items().len() as u64))
    );
    let cursor = page.text("next_cursor").to_owned();
    let next = diff(&other, &format!("&limit=200&cursor={cursor}")).await.expect(200);
    assert_eq!(next.items(), &found.items()[1..]);
    let rerun = ada.post(&format!("/executions/{one}/rerun"), &json!({"from_node": "last"})).await;
    let rerun = rerun.expect(202).id();
    ada.until(&format!("/executions/{rerun}"), |body| body["finished_at"].is_string()).await;
    let carried = diff(&rerun, "").await.expect(200);
    assert_eq!(carried.items().len(), 0, "what was carried is the same: {carried:?}");

    let eve = house.sign_up("eve").await;
    let theirs = eve.make_workflow(&steps("1")).await;
    let theirs = run(&eve, &theirs, &json!({"n": 1})).await.id();
    diff(&theirs, "").await.is_problem(404, "not-found");
    diff("zzz", "").await.is_problem(422, "invalid-value");
    ada.get(&format!("/executions/{one}/diff")).await.is_problem(422, "invalid-value");
    diff(&same, "&cursor=x").await.is_problem(422, "invalid-value");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_is_exported_as_one_file_that_proves_itself() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let body = json!({
        "name": "Large",
        "nodes": [{"id": "echo", "type": "logic.transform", "config": {"expression": "input.text"}}],
        "connections": [],
    });
    let workflow = ada.make_workflow(&body).await;
    let text = "x".repeat(300 * 1024);
    let id = run(&ada, &workflow, &json!({"text": text})).await.id();
    let events = ada.get(&format!("/executions/{id}/events?limit=200")).await;
    let file =
        ada.send(Method::GET, &format!("/executions/{id}/export"), None, &[]).await.expect(200);
    assert_eq!(file.header("content-type"), "application/x-ndjson");
    assert!(file.header("content-disposition").contains(&id), "{:?}", file.headers);
    let file = file.body.as_str().expect("several lines are not one JSON value");
    let lines: Vec<Value> = file.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of =
        |record: &str| lines.iter().filter(|line| line["record"] == record).collect::<Vec<_>>();
    assert_eq!(lines[0]["record"], "manifest");
    assert_eq!(
        (&lines[0]["format"], &lines[0]["status"]),
        (&json!("ledgerline.execution"), &json!("completed"))
    );
    assert_eq!(of("definition")[0]["definition"]["nodes"][0]["id"], "echo");
    let exported: Vec<Value> = of("event").iter().map(|line| line["event"].clone()).collect();
    assert_eq!(exported, events.items(), "the events as they are seen outside");
    let blobs = of("blob");
    assert_eq!(blobs.len(), 1, "one value stands in two events and once in the file");
    let end = lines.last().unwrap();
    assert_eq!(end["record"], "end");
    assert_eq!(end["events"], exported.len());
    let before = file.trim_end().rfind('\n').unwrap() + 1;
    let hash = Sha256::digest(&file.as_bytes()[..before]);
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(end["sha256"], hash);
    assert!(blobs[0]["content"].as_str().unwrap().len() > 300 * 1024);

    let none = ada.get(&format!("/executions/{id}/export?log_lines=0")).await.expect(200);
    assert!(none.body.as_str().unwrap().lines().all(|line| !line.contains("\"log_line\"")));
    let many = ada.get(&format!("/executions/{id}/export?log_lines=1000001")).await;
    many.is_problem(422, "invalid-value");
    let odd = ada.get(&format!("/executions/{id}/export?format=zip")).await;
    odd.is_problem(422, "invalid-value");
}
