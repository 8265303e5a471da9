//! Open executions that wait for nothing that will come. There should be none: what is here is a defect, with its name.

use axum::extract::State;
use ledgerline_commands::{
    Survey,
    audit::{GRACE, audit},
};
use ledgerline_domain::{id::ExecutionId, permission::Permission};
use ledgerline_projections::{
    Model,
    executions::{self, ExecutionItem},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::why::WaitsForView;
use crate::{
    access::demand,
    answer::Answer,
    app::AppState,
    extract::{Query, WorkspaceSelector},
    problem::{Problem, ProblemKind},
    reading::{Reading, WorkspaceParams},
};

/// Of which workspaces.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StuckQuery {
    /// Of all workspaces. For operators.
    pub all: bool,
}

/// Open executions that wait for nothing.
#[derive(Debug, Serialize, ToSchema)]
pub struct StuckList {
    /// The executions, with what is wrong with each. There should be none.
    pub items: Vec<StuckExecution>,
    /// How many open executions were looked at.
    pub looked_at: usize,
    /// Whether these were all.
    pub complete: bool,
}

/// An open execution that nobody will move.
#[derive(Debug, Serialize, ToSchema)]
pub struct StuckExecution {
    /// The execution.
    #[schema(value_type = Uuid)]
    pub execution_id: ExecutionId,
    /// What a list shows of it; nothing while the read rows do not have it.
    pub execution: Option<ExecutionItem>,
    /// What it claims to wait for.
    pub waits_for: Option<WaitsForView>,
    /// Why that will not come.
    pub reason: &'static str,
}

/// List the open executions of a workspace that wait for nothing that will come. Always empty, or a defect.
#[utoipa::path(get, path = "/executions/stuck", tag = "executions", params(StuckQuery, WorkspaceParams),
    responses((status = 200, body = StuckList)))]
pub async fn stuck(
    State(state): State<AppState>,
    reading: Reading,
    workspace: WorkspaceSelector,
    Query(query): Query<StuckQuery>,
) -> Result<Answer<StuckList>, Problem> {
    let of = match query.all {
        true => {
            reading.caller.demand_operator()?;
            None
        }
        false => {
            let workspace = workspace.or_default(&reading.caller);
            let permission = Permission::ViewExecution;
            demand(&state, &reading.caller, workspace, permission, "workspace").await?;
            Some(workspace)
        }
    };
    let position = reading.rows(&[Model::Executions]).await?;
    state.lines.reach(position).await;
    let survey = state.lines.look(|fold| Survey::of(fold, of)).ok_or_else(|| {
        Problem::new(ProblemKind::NotYetVisible, "the open executions are being read")
    })?;
    let found = audit(&state.commands, &survey, 0, GRACE).await?;
    let mut items = Vec::with_capacity(found.stuck.len());
    for stuck in found.stuck {
        items.push(StuckExecution {
            execution: executions::get(&state.pool, stuck.execution.0).await?,
            execution_id: stuck.execution,
            waits_for: stuck.waits_for.map(Into::into),
            reason: stuck.reason,
        });
    }
    let body = StuckList { items, looked_at: found.looked_at, complete: found.complete };
    Ok(reading.answer(body, position))
}
