//! What is on disk stays readable: one golden file for every (type, version) that was ever written.
//!
//! A file is the payload as the log holds it, byte for byte, and a line feed. The current version of each type must read and write its
//! file unchanged; an older one must still be read, through the upcasters. So a change of the wire that nobody recorded fails here.

use std::{collections::BTreeSet, fs, path::PathBuf};

use ledgerline_domain::{
    audit::AuditEvent,
    deployment::DeploymentEvent,
    event::{AnyEvent, DomainEvent},
    execution::ExecutionEvent,
    trigger::TriggerEvent,
    vault::VaultEvent,
    workflow::WorkflowEvent,
    workspace::WorkspaceEvent,
};

#[path = "../examples/event_catalogue/document.rs"]
mod document;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn golden(file: &str) -> Result<String, std::io::Error> {
    fs::read_to_string(root().join("tests/golden/events").join(file))
}

/// Checks every current type of one aggregate and gives the names of its files.
fn check<E: DomainEvent>() -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    for (r#type, version) in E::TYPES {
        let file = format!("{}.{type}.v{version}.json", E::CATEGORY);
        let text = golden(&file).unwrap_or_else(|error| panic!("{file} is missing: {error}"));
        let payload =
            text.strip_suffix('\n').unwrap_or_else(|| panic!("{file} ends with a line feed"));
        let event = E::decode(r#type, *version, payload)
            .unwrap_or_else(|error| panic!("{file} can't be read: {error:?}"));
        assert_eq!(event.payload(), payload, "{file} is written otherwise than it was read");
        assert_eq!((event.type_name(), event.schema_version()), (*r#type, *version), "{file}");
        let any = AnyEvent::decode(E::CATEGORY, r#type, *version, payload);
        assert!(any.is_ok(), "{file} is not an event of any aggregate: {any:?}");
        files.insert(file);
    }
    files
}

#[test]
fn every_event_reads_and_writes_its_golden_file() {
    let mut current = check::<WorkspaceEvent>();
    current.extend(check::<WorkflowEvent>());
    current.extend(check::<ExecutionEvent>());
    current.extend(check::<VaultEvent>());
    current.extend(check::<DeploymentEvent>());
    current.extend(check::<TriggerEvent>());
    current.extend(check::<AuditEvent>());
    for entry in fs::read_dir(root().join("tests/golden/events")).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        if current.contains(&file) {
            continue;
        }
        let parts: Vec<&str> = file.split('.').collect();
        let [category, r#type, version, "json"] = parts.as_slice() else {
            panic!("{file} is not named <category>.<type>.v<version>.json")
        };
        let version: i16 = version.strip_prefix('v').unwrap().parse().unwrap();
        let text = golden(&file).unwrap();
        let read = AnyEvent::decode(category, r#type, version, text.trim_end());
        assert!(read.is_ok(), "{file} belongs to no event that can be read: {read:?}");
    }
}

#[test]
fn the_catalogue_of_events_is_up_to_date() {
    let written = fs::read_to_string(root().join("docs/events.md")).unwrap_or_default();
    assert!(
        written == document::document(&root()),
        "docs/events.md is stale: run `cargo run -p ledgerline-domain --example event_catalogue`"
    );
}
