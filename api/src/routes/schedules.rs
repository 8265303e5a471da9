//! Schedules: workflows that start at the times of a cron pattern.

use axum::{extract::State, http::StatusCode, response::IntoResponse as _};
use chrono::{DateTime, Datelike as _, Utc};
use ledgerline_commands::schedules;
use ledgerline_domain::{
    id::TriggerId,
    schedule::{Schedule, ScheduleError},
    trigger::{Cause, Content, Trigger, TriggerCommand, TriggerConfig},
};
use ledgerline_projections::{Page, triggers::TriggerKind};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    log::EventPage,
    triggers::{self, StartedView, TriggerFilters, TriggerHead, Wanted, shown},
};
use crate::{
    answer::Answer,
    app::AppState,
    extract::{JsonBody, ListQuery, Path, Query, WorkspaceSelector},
    problem::Problem,
    reading::{self, Reading},
    writing::{Reply, Writing},
};

const KIND: TriggerKind = TriggerKind::Cron;

/// How many fire times a schedule shows.
const SHOWN_TIMES: usize = 5;

/// The most fire times that a preview shows.
const MAX_TIMES: u32 = 100;

/// A schedule.
#[derive(Debug, Serialize, ToSchema)]
pub struct ScheduleView {
    /// What it has in common with other triggers.
    #[serde(flatten)]
    pub trigger: TriggerHead,
    /// What its workflow is called.
    pub workflow_name: Option<String>,
    /// The cron pattern.
    pub cron: String,
    /// The time zone.
    pub timezone: String,
    /// What the pattern says, in English.
    pub description: String,
    /// What happens when the run before is still open: `allow`, `skip`, `queue` or `cancel_running`.
    #[schema(value_type = String)]
    pub overlap: ledgerline_domain::trigger::Overlap,
    /// How late a fire may be.
    pub catch_up_window_ms: u64,
    /// By how much at most a fire is put off.
    pub jitter_ms: u64,
    /// The next fire times; none while it does not fire.
    pub next_fire_times: Vec<DateTime<Utc>>,
}

/// A pattern to look at.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PreviewRequest {
    /// The cron pattern.
    #[schema(example = "0 8 * * MON-FRI")]
    pub cron: String,
    /// The time zone; UTC where it is left out.
    #[serde(default)]
    #[schema(example = "Europe/Berlin")]
    pub timezone: Option<String>,
    /// How many times, 1 to 100; 10 where it is left out.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 100)]
    pub count: Option<u32>,
    /// From when on; now where it is left out.
    #[serde(default)]
    pub after: Option<DateTime<Utc>>,
}

/// When a pattern fires.
#[derive(Debug, Serialize, ToSchema)]
pub struct PreviewView {
    /// What the pattern says, in English.
    pub description: String,
    /// The next fire times.
    pub fire_times: Vec<DateTime<Utc>>,
    /// The same as the clocks of the time zone show them.
    pub local_times: Vec<String>,
}

fn view(
    trigger: &Trigger,
    content: &Content,
    workflow_name: Option<String>,
) -> Result<ScheduleView, Problem> {
    let TriggerConfig::Cron(cron) = &content.config else {
        return Err(Problem::not_found("schedule"));
    };
    let schedule = cron.schedule();
    let mut times: Vec<DateTime<Utc>> = content.next_fire_at.into_iter().collect();
    if let (Some(next), Some(schedule)) = (content.next_fire_at, &schedule) {
        times.extend(schedule.next_times(next, SHOWN_TIMES - 1));
    }
    Ok(ScheduleView {
        trigger: TriggerHead::of(trigger, content),
        workflow_name,
        cron: cron.cron.clone(),
        timezone: cron.timezone.clone(),
        description: schedule.map(|schedule| schedule.describe()).unwrap_or_default(),
        overlap: cron.overlap,
        catch_up_window_ms: cron.catch_up_window_ms,
        jitter_ms: cron.jitter_ms,
        next_fire_times: times,
    })
}

/// The schedules of a workspace, with their next fire times.
#[utoipa::path(get, path = "/schedules", tag = "triggers",
    params(TriggerFilters, reading::PageParams, reading::WorkspaceParams),
    responses((status = 200, body = Page<ScheduleView>)))]
pub async fn list(
    State(state): State<AppState>,
    reading: Reading,
    workspace: WorkspaceSelector,
    list: ListQuery,
    Query(filters): Query<TriggerFilters>,
) -> Result<Answer<Page<ScheduleView>>, Problem> {
    let (page, _, _, position) =
        triggers::page(&state, &reading, workspace, list, &filters, KIND).await?;
    let mut items = Vec::with_capacity(page.items.len());
    for (item, loaded) in &page.items {
        let content = triggers::content_of(&loaded.state, KIND)?;
        items.push(view(&loaded.state, content, Some(item.workflow_name.clone()))?);
    }
    Ok(reading.answer(shown(page, items), position))
}

/// One schedule.
#[utoipa::path(get, path = "/schedules/{id}", tag = "triggers", params(("id" = Uuid, Path)),
    responses((status = 200, body = ScheduleView)))]
pub async fn get(
    State(state): State<AppState>,
    reading: Reading,
    Path(id): Path<TriggerId>,
) -> Result<Answer<ScheduleView>, Problem> {
    let position = reading.log();
    let (found, _) = triggers::find(&state, &reading, id, KIND).await?;
    let view = view(&found.state, triggers::content_of(&found.state, KIND)?, None)?;
    Ok(reading.answer(view, position).versioned(found.version))
}

/// What happened to a schedule, in order: its fires with the runs they started, what was refused, and what was missed.
#[utoipa::path(get, path = "/schedules/{id}/history", tag = "triggers",
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

/// Start a run of a schedule now. Its fire times stay as they are.
#[utoipa::path(post, path = "/schedules/{id}/run", tag = "triggers", params(("id" = Uuid, Path)),
    responses((status = 202, body = StartedView)))]
pub async fn run(
    State(state): State<AppState>,
    writing: Writing,
    Path(id): Path<TriggerId>,
) -> Reply {
    triggers::workspace_of(&state, id, KIND).await?;
    let loaded = state.commands.load_cached::<Trigger>(id).await.map_err(Problem::from)?;
    let input = schedules::input(triggers::content_of(&loaded.state, KIND)?, None);
    triggers::start(&state, &writing, Wanted { id, kind: KIND, cause: Cause::RunNow, input }).await
}

/// Pause a schedule: nothing fires until it is resumed, and what comes meanwhile is not caught up with.
#[utoipa::path(post, path = "/schedules/{id}/pause", tag = "triggers", params(("id" = Uuid, Path)),
    responses((status = 200, body = ScheduleView)))]
pub async fn pause(
    State(state): State<AppState>,
    writing: Writing,
    Path(id): Path<TriggerId>,
) -> Reply {
    tell(&state, &writing, id, TriggerCommand::Pause).await
}

/// Let a paused schedule go on, from its next fire time.
#[utoipa::path(post, path = "/schedules/{id}/resume", tag = "triggers", params(("id" = Uuid, Path)),
    responses((status = 200, body = ScheduleView)))]
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

/// When a cron pattern fires in a time zone, and what it says in English.
#[utoipa::path(post, path = "/schedules/preview", tag = "triggers", request_body = PreviewRequest,
    responses((status = 200, body = PreviewView)))]
pub async fn preview(
    State(state): State<AppState>,
    reading: Reading,
    JsonBody { value: request, .. }: JsonBody<PreviewRequest>,
) -> Result<Answer<PreviewView>, Problem> {
    let timezone = request.timezone.as_deref().unwrap_or("UTC");
    let schedule = Schedule::parse(&request.cron, timezone).map_err(|error| {
        let pointer = if error == ScheduleError::TimeZone { "/timezone" } else { "/cron" };
        Problem::invalid(pointer, "invalid", error.to_string())
    })?;
    let count = request.count.unwrap_or(10);
    if !(1..=MAX_TIMES).contains(&count) {
        let detail = format!("must be between 1 and {MAX_TIMES}");
        return Err(Problem::invalid("/count", "out_of_range", detail));
    }
    let after = request.after.unwrap_or_else(|| state.clock.now());
    if !(1970..2200).contains(&after.year()) {
        return Err(Problem::invalid("/after", "out_of_range", "must be between 1970 and 2199"));
    }
    let fire_times = schedule.next_times(after, count as usize);
    let local_times = fire_times.iter().map(|time| schedule.local(*time)).collect();
    let view = PreviewView { description: schedule.describe(), fire_times, local_times };
    Ok(reading.answer(view, reading.log()))
}
