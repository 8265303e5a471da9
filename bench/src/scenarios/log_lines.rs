//! A million log lines of one run: how fast they are kept, how soon a tail begins in them, and whether memory grows with their number.
//!
//! Lines are written in the batches of the worker and read in the pages of the API, through the same functions of the log.

use std::{fs, time::Instant};

use chrono::Utc;
use ledgerline_store::{
    EventLog, LogLevel, LogLine, LogQuery,
    postgres::{LogConfig, PostgresLog},
};
use serde_json::json;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::{latency::Latency, report::Report, servers::Servers};

/// Lines of the run.
const LINES: i64 = 1_000_000;
/// What the worker writes at once.
const BATCH: i64 = 2_000;
/// What the API streams at once.
const STREAMED: i64 = 1_000;
/// Tails that are begun.
const TAILS: i64 = 50;

fn line(workspace_id: Uuid, execution_id: Uuid, n: i64) -> LogLine {
    LogLine {
        workspace_id,
        execution_id,
        claim: 1,
        n,
        at: Utc::now(),
        level: if n % 1_000 == 0 { LogLevel::Warning } else { LogLevel::Info },
        node: "print".to_owned(),
        attempt: 1,
        message: format!("line {n} of a step that prints what it does, word by word by word"),
        fields: None,
        correlation_id: None,
    }
}

fn query(execution_id: Uuid, after: Option<(i32, i64)>, limit: i64) -> LogQuery {
    LogQuery { execution_id, after, min_level: None, node: None, search: None, limit }
}

/// Memory of this process in MiB, where the kernel says.
fn resident_mib() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1_024.0)
}

pub(crate) async fn run(servers: &Servers, report: &mut Report) -> anyhow::Result<()> {
    let pool = servers.database("log_lines").await?;
    let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
    let log =
        PostgresLog::connect(pool.clone(), LogConfig::default(), &tracker, cancel.clone()).await?;
    let (workspace, execution) = (Uuid::now_v7(), Uuid::now_v7());

    let before = resident_mib();
    let mut latency = Latency::default();
    let begun = Instant::now();
    for from in (0..LINES).step_by(usize::try_from(BATCH)?) {
        let batch: Vec<LogLine> =
            (from + 1..=from + BATCH).map(|n| line(workspace, execution, n)).collect();
        let asked = Instant::now();
        log.write_log_lines(&batch).await?;
        latency.record(asked.elapsed());
    }
    let speed = LINES as f64 / begun.elapsed().as_secs_f64();
    report.row(json!({"what": "kept", "lines": LINES}), speed, "lines/s", Some(&latency), None);

    let mut latency = Latency::default();
    let begun = Instant::now();
    for tail in 0..TAILS {
        let after = (tail > 0).then(|| (1, LINES / TAILS * tail));
        let asked = Instant::now();
        let first = log.log_lines(&query(execution, after, STREAMED)).await?;
        latency.record(asked.elapsed());
        anyhow::ensure!(!first.is_empty(), "a tail begins with what was printed before it");
    }
    let speed = TAILS as f64 / begun.elapsed().as_secs_f64();
    report.row(json!({"what": "tails begun"}), speed, "tails/s", Some(&latency), None);

    let begun = Instant::now();
    let (mut after, mut read) = (None, 0);
    loop {
        let lines = log.log_lines(&query(execution, after, STREAMED)).await?;
        let Some(last) = lines.last() else { break };
        after = Some((last.claim, last.n));
        read += i64::try_from(lines.len())?;
    }
    anyhow::ensure!(read == LINES, "read {read} of {LINES} lines");
    let speed = read as f64 / begun.elapsed().as_secs_f64();
    report.row(json!({"what": "streamed", "lines": LINES}), speed, "lines/s", None, None);
    if let (Some(before), Some(now)) = (before, resident_mib()) {
        report.row(json!({"what": "memory grown"}), now - before, "MiB", None, None);
    }
    cancel.cancel();
    tracker.close();
    tracker.wait().await;
    pool.close().await;
    Ok(())
}
