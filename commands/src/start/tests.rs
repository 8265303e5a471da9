//! A run is requested of the workflow as it is when the request is appended.

use ledgerline_domain::{
    execution::{
        Attempt, ErrorKind, Execution, ExecutionRejection, NodeError, NodeOutput, NodePath,
        NodeState, OriginKind, Outcome, Step, TriggerType,
    },
    id::ExecutionId,
    json::Json,
    workflow::{Intake, Workflow, WorkflowCommand, WorkflowRejection},
};
use ledgerline_store::EventLog as _;
use serde_json::json;
use uuid::Uuid;

use super::{
    MAX_CARRIED_BYTES, Rerun, Retry, Start, StartRejection, rerun, retry, start, start_and_activate,
};
use crate::{
    CommandError, Executed, Scope,
    testing::{World, context, wanted},
};

#[tokio::test]
async fn runs_are_counted_by_workflow_or_by_the_key_of_their_input() {
    let world = World::new();
    let process = world.process("one");
    let limit_of = async |settings, input| {
        let workflow = world.workflow_with(settings).await;
        let started = process.try_start(&wanted(workflow, Json::from_value(&input))).await.unwrap();
        let limit = started.state.run().unwrap().request.limits.first().cloned();
        limit.map(|limit| (limit.key.replace(&workflow.to_string(), "workflow"), limit.limit))
    };
    let unlimited = json!({"concurrency": {"limit": null}});
    assert_eq!(limit_of(unlimited, json!({})).await, None);
    assert_eq!(limit_of(json!({}), json!({})).await, Some(("workflow".into(), 3)));
    let keyed = json!({"concurrency": {"limit": 2, "key": "input.customer"}});
    assert_eq!(
        limit_of(keyed.clone(), json!({"customer": "c1"})).await,
        Some(("workflow:c1".into(), 2))
    );
    let (key, _) = limit_of(keyed.clone(), json!({"customer": "c".repeat(5_000)})).await.unwrap();
    assert_eq!(key.len(), "workflow:".len() + 64);
    let workflow = world.workflow_with(keyed).await;
    let refused = process.try_start(&wanted(workflow, Json::null())).await.unwrap_err();
    assert!(matches!(refused, CommandError::Rejected(StartRejection::Key(_))));
}

#[tokio::test]
async fn a_workflow_that_was_paused_meanwhile_starts_nothing() {
    let world = World::new();
    let (one, other) = (world.process("one"), world.process("other"));
    let workflow = world.workflow(None).await;
    one.start(workflow).await;
    other.tell_workflow(workflow, WorkflowCommand::PauseIntake).await;
    let before = world.history().len();
    // The first process still holds the workflow as it was.
    let refused = one.try_start(&wanted(workflow, Json::null())).await.unwrap_err();
    let paused = StartRejection::Workflow(WorkflowRejection::IntakePaused);
    assert!(matches!(refused, CommandError::Rejected(rejection) if rejection == paused));
    other.tell_workflow(workflow, WorkflowCommand::ActivateIntake).await;
    let by_trigger = Start { trigger_type: TriggerType::Cron, ..wanted(workflow, Json::null()) };
    let refused = one.try_start(&by_trigger).await.unwrap_err();
    let unpublished = StartRejection::Workflow(WorkflowRejection::NotPublished);
    assert!(matches!(refused, CommandError::Rejected(rejection) if rejection == unpublished));
    assert_eq!(world.history().len(), before + 1);
}

#[tokio::test]
async fn a_start_by_hand_turns_the_intake_on_in_the_same_append() {
    let world = World::new();
    let process = world.process("one");
    let workflow = world.workflow(None).await;
    let starts = (0..20).map(|_| async {
        let wanted = &wanted(workflow, Json::null());
        let plan = |scope: Scope| async move { start_and_activate(&scope, wanted, None).await };
        process.commands.transact(&context(), plan).await.unwrap();
    });
    futures_util::future::join_all(starts).await;
    let state = process.commands.load::<Workflow>(workflow).await.unwrap();
    assert_eq!(state.state.content().unwrap().intake, Intake::Active);
    assert_eq!(state.version.0, 2, "it was turned on once");
    assert_eq!(world.history().len(), 2 + 20 * 2);
}

#[tokio::test]
async fn the_same_cause_starts_once_for_ever() {
    let world = World::new();
    let (one, other) = (world.process("one"), world.process("other"));
    let wanted = wanted(world.workflow(None).await, Json::null());
    let first = one.try_start(&wanted).await.unwrap();
    for process in [&one, &other] {
        let again = process.try_start(&wanted).await.unwrap();
        assert!(again.events.is_empty());
        assert_eq!(again.version, first.version);
    }
}

#[tokio::test]
async fn a_rerun_names_its_origin_and_takes_what_is_different() {
    let world = World::new();
    let process = world.process("one");
    let of = process.start(world.workflow(None).await).await;
    let input = Some(Json::from_value(&json!({"n": 2})));
    let wanted = &Rerun {
        execution_id: ExecutionId(Uuid::now_v7()),
        of,
        from_node: None,
        input,
        version: None,
        node_input: None,
    };
    let plan = |scope: Scope| async move { rerun(&scope, wanted).await };
    let executed: Result<Executed<Execution>, CommandError<StartRejection>> =
        process.commands.execute_with(&context(), plan).await;
    let executed = executed.unwrap();
    let request = &executed.state.run().unwrap().request;
    assert_eq!(request.input.as_str(), r#"{"n":2}"#);
    let origin = request.origin.as_ref().unwrap();
    assert_eq!((origin.execution_id, origin.kind), (of, OriginKind::Rerun));
    let lost = &Rerun { of: ExecutionId(Uuid::now_v7()), ..wanted.clone() };
    let plan = |scope: Scope| async move { rerun(&scope, lost).await };
    let context = context();
    let refused = process.commands.execute_with::<Execution, StartRejection, _, _>(&context, plan);
    assert!(matches!(
        refused.await,
        Err(CommandError::Rejected(StartRejection::Execution(ExecutionRejection::NotRequested)))
    ));
}

#[tokio::test]
async fn an_open_run_is_not_retried() {
    let world = World::new();
    let process = world.process("one");
    let of = process.start(world.workflow(None).await).await;
    let wanted = Retry { execution_id: ExecutionId(Uuid::now_v7()), of };
    let plan = |scope: Scope| async move { retry(&scope, &wanted).await };
    let context = context();
    let refused = process.commands.execute_with::<Execution, StartRejection, _, _>(&context, plan);
    assert!(matches!(
        refused.await,
        Err(CommandError::Rejected(StartRejection::Execution(ExecutionRejection::NothingToRetry)))
    ));
}

#[tokio::test]
async fn a_retry_carries_over_what_succeeded_and_stores_what_is_large() {
    let world = World::new();
    let process = world.process("one");
    let of = process.start(world.workflow(None).await).await;
    let output = Json::from_value(&json!("x".repeat(MAX_CARRIED_BYTES + 1)));
    let error = NodeError { kind: ErrorKind::Permanent, message: "no".into(), details: None };
    let succeeded = Step::Complete {
        path: NodePath::from("one"),
        attempt: Attempt(1),
        output: NodeOutput::Inline(output.clone()),
        port: None,
        variable: None,
        duration_ms: 1,
    };
    let failed = Outcome::Failed { node: Some(NodePath::from("two")), error };
    process.report(of, vec![succeeded, Step::Finish(failed)]).await;
    let wanted = Retry { execution_id: ExecutionId(Uuid::now_v7()), of };
    let plan = |scope: Scope| async move { retry(&scope, &wanted).await };
    let context = context();
    let retried = process.commands.execute_with::<Execution, StartRejection, _, _>(&context, plan);
    let state = retried.await.unwrap().state;
    let run = state.run().unwrap();
    assert_eq!(run.request.origin.as_ref().unwrap().kind, OriginKind::Retry);
    assert_eq!(run.nodes.keys().map(NodePath::as_str).collect::<Vec<_>>(), ["one"]);
    let NodeState::Completed(completed) = &run.nodes["one"].state else { panic!("not carried") };
    let NodeOutput::Blob { hash, .. } = &completed.output else { panic!("not a blob") };
    let stored = world.log.blob(hash).await.unwrap().unwrap();
    assert_eq!(stored, output.as_str().as_bytes());
}

#[tokio::test]
async fn a_dry_run_of_a_start_has_the_same_hash_each_time() {
    let world = World::new();
    let process = world.process("one");
    let workflow = world.workflow_with(json!({"timeout_ms": 1_000})).await;
    let mut hashes = Vec::new();
    for _ in 0..2 {
        let wanted = &wanted(workflow, Json::null());
        let plan = |scope: Scope| async move {
            let (target, command) = start(&scope, wanted).await?;
            scope
                .decide::<Execution>(target, &command)
                .await
                .map_err(CommandError::widen::<StartRejection>)
        };
        let preview = process.commands.preview(&context(), plan).await.unwrap();
        assert_eq!(preview.reads.len(), 2, "its workflow and its workspace");
        hashes.push(preview.plan_hash);
    }
    assert_eq!(hashes[0], hashes[1]);
    process.tell_workflow(workflow, WorkflowCommand::ActivateIntake).await;
    let wanted = &wanted(workflow, Json::null());
    let plan = |scope: Scope| async move {
        let (target, command) = start(&scope, wanted).await?;
        scope
            .decide::<Execution>(target, &command)
            .await
            .map_err(CommandError::widen::<StartRejection>)
    };
    assert_ne!(process.commands.preview(&context(), plan).await.unwrap().plan_hash, hashes[0]);
}
