//! Step log lines: high-volume telemetry beside the log, numbered by the worker that wrote them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// How serious a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// For whoever builds the workflow.
    Debug,
    /// The ordinary course.
    Info,
    /// Worth a look.
    Warning,
    /// Something failed.
    Error,
}

impl LogLevel {
    /// The order in the table: 0 is debug.
    #[must_use]
    pub const fn rank(self) -> i16 {
        match self {
            Self::Debug => 0,
            Self::Info => 1,
            Self::Warning => 2,
            Self::Error => 3,
        }
    }
}

/// One line. `(execution, claim, n)` is its identity, so the live tail can join the table and the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// The workspace of the execution.
    pub workspace_id: Uuid,
    /// The execution that printed it.
    pub execution_id: Uuid,
    /// The claim under which it ran.
    pub claim: i32,
    /// Number of the line within the claim, from 1.
    pub n: i64,
    /// When it was printed, by the worker's clock.
    pub at: DateTime<Utc>,
    /// How serious it is.
    pub level: LogLevel,
    /// The path of the node, empty for the run itself.
    pub node: String,
    /// The attempt, from 1; 0 for the run itself.
    pub attempt: i32,
    /// The text; secrets are masked before it leaves the worker.
    pub message: String,
    /// Structured context as a JSON object, when there is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fields: Option<serde_json::Value>,
    /// The correlation id of the run's cause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<Uuid>,
}

/// Which lines of an execution are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogQuery {
    /// The execution.
    pub execution_id: Uuid,
    /// Only lines after this `(claim, n)`.
    pub after: Option<(i32, i64)>,
    /// Only this level and worse.
    pub min_level: Option<LogLevel>,
    /// Only lines of this node path.
    pub node: Option<String>,
    /// Only lines whose message holds this text, case-insensitive.
    pub search: Option<String>,
    /// At most this many.
    pub limit: i64,
}
