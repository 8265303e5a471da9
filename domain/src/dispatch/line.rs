//! The lines of all limits, and the choice of who is next.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use crate::{
    execution::Queue,
    id::{ExecutionId, WorkspaceId},
};

/// How many of high, default and low are served in a round of seven.
const WEIGHTS: [i64; 3] = [4, 2, 1];

/// Where an execution stands in its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rank {
    /// It ran before: at the head, by the position at which it came back.
    Resumed(i64),
    /// It never ran: in its queue, by the position of its request.
    New(Queue, i64),
}

/// An execution in a line or in a slot.
#[derive(Clone, Debug)]
pub(super) struct Ticket {
    pub(super) execution: ExecutionId,
    pub(super) workspace: WorkspaceId,
    pub(super) key: String,
    pub(super) limit: u32,
    pub(super) rank: Rank,
}

/// The class of a rank (resumed, high, default, low) and the place within it.
impl Rank {
    fn class(self) -> (usize, i64) {
        match self {
            Self::Resumed(position) => (0, position),
            Self::New(Queue::High, position) => (1, position),
            Self::New(Queue::Default, position) => (2, position),
            Self::New(Queue::Low, position) => (3, position),
        }
    }
}

/// All lines.
#[derive(Clone, Debug, Default)]
pub(super) struct Lines {
    lines: HashMap<String, Line>,
    /// Per class and workspace, the first of every line that has a free slot for it.
    heads: [BTreeMap<WorkspaceId, BTreeSet<(i64, ExecutionId)>>; 4],
    turns: Turns,
}

/// Whose turn it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Turns {
    /// What high, default and low have saved up.
    credits: [i64; 3],
    /// Per class, the workspace that was served last.
    last: [Option<WorkspaceId>; 4],
}

/// The line of one limit.
#[derive(Clone, Debug, Default)]
struct Line {
    holders: BTreeSet<ExecutionId>,
    waiting: [BTreeMap<(i64, ExecutionId), Waiting>; 4],
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    workspace: WorkspaceId,
    limit: u32,
}

impl Lines {
    /// Somebody waits.
    pub(super) fn wait(&mut self, ticket: Ticket) {
        let (class, place) = ticket.rank.class();
        let waiting = Waiting { workspace: ticket.workspace, limit: ticket.limit };
        self.change(ticket.key, |line| {
            line.waiting[class].insert((place, ticket.execution), waiting);
        });
    }

    /// Somebody has a slot.
    pub(super) fn hold(&mut self, ticket: Ticket) {
        self.change(ticket.key, |line| {
            line.holders.insert(ticket.execution);
        });
    }

    /// Somebody neither waits nor has a slot.
    pub(super) fn remove(&mut self, ticket: &Ticket) {
        let (class, place) = ticket.rank.class();
        self.change(ticket.key.clone(), |line| {
            line.holders.remove(&ticket.execution);
            line.waiting[class].remove(&(place, ticket.execution));
        });
    }

    /// Who is next. Counts as served.
    pub(super) fn choose(&mut self) -> Option<ExecutionId> {
        let class = self.choose_class()?;
        let last = self.turns.last[class];
        let heads = &self.heads[class];
        let after = last.and_then(|last| {
            heads.range((std::ops::Bound::Excluded(last), std::ops::Bound::Unbounded)).next()
        });
        let (workspace, first) = after.or_else(|| heads.iter().next())?;
        self.turns.last[class] = Some(*workspace);
        first.first().map(|(_, execution)| *execution)
    }

    /// What ran before has precedence; the queues share by weight (smooth weighted round robin over those that have somebody).
    fn choose_class(&mut self) -> Option<usize> {
        if !self.heads[0].is_empty() {
            return Some(0);
        }
        let credits = &mut self.turns.credits;
        let mut total = 0;
        for (queue, weight) in WEIGHTS.iter().enumerate() {
            if self.heads[queue + 1].is_empty() {
                credits[queue] = 0;
            } else {
                credits[queue] += weight;
                total += weight;
            }
        }
        let richest = (0..3)
            .filter(|queue| !self.heads[queue + 1].is_empty())
            .max_by_key(|queue| (credits[*queue], std::cmp::Reverse(*queue)))?;
        credits[richest] -= total;
        Some(richest + 1)
    }

    /// The place of somebody who waits, from 1, and who holds the slots.
    pub(super) fn place(&self, ticket: &Ticket) -> (usize, Vec<ExecutionId>) {
        let Some(line) = self.lines.get(&ticket.key) else { return (1, Vec::new()) };
        let (class, place) = ticket.rank.class();
        let before: usize = line.waiting[..class].iter().map(BTreeMap::len).sum();
        let beside = line.waiting[class].range(..(place, ticket.execution)).count();
        (before + beside + 1, line.holders.iter().copied().collect())
    }

    pub(super) fn set_turns(&mut self, turns: Turns) {
        self.turns = turns;
    }

    pub(super) fn into_turns(self) -> Turns {
        self.turns
    }

    /// Changes a line and keeps its heads listed; a line that nobody is in goes.
    fn change(&mut self, key: String, change: impl FnOnce(&mut Line)) {
        let line = self.lines.entry(key.clone()).or_default();
        for (class, workspace, head) in line.heads() {
            if let Some(heads) = self.heads[class].get_mut(&workspace) {
                heads.remove(&head);
                if heads.is_empty() {
                    self.heads[class].remove(&workspace);
                }
            }
        }
        change(line);
        for (class, workspace, head) in line.heads() {
            self.heads[class].entry(workspace).or_default().insert(head);
        }
        if line.holders.is_empty() && line.waiting.iter().all(BTreeMap::is_empty) {
            self.lines.remove(&key);
        }
    }
}

impl Line {
    /// The first of each class, where there is a slot for it. The limit is its own: the workflow's may have changed since others came.
    fn heads(&self) -> Vec<(usize, WorkspaceId, (i64, ExecutionId))> {
        let held = u32::try_from(self.holders.len()).unwrap_or(u32::MAX);
        let first = |(class, waiting): (usize, &BTreeMap<(i64, ExecutionId), Waiting>)| {
            let (head, waiting) = waiting.first_key_value()?;
            (held < waiting.limit).then_some((class, waiting.workspace, *head))
        };
        self.waiting.iter().enumerate().filter_map(first).collect()
    }
}
