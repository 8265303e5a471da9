//! What the source keeps: items of the log that wait, those that were handed out, and whose turn it is.

use std::collections::{HashSet, VecDeque};

use uuid::Uuid;

use crate::{subject::Queue, work::WorkItem};

/// How many delivered items are remembered, so that a switch to the log does not hand them out again.
const MAX_REMEMBERED: usize = 8_192;

/// Whose turn it is among queues that all have work: by weight, spread evenly.
#[derive(Debug, Default)]
pub(super) struct Turns {
    credit: [i64; 3],
}

impl Turns {
    /// How many of `slots` belong to each queue.
    pub(super) fn share(&mut self, slots: usize) -> [usize; 3] {
        let mut shares = [0; 3];
        for _ in 0..slots {
            let mut first = 0;
            let mut total = 0;
            for queue in Queue::ALL {
                let weight = i64::try_from(queue.weight()).unwrap_or(1);
                total += weight;
                self.credit[queue.index()] += weight;
                if self.credit[queue.index()] > self.credit[first] {
                    first = queue.index();
                }
            }
            self.credit[first] -= total;
            shares[first] += 1;
        }
        shares
    }
}

/// Items of the log that wait for the worker.
#[derive(Debug, Default)]
pub(super) struct Held {
    queues: [VecDeque<WorkItem>; 3],
}

impl Held {
    pub(super) fn len(&self) -> usize {
        self.queues.iter().map(VecDeque::len).sum()
    }

    pub(super) fn push(&mut self, item: WorkItem) {
        self.queues[item.queue.index()].push_back(item);
    }

    pub(super) fn take(&mut self, turns: &mut Turns, slots: usize) -> Vec<WorkItem> {
        let slots = slots.min(self.len());
        let mut taken = Vec::with_capacity(slots);
        if slots == 0 {
            return taken;
        }
        for (queue, share) in self.queues.iter_mut().zip(turns.share(slots)) {
            taken.extend(queue.drain(..share.min(queue.len())));
        }
        for queue in &mut self.queues {
            let left = slots - taken.len();
            taken.extend(queue.drain(..left.min(queue.len())));
        }
        taken
    }
}

/// The items that were handed out last.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    known: HashSet<(Uuid, i32)>,
    order: VecDeque<(Uuid, i32)>,
}

impl Remembered {
    pub(super) fn insert(&mut self, item: &WorkItem) {
        let key = (item.execution_id, item.claim);
        if self.known.insert(key) {
            self.order.push_back(key);
            if self.order.len() > MAX_REMEMBERED {
                self.order.pop_front().inspect(|oldest| {
                    self.known.remove(oldest);
                });
            }
        }
    }

    pub(super) fn remove(&mut self, item: &WorkItem) {
        let key = (item.execution_id, item.claim);
        if self.known.remove(&key) {
            self.order.retain(|known| *known != key);
        }
    }

    pub(super) fn holds(&self, item: &WorkItem) -> bool {
        self.known.contains(&(item.execution_id, item.claim))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use ledgerline_store::Position;

    use super::*;

    fn item(queue: Queue, n: u128) -> WorkItem {
        WorkItem {
            execution_id: Uuid::from_u128(n),
            workspace_id: Uuid::nil(),
            claim: 1,
            position: Position(1),
            queue,
        }
    }

    #[test]
    fn slots_are_shared_by_weight_also_one_at_a_time() {
        let mut turns = Turns::default();
        assert_eq!(turns.share(10), [6, 3, 1]);
        let mut shares = [0; 3];
        for _ in 0..100 {
            for (sum, share) in shares.iter_mut().zip(turns.share(1)) {
                *sum += share;
            }
        }
        assert_eq!(shares, [60, 30, 10]);
    }

    proptest! {
        #[test]
        fn as_much_is_taken_as_there_is_and_as_was_asked_for(
            counts in any::<[u8; 3]>(), slots in 0..400_usize,
        ) {
            let mut held = Held::default();
            let mut n = 0;
            for (queue, count) in Queue::ALL.into_iter().zip(counts) {
                for _ in 0..count {
                    n += 1;
                    held.push(item(queue, n));
                }
            }
            let before = held.len();
            let taken = held.take(&mut Turns::default(), slots);
            prop_assert_eq!(taken.len(), slots.min(before));
            prop_assert_eq!(taken.len() + held.len(), before);
            for queue in Queue::ALL {
                let order: Vec<_> =
                    taken.iter().filter(|item| item.queue == queue).map(|item| item.execution_id).collect();
                prop_assert!(order.is_sorted(), "a queue is first in, first out");
            }
        }
    }

    #[test]
    fn low_gets_its_share_while_high_never_ends() {
        let mut held = Held::default();
        let mut turns = Turns::default();
        (0..10).for_each(|n| held.push(item(Queue::Low, n)));
        let mut low = 0;
        for n in 0..100 {
            held.push(item(Queue::High, 1_000 + n));
            held.push(item(Queue::High, 5_000 + n));
            low += held.take(&mut turns, 1).iter().filter(|item| item.queue == Queue::Low).count();
        }
        assert_eq!(low, 10);
    }

    #[test]
    fn what_was_handed_out_is_remembered_until_it_comes_back() {
        let mut remembered = Remembered::default();
        let first = item(Queue::High, 1);
        remembered.insert(&first);
        assert!(remembered.holds(&first));
        assert!(!remembered.holds(&WorkItem { claim: 2, ..first }), "a new claim is new work");
        remembered.remove(&first);
        assert!(!remembered.holds(&first));
        for n in 0..=MAX_REMEMBERED as u128 {
            remembered.insert(&item(Queue::Low, n));
        }
        assert_eq!(remembered.known.len(), MAX_REMEMBERED);
        assert!(!remembered.holds(&item(Queue::Low, 0)), "the oldest goes first");
    }
}
