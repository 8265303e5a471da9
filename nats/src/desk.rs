//! From the work carrier to the worker of the same process, without a way through NATS.
//!
//! While one worker process is alive there is nobody to share with: its carrier hands it what it asked for, and JetStream carries only
//! what it has no room for. Whoever takes an item says so, and the carrier's checkpoint moves over it then; what is not taken, or comes
//! back, goes to JetStream like everything else. So a process that dies with items on its desk loses none of them.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, oneshot};

use crate::work::WorkItem;

/// An item on the desk.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(crate) item: WorkItem,
    /// Says that a worker has begun with it. Dropped, the item goes to JetStream.
    pub(crate) taken: oneshot::Sender<()>,
}

/// Where the carrier lays items down and the source picks them up.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    laid: Mutex<Laid>,
    came: Notify,
}

#[derive(Debug, Default)]
struct Laid {
    items: VecDeque<Handed>,
    /// How many the sources of this process wait for: no more may lie here.
    room: usize,
}

impl Desk {
    fn laid(&self) -> MutexGuard<'_, Laid> {
        self.laid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lays an item down when somebody waits for one; what is returned resolves when it is taken, and fails when it won't be.
    pub(crate) fn hand(&self, item: WorkItem) -> Option<oneshot::Receiver<()>> {
        let mut laid = self.laid();
        if laid.items.len() >= laid.room {
            return None;
        }
        let (taken, answer) = oneshot::channel();
        laid.items.push_back(Handed { item, taken });
        drop(laid);
        self.came.notify_one();
        Some(answer)
    }

    /// Says for how many a source waits now, instead of for how many it waited before.
    pub(crate) fn wait_for(&self, before: &mut usize, now: usize) {
        if *before != now {
            let mut laid = self.laid();
            laid.room = laid.room.saturating_sub(*before) + now;
            *before = now;
        }
    }

    /// Up to so many items that the carrier has not given up.
    pub(crate) fn take(&self, most: usize) -> Vec<Handed> {
        let mut laid = self.laid();
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(handed) = laid.items.pop_front()
        {
            if !handed.taken.is_closed() {
                taken.push(handed);
            }
        }
        let more = !laid.items.is_empty();
        drop(laid);
        if more {
            // Another source of this process may have room for it.
            self.came.notify_one();
        }
        taken
    }

    /// Returns when something was laid down since it was asked last.
    pub(crate) async fn came(&self) {
        self.came.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use ledgerline_store::Position;
    use uuid::Uuid;

    use super::*;
    use crate::subject::Queue;

    fn item(n: u128) -> WorkItem {
        WorkItem {
            execution_id: Uuid::from_u128(n),
            workspace_id: Uuid::nil(),
            claim: 1,
            position: Position(1),
            queue: Queue::Default,
        }
    }

    #[tokio::test]
    async fn no_more_is_laid_down_than_is_waited_for() {
        let (desk, mut waits) = (Desk::default(), 0);
        assert!(desk.hand(item(1)).is_none(), "nobody waits");
        desk.wait_for(&mut waits, 2);
        let (first, second) = (desk.hand(item(1)).unwrap(), desk.hand(item(2)).unwrap());
        assert!(desk.hand(item(3)).is_none(), "two were asked for");
        desk.came().await;
        drop(first);
        let taken = desk.take(5);
        assert_eq!(taken.len(), 1, "the carrier has given up the first one");
        assert_eq!(taken[0].item, item(2));
        desk.wait_for(&mut waits, 0);
        assert!(desk.hand(item(3)).is_none(), "nobody waits any more");
        drop(taken);
        assert!(second.await.is_err(), "whoever took it went away without an answer");
    }

    #[tokio::test]
    async fn whoever_takes_says_so() {
        let (desk, mut waits) = (Desk::default(), 0);
        desk.wait_for(&mut waits, 1);
        let answer = desk.hand(item(1)).unwrap();
        let handed = desk.take(1).pop().unwrap();
        handed.taken.send(()).unwrap();
        answer.await.unwrap();
    }
}
