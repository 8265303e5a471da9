//! Live feeds of the real program: nothing missing, nothing twice, nothing for those it does not concern.

use std::{collections::BTreeSet, sync::Arc};

use chrono::Utc;
use futures_util::StreamExt as _;
use ledgerline_commands::{Clock, Commands, Context, Settings, Target};
use ledgerline_domain::{
    event::Actor,
    id::{UserId, WorkspaceId},
    permission::Role,
    workspace::{AddMember, CreateWorkspace, EndGrace, RemoveMember, Workspace, WorkspaceCommand},
};
use ledgerline_store::{
    EventLog, Intent, LogConfig, LogLevel, LogLine, NewEvent, PostgresLog, StreamId, StreamVersion,
    StreamWrite, Workspace as OfWorkspace,
};
use serde_json::{Value, json};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::support::{
    program::{Account, Heard, MASTER_KEY, Program, Socket, command, free_port, post, register},
    services::{self, TestDatabase},
};

mod channels;
mod rewound;

/// A deployment whose program can be ended and started again.
struct Deployment {
    database: TestDatabase,
    prefix: String,
    listen: String,
    /// The log as another process sees it.
    log: Arc<PostgresLog>,
    stop: CancellationToken,
}

impl Deployment {
    async fn new() -> Self {
        let database = services::database().await;
        let stop = CancellationToken::new();
        let (pool, tasks) = (database.pool().await, TaskTracker::new());
        let log = PostgresLog::connect(pool, LogConfig::default(), &tasks, stop.clone()).await;
        Self {
            prefix: services::subject_prefix(),
            listen: format!("127.0.0.1:{}", free_port()),
            log: log.unwrap(),
            database,
            stop,
        }
    }

    fn start(&self) -> Program {
        self.start_at(&self.listen, "api,relay")
    }

    fn start_with(&self, roles: &str) -> Program {
        self.start_at(&self.listen, roles)
    }

    fn start_at(&self, listen: &str, roles: &str) -> Program {
        let mut command = command(&[
            "serve",
            "--roles",
            roles,
            "--listen",
            listen,
            "--nats-prefix",
            &self.prefix,
        ]);
        command
            .env("DATABASE_URL", self.database.url())
            .env("NATS_URL", services::nats_url())
            .env("LEDGERLINE_MASTER_KEY", MASTER_KEY)
            // One address for all processes of the deployment, as behind a balancer: it is the issuer of tokens.
            .env("LEDGERLINE_PUBLIC_URL", "http://ledgerline.test");
        Program::start(command)
    }

    fn commands(&self) -> Commands {
        let log = Arc::clone(&self.log) as Arc<dyn EventLog>;
        Commands::new(log, Clock::system(), Settings::default())
    }

    /// Renames a personal workspace so many times, each name with so many letters in its description.
    async fn rename(&self, who: &Account, times: usize, letters: usize) {
        let stream = StreamId(who.workspace);
        let payload = json!({ "name": "again", "description": "x".repeat(letters) }).to_string();
        let metadata = json!({
            "actor": { "kind": "human", "user_id": who.user }, "correlation_id": Uuid::now_v7(),
        });
        let mut left = times;
        let mut version = self.version(stream).await;
        while left > 0 {
            let count = left.min(500);
            left -= count;
            let events = (0..count).map(|_| NewEvent {
                event_id: Uuid::now_v7(),
                r#type: "workspace_renamed",
                schema_version: 1,
                payload: payload.clone(),
                metadata: metadata.to_string(),
            });
            let write = StreamWrite {
                workspace: OfWorkspace(who.workspace),
                stream,
                category: "workspace",
                expected: version,
                events: events.collect(),
            };
            let intent = Intent { writes: vec![write], ..Intent::default() };
            version = self.log.append(intent).await.unwrap().versions[0].1;
        }
    }

    async fn version(&self, stream: StreamId) -> StreamVersion {
        let mut version = StreamVersion::NEW;
        loop {
            let events = self.log.read_stream(stream, version, 5_000).await.unwrap();
            match events.last() {
                Some(last) => version = last.version,
                None => return version,
            }
        }
    }

    /// Where the events of somebody's workspace stand in the log: others, such as what the audit is told, may stand between them.
    async fn positions(&self, who: &Account) -> Vec<i64> {
        let (mut version, mut positions) = (StreamVersion::NEW, Vec::new());
        loop {
            let stream = StreamId(who.workspace);
            let events = self.log.read_stream(stream, version, 5_000).await.unwrap();
            let Some(last) = events.last() else { return positions };
            version = last.version;
            positions.extend(events.iter().map(|event| event.position.0));
        }
    }

    async fn tell(&self, by: &Account, workspace: Uuid, command: WorkspaceCommand) {
        let context = Context::new(Actor::Human { user_id: UserId(by.user) });
        let target = Target::new(WorkspaceId(workspace), WorkspaceId(workspace));
        self.commands().execute::<Workspace>(target, &command, &context).await.unwrap();
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[tokio::test]
async fn a_subscriber_resumes_across_a_crash_without_a_hole_or_a_double() {
    let deployment = Deployment::new().await;
    let program = deployment.start();
    let ada = register(&program.base, "ada").await;
    let mut socket = Socket::open(&program.base, "/api/v1/ws", &ada.token).await;
    assert_eq!(socket.next_of("connected").await["type"], "connected");
    socket.subscribe("workspace", Some(0)).await;
    deployment.rename(&ada, 20, 10).await;
    let mut heard = socket.positions(12).await;
    program.crash();

    // What was sent and not read is lost with the line; what happens meanwhile was never sent.
    deployment.rename(&ada, 30, 10).await;
    let program = deployment.start();
    let mut socket = Socket::open(&program.base, "/api/v1/ws", &ada.token).await;
    socket.subscribe("workspace", heard.last().copied()).await;
    heard.extend(socket.positions(39).await);
    assert!(socket.next_of("caught_up").await["position"].as_i64() >= heard.last().copied());
    deployment.rename(&ada, 5, 10).await;
    heard.extend(socket.positions(5).await);
    assert_eq!(heard.len(), 56);
    assert_eq!(heard, deployment.positions(&ada).await);
    assert!(program.stop().success());
    assert_eq!(socket.closed().await, 1012);
}

#[tokio::test]
async fn two_sockets_hear_the_same_in_the_same_order() {
    let deployment = Deployment::new().await;
    let program = deployment.start();
    let ada = register(&program.base, "ada").await;
    let mut early = Socket::open(&program.base, "/ws/updates", &ada.token).await;
    early.next_of("caught_up").await;
    deployment.rename(&ada, 200, 10).await;
    let mut late = Socket::open(&program.base, "/api/v1/ws", &ada.token).await;
    late.subscribe("workspace", Some(1)).await;
    deployment.rename(&ada, 200, 10).await;
    let expected = &deployment.positions(&ada).await[1..];
    assert_eq!(early.positions(400).await, expected);
    assert_eq!(late.positions(400).await, expected);

    late.say(&json!({ "action": "unsubscribe", "channel": "workspace" })).await;
    late.next_of("unsubscribed").await;
    deployment.rename(&ada, 3, 10).await;
    assert_eq!(early.positions(3).await, deployment.positions(&ada).await[401..]);
    late.say(&json!({ "action": "ping" })).await;
    let Heard::Frame(frame) = late.next().await else { panic!("the socket stays open") };
    assert_eq!(frame["type"], "pong", "nothing comes after the channel was left");
}

#[tokio::test]
async fn a_subscriber_that_does_not_keep_up_is_told_and_loses_nothing() {
    const EVENTS: usize = 20_000;
    let deployment = Deployment::new().await;
    let program = deployment.start();
    let ada = register(&program.base, "ada").await;
    let mut slow = Socket::open(&program.base, "/ws/updates", &ada.token).await;
    slow.next_of("caught_up").await;
    // More than the line, the queue and the gateway's buffer hold, while nothing is read.
    deployment.rename(&ada, EVENTS, 2_000).await;
    let all = deployment.positions(&ada).await;
    let mut told = 1;
    let lagged = loop {
        match slow.next().await {
            Heard::Frame(frame) if frame["type"] == "event" => {
                let position = frame["position"].as_i64().unwrap();
                if position == all[0] && told == 1 {
                    // Her registration, where the feed heard of it after she began to listen.
                    continue;
                }
                assert_eq!(position, all[told], "a hole or a double");
                told += 1;
            }
            Heard::Frame(frame) if frame["type"] == "lagged" => break frame,
            Heard::Frame(_) => {}
            Heard::Closed(code) => panic!("closed with {code} before it was told"),
        }
    };
    let last = all[told - 1];
    assert_eq!(lagged["position"], last);
    assert!(told < EVENTS, "it was not slow enough to be told anything");
    assert_eq!(slow.closed().await, 4008);

    let mut again = Socket::open(&program.base, "/api/v1/ws", &ada.token).await;
    again.subscribe("workspace", Some(last)).await;
    assert_eq!(again.positions(all.len() - told).await, all[told..]);
}

#[tokio::test]
async fn nobody_hears_what_is_not_theirs() {
    let deployment = Deployment::new().await;
    let program = deployment.start();
    let ada = register(&program.base, "ada").await;
    let bob = register(&program.base, "bob").await;
    for path in ["/api/v1/ws", "/ws/updates", "/api/v1/ws/updates"] {
        assert_eq!(Socket::try_open(&program.base, path, "").await.err(), Some(401), "{path}");
    }
    let foreign = format!("/api/v1/ws/collaboration/{}", ada.workspace);
    assert_eq!(Socket::try_open(&program.base, &foreign, &bob.token).await.err(), Some(404));

    let mut socket = Socket::open(&program.base, "/api/v1/ws", &bob.token).await;
    let ask =
        json!({ "action": "subscribe", "channel": "workspace", "workspace_id": ada.workspace });
    socket.say(&ask).await;
    let refused = socket.next_of("error").await;
    assert_eq!((&refused["code"], &refused["channel"]), (&json!("not-found"), &json!("workspace")));
    for (channel, code) in [
        (format!("execution:{}", Uuid::now_v7()), "not-found"),
        ("everything".to_owned(), "invalid-value"),
        ("analytics".to_owned(), "not-found"),
    ] {
        socket.subscribe(&channel, None).await;
        assert_eq!(socket.next_of("error").await["code"], code, "{channel}");
    }
    socket.subscribe("workspace", Some(1_000_000)).await;
    assert_eq!(socket.next_of("error").await["code"], "position-unknown");
    socket.say(&json!({ "action": "dance" })).await;
    assert_eq!(socket.next_of("error").await["code"], "malformed-request");
    // None of that ends the socket.
    socket.say(&json!({ "action": "ping" })).await;
    socket.next_of("pong").await;
}

#[tokio::test]
async fn a_member_who_is_taken_out_is_cut_off_at_once() {
    let deployment = Deployment::new().await;
    let program = deployment.start();
    let ada = register(&program.base, "ada").await;
    let bob = register(&program.base, "bob").await;
    let shared = Uuid::now_v7();
    let create = CreateWorkspace {
        name: "Shared".to_owned(),
        description: String::new(),
        owner: UserId(ada.user),
        personal: false,
    };
    deployment.tell(&ada, shared, WorkspaceCommand::Create(create)).await;
    let member = |role| AddMember { by: UserId(ada.user), user_id: UserId(bob.user), role };
    deployment.tell(&ada, shared, WorkspaceCommand::AddMember(member(Role::Viewer))).await;

    let path = format!("/ws/collaboration/{shared}");
    let mut socket = Socket::open(&program.base, &path, &bob.token).await;
    socket.next_of("caught_up").await;
    let remove = RemoveMember { by: UserId(ada.user), user_id: UserId(bob.user) };
    deployment.tell(&ada, shared, WorkspaceCommand::RemoveMember(remove)).await;
    loop {
        match socket.next().await {
            Heard::Frame(frame) => assert_ne!(frame["type"], "event", "{frame}"),
            Heard::Closed(code) => break assert_eq!(code, 4403),
        }
    }
}

/// Two processes: what one of them is told acts on the next request to the other, and on what is open there.
#[tokio::test]
async fn a_member_who_is_taken_out_by_one_process_is_out_in_the_other() {
    let deployment = Deployment::new().await;
    let (here, there) = (
        deployment.start(),
        deployment.start_at(&format!("127.0.0.1:{}", free_port()), "api,relay"),
    );
    let (ada, bob) = (register(&here.base, "ada").await, register(&there.base, "bob").await);
    let made = post(&here.base, "/workspaces", Some(&ada.token), &json!({ "name": "Team" })).await;
    let shared: Uuid = made["id"].as_str().unwrap().parse().unwrap();
    let member =
        AddMember { by: UserId(ada.user), user_id: UserId(bob.user), role: Role::Administrator };
    deployment.tell(&ada, shared, WorkspaceCommand::AddMember(member)).await;
    let client = reqwest::Client::new();
    let path = format!("/api/v1/workspaces/{shared}");
    let looks = async |program: &Program| {
        let url = format!("{}{path}", program.base);
        client.get(url).bearer_auth(&bob.token).send().await.unwrap().status().as_u16()
    };
    assert_eq!((looks(&here).await, looks(&there).await), (200, 200));
    let mut socket =
        Socket::open(&there.base, &format!("/ws/collaboration/{shared}"), &bob.token).await;
    socket.next_of("caught_up").await;

    let member = format!("{}{path}/members/{}", here.base, bob.user);
    let removed = client.delete(member).bearer_auth(&ada.token).send().await.unwrap();
    assert_eq!(removed.status(), 204);
    assert_eq!((looks(&there).await, looks(&here).await), (404, 404));
    let rename = client.patch(format!("{}{path}", there.base)).bearer_auth(&bob.token);
    let rename = rename.json(&json!({ "name": "Mine" })).send().await.unwrap();
    assert_eq!(rename.status(), 404);
    assert_eq!(socket.closed().await, 4403);
}

#[tokio::test]
async fn a_socket_outlives_the_grace_of_its_workspace_and_not_its_end() {
    let deployment = Deployment::new().await;
    let program = deployment.start();
    let ada = register(&program.base, "ada").await;
    let made =
        post(&program.base, "/workspaces", Some(&ada.token), &json!({ "name": "Team" })).await;
    let shared: Uuid = made["id"].as_str().unwrap().parse().unwrap();
    let mut socket =
        Socket::open(&program.base, &format!("/ws/collaboration/{shared}"), &ada.token).await;
    socket.next_of("caught_up").await;
    deployment.tell(&ada, shared, WorkspaceCommand::Delete).await;
    let asked = socket.next_of("event").await;
    assert_eq!(asked["event"]["type"], "ledgerline.workspace.workspace_deletion_requested.v1");
    let ends_at = asked["event"]["data"]["ends_at"].as_str().unwrap().parse().unwrap();
    deployment.tell(&ada, shared, WorkspaceCommand::EndGrace(EndGrace { ends_at })).await;
    assert_eq!(socket.closed().await, 4403);
}

#[tokio::test]
async fn a_socket_ends_with_its_session() {
    let deployment = Deployment::new().await;
    let program = deployment.start();
    let ada = register(&program.base, "ada").await;
    let mut socket = Socket::open(&program.base, "/ws/updates", &ada.token).await;
    socket.next_of("caught_up").await;
    post(&program.base, "/auth/logout", Some(&ada.token), &json!({})).await;
    assert_eq!(socket.closed().await, 4401);
}

#[tokio::test]
async fn a_client_that_breaks_a_rule_of_sockets_is_told_which() {
    let deployment = Deployment::new().await;
    let program = deployment.start();
    let ada = register(&program.base, "ada").await;
    for (bytes, code) in [(vec![0xff, 0xfe], 1007), (vec![b' '; 20_000], 1009)] {
        let mut socket = Socket::open(&program.base, "/ws/updates", &ada.token).await;
        socket.next_of("caught_up").await;
        socket.say_bytes(bytes).await;
        assert_eq!(socket.closed().await, code);
    }
}

#[tokio::test]
async fn the_same_feed_comes_as_server_sent_events() {
    let deployment = Deployment::new().await;
    let program = deployment.start();
    let ada = register(&program.base, "ada").await;
    deployment.rename(&ada, 9, 10).await;
    let open = |last_event_id: &str| {
        reqwest::Client::new()
            .get(format!("{}/api/v1/stream?channel=workspace&after=0", program.base))
            .bearer_auth(&ada.token)
            .header("last-event-id", last_event_id.to_owned())
            .send()
    };
    let response = open("4").await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let log = response.headers()["ledgerline-log"].to_str().unwrap().to_owned();
    let expected: Vec<String> = (5..=10).map(|position| format!("{log}:{position}")).collect();
    let heard = ids(response, 6).await;
    assert_eq!(heard, expected);
    // What a client brings back is what it was given.
    let again = open(&heard[2]).await.unwrap();
    assert_eq!(ids(again, 3).await, expected[3..]);
    let refused = open("x").await.unwrap();
    assert_eq!(refused.status(), 422);
}

/// The ids of the next messages that are news.
async fn ids(response: reqwest::Response, count: usize) -> Vec<String> {
    let mut bytes = response.bytes_stream();
    let (mut text, mut ids) = (String::new(), Vec::new());
    while ids.len() < count {
        let chunk = bytes.next().await.expect("the stream goes on").unwrap();
        text.push_str(&String::from_utf8_lossy(&chunk));
        while let Some((message, rest)) = text.split_once("\n\n") {
            if !message.contains("event: feed") && message.contains("data:") {
                let id = message.lines().find_map(|line| line.strip_prefix("id: "));
                ids.push(id.expect("news have an id").to_owned());
            }
            text = rest.to_owned();
        }
    }
    ids
}

#[tokio::test]
async fn log_lines_join_the_table_and_what_is_printed() {
    let deployment = Deployment::new().await;
    let program = deployment.start();
    let ada = register(&program.base, "ada").await;
    let workflow = json!({
        "name": "Hello", "nodes": [{ "id": "start", "type": "trigger.manual", "config": {} }], "connections": [],
    });
    let token = Some(ada.token.as_str());
    let workflow = post(&program.base, "/workflows", token, &workflow).await;
    let start = format!("/workflows/{}/start", workflow["id"].as_str().unwrap());
    let execution = post(&program.base, &start, token, &json!({})).await;
    let execution: Uuid = execution["id"].as_str().unwrap().parse().unwrap();

    let line = |claim: i32, n: i64| LogLine {
        workspace_id: ada.workspace,
        execution_id: execution,
        claim,
        n,
        at: Utc::now(),
        level: LogLevel::Info,
        node: "start".to_owned(),
        attempt: 1,
        message: format!("{claim}/{n}"),
        fields: None,
        correlation_id: None,
    };
    let lines = |claim, numbers: std::ops::RangeInclusive<i64>| {
        numbers.map(|n| line(claim, n)).collect::<Vec<_>>()
    };
    deployment.log.write_log_lines(&lines(1, 1..=700)).await.unwrap();
    let mut socket = Socket::open(&program.base, "/api/v1/ws", &ada.token).await;
    socket.subscribe(&format!("logs:{execution}"), None).await;
    let mut seen = cursors(&mut socket, 700).await;
    socket.next_of("caught_up").await;
    // Printed by a worker elsewhere that has no NATS: the table is looked at.
    deployment.log.write_log_lines(&lines(1, 701..=705)).await.unwrap();
    deployment.log.write_log_lines(&lines(2, 1..=5)).await.unwrap();
    seen.extend(cursors(&mut socket, 10).await);
    let expected = (1..=705).map(|n| format!("1/{n}")).chain((1..=5).map(|n| format!("2/{n}")));
    assert_eq!(seen, expected.collect::<Vec<_>>());
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), seen.len());

    let again =
        json!({ "action": "subscribe", "channel": format!("logs:{execution}"), "after": "2/3" });
    let mut socket = Socket::open(&program.base, "/api/v1/ws", &ada.token).await;
    socket.say(&again).await;
    assert_eq!(cursors(&mut socket, 2).await, ["2/4", "2/5"]);
}

async fn cursors(socket: &mut Socket, count: usize) -> Vec<String> {
    let mut cursors = Vec::new();
    while cursors.len() < count {
        let frame: Value = socket.next_of("log").await;
        assert_eq!(frame["line"]["message"], frame["cursor"]);
        cursors.push(frame["cursor"].as_str().unwrap().to_owned());
    }
    cursors
}
