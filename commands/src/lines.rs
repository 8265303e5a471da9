//! What executions wait for, as this process sees it: a fold of the log like dispatch's own, to look at.
//!
//! Any number of processes keep one; only the leader of dispatch decides by its. Beside the answers to questions, requests are let in by
//! it: a limit that refuses when it is full, and the bound of a workflow's line, are looked up here before anything is appended. What this
//! process let in and does not see in the log yet is counted as reserved, so of requests that come at once no more are let in than there
//! is room for. Requests of other processes may come in between; the leader of dispatch then ends what is too many, visibly.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ledgerline_domain::{
    dispatch::{Dispatch, Full, Hold, Why},
    event::{AnyEvent, Recorded},
    execution::{ConcurrencyLimit, ExecutionEvent},
    id::{ExecutionId, WorkflowId, WorkspaceId},
};
use ledgerline_store::{Position, Tail};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Commands,
    dispatch::READER,
    follow::Follower,
    lead::{StandDown, TermEnd},
};

/// How long a request that would be refused waits for what was appended before it came.
const LATEST: Duration = Duration::from_millis(250);

/// The wait before the fold is begun anew when the store was away.
const AGAIN: Duration = Duration::from_millis(500);

/// The slots and lines of this moment. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Lines(Arc<Shared>);

struct Shared {
    fold: Mutex<Dispatch>,
    reserved: Mutex<Reserved>,
    position: watch::Sender<Position>,
    /// Whether the fold follows the log. While it does not, nothing is answered and nothing is refused.
    follows: AtomicBool,
}

/// Requests that were let in and are not in the log yet.
#[derive(Default)]
struct Reserved {
    by: HashMap<ExecutionId, Vec<String>>,
    counts: HashMap<String, usize>,
}

/// The right to request a run, given back on drop unless its request was appended.
pub(crate) struct Admission {
    lines: Lines,
    execution: ExecutionId,
    kept: bool,
}

impl Admission {
    /// The request is in the log, and counts there once it is seen.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if !self.kept {
            self.lines.reserved().release(self.execution);
        }
    }
}

impl Default for Lines {
    fn default() -> Self {
        Self(Arc::new(Shared {
            fold: Mutex::default(),
            reserved: Mutex::default(),
            position: watch::Sender::new(Position::START),
            follows: AtomicBool::new(false),
        }))
    }
}

impl Lines {
    /// Follows the log until it is stopped.
    ///
    /// # Errors
    /// [`StandDown`] when the log holds what this process can't read.
    pub async fn follow(
        self,
        commands: Commands,
        tail: Arc<Tail>,
        stop: CancellationToken,
    ) -> Result<(), StandDown> {
        while let Some(ended) = stop.run_until_cancelled(self.keep_up(&commands, &tail)).await {
            self.0.follows.store(false, Ordering::Release);
            match ended {
                TermEnd::StandDown(reason) => return Err(reason),
                TermEnd::Lost | TermEnd::Stopped => {
                    let _stopped = stop.run_until_cancelled(sleep(AGAIN)).await;
                }
            }
        }
        Ok(())
    }

    async fn keep_up(&self, commands: &Commands, tail: &Tail) -> TermEnd {
        let checkpoint = match commands.log().checkpoint(READER).await {
            Ok(checkpoint) => checkpoint,
            Err(error) => return TermEnd::store(READER, &error),
        };
        let restored = Follower::<Dispatch>::restore(commands, tail, READER, checkpoint).await;
        let mut follower = match restored {
            Ok(follower) => follower,
            Err(ended) => return ended,
        };
        *self.fold() = std::mem::take(&mut follower.fold);
        *self.reserved() = Reserved::default();
        self.0.position.send_replace(follower.position());
        self.0.follows.store(true, Ordering::Release);
        loop {
            match follower.next().await {
                Ok(events) => self.take_in(&events),
                Err(ended) => return ended,
            }
            self.0.position.send_replace(follower.position());
        }
    }

    fn take_in(&self, events: &[Recorded<AnyEvent>]) {
        let mut fold = self.fold();
        let mut reserved = self.reserved();
        for event in events {
            fold.apply(event);
            if let AnyEvent::Execution(ExecutionEvent::ExecutionRequested(_)) = &event.event {
                reserved.release(ExecutionId(event.stream));
            }
        }
    }

    /// Waits, but not for long, until everything up to a position was seen. Answers whether it was.
    pub async fn reach(&self, position: Position) -> bool {
        let mut seen = self.0.position.subscribe();
        timeout(LATEST, seen.wait_for(|seen| *seen >= position)).await.is_ok_and(|it| it.is_ok())
    }

    /// What an execution waits for. `None` when it isn't open, or when this process does not follow the log: the execution's own state
    /// ([`ledgerline_domain::execution::Execution::waits_for`]) then says as much as can be said here.
    #[must_use]
    pub fn why(&self, execution: ExecutionId) -> Option<Why> {
        self.look(|fold| fold.why(execution)).flatten()
    }

    /// Whether and why nothing of a workspace is handed out.
    #[must_use]
    pub fn hold_of(&self, workspace: WorkspaceId) -> Option<Hold> {
        self.look(|fold| fold.hold_of(workspace).cloned()).flatten()
    }

    /// Asks the fold something. `None` while it does not follow the log.
    pub fn look<T>(&self, ask: impl FnOnce(&Dispatch) -> T) -> Option<T> {
        self.0.follows.load(Ordering::Acquire).then(|| ask(&self.fold()))
    }

    /// Lets a request in, or says why not. `None` while this process does not follow the log: whoever leads dispatch then decides.
    pub(crate) async fn admit(
        &self,
        execution: ExecutionId,
        workflow: WorkflowId,
        limits: &[ConcurrencyLimit],
        max_queued: usize,
        head: Position,
    ) -> Option<Result<Admission, Full>> {
        let tried = self.try_admit(execution, workflow, limits, max_queued)?;
        if tried.is_ok() {
            return Some(tried);
        }
        // Whoever held the slot may have let go just before this request came.
        self.reach(head).await;
        self.try_admit(execution, workflow, limits, max_queued)
    }

    fn try_admit(
        &self,
        execution: ExecutionId,
        workflow: WorkflowId,
        limits: &[ConcurrencyLimit],
        max_queued: usize,
    ) -> Option<Result<Admission, Full>> {
        self.look(|fold| {
            let mut reserved = self.reserved();
            reserved.release(execution);
            let count = |key: &str| reserved.counts.get(key).copied().unwrap_or(0);
            if let Some(full) = fold.refuses(workflow, limits, max_queued, count) {
                return Err(full);
            }
            let limits = limits.iter().map(|limit| limit.key.clone());
            reserved.take(execution, limits.chain([workflow.to_string()]).collect());
            Ok(Admission { lines: self.clone(), execution, kept: false })
        })
    }

    fn fold(&self) -> MutexGuard<'_, Dispatch> {
        self.0.fold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reserved(&self) -> MutexGuard<'_, Reserved> {
        self.0.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reserved {
    /// The keys are made one: a limit of a whole workflow has the workflow's id as its key.
    fn take(&mut self, execution: ExecutionId, mut keys: Vec<String>) {
        keys.sort_unstable();
        keys.dedup();
        for key in &keys {
            *self.counts.entry(key.clone()).or_default() += 1;
        }
        self.by.insert(execution, keys);
    }

    fn release(&mut self, execution: ExecutionId) {
        for key in self.by.remove(&execution).into_iter().flatten() {
            if let Some(count) = self.counts.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&key);
                }
            }
        }
    }
}
