//! Every id of the product: one newtype a noun over a UUID, so that a workflow's id cannot stand where an execution's belongs.
//!
//! To add one, add a line to the `ids!` list below. New ids are UUIDv7 and made at the edges, never here: `domain` has no randomness.
//! Ids that follow from a cause are UUIDv5 ([`derived`]), so that what must be once for ever is taken once for ever.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
            #[serde(transparent)]
            pub struct $name(pub Uuid);

            impl fmt::Display for $name {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    self.0.fmt(f)
                }
            }

            impl FromStr for $name {
                type Err = uuid::Error;

                fn from_str(text: &str) -> Result<Self, Self::Err> {
                    Uuid::parse_str(text).map(Self)
                }
            }

            impl From<$name> for Uuid {
                fn from(id: $name) -> Self {
                    id.0
                }
            }
        )*
    };
}

ids! {
    /// A workspace: the boundary of membership and of everything that is shared.
    WorkspaceId,
    /// A person, known to events by this id only; or a service account, which is a member of its workspace as a person is.
    UserId,
    /// A workflow, over all its versions.
    WorkflowId,
    /// One run of a workflow.
    ExecutionId,
    /// What starts a workflow by itself: one of its trigger nodes, over all versions.
    TriggerId,

    /// One event.
    EventId,
    /// What ties everything together that one request or trigger caused.
    CorrelationId,
    /// One signed-in device of a person: the unit of revocation.
    SessionId,
    /// A key with which a program acts for a person.
    ApiKeyId,
    /// The secrets and connections of a workspace.
    VaultId,
    /// A connection to a server outside the deployment.
    ConnectionId,
    /// What asks an address to join a workspace: one for each of both, over all times it is sent.
    InvitationId,
}

/// The namespace of ids that follow from a cause.
const NAMESPACE: Uuid = Uuid::from_u128(0x6c65_6467_6572_4c69_6e65_0000_0000_0001);

/// The id that a cause leads to: the same parts give the same id for ever (UUIDv5, RFC 9562).
///
/// Parts are joined with a separator that no id or type name holds, so that two lists of parts cannot meet in one text.
#[must_use]
pub fn derived(parts: &[&str]) -> Uuid {
    Uuid::new_v5(&NAMESPACE, parts.join("\u{1f}").as_bytes())
}

impl WorkspaceId {
    /// The personal workspace of a user: one for ever, however often its creation is tried.
    #[must_use]
    pub fn personal(user: UserId) -> Self {
        Self(derived(&["personal_workspace", &user.to_string()]))
    }

    /// The vault of the workspace.
    #[must_use]
    pub fn vault(self) -> VaultId {
        VaultId(derived(&["vault", &self.to_string()]))
    }
}

impl TriggerId {
    /// The trigger that a node of a workflow is: the same over all versions that have the node.
    #[must_use]
    pub fn of(workflow: WorkflowId, node_id: &str) -> Self {
        Self(derived(&["trigger", &workflow.to_string(), node_id]))
    }

    /// The execution that something starts by this trigger: one for ever, however often it is tried. `cause` is a fire time, a delivery
    /// or an event, by a name that no other kind of cause shares.
    #[must_use]
    pub fn execution(self, cause: &[&str]) -> ExecutionId {
        let id = self.to_string();
        let parts: Vec<&str> =
            ["triggered", id.as_str()].into_iter().chain(cause.iter().copied()).collect();
        ExecutionId(derived(&parts))
    }
}
