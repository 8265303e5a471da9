//! Folded aggregates by stream and version, so that a warm command costs one flush and no read.
//!
//! An entry may be old: another process may have written its stream. That is caught where it matters: an append names the
//! versions it rests on, and a refusal is never answered from an entry that was not checked against the log (`execute.rs`).
//! An entry never goes back to an older version, whatever order concurrent commands finish in.

use std::{
    any::Any,
    sync::Arc,
    time::{Duration, Instant},
};

use ledgerline_domain::Aggregate;
use ledgerline_store::{Position, StreamId, StreamVersion};
use moka::{Expiry, sync::Cache as Moka};

use crate::load::StreamOrigin;

/// What an entry costs beside its state: the key, the counters and the bookkeeping of the cache.
const ENTRY_OVERHEAD_BYTES: usize = 256;

/// How long a final state stays after it was last asked for: long enough for what follows an end at once (a late answer of a worker, a
/// page that shows it), short enough that memory does not grow with how much was ever run.
const FINAL_KEPT: Duration = Duration::from_secs(10);

/// A folded state, its type forgotten.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) version: StreamVersion,
    pub(crate) position: Position,
    pub(crate) origin: Option<StreamOrigin>,
    pub(crate) state: Arc<dyn Any + Send + Sync>,
    pub(crate) weight: u32,
    is_final: bool,
}

impl Entry {
    pub(crate) fn new<A: Aggregate>(
        state: Arc<A>,
        version: StreamVersion,
        position: Position,
        origin: Option<StreamOrigin>,
    ) -> Self {
        let bytes = state.weight() + ENTRY_OVERHEAD_BYTES;
        let weight = u32::try_from(bytes).unwrap_or(u32::MAX);
        let is_final = state.is_final();
        Self { version, position, origin, state, weight, is_final }
    }
}

/// Lets go of what is final.
struct Ends;

impl Expiry<StreamId, Entry> for Ends {
    fn expire_after_create(&self, _: &StreamId, entry: &Entry, _: Instant) -> Option<Duration> {
        entry.is_final.then_some(FINAL_KEPT)
    }

    fn expire_after_read(
        &self,
        _: &StreamId,
        entry: &Entry,
        _: Instant,
        _: Option<Duration>,
        _: Instant,
    ) -> Option<Duration> {
        entry.is_final.then_some(FINAL_KEPT)
    }

    fn expire_after_update(
        &self,
        _: &StreamId,
        entry: &Entry,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        entry.is_final.then_some(FINAL_KEPT)
    }
}

/// The cache of one process, bounded by bytes.
#[derive(Clone)]
pub(crate) struct Cache(Moka<StreamId, Entry>);

impl Cache {
    pub(crate) fn new(max_bytes: u64) -> Self {
        let moka = Moka::builder()
            .max_capacity(max_bytes)
            .weigher(|_, entry: &Entry| entry.weight)
            .expire_after(Ends)
            .name("aggregates")
            .build();
        Self(moka)
    }

    pub(crate) fn get(&self, stream: StreamId) -> Option<Entry> {
        self.0.get(&stream)
    }

    /// Keeps the newer of what is there and what is given.
    pub(crate) fn put(&self, stream: StreamId, entry: Entry) {
        self.0.entry(stream).and_upsert_with(|held| match held {
            Some(held) if held.value().version >= entry.version => held.into_value(),
            Some(_) | None => entry,
        });
    }
}
