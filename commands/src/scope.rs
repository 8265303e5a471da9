//! What one try of a command looked at, what it decided, and so what its append rests on.
//!
//! A plan (a closure given to [`crate::Commands::transact`]) reads and decides through a [`Scope`] alone. Each state it reads is
//! noted with its version, so that the append is refused when any of them has moved, and the plan is then run again on fresh
//! states: authorising, checking other streams and deciding are one attempt, and none of them can be out of date when it counts.

use std::{
    any::{Any, TypeId},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, Utc};
use ledgerline_domain::{
    Aggregate,
    deployment::Deployment,
    dispatch::Full,
    event::DomainEvent,
    execution::ConcurrencyLimit,
    id::{CorrelationId, ExecutionId, WorkflowId},
};
use ledgerline_store::{
    DueKey, DueTime, EventLog, Position, StreamId, StreamRead, StreamVersion, Workspace,
};
use uuid::Uuid;

use crate::{
    AsOf, CommandError, Commands, LoadError, Loaded, StreamOrigin, Target, WorkspaceLimits,
    cache::Entry, context::Seen, due::due_changes, lines::Admission, turns::HeldTurn,
};

/// What a decision came to: the events and the state after them.
#[derive(Debug)]
pub struct Decided<A: Aggregate> {
    /// The stream it was decided on.
    pub stream: StreamId,
    /// The state after the events.
    pub state: Arc<A>,
    /// The version after the events.
    pub version: StreamVersion,
    /// The position of the last event before them.
    pub position: Position,
    /// The events; none when the command was already true.
    pub events: Vec<A::Event>,
}

/// One event of a decision, ready but for its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DraftEvent {
    pub(crate) r#type: &'static str,
    pub(crate) schema_version: i16,
    pub(crate) payload: String,
}

/// What will be written to one stream, and what to keep in the cache when it was.
pub(crate) struct Draft {
    pub(crate) stream: StreamId,
    pub(crate) workspace: Workspace,
    pub(crate) category: &'static str,
    pub(crate) expected: StreamVersion,
    /// Of a stream that existed before.
    pub(crate) origin: Option<StreamOrigin>,
    pub(crate) events: Vec<DraftEvent>,
    pub(crate) due: Vec<DueTime>,
    pub(crate) due_done: Vec<DueKey>,
    pub(crate) r#type: TypeId,
    pub(crate) fingerprint: &'static str,
    pub(crate) state: Arc<dyn Any + Send + Sync>,
    entry: fn(&Draft, Position, StreamOrigin) -> Option<Entry>,
}

impl Draft {
    /// The version after the events.
    pub(crate) fn version(&self) -> StreamVersion {
        let written = i64::try_from(self.events.len()).unwrap_or(i64::MAX);
        StreamVersion(self.expected.0.saturating_add(written))
    }

    /// The cache entry of the state after the events.
    pub(crate) fn entry(&self, last: Position, correlation_id: CorrelationId) -> Option<Entry> {
        let made = StreamOrigin { workspace: self.workspace, correlation_id };
        (self.entry)(self, last, self.origin.unwrap_or(made))
    }
}

/// The notes of one try.
#[derive(Default)]
pub(crate) struct Notes {
    pub(crate) reads: Vec<StreamRead>,
    pub(crate) drafts: Vec<Draft>,
    pub(crate) turn: Option<(StreamId, HeldTurn)>,
    /// Whether any state came from the cache without a look at the log.
    pub(crate) cached: bool,
    /// The noun of the first stream that was decided on.
    pub(crate) category: Option<&'static str>,
    /// The runs whose requests this try was let in with.
    pub(crate) admissions: Vec<Admission>,
}

/// How a try reads.
#[derive(Clone)]
pub(crate) struct Mode {
    /// Ask the log even where the cache has a state.
    pub(crate) fresh: bool,
    /// Nothing will be appended, so nobody needs to wait.
    pub(crate) preview: bool,
    /// What the first stream that is decided on must be at.
    pub(crate) if_match: Option<Seen>,
}

/// One try of a command. Cheap to clone; all clones are the same try.
#[derive(Clone)]
pub struct Scope {
    commands: Commands,
    mode: Mode,
    now: DateTime<Utc>,
    notes: Arc<Mutex<Notes>>,
}

impl Scope {
    pub(crate) fn new(commands: Commands, mode: Mode, turn: Option<(StreamId, HeldTurn)>) -> Self {
        let now = commands.clock().now();
        let notes = Arc::new(Mutex::new(Notes { turn, ..Notes::default() }));
        Self { commands, mode, now, notes }
    }

    /// The time of this try: the same for everything in it.
    #[must_use]
    pub const fn now(&self) -> DateTime<Utc> {
        self.now
    }

    /// A new id. Made in the plan and not before it, it would change with every try: make ids that the caller hears of outside.
    #[must_use]
    pub fn new_id(&self) -> Uuid {
        self.commands.clock().new_id()
    }

    /// How many executions of a workspace may run at once, as the deployment has it.
    pub(crate) fn workspace_limits(&self) -> WorkspaceLimits {
        self.commands.workspace_limits()
    }

    /// Whether dispatch is paused for the deployment. Not rested on: a pause that comes this moment holds what is dispatched after it.
    pub(crate) async fn is_deployment_held(&self) -> Result<bool, LoadError> {
        let lines = self.commands.lines();
        match lines.and_then(|lines| lines.look(|fold| fold.deployment_hold().is_some())) {
            Some(held) => Ok(held),
            None => Ok(self.peek::<Deployment>(Deployment::id()).await?.state.dispatch_paused),
        }
    }

    /// Lets the request of a run in, or says why not. A dry run reserves nothing, and where nobody watches the lines everything is let in:
    /// whoever leads dispatch then ends what is too many.
    pub(crate) async fn admit(
        &self,
        execution: ExecutionId,
        workflow: WorkflowId,
        limits: &[ConcurrencyLimit],
        max_queued: usize,
    ) -> Result<(), Full> {
        let Some(lines) = self.commands.lines() else { return Ok(()) };
        let head = *self.log().watch_head().borrow();
        match lines.admit(execution, workflow, limits, max_queued, head).await {
            Some(Ok(admission)) => {
                if !self.mode.preview {
                    self.notes().admissions.push(admission);
                }
                Ok(())
            }
            Some(Err(full)) => Err(full),
            None => Ok(()),
        }
    }

    /// The log, for values that must be stored before the events that name them.
    pub(crate) fn log(&self) -> &Arc<dyn EventLog> {
        self.commands.log()
    }

    /// An aggregate that the decision rests on: the append is refused when it has moved by then.
    ///
    /// # Errors
    /// [`LoadError`]; a stream that does not exist is not one of them, and the decision then rests on its not existing.
    pub async fn read<A: Aggregate>(&self, id: impl Into<Uuid>) -> Result<Loaded<A>, LoadError> {
        let stream = StreamId(id.into());
        let loaded = self.look(stream).await?;
        self.rest_on(stream, loaded.version);
        Ok(loaded)
    }

    /// An aggregate that the decision may look at without resting on it (to find where something belongs, say).
    ///
    /// # Errors
    /// [`LoadError`]; a stream that does not exist is not one of them.
    pub async fn peek<A: Aggregate>(&self, id: impl Into<Uuid>) -> Result<Loaded<A>, LoadError> {
        self.look(StreamId(id.into())).await
    }

    /// The same, as the log holds it at this moment and not from memory.
    pub(crate) async fn peek_fresh<A: Aggregate>(
        &self,
        id: impl Into<Uuid>,
    ) -> Result<Loaded<A>, LoadError> {
        self.commands.loader().load_fresh(StreamId(id.into())).await
    }

    /// An aggregate as it was at a moment of the past, which no append can change.
    ///
    /// # Errors
    /// [`LoadError`]; a stream that did not exist then is not one of them.
    pub async fn past<A: Aggregate>(
        &self,
        id: impl Into<Uuid>,
        at: AsOf,
    ) -> Result<Loaded<A>, LoadError> {
        self.commands.loader().load_at(StreamId(id.into()), at).await
    }

    /// Decides a command and notes its events for the append. Several decisions of one plan are appended all or none; a second
    /// one on the same stream sees the first one's events.
    ///
    /// # Errors
    /// The rejection, [`CommandError::VersionMismatch`] on the first stream, or a failed read.
    pub async fn decide<A: Aggregate>(
        &self,
        target: Target,
        command: &A::Command,
    ) -> Result<Decided<A>, CommandError<A::Rejection>> {
        let stream = target.stream;
        self.notes().category.get_or_insert(A::Event::CATEGORY);
        self.take_turn(stream).await;
        let (base, drafted) = match self.drafted::<A>(stream) {
            Some(base) => (base, true),
            None => (self.look(stream).await?, false),
        };
        let first = self.notes().drafts.is_empty();
        if first && self.mode.if_match.as_ref().is_some_and(|seen| !seen.is(base.version)) {
            tracing::debug!(%stream, current = %base.version, "another version was expected");
            return Err(CommandError::VersionMismatch { current: base.version });
        }
        let events = base.state.decide(command, self.now).map_err(CommandError::Rejected)?;
        if events.is_empty() {
            if !drafted {
                self.rest_on(stream, base.version);
            }
            let Loaded { state, version, position, .. } = base;
            return Ok(Decided { stream, state, version, position, events });
        }
        self.note(target, base, events)
    }

    /// Adds the events to the draft of their stream.
    fn note<A: Aggregate>(
        &self,
        target: Target,
        base: Loaded<A>,
        events: Vec<A::Event>,
    ) -> Result<Decided<A>, CommandError<A::Rejection>> {
        let stream = target.stream;
        let known = base.origin.map(|origin| origin.workspace);
        let Some(workspace) = known.or(target.workspace) else {
            let reason = format!("the stream {stream} does not exist and has no workspace");
            return Err(CommandError::Invalid { reason });
        };
        let written = i64::try_from(events.len()).unwrap_or(i64::MAX);
        let version = StreamVersion(base.version.0.saturating_add(written));
        let state = Arc::unwrap_or_clone(base.state);
        let state = Arc::new(events.iter().fold(state, A::evolve));
        let (due, due_done) = due_changes::<A>(stream, &state, &events);
        let drafts = events.iter().map(|event| DraftEvent {
            r#type: event.type_name(),
            schema_version: event.schema_version(),
            payload: event.payload(),
        });
        let erased: Arc<dyn Any + Send + Sync> = Arc::<A>::clone(&state);
        let mut notes = self.notes();
        if let Some(draft) = notes.drafts.iter_mut().find(|draft| draft.stream == stream) {
            draft.events.extend(drafts);
            draft.due.retain(|time| !due_done.contains(&time.due));
            draft.due_done.retain(|key| !due.iter().any(|time| time.due == *key));
            draft.due.extend(due);
            draft.due_done.extend(due_done);
            draft.state = erased;
        } else {
            notes.drafts.push(Draft {
                stream,
                workspace,
                category: A::Event::CATEGORY,
                expected: base.version,
                origin: base.origin,
                events: drafts.collect(),
                due,
                due_done,
                r#type: TypeId::of::<A>(),
                fingerprint: A::SNAPSHOT,
                state: erased,
                entry: |draft, last, origin| {
                    let state = Arc::clone(&draft.state).downcast::<A>().ok()?;
                    Some(Entry::new(state, draft.version(), last, Some(origin)))
                },
            });
        }
        Ok(Decided { stream, state, version, position: base.position, events })
    }

    fn drafted<A: Aggregate>(&self, stream: StreamId) -> Option<Loaded<A>> {
        let notes = self.notes();
        let draft = notes.drafts.iter().find(|draft| draft.stream == stream)?;
        let state = Arc::clone(&draft.state).downcast::<A>().ok()?;
        Some(Loaded {
            state,
            version: draft.version(),
            position: Position::START,
            origin: draft.origin,
        })
    }

    async fn look<A: Aggregate>(&self, stream: StreamId) -> Result<Loaded<A>, LoadError> {
        if self.mode.fresh {
            return self.commands.loader().load_fresh(stream).await;
        }
        let (loaded, cached) = self.commands.loader().load(stream).await?;
        self.notes().cached |= cached;
        Ok(loaded)
    }

    fn rest_on(&self, stream: StreamId, version: StreamVersion) {
        let read = StreamRead { stream, version };
        let mut notes = self.notes();
        if !notes.reads.contains(&read) {
            notes.reads.push(read);
        }
    }

    /// Waits for the turn on the first stream that is decided on. Only on that one: two plans that took theirs in another
    /// order would wait for each other.
    async fn take_turn(&self, stream: StreamId) {
        let wanted = {
            let mut notes = self.notes();
            let other = notes.turn.as_ref().is_some_and(|(held, _)| *held != stream);
            // A turn left from the try before is for a stream that this one may not write at all.
            if other && notes.drafts.is_empty() {
                notes.turn = None;
            }
            !self.mode.preview && notes.turn.is_none() && notes.drafts.is_empty()
        };
        if wanted {
            let turn = self.commands.turns().take(stream).await;
            self.notes().turn = Some((stream, turn));
        }
    }

    /// Takes the notes at the end of the try.
    pub(crate) fn finish(&self) -> Notes {
        std::mem::take(&mut *self.notes())
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
