//! The shape of the repository: what no compiler looks at and a reviewer should not have to.

mod layers;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use ledgerline_api::problem::ProblemKind;
use ledgerline_domain::event::AnyEvent;

use crate::support::tree::{extension, files, is_ignored, none, root};

/// What a person writes and reads in one piece.
const SOURCES: &[&str] = &["rs", "sql", "sh", "py", "ts", "tsx", "js", "css", "html"];
/// Where a file must be split.
const MAX_LINES: usize = 800;
/// Names that say nothing about what is inside.
const BANNED: &[&str] = &["utils", "util", "helpers", "helper", "common", "shared", "misc", "core"];
/// What a repository may carry in one file; more belongs into a release. The document of the API is the largest.
const MAX_BYTES: u64 = 1024 * 1024;

#[test]
fn what_is_ignored_is_read_as_git_reads_it() {
    assert!(is_ignored("/target", "target"));
    assert!(!is_ignored("/target", "api/target"));
    assert!(is_ignored("/data-*", "data-2"));
    assert!(!is_ignored("/data-*", "api/data-2"));
    assert!(is_ignored("node_modules", "dashboard/node_modules"));
    assert!(!is_ignored("node_modules", "node_modules_of_ours"));
}

#[test]
fn no_file_is_too_long_to_read() {
    let mut long = Vec::new();
    for (name, path) in files() {
        let is_script = name.starts_with("scripts/");
        if !is_script && !SOURCES.contains(&extension(&name)) {
            continue;
        }
        let lines = fs::read_to_string(&path).expect("sources are UTF-8").lines().count();
        if lines > MAX_LINES {
            long.push(format!("{name} has {lines} lines"));
        }
    }
    none("files to split", &long);
}

#[test]
fn every_name_says_what_is_inside() {
    let says_nothing = |part: &str| {
        let stem = part.split('.').next().unwrap_or(part);
        BANNED.contains(&stem) || part == "mod.rs"
    };
    let found = files().into_keys().filter(|name| name.split('/').any(says_nothing));
    none("put these where their noun lives", &found.collect::<Vec<_>>());
}

#[test]
fn no_blob_is_carried_along() {
    let mut large = Vec::new();
    for (name, path) in files() {
        let bytes = path.metadata().expect("a readable file").len();
        if bytes > MAX_BYTES {
            large.push(format!("{name} has {bytes} bytes"));
        }
    }
    none("too large for the repository", &large);
}

#[test]
fn nothing_names_the_machine_it_was_made_on() {
    // In two pieces each, because this file is looked at as well.
    let homes = [
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("/Use", "rs/"),
        concat!("/wo", "rk/"),
    ];
    let mut found = Vec::new();
    for (name, path) in files() {
        // What is not text has nothing to say here.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            let starts_a_path = |home: &&str| {
                line.match_indices(*home).any(|(at, _)| {
                    line[..at]
                        .chars()
                        .next_back()
                        .is_none_or(|before| !before.is_alphanumeric() && !"/.-_}".contains(before))
                })
            };
            if homes.iter().any(starts_a_path) {
                found.push(format!("{name}:{}: {line}", number + 1));
            }
        }
    }
    none("paths of one machine", &found);
}

#[test]
fn every_dependency_comes_from_the_public_registry() {
    let mut found = Vec::new();
    for (name, path) in files() {
        let (key, public) = match name.rsplit('/').next() {
            Some("Cargo.lock") => {
                ("source = ", "registry+https://github.com/rust-lang/crates.io-index")
            }
            Some("package-lock.json") => ("\"resolved\": ", "https://registry.npmjs.org/"),
            _ => continue,
        };
        let text = fs::read_to_string(path).expect("lock files are UTF-8");
        let foreign = text.lines().map(str::trim).filter(|line| {
            line.strip_prefix(key)
                .is_some_and(|source| !source.trim_start_matches('"').starts_with(public))
        });
        found.extend(foreign.map(|line| format!("{name}: {line}")));
    }
    none("dependencies from elsewhere", &found);
}

#[test]
fn every_source_file_is_compiled() {
    let files = files();
    let mut forgotten = Vec::new();
    for name in files.keys().filter(|name| extension(name) == "rs") {
        let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
        let stem = file.trim_end_matches(".rs");
        let is_root = matches!(stem, "lib" | "main" | "build")
            || folder.ends_with("/src/bin")
            || folder.ends_with("/examples")
            || folder == "domain/tests";
        if !is_root && !is_declared(&files, folder, stem) {
            forgotten.push(name.clone());
        }
    }
    none("no module declares these", &forgotten);
}

/// Whether a file above the folder has `mod stem;`. In `tests/it/main.rs`, folders are modules written out there.
fn is_declared(files: &BTreeMap<String, PathBuf>, folder: &str, stem: &str) -> bool {
    let declaration = format!("mod {stem};");
    let mut above = Some(folder);
    while let Some(folder) = above {
        let parents =
            [format!("{folder}.rs"), format!("{folder}/lib.rs"), format!("{folder}/main.rs")];
        let declares = |parent: &String| {
            files.get(parent).is_some_and(|path| {
                let text = fs::read_to_string(path).expect("sources are UTF-8");
                text.lines().map(str::trim).any(|line| {
                    line == declaration
                        || line
                            .strip_suffix(&declaration)
                            .is_some_and(|before| before.ends_with(' '))
                })
            })
        };
        if parents.iter().any(declares) {
            return true;
        }
        above = folder.rsplit_once('/').map(|(parent, _)| parent);
    }
    false
}

/// The numbers that the files of a folder begin with, in order, after looking at their names.
fn numbered(folder: &str, extension: &str) -> Vec<(usize, String)> {
    let prefix = format!("{folder}/");
    let names =
        files().into_keys().filter_map(|name| name.strip_prefix(&prefix).map(str::to_owned));
    let number = |name: String| {
        let title = name
            .strip_suffix(extension)
            .unwrap_or_else(|| panic!("{folder}/{name}: not {extension}"));
        let is_word =
            |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || "-_".contains(char);
        assert!(title.chars().all(is_word), "{folder}/{name}: lower case, digits, - and _");
        let number = title.get(..4).and_then(|number| number.parse().ok());
        (
            number
                .unwrap_or_else(|| panic!("{folder}/{name}: begins with no number of four digits")),
            name,
        )
    };
    names.map(number).collect()
}

#[test]
fn decisions_are_numbered_without_a_gap() {
    let decisions = numbered("docs/adr", ".md");
    let numbers: Vec<usize> = decisions.iter().map(|(number, _)| *number).collect();
    assert!(!numbers.is_empty(), "there is no decision");
    assert_eq!(numbers, (1..=numbers.len()).collect::<Vec<_>>());
}

#[test]
fn no_two_migrations_have_one_number() {
    let migrations = numbered("migrations", ".sql");
    let numbers: BTreeSet<usize> = migrations.iter().map(|(number, _)| *number).collect();
    assert!(!numbers.is_empty(), "there is no migration");
    assert_eq!(numbers.len(), migrations.len(), "{migrations:?}");
}

#[test]
fn every_decision_has_its_parts() {
    let mut found = Vec::new();
    for (number, name) in numbered("docs/adr", ".md") {
        let text = fs::read_to_string(root().join("docs/adr").join(&name)).expect("UTF-8");
        if !text.starts_with(&format!("# {number:04} ")) {
            found.push(format!("{name}: the title begins with another number"));
        }
        for part in ["Status: ", "## Context", "## Decision", "## Consequences"] {
            if !text.lines().any(|line| line.starts_with(part)) {
                found.push(format!("{name}: no {part}"));
            }
        }
    }
    none("decisions that lack something", &found);
}

#[test]
fn every_problem_has_its_page_and_every_page_its_problem() {
    let prefix = "docs/problems/";
    let pages: BTreeSet<String> = files()
        .into_keys()
        .filter_map(|name| {
            name.strip_prefix(prefix).map(|page| page.trim_end_matches(".md").to_owned())
        })
        .collect();
    let kinds: BTreeSet<String> =
        ProblemKind::ALL.iter().map(|kind| kind.slug().to_owned()).collect();
    assert_eq!(pages, kinds);
    for kind in ProblemKind::ALL {
        let status = format!("Status {}.", kind.status().as_u16());
        let page = kind.page();
        assert!(page.starts_with("# "), "{}: no title", kind.slug());
        assert!(
            page.lines().any(|line| line.starts_with(&status)),
            "{}: no `{status}`",
            kind.slug()
        );
    }
}

#[test]
fn every_event_has_its_golden_file_and_every_golden_file_its_event() {
    let known: BTreeMap<String, i16> = AnyEvent::TYPES
        .iter()
        .flat_map(|(category, types)| {
            types.iter().map(move |(name, version)| (format!("{category}.{name}"), *version))
        })
        .collect();
    let needed: BTreeSet<String> = known
        .iter()
        .flat_map(|(event, version)| {
            (1..=*version).map(move |version| format!("{event}.v{version}.json"))
        })
        .collect();
    let prefix = "tests/golden/events/";
    let recorded: BTreeSet<String> = files()
        .into_keys()
        .filter_map(|name| name.strip_prefix(prefix).map(str::to_owned))
        .collect();
    assert_eq!(recorded, needed, "every version that was ever written stays");
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let files = files();
    let mut broken = Vec::new();
    for (name, path) in files.iter().filter(|(name, _)| extension(name) == "md") {
        let text = fs::read_to_string(path).expect("documents are UTF-8");
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in
            targets.filter(|target| !target.contains("://") && !target.starts_with(['#', '/']))
        {
            let target = target.split('#').next().unwrap_or(target);
            if !path.parent().expect("in a folder").join(target).exists() {
                broken.push(format!("{name}: {target}"));
            }
        }
    }
    none("links that lead nowhere", &broken);
}

/// What `docs/security.md` promises is proved by the tests and scripts that it names.
#[test]
fn every_security_promise_names_a_test_that_is_there() {
    let sources: String = files()
        .into_iter()
        .filter(|(name, _)| extension(name) == "rs")
        .map(|(_, path)| fs::read_to_string(path).expect("sources are UTF-8"))
        .collect();
    let document = fs::read_to_string(root().join("docs/security.md")).expect("it is there");
    let promises = document.lines().filter_map(|line| {
        let (promise, tests) = line.strip_suffix(" |")?.strip_prefix("| ")?.rsplit_once(" | ")?;
        let is_of_a_promise = promise.matches(" | ").count() == 0 && tests.starts_with('`');
        is_of_a_promise.then_some((promise, tests))
    });
    let (mut missing, mut count) = (Vec::new(), 0);
    for (promise, tests) in promises {
        count += 1;
        for test in tests.split(", ").map(|test| test.trim_matches('`')) {
            let there = match test.contains('/') {
                true => root().join(test).exists(),
                false => sources.contains(&format!("fn {test}(")),
            };
            if !there {
                missing.push(format!("{test}, for: {promise}"));
            }
        }
    }
    assert!(count > 30, "{count} promises");
    none("tests that docs/security.md names and nobody has", &missing);
}
