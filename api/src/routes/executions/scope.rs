//! What a node saw when it began: the values that its expressions, templates or script could name.

use std::collections::BTreeMap;

use axum::extract::State;
use ledgerline_commands::AsOf;
use ledgerline_domain::{
    execution::{Execution, NodeOutput, NodePath, ScopeView},
    id::ExecutionId,
    json::Json,
};
use ledgerline_store::{StreamId, StreamVersion};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::find;
use crate::{answer::Answer, app::AppState, extract::Path, problem::Problem, reading::Reading};

/// Events that are read at once while the beginning of the node is looked for.
const EVENTS_READ: usize = 500;
/// What an answer holds of outputs; those beyond are named with their size.
const MAX_SHOWN_BYTES: usize = 4 * 1024 * 1024;

/// What a node saw. What was secret is masked in it, as in everything that the log holds.
#[derive(Debug, Serialize, ToSchema)]
pub struct NodeScope {
    /// The execution.
    #[schema(value_type = Uuid)]
    pub execution_id: ExecutionId,
    /// The run of the node.
    #[schema(value_type = String, example = "each[3]/fetch")]
    pub path: NodePath,
    /// The version of the execution's stream just before the node's last try began.
    pub version: i64,
    /// `input`: what the trigger gave.
    #[schema(value_type = Object)]
    pub input: Json,
    /// `vars`, by name.
    #[schema(value_type = Object)]
    pub vars: BTreeMap<String, Json>,
    /// `nodes`, by id: those that had an output.
    pub nodes: BTreeMap<String, SeenOutput>,
    /// `item` of the innermost loop; none outside of loops.
    #[schema(value_type = Option<Object>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item: Option<Json>,
    /// `index` of the innermost loop; none outside of loops.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
}

/// An output that a node saw: the value, or where it is.
#[derive(Debug, Serialize, ToSchema)]
pub struct SeenOutput {
    /// `output`, where it is small enough to be shown.
    #[schema(value_type = Option<Object>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<Json>,
    /// SHA-256 of a large one, which is a blob.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// How large it is.
    pub size_bytes: u64,
}

/// What a node saw when its last try began. Its path is one segment here: a `/` in it is written `%2F`.
#[utoipa::path(get, path = "/executions/{id}/nodes/{node}/scope", tag = "executions",
    params(("id" = Uuid, Path), ("node" = String, Path)), responses((status = 200, body = NodeScope)))]
pub async fn get(
    State(state): State<AppState>,
    reading: Reading,
    Path((id, node)): Path<(ExecutionId, String)>,
) -> Result<Answer<NodeScope>, Problem> {
    let position = reading.log();
    find(&state, &reading, id).await?;
    let path = NodePath(node);
    let began = began(&state, id, &path).await?.ok_or_else(|| Problem::not_found("node"))?;
    let before = StreamVersion(began.0 - 1);
    let then = state.commands.load_at::<Execution>(id, AsOf::Version(before)).await?;
    let run = then.state.run().ok_or_else(|| Problem::not_found("node"))?;
    let view = run.scope(&path);
    let ids = run.nodes.keys().map(NodePath::node_id);
    let scope = NodeScope {
        execution_id: id,
        version: before.0,
        input: view.input().clone(),
        vars: view.variables().map(|(name, value)| (name.to_owned(), value.clone())).collect(),
        nodes: outputs(&view, ids),
        item: view.item().cloned(),
        index: view.index(),
        path: path.clone(),
    };
    Ok(reading.answer(scope, position))
}

/// The outputs of these nodes as far as they are to be shown.
fn outputs<'a>(
    view: &ScopeView<'_>,
    ids: impl Iterator<Item = &'a str>,
) -> BTreeMap<String, SeenOutput> {
    let mut seen: BTreeMap<String, SeenOutput> = BTreeMap::new();
    let mut left = MAX_SHOWN_BYTES;
    for id in ids {
        if seen.contains_key(id) {
            continue;
        }
        let Some(output) = view.output(id) else { continue };
        let shown = match output {
            NodeOutput::Inline(value) => {
                let size = value.as_str().len();
                let fits = left.checked_sub(size);
                left = fits.unwrap_or(left);
                SeenOutput {
                    output: fits.map(|_| value.clone()),
                    hash: None,
                    size_bytes: u64::try_from(size).unwrap_or(u64::MAX),
                }
            }
            NodeOutput::Blob { hash, size_bytes } => {
                SeenOutput { output: None, hash: Some(hash.clone()), size_bytes: *size_bytes }
            }
        };
        seen.insert(id.to_owned(), shown);
    }
    seen
}

/// The event by which the last try of a node began: of a node that is computed in place, the one that says what it came to.
async fn began(
    state: &AppState,
    id: ExecutionId,
    path: &NodePath,
) -> Result<Option<StreamVersion>, Problem> {
    #[derive(Deserialize)]
    struct About {
        path: Option<NodePath>,
    }
    let (mut after, mut found) = (StreamVersion::NEW, None);
    loop {
        let page = state.commands.log().read_stream(StreamId(id.0), after, EVENTS_READ).await?;
        for event in &page {
            let is_start = event.r#type == "node_started";
            if !event.r#type.starts_with("node_") && event.r#type != "timer_set" {
                continue;
            }
            let about = serde_json::from_str::<About>(&event.payload).ok();
            if about.and_then(|about| about.path).is_some_and(|of| of == *path)
                && (is_start || found.is_none())
            {
                found = Some(event.version);
            }
        }
        match page.last() {
            Some(last) if page.len() == EVENTS_READ => after = last.version,
            _ => return Ok(found),
        }
    }
}
