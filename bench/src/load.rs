//! A closed loop of callers: N in flight, no time to think.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Barrier;

use crate::latency::Latency;

/// What a loop measured.
pub(crate) struct Measured {
    /// Operations a second.
    pub per_second: f64,
    /// How long each operation took.
    pub latency: Latency,
}

/// The warm-up before each measured case: connections, plans and caches are not what is measured.
const WARM_UP: Duration = Duration::from_millis(700);

/// Runs `in_flight` loops of `work(caller, round)` for a time and counts what finished in it.
pub(crate) async fn closed_loop<F, Fut>(
    in_flight: usize,
    seconds: f64,
    work: F,
) -> anyhow::Result<Measured>
where
    F: Fn(usize, u64) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = anyhow::Result<()>> + Send,
{
    let barrier = Arc::new(Barrier::new(in_flight));
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..in_flight {
        let (work, barrier) = (work.clone(), Arc::clone(&barrier));
        callers.spawn(async move {
            let mut latency = Latency::default();
            barrier.wait().await;
            let begin = Instant::now() + WARM_UP;
            let end = begin + Duration::from_secs_f64(seconds);
            for round in 0.. {
                let started = Instant::now();
                if started >= end {
                    break;
                }
                work(caller, round).await?;
                if started >= begin {
                    latency.record(started.elapsed());
                }
            }
            anyhow::Ok(latency)
        });
    }
    let mut latency = Latency::default();
    while let Some(finished) = callers.join_next().await {
        latency.add(finished??);
    }
    Ok(Measured { per_second: latency.len() as f64 / seconds, latency })
}
