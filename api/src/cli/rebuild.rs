//! `ledgerline rebuild`.

use std::{process::ExitCode, time::Duration};

use clap::{Args, builder::PossibleValuesParser};
use indicatif::{ProgressBar, ProgressStyle};
use ledgerline_projections::{
    Model,
    rebuild::{Phase, Progress},
};
use tokio::sync::watch;

use super::{output, session::Opened};
use crate::{config::ConfigArgs, environment::Environment, roles::signals::Signals};

/// The word for all of them.
const ALL: &str = "all";

/// What `rebuild` takes.
#[derive(Args, Debug)]
pub(super) struct RebuildArgs {
    /// Which read model, or `all`.
    #[arg(value_parser = names())]
    name: String,
    /// Print the outcome as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Rebuilds while others serve.
pub(super) async fn rebuild(
    args: RebuildArgs,
    environment: &Environment,
) -> anyhow::Result<ExitCode> {
    let models = match args.name.as_str() {
        ALL => Model::ALL.to_vec(),
        name => Model::parse(name).into_iter().collect(),
    };
    let mut signals = Signals::listen()?;
    let opened = Opened::open(args.config, environment).await?;
    let stop = opened.stop.child_token();
    let done = tokio::select! {
        done = rebuild_all(&models, &opened, args.json, &stop) => done,
        _ = signals.next() => {
            stop.cancel();
            Err(anyhow::anyhow!("stopped; the read model is as it was"))
        }
    };
    opened.close().await;
    done?;
    Ok(ExitCode::SUCCESS)
}

/// Every name that can be given.
fn names() -> PossibleValuesParser {
    Model::ALL.iter().map(|model| model.as_str()).chain([ALL]).collect::<Vec<_>>().into()
}

async fn rebuild_all(
    models: &[Model],
    opened: &Opened,
    json: bool,
    stop: &tokio_util::sync::CancellationToken,
) -> anyhow::Result<()> {
    for model in models {
        let (progress, seen) = watch::channel(Progress::default());
        let bar = bar(model.as_str());
        let owner = format!("rebuild-{}", uuid::Uuid::now_v7().simple());
        let pool = &opened.pools.serving;
        let log = opened.event_log();
        let rebuilding =
            ledgerline_projections::rebuild(pool, &log, *model, &owner, &progress, stop);
        let done = tokio::select! {
            done = rebuilding => done,
            () = show(&bar, seen) => unreachable!("the sender outlives the rebuild"),
        };
        bar.finish_and_clear();
        let done = done?;
        if json {
            output::print(&serde_json::json!({ "name": model, "progress": done }).to_string())?;
        } else {
            output::note(&format!(
                "{} is rebuilt up to position {}",
                model.as_str(),
                done.position
            ));
        }
    }
    Ok(())
}

fn bar(name: &str) -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template(
        "{prefix} {msg:<12} {bar:40} {human_pos}/{human_len} {per_sec}",
    ) {
        bar.set_style(style);
    }
    bar.set_prefix(name.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

async fn show(bar: &ProgressBar, mut seen: watch::Receiver<Progress>) {
    loop {
        let now = *seen.borrow_and_update();
        bar.set_length(u64::try_from(now.head).unwrap_or_default());
        bar.set_position(u64::try_from(now.position).unwrap_or_default());
        bar.set_message(match now.phase {
            Phase::Filling => "filling",
            Phase::Indexing => "indexing",
            Phase::CatchingUp => "catching up",
            Phase::Done => "done",
        });
        if seen.changed().await.is_err() {
            // Nobody changes it any more; whoever waits for the outcome ends this.
            std::future::pending::<()>().await;
        }
    }
}
