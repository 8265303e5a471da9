//! What events mean for the due times of executions, schedules and workspaces: written by the append that causes them, in the same transaction.

use std::any::Any;

use chrono::{DateTime, Utc};
use ledgerline_domain::{
    Aggregate,
    execution::{Attempt, Execution, ExecutionEvent, NodePath, SignalReceived, TimerKind},
    id::InvitationId,
    trigger::Trigger,
    workspace::{EndGrace, ExpireInvitation, WorkspaceCommand, WorkspaceEvent},
};
use ledgerline_store::{DueKey, DueTime, StreamId};

/// What must be kept of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DueChange {
    /// A time is waited for from now on.
    Set(DueTime),
    /// It is not any more.
    Done(DueKey),
}

/// The name that a kind of timer has in the due times.
#[must_use]
pub const fn due_kind(kind: TimerKind) -> &'static str {
    match kind {
        TimerKind::Wait => "wait",
        TimerKind::Retry => "retry",
        TimerKind::ExecutionTimeout => "execution_timeout",
        TimerKind::WaitTimeout => "wait_timeout",
        TimerKind::TaskLease => "task_lease",
    }
}

/// The due time of a timer. Its key starts with the attempt, because a path may hold any text.
#[must_use]
pub fn due_key(stream: StreamId, kind: TimerKind, path: &NodePath, attempt: Attempt) -> DueKey {
    DueKey {
        stream,
        kind: due_kind(kind).to_owned(),
        key: format!("{}:{}", attempt.0, path.as_str()),
    }
}

/// The timer of a due time; `None` when it isn't one of an execution.
#[must_use]
pub fn timer_of(due: &DueKey) -> Option<(TimerKind, NodePath, Attempt)> {
    let kind = match due.kind.as_str() {
        "wait" => TimerKind::Wait,
        "retry" => TimerKind::Retry,
        "execution_timeout" => TimerKind::ExecutionTimeout,
        "wait_timeout" => TimerKind::WaitTimeout,
        "task_lease" => TimerKind::TaskLease,
        _ => return None,
    };
    let (attempt, path) = due.key.split_once(':')?;
    Some((kind, NodePath::within("", path), Attempt(attempt.parse().ok()?)))
}

/// The timeout of a whole run: at most one, so its key is known without looking.
fn timeout_key(stream: StreamId) -> DueKey {
    due_key(stream, TimerKind::ExecutionTimeout, &NodePath::run(), Attempt(1))
}

/// The name that the next fire time of a schedule has in the due times.
pub const FIRE: &str = "fire";

/// The due time of a schedule: one, since only the next fire time is waited for.
fn fire_key(stream: StreamId) -> DueKey {
    DueKey { stream, kind: FIRE.to_owned(), key: "next".to_owned() }
}

/// The name that the end of an invitation's time has in the due times.
const INVITATION: &str = "invitation";

/// The due time of an invitation. Its key holds the time too: one that was renewed is another due time, and what is left of the first is
/// found to have nothing to do.
fn invitation_due(stream: StreamId, id: InvitationId, due_at: DateTime<Utc>) -> DueTime {
    let key = format!("{id}:{}", due_at.timestamp_micros());
    DueTime { due_at, due: DueKey { stream, kind: INVITATION.to_owned(), key } }
}

/// The name that the end of a workspace's grace has in the due times.
const GRACE: &str = "workspace_grace";

/// The due time of a workspace that is being deleted. Its key is the time, for the same reason.
fn grace_due(stream: StreamId, due_at: DateTime<Utc>) -> DueTime {
    let key = due_at.timestamp_micros().to_string();
    DueTime { due_at, due: DueKey { stream, kind: GRACE.to_owned(), key } }
}

/// What a workspace is told at a due time of its own; `None` when it isn't one of a workspace.
#[must_use]
pub(crate) fn workspace_command(due: &DueKey) -> Option<WorkspaceCommand> {
    let time = |micros: &str| DateTime::from_timestamp_micros(micros.parse().ok()?);
    match due.kind.as_str() {
        INVITATION => {
            let (id, micros) = due.key.split_once(':')?;
            let (invitation_id, expires_at) = (id.parse().ok()?, time(micros)?);
            let expire = ExpireInvitation { invitation_id, expires_at };
            Some(WorkspaceCommand::ExpireInvitation(expire))
        }
        GRACE => Some(WorkspaceCommand::EndGrace(EndGrace { ends_at: time(&due.key)? })),
        _ => None,
    }
}

/// The time that an event of a workspace lets it wait for.
fn due_of_workspace(stream: StreamId, event: &WorkspaceEvent) -> Option<DueTime> {
    match event {
        WorkspaceEvent::InvitationSent(event) => {
            Some(invitation_due(stream, event.invitation_id, event.expires_at))
        }
        WorkspaceEvent::InvitationRenewed(event) => {
            Some(invitation_due(stream, event.invitation_id, event.expires_at))
        }
        WorkspaceEvent::WorkspaceDeletionRequested(event) => Some(grace_due(stream, event.ends_at)),
        WorkspaceEvent::WorkspaceCreated(_)
        | WorkspaceEvent::WorkspaceRestored(_)
        | WorkspaceEvent::WorkspaceDeleted(_)
        | WorkspaceEvent::WorkspaceRenamed(_)
        | WorkspaceEvent::ConcurrencyChanged(_)
        | WorkspaceEvent::DispatchPaused(_)
        | WorkspaceEvent::DispatchResumed(_)
        | WorkspaceEvent::MemberAdded(_)
        | WorkspaceEvent::MemberRoleChanged(_)
        | WorkspaceEvent::MemberRemoved(_)
        | WorkspaceEvent::InvitationRevoked(_)
        | WorkspaceEvent::InvitationAccepted(_)
        | WorkspaceEvent::InvitationExpired(_)
        | WorkspaceEvent::ServiceAccountAdded(_)
        | WorkspaceEvent::ServiceAccountDisabled(_)
        | WorkspaceEvent::ServiceAccountEnabled(_) => None,
    }
}

/// What an event of an execution means for its due times.
///
/// Timers that are left when a run ends are not looked for here: a due time whose command has nothing to do is removed when it comes.
/// The timeout of the run, and of what a person or a program has answered, goes at once, because it may be months away.
#[must_use]
pub fn due_of(stream: StreamId, event: &ExecutionEvent) -> Vec<DueChange> {
    let done =
        |kind, path: &NodePath, attempt| DueChange::Done(due_key(stream, kind, path, attempt));
    let answered = |path, attempt| vec![done(TimerKind::WaitTimeout, path, attempt)];
    let task_over = |path, attempt| {
        [TimerKind::WaitTimeout, TimerKind::TaskLease].map(|kind| done(kind, path, attempt)).into()
    };
    match event {
        ExecutionEvent::TimerSet(event) => {
            let due = due_key(stream, event.kind, &event.path, event.attempt);
            vec![DueChange::Set(DueTime { due_at: event.due_at, due })]
        }
        ExecutionEvent::TimerFired(event) => vec![done(event.kind, &event.path, event.attempt)],
        ExecutionEvent::ApprovalGiven(event) => answered(&event.path, event.attempt),
        ExecutionEvent::ApprovalRefused(event) => answered(&event.path, event.attempt),
        ExecutionEvent::SignalReceived(SignalReceived { node: Some(node), .. }) => {
            answered(&node.path, node.attempt)
        }
        ExecutionEvent::TaskCompleted(event) => task_over(&event.path, event.attempt),
        ExecutionEvent::TaskFailed(event) => task_over(&event.path, event.attempt),
        ExecutionEvent::ExecutionCompleted(_)
        | ExecutionEvent::ExecutionFailed(_)
        | ExecutionEvent::ExecutionCancelled(_)
        // From here on only the nodes that undo have limits.
        | ExecutionEvent::CompensationStarted(_) => vec![DueChange::Done(timeout_key(stream))],
        ExecutionEvent::ExecutionRequested(_)
        | ExecutionEvent::ExecutionQueued(_)
        | ExecutionEvent::ExecutionDispatched(_)
        | ExecutionEvent::ExecutionStarted(_)
        | ExecutionEvent::ExecutionResumed(_)
        | ExecutionEvent::NodeStarted(_)
        | ExecutionEvent::NodeCompleted(_)
        | ExecutionEvent::NodeFailed(_)
        | ExecutionEvent::NodeSkipped(_)
        | ExecutionEvent::LoopIterated(_)
        | ExecutionEvent::LoopItemFailed(_)
        | ExecutionEvent::ApprovalRequested(_)
        | ExecutionEvent::ApprovalTimedOut(_)
        | ExecutionEvent::SignalAwaited(_)
        | ExecutionEvent::SignalReceived(_)
        | ExecutionEvent::SignalConsumed(_)
        | ExecutionEvent::TaskOffered(_)
        | ExecutionEvent::TaskTaken(_)
        | ExecutionEvent::TaskReturned(_)
        | ExecutionEvent::NodesCarried(_)
        | ExecutionEvent::NodeResolved(_)
        | ExecutionEvent::ChildStarted(_)
        | ExecutionEvent::ChildFinished(_)
        | ExecutionEvent::VariableSet(_)
        | ExecutionEvent::UsageRecorded(_)
        | ExecutionEvent::ExecutionWaiting(_)
        | ExecutionEvent::ExecutionPaused(_)
        | ExecutionEvent::ExecutionUnpaused(_)
        | ExecutionEvent::CancelRequested(_) => Vec::new(),
    }
}

/// What the events of one command on one stream leave to set and to remove, given the state after them. Only executions, triggers
/// and workspaces wait for times.
pub(crate) fn due_changes<A: Aggregate>(
    stream: StreamId,
    state: &A,
    events: &[A::Event],
) -> (Vec<DueTime>, Vec<DueKey>) {
    let (mut due, mut done) = (Vec::new(), Vec::new());
    if let Some(trigger) = (state as &dyn Any).downcast_ref::<Trigger>() {
        let key = fire_key(stream);
        match trigger.due_at() {
            Some(due_at) => due.push(DueTime { due_at, due: key }),
            None => done.push(key),
        }
        return (due, done);
    }
    let Some(execution) = (state as &dyn Any).downcast_ref::<Execution>() else {
        let of_workspace =
            events.iter().filter_map(|event| (event as &dyn Any).downcast_ref::<WorkspaceEvent>());
        due.extend(of_workspace.filter_map(|event| due_of_workspace(stream, event)));
        return (due, done);
    };
    let times_out = execution.run().is_some_and(|run| run.request.timeout_at.is_some());
    let events =
        events.iter().filter_map(|event| (event as &dyn Any).downcast_ref::<ExecutionEvent>());
    for change in events.flat_map(|event| due_of(stream, event)) {
        match change {
            DueChange::Set(time) => {
                done.retain(|key| *key != time.due);
                due.push(time);
            }
            // Most runs have no timeout, and each would pay for looking.
            DueChange::Done(key) if !times_out && key == timeout_key(stream) => {}
            DueChange::Done(key) => {
                due.retain(|time: &DueTime| time.due != key);
                done.push(key);
            }
        }
    }
    (due, done)
}
