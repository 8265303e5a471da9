//! Many writers on few streams, a tail that listens all the while, and a checker that looks at every event afterwards.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::future::{join, join_all};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::{event, writing};
use crate::{
    AppendError, EventLog, Filter, IdempotencyKey, Intent, Position, Receipt, StreamId, StreamRead,
    StreamVersion, StreamWrite, Tail, Workspace,
};

/// How hard the writers press.
#[derive(Clone, Copy, Debug)]
pub struct Contention {
    /// Writers at once, shared out between the logs.
    pub writers: usize,
    /// Intents of one writer.
    pub rounds: usize,
    /// Streams that they fight for: the fewer, the more conflicts.
    pub streams: usize,
    /// What the writers do follows from this alone; how they meet does not.
    pub seed: u64,
}

/// What one writer was told.
#[derive(Debug)]
pub struct Told {
    event_ids: Vec<Uuid>,
    outcome: Outcome,
}

impl Told {
    /// Whether the log could not say what became of the intent.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self.outcome, Outcome::Unknown)
    }
}

#[derive(Debug)]
enum Outcome {
    Landed(Receipt),
    Refused,
    Unknown,
}

/// Small and the same everywhere: the suite does not depend on a library of randomness.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit.max(1) as u64).unwrap_or(0)
    }
}

/// Lets writers append to shared streams through one or several logs of the same database, while a tail on the first one
/// listens. Returns what every intent was told, for [`verify_log`].
///
/// # Panics
/// When the tail skips or doubles, or a refusal is not one of those that contention explains.
pub async fn contend(logs: Vec<Arc<dyn EventLog>>, contention: Contention) -> Vec<Told> {
    let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
    let workspaces = [Workspace(Uuid::now_v7()), Workspace(Uuid::now_v7())];
    let streams: Vec<(Workspace, StreamId)> = (0..contention.streams)
        .map(|index| (workspaces[index % workspaces.len()], StreamId(Uuid::now_v7())))
        .collect();
    let start = logs[0].head().await.expect("head").position;
    let tail = Tail::start(Arc::clone(&logs[0]), &tracker, cancel.clone());
    let done = CancellationToken::new();
    let listening = listen(&tail, &*logs[0], start, &done);
    let writing = async {
        let writers = (0..contention.writers).map(|index| {
            let log = &*logs[index % logs.len()];
            write(
                log,
                &streams,
                contention.rounds,
                Dice(contention.seed * 7_919 + index as u64 + 1),
            )
        });
        let told = join_all(writers).await;
        done.cancel();
        told
    };
    let (told, seen) = join(writing, listening).await;
    cancel.cancel();
    tracker.close();
    tracker.wait().await;
    let told: Vec<Told> = told.into_iter().flatten().collect();
    let landed = told.iter().filter(|told| matches!(told.outcome, Outcome::Landed(_))).count();
    assert!(landed >= contention.rounds, "writers made progress: {landed} landed, {seen} seen");
    told
}

/// Follows the tail until the writers are done and the head is reached; returns how many events it saw.
async fn listen(
    tail: &Tail,
    log: &dyn EventLog,
    start: Position,
    done: &CancellationToken,
) -> usize {
    let mut reader = tail.reader(start);
    let mut expected = start;
    loop {
        let batch = tokio::select! {
            biased;
            batch = reader.next_batch(50) => batch,
            () = done.cancelled() => {
                let head = log.head().await.expect("head").position;
                if expected >= head {
                    break;
                }
                reader.next_batch(50).await
            }
        };
        for event in batch.expect("the log is there") {
            expected = expected.next();
            assert_eq!(event.position, expected, "the tail neither skips nor doubles");
        }
    }
    usize::try_from(expected.0 - start.0).unwrap_or(0)
}

/// One writer: sees the streams' versions only through conflicts and receipts, as a cache does.
async fn write(
    log: &dyn EventLog,
    streams: &[(Workspace, StreamId)],
    rounds: usize,
    mut dice: Dice,
) -> Vec<Told> {
    let mut told = Vec::with_capacity(rounds);
    for round in 0..rounds {
        let first = dice.below(streams.len());
        let second = (first + 1 + dice.below(streams.len() - 1)) % streams.len();
        let mut intent = writing(vec![write_to(log, streams[first], &mut dice).await]);
        match dice.below(3) {
            0 => intent.writes.push(write_to(log, streams[second], &mut dice).await),
            1 => {
                let stream = streams[second].1;
                let version = version(log, stream).await;
                intent.reads.push(StreamRead { stream, version });
            }
            _ => {}
        }
        if dice.below(2) == 0 {
            let scope = format!("contention:{}", intent.writes[0].stream);
            let key = format!("{round}:{}", dice.0);
            intent.key = Some(IdempotencyKey { scope, key, body_hash: [1; 32] });
        }
        told.push(send(log, intent).await);
    }
    told
}

async fn write_to(
    log: &dyn EventLog,
    (workspace, stream): (Workspace, StreamId),
    dice: &mut Dice,
) -> StreamWrite {
    let expected = version(log, stream).await;
    let events = (0..=dice.below(3)).map(|_| event("contended", "{}")).collect();
    StreamWrite { workspace, stream, category: "contention", expected, events }
}

async fn version(log: &dyn EventLog, stream: StreamId) -> StreamVersion {
    let mut version = StreamVersion::NEW;
    loop {
        // A reader may meet an outage that the test makes; it asks again.
        let Ok(page) = log.read_stream(stream, version, 1_000).await else { continue };
        match page.last() {
            Some(last) => version = last.version,
            None => return version,
        }
    }
}

async fn send(log: &dyn EventLog, intent: Intent) -> Told {
    let event_ids =
        intent.writes.iter().flat_map(|write| &write.events).map(|event| event.event_id).collect();
    let outcome = match log.append(intent).await {
        Ok(receipt) => Outcome::Landed(receipt),
        Err(AppendError::Conflict { .. }) => Outcome::Refused,
        Err(AppendError::Unavailable(_)) => Outcome::Unknown,
        Err(other) => panic!("contention does not explain: {other}"),
    };
    Told { event_ids, outcome }
}

/// Looks at every event of the log: positions, versions and workspace numbers are dense, time does not run backwards, what
/// was acknowledged is there exactly once and where its receipt says, what was refused is absent, and what is unknown is
/// absent or whole.
///
/// # Panics
/// When any of that is not so.
pub async fn verify_log(log: &dyn EventLog, told: &[Told]) {
    let mut places: HashMap<Uuid, Position> = HashMap::new();
    let mut versions: HashMap<StreamId, i64> = HashMap::new();
    let mut seqs: HashMap<Workspace, i64> = HashMap::new();
    let (mut at, mut recorded_at) = (Position::START, None);
    loop {
        let (events, upto) = log.read(at, 1_000, &Filter::default()).await.expect("read");
        if events.is_empty() {
            break;
        }
        for event in events {
            at = at.next();
            assert_eq!(event.position, at, "positions are dense");
            let version = versions.entry(event.stream).or_default();
            *version += 1;
            assert_eq!(event.version.0, *version, "versions are dense");
            let seq = seqs.entry(event.workspace).or_default();
            *seq += 1;
            assert_eq!(event.workspace_seq, *seq, "numbers of a workspace are dense");
            assert!(recorded_at <= Some(event.recorded_at), "time does not run backwards");
            recorded_at = Some(event.recorded_at);
            assert_eq!(places.insert(event.event_id, at), None, "an event is there once");
        }
        assert_eq!(at, upto);
    }
    assert_eq!(log.head().await.expect("head").position, at, "the head is the last event");
    let mut taken = HashSet::new();
    for Told { event_ids, outcome } in told {
        let found: Vec<Option<Position>> =
            event_ids.iter().map(|id| places.get(id).copied()).collect();
        match outcome {
            Outcome::Landed(receipt) => {
                let expected: Vec<_> = (receipt.first_position.0..=receipt.position.0)
                    .map(|position| Some(Position(position)))
                    .collect();
                assert_eq!(found, expected, "what was acknowledged is where its receipt says");
                assert!(taken.insert(receipt.first_position), "two receipts name one position");
            }
            Outcome::Refused => {
                assert!(found.iter().all(Option::is_none), "a refused intent left {found:?}")
            }
            Outcome::Unknown => assert!(
                found.iter().all(Option::is_none) || found.iter().all(Option::is_some),
                "an intent is there whole or not at all: {found:?}"
            ),
        }
    }
}
