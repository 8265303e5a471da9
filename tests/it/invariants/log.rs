//! What the log promises to commands: versions, guarded reads, all or none, keys; and that what is in it stays.

use std::sync::Arc;

use futures_util::future::join_all;
use ledgerline_store::{
    AppendError, EventLog, Filter, IdempotencyKey, Intent, LogConfig, NewEvent, Position,
    PostgresLog, Receipt, StreamId, StreamRead, StreamVersion, StreamWrite, Tail, Workspace,
};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::support::{
    services::{self, TestDatabase},
    streams::within,
};

/// One database and the logs of two processes on it.
struct Two {
    logs: [Arc<PostgresLog>; 2],
    tasks: TaskTracker,
    over: CancellationToken,
    database: TestDatabase,
}

impl Two {
    async fn start() -> Self {
        let (tasks, over) = (TaskTracker::new(), CancellationToken::new());
        let database = services::database().await;
        let log = async || {
            let pool = database.pool().await;
            PostgresLog::connect(pool, LogConfig::default(), &tasks, over.clone())
                .await
                .expect("a log")
        };
        Self { logs: [log().await, log().await], tasks, over, database }
    }

    /// Where the log ends, read and not remembered.
    async fn head(&self) -> i64 {
        self.logs[0].head().await.expect("readable").position.0
    }

    async fn stop(self) {
        self.over.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn stream() -> StreamId {
    StreamId(Uuid::now_v7())
}

fn write(stream: StreamId, expected: i64, count: usize) -> StreamWrite {
    let event = || NewEvent {
        event_id: Uuid::now_v7(),
        r#type: "workflow_published",
        schema_version: 1,
        payload: r#"{"version":1}"#.to_owned(),
        metadata: "{}".to_owned(),
    };
    StreamWrite {
        workspace: Workspace::NIL,
        stream,
        category: "workflow",
        expected: StreamVersion(expected),
        events: (0..count).map(|_| event()).collect(),
    }
}

fn writing(writes: Vec<StreamWrite>) -> Intent {
    Intent { writes, ..Intent::default() }
}

fn resting_on(write: StreamWrite, stream: StreamId, version: i64) -> Intent {
    let read = StreamRead { stream, version: StreamVersion(version) };
    Intent { writes: vec![write], reads: vec![read], ..Intent::default() }
}

/// How many were accepted; the others must have been conflicts.
fn winners(answers: &[Result<Receipt, AppendError>]) -> usize {
    for answer in answers {
        assert!(matches!(answer, Ok(_) | Err(AppendError::Conflict { .. })), "{answer:?}");
    }
    answers.iter().filter(|answer| answer.is_ok()).count()
}

/// A position is never given out before what is below it can be seen: a reader looks at the log while two processes write it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_1_whoever_has_seen_a_position_has_seen_all_below_it() {
    let two = Two::start().await;
    let tail = Tail::start(two.logs[1].clone(), &two.tasks, two.over.clone());
    let mut reader = tail.reader(Position::START);
    let last = Position(400);
    let reading = async {
        let mut at = Position::START;
        while at < last {
            let (events, _) = two.logs[0].read(at, 50, &Filter::default()).await.expect("readable");
            for event in events {
                assert_eq!(event.position, at.next());
                at = event.position;
            }
        }
    };
    let listening = async {
        let mut at = Position::START;
        while at < last {
            for event in within(reader.next_batch(50)).await.expect("readable") {
                assert_eq!(event.position, at.next());
                at = event.position;
            }
        }
    };
    let appending = join_all((0..200).map(|n| {
        let log = &two.logs[n % 2];
        async move { log.append(writing(vec![write(stream(), 0, 2)])).await }
    }));
    let (answers, (), ()) = tokio::join!(appending, within(reading), within(listening));
    assert_eq!((winners(&answers), two.head().await), (200, last.0));
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_2_two_writers_never_both_succeed_at_one_version() {
    let two = Two::start().await;
    let contended = stream();
    for version in 0..20 {
        let answers = join_all((0..8).map(|n| {
            let log = &two.logs[n % 2];
            async move { log.append(writing(vec![write(contended, version, 1)])).await }
        }));
        assert_eq!(winners(&answers.await), 1, "at version {version}");
    }
    let events =
        two.logs[0].read_stream(contended, StreamVersion::NEW, 100).await.expect("readable");
    let versions: Vec<i64> = events.iter().map(|event| event.version.0).collect();
    assert_eq!(versions, (1..=20).collect::<Vec<i64>>());
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_2_a_command_fails_when_what_it_rested_on_has_moved() {
    let two = Two::start().await;
    let [here, there] = &two.logs;
    let (membership, workflow) = (stream(), stream());
    here.append(writing(vec![write(membership, 0, 1)])).await.expect("free");
    // The member is taken out by another process after the role was read here.
    there.append(writing(vec![write(membership, 1, 1)])).await.expect("free");
    let head = two.head().await;
    let refused = here.append(resting_on(write(workflow, 0, 1), membership, 1)).await;
    assert!(
        matches!(&refused, Err(AppendError::Conflict { stream, .. }) if *stream == membership),
        "{refused:?}"
    );
    assert_eq!(two.head().await, head, "nothing of it was appended");
    here.append(resting_on(write(workflow, 0, 1), membership, 2))
        .await
        .expect("it is as it was read");
    two.stop().await;
}

/// Each of two commands rests on what the other writes. With one after the other, the second would be refused; at once, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_2_of_two_that_rest_on_each_other_one_lands() {
    let two = Two::start().await;
    for round in 0..30 {
        let (a, b) = (stream(), stream());
        let (first, second) = tokio::join!(
            two.logs[0].append(resting_on(write(a, 0, 1), b, 0)),
            two.logs[1].append(resting_on(write(b, 0, 1), a, 0)),
        );
        assert_eq!(winners(&[first, second]), 1, "round {round}");
        // And within one process, where both may be in one batch.
        let (a, b) = (stream(), stream());
        let (first, second) = tokio::join!(
            two.logs[0].append(resting_on(write(a, 0, 1), b, 0)),
            two.logs[0].append(resting_on(write(b, 0, 1), a, 0)),
        );
        assert_eq!(winners(&[first, second]), 1, "round {round} in one process");
    }
    two.stop().await;
}

#[tokio::test]
async fn invariant_3_nobody_changes_or_removes_an_event() {
    let two = Two::start().await;
    two.logs[0].append(writing(vec![write(stream(), 0, 3)])).await.expect("free");
    let mut owner = PgConnection::connect_with(&two.database.options()).await.expect("it answers");
    let before = rows(&mut owner).await;
    for statement in [
        "UPDATE events SET payload = '{}'",
        "UPDATE events SET recorded_at = now() WHERE position = 1",
        "DELETE FROM events WHERE position = 3",
        "TRUNCATE events",
        "TRUNCATE events CASCADE",
        "MERGE INTO events USING (VALUES (1)) AS v (n) ON position = v.n WHEN MATCHED THEN DELETE",
        "INSERT INTO events SELECT * FROM events WHERE position = 1
             ON CONFLICT (position) DO UPDATE SET payload = '{}'",
        "WITH gone AS (DELETE FROM events RETURNING 1) SELECT count(*) FROM gone",
    ] {
        let refused = owner.execute(statement).await.expect_err(statement);
        let code = refused.as_database_error().and_then(|error| error.code());
        assert_eq!(code.as_deref(), Some("23001"), "{statement}: {refused}");
    }
    assert_eq!(rows(&mut owner).await, before);
    two.stop().await;
}

/// A role that serves needs INSERT and SELECT of `events`, and with these it can't even try.
#[tokio::test]
async fn invariant_3_a_role_that_serves_has_no_right_to_change_events() {
    let two = Two::start().await;
    two.logs[0].append(writing(vec![write(stream(), 0, 1)])).await.expect("free");
    let mut owner = PgConnection::connect_with(&two.database.options()).await.expect("it answers");
    // A role of the transaction alone: it goes with it.
    let role = format!("serving_{}", Uuid::now_v7().simple());
    for statement in [
        "BEGIN".to_owned(),
        format!("CREATE ROLE {role} NOLOGIN"),
        format!("GRANT SELECT, INSERT ON events TO {role}"),
        format!("SET LOCAL ROLE {role}"),
        "SELECT count(*) FROM events".to_owned(),
    ] {
        owner.execute(AssertSqlSafe(statement)).await.expect("the owner may");
    }
    for statement in [
        "UPDATE events SET payload = '{}'",
        "DELETE FROM events",
        "TRUNCATE events",
        "ALTER TABLE events DISABLE TRIGGER ALL",
        "DROP TABLE events",
    ] {
        let attempt = format!("SAVEPOINT before; {statement}");
        let refused = owner.execute(AssertSqlSafe(attempt)).await.expect_err(statement);
        let code = refused.as_database_error().and_then(|error| error.code());
        assert_eq!(code.as_deref(), Some("42501"), "{statement}: {refused}");
        owner.execute("ROLLBACK TO SAVEPOINT before").await.expect("it was made");
    }
    owner.execute("ROLLBACK").await.expect("the role goes");
    two.stop().await;
}

/// Everything that a row says, as text.
async fn rows(connection: &mut PgConnection) -> Vec<String> {
    let rows =
        connection.fetch_all("SELECT events::text AS row FROM events ORDER BY position").await;
    rows.expect("readable").iter().map(|row| sqlx::Row::get(row, "row")).collect()
}

#[tokio::test]
async fn invariant_4_all_events_of_a_command_are_appended_or_none() {
    let two = Two::start().await;
    let [log, _] = &two.logs;
    let streams = [stream(), stream(), stream()];
    let whole = streams.map(|stream| write(stream, 0, 2)).to_vec();
    let receipt = log.append(writing(whole)).await.expect("all are free");
    assert_eq!((receipt.first_position, receipt.position), (Position(1), Position(6)));
    // Whichever of its streams has moved, and whatever else is in the same batch.
    for moved in 0..streams.len() {
        let mut writes = streams.map(|stream| write(stream, 2, 1)).to_vec();
        writes[moved].expected = StreamVersion(1);
        let head = two.head().await;
        let (refused, neighbour) = tokio::join!(
            log.append(writing(writes)),
            log.append(writing(vec![write(stream(), 0, 1)]))
        );
        assert!(matches!(refused, Err(AppendError::Conflict { .. })), "{refused:?}");
        assert_eq!(neighbour.expect("it has nothing to do with that").position.0, head + 1);
    }
    for stream in streams {
        let events = log.read_stream(stream, StreamVersion::NEW, 10).await.expect("readable");
        assert_eq!(events.len(), 2, "nothing of a refused command is there");
    }
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_5_the_same_key_gets_the_first_receipt_and_appends_nothing() {
    let two = Two::start().await;
    let (wanted, scope) = (stream(), Uuid::now_v7().to_string());
    let key = IdempotencyKey { scope, key: "once".to_owned(), body_hash: [1; 32] };
    // A client that repeats itself to both processes at once. Each try has events of its own.
    let answers = join_all((0..12).map(|n| {
        let intent = Intent { key: Some(key.clone()), ..writing(vec![write(wanted, 0, 2)]) };
        let log = &two.logs[n % 2];
        async move { log.append(intent).await.expect("the first receipt") }
    }))
    .await;
    assert_eq!(answers.iter().filter(|receipt| !receipt.repeated).count(), 1);
    let told =
        |receipt: &Receipt| (receipt.first_position, receipt.position, receipt.versions.clone());
    assert!(answers.iter().all(|receipt| told(receipt) == told(&answers[0])), "{answers:?}");
    assert_eq!(two.head().await, 2);
    // Also later, when the stream has moved on.
    two.logs[0].append(writing(vec![write(wanted, 2, 1)])).await.expect("free");
    let again = Intent { key: Some(key.clone()), ..writing(vec![write(wanted, 0, 2)]) };
    let again = two.logs[1].append(again).await.expect("the first receipt");
    assert!(again.repeated && told(&again) == told(&answers[0]), "{again:?}");
    let other_body = IdempotencyKey { body_hash: [2; 32], ..key };
    let other = Intent { key: Some(other_body), ..writing(vec![write(stream(), 0, 1)]) };
    let refused = two.logs[0].append(other).await;
    assert!(matches!(refused, Err(AppendError::KeyReused)), "{refused:?}");
    assert_eq!(two.head().await, 3);
    two.stop().await;
}
