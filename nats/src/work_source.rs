//! Executions for the worker of this process, from NATS, or from the log while NATS is away.
//!
//! A worker asks for as many as it has room for and gets at most that many. While every queue has work the slots are shared by
//! [`Queue::weight`]; a queue without work leaves its share to the others.
//!
//! With NATS the queues' shared consumers hand each item to one process. Without it, or when it has been away for
//! [`WorkSourceConfig::grace`], dispatches are read from the log from a little before the work carrier's checkpoint, so that what is stuck
//! on a NATS that is away is found as well. Items can so come twice, or to two processes, and never not at all: the claim in the
//! log lets one of them win. What the work carrier of the same process lays on the [`crate::desk`] comes before either.

mod held;

use std::{pin::Pin, sync::Arc, task::Poll, time::Duration};

use async_nats::jetstream::{
    self, AckKind,
    consumer::{PullConsumer, pull},
};
use futures_util::{Stream, StreamExt, future::join_all};
use ledgerline_store::{EventLog, Position, StoreError};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use held::{Held, Remembered, Turns};

use crate::{
    backoff::backoff,
    desk::Desk,
    subject::Queue,
    topology::{Nats, NatsState, TopologyError},
    work::{self, WorkItem},
};

/// How many items of the log are held for the worker before reading pauses.
const MAX_HELD: usize = 1_024;

/// How long a fetch of what is there may take.
const FETCH_PATIENCE: Duration = Duration::from_secs(2);

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

/// An item in the hands of the worker. Dropped without an answer, it is delivered again at once.
#[derive(Debug)]
pub struct Delivery {
    item: WorkItem,
    /// None once it was answered.
    origin: Option<Origin>,
    returns: mpsc::Sender<Returned>,
}

/// Where an item came from, and so who brings it again.
#[derive(Debug)]
enum Origin {
    /// JetStream, which waits for an answer.
    Nats(Box<jetstream::Message>),
    /// The carrier of this process; without an answer it sends the item to JetStream.
    Desk(oneshot::Sender<()>),
    /// The log: nobody else brings it again.
    Log,
}

#[derive(Debug)]
struct Returned {
    item: WorkItem,
    after: Duration,
    /// It came from the log: nobody else brings it again.
    from_log: bool,
    /// What NATS still waits to hear about.
    unanswered: Option<Box<jetstream::Message>>,
}

impl Returned {
    fn at_once(item: WorkItem, origin: Origin) -> Self {
        let from_log = matches!(origin, Origin::Log);
        let unanswered = match origin {
            Origin::Nats(message) => Some(message),
            Origin::Desk(_) | Origin::Log => None,
        };
        Self { item, after: Duration::ZERO, from_log, unanswered }
    }
}

impl Delivery {
    /// What to run.
    #[must_use]
    pub const fn item(&self) -> &WorkItem {
        &self.item
    }

    /// Done, or of no use any more. An acknowledgement that is lost leads to a delivery that the claim in the log refuses.
    pub async fn ack(mut self) {
        match self.origin.take() {
            Some(Origin::Nats(message)) => answer(&message, &self.item, AckKind::Ack).await,
            Some(Origin::Desk(taken)) => {
                // A carrier that is gone has left it to its successor, and the claim in the log refuses it there.
                let _gone = taken.send(());
            }
            Some(Origin::Log) | None => {}
        }
    }

    /// Hands it back: it is delivered again after the delay, here or elsewhere.
    pub async fn nak(mut self, after: Duration) {
        let origin = self.origin.take();
        let from_log = matches!(origin, Some(Origin::Log));
        if let Some(Origin::Nats(message)) = origin {
            let kind = AckKind::Nak((!after.is_zero()).then_some(after));
            answer(&message, &self.item, kind).await;
        }
        // A source that has stopped does not deliver again; the next process finds the dispatch in the log.
        let returned = Returned { item: self.item, after, from_log, unanswered: None };
        let _stopped = self.returns.send(returned).await;
    }

    /// Still running: nobody else gets it for another [`crate::NatsConfig::work_ack_wait`].
    pub async fn in_progress(&self) {
        if let Some(Origin::Nats(message)) = &self.origin {
            answer(message, &self.item, AckKind::Progress).await;
        }
    }
}

async fn answer(message: &jetstream::Message, item: &WorkItem, kind: AckKind) {
    // While NATS is away the client would queue this and could block; the redelivery is fenced by the claim.
    let sent = tokio::time::timeout(Duration::from_secs(1), message.ack_with(kind)).await;
    if !matches!(sent, Ok(Ok(()))) {
        debug!(execution = %item.execution_id, ?kind, "nats did not take an answer");
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(origin) = self.origin.take() {
            let returned = Returned::at_once(self.item, origin);
            // A taker that went away while its items were on the way to it leaves them here.
            if self.returns.try_send(returned).is_err() {
                debug!(execution = %self.item.execution_id, "an unanswered item was not taken back");
            }
        }
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

struct Pulls {
    generation: u64,
    consumers: [PullConsumer; 3],
    /// At most one request for one next item is at the server for each queue.
    waiting: [Option<pull::Batch>; 3],
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

/// What a queue answered to the request for its next item; nothing when the request has expired.
type NextItem = Option<Result<Box<jetstream::Message>, async_nats::Error>>;

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

    /// A queue whose next item was asked for sends it by itself: it need not be looked at.
    fn has_queues_to_look_at(&self) -> bool {
        match &self.side {
            Side::Nats(pulls) => pulls.waiting.iter().any(Option::is_none),
            Side::Undecided { .. } | Side::Log { .. } => false,
        }
    }

    /// What is on the queues now: each queue's share first, then what the others left.
    async fn fetch(&mut self, slots: usize, shares: [usize; 3]) -> Vec<Delivery> {
        let Side::Nats(pulls) = &self.side else { return Vec::new() };
        let mut messages = Vec::new();
        let mut drained = [false; 3];
        let mut broken = false;
        let mut note = |queue: Queue, wanted: usize, fetched: Result<Vec<_>, _>| match fetched {
            Ok(fetched) => {
                drained[queue.index()] = fetched.len() < wanted;
                messages.extend(fetched);
            }
            Err(error) => {
                debug!(%error, %queue, "a queue gives nothing");
                broken = true;
            }
        };
        // Each queue's share at once, for one round trip instead of three.
        let asked = Queue::ALL.map(|queue| async move {
            let wanted = shares[queue.index()];
            let fetched = match wanted {
                0 => Ok(Vec::new()),
                wanted => fetch_now(&pulls.consumers[queue.index()], wanted).await,
            };
            (queue, wanted, fetched)
        });
        for (queue, wanted, fetched) in join_all(asked).await {
            note(queue, wanted, fetched);
        }
        for queue in Queue::ALL {
            let wanted = slots - messages.len();
            if wanted == 0 || drained[queue.index()] || broken {
                continue;
            }
            match fetch_now(&pulls.consumers[queue.index()], wanted).await {
                Ok(fetched) => {
                    drained[queue.index()] = fetched.len() < wanted;
                    messages.extend(fetched);
                }
                Err(error) => {
                    debug!(%error, %queue, "a queue gives nothing");
                    broken = true;
                }
            }
        }
        if broken {
            self.give_up_consumers();
        }
        let mut deliveries = Vec::with_capacity(messages.len());
        for message in messages {
            deliveries.extend(self.open(message).await);
        }
        deliveries
    }

    /// Has the server send the next item of each queue when there is one.
    async fn ask_for_next(&mut self) {
        let wait = self.config.pull_wait;
        let Side::Nats(pulls) = &mut self.side else { return };
        let mut broken = false;
        for (consumer, waiting) in pulls.consumers.iter().zip(&mut pulls.waiting) {
            if waiting.is_none() {
                let asked = consumer.batch().max_messages(1).expires(wait).messages();
                match tokio::time::timeout(FETCH_PATIENCE, asked).await {
                    Ok(Ok(batch)) => *waiting = Some(batch),
                    Ok(Err(_)) | Err(_) => broken = true,
                }
            }
        }
        if broken {
            self.give_up_consumers();
        }
    }

    /// Looks for the consumers anew, after having everything declared again.
    fn give_up_consumers(&mut self) {
        if let Some(nats) = &self.nats {
            nats.suspect();
        }
        self.failures = self.failures.saturating_add(1);
        self.side = Side::Undecided { since: Instant::now() };
    }

    async fn accept(&mut self, item: NextItem, queue: usize) {
        if !matches!(item, Some(Ok(_)))
            && let Side::Nats(pulls) = &mut self.side
        {
            // The request has expired, or was answered and is spent.
            pulls.waiting[queue] = None;
        }
        match item {
            Some(Ok(message)) => {
                if let Some(delivery) = self.open(*message).await {
                    self.serve(Some(delivery)).await;
                }
            }
            Some(Err(error)) => {
                debug!(%error, "a queue refuses to give its next item");
                self.give_up_consumers();
            }
            None => {}
        }
    }

    /// Reads a message of work. One that cannot be read was written by a newer build: it goes back for a newer worker.
    async fn open(&mut self, message: jetstream::Message) -> Option<Delivery> {
        match serde_json::from_slice::<WorkItem>(&message.payload) {
            Ok(item) => Some(self.delivery(item, Origin::Nats(Box::new(message)))),
            Err(error) => {
                warn!(%error, "a message of work cannot be read by this build");
                let later = AckKind::Nak(Some(Duration::from_secs(5)));
                if message.ack_with(later).await.is_err() {
                    debug!("an unreadable message goes back when its time is over");
                }
                None
            }
        }
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

async fn find_consumers(nats: &Nats) -> Result<[PullConsumer; 3], TopologyError> {
    Ok([
        nats.work_consumer(Queue::High).await?,
        nats.work_consumer(Queue::Default).await?,
        nats.work_consumer(Queue::Low).await?,
    ])
}

/// Up to `most` items that are on a queue now.
async fn fetch_now(
    consumer: &PullConsumer,
    most: usize,
) -> Result<Vec<jetstream::Message>, async_nats::Error> {
    let mut fetched = Vec::new();
    let deadline = Instant::now() + FETCH_PATIENCE;
    let asked = consumer.fetch().max_messages(most).messages();
    let mut batch = tokio::time::timeout_at(deadline, asked).await??;
    loop {
        match tokio::time::timeout_at(deadline, batch.next()).await {
            Ok(Some(Ok(message))) => fetched.push(message),
            Ok(None) => return Ok(fetched),
            // What has come is delivered; the next fetch meets the trouble again.
            Ok(Some(Err(error))) => {
                return if fetched.is_empty() { Err(error) } else { Ok(fetched) };
            }
            Err(elapsed) => {
                return if fetched.is_empty() { Err(elapsed.into()) } else { Ok(fetched) };
            }
        }
    }
}

/// The next item of any queue that was asked for one, in order of the queues.
async fn next_item(side: &mut Side) -> (NextItem, usize) {
    let Side::Nats(pulls) = side else { return std::future::pending().await };
    std::future::poll_fn(|context| {
        for (queue, waiting) in pulls.waiting.iter_mut().enumerate() {
            if let Some(batch) = waiting
                && let Poll::Ready(item) = Pin::new(batch).poll_next(context)
            {
                return Poll::Ready((item.map(|item| item.map(Box::new)), queue));
            }
        }
        Poll::Pending
    })
    .await
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
