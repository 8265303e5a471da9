//! How long to wait after a refusal: doubling up to a ceiling, with jitter so that processes do not return together.

use std::time::Duration;

/// The wait before try `attempt` (0 for the first repeat): between half and all of `floor * 2^attempt`, at most `ceiling`.
pub(crate) fn backoff(attempt: u32, floor: Duration, ceiling: Duration) -> Duration {
    let doubled = floor.saturating_mul(2_u32.saturating_pow(attempt.min(16)));
    doubled.min(ceiling).mul_f64(rand::random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_up_to_its_ceiling() {
        let (floor, ceiling) = (Duration::from_millis(50), Duration::from_secs(10));
        for attempt in 0..100 {
            let wait = backoff(attempt, floor, ceiling);
            assert!(wait >= floor / 2 && wait <= ceiling, "{attempt}: {wait:?}");
            assert!(attempt < 8 || wait >= ceiling / 2, "{attempt}: {wait:?}");
        }
    }
}
