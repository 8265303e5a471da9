//! One round of a run: from what happened to what is appended next, without waiting for anything.
//!
//! Pure but for the time it takes: pure nodes are evaluated here, so a round runs off the async threads. It works on a copy of the
//! state, which it moves on with the steps that it plans; when these are appended, that copy is the state.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use chrono::{DateTime, TimeDelta, Utc};
use ledgerline_domain::{
    Aggregate as _,
    execution::{
        Action, AfterFailure, Attempt, Awaited, Claim, Ending, ErrorKind, Execution,
        ExecutionCommand, ExecutionRejection, Gather, NodeError, NodeOutput, NodePath, Outcome,
        Planner, ProviderUse, Report, Run, Step, Task, TaskLease, VariableValue,
    },
    expression::{Scope, Veil},
    id::ExecutionId,
    json::Json,
    limits::MAX_INLINE_OUTPUT_BYTES,
    node::{Node, ResolveError, Resolved, ResolvedWait},
    vault::SecretName,
};
use serde_json::{Value, json};

use crate::{
    definitions::Definition,
    values::{LargeValue, cleaned, detailed, failure, held},
};

mod steer;

/// How many steps one append may hold; each is up to three events, and the log takes a thousand.
const MAX_STEPS: usize = 250;
/// How many bytes of values one append may hold: a flush stays short, because everybody waits for it.
const MAX_BYTES: usize = 2 * 1024 * 1024;

/// What a try came to.
#[derive(Clone, Debug)]
pub(crate) struct Tried {
    pub(crate) path: NodePath,
    pub(crate) attempt: Attempt,
    pub(crate) result: Result<Json, NodeError>,
    /// What it used of providers.
    pub(crate) used: Vec<ProviderUse>,
    pub(crate) duration_ms: u64,
}

/// Where a round begins.
pub(crate) struct Beginning {
    pub(crate) base: Arc<Execution>,
    pub(crate) planner: Planner,
    pub(crate) definition: Arc<Definition>,
    pub(crate) worker: String,
    pub(crate) claim: Claim,
    /// The run.
    pub(crate) execution: ExecutionId,
    /// What happened since the last append.
    pub(crate) tried: Vec<Tried>,
    /// Blobs that were loaded for it.
    pub(crate) blobs: HashMap<String, Json>,
    /// What expressions see as `execution` and `env`.
    pub(crate) facts: Json,
    pub(crate) env: Arc<std::collections::BTreeMap<String, String>>,
    /// What stands for secrets until their effect begins.
    pub(crate) veil: Veil,
    pub(crate) now: DateTime<Utc>,
    /// Effects that this worker has begun and that have not ended.
    pub(crate) under_way: HashSet<NodePath>,
    /// Nothing new may begin: the process is going down.
    pub(crate) draining: bool,
}

/// An effect that begins once the round is appended.
#[derive(Debug)]
pub(crate) struct Begin {
    pub(crate) path: NodePath,
    pub(crate) attempt: Attempt,
    /// With stand-ins for secrets.
    pub(crate) resolved: Resolved,
    pub(crate) veil: Veil,
    /// The secrets that it names.
    pub(crate) secrets: Vec<SecretName>,
    pub(crate) timeout_ms: Option<u64>,
}

/// What a round came to.
pub(crate) struct Planned {
    pub(crate) planner: Planner,
    pub(crate) report: Report,
    pub(crate) begin: Vec<Begin>,
    pub(crate) blobs: Vec<LargeValue>,
    pub(crate) abort: bool,
    /// The run ended or was let go of: nothing is left for this worker.
    pub(crate) over: bool,
    /// It stopped at a bound: plan again as soon as this is appended.
    pub(crate) more: bool,
}

/// How a round ends.
pub(crate) enum RoundEnd {
    Planned(Box<Planned>),
    /// It needs these blobs; begin it again with them.
    NeedsBlobs(Vec<String>),
    /// The claim is not this worker's any more, or the run has ended.
    StandDown(ExecutionRejection),
}

/// Plans a round.
pub(crate) fn plan(beginning: &Beginning) -> RoundEnd {
    let mut round = Round {
        beginning,
        spec: Execution::clone(&beginning.base),
        planner: beginning.planner.clone(),
        steps: Vec::new(),
        begin: Vec::new(),
        large: Vec::new(),
        missing: Vec::new(),
        bytes: 0,
        abort: false,
        over: false,
    };
    match round.plan() {
        Err(rejection) => RoundEnd::StandDown(rejection),
        Ok(_) if !round.missing.is_empty() => RoundEnd::NeedsBlobs(round.missing),
        Ok(more) => RoundEnd::Planned(Box::new(Planned {
            report: round.report(round.steps.clone()),
            planner: round.planner,
            // After an abort whose append failed nothing is under way, and what was recorded must not begin once more.
            begin: if round.abort { Vec::new() } else { round.begin },
            blobs: round.large,
            abort: round.abort,
            over: round.over,
            more,
        })),
    }
}

struct Round<'a> {
    beginning: &'a Beginning,
    /// The state as it will be.
    spec: Execution,
    planner: Planner,
    steps: Vec<Step>,
    begin: Vec<Begin>,
    large: Vec<LargeValue>,
    missing: Vec<String>,
    bytes: usize,
    abort: bool,
    over: bool,
}

impl<'a> Round<'a> {
    /// Whether there is more to plan after this is appended.
    fn plan(&mut self) -> Result<bool, ExecutionRejection> {
        let tried: Vec<Tried> =
            self.beginning.tried.iter().filter(|tried| self.awaits(tried)).cloned().collect();
        let mut fresh = Vec::new();
        for tried in tried {
            let (path, attempt) = (&tried.path, tried.attempt);
            let used = tried.used.into_iter();
            fresh.extend(used.map(|used| Step::Use { path: path.clone(), attempt, used }));
            fresh.push(self.ended(
                tried.path,
                tried.attempt,
                tried.result,
                None,
                None,
                tried.duration_ms,
            ));
        }
        self.apply(fresh)?;
        if self.beginning.draining {
            // Nothing begins any more; but a cancel is obeyed, and what is over is not left for another worker to say so.
            let actions = self.planner.next(&self.spec).into_iter().filter(|action| {
                matches!(action, Action::Abort | Action::LetGo { .. } | Action::Finish(_))
            });
            let fresh =
                actions.collect::<Vec<_>>().into_iter().filter_map(|action| self.step(action));
            let fresh = fresh.collect();
            self.apply(fresh)?;
            return Ok(false);
        }
        self.begin_what_was_recorded()?;
        while !self.over {
            let actions = self.planner.next(&self.spec);
            let (mut fresh, mut held) = (Vec::new(), false);
            for action in actions {
                // What is left out is planned again when somebody has decided.
                if held && !action.may_follow_a_hold() {
                    continue;
                }
                if self.steps.len() + fresh.len() >= MAX_STEPS || self.bytes >= MAX_BYTES {
                    self.apply(fresh)?;
                    return Ok(true);
                }
                let step = self.step(action);
                held |= step.as_ref().is_some_and(Step::holds_run);
                fresh.extend(step);
            }
            if !self.missing.is_empty() || fresh.is_empty() {
                break;
            }
            let is_last = fresh.iter().any(Step::is_last);
            self.apply(fresh)?;
            // It turned back instead of ending.
            if is_last && !self.over {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Begins what is recorded as begun under this claim and is not under way: the answer to its append was lost, so its effect
    /// never began.
    fn begin_what_was_recorded(&mut self) -> Result<(), ExecutionRejection> {
        let unknown: Vec<(NodePath, Attempt)> = self
            .spec
            .in_flight()
            .filter(|(path, _)| !self.beginning.under_way.contains(*path))
            .map(|(path, node)| (path.clone(), node.attempt))
            .collect();
        let mut fresh = Vec::new();
        for (path, attempt) in unknown {
            let timeout_ms = self.known(&path).ok().and_then(Node::timeout_ms);
            match self.resolved(&path) {
                None => {}
                Some(Ok(resolved)) => {
                    let begin = self.effect(path, attempt, resolved, timeout_ms);
                    self.begin.push(begin);
                }
                Some(Err(error)) => {
                    fresh.push(self.ended(path, attempt, Err(error), None, None, 0));
                }
            }
        }
        if fresh.is_empty() { Ok(()) } else { self.apply(fresh) }
    }

    /// Whether the state still waits for the outcome of this try: not after a reload that found it recorded.
    fn awaits(&self, tried: &Tried) -> bool {
        self.spec
            .in_flight()
            .any(|(path, node)| *path == tried.path && node.attempt == tried.attempt)
    }

    fn report(&self, steps: Vec<Step>) -> Report {
        Report {
            worker: self.beginning.worker.clone(),
            claim: self.beginning.claim,
            interventions: self.beginning.base.interventions(),
            steps,
        }
    }

    /// Moves the state on by some steps. Without any it still takes the claim.
    fn apply(&mut self, fresh: Vec<Step>) -> Result<(), ExecutionRejection> {
        let command = ExecutionCommand::Report(self.report(fresh));
        let events = self.spec.decide(&command, self.beginning.now)?;
        for event in &events {
            self.spec = std::mem::take(&mut self.spec).evolve(event);
        }
        if let ExecutionCommand::Report(report) = command {
            self.steps.extend(report.steps);
        }
        self.over |= self.spec.has_ended();
        Ok(())
    }

    fn step(&mut self, action: Action) -> Option<Step> {
        match action {
            Action::RunNode { path, attempt } => self.start(path, attempt),
            Action::EvaluateInline { path, attempt } => self.inline(path, attempt),
            Action::BeginWait { path, attempt } => self.wait(path, attempt),
            Action::Merge { path, attempt, output } => self.merge(path, attempt, &output),
            Action::OpenLoop { path, attempt } => self.open_loop(path, attempt),
            Action::CheckCondition { path, attempt, iteration, max_iterations, last } => {
                self.check_condition(path, attempt, (iteration, max_iterations), &last)
            }
            Action::FailItem { path, item, node, error } => {
                Some(Step::FailItem { path, item, node, error })
            }
            Action::CloseLoop { path, attempt, output } => {
                let result = self.gathered(&output)?;
                Some(self.ended(path, attempt, Ok(result), None, None, 0))
            }
            Action::SkipNode { path, reason } => Some(Step::Skip { path, reason }),
            Action::FailNode { path, attempt, error, duration_ms } => {
                Some(self.ended(path, attempt, Err(error), None, None, duration_ms))
            }
            Action::Abort => {
                self.abort = true;
                None
            }
            Action::LetGo { .. } => {
                self.over = true;
                Some(Step::LetGo)
            }
            Action::Finish(ending) => Some(Step::Finish(self.outcome(ending)?)),
        }
    }

    fn start(&mut self, path: NodePath, attempt: Attempt) -> Option<Step> {
        let timeout_ms = self.known(&path).ok().and_then(Node::timeout_ms);
        match self.resolved(&path)? {
            Err(error) => Some(self.ended(path, attempt, Err(error), None, None, 0)),
            Ok(resolved) => {
                let input = self.beginning.veil.masked(resolved.input());
                if input.as_str().len() > MAX_INLINE_OUTPUT_BYTES {
                    return Some(self.ended(path, attempt, Err(too_large()), None, None, 0));
                }
                self.bytes += input.as_str().len();
                let begin = self.effect(path.clone(), attempt, resolved, timeout_ms);
                let secrets = begin.secrets.clone();
                self.begin.push(begin);
                Some(Step::Start { path, attempt, input, secrets })
            }
        }
    }

    /// An effect that begins once its start is appended.
    fn effect(
        &self,
        path: NodePath,
        attempt: Attempt,
        resolved: Resolved,
        timeout_ms: Option<u64>,
    ) -> Begin {
        let secrets = self.known(&path).map(|node| node.secrets().to_vec()).unwrap_or_default();
        let veil = self.beginning.veil.clone();
        Begin { path, attempt, resolved, veil, secrets, timeout_ms }
    }

    fn inline(&mut self, path: NodePath, attempt: Attempt) -> Option<Step> {
        let begun = Instant::now();
        let resolved = match self.resolved(&path)? {
            Ok(resolved) => resolved,
            Err(error) => {
                return Some(self.ended(path, attempt, Err(error), None, None, millis(begun)));
            }
        };
        let (value, port, variable) = match resolved {
            Resolved::Trigger(_) => (self.run()?.request.input.clone(), None, None),
            Resolved::If(taken) => {
                (Json::from_value(&json!(taken.condition)), Some(taken.condition.to_string()), None)
            }
            Resolved::Switch(taken) => {
                (Json::from_value(&json!(taken.port)), Some(taken.port), None)
            }
            Resolved::Transform(made) => {
                return Some(self.computed(path, attempt, made.value, None, begun));
            }
            Resolved::SetVariable(set) => {
                return Some(self.computed(path, attempt, set.value, Some(set.name), begun));
            }
            Resolved::Http(_)
            | Resolved::Command(_)
            | Resolved::File(_)
            | Resolved::Sql(_)
            | Resolved::Email(_)
            | Resolved::Javascript(_)
            | Resolved::Wait(_)
            | Resolved::Merge(_)
            | Resolved::While(_)
            | Resolved::ForEach(_)
            | Resolved::Workflow(_)
            | Resolved::Approval(_)
            | Resolved::Signal(_)
            | Resolved::Worker(_) => {
                let error =
                    failure(ErrorKind::Permanent, "this kind of node is not computed in place");
                return Some(self.ended(path, attempt, Err(error), None, None, 0));
            }
        };
        Some(self.ended(path, attempt, Ok(value), port, variable, millis(begun)))
    }

    /// A value that an expression made; it may become a variable, which lives in every later state and so must be small.
    fn computed(
        &mut self,
        path: NodePath,
        attempt: Attempt,
        value: Value,
        variable: Option<String>,
        begun: Instant,
    ) -> Step {
        let value = match cleaned(value) {
            Ok(value) => Json::from_value(&value),
            Err(error) => return self.ended(path, attempt, Err(error), None, None, millis(begun)),
        };
        if variable.is_some() && value.as_str().len() > MAX_INLINE_OUTPUT_BYTES {
            let error = failure(
                ErrorKind::Validation,
                format!("the variable is larger than {MAX_INLINE_OUTPUT_BYTES} bytes"),
            );
            return self.ended(path, attempt, Err(error), None, None, millis(begun));
        }
        let variable = variable.map(|name| VariableValue { name, value: value.clone() });
        self.ended(path, attempt, Ok(value), None, variable, millis(begun))
    }

    fn wait(&mut self, path: NodePath, attempt: Attempt) -> Option<Step> {
        let resolved = match self.resolved(&path)? {
            Ok(resolved) => resolved,
            Err(error) => return Some(self.ended(path, attempt, Err(error), None, None, 0)),
        };
        if let Resolved::Workflow(child) = &resolved {
            return Some(self.start_child(path, attempt, &resolved, child));
        }
        let now = self.beginning.now;
        let after = |duration_ms: u64| {
            let duration = i64::try_from(duration_ms).ok().and_then(TimeDelta::try_milliseconds);
            now.checked_add_signed(duration.unwrap_or_default()).unwrap_or(now)
        };
        let (awaited, until) = match &resolved {
            Resolved::Wait(ResolvedWait::DurationMs(duration)) => {
                (Awaited::Time, Some(after(*duration)))
            }
            Resolved::Wait(ResolvedWait::Until(time)) => (Awaited::Time, Some(*time)),
            Resolved::Approval(approval) => {
                (Awaited::Approval(approval.clone()), approval.timeout_ms.map(after))
            }
            Resolved::Signal(signal) => {
                (Awaited::Signal { name: signal.name.clone() }, signal.timeout_ms.map(after))
            }
            Resolved::Worker(worker) => {
                let node = self.known(&path).ok();
                let task = Task {
                    queue: worker.queue.clone(),
                    heartbeat_timeout_ms: worker.heartbeat_timeout_ms,
                    idempotent: node.is_some_and(Node::is_idempotent),
                    lease: TaskLease(0),
                    worker: None,
                };
                let until = node.and_then(Node::timeout_ms).map(after);
                (Awaited::Task(Box::new(task)), until)
            }
            other => {
                let error = failure(
                    ErrorKind::Permanent,
                    format!("{} does not wait", other.kind().as_str()),
                );
                return Some(self.ended(path, attempt, Err(error), None, None, 0));
            }
        };
        let input = resolved.input();
        if input.as_str().len() > MAX_INLINE_OUTPUT_BYTES {
            return Some(self.ended(path, attempt, Err(too_large()), None, None, 0));
        }
        self.bytes += input.as_str().len();
        Some(Step::Wait { path, attempt, input, awaited, until })
    }

    fn outcome(&mut self, ending: Ending) -> Option<Outcome> {
        Some(match ending {
            Ending::Completed(output) => {
                let held = match output.as_is() {
                    Some(output) => Ok((output, None)),
                    None => held(self.gathered(&output)?),
                };
                match held {
                    Ok((output, large)) => {
                        self.large.extend(large);
                        Outcome::Completed { output }
                    }
                    Err(error) => Outcome::Failed { node: None, error },
                }
            }
            Ending::Failed { node, error } => Outcome::Failed { node, error },
            Ending::Cancelled => Outcome::Cancelled,
            Ending::Undone => Outcome::Undone,
        })
    }

    /// The outcome of a try as a step: too large an output is a failure, and a failure may be followed by another try.
    fn ended(
        &mut self,
        path: NodePath,
        attempt: Attempt,
        result: Result<Json, NodeError>,
        port: Option<String>,
        variable: Option<VariableValue>,
        duration_ms: u64,
    ) -> Step {
        match result.and_then(held) {
            Ok((output, large)) => {
                self.bytes += match &output {
                    NodeOutput::Inline(value) => value.as_str().len(),
                    NodeOutput::Blob { .. } => 0,
                };
                self.large.extend(large);
                Step::Complete { path, attempt, output, port, variable, duration_ms }
            }
            Err(error) => {
                let then = self.beginning.definition.plan.after_failure(
                    &path,
                    attempt,
                    &error,
                    self.beginning.now,
                    rand::random(),
                );
                let then = match then {
                    AfterFailure::Continue { output: NodeOutput::Inline(value), port } => {
                        match held(value) {
                            Ok((output, large)) => {
                                self.large.extend(large);
                                AfterFailure::Continue { output, port }
                            }
                            Err(_) => AfterFailure::Stop,
                        }
                    }
                    other => other,
                };
                Step::Fail { path, attempt, error, duration_ms, then }
            }
        }
    }

    fn run(&self) -> Option<&Run> {
        self.spec.run()
    }

    /// A node's configuration, evaluated; `None` when a blob must be loaded first.
    fn resolved(&mut self, path: &NodePath) -> Option<Result<Resolved, NodeError>> {
        let scope = self.scope(path)?;
        Some(scope.and_then(|scope| self.known(path)?.resolve(&scope).map_err(unresolved)))
    }

    /// What a node sees; `None` when a blob must be loaded first.
    fn scope(&mut self, path: &NodePath) -> Option<Result<Scope, NodeError>> {
        let node = match self.known(path) {
            Ok(node) => node,
            Err(error) => return Some(Err(error)),
        };
        let view = self.spec.run()?.scope(path);
        let last = node.reads_last().then(|| view.last(&self.beginning.definition.plan)).flatten();
        let needed = view.blobs(node.references()).into_iter();
        let needed = needed.chain(last.iter().flat_map(Gather::blobs));
        let missing: Vec<String> = needed
            .filter(|hash| !self.beginning.blobs.contains_key(*hash))
            .map(str::to_owned)
            .collect();
        if !missing.is_empty() {
            self.missing.extend(missing);
            return None;
        }
        Some(Ok(Scope {
            execution: self.beginning.facts.clone(),
            workflow: self.beginning.definition.facts.clone(),
            env: (*self.beginning.env).clone(),
            last: last.and_then(|last| last.to_json(&self.beginning.blobs)),
            veil: Some(self.beginning.veil.clone()),
            ..view.to_scope(node.references(), &self.beginning.blobs)
        }))
    }

    fn known(&self, path: &NodePath) -> Result<&'a Node, NodeError> {
        let beginning: &'a Beginning = self.beginning;
        let found = beginning.definition.graph.find(path.node_id());
        let missing = || failure(ErrorKind::Permanent, "the definition has no such node");
        found.map(|(graph, index)| graph.node(index)).ok_or_else(missing)
    }

    /// Outputs put together; `None` when a blob must be loaded first.
    fn gathered(&mut self, output: &Gather) -> Option<Json> {
        let value = output.to_json(&self.beginning.blobs);
        if value.is_none() {
            let missing =
                output.blobs().into_iter().filter(|hash| !self.beginning.blobs.contains_key(*hash));
            self.missing.extend(missing.map(str::to_owned));
        }
        value
    }
}

/// A configuration that can't be evaluated is a failure that names the field.
fn unresolved(error: ResolveError) -> NodeError {
    let details = json!({"errors": [{"pointer": error.field, "detail": error.error.to_string()}]});
    detailed(ErrorKind::Validation, error.to_string(), &details)
}

fn too_large() -> NodeError {
    let message =
        format!("the evaluated configuration is larger than {MAX_INLINE_OUTPUT_BYTES} bytes");
    failure(ErrorKind::Validation, message)
}

fn millis(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}
