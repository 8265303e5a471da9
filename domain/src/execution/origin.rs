//! Executions that are made from others: everything again, or from the failed node on.

use super::{
    CarriedNode, CarriedVariable, Execution, ExecutionRejection, NodeOutput, NodeState, Origin,
    OriginKind, Plan, RequestExecution, Run,
};
use crate::{id::ExecutionId, json::Json};

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
    let origin = Origin {
        execution_id: id,
        kind: OriginKind::Rerun,
        carried: Vec::new(),
        variables: Vec::new(),
    };
    Ok(request_of(run, origin, timeout_ms))
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
    let carried = carried_nodes(run, plan);
    let was_carried = |path: &super::NodePath| carried.iter().any(|node| node.path == *path);
    let variables = run
        .variables
        .iter()
        .filter(|(_, variable)| was_carried(&top_of(&variable.set_by)))
        .map(|(name, variable)| CarriedVariable {
            path: variable.set_by.clone(),
            name: name.clone(),
            value: variable.value.clone(),
        })
        .collect();
    let origin = Origin { execution_id: id, kind: OriginKind::Retry, carried, variables };
    Ok(request_of(run, origin, timeout_ms))
}

/// The node of the top level that a node belongs to: itself, or the outermost loop around it.
fn top_of(path: &super::NodePath) -> super::NodePath {
    let text = path.as_str();
    super::NodePath::from(text.split_once('[').map_or(text, |(owner, _)| owner))
}

fn carried_nodes(run: &Run, plan: &Plan) -> Vec<CarriedNode> {
    let state = |index: u32| run.nodes.get(plan.at(index).id.as_str()).map(|node| &node.state);
    let all = 0..u32::try_from(plan.len()).unwrap_or(u32::MAX);
    let open: Vec<u32> = all
        .clone()
        .filter(|index| {
            !matches!(state(*index), Some(NodeState::Completed(_) | NodeState::Skipped))
        })
        .collect();
    let has_completed = |index: u32| matches!(state(index), Some(NodeState::Completed(_)));
    let runs_again = plan.downstream(&open, has_completed);
    all.filter(|index| !runs_again[*index as usize])
        .filter_map(|index| {
            let (output, port) = match state(index)? {
                NodeState::Completed(completed) => {
                    (Some(completed.output.clone()), completed.port.clone())
                }
                NodeState::Skipped => (None, None),
                NodeState::Running(_)
                | NodeState::Waiting { .. }
                | NodeState::Retrying { .. }
                | NodeState::Ready
                | NodeState::Failing(_)
                | NodeState::Looping(_)
                | NodeState::Failed(_) => return None,
            };
            Some(CarriedNode { path: plan.at(index).id.as_str().into(), output, port })
        })
        .collect()
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
