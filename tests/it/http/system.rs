//! What operators see and do: the state of the deployment, and rebuilds of read models while they are served.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::http::{Deployment, greeting};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_state_of_the_deployment_is_for_operators() {
    let house = Deployment::start().await;
    let operator = house.sign_up("ada").await;
    let bob = house.sign_up("bob").await;
    let shown = operator.get("/system").await;
    assert_eq!(shown.status.as_u16(), 200, "{shown:?}");
    assert_eq!(shown.body["log"]["head"].to_string(), shown.header("ledgerline-position"));
    assert!(shown.header("ledgerline-log").starts_with(shown.body["log"]["id"].as_str().unwrap()));
    let names = |field: &str| -> Vec<Value> {
        let all = shown.body[field].as_array().unwrap();
        all.iter().map(|one| one["name"].clone()).collect()
    };
    assert!(names("projections").contains(&json!("executions")), "{shown:?}");
    assert_eq!(names("readers"), ["relay", "work", "policies", "dispatch", "triggers"]);
    assert_eq!(shown.body["quarantine"], json!([]));
    for (method, path) in [
        (Method::GET, "/system"),
        (Method::GET, "/projections/executions"),
        (Method::POST, "/projections/executions/rebuild"),
    ] {
        bob.send(method, path, None, &[]).await.is_problem(403, "forbidden");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_model_is_rebuilt_while_it_is_served() {
    let house = Deployment::start().await;
    let operator = house.sign_up("ada").await;
    operator.make_workflow(&greeting("kept")).await;
    let begun = operator.command("/projections/workflows/rebuild").await;
    assert_eq!(begun.status.as_u16(), 202, "{begun:?}");
    assert_eq!(begun.header("location"), "/api/v1/projections/workflows");
    let done = async {
        loop {
            let shown = operator.get("/projections/workflows").await;
            if shown.body["rebuild"]["finished_at"].is_string() {
                return shown;
            }
            let listed = operator.get("/workflows").await;
            assert_eq!(listed.body["total"], 1, "it is served meanwhile: {listed:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let done = tokio::time::timeout(Duration::from_secs(60), done).await.expect("a rebuild ends");
    assert_eq!(done.body["rebuild"]["phase"], "done", "{done:?}");
    assert_eq!(done.body["rebuild"]["error"], Value::Null);
    let listed = operator.get("/workflows").await;
    assert_eq!(listed.body["items"][0]["name"], "kept", "{listed:?}");
    let unknown = operator.command("/projections/nothing/rebuild").await;
    unknown.is_problem(404, "not-found");
}
