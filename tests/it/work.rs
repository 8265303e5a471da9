//! Executions for workers: each dispatch reaches one, with NATS, without it, and across the change.

use std::{collections::HashSet, time::Duration};

use chrono::DateTime;
use ledgerline_nats::{
    CarrierConfig, Delivery, LiveLines, LiveLogs, Nats, Queue, WorkSource, WorkSourceConfig, work,
};
use ledgerline_store::{LogLevel, LogLine};
use uuid::Uuid;

use crate::support::{
    services,
    streams::{NatsServer, TestLog, WORKSPACE, prefix, small, within},
};

fn quick() -> CarrierConfig {
    CarrierConfig {
        lease_ttl: Duration::from_millis(600),
        backoff_ceiling: Duration::from_millis(200),
        ..CarrierConfig::new(format!("test-{}", Uuid::now_v7()))
    }
}

fn source(test: &TestLog, nats: Option<Nats>) -> WorkSource {
    let config = WorkSourceConfig { grace: Duration::from_millis(100), ..Default::default() };
    WorkSource::start(test.log.clone(), nats, config, &test.tracker, test.cancel.clone())
}

async fn take(source: &WorkSource, slots: usize) -> Vec<Delivery> {
    within(source.take(slots)).await.expect("the source runs")
}

/// Takes and acknowledges until all of these have come; returns how often each came.
async fn take_all(source: &WorkSource, expected: &[Uuid]) -> Vec<Uuid> {
    let mut missing: HashSet<Uuid> = expected.iter().copied().collect();
    let mut came = Vec::new();
    while !missing.is_empty() {
        for delivery in take(source, 8).await {
            missing.remove(&delivery.item().execution_id);
            came.push(delivery.item().execution_id);
            delivery.ack().await;
        }
    }
    came
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_dispatch_reaches_one_worker() {
    let (test, prefix) = (TestLog::new().await, prefix());
    let nats = test.connect(small(services::nats_url(), &prefix)).await;
    within(nats.ready()).await;
    work::start(test.log.clone(), nats.clone(), quick(), &test.tracker, test.cancel.clone());
    let (first, second) = (source(&test, Some(nats.clone())), source(&test, Some(nats)));
    let mut expected = HashSet::new();
    for queue in ["high", "default", "low"].into_iter().cycle().take(30) {
        expected.insert(test.dispatch(queue).await);
        test.append(3).await;
    }
    let mut came = Vec::new();
    while came.len() < expected.len() {
        let deliveries = tokio::select! {
            deliveries = take(&first, 2) => deliveries,
            deliveries = take(&second, 3) => deliveries,
        };
        assert!((1..=3).contains(&deliveries.len()), "at most what was asked for");
        for delivery in deliveries {
            assert_eq!(delivery.item().workspace_id, WORKSPACE.0);
            assert_eq!(delivery.item().claim, 1);
            came.push(delivery.item().execution_id);
            delivery.in_progress().await;
            delivery.ack().await;
        }
    }
    assert_eq!(came.len(), expected.len(), "none came twice");
    assert_eq!(came.into_iter().collect::<HashSet<_>>(), expected);
    test.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_handed_back_comes_again() {
    let (test, prefix) = (TestLog::new().await, prefix());
    let nats = test.connect(small(services::nats_url(), &prefix)).await;
    within(nats.ready()).await;
    work::start(test.log.clone(), nats.clone(), quick(), &test.tracker, test.cancel.clone());
    let with_nats = source(&test, Some(nats));
    let without = source(&test, None);
    for source in [with_nats, without] {
        let execution = test.dispatch("high").await;
        for _ in 0..3 {
            let delivery = loop {
                let mut deliveries = take(&source, 1).await;
                let delivery = deliveries.pop().expect("one item");
                if delivery.item().execution_id == execution {
                    break delivery;
                }
                delivery.ack().await;
            };
            assert_eq!(delivery.item().queue, Queue::High);
            delivery.nak(Duration::from_millis(5)).await;
        }
        take_all(&source, &[execution]).await;
    }
    test.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_nats_work_comes_from_the_log_once() {
    let test = TestLog::new().await;
    let early = test.dispatch("low").await;
    let source = source(&test, None);
    assert_eq!(take_all(&source, &[early]).await, [early]);
    let mut expected = Vec::new();
    for _ in 0..20 {
        expected.push(test.dispatch("default").await);
        test.append(5).await;
    }
    assert_eq!(take_all(&source, &expected).await, expected);
    test.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_nats_goes_away_and_comes_back() {
    let mut server = NatsServer::start();
    let (test, prefix) = (TestLog::new().await, prefix());
    let nats = test.connect(small(&server.url(), &prefix)).await;
    within(nats.ready()).await;
    let carrier =
        work::start(test.log.clone(), nats.clone(), quick(), &test.tracker, test.cancel.clone());
    let source = source(&test, Some(nats.clone()));
    let with = [test.dispatch("default").await, test.dispatch("high").await];
    take_all(&source, &with).await;

    // These are on NATS, or on their way, and no worker has them when it goes away.
    let stuck = [test.dispatch("default").await, test.dispatch("low").await];
    let head = test.append(1).await;
    let mut status = carrier.status();
    within(status.wait_for(|status| status.position >= head)).await.expect("it is carried");
    server.kill();
    within(nats.away()).await;
    let during = [test.dispatch("high").await, test.dispatch("default").await];
    let expected: Vec<Uuid> = stuck.into_iter().chain(during).collect();
    take_all(&source, &expected).await;

    server.start_again();
    within(nats.ready()).await;
    let after = [test.dispatch("low").await, test.dispatch("default").await];
    take_all(&source, &after).await;
    test.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_a_lost_server_held_is_carried_again() {
    let mut server = NatsServer::start();
    let (test, prefix) = (TestLog::new().await, prefix());
    let nats = test.connect(small(&server.url(), &prefix)).await;
    within(nats.ready()).await;
    let carrier =
        work::start(test.log.clone(), nats.clone(), quick(), &test.tracker, test.cancel.clone());
    let waiting = [test.dispatch("default").await, test.dispatch("low").await];
    let head = test.append(1).await;
    let mut status = carrier.status();
    within(status.wait_for(|status| status.position >= head)).await.expect("it is carried");
    server.lose_everything();
    within(nats.away()).await;
    server.start_again();
    within(nats.ready()).await;
    // A worker that starts now never was without NATS, so only the carrier can bring these back.
    take_all(&source(&test, Some(nats)), &waiting).await;
    test.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_lines_are_heard_once_here_and_in_another_process() {
    let (test, prefix) = (TestLog::new().await, prefix());
    let config = small(services::nats_url(), &prefix);
    let (here, there) = (test.connect(config.clone()).await, test.connect(config).await);
    within(here.ready()).await;
    within(there.ready()).await;
    let here = LiveLogs::new(Some(here), Uuid::now_v7());
    let there = LiveLogs::new(Some(there), Uuid::now_v7());
    let execution = Uuid::now_v7();
    let mut tails =
        [here.subscribe(WORKSPACE, execution).await, there.subscribe(WORKSPACE, execution).await];
    let line = |n: i64| LogLine {
        workspace_id: WORKSPACE.0,
        execution_id: execution,
        claim: 1,
        n,
        at: DateTime::UNIX_EPOCH,
        level: LogLevel::Info,
        node: "fetch".to_owned(),
        attempt: 1,
        message: format!("line {n}"),
        fields: None,
        correlation_id: None,
    };
    // A subscription of another connection may take a moment to reach the server: what is heard first is not line 1 there.
    let mut n = 0;
    for tail in &mut tails {
        let first = within(async {
            loop {
                n += 1;
                here.publish(WORKSPACE, execution, &[line(n)]).await;
                let soon = Duration::from_millis(100);
                if let Ok(Some(LiveLines::Lines(lines))) =
                    tokio::time::timeout(soon, tail.next()).await
                {
                    return lines[0].n;
                }
            }
        })
        .await;
        let mut expected = first + 1;
        for _ in 0..5 {
            n += 1;
            here.publish(WORKSPACE, execution, &[line(n)]).await;
        }
        while expected <= n {
            match within(tail.next()).await {
                Some(LiveLines::Lines(lines)) => {
                    assert_eq!(lines, [line(expected)]);
                    expected += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    test.stop().await;
}
