//! The rules of a workflow.

use proptest::prelude::*;
use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::{
    graph::Definition,
    json::Json,
    limits,
    testing::{given, now},
};

const WORKSPACE: WorkspaceId = WorkspaceId(Uuid::from_u128(7));

fn definition(expression: &str) -> Definition {
    let value = json!({
        "nodes": [
            { "id": "start", "type": "trigger.manual" },
            { "id": "sum", "type": "logic.transform", "config": { "expression": expression } },
        ],
        "connections": [{ "from": "start", "to": "sum" }],
        "settings": { "concurrency": { "limit": 5, "key": "input.customer" }, "queue": "high", "timeout_ms": 60_000 },
    });
    Definition::parse(value.into()).expect("sound")
}

fn empty() -> Definition {
    Definition::parse(json!({}).into()).expect("an empty draft is sound")
}

fn new_draft(definition: Definition) -> NewDraft {
    NewDraft {
        name: "Nightly".to_owned(),
        description: "Every night".to_owned(),
        definition,
        tags: vec!["night".to_owned()],
        is_public: false,
    }
}

fn create(definition: Definition) -> WorkflowCommand {
    WorkflowCommand::Create(CreateWorkflow {
        workspace_id: WORKSPACE,
        parent_workflow_id: None,
        draft: new_draft(definition),
    })
}

fn save(definition: Definition) -> WorkflowCommand {
    WorkflowCommand::SaveDraft(SaveDraft { draft: new_draft(definition) })
}

fn stored(definition: &Definition) -> Draft {
    new_draft(definition.clone()).checked().expect("fits")
}

fn created_with(definition: &Definition) -> WorkflowEvent {
    WorkflowCreated { workspace_id: WORKSPACE, parent_workflow_id: None, draft: stored(definition) }
        .into()
}

fn created() -> WorkflowEvent {
    created_with(&definition("1"))
}

fn saved(version: i32, expression: &str) -> WorkflowEvent {
    DraftSaved { version: WorkflowVersion(version), draft: stored(&definition(expression)) }.into()
}

fn published(version: i32) -> WorkflowEvent {
    WorkflowPublished { version: WorkflowVersion(version) }.into()
}

fn publish(version: Option<i32>) -> WorkflowCommand {
    WorkflowCommand::Publish(PublishWorkflow {
        version: version.map(WorkflowVersion),
        ..PublishWorkflow::default()
    })
}

fn archived() -> Vec<WorkflowEvent> {
    vec![created(), WorkflowArchived {}.into()]
}

fn deleted() -> Vec<WorkflowEvent> {
    vec![created(), WorkflowDeleted {}.into()]
}

#[test]
fn a_workflow_is_created_once_with_version_1() {
    given::<Workflow>([]).when(&create(definition("1"))).then([created()]);
    given::<Workflow>([created()]).when(&create(definition("1"))).then_nothing();
    given::<Workflow>([created()])
        .when(&create(definition("2")))
        .rejected(&WorkflowRejection::AlreadyExists);
    given::<Workflow>(deleted())
        .when(&create(definition("1")))
        .rejected(&WorkflowRejection::AlreadyExists);
}

#[test]
fn the_text_of_a_draft_is_bounded() {
    type Spoil = fn(&mut NewDraft);
    let cases: [(Spoil, WorkflowRejection); 6] = [
        (|draft| draft.name.clear(), WorkflowRejection::NameInvalid),
        (|draft| draft.name = "x".repeat(256), WorkflowRejection::NameInvalid),
        (|draft| draft.description = "x".repeat(10_001), WorkflowRejection::DescriptionTooLong),
        (|draft| draft.tags = vec!["x".to_owned(); 33], WorkflowRejection::TagsInvalid),
        (|draft| draft.tags = vec![" ".to_owned()], WorkflowRejection::TagsInvalid),
        (
            |draft| {
                draft.definition = Definition::parse(
                    Json::parse(&format!("{{{}}}", " ".repeat(460_000))).unwrap(),
                )
                .unwrap();
            },
            WorkflowRejection::DefinitionTooLarge,
        ),
    ];
    for (spoil, rejection) in cases {
        let mut draft = new_draft(definition("1"));
        spoil(&mut draft);
        given::<Workflow>([created()])
            .when(&WorkflowCommand::SaveDraft(SaveDraft { draft }))
            .rejected(&rejection);
    }
}

#[test]
fn every_draft_is_the_next_version() {
    given::<Workflow>([created()])
        .when(&save(definition("2")))
        .then([saved(2, "2")])
        .when(&save(definition("1")))
        .then([saved(3, "1")]);
}

#[test]
fn saving_what_the_latest_version_holds_leads_to_nothing() {
    given::<Workflow>([created()]).when(&save(definition("1"))).then_nothing();
}

#[test]
fn a_draft_may_be_empty_and_cannot_be_published_or_started() {
    let history = || [created_with(&empty())];
    given::<Workflow>([]).when(&create(empty())).then(history());
    given::<Workflow>(history()).when(&publish(None)).rejected(&WorkflowRejection::GraphEmpty);
    let start = given::<Workflow>(history()).state().start_plan(TriggerType::Manual);
    assert_eq!(start.err(), Some(WorkflowRejection::GraphEmpty));
}

#[test]
fn publishing_names_a_version_or_takes_the_latest() {
    let history = || [created(), saved(2, "2")];
    given::<Workflow>(history()).when(&publish(None)).then([published(2)]);
    // Nothing new runs version 1, so whoever publishes it looks it up first.
    given::<Workflow>(history())
        .when(&publish(Some(1)))
        .rejected(&WorkflowRejection::DefinitionElsewhere);
    let workflow = given::<Workflow>(history()).state();
    let content = workflow.content().expect("created");
    content.supply(WorkflowVersion(1), definition("1").text().clone());
    assert_eq!(workflow.decide(&publish(Some(1)), now()), Ok(vec![published(1)]));
    given::<Workflow>([created(), published(1), saved(2, "2")])
        .when(&publish(Some(1)))
        .then_nothing()
        .when(&publish(Some(2)))
        .then([published(2)]);
    for missing in [-1, 0, 3] {
        given::<Workflow>(history())
            .when(&publish(Some(missing)))
            .rejected(&WorkflowRejection::VersionNotFound);
    }
}

fn name(version: i32, label: Option<&str>, note: Option<&str>) -> WorkflowCommand {
    WorkflowCommand::NameVersion(NameVersion {
        version: WorkflowVersion(version),
        label: label.map(str::to_owned),
        note: note.map(str::to_owned),
    })
}

fn named(version: i32, label: Option<&str>, note: Option<&str>) -> WorkflowEvent {
    VersionNamed {
        version: WorkflowVersion(version),
        label: label.map(str::to_owned),
        note: note.map(str::to_owned),
    }
    .into()
}

#[test]
fn a_version_is_called_something_and_nothing_again() {
    given::<Workflow>([created(), saved(2, "2")])
        .when(&name(1, Some("1.0"), Some("As delivered")))
        .then([named(1, Some("1.0"), Some("As delivered"))])
        .when(&name(1, Some("1.0"), None))
        .then_nothing()
        .when(&name(1, None, Some("")))
        .then([named(1, Some("1.0"), None)])
        .when(&name(2, Some("1.0"), None))
        .rejected(&WorkflowRejection::LabelTaken);
    given::<Workflow>([created(), named(1, Some("1.0"), None)])
        .when(&name(1, Some(""), None))
        .then([named(1, None, None)])
        .when(&name(1, Some("1.0"), None))
        .then([named(1, Some("1.0"), None)]);
    for (label, note, rejection) in [
        (Some(" ".to_owned()), None, WorkflowRejection::LabelInvalid),
        (Some("x".repeat(65)), None, WorkflowRejection::LabelInvalid),
        (None, Some("x".repeat(2_001)), WorkflowRejection::NoteTooLong),
    ] {
        given::<Workflow>([created()])
            .when(&name(1, label.as_deref(), note.as_deref()))
            .rejected(&rejection);
    }
    given::<Workflow>([created()])
        .when(&name(2, Some("x"), None))
        .rejected(&WorkflowRejection::VersionNotFound);
    given::<Workflow>(archived())
        .when(&name(1, Some("x"), None))
        .rejected(&WorkflowRejection::Archived);
}

#[test]
fn a_publication_names_its_version_in_the_same_append() {
    let publish = WorkflowCommand::Publish(PublishWorkflow {
        label: Some("stable".to_owned()),
        ..PublishWorkflow::default()
    });
    given::<Workflow>([created()])
        .when(&publish)
        .then([named(1, Some("stable"), None), published(1)])
        .when(&publish)
        .then_nothing();
    given::<Workflow>([created(), published(1)]).when(&publish).then([named(
        1,
        Some("stable"),
        None,
    )]);
}

#[test]
fn unpublishing_gives_a_draft() {
    given::<Workflow>([created(), published(1)])
        .when(&WorkflowCommand::Unpublish)
        .then([WorkflowUnpublished {}.into()])
        .when(&WorkflowCommand::Unpublish)
        .then_nothing();
}

#[test]
fn archiving_says_all_that_it_does() {
    given::<Workflow>([created(), published(1), IntakeActivated {}.into()])
        .when(&WorkflowCommand::Archive)
        .then([
            IntakeDeactivated {}.into(),
            WorkflowUnpublished {}.into(),
            WorkflowArchived {}.into(),
        ])
        .when(&WorkflowCommand::Archive)
        .then_nothing()
        .when(&WorkflowCommand::Unarchive)
        .then([WorkflowUnarchived {}.into()])
        .when(&WorkflowCommand::Unarchive)
        .then_nothing();
}

#[test]
fn an_archived_workflow_is_not_edited() {
    for command in [
        save(definition("2")),
        publish(None),
        WorkflowCommand::Unpublish,
        WorkflowCommand::ActivateIntake,
        WorkflowCommand::PauseIntake,
    ] {
        given::<Workflow>(archived()).when(&command).rejected(&WorkflowRejection::Archived);
    }
    given::<Workflow>(archived()).when(&WorkflowCommand::DeactivateIntake).then_nothing();
}

#[test]
fn intake_goes_on_and_off() {
    given::<Workflow>([created()])
        .when(&WorkflowCommand::DeactivateIntake)
        .then_nothing()
        .when(&WorkflowCommand::ActivateIntake)
        .then([IntakeActivated {}.into()])
        .when(&WorkflowCommand::ActivateIntake)
        .then_nothing()
        .when(&WorkflowCommand::PauseIntake)
        .then([IntakePaused {}.into()])
        .when(&WorkflowCommand::ActivateIntake)
        .then([IntakeActivated {}.into()])
        .when(&WorkflowCommand::DeactivateIntake)
        .then([IntakeDeactivated {}.into()]);
}

#[test]
fn a_stop_is_said_each_time() {
    given::<Workflow>([created()])
        .when(&WorkflowCommand::Stop)
        .then([IntakeDeactivated {}.into()])
        .when(&WorkflowCommand::Stop)
        .then([IntakeDeactivated {}.into()]);
    given::<Workflow>(archived()).when(&WorkflowCommand::Stop).then([IntakeDeactivated {}.into()]);
}

#[test]
fn a_deleted_workflow_is_gone_and_its_versions_are_not() {
    given::<Workflow>(archived())
        .when(&WorkflowCommand::Delete)
        .then([WorkflowDeleted {}.into()])
        .when(&WorkflowCommand::Delete)
        .then_nothing();
    for command in [
        save(definition("2")),
        publish(None),
        WorkflowCommand::Unpublish,
        WorkflowCommand::Archive,
        WorkflowCommand::Unarchive,
        WorkflowCommand::ActivateIntake,
        WorkflowCommand::DeactivateIntake,
        WorkflowCommand::Stop,
    ] {
        given::<Workflow>(deleted()).when(&command).rejected(&WorkflowRejection::NotFound);
        given::<Workflow>([]).when(&command).rejected(&WorkflowRejection::NotFound);
    }
    given::<Workflow>([]).when(&WorkflowCommand::Delete).rejected(&WorkflowRejection::NotFound);
    let workflow = given::<Workflow>(deleted()).state();
    assert_eq!(workflow.status(), None);
    let content = workflow.content().expect("kept");
    assert_eq!(content.graph(WorkflowVersion(1)).map(|graph| graph.len()), Ok(2));
}

#[test]
fn a_status_is_reached_by_the_command_that_means_it() {
    let draft = given::<Workflow>([created()]).state();
    let in_archive = given::<Workflow>(archived()).state();
    assert_eq!(draft.command_for(WorkflowStatus::Published), publish(None));
    assert_eq!(draft.command_for(WorkflowStatus::Archived), WorkflowCommand::Archive);
    assert_eq!(draft.command_for(WorkflowStatus::Draft), WorkflowCommand::Unpublish);
    assert_eq!(in_archive.command_for(WorkflowStatus::Draft), WorkflowCommand::Unarchive);
}

/// Which version a person and a schedule run, or why none.
type Starts = [Result<i32, WorkflowRejection>; 2];

/// Which version each of them runs after a history.
fn starts(history: impl IntoIterator<Item = WorkflowEvent>) -> Starts {
    let workflow = given::<Workflow>(history).state();
    [TriggerType::Manual, TriggerType::Cron]
        .map(|trigger| workflow.start_plan(trigger).map(|plan| plan.version.0))
}

#[test]
fn a_start_runs_the_published_version_else_by_hand_the_latest_draft() {
    use WorkflowRejection as No;
    let active = || WorkflowEvent::from(IntakeActivated {});
    let paused = || WorkflowEvent::from(IntakePaused {});
    let table: [(Vec<WorkflowEvent>, Starts); 9] = [
        (vec![], [Err(No::NotFound); 2]),
        (vec![created()], [Ok(1), Err(No::IntakeInactive)]),
        (vec![created(), saved(2, "2")], [Ok(2), Err(No::IntakeInactive)]),
        (vec![created(), active()], [Ok(1), Err(No::NotPublished)]),
        (vec![created(), published(1), saved(2, "2")], [Ok(1), Err(No::IntakeInactive)]),
        (vec![created(), published(1), saved(2, "2"), active()], [Ok(1), Ok(1)]),
        (vec![created(), published(1), paused()], [Err(No::IntakePaused); 2]),
        (archived(), [Err(No::Archived); 2]),
        (deleted(), [Err(No::NotFound); 2]),
    ];
    for (history, expected) in table {
        assert_eq!(starts(history.clone()), expected, "{history:?}");
    }
}

#[test]
fn a_plan_holds_all_that_a_start_needs() {
    let workflow = given::<Workflow>([created()]).state();
    let plan = workflow.start_plan(TriggerType::Manual).expect("starts");
    assert_eq!(plan.workspace_id, WORKSPACE);
    assert_eq!(plan.planned_nodes, 2);
    assert_eq!(plan.queue, Queue::High);
    assert_eq!(plan.timeout_ms, Some(60_000));
    assert_eq!(plan.concurrency.limit, Some(5));
    let input = json!({ "customer": "c-1" }).into();
    assert_eq!(plan.concurrency.key_of(&input), Ok(Some("c-1".to_owned())));
    assert_eq!(&plan.definition, definition("1").text());
}

#[test]
fn a_run_keeps_its_version_whatever_is_published_later() {
    let workflow =
        given::<Workflow>([created(), published(1), saved(2, "2"), published(2)]).state();
    // Nothing new runs version 1, so whoever runs it again has to look it up.
    let content = workflow.content().expect("created");
    let first = WorkflowVersion(1);
    assert_eq!(content.whereabouts(first), Some(Whereabouts::Event(1)));
    assert_eq!(workflow.version_plan(first).err(), Some(WorkflowRejection::DefinitionElsewhere));
    content.supply(first, definition("1").text().clone());
    let of = |version| workflow.version_plan(WorkflowVersion(version)).map(|plan| plan.version.0);
    assert_eq!([of(1), of(2), of(3)], [Ok(1), Ok(2), Err(WorkflowRejection::VersionNotFound)]);
}

#[test]
fn a_version_that_is_no_longer_sound_says_so() {
    let mut draft = stored(&definition("1"));
    draft.definition = json!({ "nodes": [{ "id": "a", "type": "gone.kind" }] }).into();
    let event = WorkflowCreated { workspace_id: WORKSPACE, parent_workflow_id: None, draft };
    given::<Workflow>([event.into()])
        .when(&publish(None))
        .rejected(&WorkflowRejection::DefinitionInvalid);
}

#[test]
fn a_graph_is_parsed_once() {
    let workflow = given::<Workflow>([created()]).state();
    let content = workflow.content().expect("created");
    let first = content.graph(WorkflowVersion(1)).expect("sound");
    let later = workflow.clone();
    let second = later.content().expect("created").graph(WorkflowVersion(1)).expect("sound");
    assert!(Arc::ptr_eq(&first, &second));
}

/// A definition that no event can hold.
fn large() -> Definition {
    let nodes: Vec<_> = (0..10_000)
        .map(|n| json!({ "id": format!("node-{n}"), "type": "logic.wait", "config": { "duration_ms": n } }))
        .collect();
    Definition::parse(json!({ "nodes": nodes }).into()).expect("sound")
}

#[test]
fn a_large_definition_is_saved_by_the_blob_that_holds_it() {
    let text = large().text().clone();
    assert!(text.as_str().len() > limits::MAX_INLINE_DEFINITION_BYTES);
    let blob = DefinitionBlob {
        hash: "ab".repeat(32),
        size_bytes: u64::try_from(text.as_str().len()).unwrap(),
    };
    let kept = new_draft(large().kept_in(blob.clone()));
    let save = |draft: &NewDraft| WorkflowCommand::SaveDraft(SaveDraft { draft: draft.clone() });
    let draft = kept.checked().expect("kept elsewhere");
    assert_eq!((&draft.definition, &draft.blob), (&Json::null(), &Some(blob.clone())));
    let saved = WorkflowEvent::from(DraftSaved { version: WorkflowVersion(2), draft });
    given::<Workflow>([created()])
        .when(&save(&new_draft(large())))
        .rejected(&WorkflowRejection::DefinitionTooLarge);
    given::<Workflow>([created()])
        .when(&save(&kept))
        .then([saved.clone()])
        .when(&save(&kept))
        .then_nothing();

    let workflow = given::<Workflow>([created(), saved]).state();
    let content = workflow.content().expect("created");
    let second = WorkflowVersion(2);
    assert_eq!(content.whereabouts(second), Some(Whereabouts::Blob(blob.clone())));
    assert_eq!(workflow.decide(&publish(None), now()), Err(WorkflowRejection::DefinitionElsewhere));
    content.supply(second, text);
    assert_eq!(workflow.decide(&publish(None), now()), Ok(vec![published(2)]));
    assert_eq!(workflow.start_plan(TriggerType::Manual).map(|plan| plan.planned_nodes), Ok(10_000));
    let small = new_draft(definition("1").kept_in(blob));
    assert_eq!(small.checked().map(|draft| draft.blob), Ok(None), "what fits stays in its event");
}

#[test]
fn a_workflow_with_many_versions_stays_small() {
    let events = (2..=1_000).map(|n| saved(n, &n.to_string()));
    let workflow = given::<Workflow>([created(), published(1)].into_iter().chain(events)).state();
    let content = workflow.content().expect("created");
    let at_hand: Vec<i32> =
        (1..=1_000).filter(|n| content.whereabouts(WorkflowVersion(*n)).is_none()).collect();
    assert_eq!(at_hand, [1, 1_000], "what is published, and what is edited");
    assert_eq!(content.whereabouts(WorkflowVersion(500)), Some(Whereabouts::Event(501)));
}

fn any_command() -> impl Strategy<Value = WorkflowCommand> {
    prop_oneof![
        (1_i32..4).prop_map(|n| create(definition(&n.to_string()))),
        (1_i32..4).prop_map(|n| save(definition(&n.to_string()))),
        prop::option::of(0..4).prop_map(publish),
        (0..4, prop::option::of("[ab]?")).prop_map(|(version, label)| name(
            version,
            label.as_deref(),
            None
        )),
        prop::sample::select(vec![
            WorkflowCommand::Unpublish,
            WorkflowCommand::Archive,
            WorkflowCommand::Unarchive,
            WorkflowCommand::ActivateIntake,
            WorkflowCommand::PauseIntake,
            WorkflowCommand::DeactivateIntake,
            WorkflowCommand::Delete,
        ]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever is commanded: what is decided folds, the published version exists, a repeat leads to nothing, and the state survives
    /// being stored.
    #[test]
    fn any_accepted_history_folds(commands in prop::collection::vec(any_command(), 1..25)) {
        let mut workflow = Workflow::default();
        for command in &commands {
            let Ok(events) = workflow.decide(command, now()) else { continue };
            workflow = events.iter().fold(workflow, |workflow, event| workflow.evolve(event));
            if let (Some(version), Some(content)) = (workflow.published_version(), workflow.content()) {
                prop_assert!(content.version(version).is_some());
            }
            if !matches!(command, WorkflowCommand::Create(_)) {
                prop_assert_eq!(workflow.decide(command, now()), Ok(vec![]));
            }
            let text = serde_json::to_string(&workflow).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Workflow>(&text).unwrap(), &workflow);
        }
    }
}
