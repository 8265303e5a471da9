//! Order, filters, time, and the shared tail.

use std::sync::Arc;

use chrono::TimeDelta;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Subject, writing};
use crate::{EventLog, Filter, Position, RecordedEvent, StreamVersion, Tail};

const PAGE: usize = 3;

async fn append(log: &dyn EventLog, subject: Subject, expected: i64, types: &[&'static str]) {
    log.append(writing(vec![subject.write(expected, types)])).await.expect("a free stream");
}

/// Reads page by page until the head that was there at the start.
async fn all(log: &dyn EventLog, after: Position, filter: &Filter) -> Vec<RecordedEvent> {
    let head = log.head().await.expect("head").position;
    let (mut found, mut at) = (Vec::new(), after);
    while at < head {
        let (page, upto) = log.read(at, PAGE, filter).await.expect("read");
        assert!(page.len() <= PAGE && upto > at, "no progress at {at}");
        assert!(page.iter().all(|event| event.position > at && event.position <= upto));
        assert!(page.is_sorted_by_key(|event| event.position));
        at = upto;
        found.extend(page);
    }
    found
}

pub(super) async fn filters_walk_the_log_in_order(log: &dyn EventLog) {
    let head = log.head().await.expect("head");
    let start = head.position;
    assert!(log.common_with(head.epoch).await.expect("a read") >= start);
    for other in [0, -1, head.epoch + 1] {
        assert_eq!(log.common_with(other).await.expect("a read"), Position::START, "{other}");
    }
    let one = Subject::new();
    let (two, elsewhere) = (one.beside(), Subject::new());
    for round in 0..5 {
        append(log, one, round * 2, &["a", "b"]).await;
        append(log, two, round, &["a"]).await;
        append(log, elsewhere, round, &["c"]).await;
    }
    let everything = all(log, start, &Filter::default()).await;
    let positions: Vec<i64> = everything.iter().map(|event| event.position.0).collect();
    let dense: Vec<i64> = (start.0 + 1..=start.0 + 20).collect();
    assert_eq!(positions, dense);
    assert!(everything.is_sorted_by_key(|event| event.recorded_at));
    let seventh = log.event(everything[7].event_id).await.expect("a read");
    assert_eq!(seventh.as_ref(), Some(&everything[7]));
    assert_eq!(log.event(one.stream.0).await.expect("a read"), None, "no event has this id");

    let text = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let base = Filter::default();
    let filters: [(Filter, usize); 8] = [
        (Filter { workspace: Some(one.workspace), ..base.clone() }, 15),
        (Filter { stream: Some(one.stream), ..base.clone() }, 10),
        (Filter { workspace: Some(one.workspace), types: text(&["a"]), ..base.clone() }, 10),
        (Filter { stream: Some(one.stream), types: text(&["b"]), ..base.clone() }, 5),
        (
            Filter {
                stream: Some(one.stream),
                workspace: Some(elsewhere.workspace),
                ..base.clone()
            },
            0,
        ),
        (Filter { types: text(&["c", "b"]), ..base.clone() }, 10),
        (Filter { categories: text(&["execution"]), ..base.clone() }, 20),
        (Filter { categories: text(&["nothing"]), ..base.clone() }, 0),
    ];
    for (filter, count) in filters {
        let found = all(log, start, &filter).await;
        let expected: Vec<_> =
            everything.iter().filter(|event| filter.matches(event)).cloned().collect();
        assert_eq!(expected.len(), count, "{filter:?}");
        assert_eq!(found, expected, "{filter:?}");
        let middle = everything[9].position;
        let later = all(log, middle, &filter).await;
        let expected: Vec<_> =
            expected.into_iter().filter(|event| event.position > middle).collect();
        assert_eq!(later, expected, "{filter:?} from the middle");
    }
    let seqs: Vec<i64> = all(log, start, &Filter { workspace: Some(one.workspace), ..base })
        .await
        .iter()
        .map(|event| event.workspace_seq)
        .collect();
    assert_eq!(seqs, (1..=15).collect::<Vec<_>>());
}

pub(super) async fn a_stream_is_read_from_a_version(log: &dyn EventLog) {
    let subject = Subject::new();
    append(log, subject, 0, &["a", "b", "c", "d"]).await;
    let read = async |after, limit| {
        let events = log.read_stream(subject.stream, StreamVersion(after), limit).await;
        events.expect("read").iter().map(|event| event.version.0).collect::<Vec<_>>()
    };
    assert_eq!(read(0, 10).await, [1, 2, 3, 4]);
    assert_eq!(read(1, 2).await, [2, 3]);
    assert_eq!(read(4, 10).await, [0; 0]);
}

pub(super) async fn time_finds_a_position(log: &dyn EventLog) {
    let subject = Subject::new();
    append(log, subject, 0, &["a"]).await;
    append(log, subject, 1, &["b", "c"]).await;
    append(log, subject, 3, &["d"]).await;
    let events = log.read_stream(subject.stream, StreamVersion::NEW, 10).await.expect("read");
    let last_of = |at| events.iter().rfind(|event| event.recorded_at == at);
    for event in &events {
        let at = event.recorded_at;
        let last = last_of(at).expect("the event itself is one").position;
        assert_eq!(log.position_at(at).await.expect("look-up"), last);
        let before = log.position_at(at - TimeDelta::microseconds(1)).await.expect("look-up");
        assert!(before < event.position);
    }
    let (first, _) = log.read(Position::START, 1, &Filter::default()).await.expect("read");
    let before_all = first[0].recorded_at - TimeDelta::microseconds(1);
    assert_eq!(log.position_at(before_all).await.expect("look-up"), Position::START);
}

pub(super) async fn the_head_is_watched(log: &dyn EventLog) {
    let mut watched = log.watch_head();
    watched.borrow_and_update();
    let receipt =
        log.append(writing(vec![Subject::new().write(0, &["a"])])).await.expect("a free stream");
    // The value that `wait_for` returns is a lock on the channel: it must not be held on to.
    let heard = watched.wait_for(|head| *head >= receipt.position).await.is_ok();
    assert!(heard, "the log still stands");
    let head = log.head().await.expect("head");
    assert_eq!((head.position, head.recorded_at), (receipt.position, receipt.recorded_at));
    assert_eq!(log.head().await.expect("head").log_id, head.log_id);
}

pub(super) async fn the_tail_gives_every_event_once(log: Arc<dyn EventLog>) {
    let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
    let start = log.head().await.expect("head").position;
    let subject = Subject::new();
    append(&*log, subject, 0, &["a", "b", "c"]).await;
    let tail = Tail::start(Arc::clone(&log), &tracker, cancel.clone());
    let mut far_behind = tail.reader(start);
    let mut at_head = tail.reader(Position(start.0 + 3));
    for round in 0..20 {
        append(&*log, subject, 3 + round * 2, &["a", "b"]).await;
    }
    let last = start.0 + 43;
    for (reader, from) in [(&mut far_behind, start.0), (&mut at_head, start.0 + 3)] {
        let mut seen = Vec::new();
        while reader.position().0 < last {
            let batch = reader.next_batch(7).await.expect("the log is there");
            assert!((1..=7).contains(&batch.len()));
            seen.extend(batch.iter().map(|event| event.position.0));
        }
        assert_eq!(seen, (from + 1..=last).collect::<Vec<_>>());
    }
    cancel.cancel();
    assert!(at_head.next_batch(1).await.is_err(), "a reader does not wait for a stopped tail");
    tracker.close();
    tracker.wait().await;
}
