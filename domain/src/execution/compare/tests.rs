use chrono::TimeDelta;
use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::{
    execution::{
        Attempt, CancelReason, Claim, ErrorKind, ExecutionCancelled, ExecutionCompleted,
        ExecutionRequested, ExecutionStarted, NodeCompleted, NodeFailed, NodeSkipped, NodeStarted,
        Origin, OriginKind, Queue, SkipReason, TriggerType, UsageRecorded,
    },
    id::{ExecutionId, WorkflowId, WorkspaceId},
    workflow::WorkflowVersion,
};

fn at(second: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(second)
}

fn requested(input: Value, carried: Vec<CarriedNode>) -> ExecutionEvent {
    let origin = (!carried.is_empty()).then(|| Origin {
        execution_id: ExecutionId(Uuid::from_u128(9)),
        kind: OriginKind::Rerun,
        from_node: None,
        at_version: None,
        edits: Vec::new(),
        carried,
        variables: Vec::new(),
        signals: Vec::new(),
    });
    let text = json!({
        "workspace_id": WorkspaceId(Uuid::from_u128(1)), "workflow_id": WorkflowId(Uuid::from_u128(2)),
        "workflow_version": WorkflowVersion(1), "trigger_type": TriggerType::Manual, "input": input,
        "queue": Queue::Default, "planned_nodes": 2, "origin": origin,
    });
    let event: ExecutionRequested =
        serde_json::from_value(text).expect("it has the shape of the event");
    event.into()
}

fn started(path: &str, input: Value) -> ExecutionEvent {
    let text = json!({"path": path, "attempt": 1, "input": input});
    let event: NodeStarted = serde_json::from_value(text).expect("it has the shape of the event");
    event.into()
}

fn completed(path: &str, output: Value) -> ExecutionEvent {
    NodeCompleted {
        path: path.into(),
        attempt: Attempt(1),
        output: NodeOutput::Inline(output.into()),
        port: None,
        duration_ms: 10,
        undoes: None,
    }
    .into()
}

fn failed(path: &str, message: &str) -> ExecutionEvent {
    NodeFailed {
        path: path.into(),
        attempt: Attempt(1),
        error: NodeError { kind: ErrorKind::Permanent, message: message.to_owned(), details: None },
        duration_ms: 30,
        retry_at: None,
    }
    .into()
}

fn done(output: Value) -> ExecutionEvent {
    ExecutionCompleted { output: NodeOutput::Inline(output.into()) }.into()
}

fn outline(events: &[ExecutionEvent]) -> Outline {
    let mut outline = Outline::default();
    for (version, event) in (1..).zip(events) {
        outline.apply(version, at(version), event);
    }
    outline
}

fn changed(comparison: &Comparison) -> Vec<(&str, Vec<&'static str>)> {
    let nodes = comparison.nodes.iter().filter(|node| !node.changed.is_empty());
    nodes.map(|node| (node.path.as_str(), node.changed.clone())).collect()
}

#[test]
fn the_same_work_is_the_same_whoever_did_it_and_in_whatever_turn() {
    let one = outline(&[
        requested(json!({"n": 1}), Vec::new()),
        ExecutionStarted { worker: "one".to_owned(), claim: Claim(1) }.into(),
        started("a", json!(1)),
        started("b", json!(2)),
        completed("a", json!("A")),
        completed("b", json!("B")),
        done(json!(0)),
    ]);
    let other = outline(&[
        requested(json!({"n": 1}), Vec::new()),
        started("b", json!(2)),
        completed("b", json!("B")),
        started("a", json!(1)),
        completed("a", json!("A")),
        done(json!(0)),
    ]);
    let comparison = compare(&one, &other);
    assert_eq!(comparison.parting, None);
    assert_eq!(changed(&comparison), []);
    assert_eq!(comparison.nodes.len(), 3, "the run and its two nodes");
}

#[test]
fn runs_part_at_the_first_event_that_differs() {
    let common = [requested(json!({"n": 1}), Vec::new()), started("a", json!(1))];
    let mut one = common.to_vec();
    one.extend([
        completed("a", json!({"x": [1, 2], "y": 1})),
        started("b", json!(1)),
        done(json!(0)),
    ]);
    let mut other = common.to_vec();
    other.extend([completed("a", json!({"x": [1, 3, 4], "z": 1})), failed("b", "no")]);
    let comparison = compare(&outline(&one), &outline(&other));
    let parting = comparison.parting.clone().expect("they differ");
    assert_eq!(parting.path.as_str(), "a");
    let versions = (parting.a.map(|event| event.version), parting.b.map(|event| event.version));
    assert_eq!(versions, (Some(3), Some(3)));
    let words = changed(&comparison);
    assert_eq!(words[0], ("", vec!["status", "output"]));
    assert_eq!(words[1], ("a", vec!["output"]));
    assert_eq!(words[2].0, "b");
    let a = &comparison.nodes[1].output.as_ref().expect("its output differs").changes;
    let places: Vec<&str> = a.iter().map(|change| change.pointer.as_str()).collect();
    assert_eq!(places, ["/x/1", "/x/2", "/y", "/z"]);
    assert_eq!((a[1].a.clone(), a[1].b.clone()), (None, Some(json!(4))));
}

#[test]
fn what_only_one_run_has_is_named() {
    let one = outline(&[
        requested(json!(1), Vec::new()),
        NodeSkipped { path: "a".into(), reason: SkipReason::BranchNotTaken }.into(),
        ExecutionCancelled { reason: CancelReason::StoppedByUser, compensation: None }.into(),
    ]);
    let other =
        outline(&[requested(json!(1), Vec::new()), started("new", json!(1)), done(json!(2))]);
    let comparison = compare(&one, &other);
    assert_eq!(comparison.parting.expect("they differ").path.as_str(), "a");
    let words = comparison.nodes.iter().map(|node| (node.path.as_str(), node.changed.clone()));
    let words: Vec<_> = words.collect();
    assert_eq!(words[0], ("", vec!["status", "output"]));
    assert_eq!(words[1..], [("a", vec!["presence"]), ("new", vec!["presence"])]);
}

#[test]
fn what_was_carried_counts_by_its_outcome() {
    let one = outline(&[
        requested(json!(1), Vec::new()),
        started("a", json!(1)),
        completed("a", json!("A")),
        done(json!(0)),
    ]);
    let output = Some(NodeOutput::Inline(json!("A").into()));
    let carried = CarriedNode { path: "a".into(), output, port: None, looping: None };
    let other = outline(&[requested(json!(1), vec![carried.clone()]), done(json!(0))]);
    let comparison = compare(&one, &other);
    assert_eq!(comparison.parting, None);
    assert_eq!(changed(&comparison), []);
    let output = Some(NodeOutput::Inline(json!("B").into()));
    let other =
        outline(&[requested(json!(1), vec![CarriedNode { output, ..carried }]), done(json!(0))]);
    assert_eq!(changed(&compare(&one, &other)), [("a", vec!["output"])]);
}

#[test]
fn what_was_used_of_providers_is_held_against_the_other() {
    let used = |path: &str, tokens: u64, cost_microusd: u64| -> ExecutionEvent {
        UsageRecorded {
            path: path.into(),
            attempt: Attempt(1),
            provider: "openai".to_owned(),
            model: "small".to_owned(),
            input_tokens: tokens,
            output_tokens: 2 * tokens,
            cost_microusd,
        }
        .into()
    };
    let run = |events: Vec<ExecutionEvent>| {
        let first = [requested(json!(1), Vec::new()), started("a", json!(1))];
        outline(&[first.to_vec(), events, vec![completed("a", json!("A"))]].concat())
    };
    let one =
        run(vec![used("a", 10, 500), used("a", 5, 100), started("b", json!(1)), used("b", 1, 1)]);
    let other = run(vec![used("a", 20, 450)]);
    let comparison = compare(&one, &other);
    let deltas: Vec<_> = comparison.nodes.iter().map(|node| node.usage_delta).collect();
    let delta = |input_tokens: i64, cost_microusd: i64| {
        Some(UsageDelta { input_tokens, output_tokens: 2 * input_tokens, cost_microusd })
    };
    assert_eq!(deltas, [delta(4, -151), delta(5, -150), delta(-1, -1)], "the run, a and b");
    assert_eq!(changed(&comparison), [("b", vec!["presence"])], "what it cost is no other outcome");
    let free = compare(&run(Vec::new()), &run(Vec::new()));
    assert!(free.nodes.iter().all(|node| node.usage_delta.is_none()));
}

#[test]
fn what_is_large_is_bounded() {
    let list = |from: i32| json!((from..from + 1_000).collect::<Vec<_>>());
    let run = |value: Value| {
        outline(&[requested(json!(1), Vec::new()), completed("a", value.clone()), done(value)])
    };
    let comparison = compare(&run(list(0)), &run(list(1)));
    let delta = comparison.nodes[1].output.as_ref().expect("it differs");
    assert_eq!((delta.changes.len(), delta.truncated), (MAX_VALUE_CHANGES, true));
    let text = |letter: &str| json!(letter.repeat(10_000));
    let comparison = compare(&run(text("a")), &run(text("b")));
    let delta = comparison.nodes[1].output.as_ref().expect("it differs");
    assert_eq!(delta.changes[0].a, Some(json!({"$omitted_bytes": 10_002})));
    let huge = |letter: &str| json!(letter.repeat(MAX_COMPARED_BYTES));
    let comparison = compare(&run(huge("a")), &run(huge("b")));
    let delta = comparison.nodes[1].output.as_ref().expect("it differs");
    assert!(delta.changes.is_empty() && delta.truncated, "it is known to differ, and not how");
}
