//! One term of leadership: what is read, what is on its way, and why it ends.

use std::{collections::VecDeque, sync::Arc};

use async_nats::jetstream::{context::PublishError, publish::PublishAck};
use futures_util::future::BoxFuture;
use ledgerline_store::{Lease, Position, RecordedEvent, StoreError};
use tokio::{sync::oneshot, time::Instant};

use super::cargo::Outgoing;
use crate::envelope::EventSource;

/// A batch of large events is followed by shorter ones, so that a read and its successor stay below about this much memory.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// Why leading ended.
pub(super) enum Stop {
    /// The process stops.
    Cancelled,
    /// Another process leads.
    Standby,
    /// NATS cannot be used.
    NatsAway,
    /// NATS or this build refused an event.
    Refused { reason: String, progress: bool },
    /// The log cannot be read or the checkpoint not moved.
    Log(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Fenced { .. } => Self::Standby,
            StoreError::DiskFull | StoreError::Unavailable(_) | StoreError::Corrupt { .. } => {
                Self::Log(error)
            }
        }
    }
}

pub(super) fn refused(reason: String, progress: bool) -> Stop {
    Stop::Refused { reason, progress }
}

/// One term of leadership.
pub(super) struct Term {
    pub(super) lease: Lease,
    /// The checkpoint when the term began.
    pub(super) began: Position,
    /// The lease is ours for its time to live from here on, at least.
    pub(super) renewed: Instant,
    /// When the checkpoint was moved last.
    pub(super) saved: Instant,
    /// Everything up to here was read and published.
    pub(super) cursor: Position,
    /// Everything up to here was acknowledged.
    pub(super) acked: Position,
    /// On its way and not answered for yet, in order.
    pub(super) window: VecDeque<(Position, Carried)>,
    /// No other worker process is alive, as far as was looked.
    pub(super) alone: bool,
    /// When that was looked at last.
    pub(super) looked: Option<Instant>,
    /// Id of the last message in the window.
    pub(super) previous: Option<String>,
    /// Most events of the next read.
    pub(super) limit: usize,
    pub(super) source: EventSource,
}

pub(super) struct Batch {
    pub(super) events: Vec<Arc<RecordedEvent>>,
    pub(super) upto: Position,
}

/// How an event is on its way.
pub(super) enum Carried {
    /// Published, with the acknowledgement to come.
    Published(BoxFuture<'static, Result<PublishAck, PublishError>>),
    /// On the desk of this process, with the message that it becomes when nobody takes it.
    Handed { taken: oneshot::Receiver<()>, until: Instant, outgoing: Box<Outgoing> },
}

/// What became of the oldest event on its way.
pub(super) enum Arrived {
    Published(Result<PublishAck, PublishError>),
    Taken,
    Untaken,
}

/// Waits for the oldest event on its way. Safe to cancel.
pub(super) async fn oldest(window: &mut VecDeque<(Position, Carried)>) -> Arrived {
    match window.front_mut() {
        None => std::future::pending().await,
        Some((_, Carried::Published(acknowledged))) => Arrived::Published(acknowledged.await),
        Some((_, Carried::Handed { taken, until, .. })) => {
            match tokio::time::timeout_at(*until, taken).await {
                Ok(Ok(())) => Arrived::Taken,
                Ok(Err(_)) | Err(_) => Arrived::Untaken,
            }
        }
    }
}

/// How many events to read next, so that a batch stays near [`BATCH_BYTES`] whatever the size of events.
pub(super) fn next_limit(limit: usize, events: &[Arc<RecordedEvent>], most: usize) -> usize {
    let bytes: usize = events.iter().map(|event| event.payload.len()).sum();
    if bytes > BATCH_BYTES {
        (limit / 2).max(1)
    } else if bytes < BATCH_BYTES / 4 {
        (limit * 2).min(most)
    } else {
        limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_of_large_events_get_shorter_and_recover() {
        let mut large = crate::envelope::tests::event();
        large.payload = "x".repeat(512 * 1024);
        let batch: Vec<_> = std::iter::repeat_n(Arc::new(large), 64).collect();
        let mut limit = 1_000;
        for _ in 0..20 {
            limit = next_limit(limit, &batch[..limit.min(64)], 1_000);
        }
        assert!((1..=32).contains(&limit), "{limit}");
        for _ in 0..20 {
            limit = next_limit(limit, &[], 1_000);
        }
        assert_eq!(limit, 1_000);
    }
}
