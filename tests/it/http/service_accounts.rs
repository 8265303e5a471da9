//! Service accounts over HTTP: who makes them, what their keys may do, and that they stop on the next request.

use chrono::{TimeDelta, Utc};
use ledgerline_api::{
    clock::Clock,
    identity::{check::Presented, token},
};
use ledgerline_commands::{Context, Target};
use ledgerline_domain::{
    event::Actor,
    id::UserId,
    permission::Role,
    workspace::{SetStanding, Standing, Workspace, WorkspaceCommand},
};
use ledgerline_store::{Filter, Position};
use reqwest::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{
    app::identity_elsewhere,
    client::Client,
    http::{Answer, Deployment, Person, greeting},
};

const PATH: &str = "/auth/service-accounts";

async fn make(by: &Person, workspace: &str, role: &str) -> Answer {
    let body = json!({ "name": " nightly import ", "role": role });
    by.send(Method::POST, PATH, Some(&body), &[("ledgerline-workspace", workspace)]).await
}

/// A program with a key of an account.
async fn program(by: &Person, account: &str, scopes: &[&str]) -> Person {
    let body = json!({ "name": "k", "scopes": scopes });
    let made = by.post(&format!("{PATH}/{account}/api-keys"), &body).await.expect(201);
    let mut program = by.clone().with_token(made.text("key"));
    program.user_id = UserId(account.parse().expect("an id"));
    program
}

#[tokio::test]
async fn a_service_account_acts_by_its_keys_as_a_program() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let workspace = ada.make_workspace("Operations").await;
    let made = make(&ada, &workspace, "editor").await.expect(201);
    let account = made.id();
    assert_eq!(made.header("location"), format!("/api/v1{PATH}/{account}"));
    assert_eq!((made.text("name"), made.text("role")), ("nightly import", "editor"));
    assert_eq!(made.body["disabled"], false);
    assert_eq!(ada.get(&format!("{PATH}/{account}")).await.expect(200).body, made.body);
    let of_workspace = [("ledgerline-workspace", workspace.as_str())];
    let listed = ada.send(Method::GET, PATH, None, &of_workspace).await.expect(200);
    assert_eq!(listed.items(), std::slice::from_ref(&made.body));

    let importer = program(&ada, &account, &["read", "write"]).await;
    // Its workspace is the only one that it has, so it need not name it.
    let workflow = importer.post("/workflows", &greeting("Hello")).await.expect(201);
    assert_eq!(workflow.text("created_by"), account);
    let start = format!("/workflows/{}/start", workflow.id());
    importer.command(&start).await.is_problem(403, "forbidden");
    for path in ["/auth/me", "/auth/sessions", "/auth/api-keys"] {
        importer.get(path).await.is_problem(403, "forbidden");
    }
    // The log knows a program by its id, and not what people call it.
    let filter = Filter::default();
    let events = house.elsewhere().log().read(Position::START, 1_000, &filter);
    let (events, _) = events.await.expect("a read");
    let by_program = events.iter().filter(|event| event.metadata.contains(&account));
    for event in by_program.clone() {
        let actor: Value = serde_json::from_str(&event.metadata).expect("JSON");
        let expected = json!({ "kind": "agent", "name": "service_account", "user_id": account });
        assert_eq!(actor["actor"], expected, "{event:?}");
    }
    assert!(by_program.count() > 0);
    assert!(events.iter().all(|event| !event.payload.contains("nightly")), "{events:?}");

    let members = format!("/workspaces/{workspace}/members");
    let members = ada.until(&members, |body| body["total"] == 2).await;
    let shown = &members.items()[1];
    assert_eq!(shown["full_name"], "nightly import");
    assert_eq!((&shown["service_account"], &shown["email"]), (&json!(true), &Value::Null));
    let activity = format!("/activity?workspace_id={workspace}&user_id={account}");
    let activity = ada.until(&activity, |body| body["total"] != 0).await;
    assert_eq!(activity.items()[0]["actor"]["kind"], "agent");
}

#[tokio::test]
async fn who_manages_members_manages_service_accounts_and_nobody_makes_an_owner() {
    let house = Deployment::start().await;
    let (ada, bob) = (house.sign_up("ada").await, house.sign_up("bob").await);
    let (eve, stranger) = (house.sign_up("eve").await, house.sign_up("mallory").await);
    let workspace = ada.make_workspace("Operations").await;
    house.let_in(&ada, &workspace, &bob, Role::Administrator).await;
    house.let_in(&ada, &workspace, &eve, Role::Editor).await;
    let account = make(&bob, &workspace, "administrator").await.expect(201).id();
    make(&ada, &workspace, "owner").await.refused_by("service_account_owner");
    let change = format!("/workspaces/{workspace}/members/{account}");
    let owner = json!({ "role": "owner" });
    ada.patch(&change, &owner).await.refused_by("service_account_owner");
    make(&eve, &workspace, "viewer").await.is_problem(403, "forbidden");
    make(&stranger, &workspace, "viewer").await.is_problem(404, "not-found");
    let personal = ada.workspace.to_string();
    make(&ada, &personal, "viewer").await.refused_by("personal_workspace");

    let one = format!("{PATH}/{account}");
    let keys = format!("{one}/api-keys");
    let wanted = json!({ "name": "k", "scopes": ["read"] });
    for (path, method) in [(&keys, Method::POST), (&keys, Method::GET), (&one, Method::DELETE)] {
        let body = (method == Method::POST).then_some(&wanted);
        eve.send(method.clone(), path, body, &[]).await.is_problem(403, "forbidden");
        stranger.send(method, path, body, &[]).await.is_problem(404, "not-found");
    }
    // An editor sees who is in, and nothing of keys.
    eve.get(&one).await.expect(200);
    // What gives new access takes a person: a key makes neither accounts nor keys, however much it may.
    let robot = program(&bob, &account, &["read", "write", "execute", "admin"]).await;
    robot.post(&keys, &wanted).await.is_problem(403, "forbidden");
    make(&robot, &workspace, "viewer").await.is_problem(403, "forbidden");
    robot.command(&format!("{one}/enable")).await.is_problem(403, "forbidden");
    // Nothing was left of those that were refused.
    let pool = house.pool().await;
    let kept = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM service_accounts"#)
        .fetch_one(&pool)
        .await
        .expect("a count");
    assert_eq!(kept, 1);
}

#[tokio::test]
async fn a_disabled_account_is_out_on_the_next_request_in_every_process() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let workspace = ada.make_workspace("Operations").await;
    let account = make(&ada, &workspace, "viewer").await.expect(201).id();
    let robot = program(&ada, &account, &["read"]).await;
    let shown = format!("/workspaces/{workspace}");
    robot.get(&shown).await.expect(200);
    let stop = CancellationToken::new();
    let other = identity_elsewhere(house.pool().await, Clock::system(), &stop).await;
    let (id, hash) = token::parse_api_key(&robot.token).expect("a key");
    let presented = Presented::ApiKey(id, hash);
    assert!(other.check(presented).await.expect("an answer").is_some());

    let one = format!("{PATH}/{account}");
    let disabled = ada.command(&format!("{one}/disable")).await.expect(200);
    assert_eq!(disabled.body["disabled"], true);
    robot.get(&shown).await.is_problem(401, "unauthenticated");
    assert!(other.check(presented).await.expect("an answer").is_none());
    assert!(!other.api_key_is_good(id, Utc::now()).await.expect("an answer"));
    ada.command(&format!("{one}/enable")).await.expect(200);
    robot.get(&shown).await.expect(200);

    // Another process says so in the log alone: the role is gone at once, whatever the key says.
    let set =
        SetStanding { by: ada.user_id, account_id: robot.user_id, standing: Standing::Disabled };
    let target = Target::existing(workspace.parse::<Uuid>().expect("an id"));
    let context = Context::new(Actor::Human { user_id: ada.user_id });
    let command = WorkspaceCommand::SetStanding(set);
    let told = house.elsewhere().execute::<Workspace>(target, &command, &context);
    told.await.expect("it is disabled");
    robot.get(&shown).await.is_problem(404, "not-found");
    stop.cancel();
}

#[tokio::test]
async fn a_deleted_account_is_out_and_nothing_is_left_of_it() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let workspace = ada.make_workspace("Operations").await;
    let pool = house.pool().await;
    for by_members in [false, true] {
        let account = make(&ada, &workspace, "viewer").await.expect(201).id();
        let robot = program(&ada, &account, &["read"]).await;
        let path = match by_members {
            true => format!("/workspaces/{workspace}/members/{account}"),
            false => format!("{PATH}/{account}"),
        };
        ada.delete(&path).await.expect(204);
        robot.get(&format!("/workspaces/{workspace}")).await.is_problem(401, "unauthenticated");
        ada.get(&format!("{PATH}/{account}")).await.is_problem(404, "not-found");
        ada.delete(&path).await.is_problem(404, "not-found");
        let left = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM api_keys"#)
            .fetch_one(&pool)
            .await
            .expect("a count");
        assert_eq!(left, 0);
    }
}

#[tokio::test]
async fn a_repeat_makes_no_second_account_and_a_dry_run_none() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let workspace = ada.make_workspace("Operations").await;
    let body = json!({ "name": "import", "role": "viewer" });
    let path = format!("{PATH}?workspace_id={workspace}");
    let dry = format!("{path}&dry_run=true");
    let plan = ada.post(&dry, &body).await.expect(200);
    assert_eq!(plan.body["events"][0]["type"], "service_account_added");
    let key = [("idempotency-key", "once")];
    let first = ada.send(Method::POST, &path, Some(&body), &key).await.expect(201);
    let again = ada.send(Method::POST, &path, Some(&body), &key).await.expect(201);
    assert_eq!(first.body, again.body);
    let listed = ada.get(&path).await.expect(200);
    assert_eq!(listed.items().len(), 1);
    let nameless = json!({ "name": " ", "role": "viewer" });
    assert_eq!(ada.post(&path, &nameless).await.pointers(), ["/name"]);
}

#[tokio::test]
async fn a_key_ends_with_its_time_and_does_what_its_scopes_say() {
    let client = Client::start().await;
    let body = json!({
        "email": "ada@example.com", "password": "correct horse battery", "full_name": "Ada",
    });
    let ada = client.post("/api/v1/auth/register", None, &body).await;
    let ada = Some(ada.text("access_token"));
    let made = client.post("/api/v1/workspaces", ada, &json!({ "name": "Operations" })).await;
    let workspace = made.text("id");
    let accounts = format!("/api/v1{PATH}?workspace_id={workspace}");
    let wanted = json!({ "name": "import", "role": "administrator" });
    let account = client.post(&accounts, ada, &wanted).await;
    let keys = format!("/api/v1{PATH}/{}/api-keys", account.text("id"));
    let wanted = json!({ "name": "k", "scopes": ["read"], "expires_in_days": 1 });
    let made = client.post(&keys, ada, &wanted).await;
    assert_eq!(made.body["api_key"]["workspace_id"], workspace, "{made:?}");
    let key = Some(made.text("key"));
    let shown = format!("/api/v1/workspaces/{workspace}");
    assert_eq!(client.get(&shown, key).await.status, 200);
    let renamed = json!({ "name": "Other" });
    let refused = client.send(Method::PATCH, &shown, key, Some(&renamed), &[]).await;
    refused.is_problem(axum::http::StatusCode::FORBIDDEN, "forbidden");
    let made = client.post("/api/v1/workspaces", key, &json!({ "name": "Another" })).await;
    made.is_problem(axum::http::StatusCode::FORBIDDEN, "forbidden");
    client.clock.advance(TimeDelta::days(1));
    let late = client.get(&shown, key).await;
    late.is_problem(axum::http::StatusCode::UNAUTHORIZED, "unauthenticated");
}
