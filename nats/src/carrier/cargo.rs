//! What is carried: every event, or the dispatches among them.

use async_nats::jetstream::message::PublishMessage;
use ledgerline_store::{Filter, RecordedEvent};
use metrics::{counter, gauge};

use crate::{envelope::EventSource, relay, subject::Prefix, work};

/// What is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cargo {
    /// Every event.
    Events,
    /// Dispatched executions.
    Work,
}

impl Cargo {
    pub(super) const fn reader(self) -> &'static str {
        match self {
            Self::Events => relay::READER,
            Self::Work => work::READER,
        }
    }

    pub(super) fn filter(self) -> Filter {
        match self {
            Self::Events => Filter::default(),
            Self::Work => work::dispatches(),
        }
    }

    pub(super) fn is_of(self, event: &RecordedEvent) -> bool {
        match self {
            Self::Events => true,
            Self::Work => work::is_dispatch(event),
        }
    }

    pub(super) fn message(
        self,
        event: &RecordedEvent,
        prefix: &Prefix,
        source: &EventSource,
        previous: Option<&str>,
    ) -> Result<Outgoing, work::UnreadableDispatch> {
        match self {
            Self::Events => Ok(relay::message(event, prefix, source, previous)),
            Self::Work => work::message(event, prefix),
        }
    }

    pub(super) fn report(self, lag: u64) {
        // A gauge is a float; a lag beyond 2^53 events does not occur.
        let lag = lag as f64;
        match self {
            Self::Events => gauge!("ledgerline_relay_lag_events").set(lag),
            Self::Work => gauge!("ledgerline_work_lag_events").set(lag),
        }
    }

    pub(super) fn count_published(self, events: u64) {
        match self {
            Self::Events => counter!("ledgerline_relay_published_total").increment(events),
            Self::Work => counter!("ledgerline_work_published_total").increment(events),
        }
    }
}

/// A message that is about to be published.
pub(crate) struct Outgoing {
    pub(crate) subject: String,
    pub(crate) id: String,
    pub(crate) publish: PublishMessage,
}
