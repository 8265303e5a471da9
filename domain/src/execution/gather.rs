//! Outputs put together from outputs, some of which lie in blobs that only the worker can load.

use std::collections::HashMap;

use super::{ItemFailure, NodeOutput, NodePath, NodeState, Plan, Run};
use crate::json::Json;

/// The output of a run, a loop, or one item of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gather {
    /// Nothing was produced.
    Nothing,
    /// The output of the only leaf, by reference where it is one.
    One(NodeOutput),
    /// The outputs of several leaves by id, without the skipped ones.
    Object(Vec<(String, NodeOutput)>),
    /// One output per item, in order.
    List(Vec<Gather>),
}

impl Gather {
    /// What the nodes of a scope gave.
    pub(super) fn of_scope(run: &Run, plan: &Plan, scope: &str) -> Self {
        let output = |leaf: &u32| {
            let id = &plan.at(*leaf).id;
            match &run.nodes.get(&NodePath::within(scope, id))?.state {
                NodeState::Completed(completed) => Some((id.clone(), completed.output.clone())),
                NodeState::Running(_)
                | NodeState::Waiting { .. }
                | NodeState::Retrying { .. }
                | NodeState::Ready
                | NodeState::Failing(_)
                | NodeState::Looping(_)
                | NodeState::Skipped
                | NodeState::Failed(_) => None,
            }
        };
        match plan.leaves() {
            [] => Self::Nothing,
            [only] => output(only).map_or(Self::Nothing, |(_, output)| Self::One(output)),
            leaves => Self::Object(leaves.iter().filter_map(output).collect()),
        }
    }

    /// What stands in a list for an item that failed: `{"error": {"node", "kind", "message", "details"}}`.
    pub(super) fn of_failure(failure: &ItemFailure) -> Self {
        let error = serde_json::json!({"error": {
            "node": failure.node,
            "kind": failure.error.kind,
            "message": failure.error.message,
            "details": failure.error.details,
        }});
        Self::One(NodeOutput::Inline(Json::from_value(&error)))
    }

    /// What a `logic.while` has after so many iterations: the output of the last of them.
    pub(super) fn of_iteration(run: &Run, body: &Plan, owner: &NodePath, iterations: u32) -> Self {
        let last = iterations.checked_sub(1);
        last.map_or(Self::Nothing, |last| Self::of_scope(run, body, &owner.item_scope(last)))
    }

    /// The output itself when it is one that is there already, so that a blob is passed on unread.
    #[must_use]
    pub fn as_is(&self) -> Option<NodeOutput> {
        match self {
            Self::Nothing => Some(NodeOutput::Inline(Json::null())),
            Self::One(output) => Some(output.clone()),
            Self::Object(_) | Self::List(_) => None,
        }
    }

    /// Hashes of the blobs that [`Self::to_json`] needs.
    #[must_use]
    pub fn blobs(&self) -> Vec<&str> {
        let mut hashes = Vec::new();
        self.collect_blobs(&mut hashes);
        hashes
    }

    /// The value as text, without parsing what it is made of. `None` when a blob is missing from `blobs`.
    #[must_use]
    pub fn to_json(&self, blobs: &HashMap<String, Json>) -> Option<Json> {
        let mut text = String::new();
        self.write(blobs, &mut text)?;
        Json::parse(&text).ok()
    }

    fn collect_blobs<'a>(&'a self, hashes: &mut Vec<&'a str>) {
        let mut note = |output: &'a NodeOutput| {
            if let NodeOutput::Blob { hash, .. } = output {
                hashes.push(hash.as_str());
            }
        };
        match self {
            Self::Nothing => {}
            Self::One(output) => note(output),
            Self::Object(outputs) => outputs.iter().for_each(|(_, output)| note(output)),
            Self::List(items) => items.iter().for_each(|item| item.collect_blobs(hashes)),
        }
    }

    fn write(&self, blobs: &HashMap<String, Json>, text: &mut String) -> Option<()> {
        let put = |output: &NodeOutput, text: &mut String| {
            text.push_str(match output {
                NodeOutput::Inline(value) => value.as_str(),
                NodeOutput::Blob { hash, .. } => blobs.get(hash)?.as_str(),
            });
            Some(())
        };
        match self {
            Self::Nothing => text.push_str("null"),
            Self::One(output) => put(output, text)?,
            Self::Object(outputs) => {
                text.push('{');
                for (index, (id, output)) in outputs.iter().enumerate() {
                    if index > 0 {
                        text.push(',');
                    }
                    text.push_str(&serde_json::to_string(id).ok()?);
                    text.push(':');
                    put(output, text)?;
                }
                text.push('}');
            }
            Self::List(items) => {
                text.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        text.push(',');
                    }
                    item.write(blobs, text)?;
                }
                text.push(']');
            }
        }
        Some(())
    }
}
