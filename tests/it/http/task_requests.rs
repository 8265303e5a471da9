//! External workers over NATS: the same as over HTTP, and nothing of it is lost with NATS.

use std::time::Duration;

use futures_util::StreamExt as _;
use ledgerline_api::config::{Config, NatsConfig, Role};
use ledgerline_domain::permission::Role as MemberRole;
use reqwest::{
    StatusCode,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::support::{
    http::{Answer, Deployment, Person},
    services,
    streams::{NatsServer, within},
};

/// A worker that speaks NATS alone.
struct Worker {
    client: async_nats::Client,
    prefix: String,
    token: String,
}

impl Worker {
    async fn connect(url: &str, prefix: &str, person: &Person) -> Self {
        let options =
            async_nats::ConnectOptions::new().request_timeout(Some(Duration::from_secs(25)));
        let client = options.connect(url).await.expect("nats answers");
        Self { client, prefix: prefix.to_owned(), token: person.token.clone() }
    }

    /// A request, made again as long as nobody listens or the connection is lost: what every worker does.
    async fn ask(&self, subject: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let subject = format!("{}.worker_tasks.{subject}", self.prefix);
        let mut sent = async_nats::HeaderMap::new();
        if !self.token.is_empty() {
            sent.insert("Authorization", format!("Bearer {}", self.token));
        }
        for (name, value) in headers {
            sent.insert(*name, *value);
        }
        let asked = async {
            loop {
                let (subject, sent, body) = (subject.clone(), sent.clone(), body.to_vec());
                match self.client.request_with_headers(subject, sent, body.into()).await {
                    Ok(message) => return message,
                    Err(_away) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        answer_of(&within(asked).await)
    }

    async fn poll(&self, queue: &str, wait_ms: u64) -> Value {
        let body = json!({"queue": queue, "wait_ms": wait_ms, "worker": "over nats"});
        let answer = self.ask("poll", &[], body.to_string().as_bytes()).await;
        answer.expect(200).body["task"].clone()
    }

    async fn report(&self, task: &Value, verb: &str, key: &str, body: &Value) -> Answer {
        let mut body = body.clone();
        body["lease"] = task["lease"].clone();
        let subject = format!("{verb}.{}", task["id"].as_str().expect("a task"));
        let headers = [("Idempotency-Key", key)];
        let headers = if key.is_empty() { &[] } else { &headers[..] };
        self.ask(&subject, headers, body.to_string().as_bytes()).await
    }
}

fn answer_of(message: &async_nats::Message) -> Answer {
    let mut headers = HeaderMap::new();
    for (name, values) in message.headers.as_ref().expect("a status at least").iter() {
        let name: HeaderName = name.to_string().parse().expect("a name");
        let value = HeaderValue::from_str(values[0].as_str()).expect("text");
        headers.insert(name, value);
    }
    let status: u16 = headers["ledgerline-status"].to_str().unwrap().parse().expect("a status");
    let body = serde_json::from_slice(&message.payload).unwrap_or(Value::Null);
    Answer { status: StatusCode::from_u16(status).expect("a status"), headers, body }
}

/// A deployment on this server.
async fn deployment(url: &str, prefix: &str) -> Deployment {
    let change = |config: Config| Config {
        roles: vec![Role::Api, Role::Projector, Role::Relay, Role::Policies, Role::Worker],
        nats: NatsConfig {
            url: Some(SecretString::from(url.to_owned())),
            prefix: prefix.to_owned(),
            ..config.nats
        },
        ..config
    };
    Deployment::start_with(change).await
}

fn working(queue: &str) -> Value {
    let config = json!({"queue": queue, "input": {"name": "{{ input.name }}"}, "heartbeat_timeout_ms": 60_000});
    json!({"name": "Working", "connections": [],
        "nodes": [{"id": "step", "type": "integration.worker", "config": config,
            "retry": {"max_retries": 1, "backoff_ms": [10]}}]})
}

async fn start(person: &Person, workflow: &str) -> String {
    let body = json!({"workflow_id": workflow, "trigger_data": {"name": "Ada"}});
    person.post("/executions", &body).await.expect(202).id()
}

async fn output(person: &Person, id: &str) -> Value {
    let path = format!("/executions/{id}");
    person.until(&path, |body| body["status"] == "completed").await.body["output"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_is_taken_done_and_reported_over_nats_as_over_http() {
    let prefix = services::subject_prefix();
    let house = deployment(services::nats_url(), &prefix).await;
    let ada = house.sign_up("ada").await;
    let key = ada.with_key(&json!({"name": "worker", "scopes": ["execute"]})).await;
    let worker = Worker::connect(services::nats_url(), &prefix, &key).await;
    assert_eq!(worker.poll("images", 0).await, Value::Null);
    let workflow = ada.make_workflow(&working("images")).await;
    // The poll is there first, and hears of the task.
    let (task, id) = tokio::join!(worker.poll("images", 20_000), start(&ada, &workflow));
    assert_eq!((&task["execution_id"], &task["input"]), (&json!(id), &json!({"name": "Ada"})));
    assert_eq!(worker.poll("images", 0).await, Value::Null, "it is taken");
    let over_http = json!({"queue": "images"});
    let polled = key.post("/worker-tasks/poll", &over_http).await.expect(200);
    assert_eq!(polled.body["task"], Value::Null, "it is taken for whoever asks over HTTP too");

    let beat = worker.report(&task, "heartbeat", "", &json!({})).await.expect(200);
    assert!(beat.body["expires_at"].as_str() > task["expires_at"].as_str(), "{beat:?}");
    let mut older = task.clone();
    older["lease"] = json!(0);
    worker.report(&older, "complete", "", &json!({"output": 1})).await.refused_by("task_lost");
    let error = json!({"error": {"kind": "transient", "message": "the camera is busy"}});
    worker.report(&task, "fail", "", &error).await.expect(200);
    let second = worker.poll("images", 20_000).await;
    assert_eq!((&second["attempt"], &second["lease"]), (&json!(2), &json!(1)));
    worker.report(&task, "complete", "", &json!({})).await.refused_by("task_lost");

    let done = json!({"output": {"size": 3}});
    let first = worker.report(&second, "complete", "done-7", &done).await.expect(200);
    assert!(first.position() > 0, "{first:?}");
    let again = worker.report(&second, "complete", "done-7", &done).await.expect(200);
    assert_eq!(first.body["id"], again.body["id"], "a repeat is answered like the first one");
    worker.report(&second, "complete", "", &done).await.refused_by("execution_ended");
    assert_eq!(output(&ada, &id).await, json!({"size": 3}));
    let taken = ada.get(&format!("/executions/{id}/events")).await.expect(200);
    let taken = taken.each("type").iter().filter(|name| name.contains("task_taken")).count();
    assert_eq!(taken, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_over_nats_may_do_what_its_credential_may_and_no_more() {
    let prefix = services::subject_prefix();
    let house = deployment(services::nats_url(), &prefix).await;
    let ada = house.sign_up("ada").await;
    let mut worker = Worker::connect(services::nats_url(), &prefix, &ada).await;
    let workflow = ada.make_workflow(&working("images")).await;
    start(&ada, &workflow).await;
    let task = worker.poll("images", 20_000).await;
    let wanted = json!({"queue": "images"}).to_string();

    worker.token = String::new();
    worker.ask("poll", &[], wanted.as_bytes()).await.is_problem(401, "unauthenticated");
    // A cookie is for browsers: it is left out.
    let cookie = format!("ledgerline_access={}", ada.token);
    let answer = worker.ask("poll", &[("Cookie", &cookie)], wanted.as_bytes()).await;
    answer.is_problem(401, "unauthenticated");
    let reader = ada.with_key(&json!({"name": "reader", "scopes": ["read"]})).await;
    worker.token = reader.token;
    worker.ask("poll", &[], wanted.as_bytes()).await.is_problem(403, "forbidden");
    let eve = house.sign_up("eve").await;
    worker.token = eve.token.clone();
    assert_eq!(worker.poll("images", 0).await, Value::Null, "a queue belongs to a workspace");
    let workspace = ada.workspace.to_string();
    let elsewhere = [("Ledgerline-Workspace", workspace.as_str())];
    let answer = worker.ask("poll", &elsewhere, wanted.as_bytes()).await;
    answer.is_problem(404, "not-found");
    let done = json!({"output": 1});
    worker.report(&task, "complete", "", &done).await.is_problem(404, "not-found");
    let shop = ada.make_workspace("Shop").await;
    house.let_in(&ada, &shop, &eve, MemberRole::Viewer).await;
    let there = [("Ledgerline-Workspace", shop.as_str())];
    worker.ask("poll", &there, wanted.as_bytes()).await.is_problem(403, "forbidden");

    worker.token = ada.token.clone();
    worker.ask("poll", &[], b"{").await.is_problem(400, "malformed-request");
    let answer = worker.ask("poll", &[], br#"{"queue": "images", "hurry": true}"#).await;
    assert_eq!(answer.status, 422, "{answer:?}");
    for subject in ["poll.images", "complete", "delete", "heartbeat.x.1.61"] {
        worker.ask(subject, &[], wanted.as_bytes()).await.expect(404);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_goes_to_an_inbox_and_nowhere_else() {
    let prefix = services::subject_prefix();
    let house = deployment(services::nats_url(), &prefix).await;
    let ada = house.sign_up("ada").await;
    let worker = Worker::connect(services::nats_url(), &prefix, &ada).await;
    assert_eq!(worker.poll("images", 0).await, Value::Null, "the process listens");
    let trusted = format!("{prefix}.logs.answers");
    let mut heard = worker.client.subscribe(trusted.clone()).await.expect("it listens");
    let mut inbox = worker.client.subscribe("_INBOX_mine.>").await.expect("it listens");
    let subject = format!("{prefix}.worker_tasks.poll");
    // One process takes them in order, so the second answer would come after the first.
    for reply in [trusted, "_INBOX_mine.1".to_owned()] {
        let body = "{}".into();
        let sent = worker.client.publish_with_reply(subject.clone(), reply, body);
        sent.await.expect("it is sent");
    }
    let answer = within(inbox.next()).await.expect("an answer");
    assert_eq!(answer_of(&answer).status, 401);
    worker.client.flush().await.expect("nats answers");
    let none = futures_util::FutureExt::now_or_never(heard.next());
    assert!(none.is_none(), "{none:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_task_is_lost_when_nats_goes_away_and_comes_back_empty() {
    let prefix = services::subject_prefix();
    let mut nats = NatsServer::start();
    let house = deployment(&nats.url(), &prefix).await;
    let ada = house.sign_up("ada").await;
    let worker = Worker::connect(&nats.url(), &prefix, &ada).await;
    let workflow = ada.make_workflow(&working("images")).await;
    let id = start(&ada, &workflow).await;
    let task = worker.poll("images", 20_000).await;
    assert_eq!(task["execution_id"], json!(id));

    nats.lose_everything();
    // Its worker may go on over HTTP meanwhile, and another task is offered.
    let path = format!("/worker-tasks/{}/heartbeat", task["id"].as_str().expect("a task"));
    ada.post(&path, &json!({"lease": task["lease"]})).await.expect(200);
    let next = start(&ada, &workflow).await;

    nats.start_again();
    let done = json!({"output": "first"});
    worker.report(&task, "complete", "done", &done).await.expect(200);
    assert_eq!(output(&ada, &id).await, "first");
    let task = worker.poll("images", 20_000).await;
    assert_eq!(task["execution_id"], json!(next), "what was offered meanwhile is there");
    worker.report(&task, "complete", "", &json!({"output": "second"})).await.expect(200);
    assert_eq!(output(&ada, &next).await, "second");
}
