//! One execution as one file: its definition, its events as CloudEvents, its large values and its log lines, to be kept, sent, or looked
//! at by programs. One JSON object a line, written as it is read, so that a run of any length costs the same memory.
//!
//! The first line is the manifest, the last one counts the others and holds the SHA-256 of all bytes before it. Secrets are in none of
//! them: values are masked before they enter the log, and a definition names secrets without holding them.

use std::{
    collections::{HashSet, VecDeque},
    io,
    sync::Arc,
};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderValue, header},
    response::Response,
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use futures_util::stream;
use ledgerline_commands::definitions::at_hand;
use ledgerline_domain::{
    audit::Export,
    execution::{Execution, ExecutionEvent, NodeOutput},
    id::{ExecutionId, WorkspaceId},
    json::Json,
    workflow::Workflow,
};
use ledgerline_nats::envelope::{EventSource, encode};
use ledgerline_store::{EventLog, LogQuery, StoreError, StreamId, StreamVersion};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;
use utoipa::{IntoParams, ToSchema};

use super::{find, logs::LineView};
use crate::{
    app::AppState,
    extract::{Path, Query},
    problem::Problem,
    reading::Reading,
    routes::log::feed::{broke_off, ndjson},
};

/// What is written in every file, so that a reader knows what it has.
pub(crate) const FORMAT: &str = "ledgerline.execution";
/// Raised when lines change their meaning.
pub(crate) const FORMAT_VERSION: u32 = 1;
/// Events that are read at once.
const EVENTS_READ: usize = 200;
/// Log lines that are read at once.
const LINES_READ: i64 = 1_000;
/// Log lines of a file where no other number is asked for.
const DEFAULT_LINES: u32 = 100_000;
/// The most log lines of a file: as many as a run may sensibly print.
const MAX_LINES: u32 = 1_000_000;
/// The largest value that is written into the file; a larger one is named by its hash.
const MAX_BLOB_BYTES: u64 = 1024 * 1024;
/// All values together.
const MAX_BLOBS_BYTES: u64 = 32 * 1024 * 1024;
/// Values that are named at all.
const MAX_BLOBS: usize = 10_000;

/// How much of it.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default, deny_unknown_fields)]
pub struct ExportQuery {
    /// How many log lines at most, from the first one; 100,000 where it is left out.
    #[param(maximum = 1_000_000)]
    pub log_lines: Option<u32>,
}

/// A line of an exported execution.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum ExportRecord {
    /// The first line.
    Manifest {
        /// `ledgerline.execution`.
        format: &'static str,
        /// The version of the format.
        format_version: u32,
        /// The execution.
        #[schema(value_type = Uuid)]
        execution_id: ExecutionId,
        /// The log it is of.
        source: String,
        /// The position of the log that the file reflects.
        position: i64,
        /// Where the execution stood then.
        status: &'static str,
        /// How many events follow.
        events: i64,
        /// The most log lines that follow.
        max_log_lines: u32,
        /// The largest value that is in the file.
        max_blob_bytes: u64,
        /// When it was written.
        exported_at: chrono::DateTime<chrono::Utc>,
    },
    /// The definition that the execution is pinned to.
    Definition {
        /// The workflow.
        #[schema(value_type = Uuid)]
        workflow_id: ledgerline_domain::id::WorkflowId,
        /// Its version.
        version: i32,
        /// The name it had in that version.
        name: String,
        /// `{nodes, connections, settings}`.
        #[schema(value_type = Object)]
        definition: Json,
    },
    /// An event, in order.
    Event {
        /// As it is seen outside: CloudEvents 1.0.
        #[schema(value_type = Object)]
        event: Box<RawValue>,
    },
    /// A value that an event names by its hash.
    Blob {
        /// SHA-256 of its content in lower-case hex.
        hash: String,
        /// Its size.
        size_bytes: u64,
        /// Its content in Base64; left out where it is too large, or no longer kept.
        #[serde(skip_serializing_if = "Option::is_none")]
        content: Option<String>,
    },
    /// A line that a step printed, in order.
    LogLine {
        /// The line.
        line: Box<LineView>,
    },
    /// The last line.
    End {
        /// How many events there are.
        events: u64,
        /// How many values.
        blobs: u64,
        /// How many log lines.
        log_lines: u64,
        /// Whether there are more log lines than these.
        log_lines_truncated: bool,
        /// SHA-256 of all bytes before this line, in lower-case hex.
        sha256: String,
    },
}

/// Export an execution as one file, one JSON object a line: a manifest, the definition it is pinned to, its events as CloudEvents, the
/// values they name by hash, its log lines, and a last line with the counts and the SHA-256 of all before it.
#[utoipa::path(get, path = "/executions/{id}/export", tag = "executions", params(("id" = Uuid, Path), ExportQuery),
    responses((status = 200, content((ExportRecord = "application/x-ndjson")))))]
pub async fn get(
    State(state): State<AppState>,
    reading: Reading,
    Path(id): Path<ExecutionId>,
    Query(query): Query<ExportQuery>,
) -> Result<Response, Problem> {
    let max_log_lines = query.log_lines.unwrap_or(DEFAULT_LINES);
    if max_log_lines > MAX_LINES {
        let detail = format!("must be at most {MAX_LINES}");
        return Err(Problem::invalid("/log_lines", "out_of_range", detail));
    }
    let position = reading.log();
    let found = find(&state, &reading, id).await?;
    let (Some(run), Some(status)) = (found.state.run(), found.state.status()) else {
        return Err(Problem::not_found("execution"));
    };
    let workspace = found.origin.map(|origin| WorkspaceId(origin.workspace.0));
    reading.took_out(&state, workspace, Export::Executions, Some(id.0));
    let name = state.ledger.name().await?;
    let manifest = ExportRecord::Manifest {
        format: FORMAT,
        format_version: FORMAT_VERSION,
        execution_id: id,
        source: name.to_string(),
        position: found.position.0,
        status: status.as_str(),
        events: found.version.0,
        max_log_lines,
        max_blob_bytes: MAX_BLOB_BYTES,
        exported_at: state.clock.now(),
    };
    let mut first = vec![manifest];
    first.extend(definition(&state, &found.state).await?);
    let file = File {
        log: Arc::clone(state.commands.log()),
        source: EventSource::of_log(name.id),
        stop: state.stop.clone(),
        stream: StreamId(id.0),
        until: found.version,
        stage: Stage::First(first),
        blobs: VecDeque::new(),
        named: HashSet::new(),
        room: MAX_BLOBS_BYTES,
        lines_left: max_log_lines,
        hash: Sha256::new(),
        counts: Counts::default(),
    };
    let workflow = run.request.workflow_id;
    tracing::debug!(execution = %id, %workflow, "an execution is exported");
    let mut response =
        ndjson(reading.answer((), position).versioned(found.version), file.into_body());
    let disposition = format!("attachment; filename=\"execution-{id}.ndjson\"");
    let disposition = HeaderValue::try_from(disposition).map_err(|_| Problem::broken())?;
    response.headers_mut().insert(header::CONTENT_DISPOSITION, disposition);
    Ok(response)
}

/// The definition that an execution is pinned to, where the workflow still has it.
async fn definition(
    state: &AppState,
    execution: &Execution,
) -> Result<Option<ExportRecord>, Problem> {
    let Some(run) = execution.run() else { return Ok(None) };
    let (workflow_id, version) = (run.request.workflow_id, run.request.workflow_version);
    let workflow = state.commands.load::<Workflow>(workflow_id).await?;
    let Some(content) = workflow.state.content() else { return Ok(None) };
    at_hand(state.commands.log().as_ref(), workflow_id, content, version).await?;
    let draft = content.version(version);
    let definition = draft.and_then(|draft| draft.definition().cloned());
    Ok(draft.zip(definition).map(|(draft, definition)| ExportRecord::Definition {
        workflow_id,
        version: version.0,
        name: draft.name.clone(),
        definition,
    }))
}

/// A file that is being written.
struct File {
    log: Arc<dyn EventLog>,
    source: EventSource,
    stop: CancellationToken,
    stream: StreamId,
    until: StreamVersion,
    stage: Stage,
    /// Values that the events so far name.
    blobs: VecDeque<(String, u64)>,
    named: HashSet<String>,
    /// How many bytes of values there is room for.
    room: u64,
    lines_left: u32,
    hash: Sha256,
    counts: Counts,
}

/// What comes next.
enum Stage {
    First(Vec<ExportRecord>),
    Events { after: StreamVersion },
    Blobs,
    Lines { after: Option<(i32, i64)> },
    End { truncated: bool },
    Done,
}

#[derive(Default)]
struct Counts {
    events: u64,
    blobs: u64,
    log_lines: u64,
}

impl File {
    fn into_body(self) -> Body {
        Body::from_stream(stream::try_unfold(self, |mut file| async move {
            loop {
                if file.stop.is_cancelled() {
                    return Err(io::Error::other("the process stops"));
                }
                let Some(records) = file.next().await.map_err(|error| broke_off(&error))? else {
                    return Ok(None);
                };
                if records.is_empty() {
                    continue;
                }
                let mut text = Vec::new();
                for record in &records {
                    serde_json::to_writer(&mut text, record)?;
                    text.push(b'\n');
                }
                file.hash.update(&text);
                return Ok(Some((text, file)));
            }
        }))
    }

    /// The next lines; none after the last one.
    async fn next(&mut self) -> Result<Option<Vec<ExportRecord>>, StoreError> {
        match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::First(records) => {
                self.stage = Stage::Events { after: StreamVersion::NEW };
                Ok(Some(records))
            }
            Stage::Events { after } => self.events(after).await.map(Some),
            Stage::Blobs => self.next_blob().await.map(Some),
            Stage::Lines { after } => self.lines(after).await.map(Some),
            Stage::End { truncated } => Ok(Some(vec![self.end(truncated)])),
            Stage::Done => Ok(None),
        }
    }

    async fn events(&mut self, after: StreamVersion) -> Result<Vec<ExportRecord>, StoreError> {
        let mut rows = self.log.read_stream(self.stream, after, EVENTS_READ).await?;
        rows.retain(|row| row.version <= self.until);
        self.stage = match rows.last() {
            Some(last) if last.version < self.until => Stage::Events { after: last.version },
            Some(_) | None => Stage::Blobs,
        };
        let mut records = Vec::with_capacity(rows.len());
        for row in &rows {
            let event = ledgerline_domain::event::AnyEvent::decode(
                &row.category,
                &row.r#type,
                row.schema_version,
                &row.payload,
            );
            if let Ok(ledgerline_domain::event::AnyEvent::Execution(event)) = &event {
                self.name_blobs(event);
            }
            let text = String::from_utf8(encode(row, &self.source)).unwrap_or_default();
            if let Ok(event) = RawValue::from_string(text) {
                self.counts.events += 1;
                records.push(ExportRecord::Event { event });
            }
        }
        Ok(records)
    }

    fn name_blobs(&mut self, event: &ExecutionEvent) {
        event.for_each_output(&mut |output| {
            if let NodeOutput::Blob { hash, size_bytes } = output
                && self.named.len() < MAX_BLOBS
                && self.named.insert(hash.clone())
            {
                self.blobs.push_back((hash.clone(), *size_bytes));
            }
        });
    }

    async fn next_blob(&mut self) -> Result<Vec<ExportRecord>, StoreError> {
        let Some((hash, size_bytes)) = self.blobs.pop_front() else {
            self.stage = Stage::Lines { after: None };
            return Ok(Vec::new());
        };
        self.stage = Stage::Blobs;
        let fits = size_bytes <= MAX_BLOB_BYTES.min(self.room);
        let content = if fits { self.log.blob(&hash).await? } else { None };
        if content.is_some() {
            self.room -= size_bytes;
        }
        self.counts.blobs += 1;
        let content = content.map(|content| BASE64.encode(content));
        Ok(vec![ExportRecord::Blob { hash, size_bytes, content }])
    }

    async fn lines(&mut self, after: Option<(i32, i64)>) -> Result<Vec<ExportRecord>, StoreError> {
        // One more than there is room for says whether there are more.
        let wanted = i64::from(self.lines_left).saturating_add(1).min(LINES_READ);
        let query = LogQuery {
            execution_id: self.stream.0,
            after,
            min_level: None,
            node: None,
            search: None,
            limit: wanted,
        };
        let mut lines = self.log.log_lines(&query).await?;
        let full = i64::try_from(lines.len()).is_ok_and(|count| count == wanted);
        let left = usize::try_from(self.lines_left).unwrap_or(usize::MAX);
        let truncated = lines.len() > left;
        lines.truncate(left);
        self.lines_left -= u32::try_from(lines.len()).unwrap_or(self.lines_left);
        self.counts.log_lines += u64::try_from(lines.len()).unwrap_or(0);
        let last = lines.last().map(|line| (line.claim, line.n));
        self.stage = match last {
            Some(_) if full && !truncated => Stage::Lines { after: last },
            Some(_) | None => Stage::End { truncated },
        };
        let line = |line| ExportRecord::LogLine { line: Box::new(LineView::from(line)) };
        Ok(lines.into_iter().map(line).collect())
    }

    fn end(&self, truncated: bool) -> ExportRecord {
        let Counts { events, blobs, log_lines } = self.counts;
        ExportRecord::End {
            events,
            blobs,
            log_lines,
            log_lines_truncated: truncated,
            sha256: hex::encode(self.hash.clone().finalize()),
        }
    }
}
