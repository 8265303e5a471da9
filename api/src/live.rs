//! Live feeds: the log as it grows, and log lines as they are printed, over WebSocket and server-sent events.
//!
//! A feed is one channel for one subscriber ([`feed`], [`lines`]): it reads what the subscriber has missed from the log, joins the
//! process's gateway without a hole or a double, and writes frames ([`frame`]) into a bounded queue. What empties that queue is a
//! socket ([`socket`]) or an SSE answer ([`stream`]). A subscriber that does not keep up is told its position and closed: it
//! resumes from there and has lost nothing.
//!
//! Who may listen is asked of the workspace aggregate when a feed begins and again whenever members of the workspace change, and
//! whether the session is still good every few seconds.
//!
//! To add a channel: a variant of [`channel::Channel`] with its filter and permission.

pub mod channel;
mod feed;
mod frame;
mod lines;
mod socket;
mod stream;

use axum::response::Response;
use ledgerline_domain::id::{ExecutionId, WorkflowId};
use moka::sync::Cache;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use self::channel::Channel;
use crate::{app::AppState, extract::Caller, problem::Problem};

/// How many executions it is remembered for of which workflow they are.
const REMEMBERED_EXECUTIONS: u64 = 100_000;

/// What live feeds of a process share.
#[derive(Clone, Debug)]
pub struct LiveState {
    /// The workflow of an execution: fixed by its first event, and in none of the later ones.
    workflows: Cache<Uuid, WorkflowId>,
}

impl Default for LiveState {
    fn default() -> Self {
        Self { workflows: Cache::new(REMEMBERED_EXECUTIONS) }
    }
}

/// What is under the base path.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(socket::open)).routes(routes!(stream::open))
}

/// What has a fixed path, with and without the base path: the same socket with one subscription already made.
pub(crate) fn fixed_routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(socket::open_updates))
        .routes(routes!(socket::open_execution))
        .routes(routes!(socket::open_analytics))
        .routes(routes!(socket::open_collaboration))
}

/// An execution's log lines as server-sent events: first those in the table after `after`, then each as it is printed. For
/// `GET /executions/{id}/logs?follow=sse`.
///
/// # Errors
/// 404 when the caller may not see the execution.
pub async fn follow_logs(
    state: AppState,
    caller: Caller,
    execution: ExecutionId,
    after: Option<(i32, i64)>,
) -> Result<Response, Problem> {
    let workspace = caller.default_workspace();
    let granted = channel::authorise(&state, &caller, Channel::Logs(execution), workspace).await?;
    stream::answer(state, caller, granted, channel::After::Line(after)).await
}
