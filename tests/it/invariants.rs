//! The invariants of ARCHITECTURE.md, each by its number, as far as they are not proved where their part is tested.
//!
//! | invariant | also |
//! | --- | --- |
//! | 1 | `chaos::log`, `store` |
//! | 6 | `projections::faults` |
//! | 7, 8 | `execution` |
//! | 9 | `chaos::feed`, `gateway`, `live` |
//! | 11 | `coverage` |

mod log;
mod refusals;
mod secrets;
mod upgrade;
