//! Slots are never over-filled, and nothing that was handed out is lost.

use std::time::Duration;

use ledgerline_domain::{
    deployment::DeploymentCommand,
    dispatch::{Standing, Why},
    execution::{CancelReason, Claim, ExecutionCommand, ExecutionEvent, LimitScope, Outcome, Step},
    id::{ExecutionId, WorkspaceId},
    json::Json,
};
use ledgerline_store::EventLog as _;
use serde_json::json;
use tokio::time::sleep;
use uuid::Uuid;

use super::{CLAIMS_PER_FREE_SLOT, READER};
use crate::{
    CommandError, WorkspaceLimits,
    start::StartRejection,
    testing::{World, most_at_once, most_under},
};

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
    world.nothing_is_stuck().await;
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
    world.nothing_is_stuck().await;
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
    world.nothing_is_stuck().await;
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
    let mut rival = world.process("rival");
    let other = rival.lines();
    for lines in [lines, other] {
        assert!(lines.reach(world.log.head().await.unwrap().position).await);
        let Some(Why::InLine { lines: waits, resumed: false }) = lines.why(ids[1]) else {
            panic!("it isn't in line")
        };
        let [Standing { limit, place, full, held, holders }] = waits.as_slice() else {
            panic!("one limit concerns it: {waits:?}")
        };
        assert_eq!((limit.limit, *place, *full, *held), (1, 1, true, 1));
        assert_eq!(*holders, [ids[0]]);
        assert!(matches!(lines.why(ids[0]), Some(Why::Running { .. })), "in any process");
    }
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

fn cancelled(world: &World, wanted: CancelReason) -> usize {
    world.count(|event| match event {
        ExecutionEvent::ExecutionCancelled(event) => event.reason == wanted,
        _ => false,
    })
}

#[tokio::test(start_paused = true)]
async fn strategies_decide_what_becomes_of_whoever_finds_no_slot() {
    let world = World::new();
    let mut process = world.process("one");
    process.dispatch();
    process.worker(8, None);
    let running =
        |world: &World| world.count(|event| matches!(event, ExecutionEvent::ExecutionStarted(_)));
    let limit = |strategy| json!({"concurrency": {"limit": 1, "strategy": strategy}});

    let newest = world.workflow_with(limit("cancel_newest")).await;
    process.start(newest).await;
    world.until(|world| running(world) == 1).await;
    for _ in 0..3 {
        process.start(newest).await;
    }
    world.until(|world| cancelled(world, CancelReason::LimitReached) == 3).await;

    let replacing = world.workflow_with(limit("cancel_running")).await;
    let first = process.start(replacing).await;
    world.until(|world| running(world) == 2).await;
    let second = process.start(replacing).await;
    let told = |world: &World| {
        world.executions().iter().any(|(id, event)| {
            *id == first
                && matches!(event, ExecutionEvent::CancelRequested(event)
                if event.reason == CancelReason::Superseded)
        })
    };
    world.until(told).await;
    process.report(first, vec![Step::Finish(Outcome::Cancelled)]).await;
    world.until(|world| running(world) == 3).await;
    assert_eq!(cancelled(&world, CancelReason::Superseded), 1);
    let is_second = |(id, event): &(ExecutionId, ExecutionEvent)| {
        *id == second && matches!(event, ExecutionEvent::ExecutionStarted(_))
    };
    assert!(world.executions().iter().any(is_second), "the new one goes");
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_refuses_lets_no_more_in_than_it_has_slots_and_appends_nothing() {
    let world = World::new();
    let settings = json!({"concurrency": {"limit": 2, "strategy": "reject"}});
    let workflow = world.workflow_with(settings).await;
    let mut process = world.process("one");
    process.dispatch();
    process.worker(8, Some(Duration::from_secs(1)));
    sleep(Duration::from_millis(50)).await;
    let starts = (0..20).map(|_| async {
        let wanted = crate::testing::wanted(workflow, Json::null());
        process.try_start(&wanted).await
    });
    let started = futures_util::future::join_all(starts).await;
    let requested = |event: &ExecutionEvent| matches!(event, ExecutionEvent::ExecutionRequested(_));
    assert_eq!(started.iter().filter(|start| start.is_ok()).count(), 2);
    for refused in started.into_iter().filter_map(Result::err) {
        let is_full = matches!(
            refused,
            CommandError::Rejected(StartRejection::LimitReached(limit)) if limit.limit == 2
        );
        assert!(is_full);
    }
    assert_eq!(world.count(requested), 2);
    world.until(|world| ended(world) == 2).await;
    process.start(workflow).await;
    world.until(|world| ended(world) == 3).await;

    // Another process that does not see the first one's yet: what is too many then ends, and is seen to.
    let rival = world.process("rival");
    for _ in 0..3 {
        process.start(workflow).await;
        rival.start(workflow).await;
        rival.start(workflow).await;
        sleep(Duration::from_secs(2)).await;
    }
    assert_eq!(most_at_once(&world), 2);
    assert_eq!(cancelled(&world, CancelReason::LimitReached), 3);
}

#[tokio::test(start_paused = true)]
async fn a_line_has_an_end() {
    let world = World::new();
    let settings = json!({"concurrency": {"limit": 1, "max_queued": 2}});
    let workflow = world.workflow_with(settings).await;
    let mut process = world.process("one");
    process.dispatch();
    sleep(Duration::from_millis(50)).await;
    process.start(workflow).await;
    process.start(workflow).await;
    let wanted = crate::testing::wanted(workflow, Json::null());
    let refused = process.try_start(&wanted).await.unwrap_err();
    let full = StartRejection::QueueFull { waiting: 2, max: 2 };
    assert!(matches!(refused, CommandError::Rejected(rejection) if rejection == full));
    process.worker(1, Some(Duration::from_millis(10)));
    world.until(|world| ended(world) == 2).await;
    process.try_start(&wanted).await.unwrap();
    world.until(|world| ended(world) == 3).await;
    // Asked for again, though the line may be full by now, it is the same run.
    process.try_start(&wanted).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_workspace_has_a_limit_over_all_its_workflows() {
    let world = World::new();
    let mut process = world.process_with(WorkspaceLimits { default: Some(2), max: Some(3) });
    let workflows = [world.workflow(Some(5)).await, world.workflow(None).await];
    process.dispatch();
    process.worker(8, Some(Duration::from_millis(30)));
    for number in 0..20 {
        process.start(workflows[number % 2]).await;
    }
    world.until(|world| ended(world) == 20).await;
    assert_eq!(most_under(&world, LimitScope::Workspace), 2);
    let own = WorkspaceLimits { default: Some(2), max: Some(3) };
    assert_eq!([own.of(None), own.of(Some(1)), own.of(Some(9))], [Some(2), Some(1), Some(3)]);
    let open = WorkspaceLimits::default();
    assert_eq!([open.of(None), open.of(Some(9))], [None, Some(9)]);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_one_workspace_does_not_keep_another_waiting() {
    let world = World::new();
    let flooded = world.workflow(Some(100)).await;
    let other = World { workspace: WorkspaceId(Uuid::now_v7()), ..world.share() };
    let modest = other.workflow(Some(100)).await;
    let mut process = world.process("one");
    process.dispatch();
    for _ in 0..300 {
        process.start(flooded).await;
    }
    let late = [process.start(modest).await, process.start(modest).await];
    process.worker(2, Some(Duration::from_millis(50)));
    let late_ended = |world: &World| {
        let ended = |(id, event): &(ExecutionId, ExecutionEvent)| {
            late.contains(id) && matches!(event, ExecutionEvent::ExecutionCompleted(_))
        };
        world.executions().iter().filter(|event| ended(event)).count() == 2
    };
    world.until(late_ended).await;
    assert!(ended(&world) < 20, "{} of the flood went before", ended(&world));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_handed_out_while_dispatch_is_paused() {
    let world = World::new();
    let workflows = [world.workflow(Some(5)).await, world.workflow(None).await];
    let mut process = world.process("one");
    let lines = process.dispatch();
    process.worker(8, Some(Duration::from_millis(20)));
    let pause = DeploymentCommand::PauseDispatch { reason: Some("maintenance".to_owned()) };
    process.tell_deployment(pause).await;
    assert!(lines.reach(world.log.head().await.unwrap().position).await);
    for workflow in workflows {
        process.start(workflow).await;
    }
    sleep(Duration::from_secs(5)).await;
    assert_eq!(dispatched(&world), 0);
    let hold = lines.hold_of(world.workspace).unwrap();
    assert_eq!(hold.reason.as_deref(), Some("maintenance"));
    process.tell_deployment(DeploymentCommand::ResumeDispatch).await;
    world.until(|world| ended(world) == 2).await;
    assert_eq!(lines.hold_of(world.workspace), None);
}
