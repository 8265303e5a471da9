//! The vault of a workspace: which secrets and connections there are, in which version. Never what they hold.
//!
//! What a secret or connection holds is sealed in a table beside the log, under its name or id and the version that stands here. So the
//! log says who set what when, for ever, and the values stay erasable. The vault is one stream a workspace: whoever saves a definition or
//! does a node's work finds in one state everything that names can mean.

mod connection;

use std::{collections::BTreeMap, fmt, str::FromStr};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub use self::connection::{
    ConnectionField, ConnectionKind, ConnectionSettings, PostgresSettings, SmtpSettings, TlsMode,
    WrongSettings,
};
use crate::{
    Aggregate,
    event::{corrupt, events},
    id::ConnectionId,
    limits,
    node::is_id,
};

events! {
    /// What happened to the secrets and connections of a workspace.
    VaultEvent in "vault" {
        "secret_set" 1 => SecretSet,
        "secret_deleted" 1 => SecretDeleted,
        "connection_created" 1 => ConnectionCreated,
        "connection_changed" 1 => ConnectionChanged,
        "connection_deleted" 1 => ConnectionDeleted,
        "vault_key_rotated" 1 => VaultKeyRotated,
    }
}

/// A secret has a value from now on, or another one. The value itself is not in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretSet {
    /// Its name.
    pub name: SecretName,
    /// Which version of its values counts.
    pub version: i32,
}

/// A secret is no more; its value was erased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretDeleted {
    /// Its name.
    pub name: SecretName,
}

/// A connection came to be. Where it leads and its password are not in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionCreated {
    /// Its id.
    pub connection_id: ConnectionId,
    /// What nodes call it.
    pub name: String,
    /// To what it leads.
    pub kind: ConnectionKind,
    /// Which version of its settings counts.
    pub version: i32,
}

/// A connection has another name or other settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionChanged {
    /// Its id.
    pub connection_id: ConnectionId,
    /// What nodes call it from now on.
    pub name: String,
    /// Which version of its settings counts.
    pub version: i32,
}

/// A connection is no more; its settings were erased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionDeleted {
    /// Its id.
    pub connection_id: ConnectionId,
}

/// All that the vault holds was sealed again under a new key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultKeyRotated {}

/// The name of a secret: a letter or `_`, then letters, digits or `_`, at most 64, so that `secrets.<name>` needs no quotes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretName(String);

/// A text that is no [`SecretName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the name of a secret has a letter or `_`, then letters, digits or `_`, at most {} in all",
    limits::MAX_NODE_ID_CHARS
)]
pub struct NotASecretName;

impl SecretName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Under which name its values are kept.
    #[must_use]
    pub fn holder(&self) -> String {
        format!("secret:{}", self.0)
    }
}

impl FromStr for SecretName {
    type Err = NotASecretName;

    fn from_str(text: &str) -> Result<Self, NotASecretName> {
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for SecretName {
    type Error = NotASecretName;

    fn try_from(text: String) -> Result<Self, NotASecretName> {
        let mut bytes = text.bytes();
        let begins = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
        let goes_on = bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if begins && goes_on && text.len() <= limits::MAX_NODE_ID_CHARS {
            Ok(Self(text))
        } else {
            Err(NotASecretName)
        }
    }
}

impl From<SecretName> for String {
    fn from(name: SecretName) -> Self {
        name.0
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ConnectionId {
    /// Under which name its settings are kept.
    #[must_use]
    pub fn holder(self) -> String {
        format!("connection:{self}")
    }
}

/// The fold of a vault's stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vault {
    /// How many events there were: the version of the stream.
    events: i64,
    secrets: BTreeMap<SecretName, KeptSecret>,
    connections: BTreeMap<ConnectionId, KeptConnection>,
}

/// A secret that has a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptSecret {
    /// Which version of its values counts.
    pub version: i32,
    /// The version of the stream in which it was set.
    pub set_in: i64,
}

/// A connection that exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptConnection {
    /// What nodes call it.
    pub name: String,
    /// To what it leads.
    pub kind: ConnectionKind,
    /// Which version of its settings counts.
    pub version: i32,
    /// The version of the stream in which it was created.
    pub created_in: i64,
    /// The version of the stream in which it was changed last.
    pub changed_in: i64,
}

/// What a vault is told to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VaultCommand {
    /// Give a secret a value, which is kept under this version already.
    SetSecret {
        /// Its name.
        name: SecretName,
        /// The version of the value.
        version: i32,
    },
    /// Take a secret away.
    DeleteSecret {
        /// Its name.
        name: SecretName,
    },
    /// Make a connection, whose settings are kept under this version already.
    CreateConnection {
        /// Its id.
        id: ConnectionId,
        /// 1 to 64 letters, digits, `_` or `-`.
        name: String,
        /// To what it leads.
        kind: ConnectionKind,
        /// The version of the settings.
        version: i32,
    },
    /// Name it otherwise or give it other settings, which are kept under this version already.
    ChangeConnection {
        /// Its id.
        id: ConnectionId,
        /// 1 to 64 letters, digits, `_` or `-`.
        name: String,
        /// To what it leads: never another kind than before.
        kind: ConnectionKind,
        /// The version of the settings.
        version: i32,
    },
    /// Take a connection away.
    DeleteConnection {
        /// Its id.
        id: ConnectionId,
    },
    /// Note that everything was sealed under a new key.
    NoteKeyRotation,
}

/// Which rule refuses a command on a vault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultRejection {
    /// There is no secret with this name.
    #[error("there is no such secret")]
    SecretNotFound,
    /// There is no connection with this id.
    #[error("there is no such connection")]
    ConnectionNotFound,
    /// There are as many secrets as there may be.
    #[error("a workspace has at most {} secrets", limits::MAX_SECRETS)]
    TooManySecrets,
    /// There are as many connections as there may be.
    #[error("a workspace has at most {} connections", limits::MAX_CONNECTIONS_OF_WORKSPACE)]
    TooManyConnections,
    /// The name of a connection has a shape.
    #[error("the name of a connection has 1 to 64 letters, digits, `_` or `-`")]
    ConnectionNameInvalid,
    /// Another connection has the name.
    #[error("another connection has this name")]
    ConnectionNameTaken,
    /// A connection can't become one of another kind: nodes that name it rely on its kind.
    #[error("a connection keeps its kind; delete it and make another")]
    ConnectionKindChanged,
    /// Somebody else set a later value meanwhile.
    #[error("somebody else set it at the same time")]
    Overtaken,
}

impl VaultRejection {
    /// The rule's stable name, for programs.
    #[must_use]
    pub const fn rule(&self) -> &'static str {
        match self {
            Self::SecretNotFound => "secret_not_found",
            Self::ConnectionNotFound => "connection_not_found",
            Self::TooManySecrets => "too_many_secrets",
            Self::TooManyConnections => "too_many_connections",
            Self::ConnectionNameInvalid => "name_invalid",
            Self::ConnectionNameTaken => "connection_name_taken",
            Self::ConnectionKindChanged => "connection_kind_changed",
            Self::Overtaken => "overtaken",
        }
    }
}

impl Vault {
    /// A secret by name.
    #[must_use]
    pub fn secret(&self, name: &SecretName) -> Option<KeptSecret> {
        self.secrets.get(name).copied()
    }

    /// All secrets, by name.
    pub fn secrets(&self) -> impl Iterator<Item = (&SecretName, KeptSecret)> {
        self.secrets.iter().map(|(name, kept)| (name, *kept))
    }

    /// A connection by id.
    #[must_use]
    pub fn connection(&self, id: ConnectionId) -> Option<&KeptConnection> {
        self.connections.get(&id)
    }

    /// A connection by what nodes call it.
    #[must_use]
    pub fn connection_named(&self, name: &str) -> Option<(ConnectionId, &KeptConnection)> {
        self.connections().find(|(_, kept)| kept.name == name)
    }

    /// All connections, by id: the oldest first.
    pub fn connections(&self) -> impl Iterator<Item = (ConnectionId, &KeptConnection)> {
        self.connections.iter().map(|(id, kept)| (*id, kept))
    }

    fn set_secret(
        &self,
        name: &SecretName,
        version: i32,
    ) -> Result<Vec<VaultEvent>, VaultRejection> {
        match self.secrets.get(name) {
            Some(kept) if kept.version >= version => return Err(VaultRejection::Overtaken),
            None if self.secrets.len() >= limits::MAX_SECRETS => {
                return Err(VaultRejection::TooManySecrets);
            }
            Some(_) | None => {}
        }
        Ok(vec![SecretSet { name: name.clone(), version }.into()])
    }

    fn create_connection(
        &self,
        id: ConnectionId,
        name: &str,
        kind: ConnectionKind,
        version: i32,
    ) -> Result<Vec<VaultEvent>, VaultRejection> {
        self.check_name(id, name)?;
        if self.connections.contains_key(&id) {
            return Err(VaultRejection::Overtaken);
        }
        if self.connections.len() >= limits::MAX_CONNECTIONS_OF_WORKSPACE {
            return Err(VaultRejection::TooManyConnections);
        }
        let name = name.to_owned();
        Ok(vec![ConnectionCreated { connection_id: id, name, kind, version }.into()])
    }

    fn change_connection(
        &self,
        id: ConnectionId,
        name: &str,
        kind: ConnectionKind,
        version: i32,
    ) -> Result<Vec<VaultEvent>, VaultRejection> {
        let kept = self.connections.get(&id).ok_or(VaultRejection::ConnectionNotFound)?;
        self.check_name(id, name)?;
        if kept.kind != kind {
            return Err(VaultRejection::ConnectionKindChanged);
        }
        if kept.version >= version {
            return Err(VaultRejection::Overtaken);
        }
        Ok(vec![ConnectionChanged { connection_id: id, name: name.to_owned(), version }.into()])
    }

    /// Nodes call a connection by its name, so no two have the same.
    fn check_name(&self, id: ConnectionId, name: &str) -> Result<(), VaultRejection> {
        if !is_id(name) {
            return Err(VaultRejection::ConnectionNameInvalid);
        }
        match self.connection_named(name) {
            Some((other, _)) if other != id => Err(VaultRejection::ConnectionNameTaken),
            Some(_) | None => Ok(()),
        }
    }
}

impl Aggregate for Vault {
    type Command = VaultCommand;
    type Event = VaultEvent;
    type Rejection = VaultRejection;

    fn decide(
        &self,
        command: &VaultCommand,
        _now: DateTime<Utc>,
    ) -> Result<Vec<VaultEvent>, VaultRejection> {
        match command {
            VaultCommand::SetSecret { name, version } => self.set_secret(name, *version),
            VaultCommand::DeleteSecret { name } => match self.secrets.get(name) {
                None => Err(VaultRejection::SecretNotFound),
                Some(_) => Ok(vec![SecretDeleted { name: name.clone() }.into()]),
            },
            VaultCommand::CreateConnection { id, name, kind, version } => {
                self.create_connection(*id, name, *kind, *version)
            }
            VaultCommand::ChangeConnection { id, name, kind, version } => {
                self.change_connection(*id, name, *kind, *version)
            }
            VaultCommand::DeleteConnection { id } => match self.connections.get(id) {
                None => Err(VaultRejection::ConnectionNotFound),
                Some(_) => Ok(vec![ConnectionDeleted { connection_id: *id }.into()]),
            },
            VaultCommand::NoteKeyRotation => Ok(vec![VaultKeyRotated {}.into()]),
        }
    }

    fn evolve(mut self, event: &VaultEvent) -> Self {
        self.events += 1;
        match event {
            VaultEvent::SecretSet(set) => {
                let kept = KeptSecret { version: set.version, set_in: self.events };
                self.secrets.insert(set.name.clone(), kept);
            }
            VaultEvent::SecretDeleted(deleted) => {
                self.secrets.remove(&deleted.name);
            }
            VaultEvent::ConnectionCreated(created) => {
                let kept = KeptConnection {
                    name: created.name.clone(),
                    kind: created.kind,
                    version: created.version,
                    created_in: self.events,
                    changed_in: self.events,
                };
                self.connections.insert(created.connection_id, kept);
            }
            VaultEvent::ConnectionChanged(changed) => {
                let Some(kept) = self.connections.get_mut(&changed.connection_id) else {
                    corrupt!("the connection was not created", event)
                };
                kept.name.clone_from(&changed.name);
                kept.version = changed.version;
                kept.changed_in = self.events;
            }
            VaultEvent::ConnectionDeleted(deleted) => {
                self.connections.remove(&deleted.connection_id);
            }
            VaultEvent::VaultKeyRotated(_) => {}
        }
        self
    }

    const SNAPSHOT: &'static str = "vault/1";

    fn weight(&self) -> usize {
        (self.secrets.len() + self.connections.len()) * 128
    }
}

#[cfg(test)]
mod tests;
