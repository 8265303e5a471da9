//! An imported execution run again here: the same input on the same definition, or on a workflow that is there, and both side by side.

use axum::{extract::State, http::StatusCode, response::IntoResponse as _};
use chrono::{DateTime, Utc};
use ledgerline_commands::{
    CommandError, Context, Scope, Target,
    definitions::keep,
    start::{Repeat, repeat},
};
use ledgerline_domain::{
    execution::{Comparison, Execution, NodeDelta, compare},
    id::{ExecutionId, UserId, WorkflowId, WorkspaceId, derived},
    json::Json,
    limits::MAX_NAME_CHARS,
    permission::Permission,
    workflow::{CreateWorkflow, Workflow, WorkflowCommand, WorkflowVersion},
};
use ledgerline_projections::Page;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{ImportedExecutionItem, NOUN, find, find_row};
use crate::{
    access::demand,
    answer::Answer,
    app::AppState,
    extract::{JsonBody, ListQuery, Path, Query},
    imported::ImportedExecution,
    problem::Problem,
    reading::Reading,
    routes::{
        executions::{
            answer,
            diff::{DiffView, RunView, Side, outline, run, side_by_side},
            view::word,
        },
        workflows::{WorkflowBody, demand_references},
    },
    writing::{Reply, Writing, hash_of},
};

/// Runs of one imported execution that are listed.
const MAX_RUNS: i64 = 200;

/// Places in outputs that may be named as those that need not be the same.
const MAX_IGNORED: usize = 20;

/// What an imported execution is run on.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RunRegression {
    /// A workflow of the same workspace; left out for one that is made of the file's own definition, once.
    #[schema(value_type = Option<Uuid>)]
    pub workflow_id: Option<WorkflowId>,
    /// Which version of it; left out for the one that a run by hand has.
    #[schema(value_type = Option<i32>)]
    pub version: Option<WorkflowVersion>,
}

/// A run that is held against an imported execution.
#[derive(Debug, Serialize, ToSchema)]
pub struct RegressionItem {
    /// The run.
    pub execution_id: Uuid,
    /// Who started it.
    #[schema(value_type = Uuid)]
    pub started_by: UserId,
    /// When.
    pub started_at: DateTime<Utc>,
}

/// What of a regression is shown.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default, deny_unknown_fields)]
pub struct RegressionQuery {
    /// Also what is the same in both.
    pub all: bool,
    /// JSON Pointers to places in outputs and inputs that need not be the same, with all below them; `/duration_ms` where it is left out.
    pub ignore: Vec<String>,
}

/// Whether a run did what an imported execution had done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It has not ended.
    Pending,
    /// It did, node by node.
    Same,
    /// It did not.
    Differs,
}

/// An imported execution (`a`) and a run here (`b`) side by side.
#[derive(Debug, Serialize, ToSchema)]
pub struct RegressionView {
    /// Whether the run did the same.
    pub verdict: Verdict,
    /// The nodes that did not, at most a hundred.
    pub differing: Vec<String>,
    /// Node by node.
    pub diff: DiffView,
}

/// Nodes that are named as differing.
const MAX_DIFFERING: usize = 100;

/// Run an imported execution again: the same input, from the same trigger, on a workflow that is made of its definition, or on the one
/// that is named. The steps are done for real.
#[utoipa::path(post, path = "/imported-executions/{id}/regressions", tag = "executions", params(("id" = Uuid, Path)),
    request_body = Option<RunRegression>, responses((status = 202, body = crate::routes::executions::view::ExecutionView)))]
pub async fn start(
    State(state): State<AppState>,
    writing: Writing,
    reading: Reading,
    Path(id): Path<Uuid>,
    body: Option<JsonBody<RunRegression>>,
) -> Reply {
    let (wanted, hash) = body
        .map_or_else(|| (RunRegression::default(), hash_of(&[])), |body| (body.value, body.hash));
    let (item, file) = find(&state, &reading, id, Permission::StartExecution).await?;
    let workspace = item.workspace_id;
    let workflow_id = match wanted.workflow_id {
        Some(workflow) => {
            let loaded = state.commands.load::<Workflow>(workflow).await?;
            let here = loaded.origin.is_some_and(|origin| origin.workspace.0 == workspace.0);
            if !here {
                return Err(Problem::invalid(
                    "/workflow_id",
                    "workflow_unknown",
                    "is no workflow of this workspace",
                )
                .into());
            }
            workflow
        }
        None => own_workflow(&state, &writing, &item, &file).await?,
    };
    let request = file.execution.run().map(|run| &run.request);
    let request = request.ok_or_else(|| Problem::not_found(NOUN))?;
    let mut context = writing.context(workspace, hash);
    let execution_id = ExecutionId(state.commands.clock().new_id());
    context.made_ids.push(execution_id.0);
    let wanted = &Repeat {
        execution_id,
        workflow_id,
        version: wanted.version,
        input: request.input.clone(),
        trigger_node: request.trigger_node.clone(),
    };
    let writer = &writing;
    let plan = |scope: Scope| async move {
        writer.authorise(&scope, workspace, Permission::StartExecution, NOUN).await?;
        repeat(&scope, wanted).await.map_err(CommandError::widen)
    };
    let executed = writing.execute::<Execution, _, _>(&context, plan).await?;
    sqlx::query!(
        "INSERT INTO imported_execution_runs (imported_id, execution_id, started_by, started_at) \
         SELECT $1, $2, $3, $4 WHERE EXISTS (SELECT FROM imported_executions WHERE id = $1) \
         ON CONFLICT ON CONSTRAINT imported_execution_runs_pkey DO NOTHING",
        id,
        executed.stream.0,
        writing.caller.user_id.0,
        state.clock.now()
    )
    .execute(&state.pool)
    .await
    .map_err(Problem::from)?;
    let location = format!("/api/v1/imported-executions/{id}/regressions/{}", executed.stream.0);
    let answer = answer(&state, &writing, executed, StatusCode::ACCEPTED).await?;
    Ok(answer.at(location).into_response())
}

/// List the runs that are held against an imported execution, the newest first, at most 200.
#[utoipa::path(get, path = "/imported-executions/{id}/regressions", tag = "executions", params(("id" = Uuid, Path)),
    responses((status = 200, body = Page<RegressionItem>)))]
pub async fn list(
    State(state): State<AppState>,
    reading: Reading,
    Path(id): Path<Uuid>,
) -> Result<Answer<Page<RegressionItem>>, Problem> {
    let position = reading.log();
    may_see(&state, &reading, id).await?;
    let rows = sqlx::query_file!("sql/imported_executions/runs.sql", id, MAX_RUNS);
    let items: Vec<RegressionItem> = rows
        .fetch_all(&state.pool)
        .await?
        .into_iter()
        .map(|row| RegressionItem {
            execution_id: row.execution_id,
            started_by: UserId(row.started_by),
            started_at: row.started_at,
        })
        .collect();
    let total = i64::try_from(items.len()).unwrap_or(i64::MAX);
    let page = Page {
        items,
        next_cursor: None,
        total,
        total_is_estimate: total == MAX_RUNS,
        limit: MAX_RUNS,
        offset: 0,
    };
    Ok(reading.answer(page, position))
}

/// Hold a run against the imported execution, node by node: whether it did the same, and where it did not.
#[utoipa::path(get, path = "/imported-executions/{id}/regressions/{execution_id}", tag = "executions",
    params(
        ("id" = Uuid, Path),
        ("execution_id" = Uuid, Path),
        RegressionQuery,
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, body = RegressionView)))]
pub async fn get(
    State(state): State<AppState>,
    reading: Reading,
    Path((id, execution_id)): Path<(Uuid, ExecutionId)>,
    Query(query): Query<RegressionQuery>,
    paging: ListQuery,
) -> Result<Answer<RegressionView>, Problem> {
    crate::routes::executions::nodes::by_cursor(&paging)?;
    if query.ignore.len() > MAX_IGNORED {
        let detail = format!("names at most {MAX_IGNORED} places");
        return Err(Problem::invalid("/ignore", "out_of_range", detail));
    }
    let position = reading.log();
    let (item, file) = find(&state, &reading, id, Permission::ViewExecution).await?;
    let found = crate::routes::executions::find(&state, &reading, execution_id).await?;
    if found.state.run().is_none_or(|run| run.request.workspace_id != item.workspace_id) {
        return Err(Problem::not_found("execution"));
    }
    let usual = [String::from("/duration_ms")];
    let ignored = if query.ignore.is_empty() { &usual[..] } else { &query.ignore };
    let a = Side { run: imported_run(&file)?, outline: file.outline() };
    let outline = outline(&state, execution_id, &found).await?;
    let b = Side { run: run(execution_id, &found)?, outline };
    let comparison = compare(&a.outline, &b.outline);
    let differing: Vec<String> = differing(&comparison, ignored);
    let verdict = match (found.state.has_ended(), differing.is_empty()) {
        (false, _) => Verdict::Pending,
        (true, true) => Verdict::Same,
        (true, false) => Verdict::Differs,
    };
    let diff = side_by_side(a, b, comparison, query.all, &paging)?;
    Ok(reading.answer(RegressionView { verdict, differing, diff }, position))
}

/// The paths of what did not do the same; the run itself has the empty one.
fn differing(comparison: &Comparison, ignored: &[String]) -> Vec<String> {
    let differs = |node: &&NodeDelta| {
        let only_values = node.changed.iter().all(|word| matches!(*word, "input" | "output"));
        let excused = |delta: &Option<ledgerline_domain::execution::ValueDelta>| {
            delta.as_ref().is_none_or(|delta| {
                let is_ignored = |pointer: &str| {
                    ignored.iter().any(|place| {
                        pointer
                            .strip_prefix(place.as_str())
                            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                    })
                };
                !delta.truncated && delta.changes.iter().all(|change| is_ignored(&change.pointer))
            })
        };
        let is_excused = only_values && excused(&node.input) && excused(&node.output);
        !node.changed.is_empty() && !is_excused
    };
    let paths = comparison.nodes.iter().filter(differs).take(MAX_DIFFERING);
    paths.map(|node| node.path.as_str().to_owned()).collect()
}

fn imported_run(file: &ImportedExecution) -> Result<RunView, Problem> {
    let (Some(run), Some(status)) = (file.execution.run(), file.execution.status()) else {
        return Err(Problem::not_found(NOUN));
    };
    Ok(RunView {
        execution_id: ExecutionId(file.manifest.execution_id),
        workflow_id: run.request.workflow_id,
        workflow_version: run.request.workflow_version,
        status: word(status),
        events: i64::try_from(file.events.len()).unwrap_or(i64::MAX),
    })
}

async fn may_see(state: &AppState, reading: &Reading, id: Uuid) -> Result<(), Problem> {
    let item = find_row(state, id).await?.ok_or_else(|| Problem::not_found(NOUN))?;
    let permission = Permission::ViewExecution;
    demand(state, &reading.caller, item.workspace_id, permission, NOUN).await.map(|_| ())
}

/// The workflow that is made of the file's own definition. Its id follows from the import, so it is made once.
async fn own_workflow(
    state: &AppState,
    writing: &Writing,
    item: &ImportedExecutionItem,
    file: &ImportedExecution,
) -> Result<WorkflowId, crate::writing::Instead> {
    let id = WorkflowId(derived(&["imported-workflow", &item.id.to_string()]));
    if state.commands.load::<Workflow>(id).await?.state.status().is_some() {
        return Ok(id);
    }
    let workspace_id: WorkspaceId = item.workspace_id;
    let definition = file.definition.as_ref().ok_or_else(|| {
        let detail = "the file has no definition: name a workflow to run it on";
        Problem::rule_refused("definition_missing", detail)
    })?;
    #[derive(Deserialize)]
    struct Parts {
        nodes: Json,
        connections: Json,
        settings: Option<Json>,
    }
    let parts: Parts = definition.definition.to().map_err(|_| {
        Problem::rule_refused("definition_missing", "the definition of the file is none")
    })?;
    let name: String = format!("{} (imported)", definition.name);
    let body = WorkflowBody {
        name: name.chars().take(MAX_NAME_CHARS).collect(),
        description: format!("Made of the imported execution {}.", item.execution_id),
        nodes: parts.nodes,
        connections: parts.connections,
        settings: parts.settings.unwrap_or_else(|| Json::from_value(&serde_json::json!({}))),
        tags: vec!["imported".to_owned()],
        is_public: false,
    };
    let mut draft = body.draft().await?;
    demand_references(state, workspace_id, &draft.definition).await?;
    draft.definition = keep(state.commands.log().as_ref(), id, draft.definition).await?;
    let create = &CreateWorkflow { workspace_id, parent_workflow_id: None, draft };
    // The key and the conditions of the request are those of the run that follows.
    let context = Context {
        key: None,
        if_match: None,
        if_plan: None,
        ..writing.context(workspace_id, hash_of(&["definition"]))
    };
    let plan = |scope: Scope| async move {
        // The definition was brought in by somebody who may write one.
        let needed = Permission::StartExecution;
        writing.authorise(&scope, workspace_id, needed, NOUN).await?;
        Ok((Target::new(id, workspace_id), WorkflowCommand::Create(create.clone())))
    };
    writing.execute::<Workflow, _, _>(&context, plan).await?;
    Ok(id)
}
