//! Whether the process lives, whether it can serve, and what it measured.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    app::AppState,
    extract::Caller,
    health::{Condition, PartHealth},
    problem::Problem,
};

/// How the process is.
#[derive(Debug, Serialize, ToSchema)]
pub struct HealthAnswer {
    /// The worst condition of its parts.
    pub status: Condition,
    /// When this was said.
    pub timestamp: DateTime<Utc>,
    /// Which build it is.
    pub version: &'static str,
    /// How many executions it runs.
    pub active_jobs: u64,
    /// How many executions it may run at once.
    pub max_concurrent_jobs: u64,
    /// How each part is.
    pub parts: BTreeMap<&'static str, PartHealth>,
}

fn answer(state: &AppState) -> HealthAnswer {
    let (active_jobs, max_concurrent_jobs) = state.health.jobs();
    HealthAnswer {
        status: state.health.worst(),
        timestamp: state.clock.now(),
        version: env!("CARGO_PKG_VERSION"),
        active_jobs,
        max_concurrent_jobs,
        parts: state.health.parts(),
    }
}

/// How the process is. Answers 200 as long as it lives, whatever its parts say.
#[utoipa::path(get, path = "/health", tag = "operations", security(()), responses((status = 200, body = HealthAnswer)))]
pub async fn health(State(state): State<AppState>) -> Json<HealthAnswer> {
    Json(answer(&state))
}

/// Whether the process can serve: asks the database. 503 takes it out of a load balancer.
#[utoipa::path(get, path = "/health/ready", tag = "operations", security(()),
    responses((status = 200, body = HealthAnswer), (status = 503, body = HealthAnswer)))]
pub async fn ready(State(state): State<AppState>) -> Response {
    let database = state.identity.ping().await;
    let detail = database.as_ref().err().map(|problem| problem.detail().to_owned());
    let condition = if database.is_ok() { Condition::Ok } else { Condition::Down };
    state.health.set("database", condition, detail);
    let answer = answer(&state);
    let status = match answer.status {
        Condition::Down => StatusCode::SERVICE_UNAVAILABLE,
        Condition::Ok | Condition::Degraded => StatusCode::OK,
    };
    (status, Json(answer)).into_response()
}

/// What was measured, in the text format of Prometheus. For operators, unless the deployment opens it.
#[utoipa::path(get, path = "/metrics", tag = "operations", security((), ("bearer" = [])), responses((status = 200, body = String, content_type = "text/plain")))]
pub async fn metrics(
    State(state): State<AppState>,
    caller: Result<Caller, Problem>,
) -> Result<Response, Problem> {
    if !state.config.telemetry.public_metrics {
        caller?.demand_operator()?;
    }
    let text = state.metrics.as_ref().map(|recorder| recorder.render()).unwrap_or_default();
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}
