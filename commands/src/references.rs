//! Whether what a definition names outside of itself is there.

use std::collections::HashMap;

use ledgerline_domain::{
    graph::{Definition, Problem, ProblemCode},
    id::{WorkflowId, WorkspaceId},
    limits::MAX_PROBLEMS,
    workflow::Workflow,
};

use crate::{Commands, LoadError};

impl Commands {
    /// The workflows that a definition names and its workspace does not have.
    ///
    /// # Errors
    /// When the log is away.
    pub async fn unknown_workflows(
        &self,
        workspace_id: WorkspaceId,
        definition: &Definition,
    ) -> Result<Vec<Problem>, LoadError> {
        let mut known: HashMap<WorkflowId, bool> = HashMap::new();
        let mut problems = Vec::new();
        for reference in definition.workflows() {
            let id = reference.workflow_id;
            if let std::collections::hash_map::Entry::Vacant(entry) = known.entry(id) {
                let loaded = self.load::<Workflow>(id).await?;
                let is_here = loaded.state.status().is_some()
                    && loaded.origin.is_some_and(|origin| origin.workspace.0 == workspace_id.0);
                entry.insert(is_here);
            }
            if !known[&id] && problems.len() < MAX_PROBLEMS {
                problems.push(Problem {
                    node_id: reference.node_id,
                    field: reference.field,
                    code: ProblemCode::WorkflowUnknown,
                    reason: format!("there is no workflow {id} in this workspace"),
                });
            }
        }
        Ok(problems)
    }
}
