//! The projectors of a process, all of them.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use ledgerline_store::EventLog;
use sqlx::PgPool;
use tokio::time::sleep;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    feed::Feed,
    model::{Model, with_projection},
    projector::{Projector, ProjectorConfig},
    status,
    wait::Positions,
};

/// How often the gauges are set.
const MEASURE: Duration = Duration::from_secs(2);

/// Starts a projector for each read model, and what measures their lag, on the tracker, until the token is cancelled. The
/// schemas must be there: see [`crate::prepare`]. `positions` is what queries of this process wait on.
pub fn spawn(
    pool: &PgPool,
    log: &Arc<dyn EventLog>,
    positions: &Positions,
    config: &ProjectorConfig,
    clock: fn() -> DateTime<Utc>,
    tracker: &TaskTracker,
    cancel: &CancellationToken,
) {
    let feed = Arc::new(Feed::new(Arc::clone(log)));
    for model in Model::ALL {
        let known = positions.known(*model);
        let (position, state) = (known.position.clone(), known.state.clone());
        with_projection!(*model, P => {
            let projector: Projector<P> = Projector::new(
                *model, pool.clone(), Arc::clone(&feed), config.clone(), position, state, cancel.clone(),
            );
            tracker.spawn(projector.run());
        });
    }
    let (log, positions, cancel) = (Arc::clone(log), positions.clone(), cancel.clone());
    tracker.spawn(async move {
        while cancel.run_until_cancelled(sleep(MEASURE)).await.is_some() {
            if let Err(error) = status::measure(&log, &positions, clock()).await {
                tracing::debug!(%error, "the lag of the projectors cannot be measured");
            }
        }
    });
}
