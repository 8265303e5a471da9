//! How far a run is on its graph: what arrived where, and what may begin by that.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::Planner;
use crate::{
    execution::{
        Gather, ItemFailure, NodePath, NodeState, Plan, Run, Work,
        path::{body_of, scope_item},
    },
    node::MergeMode,
};

/// The order in which nodes begin: that of the definition, and of the items in a loop. It follows from the path alone, so that what was
/// read when changes no answer.
pub(super) type Order = Vec<u32>;

/// How far one run of a graph is: the top level, or a body for one item.
#[derive(Clone, Debug)]
pub(super) struct Frontier {
    plan: Arc<Plan>,
    /// What the order of its nodes begins with.
    order: Order,
    /// Per node, how many connections have not arrived.
    missing: Vec<u32>,
    /// Per node, whether one of the arrived connections was taken.
    taken: Vec<bool>,
    /// Of merges that go on with the first one that comes: which one that was.
    first: HashMap<u32, u32>,
    pub(super) settled: usize,
}

/// How far a loop is.
#[derive(Clone, Debug)]
pub(super) struct LoopRun {
    body: Arc<Plan>,
    order: Order,
    concurrency: u32,
    opened: u32,
    /// Items that are done, those that failed not counted.
    done: u32,
    /// Items that failed and of which nothing is noted any more.
    given_up: BTreeSet<u32>,
}

impl Planner {
    /// Lets the run begin at the trigger that started it: the others are skipped, with what only they lead to.
    pub(super) fn begin_at(&mut self, trigger: Option<&str>) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        for index in self.plan.idle_triggers(trigger) {
            let order = vec![index];
            if let Some(path) = self.inline.remove(&order) {
                self.skips.insert(order, path);
            }
        }
    }

    /// Reads what settled since the last time, and notes what may begin by that.
    pub(super) fn read(&mut self, run: &Run) {
        let settled = run.settled();
        for index in settled.get(self.read..).unwrap_or_default() {
            let Some((path, node)) = run.nodes.get_index(*index as usize) else { continue };
            self.settle(path, &node.state);
        }
        self.read = settled.len();
    }

    fn settle(&mut self, path: &NodePath, state: &NodeState) {
        if let Some(ended) = self.loops.remove(path) {
            for item in 0..ended.opened {
                self.scopes.remove(&path.item_scope(item));
            }
            if ended.done < ended.opened {
                self.forget_body(path);
            }
        }
        self.ensure_scope(path.scope());
        let Some(frontier) = self.scopes.get_mut(path.scope()) else { return };
        let plan = Arc::clone(&frontier.plan);
        let Some(node) = plan.index_of(path.node_id()) else { return };
        frontier.settled += 1;
        let is_done = frontier.settled == plan.len();
        let mut arrived = Vec::new();
        for connection in plan.outgoing(node) {
            let to = connection.to as usize;
            let taken = match state {
                NodeState::Completed(completed) => completed.port == connection.port,
                NodeState::Running(_)
                | NodeState::Waiting { .. }
                | NodeState::Retrying { .. }
                | NodeState::Ready
                | NodeState::Failing(_)
                | NodeState::Looping(_)
                | NodeState::Skipped
                | NodeState::Failed(_) => false,
            };
            frontier.missing[to] -= 1;
            let comes_first = taken && !frontier.taken[to];
            frontier.taken[to] |= taken;
            if !plan.takes_first(connection.to) {
                if frontier.missing[to] == 0 {
                    arrived.push((connection.to, frontier.taken[to]));
                }
            } else if comes_first {
                frontier.first.insert(connection.to, node);
                arrived.push((connection.to, true));
            } else if frontier.missing[to] == 0 && !frontier.taken[to] {
                arrived.push((connection.to, false));
            }
        }
        let order = frontier.order.clone();
        for (node, taken) in arrived {
            self.note(&plan, path.scope(), &order, node, taken);
        }
        if is_done
            && let Some((owner, _)) = path.item()
            && let Some(open) = self.loops.get_mut(owner)
        {
            open.done += 1;
        }
    }

    /// A node may begin, or is to be skipped.
    fn note(&mut self, plan: &Plan, scope: &str, order: &[u32], index: u32, taken: bool) {
        let node = plan.at(index);
        let path = NodePath::within(scope, &node.id);
        let order = [order, &[index]].concat();
        let noted = match node.work {
            _ if !taken => &mut self.skips,
            Work::Effect => &mut self.effects,
            Work::Inline | Work::Wait | Work::Merge(_) | Work::Each { .. } | Work::While { .. } => {
                &mut self.inline
            }
        };
        noted.insert(order, path);
    }

    pub(super) fn open_scope(&mut self, scope: String, order: Order, plan: Arc<Plan>) {
        for root in plan.roots() {
            self.note(&plan, &scope, &order, root, true);
        }
        let missing = plan.incoming().to_vec();
        let frontier = Frontier {
            taken: vec![false; missing.len()],
            missing,
            first: HashMap::new(),
            settled: 0,
            order,
            plan,
        };
        self.scopes.insert(scope, frontier);
    }

    /// The scope of an item that was opened by whoever planned before.
    fn ensure_scope(&mut self, scope: &str) {
        if self.scopes.contains_key(scope) {
            return;
        }
        let Some((owner, item)) = scope_item(scope) else { return };
        self.open_items(&NodePath::from(owner), item + 1);
    }

    /// Opens the items of a loop up to a number. They open in order, so which are open follows from how many are.
    fn open_items(&mut self, owner: &NodePath, upto: u32) {
        if !self.loops.contains_key(owner) {
            let Some(node) = self.plan.node(owner) else { return };
            let Some((body, concurrency)) = node.work.body() else { return };
            let body = Arc::clone(body);
            self.ensure_scope(owner.scope());
            let Some(around) = self.scopes.get(owner.scope()) else { return };
            let Some(index) = around.plan.index_of(owner.node_id()) else { return };
            let order = [around.order.as_slice(), &[index]].concat();
            let given_up = BTreeSet::new();
            let fresh = LoopRun { body, order, concurrency, opened: 0, done: 0, given_up };
            self.loops.insert(owner.clone(), fresh);
        }
        let Some(open) = self.loops.get_mut(owner) else { return };
        let (body, order, from) = (Arc::clone(&open.body), open.order.clone(), open.opened);
        open.opened = open.opened.max(upto);
        if body.is_empty() {
            open.done = open.opened;
        }
        for item in from..upto {
            let order = [order.as_slice(), &[item]].concat();
            self.open_scope(owner.item_scope(item), order, Arc::clone(&body));
        }
    }

    /// What might have begun in the body of a loop that ended does not.
    fn forget_body(&mut self, owner: &NodePath) {
        let below = body_of(owner);
        self.forget_noted(&below);
        self.scopes.retain(|scope, _| !scope.starts_with(&below));
    }

    /// What might have begun for an item that failed does not.
    fn forget_item(&mut self, scope: &str) {
        self.scopes.remove(scope);
        for (owner, ended) in self.forget_noted(scope) {
            for item in 0..ended.opened {
                self.scopes.remove(&owner.item_scope(item));
            }
        }
    }

    /// Forgets what was noted below a path. Answers the loops that were open there.
    fn forget_noted(&mut self, below: &str) -> Vec<(NodePath, LoopRun)> {
        let outside = |path: &NodePath| !path.as_str().starts_with(below);
        self.inline.retain(|_, path| outside(path));
        self.effects.retain(|_, path| outside(path));
        self.skips.retain(|_, path| outside(path));
        let inside: Vec<NodePath> =
            self.loops.keys().filter(|path| !outside(path)).cloned().collect();
        inside.into_iter().filter_map(|path| self.loops.remove_entry(&path)).collect()
    }

    /// Opens as many items as may be open. Answers the body when all are done or failed.
    pub(super) fn move_each(
        &mut self,
        path: &NodePath,
        items: u32,
        failed: &BTreeMap<u32, ItemFailure>,
    ) -> Option<Arc<Plan>> {
        loop {
            self.open_items(path, 0);
            self.give_up(path, failed);
            let open = self.loops.get(path)?;
            let given_up = u32::try_from(open.given_up.len()).unwrap_or(u32::MAX);
            let over = open.done.saturating_add(given_up);
            if over >= items {
                return Some(Arc::clone(&open.body));
            }
            let upto = over.saturating_add(open.concurrency).min(items);
            if open.opened >= upto {
                return None;
            }
            self.open_items(path, upto);
        }
    }

    /// Forgets the items that failed since the last time.
    fn give_up(&mut self, path: &NodePath, failed: &BTreeMap<u32, ItemFailure>) {
        let Some(open) = self.loops.get_mut(path) else { return };
        if open.given_up.len() == failed.len() {
            return;
        }
        let opened = open.opened;
        let fresh: Vec<u32> = failed
            .keys()
            .copied()
            .filter(|item| *item < opened && !open.given_up.contains(item))
            .collect();
        open.given_up.extend(&fresh);
        for item in fresh {
            self.forget_item(&path.item_scope(item));
        }
    }

    /// Opens the iterations that were begun. Answers the body when all of them are done.
    pub(super) fn move_while(&mut self, path: &NodePath, iterations: u32) -> Option<Arc<Plan>> {
        self.open_items(path, iterations);
        let open = self.loops.get(path)?;
        (open.done >= iterations).then(|| Arc::clone(&open.body))
    }

    /// What came to a merge by the connections that were taken.
    pub(super) fn merged(&self, run: &Run, path: &NodePath, mode: MergeMode) -> Gather {
        let Some(frontier) = self.scopes.get(path.scope()) else { return Gather::Nothing };
        let plan = &frontier.plan;
        let Some(node) = plan.index_of(path.node_id()) else { return Gather::Nothing };
        let completed = |source: u32| {
            let path = NodePath::within(path.scope(), &plan.at(source).id);
            let NodeState::Completed(completed) = &run.nodes.get(&path)?.state else { return None };
            Some(completed)
        };
        match mode {
            MergeMode::Any => frontier
                .first
                .get(&node)
                .and_then(|source| completed(*source))
                .map_or(Gather::Nothing, |completed| Gather::One(completed.output.clone())),
            MergeMode::All => {
                let came = plan.sources(node).iter().filter_map(|source| {
                    let completed = completed(source.from)?;
                    let id = plan.at(source.from).id.clone();
                    (completed.port == source.port).then(|| (id, completed.output.clone()))
                });
                Gather::Object(came.collect())
            }
        }
    }

    /// Forgets what was noted and has begun since.
    pub(super) fn prune(&mut self, run: &Run) {
        let begun = |path: &NodePath| run.nodes.contains_key(path);
        self.inline.retain(|_, path| !begun(path));
        self.skips.retain(|_, path| !begun(path));
        while let Some(first) = self.effects.first_entry()
            && begun(first.get())
        {
            first.remove();
        }
    }
}
