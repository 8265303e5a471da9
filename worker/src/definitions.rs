//! The definitions that runs are pinned to, parsed once per version.

use std::sync::Arc;

use ledgerline_commands::{Commands, LoadError, definitions::at_hand};
use ledgerline_domain::{
    execution::{NodeEdit, Plan},
    graph::Graph,
    id::WorkflowId,
    json::Json,
    vault::SecretName,
    workflow::{Workflow, WorkflowVersion},
};
use moka::sync::Cache;
use serde_json::json;
use tokio::task::spawn_blocking;

use crate::pace::Pace;

/// How much memory parsed versions may take, in bytes: definitions differ in size by a factor of thousands, so their number says little.
const MAX_KEPT_BYTES: u64 = 256 * 1024 * 1024;
/// What a byte of a definition's text takes when it is parsed and its expressions are compiled: a cautious estimate.
const PARSED_BYTES_PER_BYTE: usize = 8;

/// A version of a workflow, ready to run.
pub(crate) struct Definition {
    /// Its nodes with their compiled configurations.
    pub(crate) graph: Arc<Graph>,
    /// How a run walks it.
    pub(crate) plan: Arc<Plan>,
    /// What expressions see as `workflow`.
    pub(crate) facts: Json,
    /// Where its rounds are planned.
    pub(crate) pace: Pace,
    /// The secrets that any of its nodes names.
    pub(crate) secrets: Arc<[SecretName]>,
    /// About how much memory it takes.
    bytes: u32,
}

/// Why a definition can't be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DefinitionError {
    /// The workflow can't be read now.
    #[error("the workflow can't be read")]
    Load(#[from] LoadError),
    /// The workflow has no such version, or this build can't parse what an older one accepted.
    #[error("{0}")]
    Unusable(String),
}

/// Parsed definitions by workflow and version. A version never changes, so an entry is right for ever.
pub(crate) struct Definitions {
    commands: Commands,
    kept: Cache<(WorkflowId, WorkflowVersion), Arc<Definition>>,
}

impl Definitions {
    pub(crate) fn new(commands: Commands) -> Self {
        let kept = Cache::builder()
            .max_capacity(MAX_KEPT_BYTES)
            .weigher(|_, definition: &Arc<Definition>| definition.bytes)
            .build();
        Self { commands, kept }
    }

    /// A version as a run has it: with other values in the configuration of some nodes, where the run was made so.
    pub(crate) async fn get(
        &self,
        workflow: WorkflowId,
        version: WorkflowVersion,
        edits: &[NodeEdit],
    ) -> Result<Arc<Definition>, DefinitionError> {
        if edits.is_empty()
            && let Some(kept) = self.kept.get(&(workflow, version))
        {
            return Ok(kept);
        }
        let mut state = self.commands.load_cached::<Workflow>(workflow).await?.state;
        if state.content().is_none_or(|content| content.version(version).is_none()) {
            state = self.commands.load::<Workflow>(workflow).await?.state;
        }
        let content = state.content().ok_or_else(|| {
            DefinitionError::Unusable(format!("the workflow {workflow} does not exist"))
        })?;
        let unusable = |reason: String| {
            DefinitionError::Unusable(format!(
                "version {} of the workflow can't run: {reason}",
                version.0
            ))
        };
        let draft =
            content.version(version).ok_or_else(|| unusable("it does not exist".to_owned()))?;
        let facts =
            Json::from_value(&json!({"id": workflow, "name": draft.name, "version": version}));
        at_hand(self.commands.log().as_ref(), workflow, content, version).await?;
        let bytes = draft.definition().map_or(0, |text| text.as_str().len());
        let bytes = bytes.saturating_mul(PARSED_BYTES_PER_BYTE);
        // A large definition takes a moment to parse, in which the other runs should not have to wait.
        let (parsing, edited) = (Arc::clone(&state), edits.to_vec());
        let graph = spawn_blocking(move || {
            let content = parsing.content()?;
            if edited.is_empty() {
                return Some(content.graph(version).map_err(|error| error.to_string()));
            }
            let definition = content.version(version)?.definition()?.to_value();
            let edits = edited.iter().map(|edit| (edit.node.as_str(), &edit.config));
            Some(Graph::parse_edited(&definition, edits).map(Arc::new).map_err(|problems| {
                let first = problems.first().map_or("", |problem| problem.reason.as_str());
                format!("with the edits of this run: {first}")
            }))
        });
        let graph = graph.await.ok().flatten();
        let graph = graph.ok_or_else(|| unusable("its parser broke off".to_owned()))?;
        let graph = graph.map_err(unusable)?;
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let secrets = graph.secrets().into();
        let (plan, pace) = (Plan::of(&graph), Pace::default());
        let definition = Arc::new(Definition { plan, graph, facts, secrets, pace, bytes });
        if edits.is_empty() {
            self.kept.insert((workflow, version), Arc::clone(&definition));
        }
        Ok(definition)
    }
}
