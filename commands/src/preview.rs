//! A dry run: the events that a command would append, and a hash that tells whether it still would.

use std::{collections::HashMap, future::Future};

use chrono::DateTime;
use ledgerline_store::{StreamId, StreamRead, StreamVersion, Workspace};
use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    CommandError, Commands, Context, Scope,
    scope::{Draft, Mode, Notes},
};

/// An event that would be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreviewedEvent {
    /// To which stream.
    pub stream: StreamId,
    /// Of which workspace.
    pub workspace: Workspace,
    /// The noun of the stream.
    pub category: &'static str,
    /// The version it would have.
    pub version: StreamVersion,
    /// Its stored type name.
    pub r#type: &'static str,
    /// The version of its payload's shape.
    pub schema_version: i16,
    /// Its payload as JSON text.
    pub payload: String,
}

/// What a plan would come to.
#[derive(Clone, Debug)]
pub struct Preview<T> {
    /// What the plan gave.
    pub value: T,
    /// What it would append, in order.
    pub events: Vec<PreviewedEvent>,
    /// What it would rest on besides the streams it writes.
    pub reads: Vec<StreamRead>,
    /// The name of this plan for `If-Plan`: command, caller, versions, and events with made ids and times counted instead of named.
    pub plan_hash: String,
}

impl Commands {
    /// Runs a plan on what the log holds now and appends nothing.
    ///
    /// # Errors
    /// What the plan itself is refused with.
    pub async fn preview<T, E, F, Fut>(
        &self,
        context: &Context,
        plan: F,
    ) -> Result<Preview<T>, CommandError<E>>
    where
        F: Fn(Scope) -> Fut,
        Fut: Future<Output = Result<T, CommandError<E>>>,
    {
        let mode = Mode { fresh: true, preview: true, if_match: context.if_match.clone() };
        let scope = Scope::new(self.clone(), mode, None);
        let value = plan(scope.clone()).await?;
        let notes = scope.finish();
        let plan_hash = plan_hash(context, &notes);
        let events = notes.drafts.iter().flat_map(previewed).collect();
        Ok(Preview { value, events, reads: notes.reads, plan_hash })
    }
}

fn previewed(draft: &Draft) -> impl Iterator<Item = PreviewedEvent> + '_ {
    draft.events.iter().zip(draft.expected.0 + 1..).map(|(event, version)| PreviewedEvent {
        stream: draft.stream,
        workspace: draft.workspace,
        category: draft.category,
        version: StreamVersion(version),
        r#type: event.r#type,
        schema_version: event.schema_version,
        payload: event.payload.clone(),
    })
}

/// Refuses a try that came to something else than the plan it was asked to carry out.
pub(crate) fn check_plan<R>(context: &Context, notes: &Notes) -> Result<(), CommandError<R>> {
    let Some(wanted) = &context.if_plan else { return Ok(()) };
    let current = plan_hash(context, notes);
    if current == *wanted { Ok(()) } else { Err(CommandError::PlanMoved { current }) }
}

/// Hashes what a try came to, so that the same command on the same versions has the same hash whenever it is asked.
fn plan_hash(context: &Context, notes: &Notes) -> String {
    let new = notes.drafts.iter().filter(|draft| draft.expected == StreamVersion::NEW);
    let made = context.made_ids.iter().copied().chain(new.map(|draft| draft.stream.0));
    let mut ordinals = Ordinals::new(made);
    let mut reads = notes.reads.clone();
    reads.sort_by_key(|read| read.stream);
    let reads: Vec<Value> =
        reads.iter().map(|read| serde_json::json!([read.stream, read.version])).collect();
    let writes: Vec<Value> = notes
        .drafts
        .iter()
        .map(|draft| {
            let events: Vec<Value> = draft
                .events
                .iter()
                .map(|event| {
                    let payload = serde_json::from_str(&event.payload).unwrap_or(Value::Null);
                    serde_json::json!([event.r#type, event.schema_version, ordinals.count(payload)])
                })
                .collect();
            let stream = ordinals.count(Value::String(draft.stream.to_string()));
            serde_json::json!([stream, draft.workspace, draft.expected, events])
        })
        .collect();
    let command = context.command_hash.map(|hash| hash.to_vec());
    let plan = serde_json::json!([context.actor, command, reads, writes]);
    Sha256::digest(plan.to_string()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Replaces made ids and times by the order in which they first appear.
struct Ordinals {
    made: Vec<Uuid>,
    seen: HashMap<String, usize>,
}

impl Ordinals {
    fn new(made: impl Iterator<Item = Uuid>) -> Self {
        Self { made: made.collect(), seen: HashMap::new() }
    }

    fn count(&mut self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.count_text(text)),
            Value::Array(items) => {
                Value::Array(items.into_iter().map(|item| self.count(item)).collect())
            }
            Value::Object(fields) => Value::Object(
                fields.into_iter().map(|(name, value)| (name, self.count(value))).collect(),
            ),
            Value::Null | Value::Bool(_) | Value::Number(_) => value,
        }
    }

    fn count_text(&mut self, text: String) -> String {
        let made = Uuid::parse_str(&text).is_ok_and(|id| self.made.contains(&id));
        if !made && DateTime::parse_from_rfc3339(&text).is_err() {
            return text;
        }
        let next = self.seen.len();
        format!("\u{1f}{}", self.seen.entry(text).or_insert(next))
    }
}
