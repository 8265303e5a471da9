//! Where NATS is, and how the streams on it are declared.

use std::time::Duration;

use async_nats::ServerAddr;
use secrecy::SecretString;

use crate::subject::Prefix;

/// Where NATS is and how the streams on it are declared.
#[derive(Clone, Debug)]
pub struct NatsConfig {
    /// `nats://host:port`, several separated by commas.
    pub url: String,
    /// The token that the server asks for.
    pub token: Option<SecretString>,
    /// First token of subjects and first word of stream names.
    pub prefix: Prefix,
    /// Copies of each stream: 1 on one server, 3 in a cluster.
    pub replicas: usize,
    /// How long an event stays on the stream of events; older history is in the log.
    pub events_max_age: Duration,
    /// How large the stream of events may grow before its oldest go. Reserved on the server's disk when it is declared.
    pub events_max_bytes: i64,
    /// How large the stream of work may grow before it refuses more. Reserved on the server's disk when it is declared.
    pub work_max_bytes: i64,
    /// How long the server knows message ids: a relay that starts again within it publishes nothing twice.
    pub duplicate_window: Duration,
    /// How long a worker may be silent about an execution before another one gets it.
    pub work_ack_wait: Duration,
}

impl NatsConfig {
    /// The defaults for a server.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            token: None,
            prefix: Prefix::default(),
            replicas: 1,
            events_max_age: Duration::from_hours(7 * 24),
            events_max_bytes: 1024 * 1024 * 1024,
            work_max_bytes: 64 * 1024 * 1024,
            duplicate_window: Duration::from_secs(30),
            work_ack_wait: Duration::from_secs(30),
        }
    }
}

/// The token of an address like `nats://token@host`, as every NATS client reads it. A user with a password is left to the client.
pub(super) fn token_in(address: &str) -> Option<String> {
    let address: ServerAddr = address.parse().ok()?;
    address.username().filter(|_| address.password().is_none()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_user_in_an_address_is_a_token() {
        assert_eq!(token_in("nats://s3cret@localhost:4222"), Some("s3cret".to_owned()));
        assert_eq!(token_in("nats://ada:s3cret@localhost:4222"), None);
        assert_eq!(token_in("nats://localhost:4222"), None);
        assert_eq!(token_in("not an address"), None);
    }
}
