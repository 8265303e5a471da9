//! Compensation: a run that fails or is cancelled undoes what it did.
//!
//! A node may name its undo, a node that stands outside the ordinary flow. When the run comes to a bad end, what is under way is
//! ended first; then the undo nodes of what had completed run, one after the other, that of the last completed one first. One that
//! fails for good is recorded and the rest goes on. Then the run ends as it was to, and names what could not be undone.
//!
//! A run undoes what it did itself: what it took over from another run belongs to that one. What had failed and was gone on without did
//! not complete, so there is nothing to undo, unless a person said that it was done. A time limit of the run ends with the
//! beginning of this; the undo nodes have limits of their own.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::{
    Compensation, CompensationStarted, EndCause, ExecutionCancelled, ExecutionEvent,
    ExecutionFailed, ExecutionRejection, NodeError, NodePath, NodeState, NotUndone, Open, Run,
};
use crate::limits::{MAX_NAMED_NOT_UNDONE, MAX_NOT_UNDONE_CHARS};

/// Which way a run goes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Course {
    /// Through its graph.
    #[default]
    Forward,
    /// Back: it undoes what it did, and ends then.
    Undoing(Box<Undoing>),
}

/// A run that undoes what it did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Undoing {
    /// How it ends then.
    pub because: EndCause,
    /// Indexes in the nodes of the run of what is to be undone, in that order.
    order: Vec<u32>,
    /// How many undo nodes were begun.
    begun: u32,
}

impl Undoing {
    pub(super) fn new(event: &CompensationStarted, order: Vec<u32>) -> Self {
        Self { because: event.because.clone(), order, begun: 0 }
    }

    /// Notes that one more undo node was begun.
    pub(super) fn begin(&mut self) {
        self.begun += 1;
    }
}

impl Open {
    /// How it undoes what it did, while it does.
    #[must_use]
    pub fn undoing(&self) -> Option<&Undoing> {
        match &self.course {
            Course::Forward => None,
            Course::Undoing(undoing) => Some(undoing),
        }
    }

    /// Whether nothing of it is to end or to be undone.
    pub(super) fn goes_forward(&self) -> Result<(), ExecutionRejection> {
        match self.undoing().map(|undoing| &undoing.because) {
            Some(EndCause::Failed { .. }) => Err(ExecutionRejection::Compensating),
            Some(EndCause::Cancelled { .. }) => Err(ExecutionRejection::Cancelling),
            None if self.is_cancelling() => Err(ExecutionRejection::Cancelling),
            None => Ok(()),
        }
    }

    /// The undo node that begins after so many others: none once all were begun.
    pub(super) fn undo_after(&self, others: u32) -> Option<NodePath> {
        let undoing = self.undoing()?;
        let index = *undoing.order.get((undoing.begun + others) as usize)?;
        let (path, _) = self.run.nodes.get_index(index as usize)?;
        self.run.undo_of(path)
    }

    /// How far the undoing is: what it comes to if it ended now. None where there is nothing to undo.
    #[must_use]
    pub fn compensation(&self) -> Option<Compensation> {
        let forward = match &self.course {
            Course::Forward => self.run.undoable(),
            Course::Undoing(_) => Vec::new(),
        };
        let order = self.undoing().map_or(&forward, |undoing| &undoing.order);
        let paths = order.iter().filter_map(|index| self.run.nodes.get_index(*index as usize));
        let mut came = Compensation { undone: 0, not_undone: 0, named: Vec::new() };
        for (node, _) in paths {
            let Some(undo) = self.run.undo_of(node) else { continue };
            let error = match self.run.nodes.get(&undo).map(|undo| &undo.state) {
                Some(NodeState::Completed(_)) => {
                    came.undone += 1;
                    continue;
                }
                Some(NodeState::Failed(error)) => Some(shortened(error)),
                Some(
                    NodeState::Running(_)
                    | NodeState::Waiting(_)
                    | NodeState::Failing(_)
                    | NodeState::Retrying { .. }
                    | NodeState::Ready
                    | NodeState::Looping(_)
                    | NodeState::Skipped,
                )
                | None => None,
            };
            came.not_undone += 1;
            if came.named.len() < MAX_NAMED_NOT_UNDONE {
                came.named.push(NotUndone { node: node.clone(), undo, error });
            }
        }
        (!order.is_empty()).then_some(came)
    }

    /// What ends it for this cause, after some events that are not folded yet: the end itself, or the beginning of undoing what it did.
    pub(super) fn end_after(
        &self,
        events: &[ExecutionEvent],
        because: EndCause,
        undo: Undo,
    ) -> ExecutionEvent {
        let because = self.undoing().map_or(because, |undoing| undoing.because.clone());
        let mut compensation = None;
        if !self.run.request.undoes.is_empty() {
            let mut after = self.clone();
            events.iter().for_each(|event| after.apply(event));
            compensation = after.compensation();
            let turns = after.undoing().is_none() && !after.undo_waived && undo == Undo::First;
            if let Some(Compensation { not_undone, .. }) = compensation.as_ref().filter(|_| turns) {
                return CompensationStarted { because, undoes: *not_undone }.into();
            }
        }
        match because {
            EndCause::Failed { node, error } => {
                ExecutionFailed { node, error, compensation }.into()
            }
            EndCause::Cancelled { reason } => ExecutionCancelled { reason, compensation }.into(),
        }
    }

    /// Names in events about undo nodes what they undo.
    pub(super) fn name_undone(&self, events: &mut [ExecutionEvent]) {
        if self.undoing().is_none() {
            return;
        }
        for event in events {
            if let ExecutionEvent::NodeStarted(event) = event {
                event.undoes = self.run.undone_by(&event.path);
            } else if let ExecutionEvent::NodeCompleted(event) = event {
                event.undoes = self.run.undone_by(&event.path);
            }
        }
    }
}

/// Whether what a run did is undone before it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Undo {
    /// It is, where there is anything to undo.
    First,
    /// It can't be.
    Never,
}

impl Run {
    /// The node that undoes a node, where one does.
    pub(super) fn undo_of(&self, path: &NodePath) -> Option<NodePath> {
        let undo = self.request.undoes.get(path.node_id())?;
        Some(NodePath::within(path.scope(), undo))
    }

    /// The node that an undo node undoes; none for every other node.
    #[must_use]
    pub fn undone_by(&self, undo: &NodePath) -> Option<NodePath> {
        let mut undoes = self.request.undoes.iter();
        let (node, _) = undoes.find(|(_, id)| id.as_str() == undo.node_id())?;
        Some(NodePath::within(undo.scope(), node))
    }

    /// Indexes of what there is to undo, the last completed first.
    pub(super) fn undoable(&self) -> Vec<u32> {
        if self.request.undoes.is_empty() {
            return Vec::new();
        }
        let completed = self.settled().iter().rev().copied().filter(|index| {
            self.nodes.get_index(*index as usize).is_some_and(|(path, node)| {
                matches!(node.state, NodeState::Completed(_))
                    && self.request.undoes.contains_key(path.node_id())
            })
        });
        completed.filter(|index| !self.not_done.contains(index)).collect()
    }

    /// Nodes of the top level whose effect, or that of a node in their body, was undone or begun to be: their outcome is no more.
    pub(super) fn undone(&self) -> HashSet<String> {
        let undo_ids: HashSet<&str> = self.request.undoes.values().map(String::as_str).collect();
        if undo_ids.is_empty() {
            return HashSet::new();
        }
        let begun = self.nodes.keys().filter(|path| undo_ids.contains(path.node_id()));
        let node = begun.filter_map(|undo| self.undone_by(undo));
        node.map(|path| match path.as_str().find('[') {
            Some(bracket) => path.as_str()[..bracket].to_owned(),
            None => path.as_str().to_owned(),
        })
        .collect()
    }
}

/// The error as the end of a run names it: all of it is in the event of the failure.
fn shortened(error: &NodeError) -> NodeError {
    let message = error.message.chars().take(MAX_NOT_UNDONE_CHARS).collect();
    NodeError { kind: error.kind, message, details: None }
}
