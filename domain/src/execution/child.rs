//! Runs that a node starts: the end of a child is the outcome of the node that waits for it.

use chrono::{DateTime, Utc};
use serde_json::json;

use super::{
    Attempt, Awaited, ChildEnd, ChildFinished, ChildOutcome, ErrorKind, Execution, ExecutionEvent,
    NodeCompleted, NodeError, NodePath, Open,
};
use crate::id::{ExecutionId, derived};

impl ExecutionId {
    /// The child that a node starts: one for ever for each of its tries.
    #[must_use]
    pub fn child(self, path: &NodePath, attempt: Attempt) -> Self {
        Self(derived(&["child", &self.to_string(), path.as_str(), &attempt.0.to_string()]))
    }

    /// The run of the error workflow that follows on the failure of this one.
    #[must_use]
    pub fn of_failure(self) -> Self {
        Self(derived(&["error_workflow", &self.to_string()]))
    }
}

impl Execution {
    /// Whether a node waits for this child.
    #[must_use]
    pub fn awaits_child(&self, path: &NodePath, attempt: Attempt, child: ExecutionId) -> bool {
        let waiting = self.open().and_then(|open| open.waiting(path, attempt));
        waiting.is_some_and(|waiting| waiting.awaited == Awaited::Child(child))
    }
}

/// Without effect when no node waits for that child any more.
pub(super) fn finished(
    open: &Open,
    path: &NodePath,
    attempt: Attempt,
    child: ExecutionId,
    end: &ChildEnd,
    now: DateTime<Utc>,
) -> Vec<ExecutionEvent> {
    let waiting = open.waiting(path, attempt);
    let Some(waiting) = waiting.filter(|waiting| waiting.awaited == Awaited::Child(child)) else {
        return Vec::new();
    };
    let (outcome, message, cause) = match end {
        ChildEnd::Completed { .. } => (ChildOutcome::Completed, None, json!(null)),
        ChildEnd::Failed { node, error } => (
            ChildOutcome::Failed,
            Some(format!("the child execution failed: {}", error.message)),
            json!({"node": node, "kind": error.kind, "message": error.message}),
        ),
        ChildEnd::Cancelled { reason } => (
            ChildOutcome::Cancelled,
            Some("the child execution was cancelled".to_owned()),
            json!({"reason": reason}),
        ),
        ChildEnd::Refused { reason } => (
            ChildOutcome::Refused,
            Some(format!("the child execution was refused: {reason}")),
            json!({"message": reason}),
        ),
    };
    let error = message.map(|message| {
        let details = json!({"execution_id": child, "outcome": outcome, "error": cause});
        NodeError { kind: ErrorKind::Permanent, message, details: Some(details.into()) }
    });
    let duration_ms = waiting.duration_ms(now);
    let path = path.clone();
    let finished = ChildFinished {
        path: path.clone(),
        attempt,
        execution_id: child,
        outcome,
        error,
        duration_ms,
    };
    let mut events: Vec<ExecutionEvent> = vec![finished.into()];
    if let ChildEnd::Completed { output } = end {
        let (output, port) = (output.clone(), None);
        events
            .push(NodeCompleted { path, attempt, output, port, duration_ms, undoes: None }.into());
    }
    events
}
