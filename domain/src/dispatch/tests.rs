//! Slots and lines, by example and against a model.

use chrono::TimeDelta;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::{
    Aggregate,
    event::{Actor, Metadata},
    execution::{
        Awaited, CancelReason, Execution, ExecutionCommand, LimitStrategy, Outcome, PauseReason,
        Queue, Report, RequestExecution, Step, TimerKind, TriggerType, WaitsFor,
    },
    id::{CorrelationId, EventId, WorkflowId, WorkspaceId},
    json::Json,
    workflow::WorkflowVersion,
};

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
}

fn id(number: usize) -> ExecutionId {
    ExecutionId(Uuid::from_u128(number as u128 + 1))
}

/// A log with its executions, and the fold that follows it.
#[derive(Default)]
struct Log {
    position: i64,
    executions: HashMap<ExecutionId, Execution>,
    dispatch: Dispatch,
    /// Recorded and not applied yet.
    unseen: Vec<Recorded<AnyEvent>>,
}

impl Log {
    fn tell(&mut self, execution: ExecutionId, command: ExecutionCommand) -> bool {
        let state = self.executions.entry(execution).or_default();
        let Ok(events) = state.decide(&command, at(self.position)) else { return false };
        for event in events {
            *state = std::mem::take(state).evolve(&event);
            self.position += 1;
            self.unseen.push(Recorded {
                position: self.position,
                stream: execution.0,
                version: self.position,
                workspace: Uuid::nil(),
                event_id: EventId(Uuid::from_u128(self.position as u128)),
                recorded_at: at(self.position),
                metadata: Metadata {
                    actor: Actor::system("test"),
                    correlation_id: CorrelationId(Uuid::nil()),
                    causation_id: None,
                    trace: None,
                },
                event: AnyEvent::Execution(event),
            });
        }
        true
    }

    fn see(&mut self, count: usize) {
        let count = count.min(self.unseen.len());
        for event in self.unseen.drain(..count) {
            self.dispatch.apply(&event);
        }
    }

    fn see_all(&mut self) {
        self.see(usize::MAX);
    }

    fn request(&mut self, number: usize, key: &str, limit: u32, workspace: u128, queue: Queue) {
        let limits = (limit > 0).then(|| ConcurrencyLimit::new(key, limit)).into_iter().collect();
        self.request_under(number, limits, workspace, queue);
    }

    fn request_under(
        &mut self,
        number: usize,
        limits: Vec<ConcurrencyLimit>,
        workspace: u128,
        queue: Queue,
    ) {
        let request = RequestExecution {
            workspace_id: WorkspaceId(Uuid::from_u128(workspace)),
            workflow_id: WorkflowId(Uuid::nil()),
            workflow_version: WorkflowVersion(1),
            trigger_type: TriggerType::Manual,
            input: Json::null(),
            queue,
            limits,
            held: self.dispatch.hold_of(WorkspaceId(Uuid::from_u128(workspace))).is_some(),
            timeout_ms: None,
            origin: None,
            trigger_node: None,
            planned_nodes: 1,
            depth: 0,
            parent: None,
            error_workflow_id: None,
            undoes: std::collections::BTreeMap::new(),
        };
        assert!(self.tell(id(number), ExecutionCommand::Request(Box::new(request))));
    }

    /// Makes the decisions and carries them out.
    fn decide(&mut self, max: usize) -> Vec<ExecutionId> {
        let mut dispatched = Vec::new();
        for decision in self.dispatch.decisions(max) {
            let (execution, command) = match decision {
                DispatchDecision::Queue { execution, limit } => {
                    (execution, ExecutionCommand::Queue { limit })
                }
                DispatchDecision::Dispatch { execution, claim } => {
                    dispatched.push(execution);
                    (execution, ExecutionCommand::Dispatch { claim })
                }
                DispatchDecision::Cancel { execution, reason } => {
                    (execution, ExecutionCommand::Cancel { reason })
                }
            };
            if !self.tell(execution, command) {
                self.dispatch.forget(execution);
            }
        }
        dispatched
    }

    fn report(&mut self, execution: ExecutionId, steps: Vec<Step>) -> bool {
        let Some(open) = self.executions[&execution].open() else { return false };
        let (claim, interventions) = (open.claim, open.interventions);
        let worker = format!("worker-{}", execution.0.as_u128() % 3);
        let report = Report { worker, claim, interventions, steps };
        self.tell(execution, ExecutionCommand::Report(report))
    }

    fn finish(&mut self, execution: ExecutionId) -> bool {
        let output = crate::execution::NodeOutput::Inline(Json::null());
        self.report(execution, vec![Step::Finish(Outcome::Completed { output })])
    }

    fn wait(&mut self, execution: ExecutionId, node: &str) -> bool {
        let step = Step::Wait {
            path: node.into(),
            attempt: crate::execution::Attempt(1),
            input: Json::null(),
            awaited: Awaited::Time,
            until: Some(at(0)),
        };
        self.report(execution, vec![step, Step::LetGo])
    }

    fn fire(&mut self, execution: ExecutionId) -> bool {
        let due = self.executions[&execution]
            .run()
            .and_then(|run| run.active().next().map(|(path, node)| (path.clone(), node.attempt)));
        let Some((path, attempt)) = due else { return false };
        let command = ExecutionCommand::FireTimer { path, attempt, kind: TimerKind::Wait };
        self.tell(execution, command)
    }

    /// Who holds a slot of a limit, by the log itself.
    fn holders(&self, key: &str) -> usize {
        let holds = |execution: &&Execution| {
            let limits = execution.run().map_or(&[][..], |run| &run.request.limits);
            limits.iter().any(|limit| limit.key == key)
                && matches!(
                    execution.waits_for(),
                    Some(WaitsFor::Worker { .. } | WaitsFor::Lease { .. })
                )
        };
        self.executions.values().filter(holds).count()
    }

    /// Whether each execution waits for what this fold says it does.
    fn agrees(&self) -> bool {
        self.executions.iter().all(|(id, execution)| {
            match (execution.waits_for(), self.dispatch.why(*id)) {
                (Some(WaitsFor::Slot { resumed, .. }), Some(Why::InLine { resumed: head, .. })) => {
                    resumed == head
                }
                (Some(WaitsFor::Worker { claim }), Some(Why::Dispatched { claim: seen, .. })) => {
                    claim == seen
                }
                (
                    Some(WaitsFor::Lease { worker, claim }),
                    Some(Why::Running { worker: seen_worker, claim: seen }),
                ) => (worker, claim) == (seen_worker, seen),
                (Some(WaitsFor::Nodes { .. }), Some(Why::Waiting)) | (None, None) => true,
                (Some(WaitsFor::Resume { reason, .. }), Some(Why::Paused { reason: seen })) => {
                    reason == seen
                }
                (_, _) => false,
            }
        })
    }
}

#[test]
fn a_line_is_first_come_first_served_and_says_who_is_before() {
    let mut log = Log::default();
    for number in 0..4 {
        log.request(number, "one", 2, 1, Queue::Default);
    }
    log.see_all();
    assert_eq!(log.decide(10), [id(0), id(1)]);
    assert_eq!(log.dispatch.decisions(10), [], "decided and not seen yet");
    log.see_all();
    assert_eq!(log.dispatch.decisions(10), []);
    assert_eq!(
        log.dispatch.why(id(3)),
        Some(Why::InLine {
            lines: vec![Standing {
                limit: ConcurrencyLimit::new("one", 2),
                place: 2,
                full: true,
                held: 2,
                holders: vec![id(0), id(1)],
            }],
            resumed: false,
        })
    );
    assert!(log.finish(id(1)));
    log.see_all();
    assert_eq!(log.decide(10), [id(2)]);
    assert_eq!(log.dispatch.why(id(1)), None);
    assert_eq!(log.dispatch.len(), 3);
}

#[test]
fn who_waits_in_a_line_is_told_once() {
    let mut log = Log::default();
    log.request(0, "one", 1, 1, Queue::Default);
    log.request(1, "one", 1, 1, Queue::Default);
    log.see_all();
    let limit = ConcurrencyLimit::new("one", 1);
    assert_eq!(
        log.dispatch.decisions(10),
        [
            DispatchDecision::Dispatch { execution: id(0), claim: Claim(1) },
            DispatchDecision::Queue { execution: id(1), limit: limit.clone() },
        ]
    );
    assert_eq!(log.dispatch.decisions(10), []);
    log.dispatch.forget(id(1));
    assert_eq!(
        log.dispatch.decisions(10),
        [DispatchDecision::Queue { execution: id(1), limit: limit.clone() }]
    );
    log.tell(id(1), ExecutionCommand::Queue { limit });
    log.see_all();
    assert_eq!(log.dispatch.decisions(10), []);
}

#[test]
fn a_run_that_waits_gives_its_slot_and_comes_back_at_the_head() {
    let mut log = Log::default();
    for number in 0..3 {
        log.request(number, "one", 1, 1, Queue::High);
    }
    log.see_all();
    assert_eq!(log.decide(10), [id(0)]);
    assert!(log.wait(id(0), "pause"));
    log.see_all();
    assert_eq!(log.dispatch.why(id(0)), Some(Why::Waiting));
    assert_eq!(log.decide(10), [id(1)]);
    assert!(log.fire(id(0)));
    log.see_all();
    let Some(Why::InLine { lines, resumed: true }) = log.dispatch.why(id(0)) else {
        panic!("it is not at the head")
    };
    assert_eq!(lines[0].place, 1);
    assert_eq!(log.decide(10), []);
    assert!(log.finish(id(1)));
    log.see_all();
    assert_eq!(log.decide(10), [id(0)], "before the third, which never ran");
}

#[test]
fn queues_share_by_weight() {
    let mut log = Log::default();
    for number in 0..30 {
        let queue = [Queue::High, Queue::Default, Queue::Low][number % 3];
        log.request(number, "many", 100, 1, queue);
    }
    log.see_all();
    let chosen = log.decide(7);
    let of = |queue: usize| {
        chosen.iter().filter(|execution| (execution.0.as_u128() - 1) as usize % 3 == queue).count()
    };
    assert_eq!([of(0), of(1), of(2)], [4, 2, 1]);
}

#[test]
fn workspaces_take_turns() {
    let mut log = Log::default();
    for number in 0..10 {
        log.request(number, "large", 100, 1, Queue::Default);
    }
    log.request(10, "small", 100, 2, Queue::Default);
    log.request(11, "small", 100, 2, Queue::Default);
    log.see_all();
    assert_eq!(log.decide(4), [id(0), id(10), id(1), id(11)]);
}

#[test]
fn a_slot_is_held_until_the_paused_worker_lets_go() {
    let mut log = Log::default();
    log.request(0, "one", 1, 1, Queue::Default);
    log.request(1, "one", 1, 1, Queue::Default);
    log.see_all();
    log.decide(10);
    log.report(id(0), Vec::new());
    log.tell(id(0), ExecutionCommand::Pause { reason: PauseReason::User });
    log.see_all();
    assert_eq!(log.decide(10), []);
    log.report(id(0), vec![Step::LetGo]);
    log.see_all();
    assert_eq!(log.dispatch.why(id(0)), Some(Why::Paused { reason: PauseReason::User }));
    assert_eq!(log.decide(10), [id(1)]);
}

#[test]
fn a_refused_dispatch_holds_no_slot() {
    let mut log = Log::default();
    log.request(0, "one", 1, 1, Queue::Default);
    log.request(1, "one", 1, 1, Queue::Default);
    log.see_all();
    log.tell(id(0), ExecutionCommand::Cancel { reason: CancelReason::StoppedByUser });
    assert_eq!(log.decide(10), [id(0)], "the cancel is not seen yet");
    log.see_all();
    assert_eq!(log.decide(10), [id(1)]);
}

#[test]
fn lost_workers_and_untaken_claims_are_listed() {
    let mut log = Log::default();
    for number in 0..3 {
        log.request(number, "none", 0, 1, Queue::Default);
    }
    log.report(id(0), Vec::new());
    log.see_all();
    assert_eq!(log.dispatch.workers().collect::<Vec<_>>(), ["worker-1"]);
    assert_eq!(log.dispatch.claims_of("worker-1"), [(id(0), Claim(1))]);
    assert_eq!(log.dispatch.claims_of("worker-9"), []);
    assert_eq!(log.dispatch.untaken_len(), 2);
    assert_eq!(log.dispatch.untaken(at(4)), [(id(1), Claim(1))]);
    let running = Why::Running { worker: "worker-1".to_owned(), claim: Claim(1) };
    assert_eq!(log.dispatch.why(id(0)), Some(running));
    log.finish(id(0));
    log.tell(id(1), ExecutionCommand::Redispatch { claim: Claim(1) });
    log.see_all();
    assert_eq!(log.dispatch.workers().count(), 0);
    assert_eq!(log.dispatch.untaken(at(100)), [(id(2), Claim(1)), (id(1), Claim(2))]);
}

fn workflow_limit(key: &str, limit: u32, strategy: LimitStrategy) -> ConcurrencyLimit {
    ConcurrencyLimit { strategy, ..ConcurrencyLimit::new(key, limit) }
}

fn workspace_limit(workspace: u128, limit: u32) -> ConcurrencyLimit {
    ConcurrencyLimit::of_workspace(WorkspaceId(Uuid::from_u128(workspace)), limit)
}

#[test]
fn a_run_needs_a_slot_of_each_of_its_limits() {
    let mut log = Log::default();
    for number in 0..4 {
        let flow = ConcurrencyLimit::new(["a", "b"][number % 2], 1);
        log.request_under(number, vec![flow, workspace_limit(1, 1)], 1, Queue::Default);
    }
    log.request_under(4, vec![ConcurrencyLimit::new("c", 1)], 2, Queue::Default);
    log.see_all();
    assert_eq!(log.decide(10), [id(0), id(4)], "the workspace has one slot, the other its own");
    log.see_all();
    let Some(Why::InLine { lines, .. }) = log.dispatch.why(id(3)) else { panic!("it waits") };
    let shown: Vec<_> =
        lines.iter().map(|line| (line.place, line.full, line.holders.clone())).collect();
    assert_eq!(shown, [(2, false, vec![]), (3, true, vec![id(0)])]);
    assert!(!log.dispatch.is_next_by_rights(id(3)));
    assert!(log.finish(id(0)));
    log.see_all();
    assert!(log.dispatch.is_next_by_rights(id(1)));
    assert_eq!(log.decide(10), [id(1)]);
}

#[test]
fn a_line_that_is_full_holds_up_no_other_of_its_workspace() {
    let mut log = Log::default();
    for number in 0..6 {
        let flow = ConcurrencyLimit::new(if number < 4 { "busy" } else { "idle" }, 1);
        log.request_under(number, vec![flow, workspace_limit(1, 3)], 1, Queue::Default);
    }
    log.see_all();
    assert_eq!(log.decide(10), [id(0), id(4)]);
}

#[test]
fn where_the_limit_says_so_the_newest_run_takes_the_slot_of_the_oldest() {
    let mut log = Log::default();
    let limit = workflow_limit("one", 1, LimitStrategy::CancelRunning);
    for number in 0..4 {
        log.request_under(number, vec![limit.clone()], 1, Queue::Default);
        log.see_all();
        log.decide(10);
        log.see_all();
        log.report(id(number), Vec::new());
        log.see_all();
        if number > 0 {
            // The one before was told to end, and keeps its slot until it has.
            let before = log.executions[&id(number - 1)].open().expect("it is open").phase.clone();
            let told = crate::execution::Intent::Cancel(CancelReason::Superseded);
            assert!(
                matches!(before, crate::execution::Phase::Running { intent, .. } if intent == told)
            );
            assert!(log.report(id(number - 1), vec![Step::Finish(Outcome::Cancelled)]));
            log.see_all();
            assert_eq!(log.decide(10), [id(number)]);
            log.see_all();
            log.report(id(number), Vec::new());
            log.see_all();
        }
    }
    assert_eq!(log.dispatch.len(), 1, "the newest stays");
    // Three at once: the running one and the first two of them make way for the last.
    for number in 4..7 {
        log.request_under(number, vec![limit.clone()], 1, Queue::Default);
    }
    log.see_all();
    log.decide(10);
    log.see_all();
    let cancelled = |number: usize| log.executions[&id(number)].status();
    assert_eq!(cancelled(4), Some(crate::execution::Status::Cancelled));
    assert_eq!(cancelled(5), Some(crate::execution::Status::Cancelled));
    assert_eq!(log.dispatch.len(), 2);
    assert!(log.report(id(3), vec![Step::Finish(Outcome::Cancelled)]));
    log.see_all();
    assert_eq!(log.decide(10), [id(6)]);
}

#[test]
fn where_the_limit_says_so_whoever_finds_no_slot_is_cancelled() {
    for strategy in [LimitStrategy::CancelNewest, LimitStrategy::Reject] {
        let mut log = Log::default();
        for number in 0..5 {
            let limit = workflow_limit("one", 2, strategy);
            log.request_under(number, vec![limit], 1, Queue::Default);
        }
        log.see_all();
        assert_eq!(log.decide(10), [id(0), id(1)]);
        log.see_all();
        for number in 2..5 {
            let Execution::Cancelled { reason, .. } = log.executions[&id(number)] else {
                panic!("{number} is not cancelled")
            };
            assert_eq!(reason, CancelReason::LimitReached);
        }
        // One that ran and waits to go on is no newcomer: it waits at the head, whatever the strategy is.
        log.report(id(0), Vec::new());
        assert!(log.wait(id(0), "pause"));
        log.see_all();
        log.request_under(5, vec![workflow_limit("one", 2, strategy)], 1, Queue::Default);
        log.see_all();
        assert_eq!(log.decide(10), [id(5)]);
        assert!(log.fire(id(0)));
        log.see_all();
        assert_eq!(log.decide(10), []);
        log.see_all();
        assert!(matches!(log.dispatch.why(id(0)), Some(Why::InLine { resumed: true, .. })));
    }
}

#[test]
fn a_request_is_refused_when_the_limit_or_the_line_is_full() {
    let mut log = Log::default();
    let limit = workflow_limit("one", 2, LimitStrategy::Reject);
    let workflow = WorkflowId(Uuid::nil());
    let refuses = |log: &Log, reserved: usize| {
        log.dispatch.refuses(workflow, std::slice::from_ref(&limit), 3, |_| reserved)
    };
    assert_eq!(refuses(&log, 0), None);
    assert_eq!(refuses(&log, 2), Some(Full::Limit(limit.clone())), "others are on their way");
    log.request_under(0, vec![limit.clone()], 1, Queue::Default);
    log.see_all();
    assert_eq!(refuses(&log, 0), None);
    log.request_under(1, vec![limit.clone()], 1, Queue::Default);
    log.see_all();
    assert_eq!(refuses(&log, 0), Some(Full::Limit(limit.clone())));
    log.request(2, "other", 1, 1, Queue::Default);
    log.see_all();
    let full = log.dispatch.refuses(workflow, &[], 3, |_| 0);
    assert_eq!(full, Some(Full::Queue { waiting: 3, max: 3 }));
    log.decide(10);
    log.report(id(0), Vec::new());
    log.see_all();
    assert_eq!(log.dispatch.queued(workflow), 2, "the one that a worker took waits no more");
}

/// An event of a workspace or of the deployment.
fn note(log: &mut Log, stream: Uuid, event: AnyEvent) {
    log.position += 1;
    log.dispatch.apply(&Recorded {
        position: log.position,
        stream,
        version: log.position,
        workspace: Uuid::nil(),
        event_id: EventId(Uuid::from_u128(log.position as u128)),
        recorded_at: at(log.position),
        metadata: Metadata {
            actor: Actor::system("somebody"),
            correlation_id: CorrelationId(Uuid::nil()),
            causation_id: None,
            trace: None,
        },
        event,
    });
}

#[test]
fn nothing_of_a_paused_workspace_or_deployment_is_chosen() {
    let mut log = Log::default();
    let workspace = Uuid::from_u128(1);
    let reason = Some("why not".to_owned());
    let paused = crate::workspace::DispatchPaused { reason: reason.clone() };
    note(&mut log, workspace, AnyEvent::Workspace(paused.into()));
    for number in 0..4 {
        log.request(number, "none", if number < 2 { 0 } else { 5 }, 1, Queue::Default);
    }
    log.request(4, "other", 5, 2, Queue::Default);
    log.see_all();
    assert_eq!(log.decide(10), [id(4)], "what no limit concerns waits as well");
    let hold = log.dispatch.hold_of(WorkspaceId(workspace)).expect("it is held");
    assert_eq!((hold.reason.clone(), hold.since), (reason, at(1)));
    let text = serde_json::to_string(&log.dispatch).expect("plain data");
    log.dispatch = serde_json::from_str(&text).expect("it was written like that");
    log.see_all();
    let all = AnyEvent::Deployment(crate::deployment::DispatchPaused { reason: None }.into());
    note(&mut log, Uuid::from_u128(9), all);
    let resumed = AnyEvent::Workspace(crate::workspace::DispatchResumed {}.into());
    note(&mut log, workspace, resumed);
    log.see_all();
    assert_eq!(log.decide(10), []);
    // The claims of a lost worker wait as well, but for one that is to end.
    log.report(id(4), Vec::new());
    log.see_all();
    assert_eq!(log.dispatch.claims_of("worker-2"), []);
    log.tell(id(4), ExecutionCommand::Cancel { reason: CancelReason::StoppedByUser });
    log.see_all();
    assert_eq!(log.dispatch.claims_of("worker-2"), [(id(4), Claim(1))]);
    let resumed = AnyEvent::Deployment(crate::deployment::DispatchResumed {}.into());
    note(&mut log, Uuid::from_u128(9), resumed);
    assert_eq!(log.decide(10), [id(0), id(1), id(2), id(3)]);
}

#[test]
fn a_flood_of_one_workspace_does_not_keep_another_waiting() {
    let mut log = Log::default();
    for number in 0..2_000 {
        log.request(number, "flood", 50, 1, Queue::High);
    }
    for number in 2_000..2_010 {
        let workspace = 2 + (number % 3) as u128;
        log.request(number, "modest", 50, workspace, Queue::Default);
    }
    log.see_all();
    // Workers have room for two at a time, and finish them.
    let mut served = Vec::new();
    while served.len() < 40 {
        let chosen = log.decide(2);
        assert!(!chosen.is_empty(), "somebody waits and slots are free");
        for execution in chosen {
            served.push(execution);
            log.see_all();
            assert!(log.finish(execution));
        }
        log.see_all();
    }
    let modest = served.iter().filter(|execution| execution.0.as_u128() > 2_000).count();
    assert_eq!(modest, 10, "two thousand runs of a better queue are before them by age");
}

proptest! {
    #[test]
    fn a_limit_is_never_over_filled_and_everybody_gets_a_turn(
        script in prop::collection::vec((0_u8..12, any::<u8>()), 1..200),
    ) {
        let mut log = Log::default();
        let mut requested = 0;
        for (action, number) in script {
            let number = usize::from(number);
            let execution = id(number % usize::max(requested, 1));
            match action {
                0..=2 => {
                    let (key, limit) = [("a", 1), ("b", 2), ("c", 3), ("", 0)][number % 4];
                    let queue = [Queue::High, Queue::Default, Queue::Low][number % 3];
                    let workspace = (number % 5) as u128;
                    let strategy = [
                        LimitStrategy::Queue,
                        LimitStrategy::Queue,
                        LimitStrategy::CancelRunning,
                        LimitStrategy::CancelNewest,
                    ][number % 16 / 4];
                    let mut limits = Vec::new();
                    if limit > 0 {
                        limits.push(workflow_limit(key, limit, strategy));
                    }
                    if workspace == 1 {
                        limits.push(workspace_limit(1, 2));
                    }
                    log.request_under(requested, limits, workspace, queue);
                    requested += 1;
                }
                3 => log.see(number % 8),
                4 | 5 => {
                    // The decisions of one call are answered before the next event is applied.
                    log.decide(number % 6);
                }
                _ if requested == 0 => {}
                6 => _ = log.finish(execution),
                7 => _ = log.wait(execution, &format!("wait{number}")),
                8 => _ = log.fire(execution),
                9 => {
                    let reason = PauseReason::User;
                    let unpaused = !log.executions[&execution].is_waiting() && number > 128;
                    let command = if unpaused {
                        ExecutionCommand::Pause { reason }
                    } else {
                        ExecutionCommand::Unpause { reason }
                    };
                    log.tell(execution, command);
                }
                10 => {
                    let reason = CancelReason::StoppedByUser;
                    log.tell(execution, ExecutionCommand::Cancel { reason });
                }
                _ => {
                    // A new process goes on from the checkpoint once it caught up.
                    let text = serde_json::to_string(&log.dispatch).expect("plain data");
                    log.dispatch = serde_json::from_str(&text).expect("it was written like that");
                    log.see_all();
                }
            }
            let of_workspace = workspace_limit(1, 2).key;
            for (key, limit) in [("a", 1), ("b", 2), ("c", 3), (of_workspace.as_str(), 2)] {
                prop_assert!(log.holders(key) <= limit, "limit {key} is over-filled");
            }
        }
        log.see_all();
        prop_assert!(log.agrees(), "the fold of one and the fold of all say the same");
        for _ in 0..requested * 8 {
            log.see_all();
            log.decide(100);
            log.see_all();
            for number in 0..requested {
                let execution = id(number);
                let reason = PauseReason::User;
                match log.executions[&execution].waits_for() {
                    None | Some(WaitsFor::Slot { .. }) => {}
                    Some(WaitsFor::Worker { .. }) => _ = log.report(execution, Vec::new()),
                    Some(WaitsFor::Lease { .. }) => {
                        let paused = vec![Step::LetGo];
                        let cancelled = vec![Step::Finish(Outcome::Cancelled)];
                        _ = log.finish(execution)
                            || log.report(execution, paused)
                            || log.report(execution, cancelled);
                    }
                    Some(WaitsFor::Nodes { .. }) => _ = log.fire(execution),
                    Some(WaitsFor::Resume { .. }) => {
                        log.tell(execution, ExecutionCommand::Unpause { reason });
                    }
                }
            }
        }
        log.see_all();
        prop_assert!(log.executions.values().all(Execution::has_ended));
        prop_assert!(log.dispatch.is_empty(), "nothing is kept of what ended");
        prop_assert_eq!(log.dispatch.untaken_len(), 0);
        prop_assert_eq!(log.dispatch.workers().count(), 0);
        prop_assert_eq!(log.dispatch.queued(WorkflowId(Uuid::nil())), 0);
    }
}
