//! The rules of service accounts.

use uuid::Uuid;

use super::*;
use crate::{
    Aggregate,
    id::InvitationId,
    testing::given,
    workspace::{
        ChangeMemberRole, InvitationRevoked, InvitationSent, MemberAdded, MemberRemoved,
        MemberRoleChanged, RemoveMember, RevokeReason, TransferOwnership, Workspace,
        WorkspaceCommand, WorkspaceCreated,
    },
};

const OWNER: UserId = UserId(Uuid::from_u128(1));
const ADMINISTRATOR: UserId = UserId(Uuid::from_u128(2));
const EDITOR: UserId = UserId(Uuid::from_u128(3));
const PROGRAM: UserId = UserId(Uuid::from_u128(7));

/// An owner, an administrator, an editor, and an editing program.
fn team() -> Vec<WorkspaceEvent> {
    let created = WorkspaceCreated {
        name: "Acme".to_owned(),
        description: String::new(),
        owner: OWNER,
        personal: false,
    };
    vec![
        created.into(),
        MemberAdded { user_id: ADMINISTRATOR, role: Role::Administrator }.into(),
        MemberAdded { user_id: EDITOR, role: Role::Editor }.into(),
        ServiceAccountAdded { account_id: PROGRAM, role: Role::Editor }.into(),
    ]
}

fn add(by: UserId, account_id: UserId, role: Role) -> WorkspaceCommand {
    WorkspaceCommand::AddServiceAccount(AddServiceAccount { by, account_id, role })
}

fn set(by: UserId, account_id: UserId, standing: Standing) -> WorkspaceCommand {
    WorkspaceCommand::SetStanding(SetStanding { by, account_id, standing })
}

fn folded(events: Vec<WorkspaceEvent>) -> Workspace {
    events.iter().fold(Workspace::default(), Workspace::evolve)
}

#[test]
fn a_service_account_is_let_in_once_by_who_manages_members() {
    let other = UserId(Uuid::from_u128(8));
    given::<Workspace>(team())
        .when(&add(ADMINISTRATOR, other, Role::Administrator))
        .then([ServiceAccountAdded { account_id: other, role: Role::Administrator }.into()]);
    given::<Workspace>(team()).when(&add(OWNER, PROGRAM, Role::Editor)).then_nothing();
    given::<Workspace>(team())
        .when(&add(OWNER, PROGRAM, Role::Viewer))
        .rejected(&WorkspaceRejection::AlreadyAMember);
    given::<Workspace>(team())
        .when(&add(OWNER, EDITOR, Role::Editor))
        .rejected(&WorkspaceRejection::AlreadyAMember);
    given::<Workspace>(team())
        .when(&add(EDITOR, other, Role::Viewer))
        .rejected(&WorkspaceRejection::MayNotManageMembers);
}

#[test]
fn a_service_account_is_never_an_owner() {
    let other = UserId(Uuid::from_u128(8));
    given::<Workspace>(team())
        .when(&add(OWNER, other, Role::Owner))
        .rejected(&WorkspaceRejection::ServiceAccountOwner);
    let change = ChangeMemberRole { by: OWNER, user_id: PROGRAM, role: Role::Owner };
    given::<Workspace>(team())
        .when(&WorkspaceCommand::ChangeMemberRole(change))
        .rejected(&WorkspaceRejection::ServiceAccountOwner);
    let transfer = TransferOwnership { by: OWNER, to: PROGRAM };
    given::<Workspace>(team())
        .when(&WorkspaceCommand::TransferOwnership(transfer))
        .rejected(&WorkspaceRejection::ServiceAccountOwner);
    let change = ChangeMemberRole { by: OWNER, user_id: PROGRAM, role: Role::Viewer };
    given::<Workspace>(team())
        .when(&WorkspaceCommand::ChangeMemberRole(change))
        .then([MemberRoleChanged { user_id: PROGRAM, role: Role::Viewer }.into()]);
}

#[test]
fn a_personal_workspace_has_no_service_accounts() {
    let created = WorkspaceCreated {
        name: "Ada".to_owned(),
        description: String::new(),
        owner: OWNER,
        personal: true,
    };
    given::<Workspace>([created.into()])
        .when(&add(OWNER, PROGRAM, Role::Viewer))
        .rejected(&WorkspaceRejection::PersonalWorkspace);
}

#[test]
fn a_disabled_account_has_no_role_until_it_is_enabled() {
    given::<Workspace>(team())
        .when(&set(ADMINISTRATOR, PROGRAM, Standing::Disabled))
        .then([ServiceAccountDisabled { account_id: PROGRAM }.into()]);
    given::<Workspace>(team()).when(&set(OWNER, PROGRAM, Standing::Enabled)).then_nothing();
    assert_eq!(folded(team()).role_of(PROGRAM), Some(Role::Editor));
    let mut history = team();
    history.push(ServiceAccountDisabled { account_id: PROGRAM }.into());
    assert_eq!(folded(history.clone()).role_of(PROGRAM), None);
    given::<Workspace>(history.clone())
        .when(&set(OWNER, PROGRAM, Standing::Disabled))
        .then_nothing();
    // Another role does not bring it back.
    history.push(MemberRoleChanged { user_id: PROGRAM, role: Role::Administrator }.into());
    assert_eq!(folded(history.clone()).role_of(PROGRAM), None);
    history.push(ServiceAccountEnabled { account_id: PROGRAM }.into());
    assert_eq!(folded(history).role_of(PROGRAM), Some(Role::Administrator));
}

#[test]
fn what_a_disabled_account_has_sent_is_taken_back() {
    let mut history = team();
    let invitation_id = InvitationId(Uuid::from_u128(20));
    let sent = InvitationSent {
        invitation_id,
        role: Role::Viewer,
        invited_by: PROGRAM,
        expires_at: crate::testing::now(),
    };
    history.push(sent.into());
    given::<Workspace>(history).when(&set(OWNER, PROGRAM, Standing::Disabled)).then([
        ServiceAccountDisabled { account_id: PROGRAM }.into(),
        InvitationRevoked { invitation_id, reason: RevokeReason::InviterLostRole }.into(),
    ]);
}

#[test]
fn only_service_accounts_are_turned_off_and_only_by_who_manages_members() {
    given::<Workspace>(team())
        .when(&set(OWNER, EDITOR, Standing::Disabled))
        .rejected(&WorkspaceRejection::NotAServiceAccount);
    given::<Workspace>(team())
        .when(&set(EDITOR, PROGRAM, Standing::Disabled))
        .rejected(&WorkspaceRejection::MayNotManageMembers);
}

#[test]
fn an_account_that_was_taken_out_is_forgotten() {
    let remove = RemoveMember { by: ADMINISTRATOR, user_id: PROGRAM };
    given::<Workspace>(team())
        .when(&WorkspaceCommand::RemoveMember(remove))
        .then([MemberRemoved { user_id: PROGRAM }.into()]);
    let mut history = team();
    history.push(MemberRemoved { user_id: PROGRAM }.into());
    given::<Workspace>(history.clone())
        .when(&set(OWNER, PROGRAM, Standing::Enabled))
        .rejected(&WorkspaceRejection::NotAServiceAccount);
    assert!(!folded(history).active().is_ok_and(|workspace| workspace.is_service(PROGRAM)));
}

#[test]
fn a_workspace_has_a_bounded_number_of_them() {
    let mut history = team();
    let more = (1..limits::MAX_SERVICE_ACCOUNTS).map(|number| {
        let account_id = UserId(Uuid::from_u128(1_000 + number as u128));
        ServiceAccountAdded { account_id, role: Role::Viewer }.into()
    });
    history.extend(more);
    given::<Workspace>(history)
        .when(&add(OWNER, UserId(Uuid::from_u128(8)), Role::Viewer))
        .rejected(&WorkspaceRejection::TooManyServiceAccounts);
}
