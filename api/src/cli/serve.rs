//! `ledgerline serve`.

use std::process::ExitCode;

use clap::Args;
use secrecy::ExposeSecret as _;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{configured, output};
use crate::{
    config::ConfigArgs,
    environment::Environment,
    roles::{Options, Process, signals::Signals},
    telemetry,
};

/// What `serve` takes.
#[derive(Args, Debug)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Make a demo user with workflows to try out, and print how to sign in.
    #[arg(long)]
    seed_demo: bool,
}

/// Serves until a signal comes.
pub(super) async fn serve(args: ServeArgs, environment: &Environment) -> anyhow::Result<ExitCode> {
    let mut config = configured(args.config)?;
    // The demo watches its own health over HTTP.
    config.worker.reach_own_address |= args.seed_demo;
    telemetry::install_logs(&config.telemetry)?;
    let (tasks, over) = (TaskTracker::new(), CancellationToken::new());
    let metrics = telemetry::install_metrics(&tasks, &over)?;
    let stop = CancellationToken::new();
    let signals = Signals::listen()?;
    tasks.spawn(signals.obey(stop.clone()));
    let options = Options { seed_demo: args.seed_demo, metrics: Some(metrics) };
    let process = Box::pin(Process::start(config, environment, options, &stop)).await?;
    if let Some(demo) = process.demo() {
        let password = demo.password.expose_secret();
        let _gone =
            output::print(&format!("demo: sign in as {} with the password {password}", demo.email));
    }
    // Last, because whoever waits for it may go on at once. On standard output, where a script looks; it serves also when nobody does.
    let _gone = output::print(&format!("listening on {}", process.url()));
    stop.cancelled().await;
    process.stop().await;
    over.cancel();
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}
