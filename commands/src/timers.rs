//! Due times become commands. One process leads; the times are rows in Postgres, so nothing is lost with a process.
//!
//! A due time is removed by the append of the event that it led to. One whose command had nothing to do (the run has ended, the node
//! was tried again) is removed here. Firing one twice is harmless: the second finds that nobody waits for it.

use std::{collections::HashSet, time::Duration};

use futures_util::{StreamExt as _, stream};
use ledgerline_domain::{
    Aggregate,
    event::Actor,
    execution::{Execution, ExecutionCommand},
    workspace::Workspace,
};
use ledgerline_store::{DueKey, DueTime, Fence};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    CommandError, Commands, Context, LoadError, Target,
    due::{FIRE, timer_of, workspace_command},
    lead::{Lead, Leading, StandDown, Term, TermEnd, lead_until_stopped},
    schedules::{Settled, fire_due},
};

/// The lease under which due times are fired.
pub const READER: &str = "timers";

/// How many due times are taken at once.
const BATCH: usize = 2_000;

/// How many are fired beside each other: enough that each flush of the log is full.
const CONCURRENT: usize = 256;

/// How long an earlier time that another process appended may go unseen.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// At most this often the next time is asked for while this process appends new ones.
const SETTLE: Duration = Duration::from_millis(10);

/// How long to wait after the log refused for a while.
const BACK_OFF: Duration = Duration::from_millis(200);

/// The loop that fires due times.
pub struct Timers {
    commands: Commands,
    leading: Leading,
}

/// What became of one due time.
enum Fired {
    /// Its event is in the log and its row is gone.
    Applied,
    /// Nobody waits for it: the row must go.
    Nothing(DueKey),
    /// The log refuses for a while.
    Later,
    /// It can't be fired at all; a person has to look.
    Stuck(DueKey),
    /// This process must stop leading.
    End(TermEnd),
}

impl Timers {
    /// Timers over these commands.
    #[must_use]
    pub fn new(commands: Commands, leading: Leading) -> Self {
        Self { commands, leading }
    }

    /// Leads whenever it can, until it is stopped.
    ///
    /// # Errors
    /// [`StandDown`] when the log holds what this process can't read.
    pub async fn run(self, stop: CancellationToken) -> Result<(), StandDown> {
        lead_until_stopped(&self, self.commands.log(), &self.leading, &stop).await
    }

    async fn watch(&self, term: &mut Term, stop: &CancellationToken) -> TermEnd {
        let mut stuck = HashSet::new();
        loop {
            let fence = term.fence();
            let round = match term.during(stop, self.round(&fence, &mut stuck)).await {
                Ok(round) => round,
                Err(ended) => return ended,
            };
            let waited = match round {
                Ok(Next::Now) => continue,
                Ok(Next::Wait) => term.during(stop, self.wait(stuck.is_empty())).await,
                Ok(Next::BackOff) => term.during(stop, sleep(BACK_OFF)).await,
                Err(ended) => return ended,
            };
            if let Err(ended) = waited {
                return ended;
            }
        }
    }

    /// Fires what is due now.
    async fn round(&self, fence: &Fence, stuck: &mut HashSet<DueKey>) -> Result<Next, TermEnd> {
        let now = self.commands.clock().now();
        let log = self.commands.log();
        // The stuck ones are the earliest and would fill the batch for ever.
        let due = log.due(now, BATCH + stuck.len()).await;
        let due = due.map_err(|error| TermEnd::store(READER, &error))?;
        let due: Vec<DueTime> = due.into_iter().filter(|due| !stuck.contains(&due.due)).collect();
        if due.is_empty() {
            return Ok(Next::Wait);
        }
        let lateness = now - due[0].due_at;
        metrics::gauge!("ledgerline_timers_late_seconds")
            .set(lateness.to_std().unwrap_or_default().as_secs_f64());
        let fired = stream::iter(due).map(|due| self.fire(due, fence)).buffer_unordered(CONCURRENT);
        let fired: Vec<Fired> = fired.collect().await;
        let (mut done, mut next) = (Vec::new(), Next::Now);
        for fired in fired {
            match fired {
                Fired::Applied => {}
                Fired::Nothing(key) => done.push(key),
                Fired::Later => next = Next::BackOff,
                Fired::Stuck(key) => {
                    stuck.insert(key);
                }
                Fired::End(ended) => return Err(ended),
            }
        }
        metrics::gauge!("ledgerline_timers_stuck")
            .set(u32::try_from(stuck.len()).unwrap_or(u32::MAX));
        if !done.is_empty() {
            let removed = log.remove_due(&done).await;
            removed.map_err(|error| TermEnd::store(READER, &error))?;
        }
        Ok(next)
    }

    async fn fire(&self, due: DueTime, fence: &Fence) -> Fired {
        let DueTime { due, .. } = due;
        if due.kind == FIRE {
            return self.fire_schedule(due, fence).await;
        }
        if let Some(command) = workspace_command(&due) {
            return match self.tell::<Workspace>(due.clone(), &command, fence).await {
                // Its event does not name the time that it waited for, so the row is removed here.
                Fired::Applied => Fired::Nothing(due),
                other => other,
            };
        }
        let Some((kind, path, attempt)) = timer_of(&due) else {
            tracing::error!(stream = %due.stream, kind = due.kind, "a due time of an unknown kind");
            return Fired::Stuck(due);
        };
        let command = ExecutionCommand::FireTimer { path, attempt, kind };
        self.tell::<Execution>(due, &command, fence).await
    }

    /// Tells the aggregate whose time has come.
    async fn tell<A: Aggregate>(&self, due: DueKey, command: &A::Command, fence: &Fence) -> Fired {
        let context = Context::new(Actor::system(READER)).fenced(fence.clone());
        let target = Target::existing(due.stream.0);
        match self.commands.execute::<A>(target, command, &context).await {
            Ok(executed) if executed.events.is_empty() => Fired::Nothing(due),
            Ok(_) => {
                metrics::counter!("ledgerline_timers_fired_total", "kind" => due.kind).increment(1);
                Fired::Applied
            }
            Err(CommandError::Rejected(rejection)) => {
                tracing::debug!(stream = %due.stream, %rejection, "a due time nobody waits for");
                Fired::Nothing(due)
            }
            Err(error) if error.may_pass() => Fired::Later,
            Err(CommandError::Fenced { .. }) => Fired::End(TermEnd::Lost),
            Err(CommandError::Load(source @ LoadError::UnknownEvent { .. })) => {
                Fired::End(TermEnd::unreadable(READER, source))
            }
            Err(error) => {
                tracing::error!(stream = %due.stream, kind = due.kind, %error, "a due time cannot be fired");
                Fired::Stuck(due)
            }
        }
    }

    async fn fire_schedule(&self, due: DueKey, fence: &Fence) -> Fired {
        match fire_due(&self.commands, due.stream, fence).await {
            Ok(Settled::Done) => {
                metrics::counter!("ledgerline_timers_fired_total", "kind" => FIRE).increment(1);
                Fired::Applied
            }
            Ok(Settled::Nothing) => Fired::Nothing(due),
            Ok(Settled::NotYet) => Fired::Later,
            // It was paused, turned off or fired by another process at this very moment, which set or removed the row.
            Err(CommandError::Rejected(rejection)) => {
                tracing::debug!(stream = %due.stream, %rejection, "a fire time somebody else took care of");
                Fired::Later
            }
            Err(error) if error.may_pass() => Fired::Later,
            Err(CommandError::Fenced { .. }) => Fired::End(TermEnd::Lost),
            Err(CommandError::Load(source @ LoadError::UnknownEvent { .. })) => {
                Fired::End(TermEnd::unreadable(READER, source))
            }
            Err(error) => {
                tracing::error!(stream = %due.stream, %error, "a schedule cannot be fired");
                Fired::Stuck(due)
            }
        }
    }

    /// Waits for the next due time, or for an earlier one.
    async fn wait(&self, none_stuck: bool) {
        let next = match self.commands.log().next_due().await {
            Ok(next) => next,
            Err(error) => {
                tracing::warn!(%error, "failed to ask for the next due time");
                None
            }
        };
        let wait = match next.map(|next| (next - self.commands.clock().now()).to_std()) {
            Some(Ok(until)) => until.clamp(Duration::from_millis(1), LOOK_AGAIN),
            Some(Err(_)) if none_stuck => return,
            Some(Err(_)) | None => LOOK_AGAIN,
        };
        if timeout(wait, self.commands.due_set()).await.is_ok() {
            sleep(SETTLE.min(wait)).await;
        }
    }
}

impl Lead for Timers {
    const READER: &'static str = READER;

    async fn lead(&self, term: &mut Term, stop: &CancellationToken) -> TermEnd {
        self.watch(term, stop).await
    }
}

/// What follows on a round.
enum Next {
    /// More may be due.
    Now,
    /// Nothing is.
    Wait,
    /// The log refuses for a while.
    BackOff,
}

#[cfg(test)]
mod tests;
