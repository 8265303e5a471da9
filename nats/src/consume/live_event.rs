//! An event as it is on its way to sockets, and why no more of them come.

use bytes::Bytes;
use ledgerline_store::{Filter, Position, RecordedEvent, StoreError, StreamId, Workspace};

use crate::envelope::{EventSource, encode};

/// An event on its way to sockets: what channels are chosen by, and its CloudEvents bytes as they are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveEvent {
    /// Its place in the log.
    pub position: Position,
    /// The workspace it belongs to.
    pub workspace: Workspace,
    /// The noun of its stream.
    pub category: Box<str>,
    /// Its stream.
    pub stream: StreamId,
    /// Its stored type name.
    pub r#type: Box<str>,
    /// The envelope, see [`crate::envelope`].
    pub bytes: Bytes,
}

impl LiveEvent {
    /// The same event as the gateway would bring it, for whoever reads the log itself.
    #[must_use]
    pub fn from_recorded(event: &RecordedEvent, source: &EventSource) -> Self {
        Self {
            position: event.position,
            workspace: event.workspace,
            category: event.category.as_str().into(),
            stream: event.stream,
            r#type: event.r#type.as_str().into(),
            bytes: Bytes::from(encode(event, source)),
        }
    }

    /// Whether it passes a filter.
    #[must_use]
    pub fn passes(&self, filter: &Filter) -> bool {
        filter.workspace.is_none_or(|workspace| workspace == self.workspace)
            && filter.stream.is_none_or(|stream| stream == self.stream)
            && (filter.categories.is_empty()
                || filter.categories.iter().any(|category| **category == *self.category))
            && (filter.types.is_empty() || filter.types.iter().any(|name| **name == *self.r#type))
    }
}

/// Why a subscriber gets no more events from here.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// It was too slow: it has everything up to `position` and goes on from there with a new subscription.
    #[error("the subscriber is too slow; it has everything up to position {position}")]
    Lagged {
        /// The last position it was given.
        position: Position,
    },
    /// The process stops.
    #[error("the gateway has stopped")]
    Stopped,
    /// The gap before the live events cannot be read.
    #[error("the log cannot be read")]
    Log(#[from] StoreError),
}
