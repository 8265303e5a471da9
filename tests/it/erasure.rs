//! The end of a person: nothing personal is left in any table, whatever was rebuilt since, while the log stays as it was, byte for byte.

use chrono::Utc;
use ledgerline_domain::id::{UserId, WorkspaceId};
use ledgerline_domain::permission::Role;
use ledgerline_projections::{Model, rebuild, rebuild::Progress, with_search_path};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use totp_rs::{Builder, Secret};

use crate::support::{
    http::{Answer, Deployment, PASSWORD, Person, greeting},
    tables::tables_with,
};

/// The whole log as text.
async fn log(pool: &PgPool) -> Vec<String> {
    let rows = sqlx::query_scalar!(r#"SELECT e::text AS "row!" FROM events e ORDER BY position"#);
    rows.fetch_all(pool).await.unwrap()
}

/// Builds every read model anew.
async fn rebuild_all(house: &Deployment, pool: &PgPool) {
    let options = with_search_path((*pool.connect_options()).clone());
    let pool = PgPoolOptions::new().max_connections(4).connect_with(options).await.unwrap();
    let (progress, _) = watch::channel(Progress::default());
    for model in Model::ALL {
        let (log, stop) = (house.elsewhere().log(), CancellationToken::new());
        let rebuilt = rebuild::rebuild(&pool, log, *model, "test", &progress, &stop).await;
        rebuilt.expect("the rebuild succeeds");
    }
}

async fn erase(person: &Person, email: &str, password: Option<&str>) -> Answer {
    let body = json!({ "email": email, "password": password });
    person.send(Method::DELETE, "/auth/me", Some(&body), &[]).await
}

/// Turns a second factor on, leaves a sign-in half way, and is known to another provider.
async fn with_ways_in(house: &Deployment, person: &Person) {
    let begun = person.post("/auth/totp", &json!({ "password": PASSWORD })).await.expect(201);
    let secret = Secret::try_from_base32(begun.text("secret")).unwrap();
    let phone = Builder::new().with_secret(secret).build().unwrap();
    let time = u64::try_from(Utc::now().timestamp()).unwrap();
    let code = json!({ "code": phone.generate(time).to_string() });
    person.post("/auth/totp/confirm", &code).await.expect(200);
    let login = json!({ "email": "zaphod.beeblebrox@example.com", "password": PASSWORD });
    let halfway = house.nobody().post("/auth/login", &login).await;
    halfway.is_problem(401, "second-factor-required");
    sqlx::query!(
        "INSERT INTO federated_identities (issuer, subject, user_id, linked_at, last_used_at)
         VALUES ('https://provider.example.com', 'zaphod', $1, now(), now())",
        person.user_id.0
    )
    .execute(&house.pool().await)
    .await
    .unwrap();
}

/// How many rows are kept of how somebody comes in, beside the password.
async fn ways_in(pool: &PgPool, user: UserId) -> [i64; 4] {
    let kept = sqlx::query!(
        r#"SELECT (SELECT count(*) FROM second_factors WHERE user_id = $1) AS "factors!",
                  (SELECT count(*) FROM recovery_codes WHERE user_id = $1) AS "codes!",
                  (SELECT count(*) FROM sign_in_challenges WHERE user_id = $1) AS "challenges!",
                  (SELECT count(*) FROM federated_identities WHERE user_id = $1) AS "identities!""#,
        user.0
    );
    let kept = kept.fetch_one(pool).await.unwrap();
    [kept.factors, kept.codes, kept.challenges, kept.identities]
}

/// Somebody who left traces everywhere: sessions, a key, codes, refused sign-ins, mails, runs, and data sealed about them.
async fn with_traces(house: &Deployment, friend: &Person) -> (Person, String) {
    let nobody = house.nobody();
    let body = json!({
        "email": "Zaphod.Beeblebrox@example.com", "password": PASSWORD, "full_name": "Zaphod Beeblebrox",
    });
    let answer = nobody.post("/auth/register", &body).await.expect(201);
    let mut person = nobody.clone().with_token(answer.text("access_token"));
    let id = |field: &str| answer.body["user"][field].as_str().unwrap().parse().unwrap();
    person.user_id = UserId(id("id"));
    person.workspace = WorkspaceId(id("personal_workspace_id"));
    for purpose in ["login", "reset"] {
        let ask = json!({ "email": "zaphod.beeblebrox@example.com", "purpose": purpose });
        nobody.post("/auth/request-otp", &ask).await.expect(200);
    }
    let wrong = json!({ "email": "zaphod.beeblebrox@example.com", "password": "not the password" });
    nobody.post("/auth/login", &wrong).await.expect(401);
    person
        .with_key(&json!({ "name": "k", "scopes": ["read"] }))
        .await
        .get("/auth/me")
        .await
        .expect(200);
    let workflow = person.make_workflow(&greeting("hello")).await;
    let subject = format!("user:{}", person.user_id);
    let input = json!({ "input": { "name": "you", "of": {
        "$personal": { "subject": subject, "value": "Betelgeuse Street 42" } } } });
    let run = person.post(&format!("/workflows/{workflow}/start"), &input).await.expect(202).id();
    let done = |body: &Value| body["status"] == "completed";
    let run = person.until(&format!("/executions/{run}"), done).await;
    assert_eq!(run.body["input"]["of"], "Betelgeuse Street 42");
    let shared = friend.make_workspace("Shared").await;
    house.let_in(friend, &shared, &person, Role::Administrator).await;
    let invite = json!({ "email": "ford@example.com", "role": "viewer" });
    person.post(&format!("/workspaces/{shared}/invite"), &invite).await.expect(201);
    let elsewhere = friend.make_workspace("Elsewhere").await;
    let invite = json!({ "email": "zaphod.beeblebrox@example.com", "role": "viewer" });
    friend.post(&format!("/workspaces/{elsewhere}/invite"), &invite).await.expect(201);
    with_ways_in(house, &person).await;
    (person, shared)
}

const PERSONAL: [&str; 3] = ["beeblebrox", "zaphod", "betelgeuse"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_personal_is_left_in_any_table_and_the_log_is_what_it_was() {
    let house = Deployment::start().await;
    let operator = house.sign_up("operator").await;
    let (person, shared) = with_traces(&house, &operator).await;
    let pool = house.pool().await;
    operator.get("/system/audit").await.expect(200);
    assert!(
        !tables_with(&pool, &["beeblebrox"]).await.is_empty(),
        "the search finds what is there"
    );
    let events: String = log(&pool).await.concat().to_lowercase();
    assert!(PERSONAL.iter().all(|text| !events.contains(text)), "the log holds ids only");

    assert_eq!(ways_in(&pool, person.user_id).await, [1, 10, 1, 1]);
    let before = log(&pool).await;
    erase(&person, "zaphod.BEEBLEBROX@example.com", Some(PASSWORD)).await.expect(204);
    person.get("/auth/me").await.is_problem(401, "unauthenticated");
    operator.get("/system/audit").await.expect(200);
    assert_eq!(tables_with(&pool, &PERSONAL).await, Vec::<String>::new());
    assert_eq!(ways_in(&pool, person.user_id).await, [0; 4]);
    let origins = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM fact_origins WHERE user_id = $1"#,
        person.user_id.0
    );
    assert_eq!(origins.fetch_one(&pool).await.unwrap(), 0);
    let after = log(&pool).await;
    assert_eq!(after[..before.len()], before, "what was recorded stays byte for byte");

    // It left the shared workspace, and its own runs nothing more.
    let audit = operator.get(&format!("/workspaces/{shared}/audit")).await.expect(200);
    let told = audit.each("action");
    assert_eq!(
        told[..2],
        ["invitation_revoked", "member_removed"],
        "what it asked for closes with it"
    );
    let erased = operator.get("/system/audit?action=account_erased").await.expect(200);
    assert_eq!(erased.items()[0]["user_id"], person.user_id.to_string());
    assert_eq!(erased.items()[0]["ips"], json!([]));
    let members = operator.get(&format!("/workspaces/{shared}/members")).await.expect(200);
    assert_eq!(members.items().len(), 1);
    let own = operator.get(&format!("/workspaces/{}/audit", person.workspace)).await.expect(200);
    assert_eq!(own.each("action")[0], "dispatch_paused");

    // What is built anew from the log brings nothing back.
    rebuild_all(&house, &pool).await;
    assert_eq!(tables_with(&pool, &PERSONAL).await, Vec::<String>::new());

    // The address is free again, for somebody else.
    let again = json!({
        "email": "zaphod.beeblebrox@example.com", "password": PASSWORD, "full_name": "Another",
    });
    let again = house.nobody().post("/auth/register", &again).await.expect(201);
    assert_ne!(again.body["user"]["id"], person.user_id.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_person_themselves_and_nobody_who_is_needed_is_erased() {
    let house = Deployment::start().await;
    let operator = house.sign_up("operator").await;
    let ada = house.sign_up("ada").await;
    let bob = house.sign_up("bob").await;
    let workspace = ada.make_workspace("Operations").await;
    house.let_in(&ada, &workspace, &bob, Role::Viewer).await;

    let refused = erase(&ada, "bob@example.com", Some(PASSWORD)).await;
    assert_eq!(refused.pointers(), ["/email"]);
    erase(&ada, "ada@example.com", Some("not the password"))
        .await
        .is_problem(401, "wrong-credentials");
    let key = ada
        .with_key(&json!({ "name": "k", "scopes": ["read", "write", "execute", "admin"] }))
        .await;
    erase(&key, "ada@example.com", Some(PASSWORD)).await.is_problem(403, "forbidden");
    let held = erase(&ada, "ada@example.com", Some(PASSWORD)).await;
    held.refused_by("last_owner");
    assert!(held.text("detail").contains("Operations"), "{held:?}");
    ada.delete(&format!("/system/users/{}", bob.user_id)).await.is_problem(403, "forbidden");
    operator.delete(&format!("/system/users/{}", ada.user_id)).await.refused_by("last_owner");
    operator
        .delete(&format!("/system/users/{}", operator.user_id))
        .await
        .is_problem(403, "forbidden");
    let nobody = uuid::Uuid::now_v7();
    operator.delete(&format!("/system/users/{nobody}")).await.is_problem(404, "not-found");

    // An old session needs the password; one that was opened just now stands for it.
    let pool = house.pool().await;
    let age = sqlx::query!(
        "UPDATE sessions SET created_at = created_at - interval '6 minutes' WHERE user_id = $1",
        bob.user_id.0
    );
    age.execute(&pool).await.unwrap();
    erase(&bob, "bob@example.com", None).await.is_problem(403, "forbidden");
    let login = json!({ "email": "bob@example.com", "password": PASSWORD });
    let fresh = house.nobody().post("/auth/login", &login).await.expect(200);
    let bob = bob.with_token(fresh.text("access_token"));
    erase(&bob, "bob@example.com", None).await.expect(204);
    // Nobody else belongs to it any more, so its owner may go too.
    operator.delete(&format!("/system/users/{}", ada.user_id)).await.expect(204);
    operator.delete(&format!("/system/users/{}", ada.user_id)).await.is_problem(404, "not-found");
    ada.get("/auth/me").await.is_problem(401, "unauthenticated");
}

/// A run that says hello to somebody whose address is marked.
fn marked(subject: &str, address: &str) -> Value {
    json!({ "input": { "order": 7, "to": {
        "$personal": { "subject": subject, "value": address } } } })
}

fn saying(program: &str) -> Value {
    json!({ "name": "Say", "nodes": [
        { "id": "pick", "type": "logic.transform", "config": { "expression": "{'mail': input.to, 'order': input.order}" } },
        { "id": "say", "type": "action.command", "retry": { "max_retries": 0 },
          "config": { "program": program, "args": ["to {{ nodes.pick.output.mail }}, about {{ input.order }}"] } },
    ], "connections": [{ "from": "pick", "to": "say" }] })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_marked_is_opened_for_effects_and_members_until_the_subject_is_erased() {
    let house = Deployment::start_with(|mut config| {
        let echo = json!([{ "program": "echo" }]);
        config.worker.allowed_commands = serde_json::from_value(echo).ok();
        config
    })
    .await;
    let ada = house.sign_up("ada").await;
    let workflow = ada.make_workflow(&saying("echo")).await;
    let start = format!("/workflows/{workflow}/start");
    let body = marked("customer 42", "trillian@example.org");
    // A dry run shows exactly what would be appended, and that is sealed.
    let plan = ada.post(&format!("{start}?dry_run=true"), &body).await.expect(200);
    assert!(!plan.body.to_string().contains("trillian"), "{plan:?}");
    let if_plan = [("if-plan", plan.text("plan_hash"))];
    let run = ada.send(Method::POST, &start, Some(&body), &if_plan).await.expect(202).id();
    let ended = |body: &Value| ["completed", "failed"].contains(&body["status"].as_str().unwrap());
    let path = format!("/executions/{run}");
    let done = ada.until(&path, ended).await;
    assert_eq!(done.body["status"], "completed", "{done:?}");
    assert_eq!(done.body["input"], json!({ "order": 7, "to": "trillian@example.org" }));

    // The command was given the address; what it printed is masked before it is kept.
    let nodes = ada.get(&format!("{path}/nodes")).await.expect(200);
    let say = nodes.items().iter().find(|node| node["path"] == "say").unwrap();
    assert_eq!(say["input"]["args"][0], "to trillian@example.org, about 7");
    assert_eq!(say["output"]["stdout"].as_str().unwrap().trim(), "to ***, about 7");
    let picked = nodes.items().iter().find(|node| node["path"] == "pick").unwrap();
    assert_eq!(picked["output"], json!({ "mail": "trillian@example.org", "order": 7 }));
    let pool = house.pool().await;
    assert_eq!(tables_with(&pool, &["trillian"]).await, Vec::<String>::new());
    let raw = ada.get(&format!("{path}/events?limit=200")).await.expect(200);
    assert!(raw.body.to_string().contains("$sealed"), "the raw history shows what is stored");

    // Nobody below an administrator erases, and nobody elsewhere.
    let eve = house.sign_up("eve").await;
    let subject = format!("/workspaces/{}/subjects/customer%2042", ada.workspace);
    eve.delete(&subject).await.is_problem(404, "not-found");
    let before = log(&pool).await;
    ada.delete(&subject).await.expect(204);
    ada.delete(&subject).await.is_problem(404, "not-found");
    let then = ada.get(&path).await.expect(200);
    assert!(then.body["input"]["to"]["$erased"].is_string(), "{then:?}");
    let output = ada.get(&format!("{path}/output?node=pick")).await.expect(200);
    assert!(output.body["mail"]["$erased"].is_string(), "{output:?}");
    let past = ada.get(&format!("{path}?at_position={}", done.position())).await.expect(200);
    assert!(past.body["input"]["to"]["$erased"].is_string(), "the past is no way around");
    assert_eq!(log(&pool).await[..before.len()], before);

    // A run that needs it fails, and says why; a new one about the same customer is another person to the log.
    let again = ada.command(&format!("{path}/rerun")).await.expect(202).id();
    let failed = ada.until(&format!("/executions/{again}"), ended).await;
    assert_eq!(failed.body["status"], "failed");
    assert!(failed.body["error"]["message"].as_str().unwrap().contains("erased"), "{failed:?}");
    let fresh = ada.post(&start, &body).await.expect(202).id();
    let fresh = ada.until(&format!("/executions/{fresh}"), ended).await;
    assert_eq!(fresh.body["status"], "completed", "{fresh:?}");
    let told = ada.get(&format!("/workspaces/{}/audit?action=subject_erased", ada.workspace)).await;
    assert_eq!(told.items().len(), 1);

    for (bad, why) in [
        (json!({ "input": { "$personal": 7 } }), "no mark"),
        (json!({ "input": { "$personal": { "subject": "", "value": 1 } } }), "no subject"),
    ] {
        assert_eq!(ada.post(&start, &bad).await.pointers(), ["/input"], "{why}");
    }
    // Whoever may not start makes no key either.
    eve.post(&start, &marked("of eve", "x")).await.is_problem(404, "not-found");
    let made = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM subject_keys WHERE name = 'of eve'"#
    );
    assert_eq!(made.fetch_one(&pool).await.unwrap(), 0);
}
