//! Listens to the log for what others write to the runs of this worker: a cancel, a pause, a timer, a newer claim.

use std::{sync::Arc, time::Duration};

use ledgerline_domain::{event::DomainEvent as _, execution::ExecutionEvent};
use ledgerline_store::{RecordedEvent, Tail};
use tokio_util::sync::CancellationToken;

use crate::worker::Shared;

/// How many events are looked at before others get their turn.
const BATCH: usize = 2_000;

/// What only a run's own worker writes: it need not be told.
const OWN: &[&str] = &[
    "execution_requested",
    "execution_queued",
    "execution_started",
    "execution_resumed",
    "node_started",
    "node_completed",
    "node_failed",
    "node_skipped",
    "loop_iterated",
    "loop_item_failed",
    "child_started",
    "timer_set",
    "approval_requested",
    "signal_awaited",
    "signal_consumed",
    "task_offered",
    "variable_set",
    "execution_waiting",
    "execution_completed",
    "execution_failed",
];

/// Tells runs until the token is cancelled.
pub(crate) async fn listen(shared: Arc<Shared>, tail: Arc<Tail>, over: CancellationToken) {
    let from = *shared.commands.log().watch_head().borrow();
    let mut reader = tail.reader(from);
    loop {
        let batch = tokio::select! {
            batch = reader.next_batch(BATCH) => batch,
            () = over.cancelled() => return,
        };
        match batch {
            Ok(events) => events
                .iter()
                .filter(|event| is_news(event))
                .for_each(|event| shared.runs.tell(event.stream.0, event.position)),
            Err(error) => {
                tracing::warn!(%error, "the log can't be followed; runs learn of commands when they append");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

fn is_news(event: &RecordedEvent) -> bool {
    event.category == ExecutionEvent::CATEGORY && !OWN.contains(&event.r#type.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_worker_writes_by_itself_are_events_that_exist() {
        for own in OWN {
            assert!(ExecutionEvent::TYPES.iter().any(|(name, _)| name == own), "{own}");
        }
    }
}
