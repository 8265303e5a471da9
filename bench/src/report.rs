//! Rows of figures, as a table for people and as JSON for programs.

use std::{fs, path::Path};

use serde::Serialize;
use serde_json::Value;

use crate::latency::Latency;

/// One measured case. `raw_value` is the limit measured beside it in the same run, `ratio` ours over that.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// The scenario.
    pub scenario: String,
    /// What this case varies.
    pub params: Value,
    /// The figure.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
    /// Latency, where one was measured.
    pub p50_ms: Option<f64>,
    /// Latency, where one was measured.
    pub p99_ms: Option<f64>,
    /// The same work without us.
    pub raw_value: Option<f64>,
    /// `value / raw_value`.
    pub ratio: Option<f64>,
}

/// The rows of one scenario.
pub(crate) struct Report {
    scenario: String,
    rows: Vec<Row>,
}

impl Report {
    pub(crate) fn new(scenario: &str) -> Self {
        println!("\n{scenario}");
        println!(
            "{:<44} {:>12} {:<13} {:>8} {:>8} {:>12} {:>6}",
            "case", "value", "unit", "p50 ms", "p99 ms", "raw", "ratio"
        );
        Self { scenario: scenario.to_owned(), rows: Vec::new() }
    }

    /// Takes a figure.
    pub(crate) fn row(
        &mut self,
        params: Value,
        value: f64,
        unit: &'static str,
        latency: Option<&Latency>,
        raw: Option<f64>,
    ) {
        let quantiles = latency.and_then(|all| all.quantiles_ms([0.50, 0.99]));
        let row = Row {
            scenario: self.scenario.clone(),
            params,
            value,
            unit,
            p50_ms: quantiles.map(|[p50, _]| p50),
            p99_ms: quantiles.map(|[_, p99]| p99),
            raw_value: raw,
            ratio: raw.map(|raw| value / raw),
        };
        let case = row.params.as_object().map(|all| {
            all.iter()
                .map(|(name, value)| {
                    format!(
                        "{name}={}",
                        value.as_str().map_or_else(|| value.to_string(), str::to_owned)
                    )
                })
                .collect::<Vec<_>>()
                .join(" ")
        });
        let cell = |value: Option<f64>, digits: usize| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
        };
        println!(
            "{:<44} {:>12.0} {:<13} {:>8} {:>8} {:>12} {:>6}",
            case.unwrap_or_default(),
            row.value,
            row.unit,
            cell(row.p50_ms, 2),
            cell(row.p99_ms, 2),
            cell(row.raw_value, 0),
            cell(row.ratio, 2)
        );
        self.rows.push(row);
    }

    /// Writes `<scenario>.json`.
    pub(crate) fn finish(self, out_dir: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(out_dir)?;
        fs::write(
            out_dir.join(format!("{}.json", self.scenario)),
            serde_json::to_string_pretty(&self.rows)?,
        )?;
        Ok(())
    }
}
