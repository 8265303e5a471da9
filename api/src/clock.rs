//! The time as an input: read once where a request comes in, handed on from there.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use chrono::{DateTime, TimeDelta, Utc};

/// Where the time comes from. Cheap to clone; all clones show the same time.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    /// Microseconds since 1970.
    Set(Arc<AtomicI64>),
}

impl Clock {
    /// The clock of the machine.
    #[must_use]
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands until [`Clock::advance`] moves it, so that expiry can be tested without waiting.
    #[must_use]
    pub fn standing_at(time: DateTime<Utc>) -> Self {
        Self(Source::Set(Arc::new(AtomicI64::new(time.timestamp_micros()))))
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        match &self.0 {
            Source::System => Utc::now(),
            Source::Set(micros) => {
                DateTime::from_timestamp_micros(micros.load(Ordering::SeqCst)).unwrap_or_default()
            }
        }
    }

    /// Moves a standing clock; the machine's own clock is not moved.
    pub fn advance(&self, by: TimeDelta) {
        if let Source::Set(micros) = &self.0 {
            micros.fetch_add(by.num_microseconds().unwrap_or(0), Ordering::SeqCst);
        }
    }
}
