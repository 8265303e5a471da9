//! From the log to JetStream, in order, at the pace of the acknowledgements. The relay and the work carrier are this, with
//! another cargo.
//!
//! One process leads by a lease whose row is also the checkpoint. The leader reads after its checkpoint (the next read runs while a
//! batch is published), keeps a window of unacknowledged publishes in flight, and moves the checkpoint only over what the
//! server has acknowledged without a hole. So after any crash everything that may be missing is published again: the server
//! drops doubles inside its duplicate window, and consumers drop the rest by position.
//! Near the end of the log it takes events from the process's tail instead of reading them once more.
//!
//! A NATS that refuses or is away stops the carrier, not the system: it lets go of the lease, shows why in its status, and comes
//! back with back-off.

use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};

use async_nats::jetstream::{
    context::{PublishError, PublishErrorKind},
    message::PublishMessage,
    publish::PublishAck,
};
use futures_util::future::BoxFuture;
use ledgerline_store::{
    EventLog, Filter, Lease, Position, RecordedEvent, StoreError, Tail, TailReader,
};
use metrics::{counter, gauge};
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use crate::{
    backoff::backoff, envelope::EventSource, relay, subject::Prefix, topology::Nats, work,
};

/// A batch of large events is followed by shorter ones, so that a read and its successor stay below about this much memory.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// How far before its checkpoint the work carrier begins when the stream of work is new: what was on a lost stream and no
/// worker had taken yet is published again. Dispatch keeps the stream shallow, so this covers it many times.
const WORK_LOOKBACK: i64 = 10_000;

/// How long an item on the desk may go untaken before it is published.
const DESK_PATIENCE: Duration = Duration::from_secs(1);

/// How often the work carrier looks whether another worker process is alive.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How often a process that stands by asks for the lease, at least.
const STANDBY_POLL: Duration = Duration::from_secs(2);

/// How a carrier works.
#[derive(Clone, Debug)]
pub struct CarrierConfig {
    /// The process, as the lease names it.
    pub owner: String,
    /// How long a leader that is silent stays leader.
    pub lease_ttl: Duration,
    /// Most publishes that are unacknowledged at once.
    pub window: usize,
    /// Most events of one read.
    pub batch: usize,
    /// How often the log is looked at when nothing says that it moved.
    pub floor: Duration,
    /// How often the checkpoint moves while events flow.
    pub checkpoint_every: Duration,
    /// The first wait after a refusal.
    pub backoff_floor: Duration,
    /// The longest wait after a refusal.
    pub backoff_ceiling: Duration,
    /// The newest events as the process has them in memory anyway.
    pub tail: Option<Arc<Tail>>,
}

impl CarrierConfig {
    /// The defaults for a process.
    #[must_use]
    pub fn new(owner: impl Into<String>) -> Self {
        Self {
            owner: owner.into(),
            lease_ttl: Duration::from_secs(15),
            window: 1_024,
            batch: 1_000,
            floor: Duration::from_millis(500),
            checkpoint_every: Duration::from_millis(200),
            backoff_floor: Duration::from_millis(50),
            backoff_ceiling: Duration::from_secs(5),
            tail: None,
        }
    }

    /// The same, with the process's tail to take the newest events from.
    #[must_use]
    pub fn with_tail(self, tail: Arc<Tail>) -> Self {
        Self { tail: Some(tail), ..self }
    }
}

/// What a carrier is doing, for health and the system page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CarrierStatus {
    /// What it is doing.
    pub state: CarrierState,
    /// Everything up to here is on NATS, as far as this process knows.
    pub position: Position,
    /// How many events of the log come after that.
    pub lag: u64,
}

/// What a carrier is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CarrierState {
    /// Another process leads, or it is not known yet who does.
    Standby,
    /// It publishes what the log holds.
    Leading,
    /// NATS cannot be used: it waits.
    NatsAway,
    /// NATS or this build refuses an event: it tries again with back-off.
    Refused {
        /// Why.
        reason: String,
    },
    /// The log cannot be read: it tries again with back-off.
    LogAway {
        /// Why.
        reason: String,
    },
}

impl fmt::Display for CarrierState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standby => f.write_str("standby"),
            Self::Leading => f.write_str("leading"),
            Self::NatsAway => f.write_str("nats is away"),
            Self::Refused { reason } => write!(f, "refused: {reason}"),
            Self::LogAway { reason } => write!(f, "the log is away: {reason}"),
        }
    }
}

/// A handle to a carrier that runs in this process.
#[derive(Clone, Debug)]
pub struct Carrier {
    status: watch::Receiver<CarrierStatus>,
}

impl Carrier {
    pub(crate) fn start(
        cargo: Cargo,
        log: Arc<dyn EventLog>,
        nats: Nats,
        config: CarrierConfig,
        tracker: &TaskTracker,
        cancel: CancellationToken,
    ) -> Self {
        let (sender, status) = watch::channel(CarrierStatus {
            state: CarrierState::Standby,
            position: Position::START,
            lag: 0,
        });
        // The tail reaches a position a moment after the log: whoever takes from the tail must wait for the tail.
        let head = config.tail.as_ref().map_or_else(|| log.watch_head(), |tail| tail.watch_end());
        let listening = config.tail.as_ref().map(|tail| tail.reader(*head.borrow()));
        let carry = Carry {
            cargo,
            log,
            nats,
            config,
            cancel,
            status: sender,
            head,
            refusals: 0,
            _listening: listening,
        };
        tracker.spawn(carry.run());
        Self { status }
    }

    /// What it is doing; changes wake the watcher.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<CarrierStatus> {
        self.status.clone()
    }
}

/// What is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cargo {
    /// Every event.
    Events,
    /// Dispatched executions.
    Work,
}

impl Cargo {
    const fn reader(self) -> &'static str {
        match self {
            Self::Events => relay::READER,
            Self::Work => work::READER,
        }
    }

    fn filter(self) -> Filter {
        match self {
            Self::Events => Filter::default(),
            Self::Work => work::dispatches(),
        }
    }

    fn is_of(self, event: &RecordedEvent) -> bool {
        match self {
            Self::Events => true,
            Self::Work => work::is_dispatch(event),
        }
    }

    fn message(
        self,
        event: &RecordedEvent,
        prefix: &Prefix,
        source: &EventSource,
        previous: Option<&str>,
    ) -> Result<Outgoing, work::UnreadableDispatch> {
        match self {
            Self::Events => Ok(relay::message(event, prefix, source, previous)),
            Self::Work => work::message(event, prefix),
        }
    }

    fn report(self, lag: u64) {
        // A gauge is a float; a lag beyond 2^53 events does not occur.
        let lag = lag as f64;
        match self {
            Self::Events => gauge!("ledgerline_relay_lag_events").set(lag),
            Self::Work => gauge!("ledgerline_work_lag_events").set(lag),
        }
    }

    fn count_published(self, events: u64) {
        match self {
            Self::Events => counter!("ledgerline_relay_published_total").increment(events),
            Self::Work => counter!("ledgerline_work_published_total").increment(events),
        }
    }
}

/// A message that is about to be published.
pub(crate) struct Outgoing {
    pub(crate) subject: String,
    pub(crate) id: String,
    pub(crate) publish: PublishMessage,
}

/// Why leading ended.
enum Stop {
    /// The process stops.
    Cancelled,
    /// Another process leads.
    Standby,
    /// NATS cannot be used.
    NatsAway,
    /// NATS or this build refused an event.
    Refused { reason: String, progress: bool },
    /// The log cannot be read or the checkpoint not moved.
    Log(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Fenced { .. } => Self::Standby,
            StoreError::DiskFull | StoreError::Unavailable(_) | StoreError::Corrupt { .. } => {
                Self::Log(error)
            }
        }
    }
}

struct Carry {
    cargo: Cargo,
    log: Arc<dyn EventLog>,
    nats: Nats,
    config: CarrierConfig,
    cancel: CancellationToken,
    status: watch::Sender<CarrierStatus>,
    head: watch::Receiver<Position>,
    refusals: u32,
    /// The tail moves while somebody listens.
    _listening: Option<TailReader>,
}

/// One term of leadership.
struct Term {
    lease: Lease,
    /// The checkpoint when the term began.
    began: Position,
    /// The lease is ours for its time to live from here on, at least.
    renewed: Instant,
    /// When the checkpoint was moved last.
    saved: Instant,
    /// Everything up to here was read and published.
    cursor: Position,
    /// Everything up to here was acknowledged.
    acked: Position,
    /// On its way and not answered for yet, in order.
    window: VecDeque<(Position, Carried)>,
    /// No other worker process is alive, as far as was looked.
    alone: bool,
    /// When that was looked at last.
    looked: Option<Instant>,
    /// Id of the last message in the window.
    previous: Option<String>,
    /// Most events of the next read.
    limit: usize,
    source: EventSource,
}

struct Batch {
    events: Vec<Arc<RecordedEvent>>,
    upto: Position,
}

/// How an event is on its way.
enum Carried {
    /// Published, with the acknowledgement to come.
    Published(BoxFuture<'static, Result<PublishAck, PublishError>>),
    /// On the desk of this process, with the message that it becomes when nobody takes it.
    Handed { taken: oneshot::Receiver<()>, until: Instant, outgoing: Box<Outgoing> },
}

/// What became of the oldest event on its way.
enum Arrived {
    Published(Result<PublishAck, PublishError>),
    Taken,
    Untaken,
}

/// Waits for the oldest event on its way. Safe to cancel.
async fn oldest(window: &mut VecDeque<(Position, Carried)>) -> Arrived {
    match window.front_mut() {
        None => std::future::pending().await,
        Some((_, Carried::Published(acknowledged))) => Arrived::Published(acknowledged.await),
        Some((_, Carried::Handed { taken, until, .. })) => {
            match tokio::time::timeout_at(*until, taken).await {
                Ok(Ok(())) => Arrived::Taken,
                Ok(Err(_)) | Err(_) => Arrived::Untaken,
            }
        }
    }
}

impl Carry {
    async fn run(mut self) {
        while !self.cancel.is_cancelled() {
            let stop = match self.turn().await {
                Ok(never) => match never {},
                Err(stop) => stop,
            };
            let (state, wait) = self.after(stop);
            let Some(state) = state else { break };
            self.report(state, None);
            tokio::select! {
                () = self.cancel.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
            }
        }
        debug!(reader = self.cargo.reader(), "carrier stopped");
    }

    /// The state to show and the time to wait after leading ended; no state when the process stops.
    fn after(&mut self, stop: Stop) -> (Option<CarrierState>, Duration) {
        let reader = self.cargo.reader();
        match stop {
            Stop::Cancelled => (None, Duration::ZERO),
            Stop::Standby => {
                self.refusals = 0;
                (Some(CarrierState::Standby), (self.config.lease_ttl / 3).min(STANDBY_POLL))
            }
            Stop::NatsAway => {
                info!(reader, "nats went away while events were carried");
                (Some(CarrierState::NatsAway), Duration::ZERO)
            }
            Stop::Refused { reason, progress } => {
                self.refusals = if progress { 0 } else { self.refusals.saturating_add(1) };
                warn!(reader, %reason, refusals = self.refusals, "nats refused an event");
                (Some(CarrierState::Refused { reason }), self.pause())
            }
            Stop::Log(error) => {
                self.refusals = self.refusals.saturating_add(1);
                warn!(reader, %error, "the log cannot be carried");
                (Some(CarrierState::LogAway { reason: error.to_string() }), self.pause())
            }
        }
    }

    fn pause(&self) -> Duration {
        backoff(self.refusals, self.config.backoff_floor, self.config.backoff_ceiling)
    }

    /// Waits for NATS and the lease, leads, and lets go.
    async fn turn(&mut self) -> Result<std::convert::Infallible, Stop> {
        if !self.nats.is_ready() {
            self.report(CarrierState::NatsAway, None);
            tokio::select! {
                () = self.cancel.cancelled() => return Err(Stop::Cancelled),
                () = self.nats.ready() => {}
            }
        }
        let asked = Instant::now();
        let ttl = millis(self.config.lease_ttl);
        let reader = self.cargo.reader();
        let Some(lease) = self.log.acquire_lease(reader, &self.config.owner, ttl).await? else {
            let position = self.log.checkpoint(reader).await?;
            self.report(CarrierState::Standby, Some(position));
            return Err(Stop::Standby);
        };
        info!(reader, epoch = lease.epoch, position = %lease.position, "carrier leads");
        let source = EventSource::of_log(self.log.head().await?.log_id);
        let mut term = Term {
            began: lease.position,
            renewed: asked,
            saved: asked,
            cursor: lease.position,
            acked: lease.position,
            window: VecDeque::with_capacity(self.config.window),
            alone: false,
            looked: None,
            previous: None,
            limit: self.config.batch,
            source,
            lease,
        };
        let result = self.lead(&mut term).await;
        if !matches!(result, Err(Stop::Standby)) {
            self.let_go(&mut term).await;
        }
        result
    }

    /// Takes in the acknowledgements that are on their way, saves the checkpoint and gives up the lease.
    async fn let_go(&self, term: &mut Term) {
        if self.nats.is_ready() {
            while !term.window.is_empty() && self.take_ack(term).await.is_ok() {}
        }
        term.window.clear();
        if let Err(error) = self.save(term).await {
            debug!(%error, "the checkpoint was not saved at the end of a term");
        }
        if let Err(error) = self.log.release_lease(&term.lease).await {
            debug!(%error, "the lease was not released and expires");
        }
    }

    async fn lead(&mut self, term: &mut Term) -> Result<std::convert::Infallible, Stop> {
        if self.cargo == Cargo::Work {
            let new = self.nats.work_is_new().await;
            let new = new.map_err(|error| refused(error.to_string(), false))?;
            if new {
                term.cursor = Position((term.cursor.0 - WORK_LOOKBACK).max(0));
            }
        }
        self.report(CarrierState::Leading, Some(term.acked));
        loop {
            let mut next = Some(self.read(term.cursor, term.limit).await?);
            while let Some(batch) = next {
                self.check(term).await?;
                next = self.carry(term, batch).await?;
                if term.saved.elapsed() >= self.config.checkpoint_every {
                    self.save(term).await?;
                }
                self.report(CarrierState::Leading, Some(term.acked));
            }
            self.idle(term).await?;
        }
    }

    /// Publishes a batch while the next one is read. `None` when the log is at its end.
    async fn carry(&self, term: &mut Term, batch: Batch) -> Result<Option<Batch>, Stop> {
        let full = batch.events.len() >= term.limit;
        let moved = batch.upto > term.cursor;
        let more = moved && (full || batch.upto < *self.head.borrow());
        term.limit = next_limit(term.limit, &batch.events, self.config.batch);
        let (upto, limit) = (batch.upto, term.limit);
        let read = async { if more { self.read(upto, limit).await.map(Some) } else { Ok(None) } };
        let (published, next) = tokio::join!(self.publish(term, batch), read);
        published?;
        Ok(next?)
    }

    async fn publish(&self, term: &mut Term, batch: Batch) -> Result<(), Stop> {
        let prefix = self.nats.prefix();
        for event in &batch.events {
            while term.window.len() >= self.config.window {
                self.take_ack(term).await?;
            }
            if self.hand(term, event)? {
                continue;
            }
            // Only among unacknowledged messages can one overtake another.
            let previous = (!term.window.is_empty()).then_some(term.previous.as_deref()).flatten();
            let outgoing = self
                .cargo
                .message(event, prefix, &term.source, previous)
                .map_err(|error| refused(error.to_string(), false))?;
            let Outgoing { subject, id, publish } = outgoing;
            let carried = self.send(subject, publish).await?;
            term.window.push_back((event.position, carried));
            term.previous = Some(id);
        }
        self.cargo.count_published(batch.events.len() as u64);
        term.cursor = term.cursor.max(batch.upto);
        if term.window.is_empty() {
            term.acked = term.acked.max(term.cursor);
        }
        Ok(())
    }

    async fn send(&self, subject: String, publish: PublishMessage) -> Result<Carried, Stop> {
        let sent = tokio::select! {
            // Mostly it is sent at once, and the state of the connection need not be asked for.
            biased;
            sent = self.nats.jetstream().send_publish(subject, publish) => sent,
            () = self.nats.away() => return Err(Stop::NatsAway),
        };
        let acknowledged = sent.map_err(|error| refused(error.to_string(), false))?;
        Ok(Carried::Published(acknowledged.into_future()))
    }

    /// Lays work on the desk of this process, when its worker waits for some and nobody else could have it.
    fn hand(&self, term: &mut Term, event: &RecordedEvent) -> Result<bool, Stop> {
        if self.cargo != Cargo::Work || !term.alone {
            return Ok(false);
        }
        let unreadable = |error: work::UnreadableDispatch| refused(error.to_string(), false);
        let item = work::WorkItem::from_event(event).map_err(unreadable)?;
        let Some(taken) = self.nats.desk().hand(item) else { return Ok(false) };
        let outgoing = Box::new(work::message(event, self.nats.prefix()).map_err(unreadable)?);
        let until = Instant::now() + DESK_PATIENCE;
        term.window.push_back((event.position, Carried::Handed { taken, until, outgoing }));
        Ok(true)
    }

    /// Waits for the oldest event on its way.
    async fn take_ack(&self, term: &mut Term) -> Result<(), Stop> {
        let arrived = tokio::select! {
            // An acknowledgement that is here already counts, even when the connection has gone meanwhile.
            biased;
            arrived = oldest(&mut term.window) => arrived,
            () = self.nats.away() => {
                // A later acknowledgement must not count without this one.
                term.window.clear();
                return Err(Stop::NatsAway);
            }
        };
        self.arrived(term, arrived).await
    }

    /// Moves on over the oldest event on its way, or sends it another way.
    async fn arrived(&self, term: &mut Term, arrived: Arrived) -> Result<(), Stop> {
        let Some((position, carried)) = term.window.pop_front() else { return Ok(()) };
        match arrived {
            Arrived::Published(Ok(_)) | Arrived::Taken => {
                // Work that is published again from before the checkpoint does not move it back.
                term.acked = term.acked.max(position);
                Ok(())
            }
            Arrived::Untaken => {
                if let Carried::Handed { outgoing, .. } = carried {
                    let sent = self.send(outgoing.subject, outgoing.publish).await;
                    match sent {
                        Ok(carried) => term.window.push_front((position, carried)),
                        Err(stop) => {
                            // What follows must not count without it.
                            term.window.clear();
                            return Err(stop);
                        }
                    }
                }
                Ok(())
            }
            Arrived::Published(Err(error)) => {
                if error.kind() == PublishErrorKind::StreamNotFound {
                    self.nats.suspect();
                }
                // What follows was refused as well, or is published again with what was refused.
                term.window.clear();
                let source = std::error::Error::source(&error)
                    .map_or_else(String::new, |source| format!(" ({source})"));
                Err(refused(format!("{error}{source}"), term.acked > term.began))
            }
        }
    }

    /// Before a burst: the lease must be ours for long enough. Asks the log only when a third of its time has gone.
    async fn check(&self, term: &mut Term) -> Result<(), Stop> {
        if self.cancel.is_cancelled() {
            return Err(Stop::Cancelled);
        }
        self.look(term).await;
        let age = term.renewed.elapsed();
        if age < self.config.lease_ttl / 3 {
            return Ok(());
        }
        let asked = Instant::now();
        match self.log.renew_lease(&term.lease, millis(self.config.lease_ttl)).await {
            Ok(()) => {
                term.renewed = asked;
                Ok(())
            }
            // A log that is away for a moment does not take the lease from us.
            Err(StoreError::Unavailable(error)) if age < self.config.lease_ttl * 2 / 3 => {
                debug!(%error, "the lease was not renewed yet");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Looks whether another worker process is alive: then JetStream shares the work out.
    async fn look(&self, term: &mut Term) {
        if self.cargo != Cargo::Work
            || term.looked.is_some_and(|looked| looked.elapsed() < LOOK_EVERY)
        {
            return;
        }
        term.looked = Some(Instant::now());
        term.alone = match self.log.worker_leases().await {
            Ok(leases) => leases.iter().filter(|lease| !lease.expired).count() <= 1,
            Err(error) => {
                debug!(%error, "the leases of workers cannot be read");
                false
            }
        };
    }

    async fn save(&self, term: &mut Term) -> Result<(), StoreError> {
        if term.acked > term.lease.position {
            self.log.advance(&mut term.lease, term.acked).await?;
        }
        term.saved = Instant::now();
        Ok(())
    }

    async fn read(&self, after: Position, limit: usize) -> Result<Batch, StoreError> {
        let at_hand = self.config.tail.as_ref().and_then(|tail| tail.at_hand(after, limit));
        if let Some(mut events) = at_hand {
            let upto = events.last().map_or(after, |last| last.position);
            events.retain(|event| self.cargo.is_of(event));
            return Ok(Batch { events, upto });
        }
        let (events, upto) = self.log.read(after, limit, &self.cargo.filter()).await?;
        Ok(Batch { events: events.into_iter().map(Arc::new).collect(), upto })
    }

    /// Waits for the log to move, saving the checkpoint and keeping the lease meanwhile.
    async fn idle(&mut self, term: &mut Term) -> Result<(), Stop> {
        let floor = Instant::now() + self.config.floor;
        loop {
            self.check(term).await?;
            if *self.head.borrow_and_update() > term.cursor {
                return Ok(());
            }
            if term.window.is_empty() {
                term.acked = term.acked.max(term.cursor);
            }
            self.report(CarrierState::Leading, Some(term.acked));
            let unsaved = term.acked > term.lease.position;
            let save_at = term.saved + self.config.checkpoint_every;
            tokio::select! {
                () = self.cancel.cancelled() => return Err(Stop::Cancelled),
                arrived = oldest(&mut term.window), if !term.window.is_empty() => {
                    self.arrived(term, arrived).await?;
                }
                () = self.nats.away() => return Err(Stop::NatsAway),
                changed = self.head.changed() => {
                    if changed.is_err() { return Err(Stop::Cancelled) }
                }
                () = tokio::time::sleep_until(save_at), if unsaved => self.save(term).await?,
                () = tokio::time::sleep_until(floor) => return Ok(()),
            }
        }
    }

    fn report(&self, state: CarrierState, position: Option<Position>) {
        let head = *self.head.borrow();
        self.status.send_if_modified(|status| {
            let position = position.map_or(status.position, |position| position);
            let lag = u64::try_from(head.0 - position.0).unwrap_or(0);
            let next = CarrierStatus { state, position, lag };
            let changed = *status != next;
            *status = next;
            changed
        });
        self.cargo.report(self.status.borrow().lag);
    }
}

fn refused(reason: String, progress: bool) -> Stop {
    Stop::Refused { reason, progress }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// How many events to read next, so that a batch stays near [`BATCH_BYTES`] whatever the size of events.
fn next_limit(limit: usize, events: &[Arc<RecordedEvent>], most: usize) -> usize {
    let bytes: usize = events.iter().map(|event| event.payload.len()).sum();
    if bytes > BATCH_BYTES {
        (limit / 2).max(1)
    } else if bytes < BATCH_BYTES / 4 {
        (limit * 2).min(most)
    } else {
        limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_of_large_events_get_shorter_and_recover() {
        let mut large = crate::envelope::tests::event();
        large.payload = "x".repeat(512 * 1024);
        let batch = vec![Arc::new(large); 64];
        let mut limit = 1_000;
        for _ in 0..20 {
            limit = next_limit(limit, &batch[..limit.min(64)], 1_000);
        }
        assert!((1..=32).contains(&limit), "{limit}");
        for _ in 0..20 {
            limit = next_limit(limit, &[], 1_000);
        }
        assert_eq!(limit, 1_000);
    }
}
