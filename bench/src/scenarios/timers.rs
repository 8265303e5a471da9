//! Ten thousand runs of the real program that wait for one instant: how late each timer fires, and what a waiting run costs in memory.
//! Then timers that come due one by one.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};

use crate::{
    latency::Latency,
    report::Report,
    runs::{Watch, start, workflow},
    server::Server,
    servers::Servers,
};

/// Timers that are due at one instant.
const DUE: usize = 10_000;
/// How far ahead that instant is: all of them must wait by then.
const AHEAD: TimeDelta = TimeDelta::seconds(90);
/// Timers that come due one by one, so many a second.
const SINGLE: usize = 200;
const SINGLE_PER_SECOND: usize = 20;
/// Runs that fill caches, plans and connections before memory is looked at.
const WARM_UP: usize = 1_000;

/// One wait for the time in the input.
fn definition() -> Value {
    json!({
        "name": "Timers",
        "nodes": [{"id": "wait", "type": "logic.wait", "config": {"until": "{{ input.until }}"}}],
        "connections": [],
        "settings": {"concurrency": {"limit": 10_000}},
    })
}

pub(crate) async fn run(servers: &Servers, report: &mut Report) -> anyhow::Result<()> {
    let server = Server::start(servers, "timers").await?;
    let mut watch = Watch::of(servers, "timers").await?;
    let workflow = workflow(&server, &definition()).await?;
    start(&server, &workflow, vec![json!({"until": Utc::now()}); WARM_UP]).await?;
    watch.until("execution_completed", WARM_UP).await?;

    let (before, begun) = (server.resident_mib()?, watch.position());
    let due_at = Utc::now() + AHEAD;
    start(&server, &workflow, vec![json!({"until": due_at}); DUE]).await?;
    watch.until("execution_waiting", WARM_UP + DUE).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let grown = (server.resident_mib()? - before) * 1_024.0 / DUE as f64;
    report.row(json!({"what": "memory", "waiting": DUE}), grown, "KiB a run", None, None);
    anyhow::ensure!(Utc::now() < due_at, "the machine is too slow to have {DUE} runs wait in time");

    watch.until("timer_fired", WARM_UP + DUE).await?;
    let fired = lateness(&watch, begun).await?;
    let last = fired.quantiles_ms([1.0]).map_or(0.0, |[last]| last);
    let params = json!({"what": "due at once", "timers": DUE});
    report.row(params, last, "ms to the last", Some(&fired), None);
    watch.until("execution_completed", WARM_UP + DUE).await?;
    let completed = watch.times("execution_completed", begun).await?;
    let mut latency = Latency::default();
    for at in completed.values() {
        latency.record((*at - due_at).to_std().unwrap_or_default());
    }
    let last = latency.quantiles_ms([1.0]).map_or(0.0, |[last]| last);
    report.row(json!({"what": "their ends"}), last, "ms to the last", Some(&latency), None);

    let (begun, from) = (watch.position(), Utc::now() + TimeDelta::seconds(5));
    let step = TimeDelta::milliseconds(i64::try_from(1_000 / SINGLE_PER_SECOND)?);
    let inputs = (0..SINGLE).map(|n| json!({"until": from + step * i32::try_from(n).unwrap_or(0)}));
    start(&server, &workflow, inputs.collect()).await?;
    watch.until("timer_fired", WARM_UP + DUE + SINGLE).await?;
    let single = lateness(&watch, begun).await?;
    let last = single.quantiles_ms([1.0]).map_or(0.0, |[last]| last);
    let params = json!({"what": "one by one", "a_second": SINGLE_PER_SECOND});
    report.row(params, last, "ms at most", Some(&single), None);
    Ok(())
}

/// How long after their times the timers fired whose events lie after a position.
async fn lateness(watch: &Watch, after: i64) -> anyhow::Result<Latency> {
    let rows: Vec<(f64,)> = sqlx::query_as(
        "SELECT extract(epoch FROM f.recorded_at - (s.payload ->> 'due_at')::timestamptz)::float8
           FROM events f JOIN events s ON s.stream_id = f.stream_id AND s.type = 'timer_set'
          WHERE f.position > $1 AND f.type = 'timer_fired'",
    )
    .bind(after)
    .fetch_all(&watch.pool)
    .await?;
    let mut latency = Latency::default();
    for (seconds,) in rows {
        anyhow::ensure!(seconds > -0.001, "a timer fired {seconds} s late: before its time");
        latency.record(Duration::from_secs_f64(seconds.max(0.0)));
    }
    Ok(latency)
}
