//! The command line of the real program: what it starts it stops, and what is wrong it says.
//!
//! These tests run servers of their own with full durability, not the shared ones.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tempfile::TempDir;

use crate::support::{
    program::{MASTER_KEY, PATIENCE, Program, command, free_port, output, post, register, said},
    services,
};

/// How soon an initialised data directory is served.
const READY_WITHIN: Duration = Duration::from_secs(3);

/// A folder that the user root hands Postgres to may enter.
fn folder() -> TempDir {
    tempfile::Builder::new().permissions(Permissions::from_mode(0o711)).tempdir().unwrap()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn serve(data: &Path, more: &[&str]) -> Program {
    let data = data.to_str().unwrap();
    let mut args = vec!["serve", "--embedded", "--data-dir", data, "--listen", "127.0.0.1:0"];
    args.extend(more);
    Program::start(command(&args))
}

/// Starts it on an initialised data directory, and demands that it is ready within three seconds: in the best of three starts, since a
/// busy machine can hold up any one of them.
async fn ready_in_time(data: &Path) -> Program {
    let mut took = Vec::new();
    for _ in 0..3 {
        let started = Instant::now();
        let program = serve(data, &["--seed-demo"]);
        let ready = format!("{}/health/ready", program.base);
        while !reqwest::get(&ready).await.unwrap().status().is_success() {
            assert!(started.elapsed() < PATIENCE, "it is never ready: {}", program.said());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        took.push(started.elapsed());
        if took.iter().any(|took| *took <= READY_WITHIN) {
            return program;
        }
        assert!(program.stop().success());
    }
    panic!("it is ready after {took:?}");
}

fn pid_in(data: &Path, file: &str) -> Pid {
    let text = fs::read_to_string(data.join(file)).unwrap();
    Pid::from_raw(text.lines().next().unwrap().trim().parse().unwrap())
}

fn runs(pid: Pid) -> bool {
    kill(pid, None).is_ok()
}

async fn get(url: &str) -> Value {
    reqwest::get(url).await.unwrap().json().await.unwrap()
}

#[tokio::test]
async fn serve_embedded_leaves_no_process_and_starts_again_within_seconds() {
    let data = folder();
    let program = serve(data.path(), &["--seed-demo"]);
    let password = fs::read_to_string(data.path().join("demo-password")).unwrap();
    assert!(program.said().contains("demo@ledgerline.local"), "{}", program.said());
    let mode = fs::metadata(data.path().join("demo-password")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let ready = get(&format!("{}/health/ready", program.base)).await;
    assert_eq!(ready["parts"]["postgres"]["condition"], "ok", "{ready}");
    let body = json!({ "email": "demo@ledgerline.local", "password": password });
    post(&program.base, "/auth/login", None, &body).await;
    let page = reqwest::get(&program.base).await.unwrap();
    assert!(
        page.headers()["content-security-policy"].to_str().unwrap().contains("script-src 'self'")
    );
    assert!(page.text().await.unwrap().contains("/page/app.js"));
    let servers = [
        pid_in(data.path(), "postgres/cluster/postmaster.pid"),
        pid_in(data.path(), "nats/nats.pid"),
    ];
    assert!(servers.into_iter().all(runs));
    assert!(program.stop().success());
    assert!(!servers.into_iter().any(runs), "a server outlives the program");

    let program = ready_in_time(data.path()).await;
    assert_eq!(fs::read_to_string(data.path().join("demo-password")).unwrap(), password);
    let events = output(&["events", "--embedded", "--data-dir", data.path().to_str().unwrap()]);
    assert!(events.status.success(), "{}", said(&events));
    let events = String::from_utf8(events.stdout).unwrap();
    let created = |line: &&str| line.contains("ledgerline.workflow.workflow_created.v1");
    assert_eq!(events.lines().filter(created).count(), 6, "the demo is made once:\n{events}");
    for (n, line) in events.lines().enumerate() {
        let event: Value = serde_json::from_str(line).unwrap();
        assert_eq!(event["position"], n + 1);
    }
    assert!(program.stop().success());
}

#[tokio::test]
async fn commands_work_beside_a_program_that_serves() {
    let data = folder();
    let path = data.path().to_str().unwrap().to_owned();
    let program = serve(data.path(), &[]);
    let second = output(&["serve", "--embedded", "--data-dir", &path, "--listen", "127.0.0.1:0"]);
    assert_eq!(second.status.code(), Some(2));
    assert!(said(&second).contains("in use by another ledgerline"), "{}", said(&second));

    register(&program.base, "ada").await;
    let beside = |args: &[&str]| {
        let mut all = args.to_vec();
        all.extend(["--embedded", "--data-dir", &path]);
        output(&all)
    };
    let nobody = beside(&["operator", "add", "nobody@example.com"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(said(&nobody).contains("nobody has registered"), "{}", said(&nobody));
    assert!(beside(&["operator", "add", "ada@example.com"]).status.success());

    let rebuilt = beside(&["rebuild", "workflows", "--json"]);
    assert!(rebuilt.status.success(), "{}", said(&rebuilt));
    let rebuilt: Value = serde_json::from_slice(&rebuilt.stdout).unwrap();
    assert_eq!(
        (&rebuilt["name"], &rebuilt["progress"]["phase"]),
        (&json!("workflows"), &json!("done"))
    );
    let unknown = beside(&["rebuild", "everything"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(said(&unknown).contains("execution_waits"), "it names them all: {}", said(&unknown));

    let doctor = beside(&["doctor", "--json"]);
    let lines = String::from_utf8(doctor.stdout.clone()).unwrap();
    assert!(doctor.status.success(), "{lines} {}", said(&doctor));
    for line in lines.lines() {
        let check: Value = serde_json::from_str(line).unwrap();
        assert_ne!(check["finding"], "wrong", "{check}");
    }
    assert!(lines.contains("\"database\"") && lines.contains("\"read model\""), "{lines}");
    assert!(program.stop().success());
}

#[tokio::test]
async fn a_second_signal_does_not_wait() {
    let data = folder();
    let running = serve(data.path(), &[]);
    let postgres = pid_in(data.path(), "postgres/cluster/postmaster.pid");
    running.signal(Signal::SIGINT);
    running.signal(Signal::SIGINT);
    let code = running.ended().code();
    assert!(matches!(code, Some(0 | 130)), "{code:?}");
    // Whatever it left behind the next start takes over.
    let program = serve(data.path(), &[]);
    let now = pid_in(data.path(), "postgres/cluster/postmaster.pid");
    assert!(program.stop().success());
    assert!(!runs(postgres) && !runs(now), "a server outlives the program");
}

#[test]
fn examples_run_by_themselves() {
    for (name, holds) in [
        ("greeting", "Hello, world!"),
        ("csv-clean-up", "grace@example.com"),
        ("disk-report", "disks/report.json"),
        ("health-watch", "\"well\":true"),
    ] {
        let file = root().join(format!("examples/{name}.json"));
        let ran = output(&["run", "--embedded", "--json", file.to_str().unwrap()]);
        assert!(ran.status.success(), "{name}: {}", said(&ran));
        let outcome: Value = serde_json::from_slice(&ran.stdout).unwrap();
        assert_eq!(outcome["status"], "completed");
        assert!(outcome.to_string().contains(holds), "{name}: {outcome}");
    }
}

#[test]
fn a_run_that_fails_says_why_and_is_a_failure() {
    let folder = folder();
    let file = folder.path().join("fails.json");
    let workflow = json!({
        "name": "Fails",
        "nodes": [{ "id": "remove", "type": "action.command", "config": { "program": "rm", "args": ["-rf", "/"] } }],
    });
    fs::write(&file, workflow.to_string()).unwrap();
    let ran = output(&["run", "--embedded", file.to_str().unwrap()]);
    assert_eq!(ran.status.code(), Some(1));
    assert!(said(&ran).contains("'rm -rf /' is not allowed here"), "{}", said(&ran));

    fs::write(
        &file,
        json!({ "name": "No", "nodes": [
            { "id": "a", "type": "logic.transform", "config": { "expression": "1 +" } },
            { "id": "a", "type": "nope", "config": {} },
        ]})
        .to_string(),
    )
    .unwrap();
    let ran = output(&["run", "--embedded", file.to_str().unwrap()]);
    assert_eq!(ran.status.code(), Some(1));
    for part in ["/nodes/0/config/expression", "unknown kind of node", "another node has the id"] {
        assert!(said(&ran).contains(part), "{part}: {}", said(&ran));
    }
}

#[test]
fn what_is_wrong_is_said_with_what_to_do() {
    let nothing = output(&["serve"]);
    assert_eq!(nothing.status.code(), Some(64));
    assert!(said(&nothing).contains("set DATABASE_URL, or start with --embedded"));

    let port = free_port();
    let taken = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let listen = format!("127.0.0.1:{port}");
    let data = folder();
    let data = data.path().to_str().unwrap();
    let refused = output(&["serve", "--embedded", "--data-dir", data, "--listen", &listen]);
    assert_eq!(refused.status.code(), Some(69));
    assert!(said(&refused).contains("choose another --listen"), "{}", said(&refused));
    drop(taken);

    let mut away = command(&["serve", "--listen", "127.0.0.1:0"]);
    away.env("DATABASE_URL", "postgres://127.0.0.1:1/none")
        .env("LEDGERLINE_MASTER_KEY", MASTER_KEY);
    let away = away.output().unwrap();
    assert_eq!(away.status.code(), Some(69));
    assert!(said(&away).contains("Connection refused"), "{}", said(&away));

    let mut unknown = command(&["run", root().join("examples/greeting.json").to_str().unwrap()]);
    unknown.env("LEDGERLINE_URL", "http://127.0.0.1:1").env("LEDGERLINE_TOKEN", "none");
    let unknown = unknown.output().unwrap();
    assert_eq!(unknown.status.code(), Some(1));
    assert!(
        said(&unknown).contains("no server answers at http://127.0.0.1:1"),
        "{}",
        said(&unknown)
    );
}

#[test]
fn the_openapi_document_is_printed_without_any_server() {
    let printed = output(&["openapi"]);
    assert!(printed.status.success());
    let document: Value = serde_json::from_slice(&printed.stdout).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    assert!(document["paths"]["/api/v1/stream"].is_object());
}

#[tokio::test]
async fn a_log_of_a_newer_build_is_refused_by_name_and_count() {
    let database = services::database().await;
    let serve = || {
        let mut command = command(&["serve", "--roles", "api", "--listen", "127.0.0.1:0"]);
        command.env("DATABASE_URL", database.url()).env("LEDGERLINE_MASTER_KEY", MASTER_KEY);
        command
    };
    let program = Program::start(serve());
    register(&program.base, "ada").await;
    assert!(program.stop().success());

    let mut connection = PgConnection::connect_with(&database.options()).await.unwrap();
    let copy = "INSERT INTO events
        SELECT (json_populate_record(e, json_build_object('position', head.position + n, 'version', e.version + n,
            'workspace_seq', e.workspace_seq + n, 'event_id', gen_random_uuid(), 'type', 'workspace_teleported'))).*
        FROM events e, log_head head, generate_series(1, 3) n WHERE e.position = 1";
    connection.execute(AssertSqlSafe(copy)).await.unwrap();
    connection.execute(AssertSqlSafe("UPDATE log_head SET position = position + 3")).await.unwrap();
    connection.close().await.unwrap();

    let refused = serve().output().unwrap();
    assert_eq!(refused.status.code(), Some(65), "{}", said(&refused));
    let words = said(&refused);
    assert!(words.contains("workspace/workspace_teleported version 1 (3 events)"), "{words}");
}
