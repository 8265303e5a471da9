//! What a person types: one file a command.
//!
//! Standard output is for what a command prints, and for nothing else; how it goes is told on standard error. `--json` prints
//! what programs read. Exit codes are in [`EXIT_CODES`].

mod client;
mod doctor;
mod events;
mod exchange;
mod keys;
mod login;
mod migrate;
mod operator;
mod outbox;
mod output;
mod progress;
mod quarantine;
mod rebuild;
mod run;
mod serve;
mod session;

use std::{io, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{
    config::{Config, ConfigArgs},
    environment::Environment,
    roles::StartError,
    router,
};

/// What is said below every help text.
const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 failed (also a run that failed, and a doctor that found something wrong); 2 not understood, or the embedded \
servers do not start; 3 a run that was cancelled; 64 the configuration cannot stand; 65 the log was written by a newer build; 69 \
something that is needed is away, or the database needs `ledgerline migrate`; 130 stopped by a signal before it was done.";

/// Event-sourced workflow automation.
#[derive(Debug, Parser)]
#[command(name = "ledgerline", version, max_term_width = 120, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve: all roles in one process, unless --roles names some.
    Serve(serve::ServeArgs),
    /// Bring the database into the shape of this build, and stop.
    Migrate(migrate::MigrateArgs),
    /// Build a read model anew beside the one that serves, then put it in its place.
    Rebuild(rebuild::RebuildArgs),
    /// Run a workflow file and show it live.
    Run(run::RunArgs),
    /// Write a workflow of a server to a file, as JSON or YAML.
    Export(exchange::ExportArgs),
    /// Make a workflow of a file.
    Import(exchange::ImportArgs),
    /// Print the log, one CloudEvents object a line.
    Events(events::EventsArgs),
    /// Say what is reachable, what is behind, what is wrong, and how to mend it.
    Doctor(doctor::DoctorArgs),
    /// Look at streams that wait behind an event that a read model can't apply, and let them go on.
    Quarantine(quarantine::QuarantineArgs),
    /// Sign in to a server, for `run`, `export`, `import` and `quarantine`.
    Login(login::LoginArgs),
    /// Look after the keys under which secrets are sealed.
    Keys(keys::KeysArgs),
    /// Look after the operators of a deployment.
    Operator(operator::OperatorArgs),
    /// Print the mails that a deployment wrote; without a mail server, codes and links are read here.
    Outbox(outbox::OutboxArgs),
    /// Print the OpenAPI document.
    Openapi,
}

/// Does what was typed.
pub async fn run(cli: Cli) -> ExitCode {
    let environment = Environment::read();
    let done = match cli.command {
        Command::Serve(args) => serve::serve(args, &environment).await,
        Command::Migrate(args) => migrate::migrate(args, &environment).await,
        Command::Rebuild(args) => rebuild::rebuild(args, &environment).await,
        Command::Run(args) => run::run(args, &environment).await,
        Command::Export(args) => exchange::export(args, &environment).await,
        Command::Import(args) => exchange::import(args, &environment).await,
        Command::Events(args) => events::events(args, &environment).await,
        Command::Doctor(args) => doctor::doctor(args, &environment).await,
        Command::Quarantine(args) => quarantine::quarantine(args, &environment).await,
        Command::Login(args) => login::login(args, &environment).await,
        Command::Keys(args) => keys::keys(args, &environment).await,
        Command::Operator(args) => operator::operator(args, &environment).await,
        Command::Outbox(args) => outbox::outbox(args, &environment).await,
        Command::Openapi => openapi(),
    };
    match done {
        Ok(code) => code,
        // Whoever read what was printed has seen enough.
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Tells a failure on standard error and gives its exit code.
pub fn failed(error: &anyhow::Error) -> ExitCode {
    let is_stop = error.downcast_ref::<StartError>().is_some_and(|error| error.exit_code() == 130);
    if !is_stop {
        output::note(&format!("ledgerline: {}", told(error)));
    }
    let code = error.downcast_ref::<StartError>().map_or(1, StartError::exit_code);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// A failure with everything that led to it, each thing said once.
fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.ends_with(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    text
}

fn openapi() -> anyhow::Result<ExitCode> {
    output::print(&router::openapi().to_pretty_json()?)?;
    Ok(ExitCode::SUCCESS)
}

/// The configuration of a command that works on the servers themselves.
fn configured(args: ConfigArgs) -> Result<Config, StartError> {
    Config::load(args).map_err(StartError::Config)
}
