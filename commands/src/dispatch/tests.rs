//! Slots are never over-filled, and nothing that was handed out is lost.

use std::time::Duration;

use ledgerline_domain::{
    dispatch::Why,
    execution::{Claim, ExecutionCommand, ExecutionEvent},
};
use ledgerline_store::EventLog as _;
use tokio::time::sleep;

use super::{CLAIMS_PER_FREE_SLOT, READER};
use crate::testing::{World, most_at_once};

fn ended(world: &World) -> usize {
    world.count(|event| matches!(event, ExecutionEvent::ExecutionCompleted(_)))
}

fn dispatched(world: &World) -> usize {
    world.count(|event| matches!(event, ExecutionEvent::ExecutionDispatched(_)))
}

#[tokio::test(start_paused = true)]
async fn a_limit_is_filled_and_never_over_filled() {
    let world = World::new();
    let workflow = world.workflow(Some(3)).await;
    let mut process = world.process("one");
    process.dispatch();
    process.worker(8, Some(Duration::from_millis(20)));
    for _ in 0..40 {
        process.start(workflow).await;
    }
    world.until(|world| ended(world) == 40).await;
    assert_eq!(most_at_once(&world), 3);
    // Those that had to wait were told what for, once each.
    let queued = world.count(|event| matches!(event, ExecutionEvent::ExecutionQueued(_)));
    assert!((1..=40).contains(&queued), "{queued} were told to wait");
}

#[tokio::test(start_paused = true)]
async fn a_limit_holds_while_leaders_die_and_others_take_over() {
    let world = World::new();
    let workflow = world.workflow(Some(3)).await;
    let mut worker = world.process("worker");
    worker.worker(8, Some(Duration::from_millis(150)));
    for _ in 0..60 {
        worker.start(workflow).await;
    }
    for generation in 0..8 {
        let mut leader = world.process(&format!("leader-{generation}"));
        leader.dispatch();
        let before = ended(&world);
        world.until(|world| ended(world) > before).await;
        sleep(Duration::from_millis(7 * generation)).await;
        leader.crash();
    }
    let mut last = world.process("last");
    last.dispatch();
    world.until(|world| ended(world) == 60).await;
    assert_eq!(most_at_once(&world), 3);
    // Nobody was given more than one claim: no worker was lost.
    assert_eq!(dispatched(&world), 60);
}

#[tokio::test(start_paused = true)]
async fn no_more_is_handed_out_than_the_workers_have_room_for() {
    let world = World::new();
    let workflow = world.workflow(Some(100)).await;
    let mut process = world.process("one");
    process.dispatch();
    for _ in 0..50 {
        process.start(workflow).await;
    }
    sleep(Duration::from_secs(3)).await;
    assert_eq!(dispatched(&world), 0, "there is no worker");
    // A lease without anybody behind it: nothing is taken.
    world.log.renew_worker_lease("elsewhere", 4, 60_000).await.unwrap();
    sleep(Duration::from_secs(3)).await;
    assert_eq!(dispatched(&world), CLAIMS_PER_FREE_SLOT * 4);
}

#[tokio::test(start_paused = true)]
async fn the_claims_of_a_lost_worker_go_to_another() {
    let world = World::new();
    let workflow = world.workflow(Some(2)).await;
    let mut process = world.process("one");
    process.dispatch();
    let mut lost = world.process("lost");
    lost.worker(4, None);
    for _ in 0..4 {
        process.start(workflow).await;
    }
    let started = |event: &ExecutionEvent| matches!(event, ExecutionEvent::ExecutionStarted(_));
    world.until(|world| world.count(started) == 2).await;
    lost.crash();
    let mut other = world.process("other");
    other.worker(4, Some(Duration::from_millis(20)));
    world.until(|world| ended(world) == 4).await;
    assert_eq!(most_at_once(&world), 2);
    let resumed: Vec<Claim> = world
        .executions()
        .into_iter()
        .filter_map(|(_, event)| match event {
            ExecutionEvent::ExecutionResumed(event) => Some(event.claim),
            _ => None,
        })
        .collect();
    assert_eq!(resumed, [Claim(2), Claim(2)]);
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_workers_are_all_lost_fails_after_five_claims() {
    let world = World::new();
    let workflow = world.workflow(Some(1)).await;
    let mut process = world.process("one");
    process.dispatch();
    process.start(workflow).await;
    let has_failed =
        |world: &World| world.count(|event| matches!(event, ExecutionEvent::ExecutionFailed(_)));
    for generation in 0..5 {
        let mut lost = world.process(&format!("lost-{generation}"));
        lost.worker(1, None);
        let taken = |event: &ExecutionEvent| {
            matches!(
                event,
                ExecutionEvent::ExecutionStarted(_) | ExecutionEvent::ExecutionResumed(_)
            )
        };
        world.until(|world| world.count(taken) == generation + 1).await;
        lost.crash();
    }
    world.until(|world| has_failed(world) == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_got_lost_on_the_way_is_handed_out_again() {
    let world = World::new();
    // No limit concerns it, so its first append hands it out; the worker that would hear of it isn't there yet.
    let workflow = world.workflow(None).await;
    let mut process = world.process("one");
    process.dispatch();
    let id = process.start(workflow).await;
    world.log.renew_worker_lease("deaf", 4, 60_000).await.unwrap();
    world.until(|world| dispatched(world) > 1).await;
    let claims: Vec<Claim> = world
        .executions()
        .into_iter()
        .filter_map(|(of, event)| match event {
            ExecutionEvent::ExecutionDispatched(event) if of == id => Some(event.claim),
            _ => None,
        })
        .collect();
    assert_eq!(claims, [Claim(1), Claim(2)]);
    // Without a free slot it would only wait, and its claim stays.
    let waited = world.clock.now() - world.history()[0].recorded_at;
    assert!(waited.num_seconds() >= 5);
}

#[tokio::test(start_paused = true)]
async fn a_run_in_line_says_what_it_waits_for() {
    let world = World::new();
    let workflow = world.workflow(Some(1)).await;
    let mut process = world.process("one");
    let lines = process.dispatch();
    process.worker(8, None);
    let ids = [process.start(workflow).await, process.start(workflow).await];
    let started = |event: &ExecutionEvent| matches!(event, ExecutionEvent::ExecutionStarted(_));
    world.until(|world| world.count(started) == 1).await;
    let Some(Why::InLine { limit, place, holders, .. }) = lines.why(ids[1]).await else {
        panic!("it isn't in line")
    };
    assert_eq!((limit.limit, place, holders), (1, 1, vec![ids[0]]));
    assert!(matches!(lines.why(ids[0]).await, Some(Why::Running { .. })));
    let mut rival = world.process("rival");
    assert_eq!(rival.dispatch().why(ids[1]).await, None, "another process leads");
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_gives_nothing_away_before_it_has_seen_the_head() {
    let world = World::new();
    let workflow = world.workflow(Some(1)).await;
    let mut process = world.process("one");
    let (_older, newer) = (process.start(workflow).await, process.start(workflow).await);
    let mut lease = world.log.acquire_lease(READER, "dead", 1).await.unwrap().unwrap();
    let end = world.log.head().await.unwrap().position;
    world.log.advance(&mut lease, end).await.unwrap();
    // The dead leader gave the slot to the newer one, and its checkpoint doesn't show it.
    process.tell(newer, ExecutionCommand::Dispatch { claim: Claim(1) }).await;
    world.log.renew_worker_lease("elsewhere", 4, 60_000).await.unwrap();
    process.dispatch();
    sleep(Duration::from_secs(3)).await;
    assert_eq!((most_at_once(&world), dispatched(&world)), (1, 1));
}
