//! The layers of ARCHITECTURE.md: what each room may lean on, read from its `Cargo.toml`.

use std::{collections::BTreeSet, fs};

use crate::support::tree::{none, root};

/// The rooms from the bottom up, with the rooms each may use.
const ROOMS: [(&str, &[&str]); 7] = [
    ("domain", &[]),
    ("store", &[]),
    ("commands", &["domain", "store"]),
    ("projections", &["domain", "store"]),
    ("nats", &["store"]),
    ("worker", &["domain", "store", "commands", "nats"]),
    ("api", &["domain", "store", "commands", "projections", "nats", "worker"]),
];

/// Crates that stand for a kind of work, with the rooms that do it.
const WORK: [(&str, &[&str]); 6] = [
    // What decides is pure: no threads, no I/O, and no clock of its own.
    ("tokio", &["store", "commands", "projections", "nats", "worker", "api"]),
    // SQL lives where the tables live.
    ("sqlx", &["store", "projections", "api"]),
    // HTTP ends at the edge.
    ("axum", &["api"]),
    // NATS is a transport: nothing that decides or stores knows it. The edge only names its errors.
    ("async-nats", &["nats", "api"]),
    // The databases of others are asked by one kind of node.
    ("tokio-postgres", &["worker"]),
    // Chance is an input of what decides.
    ("rand", &["store", "nats", "worker", "api"]),
];

/// The names under `[dependencies]` of a room.
fn dependencies(room: &str) -> BTreeSet<String> {
    let path = root().join(room).join("Cargo.toml");
    let text = fs::read_to_string(path).expect("every room has its Cargo.toml");
    let section = text.split("\n[").find_map(|section| section.strip_prefix("dependencies]\n"));
    let name = |line: &str| line.split(['.', '=', ' ']).next().unwrap_or_default().to_owned();
    let lines = section.unwrap_or_default().lines().map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(name).collect()
}

#[test]
fn every_room_leans_only_on_the_rooms_below() {
    let mut found = Vec::new();
    for (room, below) in ROOMS {
        let used = dependencies(room);
        assert!(used.contains("serde"), "the manifest of {room} is read: {used:?}");
        for other in used.iter().filter_map(|name| name.strip_prefix("ledgerline-")) {
            if !below.contains(&other) {
                found.push(format!("{room} uses {other}"));
            }
        }
    }
    none("arrows that point back", &found);
}

#[test]
fn every_kind_of_work_is_done_in_its_rooms() {
    let mut found = Vec::new();
    for (room, _) in ROOMS {
        let used = dependencies(room);
        for (name, rooms) in WORK {
            if used.contains(name) && !rooms.contains(&room) {
                found.push(format!("{room} uses {name}"));
            }
        }
    }
    none("work in the wrong room", &found);
}
