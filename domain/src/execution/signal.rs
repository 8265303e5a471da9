//! Signals: a program outside says something by name, and the next node that waits for that name goes on with it.
//!
//! One that comes before anybody waits is kept, in a bounded number and size, and taken in the order in which they came.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{
    Attempt, Awaited, ExecutionEvent, ExecutionRejection, NodePath, NodeState, Open, SignalNode,
    SignalReceived, Waiting,
};
use crate::{
    json::Json,
    limits::{MAX_KEPT_SIGNAL_BYTES, MAX_KEPT_SIGNALS, MAX_SIGNAL_BYTES, MAX_SIGNAL_NAME_CHARS},
};

/// A signal that came before anybody waited for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptSignal {
    /// Its name.
    pub name: String,
    /// What came with it.
    pub payload: Json,
}

/// Whether a text can be the name of a signal: it stands in the path of a route, and people read it.
#[must_use]
pub fn is_signal_name(text: &str) -> bool {
    (1..=MAX_SIGNAL_NAME_CHARS).contains(&text.chars().count())
        && !text.chars().any(char::is_control)
        && text.trim() == text
}

/// Taken by the first node that waits for it, else kept.
pub(super) fn signalled(
    open: &Open,
    name: &str,
    payload: &Json,
    now: DateTime<Utc>,
) -> Result<Vec<ExecutionEvent>, ExecutionRejection> {
    if !is_signal_name(name) {
        return Err(ExecutionRejection::SignalNameInvalid);
    }
    if payload.as_str().len() > MAX_SIGNAL_BYTES {
        return Err(ExecutionRejection::SignalTooLarge);
    }
    open.goes_forward()?;
    let (name, payload) = (name.to_owned(), payload.clone());
    let Some((path, attempt, waiting)) = first_waiting(open, &name) else {
        let kept = &open.run.signals;
        let bytes: usize = kept.iter().map(|signal| signal.payload.as_str().len()).sum();
        if kept.len() >= MAX_KEPT_SIGNALS || bytes + payload.as_str().len() > MAX_KEPT_SIGNAL_BYTES
        {
            return Err(ExecutionRejection::SignalsFull { kept: kept.len() });
        }
        return Ok(vec![SignalReceived { name, payload, node: None }.into()]);
    };
    let completed = waiting.completed(path, attempt, payload.clone(), None, now);
    let node = Some(SignalNode { path: path.clone(), attempt });
    Ok(vec![SignalReceived { name, payload, node }.into(), completed.into()])
}

/// The node that has waited for this name first.
fn first_waiting<'a>(open: &'a Open, wanted: &str) -> Option<(&'a NodePath, Attempt, &'a Waiting)> {
    open.run.active().find_map(|(path, node)| {
        let NodeState::Waiting(waiting) = &node.state else { return None };
        match &waiting.awaited {
            Awaited::Signal { name } if name == wanted => Some((path, node.attempt, &**waiting)),
            Awaited::Signal { .. }
            | Awaited::Decision(_)
            | Awaited::Child(_)
            | Awaited::Time
            | Awaited::Approval(_)
            | Awaited::Task(_) => None,
        }
    })
}
