//! What schedules, webhooks and event triggers have in common: finding them, pausing them, running them, and their history.
//!
//! How a trigger stands is the fold of its own stream; the read model only says which triggers there are.

use axum::{
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use ledgerline_commands::{
    CommandError, Loaded, Scope, Target, Transacted,
    fire::{Fire, Fired, fire},
};
use ledgerline_domain::{
    execution::Execution,
    id::{ExecutionId, TriggerId, WorkspaceId},
    json::Json,
    permission::{Permission, Role},
    trigger::{Cause, Content, Trigger, TriggerCommand, TriggerConfig},
};
use ledgerline_projections::{
    Model, Page,
    triggers::{self as rows, TriggerItem, TriggerKind, TriggerSort},
};
use ledgerline_store::{Position, StreamId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::log::{EventPage, stream_page};
use crate::{
    access,
    answer::Answer,
    app::AppState,
    extract::{ListQuery, WorkspaceSelector},
    problem::Problem,
    reading::{self, Reading},
    refusal::Refusal,
    writing::{Reply, Writing, hash_of},
};

/// Which triggers.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TriggerFilters {
    /// Only those of this workflow.
    pub workflow_id: Option<Uuid>,
}

/// How a trigger stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TriggerState {
    /// It fires.
    Armed,
    /// Somebody paused it.
    Paused,
    /// Its workflow does not run it; `off_reason` says why.
    Off,
}

/// What every trigger shows.
#[derive(Debug, Serialize, ToSchema)]
pub struct TriggerHead {
    /// Its id: the same over all versions of the workflow that have the node.
    pub id: Uuid,
    /// The workflow that it starts.
    pub workflow_id: Uuid,
    /// Its node in it.
    pub node_id: String,
    /// The published version that it was armed with last.
    pub workflow_version: i32,
    /// How it stands.
    pub state: TriggerState,
    /// Why its workflow does not run it: `not_published`, `intake_paused`, `intake_inactive`, `node_removed` or `workflow_deleted`.
    pub off_reason: Option<&'static str>,
    /// Whether somebody paused it.
    pub paused: bool,
    /// The run that it started last.
    pub last_execution_id: Option<Uuid>,
}

/// A run that was started.
#[derive(Debug, Serialize, ToSchema)]
pub struct StartedView {
    /// The execution.
    pub execution_id: Uuid,
}

impl TriggerHead {
    /// Of a trigger that exists.
    pub(super) fn of(trigger: &Trigger, content: &Content) -> Self {
        let off_reason = match trigger {
            Trigger::Off { reason, .. } => Some(reason.as_str()),
            Trigger::Absent | Trigger::Armed(_) => None,
        };
        let state = match off_reason {
            Some(_) => TriggerState::Off,
            None if content.paused => TriggerState::Paused,
            None => TriggerState::Armed,
        };
        Self {
            id: content.id.0,
            workflow_id: content.workflow_id.0,
            node_id: content.node_id.clone(),
            workflow_version: content.workflow_version.0,
            state,
            off_reason,
            paused: content.paused,
            last_execution_id: content.last_execution_id.map(|id| id.0),
        }
    }
}

/// The kind of a configuration.
const fn kind_of(config: &TriggerConfig) -> TriggerKind {
    match config {
        TriggerConfig::Cron(_) => TriggerKind::Cron,
        TriggerConfig::Webhook(_) => TriggerKind::Webhook,
        TriggerConfig::Event(_) => TriggerKind::Event,
    }
}

/// What people call a kind.
const fn noun(kind: TriggerKind) -> &'static str {
    match kind {
        TriggerKind::Cron => "schedule",
        TriggerKind::Webhook => "webhook",
        TriggerKind::Event => "event trigger",
    }
}

/// A page of the triggers of a kind with their states, the caller's role, and the position that all of it reflects.
pub(super) async fn page(
    state: &AppState,
    reading: &Reading,
    workspace: WorkspaceSelector,
    list: ListQuery,
    filters: &TriggerFilters,
    kind: TriggerKind,
) -> Result<(Page<(TriggerItem, Loaded<Trigger>)>, WorkspaceId, Role, Position), Problem> {
    let workspace = workspace.or_default(&reading.caller);
    let needed = Permission::ViewWorkflow;
    let (role, _) = access::demand(state, &reading.caller, workspace, needed, "workspace").await?;
    let page = reading::page(list, &[("-created_at", TriggerSort)])?;
    let position = reading.rows(&[Model::Triggers, Model::Workflows]).await?;
    let page = rows::list(&state.pool, workspace.0, kind, filters.workflow_id, &page).await?;
    let mut items = Vec::with_capacity(page.items.len());
    for item in page.items {
        let loaded = state.commands.load_cached::<Trigger>(item.id).await?;
        items.push((item, loaded));
    }
    let Page { next_cursor, total, total_is_estimate, limit, offset, .. } = page;
    let page = Page { items, next_cursor, total, total_is_estimate, limit, offset };
    Ok((page, workspace, role, position))
}

/// The same page with every item shown.
pub(super) fn shown<T, V>(page: Page<T>, items: Vec<V>) -> Page<V> {
    let Page { next_cursor, total, total_is_estimate, limit, offset, .. } = page;
    Page { items, next_cursor, total, total_is_estimate, limit, offset }
}

/// A trigger of a kind for who may see it, with the caller's role.
///
/// # Errors
/// 404 when there is none, or it is of another kind or workspace.
pub(super) async fn find(
    state: &AppState,
    reading: &Reading,
    id: TriggerId,
    kind: TriggerKind,
) -> Result<(Loaded<Trigger>, Role), Problem> {
    let loaded = state.commands.load::<Trigger>(id).await.map_err(|error| hidden(error, kind))?;
    let content = content_of(&loaded.state, kind)?;
    let needed = Permission::ViewWorkflow;
    let workspace = content.workspace_id;
    let (role, _) = access::demand(state, &reading.caller, workspace, needed, noun(kind)).await?;
    Ok((loaded, role))
}

/// The content of a trigger of a kind.
pub(super) fn content_of(trigger: &Trigger, kind: TriggerKind) -> Result<&Content, Problem> {
    let content = trigger.content().filter(|content| kind_of(&content.config) == kind);
    content.ok_or_else(|| Problem::not_found(noun(kind)))
}

/// The workspace of a trigger, which never changes.
pub(super) async fn workspace_of(
    state: &AppState,
    id: TriggerId,
    kind: TriggerKind,
) -> Result<WorkspaceId, Problem> {
    let loaded = state.commands.load_cached::<Trigger>(id).await;
    let loaded = loaded.map_err(|error| hidden(error, kind))?;
    Ok(content_of(&loaded.state, kind)?.workspace_id)
}

/// The id of another kind of thing is that of no trigger.
fn hidden(error: ledgerline_commands::LoadError, kind: TriggerKind) -> Problem {
    match error {
        ledgerline_commands::LoadError::WrongCategory { .. } => Problem::not_found(noun(kind)),
        other => other.into(),
    }
}

/// Everything that happened to a trigger, in order.
pub(super) async fn history(
    state: &AppState,
    reading: &Reading,
    id: TriggerId,
    kind: TriggerKind,
    paging: &ListQuery,
) -> Result<Answer<EventPage>, Problem> {
    super::executions::nodes::by_cursor(paging)?;
    let position = reading.log();
    let (found, _) = find(state, reading, id, kind).await?;
    let page = stream_page(state, StreamId(id.0), paging, found.version).await?;
    Ok(reading.answer(page, position).versioned(found.version))
}

/// Gives a trigger a command that changes how it stands.
pub(super) async fn tell(
    state: &AppState,
    writing: &Writing,
    id: TriggerId,
    kind: TriggerKind,
    command: TriggerCommand,
) -> Result<ledgerline_commands::Executed<Trigger>, crate::writing::Instead> {
    let workspace = workspace_of(state, id, kind).await?;
    let context = writing.context(workspace, hash_of(&[]));
    let command = &command;
    let plan = |scope: Scope| async move {
        writing.authorise(&scope, workspace, Permission::EditWorkflow, noun(kind)).await?;
        Ok((Target::existing(id), command.clone()))
    };
    writing.execute::<Trigger, _, _>(&context, plan).await
}

/// What somebody wants a trigger to fire for.
pub(super) struct Wanted {
    pub(super) id: TriggerId,
    pub(super) kind: TriggerKind,
    pub(super) cause: Cause,
    pub(super) input: Json,
}

/// Starts a run because somebody asks for it.
pub(super) async fn start(state: &AppState, writing: &Writing, wanted: Wanted) -> Reply {
    let Wanted { id, kind, cause, input } = wanted;
    let workspace = workspace_of(state, id, kind).await?;
    let cause_text = serde_json::to_string(&cause).unwrap_or_default();
    let mut context = writing.context(workspace, hash_of(&[&cause_text]));
    let execution_id = ExecutionId(state.commands.clock().new_id());
    context.made_ids.push(execution_id.0);
    let wanted = Fire { trigger_id: id, cause, execution_id, input, depth: 0, note_refusal: false };
    let wanted = &wanted;
    let plan = |scope: Scope| async move {
        writing.authorise(&scope, workspace, Permission::StartExecution, noun(kind)).await?;
        fire(&scope, wanted).await.map_err(CommandError::widen)
    };
    let (execution_id, position) = match writing.transact(&context, plan).await? {
        Transacted::Applied { receipt, .. } => (execution_id, receipt.position),
        Transacted::Unchanged { value } => {
            let position = match value {
                Fired::Started(decided) => decided.position,
                Fired::StartedBefore(_) | Fired::Refused => state.ledger.head(),
            };
            (execution_id, position)
        }
        Transacted::Repeated { receipt } => {
            // Both streams were written: the trigger's, and that of the run.
            let run = receipt.versions.iter().find(|(stream, _)| stream.0 != id.0);
            let (stream, _) = run.ok_or_else(Problem::broken)?;
            (ExecutionId(stream.0), receipt.position)
        }
    };
    Ok(started(writing, execution_id, position))
}

fn started(writing: &Writing, execution_id: ExecutionId, position: Position) -> Response {
    let body = StartedView { execution_id: execution_id.0 };
    let answer = writing.answer(StatusCode::ACCEPTED, body, position);
    answer.at(format!("{}/executions/{execution_id}", crate::router::BASE_PATH)).into_response()
}

/// What an execution was given, when this trigger's workflow is the one that it ran.
pub(super) async fn input_of(
    state: &AppState,
    content: &Content,
    id: ExecutionId,
) -> Result<Json, Problem> {
    let loaded = state.commands.load::<Execution>(id).await;
    let loaded = loaded.map_err(|error| match error {
        ledgerline_commands::LoadError::WrongCategory { .. } => Problem::not_found("delivery"),
        other => other.into(),
    })?;
    let run = loaded.state.run().ok_or_else(|| Problem::not_found("delivery"))?;
    if run.request.workflow_id == content.workflow_id {
        Ok(run.request.input.clone())
    } else {
        Err(Problem::not_found("delivery"))
    }
}

impl From<ledgerline_commands::fire::FireRejection> for Refusal {
    fn from(rejection: ledgerline_commands::fire::FireRejection) -> Self {
        use ledgerline_commands::fire::FireRejection;
        match rejection {
            FireRejection::Trigger(rejection) => Self::Trigger(rejection),
            FireRejection::Start(rejection) => rejection.into(),
            FireRejection::Overlap(_) | FireRejection::OverlapQueueFull(_) => {
                Self::Rule { rule: rejection.rule(), detail: rejection.to_string() }
            }
        }
    }
}

/// Demands the right to start runs before anything is looked at for somebody.
pub(super) async fn may_start(
    state: &AppState,
    writing: &Writing,
    workspace: WorkspaceId,
    kind: TriggerKind,
) -> Result<(), Problem> {
    let needed = Permission::StartExecution;
    access::demand(state, &writing.caller, workspace, needed, noun(kind)).await.map(|_| ())
}

/// Demands the right to edit before anything is made for somebody.
pub(super) async fn may_edit(
    state: &AppState,
    writing: &Writing,
    workspace: WorkspaceId,
    kind: TriggerKind,
) -> Result<(), Problem> {
    let needed = Permission::EditWorkflow;
    access::demand(state, &writing.caller, workspace, needed, noun(kind)).await.map(|_| ())
}

/// The same within the plan of a command.
pub(super) async fn authorise_edit(
    writing: &Writing,
    scope: &Scope,
    workspace: WorkspaceId,
    kind: TriggerKind,
) -> Result<(), CommandError<Refusal>> {
    let needed = Permission::EditWorkflow;
    writing.authorise(scope, workspace, needed, noun(kind)).await.map(|_| ())
}
