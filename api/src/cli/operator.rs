//! `ledgerline operator`.

use std::process::ExitCode;

use chrono::Utc;
use clap::{Args, Subcommand};

use super::{output, session::Opened};
use crate::{config::ConfigArgs, environment::Environment};

/// What `operator` takes.
#[derive(Args, Debug)]
pub(super) struct OperatorArgs {
    #[command(subcommand)]
    command: OperatorCommand,
}

#[derive(Debug, Subcommand)]
enum OperatorCommand {
    /// Make the person with an address an operator.
    Add {
        /// The address the person registered with.
        email: String,
        /// Print the outcome as JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        config: ConfigArgs,
    },
}

/// Looks after operators.
pub(super) async fn operator(
    args: OperatorArgs,
    environment: &Environment,
) -> anyhow::Result<ExitCode> {
    let OperatorCommand::Add { email, json, config } = args.command;
    let opened = Opened::open(config, environment).await?;
    let identity = opened.identity().await;
    let added = match identity {
        Ok(identity) => identity.add_operator(&email, Utc::now()).await.map_err(Into::into),
        Err(error) => Err(anyhow::Error::from(error)),
    };
    opened.close().await;
    if added? {
        if json {
            output::print(&serde_json::json!({ "email": email, "operator": true }).to_string())?;
            return Ok(ExitCode::SUCCESS);
        }
        output::note(&format!("{email} is an operator"));
        return Ok(ExitCode::SUCCESS);
    }
    anyhow::bail!(
        "nobody has registered with the address {email}; register first, then repeat this"
    );
}
