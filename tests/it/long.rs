//! A run with a hundred thousand events: its history is paged, and a process that never saw it goes on with it, in bounded time.

use std::{sync::Arc, time::Instant};

use ledgerline_commands::{Clock, Commands, Settings, Snapshots};
use ledgerline_domain::{
    event::{Actor, DomainEvent as _, Metadata},
    execution::{
        Attempt, Claim, Execution, ExecutionDispatched, ExecutionEvent, ExecutionStarted,
        NodeCompleted, NodeOutput, NodePath, NodeStarted, Queue,
    },
    id::CorrelationId,
};
use ledgerline_store::{
    EventLog, Intent, LogConfig, NewEvent, PostgresLog, StreamId, StreamVersion, StreamWrite,
    Workspace,
};
use serde_json::json;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::support::services;

/// Events of the run.
const EVENTS: usize = 100_000;
/// Events of one append.
const APPENDED: usize = 1_000;
/// What a page may take, and a resume. A build without optimisation is given ten times that.
const PAGE_MS: u128 = 50;
const RESUME_MS: u128 = 1_000;
const SLACK: u128 = if cfg!(debug_assertions) { 10 } else { 1 };

fn requested(workspace: Uuid) -> ExecutionEvent {
    let text = json!({
        "workspace_id": workspace, "workflow_id": Uuid::now_v7(), "workflow_version": 1,
        "trigger_type": "manual", "input": {}, "queue": "default", "planned_nodes": 1,
    });
    ExecutionEvent::ExecutionRequested(serde_json::from_value(text).expect("it has its shape"))
}

/// The history of a loop with many items that has not ended.
fn history(workspace: Uuid) -> Vec<ExecutionEvent> {
    let dispatched = ExecutionDispatched { claim: Claim(1), queue: Queue::Default };
    let started = ExecutionStarted { worker: "w".to_owned(), claim: Claim(1) };
    let mut events = vec![requested(workspace), dispatched.into(), started.into()];
    for item in 0.. {
        let path = NodePath(format!("step{item}"));
        let input = json!({"path": path, "attempt": 1, "input": {"url": "https://example.com/", "n": item}});
        let started: NodeStarted = serde_json::from_value(input).expect("it has its shape");
        let output = json!({"status": 200, "body": "x".repeat(64), "n": item});
        let completed = NodeCompleted {
            path,
            attempt: Attempt(1),
            output: NodeOutput::Inline(output.into()),
            port: None,
            duration_ms: 3,
            undoes: None,
        };
        events.extend([started.into(), completed.into()]);
        if events.len() >= EVENTS {
            events.truncate(EVENTS);
            return events;
        }
    }
    events
}

fn commands(log: &Arc<dyn EventLog>) -> Commands {
    let snapshots = Snapshots::default().with::<Execution>();
    let settings = Settings { snapshots, ..Settings::default() };
    Commands::new(Arc::clone(log), Clock::system(), settings)
}

async fn append(log: &dyn EventLog, workspace: Uuid, stream: StreamId, events: &[ExecutionEvent]) {
    let metadata = Metadata {
        actor: Actor::system("test"),
        correlation_id: CorrelationId(Uuid::now_v7()),
        causation_id: None,
        trace: None,
    };
    let metadata = serde_json::to_string(&metadata).expect("metadata is plain data");
    let mut expected = 0;
    for part in events.chunks(APPENDED) {
        let new = part.iter().map(|event| NewEvent {
            event_id: Uuid::now_v7(),
            r#type: event.type_name(),
            schema_version: event.schema_version(),
            payload: event.payload(),
            metadata: metadata.clone(),
        });
        let write = StreamWrite {
            workspace: Workspace(workspace),
            stream,
            category: ExecutionEvent::CATEGORY,
            expected: StreamVersion(expected),
            events: new.collect(),
        };
        let intent = Intent { writes: vec![write], ..Intent::default() };
        log.append(intent).await.expect("the stream is ours");
        expected += i64::try_from(part.len()).expect("a part is small");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_of_100_000_events_pages_its_history_and_resumes_in_bounded_time() {
    let database = services::database().await;
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let log =
        PostgresLog::connect(database.pool().await, LogConfig::default(), &tasks, stop.clone());
    let log: Arc<dyn EventLog> = log.await.expect("the test's database answers");
    let (workspace, stream) = (Uuid::now_v7(), StreamId(Uuid::now_v7()));
    let events = history(workspace);
    append(log.as_ref(), workspace, stream, &events).await;

    for after in [0, 199, 50_000, 99_800] {
        let asked = Instant::now();
        let page = log.read_stream(stream, StreamVersion(after), 200).await.expect("a page");
        let took = asked.elapsed().as_millis();
        assert_eq!(page.len(), 200);
        println!("a page of 200 after {after} took {took} ms");
        assert!(took <= PAGE_MS * SLACK, "a page after {after} took {took} ms");
    }

    // Whoever folds it whole leaves a snapshot for those who come after.
    let whole = commands(&log).load::<Execution>(stream.0).await.expect("it folds");
    assert_eq!(whole.version.0, i64::try_from(EVENTS).expect("it fits"));
    let asked = Instant::now();
    let resumed = commands(&log).load::<Execution>(stream.0).await.expect("it folds");
    let took = asked.elapsed().as_millis();
    println!("a resume after {EVENTS} events took {took} ms");
    assert_eq!(resumed.state, whole.state, "a snapshot is the state");
    assert!(took <= RESUME_MS * SLACK, "a resume took {took} ms");

    // At any version of the past it is what its events say, with snapshots or without.
    let plain = Commands::new(Arc::clone(&log), Clock::system(), Settings::default());
    for version in [1, 2, 777, 8_192, 65_537] {
        let at = ledgerline_commands::AsOf::Version(StreamVersion(version));
        let one = commands(&log).load_at::<Execution>(stream.0, at).await.expect("it folds");
        let other = plain.load_at::<Execution>(stream.0, at).await.expect("it folds");
        assert_eq!((one.version.0, &one.state), (version, &other.state));
    }
    stop.cancel();
}
