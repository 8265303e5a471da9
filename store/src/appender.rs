//! The one task of a process that writes to the log.
//!
//! While a flush is in flight the next batch gathers: there is no timer, so an idle system adds no latency and a busy one
//! writes larger batches. One flush is in flight at a time: a second would halve the batches.
//!
//! A connection that breaks leaves it open whether the flush was committed. Then the appender makes sure that the old session
//! is gone, asks by event id what landed, and sends only the rest again. An intent that was sent twice and loses is looked up
//! before anybody is told, because it may have lost to itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use uuid::Uuid;

use crate::batch::{self, Verdict};
use crate::fault::{Fault, broken_constraint, values_at_fault};
use crate::intake::{Intake, Outcome, Pending};
use crate::{AppendError, Intent, LogConfig, Position, Receipt, StoreFault, postgres::raise_head};

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Owns the append connection.
pub(crate) struct Appender {
    intake: Arc<Intake>,
    options: PgConnectOptions,
    config: LogConfig,
    head: watch::Sender<Position>,
    session: Option<Session>,
    /// The session that broke and may still be at work on the server.
    broken: Option<Backend>,
}

struct Session {
    connection: PgConnection,
    backend: Backend,
}

/// One session on the server: a process id alone may be given to somebody else.
#[derive(Clone, Copy)]
struct Backend {
    pid: i32,
    started_at: DateTime<Utc>,
}

impl Appender {
    pub(crate) fn new(
        intake: Arc<Intake>,
        options: &PgConnectOptions,
        config: LogConfig,
        head: watch::Sender<Position>,
    ) -> Self {
        let options =
            options.clone().application_name("ledgerline-appender").disable_statement_logging();
        Self { intake, options, config, head, session: None, broken: None }
    }

    /// Flushes until told to stop, and then what was taken in before.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        loop {
            let batch = tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                batch = self.intake.take() => batch,
            };
            let Some(batch) = batch else { break };
            self.flush(batch).await;
            // Those just answered often have their next intent ready: let them in before the next batch is chosen.
            tokio::task::yield_now().await;
        }
        self.intake.close();
        while let Some(batch) = self.intake.take().await {
            self.flush(batch).await;
        }
        if let Some(session) = self.session.take()
            && let Err(error) = session.connection.close().await
        {
            debug!(%error, "the append connection did not close cleanly");
        }
    }

    /// Brings a batch to its end: every intent is answered.
    async fn flush(&mut self, batch: Vec<Pending>) {
        let deadline = Instant::now() + self.config.retry_deadline;
        let mut pause = FIRST_PAUSE;
        let mut work = vec![batch];
        while let Some(mut batch) = work.pop() {
            let fault = match self.attempt(&mut batch).await {
                Ok(()) => continue,
                Err(Fault::DiskFull) => {
                    refuse(batch, || AppendError::DiskFull);
                    continue;
                }
                Err(Fault::Refused(error)) => {
                    warn!(%error, intents = batch.len(), "the database refused a batch");
                    if batch.len() > 1 {
                        // One bad intent must not fail its neighbours.
                        work.extend(batch.into_iter().rev().map(|pending| vec![pending]));
                    } else if let Some(pending) = batch.pop() {
                        pending.answer(Err(refusal(error)));
                    }
                    continue;
                }
                Err(Fault::Lost(fault)) => fault,
            };
            warn!(error = %fault, intents = batch.len(), "the append connection broke");
            self.broken = self.session.take().map(|session| session.backend).or(self.broken);
            if Instant::now() + pause >= deadline {
                work.push(batch);
                self.give_up(work, &fault);
                return;
            }
            work.push(batch);
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One try. On success the batch is answered and empty; on a fault it holds what is still open.
    async fn attempt(&mut self, batch: &mut Vec<Pending>) -> Result<(), Fault> {
        let limit = self.config.flush_timeout;
        if self.session.is_none() {
            self.session = Some(within(limit, connect(&self.options)).await?);
        }
        let Some(Session { connection, .. }) = &mut self.session else { return Ok(()) };
        if let Some(backend) = self.broken {
            within(limit, end_backend(connection, backend)).await?;
            self.broken = None;
        }
        if batch.iter().any(|pending| pending.perhaps_landed) {
            within(limit, resolve(connection, batch)).await?;
            if batch.is_empty() {
                return Ok(());
            }
        }
        let sent = within(limit, batch::append(connection, batch)).await;
        if matches!(sent, Err(Fault::Lost(_))) {
            for pending in batch.iter_mut() {
                pending.perhaps_landed = true;
            }
        }
        let verdicts = sent?;
        let last = verdicts.iter().rev().find_map(|verdict| match verdict {
            Verdict::Landed(receipt) => Some(receipt.position),
            Verdict::Known | Verdict::Fenced | Verdict::Moved(..) => None,
        });
        if let Some(last) = last {
            raise_head(&self.head, last);
        }
        let mut doubtful = Vec::new();
        for (pending, verdict) in batch.drain(..).zip(verdicts) {
            if pending.perhaps_landed && !matches!(verdict, Verdict::Landed(_)) {
                doubtful.push((pending, verdict));
            } else {
                answer(pending, verdict);
            }
        }
        if doubtful.is_empty() { Ok(()) } else { self.settle(doubtful, batch).await }
    }

    /// Intents that were sent twice and lost: perhaps to their own first try. When that can't be found out they are left in
    /// the batch, to be tried again.
    async fn settle(
        &mut self,
        doubtful: Vec<(Pending, Verdict)>,
        batch: &mut Vec<Pending>,
    ) -> Result<(), Fault> {
        let landed = match &mut self.session {
            Some(Session { connection, .. }) => {
                let intents = doubtful.iter().map(|(pending, _)| &pending.intent);
                within(self.config.flush_timeout, find_landed(connection, intents)).await
            }
            None => Err(Fault::Lost("there is no connection".into())),
        };
        match landed {
            Ok(landed) => {
                for (pending, verdict) in doubtful {
                    match landed.receipt(&pending.intent) {
                        Some(receipt) => pending.answer(Ok(Outcome::Landed(receipt))),
                        None => answer(pending, verdict),
                    }
                }
                Ok(())
            }
            Err(fault) => {
                batch.extend(doubtful.into_iter().map(|(pending, _)| pending));
                Err(fault)
            }
        }
    }

    /// Postgres did not come back in time. Those who have waited as long as this batch are told as well; who came later may
    /// still be served.
    fn give_up(&self, work: Vec<Vec<Pending>>, fault: &StoreFault) {
        let reason = fault.to_string();
        let waiting = Instant::now()
            .checked_sub(self.config.retry_deadline)
            .map_or_else(Vec::new, |before| self.intake.take_waiting_since(before));
        for batch in work.into_iter().chain([waiting]) {
            refuse(batch, || AppendError::Unavailable(reason.clone().into()));
        }
    }
}

async fn within<T, E: Into<Fault>>(
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, Fault> {
    match timeout(limit, work).await {
        Ok(done) => done.map_err(Into::into),
        Err(elapsed) => Err(Fault::Lost(elapsed.into())),
    }
}

/// A session whose commits are on disk before they are answered, whatever the default of the database.
async fn connect(options: &PgConnectOptions) -> Result<Session, sqlx::Error> {
    let mut connection = options.connect().await?;
    let backend = sqlx::query!(
        r#"SELECT pg_backend_pid() AS "pid!", backend_start AS "started_at!",
                  CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
                       THEN set_config('synchronous_commit', 'on', false) END AS raised
             FROM pg_stat_get_activity(pg_backend_pid())"#
    )
    .fetch_one(&mut connection)
    .await?;
    info!(pid = backend.pid, "the append connection stands");
    let backend = Backend { pid: backend.pid, started_at: backend.started_at };
    Ok(Session { connection, backend })
}

/// Makes sure that a session whose connection broke is not still at work on the flush whose reply was lost.
async fn end_backend(connection: &mut PgConnection, backend: Backend) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"SELECT pg_terminate_backend(pid, 5000) AS ended FROM pg_stat_activity
            WHERE pid = $1 AND backend_start = $2"#,
        backend.pid,
        backend.started_at,
    )
    .fetch_optional(connection)
    .await?;
    Ok(())
}

/// Answers what is in the log already and leaves the rest in the batch.
async fn resolve(
    connection: &mut PgConnection,
    batch: &mut Vec<Pending>,
) -> Result<(), sqlx::Error> {
    let doubtful = batch.iter().filter(|pending| pending.perhaps_landed);
    let landed = find_landed(connection, doubtful.map(|pending| &pending.intent)).await?;
    for pending in std::mem::take(batch) {
        match landed.receipt(&pending.intent).filter(|_| pending.perhaps_landed) {
            Some(receipt) => pending.answer(Ok(Outcome::Landed(receipt))),
            None => batch.push(pending),
        }
    }
    Ok(())
}

/// Where the first events of intents are in the log.
struct Landed(HashMap<Uuid, FirstEvent>);

struct FirstEvent {
    event_id: Uuid,
    stream_id: Uuid,
    version: i64,
    position: i64,
    recorded_at: DateTime<Utc>,
}

impl Landed {
    /// The receipt of an intent whose first event is in the log where this intent would have put it.
    fn receipt(&self, intent: &Intent) -> Option<Receipt> {
        let write = intent.writes.first()?;
        let found = self.0.get(&write.events.first()?.event_id)?;
        let is_here = found.stream_id == write.stream.0 && found.version == write.expected.0 + 1;
        is_here.then(|| batch::receipt(intent, Position(found.position - 1), found.recorded_at))
    }
}

/// Asks by event id, for all intents at once; an intent is whole or absent, so its first event speaks for it.
async fn find_landed(
    connection: &mut PgConnection,
    intents: impl Iterator<Item = &Intent>,
) -> Result<Landed, sqlx::Error> {
    let event_ids: Vec<Uuid> = intents
        .filter_map(|intent| Some(intent.writes.first()?.events.first()?.event_id))
        .collect();
    let found = sqlx::query_as!(
        FirstEvent,
        "SELECT event_id, stream_id, version, position, recorded_at FROM events WHERE event_id = ANY ($1)",
        &event_ids,
    )
    .fetch_all(connection)
    .await?;
    Ok(Landed(found.into_iter().map(|event| (event.event_id, event)).collect()))
}

fn answer(pending: Pending, verdict: Verdict) {
    let Pending { intent, reply, .. } = pending;
    let outcome = match verdict {
        Verdict::Landed(receipt) => Ok(Outcome::Landed(receipt)),
        Verdict::Known => Ok(Outcome::Known(Box::new(intent))),
        Verdict::Fenced => Err(AppendError::Fenced {
            reader: intent.fence.map(|fence| fence.reader).unwrap_or_default(),
        }),
        Verdict::Moved(stream, expected) => Err(AppendError::Conflict { stream, expected }),
    };
    let _nobody_waits = reply.send(outcome);
}

fn refuse(batch: Vec<Pending>, mut error: impl FnMut() -> AppendError) {
    for pending in batch {
        pending.answer(Err(error()));
    }
}

/// What one intent is told when the database refused it alone.
fn refusal(error: sqlx::Error) -> AppendError {
    match broken_constraint(&error) {
        Some("events_event_id_key") => AppendError::DuplicateEvent,
        _ if values_at_fault(&error) => AppendError::Invalid { reason: error.to_string() },
        _ => AppendError::Unavailable(error.into()),
    }
}
