//! The deployment as its operators see it: which log, who leads what, how far everything is, and what is held up.

pub mod dispatch;
pub mod outbox;
pub mod projections;
pub mod quarantine;

use std::collections::BTreeMap;

use axum::extract::State;
use chrono::{DateTime, Utc};
use ledgerline_commands::{dispatch::READER as DISPATCH, policies, triggers};
use ledgerline_nats::{relay, work};
use ledgerline_projections::{
    Model, ProjectorStatus,
    quarantine::{Quarantined, list},
    status,
};
use ledgerline_store::{EventLog, Filter, Head};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    answer::Answer,
    app::AppState,
    config::Role,
    health::{Condition, PartHealth},
    problem::Problem,
    reading::Reading,
};

/// The part of `/health` that says how NATS is.
const NATS: &str = "nats";

/// Readers of the log beside the projectors, with the part of `/health` that says how each is in the process that was asked.
/// Timers are not among them: they wait for due times and have no position, so any lag of theirs would be a lie.
const READERS: [(&str, &str); 5] = [
    (relay::READER, "relay"),
    (work::READER, "work_relay"),
    (policies::READER, "policies"),
    (DISPATCH, "dispatch"),
    (triggers::READER, "triggers"),
];

/// A deployment.
#[derive(Debug, Serialize, ToSchema)]
pub struct SystemView {
    /// The build of the process that was asked.
    pub version: &'static str,
    /// What that process does.
    #[schema(value_type = Vec<String>, example = json!(["api", "projector"]))]
    pub roles: Vec<&'static str>,
    /// The worst condition of its parts.
    pub status: Condition,
    /// How each of its parts is.
    pub parts: BTreeMap<&'static str, PartHealth>,
    /// How NATS is; nothing where it is not configured.
    pub nats: Option<PartHealth>,
    /// The log.
    pub log: LogView,
    /// How far each read model is, over all processes.
    pub projections: Vec<ProjectorStatus>,
    /// How far the other readers of the log are, over all processes.
    pub readers: Vec<ReaderView>,
    /// Where dispatch is paused.
    pub dispatch: dispatch::DispatchView,
    /// The worker processes that were heard of lately.
    pub workers: Vec<WorkerView>,
    /// Streams that wait behind an event that a read model can't apply, or that were left out by somebody.
    pub quarantine: Vec<QuarantineView>,
}

/// The log of a deployment.
#[derive(Debug, Serialize, ToSchema)]
pub struct LogView {
    /// Made once, when the log was created.
    pub id: Uuid,
    /// Raised by a restore from backup.
    pub epoch: i32,
    /// The last position.
    pub head: i64,
    /// When the last event was recorded.
    pub recorded_at: DateTime<Utc>,
}

/// A reader of the log.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReaderView {
    /// Its name.
    pub name: &'static str,
    /// Everything up to here was done; 0 where it never ran.
    pub position: i64,
    /// How many events are still to come.
    pub lag_events: i64,
    /// How old the first of them is.
    pub lag_seconds: f64,
    /// How it is in the process that was asked; nothing where that does not run it.
    pub here: Option<PartHealth>,
}

/// A worker process.
#[derive(Debug, Serialize, ToSchema)]
pub struct WorkerView {
    /// Its name.
    pub worker: String,
    /// How many executions it runs at once.
    pub slots: i32,
    /// When its lease ends if it is not heard of again.
    pub expires_at: DateTime<Utc>,
    /// Whether it is alive.
    pub alive: bool,
}

/// What is held up in a read model.
#[derive(Debug, Serialize, ToSchema)]
pub struct QuarantineView {
    /// The read model.
    pub projection: Model,
    /// The stream and its event.
    #[serde(flatten)]
    pub held: Quarantined,
}

/// Show how the deployment is: roles, versions, the log, the lag of each reader, workers, and what is held up. For operators.
#[utoipa::path(get, path = "/system", tag = "operations", responses((status = 200, body = SystemView)))]
pub async fn system(
    State(state): State<AppState>,
    reading: Reading,
) -> Result<Answer<SystemView>, Problem> {
    reading.caller.demand_operator()?;
    let log = state.commands.log();
    let head = log.head().await?;
    let parts = state.health.parts();
    let body = SystemView {
        version: env!("CARGO_PKG_VERSION"),
        roles: state.config.roles.iter().map(|role| word(*role)).collect(),
        status: state.health.worst(),
        nats: parts.get(NATS).cloned(),
        log: LogView {
            id: head.log_id,
            epoch: head.epoch,
            head: head.position.0,
            recorded_at: head.recorded_at,
        },
        projections: status::status(&state.pool, log, &state.positions, state.clock.now()).await?,
        readers: readers(&state, head, &parts).await?,
        dispatch: dispatch::view(&state, head.position).await,
        workers: workers(log.as_ref()).await?,
        quarantine: held_up(&state).await?,
        parts,
    };
    Ok(reading.answer(body, head.position))
}

const fn word(role: Role) -> &'static str {
    match role {
        Role::Api => "api",
        Role::Projector => "projector",
        Role::Relay => "relay",
        Role::Policies => "policies",
        Role::Worker => "worker",
    }
}

async fn readers(
    state: &AppState,
    head: Head,
    parts: &BTreeMap<&'static str, PartHealth>,
) -> Result<Vec<ReaderView>, Problem> {
    let log = state.commands.log();
    let mut readers = Vec::with_capacity(READERS.len());
    for (name, part) in READERS {
        let position = log.checkpoint(name).await?;
        let lag_events = (head.position.0 - position.0).max(0);
        let lag_seconds = match lag_events {
            0 => 0.0,
            _ => {
                let (next, _) = log.read(position, 1, &Filter::default()).await?;
                let since = next.first().map(|event| state.clock.now() - event.recorded_at);
                since.unwrap_or_default().as_seconds_f64().max(0.0)
            }
        };
        let here = parts.get(part).cloned();
        readers.push(ReaderView { name, position: position.0, lag_events, lag_seconds, here });
    }
    Ok(readers)
}

async fn workers(log: &dyn EventLog) -> Result<Vec<WorkerView>, Problem> {
    let leases = log.worker_leases().await?;
    let worker = |lease: ledgerline_store::WorkerLease| WorkerView {
        worker: lease.worker,
        slots: lease.slots,
        expires_at: lease.expires_at,
        alive: !lease.expired,
    };
    Ok(leases.into_iter().map(worker).collect())
}

async fn held_up(state: &AppState) -> Result<Vec<QuarantineView>, Problem> {
    let mut all = Vec::new();
    for model in Model::ALL {
        let held = list(&state.pool, *model).await?;
        all.extend(held.into_iter().map(|held| QuarantineView { projection: *model, held }));
    }
    Ok(all)
}
