//! Pause, cancel and retry while a run comes to its end: whoever is first, the state is one that the events prove.

use ledgerline_commands::{
    Target,
    start::{Retry, StartRejection, retry},
};
use ledgerline_domain::{
    execution::{CancelReason, Execution, ExecutionCommand, ExecutionEvent, PauseReason, Status},
    id::{ExecutionId, WorkflowId},
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{chain, simulated};
use crate::support::engine::{Engine, context};

/// From the request of a run to its end, in so many steps a command comes.
const STEPS: usize = 12;

/// How often a command came in time, and how often too late.
#[derive(Debug, Default)]
struct Count {
    accepted: usize,
    refused: usize,
}

impl Count {
    fn of(&mut self, accepted: bool) {
        match accepted {
            true => self.accepted += 1,
            false => self.refused += 1,
        }
    }
}

/// Six steps, each with an effect.
fn writes() -> Value {
    let write = |n: i32| {
        json!({"id": format!("f{n}"), "type": "action.file", "idempotent": true,
            "config": {"operation": "write", "path": format!("{n}.txt"), "content": "x"}})
    };
    chain((0..6).map(write).collect())
}

/// Waits until a run has so many events, or has ended.
async fn reached(engine: &Engine, id: ExecutionId, events: usize) {
    let mut head = engine.log.watch_head();
    loop {
        head.mark_unchanged();
        let facts = engine.facts(id).await;
        let over = |fact: &ExecutionEvent| matches!(fact, ExecutionEvent::ExecutionCompleted(_));
        if facts.len() >= events || facts.iter().any(over) {
            return;
        }
        head.changed().await.expect("the log is there");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pause_and_cancel_race_with_completion_without_a_wrong_state() {
    let (_, engine) = simulated();
    let worker = engine.worker();
    let workflow = engine.workflow(&writes()).await;
    let whole = engine.start(workflow, &json!({})).await;
    engine.ended(whole).await;
    let all = engine.events(whole).await.len();
    let (mut cancels, mut pauses, mut retries) =
        (Count::default(), Count::default(), Count::default());
    for step in 0..=STEPS {
        // The first comes right after the request, the last one after the end.
        let progress = (1 + step * all / STEPS).min(all);
        cancelled(&engine, workflow, progress, &mut cancels, &mut retries).await;
        paused(&engine, workflow, progress, &mut pauses).await;
    }
    for (what, count) in [("cancel", &cancels), ("pause", &pauses), ("retry", &retries)] {
        assert!(count.accepted > 0 && count.refused > 0, "{what}: {count:?}");
    }
    worker.stop().await;
    engine.stop().await;
}

/// Cancels a run that has so many events, and retries it at the same time. Only an ended run is retried, and only one that was
/// cancelled has anything to retry.
async fn cancelled(
    engine: &Engine,
    workflow: WorkflowId,
    progress: usize,
    cancels: &mut Count,
    retries: &mut Count,
) {
    let id = engine.start(workflow, &json!({})).await;
    reached(engine, id, progress).await;
    let command = ExecutionCommand::Cancel { reason: CancelReason::StoppedByUser };
    let context = &context();
    let early = ExecutionId(Uuid::now_v7());
    let (cancel, retried) = tokio::join!(
        engine.commands.execute::<Execution>(Target::existing(id), &command, context),
        retried(engine, id, early),
    );
    cancels.of(cancel.is_ok());
    retries.of(retried);
    let ended = engine.ended(id).await;
    let expected = if cancel.is_ok() { Status::Cancelled } else { Status::Completed };
    assert_eq!(ended.status(), Some(expected), "after {progress} events");
    match retried {
        true => {
            assert_eq!(expected, Status::Cancelled, "a run that completed has nothing to retry");
            let again = engine.ended(early).await;
            assert_eq!(again.status(), Some(Status::Completed));
        }
        false => assert!(engine.events(early).await.is_empty(), "a refused retry leaves nothing"),
    }
    if cancel.is_ok() {
        retried_at_once(engine, id, progress).await;
        retries.of(true);
    }
}

/// Pauses a run that has so many events, and lets it go on.
async fn paused(engine: &Engine, workflow: WorkflowId, progress: usize, pauses: &mut Count) {
    let id = engine.start(workflow, &json!({})).await;
    reached(engine, id, progress).await;
    let (target, context) = (Target::existing(id), &context());
    let pause = ExecutionCommand::Pause { reason: PauseReason::User };
    let accepted = engine.commands.execute::<Execution>(target, &pause, context).await.is_ok();
    pauses.of(accepted);
    if accepted {
        // What was paused stays so until somebody resumes it, so this is never too late.
        engine.tell(id, ExecutionCommand::Unpause { reason: PauseReason::User }).await;
    }
    let ended = engine.ended(id).await;
    assert_eq!(ended.status(), Some(Status::Completed), "after {progress} events");
    let facts = engine.facts(id).await;
    let ends = |fact: &&ExecutionEvent| matches!(fact, ExecutionEvent::ExecutionCompleted(_));
    assert_eq!(facts.iter().filter(ends).count(), 1);
    assert_eq!(facts.iter().any(|it| matches!(it, ExecutionEvent::ExecutionPaused(_))), accepted);
}

/// Retries a run as another one; false when that is refused.
async fn retried(engine: &Engine, of: ExecutionId, execution_id: ExecutionId) -> bool {
    let wanted = &Retry { execution_id, of };
    let plan = |scope| async move { retry(&scope, wanted).await };
    let context = &context();
    engine.commands.execute_with::<Execution, StartRejection, _, _>(context, plan).await.is_ok()
}

/// Retries a run under one id twice and under another once while somebody cancels the first new run. A new run comes to be once, holds
/// what its origin had, and only the one that was cancelled ends so; the origin stays as it was.
async fn retried_at_once(engine: &Engine, of: ExecutionId, round: usize) {
    let origin = engine.history(of).await;
    let ids = [ExecutionId(Uuid::now_v7()), ExecutionId(Uuid::now_v7())];
    let context = &context();
    let retried = async |execution_id| {
        let wanted = &Retry { execution_id, of };
        let plan = |scope| async move { retry(&scope, wanted).await };
        engine
            .commands
            .execute_with::<Execution, StartRejection, _, _>(context, plan)
            .await
            .map(|executed| executed.events.len())
    };
    let cancel = async {
        for _ in 0..round {
            tokio::task::yield_now().await;
        }
        let command = ExecutionCommand::Cancel { reason: CancelReason::StoppedByUser };
        engine.commands.execute::<Execution>(Target::existing(ids[0]), &command, context).await
    };
    let (first, again, other, cancel) =
        tokio::join!(retried(ids[0]), retried(ids[0]), retried(ids[1]), cancel);
    let (first, again, other) = (first.unwrap(), again.unwrap(), other.unwrap());
    assert!((first == 0) != (again == 0), "round {round}: {first} and {again} events");
    assert!(other > 0, "round {round}: the other id is another run");
    for (id, cancelled) in ids.into_iter().zip([cancel.is_ok(), false]) {
        let ended = engine.ended(id).await;
        let expected = if cancelled { Status::Cancelled } else { Status::Completed };
        assert_eq!(ended.status(), Some(expected), "round {round}: {id} of {of}");
        let made_of = ended.run().unwrap().request.origin.as_ref().map(|made| made.execution_id);
        assert_eq!(made_of, Some(of));
        let requests = engine.facts(id).await;
        let requests =
            requests.iter().filter(|fact| matches!(fact, ExecutionEvent::ExecutionRequested(_)));
        assert_eq!(requests.count(), 1, "round {round}: {id} came to be once");
    }
    assert_eq!(engine.history(of).await, origin, "a run that has ended never changes");
}
