//! The audit: what is told of sign-ins, keys, secrets and exports, to whom, and how little of it strangers can make.

use std::net::IpAddr;

use axum::http::StatusCode;
use chrono::{TimeDelta, Utc};
use ledgerline_commands::Recorder;
use ledgerline_domain::permission::Role;
use ledgerline_store::facts::Facts;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::{
    client::Client,
    http::{Deployment, Person, greeting},
};

const PASSWORD: &str = "correct horse battery";

/// The facts in the log, in order: their ids, types and payloads.
async fn facts(pool: &PgPool) -> Vec<(Uuid, String, Value)> {
    let rows = sqlx::query!(
        r#"SELECT event_id, type, payload::text AS "payload!" FROM events WHERE category = 'audit' ORDER BY position"#
    );
    let rows = rows.fetch_all(pool).await.unwrap().into_iter();
    rows.map(|row| (row.event_id, row.r#type, serde_json::from_str(&row.payload).unwrap()))
        .collect()
}

fn types(facts: &[(Uuid, String, Value)]) -> Vec<&str> {
    facts.iter().map(|(_, name, _)| name.as_str()).collect()
}

async fn register(client: &Client, email: &str) -> Value {
    let body = json!({"email": email, "password": PASSWORD, "full_name": "Ada Lovelace"});
    let answer = client.post("/api/v1/auth/register", None, &body).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    answer.body
}

async fn refused(client: &Client, email: &str) {
    let body = json!({"email": email, "password": "not the password"});
    let answer = client.post("/api/v1/auth/login", None, &body).await;
    answer.is_problem(StatusCode::UNAUTHORIZED, "wrong-credentials");
}

fn place(n: u8) -> Option<IpAddr> {
    Some(IpAddr::from([192, 0, 2, n]))
}

#[tokio::test]
async fn refused_sign_ins_are_summed_by_account_and_window_and_say_from_where_beside_the_log() {
    let mut client = Client::start().await;
    client.ip = place(1);
    let ada = register(&client, "ada@example.com").await;
    for n in [2, 3, 3, 4] {
        client.ip = place(n);
        refused(&client, "ada@example.com").await;
    }
    for n in 0..6 {
        client.ip = place(9);
        refused(&client, &format!("nobody{n}@example.com")).await;
    }
    client.record().await;
    assert_eq!(types(&facts(client.pool()).await), ["operator_added", "signed_in"]);

    client.clock.advance(TimeDelta::minutes(16));
    client.record().await;
    let told = facts(client.pool()).await;
    assert_eq!(types(&told)[2..], ["sign_ins_refused", "sign_ins_refused"]);
    let of = |user: Option<&str>| {
        let found = told.iter().find(|(_, name, payload)| {
            name == "sign_ins_refused" && payload["user_id"].as_str() == user
        });
        found.unwrap_or_else(|| panic!("{told:?}"))
    };
    let (of_ada, of_nobody) = (of(ada["user"]["id"].as_str()), of(None));
    assert_eq!(of_ada.2["counted"]["count"], 4);
    assert_eq!(of_nobody.2["counted"]["count"], 6, "unknown addresses are told together");

    let ips = sqlx::query_scalar!("SELECT ips FROM fact_origins WHERE event_id = $1", of_ada.0);
    let ips = ips.fetch_one(client.pool()).await.unwrap();
    assert_eq!(ips, ["192.0.2.2", "192.0.2.3", "192.0.2.4"]);
    let log = sqlx::query_scalar!("SELECT string_agg(e::text, ' ') FROM events e");
    let log = log.fetch_one(client.pool()).await.unwrap().unwrap();
    for personal in ["192.0.2", "example.com", "Lovelace"] {
        assert!(!log.contains(personal), "{personal} is in the log");
    }
    // Nothing more is told of what was told.
    client.clock.advance(TimeDelta::hours(2));
    client.record().await;
    assert_eq!(facts(client.pool()).await.len(), told.len());
}

#[tokio::test]
async fn what_happens_to_an_account_is_told_once_each() {
    let client = Client::start().await;
    let ada = register(&client, "ada@example.com").await;
    let token = ada["access_token"].as_str();
    let key = json!({"name": "nightly import of Ada", "scopes": ["read"]});
    let key = client.post("/api/v1/auth/api-keys", token, &key).await;
    let key = key.body["api_key"]["id"].as_str().unwrap().to_owned();
    let login = json!({"email": "ada@example.com", "password": PASSWORD});
    client.post("/api/v1/auth/login", None, &login).await;
    let change = json!({"old_password": PASSWORD, "new_password": "another long password"});
    client.post("/api/v1/auth/password", token, &change).await;
    let gone = client.delete(&format!("/api/v1/auth/api-keys/{key}"), token).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    // What is refused is no fact.
    let gone = client.delete(&format!("/api/v1/auth/api-keys/{key}"), token).await;
    assert_eq!(gone.status, StatusCode::NOT_FOUND);
    client.post("/api/v1/auth/logout", token, &json!({})).await;
    client.record().await;
    let told = facts(client.pool()).await;
    assert_eq!(
        types(&told),
        [
            "operator_added",
            "signed_in",
            "api_key_made",
            "signed_in",
            "password_set",
            "sessions_ended",
            "api_key_ended",
            "session_ended",
        ]
    );
    assert_eq!(told[1].2["method"], "registration");
    assert_eq!(told[3].2["method"], "password");
    assert_eq!(
        (&told[5].2["count"], &told[5].2["because"]),
        (&json!(1), &json!("password_changed"))
    );
    assert_eq!(told[7].2["because"], "logout");
    assert!(told.iter().all(|(_, _, payload)| !payload.to_string().contains("Ada")), "{told:?}");
}

#[tokio::test]
async fn a_fact_that_was_appended_before_a_crash_is_not_appended_again() {
    let client = Client::start().await;
    register(&client, "ada@example.com").await;
    // As it is when the process dies between the append and the removal of the row.
    sqlx::raw_sql("CREATE TABLE facts_before AS SELECT * FROM facts")
        .execute(client.pool())
        .await
        .unwrap();
    client.record().await;
    let told = facts(client.pool()).await;
    sqlx::raw_sql("INSERT INTO facts SELECT * FROM facts_before")
        .execute(client.pool())
        .await
        .unwrap();
    client.record().await;
    assert_eq!(facts(client.pool()).await, told);
    let left = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM facts"#);
    assert_eq!(left.fetch_one(client.pool()).await.unwrap(), 0);
}

/// As if all windows that are open now were over.
async fn close_windows(house: &Deployment, person: &Person) {
    // Whoever asks makes the process add up what it counted.
    person.get(&format!("/workspaces/{}/audit", person.workspace)).await.expect(200);
    let recorder = Recorder::new(house.elsewhere().clone(), Facts::new(house.pool().await));
    recorder.record(Utc::now() + TimeDelta::hours(2)).await.expect("the log takes them");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_sees_what_matters_in_the_workspace_and_nobody_below() {
    let house = Deployment::start().await;
    let operator = house.sign_up("operator").await;
    let ada = house.sign_up("ada").await;
    let workspace = ada.make_workspace("Operations").await;
    let path = format!("/workspaces/{workspace}/audit");
    for (name, role, status) in [
        ("anna", Some(Role::Administrator), 403),
        ("vi", Some(Role::Viewer), 403),
        ("eve", None, 404),
    ] {
        let person = house.sign_up(name).await;
        if let Some(role) = role {
            house.let_in(&ada, &workspace, &person, role).await;
        }
        person.get(&path).await.expect(status);
        person.get("/system/audit").await.expect(403);
    }
    let of_workspace = [("ledgerline-workspace", workspace.as_str())];
    let set = json!({ "value": "a secret value" });
    ada.send(Method::PUT, "/secrets/KEY", Some(&set), &of_workspace).await.expect(200);
    let all = ada.get(&path).await.expect(200);
    let actions = ["secret_set", "member_added", "member_added", "workspace_created"];
    assert_eq!(all.each("action"), actions, "the newest first");
    assert_eq!(all.body["total"], 4);
    assert_eq!(operator.get(&path).await.expect(200).each("action"), actions);

    let first = ada.get(&format!("{path}?limit=3")).await.expect(200);
    let rest = format!("{path}?limit=3&cursor={}", first.text("next_cursor"));
    assert_eq!(ada.get(&rest).await.expect(200).each("action"), actions[3..]);
    let added = ada.get(&format!("{path}?action=member_added&action=secret_deleted")).await;
    assert_eq!(added.each("action"), actions[1..3]);
    let anna = added.items()[1]["user_id"].as_str().unwrap();
    let of_anna = ada.get(&format!("{path}?user_id={anna}")).await.expect(200);
    assert_eq!(of_anna.each("action"), ["member_added"]);
    let by_ada = ada.get(&format!("{path}?user_id={}&to=2020-01-01T00:00:00Z", ada.user_id)).await;
    assert!(by_ada.items().is_empty());
    for bad in ["action=member_aded", "from=yesterday", "sort=action", "limit=0", "who=x"] {
        ada.get(&format!("{path}?{bad}")).await.is_problem(422, "invalid-value");
    }

    // Only the deployment's operators see who came in.
    let deployment = operator.get("/system/audit?action=signed_in").await.expect(200);
    assert_eq!(deployment.items().len(), 5);
    assert_eq!(deployment.items()[0]["ips"], json!(["127.0.0.1"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_use_of_keys_and_secrets_and_exports_are_counted_and_no_read_appends_anything() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    ada.put("/secrets/KEY", &json!({ "value": "a secret value" })).await.expect(200);
    let workflow = ada
        .make_workflow(&json!({ "name": "Uses a secret", "nodes": [{
            "id": "say", "type": "action.command",
            "config": { "program": "echo", "stdin": "{{ secrets.KEY }}" },
            "retry": { "max_retries": 0 },
        }] }))
        .await;
    let run = ada.command(&format!("/workflows/{workflow}/start")).await.expect(202).id();
    let done = |body: &Value| ["completed", "failed"].contains(&body["status"].as_str().unwrap());
    ada.until(&format!("/executions/{run}"), done).await;

    let key = ada.with_key(&json!({ "name": "k", "scopes": ["read"] })).await;
    let before = ada.get("/system/audit").await.expect(200).position();
    for _ in 0..20 {
        key.get("/auth/me").await.expect(200);
    }
    ada.get(&format!("/executions/{run}/export")).await.expect(200);
    ada.get(&format!("/workflows/{workflow}/export")).await.expect(200);
    let after = ada.get("/system/audit").await.expect(200).position();
    assert_eq!(before, after, "reading appends nothing");

    close_windows(&house, &ada).await;
    let used = ada.get("/system/audit?action=api_key_used").await.expect(200);
    assert_eq!(used.items()[0]["detail"]["counted"]["count"], 20);
    assert_eq!(used.items()[0]["ips"], json!(["127.0.0.1"]));
    let path = format!("/workspaces/{}/audit", ada.workspace);
    let secret = ada.get(&format!("{path}?action=secret_used")).await.expect(200);
    let detail = &secret.items()[0]["detail"];
    assert_eq!((&detail["holder"], &detail["counted"]["count"]), (&json!("secret:KEY"), &json!(1)));
    assert_eq!(detail["execution_ids"], json!([run]));
    let exports = ada.get(&format!("{path}?action=data_exported")).await.expect(200);
    let mut what: Vec<&str> =
        exports.items().iter().map(|item| item["detail"]["what"].as_str().unwrap()).collect();
    what.sort_unstable();
    assert_eq!(what, ["executions", "workflows"]);
    assert!(exports.items().iter().all(|item| item["user_id"] == ada.user_id.to_string()));

    // Members read the raw log of their workspace; what the audit alone knows is not in it.
    let raw = ada.get(&format!("/log/events?workspace={}&limit=200", ada.workspace)).await;
    assert!(raw.each("type").iter().all(|name| !name.contains("ledgerline.audit.")), "{raw:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_role_is_told_by_the_workspace_itself_and_not_twice() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let bob = house.sign_up("bob").await;
    let workspace = ada.make_workspace("Operations").await;
    house.let_in(&ada, &workspace, &bob, Role::Viewer).await;
    let member = format!("/workspaces/{workspace}/members/{}", bob.user_id);
    ada.patch(&member, &json!({ "role": "editor" })).await.expect(200);
    ada.make_workflow(&greeting("not the audit's")).await;
    let audit = ada.get(&format!("/workspaces/{workspace}/audit?user_id={}", bob.user_id)).await;
    assert_eq!(audit.each("action"), ["member_role_changed", "member_added"]);
    let changed = &audit.items()[0];
    assert_eq!(changed["detail"]["role"], "editor");
    assert_eq!(changed["actor"], json!({ "kind": "human", "user_id": ada.user_id.to_string() }));
}
