//! The read models on a real Postgres: what lists show, exactly-once over crashes, rebuilds, the quarantine, and waiting.

mod random;
mod world;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ledgerline_domain::{
    event::{Actor, DomainEvent},
    execution::{
        Attempt, CancelReason, CarriedNode, ErrorKind, ExecutionCancelled, ExecutionEvent,
        ExecutionFailed, NodeFailed, NodeOutput, NodePath, Origin, OriginKind,
    },
    id::{ExecutionId, UserId},
    permission::Role,
    workflow::{
        DraftSaved, IntakeActivated, WorkflowDeleted, WorkflowEvent, WorkflowPublished,
        WorkflowVersion,
    },
    workspace::{
        MemberAdded, MemberRemoved, MemberRoleChanged, WorkspaceCreated, WorkspaceEvent,
        WorkspaceRenamed,
    },
};
use ledgerline_projections::{
    self as projections, Model, PageRequest, Positions, QueryError,
    activity::{self, ActivityFilter},
    execution_nodes,
    executions::{self, ExecutionFilter},
    members, quarantine,
    rebuild::{Phase, Progress},
    status::State,
    values::{ExecutionStatus, Intake, MemberRole, NodeStatus, WorkflowStatus},
    workflows::{self, WorkflowFilter, WorkflowSort},
    workspaces,
};
use ledgerline_store::Position;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use random::History;
use world::{
    PATIENCE, Process, World, begun, completed, created, draft, error, human, new_event,
    node_completed, node_started, requested,
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

fn value(json: &ledgerline_projections::values::RawJson) -> Value {
    serde_json::from_str(json.get()).expect("a row holds JSON")
}

#[tokio::test]
async fn a_workflow_shows_what_became_of_it_and_its_runs() {
    let world = World::new().await;
    let process = world.projectors("one");
    let (workspace, id, user) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
    let by = human(user);
    let version =
        world.append(workspace, id, 0, &by, [created(workspace, "Nightly", &["ops"])]).await;
    world.caught_up(&process).await;
    let item = workflows::get(&world.pool, id).await.expect("readable").expect("it is there");
    assert_eq!(
        (item.status, item.intake, item.version),
        (WorkflowStatus::Draft, Intake::Inactive, 1)
    );
    assert_eq!((item.execution_count, item.progress, item.success_rate), (0, None, None));
    assert_eq!((item.created_by, item.created_at), (Some(user), item.updated_at));
    assert!(item.last_execution.is_none());

    let saved =
        DraftSaved { version: WorkflowVersion(2), draft: draft("Nightly 2", &["ops", "new"]) };
    let published = WorkflowPublished { version: WorkflowVersion(2) };
    let events: [WorkflowEvent; 3] = [saved.into(), published.into(), IntakeActivated {}.into()];
    world.append(workspace, id, version, &by, events).await;
    let (first, second) = (Uuid::now_v7(), Uuid::now_v7());
    let mut run: Vec<ExecutionEvent> = vec![requested(workspace, id, 4).into()];
    run.extend(begun());
    run.extend([node_started("a", 1), node_completed("a", 1), node_started("b", 1)]);
    world.append(workspace, first, 0, &by, run).await;
    world.caught_up(&process).await;
    let item = workflows::get(&world.pool, id).await.expect("readable").expect("it is there");
    assert_eq!((item.status, item.intake), (WorkflowStatus::Published, Intake::Active));
    assert_eq!((item.version, item.published_version), (2, Some(2)));
    assert_eq!((item.name.as_str(), item.tags.len(), item.progress), ("Nightly 2", 2, Some(0.25)));
    let last = value(item.last_execution.as_ref().expect("it was run"));
    assert_eq!((&last["id"], &last["status"]), (&json!(first), &json!("running")));

    let failed = ExecutionFailed { node: None, error: error(ErrorKind::Permanent, "no") };
    world
        .append(
            workspace,
            second,
            0,
            &by,
            [ExecutionEvent::from(requested(workspace, id, 4)), failed.into()],
        )
        .await;
    world.append(workspace, first, 6, &by, [node_completed("b", 1), completed()]).await;
    world.caught_up(&process).await;
    let item = workflows::get(&world.pool, id).await.expect("readable").expect("it is there");
    assert_eq!((item.execution_count, item.success_rate), (2, Some(0.5)));
    let last = value(item.last_execution.as_ref().expect("it was run"));
    assert_eq!(
        (&last["id"], &last["status"]),
        (&json!(second), &json!("failed")),
        "the last one requested"
    );
    process.stop().await;
    world.stop().await;
}

#[tokio::test]
async fn workflows_are_listed_by_every_filter_and_order() {
    let world = World::new().await;
    let process = world.projectors("one");
    let (workspace, other, user) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
    let mut ids = Vec::new();
    for n in 0..25 {
        let id = Uuid::now_v7();
        let tags: &[&str] = if n % 5 == 0 { &["fifth", "all"] } else { &["all"] };
        let event = created(workspace, &format!("Flow {:02} 50%_Ä", 24 - n), tags);
        world.append(workspace, id, 0, &human(user), [event]).await;
        ids.push(id);
    }
    world.append(other, Uuid::now_v7(), 0, &human(user), [created(other, "Elsewhere", &[])]).await;
    let published = WorkflowPublished { version: WorkflowVersion(1) };
    world
        .append(workspace, ids[3], 1, &Actor::system("test"), [WorkflowEvent::from(published)])
        .await;
    world
        .append(workspace, ids[4], 1, &human(user), [WorkflowEvent::from(WorkflowDeleted {})])
        .await;
    world.caught_up(&process).await;

    let all = WorkflowFilter { workspace_id: workspace, ..WorkflowFilter::default() };
    let page = workflows::list(&world.pool, &all, &PageRequest::default()).await.expect("a page");
    assert_eq!((page.total, page.total_is_estimate, page.items.len()), (24, false, 24));
    assert_eq!(page.items[0].id, ids[24], "the newest first");
    for (narrowed, total) in [
        (WorkflowFilter { status: Some(WorkflowStatus::Published), ..all.clone() }, 1),
        (WorkflowFilter { status: Some(WorkflowStatus::Draft), ..all.clone() }, 23),
        (WorkflowFilter { intake: Some(Intake::Paused), ..all.clone() }, 0),
        (WorkflowFilter { tags: vec!["fifth".into()], ..all.clone() }, 5),
        (WorkflowFilter { tags: vec!["fifth".into(), "none".into()], ..all.clone() }, 0),
        (WorkflowFilter { search: Some("FLOW 0".into()), ..all.clone() }, 10),
        (WorkflowFilter { search: Some("50%_ä".into()), ..all.clone() }, 24),
        (WorkflowFilter { search: Some("5%ä".into()), ..all.clone() }, 0),
        (WorkflowFilter { search: Some("about flow 03".into()), ..all.clone() }, 1),
        (WorkflowFilter { created_by: Some(Uuid::now_v7()), ..all.clone() }, 0),
        (WorkflowFilter { created_by: Some(user), ..all.clone() }, 24),
    ] {
        let page =
            workflows::list(&world.pool, &narrowed, &PageRequest::default()).await.expect("a page");
        assert_eq!(
            (page.total, page.items.len()),
            (total, usize::try_from(total).expect("few")),
            "{narrowed:?}"
        );
    }
    let counts = workflows::counts(&world.pool, workspace).await.expect("counts");
    assert_eq!(counts.iter().map(|count| count.count).sum::<i64>(), 24);

    for sort in [
        WorkflowSort::Newest,
        WorkflowSort::Oldest,
        WorkflowSort::Name,
        WorkflowSort::NameDescending,
        WorkflowSort::LastEdited,
        WorkflowSort::FirstEdited,
    ] {
        assert_pages_join(&world, &all, sort).await;
    }
    process.stop().await;
    world.stop().await;
}

/// Following cursors shows each item once, in the order of the whole list, also when items are added meanwhile.
async fn assert_pages_join(world: &World, filter: &WorkflowFilter, sort: WorkflowSort) {
    let whole = PageRequest { sort, limit: 200, ..PageRequest::default() };
    let whole = workflows::list(&world.pool, filter, &whole).await.expect("a page");
    let mut request = PageRequest { sort, limit: 7, ..PageRequest::default() };
    let mut seen = Vec::new();
    loop {
        let page = workflows::list(&world.pool, filter, &request).await.expect("a page");
        assert_eq!(page.total, whole.total);
        seen.extend(page.items.into_iter().map(|item| item.id));
        match page.next_cursor {
            Some(cursor) => request.cursor = Some(cursor),
            None => break,
        }
    }
    assert_eq!(seen, whole.items.iter().map(|item| item.id).collect::<Vec<_>>(), "{sort:?}");
    let offset = PageRequest { sort, limit: 3, offset: 5, ..PageRequest::default() };
    let page = workflows::list(&world.pool, filter, &offset).await.expect("a page");
    assert_eq!(page.items.iter().map(|item| item.id).collect::<Vec<_>>(), seen[5..8]);
    let past = PageRequest { sort, limit: 3, offset: 500, ..PageRequest::default() };
    assert_eq!(
        workflows::list(&world.pool, filter, &past).await.expect("a page").total,
        whole.total
    );
    let other = if sort == WorkflowSort::Name { WorkflowSort::Newest } else { WorkflowSort::Name };
    let foreign = PageRequest { sort: other, cursor: request.cursor, ..PageRequest::default() };
    let refused = workflows::list(&world.pool, filter, &foreign).await;
    assert!(matches!(refused, Err(QueryError::InvalidCursor)), "{refused:?}");
}

#[tokio::test]
async fn an_execution_and_its_nodes_show_every_try() {
    let world = World::new().await;
    let process = world.projectors("one");
    let (workspace, flow, id, user) =
        (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
    let by = human(user);
    world.append(workspace, flow, 0, &by, [created(workspace, "Import", &["etl"])]).await;
    let mut request = requested(workspace, flow, 3);
    let output = Some(NodeOutput::Inline(json!({ "kept": true }).into()));
    request.origin = Some(Origin {
        execution_id: ExecutionId(Uuid::now_v7()),
        kind: OriginKind::Retry,
        carried: vec![CarriedNode { path: NodePath("a".into()), output, port: None }],
        variables: Vec::new(),
    });
    let retry_at = "2030-01-01T00:00:00Z".parse().expect("a time");
    let failed = |attempt, retry_at| {
        ExecutionEvent::from(NodeFailed {
            path: NodePath("b".into()),
            attempt: Attempt(attempt),
            error: error(ErrorKind::Transient, "busy"),
            duration_ms: 5,
            retry_at,
        })
    };
    let mut events: Vec<ExecutionEvent> = vec![request.into()];
    events.extend(begun());
    events.extend([node_started("b", 1), failed(1, Some(retry_at))]);
    let version = world.append(workspace, id, 0, &by, events).await;
    world.caught_up(&process).await;
    let node = execution_nodes::get(&world.pool, id, "b").await.expect("readable").expect("there");
    assert_eq!(
        (node.status, node.retry_at, node.finished_at),
        (NodeStatus::Retrying, Some(retry_at), None)
    );

    let blob = NodeOutput::Blob { hash: "ab".repeat(32), size_bytes: 300_000 };
    let done = ledgerline_domain::execution::NodeCompleted {
        path: NodePath("b".into()),
        attempt: Attempt(2),
        output: blob,
        port: Some("ok".into()),
        duration_ms: 9,
    };
    world
        .append(
            workspace,
            id,
            version,
            &by,
            [node_started("b", 2), done.into(), node_started("c", 1), completed()],
        )
        .await;
    world.caught_up(&process).await;

    let run = executions::get(&world.pool, id).await.expect("readable").expect("it is there");
    assert_eq!(
        (run.status, run.progress, run.workflow_name.as_deref()),
        (ExecutionStatus::Completed, 1.0, Some("Import"))
    );
    assert_eq!(
        (run.finished_nodes, run.planned_nodes, run.worker.as_deref()),
        (2, 3, Some("worker-1"))
    );
    assert_eq!(value(run.input.as_ref().expect("it has one")), json!({ "order": 7 }));
    assert_eq!(value(run.output.as_ref().expect("it has one")), json!({ "done": true }));
    assert_eq!(run.origin_kind.as_deref(), Some("retry"));
    assert!(run.duration_ms.is_some_and(|duration| duration >= 0));

    let nodes = execution_nodes::list(&world.pool, id, (0, ""), 10).await.expect("readable");
    let shown: Vec<_> =
        nodes.iter().map(|node| (node.path.as_str(), node.status, node.carried)).collect();
    assert_eq!(
        shown,
        [
            ("a", NodeStatus::Completed, true),
            ("b", NodeStatus::Completed, false),
            ("c", NodeStatus::Cancelled, false),
        ]
    );
    let b = &nodes[1];
    assert_eq!(
        (b.attempt, b.port.as_deref(), b.duration_ms, b.retry_at),
        (2, Some("ok"), Some(9), None)
    );
    assert_eq!(value(b.output_blob.as_ref().expect("a reference"))["size_bytes"], json!(300_000));
    let tries = value(&b.failed_attempts);
    assert_eq!(
        (tries[0]["attempt"].clone(), tries[0]["error"]["message"].clone()),
        (json!(1), json!("busy"))
    );
    assert_eq!(tries.as_array().map(Vec::len), Some(1));
    let rest = execution_nodes::list(&world.pool, id, (b.first_position, "b"), 10)
        .await
        .expect("readable");
    assert_eq!(rest.len(), 1);

    let filter = ExecutionFilter { workspace_id: workspace, ..ExecutionFilter::default() };
    let page =
        executions::list(&world.pool, &filter, &PageRequest::default()).await.expect("a page");
    assert_eq!((page.total, page.items.len()), (1, 1));
    assert!(page.items[0].output.is_none(), "lists leave out what may be large");
    for (narrowed, total) in [
        (ExecutionFilter { status: Some(ExecutionStatus::Completed), ..filter.clone() }, 1),
        (ExecutionFilter { status: Some(ExecutionStatus::Running), ..filter.clone() }, 0),
        (ExecutionFilter { workflow_id: Some(flow), ..filter.clone() }, 1),
        (ExecutionFilter { workflow_id: Some(id), ..filter.clone() }, 0),
        (ExecutionFilter { tags: vec!["etl".into()], ..filter.clone() }, 1),
        (ExecutionFilter { search: Some("IMP".into()), ..filter.clone() }, 1),
        (ExecutionFilter { search: Some("export".into()), ..filter.clone() }, 0),
        (ExecutionFilter { to: Some(run.created_at), ..filter.clone() }, 0),
        (ExecutionFilter { from: Some(run.created_at), ..filter.clone() }, 1),
    ] {
        let page = executions::list(&world.pool, &narrowed, &PageRequest::default())
            .await
            .expect("a page");
        assert_eq!(
            (page.total, page.items.len()),
            (total, usize::try_from(total).expect("few")),
            "{narrowed:?}"
        );
    }
    let counts = executions::counts(&world.pool, workspace, Some(flow)).await.expect("counts");
    assert_eq!(
        (counts.len(), counts[0].status, counts[0].count),
        (1, ExecutionStatus::Completed, 1)
    );
    process.stop().await;
    world.stop().await;
}

#[tokio::test]
async fn members_see_their_workspaces_and_what_was_done() {
    let world = World::new().await;
    let process = world.projectors("one");
    let (id, owner, guest) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
    let founded = WorkspaceCreated {
        name: "Team".into(),
        description: "Us".into(),
        owner: UserId(owner),
        personal: false,
    };
    let added = MemberAdded { user_id: UserId(guest), role: Role::Viewer };
    let events: [WorkspaceEvent; 2] = [founded.into(), added.into()];
    let version = world.append(id, id, 0, &human(owner), events).await;
    world.caught_up(&process).await;
    let seen = workspaces::get(&world.pool, id, guest).await.expect("readable").expect("a member");
    assert_eq!((seen.role, seen.member_count, seen.created_by), (MemberRole::Viewer, 2, owner));
    assert!(workspaces::get(&world.pool, id, Uuid::now_v7()).await.expect("readable").is_none());

    let changed = MemberRoleChanged { user_id: UserId(guest), role: Role::Editor };
    let renamed = WorkspaceRenamed { name: "Crew".into(), description: "Us".into() };
    let events: [WorkspaceEvent; 2] = [changed.into(), renamed.into()];
    let version = world.append(id, id, version, &human(owner), events).await;
    world.caught_up(&process).await;
    let role = members::role(&world.pool, id, guest).await.expect("readable");
    assert_eq!(role, Some(MemberRole::Editor));
    let page = members::list(&world.pool, id, None, &PageRequest::default()).await.expect("a page");
    assert_eq!(
        page.items.iter().map(|member| member.user_id).collect::<BTreeSet<_>>(),
        BTreeSet::from([owner, guest])
    );
    let page = workspaces::list(&world.pool, guest, Some("CREW"), &PageRequest::default())
        .await
        .expect("a page");
    assert_eq!((page.total, page.items[0].name.as_str()), (1, "Crew"));

    let removed = MemberRemoved { user_id: UserId(guest) };
    world.append(id, id, version, &human(owner), [WorkspaceEvent::from(removed)]).await;
    world.caught_up(&process).await;
    assert_eq!(members::role(&world.pool, id, guest).await.expect("readable"), None);
    let page =
        workspaces::list(&world.pool, guest, None, &PageRequest::default()).await.expect("a page");
    assert_eq!((page.total, page.items.len()), (0, 0));

    let filter = ActivityFilter { workspace_id: id, ..ActivityFilter::default() };
    let feed = activity::list(&world.pool, &filter, &PageRequest::default()).await.expect("a page");
    let actions: Vec<_> = feed.items.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(
        actions,
        [
            "member_removed",
            "workspace_renamed",
            "member_role_changed",
            "member_added",
            "workspace_created",
        ]
    );
    assert_eq!((feed.total, value(&feed.items[0].actor)["user_id"].clone()), (5, json!(owner)));
    assert_eq!(value(&feed.items[2].detail)["role"], json!("editor"));
    let narrowed =
        ActivityFilter { action: Some("member_added".into()), user_id: Some(owner), ..filter };
    let feed =
        activity::list(&world.pool, &narrowed, &PageRequest::default()).await.expect("a page");
    assert_eq!((feed.total, feed.items.len()), (1, 1));
    process.stop().await;
    world.stop().await;
}

#[tokio::test]
async fn a_rebuild_gives_the_same_rows_as_the_events_one_by_one() {
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
async fn crashes_between_batches_apply_each_event_once() {
    let world = Arc::new(World::new().await);
    let mut history = History::new(99);
    for round in 0..8 {
        // Two processes, and the one that leads goes without a word in the middle of its work.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let doomed = Arc::clone(&world);
        let (started, running) = tokio::sync::oneshot::channel();
        runtime.spawn(async move {
            let process = doomed.projectors(&format!("doomed-{round}"));
            let _ = started.send(());
            std::future::pending::<()>().await;
            drop(process);
        });
        running.await.expect("it started");
        history.write(&world, 60).await;
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

async fn broken_draft(world: &World, workspace: Uuid, flow: Uuid, version: i64) -> i64 {
    let broken = new_event("draft_saved", 1, r#"{"version":"two"}"#.to_owned(), &human(flow));
    world.append_raw(workspace, flow, version, WorkflowEvent::CATEGORY, vec![broken]).await
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
        "an operator",
        "written by a bug",
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
async fn a_rebuild_serves_and_follows_while_it_runs() {
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
    let cancelled = ExecutionCancelled { reason: CancelReason::StoppedByUser };
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
