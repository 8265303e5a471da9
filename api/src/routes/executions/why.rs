//! What an execution waits for: every open one waits for something that has a name.
//!
//! What it waits for is its own state; how things stand there (its place in a line, who holds the slots, whether the worker is alive) is
//! looked up beside it. A kind of waiting that is added gets a variant of [`WaitsForView`] and a sentence in [`explain`].

use axum::extract::State;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use ledgerline_commands::Lines;
use ledgerline_domain::{
    dispatch::{Hold, Standing, Why},
    event::Actor,
    execution::{
        ConcurrencyLimit, Execution, Intent, LimitScope, LimitStrategy, NodePath, NodeState,
        PauseReason, Phase, WaitsFor,
    },
    id::{ExecutionId, UserId, WorkspaceId},
};
use ledgerline_projections::{execution_nodes, values::ExecutionStatus};
use ledgerline_store::WorkerLease;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    compensation::{CompensationView, ExecutionPhase, compensation, explained, phase},
    find, view,
    waits::{self, NodeWaitView},
};
use crate::{
    answer::Answer, app::AppState, extract::Path, problem::Problem, reading::Reading, roles,
};

/// At most so many timers, and so many running nodes, are named: the next ones, and the first ones.
const MAX_NAMED: usize = 100;

/// What an open execution waits for.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum WaitsForView {
    /// Its turn, and a slot of each of its limits.
    Slot {
        /// The limits; none where only its turn has to come.
        limits: Vec<LimitView>,
        /// Whether it ran before and is at the head of its line.
        resumed: bool,
    },
    /// A worker that takes its claim.
    Worker {
        /// The claim.
        claim: i32,
    },
    /// The worker that has it.
    Lease {
        /// The worker process.
        worker: String,
        /// Its claim.
        claim: i32,
    },
    /// What its nodes wait for: times, and what comes from outside.
    Nodes {
        /// How many wait.
        count: usize,
        /// The next due time among them.
        next_due_at: Option<DateTime<Utc>>,
        /// The first of them.
        nodes: Vec<NodeWaitView>,
    },
    /// Somebody who resumes it.
    Resume {
        /// What paused it: `user`, `workflow_paused` or `node_failed`.
        #[schema(value_type = String)]
        reason: PauseReason,
        /// The first of the nodes that failed for the last time and wait for somebody to decide what becomes of them.
        #[schema(value_type = Vec<String>)]
        held: Vec<NodePath>,
    },
}

/// A limit.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LimitView {
    /// What is counted: the workspace, the workflow, or the workflow and a key of the input.
    pub key: String,
    /// How many may run at once.
    pub limit: u32,
    /// Whose runs are counted: `workspace`, `workflow` or `key`.
    #[schema(value_type = String)]
    pub scope: LimitScope,
    /// What becomes of a run that finds no slot: `queue`, `reject`, `cancel_running` or `cancel_newest`.
    #[schema(value_type = String)]
    pub strategy: LimitStrategy,
}

impl From<&ConcurrencyLimit> for LimitView {
    fn from(limit: &ConcurrencyLimit) -> Self {
        let ConcurrencyLimit { key, limit, scope, strategy } = limit.clone();
        Self { key, limit, scope, strategy }
    }
}

impl From<WaitsFor> for WaitsForView {
    fn from(waits_for: WaitsFor) -> Self {
        match waits_for {
            WaitsFor::Slot { limits, resumed } => {
                Self::Slot { limits: limits.iter().map(Into::into).collect(), resumed }
            }
            WaitsFor::Worker { claim } => Self::Worker { claim: claim.0 },
            WaitsFor::Lease { worker, claim } => Self::Lease { worker, claim: claim.0 },
            WaitsFor::Nodes { count, next_due_at, first } => {
                let nodes = first.into_iter().map(Into::into).collect();
                Self::Nodes { count, next_due_at, nodes }
            }
            WaitsFor::Resume { reason, held } => Self::Resume { reason, held },
        }
    }
}

/// Why an execution does not go on.
#[derive(Debug, Serialize, ToSchema)]
pub struct WhyView {
    /// The execution.
    #[schema(value_type = Uuid)]
    pub execution_id: ExecutionId,
    /// Where it stands.
    pub status: ExecutionStatus,
    /// Which way it goes: `forward`, or `compensating` while it undoes what it did; nothing once it has ended.
    pub phase: Option<ExecutionPhase>,
    /// What it undoes, or could not undo.
    pub compensation: Option<CompensationView>,
    /// What it waits for; nothing once it has ended.
    pub waits_for: Option<WaitsForView>,
    /// Since when. Nothing where the process that was asked has not seen that yet.
    pub since: Option<DateTime<Utc>>,
    /// The line that holds it up: that of the first limit that is full, else of its first limit.
    pub line: Option<LineView>,
    /// How it stands in the line of each of its limits.
    pub lines: Vec<LineView>,
    /// The pause of all dispatch, where nothing is handed out because of it.
    pub dispatch_paused: Option<HoldView>,
    /// How many worker processes are alive.
    pub workers_alive: usize,
    /// The worker that has it.
    pub worker: Option<WorkerLeaseView>,
    /// Its timers, the next one first.
    pub timers: Vec<TimerView>,
    /// The nodes that run.
    pub running: Vec<RunningView>,
    /// Who paused it, where it is or is about to be paused.
    pub paused: Option<PauseView>,
    /// The same for a person.
    pub explanation: String,
}

/// A place in a line.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LineView {
    /// The limit.
    pub limit: LimitView,
    /// From 1. Others may still be chosen before it by the weight of their queue and the turn of their workspace.
    pub place: usize,
    /// Whether it ran before and is at the head.
    pub resumed: bool,
    /// Whether all slots are taken.
    pub full: bool,
    /// How many hold a slot.
    pub held: usize,
    /// Who holds the slots, the oldest first, at most a hundred.
    #[schema(value_type = Vec<Uuid>)]
    pub holders: Vec<ExecutionId>,
}

/// A pause of dispatch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct HoldView {
    /// Who paused it; none where a program did.
    #[schema(value_type = Option<Uuid>)]
    pub by: Option<UserId>,
    /// Since when.
    pub since: DateTime<Utc>,
    /// Why, in their words.
    pub reason: Option<String>,
}

impl From<&Hold> for HoldView {
    fn from(hold: &Hold) -> Self {
        Self { by: hold.by.member(), since: hold.since, reason: hold.reason.clone() }
    }
}

/// The worker that has an execution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct WorkerLeaseView {
    /// The worker process.
    pub worker: String,
    /// Whether it is alive.
    pub alive: bool,
    /// When its lease ends, or ended; none where it never had one.
    pub expires_at: Option<DateTime<Utc>>,
    /// When what it had is handed out again, where it is lost.
    pub redispatch_at: Option<DateTime<Utc>>,
}

/// A time that an execution waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct TimerView {
    /// The node.
    pub node: String,
    /// What for: `wait` or `retry`.
    pub kind: &'static str,
    /// Which try waits, or comes next.
    pub attempt: i32,
    /// When.
    pub due_at: DateTime<Utc>,
}

/// A node that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct RunningView {
    /// The node.
    pub node: String,
    /// Which try.
    pub attempt: i32,
    /// Since when; nothing while that is not in the read rows yet.
    pub since: Option<DateTime<Utc>>,
}

/// Who paused an execution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct PauseView {
    /// What paused it: `user` or `workflow_paused`.
    #[schema(value_type = String)]
    pub reason: PauseReason,
    /// Who; none where a program did, or where that was not seen yet.
    #[schema(value_type = Option<Uuid>)]
    pub by: Option<UserId>,
    /// Since when.
    pub since: Option<DateTime<Utc>>,
    /// Whether the worker still finishes the steps that ran.
    pub finishing: bool,
}

/// Tell what an execution waits for: which limit and who holds its slots, a worker, what its nodes wait for, or
/// somebody who resumes it.
#[utoipa::path(get, path = "/executions/{id}/why", tag = "executions", params(("id" = Uuid, Path)),
    responses((status = 200, body = WhyView)))]
pub async fn why(
    State(state): State<AppState>,
    reading: Reading,
    Path(id): Path<ExecutionId>,
) -> Result<Answer<WhyView>, Problem> {
    let position = reading.log();
    let found = find(&state, &reading, id).await?;
    let execution = found.state.as_ref();
    let status = execution.status().ok_or_else(|| Problem::not_found("execution"))?;
    let waits_for = execution.waits_for();
    // What was appended before the question came is part of the answer.
    state.lines.reach(found.position).await;
    let lines = standings(&state.lines, id);
    let line = lines.iter().find(|line| line.full).or_else(|| lines.first()).cloned();
    let leases = match execution.open() {
        Some(_) => state.commands.log().worker_leases().await?,
        None => Vec::new(),
    };
    let mut body = WhyView {
        execution_id: id,
        status: view::word(status),
        phase: phase(execution),
        compensation: compensation(execution),
        waits_for: waits_for.clone().map(Into::into),
        since: state.lines.look(|fold| fold.since(id)).flatten(),
        line,
        lines,
        dispatch_paused: held(&state.lines, execution, waits_for.as_ref()),
        workers_alive: leases.iter().filter(|lease| !lease.expired).count(),
        worker: waits_for.as_ref().and_then(|waits_for| lease_of(waits_for, &leases)),
        timers: timers(execution),
        running: running(&state, id, execution).await?,
        paused: paused(&state.lines, id, execution),
        explanation: String::new(),
    };
    let explanation = explain(&body, waits_for.as_ref(), execution.has_ended());
    let undoing = body.compensation.as_ref().filter(|_| !execution.has_ended()).map(explained);
    body.explanation = match undoing {
        Some(undoing) => format!("{undoing}; {explanation}"),
        None => explanation,
    };
    Ok(reading.answer(body, position).versioned(found.version))
}

fn standings(lines: &Lines, id: ExecutionId) -> Vec<LineView> {
    let Some(Why::InLine { lines, resumed }) = lines.why(id) else { return Vec::new() };
    let view = |standing: Standing| LineView {
        limit: (&standing.limit).into(),
        place: standing.place,
        resumed,
        full: standing.full,
        held: standing.held,
        holders: standing.holders,
    };
    lines.into_iter().map(view).collect()
}

/// The pause of dispatch, for what only waits to be handed out.
fn held(lines: &Lines, execution: &Execution, waits_for: Option<&WaitsFor>) -> Option<HoldView> {
    let Some(WaitsFor::Slot { .. } | WaitsFor::Worker { .. } | WaitsFor::Lease { .. }) = waits_for
    else {
        return None;
    };
    let workspace: WorkspaceId = execution.run()?.request.workspace_id;
    lines.hold_of(workspace).as_ref().map(Into::into)
}

fn lease_of(waits_for: &WaitsFor, leases: &[WorkerLease]) -> Option<WorkerLeaseView> {
    let WaitsFor::Lease { worker, .. } = waits_for else { return None };
    let lease = leases.iter().find(|lease| lease.worker == *worker);
    let alive = lease.is_some_and(|lease| !lease.expired);
    let expires_at = lease.map(|lease| lease.expires_at);
    let look = TimeDelta::from_std(roles::LOOK_EVERY).unwrap_or_default();
    let redispatch_at = expires_at.filter(|_| !alive).map(|at| at + look);
    Some(WorkerLeaseView { worker: worker.clone(), alive, expires_at, redispatch_at })
}

fn timers(execution: &Execution) -> Vec<TimerView> {
    let nodes = execution.open().into_iter().flat_map(|open| open.run.active());
    let timer = |(path, node): (&NodePath, &ledgerline_domain::execution::NodeRun)| {
        let kind = match node.state {
            NodeState::Retrying { .. } => "retry",
            _ => "wait",
        };
        let (node_name, attempt) = (path.as_str().to_owned(), node.attempt.0);
        node.due_at().map(|due_at| TimerView { node: node_name, kind, attempt, due_at })
    };
    let mut timers: Vec<TimerView> = nodes.filter_map(timer).collect();
    timers.sort_by_key(|timer| timer.due_at);
    timers.truncate(MAX_NAMED);
    timers
}

async fn running(
    state: &AppState,
    id: ExecutionId,
    execution: &Execution,
) -> Result<Vec<RunningView>, Problem> {
    let running: Vec<(String, i32)> = execution
        .in_flight()
        .take(MAX_NAMED)
        .map(|(path, node)| (path.as_str().to_owned(), node.attempt.0))
        .collect();
    let paths: Vec<String> = running.iter().map(|(path, _)| path.clone()).collect();
    let begun = execution_nodes::started_at(&state.pool, id.0, &paths).await?;
    let view = |(node, attempt): (String, i32)| {
        let since = begun.get(&node).copied();
        RunningView { node, attempt, since }
    };
    Ok(running.into_iter().map(view).collect())
}

fn paused(lines: &Lines, id: ExecutionId, execution: &Execution) -> Option<PauseView> {
    let (reason, finishing) = match &execution.open()?.phase {
        Phase::Paused { reason, .. } => (*reason, false),
        Phase::Running { intent: Intent::Pause(reason), .. } => (*reason, true),
        Phase::Running { .. } | Phase::Idle(_) | Phase::Dispatched => return None,
    };
    let seen = lines.look(|fold| (fold.paused_by(id).and_then(Actor::member), fold.since(id)));
    let (by, since) = seen.unwrap_or_default();
    Some(PauseView { reason, by, since: since.filter(|_| !finishing), finishing })
}

fn explain(why: &WhyView, waits_for: Option<&WaitsFor>, has_ended: bool) -> String {
    let Some(waits_for) = waits_for else {
        return match has_ended {
            true => format!("it has ended: {}", why.status.as_str()),
            false => "it waits for nothing that has a name, which should not be".to_owned(),
        };
    };
    match waits_for {
        WaitsFor::Slot { limits, .. } => explain_slot(why, limits),
        WaitsFor::Worker { claim } if why.workers_alive == 0 => {
            format!("it waits for a worker to take claim {}, and no worker is alive", claim.0)
        }
        WaitsFor::Worker { claim } => format!("it waits for a worker to take claim {}", claim.0),
        WaitsFor::Lease { worker, .. } => explain_lease(why, worker),
        WaitsFor::Nodes { count, next_due_at, first } => {
            waits::explain(*count, *next_due_at, first)
        }
        WaitsFor::Resume { held, .. } if !held.is_empty() => explain_held(held),
        WaitsFor::Resume { reason: PauseReason::User | PauseReason::NodeFailed, .. } => {
            "it is paused until somebody resumes it".to_owned()
        }
        WaitsFor::Resume { reason: PauseReason::WorkflowPaused, .. } => {
            "it is paused until its workflow is resumed".to_owned()
        }
    }
}

fn explain_held(held: &[NodePath]) -> String {
    let nodes: Vec<String> = held.iter().map(|node| format!("'{node}'")).collect();
    let (noun, verb) = if nodes.len() == 1 { ("node", "has") } else { ("nodes", "have") };
    format!(
        "it is paused because {noun} {} {verb} failed for the last time: try again, complete or fail what has failed",
        nodes.join(", ")
    )
}

fn explain_slot(why: &WhyView, limits: &[ConcurrencyLimit]) -> String {
    if let Some(hold) = &why.dispatch_paused {
        let reason = hold.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        return format!("dispatch is paused since {}{reason}", time(hold.since));
    }
    let nobody = if why.workers_alive == 0 { ", and no worker is alive" } else { "" };
    match (&why.line, limits.first()) {
        (Some(line), _) if line.full => format!(
            "it is number {} in line for {} of {}, held by {}{nobody}",
            line.place,
            slot_of(line.limit.limit),
            noun_of(line.limit.scope),
            counted(line.held, "execution")
        ),
        (Some(line), _) => format!(
            "it is number {} in line for {} of {}, and waits for its turn{nobody}",
            line.place,
            slot_of(line.limit.limit),
            noun_of(line.limit.scope)
        ),
        (None, Some(limit)) => {
            format!("it waits for {} of {}{nobody}", slot_of(limit.limit), noun_of(limit.scope))
        }
        (None, None) => format!("it waits for its turn{nobody}"),
    }
}

fn explain_lease(why: &WhyView, worker: &str) -> String {
    let lost = why.worker.as_ref().filter(|lease| !lease.alive);
    match (lost, &why.dispatch_paused) {
        (Some(_), Some(_)) => {
            format!(
                "the worker {worker} is lost, and dispatch is paused: it goes on once that is resumed"
            )
        }
        (Some(WorkerLeaseView { redispatch_at: Some(at), .. }), None) => {
            format!("the worker {worker} is lost, and it is handed out again at {}", time(*at))
        }
        (Some(_), None) => format!("the worker {worker} is lost, and it is handed out again"),
        (None, _) if why.paused.is_some() => {
            format!("it is paused, and the worker {worker} finishes the steps that run")
        }
        (None, _) => match why.running.first() {
            Some(RunningView { node, since: Some(since), .. }) => {
                format!("the worker {worker} runs it: {node} since {}", time(*since))
            }
            Some(RunningView { node, .. }) => format!("the worker {worker} runs it: {node}"),
            None => format!("the worker {worker} runs it"),
        },
    }
}

const fn noun_of(scope: LimitScope) -> &'static str {
    match scope {
        LimitScope::Workspace => "its workspace",
        LimitScope::Workflow => "its workflow",
        LimitScope::Key => "its workflow and key",
    }
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// A number of things, as a person says it.
fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

fn slot_of(limit: u32) -> String {
    match limit {
        1 => "the one slot".to_owned(),
        more => format!("one of the {more} slots"),
    }
}

#[cfg(test)]
mod tests {
    use ledgerline_domain::execution::{Awaited, Claim, NodeWait};

    use super::*;

    fn nothing_known() -> WhyView {
        WhyView {
            execution_id: ExecutionId(uuid::Uuid::nil()),
            status: ExecutionStatus::Running,
            phase: Some(ExecutionPhase::Forward),
            compensation: None,
            waits_for: None,
            since: None,
            line: None,
            lines: Vec::new(),
            dispatch_paused: None,
            workers_alive: 1,
            worker: None,
            timers: Vec::new(),
            running: Vec::new(),
            paused: None,
            explanation: String::new(),
        }
    }

    fn moment() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 123_456_789).unwrap()
    }

    #[test]
    fn one_is_told_from_several_and_times_are_for_people() {
        let waits = |count: usize| {
            let wait = NodeWait {
                path: "pause".into(),
                until: Some(moment()),
                awaited: Some(Awaited::Time),
            };
            let waits_for =
                WaitsFor::Nodes { count, next_due_at: Some(moment()), first: vec![wait] };
            explain(&nothing_known(), Some(&waits_for), false)
        };
        assert_eq!(
            waits(1),
            "node 'pause' waits for a time; the next time is 2027-01-15T08:00:00.123Z"
        );
        assert_eq!(
            waits(3),
            "node 'pause' waits for a time, and 2 other nodes wait too; \
             the next time is 2027-01-15T08:00:00.123Z"
        );
    }

    #[test]
    fn a_place_in_line_names_the_limit_that_holds_it_up() {
        let told = |slots, held, full, more: fn(WhyView) -> WhyView| {
            let limit = ConcurrencyLimit::new("any", slots);
            let line = LineView {
                limit: (&limit).into(),
                place: 1,
                resumed: false,
                full,
                held,
                holders: Vec::new(),
            };
            let waits_for = WaitsFor::Slot { limits: vec![limit], resumed: false };
            let why = more(WhyView { line: Some(line), ..nothing_known() });
            explain(&why, Some(&waits_for), false)
        };
        assert_eq!(
            told(1, 1, true, |why| why),
            "it is number 1 in line for the one slot of its workflow, held by 1 execution"
        );
        assert_eq!(
            told(2, 2, true, |why| why),
            "it is number 1 in line for one of the 2 slots of its workflow, held by 2 executions"
        );
        assert_eq!(
            told(2, 0, false, |why| WhyView { workers_alive: 0, ..why }),
            "it is number 1 in line for one of the 2 slots of its workflow, and waits for its turn, \
             and no worker is alive"
        );
        let held = |why| {
            let reason = Some("the provider is down".to_owned());
            let hold = HoldView { by: None, since: moment(), reason };
            WhyView { dispatch_paused: Some(hold), ..why }
        };
        assert_eq!(
            told(1, 0, false, held),
            "dispatch is paused since 2027-01-15T08:00:00.123Z: the provider is down"
        );
    }

    #[test]
    fn a_lost_worker_is_told_from_one_that_works() {
        let waits_for = WaitsFor::Lease { worker: "w".to_owned(), claim: Claim(1) };
        let lease = |alive: bool| {
            let worker = "w".to_owned();
            let redispatch_at = (!alive).then(moment);
            let lease =
                WorkerLeaseView { worker, alive, expires_at: Some(moment()), redispatch_at };
            WhyView { worker: Some(lease), ..nothing_known() }
        };
        assert_eq!(
            explain(&lease(false), Some(&waits_for), false),
            "the worker w is lost, and it is handed out again at 2027-01-15T08:00:00.123Z"
        );
        let running =
            vec![RunningView { node: "fetch".to_owned(), attempt: 1, since: Some(moment()) }];
        assert_eq!(
            explain(&WhyView { running, ..lease(true) }, Some(&waits_for), false),
            "the worker w runs it: fetch since 2027-01-15T08:00:00.123Z"
        );
    }
}
