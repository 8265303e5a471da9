//! `ledgerline run`: a workflow file, from nothing to its outcome.
//!
//! Against a server, or on its own (`--embedded`): then a whole deployment is started in a folder that is gone afterwards.

use std::{
    fs::{self, Permissions},
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::Args;
use reqwest::Method;
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{client::Client, configured, exchange, output, progress::Shown};
use crate::{
    config::ConfigArgs,
    environment::Environment,
    roles::{Options, Process, signals::Signals},
    seed::WorkflowFile,
};

/// The exit code of a run that was cancelled.
const EXIT_CANCELLED: u8 = 3;

/// How long log lines are waited for after the last one when the run has ended.
const LAST_LINES: Duration = Duration::from_millis(300);

/// What `run` takes.
#[derive(Args, Debug)]
pub(super) struct RunArgs {
    /// The workflow, as JSON, or as YAML in a file called .yaml or .yml.
    file: PathBuf,
    /// What the workflow sees as `input`.
    #[arg(long, value_name = "JSON", default_value = "{}")]
    input: String,
    /// Start everything it needs in a folder of its own, and leave nothing behind.
    #[arg(long)]
    embedded: bool,
    /// The server.
    #[arg(long, env = "LEDGERLINE_URL", conflicts_with = "embedded")]
    url: Option<String>,
    /// An access token or API key; without one, the sign-in of `ledgerline login`.
    #[arg(skip)]
    token: Option<SecretString>,
    /// Print the outcome as JSON, and nothing of how it goes.
    #[arg(long)]
    json: bool,
}

/// How a run ended.
struct Outcome {
    execution: String,
    status: &'static str,
    output: Value,
    error: Value,
}

/// Runs a file.
pub(super) async fn run(mut args: RunArgs, environment: &Environment) -> anyhow::Result<ExitCode> {
    let text = exchange::read(&args.file)?;
    let input: Value = serde_json::from_str(&args.input).context("--input is not JSON")?;
    let workflow: Value = serde_json::from_str(&text)
        .with_context(|| format!("{} is not JSON", args.file.display()))?;
    if let Err(wrong) = WorkflowFile::draft(&text) {
        bail!("{} is not a sound workflow:\n  {}", args.file.display(), wrong.join("\n  "));
    }
    args.token = environment.token.clone();
    let outcome = if args.embedded {
        Box::pin(alone(&args, environment, &workflow, &input)).await?
    } else {
        let client = Client::of(args.url.as_deref(), args.token.as_ref(), environment)?;
        let mut signals = Signals::listen()?;
        tokio::select! {
            outcome = run_on(&client, &workflow, &input, args.json) => outcome?,
            _ = signals.next() => bail!("no longer watching; the run goes on at {}", client.base()),
        }
    };
    tell(&outcome, args.json)
}

/// Runs it on a deployment that is made for it.
async fn alone(
    args: &RunArgs,
    environment: &Environment,
    workflow: &Value,
    input: &Value,
) -> anyhow::Result<Outcome> {
    // Open to pass through, because root's Postgres is another user.
    let folder =
        std::env::temp_dir().join(format!("ledgerline-run-{}", uuid::Uuid::now_v7().simple()));
    fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let done = async {
        fs::set_permissions(&folder, Permissions::from_mode(0o711))?;
        let mut config = configured(ConfigArgs {
            embedded: true,
            data_dir: Some(folder.join("data")),
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            ..ConfigArgs::default()
        })?;
        config.worker.reach_own_address = true;
        let stop = CancellationToken::new();
        let mut signals = Signals::listen()?;
        if !args.json {
            output::note("starting a deployment of its own …");
        }
        let starting = Process::start(config, environment, Options::default(), &stop);
        tokio::pin!(starting);
        let process = tokio::select! {
            process = &mut starting => process?,
            _ = signals.next() => {
                stop.cancel();
                starting.await?
            }
        };
        let outcome = async {
            let client = Client::new(process.url())?;
            register(&client).await?;
            run_on(&client, workflow, input, args.json).await
        };
        let outcome = tokio::select! {
            outcome = outcome => outcome,
            _ = signals.next() => Err(anyhow::anyhow!("stopped")),
        };
        process.stop().await;
        outcome
    };
    let done = Box::pin(done).await;
    let cleaned = fs::remove_dir_all(&folder);
    let outcome = done?;
    cleaned.with_context(|| format!("cannot remove {}", folder.display()))?;
    Ok(outcome)
}

async fn register(client: &Client) -> anyhow::Result<()> {
    const EMAIL: &str = "you@ledgerline.local";
    let password = hex::encode(rand::random::<[u8; 16]>());
    let body = json!({ "email": EMAIL, "password": password, "full_name": "You" });
    client.sign_in("/auth/register", EMAIL, &body).await?;
    Ok(())
}

async fn run_on(
    client: &Client,
    workflow: &Value,
    input: &Value,
    quiet: bool,
) -> anyhow::Result<Outcome> {
    let id = save(client, workflow).await?;
    let body = json!({ "input": input });
    let started = client.ask(Method::POST, &format!("/workflows/{id}/start"), Some(&body)).await?;
    let execution =
        started.get("id").and_then(Value::as_str).context("the server named no execution")?;
    let execution = execution.to_owned();
    if !quiet {
        output::note(&format!("execution {execution}"));
    }
    let (mut events, following) =
        client.feed(format!("/stream?channel=execution:{execution}&after=0"));
    let (mut lines, printing) = client.feed(format!("/stream?channel=logs:{execution}"));
    let watched = watch(&execution, &mut events, &mut lines, quiet);
    tokio::select! {
        outcome = watched => outcome,
        ended = async { tokio::try_join!(following, printing) } => {
            ended?;
            bail!("the server closed the feed; the run goes on at {}", client.base())
        }
    }
}

/// Saves the file as the workflow of its name: a new one, or the next version where it differs.
async fn save(client: &Client, workflow: &Value) -> anyhow::Result<String> {
    let name = workflow.get("name").and_then(Value::as_str).unwrap_or_default();
    let search: String = url::form_urlencoded::byte_serialize(name.as_bytes()).collect();
    let list =
        client.ask(Method::GET, &format!("/workflows?limit=200&search={search}"), None).await?;
    let same = list.get("items").and_then(Value::as_array).into_iter().flatten().find(|item| {
        item.get("name") == workflow.get("name")
            && item.get("status").and_then(Value::as_str) != Some("archived")
    });
    let id_of = |answer: &Value| {
        let id = answer.get("id").and_then(Value::as_str).map(str::to_owned);
        id.context("the server named no workflow")
    };
    let Some(known) = same else {
        return id_of(&client.ask(Method::POST, "/workflows", Some(workflow)).await?);
    };
    let id = id_of(known)?;
    let path = format!("/workflows/{id}");
    let saved = client.ask(Method::GET, &path, None).await?;
    let part = |of: &Value, name: &str| match of.get(name) {
        None | Some(Value::Null) => Value::Null,
        Some(value) if value.as_object().is_some_and(serde_json::Map::is_empty) => Value::Null,
        Some(value) if value.as_array().is_some_and(Vec::is_empty) => Value::Null,
        Some(value) => value.clone(),
    };
    let differs = ["nodes", "connections", "settings", "description", "tags"]
        .iter()
        .any(|name| part(&saved, name) != part(workflow, name));
    if differs {
        client.ask(Method::PUT, &path, Some(workflow)).await?;
        // What a start runs is the published version where there is one.
        client.ask(Method::POST, &format!("{path}/publish"), Some(&json!({}))).await?;
    }
    Ok(id)
}

async fn watch(
    execution: &str,
    events: &mut mpsc::Receiver<Value>,
    lines: &mut mpsc::Receiver<Value>,
    quiet: bool,
) -> anyhow::Result<Outcome> {
    let mut shown = Shown::new();
    let outcome = loop {
        tokio::select! {
            frame = events.recv() => {
                let frame = frame.context("the feed ended")?;
                if let Some(event) = frame.get("event")
                    && let Some(outcome) = heard(execution, event, &mut shown, quiet)
                {
                    break outcome;
                }
            }
            Some(frame) = lines.recv() => show_line(&frame, &shown, quiet),
        }
    };
    while let Ok(Some(frame)) = timeout(LAST_LINES, lines.recv()).await {
        show_line(&frame, &shown, quiet);
    }
    shown.clear();
    Ok(outcome)
}

fn show_line(frame: &Value, shown: &Shown, quiet: bool) {
    if let Some(line) = frame.get("line")
        && !quiet
    {
        shown.line(line);
    }
}

/// Shows an event; the outcome when it was the last one.
fn heard(execution: &str, event: &Value, shown: &mut Shown, quiet: bool) -> Option<Outcome> {
    let data = event.get("data").cloned().unwrap_or_default();
    let kind = event.get("type").and_then(Value::as_str).unwrap_or_default();
    // `ledgerline.execution.<type>.v<version>`
    let kind = kind.split('.').nth(2).unwrap_or_default();
    let ended = |status: &'static str, output: Value, error: Value| Outcome {
        execution: execution.to_owned(),
        status,
        output,
        error,
    };
    match kind {
        "execution_completed" => {
            let output = data.get("output").cloned().unwrap_or_default();
            let output = output.get("inline").cloned().unwrap_or(output);
            return Some(ended("completed", output, Value::Null));
        }
        "execution_failed" => return Some(ended("failed", Value::Null, data)),
        "execution_cancelled" => return Some(ended("cancelled", Value::Null, data)),
        _ if quiet => {}
        "execution_queued" => shown.say("waits for a slot"),
        "execution_paused" => shown.say("paused"),
        "execution_unpaused" => shown.say("goes on"),
        kind => shown.node(kind, &data),
    }
    None
}

fn tell(outcome: &Outcome, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        let value = json!({
            "execution_id": outcome.execution,
            "status": outcome.status,
            "output": outcome.output,
            "error": outcome.error,
        });
        output::print(&value.to_string())?;
    } else if outcome.status == "completed" {
        match &outcome.output {
            Value::String(text) => output::print(text.trim_end())?,
            other => output::print(&serde_json::to_string_pretty(other)?)?,
        }
    } else {
        let message = outcome.error.pointer("/error/message").and_then(Value::as_str);
        let node = outcome.error.get("node").and_then(Value::as_str).unwrap_or_default();
        output::note(&format!("{} {node} {}", outcome.status, message.unwrap_or_default()));
    }
    Ok(match outcome.status {
        "completed" => ExitCode::SUCCESS,
        "cancelled" => ExitCode::from(EXIT_CANCELLED),
        _ => ExitCode::FAILURE,
    })
}
