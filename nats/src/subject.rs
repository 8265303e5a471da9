//! Subjects and stream names: the only place where either is built or parsed.
//!
//! ```text
//! <prefix>.events.<workspace>.<category>.<stream>.<type>     in <PREFIX>_EVENTS
//! <prefix>.work.<queue>                                      in <PREFIX>_WORK
//! <prefix>.logs.<workspace>.<execution>                      core NATS
//! <prefix>.worker_tasks.poll                                 requests and replies
//! <prefix>.worker_tasks.<verb>.<execution>.<attempt>.<path>  requests and replies
//! ```
//!
//! Tokens are ids and `snake_case` names that are written in our source, so nothing a user types is ever part of a subject; the path of
//! a task's node stands there in hexadecimal.
//! To add one, add a variant to [`Subject`] and an arm to both directions; the round-trip test covers it.

use std::{fmt, sync::Arc};

use ledgerline_store::{RecordedEvent, StreamId, Workspace};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The first token of every subject and, in upper case, the first word of every stream name of a deployment: two
/// deployments on one NATS server (and two tests) never hear each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Prefix(Arc<str>);

/// A prefix that NATS or another deployment would misread.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the NATS prefix must be 1 to 48 characters of a-z, 0-9 and _, not {0:?}")]
pub struct InvalidPrefix(String);

impl Prefix {
    /// Takes a prefix.
    ///
    /// # Errors
    /// [`InvalidPrefix`] unless it is 1 to 48 of `a-z`, `0-9` and `_`: lower case only, so that stream names differ when prefixes do.
    pub fn new(text: &str) -> Result<Self, InvalidPrefix> {
        if text.len() <= 48 && is_token(text) {
            Ok(Self(Arc::from(text)))
        } else {
            Err(InvalidPrefix(text.to_owned()))
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The JetStream stream of all events.
    #[must_use]
    pub fn events_stream(&self) -> String {
        format!("{}_EVENTS", self.0.to_ascii_uppercase())
    }

    /// The JetStream stream of executions for workers.
    #[must_use]
    pub fn work_stream(&self) -> String {
        format!("{}_WORK", self.0.to_ascii_uppercase())
    }

    /// Matches every event.
    #[must_use]
    pub fn all_events(&self) -> String {
        format!("{}.events.>", self.0)
    }

    /// Matches every event of one workspace.
    #[must_use]
    pub fn workspace_events(&self, workspace: Workspace) -> String {
        format!("{}.events.{}.>", self.0, workspace.0)
    }

    /// Matches the work of every queue.
    #[must_use]
    pub fn all_work(&self) -> String {
        format!("{}.work.*", self.0)
    }

    /// Matches every request of an external worker.
    #[must_use]
    pub fn all_worker_tasks(&self) -> String {
        format!("{}.worker_tasks.>", self.0)
    }

    /// The subject of a recorded event. Category and type are `snake_case` names of our own source.
    #[must_use]
    pub fn event(&self, event: &RecordedEvent) -> String {
        let mut subject = String::with_capacity(
            self.0.len() + 8 + 2 * 37 + event.category.len() + event.r#type.len() + 2,
        );
        let mut id = Uuid::encode_buffer();
        subject.push_str(&self.0);
        subject.push_str(".events.");
        subject.push_str(event.workspace.0.as_hyphenated().encode_lower(&mut id));
        subject.push('.');
        subject.push_str(&event.category);
        subject.push('.');
        subject.push_str(event.stream.0.as_hyphenated().encode_lower(&mut id));
        subject.push('.');
        subject.push_str(&event.r#type);
        subject
    }

    /// The text of a subject.
    #[must_use]
    pub fn subject(&self, subject: &Subject<'_>) -> String {
        match subject {
            Subject::Event { workspace, category, stream, r#type } => {
                format!("{}.events.{}.{category}.{stream}.{type}", self.0, workspace.0)
            }
            Subject::Work(queue) => format!("{}.work.{queue}", self.0),
            Subject::Logs { workspace, execution } => {
                format!("{}.logs.{}.{execution}", self.0, workspace.0)
            }
            Subject::PollTask => format!("{}.worker_tasks.poll", self.0),
            Subject::ReportTask { verb, task } => {
                format!("{}.worker_tasks.{}.{task}", self.0, verb.as_str())
            }
        }
    }

    /// Reads a subject of this deployment; `None` for anything else.
    #[must_use]
    pub fn parse<'a>(&self, text: &'a str) -> Option<Subject<'a>> {
        let rest = text.strip_prefix(&*self.0)?.strip_prefix('.')?;
        let (kind, rest) = rest.split_once('.')?;
        let mut tokens = rest.split('.');
        let subject = match kind {
            "worker_tasks" => return worker_task(rest),
            "events" => Subject::Event {
                workspace: Workspace(id(tokens.next()?)?),
                category: tokens.next().filter(|token| is_token(token))?,
                stream: StreamId(id(tokens.next()?)?),
                r#type: tokens.next().filter(|token| is_token(token))?,
            },
            "work" => Subject::Work(Queue::parse(tokens.next()?)?),
            "logs" => Subject::Logs {
                workspace: Workspace(id(tokens.next()?)?),
                execution: id(tokens.next()?)?,
            },
            _ => return None,
        };
        tokens.next().is_none().then_some(subject)
    }
}

impl Default for Prefix {
    fn default() -> Self {
        Self(Arc::from("ledgerline"))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a message of this deployment is about, read from its subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject<'a> {
    /// An event of the log.
    Event {
        /// The workspace it belongs to.
        workspace: Workspace,
        /// The noun of its stream.
        category: &'a str,
        /// Its stream.
        stream: StreamId,
        /// Its stored type name.
        r#type: &'a str,
    },
    /// An execution for a worker.
    Work(Queue),
    /// Live log lines of an execution.
    Logs {
        /// The workspace of the execution.
        workspace: Workspace,
        /// The execution.
        execution: Uuid,
    },
    /// An external worker asks for a task.
    PollTask,
    /// An external worker says something of a task that it has.
    ReportTask {
        /// What.
        verb: TaskVerb,
        /// The name of the task: its execution, its try and the path of its node in hexadecimal.
        task: &'a str,
    },
}

/// What a worker may say of its task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskVerb {
    /// It is done.
    Complete,
    /// It failed.
    Fail,
    /// It is still being done.
    Heartbeat,
}

impl TaskVerb {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Complete, Self::Fail, Self::Heartbeat];

    /// The token in a subject, and the last step of the route.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Fail => "fail",
            Self::Heartbeat => "heartbeat",
        }
    }
}

/// Which line an execution waits in. Lines are drained by [`Queue::weight`], so that low is never starved.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Queue {
    /// First.
    High,
    /// The usual one.
    #[default]
    Default,
    /// Last.
    Low,
}

impl Queue {
    /// All of them, in the order in which they are drained.
    pub const ALL: [Self; 3] = [Self::High, Self::Default, Self::Low];

    /// The token in a subject, and the name of the queue's consumer.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Default => "default",
            Self::Low => "low",
        }
    }

    /// Its share of the free slots while every queue has work.
    #[must_use]
    pub const fn weight(self) -> usize {
        match self {
            Self::High => 6,
            Self::Default => 3,
            Self::Low => 1,
        }
    }

    /// Its place in [`Queue::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    fn parse(token: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|queue| queue.as_str() == token)
    }
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn worker_task(rest: &str) -> Option<Subject<'_>> {
    let Some((verb, task)) = rest.split_once('.') else {
        return (rest == "poll").then_some(Subject::PollTask);
    };
    let verb = TaskVerb::ALL.into_iter().find(|known| known.as_str() == verb)?;
    let mut tokens = task.split('.');
    id(tokens.next()?)?;
    let attempt: u32 = tokens.next().filter(|token| !token.starts_with('+'))?.parse().ok()?;
    let path = tokens.next()?;
    let is_hex = |byte: u8| matches!(byte, b'a'..=b'f' | b'0'..=b'9');
    let is_path = !path.is_empty() && path.len() % 2 == 0 && path.bytes().all(is_hex);
    (attempt > 0 && is_path && tokens.next().is_none())
        .then_some(Subject::ReportTask { verb, task })
}

/// Only the text that we write ourselves: other spellings of a UUID would make two subjects of one stream.
fn id(token: &str) -> Option<Uuid> {
    let id = Uuid::parse_str(token).ok()?;
    (id.as_hyphenated().encode_lower(&mut Uuid::encode_buffer()) == token).then_some(id)
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids() -> impl Strategy<Value = Uuid> {
        any::<u128>().prop_map(Uuid::from_u128)
    }

    proptest! {
        #[test]
        fn event_subjects_round_trip(
            prefix in "[a-z0-9_]{1,48}", workspace in ids(), stream in ids(),
            category in "[a-z][a-z0-9_]{0,20}", name in "[a-z][a-z0-9_]{0,40}",
        ) {
            let prefix = Prefix::new(&prefix).unwrap();
            let subject = Subject::Event {
                workspace: Workspace(workspace), category: &category, stream: StreamId(stream), r#type: &name,
            };
            let text = prefix.subject(&subject);
            prop_assert_eq!(prefix.parse(&text), Some(subject));
            prop_assert!(text.starts_with(prefix.all_events().trim_end_matches('>')));
            prop_assert!(text.starts_with(prefix.workspace_events(Workspace(workspace)).trim_end_matches('>')));
        }

        #[test]
        fn other_subjects_round_trip(prefix in "[a-z0-9_]{1,48}", workspace in ids(), execution in ids(), queue in 0..3_usize) {
            let prefix = Prefix::new(&prefix).unwrap();
            for subject in [
                Subject::Work(Queue::ALL[queue]),
                Subject::Logs { workspace: Workspace(workspace), execution },
            ] {
                let text = prefix.subject(&subject);
                prop_assert_eq!(prefix.parse(&text), Some(subject));
            }
        }

        #[test]
        fn subjects_of_tasks_round_trip(
            prefix in "[a-z0-9_]{1,48}", execution in ids(), attempt in 1..200_u32, path in "([0-9a-f]{2}){1,40}", verb in 0..3_usize,
        ) {
            let prefix = Prefix::new(&prefix).unwrap();
            let task = format!("{execution}.{attempt}.{path}");
            for subject in [Subject::PollTask, Subject::ReportTask { verb: TaskVerb::ALL[verb], task: &task }] {
                let text = prefix.subject(&subject);
                prop_assert_eq!(prefix.parse(&text), Some(subject));
                prop_assert!(text.starts_with(prefix.all_worker_tasks().trim_end_matches('>')));
            }
        }

        #[test]
        fn whatever_parses_is_what_we_would_have_written(text in "ledgerline\\.(events|work|logs|worker_tasks)(\\.[a-z0-9_*>-]{1,36}){0,5}") {
            let prefix = Prefix::default();
            if let Some(subject) = prefix.parse(&text) {
                prop_assert_eq!(prefix.subject(&subject), text);
            }
        }
    }

    #[test]
    fn a_recorded_event_has_the_subject_of_its_parts() {
        let event = crate::envelope::tests::event();
        let prefix = Prefix::default();
        let parts = Subject::Event {
            workspace: event.workspace,
            category: &event.category,
            stream: event.stream,
            r#type: &event.r#type,
        };
        assert_eq!(prefix.event(&event), prefix.subject(&parts));
    }

    #[test]
    fn other_deployments_are_not_heard() {
        let ours = Prefix::new("a").unwrap();
        let theirs = Prefix::new("ab").unwrap();
        assert_eq!(ours.parse(&theirs.subject(&Subject::Work(Queue::Low))), None);
        assert_ne!(ours.events_stream(), theirs.events_stream());
    }

    #[test]
    fn foreign_subjects_are_refused() {
        let prefix = Prefix::default();
        for text in [
            "",
            "ledgerline",
            "ledgerline.work",
            "ledgerline.work.urgent",
            "ledgerline.work.high.more",
            "ledgerline.logs.x.y",
            "ledgerline.worker_tasks",
            "ledgerline.worker_tasks.poll.images",
            "ledgerline.worker_tasks.complete",
            "ledgerline.worker_tasks.delete.00000000-0000-0000-0000-000000000007.1.61",
            "ledgerline.worker_tasks.complete.00000000-0000-0000-0000-000000000007.0.61",
            "ledgerline.worker_tasks.complete.00000000-0000-0000-0000-000000000007.1.6",
            "ledgerline.worker_tasks.complete.00000000-0000-0000-0000-000000000007.1.zz",
            "ledgerline.worker_tasks.complete.00000000-0000-0000-0000-000000000007.1.61.61",
            "ledgerline.events.00000000000000000000000000000000.a.00000000-0000-0000-0000-000000000000.b",
        ] {
            assert_eq!(prefix.parse(text), None, "{text}");
        }
    }

    #[test]
    fn prefixes_that_nats_would_misread_are_refused() {
        for text in ["", "A", "a.b", "a b", "a*", ">", "ä"] {
            assert!(Prefix::new(text).is_err(), "{text}");
        }
        assert!(Prefix::new(&"a".repeat(49)).is_err());
    }
}
