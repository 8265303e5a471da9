//! How others hear: NATS is a transport, never what is true. Everything on it can be made again from the log.
//!
//! Reading order: [`subject`] and [`envelope`] (what is on the wire), [`topology`] (the connection and the streams),
//! [`carrier`] (log to JetStream, at the pace of its acknowledgements) with its two cargoes [`relay`] (every event) and
//! [`work`] (dispatched executions), then those who hear: [`consume`] (live events for sockets), [`work_source`] (executions
//! for a worker), [`logs`] (live log lines) and [`task_requests`] (what external workers ask for).
//!
//! Each of the three works without NATS too: from the log itself, or within the process.

mod backoff;
pub mod carrier;
pub mod consume;
mod desk;
pub mod envelope;
pub mod logs;
pub mod relay;
pub mod subject;
pub mod task_requests;
pub mod topology;
pub mod work;
pub mod work_source;

pub use carrier::{Carrier, CarrierConfig, CarrierState, CarrierStatus};
pub use consume::{Gateway, GatewayConfig, LiveError, LiveEvent, Subscription};
pub use envelope::{EventSource, decode, encode};
pub use logs::{LiveLines, LiveLogs, LogTail};
pub use subject::{Prefix, Queue, Subject, TaskVerb};
pub use task_requests::{TaskCall, TaskRequest, TaskRequests};
pub use topology::{ConnectError, Nats, NatsConfig, NatsState};
pub use work::WorkItem;
pub use work_source::{Delivery, WorkSource, WorkSourceConfig};
