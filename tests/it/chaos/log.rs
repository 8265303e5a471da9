//! Sixteen writers, a tail and two processes of projectors on one Postgres; all but the tail are killed again and again.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use ledgerline_domain::{event::DomainEvent as _, workflow::WorkflowEvent};
use ledgerline_projections::{self as projections, Model, rebuild::Progress};
use ledgerline_store::{
    EventLog, Filter, Intent, LogConfig, Position, PostgresLog, StreamId, StreamVersion,
    StreamWrite, Tail, Workspace,
};
use rand::{RngExt as _, rngs::StdRng, seq::SliceRandom as _};
use sqlx::{Executor as _, PgPool, postgres::PgPoolOptions};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::{
    PATIENCE, dice,
    writers::{self, Contended, Outcome, Told},
};
use crate::{
    projections::world::{created, human, new_event},
    support::{
        process::{OwnPostgres, Part},
        program::{MASTER_KEY, Program, command},
    },
};

/// Processes of four writers.
const PROCESSES: usize = 4;

/// Streams that they fight for.
const STREAMS: usize = 6;

/// How many events must be appended between two crashes: nothing that died may hold the others up.
const PROGRESS: i64 = 25;

#[derive(Clone, Copy, Debug)]
enum Crash {
    Writers,
    Postgres,
    Projectors,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_1_crashes_leave_a_dense_log_that_readers_neither_skip_nor_double() {
    let mut rng = dice();
    let postgres = OwnPostgres::start();
    let pool = pool(&postgres.url).await;
    let (tasks, over) = (TaskTracker::new(), CancellationToken::new());
    let log = PostgresLog::connect(pool.clone(), LogConfig::default(), &tasks, over.clone());
    let log = log.await.expect("a log");
    let streams = contended(&*log).await;
    let notes = tempfile::tempdir().expect("a folder");
    let tail = Tail::start(writers::shared(&log), &tasks, over.clone());
    let (seen, stop_listening) = (watch::Sender::new(Position::START), CancellationToken::new());
    let listening = tasks.spawn(listen(tail, seen.clone(), stop_listening.clone()));

    let mut started = 0_u64;
    let mut start_writers = |rng: &mut StdRng| {
        started += 1;
        let file = notes.path().join(started.to_string());
        writers::start(&postgres.url, &file, &streams, rng.random_range(1..1_000_000))
    };
    let mut of_writers: Vec<Part> = (0..PROCESSES).map(|_| start_writers(&mut rng)).collect();
    let mut projectors = vec![start_projectors(&postgres.url), start_projectors(&postgres.url)];

    let mut crashes =
        [vec![Crash::Writers; 6], vec![Crash::Postgres; 3], vec![Crash::Projectors; 2]].concat();
    crashes.shuffle(&mut rng);
    for crash in crashes {
        more_is_appended(&log).await;
        sleep(Duration::from_millis(rng.random_range(0..300))).await;
        match crash {
            Crash::Writers => {
                let victim = rng.random_range(0..of_writers.len());
                of_writers[victim].crash();
                of_writers[victim] = start_writers(&mut rng);
            }
            Crash::Postgres => postgres.crash(),
            Crash::Projectors => {
                projectors.remove(rng.random_range(0..projectors.len())).crash();
                projectors.push(start_projectors(&postgres.url));
            }
        }
    }
    more_is_appended(&log).await;
    of_writers.iter_mut().for_each(Part::crash);
    let head = end_of_writing(&pool, &log).await;

    let told = writers::all_told(notes.path());
    verify(&*log, head, &told).await;
    timeout(PATIENCE, seen.subscribe().wait_for(|seen| *seen == head))
        .await
        .expect("the tail reaches the head")
        .expect("it listens");
    stop_listening.cancel();
    listening.await.expect("the tail neither skipped nor doubled");
    projectors_reach(&log, head, &projectors).await;
    assert_rebuilds_give_the_same(&pool, &log).await;
    drop((of_writers, projectors));
    over.cancel();
    tasks.close();
    tasks.wait().await;
}

async fn pool(url: &str) -> PgPool {
    let options = projections::with_search_path(url.parse().expect("a URL"));
    let pool = PgPoolOptions::new().max_connections(8).connect_with(options);
    let pool = pool.await.expect("Postgres answers");
    ledgerline_store::migrate(&pool).await.expect("an empty database can be migrated");
    projections::prepare(&pool).await.expect("the schemas are made");
    pool
}

/// The streams, each with its first event.
async fn contended(log: &dyn EventLog) -> Vec<Contended> {
    let workspaces = [Uuid::now_v7(), Uuid::now_v7()];
    let mut streams = Vec::new();
    for n in 0..STREAMS {
        let (workspace, stream) = (workspaces[n % workspaces.len()], Uuid::now_v7());
        let event = created(workspace, &format!("Flow {n}"), &["chaos"]);
        let by = human(Uuid::now_v7());
        let event = new_event(event.type_name(), event.schema_version(), event.payload(), &by);
        let write = StreamWrite {
            workspace: Workspace(workspace),
            stream: StreamId(stream),
            category: WorkflowEvent::CATEGORY,
            expected: StreamVersion::NEW,
            events: vec![event],
        };
        let intent = Intent { writes: vec![write], ..Intent::default() };
        log.append(intent).await.expect("nothing is killed yet");
        streams.push(Contended { workspace, stream });
    }
    streams
}

/// The real program, as far as it keeps the read tables.
fn start_projectors(url: &str) -> Program {
    let mut command = command(&["serve", "--roles", "projector", "--listen", "127.0.0.1:0"]);
    command.env("DATABASE_URL", url).env("LEDGERLINE_MASTER_KEY", MASTER_KEY);
    Program::start(command)
}

/// Follows the tail from the first event on, whatever happens to Postgres.
async fn listen(tail: Arc<Tail>, seen: watch::Sender<Position>, stop: CancellationToken) {
    let mut reader = tail.reader(Position::START);
    let mut at = Position::START;
    while let Some(batch) = stop.run_until_cancelled(reader.next_batch(100)).await {
        let Ok(batch) = batch else {
            // Postgres is being started again: a reader stays where it is and asks again.
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        for event in batch {
            assert_eq!(event.position, at.next(), "the tail neither skips nor doubles");
            at = event.position;
        }
        seen.send_replace(at);
    }
}

/// Waits until the writers have got on.
async fn more_is_appended(log: &PostgresLog) {
    let until = Instant::now() + PATIENCE;
    let mut goal = None;
    loop {
        if let Ok(head) = log.head().await {
            let goal = *goal.get_or_insert(head.position.0 + PROGRESS);
            if head.position.0 >= goal {
                return;
            }
        }
        assert!(Instant::now() < until, "nothing is appended any more");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until nothing of the killed writers is left in Postgres that could still commit; then the head stays.
async fn end_of_writing(pool: &PgPool, log: &PostgresLog) -> Position {
    let until = Instant::now() + PATIENCE;
    loop {
        // The session of a killed writer still does what was sent to it; whoever else has such a session does not append here.
        let statement = "SELECT pid FROM pg_stat_activity WHERE application_name = 'ledgerline-appender'
                          AND (state <> 'idle' OR state_change > clock_timestamp() - interval '1 s')";
        if let (Ok(active), Ok(head)) = (pool.fetch_all(statement).await, log.head().await)
            && active.is_empty()
        {
            return head.position;
        }
        assert!(Instant::now() < until, "a killed writer still writes");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Looks at every event, and at everything that a writer was told.
async fn verify(log: &dyn EventLog, head: Position, told: &[Told]) {
    let mut places: HashMap<Uuid, Position> = HashMap::new();
    let (mut versions, mut numbers) = (HashMap::new(), HashMap::new());
    let (mut at, mut recorded_at) = (Position::START, None);
    while at < head {
        let (events, upto) = log.read(at, 1_000, &Filter::default()).await.expect("readable");
        for event in events {
            at = at.next();
            assert_eq!(event.position, at, "positions are dense");
            let version = versions.entry(event.stream).or_insert(0);
            *version += 1;
            assert_eq!(event.version.0, *version, "versions are dense");
            let number = numbers.entry(event.workspace).or_insert(0);
            *number += 1;
            assert_eq!(event.workspace_seq, *number, "numbers of a workspace are dense");
            assert!(recorded_at <= Some(event.recorded_at), "time does not run backwards");
            recorded_at = Some(event.recorded_at);
            assert_eq!(places.insert(event.event_id, at), None, "an event is there once");
        }
        assert_eq!(at, upto);
    }
    assert_eq!((at, log.head().await.expect("a head").position), (head, head));
    let mut counts = (0, 0, 0);
    let mut accounted = HashSet::new();
    for Told { event_ids, outcome } in told {
        let found: Vec<Position> =
            event_ids.iter().filter_map(|id| places.get(id).copied()).collect();
        match *outcome {
            Outcome::Landed { first, last } => {
                counts.0 += 1;
                let named: Vec<Position> = (first.0..=last.0).map(Position).collect();
                assert_eq!(found, named, "what was acknowledged is where its receipt says");
            }
            Outcome::Refused => {
                counts.1 += 1;
                assert_eq!(found, [], "what was refused is absent");
            }
            Outcome::Unknown => {
                counts.2 += 1;
                assert!(
                    found.is_empty() || found.len() == event_ids.len(),
                    "whole or absent: {found:?}"
                );
                assert!(
                    found.windows(2).all(|pair| pair[1] == pair[0].next()),
                    "in one piece: {found:?}"
                );
            }
        }
        accounted.extend(found);
    }
    let written = usize::try_from(head.0).expect("it fits") - STREAMS;
    assert_eq!(accounted.len(), written, "nothing is there that nobody sent");
    let (landed, refused, unknown) = counts;
    println!(
        "{head} events; {landed} intents landed, {refused} were refused, {unknown} stayed unknown"
    );
    assert!(
        landed > 50 && refused > 10 && unknown > 0,
        "{landed} landed, {refused} refused, {unknown} unknown"
    );
}

async fn projectors_reach(log: &PostgresLog, head: Position, projectors: &[Program]) {
    let until = Instant::now() + PATIENCE;
    for model in Model::ALL {
        while log.checkpoint(&model.reader()).await.expect("readable") < head {
            let said = || projectors.iter().map(Program::said).collect::<Vec<_>>().join("\n");
            assert!(Instant::now() < until, "{model:?} does not reach {head}: {}", said());
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The rows that the crashed projectors and their successors have written are those of a rebuild, which was never disturbed.
async fn assert_rebuilds_give_the_same(pool: &PgPool, log: &Arc<PostgresLog>) {
    let log = writers::shared(log);
    for model in Model::ALL {
        let (progress, _) = watch::channel(Progress::default());
        let never = CancellationToken::new();
        let rebuilt = projections::rebuild(pool, &log, *model, "test", &progress, &never).await;
        rebuilt.expect("the rebuild succeeds");
        let differences = projections::compare(pool, &model.old_schema(), &model.schema(), 3).await;
        assert_eq!(differences.expect("readable"), [], "{model:?}");
    }
}

/// Where the notes are is no part of what they say.
#[test]
fn a_torn_last_note_is_as_if_it_had_not_been_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let (first, second) = (Uuid::now_v7(), Uuid::now_v7());
    let notes = format!("sent 0 {first}\nlanded 0 7 7\nsent 1 {second}\nlanded 1 ");
    std::fs::write(folder.path().join("1"), notes).expect("writable");
    let mut outcomes: Vec<_> =
        writers::all_told(Path::new(folder.path())).into_iter().map(|told| told.outcome).collect();
    outcomes.sort_by_key(|outcome| *outcome == Outcome::Unknown);
    let landed = Outcome::Landed { first: Position(7), last: Position(7) };
    assert_eq!(outcomes, [landed, Outcome::Unknown]);
}
