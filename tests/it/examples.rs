//! Examples on inputs of which the answer is known: a quiet and a busy repository, and an address where nobody answers.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    program::{MASTER_KEY, Program, command, free_port, register, said},
    services,
};

fn example(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    root.join(format!("examples/{name}.json"))
}

/// Runs git without anybody's settings.
fn git(folder: &Path, args: &[&str], author: &str, day: usize) {
    let date = format!("2026-03-{day:02}T12:00:00Z");
    let done = Command::new("git")
        .current_dir(folder)
        .args(["-c", "init.defaultBranch=main", "-c", "commit.gpgsign=false"])
        .args(args)
        .envs([
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_CONFIG_SYSTEM", "/dev/null"),
            ("GIT_AUTHOR_NAME", author),
            ("GIT_AUTHOR_EMAIL", "author@example.com"),
            ("GIT_AUTHOR_DATE", date.as_str()),
            ("GIT_COMMITTER_NAME", author),
            ("GIT_COMMITTER_EMAIL", "author@example.com"),
            ("GIT_COMMITTER_DATE", date.as_str()),
        ])
        .output()
        .expect("git is installed");
    assert!(done.status.success(), "git {args:?}: {}", said(&done));
}

/// A repository in which Ada writes two of three commits and Bob the third, a commit a day.
fn repository(commits: usize) -> TempDir {
    // Programs of the server may run as somebody else, who must be able to read it.
    let folder = tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir();
    let folder = folder.unwrap();
    git(folder.path(), &["init", "-q"], "Ada", 1);
    for n in 1..=commits {
        let author = if n % 3 == 0 { "Bob" } else { "Ada" };
        let subject = format!("Change number {n}");
        git(folder.path(), &["commit", "-q", "--allow-empty", "-m", &subject], author, n);
    }
    folder
}

/// The digest of a repository, made by a server of its own that is started in it.
fn digest(repository: &Path) -> String {
    let file = example("repository-digest");
    let mut run = command(&["run", "--embedded", "--json", file.to_str().unwrap()]);
    let ran = run.current_dir(repository).output().unwrap();
    assert!(ran.status.success(), "{}", said(&ran));
    let outcome: Value = serde_json::from_slice(&ran.stdout).unwrap();
    let digest = outcome["output"].as_str();
    digest.unwrap_or_else(|| panic!("no digest: {outcome}")).to_owned()
}

#[test]
fn the_digest_of_a_quiet_repository_lists_its_commits() {
    let text = digest(repository(3).path());
    assert!(text.contains("3 commits by 2 people"), "{text}");
    for n in 1..=3 {
        assert!(text.contains(&format!("- 2026-03-0{n} Change number {n}")), "{text}");
    }
    assert!(!text.contains('|'), "{text}");
}

#[test]
fn the_digest_of_a_busy_repository_counts_by_author() {
    let text = digest(repository(30).path());
    assert!(text.contains("30 commits by 2 people"), "{text}");
    assert!(text.contains("| Ada | 20 |") && text.contains("| Bob | 10 |"), "{text}");
    assert!(!text.contains("Change number"), "{text}");
}

#[tokio::test]
async fn a_health_watch_tries_again_and_notes_the_incident() {
    let (database, folder) = (services::database().await, tempfile::tempdir().unwrap());
    let settings = folder.path().join("ledgerline.toml");
    fs::write(&settings, "[worker]\nallowed_networks = [\"127.0.0.0/8\"]\n").unwrap();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    let mut serve = command(&["serve", "--listen", "127.0.0.1:0"]);
    serve
        .args([Path::new("--config"), &settings, Path::new("--data-dir"), &data])
        .env("DATABASE_URL", database.url())
        .env("LEDGERLINE_MASTER_KEY", MASTER_KEY);
    let program = Program::start(serve);
    let ada = register(&program.base, "ada").await;
    let address = format!("http://127.0.0.1:{}/health", free_port());
    let input = json!({ "url": address }).to_string();
    let file = example("health-watch");
    let mut run = command(&["run", "--json", file.to_str().unwrap(), "--input", &input]);
    run.env("LEDGERLINE_URL", &program.base).env("LEDGERLINE_TOKEN", &ada.token);
    let ran = tokio::task::spawn_blocking(move || run.output().unwrap()).await.unwrap();
    assert!(ran.status.success(), "{}", said(&ran));
    let outcome: Value = serde_json::from_slice(&ran.stdout).unwrap();
    let verdict = &outcome["output"];
    assert_eq!(
        (&verdict["well"], &verdict["noted_in"]),
        (&json!(false), &json!("health/incidents.log"))
    );

    let execution = outcome["execution_id"].as_str().unwrap();
    let events = reqwest::Client::new()
        .get(format!("{}/api/v1/executions/{execution}/events", program.base))
        .bearer_auth(&ada.token);
    let events: Value = events.send().await.unwrap().json().await.unwrap();
    let failed = |event: &&Value| event["type"] == "ledgerline.execution.node_failed.v1";
    let failed: Vec<&Value> = events["items"].as_array().unwrap().iter().filter(failed).collect();
    let attempts: Vec<&Value> = failed.iter().map(|event| &event["data"]["attempt"]).collect();
    assert_eq!(attempts, [1, 2, 3], "{failed:?}");

    let kept = fs::read_dir(data.join("files")).unwrap().next().unwrap().unwrap().path();
    let incidents = fs::read_to_string(kept.join("health/incidents.log")).unwrap();
    assert!(incidents.starts_with(execution) && incidents.lines().count() == 1, "{incidents}");
    assert!(program.stop().success());
}
