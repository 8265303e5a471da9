//! What one process holds of one window: pure, under a clock that is handed in.
//!
//! A process asks for an eighth of what it believes is left, at least one request. So a window is used up in a few dozen leases however
//! many requests it holds, slices get smaller towards its end, and what lies unused in a process that hears no more of the user is never more than
//! an eighth of the window.

use chrono::{DateTime, TimeDelta, Utc};

use super::quota::Quota;

/// One part in so many of what is left is leased at once.
const PARTS: u32 = 8;

/// What this process holds of the window of one subject.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Leased and not used.
    left: u32,
    /// What no process had leased when this one last asked.
    rest: u32,
    /// When the window ends; none before the first lease.
    ends_at: Option<DateTime<Utc>>,
}

/// What was leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// How many requests this process got; 0 when the window is used up.
    pub granted: u32,
    /// What no process has leased after it.
    pub rest: u32,
    /// When the window ends.
    pub ends_at: DateTime<Utc>,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It is let in.
    Granted(Standing),
    /// It has to wait for the next window.
    Refused(Standing),
    /// Nobody here knows: a slice must be leased, of so many requests.
    Lease(u32),
}

/// How a window stands after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// How many more requests there are, as far as this process knows.
    pub remaining: u32,
    /// In how many seconds the next window may begin, at least 1.
    pub resets_in_s: u32,
}

impl Share {
    /// One request.
    pub fn take(&mut self, quota: Quota, now: DateTime<Utc>) -> Turn {
        let Some(ends_at) = self.ends_at.filter(|ends_at| now < *ends_at) else {
            *self = Self::default();
            return Turn::Lease(part_of(quota.requests));
        };
        if self.left > 0 {
            self.left -= 1;
            return Turn::Granted(self.standing(ends_at, now));
        }
        if self.rest == 0 {
            return Turn::Refused(self.standing(ends_at, now));
        }
        Turn::Lease(part_of(self.rest))
    }

    /// Takes in what was leased.
    pub fn receive(&mut self, lease: Lease) {
        *self = Self { left: lease.granted, rest: lease.rest, ends_at: Some(lease.ends_at) };
    }

    fn standing(&self, ends_at: DateTime<Utc>, now: DateTime<Utc>) -> Standing {
        Standing {
            remaining: self.left.saturating_add(self.rest),
            resets_in_s: seconds(ends_at - now),
        }
    }
}

fn part_of(requests: u32) -> u32 {
    (requests / PARTS).max(1)
}

/// Rounded up: whoever waits that long comes late enough.
fn seconds(wait: TimeDelta) -> u32 {
    let seconds = (wait.num_milliseconds() + 999) / 1_000;
    u32::try_from(seconds).unwrap_or(0).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the database keeps, as `sql/rate_limit/lease.sql` does.
    #[derive(Default)]
    struct Window {
        ends_at: Option<DateTime<Utc>>,
        taken: u32,
        leases: u32,
    }

    impl Window {
        fn lease(&mut self, quota: Quota, wanted: u32, now: DateTime<Utc>) -> Lease {
            if self.ends_at.is_none_or(|ends_at| ends_at <= now) {
                self.ends_at = Some(now + quota.window());
                self.taken = 0;
            }
            let granted = wanted.min(quota.requests.saturating_sub(self.taken));
            self.taken += granted;
            self.leases += 1;
            let rest = quota.requests.saturating_sub(self.taken);
            Lease { granted, rest, ends_at: self.ends_at.unwrap() }
        }
    }

    fn ask(window: &mut Window, share: &mut Share, quota: Quota, now: DateTime<Utc>) -> Turn {
        match share.take(quota, now) {
            Turn::Lease(wanted) => {
                share.receive(window.lease(quota, wanted, now));
                share.take(quota, now)
            }
            turn => turn,
        }
    }

    fn start() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    #[test]
    fn a_window_lets_in_what_it_holds_in_few_leases_and_then_refuses_without_one() {
        let quota = Quota { requests: 600, window_s: 60 };
        let (mut window, mut share) = (Window::default(), Share::default());
        for used in 1..=600 {
            let turn = ask(&mut window, &mut share, quota, start());
            let standing = Standing { remaining: 600 - used, resets_in_s: 60 };
            assert_eq!(turn, Turn::Granted(standing));
        }
        assert!(window.leases < 60, "{} leases for 600 requests", window.leases);
        let (leases, later) = (window.leases, start() + TimeDelta::milliseconds(30_500));
        let refused = Turn::Refused(Standing { remaining: 0, resets_in_s: 30 });
        assert_eq!(ask(&mut window, &mut share, quota, later), refused);
        assert_eq!(window.leases, leases, "a refusal asks nobody");
        let next = start() + quota.window();
        assert!(matches!(ask(&mut window, &mut share, quota, next), Turn::Granted(_)));
    }

    #[test]
    fn what_is_held_of_an_old_window_counts_no_more() {
        let quota = Quota { requests: 80, window_s: 10 };
        let (mut window, mut share) = (Window::default(), Share::default());
        assert!(matches!(ask(&mut window, &mut share, quota, start()), Turn::Granted(_)));
        let next = start() + quota.window();
        assert_eq!(share.take(quota, next), Turn::Lease(10));
    }

    proptest! {
        /// Whatever processes ask in whatever order: no window lets in more than its quota, and what is refused while some is left is
        /// what other processes hold.
        #[test]
        fn processes_together_never_exceed_a_quota(
            requests in 1_u32..300, window_s in 1_u32..20, asks in prop::collection::vec((0_usize..4, 0_i64..400), 1..900),
        ) {
            let quota = Quota { requests, window_s };
            let (mut window, mut shares) = (Window::default(), [Share::default(); 4]);
            let mut now = start();
            let mut granted = std::collections::BTreeMap::<_, u32>::new();
            for (process, pause_ms) in asks {
                now += TimeDelta::milliseconds(pause_ms);
                match ask(&mut window, &mut shares[process], quota, now) {
                    Turn::Granted(_) => *granted.entry(shares[process].ends_at).or_default() += 1,
                    Turn::Refused(standing) => {
                        prop_assert_eq!(standing.remaining, 0);
                        prop_assert_eq!(window.taken, requests, "refused only when all is handed out");
                    }
                    Turn::Lease(_) => prop_assert!(false, "a lease answers"),
                }
            }
            for (ends_at, count) in granted {
                prop_assert!(count <= requests, "{} of {} in the window to {:?}", count, requests, ends_at);
            }
        }
    }
}
