//! Those outside of the deployment whom runs wait for: people who answer, programs that signal, and workers in other languages, who may be
//! slow, silent or late, and who report under leases that are long over.

use std::collections::BTreeSet;

use ledgerline_commands::{Commands, Context, Target, due::due_key};
use ledgerline_domain::{
    event::Actor,
    execution::{
        AnswerApproval, Awaited, ErrorKind, Execution, ExecutionCommand, ExecutionEvent, NodeError,
        NodeOutput, NodePath, NodeState, Run, TaskLease, TaskOutcome, TaskRef, TimerKind, Waiting,
    },
    id::{ExecutionId, UserId},
    json::Json,
    permission::Role,
};
use ledgerline_store::{DueTime, StreamId};
use uuid::Uuid;

use crate::{checker::Checker, dice::Dice, graphs::SIGNAL};

/// A task that a worker was given: it keeps the lease for ever, whatever becomes of it.
#[derive(Clone, Debug)]
struct Given {
    execution: ExecutionId,
    task: TaskRef,
    lease: TaskLease,
}

/// Everybody outside.
pub(crate) struct Outside {
    client: Commands,
    dice: Dice,
    given: Vec<Given>,
    /// Reports that were answered with yes.
    pub(crate) acknowledged: BTreeSet<(ExecutionId, NodePath, i32, TaskLease)>,
}

fn context() -> Context {
    Context::new(Actor::system("outside"))
}

/// The nodes of a run that wait, with what for.
fn waits(run: &Run) -> impl Iterator<Item = (&NodePath, TaskRef, &Waiting)> {
    run.active().filter_map(|(path, node)| {
        let NodeState::Waiting(waiting) = &node.state else { return None };
        let task = TaskRef { path: path.clone(), attempt: node.attempt };
        Some((path, task, &**waiting))
    })
}

impl Outside {
    pub(crate) fn new(client: Commands, dice: Dice) -> Self {
        Self { client, dice, given: Vec::new(), acknowledged: BTreeSet::new() }
    }

    async fn tell(
        &self,
        id: ExecutionId,
        command: ExecutionCommand,
    ) -> Option<Vec<ExecutionEvent>> {
        // Refused or lost: the log says what came of it.
        let context = context();
        let told = self.client.execute::<Execution>(Target::existing(id), &command, &context).await;
        told.ok().map(|executed| executed.events)
    }

    /// Somebody answers whatever a run asks.
    pub(crate) async fn answer(&self, id: ExecutionId, execution: &Execution) {
        let Some(run) = execution.run() else { return };
        let asks = |(path, _, waiting): (&NodePath, _, &Waiting)| {
            matches!(waiting.awaited, Awaited::Approval(_)).then(|| path.clone())
        };
        for path in waits(run).filter_map(asks) {
            let decision = if self.dice.once_in(3) { "rejected" } else { "approved" };
            let answer = AnswerApproval {
                path,
                decision: decision.to_owned(),
                values: Json::from_value(&serde_json::json!({})),
                comment: None,
                by: UserId(Uuid::from_u128(1)),
                role: Role::Owner,
            };
            self.tell(id, ExecutionCommand::AnswerApproval(answer)).await;
        }
    }

    /// A program signals a run, whether that waits for it or not.
    pub(crate) async fn signal(&self, id: ExecutionId) {
        let payload = Json::from_value(&serde_json::json!(self.dice.below(100)));
        self.tell(id, ExecutionCommand::Signal { name: SIGNAL.to_owned(), payload }).await;
    }

    /// A worker asks for a task: two of them for the same one, now and then.
    pub(crate) async fn take(&mut self, checker: &Checker) {
        let mut offered = Vec::new();
        for (id, execution) in &checker.executions {
            let run = execution.open().map(|open| &open.run);
            for (_, task, waiting) in run.into_iter().flat_map(waits) {
                if matches!(&waiting.awaited, Awaited::Task(task) if task.worker.is_none()) {
                    offered.push((*id, task));
                }
            }
        }
        let Some((execution, task)) = self.dice.of(&offered).cloned() else { return };
        let take = |worker: &str| ExecutionCommand::TakeTask {
            task: task.clone(),
            worker: worker.to_owned(),
        };
        let (one, other) = if self.dice.once_in(3) {
            tokio::join!(biased; self.tell(execution, take("a")), self.tell(execution, take("b")))
        } else {
            (self.tell(execution, take("a")).await, None)
        };
        for events in [one, other].into_iter().flatten() {
            let lease = events.iter().find_map(|event| match event {
                ExecutionEvent::TaskTaken(taken) => Some(taken.lease),
                _ => None,
            });
            self.given.extend(lease.map(|lease| Given { execution, task: task.clone(), lease }));
        }
    }

    /// A worker reports, maybe long after its task was given to somebody else.
    pub(crate) async fn report(&mut self) {
        if let Some(given) = self.dice.of(&self.given).cloned() {
            self.finish(given).await;
        }
    }

    /// The worker who took a task last reports.
    pub(crate) async fn finish_last(&mut self) {
        if let Some(given) = self.given.last().cloned() {
            self.finish(given).await;
        }
    }

    async fn finish(&mut self, given: Given) {
        let outcome = match self.dice.below(5) {
            0 => TaskOutcome::Failed(NodeError {
                kind: ErrorKind::Transient,
                message: "by chance".to_owned(),
                details: None,
            }),
            1 => TaskOutcome::Failed(NodeError {
                kind: ErrorKind::Permanent,
                message: "by chance".to_owned(),
                details: None,
            }),
            _ => TaskOutcome::Completed(NodeOutput::Inline(Json::null())),
        };
        let Given { execution, task, lease } = given;
        let command = ExecutionCommand::FinishTask { task: task.clone(), lease, outcome };
        if self.tell(execution, command).await.is_some() {
            let report = (execution, task.path, task.attempt.0, lease);
            let is_first = self.acknowledged.insert(report.clone());
            assert!(is_first, "the same report is taken in twice: {report:?}");
        }
    }

    /// A worker says that it lives, as the route for it does.
    pub(crate) async fn beat(&self) {
        let Some(given) = self.dice.of(&self.given) else { return };
        let Ok(loaded) = self.client.load::<Execution>(given.execution).await else { return };
        let Ok(held) = loaded.state.held_task(&given.task, given.lease) else { return };
        let due_at = held.lease_until(self.client.clock().now());
        let (stream, task) = (StreamId(given.execution.0), &given.task);
        let due = due_key(stream, TimerKind::TaskLease, &task.path, task.attempt);
        // Where it can't be moved it stays, and the worker asks again.
        let _moved = self.client.log().move_due(&DueTime { due_at, due }).await;
    }

    /// Everything that one run waits for from outside is given.
    pub(crate) async fn serve(&mut self, id: ExecutionId, execution: &Execution) {
        self.answer(id, execution).await;
        let run = execution.run();
        let signals = run.into_iter().flat_map(waits);
        let signals =
            signals.filter(|(_, _, waiting)| matches!(waiting.awaited, Awaited::Signal { .. }));
        for _ in 0..signals.count() {
            self.signal(id).await;
        }
    }
}
