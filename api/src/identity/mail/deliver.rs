//! Takes mails out of the outbox and hands them to the mail server, at least once each.
//!
//! Any number of processes may do so: each takes rows that no other one holds. Without a mail server the outbox is the mailbox, and
//! `ledgerline outbox` shows it.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{Mailbox, MultiPart},
};
use secrecy::ExposeSecret;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{clock::Clock, config::MailConfig};

type Transport = AsyncSmtpTransport<Tokio1Executor>;

/// How often the outbox is looked at: a mail takes longer than that on its way.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How many mails one look takes.
const BATCH: i64 = 20;
/// After how many attempts a mail is given up.
const MAX_ATTEMPTS: i32 = 8;
/// How long the mail server may take for one mail.
const TIMEOUT: Duration = Duration::from_secs(20);
/// The longest reason that is kept.
const MAX_FAILURE_CHARS: usize = 500;

/// Hands mails to a mail server.
pub(crate) struct Deliverer {
    transport: Transport,
    from: Mailbox,
    /// The right side of message ids.
    host: String,
}

/// Why the settings of the mail server cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MailConfigError {
    /// The address of the server.
    #[error(
        "mail.smtp_url is not one: smtp://user:password@host:587?tls=required, or smtps://… ({0})"
    )]
    Url(lettre::transport::smtp::Error),
    /// The sender.
    #[error("mail.from is no address, `Name <address>`: {0}")]
    From(lettre::address::AddressError),
}

struct Waiting {
    id: Uuid,
    recipient: String,
    subject: String,
    text: String,
    html: String,
    attempts: i32,
}

impl Deliverer {
    /// None where no mail server is configured.
    ///
    /// # Errors
    /// [`MailConfigError`] when the settings cannot be used.
    pub(crate) fn new(config: &MailConfig) -> Result<Option<Self>, MailConfigError> {
        let from: Mailbox = config.from.parse().map_err(MailConfigError::From)?;
        let Some(url) = &config.smtp_url else { return Ok(None) };
        let transport = Transport::from_url(url.expose_secret()).map_err(MailConfigError::Url)?;
        let host = from.email.domain().to_owned();
        Ok(Some(Self { transport: transport.timeout(Some(TIMEOUT)).build(), from, host }))
    }

    /// Delivers until it is stopped.
    pub(crate) async fn run(self, pool: PgPool, clock: Clock, stop: CancellationToken) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            while let Some(looked) = stop.run_until_cancelled(self.look(&pool, clock.now())).await {
                match looked {
                    Ok(taken) if taken == BATCH => {}
                    Ok(_) => break,
                    Err(error) => {
                        tracing::warn!(%error, "the outbox could not be read");
                        break;
                    }
                }
            }
        }
    }

    /// Delivers what is due. The rows stay locked meanwhile, so that no other process takes them; a crash lets them go undelivered.
    async fn look(&self, pool: &PgPool, now: DateTime<Utc>) -> Result<i64, sqlx::Error> {
        let mut transaction = pool.begin().await?;
        let waiting = sqlx::query_as!(
            Waiting,
            r#"SELECT mail_id AS id, recipient, subject, body_text AS text, body_html AS html, attempts
               FROM outbox WHERE next_attempt_at <= $1 ORDER BY next_attempt_at LIMIT $2
               FOR UPDATE SKIP LOCKED"#,
            now,
            BATCH
        )
        .fetch_all(&mut *transaction)
        .await?;
        let taken = i64::try_from(waiting.len()).unwrap_or(i64::MAX);
        let sent = futures_util::future::join_all(waiting.iter().map(|mail| self.send(mail))).await;
        for (mail, sent) in waiting.iter().zip(sent) {
            match sent {
                Ok(()) => {
                    metrics::counter!("mails_total", "outcome" => "sent").increment(1);
                    sqlx::query!(
                        "UPDATE outbox SET sent_at = $2, next_attempt_at = NULL, attempts = attempts + 1,
                             failure = NULL, subject = '', body_text = '', body_html = '' WHERE mail_id = $1",
                        mail.id,
                        now
                    )
                    .execute(&mut *transaction)
                    .await?;
                }
                Err(failure) => {
                    metrics::counter!("mails_total", "outcome" => "failed").increment(1);
                    tracing::warn!(mail = %mail.id, failure, "a mail could not be delivered");
                    sqlx::query!(
                        "UPDATE outbox SET attempts = attempts + 1, failure = $2,
                             next_attempt_at = CASE WHEN $3::timestamptz < expires_at THEN $3 END WHERE mail_id = $1",
                        mail.id,
                        failure,
                        next_attempt(mail.attempts + 1, now)
                    )
                    .execute(&mut *transaction)
                    .await?;
                }
            }
        }
        transaction.commit().await?;
        Ok(taken)
    }

    async fn send(&self, mail: &Waiting) -> Result<(), String> {
        let told = |error: &dyn std::error::Error| -> String {
            error.to_string().chars().take(MAX_FAILURE_CHARS).collect()
        };
        let recipient = mail.recipient.parse().map_err(|error| told(&error))?;
        let message = Message::builder()
            .message_id(Some(format!("<{}@{}>", mail.id, self.host)))
            .from(self.from.clone())
            .to(Mailbox::new(None, recipient))
            .subject(&mail.subject)
            .multipart(MultiPart::alternative_plain_html(mail.text.clone(), mail.html.clone()))
            .map_err(|error| told(&error))?;
        self.transport.send(message).await.map(drop).map_err(|error| told(&error))
    }
}

/// None after the last attempt; the wait doubles from two seconds on.
fn next_attempt(attempts: i32, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let doublings = u32::try_from(attempts).unwrap_or(0).min(16);
    (attempts < MAX_ATTEMPTS).then(|| now + TimeDelta::seconds(1 << doublings))
}
