//! How often a user may ask, over several processes of the real program.

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::{
    program::{Account, MASTER_KEY, Program, command, register},
    services::{self, TestDatabase},
};

/// A process of the real program on a database, with these limits.
fn serve(database: &TestDatabase, limits: &[&str]) -> Program {
    let mut args = vec!["serve", "--roles", "api", "--listen", "127.0.0.1:0"];
    // One deployment: what one process signs, the others believe.
    args.extend(["--public-url", "http://flows.example"]);
    args.extend(limits);
    let mut program = command(&args);
    program.env("DATABASE_URL", database.url()).env("LEDGERLINE_MASTER_KEY", MASTER_KEY);
    Program::start(program)
}

async fn ask(program: &Program, method: Method, path: &str, who: &Account) -> Response {
    let url = format!("{}/api/v1{path}", program.base);
    let asked = reqwest::Client::new().request(method, url).bearer_auth(&who.token);
    asked.json(&json!({ "full_name": "x" })).send().await.unwrap()
}

fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

/// What the database says that processes have taken of a window.
async fn taken(pool: &PgPool, user: Uuid, policy: &str) -> Option<i64> {
    sqlx::query_scalar!(
        "SELECT taken FROM rate_windows WHERE subject = $1 AND policy = $2",
        user,
        policy
    )
    .fetch_optional(pool)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_has_one_limit_over_two_processes() {
    let database = services::database().await;
    let limits = ["--limit-writes", "40/1h", "--limit-reads", "1000/1h"];
    let processes = [serve(&database, &limits), serve(&database, &limits)];
    let ada = register(&processes[0].base, "ada").await;
    let eve = register(&processes[1].base, "eve").await;

    // Each asks in turn until both refuse, so that each uses up what it has leased.
    let (mut let_in, mut refused) = (0, [None, None]);
    for number in 0.. {
        let process = number % 2;
        if refused.iter().all(Option::is_some) {
            break;
        }
        let answer = ask(&processes[process], Method::PATCH, "/auth/me", &ada).await;
        assert_eq!(header(&answer, "ratelimit-policy"), "\"writes\";q=40;w=3600", "{answer:?}");
        match answer.status() {
            StatusCode::OK => let_in += 1,
            StatusCode::TOO_MANY_REQUESTS => refused[process] = Some(answer),
            other => panic!("{other}"),
        }
        assert!(number < 200, "a limit of 40 is met by then");
    }
    assert_eq!(let_in, 40, "exactly the limit, whoever was asked");
    let answer = refused[1].take().unwrap();
    assert!(header(&answer, "ratelimit").starts_with("\"writes\";r=0;t="));
    let wait: u32 = header(&answer, "retry-after").parse().unwrap();
    assert!((1..=3_600).contains(&wait), "{wait}");
    assert_eq!(header(&answer, "content-type"), "application/problem+json");
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(problem["type"], "/docs/problems/rate-limited", "{problem}");
    assert_eq!(problem["detail"], "more than 40 writes in 3600 seconds; wait before the next");

    // Reads have a limit of their own, and so has everybody else.
    let look = ask(&processes[0], Method::GET, "/auth/me", &ada).await;
    assert_eq!(look.status(), 200);
    assert_eq!(header(&look, "ratelimit-policy"), "\"reads\";q=1000;w=3600");
    assert_eq!(ask(&processes[1], Method::PATCH, "/auth/me", &eve).await.status(), 200);

    // The next window.
    let pool = database.pool().await;
    sqlx::query!("UPDATE rate_windows SET ends_at = now() - interval '1 second'")
        .execute(&pool)
        .await
        .unwrap();
    let third = serve(&database, &limits);
    assert_eq!(ask(&third, Method::PATCH, "/auth/me", &ada).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn most_requests_ask_no_database_how_often_they_may() {
    let database = services::database().await;
    let program = serve(&database, &["--limit-reads", "800/1h", "--limit-requests", "off"]);
    let ada = register(&program.base, "ada").await;
    let pool = database.pool().await;
    assert_eq!(taken(&pool, ada.user, "reads").await, None);
    for number in 1..=100 {
        let answer = ask(&program, Method::GET, "/auth/me", &ada).await;
        assert_eq!(answer.status(), 200);
        let left = format!("\"reads\";r={};", 800 - number);
        assert!(header(&answer, "ratelimit").starts_with(&left), "{number}: {answer:?}");
        assert_eq!(taken(&pool, ada.user, "reads").await, Some(100), "one slice is enough");
    }
    // A key of hers is hers: it counts with her.
    assert_eq!(taken(&pool, ada.user, "writes").await, None);
    let key = json!({ "name": "k", "scopes": ["read"] });
    let key =
        crate::support::program::post(&program.base, "/auth/api-keys", Some(&ada.token), &key);
    let key = key.await["key"].as_str().unwrap().to_owned();
    assert_eq!(taken(&pool, ada.user, "writes").await, Some(75), "an eighth of 600");
    let with_key = Account { token: key, ..ada.clone() };
    let answer = ask(&program, Method::GET, "/auth/me", &with_key).await;
    assert!(header(&answer, "ratelimit").starts_with("\"reads\";r=699;"), "{answer:?}");
    assert_eq!(taken(&pool, ada.user, "reads").await, Some(187), "an eighth of the other 700");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_limit_for_all_requests_is_a_setting() {
    let database = services::database().await;
    let limits = ["--limit-requests", "3/1h", "--limit-reads", "off", "--limit-writes", "off"];
    let program = serve(&database, &limits);
    let ada = register(&program.base, "ada").await;
    for (method, status) in
        [(Method::GET, 200), (Method::PATCH, 200), (Method::GET, 200), (Method::GET, 429)]
    {
        let answer = ask(&program, method, "/auth/me", &ada).await;
        assert_eq!(answer.status(), status);
        assert_eq!(header(&answer, "ratelimit-policy"), "\"requests\";q=3;w=3600");
    }
    // What anybody may ask is not counted: it has bounds of its own.
    let health = reqwest::get(format!("{}/health", program.base)).await.unwrap();
    assert_eq!((health.status().as_u16(), header(&health, "ratelimit")), (200, ""));
}
