//! Reading batches, and sending each event on its way: published, or laid on the desk of this process.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::{context::PublishErrorKind, message::PublishMessage};
use ledgerline_store::{Position, RecordedEvent, StoreError};
use tokio::time::Instant;

use super::{
    Carry,
    cargo::{Cargo, Outgoing},
    term::{Arrived, Batch, Carried, Stop, Term, next_limit, oldest, refused},
};
use crate::work;

/// How long an item on the desk may go untaken before it is published.
const DESK_PATIENCE: Duration = Duration::from_secs(1);

impl Carry {
    /// Publishes a batch while the next one is read. `None` when the log is at its end.
    pub(super) async fn carry(&self, term: &mut Term, batch: Batch) -> Result<Option<Batch>, Stop> {
        let full = batch.events.len() >= term.limit;
        let moved = batch.upto > term.cursor;
        let more = moved && (full || batch.upto < *self.head.borrow());
        term.limit = next_limit(term.limit, &batch.events, self.config.batch);
        let (upto, limit) = (batch.upto, term.limit);
        let read = async { if more { self.read(upto, limit).await.map(Some) } else { Ok(None) } };
        let (published, next) = tokio::join!(self.publish(term, batch), read);
        published?;
        Ok(next?)
    }

    async fn publish(&self, term: &mut Term, batch: Batch) -> Result<(), Stop> {
        let prefix = self.nats.prefix();
        for event in &batch.events {
            while term.window.len() >= self.config.window {
                self.take_ack(term).await?;
            }
            if self.hand(term, event)? {
                continue;
            }
            // Only among unacknowledged messages can one overtake another.
            let previous = (!term.window.is_empty()).then_some(term.previous.as_deref()).flatten();
            let outgoing = self
                .cargo
                .message(event, prefix, &term.source, previous)
                .map_err(|error| refused(error.to_string(), false))?;
            let Outgoing { subject, id, publish } = outgoing;
            let carried = self.send(subject, publish).await?;
            term.window.push_back((event.position, carried));
            term.previous = Some(id);
        }
        self.cargo.count_published(batch.events.len() as u64);
        term.cursor = term.cursor.max(batch.upto);
        if term.window.is_empty() {
            term.acked = term.acked.max(term.cursor);
        }
        Ok(())
    }

    async fn send(&self, subject: String, publish: PublishMessage) -> Result<Carried, Stop> {
        let sent = tokio::select! {
            // Mostly it is sent at once, and the state of the connection need not be asked for.
            biased;
            sent = self.nats.jetstream().send_publish(subject, publish) => sent,
            () = self.nats.away() => return Err(Stop::NatsAway),
        };
        let acknowledged = sent.map_err(|error| refused(error.to_string(), false))?;
        Ok(Carried::Published(acknowledged.into_future()))
    }

    /// Lays work on the desk of this process, when its worker waits for some and nobody else could have it.
    fn hand(&self, term: &mut Term, event: &RecordedEvent) -> Result<bool, Stop> {
        if self.cargo != Cargo::Work || !term.alone {
            return Ok(false);
        }
        let unreadable = |error: work::UnreadableDispatch| refused(error.to_string(), false);
        let item = work::WorkItem::from_event(event).map_err(unreadable)?;
        let Some(taken) = self.nats.desk().hand(item) else { return Ok(false) };
        let outgoing = Box::new(work::message(event, self.nats.prefix()).map_err(unreadable)?);
        let until = Instant::now() + DESK_PATIENCE;
        term.window.push_back((event.position, Carried::Handed { taken, until, outgoing }));
        Ok(true)
    }

    /// Waits for the oldest event on its way.
    pub(super) async fn take_ack(&self, term: &mut Term) -> Result<(), Stop> {
        let arrived = tokio::select! {
            // An acknowledgement that is here already counts, even when the connection has gone meanwhile.
            biased;
            arrived = oldest(&mut term.window) => arrived,
            () = self.nats.away() => {
                // A later acknowledgement must not count without this one.
                term.window.clear();
                return Err(Stop::NatsAway);
            }
        };
        self.arrived(term, arrived).await
    }

    /// Moves on over the oldest event on its way, or sends it another way.
    pub(super) async fn arrived(&self, term: &mut Term, arrived: Arrived) -> Result<(), Stop> {
        let Some((position, carried)) = term.window.pop_front() else { return Ok(()) };
        match arrived {
            Arrived::Published(Ok(_)) | Arrived::Taken => {
                // Work that is published again from before the checkpoint does not move it back.
                term.acked = term.acked.max(position);
                Ok(())
            }
            Arrived::Untaken => {
                if let Carried::Handed { outgoing, .. } = carried {
                    let sent = self.send(outgoing.subject, outgoing.publish).await;
                    match sent {
                        Ok(carried) => term.window.push_front((position, carried)),
                        Err(stop) => {
                            // What follows must not count without it.
                            term.window.clear();
                            return Err(stop);
                        }
                    }
                }
                Ok(())
            }
            Arrived::Published(Err(error)) => {
                if error.kind() == PublishErrorKind::StreamNotFound {
                    self.nats.suspect();
                }
                // What follows was refused as well, or is published again with what was refused.
                term.window.clear();
                let source = std::error::Error::source(&error)
                    .map_or_else(String::new, |source| format!(" ({source})"));
                Err(refused(format!("{error}{source}"), term.acked > term.began))
            }
        }
    }

    pub(super) async fn read(&self, after: Position, limit: usize) -> Result<Batch, StoreError> {
        let at_hand = self.config.tail.as_ref().and_then(|tail| tail.at_hand(after, limit));
        if let Some(mut events) = at_hand {
            let upto = events.last().map_or(after, |last| last.position);
            events.retain(|event| self.cargo.is_of(event));
            return Ok(Batch { events, upto });
        }
        let (events, upto) = self.log.read(after, limit, &self.cargo.filter()).await?;
        Ok(Batch { events: events.into_iter().map(Arc::new).collect(), upto })
    }
}
