//! Given what happened, when this is commanded, then that happens: the form in which the rules of an aggregate are tested.
//!
//! ```
//! use ledgerline_domain::{testing::given, workspace::*};
//!
//! given::<Workspace>([])
//!     .when(&WorkspaceCommand::Rename(RenameWorkspace { name: "x".into(), description: String::new() }))
//!     .rejected(&WorkspaceRejection::NotFound);
//! ```
//!
//! Every check folds what was decided as well, so that an event which the state can't take fails the test that produced it.

use std::fmt::Debug;

use chrono::{DateTime, TimeZone, Utc};

use crate::Aggregate;

/// The time of every decision that says no other.
///
/// # Panics
/// Never: the date exists.
#[must_use]
pub fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 1, 2, 3, 4, 5).single().expect("a date that exists")
}

/// A history.
#[derive(Clone, Debug)]
pub struct Given<A> {
    state: A,
    now: DateTime<Utc>,
}

/// What a command led to.
#[derive(Clone, Debug)]
pub struct When<A: Aggregate> {
    state: A,
    decision: Result<Vec<A::Event>, A::Rejection>,
}

/// Folds a history.
#[must_use]
pub fn given<A: Aggregate>(events: impl IntoIterator<Item = A::Event>) -> Given<A> {
    Given { state: fold(A::default(), events), now: now() }
}

fn fold<A: Aggregate>(state: A, events: impl IntoIterator<Item = A::Event>) -> A {
    events.into_iter().fold(state, |state, event| state.evolve(&event))
}

impl<A: Aggregate> Given<A> {
    /// Decides at another time.
    #[must_use]
    pub fn at(self, now: DateTime<Utc>) -> Self {
        Self { now, ..self }
    }

    /// Decides a command.
    #[must_use]
    pub fn when(self, command: &A::Command) -> When<A> {
        let decision = self.state.decide(command, self.now);
        When { state: self.state, decision }
    }

    /// The state after the history.
    #[must_use]
    pub fn state(self) -> A {
        self.state
    }
}

impl<A> When<A>
where
    A: Aggregate,
    A::Event: PartialEq + Debug,
    A::Rejection: PartialEq,
{
    /// Expects exactly these events.
    ///
    /// # Panics
    /// When it is otherwise.
    #[track_caller]
    pub fn then(self, expected: impl IntoIterator<Item = A::Event>) -> Given<A> {
        let expected: Vec<A::Event> = expected.into_iter().collect();
        match self.decision {
            Ok(events) => {
                assert_eq!(events, expected, "other events than expected");
                Given { state: fold(self.state, events), now: now() }
            }
            Err(rejection) => panic!("expected {expected:?}, but it was rejected: {rejection:?}"),
        }
    }

    /// Expects that the command is already true and leads to nothing.
    ///
    /// # Panics
    /// When it is otherwise.
    #[track_caller]
    pub fn then_nothing(self) -> Given<A> {
        self.then([])
    }

    /// Expects that this rule refuses the command.
    ///
    /// # Panics
    /// When it is otherwise.
    #[track_caller]
    pub fn rejected(self, expected: &A::Rejection) {
        match self.decision {
            Ok(events) => panic!("expected the rejection {expected:?}, but it led to {events:?}"),
            Err(rejection) => assert_eq!(&rejection, expected, "another rejection than expected"),
        }
    }
}
