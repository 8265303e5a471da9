//! `ledgerline events`.

use std::process::ExitCode;

use clap::{Args, builder::PossibleValuesParser};
use futures_util::TryStreamExt as _;
use ledgerline_domain::event::AnyEvent;
use ledgerline_nats::{EventSource, encode};
use ledgerline_store::{EventLog as _, Filter, Position, RecordedEvent, StreamId, Tail, Workspace};
use uuid::Uuid;

use super::{output, session::Opened};
use crate::{config::ConfigArgs, environment::Environment, roles::signals::Signals};

/// Events of one read while the log is followed.
const BATCH: usize = 500;

/// What `events` takes.
#[derive(Args, Debug)]
pub(super) struct EventsArgs {
    /// Only what comes after this position.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
    after: i64,
    /// Go on with what is appended from now on, until a signal comes.
    #[arg(long)]
    follow: bool,
    /// Only these categories.
    #[arg(long, value_delimiter = ',', value_parser = categories())]
    category: Vec<String>,
    /// Only these types, such as node_failed.
    #[arg(long = "type", value_delimiter = ',')]
    types: Vec<String>,
    /// Only this stream.
    #[arg(long)]
    stream: Option<Uuid>,
    /// Only this workspace.
    #[arg(long)]
    workspace: Option<Uuid>,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Every category that this build knows.
fn categories() -> PossibleValuesParser {
    AnyEvent::TYPES.iter().map(|(category, _)| *category).collect::<Vec<_>>().into()
}

/// Prints the log.
pub(super) async fn events(
    args: EventsArgs,
    environment: &Environment,
) -> anyhow::Result<ExitCode> {
    let filter = Filter {
        workspace: args.workspace.map(Workspace),
        stream: args.stream.map(StreamId),
        categories: args.category,
        types: args.types,
    };
    let mut signals = Signals::listen()?;
    let opened = Opened::open(args.config, environment).await?;
    let printed = tokio::select! {
        printed = print_all(&opened, Position(args.after), args.follow, &filter) => printed,
        _ = signals.next() => Ok(()),
    };
    opened.close().await;
    printed.map(|()| ExitCode::SUCCESS)
}

async fn print_all(
    opened: &Opened,
    after: Position,
    follow: bool,
    filter: &Filter,
) -> anyhow::Result<()> {
    let head = opened.log.head().await?;
    let source = EventSource::of_log(head.log_id);
    let mut events = opened.log.stream(after, head.position, filter.clone());
    while let Some(event) = events.try_next().await? {
        print_event(&event, &source)?;
    }
    if !follow {
        return Ok(());
    }
    let tail = Tail::start(opened.event_log(), &opened.tasks, opened.stop.clone());
    let mut reader = tail.reader(head.position.max(after));
    loop {
        for event in reader.next_batch(BATCH).await? {
            if filter.matches(&event) {
                print_event(&event, &source)?;
            }
        }
    }
}

fn print_event(event: &RecordedEvent, source: &EventSource) -> anyhow::Result<()> {
    Ok(output::print(std::str::from_utf8(&encode(event, source))?)?)
}
