//! What the README shows works as it is pasted: its commands are taken out of it and run, in order and in one shell, against the real
//! program with the demo. A line that ends in `# → <text>` prints that text.

use std::{
    fs::{self, Permissions},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::support::program::{Program, binary, command};

/// The headings whose commands go against a running server.
const SECTIONS: [&str; 5] = [
    "## A first workflow in five minutes",
    "## Wait for a person",
    "## Steps in your own language",
    "## On a schedule",
    "## From a webhook",
];

/// Printed before each block, so that it is known what said what.
const MARK: &str = "=== block";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_owned()
}

/// The shell commands below a heading, block by block.
fn blocks(readme: &str, heading: &str) -> Vec<String> {
    let begin = readme.find(&format!("{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let section = &readme[begin + heading.len()..];
    let section = section.split("\n## ").next().expect("a text has a first part");
    let blocks = section.split("```sh\n").skip(1);
    blocks.map(|block| block.split("```").next().expect("it ends").to_owned()).collect()
}

/// The same for this server: its address, its program, and a folder of the test's own in place of `/tmp`. A stream that a person
/// ends with Ctrl-C is ended after a moment.
fn adapted(block: &str, base: &str, folder: &Path) -> String {
    let folder = format!("{}/", folder.display());
    let program = binary().display().to_string();
    block
        .replace("http://127.0.0.1:8080", base)
        .replace("/tmp/", &folder)
        .replace("target/release/ledgerline", &program)
        .replace("curl -sN ", "timeout 2 curl -sN ")
}

/// What the lines of a block say that they print.
fn promised(block: &str) -> Vec<&str> {
    block.lines().filter_map(|line| line.split("# → ").nth(1)).map(str::trim).collect()
}

/// Pastes everything into one shell, and gives what it printed and what it complained of.
fn paste(script: &str, folder: &Path) -> (String, String) {
    let (out, err) = (folder.join("out"), folder.join("err"));
    let file = |path: &Path| Stdio::from(fs::File::create(path).expect("the folder is ours"));
    // Files rather than pipes, so that what the shell leaves behind cannot hold the test up.
    let mut shell = Command::new("timeout")
        .args(["240", "bash", "-m"])
        .current_dir(root())
        // A program that the README starts beside the server keeps its data in the test's folder too.
        .env("LEDGERLINE_DATA_DIR", folder.join("own"))
        .stdin(Stdio::piped())
        .stdout(file(&out))
        .stderr(file(&err))
        .spawn()
        .expect("bash is there");
    let mut stdin = shell.stdin.take().expect("it was asked for");
    stdin.write_all(script.as_bytes()).expect("the shell reads");
    drop(stdin);
    let status = shell.wait().expect("the shell ends");
    let text = |path: &Path| fs::read_to_string(path).expect("it was written");
    assert!(status.success(), "{status}\n{}\n{}", text(&out), text(&err));
    (text(&out), text(&err))
}

#[test]
fn what_the_readme_shows_works_as_pasted() {
    let folder = tempfile::Builder::new().permissions(Permissions::from_mode(0o711)).tempdir();
    let folder = folder.expect("a folder");
    let data = folder.path().join("data");
    let data = data.to_str().expect("a path that is text");
    let args =
        ["serve", "--embedded", "--seed-demo", "--data-dir", data, "--listen", "127.0.0.1:0"];
    let program = Program::start(command(&args));

    let readme = fs::read_to_string(root().join("README.md")).expect("there is a README");
    let blocks: Vec<String> =
        SECTIONS.iter().flat_map(|heading| blocks(&readme, heading)).collect();
    assert!(blocks.len() >= SECTIONS.len(), "a section without commands");
    let mut script = String::new();
    for (number, block) in blocks.iter().enumerate() {
        let block = adapted(block, &program.base, folder.path());
        script.push_str(&format!("\nset +x; echo '{MARK} {number}'\n{block}"));
    }
    script.push_str("\nexit 0\n");
    let (printed, complained) = paste(&script, folder.path());

    let parts: Vec<&str> = printed.split(MARK).skip(1).collect();
    assert_eq!(parts.len(), blocks.len(), "{printed}\n{complained}");
    let mut kept = 0;
    for (block, part) in blocks.iter().zip(&parts) {
        for promise in promised(block) {
            assert!(part.contains(promise), "not '{promise}':\n{block}\n{part}\n{complained}");
            kept += 1;
        }
        assert!(!part.contains("/docs/problems/"), "a request failed:\n{block}\n{part}");
    }
    assert!(kept >= 4, "a schedule, a webhook, an approval and a worker say what they print");
    for complaint in ["Traceback", "command not found", "syntax error", "No such file"] {
        assert!(!complained.contains(complaint), "{complained}");
    }
    assert!(program.stop().success());
}
