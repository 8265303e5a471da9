//! Runs of effectful steps that do nothing, every boundary durable, with projections and relay on: three steps in a row at several
//! loads, then other shapes, and ten pure steps. How many appends of the worker a run of each shape costs is measured with it.

use std::{
    collections::HashMap,
    fs,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use ledgerline_domain::id::{ExecutionId, WorkflowId};
use ledgerline_store::Position;
use serde_json::{Value, json};
use tokio::{sync::oneshot, task::JoinSet};
use uuid::Uuid;

use crate::{
    engine::Engine,
    latency::Latency,
    load::{Measured, closed_loop},
    raw,
    report::Report,
    servers::Servers,
};

/// Workflows that share the load.
const WORKFLOWS: usize = 50;
/// Steps side by side in a run that fans out.
const FAN_OUT: usize = 100;

/// Events of one run with so many steps: four of its own, two of each step.
fn events_a_run(steps: usize) -> f64 {
    (4 + 2 * steps) as f64
}

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

fn step(n: usize) -> Value {
    json!({"id": format!("s{n}"), "type": "action.file", "config": {"operation": "delete", "path": "none"}})
}

/// One step, then many side by side.
fn fan_out(count: usize) -> Value {
    let connection = |n: usize| json!({"from": "s0", "to": format!("s{n}")});
    json!({
        "nodes": (0..=count).map(step).collect::<Vec<_>>(),
        "connections": (1..=count).map(connection).collect::<Vec<_>>(),
        "settings": {"concurrency": {"limit": 10_000}, "parallelism": 100},
    })
}

/// Steps without an effect, one after the other.
fn pure(count: usize) -> Value {
    let node = |n: usize| json!({"id": format!("s{n}"), "type": "logic.transform", "config": {"expression": format!("{n} + 1")}});
    let connection = |n: usize| json!({"from": format!("s{n}"), "to": format!("s{}", n + 1)});
    json!({
        "nodes": (0..count).map(node).collect::<Vec<_>>(),
        "connections": (1..count).map(|n| connection(n - 1)).collect::<Vec<_>>(),
        "settings": {"concurrency": {"limit": 10_000}},
    })
}

/// Steps one after the other.
fn steps(count: usize) -> Value {
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
    let workflows = Arc::new(many(&engine, &steps(3)).await?);
    let events = raw::insert(&engine.pool, 4, 100, seconds).await?.per_second;
    let limit = events / events_a_run(3);
    let mut sustained = 0.0_f64;
    for in_flight in [1_usize, 64, 256] {
        let measured = loaded(&engine, &waiting, &workflows, in_flight, seconds).await?;
        sustained = sustained.max(measured.per_second);
        let params = json!({"steps": 3, "in_flight": in_flight});
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
    for (definition, count, in_flight, most, params) in [
        (steps(1), 1, 256, Some(2), json!({"steps": 1, "in_flight": 256})),
        (steps(10), 10, 256, Some(11), json!({"steps": 10, "in_flight": 256})),
        (pure(10), 10, 256, Some(2), json!({"pure_steps": 10, "in_flight": 256})),
        (fan_out(FAN_OUT), FAN_OUT + 1, 16, None, json!({"fan_out": FAN_OUT, "in_flight": 16})),
    ] {
        let workflows = Arc::new(many(&engine, &definition).await?);
        let before = *engine.commands.log().watch_head().borrow();
        let measured = loaded(&engine, &waiting, &workflows, in_flight, seconds).await?;
        let limit = Some(events / events_a_run(count));
        report.row(params.clone(), measured.per_second, "runs/s", Some(&measured.latency), limit);
        let cost = appends_a_run(&engine, before).await?;
        report.row(params.clone(), cost, "appends/run", None, None);
        if let Some(most) = most {
            anyhow::ensure!(
                cost <= f64::from(most),
                "{params}: {cost} appends of the worker a run"
            );
        }
    }
    Arc::into_inner(engine).expect("every caller has ended").stop().await;
    let _ = fs::remove_dir_all(folder);
    Ok(())
}

/// How many appends the worker made for a run that ended after a position, on average. All events of an append have one time.
async fn appends_a_run(engine: &Engine, after: Position) -> anyhow::Result<f64> {
    let (appends,): (f64,) = sqlx::query_as(
        r#"SELECT coalesce(avg(appends), 0)::float8 FROM (
             SELECT count(DISTINCT recorded_at) FILTER (WHERE metadata::text LIKE '%"worker"%') AS appends
               FROM events WHERE position > $1 AND category = 'execution'
              GROUP BY stream_id HAVING bool_or(type = 'execution_requested') AND bool_or(type = 'execution_completed')) runs"#,
    )
    .bind(after.0)
    .fetch_one(&engine.pool)
    .await?;
    Ok(appends)
}

/// Workflows that share the load.
async fn many(engine: &Engine, definition: &Value) -> anyhow::Result<Vec<WorkflowId>> {
    let mut workflows = Vec::new();
    for _ in 0..WORKFLOWS {
        workflows.push(engine.workflow(definition).await?);
    }
    Ok(workflows)
}

/// So many runs at once, each followed by another.
async fn loaded(
    engine: &Arc<Engine>,
    waiting: &Waiting,
    workflows: &Arc<Vec<WorkflowId>>,
    in_flight: usize,
    seconds: f64,
) -> anyhow::Result<Measured> {
    let (engine, waiting, workflows) =
        (Arc::clone(engine), Arc::clone(waiting), Arc::clone(workflows));
    closed_loop(in_flight, seconds, move |caller, round| {
        let (engine, waiting, workflows) =
            (Arc::clone(&engine), Arc::clone(&waiting), Arc::clone(&workflows));
        async move {
            let turn = caller + usize::try_from(round).unwrap_or(0);
            one(&engine, &waiting, workflows[turn % workflows.len()]).await
        }
    })
    .await
}

/// Starts runs at an even pace, whatever becomes of them, and measures each from its start to its end.
async fn paced(
    engine: &Arc<Engine>,
    waiting: &Waiting,
    workflows: &Arc<Vec<WorkflowId>>,
    per_second: f64,
    seconds: f64,
) -> anyhow::Result<Latency> {
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
    let mut latency = Latency::default();
    while let Some(run) = runs.join_next().await {
        latency.record(run??);
    }
    Ok(latency)
}
