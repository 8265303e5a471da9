//! What happens now: the one function that moves a run.
//!
//! [`next`] is pure. A worker asks a [`Planner`] instead, which gives the same answers and remembers how far it read, so that a run of
//! ten thousand nodes costs ten thousand small steps rather than ten thousand walks over the graph.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use chrono::{DateTime, Utc};

use super::{
    Attempt, ErrorKind, Execution, Gather, Intent, NodeError, NodePath, NodeRun, NodeState, Open,
    Phase, Plan, Run, SkipReason, Work,
    path::{is_in_loop, scope_item},
};
use crate::limits::MAX_PLANNED_ACTIONS;

/// Something that the worker of a run does now. All of one answer may go into one report, but for the effects, which begin after it.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Resolve the configuration, report [`super::Step::Start`], and begin the effect once that is appended.
    RunNode {
        /// The node.
        path: NodePath,
        /// Which try.
        attempt: Attempt,
    },
    /// Evaluate it here and report its outcome at once.
    EvaluateInline {
        /// The node.
        path: NodePath,
        /// Which try.
        attempt: Attempt,
    },
    /// Evaluate until when, and report [`super::Step::Wait`].
    BeginWait {
        /// The node.
        path: NodePath,
        /// Which try.
        attempt: Attempt,
    },
    /// Evaluate the items, and report [`super::Step::OpenLoop`].
    OpenLoop {
        /// The node.
        path: NodePath,
        /// Which try.
        attempt: Attempt,
    },
    /// Every item is done: report the list as the outcome of the loop.
    CloseLoop {
        /// The node.
        path: NodePath,
        /// Which try.
        attempt: Attempt,
        /// The list.
        output: Gather,
    },
    /// Report [`super::Step::Skip`].
    SkipNode {
        /// The node.
        path: NodePath,
        /// Why.
        reason: SkipReason,
    },
    /// Report [`super::Step::Fail`], with what [`Plan::after_failure`] says: nobody knows how far its effect came, or the body of a loop failed.
    FailNode {
        /// The node.
        path: NodePath,
        /// Which try.
        attempt: Attempt,
        /// Why.
        error: NodeError,
    },
    /// Abort every effect that is under way, within a second.
    Abort,
    /// Nothing runs and nothing can start: report [`super::Step::LetGo`].
    LetGo {
        /// The next due time; none when it is paused.
        until: Option<DateTime<Utc>>,
    },
    /// Report [`super::Step::Finish`].
    Finish(Ending),
}

/// How a run ends, before its output is put together.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// Well.
    Completed(Gather),
    /// With a failure.
    Failed {
        /// The node that failed first.
        node: Option<NodePath>,
        /// Why.
        error: NodeError,
    },
    /// It was told to.
    Cancelled,
}

/// What the worker of this execution does now. Nothing when no worker has it, or when all there is to do is under way.
#[must_use]
pub fn next(execution: &Execution, plan: &Arc<Plan>) -> Vec<Action> {
    Planner::new(Arc::clone(plan)).next(execution)
}

/// [`next`] with a memory of how far it read. Belongs to one execution, whose states it is shown in the order of the log.
///
/// After a conflict the state that it was shown may never have been: begin a new one then.
#[derive(Clone, Debug)]
pub struct Planner {
    plan: Arc<Plan>,
    /// How many of the settled nodes it has read.
    read: usize,
    scopes: HashMap<String, Frontier>,
    loops: HashMap<NodePath, LoopRun>,
    /// What may begin and costs no slot of the parallelism.
    inline: BTreeMap<Order, NodePath>,
    /// What may begin when there is room.
    effects: BTreeMap<Order, NodePath>,
    /// What is to be skipped.
    skips: BTreeMap<Order, NodePath>,
}

/// The order in which nodes begin: that of the definition, and of the items in a loop. It follows from the path alone, so that what was
/// read when changes no answer.
type Order = Vec<u32>;

/// How far one run of a graph is: the top level, or a body for one item.
#[derive(Clone, Debug)]
struct Frontier {
    plan: Arc<Plan>,
    /// What the order of its nodes begins with.
    order: Order,
    /// Per node, how many connections have not arrived.
    missing: Vec<u32>,
    /// Per node, whether one of the arrived connections was taken.
    taken: Vec<bool>,
    settled: usize,
}

/// How far a loop is.
#[derive(Clone, Debug)]
struct LoopRun {
    body: Arc<Plan>,
    order: Order,
    concurrency: u32,
    opened: u32,
    done: u32,
}

/// What the active nodes of a run come to.
#[derive(Default)]
struct Active<'a> {
    running: Vec<&'a NodePath>,
    /// Begun under an older claim, whose worker is gone.
    orphans: Vec<(&'a NodePath, &'a NodeRun)>,
    ready: Vec<(&'a NodePath, &'a NodeRun)>,
    loops: Vec<(&'a NodePath, Attempt, u32)>,
    next_due_at: Option<DateTime<Utc>>,
}

impl Planner {
    /// A planner that has read nothing yet.
    #[must_use]
    pub fn new(plan: Arc<Plan>) -> Self {
        let mut planner = Self {
            plan: Arc::clone(&plan),
            read: 0,
            scopes: HashMap::new(),
            loops: HashMap::new(),
            inline: BTreeMap::new(),
            effects: BTreeMap::new(),
            skips: BTreeMap::new(),
        };
        planner.open_scope(String::new(), Vec::new(), plan);
        planner
    }

    /// What the worker of this execution does now, at most [`MAX_PLANNED_ACTIONS`] at once.
    #[must_use]
    pub fn next(&mut self, execution: &Execution) -> Vec<Action> {
        let Some(open) = execution.open() else { return Vec::new() };
        let Phase::Running { intent, .. } = open.phase else { return Vec::new() };
        let run = &open.run;
        let active = Active::of(open);
        match intent {
            Intent::Cancel(_) => {
                let abort = (!active.running.is_empty()).then_some(Action::Abort);
                return abort.into_iter().chain([Action::Finish(Ending::Cancelled)]).collect();
            }
            Intent::Pause(_) if !active.running.is_empty() => return Vec::new(),
            Intent::Pause(_) => return vec![Action::LetGo { until: None }],
            Intent::GoOn => {}
        }
        let failing = run.failures().find(|(path, _)| path.scope().is_empty());
        if let Some((node, error)) = failing {
            if !active.running.is_empty() {
                return Vec::new();
            }
            let (node, error) = (Some(node.clone()), error.clone());
            return vec![Action::Finish(Ending::Failed { node, error })];
        }
        self.read(run);
        let mut actions = Vec::new();
        let halted = self.loop_actions(run, &active, &mut actions);
        self.prune(run);
        self.starts(open, &active, &halted, &mut actions);
        if actions.is_empty() && active.running.is_empty() {
            actions.push(self.rest(run, &active));
        }
        actions
    }

    /// Nothing runs and nothing can begin: it is over, or time must pass.
    fn rest(&self, run: &Run, active: &Active<'_>) -> Action {
        let is_done =
            self.scopes.get("").is_none_or(|frontier| frontier.settled == self.plan.len());
        match active.next_due_at {
            _ if is_done => {
                Action::Finish(Ending::Completed(Gather::of_scope(run, &self.plan, "")))
            }
            Some(until) => Action::LetGo { until: Some(until) },
            // A graph has no cycle and a history has no gap, so this is a plan that is not the run's: say so rather than wait for ever.
            None => Action::Finish(Ending::Failed {
                node: None,
                error: error(ErrorKind::Permanent, "nothing leads to the nodes that are left"),
            }),
        }
    }

    /// Reads what settled since the last time, and notes what may begin by that.
    fn read(&mut self, run: &Run) {
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
                | NodeState::Looping(_)
                | NodeState::Skipped
                | NodeState::Failed(_) => false,
            };
            frontier.missing[to] -= 1;
            frontier.taken[to] |= taken;
            if frontier.missing[to] == 0 {
                arrived.push((connection.to, frontier.taken[to]));
            }
        }
        let order = frontier.order.clone();
        for (node, taken) in arrived {
            self.note(&plan, path.scope(), &order, node, taken);
        }
        if is_done && let Some((owner, _)) = path.item() {
            if let Some(open) = self.loops.get_mut(owner) {
                open.done += 1;
            }
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
            Work::Inline | Work::Wait | Work::Loop { .. } => &mut self.inline,
        };
        noted.insert(order, path);
    }

    fn open_scope(&mut self, scope: String, order: Order, plan: Arc<Plan>) {
        for (root, _) in (0..).zip(plan.incoming()).filter(|(_, incoming)| **incoming == 0) {
            self.note(&plan, &scope, &order, root, true);
        }
        let frontier = Frontier {
            missing: plan.incoming().to_vec(),
            taken: vec![false; plan.len()],
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
            let Work::Loop { body, concurrency } = &node.work else { return };
            let (body, concurrency) = (Arc::clone(body), (*concurrency).max(1));
            self.ensure_scope(owner.scope());
            let Some(around) = self.scopes.get(owner.scope()) else { return };
            let Some(index) = around.plan.index_of(owner.node_id()) else { return };
            let order = [around.order.as_slice(), &[index]].concat();
            let fresh = LoopRun { body, order, concurrency, opened: 0, done: 0 };
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
        let outside = |path: &NodePath| !is_in_loop(path.as_str(), owner.as_str());
        self.inline.retain(|_, path| outside(path));
        self.effects.retain(|_, path| outside(path));
        self.skips.retain(|_, path| outside(path));
        self.loops.retain(|path, _| outside(path));
        self.scopes.retain(|scope, _| !is_in_loop(scope, owner.as_str()));
    }

    /// Moves the open loops on. Answers those whose body failed: nothing starts in them.
    fn loop_actions<'a>(
        &mut self,
        run: &'a Run,
        active: &Active<'a>,
        actions: &mut Vec<Action>,
    ) -> Vec<&'a NodePath> {
        let failures: HashMap<&str, &NodeError> = run
            .failures()
            .filter_map(|(path, error)| path.item().map(|(owner, _)| (owner, error)))
            .collect();
        let mut halted = Vec::new();
        for (path, attempt, items) in &active.loops {
            if let Some(error) = failures.get(path.as_str()) {
                halted.push(*path);
                let in_body = |node: &&NodePath| is_in_loop(node.as_str(), path.as_str());
                if !active.running.iter().any(in_body) {
                    let (path, error) = ((*path).clone(), (*error).clone());
                    actions.push(Action::FailNode { path, attempt: *attempt, error });
                }
            } else if let Some(body) = self.move_loop(path, *items) {
                let scopes = (0..*items).map(|item| path.item_scope(item));
                let outputs = scopes.map(|scope| Gather::of_scope(run, &body, &scope)).collect();
                let (path, output) = ((*path).clone(), Gather::List(outputs));
                actions.push(Action::CloseLoop { path, attempt: *attempt, output });
            }
        }
        halted
    }

    /// Opens as many items as may be open. Answers the body when all are done.
    fn move_loop(&mut self, path: &NodePath, items: u32) -> Option<Arc<Plan>> {
        loop {
            self.open_items(path, 0);
            let open = self.loops.get(path)?;
            if open.done >= items {
                return Some(Arc::clone(&open.body));
            }
            let upto = open.done.saturating_add(open.concurrency).min(items);
            if open.opened >= upto {
                return None;
            }
            self.open_items(path, upto);
        }
    }

    /// Forgets what was noted and has begun since.
    fn prune(&mut self, run: &Run) {
        let begun = |path: &NodePath| run.nodes.contains_key(path);
        self.inline.retain(|_, path| !begun(path));
        self.skips.retain(|_, path| !begun(path));
        while let Some(first) = self.effects.first_entry()
            && begun(first.get())
        {
            first.remove();
        }
    }

    /// Whatever may begin: what was begun before comes first.
    fn starts(
        &self,
        open: &Open,
        active: &Active<'_>,
        halted: &[&NodePath],
        actions: &mut Vec<Action>,
    ) {
        let is_free =
            |path: &NodePath| !halted.iter().any(|owner| is_in_loop(path.as_str(), owner.as_str()));
        let mut room = self.plan.parallelism().saturating_sub(active.running.len());
        let again = active.orphans.iter().chain(&active.ready);
        for (path, node) in again.filter(|(path, _)| is_free(path)) {
            let action = self.begin_again(path, node);
            if matches!(action, Action::RunNode { .. }) {
                if room == 0 {
                    continue;
                }
                room -= 1;
            }
            actions.push(action);
        }
        let reason = SkipReason::BranchNotTaken;
        let skips = self.skips.values().filter(|path| is_free(path));
        actions.extend(skips.map(|path| Action::SkipNode { path: path.clone(), reason }));
        let inline = self.inline.values().filter(|path| is_free(path));
        actions.extend(inline.map(|path| self.begin(path, Attempt(1))));
        let begun = |path: &&NodePath| open.run.nodes.contains_key(*path);
        let effects = self.effects.values().filter(|path| is_free(path) && !begun(path));
        actions.extend(effects.take(room).map(|path| self.begin(path, Attempt(1))));
        actions.truncate(MAX_PLANNED_ACTIONS);
    }

    fn begin(&self, path: &NodePath, attempt: Attempt) -> Action {
        let path = path.clone();
        match self.plan.node(&path).map(|node| &node.work) {
            Some(Work::Inline) => Action::EvaluateInline { path, attempt },
            Some(Work::Wait) => Action::BeginWait { path, attempt },
            Some(Work::Loop { .. }) => Action::OpenLoop { path, attempt },
            Some(Work::Effect) | None => Action::RunNode { path, attempt },
        }
    }

    /// A try whose time came, or one whose worker is gone: that one begins again only where that does no harm.
    fn begin_again(&self, path: &NodePath, node: &NodeRun) -> Action {
        let is_orphan = matches!(node.state, NodeState::Running(_));
        if is_orphan && !self.plan.node(path).is_some_and(|node| node.idempotent) {
            let message =
                "the worker was lost after the effect began, so nobody knows whether it took place";
            return Action::FailNode {
                path: path.clone(),
                attempt: node.attempt,
                error: error(ErrorKind::UnknownOutcome, message),
            };
        }
        self.begin(path, node.attempt)
    }
}

impl<'a> Active<'a> {
    fn of(open: &'a Open) -> Self {
        let mut active = Self::default();
        for (path, node) in open.run.active() {
            match &node.state {
                NodeState::Running(claim) if *claim == open.claim => active.running.push(path),
                NodeState::Running(_) => active.orphans.push((path, node)),
                NodeState::Ready => active.ready.push((path, node)),
                NodeState::Looping(open) => {
                    let items = u32::try_from(open.items.len()).unwrap_or(u32::MAX);
                    active.loops.push((path, node.attempt, items));
                }
                NodeState::Waiting { due_at, .. } | NodeState::Retrying { due_at } => {
                    let next = active.next_due_at.map_or(*due_at, |next| next.min(*due_at));
                    active.next_due_at = Some(next);
                }
                NodeState::Completed(_) | NodeState::Skipped | NodeState::Failed(_) => {}
            }
        }
        active
    }
}

fn error(kind: ErrorKind, message: &str) -> NodeError {
    NodeError { kind, message: message.to_owned(), details: None }
}
