//! Workflows: making, reading, editing and deleting them; what else is done with them is in the files below.
//!
//! The definition, status and intake of an answer are the fold of the workflow's own stream; only what its runs made of it (counts, the
//! last run, progress) comes from the read model. So an answer never shows an older definition than the caller has seen.

mod body;
mod compare;
mod exchange;
mod lifecycle;
mod node_run;
mod references;
mod scripts;
mod start;
mod validation;
mod versions;
mod view;

use axum::{extract::State, http::StatusCode, response::IntoResponse};
use ledgerline_commands::{
    CommandError, Context, Executed, Loaded, Scope, Target,
    definitions::{keep, look_up},
};
use ledgerline_domain::{
    id::{UserId, WorkflowId, WorkspaceId},
    permission::Permission,
    workflow::{
        Content, CreateWorkflow, NewDraft, SaveDraft, Workflow, WorkflowCommand, WorkflowRejection,
    },
};
use ledgerline_projections::{
    Model, Page, executions,
    values::{ExecutionStatus, Intake, WorkflowStatus},
    workflows::{self as rows, WorkflowFilter, WorkflowItem, WorkflowSort},
};
use serde::Deserialize;
use utoipa::IntoParams;

pub(crate) use self::references::demand as demand_references;
use self::view::Figures;
pub use self::{
    body::{DefinitionBody, WorkflowBody},
    compare::*,
    exchange::*,
    lifecycle::*,
    node_run::*,
    start::*,
    validation::*,
    versions::*,
    view::WorkflowView,
};
use crate::{
    access,
    answer::Answer,
    app::AppState,
    extract::{AsOf, Caller, JsonBody, ListQuery, Path, Query, WorkspaceSelector},
    identity::api_key,
    ledger::Ledger,
    problem::{Problem, ProblemKind},
    reading::{self, Reading},
    refusal::Refusal,
    writing::{Reply, Writing, hash_of},
};

/// Which workflows.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WorkflowFilters {
    /// Only with this status.
    #[param(inline)]
    pub status: Option<WorkflowStatus>,
    /// Only with this intake.
    #[param(inline)]
    pub intake: Option<Intake>,
    /// Only with this tag; given several times, only with all of them.
    pub tag: Vec<String>,
    /// Only with this text in name or description, in any case.
    pub search: Option<String>,
    /// Only made by this person.
    #[param(value_type = Option<Uuid>)]
    pub created_by: Option<UserId>,
}

/// How to delete a workflow that has open executions.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeleteOptions {
    /// Whether its open executions are cancelled; otherwise they keep it from being deleted.
    pub cancel_open: bool,
}

/// The workflows of a workspace, without their definitions.
#[utoipa::path(get, path = "/workflows", tag = "workflows",
    params(WorkflowFilters, reading::PageParams, reading::WorkspaceParams),
    responses((status = 200, body = Page<WorkflowItem>)))]
pub async fn list(
    State(state): State<AppState>,
    reading: Reading,
    workspace: WorkspaceSelector,
    list: ListQuery,
    Query(filters): Query<WorkflowFilters>,
) -> Result<Answer<Page<WorkflowItem>>, Problem> {
    let workspace = workspace.or_default(&reading.caller);
    access::demand(&state, &reading.caller, workspace, Permission::ViewWorkflow, "workspace")
        .await?;
    let page = reading::page(
        list,
        &[
            ("-created_at", WorkflowSort::Newest),
            ("created_at", WorkflowSort::Oldest),
            ("name", WorkflowSort::Name),
            ("-name", WorkflowSort::NameDescending),
            ("-updated_at", WorkflowSort::LastEdited),
            ("updated_at", WorkflowSort::FirstEdited),
        ],
    )?;
    let WorkflowFilters { status, intake, tag, search, created_by } = filters;
    let filter = WorkflowFilter {
        workspace_id: workspace.0,
        status,
        intake,
        tags: tag,
        search: reading::search(search)?,
        created_by: created_by.map(|user| user.0),
    };
    let position = reading.rows(&[Model::Workflows]).await?;
    Ok(reading.answer(rows::list(&state.pool, &filter, &page).await?, position))
}

/// Make a workflow, as a draft. Everything that is wrong with it is answered at once (422).
#[utoipa::path(post, path = "/workflows", tag = "workflows", params(reading::WorkspaceParams),
    request_body = WorkflowBody, responses((status = 201, body = WorkflowView)))]
pub async fn create(
    State(state): State<AppState>,
    writing: Writing,
    workspace: WorkspaceSelector,
    JsonBody { value: body, hash }: JsonBody<WorkflowBody>,
) -> Reply {
    let workspace = workspace.or_default(&writing.caller);
    // Before its body is looked at: who is no member learns nothing, and makes nobody parse.
    access::demand(&state, &writing.caller, workspace, Permission::CreateWorkflow, "workspace")
        .await?;
    let draft = body.draft().await?;
    references::demand(&state, workspace, &draft.definition).await?;
    let context = writing.context(workspace, hash);
    make(&state, &writing, context, workspace, None, draft).await
}

/// Makes a workflow of a draft in a workspace where the caller may.
async fn make(
    state: &AppState,
    writing: &Writing,
    mut context: Context,
    workspace_id: WorkspaceId,
    parent_workflow_id: Option<WorkflowId>,
    mut draft: NewDraft,
) -> Reply {
    let id = WorkflowId(state.commands.clock().new_id());
    draft.definition = keep(state.commands.log().as_ref(), id, draft.definition).await?;
    context.made_ids.push(id.0);
    let create = &CreateWorkflow { workspace_id, parent_workflow_id, draft };
    let plan = |scope: Scope| async move {
        let needed = Permission::CreateWorkflow;
        writing.authorise(&scope, workspace_id, needed, "workspace").await?;
        Ok((Target::new(id, workspace_id), WorkflowCommand::Create(create.clone())))
    };
    let made = writing.execute::<Workflow, _, _>(&context, plan).await?;
    let id = WorkflowId(made.stream.0);
    let content = made.state.content().ok_or_else(|| Problem::not_found("workflow"))?;
    let view = view::of(&state.ledger, id, &made.state, content, made.version, Figures::none());
    let answer = writing.answer(StatusCode::CREATED, view.await?, made.position);
    Ok(answer.versioned(made.version).at(format!("/api/v1/workflows/{id}")).into_response())
}

/// One workflow with its latest definition, as it is or was. A public one is shown to everybody who is signed in, without its runs.
#[utoipa::path(get, path = "/workflows/{id}", tag = "workflows", params(("id" = Uuid, Path), reading::AsOfParams),
    responses((status = 200, body = WorkflowView)))]
pub async fn get(
    State(state): State<AppState>,
    reading: Reading,
    Path(id): Path<WorkflowId>,
    at: AsOf,
) -> Result<Answer<WorkflowView>, Problem> {
    if let Some((at, position)) = reading.past(&state, at).await? {
        let (_, audience) = readable(&state, &reading.caller, id).await?;
        let then = state.commands.load_at::<Workflow>(id, at).await?;
        let content = shown(&then.state, audience)?;
        let view = view::of(&state.ledger, id, &then.state, content, then.version, Figures::none());
        return Ok(reading.answer(view.await?, position).versioned(then.version));
    }
    let position = reading.rows(&[Model::Workflows]).await?;
    let (now, audience) = readable(&state, &reading.caller, id).await?;
    let content = shown(&now.state, audience)?;
    let figures = match audience {
        Audience::Members => Figures::of(&state.pool, id).await?,
        Audience::Everybody => Figures::none(),
    };
    let view = view::of(&state.ledger, id, &now.state, content, now.version, figures).await?;
    Ok(reading.answer(view, position).versioned(now.version))
}

/// Save the next version of a workflow. What the latest one already holds changes nothing.
#[utoipa::path(put, path = "/workflows/{id}", tag = "workflows", params(("id" = Uuid, Path)),
    request_body = WorkflowBody, responses((status = 200, body = WorkflowView)))]
pub async fn update(
    State(state): State<AppState>,
    writing: Writing,
    Path(id): Path<WorkflowId>,
    JsonBody { value: body, hash }: JsonBody<WorkflowBody>,
) -> Reply {
    let workspace = workspace_of(&state, id).await?;
    access::demand(&state, &writing.caller, workspace, Permission::EditWorkflow, "workflow")
        .await?;
    let mut draft = body.draft().await?;
    references::demand(&state, workspace, &draft.definition).await?;
    draft.definition = keep(state.commands.log().as_ref(), id, draft.definition).await?;
    let draft = &draft;
    let context = writing.context(workspace, hash);
    apply(&state, &writing, context, id, workspace, |_| {
        WorkflowCommand::SaveDraft(SaveDraft { draft: draft.clone() })
    })
    .await
}

/// Delete a workflow. Its executions stay readable; open ones keep it from being deleted unless they are to be cancelled.
#[utoipa::path(delete, path = "/workflows/{id}", tag = "workflows", params(("id" = Uuid, Path), DeleteOptions),
    responses((status = 204)))]
pub async fn delete(
    State(state): State<AppState>,
    writing: Writing,
    Path(id): Path<WorkflowId>,
    Query(DeleteOptions { cancel_open }): Query<DeleteOptions>,
) -> Reply {
    let workspace = workspace_of(&state, id).await?;
    access::demand(&state, &writing.caller, workspace, Permission::DeleteWorkflow, "workflow")
        .await?;
    let context = writing.context(workspace, hash_of(&[&cancel_open.to_string()]));
    let open = if cancel_open { 0 } else { open_executions(&state, workspace, id).await? };
    let writing = &writing;
    let plan = |scope: Scope| async move {
        let needed = Permission::DeleteWorkflow;
        writing.authorise(&scope, workspace, needed, "workflow").await?;
        if open > 0 && !matches!(*scope.read::<Workflow>(id).await?.state, Workflow::Deleted(_)) {
            return Err(CommandError::Rejected(Refusal::Rule {
                rule: "open_executions",
                detail: format!(
                    "{open} executions of the workflow are open: end them, or delete with cancel_open=true"
                ),
            }));
        }
        Ok((Target::existing(id), WorkflowCommand::Delete))
    };
    let deleted = writing.execute::<Workflow, _, _>(&context, plan).await?;
    let answer = writing.answer(StatusCode::NO_CONTENT, (), deleted.position);
    Ok(answer.versioned(deleted.version).into_response())
}

/// How many executions of a workflow are open, of those that were requested before this was asked. One that is requested at the
/// very same time is cancelled by the deletion, as if it had come after it.
async fn open_executions(
    state: &AppState,
    workspace: WorkspaceId,
    id: WorkflowId,
) -> Result<i64, Problem> {
    state.ledger.reflecting(&[Model::Executions], state.ledger.head()).await?;
    let counts = executions::counts(&state.pool, workspace.0, Some(id.0)).await?;
    let open = |status: ExecutionStatus| !status.ended();
    Ok(counts.iter().filter(|count| open(count.status)).map(|count| count.count).sum())
}

/// Gives an existing workflow the command that its state calls for, and answers with the workflow as it is then.
async fn apply(
    state: &AppState,
    writing: &Writing,
    mut context: Context,
    id: WorkflowId,
    workspace: WorkspaceId,
    command: impl Fn(&Workflow) -> WorkflowCommand + Sync,
) -> Reply {
    let figures = Figures::of(&state.pool, id).await?;
    context.answer = figures.kept(&context);
    let command = &command;
    let plan = |scope: Scope| async move {
        writing.authorise(&scope, workspace, Permission::EditWorkflow, "workflow").await?;
        let now = scope.peek::<Workflow>(id).await?;
        let mut command = command(&now.state);
        if let WorkflowCommand::Publish(publish) = &mut command {
            look_up(state.commands.log().as_ref(), id, &now.state, publish).await?;
        }
        Ok((Target::existing(id), command))
    };
    let executed = writing.execute::<Workflow, _, _>(&context, plan).await?;
    let figures = figures.of_first_time(&executed);
    answer(&state.ledger, writing, id, &executed, figures).await
}

async fn answer(
    ledger: &Ledger,
    writing: &Writing,
    id: WorkflowId,
    executed: &Executed<Workflow>,
    figures: Figures,
) -> Reply {
    let content = executed.state.content().ok_or_else(|| Problem::not_found("workflow"))?;
    let view = view::of(ledger, id, &executed.state, content, executed.version, figures).await?;
    let answer = writing.answer(StatusCode::OK, view, executed.position);
    Ok(answer.versioned(executed.version).into_response())
}

/// The workspace of a workflow, also of a deleted one. It never changes, so it need not be looked up anew.
async fn workspace_of(state: &AppState, id: WorkflowId) -> Result<WorkspaceId, Problem> {
    let loaded = state.commands.load_cached::<Workflow>(id).await.map_err(hidden)?;
    let content = loaded.state.content().ok_or_else(|| Problem::not_found("workflow"))?;
    Ok(content.workspace_id)
}

/// The id of another kind of thing is that of no workflow.
fn hidden(error: ledgerline_commands::LoadError) -> Problem {
    match error {
        ledgerline_commands::LoadError::WrongCategory { .. } => Problem::not_found("workflow"),
        other => other.into(),
    }
}

/// To whom a definition is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Audience {
    /// The caller is a member of its workspace.
    Members,
    /// The caller is signed in, and the workflow must be public.
    Everybody,
}

/// A workflow as the log holds it now, and as whom the caller sees it.
async fn readable(
    state: &AppState,
    caller: &Caller,
    id: WorkflowId,
) -> Result<(Loaded<Workflow>, Audience), Problem> {
    let now = state.commands.load::<Workflow>(id).await.map_err(hidden)?;
    let content = now.state.content().ok_or_else(|| Problem::not_found("workflow"))?;
    let workspace = content.workspace_id;
    let member = access::demand(state, caller, workspace, Permission::ViewWorkflow, "workflow");
    match member.await {
        Ok(_) => Ok((now, Audience::Members)),
        Err(problem) if problem.kind() == ProblemKind::NotFound => {
            caller.demand_reach(workspace).map_err(|_| Problem::not_found("workflow"))?;
            caller.demand_scope(api_key::Scope::Read)?;
            shown(&now.state, Audience::Everybody)?;
            Ok((now, Audience::Everybody))
        }
        Err(problem) => Err(problem),
    }
}

/// The content of a workflow that exists and is not deleted, where its audience may see it.
fn shown(workflow: &Workflow, audience: Audience) -> Result<&Content, Problem> {
    let content = match workflow {
        Workflow::Absent | Workflow::Deleted(_) => None,
        Workflow::Draft(content)
        | Workflow::Published { content, .. }
        | Workflow::Archived(content) => Some(content),
    };
    content
        .filter(|content| audience == Audience::Members || content.latest().is_public)
        .ok_or_else(|| Refusal::from(WorkflowRejection::NotFound).into())
}
