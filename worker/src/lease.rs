//! The worker's one lease: while it is held, its claims are its own.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use crate::worker::Shared;

/// What ends every run that was taken on under one epoch of the lease.
pub(crate) struct Tenure(Mutex<CancellationToken>);

impl Tenure {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(CancellationToken::new()))
    }

    /// Ends with the present epoch.
    pub(crate) fn token(&self) -> CancellationToken {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends every run that was taken on until now.
    pub(crate) fn end(&self) {
        let mut token = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *token, CancellationToken::new()).cancel();
    }
}

/// Holds the lease until the token is cancelled, then gives it up. When it was lost meanwhile, every run that was taken on before is
/// given up: others may have been given their claims, and whatever these runs would append is refused.
pub(crate) async fn hold(shared: Arc<Shared>, tenure: Arc<Tenure>, over: CancellationToken) {
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
                    tenure.end();
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
