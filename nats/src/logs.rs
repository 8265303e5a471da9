//! Live log lines: from the worker that prints them to whoever looks on, in this process and in others.
//!
//! Only the live half: the table has every line. Nothing is kept and nothing is awaited for long, so a slow or absent NATS never
//! slows a worker down. Whoever follows joins this with the table by `(claim, n)`, and reads the table again after
//! [`LiveLines::Missed`].

use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};

use async_nats::{HeaderMap, Subscriber, header::HeaderName};
use bytes::Bytes;
use futures_util::StreamExt;
use ledgerline_store::{LogLine, Workspace};
use tokio::sync::{broadcast, watch};
use tracing::debug;
use uuid::Uuid;

use crate::{
    subject::Subject,
    topology::{Nats, NatsState},
};

/// Names the process that printed, so that it does not hear itself twice.
const PROCESS_HEADER: HeaderName = HeaderName::from_static("Ledgerline-Process");

/// The largest message of log lines: well below the megabyte that a NATS message may have.
const MAX_MESSAGE_BYTES: usize = 256 * 1024;

/// How many batches a follower in this process may be behind.
const BUFFER: usize = 1_024;

/// How long a worker may be held up by a connection that does not take its lines.
const PATIENCE: Duration = Duration::from_millis(50);

/// The process's way to print and to follow live log lines. Cheap to clone.
#[derive(Clone)]
pub struct LiveLogs {
    nats: Option<Nats>,
    /// Made by the process at its start; other processes have others.
    process: Uuid,
    here: broadcast::Sender<Arc<[LogLine]>>,
}

impl fmt::Debug for LiveLogs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveLogs").field("nats", &self.nats).finish_non_exhaustive()
    }
}

/// What a follower hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LiveLines {
    /// Lines in the order in which the worker printed them. A line may come twice, and is known by `(claim, n)`.
    Lines(Vec<LogLine>),
    /// Lines may have been missed: the table has them.
    Missed,
}

impl LiveLogs {
    /// `process` is an id that no other running process has.
    #[must_use]
    pub fn new(nats: Option<Nats>, process: Uuid) -> Self {
        Self { nats, process, here: broadcast::Sender::new(BUFFER) }
    }

    /// Shows lines of one execution to whoever follows it. The lines are in the table, or will be: a failure is only not live.
    pub async fn publish(&self, workspace: Workspace, execution: Uuid, lines: &[LogLine]) {
        if lines.is_empty() {
            return;
        }
        if self.here.receiver_count() > 0 {
            // Nobody listening any more is no error.
            let _followers = self.here.send(lines.into());
        }
        let Some(nats) = self.nats.as_ref().filter(|nats| nats.is_ready()) else { return };
        let subject = nats.prefix().subject(&Subject::Logs { workspace, execution });
        for message in messages(lines) {
            let mut headers = HeaderMap::new();
            headers.insert(PROCESS_HEADER, self.process.to_string());
            let sent = nats.client().publish_with_headers(subject.clone(), headers, message);
            match tokio::time::timeout(PATIENCE, sent).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return debug!(%error, "log lines are not shown live elsewhere"),
                Err(_elapsed) => return debug!("nats does not take log lines in time"),
            }
        }
    }

    /// Follows one execution's lines from now on.
    pub async fn subscribe(&self, workspace: Workspace, execution: Uuid) -> LogTail {
        let here = self.here.subscribe();
        let elsewhere = match &self.nats {
            Some(nats) => {
                let subject = nats.prefix().subject(&Subject::Logs { workspace, execution });
                let subscribed = nats.client().subscribe(subject).await;
                subscribed
                    .inspect_err(
                        |error| debug!(%error, "log lines of other processes are not heard"),
                    )
                    .ok()
            }
            None => None,
        };
        let state = self.nats.as_ref().map(Nats::state);
        LogTail { execution, process: self.process.to_string(), here, elsewhere, state }
    }
}

/// JSON arrays of the lines, each below the largest message.
fn messages(lines: &[LogLine]) -> Vec<Bytes> {
    let mut done = Vec::new();
    let mut queue = VecDeque::from([lines]);
    while let Some(part) = queue.pop_front() {
        let bytes = serde_json::to_vec(part).expect("a log line has only string keys");
        if bytes.len() <= MAX_MESSAGE_BYTES {
            done.push(Bytes::from(bytes));
        } else if part.len() > 1 {
            let (first, second) = part.split_at(part.len() / 2);
            queue.push_front(second);
            queue.push_front(first);
        }
        // A single line that is larger is in the table only.
    }
    done
}

/// The lines of one execution from now on.
pub struct LogTail {
    execution: Uuid,
    process: String,
    here: broadcast::Receiver<Arc<[LogLine]>>,
    elsewhere: Option<Subscriber>,
    state: Option<watch::Receiver<NatsState>>,
}

impl LogTail {
    /// The next lines; `None` when the process stops. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<LiveLines> {
        loop {
            tokio::select! {
                heard = self.here.recv() => match heard {
                    Ok(lines) => {
                        if lines.first().is_some_and(|line| line.execution_id == self.execution) {
                            return Some(LiveLines::Lines(lines.to_vec()));
                        }
                    }
                    Err(broadcast::error::RecvError::Lagged(_)) => return Some(LiveLines::Missed),
                    Err(broadcast::error::RecvError::Closed) => return None,
                },
                message = next_message(&mut self.elsewhere) => {
                    let Some(message) = message else {
                        self.elsewhere = None;
                        return Some(LiveLines::Missed);
                    };
                    let from = message.headers.as_ref().and_then(|headers| headers.get(PROCESS_HEADER));
                    if from.is_some_and(|from| from.as_str() == self.process) {
                        continue;
                    }
                    match serde_json::from_slice(&message.payload) {
                        Ok(lines) => return Some(LiveLines::Lines(lines)),
                        Err(error) => debug!(%error, "a message of log lines cannot be read"),
                    }
                }
                () = next_change(&mut self.state) => return Some(LiveLines::Missed),
            }
        }
    }
}

async fn next_message(subscriber: &mut Option<Subscriber>) -> Option<async_nats::Message> {
    match subscriber {
        Some(subscriber) => subscriber.next().await,
        None => std::future::pending().await,
    }
}

async fn next_change(state: &mut Option<watch::Receiver<NatsState>>) {
    if let Some(changes) = state
        && changes.changed().await.is_ok()
    {
        return;
    }
    *state = None;
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use ledgerline_store::LogLevel;

    use super::*;

    fn line(execution: Uuid, n: i64, message: String) -> LogLine {
        LogLine {
            workspace_id: Uuid::nil(),
            execution_id: execution,
            claim: 1,
            n,
            at: DateTime::UNIX_EPOCH,
            level: LogLevel::Info,
            node: "fetch".to_owned(),
            attempt: 1,
            message,
            fields: None,
            correlation_id: None,
        }
    }

    #[test]
    fn large_batches_are_split_in_order() {
        let lines: Vec<_> = (1..=100).map(|n| line(Uuid::nil(), n, "x".repeat(10_000))).collect();
        let messages = messages(&lines);
        assert!(messages.len() > 1);
        assert!(messages.iter().all(|message| message.len() <= MAX_MESSAGE_BYTES));
        let back: Vec<LogLine> = messages
            .iter()
            .flat_map(|message| serde_json::from_slice::<Vec<LogLine>>(message).unwrap())
            .collect();
        assert_eq!(back, lines);
    }

    #[test]
    fn a_line_that_fits_in_no_message_is_left_to_the_table() {
        let lines = [
            line(Uuid::nil(), 1, "a".to_owned()),
            line(Uuid::nil(), 2, "x".repeat(MAX_MESSAGE_BYTES)),
        ];
        let messages = messages(&lines);
        assert_eq!(messages.len(), 1);
        assert_eq!(serde_json::from_slice::<Vec<LogLine>>(&messages[0]).unwrap(), lines[..1]);
    }

    #[tokio::test]
    async fn without_nats_lines_are_heard_in_the_process_and_only_by_their_followers() {
        let logs = LiveLogs::new(None, Uuid::nil());
        let (ours, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let workspace = Workspace(Uuid::from_u128(3));
        let mut tail = logs.subscribe(workspace, ours).await;
        logs.publish(workspace, other, &[line(other, 1, "theirs".to_owned())]).await;
        let lines = vec![line(ours, 1, "ours".to_owned())];
        logs.publish(workspace, ours, &lines).await;
        assert_eq!(tail.next().await, Some(LiveLines::Lines(lines)));
    }

    #[tokio::test]
    async fn a_follower_that_is_too_slow_is_told() {
        let logs = LiveLogs::new(None, Uuid::nil());
        let execution = Uuid::from_u128(1);
        let workspace = Workspace(Uuid::from_u128(3));
        let mut tail = logs.subscribe(workspace, execution).await;
        for n in 0..=BUFFER {
            let n = i64::try_from(n).unwrap();
            logs.publish(workspace, execution, &[line(execution, n, String::new())]).await;
        }
        assert_eq!(tail.next().await, Some(LiveLines::Missed));
        assert!(matches!(tail.next().await, Some(LiveLines::Lines(_))));
    }
}
