//! What may be asked of slots and lines without changing them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{
    Dispatch,
    entry::{Entry, Place},
};
use crate::{
    event::{Actor, AnyEvent, Recorded},
    execution::{Claim, ConcurrencyLimit, LimitStrategy, PauseReason},
    id::{ExecutionId, WorkflowId, WorkspaceId},
};

/// At most so many holders of a limit are named; nobody reads more, and an answer stays small.
const MAX_NAMED_HOLDERS: usize = 100;

/// Why an execution does not run this moment, or who runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It waits for its turn, and for a slot of each of its limits.
    InLine {
        /// How it stands in the line of each limit.
        lines: Vec<Standing>,
        /// Whether it ran before and is at the head.
        resumed: bool,
    },
    /// It has its slots, and no worker took it yet.
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

/// How an execution stands in the line of one limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The limit.
    pub limit: ConcurrencyLimit,
    /// From 1. Others may still be chosen before it by the weight of their queue and the turn of their workspace.
    pub place: usize,
    /// Whether all slots are taken.
    pub full: bool,
    /// How many hold a slot.
    pub held: usize,
    /// Who holds the slots, the oldest first, at most a hundred.
    pub holders: Vec<ExecutionId>,
}

/// Dispatch is paused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Who paused it.
    pub by: Actor,
    /// Since when.
    pub since: DateTime<Utc>,
    /// Why, in their words.
    pub reason: Option<String>,
}

/// Why a request is not taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Full {
    /// All slots of a limit are taken, and its strategy is to refuse.
    Limit(ConcurrencyLimit),
    /// Too many runs of the workflow wait already.
    Queue {
        /// How many.
        waiting: usize,
        /// How many may.
        max: usize,
    },
}

impl Hold {
    pub(super) fn new(reason: Option<&str>, recorded: &Recorded<AnyEvent>) -> Self {
        Self {
            by: recorded.metadata.actor.clone(),
            since: recorded.recorded_at,
            reason: reason.map(str::to_owned),
        }
    }
}

impl Dispatch {
    /// What an open execution waits for; none when it is not open.
    #[must_use]
    pub fn why(&self, execution: ExecutionId) -> Option<Why> {
        let entry = self.runs.get(&execution)?;
        Some(match &entry.place {
            Place::Line { resumed } => {
                let ticket = entry.ticket(execution);
                let standing = |limit: &ConcurrencyLimit| Standing {
                    place: self.lines.place(&ticket, limit),
                    full: self.is_full(limit),
                    held: self.lines.held(&limit.key),
                    holders: self.lines.holders(&limit.key).take(MAX_NAMED_HOLDERS).collect(),
                    limit: limit.clone(),
                };
                let lines = entry.limits.iter().map(standing).collect();
                Why::InLine { lines, resumed: resumed.is_some() }
            }
            Place::Dispatched { since } => Why::Dispatched { claim: entry.claim, since: *since },
            Place::Running { worker, .. } => {
                Why::Running { worker: worker.clone(), claim: entry.claim }
            }
            Place::Waiting => Why::Waiting,
            Place::Paused { reason, .. } => Why::Paused { reason: *reason },
        })
    }

    /// Since when an open execution is where [`Self::why`] says.
    #[must_use]
    pub fn since(&self, execution: ExecutionId) -> Option<DateTime<Utc>> {
        self.runs.get(&execution).map(|entry| entry.since)
    }

    /// Who paused an execution that is paused, or is to be once its running steps have ended.
    #[must_use]
    pub fn paused_by(&self, execution: ExecutionId) -> Option<&Actor> {
        self.runs.get(&execution)?.paused_by.as_ref()
    }

    /// The open executions of a workspace, or all, in the order of their ids.
    #[must_use]
    pub fn open(&self, workspace: Option<WorkspaceId>) -> Vec<ExecutionId> {
        let of = |(_, entry): &(&ExecutionId, &Entry)| {
            workspace.is_none_or(|workspace| entry.workspace == workspace)
        };
        let mut open: Vec<ExecutionId> = self.runs.iter().filter(of).map(|(id, _)| *id).collect();
        open.sort_unstable();
        open
    }

    /// Whether and why nothing of a workspace is handed out: the pause of the deployment before its own.
    #[must_use]
    pub fn hold_of(&self, workspace: WorkspaceId) -> Option<&Hold> {
        self.holds.deployment.as_ref().or_else(|| self.holds.workspaces.get(&workspace))
    }

    /// Whether dispatch is paused where an open execution belongs.
    #[must_use]
    pub fn is_held(&self, execution: ExecutionId) -> bool {
        self.runs.get(&execution).is_some_and(|entry| self.hold_of(entry.workspace).is_some())
    }

    /// The pause of the deployment.
    #[must_use]
    pub fn deployment_hold(&self) -> Option<&Hold> {
        self.holds.deployment.as_ref()
    }

    /// The workspaces that are paused by themselves.
    pub fn workspace_holds(&self) -> impl Iterator<Item = (WorkspaceId, &Hold)> {
        self.holds.workspaces.iter().map(|(workspace, hold)| (*workspace, hold))
    }

    /// How many runs of a workflow no worker ever took.
    #[must_use]
    pub fn queued(&self, workflow: WorkflowId) -> usize {
        self.queued.get(&workflow).copied().unwrap_or(0)
    }

    /// Why a run must not be requested now, if it must not: a limit that refuses is full, or too many of its workflow wait. `reserved`
    /// counts the runs, by limit or by workflow, whose requests were let in and are not in the log yet.
    #[must_use]
    pub fn refuses(
        &self,
        workflow: WorkflowId,
        limits: &[ConcurrencyLimit],
        max_queued: usize,
        reserved: impl Fn(&str) -> usize,
    ) -> Option<Full> {
        let full =
            limits.iter().filter(|limit| limit.strategy == LimitStrategy::Reject).find(|limit| {
                let taken = self.lines.held(&limit.key) + self.lines.waiting(&limit.key);
                taken + reserved(&limit.key) >= limit.limit as usize
            });
        if let Some(limit) = full {
            return Some(Full::Limit(limit.clone()));
        }
        let waiting = self.queued(workflow) + reserved(&workflow.to_string());
        (waiting >= max_queued).then_some(Full::Queue { waiting, max: max_queued })
    }

    /// Whether all slots of a limit are taken.
    pub(super) fn is_full(&self, limit: &ConcurrencyLimit) -> bool {
        self.lines.held(&limit.key) >= limit.limit as usize
    }

    /// Whether an open execution could be handed out this moment: it stands in its line, and nothing but its turn holds it back.
    #[must_use]
    pub fn is_next_by_rights(&self, execution: ExecutionId) -> bool {
        self.runs.get(&execution).is_some_and(|entry| {
            entry.waits()
                && self.hold_of(entry.workspace).is_none()
                && !entry.limits.iter().any(|limit| self.is_full(limit))
        })
    }
}
