//! What happened: the append-only log and what lives beside it in the same database.
//!
//! Reading order: [`event`] (what is in the log), [`intent`] (what a command asks of it), [`EventLog`] (the contract),
//! then the two implementations: `postgres` (head row and group commit) and `simulated` (in memory, deterministic, with faults).
//! One conformance suite runs on both.

pub mod error;
pub mod event;
pub mod intent;
pub mod lease;
pub mod log_lines;

pub mod migrate;
pub mod postgres;

mod appender;
mod batch;
mod blob;
pub mod checkpoint;
pub mod conformance;
mod due;
pub mod facts;
mod fault;
mod idempotency;
mod intake;
mod json_text;
mod read;
pub mod seal;
pub mod sealed;
pub mod simulated;
mod snapshot;
pub mod subjects;
pub mod tail;
mod validate;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::sync::watch;
use uuid::Uuid;

pub use checkpoint::advance_in;
pub use error::{AppendError, StoreError, StoreFault};
pub use event::{
    Filter, Head, NewEvent, Position, RecordedEvent, StreamId, StreamVersion, Workspace,
};
pub use intent::{
    DueKey, DueTime, Fence, IdempotencyKey, Intent, Receipt, StreamRead, StreamWrite,
};
pub use lease::{Lease, WorkerLease};
pub use log_lines::{LogLevel, LogLine, LogQuery};
pub use migrate::{grant_serving, migrate, missing_migrations};
pub use postgres::{LogConfig, PostgresLog};
pub use simulated::{AppendFault, Faults, SimulatedLog};
pub use tail::{Tail, TailReader};

/// The largest payload of one event. A JetStream message must fit in 1 MiB with its envelope; larger values are blobs.
pub const MAX_PAYLOAD_BYTES: usize = 512 * 1024;

/// The largest metadata of one event: actor, correlation and causation ids, trace.
pub const MAX_METADATA_BYTES: usize = 64 * 1024;

/// How deep JSON may nest: deeper text passes `json` and breaks recursive readers later.
pub const MAX_NESTING: usize = 64;

/// The most events that one intent may hold: one flush must stay short, because everybody waits for it.
pub const MAX_EVENTS_PER_INTENT: usize = 1_000;

/// The log and everything that commands and workers need of the database.
///
/// # Contract
///
/// **Order.** Positions are `1..N` without gaps, and position order is commit order: a reader that has seen `N` has seen
/// everything below `N`, so every reader is `position > $1 ORDER BY position` and nothing cleverer. `recorded_at` never decreases.
///
/// **Atomicity.** All events of an [`Intent`] are appended or none, over all its streams, together with its due times and key.
///
/// **Expected version.** Stream versions are `1..k` without gaps. An intent whose written or read streams are not at the
/// version it names is refused with [`AppendError::Conflict`]; intents beside it in the same flush are not touched by that.
///
/// **Idempotency.** An intent with a key that is known appends nothing and gets the first receipt, with `repeated` set, before its
/// versions or its fence are looked at. The same key with another body is [`AppendError::KeyReused`].
///
/// **Event ids.** The log holds each once: an intent with one that it holds, or with one twice, is refused with
/// [`AppendError::DuplicateEvent`], after its versions and its fence are looked at.
///
/// **Lost replies.** After a connection error the appender asks by event id what landed; only what did not is tried again.
///
/// **Durability.** When `append` returns a receipt the intent is on disk.
#[async_trait]
pub trait EventLog: Send + Sync + 'static {
    /// Appends one intent. See the contract above.
    async fn append(&self, intent: Intent) -> Result<Receipt, AppendError>;

    /// The receipt that a key was answered with, if it is known.
    /// [`AppendError::KeyReused`] when it was used with another body.
    async fn find_receipt(&self, key: &IdempotencyKey) -> Result<Option<Receipt>, AppendError>;

    /// Up to `limit` events after a position that pass the filter, in order, and the position up to which the log was looked
    /// through (which is past the last event where the filter is sparse): ask again from there.
    async fn read(
        &self,
        after: Position,
        limit: usize,
        filter: &Filter,
    ) -> Result<(Vec<RecordedEvent>, Position), StoreError>;

    /// Up to `limit` events of one stream after a version, in order.
    async fn read_stream(
        &self,
        stream: StreamId,
        after: StreamVersion,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError>;

    /// The event with this id, if the log holds it.
    async fn event(&self, event_id: Uuid) -> Result<Option<RecordedEvent>, StoreError>;

    /// Where the log ends.
    async fn head(&self) -> Result<Head, StoreError>;

    /// The last position that the log of an epoch has in common with the present one; [`Position::START`] for an epoch that is
    /// none of this log. Whoever has a position of an older epoch goes on from the lower one of the two.
    async fn common_with(&self, epoch: i32) -> Result<Position, StoreError>;

    /// The last position this process knows to be committed; changes wake readers. A floor interval is the reader's own affair.
    fn watch_head(&self) -> watch::Receiver<Position>;

    /// The last position whose `recorded_at` is at or before a time; [`Position::START`] when there is none.
    async fn position_at(&self, at: DateTime<Utc>) -> Result<Position, StoreError>;

    /// Takes the lease of a reader when it is free or expired, for `ttl_ms`. `None` when somebody else holds it.
    /// Taking it raises its epoch.
    async fn acquire_lease(
        &self,
        reader: &str,
        owner: &str,
        ttl_ms: i64,
    ) -> Result<Option<Lease>, StoreError>;

    /// Holds on to a lease for another `ttl_ms`; [`StoreError::Fenced`] when it was taken over.
    async fn renew_lease(&self, lease: &Lease, ttl_ms: i64) -> Result<(), StoreError>;

    /// Lets go of a lease, so that another process need not wait for it to expire.
    async fn release_lease(&self, lease: &Lease) -> Result<(), StoreError>;

    /// Moves a reader's checkpoint from `lease.position` to `to` by compare-and-set on position and epoch, and updates the lease.
    async fn advance(&self, lease: &mut Lease, to: Position) -> Result<(), StoreError>;

    /// The checkpoint of a reader, without any lease; [`Position::START`] when there is none.
    async fn checkpoint(&self, reader: &str) -> Result<Position, StoreError>;

    /// Up to `limit` due times at or before `now`, earliest first.
    async fn due(&self, now: DateTime<Utc>, limit: usize) -> Result<Vec<DueTime>, StoreError>;

    /// When the next due time is.
    async fn next_due(&self) -> Result<Option<DateTime<Utc>>, StoreError>;

    /// Moves a due time that is there to another time; false when it is not. For what is put off often and is no fact (signs of life).
    async fn move_due(&self, due: &DueTime) -> Result<bool, StoreError>;

    /// Those of these streams that no due time is kept for.
    async fn without_due(&self, streams: &[StreamId]) -> Result<Vec<StreamId>, StoreError>;

    /// Removes due times whose command turned out to have nothing to do.
    async fn remove_due(&self, done: &[DueKey]) -> Result<(), StoreError>;

    /// Saves a snapshot of a stream's fold; an older version never replaces a newer one.
    async fn save_snapshot(
        &self,
        stream: StreamId,
        version: StreamVersion,
        fingerprint: &str,
        state: &str,
    ) -> Result<(), StoreError>;

    /// The snapshot of a stream, when its fingerprint is the one asked for.
    async fn snapshot(
        &self,
        stream: StreamId,
        fingerprint: &str,
    ) -> Result<Option<(StreamVersion, String)>, StoreError>;

    /// Stores a value by its SHA-256 and returns the hash in lower-case hex. Storing it again changes nothing.
    async fn put_blob(&self, content: &[u8]) -> Result<String, StoreError>;

    /// The value with this hash.
    async fn blob(&self, hash: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// Writes step log lines in one batch. A line that is there already (same execution, claim, n) is left as it is.
    async fn write_log_lines(&self, lines: &[LogLine]) -> Result<(), StoreError>;

    /// Log lines of an execution that pass the query, in order of (claim, n).
    async fn log_lines(&self, query: &LogQuery) -> Result<Vec<LogLine>, StoreError>;

    /// Registers a worker process, or holds on to its lease for another `ttl_ms`. Returns its epoch, which rises when an
    /// expired lease is taken up again.
    async fn renew_worker_lease(
        &self,
        worker: &str,
        slots: i32,
        ttl_ms: i64,
    ) -> Result<WorkerLease, StoreError>;

    /// Gives up a worker's lease: its claims may be dispatched again at once.
    async fn release_worker_lease(&self, worker: &str) -> Result<(), StoreError>;

    /// All worker leases, also expired ones.
    async fn worker_leases(&self) -> Result<Vec<WorkerLease>, StoreError>;

    /// Removes idempotency keys that are older than a time, in small batches, and worker leases that expired before it.
    /// Returns how many keys went.
    async fn prune_keys(&self, before: DateTime<Utc>) -> Result<u64, StoreError>;
}
