//! The log as projectors read it: every stretch is read and decoded once for all of them.
//!
//! Projectors run beside each other and mostly want the same newest events. The feed keeps the decoded stretches they read last
//! within a bound of memory, so that six readers of one log cost about as much as one.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ledgerline_domain::event::{AnyEvent, DecodeError};
use ledgerline_store::{EventLog, Filter, Position, RecordedEvent, StoreError};
use uuid::Uuid;

use crate::projection::LogEvent;

/// The most events of one batch: larger ones are no faster (measured at 5k, 20k, 50k).
pub(crate) const MAX_BATCH: usize = 5_000;

/// The bytes of payload that one read aims at most for; the count is lowered when events turn out large.
const MAX_READ_BYTES: usize = 16 * 1024 * 1024;

/// The bytes of payload that are kept decoded for other readers.
const MAX_KEPT_BYTES: usize = 64 * 1024 * 1024;

/// What an event costs beside its payload.
const EVENT_BYTES: usize = 400;

/// One position of the log as it could be read.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Its position.
    pub(crate) position: i64,
    /// Its stream: what is set aside when it cannot be applied.
    pub(crate) stream: Uuid,
    /// The noun of its stream.
    pub(crate) category: String,
    /// What it holds.
    pub(crate) content: Content,
}

/// What a position holds.
#[derive(Debug)]
pub(crate) enum Content {
    /// An event that this build knows.
    Event(Box<LogEvent>),
    /// An event whose payload has not its shape.
    Broken(String),
    /// An event of a category that whoever asked does not want: left undecoded.
    Unwanted,
    /// An event of a newer build: whoever wants its category stands down.
    Unknown(String),
}

impl Entry {
    /// For one reader alone: what is not of its categories is not decoded.
    pub(crate) fn decode_of(recorded: RecordedEvent, categories: &[&str]) -> Self {
        if categories.contains(&recorded.category.as_str()) {
            return Self::decode(recorded);
        }
        let (position, stream) = (recorded.position.0, recorded.stream.0);
        Self { position, stream, category: recorded.category, content: Content::Unwanted }
    }

    pub(crate) fn decode(recorded: RecordedEvent) -> Self {
        let decoded = AnyEvent::decode(
            &recorded.category,
            &recorded.r#type,
            recorded.schema_version,
            &recorded.payload,
        );
        let (position, stream) = (recorded.position.0, recorded.stream.0);
        let content = match decoded {
            Ok(event) => Content::Event(Box::new(LogEvent {
                position,
                stream,
                version: recorded.version.0,
                workspace: recorded.workspace.0,
                event_id: recorded.event_id,
                at: recorded.recorded_at,
                event,
                metadata: recorded.metadata,
            })),
            Err(error @ DecodeError::Unknown { .. }) => Content::Unknown(error.to_string()),
            Err(DecodeError::Payload { r#type, source }) => {
                Content::Broken(format!("the payload of a {type} event cannot be read: {source}"))
            }
        };
        Self { position, stream, category: recorded.category, content }
    }
}

/// A stretch of the log, decoded.
#[derive(Debug)]
struct Stretch {
    entries: Vec<Entry>,
    bytes: usize,
}

/// Consecutive events of the log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    parts: Vec<(Arc<Stretch>, Range<usize>)>,
    len: usize,
}

impl Batch {
    /// The events in order.
    pub(crate) fn entries(&self) -> Vec<&Entry> {
        self.parts.iter().flat_map(|(stretch, range)| &stretch.entries[range.clone()]).collect()
    }

    /// The last position; `None` when there is nothing.
    pub(crate) fn end(&self) -> Option<Position> {
        let (stretch, range) = self.parts.last()?;
        Some(Position(stretch.entries[range.end - 1].position))
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn push(&mut self, stretch: Arc<Stretch>, after: Position, limit: usize) -> Option<Position> {
        let first = stretch.entries.first()?.position;
        let start = usize::try_from(after.0 + 1 - first).ok()?;
        let end = stretch.entries.len().min(start + limit.saturating_sub(self.len));
        if start >= end {
            return None;
        }
        let last = Position(stretch.entries[end - 1].position);
        self.len += end - start;
        self.parts.push((stretch, start..end));
        Some(last)
    }
}

/// Decoded stretches by first position, and the order in which they came.
#[derive(Debug, Default)]
struct Kept {
    stretches: BTreeMap<i64, Arc<Stretch>>,
    order: VecDeque<i64>,
    bytes: usize,
}

impl Kept {
    fn holding(&self, position: i64) -> Option<Arc<Stretch>> {
        let (first, stretch) = self.stretches.range(..=position).next_back()?;
        let past = first + i64::try_from(stretch.entries.len()).ok()?;
        (position < past).then(|| Arc::clone(stretch))
    }

    fn keep(&mut self, stretch: Arc<Stretch>) {
        let Some(first) = stretch.entries.first().map(|entry| entry.position) else { return };
        self.bytes += stretch.bytes;
        if let Some(replaced) = self.stretches.insert(first, stretch) {
            self.bytes -= replaced.bytes;
        } else {
            self.order.push_back(first);
        }
        while self.bytes > MAX_KEPT_BYTES && self.order.len() > 1 {
            let oldest = self.order.pop_front().and_then(|first| self.stretches.remove(&first));
            self.bytes -= oldest.map_or(0, |stretch| stretch.bytes);
        }
    }
}

/// The decoded log, shared by the projectors of a process.
pub(crate) struct Feed {
    log: Arc<dyn EventLog>,
    kept: Mutex<Kept>,
    /// One read at a time: whoever comes second mostly finds what it wanted.
    reading: tokio::sync::Mutex<usize>,
}

impl Feed {
    /// A feed of this log.
    #[must_use]
    pub(crate) fn new(log: Arc<dyn EventLog>) -> Self {
        Self { log, kept: Mutex::default(), reading: tokio::sync::Mutex::new(EVENT_BYTES) }
    }

    /// The log it reads.
    #[must_use]
    pub(crate) fn log(&self) -> &Arc<dyn EventLog> {
        &self.log
    }

    /// Up to `limit` events after a position, in order; none when the log ends there.
    pub(crate) async fn after(&self, after: Position, limit: usize) -> Result<Batch, StoreError> {
        let mut batch = Batch::default();
        let after = self.take_kept(&mut batch, after, limit);
        if batch.len() > 0 {
            return Ok(batch);
        }
        let mut event_bytes = self.reading.lock().await;
        let after = self.take_kept(&mut batch, after, limit);
        if batch.len() > 0 {
            return Ok(batch);
        }
        let count = (MAX_READ_BYTES / *event_bytes).clamp(50, MAX_BATCH).min(limit);
        let stretch = read(&*self.log, after, count).await?;
        if !stretch.entries.is_empty() {
            *event_bytes = (stretch.bytes / stretch.entries.len()).max(1);
            let stretch = Arc::new(stretch);
            self.kept().keep(Arc::clone(&stretch));
            batch.push(stretch, after, limit);
        }
        Ok(batch)
    }

    fn take_kept(&self, batch: &mut Batch, mut after: Position, limit: usize) -> Position {
        let kept = self.kept();
        while batch.len() < limit {
            let Some(stretch) = kept.holding(after.0 + 1) else { break };
            let Some(end) = batch.push(stretch, after, limit) else { break };
            after = end;
        }
        after
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read(log: &dyn EventLog, after: Position, limit: usize) -> Result<Stretch, StoreError> {
    let (events, _) = log.read(after, limit, &Filter::default()).await?;
    let bytes = events.iter().map(|event| event.payload.len() + EVENT_BYTES).sum();
    let entries: Vec<Entry> = events.into_iter().map(Entry::decode).collect();
    let dense =
        entries.iter().zip(after.0 + 1..).all(|(entry, position)| entry.position == position);
    if !dense {
        return Err(StoreError::Corrupt {
            reason: format!("the log has a hole somewhere after position {after}"),
        });
    }
    Ok(Stretch { entries, bytes })
}
