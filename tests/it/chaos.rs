//! Processes and servers that are killed at random moments, while others write, read and listen.
//!
//! These tests run servers of their own with full durability, not the shared ones. What is killed and when is random, and the seed is
//! printed when a test fails; what follows must hold for every seed.

mod feed;
mod log;
pub(crate) mod writers;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::{SeedableRng as _, rngs::StdRng};

/// How long anything that must happen may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Another order of events in every run.
#[expect(clippy::disallowed_methods, reason = "every run is to be another one")]
fn dice() -> StdRng {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
    let seed = u64::from(now.subsec_nanos());
    // Seen when the test fails.
    println!("seed {seed}");
    StdRng::seed_from_u64(seed)
}
