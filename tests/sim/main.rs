//! Seeded simulations of the production code: [`ledgerline_commands::Commands`], dispatch, policies and timers over the simulated log,
//! in one thread and in simulated time. Only the transport and the effects are models (`worker`), which do with a run what the real
//! worker does.
//!
//! A seed decides the workflows, what people ask for and when, what approvals, signals and external workers (`outside`) do, which append fails before or after its commit, which process dies of it,
//! which delivery is lost, doubled or late. First everything may go wrong (*safety*: `checker` holds after each step), then nothing
//! does (*liveness*: every run ends). A seed does not decide what the production code leaves to chance, i.e. the order of hash maps and
//! which of two futures that are ready is polled first, so a rare failure may need its seed more than once.
//!
//! A test run tries [`AT_LEAST`] seeds from a random one on, and more while there is [`TIME`]. `make simulate SEEDS=10000` runs as many. To
//! keep a seed, add it to `seeds.txt` with what it found.

mod checker;
mod dice;
mod graphs;
mod outside;
mod process;
mod simulation;
mod weather;
mod worker;

use std::{
    panic::catch_unwind,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use simulation::{Tally, simulate};

/// How many random seeds a test run tries at least.
const AT_LEAST: u64 = 1_000;

/// How long it goes on with more.
const TIME: Duration = Duration::from_secs(60);

/// One seed a line; what follows on `#` says why it is kept.
const KEPT: &str = include_str!("seeds.txt");

#[test]
fn seeds_that_once_failed_hold() {
    let seeds = KEPT.lines().filter_map(|line| {
        let seed = line.split('#').next().unwrap_or_default().trim();
        (!seed.is_empty()).then(|| seed.parse().expect("a seed is a number"))
    });
    let seeds: Vec<u64> = seeds.collect();
    run(|index, _| seeds.get(index).copied());
}

#[test]
fn random_seeds_hold() {
    let count = number("SEEDS");
    let first = number("SEED").unwrap_or_else(by_chance);
    println!("seeds from {first}");
    run(|index, elapsed| {
        let index = u64::try_from(index).expect("it counts seeds");
        let go_on = match count {
            Some(count) => index < count,
            None => index < AT_LEAST || elapsed < TIME,
        };
        go_on.then_some(first + index)
    });
}

#[expect(clippy::disallowed_methods, reason = "the seeds of a test come from whoever runs it")]
fn number(variable: &str) -> Option<u64> {
    Some(std::env::var(variable).ok()?.parse().expect("a number"))
}

#[expect(clippy::disallowed_methods, reason = "each run of the tests tries other seeds")]
fn by_chance() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    now.as_secs() * 1_000
}

/// Runs seeds on all processors, as long as there is one for the next index after this time, and names those that failed.
#[expect(clippy::print_stdout, reason = "a failed seed is named, and how much was tried")]
fn run(seed_of: impl Fn(usize, Duration) -> Option<u64> + Sync) {
    let begun = Instant::now();
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (failed, sum) = (Mutex::new(Vec::new()), Mutex::new(Tally::default()));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(seed) = seed_of(index, begun.elapsed()) else { return };
                    done.fetch_add(1, Ordering::Relaxed);
                    match catch_unwind(|| simulate(seed)) {
                        Ok(tally) => sum.lock().unwrap_or_else(PoisonError::into_inner).add(tally),
                        Err(_) => {
                            println!(
                                "seed {seed} failed; again: make simulate SEED={seed} SEEDS=1"
                            );
                            failed.lock().unwrap_or_else(PoisonError::into_inner).push(seed);
                        }
                    }
                }
            });
        }
    });
    println!("{done:?} seeds in {:?}: {:?}", begun.elapsed(), sum.into_inner());
    let failed = failed.into_inner().expect("every thread ended well");
    assert!(failed.is_empty(), "seeds that failed: {failed:?}");
}
