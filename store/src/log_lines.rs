//! Step log lines: high-volume telemetry beside the log, numbered by the worker that wrote them.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use uuid::Uuid;

use crate::StoreError;
use crate::fault::values_at_fault;
use crate::json_text::{JsonStr, JsonText};

/// One statement stays short enough not to hold a connection for long.
const MAX_LINES_PER_STATEMENT: usize = 5_000;

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

    fn from_rank(rank: i16) -> Result<Self, StoreError> {
        [Self::Debug, Self::Info, Self::Warning, Self::Error]
            .into_iter()
            .find(|level| level.rank() == rank)
            .ok_or_else(|| StoreError::Corrupt { reason: format!("level {rank} of a log line") })
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

/// See [`crate::EventLog::write_log_lines`]. One statement over arrays: as fast as COPY, and it leaves lines that are there.
pub(crate) async fn write(pool: &PgPool, lines: &[LogLine]) -> Result<(), StoreError> {
    for lines in lines.chunks(MAX_LINES_PER_STATEMENT) {
        write_chunk(pool, lines).await?;
    }
    Ok(())
}

async fn write_chunk(pool: &PgPool, lines: &[LogLine]) -> Result<(), StoreError> {
    fn column<'a, T>(lines: &'a [LogLine], of: impl Fn(&'a LogLine) -> T) -> Vec<T> {
        lines.iter().map(of).collect()
    }
    let fields = column(lines, |line| line.fields.as_ref().map(ToString::to_string));
    let fields: Vec<_> = fields.iter().map(|fields| fields.as_deref().map(JsonStr)).collect();
    // Postgres text can't hold U+0000, and a program may print it.
    let nodes = column(lines, |line| without_nul(&line.node));
    let messages = column(lines, |line| without_nul(&line.message));
    sqlx::query_file!(
        "sql/write_log_lines.sql",
        &column(lines, |line| line.workspace_id),
        &column(lines, |line| line.execution_id),
        &column(lines, |line| line.claim),
        &column(lines, |line| line.n),
        &column(lines, |line| line.at),
        &column(lines, |line| line.level.rank()),
        &nodes as &[Cow<'_, str>],
        &column(lines, |line| line.attempt),
        &messages as &[Cow<'_, str>],
        &fields as &[Option<JsonStr<'_>>],
        &column(lines, |line| line.correlation_id) as &[Option<Uuid>],
    )
    .execute(pool)
    .await
    .map_err(|error| {
        // Told from an outage, because trying the same lines again can never help.
        if values_at_fault(&error) {
            StoreError::Corrupt { reason: format!("the table refuses log lines: {error}") }
        } else {
            error.into()
        }
    })?;
    Ok(())
}

pub(crate) fn without_nul(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        Cow::Owned(text.replace('\0', "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// See [`crate::EventLog::log_lines`].
pub(crate) async fn read(pool: &PgPool, query: &LogQuery) -> Result<Vec<LogLine>, StoreError> {
    let (claim, n) = query.after.unwrap_or((i32::MIN, i64::MIN));
    let search = query.search.as_deref().map(without_nul);
    let rows = sqlx::query_file!(
        "sql/log_lines.sql",
        query.execution_id,
        claim,
        n,
        query.min_level.unwrap_or(LogLevel::Debug).rank(),
        query.node.as_deref(),
        search.as_deref(),
        query.limit,
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(LogLine {
                workspace_id: row.workspace_id,
                execution_id: row.execution_id,
                claim: row.claim,
                n: row.n,
                at: row.at,
                level: LogLevel::from_rank(row.level)?,
                node: row.node,
                attempt: row.attempt,
                message: row.message,
                fields: row.fields.map(|fields| parse_fields(&fields.0)).transpose()?,
                correlation_id: row.correlation_id,
            })
        })
        .collect()
}

fn parse_fields(text: &str) -> Result<serde_json::Value, StoreError> {
    serde_json::from_str(text)
        .map_err(|error| StoreError::Corrupt { reason: format!("fields of a log line: {error}") })
}
