//! The nodes of one execution as they were: the same fold that fills the table, over its events up to then, in memory.
//!
//! Nodes come in the order of their first events, which is the order of the list, so a page of them holds no more than its own nodes
//! however long the history is.

use std::collections::HashMap;

use ledgerline_domain::{
    event::{AnyEvent, DecodeError},
    execution::{CarriedNode, ExecutionEvent, NodePath},
};
use ledgerline_store::RecordedEvent;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{ExecutionNode, ExecutionNodes, Row, path_of};
use crate::{projection::LogEvent, values::RawJson};

/// A page of the nodes of one execution, folded from its events.
#[derive(Debug)]
pub struct PastNodes {
    model: ExecutionNodes,
    execution: Uuid,
    /// The place in the order of the list after which the page begins.
    after: (i64, String),
    limit: usize,
    /// Every node that has begun, and whether it is one of the page.
    known: HashMap<NodePath, bool>,
    /// The nodes of the page, in order.
    paths: Vec<NodePath>,
}

/// Why an event of the past can't be shown.
#[derive(Debug, thiserror::Error)]
pub enum PastError {
    /// It was written by a newer build, or is corrupt.
    #[error("an event of the execution can't be read")]
    Event(#[from] DecodeError),
    /// A value of a node is no JSON.
    #[error("a value of a node is not JSON")]
    Value(#[from] serde_json::Error),
}

impl PastNodes {
    /// A page after a place in the order of the list (`(0, "")` for the first one), of at most `limit` nodes.
    #[must_use]
    pub fn new(after: (i64, &str), limit: usize) -> Self {
        Self {
            model: ExecutionNodes::default(),
            execution: Uuid::nil(),
            after: (after.0, after.1.to_owned()),
            limit,
            known: HashMap::new(),
            paths: Vec::new(),
        }
    }

    /// Takes in the next event of the execution.
    ///
    /// # Errors
    /// [`PastError::Event`].
    pub fn apply(&mut self, recorded: RecordedEvent) -> Result<(), PastError> {
        let RecordedEvent { category, r#type, schema_version, payload, .. } = &recorded;
        let event = AnyEvent::decode(category, r#type, *schema_version, payload)?;
        let event = LogEvent {
            position: recorded.position.0,
            stream: recorded.stream.0,
            version: recorded.version.0,
            workspace: recorded.workspace.0,
            event_id: recorded.event_id,
            at: recorded.recorded_at,
            event,
            metadata: recorded.metadata,
        };
        self.take(event);
        Ok(())
    }

    /// Takes in the next event of the execution, decoded.
    pub fn take(&mut self, mut event: LogEvent) {
        self.execution = event.stream;
        let position = event.position;
        let AnyEvent::Execution(execution) = &mut event.event else { return };
        // They all begin here, and the list has them by their paths.
        let mut begin = |carried: &mut Vec<CarriedNode>| {
            carried.sort_by(|a, b| a.path.cmp(&b.path));
            carried.retain(|node| self.begins(position, &node.path));
        };
        if let ExecutionEvent::ExecutionRequested(requested) = execution {
            requested.origin.iter_mut().for_each(|origin| begin(&mut origin.carried));
        } else if let ExecutionEvent::NodesCarried(event) = execution {
            begin(&mut event.nodes);
        }
        if path_of(execution).is_some_and(|path| !self.begins(position, path)) {
            return;
        }
        let AnyEvent::Execution(execution) = &event.event else { return };
        self.model.apply_execution(&event, execution);
    }

    /// Whether a node is one of the page.
    fn begins(&mut self, position: i64, path: &NodePath) -> bool {
        if let Some(shown) = self.known.get(path) {
            return *shown;
        }
        let is_after = (position, path.as_str()) > (self.after.0, self.after.1.as_str());
        let shown = is_after && self.paths.len() < self.limit;
        if shown {
            self.paths.push(path.clone());
        }
        self.known.insert(path.clone(), shown);
        shown
    }

    /// The nodes of the page.
    ///
    /// # Errors
    /// [`PastError::Value`].
    pub fn into_items(self) -> Result<Vec<ExecutionNode>, PastError> {
        let Self { model, execution, paths, .. } = self;
        let rows = paths.into_iter().filter_map(|path| {
            let row = model.nodes.get(&(execution, path.0.clone()))?;
            Some(item(row, path.0))
        });
        rows.collect()
    }
}

fn item(row: &Row, path: String) -> Result<ExecutionNode, PastError> {
    let value = |text: &Option<String>| -> Result<Option<RawJson>, PastError> {
        let raw = text.clone().map(RawValue::from_string).transpose()?;
        Ok(raw.map(sqlx::types::Json))
    };
    Ok(ExecutionNode {
        path,
        status: row.status,
        attempt: row.attempt,
        items: row.items,
        carried: row.carried,
        port: row.port.clone(),
        started_at: row.started_at,
        finished_at: row.finished_at,
        duration_ms: row.duration_ms,
        retry_at: row.retry_at,
        wait_until: row.wait_until,
        failed_attempts: sqlx::types::Json(RawValue::from_string(row.failed_attempts.clone())?),
        input: value(&row.input)?,
        output: value(&row.output)?,
        output_blob: value(&row.output_blob)?,
        error: value(&row.error)?,
        first_position: row.first_position,
        position: row.position,
    })
}
