//! After a restore from a backup, whoever comes back with a position of before is told so, on every way in.

use ledgerline_store::{EventLog as _, PostgresLog};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::Deployment;
use crate::support::program::{Account, Program, Socket, register};

/// What an epoch of a log is called.
async fn name(deployment: &Deployment) -> String {
    let head = deployment.log.head().await.unwrap();
    format!("{}:{}", head.log_id, head.epoch)
}

async fn read(program: &Program, who: &Account, position: &str) -> (StatusCode, Value) {
    let request = reqwest::Client::new()
        .get(format!("{}/api/v1/workspaces", program.base))
        .header("ledgerline-min-position", position)
        .bearer_auth(&who.token);
    let response = request.send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

async fn feed(program: &Program, who: &Account, last_event_id: &str) -> reqwest::Response {
    reqwest::Client::new()
        .get(format!("{}/api/v1/stream?channel=workspace", program.base))
        .header("last-event-id", last_event_id)
        .bearer_auth(&who.token)
        .send()
        .await
        .unwrap()
}

#[tokio::test]
async fn a_position_of_before_a_restore_is_answered_rewound() {
    let deployment = Deployment::new().await;
    let program = deployment.start_with("api,projector");
    let ada = register(&program.base, "ada").await;
    deployment.rename(&ada, 9, 10).await;
    let before = name(&deployment).await;
    let mut socket = Socket::open(&program.base, "/api/v1/ws", &ada.token).await;
    assert_eq!(socket.next_of("connected").await["log"], before);
    assert!(program.stop().success());

    // What a reader saw above the end of the restored log is gone, and other events take its place.
    let pool = deployment.database.pool().await;
    let end = deployment.log.head().await.unwrap().position.0;
    PostgresLog::raise_epoch(&pool).await.unwrap();
    deployment.rename(&ada, 10, 10).await;
    let after = name(&deployment).await;
    assert_ne!(before, after);
    let program = deployment.start_with("api,projector");
    for (seen, restart) in [(7, 7), (end, end), (end + 5, end), (99, end)] {
        let old = format!("{before}:{seen}");
        let (status, problem) = read(&program, &ada, &old).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
        told(&problem, "type", "/docs/problems/position-unknown", restart);
        assert!(problem["detail"].as_str().unwrap().contains(&format!("{after}:{restart}")));

        let refused = feed(&program, &ada, &old).await;
        assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY);
        told(&refused.json().await.unwrap(), "type", "/docs/problems/position-unknown", restart);

        let mut socket = Socket::open(&program.base, "/api/v1/ws", &ada.token).await;
        let ask = json!({ "action": "resume", "channel": "workspace", "after": old });
        socket.say(&ask).await;
        told(&socket.next_of("error").await, "code", "position-unknown", restart);
        // Refused is that, and not the socket.
        socket.subscribe("workspace", Some(restart)).await;
        let mut expected = deployment.positions(&ada).await;
        expected.retain(|position| *position > restart);
        assert_eq!(socket.positions(expected.len()).await, expected);
    }
    // The same words with the present epoch are a position like any other.
    assert_eq!(read(&program, &ada, &format!("{after}:20")).await.0, StatusCode::OK);
    assert_eq!(feed(&program, &ada, &format!("{after}:20")).await.status(), StatusCode::OK);
    // A log that never was this one has nothing in common with it, and was not rewound.
    let other = format!("{}:1:5", uuid::Uuid::now_v7());
    let (_, problem) = read(&program, &ada, &other).await;
    assert_eq!((&problem["rule"], &problem["restart_position"]), (&Value::Null, &json!(0)));
}

#[track_caller]
fn told(said: &Value, field: &str, kind: &str, restart: i64) {
    assert_eq!(said[field], kind, "{said}");
    assert_eq!(said["rule"], "rewound", "{said}");
    assert_eq!(said["restart_position"], restart, "{said}");
}
