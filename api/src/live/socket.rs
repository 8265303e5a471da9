//! Sockets: one connection, any number of channels.
//!
//! One task reads what the client asks, one writes what the feeds have, and each channel is a task of its own. They share one
//! bounded queue and one token: whatever ends, ends all of them. A client that takes nothing for long is dropped.

use std::{collections::HashMap, time::Duration};

use axum::{
    extract::{
        FromRequestParts, State,
        ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade},
    },
    http::request::Parts,
    response::Response,
};
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use ledgerline_domain::id::{ExecutionId, WorkspaceId};
use serde::Deserialize;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_tungstenite::tungstenite;
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;
use uuid::Uuid;

use super::{
    channel::{self, After, Channel},
    feed::Feed,
    frame::{
        CLOSE_LAGGED, CLOSE_NOT_TEXT, CLOSE_PROTOCOL, CLOSE_RESTART, CLOSE_SIGNED_OUT,
        CLOSE_TOO_LONG, Frame, Outgoing,
    },
    stream::{nothing_on, read_after, session_over},
};
use crate::{
    app::AppState,
    extract::{Caller, Path, Query, WorkspaceSelector},
    identity::api_key::Scope,
    ledger::LogName,
    problem::{Problem, ProblemKind},
    reading::WorkspaceParams,
};

/// The subprotocol that we speak.
const PROTOCOL: &str = "ledgerline.v1";

/// How many frames wait for one subscriber; with more, its feeds wait, and then they have lagged.
pub(super) const QUEUE: usize = 256;

/// How many frames are written before they are flushed together.
const BURST: usize = 64;

/// How many channels one socket may listen to.
const MAX_CHANNELS: usize = 64;

/// How many feeds and requests that outlive their answer a process has at once.
const MAX_OPEN: usize = 20_000;

/// The largest message from a client: all of them are small.
const MAX_MESSAGE_BYTES: usize = 16 * 1024;

/// How often an idle socket is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(20);

/// How long it may be silent then.
const SILENCE: Duration = Duration::from_secs(60);

/// How long a client may take nothing before it is dropped.
const STALL: Duration = Duration::from_secs(30);

/// How often it is asked whether the session is still good.
pub(super) const CHECK_SESSION_EVERY: Duration = Duration::from_secs(3);

/// What a client asks.
#[derive(Debug, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case", deny_unknown_fields)]
enum Asked {
    /// `resume` is the same with an `after` that a client remembers.
    #[serde(alias = "resume")]
    Subscribe {
        channel: String,
        #[serde(default)]
        after: Option<serde_json::Value>,
        #[serde(default)]
        workspace_id: Option<WorkspaceId>,
    },
    Unsubscribe {
        channel: String,
    },
    Ping {},
}

/// From where a socket with one subscription already made begins.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct First {
    /// Only what comes after this position, so that a client resumes.
    #[serde(default)]
    after: Option<String>,
}

/// The wish to open a socket; what is none is refused in the form of all failures.
pub(super) struct Upgrade(WebSocketUpgrade);

impl<S: Send + Sync> FromRequestParts<S> for Upgrade {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let upgrade = WebSocketUpgrade::from_request_parts(parts, state).await;
        upgrade.map(Self).map_err(|refused| Problem::malformed(refused.body_text()))
    }
}

/// A socket for live events and log lines.
///
/// Send `{"action":"subscribe","channel":"execution:<id>","after":<position>}`; `after` resumes without a hole or a double.
#[utoipa::path(get, path = "/ws", tag = "live", params(WorkspaceParams), responses((status = 101, description = "The protocol is in the introduction")))]
pub(super) async fn open(
    State(state): State<AppState>,
    caller: Caller,
    workspace: WorkspaceSelector,
    Upgrade(upgrade): Upgrade,
) -> Result<Response, Problem> {
    let workspace = workspace.or_default(&caller);
    accept(state, caller, workspace, upgrade, None).await
}

/// The same socket, listening to the caller's workspace.
#[utoipa::path(get, path = "/ws/updates", tag = "live", params(First, WorkspaceParams), responses((status = 101)))]
pub(super) async fn open_updates(
    State(state): State<AppState>,
    caller: Caller,
    workspace: WorkspaceSelector,
    Query(first): Query<First>,
    Upgrade(upgrade): Upgrade,
) -> Result<Response, Problem> {
    let workspace = workspace.or_default(&caller);
    channel::authorise(&state, &caller, Channel::Workspace, workspace).await?;
    accept(state, caller, workspace, upgrade, Some((Channel::Workspace, first))).await
}

/// The same socket, listening to an execution.
#[utoipa::path(get, path = "/ws/executions/{id}", tag = "live", params(("id" = Uuid, Path, description = "The execution"), First), responses((status = 101)))]
pub(super) async fn open_execution(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<ExecutionId>,
    Query(first): Query<First>,
    Upgrade(upgrade): Upgrade,
) -> Result<Response, Problem> {
    let channel = Channel::Execution(id);
    let workspace = caller.default_workspace();
    let granted = channel::authorise(&state, &caller, channel, workspace).await?;
    accept(state, caller, granted.workspace, upgrade, Some((channel, first))).await
}

/// The same socket, listening to analytics.
#[utoipa::path(get, path = "/ws/analytics", tag = "live", params(WorkspaceParams), responses((status = 101)))]
pub(super) async fn open_analytics(
    State(state): State<AppState>,
    caller: Caller,
    workspace: WorkspaceSelector,
    Upgrade(upgrade): Upgrade,
) -> Result<Response, Problem> {
    let workspace = workspace.or_default(&caller);
    accept(
        state,
        caller,
        workspace,
        upgrade,
        Some((Channel::Empty("analytics"), First { after: None })),
    )
    .await
}

/// The same socket, listening to what others do in a workspace.
#[utoipa::path(get, path = "/ws/collaboration/{workspace_id}", tag = "live", params(("workspace_id" = Uuid, Path, description = "The workspace"), First), responses((status = 101)))]
pub(super) async fn open_collaboration(
    State(state): State<AppState>,
    caller: Caller,
    Path(workspace): Path<WorkspaceId>,
    Query(first): Query<First>,
    Upgrade(upgrade): Upgrade,
) -> Result<Response, Problem> {
    channel::authorise(&state, &caller, Channel::Workspace, workspace).await?;
    accept(state, caller, workspace, upgrade, Some((Channel::Workspace, first))).await
}

/// Refuses what would be more than a process can hold open.
pub(super) fn room_for_one_more(state: &AppState) -> Result<(), Problem> {
    if state.stop.is_cancelled() || state.tasks.len() >= MAX_OPEN {
        return Err(Problem::new(ProblemKind::Overloaded, "too many feeds are open here"));
    }
    Ok(())
}

async fn accept(
    state: AppState,
    caller: Caller,
    workspace: WorkspaceId,
    upgrade: WebSocketUpgrade,
    first: Option<(Channel, First)>,
) -> Result<Response, Problem> {
    caller.demand_scope(Scope::Read)?;
    room_for_one_more(&state)?;
    let log = state.ledger.name().await?;
    let opened = state.tasks.token();
    let upgrade = upgrade
        .protocols([PROTOCOL])
        .max_message_size(MAX_MESSAGE_BYTES)
        .max_frame_size(MAX_MESSAGE_BYTES);
    Ok(upgrade.on_upgrade(move |socket| async move {
        metrics::gauge!("ledgerline_sockets_open").increment(1);
        Box::pin(serve(state, caller, workspace, log, socket, first)).await;
        metrics::gauge!("ledgerline_sockets_open").decrement(1);
        drop(opened);
    }))
}

async fn serve(
    state: AppState,
    caller: Caller,
    workspace: WorkspaceId,
    log: LogName,
    socket: WebSocket,
    first: Option<(Channel, First)>,
) {
    let (sink, messages) = socket.split();
    let (out, queue) = mpsc::channel(QUEUE);
    let over = CancellationToken::new();
    let written = state.tasks.spawn(write(sink, queue, over.clone()));
    let position = state.gateway.position();
    let mut connection = Connection {
        state: state.clone(),
        caller: caller.clone(),
        workspace,
        out: out.clone(),
        over: over.clone(),
        feeds: HashMap::new(),
    };
    connection.send(Frame::connected(Uuid::now_v7(), log, position)).await;
    if let Some((channel, First { after })) = first {
        connection.subscribe(&channel.to_string(), after.map(Into::into), None).await;
    }
    let close = tokio::select! {
        close = connection.read(messages) => close,
        () = over.cancelled() => None,
        () = state.stop.cancelled() => Some((CLOSE_RESTART, "the server restarts")),
        () = session_over(&state, &caller) => Some((CLOSE_SIGNED_OUT, "signed out")),
    };
    connection.end_feeds();
    drop(connection);
    match close {
        Some((code, reason)) => {
            let closing = out.send(Outgoing::Close { code, reason });
            // A client that takes nothing is dropped instead of told.
            let _told = timeout(Duration::from_secs(1), closing).await;
            drop(out);
            let _written = timeout(Duration::from_secs(2), written).await;
        }
        // What was said last (a lagged, a close) is still written.
        None => drop(out),
    }
    over.cancel();
}

/// Writes what comes, several frames at once where several wait, until the end or until the client takes nothing.
async fn write(
    mut sink: SplitSink<WebSocket, Message>,
    mut queue: mpsc::Receiver<Outgoing>,
    over: CancellationToken,
) {
    let mut ping = interval(PING_EVERY);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ping.tick().await;
    let mut burst = Vec::with_capacity(BURST);
    loop {
        tokio::select! {
            count = queue.recv_many(&mut burst, BURST) => {
                if count == 0 {
                    break;
                }
                let writing = write_burst(&mut sink, &mut burst);
                match timeout(STALL, writing).await {
                    Ok(Ok(false)) => {}
                    Ok(Ok(true) | Err(_)) => break,
                    Err(_) => {
                        tracing::debug!("a subscriber takes nothing and is dropped");
                        metrics::counter!("ledgerline_sockets_stalled_total").increment(1);
                        break;
                    }
                }
            }
            _ = ping.tick() => {
                let asked = timeout(STALL, sink.send(Message::Ping(Vec::new().into()))).await;
                if !matches!(asked, Ok(Ok(()))) {
                    break;
                }
            }
            () = over.cancelled() => break,
        }
    }
    over.cancel();
}

/// True when the last thing written was the close.
async fn write_burst(
    sink: &mut SplitSink<WebSocket, Message>,
    burst: &mut Vec<Outgoing>,
) -> Result<bool, axum::Error> {
    for outgoing in burst.drain(..) {
        match outgoing {
            Outgoing::Frame(frame) => sink.feed(Message::Text(frame.text.into())).await?,
            Outgoing::Close { code, reason } => {
                if code == CLOSE_LAGGED {
                    metrics::counter!("ledgerline_sockets_lagged_total").increment(1);
                }
                let frame = CloseFrame { code, reason: reason.into() };
                sink.send(Message::Close(Some(frame))).await?;
                return Ok(true);
            }
        }
    }
    sink.flush().await?;
    Ok(false)
}

/// What one client listens to.
struct Connection {
    state: AppState,
    caller: Caller,
    workspace: WorkspaceId,
    out: mpsc::Sender<Outgoing>,
    over: CancellationToken,
    feeds: HashMap<String, CancellationToken>,
}

impl Connection {
    /// Does what the client asks, until it closes, breaks off, or is silent for too long. What it is told then, where it broke a rule.
    async fn read(&mut self, mut messages: SplitStream<WebSocket>) -> Option<(u16, &'static str)> {
        let mut heard = Instant::now();
        loop {
            match tokio::time::timeout_at(heard + SILENCE, messages.next()).await {
                Ok(Some(Ok(message))) => {
                    heard = Instant::now();
                    match message {
                        Message::Text(text) => self.asked(text.as_str()).await,
                        Message::Binary(_) => self.refuse(None, &only_text()).await,
                        Message::Ping(_) | Message::Pong(_) => {}
                        Message::Close(_) => return None,
                    }
                }
                Ok(Some(Err(error))) => return broken_rule(error),
                Ok(None) | Err(_) => return None,
            }
        }
    }

    async fn asked(&mut self, text: &str) {
        match serde_json::from_str::<Asked>(text) {
            Ok(Asked::Subscribe { channel, after, workspace_id }) => {
                self.subscribe(&channel, after, workspace_id).await;
            }
            Ok(Asked::Unsubscribe { channel }) => {
                if let Some(feed) = self.feeds.remove(&channel) {
                    feed.cancel();
                }
                self.send(Frame::unsubscribed(&channel)).await;
            }
            Ok(Asked::Ping {}) => self.send(Frame::pong()).await,
            Err(error) => {
                let detail = format!("the message is not one of the protocol: {error}");
                self.refuse(None, &Problem::malformed(detail)).await;
            }
        }
    }

    async fn subscribe(
        &mut self,
        name: &str,
        after: Option<serde_json::Value>,
        workspace: Option<WorkspaceId>,
    ) {
        if let Err(problem) = self.try_subscribe(name, after, workspace).await {
            let shown: String = name.chars().take(128).collect();
            self.refuse(Some(&shown), &problem).await;
        }
    }

    async fn try_subscribe(
        &mut self,
        name: &str,
        after: Option<serde_json::Value>,
        workspace: Option<WorkspaceId>,
    ) -> Result<(), Problem> {
        let channel = Channel::parse(name)?;
        if let Channel::Empty(name) = channel {
            return Err(nothing_on(name));
        }
        let after = match after {
            None | Some(serde_json::Value::Null) => After::Now,
            Some(serde_json::Value::String(text)) => {
                read_after(&self.state, channel, &text).await?
            }
            Some(value) => read_after(&self.state, channel, &value.to_string()).await?,
        };
        self.feeds.retain(|_, feed| !feed.is_cancelled());
        if self.feeds.len() >= MAX_CHANNELS && !self.feeds.contains_key(name) {
            let detail = format!("a socket listens to at most {MAX_CHANNELS} channels");
            return Err(Problem::new(ProblemKind::Overloaded, detail));
        }
        let workspace = workspace.unwrap_or(self.workspace);
        let granted = channel::authorise(&self.state, &self.caller, channel, workspace).await?;
        let ended = self.over.child_token();
        if let Some(before) = self.feeds.insert(name.to_owned(), ended.clone()) {
            before.cancel();
        }
        let feed = Feed {
            state: self.state.clone(),
            caller: self.caller.clone(),
            granted,
            out: self.out.clone(),
        };
        self.state.tasks.spawn(async move {
            ended.run_until_cancelled(feed.run(after)).await;
            ended.cancel();
        });
        Ok(())
    }

    async fn refuse(&self, channel: Option<&str>, problem: &Problem) {
        self.send(Frame::error(channel, problem)).await;
    }

    async fn send(&self, frame: Frame) {
        // The writer is gone: so is the socket, and the next read says so.
        let _gone = self.out.send(Outgoing::Frame(frame)).await;
    }

    fn end_feeds(&mut self) {
        for (_, feed) in self.feeds.drain() {
            feed.cancel();
        }
    }
}

/// What a client is told that broke a rule of sockets; nothing where the connection itself broke.
fn broken_rule(error: axum::Error) -> Option<(u16, &'static str)> {
    let error = error.into_inner().downcast::<tungstenite::Error>().ok()?;
    match *error {
        tungstenite::Error::Utf8(_) => Some((CLOSE_NOT_TEXT, "a text message must be UTF-8")),
        tungstenite::Error::Capacity(_) => {
            Some((CLOSE_TOO_LONG, "a message may hold 16 KiB at most"))
        }
        tungstenite::Error::Protocol(_) => Some((CLOSE_PROTOCOL, "this is no frame of a socket")),
        _ => None,
    }
}

fn only_text() -> Problem {
    Problem::malformed("only text messages are understood")
}
