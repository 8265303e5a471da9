//! Items from the queues on JetStream: what is there now, and the next one when it comes.

use std::{pin::Pin, task::Poll, time::Duration};

use async_nats::jetstream::{
    self, AckKind,
    consumer::{PullConsumer, pull},
};
use futures_util::{Stream as _, StreamExt as _, future::join_all};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{
    Seeker, Side,
    delivery::{Delivery, Origin},
};
use crate::{
    subject::Queue,
    topology::{Nats, TopologyError},
    work::WorkItem,
};

/// How long a fetch of what is there may take.
const FETCH_PATIENCE: Duration = Duration::from_secs(2);

pub(super) struct Pulls {
    pub(super) generation: u64,
    pub(super) consumers: [PullConsumer; 3],
    /// At most one request for one next item is at the server for each queue.
    pub(super) waiting: [Option<pull::Batch>; 3],
}

/// What a queue answered to the request for its next item; nothing when the request has expired.
pub(super) type NextItem = Option<Result<Box<jetstream::Message>, async_nats::Error>>;

impl Seeker {
    /// A queue whose next item was asked for sends it by itself: it need not be looked at.
    pub(super) fn has_queues_to_look_at(&self) -> bool {
        match &self.side {
            Side::Nats(pulls) => pulls.waiting.iter().any(Option::is_none),
            Side::Undecided { .. } | Side::Log { .. } => false,
        }
    }

    /// What is on the queues now: each queue's share first, then what the others left.
    pub(super) async fn fetch(&mut self, slots: usize, shares: [usize; 3]) -> Vec<Delivery> {
        let Side::Nats(pulls) = &self.side else { return Vec::new() };
        let mut messages = Vec::new();
        let mut drained = [false; 3];
        let mut broken = false;
        let mut note = |queue: Queue, wanted: usize, fetched: Result<Vec<_>, _>| match fetched {
            Ok(fetched) => {
                drained[queue.index()] = fetched.len() < wanted;
                messages.extend(fetched);
            }
            Err(error) => {
                debug!(%error, %queue, "a queue gives nothing");
                broken = true;
            }
        };
        // Each queue's share at once, for one round trip instead of three.
        let asked = Queue::ALL.map(|queue| async move {
            let wanted = shares[queue.index()];
            let fetched = match wanted {
                0 => Ok(Vec::new()),
                wanted => fetch_now(&pulls.consumers[queue.index()], wanted).await,
            };
            (queue, wanted, fetched)
        });
        for (queue, wanted, fetched) in join_all(asked).await {
            note(queue, wanted, fetched);
        }
        for queue in Queue::ALL {
            let wanted = slots - messages.len();
            if wanted == 0 || drained[queue.index()] || broken {
                continue;
            }
            match fetch_now(&pulls.consumers[queue.index()], wanted).await {
                Ok(fetched) => {
                    drained[queue.index()] = fetched.len() < wanted;
                    messages.extend(fetched);
                }
                Err(error) => {
                    debug!(%error, %queue, "a queue gives nothing");
                    broken = true;
                }
            }
        }
        if broken {
            self.give_up_consumers();
        }
        let mut deliveries = Vec::with_capacity(messages.len());
        for message in messages {
            deliveries.extend(self.open(message).await);
        }
        deliveries
    }

    /// Has the server send the next item of each queue when there is one.
    pub(super) async fn ask_for_next(&mut self) {
        let wait = self.config.pull_wait;
        let Side::Nats(pulls) = &mut self.side else { return };
        let mut broken = false;
        for (consumer, waiting) in pulls.consumers.iter().zip(&mut pulls.waiting) {
            if waiting.is_none() {
                let asked = consumer.batch().max_messages(1).expires(wait).messages();
                match tokio::time::timeout(FETCH_PATIENCE, asked).await {
                    Ok(Ok(batch)) => *waiting = Some(batch),
                    Ok(Err(_)) | Err(_) => broken = true,
                }
            }
        }
        if broken {
            self.give_up_consumers();
        }
    }

    /// Looks for the consumers anew, after having everything declared again.
    pub(super) fn give_up_consumers(&mut self) {
        if let Some(nats) = &self.nats {
            nats.suspect();
        }
        self.failures = self.failures.saturating_add(1);
        self.side = Side::Undecided { since: Instant::now() };
    }

    pub(super) async fn accept(&mut self, item: NextItem, queue: usize) {
        if !matches!(item, Some(Ok(_)))
            && let Side::Nats(pulls) = &mut self.side
        {
            // The request has expired, or was answered and is spent.
            pulls.waiting[queue] = None;
        }
        match item {
            Some(Ok(message)) => {
                if let Some(delivery) = self.open(*message).await {
                    self.serve(Some(delivery)).await;
                }
            }
            Some(Err(error)) => {
                debug!(%error, "a queue refuses to give its next item");
                self.give_up_consumers();
            }
            None => {}
        }
    }

    /// Reads a message of work. One that cannot be read was written by a newer build: it goes back for a newer worker.
    pub(super) async fn open(&mut self, message: jetstream::Message) -> Option<Delivery> {
        match serde_json::from_slice::<WorkItem>(&message.payload) {
            Ok(item) => Some(self.delivery(item, Origin::Nats(Box::new(message)))),
            Err(error) => {
                warn!(%error, "a message of work cannot be read by this build");
                let later = AckKind::Nak(Some(Duration::from_secs(5)));
                if message.ack_with(later).await.is_err() {
                    debug!("an unreadable message goes back when its time is over");
                }
                None
            }
        }
    }
}

pub(super) async fn find_consumers(nats: &Nats) -> Result<[PullConsumer; 3], TopologyError> {
    Ok([
        nats.work_consumer(Queue::High).await?,
        nats.work_consumer(Queue::Default).await?,
        nats.work_consumer(Queue::Low).await?,
    ])
}

/// Up to `most` items that are on a queue now.
async fn fetch_now(
    consumer: &PullConsumer,
    most: usize,
) -> Result<Vec<jetstream::Message>, async_nats::Error> {
    let mut fetched = Vec::new();
    let deadline = Instant::now() + FETCH_PATIENCE;
    let asked = consumer.fetch().max_messages(most).messages();
    let mut batch = tokio::time::timeout_at(deadline, asked).await??;
    loop {
        match tokio::time::timeout_at(deadline, batch.next()).await {
            Ok(Some(Ok(message))) => fetched.push(message),
            Ok(None) => return Ok(fetched),
            // What has come is delivered; the next fetch meets the trouble again.
            Ok(Some(Err(error))) => {
                return if fetched.is_empty() { Err(error) } else { Ok(fetched) };
            }
            Err(elapsed) => {
                return if fetched.is_empty() { Err(elapsed.into()) } else { Ok(fetched) };
            }
        }
    }
}

/// The next item of any queue that was asked for one, in order of the queues.
pub(super) async fn next_item(side: &mut Side) -> (NextItem, usize) {
    let Side::Nats(pulls) = side else { return std::future::pending().await };
    std::future::poll_fn(|context| {
        for (queue, waiting) in pulls.waiting.iter_mut().enumerate() {
            if let Some(batch) = waiting
                && let Poll::Ready(item) = Pin::new(batch).poll_next(context)
            {
                return Poll::Ready((item.map(|item| item.map(Box::new)), queue));
            }
        }
        Poll::Pending
    })
    .await
}
