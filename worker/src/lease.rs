//! The worker's one lease: while it is held, its claims are its own.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::worker::Shared;

/// Holds the lease until the token is cancelled, then gives it up. When it was lost meanwhile, `abandon` ends every run: others may
/// have been given their claims, and whatever these runs would append is refused.
pub(crate) async fn hold(shared: Arc<Shared>, abandon: CancellationToken, over: CancellationToken) {
    let settings = shared.settings();
    let ttl_ms = i64::try_from(settings.lease_ttl.as_millis()).unwrap_or(i64::MAX);
    let slots = i32::try_from(settings.slots).unwrap_or(i32::MAX);
    let every = (settings.lease_ttl / 3).max(Duration::from_millis(10));
    let mut epoch = None;
    loop {
        match shared.commands.log().renew_worker_lease(&settings.worker, slots, ttl_ms).await {
            Ok(lease) => {
                if epoch.is_some_and(|held| held != lease.epoch) {
                    tracing::warn!(worker = %settings.worker, "the worker's lease had expired; its runs are given up");
                    abandon.cancel();
                }
                epoch = Some(lease.epoch);
            }
            Err(error) => {
                tracing::warn!(worker = %settings.worker, %error, "the worker's lease can't be renewed now")
            }
        }
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = over.cancelled() => break,
        }
    }
    if let Err(error) = shared.commands.log().release_worker_lease(&settings.worker).await {
        tracing::warn!(worker = %settings.worker, %error, "the worker's lease runs out by itself");
    }
}
