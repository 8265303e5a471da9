//! Leases, checkpoints, due times and the other tables beside the log.

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use uuid::Uuid;

use super::{Subject, key, writing};
use crate::{
    AppendError, DueKey, DueTime, EventLog, Fence, Intent, Lease, LogLevel, LogLine, LogQuery,
    Position, StoreError, StreamVersion,
};

const LONG_MS: i64 = 3_600_000;

/// A lease that has expired when it is taken: the suite needs no clock of its own.
const EXPIRED_MS: i64 = 0;

fn name(of: &str) -> String {
    format!("{of}-{}", Uuid::now_v7())
}

async fn take(log: &dyn EventLog, reader: &str, owner: &str, ttl_ms: i64) -> Option<Lease> {
    log.acquire_lease(reader, owner, ttl_ms).await.expect("the store is there")
}

pub(super) async fn a_lease_is_held_by_one(log: &dyn EventLog) {
    let reader = name("reader");
    let first = take(log, &reader, "one", LONG_MS).await.expect("it is free");
    assert_eq!(first.position, Position::START);
    assert_eq!(take(log, &reader, "two", LONG_MS).await, None);
    log.renew_lease(&first, LONG_MS).await.expect("it is held");
    log.release_lease(&first).await.expect("it is held");
    let second = take(log, &reader, "two", LONG_MS).await.expect("it was released");
    assert!(second.epoch > first.epoch);
    let refused = log.renew_lease(&first, LONG_MS).await;
    assert!(matches!(refused, Err(StoreError::Fenced { .. })), "{refused:?}");
    log.release_lease(&first).await.expect("letting go of what is lost changes nothing");
    assert_eq!(take(log, &reader, "three", LONG_MS).await, None);
    let again = take(log, &reader, "two", LONG_MS).await.expect("its own holder starts again");
    assert!(again.epoch > second.epoch);
}

pub(super) async fn a_lost_lease_fences(log: &dyn EventLog) {
    let (reader, subject) = (name("reader"), Subject::new());
    let fenced = |lease: &Lease, expected| Intent {
        fence: Some(Fence::from(lease)),
        ..writing(vec![subject.write(expected, &["a"])])
    };
    let asleep = take(log, &reader, "one", EXPIRED_MS).await.expect("it is free");
    // Expired but not taken over: still the leader.
    log.append(fenced(&asleep, 0)).await.expect("nobody took over");
    let awake = take(log, &reader, "two", LONG_MS).await.expect("it expired");
    let refused = log.append(fenced(&asleep, 1)).await;
    assert!(
        matches!(&refused, Err(AppendError::Fenced { reader: of }) if *of == reader),
        "{refused:?}"
    );
    log.append(fenced(&awake, 1)).await.expect("it leads");
    let mut asleep = asleep;
    let refused = log.advance(&mut asleep, Position(1)).await;
    assert!(matches!(refused, Err(StoreError::Fenced { .. })), "{refused:?}");
}

pub(super) async fn a_checkpoint_moves_by_compare_and_set(log: &dyn EventLog) {
    let reader = name("reader");
    assert_eq!(log.checkpoint(&reader).await.expect("look-up"), Position::START);
    let mut lease = take(log, &reader, "one", LONG_MS).await.expect("it is free");
    let mut copy = lease.clone();
    log.advance(&mut lease, Position(5)).await.expect("it is at the start");
    assert_eq!(lease.position, Position(5));
    assert_eq!(log.checkpoint(&reader).await.expect("look-up"), Position(5));
    let refused = log.advance(&mut copy, Position(7)).await;
    assert!(matches!(refused, Err(StoreError::Fenced { .. })), "{refused:?}");
    assert_eq!(copy.position, Position::START, "a refused lease does not move");
    log.release_lease(&lease).await.expect("it is held");
    let next = take(log, &reader, "two", LONG_MS).await.expect("it was released");
    assert_eq!(next.position, Position(5), "who takes over goes on from there");
}

pub(super) async fn due_times_are_set_and_removed_with_the_append(log: &dyn EventLog) {
    let subject = Subject::new();
    // Long ago, so that these come before what anybody else may have set.
    let start: DateTime<Utc> = DateTime::UNIX_EPOCH;
    let at = |seconds| start + TimeDelta::seconds(seconds);
    let due = |kind: &str, seconds| DueTime {
        due_at: at(seconds),
        due: DueKey { stream: subject.stream, kind: kind.to_owned(), key: "k".to_owned() },
    };
    let set = Intent {
        due: vec![due("retry", 30), due("wait", 20), due("timeout", 10), due("wait", 25)],
        ..writing(vec![subject.write(0, &["a"])])
    };
    log.append(set).await.expect("a free stream");
    assert_eq!(log.next_due().await.expect("look-up"), Some(at(10)));
    let elsewhere = Subject::new().stream;
    let timeless = log.without_due(&[subject.stream, elsewhere]).await.expect("look-up");
    assert_eq!(timeless, [elsewhere]);
    let (timeout, wait, retry) = (due("timeout", 10), due("wait", 25), due("retry", 30));
    let all = [timeout.clone(), wait.clone(), retry.clone()];
    assert_eq!(log.due(at(30), 10).await.expect("look-up"), all);
    assert_eq!(log.due(at(30), 2).await.expect("look-up"), all[..2]);
    assert_eq!(log.due(at(29), 10).await.expect("look-up"), all[..2]);

    let refused = Intent {
        due: vec![due("late", 5)],
        due_done: vec![wait.due.clone()],
        ..writing(vec![subject.write(0, &["b"])])
    };
    log.append(refused).await.expect_err("the stream moved");
    assert_eq!(log.due(at(30), 10).await.expect("look-up"), all, "a refused intent sets nothing");

    let replace = Intent {
        due: vec![due("retry", 15)],
        due_done: vec![wait.due.clone(), retry.due.clone()],
        ..writing(vec![subject.write(1, &["b"])])
    };
    log.append(replace).await.expect("the stream is there");
    let left = [timeout.clone(), due("retry", 15)];
    assert_eq!(log.due(at(30), 10).await.expect("look-up"), left);
    let (later, gone) = (due("retry", 25), due("wait", 25));
    assert!(log.move_due(&later).await.expect("the store is there"));
    assert!(!log.move_due(&gone).await.expect("the store is there"), "what is not there stays so");
    assert_eq!(log.due(at(24), 10).await.expect("look-up"), std::slice::from_ref(&timeout));
    assert!(log.due(at(30), 10).await.expect("look-up").contains(&later));
    log.remove_due(&[timeout.due, retry.due, wait.due]).await.expect("the store is there");
    assert_eq!(log.due(at(30), 10).await.expect("look-up"), []);
    let timeless = log.without_due(&[subject.stream]).await.expect("look-up");
    assert_eq!(timeless, [subject.stream]);
}

pub(super) async fn a_snapshot_is_never_replaced_by_an_older_one(log: &dyn EventLog) {
    let stream = Subject::new().stream;
    let save = async |version, fingerprint: &str, state: &str| {
        let saved = log.save_snapshot(stream, StreamVersion(version), fingerprint, state).await;
        saved.expect("the store is there");
    };
    let load = async |fingerprint: &str| {
        log.snapshot(stream, fingerprint).await.expect("the store is there")
    };
    assert_eq!(load("f1").await, None);
    save(5, "f1", "five").await;
    save(4, "f1", "four").await;
    assert_eq!(load("f1").await, Some((StreamVersion(5), "five".to_owned())));
    assert_eq!(load("f2").await, None);
    save(5, "f2", "other shape").await;
    assert_eq!(load("f2").await, Some((StreamVersion(5), "other shape".to_owned())));
    assert_eq!(load("f1").await, None);
}

pub(super) async fn a_blob_is_named_by_its_content(log: &dyn EventLog) {
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    for _ in 0..2 {
        assert_eq!(log.put_blob(b"abc").await.expect("the store is there"), abc);
    }
    assert_eq!(log.blob(abc).await.expect("look-up"), Some(b"abc".to_vec()));
    for unknown in ["00", "not hex", ""] {
        assert_eq!(log.blob(unknown).await.expect("look-up"), None);
    }
    let empty = log.put_blob(b"").await.expect("the store is there");
    assert_eq!(log.blob(&empty).await.expect("look-up"), Some(Vec::new()));
}

pub(super) async fn log_lines_are_written_once(log: &dyn EventLog) {
    let (workspace_id, execution_id) = (Uuid::now_v7(), Uuid::now_v7());
    let line = |claim, n, level, message: &str| LogLine {
        workspace_id,
        execution_id,
        claim,
        n,
        at: Utc::now().trunc_subsecs(6),
        level,
        node: if n == 2 { "fetch".to_owned() } else { String::new() },
        attempt: 1,
        message: message.to_owned(),
        fields: (n == 1).then(|| serde_json::json!({"status": 200})),
        correlation_id: (n == 2).then_some(workspace_id),
    };
    let lines = [
        line(1, 1, LogLevel::Info, "started"),
        line(1, 2, LogLevel::Error, "Connection refused"),
        line(2, 1, LogLevel::Debug, "resumed"),
    ];
    log.write_log_lines(&lines[1..]).await.expect("the store is there");
    let mut again = lines.clone();
    again[1].message = "written again".to_owned();
    log.write_log_lines(&again).await.expect("the store is there");
    log.write_log_lines(&[]).await.expect("nothing to write");

    let query = LogQuery {
        execution_id,
        after: None,
        min_level: None,
        node: None,
        search: None,
        limit: 10,
    };
    let find = async |query: LogQuery| log.log_lines(&query).await.expect("look-up");
    assert_eq!(find(query.clone()).await, lines);
    assert_eq!(find(LogQuery { limit: 2, ..query.clone() }).await, lines[..2]);
    assert_eq!(find(LogQuery { after: Some((1, 1)), ..query.clone() }).await, lines[1..]);
    let warnings = LogQuery { min_level: Some(LogLevel::Warning), ..query.clone() };
    assert_eq!(find(warnings).await, lines[1..2]);
    let of_node = LogQuery { node: Some("fetch".to_owned()), ..query.clone() };
    assert_eq!(find(of_node).await, lines[1..2]);
    let search = LogQuery { search: Some("connection REF".to_owned()), ..query.clone() };
    assert_eq!(find(search).await, lines[1..2]);
    let literal = LogQuery { search: Some("%".to_owned()), ..query.clone() };
    assert_eq!(find(literal).await, []);

    log.write_log_lines(&[line(3, 3, LogLevel::Info, "a\0b")]).await.expect("kept");
    let last = find(LogQuery { after: Some((2, 1)), ..query }).await;
    assert_eq!(last[0].message, "a\u{fffd}b");
}

pub(super) async fn a_worker_lease_rises_when_it_expired(log: &dyn EventLog) {
    let worker = name("worker");
    let find = async || {
        let leases = log.worker_leases().await.expect("look-up");
        leases.into_iter().find(|lease| lease.worker == worker).expect("it registered")
    };
    let first = log.renew_worker_lease(&worker, 4, LONG_MS).await.expect("registered");
    assert_eq!((first.epoch, first.slots, first.expired), (1, 4, false));
    let held = log.renew_worker_lease(&worker, 8, LONG_MS).await.expect("held");
    assert_eq!((held.epoch, held.slots), (1, 8));
    assert!(!find().await.expired);
    log.release_worker_lease(&worker).await.expect("held");
    assert!(find().await.expired);
    let back = log.renew_worker_lease(&worker, 8, EXPIRED_MS).await.expect("taken up again");
    assert_eq!(back.epoch, 2);
    let late = log.renew_worker_lease(&worker, 8, LONG_MS).await.expect("taken up again");
    assert_eq!(late.epoch, 3);
}

pub(super) async fn keys_are_forgotten_after_a_time(log: &dyn EventLog) {
    let (subject, old, young) = (Subject::new(), key(), key());
    let keyed = |key: &crate::IdempotencyKey, expected| Intent {
        key: Some(key.clone()),
        ..writing(vec![subject.write(expected, &["a"])])
    };
    log.append(keyed(&old, 0)).await.expect("a free stream");
    let second = log.append(keyed(&young, 1)).await.expect("a free stream");
    let pruned = log.prune_keys(second.recorded_at).await.expect("the store is there");
    assert!(pruned >= 1);
    assert_eq!(log.find_receipt(&old).await.expect("look-up"), None);
    assert!(log.find_receipt(&young).await.expect("look-up").is_some());
}
