//! One decision after another, but for reports.

use super::*;

const STOPPED: CancelReason = CancelReason::StoppedByUser;

fn pause() -> ExecutionCommand {
    ExecutionCommand::Pause { reason: PauseReason::User }
}

fn unpause() -> ExecutionCommand {
    ExecutionCommand::Unpause { reason: PauseReason::User }
}

fn cancel() -> ExecutionCommand {
    ExecutionCommand::Cancel { reason: STOPPED }
}

fn fire(path: &str, kind: TimerKind) -> ExecutionCommand {
    ExecutionCommand::FireTimer { path: path.into(), attempt: Attempt(1), kind }
}

fn cancelled() -> ExecutionEvent {
    ExecutionCancelled { reason: STOPPED, compensation: None }.into()
}

fn timer_fired(path: &str, kind: TimerKind) -> ExecutionEvent {
    TimerFired { path: path.into(), attempt: Attempt(1), kind }.into()
}

fn node_failed(path: &str, kind: ErrorKind, message: &str) -> ExecutionEvent {
    NodeFailed {
        path: path.into(),
        attempt: Attempt(1),
        error: NodeError { kind, message: message.to_owned(), details: None },
        duration_ms: 0,
        retry_at: None,
    }
    .into()
}

#[test]
fn a_run_that_no_limit_concerns_is_dispatched_at_once() {
    let given = Given::requested(None);
    assert_eq!(given.events.len(), 2);
    assert_eq!(given.events[1], dispatched(1));
    assert_eq!(given.state().status(), Some(Status::Pending));
    assert_eq!(given.state().waits_for(), Some(WaitsFor::Worker { claim: Claim(1) }));
}

#[test]
fn a_limited_run_waits_for_its_slot() {
    let given = Given::requested(Some(one_at_a_time()));
    assert_eq!(given.events.len(), 1);
    let slot = WaitsFor::Slot { limits: vec![one_at_a_time()], resumed: false };
    assert_eq!(given.state().waits_for(), Some(slot));
    let queue = ExecutionCommand::Queue { limit: one_at_a_time() };
    given.when(queue.clone()).then([ExecutionQueued { limit: one_at_a_time() }.into()]);
    let queued = given.and(queue.clone());
    assert_eq!(queued.state().status(), Some(Status::Queued));
    queued.when(queue).then_nothing();
    queued.when(ExecutionCommand::Dispatch { claim: Claim(1) }).then([dispatched(1)]);
    queued
        .when(ExecutionCommand::Dispatch { claim: Claim(2) })
        .rejects(ExecutionRejection::ClaimLost { reported: 2, newest: 0 });
    let other = ConcurrencyLimit::new("other", 1);
    queued.when(ExecutionCommand::Queue { limit: other }).rejects(ExecutionRejection::OtherLimit);
}

#[test]
fn a_second_request_or_dispatch_is_the_first_one_again() {
    let given = Given::requested(None);
    given.when(ExecutionCommand::Request(Box::new(request(None)))).then_nothing();
    given.when(ExecutionCommand::Dispatch { claim: Claim(1) }).then_nothing();
}

#[test]
fn a_timeout_is_a_timer_of_the_run() {
    let timed = RequestExecution { timeout_ms: Some(1_500), ..request(None) };
    let given = Given::default().and(ExecutionCommand::Request(Box::new(timed)));
    let due_at = at(0) + TimeDelta::milliseconds(1_500);
    let timer = TimerSet {
        path: NodePath::run(),
        attempt: Attempt(1),
        kind: TimerKind::ExecutionTimeout,
        set_at: at(0),
        due_at,
    };
    assert_eq!(given.events[1..], [timer.into(), dispatched(1)]);
    let message = "the execution took too long";
    given.report(1, [start("fetch")]).when(fire("", TimerKind::ExecutionTimeout)).then([
        timer_fired("", TimerKind::ExecutionTimeout),
        node_failed("fetch", ErrorKind::Timeout, message),
        ExecutionFailed {
            node: None,
            error: NodeError {
                kind: ErrorKind::Timeout,
                message: message.to_owned(),
                details: None,
            },
            compensation: None,
        }
        .into(),
    ]);
    Given::running().when(fire("", TimerKind::ExecutionTimeout)).then_nothing();
}

#[test]
fn triggers_nest_to_a_bound() {
    let deep =
        |depth| ExecutionCommand::Request(Box::new(RequestExecution { depth, ..request(None) }));
    assert!(Given::default().when(deep(16)).0.is_ok());
    Given::default().when(deep(17)).rejects(ExecutionRejection::TooDeep { depth: 17, max: 16 });
}

#[test]
fn what_was_never_requested_takes_no_command() {
    for command in [pause(), cancel(), ExecutionCommand::Redispatch { claim: Claim(1) }] {
        Given::default().when(command).rejects(ExecutionRejection::NotRequested);
    }
}

#[test]
fn a_pause_holds_what_no_worker_has() {
    let given = Given::requested(None).and(pause());
    assert_eq!(given.state().status(), Some(Status::Paused));
    given.when(pause()).then_nothing();
    given.when_reported(1, []).rejects(ExecutionRejection::ClaimLost { reported: 1, newest: 1 });
    given.when(ExecutionCommand::Dispatch { claim: Claim(2) }).rejects(ExecutionRejection::Paused);
    given.when(unpause()).then([ExecutionUnpaused {}.into()]);
    given.and(unpause()).when(unpause()).then_nothing();
}

#[test]
fn a_run_that_is_held_waits_though_no_limit_concerns_it() {
    let held = RequestExecution { held: true, ..request(None) };
    let given = Given::default().and(ExecutionCommand::Request(Box::new(held)));
    assert_eq!(given.events.len(), 1);
    let turn = WaitsFor::Slot { limits: Vec::new(), resumed: false };
    assert_eq!(given.state().waits_for(), Some(turn));
    given.when(ExecutionCommand::Dispatch { claim: Claim(1) }).then([dispatched(1)]);
}

#[test]
fn a_run_goes_back_to_the_dispatch_policy_when_it_is_resumed() {
    let unlimited = Given::requested(None).and(pause()).and(unpause());
    let turn = WaitsFor::Slot { limits: Vec::new(), resumed: true };
    assert_eq!(unlimited.state().waits_for(), Some(turn));
    unlimited.when(ExecutionCommand::Dispatch { claim: Claim(2) }).then([dispatched(2)]);
    let waits = Given::requested(Some(one_at_a_time())).and(pause());
    waits.when(unpause()).then([ExecutionUnpaused {}.into()]);
    let slot = |resumed| Some(WaitsFor::Slot { limits: vec![one_at_a_time()], resumed });
    assert_eq!(waits.and(unpause()).state().waits_for(), slot(false));
    let had_a_slot = Given::requested(Some(one_at_a_time()))
        .and(ExecutionCommand::Dispatch { claim: Claim(1) })
        .and(pause())
        .and(unpause());
    assert_eq!(had_a_slot.state().waits_for(), slot(true));
}

#[test]
fn a_pause_lets_the_running_step_finish_and_then_frees_the_slot() {
    let given = Given::running().report(1, [start("fetch")]).and(pause());
    assert_eq!(given.state().status(), Some(Status::Paused));
    let finished = given.clone().report(1, [complete("fetch", json!(1)), Step::LetGo]);
    let (reason, held) = (PauseReason::User, Vec::new());
    assert_eq!(finished.state().waits_for(), Some(WaitsFor::Resume { reason, held }));
    finished.when(unpause()).then([ExecutionUnpaused {}.into()]);
    // Resumed while its worker still has it: that one simply goes on.
    given.when(unpause()).then([ExecutionUnpaused {}.into()]);
    let resumed = given.and(unpause()).report(1, [complete("fetch", json!(1)), start("store")]);
    assert_eq!(resumed.state().in_flight().count(), 1);
}

#[test]
fn a_workflow_resumes_only_what_it_had_paused() {
    let by_workflow = ExecutionCommand::Unpause { reason: PauseReason::WorkflowPaused };
    Given::requested(None).and(pause()).when(by_workflow.clone()).then_nothing();
    let paused = ExecutionCommand::Pause { reason: PauseReason::WorkflowPaused };
    let given = Given::requested(None).and(paused);
    given.when(by_workflow).then([ExecutionUnpaused {}.into()]);
    given.when(unpause()).then([ExecutionUnpaused {}.into()]);
}

#[test]
fn a_cancel_ends_at_once_what_no_worker_has() {
    let dispatched_only = Given::requested(None);
    let limited = Given::requested(Some(one_at_a_time()));
    for given in
        [dispatched_only.clone(), dispatched_only.and(pause()), limited, Given::waiting(None)]
    {
        given.when(cancel()).then([cancelled()]);
        given.and(cancel()).when(cancel()).then_nothing();
    }
}

#[test]
fn a_cancel_is_carried_out_by_the_worker_that_has_it() {
    let given = Given::running().report(1, [start("fetch")]);
    given.when(cancel()).then([CancelRequested { reason: STOPPED, without_undo: false }.into()]);
    let given = given.and(cancel());
    given.when(cancel()).then_nothing();
    given.when(pause()).rejects(ExecutionRejection::Cancelling);
    given.when(unpause()).rejects(ExecutionRejection::Cancelling);
    let ends =
        [node_failed("fetch", ErrorKind::Cancelled, "the execution was cancelled"), cancelled()];
    given.when_reported(1, [Step::Finish(Outcome::Cancelled)]).then(ends.clone());
    given.when(ExecutionCommand::Redispatch { claim: Claim(1) }).then(ends);
}

#[test]
fn an_ended_run_never_changes() {
    let given = Given::requested(None).and(cancel());
    given.when(pause()).rejects(ExecutionRejection::Ended(Status::Cancelled));
    given.when_reported(1, []).rejects(ExecutionRejection::Ended(Status::Cancelled));
    given.when(fire("pause", TimerKind::Wait)).then_nothing();
    given.when(ExecutionCommand::Redispatch { claim: Claim(1) }).then_nothing();
    let done = Outcome::Completed { output: NodeOutput::Inline(Json::null()) };
    let completed = Given::running().report(1, [Step::Finish(done)]);
    completed.when(cancel()).rejects(ExecutionRejection::Ended(Status::Completed));
}

#[test]
fn a_wait_completes_when_it_fires_and_the_run_waits_for_its_turn() {
    let given = Given::waiting(None);
    assert!(given.state().is_waiting());
    let wait = NodeWait { path: "pause".into(), until: Some(at(60)), awaited: Some(Awaited::Time) };
    let timers = WaitsFor::Nodes { count: 1, next_due_at: Some(at(60)), first: vec![wait] };
    assert_eq!(given.state().waits_for(), Some(timers));
    let completed = NodeCompleted {
        path: "pause".into(),
        attempt: Attempt(1),
        output: NodeOutput::Inline(Json::null()),
        port: None,
        duration_ms: 60_000,
        undoes: None,
    };
    let fires = fire("pause", TimerKind::Wait);
    given
        .when(fires.clone())
        .then([timer_fired("pause", TimerKind::Wait), completed.clone().into()]);
    let turn = WaitsFor::Slot { limits: Vec::new(), resumed: true };
    assert_eq!(given.clone().and(fires.clone()).state().waits_for(), Some(turn));
    given.when(fire("pause", TimerKind::Retry)).then_nothing();
    given.when(fire("other", TimerKind::Wait)).then_nothing();
    given.and(fires.clone()).when(fires.clone()).then_nothing();

    let limited = Given::waiting(Some(one_at_a_time()));
    limited
        .when(fires.clone())
        .then([timer_fired("pause", TimerKind::Wait), completed.clone().into()]);
    let slot = WaitsFor::Slot { limits: vec![one_at_a_time()], resumed: true };
    assert_eq!(limited.and(fires.clone()).state().waits_for(), Some(slot));

    let paused = Given::waiting(None).and(pause());
    paused.when(fires.clone()).then([timer_fired("pause", TimerKind::Wait), completed.into()]);
    paused.and(fires).when(unpause()).then([ExecutionUnpaused {}.into()]);
}

#[test]
fn a_run_that_was_paused_while_it_waited_goes_on_waiting() {
    let given = Given::waiting(None).and(pause());
    given.when(unpause()).then([ExecutionUnpaused {}.into()]);
    assert!(given.and(unpause()).state().is_waiting());
}

#[test]
fn a_waiting_run_needs_no_slot() {
    Given::waiting(Some(one_at_a_time()))
        .when(ExecutionCommand::Dispatch { claim: Claim(2) })
        .rejects(ExecutionRejection::Waiting);
}

#[test]
fn a_lost_worker_is_replaced_until_five_made_no_progress() {
    let mut given = Given::running().report(1, [start("fetch")]);
    for claim in 1..5 {
        let lost = ExecutionCommand::Redispatch { claim: Claim(claim) };
        given.when(lost.clone()).then([dispatched(claim + 1)]);
        given = given.and(lost.clone());
        given.when(lost).then_nothing();
        given = given.report(claim + 1, []);
    }
    let lost = ExecutionCommand::Redispatch { claim: Claim(5) };
    let ended = given.clone().and(lost.clone());
    assert_eq!(ended.state().status(), Some(Status::Failed));
    // Any outcome in between is progress.
    let progressed = given.report(5, [start("fetch"), complete("fetch", json!(1))]).and(lost);
    assert_eq!(progressed.state().waits_for(), Some(WaitsFor::Worker { claim: Claim(6) }));
}

#[test]
fn a_claim_that_nobody_took_is_offered_again_without_blame() {
    let mut given = Given::requested(None);
    for claim in 1..20 {
        given = given.and(ExecutionCommand::Redispatch { claim: Claim(claim) });
    }
    assert_eq!(given.state().waits_for(), Some(WaitsFor::Worker { claim: Claim(20) }));
}

#[test]
fn a_paused_run_whose_worker_is_lost_frees_its_slot() {
    let given = Given::running().report(1, [start("fetch")]).and(pause());
    given
        .when(ExecutionCommand::Redispatch { claim: Claim(1) })
        .then([ExecutionWaiting { claim: Claim(1) }.into()]);
}
