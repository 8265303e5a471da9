//! `ledgerline keys`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use ledgerline_store::sealed::SealedValues;

use super::{output, session::Opened};
use crate::{
    config::ConfigArgs,
    environment::Environment,
    identity::{keys, second_factor},
};

/// What `keys` takes.
#[derive(Args, Debug)]
pub(super) struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Seal every key again under the present master key, so that those it replaces are needed no more.
    ///
    /// To change the master key: give all processes the new one as LEDGERLINE_MASTER_KEY and the old one as
    /// LEDGERLINE_PREVIOUS_MASTER_KEY_FILE, run this with the same two, then take the old one away.
    Rewrap {
        #[command(flatten)]
        config: ConfigArgs,
    },
}

/// Looks after keys.
pub(super) async fn keys(args: KeysArgs, environment: &Environment) -> anyhow::Result<ExitCode> {
    let KeysCommand::Rewrap { config } = args.command;
    let opened = Opened::open(config, environment).await?;
    let rewrapped = rewrap(&opened).await;
    opened.close().await;
    let Rewrapped { workspaces, subjects, signing, second_factors } = rewrapped?;
    output::note(&format!(
        "sealed again under the present master key: the keys of {workspaces} workspaces and {subjects} subjects, {signing} signing keys, \
         {second_factors} second factors"
    ));
    Ok(ExitCode::SUCCESS)
}

/// How many of each were sealed again.
struct Rewrapped {
    workspaces: u64,
    subjects: u64,
    signing: u64,
    second_factors: u64,
}

async fn rewrap(opened: &Opened) -> anyhow::Result<Rewrapped> {
    let (pool, master) = (opened.pools.serving.clone(), opened.backing.master_key().clone());
    let signing = keys::rewrap(&pool, &master).await?;
    let second_factors = second_factor::rewrap(&pool, &master).await?;
    let sealed = SealedValues::new(pool, master);
    let (workspaces, subjects) = (sealed.rewrap().await?, sealed.subjects().rewrap().await?);
    Ok(Rewrapped { workspaces, subjects, signing, second_factors })
}
