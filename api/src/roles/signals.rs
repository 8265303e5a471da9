//! The signals that end a process: the first asks, the second does not wait.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit code of a process that a second signal ended.
const EXIT_AT_ONCE: i32 = 130;

/// SIGTERM and SIGINT of this process.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Returns at the next one.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// Cancels the token at the first signal and exits at the second, whatever the process does then. Servers that are left
    /// running are found and taken over by the next start.
    pub async fn obey(mut self, stop: CancellationToken) {
        let name = self.next().await;
        tracing::info!(signal = name, "stopping; a second signal exits at once");
        stop.cancel();
        let name = self.next().await;
        tracing::warn!(signal = name, "exits at once; the next start finds what is left behind");
        std::process::exit(EXIT_AT_ONCE);
    }
}
