//! Writes `docs/events.md` from the events and their golden files.

mod document;

use std::{fs, io, path::PathBuf};

fn main() -> io::Result<()> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    fs::write(root.join("docs/events.md"), document::document(&root))
}
