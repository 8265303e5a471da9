//! One test a channel: each carries what its name says, from where the subscriber asks, and nothing else.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Deployment;
use crate::support::{
    http::greeting,
    program::{Account, Program, Socket, post, register},
};

const ALL_ROLES: &str = "api,projector,relay,policies,worker";

/// A program with two workflows and a run of each that has ended.
struct House {
    deployment: Deployment,
    program: Program,
    ada: Account,
    /// A workflow and its run, twice.
    pairs: [(String, String); 2],
}

impl House {
    async fn new() -> Self {
        let deployment = Deployment::new().await;
        let program = deployment.start_with(ALL_ROLES);
        let ada = register(&program.base, "ada").await;
        let mut pairs = Vec::new();
        for name in ["One", "Two"] {
            pairs.push(made_and_run(&program, &ada, name).await);
        }
        let pairs = pairs.try_into().unwrap();
        Self { deployment, program, ada, pairs }
    }

    /// What a channel carries of all that happened, up to the event with which it has caught up.
    async fn heard(&self, channel: &str) -> Vec<Value> {
        let mut socket = Socket::open(&self.program.base, "/api/v1/ws", &self.ada.token).await;
        socket.subscribe(channel, Some(0)).await;
        until_caught_up(&mut socket).await
    }

    /// Everything that happened in the workspace, as the channel of the whole workspace has it.
    async fn everything(&self) -> Vec<Value> {
        self.heard("workspace").await
    }
}

/// Makes a workflow and runs it to its end.
async fn made_and_run(program: &Program, ada: &Account, name: &str) -> (String, String) {
    let token = Some(ada.token.as_str());
    let workflow = post(&program.base, "/workflows", token, &greeting(name)).await;
    let workflow = workflow["id"].as_str().unwrap().to_owned();
    let start = format!("/workflows/{workflow}/start");
    let body = json!({ "input": { "name": name } });
    let run = post(&program.base, &start, token, &body).await["id"].as_str().unwrap().to_owned();
    let mut socket = Socket::open(&program.base, "/api/v1/ws", &ada.token).await;
    socket.subscribe(&format!("execution:{run}"), Some(0)).await;
    while kind(&socket.next_of("event").await) != "execution_completed" {}
    (workflow, run)
}

async fn until_caught_up(socket: &mut Socket) -> Vec<Value> {
    let mut events = Vec::new();
    loop {
        match socket.next().await {
            crate::support::program::Heard::Frame(frame) => match frame["type"].as_str() {
                Some("event") => events.push(frame),
                Some("caught_up") => return events,
                Some("error") => panic!("{frame}"),
                _ => {}
            },
            closed => panic!("{closed:?}"),
        }
    }
}

/// The type of a frame's event, as the log stores it.
fn kind(frame: &Value) -> &str {
    frame["event"]["type"].as_str().and_then(|kind| kind.split('.').nth(2)).unwrap_or_default()
}

fn category(frame: &Value) -> &str {
    frame["event"]["type"].as_str().and_then(|kind| kind.split('.').nth(1)).unwrap_or_default()
}

fn stream(frame: &Value) -> &str {
    frame["event"]["subject"].as_str().unwrap_or_else(|| panic!("no stream: {frame}"))
}

fn positions(frames: &[Value]) -> Vec<i64> {
    frames.iter().map(|frame| frame["position"].as_i64().unwrap()).collect()
}

/// Demands that a channel carried exactly those events of the workspace that are meant.
#[track_caller]
fn exactly(heard: &[Value], all: &[Value], meant: impl Fn(&Value) -> bool) {
    let meant: Vec<Value> = all.iter().filter(|frame| meant(frame)).cloned().collect();
    assert!(!meant.is_empty());
    assert_eq!(positions(heard), positions(&meant));
}

#[tokio::test]
async fn workflows_carries_the_events_of_all_workflows() {
    let house = House::new().await;
    let all = house.everything().await;
    exactly(&house.heard("workflows").await, &all, |frame| category(frame) == "workflow");
}

#[tokio::test]
async fn executions_carries_the_events_of_all_executions() {
    let house = House::new().await;
    let all = house.everything().await;
    let heard = house.heard("executions").await;
    exactly(&heard, &all, |frame| category(frame) == "execution");
    let streams: BTreeSet<&str> = heard.iter().map(stream).collect();
    assert_eq!(streams, house.pairs.iter().map(|(_, run)| run.as_str()).collect());
}

#[tokio::test]
async fn a_workflow_s_channel_carries_it_and_its_executions() {
    let house = House::new().await;
    let all = house.everything().await;
    let (workflow, run) = &house.pairs[0];
    let mut socket = Socket::open(&house.program.base, "/api/v1/ws", &house.ada.token).await;
    socket.subscribe(&format!("workflow:{workflow}"), Some(0)).await;
    let heard = until_caught_up(&mut socket).await;
    exactly(&heard, &all, |frame| [workflow, run].contains(&&stream(frame).to_owned()));

    // What comes later is of a run that the process has not looked up yet, and of another workflow's, which is left out.
    let start = |workflow: &str| format!("/workflows/{workflow}/start");
    let token = Some(house.ada.token.as_str());
    let body = json!({ "input": { "name": "later" } });
    post(&house.program.base, &start(&house.pairs[1].0), token, &body).await;
    let later = post(&house.program.base, &start(workflow), token, &body).await;
    loop {
        let frame = socket.next_of("event").await;
        assert_eq!(stream(&frame), later["id"], "{frame}");
        if kind(&frame) == "execution_completed" {
            break;
        }
    }
}

#[tokio::test]
async fn a_socket_of_an_execution_listens_to_it_from_the_start() {
    let house = House::new().await;
    let all = house.everything().await;
    let (_, run) = &house.pairs[1];
    let base = &house.program.base;
    for path in ["/ws/executions", "/api/v1/ws/executions"] {
        let path = format!("{path}/{run}?after=0");
        let mut socket = Socket::open(base, &path, &house.ada.token).await;
        let heard = until_caught_up(&mut socket).await;
        exactly(&heard, &all, |frame| stream(frame) == run);
        assert_eq!(kind(&heard[0]), "execution_requested");
        assert_eq!(heard.last().map(kind), Some("execution_completed"));
    }
    // From the middle on, as a client that comes back asks for it; and from now on, which is nothing any more.
    let heard = house.heard(&format!("execution:{run}")).await;
    let middle = heard[2]["position"].as_i64().unwrap();
    let path = format!("/ws/executions/{run}?after={middle}");
    let mut socket = Socket::open(base, &path, &house.ada.token).await;
    assert_eq!(positions(&until_caught_up(&mut socket).await), positions(&heard[3..]));
    let mut socket = Socket::open(base, &format!("/ws/executions/{run}"), &house.ada.token).await;
    assert_eq!(until_caught_up(&mut socket).await, Vec::<Value>::new());

    let bob = register(base, "bob").await;
    let refused = Socket::try_open(base, &format!("/ws/executions/{run}"), &bob.token).await;
    assert_eq!(refused.err(), Some(404));
}

#[tokio::test]
async fn a_channel_on_which_nothing_happens_says_up_to_where() {
    let house = House::new().await;
    let (_, run) = &house.pairs[0];
    let path = format!("/ws/executions/{run}");
    let mut quiet = Socket::open(&house.program.base, &path, &house.ada.token).await;
    let begun = quiet.next_of("caught_up").await["position"].as_i64().unwrap();
    house.deployment.rename(&house.ada, 7, 10).await;
    // Whoever resumes from there need not look through again what was not for them.
    let progress = loop {
        let frame = quiet.next_of("progress").await;
        if frame["position"].as_i64().unwrap() >= begun + 7 {
            break frame;
        }
    };
    assert_eq!(progress["channel"], format!("execution:{run}"));
    let mut again = Socket::open(&house.program.base, "/api/v1/ws", &house.ada.token).await;
    again.subscribe("workspace", progress["position"].as_i64()).await;
    assert_eq!(until_caught_up(&mut again).await, Vec::<Value>::new(), "nothing is left out");
}
