//! The rules of a workspace.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::testing::given;

fn user(number: u128) -> UserId {
    UserId(Uuid::from_u128(number))
}

const OWNER: u128 = 1;
const ADMINISTRATOR: u128 = 2;
const EDITOR: u128 = 3;
const STRANGER: u128 = 9;

fn created(personal: bool) -> WorkspaceEvent {
    WorkspaceCreated {
        name: "Acme".to_owned(),
        description: "All of it".to_owned(),
        owner: user(OWNER),
        personal,
    }
    .into()
}

fn added(number: u128, role: Role) -> WorkspaceEvent {
    MemberAdded { user_id: user(number), role }.into()
}

/// An owner, an administrator and an editor.
fn team() -> Vec<WorkspaceEvent> {
    vec![created(false), added(ADMINISTRATOR, Role::Administrator), added(EDITOR, Role::Editor)]
}

fn create(name: &str, personal: bool) -> WorkspaceCommand {
    WorkspaceCommand::Create(CreateWorkspace {
        name: name.to_owned(),
        description: "All of it".to_owned(),
        owner: user(OWNER),
        personal,
    })
}

fn add(by: u128, number: u128, role: Role) -> WorkspaceCommand {
    WorkspaceCommand::AddMember(AddMember { by: user(by), user_id: user(number), role })
}

fn change(by: u128, number: u128, role: Role) -> WorkspaceCommand {
    WorkspaceCommand::ChangeMemberRole(ChangeMemberRole {
        by: user(by),
        user_id: user(number),
        role,
    })
}

fn remove(by: u128, number: u128) -> WorkspaceCommand {
    WorkspaceCommand::RemoveMember(RemoveMember { by: user(by), user_id: user(number) })
}

fn rename(name: &str, description: &str) -> WorkspaceCommand {
    WorkspaceCommand::Rename(RenameWorkspace {
        name: name.to_owned(),
        description: description.to_owned(),
    })
}

#[test]
fn a_workspace_is_created_once() {
    given::<Workspace>([]).when(&create("Acme", false)).then([created(false)]);
    given::<Workspace>([created(false)])
        .when(&create("Acme", false))
        .rejected(&WorkspaceRejection::AlreadyExists);
}

#[test]
fn a_personal_workspace_may_be_created_again_and_stays_the_one() {
    given::<Workspace>([]).when(&create("Acme", true)).then([created(true)]);
    given::<Workspace>([created(true)]).when(&create("Acme", true)).then_nothing();
    given::<Workspace>([created(false)])
        .when(&create("Acme", true))
        .rejected(&WorkspaceRejection::AlreadyExists);
}

#[test]
fn names_have_1_to_255_characters() {
    for name in ["", "   ", &"é".repeat(256)] {
        given::<Workspace>([])
            .when(&create(name, false))
            .rejected(&WorkspaceRejection::NameInvalid);
        given::<Workspace>(team())
            .when(&rename(name, ""))
            .rejected(&WorkspaceRejection::NameInvalid);
    }
    given::<Workspace>(team())
        .when(&rename("Acme", &"x".repeat(10_001)))
        .rejected(&WorkspaceRejection::DescriptionTooLong);
    let longest = "é".repeat(255);
    given::<Workspace>(team()).when(&rename(&longest, "")).then([WorkspaceRenamed {
        name: longest.clone(),
        description: String::new(),
    }
    .into()]);
}

#[test]
fn renaming_to_the_same_leads_to_nothing() {
    given::<Workspace>(team()).when(&rename("Acme", "All of it")).then_nothing();
}

#[test]
fn nothing_happens_to_a_workspace_that_does_not_exist() {
    for command in [
        rename("x", ""),
        add(OWNER, EDITOR, Role::Editor),
        change(OWNER, EDITOR, Role::Viewer),
        remove(OWNER, EDITOR),
    ] {
        given::<Workspace>([]).when(&command).rejected(&WorkspaceRejection::NotFound);
    }
}

#[test]
fn owners_and_administrators_add_members() {
    for by in [OWNER, ADMINISTRATOR] {
        given::<Workspace>(team())
            .when(&add(by, STRANGER, Role::Viewer))
            .then([added(STRANGER, Role::Viewer)]);
    }
    given::<Workspace>(team())
        .when(&add(EDITOR, STRANGER, Role::Viewer))
        .rejected(&WorkspaceRejection::MayNotManageMembers);
    given::<Workspace>(team())
        .when(&add(STRANGER, STRANGER, Role::Owner))
        .rejected(&WorkspaceRejection::NotAMember);
}

#[test]
fn a_member_is_added_once() {
    given::<Workspace>(team()).when(&add(OWNER, EDITOR, Role::Editor)).then_nothing();
    given::<Workspace>(team())
        .when(&add(OWNER, EDITOR, Role::Viewer))
        .rejected(&WorkspaceRejection::AlreadyAMember);
}

#[test]
fn an_administrator_cannot_make_change_or_remove_an_owner() {
    for command in [
        add(ADMINISTRATOR, STRANGER, Role::Owner),
        change(ADMINISTRATOR, OWNER, Role::Editor),
        change(ADMINISTRATOR, ADMINISTRATOR, Role::Owner),
        change(ADMINISTRATOR, EDITOR, Role::Owner),
        remove(ADMINISTRATOR, OWNER),
    ] {
        given::<Workspace>(team())
            .when(&command)
            .rejected(&WorkspaceRejection::OwnerIsAboveAdministrator);
    }
}

#[test]
fn the_last_owner_stays_one() {
    for command in [remove(OWNER, OWNER), change(OWNER, OWNER, Role::Editor)] {
        given::<Workspace>(team()).when(&command).rejected(&WorkspaceRejection::LastOwner);
        // With another owner, the same is possible.
        let mut two = team();
        two.push(MemberRoleChanged { user_id: user(EDITOR), role: Role::Owner }.into());
        let decided = given::<Workspace>(two).state().decide(&command, crate::testing::now());
        assert_eq!(decided.map(|events| events.len()), Ok(1));
    }
}

#[test]
fn a_member_may_leave() {
    given::<Workspace>(team())
        .when(&remove(EDITOR, EDITOR))
        .then([MemberRemoved { user_id: user(EDITOR) }.into()]);
    given::<Workspace>(team())
        .when(&remove(EDITOR, ADMINISTRATOR))
        .rejected(&WorkspaceRejection::MayNotManageMembers);
    given::<Workspace>(team())
        .when(&remove(OWNER, STRANGER))
        .rejected(&WorkspaceRejection::NotAMember);
}

#[test]
fn roles_change() {
    given::<Workspace>(team())
        .when(&change(ADMINISTRATOR, EDITOR, Role::Viewer))
        .then([MemberRoleChanged { user_id: user(EDITOR), role: Role::Viewer }.into()]);
    given::<Workspace>(team()).when(&change(OWNER, EDITOR, Role::Editor)).then_nothing();
}

#[test]
fn a_personal_workspace_is_never_shared_or_left() {
    for command in [add(OWNER, STRANGER, Role::Viewer), remove(OWNER, OWNER)] {
        given::<Workspace>([created(true)])
            .when(&command)
            .rejected(&WorkspaceRejection::PersonalWorkspace);
    }
    given::<Workspace>([created(true)])
        .when(&change(OWNER, OWNER, Role::Viewer))
        .rejected(&WorkspaceRejection::PersonalWorkspace);
}

#[test]
fn roles_are_read_from_the_state() {
    let workspace = given::<Workspace>(team()).state();
    assert_eq!(workspace.role_of(user(OWNER)), Some(Role::Owner));
    assert_eq!(workspace.role_of(user(EDITOR)), Some(Role::Editor));
    assert_eq!(workspace.role_of(user(STRANGER)), None);
    assert_eq!(Workspace::Absent.role_of(user(OWNER)), None);
}

#[test]
#[should_panic(expected = "corrupt log: the workspace was not created")]
fn an_impossible_history_stops_the_fold() {
    let _ = given::<Workspace>([added(EDITOR, Role::Editor)]);
}

fn any_role() -> impl Strategy<Value = Role> {
    prop::sample::select(Role::ALL.to_vec())
}

fn any_command() -> impl Strategy<Value = WorkspaceCommand> {
    let member = 1_u128..6;
    prop_oneof![
        any::<bool>().prop_map(|personal| create("Acme", personal)),
        "[a-z]{0,3}".prop_map(|name| rename(&name, "")),
        (member.clone(), member.clone(), any_role()).prop_map(|(by, who, role)| add(by, who, role)),
        (member.clone(), member.clone(), any_role())
            .prop_map(|(by, who, role)| change(by, who, role)),
        (member.clone(), member).prop_map(|(by, who)| remove(by, who)),
    ]
}

proptest! {
    /// Whatever is commanded: what is decided folds, a repeat never leads to more members, and there is always an owner.
    #[test]
    fn a_workspace_always_has_an_owner(commands in prop::collection::vec(any_command(), 1..40)) {
        let mut workspace = Workspace::default();
        for command in &commands {
            let Ok(events) = workspace.decide(command, crate::testing::now()) else { continue };
            workspace = events.iter().fold(workspace, |workspace, event| workspace.evolve(event));
            if let Workspace::Active(active) = &workspace {
                prop_assert!(active.members.values().any(|role| *role == Role::Owner));
                prop_assert!(!active.personal || active.members.len() == 1);
            }
            let stored = serde_json::to_string(&workspace).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Workspace>(&stored).unwrap(), &workspace);
        }
    }
}
