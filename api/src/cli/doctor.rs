//! `ledgerline doctor`: what is reachable, what is behind, what is wrong, and how to mend it.

mod database;

use std::{process::ExitCode, sync::Arc, time::Duration};

use chrono::Utc;
use clap::Args;
use ledgerline_commands::{
    Clock, Commands, Settings, Survey,
    audit::{GRACE, audit},
};
use ledgerline_nats::{Nats, NatsState};
use ledgerline_projections::{Positions, status::State};
use ledgerline_store::{EventLog, Position, Tail};
use serde::Serialize;
use tokio::time::timeout;

use super::{configured, output, session::Opened};
use crate::{
    config::ConfigArgs,
    environment::Environment,
    roles::{StartError, unknown_types},
};

/// How long NATS may take to be ready.
const NATS_PATIENCE: Duration = Duration::from_secs(5);

/// A lag of more events than this is worth a word.
const LAG_EVENTS: i64 = 1_000;

/// At most so many stuck executions are named; the others are in `GET /executions/stuck`.
const NAMED_STUCK: usize = 10;

/// A disk with less than this free is nearly full.
const LEAST_FREE_BYTES: u64 = 1024 * 1024 * 1024;

/// What Postgres says when it gives out no more connections.
const TOO_MANY_CONNECTIONS: &str = "53300";

/// What `doctor` takes.
#[derive(Args, Debug)]
pub(super) struct DoctorArgs {
    /// Print what was found as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// How something was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Finding {
    Ok,
    Warning,
    Wrong,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    finding: Finding,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

#[derive(Default)]
struct Report(Vec<Check>);

impl Report {
    fn ok(&mut self, name: &'static str, detail: impl Into<String>) {
        self.0.push(Check { name, finding: Finding::Ok, detail: detail.into(), mend: None });
    }

    fn found(
        &mut self,
        finding: Finding,
        name: &'static str,
        detail: impl Into<String>,
        mend: impl Into<String>,
    ) {
        self.0.push(Check { name, finding, detail: detail.into(), mend: Some(mend.into()) });
    }

    fn worst(&self) -> Finding {
        self.0.iter().map(|check| check.finding).max().unwrap_or(Finding::Ok)
    }
}

/// Looks at everything it can reach. Exit code 1 when something is wrong.
pub(super) async fn doctor(
    args: DoctorArgs,
    environment: &Environment,
) -> anyhow::Result<ExitCode> {
    let mut report = Report::default();
    report.ok("program", format!("ledgerline {}", env!("CARGO_PKG_VERSION")));
    look(args.config, environment, &mut report).await;
    for check in &report.0 {
        if args.json {
            output::print(&serde_json::to_string(check)?)?;
            continue;
        }
        let mark = match check.finding {
            Finding::Ok => '✓',
            Finding::Warning => '!',
            Finding::Wrong => '✗',
        };
        output::print(&format!("{mark} {:<14} {}", check.name, check.detail))?;
        if let Some(mend) = &check.mend {
            output::print(&format!("  {:<14} → {mend}", ""))?;
        }
    }
    Ok(if report.worst() == Finding::Wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn look(args: ConfigArgs, environment: &Environment, report: &mut Report) {
    match configured(args.clone()) {
        Ok(_) => report.ok("configuration", "valid"),
        Err(error) => {
            let mend = "set what is named; `ledgerline serve --help` lists every setting";
            return report.found(Finding::Wrong, "configuration", told(&error), mend);
        }
    }
    let opened = match Opened::open(args, environment).await {
        Ok(opened) => opened,
        Err(error) => {
            let mend = mend_of_start(&error);
            return report.found(Finding::Wrong, "database", told(&error), mend);
        }
    };
    database::look(&opened.pools.serving, report).await;
    look_at_log(&opened, report).await;
    look_at_readers(&opened, report).await;
    look_at_nats(&opened, report).await;
    look_at_disk(&opened, report);
    opened.close().await;
}

fn told(error: &StartError) -> String {
    crate::problem::chain(error)
}

fn mend_of_start(error: &StartError) -> &'static str {
    match error {
        StartError::Embedded(_) => "the message says what to do",
        StartError::Database(sqlx::Error::Database(error))
            if error.code().as_deref() == Some(TOO_MANY_CONNECTIONS) =>
        {
            "raise max_connections of Postgres, or lower database.max_connections of the processes"
        }
        StartError::NeedsMigrate(_) => "run `ledgerline migrate`, or start `ledgerline serve`",
        StartError::Migrate(_) => "use the build that made the database, or a newer one",
        StartError::MasterKey => {
            "set LEDGERLINE_MASTER_KEY to the key that this deployment began with"
        }
        _ => "check DATABASE_URL, that Postgres runs there, and that it lets this machine in",
    }
}

async fn look_at_log(opened: &Opened, report: &mut Report) {
    let head = match opened.log.head().await {
        Ok(head) => head,
        Err(error) => {
            let mend = "look at Postgres's own log; nothing is lost";
            return report.found(Finding::Wrong, "log", crate::problem::chain(&error), mend);
        }
    };
    report.ok("log", format!("{} events, log {} epoch {}", head.position, head.log_id, head.epoch));
    match unknown_types(&opened.pools.serving, Position::START, head.position).await {
        Ok(unknown) if unknown.is_empty() => report.ok("event types", "all known to this build"),
        Ok(unknown) => {
            let detail = crate::roles::UnknownEvents(unknown).to_string();
            report.found(Finding::Wrong, "event types", detail, "start the newer build");
        }
        Err(error) => {
            let mend = "look at Postgres's own log";
            report.found(Finding::Wrong, "event types", crate::problem::chain(&error), mend);
        }
    }
}

/// Whoever reads the log: how far behind it is, and who leads.
async fn look_at_readers(opened: &Opened, report: &mut Report) {
    let log = opened.event_log();
    let positions = Positions::new(Arc::clone(&log));
    match ledgerline_projections::status(&opened.pools.serving, &log, &positions, Utc::now()).await
    {
        Ok(all) => {
            for status in all {
                let name = status.name.as_str();
                let detail = format!(
                    "{name}: {} events behind ({:.1} s), led by {}",
                    status.lag_events,
                    status.lag_seconds,
                    status.owner.as_deref().unwrap_or("nobody")
                );
                if status.quarantined > 0 {
                    let detail = format!("{detail}, {} streams in quarantine", status.quarantined);
                    let mend = "`ledgerline quarantine list` says why; `ledgerline quarantine retry` or `skip` \
                                lets the stream go on";
                    report.found(Finding::Wrong, "read model", detail, mend);
                } else if status.lag_events > LAG_EVENTS
                    || matches!(status.state, State::StoodDown(_))
                {
                    let mend = match status.owner {
                        None => "start a process with the role projector".to_owned(),
                        Some(_) => format!("if it stays: ledgerline rebuild {name}"),
                    };
                    report.found(Finding::Warning, "read model", detail, mend);
                } else {
                    report.ok("read model", detail);
                }
            }
        }
        Err(error) => {
            let mend = "look at Postgres's own log";
            report.found(Finding::Wrong, "read models", crate::problem::chain(&error), mend);
        }
    }
    look_at_workers(&log, report).await;
    look_at_open_executions(opened, log, report).await;
}

/// Every open execution waits for something that will come, or here is its name.
async fn look_at_open_executions(opened: &Opened, log: Arc<dyn EventLog>, report: &mut Report) {
    let tail = Tail::start(Arc::clone(&log), &opened.tasks, opened.stop.clone());
    let commands = Commands::new(log, Clock::system(), Settings::default());
    let audited = async {
        let survey = Survey::of_log(&commands, &tail).await?;
        audit(&commands, &survey, 0, GRACE).await.map_err(anyhow::Error::from)
    };
    match audited.await {
        Ok(audit) if audit.stuck.is_empty() => {
            let detail = format!("{} open, each waits for something that comes", audit.looked_at);
            report.ok("executions", detail);
        }
        Ok(audit) => {
            let named = audit.stuck.iter().take(NAMED_STUCK);
            let named = named.map(|stuck| format!("{}: {}", stuck.execution, stuck.reason));
            let named = named.collect::<Vec<_>>().join("; ");
            let detail = format!("{} wait for nothing that comes ({named})", audit.stuck.len());
            let mend = "start a process with the roles policies and worker; where one runs, cancel and \
                        re-run them and report the defect with `GET /executions/{id}/events`";
            report.found(Finding::Wrong, "executions", detail, mend);
        }
        Err(error) => {
            let mend = "look at Postgres's own log";
            report.found(Finding::Wrong, "executions", format!("{error:#}"), mend);
        }
    }
}

async fn look_at_workers(log: &Arc<dyn EventLog>, report: &mut Report) {
    let now = Utc::now();
    match log.worker_leases().await {
        Ok(leases) => {
            let alive: Vec<_> = leases.iter().filter(|lease| lease.expires_at > now).collect();
            let slots: i64 = alive.iter().map(|lease| i64::from(lease.slots)).sum();
            report.ok("workers", format!("{} alive with {slots} slots", alive.len()));
        }
        Err(error) => {
            let mend = "look at Postgres's own log";
            report.found(Finding::Wrong, "workers", crate::problem::chain(&error), mend);
        }
    }
    match log.next_due().await {
        Ok(Some(due)) if due + chrono::TimeDelta::seconds(60) < now => {
            let detail = format!("the next one was due at {}", due.to_rfc3339());
            report.found(
                Finding::Warning,
                "timers",
                detail,
                "start a process with the role policies",
            );
        }
        Ok(_) => report.ok("timers", "none is overdue"),
        Err(error) => {
            let mend = "look at Postgres's own log";
            report.found(Finding::Wrong, "timers", crate::problem::chain(&error), mend);
        }
    }
}

async fn look_at_nats(opened: &Opened, report: &mut Report) {
    let server = match opened.backing.nats(&opened.config.nats) {
        Ok(server) => server,
        Err(error) => {
            return report.found(Finding::Wrong, "nats", told(&error), "use letters, digits and _");
        }
    };
    if server.is_none() && opened.config.embedded.enabled && !opened.backing.is_alone() {
        return report
            .ok("nats", "kept by the process that serves from here; its /health says how it is");
    }
    let Some(server) = server else {
        let detail = "not configured here; live updates come from the log";
        return report.found(
            Finding::Warning,
            "nats",
            detail,
            "set NATS_URL for more than one process",
        );
    };
    let url = server.url.clone();
    let nats = match Nats::connect(server, &opened.tasks, opened.stop.clone()).await {
        Ok(nats) => nats,
        Err(error) => {
            let mend = "check NATS_URL";
            return report.found(Finding::Wrong, "nats", crate::problem::chain(&error), mend);
        }
    };
    let ready = timeout(NATS_PATIENCE, nats.ready()).await.is_ok();
    let state = nats.state().borrow().clone();
    match state {
        NatsState::Ready { .. } if ready => report.ok("nats", "connected, all streams declared"),
        NatsState::Refused { reason } => {
            let mend = "enable JetStream with room for the streams (max_file_store)";
            report.found(Finding::Wrong, "nats", format!("JetStream refuses: {reason}"), mend);
        }
        NatsState::Ready { .. } | NatsState::Away => {
            let mend = "check that nats-server runs at NATS_URL; nothing is lost meanwhile";
            report.found(
                Finding::Warning,
                "nats",
                format!("no answer from {}", hidden(&url)),
                mend,
            );
        }
    }
}

/// An address without what may be secret in it.
fn hidden(url: &str) -> &str {
    url.rsplit_once('@').map_or(url, |(_, host)| host)
}

/// The disk under the data directory, which is Postgres's own where it is embedded.
fn look_at_disk(opened: &Opened, report: &mut Report) {
    let folder = opened.backing.folder();
    let Ok(disk) = nix::sys::statvfs::statvfs(folder) else { return };
    let free = disk.blocks_available().saturating_mul(disk.fragment_size());
    let detail = format!("{} MiB free under {}", free / (1024 * 1024), folder.display());
    if free < LEAST_FREE_BYTES {
        let mend =
            "make room: a full disk stops every write (nothing is lost), and goes on by itself";
        report.found(Finding::Wrong, "disk", detail, mend);
    } else {
        report.ok("disk", detail);
    }
}
