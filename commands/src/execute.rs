//! The one command loop: load, decide, append at the expected version, and try again on fresh states when others were first.
//!
//! Nothing else in the product appends events. Three rules make its answers sound:
//!
//! - **What is appended rests on what was read.** Every stream written is expected at the version it was decided at, and every
//!   stream read goes with the append, so a stale cache can cost a try but never an event.
//! - **A refusal is never stale either.** No append checks it, so when a try that used cached states ends in a rejection, a 412 or
//!   nothing to do, it is made again on what the log holds before it is answered.
//! - **A repeat is answered like the first one.** Before such an answer the idempotency key is looked up, because what was applied
//!   the first time may be refused now.

use std::{
    future::Future,
    sync::{Arc, OnceLock},
    time::Duration,
};

use ledgerline_domain::{Aggregate, event::Metadata, id::CorrelationId};
use ledgerline_store::{
    AppendError, EventLog, Intent, NewEvent, Position, Receipt, StreamId, StreamRead,
    StreamVersion, StreamWrite, facts::Tallies,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

use crate::{
    AsOf, Clock, CommandError, Context, Decided, Lines, Scope, Snapshots, Target,
    cache::Cache,
    lines::Admission,
    load::Loader,
    preview,
    scope::{Draft, Mode, Notes},
    turns::Turns,
};

/// How often a command is tried before it is answered with a conflict. Commands of one process don't meet on their first stream,
/// so this many lost races mean that other processes write it without a pause.
const MAX_TRIES: u32 = 32;
/// Races that are lost in a row before a command steps aside for a moment.
const RACES: u32 = 3;
/// The longest that it steps aside.
const LONGEST_ASIDE_MS: u64 = 16;
/// How often two commands met on a stream.
const CONFLICTS: &str = "ledgerline_command_conflicts_total";

/// What a process decides about its commands.
pub struct Settings {
    /// How many bytes of folded aggregates are kept.
    pub cache_bytes: u64,
    /// Whose long streams are snapshotted.
    pub snapshots: Snapshots,
    /// How many executions of a workspace may run at once.
    pub workspaces: WorkspaceLimits,
}

/// How many executions of a workspace may run at once, as the deployment has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkspaceLimits {
    /// Of a workspace that does not say; none for no limit.
    pub default: Option<u32>,
    /// Of any workspace, whatever it says; none for no maximum.
    pub max: Option<u32>,
}

impl WorkspaceLimits {
    /// What holds for a workspace with this setting; none for no limit.
    #[must_use]
    pub fn of(self, own: Option<u32>) -> Option<u32> {
        [own.or(self.default), self.max].into_iter().flatten().min()
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cache_bytes: 256 * 1024 * 1024,
            snapshots: Snapshots::default(),
            workspaces: WorkspaceLimits::default(),
        }
    }
}

/// The way in for every change. Cheap to clone; all clones share one cache.
#[derive(Clone)]
pub struct Commands(Arc<Shared>);

struct Shared {
    loader: Loader,
    turns: Turns,
    clock: Clock,
    due_set: Notify,
    workspaces: WorkspaceLimits,
    lines: OnceLock<Lines>,
    tallies: Tallies,
}

/// A command that was applied, had nothing to do, or repeats one that was applied.
#[derive(Debug)]
pub struct Executed<A: Aggregate> {
    /// The stream: for a repeat, that of the first one.
    pub stream: StreamId,
    /// The state after it: for a repeat, as it was after the first one.
    pub state: Arc<A>,
    /// The version after it.
    pub version: StreamVersion,
    /// The position of the last event that it appended, or of the stream's last event when there was nothing to do.
    pub position: Position,
    /// What it appended to the stream; nothing for a repeat.
    pub events: Vec<A::Event>,
    /// Proof that it is in the log; `None` when there was nothing to do.
    pub receipt: Option<Receipt>,
    /// Whether an earlier command with the same key was applied instead.
    pub repeated: bool,
}

/// How a plan ended.
#[derive(Debug)]
pub enum Transacted<T> {
    /// Its events are in the log.
    Applied {
        /// What the plan gave.
        value: T,
        /// The proof.
        receipt: Receipt,
    },
    /// It decided nothing: all of it was already true.
    Unchanged {
        /// What the plan gave.
        value: T,
    },
    /// An earlier one with the same key was applied.
    Repeated {
        /// Its proof, with the answer it was given.
        receipt: Receipt,
    },
}

impl Commands {
    /// Commands over a log.
    #[must_use]
    pub fn new(log: Arc<dyn EventLog>, clock: Clock, settings: Settings) -> Self {
        let Settings { cache_bytes, snapshots, workspaces } = settings;
        let loader = Loader { log, cache: Cache::new(cache_bytes), snapshots };
        let (turns, due_set, lines) = (Turns::new(), Notify::new(), OnceLock::new());
        let tallies = Tallies::default();
        // Shown from the start: what is missing can't be told from what never happened.
        metrics::counter!(CONFLICTS).increment(0);
        Self(Arc::new(Shared { loader, turns, clock, due_set, workspaces, lines, tallies }))
    }

    /// Lets requests of runs in by what these lines show from now on. The first ones that are given stay.
    pub fn watch_lines(&self, lines: Lines) {
        if self.0.lines.set(lines).is_err() {
            tracing::warn!("the lines are watched already");
        }
    }

    /// The lines that are watched, where they are.
    #[must_use]
    pub fn lines(&self) -> Option<&Lines> {
        self.0.lines.get()
    }

    /// How many executions of a workspace may run at once, as the deployment has it.
    #[must_use]
    pub fn workspace_limits(&self) -> WorkspaceLimits {
        self.0.workspaces
    }

    /// The log behind the commands.
    #[must_use]
    pub fn log(&self) -> &Arc<dyn EventLog> {
        &self.0.loader.log
    }

    /// What this process counts for the audit.
    #[must_use]
    pub fn tallies(&self) -> &Tallies {
        &self.0.tallies
    }

    /// The process's time and ids.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    pub(crate) fn loader(&self) -> &Loader {
        &self.0.loader
    }

    pub(crate) fn turns(&self) -> &Turns {
        &self.0.turns
    }

    /// Wakes when this process appended a due time, which may be earlier than the one the timers wait for.
    pub(crate) async fn due_set(&self) {
        self.0.due_set.notified().await;
    }

    /// Applies a command to one aggregate.
    ///
    /// # Errors
    /// [`CommandError`]. In every case but [`CommandError::Unavailable`] it is certain that nothing was appended.
    pub async fn execute<A: Aggregate>(
        &self,
        target: Target,
        command: &A::Command,
        context: &Context,
    ) -> Result<Executed<A>, CommandError<A::Rejection>> {
        let plan = |scope: Scope| async move { scope.decide::<A>(target, command).await };
        let transacted = self.transact(context, plan).await?;
        self.executed(transacted).await
    }

    /// Applies the command that a plan comes to: the plan authorises and looks at other streams through the [`Scope`], which guards
    /// the append with what it read, and is run again when any of it has moved. It may run several times, so it must change nothing.
    ///
    /// # Errors
    /// [`CommandError`], where `E` is the plan's own kind of refusal.
    pub async fn execute_with<A, E, F, Fut>(
        &self,
        context: &Context,
        plan: F,
    ) -> Result<Executed<A>, CommandError<E>>
    where
        A: Aggregate,
        E: From<A::Rejection>,
        F: Fn(Scope) -> Fut,
        Fut: Future<Output = Result<(Target, A::Command), CommandError<E>>>,
    {
        let plan = &plan;
        let plan = |scope: Scope| async move {
            let (target, command) = plan(scope.clone()).await?;
            scope.decide::<A>(target, &command).await.map_err(CommandError::widen)
        };
        let transacted = self.transact(context, plan).await?;
        self.executed(transacted).await
    }

    /// Appends all that a plan decides, over any number of streams, or none of it.
    ///
    /// # Errors
    /// [`CommandError`], where `E` is the plan's own kind of refusal.
    pub async fn transact<T, E, F, Fut>(
        &self,
        context: &Context,
        plan: F,
    ) -> Result<Transacted<T>, CommandError<E>>
    where
        F: Fn(Scope) -> Fut,
        Fut: Future<Output = Result<T, CommandError<E>>>,
    {
        let started = Instant::now();
        let (outcome, category) = self.tries(context, plan).await;
        let word = match &outcome {
            Ok(Transacted::Applied { .. }) => "applied",
            Ok(Transacted::Unchanged { .. }) => "unchanged",
            Ok(Transacted::Repeated { .. }) => "repeated",
            Err(error) => error.outcome(),
        };
        let labels = [("category", category.unwrap_or("none")), ("outcome", word)];
        metrics::counter!("ledgerline_commands_total", &labels).increment(1);
        metrics::histogram!("ledgerline_command_duration_seconds", "category" => labels[0].1)
            .record(started.elapsed());
        outcome
    }

    /// The loop itself.
    async fn tries<T, E, F, Fut>(
        &self,
        context: &Context,
        plan: F,
    ) -> (Result<Transacted<T>, CommandError<E>>, Option<&'static str>)
    where
        F: Fn(Scope) -> Fut,
        Fut: Future<Output = Result<T, CommandError<E>>>,
    {
        let mut mode = Mode { fresh: false, preview: false, if_match: context.if_match.clone() };
        let (mut turn, mut category) = (None, None);
        for tried in 1..=MAX_TRIES {
            let scope = Scope::new(self.clone(), mode.clone(), turn.take());
            let planned = plan(scope.clone()).await;
            let mut notes = scope.finish();
            category = category.or(notes.category);
            let cached = notes.cached;
            let planned = planned.and_then(|value| {
                preview::check_plan(context, &notes)?;
                Ok(value)
            });
            let settled = match planned {
                Ok(value) if !notes.drafts.is_empty() => {
                    match self.append(context, &mut notes).await {
                        Ok(receipt) if receipt.repeated => {
                            return (Ok(Transacted::Repeated { receipt }), category);
                        }
                        Ok(receipt) => {
                            notes.admissions.into_iter().for_each(Admission::keep);
                            return (Ok(Transacted::Applied { value, receipt }), category);
                        }
                        Err(AppendError::Conflict { stream, .. }) => {
                            if context.reads.iter().any(|read| read.stream == stream) {
                                return (Err(CommandError::ReadMoved { stream }), category);
                            }
                            metrics::counter!(CONFLICTS).increment(1);
                            None
                        }
                        Err(error) => return (Err(error.into()), category),
                    }
                }
                Ok(value) => (!cached).then(|| Ok(Transacted::Unchanged { value })),
                Err(error) if error.rests_on_state() => (!cached).then_some(Err(error)),
                Err(error) => return (Err(error), category),
            };
            if let Some(settled) = settled {
                return (self.or_repeat(context, settled).await, category);
            }
            mode.fresh = true;
            turn = notes.turn;
            self.step_aside(tried).await;
        }
        (Err(CommandError::Conflict), category)
    }

    /// Lets others by after several lost races, each process for another while: two that take the same time for a try would
    /// otherwise meet at every one, and the same of them lose.
    async fn step_aside(&self, tried: u32) {
        if tried > RACES {
            let longest = (1 << (tried - RACES).min(4)).min(LONGEST_ASIDE_MS);
            let chance = u64::from(self.clock().new_id().as_bytes()[15]);
            sleep(Duration::from_millis(chance % (longest + 1))).await;
        }
    }

    /// What a caller is answered when nothing is to be appended: the first answer when its key is known.
    async fn or_repeat<T, E>(
        &self,
        context: &Context,
        settled: Result<Transacted<T>, CommandError<E>>,
    ) -> Result<Transacted<T>, CommandError<E>> {
        let Some(key) = &context.key else { return settled };
        if matches!(settled, Err(CommandError::Denied(_))) {
            return settled;
        }
        match self.log().find_receipt(key).await {
            Ok(Some(receipt)) => {
                Ok(Transacted::Repeated { receipt: Receipt { repeated: true, ..receipt } })
            }
            Ok(None) => settled,
            Err(error) => Err(error.into()),
        }
    }

    /// Appends what a try decided, and keeps its states.
    async fn append(&self, context: &Context, notes: &mut Notes) -> Result<Receipt, AppendError> {
        let drafts = std::mem::take(&mut notes.drafts);
        let reads = guards(context, &notes.reads, &drafts)?;
        let origin = drafts.first().and_then(|draft| draft.origin);
        let correlation_id =
            context.correlation_id.or_else(|| origin.map(|origin| origin.correlation_id));
        let correlation_id = correlation_id.unwrap_or_else(|| CorrelationId(self.clock().new_id()));
        let metadata = Metadata {
            actor: context.actor.clone(),
            correlation_id,
            causation_id: context.causation_id,
            trace: context.trace.clone(),
        };
        let metadata = serde_json::to_string(&metadata).map_err(|error| AppendError::Invalid {
            reason: format!("the metadata cannot be written: {error}"),
        })?;
        let intent = Intent {
            writes: drafts.iter().map(|draft| self.write(context, draft, &metadata)).collect(),
            reads,
            key: context.key.clone(),
            answer: context.answer.clone(),
            fence: context.fence.clone(),
            due: drafts.iter().flat_map(|draft| draft.due.iter().cloned()).collect(),
            due_done: drafts.iter().flat_map(|draft| draft.due_done.iter().cloned()).collect(),
        };
        let sets_due = !intent.due.is_empty();
        let receipt = self.log().append(intent).await?;
        if receipt.repeated {
            return Ok(receipt);
        }
        if sets_due {
            self.0.due_set.notify_one();
        }
        let mut last = Position(receipt.first_position.0 - 1);
        for draft in &drafts {
            last = Position(last.0 + draft.version().0 - draft.expected.0);
            let Some(entry) = draft.entry(last, correlation_id) else { continue };
            let stream = draft.stream;
            let (expected, fingerprint) = (draft.expected, draft.fingerprint);
            self.loader().keep_entry(stream, expected, entry, draft.r#type, fingerprint).await;
        }
        Ok(receipt)
    }

    fn write(&self, context: &Context, draft: &Draft, metadata: &str) -> StreamWrite {
        let events = draft.events.iter().enumerate().map(|(index, event)| NewEvent {
            event_id: context.ids.id(self.clock(), draft.stream, index),
            r#type: event.r#type,
            schema_version: event.schema_version,
            payload: event.payload.clone(),
            metadata: metadata.to_owned(),
        });
        StreamWrite {
            workspace: draft.workspace,
            stream: draft.stream,
            category: draft.category,
            expected: draft.expected,
            events: events.collect(),
        }
    }

    async fn executed<A: Aggregate, E>(
        &self,
        transacted: Transacted<Decided<A>>,
    ) -> Result<Executed<A>, CommandError<E>> {
        let (decided, receipt) = match transacted {
            Transacted::Applied { value, receipt } => (value, Some(receipt)),
            Transacted::Unchanged { value } => (value, None),
            Transacted::Repeated { receipt } => return self.repeated(receipt).await,
        };
        let position = receipt.as_ref().map_or(decided.position, |receipt| receipt.position);
        let Decided { stream, state, version, events, .. } = decided;
        Ok(Executed { stream, state, version, position, events, receipt, repeated: false })
    }

    /// The answer of the first command with the same key: the state as it was then.
    async fn repeated<A: Aggregate, E>(
        &self,
        receipt: Receipt,
    ) -> Result<Executed<A>, CommandError<E>> {
        let Some(&(stream, version)) = receipt.versions.first() else {
            return Err(CommandError::Invalid { reason: "the first receipt is empty".to_owned() });
        };
        let loaded = self.load_at::<A>(stream.0, AsOf::Version(version)).await?;
        Ok(Executed {
            stream,
            state: loaded.state,
            version,
            position: receipt.position,
            events: Vec::new(),
            receipt: Some(receipt),
            repeated: true,
        })
    }
}

/// The streams that the append rests on without writing them. A stream that was looked at in one version and decided on in another
/// moved in the middle of the try: that is a conflict before anything is sent.
fn guards(
    context: &Context,
    reads: &[StreamRead],
    drafts: &[Draft],
) -> Result<Vec<StreamRead>, AppendError> {
    let mut guards: Vec<StreamRead> = Vec::with_capacity(reads.len() + context.reads.len());
    for read in context.reads.iter().chain(reads) {
        let written = drafts.iter().find(|draft| draft.stream == read.stream);
        let known = guards.iter().find(|guard| guard.stream == read.stream);
        let decided =
            written.map(|draft| draft.expected).or_else(|| known.map(|guard| guard.version));
        match decided {
            Some(version) if version != read.version => {
                let (stream, expected) = (read.stream, read.version);
                return Err(AppendError::Conflict { stream, expected });
            }
            Some(_) => {}
            None => guards.push(*read),
        }
    }
    Ok(guards)
}

#[cfg(test)]
mod tests;
