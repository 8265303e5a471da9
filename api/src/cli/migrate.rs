//! `ledgerline migrate`.

use std::process::ExitCode;

use clap::Args;
use ledgerline_store::PostgresLog;
use tokio_util::sync::CancellationToken;

use super::{configured, output};
use crate::{
    config::ConfigArgs,
    environment::Environment,
    roles::{Backing, Pools, StartError},
};

/// What `migrate` takes.
#[derive(Args, Debug)]
pub(super) struct MigrateArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The database was restored from a backup: raise the epoch of the log, so that readers that were ahead of it are told.
    #[arg(long)]
    restored: bool,
}

/// Migrates.
pub(super) async fn migrate(
    args: MigrateArgs,
    environment: &Environment,
) -> anyhow::Result<ExitCode> {
    let config = configured(args.config)?;
    let cancel = CancellationToken::new();
    let backing = Backing::open_beside(&config, environment, &cancel).await?;
    let done = async {
        let pools = Pools::connect(&backing, &config.database).await?;
        ledgerline_store::migrate(&pools.serving).await.map_err(StartError::Migrate)?;
        ledgerline_projections::prepare(&pools.serving).await.map_err(StartError::Prepare)?;
        let epoch = match args.restored {
            true => Some(PostgresLog::raise_epoch(&pools.log).await.map_err(StartError::Log)?),
            false => None,
        };
        pools.close().await;
        Ok::<Option<i32>, StartError>(epoch)
    };
    let done = done.await;
    backing.close().await;
    let epoch = done?;
    output::note("the database has the shape of this build");
    if let Some(epoch) = epoch {
        output::note(&format!("the log is in epoch {epoch} now"));
    }
    Ok(ExitCode::SUCCESS)
}
