//! When a schedule fires: a cron pattern in a time zone, and the pure decision of what is due.
//!
//! Where clocks change, the rule is that of Vixie cron. A pattern with a fixed hour and minute fires once on every day that it names: a
//! time that a spring-forward leaves out fires at the first moment after the gap, and one that a fall-back repeats fires the first time
//! only. A pattern with a wildcard, step, range or list in second, minute or hour follows the absolute time: it fires at no time that does not
//! exist, and at both of those that exist twice.

use std::{fmt, str::FromStr as _};

use chrono::{DateTime, SubsecRound as _, TimeDelta, TimeZone as _, Utc};
use chrono_tz::Tz;
use croner::{
    Cron,
    parser::{CronParser, Year},
};
use uuid::Uuid;

use crate::{
    id::{TriggerId, derived},
    limits,
};

/// Why a schedule can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// The pattern is not one.
    #[error("not a cron pattern: {reason}")]
    Pattern {
        /// What is wrong with it, for a person.
        reason: String,
    },
    /// It is one, and names no day that exists.
    #[error("the cron pattern never comes due")]
    Never,
    /// The time zone is unknown.
    #[error("not a time zone of the IANA database, like Europe/Berlin or UTC")]
    TimeZone,
}

/// A cron pattern in a time zone.
#[derive(Clone)]
pub struct Schedule {
    cron: Cron,
    timezone: Tz,
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schedule({} in {})", self.cron.as_str(), self.timezone)
    }
}

impl Schedule {
    /// Reads a pattern of five fields, or of six with seconds first, or a name like `@daily`; and the name of a time zone.
    ///
    /// # Errors
    /// What is wrong with either.
    pub fn parse(pattern: &str, timezone: &str) -> Result<Self, ScheduleError> {
        Ok(Self { cron: parse_pattern(pattern)?, timezone: parse_timezone(timezone)? })
    }

    /// The first time after another one; none when there is no more.
    #[must_use]
    pub fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let after = after.trunc_subsecs(0).with_timezone(&self.timezone);
        let next = self.cron.find_next_occurrence(&after, false).ok()?;
        Some(next.with_timezone(&Utc))
    }

    /// The next `count` times after another one.
    #[must_use]
    pub fn next_times(&self, after: DateTime<Utc>, count: usize) -> Vec<DateTime<Utc>> {
        std::iter::successors(self.next_after(after), |last| self.next_after(*last))
            .take(count)
            .collect()
    }

    /// A time as the clocks of its zone show it, with the offset.
    #[must_use]
    pub fn local(&self, time: DateTime<Utc>) -> String {
        time.with_timezone(&self.timezone).to_rfc3339()
    }

    /// What it says, in English.
    #[must_use]
    pub fn describe(&self) -> String {
        format!("{} ({})", self.cron.describe().trim_end_matches('.'), self.timezone)
    }
}

/// Reads a cron pattern.
pub(crate) fn parse_pattern(pattern: &str) -> Result<Cron, ScheduleError> {
    let wrong = |reason: &str| ScheduleError::Pattern { reason: reason.to_owned() };
    if pattern.len() > limits::MAX_CRON_CHARS {
        return Err(wrong("longer than any that somebody could read"));
    }
    if !pattern.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        return Err(wrong("only printable ASCII"));
    }
    let parser = CronParser::builder().year(Year::Disallowed).build();
    let cron = parser.parse(pattern).map_err(|error| wrong(&error.to_string()))?;
    // Without a year a pattern that comes due at all does so within 28 years, the cycle of leap days and weekdays, but for the
    // century years that are none: so this never depends on when it is asked.
    let asked_at = Utc.with_ymd_and_hms(2001, 1, 1, 0, 0, 0).single();
    match asked_at.map(|at| cron.find_next_occurrence(&at, true)) {
        Some(Ok(_)) => Ok(cron),
        Some(Err(_)) | None => Err(ScheduleError::Never),
    }
}

/// Reads the name of a time zone.
pub(crate) fn parse_timezone(name: &str) -> Result<Tz, ScheduleError> {
    Tz::from_str(name).map_err(|_| ScheduleError::TimeZone)
}

/// By how much a fire is put off, at most `jitter_ms`. It follows from the ids alone, so that every process that is asked answers the same.
#[must_use]
pub fn jitter(trigger: TriggerId, fire_at: DateTime<Utc>, jitter_ms: u64) -> TimeDelta {
    let Some(span) = jitter_ms.checked_add(1).filter(|span| *span > 1) else {
        return TimeDelta::zero();
    };
    let drawn: Uuid = derived(&["jitter", &trigger.to_string(), &fire_at.to_rfc3339()]);
    // The last eight bytes of a UUIDv5 are hash but for two bits of the first of them.
    let (_, low) = drawn.as_u64_pair();
    let ms = i64::try_from((low << 2) % span).unwrap_or(0);
    TimeDelta::milliseconds(ms)
}

/// How a schedule treats time that has gone by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// How late a fire may be.
    pub catch_up_window_ms: u64,
    /// By how much fires are spread.
    pub jitter_ms: u64,
}

/// What is to be done about the next fire time of a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// It has not come yet.
    NotYet,
    /// It fires, however many more have come by now: they are asked about one by one.
    Fire,
    /// It and maybe others after it came too long ago.
    Missed(Missed),
}

/// Fire times that came while nobody was there, too long ago to be caught up with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missed {
    /// The first of them.
    pub first: DateTime<Utc>,
    /// The last one that was counted.
    pub last: DateTime<Utc>,
    /// How many, at most [`limits::MAX_COUNTED_MISSED`].
    pub count: u32,
    /// The first one that was not missed; none when there is no more.
    pub next: Option<DateTime<Utc>>,
}

impl Schedule {
    /// When a fire time becomes due: at the time itself, put off by its jitter.
    #[must_use]
    pub fn due_at(trigger: TriggerId, fire_at: DateTime<Utc>, patience: Patience) -> DateTime<Utc> {
        fire_at + jitter(trigger, fire_at, patience.jitter_ms)
    }

    /// What is to be done now, `fire_at` being the next fire time.
    ///
    /// A time within the catch-up window fires, each once, oldest first; older ones are missed together. `fire_at` only ever moves
    /// forward, so a clock that jumps back fires nothing twice, and one that jumps ahead is downtime like any other.
    #[must_use]
    pub fn due(
        &self,
        trigger: TriggerId,
        fire_at: DateTime<Utc>,
        patience: Patience,
        now: DateTime<Utc>,
    ) -> Due {
        let window = ms(patience.catch_up_window_ms);
        let lateness = |fire_at| now - Self::due_at(trigger, fire_at, patience);
        if lateness(fire_at) < TimeDelta::zero() {
            return Due::NotYet;
        }
        if lateness(fire_at) <= window {
            return Due::Fire;
        }
        let mut missed = Missed { first: fire_at, last: fire_at, count: 1, next: None };
        loop {
            missed.next = self.next_after(missed.last);
            match missed.next {
                Some(next) if lateness(next) > window => {
                    if missed.count == limits::MAX_COUNTED_MISSED {
                        // Not counted any further: on to what can't have been due long enough ago.
                        missed.next = self.next_after(now - window - ms(patience.jitter_ms));
                        return Due::Missed(missed);
                    }
                    missed.count += 1;
                    missed.last = next;
                }
                Some(_) | None => return Due::Missed(missed),
            }
        }
    }
}

fn ms(milliseconds: u64) -> TimeDelta {
    i64::try_from(milliseconds).ok().and_then(TimeDelta::try_milliseconds).unwrap_or(TimeDelta::MAX)
}

#[cfg(test)]
mod tests;
