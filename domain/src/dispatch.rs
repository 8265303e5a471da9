//! Which execution may run next: the log folded into slots and lines.
//!
//! A limit has slots, and executions that it concerns wait for one in its line; one that several limits concern runs while it has a slot
//! of each. A slot is held from the dispatch (already from the decision to dispatch) until the run waits, pauses without a worker, or
//! ends; so events that are seen late only under-fill a limit. Nobody else hands out slots of a limit, hence two rules for whoever runs
//! this: one at a time (its appends are fenced), and [`Dispatch::decisions`] only once everything up to the head of the log, as it was
//! when it became the one, is applied. Anybody may keep a fold of their own to look at.
//!
//! Order: what ran before comes first in its line; then queues by weight, so that low is never starved; within a queue workspaces take
//! turns; within a workspace the oldest first. A workspace or the deployment may be held, and then nothing of it is chosen. Memory: only
//! open executions are kept.

mod entry;
mod line;
mod look;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub use self::look::{Full, Hold, Standing, Why};
use self::{
    entry::{Entry, Pending, Place, moves},
    line::Lines,
};
use crate::{
    deployment::DeploymentEvent,
    event::{AnyEvent, Recorded},
    execution::{CancelReason, Claim, ConcurrencyLimit, ExecutionEvent, LimitStrategy},
    id::{ExecutionId, WorkflowId, WorkspaceId},
    workspace::WorkspaceEvent,
};

/// At most so many runs are told at once that they wait in a line, or that they are to end.
const MAX_TOLD_AT_ONCE: usize = 256;

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
    /// Limits whose strategy is not to wait, and that somebody joined since the last decision.
    crowded: BTreeSet<String>,
    /// How many executions of each workflow no worker ever took.
    queued: HashMap<WorkflowId, usize>,
    holds: Holds,
}

/// Where dispatch is paused.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Holds {
    deployment: Option<Hold>,
    workspaces: BTreeMap<WorkspaceId, Hold>,
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
    /// [`crate::execution::ExecutionCommand::Cancel`].
    Cancel {
        /// The execution.
        execution: ExecutionId,
        /// The strategy of a limit.
        reason: CancelReason,
    },
}

impl Dispatch {
    /// Takes note of an event. Events that say nothing of executions or of pauses change nothing.
    pub fn apply(&mut self, recorded: &Recorded<AnyEvent>) {
        match &recorded.event {
            AnyEvent::Execution(event) => self.apply_execution(event, recorded),
            AnyEvent::Workspace(event) => self.apply_workspace(event, recorded),
            AnyEvent::Deployment(event) => self.apply_deployment(event, recorded),
            AnyEvent::Workflow(_)
            | AnyEvent::Vault(_)
            | AnyEvent::Trigger(_)
            | AnyEvent::Audit(_) => {}
        }
    }

    fn apply_execution(&mut self, event: &ExecutionEvent, recorded: &Recorded<AnyEvent>) {
        let id = ExecutionId(recorded.stream);
        if let ExecutionEvent::ExecutionRequested(event) = event {
            self.put(id, Entry::new(event, recorded));
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

    fn apply_workspace(&mut self, event: &WorkspaceEvent, recorded: &Recorded<AnyEvent>) {
        let workspace = WorkspaceId(recorded.stream);
        match event {
            WorkspaceEvent::DispatchPaused(event) => {
                let hold = Hold::new(event.reason.as_deref(), recorded);
                self.holds.workspaces.insert(workspace, hold);
                self.lines.set_paused(workspace, true);
            }
            WorkspaceEvent::DispatchResumed(_) => {
                self.holds.workspaces.remove(&workspace);
                self.lines.set_paused(workspace, false);
            }
            WorkspaceEvent::WorkspaceCreated(_)
            | WorkspaceEvent::WorkspaceRenamed(_)
            | WorkspaceEvent::ConcurrencyChanged(_)
            | WorkspaceEvent::MemberAdded(_)
            | WorkspaceEvent::MemberRoleChanged(_)
            | WorkspaceEvent::MemberRemoved(_)
            | WorkspaceEvent::WorkspaceDeletionRequested(_)
            | WorkspaceEvent::WorkspaceRestored(_)
            | WorkspaceEvent::WorkspaceDeleted(_)
            | WorkspaceEvent::InvitationSent(_)
            | WorkspaceEvent::InvitationRenewed(_)
            | WorkspaceEvent::InvitationRevoked(_)
            | WorkspaceEvent::InvitationAccepted(_)
            | WorkspaceEvent::InvitationExpired(_)
            | WorkspaceEvent::ServiceAccountAdded(_)
            | WorkspaceEvent::ServiceAccountDisabled(_)
            | WorkspaceEvent::ServiceAccountEnabled(_) => {}
        }
    }

    fn apply_deployment(&mut self, event: &DeploymentEvent, recorded: &Recorded<AnyEvent>) {
        self.holds.deployment = match event {
            DeploymentEvent::DispatchPaused(event) => {
                Some(Hold::new(event.reason.as_deref(), recorded))
            }
            DeploymentEvent::DispatchResumed(_) => None,
            DeploymentEvent::ProjectionEventSkipped(_) => return,
        };
        self.lines.set_all_paused(self.holds.deployment.is_some());
    }

    /// What is to be told now: who ends because a limit is crowded, at most `max` dispatches, and to whom stays in a line that it is
    /// there. Each is given once, until its event was seen or [`Self::forget`] is called.
    pub fn decisions(&mut self, max: usize) -> Vec<DispatchDecision> {
        let mut decisions = self.relieve();
        let before = decisions.len();
        while decisions.len() - before < max
            && let Some(execution) = self.lines.choose()
        {
            let Some(claim) = self.mark(execution, Pending::Dispatch) else { break };
            decisions.push(DispatchDecision::Dispatch { execution, claim: Claim(claim.0 + 1) });
        }
        let untold: Vec<ExecutionId> =
            self.untold.values().take(MAX_TOLD_AT_ONCE).copied().collect();
        for execution in untold {
            let limit = self.runs.get(&execution).and_then(|entry| {
                let full = entry.limits.iter().find(|limit| self.is_full(limit));
                full.or_else(|| entry.limits.first()).cloned()
            });
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

    /// The live claims of a worker, to be re-dispatched when it is lost. What belongs to a held workspace waits for its resume, unless it
    /// is to end.
    #[must_use]
    pub fn claims_of(&self, worker: &str) -> Vec<(ExecutionId, Claim)> {
        let executions = self.workers.get(worker).into_iter().flatten();
        self.claims(executions.copied())
    }

    /// Workers that have executions, so that those whose lease is gone can be found.
    pub fn workers(&self) -> impl Iterator<Item = &str> {
        self.workers.keys().map(String::as_str)
    }

    /// Claims that were handed out at or before a time and that no worker took, oldest first.
    #[must_use]
    pub fn untaken(&self, until: DateTime<Utc>) -> Vec<(ExecutionId, Claim)> {
        let old = self.untaken.iter().take_while(|(since, _)| *since <= until);
        self.claims(old.map(|(_, id)| *id))
    }

    fn claims(&self, ids: impl Iterator<Item = ExecutionId>) -> Vec<(ExecutionId, Claim)> {
        let claim = |id: ExecutionId| {
            let entry = self.runs.get(&id)?;
            let is_told = match &entry.place {
                Place::Running { pausing, .. } => pausing.is_some() || entry.cancelling,
                Place::Line { .. }
                | Place::Dispatched { .. }
                | Place::Waiting
                | Place::Paused { .. } => false,
            };
            (is_told || self.hold_of(entry.workspace).is_none()).then_some((id, entry.claim))
        };
        ids.filter_map(claim).collect()
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

    /// Ends executions where more run or wait under a limit than it has slots, and its strategy is not to wait.
    fn relieve(&mut self) -> Vec<DispatchDecision> {
        let mut decisions = Vec::new();
        while decisions.len() < MAX_TOLD_AT_ONCE
            && let Some(key) = self.crowded.pop_first()
        {
            for (execution, reason) in self.surplus(&key) {
                self.mark(execution, Pending::Cancel);
                decisions.push(DispatchDecision::Cancel { execution, reason });
            }
            // Marking puts each of them back, and this limit with it.
            self.crowded.remove(&key);
        }
        decisions
    }

    /// Who is to end because of a limit. The strategy of whoever came last decides, since the workflow may have been changed meanwhile.
    fn surplus(&self, key: &str) -> Vec<(ExecutionId, CancelReason)> {
        let all = self.lines.holders(key).chain(self.lines.waiting_for(key));
        let mut staying: Vec<(ExecutionId, &Entry)> = all
            .filter_map(|id| self.runs.get(&id).map(|entry| (id, entry)))
            .filter(|(_, entry)| !entry.leaves())
            .collect();
        staying.sort_by_key(|(_, entry)| entry.requested);
        let newest = staying
            .last()
            .and_then(|(_, entry)| entry.limits.iter().find(|limit| limit.key == key));
        let Some(limit) = newest else { return Vec::new() };
        let Some(over) = staying.len().checked_sub(limit.limit as usize) else { return Vec::new() };
        // What is being handed out this moment is looked at again when that was seen: its slot must not be given away before.
        let is_settled = |(_, entry): &&(ExecutionId, &Entry)| entry.pending != Pending::Dispatch;
        match limit.strategy {
            LimitStrategy::Queue => Vec::new(),
            LimitStrategy::CancelRunning => {
                let oldest = staying.iter().take(over).filter(is_settled);
                oldest.map(|(id, _)| (*id, CancelReason::Superseded)).collect()
            }
            LimitStrategy::Reject | LimitStrategy::CancelNewest => {
                let never_ran = |(_, entry): &&(ExecutionId, &Entry)| {
                    entry.waits() && entry.place == Place::Line { resumed: None }
                };
                let newest = staying.iter().rev().filter(never_ran).take(over);
                newest.map(|(id, _)| (*id, CancelReason::LimitReached)).collect()
            }
        }
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
        self.lines.remove(&entry.ticket(id));
        self.untold.remove(&entry.requested);
        if entry.is_queued()
            && let Some(queued) = self.queued.get_mut(&entry.workflow)
        {
            *queued -= 1;
            if *queued == 0 {
                self.queued.remove(&entry.workflow);
            }
        }
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
        let ticket = entry.ticket(id);
        if entry.holds() {
            self.lines.hold(&ticket);
        } else if entry.waits() {
            self.lines.wait(&ticket);
        }
        if entry.holds() || entry.waits() {
            let impatient =
                entry.limits.iter().filter(|limit| limit.strategy != LimitStrategy::Queue);
            self.crowded.extend(impatient.map(|limit| limit.key.clone()));
        }
        if entry.is_queued() {
            *self.queued.entry(entry.workflow).or_default() += 1;
        }
        let is_untold = entry.place == Place::Line { resumed: None }
            && !entry.told
            && !entry.limits.is_empty()
            && entry.pending == Pending::Nothing;
        if is_untold {
            self.untold.insert(entry.requested, id);
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
    holds: Holds,
}

impl From<Snapshot> for Dispatch {
    fn from(snapshot: Snapshot) -> Self {
        let mut dispatch = Self::default();
        for (id, entry) in snapshot.runs {
            dispatch.put(id, entry);
        }
        dispatch.lines.set_turns(snapshot.turns);
        dispatch.lines.set_all_paused(snapshot.holds.deployment.is_some());
        for workspace in snapshot.holds.workspaces.keys() {
            dispatch.lines.set_paused(*workspace, true);
        }
        dispatch.holds = snapshot.holds;
        dispatch
    }
}

impl From<Dispatch> for Snapshot {
    fn from(dispatch: Dispatch) -> Self {
        let mut runs: Vec<_> = dispatch.runs.into_iter().collect();
        runs.sort_by_key(|(_, entry)| entry.requested);
        Self { runs, turns: dispatch.lines.into_turns(), holds: dispatch.holds }
    }
}

#[cfg(test)]
mod tests;
