//! The log in memory: the same contract, deterministic, on an injected clock, with faults on demand.
//!
//! Nothing here blocks or needs a thread: it runs in a single-threaded runtime. Two runs that call it in
//! the same order, with the same clock and the same faults, see the same log. Its state stands for the database: a simulated
//! process that crashes is dropped, and the next one is given the same log.

mod state;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use tokio::sync::watch;
use uuid::Uuid;

use self::state::{State, count, index_after, rests_on};
use crate::checkpoint::fenced;
use crate::log_lines::without_nul;
use crate::postgres::raise_head;
use crate::{
    AppendError, DueKey, DueTime, EventLog, Filter, Head, IdempotencyKey, Intent, Lease, LogLevel,
    LogLine, LogQuery, Position, Receipt, RecordedEvent, StoreError, StreamId, StreamVersion,
    WorkerLease, blob, validate,
};

/// The time, as the simulation has it.
pub type SimulatedClock = Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>;

/// What goes wrong with one append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppendFault {
    /// Nothing.
    None,
    /// The database went away before the commit: nothing landed, the caller is told `Unavailable`.
    BeforeCommit,
    /// The reply was lost: everything landed, the caller is told `Unavailable`.
    AfterCommit,
    /// Somebody else was faster: nothing landed, the caller is told `Conflict`. Only for intents that rest on a stream.
    Conflict,
    /// The intake was full.
    Overloaded,
    /// The append waits, and others overtake it.
    Delay(Duration),
}

/// Decides what goes wrong. Called in the order in which the log is called, so a seeded source makes a run repeatable.
pub trait Faults: Send + Sync {
    /// What becomes of this append.
    fn on_append(&self, intent: &Intent) -> AppendFault;

    /// Whether a read, a lease or another table is unavailable now; named by the method of [`EventLog`].
    fn is_unavailable(&self, operation: &'static str) -> bool {
        let _ = operation;
        false
    }
}

/// [`EventLog`] in memory.
pub struct SimulatedLog {
    clock: SimulatedClock,
    state: Mutex<State>,
    faults: Mutex<Option<Arc<dyn Faults>>>,
    head: watch::Sender<Position>,
}

impl SimulatedLog {
    /// An empty log with a fixed identity, on a clock of the simulation.
    #[must_use]
    pub fn new(log_id: Uuid, clock: SimulatedClock) -> Arc<Self> {
        let state = State::new(log_id, clock().trunc_subsecs(6));
        let head = watch::Sender::new(Position::START);
        Arc::new(Self { clock, state: Mutex::new(state), faults: Mutex::new(None), head })
    }

    /// From now on these decide what goes wrong; `None` is fair weather.
    pub fn set_faults(&self, faults: Option<Arc<dyn Faults>>) {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = faults;
    }

    /// Everything in the log, for a checker that must not be disturbed by faults.
    #[must_use]
    pub fn events(&self) -> Vec<RecordedEvent> {
        self.state().events.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn faults(&self) -> Option<Arc<dyn Faults>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The state and the time, unless the store is away.
    fn reach(
        &self,
        operation: &'static str,
    ) -> Result<(MutexGuard<'_, State>, DateTime<Utc>), StoreError> {
        if self.faults().is_some_and(|faults| faults.is_unavailable(operation)) {
            return Err(StoreError::Unavailable(lost(operation)));
        }
        Ok((self.state(), (self.clock)().trunc_subsecs(6)))
    }
}

fn lost(operation: &'static str) -> crate::StoreFault {
    format!("simulated: the database went away during {operation}").into()
}

fn after_ms(now: DateTime<Utc>, ttl_ms: i64) -> DateTime<Utc> {
    now + TimeDelta::milliseconds(ttl_ms)
}

#[async_trait]
impl EventLog for SimulatedLog {
    async fn append(&self, intent: Intent) -> Result<Receipt, AppendError> {
        validate::check(&intent)?;
        let fault = self.faults().map_or(AppendFault::None, |faults| faults.on_append(&intent));
        match &fault {
            AppendFault::BeforeCommit => return Err(AppendError::Unavailable(lost("append"))),
            AppendFault::Overloaded => return Err(AppendError::Overloaded),
            AppendFault::Conflict => {
                if let Some((stream, expected)) = rests_on(&intent).next() {
                    return Err(AppendError::Conflict { stream, expected });
                }
            }
            AppendFault::Delay(delay) => tokio::time::sleep(*delay).await,
            AppendFault::None | AppendFault::AfterCommit => {}
        }
        let now = (self.clock)().trunc_subsecs(6);
        let receipt = self.state().append(intent, now)?;
        raise_head(&self.head, receipt.position);
        if fault == AppendFault::AfterCommit {
            return Err(AppendError::Unavailable(lost("append")));
        }
        Ok(receipt)
    }

    async fn find_receipt(&self, key: &IdempotencyKey) -> Result<Option<Receipt>, AppendError> {
        validate::check_key(key)?;
        if self.faults().is_some_and(|faults| faults.is_unavailable("find_receipt")) {
            return Err(AppendError::Unavailable(lost("find_receipt")));
        }
        self.state().find_receipt(key)
    }

    async fn read(
        &self,
        after: Position,
        limit: usize,
        filter: &Filter,
    ) -> Result<(Vec<RecordedEvent>, Position), StoreError> {
        let (state, _) = self.reach("read")?;
        let rest = state.events.get(index_after(after.0)..).unwrap_or_default();
        let found: Vec<RecordedEvent> =
            rest.iter().filter(|event| filter.matches(event)).take(limit).cloned().collect();
        let upto = match found.last() {
            Some(last) if found.len() == limit => last.position,
            _ => after.max(Position(count(state.events.len()))),
        };
        Ok((found, upto))
    }

    async fn read_stream(
        &self,
        stream: StreamId,
        after: StreamVersion,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        let (state, _) = self.reach("read_stream")?;
        let indices = state.streams.get(&stream).map_or(&[][..], Vec::as_slice);
        let rest = indices.get(index_after(after.0)..).unwrap_or_default();
        Ok(rest.iter().take(limit).map(|&index| state.events[index].clone()).collect())
    }

    async fn event(&self, event_id: Uuid) -> Result<Option<RecordedEvent>, StoreError> {
        let (state, _) = self.reach("event")?;
        Ok(state.events.iter().find(|event| event.event_id == event_id).cloned())
    }

    async fn head(&self) -> Result<Head, StoreError> {
        let (state, _) = self.reach("head")?;
        Ok(Head {
            log_id: state.log_id,
            epoch: state.epoch,
            position: Position(count(state.events.len())),
            recorded_at: state.recorded_at,
        })
    }

    async fn common_with(&self, epoch: i32) -> Result<Position, StoreError> {
        let (state, _) = self.reach("common_with")?;
        // It is never restored, so it has one epoch.
        Ok(if epoch == state.epoch { Position(count(state.events.len())) } else { Position::START })
    }

    fn watch_head(&self) -> watch::Receiver<Position> {
        self.head.subscribe()
    }

    async fn position_at(&self, at: DateTime<Utc>) -> Result<Position, StoreError> {
        let (state, _) = self.reach("position_at")?;
        Ok(Position(count(state.events.partition_point(|event| event.recorded_at <= at))))
    }

    async fn acquire_lease(
        &self,
        reader: &str,
        owner: &str,
        ttl_ms: i64,
    ) -> Result<Option<Lease>, StoreError> {
        let (mut state, now) = self.reach("acquire_lease")?;
        let row = state.checkpoints.entry(reader.to_owned()).or_default();
        let free = row.held.as_ref().is_none_or(|(holder, until)| holder == owner || *until <= now);
        if !free {
            return Ok(None);
        }
        row.epoch += 1;
        row.held = Some((owner.to_owned(), after_ms(now, ttl_ms)));
        Ok(Some(Lease {
            reader: reader.to_owned(),
            owner: owner.to_owned(),
            epoch: row.epoch,
            position: row.position,
        }))
    }

    async fn renew_lease(&self, lease: &Lease, ttl_ms: i64) -> Result<(), StoreError> {
        let (mut state, now) = self.reach("renew_lease")?;
        let row = state.held(lease)?;
        if !row.is_owned_by(&lease.owner) {
            return Err(fenced(&lease.reader));
        }
        row.held = Some((lease.owner.clone(), after_ms(now, ttl_ms)));
        Ok(())
    }

    async fn release_lease(&self, lease: &Lease) -> Result<(), StoreError> {
        let (mut state, _) = self.reach("release_lease")?;
        if let Ok(row) = state.held(lease)
            && row.is_owned_by(&lease.owner)
        {
            row.held = None;
        }
        Ok(())
    }

    async fn advance(&self, lease: &mut Lease, to: Position) -> Result<(), StoreError> {
        let (mut state, _) = self.reach("advance")?;
        let row = state.held(lease)?;
        if row.position != lease.position {
            return Err(fenced(&lease.reader));
        }
        row.position = to;
        lease.position = to;
        Ok(())
    }

    async fn checkpoint(&self, reader: &str) -> Result<Position, StoreError> {
        let (state, _) = self.reach("checkpoint")?;
        Ok(state.checkpoints.get(reader).map_or(Position::START, |row| row.position))
    }

    async fn due(&self, now: DateTime<Utc>, limit: usize) -> Result<Vec<DueTime>, StoreError> {
        let (state, _) = self.reach("due")?;
        let mut due: Vec<DueTime> = state
            .due
            .iter()
            .filter(|&(_, &due_at)| due_at <= now)
            .map(|(due, &due_at)| DueTime { due_at, due: due.clone() })
            .collect();
        due.sort_by(|a, b| a.due_at.cmp(&b.due_at).then_with(|| a.due.cmp(&b.due)));
        due.truncate(limit);
        Ok(due)
    }

    async fn next_due(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
        let (state, _) = self.reach("next_due")?;
        Ok(state.due.values().min().copied())
    }

    async fn move_due(&self, due: &DueTime) -> Result<bool, StoreError> {
        let (mut state, _) = self.reach("move_due")?;
        let Some(kept) = state.due.get_mut(&due.due) else { return Ok(false) };
        *kept = due.due_at;
        Ok(true)
    }

    async fn without_due(&self, streams: &[StreamId]) -> Result<Vec<StreamId>, StoreError> {
        let (state, _) = self.reach("without_due")?;
        let timed = |stream: &StreamId| state.due.keys().any(|due| due.stream == *stream);
        Ok(streams.iter().filter(|stream| !timed(stream)).copied().collect())
    }

    async fn remove_due(&self, done: &[DueKey]) -> Result<(), StoreError> {
        let (mut state, _) = self.reach("remove_due")?;
        for due in done {
            state.due.remove(due);
        }
        Ok(())
    }

    async fn save_snapshot(
        &self,
        stream: StreamId,
        version: StreamVersion,
        fingerprint: &str,
        snapshot: &str,
    ) -> Result<(), StoreError> {
        let (mut state, _) = self.reach("save_snapshot")?;
        if state.snapshots.get(&stream).is_none_or(|(saved, ..)| *saved <= version) {
            let row = (version, fingerprint.to_owned(), snapshot.to_owned());
            state.snapshots.insert(stream, row);
        }
        Ok(())
    }

    async fn snapshot(
        &self,
        stream: StreamId,
        fingerprint: &str,
    ) -> Result<Option<(StreamVersion, String)>, StoreError> {
        let (state, _) = self.reach("snapshot")?;
        let found = state.snapshots.get(&stream).filter(|(_, saved, _)| saved == fingerprint);
        Ok(found.map(|(version, _, snapshot)| (*version, snapshot.clone())))
    }

    async fn put_blob(&self, content: &[u8]) -> Result<String, StoreError> {
        let (mut state, _) = self.reach("put_blob")?;
        let hash = hex::encode(blob::hash_of(content));
        state.blobs.entry(hash.clone()).or_insert_with(|| content.to_vec());
        Ok(hash)
    }

    async fn blob(&self, hash: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let (state, _) = self.reach("blob")?;
        Ok(state.blobs.get(&hash.to_ascii_lowercase()).cloned())
    }

    async fn write_log_lines(&self, lines: &[LogLine]) -> Result<(), StoreError> {
        let (mut state, _) = self.reach("write_log_lines")?;
        for line in lines {
            let kept = LogLine {
                at: line.at.trunc_subsecs(6),
                node: without_nul(&line.node).into_owned(),
                message: without_nul(&line.message).into_owned(),
                ..line.clone()
            };
            state.lines.entry((line.execution_id, line.claim, line.n)).or_insert(kept);
        }
        Ok(())
    }

    async fn log_lines(&self, query: &LogQuery) -> Result<Vec<LogLine>, StoreError> {
        let (state, _) = self.reach("log_lines")?;
        let (claim, n) = query.after.unwrap_or((i32::MIN, i64::MIN));
        let min_level = query.min_level.unwrap_or(LogLevel::Debug);
        let search = query.search.as_deref().map(|text| without_nul(text).to_lowercase());
        Ok(state
            .lines
            .range(
                (query.execution_id, i32::MIN, i64::MIN)..=(query.execution_id, i32::MAX, i64::MAX),
            )
            .map(|(_, line)| line)
            .filter(|line| (line.claim, line.n) > (claim, n))
            .filter(|line| line.level >= min_level)
            .filter(|line| query.node.as_ref().is_none_or(|node| *node == line.node))
            .filter(|line| {
                search.as_ref().is_none_or(|text| line.message.to_lowercase().contains(text))
            })
            .take(index_after(query.limit))
            .cloned()
            .collect())
    }

    async fn renew_worker_lease(
        &self,
        worker: &str,
        slots: i32,
        ttl_ms: i64,
    ) -> Result<WorkerLease, StoreError> {
        let (mut state, now) = self.reach("renew_worker_lease")?;
        let lease = state.workers.entry(worker.to_owned()).or_insert_with(|| WorkerLease {
            worker: worker.to_owned(),
            epoch: 0,
            slots,
            expires_at: now,
            expired: false,
        });
        if lease.expires_at <= now {
            lease.epoch += 1;
        }
        lease.slots = slots;
        lease.expires_at = after_ms(now, ttl_ms);
        Ok(lease.clone())
    }

    async fn release_worker_lease(&self, worker: &str) -> Result<(), StoreError> {
        let (mut state, now) = self.reach("release_worker_lease")?;
        if let Some(lease) = state.workers.get_mut(worker) {
            lease.expires_at = lease.expires_at.min(now);
        }
        Ok(())
    }

    async fn worker_leases(&self) -> Result<Vec<WorkerLease>, StoreError> {
        let (state, now) = self.reach("worker_leases")?;
        let read =
            |lease: &WorkerLease| WorkerLease { expired: lease.expires_at <= now, ..lease.clone() };
        Ok(state.workers.values().map(read).collect())
    }

    async fn prune_keys(&self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        let (mut state, _) = self.reach("prune_keys")?;
        let known = state.keys.len();
        state.keys.retain(|_, (_, receipt)| receipt.recorded_at >= before);
        state.workers.retain(|_, lease| lease.expires_at >= before);
        Ok(count(known - state.keys.len()).unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{Contention, contend, everything, verify_log};

    /// Each look at the clock is a millisecond later.
    fn ticking() -> SimulatedClock {
        let ticks = std::sync::atomic::AtomicI64::new(0);
        Arc::new(move || {
            let ms = ticks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            DateTime::UNIX_EPOCH + TimeDelta::days(20_000) + TimeDelta::milliseconds(ms)
        })
    }

    fn simulated() -> Arc<SimulatedLog> {
        SimulatedLog::new(Uuid::nil(), ticking())
    }

    #[tokio::test]
    async fn conforms() {
        everything(simulated()).await;
    }

    #[tokio::test]
    async fn a_clock_that_runs_backwards_does_not_turn_the_log_around() {
        let ticks = std::sync::atomic::AtomicI64::new(0);
        let backwards: SimulatedClock = Arc::new(move || {
            let ms = ticks.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
            DateTime::UNIX_EPOCH + TimeDelta::days(20_000) + TimeDelta::milliseconds(ms)
        });
        let log: Arc<dyn EventLog> = SimulatedLog::new(Uuid::nil(), backwards);
        let contention = Contention { writers: 4, rounds: 20, streams: 4, seed: 2 };
        let told = contend(vec![Arc::clone(&log)], contention).await;
        verify_log(&*log, &told).await;
    }

    /// Loses every third reply, half of them after the commit, and turns others into conflicts and delays.
    struct Weather(std::sync::atomic::AtomicU64);

    impl Faults for Weather {
        fn on_append(&self, _: &Intent) -> AppendFault {
            match self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 12 {
                0 | 6 => AppendFault::BeforeCommit,
                3 | 9 => AppendFault::AfterCommit,
                4 => AppendFault::Conflict,
                7 => AppendFault::Delay(Duration::from_millis(5)),
                _ => AppendFault::None,
            }
        }
    }

    #[tokio::test]
    async fn faults_leave_intents_whole() {
        let log = simulated();
        log.set_faults(Some(Arc::new(Weather(0.into()))));
        let contention = Contention { writers: 8, rounds: 40, streams: 4, seed: 3 };
        let told = contend(vec![Arc::clone(&log) as Arc<dyn EventLog>], contention).await;
        log.set_faults(None);
        verify_log(&*log, &told).await;
        let positions: Vec<i64> = log.events().iter().map(|event| event.position.0).collect();
        assert_eq!(positions, (1..=count(positions.len())).collect::<Vec<_>>());
    }

    struct Away;

    impl Faults for Away {
        fn on_append(&self, _: &Intent) -> AppendFault {
            AppendFault::Overloaded
        }

        fn is_unavailable(&self, operation: &'static str) -> bool {
            operation == "read"
        }
    }

    #[tokio::test]
    async fn outages_are_told_apart() {
        let log = simulated();
        log.set_faults(Some(Arc::new(Away)));
        assert!(matches!(log.append(Intent::default()).await, Err(AppendError::Overloaded)));
        let read = log.read(Position::START, 1, &Filter::default()).await;
        assert!(matches!(read, Err(StoreError::Unavailable(_))));
        log.head().await.expect("only reads are away");
    }
}
