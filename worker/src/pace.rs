//! Where the rounds of a definition are planned: on a thread that may block, or at once.
//!
//! Planning evaluates expressions and templates, which may take long, and then must not hold up the async threads. Mostly it takes
//! microseconds, and the way to another thread and back is the longer part. What a definition's rounds took lately says which it is; the
//! bound on the cost of expressions keeps the first one that is misjudged from being long.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

/// What may be done at once.
const QUICK: Duration = Duration::from_millis(1);

/// How many rounds are planned on another thread after one that took longer.
const WARY_ROUNDS: u32 = 64;

/// How long the rounds of one definition take.
#[derive(Debug)]
pub(crate) struct Pace {
    /// How many rounds to come are planned on another thread.
    wary: AtomicU32,
}

impl Default for Pace {
    /// The first round of a definition shows how long they take.
    fn default() -> Self {
        Self { wary: AtomicU32::new(1) }
    }
}

impl Pace {
    /// Whether the next round may be planned at once.
    pub(crate) fn is_quick(&self) -> bool {
        self.wary.load(Ordering::Relaxed) == 0
    }

    /// Takes note of what a round took.
    pub(crate) fn note(&self, took: Duration) {
        if took > QUICK {
            self.wary.store(WARY_ROUNDS, Ordering::Relaxed);
        } else {
            let less = |wary: u32| wary.checked_sub(1);
            // It was quick before and is quick still.
            let _unchanged = self.wary.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_round_sends_those_after_it_elsewhere_for_a_while() {
        let pace = Pace::default();
        assert!(!pace.is_quick(), "the first one is tried elsewhere");
        pace.note(Duration::from_micros(50));
        assert!(pace.is_quick());
        pace.note(Duration::from_millis(20));
        for _ in 0..WARY_ROUNDS {
            assert!(!pace.is_quick());
            pace.note(Duration::from_micros(50));
        }
        assert!(pace.is_quick());
        pace.note(Duration::from_micros(50));
        assert!(pace.is_quick());
    }
}
