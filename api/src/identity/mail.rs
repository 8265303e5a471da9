//! Mails to people: what they say, and the outbox in which they wait.
//!
//! A mail is written in the transaction of what it tells of and delivered afterwards ([`deliver`]), so asking for one takes as long
//! whether or not a mail server answers, and whether or not the address is known.

pub mod deliver;

use chrono::{DateTime, TimeDelta, Utc};
use minijinja::{Environment, Value, context, value::Serde};
use serde::Serialize;
use sqlx::{PgConnection, PgPool};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Identity, code::CodePurpose};
use crate::problem::Problem;

/// For how long a mail is kept, delivered or not.
const KEPT_FOR: TimeDelta = TimeDelta::days(7);

/// How much of a name a subject holds: what a mail program shows of one.
const MAX_TOLD_CHARS: usize = 60;

/// How many mails the outbox shows.
const SHOWN: i64 = 100;

/// What a mail says.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Mail<'a> {
    /// A code to come in with.
    Code {
        /// What for.
        purpose: CodePurpose,
        /// The six digits.
        code: &'a str,
        /// For how many minutes it is good.
        minutes: i64,
    },
    /// Somebody asked for a code for an address that has no account.
    NoAccount,
    /// Somebody wants to sign up with an address that has an account.
    AccountExists,
    /// A link that verifies the address.
    Verify {
        /// Where it leads.
        link: &'a str,
        /// For how many hours it is good.
        hours: i64,
    },
    /// Somebody asks the address into a workspace.
    Invitation {
        /// What it is called.
        workspace: &'a str,
        /// Who asks.
        inviter: &'a str,
        /// The role that is offered.
        role: &'a str,
        /// Where it leads.
        link: &'a str,
        /// For how many days it is good.
        days: i64,
    },
}

impl Mail<'_> {
    fn subject(&self) -> String {
        match self {
            Self::Code { purpose: CodePurpose::Login, code, .. } => {
                format!("{code} is your code to sign in to Ledgerline")
            }
            Self::Code { purpose: CodePurpose::Signup, code, .. } => {
                format!("{code} is your code to sign up with Ledgerline")
            }
            Self::Code { purpose: CodePurpose::Reset, code, .. } => {
                format!("{code} is your code to set a new password")
            }
            Self::NoAccount => "No Ledgerline account has this address".to_owned(),
            Self::AccountExists => "You already have a Ledgerline account".to_owned(),
            Self::Verify { .. } => "Verify your address for Ledgerline".to_owned(),
            Self::Invitation { workspace, inviter, .. } => {
                format!("{}{} on Ledgerline", invites(inviter), told(workspace))
            }
        }
    }

    /// As plain text and as HTML, from one template each.
    fn bodies(&self) -> Result<(String, String), Problem> {
        let mut templates = Environment::new();
        for (name, source) in [
            ("mail.txt", include_str!("mail/mail.txt")),
            ("mail.html", include_str!("mail/mail.html")),
        ] {
            templates.add_template(name, source).map_err(|error| Problem::internal(&error))?;
        }
        let render = |name: &str| {
            let template = templates.get_template(name)?;
            let mail = Value::from(Serde(self));
            template.render(context! { mail, subject => self.subject() })
        };
        let text = render("mail.txt").map_err(|error| Problem::internal(&error))?;
        let html = render("mail.html").map_err(|error| Problem::internal(&error))?;
        Ok((text, html))
    }
}

/// A name that others chose, as far as a subject has room for it.
/// How the subject of an invitation by somebody begins.
pub(super) fn invites(inviter: &str) -> String {
    format!("{} invites you to ", told(inviter))
}

fn told(name: &str) -> String {
    if name.chars().count() <= MAX_TOLD_CHARS {
        return name.to_owned();
    }
    let start: String = name.chars().take(MAX_TOLD_CHARS - 1).collect();
    format!("{start}…")
}

/// Puts a mail into the outbox. It goes out when the transaction commits.
pub(super) async fn put(
    connection: &mut PgConnection,
    recipient: &str,
    mail: &Mail<'_>,
    good_for: TimeDelta,
    now: DateTime<Utc>,
) -> Result<(), Problem> {
    let (text, html) = mail.bodies()?;
    // Line breaks in a name would end the header.
    let subject: String = mail.subject().chars().filter(|c| !c.is_control()).collect();
    sqlx::query!(
        "INSERT INTO outbox (mail_id, recipient, subject, body_text, body_html, created_at, expires_at, next_attempt_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $6)",
        Uuid::now_v7(),
        recipient,
        subject,
        text,
        html,
        now,
        now + good_for
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// A mail in the outbox, as an operator sees it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct MailView {
    /// Its id.
    pub id: Uuid,
    /// To whom.
    pub recipient: String,
    /// The subject; empty where mail goes out, since it may hold a code.
    pub subject: String,
    /// The text; empty where mail goes out.
    pub text: String,
    /// When it was written.
    pub created_at: DateTime<Utc>,
    /// When it was handed to the mail server.
    pub sent_at: Option<DateTime<Utc>>,
    /// How often that was tried.
    pub attempts: i32,
    /// Why it did not work the last time.
    pub failure: Option<String>,
}

impl Identity {
    /// The newest mails. What they say shows only where no mail server is configured: there the outbox is the mailbox.
    ///
    /// # Errors
    /// 503 when the database is away.
    pub async fn outbox(&self) -> Result<Vec<MailView>, Problem> {
        let is_mailbox = self.0.mail.smtp_url.is_none();
        let rows = sqlx::query!(
            "SELECT mail_id, recipient, subject, body_text, created_at, sent_at, attempts, failure
             FROM outbox ORDER BY created_at DESC, mail_id DESC LIMIT $1",
            SHOWN
        )
        .fetch_all(self.pool())
        .await?;
        let shown = |text: String| if is_mailbox { text } else { String::new() };
        Ok(rows
            .into_iter()
            .map(|row| MailView {
                id: row.mail_id,
                recipient: row.recipient,
                subject: shown(row.subject),
                text: shown(row.body_text),
                created_at: row.created_at,
                sent_at: row.sent_at,
                attempts: row.attempts,
                failure: row.failure,
            })
            .collect())
    }
}

/// Removes old mails.
pub(super) async fn prune(pool: &PgPool, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM outbox WHERE created_at <= $1", now - KEPT_FOR).execute(pool).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mail_renders() {
        for purpose in [CodePurpose::Login, CodePurpose::Signup, CodePurpose::Reset] {
            let (text, html) = Mail::Code { purpose, code: "123456", minutes: 5 }.bodies().unwrap();
            assert!(text.contains("123456") && html.contains("123456"));
        }
        let link = "https://ledgerline.example/#verify=llv_x";
        for mail in [Mail::NoAccount, Mail::AccountExists, Mail::Verify { link, hours: 24 }] {
            let (text, html) = mail.bodies().unwrap();
            assert!(text.len() > 40 && html.len() > 40, "{mail:?}");
        }
    }

    #[test]
    fn names_that_others_chose_stay_text_and_leave_the_subject_short() {
        let workspace = format!("<b>{}</b>", "x".repeat(250));
        let link = "https://ledgerline.example/#invitation=lli_x";
        let mail = Mail::Invitation {
            workspace: &workspace,
            inviter: "Ada <ada@example.com>\r\nBcc: all@example.com",
            role: "editor",
            link,
            days: 7,
        };
        let (text, html) = mail.bodies().unwrap();
        assert!(text.contains(link) && html.contains(link), "{text} {html}");
        assert!(text.contains("editor") && text.contains("7 days"), "{text}");
        assert!(!html.contains("<b>") && !html.contains("<ada@"), "{html}");
        assert!(mail.subject().chars().count() < 200, "{}", mail.subject());
    }
}
