//! All events: their stored names and versions, and who caused them.
//!
//! An event is the only thing of `domain` that is persisted. Its stored name and version are explicit text in the `events!` list
//! of its aggregate, never a Rust path, so that a rename in the code changes nothing on disk. To add one: a struct and a line in
//! that list, a golden file in `tests/golden/events/`, and an arm wherever the compiler asks for it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    audit::AuditEvent,
    deployment::DeploymentEvent,
    execution::ExecutionEvent,
    id::{CorrelationId, EventId, UserId},
    trigger::TriggerEvent,
    vault::VaultEvent,
    workflow::WorkflowEvent,
    workspace::WorkspaceEvent,
};

/// What every event type of an aggregate can do. Implemented by the `events!` macro.
pub trait DomainEvent: Clone + Send + Sync + Sized + 'static {
    /// The noun of the stream.
    const CATEGORY: &'static str;
    /// Every stored (type, version) that this build writes.
    const TYPES: &'static [(&'static str, i16)];

    /// The stored name of this event's type.
    fn type_name(&self) -> &'static str;
    /// The version of its payload's shape.
    fn schema_version(&self) -> i16;
    /// Its payload as JSON text.
    fn payload(&self) -> String;
    /// Reads an event of the current version.
    ///
    /// # Errors
    /// [`DecodeError`] when the type is unknown to this build or the payload has another shape.
    fn decode(r#type: &str, schema_version: i16, payload: &str) -> Result<Self, DecodeError>;
}

/// Why a recorded event could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Written by a newer build: whoever reads must stand down, never skip.
    #[error("the event type {category}/{type} version {schema_version} is unknown to this build")]
    Unknown {
        /// Category of the stream.
        category: String,
        /// Stored type name.
        r#type: String,
        /// Version of the payload.
        schema_version: i16,
    },
    /// The payload has not the shape that its type and version promise.
    #[error("the payload of a {type} event does not have its shape")]
    Payload {
        /// Stored type name.
        r#type: String,
        /// What serde says.
        #[source]
        source: serde_json::Error,
    },
}

/// Declares the enum of an aggregate's events from its list of `"stored_name" version => Struct`.
macro_rules! events {
    ($(#[$doc:meta])* $name:ident in $category:literal { $($type:literal $version:literal => $event:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub enum $name {
            $(
                #[doc = concat!("Stored as `", $type, "`.")]
                $event($event),
            )*
        }

        $(
            impl From<$event> for $name {
                fn from(event: $event) -> Self {
                    Self::$event(event)
                }
            }
        )*

        impl $crate::event::DomainEvent for $name {
            const CATEGORY: &'static str = $category;
            const TYPES: &'static [(&'static str, i16)] = &[$(($type, $version)),*];

            fn type_name(&self) -> &'static str {
                match self {
                    $(Self::$event(_) => $type,)*
                }
            }

            fn schema_version(&self) -> i16 {
                match self {
                    $(Self::$event(_) => $version,)*
                }
            }

            fn payload(&self) -> String {
                match self {
                    $(Self::$event(event) => serde_json::to_string(event),)*
                }
                .expect("an event has only string keys, so it always serialises")
            }

            fn decode(
                r#type: &str,
                schema_version: i16,
                payload: &str,
            ) -> Result<Self, $crate::event::DecodeError> {
                match (r#type, schema_version) {
                    $(($type, $version) => serde_json::from_str(payload).map(Self::$event).map_err(|source| {
                        $crate::event::DecodeError::Payload { r#type: r#type.to_owned(), source }
                    }),)*
                    _ => Err($crate::event::DecodeError::Unknown {
                        category: $category.to_owned(),
                        r#type: r#type.to_owned(),
                        schema_version,
                    }),
                }
            }
        }
    };
}
pub(crate) use events;

/// Stops at an event that cannot follow the state: the log is corrupt, and going on in a wrong state would spread it.
macro_rules! corrupt {
    ($why:literal, $event:expr) => {
        panic!(concat!("corrupt log: ", $why, ": {:?}"), $event)
    };
}
pub(crate) use corrupt;

/// An event of any aggregate, for readers of the whole log.
#[expect(
    clippy::large_enum_variant,
    reason = "most events are an execution's, and each is only passed by"
)]
#[derive(Clone, Debug, PartialEq)]
pub enum AnyEvent {
    /// Of a workspace.
    Workspace(WorkspaceEvent),
    /// Of a workflow.
    Workflow(WorkflowEvent),
    /// Of an execution.
    Execution(ExecutionEvent),
    /// Of a vault.
    Vault(VaultEvent),
    /// Of the deployment.
    Deployment(DeploymentEvent),
    /// Of a trigger.
    Trigger(TriggerEvent),
    /// Of an audit trail.
    Audit(AuditEvent),
}

impl AnyEvent {
    /// Every category, with each stored (type, version) that this build writes in it.
    pub const TYPES: &'static [(&'static str, &'static [(&'static str, i16)])] = &[
        (WorkspaceEvent::CATEGORY, WorkspaceEvent::TYPES),
        (WorkflowEvent::CATEGORY, WorkflowEvent::TYPES),
        (ExecutionEvent::CATEGORY, ExecutionEvent::TYPES),
        (VaultEvent::CATEGORY, VaultEvent::TYPES),
        (DeploymentEvent::CATEGORY, DeploymentEvent::TYPES),
        (TriggerEvent::CATEGORY, TriggerEvent::TYPES),
        (AuditEvent::CATEGORY, AuditEvent::TYPES),
    ];

    /// The types of events that a workflow can start from. Those of triggers are not among them: a trigger that hears itself would
    /// never come to an end, and no depth would tell.
    pub fn heard() -> impl Iterator<Item = &'static str> {
        let types = [WorkspaceEvent::TYPES, WorkflowEvent::TYPES, ExecutionEvent::TYPES];
        types.into_iter().flatten().map(|(name, _)| *name)
    }

    /// Whether a workflow can start from events of this type.
    #[must_use]
    pub fn is_heard(name: &str) -> bool {
        Self::heard().any(|heard| heard == name)
    }

    /// Reads a recorded event, through the upcasters when its version is an old one.
    ///
    /// # Errors
    /// [`DecodeError`] when it was written by a newer build or is corrupt.
    pub fn decode(
        category: &str,
        r#type: &str,
        schema_version: i16,
        payload: &str,
    ) -> Result<Self, DecodeError> {
        let stored = crate::upcast::upcast(category, r#type, schema_version, payload);
        let (schema_version, payload) = (stored.schema_version, stored.payload.as_ref());
        match category {
            WorkspaceEvent::CATEGORY => {
                WorkspaceEvent::decode(r#type, schema_version, payload).map(Self::Workspace)
            }
            WorkflowEvent::CATEGORY => {
                WorkflowEvent::decode(r#type, schema_version, payload).map(Self::Workflow)
            }
            ExecutionEvent::CATEGORY => {
                ExecutionEvent::decode(r#type, schema_version, payload).map(Self::Execution)
            }
            VaultEvent::CATEGORY => {
                VaultEvent::decode(r#type, schema_version, payload).map(Self::Vault)
            }
            DeploymentEvent::CATEGORY => {
                DeploymentEvent::decode(r#type, schema_version, payload).map(Self::Deployment)
            }
            TriggerEvent::CATEGORY => {
                TriggerEvent::decode(r#type, schema_version, payload).map(Self::Trigger)
            }
            AuditEvent::CATEGORY => {
                AuditEvent::decode(r#type, schema_version, payload).map(Self::Audit)
            }
            _ => Err(DecodeError::Unknown {
                category: category.to_owned(),
                r#type: r#type.to_owned(),
                schema_version,
            }),
        }
    }
}

/// Who caused an event. People are named by id only: names and addresses are erasable and live outside the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Actor {
    /// A person, or a program with a person's key.
    Human {
        /// Who.
        user_id: UserId,
    },
    /// A program that decides by itself (an AI agent, an external worker, a service account).
    Agent {
        /// Its name; of a service account only that it is one, because what people call it is not for the log.
        name: String,
        /// The service account that it is, by which its workspace knows it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user_id: Option<UserId>,
    },
    /// Ledgerline itself: a policy, a timer, a worker.
    System {
        /// Which part.
        name: String,
    },
}

impl Actor {
    /// A part of the system.
    #[must_use]
    pub fn system(name: &str) -> Self {
        Self::System { name: name.to_owned() }
    }

    /// A service account.
    #[must_use]
    pub fn service_account(user_id: UserId) -> Self {
        Self::Agent { name: "service_account".to_owned(), user_id: Some(user_id) }
    }

    /// The person or service account that it is; none for what no workspace has as a member.
    #[must_use]
    pub const fn member(&self) -> Option<UserId> {
        match self {
            Self::Human { user_id } => Some(*user_id),
            Self::Agent { user_id, .. } => *user_id,
            Self::System { .. } => None,
        }
    }
}

/// What goes with every event beside its payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Who caused it.
    pub actor: Actor,
    /// What it belongs to: the same for everything that one request or trigger led to.
    pub correlation_id: CorrelationId,
    /// The event that led to it; none where a person or a clock did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub causation_id: Option<EventId>,
    /// W3C `traceparent` of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
}

/// A decoded event with its place in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded<E> {
    /// Position in the log.
    pub position: i64,
    /// The stream, i.e. the aggregate's id.
    pub stream: Uuid,
    /// Place in the stream, from 1.
    pub version: i64,
    /// The workspace's id, nil for the deployment's own events.
    pub workspace: Uuid,
    /// Id of the event.
    pub event_id: EventId,
    /// When it was committed.
    pub recorded_at: DateTime<Utc>,
    /// Who and why.
    pub metadata: Metadata,
    /// What happened.
    pub event: E,
}
