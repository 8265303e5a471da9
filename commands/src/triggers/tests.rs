//! Workflows that start from the log: once for each event, and never for ever.

use std::time::Duration;

use ledgerline_domain::{
    execution::ExecutionEvent,
    limits::MAX_TRIGGER_DEPTH,
    trigger::{TriggerFired, TriggerRefused},
    workflow::{PublishWorkflow, WorkflowCommand},
};
use serde_json::Value;
use tokio::time::sleep as rest;

use super::*;
use crate::testing::{LEASE, Process, World};

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
