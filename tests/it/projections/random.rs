//! Random histories that the domain could have made: many workspaces, workflows and executions, interleaved.

use chrono::{DateTime, Utc};
use ledgerline_domain::{
    execution::{
        Attempt, CancelReason, CancelRequested, CarriedNode, Claim, ConcurrencyLimit, ErrorKind,
        ExecutionCancelled, ExecutionEvent, ExecutionFailed, ExecutionPaused, ExecutionQueued,
        ExecutionResumed, ExecutionUnpaused, ExecutionWaiting, NodeFailed, NodeOutput, NodePath,
        NodeSkipped, Origin, OriginKind, PauseReason, SkipReason, TimerFired, TimerKind, TimerSet,
        VariableSet,
    },
    id::{ExecutionId, UserId},
    permission::Role,
    workflow::{
        DraftSaved, IntakeActivated, IntakeDeactivated, IntakePaused, WorkflowArchived,
        WorkflowDeleted, WorkflowEvent, WorkflowPublished, WorkflowUnarchived, WorkflowUnpublished,
        WorkflowVersion,
    },
    workspace::{
        MemberAdded, MemberRemoved, MemberRoleChanged, WorkspaceCreated, WorkspaceEvent,
        WorkspaceRenamed,
    },
};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::json;
use uuid::Uuid;

use super::world::{
    World, begun, completed, created, draft, error, human, node_completed, node_started, requested,
};

/// A stream and what may still happen to it.
struct Stream<S> {
    id: Uuid,
    workspace: Uuid,
    version: i64,
    state: S,
}

#[derive(Default)]
struct Flow {
    drafts: i32,
    archived: bool,
}

struct Run {
    open: Vec<(String, i32)>,
    next_node: u32,
    claim: i32,
    paused: bool,
}

/// Writes a history step by step.
pub(crate) struct History {
    rng: StdRng,
    user: Uuid,
    workspaces: Vec<Stream<Vec<Uuid>>>,
    workflows: Vec<Stream<Flow>>,
    runs: Vec<Stream<Run>>,
    ended: Vec<Uuid>,
}

impl History {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            user: Uuid::now_v7(),
            workspaces: Vec::new(),
            workflows: Vec::new(),
            runs: Vec::new(),
            ended: Vec::new(),
        }
    }

    /// Some hundred events a hundred steps.
    pub(crate) async fn write(&mut self, world: &World, steps: usize) {
        for _ in 0..steps {
            match self.rng.random_range(0..100) {
                0..4 => self.workspace(world).await,
                4..12 => self.workflow(world).await,
                12..30 => self.request(world).await,
                _ => self.run(world).await,
            }
        }
    }

    async fn workspace(&mut self, world: &World) {
        let by = human(self.user);
        if self.workspaces.len() < 2 || self.rng.random_bool(0.2) {
            let id = Uuid::now_v7();
            let event: WorkspaceEvent = WorkspaceCreated {
                name: format!("Team {}", self.rng.random_range(0..9)),
                description: String::new(),
                owner: UserId(self.user),
                personal: false,
            }
            .into();
            let version = world.append(id, id, 0, &by, [event]).await;
            self.workspaces.push(Stream { id, workspace: id, version, state: Vec::new() });
            return;
        }
        let at = self.rng.random_range(0..self.workspaces.len());
        let choice = self.rng.random_range(0..4);
        let stream = &mut self.workspaces[at];
        let event: WorkspaceEvent = match (choice, stream.state.last().copied()) {
            (0, Some(user)) => {
                MemberRoleChanged { user_id: UserId(user), role: Role::Viewer }.into()
            }
            (1, Some(user)) => {
                stream.state.pop();
                MemberRemoved { user_id: UserId(user) }.into()
            }
            (2, _) => WorkspaceRenamed { name: "Renamed".into(), description: "Now".into() }.into(),
            _ => {
                let user = Uuid::now_v7();
                stream.state.push(user);
                MemberAdded { user_id: UserId(user), role: Role::Editor }.into()
            }
        };
        stream.version = world.append(stream.id, stream.id, stream.version, &by, [event]).await;
    }

    async fn workflow(&mut self, world: &World) {
        let by = human(self.user);
        if self.workspaces.is_empty() {
            return self.workspace(world).await;
        }
        if self.workflows.len() < 3 || self.rng.random_bool(0.3) {
            let workspace = self.workspaces.choose(&mut self.rng).expect("there is one").id;
            let id = Uuid::now_v7();
            let event =
                created(workspace, "Übersicht \"daily\" \\ report", &["a\"b", "ops", "{x}"]);
            let version = world.append(workspace, id, 0, &by, [event]).await;
            let state = Flow { drafts: 1, archived: false };
            self.workflows.push(Stream { id, workspace, version, state });
            return;
        }
        let at = self.rng.random_range(0..self.workflows.len());
        let choice = self.rng.random_range(0..14);
        let stream = &mut self.workflows[at];
        let event: WorkflowEvent = match choice {
            _ if stream.state.archived => {
                stream.state.archived = false;
                WorkflowUnarchived {}.into()
            }
            0 => WorkflowPublished { version: WorkflowVersion(stream.state.drafts) }.into(),
            1 => WorkflowUnpublished {}.into(),
            2 => IntakeActivated {}.into(),
            3 => IntakePaused {}.into(),
            4 => IntakeDeactivated {}.into(),
            5 => {
                stream.state.archived = true;
                WorkflowArchived {}.into()
            }
            6 => WorkflowDeleted {}.into(),
            _ => {
                stream.state.drafts += 1;
                let version = WorkflowVersion(stream.state.drafts);
                DraftSaved { version, draft: draft(&format!("Draft {version:?}"), &["new"]) }.into()
            }
        };
        let deleted = matches!(event, WorkflowEvent::WorkflowDeleted(_));
        stream.version =
            world.append(stream.workspace, stream.id, stream.version, &by, [event]).await;
        if deleted {
            self.workflows.swap_remove(at);
        }
    }

    async fn request(&mut self, world: &World) {
        let Some(flow) = self.workflows.choose(&mut self.rng) else {
            return self.workflow(world).await;
        };
        let (workspace, id) = (flow.workspace, Uuid::now_v7());
        let mut request = requested(workspace, flow.id, 6);
        if let Some(origin) = self.ended.choose(&mut self.rng)
            && self.rng.random_bool(0.3)
        {
            let output = Some(NodeOutput::Inline(json!([1, "two"]).into()));
            request.origin = Some(Origin {
                execution_id: ExecutionId(*origin),
                kind: OriginKind::Retry,
                from_node: None,
                at_version: None,
                edits: Vec::new(),
                carried: vec![
                    CarriedNode { path: NodePath("n0".into()), output, port: None, looping: None },
                    CarriedNode {
                        path: NodePath("n1".into()),
                        output: None,
                        port: None,
                        looping: None,
                    },
                ],
                variables: Vec::new(),
                signals: Vec::new(),
            });
        }
        let mut events: Vec<ExecutionEvent> = vec![request.into()];
        if self.rng.random_bool(0.4) {
            let limit = ConcurrencyLimit::new(flow.id.to_string(), 3);
            events.push(ExecutionQueued { limit }.into());
        }
        let version = world.append(workspace, id, 0, &human(self.user), events).await;
        let state = Run { open: Vec::new(), next_node: 2, claim: 0, paused: false };
        self.runs.push(Stream { id, workspace, version, state });
    }

    async fn run(&mut self, world: &World) {
        if self.runs.is_empty() {
            return self.request(world).await;
        }
        let at = self.rng.random_range(0..self.runs.len());
        let stream = &mut self.runs[at];
        let mut events = Vec::new();
        for _ in 0..self.rng.random_range(1..4) {
            if matches!(events.last(), Some(event) if ends(event)) {
                break;
            }
            stream.state.step(&mut self.rng, &mut events);
        }
        let by = human(self.user);
        let ended = events.last().is_some_and(ends);
        stream.version =
            world.append(stream.workspace, stream.id, stream.version, &by, events).await;
        if ended {
            self.ended.push(self.runs.swap_remove(at).id);
        }
    }
}

fn ends(event: &ExecutionEvent) -> bool {
    matches!(
        event,
        ExecutionEvent::ExecutionCompleted(_)
            | ExecutionEvent::ExecutionFailed(_)
            | ExecutionEvent::ExecutionCancelled(_)
    )
}

impl Run {
    fn step(&mut self, rng: &mut StdRng, events: &mut Vec<ExecutionEvent>) {
        let claim = Claim(self.claim.max(1));
        if self.claim == 0 {
            self.claim = 1;
            events.extend(begun());
            return;
        }
        if self.paused {
            self.paused = false;
            events.push(ExecutionUnpaused {}.into());
            self.claim += 1;
            let worker = format!("worker-{}", self.claim);
            events.push(ExecutionResumed { worker, claim: Claim(self.claim) }.into());
            return;
        }
        let due: DateTime<Utc> =
            DateTime::from_timestamp_micros(rng.random_range(1..1 << 50)).expect("it is in range");
        match (rng.random_range(0..24), self.open.pop()) {
            (0..9, Some((path, attempt))) => events.push(node_completed(&path, attempt)),
            (9..12, Some((path, attempt))) => {
                let retries = attempt < 3;
                events.push(failed(&path, attempt, retries.then_some(due)));
                if retries {
                    events.push(node_started(&path, attempt + 1));
                    self.open.push((path, attempt + 1));
                }
            }
            (12, Some((path, attempt))) => {
                let timer = |path: &str| (NodePath(path.to_owned()), Attempt(attempt));
                let ((at, attempt), kind) = (timer(&path), TimerKind::Wait);
                events.push(
                    TimerSet { path: at.clone(), attempt, kind, set_at: due, due_at: due }.into(),
                );
                events.push(ExecutionWaiting { claim }.into());
                events.push(TimerFired { path: at, attempt, kind }.into());
                self.open.push((path, attempt.0));
            }
            (13, open) => {
                self.open.extend(open);
                self.paused = true;
                events.push(ExecutionPaused { reason: PauseReason::User, node: None }.into());
            }
            (14, open) => {
                self.open.extend(open);
                let reason = CancelReason::StoppedByUser;
                events.push(CancelRequested { reason, without_undo: false }.into());
                events.push(ExecutionCancelled { reason, compensation: None }.into());
            }
            (15, _) => events.push(completed()),
            (16, _) => {
                let (node, compensation) = (Some(NodePath("n2".into())), None);
                let error = error(ErrorKind::Permanent, "it broke");
                events.push(ExecutionFailed { node, error, compensation }.into());
            }
            (17, open) => {
                self.open.extend(open);
                let (path, reason) = (self.path(rng), SkipReason::BranchNotTaken);
                events.push(NodeSkipped { path: NodePath(path), reason }.into());
            }
            (18, open) => {
                self.open.extend(open);
                let (path, name) = (NodePath("n2".into()), "total".to_owned());
                events.push(VariableSet { path, name, value: json!(1.50).into() }.into());
            }
            (_, open) => {
                self.open.extend(open);
                let path = self.path(rng);
                events.push(node_started(&path, 1));
                self.open.push((path, 1));
            }
        }
    }

    fn path(&mut self, rng: &mut impl Rng) -> String {
        self.next_node += 1;
        let node = format!("n{}", self.next_node);
        if rng.random_bool(0.2) { format!("each[{}]/{node}", self.next_node) } else { node }
    }
}

fn failed(path: &str, attempt: i32, retry_at: Option<DateTime<Utc>>) -> ExecutionEvent {
    NodeFailed {
        path: NodePath(path.to_owned()),
        attempt: Attempt(attempt),
        error: error(ErrorKind::Transient, "the other side is \"busy\""),
        duration_ms: 30,
        retry_at,
    }
    .into()
}
