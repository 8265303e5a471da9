//! The effects of nodes, one file a kind.
//!
//! To add one: its configuration in `domain/src/node/`, a file here, and an arm in [`perform`].

mod command;
pub(crate) mod email;
mod file;
mod http;
mod javascript;
pub(crate) mod sql;

use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use ledgerline_domain::{
    execution::{Attempt, ErrorKind, NodeError, NodePath, ProviderUse},
    node::Resolved,
};
use ledgerline_store::LogLevel;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    file_space::AppendTurns, log_lines::RunLines, mask::Mask, secrets::Vaults,
    settings::WorkerSettings, values::failure,
};

/// What every effect of this process shares.
pub(crate) struct Equipment {
    pub(crate) settings: WorkerSettings,
    pub(crate) http: reqwest::Client,
    /// For requests that hold a secret, which no redirect takes to another server.
    pub(crate) http_with_secrets: reqwest::Client,
    pub(crate) vaults: Vaults,
    pub(crate) databases: sql::Pools,
    pub(crate) appends: AppendTurns,
    /// Scripts that run at once: each has a core to itself while it runs.
    pub(crate) scripts: Arc<Semaphore>,
}

/// One try of a node.
#[derive(Clone)]
pub(crate) struct Try {
    pub(crate) equipment: Arc<Equipment>,
    pub(crate) workspace: Uuid,
    pub(crate) execution: Uuid,
    pub(crate) path: NodePath,
    pub(crate) attempt: Attempt,
    /// When it began.
    pub(crate) now: DateTime<Utc>,
    pub(crate) lines: RunLines,
    /// How long it may take.
    pub(crate) timeout_ms: Option<u64>,
    /// Whether its configuration holds a secret.
    pub(crate) holds_secrets: bool,
    /// Takes the secrets of its workflow out of whatever it gives and prints.
    pub(crate) mask: Arc<Mask>,
    pub(crate) cancel: CancellationToken,
    /// What it used of providers so far; recorded with its outcome, also where that is a failure or its time is over.
    pub(crate) used: Arc<Mutex<Vec<ProviderUse>>>,
}

impl Try {
    /// Takes what it used of providers, for its outcome.
    pub(crate) fn take_used(&self) -> Vec<ProviderUse> {
        std::mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Prints a line of this try.
    async fn print(&self, level: LogLevel, message: &str, fields: Option<Value>) {
        let message = self.mask.text(message);
        let fields = fields.map(|fields| self.mask.value(fields));
        self.lines.print(level, self.path.as_str(), self.attempt.0, &message, fields).await;
    }
}

/// Does what a resolved configuration says, and gives the output.
///
/// # Errors
/// The failure as it is recorded; its kind decides whether it is tried again.
pub(crate) async fn perform(resolved: Resolved, of: &Try) -> Result<Value, NodeError> {
    match resolved {
        Resolved::Http(request) => http::perform(request, of).await,
        Resolved::Command(command) => command::perform(command, of).await,
        Resolved::File(operation) => file::perform(operation, of).await,
        Resolved::Sql(statement) => sql::perform(statement, of).await,
        Resolved::Email(message) => email::perform(*message, of).await,
        Resolved::Javascript(script) => javascript::perform(*script, of).await,
        Resolved::Trigger(_)
        | Resolved::If(_)
        | Resolved::Switch(_)
        | Resolved::Transform(_)
        | Resolved::SetVariable(_)
        | Resolved::Wait(_)
        | Resolved::Merge(_)
        | Resolved::While(_)
        | Resolved::ForEach(_)
        | Resolved::Workflow(_)
        | Resolved::Approval(_)
        | Resolved::Signal(_)
        | Resolved::Worker(_) => Err(failure(
            ErrorKind::Permanent,
            format!("{} has no effect to perform", resolved.kind().as_str()),
        )),
    }
}
