//! Reproducible measurements: each scenario runs beside the raw limit of Postgres or NATS in the same run, because machines are
//! shared and noisy and a ratio says more than a figure.
//!
//! `make bench` runs all; `make bench SCENARIO="append live"` some. Each prints a table and writes `target/bench/<scenario>.json`.
//! To add one: a file in `scenarios/` and a line in [`Scenario`].
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a benchmark reads clocks, states raw SQL and prints"
)]

mod engine;
mod latency;
mod load;
mod raw;
mod report;
mod runs;
mod scenarios;
mod server;
mod servers;

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use mimalloc::MiMalloc;

use report::Report;
use servers::Servers;

/// The same as the program's.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// Commands that append one event each, over many streams.
    Append,
    /// Reading and decoding the log from its start.
    Replay,
    /// Rebuilding read models.
    Rebuild,
    /// The relay catching up.
    Relay,
    /// From a commit to its frame on a socket.
    Live,
    /// Runs of some steps, with effects and without, in a row and side by side.
    Execution,
    /// Ten thousand timers at one instant, and one by one.
    Timers,
    /// Ten thousand runs that wait for a signal.
    Signals,
    /// A hundred subprocesses, cancelled at once.
    Cancel,
    /// Validating the largest graph.
    Graph,
    /// A run with a hundred thousand events.
    History,
    /// Listing and starting over HTTP.
    Http,
    /// What the program holds in memory over very many runs.
    Memory,
    /// A million log lines of one run.
    #[value(name = "log_lines")]
    LogLines,
}

const ALL: &[Scenario] = &[
    Scenario::Append,
    Scenario::Replay,
    Scenario::Rebuild,
    Scenario::Relay,
    Scenario::Live,
    Scenario::Execution,
    Scenario::Timers,
    Scenario::Signals,
    Scenario::Cancel,
    Scenario::Graph,
    Scenario::History,
    Scenario::Http,
    Scenario::Memory,
    Scenario::LogLines,
];

#[derive(Parser)]
#[command(about = "Measures Ledgerline beside the raw limit of what it stands on")]
struct Arguments {
    /// Which; all without any.
    scenarios: Vec<Scenario>,
    /// Seconds of each measured case.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Runs of the scenario `memory`.
    #[arg(long, default_value_t = 200_000)]
    runs: usize,
    /// Where the servers keep their data; emptied before and after.
    #[arg(long, default_value = "target/bench/data")]
    data_dir: PathBuf,
    /// Where the results go.
    #[arg(long, default_value = "target/bench")]
    out_dir: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let chosen = if arguments.scenarios.is_empty() { ALL } else { &arguments.scenarios };
    let servers = Servers::start(&arguments.data_dir).await?;
    let measured = measure(&servers, chosen, &arguments).await;
    servers.stop().await;
    measured
}

async fn measure(
    servers: &Servers,
    chosen: &[Scenario],
    arguments: &Arguments,
) -> anyhow::Result<()> {
    for scenario in chosen {
        let name = scenario
            .to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default();
        let mut report = Report::new(&name);
        match scenario {
            Scenario::Append => {
                scenarios::append::run(servers, &mut report, arguments.seconds).await?
            }
            Scenario::Replay => scenarios::replay::run(servers, &mut report).await?,
            Scenario::Rebuild => scenarios::rebuild::run(servers, &mut report).await?,
            Scenario::Relay => scenarios::relay::run(servers, &mut report).await?,
            Scenario::Live => scenarios::live::run(servers, &mut report, arguments.seconds).await?,
            Scenario::Execution => {
                scenarios::execution::run(servers, &mut report, arguments.seconds).await?
            }
            Scenario::Timers => scenarios::timers::run(servers, &mut report).await?,
            Scenario::Signals => scenarios::signals::run(servers, &mut report).await?,
            Scenario::Cancel => scenarios::cancel::run(servers, &mut report).await?,
            Scenario::Graph => scenarios::graph::run(servers, &mut report).await?,
            Scenario::History => scenarios::history::run(servers, &mut report).await?,
            Scenario::Http => scenarios::http::run(servers, &mut report, arguments.seconds).await?,
            Scenario::LogLines => scenarios::log_lines::run(servers, &mut report).await?,
            Scenario::Memory => {
                scenarios::memory::run(servers, &mut report, arguments.runs).await?
            }
        }
        report.finish(&arguments.out_dir)?;
    }
    Ok(())
}
