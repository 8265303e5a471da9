//! Nodes: what a workflow can do, one variant of [`NodeConfig`] a kind, each with its typed configuration.
//!
//! The set is closed, so that the compiler names every place that a new kind concerns. To add one: a variant of [`NodeKind`] and of
//! [`NodeConfig`], its configuration in `node/config.rs` (read, resolve), its schema in `node/schema.rs`, and the effect in the worker.

mod awaiting;
mod config;
mod kind;
mod read;
mod resolved;
mod retry;
mod schema;
mod script;
mod steer;
mod trigger;

pub use self::{
    awaiting::{ApprovalConfig, ResolvedSignal, ResolvedWorker, SignalConfig, WorkerConfig},
    config::{
        CommandConfig, EmailConfig, FileConfig, FileOperation, HttpConfig, HttpMethod, IfConfig,
        NodeConfig, SetVariableConfig, SqlConfig, SwitchCase, SwitchConfig, TransformConfig,
        WaitConfig,
    },
    kind::{NodeClass, NodeKind},
    resolved::{
        ResolveError, Resolved, ResolvedCommand, ResolvedEmail, ResolvedFile, ResolvedHttp,
        ResolvedIf, ResolvedSetVariable, ResolvedSql, ResolvedSwitch, ResolvedTransform,
        ResolvedWait,
    },
    retry::{Backoff, RetryPolicy},
    schema::{KindDescription, node_kinds},
    script::{JavascriptConfig, NodeValue, ResolvedJavascript},
    steer::{
        ForEachConfig, MergeConfig, MergeMode, OnItemError, ResolvedForEach, ResolvedMerge,
        ResolvedWhile, ResolvedWorkflow, WhileConfig, WorkflowConfig,
    },
};

pub(crate) use self::read::{is_id, read_node};

use std::borrow::Cow;

use serde_json::Value;

use crate::{expression::Scope, json::Json, vault::SecretName};

/// The port of a failed node whose `on_error` is `branch`.
pub const ERROR_PORT: &str = "error";
/// The port of a switch that no case matched.
pub const DEFAULT_PORT: &str = "default";

/// A node of a graph: an id, a kind with its configuration, and what happens when it fails.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    id: String,
    name: String,
    config: NodeConfig,
    retry: RetryPolicy,
    timeout_ms: Option<u64>,
    on_error: OnError,
    idempotent: bool,
    position: Option<Position>,
    undo: Option<String>,
    pinned_output: Option<Json>,
    references: Vec<String>,
    reads_last: bool,
    secrets: Vec<SecretName>,
}

/// What happens after the last try failed.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum OnError {
    /// The run fails.
    #[default]
    Fail,
    /// The node completes with this output instead.
    Continue(Value),
    /// The run pauses, and a person decides: try it again, complete it with an output, or let it fail.
    Pause,
    /// The node is left by its port [`ERROR_PORT`], with the error as its output.
    Branch,
}

/// Where the editor draws a node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Position {
    /// To the right.
    pub x: f64,
    /// Downwards.
    pub y: f64,
}

impl Node {
    /// Its id: 1 to 64 letters, digits, `_` or `-`, unique in the whole definition.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What people call it; its id where they didn't say.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it does.
    #[must_use]
    pub fn config(&self) -> &NodeConfig {
        &self.config
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> NodeKind {
        self.config.kind()
    }

    /// Whether the engine computes it, waits for it, loops over it, or hands it to a worker's effect.
    #[must_use]
    pub fn class(&self) -> NodeClass {
        self.kind().class()
    }

    /// Whether it is pure: computed in place and appended with the next effect.
    #[must_use]
    pub fn is_inline(&self) -> bool {
        self.class() == NodeClass::Inline
    }

    /// Whether doing it twice is the same as doing it once: pure kinds and GET unless the definition says otherwise. After a crash,
    /// only such a node is done again.
    #[must_use]
    pub fn is_idempotent(&self) -> bool {
        self.idempotent
    }

    /// How it is retried: its own policy, else the one of the settings, else the usual one.
    #[must_use]
    pub fn retry(&self) -> &RetryPolicy {
        &self.retry
    }

    /// How long one try may take: its own bound, else the one of its kind; none where the kind has none.
    #[must_use]
    pub fn timeout_ms(&self) -> Option<u64> {
        self.timeout_ms.or_else(|| self.kind().default_timeout_ms())
    }

    /// What happens after the last try failed.
    #[must_use]
    pub fn on_error(&self) -> &OnError {
        &self.on_error
    }

    /// The node that undoes what it did, when the run comes to a bad end after it had completed.
    #[must_use]
    pub fn undo(&self) -> Option<&str> {
        self.undo.as_deref()
    }

    /// Where the editor draws it.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// What it gives where it is stood in for: while another node is run by itself, and never in a run of the whole.
    #[must_use]
    pub fn pinned_output(&self) -> Option<&Json> {
        self.pinned_output.as_ref()
    }

    /// Ids of the nodes whose output its configuration reads: what its [`Scope`] needs in `nodes`. For a loop this is what its
    /// `items` reads; the nodes of its body have references of their own.
    #[must_use]
    pub fn references(&self) -> &[String] {
        &self.references
    }

    /// Whether its configuration reads `last`: what the iteration before gave in the `logic.while` around it.
    #[must_use]
    pub fn reads_last(&self) -> bool {
        self.reads_last
    }

    /// The secrets that its configuration names. Their values are put in by the worker, right before the effect.
    #[must_use]
    pub fn secrets(&self) -> &[SecretName] {
        &self.secrets
    }

    /// The named ports it can be left by. Empty for a node that is only left by its one unnamed port.
    #[must_use]
    pub fn ports(&self) -> Vec<Cow<'_, str>> {
        let mut ports = self.config.ports();
        if self.on_error == OnError::Branch {
            ports.push(Cow::Borrowed(ERROR_PORT));
        }
        ports
    }

    /// Whether it has the unnamed port, as every kind has that does not choose a branch.
    #[must_use]
    pub fn has_unnamed_port(&self) -> bool {
        self.config.has_unnamed_port()
    }

    /// Its configuration with every expression and template evaluated.
    ///
    /// # Errors
    /// The first field that can't be evaluated or has a value its kind can't take: a `validation` failure of the node.
    pub fn resolve(&self, scope: &Scope) -> Result<Resolved, ResolveError> {
        self.config.resolve(scope)
    }

    /// Whether a `logic.while` runs its body once more. No other kind does.
    ///
    /// # Errors
    /// When the condition can't be evaluated: a `validation` failure of the node.
    pub fn goes_on(&self, scope: &Scope) -> Result<bool, ResolveError> {
        let NodeConfig::While(config) = &self.config else { return Ok(false) };
        config.holds(scope)
    }
}
