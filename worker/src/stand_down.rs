//! The worker's way out when it meets what only a newer build knows.
//!
//! Whatever it decided would rest on half a history, and while it holds its lease nobody else would be given its runs. So it lets go
//! of all of them and of the lease, and its process says so.

use ledgerline_commands::LoadError;
use tokio::sync::watch;

/// Whether the worker stands down, and why. It never takes work again in this process.
#[derive(Default)]
pub(crate) struct StandDown(watch::Sender<Option<String>>);

impl StandDown {
    /// Begins when an error says that a newer build wrote what was read; the first reason is kept.
    pub(crate) fn consider(&self, error: &LoadError) {
        let LoadError::UnknownEvent { source, .. } = error else { return };
        let why = format!("{error}: {source}");
        self.0.send_if_modified(|reason| {
            let is_first = reason.is_none();
            if is_first {
                tracing::error!(%why, "the worker stands down; a newer process must take its runs");
                *reason = Some(why);
            }
            is_first
        });
    }

    /// Completes when the worker must stand down.
    pub(crate) async fn begun(&self) {
        let mut watched = self.0.subscribe();
        // The sender is this object's own, so it is there as long as anybody asks.
        let _ = watched.wait_for(Option::is_some).await;
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Option<String>> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use ledgerline_domain::event::DecodeError;
    use ledgerline_store::StreamId;
    use uuid::Uuid;

    use super::*;

    #[tokio::test]
    async fn only_what_a_newer_build_wrote_begins_it_and_the_first_reason_stays() {
        let standing = StandDown::default();
        let stream = StreamId(Uuid::nil());
        standing.consider(&LoadError::Corrupt { stream, reason: "torn".to_owned() });
        assert_eq!(*standing.watch().borrow(), None);
        for name in ["first", "second"] {
            let source = DecodeError::Unknown {
                category: "execution".to_owned(),
                r#type: name.to_owned(),
                schema_version: 1,
            };
            standing.consider(&LoadError::UnknownEvent { stream, source });
        }
        standing.begun().await;
        let why = standing.watch().borrow().clone().unwrap();
        assert!(why.contains("first") && !why.contains("second"), "{why}");
    }
}
