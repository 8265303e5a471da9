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

mod cargo;
mod sending;
mod status;
mod term;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use ledgerline_store::{EventLog, Position, StoreError, Tail, TailReader};
use tokio::{sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

pub(crate) use self::cargo::{Cargo, Outgoing};
pub use self::status::{CarrierState, CarrierStatus};
use self::term::{Stop, Term, oldest, refused};
use crate::{backoff::backoff, envelope::EventSource, topology::Nats};

/// How far before its checkpoint the work carrier begins when the stream of work is new: what was on a lost stream and no
/// worker had taken yet is published again. Dispatch keeps the stream shallow, so this covers it many times.
const WORK_LOOKBACK: i64 = 10_000;

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

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
