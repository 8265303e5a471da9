//! Folded aggregates by stream and version, so that a warm command costs one flush and no read.
//!
//! An entry may be old: another process may have written its stream. That is caught where it matters: an append names the
//! versions it rests on, and a refusal is never answered from an entry that was not checked against the log (`execute.rs`).
//! An entry never goes back to an older version, whatever order concurrent commands finish in.

use std::{any::Any, sync::Arc};

use ledgerline_domain::Aggregate;
use ledgerline_store::{Position, StreamId, StreamVersion};
use moka::sync::Cache as Moka;

use crate::load::StreamOrigin;

/// What an entry costs beside its state: the key, the counters and the bookkeeping of the cache.
const ENTRY_OVERHEAD_BYTES: usize = 256;

/// A folded state, its type forgotten.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) version: StreamVersion,
    pub(crate) position: Position,
    pub(crate) origin: Option<StreamOrigin>,
    pub(crate) state: Arc<dyn Any + Send + Sync>,
    pub(crate) weight: u32,
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
        Self { version, position, origin, state, weight }
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
