//! Whether NATS can be used.

use std::fmt;

/// Whether NATS can be used now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NatsState {
    /// Not connected; it is being tried.
    Away,
    /// Connected, and JetStream refuses the streams; it is being tried.
    Refused {
        /// What the server said.
        reason: String,
    },
    /// Connected, with all streams declared.
    Ready {
        /// Rises with every declaration: a consumer made under an older one may be gone.
        generation: u64,
    },
}

impl NatsState {
    /// Whether it can be used.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        matches!(self, Self::Ready { .. })
    }

    /// The generation, when it can be used.
    #[must_use]
    pub const fn generation(&self) -> Option<u64> {
        match self {
            Self::Ready { generation } => Some(*generation),
            Self::Away | Self::Refused { .. } => None,
        }
    }
}

impl fmt::Display for NatsState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away => f.write_str("away"),
            Self::Refused { reason } => write!(f, "refused: {reason}"),
            Self::Ready { .. } => f.write_str("ready"),
        }
    }
}
