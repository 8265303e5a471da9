//! Where states come from: the cache, a snapshot, and the stream.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    sync::Arc,
};

use chrono::{DateTime, Utc};
use ledgerline_domain::{
    Aggregate,
    event::{DecodeError, DomainEvent, Metadata},
    id::CorrelationId,
    upcast::upcast,
};
use ledgerline_store::{EventLog, Position, RecordedEvent, StreamId, StreamVersion, Workspace};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::{
    Commands, LoadError,
    cache::{Cache, Entry},
};

/// How many events are read at once: a page of large payloads must fit in memory many times over.
const PAGE: usize = 500;

/// A snapshot is taken each time a stream passes a multiple of this, or of an eighth of its length where that is more: a state grows
/// with its stream, so snapshots at an even distance would cost the square of it. A load reads at most about this many events, and of a
/// long stream at most an eighth.
pub const SNAPSHOT_EVERY: i64 = 1_000;

/// How far apart the snapshots of a stream of this length are: a power of two beyond [`SNAPSHOT_EVERY`], so that its multiples stay the
/// same while it grows.
fn distance(version: i64) -> i64 {
    let eighth = version.max(1).ilog2().saturating_sub(3);
    SNAPSHOT_EVERY.max(1_i64 << eighth)
}

/// Whether a stream passed a place for a snapshot.
fn passed(before: i64, version: i64) -> bool {
    let distance = distance(version);
    version / distance > before / distance
}

/// A folded aggregate and how far it was folded.
#[derive(Debug)]
pub struct Loaded<A> {
    /// The fold; the default state of a stream that does not exist.
    pub state: Arc<A>,
    /// Its version; [`StreamVersion::NEW`] when it does not exist.
    pub version: StreamVersion,
    /// The position of its last event.
    pub position: Position,
    /// Where its first event came from; `None` when it does not exist.
    pub origin: Option<StreamOrigin>,
}

/// What the first event of a stream settles for all that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamOrigin {
    /// The workspace it belongs to.
    pub workspace: Workspace,
    /// What it was begun by: events without a cause of their own belong to that too.
    pub correlation_id: CorrelationId,
}

impl<A> Loaded<A> {
    /// Whether the stream has any event.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.version > StreamVersion::NEW
    }
}

impl<A> Clone for Loaded<A> {
    fn clone(&self) -> Self {
        Self { state: Arc::clone(&self.state), ..*self }
    }
}

/// A moment in the history of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsOf {
    /// After its event with this version.
    Version(StreamVersion),
    /// As the whole log stood at this position.
    Position(Position),
    /// As the log stood at this time.
    Time(DateTime<Utc>),
}

/// A snapshot as it is stored, its state's shape being named by [`Aggregate::SNAPSHOT`].
#[derive(Serialize, Deserialize)]
struct Stored<S> {
    position: Position,
    origin: Option<StreamOrigin>,
    state: S,
}

type Erased = Arc<dyn Any + Send + Sync>;
type Restored = (Erased, Position, Option<StreamOrigin>);

#[derive(Clone, Copy)]
struct Codec {
    save: fn(&Entry) -> Option<String>,
    restore: fn(&str) -> Option<Restored>,
}

/// The aggregates whose long streams are snapshotted. One that isn't listed is folded from its first event.
#[derive(Clone, Default)]
pub struct Snapshots(HashMap<TypeId, Codec>);

impl Snapshots {
    /// Takes snapshots of this aggregate too.
    #[must_use]
    pub fn with<A: Aggregate + Serialize + DeserializeOwned>(mut self) -> Self {
        let save = |entry: &Entry| {
            let state = entry.state.downcast_ref::<A>()?;
            let (position, origin) = (entry.position, entry.origin);
            serde_json::to_string(&Stored { position, origin, state }).ok()
        };
        let restore = |text: &str| {
            let stored: Stored<A> = serde_json::from_str(text).ok()?;
            Some((Arc::new(stored.state) as Erased, stored.position, stored.origin))
        };
        self.0.insert(TypeId::of::<A>(), Codec { save, restore });
        self
    }
}

/// Reads and folds streams for one process.
pub(crate) struct Loader {
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) cache: Cache,
    pub(crate) snapshots: Snapshots,
}

impl Loader {
    /// The cached state when there is one, else what the log holds.
    /// The flag says whether the log was not asked, so the state may be old.
    pub(crate) async fn load<A: Aggregate>(
        &self,
        stream: StreamId,
    ) -> Result<(Loaded<A>, bool), LoadError> {
        match self.cached(stream)? {
            Some(loaded) => Ok((loaded, true)),
            None => Ok((self.load_fresh(stream).await?, false)),
        }
    }

    /// What the log holds now: the cached state or snapshot, and every event after it.
    pub(crate) async fn load_fresh<A: Aggregate>(
        &self,
        stream: StreamId,
    ) -> Result<Loaded<A>, LoadError> {
        let base = match self.cached(stream)? {
            Some(loaded) => loaded,
            None => self.restore(stream).await?,
        };
        let before = base.version;
        let loaded = self.fold(stream, base, AsOf::Version(StreamVersion(i64::MAX))).await?;
        if loaded.exists() {
            self.keep(stream, before, &loaded).await;
        }
        Ok(loaded)
    }

    /// The state at a moment of the past.
    pub(crate) async fn load_at<A: Aggregate>(
        &self,
        stream: StreamId,
        at: AsOf,
    ) -> Result<Loaded<A>, LoadError> {
        let at = match at {
            AsOf::Time(time) => {
                let position = self.log.position_at(time).await;
                AsOf::Position(position.map_err(|error| LoadError::from_store(stream, error))?)
            }
            AsOf::Version(_) | AsOf::Position(_) => at,
        };
        let reached = |loaded: &Loaded<A>| match at {
            AsOf::Version(version) => loaded.version <= version,
            AsOf::Position(position) => loaded.position <= position,
            AsOf::Time(_) => false,
        };
        let base = match self.cached(stream)?.filter(&reached) {
            Some(loaded) => loaded,
            None => Some(self.restore(stream).await?).filter(reached).unwrap_or_else(empty),
        };
        self.fold(stream, base, at).await
    }

    /// Puts a newer state in the cache, and takes a snapshot when the stream has passed a place for one.
    pub(crate) async fn keep<A: Aggregate>(
        &self,
        stream: StreamId,
        before: StreamVersion,
        loaded: &Loaded<A>,
    ) {
        let state = Arc::clone(&loaded.state);
        let entry = Entry::new(state, loaded.version, loaded.position, loaded.origin);
        self.keep_entry(stream, before, entry, TypeId::of::<A>(), A::SNAPSHOT).await;
    }

    pub(crate) async fn keep_entry(
        &self,
        stream: StreamId,
        before: StreamVersion,
        entry: Entry,
        r#type: TypeId,
        fingerprint: &str,
    ) {
        let version = entry.version;
        let passed = passed(before.0, version.0);
        let codec = if passed { self.snapshots.0.get(&r#type) } else { None };
        let saved = codec.and_then(|codec| (codec.save)(&entry));
        self.cache.put(stream, entry);
        let Some(state) = saved else { return };
        // A snapshot only saves reading, so a command doesn't fail for the want of one.
        if let Err(error) = self.log.save_snapshot(stream, version, fingerprint, &state).await {
            tracing::warn!(%stream, %error, "failed to save a snapshot");
        }
    }

    fn cached<A: Aggregate>(&self, stream: StreamId) -> Result<Option<Loaded<A>>, LoadError> {
        let Some(entry) = self.cache.get(stream) else { return Ok(None) };
        let (version, position) = (entry.version, entry.position);
        match entry.state.downcast::<A>() {
            Ok(state) => {
                let origin = entry.origin;
                Ok(Some(Loaded { state, version, position, origin }))
            }
            Err(_) => Err(LoadError::WrongCategory { stream, category: A::Event::CATEGORY }),
        }
    }

    async fn restore<A: Aggregate>(&self, stream: StreamId) -> Result<Loaded<A>, LoadError> {
        let Some(codec) = self.snapshots.0.get(&TypeId::of::<A>()) else { return Ok(empty()) };
        let snapshot = self.log.snapshot(stream, A::SNAPSHOT).await;
        let snapshot = snapshot.map_err(|error| LoadError::from_store(stream, error))?;
        let restored = snapshot.and_then(|(version, text)| {
            let (state, position, origin) = (codec.restore)(&text)?;
            let state = state.downcast::<A>().ok()?;
            Some(Loaded { state, version, position, origin })
        });
        Ok(restored.unwrap_or_else(empty))
    }

    async fn fold<A: Aggregate>(
        &self,
        stream: StreamId,
        base: Loaded<A>,
        until: AsOf,
    ) -> Result<Loaded<A>, LoadError> {
        let mut loaded = base;
        loop {
            let page = self.log.read_stream(stream, loaded.version, PAGE).await;
            let page = page.map_err(|error| LoadError::from_store(stream, error))?;
            let full = page.len() == PAGE;
            if page.is_empty() {
                return Ok(loaded);
            }
            let mut state = Arc::unwrap_or_clone(loaded.state);
            let mut done = !full;
            for recorded in &page {
                let beyond = match until {
                    AsOf::Version(version) => recorded.version > version,
                    AsOf::Position(position) => recorded.position > position,
                    AsOf::Time(at) => recorded.recorded_at > at,
                };
                if beyond {
                    done = true;
                    break;
                }
                state = state.evolve(&decode::<A::Event>(recorded)?);
                loaded.version = recorded.version;
                loaded.position = recorded.position;
                if recorded.version.0 == 1 {
                    loaded.origin = Some(origin(recorded)?);
                }
            }
            loaded.state = Arc::new(state);
            if done {
                return Ok(loaded);
            }
        }
    }
}

fn empty<A: Aggregate>() -> Loaded<A> {
    Loaded {
        state: Arc::new(A::default()),
        version: StreamVersion::NEW,
        position: Position::START,
        origin: None,
    }
}

fn origin(first: &RecordedEvent) -> Result<StreamOrigin, LoadError> {
    let metadata: Metadata = serde_json::from_str(&first.metadata).map_err(|_| {
        let reason = format!("the metadata of the event at position {}", first.position);
        LoadError::Corrupt { stream: first.stream, reason }
    })?;
    Ok(StreamOrigin { workspace: first.workspace, correlation_id: metadata.correlation_id })
}

/// Reads an event of one aggregate, through the upcasters.
pub(crate) fn decode<E: DomainEvent>(recorded: &RecordedEvent) -> Result<E, LoadError> {
    let stream = recorded.stream;
    if recorded.category != E::CATEGORY {
        return Err(LoadError::WrongCategory { stream, category: E::CATEGORY });
    }
    let stored =
        upcast(&recorded.category, &recorded.r#type, recorded.schema_version, &recorded.payload);
    E::decode(&recorded.r#type, stored.schema_version, &stored.payload).map_err(|source| {
        match source {
            DecodeError::Unknown { .. } => LoadError::UnknownEvent { stream, source },
            DecodeError::Payload { .. } => LoadError::Corrupt {
                stream,
                reason: format!("event {} at position {}", recorded.event_id, recorded.position),
            },
        }
    })
}

impl Commands {
    /// An aggregate as the log holds it now.
    ///
    /// # Errors
    /// [`LoadError`]; a stream that does not exist is not one of them.
    pub async fn load<A: Aggregate>(&self, id: impl Into<Uuid>) -> Result<Loaded<A>, LoadError> {
        self.loader().load_fresh(StreamId(id.into())).await
    }

    /// An aggregate as this process last knew it: one that another process wrote may be older than the log. For what an append
    /// will check, or where a moment more doesn't matter.
    ///
    /// # Errors
    /// [`LoadError`]; a stream that does not exist is not one of them.
    pub async fn load_cached<A: Aggregate>(
        &self,
        id: impl Into<Uuid>,
    ) -> Result<Loaded<A>, LoadError> {
        Ok(self.loader().load(StreamId(id.into())).await?.0)
    }

    /// An aggregate as it was at a moment of the past.
    ///
    /// # Errors
    /// [`LoadError`]; a stream that did not exist then is not one of them.
    pub async fn load_at<A: Aggregate>(
        &self,
        id: impl Into<Uuid>,
        at: AsOf,
    ) -> Result<Loaded<A>, LoadError> {
        self.loader().load_at(StreamId(id.into()), at).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_lie_further_apart_the_longer_a_stream_is() {
        let taken: Vec<i64> =
            (1..=200_000).filter(|version| passed(version - 1, *version)).collect();
        assert_eq!(taken[..3], [1_000, 2_000, 3_000]);
        assert!(taken.len() < 60, "{} are few for a long stream", taken.len());
        for pair in taken.windows(2) {
            let (gap, most) = (pair[1] - pair[0], (pair[1] / 4).max(SNAPSHOT_EVERY * 2));
            assert!(gap <= most, "{pair:?}");
        }
        assert!(passed(999, 1_002), "one append may pass it");
        assert!(!passed(1_002, 1_999));
    }
}
