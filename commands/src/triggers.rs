//! Keeps triggers in line with their workflows.
//!
//! One process leads. It follows the log at least once, and what it tells is mostly true already. A workflow's triggers are not told what an event says but what the workflow says when it is looked at, and
//! the append rests on that, so late or repeated news changes nothing.

use std::{collections::BTreeSet, convert::Infallible, future::Future, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use ledgerline_domain::{
    event::{Actor, AnyEvent, DomainEvent as _, Recorded},
    id::{TriggerId, WorkflowId},
    trigger::{
        ArmTrigger, OffReason, Trigger, TriggerCommand, TriggerEvent, TriggerIndex,
        TriggerRejection, Wanted, concerns_triggers, wanted,
    },
    workflow::{Workflow, WorkflowEvent},
};
use ledgerline_store::{Fence, Tail};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    CommandError, Commands, Context, LoadError, Scope, Target, Transacted,
    follow::{Fold, Follower},
    lead::{Lead, Leading, StandDown, Term, TermEnd, lead_until_stopped},
};

/// The lease and checkpoint of the triggers' policy.
pub const READER: &str = "triggers";

/// The checkpoint moves at most this often while there is nothing to do: a crash then costs that much reading.
const SETTLE_EVERY: Duration = Duration::from_millis(500);

/// How many triggers are told something beside each other.
const CONCURRENT: usize = 64;

/// The wait before a refusal that may pass is tried again, doubled each time up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(20);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// The loop that keeps triggers in line.
pub struct Triggers {
    commands: Commands,
    tail: Arc<Tail>,
    leading: Leading,
}

impl Fold for TriggerIndex {
    const SHAPE: &'static str = "triggers-1";

    fn wants(category: &str, r#type: &str) -> bool {
        match category {
            TriggerEvent::CATEGORY => {
                matches!(r#type, "trigger_armed" | "trigger_disarmed")
            }
            // Drafts hold whole definitions and concern no trigger.
            WorkflowEvent::CATEGORY => !matches!(r#type, "workflow_created" | "draft_saved"),
            _ => false,
        }
    }

    fn apply(&mut self, event: &Recorded<AnyEvent>) {
        Self::apply(self, event);
    }
}

impl Triggers {
    /// The policy over these commands and the process's tail.
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
            Follower::<TriggerIndex>::restore(&self.commands, &self.tail, READER, term.position());
        let mut follower = term.during(stop, restore).await??;
        let mut settled_at = Instant::now();
        loop {
            let idle = timeout(SETTLE_EVERY, follower.next());
            let events = match term.during(stop, idle).await? {
                Ok(events) => events?,
                Err(_) => Vec::new(),
            };
            let mut moved = BTreeSet::new();
            for recorded in &events {
                follower.fold.apply(recorded);
                if let AnyEvent::Workflow(event) = &recorded.event
                    && concerns_triggers(event)
                {
                    moved.insert(WorkflowId(recorded.stream));
                }
            }
            let acts = !moved.is_empty();
            if acts {
                let fence = term.fence();
                let aligned = self.align(&follower.fold, moved, &fence);
                term.during(stop, aligned).await??;
            }
            if acts || settled_at.elapsed() >= SETTLE_EVERY {
                follower.settle(term).await?;
                follower.measure_lag();
                settled_at = Instant::now();
            }
        }
    }

    /// Brings the triggers of workflows in line with what those say now.
    async fn align(
        &self,
        index: &TriggerIndex,
        workflows: BTreeSet<WorkflowId>,
        fence: &Fence,
    ) -> Result<(), TermEnd> {
        let mut told = Vec::new();
        for workflow in workflows {
            let loaded = self.commands.load::<Workflow>(workflow).await;
            let loaded = loaded.map_err(|error| TermEnd::unreadable(READER, error))?;
            let mut triggers: BTreeSet<TriggerId> = index.of_workflow(workflow).collect();
            if let Wanted::Nodes { nodes, .. } = wanted(&loaded.state) {
                triggers.extend(nodes.iter().map(|(node, _)| TriggerId::of(workflow, node)));
            }
            told.extend(triggers.into_iter().map(|trigger| (workflow, trigger)));
        }
        let mut telling = stream::iter(told)
            .map(|(workflow, trigger)| align_one(&self.commands, workflow, trigger, fence))
            .buffer_unordered(CONCURRENT);
        while let Some(told) = telling.next().await {
            told?;
        }
        Ok(())
    }
}

impl Lead for Triggers {
    const READER: &'static str = READER;

    async fn lead(&self, term: &mut Term, stop: &CancellationToken) -> TermEnd {
        match self.follow(term, stop).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }
}

/// Tells one trigger how it stands, as the workflow says at the moment of the append.
async fn align_one(
    commands: &Commands,
    workflow_id: WorkflowId,
    trigger_id: TriggerId,
    fence: &Fence,
) -> Result<(), TermEnd> {
    let context = Context::new(Actor::system(READER)).fenced(fence.clone());
    let plan = |scope: Scope| async move {
        let workflow = scope.read::<Workflow>(workflow_id).await?.state;
        let Some(workspace_id) = workflow.content().map(|content| content.workspace_id) else {
            return Ok(());
        };
        let command = match wanted(&workflow) {
            Wanted::Off(reason) => TriggerCommand::Disarm { reason },
            Wanted::Nodes { version, nodes, off } => {
                let mut nodes = nodes.into_iter();
                let is_it = |node: &(String, _)| TriggerId::of(workflow_id, &node.0) == trigger_id;
                match nodes.find(is_it) {
                    None => TriggerCommand::Disarm { reason: OffReason::NodeRemoved },
                    Some((node_id, config)) => TriggerCommand::Arm(Box::new(ArmTrigger {
                        workspace_id,
                        workflow_id,
                        node_id,
                        workflow_version: version,
                        config,
                        off,
                    })),
                }
            }
        };
        let target = Target::new(trigger_id, workspace_id);
        scope.decide::<Trigger>(target, &command).await?;
        Ok::<(), CommandError<TriggerRejection>>(())
    };
    match until_answered(|| commands.transact(&context, plan)).await? {
        Ok(_) => {}
        Err(error) => {
            metrics::counter!("ledgerline_policy_failures_total", "policy" => READER).increment(1);
            tracing::error!(%workflow_id, %trigger_id, %error, "a trigger cannot be brought in line");
        }
    }
    Ok(())
}

/// Asks again while the log refuses for a while. What ends the term is an error of its own.
async fn until_answered<T, E, F, Fut>(
    ask: F,
) -> Result<Result<Transacted<T>, CommandError<E>>, TermEnd>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<Transacted<T>, CommandError<E>>>,
    E: std::fmt::Display,
{
    let mut wait = FIRST_WAIT;
    loop {
        match ask().await {
            Err(error) if error.may_pass() => {
                tracing::warn!(reader = READER, %error, "a trigger waits");
                sleep(wait).await;
                wait = (wait * 2).min(LONGEST_WAIT);
            }
            Err(CommandError::Fenced { .. }) => return Err(TermEnd::Lost),
            Err(CommandError::Load(source @ LoadError::UnknownEvent { .. })) => {
                return Err(TermEnd::unreadable(READER, source));
            }
            answered => return Ok(answered),
        }
    }
}
