//! What goes with a command: where it is aimed, who asks, and under which conditions it may be applied.

use std::sync::Arc;

use ledgerline_domain::{
    event::Actor,
    id::{CorrelationId, EventId, derived},
};
use ledgerline_store::{Fence, IdempotencyKey, StreamId, StreamRead, StreamVersion, Workspace};
use uuid::Uuid;

use crate::Clock;

/// The stream that a command is aimed at, and the workspace its events belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The aggregate's stream.
    pub stream: StreamId,
    /// The workspace of a stream that does not exist yet. One that exists stays in its own.
    pub workspace: Option<Workspace>,
}

impl Target {
    /// The aggregate with this id, in this workspace where it doesn't exist yet.
    #[must_use]
    pub fn new(id: impl Into<Uuid>, workspace: impl Into<Uuid>) -> Self {
        Self { stream: StreamId(id.into()), workspace: Some(Workspace(workspace.into())) }
    }

    /// The aggregate with this id, which must exist for a command to lead to anything.
    #[must_use]
    pub fn existing(id: impl Into<Uuid>) -> Self {
        Self { stream: StreamId(id.into()), workspace: None }
    }
}

/// Where the ids of the events come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum EventIds {
    /// New ones.
    #[default]
    Fresh,
    /// They follow from an event and a purpose: a redelivered reaction makes the same ids, and the log holds each once.
    Derived {
        /// The event that is reacted to.
        cause: EventId,
        /// Which reaction it is, e.g. the policy's name.
        purpose: String,
    },
    /// The one event has this one, which it was known by before it was appended.
    Given(EventId),
}

impl EventIds {
    /// The id of the `index`th event that one intent writes to a stream.
    pub(crate) fn id(&self, clock: &Clock, stream: StreamId, index: usize) -> Uuid {
        match self {
            Self::Fresh => clock.new_id(),
            Self::Given(id) if index == 0 => id.0,
            Self::Given(id) => derived(&["after", &id.to_string(), &index.to_string()]),
            Self::Derived { cause, purpose } => derived(&[
                "reaction",
                purpose,
                &cause.to_string(),
                &stream.to_string(),
                &index.to_string(),
            ]),
        }
    }
}

/// The versions of a stream that a caller has seen and acts on (`If-Match`): any one of them will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen(Arc<[StreamVersion]>);

impl Seen {
    /// Whether this is one of them.
    #[must_use]
    pub fn is(&self, current: StreamVersion) -> bool {
        self.0.contains(&current)
    }
}

impl FromIterator<StreamVersion> for Seen {
    fn from_iter<I: IntoIterator<Item = StreamVersion>>(versions: I) -> Self {
        Self(versions.into_iter().collect())
    }
}

/// Who asks, and under which conditions.
#[derive(Clone, Debug)]
pub struct Context {
    /// Who caused the events.
    pub actor: Actor,
    /// What they belong to. `None`: what the stream's first event belongs to, or something new where there is none.
    pub correlation_id: Option<CorrelationId>,
    /// The event that led to them.
    pub causation_id: Option<EventId>,
    /// W3C `traceparent`.
    pub trace: Option<String>,
    /// A repeat with this key is answered like the first one.
    pub key: Option<IdempotencyKey>,
    /// What the caller will be answered (JSON text); kept with the key for a repeat.
    pub answer: Option<String>,
    /// What the first stream written must be at (`If-Match`).
    pub if_match: Option<Seen>,
    /// The hash of the dry run whose events the caller wants appended, and nothing else (`If-Plan`).
    pub if_plan: Option<String>,
    /// SHA-256 of the command as the caller sent it, for the plan's hash.
    pub command_hash: Option<[u8; 32]>,
    /// Ids made for this call (of a new stream, say): the plan's hash counts them instead of naming them.
    pub made_ids: Vec<Uuid>,
    /// Streams the caller looked at itself; a move of one ends the command with [`crate::CommandError::ReadMoved`].
    pub reads: Vec<StreamRead>,
    /// The leadership under which it was decided.
    pub fence: Option<Fence>,
    /// Where the ids of the events come from.
    pub ids: EventIds,
}

impl Context {
    /// An actor, and no conditions.
    #[must_use]
    pub fn new(actor: Actor) -> Self {
        Self {
            actor,
            correlation_id: None,
            causation_id: None,
            trace: None,
            key: None,
            answer: None,
            if_match: None,
            if_plan: None,
            command_hash: None,
            made_ids: Vec::new(),
            reads: Vec::new(),
            fence: None,
            ids: EventIds::Fresh,
        }
    }

    /// A part of the system that reacts to an event: ids that follow from it, its correlation, and the event as the cause.
    #[must_use]
    pub fn reaction(purpose: &str, cause: EventId, correlation_id: CorrelationId) -> Self {
        Self {
            correlation_id: Some(correlation_id),
            causation_id: Some(cause),
            ids: EventIds::Derived { cause, purpose: purpose.to_owned() },
            ..Self::new(Actor::system(purpose))
        }
    }

    /// The same, belonging to what a request or trigger began.
    #[must_use]
    pub fn correlated(self, correlation_id: CorrelationId) -> Self {
        Self { correlation_id: Some(correlation_id), ..self }
    }

    /// The same, under an idempotency key.
    #[must_use]
    pub fn keyed(self, key: Option<IdempotencyKey>) -> Self {
        Self { key, ..self }
    }

    /// The same, only at a version.
    #[must_use]
    pub fn matching(self, if_match: Option<StreamVersion>) -> Self {
        Self { if_match: if_match.map(|version| Seen::from_iter([version])), ..self }
    }

    /// The same, only under a leadership.
    #[must_use]
    pub fn fenced(self, fence: Fence) -> Self {
        Self { fence: Some(fence), ..self }
    }
}
