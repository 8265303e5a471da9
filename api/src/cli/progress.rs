//! How a run goes, shown to a person: on a terminal one line a node that changes, elsewhere one line an event.

use std::{collections::BTreeMap, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use super::output;

/// The nodes of a run, and its log lines.
pub(super) struct Shown {
    bars: MultiProgress,
    nodes: BTreeMap<String, ProgressBar>,
    drawn: bool,
}

impl Shown {
    /// Draws on standard error when that is a terminal.
    pub(super) fn new() -> Self {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let drawn = !bars.is_hidden();
        Self { bars, nodes: BTreeMap::new(), drawn }
    }

    /// Says something above the nodes.
    pub(super) fn say(&self, line: &str) {
        if self.drawn {
            // A terminal that is gone has no reader either.
            let _gone = self.bars.println(line);
        } else {
            output::note(line);
        }
    }

    /// A log line.
    pub(super) fn line(&self, line: &Value) {
        let text = |name: &str| line.get(name).and_then(Value::as_str).unwrap_or_default();
        let level = match text("level") {
            "info" | "" => String::new(),
            level => format!("{level}: "),
        };
        self.say(&format!("  {} │ {level}{}", text("node"), text("message")));
    }

    /// A node's event.
    pub(super) fn node(&mut self, kind: &str, data: &Value) {
        let text = |name: &str| data.get(name).and_then(Value::as_str).unwrap_or_default();
        let path = text("path").to_owned();
        let attempt = data.get("attempt").and_then(Value::as_i64).unwrap_or(1);
        let took = data.get("duration_ms").and_then(Value::as_u64).unwrap_or_default();
        match kind {
            "node_started" if attempt > 1 => self.begin(&path, &format!("attempt {attempt}")),
            "node_started" => self.begin(&path, ""),
            "node_completed" => self.end(&path, '✓', &format!("{took} ms")),
            "node_skipped" => self.end(&path, '–', "skipped"),
            "node_failed" => {
                let error = data.get("error").cloned().unwrap_or_default();
                let message = error.get("message").and_then(Value::as_str).unwrap_or_default();
                match data.get("retry_at").and_then(Value::as_str) {
                    Some(at) => {
                        self.begin(&path, &format!("failed, tried again at {at}: {message}"))
                    }
                    None => self.end(&path, '✗', message),
                }
            }
            _ => {}
        }
    }

    fn begin(&mut self, path: &str, message: &str) {
        if !self.drawn {
            self.say(&format!("… {path} {message}"));
            return;
        }
        let bars = &self.bars;
        let bar = self.nodes.entry(path.to_owned()).or_insert_with(|| {
            let bar = bars.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {msg}") {
                bar.set_style(style);
            }
            bar.set_prefix(path.to_owned());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        bar.set_message(message.to_owned());
    }

    fn end(&mut self, path: &str, mark: char, message: &str) {
        if let Some(bar) = self.nodes.remove(path) {
            bar.finish_and_clear();
        }
        self.say(&format!("{mark} {path} {message}"));
    }

    /// Takes away what is still drawn.
    pub(super) fn clear(&mut self) {
        for bar in std::mem::take(&mut self.nodes).into_values() {
            bar.finish_and_clear();
        }
    }
}
