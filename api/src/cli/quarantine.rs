//! `ledgerline quarantine`: streams that wait behind an event that a read model can't apply. For operators of a server.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{client::Client, output};
use crate::environment::Environment;

/// What `quarantine` takes.
#[derive(Args, Debug)]
pub(super) struct QuarantineArgs {
    #[command(subcommand)]
    command: QuarantineCommand,
    /// Print JSON objects, one a line.
    #[arg(long, global = true)]
    json: bool,
    /// The server.
    #[arg(long, env = "LEDGERLINE_URL", global = true)]
    url: Option<String>,
}

#[derive(Debug, Subcommand)]
enum QuarantineCommand {
    /// Show what waits, behind which event, and what was left out.
    List,
    /// Apply what waits of a stream, in order.
    Retry {
        /// The read model.
        model: String,
        /// The stream.
        key: Uuid,
    },
    /// Leave out the event that a stream waits behind, and apply what comes after it.
    Skip {
        /// The read model.
        model: String,
        /// The stream.
        key: Uuid,
        /// Why; it stays in the log with your name.
        #[arg(long)]
        reason: String,
    },
}

/// Looks at the quarantine, or lets a stream out of it.
pub(super) async fn quarantine(
    args: QuarantineArgs,
    environment: &Environment,
) -> anyhow::Result<ExitCode> {
    let client = Client::of(args.url.as_deref(), environment.token.as_ref(), environment)?;
    let (model, key, word, body) = match args.command {
        QuarantineCommand::List => return list(&client, args.json).await,
        QuarantineCommand::Retry { model, key } => (model, key, "retry", None),
        QuarantineCommand::Skip { model, key, reason } => {
            (model, key, "skip", Some(json!({ "reason": reason })))
        }
    };
    let segment: String = url::form_urlencoded::byte_serialize(model.as_bytes()).collect();
    let path = format!("/system/projections/{segment}/quarantine/{key}/{word}");
    let released = client.ask(Method::POST, &path, body.as_ref()).await?;
    if args.json {
        output::print(&released.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    match released.get("held") {
        None | Some(Value::Null) => output::note(&format!("{model} {key} is up to date")),
        Some(held) => output::note(&format!("{model} waits behind a later event: {}", told(held))),
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(client: &Client, json: bool) -> anyhow::Result<ExitCode> {
    let system = client.ask(Method::GET, "/system", None).await?;
    let all = system.get("quarantine").and_then(Value::as_array);
    let all = all.context("the server does not say what waits")?;
    for held in all {
        if json {
            output::print(&held.to_string())?;
            continue;
        }
        let model = held.get("projection").and_then(Value::as_str).unwrap_or_default();
        output::print(&format!("{model} {}", told(held)))?;
    }
    if all.is_empty() && !json {
        output::note("nothing waits, and nothing was left out");
    }
    Ok(ExitCode::SUCCESS)
}

/// One stream with its event: `<stream> at <position>: <what is wrong>`.
fn told(held: &Value) -> String {
    let text = |name: &str| held.get(name).and_then(Value::as_str).unwrap_or_default();
    let position = held.get("position").and_then(Value::as_i64).unwrap_or_default();
    let left_out = match text("skip_reason") {
        "" => String::new(),
        reason => format!(" (left out: {reason})"),
    };
    format!("{} at {position}: {}{left_out}", text("key"), text("error"))
}
