//! Every event of the log, in order, onto the stream of events.
//!
//! The relay keeps the order of the log on JetStream even across refusals: a publish names the one before it, so when the server
//! refuses one in the middle of a window it refuses what follows as well, instead of storing it out of order.

use std::sync::Arc;

use async_nats::{HeaderMap, header::HeaderName, jetstream::message::PublishMessage};
use bytes::Bytes;
use ledgerline_store::{EventLog, RecordedEvent};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    carrier::{Cargo, Carrier, CarrierConfig, Outgoing},
    envelope::{EventSource, encode},
    subject::Prefix,
    topology::Nats,
};

/// The relay's name in `checkpoints`.
pub const READER: &str = "relay";

/// Header with the event's position in the log.
pub const POSITION_HEADER: HeaderName = HeaderName::from_static("Ledgerline-Position");

/// Header with the event's stored type name.
pub const TYPE_HEADER: HeaderName = HeaderName::from_static("Ledgerline-Type");

/// Starts this process's relay: it leads when no other process does, and stands by otherwise.
pub fn start(
    log: Arc<dyn EventLog>,
    nats: Nats,
    config: CarrierConfig,
    tracker: &TaskTracker,
    cancel: CancellationToken,
) -> Carrier {
    Carrier::start(Cargo::Events, log, nats, config, tracker, cancel)
}

/// The message of an event; `previous` is the id of the message before it, when that one is still unacknowledged.
pub(crate) fn message(
    event: &RecordedEvent,
    prefix: &Prefix,
    source: &EventSource,
    previous: Option<&str>,
) -> Outgoing {
    let id = event.event_id.to_string();
    let mut headers = HeaderMap::new();
    headers.insert(POSITION_HEADER, event.position.to_string());
    headers.insert(TYPE_HEADER, event.r#type.as_str());
    let mut publish = PublishMessage::build()
        .payload(Bytes::from(encode(event, source)))
        .headers(headers)
        .message_id(&id);
    if let Some(previous) = previous {
        publish = publish.expected_last_message_id(previous);
    }
    Outgoing { subject: prefix.event(event), id, publish }
}
