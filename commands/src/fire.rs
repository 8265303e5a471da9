//! From a cause to a run: what schedules, webhooks and listeners have in common.
//!
//! A fire writes two streams in one append: the trigger takes note, and the execution is requested. The id of the execution follows from
//! the cause, so whatever is tried again finds it taken; and a fire time must be the next one of its schedule, so two schedulers
//! that decide at once meet on the trigger's stream, and one of them decides again.

use ledgerline_domain::{
    execution::{
        CancelReason, ConcurrencyLimit, Execution, ExecutionCommand, ExecutionRejection, Status,
        TriggerType,
    },
    id::{ExecutionId, TriggerId},
    json::Json,
    limits::MAX_TRIGGER_DEPTH,
    trigger::{
        Cause, Content, FireOutcome, FireTrigger, Overlap, Trigger, TriggerCommand, TriggerConfig,
        TriggerRejection,
    },
};

use crate::{
    CommandError, Decided, Scope, Target,
    start::{Start, StartRejection, start},
};

/// Something that a trigger fires for.
#[derive(Clone, Debug)]
pub struct Fire {
    /// The trigger.
    pub trigger_id: TriggerId,
    /// What for.
    pub cause: Cause,
    /// The execution that it starts: an id that follows from the cause, or a new one where a person asks.
    pub execution_id: ExecutionId,
    /// What the run is given.
    pub input: Json,
    /// How many triggers and child runs lie between the run and a person.
    pub depth: u16,
    /// Whether a refusal goes into the history of the trigger. Otherwise it is the caller's.
    pub note_refusal: bool,
}

/// What came of a fire.
#[derive(Debug)]
pub enum Fired {
    /// The run is requested.
    Started(Box<Decided<Execution>>),
    /// It was before, for the same cause.
    StartedBefore(ExecutionId),
    /// A rule refused it, and the trigger took note.
    Refused,
}

/// Why nothing starts.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FireRejection {
    /// The trigger refuses it.
    #[error(transparent)]
    Trigger(#[from] TriggerRejection),
    /// The workflow or the execution does.
    #[error(transparent)]
    Start(#[from] StartRejection),
    /// The run before is still open, and the schedule starts no other beside it.
    #[error("execution {0}, which the schedule started before, is still open")]
    Overlap(ExecutionId),
    /// One run is open and one more waits for its end.
    #[error("execution {0} waits already for the end of the run before")]
    OverlapQueueFull(ExecutionId),
}

impl From<ExecutionRejection> for FireRejection {
    fn from(rejection: ExecutionRejection) -> Self {
        Self::Start(rejection.into())
    }
}

impl FireRejection {
    /// The rule's stable name, for programs.
    #[must_use]
    pub fn rule(&self) -> &'static str {
        match self {
            Self::Trigger(rejection) => rejection.rule(),
            Self::Start(rejection) => start_rule(rejection),
            Self::Overlap(_) => "overlap",
            Self::OverlapQueueFull(_) => "overlap_queue_full",
        }
    }
}

fn start_rule(rejection: &StartRejection) -> &'static str {
    match rejection {
        StartRejection::Workflow(rejection) => rejection.rule(),
        StartRejection::Execution(ExecutionRejection::TooDeep { .. }) => "triggers_too_deep",
        StartRejection::Execution(_) => "execution_refused",
        StartRejection::Workspace(rejection) => rejection.rule(),
        StartRejection::NodeInput(_) => "node_input_invalid",
        StartRejection::Key(_) => "concurrency_key",
        StartRejection::LimitReached(_) => "limit_reached",
        StartRejection::QueueFull { .. } => "queue_full",
    }
}

/// Decides a fire in a scope: everything that it leads to is noted there for one append.
///
/// # Errors
/// What refuses it, where that is not noted; [`TriggerRejection`] in any case, since a trigger that rests takes no notes.
pub async fn fire(scope: &Scope, fire: &Fire) -> Result<Fired, CommandError<FireRejection>> {
    let trigger = scope.peek::<Trigger>(fire.trigger_id).await?.state;
    let content = match fire.cause {
        Cause::RunNow | Cause::Replay { .. } => trigger.content().ok_or(TriggerRejection::NotFound),
        Cause::Schedule { .. } | Cause::Delivery { .. } | Cause::Event { .. } => trigger.ready(),
    };
    let content = content.map_err(|rejection| CommandError::Rejected(rejection.into()))?;
    if scope.peek::<Execution>(fire.execution_id).await?.exists() {
        if matches!(fire.cause, Cause::Schedule { .. }) {
            note(scope, fire, FireOutcome::StartedBefore(fire.execution_id)).await?;
        }
        return Ok(Fired::StartedBefore(fire.execution_id));
    }
    let rejection = match request(scope, fire, content).await {
        Ok((target, command)) => {
            note(scope, fire, FireOutcome::Started(fire.execution_id)).await?;
            let decided = scope.decide::<Execution>(target, &command).await;
            return Ok(Fired::Started(Box::new(decided.map_err(CommandError::widen)?)));
        }
        Err(CommandError::Rejected(rejection)) if fire.note_refusal => rejection,
        Err(error) => return Err(error),
    };
    let (rule, reason) = (rejection.rule().to_owned(), rejection.to_string());
    note(scope, fire, FireOutcome::Refused { rule, reason }).await?;
    Ok(Fired::Refused)
}

/// The command that requests the run, if everything agrees. Nothing is decided yet but the end of a run that gives way.
async fn request(
    scope: &Scope,
    fire: &Fire,
    content: &Content,
) -> Result<(Target, ExecutionCommand), CommandError<FireRejection>> {
    let Fire { depth, .. } = *fire;
    if depth > MAX_TRIGGER_DEPTH {
        let too_deep = ExecutionRejection::TooDeep { depth, max: MAX_TRIGGER_DEPTH };
        return Err(CommandError::Rejected(too_deep.into()));
    }
    let overlap = match &content.config {
        TriggerConfig::Cron(cron) => cron.overlap,
        TriggerConfig::Webhook(_) | TriggerConfig::Event(_) => Overlap::Allow,
    };
    let before = match (overlap, content.last_execution_id) {
        (Overlap::Allow, _) | (_, None) => None,
        (_, Some(id)) => open_status(scope, id).await?.map(|status| (id, status)),
    };
    let by_time = matches!(fire.cause, Cause::Schedule { .. });
    let refused = |rejection| Err(CommandError::Rejected(rejection));
    let gives_way = match (overlap, before) {
        (Overlap::Skip, Some((id, _))) if by_time => return refused(FireRejection::Overlap(id)),
        (Overlap::Queue, Some((id, Status::Pending | Status::Queued))) if by_time => {
            return refused(FireRejection::OverlapQueueFull(id));
        }
        (Overlap::CancelRunning, Some((id, _))) if by_time => Some(id),
        _ => None,
    };
    let wanted = Start {
        execution_id: fire.execution_id,
        workflow_id: content.workflow_id,
        trigger_type: match content.config {
            TriggerConfig::Cron(_) => TriggerType::Cron,
            TriggerConfig::Webhook(_) => TriggerType::Webhook,
            TriggerConfig::Event(_) => TriggerType::Event,
        },
        input: fire.input.clone(),
        depth,
    };
    let (target, mut command) = start(scope, &wanted).await.map_err(CommandError::widen)?;
    if let ExecutionCommand::Request(request) = &mut command {
        request.trigger_node = Some(content.node_id.clone());
        if overlap == Overlap::Queue {
            // A line of the schedule's own, in which one run stands at a time.
            request.limits.push(ConcurrencyLimit::new(format!("trigger:{}", content.id), 1));
        }
    }
    if let Some(id) = gives_way {
        let cancel = ExecutionCommand::Cancel { reason: CancelReason::Superseded };
        match scope.decide::<Execution>(Target::existing(id), &cancel).await {
            // It ended, or is being cancelled, by itself.
            Ok(_) | Err(CommandError::Rejected(_)) => {}
            Err(error) => return Err(error.widen()),
        }
    }
    Ok((target, command))
}

/// How an execution stands while it is open; none once it has ended.
async fn open_status(
    scope: &Scope,
    id: ExecutionId,
) -> Result<Option<Status>, CommandError<FireRejection>> {
    // Asked of the log, but the append does not rest on it: a run that is busy moves all the time, and one that ends at this very
    // moment was open when its successor was looked for.
    let state = scope.peek_fresh::<Execution>(id).await?.state;
    Ok(state.status().filter(|_| !state.has_ended()))
}

async fn note(
    scope: &Scope,
    fire: &Fire,
    outcome: FireOutcome,
) -> Result<(), CommandError<FireRejection>> {
    let command = TriggerCommand::Fire(FireTrigger { cause: fire.cause.clone(), outcome });
    let target = Target::existing(fire.trigger_id);
    scope.decide::<Trigger>(target, &command).await.map_err(CommandError::widen)?;
    Ok(())
}
