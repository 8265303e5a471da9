//! The rules of a workspace.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::{limits, testing::given};

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

fn invitation(number: u128) -> InvitationId {
    InvitationId(Uuid::from_u128(number))
}

fn invite(by: u128, number: u128, role: Role) -> WorkspaceCommand {
    WorkspaceCommand::Invite(Invite {
        by: user(by),
        invitation_id: invitation(number),
        invitee: None,
        role,
    })
}

fn accept(number: u128, who: u128) -> WorkspaceCommand {
    WorkspaceCommand::AcceptInvitation(AcceptInvitation {
        invitation_id: invitation(number),
        user_id: user(who),
    })
}

fn renew(by: u128, number: u128) -> WorkspaceCommand {
    let invitation_id = invitation(number);
    WorkspaceCommand::RenewInvitation(ChangeInvitation { by: user(by), invitation_id })
}

fn revoke(by: u128, number: u128) -> WorkspaceCommand {
    let invitation_id = invitation(number);
    WorkspaceCommand::RevokeInvitation(ChangeInvitation { by: user(by), invitation_id })
}

fn transfer(by: u128, to: u128) -> WorkspaceCommand {
    WorkspaceCommand::TransferOwnership(TransferOwnership { by: user(by), to: user(to) })
}

fn sent(by: u128, number: u128, role: Role, expires_at: DateTime<Utc>) -> WorkspaceEvent {
    InvitationSent { invitation_id: invitation(number), role, invited_by: user(by), expires_at }
        .into()
}

fn changed(number: u128, role: Role) -> WorkspaceEvent {
    MemberRoleChanged { user_id: user(number), role }.into()
}

fn withdrawn(number: u128, reason: RevokeReason) -> WorkspaceEvent {
    InvitationRevoked { invitation_id: invitation(number), reason }.into()
}

fn in_a_week() -> DateTime<Utc> {
    crate::testing::now() + INVITATION_TTL
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

#[test]
fn owners_and_administrators_invite_for_no_more_than_they_are() {
    for (by, role) in [(OWNER, Role::Owner), (ADMINISTRATOR, Role::Administrator)] {
        given::<Workspace>(team()).when(&invite(by, 1, role)).then([sent(
            by,
            1,
            role,
            in_a_week(),
        )]);
    }
    given::<Workspace>(team())
        .when(&invite(ADMINISTRATOR, 1, Role::Owner))
        .rejected(&WorkspaceRejection::OwnerIsAboveAdministrator);
    given::<Workspace>(team())
        .when(&invite(EDITOR, 1, Role::Viewer))
        .rejected(&WorkspaceRejection::MayNotManageMembers);
    given::<Workspace>([created(true)])
        .when(&invite(OWNER, 1, Role::Viewer))
        .rejected(&WorkspaceRejection::PersonalWorkspace);
    let member = Invite {
        by: user(OWNER),
        invitation_id: invitation(1),
        invitee: Some(user(EDITOR)),
        role: Role::Viewer,
    };
    given::<Workspace>(team())
        .when(&WorkspaceCommand::Invite(member))
        .rejected(&WorkspaceRejection::AlreadyAMember);
}

#[test]
fn an_address_that_is_asked_again_has_one_invitation() {
    let mut open = team();
    let soon = crate::testing::now() + chrono::TimeDelta::hours(1);
    open.push(sent(OWNER, 1, Role::Owner, soon));
    given::<Workspace>(open.clone()).when(&invite(OWNER, 1, Role::Viewer)).then([
        InvitationRenewed {
            invitation_id: invitation(1),
            role: Role::Viewer,
            invited_by: user(OWNER),
            expires_at: in_a_week(),
        }
        .into(),
    ]);
    given::<Workspace>(open.clone()).when(&renew(OWNER, 1)).then([InvitationRenewed {
        invitation_id: invitation(1),
        role: Role::Owner,
        invited_by: user(OWNER),
        expires_at: in_a_week(),
    }
    .into()]);
    for command in
        [invite(ADMINISTRATOR, 1, Role::Viewer), renew(ADMINISTRATOR, 1), revoke(ADMINISTRATOR, 1)]
    {
        given::<Workspace>(open.clone())
            .when(&command)
            .rejected(&WorkspaceRejection::OwnerIsAboveAdministrator);
    }
    for command in [renew(OWNER, 2), revoke(OWNER, 2), accept(2, STRANGER)] {
        given::<Workspace>(open.clone())
            .when(&command)
            .rejected(&WorkspaceRejection::InvitationNotFound);
    }
    given::<Workspace>(open).when(&revoke(OWNER, 1)).then([withdrawn(1, RevokeReason::Withdrawn)]);
}

#[test]
fn an_invitation_lets_one_person_in_once_and_in_time() {
    let mut open = team();
    open.push(sent(OWNER, 1, Role::Viewer, in_a_week()));
    let came_in = [
        InvitationAccepted { invitation_id: invitation(1), user_id: user(STRANGER) }.into(),
        added(STRANGER, Role::Viewer),
    ];
    given::<Workspace>(open.clone()).when(&accept(1, STRANGER)).then(came_in.clone());
    given::<Workspace>(open.clone())
        .when(&accept(1, EDITOR))
        .rejected(&WorkspaceRejection::AlreadyAMember);
    given::<Workspace>(open.into_iter().chain(came_in))
        .when(&accept(1, 8))
        .rejected(&WorkspaceRejection::InvitationNotFound);
    let mut late = team();
    late.push(sent(OWNER, 1, Role::Viewer, crate::testing::now()));
    given::<Workspace>(late)
        .when(&accept(1, STRANGER))
        .rejected(&WorkspaceRejection::InvitationExpired);
}

#[test]
fn only_the_time_that_an_invitation_has_now_ends_it() {
    let mut open = team();
    open.push(sent(OWNER, 1, Role::Viewer, in_a_week()));
    let expire = |expires_at| {
        let invitation_id = invitation(1);
        WorkspaceCommand::ExpireInvitation(ExpireInvitation { invitation_id, expires_at })
    };
    given::<Workspace>(open.clone())
        .when(&expire(in_a_week()))
        .then([InvitationExpired { invitation_id: invitation(1) }.into()]);
    given::<Workspace>(open).when(&expire(crate::testing::now())).then_nothing();
    given::<Workspace>(team()).when(&expire(in_a_week())).then_nothing();
}

#[test]
fn open_invitations_are_bounded() {
    let mut full = team();
    let most = u128::try_from(limits::MAX_INVITATIONS).unwrap();
    full.extend((0..most).map(|number| sent(OWNER, number, Role::Viewer, in_a_week())));
    given::<Workspace>(full.clone())
        .when(&invite(OWNER, most, Role::Viewer))
        .rejected(&WorkspaceRejection::TooManyInvitations);
    given::<Workspace>(full).when(&invite(OWNER, 0, Role::Viewer)).then([InvitationRenewed {
        invitation_id: invitation(0),
        role: Role::Viewer,
        invited_by: user(OWNER),
        expires_at: in_a_week(),
    }
    .into()]);
}

#[test]
fn nobody_leaves_a_way_in_that_they_could_not_open_now() {
    let mut open = team();
    open.push(sent(ADMINISTRATOR, 1, Role::Administrator, in_a_week()));
    open.push(sent(OWNER, 2, Role::Owner, in_a_week()));
    open.push(sent(OWNER, 3, Role::Viewer, in_a_week()));
    let lost = RevokeReason::InviterLostRole;
    given::<Workspace>(open.clone())
        .when(&remove(OWNER, ADMINISTRATOR))
        .then([MemberRemoved { user_id: user(ADMINISTRATOR) }.into(), withdrawn(1, lost)]);
    given::<Workspace>(open.clone())
        .when(&change(OWNER, ADMINISTRATOR, Role::Editor))
        .then([changed(ADMINISTRATOR, Role::Editor), withdrawn(1, lost)]);
    // An administrator still invites viewers, and no owners.
    given::<Workspace>(open).when(&transfer(OWNER, EDITOR)).then([
        changed(EDITOR, Role::Owner),
        changed(OWNER, Role::Administrator),
        withdrawn(2, lost),
    ]);
}

#[test]
fn ownership_goes_from_one_member_to_another() {
    given::<Workspace>(team())
        .when(&transfer(OWNER, ADMINISTRATOR))
        .then([changed(ADMINISTRATOR, Role::Owner), changed(OWNER, Role::Administrator)]);
    let mut two = team();
    two.push(changed(EDITOR, Role::Owner));
    given::<Workspace>(two)
        .when(&transfer(OWNER, EDITOR))
        .then([changed(OWNER, Role::Administrator)]);
    for (by, to, rejection) in [
        (ADMINISTRATOR, EDITOR, WorkspaceRejection::NotAnOwner),
        (STRANGER, EDITOR, WorkspaceRejection::NotAMember),
        (OWNER, STRANGER, WorkspaceRejection::NotAMember),
        (OWNER, OWNER, WorkspaceRejection::TransferToSelf),
    ] {
        given::<Workspace>(team()).when(&transfer(by, to)).rejected(&rejection);
    }
    given::<Workspace>([created(true)])
        .when(&transfer(OWNER, EDITOR))
        .rejected(&WorkspaceRejection::PersonalWorkspace);
}

fn being_deleted() -> Vec<WorkspaceEvent> {
    let ends_at = crate::testing::now() + DELETION_GRACE;
    let mut events = team();
    events.push(WorkspaceDeletionRequested { ends_at }.into());
    events
}

fn end_grace(ends_at: DateTime<Utc>) -> WorkspaceCommand {
    WorkspaceCommand::EndGrace(EndGrace { ends_at })
}

#[test]
fn a_deletion_closes_what_is_open_and_changes_nothing_else_until_it_is_taken_back() {
    let mut open = team();
    open.push(sent(OWNER, 1, Role::Viewer, in_a_week()));
    let before = given::<Workspace>(open.clone()).state();
    let ends_at = crate::testing::now() + DELETION_GRACE;
    given::<Workspace>(open.clone()).when(&WorkspaceCommand::Delete).then([
        WorkspaceDeletionRequested { ends_at }.into(),
        withdrawn(1, RevokeReason::WorkspaceDeleted),
    ]);
    given::<Workspace>(being_deleted()).when(&WorkspaceCommand::Delete).then_nothing();
    let being = given::<Workspace>(being_deleted()).state();
    assert_eq!(being.role_of(user(EDITOR)), Some(Role::Editor), "members still look");
    assert_eq!(being.grace_ends_at(), Some(ends_at));
    for command in [
        rename("x", ""),
        add(OWNER, STRANGER, Role::Viewer),
        change(OWNER, EDITOR, Role::Viewer),
        remove(OWNER, EDITOR),
        transfer(OWNER, EDITOR),
        invite(OWNER, 1, Role::Viewer),
        accept(1, STRANGER),
        WorkspaceCommand::PauseDispatch { reason: None },
    ] {
        given::<Workspace>(being_deleted())
            .when(&command)
            .rejected(&WorkspaceRejection::BeingDeleted);
    }
    let mut restored = being_deleted();
    restored.push(WorkspaceRestored {}.into());
    given::<Workspace>(being_deleted())
        .when(&WorkspaceCommand::Restore)
        .then([WorkspaceRestored {}.into()]);
    given::<Workspace>(restored.clone()).when(&WorkspaceCommand::Restore).then_nothing();
    assert_eq!(given::<Workspace>(restored).state(), given::<Workspace>(team()).state());
    assert_ne!(before, given::<Workspace>(team()).state());
    given::<Workspace>([created(true)])
        .when(&WorkspaceCommand::Delete)
        .rejected(&WorkspaceRejection::PersonalWorkspace);
}

#[test]
fn only_the_end_of_the_grace_that_holds_ends_a_workspace_and_that_for_ever() {
    let ends_at = crate::testing::now() + DELETION_GRACE;
    given::<Workspace>(being_deleted())
        .when(&end_grace(ends_at))
        .then([WorkspaceDeleted {}.into()]);
    let other = ends_at - chrono::TimeDelta::seconds(1);
    given::<Workspace>(being_deleted()).when(&end_grace(other)).then_nothing();
    given::<Workspace>(team()).when(&end_grace(ends_at)).then_nothing();
    let mut over = being_deleted();
    over.push(WorkspaceDeleted {}.into());
    given::<Workspace>(over.clone()).when(&end_grace(ends_at)).then_nothing();
    for command in [
        rename("x", ""),
        add(OWNER, STRANGER, Role::Viewer),
        WorkspaceCommand::Delete,
        WorkspaceCommand::Restore,
    ] {
        given::<Workspace>(over.clone()).when(&command).rejected(&WorkspaceRejection::NotFound);
    }
    given::<Workspace>(over.clone())
        .when(&create("Acme", false))
        .rejected(&WorkspaceRejection::AlreadyExists);
    assert_eq!(given::<Workspace>(over).state().role_of(user(OWNER)), None);
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
        (member.clone(), member.clone()).prop_map(|(by, who)| remove(by, who)),
        (member.clone(), member.clone()).prop_map(|(by, to)| transfer(by, to)),
        (member.clone(), 1_u128..4, any_role()).prop_map(|(by, id, role)| invite(by, id, role)),
        (member.clone(), 1_u128..4).prop_map(|(by, id)| renew(by, id)),
        (member.clone(), 1_u128..4).prop_map(|(by, id)| revoke(by, id)),
        (1_u128..4, member).prop_map(|(id, who)| accept(id, who)),
        Just(WorkspaceCommand::Delete),
        Just(WorkspaceCommand::Restore),
        Just(end_grace(crate::testing::now() + DELETION_GRACE)),
    ]
}

proptest! {
    /// Whatever is commanded: what is decided folds, there is always an owner, and every open invitation has somebody behind it.
    #[test]
    fn a_workspace_always_has_an_owner(commands in prop::collection::vec(any_command(), 1..40)) {
        let mut workspace = Workspace::default();
        for command in &commands {
            let Ok(events) = workspace.decide(command, crate::testing::now()) else { continue };
            workspace = events.iter().fold(workspace, |workspace, event| workspace.evolve(event));
            if let Workspace::Active(active) = &workspace {
                prop_assert!(active.members.values().any(|role| *role == Role::Owner));
                prop_assert!(!active.personal || active.members.len() == 1);
                prop_assert!(!active.personal || active.invitations.is_empty());
                // Whoever sent an open invitation could send it now.
                for open in active.invitations.values() {
                    let inviter = active.members.get(&open.invited_by).copied();
                    prop_assert!(inviter.is_some_and(|role| members::may_manage(role, open.role).is_ok()));
                }
            }
            let stored = serde_json::to_string(&workspace).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Workspace>(&stored).unwrap(), &workspace);
        }
    }
}
