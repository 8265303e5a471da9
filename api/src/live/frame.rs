//! What goes over the wire to a subscriber, one JSON object a frame.

use std::fmt::Write as _;

use ledgerline_nats::LiveEvent;
use ledgerline_store::{LogLine, Position};
use serde_json::json;
use uuid::Uuid;

use super::channel::Channel;
use crate::{ledger::LogName, problem::Problem};

/// The code of a socket's close when the client breaks the protocol of sockets itself.
pub(super) const CLOSE_PROTOCOL: u16 = 1002;
/// When it sends text that is none.
pub(super) const CLOSE_NOT_TEXT: u16 = 1007;
/// When it sends more than a message may hold.
pub(super) const CLOSE_TOO_LONG: u16 = 1009;
/// When the process stops (RFC 6455's registry: service restart).
pub(super) const CLOSE_RESTART: u16 = 1012;
/// When the subscriber does not keep up.
pub(super) const CLOSE_LAGGED: u16 = 4008;
/// When the session is over.
pub(super) const CLOSE_SIGNED_OUT: u16 = 4401;
/// When the subscriber is no longer a member, or may no longer listen.
pub(super) const CLOSE_FORBIDDEN: u16 = 4403;

/// One frame, or the end.
#[derive(Clone, Debug)]
pub(super) enum Outgoing {
    /// A frame.
    Frame(Frame),
    /// Nothing more comes.
    Close {
        /// The close code.
        code: u16,
        /// Why, for a person.
        reason: &'static str,
    },
}

/// One frame, with what SSE needs of it beside the text.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) text: String,
    /// Where to go on after this frame.
    pub(super) id: Option<String>,
    /// Whether it tells something new, and not how the feed itself is.
    pub(super) news: bool,
}

impl Frame {
    fn of_feed(value: &serde_json::Value, position: Option<Position>) -> Self {
        Self { text: value.to_string(), id: position.map(|at| at.to_string()), news: false }
    }

    /// `log` before a position makes it one that is refused after a restore: `<log>:<position>`.
    pub(super) fn connected(connection: Uuid, log: LogName, position: Position) -> Self {
        let log = log.to_string();
        let value = json!({
            "type": "connected", "session": connection, "log": log, "position": position,
        });
        Self::of_feed(&value, None)
    }

    pub(super) fn subscribed(channel: Channel, position: Position) -> Self {
        let value =
            json!({ "type": "subscribed", "channel": channel.to_string(), "position": position });
        Self::of_feed(&value, Some(position))
    }

    pub(super) fn caught_up(channel: Channel, position: Position) -> Self {
        let value =
            json!({ "type": "caught_up", "channel": channel.to_string(), "position": position });
        Self::of_feed(&value, Some(position))
    }

    pub(super) fn progress(channel: Channel, position: Position) -> Self {
        let value =
            json!({ "type": "progress", "channel": channel.to_string(), "position": position });
        Self::of_feed(&value, Some(position))
    }

    pub(super) fn lagged(channel: Channel, position: Position) -> Self {
        let value =
            json!({ "type": "lagged", "channel": channel.to_string(), "position": position });
        Self::of_feed(&value, None)
    }

    pub(super) fn unsubscribed(channel: &str) -> Self {
        Self::of_feed(&json!({ "type": "unsubscribed", "channel": channel }), None)
    }

    pub(super) fn pong() -> Self {
        Self::of_feed(&json!({ "type": "pong" }), None)
    }

    /// Something that the subscriber asked for is refused; the feed or socket goes on without it.
    pub(super) fn error(channel: Option<&str>, problem: &Problem) -> Self {
        let mut value = json!({
            "type": "error",
            "code": problem.kind().slug(),
            "status": problem.kind().status().as_u16(),
            "detail": problem.detail(),
        });
        if let Some(channel) = channel {
            value["channel"] = channel.into();
        }
        if let Some(rule) = problem.rule() {
            value["rule"] = rule.into();
        }
        if let Some(position) = problem.restart_position() {
            value["restart_position"] = position.0.into();
        }
        Self::of_feed(&value, None)
    }

    /// An event; its envelope goes in as the bytes that NATS carries too.
    pub(super) fn event(channel: Channel, event: &LiveEvent) -> Option<Self> {
        let envelope = std::str::from_utf8(&event.bytes).ok()?;
        let name = name_of(&event.category, &event.r#type);
        let position = event.position;
        let mut text = String::with_capacity(envelope.len() + 160);
        write!(
            text,
            r#"{{"type":"event","name":"{name}","channel":"{channel}","position":{position},"event":{envelope}}}"#
        )
        .expect("writing to memory does not fail");
        Some(Self { text, id: Some(position.to_string()), news: true })
    }

    pub(super) fn line(channel: Channel, line: &LogLine) -> Self {
        let cursor = cursor_of(line.claim, line.n);
        let value = json!({
            "type": "log",
            "channel": channel.to_string(),
            "cursor": cursor,
            "line": line,
        });
        Self { text: value.to_string(), id: Some(cursor), news: true }
    }

    pub(super) fn lines_caught_up(channel: Channel, after: Option<(i32, i64)>) -> Self {
        let cursor = after.map(|(claim, n)| cursor_of(claim, n));
        let value =
            json!({ "type": "caught_up", "channel": channel.to_string(), "cursor": cursor });
        Self { text: value.to_string(), id: cursor, news: false }
    }

    pub(super) fn lines_subscribed(channel: Channel) -> Self {
        Self::of_feed(&json!({ "type": "subscribed", "channel": channel.to_string() }), None)
    }
}

/// Where a log line stands, as subscribers name it.
pub(super) fn cursor_of(claim: i32, n: i64) -> String {
    format!("{claim}/{n}")
}

/// Reads what [`cursor_of`] wrote.
pub(super) fn parse_cursor(text: &str) -> Option<(i32, i64)> {
    let (claim, n) = text.split_once('/')?;
    Some((claim.parse().ok()?, n.parse().ok()?))
}

/// The word under which an event is known on sockets. Several kinds of events share one: it says what to look at again.
fn name_of(category: &str, r#type: &str) -> &'static str {
    match (category, r#type) {
        ("workflow", "workflow_created") => "workflow_created",
        ("workflow", "workflow_deleted") => "workflow_deleted",
        ("workflow", _) => "workflow_update",
        ("execution", "node_started" | "node_completed" | "node_failed" | "node_skipped") => {
            "node_status"
        }
        (
            "execution",
            "approval_requested" | "approval_given" | "approval_refused" | "approval_timed_out",
        ) => "approval_update",
        (
            "execution",
            "task_offered" | "task_taken" | "task_returned" | "task_completed" | "task_failed",
        ) => "task_status",
        (
            "execution",
            "timer_set" | "timer_fired" | "variable_set" | "signal_awaited" | "signal_received"
            | "signal_consumed",
        ) => "execution_update",
        ("execution", _) => "status_change",
        ("workspace", "workspace_created") => "workspace_created",
        ("workspace", "member_added" | "member_role_changed" | "member_removed") => "member_update",
        ("workspace", _) => "workspace_update",
        _ => "event",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
        assert_eq!(parse_cursor(&cursor_of(2, 118)), Some((2, 118)));
        for wrong in ["", "2", "2/", "/1", "a/b"] {
            assert_eq!(parse_cursor(wrong), None);
        }
    }

    #[test]
    fn an_event_frame_is_json_with_the_envelope_in_it() {
        let event = LiveEvent {
            position: Position(7),
            workspace: ledgerline_store::Workspace(Uuid::nil()),
            category: "execution".into(),
            stream: ledgerline_store::StreamId(Uuid::nil()),
            r#type: "node_failed".into(),
            bytes: br#"{"id":"x","data":{"a":"\"}"}}"#.as_slice().into(),
        };
        let frame = Frame::event(Channel::Executions, &event).unwrap();
        let value: serde_json::Value = serde_json::from_str(&frame.text).unwrap();
        assert_eq!(value["name"], "node_status");
        assert_eq!(value["position"], 7);
        assert_eq!(value["event"]["data"]["a"], "\"}");
    }
}
