//! The task that brings events, from NATS or from the log, in order.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::{self, consumer::pull};
use futures_util::{FutureExt, StreamExt, future::BoxFuture};
use ledgerline_store::{EventLog, Filter, Position, RecordedEvent};
use metrics::counter;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{GatewayConfig, LiveEvent, Shared};
use crate::{
    backoff::backoff,
    envelope::EventSource,
    relay::POSITION_HEADER,
    subject::Subject,
    topology::{Nats, NatsState, TopologyError},
};

/// The line to NATS.
pub(super) enum Line {
    /// Not open; it is opened at this time when NATS is ready.
    Closed { again: Instant },
    /// Being opened under a generation.
    Opening { generation: u64, consumer: BoxFuture<'static, Result<pull::Ordered, TopologyError>> },
    /// Open since a generation.
    Open { generation: u64, consumer: Box<pull::Ordered> },
}

pub(super) struct Feed {
    pub(super) log: Arc<dyn EventLog>,
    pub(super) head: watch::Receiver<Position>,
    pub(super) nats: Option<Nats>,
    pub(super) state: Option<watch::Receiver<NatsState>>,
    pub(super) config: GatewayConfig,
    pub(super) cancel: CancellationToken,
    pub(super) shared: std::sync::Weak<Shared>,
    pub(super) announced: watch::Sender<Option<Position>>,
    pub(super) position: Position,
    /// A position that the log holds and that we wait for, and when we stop waiting for NATS to bring it.
    pub(super) wanted: Option<(Position, Instant)>,
    pub(super) failures: u32,
    pub(super) line: Line,
    /// When NATS brought something last.
    pub(super) heard: Instant,
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
    pub(super) async fn run(mut self) {
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
        Subject::Work(_)
        | Subject::Logs { .. }
        | Subject::PollTask
        | Subject::ReportTask { .. } => None,
    }
}
