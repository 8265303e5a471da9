//! Why a command was not applied, and why a state could not be read.

use ledgerline_domain::event::DecodeError;
use ledgerline_store::{AppendError, StoreError, StoreFault, StreamId, StreamVersion};

/// Why an aggregate could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its stream holds an event that a newer build wrote. The process must stand down: its decisions would rest on half a history.
    #[error("the stream {stream} was written by a newer build")]
    UnknownEvent {
        /// The stream.
        stream: StreamId,
        /// Which type.
        #[source]
        source: DecodeError,
    },
    /// The id is that of another kind of thing.
    #[error("the stream {stream} is not one of {category}")]
    WrongCategory {
        /// The stream.
        stream: StreamId,
        /// What was looked for.
        category: &'static str,
    },
    /// An event does not have the shape that its type promises.
    #[error("the stream {stream} cannot be read: {reason}")]
    Corrupt {
        /// The stream.
        stream: StreamId,
        /// What is wrong.
        reason: String,
    },
    /// The disk is full.
    #[error("the database's disk is full")]
    DiskFull,
    /// The store is away.
    #[error("the store is unavailable")]
    Unavailable(#[source] StoreFault),
}

impl LoadError {
    pub(crate) fn from_store(stream: StreamId, error: StoreError) -> Self {
        match error {
            StoreError::DiskFull => Self::DiskFull,
            StoreError::Unavailable(source) => Self::Unavailable(source),
            StoreError::Corrupt { reason } => Self::Corrupt { stream, reason },
            StoreError::Fenced { reader } => {
                Self::Corrupt { stream, reason: format!("a read answered as the lease {reader}") }
            }
        }
    }
}

/// Why a command was not applied. `R` is the domain's refusal.
#[derive(Debug, thiserror::Error)]
pub enum CommandError<R> {
    /// A rule of the domain refuses it.
    #[error("the command was rejected")]
    Rejected(#[source] R),
    /// The caller may not do it, or may not even know. Never answered from an idempotency key.
    #[error("the command was denied")]
    Denied(#[source] R),
    /// The caller saw another version (`If-Match`).
    #[error("the resource is at version {current}")]
    VersionMismatch {
        /// The version it is at.
        current: StreamVersion,
    },
    /// The command would no longer append what its dry run showed (`If-Plan`).
    #[error("the plan is now {current}")]
    PlanMoved {
        /// The hash of what it would append now.
        current: String,
    },
    /// A stream that the caller had looked at moved: look again.
    #[error("the stream {stream} moved since it was read")]
    ReadMoved {
        /// The stream.
        stream: StreamId,
    },
    /// Others wrote the same streams each time it was tried.
    #[error("the command met others on its streams each time")]
    Conflict,
    /// The lease under which it was decided is held by somebody else now.
    #[error("the lease {reader} was taken over")]
    Fenced {
        /// The lease.
        reader: String,
    },
    /// The idempotency key was used with another body.
    #[error("the idempotency key was used with another body")]
    KeyReused,
    /// The events are too large or cannot be stored as text.
    #[error("the events cannot be stored: {reason}")]
    Invalid {
        /// What is wrong, for the caller.
        reason: String,
    },
    /// The log holds one of the events' ids already: a reaction, whose ids are derived, was carried out before. Fresh ids never
    /// meet this.
    #[error("an event id is in the log already")]
    DuplicateEvent,
    /// The intake of the log is full.
    #[error("the log is overloaded")]
    Overloaded,
    /// The disk under the log is full.
    #[error("the database's disk is full")]
    DiskFull,
    /// The log is away; the command may have been applied, and a repeat under its key tells.
    #[error("the log is unavailable")]
    Unavailable(#[source] StoreFault),
    /// A stream could not be read.
    #[error("failed to read what the command rests on")]
    Load(#[from] LoadError),
}

impl<R> CommandError<R> {
    /// The same error with another type of refusal.
    pub fn map<S>(self, refusal: impl FnOnce(R) -> S) -> CommandError<S> {
        match self {
            Self::Rejected(rejection) => CommandError::Rejected(refusal(rejection)),
            Self::Denied(denial) => CommandError::Denied(refusal(denial)),
            Self::VersionMismatch { current } => CommandError::VersionMismatch { current },
            Self::PlanMoved { current } => CommandError::PlanMoved { current },
            Self::ReadMoved { stream } => CommandError::ReadMoved { stream },
            Self::Conflict => CommandError::Conflict,
            Self::Fenced { reader } => CommandError::Fenced { reader },
            Self::KeyReused => CommandError::KeyReused,
            Self::Invalid { reason } => CommandError::Invalid { reason },
            Self::DuplicateEvent => CommandError::DuplicateEvent,
            Self::Overloaded => CommandError::Overloaded,
            Self::DiskFull => CommandError::DiskFull,
            Self::Unavailable(source) => CommandError::Unavailable(source),
            Self::Load(error) => CommandError::Load(error),
        }
    }

    /// The same error with a refusal that this one's is part of.
    pub fn widen<S: From<R>>(self) -> CommandError<S> {
        self.map(S::from)
    }

    /// Whether the process read something that only a newer build knows, and must stop leading and deciding.
    #[must_use]
    pub fn must_stand_down(&self) -> bool {
        matches!(self, Self::Load(LoadError::UnknownEvent { .. }))
    }

    /// Whether the same command may succeed when it is tried again a little later.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Conflict
                | Self::ReadMoved { .. }
                | Self::Overloaded
                | Self::DiskFull
                | Self::Unavailable(_)
                | Self::Load(LoadError::Unavailable(_) | LoadError::DiskFull)
        )
    }

    /// Whether it follows from the states that were read, so that it must not be answered from states that may be old.
    pub(crate) fn rests_on_state(&self) -> bool {
        matches!(
            self,
            Self::Rejected(_)
                | Self::Denied(_)
                | Self::VersionMismatch { .. }
                | Self::PlanMoved { .. }
        )
    }

    /// One word for a metric.
    #[must_use]
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Rejected(_) => "rejected",
            Self::Denied(_) => "denied",
            Self::VersionMismatch { .. } => "version_mismatch",
            Self::PlanMoved { .. } => "plan_moved",
            Self::ReadMoved { .. } => "read_moved",
            Self::Conflict => "conflict",
            Self::Fenced { .. } => "fenced",
            Self::KeyReused => "key_reused",
            Self::Invalid { .. } => "invalid",
            Self::DuplicateEvent => "duplicate_event",
            Self::Overloaded => "overloaded",
            Self::DiskFull => "disk_full",
            Self::Unavailable(_) => "unavailable",
            Self::Load(_) => "unreadable",
        }
    }
}

impl<R> From<AppendError> for CommandError<R> {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Conflict { .. } => Self::Conflict,
            AppendError::Fenced { reader } => Self::Fenced { reader },
            AppendError::KeyReused => Self::KeyReused,
            AppendError::Invalid { reason } => Self::Invalid { reason },
            AppendError::DuplicateEvent => Self::DuplicateEvent,
            AppendError::Overloaded => Self::Overloaded,
            AppendError::DiskFull => Self::DiskFull,
            AppendError::Unavailable(source) => Self::Unavailable(source),
        }
    }
}
