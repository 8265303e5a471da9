//! Several writers in one process, which note in a file what they send before they send it, and what they are told.
//!
//! What a killed process has written is in the file all the same; only its last line may be torn.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::Write as _,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use ledgerline_domain::{
    event::DomainEvent as _,
    workflow::{DraftSaved, WorkflowEvent, WorkflowPublished, WorkflowVersion},
};
use ledgerline_store::{
    AppendError, EventLog, IdempotencyKey, Intent, LogConfig, NewEvent, Position, PostgresLog,
    Receipt, StreamId, StreamRead, StreamVersion, StreamWrite, Workspace,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::{
    projections::world::{draft, human, new_event},
    support::process::{Part, ready},
};

/// Writers of one process.
const WRITERS: u64 = 4;

/// A stream that the writers fight for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contended {
    pub(crate) workspace: Uuid,
    pub(crate) stream: Uuid,
}

/// Starts a process of writers. What it sends and is told goes to the file.
pub(super) fn start(url: &str, file: &Path, streams: &[Contended], seed: u64) -> Part {
    let streams: Vec<Value> =
        streams.iter().map(|contended| json!([contended.workspace, contended.stream])).collect();
    let part =
        json!({ "part": "writers", "url": url, "file": file, "streams": streams, "seed": seed });
    Part::start(&part)
}

/// The life of a process of writers: until it is killed.
pub(crate) async fn run(part: &Value) {
    let id = |value: &Value| value.as_str().unwrap().parse::<Uuid>().unwrap();
    let streams: Vec<Contended> = part["streams"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| Contended { workspace: id(&pair[0]), stream: id(&pair[1]) })
        .collect();
    let file =
        OpenOptions::new().create_new(true).append(true).open(part["file"].as_str().unwrap());
    let notes = Notes { file: Mutex::new(file.unwrap()), count: AtomicU64::new(0) };
    let options: PgConnectOptions = part["url"].as_str().unwrap().parse().unwrap();
    let pool = PgPoolOptions::new().max_connections(4).connect_lazy_with(options);
    let (tasks, never) = (TaskTracker::new(), CancellationToken::new());
    let config = LogConfig { retry_deadline: Duration::from_secs(3), ..LogConfig::default() };
    let log = loop {
        // Postgres may be down just now.
        match PostgresLog::connect(pool.clone(), config.clone(), &tasks, never.clone()).await {
            Ok(log) => break log,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    ready("");
    let seed = part["seed"].as_u64().unwrap();
    join_all(
        (0..WRITERS)
            .map(|n| write(&*log, &streams, &notes, StdRng::seed_from_u64(seed * WRITERS + n))),
    )
    .await;
}

struct Notes {
    file: Mutex<File>,
    count: AtomicU64,
}

impl Notes {
    fn sending(&self, intent: &Intent) -> u64 {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let ids: Vec<String> = intent
            .writes
            .iter()
            .flat_map(|write| &write.events)
            .map(|event| event.event_id.to_string())
            .collect();
        self.line(&format!("sent {number} {}", ids.join(",")));
        number
    }

    fn line(&self, line: &str) {
        self.file.lock().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

/// One writer: learns the streams' versions from conflicts and receipts alone, as a cache does.
async fn write(log: &dyn EventLog, streams: &[Contended], notes: &Notes, mut rng: StdRng) -> ! {
    let mut known: HashMap<Uuid, StreamVersion> = HashMap::new();
    loop {
        let intent = intent(streams, &known, &mut rng);
        let number = notes.sending(&intent);
        let touched: Vec<StreamId> = intent
            .writes
            .iter()
            .map(|write| write.stream)
            .chain(intent.reads.iter().map(|read| read.stream))
            .collect();
        let mut answer = log.append(intent.clone()).await;
        if matches!(answer, Err(AppendError::Unavailable(_))) && intent.key.is_some() {
            // As a client would: the same request under the same key, until there is an answer or this process is killed.
            notes.line(&format!("unknown {number}"));
            answer = log.append(intent).await;
        }
        match answer {
            Ok(Receipt { first_position, position, versions, .. }) => {
                notes.line(&format!("landed {number} {first_position} {position}"));
                known.extend(versions.into_iter().map(|(stream, version)| (stream.0, version)));
            }
            Err(AppendError::Conflict { .. }) => {
                notes.line(&format!("refused {number}"));
                for stream in touched {
                    look(log, stream, &mut known).await;
                }
            }
            Err(AppendError::Unavailable(_)) => notes.line(&format!("unknown {number}")),
            Err(other) => panic!("crashes and conflicts do not explain: {other}"),
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..60))).await;
    }
}

fn intent(streams: &[Contended], known: &HashMap<Uuid, StreamVersion>, rng: &mut StdRng) -> Intent {
    let version = |of: &Contended| known.get(&of.stream).copied().unwrap_or(StreamVersion(1));
    let first = rng.random_range(0..streams.len());
    let second = &streams[(first + rng.random_range(1..streams.len())) % streams.len()];
    let first = &streams[first];
    let mut intent =
        Intent { writes: vec![writing(first, version(first), rng)], ..Intent::default() };
    match rng.random_range(0..3) {
        0 => intent.writes.push(writing(second, version(second), rng)),
        1 => {
            let version = version(second);
            intent.reads.push(StreamRead { stream: StreamId(second.stream), version });
        }
        _ => {}
    }
    if rng.random_bool(0.5) {
        let scope = format!("chaos:{}", first.stream);
        intent.key =
            Some(IdempotencyKey { scope, key: Uuid::now_v7().to_string(), body_hash: [1; 32] });
    }
    intent
}

fn writing(to: &Contended, expected: StreamVersion, rng: &mut StdRng) -> StreamWrite {
    let events = (0..rng.random_range(1..=3)).map(|_| event(rng)).collect();
    StreamWrite {
        workspace: Workspace(to.workspace),
        stream: StreamId(to.stream),
        category: WorkflowEvent::CATEGORY,
        expected,
        events,
    }
}

fn event(rng: &mut StdRng) -> NewEvent {
    let version = WorkflowVersion(rng.random_range(1..1_000));
    let event: WorkflowEvent = if rng.random_bool(0.5) {
        DraftSaved { version, draft: draft(&format!("Draft {}", version.0), &["chaos"]) }.into()
    } else {
        WorkflowPublished { version }.into()
    };
    new_event(event.type_name(), event.schema_version(), event.payload(), &human(Uuid::nil()))
}

/// Reads on from the version that is known.
async fn look(log: &dyn EventLog, stream: StreamId, known: &mut HashMap<Uuid, StreamVersion>) {
    let version = known.entry(stream.0).or_insert(StreamVersion(1));
    // When the database is away the next append finds out.
    while let Ok(page) = log.read_stream(stream, *version, 1_000).await {
        match page.last() {
            Some(last) => *version = last.version,
            None => return,
        }
    }
}

/// What became of an intent, as far as its writer knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Landed {
        first: Position,
        last: Position,
    },
    Refused,
    /// The writer was killed, or the log could not say.
    Unknown,
}

/// What one intent was to append, and what its writer was told.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) event_ids: Vec<Uuid>,
    pub(super) outcome: Outcome,
}

/// Reads what a process of writers has noted.
pub(super) fn told(file: &Path) -> Vec<Told> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut told: HashMap<&str, Told> = HashMap::new();
    for line in whole.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let position = |word: &str| Position(word.parse().unwrap());
        let outcome = match words.as_slice() {
            ["sent", number, ids] => {
                let event_ids = ids.split(',').map(|id| id.parse().unwrap()).collect();
                told.insert(number, Told { event_ids, outcome: Outcome::Unknown });
                continue;
            }
            ["landed", _, first, last] => {
                Outcome::Landed { first: position(first), last: position(last) }
            }
            ["refused", _] => Outcome::Refused,
            ["unknown", _] => Outcome::Unknown,
            _ => panic!("not a note: {line}"),
        };
        told.get_mut(words[1]).expect("an answer comes after its question").outcome = outcome;
    }
    told.into_values().collect()
}

/// Which notes there are of all processes.
pub(super) fn all_told(folder: &Path) -> Vec<Told> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.flat_map(|file| told(&file)).collect()
}

/// The log of a test on a database.
pub(super) fn shared(log: &Arc<PostgresLog>) -> Arc<dyn EventLog> {
    Arc::clone(log) as Arc<dyn EventLog>
}
