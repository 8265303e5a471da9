//! The mails of accounts through a mail server that speaks SMTP over TCP: they arrive whole and once, what they say works, and a server
//! that is down or refuses costs tries and never a mail that was accepted.

use axum::http::StatusCode;
use chrono::TimeDelta;
use ledgerline_api::config::{Config, MailConfig};
use secrecy::SecretString;
use serde_json::json;
use tokio::net::TcpListener;

use crate::support::{
    client::Client,
    smtp::{MailServer, Taken},
};

const PASSWORD: &str = "correct horse battery";

/// A product that hands its mails to this port.
async fn client(port: u16) -> Client {
    Client::start_with(|usual| Config {
        mail: MailConfig {
            smtp_url: Some(SecretString::from(format!("smtp://127.0.0.1:{port}"))),
            from: "Ledgerline <no-reply@ledgerline.example>".to_owned(),
        },
        ..usual
    })
    .await
}

async fn register(client: &Client, email: &str) -> String {
    let body = json!({"email": email, "password": PASSWORD, "full_name": "Ada Lovelace"});
    let answer = client.post("/api/v1/auth/register", None, &body).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    answer.text("access_token").to_owned()
}

/// The text of a message, with the line breaks of its encoding taken out.
fn text(mail: &Taken) -> String {
    mail.data.replace("=\n", "").replace("=3D", "=")
}

/// How the delivery of the mails to an address stands, the oldest first. It waits for a delivery that is under way, whose rows are held.
async fn outbox(client: &Client, recipient: &str) -> Vec<Kept> {
    let rows = sqlx::query!(
        r#"SELECT mail_id, attempts, failure, sent_at IS NOT NULL AS "sent!", next_attempt_at IS NOT NULL AS "waits!",
                  body_text || body_html || subject AS "said!"
           FROM outbox WHERE recipient = $1 ORDER BY created_at, mail_id FOR UPDATE"#,
        recipient
    );
    let rows = rows.fetch_all(client.pool()).await.unwrap().into_iter();
    rows.map(|row| Kept {
        id: row.mail_id.to_string(),
        attempts: row.attempts,
        failure: row.failure,
        sent: row.sent,
        waits: row.waits,
        said: row.said,
    })
    .collect()
}

#[derive(Debug)]
struct Kept {
    id: String,
    attempts: i32,
    failure: Option<String>,
    sent: bool,
    waits: bool,
    said: String,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_mails_say_verifies_an_address_signs_in_and_sets_a_new_password() {
    let server = MailServer::start().await;
    let client = client(server.port).await;
    register(&client, "ada@example.com").await;
    server.heard().await;
    let mail = server.taken().remove(0);
    assert_eq!(
        (mail.from.as_str(), &mail.to),
        ("no-reply@ledgerline.example", &vec!["ada@example.com".to_owned()])
    );
    for part in [
        "multipart/alternative",
        "text/plain",
        "text/html",
        "Subject: Verify your address for Ledgerline",
    ] {
        assert!(mail.data.contains(part), "{part} is missing: {}", mail.data);
    }
    let said = text(&mail);
    let (_, after) = said.split_once("/#verify=").expect("the mail has the link");
    let token: String =
        after.chars().take_while(|c| c.is_ascii_alphanumeric() || "_-".contains(*c)).collect();
    let verified = client.post("/api/v1/auth/verify-email", None, &json!({ "token": token })).await;
    assert_eq!(verified.status, StatusCode::NO_CONTENT, "{verified:?}");

    let mut answers = Vec::new();
    for purpose in ["login", "reset"] {
        let ask = json!({"email": "ada@example.com", "purpose": purpose});
        client.post("/api/v1/auth/request-otp", None, &ask).await;
        server.heard().await;
        let said = text(server.taken().last().unwrap());
        let line = said
            .lines()
            .find(|line| line.trim().len() == 6 && line.trim().bytes().all(|b| b.is_ascii_digit()));
        let code = line.expect("the mail has the code").trim();
        let prove = json!({"email": "ada@example.com", "purpose": purpose, "code": code});
        let answer = client.post("/api/v1/auth/verify-otp", None, &prove).await;
        assert_eq!(answer.status, StatusCode::OK, "{purpose}: {answer:?}");
        answers.push(answer.body);
    }
    assert_eq!(answers[0]["user"]["email_verified"], true);
    let set = json!({ "reset_token": answers[1]["reset_token"], "new_password": "another long password" });
    let set = client.post("/api/v1/auth/password", None, &set).await;
    assert_eq!(set.status, StatusCode::NO_CONTENT, "{set:?}");
    let login = json!({"email": "ada@example.com", "password": "another long password"});
    assert_eq!(client.post("/api/v1/auth/login", None, &login).await.status, StatusCode::OK);

    // Each was handed over once, under its own id, and nothing of what it said is kept.
    let kept = outbox(&client, "ada@example.com").await;
    assert_eq!(kept.len(), 3);
    for (kept, taken) in kept.iter().zip(server.taken()) {
        assert_eq!((kept.attempts, kept.sent, kept.waits), (1, true, false), "{kept:?}");
        assert_eq!((kept.said.as_str(), &kept.failure), ("", &None));
        let id = format!("Message-ID: <{}@ledgerline.example>", kept.id);
        assert!(taken.data.contains(&id), "{id}: {}", taken.data);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_down_is_tried_again_and_the_mail_goes_out_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = client(listener.local_addr().unwrap().port()).await;
    let operator = register(&client, "ada@example.com").await;
    for attempts in 1..=2 {
        // It hangs up before it says anything.
        drop(listener.accept().await.unwrap());
        let [kept] = outbox(&client, "ada@example.com").await.try_into().unwrap();
        assert_eq!((kept.attempts, kept.sent, kept.waits), (attempts, false, true), "{kept:?}");
        assert!(kept.failure.is_some() && kept.said.contains("/#verify="), "{kept:?}");
        client.clock.advance(TimeDelta::seconds(i64::from(1 << attempts)));
    }
    // An operator sees that it waits and why, and not what it says.
    let shown = client.get("/api/v1/system/outbox", Some(&operator)).await;
    let mail = &shown.body["items"][0];
    assert_eq!((&mail["attempts"], &mail["text"]), (&json!(2), &json!("")), "{shown:?}");
    assert!(mail["failure"].is_string() && mail["sent_at"].is_null(), "{shown:?}");

    let server = MailServer::on(listener);
    server.heard().await;
    let [kept] = outbox(&client, "ada@example.com").await.try_into().unwrap();
    assert_eq!((kept.attempts, kept.sent, kept.waits), (3, true, false), "{kept:?}");
    assert_eq!((kept.said.as_str(), &kept.failure), ("", &None));
    assert_eq!(server.taken().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_recipient_is_given_up_in_the_end_and_holds_up_nobody_else() {
    let server = MailServer::start().await;
    server.answers("RCPT TO:<NOBODY@", "550 5.1.1 there is no such mailbox");
    let client = client(server.port).await;
    register(&client, "nobody@example.com").await;
    for attempt in 1..=8 {
        server.refused().await;
        let [kept] = outbox(&client, "nobody@example.com").await.try_into().unwrap();
        assert_eq!(
            (kept.attempts, kept.sent, kept.waits),
            (attempt, false, attempt < 8),
            "{kept:?}"
        );
        assert!(kept.failure.as_deref().unwrap().contains("no such mailbox"), "{kept:?}");
        if attempt == 4 {
            register(&client, "ada@example.com").await;
            server.heard().await;
            assert_eq!(outbox(&client, "ada@example.com").await[0].attempts, 1);
        }
        client.clock.advance(TimeDelta::seconds(1 << attempt));
    }
    assert_eq!(server.taken().len(), 1);
    // What has no more use is not tried any more either: a code is good for five minutes.
    server.relents();
    server.answers("RCPT TO:<ADA@", "451 4.3.0 not now");
    let ask = json!({"email": "ada@example.com", "purpose": "login"});
    client.post("/api/v1/auth/request-otp", None, &ask).await;
    server.refused().await;
    assert!(outbox(&client, "ada@example.com").await[1].waits);
    client.clock.advance(TimeDelta::minutes(5));
    server.refused().await;
    let over = outbox(&client, "ada@example.com").await.remove(1);
    assert_eq!((over.attempts, over.sent, over.waits), (2, false, false), "{over:?}");
}
