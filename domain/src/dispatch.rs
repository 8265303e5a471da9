//! Which execution may run next: the log folded into slots and lines.
//!
//! A limit has slots, and executions that it concerns wait for one in its line. A slot is held from the dispatch (already from the
//! decision to dispatch) until the run waits, pauses without a worker, or ends; so events that are seen late only under-fill a limit.
//! Nobody else hands out slots of a limit, hence two rules for whoever runs this: one at a time (its appends are fenced), and
//! [`Dispatch::decisions`] only once everything up to the head of the log, as it was when it became the one, is applied.
//!
//! Order: what ran before comes first in its line; then queues by weight, so that low is never starved; within a queue workspaces take
//! turns; within a workspace the oldest first. Memory: only open executions are kept.

mod entry;
mod line;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use self::{
    entry::{Entry, Pending, Place, moves},
    line::Lines,
};
use crate::{
    event::{AnyEvent, Recorded},
    execution::{Claim, ConcurrencyLimit, ExecutionEvent, PauseReason},
    id::ExecutionId,
};

/// At most so many runs are told at once that they wait in a line.
const MAX_QUEUED_AT_ONCE: usize = 256;

/// The slots and lines of all limits, and who has which execution.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Snapshot", into = "Snapshot")]
pub struct Dispatch {
    runs: HashMap<ExecutionId, Entry>,
    lines: Lines,
    /// Executions that nobody took yet, oldest dispatch first.
    untaken: BTreeSet<(DateTime<Utc>, ExecutionId)>,
    workers: HashMap<String, BTreeSet<ExecutionId>>,
    /// Executions in a line that were not told so yet, by the position of their request.
    untold: BTreeMap<i64, ExecutionId>,
}

/// What is told to an execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DispatchDecision {
    /// [`crate::execution::ExecutionCommand::Queue`].
    Queue {
        /// The execution.
        execution: ExecutionId,
        /// The limit that it waits for.
        limit: ConcurrencyLimit,
    },
    /// [`crate::execution::ExecutionCommand::Dispatch`].
    Dispatch {
        /// The execution.
        execution: ExecutionId,
        /// Its next claim.
        claim: Claim,
    },
}

/// Why an execution does not run this moment, or who runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It waits for a slot.
    InLine {
        /// Of this limit.
        limit: ConcurrencyLimit,
        /// From 1. Others may still be chosen before it by the weight of their queue.
        place: usize,
        /// Whether it ran before and is at the head.
        resumed: bool,
        /// Who holds the slots.
        holders: Vec<ExecutionId>,
    },
    /// It has a slot if it needs one, and no worker took it yet.
    Dispatched {
        /// Its claim.
        claim: Claim,
        /// Since when.
        since: DateTime<Utc>,
    },
    /// A worker has it.
    Running {
        /// Which.
        worker: String,
        /// Under which claim.
        claim: Claim,
    },
    /// It waits for what its nodes wait for.
    Waiting,
    /// It waits to be resumed.
    Paused {
        /// What paused it.
        reason: PauseReason,
    },
}

impl Dispatch {
    /// Takes note of an event. Events of other aggregates change nothing.
    pub fn apply(&mut self, recorded: &Recorded<AnyEvent>) {
        let AnyEvent::Execution(event) = &recorded.event else { return };
        let id = ExecutionId(recorded.stream);
        if let ExecutionEvent::ExecutionRequested(event) = event {
            self.put(id, Entry::new(event, recorded.position));
            return;
        }
        if !moves(event) {
            return;
        }
        let Some(mut entry) = self.runs.remove(&id) else { return };
        self.unlist(id, &entry);
        if entry.apply(event, recorded) {
            self.put(id, entry);
        }
    }

    /// What is to be told now: at most `max` dispatches, and to whom stays in a line that it is there. Each is given once, until its
    /// event was seen or [`Self::forget`] is called.
    pub fn decisions(&mut self, max: usize) -> Vec<DispatchDecision> {
        let mut decisions = Vec::new();
        while decisions.len() < max
            && let Some(execution) = self.lines.choose()
        {
            let Some(claim) = self.mark(execution, Pending::Dispatch) else { break };
            decisions.push(DispatchDecision::Dispatch { execution, claim: Claim(claim.0 + 1) });
        }
        let untold: Vec<ExecutionId> =
            self.untold.values().take(MAX_QUEUED_AT_ONCE).copied().collect();
        for execution in untold {
            let limit = self.runs.get(&execution).and_then(|entry| entry.limit.clone());
            if let Some(limit) = limit {
                self.mark(execution, Pending::Queue);
                decisions.push(DispatchDecision::Queue { execution, limit });
            }
        }
        decisions
    }

    /// A command was refused or failed: it is decided again at the next call, on what was seen by then.
    pub fn forget(&mut self, execution: ExecutionId) {
        self.mark(execution, Pending::Nothing);
    }

    /// The live claims of a worker, to be re-dispatched when it is lost.
    #[must_use]
    pub fn claims_of(&self, worker: &str) -> Vec<(ExecutionId, Claim)> {
        let executions = self.workers.get(worker).into_iter().flatten();
        executions.filter_map(|id| Some((*id, self.runs.get(id)?.claim))).collect()
    }

    /// Workers that have executions, so that those whose lease is gone can be found.
    pub fn workers(&self) -> impl Iterator<Item = &str> {
        self.workers.keys().map(String::as_str)
    }

    /// Claims that were handed out at or before a time and that no worker took, oldest first.
    #[must_use]
    pub fn untaken(&self, until: DateTime<Utc>) -> Vec<(ExecutionId, Claim)> {
        let old = self.untaken.iter().take_while(|(since, _)| *since <= until);
        old.filter_map(|(_, id)| Some((*id, self.runs.get(id)?.claim))).collect()
    }

    /// How many claims are handed out and not taken: how deep the work queue is.
    #[must_use]
    pub fn untaken_len(&self) -> usize {
        self.untaken.len()
    }

    /// How many executions workers have.
    #[must_use]
    pub fn running_len(&self) -> usize {
        self.workers.values().map(BTreeSet::len).sum()
    }

    /// How many executions are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Whether no execution is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// What an open execution waits for; none when it is not open.
    #[must_use]
    pub fn why(&self, execution: ExecutionId) -> Option<Why> {
        let entry = self.runs.get(&execution)?;
        Some(match &entry.place {
            Place::Line { resumed } => {
                let limit = entry.limit.clone()?;
                let (place, holders) = self.lines.place(&entry.ticket(execution)?);
                Why::InLine { limit, place, resumed: resumed.is_some(), holders }
            }
            Place::Dispatched { since } => Why::Dispatched { claim: entry.claim, since: *since },
            Place::Running { worker, .. } => {
                Why::Running { worker: worker.clone(), claim: entry.claim }
            }
            Place::Waiting => Why::Waiting,
            Place::Paused { reason, .. } => Why::Paused { reason: *reason },
        })
    }

    /// Changes what is pending of an execution, and answers its newest claim.
    fn mark(&mut self, execution: ExecutionId, pending: Pending) -> Option<Claim> {
        let mut entry = self.runs.remove(&execution)?;
        self.unlist(execution, &entry);
        entry.pending = pending;
        let claim = entry.claim;
        self.put(execution, entry);
        Some(claim)
    }

    /// Takes an entry out of every index.
    fn unlist(&mut self, id: ExecutionId, entry: &Entry) {
        if let Some(ticket) = entry.ticket(id) {
            self.lines.remove(&ticket);
        }
        self.untold.remove(&entry.requested);
        match &entry.place {
            Place::Dispatched { since } => {
                self.untaken.remove(&(*since, id));
            }
            Place::Running { worker, .. } => {
                if let Some(executions) = self.workers.get_mut(worker) {
                    executions.remove(&id);
                    if executions.is_empty() {
                        self.workers.remove(worker);
                    }
                }
            }
            Place::Line { .. } | Place::Waiting | Place::Paused { .. } => {}
        }
    }

    /// Puts an entry, and where it belongs by its place into the indexes.
    fn put(&mut self, id: ExecutionId, entry: Entry) {
        if let Some(ticket) = entry.ticket(id) {
            match (&entry.place, entry.pending) {
                (_, Pending::Dispatch) | (Place::Dispatched { .. } | Place::Running { .. }, _) => {
                    self.lines.hold(ticket)
                }
                (Place::Line { .. }, Pending::Nothing | Pending::Queue) => self.lines.wait(ticket),
                (Place::Waiting | Place::Paused { .. }, Pending::Nothing | Pending::Queue) => {}
            }
            let is_untold = entry.place == Place::Line { resumed: None }
                && !entry.told
                && entry.pending == Pending::Nothing;
            if is_untold {
                self.untold.insert(entry.requested, id);
            }
        }
        match &entry.place {
            Place::Dispatched { since } => {
                self.untaken.insert((*since, id));
            }
            Place::Running { worker, .. } => {
                self.workers.entry(worker.clone()).or_default().insert(id);
            }
            Place::Line { .. } | Place::Waiting | Place::Paused { .. } => {}
        }
        self.runs.insert(id, entry);
    }
}

/// What is kept of a [`Dispatch`] with its checkpoint: the indexes follow from it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Snapshot {
    runs: Vec<(ExecutionId, Entry)>,
    turns: line::Turns,
}

impl From<Snapshot> for Dispatch {
    fn from(snapshot: Snapshot) -> Self {
        let mut dispatch = Self::default();
        for (id, entry) in snapshot.runs {
            dispatch.put(id, entry);
        }
        dispatch.lines.set_turns(snapshot.turns);
        dispatch
    }
}

impl From<Dispatch> for Snapshot {
    fn from(dispatch: Dispatch) -> Self {
        let mut runs: Vec<_> = dispatch.runs.into_iter().collect();
        runs.sort_by_key(|(_, entry)| entry.requested);
        Self { runs, turns: dispatch.lines.into_turns() }
    }
}

#[cfg(test)]
mod tests;
