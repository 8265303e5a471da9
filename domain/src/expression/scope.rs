//! What an expression or a template can see.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{ExpressionError, References, Veil};
use crate::{json::Json, limits, personal};

/// The values that an expression or a template reads by name.
///
/// Cheap to clone and to send to another thread: values are JSON texts, and only those that a program names are parsed. It is enough
/// to put in the outputs that a node's `references` name.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// What the trigger gave.
    pub input: Json,
    /// The variables of the run.
    pub vars: BTreeMap<String, Json>,
    /// Outputs by node id, seen as `nodes.<id>.output`.
    pub nodes: BTreeMap<String, Json>,
    /// About the run: `id`, `trigger_type`, `started_at`, …
    pub execution: Json,
    /// About the workflow: `id`, `name`, `version`, …
    pub workflow: Json,
    /// Values of the deployment that workflows may see.
    pub env: BTreeMap<String, String>,
    /// The event that a trigger's filter looks at, before there is a run.
    pub event: Option<Json>,
    /// The item of the innermost `logic.for_each`.
    pub item: Option<Json>,
    /// The index of the innermost loop, from 0.
    pub index: Option<u64>,
    /// What the iteration before gave in the innermost `logic.while`; null in its first one.
    pub last: Option<Json>,
    /// What stands for secrets; none where no secret may be used at all.
    pub veil: Option<Veil>,
}

impl Scope {
    /// A scope of an input alone, for what is evaluated before a run exists.
    #[must_use]
    pub fn of_input(input: Json) -> Self {
        Self { input, ..Self::default() }
    }

    /// A scope of an event alone, for the filter of a trigger.
    #[must_use]
    pub fn of_event(event: Json) -> Self {
        Self { event: Some(event), ..Self::default() }
    }

    /// The variables that a program names, as values. What is not there is left out, and the program says so when it needs it.
    pub(super) fn read(
        &self,
        references: &References,
    ) -> Result<Vec<(String, Value)>, ExpressionError> {
        let mut left = limits::MAX_EVALUATION_INPUT_BYTES;
        let mut values = Vec::with_capacity(references.variables.len());
        for name in &references.variables {
            if let Some(value) = self.variable(name, references, &mut left)? {
                values.push((name.clone(), value));
            }
        }
        Ok(values)
    }

    fn variable(
        &self,
        name: &str,
        references: &References,
        left: &mut usize,
    ) -> Result<Option<Value>, ExpressionError> {
        Ok(match name {
            "input" => Some(parsed(&self.input, left)?),
            "execution" => Some(parsed(&self.execution, left)?),
            "workflow" => Some(parsed(&self.workflow, left)?),
            "event" => self.event.as_ref().map(|event| parsed(event, left)).transpose()?,
            "item" => self.item.as_ref().map(|item| parsed(item, left)).transpose()?,
            "last" => self.last.as_ref().map(|last| parsed(last, left)).transpose()?,
            "index" => self.index.map(Value::from),
            "vars" => {
                let mut vars = Map::new();
                for (name, value) in &self.vars {
                    vars.insert(name.clone(), parsed(value, left)?);
                }
                Some(Value::Object(vars))
            }
            "env" => {
                let entries = self.env.iter();
                let env = entries.map(|(name, value)| (name.clone(), Value::from(value.as_str())));
                Some(Value::Object(env.collect()))
            }
            "nodes" => {
                let mut nodes = Map::new();
                for id in &references.nodes {
                    if let Some(output) = self.nodes.get(id) {
                        let output = parsed(output, left)?;
                        nodes.insert(
                            id.clone(),
                            Value::Object(Map::from_iter([("output".to_owned(), output)])),
                        );
                    }
                }
                Some(Value::Object(nodes))
            }
            _ => None,
        })
    }
}

/// A value, taken off what the evaluation may still read. What is sealed in it is a text.
fn parsed(value: &Json, left: &mut usize) -> Result<Value, ExpressionError> {
    *left = left.checked_sub(value.as_str().len()).ok_or(ExpressionError::TooLarge {
        what: "what it reads",
        max_bytes: limits::MAX_EVALUATION_INPUT_BYTES,
    })?;
    Ok(match personal::may_be_sealed(value.as_str()) {
        true => personal::as_texts(value.to_value()),
        false => value.to_value(),
    })
}
