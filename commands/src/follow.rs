//! A fold of the log that a background loop keeps: restored from its snapshot, brought up to its checkpoint without acting, and
//! then led along the log.
//!
//! The snapshot is only ever taken at a position that the checkpoint has passed, so that no event is folded without having been
//! answered. What a restore folds again costs time and changes nothing.

use std::sync::Arc;

use ledgerline_domain::{
    event::{AnyEvent, Recorded},
    id::derived,
};
use ledgerline_store::{
    Filter, Position, RecordedEvent, StreamId, StreamVersion, Tail, TailReader,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Commands, LoadError,
    lead::{Term, TermEnd},
    record::{known, recorded},
};

/// How many events are taken at once.
pub(crate) const BATCH: usize = 2_000;

/// How many events lie between two snapshots of a fold: a restore reads about this many, and one costs the size of the fold.
const SNAPSHOT_EVERY: i64 = 50_000;

/// Something that is folded from the log.
pub(crate) trait Fold: Default + Serialize + DeserializeOwned {
    /// Names the shape of the fold, so that a snapshot of another shape is discarded.
    const SHAPE: &'static str;

    /// Whether events of this type mean anything to it. The others are not even read.
    fn wants(category: &str, r#type: &str) -> bool;

    /// Takes an event in.
    fn apply(&mut self, event: &Recorded<AnyEvent>);
}

/// A fold and where it stands in the log.
pub(crate) struct Follower<F> {
    pub(crate) fold: F,
    commands: Commands,
    reader: &'static str,
    tail: TailReader,
    snapshot_at: Position,
}

impl<F: Fold> Follower<F> {
    /// Restores the fold and brings it to the reader's checkpoint.
    pub(crate) async fn restore(
        commands: &Commands,
        tail: &Tail,
        reader: &'static str,
        to: Position,
    ) -> Result<Self, TermEnd> {
        let log = commands.log();
        let saved = log.snapshot(snapshot_stream(reader), F::SHAPE).await;
        let saved = saved.map_err(|error| TermEnd::store(reader, &error))?;
        let restored = saved.and_then(|(version, text)| {
            let fold: F = serde_json::from_str(&text).ok()?;
            Some((fold, Position(version.0))).filter(|(_, position)| *position <= to)
        });
        let (mut fold, mut position) = restored.unwrap_or_else(|| (F::default(), Position::START));
        let snapshot_at = position;
        while position < to {
            let page = log.read(position, BATCH, &Filter::default()).await;
            let (events, _) = page.map_err(|error| TermEnd::store(reader, &error))?;
            let Some(last) = events.last().map(|event| event.position) else { break };
            for event in events.iter().take_while(|event| event.position <= to) {
                if let Some(event) = wanted::<F>(reader, event)? {
                    fold.apply(&event);
                }
            }
            position = last;
        }
        let commands = commands.clone();
        Ok(Self { fold, commands, reader, tail: tail.reader(to), snapshot_at })
    }

    /// Waits for events and reads those that mean something, without taking them in. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Result<Vec<Recorded<AnyEvent>>, TermEnd> {
        let batch = self.tail.next_batch(BATCH).await;
        let batch = batch.map_err(|error| TermEnd::store(self.reader, &error))?;
        let mut events = Vec::with_capacity(batch.len());
        for row in &batch {
            events.extend(wanted::<F>(self.reader, row)?);
        }
        Ok(events)
    }

    /// The same as they are in the log, whatever they mean; see [`Self::read`]. Safe to cancel.
    pub(crate) async fn next_rows(&mut self) -> Result<Vec<Arc<RecordedEvent>>, TermEnd> {
        let batch = self.tail.next_batch(BATCH).await;
        batch.map_err(|error| TermEnd::store(self.reader, &error))
    }

    /// Reads an event that means something, without taking it in.
    pub(crate) fn read(&self, row: &RecordedEvent) -> Result<Option<Recorded<AnyEvent>>, TermEnd> {
        wanted::<F>(self.reader, row)
    }

    /// The position of the last event that was returned.
    pub(crate) fn position(&self) -> Position {
        self.tail.position()
    }

    /// Moves the checkpoint to where the fold stands, everything up to there having been answered, and takes a snapshot when many
    /// events have gone by.
    pub(crate) async fn settle(&mut self, term: &mut Term) -> Result<(), TermEnd> {
        let position = self.position();
        term.advance(position).await?;
        if position.0 - self.snapshot_at.0 < SNAPSHOT_EVERY {
            return Ok(());
        }
        self.snapshot_at = position;
        let state = match serde_json::to_string(&self.fold) {
            Ok(state) => state,
            Err(error) => {
                tracing::error!(reader = self.reader, %error, "the fold cannot be written");
                return Ok(());
            }
        };
        let (stream, version) = (snapshot_stream(self.reader), StreamVersion(position.0));
        let log = Arc::clone(self.commands.log());
        if let Err(error) = log.save_snapshot(stream, version, F::SHAPE, &state).await {
            tracing::warn!(reader = self.reader, %error, "failed to save a snapshot of the fold");
        }
        Ok(())
    }

    /// How many events lie between the fold and the end of the log, for a metric.
    pub(crate) fn measure_lag(&self) {
        let head = *self.commands.log().watch_head().borrow();
        let behind = u32::try_from(head.0 - self.position().0).unwrap_or(0);
        metrics::gauge!("ledgerline_policy_lag_events", "policy" => self.reader).set(behind);
    }
}

/// Where the snapshots of a fold are kept: an id that no aggregate has.
fn snapshot_stream(reader: &str) -> StreamId {
    StreamId(derived(&["fold", reader]))
}

fn wanted<F: Fold>(
    reader: &'static str,
    row: &RecordedEvent,
) -> Result<Option<Recorded<AnyEvent>>, TermEnd> {
    let read = || -> Result<Option<Recorded<AnyEvent>>, LoadError> {
        if F::wants(&row.category, &row.r#type) {
            recorded(row).map(Some)
        } else {
            known(row).map(|()| None)
        }
    };
    read().map_err(|error| TermEnd::unreadable(reader, error))
}
