//! What a carrier is doing, for health and the system page.

use std::fmt;

use ledgerline_store::Position;

/// What a carrier is doing, for health and the system page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CarrierStatus {
    /// What it is doing.
    pub state: CarrierState,
    /// Everything up to here is on NATS, as far as this process knows.
    pub position: Position,
    /// How many events of the log come after that.
    pub lag: u64,
}

/// What a carrier is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CarrierState {
    /// Another process leads, or it is not known yet who does.
    Standby,
    /// It publishes what the log holds.
    Leading,
    /// NATS cannot be used: it waits.
    NatsAway,
    /// NATS or this build refuses an event: it tries again with back-off.
    Refused {
        /// Why.
        reason: String,
    },
    /// The log cannot be read: it tries again with back-off.
    LogAway {
        /// Why.
        reason: String,
    },
}

impl fmt::Display for CarrierState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standby => f.write_str("standby"),
            Self::Leading => f.write_str("leading"),
            Self::NatsAway => f.write_str("nats is away"),
            Self::Refused { reason } => write!(f, "refused: {reason}"),
            Self::LogAway { reason } => write!(f, "the log is away: {reason}"),
        }
    }
}
