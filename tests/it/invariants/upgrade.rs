//! A rolling upgrade from the side of the old process: the new one has written what only it knows.

use std::time::Duration;

use ledgerline_store::{
    EventLog as _, Intent, LogConfig, NewEvent, PostgresLog, StreamId, StreamVersion, StreamWrite,
    Workspace,
};
use serde_json::Value;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::support::{
    program::{MASTER_KEY, PATIENCE, Program, command, post, register, said},
    services::{self, TestDatabase},
};

fn serve(database: &TestDatabase, prefix: &str) -> std::process::Command {
    let mut command = command(&["serve", "--listen", "127.0.0.1:0", "--nats-prefix", prefix]);
    command
        .env("DATABASE_URL", database.url())
        .env("NATS_URL", services::nats_url())
        .env("LEDGERLINE_MASTER_KEY", MASTER_KEY);
    command
}

/// Appends events of types that this build does not know, as a newer one would.
async fn append_of_a_newer_build(database: &TestDatabase, workspace: Uuid) -> i64 {
    let (tasks, over) = (TaskTracker::new(), CancellationToken::new());
    let pool = database.pool().await;
    let log = PostgresLog::connect(pool, LogConfig::default(), &tasks, over.clone()).await;
    let log = log.expect("a log");
    let event = |r#type, schema_version| {
        NewEvent {
        event_id: Uuid::now_v7(),
        r#type,
        schema_version,
        payload: "{}".to_owned(),
        metadata: r#"{"actor":{"kind":"system","name":"test"},"correlation_id":"01990000-0000-7000-8000-000000000001"}"#
            .to_owned(),
    }
    };
    let write = |category, events| StreamWrite {
        workspace: Workspace(workspace),
        stream: StreamId(Uuid::now_v7()),
        category,
        expected: StreamVersion::NEW,
        events,
    };
    let teleported = vec![event("execution_teleported", 1), event("execution_teleported", 1)];
    let intent = Intent {
        writes: vec![
            write("execution", teleported),
            write("workflow", vec![event("workflow_created", 99)]),
            write("workspace", vec![event("workspace_moved", 1)]),
        ],
        ..Intent::default()
    };
    let position =
        log.append(intent).await.expect("the store takes what it does not know").position;
    over.cancel();
    tasks.close();
    tasks.wait().await;
    position.0
}

async fn get(base: &str, path: &str) -> Value {
    let answer = reqwest::get(format!("{base}{path}")).await.expect("it answers");
    answer.json().await.expect("JSON")
}

/// What `/health` says of a part.
fn part<'a>(health: &'a Value, name: &str) -> (&'a str, &'a str) {
    let part = &health["parts"][name];
    (part["condition"].as_str().unwrap_or("absent"), part["detail"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn an_old_process_stands_down_at_an_event_it_does_not_know_and_a_new_one_does_not_serve() {
    let (database, prefix) = (services::database().await, services::subject_prefix());
    let old = Program::start(serve(&database, &prefix));
    let ada = register(&old.base, "ada").await;
    let head = append_of_a_newer_build(&database, ada.workspace).await;

    // What decides and what keeps rows stands down and says so, naming what it met.
    let stood_down = async {
        loop {
            let health = get(&old.base, "/health").await;
            let down = ["dispatch", "policies", "projections"]
                .iter()
                .all(|name| part(&health, name).0 == "degraded");
            if down {
                return health;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let health = match tokio::time::timeout(PATIENCE, stood_down).await {
        Ok(health) => health,
        Err(_) => panic!("{:#}\n{}", get(&old.base, "/health").await, old.said()),
    };
    assert_eq!(health["status"], "degraded", "{health:#}");
    for (name, unknown) in [
        ("dispatch", "execution_teleported"),
        ("projections", "execution_teleported"),
        ("projections", "workspace_moved"),
    ] {
        assert!(part(&health, name).1.contains(unknown), "{name} names no {unknown}: {health:#}");
    }
    // Nothing is put aside as if it were broken: whoever knows the events takes over where this one stopped.
    assert!(!part(&health, "projections").1.contains("cannot be applied"), "{health:#}");

    // The relay knows no nouns: it carries what others will understand.
    let relayed = async {
        while !(part(&get(&old.base, "/health").await, "relay").0 == "ok"
            && relayed_up_to(&database).await >= head)
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, relayed).await.expect("the relay carries on");

    // The old process still takes commands that rest on nothing it can't read.
    let made =
        post(&old.base, "/workspaces", Some(&ada.token), &serde_json::json!({ "name": "Other" }))
            .await;
    assert_eq!(made["name"], "Other");

    let refused = serve(&database, &prefix).output().expect("the program can be started");
    assert_eq!(refused.status.code(), Some(65), "{}", said(&refused));
    for unknown in [
        "execution/execution_teleported version 1 (2 events)",
        "workflow/workflow_created version 99 (1 events)",
        "workspace/workspace_moved version 1 (1 events)",
    ] {
        assert!(said(&refused).contains(unknown), "{}", said(&refused));
    }
    assert!(old.stop().success());
}

/// How far the relay's checkpoint has come.
async fn relayed_up_to(database: &TestDatabase) -> i64 {
    use sqlx::{Connection as _, Executor as _, Row as _};
    let mut connection =
        sqlx::PgConnection::connect_with(&database.options()).await.expect("it answers");
    let row = connection.fetch_one("SELECT position FROM checkpoints WHERE reader = 'relay'").await;
    row.map_or(0, |row| row.get("position"))
}
