//! Tables of fire times, around changes of clocks above all, and what is due when.

use proptest::prelude::*;

use super::*;

fn at(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).unwrap().with_timezone(&Utc)
}

fn schedule(pattern: &str, timezone: &str) -> Schedule {
    Schedule::parse(pattern, timezone).unwrap_or_else(|error| panic!("{pattern}: {error}"))
}

/// The next times after a moment, on the clocks of the zone.
fn table(pattern: &str, timezone: &str, after: &str, expected: &[&str]) {
    let schedule = schedule(pattern, timezone);
    let times = schedule.next_times(at(after), expected.len());
    let shown: Vec<String> = times.iter().map(|time| schedule.local(*time)).collect();
    assert_eq!(shown, expected, "{pattern} in {timezone} after {after}");
}

#[test]
fn berlin_springs_forward() {
    // 2026-03-29: 02:00 becomes 03:00.
    table(
        "30 2 * * *",
        "Europe/Berlin",
        "2026-03-27T12:00:00Z",
        &["2026-03-28T02:30:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"],
    );
    table(
        "*/30 * * * *",
        "Europe/Berlin",
        "2026-03-29T00:29:00Z",
        &["2026-03-29T01:30:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-29T03:30:00+02:00"],
    );
    table(
        "0 * * * *",
        "Europe/Berlin",
        "2026-03-28T23:30:00Z",
        &["2026-03-29T01:00:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-29T04:00:00+02:00"],
    );
    // A fixed time that falls on the end of the gap as well as one inside it fires on its own.
    table(
        "0 3 * * *",
        "Europe/Berlin",
        "2026-03-28T12:00:00Z",
        &["2026-03-29T03:00:00+02:00", "2026-03-30T03:00:00+02:00"],
    );
}

#[test]
fn berlin_falls_back() {
    // 2026-10-25: 03:00 becomes 02:00.
    table(
        "30 2 * * *",
        "Europe/Berlin",
        "2026-10-24T12:00:00Z",
        &["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"],
    );
    table(
        "*/30 * * * *",
        "Europe/Berlin",
        "2026-10-24T23:59:00Z",
        &[
            "2026-10-25T02:00:00+02:00",
            "2026-10-25T02:30:00+02:00",
            "2026-10-25T02:00:00+01:00",
            "2026-10-25T02:30:00+01:00",
            "2026-10-25T03:00:00+01:00",
        ],
    );
}

#[test]
fn new_york_both_ways() {
    table(
        "30 2 * * *",
        "America/New_York",
        "2026-03-07T12:00:00Z",
        &["2026-03-08T03:00:00-04:00", "2026-03-09T02:30:00-04:00"],
    );
    table(
        "30 1 * * *",
        "America/New_York",
        "2026-10-31T12:00:00Z",
        &["2026-11-01T01:30:00-04:00", "2026-11-02T01:30:00-05:00"],
    );
    table(
        "0 * * * *",
        "America/New_York",
        "2026-11-01T04:30:00Z",
        &["2026-11-01T01:00:00-04:00", "2026-11-01T01:00:00-05:00", "2026-11-01T02:00:00-05:00"],
    );
}

#[test]
fn lord_howe_changes_by_half_an_hour() {
    // 2026-10-04: 02:00 becomes 02:30. 2026-04-05: 02:00 becomes 01:30.
    table(
        "15 2 * * *",
        "Australia/Lord_Howe",
        "2026-10-02T16:00:00Z",
        &["2026-10-04T02:30:00+11:00", "2026-10-05T02:15:00+11:00"],
    );
    table(
        "45 1 * * *",
        "Australia/Lord_Howe",
        "2026-04-04T00:00:00Z",
        &["2026-04-05T01:45:00+11:00", "2026-04-06T01:45:00+10:30"],
    );
    table(
        "*/15 * * * *",
        "Australia/Lord_Howe",
        "2026-04-04T14:29:00Z",
        &[
            "2026-04-05T01:30:00+11:00",
            "2026-04-05T01:45:00+11:00",
            "2026-04-05T01:30:00+10:30",
            "2026-04-05T01:45:00+10:30",
            "2026-04-05T02:00:00+10:30",
        ],
    );
}

#[test]
fn calendars_have_corners() {
    table(
        "0 0 29 2 *",
        "UTC",
        "2026-01-01T00:00:00Z",
        &["2028-02-29T00:00:00+00:00", "2032-02-29T00:00:00+00:00"],
    );
    table(
        "0 9 L * *",
        "UTC",
        "2026-01-30T00:00:00Z",
        &["2026-01-31T09:00:00+00:00", "2026-02-28T09:00:00+00:00", "2026-03-31T09:00:00+00:00"],
    );
    table(
        "0 9 * * MON#1",
        "UTC",
        "2026-01-01T00:00:00Z",
        &["2026-01-05T09:00:00+00:00", "2026-02-02T09:00:00+00:00"],
    );
    table("0 9 15W * *", "UTC", "2026-08-01T00:00:00Z", &["2026-08-14T09:00:00+00:00"]);
    table(
        "*/20 * * * * *",
        "UTC",
        "2026-01-01T00:00:01.5Z",
        &["2026-01-01T00:00:20+00:00", "2026-01-01T00:00:40+00:00", "2026-01-01T00:01:00+00:00"],
    );
    table("@daily", "Asia/Kathmandu", "2026-01-01T00:00:00Z", &["2026-01-02T00:00:00+05:45"]);
    table(
        "0 0 31 12 *",
        "Pacific/Kiritimati",
        "2026-01-01T00:00:00Z",
        &["2026-12-31T00:00:00+14:00"],
    );
}

#[test]
fn what_is_no_schedule_is_refused() {
    for pattern in [
        "",
        "x",
        "* * * *",
        "60 * * * *",
        "* * * * * * 2030",
        "0/10 * * * *",
        "@reboot",
        "ä * * * *",
        "* * *\n* *",
    ] {
        let refused = Schedule::parse(pattern, "UTC").unwrap_err();
        assert!(matches!(refused, ScheduleError::Pattern { .. }), "{pattern}: {refused:?}");
    }
    let long = format!("{}0 * * * *", "0,".repeat(200));
    assert!(matches!(Schedule::parse(&long, "UTC"), Err(ScheduleError::Pattern { .. })));
    assert_eq!(Schedule::parse("0 0 30 2 *", "UTC").unwrap_err(), ScheduleError::Never);
    for timezone in ["", "Mars/Olympus", "europe/berlin", "+02:00"] {
        assert_eq!(Schedule::parse("* * * * *", timezone).unwrap_err(), ScheduleError::TimeZone);
    }
}

#[test]
fn it_says_what_it_does() {
    let text = schedule("0 8 * * MON-FRI", "Europe/Berlin").describe();
    assert!(text.starts_with("At 08:00"), "{text}");
    assert!(text.ends_with("(Europe/Berlin)"), "{text}");
}

fn trigger() -> TriggerId {
    TriggerId(Uuid::from_u128(7))
}

const MINUTE: Patience = Patience { catch_up_window_ms: 60_000, jitter_ms: 0 };

#[test]
fn what_is_due_now() {
    let hourly = schedule("0 * * * *", "UTC");
    let due = |now: &str| hourly.due(trigger(), at("2026-01-01T10:00:00Z"), MINUTE, at(now));
    assert_eq!(due("2026-01-01T09:59:59.999Z"), Due::NotYet);
    assert_eq!(due("2025-06-01T00:00:00Z"), Due::NotYet, "a clock that jumped back");
    assert_eq!(due("2026-01-01T10:00:00Z"), Due::Fire);
    assert_eq!(due("2026-01-01T10:01:00Z"), Due::Fire);
    let missed = |count, last: &str, next: &str| {
        Due::Missed(Missed {
            first: at("2026-01-01T10:00:00Z"),
            last: at(last),
            count,
            next: Some(at(next)),
        })
    };
    let one = missed(1, "2026-01-01T10:00:00Z", "2026-01-01T11:00:00Z");
    assert_eq!(due("2026-01-01T10:01:00.001Z"), one);
    // Three hours later the last one is still fresh enough, and fires when it is asked about.
    let three = missed(3, "2026-01-01T12:00:00Z", "2026-01-01T13:00:00Z");
    assert_eq!(due("2026-01-01T13:00:30Z"), three);
}

#[test]
fn within_the_window_each_fires_once_oldest_first() {
    let patience = Patience { catch_up_window_ms: 3 * 60 * 60 * 1_000, jitter_ms: 0 };
    let (hourly, now) = (schedule("0 * * * *", "UTC"), at("2026-01-01T15:30:00Z"));
    let (mut next, mut fired) = (at("2026-01-01T10:00:00Z"), Vec::new());
    loop {
        match hourly.due(trigger(), next, patience, now) {
            Due::NotYet => break,
            Due::Fire => {
                fired.push(next);
                next = hourly.next_after(next).unwrap();
            }
            Due::Missed(missed) => {
                assert_eq!((missed.first, missed.count), (at("2026-01-01T10:00:00Z"), 3));
                next = missed.next.unwrap();
            }
        }
    }
    let expected = ["2026-01-01T13:00:00Z", "2026-01-01T14:00:00Z", "2026-01-01T15:00:00Z"];
    assert_eq!(fired, expected.map(at));
    assert_eq!(next, at("2026-01-01T16:00:00Z"));
}

#[test]
fn a_year_of_missed_seconds_is_not_counted_to_the_end() {
    let (secondly, now) = (schedule("* * * * * *", "UTC"), at("2027-01-01T00:00:00Z"));
    let due = secondly.due(trigger(), at("2026-01-01T00:00:00Z"), MINUTE, now);
    let Due::Missed(missed) = due else { panic!("{due:?}") };
    assert_eq!(missed.count, limits::MAX_COUNTED_MISSED);
    assert_eq!(missed.next, Some(at("2026-12-31T23:59:01Z")));
}

#[test]
fn jitter_is_the_same_for_everybody_and_spreads() {
    let fire_at = at("2026-01-01T10:00:00Z");
    assert_eq!(jitter(trigger(), fire_at, 0), TimeDelta::zero());
    let of = |number: u128| jitter(TriggerId(Uuid::from_u128(number)), fire_at, 60_000);
    let drawn: std::collections::BTreeSet<TimeDelta> = (0..200).map(of).collect();
    assert!(drawn.len() > 190, "{}", drawn.len());
    assert!(drawn.iter().all(|jitter| (0..=60_000).contains(&jitter.num_milliseconds())));
    assert_eq!(of(3), of(3));
    let patience = Patience { catch_up_window_ms: 60_000, jitter_ms: 60_000 };
    let due_at = Schedule::due_at(TriggerId(Uuid::from_u128(3)), fire_at, patience);
    assert_eq!(due_at, fire_at + of(3));
}

proptest! {
    #[test]
    fn nothing_that_is_written_breaks_the_parser(pattern in "[ -~]{0,40}", zone in "[ -~]{0,20}") {
        let _ = Schedule::parse(&pattern, &zone);
    }

    #[test]
    fn fields_of_numbers_and_signs_are_read_or_refused(
        fields in prop::collection::vec("[0-9*,/?LW#+-]{1,5}", 5..7),
    ) {
        let pattern = fields.join(" ");
        if let Ok(schedule) = Schedule::parse(&pattern, "Europe/Berlin") {
            let after = at("2026-03-28T23:59:59Z");
            let times = schedule.next_times(after, 5);
            prop_assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{pattern}: {times:?}");
            prop_assert!(times.first().is_none_or(|first| *first > after));
        }
    }
}
