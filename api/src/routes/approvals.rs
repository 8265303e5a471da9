//! The approvals of a workspace that wait for an answer.

use axum::extract::State;
use ledgerline_domain::permission::Permission;
use ledgerline_projections::{
    Model, Page,
    execution_waits::{ApprovalFilter, ApprovalSort, OpenApproval, approvals},
};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::{
    access::demand,
    answer::Answer,
    app::AppState,
    extract::{ListQuery, Query, WorkspaceSelector},
    problem::Problem,
    reading::{PageParams, Reading, WorkspaceParams, page},
};

/// What a list of approvals is narrowed to.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default, deny_unknown_fields)]
pub struct ApprovalQuery {
    /// Also those that the caller may not answer.
    pub all: bool,
}

/// List the approvals of a workspace that wait for an answer and that the caller may answer, those that have waited longest first.
#[utoipa::path(get, path = "/approvals", tag = "executions",
    params(ApprovalQuery, WorkspaceParams, PageParams),
    responses((status = 200, body = Page<OpenApproval>)))]
pub async fn list(
    State(state): State<AppState>,
    reading: Reading,
    workspace: WorkspaceSelector,
    Query(query): Query<ApprovalQuery>,
    paging: ListQuery,
) -> Result<Answer<Page<OpenApproval>>, Problem> {
    let workspace = workspace.or_default(&reading.caller);
    let permission = Permission::ViewExecution;
    let (role, _) = demand(&state, &reading.caller, workspace, permission, "workspace").await?;
    let offered = [("since", ApprovalSort::Oldest), ("-since", ApprovalSort::Newest)];
    let request = page(paging, &offered)?;
    let may_answer = role.may(Permission::Approve);
    let filter = ApprovalFilter {
        workspace_id: workspace.0,
        answerable_by: (!query.all).then_some((reading.caller.user_id.0, role)),
    };
    let position = reading.rows(&[Model::ExecutionWaits, Model::Executions]).await?;
    let mut rows = approvals(&state.pool, &filter, &request).await?;
    if !query.all && !may_answer {
        // Whoever may not approve can answer none of them, whoever is named.
        rows = Page { items: Vec::new(), next_cursor: None, total: 0, ..rows };
    }
    Ok(reading.answer(rows, position))
}
