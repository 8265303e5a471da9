//! Where webhooks are delivered to. Nobody signs in here: the address is the secret, and the signature says who sent it.

use axum::{
    body::{Body, to_bytes},
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode},
    response::IntoResponse as _,
};
use ledgerline_commands::{
    CommandError, Context, Scope, Transacted,
    fire::{Fire, Fired, fire},
};
use ledgerline_domain::{
    event::Actor,
    id::{ExecutionId, TriggerId},
    trigger::{Cause, Content, Trigger, TriggerConfig, TriggerRejection, WebhookConfig},
};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    app::AppState,
    extract::{Path, RequestContext},
    hooks::{Turn, note_refusal, secret_holder, token_holder},
    problem::{Problem, ProblemKind},
    refusal::Refusal,
    webhook::{self, MAX_BODY_BYTES, Refused},
};

/// How long a sender waits before it tries a paused webhook again.
const PAUSED_RETRY_S: u64 = 60;

/// A delivery that was taken.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeliveryView {
    /// The run that it started. The same delivery is answered with the same run, however often it comes.
    pub execution_id: Uuid,
    /// Its name.
    pub delivery_id: String,
}

/// Deliver to a webhook: starts a run of its workflow, once for each delivery.
#[utoipa::path(post, path = "/hooks/{token}", tag = "triggers", params(("token" = String, Path)),
    request_body(content = String, description = "JSON, a form or text, up to 256 KiB", content_type = "application/json"),
    responses((status = 202, body = DeliveryView)), security(()))]
pub async fn deliver(
    State(state): State<AppState>,
    request: RequestContext,
    Path(token): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<axum::response::Response, Problem> {
    let (trigger, known) = find(&state, &token).await?;
    let id = known.id;
    let noted = |reason: &'static str, problem: Problem| refused(&state, id, reason, problem);
    if let Turn::Wait { first } = state.hooks.turn(id) {
        metrics::counter!("ledgerline_webhook_deliveries_limited_total").increment(1);
        let problem = Problem::too_many_requests("too many deliveries to this webhook", 1);
        return Err(if first { noted("rate_limited", problem).await } else { problem });
    }
    let Ok(body) = to_bytes(body, MAX_BODY_BYTES).await else {
        let detail = "a delivery has at most 256 KiB";
        return Err(noted("body_too_large", Problem::new(ProblemKind::BodyTooLarge, detail)).await);
    };
    let TriggerConfig::Webhook(config) = &known.config else { return Err(no_hook()) };
    let taken = read(&state, &known, config, &request, &headers, query.as_deref(), &body).await?;
    let (delivery_id, input) = match taken {
        Ok(taken) => taken,
        Err(reason) => return Err(noted(reason.as_str(), problem_of(reason)).await),
    };
    // Before anything is decided, so that a sender who is asked to wait is not counted as refused by a rule of the run.
    if let Err(rejection) = trigger.ready() {
        return Err(noted(rejection.rule(), resting(rejection)).await);
    }
    let execution_id = id.execution(&["delivery", &delivery_id]);
    let wanted = Fire {
        trigger_id: id,
        cause: Cause::Delivery { delivery_id: delivery_id.clone() },
        execution_id,
        input,
        depth: 0,
        note_refusal: false,
    };
    match start(&state, &request, &wanted).await {
        Ok(()) => Ok(taken_as(execution_id, delivery_id)),
        Err((rule, problem)) => Err(match rule {
            Some(rule) => noted(rule, problem).await,
            None => problem,
        }),
    }
}

/// The webhook of an address.
async fn find(
    state: &AppState,
    token: &str,
) -> Result<(std::sync::Arc<Trigger>, Content), Problem> {
    let id = webhook::trigger_of(token).ok_or_else(no_hook)?;
    let loaded = state.commands.load::<Trigger>(id).await.map_err(|error| match error {
        ledgerline_commands::LoadError::WrongCategory { .. } => no_hook(),
        other => other.into(),
    })?;
    let content = loaded.state.content().cloned().ok_or_else(no_hook)?;
    let holder = token_holder(id);
    let known = state.hooks.open(&state.sealed, &content, holder, content.token_version).await?;
    match known {
        Some(known) if webhook::same_token(&known, token.as_bytes()) => Ok((loaded.state, content)),
        _ => Err(no_hook()),
    }
}

fn no_hook() -> Problem {
    Problem::not_found("webhook")
}

/// Name and input of a delivery, or why it is not taken.
async fn read(
    state: &AppState,
    content: &Content,
    config: &WebhookConfig,
    request: &RequestContext,
    headers: &HeaderMap,
    query: Option<&str>,
    body: &[u8],
) -> Result<Result<(String, ledgerline_domain::json::Json), Refused>, Problem> {
    let holder = secret_holder(content.id);
    let secret = state.hooks.open(&state.sealed, content, holder, content.secret_version).await?;
    Ok(webhook::verify(config, headers, body, secret.as_deref(), request.now).and_then(|named| {
        let name = named.unwrap_or_else(|| webhook::unnamed(state.commands.clock().new_id()));
        let input = webhook::input(config, headers, query.unwrap_or(""), body, &name)?;
        Ok((name, input))
    }))
}

/// Starts the run of a delivery; a repeat finds it started. A refusal comes with the rule that it is counted under.
async fn start(
    state: &AppState,
    request: &RequestContext,
    wanted: &Fire,
) -> Result<(), (Option<&'static str>, Problem)> {
    let context = Context {
        correlation_id: Some(request.correlation_id),
        trace: request.trace.clone(),
        ..Context::new(Actor::system("webhooks"))
    };
    let plan = |scope: Scope| async move { fire(&scope, wanted).await };
    match state.commands.transact(&context, plan).await {
        Ok(Transacted::Applied { .. } | Transacted::Repeated { .. }) => Ok(()),
        Ok(Transacted::Unchanged { value: Fired::StartedBefore(_) | Fired::Started(_) }) => Ok(()),
        Ok(Transacted::Unchanged { value: Fired::Refused }) => Err((None, Problem::broken())),
        Err(CommandError::Rejected(rejection)) => {
            let rule = rejection.rule();
            Err((Some(rule), CommandError::<Refusal>::Rejected(rejection.into()).into()))
        }
        Err(error) => Err((None, error.map(Refusal::from).into())),
    }
}

fn taken_as(execution_id: ExecutionId, delivery_id: String) -> axum::response::Response {
    let view = DeliveryView { execution_id: execution_id.0, delivery_id };
    (StatusCode::ACCEPTED, axum::Json(view)).into_response()
}

/// Counts a refusal. That it can't be counted is no reason to answer otherwise.
async fn refused(
    state: &AppState,
    id: TriggerId,
    reason: &'static str,
    problem: Problem,
) -> Problem {
    let now = state.clock.now();
    if let Err(error) = note_refusal(&state.pool, id, reason, now).await {
        tracing::warn!(%error, trigger_id = %id, reason, "a refused delivery is not counted");
    }
    metrics::counter!("ledgerline_webhook_deliveries_refused_total", "reason" => reason)
        .increment(1);
    problem
}

/// What the sender is told. Which part of a signature is wrong is not.
fn problem_of(reason: Refused) -> Problem {
    match reason {
        Refused::NoSecret | Refused::Unsigned | Refused::WrongSignature | Refused::Stale => {
            Problem::unauthenticated(
                "the delivery is not signed as this webhook demands, or too long ago",
            )
        }
        Refused::DeliveryId => Problem::malformed(
            "the name of the delivery must be 1 to 255 printable ASCII characters, signed ones without a full stop",
        ),
        Refused::Body => Problem::malformed("the body is not what its Content-Type says"),
    }
}

/// A trigger that rests: one that is paused asks the sender to come again.
fn resting(rejection: TriggerRejection) -> Problem {
    use ledgerline_domain::trigger::OffReason;
    match rejection {
        TriggerRejection::Paused | TriggerRejection::Off(OffReason::IntakePaused) => {
            Problem::new(ProblemKind::WebhookPaused, rejection.to_string())
                .with_retry_after(PAUSED_RETRY_S)
        }
        TriggerRejection::NotFound
        | TriggerRejection::Off(
            OffReason::WorkflowDeleted | OffReason::WorkspaceDeleted | OffReason::NodeRemoved,
        ) => no_hook(),
        other => Problem::rule_refused(other.rule(), other.to_string()),
    }
}
