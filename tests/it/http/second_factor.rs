//! The second factor over HTTP: it is asked for in every way in, its codes count once, and guessing gets nowhere.

use axum::http::StatusCode;
use chrono::TimeDelta;
use futures_util::future::join_all;
use ledgerline_api::{
    identity::{second_factor, session},
    problem::ProblemKind,
};
use ledgerline_store::seal::{MasterKey, SealPurpose};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use totp_rs::{Builder, Secret, Totp};
use uuid::Uuid;

use crate::support::{
    app::{identity_elsewhere, master_key},
    client::{Answer, Client},
};

const PASSWORD: &str = "correct horse battery";
const PATH: &str = "/api/v1/auth/totp";

async fn register(client: &Client, email: &str) -> Answer {
    let body = json!({ "email": email, "password": PASSWORD, "full_name": "Ada Lovelace" });
    client.post("/api/v1/auth/register", None, &body).await
}

async fn login(client: &Client, email: &str) -> Answer {
    let body = json!({ "email": email, "password": PASSWORD });
    client.post("/api/v1/auth/login", None, &body).await
}

async fn go_on(client: &Client, challenge: &str, code: &str) -> Answer {
    let body = json!({ "challenge": challenge, "code": code });
    client.post("/api/v1/auth/login/continue", None, &body).await
}

/// An authenticator app.
struct Phone(Totp);

impl Phone {
    fn code(&self, client: &Client) -> String {
        self.code_at(client, 0)
    }

    fn code_at(&self, client: &Client, seconds: i64) -> String {
        let time = client.clock.now().timestamp() + seconds;
        self.0.generate(u64::try_from(time).unwrap()).to_string()
    }
}

/// Begins a second factor; it is not on yet.
async fn begin(client: &Client, token: &str) -> Phone {
    let begun = client.post(PATH, Some(token), &json!({ "password": PASSWORD })).await;
    assert_eq!(begun.status, StatusCode::CREATED, "{begun:?}");
    let secret = begun.text("secret");
    let uri = begun.text("otpauth_uri");
    assert!(uri.starts_with("otpauth://totp/Ledgerline:") && uri.contains(secret), "{uri}");
    let secret = Secret::try_from_base32(secret).unwrap();
    assert_eq!(secret.as_bytes().len(), 20);
    Phone(Builder::new().with_secret(secret).build().unwrap())
}

/// Turns a second factor on; gives the app and the recovery codes.
async fn turn_on(client: &Client, token: &str) -> (Phone, Vec<String>) {
    let phone = begin(client, token).await;
    let body = json!({ "code": phone.code(client) });
    let on = client.post(&format!("{PATH}/confirm"), Some(token), &body).await;
    assert_eq!(on.status, StatusCode::OK, "{on:?}");
    let codes = on.body["recovery_codes"].as_array().unwrap();
    (phone, codes.iter().map(|code| code.as_str().unwrap().to_owned()).collect())
}

#[track_caller]
fn challenge(answer: &Answer) -> String {
    answer.is_problem(StatusCode::UNAUTHORIZED, "second-factor-required");
    assert_eq!(answer.body["expires_in"], 300);
    assert!(answer.headers_named("set-cookie").is_empty(), "{answer:?}");
    assert!(answer.body.get("access_token").is_none(), "{answer:?}");
    answer.text("challenge").to_owned()
}

#[tokio::test]
async fn a_second_factor_is_asked_for_and_a_code_counts_once() {
    let client = Client::start().await;
    let ada = register(&client, "ada@example.com").await;
    let other = login(&client, "ada@example.com").await;
    let token = ada.text("access_token");
    let off = client.get(PATH, Some(token)).await;
    assert_eq!(off.body, json!({ "enabled": false, "enabled_at": null, "recovery_codes_left": 0 }));
    // Begun and not confirmed it is not asked for, and the wrong code does not turn it on.
    let phone = begin(&client, token).await;
    let wrong = json!({ "code": phone.code_at(&client, 3_600) });
    let refused = client.post(&format!("{PATH}/confirm"), Some(token), &wrong).await;
    refused.is_problem(StatusCode::UNAUTHORIZED, "wrong-credentials");
    assert_eq!(login(&client, "ada@example.com").await.status, StatusCode::OK);

    let (phone, recovery) = turn_on(&client, token).await;
    assert_eq!(recovery.len(), 10);
    let on = client.get(PATH, Some(token)).await;
    assert_eq!((&on.body["enabled"], &on.body["recovery_codes_left"]), (&json!(true), &json!(10)));
    let me = "/api/v1/auth/me";
    let without = client.get(me, Some(other.text("access_token"))).await;
    assert_eq!(without.status, StatusCode::UNAUTHORIZED, "sessions without it end");
    assert_eq!(client.get(me, Some(token)).await.status, StatusCode::OK);
    let again = client.post(PATH, Some(token), &json!({ "password": PASSWORD })).await;
    assert_eq!(again.body["rule"], "second_factor_on", "{again:?}");

    // The code that confirmed it is used up, also for the steps that a clock may differ by.
    let first = challenge(&login(&client, "ada@example.com").await);
    for used in [phone.code(&client), phone.code_at(&client, -30)] {
        let replayed = go_on(&client, &first, &used).await;
        replayed.is_problem(StatusCode::UNAUTHORIZED, "wrong-credentials");
    }
    client.clock.advance(TimeDelta::seconds(30));
    let code = phone.code(&client);
    let tokens = go_on(&client, &first, &code).await;
    assert_eq!(tokens.status, StatusCode::OK, "{tokens:?}");
    assert_eq!(client.get(me, Some(tokens.text("access_token"))).await.status, StatusCode::OK);
    // Neither the challenge nor the code is good again.
    client.clock.advance(TimeDelta::seconds(30));
    let spent = go_on(&client, &first, &phone.code(&client)).await;
    spent.is_problem(StatusCode::UNAUTHORIZED, "wrong-credentials");
    let second = challenge(&login(&client, "ada@example.com").await);
    let replayed = go_on(&client, &second, &code).await;
    replayed.is_problem(StatusCode::UNAUTHORIZED, "wrong-credentials");
    let late = challenge(&login(&client, "ada@example.com").await);
    client.clock.advance(TimeDelta::minutes(5));
    let refused = go_on(&client, &late, &phone.code(&client)).await;
    refused.is_problem(StatusCode::UNAUTHORIZED, "wrong-credentials");
}

#[tokio::test]
async fn of_one_code_at_the_same_time_one_counts() {
    let client = Client::start().await;
    let ada = register(&client, "ada@example.com").await;
    let (phone, _) = turn_on(&client, ada.text("access_token")).await;
    client.clock.advance(TimeDelta::seconds(30));
    let code = phone.code(&client);
    let mut challenges = Vec::new();
    for _ in 0..4 {
        challenges.push(challenge(&login(&client, "ada@example.com").await));
    }
    let answers = join_all(challenges.iter().map(|it| go_on(&client, it, &code))).await;
    let accepted = answers.iter().filter(|answer| answer.status == StatusCode::OK).count();
    assert_eq!(accepted, 1, "{answers:?}");
}

#[tokio::test]
async fn a_code_by_mail_is_no_way_around_it_and_a_reset_neither() {
    let client = Client::start().await;
    let ada = register(&client, "ada@example.com").await;
    let (phone, _) = turn_on(&client, ada.text("access_token")).await;
    for purpose in ["login", "reset"] {
        let asked = json!({ "email": "ada@example.com", "purpose": purpose });
        client.post("/api/v1/auth/request-otp", None, &asked).await;
        let mails = client.get("/api/v1/system/outbox", Some(ada.text("access_token"))).await;
        let digits = mails.body["items"][0]["subject"].as_str().unwrap()[..6].to_owned();
        let proof = json!({ "email": "ada@example.com", "purpose": purpose, "code": digits });
        let answer = client.post("/api/v1/auth/verify-otp", None, &proof).await;
        if purpose == "login" {
            challenge(&answer);
            continue;
        }
        let reset = json!({ "reset_token": answer.text("reset_token"), "new_password": PASSWORD });
        let set = client.post("/api/v1/auth/password", None, &reset).await;
        assert_eq!(set.status, StatusCode::NO_CONTENT, "{set:?}");
    }
    let asked = challenge(&login(&client, "ada@example.com").await);
    client.clock.advance(TimeDelta::seconds(30));
    assert_eq!(go_on(&client, &asked, &phone.code(&client)).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_recovery_code_is_good_once_and_new_ones_end_the_old() {
    let client = Client::start().await;
    let ada = register(&client, "ada@example.com").await;
    let (phone, recovery) = turn_on(&client, ada.text("access_token")).await;
    let asked = challenge(&login(&client, "ada@example.com").await);
    // As somebody types it who reads it from paper.
    let typed = recovery[0].to_lowercase().replace('-', " ");
    let tokens = go_on(&client, &asked, &typed).await;
    assert_eq!(tokens.status, StatusCode::OK, "{tokens:?}");
    let token = Some(tokens.text("access_token"));
    assert_eq!(client.get(PATH, token).await.body["recovery_codes_left"], 9);
    let asked = challenge(&login(&client, "ada@example.com").await);
    let again = go_on(&client, &asked, &recovery[0]).await;
    again.is_problem(StatusCode::UNAUTHORIZED, "wrong-credentials");

    client.clock.advance(TimeDelta::seconds(30));
    let body = json!({ "code": phone.code(&client) });
    let renewed = client.post(&format!("{PATH}/recovery-codes"), token, &body).await;
    assert_eq!(renewed.status, StatusCode::OK, "{renewed:?}");
    let old = go_on(&client, &asked, &recovery[1]).await;
    old.is_problem(StatusCode::UNAUTHORIZED, "wrong-credentials");
    let new = renewed.body["recovery_codes"][0].as_str().unwrap();
    assert_eq!(go_on(&client, &asked, new).await.status, StatusCode::OK);
    // Nobody else's account takes it.
    let eve = register(&client, "eve@example.com").await;
    turn_on(&client, eve.text("access_token")).await;
    let asked = challenge(&login(&client, "eve@example.com").await);
    let theirs = renewed.body["recovery_codes"][1].as_str().unwrap();
    let refused = go_on(&client, &asked, theirs).await;
    refused.is_problem(StatusCode::UNAUTHORIZED, "wrong-credentials");
}

#[tokio::test]
async fn guesses_are_bounded_over_challenges_and_processes() {
    let client = Client::start().await;
    let ada = register(&client, "ada@example.com").await;
    let (phone, _) = turn_on(&client, ada.text("access_token")).await;
    client.clock.advance(TimeDelta::minutes(15));
    let one = challenge(&login(&client, "ada@example.com").await);
    for _ in 0..5 {
        let wrong = go_on(&client, &one, "000000").await;
        wrong.is_problem(StatusCode::UNAUTHORIZED, "wrong-credentials");
    }
    let dead = go_on(&client, &one, &phone.code(&client)).await;
    dead.is_problem(StatusCode::UNAUTHORIZED, "wrong-credentials");
    assert!(dead.body["detail"].as_str().unwrap().contains("challenge"), "{dead:?}");

    // Whoever knows the password gets new challenges, and no more tries: five are left, for all processes together.
    let stop = CancellationToken::new();
    let other = identity_elsewhere(client.pool().clone(), client.clock.clone(), &stop).await;
    let mut challenges = Vec::new();
    for _ in 0..16 {
        challenges.push(SecretString::from(challenge(&login(&client, "ada@example.com").await)));
    }
    let (nobody, now) = (session::Client::default(), client.clock.now());
    let identities = [client.identity(), &other];
    let guesses = challenges.iter().enumerate().map(|(at, challenge)| {
        identities[at % 2].answer_challenge(challenge, Some("000000"), None, &nobody, now)
    });
    let kinds: Vec<ProblemKind> =
        join_all(guesses).await.into_iter().map(|guess| guess.unwrap_err().kind()).collect();
    let count = |kind| kinds.iter().filter(|found| **found == kind).count();
    assert_eq!(count(ProblemKind::WrongCredentials), 5, "{kinds:?}");
    assert_eq!(count(ProblemKind::TooManyRequests), 11, "{kinds:?}");
    let asked = challenge(&login(&client, "ada@example.com").await);
    let full = go_on(&client, &asked, &phone.code(&client)).await;
    full.is_problem(StatusCode::TOO_MANY_REQUESTS, "too-many-requests");
    client.clock.advance(TimeDelta::minutes(15));
    let asked = challenge(&login(&client, "ada@example.com").await);
    assert_eq!(go_on(&client, &asked, &phone.code(&client)).await.status, StatusCode::OK);
    stop.cancel();
}

#[tokio::test]
async fn it_is_removed_with_the_password_and_a_code() {
    let client = Client::start().await;
    let ada = register(&client, "ada@example.com").await;
    let token = Some(ada.text("access_token"));
    let path = format!("{PATH}/remove");
    let body = |password: &str, code: &str| json!({ "password": password, "code": code });
    let none = client.post(&path, token, &body(PASSWORD, "000000")).await;
    assert_eq!(none.body["rule"], "second_factor_off", "{none:?}");
    let wrong = client.post(PATH, token, &json!({ "password": "not the password" })).await;
    wrong.is_problem(StatusCode::UNAUTHORIZED, "wrong-credentials");
    let missing = client.post(PATH, token, &json!({})).await;
    assert_eq!(missing.body["errors"][0]["pointer"], "/password", "{missing:?}");
    let (phone, _) = turn_on(&client, ada.text("access_token")).await;
    client.clock.advance(TimeDelta::seconds(30));
    let code = phone.code(&client);
    for refused in [
        client.post(&path, token, &body("not the password", &code)).await,
        client.post(&path, token, &body(PASSWORD, "000000")).await,
    ] {
        refused.is_problem(StatusCode::UNAUTHORIZED, "wrong-credentials");
    }
    let key = client
        .post("/api/v1/auth/api-keys", token, &json!({ "name": "k", "scopes": ["admin"] }))
        .await;
    let by_key = client.post(&path, Some(key.text("key")), &body(PASSWORD, &code)).await;
    by_key.is_problem(StatusCode::FORBIDDEN, "forbidden");
    let removed = client.post(&path, token, &body(PASSWORD, &code)).await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT, "{removed:?}");
    assert_eq!(login(&client, "ada@example.com").await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_secret_is_sealed_bound_to_its_person_and_sealed_again() {
    let client = Client::start().await;
    let ada = register(&client, "ada@example.com").await;
    let (phone, recovery) = turn_on(&client, ada.text("access_token")).await;
    let row = async || {
        let row = sqlx::query!("SELECT user_id, sealed_secret FROM second_factors");
        let row = row.fetch_one(client.pool()).await.unwrap();
        (row.user_id, row.sealed_secret)
    };
    let (user, sealed) = row().await;
    let secret = phone.0.secret().as_bytes();
    assert!(!sealed.windows(secret.len()).any(|part| part == secret));
    let (old, purpose) = (master_key(), SealPurpose::SecondFactor);
    assert_eq!(old.open(purpose, &user.to_string(), &sealed).unwrap(), secret);
    assert!(old.open(purpose, &Uuid::now_v7().to_string(), &sealed).is_err());
    let hashes = sqlx::query_scalar!("SELECT code_hash FROM recovery_codes");
    let hashes = hashes.fetch_all(client.pool()).await.unwrap();
    let plain = recovery[0].replace('-', "").into_bytes();
    assert!(hashes.iter().all(|hash| hash.len() == 32 && !hash.starts_with(&plain)));
    let new = MasterKey::new([9; 32]);
    let both = MasterKey::new([9; 32]).replacing([old.clone()]);
    assert_eq!(second_factor::rewrap(client.pool(), &both).await.unwrap(), 1);
    let (_, sealed) = row().await;
    assert!(old.open(purpose, &user.to_string(), &sealed).is_err());
    assert_eq!(new.open(purpose, &user.to_string(), &sealed).unwrap(), secret);
}

/// A session never begins with what a browser brings along.
#[tokio::test]
async fn a_session_that_somebody_else_began_is_not_taken_over_by_signing_in() {
    let client = Client::start().await;
    let eve = register(&client, "eve@example.com").await;
    register(&client, "ada@example.com").await;
    let planted = format!(
        "ledgerline_access={}; ledgerline_refresh={}; ledgerline_browser=llb_x",
        eve.text("access_token"),
        eve.text("refresh_token")
    );
    let body = json!({ "email": "ada@example.com", "password": PASSWORD, "cookies": true });
    let headers = [("cookie", planted), ("sec-fetch-site", "same-origin".to_owned())];
    let path = "/api/v1/auth/login";
    let ada = client.send(axum::http::Method::POST, path, None, Some(&body), &headers).await;
    assert_eq!(ada.status, StatusCode::OK, "{ada:?}");
    assert_ne!(ada.text("refresh_token"), eve.text("refresh_token"));
    let set = ada.headers_named("set-cookie").join("; ");
    assert!(set.contains(ada.text("access_token")) && set.contains(ada.text("refresh_token")));
    let claim = |token: &str| {
        use base64::Engine as _;
        let part = token.split('.').nth(1).unwrap();
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).unwrap();
        serde_json::from_slice::<Value>(&bytes).unwrap()["sid"].clone()
    };
    assert_ne!(claim(ada.text("access_token")), claim(eve.text("access_token")));
    let me = client.get("/api/v1/auth/me", Some(eve.text("access_token"))).await;
    assert_eq!(me.body["email"], "eve@example.com");
}
