//! Being asked into a workspace: by one mail for each time it is sent, for one person, for a week, and for no more than the inviter is.

use axum::http::{Method, StatusCode};
use chrono::TimeDelta;
use ledgerline_api::invitations;
use ledgerline_commands::{Context, Target};
use ledgerline_domain::{
    event::Actor,
    id::{UserId, WorkspaceId},
    permission::Role,
    workspace::{Invite, RemoveMember, Workspace, WorkspaceCommand},
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::client::{Answer, Client};

const PASSWORD: &str = "correct horse battery";

/// A product whose first person, the operator, reads the outbox, and in which Ada has a workspace.
struct House {
    client: Client,
    ada: Somebody,
    workspace: String,
}

/// Somebody who is signed in.
struct Somebody {
    token: String,
    id: String,
}

impl Somebody {
    fn of(answer: &Answer) -> Self {
        let id = answer.body["user"]["id"].as_str().unwrap().to_owned();
        Self { token: answer.text("access_token").to_owned(), id }
    }
}

impl House {
    async fn start() -> Self {
        let client = Client::start().await;
        register(&client, "operator").await;
        let ada = register(&client, "ada").await;
        let body = json!({ "name": "Operations" });
        let made = client.post("/api/v1/workspaces", Some(&ada.token), &body).await;
        assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
        let workspace = made.text("id").to_owned();
        Self { client, ada, workspace }
    }

    async fn invite(&self, by: &Somebody, email: &str, role: &str) -> Answer {
        let body = json!({ "email": email, "role": role });
        let path = format!("/api/v1/workspaces/{}/invite", self.workspace);
        self.client.post(&path, Some(&by.token), &body).await
    }

    /// Asks an address in, and gives the invitation's id and the token of the mail.
    async fn invited(&self, email: &str, role: &str) -> (String, String) {
        let answer = self.invite(&self.ada, email, role).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
        let tokens = self.tokens(email).await;
        (answer.text("id").to_owned(), tokens.last().unwrap().clone())
    }

    /// The tokens of all invitations in the mailbox of an address, the oldest first.
    async fn tokens(&self, email: &str) -> Vec<String> {
        let operator = sign_in(&self.client, "operator").await.token;
        let answer = self.client.get("/api/v1/system/outbox", Some(&operator)).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let mails = answer.body["items"].as_array().unwrap().iter().rev();
        let theirs = mails.filter(|mail| mail["recipient"] == email);
        let text = theirs.map(|mail| mail["text"].as_str().unwrap());
        let token = |text: &str| {
            let (_, rest) = text.split_once("/#invitation=")?;
            Some(rest.split_whitespace().next().unwrap().to_owned())
        };
        text.filter_map(token).collect()
    }

    async fn accept(&self, who: &Somebody, named: &str) -> Answer {
        self.command(who, &format!("/api/v1/invitations/{named}/accept"), &[]).await
    }

    async fn command(&self, who: &Somebody, path: &str, headers: &[(&str, String)]) -> Answer {
        self.client.send(Method::POST, path, Some(&who.token), None, headers).await
    }

    /// What somebody is in the workspace, by what they see of it.
    async fn role(&self, who: &Somebody) -> Option<String> {
        let path = format!("/api/v1/workspaces/{}", self.workspace);
        let answer = self.client.get(&path, Some(&who.token)).await;
        match answer.status {
            StatusCode::OK => Some(answer.text("role").to_owned()),
            _ => {
                answer.is_problem(StatusCode::NOT_FOUND, "not-found");
                None
            }
        }
    }

    async fn list(&self, who: &Somebody) -> Answer {
        let path = format!("/api/v1/workspaces/{}/invitations", self.workspace);
        self.client.get(&path, Some(&who.token)).await
    }

    /// Whether an address stands anywhere where it would stay.
    async fn keeps(&self, email: &str) -> bool {
        let events = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM events WHERE position(lower($1) IN lower(payload::text || metadata::text)) > 0"#,
            email
        );
        let rows = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM invitations WHERE email_key = lower($1)"#,
            email
        );
        let events = events.fetch_one(self.client.pool()).await.unwrap();
        assert_eq!(events, 0, "the log holds {email}");
        rows.fetch_one(self.client.pool()).await.unwrap() > 0
    }
}

async fn register(client: &Client, name: &str) -> Somebody {
    let email = format!("{name}@example.com");
    let body = json!({ "email": email, "password": PASSWORD, "full_name": name });
    let answer = client.post("/api/v1/auth/register", None, &body).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    Somebody::of(&answer)
}

#[track_caller]
fn refused_by(answer: &Answer, rule: &str) {
    answer.is_problem(StatusCode::CONFLICT, "rule-refused");
    assert_eq!(answer.body["rule"], rule, "{answer:?}");
}

#[tokio::test]
async fn somebody_new_comes_in_by_the_mail_and_its_address_is_verified_by_that() {
    let house = House::start().await;
    let (id, token) = house.invited("Grace@Example.com", "editor").await;
    let listed = house.list(&house.ada).await;
    assert_eq!(listed.body["items"][0]["id"], id.as_str(), "{listed:?}");
    assert_eq!(listed.body["items"][0]["email"], "Grace@Example.com");
    assert_eq!(listed.body["items"][0]["role"], "editor");
    assert_eq!(listed.body["items"][0]["invited_by"], house.ada.id.as_str());

    let form = |email: &str, token: &str| {
        json!({
            "email": email, "password": PASSWORD, "full_name": "Grace", "invitation_token": token,
        })
    };
    let path = "/api/v1/auth/register";
    for (email, token) in [("eve@example.com", token.as_str()), ("grace@example.com", "lli_none")] {
        let refused = house.client.post(path, None, &form(email, token)).await;
        refused.is_problem(StatusCode::UNPROCESSABLE_ENTITY, "invalid-value");
        assert_eq!(refused.body["errors"][0]["pointer"], "/invitation_token");
    }
    let grace = house.client.post(path, None, &form("grace@example.com", &token)).await;
    assert_eq!(grace.status, StatusCode::CREATED, "{grace:?}");
    assert_eq!(grace.body["user"]["email_verified"], true);
    let grace = Somebody::of(&grace);
    assert_eq!(house.role(&grace).await, None, "an account is no membership yet");

    let received = house.client.get("/api/v1/invitations", Some(&grace.token)).await;
    assert_eq!(received.body["items"][0]["workspace_name"], "Operations", "{received:?}");
    assert_eq!(received.body["items"][0]["invited_by_name"], "ada");
    let accepted = house.accept(&grace, &token).await;
    assert_eq!(accepted.status, StatusCode::OK, "{accepted:?}");
    assert_eq!(accepted.body["role"], "editor");
    assert_eq!(house.role(&grace).await.as_deref(), Some("editor"));

    // It lets nobody else in, and what is left of it is no address.
    let eve = register(&house.client, "eve").await;
    house.accept(&eve, &token).await.is_problem(StatusCode::NOT_FOUND, "not-found");
    house.accept(&eve, &id).await.is_problem(StatusCode::NOT_FOUND, "not-found");
    assert_eq!(house.list(&house.ada).await.body["total"], 0);
    assert!(!house.keeps("grace@example.com").await);
}

#[tokio::test]
async fn somebody_with_a_verified_address_comes_in_without_the_mail() {
    let house = House::start().await;
    let bob = register(&house.client, "bob").await;
    let eve = register(&house.client, "eve").await;
    let (id, _) = house.invited("bob@example.com", "viewer").await;
    // The address is not shown to be Bob's yet, so it might be anybody's account.
    house.accept(&bob, &id).await.is_problem(StatusCode::NOT_FOUND, "not-found");
    let received = house.client.get("/api/v1/invitations", Some(&bob.token)).await;
    assert_eq!(received.body["total"], 0, "{received:?}");
    sqlx::query!("UPDATE users SET email_verified_at = created_at")
        .execute(house.client.pool())
        .await
        .unwrap();
    house.accept(&eve, &id).await.is_problem(StatusCode::NOT_FOUND, "not-found");
    let key = [("idempotency-key", "once".to_owned())];
    let path = format!("/api/v1/invitations/{id}/accept");
    let accepted = house.command(&bob, &path, &key).await;
    assert_eq!(accepted.status, StatusCode::OK, "{accepted:?}");
    let again = house.command(&bob, &path, &key).await;
    assert_eq!((again.status, &again.body), (accepted.status, &accepted.body));
    assert_eq!(house.role(&bob).await.as_deref(), Some("viewer"));
}

/// An invitation whose address was erased while it was open is for whoever has the mail, and for nobody who merely knows its id.
#[tokio::test]
async fn an_open_invitation_without_an_address_is_closed_to_those_who_know_its_id() {
    let house = House::start().await;
    let eve = register(&house.client, "eve").await;
    let (id, token) = house.invited("bob@example.com", "viewer").await;
    sqlx::query!("UPDATE users SET email_verified_at = created_at")
        .execute(house.client.pool())
        .await
        .unwrap();
    let invitation = id.parse().unwrap();
    house.client.identity().erase_invitation(invitation).await.unwrap();
    house.accept(&eve, &id).await.is_problem(StatusCode::NOT_FOUND, "not-found");
    assert_eq!(house.role(&eve).await, None);
    let bob = register(&house.client, "robert").await;
    assert_eq!(house.accept(&bob, &token).await.status, StatusCode::OK);
}

#[tokio::test]
async fn each_sending_is_one_mail_and_only_the_newest_is_good() {
    let house = House::start().await;
    let grace = register(&house.client, "grace").await;
    let email = "grace@example.com";
    let (id, first) = house.invited(email, "viewer").await;
    let resend = format!("/api/v1/invitations/{id}/resend");
    let key = [("idempotency-key", "again".to_owned())];
    house.client.clock.advance(TimeDelta::minutes(1));
    let resent = house.command(&house.ada, &resend, &key).await;
    assert_eq!(resent.status, StatusCode::OK, "{resent:?}");
    let repeated = house.command(&house.ada, &resend, &key).await;
    assert_eq!((repeated.status, &repeated.body), (resent.status, &resent.body));
    let tokens = house.tokens(email).await;
    assert_eq!(tokens.len(), 2, "a repeat writes no mail");
    house.accept(&grace, &first).await.is_problem(StatusCode::NOT_FOUND, "not-found");

    // To ask the same address anew is to send the same invitation, maybe for another role.
    house.client.clock.advance(TimeDelta::minutes(15));
    let ada = sign_in(&house.client, "ada").await;
    let again = house.invite(&ada, "GRACE@example.com", "editor").await;
    assert_eq!(again.status, StatusCode::CREATED, "{again:?}");
    assert_eq!(again.text("id"), id);
    assert_eq!(house.list(&ada).await.body["total"], 1);
    let grace = sign_in(&house.client, "grace").await;
    house.accept(&grace, &tokens[1]).await.is_problem(StatusCode::NOT_FOUND, "not-found");
    let newest = house.client.pool();
    let newest = sqlx::query_scalar!(
        "SELECT body_text FROM outbox WHERE recipient = 'GRACE@example.com' ORDER BY created_at DESC LIMIT 1"
    )
    .fetch_one(newest)
    .await
    .unwrap();
    let token = newest.split_once("/#invitation=").unwrap().1.split_whitespace().next().unwrap();
    assert_eq!(house.accept(&grace, token).await.status, StatusCode::OK);
    assert_eq!(house.role(&grace).await.as_deref(), Some("editor"));
    let member = house.invite(&ada, email, "viewer").await;
    refused_by(&member, "already_a_member");
}

async fn sign_in(client: &Client, name: &str) -> Somebody {
    let body = json!({ "email": format!("{name}@example.com"), "password": PASSWORD });
    let answer = client.post("/api/v1/auth/login", None, &body).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    Somebody::of(&answer)
}

#[tokio::test]
async fn an_invitation_is_good_for_a_week_and_until_it_is_taken_back() {
    let house = House::start().await;
    register(&house.client, "grace").await;
    let (id, token) = house.invited("grace@example.com", "viewer").await;
    let (other, _) = house.invited("other@example.com", "viewer").await;
    house.client.clock.advance(TimeDelta::days(7) - TimeDelta::seconds(1));
    let (ada, grace) = (sign_in(&house.client, "ada").await, sign_in(&house.client, "grace").await);
    assert_eq!(house.list(&ada).await.body["total"], 2);
    let path = format!("/api/v1/invitations/{other}");
    let revoked = house.client.delete(&path, Some(&ada.token)).await;
    assert_eq!(revoked.status, StatusCode::NO_CONTENT, "{revoked:?}");
    assert_eq!(house.list(&ada).await.body["total"], 1);
    assert!(!house.keeps("other@example.com").await);
    let again = house.client.delete(&path, Some(&ada.token)).await;
    again.is_problem(StatusCode::NOT_FOUND, "not-found");

    house.client.clock.advance(TimeDelta::seconds(1));
    refused_by(&house.accept(&grace, &token).await, "invitation_expired");
    assert_eq!(house.list(&ada).await.body["total"], 0);
    assert_eq!(house.role(&grace).await, None);
    // Sent once more, it is good again.
    let resend = format!("/api/v1/invitations/{id}/resend");
    assert_eq!(house.command(&ada, &resend, &[]).await.status, StatusCode::OK);
    let token = house.tokens("grace@example.com").await.pop().unwrap();
    assert_eq!(house.accept(&grace, &token).await.status, StatusCode::OK);
}

#[tokio::test]
async fn nobody_asks_in_for_more_than_they_are_and_what_they_sent_closes_with_their_role() {
    let house = House::start().await;
    let (bob, eve) = (register(&house.client, "bob").await, register(&house.client, "eve").await);
    let (_, token) = house.invited("bob@example.com", "administrator").await;
    assert_eq!(house.accept(&bob, &token).await.status, StatusCode::OK);
    let above = house.invite(&bob, "friend@example.com", "owner").await;
    above.is_problem(StatusCode::FORBIDDEN, "forbidden");
    let unknown = house.invite(&eve, "friend@example.com", "viewer").await;
    unknown.is_problem(StatusCode::NOT_FOUND, "not-found");
    let invalid = house.invite(&bob, "no address", "viewer").await;
    assert_eq!(invalid.body["errors"][0]["pointer"], "/email", "{invalid:?}");

    let sent = house.invite(&bob, "friend@example.com", "administrator").await;
    assert_eq!(sent.status, StatusCode::CREATED, "{sent:?}");
    let token = house.tokens("friend@example.com").await.pop().unwrap();
    let member = format!("/api/v1/workspaces/{}/members/{}", house.workspace, bob.id);
    let removed = house.client.delete(&member, Some(&house.ada.token)).await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT, "{removed:?}");
    house.accept(&eve, &token).await.is_problem(StatusCode::NOT_FOUND, "not-found");
    assert!(!house.keeps("friend@example.com").await);
}

#[tokio::test]
async fn a_dry_run_of_an_invitation_writes_nothing() {
    let house = House::start().await;
    let path = format!("/api/v1/workspaces/{}/invite?dry_run=true", house.workspace);
    let body = json!({ "email": "grace@example.com", "role": "viewer" });
    let plan = house.client.post(&path, Some(&house.ada.token), &body).await;
    assert_eq!(plan.status, StatusCode::OK, "{plan:?}");
    assert_eq!(plan.body["events"][0]["type"], "invitation_sent");
    assert_eq!(plan.body["side_effects"][0]["kind"], "mail_sent", "{plan:?}");
    assert!(house.tokens("grace@example.com").await.is_empty());
    assert!(!house.keeps("grace@example.com").await);
}

#[tokio::test]
async fn an_address_is_written_to_five_times_in_a_quarter_of_an_hour_from_wherever() {
    let house = House::start().await;
    let ask = async || house.invite(&house.ada, "grace@example.com", "viewer").await;
    for _ in 0..5 {
        let sent = ask().await;
        assert_eq!(sent.status, StatusCode::CREATED, "{sent:?}");
        house.client.clock.advance(TimeDelta::seconds(1));
    }
    ask().await.is_problem(StatusCode::TOO_MANY_REQUESTS, "too-many-requests");
    assert_eq!(house.tokens("grace@example.com").await.len(), 5);
    let body = json!({ "name": "Another" });
    let other = house.client.post("/api/v1/workspaces", Some(&house.ada.token), &body).await;
    let path = format!("/api/v1/workspaces/{}/invite", other.text("id"));
    let body = json!({ "email": "grace@example.com", "role": "viewer" });
    let refused = house.client.post(&path, Some(&house.ada.token), &body).await;
    refused.is_problem(StatusCode::TOO_MANY_REQUESTS, "too-many-requests");
    let other = house.invite(&house.ada, "other@example.com", "viewer").await;
    assert_eq!(other.status, StatusCode::CREATED, "{other:?}");
}

/// A process that ends between the log and the mail leaves an invitation that nobody hears of, until what was left is settled: once.
#[tokio::test]
async fn a_mail_that_a_crash_left_unwritten_is_written_once() {
    let house = House::start().await;
    let (client, email) = (&house.client, "grace@example.com");
    let workspace = WorkspaceId(house.workspace.parse().unwrap());
    let by = UserId(house.ada.id.parse().unwrap());
    let id = client.identity().invitation_id(workspace, email).unwrap();
    let note = async |id, email| {
        client.identity().note_invitation(id, workspace, email, client.clock.now()).await.unwrap();
    };
    note(id, email).await;
    let invite = Invite { by, invitation_id: id, invitee: None, role: Role::Viewer };
    tell(client, workspace, by, WorkspaceCommand::Invite(invite)).await;
    // And one that ended even before the log.
    let refused = client.identity().invitation_id(workspace, "other@example.com").unwrap();
    note(refused, "other@example.com").await;

    let settle = async || {
        let now = client.clock.now();
        invitations::settle_left(client.commands(), client.identity(), now).await.unwrap();
    };
    settle().await;
    assert!(house.tokens(email).await.is_empty(), "it may still be under way");
    client.clock.advance(TimeDelta::minutes(2));
    for _ in 0..3 {
        settle().await;
    }
    let tokens = house.tokens(email).await;
    assert_eq!(tokens.len(), 1);
    assert!(!house.keeps("other@example.com").await);

    // The same for an address that is to be erased: the inviter was taken out by a process that then ended.
    client.identity().unsettle_invitation(id, client.clock.now()).await.unwrap();
    let carl = UserId(Uuid::now_v7());
    let add = ledgerline_domain::workspace::AddMember { by, user_id: carl, role: Role::Owner };
    tell(client, workspace, by, WorkspaceCommand::AddMember(add)).await;
    let remove = RemoveMember { by: carl, user_id: by };
    tell(client, workspace, carl, WorkspaceCommand::RemoveMember(remove)).await;
    client.clock.advance(TimeDelta::minutes(2));
    settle().await;
    assert!(!house.keeps(email).await);
}

async fn tell(client: &Client, workspace: WorkspaceId, by: UserId, command: WorkspaceCommand) {
    let context = Context::new(Actor::Human { user_id: by });
    let target = Target::existing(workspace);
    client.commands().execute::<Workspace>(target, &command, &context).await.unwrap();
}

#[tokio::test]
async fn ownership_is_handed_over_and_members_leave() {
    let house = House::start().await;
    let bob = register(&house.client, "bob").await;
    let (_, token) = house.invited("bob@example.com", "viewer").await;
    assert_eq!(house.accept(&bob, &token).await.status, StatusCode::OK);
    let leave = format!("/api/v1/workspaces/{}/leave", house.workspace);
    let transfer = format!("/api/v1/workspaces/{}/transfer", house.workspace);
    let hand_over = async |by: &Somebody, to: &str| {
        house.client.post(&transfer, Some(&by.token), &json!({ "user_id": to })).await
    };
    refused_by(&house.command(&house.ada, &leave, &[]).await, "last_owner");
    hand_over(&bob, &bob.id).await.is_problem(StatusCode::FORBIDDEN, "forbidden");
    refused_by(&hand_over(&house.ada, &house.ada.id).await, "transfer_to_self");
    let stranger = Uuid::now_v7().to_string();
    hand_over(&house.ada, &stranger).await.is_problem(StatusCode::NOT_FOUND, "not-found");

    let before = version(&house).await;
    let handed_over = hand_over(&house.ada, &bob.id).await;
    assert_eq!(handed_over.status, StatusCode::OK, "{handed_over:?}");
    assert_eq!(handed_over.body["role"], "administrator");
    assert_eq!(house.role(&bob).await.as_deref(), Some("owner"));
    assert_eq!(version(&house).await - before, 2, "both changes are one append");
    hand_over(&house.ada, &house.ada.id).await.is_problem(StatusCode::FORBIDDEN, "forbidden");

    let left = house.command(&house.ada, &leave, &[]).await;
    assert_eq!(left.status, StatusCode::NO_CONTENT, "{left:?}");
    assert_eq!(house.role(&house.ada).await, None);
    let personal = house.client.get("/api/v1/auth/me", Some(&bob.token)).await;
    let personal = personal.text("personal_workspace_id");
    let leave_own = format!("/api/v1/workspaces/{personal}/leave");
    refused_by(&house.command(&bob, &leave_own, &[]).await, "personal_workspace");
}

async fn version(house: &House) -> i64 {
    let id: Uuid = house.workspace.parse().unwrap();
    house.client.commands().load::<Workspace>(id).await.unwrap().version.0
}

#[tokio::test]
async fn a_key_neither_comes_in_nor_sees_what_was_sent() {
    let house = House::start().await;
    let bob = register(&house.client, "bob").await;
    let (_, token) = house.invited("bob@example.com", "viewer").await;
    let body: Value = json!({ "name": "k", "scopes": ["read", "admin"] });
    let key = house.client.post("/api/v1/auth/api-keys", Some(&bob.token), &body).await;
    let key = Somebody { token: key.text("key").to_owned(), id: bob.id };
    house.accept(&key, &token).await.is_problem(StatusCode::FORBIDDEN, "forbidden");
    let received = house.client.get("/api/v1/invitations", Some(&key.token)).await;
    received.is_problem(StatusCode::FORBIDDEN, "forbidden");
}
