//! A person decides what becomes of a node that failed for the last time: what the run itself can't see is looked at here.

use ledgerline_domain::{
    execution::{Execution, ExecutionCommand, ExecutionRejection, NodePath, Resolution},
    id::ExecutionId,
    limits::MAX_INLINE_OUTPUT_BYTES,
    workflow::{Workflow, WorkflowRejection},
};

use crate::{CommandError, Scope, Target, definitions::at_hand};

/// Why a decision is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ResolveRejection {
    /// The execution refuses it.
    #[error(transparent)]
    Execution(#[from] ExecutionRejection),
    /// Its workflow does.
    #[error(transparent)]
    Workflow(#[from] WorkflowRejection),
    /// The node can't be left like that.
    #[error("{0}")]
    Port(String),
    /// The output is too large for an event.
    #[error("the output has {size} bytes, more than {max}")]
    OutputTooLarge {
        /// Its size.
        size: usize,
        /// What it may have.
        max: usize,
    },
}

/// The command of a decision.
///
/// # Errors
/// What the execution refuses, and an outcome that its node can't have.
pub async fn resolve(
    scope: &Scope,
    execution_id: ExecutionId,
    path: &NodePath,
    resolution: &Resolution,
) -> Result<(Target, ExecutionCommand), CommandError<ResolveRejection>> {
    let rejected = |rejection: ResolveRejection| Err(CommandError::Rejected(rejection));
    if let Resolution::Complete { output, port } = resolution {
        let (size, max) = (output.as_str().len(), MAX_INLINE_OUTPUT_BYTES);
        if size > max {
            return rejected(ResolveRejection::OutputTooLarge { size, max });
        }
        let execution = scope.peek::<Execution>(execution_id).await?.state;
        let Some(run) = execution.run() else {
            return rejected(ExecutionRejection::NotRequested.into());
        };
        let (workflow_id, version) = (run.request.workflow_id, run.request.workflow_version);
        let workflow = scope.peek::<Workflow>(workflow_id).await?.state;
        let Some(content) = workflow.content() else {
            return rejected(WorkflowRejection::NotFound.into());
        };
        at_hand(scope.log().as_ref(), workflow_id, content, version).await?;
        let graph = content.graph(version);
        let graph = graph.map_err(|rejection| CommandError::Rejected(rejection.into()))?;
        let Some((graph, index)) = graph.find(path.node_id()) else {
            let path = path.as_str().to_owned();
            return rejected(ExecutionRejection::NotHeld { path }.into());
        };
        let node = graph.node(index);
        let ports = node.ports();
        let fits = match port {
            None => node.has_unnamed_port(),
            Some(port) => ports.iter().any(|known| known == port),
        };
        if !fits && ports.is_empty() {
            return rejected(ResolveRejection::Port("the node has no ports".to_owned()));
        }
        if !fits {
            let reason = format!("the node is left by a port: {}", ports.join(", "));
            return rejected(ResolveRejection::Port(reason));
        }
    }
    let (path, resolution) = (path.clone(), resolution.clone());
    Ok((Target::existing(execution_id), ExecutionCommand::Resolve { path, resolution }))
}
