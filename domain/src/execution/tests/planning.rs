//! What is planned for a graph, step by step.

use super::*;

pub(super) fn http(id: &str) -> Value {
    json!({"id": id, "type": "action.http", "config": {"method": "GET", "url": "https://a.test"}})
}

fn post(id: &str) -> Value {
    json!({"id": id, "type": "action.http", "config": {"method": "POST", "url": "https://a.test"}})
}

pub(super) fn transform(id: &str) -> Value {
    json!({"id": id, "type": "logic.transform", "config": {"expression": "1"}})
}

fn each(id: &str, concurrency: u32, nodes: Value) -> Value {
    let config = json!({"items": "input", "concurrency": concurrency, "nodes": nodes,
        "connections": []});
    json!({"id": id, "type": "logic.for_each", "config": config})
}

pub(super) fn with(mut node: Value, field: &str, value: Value) -> Value {
    node[field] = value;
    node
}

pub(super) fn edge(from: &str, to: &str) -> Value {
    json!({"from": from, "to": to})
}

pub(super) fn edge_by(from: &str, port: &str, to: &str) -> Value {
    json!({"from": from, "port": port, "to": to})
}

pub(super) fn run(path: &str) -> Action {
    Action::RunNode { path: path.into(), attempt: Attempt(1) }
}

pub(super) fn evaluate(path: &str) -> Action {
    Action::EvaluateInline { path: path.into(), attempt: Attempt(1) }
}

pub(super) fn skip(path: &str) -> Action {
    Action::SkipNode { path: path.into(), reason: SkipReason::BranchNotTaken }
}

pub(super) fn by_port(path: &str, port: &str) -> Step {
    Step::Complete {
        path: path.into(),
        attempt: Attempt(1),
        output: NodeOutput::Inline(Json::null()),
        port: Some(port.to_owned()),
        variable: None,
        duration_ms: 0,
    }
}

pub(super) fn skipped(path: &str) -> Step {
    Step::Skip { path: path.into(), reason: SkipReason::BranchNotTaken }
}

pub(super) fn open_loop(path: &str, items: usize) -> Step {
    Step::OpenLoop { path: path.into(), attempt: Attempt(1), items: vec![json!(0).into(); items] }
}

pub(super) fn planned(given: &Given, plan: &Arc<Plan>) -> Vec<Action> {
    next(&given.state(), plan)
}

pub(super) fn finished(output: Value) -> Vec<Action> {
    vec![Action::Finish(Ending::Completed(Gather::One(NodeOutput::Inline(output.into()))))]
}

#[test]
fn nothing_is_planned_without_a_worker() {
    let plan = plan_of(json!([http("a")]), json!([]));
    assert_eq!(planned(&Given::requested(None), &plan), []);
    assert_eq!(planned(&Given::running(), &plan), [run("a")]);
}

#[test]
fn a_node_waits_for_all_that_lead_to_it() {
    let nodes = json!([http("a"), http("b"), transform("both")]);
    let plan = plan_of(nodes, json!([edge("a", "both"), edge("b", "both")]));
    let given = Given::running();
    assert_eq!(planned(&given, &plan), [run("a"), run("b")]);
    let given = given.report(1, [start("a"), start("b"), complete("a", json!(1))]);
    assert_eq!(planned(&given, &plan), []);
    let given = given.report(1, [complete("b", json!(2))]);
    assert_eq!(planned(&given, &plan), [evaluate("both")]);
    let given = given.report(1, [complete("both", json!(3))]);
    assert_eq!(planned(&given, &plan), finished(json!(3)));
}

#[test]
fn a_branch_that_is_not_taken_is_skipped_and_counts_as_arrived() {
    let choice = json!({"id": "if", "type": "logic.if", "config": {"condition": "true"}});
    let nodes = json!([choice, http("yes"), http("no"), http("after_no"), http("join")]);
    let connections = json!([
        edge_by("if", "true", "yes"),
        edge_by("if", "false", "no"),
        edge("no", "after_no"),
        edge("yes", "join"),
        edge("after_no", "join"),
    ]);
    let plan = plan_of(nodes, connections);
    let given = Given::running().report(1, [by_port("if", "true")]);
    assert_eq!(planned(&given, &plan), [skip("no"), run("yes")]);
    let given = given.report(1, [skipped("no")]);
    assert_eq!(planned(&given, &plan), [skip("after_no"), run("yes")]);
    let given = given.report(1, [skipped("after_no"), start("yes"), complete("yes", json!(1))]);
    assert_eq!(planned(&given, &plan), [run("join")]);
}

#[test]
fn several_leaves_give_an_object_without_the_skipped_ones() {
    let choice = json!({"id": "if", "type": "logic.if", "config": {"condition": "true"}});
    let nodes = json!([choice, transform("yes"), transform("no"), transform("beside")]);
    let plan = plan_of(nodes, json!([edge_by("if", "true", "yes"), edge_by("if", "false", "no")]));
    let steps = [
        by_port("if", "true"),
        skipped("no"),
        complete("yes", json!(1)),
        complete("beside", json!({"b": 2})),
    ];
    let actions = planned(&Given::running().report(1, steps), &plan);
    let [Action::Finish(Ending::Completed(gather))] = actions.as_slice() else {
        panic!("it is over: {actions:?}")
    };
    assert_eq!(gather.as_is(), None);
    let output = gather.to_json(&Default::default()).expect("no blob is needed");
    assert_eq!(output.to_value(), json!({"yes": 1, "beside": {"b": 2}}));
}

#[test]
fn no_more_than_the_parallelism_run_at_once() {
    let nodes: Vec<Value> = (0..20).map(|index| http(&format!("n{index}"))).collect();
    let plan = plan_of(json!(nodes), json!([]));
    let actions = planned(&Given::running(), &plan);
    assert_eq!(actions.len(), 8);
    let given = Given::running().report(1, [start("n0"), start("n1"), complete("n0", json!(0))]);
    assert_eq!(planned(&given, &plan).len(), 7);
}

#[test]
fn on_a_failure_nothing_new_starts_and_running_steps_finish() {
    let nodes = json!([http("bad"), http("slow"), http("after")]);
    let plan = plan_of(nodes, json!([edge("slow", "after")]));
    let given =
        Given::running().report(1, [start("bad"), start("slow"), fail("bad", AfterFailure::Stop)]);
    assert_eq!(planned(&given, &plan), []);
    let given = given.report(1, [complete("slow", json!(1))]);
    let (node, error) = (Some("bad".into()), failure(ErrorKind::Transient));
    assert_eq!(planned(&given, &plan), [Action::Finish(Ending::Failed { node, error })]);
}

#[test]
fn a_failure_is_repeated_caught_or_final_as_its_node_says() {
    let nodes = json!([
        http("usual"),
        with(http("go"), "on_error", json!({"action": "continue", "value": 7})),
        with(http("branch"), "on_error", json!("branch")),
        each("each", 1, json!([with(http("inner"), "retry", json!({"max_retries": 0}))])),
    ]);
    let plan = plan_of(nodes, json!([]));
    let after = |path: &str, attempt, kind| {
        plan.after_failure(&path.into(), Attempt(attempt), &failure(kind), at(0), 0.0)
    };
    let (transient, permanent) = (ErrorKind::Transient, ErrorKind::Permanent);
    assert_eq!(after("usual", 1, transient), AfterFailure::Retry { at: at(5) });
    assert_eq!(after("usual", 4, transient), AfterFailure::Stop);
    assert_eq!(after("usual", 1, permanent), AfterFailure::Stop);
    let output = NodeOutput::Inline(json!(7).into());
    assert_eq!(after("go", 1, permanent), AfterFailure::Continue { output, port: None });
    let AfterFailure::Continue { output: NodeOutput::Inline(output), port } =
        after("branch", 1, permanent)
    else {
        panic!("the error branch is taken")
    };
    assert_eq!(port.as_deref(), Some("error"));
    assert_eq!(output.to_value(), json!({"kind": "permanent", "message": "it broke"}));
    assert_eq!(after("each[2]/inner", 1, transient), AfterFailure::Stop);
    assert_eq!(after("each", 1, transient), AfterFailure::Stop);
}

#[test]
fn after_a_crash_only_what_does_no_harm_begins_again() {
    let plan = plan_of(json!([http("read"), post("write")]), json!([]));
    let given = Given::running()
        .report(1, [start("read"), start("write")])
        .and(ExecutionCommand::Redispatch { claim: Claim(1) })
        .report(2, []);
    let actions = planned(&given, &plan);
    assert_eq!(actions[0], run("read"));
    let Action::FailNode { path, attempt, error, .. } = &actions[1] else { panic!("{actions:?}") };
    assert_eq!((path.as_str(), *attempt), ("write", Attempt(1)));
    assert_eq!(error.kind, ErrorKind::UnknownOutcome);
    let given = given.report(2, [start("read")]);
    assert_eq!(given.state().in_flight().count(), 1);
}

#[test]
fn a_run_that_only_waits_is_let_go_until_its_next_timer() {
    let wait_node =
        |id: &str| json!({"id": id, "type": "logic.wait", "config": {"duration_ms": 60_000}});
    let plan = plan_of(json!([wait_node("long"), wait_node("short"), http("a")]), json!([]));
    let begin = |path: &str| Action::BeginWait { path: path.into(), attempt: Attempt(1) };
    let given = Given::running();
    let actions = planned(&given, &plan);
    assert_eq!(actions.len(), 3);
    assert!(actions.contains(&begin("long")) && actions.contains(&begin("short")));
    let given = given.report(1, [wait("long", 90), wait("short", 30), start("a")]);
    assert_eq!(planned(&given, &plan), []);
    let given = given.report(1, [complete("a", json!(1))]);
    assert_eq!(planned(&given, &plan), [Action::LetGo { until: Some(at(30)) }]);
}

#[test]
fn a_loop_runs_its_body_for_each_item_so_many_at_once() {
    let plan = plan_of(json!([each("each", 2, json!([http("get")]))]), json!([]));
    let given = Given::running();
    let open = Action::OpenLoop { path: "each".into(), attempt: Attempt(1) };
    assert_eq!(planned(&given, &plan), [open]);
    let given = given.report(1, [open_loop("each", 3)]);
    assert_eq!(planned(&given, &plan), [run("each[0]/get"), run("each[1]/get")]);
    let given = given
        .report(1, [start("each[0]/get"), start("each[1]/get")])
        .report(1, [complete("each[1]/get", json!("b"))]);
    assert_eq!(planned(&given, &plan), [run("each[2]/get")]);
    let given = given.report(
        1,
        [
            start("each[2]/get"),
            complete("each[2]/get", json!("c")),
            complete("each[0]/get", json!("a")),
        ],
    );
    let actions = planned(&given, &plan);
    let [Action::CloseLoop { path, output, .. }] = actions.as_slice() else {
        panic!("every item is done: {actions:?}")
    };
    assert_eq!(path.as_str(), "each");
    let list = output.to_json(&Default::default()).expect("no blob is needed");
    assert_eq!(list.as_str(), r#"["a","b","c"]"#);
    let given = given.report(1, [complete("each", list.to_value())]);
    assert_eq!(planned(&given, &plan), finished(json!(["a", "b", "c"])));
}

#[test]
fn a_loop_over_nothing_gives_an_empty_list() {
    let plan = plan_of(json!([each("each", 2, json!([http("get")]))]), json!([]));
    let given = Given::running().report(1, [open_loop("each", 0)]);
    let actions = planned(&given, &plan);
    assert!(matches!(
        actions.as_slice(),
        [Action::CloseLoop { output: Gather::List(items), .. }] if items.is_empty()
    ));
}

#[test]
fn a_failure_in_a_body_fails_the_loop_and_not_what_runs_beside_it() {
    let plan = plan_of(
        json!([each("each", 3, json!([http("get")])), http("beside"), http("after")]),
        json!([edge("beside", "after")]),
    );
    let given = Given::running().report(
        1,
        [
            open_loop("each", 4),
            start("each[0]/get"),
            start("each[1]/get"),
            start("beside"),
            fail("each[0]/get", AfterFailure::Stop),
        ],
    );
    assert_eq!(planned(&given, &plan), [], "the other item finishes first");
    let given = given.report(1, [complete("each[1]/get", json!(1)), complete("beside", json!(1))]);
    let failed = Action::FailNode {
        path: "each".into(),
        attempt: Attempt(1),
        error: failure(ErrorKind::Transient),
        duration_ms: 0,
    };
    assert_eq!(planned(&given, &plan), [failed, run("after")]);
    let output = NodeOutput::Inline(json!("none").into());
    let goes_on = AfterFailure::Continue { output, port: None };
    let given = given.report(1, [fail("each", goes_on)]);
    assert_eq!(planned(&given, &plan), [run("after")]);
}

#[test]
fn a_pause_and_a_cancel_plan_nothing_but_the_end_of_what_runs() {
    let plan = plan_of(json!([http("a"), http("b")]), json!([]));
    let given = Given::running().report(1, [start("a")]);
    let paused = given.clone().and(ExecutionCommand::Pause { reason: PauseReason::User });
    assert_eq!(planned(&paused, &plan), []);
    let paused = paused.report(1, [complete("a", json!(1))]);
    assert_eq!(planned(&paused, &plan), [Action::LetGo { until: None }]);
    let cancel = ExecutionCommand::Cancel { reason: CancelReason::StoppedByUser };
    let cancelled = given.and(cancel);
    let end = Action::Finish(Ending::Cancelled);
    assert_eq!(planned(&cancelled, &plan), [Action::Abort, end]);
}

#[test]
fn a_retry_carries_over_what_does_not_lie_behind_the_failure() {
    let set = json!({"id": "set", "type": "logic.set_variable",
        "config": {"name": "v", "expression": "1"}});
    let nodes = json!([set, http("a"), http("bad"), http("after"), http("c")]);
    let connections = json!([edge("set", "a"), edge("a", "bad"), edge("bad", "after")]);
    let plan = plan_of(nodes, connections);
    let value = NodeOutput::Inline(json!(1).into());
    let set = Step::Complete {
        path: "set".into(),
        attempt: Attempt(1),
        output: value.clone(),
        port: None,
        variable: Some(VariableValue { name: "v".to_owned(), value: json!(1).into() }),
        duration_ms: 0,
    };
    let error = failure(ErrorKind::Transient);
    let failed = Given::running().report(
        1,
        [
            set,
            start("a"),
            start("c"),
            complete("a", json!("A")),
            start("bad"),
            fail("bad", AfterFailure::Stop),
            complete("c", json!("C")),
            Step::Finish(Outcome::Failed { node: Some("bad".into()), error }),
        ],
    );
    let id = crate::id::ExecutionId(Uuid::from_u128(9));
    assert_eq!(
        retry_of(id, &Given::running().state(), &plan, None),
        Err(ExecutionRejection::NothingToRetry)
    );
    let mut retry = retry_of(id, &failed.state(), &plan, None).expect("it failed");
    let origin = retry.origin.clone().expect("it names its origin");
    let mut paths: Vec<&str> = origin.carried.iter().map(|node| node.path.as_str()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["a", "c", "set"]);
    retry.shrink_carried(4, |value| NodeOutput::Blob {
        hash: format!("hash of {value:?}"),
        size_bytes: 3,
    });
    let request = ExecutionCommand::Request(Box::new(retry));
    let again = Given::default().and(request).report(1, []);
    assert_eq!(planned(&again, &plan), [run("bad")]);
    let state = again.state();
    let path = NodePath::from("bad");
    let scope = state.run().expect("it runs").scope(&path);
    assert_eq!(scope.variables().count(), 1);
    let blobs = scope.blobs(&["a".to_owned(), "c".to_owned(), "set".to_owned()]);
    assert_eq!(blobs.len(), 1, "the two largest would do, one is enough");

    let rerun = rerun_of(id, &failed.state(), None).expect("it was requested");
    let again = Given::default().and(ExecutionCommand::Request(Box::new(rerun))).report(1, []);
    assert_eq!(planned(&again, &plan).len(), 2, "everything again");
}

#[test]
fn a_long_chain_is_planned_in_small_steps() {
    const NODES: usize = 10_000;
    let nodes: Vec<Value> = (0..NODES).map(|index| transform(&format!("n{index}"))).collect();
    let connections: Vec<Value> =
        (1..NODES).map(|index| edge(&format!("n{}", index - 1), &format!("n{index}"))).collect();
    let plan = plan_of(json!(nodes), json!(connections));
    let mut planner = Planner::new(Arc::clone(&plan));
    let mut execution = Given::running().state();
    for index in 0..NODES {
        let path = format!("n{index}");
        assert_eq!(planner.next(&execution), [evaluate(&path)]);
        execution = execution.evolve(&node_completed(&path, json!(index)));
    }
    assert_eq!(planner.next(&execution), finished(json!(NODES - 1)));
    assert_eq!(next(&execution, &plan), finished(json!(NODES - 1)));
}

fn trigger(id: &str, kind: &str, config: Value) -> Value {
    json!({"id": id, "type": format!("trigger.{kind}"), "config": config})
}

/// A run that this trigger node started.
fn started_by(node: Option<&str>) -> Given {
    let trigger_node = node.map(str::to_owned);
    let request = RequestExecution { trigger_node, ..request(None) };
    Given::default().and(ExecutionCommand::Request(Box::new(request))).report(1, [])
}

#[test]
fn a_run_begins_at_the_trigger_that_started_it() {
    let nodes = json!([
        trigger("hand", "manual", json!({})),
        trigger("clock", "cron", json!({"cron": "0 8 * * *"})),
        trigger("hook", "webhook", json!({})),
        transform("both"),
    ]);
    let edges = json!([edge("hand", "both"), edge("clock", "both")]);
    let plan = plan_of(nodes, edges);
    let by = |node| planned(&started_by(node), &plan);
    assert_eq!(by(Some("clock")), [skip("hand"), skip("hook"), evaluate("clock")]);
    assert_eq!(by(Some("hook")), [skip("hand"), skip("clock"), evaluate("hook")]);
    assert_eq!(by(None), [skip("clock"), skip("hook"), evaluate("hand")]);
    // One that was there when it was published and is no more: then the run is as if begun by hand.
    assert_eq!(by(Some("gone")), [skip("clock"), skip("hook"), evaluate("hand")]);
}

#[test]
fn without_one_for_people_a_run_by_hand_begins_at_every_trigger() {
    let nodes = json!([
        trigger("clock", "cron", json!({"cron": "0 8 * * *"})),
        trigger("hook", "webhook", json!({})),
    ]);
    let plan = plan_of(nodes, json!([]));
    assert_eq!(planned(&started_by(None), &plan), [evaluate("clock"), evaluate("hook")]);
}
