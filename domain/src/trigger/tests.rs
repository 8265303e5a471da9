//! The rules of triggers.

use chrono::TimeDelta;
use uuid::Uuid;

use super::*;
use crate::{
    id::EventId,
    json::Json,
    testing::{given, now},
};

fn ids() -> (WorkspaceId, WorkflowId, TriggerId) {
    let workflow = WorkflowId(Uuid::from_u128(2));
    (WorkspaceId(Uuid::from_u128(1)), workflow, TriggerId::of(workflow, "clock"))
}

fn hourly() -> CronConfig {
    CronConfig {
        cron: "0 * * * *".to_owned(),
        timezone: "UTC".to_owned(),
        overlap: Overlap::Allow,
        catch_up_window_ms: 60_000,
        jitter_ms: 0,
        payload: Json::null(),
    }
}

fn webhook() -> TriggerConfig {
    TriggerConfig::Webhook(WebhookConfig {
        signature: Signature::Ledgerline,
        replay_window_ms: 300_000,
        delivery_id_header: None,
        headers: vec![],
    })
}

fn arm(version: i32, config: TriggerConfig) -> TriggerCommand {
    let (workspace_id, workflow_id, _) = ids();
    TriggerCommand::Arm(Box::new(ArmTrigger {
        workspace_id,
        workflow_id,
        node_id: "clock".to_owned(),
        workflow_version: WorkflowVersion(version),
        config,
        off: None,
    }))
}

fn armed(version: i32, config: TriggerConfig, next: Option<DateTime<Utc>>) -> TriggerEvent {
    let (workspace_id, workflow_id, _) = ids();
    TriggerArmed {
        workspace_id,
        workflow_id,
        node_id: "clock".to_owned(),
        workflow_version: WorkflowVersion(version),
        config,
        next_fire_at: next,
    }
    .into()
}

fn cron() -> TriggerConfig {
    TriggerConfig::Cron(hourly())
}

/// The first full hour after [`now`], 03:04:05.
fn four() -> DateTime<Utc> {
    now() + TimeDelta::minutes(55) + TimeDelta::seconds(55)
}

fn five() -> DateTime<Utc> {
    four() + TimeDelta::hours(1)
}

fn fire_at(fire_at: DateTime<Utc>, outcome: FireOutcome) -> TriggerCommand {
    TriggerCommand::Fire(FireTrigger { cause: Cause::Schedule { fire_at }, outcome })
}

fn run() -> ExecutionId {
    ExecutionId(Uuid::from_u128(9))
}

fn fired(at: DateTime<Utc>, next: DateTime<Utc>) -> TriggerEvent {
    let cause = Cause::Schedule { fire_at: at };
    TriggerFired { cause, execution_id: run(), next_fire_at: Some(next) }.into()
}

#[test]
fn arming_sets_the_next_fire_time() {
    given::<Trigger>([]).when(&arm(1, cron())).then([armed(1, cron(), Some(four()))]);
    let state = given::<Trigger>([armed(1, cron(), Some(four()))]);
    state.clone().when(&arm(1, cron())).then_nothing();
    // Another version with the same schedule keeps it, be it due by now; another schedule begins anew.
    let late = four() + TimeDelta::seconds(1);
    state.clone().at(late).when(&arm(2, cron())).then([armed(2, cron(), Some(four()))]);
    let daily = TriggerConfig::Cron(CronConfig { cron: "0 0 * * *".to_owned(), ..hourly() });
    let midnight = now().date_naive().succ_opt().unwrap().and_hms_opt(0, 0, 0).unwrap().and_utc();
    state.at(late).when(&arm(2, daily.clone())).then([armed(2, daily, Some(midnight))]);
}

#[test]
fn what_was_off_begins_anew() {
    let off = TriggerDisarmed { reason: OffReason::IntakePaused };
    let state = given::<Trigger>([armed(1, cron(), Some(four())), off.clone().into()]);
    state.clone().when(&TriggerCommand::Disarm { reason: off.reason }).then_nothing();
    let deleted = OffReason::WorkflowDeleted;
    state
        .clone()
        .when(&TriggerCommand::Disarm { reason: deleted })
        .then([TriggerDisarmed { reason: deleted }.into()]);
    state
        .clone()
        .at(five())
        .when(&fire_at(four(), FireOutcome::Started(run())))
        .rejected(&TriggerRejection::Off(OffReason::IntakePaused));
    let six = five() + TimeDelta::hours(1);
    state.at(five()).when(&arm(1, cron())).then([armed(1, cron(), Some(six))]);
    given::<Trigger>([]).when(&TriggerCommand::Disarm { reason: deleted }).then_nothing();
}

#[test]
fn what_is_published_and_takes_in_nothing_is_known_and_off() {
    let off = OffReason::IntakeInactive;
    let TriggerCommand::Arm(mut quiet) = arm(1, cron()) else { unreachable!() };
    quiet.off = Some(off);
    let quiet = TriggerCommand::Arm(quiet);
    let history = [armed(1, cron(), None), TriggerDisarmed { reason: off }.into()];
    given::<Trigger>([]).when(&quiet).then(history.clone());
    given::<Trigger>(history.clone()).when(&quiet).then_nothing();
    given::<Trigger>(history).when(&arm(1, cron())).then([armed(1, cron(), Some(four()))]);
    let active = given::<Trigger>([armed(1, cron(), Some(four()))]);
    active.when(&quiet).then([TriggerDisarmed { reason: off }.into()]);
}

#[test]
fn a_fire_time_fires_once() {
    let state = given::<Trigger>([armed(1, cron(), Some(four()))]).at(four());
    let started = FireOutcome::Started(run());
    state.clone().when(&fire_at(four(), started.clone())).then([fired(four(), five())]);
    state.when(&fire_at(five(), started.clone())).rejected(&TriggerRejection::NotNext);
    given::<Trigger>([armed(1, cron(), Some(four())), fired(four(), five())])
        .at(four())
        .when(&fire_at(four(), started))
        .rejected(&TriggerRejection::NotNext);
}

#[test]
fn a_refusal_moves_on_too() {
    let refused =
        FireOutcome::Refused { rule: "queue_full".to_owned(), reason: "it is full".to_owned() };
    given::<Trigger>([armed(1, cron(), Some(four()))])
        .at(four())
        .when(&fire_at(four(), refused))
        .then([TriggerRefused {
            cause: Cause::Schedule { fire_at: four() },
            rule: "queue_full".to_owned(),
            reason: "it is full".to_owned(),
            next_fire_at: Some(five()),
        }
        .into()]);
}

#[test]
fn what_is_too_late_is_missed_together() {
    let state = given::<Trigger>([armed(1, cron(), Some(four()))]);
    state.clone().at(four()).when(&TriggerCommand::Miss).then_nothing();
    let missed = FiresMissed {
        first_at: four(),
        last_at: five(),
        count: 2,
        next_fire_at: Some(five() + TimeDelta::hours(1)),
    };
    state.at(five() + TimeDelta::minutes(2)).when(&TriggerCommand::Miss).then([missed.into()]);
}

#[test]
fn a_pause_stays_through_a_publication() {
    let paused: TriggerEvent = TriggerPaused {}.into();
    let state = given::<Trigger>([armed(1, cron(), Some(four())), paused.clone()]);
    state.clone().when(&TriggerCommand::Pause).then_nothing();
    let started = FireOutcome::Started(run());
    state
        .clone()
        .at(four())
        .when(&fire_at(four(), started.clone()))
        .rejected(&TriggerRejection::Paused);
    state.clone().when(&arm(2, cron())).then([armed(2, cron(), None)]);
    // Somebody may still run it.
    let by_hand = TriggerCommand::Fire(FireTrigger { cause: Cause::RunNow, outcome: started });
    let ran = TriggerFired { cause: Cause::RunNow, execution_id: run(), next_fire_at: None };
    state.clone().when(&by_hand).then([ran.into()]);
    let six = five() + TimeDelta::hours(1);
    let resumed = TriggerResumed { next_fire_at: Some(six) };
    state.at(five()).when(&TriggerCommand::Resume).then([resumed.into()]);
    let off = TriggerDisarmed { reason: OffReason::NotPublished };
    given::<Trigger>([armed(1, cron(), Some(four())), paused, off.into()])
        .when(&TriggerCommand::Resume)
        .then([TriggerResumed { next_fire_at: None }.into()]);
}

#[test]
fn a_run_by_hand_does_not_move_the_schedule() {
    let ran =
        TriggerFired { cause: Cause::RunNow, execution_id: run(), next_fire_at: Some(four()) };
    let state = given::<Trigger>([armed(1, cron(), Some(four()))]);
    let command = FireTrigger { cause: Cause::RunNow, outcome: FireOutcome::Started(run()) };
    state.when(&TriggerCommand::Fire(command)).then([ran.clone().into()]);
    given::<Trigger>([armed(1, cron(), Some(four())), ran.into()])
        .at(four())
        .when(&fire_at(four(), FireOutcome::Started(run())))
        .then([fired(four(), five())]);
}

#[test]
fn only_a_webhook_has_an_address_and_a_secret() {
    let state = given::<Trigger>([armed(1, webhook(), None)]);
    let (token, secret) =
        (TriggerCommand::ChangeToken { version: 1 }, TriggerCommand::ChangeSecret { version: 2 });
    state.clone().when(&token).then([WebhookTokenChanged { version: 1 }.into()]);
    state.when(&secret).then([WebhookSecretChanged { version: 2 }.into()]);
    given::<Trigger>([armed(1, webhook(), None), WebhookSecretChanged { version: 2 }.into()])
        .when(&secret)
        .then_nothing();
    let schedule = given::<Trigger>([armed(1, cron(), Some(four()))]);
    for command in [token, secret] {
        schedule.clone().when(&command).rejected(&TriggerRejection::NotAWebhook);
    }
}

#[test]
fn deliveries_and_events_start_while_it_is_armed() {
    let state = given::<Trigger>([armed(1, webhook(), None)]);
    let causes = [
        Cause::Delivery { delivery_id: "d-1".to_owned() },
        Cause::Event { event_id: EventId(Uuid::from_u128(4)), position: 7 },
    ];
    for cause in causes {
        let command = FireTrigger { cause: cause.clone(), outcome: FireOutcome::Started(run()) };
        let command = TriggerCommand::Fire(command);
        let fired = TriggerFired { cause, execution_id: run(), next_fire_at: None };
        state.clone().when(&command).then([fired.into()]);
        given::<Trigger>([]).when(&command).rejected(&TriggerRejection::NotFound);
    }
}

#[test]
fn the_due_time_is_there_while_it_can_fire() {
    let fold = |events: Vec<TriggerEvent>| {
        events.into_iter().fold(Trigger::default(), |state, event| state.evolve(&event))
    };
    let armed = armed(1, cron(), Some(four()));
    assert_eq!(fold(vec![armed.clone()]).due_at(), Some(four()));
    assert_eq!(fold(vec![armed.clone(), TriggerPaused {}.into()]).due_at(), None);
    let off = TriggerDisarmed { reason: OffReason::NotPublished };
    assert_eq!(fold(vec![armed.clone(), off.into()]).due_at(), None);
    assert_eq!(fold(vec![armed, fired(four(), five())]).due_at(), Some(five()));
    let (_, workflow, id) = ids();
    let seconds = id.execution(&["schedule", &four().to_rfc3339()]);
    assert_ne!(
        seconds,
        TriggerId::of(workflow, "other").execution(&["schedule", &four().to_rfc3339()])
    );
}
