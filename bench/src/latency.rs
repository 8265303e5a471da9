//! How long operations took. All of them are kept: a quantile is then exact, and a benchmark ends before they are many.

use std::time::Duration;

/// Durations of operations, in microseconds.
#[derive(Debug, Default)]
pub(crate) struct Latency {
    micros: Vec<u32>,
}

impl Latency {
    /// Takes one in. More than 71 minutes count as that.
    pub(crate) fn record(&mut self, took: Duration) {
        self.micros.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
    }

    /// Takes in all that another caller measured.
    pub(crate) fn add(&mut self, other: Self) {
        self.micros.extend(other.micros);
    }

    /// How many operations there were.
    pub(crate) fn len(&self) -> usize {
        self.micros.len()
    }

    /// Milliseconds within which these shares of the operations ended (`[0.5, 0.99]`); none without an operation.
    pub(crate) fn quantiles_ms<const N: usize>(&self, shares: [f64; N]) -> Option<[f64; N]> {
        let mut sorted = self.micros.clone();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1)?;
        Some(
            shares.map(|share| f64::from(sorted[(share * last as f64).round() as usize]) / 1_000.0),
        )
    }
}
