//! One flush on the wire: intents laid out as arrays for `append_batch`, and its reply read back as one verdict per intent.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::fault::Fault;
use crate::intake::Pending;
use crate::json_text::JsonStr;
use crate::{DueKey, Intent, Position, Receipt, StreamId, StreamVersion};

/// What became of one intent.
#[derive(Debug)]
pub(crate) enum Verdict {
    Landed(Receipt),
    Known,
    Fenced,
    Moved(StreamId, StreamVersion),
}

/// The arguments of `append_batch`, in its order and with its names. Ordinals start at 1, as in SQL.
#[derive(Default)]
struct Batch<'a> {
    check_stream: Vec<Uuid>,
    check_version: Vec<i64>,
    rest_intent: Vec<i32>,
    rest_check: Vec<i32>,
    key_intent: Vec<i32>,
    key_scope: Vec<&'a str>,
    key: Vec<&'a str>,
    key_body_hash: Vec<&'a [u8]>,
    key_write: Vec<Option<i32>>,
    key_count: Vec<i32>,
    key_versions: Vec<String>,
    key_answer: Vec<Option<&'a str>>,
    fence_intent: Vec<i32>,
    fence_reader: Vec<&'a str>,
    fence_epoch: Vec<i64>,
    workspace: Vec<Uuid>,
    write_intent: Vec<i32>,
    write_workspace: Vec<i32>,
    write_stream: Vec<Uuid>,
    write_category: Vec<&'a str>,
    write_version: Vec<i64>,
    write_count: Vec<i32>,
    write_before: Vec<i64>,
    write_seq_before: Vec<i64>,
    event_write: Vec<i32>,
    event_n: Vec<i32>,
    event_id: Vec<Uuid>,
    event_type: Vec<&'a str>,
    event_schema_version: Vec<i16>,
    event_payload: Vec<JsonStr<'a>>,
    event_metadata: Vec<JsonStr<'a>>,
    done_intent: Vec<i32>,
    done_stream: Vec<Uuid>,
    done_kind: Vec<&'a str>,
    done_key: Vec<&'a str>,
    due_intent: Vec<i32>,
    due_stream: Vec<Uuid>,
    due_kind: Vec<&'a str>,
    due_key: Vec<&'a str>,
    due_at: Vec<DateTime<Utc>>,
    check_ordinals: HashMap<(Uuid, i64), i32>,
    /// Ordinal of each workspace and how many events of it the batch holds so far.
    workspaces: HashMap<Uuid, (i32, i64)>,
}

/// Appends the intents in one round trip and one transaction. One verdict per intent, in order.
pub(crate) async fn append(
    connection: &mut PgConnection,
    pending: &[Pending],
) -> Result<Vec<Verdict>, Fault> {
    let batch = Batch::encode(pending);
    let reply = batch.send(connection).await?;
    Ok(batch.verdicts(pending, &reply))
}

struct Reply {
    head_before: i64,
    stamped_at: DateTime<Utc>,
    known: Option<Vec<i32>>,
    fenced: Option<Vec<i32>>,
    moved: Option<Vec<i32>>,
}

impl<'a> Batch<'a> {
    fn encode(pending: &'a [Pending]) -> Self {
        let mut batch = Self::default();
        for (pending, ordinal) in pending.iter().zip(1..) {
            batch.add(ordinal, &pending.intent);
        }
        batch
    }

    fn add(&mut self, ordinal: i32, intent: &'a Intent) {
        let first_write = self.write_intent.len();
        for read in &intent.reads {
            self.rest(ordinal, read.stream, read.version);
        }
        for write in &intent.writes {
            self.rest(ordinal, write.stream, write.expected);
            let count = ordinal_of(write.events.len());
            let (workspace, of_workspace) = match self.workspaces.entry(write.workspace.0) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => {
                    self.workspace.push(write.workspace.0);
                    entry.insert((ordinal_of(self.workspace.len()), 0))
                }
            };
            self.write_intent.push(ordinal);
            self.write_workspace.push(*workspace);
            self.write_stream.push(write.stream.0);
            self.write_category.push(write.category);
            self.write_version.push(write.expected.0);
            self.write_count.push(count);
            self.write_before.push(i64::from(ordinal_of(self.event_id.len())));
            self.write_seq_before.push(*of_workspace);
            *of_workspace += i64::from(count);
            let write_ordinal = ordinal_of(self.write_intent.len());
            for (event, n) in write.events.iter().zip(1..) {
                self.event_write.push(write_ordinal);
                self.event_n.push(n);
                self.event_id.push(event.event_id);
                self.event_type.push(event.r#type);
                self.event_schema_version.push(event.schema_version);
                self.event_payload.push(JsonStr(&event.payload));
                self.event_metadata.push(JsonStr(&event.metadata));
            }
        }
        if let Some(key) = &intent.key {
            self.key_intent.push(ordinal);
            self.key_scope.push(&key.scope);
            self.key.push(&key.key);
            self.key_body_hash.push(&key.body_hash);
            self.key_write.push((!intent.writes.is_empty()).then(|| ordinal_of(first_write + 1)));
            self.key_count.push(self.write_count[first_write..].iter().sum());
            self.key_versions.push(versions_text(&versions_after(intent)));
            self.key_answer.push(intent.answer.as_deref());
        }
        if let Some(fence) = &intent.fence {
            self.fence_intent.push(ordinal);
            self.fence_reader.push(&fence.reader);
            self.fence_epoch.push(fence.epoch);
        }
        self.add_due(ordinal, intent);
    }

    fn add_due(&mut self, ordinal: i32, intent: &'a Intent) {
        for done in &intent.due_done {
            self.done_intent.push(ordinal);
            self.done_stream.push(done.stream.0);
            self.done_kind.push(&done.kind);
            self.done_key.push(&done.key);
        }
        // One statement can't set a row twice, so the last of equal names wins here.
        let last: HashMap<&DueKey, DateTime<Utc>> =
            intent.due.iter().map(|due| (&due.due, due.due_at)).collect();
        for (due, due_at) in last {
            self.due_intent.push(ordinal);
            self.due_stream.push(due.stream.0);
            self.due_kind.push(&due.kind);
            self.due_key.push(&due.key);
            self.due_at.push(due_at);
        }
    }

    /// Many intents rest on the same stream (the member's workspace): each version is looked up once.
    fn rest(&mut self, ordinal: i32, stream: StreamId, version: StreamVersion) {
        let next = ordinal_of(self.check_stream.len() + 1);
        let check = *self.check_ordinals.entry((stream.0, version.0)).or_insert(next);
        if check == next {
            self.check_stream.push(stream.0);
            self.check_version.push(version.0);
        }
        self.rest_intent.push(ordinal);
        self.rest_check.push(check);
    }

    async fn send(&self, connection: &mut PgConnection) -> Result<Reply, sqlx::Error> {
        sqlx::query_file_as!(
            Reply,
            "sql/append.sql",
            &self.check_stream,
            &self.check_version,
            &self.rest_intent,
            &self.rest_check,
            &self.key_intent,
            &self.key_scope as &[&str],
            &self.key as &[&str],
            &self.key_body_hash as &[&[u8]],
            &self.key_write as &[Option<i32>],
            &self.key_count,
            &self.key_versions,
            &self.key_answer as &[Option<&str>],
            &self.fence_intent,
            &self.fence_reader as &[&str],
            &self.fence_epoch,
            &self.workspace,
            &self.write_intent,
            &self.write_workspace,
            &self.write_stream,
            &self.write_category as &[&str],
            &self.write_version,
            &self.write_count,
            &self.write_before,
            &self.write_seq_before,
            &self.event_write,
            &self.event_n,
            &self.event_id,
            &self.event_type as &[&str],
            &self.event_schema_version,
            &self.event_payload as &[JsonStr<'_>],
            &self.event_metadata as &[JsonStr<'_>],
            &self.done_intent,
            &self.done_stream,
            &self.done_kind as &[&str],
            &self.done_key as &[&str],
            &self.due_intent,
            &self.due_stream,
            &self.due_kind as &[&str],
            &self.due_key as &[&str],
            &self.due_at,
        )
        .fetch_one(connection)
        .await
    }

    /// A known key comes before everything else that is wrong with an intent.
    fn verdicts(&self, pending: &[Pending], reply: &Reply) -> Vec<Verdict> {
        let mut losers: HashMap<i32, Verdict> = HashMap::new();
        for &check in reply.moved.iter().flatten() {
            let at = index_of(check);
            let (stream, version) =
                (StreamId(self.check_stream[at]), StreamVersion(self.check_version[at]));
            for (&intent, &rests_on) in self.rest_intent.iter().zip(&self.rest_check) {
                if rests_on == check {
                    losers.insert(intent, Verdict::Moved(stream, version));
                }
            }
        }
        losers.extend(reply.fenced.iter().flatten().map(|&intent| (intent, Verdict::Fenced)));
        losers.extend(reply.known.iter().flatten().map(|&intent| (intent, Verdict::Known)));
        let mut last = reply.head_before;
        pending
            .iter()
            .zip(1..)
            .map(|(pending, ordinal)| match losers.remove(&ordinal) {
                Some(verdict) => verdict,
                None => {
                    let receipt = receipt(&pending.intent, Position(last), reply.stamped_at);
                    last = receipt.position.0;
                    Verdict::Landed(receipt)
                }
            })
            .collect()
    }
}

/// The receipt of an intent whose events follow on a position.
pub(crate) fn receipt(intent: &Intent, after: Position, recorded_at: DateTime<Utc>) -> Receipt {
    let count: usize = intent.writes.iter().map(|write| write.events.len()).sum();
    Receipt {
        first_position: after.next(),
        position: Position(after.0 + i64::from(ordinal_of(count))),
        versions: versions_after(intent),
        recorded_at,
        answer: intent.answer.clone(),
        repeated: false,
    }
}

/// The versions that the written streams have once the intent is in the log.
pub(crate) fn versions_after(intent: &Intent) -> Vec<(StreamId, StreamVersion)> {
    let after = |write: &crate::StreamWrite| {
        StreamVersion(write.expected.0 + i64::from(ordinal_of(write.events.len())))
    };
    intent.writes.iter().map(|write| (write.stream, after(write))).collect()
}

fn versions_text(versions: &[(StreamId, StreamVersion)]) -> String {
    serde_json::to_string(versions).expect("ids and numbers are always JSON")
}

/// A batch is bounded far below this: see [`crate::LogConfig`] and [`crate::MAX_EVENTS_PER_INTENT`].
fn ordinal_of(count: usize) -> i32 {
    i32::try_from(count).expect("a batch holds fewer than 2^31 of anything")
}

fn index_of(ordinal: i32) -> usize {
    usize::try_from(ordinal - 1).expect("ordinals start at 1")
}
