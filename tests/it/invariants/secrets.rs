//! Nothing secret enters the log: everything that a person and a program can sign in with is used, and then the log is searched.

use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection, Row as _};
use uuid::Uuid;

use crate::support::{
    program::{MASTER_KEY, PATIENCE, Program, command, post},
    services,
};

#[tokio::test]
async fn invariant_10_nothing_secret_enters_the_log() {
    let database = services::database().await;
    let mut command = command(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--nats-prefix",
        &services::subject_prefix(),
    ]);
    command
        .env("DATABASE_URL", database.url())
        .env("NATS_URL", services::nats_url())
        .env("LEDGERLINE_MASTER_KEY", MASTER_KEY);
    let program = Program::start(command);
    let base = program.base.as_str();

    let address = format!("ada.{}@mail.example", Uuid::now_v7().simple());
    let (password, second_password) = ("a first pass phrase 7c1e", "a second pass phrase 9d2f");
    let mut secrets = vec![
        address.clone(),
        address.to_uppercase(),
        password.to_owned(),
        second_password.to_owned(),
        MASTER_KEY.to_owned(),
    ];
    let body = json!({ "email": address, "password": password, "full_name": "Ada" });
    let registered = post(base, "/auth/register", None, &body).await;
    let body = json!({ "email": address, "password": password });
    let signed_in = post(base, "/auth/login", None, &body).await;
    let refreshed =
        post(base, "/auth/refresh", None, &json!({ "refresh_token": signed_in["refresh_token"] }))
            .await;
    for answer in [&registered, &signed_in, &refreshed] {
        secrets.extend(["access_token", "refresh_token"].map(|name| text(answer, name)));
    }
    let token = text(&refreshed, "access_token");
    let body = json!({ "name": "nightly", "scopes": ["read", "write", "execute"] });
    let key = text(&post(base, "/auth/api-keys", Some(&token), &body).await, "key");
    let ticket = post(base, "/auth/ws-ticket", Some(&token), &json!({})).await;
    secrets.extend([key.clone(), text(&ticket, "ticket")]);

    // With the session and with the key: workspaces, workflows, runs.
    for credential in [&token, &key] {
        let workflow = post(base, "/workflows", Some(credential), &workflow()).await;
        let path = format!("/workflows/{}/start", text(&workflow, "id"));
        let run = post(base, &path, Some(credential), &json!({ "input": { "name": "Bob" } })).await;
        ended(base, credential, &text(&run, "id")).await;
    }
    post(base, "/workspaces", Some(&token), &json!({ "name": "Operations" })).await;
    let body = json!({ "old_password": password, "new_password": second_password });
    post(base, "/auth/password", Some(&token), &body).await;
    let body = json!({ "email": address, "password": second_password });
    let signed_in = post(base, "/auth/login", None, &body).await;
    secrets.extend(["access_token", "refresh_token"].map(|name| text(&signed_in, name)));

    let mut connection = PgConnection::connect_with(&database.options()).await.expect("it answers");
    let rows =
        connection.fetch_all("SELECT events::text AS row FROM events ORDER BY position").await;
    let rows: Vec<String> = rows.expect("readable").iter().map(|row| row.get("row")).collect();
    assert!(rows.len() > 15, "the log holds what was done: {rows:#?}");
    assert!(rows.iter().any(|row| row.contains("execution_completed")), "{rows:#?}");
    for secret in &secrets {
        assert!(secret.len() > 10, "too short to be searched for");
        for row in &rows {
            assert!(!row.contains(secret.as_str()), "{secret} is in {row}");
        }
    }
    // What is secret of a token is its last part: neither may that be in the log alone.
    for tail in secrets.iter().filter_map(|secret| secret.rsplit(['.', '_']).next()) {
        let long = tail.len() > 20;
        assert!(!long || rows.iter().all(|row| !row.contains(tail)), "{tail} is in the log");
    }
    assert!(program.stop().success());
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}")).to_owned()
}

fn workflow() -> Value {
    json!({
        "name": "Greeting",
        "nodes": [
            { "id": "start", "type": "trigger.manual", "config": {} },
            { "id": "greet", "type": "logic.transform", "config": { "expression": "'Hello, ' + input.name" } },
        ],
        "connections": [{ "from": "start", "to": "greet" }],
    })
}

/// Waits until a run has ended.
async fn ended(base: &str, token: &str, id: &str) {
    let asking = async {
        loop {
            let url = format!("{base}/api/v1/executions/{id}");
            let answer = reqwest::Client::new()
                .get(url)
                .bearer_auth(token)
                .send()
                .await
                .expect("it answers");
            let run: Value = answer.json().await.expect("JSON");
            if run["status"] == "completed" {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("it ends");
}
