//! The role matrix as a function.

use serde::{Deserialize, Serialize};

/// What a member is in a workspace, from the most to the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything, also deleting the workspace.
    Owner,
    /// Everything but deleting and transferring it.
    Administrator,
    /// Builds and runs workflows.
    Editor,
    /// Looks.
    Viewer,
}
