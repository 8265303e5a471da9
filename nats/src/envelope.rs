//! The shape of an event outside: CloudEvents 1.0, structured JSON.
//!
//! The relay and the sockets write the same bytes through [`encode`]. Payloads are spliced in as the text they are stored as:
//! nothing of them is parsed or printed again, so a subscriber gets the very bytes that the log holds, and the cost of an event
//! is its size. Attributes are flat because CloudEvents has no nested ones: the actor is `<kind>:<id or name>`.

use std::{borrow::Cow, io::Write, sync::Arc};

use chrono::{DateTime, SecondsFormat, Utc};
use ledgerline_store::{Position, RecordedEvent, StreamId, StreamVersion, Workspace};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

/// First words of every event's CloudEvents `type`.
const TYPE_PREFIX: &str = "ledgerline.";

/// The `source` attribute: which log an event is of. Together with `id` it names an event everywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventSource(Arc<str>);

impl EventSource {
    /// The log with this id.
    #[must_use]
    pub fn of_log(log_id: Uuid) -> Self {
        Self(Arc::from(format!("/ledgerline/{log_id}")))
    }

    /// The text, a URI reference.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why bytes are not one of our envelopes.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// Not the JSON that [`encode`] writes.
    #[error("the message is not a CloudEvents envelope")]
    Json(#[from] serde_json::Error),
    /// The `type` attribute is not `ledgerline.<category>.<type>.v<version>`.
    #[error("the type {0:?} is not one of Ledgerline's")]
    Type(String),
}

/// Writes an event as one CloudEvents JSON object.
///
/// Metadata that cannot be read leaves its attributes out rather than failing: an event that is in the log must reach others.
#[must_use]
pub fn encode(event: &RecordedEvent, source: &EventSource) -> Vec<u8> {
    let mut out = Vec::with_capacity(640 + event.payload.len());
    write_attributes(&mut out, event, source);
    out.extend_from_slice(b",\"data\":");
    out.extend_from_slice(event.payload.as_bytes());
    out.push(b'}');
    out
}

fn write_attributes(out: &mut Vec<u8>, event: &RecordedEvent, source: &EventSource) {
    let mut id = Uuid::encode_buffer();
    out.extend_from_slice(br#"{"specversion":"1.0","id":""#);
    out.extend_from_slice(event.event_id.as_hyphenated().encode_lower(&mut id).as_bytes());
    out.extend_from_slice(br#"","source":""#);
    out.extend_from_slice(source.0.as_bytes());
    out.extend_from_slice(br#"","type":""#);
    out.extend_from_slice(TYPE_PREFIX.as_bytes());
    out.extend_from_slice(event.category.as_bytes());
    out.push(b'.');
    out.extend_from_slice(event.r#type.as_bytes());
    write_display(out, ".v", event.schema_version);
    out.extend_from_slice(br#"","subject":""#);
    out.extend_from_slice(event.stream.0.as_hyphenated().encode_lower(&mut id).as_bytes());
    out.extend_from_slice(br#"","time":""#);
    let time = event.recorded_at.to_rfc3339_opts(SecondsFormat::Micros, true);
    out.extend_from_slice(time.as_bytes());
    out.extend_from_slice(br#"","datacontenttype":"application/json""#);
    write_display(out, r#","position":"#, event.position);
    write_display(out, r#","streamversion":"#, event.version);
    out.extend_from_slice(br#","workspaceid":""#);
    out.extend_from_slice(event.workspace.0.as_hyphenated().encode_lower(&mut id).as_bytes());
    write_display(out, r#"","workspaceseq":"#, event.workspace_seq);
    if let Ok(metadata) = serde_json::from_str::<StoredMetadata<'_>>(&event.metadata) {
        write_metadata(out, &metadata);
    }
}

fn write_metadata(out: &mut Vec<u8>, metadata: &StoredMetadata<'_>) {
    if let Some(correlation) = &metadata.correlation_id {
        write_text(out, r#","correlationid":"#, correlation);
    }
    if let Some(causation) = &metadata.causation_id {
        write_text(out, r#","causationid":"#, causation);
    }
    if let Some(actor) = &metadata.actor {
        let who = actor.user_id.as_deref().or(actor.name.as_deref()).unwrap_or_default();
        write_text(out, r#","actor":"#, &format!("{}:{who}", actor.kind));
    }
    if let Some(trace) = &metadata.trace {
        write_text(out, r#","traceparent":"#, trace);
    }
}

fn write_display(out: &mut Vec<u8>, before: &str, value: impl std::fmt::Display) {
    write!(out, "{before}{value}").expect("writing to memory does not fail");
}

fn write_text(out: &mut Vec<u8>, before: &str, text: &str) {
    out.extend_from_slice(before.as_bytes());
    serde_json::to_writer(out, text).expect("a text always serialises");
}

/// Reads an envelope that [`encode`] wrote. Everything is as it was recorded; metadata has the same values, not the same text.
///
/// # Errors
/// [`EnvelopeError`] when the bytes are something else.
pub fn decode(bytes: &[u8]) -> Result<RecordedEvent, EnvelopeError> {
    let wire: Envelope<'_> = serde_json::from_slice(bytes)?;
    let (category, r#type, schema_version) =
        parse_type(&wire.r#type).ok_or_else(|| EnvelopeError::Type(wire.r#type.to_string()))?;
    let actor = wire.actor.as_deref().map(|actor| {
        let (kind, who) = actor.split_once(':').unwrap_or((actor, ""));
        let who = Some(Cow::Borrowed(who));
        let (user_id, name) = if kind == "human" { (who, None) } else { (None, who) };
        StoredActor { kind: Cow::Borrowed(kind), user_id, name }
    });
    let metadata = serde_json::to_string(&StoredMetadata {
        actor,
        correlation_id: wire.correlationid,
        causation_id: wire.causationid,
        trace: wire.traceparent,
    })?;
    Ok(RecordedEvent {
        position: wire.position,
        stream: StreamId(wire.subject),
        version: wire.streamversion,
        workspace: Workspace(wire.workspaceid),
        workspace_seq: wire.workspaceseq,
        category: category.to_owned(),
        r#type: r#type.to_owned(),
        schema_version,
        event_id: wire.id,
        payload: wire.data.get().to_owned(),
        metadata,
        recorded_at: wire.time,
    })
}

fn parse_type(text: &str) -> Option<(&str, &str, i16)> {
    let (category, rest) = text.strip_prefix(TYPE_PREFIX)?.split_once('.')?;
    let (r#type, version) = rest.rsplit_once(".v")?;
    Some((category, r#type, version.parse().ok()?))
}

/// What [`encode`] needs of the stored metadata, whose shape `domain` owns: text that is passed on, not understood.
#[derive(Serialize, Deserialize)]
struct StoredMetadata<'a> {
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    actor: Option<StoredActor<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    correlation_id: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    causation_id: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    trace: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
struct StoredActor<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    user_id: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    name: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    id: Uuid,
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    subject: Uuid,
    time: DateTime<Utc>,
    position: Position,
    streamversion: StreamVersion,
    workspaceid: Uuid,
    workspaceseq: i64,
    #[serde(borrow, default)]
    correlationid: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    causationid: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    actor: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    traceparent: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[cfg(test)]
pub(crate) mod tests {
    use chrono::TimeZone;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    pub(crate) fn event() -> RecordedEvent {
        RecordedEvent {
            position: Position(1042),
            stream: StreamId(Uuid::from_u128(2)),
            version: StreamVersion(7),
            workspace: Workspace(Uuid::from_u128(3)),
            workspace_seq: 40,
            category: "execution".to_owned(),
            r#type: "node_completed".to_owned(),
            schema_version: 1,
            event_id: Uuid::from_u128(1),
            payload: r#"{"path":"fetch",  "duration_ms":1.50}"#.to_owned(),
            metadata: json!({
                "actor": {"kind": "human", "user_id": Uuid::from_u128(9)},
                "correlation_id": Uuid::from_u128(4),
                "causation_id": Uuid::from_u128(5),
                "trace": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            })
            .to_string(),
            recorded_at: Utc.timestamp_micros(1_795_000_000_123_456).unwrap(),
        }
    }

    fn source() -> EventSource {
        EventSource::of_log(Uuid::from_u128(8))
    }

    #[test]
    fn the_envelope_is_cloudevents_with_the_payload_byte_for_byte() {
        let bytes = encode(&event(), &source());
        let text = std::str::from_utf8(&bytes).unwrap();
        assert!(text.ends_with(r#","data":{"path":"fetch",  "duration_ms":1.50}}"#), "{text}");
        assert_eq!(
            serde_json::from_slice::<Value>(&bytes).unwrap(),
            json!({
                "specversion": "1.0",
                "id": "00000000-0000-0000-0000-000000000001",
                "source": "/ledgerline/00000000-0000-0000-0000-000000000008",
                "type": "ledgerline.execution.node_completed.v1",
                "subject": "00000000-0000-0000-0000-000000000002",
                "time": "2026-11-18T11:06:40.123456Z",
                "datacontenttype": "application/json",
                "position": 1042,
                "streamversion": 7,
                "workspaceid": "00000000-0000-0000-0000-000000000003",
                "workspaceseq": 40,
                "correlationid": "00000000-0000-0000-0000-000000000004",
                "causationid": "00000000-0000-0000-0000-000000000005",
                "actor": "human:00000000-0000-0000-0000-000000000009",
                "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                "data": {"path": "fetch", "duration_ms": 1.5},
            })
        );
    }

    #[test]
    fn metadata_that_cannot_be_read_leaves_its_attributes_out() {
        let event = RecordedEvent { metadata: "[]".to_owned(), ..event() };
        let wire: Value = serde_json::from_slice(&encode(&event, &source())).unwrap();
        assert!(wire.get("correlationid").is_none() && wire.get("actor").is_none());
        assert_eq!(wire["position"], 1042);
    }

    #[test]
    fn foreign_bytes_are_refused() {
        assert!(matches!(decode(b"{}"), Err(EnvelopeError::Json(_))));
        let ours = String::from_utf8(encode(&event(), &source())).unwrap();
        for other in ["com.example.thing", "ledgerline.execution", "ledgerline.a.b.vx"] {
            let theirs = ours.replace("ledgerline.execution.node_completed.v1", other);
            assert!(matches!(decode(theirs.as_bytes()), Err(EnvelopeError::Type(_))), "{other}");
        }
    }

    fn same_but_for_the_spelling_of_metadata(left: &RecordedEvent, right: &RecordedEvent) -> bool {
        let metadata = |event: &RecordedEvent| {
            serde_json::from_str::<Value>(&event.metadata).expect("metadata is JSON")
        };
        metadata(left) == metadata(right)
            && RecordedEvent { metadata: String::new(), ..left.clone() }
                == RecordedEvent { metadata: String::new(), ..right.clone() }
    }

    proptest! {
        #[test]
        fn an_event_comes_back_as_it_was_recorded(
            position in 1..i64::MAX, version in 1..i64::MAX, seq in 1..i64::MAX, schema in 1..i16::MAX,
            ids in any::<[u128; 5]>(), micros in 0..4_000_000_000_000_000_i64,
            category in "[a-z][a-z0-9_]{0,20}", name in "[a-z][a-z0-9_]{0,40}",
            agent in any::<String>(), text in any::<String>(), caused in any::<bool>(),
        ) {
            let mut metadata = json!({
                "actor": {"kind": "agent", "name": agent},
                "correlation_id": Uuid::from_u128(ids[3]),
            });
            if caused {
                metadata["causation_id"] = json!(Uuid::from_u128(ids[4]));
            }
            let event = RecordedEvent {
                position: Position(position),
                stream: StreamId(Uuid::from_u128(ids[0])),
                version: StreamVersion(version),
                workspace: Workspace(Uuid::from_u128(ids[1])),
                workspace_seq: seq,
                category,
                r#type: name,
                schema_version: schema,
                event_id: Uuid::from_u128(ids[2]),
                payload: json!({"text": text, "list": [1, null, {"deep": true}]}).to_string(),
                metadata: metadata.to_string(),
                recorded_at: Utc.timestamp_micros(micros).unwrap(),
            };
            let back = decode(&encode(&event, &source())).unwrap();
            prop_assert!(same_but_for_the_spelling_of_metadata(&event, &back), "{event:?}\n{back:?}");
        }
    }
}
