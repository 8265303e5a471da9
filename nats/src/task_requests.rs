//! Requests of external workers: they ask for tasks and report over NATS as they do over HTTP, by request and reply.
//!
//! Nothing of a task is kept on NATS: an offer is a fact of the log, and a request that is lost is asked again. All processes that serve
//! the API are one queue group, so each request reaches one of them. Who may do what is not decided here: a request brings its
//! credential, and whoever answers it looks at that.

use async_nats::{HeaderMap, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tracing::debug;

use crate::{
    subject::{Subject, TaskVerb},
    topology::Nats,
};

/// The queue group of all processes that answer.
const GROUP: &str = "api";

/// Where answers may go: the inboxes of clients, and what those begin with who have one of their own (`_INBOX_images.`). An answer is
/// published with the rights of the deployment, so nobody may have it sent to a subject that others believe.
const INBOX: &str = "_INBOX";

/// The status of an answer, as HTTP has it.
pub const STATUS_HEADER: &str = "Ledgerline-Status";

/// What a worker asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskCall {
    /// A task of a queue.
    Poll,
    /// To have something taken note of, for a task that it has.
    Report {
        /// What.
        verb: TaskVerb,
        /// The task, by the name that it was given with.
        task: String,
    },
}

/// One request of a worker.
#[derive(Debug)]
pub struct TaskRequest {
    /// What for; none for a subject that says nothing we know.
    pub call: Option<TaskCall>,
    /// What goes with it. The same name may come several times.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
    reply: async_nats::Subject,
    nats: Nats,
}

/// The requests that reach this process.
#[derive(Debug)]
pub struct TaskRequests {
    nats: Nats,
    subscriber: Subscriber,
}

/// The connection to NATS is closed for good.
#[derive(Debug, thiserror::Error)]
#[error("failed to listen for requests of workers")]
pub struct ListenError(#[from] async_nats::SubscribeError);

impl TaskRequests {
    /// Listens from now on, through every loss of the connection.
    ///
    /// # Errors
    /// [`ListenError`] when the process stops.
    pub async fn listen(nats: &Nats) -> Result<Self, ListenError> {
        let subject = nats.prefix().all_worker_tasks();
        let subscriber = nats.client().queue_subscribe(subject, GROUP.to_owned()).await?;
        Ok(Self { nats: nats.clone(), subscriber })
    }

    /// The next request; none when the process stops. A message that nobody waits for an answer to is left out, and so is one
    /// whose answer would not go to an inbox.
    pub async fn next(&mut self) -> Option<TaskRequest> {
        loop {
            let message = self.subscriber.next().await?;
            let Some(reply) = message.reply.filter(|reply| reply.starts_with(INBOX)) else {
                debug!(subject = %message.subject, "a request without an inbox for its answer");
                continue;
            };
            let call = match self.nats.prefix().parse(&message.subject) {
                Some(Subject::PollTask) => Some(TaskCall::Poll),
                Some(Subject::ReportTask { verb, task }) => {
                    Some(TaskCall::Report { verb, task: task.to_owned() })
                }
                Some(Subject::Event { .. } | Subject::Work(_) | Subject::Logs { .. }) | None => {
                    None
                }
            };
            let headers = message.headers.as_ref().map(pairs).unwrap_or_default();
            let (body, nats) = (message.payload, self.nats.clone());
            return Some(TaskRequest { call, headers, body, reply, nats });
        }
    }
}

impl TaskRequest {
    /// Answers it. An answer that is lost is asked for again, so a failure is only said in the process's own log. A body that is larger
    /// than a message may be is left out: what it says is in the read models too.
    pub async fn answer(self, status: u16, headers: &[(&str, &str)], body: Bytes) {
        let client = self.nats.client();
        let mut sent = HeaderMap::new();
        sent.insert(STATUS_HEADER, status.to_string());
        for (name, value) in headers {
            sent.append(*name, *value);
        }
        // Headers count for the size of a message too.
        let room = client.max_payload().saturating_sub(MAX_HEADER_BYTES);
        let body = if body.len() <= room { body } else { Bytes::new() };
        if let Err(error) = client.publish_with_headers(self.reply, sent, body).await {
            debug!(%error, "the answer to a worker is lost");
        }
    }
}

/// What the headers of an answer may take.
const MAX_HEADER_BYTES: usize = 8 * 1024;

fn pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    let pairs = headers.iter().flat_map(|(name, values)| {
        values.iter().map(move |value| (name.to_string(), value.as_str().to_owned()))
    });
    pairs.collect()
}
