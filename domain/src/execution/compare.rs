//! Two runs side by side: the first event at which they part, and what each node came to in both.
//!
//! Runs are compared by what they did, not by when or where: claims, workers, ids and times count for nothing, and neither does the order
//! in which parallel branches took turns. So the k-th event of a node in one run is held against its k-th event in the other one. What was
//! carried over from an origin counts by its outcome alone.

use std::hash::{DefaultHasher, Hash, Hasher};

use chrono::{DateTime, Utc};
use indexmap::IndexMap;
use serde_json::Value;

use super::{
    CarriedNode, ExecutionEvent, ExecutionRequested, NodeError, NodeFailed, NodeOutput, NodePath,
    NodeStarted, TimerKind, Usage,
};
use crate::{
    event::DomainEvent as _,
    json::Json,
    limits::{MAX_COMPARED_BYTES, MAX_COMPARED_EVENTS, MAX_VALUE_CHANGE_BYTES, MAX_VALUE_CHANGES},
};

/// A run as far as it is compared, made from its events one by one. The run itself is in it like a node, under the empty path: what it
/// was asked for is its input, and what came out its output.
#[derive(Clone, Debug, Default)]
pub struct Outline {
    nodes: IndexMap<NodePath, NodeOutline>,
    facts: Vec<Fact>,
    events: usize,
    held_bytes: usize,
    truncated: bool,
}

/// One event that counts, in few bytes.
#[derive(Clone, Copy, Debug)]
struct Fact {
    name: &'static str,
    version: i64,
    at: DateTime<Utc>,
    hash: u64,
    /// Whether it is the outcome of a node, i.e. what counts where it was carried over.
    settles: bool,
}

/// What a node came to.
#[derive(Clone, Debug, Default)]
pub struct NodeOutline {
    /// Where it stands: `running`, `waiting`, `retrying`, `completed`, `skipped` or `failed`.
    pub status: &'static str,
    /// Whether it was carried over from the origin of its run.
    pub carried: bool,
    /// The try that it is at, from 1; 0 where it was skipped or carried over.
    pub attempts: i32,
    /// When its first try began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it came to its end.
    pub finished_at: Option<DateTime<Utc>>,
    /// How long its tries took together.
    pub duration_ms: u64,
    /// The port it left by.
    pub port: Option<String>,
    /// Why its last try failed.
    pub error: Option<NodeError>,
    /// What its tries used of providers, all together; of the run, what all nodes did.
    pub usage: Usage,
    input: Side,
    output: Side,
    facts: Vec<u32>,
}

/// A value of one run: known by its hash, and held while there is room.
#[derive(Clone, Debug, Default, PartialEq)]
struct Side {
    hash: Option<u64>,
    value: Option<NodeOutput>,
}

/// What two runs come to side by side.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Where they part; none where they did the same.
    pub parting: Option<Parting>,
    /// What each node came to, in the order of the first run and then of what only the second one has.
    pub nodes: Vec<NodeDelta>,
    /// Whether a run was too long to be compared to its end.
    pub truncated: bool,
}

/// The first event at which two runs part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parting {
    /// The node; empty for the run itself.
    pub path: NodePath,
    /// The event of the first run; none where it has no more of that node.
    pub a: Option<EventRef>,
    /// That of the second one.
    pub b: Option<EventRef>,
}

/// An event of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRef {
    /// Its place in the run, from 1.
    pub version: i64,
    /// Its stored type.
    pub r#type: &'static str,
    /// When it was recorded.
    pub at: DateTime<Utc>,
}

/// What a node came to in two runs.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeDelta {
    /// The node.
    pub path: NodePath,
    /// What differs, of `presence`, `status`, `attempts`, `input`, `output`, `port` and `error`; nothing where it did the same.
    pub changed: Vec<&'static str>,
    /// What differs within the input.
    pub input: Option<ValueDelta>,
    /// What differs within the output.
    pub output: Option<ValueDelta>,
    /// How much longer the second run took for it, where both have done it.
    pub duration_delta_ms: Option<i64>,
    /// How much more the second run used of providers for it; none where neither used any.
    pub usage_delta: Option<UsageDelta>,
}

/// How much more one run used of providers than another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageDelta {
    /// Tokens that went in.
    pub input_tokens: i64,
    /// Tokens that came out.
    pub output_tokens: i64,
    /// What it cost, in millionths of a dollar.
    pub cost_microusd: i64,
}

/// What differs between two values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ValueDelta {
    /// The places that differ, at most [`MAX_VALUE_CHANGES`].
    pub changes: Vec<ValueChange>,
    /// Whether there are more, or a value was too large to be looked into.
    pub truncated: bool,
}

/// A place at which two values differ.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueChange {
    /// JSON Pointer to it.
    pub pointer: String,
    /// What the first one has there; none where it has nothing. What is large is named by its size.
    pub a: Option<Value>,
    /// What the second one has.
    pub b: Option<Value>,
}

impl Outline {
    /// Takes in the next event.
    pub fn apply(&mut self, version: i64, at: DateTime<Utc>, event: &ExecutionEvent) {
        if self.events >= MAX_COMPARED_EVENTS {
            self.truncated = true;
            return;
        }
        self.events += 1;
        let place = Place { version, at, name: event.type_name() };
        match event {
            ExecutionEvent::ExecutionRequested(event) => self.request(place, event),
            ExecutionEvent::NodesCarried(event) => {
                event.nodes.iter().for_each(|node| self.carry(place, node));
            }
            ExecutionEvent::NodeStarted(event) => self.start(place, event),
            ExecutionEvent::NodeCompleted(event) => {
                let node = self.node(&event.path);
                node.attempts = event.attempt.0;
                node.duration_ms += event.duration_ms;
                node.error = None;
                self.complete(place, &event.path, &event.output, event.port.as_deref());
            }
            ExecutionEvent::NodeFailed(event) => self.fail(place, event),
            ExecutionEvent::NodeSkipped(event) => self.skip(place, &event.path),
            ExecutionEvent::TimerSet(event) if event.kind == TimerKind::Wait => {
                self.node(&event.path).status = "waiting";
            }
            ExecutionEvent::UsageRecorded(event) => {
                self.node(&event.path).usage.add(event);
                self.node(&NodePath::run()).usage.add(event);
            }
            ExecutionEvent::VariableSet(event) => {
                let parts = [event.name.as_str(), event.value.as_str()];
                self.fact(&event.path, place, hash_of(&parts), false);
            }
            ExecutionEvent::ExecutionCompleted(event) => {
                self.complete(place, &NodePath::run(), &event.output, None);
            }
            ExecutionEvent::ExecutionFailed(event) => {
                self.end(place, "failed", Some(&event.error));
            }
            ExecutionEvent::ExecutionCancelled(_) => self.end(place, "cancelled", None),
            ExecutionEvent::TimerSet(_)
            | ExecutionEvent::TimerFired(_)
            | ExecutionEvent::LoopIterated(_)
            | ExecutionEvent::LoopItemFailed(_)
            | ExecutionEvent::ExecutionQueued(_)
            | ExecutionEvent::ExecutionDispatched(_)
            | ExecutionEvent::ExecutionStarted(_)
            | ExecutionEvent::ExecutionResumed(_)
            | ExecutionEvent::ExecutionWaiting(_)
            | ExecutionEvent::ExecutionPaused(_)
            | ExecutionEvent::ExecutionUnpaused(_)
            | ExecutionEvent::ApprovalRequested(_)
            | ExecutionEvent::ApprovalGiven(_)
            | ExecutionEvent::ApprovalRefused(_)
            | ExecutionEvent::ApprovalTimedOut(_)
            | ExecutionEvent::SignalAwaited(_)
            | ExecutionEvent::SignalReceived(_)
            | ExecutionEvent::SignalConsumed(_)
            | ExecutionEvent::TaskOffered(_)
            | ExecutionEvent::TaskTaken(_)
            | ExecutionEvent::TaskReturned(_)
            | ExecutionEvent::TaskCompleted(_)
            | ExecutionEvent::TaskFailed(_)
            | ExecutionEvent::NodeResolved(_)
            | ExecutionEvent::ChildStarted(_)
            | ExecutionEvent::ChildFinished(_)
            | ExecutionEvent::CancelRequested(_)
            | ExecutionEvent::CompensationStarted(_) => {}
        }
    }

    /// Whether the run had more events than are compared.
    #[must_use]
    pub fn truncated(&self) -> bool {
        self.truncated
    }

    /// What a node came to; of the empty path, the run.
    #[must_use]
    pub fn get(&self, path: &NodePath) -> Option<&NodeOutline> {
        self.nodes.get(path)
    }

    fn node(&mut self, path: &NodePath) -> &mut NodeOutline {
        self.nodes.entry(path.clone()).or_default()
    }

    fn fact(&mut self, path: &NodePath, place: Place, hash: u64, settles: bool) {
        let fact = u32::try_from(self.facts.len()).unwrap_or(u32::MAX);
        self.node(path).facts.push(fact);
        let Place { version, at, name } = place;
        self.facts.push(Fact { name, version, at, hash, settles });
    }

    fn request(&mut self, place: Place, event: &ExecutionRequested) {
        let run = NodePath::run();
        let node = self.node(&run);
        (node.status, node.started_at) = ("running", Some(place.at));
        self.fact(&run, place, hash_of(&[event.input.as_str()]), false);
        self.note_input(&run, &event.input);
        let carried = event.origin.iter().flat_map(|origin| &origin.carried);
        carried.for_each(|node| self.carry(place, node));
    }

    fn start(&mut self, place: Place, event: &NodeStarted) {
        let node = self.node(&event.path);
        node.status = "running";
        node.attempts = event.attempt.0;
        node.started_at = node.started_at.or(Some(place.at));
        self.note_input(&event.path, &event.input);
        let attempt = event.attempt.0.to_string();
        let hash = hash_of(&[attempt.as_str(), event.input.as_str()]);
        self.fact(&event.path, place, hash, false);
    }

    fn fail(&mut self, place: Place, event: &NodeFailed) {
        let ends = event.retry_at.is_none();
        let node = self.node(&event.path);
        node.status = if ends { "failed" } else { "retrying" };
        node.attempts = event.attempt.0;
        node.duration_ms += event.duration_ms;
        node.error = Some(event.error.clone());
        node.finished_at = ends.then_some(place.at);
        let (attempt, error) = (event.attempt.0.to_string(), hash_of_error(&event.error));
        let hash = hash_of(&[attempt.as_str(), error.as_str(), node.status]);
        self.fact(&event.path, place, hash, ends);
    }

    fn carry(&mut self, place: Place, carried: &CarriedNode) {
        self.node(&carried.path).carried = true;
        match (&carried.output, &carried.looping) {
            (Some(output), _) => {
                self.complete(place, &carried.path, output, carried.port.as_deref());
            }
            (None, Some(_)) => self.node(&carried.path).status = "running",
            (None, None) => self.skip(place, &carried.path),
        }
    }

    fn skip(&mut self, place: Place, path: &NodePath) {
        let node = self.node(path);
        node.status = "skipped";
        node.finished_at = Some(place.at);
        let place = Place { name: "node_skipped", ..place };
        self.fact(path, place, hash_of(&["skipped"]), true);
    }

    fn complete(&mut self, place: Place, path: &NodePath, output: &NodeOutput, port: Option<&str>) {
        let text = match output {
            NodeOutput::Inline(value) => value.as_str(),
            NodeOutput::Blob { hash, .. } => hash,
        };
        let hash = hash_of(&["completed", text, port.unwrap_or("")]);
        let value = self.hold(text.len(), || output.clone());
        let node = self.node(path);
        node.status = "completed";
        node.finished_at = Some(place.at);
        node.port = port.map(str::to_owned);
        node.output = Side { hash: Some(hash_of(&[text])), value };
        node.time_run(path, place.at);
        self.fact(path, place, hash, true);
    }

    fn end(&mut self, place: Place, status: &'static str, error: Option<&NodeError>) {
        let run = NodePath::run();
        let node = self.node(&run);
        node.status = status;
        node.finished_at = Some(place.at);
        node.error = error.cloned();
        node.time_run(&run, place.at);
        let error = error.map(hash_of_error).unwrap_or_default();
        self.fact(&run, place, hash_of(&[status, &error]), true);
    }

    fn note_input(&mut self, path: &NodePath, input: &Json) {
        let value = self.hold(input.as_str().len(), || NodeOutput::Inline(input.clone()));
        self.node(path).input = Side { hash: Some(hash_of(&[input.as_str()])), value };
    }

    /// A value, while there is room for it.
    fn hold(&mut self, bytes: usize, value: impl FnOnce() -> NodeOutput) -> Option<NodeOutput> {
        if self.held_bytes + bytes > MAX_COMPARED_BYTES {
            return None;
        }
        self.held_bytes += bytes;
        Some(value())
    }

    /// What counts of a node: every fact, or its outcome alone.
    fn facts_of(&self, node: &NodeOutline, outcome_alone: bool) -> Vec<Fact> {
        let mut facts =
            node.facts.iter().filter_map(|fact| self.facts.get(*fact as usize)).copied();
        match outcome_alone {
            false => facts.collect(),
            true => facts.rfind(|fact| fact.settles).into_iter().collect(),
        }
    }
}

impl NodeOutline {
    /// A run takes from its request to its end; a node takes what its tries say.
    fn time_run(&mut self, path: &NodePath, ended_at: DateTime<Utc>) {
        if path.as_str().is_empty()
            && let Some(started_at) = self.started_at
        {
            let took = (ended_at - started_at).num_milliseconds();
            self.duration_ms = u64::try_from(took).unwrap_or(0);
        }
    }
}

/// Where and when an event is.
#[derive(Clone, Copy)]
struct Place {
    version: i64,
    at: DateTime<Utc>,
    name: &'static str,
}

/// Holds two runs against each other.
#[must_use]
pub fn compare(a: &Outline, b: &Outline) -> Comparison {
    let mut parting: Option<(bool, i64, Parting)> = None;
    let mut nodes = Vec::with_capacity(a.nodes.len().max(b.nodes.len()));
    let only_b = b.nodes.keys().filter(|path| !a.nodes.contains_key(*path));
    for path in a.nodes.keys().chain(only_b) {
        let (in_a, in_b) = (a.nodes.get(path), b.nodes.get(path));
        if let Some(found) = part(a, b, path, in_a, in_b) {
            // The earliest of the first run comes before whatever only the second one has.
            let key = found
                .a
                .as_ref()
                .map_or_else(|| (true, version_of(&found.b)), |a| (false, a.version));
            if parting.as_ref().is_none_or(|(later, version, _)| key < (*later, *version)) {
                parting = Some((key.0, key.1, found));
            }
        }
        nodes.push(delta(path, in_a, in_b));
    }
    Comparison {
        parting: parting.map(|(_, _, parting)| parting),
        nodes,
        truncated: a.truncated || b.truncated,
    }
}

fn version_of(event: &Option<EventRef>) -> i64 {
    event.as_ref().map_or(i64::MAX, |event| event.version)
}

/// The first event of a node at which the runs part.
fn part(
    a: &Outline,
    b: &Outline,
    path: &NodePath,
    in_a: Option<&NodeOutline>,
    in_b: Option<&NodeOutline>,
) -> Option<Parting> {
    let carried = |node: Option<&NodeOutline>| node.is_some_and(|node| node.carried);
    let outcome_alone = carried(in_a) || carried(in_b);
    let of_a = in_a.map(|node| a.facts_of(node, outcome_alone)).unwrap_or_default();
    let of_b = in_b.map(|node| b.facts_of(node, outcome_alone)).unwrap_or_default();
    let count = of_a.len().max(of_b.len());
    let at = (0..count).find(|index| {
        let hash = |facts: &[Fact]| facts.get(*index).map(|fact| fact.hash);
        hash(&of_a) != hash(&of_b)
    })?;
    let event = |facts: &[Fact]| {
        let fact = facts.get(at)?;
        Some(EventRef { version: fact.version, r#type: fact.name, at: fact.at })
    };
    Some(Parting { path: path.clone(), a: event(&of_a), b: event(&of_b) })
}

fn delta(path: &NodePath, a: Option<&NodeOutline>, b: Option<&NodeOutline>) -> NodeDelta {
    let mut delta = NodeDelta {
        path: path.clone(),
        changed: Vec::new(),
        input: None,
        output: None,
        duration_delta_ms: None,
        usage_delta: usage_delta(a, b),
    };
    let (Some(a), Some(b)) = (a, b) else {
        delta.changed.push("presence");
        return delta;
    };
    let carried = a.carried || b.carried;
    let mut changed = |word, differs: bool| {
        if differs {
            delta.changed.push(word);
        }
    };
    changed("status", a.status != b.status);
    changed("attempts", !carried && a.attempts != b.attempts);
    changed("input", !carried && a.input.hash != b.input.hash);
    changed("output", a.output.hash != b.output.hash);
    changed("port", a.port != b.port);
    changed("error", a.error != b.error);
    if delta.changed.contains(&"input") {
        delta.input = Some(value_delta(&a.input, &b.input));
    }
    if delta.changed.contains(&"output") {
        delta.output = Some(value_delta(&a.output, &b.output));
    }
    if a.finished_at.is_some() && b.finished_at.is_some() && !carried {
        delta.duration_delta_ms = Some(more(a.duration_ms, b.duration_ms));
    }
    delta
}

/// How much more `b` is than `a`.
fn more(a: u64, b: u64) -> i64 {
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    number(b).saturating_sub(number(a))
}

/// A node that a run does not have used nothing in it.
fn usage_delta(a: Option<&NodeOutline>, b: Option<&NodeOutline>) -> Option<UsageDelta> {
    let usage = |node: Option<&NodeOutline>| node.map_or_else(Usage::default, |node| node.usage);
    let (a, b) = (usage(a), usage(b));
    let used = a != Usage::default() || b != Usage::default();
    used.then(|| UsageDelta {
        input_tokens: more(a.input_tokens, b.input_tokens),
        output_tokens: more(a.output_tokens, b.output_tokens),
        cost_microusd: more(a.cost_microusd, b.cost_microusd),
    })
}

/// What two values come to side by side, where both are held.
fn value_delta(a: &Side, b: &Side) -> ValueDelta {
    let held = |side: &Side| match &side.value {
        Some(NodeOutput::Inline(value)) => Some(value.to_value()),
        Some(NodeOutput::Blob { hash, size_bytes }) => {
            Some(serde_json::json!({ "$blob": hash, "size_bytes": size_bytes }))
        }
        None => None,
    };
    let mut delta = ValueDelta::default();
    let lost = |side: &Side| side.hash.is_some() && side.value.is_none();
    if lost(a) || lost(b) {
        delta.truncated = true;
        return delta;
    }
    differences(held(a).as_ref(), held(b).as_ref(), &mut String::new(), &mut delta);
    delta
}

/// Collects where two values differ, fields by name and items by index.
fn differences(a: Option<&Value>, b: Option<&Value>, at: &mut String, delta: &mut ValueDelta) {
    if a == b {
        return;
    }
    if delta.changes.len() >= MAX_VALUE_CHANGES {
        delta.truncated = true;
        return;
    }
    let length = at.len();
    match (a, b) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let only_b = b.keys().filter(|key| !a.contains_key(*key));
            for key in a.keys().chain(only_b) {
                at.push('/');
                at.push_str(&key.replace('~', "~0").replace('/', "~1"));
                differences(a.get(key), b.get(key), at, delta);
                at.truncate(length);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            for index in 0..a.len().max(b.len()) {
                at.push_str(&format!("/{index}"));
                differences(a.get(index), b.get(index), at, delta);
                at.truncate(length);
                if delta.truncated {
                    return;
                }
            }
        }
        (a, b) => delta.changes.push(ValueChange {
            pointer: at.clone(),
            a: a.map(shortened),
            b: b.map(shortened),
        }),
    }
}

/// The value itself, or how large it is.
fn shortened(value: &Value) -> Value {
    let bytes = value.to_string().len();
    if bytes <= MAX_VALUE_CHANGE_BYTES {
        return value.clone();
    }
    serde_json::json!({ "$omitted_bytes": bytes })
}

fn hash_of_error(error: &NodeError) -> String {
    serde_json::to_string(error).unwrap_or_default()
}

fn hash_of(parts: &[&str]) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
