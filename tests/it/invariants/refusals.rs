//! What runs out is refused with a type and a time to come back, is named by `ledgerline doctor`, and mends itself when there is
//! room again.

use std::{
    os::unix::fs::{MetadataExt as _, chown},
    path::Path,
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use ledgerline_projections::Model;
use ledgerline_store::{
    AppendError, EventLog as _, Intent, LogConfig, NewEvent, PostgresLog, StreamId, StreamVersion,
    StreamWrite, Workspace,
};
use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::{
    AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::{Instant, sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::support::{
    process::{OwnPostgres, PATIENCE, open_folder},
    program::{MASTER_KEY, Program, command, post, register, said},
    services,
};

/// The program with few connections and little patience for one.
fn serve(folder: &Path, url: &str) -> Program {
    let file = folder.join("ledgerline.toml");
    let settings = "[database]\nmax_connections = 4\nacquire_timeout_ms = 500\n";
    std::fs::write(&file, settings).expect("writable");
    let file = file.to_str().expect("UTF-8");
    let mut command = command(&["serve", "--listen", "127.0.0.1:0", "--config", file]);
    command.env("DATABASE_URL", url).env("LEDGERLINE_MASTER_KEY", MASTER_KEY);
    Program::start(command)
}

/// The exit code of `doctor` on a database, and what it says.
async fn doctor(url: &str) -> (Option<i32>, String) {
    let mut command = command(&["doctor"]);
    command.env("DATABASE_URL", url).env("LEDGERLINE_MASTER_KEY", MASTER_KEY);
    // Beside the test's own tasks, which are what is looked at.
    let told = tokio::task::spawn_blocking(move || command.output()).await.expect("it ends");
    let told = told.expect("the program can be started");
    let text = String::from_utf8_lossy(&told.stdout).into_owned() + &said(&told);
    (told.status.code(), text)
}

async fn get(base: &str, path: &str, token: &str) -> reqwest::Response {
    let client = reqwest::Client::builder().timeout(PATIENCE).build().expect("a client");
    client.get(format!("{base}/api/v1{path}")).bearer_auth(token).send().await.expect("it answers")
}

/// Demands a typed refusal that says when to come back, and returns its kind.
async fn refused(answer: reqwest::Response) -> String {
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    assert!(answer.headers().contains_key("retry-after"), "{answer:?}");
    let problem: Value = answer.json().await.expect("a problem");
    problem["type"].as_str().expect("its kind").to_owned()
}

/// Queries that nobody answers hold all connections of the process: more are refused, and it goes on when they end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_without_a_free_connection_refuses_with_a_type_and_recovers() {
    let (database, folder) = (services::database().await, tempfile::tempdir().expect("a folder"));
    let program = serve(folder.path(), &database.url());
    let ada = register(&program.base, "ada").await;
    get(&program.base, "/workflows", &ada.token).await.error_for_status().expect("it answers");

    let mut blocker = PgConnection::connect_with(&database.options()).await.expect("it answers");
    // A list that nobody can read keeps its connection.
    let lock = format!(
        "BEGIN; LOCK TABLE {}.workflows IN ACCESS EXCLUSIVE MODE",
        Model::Workflows.schema()
    );
    blocker.execute(AssertSqlSafe(lock)).await.expect("the owner may");
    let mut answers: FuturesUnordered<_> =
        (0..9).map(|_| get(&program.base, "/workflows", &ada.token)).collect();
    // Those without a connection are told after half a second; those with one wait until the lock is gone.
    let first = answers.next().await.expect("one of nine");
    assert_eq!(refused(first).await, "/docs/problems/dependency-away");
    // Whoever asks why finds the one who holds up the rest. A second must have passed, of which the refusal took the first half.
    sleep(Duration::from_millis(600)).await;
    let (_, told) = doctor(&database.url()).await;
    let pid = blocker.fetch_one("SELECT pg_backend_pid()").await.expect("it answers");
    let pid: i32 = pid.get(0);
    assert!(told.contains(&format!("wait for pid {pid} (")), "{told}");
    assert!(told.contains(&format!("pg_terminate_backend({pid})")), "{told}");
    blocker.execute("COMMIT").await.expect("the lock is let go");
    while let Some(answer) = answers.next().await {
        if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
            assert_eq!(refused(answer).await, "/docs/problems/dependency-away");
        } else {
            assert_eq!(answer.status(), StatusCode::OK);
        }
    }
    drop(answers);
    get(&program.base, "/workflows", &ada.token).await.error_for_status().expect("it recovers");
    assert!(program.stop().success());
}

/// Others have taken every connection that Postgres gives out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_without_a_free_connection_is_named_and_recovers() {
    let (postgres, folder) = (OwnPostgres::start(), tempfile::tempdir().expect("a folder"));
    let program = serve(folder.path(), &postgres.url);
    let ada = register(&program.base, "ada").await;

    let taken = take_every_connection(&postgres.url).await;
    let answer = get(&program.base, "/workflows", &ada.token).await;
    assert_eq!(refused(answer).await, "/docs/problems/dependency-away");
    let ready = reqwest::get(format!("{}/health/ready", program.base)).await.expect("it answers");
    assert_eq!(ready.status(), StatusCode::SERVICE_UNAVAILABLE);

    let (code, text) = doctor(&postgres.url).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("too many clients"), "{text}");
    assert!(text.contains("max_connections"), "it does not say what to do: {text}");

    drop(taken);
    let until = Instant::now() + PATIENCE;
    while !get(&program.base, "/workflows", &ada.token).await.status().is_success() {
        assert!(Instant::now() < until, "it does not recover: {}", program.said());
        sleep(Duration::from_millis(100)).await;
    }
    post(&program.base, "/workspaces", Some(&ada.token), &json!({ "name": "Operations" })).await;
    assert!(program.stop().success());
}

/// Takes connections, those of others too, until all that Postgres has are ours.
async fn take_every_connection(url: &str) -> Vec<PgConnection> {
    let options: PgConnectOptions = url.parse().expect("a URL");
    let options = options.application_name("taker");
    let mut taken = vec![PgConnection::connect_with(&options).await.expect("one is free")];
    let until = Instant::now() + PATIENCE;
    loop {
        let full = loop {
            match PgConnection::connect_with(&options).await {
                Ok(connection) => taken.push(connection),
                Err(error) => break error,
            }
        };
        let code =
            full.as_database_error().and_then(|error| error.code()).map(|code| code.to_string());
        assert_eq!(code.as_deref(), Some("53300"), "{full}");
        let others = "SELECT count(pg_terminate_backend(pid)) AS count FROM pg_stat_activity
                       WHERE backend_type = 'client backend' AND application_name <> 'taker'";
        let others = taken[0].fetch_one(others).await.expect("ours is open");
        if others.get::<i64, _>("count") == 0 {
            return taken;
        }
        assert!(Instant::now() < until, "others are always quicker");
    }
}

/// The disk under the events is full: nothing lands, the refusal says so, and the same log goes on when there is room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_a_refusal_of_its_own_and_recovers() {
    let Some(disk) = SmallDisk::mount() else {
        assert!(
            !in_ci(),
            "in CI the tests are root and may mount a tmpfs: this one must run there"
        );
        eprintln!("SKIPPED: a small disk can only be made by root, where tmpfs may be mounted");
        return;
    };
    let postgres = OwnPostgres::start();
    let options: PgConnectOptions = postgres.url.parse().expect("a URL");
    let pool =
        PgPoolOptions::new().max_connections(4).connect_with(options).await.expect("it answers");
    ledgerline_store::migrate(&pool).await.expect("an empty database can be migrated");
    ledgerline_projections::prepare(&pool).await.expect("the read models have their tables");
    let (code, told) = doctor(&postgres.url).await;
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("the largest event finds room"), "{told}");
    let place = disk.tablespace(&postgres);
    for statement in [
        format!("CREATE TABLESPACE small LOCATION '{}'", place.display()),
        "ALTER TABLE events SET TABLESPACE small".to_owned(),
    ] {
        pool.execute(AssertSqlSafe(statement)).await.expect("the owner may");
    }
    let (tasks, over) = (TaskTracker::new(), CancellationToken::new());
    let log = PostgresLog::connect(pool.clone(), LogConfig::default(), &tasks, over.clone());
    let log = log.await.expect("a log");

    let mut landed = 0;
    let refusal = loop {
        match log.append(large_event()).await {
            Ok(receipt) => landed = receipt.position.0,
            Err(refusal) => break refusal,
        }
        assert!(landed < 1_000, "the small disk is never full");
    };
    assert!(matches!(refusal, AppendError::DiskFull), "{refusal:?}");
    assert!(landed > 0);
    assert_eq!(
        log.head().await.expect("reading goes on").position.0,
        landed,
        "nothing of it landed"
    );
    let problem = ledgerline_api::problem::Problem::from(refusal);
    assert_eq!(problem.kind().status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(problem.detail().contains("room on the database's disk"), "{}", problem.detail());

    let (code, told) = doctor(&postgres.url).await;
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("No space left on device"), "{told}");
    assert!(told.contains("make room on the database's disk"), "{told}");

    disk.grow();
    let (code, told) = doctor(&postgres.url).await;
    assert_eq!(code, Some(0), "{told}");
    let receipt = log.append(large_event()).await.expect("there is room again");
    assert_eq!(receipt.position.0, landed + 1, "the refused one has left no gap");
    over.cancel();
    tasks.close();
    tasks.wait().await;
    pool.close().await;
    drop(postgres);
}

/// Whether this run is the one that nothing may be left out of.
#[expect(clippy::disallowed_methods, reason = "a test run is configured by its environment")]
fn in_ci() -> bool {
    std::env::var("NEXTEST_PROFILE").is_ok_and(|profile| profile == "ci")
}

/// One event of a stream of its own that compresses badly and fills much of a small disk.
fn large_event() -> Intent {
    let noise: String = (0..3_000).map(|_| Uuid::now_v7().simple().to_string()).collect();
    let event = NewEvent {
        event_id: Uuid::now_v7(),
        r#type: "workflow_published",
        schema_version: 1,
        payload: json!({ "noise": noise }).to_string(),
        metadata: "{}".to_owned(),
    };
    let write = StreamWrite {
        workspace: Workspace::NIL,
        stream: StreamId(Uuid::now_v7()),
        category: "workflow",
        expected: StreamVersion::NEW,
        events: vec![event],
    };
    Intent { writes: vec![write], ..Intent::default() }
}

/// A few megabytes of disk of one test.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let folder = open_folder();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=4m,mode=0777", "tmpfs"])
            .arg(folder.path())
            .output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(folder))
    }

    /// A folder for Postgres, which need not be the user that this test is.
    fn tablespace(&self, postgres: &OwnPostgres) -> std::path::PathBuf {
        let place = self.0.path().join("space");
        std::fs::create_dir(&place).expect("writable");
        let cluster = std::fs::metadata(postgres.cluster()).expect("it runs from there");
        chown(&place, Some(cluster.uid()), Some(cluster.gid())).expect("root may");
        place
    }

    fn grow(&self) {
        let grown = std::process::Command::new("mount")
            .args(["-o", "remount,size=64m"])
            .arg(self.0.path())
            .status();
        assert!(grown.expect("it was there before").success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the servers that use it end a moment later.
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}
