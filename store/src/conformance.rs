//! What every [`EventLog`] must do, as functions that panic when it does not.
//!
//! The same suite runs on the simulated log (this crate's own tests) and on Postgres (`tests/it/store.rs`), so that what is
//! proved in simulation is proved about the real thing. Each function works on streams, keys and names of its own, so they
//! may share a log. To add a rule: state it in the contract of [`EventLog`], then write its function here and call it in
//! [`everything`].

mod appends;
mod beside;
mod contention;
mod reads;

use std::sync::Arc;

use uuid::Uuid;

pub use contention::{Contention, Told, contend, verify_log};

use crate::{
    EventLog, IdempotencyKey, Intent, NewEvent, StreamId, StreamRead, StreamVersion, StreamWrite,
    Workspace,
};

/// Runs the whole suite.
///
/// # Panics
/// When the log breaks its contract.
pub async fn everything(log: Arc<dyn EventLog>) {
    appends::an_intent_is_appended_whole(&*log).await;
    appends::a_stream_that_moved_is_a_conflict(&*log).await;
    appends::a_conflict_leaves_nothing_behind(&*log).await;
    appends::a_known_key_gets_the_first_receipt(&*log).await;
    appends::a_known_key_comes_before_conflict_and_fence(&*log).await;
    appends::an_intent_without_events_stores_its_key(&*log).await;
    appends::what_cannot_be_stored_is_refused(&*log).await;
    appends::an_event_id_is_used_once(&*log).await;
    appends::two_that_rest_on_each_other_never_both_land(&*log).await;
    appends::one_bad_intent_does_not_fail_its_neighbours(&*log).await;
    reads::filters_walk_the_log_in_order(&*log).await;
    reads::a_stream_is_read_from_a_version(&*log).await;
    reads::time_finds_a_position(&*log).await;
    reads::the_head_is_watched(&*log).await;
    reads::the_tail_gives_every_event_once(Arc::clone(&log)).await;
    beside::a_lease_is_held_by_one(&*log).await;
    beside::a_lost_lease_fences(&*log).await;
    beside::a_checkpoint_moves_by_compare_and_set(&*log).await;
    beside::due_times_are_set_and_removed_with_the_append(&*log).await;
    beside::a_snapshot_is_never_replaced_by_an_older_one(&*log).await;
    beside::a_blob_is_named_by_its_content(&*log).await;
    beside::log_lines_are_written_once(&*log).await;
    beside::a_worker_lease_rises_when_it_expired(&*log).await;
    let contention = Contention { writers: 16, rounds: 25, streams: 6, seed: 1 };
    let acknowledged = contend(vec![Arc::clone(&log)], contention).await;
    verify_log(&*log, &acknowledged).await;
    // Last, because it forgets the keys of the others.
    beside::keys_are_forgotten_after_a_time(&*log).await;
}

/// A stream of its own in a workspace of its own.
#[derive(Clone, Copy)]
struct Subject {
    workspace: Workspace,
    stream: StreamId,
}

impl Subject {
    fn new() -> Self {
        Self { workspace: Workspace(Uuid::now_v7()), stream: StreamId(Uuid::now_v7()) }
    }

    fn beside(self) -> Self {
        Self { stream: StreamId(Uuid::now_v7()), ..self }
    }

    fn write(self, expected: i64, types: &[&'static str]) -> StreamWrite {
        StreamWrite {
            workspace: self.workspace,
            stream: self.stream,
            category: "execution",
            expected: StreamVersion(expected),
            events: types.iter().map(|r#type| event(r#type, "{\"n\": 1}")).collect(),
        }
    }

    fn read(self, version: i64) -> StreamRead {
        StreamRead { stream: self.stream, version: StreamVersion(version) }
    }
}

fn event(r#type: &'static str, payload: &str) -> NewEvent {
    NewEvent {
        event_id: Uuid::now_v7(),
        r#type,
        schema_version: 1,
        payload: payload.to_owned(),
        metadata: "{\"actor\": \"conformance\"}".to_owned(),
    }
}

fn writing(writes: Vec<StreamWrite>) -> Intent {
    Intent { writes, ..Intent::default() }
}

fn key() -> IdempotencyKey {
    IdempotencyKey {
        scope: format!("workspace:{}:caller:POST:/executions", Uuid::now_v7()),
        key: Uuid::now_v7().to_string(),
        body_hash: [7; 32],
    }
}
