//! The versions of a workflow: every one that was ever saved, what they are called, and copies made of them.

use axum::extract::State;
use chrono::{DateTime, Utc};
use ledgerline_commands::{
    CommandError, Scope, Target,
    definitions::{at_hand, keep},
};
use ledgerline_domain::{
    graph::Definition,
    id::{UserId, WorkflowId},
    permission::Permission,
    workflow::{
        Content, NameVersion, NewDraft, SaveDraft, SavedVersion, VersionName, Workflow,
        WorkflowCommand, WorkflowRejection, WorkflowVersion,
    },
};
use ledgerline_projections::Page;
use ledgerline_store::StreamId;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::{Audience, Figures, WorkflowView, make, readable, shown, view::Parts, workspace_of};
use crate::{
    access,
    answer::Answer,
    app::AppState,
    extract::{JsonBody, ListQuery, Path, WorkspaceSelector},
    ledger::Touch,
    problem::Problem,
    reading::{self, Reading},
    refusal::Refusal,
    writing::{Reply, Writing, hash_of},
};

/// A version in a list, without its definition.
#[derive(Debug, Serialize, ToSchema)]
pub struct VersionItem {
    /// Its number, from 1.
    pub version: i32,
    /// Whether it is the one that triggers run.
    pub published: bool,
    /// What it is called; no other version of the workflow is called so.
    pub label: Option<String>,
    /// What was said about it.
    pub note: Option<String>,
    /// The name that the workflow had.
    pub name: String,
    /// The description that it had.
    pub description: String,
    /// The tags that it had.
    pub tags: Vec<String>,
    /// Whether it was shown to everybody who is signed in.
    pub is_public: bool,
    /// Who saved it; none where a program did.
    #[schema(value_type = Option<Uuid>)]
    pub created_by: Option<UserId>,
    /// When it was saved.
    pub created_at: DateTime<Utc>,
}

/// What to call a version.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct VersionNameRequest {
    /// A short name, which no other version has; left out it stays, an empty one takes it away.
    #[schema(max_length = 64, example = "1.0")]
    pub label: Option<String>,
    /// What is to be said about it; left out it stays, an empty one takes it away.
    #[schema(max_length = 2_000)]
    pub note: Option<String>,
}

/// A version with its definition.
#[derive(Debug, Serialize, ToSchema)]
pub struct VersionView {
    /// The workflow.
    #[schema(value_type = Uuid)]
    pub workflow_id: WorkflowId,
    /// Its number, from 1.
    pub version: i32,
    /// Whether it is the one that triggers run.
    pub published: bool,
    /// What it is called; no other version of the workflow is called so.
    pub label: Option<String>,
    /// What was said about it.
    pub note: Option<String>,
    /// The name that the workflow had.
    pub name: String,
    /// The description that it had.
    pub description: String,
    /// Its nodes.
    #[schema(value_type = Vec<Object>)]
    pub nodes: Box<RawValue>,
    /// What led to what.
    #[schema(value_type = Vec<Object>)]
    pub connections: Box<RawValue>,
    /// What held for a whole run.
    #[schema(value_type = Object)]
    pub settings: Box<RawValue>,
    /// The tags that it had.
    pub tags: Vec<String>,
    /// Whether it was shown to everybody who is signed in.
    pub is_public: bool,
    /// Who saved it; none where a program did.
    #[schema(value_type = Option<Uuid>)]
    pub created_by: Option<UserId>,
    /// When it was saved.
    pub created_at: DateTime<Utc>,
}

/// How to copy a workflow.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DuplicateRequest {
    /// What the copy is called; `Copy of …` where it is left out.
    #[schema(min_length = 1, max_length = 255)]
    pub name: Option<String>,
}

/// The versions of a workflow, the newest first.
#[utoipa::path(get, path = "/workflows/{id}/versions", tag = "workflows",
    params(("id" = Uuid, Path), reading::PageParams), responses((status = 200, body = Page<VersionItem>)))]
pub async fn versions(
    State(state): State<AppState>,
    reading: Reading,
    Path(id): Path<WorkflowId>,
    list: ListQuery,
) -> Result<Answer<Page<VersionItem>>, Problem> {
    list.sort_among(&["version"])?;
    let position = reading.log();
    let (now, audience) = readable(&state, &reading.caller, id).await?;
    let content = versioned(&now.state, audience)?;
    let latest = content.latest_version().0;
    // A version never goes, so the number before which a page begins stays true however many are saved meanwhile.
    let before = match &list.cursor {
        None => latest + 1,
        Some(cursor) => {
            cursor.parse::<i32>().ok().filter(|before| *before > 0).ok_or_else(|| {
                Problem::invalid("/cursor", "invalid", "is not a cursor of this list")
            })?
        }
    };
    let skip = i32::try_from(list.offset).unwrap_or(i32::MAX);
    let first = before.min(latest + 1).saturating_sub(1).saturating_sub(skip).max(0);
    let limit = i32::try_from(list.limit).unwrap_or(i32::MAX);
    let last = first.saturating_sub(limit).max(0);
    let touches = state.ledger.drafts(StreamId(id.0), latest).await?;
    let published = now.state.published_version();
    let items = (last + 1..=first).rev().filter_map(|number| {
        let version = WorkflowVersion(number);
        let draft = content.version(version)?;
        let touch = touches.get(usize::try_from(number - 1).ok()?)?;
        let name = content.name_of(version);
        Some(item(version, draft, name, *touch, published == Some(version)))
    });
    let page = Page {
        items: items.collect(),
        next_cursor: (last > 0).then(|| (last + 1).to_string()),
        total: i64::from(latest),
        total_is_estimate: false,
        limit: i64::from(list.limit),
        offset: i64::from(skip),
    };
    Ok(reading.answer(page, position).versioned(now.version))
}

/// One version of a workflow, with its definition.
#[utoipa::path(get, path = "/workflows/{id}/versions/{version}", tag = "workflows",
    params(("id" = Uuid, Path), ("version" = i32, Path)), responses((status = 200, body = VersionView)))]
pub async fn version(
    State(state): State<AppState>,
    reading: Reading,
    Path((id, number)): Path<(WorkflowId, i32)>,
) -> Result<Answer<VersionView>, Problem> {
    let position = reading.log();
    let (now, audience) = readable(&state, &reading.caller, id).await?;
    let content = versioned(&now.state, audience)?;
    let version = WorkflowVersion(number);
    let draft = state.ledger.stored(id, content, version).await?;
    let VersionName { label, note } = content.name_of(version);
    let touches = state.ledger.drafts(StreamId(id.0), number).await?;
    let index = usize::try_from(number - 1).unwrap_or(usize::MAX);
    let touch = touches.get(index).ok_or_else(|| Problem::not_found("version"))?;
    let Parts { nodes, connections, settings } = Parts::of_version(draft)?;
    let view = VersionView {
        workflow_id: id,
        version: number,
        published: now.state.published_version() == Some(version),
        label,
        note,
        name: draft.name.clone(),
        description: draft.description.clone(),
        nodes,
        connections,
        settings,
        tags: draft.tags.clone(),
        is_public: draft.is_public,
        created_by: touch.by,
        created_at: touch.at,
    };
    Ok(reading.answer(view, position))
}

/// Call a version something: a label that no other version has, and a note.
#[utoipa::path(patch, path = "/workflows/{id}/versions/{version}", tag = "workflows",
    params(("id" = Uuid, Path), ("version" = i32, Path)), request_body = VersionNameRequest,
    responses((status = 200, body = WorkflowView)))]
pub async fn name_version(
    State(state): State<AppState>,
    writing: Writing,
    Path((id, number)): Path<(WorkflowId, i32)>,
    JsonBody { value: VersionNameRequest { label, note }, hash }: JsonBody<VersionNameRequest>,
) -> Reply {
    let workspace = workspace_of(&state, id).await?;
    let context = writing.context(workspace, hash);
    let command = NameVersion { version: WorkflowVersion(number), label, note };
    super::apply(&state, &writing, context, id, workspace, |_| {
        WorkflowCommand::NameVersion(command.clone())
    })
    .await
}

/// Save an earlier version again, as the next one.
#[utoipa::path(post, path = "/workflows/{id}/versions/{version}/restore", tag = "workflows",
    params(("id" = Uuid, Path), ("version" = i32, Path)), responses((status = 200, body = WorkflowView)))]
pub async fn restore(
    State(state): State<AppState>,
    writing: Writing,
    Path((id, number)): Path<(WorkflowId, i32)>,
) -> Reply {
    let workspace = workspace_of(&state, id).await?;
    let figures = Figures::of(&state.pool, id).await?;
    let mut context = writing.context(workspace, hash_of(&[]));
    context.answer = figures.kept(&context);
    let (writer, log) = (&writing, state.commands.log().as_ref());
    let plan = |scope: Scope| async move {
        writer.authorise(&scope, workspace, Permission::EditWorkflow, "workflow").await?;
        let now = scope.read::<Workflow>(id).await?;
        let rejected = |refused| CommandError::Rejected(Refusal::from(refused));
        let version = WorkflowVersion(number);
        let content =
            now.state.content().ok_or_else(|| rejected(WorkflowRejection::VersionNotFound))?;
        at_hand(log, id, content, version).await?;
        let draft = content.version(version).ok_or(WorkflowRejection::VersionNotFound);
        let mut draft = draft.and_then(again).map_err(rejected)?;
        draft.definition = keep(log, id, draft.definition).await?;
        Ok((Target::existing(id), WorkflowCommand::SaveDraft(SaveDraft { draft })))
    };
    let executed = writing.execute::<Workflow, _, _>(&context, plan).await?;
    let figures = figures.of_first_time(&executed);
    super::answer(&state.ledger, &writing, id, &executed, figures).await
}

/// Copy a workflow with its latest definition, as a draft. A public one may be copied by everybody who is signed in.
#[utoipa::path(post, path = "/workflows/{id}/duplicate", tag = "workflows",
    params(("id" = Uuid, Path), reading::WorkspaceParams), request_body = Option<DuplicateRequest>,
    responses((status = 201, body = WorkflowView)))]
pub async fn duplicate(
    State(state): State<AppState>,
    writing: Writing,
    Path(id): Path<WorkflowId>,
    WorkspaceSelector(selected): WorkspaceSelector,
    body: Option<JsonBody<DuplicateRequest>>,
) -> Reply {
    let (request, hash) = body.map_or_else(
        || (DuplicateRequest::default(), hash_of(&[])),
        |body| (body.value, body.hash),
    );
    let (now, audience) = readable(&state, &writing.caller, id).await?;
    let content = shown(&now.state, audience)?;
    // A member's copy stays beside the original; whoever only sees it takes it home.
    let workspace = selected.unwrap_or_else(|| match audience {
        Audience::Members => content.workspace_id,
        Audience::Everybody => writing.caller.default_workspace(),
    });
    access::demand(&state, &writing.caller, workspace, Permission::CreateWorkflow, "workspace")
        .await?;
    let latest = state.ledger.stored(id, content, content.latest_version()).await?;
    let mut draft = again(latest).map_err(Refusal::from)?;
    draft.name = request.name.unwrap_or_else(|| copied_name(&draft.name));
    draft.is_public = false;
    let context = writing.context(workspace, hash);
    make(&state, &writing, context, workspace, Some(id), draft).await
}

/// Versions are shown to members alone: what is public is what its author shows now, not what was tried before.
pub(super) fn versioned(workflow: &Workflow, audience: Audience) -> Result<&Content, Problem> {
    match audience {
        Audience::Members => shown(workflow, audience),
        Audience::Everybody => Err(Problem::not_found("workflow")),
    }
}

fn item(
    version: WorkflowVersion,
    draft: &SavedVersion,
    name: VersionName,
    touch: Touch,
    published: bool,
) -> VersionItem {
    let VersionName { label, note } = name;
    VersionItem {
        version: version.0,
        published,
        label,
        note,
        name: draft.name.clone(),
        description: draft.description.clone(),
        tags: draft.tags.clone(),
        is_public: draft.is_public,
        created_by: touch.by,
        created_at: touch.at,
    }
}

/// A stored draft as one to be saved. It may have been saved under rules that have become stricter since.
fn again(draft: &SavedVersion) -> Result<NewDraft, WorkflowRejection> {
    let text = draft.definition().cloned().ok_or(WorkflowRejection::DefinitionElsewhere)?;
    let definition = Definition::parse(text).map_err(|_| WorkflowRejection::DefinitionInvalid)?;
    Ok(NewDraft {
        name: draft.name.clone(),
        description: draft.description.clone(),
        definition,
        tags: draft.tags.clone(),
        is_public: draft.is_public,
    })
}

fn copied_name(name: &str) -> String {
    let room = ledgerline_domain::limits::MAX_NAME_CHARS;
    format!("Copy of {name}").chars().take(room).collect()
}
