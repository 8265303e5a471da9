//! A log on a database of the test's own, and a nats-server that a test may kill.

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use ledgerline_nats::{Nats, NatsConfig, Prefix};
use ledgerline_store::{
    EventLog, Intent, NewEvent, Position, StreamId, StreamVersion, StreamWrite, Workspace,
    postgres::{LogConfig, PostgresLog},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sqlx::postgres::PgConnectOptions;
use tempfile::TempDir;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::services::{self, TestDatabase};

/// Everything here takes a second or two; this is for a machine that does something else at the same time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The workspace of all events that [`TestLog`] appends.
pub(crate) const WORKSPACE: Workspace = Workspace(Uuid::from_u128(7));

/// The real log, and what the tasks of a process run under.
pub(crate) struct TestLog {
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) tracker: TaskTracker,
    pub(crate) cancel: CancellationToken,
    database: TestDatabase,
}

impl TestLog {
    pub(crate) async fn new() -> Self {
        let database = services::database().await;
        let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
        let log = PostgresLog::connect(
            database.pool().await,
            LogConfig::default(),
            &tracker,
            cancel.clone(),
        )
        .await
        .expect("the test's database answers");
        Self { log, tracker, cancel, database }
    }

    /// Appends events of a new stream in one intent and returns the position of the last.
    pub(crate) async fn append(&self, count: usize) -> Position {
        self.append_as(Uuid::now_v7(), "node_completed", r#"{"path":"fetch"}"#, count).await
    }

    /// Appends a dispatch of a new execution and returns the execution.
    pub(crate) async fn dispatch(&self, queue: &str) -> Uuid {
        let execution = Uuid::now_v7();
        let payload = format!(r#"{{"claim":1,"queue":"{queue}"}}"#);
        self.append_as(execution, "execution_dispatched", &payload, 1).await;
        execution
    }

    async fn append_as(
        &self,
        stream: Uuid,
        r#type: &'static str,
        payload: &str,
        count: usize,
    ) -> Position {
        let metadata = r#"{"actor":{"kind":"system","name":"test"},"correlation_id":"01990000-0000-7000-8000-000000000001"}"#;
        let events = (0..count)
            .map(|_| NewEvent {
                event_id: Uuid::now_v7(),
                r#type,
                schema_version: 1,
                payload: payload.to_owned(),
                metadata: metadata.to_owned(),
            })
            .collect();
        let write = StreamWrite {
            workspace: WORKSPACE,
            stream: StreamId(stream),
            category: "execution",
            expected: StreamVersion::NEW,
            events,
        };
        let intent = Intent { writes: vec![write], ..Intent::default() };
        self.log.append(intent).await.expect("the test's log takes events").position
    }

    /// Where the database is, for a log of somebody else's.
    pub(crate) fn database(&self) -> PgConnectOptions {
        self.database.options()
    }

    /// Ends every task.
    pub(crate) async fn stop(self) {
        self.cancel.cancel();
        self.tracker.close();
        within(self.tracker.wait()).await;
    }
}

/// The future's output, or a failed test.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens in time")
}

/// A prefix that no other test has.
pub(crate) fn prefix() -> Prefix {
    Prefix::new(&services::subject_prefix()).expect("test prefixes are valid")
}

/// Streams small enough that many tests fit on one server.
pub(crate) fn small(url: &str, prefix: &Prefix) -> NatsConfig {
    NatsConfig {
        prefix: prefix.clone(),
        events_max_bytes: 64 * 1024 * 1024,
        work_max_bytes: 4 * 1024 * 1024,
        ..NatsConfig::new(url)
    }
}

impl TestLog {
    /// A connection as a process of its own would have it.
    pub(crate) async fn connect(&self, config: NatsConfig) -> Nats {
        Nats::connect(config, &self.tracker, self.cancel.clone()).await.expect("the URL is valid")
    }
}

/// A nats-server of one test, on a port and in a folder that stay the same when it is started again.
pub(crate) struct NatsServer {
    port: u16,
    folder: TempDir,
    child: Option<Child>,
}

impl NatsServer {
    pub(crate) fn start() -> Self {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|listener| listener.local_addr())
            .expect("a port is free")
            .port();
        let folder = tempfile::tempdir().expect("a folder for the server");
        let mut server = Self { port, folder, child: None };
        server.start_again();
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Starts it on what it had stored.
    pub(crate) fn start_again(&mut self) {
        let binary = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.services/bin/nats-server");
        let child = Command::new(binary)
            .args(["-a", "127.0.0.1", "-p", &self.port.to_string(), "-js", "-sd"])
            .arg(self.folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("scripts/services has installed nats-server");
        self.child = Some(child);
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            assert!(Instant::now() < deadline, "nats-server does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Lets it stand still: it takes nothing in and answers nothing.
    pub(crate) fn freeze(&self) {
        let child = self.child.as_ref().expect("it runs");
        let pid = Pid::from_raw(child.id().try_into().expect("a process id"));
        kill(pid, Signal::SIGSTOP).expect("our own child can be stopped");
    }

    /// Kills it as a crash would: SIGKILL, nothing is written back.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("our own child can be killed");
            child.wait().expect("our own child can be waited for");
        }
    }

    /// Kills it and throws away what it had stored.
    pub(crate) fn lose_everything(&mut self) {
        self.kill();
        let jetstream = self.folder.path().join("jetstream");
        std::fs::remove_dir_all(jetstream).expect("the store can be removed");
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}
