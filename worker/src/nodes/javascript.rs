//! `code.javascript`: a script on a thread of its own, of which there are few at once.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash as _, Hasher as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use ledgerline_domain::{
    execution::{ErrorKind, NodeError},
    json::Json,
    node::ResolvedJavascript,
};
use ledgerline_store::LogLevel;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::Try;
use crate::{
    script::{Level, Line, NAMES, Script, ScriptError, THREAD_STACK_BYTES, run},
    values::{MAX_OUTPUT_BYTES, detailed, failure},
};

/// Lines that wait to be printed; a script that prints faster waits for them.
const QUEUED_LINES: usize = 64;

/// Tells a script to stop when nobody waits for it any more: it was cancelled, took too long, or the worker lets go of its run.
struct StopWithUs(Arc<AtomicBool>);

impl Drop for StopWithUs {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub(super) async fn perform(asked: ResolvedJavascript, of: &Try) -> Result<Value, NodeError> {
    let cancelled = || failure(ErrorKind::Cancelled, "it was cancelled");
    // A thread that does not hear that it is to stop keeps its place until it ends, so that there are never more of them.
    let place = tokio::select! {
        place = Arc::clone(&of.equipment.scripts).acquire_owned() => place.map_err(|_| cancelled())?,
        () = of.cancel.cancelled() => return Err(cancelled()),
    };
    let script = script(asked, of);
    let stop = StopWithUs(Arc::default());
    let (told, (sender, mut lines)) = (Arc::clone(&stop.0), mpsc::channel(QUEUED_LINES));
    let (done, mut result) = oneshot::channel();
    let work = move || {
        let print = move |line: Line| {
            let _nobody_listens = sender.blocking_send(line);
        };
        let _nobody_waits = done.send(run(&script, &told, print));
        drop(place);
    };
    let thread = thread::Builder::new().name("script".to_owned()).stack_size(THREAD_STACK_BYTES);
    thread
        .spawn(work)
        .map_err(|error| failure(ErrorKind::Transient, format!("no thread for it: {error}")))?;
    let ended = loop {
        tokio::select! {
            biased;
            () = of.cancel.cancelled() => return Err(cancelled()),
            Some(line) = lines.recv() => print(line, of).await,
            ended = &mut result => break ended,
        }
    };
    while let Ok(line) = lines.try_recv() {
        print(line, of).await;
    }
    let ended = ended
        .map_err(|_| failure(ErrorKind::Permanent, "the script took its thread down with it"))?;
    let text = ended.map_err(|error| recorded(&error))?;
    if text.len() > MAX_OUTPUT_BYTES {
        let message = format!("the result has {} bytes, more than {MAX_OUTPUT_BYTES}", text.len());
        return Err(failure(ErrorKind::Validation, message));
    }
    serde_json::from_str(&text).map_err(|error| recorded(&ScriptError::NotJson(error.to_string())))
}

fn script(asked: ResolvedJavascript, of: &Try) -> Script {
    let ResolvedJavascript { code, input, vars, nodes, item, index, last } = asked;
    let or_null = |value: Option<Json>| value.unwrap_or_default();
    let values = [
        input,
        Json::of(&vars),
        Json::of(&nodes),
        or_null(item),
        or_null(index.map(|index| Json::from_value(&json!(index)))),
        or_null(last),
    ];
    // The same try has the same numbers, on whatever worker and however often it is begun.
    let mut seed = DefaultHasher::new();
    (of.execution, of.path.as_str(), of.attempt.0).hash(&mut seed);
    Script {
        code,
        scope: NAMES.iter().copied().zip(values.map(|value| value.as_str().to_owned())).collect(),
        now_ms: of.now.timestamp_millis(),
        seed: u32::try_from(seed.finish() >> 32).unwrap_or_default(),
    }
}

async fn print(line: Line, of: &Try) {
    let level = match line.level {
        Level::Debug => LogLevel::Debug,
        Level::Info => LogLevel::Info,
        Level::Warning => LogLevel::Warning,
        Level::Error => LogLevel::Error,
    };
    of.print(level, &line.text, None).await;
}

/// A script does the same again, so no failure of it passes by itself.
fn recorded(error: &ScriptError) -> NodeError {
    match error {
        ScriptError::Thrown { line, column, .. } => {
            let details = json!({"line": line, "column": column});
            detailed(ErrorKind::Permanent, error.to_string(), &details)
        }
        ScriptError::OutOfMemory | ScriptError::Unresolved => {
            failure(ErrorKind::Permanent, error.to_string())
        }
        ScriptError::NotJson(_) => failure(ErrorKind::Validation, error.to_string()),
        ScriptError::Stopped => failure(ErrorKind::Cancelled, error.to_string()),
        ScriptError::Engine(_) => failure(ErrorKind::Transient, error.to_string()),
    }
}
