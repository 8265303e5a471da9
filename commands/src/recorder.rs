//! Takes facts for the audit into the log: what was noted beside it, and what was counted once its window is over.
//!
//! Every process may do so: a fact is one process's at a time, and its event has the id that it was noted with, so the log holds each
//! once whatever breaks off in between.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    convert::Infallible,
    net::IpAddr,
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use ledgerline_domain::{
    audit::{AuditCommand, AuditEvent, AuditTrail, Counted, Tally},
    event::{Actor, DomainEvent as _},
    id::EventId,
};
use ledgerline_store::{
    StoreError, Workspace,
    facts::{self, Count, Fact, Facts, Origin, Sum, Tallies},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{CommandError, Commands, Context, EventIds, Target};

/// How often facts are looked for where nobody asks for them.
const EVERY: Duration = Duration::from_secs(5);

/// How many events the guesses at accounts of one window may come to; the rest is one event. A stranger who tries every address there
/// is thus makes the log grow by no more than this in a quarter of an hour.
const MAX_TOLD: usize = 200;

/// A fact as it is noted beside the log, in the transaction of what it tells of; see [`facts::note`].
#[must_use]
pub fn fact(event: &AuditEvent, actor: &Actor, at: DateTime<Utc>) -> Fact {
    Fact {
        event_id: Uuid::now_v7(),
        at,
        r#type: event.type_name().to_owned(),
        schema_version: event.schema_version(),
        payload: event.payload(),
        actor: serde_json::to_string(actor).expect("an actor has only string keys"),
    }
}

/// Counts something that happens often, with what it was about and from where it came.
pub fn count(
    tallies: &Tallies,
    tally: &Tally,
    id: Option<Uuid>,
    ip: Option<IpAddr>,
    at: DateTime<Utc>,
) {
    tallies.count(Count {
        tally: text(tally),
        folded: tally.folded().as_ref().map(text),
        window: tally.window(),
        user_id: tally.user().map(|user| user.0),
        id,
        ip,
        at,
    });
}

fn text(tally: &Tally) -> String {
    serde_json::to_string(tally).expect("a tally has only string keys")
}

/// Takes facts into the log. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    commands: Commands,
    facts: Facts,
}

impl Recorder {
    /// One that appends through these commands.
    #[must_use]
    pub fn new(commands: Commands, facts: Facts) -> Self {
        Self { commands, facts }
    }

    /// The facts that are not in the log yet, and from where those that are came.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Records until it is stopped, and then once more, so that a process that goes takes nothing with it.
    pub async fn run(self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let stopped = stop.run_until_cancelled(tick.tick()).await.is_none();
            if let Err(error) = self.record(self.commands.clock().now()).await {
                tracing::warn!(%error, "facts for the audit can't be recorded now");
            }
            if stopped {
                return;
            }
        }
    }

    /// Appends every fact that was noted before this was called, by whatever process, and every sum whose window is over at `now`.
    ///
    /// # Errors
    /// When the store can't be asked, or the log does not take a fact; what was not recorded is still noted.
    pub async fn record(&self, now: DateTime<Utc>) -> Result<(), RecordError> {
        self.facts.add(self.commands.tallies()).await?;
        self.facts.close(now, told).await?;
        loop {
            let taken = self.facts.take().await?;
            if taken.facts.is_empty() {
                return Ok(());
            }
            let more = taken.is_full();
            let recorded = join_all(trails(&taken.facts).map(|trail| self.append_all(trail))).await;
            let (done, failures): (Vec<_>, Vec<_>) = recorded.into_iter().unzip();
            let done = done.concat();
            taken.done(&done).await?;
            if let Some(error) = failures.into_iter().flatten().next() {
                return Err(error);
            }
            // Facts that only a newer build can read would be taken again and again.
            if !more || done.is_empty() {
                return Ok(());
            }
        }
    }

    /// Appends the facts of one trail in their order, up to the first that fails.
    async fn append_all(
        &self,
        facts: Vec<(&Fact, AuditEvent)>,
    ) -> (Vec<Uuid>, Option<RecordError>) {
        let mut done = Vec::with_capacity(facts.len());
        for (fact, event) in facts {
            match self.append(fact, event).await {
                Ok(()) => done.push(fact.event_id),
                Err(error) => return (done, Some(error)),
            }
        }
        (done, None)
    }

    async fn append(&self, fact: &Fact, event: AuditEvent) -> Result<(), RecordError> {
        let actor = serde_json::from_str(&fact.actor).map_err(|_| RecordError::unreadable(fact))?;
        let target = Target::new(event.trail(), Workspace::NIL.0);
        let ids = EventIds::Given(EventId(fact.event_id));
        let context = Context { ids, ..Context::new(actor) };
        let command = AuditCommand::Record(event);
        let recorded = self.commands.execute::<AuditTrail>(target, &command, &context).await;
        match recorded {
            // A process before died between the append and the row.
            Ok(_) | Err(CommandError::DuplicateEvent) => Ok(()),
            Err(error) => Err(RecordError::Append(error.map(|never| match never {}))),
        }
    }
}

/// The facts by the trail that they go to. One that this build can't read stays for one that can.
fn trails(facts: &[Fact]) -> impl Iterator<Item = Vec<(&Fact, AuditEvent)>> {
    let mut trails: Vec<(Uuid, Vec<(&Fact, AuditEvent)>)> = Vec::new();
    for fact in facts {
        let event = match AuditEvent::decode(&fact.r#type, fact.schema_version, &fact.payload) {
            Ok(event) => event,
            Err(error) => {
                tracing::error!(fact = %fact.event_id, %error, "a fact for the audit can't be read");
                continue;
            }
        };
        let trail = event.trail();
        match trails.iter_mut().find(|(known, _)| *known == trail) {
            Some((_, facts)) => facts.push((fact, event)),
            None => trails.push((trail, vec![(fact, event)])),
        }
    }
    trails.into_iter().map(|(_, facts)| facts)
}

/// What the sums of windows that are over come to, the largest first. Beyond a bound what strangers cause is told together.
fn told(sums: Vec<Sum>) -> Vec<(Fact, Origin)> {
    let mut strangers = 0;
    let mut by_tally: BTreeMap<Tally, Sum> = BTreeMap::new();
    for sum in sums {
        let Ok(mut tally) = serde_json::from_str::<Tally>(&sum.tally) else {
            tracing::error!(tally = sum.tally, "what was counted for the audit can't be read");
            continue;
        };
        if let Some(folded) = tally.folded() {
            strangers += 1;
            if strangers > MAX_TOLD {
                tally = folded;
            }
        }
        match by_tally.entry(tally) {
            Entry::Occupied(mut known) => merge(known.get_mut(), sum),
            Entry::Vacant(free) => {
                free.insert(sum);
            }
        }
    }
    by_tally.into_iter().map(|(tally, sum)| tell(tally, sum)).collect()
}

fn merge(into: &mut Sum, sum: Sum) {
    into.count = into.count.saturating_add(sum.count);
    into.first_at = into.first_at.min(sum.first_at);
    into.last_at = into.last_at.max(sum.last_at);
    let fresh: Vec<IpAddr> = sum.ips.into_iter().filter(|ip| !into.ips.contains(ip)).collect();
    into.ips.extend(fresh);
    into.ips.truncate(facts::MAX_KEPT);
}

fn tell(tally: Tally, sum: Sum) -> (Fact, Origin) {
    let Sum { count, first_at, last_at, ids, ips, .. } = sum;
    let user_id = tally.user().map(|user| user.0);
    let actor = tally.actor().unwrap_or_else(|| Actor::system("audit"));
    let counted = Counted { count: u64::try_from(count).unwrap_or(0), first_at, last_at };
    let event = tally.told(counted, ids);
    (fact(&event, &actor, last_at), Origin { user_id, ips, user_agent: None })
}

/// Why facts are not in the log yet.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The facts can't be read or taken away.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log does not take one.
    #[error("the log does not take a fact")]
    Append(#[source] CommandError<Infallible>),
    /// A fact has not its shape.
    #[error("the fact {0} can't be read")]
    Unreadable(Uuid),
}

impl RecordError {
    fn unreadable(fact: &Fact) -> Self {
        Self::Unreadable(fact.event_id)
    }
}

#[cfg(test)]
mod tests {
    use ledgerline_domain::{
        audit::SignInMethod,
        id::{ApiKeyId, UserId, WorkspaceId},
    };

    use super::*;

    fn sum(tally: &Tally, count: i64) -> Sum {
        Sum {
            tally: text(tally),
            user_id: tally.user().map(|user| user.0),
            count,
            first_at: DateTime::UNIX_EPOCH,
            last_at: DateTime::UNIX_EPOCH,
            ids: Vec::new(),
            ips: vec![IpAddr::from([192, 0, 2, 1])],
        }
    }

    #[test]
    fn guesses_at_any_number_of_accounts_are_a_bounded_number_of_events_and_none_is_lost() {
        let at = |n: u128| Tally::SignInsRefused {
            user_id: Some(UserId(Uuid::from_u128(n))),
            method: SignInMethod::Password,
        };
        let nobody = Tally::SignInsRefused { user_id: None, method: SignInMethod::Password };
        let mut sums: Vec<Sum> = (0..1_000).map(|n| sum(&at(n), 1_000)).collect();
        sums.push(sum(&nobody, 7));
        let facts = told(sums);
        assert_eq!(facts.len(), MAX_TOLD + 1);
        let counts = facts.iter().map(|(fact, _)| {
            let event = AuditEvent::decode(&fact.r#type, fact.schema_version, &fact.payload);
            let AuditEvent::SignInsRefused(event) = event.unwrap() else { panic!("{fact:?}") };
            event.counted.count
        });
        assert_eq!(counts.sum::<u64>(), 1_000_007);
        let of_nobody = |(fact, _): &&(Fact, Origin)| !fact.payload.contains("user_id");
        let (rest, origin) = facts.iter().find(of_nobody).unwrap();
        assert!(rest.payload.contains("800007"), "{}", rest.payload);
        assert_eq!((origin.user_id, origin.ips.len()), (None, 1));
    }

    #[test]
    fn what_a_service_account_did_is_said_to_be_a_programs() {
        let used = |service_account| Tally::ApiKeyUsed {
            user_id: UserId(Uuid::from_u128(1)),
            service_account,
            api_key_id: ApiKeyId(Uuid::from_u128(2)),
            workspace_id: Some(WorkspaceId(Uuid::from_u128(3))),
        };
        for (by_program, kind) in [(false, "human"), (true, "agent")] {
            let (fact, _) = tell(used(by_program), sum(&used(by_program), 1));
            assert!(fact.actor.contains(kind), "{}", fact.actor);
            let event = AuditEvent::decode(&fact.r#type, fact.schema_version, &fact.payload);
            let seen_by = Some(WorkspaceId(Uuid::from_u128(3)));
            assert_eq!(event.unwrap().workspace(), seen_by, "its owners read it");
        }
    }

    #[test]
    fn a_guess_is_not_said_to_be_the_owners() {
        let user_id = UserId(Uuid::from_u128(1));
        let guessed = Tally::SignInsRefused { user_id: Some(user_id), method: SignInMethod::Code };
        let (fact, origin) = tell(guessed.clone(), sum(&guessed, 1));
        assert_eq!(fact.actor, r#"{"kind":"system","name":"audit"}"#);
        assert_eq!(origin.user_id, Some(user_id.0));
    }
}
