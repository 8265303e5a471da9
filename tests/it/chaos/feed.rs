//! A subscriber that comes back after every crash of the server and of nats-server hears each event of its channel once, in order.

use std::{path::Path, time::Duration};

use nix::sys::signal::{Signal, kill};
use rand::{RngExt as _, rngs::StdRng, seq::SliceRandom as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{PATIENCE, dice};
use crate::support::{
    process::{nats_server_in, open_folder, postmaster_in},
    program::{Account, Heard, Program, Socket, command, free_port, output, post, register, said},
};

/// How many events must be heard between two crashes.
const PROGRESS: usize = 12;

#[derive(Clone, Copy, Debug)]
enum Crash {
    Server,
    NatsServer,
    Both,
    Postgres,
}

/// A data directory of the embedded servers. What a crashed server left running there ends with it.
struct House {
    folder: TempDir,
    listen: String,
}

impl House {
    fn new() -> Self {
        Self { folder: open_folder(), listen: format!("127.0.0.1:{}", free_port()) }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Starts the real program on it; its address stays the same.
    fn serve(&self) -> Program {
        let folder = self.path().to_str().expect("UTF-8");
        Program::start(command(&[
            "serve",
            "--embedded",
            "--data-dir",
            folder,
            "--listen",
            &self.listen,
        ]))
    }

    fn base(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// What the log has for a workspace.
    fn events_of(&self, workspace: &str) -> Vec<i64> {
        let folder = self.path().to_str().expect("UTF-8");
        let printed =
            output(&["events", "--embedded", "--data-dir", folder, "--workspace", workspace]);
        assert!(printed.status.success(), "{}", said(&printed));
        let text = String::from_utf8(printed.stdout).expect("UTF-8");
        let position = |line: &str| {
            let event: Value = serde_json::from_str(line).expect("a CloudEvents object");
            event["position"].as_i64().expect("a position")
        };
        text.lines().map(position).collect()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        for server in
            [postmaster_in(self.path()), nats_server_in(self.path())].into_iter().flatten()
        {
            // Mostly it is gone already: the program stops its servers.
            let _ = kill(server, Signal::SIGQUIT);
        }
    }
}

/// What the subscriber has heard, over all its connections.
type HeardSoFar = watch::Sender<Vec<i64>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_9_a_resuming_subscriber_hears_each_event_once_through_every_crash() {
    let mut rng = dice();
    let house = House::new();
    let mut program = Some(house.serve());
    let ada = register(&house.base(), "ada").await;
    let workflow = json!({
        "name": "Greeting",
        "nodes": [
            { "id": "start", "type": "trigger.manual", "config": {} },
            { "id": "greet", "type": "logic.transform", "config": { "expression": "'Hello'" } },
        ],
        "connections": [{ "from": "start", "to": "greet" }],
    });
    let workflow = post(&house.base(), "/workflows", Some(&ada.token), &workflow).await;
    let workflow = workflow["id"].as_str().expect("an id").to_owned();

    let (tasks, over) = (TaskTracker::new(), CancellationToken::new());
    let (heard, no_more_starts) = (HeardSoFar::default(), CancellationToken::new());
    let listening = tasks.spawn(listen(house.base(), ada.clone(), heard.clone(), over.clone()));
    let starting =
        tasks.spawn(start_runs(house.base(), ada.clone(), workflow, no_more_starts.clone()));

    let mut crashes =
        vec![Crash::Server, Crash::Server, Crash::NatsServer, Crash::Both, Crash::Postgres];
    crashes.shuffle(&mut rng);
    for crash in crashes {
        more_is_heard(&heard).await;
        crash_now(crash, &house, &mut program, &mut rng).await;
    }
    more_is_heard(&heard).await;
    no_more_starts.cancel();
    let accepted = starting.await.expect("starting runs does not panic");
    assert!(accepted > 0, "no run was ever started");

    let told = wait_for_the_end(&house, &ada, &heard).await;
    nothing_is_stuck(&house, &ada).await;
    assert!(told.len() > accepted, "{} events of {accepted} runs", told.len());
    over.cancel();
    listening.await.expect("the subscriber never heard anything twice or out of order");
    assert_eq!(*heard.borrow(), told, "what was heard is what the log has");
    assert!(program.expect("it runs").stop().success());
}

async fn crash_now(crash: Crash, house: &House, program: &mut Option<Program>, rng: &mut StdRng) {
    sleep(Duration::from_millis(rng.random_range(0..300))).await;
    let kill_server = |server| {
        // Without one it was killed a moment ago and is not back yet.
        if let Some(server) = server {
            let _ = kill(server, Signal::SIGKILL);
        }
    };
    match crash {
        Crash::NatsServer => kill_server(nats_server_in(house.path())),
        Crash::Postgres => kill_server(postmaster_in(house.path())),
        Crash::Server => {
            program.take().expect("it runs").crash();
            *program = Some(house.serve());
        }
        Crash::Both => {
            kill_server(nats_server_in(house.path()));
            program.take().expect("it runs").crash();
            *program = Some(house.serve());
        }
    }
}

/// Asks for runs, one after another; what is refused while something is down is not asked for again. Returns how many were accepted.
async fn start_runs(
    base: String,
    who: Account,
    workflow: String,
    stop: CancellationToken,
) -> usize {
    let client =
        reqwest::Client::builder().timeout(Duration::from_secs(5)).build().expect("a client");
    let mut accepted = 0;
    while !stop.is_cancelled() {
        let url = format!("{base}/api/v1/workflows/{workflow}/start");
        let asked = client.post(url).bearer_auth(&who.token).json(&json!({ "input": {} })).send();
        if let Ok(answer) = asked.await {
            let status = answer.status();
            // Refusals are typed: while the database is away it is 503, and never 500.
            assert!(status.is_success() || status == 503, "{status} {:?}", answer.text().await);
            accepted += usize::from(status.is_success());
        }
        let _ = timeout(Duration::from_millis(150), stop.cancelled()).await;
    }
    accepted
}

/// Listens to the workspace, and comes back after the last event that was heard whenever the line breaks.
async fn listen(base: String, who: Account, heard: HeardSoFar, over: CancellationToken) {
    while !over.is_cancelled() {
        let after = heard.borrow().last().copied().unwrap_or(0);
        let Some(mut socket) = open(&base, &who.token).await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        socket.subscribe("workspace", Some(after)).await;
        while let Some(Heard::Frame(frame)) = over.run_until_cancelled(socket.next()).await {
            match frame["type"].as_str() {
                Some("event") => {
                    let position = frame["position"].as_i64().expect("a position");
                    let last = heard.borrow().last().copied().unwrap_or(0);
                    assert!(position > last, "{position} came after {last}");
                    heard.send_modify(|heard| heard.push(position));
                }
                Some("connected" | "subscribed" | "caught_up" | "progress") => {}
                // Told that it does not keep up, it comes back.
                Some("lagged") => break,
                // While the database is away a channel may be refused; it comes back.
                Some("error") if frame["status"] == 503 => break,
                _ => panic!("{frame}"),
            }
        }
    }
}

/// A socket, when somebody is there just now.
async fn open(base: &str, token: &str) -> Option<Socket> {
    match Socket::try_open(base, "/api/v1/ws", token).await {
        Ok(socket) => Some(socket),
        Err(status) => {
            assert!([0, 503].contains(&status), "a good token is refused: {status}");
            None
        }
    }
}

/// Waits until the subscriber has heard more than it had.
async fn more_is_heard(heard: &HeardSoFar) {
    let goal = heard.borrow().len() + PROGRESS;
    let mut watched = heard.subscribe();
    let waiting = watched.wait_for(|heard| heard.len() >= goal);
    let got_on = timeout(PATIENCE, waiting).await.is_ok();
    assert!(got_on, "nothing is heard any more after {:?}", heard.borrow().last());
}

/// Waits until all runs have ended and everything of them is heard; returns what the log has then.
async fn wait_for_the_end(house: &House, ada: &Account, heard: &HeardSoFar) -> Vec<i64> {
    let until = Instant::now() + PATIENCE;
    loop {
        let told = house.events_of(&ada.workspace.to_string());
        if *heard.borrow() == told && open_runs(house, ada).await == 0 {
            // Nothing that could still append is left, so what the log has stays.
            let again = house.events_of(&ada.workspace.to_string());
            if again == told {
                return told;
            }
        }
        if Instant::now() > until {
            let heard = heard.borrow().clone();
            let missing: Vec<_> =
                told.iter().filter(|position| !heard.contains(position)).collect();
            panic!(
                "not at its end: {} open runs, missing {missing:?}",
                open_runs(house, ada).await
            );
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// What the auditor finds among all runs of the deployment, whose first user is its operator.
async fn nothing_is_stuck(house: &House, ada: &Account) {
    let url = format!("{}/api/v1/executions/stuck?all=true", house.base());
    let asked = reqwest::Client::new().get(url).bearer_auth(&ada.token).timeout(PATIENCE).send();
    let answer = asked.await.expect("it answers");
    assert!(answer.status().is_success(), "{:?}", answer.text().await);
    let stuck: Value = answer.json().await.expect("JSON");
    assert_eq!((&stuck["items"], &stuck["complete"]), (&json!([]), &json!(true)), "{stuck}");
}

async fn open_runs(house: &House, ada: &Account) -> i64 {
    let client = reqwest::Client::new();
    let mut open = 0;
    for status in ["pending", "queued", "running", "paused"] {
        let url = format!("{}/api/v1/executions?status={status}&limit=1", house.base());
        let answer = client.get(url).bearer_auth(&ada.token).timeout(PATIENCE).send().await;
        let answer = answer.expect("it answers");
        assert!(answer.status().is_success(), "{status}: {:?}", answer.text().await);
        let page: Value = answer.json().await.expect("JSON");
        open += page["total"].as_i64().unwrap_or_else(|| panic!("no total in {page}"));
    }
    open
}
