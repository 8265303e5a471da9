//! Open executions that wait for nothing. There should be none.

use axum::extract::State;
use chrono::{DateTime, TimeDelta, Utc};
use ledgerline_domain::{
    execution::{Execution, WaitsFor},
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

use super::why::WaitsForView;
use crate::{
    access::demand,
    answer::Answer,
    app::AppState,
    extract::WorkspaceSelector,
    problem::Problem,
    reading::{Reading, WorkspaceParams},
};

/// How many open executions one question about stuck ones looks at.
const MAX_LOOKED_AT: usize = 1_000;

/// How long a lease may be over or a timer due before somebody should have acted on it.
const GRACE: TimeDelta = TimeDelta::seconds(60);

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
