//! Chance that follows from a seed, the same with every version of every library.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// SplitMix64. Clones go on together; [`Dice::part`] gives one that goes on alone, so that one component's throws don't shift
/// another's.
#[derive(Clone, Debug)]
pub(crate) struct Dice(Arc<AtomicU64>);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(AtomicU64::new(seed)))
    }

    pub(crate) fn part(&self) -> Self {
        Self::new(self.next())
    }

    pub(crate) fn next(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `sides`.
    pub(crate) fn below(&self, sides: u64) -> u64 {
        self.next() % sides
    }

    /// True once in so many throws.
    pub(crate) fn once_in(&self, throws: u64) -> bool {
        self.below(throws) == 0
    }

    pub(crate) fn of<'a, T>(&self, items: &'a [T]) -> Option<&'a T> {
        let count = u64::try_from(items.len()).expect("a list fits in memory");
        let index = self.below(count.max(1));
        items.get(usize::try_from(index).expect("it is below the length of a list"))
    }
}
