//! Commands that follow from events, submitted beside each other but in order for each stream.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use ledgerline_domain::{
    event::Actor,
    execution::{ChildEnd, Execution, ExecutionCommand, Parent},
    id::{CorrelationId, EventId, ExecutionId},
    policy::{NewRun, Told},
};
use ledgerline_store::Fence;
use tokio::time::sleep;

use crate::{
    CommandError, Commands, Context, EventIds, Executed, LoadError, Target,
    lead::TermEnd,
    start::{self, StartRejection},
};

/// How many streams are written beside each other: enough that each flush of the log is full.
const CONCURRENT: usize = 256;

/// The wait before a refusal that may pass is tried again, doubled each time up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(20);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// A command on an execution that follows from an event.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reaction {
    /// The event; `None` where a lease or the time led to it.
    pub(crate) cause: Option<EventId>,
    /// What that belongs to; `None`: what the execution belongs to.
    pub(crate) correlation_id: Option<CorrelationId>,
    /// The execution.
    pub(crate) execution_id: ExecutionId,
    /// What it is told.
    pub(crate) told: Told,
}

/// What became of a reaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Its events are in the log.
    Applied,
    /// It was true already, so this was a redelivery, or somebody else was first.
    Nothing,
    /// A rule of the domain refuses it: the execution moved on in the meantime.
    Refused,
    /// It can't be carried out at all; a person has to look.
    Failed,
}

/// Submits reactions and waits for all answers, given in the order of the reactions. What the log refuses for a while is tried again
/// until the term ends.
pub(crate) async fn submit(
    commands: &Commands,
    reader: &'static str,
    fence: &Fence,
    reactions: Vec<Reaction>,
) -> Result<Vec<Answer>, TermEnd> {
    let mut answers = vec![Answer::Nothing; reactions.len()];
    let mut lines: HashMap<ExecutionId, Vec<(usize, Reaction)>> = HashMap::new();
    let mut order = Vec::new();
    for (index, reaction) in reactions.into_iter().enumerate() {
        let line = lines.entry(reaction.execution_id).or_insert_with(|| {
            order.push(reaction.execution_id);
            Vec::new()
        });
        line.push((index, reaction));
    }
    let lines = order.into_iter().filter_map(|execution_id| lines.remove(&execution_id));
    let mut answered = stream::iter(lines)
        .map(|line| async move {
            let mut answers = Vec::with_capacity(line.len());
            let mut causes: Vec<Option<EventId>> = Vec::with_capacity(line.len());
            for (index, reaction) in line {
                let nth = causes.iter().filter(|cause| **cause == reaction.cause).count();
                causes.push(reaction.cause);
                answers.push((index, carry_out(commands, reader, fence, nth, reaction).await?));
            }
            Ok(answers)
        })
        .buffer_unordered(CONCURRENT);
    while let Some(line) = answered.next().await {
        for (index, answer) in line? {
            answers[index] = answer;
        }
    }
    Ok(answers)
}

/// Carries out one reaction, the `nth` of its cause on its stream.
pub(crate) async fn carry_out(
    commands: &Commands,
    reader: &'static str,
    fence: &Fence,
    nth: usize,
    reaction: Reaction,
) -> Result<Answer, TermEnd> {
    let Reaction { cause, correlation_id, execution_id, told } = reaction;
    let actor = Actor::system(reader);
    let context = Context { correlation_id, causation_id: cause, ..Context::new(actor) };
    let context = context.fenced(fence.clone());
    // Two reactions to one event on one stream must not make the same ids.
    let purpose = if nth == 0 { reader.to_owned() } else { format!("{reader}/{nth}") };
    let ids = |purpose| cause.map_or(EventIds::Fresh, |cause| EventIds::Derived { cause, purpose });
    let told_with = |purpose| Context { ids: ids(purpose), ..context.clone() };
    match told {
        Told::Command(command) => {
            tell(commands, reader, &told_with(purpose), execution_id, &command).await
        }
        Told::Start(run) => {
            let settled = begin(commands, reader, &told_with(purpose), execution_id, &run).await?;
            let reason = match settled {
                Ok(answer) => return Ok(answer),
                Err(rejection) => rejection.to_string(),
            };
            // Its workflow may refuse by now what it let in when this was carried out before.
            match state_of(commands, reader, execution_id).await? {
                Ok(state) if state.run().is_some() => return Ok(Answer::Nothing),
                Ok(_) => {}
                Err(answer) => return Ok(answer),
            }
            tracing::debug!(reader, %execution_id, %reason, "a run that was to follow is refused");
            let Some(parent) = run.parent.filter(|parent| parent.waits) else {
                return Ok(Answer::Refused);
            };
            let (path, attempt) = (parent.path, parent.attempt);
            let end = ChildEnd::Refused { reason };
            let command = ExecutionCommand::FinishChild { path, attempt, child: execution_id, end };
            let context = told_with(format!("{reader}/refused"));
            tell(commands, reader, &context, parent.execution_id, &command).await
        }
    }
}

/// Tells an execution something; a refusal means that it moved on.
async fn tell(
    commands: &Commands,
    reader: &'static str,
    context: &Context,
    execution_id: ExecutionId,
    command: &ExecutionCommand,
) -> Result<Answer, TermEnd> {
    let target = Target::existing(execution_id);
    let try_it = || commands.execute::<Execution>(target, command, context);
    Ok(insist(reader, execution_id, context, try_it).await?.unwrap_or_else(|rejection| {
        tracing::debug!(reader, %execution_id, %rejection, "the execution had moved on");
        Answer::Refused
    }))
}

/// Requests a run, unless it is a child that nobody waits for any more.
async fn begin(
    commands: &Commands,
    reader: &'static str,
    context: &Context,
    execution_id: ExecutionId,
    run: &NewRun,
) -> Result<Result<Answer, StartRejection>, TermEnd> {
    if let Some(parent) = run.parent.as_ref().filter(|parent| parent.waits) {
        let state = match state_of(commands, reader, parent.execution_id).await? {
            Ok(state) => state,
            Err(answer) => return Ok(Ok(answer)),
        };
        let Parent { path, attempt, .. } = parent;
        let waits = state.awaits_child(path, *attempt, execution_id);
        if !waits {
            return Ok(Ok(Answer::Nothing));
        }
    }
    let try_it = || {
        commands.execute_with::<Execution, StartRejection, _, _>(context, |scope| async move {
            start::follow(&scope, execution_id, run).await
        })
    };
    insist(reader, execution_id, context, try_it).await
}

/// An execution as the log has it; where it can't be read at all, the answer to its reaction.
async fn state_of(
    commands: &Commands,
    reader: &'static str,
    execution_id: ExecutionId,
) -> Result<Result<Arc<Execution>, Answer>, TermEnd> {
    let mut wait = FIRST_WAIT;
    loop {
        let error = match commands.load::<Execution>(execution_id).await {
            Ok(found) => return Ok(Ok(found.state)),
            Err(error) => error,
        };
        match CommandError::<StartRejection>::from(error) {
            error if error.may_pass() => pause(reader, &mut wait, &error).await,
            CommandError::Load(source @ LoadError::UnknownEvent { .. }) => {
                return Err(TermEnd::unreadable(reader, source));
            }
            error => return Ok(Err(failed(reader, execution_id, &error))),
        }
    }
}

/// Tries again what the log refuses for a while. Answers what came of it, or which rule of the domain refuses it.
async fn insist<R, F>(
    reader: &'static str,
    execution_id: ExecutionId,
    context: &Context,
    mut try_it: impl FnMut() -> F,
) -> Result<Result<Answer, R>, TermEnd>
where
    R: std::error::Error + Send + Sync + 'static,
    F: Future<Output = Result<Executed<Execution>, CommandError<R>>>,
{
    let mut wait = FIRST_WAIT;
    loop {
        let error = match try_it().await {
            Ok(executed) if executed.events.is_empty() => return Ok(Ok(Answer::Nothing)),
            Ok(_) => return Ok(Ok(Answer::Applied)),
            Err(error) => error,
        };
        match error {
            CommandError::Rejected(rejection) => return Ok(Err(rejection)),
            error if error.may_pass() => pause(reader, &mut wait, &error).await,
            CommandError::Fenced { .. } => return Err(TermEnd::Lost),
            // The log holds each derived id once: the reaction was carried out before, and the execution has changed since.
            CommandError::DuplicateEvent if context.causation_id.is_some() => {
                tracing::warn!(reader, %execution_id, "a reaction is not repeated");
                return Ok(Ok(Answer::Nothing));
            }
            CommandError::Load(source @ LoadError::UnknownEvent { .. }) => {
                return Err(TermEnd::unreadable(reader, source));
            }
            error => return Ok(Ok(failed(reader, execution_id, &error))),
        }
    }
}

async fn pause(
    reader: &'static str,
    wait: &mut Duration,
    error: &(dyn std::error::Error + Send + Sync),
) {
    tracing::warn!(reader, %error, "a reaction waits");
    sleep(*wait).await;
    *wait = (*wait * 2).min(LONGEST_WAIT);
}

fn failed(
    reader: &'static str,
    execution_id: ExecutionId,
    error: &dyn std::error::Error,
) -> Answer {
    metrics::counter!("ledgerline_policy_failures_total", "policy" => reader).increment(1);
    tracing::error!(reader, %execution_id, %error, "a reaction cannot be carried out");
    Answer::Failed
}
