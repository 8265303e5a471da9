//! The nodes that steer others: merges, loops over a body, and runs of other workflows. Their configuration, how it is read, and what it comes to.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{NodeConfig, ResolveError};
use crate::{
    expression::{Expression, ExpressionError, Scope, TemplateValue},
    graph::{Fields, Graph, ProblemCode, Reader, Settings},
    id::WorkflowId,
    limits,
    workflow::WorkflowVersion,
};

/// Where branches come together again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeConfig {
    /// What it waits for.
    pub mode: MergeMode,
}

/// What a merge waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MergeMode {
    /// Every connection; its output is an object of the outputs that came, by node.
    #[default]
    All,
    /// The first one that is taken; its output is what came by that, and later ones change nothing.
    Any,
}

impl MergeMode {
    /// Every mode with its word.
    pub const ALL: [(&'static str, Self); 2] = [("all", Self::All), ("any", Self::Any)];
}

/// A body for each item of a list; its output is the list of the body's outputs.
#[derive(Clone, Debug, PartialEq)]
pub struct ForEachConfig {
    /// The list.
    pub items: Expression,
    /// How many items run at once.
    pub concurrency: u32,
    /// What follows when a node of the body fails for an item.
    pub on_item_error: OnItemError,
    /// What runs, with `item` and `index` in scope.
    pub body: Graph,
}

/// What follows when a node of a loop's body fails for an item.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnItemError {
    /// The loop fails with that error, and no other item begins.
    #[default]
    Fail,
    /// The others go on, and the item is `null` in the list.
    Continue,
    /// The others go on, and the item is `{"error": {"node", "kind", "message", "details"}}` in the list.
    Collect,
}

impl OnItemError {
    /// Every policy with its word.
    pub const ALL: [(&'static str, Self); 3] =
        [("fail", Self::Fail), ("continue", Self::Continue), ("collect", Self::Collect)];
}

/// A body that runs again as long as a condition holds; its output is `{"output": <of the last iteration>, "iterations": <how many>}`.
#[derive(Clone, Debug, PartialEq)]
pub struct WhileConfig {
    /// Asked before each iteration, with `index` and `last` (what the one before gave, null in the first) in scope.
    pub condition: Expression,
    /// How many iterations there may be: when the condition still holds after that many, the loop fails.
    pub max_iterations: u32,
    /// What runs, with `index` and `last` in scope.
    pub body: Graph,
}

/// A run of another workflow.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkflowConfig {
    /// Which workflow, of the same workspace.
    pub workflow_id: WorkflowId,
    /// Which version of it; none for the published one, else the latest draft.
    pub version: Option<WorkflowVersion>,
    /// What it is given; an empty object where it is left out.
    pub input: TemplateValue,
    /// Whether the node waits for its end. One that does not is done at once.
    pub wait: bool,
}

/// What a merge comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedMerge {
    /// What it waits for.
    pub mode: MergeMode,
}

/// What to loop over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResolvedForEach {
    /// The items.
    pub items: Vec<Value>,
    /// How many run at once.
    pub concurrency: u32,
}

/// How often to loop at most; the condition is asked before each iteration, and not recorded here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedWhile {
    /// How many iterations there may be.
    pub max_iterations: u32,
}

/// A run to start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResolvedWorkflow {
    /// Of which workflow.
    pub workflow_id: WorkflowId,
    /// Which version of it; none for the published one, else the latest draft.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<WorkflowVersion>,
    /// What it is given.
    pub input: Value,
    /// Whether the node waits for its end.
    pub wait: bool,
}

impl WorkflowConfig {
    pub(super) fn resolve(&self, scope: &Scope) -> Result<ResolvedWorkflow, ResolveError> {
        let input = self.input.evaluate(scope);
        let input = input.map_err(|error| ResolveError { field: "/input".to_owned(), error })?;
        let Self { workflow_id, version, wait, .. } = *self;
        Ok(ResolvedWorkflow { workflow_id, version, input, wait })
    }
}

impl ForEachConfig {
    pub(super) fn resolve(&self, scope: &Scope) -> Result<ResolvedForEach, ResolveError> {
        let wrong = |error| ResolveError { field: "/items".to_owned(), error };
        let refused = |message: String| wrong(ExpressionError::Evaluation { message });
        let Value::Array(items) = self.items.evaluate(scope).map_err(wrong)? else {
            return Err(refused("expected a list".to_owned()));
        };
        if items.len() > limits::MAX_LOOP_ITEMS {
            let found = items.len();
            return Err(refused(format!(
                "at most {} items, found {found}",
                limits::MAX_LOOP_ITEMS
            )));
        }
        Ok(ResolvedForEach { items, concurrency: self.concurrency })
    }
}

impl WhileConfig {
    pub(super) fn holds(&self, scope: &Scope) -> Result<bool, ResolveError> {
        let holds = self.condition.evaluate_condition(scope);
        holds.map_err(|error| ResolveError { field: "/condition".to_owned(), error })
    }
}

pub(super) fn read_merge(fields: &mut Fields<'_>, reader: &mut Reader) -> NodeConfig {
    let mode = fields.one_of("mode", &MergeMode::ALL, reader).unwrap_or_default();
    NodeConfig::Merge(MergeConfig { mode })
}

pub(super) fn read_for_each(
    fields: &mut Fields<'_>,
    settings: &Settings,
    reader: &mut Reader,
) -> Option<NodeConfig> {
    let items = fields.expression("items", reader);
    let concurrency = fields
        .integer("concurrency", 1..=u64::from(limits::MAX_PARALLELISM), reader)
        .and_then(|concurrency| u32::try_from(concurrency).ok())
        .unwrap_or(1);
    let on_item_error =
        fields.one_of("on_item_error", &OnItemError::ALL, reader).unwrap_or_default();
    reader.each_depth += 1;
    let body = read_body(fields, settings, reader);
    reader.each_depth -= 1;
    let config = ForEachConfig { items: items?, concurrency, on_item_error, body: body? };
    Some(NodeConfig::ForEach(Box::new(config)))
}

pub(super) fn read_while(
    fields: &mut Fields<'_>,
    settings: &Settings,
    reader: &mut Reader,
) -> Option<NodeConfig> {
    reader.while_depth += 1;
    let condition = fields.expression("condition", reader);
    let body = read_body(fields, settings, reader);
    reader.while_depth -= 1;
    if !fields.has("max_iterations") {
        fields.required("max_iterations", reader);
    }
    let range = 1..=u64::from(limits::MAX_LOOP_ITERATIONS);
    let max_iterations = fields.integer("max_iterations", range, reader)?;
    let max_iterations = u32::try_from(max_iterations).ok()?;
    let config = WhileConfig { condition: condition?, max_iterations, body: body? };
    Some(NodeConfig::While(Box::new(config)))
}

pub(super) fn read_workflow(fields: &mut Fields<'_>, reader: &mut Reader) -> Option<NodeConfig> {
    let place = fields.place_of("workflow_id");
    let workflow_id = fields.required("workflow_id", reader).and_then(|value| {
        let id = value.as_str().and_then(|text| text.parse::<uuid::Uuid>().ok());
        if id.is_none() {
            reader.report(&place, ProblemCode::InvalidValue, "expected the id of a workflow");
        }
        id.map(WorkflowId)
    });
    let version = fields.integer("version", 1..=u64::from(u16::MAX), reader);
    let version = version.and_then(|version| i32::try_from(version).ok()).map(WorkflowVersion);
    let place = fields.place_of("input");
    let input = match fields.get("input") {
        Some(input) => reader.template_value(input, &place),
        None => TemplateValue::Constant(Value::Object(serde_json::Map::new())),
    };
    let wait = fields.boolean("wait", reader).unwrap_or(true);
    let workflow_id = workflow_id?;
    Some(NodeConfig::Workflow(WorkflowConfig { workflow_id, version, input, wait }))
}

fn read_body(fields: &mut Fields<'_>, settings: &Settings, reader: &mut Reader) -> Option<Graph> {
    if reader.loop_depth >= limits::MAX_LOOP_DEPTH {
        let reason = format!("loops nest at most {} deep", limits::MAX_LOOP_DEPTH);
        reader.report(&fields.place, ProblemCode::LoopTooDeep, reason);
        fields.get("nodes");
        fields.get("connections");
        return None;
    }
    reader.loop_depth += 1;
    let body = Graph::read_body(fields, settings, reader);
    reader.loop_depth -= 1;
    if fields.get("nodes").is_none_or(|nodes| nodes.as_array().is_some_and(Vec::is_empty)) {
        let reason = "a loop has at least one node";
        reader.report(&fields.place_of("nodes"), ProblemCode::Required, reason);
    }
    body
}
