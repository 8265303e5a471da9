//! The audit: who came in and who was refused, which keys and secrets were used, who may do what since when, what was taken out.

use std::collections::HashMap;

use axum::extract::State;
use chrono::{DateTime, Utc};
use ledgerline_commands::recorder::RecordError;
use ledgerline_domain::{id::WorkspaceId, permission::Permission, workspace::Workspace};
use ledgerline_projections::{
    Model, Page,
    audit::{self as rows, AuditEntry, AuditFilter, AuditSort},
    values::RawJson,
};
use ledgerline_store::facts::Origin;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    access::demand,
    answer::Answer,
    app::AppState,
    extract::{ListQuery, Path, Query, RequestContext},
    problem::Problem,
    reading::{self, Reading},
};

/// Actions that one request may name.
const MAX_ACTIONS: usize = 50;

/// Something that matters for security.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditView {
    /// The event in the log.
    pub id: Uuid,
    /// Its position in the log.
    pub position: i64,
    /// When it was recorded; a fact that was counted says in its detail when it happened first and last.
    pub at: DateTime<Utc>,
    /// In which workspace; none for the deployment.
    pub workspace_id: Option<Uuid>,
    /// By whom: `{kind: human, user_id}`, `{kind: agent, name}` or `{kind: system, name}`.
    #[schema(value_type = Object)]
    pub actor: RawJson,
    /// What: the stored name of the event.
    #[schema(example = "member_role_changed")]
    pub action: String,
    /// To what: `workspace`, `vault`, `trigger`, `deployment`, or `audit` for what only the audit knows.
    #[schema(example = "workspace")]
    pub resource_kind: String,
    /// To which: the stream of the event.
    pub resource_id: Uuid,
    /// The person it is about.
    pub user_id: Option<Uuid>,
    /// What goes with it: a role, a method, how often.
    #[schema(value_type = Object)]
    pub detail: RawJson,
    /// The network addresses it came from, twenty at most; kept for ninety days, and gone with the person.
    pub ips: Vec<String>,
    /// What the client called itself; kept as long.
    pub user_agent: Option<String>,
}

/// Which entries of a workspace.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditFilters {
    /// Only this action; may be repeated.
    pub action: Vec<String>,
    /// Only what this person did, or what was done to them.
    pub user_id: Option<Uuid>,
    /// Only from this time on.
    pub from: Option<DateTime<Utc>>,
    /// Only before this time.
    pub to: Option<DateTime<Utc>>,
}

/// Which entries of the deployment.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SystemAuditFilters {
    /// Only of this workspace.
    pub workspace: Option<Uuid>,
    /// Only this action; may be repeated.
    pub action: Vec<String>,
    /// Only what this person did, or what was done to them.
    pub user_id: Option<Uuid>,
    /// Only from this time on.
    pub from: Option<DateTime<Utc>>,
    /// Only before this time.
    pub to: Option<DateTime<Utc>>,
}

/// What matters for the security of a workspace, the newest first: members and roles, secrets and connections and their use, keys, exports.
/// For owners and operators. What happens often is one entry for a quarter of an hour, or for an hour.
#[utoipa::path(get, path = "/workspaces/{id}/audit", tag = "workspaces",
    params(("id" = Uuid, Path), AuditFilters, reading::PageParams), responses((status = 200, body = Page<AuditView>)))]
pub async fn of_workspace(
    State(state): State<AppState>,
    reading: Reading,
    context: RequestContext,
    Path(id): Path<WorkspaceId>,
    list: ListQuery,
    Query(filters): Query<AuditFilters>,
) -> Result<Answer<Page<AuditView>>, Problem> {
    if !reading.caller.operator {
        demand(&state, &reading.caller, id, Permission::ViewAudit, "workspace").await?;
    } else if !state.commands.load::<Workspace>(id).await?.exists() {
        return Err(Problem::not_found("workspace"));
    }
    let AuditFilters { action: actions, user_id, from, to } = filters;
    let filter = AuditFilter { workspace_id: Some(id.0), user_id, actions, from, to };
    page(&state, &reading, &context, list, filter).await
}

/// What matters for the security of the deployment, the newest first: also sign-ins and who was refused. For operators.
#[utoipa::path(get, path = "/system/audit", tag = "operations",
    params(SystemAuditFilters, reading::PageParams), responses((status = 200, body = Page<AuditView>)))]
pub async fn of_deployment(
    State(state): State<AppState>,
    reading: Reading,
    context: RequestContext,
    list: ListQuery,
    Query(filters): Query<SystemAuditFilters>,
) -> Result<Answer<Page<AuditView>>, Problem> {
    reading.caller.demand_operator()?;
    let SystemAuditFilters { workspace: workspace_id, action: actions, user_id, from, to } =
        filters;
    let filter = AuditFilter { workspace_id, user_id, actions, from, to };
    page(&state, &reading, &context, list, filter).await
}

/// Whoever asks sees all that was noted before: it is recorded first, so no fact is missing because its turn had not come.
async fn page(
    state: &AppState,
    reading: &Reading,
    context: &RequestContext,
    list: ListQuery,
    filter: AuditFilter,
) -> Result<Answer<Page<AuditView>>, Problem> {
    demand_known(&filter.actions)?;
    let page = reading::page(list, &[("-position", AuditSort), ("-at", AuditSort)])?;
    state.recorder.record(context.now).await?;
    let head = state.commands.log().head().await?.position;
    let position = reading.rows_from(&[Model::Audit], head).await?;
    let Page { items, next_cursor, total, total_is_estimate, limit, offset } =
        rows::list(&state.pool, &filter, &page).await?;
    let ids: Vec<Uuid> = items.iter().map(|entry| entry.event_id).collect();
    let mut origins = state.recorder.facts().origins(&ids).await?;
    let items = items.into_iter().map(|entry| view(entry, &mut origins)).collect();
    let page = Page { items, next_cursor, total, total_is_estimate, limit, offset };
    Ok(reading.answer(page, position))
}

/// A misspelt action would be answered with an empty list, as if nothing had happened.
fn demand_known(actions: &[String]) -> Result<(), Problem> {
    if actions.len() > MAX_ACTIONS {
        let detail = format!("at most {MAX_ACTIONS} actions");
        return Err(Problem::invalid("/action", "too_many", detail));
    }
    match actions.iter().find(|name| rows::actions().all(|known| known != name.as_str())) {
        Some(name) => {
            let detail = format!("{name:?} is no action of the audit");
            Err(Problem::invalid("/action", "unknown_value", detail))
        }
        None => Ok(()),
    }
}

fn view(entry: AuditEntry, origins: &mut HashMap<Uuid, Origin>) -> AuditView {
    let Origin { ips, user_agent, .. } = origins.remove(&entry.event_id).unwrap_or_default();
    AuditView {
        id: entry.event_id,
        position: entry.position,
        at: entry.at,
        workspace_id: entry.workspace_id,
        actor: entry.actor,
        action: entry.action,
        resource_kind: entry.resource_kind,
        resource_id: entry.resource_id,
        user_id: entry.user_id,
        detail: entry.detail,
        ips: ips.iter().map(ToString::to_string).collect(),
        user_agent,
    }
}

impl From<RecordError> for Problem {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Store(error) => error.into(),
            error @ RecordError::Append(_) => Self::away("the log", &error),
            error @ RecordError::Unreadable(_) => Self::internal(&error),
        }
    }
}
