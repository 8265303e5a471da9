//! A worker process that models the transport and the effects, and does with a run what `worker/src/run.rs` does with it: fold, ask
//! the planner, append, begin the effects, until it ends or is let go of. Deliveries are lost, doubled and late.

mod run;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ledgerline_commands::{Commands, record::recorded};
use ledgerline_domain::{
    event::AnyEvent,
    execution::{Attempt, Claim, ExecutionEvent, NodePath},
    id::ExecutionId,
};
use ledgerline_store::{Position, Tail};
use tokio::{
    sync::{Notify, Semaphore},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{
    process::{Crew, Ground, LEASE},
    weather::ProcessNo,
};

/// How long an item rests whose run this worker still has under an older claim.
const OVERLAP_REST: Duration = Duration::from_millis(200);

/// The outside world: how often each try of an effect took place.
#[derive(Default)]
pub(crate) struct Effects(Mutex<BTreeMap<(ExecutionId, NodePath, Attempt), u32>>);

impl Effects {
    /// One takes place, and must not have before where that would do harm.
    fn begin(&self, execution: ExecutionId, path: &NodePath, attempt: Attempt, idempotent: bool) {
        let mut done = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let times = done.entry((execution, path.clone(), attempt)).or_default();
        *times += 1;
        assert!(
            idempotent || *times == 1,
            "{execution}: the effect of {} took place twice",
            path.as_str()
        );
    }

    pub(crate) fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// One worker process.
pub(crate) struct Worker {
    ground: Ground,
    number: ProcessNo,
    name: String,
    commands: Commands,
    slots: u32,
    room: Semaphore,
    runs: Mutex<HashMap<ExecutionId, Arc<Notify>>>,
    /// Ends every run that was taken on under the present epoch of the lease.
    tenure: Mutex<CancellationToken>,
}

impl Worker {
    pub(crate) fn start(
        crew: &Crew,
        ground: Ground,
        name: String,
        commands: Commands,
        tail: &Arc<Tail>,
    ) {
        let slots = 1 + u32::try_from(ground.dice.below(4)).expect("it is below four");
        let worker = Arc::new(Self {
            room: Semaphore::new(slots as usize),
            number: crew.number,
            ground,
            name,
            commands,
            slots,
            runs: Mutex::default(),
            tenure: Mutex::default(),
        });
        crew.spawn(Arc::clone(&worker).live());
        crew.spawn(worker.listen(crew.clone(), Arc::clone(tail)));
    }

    /// Shows that it lives. When its lease had expired, others may have its claims.
    async fn live(self: Arc<Self>) {
        let slots = i32::try_from(self.slots).expect("a few");
        let ttl_ms = i64::try_from(LEASE.as_millis()).expect("half a second");
        let mut epoch = None;
        loop {
            let renewed = self.commands.log().renew_worker_lease(&self.name, slots, ttl_ms).await;
            if let Ok(lease) = renewed {
                if epoch.is_some_and(|held| held != lease.epoch) {
                    let mut tenure = self.tenure.lock().unwrap_or_else(PoisonError::into_inner);
                    std::mem::take(&mut *tenure).cancel();
                }
                epoch = Some(lease.epoch);
            }
            sleep(LEASE / 3).await;
        }
    }

    /// Delivers what is dispatched, and tells runs what others wrote to them.
    async fn listen(self: Arc<Self>, crew: Crew, tail: Arc<Tail>) {
        let mut reader = tail.reader(Position::START);
        loop {
            let Ok(rows) = reader.next_batch(100).await else {
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            for row in rows {
                let event = recorded(&row).expect("a readable event");
                let id = ExecutionId(event.stream);
                match event.event {
                    AnyEvent::Execution(ExecutionEvent::ExecutionDispatched(event)) => {
                        self.hear(id);
                        self.deliver(&crew, id, event.claim);
                    }
                    AnyEvent::Execution(
                        ExecutionEvent::ExecutionPaused(_)
                        | ExecutionEvent::ExecutionUnpaused(_)
                        | ExecutionEvent::CancelRequested(_)
                        | ExecutionEvent::CompensationStarted(_)
                        | ExecutionEvent::ExecutionCancelled(_)
                        | ExecutionEvent::TimerFired(_)
                        | ExecutionEvent::ChildFinished(_)
                        | ExecutionEvent::NodeResolved(_)
                        | ExecutionEvent::ApprovalGiven(_)
                        | ExecutionEvent::ApprovalRefused(_)
                        | ExecutionEvent::SignalReceived(_)
                        | ExecutionEvent::TaskTaken(_)
                        | ExecutionEvent::TaskReturned(_)
                        | ExecutionEvent::TaskCompleted(_)
                        | ExecutionEvent::TaskFailed(_)
                        | ExecutionEvent::ExecutionFailed(_)
                        | ExecutionEvent::ExecutionWaiting(_),
                    ) => self.hear(id),
                    _ => {}
                }
            }
        }
    }

    fn hear(&self, id: ExecutionId) {
        if let Some(heard) = self.runs.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            heard.notify_one();
        }
    }

    fn deliver(self: &Arc<Self>, crew: &Crew, id: ExecutionId, claim: Claim) {
        let dice = &self.ground.dice;
        let times = match (self.ground.weather.is_foul(), dice.below(10)) {
            (true, 0) => 0,
            (true, 1) => 2,
            _ => 1,
        };
        for _ in 0..times {
            let late = Duration::from_millis(dice.below(200));
            let worker = Arc::clone(self);
            crew.spawn(async move {
                sleep(late).await;
                worker.take_on(id, claim).await;
            });
        }
    }

    async fn take_on(self: Arc<Self>, id: ExecutionId, claim: Claim) {
        loop {
            let room = self.room.acquire().await.expect("it is never closed");
            let heard = Arc::new(Notify::new());
            let entered = {
                let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
                let is_new = !runs.contains_key(&id);
                if is_new {
                    runs.insert(id, Arc::clone(&heard));
                }
                is_new
            };
            if !entered {
                drop(room);
                sleep(OVERLAP_REST).await;
                continue;
            }
            let abandon = self.tenure.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let again = run::run(&self, id, claim, &heard, &abandon).await;
            self.runs.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            drop(room);
            match again {
                run::After::Done => return,
                run::After::DeliverAgain => sleep(Duration::from_millis(500)).await,
            }
        }
    }
}
