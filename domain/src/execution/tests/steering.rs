//! Merges, loops by a condition, and loops that go on without an item.

use super::{
    planning::{
        by_port, edge, edge_by, evaluate, finished, http, open_loop, planned, run, skip, skipped,
        transform, with,
    },
    *,
};

fn merge(id: &str, mode: &str) -> Value {
    json!({"id": id, "type": "logic.merge", "config": {"mode": mode}})
}

fn choice(id: &str) -> Value {
    json!({"id": id, "type": "logic.if", "config": {"condition": "true"}})
}

/// What a merge is to pass on.
#[track_caller]
fn merged(actions: &[Action]) -> Value {
    let [Action::Merge { path, attempt: Attempt(1), output }] = actions else {
        panic!("a merge and nothing else: {actions:?}")
    };
    assert_eq!(path.as_str(), "merge");
    output.to_json(&Default::default()).expect("no blob is needed").to_value()
}

#[test]
fn a_merge_of_any_goes_on_with_the_first_branch_and_ignores_the_later_ones() {
    let nodes = json!([http("slow"), http("quick"), merge("merge", "any"), http("after")]);
    let connections =
        json!([edge("slow", "merge"), edge("quick", "merge"), edge("merge", "after")]);
    let plan = plan_of(nodes, connections);
    let given = Given::running().report(1, [start("slow"), start("quick")]);
    assert_eq!(planned(&given, &plan), []);
    let given = given.report(1, [complete("quick", json!("q"))]);
    assert_eq!(merged(&planned(&given, &plan)), json!("q"));
    let given = given.report(1, [complete("merge", json!("q"))]);
    assert_eq!(planned(&given, &plan), [run("after")]);
    let given = given.report(1, [start("after"), complete("after", json!("end"))]);
    assert_eq!(planned(&given, &plan), [], "what is left of the other branch is waited for");
    let given = given.report(1, [complete("slow", json!("s"))]);
    assert_eq!(planned(&given, &plan), finished(json!("end")));
}

#[test]
fn what_comes_first_is_what_was_recorded_first_whoever_plans() {
    let nodes = json!([http("a"), http("b"), merge("merge", "any")]);
    let plan = plan_of(nodes, json!([edge("a", "merge"), edge("b", "merge")]));
    let both = [start("a"), start("b"), complete("b", json!("b")), complete("a", json!("a"))];
    assert_eq!(merged(&planned(&Given::running().report(1, both), &plan)), json!("b"));
}

#[test]
fn a_merge_of_any_is_skipped_when_no_branch_is_taken() {
    let nodes =
        json!([choice("if"), choice("if2"), transform("x"), merge("merge", "any"), http("after")]);
    let connections = json!([
        edge_by("if", "true", "merge"),
        edge_by("if2", "true", "merge"),
        edge_by("if", "false", "x"),
        edge("merge", "after"),
    ]);
    let plan = plan_of(nodes, connections);
    let given = Given::running().report(1, [by_port("if", "false")]);
    assert_eq!(planned(&given, &plan), [evaluate("if2"), evaluate("x")]);
    let given = given.report(1, [by_port("if2", "false"), complete("x", json!(1))]);
    assert_eq!(planned(&given, &plan), [skip("merge")]);
    let given = given.report(1, [skipped("merge")]);
    assert_eq!(planned(&given, &plan), [skip("after")]);
}

#[test]
fn a_merge_of_all_gives_what_came_by_node() {
    let nodes = json!([choice("if"), http("a"), http("b"), http("c"), merge("merge", "all")]);
    let connections = json!([
        edge_by("if", "true", "a"),
        edge_by("if", "false", "b"),
        edge("a", "merge"),
        edge("b", "merge"),
        edge("c", "merge"),
    ]);
    let plan = plan_of(nodes, connections);
    let steps = [by_port("if", "true"), skipped("b"), start("a"), start("c")];
    let given = Given::running().report(1, steps).report(1, [complete("c", json!(3))]);
    assert_eq!(planned(&given, &plan), []);
    let given = given.report(1, [complete("a", json!(1))]);
    assert_eq!(merged(&planned(&given, &plan)), json!({"a": 1, "c": 3}));
}

#[test]
fn a_retry_does_not_repeat_what_went_on_with_another_branch() {
    let nodes = json!([http("good"), http("bad"), merge("merge", "any"), http("after")]);
    let connections = json!([edge("good", "merge"), edge("bad", "merge"), edge("merge", "after")]);
    let plan = plan_of(nodes, connections);
    let steps = [
        start("good"),
        start("bad"),
        complete("good", json!(1)),
        complete("merge", json!(1)),
        start("after"),
        complete("after", json!(2)),
        fail("bad", AfterFailure::Stop),
    ];
    let given = Given::running().report(1, steps);
    let error = failure(ErrorKind::Transient);
    let failed = Outcome::Failed { node: Some("bad".into()), error };
    let given = given.report(1, [Step::Finish(failed)]);
    let id = crate::id::ExecutionId(Uuid::from_u128(9));
    let retry = retry_of(id, &given.state(), &plan, None).expect("it failed");
    let carried = retry.origin.as_ref().expect("it has one").carried.iter();
    let carried: Vec<&str> = carried.map(|node| node.path.as_str()).collect();
    assert_eq!(carried, ["good", "merge", "after"]);
    let again = Given::default().and(ExecutionCommand::Request(Box::new(retry))).report(1, []);
    assert_eq!(planned(&again, &plan), [run("bad")]);
    let again = again.report(1, [start("bad"), complete("bad", json!(3))]);
    assert_eq!(planned(&again, &plan), finished(json!(2)));
}

fn repeat(nodes: Value) -> Value {
    let config = json!({"condition": "index < 2", "max_iterations": 5, "nodes": nodes});
    json!({"id": "poll", "type": "logic.while", "config": config})
}

fn iterate(iteration: u32) -> Step {
    Step::Iterate { path: "poll".into(), iteration }
}

fn open_while() -> Step {
    Step::OpenWhile { path: "poll".into(), attempt: Attempt(1), max_iterations: 5 }
}

/// What the last iteration gave when a condition is to be asked.
#[track_caller]
fn asked(actions: &[Action], expected: u32) -> Value {
    let [Action::CheckCondition { path, iteration, max_iterations: 5, last, .. }] = actions else {
        panic!("a condition and nothing else: {actions:?}")
    };
    assert_eq!((path.as_str(), *iteration), ("poll", expected));
    last.to_json(&Default::default()).expect("no blob is needed").to_value()
}

#[test]
fn a_while_asks_before_each_iteration_and_gives_the_last_output() {
    let plan = plan_of(json!([repeat(json!([http("get")]))]), json!([]));
    let open = Action::OpenLoop { path: "poll".into(), attempt: Attempt(1) };
    assert_eq!(planned(&Given::running(), &plan), [open]);
    let given = Given::running().report(1, [open_while()]);
    assert_eq!(asked(&planned(&given, &plan), 0), json!(null));
    let given = given.report(1, [iterate(0)]);
    assert_eq!(planned(&given, &plan), [run("poll[0]/get")]);
    let given = given.report(1, [start("poll[0]/get")]);
    assert_eq!(planned(&given, &plan), []);
    let given = given.report(1, [complete("poll[0]/get", json!("a"))]);
    assert_eq!(asked(&planned(&given, &plan), 1), json!("a"));
    let given = given.report(1, [iterate(1), start("poll[1]/get")]);
    let given = given.report(1, [complete("poll[1]/get", json!("b"))]);
    assert_eq!(asked(&planned(&given, &plan), 2), json!("b"));
    let given = given.report(1, [complete("poll", json!({"output": "b", "iterations": 2}))]);
    assert_eq!(planned(&given, &plan), finished(json!({"output": "b", "iterations": 2})));
}

#[test]
fn iterations_begin_in_order_once_each_and_never_beyond_the_bound() {
    let given = Given::running().report(1, [open_while(), iterate(0), iterate(1)]);
    given.when_reported(1, [iterate(0), iterate(1)]).then_nothing();
    let begun = LoopIterated { path: "poll".into(), iteration: 2 };
    given.when_reported(1, [iterate(2)]).then([begun.into()]);
    let contradiction = || ExecutionRejection::Contradiction { step: 0, path: "poll".to_owned() };
    given.when_reported(1, [iterate(3)]).rejects(contradiction());
    Given::running().when_reported(1, [iterate(0)]).rejects(contradiction());
    let full = given.report(1, [iterate(2), iterate(3), iterate(4)]);
    full.when_reported(1, [iterate(5)]).rejects(contradiction());
}

#[test]
fn the_values_of_the_loops_around_are_those_of_the_innermost_of_each_kind() {
    let inner = json!({"id": "poll", "type": "logic.while", "config": {
        "condition": "item == last", "max_iterations": 5, "nodes": [http("get")]}});
    let each = json!({"id": "each", "type": "logic.for_each",
        "config": {"items": "input", "nodes": [inner]}});
    let plan = plan_of(json!([each]), json!([]));
    let poll = NodePath::from("each[1]/poll");
    let steps = [
        open_loop("each", 2),
        Step::OpenWhile { path: poll.clone(), attempt: Attempt(1), max_iterations: 5 },
        Step::Iterate { path: poll.clone(), iteration: 0 },
        start("each[1]/poll[0]/get"),
        complete("each[1]/poll[0]/get", json!("first")),
        Step::Iterate { path: poll.clone(), iteration: 1 },
    ];
    let state = Given::running().report(1, steps).state();
    let run = state.run().expect("it runs");
    let seen = |path: &str| {
        let path = NodePath::from(path);
        let view = run.scope(&path);
        let last = view.last(&plan).map(|last| last.as_is().expect("one output or none"));
        (view.item().map(Json::to_value), view.index(), last)
    };
    let output = |value: Value| Some(NodeOutput::Inline(value.into()));
    assert_eq!(seen("each[1]/poll"), (Some(json!(0)), Some(1), None));
    assert_eq!(seen("each[1]/poll[0]/get"), (Some(json!(0)), Some(0), output(json!(null))));
    assert_eq!(seen("each[1]/poll[1]/get"), (Some(json!(0)), Some(1), output(json!("first"))));
}

fn tolerant(policy: &str) -> Arc<Plan> {
    let nodes = json!([http("get"), http("beside"), http("then")]);
    let config = json!({"items": "input", "concurrency": 2, "on_item_error": policy,
        "nodes": nodes, "connections": [edge("get", "then")]});
    plan_of(json!([{"id": "each", "type": "logic.for_each", "config": config}]), json!([]))
}

fn fail_item(item: u32) -> Step {
    let node = NodePath::from(format!("each[{item}]/get").as_str());
    Step::FailItem { path: "each".into(), item, node, error: failure(ErrorKind::Transient) }
}

#[test]
fn a_loop_goes_on_without_an_item_that_failed_once_nothing_runs_in_it() {
    let plan = tolerant("continue");
    let steps = [
        open_loop("each", 3),
        start("each[0]/get"),
        start("each[0]/beside"),
        start("each[1]/get"),
        fail("each[0]/get", AfterFailure::Stop),
    ];
    let given = Given::running().report(1, steps);
    assert_eq!(planned(&given, &plan), [run("each[1]/beside")], "the rest of the item finishes");
    let given = given.report(1, [complete("each[0]/beside", json!(1)), start("each[1]/beside")]);
    let given_up = Action::FailItem {
        path: "each".into(),
        item: 0,
        node: "each[0]/get".into(),
        error: failure(ErrorKind::Transient),
    };
    assert_eq!(planned(&given, &plan), [given_up]);
    let given = given.report(1, [fail_item(0)]);
    given.when_reported(1, [fail_item(0)]).then_nothing();
    assert_eq!(planned(&given, &plan), [run("each[2]/get"), run("each[2]/beside")]);
}

#[test]
fn what_waits_for_an_item_that_failed_waits_no_more() {
    let plan = tolerant("continue");
    let again = AfterFailure::Retry { at: at(50) };
    let steps = [
        open_loop("each", 1),
        start("each[0]/get"),
        start("each[0]/beside"),
        fail("each[0]/beside", again),
        fail("each[0]/get", AfterFailure::Stop),
        fail_item(0),
    ];
    let given = Given::running().report(1, steps);
    let actions = planned(&given, &plan);
    assert!(matches!(actions.as_slice(), [Action::CloseLoop { .. }]), "{actions:?}");
    let (path, attempt, kind) = ("each[0]/beside".into(), Attempt(1), TimerKind::Retry);
    given.when(ExecutionCommand::FireTimer { path, attempt, kind }).then_nothing();
}

#[test]
fn a_list_has_null_or_the_error_where_an_item_failed() {
    let steps = || {
        let item = |n: u32| {
            let path = |id: &str| format!("each[{n}]/{id}");
            [
                start(&path("get")),
                start(&path("beside")),
                complete(&path("beside"), json!("b")),
                complete(&path("get"), json!("g")),
                start(&path("then")),
                complete(&path("then"), json!(n)),
            ]
        };
        let mut steps = vec![open_loop("each", 3)];
        steps.extend(item(0));
        steps.extend([start("each[1]/get"), fail("each[1]/get", AfterFailure::Stop), fail_item(1)]);
        steps.extend(item(2));
        steps
    };
    let list = |policy: &str| {
        let actions = planned(&Given::running().report(1, steps()), &tolerant(policy));
        let [Action::CloseLoop { output, .. }] = actions.as_slice() else {
            panic!("every item is done or given up: {actions:?}")
        };
        output.to_json(&Default::default()).expect("no blob is needed").to_value()
    };
    let good = |n: u32| json!({"beside": "b", "then": n});
    assert_eq!(list("continue"), json!([good(0), null, good(2)]));
    let error = json!({"error": {"node": "each[1]/get", "kind": "transient",
        "message": "it broke", "details": null}});
    assert_eq!(list("collect"), json!([good(0), error, good(2)]));
}

#[test]
fn a_failure_that_its_node_catches_is_no_failure_of_the_item() {
    let config = json!({"items": "input", "on_item_error": "continue",
        "nodes": [with(http("get"), "on_error", json!("continue"))]});
    let plan =
        plan_of(json!([{"id": "each", "type": "logic.for_each", "config": config}]), json!([]));
    let output = NodeOutput::Inline(json!("default").into());
    let caught = AfterFailure::Continue { output, port: None };
    let steps = [open_loop("each", 1), start("each[0]/get"), fail("each[0]/get", caught)];
    let actions = planned(&Given::running().report(1, steps), &plan);
    let [Action::CloseLoop { output, .. }] = actions.as_slice() else { panic!("{actions:?}") };
    let list = output.to_json(&Default::default()).expect("no blob is needed");
    assert_eq!(list.to_value(), json!(["default"]));
}

const RUN: crate::id::ExecutionId = crate::id::ExecutionId(Uuid::from_u128(7));

fn held(path: &str) -> ExecutionEvent {
    ExecutionPaused { reason: PauseReason::NodeFailed, node: Some(path.into()) }.into()
}

fn resolve(path: &str, resolution: Resolution) -> ExecutionCommand {
    ExecutionCommand::Resolve { path: path.into(), resolution }
}

fn node_resolved(path: &str, resolution: ResolutionKind) -> ExecutionEvent {
    NodeResolved { path: path.into(), attempt: Attempt(1), resolution }.into()
}

fn unpaused() -> ExecutionEvent {
    ExecutionUnpaused {}.into()
}

/// Two nodes failed for the last time, and the worker let go.
fn held_twice() -> Given {
    let steps = [
        start("a"),
        start("b"),
        fail("a", AfterFailure::Pause),
        fail("b", AfterFailure::Pause),
        Step::LetGo,
    ];
    Given::running().report(1, steps)
}

#[test]
fn a_last_failure_pauses_the_run_for_a_person_once_what_runs_is_done() {
    let plan = plan_of(
        json!([with(http("a"), "on_error", json!("pause")), http("b"), http("c")]),
        json!([edge("b", "c")]),
    );
    let error = failure(ErrorKind::Permanent);
    let then = plan.after_failure(&"a".into(), Attempt(1), &error, at(0), 0.0);
    assert_eq!(then, AfterFailure::Pause);
    let given = Given::running().report(1, [start("a"), start("b"), fail("a", then)]);
    assert_eq!(given.events.last(), Some(&held("a")));
    assert_eq!(given.state().status(), Some(Status::Paused));
    assert_eq!(planned(&given, &plan), [], "the other one finishes");
    let given = given.report(1, [complete("b", json!(1))]);
    assert_eq!(planned(&given, &plan), [Action::LetGo { until: None }]);
    let given = given.report(1, [Step::LetGo]);
    let (reason, held) = (PauseReason::NodeFailed, vec![NodePath::from("a")]);
    assert_eq!(given.state().waits_for(), Some(WaitsFor::Resume { reason, held }));
}

#[test]
fn a_report_that_pauses_may_let_go_in_the_same_append() {
    let given = Given::running().report(1, [start("a")]);
    let events = given.when_reported(1, [fail("a", AfterFailure::Pause), Step::LetGo]);
    let events = events.0.expect("nothing runs any more");
    assert!(matches!(events.last(), Some(ExecutionEvent::ExecutionWaiting(_))), "{events:?}");
}

#[test]
fn a_decision_retries_completes_or_fails_and_the_last_one_lets_the_run_go_on() {
    let given = held_twice();
    let retry = given.when(resolve("a", Resolution::Retry));
    retry.then([node_resolved("a", ResolutionKind::Retry)]);
    let given = given.and(resolve("a", Resolution::Retry));
    let not_held = || ExecutionRejection::NotHeld { path: "a".to_owned() };
    given.when(resolve("a", Resolution::Retry)).rejects(not_held());
    given
        .when(resolve("b", Resolution::Fail))
        .then([node_resolved("b", ResolutionKind::Fail), unpaused()]);
    let output = || json!({"by": "hand"});
    let complete = Resolution::Complete { output: output().into(), port: None };
    let completed = NodeCompleted {
        path: "b".into(),
        attempt: Attempt(1),
        output: NodeOutput::Inline(output().into()),
        port: None,
        duration_ms: 0,
        undoes: None,
    };
    given.when(resolve("b", complete.clone())).then([
        node_resolved("b", ResolutionKind::Complete),
        completed.into(),
        unpaused(),
    ]);
    let plan = plan_of(json!([http("a"), http("b")]), json!([]));
    let dispatch = ExecutionCommand::Dispatch { claim: Claim(2) };
    let again = given.and(resolve("b", complete)).and(dispatch).report(2, []);
    let second = Action::RunNode { path: "a".into(), attempt: Attempt(2) };
    assert_eq!(planned(&again, &plan), [second]);
}

#[test]
fn who_resumes_a_run_has_everything_tried_again_that_waits_for_a_decision() {
    let resume = |reason| ExecutionCommand::Unpause { reason };
    let retried = |path| node_resolved(path, ResolutionKind::Retry);
    held_twice().when(resume(PauseReason::User)).then([retried("a"), retried("b"), unpaused()]);
    held_twice().when(resume(PauseReason::WorkflowPaused)).then_nothing();
    let by_workflow = Given::running()
        .report(1, [start("a")])
        .and(ExecutionCommand::Pause { reason: PauseReason::WorkflowPaused })
        .report(1, [fail("a", AfterFailure::Pause), Step::LetGo]);
    by_workflow.when(resume(PauseReason::WorkflowPaused)).then([unpaused(), held("a")]);
    let decided = by_workflow.and(resolve("a", Resolution::Retry));
    let reason = Some(PauseReason::WorkflowPaused);
    let paused_by = decided.state().waits_for().and_then(|waits_for| match waits_for {
        WaitsFor::Resume { reason, held } if held.is_empty() => Some(reason),
        _ => None,
    });
    assert_eq!(paused_by, reason, "whoever paused it first still holds it");
}

#[test]
fn nothing_begins_behind_a_failure_that_holds_the_run() {
    let given = Given::running().report(1, [start("a")]);
    let contradiction = ExecutionRejection::Contradiction { step: 1, path: "b".to_owned() };
    let held = fail("a", AfterFailure::Pause);
    given.when_reported(1, [held.clone(), start("b")]).rejects(contradiction);
    given.report(
        1,
        [
            start("b"),
            held,
            Step::Complete {
                path: "b".into(),
                attempt: Attempt(1),
                output: NodeOutput::Inline(json!(1).into()),
                port: None,
                variable: None,
                duration_ms: 0,
            },
        ],
    );
}

#[test]
fn a_failure_that_would_hold_a_run_does_not_keep_it_from_being_stopped() {
    let given = Given::running()
        .report(1, [start("a"), start("b")])
        .and(ExecutionCommand::Cancel { reason: CancelReason::StoppedByUser });
    let failed = given.when_reported(1, [fail("a", AfterFailure::Pause)]);
    let failed = failed.0.expect("what ran may still fail");
    assert!(matches!(*failed, [ExecutionEvent::NodeFailed(_)]), "{failed:?}");
    let given = given.report(1, [fail("a", AfterFailure::Pause)]);
    given.when_reported(1, [start("c")]).0.expect_err("nothing begins any more");
    let ended = given.report(1, [Step::Finish(Outcome::Cancelled)]);
    assert_eq!(ended.state().status(), Some(Status::Cancelled));
}

#[test]
fn nobody_decides_about_a_run_that_is_being_stopped_or_has_ended() {
    let cancel = ExecutionCommand::Cancel { reason: CancelReason::StoppedByUser };
    let steps = [start("a"), start("b"), fail("a", AfterFailure::Pause)];
    let stopping = Given::running().report(1, steps).and(cancel.clone());
    stopping.when(resolve("a", Resolution::Retry)).rejects(ExecutionRejection::Cancelling);
    let ended = held_twice().and(cancel);
    let rejection = ExecutionRejection::Ended(Status::Cancelled);
    ended.when(resolve("a", Resolution::Retry)).rejects(rejection);
}

fn child(path: &str, waits: bool) -> ChildRun {
    ChildRun {
        execution_id: RUN.child(&path.into(), Attempt(1)),
        workflow_id: WorkflowId(Uuid::from_u128(8)),
        version: None,
        input: json!({"n": 1}).into(),
        waits,
    }
}

fn start_child(path: &str, waits: bool) -> Step {
    let (input, child) = (json!({}).into(), child(path, waits));
    Step::StartChild { path: path.into(), attempt: Attempt(1), input, child }
}

fn finish_child(path: &str, end: ChildEnd) -> ExecutionCommand {
    let child = RUN.child(&path.into(), Attempt(1));
    ExecutionCommand::FinishChild { path: path.into(), attempt: Attempt(1), child, end }
}

#[test]
fn a_parent_waits_for_its_child_without_a_worker_and_takes_its_output() {
    let node = json!({"id": "sub", "type": "logic.workflow",
        "config": {"workflow_id": Uuid::from_u128(8)}});
    let plan = plan_of(json!([node, http("after")]), json!([edge("sub", "after")]));
    let begin = Action::BeginWait { path: "sub".into(), attempt: Attempt(1) };
    assert_eq!(planned(&Given::running(), &plan), [begin]);
    let given = Given::running().report(1, [start_child("sub", true)]);
    assert_eq!(planned(&given, &plan), [Action::LetGo { until: None }]);
    given.when_reported(1, [start_child("sub", true)]).then_nothing();
    let given = given.report(1, [Step::LetGo]);
    assert!(given.state().awaits_child(&"sub".into(), Attempt(1), child("sub", true).execution_id));
    let waits_for = given.state().waits_for();
    let Some(WaitsFor::Nodes { count: 1, next_due_at: None, first }) = waits_for else {
        panic!("it waits for its child: {waits_for:?}")
    };
    assert_eq!(first[0].awaited, Some(Awaited::Child(child("sub", true).execution_id)));
    let output = NodeOutput::Blob { hash: "ab".repeat(32), size_bytes: 300_000 };
    let end = ChildEnd::Completed { output: output.clone() };
    let given = given.and(finish_child("sub", end.clone()));
    given.when(finish_child("sub", end)).then_nothing();
    let state = given.state();
    let run = state.run().expect("it ran");
    let NodeState::Completed(completed) = &run.nodes["sub"].state else { panic!("{run:?}") };
    assert_eq!(completed.output, output, "passed on unread");
    let given = given.and(ExecutionCommand::Dispatch { claim: Claim(2) }).report(2, []);
    assert_eq!(planned(&given, &plan), [run_of("after")]);
}

fn run_of(path: &str) -> Action {
    run(path)
}

#[test]
fn a_child_that_did_not_end_well_is_a_failure_that_names_it() {
    let ends = [
        (
            ChildEnd::Failed { node: Some("x".into()), error: failure(ErrorKind::Transient) },
            "the child execution failed: it broke",
        ),
        (
            ChildEnd::Cancelled { reason: CancelReason::StoppedByUser },
            "the child execution was cancelled",
        ),
        (
            ChildEnd::Refused { reason: "it is archived".to_owned() },
            "the child execution was refused: it is archived",
        ),
    ];
    let plan = plan_of(json!([http("sub")]), json!([]));
    for (end, message) in ends {
        let given = Given::running()
            .report(1, [start_child("sub", true), Step::LetGo])
            .and(finish_child("sub", end))
            .and(ExecutionCommand::Dispatch { claim: Claim(2) })
            .report(2, []);
        let actions = planned(&given, &plan);
        let [Action::FailNode { error, .. }] = actions.as_slice() else { panic!("{actions:?}") };
        assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Permanent, message));
        let details = error.details.as_ref().expect("it names the child").to_value();
        assert_eq!(details["execution_id"], json!(child("sub", true).execution_id));
    }
}

#[test]
fn a_node_that_does_not_wait_for_its_child_is_done_at_once() {
    let given = Given::running().report(1, [start_child("sub", false)]);
    let plan = plan_of(json!([http("sub")]), json!([]));
    let named = json!({"execution_id": child("sub", false).execution_id});
    assert_eq!(planned(&given, &plan), finished(named));
    let end = ChildEnd::Completed { output: NodeOutput::Inline(Json::null()) };
    given.when(finish_child("sub", end)).then_nothing();
}

#[test]
fn each_try_of_a_node_has_a_child_of_its_own_for_ever() {
    let id = |path: &str, attempt| RUN.child(&path.into(), Attempt(attempt));
    assert_eq!(id("a", 1), id("a", 1));
    assert_ne!(id("a", 1), id("a", 2));
    assert_ne!(id("a", 1), id("each[0]/a", 1));
    assert_ne!(RUN.of_failure(), id("a", 1));
}
