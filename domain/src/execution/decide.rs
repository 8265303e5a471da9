//! The decisions: one function a command. What a worker did is decided in [`super::report`].

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    ApprovalTimedOut, Attempt, Awaited, CancelReason, CancelRequested, Claim, ConcurrencyLimit,
    EndCause, ErrorKind, Execution, ExecutionCommand, ExecutionDispatched, ExecutionEvent,
    ExecutionPaused, ExecutionQueued, ExecutionRejection, ExecutionRequested, ExecutionWaiting,
    Intent, NodeError, NodeFailed, NodePath, NodeState, Open, PauseReason, Phase, RequestExecution,
    Rest, TIMEOUT_PORT, TaskRef, TimerFired, TimerKind, TimerSet, Waiting, undo::Undo,
};
use crate::{
    json::Json,
    limits::{MAX_INPUT_BYTES, MAX_LOST_CLAIMS, MAX_TRIGGER_DEPTH},
};

type Decision = Result<Vec<ExecutionEvent>, ExecutionRejection>;

pub(super) fn decide(
    execution: &Execution,
    command: &ExecutionCommand,
    now: DateTime<Utc>,
) -> Decision {
    match (execution, command) {
        (Execution::New, ExecutionCommand::Request(request)) => requested(request, now),
        // The id of a run follows from its cause, so a second request is the first one again.
        (_, ExecutionCommand::Request(_)) => Ok(Vec::new()),
        (Execution::New, _) => Err(ExecutionRejection::NotRequested),
        (Execution::Open(open), command) => {
            let mut events = on_open(open, command, now)?;
            open.name_undone(&mut events);
            Ok(events)
        }
        (
            Execution::Completed { .. } | Execution::Failed { .. } | Execution::Cancelled { .. },
            command,
        ) => ended(execution, command),
    }
}

fn on_open(open: &Open, command: &ExecutionCommand, now: DateTime<Utc>) -> Decision {
    match command {
        ExecutionCommand::Request(_) => Ok(Vec::new()),
        ExecutionCommand::Queue { limit } => queued(open, limit),
        ExecutionCommand::Dispatch { claim } => dispatched(open, *claim),
        ExecutionCommand::Report(report) => super::report::decide(open, report, now),
        ExecutionCommand::Pause { reason } => paused(open, *reason),
        ExecutionCommand::Unpause { reason } => unpaused(open, *reason),
        ExecutionCommand::Cancel { reason } => cancelled(open, *reason),
        ExecutionCommand::CancelWithoutUndo { reason } => Ok(cut_short(open, *reason)),
        ExecutionCommand::FireTimer { path, attempt, kind } => {
            Ok(fired(open, path, *attempt, *kind, now))
        }
        ExecutionCommand::AnswerApproval(answer) => super::approval::answered(open, answer, now),
        ExecutionCommand::Signal { name, payload } => {
            super::signal::signalled(open, name, payload, now)
        }
        ExecutionCommand::TakeTask { task, worker } => super::task::taken(open, task, worker, now),
        ExecutionCommand::FinishTask { task, lease, outcome } => {
            super::task::finished(open, task, *lease, outcome, now)
        }
        ExecutionCommand::Resolve { path, resolution } => {
            super::resolve::decide(open, path, resolution)
        }
        ExecutionCommand::FinishChild { path, attempt, child, end } => {
            Ok(super::child::finished(open, path, *attempt, *child, end, now))
        }
        ExecutionCommand::Redispatch { claim } => Ok(redispatched(open, *claim)),
    }
}

/// What is late is a repeat; what somebody asks for by hand is refused.
fn ended(execution: &Execution, command: &ExecutionCommand) -> Decision {
    let refused = || Err(ExecutionRejection::Ended(execution.status().expect("it has ended")));
    match command {
        ExecutionCommand::Cancel { .. } | ExecutionCommand::CancelWithoutUndo { .. }
            if matches!(execution, Execution::Cancelled { .. }) =>
        {
            Ok(Vec::new())
        }
        ExecutionCommand::Request(_)
        | ExecutionCommand::FireTimer { .. }
        | ExecutionCommand::FinishChild { .. }
        | ExecutionCommand::Redispatch { .. } => Ok(Vec::new()),
        ExecutionCommand::Queue { .. }
        | ExecutionCommand::Dispatch { .. }
        | ExecutionCommand::Report(_)
        | ExecutionCommand::Pause { .. }
        | ExecutionCommand::Unpause { .. }
        | ExecutionCommand::AnswerApproval(_)
        | ExecutionCommand::Signal { .. }
        | ExecutionCommand::TakeTask { .. }
        | ExecutionCommand::FinishTask { .. }
        | ExecutionCommand::Resolve { .. }
        | ExecutionCommand::CancelWithoutUndo { .. }
        | ExecutionCommand::Cancel { .. } => refused(),
    }
}

fn requested(request: &RequestExecution, now: DateTime<Utc>) -> Decision {
    if request.depth > MAX_TRIGGER_DEPTH {
        return Err(ExecutionRejection::TooDeep { depth: request.depth, max: MAX_TRIGGER_DEPTH });
    }
    let bytes = request.input.as_str().len();
    if bytes > MAX_INPUT_BYTES {
        return Err(ExecutionRejection::InputTooLarge { bytes, max: MAX_INPUT_BYTES });
    }
    let timeout_at = request.timeout_ms.and_then(|timeout| {
        TimeDelta::try_milliseconds(i64::try_from(timeout).ok()?)
            .and_then(|delta| now.checked_add_signed(delta))
    });
    let (origin, carried) = super::origin::split(request.origin.clone())?;
    let mut events = vec![
        ExecutionRequested {
            workspace_id: request.workspace_id,
            workflow_id: request.workflow_id,
            workflow_version: request.workflow_version,
            trigger_type: request.trigger_type,
            input: request.input.clone(),
            queue: request.queue,
            limits: request.limits.clone(),
            timeout_at,
            origin,
            trigger_node: request.trigger_node.clone(),
            planned_nodes: request.planned_nodes,
            depth: request.depth,
            parent: request.parent.clone(),
            error_workflow_id: request.error_workflow_id,
            undoes: request.undoes.clone(),
        }
        .into(),
    ];
    events.extend(carried.into_iter().map(ExecutionEvent::from));
    if let Some(due_at) = timeout_at {
        events.push(
            TimerSet {
                path: NodePath::run(),
                attempt: Attempt(1),
                kind: TimerKind::ExecutionTimeout,
                set_at: now,
                due_at,
            }
            .into(),
        );
    }
    if request.limits.is_empty() && !request.held {
        events.push(ExecutionDispatched { claim: Claim(1), queue: request.queue }.into());
    }
    Ok(events)
}

fn queued(open: &Open, limit: &ConcurrencyLimit) -> Decision {
    if !open.run.request.limits.contains(limit) {
        return Err(ExecutionRejection::OtherLimit);
    }
    Ok(match open.phase {
        Phase::Idle(Rest::Pending) => vec![ExecutionQueued { limit: limit.clone() }.into()],
        Phase::Idle(Rest::Queued | Rest::Waiting | Rest::Ready)
        | Phase::Dispatched
        | Phase::Running { .. }
        | Phase::Paused { .. } => Vec::new(),
    })
}

/// A repeat of a claim that was handed out gives no events.
fn dispatched(open: &Open, claim: Claim) -> Decision {
    if claim <= open.claim {
        return Ok(Vec::new());
    }
    if claim != open.next_claim() {
        return Err(open.claim_lost(claim));
    }
    match open.phase {
        Phase::Idle(Rest::Pending | Rest::Queued | Rest::Ready) => {
            Ok(vec![open.dispatch_next().into()])
        }
        Phase::Idle(Rest::Waiting) => Err(ExecutionRejection::Waiting),
        Phase::Paused { .. } => Err(ExecutionRejection::Paused),
        Phase::Dispatched | Phase::Running { .. } => Err(open.claim_lost(claim)),
    }
}

/// Pausing what is paused gives no events; the first reason stays.
fn paused(open: &Open, reason: PauseReason) -> Decision {
    match open.phase {
        Phase::Idle(_) | Phase::Dispatched | Phase::Running { intent: Intent::GoOn, .. } => {
            Ok(vec![ExecutionPaused { reason, node: None }.into()])
        }
        Phase::Paused { .. } | Phase::Running { intent: Intent::Pause(_), .. } => Ok(Vec::new()),
        Phase::Running { intent: Intent::Cancel(_), .. } => Err(ExecutionRejection::Cancelling),
    }
}

/// Resuming what is not paused, or a workflow's resume of what a person or a failed node had paused, gives no events.
fn unpaused(open: &Open, by: PauseReason) -> Decision {
    let resumes = |paused_by: PauseReason| by == PauseReason::User || paused_by == by;
    match open.phase {
        // Where its worker still finishes what ran when it was paused, it simply goes on.
        Phase::Paused { reason, .. } | Phase::Running { intent: Intent::Pause(reason), .. }
            if resumes(reason) =>
        {
            Ok(match by {
                PauseReason::User | PauseReason::NodeFailed => open.go_on_with_all(),
                PauseReason::WorkflowPaused => open.go_on_unless_held(),
            })
        }
        Phase::Running { intent: Intent::Cancel(_), .. } => Err(ExecutionRejection::Cancelling),
        Phase::Idle(_) | Phase::Dispatched | Phase::Running { .. } | Phase::Paused { .. } => {
            Ok(Vec::new())
        }
    }
}

/// Where no worker has it, it ends at once, or begins to undo what it did. Asking twice gives no events, also while that is undone.
fn cancelled(open: &Open, reason: CancelReason) -> Decision {
    if let Some(undoing) = open.undoing() {
        return match undoing.because {
            EndCause::Cancelled { .. } => Ok(Vec::new()),
            EndCause::Failed { .. } => Err(ExecutionRejection::Compensating),
        };
    }
    Ok(match open.phase {
        Phase::Running { intent: Intent::Cancel(_), .. } => Vec::new(),
        Phase::Running { intent: Intent::GoOn | Intent::Pause(_), .. } => {
            vec![CancelRequested { reason, without_undo: false }.into()]
        }
        Phase::Idle(_) | Phase::Dispatched | Phase::Paused { .. } => {
            open.cancel_now(reason, Undo::First)
        }
    })
}

/// Like a cancel, but for what is undone by that: nothing more. Asking twice gives no events.
fn cut_short(open: &Open, reason: CancelReason) -> Vec<ExecutionEvent> {
    match open.phase {
        Phase::Running { intent: Intent::Cancel(_), .. } if open.undo_waived => Vec::new(),
        // Its worker may be about to undo what it did.
        Phase::Running { .. } => vec![CancelRequested { reason, without_undo: true }.into()],
        Phase::Idle(_) | Phase::Dispatched | Phase::Paused { .. } => {
            open.cancel_now(reason, Undo::Never)
        }
    }
}

/// Without effect when it no longer waits for that timer.
fn fired(
    open: &Open,
    path: &NodePath,
    attempt: Attempt,
    kind: TimerKind,
    now: DateTime<Utc>,
) -> Vec<ExecutionEvent> {
    let mut events = vec![TimerFired { path: path.clone(), attempt, kind }.into()];
    if kind == TimerKind::ExecutionTimeout {
        let is_ending = open.is_cancelling() || open.undoing().is_some();
        if open.run.request.timeout_at.is_none() || is_ending {
            return Vec::new();
        }
        events.extend(open.fail_now(ErrorKind::Timeout, "the execution took too long"));
        return events;
    }
    match kind {
        TimerKind::ExecutionTimeout => return Vec::new(),
        TimerKind::Retry => match open.run.waiting_state(path, attempt) {
            Some(NodeState::Retrying { .. }) => {}
            _ => return Vec::new(),
        },
        TimerKind::Wait => match open.waiting(path, attempt) {
            Some(waiting) if waiting.awaited == Awaited::Time => {
                // As long as it was to be: that it fired a little late is no part of it.
                let until = waiting.until.unwrap_or(waiting.since);
                events.push(waiting.completed(path, attempt, Json::null(), None, until).into());
            }
            Some(_) | None => return Vec::new(),
        },
        TimerKind::WaitTimeout => {
            let waiting = open.waiting(path, attempt);
            match waiting.and_then(|waiting| gave_up(path, attempt, waiting, now)) {
                Some(outcome) => events.extend(outcome),
                None => return Vec::new(),
            }
        }
        TimerKind::TaskLease => {
            let task = TaskRef { path: path.clone(), attempt };
            return super::task::lost(open, &task, now);
        }
    }
    events
}

/// What follows when what a node waited for did not come in time; nothing where time alone is what it waits for.
fn gave_up(
    path: &NodePath,
    attempt: Attempt,
    waiting: &Waiting,
    now: DateTime<Utc>,
) -> Option<Vec<ExecutionEvent>> {
    let by_timeout = |output| {
        waiting.completed(path, attempt, output, Some(TIMEOUT_PORT.to_owned()), now).into()
    };
    Some(match &waiting.awaited {
        Awaited::Time | Awaited::Decision(_) | Awaited::Child(_) => return None,
        Awaited::Approval(_) => vec![
            ApprovalTimedOut { path: path.clone(), attempt }.into(),
            by_timeout(super::approval::output_of_timeout(now)),
        ],
        Awaited::Signal { .. } => vec![by_timeout(Json::null())],
        Awaited::Task(offered) => {
            let task = TaskRef { path: path.clone(), attempt };
            vec![super::task::timed_out(&task, waiting, offered, now).into()]
        }
    })
}

/// Without effect when the claim is not live any more.
fn redispatched(open: &Open, lost: Claim) -> Vec<ExecutionEvent> {
    if lost != open.claim {
        return Vec::new();
    }
    match open.phase {
        Phase::Idle(_) | Phase::Paused { .. } => Vec::new(),
        Phase::Running { intent: Intent::Cancel(reason), .. } => {
            open.let_go_of(lost, open.cancel_now(reason, Undo::First))
        }
        Phase::Running { intent: Intent::Pause(_), .. } => {
            vec![ExecutionWaiting { claim: lost }.into()]
        }
        Phase::Running { intent: Intent::GoOn, .. } if open.lost_claims + 1 >= MAX_LOST_CLAIMS => {
            let message = format!("{MAX_LOST_CLAIMS} workers in a row were lost with it");
            open.let_go_of(lost, open.fail_now(ErrorKind::UnknownOutcome, &message))
        }
        Phase::Running { intent: Intent::GoOn, .. } | Phase::Dispatched => {
            vec![open.dispatch_next().into()]
        }
    }
}

impl Open {
    pub(super) fn next_claim(&self) -> Claim {
        Claim(self.claim.0 + 1)
    }

    pub(super) fn dispatch_next(&self) -> ExecutionDispatched {
        ExecutionDispatched { claim: self.next_claim(), queue: self.run.request.queue }
    }

    pub(super) fn claim_lost(&self, reported: Claim) -> ExecutionRejection {
        ExecutionRejection::ClaimLost { reported: reported.0, newest: self.claim.0 }
    }

    pub(super) fn is_cancelling(&self) -> bool {
        matches!(self.phase, Phase::Running { intent: Intent::Cancel(_), .. })
    }

    fn cancel_now(&self, reason: CancelReason, undo: Undo) -> Vec<ExecutionEvent> {
        let mut events = self.abandoned(ErrorKind::Cancelled, "the execution was cancelled");
        events.push(self.end_after(&events, EndCause::Cancelled { reason }, undo));
        events
    }

    fn fail_now(&self, kind: ErrorKind, message: &str) -> Vec<ExecutionEvent> {
        let mut events = self.abandoned(kind, message);
        let error = NodeError { kind, message: message.to_owned(), details: None };
        events.push(self.end_after(&events, EndCause::Failed { node: None, error }, Undo::First));
        events
    }

    /// What its end comes to when its worker is gone: where what it did is undone first, another one does that, and its slot is free
    /// until then.
    fn let_go_of(&self, lost: Claim, mut events: Vec<ExecutionEvent>) -> Vec<ExecutionEvent> {
        let turns =
            |event: &mut ExecutionEvent| matches!(event, ExecutionEvent::CompensationStarted(_));
        if let Some(turn) = events.pop_if(turns) {
            events.push(ExecutionWaiting { claim: lost }.into());
            events.push(turn);
        }
        events
    }

    fn abandoned(&self, kind: ErrorKind, message: &str) -> Vec<ExecutionEvent> {
        self.abandon(kind, message).map(Into::into).collect()
    }

    /// The end of every node whose effect may be under way, and of those whose failure nothing followed yet: no node of an ended run
    /// is left running.
    pub(super) fn abandon(
        &self,
        kind: ErrorKind,
        message: &str,
    ) -> impl Iterator<Item = NodeFailed> {
        self.run.active().filter_map(move |(path, node)| {
            let (error, duration_ms) = match &node.state {
                NodeState::Running(_) => {
                    (NodeError { kind, message: message.to_owned(), details: None }, 0)
                }
                NodeState::Failing(failing) => (failing.error.clone(), failing.duration_ms),
                NodeState::Waiting(_)
                | NodeState::Retrying { .. }
                | NodeState::Ready
                | NodeState::Looping(_)
                | NodeState::Completed(_)
                | NodeState::Skipped
                | NodeState::Failed(_) => return None,
            };
            let (path, attempt) = (path.clone(), node.attempt);
            Some(NodeFailed { path, attempt, error, duration_ms, retry_at: None })
        })
    }
}
