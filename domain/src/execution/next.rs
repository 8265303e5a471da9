//! What happens now: the one function that moves a run.
//!
//! [`next`] is pure. A worker asks a [`Planner`] instead, which gives the same answers and remembers how far it read, so that a run of
//! ten thousand nodes costs ten thousand small steps rather than ten thousand walks over the graph.

mod frontier;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use chrono::{DateTime, Utc};

use self::frontier::{Frontier, LoopRun, Order};
use super::{
    Attempt, ErrorKind, Execution, Gather, Intent, Loop, NodeError, NodePath, NodeRun, NodeState,
    Open, Phase, Plan, Run, SkipReason, Work, path::body_of,
};
use crate::{limits::MAX_PLANNED_ACTIONS, node::OnItemError};

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
    /// Evaluate what for and until when, and report [`super::Step::Wait`].
    BeginWait {
        /// The node.
        path: NodePath,
        /// Which try.
        attempt: Attempt,
    },
    /// Report what came by its connections as the outcome of a merge.
    Merge {
        /// The node.
        path: NodePath,
        /// Which try.
        attempt: Attempt,
        /// What came.
        output: Gather,
    },
    /// Evaluate the items, and report [`super::Step::OpenLoop`]; of a `logic.while` report [`super::Step::OpenWhile`].
    OpenLoop {
        /// The node.
        path: NodePath,
        /// Which try.
        attempt: Attempt,
    },
    /// The iterations so far are done: evaluate the condition. Where it holds, report [`super::Step::Iterate`], or a failure when there may be
    /// no more; else the outcome of the loop.
    CheckCondition {
        /// The loop.
        path: NodePath,
        /// Which try.
        attempt: Attempt,
        /// Which iteration would begin, from 0: how many there were.
        iteration: u32,
        /// How many there may be.
        max_iterations: u32,
        /// What the last one gave.
        last: Gather,
    },
    /// An item of a loop failed that goes on without it: report [`super::Step::FailItem`].
    FailItem {
        /// The loop.
        path: NodePath,
        /// Which item.
        item: u32,
        /// The node of the body that failed first.
        node: NodePath,
        /// Why.
        error: NodeError,
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
    /// Report [`super::Step::Fail`], with what [`Plan::after_failure`] says: nobody knows how far its effect came, what it
    /// waited for came to nothing, or the body of a loop failed.
    FailNode {
        /// The node.
        path: NodePath,
        /// Which try.
        attempt: Attempt,
        /// Why.
        error: NodeError,
        /// How long the try took, where it is known.
        duration_ms: u64,
    },
    /// Abort every effect that is under way, within a second.
    Abort,
    /// Nothing runs and nothing can start: report [`super::Step::LetGo`].
    LetGo {
        /// The next due time; none when it is paused, or waits for nothing that has a time.
        until: Option<DateTime<Utc>>,
    },
    /// Report [`super::Step::Finish`].
    Finish(Ending),
}

impl Action {
    /// Whether it may go into a report after a step that [holds](super::Step::holds_run) the run. Nothing begins then; but a failure is
    /// a fact, which is recorded.
    #[must_use]
    pub const fn may_follow_a_hold(&self) -> bool {
        matches!(self, Self::FailNode { .. })
    }
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
    /// As it was to before it undid what it did.
    Undone,
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
    /// Whether it knows which trigger the run begins at.
    begun: bool,
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

/// What the active nodes of a run come to.
#[derive(Default)]
struct Active<'a> {
    running: Vec<&'a NodePath>,
    /// Begun under an older claim, whose worker is gone.
    orphans: Vec<(&'a NodePath, &'a NodeRun)>,
    ready: Vec<(&'a NodePath, &'a NodeRun)>,
    loops: Vec<(&'a NodePath, Attempt, &'a Loop)>,
    /// How many wait, for a time or for something from outside.
    waiting: usize,
    next_due_at: Option<DateTime<Utc>>,
}

impl Planner {
    /// A planner that has read nothing yet.
    #[must_use]
    pub fn new(plan: Arc<Plan>) -> Self {
        let mut planner = Self {
            plan: Arc::clone(&plan),
            begun: false,
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
                let ending = match open.undoing() {
                    Some(_) => Ending::Undone,
                    None => Ending::Cancelled,
                };
                return abort.into_iter().chain([Action::Finish(ending)]).collect();
            }
            Intent::Pause(_) if !active.running.is_empty() => return Vec::new(),
            Intent::Pause(_) => return vec![Action::LetGo { until: None }],
            Intent::GoOn => {}
        }
        if open.undoing().is_some() {
            return self.undo(open, &active).into_iter().collect();
        }
        let failing = run.failures().find(|(path, _)| path.scope().is_empty());
        if let Some((node, error)) = failing {
            if !active.running.is_empty() {
                return Vec::new();
            }
            let (node, error) = (Some(node.clone()), error.clone());
            return vec![Action::Finish(Ending::Failed { node, error })];
        }
        self.begin_at(run.request.trigger_node.as_deref());
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

    /// What it did is undone one by one: the next one begins when the one before came to its end, whatever that was.
    fn undo(&self, open: &Open, active: &Active<'_>) -> Option<Action> {
        if !active.running.is_empty() {
            return None;
        }
        if let Some((path, node)) = active.orphans.iter().chain(&active.ready).next() {
            return Some(self.begin_again(&open.run, path, node));
        }
        if active.waiting > 0 {
            return Some(Action::LetGo { until: active.next_due_at });
        }
        Some(match open.undo_after(0) {
            Some(path) => self.begin(&open.run, &path, Attempt(1)),
            None => Action::Finish(Ending::Undone),
        })
    }

    /// Nothing runs and nothing can begin: it is over, or something must come from outside.
    fn rest(&self, run: &Run, active: &Active<'_>) -> Action {
        let is_done =
            self.scopes.get("").is_none_or(|frontier| frontier.settled == self.plan.len());
        match active.waiting {
            _ if is_done => {
                Action::Finish(Ending::Completed(Gather::of_scope(run, &self.plan, "")))
            }
            1.. => Action::LetGo { until: active.next_due_at },
            // A graph has no cycle and a history has no gap, so this is a plan that is not the run's: say so rather than wait for ever.
            0 => Action::Finish(Ending::Failed {
                node: None,
                error: error(ErrorKind::Permanent, "nothing leads to the nodes that are left"),
            }),
        }
    }

    /// Moves the open loops on. Answers what the paths begin with in which nothing may start, because something there failed.
    fn loop_actions(
        &mut self,
        run: &Run,
        active: &Active<'_>,
        actions: &mut Vec<Action>,
    ) -> Vec<String> {
        let mut failures: HashMap<&str, Vec<Failure<'_>>> = HashMap::new();
        for (node, error) in run.failures() {
            if let Some((owner, item)) = node.item() {
                failures.entry(owner).or_default().push(Failure { item, node, error });
            }
        }
        let mut halted = Vec::new();
        for (path, attempt, open) in &active.loops {
            let failed = failures.get(path.as_str()).map_or(&[][..], Vec::as_slice);
            let (path, attempt) = (*path, *attempt);
            match (self.goes_on_without(path), failed) {
                (false, [Failure { error, .. }, ..]) => {
                    let body = body_of(path);
                    if !active.runs_below(&body) {
                        let (path, error) = (path.clone(), (*error).clone());
                        let duration_ms = 0;
                        actions.push(Action::FailNode { path, attempt, error, duration_ms });
                    }
                    halted.push(body);
                }
                (_, failed) => {
                    fail_items(path, failed, active, actions, &mut halted);
                    actions.extend(self.turn(run, path, attempt, open));
                }
            }
        }
        halted
    }

    fn goes_on_without(&self, path: &NodePath) -> bool {
        self.on_item_error(path) != OnItemError::Fail
    }

    fn on_item_error(&self, path: &NodePath) -> OnItemError {
        match self.plan.node(path).map(|node| &node.work) {
            Some(Work::Each { on_item_error, .. }) => *on_item_error,
            Some(
                Work::While { .. } | Work::Inline | Work::Effect | Work::Wait | Work::Merge(_),
            )
            | None => OnItemError::Fail,
        }
    }

    /// Moves one loop on. Answers what is to be done when what was begun in it is done.
    fn turn(
        &mut self,
        run: &Run,
        path: &NodePath,
        attempt: Attempt,
        open: &Loop,
    ) -> Option<Action> {
        match open {
            Loop::Each { items, failed } => {
                let count = u32::try_from(items.len()).unwrap_or(u32::MAX);
                let body = self.move_each(path, count, failed)?;
                let collects = self.on_item_error(path) == OnItemError::Collect;
                let output = |item| match failed.get(&item) {
                    Some(failure) if collects => Gather::of_failure(failure),
                    Some(_) => Gather::Nothing,
                    None => Gather::of_scope(run, &body, &path.item_scope(item)),
                };
                let output = Gather::List((0..count).map(output).collect());
                Some(Action::CloseLoop { path: path.clone(), attempt, output })
            }
            Loop::While { max_iterations, iterations } => {
                let body = self.move_while(path, *iterations)?;
                Some(Action::CheckCondition {
                    path: path.clone(),
                    attempt,
                    iteration: *iterations,
                    max_iterations: *max_iterations,
                    last: Gather::of_iteration(run, &body, path, *iterations),
                })
            }
        }
    }

    /// Whatever may begin: what was begun before comes first.
    fn starts(
        &self,
        open: &Open,
        active: &Active<'_>,
        halted: &[String],
        actions: &mut Vec<Action>,
    ) {
        let is_free =
            |path: &NodePath| !halted.iter().any(|below| path.as_str().starts_with(below));
        let mut room = self.plan.parallelism().saturating_sub(active.running.len());
        let again = active.orphans.iter().chain(&active.ready);
        for (path, node) in again.filter(|(path, _)| is_free(path)) {
            let action = self.begin_again(&open.run, path, node);
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
        actions.extend(inline.map(|path| self.begin(&open.run, path, Attempt(1))));
        let begun = |path: &NodePath| open.run.nodes.contains_key(path);
        let effects = self.effects.values().filter(|path| is_free(path) && !begun(path));
        let effects = effects.take(room);
        actions.extend(effects.map(|path| self.begin(&open.run, path, Attempt(1))));
        actions.truncate(MAX_PLANNED_ACTIONS);
    }

    fn begin(&self, run: &Run, path: &NodePath, attempt: Attempt) -> Action {
        let path = path.clone();
        match self.plan.node(&path).map(|node| &node.work) {
            Some(Work::Inline) => Action::EvaluateInline { path, attempt },
            Some(Work::Wait) => Action::BeginWait { path, attempt },
            Some(Work::Each { .. } | Work::While { .. }) => Action::OpenLoop { path, attempt },
            Some(Work::Merge(mode)) => {
                let output = self.merged(run, &path, *mode);
                Action::Merge { path, attempt, output }
            }
            Some(Work::Effect) | None => Action::RunNode { path, attempt },
        }
    }

    /// A try whose time came, one whose wait came to nothing, or one whose worker is gone: that one begins again only where that does
    /// no harm.
    fn begin_again(&self, run: &Run, path: &NodePath, node: &NodeRun) -> Action {
        if let NodeState::Failing(failing) = &node.state {
            return Action::FailNode {
                path: path.clone(),
                attempt: node.attempt,
                error: failing.error.clone(),
                duration_ms: failing.duration_ms,
            };
        }
        let is_orphan = matches!(node.state, NodeState::Running(_));
        if is_orphan && !self.plan.node(path).is_some_and(|node| node.idempotent) {
            let message =
                "the worker was lost after the effect began, so nobody knows whether it took place";
            return Action::FailNode {
                path: path.clone(),
                attempt: node.attempt,
                error: error(ErrorKind::UnknownOutcome, message),
                duration_ms: 0,
            };
        }
        self.begin(run, path, node.attempt)
    }
}

impl<'a> Active<'a> {
    fn of(open: &'a Open) -> Self {
        let mut active = Self::default();
        for (path, node) in open.run.active() {
            match &node.state {
                NodeState::Running(claim) if *claim == open.claim => active.running.push(path),
                NodeState::Running(_) => active.orphans.push((path, node)),
                NodeState::Ready | NodeState::Failing(_) => active.ready.push((path, node)),
                NodeState::Looping(open) => active.loops.push((path, node.attempt, open)),
                NodeState::Waiting(_) | NodeState::Retrying { .. } => {
                    active.waiting += 1;
                    let due_at = node.due_at().into_iter().chain(active.next_due_at).min();
                    active.next_due_at = due_at;
                }
                NodeState::Completed(_) | NodeState::Skipped | NodeState::Failed(_) => {}
            }
        }
        active
    }

    fn runs_below(&self, below: &str) -> bool {
        self.running.iter().any(|path| path.as_str().starts_with(below))
    }
}

/// A node of a loop's body that failed for good.
#[derive(Clone, Copy)]
struct Failure<'a> {
    item: u32,
    node: &'a NodePath,
    error: &'a NodeError,
}

/// Gives up the items of a loop in which something failed, each once nothing runs in it any more.
fn fail_items(
    path: &NodePath,
    failures: &[Failure<'_>],
    active: &Active<'_>,
    actions: &mut Vec<Action>,
    halted: &mut Vec<String>,
) {
    for Failure { item, node, error } in failures.iter().copied() {
        let below = path.item_scope(item);
        if halted.contains(&below) {
            continue;
        }
        if !active.runs_below(&below) {
            let (path, node, error) = (path.clone(), node.clone(), error.clone());
            actions.push(Action::FailItem { path, item, node, error });
        }
        halted.push(below);
    }
}

fn error(kind: ErrorKind, message: &str) -> NodeError {
    NodeError { kind, message: message.to_owned(), details: None }
}
