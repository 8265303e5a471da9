//! What a run that comes to a bad end undoes of what it did, as its page and `why` show it.

use ledgerline_domain::execution::{EndCause, Execution, NodeError, NodePath};
use serde::Serialize;
use utoipa::ToSchema;

/// Which way an open run goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExecutionPhase {
    /// Through its graph.
    Forward,
    /// It failed or was cancelled, and undoes what it did before it ends.
    Compensating,
}

/// What a run undoes, or undid, before it ends.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CompensationView {
    /// How the run ends with it: `failed` or `cancelled`.
    pub ends_as: EndsAs,
    /// How many nodes were undone.
    pub undone: u32,
    /// How many are not: while it goes on, those whose turn is still to come with them.
    pub not_undone: u32,
    /// The first of those, in the order in which they are undone.
    pub nodes: Vec<NotUndoneView>,
}

/// How a run ends that undoes what it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndsAs {
    /// With a failure.
    Failed,
    /// Stopped.
    Cancelled,
}

/// A node whose effect is still there.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct NotUndoneView {
    /// The node.
    #[schema(value_type = String)]
    pub node: NodePath,
    /// The node that undoes it.
    #[schema(value_type = String)]
    pub undo: NodePath,
    /// Why that failed; nothing where it never began, or has not ended.
    #[schema(value_type = Option<Object>)]
    pub error: Option<NodeError>,
}

/// Which way it goes; none once it has ended.
pub(super) fn phase(execution: &Execution) -> Option<ExecutionPhase> {
    let open = execution.open()?;
    Some(match open.undoing() {
        Some(_) => ExecutionPhase::Compensating,
        None => ExecutionPhase::Forward,
    })
}

/// What it undoes or undid; none where it goes forward, and where there was nothing to undo.
pub(super) fn compensation(execution: &Execution) -> Option<CompensationView> {
    let (ends_as, came) = match execution {
        Execution::New | Execution::Completed { .. } => return None,
        Execution::Open(open) => {
            let ends_as = match open.undoing()?.because {
                EndCause::Failed { .. } => EndsAs::Failed,
                EndCause::Cancelled { .. } => EndsAs::Cancelled,
            };
            (ends_as, open.compensation()?)
        }
        Execution::Failed { run, .. } => (EndsAs::Failed, run.compensation.clone()?),
        Execution::Cancelled { run, .. } => (EndsAs::Cancelled, run.compensation.clone()?),
    };
    let nodes = came.named.into_iter();
    let nodes =
        nodes.map(|node| NotUndoneView { node: node.node, undo: node.undo, error: node.error });
    let (undone, not_undone) = (came.undone, came.not_undone);
    Some(CompensationView { ends_as, undone, not_undone, nodes: nodes.collect() })
}

/// The same for a person, before what it waits for.
pub(super) fn explained(compensation: &CompensationView) -> String {
    let why = match compensation.ends_as {
        EndsAs::Failed => "it failed",
        EndsAs::Cancelled => "it was cancelled",
    };
    let all = compensation.undone + compensation.not_undone;
    let plural = if all == 1 { "" } else { "s" };
    format!("{why} and undoes what it did: {} of {all} node{plural} undone", compensation.undone)
}
