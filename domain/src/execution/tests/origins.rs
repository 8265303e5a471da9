//! Executions that are made from others: what is taken over, and what is refused with its reasons.

use super::{planning::*, *};
use crate::id::ExecutionId;

fn id() -> ExecutionId {
    ExecutionId(Uuid::from_u128(9))
}

fn same(graph: &Graph) -> Versions<'_> {
    Versions { ran: graph, runs: graph, same: true }
}

fn carried(request: &RequestExecution) -> Vec<&str> {
    let origin = request.origin.as_ref().expect("it names its origin");
    origin.carried.iter().map(|node| node.path.as_str()).collect()
}

fn refused(node: &str, reason: NotCarriedReason) -> NotCarried {
    NotCarried { node: node.to_owned(), reason }
}

/// `a` → `b` → `c`, and `d` beside them.
fn chain() -> Graph {
    graph_of(
        json!([http("a"), http("b"), http("c"), http("d")]),
        json!([edge("a", "b"), edge("b", "c")]),
    )
}

fn done(names: &[&str]) -> Execution {
    let steps = names.iter().flat_map(|name| [start(name), complete(name, json!(*name))]);
    Given::running().report(1, steps.collect::<Vec<_>>()).state()
}

#[test]
fn a_rerun_takes_over_what_is_before_and_beside() {
    let graph = chain();
    let ran = done(&["a", "b", "c", "d"]);
    let request = rerun_from(id(), &ran, same(&graph), "b", None).expect("all of it was done");
    assert_eq!(carried(&request), ["a", "d"]);
    let origin = request.origin.as_ref().expect("it names its origin");
    assert_eq!((origin.kind, origin.from_node.clone()), (OriginKind::Rerun, Some("b".into())));
    let first = rerun_from(id(), &ran, same(&graph), "a", None).expect("nothing is before it");
    assert_eq!(carried(&first), ["d"]);
}

#[test]
fn signals_that_nobody_had_waited_for_go_with_a_retry_and_a_fork() {
    let graph = chain();
    let signal = |name: &str, size: usize| ExecutionCommand::Signal {
        name: name.to_owned(),
        payload: json!("x".repeat(size)).into(),
    };
    let given = Given::running().and(signal("go", 1)).and(signal("stop", 2));
    let given = given.report(1, [start("a"), fail("a", AfterFailure::Stop)]);
    let fork = fork_of(id(), 4, &given.state(), same(&graph), None).expect("it is open");
    let error = failure(ErrorKind::Transient);
    let finish = Step::Finish(Outcome::Failed { node: Some("a".into()), error });
    let ended = given.report(1, [finish]).state();
    let retry = retry_of(id(), &ended, &Plan::of(&graph), None).expect("it failed");
    for request in [fork, retry] {
        let again = Given::default().and(ExecutionCommand::Request(Box::new(request)));
        let run = again.state();
        let kept = run.run().expect("it was requested").signals.iter();
        let kept: Vec<(&str, usize)> =
            kept.map(|kept| (kept.name.as_str(), kept.payload.as_str().len())).collect();
        assert_eq!(kept, [("go", 3), ("stop", 4)], "in the order in which they came");
    }

    // More than the first event holds follows in events of its own.
    let mut large = Given::running();
    for _ in 0..10 {
        large = large.and(signal("big", 60_000));
    }
    let fork = fork_of(id(), 14, &large.state(), same(&graph), None).expect("it is open");
    let again = Given::default().and(ExecutionCommand::Request(Box::new(fork)));
    let carried =
        again.events.iter().filter(|event| matches!(event, ExecutionEvent::NodesCarried(_)));
    assert_eq!(carried.count(), 3);
    assert_eq!(again.state().run().expect("it was requested").signals.len(), 10);
}

#[test]
fn a_rerun_names_what_is_missing_before_it() {
    let graph = chain();
    let ran = done(&["a"]);
    let refusal = rerun_from(id(), &ran, same(&graph), "c", None).unwrap_err();
    let expected = vec![refused("b", NotCarriedReason::NotSettled)];
    assert_eq!(refusal, ExecutionRejection::NotCarried(expected));
    assert!(refusal.to_string().contains("`b` had not come to its end"), "{refusal}");
    let nowhere = rerun_from(id(), &ran, same(&graph), "each[0]/x", None).unwrap_err();
    assert_eq!(nowhere, ExecutionRejection::NoSuchNode("each[0]/x".to_owned()));
}

#[test]
fn another_version_must_be_the_same_before_the_node() {
    let before = chain();
    let ran = done(&["a", "b", "c", "d"]);
    let other = |nodes, connections| graph_of(nodes, connections);
    let check = |graph: &Graph, node: &str| {
        let versions = Versions { ran: &before, runs: graph, same: false };
        rerun_from(id(), &ran, versions, node, None)
    };
    // What follows on the node may be anything, and so may what is beside it.
    let changed = other(
        json!([http("a"), http("b"), transform("c"), transform("d"), http("e")]),
        json!([edge("a", "b"), edge("b", "c"), edge("c", "e")]),
    );
    let request = check(&changed, "c").expect("a and b are the same");
    assert_eq!(carried(&request), ["a", "b"], "d does something else now, so it runs again");
    let changed = other(
        json!([transform("a"), http("b"), http("c"), http("new")]),
        json!([edge("a", "b"), edge("b", "c"), edge("new", "b")]),
    );
    let expected = vec![
        refused("a", NotCarriedReason::Differs),
        refused("b", NotCarriedReason::Differs),
        refused("new", NotCarriedReason::Absent),
    ];
    let Err(ExecutionRejection::NotCarried(mut nodes)) = check(&changed, "c") else {
        panic!("nothing before it is the same")
    };
    nodes.sort_by(|a, b| a.node.cmp(&b.node));
    assert_eq!(nodes, expected);
    let versions = Versions { ran: &before, runs: &changed, same: false };
    let fork = fork_of(id(), 7, &ran, versions, None).unwrap_err();
    let ExecutionRejection::NotCarried(nodes) = fork else { panic!("{fork}") };
    assert_eq!(nodes.len(), 3, "a, b and d were done: {nodes:?}");
}

#[test]
fn a_fork_in_the_middle_of_a_loop_keeps_the_items_that_were_done() {
    let each = json!({"id": "each", "type": "logic.for_each", "config": {
        "items": "input", "concurrency": 1, "nodes": [http("in")], "connections": []}});
    let graph = graph_of(json!([each]), json!([]));
    let plan = Plan::of(&graph);
    let items = vec![json!("x").into(), json!("y").into(), json!("z").into()];
    let open = Step::OpenLoop { path: "each".into(), attempt: Attempt(1), items };
    let given = Given::running().report(
        1,
        [open, start("each[0]/in"), complete("each[0]/in", json!(1)), start("each[1]/in")],
    );
    let version = given.events.len() as i64;
    let fork = fork_of(id(), version, &given.state(), same(&graph), None).expect("it is open");
    assert_eq!(carried(&fork), ["each", "each[0]/in"]);
    assert_eq!(fork.origin.as_ref().and_then(|origin| origin.at_version), Some(version));
    let again = Given::default().and(ExecutionCommand::Request(Box::new(fork))).report(1, []);
    assert_eq!(planned(&again, &plan), [run("each[1]/in")]);
    let state = again.state();
    let path = NodePath::from("each[1]/in");
    let scope = state.run().expect("it runs").scope(&path);
    assert_eq!(scope.item(), Some(&json!("y").into()));
}

#[test]
fn what_is_too_much_for_one_event_follows_in_others() {
    let graph = chain();
    let text = "x".repeat(200 * 1024);
    let steps = ["a", "b", "c", "d"].map(|name| [start(name), complete(name, json!(text))]);
    let failed = failure(ErrorKind::Permanent);
    let ended = Step::Finish(Outcome::Failed { node: None, error: failed });
    let given = Given::running().report(1, steps.into_iter().flatten().chain([ended]));
    let fork = fork_of(id(), 9, &given.state(), same(&graph), None).expect("it failed");
    let again = Given::default().and(ExecutionCommand::Request(Box::new(fork)));
    let sizes: Vec<(&str, usize)> = again
        .events
        .iter()
        .map(|event| {
            use crate::event::DomainEvent as _;
            (event.type_name(), event.payload().len())
        })
        .collect();
    let words: Vec<&str> = sizes.iter().map(|(word, _)| *word).collect();
    assert_eq!(words[0], "execution_requested");
    assert_eq!(words.iter().filter(|word| **word == "nodes_carried").count(), 4);
    assert!(sizes.iter().all(|(_, size)| *size < 512 * 1024), "{sizes:?}");
    let run = again.state();
    assert_eq!(run.run().expect("it was requested").finished_nodes(), 4);
}

#[test]
fn a_variable_is_as_it_stood_before_the_node() {
    let set = |name: &str, value: &str| json!({"id": name, "type": "logic.set_variable", "config": {"name": "v", "expression": value}});
    let graph = graph_of(
        json!([set("first", "1"), http("b"), set("second", "2")]),
        json!([edge("first", "b"), edge("b", "second")]),
    );
    let setting = |name: &str, value: i32| Step::Complete {
        path: name.into(),
        attempt: Attempt(1),
        output: NodeOutput::Inline(json!(value).into()),
        port: None,
        variable: Some(VariableValue { name: "v".to_owned(), value: json!(value).into() }),
        duration_ms: 0,
    };
    let ran = Given::running()
        .report(1, [setting("first", 1), start("b"), complete("b", json!(0)), setting("second", 2)])
        .state();
    let request = rerun_from(id(), &ran, same(&graph), "b", None).expect("first was done");
    let origin = request.origin.expect("it names its origin");
    let value = origin.variables.iter().map(|variable| variable.value.as_str());
    assert_eq!(value.collect::<Vec<_>>(), ["1"], "as it was for b, and not as second left it");
}

#[test]
fn an_edit_changes_fields_of_one_node() {
    let definition = json!({"nodes": [http("a")], "connections": []});
    let edit = json!({"url": "https://other.test"}).into();
    let edited = Graph::parse_edited(&definition, [("a", &edit)]).expect("it is sound");
    assert_ne!(edited, Graph::parse(&definition).expect("it is sound"));
    let wrong = json!({"method": "EAT"}).into();
    let problems = Graph::parse_edited(&definition, [("a", &wrong)]).unwrap_err();
    assert!(problems[0].field.ends_with("/config/method"), "{problems:?}");
}
