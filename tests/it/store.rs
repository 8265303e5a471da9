//! The log on a real Postgres: the conformance suite, and what only a real database can do to it.

#![expect(clippy::disallowed_methods, reason = "a test's tasks end with its runtime")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use futures_util::future::join_all;
use ledgerline_store::conformance::{Contention, contend, everything, verify_log};
use ledgerline_store::{
    AppendError, EventLog, Filter, Intent, LogConfig, LogLevel, LogLine, NewEvent, Position,
    PostgresLog, StoreError, StreamId, StreamVersion, StreamWrite, Workspace, advance_in,
};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::support::services;

/// A log with the tasks that serve it.
struct Running {
    log: Arc<PostgresLog>,
    tracker: TaskTracker,
    cancel: CancellationToken,
}

impl Running {
    async fn start(pool: PgPool, config: LogConfig) -> Self {
        let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
        let log =
            PostgresLog::connect(pool, config, &tracker, cancel.clone()).await.expect("a log");
        Self { log, tracker, cancel }
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

fn one_event(stream: StreamId, expected: i64) -> Intent {
    Intent {
        writes: vec![StreamWrite {
            workspace: Workspace::NIL,
            stream,
            category: "execution",
            expected: StreamVersion(expected),
            events: vec![NewEvent {
                event_id: Uuid::now_v7(),
                r#type: "execution_requested",
                schema_version: 1,
                payload: "{}".to_owned(),
                metadata: "{}".to_owned(),
            }],
        }],
        ..Intent::default()
    }
}

fn new_stream() -> StreamId {
    StreamId(Uuid::now_v7())
}

async fn versions(log: &PostgresLog, stream: StreamId) -> usize {
    log.read_stream(stream, StreamVersion::NEW, 100).await.expect("read").len()
}

#[tokio::test]
async fn conforms() {
    let database = services::database().await;
    let running = Running::start(database.pool().await, LogConfig::default()).await;
    everything(Arc::clone(&running.log) as Arc<dyn EventLog>).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_1_two_appenders_keep_one_order() {
    let database = services::database().await;
    let one = Running::start(database.pool().await, LogConfig::default()).await;
    let other = Running::start(database.pool().await, LogConfig::default()).await;
    let logs: Vec<Arc<dyn EventLog>> = vec![one.log.clone(), other.log.clone()];
    let contention = Contention { writers: 16, rounds: 60, streams: 8, seed: 11 };
    let told = contend(logs, contention).await;
    verify_log(&*one.log, &told).await;
    one.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_1_killed_connections_lose_and_double_nothing() {
    let database = services::database().await;
    let running = Running::start(database.pool().await, LogConfig::default()).await;
    let killer_pool = database.pool().await;
    let done = CancellationToken::new();
    let killing = {
        let done = done.clone();
        async move {
            let mut killed = 0;
            while !done.is_cancelled() {
                killed += terminate_appenders(&killer_pool).await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            killed
        }
    };
    let killer = tokio::spawn(killing);
    let contention = Contention { writers: 16, rounds: 120, streams: 8, seed: 5 };
    let told = contend(vec![running.log.clone()], contention).await;
    done.cancel();
    let killed = killer.await.expect("the killer does not panic");
    assert!(killed >= 3, "the appender was killed only {killed} times");
    assert!(told.iter().all(|told| !told.is_unknown()), "every outcome is found out in time");
    verify_log(&*running.log, &told).await;
    running.stop().await;
}

/// Kills the append sessions of this database; returns how many there were.
async fn terminate_appenders(pool: &PgPool) -> usize {
    let statement = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                      WHERE application_name = 'ledgerline-appender' AND datname = current_database()";
    pool.fetch_all(statement).await.expect("another session may be killed").len()
}

/// The commit happens and its reply is swallowed: the appender must find out that it landed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_reply_is_resolved() {
    let database = services::database().await;
    let armed = Arc::new(AtomicBool::new(false));
    let address = proxy(database.options(), Arc::clone(&armed)).await;
    let through_proxy = database.options().host(&address.ip().to_string()).port(address.port());
    let pool = PgPoolOptions::new().connect_with(through_proxy).await.expect("through the proxy");
    let running = Running::start(pool, LogConfig::default()).await;
    let stream = new_stream();
    running.log.append(one_event(stream, 0)).await.expect("a quiet append");

    for expected in 1..4 {
        armed.store(true, Ordering::SeqCst);
        let receipt = running.log.append(one_event(stream, expected)).await.expect("it landed");
        assert!(!armed.load(Ordering::SeqCst), "the reply was swallowed");
        assert_eq!(receipt.versions, [(stream, StreamVersion(expected + 1))]);
        assert_eq!(receipt.position, Position(expected + 1));
        assert!(!receipt.repeated);
    }
    // And a conflict stays a conflict when its reply is lost.
    armed.store(true, Ordering::SeqCst);
    let refused = running.log.append(one_event(stream, 1)).await;
    assert!(matches!(refused, Err(AppendError::Conflict { .. })), "{refused:?}");
    assert_eq!(versions(&running.log, stream).await, 4);
    running.stop().await;
}

/// Stands between client and Postgres. When armed, the next answer to an append session is swallowed and the connection cut.
async fn proxy(options: PgConnectOptions, armed: Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    let target = (options.get_host().to_owned(), options.get_port());
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect((target.0.as_str(), target.1)).await;
            tokio::spawn(relay(client, server.expect("postgres listens"), Arc::clone(&armed)));
        }
    });
    address
}

async fn relay(mut client: TcpStream, mut server: TcpStream, armed: Arc<AtomicBool>) {
    let (mut from_client, mut from_server) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let mut of_appender = false;
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => match read {
                Ok(n @ 1..) => {
                    let sent = &from_client[..n];
                    of_appender |= sent.windows(19).any(|part| part == b"ledgerline-appender");
                    if server.write_all(sent).await.is_err() { return }
                }
                _ => return,
            },
            read = server.read(&mut from_server) => match read {
                Ok(n @ 1..) => {
                    if of_appender && armed.swap(false, Ordering::SeqCst) { return }
                    if client.write_all(&from_server[..n]).await.is_err() { return }
                }
                _ => return,
            },
        }
    }
}

/// The flush hangs behind a lock that somebody holds: the appender gives its session up, and whatever of it still runs must
/// not append beside the second try.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_that_hangs_is_not_done_twice() {
    let database = services::database().await;
    let config = LogConfig { flush_timeout: Duration::from_millis(150), ..LogConfig::default() };
    let running = Running::start(database.pool().await, config).await;
    let mut blocker = hold_append_lock(database.options()).await;
    let stream = new_stream();
    let log = running.log.clone();
    let appended = tokio::spawn(async move { log.append(one_event(stream, 0)).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    blocker.execute("COMMIT").await.expect("the lock is let go");
    let receipt = appended.await.expect("no panic").expect("it lands once the lock is free");
    assert_eq!(receipt.position, Position(1));
    assert_eq!(versions(&running.log, stream).await, 1);
    assert_eq!(running.log.head().await.expect("head").position, Position(1));
    running.stop().await;
}

async fn hold_append_lock(options: PgConnectOptions) -> PgConnection {
    let mut connection = PgConnection::connect_with(&options).await.expect("a session");
    connection
        .execute("BEGIN; SELECT pg_advisory_xact_lock(append_lock_key())")
        .await
        .expect("nobody appends now");
    connection
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_intake_refuses_and_a_stop_flushes_the_rest() {
    let database = services::database().await;
    let config = LogConfig { max_waiting: 8, ..LogConfig::default() };
    let running = Running::start(database.pool().await, config).await;
    let mut blocker = hold_append_lock(database.options()).await;
    let appends = (0..40).map(|_| {
        let log = running.log.clone();
        tokio::spawn(async move { log.append(one_event(new_stream(), 0)).await })
    });
    let appends: Vec<_> = appends.collect();
    let Running { log, tracker, cancel } = running;
    // All have been taken in or refused when as many are done as can't have a place.
    while appends.iter().filter(|append| append.is_finished()).count() < 24 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cancel.cancel();
    blocker.execute("COMMIT").await.expect("the lock is let go");
    tracker.close();
    tracker.wait().await;
    let answers: Vec<_> =
        join_all(appends).await.into_iter().map(|answer| answer.expect("no panic")).collect();
    let landed = answers.iter().filter(|answer| answer.is_ok()).count();
    let refused =
        answers.iter().filter(|answer| matches!(answer, Err(AppendError::Overloaded))).count();
    assert!(landed >= 6 && refused >= 24, "{landed} landed, {refused} refused");
    assert_eq!(landed + refused, answers.len(), "what was taken in was flushed");
    let head = log.head().await.expect("head").position;
    assert_eq!(usize::try_from(head.0), Ok(landed));
    let late = log.append(one_event(new_stream(), 0)).await;
    assert!(matches!(late, Err(AppendError::Unavailable(_))), "{late:?}");
}

#[tokio::test]
async fn events_are_never_changed() {
    let database = services::database().await;
    let pool = database.pool().await;
    let running = Running::start(pool.clone(), LogConfig::default()).await;
    running.log.append(one_event(new_stream(), 0)).await.expect("a free stream");
    for statement in [
        "UPDATE events SET payload = '{}'",
        "UPDATE events SET payload = '{}' WHERE false",
        "DELETE FROM events",
        "TRUNCATE events",
        "TRUNCATE events CASCADE",
    ] {
        let refused = pool.execute(statement).await.expect_err(statement);
        let code = refused.as_database_error().and_then(|error| error.code());
        assert_eq!(code.as_deref(), Some("23001"), "{statement}: {refused}");
    }
    assert_eq!(running.log.head().await.expect("head").position, Position(1));
    running.stop().await;
}

#[tokio::test]
async fn a_log_line_that_the_table_refuses_is_told_from_an_outage() {
    let database = services::database().await;
    let running = Running::start(database.pool().await, LogConfig::default()).await;
    let line = |n: i64, at: DateTime<Utc>| LogLine {
        workspace_id: Uuid::now_v7(),
        execution_id: Uuid::now_v7(),
        claim: 1,
        n,
        at,
        level: LogLevel::Info,
        node: "run".to_owned(),
        attempt: 1,
        message: "printed".to_owned(),
        fields: None,
        correlation_id: None,
    };
    running.log.write_log_lines(&[line(1, Utc::now())]).await.expect("an ordinary line");
    // Earlier than any time that Postgres knows.
    let refused = running.log.write_log_lines(&[line(2, DateTime::<Utc>::MIN_UTC)]).await;
    assert!(matches!(refused, Err(StoreError::Corrupt { .. })), "{refused:?}");
    running.stop().await;
}

#[tokio::test]
async fn invariant_6_rows_and_checkpoint_are_committed_together() {
    let database = services::database().await;
    let pool = database.pool().await;
    pool.execute("CREATE TABLE rows_of_reader (n integer)").await.expect("a table");
    let running = Running::start(pool.clone(), LogConfig::default()).await;
    let log = &running.log;
    let first = log.acquire_lease("reader", "one", 0).await.expect("acquire").expect("free");
    let mut transaction = pool.begin().await.expect("begin");
    transaction.execute("INSERT INTO rows_of_reader VALUES (1)").await.expect("insert");
    advance_in(&mut transaction, &first, Position(1)).await.expect("it leads");
    // Somebody else tries while the leader's transaction is open: it neither waits nor takes the lease.
    let busy = log.acquire_lease("reader", "two", 60_000).await.expect("acquire");
    assert_eq!(busy, None);
    log.append(one_event(new_stream(), 0)).await.expect("appends do not wait for readers");
    transaction.commit().await.expect("commit");
    assert_eq!(log.checkpoint("reader").await.expect("look-up"), Position(1));

    let second = log.acquire_lease("reader", "two", 60_000).await.expect("acquire");
    assert_eq!(second.map(|lease| lease.position), Some(Position(1)));
    let mut transaction = pool.begin().await.expect("begin");
    transaction.execute("INSERT INTO rows_of_reader VALUES (2)").await.expect("insert");
    let fenced = advance_in(&mut transaction, &first, Position(2)).await;
    assert!(matches!(fenced, Err(StoreError::Fenced { .. })), "{fenced:?}");
    transaction.rollback().await.expect("rollback");
    let rows = pool.fetch_all("SELECT n FROM rows_of_reader").await.expect("select");
    assert_eq!(rows.len(), 1);
    running.stop().await;
}

/// The floor interval is far longer than the test may take, so only the hint can have done it.
#[tokio::test]
async fn another_process_hears_of_an_append() {
    let database = services::database().await;
    let config = LogConfig { head_interval: Duration::from_secs(3_600), ..LogConfig::default() };
    let here = Running::start(database.pool().await, config).await;
    let there = Running::start(database.pool().await, LogConfig::default()).await;
    let mut head = here.log.watch_head();
    let pool = database.pool().await;
    while !listens(&pool).await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let receipt = there.log.append(one_event(new_stream(), 0)).await.expect("a free stream");
    let heard = tokio::time::timeout(
        Duration::from_secs(10),
        head.wait_for(|head| *head >= receipt.position),
    );
    assert!(heard.await.is_ok(), "the hint arrived");
    here.stop().await;
    there.stop().await;
}

/// Whether both logs' listeners have sent their LISTEN.
async fn listens(pool: &PgPool) -> bool {
    let statement = "SELECT pid FROM pg_stat_activity WHERE application_name = 'ledgerline-listener'
                        AND datname = current_database() AND query LIKE 'LISTEN%' AND state = 'idle'";
    pool.fetch_all(statement).await.expect("the catalogue is readable").len() == 2
}

#[tokio::test]
async fn an_export_streams_what_pages_read() {
    let database = services::database().await;
    let running = Running::start(database.pool().await, LogConfig::default()).await;
    let log = &running.log;
    let streams: Vec<StreamId> = (0..5).map(|_| new_stream()).collect();
    for expected in 0..30 {
        let appends = streams.iter().map(|&stream| log.append(one_event(stream, expected)));
        for answer in join_all(appends).await {
            answer.expect("each stream has one writer");
        }
    }
    let (all, _) = log.read(Position::START, 1_000, &Filter::default()).await.expect("read");
    assert_eq!(all.len(), 150);
    for filter in [
        Filter::default(),
        Filter { stream: Some(streams[2]), ..Filter::default() },
        Filter { workspace: Some(Workspace::NIL), ..Filter::default() },
        Filter { types: vec!["nothing".to_owned()], ..Filter::default() },
    ] {
        let (after, until) = (Position(17), Position(101));
        let streamed: Vec<_> =
            log.stream(after, until, filter.clone()).try_collect().await.expect("stream");
        let expected: Vec<_> = all
            .iter()
            .filter(|event| event.position > after && event.position <= until)
            .filter(|event| filter.matches(event))
            .cloned()
            .collect();
        assert_eq!(streamed, expected, "{filter:?}");
    }
    running.stop().await;
}

/// The time of the head row, not the clock, is what the next append goes on from.
#[tokio::test]
async fn time_does_not_run_backwards_when_the_clock_does() {
    let database = services::database().await;
    let pool = database.pool().await;
    let running = Running::start(pool.clone(), LogConfig::default()).await;
    let ahead = Utc::now() + chrono::TimeDelta::hours(5);
    let statement = format!("UPDATE log_head SET recorded_at = '{}'", ahead.to_rfc3339());
    pool.execute(AssertSqlSafe(statement)).await.expect("the head can be moved by hand");
    let stream = new_stream();
    let first = running.log.append(one_event(stream, 0)).await.expect("a free stream");
    let second = running.log.append(one_event(stream, 1)).await.expect("the stream is there");
    assert!(first.recorded_at > ahead - chrono::TimeDelta::microseconds(1));
    assert!(second.recorded_at > first.recorded_at);
    running.stop().await;
}

#[tokio::test]
async fn a_restore_raises_the_epoch() {
    let database = services::database().await;
    let pool = database.pool().await;
    let running = Running::start(pool.clone(), LogConfig::default()).await;
    running.log.append(one_event(new_stream(), 0)).await.expect("a free stream");
    let before = running.log.head().await.expect("head");
    let raised = PostgresLog::raise_epoch(&pool).await.expect("the head is there");
    let after = running.log.head().await.expect("head");
    assert_eq!((raised, after.epoch), (before.epoch + 1, before.epoch + 1));
    assert_eq!(after.log_id, before.log_id);
    // What is appended from here on is not what a reader of the epoch before may have seen under these positions.
    running.log.append(one_event(new_stream(), 0)).await.expect("a free stream");
    PostgresLog::raise_epoch(&pool).await.expect("the head is there");
    running.log.append(one_event(new_stream(), 0)).await.expect("a free stream");
    for (epoch, common) in [(before.epoch, 1), (raised, 2), (raised + 1, 3), (raised + 2, 0)] {
        let position = running.log.common_with(epoch).await.expect("a read");
        assert_eq!(position.0, common, "epoch {epoch}");
    }
    running.stop().await;
}
