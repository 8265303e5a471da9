//! A person decides what becomes of a node that failed for the last time.
//!
//! A node whose `on_error` is `pause` waits for that decision, and its run is paused meanwhile. When nobody has to decide any more the run
//! goes on, unless somebody else had paused it before.

use super::{
    Attempt, Awaited, ExecutionEvent, ExecutionPaused, ExecutionRejection, ExecutionUnpaused,
    Intent, NodeCompleted, NodeOutput, NodePath, NodeResolved, NodeState, Open, PauseReason, Phase,
    Resolution, ResolutionKind,
};

pub(super) fn decide(
    open: &Open,
    path: &NodePath,
    resolution: &Resolution,
) -> Result<Vec<ExecutionEvent>, ExecutionRejection> {
    if matches!(open.phase, Phase::Running { intent: Intent::Cancel(_), .. }) {
        return Err(ExecutionRejection::Cancelling);
    }
    let held = open.held().find(|(held, _)| *held == path);
    let Some((_, attempt)) = held else {
        return Err(ExecutionRejection::NotHeld { path: path.as_str().to_owned() });
    };
    let kind = match resolution {
        Resolution::Retry => ResolutionKind::Retry,
        Resolution::Complete { .. } => ResolutionKind::Complete,
        Resolution::Fail => ResolutionKind::Fail,
    };
    let mut events = vec![NodeResolved { path: path.clone(), attempt, resolution: kind }.into()];
    if let Resolution::Complete { output, port } = resolution {
        let (output, port) = (NodeOutput::Inline(output.clone()), port.clone());
        let (path, duration_ms) = (path.clone(), 0);
        events
            .push(NodeCompleted { path, attempt, output, port, duration_ms, undoes: None }.into());
    }
    if open.held().count() == 1 && open.paused_by() == Some(PauseReason::NodeFailed) {
        events.push(ExecutionUnpaused {}.into());
    }
    Ok(events)
}

impl Open {
    /// Nodes that wait for a person to decide what becomes of them, with the try that failed.
    pub fn held(&self) -> impl Iterator<Item = (&NodePath, Attempt)> {
        self.run.active().filter_map(|(path, node)| {
            let NodeState::Waiting(waiting) = &node.state else { return None };
            matches!(waiting.awaited, Awaited::Decision(_)).then_some((path, node.attempt))
        })
    }

    fn paused_by(&self) -> Option<PauseReason> {
        match self.phase {
            Phase::Paused { reason, .. } | Phase::Running { intent: Intent::Pause(reason), .. } => {
                Some(reason)
            }
            Phase::Idle(_) | Phase::Dispatched | Phase::Running { .. } => None,
        }
    }

    /// What ends a pause by a person, who has every node tried again that waits for a decision.
    pub(super) fn go_on_with_all(&self) -> Vec<ExecutionEvent> {
        let retry = |(path, attempt): (&NodePath, Attempt)| {
            let resolution = ResolutionKind::Retry;
            NodeResolved { path: path.clone(), attempt, resolution }.into()
        };
        self.held().map(retry).chain([ExecutionUnpaused {}.into()]).collect()
    }

    /// What ends the pause of a workflow: a run that waits for a decision stays paused for that.
    pub(super) fn go_on_unless_held(&self) -> Vec<ExecutionEvent> {
        let held = self.held().next().map(|(path, _)| {
            let (reason, node) = (PauseReason::NodeFailed, Some(path.clone()));
            ExecutionPaused { reason, node }.into()
        });
        [ExecutionUnpaused {}.into()].into_iter().chain(held).collect()
    }
}
