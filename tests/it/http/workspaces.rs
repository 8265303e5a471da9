//! Workspaces over HTTP: who sees them, who may change them, and that a removal acts on the next request.

use ledgerline_domain::permission::Role;
use reqwest::Method;
use serde_json::json;

use crate::support::http::{Deployment, Person, greeting};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_workspace_is_seen_at_once_by_its_owner_and_by_nobody_else() {
    let house = Deployment::start().await;
    let (ada, bob) = (house.sign_up("ada").await, house.sign_up("bob").await);

    let body = json!({ "name": "Operations", "description": "What must run at night" });
    let made = ada.post("/workspaces", &body).await.expect(201);
    let id = made.id();
    assert_eq!(made.header("location"), format!("/api/v1/workspaces/{id}"));
    assert_eq!(made.header("etag"), "\"1\"");
    assert_eq!(made.body["role"], "owner");
    assert_eq!(made.body["member_count"], 1);
    assert_eq!(made.body["personal"], false);
    assert_eq!(made.body["created_by"], ada.user_id.to_string());

    let list = ada.get("/workspaces?sort=name").await.expect(200);
    assert_eq!(list.each("name"), ["Operations", "Personal"]);
    assert!(list.position() >= made.position());
    let one = ada.get(&format!("/workspaces/{id}")).await.expect(200);
    assert_eq!(one.body, made.body);
    assert_eq!(one.header("etag"), "\"1\"");
    let found = ada.get("/workspaces?search=NIGHT").await.expect(200);
    assert_eq!(found.each("id"), [id.as_str()]);

    let of_bob = bob.get("/workspaces").await.expect(200);
    assert_eq!(of_bob.each("name"), ["Personal"]);
    bob.get(&format!("/workspaces/{id}")).await.is_problem(404, "not-found");
    bob.get(&format!("/workspaces/{id}/members")).await.is_problem(404, "not-found");
    bob.get(&format!("/activity?workspace_id={id}")).await.is_problem(404, "not-found");
    let rename = json!({ "name": "Mine" });
    bob.patch(&format!("/workspaces/{id}"), &rename).await.is_problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rename_keeps_what_is_left_out_and_minds_the_version() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let body = json!({ "name": "Operations", "description": "Nights" });
    let path = format!("/workspaces/{}", ada.post("/workspaces", &body).await.expect(201).id());

    let renamed = ada.patch(&path, &json!({ "name": "Ops" })).await.expect(200);
    assert_eq!(renamed.body["name"], "Ops");
    assert_eq!(renamed.body["description"], "Nights");
    assert_eq!(renamed.header("etag"), "\"2\"");

    let stale = [("if-match", "\"1\"")];
    let body = json!({ "name": "Other" });
    let refused = ada.send(Method::PATCH, &path, Some(&body), &stale).await;
    refused.is_problem(412, "stale-version");
    let fresh = [("if-match", "\"2\"")];
    ada.send(Method::PATCH, &path, Some(&body), &fresh).await.expect(200);

    let same = ada.patch(&path, &json!({ "name": "Other" })).await.expect(200);
    assert_eq!(same.header("etag"), "\"3\"", "what is already true appends nothing");
    let invalid = ada.patch(&path, &json!({ "name": " " })).await;
    assert_eq!(invalid.pointers(), ["/name"]);
    let unknown = ada.patch(&path, &json!({ "owner": "me" })).await;
    assert_eq!(unknown.pointers(), ["/owner"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_shows_what_would_happen_and_the_plan_holds_the_command_to_it() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let id = ada.make_workspace("Operations").await;
    let path = format!("/workspaces/{id}");
    let body = json!({ "name": "Ops" });

    let plan = ada.patch(&format!("{path}?dry_run=true"), &body).await.expect(200);
    assert_eq!(plan.body["events"][0]["type"], "workspace_renamed");
    assert_eq!(plan.body["events"][0]["data"]["name"], "Ops");
    assert_eq!(plan.body["events"][0]["version"], 2);
    assert_eq!(plan.body["permissions"], json!(["edit_workspace"]));
    assert_eq!(plan.body["estimated_cost_microusd"], 0);
    assert_eq!(ada.get(&path).await.body["name"], "Operations", "nothing was appended");

    let hash = plan.text("plan_hash");
    let planned = [("if-plan", hash)];
    let other = json!({ "name": "Other" });
    let moved = ada.send(Method::PATCH, &path, Some(&other), &planned).await;
    moved.is_problem(412, "plan-changed");
    let done = ada.send(Method::PATCH, &path, Some(&body), &planned).await.expect(200);
    assert_eq!(done.body["name"], "Ops");

    let bob = house.sign_up("bob").await;
    bob.patch(&format!("{path}?dry_run=true"), &body).await.is_problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_are_changed_by_those_who_may_and_an_owner_remains() {
    let house = Deployment::start().await;
    let (ada, bob, eve) =
        (house.sign_up("ada").await, house.sign_up("bob").await, house.sign_up("eve").await);
    let id = ada.make_workspace("Operations").await;
    house.let_in(&ada, &id, &bob, Role::Administrator).await;
    house.let_in(&ada, &id, &eve, Role::Viewer).await;
    let member = |who: &Person| format!("/workspaces/{id}/members/{}", who.user_id);

    let head = house.elsewhere().log().head().await.expect("the log answers").position;
    let listed = format!("/workspaces/{id}/members?min_position={head}");
    let listed = ada.get(&listed).await.expect(200);
    assert_eq!(listed.each("role"), ["owner", "administrator", "viewer"]);
    assert_eq!(listed.each("full_name"), ["ada", "bob", "eve"]);
    assert_eq!(listed.body["total"], 3);
    let owners = ada.get(&format!("/workspaces/{id}/members?role=owner")).await.expect(200);
    assert_eq!(owners.each("email"), ["ada@example.com"]);

    let editor = json!({ "role": "editor" });
    eve.patch(&member(&bob), &editor).await.is_problem(403, "forbidden");
    bob.patch(&member(&ada), &editor).await.is_problem(403, "forbidden");
    bob.patch(&member(&eve), &json!({ "role": "owner" })).await.is_problem(403, "forbidden");
    let raised = bob.patch(&member(&eve), &editor).await.expect(200);
    assert_eq!(raised.body["role"], "editor");
    assert_eq!(raised.body["full_name"], "eve");

    ada.patch(&member(&ada), &editor).await.refused_by("last_owner");
    ada.delete(&member(&ada)).await.refused_by("last_owner");
    let stranger = uuid::Uuid::now_v7();
    let nobody = ada.delete(&format!("/workspaces/{id}/members/{stranger}")).await;
    nobody.is_problem(404, "not-found");
    let of_personal = format!("/workspaces/{}/members/{}", ada.workspace, ada.user_id);
    ada.delete(&of_personal).await.refused_by("personal_workspace");

    eve.delete(&member(&eve)).await.expect(204);
    eve.get(&format!("/workspaces/{id}")).await.is_problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_by_another_process_acts_on_the_next_request() {
    let house = Deployment::start().await;
    let (ada, bob) = (house.sign_up("ada").await, house.sign_up("bob").await);
    let id = ada.make_workspace("Operations").await;
    house.let_in(&ada, &id, &bob, Role::Editor).await;
    let of_workspace = [("ledgerline-workspace", id.as_str())];
    let make = async |name: &str| {
        bob.send(Method::POST, "/workflows", Some(&greeting(name)), &of_workspace).await
    };
    let workflow = make("Greet").await.expect(201).id();
    bob.get(&format!("/workflows/{workflow}")).await.expect(200);

    house.take_out(&ada, &id, &bob).await;
    bob.get(&format!("/workflows/{workflow}")).await.is_problem(404, "not-found");
    bob.get(&format!("/workflows?workspace_id={id}")).await.is_problem(404, "not-found");
    bob.get(&format!("/workspaces/{id}")).await.is_problem(404, "not-found");
    make("Again").await.is_problem(404, "not-found");
    bob.command(&format!("/workflows/{workflow}/publish")).await.is_problem(404, "not-found");

    house.let_in(&ada, &id, &bob, Role::Viewer).await;
    bob.get(&format!("/workflows/{workflow}")).await.expect(200);
    bob.command(&format!("/workflows/{workflow}/publish")).await.is_problem(403, "forbidden");
    make("Again").await.is_problem(403, "forbidden");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_past_is_answered_as_it_was() {
    let house = Deployment::start().await;
    let (ada, bob) = (house.sign_up("ada").await, house.sign_up("bob").await);
    let made = ada.post("/workspaces", &json!({ "name": "Operations" })).await.expect(201);
    let (id, position) = (made.id(), made.position());
    house.let_in(&ada, &id, &bob, Role::Editor).await;
    let path = format!("/workspaces/{id}");
    ada.patch(&path, &json!({ "name": "Ops" })).await.expect(200);

    let then = ada.get(&format!("{path}?at_position={position}")).await.expect(200);
    assert_eq!(then.body["name"], "Operations");
    assert_eq!(then.body["member_count"], 1);
    assert_eq!(then.position(), position);
    let members = ada.get(&format!("{path}/members?at_position={position}")).await.expect(200);
    assert_eq!(members.each("full_name"), ["ada"]);
    let time = made.text("created_at");
    let then = ada.get(&format!("{path}?at={time}")).await.expect(200);
    assert_eq!(then.body["name"], "Operations");

    let before = ada.get(&format!("{path}?at_position={}", position - 1)).await;
    before.is_problem(404, "not-found");
    ada.get(&format!("{path}?at_position=999999")).await.is_problem(422, "position-unknown");
    let other_log = format!("{path}?at_position={}:1:1", uuid::Uuid::now_v7());
    ada.get(&other_log).await.is_problem(422, "position-unknown");
    let page = ada.get(&format!("{path}/members?at={time}&limit=1")).await.expect(200);
    assert!(page.body["next_cursor"].is_null());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_feed_says_who_did_what() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let workflow = ada.make_workflow(&greeting("Greet")).await;
    ada.command(&format!("/workflows/{workflow}/publish")).await.expect(200);
    let feed = ada.get("/activity").await.expect(200);
    assert_eq!(
        feed.each("action"),
        ["workflow_published", "workflow_created", "workspace_created"]
    );
    assert_eq!(feed.items()[0]["actor"]["user_id"], ada.user_id.to_string());
    let first = ada.get("/activity?limit=1").await.expect(200);
    let rest = format!("/activity?limit=5&cursor={}", first.text("next_cursor"));
    assert_eq!(
        ada.get(&rest).await.expect(200).each("action"),
        ["workflow_created", "workspace_created"]
    );
    let of_one = format!("/activity?resource_id={workflow}&action=workflow_created");
    assert_eq!(ada.get(&of_one).await.expect(200).items().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_reaches_what_it_was_made_for() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let (one, other) = (ada.make_workspace("One").await, ada.make_workspace("Other").await);
    let key = json!({ "name": "k", "scopes": ["read", "write"], "workspace_id": one });
    let key = ada.with_key(&key).await;
    assert_eq!(key.get("/workspaces").await.expect(200).each("id"), [one.as_str()]);
    key.get(&format!("/workspaces/{one}")).await.expect(200);
    key.get(&format!("/workspaces/{other}")).await.is_problem(404, "not-found");
    key.post("/workspaces", &json!({ "name": "Third" })).await.is_problem(403, "forbidden");
    let rename = json!({ "name": "Renamed" });
    key.patch(&format!("/workspaces/{one}"), &rename).await.is_problem(403, "forbidden");

    let made = key.post("/workflows", &greeting("Greet")).await.expect(201);
    assert_eq!(made.body["workspace_id"], one.as_str(), "its only workspace is its default");
    let start = key.command(&format!("/workflows/{}/start", made.id())).await;
    start.is_problem(403, "forbidden");
    let reader = ada.with_key(&json!({ "name": "r", "scopes": ["read"] })).await;
    reader.get(&format!("/workflows/{}", made.id())).await.expect(200);
    reader.post("/workflows", &greeting("Greet")).await.is_problem(403, "forbidden");
}
