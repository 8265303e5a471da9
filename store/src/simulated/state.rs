//! The tables of the simulated log, and an append to them in one step.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use uuid::Uuid;

use crate::batch::receipt;
use crate::checkpoint::fenced;
use crate::{
    AppendError, DueKey, IdempotencyKey, Intent, Lease, LogLine, Position, Receipt, RecordedEvent,
    StoreError, StreamId, StreamVersion, WorkerLease, Workspace,
};

pub(super) struct State {
    pub(super) log_id: Uuid,
    pub(super) epoch: i32,
    pub(super) recorded_at: DateTime<Utc>,
    pub(super) events: Vec<RecordedEvent>,
    pub(super) event_ids: HashSet<Uuid>,
    /// Indices into `events` by stream, in order of versions.
    pub(super) streams: HashMap<StreamId, Vec<usize>>,
    pub(super) workspaces: HashMap<Workspace, i64>,
    pub(super) keys: HashMap<(String, String), ([u8; 32], Receipt)>,
    pub(super) checkpoints: HashMap<String, CheckpointRow>,
    pub(super) due: BTreeMap<DueKey, DateTime<Utc>>,
    pub(super) snapshots: HashMap<StreamId, (StreamVersion, String, String)>,
    pub(super) blobs: HashMap<String, Vec<u8>>,
    pub(super) lines: BTreeMap<(Uuid, i32, i64), LogLine>,
    pub(super) workers: BTreeMap<String, WorkerLease>,
}

#[derive(Default)]
pub(super) struct CheckpointRow {
    pub(super) position: Position,
    pub(super) epoch: i64,
    pub(super) held: Option<(String, DateTime<Utc>)>,
}

impl State {
    pub(super) fn new(log_id: Uuid, recorded_at: DateTime<Utc>) -> Self {
        Self {
            log_id,
            epoch: 1,
            recorded_at,
            events: Vec::new(),
            event_ids: HashSet::new(),
            streams: HashMap::new(),
            workspaces: HashMap::new(),
            keys: HashMap::new(),
            checkpoints: HashMap::new(),
            due: BTreeMap::new(),
            snapshots: HashMap::new(),
            blobs: HashMap::new(),
            lines: BTreeMap::new(),
            workers: BTreeMap::new(),
        }
    }

    pub(super) fn version(&self, stream: StreamId) -> StreamVersion {
        StreamVersion(self.streams.get(&stream).map_or(0, |events| count(events.len())))
    }

    pub(super) fn find_receipt(
        &self,
        key: &IdempotencyKey,
    ) -> Result<Option<Receipt>, AppendError> {
        match self.keys.get(&(key.scope.clone(), key.key.clone())) {
            None => Ok(None),
            Some((body_hash, _)) if *body_hash != key.body_hash => Err(AppendError::KeyReused),
            Some((_, receipt)) => Ok(Some(Receipt { repeated: true, ..receipt.clone() })),
        }
    }

    /// The same order of checks as `append_batch`: key, fence, versions.
    pub(super) fn append(
        &mut self,
        intent: Intent,
        now: DateTime<Utc>,
    ) -> Result<Receipt, AppendError> {
        if let Some(key) = &intent.key
            && let Some(receipt) = self.find_receipt(key)?
        {
            return Ok(receipt);
        }
        if let Some(fence) = &intent.fence {
            let epoch = self.checkpoints.get(&fence.reader).map(|row| row.epoch);
            if epoch != Some(fence.epoch) {
                return Err(AppendError::Fenced { reader: fence.reader.clone() });
            }
        }
        if let Some((stream, expected)) =
            rests_on(&intent).find(|&(stream, version)| self.version(stream) != version)
        {
            return Err(AppendError::Conflict { stream, expected });
        }
        let mut ids = HashSet::new();
        let new_ids = intent.writes.iter().flat_map(|write| &write.events);
        for event in new_ids {
            if self.event_ids.contains(&event.event_id) || !ids.insert(event.event_id) {
                return Err(AppendError::DuplicateEvent);
            }
        }
        Ok(self.apply(intent, now))
    }

    pub(super) fn apply(&mut self, intent: Intent, now: DateTime<Utc>) -> Receipt {
        self.recorded_at = now.max(self.recorded_at + TimeDelta::microseconds(1));
        let receipt = receipt(&intent, Position(count(self.events.len())), self.recorded_at);
        for write in intent.writes {
            for event in write.events {
                let seq = self.workspaces.entry(write.workspace).or_default();
                *seq += 1;
                let stream = self.streams.entry(write.stream).or_default();
                stream.push(self.events.len());
                self.event_ids.insert(event.event_id);
                self.events.push(RecordedEvent {
                    position: Position(count(self.events.len() + 1)),
                    stream: write.stream,
                    version: StreamVersion(count(stream.len())),
                    workspace: write.workspace,
                    workspace_seq: *seq,
                    category: write.category.to_owned(),
                    r#type: event.r#type.to_owned(),
                    schema_version: event.schema_version,
                    event_id: event.event_id,
                    payload: event.payload,
                    metadata: event.metadata,
                    recorded_at: self.recorded_at,
                });
            }
        }
        if let Some(key) = intent.key {
            self.keys.insert((key.scope, key.key), (key.body_hash, receipt.clone()));
        }
        for done in &intent.due_done {
            self.due.remove(done);
        }
        self.due.extend(intent.due.into_iter().map(|due| (due.due, due.due_at.trunc_subsecs(6))));
        receipt
    }

    /// The row of a lease, when it is the one that the lease names.
    pub(super) fn held(&mut self, lease: &Lease) -> Result<&mut CheckpointRow, StoreError> {
        self.checkpoints
            .get_mut(&lease.reader)
            .filter(|row| row.epoch == lease.epoch)
            .ok_or_else(|| fenced(&lease.reader))
    }
}

impl CheckpointRow {
    pub(super) fn is_owned_by(&self, owner: &str) -> bool {
        self.held.as_ref().is_some_and(|(holder, _)| holder == owner)
    }
}

pub(super) fn rests_on(intent: &Intent) -> impl Iterator<Item = (StreamId, StreamVersion)> {
    let reads = intent.reads.iter().map(|read| (read.stream, read.version));
    reads.chain(intent.writes.iter().map(|write| (write.stream, write.expected)))
}

pub(super) fn count(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}

/// The index of the first event after a position.
pub(super) fn index_after(position: i64) -> usize {
    usize::try_from(position).unwrap_or(0)
}
