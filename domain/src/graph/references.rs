//! What a definition names outside of itself: whether it is there can only be told where it is saved.

use serde_json::Value;

use super::{Definition, Place};
use crate::id::WorkflowId;

/// A workflow that a definition names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkflowReference {
    /// The node that names it; none for the settings.
    pub node_id: Option<String>,
    /// JSON Pointer to where it is named.
    pub field: String,
    /// Which workflow.
    pub workflow_id: WorkflowId,
}

impl Definition {
    /// Every workflow that it names, bodies of loops included.
    #[must_use]
    pub fn workflows(&self) -> Vec<WorkflowReference> {
        let definition = self.text().to_value();
        let mut found = Vec::new();
        let settings = Place::default().field("settings").field("error_workflow_id");
        note(&definition["settings"]["error_workflow_id"], settings, &mut found);
        collect(&definition["nodes"], &Place::default().field("nodes"), &mut found);
        found
    }
}

fn collect(nodes: &Value, place: &Place, found: &mut Vec<WorkflowReference>) {
    for (index, node) in nodes.as_array().into_iter().flatten().enumerate() {
        let mut place = place.item(index).field("config");
        place.node_id = node["id"].as_str().map(str::to_owned);
        if node["type"] == "logic.workflow" {
            note(&node["config"]["workflow_id"], place.field("workflow_id"), found);
        }
        collect(&node["config"]["nodes"], &place.field("nodes"), found);
    }
}

fn note(value: &Value, place: Place, found: &mut Vec<WorkflowReference>) {
    if let Some(id) = value.as_str().and_then(|text| text.parse::<uuid::Uuid>().ok()) {
        let Place { node_id, pointer: field } = place;
        found.push(WorkflowReference { node_id, field, workflow_id: WorkflowId(id) });
    }
}
