//! A run that undoes what it did: when it turns back, in which order, and what it says of what it could not undo.

use super::*;

/// `a` and `b` with an undo each, then `c`; the trip with its undo in a loop beside them.
fn plan() -> Arc<Plan> {
    let http = |id: &str, undo: Option<&str>| {
        let config = json!({"method": "POST", "url": "https://a.test"});
        json!({"id": id, "type": "action.http", "config": config, "undo": undo,
            "retry": {"max_retries": 1, "backoff_ms": [1_000]}})
    };
    plan_of(
        json!([
            http("a", Some("undo_a")),
            http("b", Some("undo_b")),
            http("c", None),
            http("undo_a", None),
            http("undo_b", None),
            {"id": "each", "type": "logic.for_each", "config": {"items": "input",
                "nodes": [http("trip", Some("undo_trip")), http("undo_trip", None)]}},
        ]),
        json!([{"from": "a", "to": "b"}, {"from": "b", "to": "c"}]),
    )
}

fn undoes() -> BTreeMap<String, String> {
    ["a", "b", "trip"].map(|id| (id.to_owned(), format!("undo_{id}"))).into()
}

fn requested(request: RequestExecution) -> Given {
    let request = RequestExecution { undoes: undoes(), ..request };
    Given::default().and(ExecutionCommand::Request(Box::new(request)))
}

fn done(path: &str) -> [Step; 2] {
    [start(path), complete(path, json!(path))]
}

/// `a` and then `b` are done, and `c` runs.
fn given() -> Given {
    let steps = done("a").into_iter().chain(done("b")).chain([start("c")]);
    requested(request(None)).report(1, steps)
}

/// The same, and `c` has failed for good.
fn failed() -> Given {
    given().report(1, [fail("c", AfterFailure::Stop)])
}

fn finish_failed() -> Step {
    let error = failure(ErrorKind::Transient);
    Step::Finish(Outcome::Failed { node: Some("c".into()), error })
}

fn because_failed() -> EndCause {
    EndCause::Failed { node: Some("c".into()), error: failure(ErrorKind::Transient) }
}

fn because_cancelled() -> EndCause {
    EndCause::Cancelled { reason: CancelReason::StoppedByUser }
}

fn turned(because: EndCause, undoes: u32) -> ExecutionEvent {
    CompensationStarted { because, undoes }.into()
}

fn undo_started(node: &str) -> ExecutionEvent {
    let path = format!("undo_{node}");
    let ExecutionEvent::NodeStarted(event) = node_started(&path) else { panic!("it is one") };
    NodeStarted { undoes: Some(node.into()), ..event }.into()
}

fn undo_completed(node: &str) -> ExecutionEvent {
    let path = format!("undo_{node}");
    let event = node_completed(&path, json!(path));
    let ExecutionEvent::NodeCompleted(event) = event else { panic!("it is one") };
    NodeCompleted { undoes: Some(node.into()), ..event }.into()
}

fn not_undone(node: &str, error: Option<NodeError>) -> NotUndone {
    NotUndone { node: node.into(), undo: format!("undo_{node}").as_str().into(), error }
}

fn cancel() -> ExecutionCommand {
    ExecutionCommand::Cancel { reason: CancelReason::StoppedByUser }
}

fn cancel_without_undo() -> ExecutionCommand {
    ExecutionCommand::CancelWithoutUndo { reason: CancelReason::StoppedByUser }
}

fn begins(path: &str) -> Vec<Action> {
    vec![Action::RunNode { path: path.into(), attempt: Attempt(1) }]
}

fn undone() -> Step {
    Step::Finish(Outcome::Undone)
}

#[test]
fn a_failure_turns_the_run_back_and_what_completed_last_is_undone_first() {
    failed().when_reported(1, [finish_failed()]).then([turned(because_failed(), 2)]);
    let given = failed().report(1, [finish_failed()]);
    assert_eq!(next(&given.state(), &plan()), begins("undo_b"));
    assert_eq!(given.state().status(), Some(Status::Running));
    given.when_reported(1, [start("undo_b")]).then([undo_started("b")]);
    let given = given.report(1, [start("undo_b")]);
    assert_eq!(next(&given.state(), &plan()), []);
    let steps = [complete("undo_b", json!("undo_b")), start("undo_a")];
    given.when_reported(1, steps.clone()).then([undo_completed("b"), undo_started("a")]);
    let given = given.report(1, steps).report(1, [complete("undo_a", json!("undo_a"))]);
    assert_eq!(next(&given.state(), &plan()), [Action::Finish(Ending::Undone)]);
    let compensation = Some(Compensation { undone: 2, not_undone: 0, named: Vec::new() });
    let (node, error) = (Some("c".into()), failure(ErrorKind::Transient));
    given.when_reported(1, [undone()]).then([ExecutionFailed {
        node,
        error,
        compensation: compensation.clone(),
    }
    .into()]);
    let ended = given.report(1, [undone()]).state();
    assert_eq!(ended.status(), Some(Status::Failed));
    assert_eq!(ended.run().expect("it ran").compensation, compensation);
    assert_eq!(ended.run().expect("it ran").finished_nodes(), 3, "what undoes is not counted");
}

#[test]
fn nothing_is_undone_out_of_turn() {
    let contradiction =
        |path: &str| ExecutionRejection::Contradiction { step: 0, path: path.to_owned() };
    given().when_reported(1, [start("undo_a")]).rejects(contradiction("undo_a"));
    let given = failed().report(1, [finish_failed()]);
    given.when_reported(1, [start("undo_a")]).rejects(contradiction("undo_a"));
    given.when_reported(1, [start("each")]).rejects(contradiction("each"));
    given.when_reported(1, [undone()]).rejects(contradiction(""));
    given.when_reported(1, [finish_failed()]).rejects(contradiction(""));
    let both = [start("undo_b"), start("undo_a")];
    let second = ExecutionRejection::Contradiction { step: 1, path: "undo_a".to_owned() };
    given.when_reported(1, both).rejects(second);
    let after_the_end = [finish_failed(), start("undo_b")];
    let second = ExecutionRejection::Contradiction { step: 1, path: String::new() };
    failed().when_reported(1, after_the_end).rejects(second);
}

#[test]
fn an_undo_is_tried_again_and_when_it_fails_for_good_the_rest_goes_on() {
    let given = failed().report(1, [finish_failed()]).report(1, [start("undo_b")]);
    let given = given.report(1, [fail("undo_b", AfterFailure::Retry { at: at(9) }), Step::LetGo]);
    assert_eq!(
        given.state().waits_for().map(|waits| matches!(waits, WaitsFor::Nodes { .. })),
        Some(true)
    );
    let fire = |attempt| ExecutionCommand::FireTimer {
        path: "undo_b".into(),
        attempt: Attempt(attempt),
        kind: TimerKind::Retry,
    };
    let given = given.and(fire(1)).and(ExecutionCommand::Dispatch { claim: Claim(2) });
    let given = given.report(2, []);
    let again = Action::RunNode { path: "undo_b".into(), attempt: Attempt(2) };
    assert_eq!(next(&given.state(), &plan()), [again]);
    let second = Step::Start {
        path: "undo_b".into(),
        attempt: Attempt(2),
        input: json!({}).into(),
        secrets: Vec::new(),
    };
    let given = given.report(2, [second]);
    let (error, then) = (failure(ErrorKind::Permanent), AfterFailure::Stop);
    let failed = Step::Fail {
        path: "undo_b".into(),
        attempt: Attempt(2),
        error: NodeError { details: Some(json!({"status": 500}).into()), ..error.clone() },
        duration_ms: 5,
        then,
    };
    let given = given.report(2, [failed]);
    assert_eq!(next(&given.state(), &plan()), begins("undo_a"));
    let given = given.report(2, [start("undo_a"), complete("undo_a", json!("undo_a"))]);
    let named = vec![not_undone("b", Some(error))];
    let compensation = Some(Compensation { undone: 1, not_undone: 1, named });
    let (node, error) = (Some("c".into()), failure(ErrorKind::Transient));
    given.when_reported(2, [undone()]).then([ExecutionFailed { node, error, compensation }.into()]);
}

#[test]
fn a_cancel_aborts_what_runs_and_undoes_what_was_done() {
    let given = given().and(cancel());
    let actions = [Action::Abort, Action::Finish(Ending::Cancelled)];
    assert_eq!(next(&given.state(), &plan()), actions);
    let aborted = NodeFailed {
        path: "c".into(),
        attempt: Attempt(1),
        error: NodeError {
            kind: ErrorKind::Cancelled,
            message: "the execution was cancelled".to_owned(),
            details: None,
        },
        duration_ms: 0,
        retry_at: None,
    };
    let finish = Step::Finish(Outcome::Cancelled);
    given.when_reported(1, [finish.clone()]).then([aborted.into(), turned(because_cancelled(), 2)]);
    let given = given.report(1, [finish]);
    assert_eq!(next(&given.state(), &plan()), begins("undo_b"));
    // It is told once, and told again it is a repeat.
    given.when(cancel()).then_nothing();
    let given = given.report(1, done("undo_b")).report(1, done("undo_a")).report(1, [undone()]);
    assert_eq!(given.state().status(), Some(Status::Cancelled));
    given.when(cancel()).then_nothing();
}

#[test]
fn a_cancel_of_what_nobody_has_is_undone_by_the_next_worker() {
    let steps = done("a").into_iter().chain([wait("c", 60), Step::LetGo]);
    let given = requested(request(None)).report(1, steps);
    given.when(cancel()).then([turned(because_cancelled(), 1)]);
    let given = given.and(cancel());
    let slot = WaitsFor::Slot { limits: Vec::new(), resumed: true };
    assert_eq!(given.state().waits_for(), Some(slot));
    let fire = ExecutionCommand::FireTimer {
        path: "c".into(),
        attempt: Attempt(1),
        kind: TimerKind::Wait,
    };
    given.when(fire).then_nothing();
    let given = given.and(ExecutionCommand::Dispatch { claim: Claim(2) }).report(2, []);
    assert_eq!(next(&given.state(), &plan()), begins("undo_a"));
    // One that is paused does not stay so.
    let paused = requested(request(None))
        .report(1, done("a").into_iter().chain([wait("c", 60), Step::LetGo]));
    let paused = paused.and(ExecutionCommand::Pause { reason: PauseReason::User }).and(cancel());
    assert_eq!(paused.state().status(), Some(Status::Running));
}

#[test]
fn undoing_can_be_paused_and_goes_on() {
    let pause = ExecutionCommand::Pause { reason: PauseReason::User };
    let given = failed().report(1, [finish_failed()]).report(1, [start("undo_b")]).and(pause);
    let given = given.report(1, [complete("undo_b", json!(1))]);
    assert_eq!(next(&given.state(), &plan()), [Action::LetGo { until: None }]);
    let given = given.report(1, [Step::LetGo]);
    assert_eq!(given.state().status(), Some(Status::Paused));
    let given = given.and(ExecutionCommand::Unpause { reason: PauseReason::User });
    let given = given.and(ExecutionCommand::Dispatch { claim: Claim(2) }).report(2, []);
    assert_eq!(next(&given.state(), &plan()), begins("undo_a"));
}

#[test]
fn undoing_is_cut_short_only_by_whoever_says_so() {
    let given = failed().report(1, [finish_failed()]).report(1, [start("undo_b")]);
    given.when(cancel()).rejects(ExecutionRejection::Compensating);
    let told = CancelRequested { reason: CancelReason::StoppedByUser, without_undo: true };
    given.when(cancel_without_undo()).then([told.into()]);
    let given = given.and(cancel_without_undo());
    given.when(cancel_without_undo()).then_nothing();
    let actions = [Action::Abort, Action::Finish(Ending::Undone)];
    assert_eq!(next(&given.state(), &plan()), actions);
    let aborted = NodeError {
        kind: ErrorKind::Cancelled,
        message: "the execution was cancelled".to_owned(),
        details: None,
    };
    let failed = NodeFailed {
        path: "undo_b".into(),
        attempt: Attempt(1),
        error: aborted.clone(),
        duration_ms: 0,
        retry_at: None,
    };
    let named = vec![not_undone("b", Some(aborted)), not_undone("a", None)];
    let compensation = Some(Compensation { undone: 0, not_undone: 2, named });
    let (node, error) = (Some("c".into()), failure(ErrorKind::Transient));
    given
        .when_reported(1, [undone()])
        .then([failed.into(), ExecutionFailed { node, error, compensation }.into()]);
}

#[test]
fn a_cancel_without_undo_undoes_nothing_and_names_what_stays() {
    let steps = done("a").into_iter().chain([wait("c", 60), Step::LetGo]);
    let given = requested(request(None)).report(1, steps);
    let stays = |named: Vec<NotUndone>| {
        let not_undone = u32::try_from(named.len()).expect("a few");
        let compensation = Some(Compensation { undone: 0, not_undone, named });
        ExecutionCancelled { reason: CancelReason::StoppedByUser, compensation }
    };
    given.when(cancel_without_undo()).then([stays(vec![not_undone("a", None)]).into()]);
    // Also after a cancel that its worker has not obeyed yet.
    let given = self::given().and(cancel()).and(cancel_without_undo());
    let last = given.when_reported(1, [Step::Finish(Outcome::Cancelled)]).0.expect("it ends").pop();
    let expected = stays(vec![not_undone("b", None), not_undone("a", None)]);
    assert_eq!(last, Some(expected.into()));
}

#[test]
fn a_time_limit_turns_the_run_back_and_ends_with_that() {
    let asked = RequestExecution { timeout_ms: Some(50_000), ..request(None) };
    let given = requested(asked).report(1, done("a").into_iter().chain([start("c")]));
    let fire = || ExecutionCommand::FireTimer {
        path: NodePath::run(),
        attempt: Attempt(1),
        kind: TimerKind::ExecutionTimeout,
    };
    let given = given.and(fire());
    let open = given.state();
    let open = open.open().expect("it undoes what it did");
    assert!(matches!(
        open.undoing().map(|undoing| &undoing.because),
        Some(EndCause::Failed { node: None, .. })
    ));
    // What ran was ended by that, so nothing of it is left for the worker that had it.
    assert_eq!(next(&given.state(), &plan()), begins("undo_a"));
    given.when(fire()).then_nothing();
}

#[test]
fn a_worker_that_is_lost_leaves_the_undoing_to_another() {
    let given = given().and(cancel()).and(ExecutionCommand::Redispatch { claim: Claim(1) });
    let last = given.events.last();
    assert_eq!(last, Some(&turned(because_cancelled(), 2)));
    assert!(given.events.contains(&ExecutionWaiting { claim: Claim(1) }.into()));
    let given =
        given.and(ExecutionCommand::Dispatch { claim: Claim(2) }).report(2, [start("undo_b")]);
    let given = given.and(ExecutionCommand::Redispatch { claim: Claim(2) }).report(3, []);
    // Nobody knows how far it came, and it does not repeat.
    let [Action::FailNode { path, error, .. }] = &next(&given.state(), &plan())[..] else {
        panic!("it fails")
    };
    assert_eq!((path.as_str(), error.kind), ("undo_b", ErrorKind::UnknownOutcome));
    let mut given = given;
    for claim in 3..8 {
        given = given.and(ExecutionCommand::Redispatch { claim: Claim(claim) });
        if given.state().has_ended() {
            break;
        }
        given = given.report(claim + 1, []);
    }
    let ended = given.state();
    assert_eq!(
        ended.status(),
        Some(Status::Cancelled),
        "five lost workers end it as it was to end"
    );
    let compensation = ended.run().and_then(|run| run.compensation.clone()).expect("it says so");
    assert_eq!((compensation.undone, compensation.not_undone), (0, 2));
}

#[test]
fn what_did_not_complete_here_is_not_undone() {
    let continued = AfterFailure::Continue { output: NodeOutput::Inline(Json::null()), port: None };
    let given = requested(request(None));
    let given = given
        .report(1, [start("a"), fail("a", continued), start("b"), fail("b", AfterFailure::Pause)]);
    let resolution = Resolution::Complete { output: Json::null(), port: None };
    let given = given.and(ExecutionCommand::Resolve { path: "b".into(), resolution });
    let given = given.report(1, [start("c"), fail("c", AfterFailure::Stop)]);
    // What a person says is done is undone; what was gone on without is not.
    given.when_reported(1, [finish_failed()]).then([turned(because_failed(), 1)]);
    let given = given.report(1, [finish_failed()]);
    assert_eq!(next(&given.state(), &plan()), begins("undo_b"));
}

#[test]
fn what_was_taken_over_is_not_undone_and_what_was_undone_is_not_taken_over() {
    let given = failed().report(1, [finish_failed()]).report(1, done("undo_b"));
    let given = given.report(1, done("undo_a")).report(1, [undone()]);
    let id = crate::id::ExecutionId(Uuid::from_u128(7));
    let retry = retry_of(id, &given.state(), &plan(), None).expect("it failed");
    assert_eq!(retry.origin.as_ref().map(|origin| origin.carried.len()), Some(0));
    assert_eq!(retry.undoes, undoes());

    let carried = CarriedNode {
        path: "a".into(),
        output: Some(NodeOutput::Inline(Json::null())),
        port: None,
        looping: None,
    };
    let origin = Origin {
        execution_id: id,
        kind: OriginKind::Fork,
        from_node: None,
        at_version: Some(3),
        edits: Vec::new(),
        carried: vec![carried],
        variables: Vec::new(),
        signals: Vec::new(),
    };
    let fork = requested(RequestExecution { origin: Some(origin), ..request(None) });
    let fork =
        fork.report(1, done("b").into_iter().chain([start("c"), fail("c", AfterFailure::Stop)]));
    fork.when_reported(1, [finish_failed()]).then([turned(because_failed(), 1)]);
}

#[test]
fn each_round_of_a_loop_is_undone_by_itself() {
    let items = vec![json!(1).into(), json!(2).into()];
    let open = Step::OpenLoop { path: "each".into(), attempt: Attempt(1), items };
    let given = requested(request(None)).report(1, [open, start("a")]);
    let given = given.report(1, done("each[0]/trip").into_iter().chain(done("each[1]/trip")));
    let given = given.report(1, [fail("a", AfterFailure::Stop)]);
    let error = failure(ErrorKind::Transient);
    let finish = Step::Finish(Outcome::Failed { node: Some("a".into()), error });
    let given = given.report(1, [finish]);
    assert_eq!(next(&given.state(), &plan()), begins("each[1]/undo_trip"));
    let given = given.report(1, done("each[1]/undo_trip"));
    assert_eq!(next(&given.state(), &plan()), begins("each[0]/undo_trip"));
    assert_eq!(given.state().run().expect("it runs").undone(), ["each".to_owned()].into());
}

#[test]
fn nobody_speaks_to_a_run_that_undoes_what_it_did() {
    let signal = || ExecutionCommand::Signal { name: "go".to_owned(), payload: Json::null() };
    let given = failed().report(1, [finish_failed()]);
    given.when(signal()).rejects(ExecutionRejection::Compensating);
    let given = self::given().and(cancel()).report(1, [Step::Finish(Outcome::Cancelled)]);
    given.when(signal()).rejects(ExecutionRejection::Cancelling);
}

#[test]
fn a_run_that_nobody_can_go_on_with_ends_as_it_is() {
    let error = failure(ErrorKind::Permanent);
    let stays = |given: &Given, named: Vec<NotUndone>| {
        let given_up = given.when_reported(1, [Step::GiveUp { error: error.clone() }]).0;
        let Some(ExecutionEvent::ExecutionFailed(ended)) = given_up.expect("it ends").pop() else {
            panic!("it failed")
        };
        assert_eq!(ended.compensation.map(|compensation| compensation.named), Some(named));
    };
    stays(&given(), vec![not_undone("b", None), not_undone("a", None)]);
    let undoing = failed().report(1, [finish_failed()]).report(1, done("undo_b"));
    stays(&undoing, vec![not_undone("a", None)]);
}
