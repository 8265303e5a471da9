//! Runs of three effectful steps that do nothing, every boundary durable, with projections and relay on.

use std::{
    collections::HashMap,
    fs,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use ledgerline_domain::id::{ExecutionId, WorkflowId};
use serde_json::{Value, json};
use tokio::{sync::oneshot, task::JoinSet};
use uuid::Uuid;

use crate::{engine::Engine, load::closed_loop, raw, report::Report, servers::Servers};

/// Workflows that share the load.
const WORKFLOWS: usize = 50;
/// Events of one run of three steps.
const EVENTS_A_RUN: f64 = 10.0;

type Waiting = Arc<Mutex<HashMap<Uuid, oneshot::Sender<bool>>>>;

/// Tells who waits for a run that it has ended.
fn watch(engine: &Engine) -> Waiting {
    let waiting: Waiting = Arc::default();
    let (heard, mut reader) =
        (Arc::clone(&waiting), engine.tail.reader(*engine.commands.log().watch_head().borrow()));
    tokio::spawn(async move {
        while let Ok(events) = reader.next_batch(2_000).await {
            let mut waiting = heard.lock().expect("nobody panics with this lock");
            for event in events {
                let well = match event.r#type.as_str() {
                    "execution_completed" => true,
                    "execution_failed" | "execution_cancelled" => false,
                    _ => continue,
                };
                if let Some(told) = waiting.remove(&event.stream.0) {
                    let _ = told.send(well);
                }
            }
        }
    });
    waiting
}

async fn one(engine: &Engine, waiting: &Waiting, workflow: WorkflowId) -> anyhow::Result<()> {
    let id = Uuid::now_v7();
    let (told, ended) = oneshot::channel();
    waiting.lock().expect("nobody panics with this lock").insert(id, told);
    engine.request(ExecutionId(id), workflow).await?;
    anyhow::ensure!(ended.await?, "run {id} did not complete");
    Ok(())
}

fn steps(count: usize) -> Value {
    let step = |n: usize| json!({"id": format!("s{n}"), "type": "action.file", "config": {"operation": "delete", "path": "none"}});
    let connection = |n: usize| json!({"from": format!("s{n}"), "to": format!("s{}", n + 1)});
    json!({
        "nodes": (0..count).map(step).collect::<Vec<_>>(),
        "connections": (1..count).map(|n| connection(n - 1)).collect::<Vec<_>>(),
        "settings": {"concurrency": {"limit": 10_000}},
    })
}

pub(crate) async fn run(
    servers: &Servers,
    report: &mut Report,
    seconds: f64,
) -> anyhow::Result<()> {
    let folder = std::env::temp_dir().join(format!("ledgerline-bench-{}", Uuid::now_v7()));
    let engine = Arc::new(Engine::start(servers, "execution", &folder).await?);
    raw::create(&engine.pool).await?;
    let waiting = watch(&engine);
    let mut workflows = Vec::new();
    for _ in 0..WORKFLOWS {
        workflows.push(engine.workflow(&steps(3)).await?);
    }
    let workflows = Arc::new(workflows);
    let limit = raw::insert(&engine.pool, 4, 100, seconds).await?.per_second / EVENTS_A_RUN;
    let mut sustained = 0.0_f64;
    for in_flight in [1_usize, 64, 256] {
        let (engine, waiting, workflows) =
            (Arc::clone(&engine), Arc::clone(&waiting), Arc::clone(&workflows));
        let before = resident_mib();
        let measured = closed_loop(in_flight, seconds, move |caller, round| {
            let (engine, waiting, workflows) =
                (Arc::clone(&engine), Arc::clone(&waiting), Arc::clone(&workflows));
            async move {
                let turn = caller + usize::try_from(round).unwrap_or(0);
                one(&engine, &waiting, workflows[turn % workflows.len()]).await
            }
        })
        .await?;
        sustained = sustained.max(measured.per_second);
        let params = json!({"steps": 3, "in_flight": in_flight, "resident_mib": resident_mib(), "grew_mib": resident_mib() - before});
        report.row(params, measured.per_second, "runs/s", Some(&measured.latency), Some(limit));
    }
    let pace = (sustained / 4.0).max(1.0);
    let latency = paced(&engine, &waiting, &workflows, pace, seconds).await?;
    report.row(
        json!({"steps": 3, "paced_per_s": pace.round()}),
        latency.len() as f64 / seconds,
        "runs/s",
        Some(&latency),
        Some(limit),
    );
    Arc::into_inner(engine).expect("every caller has ended").stop().await;
    let _ = fs::remove_dir_all(folder);
    Ok(())
}

/// Starts runs at an even pace, whatever becomes of them, and measures each from its start to its end.
async fn paced(
    engine: &Arc<Engine>,
    waiting: &Waiting,
    workflows: &Arc<Vec<WorkflowId>>,
    per_second: f64,
    seconds: f64,
) -> anyhow::Result<Histogram<u64>> {
    let mut runs = JoinSet::new();
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / per_second));
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    for n in 0_usize.. {
        ticks.tick().await;
        if Instant::now() >= end {
            break;
        }
        let (engine, waiting, workflow) =
            (Arc::clone(engine), Arc::clone(waiting), workflows[n % workflows.len()]);
        runs.spawn(async move {
            let begun = Instant::now();
            one(&engine, &waiting, workflow).await.map(|()| begun.elapsed())
        });
    }
    let mut latency = Histogram::new_with_bounds(1, 60_000_000, 3)?;
    while let Some(run) = runs.join_next().await {
        latency.saturating_record(u64::try_from(run??.as_micros()).unwrap_or(u64::MAX));
    }
    Ok(latency)
}

/// What this process holds in memory, in MiB; 0 where the system does not say.
fn resident_mib() -> i64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<i64>().ok()).unwrap_or(0) / 1024
}
