//! Whether every open execution waits for something that will come: a lease, a due time, a slot, a person.
//!
//! The list of those that don't is always empty, or there is a defect. It is looked at every so often by one process, and whenever
//! somebody asks. What the fold of slots and lines shows to be sound is believed; the others are looked at one by one, in the log.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt as _, stream};
use ledgerline_domain::{
    dispatch::{Dispatch, Why},
    execution::{Execution, WaitsFor},
    id::{ExecutionId, WorkspaceId},
};
use ledgerline_store::{StoreError, StreamId, Tail, WorkerLease};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    Commands, Lines, LoadError,
    dispatch::READER as DISPATCH,
    follow::Follower,
    lead::{Lead, Leading, StandDown, Term, TermEnd, lead_until_stopped},
};

/// The lease of the auditor.
pub const READER: &str = "auditor";

/// How often it looks.
pub const EVERY: Duration = Duration::from_secs(30);

/// How long a lease may be over, a time due or a slot free before somebody should have acted on it.
pub const GRACE: TimeDelta = TimeDelta::seconds(60);

/// Executions that are loaded one by one in one audit. Waits for what comes from outside need that, and there may be any number of them;
/// each audit begins where the one before ended.
const MAX_LOADED: usize = 5_000;

/// How many are loaded beside each other.
const CONCURRENT: usize = 32;

/// Due times that are late and looked at in one audit.
const MAX_LATE: usize = 10_000;

/// An open execution that nobody will move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// The execution.
    pub execution: ExecutionId,
    /// What it claims to wait for.
    pub waits_for: Option<WaitsFor>,
    /// Why that will not come.
    pub reason: &'static str,
}

/// What an audit came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Executions that nobody will move. There should be none.
    pub stuck: Vec<Stuck>,
    /// How many open executions were looked at.
    pub looked_at: usize,
    /// Whether these were all.
    pub complete: bool,
}

/// What of the fold an audit rests on: taken at one moment, so that the fold is not held up.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    open: Vec<Seen>,
    running: usize,
}

#[derive(Clone, Debug)]
struct Seen {
    execution: ExecutionId,
    since: DateTime<Utc>,
    why: Why,
    /// Nothing but a worker keeps it from being handed out.
    is_next: bool,
    /// Dispatch is paused where it belongs.
    is_held: bool,
}

/// The rest of what an audit rests on.
struct Facts {
    leases: Vec<WorkerLease>,
    late: HashSet<StreamId>,
    now: DateTime<Utc>,
    grace: TimeDelta,
    has_room: bool,
}

impl Survey {
    /// All open executions of a workspace, or of all.
    #[must_use]
    pub fn of(fold: &Dispatch, workspace: Option<WorkspaceId>) -> Self {
        let open = fold.open(workspace).into_iter().filter_map(|execution| {
            Some(Seen {
                execution,
                since: fold.since(execution)?,
                why: fold.why(execution)?,
                is_next: fold.is_next_by_rights(execution),
                is_held: fold.is_held(execution),
            })
        });
        Self { open: open.collect(), running: fold.running_len() }
    }

    /// The same of everything that the log holds by now, read for this one question.
    ///
    /// # Errors
    /// When the log can't be read.
    pub async fn of_log(commands: &Commands, tail: &Tail) -> Result<Self, StoreError> {
        let head = commands.log().head().await?.position;
        match Follower::<Dispatch>::restore(commands, tail, DISPATCH, head).await {
            Ok(follower) => Ok(Self::of(&follower.fold, None)),
            Err(TermEnd::StandDown(reason)) => Err(StoreError::Unavailable(reason.into())),
            Err(TermEnd::Lost | TermEnd::Stopped) => {
                Err(StoreError::Unavailable("the log could not be read to its end".into()))
            }
        }
    }
}

/// Looks at every execution of a survey. `turn` counts the audits, each of which begins where the one before ended among those that must
/// be loaded; `grace` is how late anything may be.
///
/// # Errors
/// When the log is away.
pub async fn audit(
    commands: &Commands,
    survey: &Survey,
    turn: usize,
    grace: TimeDelta,
) -> Result<Audit, LoadError> {
    let log = commands.log();
    let now = commands.clock().now();
    let away =
        |error| LoadError::from_store(StreamId(ledgerline_domain::id::derived(&[READER])), error);
    let leases = log.worker_leases().await.map_err(away)?;
    let late = log.due(now - grace, MAX_LATE).await.map_err(away)?;
    let live = leases.iter().filter(|lease| !lease.expired);
    let slots: usize = live.map(|lease| usize::try_from(lease.slots).unwrap_or(0)).sum();
    let facts = Facts {
        late: late.into_iter().map(|due| due.due.stream).collect(),
        has_room: slots > survey.running,
        leases,
        now,
        grace,
    };
    let waiting = survey.open.iter().filter(|seen| seen.why == Why::Waiting);
    let waiting: Vec<StreamId> = waiting.map(|seen| StreamId(seen.execution.0)).collect();
    let timeless: HashSet<StreamId> =
        log.without_due(&waiting).await.map_err(away)?.into_iter().collect();
    let suspects: Vec<&Seen> = survey
        .open
        .iter()
        .filter(|seen| facts.suspects(seen) || timeless.contains(&StreamId(seen.execution.0)))
        .collect();
    let first = turn.wrapping_mul(MAX_LOADED) % suspects.len().max(1);
    let turn = suspects[first..].iter().chain(&suspects[..first]).take(MAX_LOADED);
    let turn: Vec<Seen> = turn.map(|seen| (*seen).clone()).collect();
    let facts = &facts;
    let looked = stream::iter(turn).map(|seen| look_at(commands, facts, seen));
    let looked: Vec<Result<Option<Stuck>, LoadError>> =
        looked.buffer_unordered(CONCURRENT).collect().await;
    let mut stuck = Vec::new();
    for found in looked {
        stuck.extend(found?);
    }
    stuck.sort_by_key(|stuck| stuck.execution);
    let complete = suspects.len() <= MAX_LOADED;
    let unseen = suspects.len().saturating_sub(MAX_LOADED);
    Ok(Audit { stuck, looked_at: survey.open.len() - unseen, complete })
}

/// Looks at one execution as the log holds it now.
async fn look_at(
    commands: &Commands,
    facts: &Facts,
    seen: Seen,
) -> Result<Option<Stuck>, LoadError> {
    let stream = StreamId(seen.execution.0);
    let loaded = commands.load::<Execution>(seen.execution).await?;
    let timeless = commands.log().without_due(&[stream]).await;
    let timeless = timeless.map_err(|error| LoadError::from_store(stream, error))?;
    Ok(facts.judge(&seen, &loaded.state, timeless.is_empty()))
}

impl Facts {
    /// Whether something may be wrong with an execution, by what the fold shows.
    fn suspects(&self, seen: &Seen) -> bool {
        let is_late = seen.since + self.grace < self.now;
        match &seen.why {
            Why::InLine { .. } => is_late && seen.is_next && self.has_room,
            Why::Dispatched { .. } => is_late && self.has_room && !seen.is_held,
            Why::Running { worker, .. } => !seen.is_held && self.is_gone(worker),
            Why::Waiting => self.late.contains(&StreamId(seen.execution.0)),
            Why::Paused { .. } => false,
        }
    }

    /// A worker whose lease is over for so long that what it had should have been handed out again.
    fn is_gone(&self, worker: &str) -> bool {
        let lease = self.leases.iter().find(|lease| lease.worker == worker);
        lease.is_none_or(|lease| lease.expired && lease.expires_at + self.grace < self.now)
    }

    /// Why nobody will move an execution, by its own state; none for one that somebody will, or that has ended by now.
    fn judge(&self, seen: &Seen, execution: &Execution, has_time: bool) -> Option<Stuck> {
        execution.open()?;
        let waits_for = execution.waits_for();
        let reason = match &waits_for {
            None => "it waits for nothing",
            Some(WaitsFor::Slot { .. }) => match &seen.why {
                Why::InLine { .. } if self.suspects(seen) => {
                    "its slot is free, a worker has room, and nobody hands it out"
                }
                _ => return None,
            },
            Some(WaitsFor::Worker { claim }) => match &seen.why {
                Why::Dispatched { claim: handed_out, .. }
                    if claim == handed_out && self.suspects(seen) =>
                {
                    "a worker has room, nobody took its claim, and nobody hands it out again"
                }
                _ => return None,
            },
            Some(WaitsFor::Lease { worker, .. }) => {
                if seen.is_held || !self.is_gone(worker) {
                    return None;
                }
                "its worker is gone and nobody handed it out again"
            }
            Some(WaitsFor::Nodes { next_due_at: Some(due_at), .. }) => {
                if *due_at + self.grace < self.now {
                    "its time came and did not fire"
                } else if !has_time {
                    "it waits for a time that nobody keeps"
                } else {
                    return None;
                }
            }
            Some(WaitsFor::Nodes { next_due_at: None, .. } | WaitsFor::Resume { .. }) => {
                return None;
            }
        };
        Some(Stuck { execution: seen.execution, waits_for, reason })
    }
}

/// The loop that looks every so often.
pub struct Auditor {
    commands: Commands,
    lines: Lines,
    leading: Leading,
}

impl Auditor {
    /// An auditor of these commands, by these lines.
    #[must_use]
    pub fn new(commands: Commands, lines: Lines, leading: Leading) -> Self {
        Self { commands, lines, leading }
    }

    /// Leads whenever it can, until it is stopped.
    ///
    /// # Errors
    /// [`StandDown`] never: it reads nothing by itself that it may not know.
    pub async fn run(self, stop: CancellationToken) -> Result<(), StandDown> {
        lead_until_stopped(&self, self.commands.log(), &self.leading, &stop).await
    }

    async fn look(&self, turn: usize, known: &mut HashMap<ExecutionId, &'static str>) {
        let Some(survey) = self.lines.look(|fold| Survey::of(fold, None)) else { return };
        let audit = match audit(&self.commands, &survey, turn, GRACE).await {
            Ok(audit) => audit,
            Err(error) => {
                tracing::warn!(%error, "the audit of open executions waits");
                return;
            }
        };
        metrics::gauge!("ledgerline_executions_stuck")
            .set(u32::try_from(audit.stuck.len()).unwrap_or(u32::MAX));
        let found: HashMap<ExecutionId, &'static str> =
            audit.stuck.iter().map(|stuck| (stuck.execution, stuck.reason)).collect();
        for (execution, reason) in &found {
            if known.get(execution) != Some(reason) {
                tracing::error!(%execution, reason, "an open execution waits for nothing that will come");
            }
        }
        *known = found;
    }

    async fn serve(
        &self,
        term: &mut Term,
        stop: &CancellationToken,
    ) -> Result<Infallible, TermEnd> {
        let mut known = HashMap::new();
        let mut turn = 0_usize;
        metrics::gauge!("ledgerline_executions_stuck").set(0_u32);
        loop {
            term.during(stop, sleep(EVERY)).await?;
            term.during(stop, self.look(turn, &mut known)).await?;
            turn = turn.wrapping_add(1);
        }
    }
}

impl Lead for Auditor {
    const READER: &'static str = READER;

    async fn lead(&self, term: &mut Term, stop: &CancellationToken) -> TermEnd {
        let ended = match self.serve(term, stop).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        };
        // Whoever leads now says how many there are.
        metrics::gauge!("ledgerline_executions_stuck").set(0_u32);
        ended
    }
}

#[cfg(test)]
mod tests;
