//! What holds for a whole run.

use serde_json::Value;

use super::{Fields, Place, ProblemCode, Reader};
use crate::{
    execution::{LimitStrategy, Queue},
    expression::{Expression, ExpressionError, Scope},
    id::WorkflowId,
    json::Json,
    limits,
    node::RetryPolicy,
};

/// The settings of a definition, each with its usual value where it is left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How many runs there may be at once.
    pub concurrency: Concurrency,
    /// The line that a run waits in.
    pub queue: Queue,
    /// How long a run may take; none for as long as it takes.
    pub timeout_ms: Option<u64>,
    /// How nodes are retried that don't say it themselves.
    pub retry: RetryPolicy,
    /// How many nodes of a run run at once.
    pub parallelism: u32,
    /// The workflow that is started when a run fails, of the same workspace.
    pub error_workflow_id: Option<WorkflowId>,
}

/// How many runs of a workflow there may be at once; the others wait in line.
#[derive(Clone, Debug, PartialEq)]
pub struct Concurrency {
    /// How many; none for no limit.
    pub limit: Option<u32>,
    /// Counts runs by the value of this expression over the input, where it is given, instead of all runs of the workflow.
    pub key: Option<Expression>,
    /// What happens to a run that is requested when all slots are taken.
    pub strategy: LimitStrategy,
    /// How many runs of the workflow may wait that no worker ever took; more are refused.
    pub max_queued: u32,
}

/// How many runs of a workflow there may be at once where it doesn't say.
const DEFAULT_CONCURRENCY: u32 = 3;
/// How many runs of a workflow may wait where it doesn't say.
const DEFAULT_MAX_QUEUED: u32 = 10_000;
/// How many nodes of a run run at once where it doesn't say.
const DEFAULT_PARALLELISM: u32 = 8;

impl Default for Concurrency {
    fn default() -> Self {
        Self {
            limit: Some(DEFAULT_CONCURRENCY),
            key: None,
            strategy: LimitStrategy::default(),
            max_queued: DEFAULT_MAX_QUEUED,
        }
    }
}

impl Concurrency {
    /// The text that runs with this input are counted by, next to the workflow; none where all runs are counted together.
    ///
    /// # Errors
    /// When the key can't be evaluated over the input.
    pub fn key_of(&self, input: &Json) -> Result<Option<String>, ExpressionError> {
        let Some(key) = &self.key else { return Ok(None) };
        let value = key.evaluate(&Scope::of_input(input.clone()))?;
        Ok(Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            concurrency: Concurrency::default(),
            queue: Queue::default(),
            timeout_ms: None,
            retry: RetryPolicy::default(),
            parallelism: DEFAULT_PARALLELISM,
            error_workflow_id: None,
        }
    }
}

impl Settings {
    /// Reads settings; what is unsound has its usual value, beside the problem.
    pub(super) fn read(value: &Value, place: Place, reader: &mut Reader) -> Self {
        let mut settings = Self::default();
        let Some(mut fields) = Fields::open(value, place, reader) else { return settings };
        if let Some(concurrency) = fields.get("concurrency") {
            let place = fields.place_of("concurrency");
            settings.concurrency = read_concurrency(concurrency, place, reader);
        }
        const QUEUES: [(&str, Queue); 3] =
            [("high", Queue::High), ("default", Queue::Default), ("low", Queue::Low)];
        settings.queue = fields.one_of("queue", &QUEUES, reader).unwrap_or_default();
        settings.timeout_ms =
            fields.integer("timeout_ms", 1..=limits::MAX_EXECUTION_TIMEOUT_MS, reader);
        if let Some(retry) = fields.get("retry") {
            let place = fields.place_of("retry");
            settings.retry = RetryPolicy::read(retry, place, reader).unwrap_or_default();
        }
        let parallelism = 1..=u64::from(limits::MAX_PARALLELISM);
        settings.parallelism = fields
            .integer("parallelism", parallelism, reader)
            .and_then(|parallelism| u32::try_from(parallelism).ok())
            .unwrap_or(DEFAULT_PARALLELISM);
        if let Some(value) = fields.get("error_workflow_id") {
            let id = value.as_str().and_then(|text| text.parse::<uuid::Uuid>().ok());
            if id.is_none() {
                let reason = "expected the id of a workflow";
                let place = fields.place_of("error_workflow_id");
                reader.report(&place, ProblemCode::InvalidValue, reason);
            }
            settings.error_workflow_id = id.map(WorkflowId);
        }
        for name in ["retention_days"] {
            if fields.get(name).is_some() {
                let reason = format!("`{name}` is not available");
                reader.report(&fields.place_of(name), ProblemCode::Unsupported, reason);
            }
        }
        fields.finish(reader);
        settings
    }
}

fn read_concurrency(value: &Value, place: Place, reader: &mut Reader) -> Concurrency {
    let mut concurrency = Concurrency::default();
    let Some(mut fields) = Fields::open(value, place, reader) else { return concurrency };
    // Here `null` says something: no limit.
    if fields.has("limit") {
        concurrency.limit = match fields.get("limit") {
            None => None,
            Some(_) => fields
                .integer("limit", 1..=u64::from(limits::MAX_CONCURRENCY), reader)
                .and_then(|limit| u32::try_from(limit).ok()),
        };
    } else {
        fields.get("limit");
    }
    if let Some(key) = fields.get("key") {
        let place = fields.place_of("key");
        concurrency.key = reader.expression(key, &place);
        let reads_more = concurrency.key.as_ref().is_some_and(|key| !key.reads_only("input"));
        if reads_more {
            let reason = "a key is evaluated before the run, so it sees `input` alone";
            reader.report(&place, ProblemCode::UnknownVariable, reason);
        }
    }
    const STRATEGIES: [(&str, LimitStrategy); 4] = [
        ("queue", LimitStrategy::Queue),
        ("reject", LimitStrategy::Reject),
        ("cancel_running", LimitStrategy::CancelRunning),
        ("cancel_newest", LimitStrategy::CancelNewest),
    ];
    concurrency.strategy = fields.one_of("strategy", &STRATEGIES, reader).unwrap_or_default();
    concurrency.max_queued = fields
        .integer("max_queued", 1..=u64::from(limits::MAX_QUEUED), reader)
        .and_then(|max| u32::try_from(max).ok())
        .unwrap_or(DEFAULT_MAX_QUEUED);
    fields.finish(reader);
    concurrency
}
