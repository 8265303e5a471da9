//! The lines of all limits, and the choice of who is next.
//!
//! Executions that the same limits concern wait in one line. A line is in a *gate*, the limit of its workspace: a gate that is full, or
//! whose workspace is paused, shuts all lines behind it at once, however many there are.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::Bound,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    execution::{ConcurrencyLimit, LimitScope, Queue},
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

/// An execution in a line or in its slots.
#[derive(Clone, Debug)]
pub(super) struct Ticket {
    pub(super) execution: ExecutionId,
    pub(super) workspace: WorkspaceId,
    pub(super) limits: Arc<[ConcurrencyLimit]>,
    /// Position of its request: its age.
    pub(super) requested: i64,
    pub(super) rank: Rank,
}

impl Rank {
    /// The class of a rank (resumed, high, default, low) and the place within it.
    fn class(self) -> (usize, i64) {
        match self {
            Self::Resumed(position) => (0, position),
            Self::New(Queue::High, position) => (1, position),
            Self::New(Queue::Default, position) => (2, position),
            Self::New(Queue::Low, position) => (3, position),
        }
    }
}

/// A place within a class, and who stands there.
type Head = (i64, ExecutionId);

/// A workspace, and how many of its executions may run at once. Executions that were requested under another limit of the same workspace
/// stand in another gate: each keeps the limit that it was requested under.
type GateKey = (WorkspaceId, Option<u32>);

/// The limits that executions wait for in one line, that of the workspace apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct LineKey {
    gate: GateKey,
    limits: Vec<(String, u32)>,
}

impl LineKey {
    fn of(ticket: &Ticket) -> Self {
        let mut key = Self { gate: (ticket.workspace, None), limits: Vec::new() };
        for limit in ticket.limits.iter() {
            match limit.scope {
                LimitScope::Workspace => key.gate.1 = Some(limit.limit),
                LimitScope::Workflow | LimitScope::Key => {
                    key.limits.push((limit.key.clone(), limit.limit));
                }
            }
        }
        key
    }
}

/// All lines.
#[derive(Clone, Debug, Default)]
pub(super) struct Lines {
    /// Who holds the slots of each limit, the oldest first.
    slots: HashMap<String, BTreeSet<Head>>,
    lines: HashMap<Arc<LineKey>, Line>,
    /// The lines that wait for each limit, those of workspaces apart.
    waiting_for: HashMap<String, HashSet<Arc<LineKey>>>,
    gates: BTreeMap<GateKey, Gate>,
    /// Per class, the gates that are open and have somebody.
    open: [BTreeSet<GateKey>; 4],
    paused: HashSet<WorkspaceId>,
    all_paused: bool,
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

/// Who waits for the same limits.
#[derive(Clone, Debug, Default)]
struct Line {
    waiting: [BTreeSet<Head>; 4],
    /// The first of each class as its gate lists it; none while a limit of the line is full.
    listed: [Option<Head>; 4],
}

/// Per class, the first of every line behind it that has a slot free.
#[derive(Clone, Debug, Default)]
struct Gate {
    heads: [BTreeSet<Head>; 4],
}

impl Lines {
    /// Somebody waits.
    pub(super) fn wait(&mut self, ticket: &Ticket) {
        let (class, place) = ticket.rank.class();
        let key = self.line_of(ticket);
        if let Some(line) = self.lines.get_mut(&key) {
            line.waiting[class].insert((place, ticket.execution));
        }
        self.relist(&key);
    }

    /// Somebody has a slot of each limit.
    pub(super) fn hold(&mut self, ticket: &Ticket) {
        for limit in ticket.limits.iter() {
            let slots = self.slots.entry(limit.key.clone()).or_default();
            slots.insert((ticket.requested, ticket.execution));
        }
        self.relist_all(ticket);
    }

    /// Somebody neither waits nor has a slot.
    pub(super) fn remove(&mut self, ticket: &Ticket) {
        for limit in ticket.limits.iter() {
            if let Some(slots) = self.slots.get_mut(&limit.key) {
                slots.remove(&(ticket.requested, ticket.execution));
                if slots.is_empty() {
                    self.slots.remove(&limit.key);
                }
            }
        }
        let (class, place) = ticket.rank.class();
        let key = LineKey::of(ticket);
        if let Some((key, _)) = self.lines.get_key_value(&key) {
            let key = Arc::clone(key);
            if let Some(line) = self.lines.get_mut(&key) {
                line.waiting[class].remove(&(place, ticket.execution));
            }
            self.relist(&key);
        }
        self.relist_all(ticket);
    }

    /// Nobody of a workspace is chosen, or somebody may be again.
    pub(super) fn set_paused(&mut self, workspace: WorkspaceId, paused: bool) {
        if paused {
            self.paused.insert(workspace);
        } else {
            self.paused.remove(&workspace);
        }
        self.reopen(workspace);
    }

    /// Nobody at all is chosen, or somebody may be again.
    pub(super) fn set_all_paused(&mut self, paused: bool) {
        self.all_paused = paused;
    }

    /// Who is next. Counts as served.
    pub(super) fn choose(&mut self) -> Option<ExecutionId> {
        if self.all_paused {
            return None;
        }
        let class = self.choose_class()?;
        let open = &self.open[class];
        let after = self.turns.last[class].and_then(|last| {
            open.range((Bound::Excluded((last, Some(u32::MAX))), Bound::Unbounded)).next()
        });
        let (workspace, _) = *after.or_else(|| open.first())?;
        let gates = open.range((workspace, None)..=(workspace, Some(u32::MAX)));
        let heads = gates.filter_map(|gate| self.gates.get(gate)?.heads[class].first());
        let (_, execution) = *heads.min()?;
        self.turns.last[class] = Some(workspace);
        Some(execution)
    }

    /// What ran before has precedence; the queues share by weight (smooth weighted round robin over those that have somebody).
    fn choose_class(&mut self) -> Option<usize> {
        if !self.open[0].is_empty() {
            return Some(0);
        }
        let credits = &mut self.turns.credits;
        let mut total = 0;
        for (queue, weight) in WEIGHTS.iter().enumerate() {
            if self.open[queue + 1].is_empty() {
                credits[queue] = 0;
            } else {
                credits[queue] += weight;
                total += weight;
            }
        }
        let richest = (0..3)
            .filter(|queue| !self.open[queue + 1].is_empty())
            .max_by_key(|queue| (credits[*queue], std::cmp::Reverse(*queue)))?;
        credits[richest] -= total;
        Some(richest + 1)
    }

    /// The place of somebody who waits among all who wait for a limit of theirs, from 1.
    pub(super) fn place(&self, ticket: &Ticket, limit: &ConcurrencyLimit) -> usize {
        let (class, place) = ticket.rank.class();
        let before = |line: &Line| {
            let better: usize = line.waiting[..class].iter().map(BTreeSet::len).sum();
            better + line.waiting[class].range(..(place, ticket.execution)).count()
        };
        self.lines_of(ticket.workspace, limit).map(before).sum::<usize>() + 1
    }

    /// Who holds slots of a limit, the oldest first.
    pub(super) fn holders(&self, key: &str) -> impl Iterator<Item = ExecutionId> {
        self.slots.get(key).into_iter().flatten().map(|(_, execution)| *execution)
    }

    /// How many hold slots of a limit.
    pub(super) fn held(&self, key: &str) -> usize {
        self.slots.get(key).map_or(0, BTreeSet::len)
    }

    /// Who waits for a limit that is not a workspace's.
    pub(super) fn waiting_for(&self, key: &str) -> impl Iterator<Item = ExecutionId> {
        let lines = self.waiting_for.get(key).into_iter().flatten();
        let lines = lines.filter_map(|line| self.lines.get(line));
        lines.flat_map(|line| line.waiting.iter().flatten().map(|(_, execution)| *execution))
    }

    /// How many wait for a limit that is not a workspace's.
    pub(super) fn waiting(&self, key: &str) -> usize {
        let lines = self.waiting_for.get(key).into_iter().flatten();
        let lines = lines.filter_map(|line| self.lines.get(line));
        lines.map(|line| line.waiting.iter().map(BTreeSet::len).sum::<usize>()).sum()
    }

    pub(super) fn set_turns(&mut self, turns: Turns) {
        self.turns = turns;
    }

    pub(super) fn into_turns(self) -> Turns {
        self.turns
    }

    /// The lines in which a limit is waited for.
    fn lines_of(
        &self,
        workspace: WorkspaceId,
        limit: &ConcurrencyLimit,
    ) -> impl Iterator<Item = &Line> {
        let of_workspace = limit.scope == LimitScope::Workspace;
        let own = self.waiting_for.get(&limit.key).into_iter().flatten();
        let own = own.filter_map(|key| self.lines.get(key));
        let all = self.lines.iter().filter(move |(key, _)| {
            of_workspace && key.gate.0 == workspace && key.gate.1.is_some()
        });
        own.chain(all.map(|(_, line)| line))
    }

    /// The line of a ticket, made where nobody waits in it yet.
    fn line_of(&mut self, ticket: &Ticket) -> Arc<LineKey> {
        let key = LineKey::of(ticket);
        if let Some((key, _)) = self.lines.get_key_value(&key) {
            return Arc::clone(key);
        }
        let key = Arc::new(key);
        for (limit, _) in &key.limits {
            self.waiting_for.entry(limit.clone()).or_default().insert(Arc::clone(&key));
        }
        self.lines.insert(Arc::clone(&key), Line::default());
        key
    }

    /// Looks again at every line that a change of these slots can open or shut.
    fn relist_all(&mut self, ticket: &Ticket) {
        for limit in ticket.limits.iter() {
            match limit.scope {
                LimitScope::Workspace => self.reopen(ticket.workspace),
                LimitScope::Workflow | LimitScope::Key => {
                    let lines = self.waiting_for.get(&limit.key).into_iter().flatten();
                    for key in lines.cloned().collect::<Vec<_>>() {
                        self.relist(&key);
                    }
                }
            }
        }
    }

    /// Lists the heads of a line at its gate as they are now; a line that nobody waits in goes.
    fn relist(&mut self, key: &Arc<LineKey>) {
        let is_free = key.limits.iter().all(|(limit, slots)| self.held(limit) < *slots as usize);
        let Some(line) = self.lines.get_mut(key) else { return };
        let gate = self.gates.entry(key.gate).or_default();
        for (class, waiting) in line.waiting.iter().enumerate() {
            let head = if is_free { waiting.first().copied() } else { None };
            if line.listed[class] == head {
                continue;
            }
            if let Some(before) = line.listed[class] {
                gate.heads[class].remove(&before);
            }
            gate.heads[class].extend(head);
            line.listed[class] = head;
        }
        if line.waiting.iter().all(BTreeSet::is_empty) {
            self.lines.remove(key);
            for (limit, _) in &key.limits {
                if let Some(lines) = self.waiting_for.get_mut(limit) {
                    lines.remove(key);
                    if lines.is_empty() {
                        self.waiting_for.remove(limit);
                    }
                }
            }
        }
        self.reopen_gate(key.gate);
    }

    fn reopen(&mut self, workspace: WorkspaceId) {
        let gates = self.gates.range((workspace, None)..=(workspace, Some(u32::MAX)));
        for gate in gates.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.reopen_gate(gate);
        }
    }

    fn reopen_gate(&mut self, key: GateKey) {
        let Some(gate) = self.gates.get(&key) else { return };
        let (workspace, limit) = key;
        let is_free = limit.is_none_or(|limit| {
            self.held(&ConcurrencyLimit::of_workspace(workspace, limit).key) < limit as usize
        });
        let is_open = is_free && !self.paused.contains(&workspace);
        for (class, heads) in gate.heads.iter().enumerate() {
            if is_open && !heads.is_empty() {
                self.open[class].insert(key);
            } else {
                self.open[class].remove(&key);
            }
        }
        if gate.heads.iter().all(BTreeSet::is_empty) {
            self.gates.remove(&key);
        }
    }
}
