//! One execution in this worker: fold, ask what comes next, perform, append, until it ends or is let go of.
//!
//! One task owns the run. Outcomes that arrive while its append is in flight go into the next one together. Whatever it loses, the
//! log has: after a conflict it reads again and plans again, and under a newer claim it stands down.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use ledgerline_commands::{CommandError, Context, LoadError, Target};
use ledgerline_domain::{
    event::Actor,
    execution::{
        Attempt, Claim, ErrorKind, Execution, ExecutionCommand, ExecutionRejection, NodeError,
        NodePath, NodeState, Planner, Report,
    },
    expression::Veil,
    id::ExecutionId,
    json::Json,
    node::Resolved,
    vault::SecretName,
};
use ledgerline_nats::{Delivery, WorkItem};
use ledgerline_store::LogLevel;
use serde_json::json;
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    definitions::{Definition, DefinitionError},
    log_lines::RunLines,
    mask::Mask,
    nodes::{Try, perform},
    round::{Begin, Beginning, Planned, RoundEnd, Tried, plan},
    values::{cleaned, failure},
    worker::Shared,
};

/// How long effects get to end by themselves after an abort; then they are dropped, which ends them as well.
const ABORT_PATIENCE: Duration = Duration::from_millis(700);
/// How long an item that can't be worked on now rests before it is delivered again.
const REST: Duration = Duration::from_millis(500);
/// How often in a row the state may turn out to be another before the item is handed back.
const MAX_REPLANS: u32 = 50;

/// What tells a run that something happened outside it.
pub(crate) struct Signals {
    /// Somebody else wrote its stream.
    pub(crate) heard: Arc<Notify>,
    /// The process is going down: begin nothing, hand back what does not end in time.
    pub(crate) drain: CancellationToken,
    /// The worker's lease is lost or the time to drain is over: drop everything.
    pub(crate) abandon: CancellationToken,
}

/// Why a run's task stops before the run does.
enum Stop {
    /// Somebody else has it, or it has ended.
    StandDown,
    /// The process can't go on with it: let it be delivered again.
    HandBack,
}

/// Runs a delivered execution as far as this worker can.
pub(crate) async fn run(shared: Arc<Shared>, delivery: Delivery, signals: Signals) {
    let item = *delivery.item();
    let (abandon, drain) = (signals.abandon.clone(), signals.drain.clone());
    let mut delivery = Some(delivery);
    let outcome = tokio::select! {
        outcome = Running::go(&shared, item, signals, &mut delivery) => outcome,
        () = abandon.cancelled() => Err(Stop::HandBack),
    };
    match (outcome, delivery) {
        (Err(Stop::HandBack), Some(delivery)) => delivery.nak(REST).await,
        (_, Some(delivery)) => delivery.ack().await,
        (Err(Stop::HandBack), None) => {
            // A process that is going down need not: its lease ends with it.
            let _going_down = drain.run_until_cancelled(give_back(&shared, item)).await;
        }
        (_, None) => {}
    }
}

/// Has a claim that was taken handed out again. The lease of this process goes on, so nobody else would ever miss the run.
async fn give_back(shared: &Shared, item: WorkItem) {
    let command = ExecutionCommand::Redispatch { claim: Claim(item.claim) };
    let context = Context::new(Actor::system("worker"));
    let target = Target::existing(item.execution_id);
    loop {
        // What made it impossible to go on may need a moment to pass.
        tokio::time::sleep(REST).await;
        match shared.commands.execute::<Execution>(target, &command, &context).await {
            Ok(_) => return,
            Err(error) if error.may_pass() => {
                tracing::warn!(execution = %item.execution_id, %error, "a run can't be given back now");
            }
            Err(error) => {
                tracing::error!(execution = %item.execution_id, %error, "a run can't be given back");
                return;
            }
        }
    }
}

struct Running<'a> {
    shared: &'a Arc<Shared>,
    item: WorkItem,
    signals: Signals,
    definition: Arc<Definition>,
    base: Arc<Execution>,
    planner: Planner,
    facts: Json,
    lines: RunLines,
    tried: Vec<Tried>,
    effects: JoinSet<Tried>,
    /// Lines of failures that wait for room on the way to the table.
    explaining: JoinSet<()>,
    under_way: HashMap<NodePath, CancellationToken>,
    replans: u32,
}

impl<'a> Running<'a> {
    async fn go(
        shared: &'a Arc<Shared>,
        item: WorkItem,
        signals: Signals,
        delivery: &mut Option<Delivery>,
    ) -> Result<(), Stop> {
        let Some(mut running) = Self::take_up(shared, item, signals).await? else { return Ok(()) };
        loop {
            if running.turned_back() {
                running.abort().await;
            }
            let planned = running.round().await?;
            if planned.abort {
                running.abort().await;
            }
            let (over, more) = (planned.over, planned.more);
            if running.append(planned).await? {
                // The claim is taken: from here the lease row and the log say who works on it, not the queue.
                if let Some(delivery) = delivery.take() {
                    delivery.ack().await;
                }
                if over {
                    running.explained().await;
                    return Ok(());
                }
                if more {
                    continue;
                }
            } else {
                continue;
            }
            if running.signals.drain.is_cancelled() && running.effects.is_empty() {
                running.explained().await;
                return Ok(());
            }
            running.wait().await?;
        }
    }

    /// Loads the run, and answers `None` when this delivery is of no use any more.
    async fn take_up(
        shared: &'a Arc<Shared>,
        item: WorkItem,
        signals: Signals,
    ) -> Result<Option<Self>, Stop> {
        let claim = Claim(item.claim);
        let mut loaded = shared
            .commands
            .load_cached::<Execution>(item.execution_id)
            .await
            .map_err(|error| shared.hand_back(&error))?;
        if loaded.state.open().is_none_or(|open| open.claim != claim) {
            loaded = shared
                .commands
                .load::<Execution>(item.execution_id)
                .await
                .map_err(|error| shared.hand_back(&error))?;
        }
        let Some(open) = loaded.state.open().filter(|open| open.claim == claim) else {
            return Ok(None);
        };
        let request = &open.run.request;
        let edits = request.origin.as_ref().map_or(&[][..], |origin| &origin.edits);
        let (workflow, version) = (request.workflow_id, request.workflow_version);
        let definition = match shared.definitions.get(workflow, version, edits).await {
            Ok(definition) => definition,
            Err(DefinitionError::Load(error)) => return Err(shared.hand_back(&error)),
            Err(error @ DefinitionError::Unusable(_)) => {
                return Self::refuse(shared, item, &loaded.state, error.to_string())
                    .await
                    .map(|()| None);
            }
        };
        let correlation = loaded.origin.map(|origin| origin.correlation_id.0);
        let facts = json!({
            "id": item.execution_id, "trigger_type": request.trigger_type, "workflow_version": request.workflow_version,
            "origin": request.origin.as_ref().map(|origin| origin.execution_id),
        });
        Ok(Some(Self {
            lines: shared.lines.run(item.workspace_id, item.execution_id, item.claim, correlation),
            planner: Planner::new(Arc::clone(&definition.plan)),
            base: loaded.state,
            facts: Json::from_value(&facts),
            tried: Vec::new(),
            effects: JoinSet::new(),
            explaining: JoinSet::new(),
            under_way: HashMap::new(),
            replans: 0,
            shared,
            item,
            signals,
            definition,
        }))
    }

    /// Ends a run whose definition can't be run by this build.
    async fn refuse(
        shared: &Shared,
        item: WorkItem,
        state: &Execution,
        message: String,
    ) -> Result<(), Stop> {
        use ledgerline_domain::execution::Step;
        let error = failure(ErrorKind::Permanent, message);
        let report = Report {
            worker: shared.settings().worker.clone(),
            claim: Claim(item.claim),
            interventions: state.interventions(),
            steps: vec![Step::GiveUp { error }],
        };
        match shared.report(item.execution_id, report).await {
            Ok(_) => Ok(()),
            Err(CommandError::Load(error)) => Err(shared.hand_back(&error)),
            Err(_) => Err(Stop::HandBack),
        }
    }

    /// Plans what is appended next with the blobs that it needs, off the async threads unless it is quick.
    async fn round(&mut self) -> Result<Planned, Stop> {
        let mut beginning = Beginning {
            base: Arc::clone(&self.base),
            planner: self.planner.clone(),
            definition: Arc::clone(&self.definition),
            worker: self.shared.settings().worker.clone(),
            claim: Claim(self.item.claim),
            execution: ExecutionId(self.item.execution_id),
            tried: self.tried.clone(),
            blobs: HashMap::new(),
            facts: self.facts.clone(),
            env: Arc::clone(&self.shared.env),
            veil: Veil::new(rand::random()),
            now: self.shared.commands.clock().now(),
            under_way: self.under_way.keys().cloned().collect(),
            draining: self.signals.drain.is_cancelled(),
        };
        loop {
            let planning = move || {
                let begun = Instant::now();
                let end = plan(&beginning);
                beginning.definition.pace.note(begun.elapsed());
                (beginning, end)
            };
            let planned = if self.definition.pace.is_quick() {
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(planning)).ok()
            } else {
                tokio::task::spawn_blocking(planning).await.ok()
            };
            let (returned, end) = planned.ok_or_else(|| {
                tracing::error!(execution = %self.item.execution_id, "planning a round failed");
                Stop::HandBack
            })?;
            beginning = returned;
            match end {
                RoundEnd::Planned(planned) => return Ok(*planned),
                RoundEnd::NeedsBlobs(hashes) => {
                    self.load_blobs(hashes, &mut beginning.blobs).await?
                }
                RoundEnd::StandDown(rejection) => return Err(self.stand_down(&rejection)),
            }
        }
    }

    async fn load_blobs(
        &self,
        hashes: Vec<String>,
        blobs: &mut HashMap<String, Json>,
    ) -> Result<(), Stop> {
        for hash in hashes.into_iter().collect::<HashSet<_>>() {
            let content = self.shared.commands.log().blob(&hash).await.map_err(|error| {
                tracing::warn!(execution = %self.item.execution_id, %error, "a blob can't be read now");
                Stop::HandBack
            })?;
            let value = content
                .and_then(|content| String::from_utf8(content).ok())
                .and_then(|text| Json::parse(&text).ok());
            let Some(value) = value else {
                tracing::error!(execution = %self.item.execution_id, %hash, "a blob that an event names is missing or no JSON");
                return Err(Stop::HandBack);
            };
            blobs.insert(hash, value);
        }
        Ok(())
    }

    /// Appends a round and begins its effects. False when the state turned out to be another: plan again.
    async fn append(&mut self, planned: Planned) -> Result<bool, Stop> {
        for large in &planned.blobs {
            if let Err(error) = self.shared.commands.log().put_blob(&large.0).await {
                tracing::warn!(execution = %self.item.execution_id, %error, "a large value can't be stored now");
                return self.again().await;
            }
        }
        // Only what is in the log has happened: a round that is planned again must not be explained twice.
        let failures = failures(&planned.report);
        match self.shared.report(self.item.execution_id, planned.report).await {
            Ok(state) => {
                self.base = state;
                self.planner = planned.planner;
                self.tried.clear();
                self.replans = 0;
                self.explain(failures);
                for begin in planned.begin {
                    self.begin(begin);
                }
                Ok(true)
            }
            Err(CommandError::Rejected(
                rejection @ (ExecutionRejection::ClaimLost { .. }
                | ExecutionRejection::Ended(_)
                | ExecutionRejection::NotRequested),
            )) => Err(self.stand_down(&rejection)),
            Err(CommandError::Invalid { reason }) => {
                tracing::error!(execution = %self.item.execution_id, %reason, "the log refuses what the run did");
                Err(Stop::HandBack)
            }
            Err(CommandError::Load(error @ LoadError::UnknownEvent { .. })) => {
                Err(self.shared.hand_back(&error))
            }
            Err(error) => {
                tracing::debug!(execution = %self.item.execution_id, %error, "planning again");
                self.again().await
            }
        }
    }

    /// Reads the run anew, because somebody else wrote it or the log was away.
    async fn again(&mut self) -> Result<bool, Stop> {
        self.replans += 1;
        if self.replans > MAX_REPLANS {
            return Err(Stop::HandBack);
        }
        if self.replans > 3 {
            tokio::time::sleep(Duration::from_millis(u64::from(self.replans) * 20)).await;
        }
        let loaded = self.shared.commands.load::<Execution>(self.item.execution_id).await;
        let state = match loaded {
            Ok(loaded) => loaded.state,
            Err(error @ LoadError::Unavailable(_)) => {
                tracing::warn!(execution = %self.item.execution_id, %error, "waiting for the log");
                tokio::time::sleep(REST).await;
                return Ok(false);
            }
            Err(error) => return Err(self.shared.hand_back(&error)),
        };
        self.base = state;
        self.planner = Planner::new(Arc::clone(&self.definition.plan));
        Ok(false)
    }

    fn begin(&mut self, begin: Begin) {
        let cancel = CancellationToken::new();
        self.under_way.insert(begin.path.clone(), cancel.clone());
        let of = Try {
            equipment: Arc::clone(&self.shared.equipment),
            workspace: self.item.workspace_id,
            execution: self.item.execution_id,
            path: begin.path.clone(),
            attempt: begin.attempt,
            now: self.shared.commands.clock().now(),
            lines: self.lines.clone(),
            timeout_ms: begin.timeout_ms,
            holds_secrets: !begin.secrets.is_empty(),
            mask: Arc::new(Mask::none()),
            cancel,
            used: Arc::default(),
        };
        let named = Arc::clone(&self.definition.secrets);
        let Begin { resolved, veil, secrets, timeout_ms, .. } = begin;
        self.effects.spawn(effect(of, Veiled { resolved, veil, secrets, named }, timeout_ms));
    }

    /// Waits until there is something to plan for.
    async fn wait(&mut self) -> Result<(), Stop> {
        let is_draining = self.signals.drain.is_cancelled();
        tokio::select! {
            biased;
            Some(ended) = self.effects.join_next(), if !self.effects.is_empty() => self.note(ended)?,
            () = self.signals.heard.notified() => {
                self.again().await?;
                self.replans = 0;
            }
            () = self.signals.drain.cancelled(), if !is_draining => {}
        }
        while let Some(ended) = self.effects.try_join_next() {
            self.note(ended)?;
        }
        Ok(())
    }

    fn note(&mut self, ended: Result<Tried, tokio::task::JoinError>) -> Result<(), Stop> {
        match ended {
            Ok(tried) => {
                self.under_way.remove(&tried.path);
                self.tried.push(tried);
                Ok(())
            }
            // Perform's panics are caught where it runs, so this is the rest of the task; waiting for its outcome would never end.
            Err(error) => {
                tracing::error!(execution = %self.item.execution_id, %error, "an effect's task ended without an outcome");
                Err(Stop::HandBack)
            }
        }
    }

    /// Whether the run undoes what it did since somebody else ended it, e.g. its time limit, while effects of it were under way here.
    fn turned_back(&self) -> bool {
        let open = self.base.open().filter(|open| open.undoing().is_some());
        open.is_some_and(|open| {
            let runs = |path: &NodePath| {
                let node = open.run.nodes.get(path);
                node.is_some_and(|node| node.state == NodeState::Running(open.claim))
            };
            self.under_way.keys().any(|path| !runs(path))
        })
    }

    /// Ends every effect that is under way. Their outcomes are of no use any more.
    async fn abort(&mut self) {
        for cancel in self.under_way.values() {
            cancel.cancel();
        }
        let ended = async { while self.effects.join_next().await.is_some() {} };
        if tokio::time::timeout(ABORT_PATIENCE, ended).await.is_err() {
            self.effects.shutdown().await;
        }
        self.under_way.clear();
        self.tried.clear();
    }

    /// Prints a line for each failure that was recorded. Where the way to the table is full they wait beside the run, which must
    /// still hear of a cancel.
    fn explain(&mut self, failures: Vec<Failure>) {
        for Failure { level, path, attempt, message, fields } in failures {
            let line = self.lines.numbered(level, path.as_str(), attempt.0, &message, fields);
            if let Some(line) = self.lines.try_send(line) {
                let lines = self.lines.clone();
                self.explaining.spawn(async move { lines.send(line).await });
            }
        }
        while self.explaining.try_join_next().is_some() {}
    }

    /// Waits until every failure has been explained.
    async fn explained(&mut self) {
        while self.explaining.join_next().await.is_some() {}
    }

    fn stand_down(&self, rejection: &ExecutionRejection) -> Stop {
        tracing::debug!(execution = %self.item.execution_id, %rejection, "standing down");
        Stop::StandDown
    }
}

/// A failure as whoever reads the lines of a run sees it.
struct Failure {
    level: LogLevel,
    path: NodePath,
    attempt: Attempt,
    message: String,
    fields: Option<serde_json::Value>,
}

/// The failures that a report records.
fn failures(report: &Report) -> Vec<Failure> {
    use ledgerline_domain::execution::{AfterFailure, Step};
    let failure = |step: &Step| {
        let Step::Fail { path, attempt, error, then, .. } = step else { return None };
        let (level, what) = match then {
            AfterFailure::Retry { at } => (
                LogLevel::Warning,
                format!(
                    "failed, next try at {}",
                    at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
                ),
            ),
            AfterFailure::Continue { .. } => {
                (LogLevel::Warning, "failed, and the run goes on without it".to_owned())
            }
            AfterFailure::Pause => {
                (LogLevel::Error, "failed, and the run pauses until somebody decides".to_owned())
            }
            AfterFailure::Stop => (LogLevel::Error, "failed".to_owned()),
        };
        Some(Failure {
            level,
            path: path.clone(),
            attempt: *attempt,
            message: format!("{what}: {}", error.message),
            fields: error.details.as_ref().map(Json::to_value),
        })
    };
    report.steps.iter().filter_map(failure).collect()
}

/// What an effect is done with, before the secrets are in it.
struct Veiled {
    resolved: Resolved,
    veil: Veil,
    /// The secrets that it names.
    secrets: Vec<SecretName>,
    /// The secrets that any node of its workflow names: each is masked, whoever it comes back to.
    named: Arc<[SecretName]>,
}

/// One try from its beginning to its outcome, never longer than its time, never a panic, and without a secret in what it gives.
async fn effect(mut of: Try, veiled: Veiled, timeout_ms: Option<u64>) -> Tried {
    let begun = Instant::now();
    let result = match unveiled(&mut of, veiled).await {
        Ok(resolved) => performed(&of, resolved, timeout_ms).await,
        Err(error) => Err(error),
    };
    let result = result.and_then(cleaned).map_err(|error| of.mask.error(error));
    let result = match result {
        Ok(value) => masked(&of.mask, value).await,
        Err(error) => Err(error),
    };
    let duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Tried { used: of.take_used(), path: of.path, attempt: of.attempt, result, duration_ms }
}

/// Opens the secrets and puts them in; from here on the try masks them.
async fn unveiled(of: &mut Try, veiled: Veiled) -> Result<Resolved, NodeError> {
    let Veiled { resolved, veil, secrets, named } = veiled;
    let opened = of.equipment.vaults.open(of.workspace, &named).await?;
    for name in &secrets {
        of.equipment.vaults.used(of, name.holder());
    }
    // Before the secrets are put in, so that nothing in the value of one is taken for something sealed.
    let (resolved, personal) = match of.equipment.vaults.open_personal(of.workspace, resolved).await
    {
        Ok(opened) => opened,
        Err(error) => {
            of.mask = Arc::new(opened.mask(&[]));
            return Err(error);
        }
    };
    of.holds_secrets |= !personal.is_empty();
    of.mask = Arc::new(opened.mask(&personal));
    opened.put_into(resolved, &veil, &secrets)
}

async fn performed(
    of: &Try,
    resolved: Resolved,
    timeout_ms: Option<u64>,
) -> Result<serde_json::Value, NodeError> {
    let performed = std::panic::AssertUnwindSafe(perform(resolved, of));
    let performed = futures_util::FutureExt::catch_unwind(performed);
    let result = match timeout_ms {
        None => performed.await,
        Some(limit) => match tokio::time::timeout(Duration::from_millis(limit), performed).await {
            Ok(result) => result,
            Err(_) => {
                Ok(Err(failure(ErrorKind::Timeout, format!("it took longer than {limit} ms"))))
            }
        },
    };
    result.unwrap_or_else(|_| {
        tracing::error!(execution = %of.execution, node = %of.path.as_str(), "a node's effect panicked");
        Err(failure(
            ErrorKind::Permanent,
            "the node failed in a way it should not; the process's log has the place",
        ))
    })
}

/// An output without secrets, as it is recorded. Looking through a large one takes a while, so it is done off the async threads.
async fn masked(mask: &Arc<Mask>, value: serde_json::Value) -> Result<Json, NodeError> {
    if mask.is_empty() {
        return Ok(Json::from_value(&value));
    }
    let mask = Arc::clone(mask);
    let masking = tokio::task::spawn_blocking(move || Json::from_value(&mask.value(value)));
    masking.await.map_err(|error| {
        tracing::error!(%error, "an output can't be masked");
        failure(ErrorKind::Permanent, "the output can't be looked through for secrets")
    })
}

impl Shared {
    /// Lets go of a run that can't be read; of all runs when it was a newer build that wrote it.
    fn hand_back(&self, error: &LoadError) -> Stop {
        tracing::warn!(%error, "an execution can't be read now");
        self.stand_down.consider(error);
        Stop::HandBack
    }

    /// Appends what a worker did; the state after it.
    pub(crate) async fn report(
        &self,
        execution: uuid::Uuid,
        report: Report,
    ) -> Result<Arc<Execution>, CommandError<ExecutionRejection>> {
        let context = Context::new(Actor::system("worker"));
        let command = ExecutionCommand::Report(report);
        self.commands
            .execute::<Execution>(Target::existing(execution), &command, &context)
            .await
            .map(|executed| executed.state)
    }
}
