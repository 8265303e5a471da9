//! How a failed node is tried again.

use serde_json::Value;

use crate::{
    execution::ErrorKind,
    graph::{Fields, Place, ProblemCode, Reader, read_integer},
    limits,
};

/// How often, when and after which failures a node is tried again.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Tries after the first one.
    pub max_retries: u32,
    /// The pauses between tries.
    pub backoff: Backoff,
    /// The failures that are tried again; all others are final at once.
    pub retry_on: Vec<ErrorKind>,
}

/// The pauses between tries.
#[derive(Clone, Debug, PartialEq)]
pub enum Backoff {
    /// One pause a retry, in milliseconds; the last one repeats.
    Steps(Vec<u64>),
    /// `base_ms × factor^(attempt - 1)`, at most `max_ms`.
    Exponential {
        /// The first pause.
        base_ms: u64,
        /// What each further one is multiplied with.
        factor: f64,
        /// The longest.
        max_ms: u64,
        /// The share of a pause that chance may take off, 0 to 1, so that many runs don't come back at the same instant.
        jitter: f64,
    },
}

impl Default for RetryPolicy {
    /// Three more tries after 5 s, 30 s and 2 min, when a failure may pass by itself.
    fn default() -> Self {
        Self {
            max_retries: 3,
            backoff: Backoff::Steps(vec![5_000, 30_000, 120_000]),
            retry_on: vec![ErrorKind::Transient, ErrorKind::Timeout],
        }
    }
}

impl RetryPolicy {
    /// Whether another try follows when the given one (from 1) failed in this way.
    #[must_use]
    pub fn retries(&self, attempt: u32, kind: ErrorKind) -> bool {
        attempt <= self.max_retries && self.retry_on.contains(&kind)
    }

    /// The pause after the given try (from 1) failed. `jitter_unit` is the chance, from 0 to 1; only policies with jitter read it.
    #[must_use]
    pub fn delay_ms(&self, attempt: u32, jitter_unit: f64) -> u64 {
        let step = attempt.saturating_sub(1);
        match &self.backoff {
            Backoff::Steps(steps) => {
                let index = usize::try_from(step).unwrap_or(usize::MAX);
                steps.get(index).or_else(|| steps.last()).copied().unwrap_or(0)
            }
            Backoff::Exponential { base_ms, factor, max_ms, jitter } => {
                let exponent = i32::try_from(step).unwrap_or(i32::MAX);
                let unit = if jitter_unit.is_nan() { 0.0 } else { jitter_unit.clamp(0.0, 1.0) };
                let full = (to_float(*base_ms) * factor.powi(exponent)).min(to_float(*max_ms));
                to_whole(full * (1.0 - jitter * unit))
            }
        }
    }

    /// Reads a policy; fields that are left out have the usual value.
    pub(crate) fn read(value: &Value, place: Place, reader: &mut Reader) -> Option<Self> {
        let mut fields = Fields::open(value, place, reader)?;
        let mut policy = Self::default();
        let retries = 0..=u64::from(limits::MAX_RETRIES);
        if let Some(retries) = fields.integer("max_retries", retries, reader) {
            policy.max_retries = u32::try_from(retries).unwrap_or(limits::MAX_RETRIES);
        }
        if let Some(steps) = fields.array("backoff_ms", limits::MAX_BACKOFF_STEPS, reader) {
            let place = fields.place_of("backoff_ms");
            if steps.is_empty() {
                reader.report(&place, ProblemCode::OutOfRange, "at least one pause");
            }
            let range = 0..=limits::MAX_BACKOFF_MS;
            let steps = steps.iter().enumerate();
            let pauses = steps.filter_map(|(index, step)| {
                read_integer(step, &place.item(index), range.clone(), reader)
            });
            policy.backoff = Backoff::Steps(pauses.collect());
        }
        if let Some(exponential) = fields.get("exponential") {
            let place = fields.place_of("exponential");
            if fields.has("backoff_ms") {
                let reason = "either `backoff_ms` or `exponential`, not both";
                reader.report(&place, ProblemCode::InvalidValue, reason);
            }
            if let Some(backoff) = read_exponential(exponential, place, reader) {
                policy.backoff = backoff;
            }
        }
        if let Some(kinds) = fields.array("retry_on", 8, reader) {
            let place = fields.place_of("retry_on");
            let kinds = kinds.iter().enumerate();
            policy.retry_on = kinds
                .filter_map(|(index, kind)| read_error_kind(kind, &place.item(index), reader))
                .collect();
        }
        fields.finish(reader);
        Some(policy)
    }
}

fn read_exponential(value: &Value, place: Place, reader: &mut Reader) -> Option<Backoff> {
    let mut fields = Fields::open(value, place, reader)?;
    let pause = || 1..=limits::MAX_BACKOFF_MS;
    let base_ms = fields.integer("base_ms", pause(), reader);
    if base_ms.is_none() && !fields.has("base_ms") {
        fields.required("base_ms", reader);
    }
    let factor = fields.number("factor", 1.0..=100.0, reader).unwrap_or(2.0);
    let max_ms = fields.integer("max_ms", pause(), reader).unwrap_or(limits::MAX_BACKOFF_MS);
    let jitter = fields.number("jitter", 0.0..=1.0, reader).unwrap_or(0.0);
    fields.finish(reader);
    Some(Backoff::Exponential { base_ms: base_ms?, factor, max_ms, jitter })
}

/// A failure that may be tried again. A cancel is no failure to try again, and a wrong configuration stays wrong.
fn read_error_kind(value: &Value, place: &Place, reader: &mut Reader) -> Option<ErrorKind> {
    let kind = match value.as_str() {
        Some("transient") => Some(ErrorKind::Transient),
        Some("timeout") => Some(ErrorKind::Timeout),
        Some("permanent") => Some(ErrorKind::Permanent),
        Some("unknown_outcome") => Some(ErrorKind::UnknownOutcome),
        _ => None,
    };
    if kind.is_none() {
        let reason = "expected one of transient, timeout, permanent, unknown_outcome";
        reader.report(place, ProblemCode::UnknownValue, reason);
    }
    kind
}

/// Exact below 2^53, which every bounded pause is.
#[expect(clippy::cast_precision_loss, reason = "pauses are at most a day of milliseconds")]
fn to_float(ms: u64) -> f64 {
    ms as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "pauses are between 0 and a day of milliseconds"
)]
fn to_whole(ms: f64) -> u64 {
    ms.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_policy_tries_four_times() {
        let policy = RetryPolicy::default();
        let delays: Vec<u64> = (1..=5).map(|attempt| policy.delay_ms(attempt, 0.5)).collect();
        assert_eq!(delays, [5_000, 30_000, 120_000, 120_000, 120_000]);
        let again: Vec<bool> =
            (1..=5).map(|attempt| policy.retries(attempt, ErrorKind::Transient)).collect();
        assert_eq!(again, [true, true, true, false, false]);
    }

    #[test]
    fn only_the_named_failures_are_tried_again() {
        let policy = RetryPolicy::default();
        let again = [
            (ErrorKind::Transient, true),
            (ErrorKind::Timeout, true),
            (ErrorKind::Permanent, false),
            (ErrorKind::Validation, false),
            (ErrorKind::Cancelled, false),
            (ErrorKind::UnknownOutcome, false),
        ];
        for (kind, expected) in again {
            assert_eq!(policy.retries(1, kind), expected, "{kind:?}");
        }
    }

    #[test]
    fn exponential_pauses_grow_to_their_bound_and_jitter_takes_off() {
        let policy = RetryPolicy {
            max_retries: 10,
            backoff: Backoff::Exponential { base_ms: 100, factor: 2.0, max_ms: 1_000, jitter: 0.5 },
            retry_on: vec![ErrorKind::Transient],
        };
        let table = [
            (1, 0.0, 100),
            (2, 0.0, 200),
            (3, 0.0, 400),
            (4, 0.0, 800),
            (5, 0.0, 1_000),
            (u32::MAX, 0.0, 1_000),
            (1, 1.0, 50),
            (2, 0.5, 150),
            (5, 1.0, 500),
            (1, f64::NAN, 100),
            (1, 7.0, 50),
            (0, 0.0, 100),
        ];
        for (attempt, unit, expected) in table {
            assert_eq!(policy.delay_ms(attempt, unit), expected, "attempt {attempt}, unit {unit}");
        }
    }
}
