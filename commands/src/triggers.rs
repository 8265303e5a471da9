//! Keeps triggers in line with their workflows, and starts workflows from events of the log.
//!
//! One process leads. It follows the log at least once; what it does is a repeat of what is true already, or has ids that follow from
//! its cause. A workflow's triggers are not told what an event says but what the workflow says when it is looked at, and
//! the append rests on that, so late or repeated news changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    future::Future,
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use ledgerline_domain::{
    event::{Actor, AnyEvent, DomainEvent as _, Metadata, Recorded},
    execution::{Execution, ExecutionEvent},
    expression::{self, Expression},
    id::{EventId, TriggerId, WorkflowId, WorkspaceId},
    json::Json,
    trigger::{
        ArmTrigger, Cause, FireOutcome, FireTrigger, OffReason, Trigger, TriggerCommand,
        TriggerEvent, TriggerIndex, TriggerRejection, Wanted, concerns_all_triggers,
        concerns_triggers, wanted,
    },
    workflow::{Workflow, WorkflowEvent},
    workspace::{Workspace, WorkspaceEvent},
};
use ledgerline_store::{EventLog, Fence, RecordedEvent, Tail};
use serde_json::json;
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    CommandError, Commands, Context, LoadError, Scope, Target, Transacted,
    definitions::at_hand,
    fire::{Fire, FireRejection, fire},
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
    const SHAPE: &'static str = "triggers-2";

    fn wants(category: &str, r#type: &str) -> bool {
        match category {
            TriggerEvent::CATEGORY => {
                matches!(r#type, "trigger_armed" | "trigger_disarmed")
            }
            // Drafts hold whole definitions and concern no trigger.
            WorkflowEvent::CATEGORY => !matches!(r#type, "workflow_created" | "draft_saved"),
            WorkspaceEvent::CATEGORY => matches!(
                r#type,
                "workspace_deletion_requested" | "workspace_restored" | "workspace_deleted"
            ),
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
            let idle = timeout(SETTLE_EVERY, follower.next_rows());
            let rows = match term.during(stop, idle).await? {
                Ok(rows) => rows?,
                Err(_) => Vec::new(),
            };
            let (mut moved, mut heard) = (BTreeSet::new(), Vec::new());
            for row in rows {
                if let Some(recorded) = follower.read(&row)? {
                    follower.fold.apply(&recorded);
                    moved.extend(concerned(&follower.fold, &recorded));
                }
                let listeners = follower.fold.listeners(WorkspaceId(row.workspace.0), &row.r#type);
                heard.extend(listeners.map(|(trigger_id, config)| Heard {
                    trigger_id,
                    filter: config.filter.clone(),
                    row: Arc::clone(&row),
                }));
            }
            let acts = !(moved.is_empty() && heard.is_empty());
            if acts {
                let fence = term.fence();
                let aligned = self.align(&follower.fold, moved, &fence);
                term.during(stop, aligned).await??;
                term.during(stop, let_fire(&self.commands, heard, &fence)).await??;
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
            let supplied = supply(self.commands.log().as_ref(), workflow, &loaded.state).await;
            supplied.map_err(|error| TermEnd::unreadable(READER, error))?;
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

/// The workflows whose triggers may stand otherwise after an event.
fn concerned(index: &TriggerIndex, recorded: &Recorded<AnyEvent>) -> Vec<WorkflowId> {
    match &recorded.event {
        AnyEvent::Workflow(event) if concerns_triggers(event) => vec![WorkflowId(recorded.stream)],
        AnyEvent::Workspace(event) if concerns_all_triggers(event) => {
            index.of_workspace(WorkspaceId(recorded.stream)).collect()
        }
        _ => Vec::new(),
    }
}

/// Puts the definition that is published at hand, where the state does not have it.
async fn supply(log: &dyn EventLog, id: WorkflowId, workflow: &Workflow) -> Result<(), LoadError> {
    match (workflow.content(), workflow.published_version()) {
        (Some(content), Some(version)) => at_hand(log, id, content, version).await,
        _ => Ok(()),
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
        supply(scope.log().as_ref(), workflow_id, &workflow).await?;
        let Some(workspace_id) = workflow.content().map(|content| content.workspace_id) else {
            return Ok(());
        };
        let workspace = scope.read::<Workspace>(workspace_id).await?.state;
        let asked = match workspace.is_ending() {
            true => Wanted::Off(OffReason::WorkspaceDeleted),
            false => wanted(&workflow),
        };
        let command = match asked {
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

/// An event that a trigger listens to.
struct Heard {
    trigger_id: TriggerId,
    filter: Option<String>,
    row: Arc<RecordedEvent>,
}

/// Lets the triggers that listen fire for what they heard: in order for each, beside each other for all.
async fn let_fire(commands: &Commands, heard: Vec<Heard>, fence: &Fence) -> Result<(), TermEnd> {
    let mut lines: BTreeMap<TriggerId, Vec<Heard>> = BTreeMap::new();
    for heard in heard {
        lines.entry(heard.trigger_id).or_default().push(heard);
    }
    let mut firing = stream::iter(lines.into_values())
        .map(|line| async move {
            for heard in line {
                fire_one(commands, heard, fence).await?;
            }
            Ok::<(), TermEnd>(())
        })
        .buffer_unordered(CONCURRENT);
    while let Some(fired) = firing.next().await {
        fired?;
    }
    Ok(())
}

async fn fire_one(commands: &Commands, heard: Heard, fence: &Fence) -> Result<(), TermEnd> {
    let Heard { trigger_id, filter, row } = heard;
    let unreadable = |error| TermEnd::unreadable(READER, error);
    let metadata: Metadata = serde_json::from_str(&row.metadata).map_err(|_| {
        let reason = format!("the metadata of event {}", row.event_id);
        unreadable(LoadError::Corrupt { stream: row.stream, reason })
    })?;
    let event = seen(&row, &metadata);
    let fits = match filter {
        None => Ok(true),
        Some(filter) => passes(filter, event.clone()).await,
    };
    if fits == Ok(false) {
        return Ok(());
    }
    let depth = match row.category.as_str() {
        ExecutionEvent::CATEGORY => {
            let run = commands.load_cached::<Execution>(row.stream.0).await.map_err(unreadable)?;
            run.state.run().map_or(0, |run| run.request.depth)
        }
        _ => 0,
    };
    let event_id = EventId(row.event_id);
    let wanted = Fire {
        trigger_id,
        cause: Cause::Event { event_id, position: row.position.0 },
        execution_id: trigger_id.execution(&["event", &event_id.to_string()]),
        input: event,
        depth: depth.saturating_add(1),
        note_refusal: true,
    };
    let purpose = format!("{READER}/{trigger_id}");
    let context = Context {
        actor: Actor::system(READER),
        ..Context::reaction(&purpose, event_id, metadata.correlation_id)
    };
    let context = context.fenced(fence.clone());
    let (wanted, fits) = (&wanted, &fits);
    let plan = |scope: Scope| async move {
        match fits {
            Ok(_) => fire(&scope, wanted).await.map(|_| ()),
            Err(reason) => refuse(&scope, wanted, "filter_failed", reason).await,
        }
    };
    let refused = match until_answered(|| commands.transact(&context, plan)).await? {
        // Each derived id is in the log once: what it says was heard and noted before.
        Ok(_) | Err(CommandError::DuplicateEvent) => return Ok(()),
        // It was turned off or paused in the meantime.
        Err(CommandError::Rejected(FireRejection::Trigger(_))) => return Ok(()),
        Err(error) => error,
    };
    tracing::warn!(%trigger_id, %event_id, error = %refused, "an event starts nothing");
    let reason = &match refused {
        CommandError::Invalid { reason } => reason,
        other => other.to_string(),
    };
    let plan =
        |scope: Scope| async move { refuse(&scope, wanted, "event_not_taken", reason).await };
    match until_answered(|| commands.transact(&context, plan)).await? {
        Ok(_) => {}
        Err(error) => {
            metrics::counter!("ledgerline_policy_failures_total", "policy" => READER).increment(1);
            tracing::error!(%trigger_id, %event_id, %error, "a trigger cannot take note of an event");
        }
    }
    Ok(())
}

/// Lets a trigger take note that nothing starts.
async fn refuse(
    scope: &Scope,
    wanted: &Fire,
    rule: &str,
    reason: &str,
) -> Result<(), CommandError<FireRejection>> {
    let outcome = FireOutcome::Refused { rule: rule.to_owned(), reason: reason.to_owned() };
    let command = TriggerCommand::Fire(FireTrigger { cause: wanted.cause.clone(), outcome });
    let target = Target::existing(wanted.trigger_id);
    scope.decide::<Trigger>(target, &command).await.map_err(CommandError::widen)?;
    Ok(())
}

/// An event as filters and runs see it.
fn seen(row: &RecordedEvent, metadata: &Metadata) -> Json {
    let data: serde_json::Value = serde_json::from_str(&row.payload).unwrap_or_default();
    Json::from_value(&json!({
        "id": row.event_id,
        "type": row.r#type,
        "category": row.category,
        "stream_id": row.stream,
        "version": row.version,
        "position": row.position,
        "time": row.recorded_at,
        "actor": metadata.actor,
        "correlation_id": metadata.correlation_id,
        "data": data,
    }))
}

/// Whether a filter holds. An expression that runs long can't be stopped, so it must not hold up anybody else.
async fn passes(filter: String, event: Json) -> Result<bool, String> {
    let evaluated = spawn_blocking(move || {
        Expression::parse(&filter)?.evaluate_condition(&expression::Scope::of_event(event))
    });
    match evaluated.await {
        Ok(Ok(holds)) => Ok(holds),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the filter broke off".to_owned()),
    }
}

#[cfg(test)]
mod tests;
