//! When X, then Y.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::*;
use crate::{
    event::{Actor, Metadata},
    execution::{
        Attempt, ChildStarted, ErrorKind, ExecutionCancelled, ExecutionRequested, NodeError, Queue,
        TriggerType,
    },
    id::{CorrelationId, WorkspaceId},
    json::Json,
    workflow::{
        IntakeActivated, IntakeDeactivated, IntakePaused, WorkflowDeleted, WorkflowVersion,
    },
    workspace::WorkspaceDeletionRequested,
};

const WORKFLOW: Uuid = Uuid::from_u128(1);

fn recorded(stream: Uuid, event: AnyEvent) -> Recorded<AnyEvent> {
    Recorded {
        position: 1,
        stream,
        version: 1,
        workspace: Uuid::nil(),
        event_id: EventId(Uuid::from_u128(7)),
        recorded_at: DateTime::<Utc>::UNIX_EPOCH,
        metadata: Metadata {
            actor: Actor::system("test"),
            correlation_id: CorrelationId(Uuid::nil()),
            causation_id: None,
            trace: None,
        },
        event,
    }
}

fn of_workflow(event: impl Into<WorkflowEvent>) -> Recorded<AnyEvent> {
    recorded(WORKFLOW, AnyEvent::Workflow(event.into()))
}

fn execution(number: u128) -> ExecutionId {
    ExecutionId(Uuid::from_u128(number))
}

fn requested(number: u128, workflow: Uuid) -> Recorded<AnyEvent> {
    let event = ExecutionRequested {
        workspace_id: WorkspaceId(Uuid::nil()),
        workflow_id: WorkflowId(workflow),
        workflow_version: WorkflowVersion(1),
        trigger_type: TriggerType::Manual,
        input: Json::null(),
        queue: Queue::Default,
        limits: Vec::new(),
        timeout_at: None,
        origin: None,
        trigger_node: None,
        planned_nodes: 1,
        depth: 0,
        parent: None,
        error_workflow_id: None,
        undoes: std::collections::BTreeMap::new(),
    };
    recorded(execution(number).0, AnyEvent::Execution(event.into()))
}

fn ended(number: u128) -> Recorded<AnyEvent> {
    let event = ExecutionCancelled { reason: CancelReason::StoppedByUser, compensation: None };
    recorded(execution(number).0, AnyEvent::Execution(event.into()))
}

/// What the last of these events leads to.
fn reactions(events: &[Recorded<AnyEvent>]) -> Vec<(ExecutionId, ExecutionCommand)> {
    let (last, before) = events.split_last().expect("there is an event");
    let mut state = PolicyState::default();
    for event in before {
        state.apply(event);
    }
    let reactions = react(&state, last);
    assert!(reactions.iter().all(|reaction| reaction.cause == last.event_id));
    let told = |reaction: Reaction| match reaction.told {
        Told::Command(command) => (reaction.execution, command),
        Told::Start(run) => panic!("nothing is started by this: {run:?}"),
    };
    reactions.into_iter().map(told).collect()
}

#[test]
fn a_paused_workflow_pauses_its_open_executions_and_no_others() {
    let other = Uuid::from_u128(2);
    let pause = ExecutionCommand::Pause { reason: PauseReason::WorkflowPaused };
    let events = [
        requested(1, WORKFLOW),
        requested(2, WORKFLOW),
        requested(3, other),
        ended(2),
        of_workflow(IntakePaused {}),
    ];
    assert_eq!(reactions(&events), [(execution(1), pause)]);
}

#[test]
fn an_active_workflow_resumes_what_it_had_paused() {
    let unpause = ExecutionCommand::Unpause { reason: PauseReason::WorkflowPaused };
    let activated = || of_workflow(IntakeActivated {});
    assert_eq!(reactions(&[requested(1, WORKFLOW), activated()]), []);
    let events = [requested(1, WORKFLOW), of_workflow(IntakePaused {}), activated()];
    assert_eq!(reactions(&events), [(execution(1), unpause)]);
    let again = [requested(1, WORKFLOW), of_workflow(IntakePaused {}), activated(), activated()];
    assert_eq!(reactions(&again), []);
}

#[test]
fn a_stopped_or_deleted_workflow_cancels_its_open_executions() {
    let cancel = |reason| (execution(1), ExecutionCommand::Cancel { reason });
    let stopped = [requested(1, WORKFLOW), of_workflow(IntakeDeactivated {})];
    assert_eq!(reactions(&stopped), [cancel(CancelReason::WorkflowStopped)]);
    let deleted = [requested(1, WORKFLOW), of_workflow(WorkflowDeleted {})];
    assert_eq!(reactions(&deleted), [cancel(CancelReason::WorkflowDeleted)]);
}

#[test]
fn the_deletion_of_a_workspace_cancels_all_that_is_open_in_it() {
    let workspace = |event: WorkspaceEvent| recorded(Uuid::nil(), AnyEvent::Workspace(event));
    let ends_at = DateTime::<Utc>::UNIX_EPOCH;
    let requested_deletion = workspace(WorkspaceDeletionRequested { ends_at }.into());
    let events = [
        requested(1, WORKFLOW),
        requested(2, Uuid::from_u128(77)),
        requested(3, WORKFLOW),
        ended(3),
        requested_deletion.clone(),
    ];
    let cancel = ExecutionCommand::Cancel { reason: CancelReason::WorkspaceDeleted };
    assert_eq!(reactions(&events), [(execution(1), cancel.clone()), (execution(2), cancel)]);
    let elsewhere = Recorded { stream: Uuid::from_u128(78), ..requested_deletion };
    assert_eq!(reactions(&[requested(1, WORKFLOW), elsewhere]), []);
}

#[test]
fn only_open_executions_are_kept() {
    let mut state = PolicyState::default();
    state.apply(&requested(1, WORKFLOW));
    assert_eq!(state.open_executions(WorkflowId(WORKFLOW)), 1);
    let text = serde_json::to_string(&state).expect("plain data");
    assert_eq!(serde_json::from_str::<PolicyState>(&text).expect("as written"), state);
    state.apply(&ended(1));
    assert_eq!(state, PolicyState::default());
}

fn of_execution(number: u128, event: impl Into<ExecutionEvent>) -> Recorded<AnyEvent> {
    recorded(execution(number).0, AnyEvent::Execution(event.into()))
}

fn request_with(number: u128, change: impl FnOnce(&mut ExecutionRequested)) -> Recorded<AnyEvent> {
    let mut request = requested(number, WORKFLOW);
    if let AnyEvent::Execution(ExecutionEvent::ExecutionRequested(event)) = &mut request.event {
        change(event);
    }
    request
}

fn parent_of(number: u128, waits: bool) -> Parent {
    Parent { execution_id: execution(number), path: "sub".into(), attempt: Attempt(2), waits }
}

fn child_started(number: u128, child: u128, waits: bool) -> Recorded<AnyEvent> {
    let event = ChildStarted {
        path: "sub".into(),
        attempt: Attempt(2),
        execution_id: execution(child),
        workflow_id: WorkflowId(WORKFLOW),
        version: Some(WorkflowVersion(3)),
        input: Json::from(json!({"n": 1})),
        waits,
        started_at: DateTime::<Utc>::UNIX_EPOCH,
    };
    of_execution(number, event)
}

fn told(events: &[Recorded<AnyEvent>]) -> Vec<(ExecutionId, Told)> {
    let (last, before) = events.split_last().expect("there is an event");
    let mut state = PolicyState::default();
    before.iter().for_each(|event| state.apply(event));
    let reactions = react(&state, last).into_iter();
    reactions.map(|reaction| (reaction.execution, reaction.told)).collect()
}

#[test]
fn a_child_is_requested_one_level_deeper_than_its_parent() {
    let events = [request_with(1, |request| request.depth = 4), child_started(1, 2, true)];
    let run = NewRun {
        workspace_id: WorkspaceId(Uuid::nil()),
        workflow_id: WorkflowId(WORKFLOW),
        version: Some(WorkflowVersion(3)),
        input: Json::from(json!({"n": 1})),
        depth: 5,
        parent: Some(parent_of(1, true)),
    };
    assert_eq!(told(&events), [(execution(2), Told::Start(Box::new(run)))]);
}

#[test]
fn the_end_of_a_child_is_told_to_the_parent_that_waits_and_to_no_other() {
    let child = |waits| request_with(2, |request| request.parent = Some(parent_of(1, waits)));
    let end = ChildEnd::Cancelled { reason: CancelReason::StoppedByUser };
    let (path, attempt, child_id) = ("sub".into(), Attempt(2), execution(2));
    let finish = ExecutionCommand::FinishChild { path, attempt, child: child_id, end };
    let waited = [requested(1, WORKFLOW), child_started(1, 2, true), child(true), ended(2)];
    assert_eq!(told(&waited), [(execution(1), finish.into())]);
    let alone = [requested(1, WORKFLOW), child_started(1, 2, false), child(false), ended(2)];
    assert_eq!(told(&alone), []);
}

#[test]
fn the_children_that_a_run_waits_for_end_with_it_even_before_they_exist() {
    let cancel = ExecutionCommand::Cancel { reason: CancelReason::ParentEnded };
    let begun = [requested(1, WORKFLOW), child_started(1, 2, true), child_started(1, 3, false)];
    let events = [&begun[..], &[ended(1)]].concat();
    assert_eq!(told(&events), [(execution(2), cancel.into())]);
    let child = request_with(2, |request| request.parent = Some(parent_of(1, true)));
    let events = [&begun[..], &[child, ended(2), ended(1)]].concat();
    assert_eq!(told(&events), [], "it had ended before");
}

#[test]
fn a_failure_starts_the_error_workflow_that_was_named_at_the_request() {
    let handler = WorkflowId(Uuid::from_u128(99));
    let error = NodeError { kind: ErrorKind::Permanent, message: "no".to_owned(), details: None };
    let failed = ExecutionFailed { node: Some("pay".into()), error, compensation: None };
    let named = request_with(1, |request| request.error_workflow_id = Some(handler));
    let found = told(&[named.clone(), of_execution(1, failed.clone())]);
    let [(id, Told::Start(run))] = found.as_slice() else { panic!("one run: {found:?}") };
    assert_eq!(*id, execution(1).of_failure());
    assert_eq!((run.workflow_id, run.depth, &run.parent), (handler, 1, &None));
    let expected = json!({"execution_id": execution(1), "workflow_id": WORKFLOW, "node": "pay",
        "error": {"kind": "permanent", "message": "no"}});
    assert_eq!(run.input.to_value(), expected);
    assert_eq!(told(&[requested(1, WORKFLOW), of_execution(1, failed)]), []);
    assert_eq!(told(&[named, ended(1)]), [], "a run that was stopped has not failed");
}
