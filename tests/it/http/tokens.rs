//! Tokens over time and under theft: rotation of signing keys in several processes, a refresh token in two hands, and that signing in
//! takes as long whether or not the address is known.

use std::time::Instant;

use axum::http::StatusCode;
use chrono::TimeDelta;
use futures_util::future::join_all;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::{
    app::identity_elsewhere,
    client::{Answer, Client},
};

const PASSWORD: &str = "correct horse battery";

async fn register(client: &Client, email: &str) -> Answer {
    let body = json!({ "email": email, "password": PASSWORD, "full_name": "Ada Lovelace" });
    client.post("/api/v1/auth/register", None, &body).await
}

async fn login(client: &Client, email: &str, password: &str) -> Answer {
    let body = json!({ "email": email, "password": password });
    client.post("/api/v1/auth/login", None, &body).await
}

/// The names of the keys that the deployment shows.
async fn shown(client: &Client) -> Vec<String> {
    let set = client.get("/.well-known/jwks.json", None).await;
    let keys = set.body["keys"].as_array().unwrap();
    keys.iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_new_signing_key_is_known_to_every_process_and_the_old_one_until_its_tokens_end() {
    let client = Client::start().await;
    register(&client, "ada@example.com").await;
    let stop = CancellationToken::new();
    let other = identity_elsewhere(client.pool().clone(), client.clock.clone(), &stop).await;
    let first = shown(&client).await;
    assert_eq!(first.len(), 1, "two processes share one key");
    client.clock.advance(TimeDelta::days(30) - TimeDelta::minutes(5));
    let before = login(&client, "ada@example.com", PASSWORD).await;
    client.clock.advance(TimeDelta::minutes(5));
    let upkeep = join_all([client.identity(), &other].map(|identity| {
        let now = client.clock.now();
        async move { identity.keys().upkeep(now).await.unwrap() }
    }));
    upkeep.await;
    let both = shown(&client).await;
    assert_eq!(both.len(), 2, "one of them made the next one");
    assert_eq!(both[0], first[0]);
    let after = login(&client, "ada@example.com", PASSWORD).await;
    let now = client.clock.now();
    for answer in [&before, &after] {
        let token = answer.text("access_token");
        let me = client.get("/api/v1/auth/me", Some(token)).await;
        assert_eq!(me.status, StatusCode::OK, "{me:?}");
        other.keys().verify(token, now).await.unwrap();
    }
    // A process that slept through the next rotation meets a key that it has not seen, and reads the table again.
    client.clock.advance(TimeDelta::days(30));
    client.identity().keys().upkeep(client.clock.now()).await.unwrap();
    let latest = login(&client, "ada@example.com", PASSWORD).await;
    other.keys().verify(latest.text("access_token"), client.clock.now()).await.unwrap();
    client.clock.advance(TimeDelta::hours(2));
    client.identity().keys().upkeep(client.clock.now()).await.unwrap();
    client.identity().keys().upkeep(client.clock.now()).await.unwrap();
    assert!(!shown(&client).await.contains(&first[0]), "what signs nothing good any more is gone");
    stop.cancel();
}

#[tokio::test]
async fn a_refresh_token_in_two_hands_at_once_ends_the_session_for_both() {
    let client = Client::start().await;
    let ada = register(&client, "ada@example.com").await;
    let body = json!({ "refresh_token": ada.text("refresh_token") });
    let hands = join_all((0..2).map(|_| client.post("/api/v1/auth/refresh", None, &body))).await;
    let winners: Vec<&Answer> =
        hands.iter().filter(|answer| answer.status == StatusCode::OK).collect();
    assert_eq!(winners.len(), 1, "{hands:?}");
    let me = "/api/v1/auth/me";
    for token in [ada.text("access_token"), winners[0].text("access_token")] {
        assert_eq!(client.get(me, Some(token)).await.status, StatusCode::UNAUTHORIZED);
    }
    let next = json!({ "refresh_token": winners[0].text("refresh_token") });
    let refused = client.post("/api/v1/auth/refresh", None, &next).await;
    refused.is_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
    // Only that device: whoever signs in anew is in.
    assert_eq!(login(&client, "ada@example.com", PASSWORD).await.status, StatusCode::OK);
}

/// Loosely, because a machine has other things to do: without the same work an unknown address would be answered a hundred times faster.
#[tokio::test]
async fn an_unknown_address_takes_as_long_as_a_wrong_password() {
    let client = Client::start().await;
    register(&client, "ada@example.com").await;
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        for (email, times) in [("ada@example.com", &mut known), ("eve@example.com", &mut unknown)] {
            let begun = Instant::now();
            let answer = login(&client, email, "not the password").await;
            times.push(begun.elapsed());
            answer.is_problem(StatusCode::UNAUTHORIZED, "wrong-credentials");
        }
    }
    known.sort_unstable();
    unknown.sort_unstable();
    let (known, unknown) = (known[2].as_secs_f64(), unknown[2].as_secs_f64());
    assert!((0.2..5.0).contains(&(known / unknown)), "{known} s and {unknown} s");
}
