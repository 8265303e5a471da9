//! One action on many executions.

use std::time::Duration;

use ledgerline_api::bulk::{self, Bell, BulkAction, NewJob};
use ledgerline_domain::{id::WorkspaceId, permission::Role};
use reqwest::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::http::{Deployment, Person, waiting};

async fn started(person: &Person, workflow: &str, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(person.command(&format!("/workflows/{workflow}/start")).await.expect(202).id());
    }
    ids
}

async fn finished(person: &Person, job: &str) -> Value {
    let path = format!("/executions/bulk/{job}");
    person.until(&path, |body| body["status"] == "finished").await.body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_executions_are_stopped_and_run_again_with_a_result_for_each() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let workflow = ada.make_workflow(&waiting("Wait")).await;
    let ids = started(&ada, &workflow, 5).await;

    let cancel = json!({"action": "cancel", "filter": {"workflow_id": workflow}});
    let planned = ada.post("/executions/bulk?dry_run=true", &cancel).await.expect(200);
    assert_eq!(planned.body["total"], 5, "{planned:?}");
    assert_eq!(planned.body["sample"].as_array().map(Vec::len), Some(5));
    let shown = ada.get(&format!("/executions/{}", ids[0])).await.expect(200);
    assert_ne!(shown.body["status"], "cancelled", "a dry run does nothing");

    let key = [("idempotency-key", "stop-all")];
    let begun = ada.send(Method::POST, "/executions/bulk", Some(&cancel), &key).await.expect(202);
    let job = begun.id();
    assert_eq!(begun.header("location"), format!("/api/v1/executions/bulk/{job}"));
    let done = finished(&ada, &job).await;
    assert_eq!((&done["total"], &done["done"]), (&json!(5), &json!(5)), "{done}");
    assert_eq!((&done["succeeded"], &done["failed"]), (&json!(5), &json!(0)), "{done}");
    for id in &ids {
        ada.until(&format!("/executions/{id}"), |body| body["status"] == "cancelled").await;
    }
    let again = ada.send(Method::POST, "/executions/bulk", Some(&cancel), &key).await.expect(202);
    assert_eq!(again.id(), job, "the same job");
    let other = json!({"action": "pause"});
    let other = ada.send(Method::POST, "/executions/bulk", Some(&other), &key).await;
    other.is_problem(422, "idempotency-key-reused");

    // What has ended can't be paused: each says why.
    let named = json!({"action": "pause", "filter": {"ids": ids, "status": "cancelled"}});
    let job = ada.post("/executions/bulk", &named).await.expect(202).id();
    assert_eq!(finished(&ada, &job).await["failed"], 5);
    let results = format!("/executions/bulk/{job}/results?outcome=failed&limit=2");
    let page = ada.get(&results).await.expect(200);
    assert_eq!(page.body["total"], 5, "{page:?}");
    assert_eq!(page.items()[0]["detail"], "the execution has ended: cancelled");
    let next = page.text("next_cursor").to_owned();
    let rest = ada.get(&format!("{results}&cursor={next}")).await.expect(200);
    assert_eq!(rest.items().len(), 2);
    assert_ne!(rest.items()[0]["execution_id"], page.items()[0]["execution_id"]);

    // Each is run again once, and the result names what it became.
    let rerun = json!({"action": "rerun", "filter": {"ids": ids[..2]}});
    let job = ada.post("/executions/bulk", &rerun).await.expect(202).id();
    assert_eq!(finished(&ada, &job).await["succeeded"], 2);
    let page = ada.get(&format!("/executions/bulk/{job}/results")).await.expect(200);
    for result in page.items() {
        let made = result["made_execution_id"].as_str().expect("an execution was made");
        let made = ada.get(&format!("/executions/{made}")).await.expect(200);
        assert_eq!(made.body["origin_execution_id"], result["execution_id"], "{made:?}");
    }
    let resume = json!({"action": "resume"});
    let job = ada.post("/executions/bulk", &resume).await.expect(202).id();
    assert_eq!(finished(&ada, &job).await["total"], 0, "nothing is paused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_members_with_the_right_begin_and_see_a_job() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let workspace = ada.make_workspace("Operations").await;
    let here = [("ledgerline-workspace", workspace.as_str())];
    let (eve, mallory) = (house.sign_up("eve").await, house.sign_up("mallory").await);
    house.let_in(&ada, &workspace, &eve, Role::Viewer).await;
    let cancel = json!({"action": "cancel"});
    let refused = eve.send(Method::POST, "/executions/bulk", Some(&cancel), &here).await;
    refused.is_problem(403, "forbidden");
    let begun = ada.send(Method::POST, "/executions/bulk", Some(&cancel), &here).await.expect(202);
    let path = format!("/executions/bulk/{}", begun.id());
    eve.get(&path).await.expect(200);
    eve.get(&format!("{path}/results")).await.expect(200);
    mallory.get(&path).await.is_problem(404, "not-found");
    mallory.get(&format!("{path}/results")).await.is_problem(404, "not-found");
    let wrong = json!({"action": "cancel", "filter": {"search": "x".repeat(256)}});
    ada.post("/executions/bulk", &wrong).await.is_problem(422, "invalid-value");
    ada.get(&format!("{path}/results?cursor=x")).await.is_problem(422, "invalid-value");
}

/// A runner that dies in the middle of a batch leaves no item half done and none done twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_survives_the_death_of_whoever_carries_it_out() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let workflow = ada.make_workflow(&waiting("Wait")).await;
    let ids = started(&ada, &workflow, 40).await;
    for id in &ids {
        ada.post(&format!("/executions/{id}/cancel"), &json!({})).await.expect(202);
    }
    for id in &ids {
        ada.until(&format!("/executions/{id}"), |body| body["status"] == "cancelled").await;
    }
    let job = NewJob {
        id: Uuid::now_v7(),
        workspace: WorkspaceId(ada.workspace.0),
        requested_by: ada.user_id,
        by_service_account: false,
        action: BulkAction::Rerun,
        body_hash: [0; 32],
        executions: ids.iter().map(|id| id.parse().expect("an id")).collect(),
        now: chrono::Utc::now(),
    };
    let pool = &house.pool().await;
    // Others that die while they work on it: a dropped runner is one that nobody will hear of again.
    bulk::write_down(pool, &job, &Bell::default()).await.expect("the database is there");
    for wait in [1, 5, 20] {
        let commands = house.elsewhere().clone();
        let doomed = bulk::run(commands, pool.clone(), Bell::default(), CancellationToken::new());
        let _died = tokio::time::timeout(Duration::from_millis(wait), doomed).await;
    }
    let done = finished(&ada, &job.id.to_string()).await;
    assert_eq!(done["succeeded"], 40, "{done}");
    let list = format!("/executions?workflow_id={workflow}&limit=200");
    ada.until(&list, |body| body["total"].as_i64() >= Some(80)).await;
    assert_eq!(ada.get(&list).await.body["total"], 80, "each was run again once");
    let rewritten = bulk::write_down(pool, &job, &Bell::default()).await.expect("it is there");
    assert!(!rewritten, "a job is written down once");
}
