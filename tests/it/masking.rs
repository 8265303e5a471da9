//! A secret is used in every place that takes one, comes back in every place that gives something, and is then looked for everywhere:
//! in each table of the database, in each message on NATS, and in what the API shows.

use std::sync::{Arc, Mutex};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use chrono::Utc;
use futures_util::StreamExt as _;
use ledgerline_api::config::{Config, NatsConfig, Role, WorkerConfig};
use ledgerline_commands::Target;
use ledgerline_domain::{
    execution::{CancelReason, ExecutionCommand},
    vault::{SecretName, Vault, VaultCommand},
};
use ledgerline_store::{seal::MasterKey, sealed::SealedValues, simulated::SimulatedLog};
use ledgerline_worker::{
    WorkerSettings,
    allowed::{AllowList, AllowedCommand},
    outbound::Reach,
};
use secrecy::SecretString;
use serde_json::{Value, json};
use sqlx::postgres::PgPoolOptions;
use uuid::Uuid;

use crate::support::{
    echo::Echo,
    engine::{Engine, context, wall_clock, within},
    http::{Deployment, Person},
    services,
    tables::all_rows,
};

const SECRET: &str = "hunter2/+&=\"é %41 of ada";

/// Prints what it is given, also in base64 and in a line that is longer than one log line may be.
const SCRIPT: &str = "echo \"$TOKEN\"; printf '%s' \"$TOKEN\" | base64; echo \"$TOKEN\" >&2; \
                      head -c 16370 /dev/zero | tr '\\0' x; echo \"$TOKEN\"; cat; exit 3";

fn config(usual: Config, prefix: &str) -> Config {
    let script = AllowedCommand {
        settable_env: vec!["TOKEN".to_owned()],
        ..AllowedCommand::exactly("sh", &["-c", SCRIPT])
    };
    Config {
        roles: Role::ALL.to_vec(),
        nats: NatsConfig {
            url: Some(SecretString::from(services::nats_url())),
            prefix: prefix.to_owned(),
            ..usual.nats
        },
        worker: WorkerConfig {
            allowed_networks: vec!["127.0.0.0/8".parse().expect("a network")],
            allowed_commands: Some(AllowList(vec![script])),
            ..usual.worker
        },
        ..usual
    }
}

/// Everything that is said on NATS under a prefix.
async fn listen(prefix: &str) -> Arc<Mutex<Vec<u8>>> {
    let client = async_nats::connect(services::nats_url()).await.expect("NATS answers");
    let mut all = client.subscribe(format!("{prefix}.>")).await.expect("it listens");
    client.flush().await.expect("the subscription is known");
    let heard = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&heard);
    #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
    tokio::spawn(async move {
        let _client = client;
        while let Some(message) = all.next().await {
            let mut heard = kept.lock().unwrap();
            heard.extend_from_slice(message.subject.as_bytes());
            heard.extend_from_slice(&message.payload);
            heard.push(b'\n');
        }
    });
    heard
}

fn workflow(echo: &Echo) -> Value {
    let request = |id: &str, path: &str| {
        json!({ "id": id, "type": "action.http", "on_error": "continue", "retry": { "max_retries": 0 }, "config": {
            "method": "POST",
            "url": format!("{}{path}{{{{ secrets.TOKEN }}}}", echo.base),
            "headers": { "Authorization": "Bearer of {{ secrets.HEADER }}", "X-Token": "{{ secrets.HEADER }}" },
            "query": { "q": "{{ secrets.TOKEN }}" },
            "body": { "deep": ["{{ secrets.TOKEN }}", "and {{ secrets['TOKEN'] }}"] },
        } })
    };
    json!({
        "name": "Everywhere",
        "nodes": [
            { "id": "start", "type": "trigger.manual" },
            request("echo", "/echo?q="),
            request("large", "/echo?large="),
            request("fail", "/fail?q="),
            { "id": "stored", "type": "action.http", "config": { "url": format!("{}/stored", echo.base) } },
            { "id": "run", "type": "action.command", "on_error": "continue", "config": {
                "program": "sh", "args": ["-c", SCRIPT],
                "env": { "TOKEN": "{{ secrets.TOKEN }}" }, "stdin": "{{ secrets.TOKEN }}",
            } },
            { "id": "keep", "type": "logic.set_variable", "config": { "name": "kept", "expression": "nodes.echo.output" } },
            { "id": "file", "type": "action.file", "config": {
                "operation": "write", "path": "out.txt", "content": "{{ nodes.stored.output.body.sent[0] }}",
            } },
        ],
        "connections": [
            { "from": "start", "to": "echo" }, { "from": "echo", "to": "large" }, { "from": "large", "to": "fail" },
            { "from": "fail", "to": "stored" }, { "from": "stored", "to": "run" }, { "from": "run", "to": "keep" },
            { "from": "keep", "to": "file" },
        ],
    })
}

async fn set(person: &Person, name: &str, value: &str) {
    person.put(&format!("/secrets/{name}"), &json!({ "value": value })).await.expect(200);
}

/// The secret in every spelling in which it could stand somewhere.
fn spellings(secret: &str) -> Vec<String> {
    let percent = |upper: bool| -> String {
        let one = |byte: u8| if upper { format!("%{byte:02X}") } else { format!("%{byte:02x}") };
        secret.bytes().map(one).collect()
    };
    let json = |text: &str| {
        let text = serde_json::to_string(text).expect("a text");
        text[1..text.len() - 1].to_owned()
    };
    let url = reqwest::Url::parse_with_params("http://h/", [("q", secret)]).expect("a URL");
    let base64 = BASE64_STANDARD.encode(secret);
    vec![
        secret.to_owned(),
        json(secret),
        json(&json(secret)),
        percent(true),
        percent(false),
        url.query().expect("a query").trim_start_matches("q=").to_owned(),
        base64[..base64.len() - 4].to_owned(),
        // As a column of bytes is shown.
        secret.bytes().map(|byte| format!("{byte:02x}")).collect(),
        base64.bytes().map(|byte| format!("{byte:02x}")).collect(),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_10_no_secret_that_a_run_uses_is_kept_or_said_anywhere() {
    let prefix = services::subject_prefix();
    let said = listen(&prefix).await;
    let house = Deployment::start_with(|usual| config(usual, &prefix)).await;
    let ada = house.sign_up("ada").await;
    let echo = Echo::start().await;
    // A header takes no other letters than these.
    let header = "Zx9-token-of-ada-in-a-header";
    set(&ada, "TOKEN", SECRET).await;
    set(&ada, "HEADER", header).await;
    let id = ada.make_workflow(&workflow(&echo)).await;
    let run = ada.command(&format!("/workflows/{id}/start")).await.expect(202).id();
    let ended =
        ada.until(&format!("/executions/{run}"), |run| run["finished_at"].is_string()).await;
    assert_eq!(ended.body["status"], "completed", "{ended:?}");

    // It was used: the server got the values themselves.
    assert_eq!(echo.headers("/echo", "x-token"), [header, header]);
    assert_eq!(echo.headers("/fail", "authorization"), [format!("Bearer of {header}")]);
    // It is on record who used what.
    let log = ada.get(&format!("/executions/{run}/events?limit=200")).await.expect(200);
    let started = |node: &str| {
        let of_node = log.items().iter().find(|event| {
            event["type"].as_str().is_some_and(|kind| kind.contains("node_started"))
                && event["data"]["path"] == node
        });
        of_node.unwrap_or_else(|| panic!("{node} in {log:?}"))["data"].clone()
    };
    assert_eq!(started("echo")["secrets"], json!(["HEADER", "TOKEN"]));
    assert_eq!(started("run")["secrets"], json!(["TOKEN"]));
    assert_eq!(started("stored").get("secrets"), None);
    let input = started("echo")["input"].clone();
    assert_eq!(input["headers"], json!([["Authorization", "Bearer of ***"], ["X-Token", "***"]]));
    assert_eq!(input["body"], json!({ "deep": ["***", "and ***"] }));
    // What came back is there, without it.
    let nodes = ada.get(&format!("/executions/{run}/nodes")).await.expect(200).body.to_string();
    assert!(nodes.contains("before *** after ***"), "{nodes}");
    let lines = ada.get(&format!("/executions/{run}/logs?limit=200")).await.expect(200);
    let printed = lines.body.to_string();
    assert!(printed.contains("\"***\"") && printed.contains("x***"), "{printed}");

    let mut needles = spellings(SECRET);
    needles.extend(spellings(header));
    let pool = house.pool().await;
    let rows = all_rows(&pool).await;
    for table in ["public.events", "public.log_lines", "public.blobs", "public.sealed_values"] {
        assert!(rows.iter().any(|(name, _)| name.starts_with(table)), "{table} has rows");
    }
    // What is said comes after what is kept: the end of the run is the last of it.
    let said = within(async {
        loop {
            let heard = String::from_utf8_lossy(&said.lock().unwrap()).into_owned();
            if heard.contains("execution_completed") && heard.contains("x***") {
                break heard;
            }
            tokio::task::yield_now().await;
        }
    });
    let said = said.await;
    assert!(said.contains("node_completed"));
    for needle in &needles {
        for (table, row) in &rows {
            assert!(!row.contains(needle.as_str()), "{needle} is in {table}: {row}");
        }
        assert!(!said.contains(needle.as_str()), "{needle} was said on NATS");
        assert!(!log.body.to_string().contains(needle.as_str()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_goes_to_no_other_server_by_a_redirect() {
    let prefix = services::subject_prefix();
    let house = Deployment::start_with(|usual| config(usual, &prefix)).await;
    let ada = house.sign_up("ada").await;
    let (echo, thief) = (Echo::start().await, Echo::start().await);
    set(&ada, "KEY", "a key for one server").await;
    let request = json!({ "name": "Redirected", "nodes": [{ "id": "ask", "type": "action.http", "config": {
        "url": format!("{}/redirect", echo.base), "headers": { "X-Token": "{{ secrets.KEY }}" },
    } }] });
    let id = ada.make_workflow(&request).await;
    let ended = async || {
        let run = ada.command(&format!("/workflows/{id}/start")).await.expect(202).id();
        ada.until(&format!("/executions/{run}"), |run| run["finished_at"].is_string()).await
    };
    echo.redirects_to(&format!("{}/echo", thief.base));
    let failed = ended().await;
    assert_eq!(failed.body["status"], "failed");
    assert!(failed.body.to_string().contains("redirected to another server"), "{failed:?}");
    assert!(thief.headers("/echo", "x-token").is_empty());
    // Within the server it goes on.
    echo.redirects_to(&format!("{}/echo", echo.base));
    assert_eq!(ended().await.body["status"], "completed");
    assert_eq!(echo.headers("/echo", "x-token"), ["a key for one server"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_is_not_there_is_said_at_save_and_in_the_run() {
    let prefix = services::subject_prefix();
    let house = Deployment::start_with(|usual| config(usual, &prefix)).await;
    let ada = house.sign_up("ada").await;
    let echo = Echo::start().await;
    let body = json!({ "name": "Uses", "nodes": [{ "id": "ask", "type": "action.http", "config": {
        "url": format!("{}/echo", echo.base),
        "headers": { "X-Token": "{{ secrets.KEY }}", "X-Input": "{{ input.text }}" },
    } }] });
    let refused = ada.post("/workflows", &body).await;
    assert_eq!(refused.pointers(), ["/nodes/0/config"]);
    assert_eq!(refused.body["errors"][0]["code"], "secret_unknown");
    let verdict = ada.post("/workflows/validate", &body).await.expect(200);
    assert_eq!(verdict.body["errors"][0]["code"], "secret_unknown", "{verdict:?}");
    set(&ada, "KEY", "the value").await;
    assert_eq!(ada.post("/workflows/validate", &body).await.expect(200).body["valid"], true);
    let id = ada.make_workflow(&body).await;
    let start = async |input: Value| {
        let started = ada.post(&format!("/workflows/{id}/start"), &json!({ "input": input })).await;
        let run = started.expect(202).id();
        ada.until(&format!("/executions/{run}"), |run| run["finished_at"].is_string()).await
    };
    // An input is text, whatever it says.
    let done = start(json!({ "text": "{{ secrets.KEY }}" })).await;
    assert_eq!(done.body["status"], "completed");
    assert_eq!(echo.headers("/echo", "x-input"), ["{{ secrets.KEY }}"]);
    assert_eq!(echo.headers("/echo", "x-token"), ["the value"]);
    // The next run has the next value; and none when it is gone.
    set(&ada, "KEY", "another value").await;
    start(json!({ "text": "x" })).await;
    assert_eq!(echo.headers("/echo", "x-token"), ["the value", "another value"]);
    ada.delete("/secrets/KEY").await.expect(204);
    let failed = start(json!({ "text": "x" })).await;
    assert_eq!(failed.body["status"], "failed");
    assert!(failed.body.to_string().contains("has no secret `KEY`"), "{failed:?}");
    assert_eq!(echo.headers("/echo", "x-token").len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_with_a_secret_in_hand_leaves_none_behind() {
    let database = services::database().await;
    let log = SimulatedLog::new(Uuid::now_v7(), wall_clock());
    let engine = Engine::on(Arc::<SimulatedLog>::clone(&log));
    let echo = Echo::start().await;
    // A pool of its own for each worker: a connection dies with the runtime that opened it.
    let sealed = || {
        let pool = PgPoolOptions::new().connect_lazy_with(database.options());
        SealedValues::new(pool, MasterKey::new([3; 32]))
    };
    let name: SecretName = "KEY".parse().expect("a name");
    let value = b"value-in-the-hand-of-a-worker";
    let put = sealed().put(engine.workspace.0, &name.holder(), 1, value, Utc::now()).await;
    let version = put.expect("it is kept");
    let target = Target::new(engine.workspace.vault(), engine.workspace);
    let set = VaultCommand::SetSecret { name, version };
    engine.commands.execute::<Vault>(target, &set, &context()).await.expect("it is set");
    let worker = || {
        engine.worker_with(|settings| WorkerSettings {
            sealed: Some(sealed()),
            reach: Arc::new(Reach::public().and_network("127.0.0.0/8".parse().expect("a network"))),
            ..settings
        })
    };
    let definition = json!({ "nodes": [{ "id": "ask", "type": "action.http", "config": {
        "url": format!("{}/hang", echo.base), "headers": { "X-Token": "{{ secrets.KEY }}" },
    } }] });
    let workflow = engine.workflow(&definition).await;
    let first = worker();
    let id = engine.start(workflow, &json!({})).await;
    within(echo.arrived()).await;
    first.kill();
    let second = worker();
    within(echo.arrived()).await;
    let sent = String::from_utf8_lossy(value).into_owned();
    assert_eq!(echo.headers("/hang", "x-token"), [sent.clone(), sent.clone()]);
    let keys = echo.headers("/hang", "idempotency-key");
    assert_eq!(keys[0], keys[1], "the same try is made again");
    engine.tell(id, ExecutionCommand::Cancel { reason: CancelReason::StoppedByUser }).await;
    engine.ended(id).await;
    let history = engine.history(id).await.join("\n");
    assert!(history.contains("\"secrets\":[\"KEY\"]") && history.contains("***"), "{history}");
    assert!(!history.contains(&sent), "{history}");
    second.stop().await;
    engine.stop().await;
}
