//! What a worker reports.

use super::*;

fn contradiction(step: usize, path: &str) -> ExecutionRejection {
    ExecutionRejection::Contradiction { step, path: path.to_owned() }
}

#[test]
fn the_first_report_takes_the_claim() {
    let started = ExecutionStarted { worker: WORKER.to_owned(), claim: Claim(1) };
    Given::requested(None)
        .when_reported(1, [start("fetch")])
        .then([started.into(), node_started("fetch")]);
    Given::running().when_reported(1, []).then_nothing();
    let resumed = ExecutionResumed { worker: WORKER.to_owned(), claim: Claim(2) };
    let wait = ExecutionCommand::FireTimer {
        path: "pause".into(),
        attempt: Attempt(1),
        kind: TimerKind::Wait,
    };
    let handed_out = ExecutionCommand::Dispatch { claim: Claim(2) };
    Given::waiting(None).and(wait).and(handed_out).when_reported(2, []).then([resumed.into()]);
}

#[test]
fn only_the_worker_of_the_newest_claim_reports() {
    let given = Given::running();
    let lost = |reported, newest| ExecutionRejection::ClaimLost { reported, newest };
    given.when_reported(2, []).rejects(lost(2, 1));
    let other = ExecutionCommand::Report(Report {
        worker: "worker-2".to_owned(),
        claim: Claim(1),
        interventions: 0,
        steps: Vec::new(),
    });
    given.when(other).rejects(lost(1, 1));
    let replaced = given.and(ExecutionCommand::Redispatch { claim: Claim(1) });
    replaced.when_reported(1, []).rejects(lost(1, 2));
}

#[test]
fn an_outcome_and_the_next_start_are_one_append() {
    Given::running()
        .report(1, [start("fetch")])
        .when_reported(1, [complete("fetch", json!(1)), complete("map", json!(2)), start("store")])
        .then([
            node_completed("fetch", json!(1)),
            node_completed("map", json!(2)),
            node_started("store"),
        ]);
}

#[test]
fn a_report_that_was_planned_before_an_intervention_is_refused() {
    let given = Given::running().report(1, [start("fetch")]);
    let stale = report(&given.state(), 1, [complete("fetch", json!(1)), start("store")]);
    let paused = given.and(ExecutionCommand::Pause { reason: PauseReason::User });
    paused.when(stale).rejects(ExecutionRejection::Overtaken);
    paused
        .when_reported(1, [complete("fetch", json!(1))])
        .then([node_completed("fetch", json!(1))]);
    paused
        .when_reported(1, [complete("fetch", json!(1)), start("store")])
        .rejects(contradiction(1, "store"));
}

#[test]
fn a_repeated_report_gives_no_events() {
    let steps = [
        start("fetch"),
        complete("fetch", json!(1)),
        wait("pause", 60),
        fail("load", AfterFailure::Retry { at: at(9) }),
        Step::Skip { path: "off".into(), reason: SkipReason::BranchNotTaken },
        Step::OpenLoop { path: "each".into(), attempt: Attempt(1), items: vec![Json::null()] },
    ];
    Given::running().report(1, steps.clone()).when_reported(1, steps).then_nothing();
}

#[test]
fn a_failed_try_is_repeated_when_its_time_comes() {
    let given = Given::running().report(1, [start("fetch")]);
    let at_9 = AfterFailure::Retry { at: at(9) };
    let failed = |retry_at| NodeFailed {
        path: "fetch".into(),
        attempt: Attempt(1),
        error: failure(ErrorKind::Transient),
        duration_ms: 5,
        retry_at,
    };
    let timer = TimerSet {
        path: "fetch".into(),
        attempt: Attempt(1),
        kind: TimerKind::Retry,
        set_at: at(100),
        due_at: at(9),
    };
    given
        .when_reported(1, [fail("fetch", at_9.clone())])
        .then([failed(Some(at(9))).into(), timer.into()]);
    let fire = ExecutionCommand::FireTimer {
        path: "fetch".into(),
        attempt: Attempt(1),
        kind: TimerKind::Retry,
    };
    let again = given.report(1, [fail("fetch", at_9)]).and(fire);
    again.when_reported(1, [start("fetch")]).rejects(contradiction(0, "fetch"));
    let (input, secrets) = (json!({}).into(), Vec::new());
    let second = Step::Start { path: "fetch".into(), attempt: Attempt(2), input, secrets };
    assert_eq!(again.report(1, [second]).state().in_flight().count(), 1);
}

#[test]
fn a_failure_that_the_run_goes_on_from_leaves_its_trace() {
    let output = NodeOutput::Inline(json!("instead").into());
    let port = Some("error".to_owned());
    let goes_on = AfterFailure::Continue { output: output.clone(), port: port.clone() };
    let given = Given::running().report(1, [start("fetch"), fail("fetch", goes_on)]);
    let [.., failed, completed] = given.events.as_slice() else { panic!("too few events") };
    assert!(matches!(failed, ExecutionEvent::NodeFailed(event) if event.retry_at.is_none()));
    assert!(matches!(
        completed,
        ExecutionEvent::NodeCompleted(event) if event.output == output && event.port == port
    ));
    let done = Outcome::Completed { output };
    assert!(given.when_reported(1, [Step::Finish(done)]).0.is_ok());
}

#[test]
fn a_variable_is_set_with_the_outcome_of_its_node() {
    let step = Step::Complete {
        path: "set".into(),
        attempt: Attempt(1),
        output: NodeOutput::Inline(json!(7).into()),
        port: None,
        variable: Some(VariableValue { name: "total".to_owned(), value: json!(7).into() }),
        duration_ms: 0,
    };
    let state = Given::running().report(1, [step]).state();
    let run = state.run().expect("it runs");
    let path = NodePath::from("next");
    let scope = run.scope(&path).to_scope(&["set".to_owned()], &Default::default());
    assert_eq!(scope.vars["total"], json!(7).into());
    assert_eq!(scope.nodes["set"], json!(7).into());
    assert_eq!(scope.input, json!({"a": 1}).into());
}

#[test]
fn a_worker_lets_go_only_when_there_is_nothing_to_do_but_wait() {
    let nothing = Given::running();
    nothing.when_reported(1, [Step::LetGo]).rejects(contradiction(0, ""));
    let runs = nothing.clone().report(1, [start("fetch"), wait("pause", 60)]);
    runs.when_reported(1, [Step::LetGo]).rejects(contradiction(0, ""));
    runs.when_reported(1, [complete("fetch", json!(1)), Step::LetGo])
        .then([node_completed("fetch", json!(1)), ExecutionWaiting { claim: Claim(1) }.into()]);
}

#[test]
fn a_run_completes_only_when_every_node_has_ended() {
    let done = Step::Finish(Outcome::Completed { output: NodeOutput::Inline(Json::null()) });
    let runs = Given::running().report(1, [start("fetch")]);
    runs.when_reported(1, [done.clone()]).rejects(contradiction(0, ""));
    Given::waiting(None)
        .and(ExecutionCommand::Unpause { reason: PauseReason::User })
        .when_reported(1, [done.clone()])
        .rejects(ExecutionRejection::ClaimLost { reported: 1, newest: 1 });
    runs.when_reported(1, [Step::Finish(Outcome::Cancelled)]).rejects(contradiction(0, ""));
    let ended = runs.report(1, [complete("fetch", json!(1)), done]);
    assert_eq!(ended.state().status(), Some(Status::Completed));
}

#[test]
fn a_loop_is_not_repeated_and_what_is_left_in_its_body_goes_with_it() {
    let items = vec![json!(1).into(), json!(2).into()];
    let open = Step::OpenLoop { path: "each".into(), attempt: Attempt(1), items };
    let given = Given::running().report(1, [open, wait("each[0]/pause", 60)]);
    given
        .when_reported(1, [fail("each", AfterFailure::Retry { at: at(1) })])
        .rejects(contradiction(0, "each"));
    let output = NodeOutput::Inline(Json::null());
    let goes_on = AfterFailure::Continue { output: output.clone(), port: None };
    let done = Step::Finish(Outcome::Completed { output });
    let ended = given.report(1, [fail("each", goes_on), done]);
    assert_eq!(ended.state().status(), Some(Status::Completed));
}

#[test]
fn the_values_of_a_loop_are_found_from_the_inside_out() {
    let items = vec![json!("a").into(), json!("b").into()];
    let open = Step::OpenLoop { path: "each".into(), attempt: Attempt(1), items };
    let steps = [complete("fetch", json!(1)), open, complete("each[1]/inner", json!(2))];
    let state = Given::running().report(1, steps).state();
    let run = state.run().expect("it runs");
    let path = NodePath::from("each[1]/last");
    let ids = ["fetch".to_owned(), "inner".to_owned(), "each".to_owned()];
    let scope = run.scope(&path).to_scope(&ids, &Default::default());
    assert_eq!(scope.item, Some(json!("b").into()));
    assert_eq!(scope.index, Some(1));
    assert_eq!(
        scope.nodes.into_iter().collect::<Vec<_>>(),
        [("fetch".to_owned(), json!(1).into()), ("inner".to_owned(), json!(2).into()),]
    );
}

#[test]
fn what_a_try_used_is_recorded_with_its_outcome_and_once() {
    let used = |cost_microusd| ProviderUse {
        provider: "provider".to_owned(),
        model: "model".to_owned(),
        usage: Usage { input_tokens: 100, output_tokens: 20, cost_microusd },
    };
    let uses = |attempt, cost| Step::Use {
        path: "ask".into(),
        attempt: Attempt(attempt),
        used: used(cost),
    };
    let given = Given::running().report(1, [start("ask")]);
    let failed = [uses(1, 7), uses(1, 8), fail("ask", AfterFailure::Retry { at: at(9) })];
    let recorded = |cost_microusd| UsageRecorded {
        path: "ask".into(),
        attempt: Attempt(1),
        provider: "provider".to_owned(),
        model: "model".to_owned(),
        input_tokens: 100,
        output_tokens: 20,
        cost_microusd,
    };
    let events = given.when_reported(1, failed.clone()).0.expect("it is accepted");
    assert_eq!(events[..2], [recorded(7).into(), recorded(8).into()], "a failed try was paid too");
    let after = given.clone().report(1, failed.clone());
    let usage = Usage { input_tokens: 200, output_tokens: 40, cost_microusd: 15 };
    assert_eq!(after.state().run().expect("it ran").usage, usage);
    after.when_reported(1, failed).then_nothing();
    given.when_reported(1, [uses(2, 1)]).rejects(contradiction(0, "ask"));
    Given::running().when_reported(1, [uses(1, 1)]).rejects(contradiction(0, "ask"));
}
