//! `ledgerline migrate`.

use std::process::ExitCode;

use clap::Args;
use ledgerline_store::PostgresLog;
use tokio_util::sync::CancellationToken;

use super::{configured, output};
use crate::{
    config::{Config, ConfigArgs},
    environment::Environment,
    roles::{Backing, Pools, StartError, shape},
};

/// What `migrate` takes.
#[derive(Args, Debug)]
pub(super) struct MigrateArgs {
    /// The database was restored from a backup: raise the epoch of the log, so that readers that were ahead of it are told.
    #[arg(long)]
    restored: bool,
    /// Let this role of the database serve: it may read the log and append to it but change nothing of it, and owns the read models.
    #[arg(long, value_name = "NAME")]
    serving_role: Option<String>,
    /// Print the outcome as JSON.
    #[arg(long)]
    json: bool,
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
    let role = args.serving_role.as_deref();
    let done = on_database(&config, &backing, args.restored, role).await;
    backing.close().await;
    let epoch = done?;
    if args.json {
        let done = serde_json::json!({ "epoch": epoch, "serving_role": role });
        output::print(&done.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    output::note("the database has the shape of this build");
    if args.restored {
        output::note(&format!("the log is in epoch {epoch} now"));
    }
    if let Some(role) = role {
        output::note(&format!("{role} may serve from it"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Does all that is asked for, and gives the epoch of the log.
async fn on_database(
    config: &Config,
    backing: &Backing,
    restored: bool,
    role: Option<&str>,
) -> Result<i32, StartError> {
    let pools = Pools::connect(backing, &config.database).await?;
    shape::bring(&pools.serving).await?;
    if let Some(role) = role {
        shape::give_to(&pools.serving, role).await?;
    }
    let epoch = match restored {
        true => PostgresLog::raise_epoch(&pools.log).await,
        false => PostgresLog::epoch(&pools.log).await,
    };
    pools.close().await;
    epoch.map_err(StartError::Log)
}
