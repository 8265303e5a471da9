//! Live events for sockets: all of them, in order, through whatever happens to NATS.

use std::time::{Duration, Instant};

use ledgerline_nats::{CarrierConfig, Gateway, GatewayConfig, Subscription, decode, encode, relay};
use ledgerline_store::{Filter, Position};
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

/// Receives up to a position and checks that nothing is missing, doubled, out of order or other than its envelope.
async fn receive(subscription: &mut Subscription, upto: Position) {
    while subscription.position() < upto {
        let expected = subscription.position().next();
        let event = within(subscription.recv()).await.expect("an event");
        assert_eq!(event.position, expected);
        let envelope = decode(&event.bytes).expect("an envelope");
        assert_eq!(envelope.position, event.position);
        assert_eq!((envelope.stream, envelope.workspace), (event.stream, event.workspace));
        assert_eq!((&*envelope.category, &*envelope.r#type), (&*event.category, &*event.r#type));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_9_every_position_comes_in_order_through_a_crash_of_nats() {
    let mut server = NatsServer::start();
    let (test, prefix) = (TestLog::new().await, prefix());
    test.append(5).await;
    let nats = test.connect(small(&server.url(), &prefix)).await;
    let carrier =
        relay::start(test.log.clone(), nats.clone(), quick(), &test.tracker, test.cancel.clone());
    let gateway = Gateway::start(
        test.log.clone(),
        Some(nats),
        GatewayConfig::default(),
        &test.tracker,
        test.cancel.clone(),
    );
    let mut subscription = within(gateway.subscribe()).await.expect("a subscription");
    assert_eq!(subscription.position(), Position(5));
    for round in 0..60 {
        let head = test.append(20).await;
        match round {
            20 => server.kill(),
            40 => server.start_again(),
            _ => {}
        }
        receive(&mut subscription, head).await;
        assert_eq!(gateway.position(), head);
    }
    let head = test.log.head().await.expect("a head").position;
    let mut status = carrier.status();
    within(status.wait_for(|status| status.position == head)).await.expect("the relay catches up");
    let head = test.append(20).await;
    receive(&mut subscription, head).await;
    test.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hole_is_filled_from_the_log_and_doubles_are_dropped() {
    let (test, prefix) = (TestLog::new().await, prefix());
    let nats = test.connect(small(services::nats_url(), &prefix)).await;
    within(nats.ready()).await;
    // Nothing but a message from NATS makes this gateway look at the log, and only this test publishes.
    let only_nats = GatewayConfig {
        patience: Duration::from_hours(1),
        floor: Duration::from_hours(1),
        ..GatewayConfig::default()
    };
    let (tracker, cancel) = (&test.tracker, test.cancel.clone());
    let gateway = Gateway::start(test.log.clone(), Some(nats), only_nats, tracker, cancel);
    let mut subscription = within(gateway.subscribe()).await.expect("a subscription");
    let client = async_nats::connect(services::nats_url()).await.expect("the server is up");
    let jetstream = async_nats::jetstream::new(client);
    let mut stream = jetstream.get_stream(prefix.events_stream()).await.expect("it is declared");
    within(async { while stream.info().await.expect("it answers").state.consumer_count == 0 {} })
        .await;

    test.append(10).await;
    let filter = Filter::default();
    let (events, _) = test.log.read(Position::START, 10, &filter).await.expect("events");
    let source = gateway.source().expect("the log was reached").clone();
    for index in [2, 0, 1, 2, 5, 4, 5, 9] {
        let event = &events[index];
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(relay::POSITION_HEADER, event.position.to_string());
        let bytes = encode(event, &source).into();
        let ack = jetstream.publish_with_headers(prefix.event(event), headers, bytes).await;
        ack.expect("it is sent").await.expect("it is stored");
        receive(&mut subscription, event.position).await;
    }
    assert_eq!(subscription.position(), Position(10));
    test.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_nats_the_log_feeds_it_and_a_follower_joins_without_a_hole() {
    let test = TestLog::new().await;
    test.append(700).await;
    let gateway = Gateway::start(
        test.log.clone(),
        None,
        GatewayConfig { buffer: 16, ..GatewayConfig::default() },
        &test.tracker,
        test.cancel.clone(),
    );
    let filter = Filter { types: vec!["execution_dispatched".to_owned()], ..Filter::default() };
    let mut all = within(gateway.follow(Position(3), Filter::default())).await.expect("a follower");
    let mut dispatches = within(gateway.follow(Position::START, filter)).await.expect("a follower");
    let mut expected = Vec::new();
    for _ in 0..10 {
        // More than the live buffer holds: a follower that is too slow goes back to the log.
        test.append(30).await;
        expected.push(test.dispatch("default").await);
    }
    let head = test.log.head().await.expect("a head").position;
    for position in 4..=head.0 {
        assert_eq!(within(all.next()).await.expect("an event").position, Position(position));
    }
    for execution in expected {
        assert_eq!(within(dispatches.next()).await.expect("an event").stream.0, execution);
    }
    test.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_hears_soon_after_the_commit() {
    let (test, prefix) = (TestLog::new().await, prefix());
    let nats = test.connect(small(services::nats_url(), &prefix)).await;
    relay::start(test.log.clone(), nats.clone(), quick(), &test.tracker, test.cancel.clone());
    let gateway = Gateway::start(
        test.log.clone(),
        Some(nats),
        GatewayConfig::default(),
        &test.tracker,
        test.cancel.clone(),
    );
    let mut subscription = within(gateway.subscribe()).await.expect("a subscription");
    let mut latencies = Vec::new();
    for _ in 0..300 {
        let head = test.append(1).await;
        let committed = Instant::now();
        receive(&mut subscription, head).await;
        latencies.push(committed.elapsed());
    }
    latencies.sort_unstable();
    let (p50, p99) = (latencies[150], latencies[297]);
    println!("commit to subscriber: p50 {p50:?}, p99 {p99:?}");
    // Far above what is measured on an idle machine: a guard against a path that waits for an interval.
    assert!(p50 < Duration::from_millis(50), "p50 {p50:?}");
    test.stop().await;
}
