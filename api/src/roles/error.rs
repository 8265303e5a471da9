//! Why a process did not start: one line that says what to do, and the exit code that goes with it.

use std::{io, net::SocketAddr, path::PathBuf};

use ledgerline_nats::ConnectError;
use ledgerline_store::StoreError;

use super::check::UnknownEvents;
use crate::{
    config::{ConfigError, EXIT_CONFIG},
    embedded::EmbeddedError,
    identity::IdentityError,
    listen::tls::TlsError,
    problem::Problem,
};

/// The exit code when the log holds what this build cannot read (`EX_DATAERR`).
const EXIT_DATA: i32 = 65;
/// The exit code when something that is needed is away (`EX_UNAVAILABLE`).
const EXIT_AWAY: i32 = 69;
/// The exit code of a start that a signal abandoned.
const EXIT_SIGNAL: i32 = 130;

/// Why a process did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Settings that cannot stand.
    #[error("the configuration is not valid")]
    Config(#[from] ConfigError),
    /// The master key is not 32 bytes in base64.
    #[error("the master key is not 32 bytes in base64 (openssl rand -base64 32 makes one)")]
    MasterKey,
    /// The embedded servers did not start.
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    /// The address of the database is not one.
    #[error("the database address is not one")]
    DatabaseAddress(#[source] sqlx::Error),
    /// The database does not answer.
    #[error("the database cannot be reached; check DATABASE_URL and that Postgres runs there")]
    Database(#[source] sqlx::Error),
    /// The database is not in a shape that this build can bring up to date.
    #[error("the database cannot be migrated")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// The database has not the shape of this build, and what was asked for only looks.
    #[error("the database has not the shape of this build ({0}); run `ledgerline migrate`")]
    NeedsMigrate(String),
    /// The role that is to serve can't be given what it needs.
    #[error(
        "the serving role cannot be given what it needs; make it first (CREATE ROLE … LOGIN), and run this as a superuser or as the \
         owner of the tables who is a member of that role"
    )]
    ServingRole(#[source] sqlx::Error),
    /// The schemas of the read models cannot be made.
    #[error("the read models cannot be prepared")]
    Prepare(#[source] sqlx::Error),
    /// The log does not answer.
    #[error("the log cannot be read")]
    Log(#[source] StoreError),
    /// The log was written by a newer build.
    #[error(transparent)]
    UnknownEvents(#[from] UnknownEvents),
    /// The address of NATS is not one.
    #[error("the NATS address in NATS_URL cannot be used")]
    Nats(#[source] ConnectError),
    /// The deployment's prefix on NATS is not one.
    #[error("the NATS prefix cannot be used: {0}")]
    Prefix(String),
    /// Accounts cannot be started: the signing keys, or the mail settings.
    #[error("accounts cannot be started")]
    Identity(#[source] IdentityError),
    /// The port is taken, or not ours to take.
    #[error("cannot listen on {address}; choose another --listen, or stop what listens there")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The certificate or its key cannot be used.
    #[error("TLS cannot be served; check --tls-cert and --tls-key")]
    Tls(#[from] TlsError),
    /// A file or folder that the process keeps cannot be used.
    #[error("cannot use {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Root's programs have nobody to run as.
    #[error(
        "action.command needs a user to run programs as, and there is no user nobody; run as an ordinary user"
    )]
    NoUser,
    /// The worker cannot be set up.
    #[error("the worker cannot be started")]
    Worker(#[source] ledgerline_worker::WorkerError),
    /// The demo could not be made.
    #[error("the demo cannot be made: {what}")]
    Seed {
        /// Which part.
        what: String,
        /// Why.
        #[source]
        source: Option<Problem>,
    },
    /// A signal came before it served.
    #[error("stopped before it served")]
    Cancelled,
}

impl StartError {
    /// What the process exits with.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Config(_)
            | Self::MasterKey
            | Self::DatabaseAddress(_)
            | Self::Nats(_)
            | Self::Prefix(_)
            | Self::Tls(_)
            | Self::NoUser => EXIT_CONFIG,
            Self::Embedded(EmbeddedError::Cancelled) | Self::Cancelled => EXIT_SIGNAL,
            Self::Embedded(_) => 2,
            Self::UnknownEvents(_) => EXIT_DATA,
            Self::Database(_)
            | Self::Migrate(_)
            | Self::Prepare(_)
            | Self::NeedsMigrate(_)
            | Self::ServingRole(_)
            | Self::Log(_)
            | Self::Listen { .. } => EXIT_AWAY,
            Self::Identity(_) | Self::Worker(_) | Self::File { .. } | Self::Seed { .. } => 1,
        }
    }
}
