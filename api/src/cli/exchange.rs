//! `ledgerline export` and `ledgerline import`: workflows of a server as files, and files as workflows.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use reqwest::Method;
use serde_json::Value;
use uuid::Uuid;

use super::{client::Client, output};
use crate::{environment::Environment, yaml};

/// What `export` takes.
#[derive(Args, Debug)]
pub(super) struct ExportArgs {
    /// The workflow's id.
    id: Uuid,
    /// As what it is written; as YAML where the file is called .yaml or .yml, else as JSON.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Which version; the latest where it is left out.
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
    version: Option<i32>,
    /// The file to write; standard output where it is left out.
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// The server.
    #[arg(long, env = "LEDGERLINE_URL")]
    url: Option<String>,
}

/// What `import` takes.
#[derive(Args, Debug)]
pub(super) struct ImportArgs {
    /// The workflow, as JSON or YAML.
    file: PathBuf,
    /// The workspace that it is made in; the personal one where it is left out.
    #[arg(long)]
    workspace: Option<Uuid>,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// The server.
    #[arg(long, env = "LEDGERLINE_URL")]
    url: Option<String>,
}

/// How a workflow is written.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Json,
    Yaml,
}

/// Whether a file's name says that it holds YAML.
fn is_yaml(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    ["yaml", "yml"].contains(&extension.to_ascii_lowercase().as_str())
}

/// The JSON text of a workflow file, which is YAML where its name says so.
pub(super) fn read(path: &Path) -> anyhow::Result<String> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    if !is_yaml(path) {
        return Ok(text);
    }
    yaml::to_json(&text).with_context(|| format!("{} is not YAML", path.display()))
}

/// Writes a workflow of a server to a file.
pub(super) async fn export(
    args: ExportArgs,
    environment: &Environment,
) -> anyhow::Result<ExitCode> {
    let client = Client::of(args.url.as_deref(), environment.token.as_ref(), environment)?;
    let by_name = || match args.output.as_deref().is_some_and(is_yaml) {
        true => Format::Yaml,
        false => Format::Json,
    };
    let format = match args.format.unwrap_or_else(by_name) {
        Format::Json => "json",
        Format::Yaml => "yaml",
    };
    let version = args.version.map(|version| format!("&version={version}")).unwrap_or_default();
    let path = format!("/workflows/{}/export?format={format}{version}", args.id);
    let text = client.text(&path).await?;
    match &args.output {
        Some(file) => {
            fs::write(file, &text).with_context(|| format!("cannot write {}", file.display()))?;
        }
        None => output::print(text.trim_end())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes a workflow of a file.
pub(super) async fn import(
    args: ImportArgs,
    environment: &Environment,
) -> anyhow::Result<ExitCode> {
    let text = read(&args.file)?;
    let workflow: Value = serde_json::from_str(&text)
        .with_context(|| format!("{} is not JSON", args.file.display()))?;
    let client = Client::of(args.url.as_deref(), environment.token.as_ref(), environment)?;
    let workspace = args.workspace.map(|id| format!("&workspace_id={id}")).unwrap_or_default();
    let path = format!("/workflows/import?dry_run={}{workspace}", args.dry_run);
    let answer = client.ask(Method::POST, &path, Some(&workflow)).await?;
    match answer.get("id").and_then(Value::as_str) {
        Some(id) => output::print(id)?,
        None => output::print(&serde_json::to_string_pretty(&answer)?)?,
    }
    Ok(ExitCode::SUCCESS)
}
