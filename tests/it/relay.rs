//! From the log to the stream of events: every event once and in order, whatever is killed in between.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use futures_util::StreamExt;
use ledgerline_nats::{
    Carrier, CarrierConfig, CarrierState, Nats, Prefix, Queue, Subject, decode, relay,
};
use ledgerline_store::{LogConfig, Position, PostgresLog};
use sqlx::postgres::PgPoolOptions;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::support::{
    services,
    streams::{NatsServer, TestLog, prefix, small, within},
};

fn quick() -> CarrierConfig {
    CarrierConfig {
        lease_ttl: Duration::from_millis(600),
        backoff_ceiling: Duration::from_millis(200),
        ..CarrierConfig::new(format!("test-{}", Uuid::now_v7()))
    }
}

async fn carried(relay: &Carrier, position: Position) {
    let mut status = relay.status();
    within(status.wait_for(|status| status.position >= position)).await.expect("the relay runs");
}

async fn leads(relay: &Carrier) {
    let mut status = relay.status();
    within(status.wait_for(|status| status.state == CarrierState::Leading))
        .await
        .expect("the relay runs");
}

/// The positions on the stream, in its order, checked against subject, header and envelope.
pub(crate) async fn stored(url: &str, prefix: &Prefix) -> Vec<i64> {
    let client = async_nats::connect(url).await.expect("the server is up");
    let jetstream = async_nats::jetstream::new(client);
    let mut stream = jetstream.get_stream(prefix.events_stream()).await.expect("it is declared");
    let messages = stream.info().await.expect("it answers").state.messages;
    let count = usize::try_from(messages).expect("few messages");
    let consumer = stream
        .create_consumer(pull::Config { ack_policy: AckPolicy::None, ..Default::default() })
        .await
        .expect("a consumer");
    let mut messages = consumer.messages().await.expect("messages").take(count);
    let mut positions = Vec::with_capacity(count);
    while let Some(message) = within(messages.next()).await {
        let message = message.expect("a message");
        let headers = message.headers.as_ref().expect("headers");
        let event = decode(&message.payload).expect("an envelope");
        let position = headers.get(relay::POSITION_HEADER).expect("a position").as_str();
        assert_eq!(position, event.position.to_string());
        assert_eq!(headers.get(relay::TYPE_HEADER).expect("a type").as_str(), event.r#type);
        assert_eq!(headers.get("Nats-Msg-Id").expect("an id").as_str(), event.event_id.to_string());
        assert_eq!(message.subject.as_str(), prefix.event(&event));
        positions.push(event.position.0);
    }
    positions
}

async fn start(test: &TestLog, nats: &Nats, config: CarrierConfig) -> Carrier {
    relay::start(test.log.clone(), nats.clone(), config, &test.tracker, test.cancel.clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_is_on_the_stream_once_and_in_order_through_a_crash_of_nats() {
    let mut server = NatsServer::start();
    let (test, prefix) = (TestLog::new().await, prefix());
    let nats = test.connect(small(&server.url(), &prefix)).await;
    let mut head = Position::START;
    for _ in 0..6 {
        head = test.append(1_000).await;
    }
    let relay = start(&test, &nats, CarrierConfig { batch: 10, ..quick() }).await;
    carried(&relay, Position(1_000)).await;
    // It takes no more, and the relay goes on until its window is full of what will be lost.
    server.freeze();
    for _ in 0..20 {
        head = test.append(5).await;
    }
    server.kill();
    assert!(relay.status().borrow().position < head);
    server.start_again();
    carried(&relay, head).await;
    assert_eq!(head, Position(6_100));
    assert_eq!(stored(&server.url(), &prefix).await, (1..=head.0).collect::<Vec<_>>());
    test.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crashed_relay_had_published_is_not_stored_twice() {
    let (test, prefix) = (TestLog::new().await, prefix());
    let nats = test.connect(small(services::nats_url(), &prefix)).await;
    let head = test.append(900).await;
    // A runtime that is thrown away is a process that dies: nothing is saved and no lease released.
    let doomed = tokio::runtime::Runtime::new().expect("a runtime");
    let never_saves = CarrierConfig { checkpoint_every: Duration::from_hours(1), ..quick() };
    // With connections of its own: one that a dead runtime opened is of no use to anybody else.
    let (options, its_nats) = (test.database(), nats.clone());
    let started = doomed.spawn(async move {
        let pool = PgPoolOptions::new().connect_with(options).await.expect("the database");
        let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
        let log = PostgresLog::connect(pool, LogConfig::default(), &tracker, cancel.clone());
        let log = log.await.expect("the database answers");
        relay::start(log, its_nats, never_saves, &tracker, cancel)
    });
    let relay = started.await.expect("it starts");
    carried(&relay, head).await;
    doomed.shutdown_background();
    assert_eq!(test.log.checkpoint(relay::READER).await.expect("a checkpoint"), Position::START);

    let head = test.append(100).await;
    let successor = start(&test, &nats, quick()).await;
    carried(&successor, head).await;
    assert_eq!(stored(services::nats_url(), &prefix).await, (1..=head.0).collect::<Vec<_>>());
    test.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_relay_leads_and_another_takes_over() {
    let (test, prefix) = (TestLog::new().await, prefix());
    let nats = test.connect(small(services::nats_url(), &prefix)).await;
    let stop_first = CancellationToken::new();
    let first =
        relay::start(test.log.clone(), nats.clone(), quick(), &test.tracker, stop_first.clone());
    leads(&first).await;
    let second = start(&test, &nats, quick()).await;
    let head = test.append(10).await;
    carried(&first, head).await;
    assert_eq!(second.status().borrow().state, CarrierState::Standby);
    stop_first.cancel();
    leads(&second).await;
    let head = test.append(10).await;
    carried(&second, head).await;
    assert_eq!(stored(services::nats_url(), &prefix).await, (1..=head.0).collect::<Vec<_>>());
    test.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_events_are_carried_after_nats_lost_its_data() {
    let mut server = NatsServer::start();
    let (test, prefix) = (TestLog::new().await, prefix());
    let nats = test.connect(small(&server.url(), &prefix)).await;
    let relay = start(&test, &nats, quick()).await;
    let before = test.append(100).await;
    carried(&relay, before).await;
    let mut saved = relay.status();
    within(async {
        while test.log.checkpoint(relay::READER).await.expect("a checkpoint") < before {
            // The checkpoint is saved a moment after the status moves, without a further change of it.
            let _moved = tokio::time::timeout(Duration::from_millis(20), saved.changed()).await;
        }
    })
    .await;
    server.lose_everything();
    let head = test.append(100).await;
    server.start_again();
    carried(&relay, head).await;
    assert_eq!(stored(&server.url(), &prefix).await, (before.0 + 1..=head.0).collect::<Vec<_>>());
    test.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_was_deleted_is_declared_again() {
    let (test, prefix) = (TestLog::new().await, prefix());
    let nats = test.connect(small(services::nats_url(), &prefix)).await;
    let relay = start(&test, &nats, quick()).await;
    let before = test.append(10).await;
    carried(&relay, before).await;
    let client = async_nats::connect(services::nats_url()).await.expect("the server is up");
    let jetstream = async_nats::jetstream::new(client);
    jetstream.delete_stream(prefix.events_stream()).await.expect("it is there");
    let head = test.append(10).await;
    carried(&relay, head).await;
    let stored = stored(services::nats_url(), &prefix).await;
    assert!(stored.ends_with(&(before.0 + 1..=head.0).collect::<Vec<_>>()), "{stored:?}");
    // The other stream and its consumers were left as they were.
    let work = jetstream.get_stream(prefix.work_stream()).await.expect("it is declared");
    for queue in Queue::ALL {
        let subject = prefix.subject(&Subject::Work(queue));
        let consumer = work.consumer_info(queue.as_str()).await.expect("it is declared");
        assert_eq!(consumer.config.filter_subject, subject);
    }
    test.stop().await;
}
