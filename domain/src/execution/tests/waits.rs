//! What comes from outside: approvals, signals and tasks, each given a history, when it comes, then these events.

use super::*;
use crate::{id::UserId, permission::Role};

fn user(number: u128) -> UserId {
    UserId(Uuid::from_u128(number))
}

fn approval() -> Approval {
    let field = |name: &str, r#type, required, options: &[&str]| FormField {
        name: name.to_owned(),
        label: name.to_owned(),
        r#type,
        required,
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    };
    Approval {
        title: "Ship?".to_owned(),
        description: None,
        fields: vec![
            field("carrier", FieldType::Choice, true, &["rail", "road"]),
            field("boxes", FieldType::Integer, false, &[]),
            field("on", FieldType::Date, false, &[]),
        ],
        buttons: Button::usual(),
        roles: Vec::new(),
        users: Vec::new(),
        timeout_ms: Some(60_000),
    }
}

fn await_for(path: &str, awaited: Awaited, until: Option<i64>) -> Step {
    let (attempt, input) = (Attempt(1), json!({}).into());
    Step::Wait { path: path.into(), attempt, input, awaited, until: until.map(at) }
}

fn ask(approval: Approval) -> Step {
    await_for("ask", Awaited::Approval(Box::new(approval)), Some(60))
}

fn await_signal(path: &str, name: &str) -> Step {
    await_for(path, Awaited::Signal { name: name.to_owned() }, None)
}

fn offer(idempotent: bool) -> Step {
    let task = Task {
        queue: "images".to_owned(),
        heartbeat_timeout_ms: 30_000,
        idempotent,
        lease: TaskLease(0),
        worker: None,
    };
    await_for("label", Awaited::Task(Box::new(task)), None)
}

/// Waits for these, and its worker let go.
fn waiting_for(steps: impl IntoIterator<Item = Step>) -> Given {
    Given::requested(None).report(1, steps.into_iter().chain([Step::LetGo]))
}

fn answer(decision: &str, values: Value) -> AnswerApproval {
    AnswerApproval {
        path: "ask".into(),
        decision: decision.to_owned(),
        values: values.into(),
        comment: Some("fine".to_owned()),
        by: user(7),
        role: Role::Editor,
    }
}

fn answers(decision: &str, values: Value) -> ExecutionCommand {
    ExecutionCommand::AnswerApproval(answer(decision, values))
}

fn signal(name: &str, payload: Value) -> ExecutionCommand {
    ExecutionCommand::Signal { name: name.to_owned(), payload: payload.into() }
}

fn label() -> TaskRef {
    TaskRef { path: "label".into(), attempt: Attempt(1) }
}

fn take(worker: &str) -> ExecutionCommand {
    ExecutionCommand::TakeTask { task: label(), worker: worker.to_owned() }
}

fn finish(lease: u32, outcome: TaskOutcome) -> ExecutionCommand {
    ExecutionCommand::FinishTask { task: label(), lease: TaskLease(lease), outcome }
}

fn done() -> TaskOutcome {
    TaskOutcome::Completed(NodeOutput::Inline(json!({"ok": true}).into()))
}

fn fires(path: &str, kind: TimerKind) -> ExecutionCommand {
    ExecutionCommand::FireTimer { path: path.into(), attempt: Attempt(1), kind }
}

fn pause() -> ExecutionCommand {
    ExecutionCommand::Pause { reason: PauseReason::User }
}

fn completed_by(path: &str, output: Value, port: Option<&str>, seconds: u64) -> ExecutionEvent {
    NodeCompleted {
        path: path.into(),
        attempt: Attempt(1),
        output: NodeOutput::Inline(output.into()),
        port: port.map(str::to_owned),
        duration_ms: seconds * 1_000,
        undoes: None,
    }
    .into()
}

fn output_of(execution: &Execution, path: &str) -> Value {
    match &execution.run().expect("it was requested").nodes[path].state {
        NodeState::Completed(completed) => match &completed.output {
            NodeOutput::Inline(value) => value.to_value(),
            NodeOutput::Blob { .. } => panic!("a blob"),
        },
        other => panic!("{path} is {other:?}"),
    }
}

#[test]
fn asking_records_the_question_and_when_it_is_given_up() {
    let given = Given::running();
    let (path, attempt) = (NodePath::from("ask"), Attempt(1));
    let requested = ApprovalRequested {
        path: path.clone(),
        attempt,
        approval: approval(),
        since: at(100),
        until: Some(at(60)),
    };
    let (kind, set_at, due_at) = (TimerKind::WaitTimeout, at(100), at(60));
    let timer = TimerSet { path, attempt, kind, set_at, due_at };
    let waiting = ExecutionWaiting { claim: Claim(1) };
    given.when_reported(1, [ask(approval()), Step::LetGo]).then([
        node_started("ask"),
        requested.into(),
        timer.into(),
        waiting.into(),
    ]);
    let asked = waiting_for([ask(approval())]).state();
    assert!(asked.is_waiting());
    let Some(WaitsFor::Nodes { count: 1, next_due_at, first }) = asked.waits_for() else {
        panic!("it waits for an answer: {asked:?}")
    };
    assert_eq!(next_due_at, Some(at(60)));
    assert!(matches!(first[0].awaited, Some(Awaited::Approval(_))), "{first:?}");
}

#[test]
fn an_answer_takes_the_branch_of_its_button_and_hands_the_run_out() {
    let given = waiting_for([ask(approval())]);
    let values = json!({"carrier": "rail", "boxes": 4, "on": "2026-01-31"});
    let output = json!({
        "decision": "approved", "values": values, "comment": "fine", "by": user(7), "at": "1970-01-01T00:01:40.000Z",
    });
    let by = |decision: &str, values: &Value| ApprovalGiven {
        path: "ask".into(),
        attempt: Attempt(1),
        decision: decision.to_owned(),
        values: values.clone().into(),
        comment: Some("fine".to_owned()),
        by: user(7),
    };
    given
        .when(answers("approved", values.clone()))
        .then([by("approved", &values).into(), completed_by("ask", output, Some("approved"), 100)]);
    let given = given.and(answers("approved", json!({"carrier": "road"})));
    let twice = ExecutionRejection::ApprovalNotOpen { path: "ask".to_owned() };
    given.when(answers("rejected", json!({}))).rejects(twice);
    assert_eq!(output_of(&given.state(), "ask")["values"]["carrier"], "road");
}

#[test]
fn a_refusal_needs_no_form_and_says_that_it_refuses() {
    let refused = waiting_for([ask(approval())]).when(answers("rejected", json!({}))).0.unwrap();
    let ExecutionEvent::ApprovalRefused(event) = &refused[0] else { panic!("{refused:?}") };
    assert_eq!((event.decision.as_str(), event.by), ("rejected", user(7)));
    let ExecutionEvent::NodeCompleted(event) = &refused[1] else { panic!("{refused:?}") };
    assert_eq!(event.port.as_deref(), Some("rejected"));
}

#[test]
fn an_answer_that_does_not_fit_the_form_names_every_field() {
    let refused = |decision: &str, values: Value| match waiting_for([ask(approval())])
        .when(answers(decision, values))
        .0
    {
        Err(ExecutionRejection::AnswerInvalid(errors)) => {
            errors.iter().map(|error| format!("{} {}", error.pointer, error.code)).collect()
        }
        other => panic!("{other:?}"),
    };
    let table: [(&str, Value, &[&str]); 7] = [
        ("maybe", json!({"carrier": "rail"}), &["/decision unknown_value"]),
        ("approved", json!({}), &["/values/carrier required"]),
        ("approved", json!({"carrier": "air"}), &["/values/carrier invalid_value"]),
        ("approved", json!({"carrier": "rail", "boxes": 1.5}), &["/values/boxes invalid_value"]),
        ("approved", json!({"carrier": "rail", "on": "soon"}), &["/values/on invalid_value"]),
        (
            "rejected",
            json!({"a/b": 1, "boxes": "x"}),
            &["/values/a~1b unknown_field", "/values/boxes invalid_value"],
        ),
        ("approved", json!([1]), &["/values wrong_type"]),
    ];
    for (decision, values, expected) in table {
        let found: Vec<String> = refused(decision, values.clone());
        assert_eq!(found, expected, "{decision} {values}");
    }
    let mut long = answer("approved", json!({"carrier": "rail"}));
    long.comment = Some("x".repeat(crate::limits::MAX_COMMENT_CHARS + 1));
    let command = ExecutionCommand::AnswerApproval(long);
    let refused = waiting_for([ask(approval())]).when(command).0;
    assert!(matches!(refused, Err(ExecutionRejection::AnswerInvalid(_))), "{refused:?}");
}

#[test]
fn who_may_answer_is_whoever_may_approve_or_who_is_named() {
    let may = |roles: &[Role], users: &[UserId]| {
        let approval = Approval { roles: roles.to_vec(), users: users.to_vec(), ..approval() };
        Role::ALL.map(|role| approval.may_be_answered_by(user(7), role))
    };
    // Owner, administrator, editor, viewer.
    assert_eq!(may(&[], &[]), [true, true, true, false]);
    assert_eq!(may(&[Role::Administrator], &[]), [true, true, false, false]);
    assert_eq!(may(&[Role::Owner], &[user(7)]), [true, true, true, false]);
    assert_eq!(may(&[], &[user(8)]), [false, false, false, false]);
    assert_eq!(may(&[], &[user(7)]), [true, true, true, false]);
    let only = Approval { users: vec![user(8)], ..approval() };
    let not = ExecutionRejection::NotAnApprover { path: "ask".to_owned() };
    waiting_for([ask(only)]).when(answers("approved", json!({"carrier": "rail"}))).rejects(not);
}

#[test]
fn an_approval_that_nobody_answers_is_left_by_its_timeout() {
    let given = waiting_for([ask(approval())]);
    let (path, attempt) = (NodePath::from("ask"), Attempt(1));
    let fired = TimerFired { path: path.clone(), attempt, kind: TimerKind::WaitTimeout };
    let output = json!({
        "decision": "timeout", "values": {}, "comment": null, "by": null, "at": "1970-01-01T00:01:40.000Z",
    });
    given.when(fires("ask", TimerKind::WaitTimeout)).then([
        fired.into(),
        ApprovalTimedOut { path, attempt }.into(),
        completed_by("ask", output, Some("timeout"), 100),
    ]);
    let late = given.clone().and(fires("ask", TimerKind::WaitTimeout));
    let not_open = ExecutionRejection::ApprovalNotOpen { path: "ask".to_owned() };
    late.when(answers("approved", json!({"carrier": "rail"}))).rejects(not_open);
    // The answer was first.
    let given = given.and(answers("rejected", json!({})));
    given.when(fires("ask", TimerKind::WaitTimeout)).then_nothing();
}

#[test]
fn a_paused_run_keeps_its_answer_and_goes_on_when_it_is_resumed() {
    let given = waiting_for([ask(approval())]).and(pause());
    let answered = given.when(answers("rejected", json!({}))).0.unwrap();
    assert_eq!(answered.len(), 2, "and is not handed out: {answered:?}");
    let given = given.and(answers("rejected", json!({})));
    let resume = ExecutionCommand::Unpause { reason: PauseReason::User };
    given.when(resume).then([ExecutionUnpaused {}.into()]);
}

#[test]
fn where_a_limit_concerns_it_the_run_waits_at_the_head_of_its_line() {
    let limited = Given::requested(Some(one_at_a_time()))
        .and(ExecutionCommand::Dispatch { claim: Claim(1) })
        .report(1, [ask(approval()), Step::LetGo])
        .and(answers("rejected", json!({})));
    let slot = WaitsFor::Slot { limits: vec![one_at_a_time()], resumed: true };
    assert_eq!(limited.state().waits_for(), Some(slot));
}

#[test]
fn a_cancel_ends_a_waiting_run_at_once_and_refuses_what_comes_after() {
    let cancel = ExecutionCommand::Cancel { reason: CancelReason::StoppedByUser };
    for step in [ask(approval()), await_signal("paid", "payment"), offer(true)] {
        let given = waiting_for([step]).and(cancel.clone());
        assert_eq!(given.state().status(), Some(Status::Cancelled));
        let ended = || ExecutionRejection::Ended(Status::Cancelled);
        given.when(answers("rejected", json!({}))).rejects(ended());
        given.when(signal("payment", json!(1))).rejects(ended());
        given.when(take("w")).rejects(ended());
        given.when(finish(1, done())).rejects(ended());
    }
}

#[test]
fn what_a_worker_planned_before_an_answer_is_overtaken() {
    let given = Given::requested(None).report(1, [ask(approval()), start("fetch")]);
    let planned = report(&given.state(), 1, [complete("fetch", json!(1))]);
    let given = given.and(answers("rejected", json!({})));
    given.when(planned).rejects(ExecutionRejection::Overtaken);
    given.when_reported(1, [complete("fetch", json!(1))]).then([node_completed("fetch", json!(1))]);
}

#[test]
fn a_signal_goes_to_the_node_that_waited_first() {
    let given = waiting_for([
        await_signal("first", "payment"),
        await_signal("second", "payment"),
        await_signal("other", "delivery"),
    ]);
    let received = |path: &str, payload: &Value| SignalReceived {
        name: "payment".to_owned(),
        payload: payload.clone().into(),
        node: Some(SignalNode { path: path.into(), attempt: Attempt(1) }),
    };
    let payload = json!({"amount": 12});
    given.when(signal("payment", payload.clone())).then([
        received("first", &payload).into(),
        completed_by("first", payload.clone(), None, 100),
    ]);
    let given = given.and(signal("payment", json!(1)));
    given
        .when(signal("payment", json!(2)))
        .then([received("second", &json!(2)).into(), completed_by("second", json!(2), None, 100)]);
}

#[test]
fn signals_that_come_first_are_kept_and_taken_in_order() {
    let given = Given::running();
    let kept = SignalReceived { name: "tick".to_owned(), payload: json!(1).into(), node: None };
    given.when(signal("tick", json!(1))).then([kept.into()]);
    let given = given.and(signal("tick", json!(1))).and(signal("tick", json!(2)));
    let consumed = |path: &str| {
        let (path, attempt, name) = (path.into(), Attempt(1), "tick".to_owned());
        SignalConsumed { path, attempt, name }
    };
    let steps = [await_signal("a", "tick"), await_signal("b", "tick"), await_signal("c", "tick")];
    let events = given.when_reported(1, steps.clone()).0.unwrap();
    let expected: [ExecutionEvent; 7] = [
        node_started("a"),
        consumed("a").into(),
        completed_by("a", json!(1), None, 0),
        node_started("b"),
        consumed("b").into(),
        completed_by("b", json!(2), None, 0),
        node_started("c"),
    ];
    assert_eq!(events[..7], expected);
    assert!(matches!(events[7], ExecutionEvent::SignalAwaited(_)), "{:?}", events[7]);
    let given = given.report(1, steps);
    assert!(given.state().run().unwrap().signals.is_empty());
    // A signal does not wake a run that has nobody who waits for it.
    let idle = waiting_for([await_signal("a", "x")]).and(signal("y", json!(null)));
    assert!(matches!(idle.state().waits_for(), Some(WaitsFor::Nodes { .. })));
}

#[test]
fn signals_have_an_end_in_number_and_size() {
    let given = Given::running();
    given.when(signal("", json!(1))).rejects(ExecutionRejection::SignalNameInvalid);
    given.when(signal("a\nb", json!(1))).rejects(ExecutionRejection::SignalNameInvalid);
    let large = json!("x".repeat(crate::limits::MAX_SIGNAL_BYTES));
    given.when(signal("a", large)).rejects(ExecutionRejection::SignalTooLarge);
    let many = (0..100).fold(given.clone(), |given, n| given.and(signal("a", json!(n))));
    many.when(signal("a", json!(1))).rejects(ExecutionRejection::SignalsFull { kept: 100 });
    let half = json!("x".repeat(crate::limits::MAX_SIGNAL_BYTES - 100));
    let heavy = (0..16).fold(given, |given, _| given.and(signal("a", half.clone())));
    heavy.when(signal("a", half)).rejects(ExecutionRejection::SignalsFull { kept: 16 });
}

#[test]
fn a_signal_that_does_not_come_is_left_by_its_timeout() {
    let given =
        waiting_for([await_for("paid", Awaited::Signal { name: "p".to_owned() }, Some(60))]);
    let (path, attempt, kind) = ("paid".into(), Attempt(1), TimerKind::WaitTimeout);
    given.when(fires("paid", TimerKind::WaitTimeout)).then([
        TimerFired { path, attempt, kind }.into(),
        completed_by("paid", Value::Null, Some("timeout"), 100),
    ]);
}

#[test]
fn a_task_is_taken_by_one_worker_and_completed_under_its_lease() {
    let given = waiting_for([offer(false)]);
    let (path, attempt, lease) = (NodePath::from("label"), Attempt(1), TaskLease(1));
    let taken = TaskTaken { path: path.clone(), attempt, lease, worker: "w1".to_owned() };
    let (kind, set_at, due_at) = (TimerKind::TaskLease, at(100), at(130));
    let timer = TimerSet { path: path.clone(), attempt, kind, set_at, due_at };
    given.when(take("w1")).then([taken.into(), timer.into()]);
    let given = given.and(take("w1"));
    given.when(take("w2")).rejects(ExecutionRejection::TaskTaken);
    given.when(finish(0, done())).rejects(ExecutionRejection::TaskLost);
    given.when(finish(2, done())).rejects(ExecutionRejection::TaskLost);
    assert!(given.state().held_task(&label(), TaskLease(1)).is_ok());
    given.when(finish(1, done())).then([
        TaskCompleted { path, attempt, lease }.into(),
        completed_by("label", json!({"ok": true}), None, 100),
    ]);
    let given = given.and(finish(1, done()));
    given.when(finish(1, done())).rejects(ExecutionRejection::TaskLost);
    let lost = given.state();
    assert_eq!(lost.held_task(&label(), TaskLease(1)), Err(ExecutionRejection::TaskLost));
    given.when(fires("label", TimerKind::TaskLease)).then_nothing();
}

#[test]
fn a_lost_worker_gives_an_idempotent_task_back_and_is_fenced_off() {
    let given = waiting_for([offer(true)]).and(take("w1"));
    let (path, attempt) = (NodePath::from("label"), Attempt(1));
    let fired = TimerFired { path: path.clone(), attempt, kind: TimerKind::TaskLease };
    given
        .when(fires("label", TimerKind::TaskLease))
        .then([fired.into(), TaskReturned { path, attempt, lease: TaskLease(1) }.into()]);
    let given = given.and(fires("label", TimerKind::TaskLease));
    assert!(given.state().is_waiting(), "it is offered, and the run holds nothing");
    given.when(finish(1, done())).rejects(ExecutionRejection::TaskLost);
    let given = given.and(take("w2"));
    given.when(finish(1, done())).rejects(ExecutionRejection::TaskLost);
    assert!(given.when(finish(2, done())).0.is_ok());
}

#[test]
fn a_lost_worker_fails_a_task_that_may_not_be_done_twice() {
    let given = waiting_for([offer(false)]).and(take("w1"));
    let events = given.when(fires("label", TimerKind::TaskLease)).0.unwrap();
    let ExecutionEvent::TaskFailed(failed) = &events[1] else { panic!("{events:?}") };
    assert_eq!(failed.error.kind, ErrorKind::UnknownOutcome);
    assert_eq!(events.len(), 2, "and dispatch hands the run out: {events:?}");
}

#[test]
fn a_failed_task_is_judged_by_the_plan_when_the_run_goes_on() {
    let nodes =
        json!([{"id": "label", "type": "integration.worker", "config": {"queue": "images"}}]);
    let plan = plan_of(nodes, json!([]));
    let error = failure(ErrorKind::Transient);
    let given = waiting_for([offer(false)])
        .and(take("w1"))
        .and(finish(1, TaskOutcome::Failed(error.clone())))
        .and(ExecutionCommand::Dispatch { claim: Claim(2) })
        .report(2, []);
    let fail = Action::FailNode {
        path: "label".into(),
        attempt: Attempt(1),
        error: error.clone(),
        duration_ms: 0,
    };
    assert_eq!(next(&given.state(), &plan), [fail]);
    let then = plan.after_failure(&"label".into(), Attempt(1), &error, at(0), 0.0);
    assert!(matches!(then, AfterFailure::Retry { .. }), "{then:?}");
    // The step of the worker is what counts: nothing else may follow on the failure.
    let contradiction = ExecutionRejection::Contradiction { step: 0, path: "label".to_owned() };
    given.when_reported(2, [start("label")]).rejects(contradiction);
    let run = ExecutionRejection::Contradiction { step: 0, path: String::new() };
    given.when_reported(2, [Step::LetGo]).rejects(run);
    let retried = given.report(2, [fail_step("label", &error, then)]);
    let retry = fires("label", TimerKind::Retry);
    let state = retried.and(retry).state();
    let node = &state.run().unwrap().nodes["label"];
    assert_eq!((node.attempt, &node.state), (Attempt(2), &NodeState::Ready));
}

fn fail_step(path: &str, error: &NodeError, then: AfterFailure) -> Step {
    let (path, attempt, error) = (path.into(), Attempt(1), error.clone());
    Step::Fail { path, attempt, error, duration_ms: 0, then }
}

#[test]
fn a_run_that_ends_beside_a_failed_task_records_the_failure() {
    let error = failure(ErrorKind::Transient);
    let given = waiting_for([offer(false)])
        .and(take("w1"))
        .and(finish(1, TaskOutcome::Failed(error.clone())));
    let cancel = ExecutionCommand::Cancel { reason: CancelReason::StoppedByUser };
    let ends = given.when(cancel).0.unwrap();
    let ExecutionEvent::NodeFailed(failed) = &ends[0] else { panic!("{ends:?}") };
    assert_eq!((failed.path.as_str(), &failed.error), ("label", &error));
}

#[test]
fn no_task_is_taken_of_a_paused_run_and_one_that_is_out_may_come_back() {
    let given = waiting_for([offer(true)]).and(pause());
    given.when(take("w")).rejects(ExecutionRejection::Paused);
    let given = waiting_for([offer(true)]).and(take("w")).and(pause());
    let done = given.when(finish(1, done())).0.unwrap();
    assert_eq!(done.len(), 2, "and the run is not handed out: {done:?}");
}

#[test]
fn a_task_that_takes_longer_than_its_node_may_times_out() {
    let step = match offer(true) {
        Step::Wait { path, attempt, input, awaited, .. } => {
            Step::Wait { path, attempt, input, awaited, until: Some(at(60)) }
        }
        other => other,
    };
    let given = waiting_for([step]).and(take("w"));
    let events = given.when(fires("label", TimerKind::WaitTimeout)).0.unwrap();
    let ExecutionEvent::TaskFailed(failed) = &events[1] else { panic!("{events:?}") };
    assert_eq!((failed.error.kind, failed.lease), (ErrorKind::Timeout, TaskLease(1)));
}
