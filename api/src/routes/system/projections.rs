//! Read models: how far each is, and their rebuild while they are served.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use chrono::{DateTime, Utc};
use ledgerline_projections::{
    Model, ProjectorStatus,
    rebuild::{Phase, Progress, RebuildError, rebuild},
    status,
};
use serde::Serialize;
use tokio::sync::watch;
use utoipa::ToSchema;

use crate::{
    answer::Answer,
    app::AppState,
    extract::Path,
    problem::{Problem, chain},
    reading::Reading,
    router::BASE_PATH,
};

/// Who rebuilds, as the lease names it.
const OWNER: &str = "rebuild asked for over http";

/// The rebuilds that this process began, the last one of each model. Cheap to clone; all clones share.
#[derive(Clone, Debug, Default)]
pub struct Rebuilds(Arc<Mutex<HashMap<Model, Rebuild>>>);

#[derive(Clone, Debug)]
struct Rebuild {
    started_at: DateTime<Utc>,
    progress: watch::Receiver<Progress>,
    ended: Option<(DateTime<Utc>, Result<(), String>)>,
}

impl Rebuilds {
    fn of(&self, model: Model) -> Option<Rebuild> {
        self.all().get(&model).cloned()
    }

    /// Takes note of one that begins; none while another one of this model is under way here.
    fn begin(&self, model: Model, now: DateTime<Utc>) -> Option<watch::Sender<Progress>> {
        let mut all = self.all();
        if all.get(&model).is_some_and(|rebuild| rebuild.ended.is_none()) {
            return None;
        }
        let (sender, progress) = watch::channel(Progress::default());
        all.insert(model, Rebuild { started_at: now, progress, ended: None });
        Some(sender)
    }

    fn end(&self, model: Model, now: DateTime<Utc>, result: Result<(), String>) {
        if let Some(rebuild) = self.all().get_mut(&model) {
            rebuild.ended = Some((now, result));
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Model, Rebuild>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A read model.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProjectionView {
    /// How far it is.
    #[serde(flatten)]
    pub projection: ProjectorStatus,
    /// The last rebuild that the process that was asked began.
    pub rebuild: Option<RebuildView>,
}

/// A rebuild of a read model.
#[derive(Debug, Serialize, ToSchema)]
pub struct RebuildView {
    /// What it does.
    pub phase: Phase,
    /// The position that it has applied.
    pub position: i64,
    /// Where the log ended when it was looked at last.
    pub head: i64,
    /// Since when.
    pub started_at: DateTime<Utc>,
    /// When it ended; nothing while it is under way.
    pub finished_at: Option<DateTime<Utc>>,
    /// Why it came to nothing; the rows are then as they were.
    pub error: Option<String>,
}

impl From<Rebuild> for RebuildView {
    fn from(rebuild: Rebuild) -> Self {
        let Progress { phase, position, head } = *rebuild.progress.borrow();
        let (finished_at, result) = rebuild.ended.unzip();
        let error = result.and_then(Result::err);
        let Rebuild { started_at, .. } = rebuild;
        Self { phase, position, head, started_at, finished_at, error }
    }
}

/// Show a read model: how far it is, and how far its rebuild is. For operators.
#[utoipa::path(get, path = "/projections/{name}", tag = "operations", params(("name" = Model, Path)),
    responses((status = 200, body = ProjectionView)))]
pub async fn get(
    State(state): State<AppState>,
    reading: Reading,
    Path(name): Path<String>,
) -> Result<Answer<ProjectionView>, Problem> {
    reading.caller.demand_operator()?;
    let body = projection(&state, named(&name)?).await?;
    let position = ledgerline_store::Position(body.projection.position);
    Ok(reading.answer(body, position))
}

/// Rebuild a read model from the log while it is served, and put the result in its place. For operators.
#[utoipa::path(post, path = "/projections/{name}/rebuild", tag = "operations", params(("name" = Model, Path)),
    responses((status = 202, body = ProjectionView)))]
pub async fn start_rebuild(
    State(state): State<AppState>,
    reading: Reading,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    reading.caller.demand_operator()?;
    let model = named(&name)?;
    let Some(progress) = state.rebuilds.begin(model, state.clock.now()) else {
        let detail = "another rebuild of this read model is under way";
        return Err(Problem::rule_refused("rebuild_under_way", detail));
    };
    tracing::info!(model = model.as_str(), user_id = %reading.caller.user_id, "a rebuild begins");
    state.tasks.spawn(run(state.clone(), model, progress));
    let body = projection(&state, model).await?;
    let position = ledgerline_store::Position(body.projection.position);
    let mut response = reading.answer(body, position).at(location(model)).into_response();
    *response.status_mut() = StatusCode::ACCEPTED;
    Ok(response)
}

async fn run(state: AppState, model: Model, progress: watch::Sender<Progress>) {
    let log = state.commands.log();
    let rebuilt = rebuild(&state.pool, log, model, OWNER, &progress, &state.stop).await;
    let result = match rebuilt {
        Ok(done) => {
            tracing::info!(model = model.as_str(), position = done.position, "rebuilt");
            Ok(())
        }
        Err(error) => {
            tracing::warn!(model = model.as_str(), error = %chain(&error), "a rebuild failed");
            Err(told(&error))
        }
    };
    state.rebuilds.end(model, state.clock.now(), result);
}

/// What an operator is told of a failed rebuild; the causes are in the process's own log.
fn told(error: &RebuildError) -> String {
    error.to_string()
}

pub(super) fn named(name: &str) -> Result<Model, Problem> {
    Model::parse(name).ok_or_else(|| Problem::not_found("projection"))
}

fn location(model: Model) -> String {
    format!("{BASE_PATH}/projections/{}", model.as_str())
}

async fn projection(state: &AppState, model: Model) -> Result<ProjectionView, Problem> {
    let log = state.commands.log();
    let all = status::status(&state.pool, log, &state.positions, state.clock.now()).await?;
    let projection = all.into_iter().find(|status| status.name == model);
    let projection = projection.ok_or_else(|| Problem::not_found("projection"))?;
    let rebuild = state.rebuilds.of(model).map(RebuildView::from);
    Ok(ProjectionView { projection, rebuild })
}
