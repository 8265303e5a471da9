//! What the log holds: positions, streams, and events as they were recorded.
//!
//! The store knows envelopes, not nouns: a payload is text that is kept byte for byte, and a stream is an id in a category.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A place in the one order of the deployment: `1..N` without gaps, in commit order. `0` is before the first event.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Position(pub i64);

impl Position {
    /// Before the first event.
    pub const START: Self = Self(0);

    /// The position after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How many events a stream has: `1..k` without gaps. `0` is a stream that does not exist yet.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct StreamVersion(pub i64);

impl StreamVersion {
    /// A stream without events.
    pub const NEW: Self = Self(0);
}

impl fmt::Display for StreamVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The identity of one stream; the id of the aggregate whose history it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StreamId(pub Uuid);

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The workspace an event belongs to. Events of the deployment itself belong to [`Workspace::NIL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Workspace(pub Uuid);

impl Workspace {
    /// The deployment's own events (users, operators), which only operators read.
    pub const NIL: Self = Self(Uuid::nil());
}

/// An event that is about to be appended. Its id is made before the first try and never changes, so that a lost reply can be resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// UUIDv7, or v5 from the cause where the event must be unique for ever.
    pub event_id: Uuid,
    /// Stored type name, e.g. `node_completed`: explicit text, never a Rust path.
    pub r#type: &'static str,
    /// Version of the payload's shape, from 1.
    pub schema_version: i16,
    /// JSON text, kept byte for byte; at most [`crate::MAX_PAYLOAD_BYTES`].
    pub payload: String,
    /// JSON text: actor, correlation and causation ids, trace.
    pub metadata: String,
}

/// An event as the log holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedEvent {
    /// Its place in the log.
    pub position: Position,
    /// The stream it belongs to.
    pub stream: StreamId,
    /// Its place in that stream, from 1.
    pub version: StreamVersion,
    /// The workspace it belongs to.
    pub workspace: Workspace,
    /// Its place among the events of its workspace, from 1 without gaps.
    pub workspace_seq: i64,
    /// The noun of the stream: `workspace`, `workflow`, `execution`, …
    pub category: String,
    /// Stored type name.
    pub r#type: String,
    /// Version of the payload's shape.
    pub schema_version: i16,
    /// Unique over the whole log.
    pub event_id: Uuid,
    /// JSON text, as appended.
    pub payload: String,
    /// JSON text, as appended.
    pub metadata: String,
    /// When it was committed, by the log's own clock, which never runs backwards.
    pub recorded_at: DateTime<Utc>,
}

/// Where the log ends, and which log it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Made once, when the log is created.
    pub log_id: Uuid,
    /// Raised by a restore from backup: a reader with a position of another epoch was rewound.
    pub epoch: i32,
    /// The last position.
    pub position: Position,
    /// The time of the last append.
    pub recorded_at: DateTime<Utc>,
}

/// Which events a read wants. Empty lists do not filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only events of this workspace.
    pub workspace: Option<Workspace>,
    /// Only events of this stream.
    pub stream: Option<StreamId>,
    /// Only these categories.
    pub categories: Vec<String>,
    /// Only these types.
    pub types: Vec<String>,
}

impl Filter {
    /// Whether an event passes.
    #[must_use]
    pub fn matches(&self, event: &RecordedEvent) -> bool {
        self.workspace.is_none_or(|workspace| workspace == event.workspace)
            && self.stream.is_none_or(|stream| stream == event.stream)
            && (self.categories.is_empty() || self.categories.contains(&event.category))
            && (self.types.is_empty() || self.types.contains(&event.r#type))
    }
}
