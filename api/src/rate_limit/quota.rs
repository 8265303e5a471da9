//! How many requests in how long: the setting.

use std::{fmt, str::FromStr};

use chrono::TimeDelta;
use serde::Deserialize;

/// The longest window. What is bounded over more than a day is a plan and not a rate.
const MAX_WINDOW_S: u32 = 24 * 60 * 60;

/// The most requests in a window: beyond any machine, and far from the end of what is counted with.
const MAX_REQUESTS: u32 = 1_000_000_000;

/// So many requests in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// How many.
    pub requests: u32,
    /// In how many seconds.
    pub window_s: u32,
}

impl Quota {
    /// The length of the window.
    #[must_use]
    pub fn window(self) -> TimeDelta {
        TimeDelta::seconds(i64::from(self.window_s))
    }
}

/// A limit as it is configured: `600/1m`, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Limit {
    /// There is none.
    Off,
    /// So many requests in a window.
    Of(Quota),
}

impl Limit {
    /// The quota, where there is a limit.
    #[must_use]
    pub const fn quota(self) -> Option<Quota> {
        match self {
            Self::Off => None,
            Self::Of(quota) => Some(quota),
        }
    }
}

/// A text that is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a rate limit is written like 600/1m or 500/10s (at most 1000000000 requests in 24h), or it is off"
)]
pub struct NotALimit;

impl FromStr for Limit {
    type Err = NotALimit;

    fn from_str(text: &str) -> Result<Self, NotALimit> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let (requests, window) = text.split_once('/').ok_or(NotALimit)?;
        let requests: u32 = requests.parse().map_err(|_| NotALimit)?;
        let (count, unit_s) = [('s', 1), ('m', 60), ('h', 60 * 60)]
            .into_iter()
            .find_map(|(unit, seconds)| Some((window.strip_suffix(unit)?, seconds)))
            .ok_or(NotALimit)?;
        let window_s = match count {
            "" => unit_s,
            count => count
                .parse::<u32>()
                .ok()
                .and_then(|count| count.checked_mul(unit_s))
                .ok_or(NotALimit)?,
        };
        let fits = (1..=MAX_REQUESTS).contains(&requests) && (1..=MAX_WINDOW_S).contains(&window_s);
        if fits { Ok(Self::Of(Quota { requests, window_s })) } else { Err(NotALimit) }
    }
}

impl TryFrom<String> for Limit {
    type Error = NotALimit;

    fn try_from(text: String) -> Result<Self, NotALimit> {
        text.parse()
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Of(Quota { requests, window_s }) => write!(f, "{requests}/{window_s}s"),
        }
    }
}

/// How often a user may ask, with whatever sessions and keys. Each limit stands by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimitsConfig {
    /// Requests that only look, and what external workers ask. Default: 500 in 10 seconds, which is 50 a second with bursts of ten
    /// times that.
    pub reads: Limit,
    /// Requests that may change something. Default: 600 in a minute.
    pub writes: Limit,
    /// All of them together, `1000/1h` for instance. Default: off.
    pub requests: Limit,
}

impl Default for RateLimitsConfig {
    fn default() -> Self {
        Self {
            reads: Limit::Of(Quota { requests: 500, window_s: 10 }),
            writes: Limit::Of(Quota { requests: 600, window_s: 60 }),
            requests: Limit::Off,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_requests_in_a_time_or_off() {
        let of = |requests, window_s| Ok(Limit::Of(Quota { requests, window_s }));
        for (text, limit) in [
            ("off", Ok(Limit::Off)),
            ("600/1m", of(600, 60)),
            ("500/10s", of(500, 10)),
            ("1000/h", of(1_000, 3_600)),
            ("1000000000/24h", of(1_000_000_000, 86_400)),
            ("0/1s", Err(NotALimit)),
            ("1/0s", Err(NotALimit)),
            ("1/25h", Err(NotALimit)),
            ("1/99999999999h", Err(NotALimit)),
            ("1/4294967295h", Err(NotALimit)),
            ("1/1d", Err(NotALimit)),
            ("1", Err(NotALimit)),
            ("-1/1s", Err(NotALimit)),
            ("", Err(NotALimit)),
            ("Off", Err(NotALimit)),
        ] {
            assert_eq!(text.parse::<Limit>(), limit, "{text}");
        }
    }

    #[test]
    fn what_is_printed_is_read_back() {
        let RateLimitsConfig { reads, writes, requests } = RateLimitsConfig::default();
        for limit in [reads, writes, requests] {
            assert_eq!(limit.to_string().parse(), Ok(limit));
        }
    }
}
