//! What a script may do, and what it can't, however it tries.

use std::{
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::*;

/// Runs code for at most this long over a small scope.
fn within(limit: Duration, code: &str) -> (Result<Value, ScriptError>, Vec<String>) {
    let script = Script {
        code: code.to_owned(),
        scope: vec![
            ("input", json!({ "n": 2, "list": [1, 2, 3], "name": "Ada" }).to_string()),
            ("vars", "{\"count\":7}".to_owned()),
            ("nodes", "{\"fetch\":{\"output\":{\"status\":200}}}".to_owned()),
        ],
        now_ms: 1_700_000_000_000,
        seed: 42,
    };
    let (sender, lines) = mpsc::channel();
    let stop: Arc<AtomicBool> = Arc::default();
    let told = Arc::clone(&stop);
    let run = move || {
        run(&script, &told, move |line: Line| {
            let _nobody_listens = sender.send(format!("{:?} {}", line.level, line.text));
        })
    };
    let thread = thread::Builder::new().stack_size(THREAD_STACK_BYTES).spawn(run).unwrap();
    let (ended, waits) = mpsc::channel::<()>();
    let clock = thread::spawn(move || {
        if waits.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
            stop.store(true, Ordering::Relaxed);
        }
    });
    let result = thread.join().expect("the engine never takes its thread down");
    let result = result.map(|text| serde_json::from_str(&text).expect("JSON"));
    drop(ended);
    clock.join().expect("the clock ends");
    (result, lines.iter().collect())
}

fn result(code: &str) -> Result<Value, ScriptError> {
    within(Duration::from_secs(20), code).0
}

#[test]
fn a_script_computes_a_value_from_what_it_is_given() {
    for (code, value) in [
        ("return input.n * vars.count", json!(14)),
        ("return { ok: nodes.fetch.output.status === 200 }", json!({ "ok": true })),
        ("return input.list.map((n) => n * 2).filter((n) => n > 2)", json!([4, 6])),
        ("const later = await Promise.resolve(3); return later + 1", json!(4)),
        ("", json!(null)),
        ("return undefined", json!(null)),
        (
            "return [undefined, NaN, 1.5, 'é\u{1f600}', new Date(0)]",
            json!([null, null, 1.5, "é\u{1f600}", "1970-01-01T00:00:00.000Z"]),
        ),
        ("return /a(b+)/.exec('xabbb')[1]", json!("bbb")),
        ("return new Map([[1, 2]]).get(1)", json!(2)),
        ("// no line feed at the end", json!(null)),
    ] {
        assert_eq!(result(code), Ok(value), "{code}");
    }
}

#[test]
fn the_same_script_gives_the_same_again() {
    let code = "return [Date.now(), new Date().toISOString(), Math.random(), Math.random(), typeof Date()]";
    let first = result(code).unwrap();
    assert_eq!(result(code).unwrap(), first);
    assert_eq!(first[0], json!(1_700_000_000_000_i64));
    assert_eq!(first[1], "2023-11-14T22:13:20.000Z");
    assert_ne!(first[2], first[3]);
    assert_eq!(
        result("return new (new Date(5).constructor)().getTime()"),
        Ok(json!(1_700_000_000_000_i64))
    );
}

#[test]
fn there_is_nothing_to_reach() {
    let names = "['require', 'process', 'fetch', 'setTimeout', 'setInterval', 'std', 'os', 'performance', 'WeakRef', 'SharedArrayBuffer', 'Atomics', 'Deno', 'importScripts']";
    let code = format!("return {names}.filter((name) => typeof globalThis[name] !== 'undefined')");
    assert_eq!(result(&code), Ok(json!([])));
    assert!(matches!(result("return await import('fs')"), Err(ScriptError::Thrown { .. })));
    for code in [
        "input.n = 3",
        "input.list.push(4)",
        "input.x = 1",
        "delete nodes.fetch",
        "nodes.fetch.output.status = 1",
    ] {
        let Err(ScriptError::Thrown { message, .. }) = result(code) else { panic!("{code}") };
        assert!(message.starts_with("TypeError"), "{code}: {message}");
    }
}

#[test]
fn an_error_names_its_line_and_column() {
    for (code, message, line, column) in [
        ("throw new Error('no luck')", "Error: no luck", 1, 11),
        ("const a = 1\n\n  a.b.c()", "TypeError: ", 3, 0),
        ("const a = ;", "SyntaxError: ", 1, 11),
        ("return 1\n}\n{", "SyntaxError: ", 0, 0),
        ("throw 'a text'", "it threw a text", 0, 0),
        ("throw { code: 7 }", "it threw {\"code\":7}", 0, 0),
        ("throw null", "it threw null", 0, 0),
        ("throw undefined", "it threw a value", 0, 0),
        ("const o = {}; o.toString = () => { throw o }; throw o", "it threw {}", 0, 0),
        ("await Promise.reject(new RangeError('far'))", "RangeError: far", 1, 0),
        ("class E extends Error { get name() { throw 1 } }; throw new E('x')", "x", 1, 0),
    ] {
        let Err(ScriptError::Thrown { message: told, line: at, column: col }) = result(code) else {
            panic!("{code}: {:?}", result(code))
        };
        assert!(told.starts_with(message), "{code}: {told}");
        assert!(line == 0 || at == line, "{code}: line {at}");
        assert!(column == 0 || col.abs_diff(column) <= 1, "{code}: column {col}");
    }
    let Err(ScriptError::Thrown { message, .. }) = result("throw new Error('x'.repeat(1e6))")
    else {
        panic!()
    };
    assert!(message.len() < 3_000);
}

#[test]
fn what_is_printed_is_bounded() {
    let (done, lines) = within(
        Duration::from_secs(20),
        "console.log('a', 1, {b: [2]}); console.warn(new Error('w')); console.error(undefined); console.debug(1n)",
    );
    assert_eq!(done, Ok(json!(null)));
    assert_eq!(lines, ["Info a 1 {\"b\":[2]}", "Warning Error: w", "Error undefined", "Debug 1"]);
    let (_, lines) = within(
        Duration::from_secs(20),
        "for (let i = 0; i < 5000; i++) console.log('x'.repeat(20000))",
    );
    assert_eq!(lines.len(), 1_001);
    assert_eq!(lines[1_000], "Warning 4000 more lines were not kept");
    assert!(lines.iter().all(|line| line.len() < 8_300));
}

#[test]
fn what_is_no_json_is_no_result() {
    for code in [
        "const a = {}; a.a = a; return a",
        "return 10n",
        "return { toJSON() { throw new Error('t') } }",
        "return { get a() { throw 'g' } }",
        "return new Proxy({}, { ownKeys() { throw new Error('p') } })",
    ] {
        assert!(matches!(result(code), Err(ScriptError::NotJson(_))), "{code}: {:?}", result(code));
    }
    assert_eq!(
        result("return { get a() { return 1 }, b: new Proxy([1, 2], {}) }"),
        Ok(json!({ "a": 1, "b": [1, 2] }))
    );
    assert_eq!(result("JSON.stringify = () => 'gone'; return 1"), Ok(json!(1)));
    assert_eq!(
        result("Object.prototype.toJSON = () => 'forged'; return {a: 1}"),
        Ok(json!("forged"))
    );
    assert_eq!(result("return await new Promise(() => {})"), Err(ScriptError::Unresolved));
}

/// Each would run for ever, or take everything.
#[test]
fn a_hostile_script_ends_in_time_and_alone() {
    const LIMIT: Duration = Duration::from_millis(1_500);
    for code in [
        "while (true) {}",
        "for (;;) try { while (true) {} } catch {} finally { continue }",
        "(function f() { f() })()",
        "const f = (n) => [n].map(f); f(1)",
        "let s = 'x'; while (true) s += s",
        "return 'x'.repeat(2 ** 30)",
        "const a = []; while (true) a.push(new Array(1000).fill(1))",
        "return new Array(4294967295).fill(0)",
        "return new Array(4294967295).join('x')",
        "return new Array(4294967295).indexOf(1)",
        "return Array.prototype.indexOf.call({ length: 2 ** 53 - 1 }, 1)",
        "return Array.from({ length: 2 ** 40 })",
        "return [...(function* () { while (true) yield 1 })()]",
        "const next = () => Promise.resolve().then(next); await next()",
        "async function f() { await f() } await f()",
        "while (true) await 1",
        "return /^(a+)+$/.test('a'.repeat(40) + 'b')",
        "return new Proxy({}, { ownKeys() { while (true) {} } })",
        "return { get a() { while (true) {} } }",
        "return { toJSON() { return this.toJSON() } }",
        "let a = []; for (let i = 0; i < 1e5; i++) a = [a]; return a",
        "return JSON.parse('['.repeat(1e6))",
        "return eval('('.repeat(1e6))",
        "return new Uint8Array(2 ** 32)",
        "Object.defineProperty(Object.prototype, 'then', { get() { while (true) {} } }); return {}",
        "console.log = 1; console.log('x')",
        "globalThis.Promise = null; Array.prototype.map = null; return await 1, console.log(1, 2)",
        "return new Array(1e7).fill('x').sort(() => { while (true) {} })",
    ] {
        let begun = Instant::now();
        let (ended, _) = within(LIMIT, code);
        let took = begun.elapsed();
        assert!(took < LIMIT + Duration::from_secs(1), "{code} took {took:?}: {ended:?}");
    }
    assert_eq!(within(LIMIT, "while (true) {}").0, Err(ScriptError::Stopped));
    let greedy = "const a = []; while (true) a.push('x'.repeat(1e6) + a.length)";
    assert_eq!(result(greedy), Err(ScriptError::OutOfMemory));
    let Err(ScriptError::Thrown { message, .. }) = result("(function f() { f() })()") else {
        panic!()
    };
    assert!(message.contains("stack"), "{message}");
}

#[test]
fn a_check_finds_what_is_wrong_and_runs_nothing() {
    let codes = [
        "return input",
        "await 1; return nodes.a",
        "const a = ;",
        "}); while (true) {} (() => {",
        "return 1\n  )",
    ];
    let checked = check(&codes);
    let [None, None, Some(first), Some(_), Some(last)] = checked.as_slice() else {
        panic!("{checked:?}")
    };
    assert!(matches!(first, ScriptError::Thrown { line: 1, column: 11, .. }), "{first:?}");
    assert!(matches!(last, ScriptError::Thrown { line: 2, .. }), "{last:?}");
    assert!(
        first.to_string().starts_with("SyntaxError: ")
            && first.to_string().ends_with("(line 1, column 11)"),
        "{first}"
    );
    let many = vec!["return input.a + 1"; 1_000];
    assert!(check(&many).iter().all(Option::is_none));
}

#[test]
fn a_script_stops_when_it_is_told_to() {
    let script = Script { code: "while (true) {}".to_owned(), scope: vec![], now_ms: 0, seed: 0 };
    let stop: Arc<AtomicBool> = Arc::default();
    let told = Arc::clone(&stop);
    let running = thread::spawn(move || run(&script, &told, |_| {}));
    stop.store(true, Ordering::Relaxed);
    assert_eq!(running.join().unwrap(), Err(ScriptError::Stopped));
}
