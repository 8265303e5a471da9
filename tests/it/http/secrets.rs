//! Secrets over HTTP: written, listed by name, never read; whose they are; and what a repeat, a dry run and a rotation do.

use ledgerline_domain::permission::Role;
use ledgerline_store::Filter;
use reqwest::Method;
use serde_json::json;

use crate::support::http::{Answer, Deployment, Person};

const VALUE: &str = "s3cret-value-of-ada";

async fn set(person: &Person, name: &str, value: &str) -> Answer {
    person.put(&format!("/secrets/{name}"), &json!({ "value": value })).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_is_written_and_never_shown() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let first = set(&ada, "API_KEY", VALUE).await.expect(200);
    assert_eq!((&first.body["name"], &first.body["version"]), (&json!("API_KEY"), &json!(1)));
    assert_eq!(first.body["updated_by"], ada.user_id.to_string());
    let second = set(&ada, "API_KEY", "another value").await.expect(200);
    assert_eq!(second.body["version"], 2);
    set(&ada, "OTHER", VALUE).await.expect(200);
    let list = ada.get("/secrets").await.expect(200);
    assert_eq!(list.each("name"), ["API_KEY", "OTHER"]);
    let one = ada.get("/secrets/API_KEY").await.expect(200);
    assert_eq!(one.body["version"], 2);
    for answer in [&first, &second, &list, &one] {
        assert!(!answer.body.to_string().contains("value-of"), "{answer:?}");
        assert!(answer.body.get("value").is_none());
    }
    let page = ada.get("/secrets?limit=1").await.expect(200);
    assert_eq!((page.each("name"), &page.body["total"]), (vec!["API_KEY"], &json!(2)));
    let next = format!("/secrets?limit=1&cursor={}", page.text("next_cursor"));
    assert_eq!(ada.get(&next).await.expect(200).each("name"), ["OTHER"]);

    ada.delete("/secrets/API_KEY").await.expect(204);
    ada.get("/secrets/API_KEY").await.is_problem(404, "not-found");
    ada.delete("/secrets/API_KEY").await.is_problem(404, "not-found");
    let feed = ada.get("/activity?action=secret_deleted").await.expect(200);
    assert_eq!(feed.items()[0]["detail"]["name"], "API_KEY");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_manages_a_workspace_sees_its_secrets() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let workspace = ada.make_workspace("Operations").await;
    let at = |path: &str| format!("{path}?workspace_id={workspace}");
    let body = json!({ "value": VALUE });
    ada.put(&at("/secrets/KEY"), &body).await.expect(200);
    let expected = [
        ("anna", Some(Role::Administrator), 200),
        ("ed", Some(Role::Editor), 403),
        ("vi", Some(Role::Viewer), 403),
        ("eve", None, 404),
    ];
    for (name, role, status) in expected {
        let person = house.sign_up(name).await;
        if let Some(role) = role {
            house.let_in(&ada, &workspace, &person, role).await;
        }
        person.get(&at("/secrets")).await.expect(status);
        person.get(&at("/secrets/KEY")).await.expect(status);
        person.put(&at("/secrets/KEY"), &body).await.expect(status);
        let rotated = person.command(&at("/secrets/rotate-key")).await;
        rotated.expect(if status == 200 { 204 } else { status });
        let gone = person.delete(&at("/secrets/NONE")).await;
        gone.expect(if status == 200 { 404 } else { status });
    }
    let key = ada.with_key(&json!({ "name": "k", "scopes": ["read", "write", "execute"] })).await;
    key.put(&at("/secrets/KEY"), &body).await.is_problem(403, "forbidden");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_be_no_secret_is_refused() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    for name in ["2nd", "a-b", "a.b", "%20", &"x".repeat(65)] {
        let answer = set(&ada, name, VALUE).await;
        assert!([400, 404, 422].contains(&answer.status.as_u16()), "{name}: {answer:?}");
    }
    for value in ["", "abc", &"x".repeat(64 * 1024 + 1)] {
        assert_eq!(set(&ada, "KEY", value).await.pointers(), ["/value"]);
    }
    set(&ada, "KEY", &"x".repeat(64 * 1024)).await.expect(200);
    let wrong = ada.put("/secrets/KEY", &json!({ "value": 7 })).await;
    assert_eq!(wrong.pointers(), ["/value"]);
    let more = ada.put("/secrets/KEY", &json!({ "value": VALUE, "x": 1 })).await;
    assert_eq!(more.pointers(), ["/x"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_sets_once_and_a_dry_run_sets_nothing() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let body = json!({ "value": VALUE });
    let plan = ada.put("/secrets/KEY?dry_run=true", &body).await.expect(200);
    assert_eq!(plan.body["events"][0]["type"], "secret_set");
    assert!(!plan.body.to_string().contains(VALUE));
    ada.get("/secrets/KEY").await.is_problem(404, "not-found");

    let planned = [("if-plan", plan.text("plan_hash")), ("idempotency-key", "once")];
    let first = ada.send(Method::PUT, "/secrets/KEY", Some(&body), &planned[..]).await.expect(200);
    let again = [("idempotency-key", "once")];
    let second = ada.send(Method::PUT, "/secrets/KEY", Some(&body), &again).await.expect(200);
    assert_eq!((&second.body["version"], second.header("etag")), (&json!(1), first.header("etag")));
    let other = json!({ "value": "something else" });
    let reused = ada.send(Method::PUT, "/secrets/KEY", Some(&other), &again).await;
    reused.is_problem(422, "idempotency-key-reused");
    let stale = [("if-match", "\"7\"")];
    let stale = ada.send(Method::PUT, "/secrets/KEY", Some(&other), &stale).await;
    stale.is_problem(412, "stale-version");
    assert_eq!(ada.get("/secrets/KEY").await.expect(200).body["version"], 1);
    // What the refused ones had sealed is gone: one value is left.
    assert_eq!(set(&ada, "KEY", "the next one").await.expect(200).body["version"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_leave_one_value_and_every_version_once() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let writes = (0..8).map(|n| {
        let ada = ada.clone();
        async move { set(&ada, "KEY", &format!("value number {n}")).await }
    });
    let answers = futures_util::future::join_all(writes).await;
    let mut versions: Vec<i64> = Vec::new();
    for answer in &answers {
        match answer.status.as_u16() {
            200 => versions.push(answer.body["version"].as_i64().expect("a number")),
            _ => answer.is_problem(409, "concurrent-change"),
        }
    }
    assert!(!versions.is_empty());
    let shown = ada.get("/secrets/KEY").await.expect(200);
    assert_eq!(shown.body["version"].as_i64(), versions.iter().max().copied());
    versions.sort_unstable();
    versions.dedup();
    let applied = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(versions.len(), applied);
    let filter = Filter { types: vec!["secret_set".to_owned()], ..Filter::default() };
    let log = house.elsewhere().log();
    let start = ledgerline_store::Position::START;
    let (events, _) = log.read(start, 1_000, &filter).await.expect("readable");
    assert_eq!(events.len(), applied);
    assert!(events.iter().all(|event| !event.payload.contains("value number")));
}
