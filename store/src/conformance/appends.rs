//! Atomicity, versions, keys and refusals.

use futures_util::future::join_all;
use uuid::Uuid;

use super::{Subject, event, key, writing};
use crate::{
    AppendError, EventLog, Fence, IdempotencyKey, Intent, MAX_EVENTS_PER_INTENT, MAX_NESTING,
    MAX_PAYLOAD_BYTES, Position, Receipt, StreamVersion,
};

async fn landed(log: &dyn EventLog, intent: Intent) -> Receipt {
    log.append(intent).await.expect("nothing stands against this intent")
}

async fn version(log: &dyn EventLog, of: Subject) -> usize {
    log.read_stream(of.stream, StreamVersion::NEW, 1_000).await.expect("the log is there").len()
}

pub(super) async fn an_intent_is_appended_whole(log: &dyn EventLog) {
    let (one, other) = (Subject::new(), Subject::new());
    let spaced = "{ \"b\":1,  \"a\" : \"\u{e4}\\u00e4\", \"b\":2 }";
    let mut first = one.write(0, &["execution_requested"]);
    first.events.push(event("node_started", spaced));
    let second = other.write(0, &["workflow_created"]);
    let sent = [first.clone(), second.clone()];
    let receipt = landed(log, writing(vec![first, second])).await;

    assert_eq!(receipt.position.0, receipt.first_position.0 + 2);
    assert_eq!(
        receipt.versions,
        [(one.stream, StreamVersion(2)), (other.stream, StreamVersion(1))]
    );
    assert!(!receipt.repeated);
    let before = Position(receipt.first_position.0 - 1);
    let (events, _) = log.read(before, 3, &crate::Filter::default()).await.expect("read");
    let new: Vec<_> = sent.iter().flat_map(|write| &write.events).collect();
    for ((event, new), position) in events.iter().zip(&new).zip(receipt.first_position.0..) {
        assert_eq!(event.position.0, position);
        assert_eq!(event.event_id, new.event_id);
        assert_eq!(event.r#type, new.r#type);
        assert_eq!(event.payload, new.payload, "payloads are kept byte for byte");
        assert_eq!(event.metadata, new.metadata);
        assert_eq!(event.recorded_at, receipt.recorded_at);
    }
    let places: Vec<_> =
        events.iter().map(|event| (event.stream, event.version.0, event.workspace_seq)).collect();
    assert_eq!(places, [(one.stream, 1, 1), (one.stream, 2, 2), (other.stream, 1, 1)]);
}

pub(super) async fn a_stream_that_moved_is_a_conflict(log: &dyn EventLog) {
    let (written, read) = (Subject::new(), Subject::new());
    landed(log, writing(vec![written.write(0, &["a"]), read.write(0, &["a"])])).await;

    for stale in [0, 2] {
        let refused = log.append(writing(vec![written.write(stale, &["b"])])).await;
        assert!(
            matches!(refused, Err(AppendError::Conflict { stream, expected })
                if stream == written.stream && expected.0 == stale),
            "{refused:?}"
        );
        let resting =
            Intent { reads: vec![read.read(stale)], ..writing(vec![written.write(1, &["b"])]) };
        let refused = log.append(resting).await;
        assert!(
            matches!(refused, Err(AppendError::Conflict { stream, .. }) if stream == read.stream),
            "{refused:?}"
        );
    }
    let resting = Intent { reads: vec![read.read(1)], ..writing(vec![written.write(1, &["b"])]) };
    landed(log, resting).await;
}

pub(super) async fn a_conflict_leaves_nothing_behind(log: &dyn EventLog) {
    let (fresh, moved) = (Subject::new(), Subject::new());
    landed(log, writing(vec![moved.write(0, &["a"])])).await;
    let key = key();
    let head = log.head().await.expect("head").position;
    let intent = Intent {
        key: Some(key.clone()),
        ..writing(vec![fresh.write(0, &["a", "b"]), moved.write(0, &["a"])])
    };
    log.append(intent).await.expect_err("one of its streams moved");

    assert_eq!(version(log, fresh).await, 0);
    assert_eq!(log.find_receipt(&key).await.expect("look-up"), None);
    let receipt = landed(log, writing(vec![fresh.write(0, &["a"])])).await;
    assert_eq!(receipt.first_position, head.next(), "a refused intent takes no position");
}

pub(super) async fn a_known_key_gets_the_first_receipt(log: &dyn EventLog) {
    let (subject, key) = (Subject::new(), key());
    assert_eq!(log.find_receipt(&key).await.expect("look-up"), None);
    let intent = |answer: &str| Intent {
        key: Some(key.clone()),
        answer: Some(answer.to_owned()),
        ..writing(vec![subject.write(0, &["a", "b"])])
    };
    let first = landed(log, intent("{\"status\": 201}")).await;
    let second = landed(log, intent("{\"status\": 500}")).await;
    let found = log.find_receipt(&key).await.expect("look-up").expect("the key is known");
    let expected = Receipt { repeated: true, ..first };
    assert_eq!(second, expected);
    assert_eq!(found, expected);
    assert_eq!(second.answer.as_deref(), Some("{\"status\": 201}"));
    assert_eq!(version(log, subject).await, 2);

    let other_body = IdempotencyKey { body_hash: [8; 32], ..key.clone() };
    let reused = Intent { key: Some(other_body.clone()), ..intent("{}") };
    assert!(matches!(log.append(reused).await, Err(AppendError::KeyReused)));
    assert!(matches!(log.find_receipt(&other_body).await, Err(AppendError::KeyReused)));

    let other_scope = IdempotencyKey { scope: format!("{}/other", key.scope), ..key };
    let elsewhere = Intent { key: Some(other_scope), ..writing(vec![subject.write(2, &["c"])]) };
    assert!(!landed(log, elsewhere).await.repeated);
}

pub(super) async fn a_known_key_comes_before_conflict_and_fence(log: &dyn EventLog) {
    let (subject, key) = (Subject::new(), key());
    let intent = Intent { key: Some(key), ..writing(vec![subject.write(0, &["a"])]) };
    let first = landed(log, intent.clone()).await;
    let fence = Fence { reader: format!("nobody-{}", Uuid::now_v7()), epoch: 1 };
    let repeat = Intent { fence: Some(fence), ..intent };
    assert_eq!(landed(log, repeat).await, Receipt { repeated: true, ..first });

    // The same from many callers at once: one of them appends.
    let (subject, key) = (Subject::new(), super::key());
    let intent = Intent { key: Some(key), ..writing(vec![subject.write(0, &["a"])]) };
    let receipts = join_all((0..8).map(|_| landed(log, retried(&intent)))).await;
    assert_eq!(receipts.iter().filter(|receipt| !receipt.repeated).count(), 1);
    assert!(receipts.iter().all(|receipt| receipt.position == receipts[0].position));
    assert_eq!(version(log, subject).await, 1);
}

/// The intent as a second request would make it: with other event ids.
fn retried(intent: &Intent) -> Intent {
    let mut intent = intent.clone();
    for event in intent.writes.iter_mut().flat_map(|write| &mut write.events) {
        event.event_id = Uuid::now_v7();
    }
    intent
}

pub(super) async fn an_intent_without_events_stores_its_key(log: &dyn EventLog) {
    let (subject, key) = (Subject::new(), key());
    landed(log, writing(vec![subject.write(0, &["a"])])).await;
    let intent = Intent {
        reads: vec![subject.read(1)],
        key: Some(key.clone()),
        answer: Some("{}".to_owned()),
        ..Intent::default()
    };
    let head = log.head().await.expect("head").position;
    let receipt = landed(log, intent.clone()).await;
    assert_eq!((receipt.first_position, receipt.position), (head.next(), head));
    assert!(receipt.versions.is_empty());
    assert_eq!(log.head().await.expect("head").position, head);
    assert_eq!(landed(log, intent).await, Receipt { repeated: true, ..receipt });
}

pub(super) async fn what_cannot_be_stored_is_refused(log: &dyn EventLog) {
    let subject = Subject::new();
    let with_payload = |payload: String| {
        let mut write = subject.write(0, &[]);
        write.events.push(event("a", &payload));
        writing(vec![write])
    };
    let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let text = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
    let refused = [
        with_payload("{\"a\": \"\\u0000\"}".to_owned()),
        with_payload("{\"a\": ".to_owned()),
        with_payload(nested(MAX_NESTING + 1)),
        with_payload(text(MAX_PAYLOAD_BYTES + 1)),
        writing(vec![subject.write(0, &[])]),
        writing(vec![subject.write(0, &["a"]), subject.write(0, &["a"])]),
        writing(vec![subject.write(0, &["a"; MAX_EVENTS_PER_INTENT + 1])]),
        writing(vec![subject.write(-1, &["a"])]),
        Intent {
            key: Some(IdempotencyKey { key: "\u{e4}".to_owned(), ..key() }),
            ..writing(vec![subject.write(0, &["a"])])
        },
        Intent {
            key: Some(IdempotencyKey { key: String::new(), ..key() }),
            ..writing(vec![subject.write(0, &["a"])])
        },
    ];
    for intent in refused {
        let refusal = log.append(intent).await;
        assert!(matches!(refusal, Err(AppendError::Invalid { .. })), "{refusal:?}");
    }
    assert_eq!(version(log, subject).await, 0);
    let largest = landed(log, with_payload(text(MAX_PAYLOAD_BYTES))).await;
    assert_eq!(largest.versions, [(subject.stream, StreamVersion(1))]);
    landed(log, writing(vec![subject.write(1, &["a"; MAX_EVENTS_PER_INTENT])])).await;
    let deepest = subject.beside();
    let mut write = deepest.write(0, &[]);
    write.events.push(event("a", &nested(MAX_NESTING)));
    landed(log, writing(vec![write])).await;
}

pub(super) async fn an_event_id_is_used_once(log: &dyn EventLog) {
    let (one, other) = (Subject::new(), Subject::new());
    let first = one.write(0, &["a"]);
    let mut again = other.write(0, &["a"]);
    again.events = first.events.clone();
    landed(log, writing(vec![first])).await;
    let mut twice = other.write(0, &["a", "b"]);
    twice.events[1].event_id = twice.events[0].event_id;
    for write in [again, twice] {
        let refusal = log.append(writing(vec![write])).await;
        assert!(matches!(refusal, Err(AppendError::DuplicateEvent)), "{refusal:?}");
        assert_eq!(version(log, other).await, 0);
    }
}

/// Each decided while the other had not: together they would be a state that no order of them gives.
pub(super) async fn two_that_rest_on_each_other_never_both_land(log: &dyn EventLog) {
    for _ in 0..10 {
        let (one, other) = (Subject::new(), Subject::new());
        let crossed = |write: Subject, read: Subject| Intent {
            reads: vec![read.read(0)],
            ..writing(vec![write.write(0, &["a"])])
        };
        let answers =
            join_all([log.append(crossed(one, other)), log.append(crossed(other, one))]).await;
        let landed = answers.iter().filter(|answer| answer.is_ok()).count();
        assert_eq!(landed, 1, "{answers:?}");
    }
}

/// Sent at once, so that a log that batches has them in one batch.
pub(super) async fn one_bad_intent_does_not_fail_its_neighbours(log: &dyn EventLog) {
    let stale = Subject::new();
    let first = stale.write(0, &["a"]);
    let used = first.events.clone();
    landed(log, writing(vec![first])).await;
    let subjects: Vec<Subject> = (0..24).map(|_| stale.beside()).collect();
    let appends = subjects.iter().enumerate().map(|(index, subject)| {
        let mut write = subject.write(0, &["a", "b"]);
        let reads = match index % 8 {
            3 => vec![stale.read(0)],
            5 => {
                write.events[1] = used[0].clone();
                vec![]
            }
            _ => vec![stale.read(1)],
        };
        log.append(Intent { reads, ..writing(vec![write]) })
    });
    let answers = join_all(appends).await;
    for (index, (answer, subject)) in answers.iter().zip(&subjects).enumerate() {
        let (good, events) = match index % 8 {
            3 => (matches!(answer, Err(AppendError::Conflict { .. })), 0),
            5 => (matches!(answer, Err(AppendError::DuplicateEvent)), 0),
            _ => (answer.is_ok(), 2),
        };
        assert!(good, "intent {index}: {answer:?}");
        assert_eq!(version(log, *subject).await, events, "intent {index}");
    }
}
