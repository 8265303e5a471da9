//! Dispatched executions onto the stream of work.
//!
//! Dispatch appends `execution_dispatched`; this second checkpointed reader carries those events to the queues, so there is no dual
//! write anywhere. A message says only who may be run under which claim: the claim in the log decides whether it still counts,
//! so a doubled or an old message is harmless.

use std::sync::Arc;

use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use ledgerline_store::{EventLog, Filter, Position, RecordedEvent};
use serde::{Deserialize, Serialize};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::{
    carrier::{Cargo, Carrier, CarrierConfig, Outgoing},
    subject::{Prefix, Queue, Subject},
    topology::Nats,
};

/// The work carrier's name in `checkpoints`.
pub const READER: &str = "work";

/// The stored name of the event that hands an execution to the workers.
const DISPATCHED: &str = "execution_dispatched";

/// An execution that a worker may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WorkItem {
    /// The execution.
    pub execution_id: Uuid,
    /// Its workspace.
    pub workspace_id: Uuid,
    /// The claim under which it may be run, from 1. A newer claim in the log makes this item void.
    pub claim: i32,
    /// Where in the log it was dispatched.
    pub position: Position,
    /// The line it waits in.
    #[serde(default)]
    pub queue: Queue,
}

/// A dispatch that this build cannot read: a newer build wrote it, so whoever carries must stand down, never skip.
#[derive(Debug, thiserror::Error)]
#[error("the dispatch at position {position} cannot be read")]
pub struct UnreadableDispatch {
    position: Position,
    #[source]
    source: serde_json::Error,
}

/// The part of the event's payload that is carried; `domain` owns its shape.
#[derive(Deserialize)]
struct Dispatched {
    claim: i32,
    #[serde(default)]
    queue: Queue,
}

impl WorkItem {
    /// Reads an `execution_dispatched` event.
    ///
    /// # Errors
    /// [`UnreadableDispatch`] when its payload has another shape.
    pub fn from_event(event: &RecordedEvent) -> Result<Self, UnreadableDispatch> {
        let dispatched: Dispatched = serde_json::from_str(&event.payload)
            .map_err(|source| UnreadableDispatch { position: event.position, source })?;
        Ok(Self {
            execution_id: event.stream.0,
            workspace_id: event.workspace.0,
            claim: dispatched.claim,
            position: event.position,
            queue: dispatched.queue,
        })
    }
}

/// Starts this process's work carrier: it leads when no other process does, and stands by otherwise.
pub fn start(
    log: Arc<dyn EventLog>,
    nats: Nats,
    config: CarrierConfig,
    tracker: &TaskTracker,
    cancel: CancellationToken,
) -> Carrier {
    Carrier::start(Cargo::Work, log, nats, config, tracker, cancel)
}

/// The events that are work.
pub(crate) fn dispatches() -> Filter {
    Filter {
        categories: vec!["execution".to_owned()],
        types: vec![DISPATCHED.to_owned()],
        ..Filter::default()
    }
}

/// Whether an event is work.
pub(crate) fn is_dispatch(event: &RecordedEvent) -> bool {
    event.r#type == DISPATCHED && event.category == "execution"
}

/// The message of a dispatch.
pub(crate) fn message(
    event: &RecordedEvent,
    prefix: &Prefix,
) -> Result<Outgoing, UnreadableDispatch> {
    let item = WorkItem::from_event(event)?;
    let id = event.event_id.to_string();
    let payload = serde_json::to_vec(&item).expect("an item has only string keys");
    Ok(Outgoing {
        subject: prefix.subject(&Subject::Work(item.queue)),
        publish: PublishMessage::build().payload(Bytes::from(payload)).message_id(&id),
        id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_the_dispatch_and_its_stream() {
        let mut event = crate::envelope::tests::event();
        event.payload = r#"{"claim":3,"queue":"low"}"#.to_owned();
        let item = WorkItem::from_event(&event).unwrap();
        assert_eq!(item.execution_id, event.stream.0);
        assert_eq!((item.claim, item.queue, item.position), (3, Queue::Low, event.position));
        let outgoing = message(&event, &Prefix::default()).unwrap();
        assert_eq!(outgoing.subject, "ledgerline.work.low");
        assert_eq!(outgoing.id, event.event_id.to_string());
    }

    #[test]
    fn a_dispatch_without_a_queue_is_of_the_default_one() {
        let mut event = crate::envelope::tests::event();
        event.payload = r#"{"claim":1}"#.to_owned();
        assert_eq!(WorkItem::from_event(&event).unwrap().queue, Queue::Default);
    }

    #[test]
    fn a_dispatch_of_another_shape_is_refused() {
        let mut event = crate::envelope::tests::event();
        event.payload = r#"{"claim":"x"}"#.to_owned();
        assert!(WorkItem::from_event(&event).is_err());
    }
}
