//! One channel of events for one subscriber.
//!
//! While the subscriber is behind, the log is read without listening, so that nothing gathers. Near the head it listens first and
//! then reads the rest of the gap; what comes twice is known by its position. From then on a subscriber that is too slow for the
//! gateway's buffer has lagged: it is told, and closed.

use std::time::Duration;

use ledgerline_domain::id::WorkflowId;
use ledgerline_nats::{LiveError, LiveEvent, Subscription};
use ledgerline_store::{Filter, Position, StoreError, StreamVersion};
use serde::Deserialize;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval},
};
use uuid::Uuid;

use super::{
    channel::{After, Channel, Granted, still_granted},
    frame::{CLOSE_FORBIDDEN, CLOSE_LAGGED, CLOSE_RESTART, Frame, Outgoing},
    lines,
};
use crate::{app::AppState, extract::Caller};

/// Events of one read of the gap.
const BATCH: usize = 500;

/// How often a channel on which nothing happens says up to where nothing did.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// How long to wait before the log is asked again when it could not be read.
const RETRY: Duration = Duration::from_millis(500);

/// The events that may change who may listen.
const MEMBERSHIP: &[&str] = &["member_removed", "member_role_changed", "workspace_deleted"];

/// The execution's first event, as far as it says of which workflow it is.
#[derive(Deserialize)]
struct Requested {
    workflow_id: WorkflowId,
}

/// What ends a feed.
pub(super) enum End {
    /// The subscriber is gone: nobody to tell.
    Gone,
    /// It is closed, with this.
    Close(u16, &'static str),
}

/// A feed while it runs.
pub(super) struct Feed {
    pub(super) state: AppState,
    pub(super) caller: Caller,
    pub(super) granted: Granted,
    pub(super) out: mpsc::Sender<Outgoing>,
}

impl Feed {
    /// Runs until the subscriber is gone or has to be closed; then the close is the last thing in the queue.
    pub(super) async fn run(self, after: After) {
        let (out, stop) = (self.out.clone(), self.state.stop.clone());
        let ended = tokio::select! {
            ended = self.follow(after) => ended,
            () = stop.cancelled() => End::Close(CLOSE_RESTART, "the server restarts"),
            () = out.closed() => End::Gone,
        };
        if let End::Close(code, reason) = ended {
            // A subscriber that is gone needs no close.
            let _gone = out.send(Outgoing::Close { code, reason }).await;
        }
    }

    async fn follow(self, after: After) -> End {
        if let Channel::Logs(execution) = self.granted.channel {
            let after = match after {
                After::Line(after) => after,
                After::Now | After::Position(_) => None,
            };
            return lines::follow(&self, execution, after).await;
        }
        let after = match after {
            After::Position(position) => Some(position),
            After::Now | After::Line(_) => None,
        };
        match self.events(after).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn events(&self, after: Option<Position>) -> Result<std::convert::Infallible, End> {
        let channel = self.granted.channel;
        let mut live = self.listen().await?;
        let mut position = after.unwrap_or_else(|| live.position());
        self.send(Frame::subscribed(channel, position)).await?;
        let filter = self.granted.filter();
        while position < live.position() {
            drop(live);
            position = self.catch_up(position, &filter).await?;
            live = self.listen().await?;
            position = self.read_up_to(position, live.position(), &filter).await?;
        }
        // A member may have been taken out while the gap was read, which the live events do not say any more.
        self.check().await?;
        self.send(Frame::caught_up(channel, position)).await?;
        self.live(live, position, &filter).await
    }

    async fn listen(&self) -> Result<Subscription, End> {
        self.state.gateway.subscribe().await.map_err(|_stopped| restart())
    }

    /// Reads the log until it is near its end.
    async fn catch_up(&self, mut position: Position, filter: &Filter) -> Result<Position, End> {
        let mut told = Instant::now();
        while position < self.state.gateway.position() {
            let (sent, upto) = self.read(position, filter).await?;
            position = upto;
            if sent > 0 {
                told = Instant::now();
            } else if told.elapsed() >= PROGRESS_EVERY {
                self.send(Frame::progress(self.granted.channel, position)).await?;
                told = Instant::now();
            }
        }
        Ok(position)
    }

    async fn read_up_to(
        &self,
        mut position: Position,
        end: Position,
        filter: &Filter,
    ) -> Result<Position, End> {
        while position < end {
            position = self.read(position, filter).await?.1;
        }
        Ok(position)
    }

    /// One read of the log: how many events were sent, and up to where it was looked through.
    async fn read(&self, after: Position, filter: &Filter) -> Result<(usize, Position), End> {
        loop {
            match self.state.commands.log().read(after, BATCH, filter).await {
                Ok((events, upto)) => {
                    let source = self.state.gateway.source().ok_or_else(restart)?;
                    let mut sent = 0;
                    for event in &events {
                        let event = LiveEvent::from_recorded(event, source);
                        sent += usize::from(self.pass_on(&event).await?);
                    }
                    return Ok((sent, upto));
                }
                Err(error) => self.wait_for_log(&error).await,
            }
        }
    }

    async fn live(
        &self,
        mut live: Subscription,
        mut position: Position,
        filter: &Filter,
    ) -> Result<std::convert::Infallible, End> {
        let mut told = position;
        let mut tick = interval(PROGRESS_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.reset();
        loop {
            let event = tokio::select! {
                event = live.recv() => event,
                _ = tick.tick() => {
                    if position > told {
                        self.send(Frame::progress(self.granted.channel, position)).await?;
                        told = position;
                    }
                    continue;
                }
            };
            let event = match event {
                Ok(event) if event.position <= position => continue,
                Ok(event) => event,
                Err(LiveError::Lagged { .. }) => {
                    self.send(Frame::lagged(self.granted.channel, position)).await?;
                    return Err(End::Close(CLOSE_LAGGED, "resume from the last position"));
                }
                Err(LiveError::Stopped | LiveError::Log(_)) => return Err(restart()),
            };
            if self.concerns_members(&event) {
                self.check().await?;
            }
            if event.passes(filter) && self.pass_on(&event).await? {
                told = event.position;
            }
            position = event.position;
        }
    }

    /// Sends an event that passed the filter, unless the channel leaves it out. False when it does.
    async fn pass_on(&self, event: &LiveEvent) -> Result<bool, End> {
        if let Channel::Workflow(workflow) = self.granted.channel
            && !self.is_of(event, workflow).await?
        {
            return Ok(false);
        }
        match Frame::event(self.granted.channel, event) {
            Some(frame) => self.send(frame).await.map(|()| true),
            None => Ok(false),
        }
    }

    /// Whether an event is of a workflow or one of its executions.
    async fn is_of(&self, event: &LiveEvent, workflow: WorkflowId) -> Result<bool, End> {
        if *event.category != *"execution" {
            return Ok(event.stream.0 == workflow.0);
        }
        let execution = event.stream.0;
        if let Some(known) = self.state.live.workflows.get(&execution) {
            return Ok(known == workflow);
        }
        let of = self.workflow_of(execution).await?;
        if let Some(of) = of {
            self.state.live.workflows.insert(execution, of);
        }
        Ok(of == Some(workflow))
    }

    async fn workflow_of(&self, execution: Uuid) -> Result<Option<WorkflowId>, End> {
        let stream = ledgerline_store::StreamId(execution);
        loop {
            match self.state.commands.log().read_stream(stream, StreamVersion::NEW, 1).await {
                Ok(events) => {
                    let first = events.first();
                    return Ok(first
                        .and_then(|event| serde_json::from_str::<Requested>(&event.payload).ok())
                        .map(|requested| requested.workflow_id));
                }
                Err(error) => self.wait_for_log(&error).await,
            }
        }
    }

    fn concerns_members(&self, event: &LiveEvent) -> bool {
        event.stream.0 == self.granted.workspace.0 && MEMBERSHIP.contains(&&*event.r#type)
    }

    /// Whether the subscriber may still listen. A log that is away is waited for: nothing is sent meanwhile.
    pub(super) async fn check(&self) -> Result<(), End> {
        loop {
            match still_granted(&self.state, &self.caller, &self.granted).await {
                Ok(()) => return Ok(()),
                Err(problem) if problem.kind().status().is_server_error() => {
                    tokio::time::sleep(RETRY).await;
                }
                Err(problem) => {
                    let channel = self.granted.channel.to_string();
                    self.send(Frame::error(Some(&channel), &problem)).await?;
                    return Err(End::Close(CLOSE_FORBIDDEN, "no longer allowed"));
                }
            }
        }
    }

    pub(super) async fn send(&self, frame: Frame) -> Result<(), End> {
        self.out.send(Outgoing::Frame(frame)).await.map_err(|_gone| End::Gone)
    }

    pub(super) async fn wait_for_log(&self, error: &StoreError) {
        tracing::debug!(%error, "a feed waits for the log");
        tokio::time::sleep(RETRY).await;
    }
}

fn restart() -> End {
    End::Close(CLOSE_RESTART, "the server restarts")
}
