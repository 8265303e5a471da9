//! What differs between two versions of a workflow.

use std::sync::Arc;

use axum::extract::State;
use ledgerline_domain::{
    id::WorkflowId,
    workflow::{
        WorkflowVersion,
        diff::{Change, Diff, ItemsDiff},
    },
};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use utoipa::{IntoParams, ToSchema};

use super::{readable, versions::versioned};
use crate::{
    answer::Answer,
    app::AppState,
    extract::{Path, Query},
    problem::Problem,
    reading::Reading,
};

/// Which versions are compared.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DiffOptions {
    /// The older one; the one before `to` where it is left out.
    #[param(minimum = 1)]
    pub from: Option<i32>,
    /// The newer one; the latest where it is left out.
    #[param(minimum = 1)]
    pub to: Option<i32>,
}

/// What leads from one version to another.
#[derive(Debug, Serialize, ToSchema)]
pub struct VersionsDiff {
    /// The workflow.
    #[schema(value_type = Uuid)]
    pub workflow_id: WorkflowId,
    /// The version that is compared.
    pub from: i32,
    /// The version that it is compared with.
    pub to: i32,
    /// Whether nothing differs.
    pub identical: bool,
    /// `{pointer, from, to}` of every field outside the graph that differs: name, description, tags, is_public, settings. `from` is
    /// left out of what is new, `to` of what is gone.
    #[schema(value_type = Vec<Object>, example = json!([{"pointer": "/settings/timeout_ms", "from": 60000, "to": 90000}]))]
    pub fields: Vec<Change>,
    /// `{added, removed, changed}`: added and removed are `{index, value}`; changed are `{id, from_index, to_index, moved, fields, body}`,
    /// where `fields` are as above with pointers into the node, and `body` is the same for the graph inside a loop.
    #[schema(value_type = Object)]
    pub nodes: ItemsDiff,
    /// The same for the connections.
    #[schema(value_type = Object)]
    pub connections: ItemsDiff,
}

/// What differs between two versions: nodes and connections that were added, removed and changed field by field, and every other field.
#[utoipa::path(get, path = "/workflows/{id}/versions/diff", tag = "workflows", params(("id" = Uuid, Path), DiffOptions),
    responses((status = 200, body = VersionsDiff)))]
pub async fn diff(
    State(state): State<AppState>,
    reading: Reading,
    Path(id): Path<WorkflowId>,
    Query(DiffOptions { from, to }): Query<DiffOptions>,
) -> Result<Answer<VersionsDiff>, Problem> {
    let position = reading.log();
    let (now, audience) = readable(&state, &reading.caller, id).await?;
    let content = versioned(&now.state, audience)?;
    let to = to.unwrap_or_else(|| content.latest_version().0);
    let from = from.unwrap_or_else(|| to.saturating_sub(1).max(1));
    let (older, newer) = (WorkflowVersion(from), WorkflowVersion(to));
    state.ledger.stored(id, content, older).await?;
    state.ledger.stored(id, content, newer).await?;
    let workflow = Arc::clone(&now.state);
    // Two large definitions take a moment, in which nobody else should have to wait.
    let diff = spawn_blocking(move || {
        let content = workflow.content()?;
        Diff::between(content.version(older)?, content.version(newer)?)
    });
    let diff = diff.await.map_err(|error| Problem::internal(&error))?;
    let diff = diff.ok_or_else(Problem::broken)?;
    let identical = diff.is_empty();
    let Diff { fields, nodes, connections } = diff;
    let view = VersionsDiff { workflow_id: id, from, to, identical, fields, nodes, connections };
    Ok(reading.answer(view, position))
}
