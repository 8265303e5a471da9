//! Leading by lease: of any number of processes one does the work, and one that was only asleep is fenced off.

use std::{future::Future, sync::Arc, time::Duration};

use ledgerline_store::{EventLog, Fence, Lease, Position, StoreError};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::LoadError;

/// How a background loop leads and waits.
#[derive(Clone, Debug)]
pub struct Leading {
    /// This process, unique among all.
    pub owner: String,
    /// How long another process waits after the last sign of life before it takes over.
    pub lease_ttl: Duration,
}

impl Leading {
    fn ttl_ms(&self) -> i64 {
        i64::try_from(self.lease_ttl.as_millis()).unwrap_or(i64::MAX)
    }
}

/// Why a background loop ended though nobody told it to.
#[derive(Debug, thiserror::Error)]
pub enum StandDown {
    /// The log holds what only a newer build knows: this process must not lead any more.
    #[error("{reader} stands down before an event that it does not know")]
    UnknownEvent {
        /// Which loop.
        reader: &'static str,
        /// The event.
        #[source]
        source: LoadError,
    },
    /// The log holds what no build can read: a person has to look.
    #[error("{reader} stands down before an event that cannot be read")]
    Unreadable {
        /// Which loop.
        reader: &'static str,
        /// The event.
        #[source]
        source: LoadError,
    },
}

/// Why a term of leadership ended.
#[derive(Debug)]
pub(crate) enum TermEnd {
    /// The process is stopping.
    Stopped,
    /// Another process leads now, or the store was away: try to lead again.
    Lost,
    /// This process must not lead.
    StandDown(StandDown),
}

impl TermEnd {
    /// What a read that failed means for a loop.
    pub(crate) fn unreadable(reader: &'static str, source: LoadError) -> Self {
        match source {
            LoadError::UnknownEvent { .. } => {
                Self::StandDown(StandDown::UnknownEvent { reader, source })
            }
            LoadError::WrongCategory { .. } | LoadError::Corrupt { .. } => {
                Self::StandDown(StandDown::Unreadable { reader, source })
            }
            LoadError::DiskFull | LoadError::Unavailable(_) => {
                tracing::warn!(reader, error = %source, "the store is away");
                Self::Lost
            }
        }
    }

    pub(crate) fn store(reader: &'static str, error: &StoreError) -> Self {
        tracing::warn!(reader, %error, "the term ends");
        Self::Lost
    }
}

/// One term of leadership.
pub(crate) struct Term {
    log: Arc<dyn EventLog>,
    pub(crate) reader: &'static str,
    pub(crate) lease: Lease,
    ttl_ms: i64,
    ttl: Duration,
    /// The lease is ours for its time to live from here on, at least: the moment before it was asked for.
    renewed_at: Instant,
    /// When to ask for it again.
    renew_at: Instant,
}

impl Term {
    /// Waits until this process leads. `None` when it is stopped before.
    pub(crate) async fn begin(
        log: &Arc<dyn EventLog>,
        reader: &'static str,
        leading: &Leading,
        stop: &CancellationToken,
    ) -> Option<Self> {
        let ttl = leading.lease_ttl;
        let ttl_ms = leading.ttl_ms();
        loop {
            let asked_at = Instant::now();
            let acquired = tokio::select! {
                () = stop.cancelled() => return None,
                acquired = log.acquire_lease(reader, &leading.owner, ttl_ms) => acquired,
            };
            match acquired {
                Ok(Some(lease)) => {
                    tracing::info!(reader, epoch = lease.epoch, position = %lease.position, "leads");
                    let log = Arc::clone(log);
                    return Some(Self {
                        log,
                        reader,
                        lease,
                        ttl_ms,
                        ttl,
                        renewed_at: asked_at,
                        renew_at: asked_at + ttl / 3,
                    });
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(reader, %error, "failed to ask for the lease"),
            }
            let _stopped = timeout(ttl / 3, stop.cancelled()).await;
        }
    }

    /// What an append must still be under.
    pub(crate) fn fence(&self) -> Fence {
        Fence::from(&self.lease)
    }

    /// Everything up to here has been done.
    pub(crate) fn position(&self) -> Position {
        self.lease.position
    }

    /// Does work while holding on to the lease. What the work has in flight when the lease is lost is fenced anyway.
    pub(crate) async fn during<T>(
        &mut self,
        stop: &CancellationToken,
        work: impl Future<Output = T>,
    ) -> Result<T, TermEnd> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Err(TermEnd::Stopped),
                () = sleep_until(self.renew_at) => self.renew().await?,
                done = &mut work => return Ok(done),
            }
        }
    }

    /// Asks for the lease again. A store that is away for a moment does not take it from us: the term goes on until two thirds of
    /// the lease's time have gone by our own clock, so that it has ended before another process can lead.
    async fn renew(&mut self) -> Result<(), TermEnd> {
        let (asked_at, ends_at) = (Instant::now(), self.renewed_at + self.ttl * 2 / 3);
        let renewal = self.log.renew_lease(&self.lease, self.ttl_ms);
        let error = match timeout_at(ends_at, renewal).await {
            Ok(Ok(())) => {
                self.renewed_at = asked_at;
                self.renew_at = asked_at + self.ttl / 3;
                return Ok(());
            }
            Ok(Err(error)) => error,
            Err(elapsed) => StoreError::Unavailable(elapsed.into()),
        };
        let passes = matches!(error, StoreError::Unavailable(_) | StoreError::DiskFull);
        if passes && Instant::now() < ends_at {
            tracing::debug!(reader = self.reader, %error, "the lease was not renewed yet");
            self.renew_at = ends_at.min(Instant::now() + self.ttl / 12);
            return Ok(());
        }
        Err(TermEnd::store(self.reader, &error))
    }

    /// Moves the checkpoint.
    pub(crate) async fn advance(&mut self, to: Position) -> Result<(), TermEnd> {
        if to <= self.lease.position {
            return Ok(());
        }
        let moved = self.log.advance(&mut self.lease, to).await;
        moved.map_err(|error| TermEnd::store(self.reader, &error))
    }

    /// Lets another process lead at once.
    pub(crate) async fn end(self) {
        if let Err(error) = self.log.release_lease(&self.lease).await {
            tracing::debug!(reader = self.reader, %error, "the lease was not released");
        }
    }
}

/// How long to wait before asking for the lease again after a term that was lost.
const AFTER_A_LOSS: Duration = Duration::from_millis(200);

/// A loop that leads by lease.
pub(crate) trait Lead: Sync {
    /// The name of its lease.
    const READER: &'static str;

    /// Leads for one term, until that ends.
    fn lead(
        &self,
        term: &mut Term,
        stop: &CancellationToken,
    ) -> impl Future<Output = TermEnd> + Send;
}

/// Leads term after term.
pub(crate) async fn lead_until_stopped<L: Lead>(
    looped: &L,
    log: &Arc<dyn EventLog>,
    leading: &Leading,
    stop: &CancellationToken,
) -> Result<(), StandDown> {
    while let Some(mut term) = Term::begin(log, L::READER, leading, stop).await {
        let ended = looped.lead(&mut term, stop).await;
        term.end().await;
        match ended {
            TermEnd::Stopped => break,
            TermEnd::Lost => {
                let _stopped = timeout(AFTER_A_LOSS, stop.cancelled()).await;
            }
            TermEnd::StandDown(reason) => return Err(reason),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
