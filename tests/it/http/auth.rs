//! Coming in and going out over HTTP: what is accepted, what is refused and how, and that revocation acts on the next request.

use axum::http::{Method, StatusCode};
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use ledgerline_api::{
    config::{AuthConfig, Config},
    identity::backoff::{self, Subject},
    problem::ProblemKind,
};
use serde_json::{Value, json};

use crate::support::{
    app::App,
    client::{Answer, Client},
};

const PASSWORD: &str = "correct horse battery";

async fn register(client: &Client, email: &str) -> Answer {
    let body = json!({"email": email, "password": PASSWORD, "full_name": "Ada Lovelace"});
    client.post("/api/v1/auth/register", None, &body).await
}

async fn login(client: &Client, email: &str, password: &str) -> Answer {
    let body = json!({"email": email, "password": password});
    client.post("/api/v1/auth/login", None, &body).await
}

async fn refresh(client: &Client, token: &str) -> Answer {
    client.post("/api/v1/auth/refresh", None, &json!({"refresh_token": token})).await
}

#[tokio::test]
async fn registering_signs_in_and_the_first_one_is_the_operator() {
    let client = Client::start().await;
    let ada = register(&client, " Ada@Example.com ").await;
    assert_eq!(ada.status, StatusCode::CREATED, "{ada:?}");
    assert_eq!(ada.header("location"), "/api/v1/auth/me");
    assert_eq!(ada.body["token_type"], "bearer");
    assert_eq!(ada.body["expires_in"], 900);
    assert_eq!(ada.body["user"]["is_operator"], true);

    let me = client.get("/api/v1/auth/me", Some(ada.text("access_token"))).await;
    assert_eq!(me.status, StatusCode::OK);
    assert_eq!(me.body["email"], "Ada@Example.com");
    assert_eq!(me.body, ada.body["user"]);

    let bob = register(&client, "bob@example.com").await;
    assert_eq!(bob.body["user"]["is_operator"], false);
    let again = register(&client, "ADA@example.COM").await;
    again.is_problem(StatusCode::CONFLICT, "address-taken");
}

#[tokio::test]
async fn values_that_are_not_valid_are_all_pointed_at() {
    let client = Client::start().await;
    let body = json!({"email": "nobody", "password": "short", "full_name": ""});
    let answer = client.post("/api/v1/auth/register", None, &body).await;
    answer.is_problem(StatusCode::UNPROCESSABLE_ENTITY, "invalid-value");
    let pointers: Vec<&str> = answer.body["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["pointer"].as_str().unwrap())
        .collect();
    assert_eq!(pointers, ["/email", "/password", "/full_name"]);

    let body =
        json!({"email": "a@b.co", "password": PASSWORD, "full_name": "A", "role": "operator"});
    let answer = client.post("/api/v1/auth/register", None, &body).await;
    answer.is_problem(StatusCode::UNPROCESSABLE_ENTITY, "invalid-value");
    assert_eq!(answer.body["errors"][0]["pointer"], "/role");
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_address_are_answered_alike() {
    let client = Client::start().await;
    register(&client, "ada@example.com").await;
    assert_eq!(login(&client, "ADA@example.com", PASSWORD).await.status, StatusCode::OK);
    let wrong = login(&client, "ada@example.com", "not the password").await;
    let unknown = login(&client, "eve@example.com", PASSWORD).await;
    wrong.is_problem(StatusCode::UNAUTHORIZED, "wrong-credentials");
    assert_eq!(wrong.body["detail"], unknown.body["detail"]);
    assert_eq!(wrong.status, unknown.status);
}

#[tokio::test]
async fn guessing_backs_off_and_the_wait_ends() {
    let client = Client::start().await;
    register(&client, "ada@example.com").await;
    for _ in 0..5 {
        let answer = login(&client, "ada@example.com", "not the password").await;
        answer.is_problem(StatusCode::UNAUTHORIZED, "wrong-credentials");
    }
    let refused = login(&client, "ada@example.com", PASSWORD).await;
    refused.is_problem(StatusCode::TOO_MANY_REQUESTS, "too-many-requests");
    let wait: i64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=300).contains(&wait), "{wait}");
    let other = login(&client, "bob@example.com", PASSWORD).await;
    assert_eq!(other.status, StatusCode::UNAUTHORIZED, "others are not held up");
    client.clock.advance(TimeDelta::seconds(wait));
    assert_eq!(login(&client, "ada@example.com", PASSWORD).await.status, StatusCode::OK);
    let next = login(&client, "ada@example.com", "not the password").await;
    assert_eq!(next.status, StatusCode::UNAUTHORIZED, "a success starts anew");
}

/// How many of these sign-ins at once were answered with a status.
fn answered(answers: &[Answer], status: StatusCode) -> usize {
    answers.iter().filter(|answer| answer.status == status).count()
}

#[tokio::test]
async fn who_signs_in_twice_at_once_gets_in_twice() {
    let client = Client::start().await;
    register(&client, "ada@example.com").await;
    for _ in 0..3 {
        let wrong = login(&client, "ada@example.com", "not the password").await;
        assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
    }
    let both = join_all((0..2).map(|_| login(&client, "ada@example.com", PASSWORD))).await;
    assert_eq!(answered(&both, StatusCode::OK), 2, "{both:?}");
    let five = join_all((0..5).map(|_| login(&client, "ada@example.com", PASSWORD))).await;
    assert_eq!(answered(&five, StatusCode::OK), 5, "{five:?}");
    // Requests arrive in another order than their clocks tell.
    for _ in 0..3 {
        client.clock.advance(TimeDelta::milliseconds(-1));
        let earlier = login(&client, "ada@example.com", PASSWORD).await;
        assert_eq!(earlier.status, StatusCode::OK, "{earlier:?}");
    }
    login(&client, "ada@example.com", "not the password").await;
    client.clock.advance(TimeDelta::milliseconds(-1));
    assert_eq!(login(&client, "ada@example.com", PASSWORD).await.status, StatusCode::OK);
}

#[tokio::test]
async fn guesses_at_once_are_as_many_as_in_a_row() {
    let client = Client::start().await;
    register(&client, "ada@example.com").await;
    let guess = |_| login(&client, "ada@example.com", "not the password");
    let guesses = join_all((0..20).map(guess)).await;
    assert_eq!(answered(&guesses, StatusCode::UNAUTHORIZED), 5, "{guesses:?}");
    assert_eq!(answered(&guesses, StatusCode::TOO_MANY_REQUESTS), 15, "{guesses:?}");
    // After each wait there is one more, and the next wait is longer.
    for expected in [1, 2, 4, 8] {
        let refused = login(&client, "ada@example.com", PASSWORD).await;
        assert_eq!(refused.header("retry-after"), expected.to_string(), "{refused:?}");
        client.clock.advance(TimeDelta::milliseconds(expected * 1_000 - 1));
        let early = login(&client, "ada@example.com", PASSWORD).await;
        assert_eq!(early.status, StatusCode::TOO_MANY_REQUESTS);
        client.clock.advance(TimeDelta::milliseconds(1));
        let guesses = join_all((0..5).map(guess)).await;
        assert_eq!(answered(&guesses, StatusCode::UNAUTHORIZED), 1, "{guesses:?}");
    }
}

#[tokio::test]
async fn a_success_forgives_what_came_before_it_and_no_more() {
    let app = App::start().await;
    let (pool, now) = (&app.state.pool, app.state.clock.now());
    let ip = Subject::Ip("192.0.2.1".parse().unwrap());
    let address = [ip, Subject::Address("ada@example.com")];
    let count = || backoff::count(pool, &address, now);
    let _wrong = count().await.unwrap();
    let right = count().await.unwrap();
    let _guesses = [count().await.unwrap(), count().await.unwrap(), count().await.unwrap()];
    assert_eq!(count().await.unwrap_err().kind(), ProblemKind::TooManyRequests);
    right.forgive(pool).await.unwrap();
    // The three guesses after the success still count, so two more are free.
    let _guesses = [count().await.unwrap(), count().await.unwrap()];
    assert_eq!(count().await.unwrap_err().kind(), ProblemKind::TooManyRequests);
}

#[tokio::test]
async fn a_place_in_the_network_gets_back_only_what_succeeded() {
    let app = App::start().await;
    let (pool, now) = (&app.state.pool, app.state.clock.now());
    let place = [Subject::Ip("192.0.2.1".parse().unwrap())];
    let count = |at| backoff::count(pool, &place, at);
    for _ in 0..48 {
        let _wrong = count(now).await.unwrap();
    }
    let right = [count(now).await.unwrap(), count(now).await.unwrap()];
    assert_eq!(count(now).await.unwrap_err().kind(), ProblemKind::TooManyRequests);
    for right in right {
        right.forgive(pool).await.unwrap();
    }
    let _wrong = [count(now).await.unwrap(), count(now).await.unwrap()];
    assert_eq!(count(now).await.unwrap_err().kind(), ProblemKind::TooManyRequests);
    // One that takes longer than its wait does not end the wait of the guess after it.
    let slow = count(now + TimeDelta::seconds(1)).await.unwrap();
    let later = now + TimeDelta::seconds(3);
    let _wrong = count(later).await.unwrap();
    slow.forgive(pool).await.unwrap();
    assert_eq!(count(later).await.unwrap_err().kind(), ProblemKind::TooManyRequests);
}

#[tokio::test]
async fn a_refresh_token_is_good_once_and_a_copy_ends_the_session() {
    let client = Client::start().await;
    let first = register(&client, "ada@example.com").await;
    let second = refresh(&client, first.text("refresh_token")).await;
    assert_eq!(second.status, StatusCode::OK);
    let me = client.get("/api/v1/auth/me", Some(second.text("access_token"))).await;
    assert_eq!(me.status, StatusCode::OK);

    let copy = refresh(&client, first.text("refresh_token")).await;
    copy.is_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
    for answer in [
        refresh(&client, second.text("refresh_token")).await,
        client.get("/api/v1/auth/me", Some(second.text("access_token"))).await,
    ] {
        answer.is_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
    }
    for nonsense in ["", "llr_", "llr_AAAA", &"x".repeat(10_000)] {
        assert_eq!(refresh(&client, nonsense).await.status, StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn tokens_and_sessions_end_with_time() {
    let client = Client::start().await;
    let tokens = register(&client, "ada@example.com").await;
    client.clock.advance(TimeDelta::seconds(899));
    let me = "/api/v1/auth/me";
    assert_eq!(client.get(me, Some(tokens.text("access_token"))).await.status, StatusCode::OK);
    client.clock.advance(TimeDelta::seconds(1));
    let late = client.get(me, Some(tokens.text("access_token"))).await;
    late.is_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
    let next = refresh(&client, tokens.text("refresh_token")).await;
    assert_eq!(next.status, StatusCode::OK);
    client.clock.advance(TimeDelta::days(7));
    assert_eq!(refresh(&client, next.text("refresh_token")).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn ending_a_session_acts_on_the_next_request() {
    let client = Client::start().await;
    register(&client, "ada@example.com").await;
    let phone = login(&client, "ada@example.com", PASSWORD).await;
    let laptop = login(&client, "ada@example.com", PASSWORD).await;
    let stranger = register(&client, "bob@example.com").await;

    let sessions = client.get("/api/v1/auth/sessions", Some(laptop.text("access_token"))).await;
    let items = sessions.body["items"].as_array().unwrap();
    assert_eq!(items.len(), 3);
    assert!(items[0]["current"].as_bool().unwrap(), "the newest is the one that asks");
    let of_phone = format!("/api/v1/auth/sessions/{}", items[1]["id"].as_str().unwrap());
    let by_stranger = client.delete(&of_phone, Some(stranger.text("access_token"))).await;
    by_stranger.is_problem(StatusCode::NOT_FOUND, "not-found");

    let ended = client.delete(&of_phone, Some(laptop.text("access_token"))).await;
    assert_eq!(ended.status, StatusCode::NO_CONTENT);
    let me = "/api/v1/auth/me";
    assert_eq!(
        client.get(me, Some(phone.text("access_token"))).await.status,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(
        refresh(&client, phone.text("refresh_token")).await.status,
        StatusCode::UNAUTHORIZED
    );

    let out =
        client.post("/api/v1/auth/logout", Some(laptop.text("access_token")), &json!({})).await;
    assert_eq!(out.status, StatusCode::NO_CONTENT);
    assert_eq!(
        client.get(me, Some(laptop.text("access_token"))).await.status,
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn signing_in_once_too_often_ends_the_oldest_session() {
    let capped = |usual: Config| {
        let auth = AuthConfig { max_sessions: Some(2), ..usual.auth };
        Config { auth, ..usual }
    };
    let client = Client::start_with(capped).await;
    let first = register(&client, "ada@example.com").await;
    let me = async |token: &str| client.get("/api/v1/auth/me", Some(token)).await.status;
    client.clock.advance(TimeDelta::seconds(1));
    let second = login(&client, "ada@example.com", PASSWORD).await;
    assert_eq!(me(first.text("access_token")).await, StatusCode::OK);
    client.clock.advance(TimeDelta::seconds(1));
    let third = login(&client, "ada@example.com", PASSWORD).await;
    assert_eq!(me(first.text("access_token")).await, StatusCode::UNAUTHORIZED);
    assert_eq!(me(second.text("access_token")).await, StatusCode::OK);
    assert_eq!(me(third.text("access_token")).await, StatusCode::OK);
    let body = json!({ "refresh_token": first.text("refresh_token") });
    let refreshed = client.post("/api/v1/auth/refresh", None, &body).await;
    refreshed.is_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
    let sessions = client.get("/api/v1/auth/sessions", Some(third.text("access_token"))).await;
    assert_eq!(sessions.body["items"].as_array().unwrap().len(), 2);

    // Of many at once no more stay than may.
    client.clock.advance(TimeDelta::seconds(1));
    join_all((0..3).map(|_| login(&client, "ada@example.com", PASSWORD))).await;
    let open = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM sessions WHERE revoked_at IS NULL"#
    );
    assert_eq!(open.fetch_one(client.pool()).await.unwrap(), 2);
}

#[tokio::test]
async fn a_session_shows_its_device_and_when_it_was_used_last() {
    let client = Client::start().await;
    let ada = register(&client, "ada@example.com").await;
    let firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0";
    let body = json!({ "email": "ada@example.com", "password": PASSWORD });
    let agent = [("user-agent", firefox.to_owned())];
    let login = client.send(Method::POST, "/api/v1/auth/login", None, Some(&body), &agent).await;
    let opened_at = client.clock.now();
    client.clock.advance(TimeDelta::minutes(2));
    let token = login.text("access_token");
    assert_eq!(client.get("/api/v1/auth/me", Some(token)).await.status, StatusCode::OK);
    let sessions = client.get("/api/v1/auth/sessions", Some(ada.text("access_token"))).await;
    let items = sessions.body["items"].as_array().unwrap();
    let found = items.iter().find(|item| item["user_agent"] == firefox).unwrap();
    assert_eq!(found["device"], "Firefox on Linux");
    let time = |field: &str| found[field].as_str().unwrap().parse::<DateTime<Utc>>().unwrap();
    let used = time("last_active_at") - opened_at;
    assert!((used - TimeDelta::minutes(2)).num_seconds().abs() < 1, "{found}");
    assert!(time("refreshed_at") < time("last_active_at"));
}

#[tokio::test]
async fn changing_the_password_ends_the_other_sessions() {
    let client = Client::start().await;
    let other = register(&client, "ada@example.com").await;
    let this = login(&client, "ada@example.com", PASSWORD).await;
    let token = Some(this.text("access_token"));
    let path = "/api/v1/auth/password";
    let wrong = json!({"old_password": "wrong", "new_password": "another long password"});
    client
        .post(path, token, &wrong)
        .await
        .is_problem(StatusCode::UNAUTHORIZED, "wrong-credentials");
    let right = json!({"old_password": PASSWORD, "new_password": "another long password"});
    assert_eq!(client.post(path, token, &right).await.status, StatusCode::NO_CONTENT);
    let me = "/api/v1/auth/me";
    assert_eq!(client.get(me, token).await.status, StatusCode::OK);
    assert_eq!(
        client.get(me, Some(other.text("access_token"))).await.status,
        StatusCode::UNAUTHORIZED
    );
    let login = login(&client, "ada@example.com", "another long password").await;
    assert_eq!(login.status, StatusCode::OK);
}

#[tokio::test]
async fn an_api_key_does_what_its_scopes_say_and_no_more() {
    let client = Client::start().await;
    let ada = register(&client, "ada@example.com").await;
    let token = Some(ada.text("access_token"));
    let path = "/api/v1/auth/api-keys";
    let made = client.post(path, token, &json!({"name": "reader", "scopes": ["read"]})).await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    let key = Some(made.text("key"));
    assert_eq!(client.get("/api/v1/auth/me", key).await.status, StatusCode::OK);
    let listed = client.get(path, token).await;
    assert_eq!(listed.body["items"][0], made.body["api_key"]);
    assert!(!listed.body.to_string().contains(made.text("key")));

    for (method, path) in
        [(Method::POST, path), (Method::GET, path), (Method::POST, "/api/v1/auth/logout")]
    {
        let body = json!({"name": "more", "scopes": ["admin"]});
        let answer = client.send(method, path, key, Some(&body), &[]).await;
        answer.is_problem(StatusCode::FORBIDDEN, "forbidden");
    }
    let altered = format!("{}x", made.text("key"));
    assert_eq!(
        client.get("/api/v1/auth/me", Some(&altered)).await.status,
        StatusCode::UNAUTHORIZED
    );

    let of_key = format!("{path}/{}", made.body["api_key"]["id"].as_str().unwrap());
    assert_eq!(client.delete(&of_key, token).await.status, StatusCode::NO_CONTENT);
    assert_eq!(client.get("/api/v1/auth/me", key).await.status, StatusCode::UNAUTHORIZED);

    for body in [
        json!({"name": "", "scopes": ["read"]}),
        json!({"name": "x", "scopes": []}),
        json!({"name": "x", "scopes": ["everything"]}),
        json!({"name": "x", "scopes": ["read"], "expires_in_days": 367}),
    ] {
        client
            .post(path, token, &body)
            .await
            .is_problem(StatusCode::UNPROCESSABLE_ENTITY, "invalid-value");
    }
}

#[tokio::test]
async fn a_ticket_opens_once_and_only_for_a_while() {
    let client = Client::start().await;
    let ada = register(&client, "ada@example.com").await;
    let take = async || {
        let path = "/api/v1/auth/ws-ticket";
        let answer = client.post(path, Some(ada.text("access_token")), &json!({})).await;
        assert_eq!(answer.status, StatusCode::CREATED);
        format!("/api/v1/auth/me?ticket={}", answer.text("ticket"))
    };
    let used = take().await;
    assert_eq!(client.get(&used, None).await.status, StatusCode::OK);
    assert_eq!(client.get(&used, None).await.status, StatusCode::UNAUTHORIZED);
    let old = take().await;
    client.clock.advance(TimeDelta::seconds(31));
    assert_eq!(client.get(&old, None).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn cookies_work_for_our_own_pages_only() {
    let client = Client::start().await;
    let body = json!({"email": "ada@example.com", "password": PASSWORD, "full_name": "Ada", "cookies": true});
    let answer = client.post("/api/v1/auth/register", None, &body).await;
    let cookies = answer.headers_named("set-cookie");
    assert_eq!(cookies.len(), 2);
    assert!(cookies.iter().all(|c| c.contains("HttpOnly") && c.contains("SameSite=Strict")));
    let cookie =
        cookies.iter().map(|c| c.split(';').next().unwrap()).collect::<Vec<_>>().join("; ");

    let me = "/api/v1/auth/me";
    let with = |extra: &[(&'static str, &'static str)]| {
        let mut headers = vec![("cookie", cookie.clone())];
        headers.extend(extra.iter().map(|(name, value)| (*name, (*value).to_owned())));
        headers
    };
    let read = client.send(Method::GET, me, None, None, &with(&[])).await;
    assert_eq!(read.status, StatusCode::OK);
    let change = json!({"full_name": "Ada L."});
    for forged in [
        with(&[]),
        with(&[("sec-fetch-site", "cross-site")]),
        with(&[("origin", "https://evil.example")]),
    ] {
        let answer = client.send(Method::PATCH, me, None, Some(&change), &forged).await;
        answer.is_problem(StatusCode::FORBIDDEN, "cross-site-request");
    }
    for own in
        [with(&[("sec-fetch-site", "same-origin")]), with(&[("origin", "http://localhost:8080")])]
    {
        let answer = client.send(Method::PATCH, me, None, Some(&change), &own).await;
        assert_eq!(answer.body["full_name"], "Ada L.");
    }
    let own = with(&[("sec-fetch-site", "same-origin")]);
    let answer =
        client.send(Method::POST, "/api/v1/auth/refresh", None, Some(&json!({})), &own).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.headers_named("set-cookie").len(), 2);
}

#[tokio::test]
async fn what_is_no_token_of_ours_is_refused() {
    let client = Client::start().await;
    let ada = register(&client, "ada@example.com").await;
    let token = ada.text("access_token").to_owned();
    let parts: Vec<&str> = token.split('.').collect();
    let forged = [
        String::new(),
        "x".to_owned(),
        "x".repeat(5_000),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{}.{}.{}", parts[0], parts[1], "A".repeat(86)),
        // {"alg":"none"} and {"alg":"HS256"}: what a token says of its algorithm is not believed.
        format!("eyJhbGciOiJub25lIn0.{}.", parts[1]),
        format!("eyJhbGciOiJIUzI1NiJ9.{}.{}", parts[1], parts[2]),
        ada.text("refresh_token").to_owned(),
    ];
    for token in &forged {
        let answer = client.get("/api/v1/auth/me", Some(token)).await;
        answer.is_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
    let basic = [("authorization", "Basic YTpi".to_owned())];
    let answer = client.send(Method::GET, "/api/v1/auth/me", None, None, &basic).await;
    answer.is_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
}

#[tokio::test]
async fn every_failure_has_one_form() {
    let client = Client::start().await;
    let correlation = "0199a0c0-0000-7000-8000-0000000000aa";
    let headers = [("x-correlation-id", correlation.to_owned())];
    let lost = client.send(Method::GET, "/api/v1/nowhere", None, None, &headers).await;
    lost.is_problem(StatusCode::NOT_FOUND, "not-found");
    assert_eq!(lost.body["instance"], "/api/v1/nowhere");
    assert_eq!(lost.body["correlation_id"], correlation);
    assert_eq!(lost.header("x-correlation-id"), correlation);

    let wrong = client.get("/api/v1/auth/login", None).await;
    wrong.is_problem(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed");
    assert_eq!(wrong.header("allow"), "POST");

    let login = "/api/v1/auth/login";
    let raw =
        |content_type: &'static str, body: Vec<u8>| client.send_raw(login, content_type, body);
    let json = "application/json";
    raw(json, b"{".to_vec()).await.is_problem(StatusCode::BAD_REQUEST, "malformed-request");
    raw("text/plain", b"{}".to_vec())
        .await
        .is_problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type");
    raw(json, vec![b' '; 10 * 1024 * 1024 + 1])
        .await
        .is_problem(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large");
    raw(json, "[".repeat(100_000).into_bytes())
        .await
        .is_problem(StatusCode::UNPROCESSABLE_ENTITY, "invalid-value");
    let nul = br#"{"email":"a\u0000@b.co","password":"x"}"#.to_vec();
    let nul = raw(json, nul).await;
    nul.is_problem(StatusCode::UNPROCESSABLE_ENTITY, "invalid-value");
    assert_eq!(nul.body["errors"][0]["pointer"], "/email");

    let ada = register(&client, "ada@example.com").await;
    for path in
        ["/api/v1/auth/sessions/7", "/api/v1/auth/sessions/%00", "/api/v1/auth/sessions/%FF"]
    {
        let answer = client.delete(path, Some(ada.text("access_token"))).await;
        answer.is_problem(StatusCode::UNPROCESSABLE_ENTITY, "invalid-value");
    }
}

#[tokio::test]
async fn the_pages_work_offline_and_every_problem_has_one() {
    let client = Client::start().await;
    for path in
        ["/docs", "/redoc", "/docs/problems", "/docs/problems/invalid-value", "/api/v1/docs"]
    {
        let page = client.get(path, None).await;
        assert_eq!(page.status, StatusCode::OK, "{path}");
        assert!(page.header("content-type").starts_with("text/html"), "{path}");
        assert!(page.header("content-security-policy").starts_with("default-src 'none'"), "{path}");
    }
    for path in
        ["/openapi.json", "/health", "/health/ready", "/.well-known/jwks.json", "/api/v1/health"]
    {
        assert_eq!(client.get(path, None).await.status, StatusCode::OK, "{path}");
    }
    let keys = client.get("/.well-known/jwks.json", None).await;
    assert_eq!(keys.body["keys"][0]["kty"], "OKP");
    assert!(keys.body["keys"][0].get("d").is_none(), "only the public half goes out");
    client.get("/docs/problems/nothing", None).await.is_problem(StatusCode::NOT_FOUND, "not-found");
    let Value::Object(paths) = client.get("/openapi.json", None).await.body["paths"].clone() else {
        panic!("the document has paths");
    };
    assert!(paths.contains_key("/api/v1/auth/login"));
}
