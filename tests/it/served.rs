//! A served program under load and as its operators see it: NATS away for a while, and what `/metrics` says.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ledgerline_nats::Prefix;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    relay::stored,
    support::{
        http::greeting,
        program::{Account, MASTER_KEY, PATIENCE, Program, Socket, command, post, register},
        services::{self, TestDatabase},
        streams::{NatsServer, prefix},
    },
};

/// Runs that must end in each phase.
const RUNS: usize = 20;

/// How many runs are asked for at once.
const STARTERS: usize = 3;

fn serve(database: &TestDatabase, nats: &NatsServer, prefix: &Prefix, folder: &str) -> Program {
    let mut serve = command(&["serve", "--listen", "127.0.0.1:0", "--data-dir", folder]);
    serve
        .args(["--nats-prefix", prefix.as_str()])
        .env("DATABASE_URL", database.url())
        .env("NATS_URL", nats.url())
        .env("LEDGERLINE_MASTER_KEY", MASTER_KEY);
    Program::start(serve)
}

/// Asks for `/health` until the whole is in a condition, and its NATS too.
async fn becomes(program: &Program, condition: &str) -> Value {
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = reqwest::get(format!("{}/health", program.base)).await.unwrap();
        let health: Value = answer.json().await.unwrap();
        if [&health["status"], &health["parts"]["nats"]["condition"]] == [condition; 2] {
            return health;
        }
        assert!(Instant::now() < until, "it is never {condition}: {health}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Starts runs until it is told to stop; gives how many.
async fn load(base: String, ada: Account, over: Arc<AtomicBool>, begun: Arc<AtomicUsize>) {
    let token = Some(ada.token.as_str());
    let workflow = post(&base, "/workflows", token, &greeting("Load")).await;
    let start = format!("/workflows/{}/start", workflow["id"].as_str().unwrap());
    let starters = (0..STARTERS).map(|_| async {
        while !over.load(Ordering::SeqCst) {
            post(&base, &start, token, &json!({ "input": { "name": "load" } })).await;
            begun.fetch_add(1, Ordering::SeqCst);
        }
    });
    futures_util::future::join_all(starters).await;
}

/// Runs that a socket has heard the end of.
struct Ended {
    socket: Socket,
    runs: BTreeSet<String>,
    last: i64,
}

impl Ended {
    async fn hear(&mut self, more: usize) {
        let wanted = self.runs.len() + more;
        while self.runs.len() < wanted {
            let frame = self.socket.next_of("event").await;
            let position = frame["position"].as_i64().unwrap();
            assert!(position > self.last, "{position} comes after {}", self.last);
            self.last = position;
            if frame["event"]["type"] == "ledgerline.execution.execution_completed.v1" {
                let run = frame["event"]["subject"].as_str().unwrap().to_owned();
                assert!(self.runs.insert(run), "a run ends twice: {frame}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_nats_runs_and_feeds_go_on_and_the_relay_catches_up() {
    let (database, folder) = (services::database().await, tempfile::tempdir().unwrap());
    let (mut nats, prefix) = (NatsServer::start(), prefix());
    let program = serve(&database, &nats, &prefix, folder.path().to_str().unwrap());
    let ada = register(&program.base, "ada").await;
    becomes(&program, "ok").await;
    let mut socket = Socket::open(&program.base, "/api/v1/ws", &ada.token).await;
    socket.subscribe("executions", None).await;
    socket.next_of("caught_up").await;
    let mut ended = Ended { socket, runs: BTreeSet::new(), last: 0 };
    let (over, begun) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let loading = load(program.base.clone(), ada.clone(), Arc::clone(&over), Arc::clone(&begun));
    #[expect(clippy::disallowed_methods, reason = "the test waits for it")]
    let loading = tokio::spawn(loading);
    ended.hear(RUNS).await;

    nats.kill();
    becomes(&program, "degraded").await;
    let ready = reqwest::get(format!("{}/health/ready", program.base)).await.unwrap();
    assert!(ready.status().is_success(), "it serves without NATS");
    // Those that were begun before it was killed are heard of first; as many again began without it.
    let begun_so_far = begun.load(Ordering::SeqCst);
    ended.hear(begun_so_far.saturating_sub(ended.runs.len()) + RUNS).await;
    becomes(&program, "degraded").await;

    nats.start_again();
    becomes(&program, "ok").await;
    ended.hear(RUNS).await;
    over.store(true, Ordering::SeqCst);
    loading.await.unwrap();
    ended.hear(begun.load(Ordering::SeqCst) - ended.runs.len()).await;

    // What the relay could not carry meanwhile is on the stream, once and in order.
    let system = format!("{}/api/v1/system", program.base);
    let until = Instant::now() + PATIENCE;
    let head = loop {
        let shown = reqwest::Client::new().get(&system).bearer_auth(&ada.token);
        let shown: Value = shown.send().await.unwrap().json().await.unwrap();
        let relay = shown["readers"].as_array().unwrap().iter().find(|it| it["name"] == "relay");
        let lag = relay.unwrap()["lag_events"].as_i64().unwrap();
        if lag == 0 {
            break shown["log"]["head"].as_i64().unwrap();
        }
        assert!(Instant::now() < until, "the relay does not catch up: {shown}");
        sleep(Duration::from_millis(50)).await;
    };
    let carried = stored(&nats.url(), &prefix).await;
    assert!(carried.len() >= usize::try_from(head).unwrap());
    assert_eq!(carried[..], (1..=i64::try_from(carried.len()).unwrap()).collect::<Vec<_>>()[..]);
    assert!(program.stop().success());
}

/// What `docs/operations.md` tells operators to watch.
fn watched() -> Vec<String> {
    let page = include_str!("../../docs/operations.md");
    let line = page.lines().find(|line| line.contains("`GET /metrics`")).expect("it is told");
    let words = line.split('`').skip(1).step_by(2).map(str::to_owned);
    words.filter(|word| word.contains('_') && !word.contains([' ', '/'])).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_operators_are_told_to_watch_is_measured() {
    let (database, folder) = (services::database().await, tempfile::tempdir().unwrap());
    let (nats, prefix) = (NatsServer::start(), prefix());
    let program = serve(&database, &nats, &prefix, folder.path().to_str().unwrap());
    let ada = register(&program.base, "ada").await;
    post(&program.base, "/workflows", Some(&ada.token), &greeting("Any")).await;
    let names = watched();
    assert!(names.len() >= 5, "{names:?}");
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = reqwest::get(format!("{}/metrics", program.base)).await.unwrap();
        let text = answer.text().await.unwrap();
        let measured = |name: &&String| {
            let first = |line: &str| line.split(['{', ' ']).next().unwrap_or_default().to_owned();
            // A histogram has its own endings.
            text.lines().map(first).any(|line| line == **name || line == format!("{name}_count"))
        };
        let missing: Vec<&String> = names.iter().filter(|name| !measured(name)).collect();
        if missing.is_empty() {
            break;
        }
        assert!(Instant::now() < until, "{missing:?} in {text}");
        // Some are looked at now and then.
        sleep(Duration::from_millis(100)).await;
    }
    assert!(program.stop().success());
}
