//! From a workflow to the first command of an execution: what a start, a rerun and a retry have in common.
//!
//! Each function reads through the [`Scope`], so the workflow as it was looked at goes with the append: a run is never requested of a
//! workflow that was paused, archived or deleted in the meantime. To be used in a plan of [`crate::Commands::execute_with`] or
//! [`crate::Commands::transact`], after the caller's permission was looked at in the same plan.

use std::collections::BTreeMap;

use ledgerline_domain::{
    dispatch::Full,
    execution::{
        CarriedVariable, ConcurrencyLimit, Execution, ExecutionCommand, ExecutionRejection,
        LimitScope, NodeEdit, NodeOutput, NodePath, Plan, Queue, RequestExecution, TriggerType,
        Versions, fork_of, rerun_from, rerun_of, retry_of, single_node,
    },
    expression::ExpressionError,
    graph::{Graph, Problem},
    id::{ExecutionId, WorkflowId},
    json::Json,
    policy::NewRun,
    workflow::{StartPlan, Workflow, WorkflowCommand, WorkflowRejection, WorkflowVersion},
    workspace::{Workspace, WorkspaceRejection},
};
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;

use crate::{AsOf, CommandError, Decided, LoadError, Scope, Target, definitions::at_hand};

/// The carried outputs of a retry that stand in its first event; larger ones are blobs. Half of what an event may hold, since the input
/// stands there too.
const MAX_CARRIED_BYTES: usize = 256 * 1024;

/// The longest key of a limit as it is; a longer one is counted by its hash.
const MAX_KEY_BYTES: usize = 200;

/// A run of a workflow is wanted.
#[derive(Clone, Debug)]
pub struct Start {
    /// The id that the execution will have: a new one, or one that follows from a cause that must be started once for ever.
    pub execution_id: ExecutionId,
    /// Of which workflow.
    pub workflow_id: WorkflowId,
    /// What starts it.
    pub trigger_type: TriggerType,
    /// What the trigger gives.
    pub input: Json,
    /// How many triggers and child runs lie between this and a person.
    pub depth: u16,
}

/// A run is wanted again, from its beginning or from a node on.
#[derive(Clone, Debug)]
pub struct Rerun {
    /// The id that the new execution will have.
    pub execution_id: ExecutionId,
    /// The one that is run again.
    pub of: ExecutionId,
    /// The node of the top level that it begins with; none for all of them.
    pub from_node: Option<String>,
    /// Another input; none for the same.
    pub input: Option<Json>,
    /// Another version; none for the same.
    pub version: Option<WorkflowVersion>,
    /// Fields of the configuration of `from_node` that are others in this run: an object.
    pub node_input: Option<Json>,
}

/// A run is wanted that goes on from a moment of another one.
#[derive(Clone, Debug)]
pub struct Fork {
    /// The id that the new execution will have.
    pub execution_id: ExecutionId,
    /// The one whose past it takes.
    pub of: ExecutionId,
    /// The moment.
    pub at: AsOf,
    /// Another input for what is still to run; none for the same.
    pub input: Option<Json>,
    /// Variables that have other values, or are new.
    pub variables: BTreeMap<String, Json>,
    /// Another version; none for the same.
    pub version: Option<WorkflowVersion>,
}

/// A run is wanted to go on where another one failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The id that the new execution will have.
    pub execution_id: ExecutionId,
    /// The one that failed or was cancelled.
    pub of: ExecutionId,
}

/// One node of a workflow is wanted by itself.
#[derive(Clone, Debug)]
pub struct RunNode {
    /// The id that the execution will have.
    pub execution_id: ExecutionId,
    /// Of which workflow.
    pub workflow_id: WorkflowId,
    /// Which node, at the top level.
    pub node: String,
    /// Of which version; none for the latest.
    pub version: Option<WorkflowVersion>,
    /// The run whose outputs and variables it sees.
    pub from: Option<ExecutionId>,
    /// Outputs of other nodes, before any that are pinned or in that run.
    pub outputs: BTreeMap<String, Json>,
    /// Its input; none for that of the run.
    pub input: Option<Json>,
}

/// Why a run is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum StartRejection {
    /// The workflow refuses it.
    #[error(transparent)]
    Workflow(#[from] WorkflowRejection),
    /// The execution does.
    #[error(transparent)]
    Execution(#[from] ExecutionRejection),
    /// The workspace does: it is being deleted.
    #[error(transparent)]
    Workspace(#[from] WorkspaceRejection),
    /// The configuration of the node that a rerun begins with is not sound with what it was given.
    #[error("the node can't be configured like that")]
    NodeInput(Vec<Problem>),
    /// The key that runs are counted by can't be evaluated over this input.
    #[error("the concurrency key cannot be evaluated over the input")]
    Key(#[source] ExpressionError),
    /// A limit that refuses has no slot free.
    #[error("all {} slots of {} are taken, and it does not queue", .0.limit, noun_of(.0.scope))]
    LimitReached(ConcurrencyLimit),
    /// Too many runs of the workflow wait already.
    #[error("the queue of the workflow is full: {waiting} runs wait, and {max} may")]
    QueueFull {
        /// How many wait.
        waiting: usize,
        /// How many may.
        max: usize,
    },
}

const fn noun_of(scope: LimitScope) -> &'static str {
    match scope {
        LimitScope::Workspace => "the workspace",
        LimitScope::Workflow => "the workflow",
        LimitScope::Key => "the workflow for this key",
    }
}

impl From<Full> for StartRejection {
    fn from(full: Full) -> Self {
        match full {
            Full::Limit(limit) => Self::LimitReached(limit),
            Full::Queue { waiting, max } => Self::QueueFull { waiting, max },
        }
    }
}

/// What a plan of a start comes to.
pub type Request = Result<(Target, ExecutionCommand), CommandError<StartRejection>>;

/// The command that starts a run: of the published version, else (by a person or a parent run) of the latest draft.
///
/// # Errors
/// What the workflow or its concurrency key refuses.
pub async fn start(scope: &Scope, start: &Start) -> Request {
    let plan =
        plan_of(scope, start.workflow_id, |workflow| workflow.started_version(start.trigger_type));
    let plan = plan.await?;
    let mut request = RequestExecution {
        workspace_id: plan.workspace_id,
        workflow_id: start.workflow_id,
        workflow_version: plan.version,
        trigger_type: start.trigger_type,
        input: start.input.clone(),
        queue: plan.queue,
        limits: Vec::new(),
        held: false,
        timeout_ms: plan.timeout_ms,
        origin: None,
        trigger_node: None,
        planned_nodes: plan.planned_nodes,
        depth: start.depth,
        parent: None,
        error_workflow_id: plan.error_workflow_id,
        undoes: plan.undoes.clone(),
    };
    let_in(scope, start.execution_id, &mut request, &plan).await?;
    Ok(command(start.execution_id, request))
}

/// A run is wanted that does what another one did, wherever that ran.
#[derive(Clone, Debug)]
pub struct Repeat {
    /// The id that the execution will have.
    pub execution_id: ExecutionId,
    /// Of which workflow.
    pub workflow_id: WorkflowId,
    /// Which version of it; none for the one that a run by hand would have.
    pub version: Option<WorkflowVersion>,
    /// What the other one was given.
    pub input: Json,
    /// The trigger that the other one began at, which it begins at too where the version has it.
    pub trigger_node: Option<String>,
}

/// The command that does by hand what another run did, with its input and from its trigger on.
///
/// # Errors
/// What the workflow or its concurrency key refuses.
pub async fn repeat(scope: &Scope, wanted: &Repeat) -> Request {
    let plan = plan_of(scope, wanted.workflow_id, |workflow| {
        let started = workflow.started_version(TriggerType::Manual)?;
        Ok(wanted.version.unwrap_or(started))
    });
    let plan = plan.await?;
    let is_trigger =
        |id: &String| plan.graph.node_by_id(id).is_some_and(|node| node.kind().is_trigger());
    let mut request = RequestExecution {
        workspace_id: plan.workspace_id,
        workflow_id: wanted.workflow_id,
        workflow_version: plan.version,
        trigger_type: TriggerType::Manual,
        input: wanted.input.clone(),
        queue: plan.queue,
        limits: Vec::new(),
        held: false,
        timeout_ms: plan.timeout_ms,
        origin: None,
        trigger_node: wanted.trigger_node.clone().filter(is_trigger),
        planned_nodes: plan.planned_nodes,
        depth: 0,
        parent: None,
        // Whoever holds a run against another one looks at what comes of it.
        error_workflow_id: None,
        undoes: plan.undoes.clone(),
    };
    let_in(scope, wanted.execution_id, &mut request, &plan).await?;
    Ok(command(wanted.execution_id, request))
}

/// The command that starts a run which follows from an event of another one: a child, or what follows on a failure.
///
/// # Errors
/// What the workflow or its concurrency key refuses; [`WorkflowRejection::NotFound`] for one of another workspace.
pub async fn follow(scope: &Scope, execution_id: ExecutionId, run: &NewRun) -> Request {
    let plan = plan_of(scope, run.workflow_id, |workflow| {
        let started = workflow.started_version(TriggerType::Workflow)?;
        Ok(run.version.unwrap_or(started))
    });
    let plan = plan.await?;
    if plan.workspace_id != run.workspace_id {
        return Err(CommandError::Rejected(WorkflowRejection::NotFound.into()));
    }
    let mut request = RequestExecution {
        workspace_id: plan.workspace_id,
        workflow_id: run.workflow_id,
        workflow_version: plan.version,
        trigger_type: TriggerType::Workflow,
        input: run.input.clone(),
        queue: plan.queue,
        limits: Vec::new(),
        held: false,
        timeout_ms: plan.timeout_ms,
        origin: None,
        planned_nodes: plan.planned_nodes,
        depth: run.depth,
        trigger_node: None,
        parent: run.parent.clone(),
        error_workflow_id: plan.error_workflow_id,
        undoes: plan.undoes.clone(),
    };
    let_in(scope, execution_id, &mut request, &plan).await?;
    Ok(command(execution_id, request))
}

/// Starts a run by hand and lets triggers start others from now on: one append over both streams. `queue` is the line that it waits
/// in, where it is not the definition's. Decides in the scope, so the plan has nothing more to do.
///
/// # Errors
/// What the workflow or its concurrency key refuses.
pub async fn start_and_activate(
    scope: &Scope,
    wanted: &Start,
    queue: Option<Queue>,
) -> Result<Decided<Execution>, CommandError<StartRejection>> {
    let (target, mut command) = start(scope, wanted).await?;
    if let (ExecutionCommand::Request(request), Some(queue)) = (&mut command, queue) {
        request.queue = queue;
    }
    let decided = scope.decide(target, &command).await.map_err(CommandError::widen)?;
    let workflow = Target::existing(wanted.workflow_id);
    let activate = &WorkflowCommand::ActivateIntake;
    scope.decide::<Workflow>(workflow, activate).await.map_err(CommandError::widen)?;
    Ok(decided)
}

/// The command that runs everything again, or what is downstream of a node. What does not fit in one event is stored as blobs on the
/// way.
///
/// # Errors
/// What the workflow or its concurrency key refuses; [`ExecutionRejection::NotRequested`] where there is nothing to run again; what
/// [`rerun_from`] refuses; [`StartRejection::NodeInput`].
pub async fn rerun(scope: &Scope, rerun: &Rerun) -> Request {
    let origin = scope.peek::<Execution>(rerun.of).await?.state;
    let rejected = |rejection: ExecutionRejection| CommandError::Rejected(rejection.into());
    let asked = &origin.run().ok_or_else(|| rejected(ExecutionRejection::NotRequested))?.request;
    let (ran, workflow_id) = (asked.workflow_version, asked.workflow_id);
    let version = rerun.version.unwrap_or(ran);
    let plan = plan_of(scope, workflow_id, |_| Ok(version)).await?;
    let mut request = match &rerun.from_node {
        None => rerun_of(rerun.of, &origin, plan.timeout_ms),
        Some(node) => {
            let before = plan_of(scope, workflow_id, |_| Ok(ran)).await?;
            let versions = Versions { ran: &before.graph, runs: &plan.graph, same: ran == version };
            rerun_from(rerun.of, &origin, versions, node, plan.timeout_ms)
        }
    }
    .map_err(rejected)?;
    if let Some(input) = &rerun.input {
        request.input = input.clone();
    }
    if ran != version
        && let Some(origin) = &mut request.origin
    {
        origin.edits.clear();
    }
    if let (Some(node), Some(fields)) = (&rerun.from_node, &rerun.node_input) {
        edit(&mut request, &plan, node, fields)?;
    }
    settle(scope, rerun.execution_id, &mut request, &plan).await?;
    store_carried(scope, rerun.execution_id, &mut request).await?;
    Ok(command(rerun.execution_id, request))
}

/// The command that goes on from a moment of another run. What does not fit in one event is stored as blobs on the way.
///
/// # Errors
/// What the workflow or its concurrency key refuses; [`ExecutionRejection::NotRequested`] where the run did not exist then; what
/// [`fork_of`] refuses.
pub async fn fork(scope: &Scope, fork: &Fork) -> Request {
    let then = scope.past::<Execution>(fork.of, fork.at).await?;
    let rejected = |rejection: ExecutionRejection| CommandError::Rejected(rejection.into());
    let run = then.state.run().ok_or_else(|| rejected(ExecutionRejection::NotRequested))?;
    let (ran, workflow_id) = (run.request.workflow_version, run.request.workflow_id);
    let version = fork.version.unwrap_or(ran);
    let plan = plan_of(scope, workflow_id, |_| Ok(version)).await?;
    let before = plan_of(scope, workflow_id, |_| Ok(ran)).await?;
    let versions = Versions { ran: &before.graph, runs: &plan.graph, same: ran == version };
    let mut request = fork_of(fork.of, then.version.0, &then.state, versions, plan.timeout_ms)
        .map_err(rejected)?;
    if let Some(input) = &fork.input {
        request.input = input.clone();
    }
    if let Some(origin) = &mut request.origin {
        origin.variables.retain(|variable| !fork.variables.contains_key(&variable.name));
        let path = NodePath::run();
        origin.variables.extend(fork.variables.iter().map(|(name, value)| CarriedVariable {
            path: path.clone(),
            name: name.clone(),
            value: value.clone(),
        }));
    }
    settle(scope, fork.execution_id, &mut request, &plan).await?;
    store_carried(scope, fork.execution_id, &mut request).await?;
    Ok(command(fork.execution_id, request))
}

/// The command that goes on where another run failed. What does not fit in one event is stored as blobs on the way.
///
/// # Errors
/// What the workflow or its concurrency key refuses; [`ExecutionRejection::NothingToRetry`].
pub async fn retry(scope: &Scope, retry: &Retry) -> Request {
    let origin = scope.peek::<Execution>(retry.of).await?.state;
    let rejected = |rejection: ExecutionRejection| CommandError::Rejected(rejection.into());
    let asked = &origin.run().ok_or_else(|| rejected(ExecutionRejection::NotRequested))?.request;
    let version = asked.workflow_version;
    let plan = plan_of(scope, asked.workflow_id, |_| Ok(version)).await?;
    let nodes = Plan::of(&plan.graph);
    let mut request = retry_of(retry.of, &origin, &nodes, plan.timeout_ms).map_err(rejected)?;
    settle(scope, retry.execution_id, &mut request, &plan).await?;
    store_carried(scope, retry.execution_id, &mut request).await?;
    Ok(command(retry.execution_id, request))
}

/// Gives a node other values in fields of its configuration, for this run.
fn edit(
    request: &mut RequestExecution,
    plan: &StartPlan,
    node: &str,
    fields: &Json,
) -> Result<(), CommandError<StartRejection>> {
    let Some(origin) = &mut request.origin else { return Ok(()) };
    origin.edits.retain(|edit| edit.node != node);
    origin.edits.push(NodeEdit { node: node.to_owned(), config: fields.clone() });
    let edits = origin.edits.iter().map(|edit| (edit.node.as_str(), &edit.config));
    match Graph::parse_edited(&plan.definition.to_value(), edits) {
        Ok(_) => Ok(()),
        Err(problems) => Err(CommandError::Rejected(StartRejection::NodeInput(problems))),
    }
}

/// The command that runs one node by itself: of the latest draft, unless a version is named.
///
/// # Errors
/// What the workflow or its concurrency key refuses; [`ExecutionRejection::NotRequested`] for a run of another workflow, and what
/// [`single_node`] refuses.
pub async fn run_node(scope: &Scope, wanted: &RunNode) -> Request {
    let rejected = |rejection: ExecutionRejection| CommandError::Rejected(rejection.into());
    let latest = |workflow: &Workflow| match (wanted.version, workflow.content()) {
        (Some(version), _) => Ok(version),
        (None, Some(content)) => Ok(content.latest_version()),
        (None, None) => Err(WorkflowRejection::NotFound),
    };
    let plan = plan_of(scope, wanted.workflow_id, latest).await?;
    let source = match wanted.from {
        Some(id) => Some((id, scope.peek::<Execution>(id).await?.state)),
        None => None,
    };
    let source = match &source {
        Some((id, state)) => {
            let run = state.run().filter(|run| run.request.workflow_id == wanted.workflow_id);
            Some((*id, run.ok_or_else(|| rejected(ExecutionRejection::NotRequested))?))
        }
        None => None,
    };
    let own = wanted.execution_id;
    let origin = single_node(&plan.graph, &wanted.node, own, source, &wanted.outputs);
    let input = wanted.input.clone().or_else(|| source.map(|(_, run)| run.request.input.clone()));
    let mut request = RequestExecution {
        workspace_id: plan.workspace_id,
        workflow_id: wanted.workflow_id,
        workflow_version: plan.version,
        trigger_type: TriggerType::Manual,
        trigger_node: None,
        input: input.unwrap_or_else(|| Json::from_value(&serde_json::json!({}))),
        queue: plan.queue,
        limits: Vec::new(),
        held: false,
        timeout_ms: plan.timeout_ms,
        origin: Some(origin.map_err(rejected)?),
        planned_nodes: plan.planned_nodes,
        depth: 0,
        parent: None,
        // Whoever tries a node looks at what comes of it.
        error_workflow_id: None,
        undoes: BTreeMap::new(),
    };
    let_in(scope, own, &mut request, &plan).await?;
    store_carried(scope, own, &mut request).await?;
    Ok(command(own, request))
}

/// Stores the largest outputs that are taken over as blobs, until the rest is of a size for events.
async fn store_carried(
    scope: &Scope,
    execution_id: ExecutionId,
    request: &mut RequestExecution,
) -> Result<(), CommandError<StartRejection>> {
    let mut blobs: Vec<Json> = Vec::new();
    request.shrink_carried(MAX_CARRIED_BYTES, |value| {
        blobs.push(value.clone());
        let content = value.as_str().as_bytes();
        NodeOutput::Blob {
            hash: hex(&Sha256::digest(content)),
            size_bytes: u64::try_from(content.len()).unwrap_or(u64::MAX),
        }
    });
    let Target { stream, .. } = Target::existing(execution_id);
    for value in blobs {
        let stored = scope.log().put_blob(value.as_str().as_bytes()).await;
        stored.map_err(|error| LoadError::from_store(stream, error))?;
    }
    Ok(())
}

/// What a run of a version needs, with its definition looked up where the state does not have it.
async fn plan_of(
    scope: &Scope,
    workflow_id: WorkflowId,
    version: impl FnOnce(&Workflow) -> Result<WorkflowVersion, WorkflowRejection>,
) -> Result<StartPlan, CommandError<StartRejection>> {
    let rejected = |rejection: WorkflowRejection| CommandError::Rejected(rejection.into());
    let workflow = scope.read::<Workflow>(workflow_id).await?.state;
    let version = version(&workflow).map_err(rejected)?;
    if let Some(content) = workflow.content() {
        at_hand(scope.log().as_ref(), workflow_id, content, version).await?;
    }
    // A large definition takes a moment to parse, in which nobody else's command should have to wait.
    let plan = spawn_blocking(move || workflow.version_plan(version)).await;
    let broken =
        |_| CommandError::Invalid { reason: "the parser of the definition broke off".to_owned() };
    plan.map_err(broken)?.map_err(rejected)
}

/// What a run that is made from another one takes from the version that it runs.
async fn settle(
    scope: &Scope,
    execution_id: ExecutionId,
    request: &mut RequestExecution,
    plan: &StartPlan,
) -> Result<(), CommandError<StartRejection>> {
    request.workflow_version = plan.version;
    request.queue = plan.queue;
    request.timeout_ms = plan.timeout_ms;
    request.planned_nodes = plan.planned_nodes;
    request.undoes.clone_from(&plan.undoes);
    let_in(scope, execution_id, request, plan).await
}

/// Names the limits that concern a run, and refuses it where one of them, or the workflow's line, is full. A run that was requested
/// before is let in: the request is repeated, and nothing comes of it.
async fn let_in(
    scope: &Scope,
    execution_id: ExecutionId,
    request: &mut RequestExecution,
    plan: &StartPlan,
) -> Result<(), CommandError<StartRejection>> {
    let workspace_id = request.workspace_id;
    // The append rests on it: once its deletion was asked for, nothing more is requested in whatever process.
    let workspace = scope.read::<Workspace>(workspace_id).await?.state;
    if workspace.is_ending() {
        return Err(CommandError::Rejected(WorkspaceRejection::BeingDeleted.into()));
    }
    let (own, is_paused) = match workspace.active() {
        Ok(workspace) => (workspace.max_concurrency, workspace.dispatch_paused),
        Err(_) => (None, false),
    };
    let of_workspace = scope.workspace_limits().of(own);
    let of_workspace = of_workspace.map(|most| ConcurrencyLimit::of_workspace(workspace_id, most));
    let of_workflow = limit(request.workflow_id, plan, &request.input).await?;
    request.limits = of_workflow.into_iter().chain(of_workspace).collect();
    request.held = is_paused || scope.is_deployment_held().await?;
    let max_queued = plan.concurrency.max_queued as usize;
    let admitted =
        scope.admit(execution_id, request.workflow_id, &request.limits, max_queued).await;
    match admitted {
        Ok(()) => Ok(()),
        Err(_) if scope.peek::<Execution>(execution_id).await?.state.run().is_some() => Ok(()),
        Err(full) => Err(CommandError::Rejected(full.into())),
    }
}

/// The limit of the workflow that concerns a run with this input.
async fn limit(
    workflow_id: WorkflowId,
    plan: &StartPlan,
    input: &Json,
) -> Result<Option<ConcurrencyLimit>, CommandError<StartRejection>> {
    let Some(limit) = plan.concurrency.limit else { return Ok(None) };
    if plan.concurrency.key.is_none() {
        let of_workflow = ConcurrencyLimit::new(workflow_id.to_string(), limit);
        return Ok(Some(ConcurrencyLimit { strategy: plan.concurrency.strategy, ..of_workflow }));
    }
    // An expression that runs long can't be stopped, so it must not hold up anybody else's command.
    let (concurrency, input) = (plan.concurrency.clone(), input.clone());
    let key = spawn_blocking(move || concurrency.key_of(&input)).await.map_err(|_| {
        CommandError::Invalid { reason: "the concurrency key broke off".to_owned() }
    })?;
    let key = key.map_err(|error| CommandError::Rejected(StartRejection::Key(error)))?;
    let key = key.unwrap_or_default();
    let key = if key.len() > MAX_KEY_BYTES { hex(&Sha256::digest(key.as_bytes())) } else { key };
    let of_workflow = ConcurrencyLimit::new(format!("{workflow_id}:{key}"), limit);
    let (scope, strategy) = (LimitScope::Key, plan.concurrency.strategy);
    Ok(Some(ConcurrencyLimit { scope, strategy, ..of_workflow }))
}

fn command(execution_id: ExecutionId, request: RequestExecution) -> (Target, ExecutionCommand) {
    let target = Target::new(execution_id, request.workspace_id);
    (target, ExecutionCommand::Request(Box::new(request)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
