//! Where a connection leads. Sealed as a whole, because hosts and user names are nobody's business either.

use serde::{Deserialize, Serialize};

/// To what a connection leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionKind {
    /// A Postgres database, for `action.sql`.
    Postgres,
    /// A mail server, for `action.email`.
    Smtp,
}

impl ConnectionKind {
    /// The stored and served word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Smtp => "smtp",
        }
    }
}

/// How a connection is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TlsMode {
    /// Encrypted, and the server proves by its certificate that it is the one that is named.
    #[default]
    Verify,
    /// Not encrypted.
    Off,
    /// Mail only: encrypted and proved from the first byte (port 465), instead of after a greeting in the clear.
    Implicit,
}

/// Where a connection leads, without its password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ConnectionSettings {
    /// A Postgres database.
    Postgres(PostgresSettings),
    /// A mail server.
    Smtp(SmtpSettings),
}

/// A Postgres database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresSettings {
    /// A name or an address.
    pub host: String,
    /// Usually 5432.
    #[serde(default = "postgres_port")]
    pub port: u16,
    /// The database.
    pub database: String,
    /// As whom.
    pub user: String,
    /// How it is encrypted: `verify` or `off`.
    #[serde(default)]
    pub tls: TlsMode,
}

/// A mail server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SmtpSettings {
    /// A name or an address.
    pub host: String,
    /// Usually 587, or 465 for `tls: implicit`.
    #[serde(default = "smtp_port")]
    pub port: u16,
    /// As whom; none where the server asks for nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// How it is encrypted.
    #[serde(default)]
    pub tls: TlsMode,
    /// From whom mail comes where a node does not say: an address, or `Name <address>`.
    pub from: String,
}

const fn postgres_port() -> u16 {
    5432
}

const fn smtp_port() -> u16 {
    587
}

/// A field of the settings.
pub type ConnectionField = &'static str;

/// What is wrong with settings: the field, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongSettings {
    /// Which field.
    pub field: ConnectionField,
    /// Why, for a person.
    pub reason: &'static str,
}

/// The longest name of a host (RFC 1035), and of whatever else settings name.
const MAX_CHARS: usize = 253;

impl ConnectionSettings {
    /// To what they lead.
    #[must_use]
    pub const fn kind(&self) -> ConnectionKind {
        match self {
            Self::Postgres(_) => ConnectionKind::Postgres,
            Self::Smtp(_) => ConnectionKind::Smtp,
        }
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &str {
        match self {
            Self::Postgres(settings) => &settings.host,
            Self::Smtp(settings) => &settings.host,
        }
    }

    /// Everything that is wrong with them.
    #[must_use]
    pub fn problems(&self) -> Vec<WrongSettings> {
        let mut wrong = Vec::new();
        let mut demand = |holds: bool, field: ConnectionField, reason: &'static str| {
            if !holds {
                wrong.push(WrongSettings { field, reason });
            }
        };
        match self {
            Self::Postgres(settings) => {
                demand(is_host(&settings.host), "host", "is not a host name or address");
                demand(settings.port > 0, "port", "must be between 1 and 65535");
                demand(is_word(&settings.database), "database", "must have 1 to 253 characters");
                demand(is_word(&settings.user), "user", "must have 1 to 253 characters");
                let known = settings.tls != TlsMode::Implicit;
                demand(known, "tls", "must be verify or off");
            }
            Self::Smtp(settings) => {
                demand(is_host(&settings.host), "host", "is not a host name or address");
                demand(settings.port > 0, "port", "must be between 1 and 65535");
                let user = settings.user.as_deref().is_none_or(is_word);
                demand(user, "user", "must have 1 to 253 characters");
                let from = is_word(&settings.from) && settings.from.contains('@');
                demand(from, "from", "must be an address");
            }
        }
        wrong
    }
}

/// A name or an address, without what could make a URL or a path of it. A host that begins with `/` would be a socket of this machine.
fn is_host(text: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    (1..=MAX_CHARS).contains(&text.len()) && text.chars().all(known)
}

/// Something with an end and without what would end a line.
fn is_word(text: &str) -> bool {
    (1..=MAX_CHARS).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}
