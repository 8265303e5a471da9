//! Due times fire in time, once, and leave nothing behind.

use std::time::Duration;

use chrono::TimeDelta;
use ledgerline_domain::{
    event::AnyEvent,
    execution::{CancelReason, ExecutionCommand, ExecutionEvent},
    id::{InvitationId, UserId},
    permission::Role,
    workspace::{
        ChangeInvitation, CreateWorkspace, INVITATION_TTL, Invite, Workspace, WorkspaceCommand,
        WorkspaceEvent,
    },
};
use ledgerline_store::EventLog as _;
use tokio::time::sleep;
use uuid::Uuid;

use crate::{
    Target,
    testing::{LEASE, Process, World, context},
};

fn fired(world: &World) -> usize {
    world.count(|event| matches!(event, ExecutionEvent::TimerFired(_)))
}

#[tokio::test(start_paused = true)]
async fn many_that_are_due_at_one_instant_fire_in_time_and_once() {
    let world = World::new();
    let workflow = world.workflow(None).await;
    let mut process = world.process("one");
    let due_at = world.clock.now() + TimeDelta::seconds(30);
    for _ in 0..1_000 {
        let id = process.start(workflow).await;
        process.report(id, process.wait(due_at)).await;
    }
    process.timers();
    let mut rival = world.process("rival");
    rival.timers();
    sleep(Duration::from_secs(29)).await;
    assert_eq!(fired(&world), 0, "nothing fires before its time");
    world.until(|world| fired(world) == 1_000).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(fired(&world), 1_000);
    for event in world.history() {
        if let ledgerline_domain::event::AnyEvent::Execution(ExecutionEvent::TimerFired(_)) =
            event.event
        {
            assert!(event.recorded_at >= due_at);
            assert!(event.recorded_at < due_at + TimeDelta::seconds(1));
        }
    }
    assert_eq!(world.log.next_due().await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn an_earlier_time_is_not_slept_through() {
    let world = World::new();
    let workflow = world.workflow(None).await;
    let (mut process, other) = (world.process("one"), world.process("other"));
    process.timers();
    let now = world.clock.now();
    for (process, seconds) in [(&process, 3_600), (&process, 5), (&other, 2)] {
        let id = process.start(workflow).await;
        process.report(id, process.wait(now + TimeDelta::seconds(seconds))).await;
    }
    world.until(|world| fired(world) == 1).await;
    assert!(world.clock.now() < now + TimeDelta::seconds(3));
    world.until(|world| fired(world) == 2).await;
    assert!(world.clock.now() < now + TimeDelta::seconds(6));
}

#[tokio::test(start_paused = true)]
async fn a_time_that_nobody_waits_for_goes_without_an_event() {
    let world = World::new();
    let workflow = world.workflow(None).await;
    let mut process = world.process("one");
    let id = process.start(workflow).await;
    process.report(id, process.wait(world.clock.now() + TimeDelta::seconds(2))).await;
    process.tell(id, ExecutionCommand::Cancel { reason: CancelReason::StoppedByUser }).await;
    assert!(world.log.next_due().await.unwrap().is_some());
    process.timers();
    sleep(Duration::from_secs(4)).await;
    assert_eq!(world.log.next_due().await.unwrap(), None);
    assert_eq!(fired(&world), 0);
}

#[tokio::test(start_paused = true)]
async fn a_run_times_out_and_one_that_ends_before_leaves_no_row() {
    let world = World::new();
    let settings = serde_json::json!({"concurrency": {"limit": null}, "timeout_ms": 3_000});
    let workflow = world.workflow_with(settings).await;
    let mut process = world.process("one");
    let (slow, quick) = (process.start(workflow).await, process.start(workflow).await);
    process.report(slow, Vec::new()).await;
    process.tell(quick, ExecutionCommand::Cancel { reason: CancelReason::StoppedByUser }).await;
    let due = world.log.due(world.clock.now() + TimeDelta::days(1), 10).await.unwrap();
    assert_eq!(due.iter().map(|due| due.due.stream.0).collect::<Vec<_>>(), [slow.0]);
    process.timers();
    world.until(|world| fired(world) == 1).await;
    assert_eq!(world.count(|event| matches!(event, ExecutionEvent::ExecutionFailed(_))), 1);
    let late = world.clock.now() - due[0].due_at;
    assert!(late >= TimeDelta::zero() && late < TimeDelta::seconds(1), "{late}");
    assert_eq!(world.log.next_due().await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn another_process_fires_what_a_dead_one_left() {
    let world = World::new();
    let workflow = world.workflow(None).await;
    let mut first = world.process("first");
    first.timers();
    let mut ids = Vec::new();
    for seconds in 1..=20 {
        let id = first.start(workflow).await;
        let due_at = world.clock.now() + TimeDelta::milliseconds(seconds * 100);
        first.report(id, first.wait(due_at)).await;
        ids.push(id);
    }
    world.until(|world| fired(world) >= 5).await;
    first.crash();
    let mut second = world.process("second");
    second.timers();
    world.until(|world| fired(world) == ids.len()).await;
    sleep(LEASE * 4).await;
    assert_eq!(fired(&world), ids.len());
    world.nothing_is_stuck().await;
}

async fn tell_workspace(world: &World, process: &Process, command: WorkspaceCommand) {
    let target = Target::new(world.workspace, world.workspace);
    process.commands.execute::<Workspace>(target, &command, &context()).await.unwrap();
}

fn expired(world: &World) -> Vec<InvitationId> {
    let of_invitation = |event| match event {
        AnyEvent::Workspace(WorkspaceEvent::InvitationExpired(event)) => Some(event.invitation_id),
        _ => None,
    };
    world.history().into_iter().filter_map(|recorded| of_invitation(recorded.event)).collect()
}

/// The time of an invitation that was renewed is that of its last sending, and of one that was taken back there is none.
#[tokio::test(start_paused = true)]
async fn an_invitation_ends_at_its_time_whichever_process_leads() {
    let world = World::new();
    let (mut first, mut second) = (world.process("first"), world.process("second"));
    let owner = UserId(Uuid::now_v7());
    let create = CreateWorkspace {
        name: "Team".to_owned(),
        description: String::new(),
        owner,
        personal: false,
    };
    tell_workspace(&world, &first, WorkspaceCommand::Create(create)).await;
    let ids = [0, 1, 2].map(|_| InvitationId(Uuid::now_v7()));
    let [plain, renewed, revoked] = ids;
    for invitation_id in ids {
        let invite = Invite { by: owner, invitation_id, invitee: None, role: Role::Viewer };
        tell_workspace(&world, &first, WorkspaceCommand::Invite(invite)).await;
    }
    let change = |invitation_id| ChangeInvitation { by: owner, invitation_id };
    tell_workspace(&world, &first, WorkspaceCommand::RevokeInvitation(change(revoked))).await;
    first.timers();
    world.set_wrong_by(TimeDelta::days(1));
    tell_workspace(&world, &second, WorkspaceCommand::RenewInvitation(change(renewed))).await;
    world.set_wrong_by(INVITATION_TTL - TimeDelta::minutes(1));
    sleep(Duration::from_secs(5)).await;
    assert_eq!(expired(&world), []);
    first.crash();
    second.timers();
    world.set_wrong_by(INVITATION_TTL);
    world.until(|world| expired(world) == [plain]).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(expired(&world), [plain]);
    world.set_wrong_by(INVITATION_TTL + TimeDelta::days(1));
    world.until(|world| expired(world) == [plain, renewed]).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.log.next_due().await.unwrap(), None);
}
