//! The command line as a client of a server, and beside it on its database.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    http::{greeting, waiting},
    program::{Account, MASTER_KEY, Program, command, free_port, post, register, said},
    services::{self, TestDatabase},
};

/// Another master key than everybody's.
const NEXT_KEY: &str = "Hx4dHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=";

/// A served program with one user, and a home for what the command line keeps.
struct House {
    database: TestDatabase,
    folder: TempDir,
    program: Program,
    ada: Account,
    /// Where it listens, also when it is started again: tokens are for one address.
    listen: String,
}

impl House {
    async fn new() -> Self {
        let (database, folder) = (services::database().await, tempfile::tempdir().unwrap());
        let listen = format!("127.0.0.1:{}", free_port());
        let program = serve(&database, folder.path(), &listen, MASTER_KEY);
        let ada = register(&program.base, "ada").await;
        Self { database, folder, program, ada, listen }
    }

    fn base(&self) -> &str {
        &self.program.base
    }

    /// A command that has never signed in.
    fn apart(&self, args: &[&str]) -> Command {
        let mut command = command(args);
        command.env("XDG_CONFIG_HOME", self.folder.path().join("home"));
        command
    }

    /// A command of a script, which has a token.
    fn scripted(&self, args: &[&str]) -> Command {
        let mut command = self.apart(args);
        command.env("LEDGERLINE_URL", self.base()).env("LEDGERLINE_TOKEN", &self.ada.token);
        command
    }

    /// A command on the database.
    fn beside(&self, args: &[&str]) -> Command {
        let mut command = self.apart(args);
        command.env("DATABASE_URL", self.database.url()).env("LEDGERLINE_MASTER_KEY", MASTER_KEY);
        command
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

fn serve(database: &TestDatabase, folder: &Path, listen: &str, key: &str) -> Program {
    let data = folder.join("data");
    fs::create_dir_all(&data).unwrap();
    let settings = folder.join("ledgerline.toml");
    fs::write(&settings, "[worker]\nallowed_commands = [{ program = \"df\" }]\n").unwrap();
    let mut command = command(&["serve", "--listen", listen]);
    command
        .args([Path::new("--config"), &settings, Path::new("--data-dir"), &data])
        .env("DATABASE_URL", database.url())
        .env("LEDGERLINE_MASTER_KEY", key);
    Program::start(command)
}

fn ended(mut command: Command) -> Output {
    command.output().expect("the program can be started")
}

#[track_caller]
fn done(command: Command) -> String {
    let output = ended(command);
    assert!(output.status.success(), "{:?}: {}", output.status, said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs it with a line on standard input.
fn told(mut command: Command, line: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program can be started");
    writeln!(child.stdin.take().unwrap(), "{line}").unwrap();
    child.wait_with_output().unwrap()
}

/// Starts it, to be listened to.
fn listened_to(mut command: Command) -> Child {
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program can be started")
}

#[tokio::test]
async fn a_sign_in_is_kept_and_used_by_later_commands() {
    let house = House::new().await;
    let file = house.file("greets.json", &greeting("Greets").to_string());
    let unknown = ended(house.apart(&["run", &file]));
    assert_eq!(unknown.status.code(), Some(1));
    assert!(said(&unknown).contains("not signed in: use `ledgerline login`"), "{}", said(&unknown));

    let base = house.base();
    let login = &["login", "--url", base, "--email", "ada@example.com", "--password-stdin"];
    let wrong = told(house.apart(login), "a guess that is wrong");
    assert_eq!(wrong.status.code(), Some(1));
    let kept = house.folder.path().join("home/ledgerline/login.json");
    assert!(!kept.exists(), "{}", said(&wrong));
    let no_terminal = ended(house.apart(&["login", "--url", base, "--email", "ada@example.com"]));
    assert!(said(&no_terminal).contains("--password-stdin"), "{}", said(&no_terminal));

    let signed_in = told(house.apart(login), "correct horse battery");
    assert!(signed_in.status.success(), "{}", said(&signed_in));
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&kept).unwrap();
    assert!(!text.contains("correct horse"), "a password is kept: {text}");
    let ran = done(house.apart(&["run", &file, "--json", "--input", r#"{"name":"Ada"}"#]));
    let outcome: Value = serde_json::from_str(&ran).unwrap();
    assert_eq!(outcome["output"], "Hello, Ada", "{outcome}");

    // An access token that has run out is renewed, and what comes of that is kept.
    let mut spent: Value = serde_json::from_str(&text).unwrap();
    spent["access_token"] = "spent".into();
    fs::write(&kept, spent.to_string()).unwrap();
    done(house.apart(&["run", &file, "--json", "--input", r#"{"name":"Ada"}"#]));
    let renewed: Value = serde_json::from_slice(&fs::read(&kept).unwrap()).unwrap();
    assert_ne!(renewed["access_token"], "spent");
    assert_ne!(renewed["refresh_token"], spent["refresh_token"]);
    let elsewhere = ended(house.apart(&["run", &file, "--url", "http://127.0.0.1:1"]));
    assert!(said(&elsewhere).contains("not to http://127.0.0.1:1"), "{}", said(&elsewhere));
}

#[tokio::test]
async fn a_run_is_shown_live_and_its_outcome_is_the_exit_code() {
    let house = House::new().await;
    let disks = json!({
        "name": "Disks",
        "nodes": [
            { "id": "disks", "type": "action.command", "config": { "program": "df", "args": ["-P", "-k"], "allow_exit_codes": [0, 1] } },
            { "id": "count", "type": "logic.transform", "config": { "expression": "size(nodes.disks.output.stdout) > 0" } },
        ],
        "connections": [{ "from": "disks", "to": "count" }],
    });
    let file = house.file("disks.json", &disks.to_string());
    let output = ended(house.scripted(&["run", &file]));
    let words = said(&output);
    assert_eq!(output.status.code(), Some(0), "{words}");
    let at = |part: &str| words.find(part).unwrap_or_else(|| panic!("no {part}: {words}"));
    assert!(at("execution ") < at("… disks"), "{words}");
    assert!(at("… disks") < at("✓ disks") && at("✓ disks") < at("✓ count"), "{words}");
    assert!(words.contains("  disks │ Filesystem"), "its log lines are shown: {words}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "true");

    let fails = json!({ "name": "Fails", "nodes": [
        { "id": "read", "type": "action.file", "config": { "operation": "read", "path": "not-there" } },
    ]});
    let file = house.file("fails.json", &fails.to_string());
    let failed = ended(house.scripted(&["run", &file]));
    assert_eq!(failed.status.code(), Some(1));
    assert!(said(&failed).contains("✗ read"), "{}", said(&failed));

    // Somebody cancels it: no failure, and no success.
    let file = house.file("waits.json", &waiting("Waits").to_string());
    let mut child = listened_to(house.scripted(&["run", &file]));
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let id = lines.find_map(|line| line.strip_prefix("execution ").map(str::to_owned)).unwrap();
    let path = format!("/executions/{id}/cancel");
    post(house.base(), &path, Some(&house.ada.token), &json!({})).await;
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert!(lines.any(|line| line.starts_with("cancelled")));
}

#[tokio::test]
async fn a_workflow_goes_to_a_file_and_comes_back_as_json_and_as_yaml() {
    let house = House::new().await;
    let yaml = "\
name: From YAML
nodes:
  - id: greet
    type: logic.transform
    config:
      expression: \"'Hello, ' + input.name\"
";
    let file = house.file("greets.yaml", yaml);
    let ran = done(house.scripted(&["run", &file, "--json", "--input", r#"{"name":"Bob"}"#]));
    assert!(ran.contains("Hello, Bob"), "{ran}");

    let plan = done(house.scripted(&["import", &file, "--dry-run"]));
    let plan: Value = serde_json::from_str(&plan).unwrap();
    assert_eq!(plan["events"][0]["type"], "workflow_created");
    let id = done(house.scripted(&["import", &file])).trim().to_owned();
    let written: PathBuf = house.folder.path().join("again.yml");
    done(house.scripted(&["export", &id, "--output", written.to_str().unwrap()]));
    let text = fs::read_to_string(&written).unwrap();
    assert!(text.contains("name: From YAML") && !text.trim_start().starts_with('{'), "{text}");
    let json = done(house.scripted(&["export", &id, "--format", "json", "--version", "1"]));
    let exported: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(exported["nodes"][0]["config"]["expression"], "'Hello, ' + input.name");

    // What was written is what a server takes: the copy of the copy says the same.
    let again = done(house.scripted(&["import", written.to_str().unwrap()])).trim().to_owned();
    assert_ne!(again, id);
    let copy = done(house.scripted(&["export", &again, "--format", "json"]));
    let copy: Value = serde_json::from_str(&copy).unwrap();
    assert_eq!((&copy["nodes"], &copy["name"]), (&exported["nodes"], &exported["name"]));

    let file = house.file("broken.yaml", "name: [");
    let broken = ended(house.scripted(&["import", &file]));
    assert_eq!(broken.status.code(), Some(1));
    assert!(said(&broken).contains("is not YAML"), "{}", said(&broken));
    let nobody = ended(house.scripted(&["export", &uuid::Uuid::now_v7().to_string()]));
    assert!(said(&nobody).contains("there is no such workflow"), "{}", said(&nobody));
}

/// The next events that a follower prints.
fn next_events(lines: &mut impl Iterator<Item = String>, count: usize) -> Vec<Value> {
    lines.take(count).map(|line| serde_json::from_str(&line).unwrap()).collect()
}

#[tokio::test]
async fn the_log_is_printed_and_followed_as_far_as_is_asked() {
    let house = House::new().await;
    let token = Some(house.ada.token.as_str());
    post(house.base(), "/workflows", token, &greeting("First")).await;
    let types = |text: &str| -> Vec<String> {
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.map(|event| event["type"].as_str().unwrap().to_owned()).collect()
    };
    let all = types(&done(house.beside(&["events"])));
    assert_eq!(all[0], "ledgerline.workspace.workspace_created.v1", "{all:?}");
    let after = types(&done(house.beside(&["events", "--after", "1"])));
    assert_eq!(after, all[1..]);
    let made = ["ledgerline.workflow.workflow_created.v1"];
    let of_type = house.beside(&["events", "--type", "workflow_created,workflow_deleted"]);
    assert_eq!(types(&done(of_type)), made);
    let of_category = types(&done(house.beside(&["events", "--category", "workflow"])));
    assert!(of_category.iter().all(|kind| kind.starts_with("ledgerline.workflow.")));
    let unknown = ended(house.beside(&["events", "--category", "nothing"]));
    assert_eq!(unknown.status.code(), Some(2));
    for category in ["deployment", "execution", "trigger", "vault", "workflow", "workspace"] {
        assert!(said(&unknown).contains(category), "{category} is not named: {}", said(&unknown));
    }

    let follow = ["events", "--follow", "--after", "1", "--type", "workflow_created"];
    let mut child = listened_to(house.beside(&follow));
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert_eq!(next_events(&mut lines, 1)[0]["data"]["draft"]["name"], "First");
    for name in ["Second", "Third"] {
        post(house.base(), "/workflows", token, &greeting(name)).await;
    }
    let heard = next_events(&mut lines, 2);
    let names: Vec<&Value> = heard.iter().map(|event| &event["data"]["draft"]["name"]).collect();
    assert_eq!(names, ["Second", "Third"]);
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success(), "a signal ends it, and is no failure");
    assert_eq!(lines.next(), None);
}

#[tokio::test]
async fn keys_are_wrapped_anew_and_mails_are_read() {
    let house = House::new().await;
    let asked = json!({ "email": "ada@example.com", "purpose": "reset" });
    post(house.base(), "/auth/request-otp", None, &asked).await;
    let mails = done(house.beside(&["outbox", "--json"]));
    let mails: Vec<Value> = mails.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(mails.iter().any(|mail| mail["recipient"] == "ada@example.com"), "{mails:?}");
    let shown = done(house.beside(&["outbox"]));
    assert!(shown.contains("to ada@example.com (waiting here)"), "{shown}");
    let operator = done(house.beside(&["operator", "add", "ada@example.com", "--json"]));
    let operator: Value = serde_json::from_str(&operator).unwrap();
    assert_eq!(operator, json!({ "email": "ada@example.com", "operator": true }));
    let nothing = ended(house.scripted(&["quarantine", "list"]));
    assert!(said(&nothing).contains("nothing waits"), "{}", said(&nothing));

    let secret = json!({ "value": "only for the next key to open" });
    let put = reqwest::Client::new()
        .put(format!("{}/api/v1/secrets/kept", house.base()))
        .bearer_auth(&house.ada.token)
        .json(&secret);
    assert!(put.send().await.unwrap().status().is_success());
    let House { database, folder, program, ada, listen } = house;
    assert!(program.stop().success());
    let old = folder.path().join("old-key");
    fs::write(&old, MASTER_KEY).unwrap();
    let with_next = |args: &[&str]| {
        let mut command = command(args);
        command.env("DATABASE_URL", database.url()).env("LEDGERLINE_MASTER_KEY", NEXT_KEY);
        command
    };
    let mut rewrap = with_next(&["keys", "rewrap"]);
    rewrap.env("LEDGERLINE_PREVIOUS_MASTER_KEY_FILE", &old);
    let rewrapped = rewrap.output().unwrap();
    assert!(rewrapped.status.success(), "{}", said(&rewrapped));
    assert!(said(&rewrapped).contains("the keys of 1 workspaces"), "{}", said(&rewrapped));

    // The old key is needed no more: not for tokens, and not for what is sealed.
    let program = serve(&database, folder.path(), &listen, NEXT_KEY);
    post(&program.base, "/secrets/rotate-key", Some(&ada.token), &json!({})).await;
    assert!(program.stop().success());
    let mut refused = command(&["serve", "--listen", "127.0.0.1:0"]);
    refused.env("DATABASE_URL", database.url()).env("LEDGERLINE_MASTER_KEY", MASTER_KEY);
    let refused = refused.output().unwrap();
    assert!(!refused.status.success(), "the old key still opens something");
}
