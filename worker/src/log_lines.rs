//! Step log lines: numbered where they are printed, written in batches, shown live.
//!
//! The way from a step to the table is a bounded channel, so a step that prints faster than the table takes is slowed down, and a
//! million lines are never in memory.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use ledgerline_commands::Clock;
use ledgerline_nats::LiveLogs;
use ledgerline_store::{EventLog, LogLevel, LogLine, StoreError, Workspace};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

/// How many lines may wait for the table before steps are slowed down.
const WAITING: usize = 8_192;
/// How many lines one write holds.
const BATCH: usize = 2_000;
/// How long a line may wait for others: short enough to be called live.
const LINGER: Duration = Duration::from_millis(50);
/// How long a write that failed rests, times its number, and at most.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How often in a row a write may have failed when the process goes down.
const LAST_TRIES: u32 = 10;
/// The longest message; the rest is cut and said so.
const MAX_MESSAGE_CHARS: usize = 16_384;

/// Where the lines of all runs of this process go.
#[derive(Clone)]
pub(crate) struct LogWriter {
    lines: mpsc::Sender<LogLine>,
    clock: Clock,
}

impl LogWriter {
    /// Starts the writer. After the token is cancelled it writes what it has and ends when no run can print any more.
    pub(crate) fn start(
        log: Arc<dyn EventLog>,
        live: LiveLogs,
        clock: Clock,
        tracker: &TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let (lines, receiver) = mpsc::channel(WAITING);
        tracker.spawn(write(log, live, receiver, stop));
        Self { lines, clock }
    }

    /// The lines of one run under one claim.
    pub(crate) fn run(
        &self,
        workspace: Uuid,
        execution: Uuid,
        claim: i32,
        correlation: Option<Uuid>,
    ) -> RunLines {
        RunLines {
            writer: self.clone(),
            workspace,
            execution,
            claim,
            correlation,
            n: Arc::new(AtomicI64::new(0)),
        }
    }
}

/// Numbers the lines of one run under one claim.
#[derive(Clone)]
pub(crate) struct RunLines {
    writer: LogWriter,
    workspace: Uuid,
    execution: Uuid,
    claim: i32,
    correlation: Option<Uuid>,
    n: Arc<AtomicI64>,
}

impl RunLines {
    /// Prints a line; waits while the table can't keep up.
    pub(crate) async fn print(
        &self,
        level: LogLevel,
        node: &str,
        attempt: i32,
        message: &str,
        fields: Option<serde_json::Value>,
    ) {
        self.send(self.numbered(level, node, attempt, message, fields)).await;
    }

    /// A line with its place among the lines of the run, to be sent later.
    pub(crate) fn numbered(
        &self,
        level: LogLevel,
        node: &str,
        attempt: i32,
        message: &str,
        fields: Option<serde_json::Value>,
    ) -> LogLine {
        let at: DateTime<Utc> = self.writer.clock.now();
        LogLine {
            workspace_id: self.workspace,
            execution_id: self.execution,
            claim: self.claim,
            n: self.n.fetch_add(1, Ordering::Relaxed) + 1,
            at,
            level,
            node: node.to_owned(),
            attempt,
            message: shortened(message),
            fields,
            correlation_id: self.correlation,
        }
    }

    /// Sends a numbered line when there is room for it; gives it back when there is none.
    pub(crate) fn try_send(&self, line: LogLine) -> Option<LogLine> {
        match self.writer.lines.try_send(line) {
            Err(mpsc::error::TrySendError::Full(line)) => Some(line),
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => None,
        }
    }

    /// Sends a numbered line; waits while the table can't keep up.
    pub(crate) async fn send(&self, line: LogLine) {
        // The writer ends after the last run, so only a process that is going down loses a line here.
        let _ = self.writer.lines.send(line).await;
    }
}

fn shortened(message: &str) -> String {
    let clean = message.replace('\0', "\u{fffd}");
    match clean.char_indices().nth(MAX_MESSAGE_CHARS) {
        Some((end, _)) => format!("{} … ({} bytes more)", &clean[..end], clean.len() - end),
        None => clean,
    }
}

async fn write(
    log: Arc<dyn EventLog>,
    live: LiveLogs,
    mut lines: mpsc::Receiver<LogLine>,
    stop: CancellationToken,
) {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let received = tokio::select! {
            received = lines.recv_many(&mut batch, BATCH) => received,
            () = stop.cancelled() => {
                lines.close();
                lines.recv_many(&mut batch, BATCH).await
            }
        };
        if received == 0 {
            return;
        }
        if batch.len() < BATCH && !stop.is_cancelled() {
            let more = async {
                while batch.len() < BATCH && lines.recv_many(&mut batch, BATCH).await > 0 {}
            };
            let _ = tokio::time::timeout(LINGER, more).await;
        }
        keep(&log, &batch, &stop).await;
        show(&live, &batch).await;
        batch.clear();
    }
}

/// Writes a batch, trying again while the database is away: a line has a number, so a repeat changes nothing. Meanwhile the channel
/// fills and steps that print are slowed down. Only a line that the table can never hold is dropped, and, when the process goes down
/// while the database is away, what waits then.
async fn keep(log: &Arc<dyn EventLog>, batch: &[LogLine], stop: &CancellationToken) {
    let (mut waiting, mut tries) = (vec![batch], 0);
    while let Some(lines) = waiting.pop() {
        match log.write_log_lines(lines).await {
            Ok(()) => tries = 0,
            Err(StoreError::Corrupt { .. }) if lines.len() > 1 => {
                // One of them is at fault: the others are written without it.
                let (first, second) = lines.split_at(lines.len() / 2);
                waiting.extend([second, first]);
            }
            Err(StoreError::Corrupt { reason }) => {
                tracing::error!(lines = lines.len(), %reason, "a log line can't be kept");
            }
            Err(error) if stop.is_cancelled() && tries >= LAST_TRIES => {
                let lost = lines.len() + waiting.iter().map(|lines| lines.len()).sum::<usize>();
                tracing::error!(lines = lost, %error, "log lines were lost");
                return;
            }
            Err(error) => {
                waiting.push(lines);
                tries += 1;
                tracing::warn!(lines = lines.len(), %error, "log lines wait for the database");
                tokio::time::sleep((PAUSE * tries).min(LONGEST_PAUSE)).await;
            }
        }
    }
}

async fn show(live: &LiveLogs, batch: &[LogLine]) {
    let mut runs: HashMap<Uuid, Vec<LogLine>> = HashMap::new();
    for line in batch {
        runs.entry(line.execution_id).or_default().push(line.clone());
    }
    for (execution, lines) in runs {
        live.publish(Workspace(lines[0].workspace_id), execution, &lines).await;
    }
}
