//! Executions for the worker of this process, from NATS, or from the log while NATS is away.
//!
//! A worker asks for as many as it has room for and gets at most that many. While every queue has work the slots are shared by
//! [`Queue::weight`]; a queue without work leaves its share to the others.
//!
//! With NATS the queues' shared consumers hand each item to one process. Without it, or when it has been away for
//! [`WorkSourceConfig::grace`], dispatches are read from the log from a little before the work carrier's checkpoint, so that what is stuck
//! on a NATS that is away is found as well. Items can so come twice, or to two processes, and never not at all: the claim in the
//! log lets one of them win. What the work carrier of the same process lays on the [`crate::desk`] comes before either.

mod delivery;
mod held;
mod pulls;

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::AckKind;
use ledgerline_store::{EventLog, Position, StoreError};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

pub use self::delivery::Delivery;
use self::{
    delivery::{Origin, Returned, answer},
    held::{Held, Remembered, Turns},
    pulls::{NextItem, Pulls, find_consumers, next_item},
};
use crate::{
    backoff::backoff,
    desk::Desk,
    topology::{Nats, NatsState},
    work::{self, WorkItem},
};

/// How many items of the log are held for the worker before reading pauses.
const MAX_HELD: usize = 1_024;

/// How work is found.
#[derive(Clone, Debug)]
pub struct WorkSourceConfig {
    /// How long NATS may be away before the log is read instead.
    pub grace: Duration,
    /// How many positions before its starting point the log is read from: dispatches that no worker has taken yet lie there.
    pub lookback: i64,
    /// Where to start in the log; without it, at the work carrier's checkpoint or, where nothing carries, at the head.
    pub start: Option<Position>,
    /// How often the log is looked at when nothing says that it moved.
    pub floor: Duration,
    /// How long one request for the next item waits at the server.
    pub pull_wait: Duration,
}

impl Default for WorkSourceConfig {
    fn default() -> Self {
        Self {
            grace: Duration::from_millis(500),
            lookback: 10_000,
            start: None,
            floor: Duration::from_millis(500),
            pull_wait: Duration::from_secs(5),
        }
    }
}

/// Where this process's worker gets its executions. Cheap to clone; one taker at a time.
#[derive(Clone, Debug)]
pub struct WorkSource {
    requests: mpsc::Sender<Request>,
}

#[derive(Debug)]
struct Request {
    slots: usize,
    reply: oneshot::Sender<Vec<Delivery>>,
}

impl WorkSource {
    /// Starts looking for work. Nothing is requested before the first [`WorkSource::take`].
    #[must_use]
    pub fn start(
        log: Arc<dyn EventLog>,
        nats: Option<Nats>,
        config: WorkSourceConfig,
        tracker: &TaskTracker,
        cancel: CancellationToken,
    ) -> Self {
        let (requests, receiver) = mpsc::channel(16);
        let (returns_sender, returns) = mpsc::channel(MAX_HELD);
        let nats_desk = nats.as_ref().map(|nats| Arc::clone(nats.desk())).unwrap_or_default();
        let seeker = Seeker {
            head: log.watch_head(),
            state: nats.as_ref().map(Nats::state),
            log,
            nats,
            config,
            cancel,
            requests: receiver,
            request: None,
            returns,
            returns_sender,
            held: Held::default(),
            delayed: Vec::new(),
            remembered: Remembered::default(),
            turns: Turns::default(),
            desk: nats_desk,
            waits_for: 0,
            side: Side::Undecided { since: Instant::now() },
            failures: 0,
        };
        tracker.spawn(seeker.run());
        Self { requests }
    }

    /// At least one item and at most `slots`, as soon as there is one. `None` when the process stops. Dropping the future gives
    /// the items back.
    pub async fn take(&self, slots: usize) -> Option<Vec<Delivery>> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request { slots: slots.max(1), reply }).await.ok()?;
        answer.await.ok()
    }
}

/// Where work comes from now.
enum Side {
    /// NATS is not there, and may be in a moment.
    Undecided { since: Instant },
    /// From NATS, through consumers that were found under a generation.
    Nats(Box<Pulls>),
    /// From the log, after this position.
    Log { cursor: Position, read_at: Instant },
}

struct Seeker {
    log: Arc<dyn EventLog>,
    head: watch::Receiver<Position>,
    nats: Option<Nats>,
    state: Option<watch::Receiver<NatsState>>,
    config: WorkSourceConfig,
    cancel: CancellationToken,
    requests: mpsc::Receiver<Request>,
    request: Option<Request>,
    returns: mpsc::Receiver<Returned>,
    returns_sender: mpsc::Sender<Returned>,
    held: Held,
    delayed: Vec<(Instant, WorkItem)>,
    remembered: Remembered,
    turns: Turns,
    desk: Arc<Desk>,
    /// For how many items the carrier of this process knows that the worker waits.
    waits_for: usize,
    side: Side,
    failures: u32,
}

/// What woke the seeker.
enum Woken {
    Stop,
    Asked(Request),
    AskerGone,
    Returned(Returned),
    Item(NextItem, usize),
    Look,
}

impl Seeker {
    async fn run(mut self) {
        loop {
            let now = Instant::now();
            self.release_delayed(now);
            self.choose_side(now).await;
            if let Side::Log { read_at, .. } = self.side
                && read_at <= now
                && self.held.len() < MAX_HELD
            {
                self.read_log(now).await;
            }
            self.serve(None).await;
            match self.wait().await {
                Woken::Stop => return,
                Woken::Asked(request) => self.request = Some(request),
                Woken::AskerGone => {
                    self.desk.wait_for(&mut self.waits_for, 0);
                    self.request = None;
                }
                Woken::Returned(returned) => self.take_back(returned).await,
                Woken::Item(item, queue) => self.accept(item, queue).await,
                Woken::Look => {}
            }
        }
    }

    async fn take_back(&mut self, returned: Returned) {
        self.remembered.remove(&returned.item);
        if let Some(message) = &returned.unanswered {
            answer(message, &returned.item, AckKind::Nak(None)).await;
        }
        if returned.from_log {
            self.delayed.push((Instant::now() + returned.after, returned.item));
        }
    }

    fn release_delayed(&mut self, now: Instant) {
        let held = &mut self.held;
        self.delayed.retain(|(due, item)| {
            let waits = *due > now;
            if !waits {
                held.push(*item);
            }
            waits
        });
    }

    async fn choose_side(&mut self, now: Instant) {
        let generation =
            self.state.as_mut().and_then(|state| state.borrow_and_update().generation());
        match (&self.side, generation) {
            (Side::Nats(pulls), Some(current)) if pulls.generation == current => {}
            (_, Some(current)) => self.turn_to_nats(current).await,
            (Side::Nats(_), None) => self.side = Side::Undecided { since: now },
            (Side::Undecided { since }, None)
                if self.nats.is_none() || now >= *since + self.config.grace =>
            {
                self.turn_to_log(now).await;
            }
            (Side::Undecided { .. } | Side::Log { .. }, None) => {}
        }
    }

    async fn turn_to_nats(&mut self, generation: u64) {
        let Some(nats) = self.nats.clone() else { return };
        match find_consumers(&nats).await {
            Ok(consumers) => {
                debug!(generation, "work comes from nats");
                self.failures = 0;
                self.side = Side::Nats(Box::new(Pulls {
                    generation,
                    consumers,
                    waiting: [None, None, None],
                }));
            }
            Err(error) => {
                warn!(%error, "nats is there but gives no work");
                nats.suspect();
                if matches!(self.side, Side::Nats(_)) {
                    self.side = Side::Undecided { since: Instant::now() };
                }
                self.failures = self.failures.saturating_add(1);
            }
        }
    }

    async fn turn_to_log(&mut self, now: Instant) {
        match self.starting_point().await {
            Ok(cursor) => {
                info!(after = %cursor, "work comes from the log");
                self.failures = 0;
                self.side = Side::Log { cursor, read_at: now };
            }
            Err(error) => {
                warn!(%error, "work can come neither from nats nor from the log");
                self.failures = self.failures.saturating_add(1);
                let again = now + self.pause();
                self.side = Side::Undecided { since: again };
            }
        }
    }

    async fn starting_point(&self) -> Result<Position, StoreError> {
        if let Some(start) = self.config.start {
            return Ok(start);
        }
        let from = if self.nats.is_some() {
            self.log.checkpoint(work::READER).await?
        } else {
            self.log.head().await?.position
        };
        Ok(Position((from.0 - self.config.lookback).max(0)))
    }

    fn pause(&self) -> Duration {
        backoff(self.failures, Duration::from_millis(20), Duration::from_secs(2))
    }

    async fn read_log(&mut self, now: Instant) {
        let Side::Log { cursor, .. } = self.side else { return };
        let head = *self.head.borrow_and_update();
        let room = MAX_HELD - self.held.len();
        let (cursor, read_at) = match self.read_items(cursor, room).await {
            Ok((items, upto)) => {
                self.failures = 0;
                let more = items.len() >= room || (upto > cursor && upto < head);
                let new = items.into_iter().filter(|item| !self.remembered.holds(item));
                new.for_each(|item| self.held.push(item));
                (upto, if more { now } else { now + self.config.floor })
            }
            Err(error) => {
                warn!(%error, after = %cursor, "work cannot be read from the log");
                self.failures = self.failures.saturating_add(1);
                (cursor, now + self.pause())
            }
        };
        self.side = Side::Log { cursor, read_at };
    }

    async fn read_items(
        &self,
        after: Position,
        limit: usize,
    ) -> Result<(Vec<WorkItem>, Position), StoreError> {
        let (events, upto) = self.log.read(after, limit, &work::dispatches()).await?;
        let items = events.iter().map(WorkItem::from_event).collect::<Result<Vec<_>, _>>();
        let items = items.map_err(|error| StoreError::Corrupt { reason: error.to_string() })?;
        Ok((items, upto))
    }

    /// Answers the worker when there is something for it, beginning with an item that has just come.
    async fn serve(&mut self, came: Option<Delivery>) {
        let Some(request) = self.request.take() else {
            if let Some(delivery) = came {
                // It came after the worker's last slot was taken: another worker may have room.
                self.hand_back(delivery).await;
            }
            return;
        };
        self.desk.wait_for(&mut self.waits_for, 0);
        let mut deliveries: Vec<Delivery> = came.into_iter().collect();
        let free = request.slots - deliveries.len();
        for item in self.held.take(&mut self.turns, free) {
            deliveries.push(self.delivery(item, Origin::Log));
        }
        for handed in self.desk.take(request.slots - deliveries.len()) {
            deliveries.push(self.delivery(handed.item, Origin::Desk(handed.taken)));
        }
        // What is at hand is given at once: each look at the queues is a round trip, and the worker asks again right away.
        if deliveries.is_empty() && self.has_queues_to_look_at() {
            let shares = self.turns.share(request.slots);
            deliveries = self.fetch(request.slots, shares).await;
        }
        if deliveries.is_empty() {
            self.ask_for_next().await;
            self.desk.wait_for(&mut self.waits_for, request.slots);
            self.request = Some(request);
        } else if let Err(deliveries) = request.reply.send(deliveries) {
            for delivery in deliveries {
                self.hand_back(delivery).await;
            }
        }
    }

    /// Gives back what the worker never saw.
    async fn hand_back(&mut self, mut delivery: Delivery) {
        if let Some(origin) = delivery.origin.take() {
            self.take_back(Returned::at_once(delivery.item, origin)).await;
        }
    }

    fn delivery(&mut self, item: WorkItem, origin: Origin) -> Delivery {
        self.remembered.insert(&item);
        Delivery { item, origin: Some(origin), returns: self.returns_sender.clone() }
    }

    async fn wait(&mut self) -> Woken {
        let now = Instant::now();
        let delayed = self.delayed.iter().map(|(due, _)| *due).min();
        let (look_at, from_log) = match (&self.side, &self.state) {
            (Side::Log { read_at, .. }, _) => (Some(*read_at), self.held.len() < MAX_HELD),
            (Side::Undecided { since }, _) => {
                (Some((*since + self.config.grace).max(now + self.pause())), false)
            }
            (Side::Nats(_), _) => (None, false),
        };
        let look_at =
            if from_log || matches!(self.side, Side::Undecided { .. }) { look_at } else { None };
        let next_look = look_at.into_iter().chain(delayed).min();
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Woken::Stop,
            () = asker_gone(&mut self.request) => Woken::AskerGone,
            Some(returned) = self.returns.recv() => Woken::Returned(returned),
            request = self.requests.recv(), if self.request.is_none() => {
                request.map_or(Woken::Stop, Woken::Asked)
            }
            () = self.desk.came(), if self.request.is_some() => Woken::Look,
            (item, queue) = next_item(&mut self.side) => Woken::Item(item, queue),
            () = state_changed(&mut self.state) => Woken::Look,
            changed = self.head.changed(), if from_log => {
                if changed.is_err() { return Woken::Stop }
                if let Side::Log { read_at, .. } = &mut self.side {
                    *read_at = Instant::now();
                }
                Woken::Look
            }
            () = tokio::time::sleep_until(next_look.unwrap_or(now)), if next_look.is_some() => Woken::Look,
        }
    }
}

async fn asker_gone(request: &mut Option<Request>) {
    match request {
        Some(request) => request.reply.closed().await,
        None => std::future::pending().await,
    }
}

async fn state_changed(state: &mut Option<watch::Receiver<NatsState>>) {
    if let Some(changes) = state
        && changes.changed().await.is_ok()
    {
        return;
    }
    // The keeper ended with the process; the cancellation is what stops us.
    *state = None;
    std::future::pending().await
}
