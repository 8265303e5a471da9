//! An item in the hands of the worker, and how it comes back.

use std::time::Duration;

use async_nats::jetstream::{self, AckKind};
use tokio::sync::{mpsc, oneshot};
use tracing::debug;

use crate::work::WorkItem;

/// An item in the hands of the worker. Dropped without an answer, it is delivered again at once.
#[derive(Debug)]
pub struct Delivery {
    pub(super) item: WorkItem,
    /// None once it was answered.
    pub(super) origin: Option<Origin>,
    pub(super) returns: mpsc::Sender<Returned>,
}

/// Where an item came from, and so who brings it again.
#[derive(Debug)]
pub(super) enum Origin {
    /// JetStream, which waits for an answer.
    Nats(Box<jetstream::Message>),
    /// The carrier of this process; without an answer it sends the item to JetStream.
    Desk(oneshot::Sender<()>),
    /// The log: nobody else brings it again.
    Log,
}

#[derive(Debug)]
pub(super) struct Returned {
    pub(super) item: WorkItem,
    pub(super) after: Duration,
    /// It came from the log: nobody else brings it again.
    pub(super) from_log: bool,
    /// What NATS still waits to hear about.
    pub(super) unanswered: Option<Box<jetstream::Message>>,
}

impl Returned {
    pub(super) fn at_once(item: WorkItem, origin: Origin) -> Self {
        let from_log = matches!(origin, Origin::Log);
        let unanswered = match origin {
            Origin::Nats(message) => Some(message),
            Origin::Desk(_) | Origin::Log => None,
        };
        Self { item, after: Duration::ZERO, from_log, unanswered }
    }
}

impl Delivery {
    /// What to run.
    #[must_use]
    pub const fn item(&self) -> &WorkItem {
        &self.item
    }

    /// Done, or of no use any more. An acknowledgement that is lost leads to a delivery that the claim in the log refuses.
    pub async fn ack(mut self) {
        match self.origin.take() {
            Some(Origin::Nats(message)) => answer(&message, &self.item, AckKind::Ack).await,
            Some(Origin::Desk(taken)) => {
                // A carrier that is gone has left it to its successor, and the claim in the log refuses it there.
                let _gone = taken.send(());
            }
            Some(Origin::Log) | None => {}
        }
    }

    /// Hands it back: it is delivered again after the delay, here or elsewhere.
    pub async fn nak(mut self, after: Duration) {
        let origin = self.origin.take();
        let from_log = matches!(origin, Some(Origin::Log));
        if let Some(Origin::Nats(message)) = origin {
            let kind = AckKind::Nak((!after.is_zero()).then_some(after));
            answer(&message, &self.item, kind).await;
        }
        // A source that has stopped does not deliver again; the next process finds the dispatch in the log.
        let returned = Returned { item: self.item, after, from_log, unanswered: None };
        let _stopped = self.returns.send(returned).await;
    }

    /// Still running: nobody else gets it for another [`crate::NatsConfig::work_ack_wait`].
    pub async fn in_progress(&self) {
        if let Some(Origin::Nats(message)) = &self.origin {
            answer(message, &self.item, AckKind::Progress).await;
        }
    }
}

pub(super) async fn answer(message: &jetstream::Message, item: &WorkItem, kind: AckKind) {
    // While NATS is away the client would queue this and could block; the redelivery is fenced by the claim.
    let sent = tokio::time::timeout(Duration::from_secs(1), message.ack_with(kind)).await;
    if !matches!(sent, Ok(Ok(()))) {
        debug!(execution = %item.execution_id, ?kind, "nats did not take an answer");
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(origin) = self.origin.take() {
            let returned = Returned::at_once(self.item, origin);
            // A taker that went away while its items were on the way to it leaves them here.
            if self.returns.try_send(returned).is_err() {
                debug!(execution = %self.item.execution_id, "an unanswered item was not taken back");
            }
        }
    }
}
