//! Whether what a definition names is there: checked when it is saved, against the vault and the workflows as they are then.

use ledgerline_domain::{graph::Definition, id::WorkspaceId};

use super::body::field_error;
use crate::{
    app::AppState,
    problem::{FieldError, Problem},
    vault,
};

/// Everything that a definition names and its workspace doesn't have.
///
/// # Errors
/// 503 when the log is away.
pub(super) async fn missing(
    state: &AppState,
    workspace: WorkspaceId,
    definition: &Definition,
) -> Result<Vec<FieldError>, Problem> {
    let mut problems = state.commands.unknown_workflows(workspace, definition).await?;
    if definition.graph().names_anything() {
        let vault = vault::vault(state, workspace).await?;
        problems.extend(definition.graph().missing_from(&vault.state));
    }
    Ok(problems.into_iter().map(field_error).collect())
}

/// Refuses a definition that names what its workspace doesn't have.
///
/// # Errors
/// 422 with all of it.
pub(crate) async fn demand(
    state: &AppState,
    workspace: WorkspaceId,
    definition: &Definition,
) -> Result<(), Problem> {
    let missing = missing(state, workspace, definition).await?;
    if missing.is_empty() { Ok(()) } else { Err(Problem::invalid_values(missing)) }
}
