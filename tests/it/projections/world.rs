//! A log to write histories into, and the projectors that read it.

use std::{sync::Arc, time::Duration};

use chrono::Utc;
use ledgerline_domain::{
    event::{Actor, DomainEvent, Metadata},
    execution::{
        Attempt, Claim, ErrorKind, ExecutionCompleted, ExecutionDispatched, ExecutionEvent,
        ExecutionRequested, ExecutionStarted, NodeCompleted, NodeError, NodeOutput, NodePath,
        NodeStarted, Queue, TriggerType,
    },
    id::{CorrelationId, UserId, WorkflowId, WorkspaceId},
    json::Json,
    workflow::{Draft, WorkflowCreated, WorkflowEvent, WorkflowVersion},
};
use ledgerline_projections::{self as projections, Model, Positions, ProjectorConfig};
use ledgerline_store::{
    EventLog, Intent, LogConfig, NewEvent, Position, PostgresLog, StreamId, StreamVersion,
    StreamWrite, Workspace,
};
use serde_json::json;
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::support::services::{self, TestDatabase};

/// How long a test waits for what must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A database with a log in it and the schemas of the read models.
pub(crate) struct World {
    pub(crate) pool: PgPool,
    pub(crate) log: Arc<dyn EventLog>,
    tracker: TaskTracker,
    cancel: CancellationToken,
    // Dropped last, when nobody uses it any more.
    database: TestDatabase,
}

async fn open_pool(database: &TestDatabase) -> PgPool {
    PgPoolOptions::new()
        .max_connections(12)
        .connect_with(projections::with_search_path(database.options()))
        .await
        .expect("the test's own database answers")
}

async fn open_log(
    pool: &PgPool,
    tracker: &TaskTracker,
    cancel: &CancellationToken,
) -> Arc<dyn EventLog> {
    PostgresLog::connect(pool.clone(), LogConfig::default(), tracker, cancel.clone())
        .await
        .expect("a log")
}

fn spawn_projectors(
    pool: &PgPool,
    log: &Arc<dyn EventLog>,
    owner: &str,
    tracker: TaskTracker,
    cancel: CancellationToken,
) -> Process {
    let positions = Positions::new(Arc::clone(log));
    let mut config = ProjectorConfig::new(owner);
    config.lease_ttl = Duration::from_millis(500);
    config.retry = Duration::from_millis(50);
    projections::spawn(pool, log, &positions, &config, Utc::now, &tracker, &cancel);
    Process { positions, tracker, cancel }
}

/// The projectors of what would be one process.
pub(crate) struct Process {
    pub(crate) positions: Positions,
    tracker: TaskTracker,
    cancel: CancellationToken,
}

impl Process {
    pub(crate) async fn stop(self) {
        self.cancel.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        let database = services::database().await;
        let pool = open_pool(&database).await;
        projections::prepare(&pool).await.expect("the schemas are made");
        let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
        let log = open_log(&pool, &tracker, &cancel).await;
        Self { pool, log, tracker, cancel, database }
    }

    /// Starts projectors under a name, with a lease that expires soon.
    pub(crate) fn projectors(&self, owner: &str) -> Process {
        let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
        spawn_projectors(&self.pool, &self.log, owner, tracker, cancel)
    }

    /// Starts projectors with connections of their own, so that all of it goes when the runtime that calls this goes.
    pub(crate) async fn projectors_apart(&self, owner: &str) -> Process {
        let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
        let pool = open_pool(&self.database).await;
        let log = open_log(&pool, &tracker, &cancel).await;
        spawn_projectors(&pool, &log, owner, tracker, cancel)
    }
    pub(crate) async fn head(&self) -> Position {
        self.log.head().await.expect("the head is readable").position
    }

    /// Waits until every model reflects the whole log.
    pub(crate) async fn caught_up(&self, process: &Process) -> Position {
        let head = self.head().await;
        process.positions.wait(Model::ALL, head, PATIENCE).await.expect("the projectors catch up")
    }

    /// Appends events to a stream that is at a version; returns the version after them.
    pub(crate) async fn append<E: DomainEvent>(
        &self,
        workspace: Uuid,
        stream: Uuid,
        expected: i64,
        by: &Actor,
        events: impl IntoIterator<Item = E>,
    ) -> i64 {
        let events: Vec<NewEvent> = events
            .into_iter()
            .map(|event| new_event(event.type_name(), event.schema_version(), event.payload(), by))
            .collect();
        self.append_raw(workspace, stream, expected, E::CATEGORY, events).await
    }

    /// The same for events that the domain would not make.
    pub(crate) async fn append_raw(
        &self,
        workspace: Uuid,
        stream: Uuid,
        expected: i64,
        category: &'static str,
        events: Vec<NewEvent>,
    ) -> i64 {
        let version = expected + i64::try_from(events.len()).expect("few events");
        let write = StreamWrite {
            workspace: Workspace(workspace),
            stream: StreamId(stream),
            category,
            expected: StreamVersion(expected),
            events,
        };
        let intent = Intent { writes: vec![write], ..Intent::default() };
        self.log.append(intent).await.expect("the append succeeds");
        version
    }

    pub(crate) async fn stop(self) {
        self.cancel.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

pub(crate) fn new_event(
    r#type: &'static str,
    schema_version: i16,
    payload: String,
    by: &Actor,
) -> NewEvent {
    let metadata = Metadata {
        actor: by.clone(),
        correlation_id: CorrelationId(Uuid::now_v7()),
        causation_id: None,
        trace: None,
    };
    NewEvent {
        event_id: Uuid::now_v7(),
        r#type,
        schema_version,
        payload,
        metadata: serde_json::to_string(&metadata).expect("metadata serialises"),
    }
}

pub(crate) fn human(user: Uuid) -> Actor {
    Actor::Human { user_id: UserId(user) }
}

pub(crate) fn draft(name: &str, tags: &[&str]) -> Draft {
    Draft {
        name: name.to_owned(),
        description: format!("About {name}"),
        definition: json!({ "nodes": [], "connections": [] }).into(),
        blob: None,
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        is_public: false,
    }
}

pub(crate) fn created(workspace: Uuid, name: &str, tags: &[&str]) -> WorkflowEvent {
    WorkflowCreated {
        workspace_id: WorkspaceId(workspace),
        parent_workflow_id: None,
        draft: draft(name, tags),
    }
    .into()
}

pub(crate) fn requested(workspace: Uuid, workflow: Uuid, planned_nodes: u32) -> ExecutionRequested {
    ExecutionRequested {
        workspace_id: WorkspaceId(workspace),
        workflow_id: WorkflowId(workflow),
        workflow_version: WorkflowVersion(1),
        trigger_type: TriggerType::Manual,
        input: json!({ "order": 7 }).into(),
        queue: Queue::Default,
        limits: Vec::new(),
        timeout_at: None,
        origin: None,
        trigger_node: None,
        planned_nodes,
        depth: 0,
        parent: None,
        error_workflow_id: None,
        undoes: std::collections::BTreeMap::new(),
    }
}

pub(crate) fn begun() -> [ExecutionEvent; 2] {
    [
        ExecutionDispatched { claim: Claim(1), queue: Queue::Default }.into(),
        ExecutionStarted { worker: "worker-1".to_owned(), claim: Claim(1) }.into(),
    ]
}

pub(crate) fn node_started(path: &str, attempt: i32) -> ExecutionEvent {
    NodeStarted {
        path: NodePath(path.to_owned()),
        attempt: Attempt(attempt),
        input: json!({ "url": "https://example.test/" }).into(),
        items: None,
        max_iterations: None,
        secrets: Vec::new(),
        undoes: None,
    }
    .into()
}

pub(crate) fn node_completed(path: &str, attempt: i32) -> ExecutionEvent {
    NodeCompleted {
        path: NodePath(path.to_owned()),
        attempt: Attempt(attempt),
        output: NodeOutput::Inline(Json::from_value(&json!({ "from": path, "status": 200 }))),
        port: None,
        duration_ms: 12,
        undoes: None,
    }
    .into()
}

pub(crate) fn completed() -> ExecutionEvent {
    ExecutionCompleted { output: NodeOutput::Inline(json!({ "done": true }).into()) }.into()
}

pub(crate) fn error(kind: ErrorKind, message: &str) -> NodeError {
    NodeError { kind, message: message.to_owned(), details: None }
}
