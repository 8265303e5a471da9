//! Seeded simulations of the production code: [`ledgerline_commands::Commands`], dispatch, policies and timers over the simulated log,
//! in one thread and in simulated time. Only the transport and the effects are models (`worker`), which do with a run what the real
//! worker does.
//!
//! A seed decides the workflows, what people ask for and when, which append fails before or after its commit, which process dies of it,
//! which delivery is lost, doubled or late. First everything may go wrong (*safety*: `checker` holds after each step), then nothing
//! does (*liveness*: every run ends). A seed does not decide what the production code leaves to chance, i.e. the order of hash maps and
//! which of two futures that are ready is polled first, so a rare failure may need its seed more than once.
//!
//! `make simulate SEEDS=1000` runs as many. To keep a seed, add it to `seeds.txt` with what it found.

mod checker;
mod dice;
mod graphs;
mod process;
mod simulation;
mod weather;
mod worker;

use std::{
    panic::catch_unwind,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use simulation::{Tally, simulate};

/// How many random seeds a test run tries.
const RANDOM_SEEDS: u64 = 200;

/// One seed a line; what follows on `#` says why it is kept.
const KEPT: &str = include_str!("seeds.txt");

#[test]
fn seeds_that_once_failed_hold() {
    let seeds = KEPT.lines().filter_map(|line| {
        let seed = line.split('#').next().unwrap_or_default().trim();
        (!seed.is_empty()).then(|| seed.parse().expect("a seed is a number"))
    });
    run(&seeds.collect::<Vec<u64>>());
}

#[test]
fn random_seeds_hold() {
    let count = number("SEEDS").unwrap_or(RANDOM_SEEDS);
    let first = number("SEED").unwrap_or_else(by_chance);
    println!("seeds {first} to {}", first + count - 1);
    run(&(first..first + count).collect::<Vec<u64>>());
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

/// Runs seeds on all processors, and names those that failed.
#[expect(clippy::print_stdout, reason = "a failed seed is named, and how much was tried")]
fn run(seeds: &[u64]) {
    let begun = Instant::now();
    let next = AtomicU64::new(0);
    let (failed, sum) = (Mutex::new(Vec::new()), Mutex::new(Tally::default()));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = usize::try_from(next.fetch_add(1, Ordering::Relaxed));
                    let Some(seed) = index.ok().and_then(|index| seeds.get(index)) else { return };
                    match catch_unwind(|| simulate(*seed)) {
                        Ok(tally) => sum.lock().unwrap_or_else(PoisonError::into_inner).add(tally),
                        Err(_) => {
                            println!(
                                "seed {seed} failed; again: make simulate SEED={seed} SEEDS=1"
                            );
                            failed.lock().unwrap_or_else(PoisonError::into_inner).push(*seed);
                        }
                    }
                }
            });
        }
    });
    println!("{} seeds in {:?}: {:?}", seeds.len(), begun.elapsed(), sum.into_inner());
    let failed = failed.into_inner().expect("every thread ended well");
    assert!(failed.is_empty(), "seeds that failed: {failed:?}");
}
