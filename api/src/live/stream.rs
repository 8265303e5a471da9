//! Feeds as server-sent events, for `curl` and EventSource.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use utoipa::IntoParams;

use super::{
    channel::{self, After, Channel, Granted},
    feed::Feed,
    frame::{CLOSE_SIGNED_OUT, Outgoing, parse_cursor},
    socket::{CHECK_SESSION_EVERY, QUEUE, room_for_one_more},
};
use crate::{
    answer::LOG,
    app::AppState,
    extract::{Caller, PositionToken, Query, WorkspaceSelector},
    problem::{Problem, ProblemKind},
    reading::WorkspaceParams,
};

/// How often something is sent on an idle line, so that proxies keep it open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What of a feed is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct StreamQuery {
    /// `workspace`, `workflows`, `workflow:<id>`, `executions`, `execution:<id>` or `logs:<id>`.
    channel: String,
    /// Only what comes after this position (of `logs:<id>`: after this line, as `<claim>/<number>`). `Last-Event-ID` wins.
    #[serde(default)]
    after: Option<String>,
}

/// A channel as server-sent events.
///
/// Each event's `id` is its position with the name of the log, so that a client that connects again with `Last-Event-ID` goes on
/// where it was, or is told that the log was restored from a backup meanwhile (`rewound`).
#[utoipa::path(get, path = "/stream", tag = "live", params(StreamQuery, WorkspaceParams), responses((status = 200, content_type = "text/event-stream")))]
pub(super) async fn open(
    State(state): State<AppState>,
    caller: Caller,
    workspace: WorkspaceSelector,
    Query(query): Query<StreamQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let channel = Channel::parse(&query.channel)?;
    if let Channel::Empty(name) = channel {
        return Err(nothing_on(name));
    }
    let resumed = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let after = match resumed.map(str::to_owned).or(query.after) {
        Some(text) => read_after(&state, channel, &text).await?,
        None => After::Now,
    };
    let workspace = workspace.or_default(&caller);
    let granted = channel::authorise(&state, &caller, channel, workspace).await?;
    answer(state, caller, granted, after).await
}

/// A channel of the contract that carries nothing in this version.
pub(super) fn nothing_on(name: &str) -> Problem {
    Problem::new(
        ProblemKind::NotFound,
        format!("nothing happens on the channel {name} in this version"),
    )
}

/// From where a subscriber goes on, as it says so. What is not there yet is refused: a reader that is ahead of the log, or has a
/// position of another epoch, has read another one.
pub(super) async fn read_after(
    state: &AppState,
    channel: Channel,
    text: &str,
) -> Result<After, Problem> {
    let wrong = |detail: String| Problem::invalid("/after", "invalid", detail);
    if matches!(channel, Channel::Logs(_)) {
        if text == "0" {
            return Ok(After::Line(None));
        }
        return parse_cursor(text)
            .map(|cursor| After::Line(Some(cursor)))
            .ok_or_else(|| wrong("must be a log line: <claim>/<number>".to_owned()));
    }
    let token = PositionToken::parse(text).map_err(wrong)?;
    state.ledger.resolve(token).await.map(After::Position)
}

/// The answer with a feed in it. It ends with the session, with the membership, with the process, or when the client goes.
pub(super) async fn answer(
    state: AppState,
    caller: Caller,
    granted: Granted,
    after: After,
) -> Result<Response, Problem> {
    room_for_one_more(&state)?;
    let log = state.ledger.name().await?;
    // Who comes back brings the id as it is: with the log in it, a restore in between is noticed without their doing. Lines have none.
    let of = match granted.channel {
        Channel::Logs(_) => String::new(),
        _ => format!("{log}:"),
    };
    let (out, queue) = mpsc::channel(QUEUE);
    let feed = Feed { state: state.clone(), caller: caller.clone(), granted, out: out.clone() };
    let tasks = state.tasks.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = feed.run(after) => {}
            () = session_over(&state, &caller) => {
                // A client that is gone needs no close.
                let _gone = out.send(Outgoing::Close { code: CLOSE_SIGNED_OUT, reason: "signed out" }).await;
            }
        }
    });
    let events = stream::unfold((queue, of), |(mut queue, of)| async move {
        match queue.recv().await {
            Some(Outgoing::Frame(frame)) => {
                let mut event = Event::default().data(frame.text);
                if let Some(id) = frame.id {
                    event = event.id(format!("{of}{id}"));
                }
                // News come as plain messages, which is what EventSource hands on by itself.
                if !frame.news {
                    event = event.event("feed");
                }
                Some((Ok::<_, Infallible>(event), (queue, of)))
            }
            Some(Outgoing::Close { .. }) | None => None,
        }
    });
    let name = HeaderValue::try_from(log.to_string());
    let name = [(LOG, name.expect("a UUID and a number are a header value"))];
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok((name, Sse::new(events.boxed()).keep_alive(keep_alive)).into_response())
}

/// Returns when the session or key is no longer good.
pub(super) async fn session_over(state: &AppState, caller: &Caller) {
    let mut tick = interval(CHECK_SESSION_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.tick().await;
    loop {
        tick.tick().await;
        if let Err(problem) = caller.still(state).await
            && problem.kind() == ProblemKind::Unauthenticated
        {
            return;
        }
    }
}
