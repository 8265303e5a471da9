//! Workflows that start from the log: once for each event, and never for ever.

use std::time::Duration;

use chrono::TimeDelta;
use ledgerline_domain::{
    execution::{CancelReason, ExecutionEvent},
    id::UserId,
    limits::MAX_TRIGGER_DEPTH,
    trigger::{TriggerDisarmed, TriggerFired, TriggerRefused},
    workflow::{PublishWorkflow, WorkflowCommand},
    workspace::{CreateWorkspace, DELETION_GRACE, WorkspaceCommand, WorkspaceRejection},
};
use serde_json::Value;
use tokio::time::sleep as rest;
use uuid::Uuid;

use super::*;
use crate::{
    start::StartRejection,
    testing::{LEASE, Process, World, context, wanted},
};

fn listening(config: &Value) -> Value {
    json!({
        "nodes": [
            {"id": "hear", "type": "trigger.event", "config": config},
            {"id": "one", "type": "logic.wait", "config": {"duration_ms": 1}},
        ],
        "connections": [{"from": "hear", "to": "one"}],
        "settings": {"concurrency": {"limit": 100}},
    })
}

async fn published(world: &World, process: &Process, config: &Value) -> WorkflowId {
    let id = world.workflow_of(&listening(config)).await;
    process.tell_workflow(id, WorkflowCommand::Publish(PublishWorkflow::default())).await;
    process.tell_workflow(id, WorkflowCommand::ActivateIntake).await;
    world.until(listens).await;
    // What it hears begins with the policy's having heard of it.
    rest(LEASE * 2).await;
    id
}

fn of_triggers(world: &World) -> Vec<TriggerEvent> {
    let of_trigger = |event| match event {
        AnyEvent::Trigger(event) => Some(event),
        _ => None,
    };
    world.history().into_iter().filter_map(|recorded| of_trigger(recorded.event)).collect()
}

fn listens(world: &World) -> bool {
    matches!(of_triggers(world).last(), Some(TriggerEvent::TriggerArmed(_)))
}

fn fired(world: &World) -> Vec<TriggerFired> {
    let fired = |event| match event {
        TriggerEvent::TriggerFired(fired) => Some(fired),
        _ => None,
    };
    of_triggers(world).into_iter().filter_map(fired).collect()
}

fn refused(world: &World) -> Vec<TriggerRefused> {
    let refused = |event| match event {
        TriggerEvent::TriggerRefused(refused) => Some(refused),
        _ => None,
    };
    of_triggers(world).into_iter().filter_map(refused).collect()
}

fn policy(world: &World, name: &str) -> Process {
    let mut process = world.process(name);
    process.triggers();
    process
}

#[tokio::test(start_paused = true)]
async fn a_workflow_that_hears_itself_comes_to_an_end() {
    let world = World::new();
    let process = policy(&world, "one");
    let id = published(&world, &process, &json!({"event_type": "execution_requested"})).await;
    process.start(id).await;
    world.until(|world| !refused(world).is_empty()).await;
    rest(Duration::from_secs(5)).await;
    let requested = world.count(|event| matches!(event, ExecutionEvent::ExecutionRequested(_)));
    assert_eq!(requested, usize::from(MAX_TRIGGER_DEPTH) + 1);
    let refused = refused(&world);
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(refused[0].rule, "triggers_too_deep");
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_heard_again_starts_nothing_again() {
    let world = World::new();
    let mut process = policy(&world, "first");
    let quiet = world.workflow(None).await;
    let config = json!({
        "event_type": "execution_requested",
        "filter": format!("event.data.workflow_id == '{quiet}'"),
    });
    published(&world, &process, &config).await;
    for round in 0..5 {
        process.start(quiet).await;
        // Wherever it is with that: nothing is settled yet, and the next one hears it all again.
        rest(Duration::from_millis(round * 3)).await;
        process.crash();
        process = policy(&world, &format!("process {round}"));
    }
    world.until(|world| fired(world).len() == 5).await;
    rest(LEASE * 4).await;
    assert_eq!(fired(&world).len(), 5);
    assert_eq!(refused(&world), []);
    let requested = world.count(|event| matches!(event, ExecutionEvent::ExecutionRequested(_)));
    assert_eq!(requested, 10);
    world.nothing_is_stuck().await;
}

#[tokio::test(start_paused = true)]
async fn a_filter_that_fails_is_seen_and_one_that_says_no_is_not() {
    let world = World::new();
    let process = policy(&world, "one");
    let other = world.workflow(None).await;
    let no = json!({"event_type": "execution_requested", "filter": "event.data.depth > 3"});
    published(&world, &process, &no).await;
    let broken =
        json!({"event_type": "execution_requested", "filter": "event.data.nothing.at_all"});
    published(&world, &process, &broken).await;
    process.start(other).await;
    world.until(|world| !refused(world).is_empty()).await;
    rest(Duration::from_secs(5)).await;
    let rules: Vec<String> = refused(&world).into_iter().map(|refused| refused.rule).collect();
    assert_eq!(rules, ["filter_failed"]);
    assert_eq!(fired(&world), []);
}

async fn tell_workspace(world: &World, process: &Process, command: WorkspaceCommand) {
    let target = Target::new(world.workspace, world.workspace);
    process.commands.execute::<Workspace>(target, &command, &context()).await.unwrap();
}

/// A world whose workspace exists, with what one process does in the background.
async fn with_a_workspace() -> (World, Process) {
    let world = World::new();
    let mut process = policy(&world, "one");
    process.policies();
    process.timers();
    let create = CreateWorkspace {
        name: "Team".to_owned(),
        description: String::new(),
        owner: UserId(Uuid::now_v7()),
        personal: false,
    };
    tell_workspace(&world, &process, WorkspaceCommand::Create(create)).await;
    (world, process)
}

fn cancelled(world: &World) -> usize {
    let why = CancelReason::WorkspaceDeleted;
    world.count(
        |event| matches!(event, ExecutionEvent::ExecutionCancelled(event) if event.reason == why),
    )
}

fn last_of_trigger(world: &World) -> Option<TriggerEvent> {
    of_triggers(world).pop()
}

#[tokio::test(start_paused = true)]
async fn a_workspace_that_is_being_deleted_takes_nothing_in_until_it_is_restored() {
    let (world, process) = with_a_workspace().await;
    let quiet = world.workflow(None).await;
    let config = json!({
        "event_type": "execution_requested",
        "filter": format!("event.data.workflow_id == '{quiet}'"),
    });
    published(&world, &process, &config).await;
    let open = process.start(quiet).await;
    world.until(|world| fired(world).len() == 1).await;

    // Another process that knows the workspace as it was.
    let elsewhere = world.process("elsewhere");
    let known = elsewhere.commands.load::<Workspace>(world.workspace).await.unwrap();
    tell_workspace(&world, &process, WorkspaceCommand::Delete).await;
    assert!(known.state.active().is_ok());
    let refused_start = elsewhere.try_start(&wanted(quiet, Json::null())).await;
    assert!(
        matches!(
            refused_start,
            Err(CommandError::Rejected(StartRejection::Workspace(
                WorkspaceRejection::BeingDeleted
            )))
        ),
        "{refused_start:?}"
    );
    world.until(|world| cancelled(world) == 2).await;
    let state = elsewhere.commands.load::<Execution>(open).await.unwrap().state;
    assert!(state.has_ended());
    let off = TriggerDisarmed { reason: OffReason::WorkspaceDeleted };
    world.until(|world| last_of_trigger(world) == Some(off.clone().into())).await;

    tell_workspace(&world, &process, WorkspaceCommand::Restore).await;
    world.until(listens).await;
    rest(LEASE * 2).await;
    elsewhere.start(quiet).await;
    world.until(|world| fired(world).len() == 2).await;
    assert_eq!(cancelled(&world), 2);
}

fn deleted(world: &World) -> usize {
    let is_end = |event: &AnyEvent| {
        matches!(event, AnyEvent::Workspace(WorkspaceEvent::WorkspaceDeleted(_)))
    };
    world.history().iter().filter(|recorded| is_end(&recorded.event)).count()
}

/// The clock is the world's; whoever leads at the end is another process than the one that was told, and a grace that was taken back ends
/// nothing.
#[tokio::test(start_paused = true)]
async fn a_workspace_ends_when_its_grace_is_over_whatever_restarts_in_between() {
    let (world, first) = with_a_workspace().await;
    let workflow = world.workflow(None).await;
    first.start(workflow).await;
    tell_workspace(&world, &first, WorkspaceCommand::Delete).await;
    world.until(|world| cancelled(world) == 1).await;
    first.crash();
    world.set_wrong_by(TimeDelta::days(10));
    let mut second = world.process("second");
    second.policies();
    second.timers();
    tell_workspace(&world, &second, WorkspaceCommand::Restore).await;
    second.start(workflow).await;
    tell_workspace(&world, &second, WorkspaceCommand::Delete).await;
    world.until(|world| cancelled(world) == 2).await;
    second.crash();

    let mut third = world.process("third");
    third.timers();
    world.set_wrong_by(DELETION_GRACE + TimeDelta::days(1));
    rest(Duration::from_secs(10)).await;
    assert_eq!(deleted(&world), 0, "the first grace was taken back");
    world.set_wrong_by(TimeDelta::days(10) + DELETION_GRACE);
    world.until(|world| deleted(world) == 1).await;
    rest(Duration::from_secs(5)).await;
    assert_eq!(deleted(&world), 1);
    assert_eq!(world.log.next_due().await.unwrap(), None);

    let fourth = world.process("fourth");
    let over = fourth.commands.load::<Workspace>(world.workspace).await.unwrap().state;
    assert_eq!(over.content(), None);
    assert!(fourth.try_start(&wanted(workflow, Json::null())).await.is_err());
    let target = Target::existing(world.workspace);
    let restored =
        fourth.commands.execute::<Workspace>(target, &WorkspaceCommand::Restore, &context()).await;
    assert!(matches!(restored, Err(CommandError::Rejected(WorkspaceRejection::NotFound))));
}
