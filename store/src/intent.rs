//! What a command asks of the log, all or none, and what it gets back.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{Lease, NewEvent, Position, StreamId, StreamVersion, Workspace};

/// One command's append: every part of it happens, or none.
#[derive(Clone, Debug, Default)]
pub struct Intent {
    /// The streams it writes, each at most once.
    pub writes: Vec<StreamWrite>,
    /// The streams its decision rested on: checked, not written.
    pub reads: Vec<StreamRead>,
    /// A repeat with this key gets the first receipt and appends nothing.
    pub key: Option<IdempotencyKey>,
    /// Kept with the key and returned by a repeat: what the caller was answered (status, ids). JSON text.
    pub answer: Option<String>,
    /// The leadership under which it was decided: refused when another process has taken over.
    pub fence: Option<Fence>,
    /// Due times to set (same stream, kind and key: replaced).
    pub due: Vec<DueTime>,
    /// Due times to remove.
    pub due_done: Vec<DueKey>,
}

/// The events of one stream in an [`Intent`].
#[derive(Clone, Debug)]
pub struct StreamWrite {
    /// The workspace of the events.
    pub workspace: Workspace,
    /// The stream.
    pub stream: StreamId,
    /// The noun of the stream.
    pub category: &'static str,
    /// The version that the decision was made at.
    pub expected: StreamVersion,
    /// At least one.
    pub events: Vec<NewEvent>,
}

/// A stream that a decision rested on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamRead {
    /// The stream.
    pub stream: StreamId,
    /// Its version when the decision was made.
    pub version: StreamVersion,
}

/// The name under which a command is known, so that a repeat can be told from a new one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey {
    /// Workspace, caller, method and path in one text, so that callers cannot meet each other's keys.
    pub scope: String,
    /// What the caller sent: 1 to 255 printable ASCII characters.
    pub key: String,
    /// SHA-256 of the body: the same key with another body is refused.
    pub body_hash: [u8; 32],
}

/// A lease and the epoch under which it was held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The reader's name in `checkpoints`.
    pub reader: String,
    /// The epoch that must still be current.
    pub epoch: i64,
}

impl From<&Lease> for Fence {
    fn from(lease: &Lease) -> Self {
        Self { reader: lease.reader.clone(), epoch: lease.epoch }
    }
}

/// Something that must happen at a time, kept in Postgres, not in a sleeping task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueTime {
    /// When.
    pub due_at: DateTime<Utc>,
    /// What for.
    pub due: DueKey,
}

/// Which due time: unique by stream, kind and key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DueKey {
    /// The stream that waits.
    pub stream: StreamId,
    /// E.g. `retry`, `wait`, `timeout`.
    pub kind: String,
    /// E.g. a node path and attempt.
    pub key: String,
}

/// Proof that an [`Intent`] is in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Position of the first event appended.
    pub first_position: Position,
    /// Position of the last event appended.
    pub position: Position,
    /// The versions the written streams have now, in the order of the intent's writes.
    pub versions: Vec<(StreamId, StreamVersion)>,
    /// When it was committed.
    pub recorded_at: DateTime<Utc>,
    /// The `answer` of the intent that was applied.
    pub answer: Option<String>,
    /// True when this is the receipt of an earlier intent with the same key, and nothing was appended now.
    #[serde(skip)]
    pub repeated: bool,
}
