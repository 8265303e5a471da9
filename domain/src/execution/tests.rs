//! What all tests of executions share: given a history, when a command comes, then these events.

mod commands;
mod histories;
mod origins;
mod planning;
mod reports;
mod steering;
mod undoing;
mod waits;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::{
    graph::Graph,
    id::{WorkflowId, WorkspaceId},
    workflow::WorkflowVersion,
};

const WORKER: &str = "worker-1";

/// Seconds after the beginning of every test.
fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
}

fn request(limit: Option<ConcurrencyLimit>) -> RequestExecution {
    RequestExecution {
        workspace_id: WorkspaceId(Uuid::from_u128(1)),
        workflow_id: WorkflowId(Uuid::from_u128(2)),
        workflow_version: WorkflowVersion(3),
        trigger_type: TriggerType::Manual,
        input: json!({"a": 1}).into(),
        queue: Queue::Default,
        limits: limit.into_iter().collect(),
        held: false,
        timeout_ms: None,
        origin: None,
        trigger_node: None,
        planned_nodes: 2,
        depth: 0,
        parent: None,
        error_workflow_id: None,
        undoes: BTreeMap::new(),
    }
}

fn one_at_a_time() -> ConcurrencyLimit {
    ConcurrencyLimit::new("workflow", 1)
}

fn fold(events: &[ExecutionEvent]) -> Execution {
    events.iter().fold(Execution::New, Aggregate::evolve)
}

/// A history that commands made, so that no test rests on one that cannot be.
#[derive(Clone, Default)]
struct Given {
    events: Vec<ExecutionEvent>,
}

impl Given {
    fn requested(limit: Option<ConcurrencyLimit>) -> Self {
        Self::default().and(ExecutionCommand::Request(Box::new(request(limit))))
    }

    /// Requested without a limit and taken by the worker.
    fn running() -> Self {
        Self::requested(None).report(1, [])
    }

    /// Waits for the wait node `pause` until second 60.
    fn waiting(limit: Option<ConcurrencyLimit>) -> Self {
        let dispatched = match limit {
            Some(_) => Self::requested(limit).and(ExecutionCommand::Dispatch { claim: Claim(1) }),
            None => Self::requested(None),
        };
        dispatched.report(1, [wait("pause", 60), Step::LetGo])
    }

    #[track_caller]
    fn and(mut self, command: ExecutionCommand) -> Self {
        let events =
            fold(&self.events).decide(&command, at(0)).expect("a given command is accepted");
        self.events.extend(events);
        self
    }

    #[track_caller]
    fn report(self, claim: i32, steps: impl IntoIterator<Item = Step>) -> Self {
        let report = report(&fold(&self.events), claim, steps);
        self.and(report)
    }

    fn when(&self, command: ExecutionCommand) -> Then {
        Then(fold(&self.events).decide(&command, at(100)))
    }

    fn when_reported(&self, claim: i32, steps: impl IntoIterator<Item = Step>) -> Then {
        self.when(report(&fold(&self.events), claim, steps))
    }

    fn state(&self) -> Execution {
        fold(&self.events)
    }
}

struct Then(Result<Vec<ExecutionEvent>, ExecutionRejection>);

impl Then {
    #[track_caller]
    fn then(self, expected: impl IntoIterator<Item = ExecutionEvent>) {
        assert_eq!(self.0, Ok(expected.into_iter().collect()));
    }

    #[track_caller]
    fn then_nothing(self) {
        self.then([]);
    }

    #[track_caller]
    fn rejects(self, rejection: ExecutionRejection) {
        assert_eq!(self.0, Err(rejection));
    }
}

fn report(
    execution: &Execution,
    claim: i32,
    steps: impl IntoIterator<Item = Step>,
) -> ExecutionCommand {
    ExecutionCommand::Report(Report {
        worker: WORKER.to_owned(),
        claim: Claim(claim),
        interventions: execution.interventions(),
        steps: steps.into_iter().collect(),
    })
}

fn start(path: &str) -> Step {
    let (input, secrets) = (json!({}).into(), Vec::new());
    Step::Start { path: path.into(), attempt: Attempt(1), input, secrets }
}

fn wait(path: &str, due_in: i64) -> Step {
    let input = json!({}).into();
    let until = Some(at(due_in));
    Step::Wait { path: path.into(), attempt: Attempt(1), input, awaited: Awaited::Time, until }
}

fn complete(path: &str, output: Value) -> Step {
    Step::Complete {
        path: path.into(),
        attempt: Attempt(1),
        output: NodeOutput::Inline(output.into()),
        port: None,
        variable: None,
        duration_ms: 5,
    }
}

fn fail(path: &str, then: AfterFailure) -> Step {
    let error = failure(ErrorKind::Transient);
    Step::Fail { path: path.into(), attempt: Attempt(1), error, duration_ms: 5, then }
}

fn failure(kind: ErrorKind) -> NodeError {
    NodeError { kind, message: "it broke".to_owned(), details: None }
}

fn node_started(path: &str) -> ExecutionEvent {
    let input = json!({}).into();
    NodeStarted {
        path: path.into(),
        attempt: Attempt(1),
        input,
        items: None,
        max_iterations: None,
        secrets: Vec::new(),
        undoes: None,
    }
    .into()
}

fn node_completed(path: &str, output: Value) -> ExecutionEvent {
    NodeCompleted {
        path: path.into(),
        attempt: Attempt(1),
        output: NodeOutput::Inline(output.into()),
        port: None,
        duration_ms: 5,
        undoes: None,
    }
    .into()
}

fn dispatched(claim: i32) -> ExecutionEvent {
    ExecutionDispatched { claim: Claim(claim), queue: Queue::Default }.into()
}

fn graph_of(nodes: Value, connections: Value) -> Graph {
    let definition = json!({"nodes": nodes, "connections": connections});
    Graph::parse(&definition).expect("the definition of a test is sound")
}

fn plan_of(nodes: Value, connections: Value) -> Arc<Plan> {
    Plan::of(&graph_of(nodes, connections))
}
