//! What waits for something that will come is left alone, and everything else is named.

use std::time::Duration;

use chrono::TimeDelta;
use ledgerline_domain::execution::{ExecutionCommand, ExecutionEvent, PauseReason};
use ledgerline_store::EventLog as _;
use tokio::time::sleep;

use super::{GRACE, Survey, audit};
use crate::testing::{Process, World};

async fn reasons(process: &Process) -> Vec<&'static str> {
    let survey = Survey::of_log(&process.commands, &process.tail).await.unwrap();
    let audit = audit(&process.commands, &survey, 0, GRACE).await.unwrap();
    assert!(audit.complete);
    audit.stuck.iter().map(|stuck| stuck.reason).collect()
}

#[tokio::test(start_paused = true)]
async fn an_open_run_that_waits_for_something_is_not_stuck() {
    let world = World::new();
    let mut process = world.process("one");
    process.dispatch();
    process.timers();
    process.worker(8, None);
    let (one, free) = (world.workflow(Some(1)).await, world.workflow(None).await);
    let waits = process.start(free).await;
    let started = |event: &ExecutionEvent| matches!(event, ExecutionEvent::ExecutionStarted(_));
    world.until(|world| world.count(started) == 1).await;
    let due_at = world.clock.now() + TimeDelta::days(30);
    process.report(waits, process.wait(due_at)).await;
    let ids = [process.start(one).await, process.start(one).await, process.start(one).await];
    world.until(|world| world.count(started) == 2).await;
    process.tell(ids[2], ExecutionCommand::Pause { reason: PauseReason::User }).await;
    sleep(Duration::from_secs(300)).await;
    assert_eq!(reasons(&process).await, Vec::<&str>::new());
}

#[tokio::test(start_paused = true)]
async fn a_run_that_nobody_will_move_is_named_with_the_reason() {
    let world = World::new();
    let mut process = world.process("one");
    // Nobody dispatches, and nobody fires timers.
    let free = world.workflow(None).await;
    let [lost, late, unkept, untaken] = [
        process.start(free).await,
        process.start(free).await,
        process.start(free).await,
        process.start(free).await,
    ];
    let in_line = process.start(world.workflow(Some(1)).await).await;
    process.report(lost, Vec::new()).await;
    let soon = world.clock.now() + TimeDelta::seconds(1);
    for waits in [late, unkept] {
        process.report(waits, Vec::new()).await;
        let due_at = if waits == late { soon } else { soon + TimeDelta::days(1) };
        process.report(waits, process.wait(due_at)).await;
    }
    let kept = world.log.due(soon + TimeDelta::days(2), 10).await.unwrap();
    let of_unkept = kept.into_iter().map(|due| due.due).filter(|due| due.stream.0 == unkept.0);
    world.log.remove_due(&of_unkept.collect::<Vec<_>>()).await.unwrap();
    assert_eq!(
        reasons(&process).await.len(),
        2,
        "a lease that never was, and a time that nobody keeps"
    );
    sleep(Duration::from_secs(90)).await;
    world.log.renew_worker_lease("idle", 8, 600_000).await.unwrap();
    let survey = Survey::of_log(&process.commands, &process.tail).await.unwrap();
    let found = audit(&process.commands, &survey, 0, GRACE).await.unwrap();
    assert_eq!(found.looked_at, 5);
    let mut named: Vec<_> =
        found.stuck.iter().map(|stuck| (stuck.execution, stuck.reason)).collect();
    named.sort_unstable();
    let mut expected = vec![
        (lost, "its worker is gone and nobody handed it out again"),
        (late, "its time came and did not fire"),
        (unkept, "it waits for a time that nobody keeps"),
        (untaken, "a worker has room, nobody took its claim, and nobody hands it out again"),
        (in_line, "its slot is free, a worker has room, and nobody hands it out"),
    ];
    expected.sort_unstable();
    assert_eq!(named, expected);
    // Once somebody leads again, all of them go on, but for the one whose time is lost.
    process.dispatch();
    process.timers();
    process.worker(8, Some(Duration::from_millis(10)));
    let ended = |event: &ExecutionEvent| matches!(event, ExecutionEvent::ExecutionCompleted(_));
    world.until(|world| world.count(ended) == 4).await;
    assert_eq!(reasons(&process).await, ["it waits for a time that nobody keeps"]);
}
