//! The live end of the log, read and decoded once per process for all its readers.
//!
//! One task follows the head and keeps the newest events in a bounded window. A reader is a position: inside the window it
//! takes shared events, at its end it waits, and before it (it is far behind, or slow) it reads the log on its own until it
//! has caught up. Positions are dense, so where a reader stands in the window is arithmetic, and it can neither skip nor
//! receive an event twice.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::{EventLog, Filter, Position, RecordedEvent, StoreError};

/// How many events one read of the tail takes.
const READ_EVENTS: usize = 2_000;

/// What the window holds at most, in events and in bytes of payload and metadata.
const WINDOW_EVENTS: usize = 20_000;
const WINDOW_BYTES: usize = 64 * 1024 * 1024;

/// The floor under hints: the head is looked at this often even when nothing woke the tail.
const FLOOR: Duration = Duration::from_secs(1);

/// The shared end of the log of one process.
pub struct Tail {
    shared: Arc<Shared>,
}

struct Shared {
    log: Arc<dyn EventLog>,
    window: RwLock<Window>,
    /// The end of the window; changes wake readers.
    end: watch::Sender<Position>,
    readers: AtomicUsize,
    reader_came: Notify,
    stopped: CancellationToken,
}

/// Events `end - len + 1 ..= end`.
struct Window {
    events: VecDeque<Arc<RecordedEvent>>,
    bytes: usize,
    end: Position,
}

impl Tail {
    /// Starts the task that follows the log, on the tracker, until the token is cancelled. It reads only while somebody
    /// listens.
    #[must_use]
    pub fn start(
        log: Arc<dyn EventLog>,
        tracker: &TaskTracker,
        cancel: CancellationToken,
    ) -> Arc<Self> {
        let end = *log.watch_head().borrow();
        let shared = Arc::new(Shared {
            log,
            window: RwLock::new(Window { events: VecDeque::new(), bytes: 0, end }),
            end: watch::Sender::new(end),
            readers: AtomicUsize::new(0),
            reader_came: Notify::new(),
            stopped: cancel.clone(),
        });
        let following = Arc::clone(&shared);
        tracker.spawn(async move { cancel.run_until_cancelled_owned(following.follow()).await });
        Arc::new(Self { shared })
    }

    /// A reader of everything after a position.
    #[must_use]
    pub fn reader(&self, after: Position) -> TailReader {
        self.shared.readers.fetch_add(1, Ordering::AcqRel);
        self.shared.reader_came.notify_one();
        TailReader { shared: Arc::clone(&self.shared), end: self.shared.end.subscribe(), after }
    }

    /// What follows a position as far as it is in memory, in order and without a hole: nothing at the end. `None` when the window
    /// begins after it, so that the log itself must be read. Only while somebody has a [`Tail::reader`] does the window move.
    #[must_use]
    pub fn at_hand(&self, after: Position, max: usize) -> Option<Vec<Arc<RecordedEvent>>> {
        match self.shared.window().after(after, max) {
            Found::Events(events) => Some(events),
            Found::AtEnd => Some(Vec::new()),
            Found::Behind => None,
        }
    }

    /// The end of the window; changes wake the watcher.
    #[must_use]
    pub fn watch_end(&self) -> watch::Receiver<Position> {
        self.shared.end.subscribe()
    }
}

impl fmt::Debug for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tail").field("end", &*self.shared.end.borrow()).finish_non_exhaustive()
    }
}

impl Shared {
    async fn follow(&self) {
        let mut head = self.log.watch_head();
        loop {
            while self.readers.load(Ordering::Acquire) == 0 {
                self.reader_came.notified().await;
            }
            let known = *head.borrow_and_update();
            let end = self.window().end;
            if known.0 > end.0.saturating_add(as_positions(WINDOW_EVENTS)) {
                // So far behind that nothing of it would be in the window in the end: start again from the head.
                self.jump(known);
                continue;
            }
            let floor = Instant::now() + FLOOR;
            match self.log.read(end, READ_EVENTS, &Filter::default()).await {
                Ok((events, _)) if events.is_empty() => {}
                Ok((events, _)) => {
                    self.extend(events);
                    continue;
                }
                Err(error) => {
                    warn!(%error, "the tail cannot read the log");
                    sleep(FLOOR).await;
                }
            }
            tokio::select! {
                changed = head.changed() => if changed.is_err() { return },
                () = sleep_until(floor) => {}
            }
        }
    }

    fn extend(&self, events: Vec<RecordedEvent>) {
        let mut window = self.window.write().unwrap_or_else(PoisonError::into_inner);
        for event in events {
            debug_assert_eq!(event.position, window.end.next(), "positions are dense");
            window.end = event.position;
            window.bytes += weight(&event);
            window.events.push_back(Arc::new(event));
        }
        while window.events.len() > WINDOW_EVENTS || window.bytes > WINDOW_BYTES {
            let Some(oldest) = window.events.pop_front() else { break };
            window.bytes -= weight(&oldest);
        }
        self.end.send_replace(window.end);
    }

    fn jump(&self, to: Position) {
        let mut window = self.window.write().unwrap_or_else(PoisonError::into_inner);
        *window = Window { events: VecDeque::new(), bytes: 0, end: to };
        self.end.send_replace(to);
    }

    fn window(&self) -> std::sync::RwLockReadGuard<'_, Window> {
        self.window.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the window has for a reader.
enum Found {
    Events(Vec<Arc<RecordedEvent>>),
    /// The reader has seen everything in the window.
    AtEnd,
    /// The window begins after what the reader needs next.
    Behind,
}

impl Window {
    fn after(&self, after: Position, max: usize) -> Found {
        if after >= self.end {
            return Found::AtEnd;
        }
        let start = self.end.0 - as_positions(self.events.len());
        match usize::try_from(after.0 - start) {
            Ok(seen) => Found::Events(self.events.range(seen..).take(max).cloned().collect()),
            Err(_) => Found::Behind,
        }
    }
}

fn weight(event: &RecordedEvent) -> usize {
    event.payload.len() + event.metadata.len()
}

fn as_positions(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// One reader of the tail. It stands after the last event that it was given.
pub struct TailReader {
    shared: Arc<Shared>,
    end: watch::Receiver<Position>,
    after: Position,
}

impl TailReader {
    /// Waits for at least one event and returns up to `max` (at least one) that follow, in order. Safe to cancel: what was not
    /// returned comes with the next call.
    ///
    /// # Errors
    /// When the log cannot be read, or when the tail has stopped. The reader stays where it is and may be asked again.
    pub async fn next_batch(&mut self, max: usize) -> Result<Vec<Arc<RecordedEvent>>, StoreError> {
        let max = max.max(1);
        loop {
            self.end.borrow_and_update();
            let found = self.shared.window().after(self.after, max);
            let events = match found {
                Found::Events(events) => events,
                Found::Behind => self.read_alone(max).await?,
                Found::AtEnd => Vec::new(),
            };
            if let Some(last) = events.last() {
                self.after = last.position;
                return Ok(events);
            }
            tokio::select! {
                _ = self.end.changed() => {}
                () = self.shared.stopped.cancelled() => {
                    return Err(StoreError::Unavailable("the tail has stopped".into()));
                }
            }
        }
    }

    /// The position of the last event that was returned.
    #[must_use]
    pub fn position(&self) -> Position {
        self.after
    }

    async fn read_alone(&self, max: usize) -> Result<Vec<Arc<RecordedEvent>>, StoreError> {
        let limit = max.min(WINDOW_EVENTS);
        let (events, _) = self.shared.log.read(self.after, limit, &Filter::default()).await?;
        Ok(events.into_iter().map(Arc::new).collect())
    }
}

impl Drop for TailReader {
    fn drop(&mut self) {
        self.shared.readers.fetch_sub(1, Ordering::AcqRel);
    }
}
