//! `ledgerline login`.

use std::{
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::Args;

use super::{
    client::{Client, DEFAULT_URL, Step, login_file},
    output,
};
use crate::{environment::Environment, roles::secret_file};

/// What `login` takes.
#[derive(Args, Debug)]
pub(super) struct LoginArgs {
    /// The server.
    #[arg(long, env = "LEDGERLINE_URL", default_value = DEFAULT_URL)]
    url: String,
    /// The address you registered with; asked for when it is left out.
    #[arg(long)]
    email: Option<String>,
    /// Read the password from standard input, one line; a code of the second factor, where it is asked for, from the next.
    #[arg(long)]
    password_stdin: bool,
}

/// Signs in and keeps the tokens.
pub(super) async fn login(args: LoginArgs, environment: &Environment) -> anyhow::Result<ExitCode> {
    let path = login_file(environment)?;
    let interactive = io::stdin().is_terminal();
    if !interactive && !args.password_stdin {
        bail!(
            "this is no terminal: give the password on standard input with --password-stdin, or use LEDGERLINE_TOKEN"
        );
    }
    let email = match args.email {
        Some(email) => email,
        None if interactive => ask("Email: ")?,
        None => bail!("--email is needed"),
    };
    let password = if args.password_stdin { line()? } else { ask_unseen("Password: ")? };
    let client = Client::new(&args.url)?;
    let body = serde_json::json!({ "email": email, "password": password });
    let mut step = client.sign_in("/auth/login", &email, &body).await?;
    if let Step::NeedsCode(challenge) = step {
        let code = if args.password_stdin { line()? } else { ask("Code: ")? };
        let body = serde_json::json!({ "challenge": challenge, "code": code });
        step = client.sign_in("/auth/login/continue", &email, &body).await?;
    }
    let Step::SignedIn(signed_in) = step else { bail!("the server asks for a code once more") };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
    }
    secret_file::write(&path, &serde_json::to_string_pretty(&signed_in)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    output::note(&format!(
        "signed in to {} as {}; kept in {}",
        signed_in.url,
        signed_in.email,
        path.display()
    ));
    Ok(ExitCode::SUCCESS)
}

fn ask(question: &str) -> anyhow::Result<String> {
    let mut out = io::stderr().lock();
    out.write_all(question.as_bytes())?;
    out.flush()?;
    line()
}

fn line() -> anyhow::Result<String> {
    let mut text = String::new();
    io::stdin().lock().read_line(&mut text)?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Asks without showing what is typed, where the terminal can do so.
fn ask_unseen(question: &str) -> anyhow::Result<String> {
    let echo = |on: &str| {
        std::process::Command::new("stty").arg(on).stdin(std::process::Stdio::inherit()).status()
    };
    let hidden = echo("-echo").is_ok_and(|status| status.success());
    let answer = ask(question);
    if hidden {
        // The line end that was typed did not show.
        output::note("");
        echo("echo")?;
    }
    answer
}
