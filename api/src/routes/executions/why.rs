//! What an execution waits for: every open one waits for something that has a name.

use axum::extract::State;
use chrono::{DateTime, TimeDelta, Utc};
use ledgerline_domain::{
    dispatch::Why,
    execution::{Execution, PauseReason, WaitsFor},
    id::ExecutionId,
    permission::Permission,
};
use ledgerline_projections::{
    Model, PageRequest,
    executions::{self, ExecutionFilter, ExecutionItem, ExecutionSort},
    values::ExecutionStatus,
};
use ledgerline_store::WorkerLease;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    find, view,
    waits::{self, NodeWaitView},
};
use crate::{
    access::demand,
    answer::Answer,
    app::AppState,
    extract::{Path, WorkspaceSelector},
    problem::Problem,
    reading::{Reading, WorkspaceParams},
};
/// How many open executions one question about stuck ones looks at.
const MAX_LOOKED_AT: usize = 1_000;

/// How long a lease may be over or a timer due before somebody should have acted on it.
const GRACE: TimeDelta = TimeDelta::seconds(60);

/// What an open execution waits for.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum WaitsForView {
    /// A slot of a limit.
    Slot {
        /// The limit.
        limit: LimitView,
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
        /// What paused it: `user` or `workflow_paused`.
        #[schema(value_type = String)]
        reason: PauseReason,
    },
}

/// A limit.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LimitView {
    /// What is counted: the workflow, or the workflow and a key of the input.
    pub key: String,
    /// How many may run at once.
    pub limit: u32,
}

impl From<WaitsFor> for WaitsForView {
    fn from(waits_for: WaitsFor) -> Self {
        match waits_for {
            WaitsFor::Slot { limit, resumed } => {
                let limit = LimitView { key: limit.key, limit: limit.limit };
                Self::Slot { limit, resumed }
            }
            WaitsFor::Worker { claim } => Self::Worker { claim: claim.0 },
            WaitsFor::Lease { worker, claim } => Self::Lease { worker, claim: claim.0 },
            WaitsFor::Nodes { count, next_due_at, first } => {
                let nodes = first.into_iter().map(Into::into).collect();
                Self::Nodes { count, next_due_at, nodes }
            }
            WaitsFor::Resume { reason } => Self::Resume { reason },
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
    /// What it waits for; nothing once it has ended.
    pub waits_for: Option<WaitsForView>,
    /// Its place in the line, when it waits in one and the process that was asked leads dispatch.
    pub line: Option<LineView>,
    /// The same for a person.
    pub explanation: String,
}

/// A place in a line.
#[derive(Debug, Serialize, ToSchema)]
pub struct LineView {
    /// The limit whose slots are taken.
    pub limit: LimitView,
    /// From 1. Others may still be chosen before it by the weight of their queue.
    pub place: usize,
    /// Whether it ran before and is at the head.
    pub resumed: bool,
    /// Who holds the slots.
    #[schema(value_type = Vec<Uuid>)]
    pub holders: Vec<ExecutionId>,
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
    let status = found.state.status().ok_or_else(|| Problem::not_found("execution"))?;
    let waits_for = found.state.waits_for();
    let line = match (&waits_for, &state.lines) {
        (Some(WaitsFor::Slot { .. }), Some(lines)) => lines.why(id).await.and_then(line),
        _ => None,
    };
    let explanation = explain(&found.state, waits_for.as_ref(), line.as_ref());
    let body = WhyView {
        execution_id: id,
        status: view::word(status),
        waits_for: waits_for.map(Into::into),
        line,
        explanation,
    };
    Ok(reading.answer(body, position).versioned(found.version))
}

fn line(why: Why) -> Option<LineView> {
    match why {
        Why::InLine { limit, place, resumed, holders } => Some(LineView {
            limit: LimitView { key: limit.key, limit: limit.limit },
            place,
            resumed,
            holders,
        }),
        // It got its slot between the two looks.
        Why::Dispatched { .. } | Why::Running { .. } | Why::Waiting | Why::Paused { .. } => None,
    }
}

fn explain(execution: &Execution, waits_for: Option<&WaitsFor>, line: Option<&LineView>) -> String {
    let Some(waits_for) = waits_for else {
        return match execution.status() {
            Some(status) if execution.has_ended() => format!("it has ended: {status}"),
            _ => "it waits for nothing that has a name, which should not be".to_owned(),
        };
    };
    match (waits_for, line) {
        (WaitsFor::Slot { limit, .. }, Some(line)) => format!(
            "it is number {} in line for {} of its workflow, held by {}",
            line.place,
            slot_of(limit.limit),
            counted(line.holders.len(), "execution")
        ),
        (WaitsFor::Slot { limit, .. }, None) => {
            format!("it waits for {} of its workflow", slot_of(limit.limit))
        }
        (WaitsFor::Worker { claim }, _) => {
            format!("it waits for a worker to take claim {}", claim.0)
        }
        (WaitsFor::Lease { worker, .. }, _) => format!("the worker {worker} runs it"),
        (WaitsFor::Nodes { count, next_due_at, first }, _) => {
            waits::explain(*count, *next_due_at, first)
        }
        (WaitsFor::Resume { reason: PauseReason::User }, _) => {
            "it is paused until somebody resumes it".to_owned()
        }
        (WaitsFor::Resume { reason: PauseReason::WorkflowPaused }, _) => {
            "it is paused until its workflow is resumed".to_owned()
        }
    }
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

/// Open executions that wait for nothing.
#[derive(Debug, Serialize, ToSchema)]
pub struct StuckList {
    /// The executions, with what is wrong with each. There should be none.
    pub items: Vec<StuckExecution>,
    /// How many open executions were looked at, the oldest first.
    pub looked_at: usize,
    /// Whether these were all.
    pub complete: bool,
}

/// An open execution that nobody will move.
#[derive(Debug, Serialize, ToSchema)]
pub struct StuckExecution {
    /// The execution.
    #[serde(flatten)]
    pub execution: ExecutionItem,
    /// What it claims to wait for.
    pub waits_for: Option<WaitsForView>,
    /// Why that will not come.
    pub reason: &'static str,
}

/// List the open executions of a workspace that wait for nothing. Always empty, or a defect.
#[utoipa::path(get, path = "/executions/stuck", tag = "executions",  params(WorkspaceParams),
    responses((status = 200, body = StuckList)))]
pub async fn stuck(
    State(state): State<AppState>,
    reading: Reading,
    workspace: WorkspaceSelector,
) -> Result<Answer<StuckList>, Problem> {
    let workspace = workspace.or_default(&reading.caller);
    let permission = Permission::ViewExecution;
    demand(&state, &reading.caller, workspace, permission, "workspace").await?;
    let position = reading.rows(&[Model::Executions]).await?;
    let leases = state.commands.log().worker_leases().await?;
    let now = state.clock.now();
    let (open, complete) = open_executions(&state, workspace.0).await?;
    let looked_at = open.len();
    let mut items = Vec::new();
    for execution in open {
        let loaded = state.commands.load::<Execution>(ExecutionId(execution.id)).await?;
        if let Some(reason) = stuck_because(&loaded.state, &leases, now) {
            let waits_for = loaded.state.waits_for().map(Into::into);
            items.push(StuckExecution { execution, waits_for, reason });
        }
    }
    Ok(reading.answer(StuckList { items, looked_at, complete }, position))
}

/// The open executions of a workspace, the oldest first, and whether these are all.
async fn open_executions(
    state: &AppState,
    workspace: uuid::Uuid,
) -> Result<(Vec<ExecutionItem>, bool), Problem> {
    let mut open = Vec::new();
    for status in ExecutionStatus::ALL.iter().filter(|status| !status.ended()) {
        let filter = ExecutionFilter {
            workspace_id: workspace,
            status: Some(*status),
            ..ExecutionFilter::default()
        };
        let mut request = PageRequest {
            limit: ledgerline_projections::page::MAX_LIMIT,
            sort: ExecutionSort::Oldest,
            ..PageRequest::default()
        };
        loop {
            let page = executions::list(&state.pool, &filter, &request).await?;
            open.extend(page.items);
            if open.len() >= MAX_LOOKED_AT {
                return Ok((open, false));
            }
            let Some(next) = page.next_cursor else { break };
            request.cursor = Some(next);
        }
    }
    Ok((open, true))
}

/// Why nobody will move an open execution; none for one that somebody will, or that has ended by now.
fn stuck_because(
    execution: &Execution,
    leases: &[WorkerLease],
    now: DateTime<Utc>,
) -> Option<&'static str> {
    execution.open()?;
    match execution.waits_for() {
        None => Some("it waits for nothing"),
        Some(WaitsFor::Lease { worker, .. }) => {
            let lease = leases.iter().find(|lease| lease.worker == worker);
            let gone = lease.is_none_or(|lease| lease.expired && lease.expires_at + GRACE < now);
            gone.then_some("its worker is gone and nobody handed it out again")
        }
        Some(WaitsFor::Nodes { next_due_at, .. }) => next_due_at
            .is_some_and(|due| due + GRACE < now)
            .then_some("its timer was due and did not fire"),
        Some(WaitsFor::Slot { .. } | WaitsFor::Worker { .. } | WaitsFor::Resume { .. }) => None,
    }
}

#[cfg(test)]
mod tests {
    use ledgerline_domain::execution::{Awaited, ConcurrencyLimit, NodeWait};

    use super::*;

    #[test]
    fn one_is_told_from_several_and_times_are_for_people() {
        let timers = |count| {
            let next_due_at = DateTime::from_timestamp(1_800_000_000, 123_456_789);
            let path = "pause".into();
            let first = vec![NodeWait { path, until: next_due_at, awaited: Some(Awaited::Time) }];
            let waits_for = WaitsFor::Nodes { count, next_due_at, first };
            explain(&Execution::default(), Some(&waits_for), None)
        };
        assert_eq!(
            timers(1),
            "node 'pause' waits for a time; the next time is 2027-01-15T08:00:00.123Z"
        );
        assert_eq!(
            timers(3),
            "node 'pause' waits for a time, and 2 other nodes wait too; \
             the next time is 2027-01-15T08:00:00.123Z"
        );
        let limit = |limit| ConcurrencyLimit { key: "any".to_owned(), limit };
        let place = |slots, holders| {
            let line = LineView {
                limit: LimitView { key: "any".to_owned(), limit: slots },
                place: 1,
                resumed: false,
                holders,
            };
            let waits_for = WaitsFor::Slot { limit: limit(slots), resumed: false };
            explain(&Execution::default(), Some(&waits_for), Some(&line))
        };
        let holder = || ExecutionId(uuid::Uuid::nil());
        assert_eq!(
            place(1, vec![holder()]),
            "it is number 1 in line for the one slot of its workflow, held by 1 execution"
        );
        assert_eq!(
            place(2, vec![holder(), holder()]),
            "it is number 1 in line for one of the 2 slots of its workflow, held by 2 executions"
        );
    }
}
