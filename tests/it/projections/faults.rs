//! What goes wrong: crashes, takeovers, events that cannot be applied; and rebuilds, which must come to the same rows.

use std::{sync::Arc, time::Duration};

use ledgerline_domain::{
    event::DomainEvent,
    execution::{CancelReason, ExecutionCancelled, ExecutionEvent},
    workflow::{DraftSaved, WorkflowEvent, WorkflowPublished, WorkflowVersion},
};
use ledgerline_projections::{
    self as projections, Model, Positions, execution_nodes, executions, quarantine,
    rebuild::{Phase, Progress},
    status::State,
    values::{ExecutionStatus, NodeStatus, WorkflowStatus},
    workflows,
};
use ledgerline_store::Position;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::random::History;
use super::world::{
    PATIENCE, Process, World, begun, completed, created, draft, human, new_event, node_completed,
    node_started, requested,
};

async fn rebuild(world: &World, model: Model) -> Progress {
    let (progress, _) = watch::channel(Progress::default());
    projections::rebuild(
        &world.pool,
        &world.log,
        model,
        "test",
        &progress,
        &CancellationToken::new(),
    )
    .await
    .expect("the rebuild succeeds")
}

/// A rebuild gives the same rows as the events did one by one.
async fn assert_rebuild_gives_the_same(world: &World, context: &str) {
    for model in Model::ALL {
        rebuild(world, *model).await;
        let differences =
            projections::compare(&world.pool, &model.old_schema(), &model.schema(), 3)
                .await
                .expect("both schemas are readable");
        assert_eq!(differences, [], "{model:?} {context}");
    }
}

async fn waits_until(positions: &Positions, model: Model, wanted: impl Fn(&State) -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !wanted(&positions.state(model)) {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", positions.state(model));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn broken_draft(world: &World, workspace: Uuid, flow: Uuid, version: i64) -> i64 {
    let broken = new_event("draft_saved", 1, r#"{"version":"two"}"#.to_owned(), &human(flow));
    world.append_raw(workspace, flow, version, WorkflowEvent::CATEGORY, vec![broken]).await
}

#[tokio::test]
async fn invariant_6_a_rebuild_gives_the_same_rows_as_the_events_one_by_one() {
    let world = World::new().await;
    let process = world.projectors("one");
    for seed in 0..4 {
        let mut history = History::new(seed);
        for _ in 0..3 {
            history.write(&world, 120).await;
            // Every few events are a batch of their own, as in life.
            world.caught_up(&process).await;
        }
        assert_rebuild_gives_the_same(&world, &format!("seed {seed}")).await;
    }
    process.stop().await;
    world.stop().await;
}

#[tokio::test]
async fn invariant_6_crashes_between_batches_apply_each_event_once() {
    let world = Arc::new(World::new().await);
    let mut history = History::new(99);
    for round in 0..8 {
        // A process that leads and then goes without a word, while events are still on their way to its tables.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let doomed = Arc::clone(&world);
        let (started, running) = tokio::sync::oneshot::channel();
        runtime.spawn(async move {
            let process = doomed.projectors_apart(&format!("doomed-{round}")).await;
            let _ = started.send(process.positions.clone());
            std::future::pending::<()>().await;
            drop(process);
        });
        let positions = running.await.expect("it started");
        for model in Model::ALL {
            waits_until(&positions, *model, |state| matches!(state, State::Leading { .. })).await;
        }
        let before = positions.current(&[Model::ExecutionNodes]).await.expect("a position");
        history.write(&world, 60).await;
        let after = positions.current(&[Model::ExecutionNodes]).await.expect("a position");
        assert!(after > before, "it applied something before it went");
        runtime.shutdown_background();
    }
    let survivor = world.projectors("survivor");
    world.caught_up(&survivor).await;
    assert_rebuild_gives_the_same(&world, "after eight crashes").await;
    survivor.stop().await;
    Arc::into_inner(world).expect("the crashed are gone").stop().await;
}

#[tokio::test]
async fn a_standby_takes_over_and_a_reader_elsewhere_can_wait() {
    let world = World::new().await;
    let first = world.projectors("first");
    world.caught_up(&first).await;
    waits_until(&first.positions, Model::Workflows, |state| matches!(state, State::Leading { .. }))
        .await;
    let second = world.projectors("second");
    waits_until(&second.positions, Model::Workflows, |state| *state == State::Standby).await;
    let workspace = Uuid::now_v7();
    let id = Uuid::now_v7();
    world.append(workspace, id, 0, &human(id), [created(workspace, "One", &[])]).await;
    world.caught_up(&second).await;
    first.stop().await;
    waits_until(&second.positions, Model::Workflows, |state| {
        matches!(state, State::Leading { .. })
    })
    .await;
    world.append(workspace, Uuid::now_v7(), 0, &human(id), [created(workspace, "Two", &[])]).await;
    world.caught_up(&second).await;

    let elsewhere = Positions::new(Arc::clone(&world.log));
    let head = world.head().await;
    assert_eq!(elsewhere.wait(&[Model::Workflows], head, PATIENCE).await, Ok(head));
    let behind =
        elsewhere.wait(&[Model::Workflows], Position(head.0 + 1), Duration::from_millis(40)).await;
    assert_eq!(behind.map_err(|behind| (behind.model, behind.at)), Err((Model::Workflows, head)));
    assert_eq!(elsewhere.wait(Model::ALL, head, PATIENCE).await, Ok(head));
    assert_eq!(elsewhere.current(Model::ALL).await.expect("checkpoints"), head);
    second.stop().await;
    world.stop().await;
}

#[tokio::test]
async fn an_event_that_cannot_be_applied_stops_its_stream_only() {
    let world = World::new().await;
    let process = world.projectors("one");
    let (workspace, sick, sound) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
    let by = human(Uuid::now_v7());
    let version = world.append(workspace, sick, 0, &by, [created(workspace, "Sick", &[])]).await;
    let version = broken_draft(&world, workspace, sick, version).await;
    let published = WorkflowPublished { version: WorkflowVersion(1) };
    world.append(workspace, sick, version, &by, [WorkflowEvent::from(published)]).await;
    world.append(workspace, sound, 0, &by, [created(workspace, "Sound", &[])]).await;
    world.caught_up(&process).await;

    let item = workflows::get(&world.pool, sick).await.expect("readable").expect("it is there");
    assert_eq!(item.status, WorkflowStatus::Draft, "what comes after the broken event waits");
    assert!(workflows::get(&world.pool, sound).await.expect("readable").is_some());
    let waiting = quarantine::list(&world.pool, Model::Workflows).await.expect("readable");
    assert_eq!((waiting.len(), waiting[0].key, waiting[0].position), (1, sick, 2));
    let status =
        projections::status(&world.pool, &world.log, &process.positions, chrono::Utc::now())
            .await
            .expect("a status");
    let status = status.iter().find(|status| status.name == Model::Workflows).expect("it is there");
    assert_eq!((status.quarantined, status.lag_events), (1, 0));

    let still = quarantine::retry(&world.pool, &*world.log, Model::Workflows, sick).await;
    assert!(
        matches!(still, Err(quarantine::QuarantineError::StillPoison { position: 2, .. })),
        "{still:?}"
    );
    quarantine::skip(
        &world.pool,
        &*world.log,
        Model::Workflows,
        sick,
        quarantine::Skip { position: 2, by: "an operator", reason: "written by a bug" },
    )
    .await
    .expect("the rest applies");
    let item = workflows::get(&world.pool, sick).await.expect("readable").expect("it is there");
    assert_eq!(item.status, WorkflowStatus::Published);
    let none = quarantine::retry(&world.pool, &*world.log, Model::Workflows, sick).await;
    assert!(matches!(none, Err(quarantine::QuarantineError::NotQuarantined)), "{none:?}");

    // The projector learns of it, goes on with the stream, and a rebuild skips the same event.
    let saved = DraftSaved { version: WorkflowVersion(3), draft: draft("Well again", &[]) };
    world.append(workspace, sick, version + 1, &by, [WorkflowEvent::from(saved)]).await;
    world.caught_up(&process).await;
    rebuild(&world, Model::Workflows).await;
    let item = workflows::get(&world.pool, sick).await.expect("readable").expect("it is there");
    assert_eq!((item.name.as_str(), item.status), ("Well again", WorkflowStatus::Published));
    let kept = quarantine::list(&world.pool, Model::Workflows).await.expect("readable");
    assert_eq!((kept.len(), kept[0].skipped_by.as_deref()), (1, Some("an operator")));
    process.stop().await;
    world.stop().await;
}

#[tokio::test]
async fn a_row_that_cannot_be_stored_is_found_among_many() {
    let world = World::new().await;
    let (workspace, flow, sick) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
    let by = human(flow);
    world.append(workspace, flow, 0, &by, [created(workspace, "Flow", &[])]).await;
    // A path too long for an index entry, even compressed.
    let path: String = (0..400).map(|_| Uuid::now_v7().simple().to_string()).collect();
    let mut runs = Vec::new();
    for n in 0..20 {
        let id = if n == 13 { sick } else { Uuid::now_v7() };
        let node = if n == 13 { path.as_str() } else { "a" };
        let events: Vec<ExecutionEvent> = vec![
            requested(workspace, flow, 1).into(),
            node_started(node, 1),
            node_completed(node, 1),
            completed(),
        ];
        world.append(workspace, id, 0, &by, events).await;
        runs.push(id);
    }
    let process = world.projectors("one");
    world.caught_up(&process).await;
    let waiting = quarantine::list(&world.pool, Model::ExecutionNodes).await.expect("readable");
    assert_eq!(waiting.iter().map(|waiting| waiting.key).collect::<Vec<_>>(), [sick]);
    for id in runs.into_iter().filter(|id| *id != sick) {
        let nodes = execution_nodes::list(&world.pool, id, (0, ""), 5).await.expect("readable");
        assert_eq!(nodes.len(), 1);
    }
    process.stop().await;
    world.stop().await;
}

#[tokio::test]
async fn an_event_of_a_newer_build_stops_the_projector() {
    let world = World::new().await;
    let process = world.projectors("one");
    let (workspace, flow) = (Uuid::now_v7(), Uuid::now_v7());
    world.append(workspace, flow, 0, &human(flow), [created(workspace, "Known", &[])]).await;
    let unknown = new_event("workflow_teleported", 1, "{}".to_owned(), &human(flow));
    world.append_raw(workspace, flow, 1, WorkflowEvent::CATEGORY, vec![unknown]).await;
    waits_until(&process.positions, Model::Workflows, |state| matches!(state, State::StoodDown(_)))
        .await;
    let known = process.positions.wait(&[Model::Workflows], Position(1), PATIENCE).await;
    assert_eq!(known, Ok(Position(1)), "what came before it is applied");
    assert!(workflows::get(&world.pool, flow).await.expect("readable").is_some());
    assert!(quarantine::list(&world.pool, Model::Workflows).await.expect("readable").is_empty());
    let status =
        projections::status(&world.pool, &world.log, &process.positions, chrono::Utc::now())
            .await
            .expect("a status");
    let status = status.iter().find(|status| status.name == Model::Workflows).expect("it is there");
    assert_eq!((status.lag_events, status.owner.as_deref()), (1, None));
    process.stop().await;
    world.stop().await;
}

#[tokio::test]
async fn invariant_6_a_rebuild_serves_and_follows_while_it_runs() {
    let world = World::new().await;
    let process: Process = world.projectors("one");
    let mut history = History::new(7);
    history.write(&world, 200).await;
    world.caught_up(&process).await;
    let (progress, mut told) = watch::channel(Progress::default());
    let cancel = CancellationToken::new();
    let rebuilding = projections::rebuild(
        &world.pool,
        &world.log,
        Model::Executions,
        "test",
        &progress,
        &cancel,
    );
    let (rebuilt, ()) = tokio::join!(rebuilding, history.write(&world, 200));
    assert_eq!(rebuilt.expect("it succeeds").phase, Phase::Done);
    assert_eq!(told.borrow_and_update().phase, Phase::Done);
    world.caught_up(&process).await;
    rebuild(&world, Model::Executions).await;
    let differences = projections::compare(
        &world.pool,
        &Model::Executions.old_schema(),
        &Model::Executions.schema(),
        3,
    )
    .await;
    assert_eq!(differences.expect("readable"), []);
    process.stop().await;
    world.stop().await;
}

#[tokio::test]
async fn a_cancelled_run_cancels_its_open_nodes_after_a_restart_too() {
    let world = World::new().await;
    let process = world.projectors("one");
    let (workspace, flow, id) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
    let by = human(flow);
    world.append(workspace, flow, 0, &by, [created(workspace, "Flow", &[])]).await;
    let mut events: Vec<ExecutionEvent> = vec![requested(workspace, flow, 2).into()];
    events.extend(begun());
    events.extend([node_started("a", 1), node_completed("a", 1), node_started("b", 1)]);
    let version = world.append(workspace, id, 0, &by, events).await;
    world.caught_up(&process).await;
    process.stop().await;

    // The next leader holds nothing in memory and must look for what is open.
    let process = world.projectors("two");
    let cancelled = ExecutionCancelled { reason: CancelReason::StoppedByUser, compensation: None };
    world.append(workspace, id, version, &by, [ExecutionEvent::from(cancelled)]).await;
    world.caught_up(&process).await;
    let nodes = execution_nodes::list(&world.pool, id, (0, ""), 5).await.expect("readable");
    let shown: Vec<_> = nodes.iter().map(|node| (node.path.as_str(), node.status)).collect();
    assert_eq!(shown, [("a", NodeStatus::Completed), ("b", NodeStatus::Cancelled)]);
    assert!(nodes[1].input.is_some(), "a later write keeps what is no longer in memory");
    let run = executions::get(&world.pool, id).await.expect("readable").expect("it is there");
    assert_eq!(
        (run.status, run.cancel_reason.as_deref(), run.progress),
        (ExecutionStatus::Cancelled, Some("stopped_by_user"), 0.5)
    );
    process.stop().await;
    world.stop().await;
}
