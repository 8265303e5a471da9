//! Where intents wait for the next flush: bounded, fair between workspaces, and choosy about what may share a batch.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::{AppendError, Intent, LogConfig, Receipt, Workspace};

/// What the appender tells the one who waits.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It is in the log.
    Landed(Receipt),
    /// Its key is known: nothing was appended, and the receipt is to be looked up. The intent comes back, for the case that
    /// the key is pruned in between.
    Known(Box<Intent>),
}

/// An intent and the one who waits for it.
pub(crate) struct Pending {
    pub(crate) intent: Intent,
    pub(crate) reply: oneshot::Sender<Result<Outcome, AppendError>>,
    pub(crate) since: Instant,
    /// It was sent on a connection that broke: before anything is said about it, its event ids are looked up.
    pub(crate) perhaps_landed: bool,
    bytes: usize,
}

impl Pending {
    pub(crate) fn new(intent: Intent) -> (Self, oneshot::Receiver<Result<Outcome, AppendError>>) {
        let (reply, answer) = oneshot::channel();
        let bytes = intent
            .writes
            .iter()
            .flat_map(|write| &write.events)
            .map(|event| event.payload.len() + event.metadata.len())
            .sum();
        let since = Instant::now();
        (Self { intent, reply, since, perhaps_landed: false, bytes }, answer)
    }

    /// Answers the one who waits; nobody does when the caller was cancelled, and what landed stays.
    pub(crate) fn answer(self, outcome: Result<Outcome, AppendError>) {
        let _nobody_waits = self.reply.send(outcome);
    }

    fn events(&self) -> usize {
        self.intent.writes.iter().map(|write| write.events.len()).sum()
    }

    fn workspace(&self) -> Workspace {
        self.intent.writes.first().map_or(Workspace::NIL, |write| write.workspace)
    }
}

/// Why an intent was not taken in.
#[derive(Debug)]
pub(crate) enum Refusal {
    Full,
    Closed,
}

/// The bounded waiting room.
pub(crate) struct Intake {
    rooms: Mutex<Rooms>,
    arrived: Notify,
    max_waiting: usize,
    max_batch_intents: usize,
    max_batch_events: usize,
    max_batch_bytes: usize,
}

#[derive(Default)]
struct Rooms {
    queues: HashMap<Workspace, VecDeque<Pending>>,
    /// The workspaces that have something waiting, in the order of their turns.
    turns: VecDeque<Workspace>,
    waiting: usize,
    closed: bool,
}

impl Rooms {
    fn push_back(&mut self, pending: Pending) {
        self.waiting += 1;
        let workspace = pending.workspace();
        self.queue(workspace).push_back(pending);
    }

    fn push_front(&mut self, pending: Pending) {
        self.waiting += 1;
        let workspace = pending.workspace();
        self.queue(workspace).push_front(pending);
    }

    fn queue(&mut self, workspace: Workspace) -> &mut VecDeque<Pending> {
        match self.queues.entry(workspace) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                self.turns.push_back(workspace);
                entry.insert(VecDeque::new())
            }
        }
    }

    /// The next intent of the workspace whose turn it is.
    fn pop(&mut self) -> Option<Pending> {
        let workspace = self.turns.pop_front()?;
        let queue = self.queues.get_mut(&workspace)?;
        let pending = queue.pop_front()?;
        if queue.is_empty() {
            self.queues.remove(&workspace);
        } else {
            self.turns.push_back(workspace);
        }
        self.waiting -= 1;
        Some(pending)
    }
}

impl Intake {
    pub(crate) fn new(config: &LogConfig) -> Self {
        Self {
            rooms: Mutex::default(),
            arrived: Notify::new(),
            max_waiting: config.max_waiting,
            max_batch_intents: config.max_batch_intents,
            max_batch_events: config.max_batch_events,
            max_batch_bytes: config.max_batch_bytes,
        }
    }

    /// Takes an intent in, or refuses it at once. One workspace may fill three quarters of the room, so that the others
    /// always find a place.
    pub(crate) fn push(&self, pending: Pending) -> Result<(), Refusal> {
        let mut rooms = self.rooms();
        if rooms.closed {
            return Err(Refusal::Closed);
        }
        let of_workspace = rooms.queues.get(&pending.workspace()).map_or(0, VecDeque::len);
        if rooms.waiting >= self.max_waiting || of_workspace >= self.max_waiting.div_ceil(4) * 3 {
            return Err(Refusal::Full);
        }
        rooms.push_back(pending);
        drop(rooms);
        self.arrived.notify_one();
        Ok(())
    }

    /// No intent is taken in from now on; those that wait are still handed out.
    pub(crate) fn close(&self) {
        self.rooms().closed = true;
        self.arrived.notify_one();
    }

    /// The next batch, as soon as there is anything; `None` when the intake is closed and empty.
    pub(crate) async fn take(&self) -> Option<Vec<Pending>> {
        loop {
            {
                let mut rooms = self.rooms();
                if rooms.waiting > 0 {
                    return Some(self.choose(&mut rooms));
                }
                if rooms.closed {
                    return None;
                }
            }
            self.arrived.notified().await;
        }
    }

    /// Removes everything that has waited for longer than since `before`.
    pub(crate) fn take_waiting_since(&self, before: Instant) -> Vec<Pending> {
        let mut rooms = self.rooms();
        let mut old = Vec::new();
        let mut young = Vec::new();
        while let Some(pending) = rooms.pop() {
            if pending.since <= before { old.push(pending) } else { young.push(pending) }
        }
        for pending in young {
            rooms.push_back(pending);
        }
        old
    }

    /// Workspaces take turns. An intent that may not share the batch waits at the head of its line for the next one.
    fn choose(&self, rooms: &mut Rooms) -> Vec<Pending> {
        let mut company = Company::default();
        let mut batch: Vec<Pending> = Vec::with_capacity(rooms.waiting.min(self.max_batch_intents));
        let mut deferred = Vec::new();
        let (mut events, mut bytes) = (0, 0);
        while batch.len() < self.max_batch_intents && deferred.len() < self.max_batch_intents {
            let Some(pending) = rooms.pop() else { break };
            events += pending.events();
            bytes += pending.bytes;
            if !batch.is_empty() && (events > self.max_batch_events || bytes > self.max_batch_bytes)
            {
                deferred.push(pending);
                break;
            }
            if company.admits(&pending.intent) {
                batch.push(pending)
            } else {
                deferred.push(pending)
            }
        }
        for pending in deferred.into_iter().rev() {
            rooms.push_front(pending);
        }
        batch
    }

    fn rooms(&self) -> MutexGuard<'_, Rooms> {
        // No code under the lock panics half-way through a change, so a poisoned lock still guards whole queues.
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the intents of a batch have touched so far, as hashes: a collision only makes somebody wait for the next batch.
///
/// All intents of a batch are checked against the log as it was before the batch. So two may not write one stream, and one
/// that rests on a stream must stand before the one that writes it: then the batch is equal to its intents one after another.
#[derive(Default)]
struct Company {
    hasher: RandomState,
    taken: HashSet<u64>,
}

#[derive(Hash)]
enum Touch<'a> {
    Stream(crate::StreamId),
    Key(&'a str, &'a str),
    DueTimes(crate::StreamId),
}

impl Company {
    /// Whether an intent may join; when it may, it has.
    fn admits(&mut self, intent: &Intent) -> bool {
        let hasher = &self.hasher;
        let exclusive: Vec<u64> = intent
            .writes
            .iter()
            .map(|write| Touch::Stream(write.stream))
            .chain(intent.key.iter().map(|key| Touch::Key(&key.scope, &key.key)))
            .chain(intent.due.iter().map(|due| Touch::DueTimes(due.due.stream)))
            .chain(intent.due_done.iter().map(|due| Touch::DueTimes(due.stream)))
            .map(|touch| hasher.hash_one(touch))
            .collect();
        let mut rests_on =
            intent.reads.iter().map(|read| hasher.hash_one(Touch::Stream(read.stream)));
        if exclusive.iter().any(|touch| self.taken.contains(touch))
            || rests_on.any(|touch| self.taken.contains(&touch))
        {
            return false;
        }
        self.taken.extend(exclusive);
        true
    }
}
