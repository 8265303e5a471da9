//! Connections of a workspace: opened for the node that names one, and tried out for whoever set one up.

use std::time::{Duration, Instant};

use ledgerline_domain::{
    execution::{ErrorKind, NodeError},
    id::ConnectionId,
    vault::{ConnectionKind, ConnectionSettings},
};
use ledgerline_store::sealed::Wanted;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::{
    mask::Mask,
    nodes::{Try, email, sql},
    outbound::{Reach, dial::DialError},
    secrets::{Vaults, recorded},
    values::failure,
};

/// How long a test of a connection may take.
const TEST_TIMEOUT: Duration = Duration::from_secs(15);

/// How often a connection may be changed between the look at its version and the look at itself.
const MAX_LOOKS: u32 = 5;

/// What is sealed of a connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoredConnection {
    /// Where it leads.
    pub settings: ConnectionSettings,
    /// The password, where the server asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "exposed")]
    pub password: Option<SecretString>,
}

/// Only what is sealed right after is written so.
fn exposed<S: serde::Serializer>(
    password: &Option<SecretString>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    password.as_ref().map(|password| password.expose_secret()).serialize(serializer)
}

impl StoredConnection {
    /// What takes its password out of texts.
    pub(crate) fn mask(&self) -> Mask {
        Mask::of(self.password.iter().map(|password| password.expose_secret()))
    }
}

/// A connection, opened for use.
#[derive(Debug)]
pub(crate) struct OpenedConnection {
    pub(crate) id: ConnectionId,
    pub(crate) version: i32,
    pub(crate) stored: StoredConnection,
}

impl Vaults {
    /// The connection that a node names.
    pub(crate) async fn connection(
        &self,
        of: &Try,
        name: &str,
        kind: ConnectionKind,
    ) -> Result<OpenedConnection, NodeError> {
        let (sealed, workspace) = (self.sealed()?, of.workspace);
        for _ in 0..MAX_LOOKS {
            let vault = self.vault(workspace).await?;
            let Some((id, kept)) = vault.connection_named(name) else {
                let message = format!("the workspace has no connection `{name}`");
                return Err(failure(ErrorKind::Validation, message));
            };
            if kept.kind != kind {
                let (leads, needs) = (kept.kind.as_str(), kind.as_str());
                let message = format!("the connection `{name}` leads to {leads}, not {needs}");
                return Err(failure(ErrorKind::Validation, message));
            }
            let wanted = Wanted { holder: id.holder(), version: kept.version };
            let opened = sealed.open(workspace, std::slice::from_ref(&wanted)).await;
            let opened = opened.map_err(|error| recorded(&error))?;
            let Some(value) = opened.get(&wanted.holder) else { continue };
            let stored = serde_json::from_slice(value.expose_secret()).map_err(|_| {
                failure(ErrorKind::Permanent, format!("the connection `{name}` can't be read"))
            })?;
            self.used(of, wanted.holder);
            return Ok(OpenedConnection { id, version: kept.version, stored });
        }
        Err(failure(ErrorKind::Transient, format!("the connection `{name}` is being changed")))
    }
}

/// What a connection that works says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Works {
    /// The server, in its own words.
    pub server: String,
    /// How long it took to get there.
    pub duration_ms: u64,
}

/// At which step a connection does not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailedStep {
    /// Workflows may not reach the address.
    Forbidden,
    /// The name has no address.
    Name,
    /// Nobody answers, or it is refused.
    Connect,
    /// The encryption or the certificate.
    Tls,
    /// The server does not let this user in.
    Login,
    /// The server is there and does not do what it should.
    Server,
    /// It took too long.
    Timeout,
}

impl FailedStep {
    /// Its stable name, for programs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forbidden => "address_forbidden",
            Self::Name => "host_unknown",
            Self::Connect => "unreachable",
            Self::Tls => "tls_failed",
            Self::Login => "login_refused",
            Self::Server => "server_refused",
            Self::Timeout => "timed_out",
        }
    }
}

/// Why a connection does not work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct DoesNotWork {
    /// Where it stopped.
    pub step: FailedStep,
    /// Why, for a person; without the password.
    pub reason: String,
}

impl DoesNotWork {
    pub(crate) fn at(step: FailedStep, reason: impl Into<String>) -> Self {
        Self { step, reason: reason.into() }
    }
}

impl From<&DialError> for DoesNotWork {
    fn from(error: &DialError) -> Self {
        let step = match error {
            DialError::Forbidden(_) => FailedStep::Forbidden,
            DialError::Name { .. } => FailedStep::Name,
            DialError::Connect { .. } => FailedStep::Connect,
            DialError::Tls { .. } => FailedStep::Tls,
        };
        Self::at(step, error.to_string())
    }
}

/// Goes to where a connection leads, signs in, and leaves again.
///
/// # Errors
/// [`DoesNotWork`], in words that help.
pub async fn test(stored: &StoredConnection, reach: &Reach) -> Result<Works, DoesNotWork> {
    let begun = Instant::now();
    let trying = async {
        match &stored.settings {
            ConnectionSettings::Postgres(settings) => {
                sql::test(settings, stored.password.as_ref(), reach).await
            }
            ConnectionSettings::Smtp(settings) => {
                email::test(settings, stored.password.as_ref(), reach).await
            }
        }
    };
    let tried = timeout(TEST_TIMEOUT, trying).await.unwrap_or_else(|_| {
        let seconds = TEST_TIMEOUT.as_secs();
        Err(DoesNotWork::at(FailedStep::Timeout, format!("no answer within {seconds} s")))
    });
    let mask = stored.mask();
    match tried {
        Ok(server) => Ok(Works {
            server: mask.text(&server).into_owned(),
            duration_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        }),
        Err(DoesNotWork { step, reason }) => {
            Err(DoesNotWork::at(step, mask.text(&reason).into_owned()))
        }
    }
}
