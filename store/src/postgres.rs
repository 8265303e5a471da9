//! The log in Postgres: one append connection with group commit, a pool for everything else, and a listener for the hints of
//! other processes.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use sqlx::PgPool;
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};
use uuid::Uuid;

use crate::appender::Appender;
use crate::intake::{Intake, Outcome, Pending, Refusal};
use crate::{
    AppendError, DueKey, DueTime, EventLog, Filter, Head, IdempotencyKey, Intent, Lease, LogLine,
    LogQuery, Position, Receipt, RecordedEvent, StoreError, StreamId, StreamVersion, WorkerLease,
    blob, checkpoint, due, idempotency, lease, log_lines, read, snapshot, validate,
};

const CHANNEL: &str = "ledgerline_log";

/// Bounds and waits of the append path. Each default was measured or follows from a limit beside it.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// How many intents may wait before new ones are refused with [`AppendError::Overloaded`].
    pub max_waiting: usize,
    /// The most intents of one flush; throughput stops rising at 256 to 512.
    pub max_batch_intents: usize,
    /// The most events of one flush.
    pub max_batch_events: usize,
    /// The most payload and metadata of one flush, in bytes.
    pub max_batch_bytes: usize,
    /// How long one flush may take before its connection counts as broken.
    pub flush_timeout: Duration,
    /// How long a batch is tried again after its connection broke, before its callers are told `Unavailable`.
    pub retry_deadline: Duration,
    /// How often the head is asked for when no hint came: the longest that another process's append stays unnoticed.
    pub head_interval: Duration,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            max_waiting: 8_192,
            max_batch_intents: 512,
            max_batch_events: 4_096,
            max_batch_bytes: 8 * 1024 * 1024,
            flush_timeout: Duration::from_secs(10),
            retry_deadline: Duration::from_secs(15),
            head_interval: Duration::from_millis(500),
        }
    }
}

/// [`EventLog`] in Postgres 15 or later.
pub struct PostgresLog {
    pool: PgPool,
    intake: Arc<Intake>,
    head: watch::Sender<Position>,
}

impl PostgresLog {
    /// Starts the appender and the listener on the tracker. Beside the pool they hold one connection each, made with the
    /// pool's own options. The schema must be there: see [`crate::migrate()`].
    ///
    /// Cancelling the token refuses new intents and flushes those taken in; wait for the tracker to know that it is done.
    /// It should be cancelled last, after everything that appends has stopped.
    ///
    /// # Errors
    /// When the head of the log can't be read.
    pub async fn connect(
        pool: PgPool,
        config: LogConfig,
        tracker: &TaskTracker,
        cancel: CancellationToken,
    ) -> Result<Arc<Self>, StoreError> {
        let (head, _) = watch::channel(read_head(&pool).await?.position);
        let intake = Arc::new(Intake::new(&config));
        let options = pool.connect_options();
        let appender = Appender::new(Arc::clone(&intake), &options, config.clone(), head.clone());
        let listener = Listener {
            own_pool: PgPoolOptions::new()
                .max_connections(1)
                .max_lifetime(None)
                .idle_timeout(None)
                .connect_lazy_with((*options).clone().application_name("ledgerline-listener")),
            pool: pool.clone(),
            interval: config.head_interval,
            head: head.clone(),
        };
        tracker.spawn(appender.run(cancel.clone()));
        tracker.spawn(async move { cancel.run_until_cancelled_owned(listener.run()).await });
        Ok(Arc::new(Self { pool, intake, head }))
    }

    /// The pool that reads and leases use; projections write their rows through it together with [`crate::advance_in`].
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Every event after a position and up to `until` (or the head, when that is lower) that passes the filter, in order and
    /// in constant memory: for exports and replays. Holds no snapshot and no connection between its windows.
    #[must_use]
    pub fn stream(
        &self,
        after: Position,
        until: Position,
        filter: Filter,
    ) -> BoxStream<'static, Result<RecordedEvent, StoreError>> {
        read::stream(&self.pool, after, until, filter)
    }

    /// The present epoch of the log.
    ///
    /// # Errors
    /// When Postgres is away.
    pub async fn epoch(pool: &PgPool) -> Result<i32, StoreError> {
        Ok(read_head(pool).await?.epoch)
    }

    /// Raises the epoch of the log, after a restore from backup: readers with a position of an older epoch are told that the
    /// log was rewound. Returns the new epoch.
    ///
    /// # Errors
    /// When Postgres is away.
    pub async fn raise_epoch(pool: &PgPool) -> Result<i32, StoreError> {
        Ok(sqlx::query_file_scalar!("sql/raise_epoch.sql").fetch_one(pool).await?)
    }

    async fn submit(&self, intent: Intent) -> Result<Outcome, AppendError> {
        let (pending, answer) = Pending::new(intent);
        match self.intake.push(pending) {
            Ok(()) => {}
            Err(Refusal::Full) => return Err(AppendError::Overloaded),
            Err(Refusal::Closed) => return Err(stopping()),
        }
        answer.await.unwrap_or_else(|_| Err(stopping()))
    }
}

fn stopping() -> AppendError {
    AppendError::Unavailable("the appender has stopped".into())
}

/// Moves the known head forward, never back.
pub(crate) fn raise_head(head: &watch::Sender<Position>, to: Position) {
    head.send_if_modified(|known| {
        let higher = to > *known;
        if higher {
            *known = to;
        }
        higher
    });
}

async fn read_head(pool: &PgPool) -> Result<Head, StoreError> {
    let row = sqlx::query!("SELECT log_id, epoch, position, recorded_at FROM log_head WHERE one")
        .fetch_one(pool)
        .await?;
    Ok(Head {
        log_id: row.log_id,
        epoch: row.epoch,
        position: Position(row.position),
        recorded_at: row.recorded_at,
    })
}

/// Hears of the appends of other processes. Hints may be lost; the interval is what is relied on.
struct Listener {
    own_pool: PgPool,
    pool: PgPool,
    interval: Duration,
    head: watch::Sender<Position>,
}

impl Listener {
    async fn run(self) {
        let mut ticks = interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            match self.listen().await {
                Ok(listener) => {
                    let mut hints = listener.into_stream();
                    loop {
                        tokio::select! {
                            hint = hints.next() => match hint {
                                Some(Ok(hint)) => self.hear(hint.payload()),
                                Some(Err(error)) => {
                                    warn!(%error, "the listener's connection broke");
                                    break;
                                }
                                None => break,
                            },
                            _ = ticks.tick() => self.ask().await,
                        }
                    }
                }
                Err(error) => warn!(%error, "cannot listen for appends of other processes"),
            }
            sleep(self.interval).await;
            self.ask().await;
        }
    }

    async fn listen(&self) -> Result<PgListener, sqlx::Error> {
        let mut listener = PgListener::connect_with(&self.own_pool).await?;
        listener.listen(CHANNEL).await?;
        Ok(listener)
    }

    fn hear(&self, payload: &str) {
        match payload.parse() {
            Ok(position) => raise_head(&self.head, Position(position)),
            Err(error) => debug!(%error, payload, "a hint that is not a position"),
        }
    }

    async fn ask(&self) {
        match read_head(&self.pool).await {
            Ok(head) => raise_head(&self.head, head.position),
            Err(error) => warn!(%error, "the head of the log cannot be read"),
        }
    }
}

#[async_trait]
impl EventLog for PostgresLog {
    async fn append(&self, intent: Intent) -> Result<Receipt, AppendError> {
        validate::check(&intent)?;
        let mut intent = intent;
        loop {
            match self.submit(intent).await? {
                Outcome::Landed(receipt) => return Ok(receipt),
                Outcome::Known(known) => {
                    let key = known.key.as_ref().ok_or_else(stopping)?;
                    if let Some(receipt) = idempotency::find_receipt(&self.pool, key).await? {
                        return Ok(receipt);
                    }
                    // The key was pruned between the two statements: it is new again.
                    intent = *known;
                }
            }
        }
    }

    async fn find_receipt(&self, key: &IdempotencyKey) -> Result<Option<Receipt>, AppendError> {
        validate::check_key(key)?;
        idempotency::find_receipt(&self.pool, key).await
    }

    async fn read(
        &self,
        after: Position,
        limit: usize,
        filter: &Filter,
    ) -> Result<(Vec<RecordedEvent>, Position), StoreError> {
        read::read(&self.pool, after, limit, filter).await
    }

    async fn read_stream(
        &self,
        stream: StreamId,
        after: StreamVersion,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        read::read_stream(&self.pool, stream, after, limit).await
    }

    async fn event(&self, event_id: Uuid) -> Result<Option<RecordedEvent>, StoreError> {
        read::event(&self.pool, event_id).await
    }

    async fn head(&self) -> Result<Head, StoreError> {
        let head = read_head(&self.pool).await?;
        raise_head(&self.head, head.position);
        Ok(head)
    }

    async fn common_with(&self, epoch: i32) -> Result<Position, StoreError> {
        let position = sqlx::query_file_scalar!("sql/common_with_epoch.sql", epoch);
        Ok(Position(position.fetch_one(&self.pool).await?))
    }

    fn watch_head(&self) -> watch::Receiver<Position> {
        self.head.subscribe()
    }

    async fn position_at(&self, at: DateTime<Utc>) -> Result<Position, StoreError> {
        let position = sqlx::query_scalar!(r#"SELECT position_at($1) AS "position!""#, at)
            .fetch_one(&self.pool)
            .await?;
        Ok(Position(position))
    }

    async fn acquire_lease(
        &self,
        reader: &str,
        owner: &str,
        ttl_ms: i64,
    ) -> Result<Option<Lease>, StoreError> {
        lease::acquire(&self.pool, reader, owner, ttl_ms).await
    }

    async fn renew_lease(&self, lease: &Lease, ttl_ms: i64) -> Result<(), StoreError> {
        lease::renew(&self.pool, lease, ttl_ms).await
    }

    async fn release_lease(&self, lease: &Lease) -> Result<(), StoreError> {
        lease::release(&self.pool, lease).await
    }

    async fn advance(&self, lease: &mut Lease, to: Position) -> Result<(), StoreError> {
        checkpoint::advance(&self.pool, lease, to).await
    }

    async fn checkpoint(&self, reader: &str) -> Result<Position, StoreError> {
        checkpoint::checkpoint(&self.pool, reader).await
    }

    async fn due(&self, now: DateTime<Utc>, limit: usize) -> Result<Vec<DueTime>, StoreError> {
        due::due(&self.pool, now, limit).await
    }

    async fn next_due(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
        due::next_due(&self.pool).await
    }

    async fn move_due(&self, due: &DueTime) -> Result<bool, StoreError> {
        due::move_due(&self.pool, due).await
    }

    async fn without_due(&self, streams: &[StreamId]) -> Result<Vec<StreamId>, StoreError> {
        due::without_due(&self.pool, streams).await
    }

    async fn remove_due(&self, done: &[DueKey]) -> Result<(), StoreError> {
        due::remove_due(&self.pool, done).await
    }

    async fn save_snapshot(
        &self,
        stream: StreamId,
        version: StreamVersion,
        fingerprint: &str,
        state: &str,
    ) -> Result<(), StoreError> {
        snapshot::save(&self.pool, stream, version, fingerprint, state).await
    }

    async fn snapshot(
        &self,
        stream: StreamId,
        fingerprint: &str,
    ) -> Result<Option<(StreamVersion, String)>, StoreError> {
        snapshot::load(&self.pool, stream, fingerprint).await
    }

    async fn put_blob(&self, content: &[u8]) -> Result<String, StoreError> {
        blob::put(&self.pool, content).await
    }

    async fn blob(&self, hash: &str) -> Result<Option<Vec<u8>>, StoreError> {
        blob::get(&self.pool, hash).await
    }

    async fn write_log_lines(&self, lines: &[LogLine]) -> Result<(), StoreError> {
        log_lines::write(&self.pool, lines).await
    }

    async fn log_lines(&self, query: &LogQuery) -> Result<Vec<LogLine>, StoreError> {
        log_lines::read(&self.pool, query).await
    }

    async fn renew_worker_lease(
        &self,
        worker: &str,
        slots: i32,
        ttl_ms: i64,
    ) -> Result<WorkerLease, StoreError> {
        lease::renew_worker(&self.pool, worker, slots, ttl_ms).await
    }

    async fn release_worker_lease(&self, worker: &str) -> Result<(), StoreError> {
        lease::release_worker(&self.pool, worker).await
    }

    async fn worker_leases(&self) -> Result<Vec<WorkerLease>, StoreError> {
        lease::workers(&self.pool).await
    }

    async fn prune_keys(&self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        idempotency::prune(&self.pool, before).await
    }
}
