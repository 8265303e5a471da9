//! All events from now on, in position order without hole or double, for the sockets of this process.
//!
//! The gateway hears from two sides. NATS brings each event once to every process without asking Postgres; the log's own head
//! (by the local watch after an append of this process, by the database's hint after another's) says how far there is to hear.
//! An event that NATS has not brought within [`GatewayConfig::patience`] of the head moving is read from the log, and so is
//! every hole. With NATS away the log alone feeds it. So latency is bounded by one read whatever NATS and the relay do, and in the usual
//! case a process costs Postgres nothing.
//!
//! Reading the log at once instead would be a little faster for the process that appended, and would make every process read
//! every event: the database would pay for each gateway. Sending what this process appended straight to its sockets would need
//! a second path with its own order.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_nats::jetstream::{self, consumer::pull};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future::BoxFuture};
use ledgerline_store::{
    EventLog, Filter, Position, RecordedEvent, StoreError, StreamId, Workspace,
};
use metrics::counter;
use tokio::{
    sync::{broadcast, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use crate::{
    backoff::backoff,
    envelope::{EventSource, encode},
    relay::POSITION_HEADER,
    subject::Subject,
    topology::{Nats, NatsState, TopologyError},
};

/// How the gateway weighs NATS against the log.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// How long NATS may take for an event that the log is known to hold.
    pub patience: Duration,
    /// How often the log is looked at when nothing says that it moved.
    pub floor: Duration,
    /// Most events of one read.
    pub batch: usize,
    /// How many events a subscriber may be behind before it is told that it lags.
    pub buffer: usize,
    /// After this time in which only the log brought events, NATS is asked anew.
    pub silence: Duration,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            patience: Duration::from_millis(3),
            floor: Duration::from_millis(500),
            batch: 1_000,
            buffer: 8_192,
            silence: Duration::from_secs(10),
        }
    }
}

/// An event on its way to sockets: what channels are chosen by, and its CloudEvents bytes as they are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveEvent {
    /// Its place in the log.
    pub position: Position,
    /// The workspace it belongs to.
    pub workspace: Workspace,
    /// The noun of its stream.
    pub category: Box<str>,
    /// Its stream.
    pub stream: StreamId,
    /// Its stored type name.
    pub r#type: Box<str>,
    /// The envelope, see [`crate::envelope`].
    pub bytes: Bytes,
}

impl LiveEvent {
    /// The same event as the gateway would bring it, for whoever reads the log itself.
    #[must_use]
    pub fn from_recorded(event: &RecordedEvent, source: &EventSource) -> Self {
        Self {
            position: event.position,
            workspace: event.workspace,
            category: event.category.as_str().into(),
            stream: event.stream,
            r#type: event.r#type.as_str().into(),
            bytes: Bytes::from(encode(event, source)),
        }
    }

    /// Whether it passes a filter.
    #[must_use]
    pub fn passes(&self, filter: &Filter) -> bool {
        filter.workspace.is_none_or(|workspace| workspace == self.workspace)
            && filter.stream.is_none_or(|stream| stream == self.stream)
            && (filter.categories.is_empty()
                || filter.categories.iter().any(|category| **category == *self.category))
            && (filter.types.is_empty() || filter.types.iter().any(|name| **name == *self.r#type))
    }
}

/// Why a subscriber gets no more events from here.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// It was too slow: it has everything up to `position` and goes on from there with a new subscription.
    #[error("the subscriber is too slow; it has everything up to position {position}")]
    Lagged {
        /// The last position it was given.
        position: Position,
    },
    /// The process stops.
    #[error("the gateway has stopped")]
    Stopped,
    /// The gap before the live events cannot be read.
    #[error("the log cannot be read")]
    Log(#[from] StoreError),
}

/// The process's one source of live events. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    shared: Arc<Shared>,
    log: Arc<dyn EventLog>,
    position: watch::Receiver<Option<Position>>,
}

struct Shared {
    events: broadcast::Sender<Arc<LiveEvent>>,
    source: OnceLock<EventSource>,
}

impl Gateway {
    /// Starts it at the head of the log.
    #[must_use]
    pub fn start(
        log: Arc<dyn EventLog>,
        nats: Option<Nats>,
        config: GatewayConfig,
        tracker: &TaskTracker,
        cancel: CancellationToken,
    ) -> Self {
        let shared = Arc::new(Shared {
            events: broadcast::Sender::new(config.buffer),
            source: OnceLock::new(),
        });
        let (sender, position) = watch::channel(None);
        let head = log.watch_head();
        let state = nats.as_ref().map(Nats::state);
        let feed = Feed {
            log: Arc::clone(&log),
            head,
            nats,
            state,
            config,
            cancel,
            shared: Arc::downgrade(&shared),
            announced: sender,
            position: Position::START,
            wanted: None,
            failures: 0,
            line: Line::Closed { again: Instant::now() },
            heard: Instant::now(),
        };
        tracker.spawn(feed.run());
        Self { shared, log, position }
    }

    /// Every event up to here was handed to the subscribers. [`Position::START`] until the log's head is known.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position.borrow().unwrap_or_default()
    }

    /// All events after [`Subscription::position`]. Waits until the log's head is known.
    ///
    /// # Errors
    /// [`LiveError::Stopped`] when the process stops.
    pub async fn subscribe(&self) -> Result<Subscription, LiveError> {
        let mut position = self.position.clone();
        position.wait_for(Option::is_some).await.map_err(|_closed| LiveError::Stopped)?;
        // First listen, then look where we are: the position moves before an event is sent, so nothing falls between.
        let receiver = self.shared.events.subscribe();
        Ok(Subscription { receiver, position: self.position() })
    }

    /// All events after a position that pass a filter: first from the log, then live, without a hole or a double.
    ///
    /// # Errors
    /// [`LiveError::Stopped`] when the process stops.
    pub async fn follow(&self, after: Position, filter: Filter) -> Result<Follow, LiveError> {
        let live = self.subscribe().await?;
        Ok(Follow { gateway: self.clone(), live, position: after, filter, read: VecDeque::new() })
    }

    /// The `source` of this log's events. `None` until the log was reached for the first time.
    #[must_use]
    pub fn source(&self) -> Option<&EventSource> {
        self.shared.source.get()
    }
}

/// One subscriber's view of the gateway.
#[derive(Debug)]
pub struct Subscription {
    receiver: broadcast::Receiver<Arc<LiveEvent>>,
    position: Position,
}

impl Subscription {
    /// Every event after this comes, or came.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.position
    }

    /// The next event: always the one right after [`Subscription::position`].
    ///
    /// # Errors
    /// [`LiveError::Lagged`] when the subscriber was too slow, [`LiveError::Stopped`] at the end of the process.
    pub async fn recv(&mut self) -> Result<Arc<LiveEvent>, LiveError> {
        loop {
            match self.receiver.recv().await {
                Ok(event) if event.position <= self.position => {}
                Ok(event) => {
                    self.position = event.position;
                    return Ok(event);
                }
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    return Err(LiveError::Lagged { position: self.position });
                }
                Err(broadcast::error::RecvError::Closed) => return Err(LiveError::Stopped),
            }
        }
    }
}

/// Events from a position on, first out of the log, then live. It reads the log again when it was too slow for the live events.
pub struct Follow {
    gateway: Gateway,
    live: Subscription,
    position: Position,
    filter: Filter,
    read: VecDeque<RecordedEvent>,
}

impl Follow {
    /// Everything up to here was returned or did not pass the filter.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.position
    }

    /// The next event that passes. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`LiveError::Stopped`] at the end of the process, [`LiveError::Log`] when the gap cannot be read: both can be tried again.
    pub async fn next(&mut self) -> Result<Arc<LiveEvent>, LiveError> {
        const BATCH: usize = 500;
        loop {
            if let Some(event) = self.read.pop_front() {
                let source = self.gateway.source().ok_or(LiveError::Stopped)?;
                self.position = event.position;
                return Ok(Arc::new(LiveEvent::from_recorded(&event, source)));
            }
            if self.position < self.live.position {
                let log = Arc::clone(&self.gateway.log);
                let (events, upto) = log.read(self.position, BATCH, &self.filter).await?;
                if events.is_empty() {
                    self.position = if upto > self.position { upto } else { self.live.position };
                }
                self.read = events.into();
                continue;
            }
            match self.live.recv().await {
                Ok(event) if event.position <= self.position => {}
                Ok(event) => {
                    self.position = event.position;
                    if event.passes(&self.filter) {
                        return Ok(event);
                    }
                }
                Err(LiveError::Lagged { .. }) => self.live = self.gateway.subscribe().await?,
                Err(error) => return Err(error),
            }
        }
    }
}

/// The line to NATS.
enum Line {
    /// Not open; it is opened at this time when NATS is ready.
    Closed { again: Instant },
    /// Being opened under a generation.
    Opening { generation: u64, consumer: BoxFuture<'static, Result<pull::Ordered, TopologyError>> },
    /// Open since a generation.
    Open { generation: u64, consumer: Box<pull::Ordered> },
}

struct Feed {
    log: Arc<dyn EventLog>,
    head: watch::Receiver<Position>,
    nats: Option<Nats>,
    state: Option<watch::Receiver<NatsState>>,
    config: GatewayConfig,
    cancel: CancellationToken,
    shared: std::sync::Weak<Shared>,
    announced: watch::Sender<Option<Position>>,
    position: Position,
    /// A position that the log holds and that we wait for, and when we stop waiting for NATS to bring it.
    wanted: Option<(Position, Instant)>,
    failures: u32,
    line: Line,
    /// When NATS brought something last.
    heard: Instant,
}

/// What woke the feed.
enum Woken {
    Stop,
    Message(Box<jetstream::Message>),
    LineBroke,
    LineOpen,
    NatsChanged,
    HeadMoved,
    ReadDue,
    Floor,
}

impl Feed {
    async fn run(mut self) {
        if !self.begin().await {
            return;
        }
        loop {
            self.tend_line();
            match self.wait().await {
                Woken::Stop => return,
                Woken::Message(message) => self.accept(&message).await,
                Woken::LineBroke => self.line = Line::Closed { again: self.later() },
                Woken::LineOpen | Woken::NatsChanged => {}
                Woken::HeadMoved => self.want_head(),
                Woken::ReadDue | Woken::Floor => self.read_log().await,
            }
            if self.wanted.is_none_or(|(wanted, _)| wanted <= self.position) {
                self.wanted = None;
                self.want_head();
            }
        }
    }

    /// Finds the head to start from. False when the process stops first.
    async fn begin(&mut self) -> bool {
        loop {
            let head = tokio::select! {
                () = self.cancel.cancelled() => return false,
                head = self.log.head() => head,
            };
            match head {
                Ok(head) => {
                    let Some(shared) = self.shared.upgrade() else { return false };
                    shared.source.get_or_init(|| EventSource::of_log(head.log_id));
                    self.position = head.position;
                    self.announced.send_replace(Some(head.position));
                    return true;
                }
                Err(error) => {
                    warn!(%error, "the gateway cannot find the head of the log");
                    let again = self.later();
                    tokio::select! {
                        () = self.cancel.cancelled() => return false,
                        () = tokio::time::sleep_until(again) => {}
                    }
                }
            }
        }
    }

    fn later(&mut self) -> Instant {
        let wait = backoff(self.failures, Duration::from_millis(20), Duration::from_secs(2));
        self.failures = self.failures.saturating_add(1);
        Instant::now() + wait
    }

    /// Opens the line when NATS is ready, and drops one that was made before NATS came back.
    fn tend_line(&mut self) {
        let generation =
            self.state.as_mut().and_then(|state| state.borrow_and_update().generation());
        let now = Instant::now();
        match (&self.line, generation, &self.nats) {
            (
                Line::Open { generation: of, .. } | Line::Opening { generation: of, .. },
                current,
                _,
            ) if current != Some(*of) => {
                self.line = Line::Closed { again: now };
                self.tend_line();
            }
            (Line::Closed { again }, Some(generation), Some(nats)) if *again <= now => {
                let nats = nats.clone();
                let consumer = async move { nats.new_events().await }.boxed();
                self.line = Line::Opening { generation, consumer };
            }
            _ => {}
        }
    }

    async fn wait(&mut self) -> Woken {
        let read_at = self.wanted.map(|(_, at)| at);
        let floor = Instant::now() + self.config.floor;
        let reopen_at = match (&self.line, &self.state) {
            (Line::Closed { again }, Some(state)) if state.borrow().is_ready() => Some(*again),
            _ => None,
        };
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Woken::Stop,
            woken = heard(&mut self.line) => woken,
            () = state_changed(&mut self.state) => Woken::NatsChanged,
            changed = self.head.changed() => {
                if changed.is_err() { Woken::Stop } else { Woken::HeadMoved }
            }
            () = tokio::time::sleep_until(read_at.unwrap_or(floor)), if read_at.is_some() => Woken::ReadDue,
            () = tokio::time::sleep_until(reopen_at.unwrap_or(floor)), if reopen_at.is_some() => Woken::NatsChanged,
            () = tokio::time::sleep_until(floor) => Woken::Floor,
        }
    }

    /// Notes that the log holds more than we have, and how long NATS may take to bring it.
    fn want_head(&mut self) {
        let head = *self.head.borrow_and_update();
        if self.wanted.is_none() && head > self.position {
            let patience = match self.line {
                Line::Open { .. } => self.config.patience,
                Line::Closed { .. } | Line::Opening { .. } => Duration::ZERO,
            };
            self.wanted = Some((head, Instant::now() + patience));
        }
    }

    async fn accept(&mut self, message: &jetstream::Message) {
        self.heard = Instant::now();
        let Some(nats) = &self.nats else { return };
        let Some(event) = live_event(message, nats) else {
            debug!(subject = %message.subject, "a foreign message is on the stream of events");
            return;
        };
        if event.position > self.position.next() {
            counter!("ledgerline_gateway_holes_total").increment(1);
            self.read_log().await;
        }
        if event.position == self.position.next() {
            counter!("ledgerline_gateway_events_total", "from" => "nats").increment(1);
            self.deliver(event);
        }
    }

    /// Reads the log to its end and hands out what is new.
    async fn read_log(&mut self) {
        let all = Filter::default();
        loop {
            let read = self.log.read(self.position, self.config.batch, &all);
            let read = tokio::select! {
                () = self.cancel.cancelled() => return,
                read = read => read,
            };
            match read {
                Ok((events, _)) => {
                    let full = events.len() >= self.config.batch;
                    self.deliver_read(&events);
                    let head = *self.head.borrow();
                    if events.is_empty() && head > self.position {
                        // A replica that is behind, say: ask again, but not in a busy loop.
                        self.wanted = Some((head, self.later()));
                        return;
                    }
                    self.failures = 0;
                    if !full {
                        self.wanted = None;
                        return;
                    }
                }
                Err(error) => {
                    warn!(%error, position = %self.position, "the gateway cannot read the log");
                    self.wanted = Some((self.position.next(), self.later()));
                    return;
                }
            }
        }
    }

    fn deliver_read(&mut self, events: &[RecordedEvent]) {
        let Some(shared) = self.shared.upgrade() else { return };
        let Some(source) = shared.source.get() else { return };
        counter!("ledgerline_gateway_events_total", "from" => "log").increment(events.len() as u64);
        for event in events {
            self.deliver(LiveEvent::from_recorded(event, source));
        }
        if !events.is_empty()
            && matches!(self.line, Line::Open { .. })
            && self.heard.elapsed() > self.config.silence
        {
            debug!("nats brought nothing while the log moved: asking it anew");
            self.heard = Instant::now();
            self.line = Line::Closed { again: Instant::now() };
        }
    }

    fn deliver(&mut self, event: LiveEvent) {
        self.position = event.position;
        // Before the event is sent: see `Gateway::subscribe`.
        self.announced.send_replace(Some(event.position));
        if let Some(shared) = self.shared.upgrade() {
            // Nobody listening is no error.
            let _listeners = shared.events.send(Arc::new(event));
        }
    }
}

/// Waits for the line to open, to bring a message or to break.
async fn heard(line: &mut Line) -> Woken {
    match line {
        Line::Closed { .. } => std::future::pending().await,
        Line::Opening { generation, consumer } => match consumer.await {
            Ok(consumer) => {
                let generation = *generation;
                *line = Line::Open { generation, consumer: Box::new(consumer) };
                Woken::LineOpen
            }
            Err(error) => {
                warn!(%error, "the gateway cannot follow nats; it reads the log");
                Woken::LineBroke
            }
        },
        Line::Open { consumer, .. } => match consumer.next().await {
            Some(Ok(message)) => Woken::Message(Box::new(message)),
            Some(Err(error)) => {
                debug!(%error, "the line to nats broke");
                Woken::LineBroke
            }
            None => Woken::LineBroke,
        },
    }
}

async fn state_changed(state: &mut Option<watch::Receiver<NatsState>>) {
    match state {
        Some(state) => {
            if state.changed().await.is_err() {
                // The keeper ended with the process; the cancellation is what stops us.
                std::future::pending().await
            }
        }
        None => std::future::pending().await,
    }
}

fn live_event(message: &jetstream::Message, nats: &Nats) -> Option<LiveEvent> {
    let position = message.headers.as_ref()?.get(POSITION_HEADER)?.as_str().parse().ok()?;
    match nats.prefix().parse(&message.subject)? {
        Subject::Event { workspace, category, stream, r#type } => Some(LiveEvent {
            position: Position(position),
            workspace,
            category: category.into(),
            stream,
            r#type: r#type.into(),
            bytes: message.payload.clone(),
        }),
        Subject::Work(_) | Subject::Logs { .. } => None,
    }
}
