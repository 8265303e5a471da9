//! Slots and lines, led by one process: the loop under the pure [`Dispatch`] of `domain`.
//!
//! Decisions are a function of the fold, so nothing of them needs to be kept: the checkpoint follows the fold, and a new leader decides
//! from where it stands once it has seen everything up to the head of the log as it was when it became the leader. Until then it could
//! give away a slot that is taken.
//!
//! **How much is handed out.** At most [`CLAIMS_PER_FREE_SLOT`] claims wait for each free slot of the workers: enough that no slot stays
//! empty while a claim travels, and so few that a run of a better queue is never far from the front. Executions that no limit concerns
//! hand themselves out in their first append, and count.
//!
//! **Who was lost.** A worker without a live lease has lost its claims, and each is handed out again under the next one. A claim that
//! nobody took for [`DispatchSettings::untaken_grace`] though a slot is free was lost on the way, and is handed out again too.

use std::{collections::HashSet, convert::Infallible, future::pending, sync::Arc, time::Duration};

use chrono::TimeDelta;
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use ledgerline_domain::{
    deployment::DeploymentEvent,
    dispatch::{Dispatch, DispatchDecision},
    event::{AnyEvent, DomainEvent as _, Recorded},
    execution::{Claim, ExecutionCommand, ExecutionEvent},
    id::ExecutionId,
    workspace::WorkspaceEvent,
};
use ledgerline_store::{Fence, Position, Tail};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{
    Commands,
    follow::{Fold, Follower},
    lead::{Lead, Leading, StandDown, Term, TermEnd, lead_until_stopped},
    submit::{Answer, Reaction, carry_out},
};

/// The lease and checkpoint of dispatch.
pub const READER: &str = "dispatch";

/// How many claims may wait for each free slot.
pub const CLAIMS_PER_FREE_SLOT: usize = 2;

/// How many commands are under way at once: enough that each flush of the log is full.
const IN_FLIGHT: usize = 512;

/// The checkpoint moves at most this often.
const SETTLE_EVERY: Duration = Duration::from_millis(500);

/// How dispatch leads and looks after workers.
#[derive(Clone, Debug)]
pub struct DispatchSettings {
    /// How it leads.
    pub leading: Leading,
    /// How often the leases of workers are looked at.
    pub look_every: Duration,
    /// How long a claim may go untaken while slots are free.
    pub untaken_grace: Duration,
}

/// The loop that hands out slots.
pub struct Dispatcher {
    commands: Commands,
    tail: Arc<Tail>,
    settings: DispatchSettings,
}

impl Fold for Dispatch {
    const SHAPE: &'static str = "dispatch-3";

    fn wants(category: &str, r#type: &str) -> bool {
        // What is frequent and means nothing to it; anything else is read, so that a new event is never missed.
        const UNREAD: &[&str] = &[
            "node_started",
            "node_completed",
            "node_failed",
            "node_skipped",
            "timer_set",
            "approval_requested",
            "signal_awaited",
            "signal_consumed",
            "task_offered",
            "task_taken",
            "task_returned",
            "variable_set",
            "loop_iterated",
            "loop_item_failed",
            "usage_recorded",
        ];
        match category {
            ExecutionEvent::CATEGORY => !UNREAD.contains(&r#type),
            WorkspaceEvent::CATEGORY => ["dispatch_paused", "dispatch_resumed"].contains(&r#type),
            _ => category == DeploymentEvent::CATEGORY,
        }
    }

    fn apply(&mut self, event: &Recorded<AnyEvent>) {
        Self::apply(self, event);
    }
}

impl Dispatcher {
    /// Dispatch over these commands and the process's tail.
    #[must_use]
    pub fn new(commands: Commands, tail: Arc<Tail>, settings: DispatchSettings) -> Self {
        Self { commands, tail, settings }
    }

    /// Leads whenever it can, until it is stopped.
    ///
    /// # Errors
    /// [`StandDown`] when the log holds what this process can't read.
    pub async fn run(self, stop: CancellationToken) -> Result<(), StandDown> {
        let leading = &self.settings.leading;
        lead_until_stopped(&self, self.commands.log(), leading, &stop).await
    }

    async fn serve(
        &self,
        term: &mut Term,
        stop: &CancellationToken,
    ) -> Result<Infallible, TermEnd> {
        let restore = self.restore(term.position());
        let follower = term.during(stop, restore).await??;
        let mut desk = Desk {
            dispatcher: self,
            follower,
            in_flight: FuturesUnordered::new(),
            busy: HashSet::new(),
            unseen: HashSet::new(),
            refused: Vec::new(),
            slots: 0,
            look_at: Instant::now(),
            settle_at: Instant::now() + SETTLE_EVERY,
        };
        loop {
            match term.during(stop, desk.wake()).await? {
                Woken::Events(events) => {
                    for event in &events? {
                        desk.take_in(event);
                    }
                    desk.reconsider();
                }
                Woken::Answered(execution_id, answer) => desk.answered(execution_id, answer?),
                Woken::Look => {
                    term.during(stop, desk.look(term.fence())).await?;
                    desk.reconsider();
                }
                Woken::Settle => desk.settle(term).await?,
            }
            desk.hand_out(term);
        }
    }

    /// The fold up to the head of the log as it is now, this process being the leader already.
    async fn restore(&self, checkpoint: Position) -> Result<Follower<Dispatch>, TermEnd> {
        let mut follower =
            Follower::<Dispatch>::restore(&self.commands, &self.tail, READER, checkpoint).await?;
        let head = self.commands.log().head().await;
        let head = head.map_err(|error| TermEnd::store(READER, &error))?.position;
        while follower.position() < head {
            for event in &follower.next().await? {
                follower.fold.apply(event);
            }
        }
        Ok(follower)
    }
}

impl Lead for Dispatcher {
    const READER: &'static str = READER;

    async fn lead(&self, term: &mut Term, stop: &CancellationToken) -> TermEnd {
        match self.serve(term, stop).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }
}

/// What a term of dispatch has on its desk.
struct Desk<'a> {
    dispatcher: &'a Dispatcher,
    follower: Follower<Dispatch>,
    in_flight: FuturesUnordered<BoxFuture<'static, (ExecutionId, Result<Answer, TermEnd>)>>,
    /// The executions that a command is under way to.
    busy: HashSet<ExecutionId>,
    /// The executions that were given a slot whose dispatch was not seen in the log yet: they count like untaken claims.
    unseen: HashSet<ExecutionId>,
    /// Executions that a command was refused for: what they changed to is on its way here.
    refused: Vec<ExecutionId>,
    /// How many executions the live workers run at once, by their leases.
    slots: usize,
    look_at: Instant,
    settle_at: Instant,
}

/// Why the desk woke.
enum Woken {
    Events(Result<Vec<Recorded<AnyEvent>>, TermEnd>),
    Answered(ExecutionId, Result<Answer, TermEnd>),
    Look,
    Settle,
}

impl Desk<'_> {
    /// Waits for something to do. Safe to cancel.
    async fn wake(&mut self) -> Woken {
        let in_flight = &mut self.in_flight;
        let answered = async {
            match in_flight.next().await {
                Some(answered) => answered,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            () = sleep_until(self.look_at) => Woken::Look,
            () = sleep_until(self.settle_at) => Woken::Settle,
            events = self.follower.next() => Woken::Events(events),
            (execution_id, answer) = answered => Woken::Answered(execution_id, answer),
        }
    }

    fn take_in(&mut self, event: &Recorded<AnyEvent>) {
        if let AnyEvent::Execution(ExecutionEvent::ExecutionDispatched(_)) = &event.event {
            self.unseen.remove(&ExecutionId(event.stream));
        }
        self.follower.fold.apply(event);
    }

    /// Decides anew about what was refused, now that more was seen. Not before: the same command would be refused again and again,
    /// and the event that says why would never get its turn.
    fn reconsider(&mut self) {
        for execution_id in self.refused.drain(..) {
            self.follower.fold.forget(execution_id);
        }
    }

    fn answered(&mut self, execution_id: ExecutionId, answer: Answer) {
        self.busy.remove(&execution_id);
        match answer {
            // The event is in the log, and was seen here or is on its way.
            Answer::Applied => {}
            Answer::Nothing => {
                self.unseen.remove(&execution_id);
            }
            // The execution changed, and the event that says so is on its way; or it can't be written, and none will come.
            Answer::Refused | Answer::Failed => {
                self.unseen.remove(&execution_id);
                self.refused.push(execution_id);
            }
        }
    }

    /// Hands out what the free slots allow.
    fn hand_out(&mut self, term: &Term) {
        if self.busy.len() >= IN_FLIGHT {
            return;
        }
        let fold = &mut self.follower.fold;
        let free = self.slots.saturating_sub(fold.running_len());
        let room = CLAIMS_PER_FREE_SLOT * free;
        let room = room.saturating_sub(fold.untaken_len() + self.unseen.len());
        let room = room.min(IN_FLIGHT - self.busy.len());
        for decision in fold.decisions(room) {
            let (execution_id, command) = match decision {
                DispatchDecision::Queue { execution, limit } => {
                    (execution, ExecutionCommand::Queue { limit })
                }
                DispatchDecision::Dispatch { execution, claim } => {
                    self.unseen.insert(execution);
                    (execution, ExecutionCommand::Dispatch { claim })
                }
                DispatchDecision::Cancel { execution, reason } => {
                    (execution, ExecutionCommand::Cancel { reason })
                }
            };
            self.send(term.fence(), execution_id, command);
        }
    }

    fn send(&mut self, fence: Fence, execution_id: ExecutionId, command: ExecutionCommand) {
        self.busy.insert(execution_id);
        let commands = self.dispatcher.commands.clone();
        let told = command.into();
        let reaction = Reaction { cause: None, correlation_id: None, execution_id, told };
        let answer =
            async move { (execution_id, carry_out(&commands, READER, &fence, 0, reaction).await) };
        self.in_flight.push(answer.boxed());
    }

    /// Looks at the leases of workers, and hands out again what was lost.
    async fn look(&mut self, fence: Fence) {
        self.look_at = Instant::now() + self.dispatcher.settings.look_every;
        let leases = match self.dispatcher.commands.log().worker_leases().await {
            Ok(leases) => leases,
            Err(error) => {
                tracing::warn!(%error, "the leases of workers cannot be read");
                return;
            }
        };
        let live = || leases.iter().filter(|lease| !lease.expired);
        self.slots = live().map(|lease| usize::try_from(lease.slots).unwrap_or(0)).sum();
        let fold = &self.follower.fold;
        let is_live = |worker: &str| live().any(|lease| lease.worker == worker);
        let lost = fold.workers().filter(|worker| !is_live(worker));
        let mut claims: Vec<(ExecutionId, Claim)> = Vec::new();
        for worker in lost {
            let lost = fold.claims_of(worker);
            tracing::warn!(worker, claims = lost.len(), "a worker is lost");
            claims.extend(lost);
        }
        if self.slots > fold.running_len() {
            let grace = TimeDelta::from_std(self.dispatcher.settings.untaken_grace);
            let grace = grace.unwrap_or(TimeDelta::MAX);
            let now = self.dispatcher.commands.clock().now();
            claims.extend(
                now.checked_sub_signed(grace)
                    .map(|until| fold.untaken(until))
                    .into_iter()
                    .flatten(),
            );
        }
        metrics::gauge!("ledgerline_dispatch_slots")
            .set(u32::try_from(self.slots).unwrap_or(u32::MAX));
        metrics::gauge!("ledgerline_executions_open")
            .set(u32::try_from(fold.len()).unwrap_or(u32::MAX));
        claims.retain(|(execution_id, _)| !self.busy.contains(execution_id));
        for (execution_id, claim) in claims {
            metrics::counter!("ledgerline_claims_lost_total").increment(1);
            self.send(fence.clone(), execution_id, ExecutionCommand::Redispatch { claim });
        }
    }

    async fn settle(&mut self, term: &mut Term) -> Result<(), TermEnd> {
        self.settle_at = Instant::now() + SETTLE_EVERY;
        self.follower.measure_lag();
        self.follower.settle(term).await
    }
}

#[cfg(test)]
mod tests;
