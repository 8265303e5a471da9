//! Writes: one way from a request to a command and back, the same for every route.
//!
//! A handler takes a [`Writing`], makes a [`Context`] with the hash of its body, and gives [`Writing::execute`] (one aggregate) or
//! [`Writing::transact`] (several) a plan that authorises ([`Writing::authorise`]) and decides. What follows is the same everywhere:
//! `Idempotency-Key`, `If-Match`, `If-Plan`, `?dry_run=true` and the positions of the answer. A dry run never comes back to the
//! handler: it leaves by `?` as [`Instead`], with the plan in place of the answer.

use std::{
    collections::BTreeSet,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    extract::{FromRequestParts, OriginalUri},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use ledgerline_commands::{
    CommandError, Context, Executed, Preview, PreviewedEvent, Scope, Target, Transacted,
};
use ledgerline_domain::{
    Aggregate,
    id::WorkspaceId,
    permission::{Permission, Role},
};
use ledgerline_store::{Position, Receipt};
use serde::Serialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    access,
    answer::Answer,
    app::AppState,
    extract::{Caller, DryRun, Idempotency, IfMatch, IfPlan, RequestContext},
    ledger::LogName,
    problem::Problem,
    refusal::Refusal,
};

/// What handlers of commands give: an answer, or what is answered instead.
pub type Reply = Result<Response, Instead>;

/// What a request is answered with in place of the command's own answer.
#[derive(Debug)]
pub enum Instead {
    /// It was a dry run.
    Plan(Box<Answer<Plan>>),
    /// It failed.
    Problem(Problem),
}

impl IntoResponse for Instead {
    fn into_response(self) -> Response {
        match self {
            Self::Plan(answer) => answer.into_response(),
            Self::Problem(problem) => problem.into_response(),
        }
    }
}

impl<E: Into<Problem>> From<E> for Instead {
    fn from(error: E) -> Self {
        Self::Problem(error.into())
    }
}

/// What a command would do (`?dry_run=true`). Nothing was appended.
#[derive(Debug, Serialize, ToSchema)]
pub struct Plan {
    /// Exactly the events that it would append, in order.
    pub events: Vec<PlannedEvent>,
    /// What was checked; a check that fails is answered as the problem that the command itself would be.
    pub validations: Vec<Validation>,
    /// What the caller needs, and has.
    #[schema(value_type = Vec<String>, example = json!(["edit_workflow"]))]
    pub permissions: BTreeSet<Permission>,
    /// What would follow, in appends of its own.
    pub side_effects: Vec<SideEffect>,
    /// What would be spent with providers, in millionths of a dollar.
    pub estimated_cost_microusd: u64,
    /// Goes as `If-Plan` with the real request: then it does exactly this, or answers 412.
    pub plan_hash: String,
}

/// An event that would be appended.
#[derive(Debug, Serialize, ToSchema)]
pub struct PlannedEvent {
    /// To which stream.
    pub stream_id: Uuid,
    /// Of which workspace.
    pub workspace_id: Uuid,
    /// The noun of the stream.
    #[schema(example = "workflow")]
    pub category: &'static str,
    /// The version it would have in its stream.
    pub version: i64,
    /// Its stored type.
    #[schema(example = "workflow_published")]
    pub r#type: &'static str,
    /// The version of its payload's shape.
    pub schema_version: i16,
    /// Its payload.
    #[schema(value_type = Object)]
    pub data: Box<RawValue>,
}

/// Something that was checked and holds.
#[derive(Debug, Serialize, ToSchema)]
pub struct Validation {
    /// What: `permission`, `version`, `plan` or `rules`.
    #[schema(example = "rules")]
    pub check: &'static str,
    /// Always true: what does not hold is a problem.
    pub holds: bool,
}

/// Something that follows from the events and is not among them.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct SideEffect {
    /// The stream that it follows from.
    pub stream_id: Uuid,
    /// What it is, for programs.
    #[schema(example = "executions_cancelled")]
    pub kind: &'static str,
    /// What it is, for people.
    #[schema(example = "its open executions are cancelled")]
    pub detail: &'static str,
}

/// Who writes, and under which conditions.
#[derive(Clone)]
pub struct Writing {
    /// Who.
    pub caller: Caller,
    state: AppState,
    request: RequestContext,
    idempotency: Idempotency,
    if_match: IfMatch,
    if_plan: IfPlan,
    dry_run: DryRun,
    /// Method and path: what the body is a command to.
    target: String,
    log: LogName,
    demanded: Arc<Mutex<BTreeSet<Permission>>>,
}

impl FromRequestParts<AppState> for Writing {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, state).await?;
        let path = parts.extensions.get::<OriginalUri>();
        let path = path.map_or_else(|| parts.uri.path(), |OriginalUri(uri)| uri.path());
        let target = format!("{} {path}", parts.method);
        Ok(Self {
            caller,
            request: RequestContext::from_request_parts(parts, state).await?,
            idempotency: Idempotency::from_request_parts(parts, state).await?,
            if_match: IfMatch::from_request_parts(parts, state).await?,
            if_plan: IfPlan::from_request_parts(parts, state).await?,
            dry_run: DryRun::from_request_parts(parts, state).await?,
            target,
            log: state.ledger.name().await?,
            state: state.clone(),
            demanded: Arc::default(),
        })
    }
}

impl Writing {
    /// What goes with the command: the caller, the trace, the key and the conditions. `workspace` is the one that the resource
    /// belongs to; `body` is the hash of everything that the request asks for beside its path.
    #[must_use]
    pub fn context(&self, workspace: WorkspaceId, body: [u8; 32]) -> Context {
        let mut command = Sha256::new();
        command.update(self.target.as_bytes());
        command.update(body);
        Context {
            correlation_id: Some(self.request.correlation_id),
            trace: self.request.trace.clone(),
            key: self.idempotency.scoped(workspace, &self.caller, body),
            if_match: self.if_match.0.clone(),
            if_plan: self.if_plan.0.clone(),
            command_hash: Some(command.finalize().into()),
            ..Context::new(self.caller.actor())
        }
    }

    /// Demands a permission within a plan; see [`access::authorise`].
    ///
    /// # Errors
    /// [`CommandError::Denied`].
    pub async fn authorise(
        &self,
        scope: &Scope,
        workspace: WorkspaceId,
        permission: Permission,
        noun: &'static str,
    ) -> Result<Role, CommandError<Refusal>> {
        self.demanded.lock().unwrap_or_else(PoisonError::into_inner).insert(permission);
        access::authorise(scope, &self.caller, workspace, permission, noun).await
    }

    /// Whether nothing is to happen but a look at what would.
    #[must_use]
    pub fn is_dry_run(&self) -> bool {
        self.dry_run.0
    }

    /// Applies a command to one aggregate, or answers its dry run.
    ///
    /// # Errors
    /// The plan of a dry run, or the problem.
    pub async fn execute<A, F, Fut>(
        &self,
        context: &Context,
        plan: F,
    ) -> Result<Executed<A>, Instead>
    where
        A: Aggregate,
        Refusal: From<A::Rejection>,
        F: Fn(Scope) -> Fut,
        Fut: Future<Output = Result<(Target, A::Command), CommandError<Refusal>>>,
    {
        if self.dry_run.0 {
            let plan = &plan;
            let decide = |scope: Scope| async move {
                let (target, command) = plan(scope.clone()).await?;
                scope.decide::<A>(target, &command).await.map_err(CommandError::widen)
            };
            return Err(self.dry_run(context, decide).await);
        }
        let executed = self.state.commands.execute_with::<A, Refusal, _, _>(context, plan).await?;
        match &executed.receipt {
            Some(receipt) => self.acknowledge(receipt),
            None => self.state.ledger.acknowledge(self.caller.user_id, executed.position),
        }
        Ok(executed)
    }

    /// Applies all that a plan decides, over any number of streams, or answers its dry run.
    ///
    /// # Errors
    /// The plan of a dry run, or the problem.
    pub async fn transact<T, F, Fut>(
        &self,
        context: &Context,
        plan: F,
    ) -> Result<Transacted<T>, Instead>
    where
        F: Fn(Scope) -> Fut,
        Fut: Future<Output = Result<T, CommandError<Refusal>>>,
    {
        if self.dry_run.0 {
            return Err(self.dry_run(context, plan).await);
        }
        let transacted = self.state.commands.transact(context, plan).await?;
        if let Transacted::Applied { receipt, .. } | Transacted::Repeated { receipt } = &transacted
        {
            self.acknowledge(receipt);
        }
        Ok(transacted)
    }

    fn acknowledge(&self, receipt: &Receipt) {
        self.state.ledger.acknowledge(self.caller.user_id, receipt.position);
        self.state.ledger.remember(receipt, self.caller.user_id);
    }

    /// An answer that reflects the position of what was appended.
    pub fn answer<T>(&self, status: StatusCode, body: T, position: Position) -> Answer<T> {
        Answer::new(status, body, position, self.log)
    }

    async fn dry_run<T, F, Fut>(&self, context: &Context, plan: F) -> Instead
    where
        F: Fn(Scope) -> Fut,
        Fut: Future<Output = Result<T, CommandError<Refusal>>>,
    {
        let preview = match self.state.commands.preview(context, plan).await {
            Ok(preview) => preview,
            Err(error) => return error.into(),
        };
        if context.if_plan.as_ref().is_some_and(|wanted| *wanted != preview.plan_hash) {
            let current = preview.plan_hash;
            return CommandError::<Refusal>::PlanMoved { current }.into();
        }
        let position = self.state.ledger.head();
        let plan = self.plan(context, preview);
        Instead::Plan(Box::new(self.answer(StatusCode::OK, plan, position)))
    }

    fn plan<T>(&self, context: &Context, preview: Preview<T>) -> Plan {
        let mut checks = vec!["permission"];
        checks.extend(context.if_match.as_ref().map(|_| "version"));
        checks.extend(context.if_plan.as_ref().map(|_| "plan"));
        checks.push("rules");
        let validations = checks.into_iter().map(|check| Validation { check, holds: true });
        Plan {
            validations: validations.collect(),
            permissions: self.demanded.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            side_effects: preview.events.iter().filter_map(side_effect).collect(),
            // No kind of node calls a provider that is paid by use.
            estimated_cost_microusd: 0,
            plan_hash: preview.plan_hash,
            events: preview.events.into_iter().map(planned).collect(),
        }
    }
}

fn planned(event: PreviewedEvent) -> PlannedEvent {
    PlannedEvent {
        stream_id: event.stream.0,
        workspace_id: event.workspace.0,
        category: event.category,
        version: event.version.0,
        r#type: event.r#type,
        schema_version: event.schema_version,
        data: RawValue::from_string(event.payload).expect("a payload is written by serde_json"),
    }
}

/// What the policies do when they see an event (`domain/src/policy.rs`), and what workers do.
fn side_effect(event: &PreviewedEvent) -> Option<SideEffect> {
    let (kind, detail) = match event.r#type {
        "intake_paused" => ("executions_paused", "its open executions are paused"),
        "intake_activated" => ("executions_resumed", "executions that its pause had paused go on"),
        "intake_deactivated" | "workflow_deleted" => {
            ("executions_cancelled", "its open executions are cancelled")
        }
        "execution_dispatched" => ("execution_runs", "a worker runs it"),
        "execution_requested" => {
            ("execution_waits_for_slot", "it is run once its limit has a slot for it")
        }
        "workspace_deletion_requested" => (
            "executions_cancelled",
            "its open executions are cancelled, and its triggers are off until it is restored",
        ),
        "member_removed" => ("sockets_closed", "the member's open sockets are closed"),
        "invitation_sent" | "invitation_renewed" => {
            ("mail_sent", "a mail with a link goes to the address")
        }
        _ => return None,
    };
    Some(SideEffect { stream_id: event.stream.0, kind, detail })
}

/// The hash of a request that asks for nothing beside its path and these words.
#[must_use]
pub fn hash_of(words: &[&str]) -> [u8; 32] {
    Sha256::digest(words.join("\u{1f}")).into()
}
