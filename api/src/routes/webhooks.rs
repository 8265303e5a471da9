//! Webhooks: workflows that start from deliveries to an address of their own.

use axum::{extract::State, http::StatusCode, response::IntoResponse as _};
use ledgerline_commands::{CommandError, Scope, Target, Transacted};
use ledgerline_domain::{
    id::{TriggerId, WorkspaceId},
    permission::{Permission, Role},
    trigger::{Cause, Content, Signature, Trigger, TriggerCommand, TriggerConfig},
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
    hooks::{RefusedDeliveries, refusals, secret_holder, token_holder},
    problem::Problem,
    reading::{self, Reading},
    webhook,
    writing::{Reply, Writing},
};

const KIND: TriggerKind = TriggerKind::Webhook;

/// A secret that somebody else made, like Stripe: within these bounds.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 16..=256;

/// A webhook.
#[derive(Debug, Serialize, ToSchema)]
pub struct WebhookView {
    /// What it has in common with other triggers.
    #[serde(flatten)]
    pub trigger: TriggerHead,
    /// What its workflow is called.
    pub workflow_name: Option<String>,
    /// Where to deliver: none before the first `rotate`, and for who may not edit the workflow.
    pub url: Option<String>,
    /// How deliveries are signed: `none`, `ledgerline`, `github` or `stripe`.
    #[schema(value_type = String)]
    pub signature: Signature,
    /// Whether a signing secret is set. It is shown once, when it is made.
    pub has_secret: bool,
    /// For how long a signature that names its time is good.
    pub replay_window_ms: u64,
    /// The header that names a delivery, where it is not the usual one of the scheme.
    pub delivery_id_header: Option<String>,
    /// Headers that runs see.
    pub headers: Vec<String>,
}

/// A webhook with what was refused.
#[derive(Debug, Serialize, ToSchema)]
pub struct WebhookDetail {
    /// The webhook.
    #[serde(flatten)]
    pub webhook: WebhookView,
    /// Deliveries that were refused over the last seven days, by reason.
    pub refused: Vec<RefusedDeliveries>,
}

/// What is to be made anew.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateRequest {
    /// The address: the one before is no more.
    #[serde(default)]
    pub url: bool,
    /// The signing secret: signatures under the one before are no longer good.
    #[serde(default)]
    pub secret: bool,
    /// The secret that the sender gave, 16 to 256 bytes; one is generated where it is left out.
    #[schema(value_type = Option<String>, write_only)]
    pub given_secret: Option<secrecy::SecretString>,
}

/// What was made.
#[derive(Debug, Serialize, ToSchema)]
pub struct RotatedView {
    /// Where to deliver now; none where that did not change or the request was a repeat.
    pub url: Option<String>,
    /// The signing secret. Keep it: it is not shown again, not even to a repeat of the request.
    pub secret: Option<String>,
}

fn view(
    trigger: &Trigger,
    content: &Content,
    workflow_name: Option<String>,
    url: Option<String>,
) -> Result<WebhookView, Problem> {
    let TriggerConfig::Webhook(config) = &content.config else {
        return Err(Problem::not_found("webhook"));
    };
    Ok(WebhookView {
        trigger: TriggerHead::of(trigger, content),
        workflow_name,
        url,
        signature: config.signature,
        has_secret: content.secret_version.is_some(),
        replay_window_ms: config.replay_window_ms,
        delivery_id_header: config.delivery_id_header.clone(),
        headers: config.headers.clone(),
    })
}

fn address(state: &AppState, token: &str) -> String {
    let base = state.config.http.public_url.as_str().trim_end_matches('/');
    format!("{base}/hooks/{token}")
}

/// The address of a webhook for who may edit its workflow.
async fn url_of(
    state: &AppState,
    content: &Content,
    role: Role,
) -> Result<Option<String>, Problem> {
    if !role.may(Permission::EditWorkflow) {
        return Ok(None);
    }
    let holder = token_holder(content.id);
    let token = state.hooks.open(&state.sealed, content, holder, content.token_version).await?;
    Ok(token.and_then(|token| Some(address(state, std::str::from_utf8(&token).ok()?))))
}

/// The webhooks of a workspace.
#[utoipa::path(get, path = "/webhooks", tag = "triggers",
    params(TriggerFilters, reading::PageParams, reading::WorkspaceParams),
    responses((status = 200, body = Page<WebhookView>)))]
pub async fn list(
    State(state): State<AppState>,
    reading: Reading,
    workspace: WorkspaceSelector,
    list: ListQuery,
    Query(filters): Query<TriggerFilters>,
) -> Result<Answer<Page<WebhookView>>, Problem> {
    let (page, _, role, position) =
        triggers::page(&state, &reading, workspace, list, &filters, KIND).await?;
    let mut items = Vec::with_capacity(page.items.len());
    for (item, loaded) in &page.items {
        let content = triggers::content_of(&loaded.state, KIND)?;
        let url = url_of(&state, content, role).await?;
        items.push(view(&loaded.state, content, Some(item.workflow_name.clone()), url)?);
    }
    Ok(reading.answer(shown(page, items), position))
}

/// One webhook, with what was refused of it lately.
#[utoipa::path(get, path = "/webhooks/{id}", tag = "triggers", params(("id" = Uuid, Path)),
    responses((status = 200, body = WebhookDetail)))]
pub async fn get(
    State(state): State<AppState>,
    reading: Reading,
    Path(id): Path<TriggerId>,
) -> Result<Answer<WebhookDetail>, Problem> {
    let position = reading.log();
    let (found, role) = triggers::find(&state, &reading, id, KIND).await?;
    let content = triggers::content_of(&found.state, KIND)?;
    let url = url_of(&state, content, role).await?;
    let webhook = view(&found.state, content, None, url)?;
    let refused = refusals(&state.pool, id, state.clock.now()).await?;
    Ok(reading.answer(WebhookDetail { webhook, refused }, position).versioned(found.version))
}

/// The deliveries to a webhook with the runs they started, and what else happened to it, in order.
#[utoipa::path(get, path = "/webhooks/{id}/deliveries", tag = "triggers",
    params(("id" = Uuid, Path), ("limit" = Option<u32>, Query), ("cursor" = Option<String>, Query)),
    responses((status = 200, body = EventPage)))]
pub async fn deliveries(
    State(state): State<AppState>,
    reading: Reading,
    Path(id): Path<TriggerId>,
    paging: ListQuery,
) -> Result<Answer<EventPage>, Problem> {
    triggers::history(&state, &reading, id, KIND, &paging).await
}

/// Start another run with what a delivery brought.
#[utoipa::path(post, path = "/webhooks/{id}/deliveries/{delivery_id}/replay", tag = "triggers",
    params(("id" = Uuid, Path), ("delivery_id" = String, Path)),
    responses((status = 202, body = StartedView)))]
pub async fn replay(
    State(state): State<AppState>,
    writing: Writing,
    Path((id, delivery_id)): Path<(TriggerId, String)>,
) -> Reply {
    let workspace = triggers::workspace_of(&state, id, KIND).await?;
    triggers::may_start(&state, &writing, workspace, KIND).await?;
    let loaded = state.commands.load_cached::<Trigger>(id).await.map_err(Problem::from)?;
    let content = triggers::content_of(&loaded.state, KIND)?;
    let execution_id = id.execution(&["delivery", &delivery_id]);
    let input = triggers::input_of(&state, content, execution_id).await?;
    let cause = Cause::Replay { execution_id };
    triggers::start(&state, &writing, Wanted { id, kind: KIND, cause, input }).await
}

/// Pause a webhook: deliveries are asked to come again.
#[utoipa::path(post, path = "/webhooks/{id}/pause", tag = "triggers", params(("id" = Uuid, Path)),
    responses((status = 200, body = WebhookView)))]
pub async fn pause(
    State(state): State<AppState>,
    writing: Writing,
    Path(id): Path<TriggerId>,
) -> Reply {
    tell(&state, &writing, id, TriggerCommand::Pause).await
}

/// Let a paused webhook go on.
#[utoipa::path(post, path = "/webhooks/{id}/resume", tag = "triggers", params(("id" = Uuid, Path)),
    responses((status = 200, body = WebhookView)))]
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
    let content = triggers::content_of(&told.state, KIND)?;
    let url = url_of(state, content, Role::Editor).await?;
    let view = view(&told.state, content, None, url)?;
    let answer = writing.answer(StatusCode::OK, view, told.position);
    Ok(answer.versioned(told.version).into_response())
}

/// Make the address of a webhook, its signing secret, or both. What they were before is no longer good.
#[utoipa::path(post, path = "/webhooks/{id}/rotate", tag = "triggers", params(("id" = Uuid, Path)),
    request_body = RotateRequest, responses((status = 200, body = RotatedView)))]
pub async fn rotate(
    State(state): State<AppState>,
    writing: Writing,
    Path(id): Path<TriggerId>,
    JsonBody { value: request, hash }: JsonBody<RotateRequest>,
) -> Reply {
    let workspace = triggers::workspace_of(&state, id, KIND).await?;
    triggers::may_edit(&state, &writing, workspace, KIND).await?;
    let secret = secret_of(&request)?;
    let token = request.url.then(|| webhook::new_token(id));
    if token.is_none() && secret.is_none() {
        return Err(Problem::invalid("/url", "required", "or `secret` must be true").into());
    }
    let (tokens, secrets) = (token_holder(id), secret_holder(id));
    let now = state.commands.load_cached::<Trigger>(id).await.map_err(Problem::from)?;
    let content = triggers::content_of(&now.state, KIND)?;
    let sealing = Sealing { state: &state, dry: writing.is_dry_run(), workspace };
    let token_version = sealing.seal(&tokens, token.as_deref(), content.token_version).await?;
    let secret_version = sealing.seal(&secrets, secret.as_deref(), content.secret_version).await?;
    let context = writing.context(workspace, hash);
    let (state_ref, writer) = (&state, &writing);
    let plan = |scope: Scope| async move {
        triggers::authorise_edit(writer, &scope, workspace, KIND).await?;
        let mut position = state_ref.ledger.head();
        let commands = [
            token_version.map(|version| TriggerCommand::ChangeToken { version }),
            secret_version.map(|version| TriggerCommand::ChangeSecret { version }),
        ];
        for command in commands.into_iter().flatten() {
            let decided = scope.decide::<Trigger>(Target::existing(id), &command).await;
            position = decided.map_err(CommandError::widen)?.position;
        }
        Ok(position)
    };
    let rotated = writing.transact(&context, plan).await;
    let sealed = [(&tokens, token_version), (&secrets, secret_version)];
    let applied = matches!(rotated, Ok(Transacted::Applied { .. }));
    if !writing.is_dry_run() {
        for (holder, version) in sealed {
            let Some(version) = version else { continue };
            if applied {
                state
                    .sealed
                    .erase_before(workspace.0, holder, version)
                    .await
                    .map_err(Problem::from)?;
            } else {
                state
                    .sealed
                    .erase_version(workspace.0, holder, version)
                    .await
                    .map_err(Problem::from)?;
            }
        }
    }
    let (view, position) = match rotated? {
        Transacted::Applied { receipt, .. } => {
            let url = token.map(|token| address(&state, &token));
            (RotatedView { url, secret }, receipt.position)
        }
        Transacted::Unchanged { value } => (RotatedView { url: None, secret: None }, value),
        Transacted::Repeated { receipt } => {
            (RotatedView { url: None, secret: None }, receipt.position)
        }
    };
    Ok(writing.answer(StatusCode::OK, view, position).into_response())
}

/// The secret that is to be set: the given one, or a new one.
fn secret_of(request: &RotateRequest) -> Result<Option<String>, Problem> {
    use secrecy::ExposeSecret as _;
    match &request.given_secret {
        Some(given) => {
            let given = given.expose_secret();
            if !SECRET_BYTES.contains(&given.len()) || given.contains(char::is_control) {
                let detail = "must have 16 to 256 bytes without control characters";
                return Err(Problem::invalid("/given_secret", "out_of_range", detail));
            }
            Ok(Some(given.to_owned()))
        }
        None => Ok(request.secret.then(webhook::new_secret)),
    }
}

/// Where values are sealed before the log names their versions.
struct Sealing<'a> {
    state: &'a AppState,
    /// A dry run seals nothing.
    dry: bool,
    workspace: WorkspaceId,
}

impl Sealing<'_> {
    /// Seals a value under the version after the present one: nobody reads it until the log names that.
    async fn seal(
        &self,
        holder: &str,
        value: Option<&str>,
        present: Option<i32>,
    ) -> Result<Option<i32>, Problem> {
        let Some(value) = value else { return Ok(None) };
        let next = present.unwrap_or(0).saturating_add(1);
        if self.dry {
            return Ok(Some(next));
        }
        let (workspace, now) = (self.workspace.0, self.state.clock.now());
        let sealed = self.state.sealed.put(workspace, holder, next, value.as_bytes(), now).await?;
        Ok(Some(sealed))
    }
}
