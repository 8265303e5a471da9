//! Keeps a read model up to date: a loop that leads by lease, reads the log after its checkpoint, and applies it in batches.
//!
//! Projectors run beside each other, so a slow one holds nobody up. Any number of processes may run one: the lease lets one of
//! them lead, and the compare-and-set of its checkpoint fences off a leader that was only asleep.

use std::{sync::Arc, time::Duration};

use ledgerline_store::{Lease, Position, StoreError};
use sqlx::PgPool;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    applier::{Applier, Stop},
    feed::{Batch, Feed, MAX_BATCH},
    model::Model,
    projection::Projection,
    rebuild,
    status::State,
};

/// A log that is this much ahead of an empty model is not caught up with batch by batch, but by a rebuild.
pub const REBUILD_ABOVE: i64 = 20_000;

/// How long a checkpoint may lag behind in the table while events pass that its model does not want.
const LAZY_ADVANCE: Duration = Duration::from_millis(50);

/// Batches smaller than this are not started more often than [`ProjectorConfig::pace`].
const SMALL_BATCH: usize = 512;

/// How projectors of a process run.
#[derive(Clone, Debug)]
pub struct ProjectorConfig {
    /// This process, for the lease: unique among all that run now.
    pub owner: String,
    /// How long a leader that says nothing is waited for.
    pub lease_ttl: Duration,
    /// How often the log is looked at when nothing woke the projector.
    pub poll: Duration,
    /// The shortest time between two small batches: under load events gather instead of costing a transaction each. The first
    /// event after a pause never waits.
    pub pace: Duration,
    /// How long to wait after a failure before trying again.
    pub retry: Duration,
}

impl ProjectorConfig {
    /// The usual waits, for a process.
    pub fn new(owner: impl Into<String>) -> Self {
        Self {
            owner: owner.into(),
            lease_ttl: Duration::from_secs(10),
            poll: Duration::from_secs(1),
            pace: Duration::from_millis(20),
            retry: Duration::from_millis(500),
        }
    }

    fn ttl_ms(&self) -> i64 {
        i64::try_from(self.lease_ttl.as_millis()).unwrap_or(i64::MAX)
    }
}

/// Why a projector stopped leading.
enum End {
    /// The process stops.
    Cancelled,
    /// Somebody else leads now, or asked for a fresh start.
    Fenced,
    /// It met an event of a newer build.
    StoodDown(String),
    /// Something is away.
    Failed(String),
}

impl From<Stop> for End {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Fenced => Self::Fenced,
            Stop::Unknown(what) => Self::StoodDown(what),
            Stop::Unavailable(_) => Self::Failed(chain(&stop)),
        }
    }
}

impl From<StoreError> for End {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Fenced { .. } => Self::Fenced,
            StoreError::DiskFull | StoreError::Unavailable(_) | StoreError::Corrupt { .. } => {
                Self::Failed(chain(&error))
            }
        }
    }
}

/// An error with its sources, for an operator.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// The loop of one model.
pub(crate) struct Projector<P> {
    model: Model,
    pool: PgPool,
    feed: Arc<Feed>,
    config: ProjectorConfig,
    applier: Applier<P>,
    /// Up to where the rows reflect the log, as far as this process knows.
    position: watch::Sender<Position>,
    state: watch::Sender<State>,
    cancel: CancellationToken,
}

impl<P: Projection> Projector<P> {
    pub(crate) fn new(
        model: Model,
        pool: PgPool,
        feed: Arc<Feed>,
        config: ProjectorConfig,
        position: watch::Sender<Position>,
        state: watch::Sender<State>,
        cancel: CancellationToken,
    ) -> Self {
        let applier = Applier::new(pool.clone(), model.schema());
        Self { model, pool, feed, config, applier, position, state, cancel }
    }

    /// Leads whenever it can, until the token is cancelled.
    pub(crate) async fn run(mut self) {
        let cancel = self.cancel.clone();
        while !cancel.is_cancelled() {
            let Some(lease) = self.take_lease().await else { continue };
            match self.lead(lease).await {
                End::Cancelled => break,
                End::Fenced => self.state.send_replace(State::Standby),
                End::StoodDown(what) => {
                    tracing::error!(model = self.model.as_str(), what, "the projector stands down");
                    self.state.send_replace(State::StoodDown(what));
                    // A newer build takes over. This one cannot go on, whatever it waits for.
                    cancel.cancelled().await;
                    break;
                }
                End::Failed(error) => {
                    tracing::warn!(
                        model = self.model.as_str(),
                        error,
                        "the projector failed and tries again"
                    );
                    self.state.send_replace(State::Failed(error));
                    self.pause(self.config.retry).await;
                    continue;
                }
            };
        }
        self.state.send_replace(State::Stopped);
    }

    /// The lease; none after a wait when somebody else holds it.
    async fn take_lease(&mut self) -> Option<Lease> {
        let reader = self.model.reader();
        let log = Arc::clone(self.feed.log());
        let taken = log.acquire_lease(&reader, &self.config.owner, self.config.ttl_ms()).await;
        match taken {
            Ok(Some(lease)) => Some(lease),
            Ok(None) => {
                self.state.send_replace(State::Standby);
                self.pause(self.config.lease_ttl / 4).await;
                None
            }
            Err(error) => {
                self.state.send_replace(State::Failed(chain(&error)));
                self.pause(self.config.retry).await;
                None
            }
        }
    }

    async fn lead(&mut self, mut lease: Lease) -> End {
        let end = self.lead_until(&mut lease).await;
        if let End::Cancelled | End::StoodDown(_) = end
            && let Err(error) = self.feed.log().release_lease(&lease).await
        {
            tracing::debug!(%error, "the lease was not released and expires");
        }
        end
    }

    async fn lead_until(&mut self, lease: &mut Lease) -> End {
        if let Err(stop) = self.applier.restart(&self.model.reader()).await {
            return stop.into();
        }
        self.state.send_replace(State::Leading { quarantined: self.applier.waiting() });
        publish(&self.position, lease.position);
        if let Err(end) = self.rebuild_when_new(lease).await {
            return end;
        }
        match self.follow(lease).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    /// An empty model far behind the log (its version is new, or its schema was dropped) is rebuilt, which fences this lease.
    async fn rebuild_when_new(&mut self, lease: &Lease) -> Result<(), End> {
        if lease.position > Position::START
            || self.feed.log().head().await?.position.0 < REBUILD_ABOVE
        {
            return Ok(());
        }
        self.state.send_replace(State::Rebuilding);
        let log = Arc::clone(self.feed.log());
        let (progress, _) = watch::channel(rebuild::Progress::default());
        let rebuilt = rebuild::rebuild(
            &self.pool,
            &log,
            self.model,
            &self.config.owner,
            &progress,
            &self.cancel,
        )
        .await;
        match rebuilt {
            Ok(_) => Err(End::Fenced),
            Err(rebuild::RebuildError::Cancelled) => Err(End::Cancelled),
            // Another process does it: it will fence this lease when it is done. Meanwhile the rows grow here.
            Err(rebuild::RebuildError::Running) => Ok(()),
            Err(error) => Err(End::Failed(chain(&error))),
        }
    }

    async fn follow(&mut self, lease: &mut Lease) -> Result<std::convert::Infallible, End> {
        let log = Arc::clone(self.feed.log());
        let feed = Arc::clone(&self.feed);
        let mut head = log.watch_head();
        let mut applied = lease.position;
        let mut renewed = Instant::now();
        let mut advanced = Instant::now();
        let mut prefetched: Option<Batch> = None;
        loop {
            if self.cancel.is_cancelled() {
                self.settle(lease, applied).await?;
                return Err(End::Cancelled);
            }
            if renewed.elapsed() > self.config.lease_ttl / 3 {
                log.renew_lease(lease, self.config.ttl_ms()).await?;
                renewed = Instant::now();
            }
            head.mark_unchanged();
            let batch = match prefetched.take() {
                Some(batch) => batch,
                None => feed.after(applied, MAX_BATCH).await?,
            };
            let Some(end) = batch.end() else {
                let mut wait = self.config.poll.min(self.config.lease_ttl / 3);
                if applied > lease.position {
                    if advanced.elapsed() >= LAZY_ADVANCE {
                        self.settle(lease, applied).await?;
                        advanced = Instant::now();
                    } else {
                        wait = wait.min(LAZY_ADVANCE);
                    }
                }
                self.woken(&mut head, wait).await;
                continue;
            };
            let began = Instant::now();
            let entries = batch.entries();
            if self.applier.concerns(&entries) {
                let waiting = self.applier.waiting();
                if batch.len() == MAX_BATCH {
                    let (done, next) = tokio::join!(
                        self.applier.apply(lease, &entries),
                        feed.after(end, MAX_BATCH)
                    );
                    done?;
                    prefetched = Some(next?);
                } else {
                    self.applier.apply(lease, &entries).await?;
                }
                if self.applier.waiting() != waiting {
                    self.state.send_replace(State::Leading { quarantined: self.applier.waiting() });
                }
                advanced = Instant::now();
            }
            applied = end;
            publish(&self.position, applied);
            if batch.len() < SMALL_BATCH {
                self.pause(self.config.pace.saturating_sub(began.elapsed())).await;
            }
        }
    }

    /// Brings the checkpoint in the table up to what was read.
    async fn settle(&mut self, lease: &mut Lease, applied: Position) -> Result<(), End> {
        if applied > lease.position {
            self.applier.advance(lease, applied).await?;
        }
        Ok(())
    }

    /// Waits until the log grew, a while passed or the process stops.
    async fn woken(&self, head: &mut watch::Receiver<Position>, wait: Duration) {
        let changed = timeout(wait, head.changed());
        if let Some(Ok(Err(_))) = self.cancel.run_until_cancelled(changed).await {
            // The log's own task is gone: only the clock is left to wake this.
            self.pause(wait).await;
        }
    }

    async fn pause(&self, wait: Duration) {
        if !wait.is_zero() {
            self.cancel.run_until_cancelled(sleep(wait)).await;
        }
    }
}

/// Says how far the rows are. Never back: another process may have said more already.
pub(crate) fn publish(sender: &watch::Sender<Position>, position: Position) {
    sender.send_if_modified(|known| {
        let ahead = position > *known;
        *known = position.max(*known);
        ahead
    });
}
