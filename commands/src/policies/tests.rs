//! Reactions happen once, whenever the leader dies.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use ledgerline_domain::{
    event::DomainEvent as _,
    execution::{ExecutionCommand, ExecutionEvent, PauseReason},
    id::ExecutionId,
    policy::PolicyState,
    workflow::{WorkflowCommand, WorkflowEvent},
};
use ledgerline_store::{AppendFault, EventLog as _, Faults, Intent, Position};
use tokio::time::sleep;

use super::READER;
use crate::{follow::Fold as _, submit::Answer, testing::World};

/// The log goes away after so many appends: the first one that fails landed or not, whichever is asked for.
struct Outage {
    left: AtomicI64,
    landed: bool,
}

impl Faults for Outage {
    fn on_append(&self, _: &Intent) -> AppendFault {
        match self.left.fetch_sub(1, Ordering::SeqCst) {
            1.. => AppendFault::None,
            0 if self.landed => AppendFault::AfterCommit,
            _ => AppendFault::BeforeCommit,
        }
    }
}

/// What each execution was told by policies, in order.
fn told(world: &World) -> BTreeMap<ExecutionId, Vec<&'static str>> {
    let mut told: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (id, event) in world.executions() {
        if matches!(
            event,
            ExecutionEvent::ExecutionPaused(_)
                | ExecutionEvent::ExecutionUnpaused(_)
                | ExecutionEvent::ExecutionCancelled(_)
        ) {
            told.entry(id).or_default().push(event.type_name());
        }
    }
    told
}

async fn settled(world: &World) -> bool {
    world.log.checkpoint(READER).await.unwrap() == Position(world.history().len() as i64)
}

#[tokio::test(start_paused = true)]
async fn a_reaction_happens_once_wherever_the_leader_dies() {
    for (left, landed) in (0..8).flat_map(|left| [(left, false), (left, true)]) {
        let world = World::new();
        let workflow = world.workflow(Some(3)).await;
        let person = world.process("person");
        for _ in 0..5 {
            person.start(workflow).await;
        }
        person.tell_workflow(workflow, WorkflowCommand::PauseIntake).await;
        let mut first = world.process("first");
        world.log.set_faults(Some(Arc::new(Outage { left: left.into(), landed })));
        first.policies();
        sleep(Duration::from_millis(300)).await;
        first.crash();
        world.log.set_faults(None);
        let mut second = world.process("second");
        second.policies();
        world.until(|world| told(world).len() == 5).await;
        while !settled(&world).await {
            sleep(Duration::from_millis(50)).await;
        }
        let told = told(&world);
        assert!(
            told.values().all(|told| told == &["execution_paused"]),
            "{left} {landed}: {told:?}"
        );
        world.nothing_is_stuck().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_person_changed_since_is_not_undone_by_a_redelivery() {
    let world = World::new();
    let workflow = world.workflow(Some(3)).await;
    let person = world.process("person");
    let id = person.start(workflow).await;
    person.tell_workflow(workflow, WorkflowCommand::PauseIntake).await;
    let pause = world.log.events().pop().unwrap();
    assert_eq!(pause.r#type, "intake_paused");
    // The reaction is carried out, and the leader dies before its checkpoint moves.
    let reaction = crate::submit::Reaction {
        cause: Some(ledgerline_domain::id::EventId(pause.event_id)),
        correlation_id: None,
        execution_id: id,
        told: ExecutionCommand::Pause { reason: PauseReason::WorkflowPaused }.into(),
    };
    let lease = world.log.acquire_lease(READER, "dead", 1).await.unwrap().unwrap();
    let fence = ledgerline_store::Fence::from(&lease);
    crate::submit::submit(&person.commands, READER, &fence, vec![reaction]).await.unwrap();
    person.tell(id, ExecutionCommand::Unpause { reason: PauseReason::User }).await;
    let mut leader = world.process("leader");
    leader.policies();
    sleep(Duration::from_secs(2)).await;
    assert!(settled(&world).await);
    assert_eq!(told(&world)[&id], ["execution_paused", "execution_unpaused"]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_stored_is_a_failure_and_what_was_done_before_is_not() {
    let world = World::new();
    let workflow = world.workflow(Some(3)).await;
    let person = world.process("person");
    let id = person.start(workflow).await;
    let cause = world.log.events().pop().unwrap().event_id;
    let lease = world.log.acquire_lease(READER, "one", 60_000).await.unwrap().unwrap();
    let fence = ledgerline_store::Fence::from(&lease);
    let tell = async |reader, command| {
        let cause = Some(ledgerline_domain::id::EventId(cause));
        let reaction = crate::submit::Reaction {
            cause,
            correlation_id: None,
            execution_id: id,
            told: ledgerline_domain::policy::Told::Command(command),
        };
        let answers = crate::submit::submit(&person.commands, reader, &fence, vec![reaction]);
        answers.await.unwrap().pop().unwrap()
    };
    let pause = || ExecutionCommand::Pause { reason: PauseReason::WorkflowPaused };
    // Its metadata name who reacts, and no text of the log holds this character.
    assert_eq!(tell("policies\0", pause()).await, Answer::Failed);
    assert!(told(&world).is_empty());
    assert_eq!(tell(READER, pause()).await, Answer::Applied);
    person.tell(id, ExecutionCommand::Unpause { reason: PauseReason::User }).await;
    assert_eq!(tell(READER, pause()).await, Answer::Nothing);
    assert_eq!(told(&world)[&id], ["execution_paused", "execution_unpaused"]);
}

#[tokio::test(start_paused = true)]
async fn intake_is_followed_by_the_open_executions() {
    let world = World::new();
    let (workflow, other) = (world.workflow(Some(3)).await, world.workflow(Some(3)).await);
    let mut process = world.process("one");
    process.policies();
    let ids = [process.start(workflow).await, process.start(workflow).await];
    let bystander = process.start(other).await;
    process.tell_workflow(workflow, WorkflowCommand::PauseIntake).await;
    world.until(|world| told(world).len() == 2).await;
    process.tell_workflow(workflow, WorkflowCommand::ActivateIntake).await;
    world.until(|world| told(world).values().all(|told| told.len() == 2)).await;
    process.tell_workflow(workflow, WorkflowCommand::DeactivateIntake).await;
    world.until(|world| told(world).values().all(|told| told.len() == 3)).await;
    for id in ids {
        assert_eq!(
            told(&world)[&id],
            ["execution_paused", "execution_unpaused", "execution_cancelled"]
        );
    }
    assert!(!told(&world).contains_key(&bystander));
    let metadata = world.history().pop().unwrap().metadata;
    assert!(metadata.causation_id.is_some(), "a reaction names its cause");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_was_asleep_is_fenced_off() {
    let world = World::new();
    let workflow = world.workflow(Some(3)).await;
    let person = world.process("person");
    let id = person.start(workflow).await;
    let asleep = world.log.acquire_lease(READER, "asleep", 1).await.unwrap().unwrap();
    sleep(Duration::from_millis(10)).await;
    let awake = world.log.acquire_lease(READER, "awake", 60_000).await.unwrap().unwrap();
    assert!(awake.epoch > asleep.epoch);
    let reaction = || crate::submit::Reaction {
        cause: None,
        correlation_id: None,
        execution_id: id,
        told: ExecutionCommand::Pause { reason: PauseReason::WorkflowPaused }.into(),
    };
    let fence = ledgerline_store::Fence::from(&asleep);
    let late = crate::submit::submit(&person.commands, READER, &fence, vec![reaction()]).await;
    assert!(matches!(late, Err(crate::lead::TermEnd::Lost)));
    assert!(told(&world).is_empty());
}

#[test]
fn what_a_fold_leaves_unread_exists() {
    let types = || ExecutionEvent::TYPES.iter().chain(WorkflowEvent::TYPES).map(|(name, _)| *name);
    let read = types().filter(|name| PolicyState::wants("any", name)).count();
    assert_eq!(types().count() - read, 30, "a type in the list of unread ones was renamed");
    let read = ledgerline_domain::dispatch::Dispatch::wants;
    let unread = ExecutionEvent::TYPES.iter().filter(|(name, _)| !read("execution", name)).count();
    assert_eq!(unread, 15, "a type in the list of unread ones was renamed");
}
