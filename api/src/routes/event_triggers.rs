//! Event triggers: workflows that start from events of their workspace's log.

use axum::{extract::State, http::StatusCode, response::IntoResponse as _};
use ledgerline_domain::{
    id::{ExecutionId, TriggerId},
    trigger::{Cause, Content, Trigger, TriggerCommand, TriggerConfig},
};
use ledgerline_projections::{Page, triggers::TriggerKind};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    log::EventPage,
    triggers::{self, StartedView, TriggerFilters, TriggerHead, Wanted, shown},
};
use crate::{
    answer::Answer,
    app::AppState,
    extract::{ListQuery, Path, Query, WorkspaceSelector},
    problem::Problem,
    reading::{self, Reading},
    writing::{Reply, Writing},
};

const KIND: TriggerKind = TriggerKind::Event;

/// An event trigger.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventTriggerView {
    /// What it has in common with other triggers.
    #[serde(flatten)]
    pub trigger: TriggerHead,
    /// What its workflow is called.
    pub workflow_name: Option<String>,
    /// The type of the events that it starts from.
    #[schema(example = "execution_failed")]
    pub event_type: String,
    /// Only those for which this CEL condition over `event` holds.
    pub filter: Option<String>,
}

fn view(
    trigger: &Trigger,
    content: &Content,
    workflow_name: Option<String>,
) -> Result<EventTriggerView, Problem> {
    let TriggerConfig::Event(config) = &content.config else {
        return Err(Problem::not_found("event trigger"));
    };
    Ok(EventTriggerView {
        trigger: TriggerHead::of(trigger, content),
        workflow_name,
        event_type: config.event_type.clone(),
        filter: config.filter.clone(),
    })
}

/// The event triggers of a workspace.
#[utoipa::path(get, path = "/event-triggers", tag = "triggers",
    params(TriggerFilters, reading::PageParams, reading::WorkspaceParams),
    responses((status = 200, body = Page<EventTriggerView>)))]
pub async fn list(
    State(state): State<AppState>,
    reading: Reading,
    workspace: WorkspaceSelector,
    list: ListQuery,
    Query(filters): Query<TriggerFilters>,
) -> Result<Answer<Page<EventTriggerView>>, Problem> {
    let (page, _, _, position) =
        triggers::page(&state, &reading, workspace, list, &filters, KIND).await?;
    let mut items = Vec::with_capacity(page.items.len());
    for (item, loaded) in &page.items {
        let content = triggers::content_of(&loaded.state, KIND)?;
        items.push(view(&loaded.state, content, Some(item.workflow_name.clone()))?);
    }
    Ok(reading.answer(shown(page, items), position))
}

/// One event trigger.
#[utoipa::path(get, path = "/event-triggers/{id}", tag = "triggers", params(("id" = Uuid, Path)),
    responses((status = 200, body = EventTriggerView)))]
pub async fn get(
    State(state): State<AppState>,
    reading: Reading,
    Path(id): Path<TriggerId>,
) -> Result<Answer<EventTriggerView>, Problem> {
    let position = reading.log();
    let (found, _) = triggers::find(&state, &reading, id, KIND).await?;
    let view = view(&found.state, triggers::content_of(&found.state, KIND)?, None)?;
    Ok(reading.answer(view, position).versioned(found.version))
}

/// What happened to an event trigger, in order: the events it heard with the runs they started, and what was refused.
#[utoipa::path(get, path = "/event-triggers/{id}/history", tag = "triggers",
    params(("id" = Uuid, Path), ("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query)),
    responses((status = 200, body = EventPage)))]
pub async fn history(
    State(state): State<AppState>,
    reading: Reading,
    Path(id): Path<TriggerId>,
    paging: ListQuery,
) -> Result<Answer<EventPage>, Problem> {
    triggers::history(&state, &reading, id, KIND, &paging).await
}

/// Start another run with what an earlier one was given.
#[utoipa::path(post, path = "/event-triggers/{id}/executions/{execution_id}/replay", tag = "triggers",
    params(("id" = Uuid, Path), ("execution_id" = Uuid, Path)),
    responses((status = 202, body = StartedView)))]
pub async fn replay(
    State(state): State<AppState>,
    writing: Writing,
    Path((id, execution_id)): Path<(TriggerId, ExecutionId)>,
) -> Reply {
    let workspace = triggers::workspace_of(&state, id, KIND).await?;
    triggers::may_start(&state, &writing, workspace, KIND).await?;
    let loaded = state.commands.load_cached::<Trigger>(id).await.map_err(Problem::from)?;
    let content = triggers::content_of(&loaded.state, KIND)?;
    let input = triggers::input_of(&state, content, execution_id).await?;
    let cause = Cause::Replay { execution_id };
    triggers::start(&state, &writing, Wanted { id, kind: KIND, cause, input }).await
}

/// Pause an event trigger: nothing starts until it is resumed, and what happens meanwhile is not caught up with.
#[utoipa::path(post, path = "/event-triggers/{id}/pause", tag = "triggers", params(("id" = Uuid, Path)),
    responses((status = 200, body = EventTriggerView)))]
pub async fn pause(
    State(state): State<AppState>,
    writing: Writing,
    Path(id): Path<TriggerId>,
) -> Reply {
    tell(&state, &writing, id, TriggerCommand::Pause).await
}

/// Let a paused event trigger go on.
#[utoipa::path(post, path = "/event-triggers/{id}/resume", tag = "triggers", params(("id" = Uuid, Path)),
    responses((status = 200, body = EventTriggerView)))]
pub async fn resume(
    State(state): State<AppState>,
    writing: Writing,
    Path(id): Path<TriggerId>,
) -> Reply {
    tell(&state, &writing, id, TriggerCommand::Resume).await
}

async fn tell(
    state: &AppState,
    writing: &Writing,
    id: TriggerId,
    command: TriggerCommand,
) -> Reply {
    let told = triggers::tell(state, writing, id, KIND, command).await?;
    let view = view(&told.state, triggers::content_of(&told.state, KIND)?, None)?;
    let answer = writing.answer(StatusCode::OK, view, told.position);
    Ok(answer.versioned(told.version).into_response())
}
