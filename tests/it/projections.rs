//! The read models on a real Postgres: what lists show, exactly-once over crashes, rebuilds, the quarantine, and waiting.

mod faults;
mod random;
pub(crate) mod world;

use std::collections::BTreeSet;

use ledgerline_domain::{
    event::Actor,
    execution::{
        Attempt, CarriedNode, ErrorKind, ExecutionEvent, ExecutionFailed, NodeCompleted,
        NodeFailed, NodeOutput, NodePath, Origin, OriginKind,
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
    PageRequest, QueryError,
    activity::{self, ActivityFilter},
    execution_nodes,
    executions::{self, ExecutionFilter},
    members,
    values::{ExecutionStatus, Intake, MemberRole, NodeStatus, WorkflowStatus},
    workflows::{self, WorkflowFilter, WorkflowSort},
    workspaces,
};
use serde_json::{Value, json};
use uuid::Uuid;

use world::{
    World, begun, completed, created, draft, error, human, node_completed, node_started, requested,
};

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

    let failed = ExecutionFailed {
        node: None,
        error: error(ErrorKind::Permanent, "no"),
        compensation: None,
    };
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
#[expect(clippy::too_many_lines, reason = "one history told from its beginning to its end")]
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
        from_node: None,
        at_version: None,
        edits: Vec::new(),
        carried: vec![CarriedNode {
            path: NodePath("a".into()),
            output,
            port: None,
            looping: None,
        }],
        variables: Vec::new(),
        signals: Vec::new(),
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
    let done = NodeCompleted {
        path: NodePath("b".into()),
        attempt: Attempt(2),
        output: blob,
        port: Some("ok".into()),
        duration_ms: 9,
        undoes: None,
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

    assert_nodes_show_every_try(&world, id).await;
    assert_listed_by_filters(&world, workspace, flow, &run).await;
    process.stop().await;
    world.stop().await;
}

/// `a` was carried over, `b` came through at its second try, `c` was under way at the end.
async fn assert_nodes_show_every_try(world: &World, id: Uuid) {
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
}

/// The one execution of a workspace is found by what it is, and by nothing else.
async fn assert_listed_by_filters(
    world: &World,
    workspace: Uuid,
    flow: Uuid,
    run: &executions::ExecutionItem,
) {
    let filter = ExecutionFilter { workspace_id: workspace, ..ExecutionFilter::default() };
    let page =
        executions::list(&world.pool, &filter, &PageRequest::default()).await.expect("a page");
    assert_eq!((page.total, page.items.len()), (1, 1));
    assert!(page.items[0].output.is_none(), "lists leave out what may be large");
    for (narrowed, total) in [
        (ExecutionFilter { status: Some(ExecutionStatus::Completed), ..filter.clone() }, 1),
        (ExecutionFilter { status: Some(ExecutionStatus::Running), ..filter.clone() }, 0),
        (ExecutionFilter { workflow_id: Some(flow), ..filter.clone() }, 1),
        (ExecutionFilter { workflow_id: Some(run.id), ..filter.clone() }, 0),
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
