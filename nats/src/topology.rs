//! The connection to NATS and the streams on it.
//!
//! A [`Nats`] never gives up: it reconnects for ever with back-off, and after every connect it declares streams and consumers
//! again, because a NATS that comes back may come back empty. Whoever uses it watches [`Nats::state`] and does without it
//! meanwhile: nothing is true on NATS alone.

mod config;
mod state;

use std::{fmt, sync::Arc, time::Duration};

use async_nats::{
    Client, ConnectOptions, Event,
    jetstream::{
        Context,
        consumer::{AckPolicy, Consumer, DeliverPolicy, PullConsumer, pull},
        context::ContextBuilder,
        stream::{Config as StreamConfig, DiscardPolicy, RetentionPolicy, StorageType},
    },
};
use secrecy::ExposeSecret as _;
use tokio::sync::{Notify, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use self::config::token_in;
pub use self::{config::NatsConfig, state::NatsState};
use crate::{
    backoff::backoff,
    desk::Desk,
    subject::{Prefix, Queue, Subject},
};

/// How long one JetStream request or publish acknowledgement may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Unacknowledged publishes of this process over both carriers; each holds itself to its own window below this.
const MAX_PUBLISHES_IN_FLIGHT: usize = 16_384;

/// The address of NATS cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the NATS address cannot be used")]
pub struct ConnectError(#[from] async_nats::ConnectError);

/// Why streams or consumers could not be declared or reached.
#[derive(Debug, thiserror::Error)]
#[error("JetStream refuses to {what}")]
pub struct TopologyError {
    what: String,
    #[source]
    source: async_nats::Error,
}

impl TopologyError {
    fn new(
        what: impl Into<String>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self { what: what.into(), source: Box::new(source) }
    }
}

/// A handle to the process's one connection. Cheap to clone.
#[derive(Clone)]
pub struct Nats {
    client: Client,
    jetstream: Context,
    config: Arc<NatsConfig>,
    state: watch::Receiver<NatsState>,
    suspect: Arc<Notify>,
    desk: Arc<Desk>,
}

impl fmt::Debug for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nats")
            .field("prefix", &self.config.prefix)
            .field("state", &*self.state.borrow())
            .finish_non_exhaustive()
    }
}

/// The connection as async-nats reports it; the count tells a quick reconnect from no change.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    connected: bool,
    connects: u64,
}

impl Nats {
    /// Begins to connect and to keep the streams declared. Returns at once: a server that is away is not an error.
    ///
    /// # Errors
    /// [`ConnectError`] when the address is not one.
    pub async fn connect(
        config: NatsConfig,
        tracker: &TaskTracker,
        cancel: CancellationToken,
    ) -> Result<Self, ConnectError> {
        let (link_sender, link) = watch::channel(Link::default());
        let link_sender = Arc::new(link_sender);
        let mut options = ConnectOptions::new()
            .name("ledgerline")
            .retry_on_initial_connect()
            .max_reconnects(None)
            .connection_timeout(Duration::from_secs(5))
            .ping_interval(Duration::from_secs(10))
            .request_timeout(Some(REQUEST_TIMEOUT))
            // The gateway reads its subscription as fast as it can; what it cannot hold it reads from the log.
            .subscription_capacity(16_384)
            // Every subject is built in `subject`, from ids and names of our own source.
            .skip_subject_validation(true)
            .reconnect_delay_callback(|attempts| {
                let attempt = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
                backoff(attempt, Duration::from_millis(50), Duration::from_secs(4))
            })
            .event_callback(move |event| {
                note_link(&link_sender, &event);
                std::future::ready(())
            });
        let addresses: Vec<&str> = config.url.split(',').map(str::trim).collect();
        let in_address = || addresses.iter().find_map(|address| token_in(address));
        let token = config.token.as_ref().map(|token| token.expose_secret().to_owned());
        if let Some(token) = token.or_else(in_address) {
            options = options.token(token);
        }
        let client = options.connect(addresses).await?;
        let jetstream = ContextBuilder::new()
            .timeout(REQUEST_TIMEOUT)
            .ack_timeout(REQUEST_TIMEOUT)
            .max_ack_inflight(MAX_PUBLISHES_IN_FLIGHT)
            .backpressure_on_inflight(true)
            .build(client.clone());
        let (state_sender, state) = watch::channel(NatsState::Away);
        let nats = Self {
            client,
            jetstream,
            config: Arc::new(config),
            state,
            suspect: Arc::new(Notify::new()),
            desk: Arc::default(),
        };
        tracker.spawn(keep_declared(nats.clone(), link, state_sender, cancel));
        Ok(nats)
    }

    /// Whether it can be used now; changes from now on wake the watcher.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<NatsState> {
        let mut state = self.state.clone();
        // A clone has seen only what its original has: without this the watcher would wake for what is long past.
        state.mark_unchanged();
        state
    }

    /// Whether it can be used now.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state.borrow().is_ready()
    }

    /// Returns when it can be used.
    pub async fn ready(&self) {
        let mut state = self.state.clone();
        if state.wait_for(NatsState::is_ready).await.is_err() {
            // The keeper has stopped with the process: there is nothing left to wait for.
            std::future::pending::<()>().await;
        }
    }

    /// Returns when it can no longer be used.
    pub async fn away(&self) {
        let mut state = self.state.clone();
        // The keeper's end is the end of the connection's use as well.
        let _ended = state.wait_for(|state| !state.is_ready()).await;
    }

    /// The deployment's prefix.
    #[must_use]
    pub fn prefix(&self) -> &Prefix {
        &self.config.prefix
    }

    /// How the streams are declared.
    #[must_use]
    pub fn config(&self) -> &NatsConfig {
        &self.config
    }

    /// Says that a stream or a consumer seems to be gone, so that everything is declared again.
    pub(crate) fn suspect(&self) {
        self.suspect.notify_one();
    }

    /// Where the work carrier of this process lays down what the worker of this process takes.
    pub(crate) fn desk(&self) -> &Arc<Desk> {
        &self.desk
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn jetstream(&self) -> &Context {
        &self.jetstream
    }

    /// The consumer of a queue's work, shared by all workers.
    pub(crate) async fn work_consumer(&self, queue: Queue) -> Result<PullConsumer, TopologyError> {
        let what = || format!("find the consumer of the {queue} queue");
        let stream = self
            .jetstream
            .get_stream_no_info(self.config.prefix.work_stream())
            .await
            .map_err(|error| TopologyError::new(what(), error))?;
        stream
            .get_consumer(queue.as_str())
            .await
            .map_err(|error| TopologyError { what: what(), source: error })
    }

    /// A consumer of all events from now on, for this process alone.
    pub(crate) async fn new_events(&self) -> Result<pull::Ordered, TopologyError> {
        let what = "follow the stream of events";
        let stream = self
            .jetstream
            .get_stream_no_info(self.config.prefix.events_stream())
            .await
            .map_err(|error| TopologyError::new(what, error))?;
        let consumer: Consumer<pull::OrderedConfig> = stream
            .create_consumer(pull::OrderedConfig {
                deliver_policy: DeliverPolicy::New,
                filter_subject: self.config.prefix.all_events(),
                ..Default::default()
            })
            .await
            .map_err(|error| TopologyError::new(what, error))?;
        consumer.messages().await.map_err(|error| TopologyError::new(what, error))
    }

    /// Whether no message ever was on the stream of work: it is new, or was made again after its data was lost.
    pub(crate) async fn work_is_new(&self) -> Result<bool, TopologyError> {
        let stream = self
            .jetstream
            .get_stream(self.config.prefix.work_stream())
            .await
            .map_err(|error| TopologyError::new("describe the stream of work", error))?;
        Ok(stream.cached_info().state.last_sequence == 0)
    }

    async fn declare(&self) -> Result<(), TopologyError> {
        let (config, prefix) = (&self.config, &self.config.prefix);
        let shared = StreamConfig {
            storage: StorageType::File,
            num_replicas: config.replicas,
            duplicate_window: config.duplicate_window,
            ..Default::default()
        };
        let events = StreamConfig {
            name: prefix.events_stream(),
            subjects: vec![prefix.all_events()],
            retention: RetentionPolicy::Limits,
            discard: DiscardPolicy::Old,
            max_age: config.events_max_age,
            max_bytes: config.events_max_bytes,
            ..shared.clone()
        };
        let work = StreamConfig {
            name: prefix.work_stream(),
            subjects: vec![prefix.all_work()],
            retention: RetentionPolicy::WorkQueue,
            // Work that does not fit must wait in the log, not push out older work.
            discard: DiscardPolicy::New,
            max_bytes: config.work_max_bytes,
            ..shared
        };
        for stream in [events, work] {
            let what = format!("declare {}", stream.name);
            self.jetstream
                .create_or_update_stream(stream)
                .await
                .map_err(|error| TopologyError::new(what, error))?;
        }
        for queue in Queue::ALL {
            self.declare_queue(queue).await?;
        }
        Ok(())
    }

    async fn declare_queue(&self, queue: Queue) -> Result<(), TopologyError> {
        let consumer = pull::Config {
            durable_name: Some(queue.as_str().to_owned()),
            filter_subject: self.config.prefix.subject(&Subject::Work(queue)),
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.config.work_ack_wait,
            // How many run at once is decided by dispatch and by the workers' free slots, not here.
            max_ack_pending: -1,
            num_replicas: self.config.replicas,
            ..Default::default()
        };
        self.jetstream
            .create_consumer_on_stream(consumer, self.config.prefix.work_stream())
            .await
            .map_err(|error| {
                TopologyError::new(format!("declare the consumer of the {queue} queue"), error)
            })?;
        Ok(())
    }
}

fn note_link(link: &watch::Sender<Link>, event: &Event) {
    match event {
        Event::Connected => link.send_modify(|link| {
            link.connected = true;
            link.connects += 1;
        }),
        Event::Disconnected | Event::Closed => link.send_modify(|link| link.connected = false),
        Event::ServerError(error) => warn!(%error, "nats reports an error"),
        Event::ClientError(error) => warn!(%error, "the nats client reports an error"),
        Event::SlowConsumer(_) | Event::LameDuckMode | Event::Draining => {
            info!(%event, "nats reports");
        }
    }
}

async fn keep_declared(
    nats: Nats,
    mut link: watch::Receiver<Link>,
    state: watch::Sender<NatsState>,
    cancel: CancellationToken,
) {
    let mut generation = 0;
    let mut refusals = 0;
    loop {
        let seen = *link.borrow_and_update();
        if !seen.connected {
            state.send_replace(NatsState::Away);
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = link.changed() => if changed.is_err() { return },
            }
            continue;
        }
        let declared = tokio::select! {
            () = cancel.cancelled() => return,
            declared = nats.declare() => declared,
        };
        let rest = match declared {
            Ok(()) => {
                refusals = 0;
                generation += 1;
                info!(generation, connects = seen.connects, "nats is ready");
                state.send_replace(NatsState::Ready { generation });
                None
            }
            Err(error) => {
                let reason = format!("{error}: {}", error.source);
                warn!(%reason, "nats is connected but cannot be used");
                state.send_replace(NatsState::Refused { reason });
                refusals += 1;
                Some(backoff(refusals, Duration::from_millis(100), Duration::from_secs(10)))
            }
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = link.changed() => if changed.is_err() { return },
            () = nats.suspect.notified(), if rest.is_none() => {}
            () = tokio::time::sleep(rest.unwrap_or_default()), if rest.is_some() => {}
        }
    }
}
