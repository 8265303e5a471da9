//! Coming in by code: a code is good once, for its purpose, for five minutes and five tries, and nobody learns who has an account.

use std::net::IpAddr;

use axum::http::StatusCode;
use chrono::TimeDelta;
use futures_util::future::join_all;
use ledgerline_api::identity::allowance::{self, Allowance};
use serde_json::{Value, json};

use crate::support::client::{Answer, Client};

const PASSWORD: &str = "correct horse battery";

/// A product whose first person, the operator, reads the outbox.
struct House {
    client: Client,
    operator: String,
}

impl House {
    async fn start() -> Self {
        let client = Client::start().await;
        let answer = register(&client, "operator@example.com").await;
        Self { operator: answer.text("access_token").to_owned(), client }
    }

    async fn ask(&self, email: &str, purpose: &str) -> Answer {
        let body = json!({"email": email, "purpose": purpose});
        self.client.post("/api/v1/auth/request-otp", None, &body).await
    }

    /// Asks for a code and reads it in the mail.
    async fn code(&self, email: &str, purpose: &str) -> String {
        let answer = self.ask(email, purpose).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let mail = self.mail(email).await;
        let digits: String = mail["text"].as_str().unwrap().lines().nth(2).unwrap().trim().into();
        assert!(digits.len() == 6 && digits.bytes().all(|b| b.is_ascii_digit()), "{mail}");
        assert!(mail["subject"].as_str().unwrap().starts_with(&digits), "{mail}");
        digits
    }

    /// The newest mail to an address.
    async fn mail(&self, email: &str) -> Value {
        let answer = self.client.get("/api/v1/system/outbox", Some(&self.operator)).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let mails = answer.body["items"].as_array().unwrap();
        let found = mails.iter().find(|mail| mail["recipient"] == email);
        found.unwrap_or_else(|| panic!("no mail to {email} in {mails:?}")).clone()
    }

    async fn prove(&self, email: &str, purpose: &str, code: &str) -> Answer {
        let body = json!({"email": email, "purpose": purpose, "code": code});
        self.client.post("/api/v1/auth/verify-otp", None, &body).await
    }

    async fn prove_with(&self, body: Value) -> Answer {
        self.client.post("/api/v1/auth/verify-otp", None, &body).await
    }

    async fn login(&self, email: &str, password: &str) -> Answer {
        let body = json!({"email": email, "password": password});
        self.client.post("/api/v1/auth/login", None, &body).await
    }
}

async fn register(client: &Client, email: &str) -> Answer {
    let body = json!({"email": email, "password": PASSWORD, "full_name": "Ada Lovelace"});
    let answer = client.post("/api/v1/auth/register", None, &body).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    answer
}

#[track_caller]
fn is_refused(answer: &Answer) {
    answer.is_problem(StatusCode::UNAUTHORIZED, "wrong-credentials");
}

/// Another code than this one.
fn wrong(code: &str) -> String {
    format!("{:06}", (code.parse::<u32>().unwrap() + 1) % 1_000_000)
}

#[tokio::test]
async fn a_code_signs_in_once_and_verifies_the_address() {
    let house = House::start().await;
    let ada = register(&house.client, "Ada@example.com").await;
    assert_eq!(ada.body["user"]["email_verified"], false);
    let code = house.code("ada@EXAMPLE.com", "login").await;
    let answer = house.prove("ada@example.com", "login", &format!(" {code} ")).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(answer.body["user"]["id"], ada.body["user"]["id"]);
    assert_eq!(answer.body["user"]["email_verified"], true);
    let me = house.client.get("/api/v1/auth/me", Some(answer.text("access_token"))).await;
    assert_eq!(me.status, StatusCode::OK);
    is_refused(&house.prove("ada@example.com", "login", &code).await);
}

#[tokio::test]
async fn nobody_learns_who_has_an_account() {
    let house = House::start().await;
    register(&house.client, "ada@example.com").await;
    for (purpose, unfit, tells) in [
        ("login", "nobody@example.com", "No Ledgerline account"),
        ("reset", "nobody@example.com", "No Ledgerline account"),
        ("signup", "ada@example.com", "You already have"),
    ] {
        let fit = if purpose == "signup" { "new@example.com" } else { "ada@example.com" };
        let (known, unknown) = (house.ask(fit, purpose).await, house.ask(unfit, purpose).await);
        assert_eq!(known.status, StatusCode::OK, "{known:?}");
        assert_eq!((known.status, &known.body), (unknown.status, &unknown.body), "{purpose}");
        assert_eq!(known.body["expires_in"], 300);
        let mail = house.mail(unfit).await;
        assert!(mail["subject"].as_str().unwrap().starts_with(tells), "{mail}");
        // The same rows were written, and no code opens what they stand for.
        let rows = sqlx::query!(
            r#"SELECT count(*) AS "rows!", count(*) FILTER (WHERE usable) AS "usable!"
               FROM one_time_codes WHERE purpose = $1"#,
            purpose
        );
        let rows = rows.fetch_one(house.client.pool()).await.unwrap();
        assert_eq!((rows.rows, rows.usable), (2, 1), "{purpose}");
        let body = json!({"email": unfit, "purpose": purpose, "code": "123456", "full_name": "N"});
        is_refused(&house.prove_with(body).await);
    }
}

#[tokio::test]
async fn a_code_dies_after_five_wrong_tries_and_at_its_time_and_by_a_newer_one() {
    let house = House::start().await;
    register(&house.client, "ada@example.com").await;
    let code = house.code("ada@example.com", "login").await;
    for _ in 0..5 {
        is_refused(&house.prove("ada@example.com", "login", &wrong(&code)).await);
    }
    is_refused(&house.prove("ada@example.com", "login", &code).await);

    let old = house.code("ada@example.com", "login").await;
    let new = house.code("ada@example.com", "login").await;
    if old != new {
        is_refused(&house.prove("ada@example.com", "login", &old).await);
    }
    house.client.clock.advance(TimeDelta::seconds(299));
    assert_eq!(house.prove("ada@example.com", "login", &new).await.status, StatusCode::OK);

    let late = house.code("ada@example.com", "login").await;
    house.client.clock.advance(TimeDelta::seconds(300));
    is_refused(&house.prove("ada@example.com", "login", &late).await);
}

#[tokio::test]
async fn of_many_who_use_a_code_at_once_one_comes_in() {
    let house = House::start().await;
    register(&house.client, "ada@example.com").await;
    let code = house.code("ada@example.com", "login").await;
    let tries = (0..8).map(|_| house.prove("ada@example.com", "login", &code));
    let answers = join_all(tries).await;
    let came_in = answers.iter().filter(|answer| answer.status == StatusCode::OK).count();
    assert_eq!(came_in, 1, "{answers:?}");
}

#[tokio::test]
async fn a_code_for_one_purpose_is_none_for_another() {
    let house = House::start().await;
    register(&house.client, "ada@example.com").await;
    let code = house.code("ada@example.com", "login").await;
    is_refused(&house.prove("ada@example.com", "reset", &code).await);
    is_refused(&house.prove("operator@example.com", "login", &code).await);
    assert_eq!(house.prove("ada@example.com", "login", &code).await.status, StatusCode::OK);
}

#[tokio::test]
async fn somebody_signs_up_by_code_and_lives_without_a_password() {
    let house = House::start().await;
    let code = house.code("bob@example.com", "signup").await;
    let body = json!({"email": "bob@example.com", "purpose": "signup", "code": code});
    let nameless = house.prove_with(body).await;
    nameless.is_problem(StatusCode::UNPROCESSABLE_ENTITY, "invalid-value");
    let short = json!({"email": "bob@example.com", "purpose": "signup", "code": code, "full_name": "Bob", "password": "short"});
    let short = house.prove_with(short).await;
    short.is_problem(StatusCode::UNPROCESSABLE_ENTITY, "invalid-value");
    assert_eq!(short.body["errors"][0]["pointer"], "/password");

    // Neither of them has used the code up.
    let body = json!({"email": "bob@example.com", "purpose": "signup", "code": code, "full_name": "Bob", "cookies": true});
    let bob = house.prove_with(body).await;
    assert_eq!(bob.status, StatusCode::OK, "{bob:?}");
    assert_eq!(bob.body["user"]["email_verified"], true);
    assert_eq!(bob.headers_named("set-cookie").len(), 2);
    let me = house.client.get("/api/v1/auth/me", Some(bob.text("access_token"))).await;
    assert_eq!(me.status, StatusCode::OK, "{me:?}");
    is_refused(&house.login("bob@example.com", PASSWORD).await);
    let code = house.code("bob@example.com", "login").await;
    assert_eq!(house.prove("bob@example.com", "login", &code).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_forgotten_password_is_set_anew_and_all_sessions_end() {
    let house = House::start().await;
    let ada = register(&house.client, "ada@example.com").await;
    let code = house.code("ada@example.com", "reset").await;
    let answer = house.prove("ada@example.com", "reset", &code).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(answer.body.get("access_token"), None, "a reset signs nobody in");
    let token = answer.text("reset_token").to_owned();
    let set = |token: &str, password: &str| {
        let body = json!({"reset_token": token, "new_password": password});
        let client = &house.client;
        async move { client.post("/api/v1/auth/password", None, &body).await }
    };
    is_refused(&set("llp_none", "another horse battery").await);
    set(&token, "short").await.is_problem(StatusCode::UNPROCESSABLE_ENTITY, "invalid-value");
    let done = set(&token, "another horse battery").await;
    assert_eq!(done.status, StatusCode::NO_CONTENT, "{done:?}");
    is_refused(&set(&token, "a third horse battery").await);

    let me = house.client.get("/api/v1/auth/me", Some(ada.text("access_token"))).await;
    me.is_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
    is_refused(&house.login("ada@example.com", PASSWORD).await);
    let in_again = house.login("ada@example.com", "another horse battery").await;
    assert_eq!(in_again.status, StatusCode::OK, "{in_again:?}");

    let both = json!({"reset_token": "llp_x", "old_password": PASSWORD, "new_password": PASSWORD});
    let both = house.client.post("/api/v1/auth/password", None, &both).await;
    both.is_problem(StatusCode::UNPROCESSABLE_ENTITY, "invalid-value");
}

#[tokio::test]
async fn the_right_to_set_a_password_runs_out() {
    let house = House::start().await;
    register(&house.client, "ada@example.com").await;
    let code = house.code("ada@example.com", "reset").await;
    let token = house.prove("ada@example.com", "reset", &code).await.text("reset_token").to_owned();
    house.client.clock.advance(TimeDelta::minutes(10));
    let body = json!({"reset_token": token, "new_password": "another horse battery"});
    is_refused(&house.client.post("/api/v1/auth/password", None, &body).await);
    assert_eq!(house.login("ada@example.com", PASSWORD).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_link_verifies_the_address_once_and_can_be_asked_for_again() {
    let house = House::start().await;
    let ada = register(&house.client, "ada@example.com").await;
    let token = ada.text("access_token");
    let link_token = |mail: &Value| {
        let text = mail["text"].as_str().unwrap();
        let (_, rest) = text.split_once("/#verify=").unwrap_or_else(|| panic!("no link in {text}"));
        rest.split_whitespace().next().unwrap().to_owned()
    };
    let first = link_token(&house.mail("ada@example.com").await);
    let nothing = json!({});
    let path = "/api/v1/auth/request-verification";
    let again = house.client.post(path, Some(token), &nothing).await;
    assert_eq!(again.status, StatusCode::ACCEPTED);
    let second = link_token(&house.mail("ada@example.com").await);
    let verify = |token: &str| {
        let body = json!({"token": token});
        let client = &house.client;
        async move { client.post("/api/v1/auth/verify-email", None, &body).await }
    };
    is_refused(&verify(&first).await);
    assert_eq!(verify(&second).await.status, StatusCode::NO_CONTENT);
    is_refused(&verify(&second).await);
    let me = house.client.get("/api/v1/auth/me", Some(token)).await;
    assert_eq!(me.body["email_verified"], true);
}

#[tokio::test]
async fn codes_are_asked_for_five_times_in_a_quarter_of_an_hour_exactly() {
    let house = House::start().await;
    let asked = join_all((0..12).map(|_| house.ask("ada@example.com", "login"))).await;
    let sent = asked.iter().filter(|answer| answer.status == StatusCode::OK).count();
    assert_eq!(sent, 5, "{asked:?}");
    let refused = asked.iter().find(|answer| answer.status != StatusCode::OK).unwrap();
    refused.is_problem(StatusCode::TOO_MANY_REQUESTS, "too-many-requests");
    assert_eq!(refused.header("retry-after"), "900");
    house.client.clock.advance(TimeDelta::seconds(899));
    assert_ne!(house.ask("ada@example.com", "login").await.status, StatusCode::OK);
    house.client.clock.advance(TimeDelta::seconds(1));
    assert_eq!(house.ask("ada@example.com", "login").await.status, StatusCode::OK);
}

#[tokio::test]
async fn one_place_in_the_network_has_so_many_tries_over_all_addresses() {
    let client = Client::start().await;
    let now = client.clock.now();
    let place: IpAddr = "2001:db8:1:2::1".parse().unwrap();
    let neighbour: IpAddr = "2001:db8:1:2:ffff::9".parse().unwrap();
    let asking = [Allowance::CodesAskedFrom(place)];
    for _ in 0..5 {
        allowance::take(client.pool(), &asking, now).await.unwrap();
    }
    let sixth = allowance::take(client.pool(), &[Allowance::CodesAskedFrom(neighbour)], now).await;
    assert_eq!(sixth.unwrap_err().kind().status(), StatusCode::TOO_MANY_REQUESTS);
    let trying = [Allowance::CodesTriedFrom(place)];
    let tries = join_all((0..16).map(|_| allowance::take(client.pool(), &trying, now))).await;
    assert_eq!(tries.iter().filter(|taken| taken.is_ok()).count(), 10);
}

#[tokio::test]
async fn only_operators_read_the_outbox() {
    let house = House::start().await;
    let ada = register(&house.client, "ada@example.com").await;
    let answer = house.client.get("/api/v1/system/outbox", Some(ada.text("access_token"))).await;
    answer.is_problem(StatusCode::FORBIDDEN, "forbidden");
}
