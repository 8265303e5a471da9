//! The file of an exported execution, read back: everything that is wrong with it is named, and nothing of it is believed that it does
//! not prove.
//!
//! The reader is the other side of `routes/executions/export.rs`. A sound file has a manifest first, events whose versions are dense from
//! 1 and which fold, values that hash to their names, and a last line whose counts and hash hold. Events of older builds are read through
//! the upcasters, as those of the log are.

use std::{
    collections::{BTreeMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use chrono::{DateTime, Utc};
use ledgerline_commands::record::recorded;
use ledgerline_domain::{
    Aggregate as _,
    event::AnyEvent,
    execution::{Execution, ExecutionEvent, NodeOutput, Outline},
    json::Json,
};
use ledgerline_nats::envelope;
use ledgerline_store::RecordedEvent;
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::{
    extract::body,
    problem::{FieldError, Problem},
    routes::executions::export::{FORMAT, FORMAT_VERSION},
};

/// Problems of one file that are named; nobody reads more.
const MAX_PROBLEMS: usize = 100;

/// What a file says first.
#[derive(Clone, Debug, Deserialize)]
pub struct Manifest {
    format: String,
    format_version: u32,
    /// The execution, in the log that it is of.
    pub execution_id: Uuid,
    /// That log.
    pub source: String,
    /// Where the execution stood.
    pub status: String,
    events: i64,
    /// When the file was written.
    pub exported_at: DateTime<Utc>,
}

/// The definition that the execution was pinned to.
#[derive(Clone, Debug, Deserialize)]
pub struct ImportedDefinition {
    /// The workflow, in the deployment that it is of.
    pub workflow_id: Uuid,
    /// Its version.
    pub version: i32,
    /// The name it had.
    pub name: String,
    /// `{nodes, connections, settings}`.
    pub definition: Json,
}

/// An execution as its file has it.
pub struct ImportedExecution {
    /// What the file says first.
    pub manifest: Manifest,
    /// The definition, where the file has it.
    pub definition: Option<ImportedDefinition>,
    /// Its events, in order.
    pub events: Vec<ImportedEvent>,
    /// What they fold to.
    pub execution: Execution,
    /// Values that events name by their hash, as far as the file has them.
    pub blobs: BTreeMap<String, Json>,
    /// What its steps printed, as the file has it.
    pub lines: Vec<Box<RawValue>>,
    /// Whether there were more lines than the file has.
    pub lines_truncated: bool,
}

/// An event of the file.
pub struct ImportedEvent {
    /// As it is seen outside.
    pub raw: Box<RawValue>,
    /// As it was recorded.
    pub row: RecordedEvent,
    /// What happened.
    pub event: ExecutionEvent,
}

impl ImportedExecution {
    /// The execution as far as it is compared.
    #[must_use]
    pub fn outline(&self) -> Outline {
        let mut outline = Outline::default();
        for event in &self.events {
            outline.apply(event.row.version.0, event.row.recorded_at, &event.event);
        }
        outline
    }

    /// An output, with the value where the file has it.
    #[must_use]
    pub fn value_of(&self, output: &NodeOutput) -> Option<Json> {
        match output {
            NodeOutput::Inline(value) => Some(value.clone()),
            NodeOutput::Blob { hash, .. } => self.blobs.get(hash).cloned(),
        }
    }
}

/// What a line is. Its fields are read by themselves after that: text that is kept as it is can't be read through an enum with a tag.
#[derive(Deserialize)]
struct Record {
    record: RecordKind,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RecordKind {
    Manifest,
    Definition,
    Event,
    Blob,
    LogLine,
    End,
}

#[derive(Deserialize)]
struct EventLine {
    event: Box<RawValue>,
}

#[derive(Deserialize)]
struct BlobLine {
    hash: String,
    size_bytes: u64,
    content: Option<String>,
}

#[derive(Deserialize)]
struct LogLine {
    line: Box<RawValue>,
}

#[derive(Deserialize)]
struct End {
    events: u64,
    blobs: u64,
    log_lines: u64,
    log_lines_truncated: bool,
    sha256: String,
}

/// Reads a file.
///
/// # Errors
/// Everything that is wrong with it, up to [`MAX_PROBLEMS`], each with its line as `/<line>`, from 1.
pub fn read(content: &[u8]) -> Result<ImportedExecution, Vec<FieldError>> {
    let mut reader = Reader::default();
    let mut offset = 0;
    for (number, line) in (1..).zip(content.split_inclusive(|byte| *byte == b'\n')) {
        reader.number = number;
        reader.line(line.trim_ascii_end(), &content[..offset]);
        offset += line.len();
    }
    reader.finish()
}

/// A file that is being read.
#[derive(Default)]
struct Reader {
    number: usize,
    problems: Vec<FieldError>,
    manifest: Option<Manifest>,
    definition: Option<ImportedDefinition>,
    events: Vec<ImportedEvent>,
    execution: Execution,
    /// Whether an event did not follow on what was before it: what comes after it says nothing.
    broken: bool,
    event_ids: HashSet<Uuid>,
    /// The position of the last event.
    position: i64,
    named: HashSet<String>,
    blobs: BTreeMap<String, Json>,
    blob_lines: u64,
    event_lines: u64,
    lines: Vec<Box<RawValue>>,
    end: Option<End>,
}

impl Reader {
    fn report(&mut self, code: &'static str, detail: impl Into<String>) {
        if self.problems.len() < MAX_PROBLEMS {
            let pointer =
                if self.number == 0 { String::new() } else { format!("/{}", self.number) };
            self.problems.push(FieldError::new(pointer, code, detail.into()));
        }
    }

    fn line(&mut self, text: &[u8], before: &[u8]) {
        if self.end.is_some() {
            self.report("after_end", "nothing may follow on the last line");
            return;
        }
        if let Err(problem) = self.record(text, before) {
            let detail = format!("is no line of an exported execution: {}", problem.detail());
            self.report("invalid", detail);
        }
    }

    fn record(&mut self, text: &[u8], before: &[u8]) -> Result<(), Problem> {
        // Bounded in depth and free of U+0000, as every body is.
        let Record { record } = body::parse_object(text)?;
        if self.manifest.is_none() && record != RecordKind::Manifest {
            self.report("manifest_missing", "the first line must be the manifest");
        }
        match record {
            RecordKind::Manifest => self.manifest(body::parse(text)?),
            RecordKind::Definition if self.definition.is_none() => {
                self.definition = Some(body::parse(text)?);
            }
            RecordKind::Definition => self.report("repeated", "there is a definition already"),
            RecordKind::Event => self.event(body::parse::<EventLine>(text)?.event),
            RecordKind::Blob => self.blob(body::parse(text)?),
            RecordKind::LogLine => self.lines.push(body::parse::<LogLine>(text)?.line),
            RecordKind::End => self.end(body::parse(text)?, before),
        }
        Ok(())
    }

    fn manifest(&mut self, manifest: Manifest) {
        if self.manifest.is_some() {
            self.report("repeated", "there is a manifest already");
            return;
        }
        if manifest.format != FORMAT {
            self.report("format_unknown", format!("the format must be {FORMAT}"));
        } else if manifest.format_version != FORMAT_VERSION {
            let found = manifest.format_version;
            let detail =
                format!("version {found} of the format is not known here, {FORMAT_VERSION} is");
            self.report("format_unknown", detail);
        }
        self.manifest = Some(manifest);
    }

    fn event(&mut self, raw: Box<RawValue>) {
        self.event_lines += 1;
        let row = match envelope::decode(raw.get().as_bytes()) {
            Ok(row) => row,
            Err(error) => {
                self.broken = true;
                self.report("event_invalid", format!("is no event: {error}"));
                return;
            }
        };
        let of = self.manifest.as_ref().map(|manifest| manifest.execution_id);
        if of.is_some_and(|of| of != row.stream.0) {
            self.report(
                "event_of_another",
                format!("is an event of {}, not of this execution", row.stream.0),
            );
        }
        let expected = i64::try_from(self.events.len()).unwrap_or(i64::MAX).saturating_add(1);
        if row.version.0 != expected && !self.broken {
            self.report(
                "version_gap",
                format!("has version {}, and {expected} must come next", row.version.0),
            );
        }
        if row.position.0 <= self.position {
            self.report(
                "position_wrong",
                "has a position that is not above that of the event before it",
            );
        }
        self.position = row.position.0;
        if !self.event_ids.insert(row.event_id) {
            self.report("repeated", format!("the event {} is there twice", row.event_id));
        }
        match recorded(&row).map(|event| event.event) {
            Ok(AnyEvent::Execution(event)) => self.fold(raw, row, event),
            Ok(_) => self.report("event_of_another", "is no event of an execution"),
            Err(error) => {
                self.broken = true;
                self.report("event_unknown", format!("can't be read by this build: {error}"));
            }
        }
    }

    /// Takes an event in. One that cannot follow on what was before it stops the fold, as it would stop a reader of the log.
    fn fold(&mut self, raw: Box<RawValue>, row: RecordedEvent, event: ExecutionEvent) {
        if !self.broken {
            let before = std::mem::take(&mut self.execution);
            match catch_unwind(AssertUnwindSafe(|| before.evolve(&event))) {
                Ok(after) => self.execution = after,
                Err(_) => {
                    self.broken = true;
                    let detail = format!("{} can't follow on the events before it", row.r#type);
                    self.report("event_impossible", detail);
                }
            }
        }
        event.for_each_output(&mut |output| {
            if let NodeOutput::Blob { hash, .. } = output {
                self.named.insert(hash.clone());
            }
        });
        self.events.push(ImportedEvent { raw, row, event });
    }

    fn blob(&mut self, BlobLine { hash, size_bytes, content }: BlobLine) {
        self.blob_lines += 1;
        if !self.named.contains(&hash) {
            self.report("blob_unnamed", "no event names this value");
        }
        let Some(content) = content else { return };
        let Ok(content) = BASE64.decode(content) else {
            self.report("blob_invalid", "the content is not Base64");
            return;
        };
        if hex::encode(Sha256::digest(&content)) != hash {
            self.report("blob_altered", "the content does not have this hash");
        } else if u64::try_from(content.len()).ok() != Some(size_bytes) {
            self.report("blob_altered", "the content does not have this size");
        } else if let Some(value) =
            String::from_utf8(content).ok().and_then(|text| Json::parse(&text).ok())
        {
            self.blobs.insert(hash, value);
        } else {
            self.report("blob_invalid", "the content is not JSON");
        }
    }

    fn end(&mut self, end: End, before: &[u8]) {
        let lines = u64::try_from(self.lines.len()).unwrap_or(u64::MAX);
        let counts = [
            ("events", end.events, self.event_lines),
            ("values", end.blobs, self.blob_lines),
            ("log lines", end.log_lines, lines),
        ];
        for (what, said, found) in counts {
            if said != found {
                self.report("count_wrong", format!("says {said} {what}, and there are {found}"));
            }
        }
        if hex::encode(Sha256::digest(before)) != end.sha256.to_ascii_lowercase() {
            self.report(
                "altered",
                "the lines before it do not have the hash that it names: they were altered",
            );
        }
        self.end = Some(end);
    }

    fn finish(mut self) -> Result<ImportedExecution, Vec<FieldError>> {
        self.number = 0;
        let end = self.end.take();
        if end.is_none() {
            self.report("end_missing", "the last line is missing: the file broke off");
        }
        if let Some(manifest) = &self.manifest {
            let found = i64::try_from(self.event_lines).unwrap_or(i64::MAX);
            if manifest.events != found {
                let detail =
                    format!("the manifest says {} events, and there are {found}", manifest.events);
                self.report("count_wrong", detail);
            }
        } else if self.problems.is_empty() {
            self.report("manifest_missing", "the first line must be the manifest");
        }
        if self.execution.run().is_none() && !self.broken {
            self.report("events_missing", "there is no event of an execution");
        }
        match (self.manifest, end) {
            (Some(manifest), Some(end)) if self.problems.is_empty() => Ok(ImportedExecution {
                manifest,
                definition: self.definition,
                events: self.events,
                execution: self.execution,
                blobs: self.blobs,
                lines: self.lines,
                lines_truncated: end.log_lines_truncated,
            }),
            _ => Err(self.problems),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A file as the export writes it, of a run that was requested and cancelled.
    fn lines() -> Vec<Value> {
        let id = "0192f0c1-0000-7000-8000-0000000000e1";
        let event = |version: i64, kind: &str, data: Value| {
            json!({"record": "event", "event": {
                "specversion": "1.0", "id": Uuid::from_u128(u128::from(version.unsigned_abs())),
                "source": "/ledgerline/x", "type": format!("ledgerline.execution.{kind}"), "subject": id,
                "time": "2026-01-02T03:04:05.678901Z", "datacontenttype": "application/json",
                "position": 100 + version, "streamversion": version,
                "workspaceid": "0192f0c1-0000-7000-8000-0000000000a1", "workspaceseq": version,
                "correlationid": "0192f0c1-0000-7000-8000-0000000000b1", "actor": "system:test", "data": data}})
        };
        let requested = json!({
            "workspace_id": "0192f0c1-0000-7000-8000-0000000000a1",
            "workflow_id": "0192f0c1-0000-7000-8000-0000000000c1", "workflow_version": 1,
            "trigger_type": "manual", "input": {"n": 1}, "queue": "default", "planned_nodes": 1});
        vec![
            json!({"record": "manifest", "format": FORMAT, "format_version": FORMAT_VERSION,
                "execution_id": id, "source": "x:1", "position": 102, "status": "cancelled", "events": 2,
                "max_log_lines": 10, "max_blob_bytes": 10, "exported_at": "2026-01-02T03:04:05Z"}),
            event(1, "execution_requested.v2", requested),
            event(2, "execution_cancelled.v1", json!({"reason": "stopped_by_user"})),
        ]
    }

    fn file(lines: &[Value], events: usize) -> String {
        let mut text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let hash = hex::encode(Sha256::digest(text.as_bytes()));
        let end = json!({"record": "end", "events": events, "blobs": 0, "log_lines": 0,
            "log_lines_truncated": false, "sha256": hash});
        text.push_str(&format!("{end}\n"));
        text
    }

    fn codes(text: &str) -> Vec<(String, String)> {
        match read(text.as_bytes()) {
            Ok(_) => Vec::new(),
            Err(problems) => {
                problems.into_iter().map(|problem| (problem.pointer, problem.code)).collect()
            }
        }
    }

    fn found(pointer: &str, code: &str) -> (String, String) {
        (pointer.to_owned(), code.to_owned())
    }

    #[test]
    fn a_sound_file_is_read_and_folds() {
        let read =
            read(file(&lines(), 2).as_bytes()).unwrap_or_else(|problems| panic!("{problems:?}"));
        assert!(matches!(read.execution, Execution::Cancelled { .. }));
        assert_eq!(read.events.len(), 2);
        assert_eq!(read.outline().get(&"".into()).map(|run| run.status), Some("cancelled"));
    }

    #[test]
    fn what_was_altered_is_named_with_its_line() {
        let sound = file(&lines(), 2);
        assert_eq!(codes(&sound.replace("\"n\":1", "\"n\":2")), [found("/4", "altered")]);
        let broken_off = &sound[..sound.trim_end().rfind('\n').expect("it has many lines")];
        assert_eq!(codes(broken_off), [found("", "end_missing")]);
        let short = &broken_off[..broken_off.rfind('\n').expect("it has many lines")];
        assert!(codes(short).contains(&found("", "count_wrong")));
        assert_eq!(codes(&format!("{sound}{sound}"))[0], found("/5", "after_end"));
        let mut gap = lines();
        gap[2]["event"]["streamversion"] = json!(3);
        assert_eq!(codes(&file(&gap, 2)), [found("/3", "version_gap")]);
        let mut turned = lines();
        turned.swap(1, 2);
        let problems = codes(&file(&turned, 2));
        assert!(problems.contains(&found("/2", "event_impossible")), "{problems:?}");
        let mut other = lines();
        other[2]["event"]["type"] = json!("ledgerline.execution.execution_evaporated.v1");
        assert_eq!(codes(&file(&other, 2)), [found("/3", "event_unknown")]);
        let mut alien = lines();
        alien[2]["event"]["subject"] = json!(Uuid::nil());
        assert_eq!(codes(&file(&alien, 2)), [found("/3", "event_of_another")]);
        let mut newer = lines();
        newer[0]["format_version"] = json!(99);
        assert_eq!(codes(&file(&newer, 2)), [found("/1", "format_unknown")]);
        let mut counted = lines();
        counted[0]["events"] = json!(7);
        assert_eq!(
            codes(&file(&counted, 3)),
            [found("/4", "count_wrong"), found("", "count_wrong")]
        );
        let blob = json!({"record": "blob", "hash": "00", "size_bytes": 1, "content": "MQ=="});
        let with_blob = [lines(), vec![blob]].concat();
        let problems = codes(&file(&with_blob, 2));
        assert!(
            problems.contains(&found("/4", "blob_unnamed"))
                && problems.contains(&found("/4", "blob_altered"))
        );
    }

    #[test]
    fn nonsense_is_refused_and_named_no_more_than_anybody_reads() {
        assert_eq!(codes("")[0].1, "end_missing");
        assert_eq!(codes("[]\n")[0], found("/1", "invalid"));
        let many = "{}\n".repeat(1_000);
        assert_eq!(codes(&many).len(), MAX_PROBLEMS);
    }
}
