//! Why the log refused.

use crate::{StreamId, StreamVersion};

/// Why an append did not happen. In every case but [`AppendError::Unavailable`] it is certain that nothing was appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// A stream moved since the decision was made: read it again and decide again.
    #[error("stream {stream} is not at version {expected}")]
    Conflict {
        /// The stream that moved; one that was written or one that was read.
        stream: StreamId,
        /// The version the decision was made at.
        expected: StreamVersion,
    },
    /// The lease under which the intent was decided is held by somebody else now.
    #[error("the lease {reader} was taken over")]
    Fenced {
        /// The lease.
        reader: String,
    },
    /// The idempotency key was used with another body.
    #[error("the idempotency key was used with another body")]
    KeyReused,
    /// The payload of one event is over [`crate::MAX_PAYLOAD_BYTES`], an intent holds too many events, or a text holds U+0000.
    #[error("the intent cannot be stored: {reason}")]
    Invalid {
        /// What is wrong with it, for the caller.
        reason: String,
    },
    /// The id of one of the events is in the log already: what makes the same ids for the same reaction was carried out before.
    #[error("an event id is in the log already")]
    DuplicateEvent,
    /// The intake is full: try again after the hint.
    #[error("the log is overloaded")]
    Overloaded,
    /// The disk under the log is full.
    #[error("the database's disk is full")]
    DiskFull,
    /// Postgres is away, and whether the intent landed could not be found out in time.
    #[error("the log is unavailable")]
    Unavailable(#[source] StoreFault),
}

/// Why a read, a lease or another table's statement failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The lease is held by somebody else now, or its checkpoint moved.
    #[error("the lease {reader} was taken over")]
    Fenced {
        /// The lease.
        reader: String,
    },
    /// The disk is full.
    #[error("the database's disk is full")]
    DiskFull,
    /// Postgres is away or the pool is exhausted.
    #[error("the store is unavailable")]
    Unavailable(#[source] StoreFault),
    /// What was stored can't be read: a corrupt row, or written by a newer version.
    #[error("a stored value cannot be read: {reason}")]
    Corrupt {
        /// What is wrong with it.
        reason: String,
    },
}

/// The fault behind an unavailable store: for the process's own log, not for a caller.
pub type StoreFault = Box<dyn std::error::Error + Send + Sync>;
