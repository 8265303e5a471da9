//! Executions that are made from others: everything again, from a node on, from the failed node on, or from a moment on.
//!
//! What a new execution takes over is what the graph needs to go on soundly: outcomes of nodes of the top level, and, where a fork
//! finds a loop at work, the loop's items with the outcomes of its items. What had begun and not ended (a running effect, a wait, an
//! approval, a child run) is not taken over: it begins again. Signals that nobody had waited for go with a retry and a fork. Outputs go by
//! reference where they are large.

use std::collections::HashSet;

use super::{
    CarriedFailure, CarriedLoop, CarriedNode, CarriedVariable, Execution, ExecutionRejection,
    KeptSignal, Loop, NodeEdit, NodeOutput, NodePath, NodeState, NodesCarried, NotCarried,
    NotCarriedReason, Origin, OriginKind, Plan, RequestExecution, Run,
};
use crate::{
    graph::{Graph, NodeIndex},
    id::ExecutionId,
    json::Json,
    limits::{MAX_CARRIED_BYTES, MAX_CARRIED_NODES},
    node::{MergeMode, NodeConfig},
};

/// What is taken over stands in the first event up to this size, beside an input that may fill most of it.
const FIRST_EVENT_BYTES: usize = 32 * 1024;
/// What is taken over in one further event, unless one outcome alone is larger.
const NEXT_EVENT_BYTES: usize = 256 * 1024;

/// The version that an execution ran on, and the one that the new one will run on.
#[derive(Clone, Copy, Debug)]
pub struct Versions<'a> {
    /// The one that was.
    pub ran: &'a Graph,
    /// The one that will be.
    pub runs: &'a Graph,
    /// Whether they are one and the same.
    pub same: bool,
}

/// The request of an execution that does everything again, on the same version with the same input. The caller changes what it wants to
/// be different, and says how long it may take.
///
/// # Errors
/// [`ExecutionRejection::NotRequested`].
pub fn rerun_of(
    id: ExecutionId,
    execution: &Execution,
    timeout_ms: Option<u64>,
) -> Result<RequestExecution, ExecutionRejection> {
    let run = execution.run().ok_or(ExecutionRejection::NotRequested)?;
    let origin = origin_of(id, OriginKind::Rerun, run);
    Ok(request_of(run, origin, timeout_ms))
}

/// The request of an execution that begins with a node: it and everything downstream of it run again, as does what had not come to
/// its end; what lies beside or before that is taken over. The caller changes input and version.
///
/// # Errors
/// [`ExecutionRejection::NoSuchNode`], [`ExecutionRejection::NotInFlow`]; [`ExecutionRejection::NotCarried`] with every node upstream that had not come to its end or is
/// not the same in both versions; [`ExecutionRejection::NotRequested`].
pub fn rerun_from(
    id: ExecutionId,
    execution: &Execution,
    versions: Versions<'_>,
    node: &str,
    timeout_ms: Option<u64>,
) -> Result<RequestExecution, ExecutionRejection> {
    let run = execution.run().ok_or(ExecutionRejection::NotRequested)?;
    let from = versions.runs.index_of(node);
    let from = from.ok_or_else(|| ExecutionRejection::NoSuchNode(node.to_owned()))?;
    if versions.runs.is_undo(from) {
        return Err(ExecutionRejection::NotInFlow(node.to_owned()));
    }
    let undone = run.undone();
    let refused: Vec<NotCarried> = upstream(versions.runs, from, run)
        .into_iter()
        .filter_map(|index| versions.refuses(run, &undone, versions.runs.node(index).id()))
        .collect();
    if !refused.is_empty() {
        return Err(ExecutionRejection::NotCarried(refused));
    }
    let plan = Plan::of(versions.runs);
    let refused = |id: &str| versions.refuses(run, &undone, id).is_some();
    let carried = carried_nodes(run, &plan, |id| id == node || refused(id));
    let variables = carried_variables(run, &carried, versions.runs);
    let mut origin = origin_of(id, OriginKind::Rerun, run);
    origin.from_node = Some(node.into());
    if !versions.same {
        origin.edits.clear();
    }
    Ok(request_of(run, Origin { carried, variables, ..origin }, timeout_ms))
}

/// The request of an execution that goes on where another one failed or was cancelled: what had completed or was skipped, and does not
/// lie behind something that had not, is carried over.
///
/// The plan is that of the version it ran on.
///
/// # Errors
/// [`ExecutionRejection::NotRequested`], [`ExecutionRejection::NothingToRetry`].
pub fn retry_of(
    id: ExecutionId,
    execution: &Execution,
    plan: &Plan,
    timeout_ms: Option<u64>,
) -> Result<RequestExecution, ExecutionRejection> {
    let run = match execution {
        Execution::New => return Err(ExecutionRejection::NotRequested),
        Execution::Open(_) | Execution::Completed { .. } => {
            return Err(ExecutionRejection::NothingToRetry);
        }
        Execution::Failed { run, .. } | Execution::Cancelled { run, .. } => run,
    };
    let carried = carried_nodes(run, plan, |_| false);
    let paths = paths_of(&carried);
    let variables = variables_of(run, &paths).collect();
    let (origin, signals) = (origin_of(id, OriginKind::Retry, run), run.signals.clone());
    Ok(request_of(run, Origin { carried, variables, signals, ..origin }, timeout_ms))
}

/// The request of an execution that takes the first `version` events of another one as its past, `execution` being the state after
/// them, and goes on from there. The caller changes input, version and variables.
///
/// # Errors
/// [`ExecutionRejection::NothingToFork`] where it had completed by then; [`ExecutionRejection::NotCarried`] with every node that had
/// come to its end and is not the same in both versions; [`ExecutionRejection::NotRequested`].
pub fn fork_of(
    id: ExecutionId,
    version: i64,
    execution: &Execution,
    versions: Versions<'_>,
    timeout_ms: Option<u64>,
) -> Result<RequestExecution, ExecutionRejection> {
    if matches!(execution, Execution::Completed { .. }) {
        return Err(ExecutionRejection::NothingToFork);
    }
    let run = execution.run().ok_or(ExecutionRejection::NotRequested)?;
    // What was undone by then begins again, and so does what rests on it.
    let carried = if run.undone().is_empty() {
        settled_nodes(run)
    } else {
        carried_nodes(run, &Plan::of(versions.ran), |_| false)
    };
    let top = carried.iter().filter(|node| node.path.scope().is_empty());
    let refused: Vec<NotCarried> =
        top.filter_map(|node| versions.differs(run, node.path.as_str())).collect();
    if !refused.is_empty() {
        return Err(ExecutionRejection::NotCarried(refused));
    }
    let paths = paths_of(&carried);
    let variables = variables_of(run, &paths).collect();
    let mut origin = origin_of(id, OriginKind::Fork, run);
    origin.at_version = Some(version);
    if !versions.same {
        origin.edits.clear();
    }
    let signals = run.signals.clone();
    Ok(request_of(run, Origin { carried, variables, signals, ..origin }, timeout_ms))
}

impl Versions<'_> {
    /// Why a node of the top level can't be taken over, where it can't.
    fn refuses(&self, run: &Run, undone: &HashSet<String>, id: &str) -> Option<NotCarried> {
        let settled = matches!(
            run.nodes.get(id).map(|node| &node.state),
            Some(NodeState::Completed(_) | NodeState::Skipped)
        );
        let refused = |reason| NotCarried { node: id.to_owned(), reason };
        let unsettled = || (!settled).then(|| refused(NotCarriedReason::NotSettled));
        let undone = || undone.contains(id).then(|| refused(NotCarriedReason::Undone));
        // That a node is new says more than that it never ran.
        self.differs(run, id).or_else(unsettled).or_else(undone)
    }

    /// Why the outcome of a node of the top level means nothing in the other version, where it does not.
    fn differs(&self, run: &Run, id: &str) -> Option<NotCarried> {
        let refused = |reason| Some(NotCarried { node: id.to_owned(), reason });
        let (Some(was), Some(is)) = (self.ran.index_of(id), self.runs.index_of(id)) else {
            return refused(NotCarriedReason::Absent);
        };
        if self.same {
            return None;
        }
        let (old, new) = (self.ran.node(was), self.runs.node(is));
        let edited = edits_of(run).iter().any(|edit| edit.node == id);
        let is_same = old.config() == new.config()
            && old.on_error() == new.on_error()
            && sources(self.ran, was) == sources(self.runs, is);
        if is_same && !edited { None } else { refused(NotCarriedReason::Differs) }
    }
}

/// What leads to a node, in an order of its own.
fn sources(graph: &Graph, index: NodeIndex) -> Vec<(&str, Option<&str>)> {
    let edges = graph.incoming(index).iter();
    let mut sources: Vec<_> =
        edges.map(|edge| (graph.node(edge.node).id(), edge.port.as_deref())).collect();
    sources.sort_unstable();
    sources
}

/// Every node that a node waits for, directly or not. What goes on with the first branch that comes, and has, waits for no other.
fn upstream(graph: &Graph, of: NodeIndex, run: &Run) -> Vec<NodeIndex> {
    let mut found = HashSet::new();
    let mut todo = vec![of];
    while let Some(index) = todo.pop() {
        let node = graph.node(index);
        let took_first = matches!(
            node.config(), NodeConfig::Merge(merge) if merge.mode == MergeMode::Any
        );
        let completed = matches!(
            run.nodes.get(node.id()).map(|node| &node.state),
            Some(NodeState::Completed(_))
        );
        for edge in graph.incoming(index) {
            let counts = !(took_first && completed && index != of)
                || run.nodes.get(graph.node(edge.node).id()).is_some_and(super::NodeRun::has_ended);
            if counts && found.insert(edge.node) {
                todo.push(edge.node);
            }
        }
    }
    graph.nodes().map(|(index, _)| index).filter(|index| found.contains(index)).collect()
}

fn edits_of(run: &Run) -> &[NodeEdit] {
    run.request.origin.as_ref().map_or(&[], |origin| &origin.edits)
}

/// An origin that takes nothing over yet but the edits, which belong to what the run does.
fn origin_of(id: ExecutionId, kind: OriginKind, run: &Run) -> Origin {
    Origin {
        execution_id: id,
        kind,
        from_node: None,
        at_version: None,
        edits: edits_of(run).to_vec(),
        carried: Vec::new(),
        variables: Vec::new(),
        signals: Vec::new(),
    }
}

fn paths_of(carried: &[CarriedNode]) -> HashSet<&str> {
    carried.iter().map(|node| node.path.as_str()).collect()
}

/// The variables that a node of these had set last, or a node in the body of one of these.
fn variables_of<'a>(
    run: &'a Run,
    paths: &'a HashSet<&str>,
) -> impl Iterator<Item = CarriedVariable> + 'a {
    let carried = run.variables.iter().filter(|(_, variable)| is_carried(&variable.set_by, paths));
    carried.map(|(name, variable)| CarriedVariable {
        path: variable.set_by.clone(),
        name: name.clone(),
        value: variable.value.clone(),
    })
}

/// Whether a node or a loop around it is among these. What nobody of the run set came with its origin, and stays.
fn is_carried(path: &NodePath, paths: &HashSet<&str>) -> bool {
    let mut text = path.as_str();
    loop {
        if text.is_empty() || paths.contains(text) {
            return true;
        }
        match text.rfind('[') {
            Some(bracket) => text = &text[..bracket],
            None => return false,
        }
    }
}

/// The variables as they stood for a node in the middle of the graph. What a node that runs again had set last was set before by one
/// that does not, perhaps: then that one's value is the one to begin with.
fn carried_variables(run: &Run, carried: &[CarriedNode], graph: &Graph) -> Vec<CarriedVariable> {
    let paths = paths_of(carried);
    let mut variables: Vec<CarriedVariable> = variables_of(run, &paths).collect();
    let kept: HashSet<String> = variables.iter().map(|variable| variable.name.clone()).collect();
    let mut before: Vec<CarriedVariable> = Vec::new();
    for path in run.nodes.keys().filter(|path| paths.contains(path.as_str())) {
        let Some(NodeConfig::SetVariable(set)) =
            graph.node_by_id(path.as_str()).map(|node| node.config())
        else {
            continue;
        };
        let Some(NodeState::Completed(completed)) = run.nodes.get(path).map(|node| &node.state)
        else {
            continue;
        };
        let NodeOutput::Inline(value) = &completed.output else { continue };
        if kept.contains(&set.name) || !run.variables.contains_key(&set.name) {
            continue;
        }
        before.retain(|variable| variable.name != set.name);
        before.push(CarriedVariable {
            path: path.clone(),
            name: set.name.clone(),
            value: value.clone(),
        });
    }
    variables.extend(before);
    variables
}

/// Nodes of the top level that had come to their end and do not lie behind one that had not, or that runs again by itself.
fn carried_nodes(run: &Run, plan: &Plan, runs_again: impl Fn(&str) -> bool) -> Vec<CarriedNode> {
    let state = |index: u32| run.nodes.get(plan.at(index).id.as_str()).map(|node| &node.state);
    let undone = run.undone();
    let all = || plan.flow();
    let again: Vec<u32> = all().filter(|index| runs_again(&plan.at(*index).id)).collect();
    // What has gone on with one of several branches may have done so with the one that now runs again.
    let again = plan.downstream(&again, |_| false);
    let has_settled = |index: u32| {
        matches!(state(index), Some(NodeState::Completed(_) | NodeState::Skipped))
            && !undone.contains(&plan.at(index).id)
    };
    let unsettled: Vec<u32> = all().filter(|index| !has_settled(*index)).collect();
    let went_on = |index: u32| {
        !again[index as usize] && matches!(state(index), Some(NodeState::Completed(_)))
    };
    let behind = plan.downstream(&unsettled, went_on);
    all()
        .filter(|index| !again[*index as usize] && !behind[*index as usize])
        .filter_map(|index| carried(plan.at(index).id.as_str().into(), state(index)?))
        .collect()
}

/// Everything that had come to its end, and the loops that were at work with what their items had come to, in the order in which it
/// began. The state after any event is one that the run was in, so it can be gone on from as it is.
fn settled_nodes(run: &Run) -> Vec<CarriedNode> {
    let mut loops: HashSet<&str> = HashSet::new();
    let mut nodes = Vec::new();
    for (path, node) in &run.nodes {
        let goes_on = path.item().is_none_or(|(owner, _)| loops.contains(owner));
        if !goes_on {
            continue;
        }
        if let NodeState::Looping(open) = &node.state {
            loops.insert(path.as_str());
            nodes.push(CarriedNode {
                path: path.clone(),
                output: None,
                port: None,
                looping: Some(CarriedLoop::of(open)),
            });
        } else {
            nodes.extend(carried(path.clone(), &node.state));
        }
    }
    nodes
}

impl CarriedLoop {
    fn of(open: &Loop) -> Self {
        match open {
            Loop::Each { items, failed } => Self::Each {
                items: Json::from_value(&serde_json::to_value(items).unwrap_or_default()),
                failed: failed
                    .iter()
                    .map(|(item, failure)| CarriedFailure {
                        item: *item,
                        node: failure.node.clone(),
                        error: failure.error.clone(),
                    })
                    .collect(),
            },
            Loop::While { max_iterations, iterations } => {
                Self::While { max_iterations: *max_iterations, iterations: *iterations }
            }
        }
    }
}

fn carried(path: NodePath, state: &NodeState) -> Option<CarriedNode> {
    let (output, port) = match state {
        NodeState::Completed(completed) => (Some(completed.output.clone()), completed.port.clone()),
        NodeState::Skipped => (None, None),
        NodeState::Running(_)
        | NodeState::Waiting { .. }
        | NodeState::Retrying { .. }
        | NodeState::Ready
        | NodeState::Failing(_)
        | NodeState::Looping(_)
        | NodeState::Failed(_) => return None,
    };
    Some(CarriedNode { path, output, port, looping: None })
}

/// What of an origin stands in the first event of its execution, and what follows in events of its own.
pub(super) fn split(
    origin: Option<Origin>,
) -> Result<(Option<Origin>, Vec<NodesCarried>), ExecutionRejection> {
    let Some(mut origin) = origin else { return Ok((None, Vec::new())) };
    let of_node = |node: &CarriedNode| serde_json::to_string(node).map_or(0, |text| text.len());
    let of_variable =
        |variable: &CarriedVariable| variable.value.as_str().len() + variable.name.len() + 64;
    let of_signal = |signal: &KeptSignal| signal.payload.as_str().len() + signal.name.len() + 32;
    let bytes = origin.carried.iter().map(of_node).sum::<usize>()
        + origin.variables.iter().map(of_variable).sum::<usize>()
        + origin.signals.iter().map(of_signal).sum::<usize>();
    let count = origin.carried.len();
    if count > MAX_CARRIED_NODES || bytes > MAX_CARRIED_BYTES {
        return Err(ExecutionRejection::TooMuchCarried { count, bytes });
    }
    if bytes <= FIRST_EVENT_BYTES {
        return Ok((Some(origin), Vec::new()));
    }
    let mut events: Vec<NodesCarried> = Vec::new();
    let mut held = usize::MAX;
    let mut room = |size: usize, events: &mut Vec<NodesCarried>| {
        held = held.saturating_add(size);
        if held > NEXT_EVENT_BYTES {
            held = size;
            let (nodes, variables, signals) = (Vec::new(), Vec::new(), Vec::new());
            events.push(NodesCarried { nodes, variables, signals });
        }
    };
    for node in std::mem::take(&mut origin.carried) {
        room(of_node(&node), &mut events);
        events.last_mut().expect("there is room in the last one").nodes.push(node);
    }
    for variable in std::mem::take(&mut origin.variables) {
        room(of_variable(&variable), &mut events);
        events.last_mut().expect("there is room in the last one").variables.push(variable);
    }
    for signal in std::mem::take(&mut origin.signals) {
        room(of_signal(&signal), &mut events);
        events.last_mut().expect("there is room in the last one").signals.push(signal);
    }
    Ok((Some(origin), events))
}

fn request_of(run: &Run, origin: Origin, timeout_ms: Option<u64>) -> RequestExecution {
    let request = &run.request;
    RequestExecution {
        workspace_id: request.workspace_id,
        workflow_id: request.workflow_id,
        workflow_version: request.workflow_version,
        trigger_type: request.trigger_type,
        input: request.input.clone(),
        queue: request.queue,
        limits: request.limits.clone(),
        held: false,
        timeout_ms,
        origin: Some(origin),
        trigger_node: request.trigger_node.clone(),
        planned_nodes: request.planned_nodes,
        depth: request.depth,
        // A run that is made again is nobody's child: the node that waited for the first one has its outcome.
        parent: None,
        error_workflow_id: request.error_workflow_id,
        undoes: request.undoes.clone(),
    }
}

impl RequestExecution {
    /// Moves the largest carried outputs out until the rest fits in `max_bytes`, since they all stand in one event.
    ///
    /// `to_blob` answers the reference that a value is found under; the caller stores the blobs before it sends the command.
    pub fn shrink_carried(
        &mut self,
        max_bytes: usize,
        mut to_blob: impl FnMut(&Json) -> NodeOutput,
    ) {
        let Some(origin) = &mut self.origin else { return };
        let mut inline: Vec<(&mut CarriedNode, usize)> = origin
            .carried
            .iter_mut()
            .filter_map(|node| match &node.output {
                Some(NodeOutput::Inline(value)) => {
                    let size = value.as_str().len();
                    Some((node, size))
                }
                Some(NodeOutput::Blob { .. }) | None => None,
            })
            .collect();
        inline.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
        let mut total: usize = inline.iter().map(|(_, size)| *size).sum();
        for (node, size) in inline {
            if total <= max_bytes {
                break;
            }
            total -= size;
            if let Some(NodeOutput::Inline(value)) = &node.output {
                node.output = Some(to_blob(value));
            }
        }
    }
}
