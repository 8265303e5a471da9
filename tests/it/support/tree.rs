//! The files of the repository, for tests that look at them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Where it is.
pub(crate) fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.canonicalize().expect("the tests are in the repository")
}

/// Every file of the repository by its path from the root, without what `.gitignore` leaves out. Links are not followed.
pub(crate) fn files() -> BTreeMap<String, PathBuf> {
    let root = root();
    let ignored = fs::read_to_string(root.join(".gitignore")).expect("a .gitignore");
    let ignored: Vec<&str> = ignored.lines().filter(|line| !line.is_empty()).collect();
    let (mut files, mut folders) = (BTreeMap::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder") {
            let entry = entry.expect("a readable entry");
            let path = entry.path();
            let name = relative(&root, &path);
            let kind = entry.file_type().expect("a known kind");
            if name == ".git" || ignored.iter().any(|pattern| is_ignored(pattern, &name)) {
                continue;
            }
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                files.insert(name, path);
            }
        }
    }
    assert!(files.contains_key("Cargo.toml"), "the root is {}", root.display());
    files
}

fn relative(root: &Path, path: &Path) -> String {
    let path = path.strip_prefix(root).expect("a path in the repository");
    path.to_str().expect("file names are UTF-8").to_owned()
}

/// The patterns that we use: a path from the root, perhaps with `*` at its end, or the name of a folder anywhere.
pub(crate) fn is_ignored(pattern: &str, path: &str) -> bool {
    match pattern.strip_prefix('/') {
        Some(from_root) => match from_root.strip_suffix('*') {
            Some(start) => path.starts_with(start),
            None => path == from_root.trim_end_matches('/'),
        },
        None => path.rsplit('/').next() == Some(pattern.trim_end_matches('/')),
    }
}

/// How a name ends, without the dot.
pub(crate) fn extension(name: &str) -> &str {
    Path::new(name).extension().map_or("", |extension| extension.to_str().expect("UTF-8"))
}

/// Fails with all that is wrong, so that one run shows everything.
#[track_caller]
pub(crate) fn none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}
