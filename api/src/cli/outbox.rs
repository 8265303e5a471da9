//! `ledgerline outbox`: the mails that a deployment wrote. Without a mail server this is where codes and links are read.

use std::process::ExitCode;

use clap::Args;

use super::{output, session::Opened};
use crate::{config::ConfigArgs, environment::Environment};

/// What `outbox` takes.
#[derive(Args, Debug)]
pub(super) struct OutboxArgs {
    /// Print JSON objects, one a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Prints the newest mails, the newest last, as a terminal shows them.
pub(super) async fn outbox(
    args: OutboxArgs,
    environment: &Environment,
) -> anyhow::Result<ExitCode> {
    let opened = Opened::open(args.config, environment).await?;
    let mails = match opened.identity().await {
        Ok(identity) => identity.outbox().await.map_err(anyhow::Error::from),
        Err(error) => Err(error.into()),
    };
    opened.close().await;
    let mails = mails?;
    if mails.is_empty() && !args.json {
        output::note("no mail was written in the last seven days");
    }
    for mail in mails.iter().rev() {
        if args.json {
            output::print(&serde_json::to_string(mail)?)?;
            continue;
        }
        let state = match (mail.sent_at, &mail.failure) {
            (Some(at), _) => format!("sent {at}"),
            (None, Some(failure)) => format!("not sent after {} tries: {failure}", mail.attempts),
            (None, None) => "waiting here".to_owned(),
        };
        output::print(&format!(
            "{} to {} ({state})\n{}\n\n{}\n",
            mail.created_at, mail.recipient, mail.subject, mail.text
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
