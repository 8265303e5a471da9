//! Streams that wait behind an event that a read model can't apply: tried again, or let go on without it.

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use ledgerline_commands::{CommandError, Scope, Target};
use ledgerline_domain::{
    deployment::{Deployment, DeploymentCommand, ProjectionEventSkipped},
    id::WorkspaceId,
};
use ledgerline_projections::{
    Model,
    quarantine::{self, QuarantineError, Quarantined, Skip},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::projections::named;
use crate::{
    app::AppState,
    extract::{JsonBody, Path},
    problem::{Problem, ProblemKind},
    reading::Reading,
    refusal::Refusal,
    writing::{Reply, Writing},
};

/// Why an event is left out of a read model.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SkipRequest {
    /// For others to read; it stays in the log.
    #[schema(min_length = 1, max_length = 1_000)]
    pub reason: String,
}

/// What became of a stream that waited.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReleasedView {
    /// The read model.
    pub projection: Model,
    /// The stream.
    pub key: Uuid,
    /// The later event of the stream that it waits behind now; nothing when it is up to date.
    pub held: Option<Quarantined>,
}

/// Apply what waits of a stream in a read model, in order. For operators.
///
/// 409 `event_not_applicable` while the event still can't be applied, or a later one of the stream can't; what came before that one is applied.
#[utoipa::path(post, path = "/system/projections/{name}/quarantine/{key}/retry", tag = "operations",
    params(("name" = Model, Path), ("key" = Uuid, Path, description = "The stream")), responses((status = 200, body = ReleasedView)))]
pub async fn retry(
    State(state): State<AppState>,
    reading: Reading,
    Path((name, key)): Path<(String, Uuid)>,
) -> Result<Response, Problem> {
    reading.caller.demand_operator()?;
    let projection = named(&name)?;
    let log = state.commands.log();
    quarantine::retry(&state.pool, log.as_ref(), projection, key).await?;
    tracing::info!(projection = name, %key, user_id = %reading.caller.user_id, "a stream goes on");
    let body = ReleasedView { projection, key, held: None };
    Ok(reading.answer(body, state.ledger.head()).into_response())
}

/// Leave out the event that a stream waits behind in a read model, and apply what comes after it. For operators.
///
/// The event stays in the log; who left it out and why is an event too (`projection_event_skipped`), and every rebuild obeys it.
#[utoipa::path(post, path = "/system/projections/{name}/quarantine/{key}/skip", tag = "operations",
    params(("name" = Model, Path), ("key" = Uuid, Path, description = "The stream")), request_body = SkipRequest,
    responses((status = 200, body = ReleasedView)))]
pub async fn skip(
    State(state): State<AppState>,
    writing: Writing,
    Path((name, key)): Path<(String, Uuid)>,
    JsonBody { value: body, hash }: JsonBody<SkipRequest>,
) -> Reply {
    writing.caller.demand_operator()?;
    let projection = named(&name)?;
    let context = writing.context(WorkspaceId(Uuid::nil()), hash);
    let (pool, reason) = (&state.pool, &body.reason);
    let plan = |_: Scope| async move {
        let held = waiting(pool, projection, key).await?;
        let skipped = ProjectionEventSkipped {
            model: projection.as_str().to_owned(),
            key,
            position: held.position,
            reason: reason.clone(),
        };
        let command = DeploymentCommand::SkipProjectionEvent(skipped);
        Ok((Target::new(Deployment::id(), Uuid::nil()), command))
    };
    let skipped = writing.execute::<Deployment, _, _>(&context, plan).await?;
    // The decision is in the log now. Whoever repeats the request after a crash right here finds the stream still waiting behind an
    // event that was decided to be left out, and does what is missing.
    let known = |held: &Quarantined| {
        skipped.state.skipped.contains(&(projection.as_str().to_owned(), held.position))
    };
    let mut held = quarantine::waiting(pool, projection, key).await.map_err(Problem::from)?;
    while let Some(decided) = held.as_ref().filter(|held| known(held)) {
        let by = writing.caller.user_id.to_string();
        let skip = Skip { position: decided.position, by: &by, reason };
        match quarantine::skip(pool, state.commands.log().as_ref(), projection, key, skip).await {
            // The later event is told below.
            Ok(()) | Err(QuarantineError::StillPoison { .. }) => {}
            Err(error) => return Err(Problem::from(error).into()),
        }
        held = quarantine::waiting(pool, projection, key).await.map_err(Problem::from)?;
    }
    let body = ReleasedView { projection, key, held };
    Ok(writing.answer(StatusCode::OK, body, skipped.position).into_response())
}

/// What a stream waits behind, for the decision to leave it out.
async fn waiting(
    pool: &sqlx::PgPool,
    model: Model,
    key: Uuid,
) -> Result<Quarantined, CommandError<Refusal>> {
    let held = quarantine::waiting(pool, model, key).await;
    let held = held.map_err(|error| CommandError::Unavailable(Box::new(error)))?;
    held.ok_or(CommandError::Rejected(Refusal::Hidden("stream in quarantine")))
}

impl From<QuarantineError> for Problem {
    fn from(error: QuarantineError) -> Self {
        match error {
            QuarantineError::NotQuarantined => Self::not_found("stream in quarantine"),
            QuarantineError::Moved { .. } => {
                Self::new(ProblemKind::ConcurrentChange, error.to_string())
            }
            QuarantineError::StillPoison { .. } => {
                Self::rule_refused("event_not_applicable", error.to_string())
            }
            QuarantineError::Database(error) => error.into(),
            QuarantineError::Log(error) => error.into(),
        }
    }
}
