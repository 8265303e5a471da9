//! What may change: the one command loop, and the background policies that are commands' other callers.
//!
//! `domain` knows what may follow from a state, `store` what did; this crate joins them and adds nothing of either.
//! Reading order: [`context`] (what goes with a command), [`execute`] (load, decide, append, try again), [`scope`] (what one try
//! looked at and rests on), [`load`] and [`cache`] (where states come from), [`preview`] (a dry run), [`start`] (an execution's
//! first command); then the loops that lead by lease: [`policies`], [`dispatch`], [`timers`].

pub mod cache;
pub mod clock;
pub mod context;
pub mod due;
pub mod error;
pub mod execute;
pub mod load;
pub mod preview;
pub mod record;
pub mod scope;
mod turns;

pub use clock::Clock;
pub use context::{Context, EventIds, Target};
pub use error::{CommandError, LoadError};
pub use execute::{Commands, Executed, Settings, Transacted};
pub use load::{AsOf, Loaded, Snapshots};
pub use preview::{Preview, PreviewedEvent};
pub use scope::{Decided, Scope};
