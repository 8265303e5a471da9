//! The loop under the pure reactions of [`ledgerline_domain::policy`]: events in, commands out.
//!
//! At least once, and harmless when more often: the events of a reaction have ids that derive from its cause, and the checkpoint
//! moves only when every reaction to what lies before it was answered.

use std::{convert::Infallible, sync::Arc, time::Duration};

use ledgerline_domain::{
    audit::AuditEvent,
    event::{AnyEvent, DomainEvent as _, Recorded},
    policy::{PolicyState, react},
    vault::VaultEvent,
    workspace::WorkspaceEvent,
};
use ledgerline_store::Tail;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    Commands,
    follow::{Fold, Follower},
    lead::{Lead, Leading, StandDown, Term, TermEnd, lead_until_stopped},
    submit::{Reaction, submit},
};

/// The lease and checkpoint of the policies.
pub const READER: &str = "policies";

/// The checkpoint moves at most this often while nothing is reacted to: a crash then costs that much reading.
const SETTLE_EVERY: Duration = Duration::from_millis(500);

/// The loop that lets reactions follow on events.
pub struct Policies {
    commands: Commands,
    tail: Arc<Tail>,
    leading: Leading,
}

impl Fold for PolicyState {
    const SHAPE: &'static str = "policies-3";

    fn wants(category: &str, r#type: &str) -> bool {
        // What is frequent and means nothing to it; anything else is read, so that a new event is never missed.
        const UNREAD: &[&str] = &[
            "workflow_created",
            "draft_saved",
            "execution_queued",
            "execution_dispatched",
            "execution_started",
            "execution_resumed",
            "execution_waiting",
            "node_started",
            "node_completed",
            "node_failed",
            "node_skipped",
            "loop_iterated",
            "loop_item_failed",
            "node_resolved",
            "timer_set",
            "timer_fired",
            "approval_requested",
            "approval_given",
            "approval_refused",
            "approval_timed_out",
            "signal_awaited",
            "signal_received",
            "signal_consumed",
            "task_offered",
            "task_taken",
            "task_returned",
            "task_completed",
            "task_failed",
            "variable_set",
            "usage_recorded",
        ];
        match category {
            WorkspaceEvent::CATEGORY => r#type == "workspace_deletion_requested",
            VaultEvent::CATEGORY | AuditEvent::CATEGORY => false,
            _ => !UNREAD.contains(&r#type),
        }
    }

    fn apply(&mut self, event: &Recorded<AnyEvent>) {
        Self::apply(self, event);
    }
}

impl Policies {
    /// Policies over these commands and the process's tail.
    #[must_use]
    pub fn new(commands: Commands, tail: Arc<Tail>, leading: Leading) -> Self {
        Self { commands, tail, leading }
    }

    /// Leads whenever it can, until it is stopped.
    ///
    /// # Errors
    /// [`StandDown`] when the log holds what this process can't read.
    pub async fn run(self, stop: CancellationToken) -> Result<(), StandDown> {
        lead_until_stopped(&self, self.commands.log(), &self.leading, &stop).await
    }

    async fn follow(
        &self,
        term: &mut Term,
        stop: &CancellationToken,
    ) -> Result<Infallible, TermEnd> {
        let restore =
            Follower::<PolicyState>::restore(&self.commands, &self.tail, READER, term.position());
        let mut follower = term.during(stop, restore).await??;
        let mut settled_at = Instant::now();
        loop {
            let idle = timeout(SETTLE_EVERY, follower.next());
            let events = match term.during(stop, idle).await? {
                Ok(events) => events?,
                Err(_) => Vec::new(),
            };
            let reactions = reactions(&mut follower.fold, &events);
            let reacts = !reactions.is_empty();
            if reacts {
                let fence = term.fence();
                let answered = submit(&self.commands, READER, &fence, reactions);
                term.during(stop, answered).await??;
            }
            if reacts || settled_at.elapsed() >= SETTLE_EVERY {
                follower.settle(term).await?;
                follower.measure_lag();
                settled_at = Instant::now();
            }
        }
    }
}

impl Lead for Policies {
    const READER: &'static str = READER;

    async fn lead(&self, term: &mut Term, stop: &CancellationToken) -> TermEnd {
        match self.follow(term, stop).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }
}

/// What follows on events, each seen with the state before it.
fn reactions(state: &mut PolicyState, events: &[Recorded<AnyEvent>]) -> Vec<Reaction> {
    let mut reactions = Vec::new();
    for event in events {
        reactions.extend(react(state, event).into_iter().map(|reaction| Reaction {
            cause: Some(reaction.cause),
            correlation_id: Some(event.metadata.correlation_id),
            execution_id: reaction.execution,
            told: reaction.told,
        }));
        state.apply(event);
    }
    reactions
}

#[cfg(test)]
mod tests;
