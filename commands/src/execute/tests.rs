//! The promises of the loop, on an aggregate of one rule and the simulated log.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use chrono::{DateTime, Utc};
use ledgerline_domain::{
    Aggregate,
    event::{Actor, DecodeError, DomainEvent},
    id::CorrelationId,
};
use ledgerline_store::{
    EventLog, Filter, IdempotencyKey, Position, RecordedEvent, StreamId, StreamRead, StreamVersion,
    simulated::SimulatedLog,
};
use serde::{Deserialize, Serialize};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::{
    AsOf, Clock, CommandError, Commands, Context, LoadError, Loaded, Scope, Settings, Snapshots,
    Target, Transacted,
};

/// A purse that never holds less than nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Purse {
    coins: u64,
    locked: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum PurseEvent {
    PutIn(u64),
    TakenOut(u64),
    Locked,
}

#[derive(Clone, Debug)]
enum PurseCommand {
    PutIn(u64),
    TakeOut(u64),
    Lock,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
enum PurseRejection {
    #[error("there are only {0} coins")]
    TooFew(u64),
    #[error("it is locked")]
    Locked,
}

impl DomainEvent for PurseEvent {
    const CATEGORY: &'static str = "purse";
    const TYPES: &'static [(&'static str, i16)] = &[("purse_changed", 1)];

    fn type_name(&self) -> &'static str {
        "purse_changed"
    }

    fn schema_version(&self) -> i16 {
        1
    }

    fn payload(&self) -> String {
        serde_json::to_string(self).unwrap()
    }

    fn decode(r#type: &str, schema_version: i16, payload: &str) -> Result<Self, DecodeError> {
        if (r#type, schema_version) != ("purse_changed", 1) {
            let (category, r#type) = ("purse".to_owned(), r#type.to_owned());
            return Err(DecodeError::Unknown { category, r#type, schema_version });
        }
        serde_json::from_str(payload)
            .map_err(|source| DecodeError::Payload { r#type: r#type.to_owned(), source })
    }
}

impl Aggregate for Purse {
    type Command = PurseCommand;
    type Event = PurseEvent;
    type Rejection = PurseRejection;

    fn decide(
        &self,
        command: &PurseCommand,
        _now: DateTime<Utc>,
    ) -> Result<Vec<PurseEvent>, PurseRejection> {
        match command {
            PurseCommand::Lock if self.locked => Ok(Vec::new()),
            PurseCommand::Lock => Ok(vec![PurseEvent::Locked]),
            PurseCommand::PutIn(_) | PurseCommand::TakeOut(_) if self.locked => {
                Err(PurseRejection::Locked)
            }
            PurseCommand::PutIn(coins) => Ok(vec![PurseEvent::PutIn(*coins)]),
            PurseCommand::TakeOut(coins) if *coins > self.coins => {
                Err(PurseRejection::TooFew(self.coins))
            }
            PurseCommand::TakeOut(coins) => Ok(vec![PurseEvent::TakenOut(*coins)]),
        }
    }

    fn evolve(mut self, event: &PurseEvent) -> Self {
        match event {
            PurseEvent::PutIn(coins) => self.coins += coins,
            PurseEvent::TakenOut(coins) => self.coins -= coins,
            PurseEvent::Locked => self.locked = true,
        }
        self
    }

    const SNAPSHOT: &'static str = "purse-1";

    fn weight(&self) -> usize {
        size_of::<Self>()
    }
}

/// Another process on the same log: its own cache.
fn process(log: &Arc<dyn EventLog>) -> Commands {
    let settings =
        Settings { snapshots: Snapshots::default().with::<Purse>(), ..Settings::default() };
    Commands::new(Arc::clone(log), Clock::system(), settings)
}

fn log() -> Arc<dyn EventLog> {
    SimulatedLog::new(Uuid::now_v7(), Arc::new(Utc::now))
}

fn context() -> Context {
    Context::new(Actor::system("test"))
}

fn purse() -> Target {
    Target::new(Uuid::now_v7(), Uuid::now_v7())
}

fn keyed(key: &str, body: u8) -> Context {
    let key = IdempotencyKey { scope: "test".into(), key: key.into(), body_hash: [body; 32] };
    Context { answer: Some(r#"{"status":200}"#.into()), ..context().keyed(Some(key)) }
}

async fn put_in(commands: &Commands, target: Target, coins: u64) {
    commands.execute::<Purse>(target, &PurseCommand::PutIn(coins), &context()).await.unwrap();
}

async fn history(log: &Arc<dyn EventLog>) -> Vec<RecordedEvent> {
    log.read(Position::START, 10_000, &Filter::default()).await.unwrap().0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_commands_on_one_stream_all_land_one_after_another() {
    let log = log();
    let (one, other) = (process(&log), process(&log));
    let target = purse();
    let tracker = TaskTracker::new();
    let commands = (0..200).map(|n| {
        let commands = if n % 2 == 0 { one.clone() } else { other.clone() };
        tracker.spawn(async move { put_in(&commands, target, 1).await })
    });
    for done in futures_util::future::join_all(commands).await {
        done.unwrap();
    }
    let events = history(&log).await;
    let versions: Vec<i64> = events.iter().map(|event| event.version.0).collect();
    assert_eq!(versions, (1..=200).collect::<Vec<_>>());
    assert_eq!(one.load::<Purse>(target.stream.0).await.unwrap().state.coins, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rule_holds_against_commands_of_other_processes() {
    let log = log();
    let (one, other) = (process(&log), process(&log));
    let target = purse();
    put_in(&one, target, 10).await;
    let tracker = TaskTracker::new();
    let commands = (0..40).map(|n| {
        let commands = if n % 2 == 0 { one.clone() } else { other.clone() };
        tracker.spawn(async move {
            commands.execute::<Purse>(target, &PurseCommand::TakeOut(1), &context()).await
        })
    });
    let outcomes = futures_util::future::join_all(commands).await;
    let taken = outcomes.iter().filter(|outcome| outcome.as_ref().unwrap().is_ok()).count();
    assert_eq!(taken, 10);
    assert_eq!(history(&log).await.len(), 11);
}

#[tokio::test]
async fn a_refusal_is_never_answered_from_an_old_state() {
    let log = log();
    let (one, other) = (process(&log), process(&log));
    let target = purse();
    put_in(&one, target, 1).await;
    put_in(&other, target, 9).await;
    // The first process still holds one coin in its cache.
    let taken = one.execute::<Purse>(target, &PurseCommand::TakeOut(5), &context()).await.unwrap();
    assert_eq!((taken.state.coins, taken.version), (5, StreamVersion(3)));
    let seen = context().matching(Some(StreamVersion(4)));
    put_in(&other, target, 1).await;
    one.execute::<Purse>(target, &PurseCommand::PutIn(1), &seen).await.unwrap();
    let refused = one.execute::<Purse>(target, &PurseCommand::PutIn(1), &seen).await.unwrap_err();
    assert!(matches!(refused, CommandError::VersionMismatch { current: StreamVersion(5) }));
}

#[tokio::test]
async fn a_repeat_is_answered_like_the_first_one_even_when_it_would_be_refused() {
    let log = log();
    let (one, other) = (process(&log), process(&log));
    let target = purse();
    put_in(&one, target, 3).await;
    let first =
        one.execute::<Purse>(target, &PurseCommand::TakeOut(3), &keyed("a", 1)).await.unwrap();
    assert!(!first.repeated);
    one.execute::<Purse>(target, &PurseCommand::Lock, &context()).await.unwrap();
    for commands in [&one, &other] {
        let again = commands
            .execute::<Purse>(target, &PurseCommand::TakeOut(3), &keyed("a", 1))
            .await
            .unwrap();
        assert!(again.repeated);
        assert_eq!((again.version, again.position), (first.version, first.position));
        assert_eq!(again.state, first.state);
        assert_eq!(again.receipt.unwrap().answer.as_deref(), Some(r#"{"status":200}"#));
    }
    let reused =
        one.execute::<Purse>(target, &PurseCommand::TakeOut(2), &keyed("a", 2)).await.unwrap_err();
    assert!(matches!(reused, CommandError::KeyReused));
    assert_eq!(history(&log).await.len(), 3);
}

#[tokio::test]
async fn a_repeated_creation_names_the_stream_of_the_first() {
    let log = log();
    let commands = process(&log);
    let (first, second) = (purse(), purse());
    let command = PurseCommand::PutIn(1);
    commands.execute::<Purse>(first, &command, &keyed("make", 1)).await.unwrap();
    let again = commands.execute::<Purse>(second, &command, &keyed("make", 1)).await.unwrap();
    assert_eq!(again.stream, first.stream);
    assert!(!commands.load::<Purse>(second.stream.0).await.unwrap().exists());
}

#[tokio::test]
async fn what_is_true_already_appends_nothing() {
    let log = log();
    let commands = process(&log);
    let target = purse();
    let first = commands.execute::<Purse>(target, &PurseCommand::Lock, &context()).await.unwrap();
    let again = commands.execute::<Purse>(target, &PurseCommand::Lock, &context()).await.unwrap();
    assert!(again.receipt.is_none() && again.events.is_empty());
    assert_eq!((again.version, again.position), (first.version, first.position));
    assert_eq!(history(&log).await.len(), 1);
}

#[tokio::test]
async fn a_plan_is_made_again_when_what_it_read_has_moved() {
    let log = log();
    let (one, other) = (process(&log), process(&log));
    let (guard, target) = (purse(), purse());
    put_in(&one, guard, 1).await;
    let tries = AtomicUsize::new(0);
    let outcome = one
        .execute_with::<Purse, PurseRejection, _, _>(&context(), |scope: Scope| {
            let (tries, other) = (&tries, &other);
            async move {
                let read: Loaded<Purse> = scope.read(guard.stream.0).await?;
                if tries.fetch_add(1, Ordering::SeqCst) == 0 {
                    other.execute::<Purse>(guard, &PurseCommand::Lock, &context()).await?;
                }
                if read.state.locked {
                    return Err(CommandError::Denied(PurseRejection::Locked));
                }
                Ok((target, PurseCommand::PutIn(1)))
            }
        })
        .await;
    assert!(matches!(outcome, Err(CommandError::Denied(PurseRejection::Locked))));
    assert_eq!(tries.into_inner(), 2);
    assert!(!one.load::<Purse>(target.stream.0).await.unwrap().exists());
}

#[tokio::test]
async fn a_read_that_the_caller_made_itself_ends_the_command_when_it_moved() {
    let log = log();
    let commands = process(&log);
    let (guard, target) = (purse(), purse());
    put_in(&commands, guard, 1).await;
    let read = StreamRead { stream: guard.stream, version: StreamVersion(1) };
    let context = Context { reads: vec![read], ..context() };
    put_in(&commands, guard, 1).await;
    let refused =
        commands.execute::<Purse>(target, &PurseCommand::PutIn(1), &context).await.unwrap_err();
    assert!(matches!(refused, CommandError::ReadMoved { stream } if stream == guard.stream));
}

#[tokio::test]
async fn several_streams_are_written_all_or_none() {
    let log = log();
    let commands = process(&log);
    let (from, to) = (purse(), purse());
    put_in(&commands, from, 5).await;
    let pay = |coins: u64| {
        let commands = commands.clone();
        async move {
            commands
                .transact(&context(), |scope: Scope| async move {
                    scope.decide::<Purse>(to, &PurseCommand::PutIn(coins)).await?;
                    scope.decide::<Purse>(from, &PurseCommand::TakeOut(coins)).await
                })
                .await
        }
    };
    assert!(matches!(pay(3).await, Ok(Transacted::Applied { .. })));
    assert!(matches!(pay(3).await, Err(CommandError::Rejected(PurseRejection::TooFew(2)))));
    let (from, to) = (from.stream.0, to.stream.0);
    assert_eq!(commands.load::<Purse>(from).await.unwrap().state.coins, 2);
    assert_eq!(commands.load::<Purse>(to).await.unwrap().state.coins, 3);
}

#[tokio::test]
async fn two_decisions_on_one_stream_see_each_other() {
    let log = log();
    let commands = process(&log);
    let target = purse();
    let outcome = commands
        .transact(&context(), |scope: Scope| async move {
            scope.decide::<Purse>(target, &PurseCommand::PutIn(2)).await?;
            scope.decide::<Purse>(target, &PurseCommand::TakeOut(1)).await
        })
        .await
        .unwrap();
    let Transacted::Applied { value, receipt } = outcome else { panic!("nothing was applied") };
    assert_eq!((value.state.coins, value.version), (1, StreamVersion(2)));
    assert_eq!(receipt.versions, [(target.stream, StreamVersion(2))]);
}

#[tokio::test]
async fn a_dry_run_appends_nothing_and_its_plan_holds_until_something_moves() {
    let log = log();
    let commands = process(&log);
    let target = purse();
    put_in(&commands, target, 5).await;
    let plan = |scope: Scope| async move {
        scope.decide::<Purse>(target, &PurseCommand::TakeOut(2)).await
    };
    let preview = commands.preview(&context(), plan).await.unwrap();
    assert_eq!(preview.events.len(), 1);
    assert_eq!(preview.events[0].version, StreamVersion(2));
    assert_eq!(history(&log).await.len(), 1);
    let planned = Context { if_plan: Some(preview.plan_hash), ..context() };
    commands.transact(&planned, plan).await.unwrap();
    let moved = commands.transact(&planned, plan).await.unwrap_err();
    assert!(matches!(moved, CommandError::PlanMoved { .. }));
    assert_eq!(history(&log).await.len(), 2);
}

#[tokio::test]
async fn the_past_is_folded_from_snapshots_and_from_the_start_alike() {
    let log = log();
    let commands = process(&log);
    let target = purse();
    for _ in 0..25 {
        let plan = |scope: Scope| async move {
            for _ in 0..100 {
                scope.decide::<Purse>(target, &PurseCommand::PutIn(1)).await?;
            }
            Ok::<_, CommandError<PurseRejection>>(())
        };
        commands.transact(&context(), plan).await.unwrap();
    }
    let (version, _) = log.snapshot(target.stream, Purse::SNAPSHOT).await.unwrap().unwrap();
    assert_eq!(version, StreamVersion(2_000));
    assert!(log.snapshot(target.stream, "purse-0").await.unwrap().is_none());
    for (version, process) in [(1, process(&log)), (1_999, process(&log)), (2_100, process(&log))] {
        let at = AsOf::Version(StreamVersion(version));
        let loaded = process.load_at::<Purse>(target.stream.0, at).await.unwrap();
        assert_eq!(i64::try_from(loaded.state.coins).unwrap(), version);
        let at = AsOf::Position(loaded.position);
        assert_eq!(
            commands.load_at::<Purse>(target.stream.0, at).await.unwrap().version.0,
            version
        );
    }
    assert_eq!(process(&log).load::<Purse>(target.stream.0).await.unwrap().state.coins, 2_500);
}

#[tokio::test]
async fn events_of_one_cause_share_its_correlation() {
    let log = log();
    let commands = process(&log);
    let target = purse();
    let correlation_id = CorrelationId(Uuid::now_v7());
    let began = context().correlated(correlation_id);
    commands.execute::<Purse>(target, &PurseCommand::PutIn(1), &began).await.unwrap();
    process(&log).execute::<Purse>(target, &PurseCommand::Lock, &context()).await.unwrap();
    let events = history(&log).await;
    let named: HashSet<String> = events
        .iter()
        .map(|event| {
            let metadata: serde_json::Value = serde_json::from_str(&event.metadata).unwrap();
            metadata["correlation_id"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(named, HashSet::from([correlation_id.to_string()]));
    assert!(events.iter().all(|event| event.workspace == target.workspace.unwrap()));
}

#[tokio::test]
async fn an_event_of_a_newer_build_stands_the_process_down() {
    let log = log();
    let target = purse();
    put_in(&process(&log), target, 1).await;
    let newer = ledgerline_store::Intent {
        writes: vec![ledgerline_store::StreamWrite {
            workspace: target.workspace.unwrap(),
            stream: target.stream,
            category: "purse",
            expected: StreamVersion(1),
            events: vec![ledgerline_store::NewEvent {
                event_id: Uuid::now_v7(),
                r#type: "purse_blessed",
                schema_version: 1,
                payload: "{}".into(),
                metadata: "{}".into(),
            }],
        }],
        ..ledgerline_store::Intent::default()
    };
    log.append(newer).await.unwrap();
    let error = process(&log)
        .execute::<Purse>(target, &PurseCommand::PutIn(1), &context())
        .await
        .unwrap_err();
    assert!(error.must_stand_down());
    assert!(matches!(error, CommandError::Load(LoadError::UnknownEvent { stream, .. })
        if stream == StreamId(target.stream.0)));
}
