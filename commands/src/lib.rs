//! What may change: the one command loop, and the background policies that are commands' other callers.
//!
//! `domain` knows what may follow from a state, `store` what did; this crate joins them and adds nothing of either.
//! Reading order: [`context`] (what goes with a command), [`execute`] (load, decide, append, try again), [`scope`] (what one try
//! looked at and rests on), [`load`] and [`cache`] (where states come from), [`preview`] (a dry run), [`start`] (an execution's
//! first command), [`fire`] (the same by a trigger); then the loops that lead by lease: [`policies`], [`dispatch`], [`timers`] (with
//! [`schedules`]), [`triggers`]; and [`recorder`], which takes facts for the audit into the log.

pub mod audit;
pub mod cache;
pub mod clock;
pub mod context;
pub mod definitions;
pub mod dispatch;
pub mod due;
pub mod error;
pub mod execute;
pub mod fire;
mod follow;
pub mod lead;
pub mod lines;
pub mod load;
pub mod personal;
pub mod policies;
pub mod preview;
pub mod record;
pub mod recorder;
pub mod references;
pub mod resolve;
pub mod schedules;
pub mod scope;
pub mod start;
mod submit;
#[cfg(test)]
mod testing;
pub mod timers;
pub mod triggers;
mod turns;

pub use audit::{Audit, Auditor, Stuck, Survey};
pub use clock::Clock;
pub use context::{Context, EventIds, Seen, Target};
pub use dispatch::{DispatchSettings, Dispatcher};
pub use error::{CommandError, LoadError};
pub use execute::{Commands, Executed, Settings, Transacted, WorkspaceLimits};
pub use lead::{Leading, StandDown};
pub use lines::Lines;
pub use load::{AsOf, Loaded, Snapshots, StreamOrigin};
pub use policies::Policies;
pub use preview::{Preview, PreviewedEvent};
pub use recorder::Recorder;
pub use scope::{Decided, Scope};
pub use timers::Timers;
pub use triggers::Triggers;
