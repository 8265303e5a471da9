//! Fire times become runs. Due times of schedules are rows beside those of executions, and the same leader fires both (`timers`).

use ledgerline_domain::{
    event::Actor,
    id::{CorrelationId, TriggerId},
    json::Json,
    schedule::Due,
    trigger::{Cause, Content, Trigger, TriggerCommand, TriggerConfig},
};
use ledgerline_store::{Fence, StreamId};
use serde_json::json;

use crate::{
    CommandError, Commands, Context, Scope, Target, Transacted,
    fire::{Fire, FireRejection, fire},
};

/// The part of the system that schedules are fired by.
pub const ACTOR: &str = "schedules";

/// What came of a due time of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// It is in the log what was done, and the row is the next one's.
    Done,
    /// Nobody waits for it any more.
    Nothing,
    /// It has not come yet: the clock went back.
    NotYet,
}

/// Does what is due of a schedule now: one fire time, or all that are too late.
pub(crate) async fn fire_due(
    commands: &Commands,
    stream: StreamId,
    fence: &Fence,
) -> Result<Settled, CommandError<FireRejection>> {
    let id = TriggerId(stream.0);
    // Each fire begins something of its own; without this it would belong to what the trigger's first event did.
    let correlation = CorrelationId(commands.clock().new_id());
    let context = Context::new(Actor::system(ACTOR)).correlated(correlation).fenced(fence.clone());
    let done = commands.transact(&context, |scope: Scope| settle(scope, id)).await;
    match done {
        Ok(Transacted::Applied { value, .. } | Transacted::Unchanged { value }) => Ok(value),
        Ok(Transacted::Repeated { .. }) => Ok(Settled::Done),
        Err(error) => Err(error),
    }
}

async fn settle(scope: Scope, id: TriggerId) -> Result<Settled, CommandError<FireRejection>> {
    let trigger = scope.peek::<Trigger>(id).await?.state;
    let Some((fire_at, due)) = trigger.due(scope.now()) else { return Ok(Settled::Nothing) };
    match due {
        Due::NotYet => return Ok(Settled::NotYet),
        Due::Missed(_) => {
            let target = Target::existing(id);
            let missed = scope.decide::<Trigger>(target, &TriggerCommand::Miss).await;
            missed.map_err(CommandError::widen)?;
        }
        Due::Fire => {
            let content = trigger.content().expect("what is due has content");
            let wanted = Fire {
                trigger_id: id,
                cause: Cause::Schedule { fire_at },
                execution_id: id.execution(&["schedule", &fire_at.to_rfc3339()]),
                input: input(content, Some(fire_at)),
                depth: 0,
                note_refusal: true,
            };
            fire(&scope, &wanted).await?;
        }
    }
    Ok(Settled::Done)
}

/// What a run of a schedule is given. `fire_at` is none for a run that somebody asked for.
#[must_use]
pub fn input(content: &Content, fire_at: Option<chrono::DateTime<chrono::Utc>>) -> Json {
    let TriggerConfig::Cron(cron) = &content.config else { return Json::null() };
    let local = fire_at.and_then(|at| Some(cron.schedule()?.local(at)));
    Json::from_value(&json!({
        "schedule_id": content.id,
        "fire_at": fire_at,
        "local_time": local,
        "timezone": cron.timezone,
        "payload": cron.payload.to_value(),
    }))
}

#[cfg(test)]
mod tests;
