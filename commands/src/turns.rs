//! Commands on one stream take turns within a process.
//!
//! Two of them can never both be applied at one version, so letting them race only makes the loser read and decide again: with
//! `n` at once, `n²` tries. Waiting costs what the flush costs anyway. Between processes nothing but the expected version decides.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use ledgerline_store::StreamId;
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

/// How many maps the streams are spread over, so that unrelated commands don't meet on one lock.
const SHARDS: usize = 64;

type Shard = Mutex<HashMap<StreamId, Weak<Turn<()>>>>;

/// Who has the turn on which stream. Entries of streams that nobody waits for go again.
pub(crate) struct Turns(Vec<Shard>);

/// The turn on one stream, given back on drop.
pub(crate) struct HeldTurn {
    _guard: OwnedMutexGuard<()>,
}

impl Turns {
    pub(crate) fn new() -> Self {
        Self((0..SHARDS).map(|_| Mutex::default()).collect())
    }

    pub(crate) async fn take(&self, stream: StreamId) -> HeldTurn {
        let turn = self.turn(stream);
        HeldTurn { _guard: turn.lock_owned().await }
    }

    fn turn(&self, stream: StreamId) -> Arc<Turn<()>> {
        let shard = &self.0[usize::from(stream.0.as_bytes()[15]) % SHARDS];
        let mut turns = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = turns.get(&stream).and_then(Weak::upgrade) {
            return turn;
        }
        // Sweeping only when the map would grow keeps it within twice the streams in use, at a constant cost a command.
        if turns.len() == turns.capacity() {
            turns.retain(|_, turn| turn.strong_count() > 0);
        }
        let turn = Arc::new(Turn::new(()));
        turns.insert(stream, Arc::downgrade(&turn));
        turn
    }
}
