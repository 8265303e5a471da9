//! When X, then Y.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::*;
use crate::{
    event::{Actor, Metadata},
    execution::{ExecutionCancelled, ExecutionRequested, Queue, TriggerType},
    id::{CorrelationId, WorkspaceId},
    json::Json,
    workflow::{
        IntakeActivated, IntakeDeactivated, IntakePaused, WorkflowDeleted, WorkflowVersion,
    },
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
    };
    recorded(execution(number).0, AnyEvent::Execution(event.into()))
}

fn ended(number: u128) -> Recorded<AnyEvent> {
    let event = ExecutionCancelled { reason: CancelReason::StoppedByUser };
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
    reactions.into_iter().map(|reaction| (reaction.execution, reaction.command)).collect()
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
fn only_open_executions_are_kept() {
    let mut state = PolicyState::default();
    state.apply(&requested(1, WORKFLOW));
    assert_eq!(state.open_executions(WorkflowId(WORKFLOW)), 1);
    let text = serde_json::to_string(&state).expect("plain data");
    assert_eq!(serde_json::from_str::<PolicyState>(&text).expect("as written"), state);
    state.apply(&ended(1));
    assert_eq!(state, PolicyState::default());
}
