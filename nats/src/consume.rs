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

mod feed;
mod live_event;

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
    time::Duration,
};

use ledgerline_store::{EventLog, Filter, Position, RecordedEvent};
use tokio::{
    sync::{broadcast, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::feed::{Feed, Line};
pub use self::live_event::{LiveError, LiveEvent};
use crate::{envelope::EventSource, topology::Nats};

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
