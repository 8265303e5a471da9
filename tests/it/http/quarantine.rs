//! Streams that wait behind an event that a read model can't apply, and how operators let them go on.

use ledgerline_domain::permission::Role;
use ledgerline_store::{
    EventLog, Intent, NewEvent, StreamId, StreamVersion, StreamWrite, Workspace,
};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::http::{Deployment, Person};

/// Writes the role of somebody who is no member into a workspace's stream, as a defect would. Returns the position.
async fn broken(house: &Deployment, by: &Person, workspace: &str) -> i64 {
    let log: &dyn EventLog = house.elsewhere().log().as_ref();
    let stream = StreamId(workspace.parse().unwrap());
    let events = log.read_stream(stream, StreamVersion::NEW, 1_000).await.unwrap();
    let last = events.last().expect("the workspace is there");
    let event = NewEvent {
        event_id: Uuid::now_v7(),
        r#type: "member_role_changed",
        schema_version: 1,
        payload: json!({ "user_id": Uuid::now_v7(), "role": "editor" }).to_string(),
        metadata: json!({
            "actor": { "kind": "human", "user_id": by.user_id }, "correlation_id": Uuid::now_v7(),
        })
        .to_string(),
    };
    let write = StreamWrite {
        workspace: Workspace(stream.0),
        stream,
        category: "workspace",
        expected: last.version,
        events: vec![event],
    };
    let intent = Intent { writes: vec![write], ..Intent::default() };
    log.append(intent).await.unwrap().position.0
}

/// What waits in the read model of members, as `GET /system` has it once that reflects a position.
async fn held(operator: &Person, position: i64) -> Vec<Value> {
    // Any read of the rows of members waits for them; what waits is then told.
    let path = format!("/workspaces?min_position={position}");
    while operator.get(&path).await.status == 503 {}
    let shown = operator.get("/system").await.expect(200);
    let all = shown.body["quarantine"].as_array().unwrap().clone();
    all.into_iter().filter(|held| held["projection"] == "members").collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_in_quarantine_is_tried_again_and_let_go_on() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let bob = house.sign_up("bob").await;
    let shared = ada.make_workspace("Shared").await;
    let first = broken(&house, &ada, &shared).await;
    house.let_in(&ada, &shared, &bob, Role::Viewer).await;
    let second = broken(&house, &ada, &shared).await;
    let waiting = held(&ada, second).await;
    assert_eq!((waiting.len(), &waiting[0]["position"]), (1, &json!(first)), "{waiting:?}");
    assert_eq!(waiting[0]["key"], shared);
    let members = format!("/workspaces/{shared}/members");
    assert_eq!(ada.get(&members).await.items().len(), 1, "what comes after it waits");

    let path = |word: &str| format!("/system/projections/members/quarantine/{shared}/{word}");
    let reason = json!({ "reason": "written by a defect that is mended" });
    for (word, body) in [("retry", None), ("skip", Some(&reason))] {
        let refused = bob.send(Method::POST, &path(word), body, &[]).await;
        refused.is_problem(403, "forbidden");
    }
    ada.command(&path("retry")).await.refused_by("event_not_applicable");
    for wrong in [json!({ "reason": "  " }), json!({ "reason": "x".repeat(1_001) })] {
        assert_eq!(ada.post(&path("skip"), &wrong).await.pointers(), ["/reason"]);
    }
    let plan = ada.post(&format!("{}?dry_run=true", path("skip")), &reason).await.expect(200);
    assert_eq!(plan.body["events"][0]["type"], "projection_event_skipped");
    assert_eq!(held(&ada, second).await, waiting, "a dry run changes nothing");

    // The first is left out, which the log says too; the second waits in its place. The same request again gives the same answer.
    let key = [("idempotency-key", "skip-the-first")];
    let skipped = ada.send(Method::POST, &path("skip"), Some(&reason), &key).await.expect(200);
    assert!(
        [json!(second), Value::Null].contains(&skipped.body["held"]["position"]),
        "{skipped:?}"
    );
    // The second is met by whoever leads next, where the checkpoint was before it.
    let waits = |held: &Value| held["position"] == second && held["skipped_at"].is_null();
    ada.until("/system", |shown| shown["quarantine"].as_array().unwrap().iter().any(waits)).await;
    let again = ada.send(Method::POST, &path("skip"), Some(&reason), &key).await.expect(200);
    assert_eq!(again.body["held"]["position"], second, "{again:?}");
    assert_eq!(ada.get(&members).await.items().len(), 2, "what lies between is applied");
    let told = ada.get("/log/events?type=projection_event_skipped").await.expect(200);
    assert_eq!(told.items().len(), 1, "{told:?}");
    assert_eq!(
        told.items()[0]["data"],
        json!({ "model": "members", "key": shared, "position": first, "reason": reason["reason"] })
    );
    assert_eq!(told.items()[0]["actor"], format!("human:{}", ada.user_id));

    let skipped = ada.post(&path("skip"), &reason).await.expect(200);
    assert_eq!(skipped.body["held"], Value::Null, "{skipped:?}");
    let kept = held(&ada, second).await;
    assert!(kept.iter().all(|held| held["skip_reason"] == reason["reason"]), "{kept:?}");
    ada.command(&path("retry")).await.is_problem(404, "not-found");
    ada.post(&path("skip"), &reason).await.is_problem(404, "not-found");
    let nothing = format!("/system/projections/nothing/quarantine/{shared}/retry");
    ada.command(&nothing).await.is_problem(404, "not-found");

    // A rebuild leaves out the same.
    ada.command("/projections/members/rebuild").await.expect(202);
    ada.until("/projections/members", |shown| shown["rebuild"]["finished_at"].is_string()).await;
    assert_eq!(ada.get(&members).await.items().len(), 2);
    assert_eq!(held(&ada, second).await.len(), 2, "and says so as before");
}
