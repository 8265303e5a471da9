//! A script in a sandbox: memory, stack and time are bounded, and there is nothing to reach.
//!
//! QuickJS runs it on a thread of its own with a fresh runtime each time, so nothing is left over from one script to another. There is
//! no I/O, no timer, no module. What differs from one run to the next is taken away: the clock stands at the time the try began, random
//! numbers follow from a seed, and nothing tells when memory is collected.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rquickjs::{
    CatchResultExt as _, CaughtError, Context, Ctx, Error, Function, Object, Promise, Runtime,
    Value,
    context::{EvalOptions, intrinsic},
    prelude::Rest,
    promise::PromiseState,
};

/// What a script may hold at once.
pub(crate) const MAX_MEMORY_BYTES: usize = 64 * 1024 * 1024;
/// The stack of its calls. The thread has more, for the engine itself.
pub(crate) const MAX_STACK_BYTES: usize = 512 * 1024;
/// The stack of a check, which may have any thread.
const MAX_CHECK_STACK_BYTES: usize = 256 * 1024;
/// The stack of the thread that it runs on.
pub(crate) const THREAD_STACK_BYTES: usize = 4 * 1024 * 1024;
/// Lines that a script may print; the others are counted.
const MAX_LINES: usize = 1_000;
/// Characters of one line.
const MAX_LINE_CHARS: usize = 8 * 1024;
/// Characters of a message that becomes part of an event.
const MAX_MESSAGE_CHARS: usize = 2_000;

/// What a script sees.
pub(crate) const NAMES: &[&str] = &["input", "vars", "nodes", "item", "index", "last"];

/// What is run, and under which conditions.
pub(crate) struct Script {
    /// The body of an async function of the names in `scope`.
    pub(crate) code: String,
    /// What it sees, by name, as JSON text; frozen.
    pub(crate) scope: Vec<(&'static str, String)>,
    /// What `Date` says, in milliseconds since 1970.
    pub(crate) now_ms: i64,
    /// What random numbers follow from.
    pub(crate) seed: u32,
}

/// A line that a script printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) level: Level,
    pub(crate) text: String,
}

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Debug,
    Info,
    Warning,
    Error,
}

/// Why a script has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScriptError {
    /// It is no JavaScript, or threw something.
    #[error("{message}{}", place(*.line, *.column))]
    Thrown {
        /// What, for a person.
        message: String,
        /// Its line, from 1; 0 where it is not known.
        line: u32,
        /// Its column, from 1; 0 where it is not known.
        column: u32,
    },
    /// It held too much at once.
    #[error("the script held more than {} MiB at once", MAX_MEMORY_BYTES / 1024 / 1024)]
    OutOfMemory,
    /// It was told to stop.
    #[error("the script was stopped")]
    Stopped,
    /// It waits for what never comes.
    #[error("the script waits for a promise that nothing resolves")]
    Unresolved,
    /// Its result is no JSON value.
    #[error("the result of the script is no JSON value: {0}")]
    NotJson(String),
    /// The engine can't be had.
    #[error("the script could not be run: {0}")]
    Engine(String),
}

fn place(line: u32, column: u32) -> String {
    if line == 0 { String::new() } else { format!(" (line {line}, column {column})") }
}

/// The name under which the engine knows the script, in the places of errors.
const FILE: &str = "script.js";

/// What is done before the script: the names that it must not find are taken away, and what it is given is frozen.
const PRELUDE: &str = include_str!("script_prelude.js");

/// Runs a script until it ends or is told to stop, and gives the JSON text of its result. Blocks its thread.
///
/// It is told between two of its own steps. One step of the engine, such as the search for one long text in another, is bounded by the
/// memory alone.
///
/// # Errors
/// [`ScriptError`].
pub(crate) fn run(
    script: &Script,
    stop: &Arc<AtomicBool>,
    print: impl FnMut(Line) + 'static,
) -> Result<String, ScriptError> {
    let engine = |error: Error| ScriptError::Engine(error.to_string());
    let runtime = Runtime::new().map_err(engine)?;
    runtime.set_memory_limit(MAX_MEMORY_BYTES);
    runtime.set_max_stack_size(MAX_STACK_BYTES);
    runtime.set_interrupt_handler(Some(Box::new({
        let stop = Arc::clone(stop);
        move || stop.load(Ordering::Relaxed)
    })));
    let context = Context::custom::<(
        intrinsic::Date,
        intrinsic::Eval,
        intrinsic::RegExpCompiler,
        intrinsic::RegExp,
        intrinsic::Json,
        intrinsic::Proxy,
        intrinsic::MapSet,
        intrinsic::TypedArrays,
        intrinsic::Promise,
    )>(&runtime)
    .map_err(engine)?;
    let printer = Printer { print, lines: 0 };
    let printer = Rc::new(RefCell::new(printer));
    let result = context.with(|ctx| {
        let result = evaluate(&ctx, script, stop, &printer);
        // What the engine says of an end that was forced on it says nothing.
        if stop.load(Ordering::Relaxed) { Err(ScriptError::Stopped) } else { result }
    });
    printer.borrow_mut().finish();
    result
}

struct Printer<P> {
    print: P,
    lines: usize,
}

impl<P: FnMut(Line)> Printer<P> {
    fn print(&mut self, level: i32, text: &str) {
        self.lines += 1;
        if self.lines > MAX_LINES {
            return;
        }
        let level = match level {
            0 => Level::Debug,
            2 => Level::Warning,
            3 => Level::Error,
            _ => Level::Info,
        };
        (self.print)(Line { level, text: text.chars().take(MAX_LINE_CHARS).collect() });
    }

    fn finish(&mut self) {
        if let Some(more @ 1..) = self.lines.checked_sub(MAX_LINES) {
            let text = format!("{more} more lines were not kept");
            (self.print)(Line { level: Level::Warning, text });
        }
    }
}

fn evaluate<P: FnMut(Line) + 'static>(
    ctx: &Ctx<'_>,
    script: &Script,
    stop: &AtomicBool,
    printer: &Rc<RefCell<Printer<P>>>,
) -> Result<String, ScriptError> {
    let caught = |error: Error| thrown(ctx, Err::<(), _>(error).catch(ctx).err(), 0);
    let mut given = Vec::with_capacity(script.scope.len());
    for (_, json) in &script.scope {
        given.push(ctx.json_parse(json.as_str()).map_err(caught)?);
    }
    let print = {
        let printer = Rc::clone(printer);
        Function::new(ctx.clone(), move |level: i32, text: String| {
            printer.borrow_mut().print(level, &text);
        })
    };
    let print = print.map_err(caught)?;
    let prelude: Function<'_> =
        ctx.eval_with_options(PRELUDE, in_file("prelude")).map_err(caught)?;
    let now = script.now_ms as f64;
    prelude.call::<_, ()>((print, now, script.seed, given.clone())).map_err(caught)?;
    let names: Vec<&str> = script.scope.iter().map(|(name, _)| *name).collect();
    let head = head(&names);
    let source = format!("{head}{}\n}})", script.code);
    let in_script = |error: Error| {
        let columns = u32::try_from(head.chars().count()).unwrap_or(0);
        thrown(ctx, Err::<(), _>(error).catch(ctx).err(), columns)
    };
    let function: Function<'_> = ctx.eval_with_options(source, in_file(FILE)).map_err(in_script)?;
    let promise: Promise<'_> = function.call((Rest(given),)).map_err(in_script)?;
    while promise.state() == PromiseState::Pending {
        if stop.load(Ordering::Relaxed) {
            return Err(ScriptError::Stopped);
        }
        if !ctx.execute_pending_job() {
            return Err(ScriptError::Unresolved);
        }
    }
    let result: Value<'_> = match promise.result() {
        Some(result) => result.map_err(in_script)?,
        None => return Err(ScriptError::Unresolved),
    };
    let text = ctx.json_stringify(result).map_err(|error| match in_script(error) {
        ScriptError::Thrown { message, .. } => ScriptError::NotJson(message),
        other => other,
    })?;
    match text {
        // A function without `return` gives nothing.
        None => Ok("null".to_owned()),
        Some(text) => text.to_string().map_err(|error| ScriptError::NotJson(error.to_string())),
    }
}

/// What stands before a script: all on its first line, so that its lines keep their numbers.
fn head(names: &[&str]) -> String {
    format!("\"use strict\";(async({})=>{{", names.join(","))
}

fn in_file(name: &str) -> EvalOptions {
    let mut options = EvalOptions::default();
    options.filename = Some(name.to_owned());
    options
}

/// An exception as it is told, with its place in the script.
fn thrown<'js>(ctx: &Ctx<'js>, caught: Option<CaughtError<'js>>, head_columns: u32) -> ScriptError {
    let short = |text: String| text.chars().take(MAX_MESSAGE_CHARS).collect::<String>();
    match caught {
        Some(CaughtError::Exception(exception)) => {
            let message = exception.message().unwrap_or_default();
            if message == "out of memory" {
                return ScriptError::OutOfMemory;
            }
            let object: &Object<'_> = exception.as_object();
            let name = object.get::<_, Option<String>>("name").ok().flatten();
            let message = match name {
                Some(name) if !name.is_empty() => format!("{name}: {message}"),
                _ => message,
            };
            let (line, column) = exception.stack().and_then(|stack| at(&stack)).unwrap_or((0, 0));
            let column = if line == 1 { column.saturating_sub(head_columns) } else { column };
            ScriptError::Thrown { message: short(message), line, column }
        }
        Some(CaughtError::Value(value)) => {
            let text = match value.as_string().and_then(|text| text.to_string().ok()) {
                Some(text) => Some(text),
                None => {
                    ctx.json_stringify(value).ok().flatten().and_then(|text| text.to_string().ok())
                }
            };
            let message = format!("it threw {}", text.unwrap_or_else(|| "a value".to_owned()));
            ScriptError::Thrown { message: short(message), line: 0, column: 0 }
        }
        Some(CaughtError::Error(Error::Allocation)) => ScriptError::OutOfMemory,
        Some(CaughtError::Error(error)) => ScriptError::Engine(error.to_string()),
        None => ScriptError::Engine("it broke off".to_owned()),
    }
}

/// Line and column of the first place of a stack that is in the script: `    at f (script:3:14)`.
fn at(stack: &str) -> Option<(u32, u32)> {
    let prefix = format!("{FILE}:");
    stack.lines().find_map(|frame| {
        let start = frame.rfind(&prefix)?;
        let mut numbers = frame[start + prefix.len()..].trim_end_matches(')').split(':');
        let line = numbers.next()?.trim().parse().ok()?;
        let column = numbers.next().and_then(|column| column.trim().parse().ok()).unwrap_or(0);
        Some((line, column))
    })
}

/// Checks that codes are JavaScript, without running them.
///
/// Gives what is wrong with each, in their order; none for what is sound.
pub fn check(codes: &[&str]) -> Vec<Option<ScriptError>> {
    let engine = |error: &Error| vec![Some(ScriptError::Engine(error.to_string())); codes.len()];
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return engine(&error),
    };
    runtime.set_memory_limit(MAX_MEMORY_BYTES);
    runtime.set_max_stack_size(MAX_CHECK_STACK_BYTES);
    // A text that closes the function around it and goes on with a loop is stopped after a few steps. The engine asks once for each
    // text that it reads, and then every ten thousand steps.
    let mut left = codes.len() + 4;
    runtime.set_interrupt_handler(Some(Box::new(move || {
        left = left.saturating_sub(1);
        left == 0
    })));
    let context = match Context::custom::<(intrinsic::Eval, intrinsic::Promise)>(&runtime) {
        Ok(context) => context,
        Err(error) => return engine(&error),
    };
    context.with(|ctx| {
        let check = |code: &&str| {
            let head = head(NAMES);
            let columns = u32::try_from(head.chars().count()).unwrap_or(0);
            let source = format!("{head}{code}\n}})");
            let checked = ctx.eval_with_options::<Value<'_>, _>(source, in_file(FILE));
            let error = checked.catch(&ctx).err()?;
            Some(thrown(&ctx, Some(error), columns))
        };
        codes.iter().map(check).collect()
    })
}

#[cfg(test)]
mod tests;
