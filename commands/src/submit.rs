//! Commands that follow from events, submitted beside each other but in order for each stream.

use std::{collections::HashMap, time::Duration};

use futures_util::{StreamExt as _, stream};
use ledgerline_domain::{
    event::Actor,
    execution::{Execution, ExecutionCommand},
    id::{CorrelationId, EventId, ExecutionId},
};
use ledgerline_store::Fence;
use tokio::time::sleep;

use crate::{CommandError, Commands, Context, EventIds, LoadError, Target, lead::TermEnd};

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
    pub(crate) command: ExecutionCommand,
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
    let Reaction { cause, correlation_id, execution_id, command } = reaction;
    let ids = cause.map_or(EventIds::Fresh, |cause| EventIds::Derived {
        cause,
        // Two reactions to one event on one stream must not make the same ids.
        purpose: if nth == 0 { reader.to_owned() } else { format!("{reader}/{nth}") },
    });
    let actor = Actor::system(reader);
    let context = Context { correlation_id, ids, causation_id: cause, ..Context::new(actor) };
    let context = context.fenced(fence.clone());
    let target = Target::existing(execution_id);
    let mut wait = FIRST_WAIT;
    loop {
        let error = match commands.execute::<Execution>(target, &command, &context).await {
            Ok(executed) if executed.events.is_empty() => return Ok(Answer::Nothing),
            Ok(_) => return Ok(Answer::Applied),
            Err(error) => error,
        };
        match error {
            CommandError::Rejected(rejection) => {
                tracing::debug!(reader, %execution_id, %rejection, "the execution had moved on");
                return Ok(Answer::Refused);
            }
            error if error.may_pass() => {
                tracing::warn!(reader, %execution_id, %error, "a reaction waits");
                sleep(wait).await;
                wait = (wait * 2).min(LONGEST_WAIT);
            }
            CommandError::Fenced { .. } => return Err(TermEnd::Lost),
            // The log holds each derived id once: the reaction was carried out before, and the execution has changed since.
            CommandError::DuplicateEvent if cause.is_some() => {
                tracing::warn!(reader, %execution_id, "a reaction is not repeated");
                return Ok(Answer::Nothing);
            }
            CommandError::Load(source @ LoadError::UnknownEvent { .. }) => {
                return Err(TermEnd::unreadable(reader, source));
            }
            error => {
                metrics::counter!("ledgerline_policy_failures_total", "policy" => reader)
                    .increment(1);
                tracing::error!(reader, %execution_id, %error, "a reaction cannot be carried out");
                return Ok(Answer::Failed);
            }
        }
    }
}
