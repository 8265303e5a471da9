//! A fire time starts one run for ever: with two schedulers, through crashes, and whatever the clocks say.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use ledgerline_domain::trigger::TriggerEvent;
use ledgerline_domain::{
    event::AnyEvent,
    execution::{CancelReason, ExecutionEvent, Queue, TriggerType},
    graph::Definition,
    id::{ExecutionId, WorkflowId},
    trigger::{FiresMissed, OffReason, TriggerFired, TriggerRefused},
    workflow::{NewDraft, PublishWorkflow, SaveDraft, WorkflowCommand, WorkflowRejection},
};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::*;
use crate::testing::{LEASE, Process, World};

/// A workflow with a schedule and nothing else to do.
fn scheduled(config: &Value, concurrency: u32) -> Value {
    json!({
        "nodes": [
            {"id": "clock", "type": "trigger.cron", "config": config},
            {"id": "one", "type": "logic.wait", "config": {"duration_ms": 1}},
        ],
        "connections": [{"from": "clock", "to": "one"}],
        "settings": {"concurrency": {"limit": concurrency}},
    })
}

fn every_minute() -> Value {
    json!({"cron": "* * * * *", "timezone": "Europe/Berlin", "payload": {"n": 1}})
}

fn with(mut config: Value, field: &str, value: impl Into<Value>) -> Value {
    config[field] = value.into();
    config
}

async fn published(world: &World, process: &Process, config: &Value) -> WorkflowId {
    let id = world.workflow_of(&scheduled(config, 100)).await;
    let publish = PublishWorkflow::default();
    process.tell_workflow(id, WorkflowCommand::Publish(publish)).await;
    process.tell_workflow(id, WorkflowCommand::ActivateIntake).await;
    until(world, |world| armed(world) > 0).await;
    id
}

/// Waits until something holds, at most an hour of simulated time.
async fn until(world: &World, holds: impl Fn(&World) -> bool) {
    for _ in 0..7_200 {
        if holds(world) {
            return;
        }
        sleep(Duration::from_millis(500)).await;
    }
    panic!("it never came to hold: {:#?}", of_triggers(world));
}

fn scheduler(world: &World, name: &str) -> Process {
    let mut process = world.process(name);
    process.triggers();
    process.timers();
    process
}

fn of_triggers(world: &World) -> Vec<TriggerEvent> {
    let of_trigger = |event| match event {
        AnyEvent::Trigger(event) => Some(event),
        _ => None,
    };
    world.history().into_iter().filter_map(|recorded| of_trigger(recorded.event)).collect()
}

fn armed(world: &World) -> usize {
    let armed = |event: &TriggerEvent| match event {
        TriggerEvent::TriggerArmed(armed) => armed.next_fire_at.is_some(),
        _ => false,
    };
    of_triggers(world).iter().filter(|event| armed(event)).count()
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

fn missed(world: &World) -> Vec<FiresMissed> {
    let missed = |event| match event {
        TriggerEvent::FiresMissed(missed) => Some(missed),
        _ => None,
    };
    of_triggers(world).into_iter().filter_map(missed).collect()
}

/// The fire times in the order in which they were fired.
fn times(world: &World) -> Vec<DateTime<Utc>> {
    let time = |fired: TriggerFired| match fired.cause {
        Cause::Schedule { fire_at } => Some(fire_at),
        _ => None,
    };
    fired(world).into_iter().filter_map(time).collect()
}

/// Every fire has its one run, and every run its one fire, at whole minutes that rise.
fn assert_once_each(world: &World) {
    let mut requested: BTreeMap<ExecutionId, usize> = BTreeMap::new();
    for (id, event) in world.executions() {
        if let ExecutionEvent::ExecutionRequested(event) = event {
            assert_eq!(event.trigger_type, TriggerType::Cron);
            assert_eq!(event.trigger_node.as_deref(), Some("clock"));
            assert_eq!(event.queue, Queue::Default);
            *requested.entry(id).or_default() += 1;
        }
    }
    let fired: Vec<ExecutionId> =
        fired(world).into_iter().map(|fired| fired.execution_id).collect();
    assert_eq!(requested.len(), fired.len(), "each fire has a run of its own");
    assert!(fired.iter().all(|id| requested.get(id) == Some(&1)), "{requested:?} for {fired:?}");
    assert!(times(world).windows(2).all(|pair| pair[0] < pair[1]), "{:?}", times(world));
}

#[tokio::test(start_paused = true)]
async fn two_schedulers_fire_each_time_once() {
    let world = World::new();
    let one = scheduler(&world, "one");
    let _rival = scheduler(&world, "rival");
    published(&world, &one, &every_minute()).await;
    let began = world.clock.now();
    until(&world, |world| times(world).len() == 5).await;
    assert_once_each(&world);
    let first = times(&world)[0];
    assert!(first > began && first < began + TimeDelta::seconds(61));
    let expected: Vec<_> = (0..5).map(|n| first + TimeDelta::minutes(n)).collect();
    assert_eq!(times(&world), expected);
    assert!(world.clock.now() < expected[4] + TimeDelta::seconds(1), "within a second");
    let (_, event) = world.executions().into_iter().next().unwrap();
    let ExecutionEvent::ExecutionRequested(event) = event else { panic!("{event:?}") };
    let input = event.input.to_value();
    assert_eq!(input["payload"], json!({"n": 1}));
    assert_eq!(input["timezone"], "Europe/Berlin");
    assert_eq!(input["fire_at"], json!(first));
}

#[tokio::test(start_paused = true)]
async fn two_that_both_believe_to_lead_meet_on_the_stream() {
    let world = World::new();
    let mut one = scheduler(&world, "one");
    let workflow = published(&world, &one, &every_minute()).await;
    one.stop.cancel();
    one = world.process("again");
    let rival = world.process("rival");
    let id = TriggerId::of(workflow, "clock");
    sleep(Duration::from_secs(70)).await;
    let due = |process: &Process| {
        let commands = process.commands.clone();
        async move {
            let context = Context::new(Actor::system("test"));
            commands.transact(&context, |scope: Scope| settle(scope, id)).await.map(|_| ())
        }
    };
    // Without any fence: what keeps them apart is the stream alone.
    let (first, second) = tokio::join!(due(&one), due(&rival));
    assert!(first.is_ok() || second.is_ok());
    assert_eq!(times(&world).len(), 1);
    assert_once_each(&world);
}

#[tokio::test(start_paused = true)]
async fn a_crash_between_the_due_time_and_the_run_loses_and_doubles_nothing() {
    let world = World::new();
    let mut process = scheduler(&world, "first");
    published(&world, &process, &with(every_minute(), "catch_up_window_ms", 600_000)).await;
    for round in 0..6 {
        // Each time at another moment around the fire time.
        sleep(Duration::from_millis(59_990 + round * 4)).await;
        process.crash();
        process = scheduler(&world, &format!("process {round}"));
    }
    sleep(LEASE * 4).await;
    assert_once_each(&world);
    let times = times(&world);
    assert!(times.len() >= 6, "{times:?}");
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] == TimeDelta::minutes(1)), "{times:?}");
    assert_eq!(missed(&world), []);
    world.nothing_is_stuck().await;
}

#[tokio::test(start_paused = true)]
async fn after_downtime_what_is_recent_fires_and_the_rest_is_missed() {
    let world = World::new();
    let process = scheduler(&world, "first");
    published(&world, &process, &with(every_minute(), "catch_up_window_ms", 180_000)).await;
    until(&world, |world| times(world).len() == 1).await;
    let last = times(&world)[0];
    process.crash();
    sleep(Duration::from_secs(600)).await;
    let _next = scheduler(&world, "next");
    until(&world, |world| times(world).len() == 4).await;
    let missed = missed(&world);
    assert_eq!(missed.len(), 1, "{missed:?}");
    assert_eq!(missed[0].first_at, last + TimeDelta::minutes(1));
    assert_eq!(missed[0].count, 7);
    let minutes = |n| last + TimeDelta::minutes(n);
    assert_eq!(times(&world)[1..], [minutes(8), minutes(9), minutes(10)]);
    assert_once_each(&world);
    world.nothing_is_stuck().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_back_fires_nothing_twice() {
    let world = World::new();
    let process = scheduler(&world, "one");
    published(&world, &process, &every_minute()).await;
    until(&world, |world| times(world).len() == 2).await;
    world.set_wrong_by(TimeDelta::minutes(-10));
    sleep(Duration::from_secs(300)).await;
    assert_eq!(times(&world).len(), 2, "these ten minutes were fired already");
    world.set_wrong_by(TimeDelta::zero());
    sleep(Duration::from_secs(120)).await;
    assert!(times(&world).len() >= 3);
    assert_once_each(&world);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_ahead_is_downtime_like_any_other() {
    let world = World::new();
    let process = scheduler(&world, "one");
    published(&world, &process, &every_minute()).await;
    until(&world, |world| times(world).len() == 2).await;
    let last = times(&world)[1];
    world.set_wrong_by(TimeDelta::minutes(30));
    until(&world, |world| times(world).len() == 4).await;
    let missed = missed(&world);
    assert_eq!(missed.len(), 1, "{missed:?}");
    assert!((28..=29).contains(&missed[0].count), "{missed:?}");
    assert!(times(&world)[2] >= last + TimeDelta::minutes(29));
    // Set right again: what was fired then is not fired again.
    world.set_wrong_by(TimeDelta::zero());
    let id = of_triggers(&world).len();
    sleep(Duration::from_secs(120)).await;
    assert_eq!(of_triggers(&world).len(), id, "nothing until the clock is there again");
    assert_once_each(&world);
}

#[tokio::test(start_paused = true)]
async fn jitter_puts_a_fire_off_and_keeps_its_time() {
    let world = World::new();
    let process = scheduler(&world, "one");
    let config = json!({"cron": "*/5 * * * *", "jitter_ms": 240_000});
    published(&world, &process, &config).await;
    sleep(Duration::from_secs(1_500)).await;
    let late = |recorded: &ledgerline_domain::event::Recorded<AnyEvent>| match &recorded.event {
        AnyEvent::Trigger(TriggerEvent::TriggerFired(event)) => match event.cause {
            Cause::Schedule { fire_at } => Some(recorded.recorded_at - fire_at),
            _ => None,
        },
        _ => None,
    };
    let late: Vec<TimeDelta> = world.history().iter().filter_map(late).collect();
    assert!(late.len() >= 3, "{late:?}");
    assert!(late.iter().all(|late| *late < TimeDelta::seconds(241)), "{late:?}");
    assert!(late.iter().any(|late| *late > TimeDelta::seconds(10)), "{late:?}");
    assert_once_each(&world);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_published_or_takes_in_nothing_does_not_fire() {
    let world = World::new();
    let process = scheduler(&world, "one");
    let id = world.workflow_of(&scheduled(&every_minute(), 100)).await;
    sleep(Duration::from_secs(180)).await;
    assert_eq!(of_triggers(&world), []);
    let publish = WorkflowCommand::Publish(PublishWorkflow::default());
    process.tell_workflow(id, publish.clone()).await;
    sleep(Duration::from_secs(180)).await;
    assert_eq!(fired(&world), []);
    process.tell_workflow(id, WorkflowCommand::ActivateIntake).await;
    until(&world, |world| times(world).len() == 1).await;
    process.tell_workflow(id, WorkflowCommand::PauseIntake).await;
    sleep(Duration::from_secs(300)).await;
    assert_eq!(times(&world).len(), 1);
    process.tell_workflow(id, WorkflowCommand::ActivateIntake).await;
    until(&world, |world| times(world).len() == 2).await;
    let pause = times(&world)[1] - times(&world)[0];
    assert!(pause >= TimeDelta::minutes(5), "what came meanwhile is not caught up with: {pause}");
    process.tell_workflow(id, WorkflowCommand::Archive).await;
    sleep(Duration::from_secs(180)).await;
    process.tell_workflow(id, WorkflowCommand::Unarchive).await;
    process.tell_workflow(id, publish).await;
    process.tell_workflow(id, WorkflowCommand::ActivateIntake).await;
    until(&world, |world| times(world).len() == 3).await;
    process.tell_workflow(id, WorkflowCommand::Delete).await;
    sleep(Duration::from_secs(180)).await;
    assert_eq!(times(&world).len(), 3);
    assert_once_each(&world);
    let off = |event| match event {
        TriggerEvent::TriggerDisarmed(event) => Some(event.reason),
        _ => None,
    };
    let off: Vec<OffReason> = of_triggers(&world).into_iter().filter_map(off).collect();
    assert_eq!(off.last(), Some(&OffReason::WorkflowDeleted), "{off:?}");
    assert!(off.contains(&OffReason::IntakePaused) && off.contains(&OffReason::NotPublished));
}

/// The start looks at the workflow itself, so a trigger that has not heard yet starts nothing either.
#[tokio::test(start_paused = true)]
async fn a_trigger_that_has_not_heard_yet_is_refused() {
    let world = World::new();
    let mut process = scheduler(&world, "one");
    let workflow = published(&world, &process, &every_minute()).await;
    process.stop.cancel();
    process = world.process("deaf");
    process.tell_workflow(workflow, WorkflowCommand::PauseIntake).await;
    process.timers();
    until(&world, |world| !refused(world).is_empty()).await;
    assert_eq!(refused(&world)[0].rule, WorkflowRejection::IntakePaused.rule());
    assert_eq!(fired(&world), []);
}

#[tokio::test(start_paused = true)]
async fn another_version_has_another_schedule_or_none() {
    let world = World::new();
    let process = scheduler(&world, "one");
    let id = published(&world, &process, &every_minute()).await;
    until(&world, |world| times(world).len() == 1).await;
    let save = |definition: Value| {
        let definition = Definition::parse(Json::from_value(&definition)).unwrap();
        let (name, description) = ("Test".to_owned(), String::new());
        let draft = NewDraft { name, description, definition, tags: Vec::new(), is_public: false };
        WorkflowCommand::SaveDraft(SaveDraft { draft })
    };
    let publish = WorkflowCommand::Publish(PublishWorkflow::default());
    let rare = json!({"cron": "*/10 * * * *"});
    process.tell_workflow(id, save(scheduled(&rare, 100))).await;
    process.tell_workflow(id, publish.clone()).await;
    sleep(Duration::from_secs(610)).await;
    let times_then = times(&world);
    assert_eq!(times_then.len(), 2, "{times_then:?}");
    let none = json!({"nodes": [{"id": "one", "type": "logic.wait", "config": {"duration_ms": 1}}],
        "connections": [], "settings": {}});
    process.tell_workflow(id, save(none)).await;
    process.tell_workflow(id, publish).await;
    sleep(Duration::from_secs(1_300)).await;
    assert_eq!(times(&world), times_then);
    let gone = TriggerEvent::TriggerDisarmed(ledgerline_domain::trigger::TriggerDisarmed {
        reason: OffReason::NodeRemoved,
    });
    assert_eq!(of_triggers(&world).last(), Some(&gone));
    assert_eq!(ledgerline_store::EventLog::next_due(&*world.log).await.unwrap(), None);
}

/// Runs that a worker begins and never ends, under each overlap policy.
async fn overlapping(overlap: &str, minutes: u64) -> World {
    let world = World::new();
    let mut process = scheduler(&world, "one");
    process.dispatch();
    process.worker(100, None);
    published(&world, &process, &with(every_minute(), "overlap", overlap)).await;
    sleep(Duration::from_secs(60 * minutes + 30)).await;
    assert_once_each(&world);
    world
}

#[tokio::test(start_paused = true)]
async fn overlapping_runs_are_allowed_skipped_queued_or_cancelled() {
    let world = overlapping("allow", 4).await;
    assert!(fired(&world).len() >= 4);
    assert_eq!(refused(&world), []);

    let world = overlapping("skip", 4).await;
    assert_eq!(fired(&world).len(), 1);
    assert!(refused(&world).len() >= 3);
    assert!(refused(&world).iter().all(|refused| refused.rule == "overlap"));

    let world = overlapping("queue", 4).await;
    assert_eq!(fired(&world).len(), 2, "one runs and one waits");
    assert!(refused(&world).iter().all(|refused| refused.rule == "overlap_queue_full"));
    assert!(refused(&world).len() >= 2);
    let begun = world.count(|event| matches!(event, ExecutionEvent::ExecutionStarted(_)));
    assert_eq!(begun, 1);

    let world = overlapping("cancel_running", 4).await;
    let fired = fired(&world).len();
    assert!(fired >= 4);
    let superseded = world.count(|event| match event {
        ExecutionEvent::CancelRequested(event) => event.reason == CancelReason::Superseded,
        _ => false,
    });
    assert_eq!(superseded, fired - 1, "all but the last one");
}
