//! `ledgerline migrate`.

use std::process::ExitCode;

use clap::Args;
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
        pools.close().await;
        Ok::<(), StartError>(())
    };
    let done = done.await;
    backing.close().await;
    done?;
    output::note("the database has the shape of this build");
    Ok(ExitCode::SUCCESS)
}
