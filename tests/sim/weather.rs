//! What goes wrong between the processes and the log, and which process dies of it.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ledgerline_store::{
    Intent,
    simulated::{AppendFault, Faults},
};
use tokio::task;

use crate::dice::Dice;

/// The name of one process, never used again.
pub(crate) type ProcessNo = u32;

/// The faults of one simulation.
pub(crate) struct Weather {
    dice: Dice,
    /// Whether anything goes wrong at all.
    foul: AtomicBool,
    /// The database is away altogether.
    outage: AtomicBool,
    /// The checker reads; nothing goes wrong for it.
    looking: AtomicBool,
    tasks: Mutex<HashMap<task::Id, ProcessNo>>,
    dead: Mutex<HashSet<ProcessNo>>,
    pub(crate) appends: AtomicUsize,
    pub(crate) faults: AtomicUsize,
}

impl Weather {
    pub(crate) fn new(dice: Dice) -> Arc<Self> {
        Arc::new(Self {
            dice,
            foul: AtomicBool::new(false),
            outage: AtomicBool::new(false),
            looking: AtomicBool::new(false),
            tasks: Mutex::default(),
            dead: Mutex::default(),
            appends: AtomicUsize::new(0),
            faults: AtomicUsize::new(0),
        })
    }

    pub(crate) fn turn_foul(&self) {
        self.foul.store(true, Ordering::Relaxed);
    }

    pub(crate) fn clear_up(&self) {
        self.foul.store(false, Ordering::Relaxed);
        self.outage.store(false, Ordering::Relaxed);
    }

    pub(crate) fn is_foul(&self) -> bool {
        self.foul.load(Ordering::Relaxed)
    }

    pub(crate) fn set_outage(&self, is_away: bool) {
        self.outage.store(is_away, Ordering::Relaxed);
    }

    /// Reads of the checker, which runs alone between two awaits of everybody else.
    pub(crate) fn look(&self, looking: bool) {
        self.looking.store(looking, Ordering::Relaxed);
    }

    pub(crate) fn belongs(&self, task: task::Id, process: ProcessNo) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).insert(task, process);
    }

    /// Nothing of it reaches the log any more.
    pub(crate) fn kill(&self, process: ProcessNo) {
        self.dead.lock().unwrap_or_else(PoisonError::into_inner).insert(process);
    }

    pub(crate) fn is_dead(&self, process: ProcessNo) -> bool {
        self.dead.lock().unwrap_or_else(PoisonError::into_inner).contains(&process)
    }

    /// The process that calls, when it is not the driver.
    fn caller(&self) -> Option<ProcessNo> {
        let task = task::try_id()?;
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).get(&task).copied()
    }

    fn fault(&self, caller: Option<ProcessNo>) -> AppendFault {
        match self.dice.below(60) {
            0 | 1 => AppendFault::BeforeCommit,
            2 | 3 => AppendFault::AfterCommit,
            4 | 5 => AppendFault::Conflict,
            6 => AppendFault::Overloaded,
            7..=10 => AppendFault::Delay(Duration::from_millis(1 + self.dice.below(400))),
            crash @ (11 | 12) if caller.is_some_and(|process| process > 0) => {
                if let Some(process) = caller {
                    self.kill(process);
                }
                if crash == 11 { AppendFault::BeforeCommit } else { AppendFault::AfterCommit }
            }
            _ => AppendFault::None,
        }
    }
}

impl Faults for Weather {
    fn on_append(&self, _: &Intent) -> AppendFault {
        self.appends.fetch_add(1, Ordering::Relaxed);
        let caller = self.caller();
        if caller.is_some_and(|process| self.is_dead(process)) {
            return AppendFault::BeforeCommit;
        }
        if !self.is_foul() {
            return AppendFault::None;
        }
        let fault = if self.outage.load(Ordering::Relaxed) {
            AppendFault::BeforeCommit
        } else {
            self.fault(caller)
        };
        if fault != AppendFault::None {
            self.faults.fetch_add(1, Ordering::Relaxed);
        }
        fault
    }

    fn is_unavailable(&self, _: &'static str) -> bool {
        if self.looking.load(Ordering::Relaxed) {
            return false;
        }
        if self.caller().is_some_and(|process| self.is_dead(process)) {
            return true;
        }
        let away = self.is_foul() && (self.outage.load(Ordering::Relaxed) || self.dice.once_in(80));
        if away {
            self.faults.fetch_add(1, Ordering::Relaxed);
        }
        away
    }
}
