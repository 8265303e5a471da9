//! A workspace's own files: a folder that nothing in a path leads out of.
//!
//! Paths are relative, with `/` between plain names. A write is whole or not there: it goes to a temporary file that is then
//! renamed, so a reader or a crash never meets half of one.

use std::{
    collections::BTreeMap,
    io::ErrorKind as IoErrorKind,
    path::{Path, PathBuf},
};

use tokio::{
    fs,
    io::AsyncWriteExt as _,
    sync::{Mutex, MutexGuard},
};
use uuid::Uuid;

/// The largest file: what one node may carry as a value of a run.
pub const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;
/// The longest path, in bytes, and the longest name in it: what file systems take.
const MAX_PATH_BYTES: usize = 1_024;
const MAX_NAME_BYTES: usize = 200;
/// How many entries a listing names.
pub const MAX_ENTRIES: usize = 1_000;
/// How many entries of folders are looked at for one listing, however many there are.
const MAX_VISITED: usize = 10_000;
/// Begins the name of a write that is under way; no path may name one.
const PARTIAL: &str = ".partial-";

/// Why a file operation did not happen.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The path leads out, is empty, too long, or holds what no file name should.
    #[error("the path '{path}' is not a plain relative path: {reason}")]
    Path {
        /// As it was given.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There is no such file.
    #[error("there is no file '{0}'")]
    NotFound(String),
    /// It is a folder, or a name on the way is a file.
    #[error("'{0}' is not a file")]
    NotAFile(String),
    /// Over [`MAX_FILE_BYTES`].
    #[error("'{path}' would be larger than {MAX_FILE_BYTES} bytes")]
    TooLarge {
        /// The path.
        path: String,
    },
    /// The disk under the files is full.
    #[error("the disk for files is full")]
    DiskFull,
    /// Anything else that the file system says; may pass.
    #[error("the file system failed")]
    System(#[source] std::io::Error),
}

/// A file in a listing.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct FileEntry {
    /// Relative to the workspace's folder.
    pub path: String,
    /// Its size.
    pub size_bytes: u64,
}

/// How many files of a space may be appended to at once. Files whose names meet in the hash wait for each other.
const TURNS: usize = 32;

/// Whose turn it is to append to which file; shared by all spaces of a process. Processes that share a folder take turns by a lock on
/// a file in it, and only one task of each waits for that.
#[derive(Debug, Default)]
pub struct AppendTurns([Mutex<()>; TURNS]);

/// A turn; the lock goes with its file.
struct Turn<'a> {
    _here: MutexGuard<'a, ()>,
    _everywhere: std::fs::File,
}

impl AppendTurns {
    async fn of(&self, root: &Path, path: &str) -> std::io::Result<Turn<'_>> {
        let number = turn_of(path);
        let here = self.0[number].lock().await;
        let file = root.join(format!("{PARTIAL}turn-{number}"));
        let locked = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(file.parent().unwrap_or(&file))?;
            let file =
                std::fs::File::options().create(true).truncate(false).write(true).open(file)?;
            file.lock()?;
            Ok::<_, std::io::Error>(file)
        });
        let everywhere = locked.await.map_err(std::io::Error::other)??;
        Ok(Turn { _here: here, _everywhere: everywhere })
    }
}

/// The same in every build, because processes of different builds take turns with each other (FNV-1a).
fn turn_of(path: &str) -> usize {
    let hash = path
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash as usize % TURNS
}

/// The files of one workspace.
#[derive(Clone, Debug)]
pub struct FileSpace {
    root: PathBuf,
}

impl FileSpace {
    /// The space of a workspace below the folder of all.
    #[must_use]
    pub fn new(all: &Path, workspace: Uuid) -> Self {
        Self { root: all.join(workspace.to_string()) }
    }

    /// The content of a file.
    ///
    /// # Errors
    /// [`FileError`].
    pub async fn read(&self, path: &str) -> Result<Vec<u8>, FileError> {
        let place = self.place(path).await?;
        let found = fs::symlink_metadata(&place).await.map_err(|error| said(error, path))?;
        if !found.is_file() {
            return Err(FileError::NotAFile(path.to_owned()));
        }
        if found.len() > MAX_FILE_BYTES {
            return Err(FileError::TooLarge { path: path.to_owned() });
        }
        fs::read(&place).await.map_err(|error| said(error, path))
    }

    /// Writes a whole file, replacing one that is there. Returns its size.
    ///
    /// # Errors
    /// [`FileError`]; the old content is then still there.
    pub async fn write(&self, path: &str, content: &[u8]) -> Result<u64, FileError> {
        let size = u64::try_from(content.len()).unwrap_or(u64::MAX);
        if size > MAX_FILE_BYTES {
            return Err(FileError::TooLarge { path: path.to_owned() });
        }
        let place = self.place(path).await?;
        let folder = place.parent().unwrap_or(&self.root);
        fs::create_dir_all(folder).await.map_err(|error| said(error, path))?;
        if fs::symlink_metadata(&place).await.is_ok_and(|found| !found.is_file()) {
            return Err(FileError::NotAFile(path.to_owned()));
        }
        let partial = folder.join(format!("{PARTIAL}{}", Uuid::now_v7()));
        let written = async {
            let mut file = fs::File::create_new(&partial).await?;
            file.write_all(content).await?;
            file.sync_data().await?;
            fs::rename(&partial, &place).await
        }
        .await;
        if let Err(error) = written {
            let _ = fs::remove_file(&partial).await;
            return Err(said(error, path));
        }
        Ok(size)
    }

    /// Writes after the end of a file, or makes it. Returns its new size. Appends take turns, because each reads what the one before
    /// wrote: branches, runs and processes lose nothing of each other.
    ///
    /// # Errors
    /// [`FileError`]; the old content is then still there.
    pub async fn append(
        &self,
        path: &str,
        content: &[u8],
        turns: &AppendTurns,
    ) -> Result<u64, FileError> {
        self.place(path).await?;
        let _turn = turns.of(&self.root, path).await.map_err(|error| said(error, path))?;
        let mut whole = match self.read(path).await {
            Ok(content) => content,
            Err(FileError::NotFound(_)) => Vec::new(),
            Err(error) => return Err(error),
        };
        whole.extend_from_slice(content);
        self.write(path, &whole).await
    }

    /// The files below a folder, by path; the empty path is the whole space. At most [`MAX_ENTRIES`], and whether there are more.
    /// Where there are very many, they are the first of those that were looked at.
    ///
    /// # Errors
    /// [`FileError`].
    pub async fn list(&self, path: &str) -> Result<(Vec<FileEntry>, bool), FileError> {
        let top = if path.is_empty() { self.root.clone() } else { self.place(path).await? };
        let (mut found, mut folders) = (BTreeMap::new(), vec![top]);
        let (mut visited, mut more) = (0, false);
        'all: while let Some(folder) = folders.pop() {
            let mut entries = match fs::read_dir(&folder).await {
                Ok(entries) => entries,
                Err(error) if error.kind() == IoErrorKind::NotFound => continue,
                Err(error) => return Err(said(error, path)),
            };
            while let Some(entry) = entries.next_entry().await.map_err(|error| said(error, path))? {
                visited += 1;
                if visited > MAX_VISITED {
                    more = true;
                    break 'all;
                }
                let about = match fs::symlink_metadata(entry.path()).await {
                    Ok(about) => about,
                    Err(error) if error.kind() == IoErrorKind::NotFound => continue,
                    Err(error) => return Err(said(error, path)),
                };
                if about.is_dir() {
                    folders.push(entry.path());
                } else if about.is_file()
                    && !entry.file_name().to_string_lossy().starts_with(PARTIAL)
                {
                    let relative = entry
                        .path()
                        .strip_prefix(&self.root)
                        .map(|path| path.to_string_lossy().into_owned());
                    found.insert(relative.unwrap_or_default(), about.len());
                    if found.len() > MAX_ENTRIES {
                        found.pop_last();
                        more = true;
                    }
                }
            }
        }
        let entry = |(path, size_bytes)| FileEntry { path, size_bytes };
        Ok((found.into_iter().map(entry).collect(), more))
    }

    /// Removes a file. Whether it was there.
    ///
    /// # Errors
    /// [`FileError`].
    pub async fn delete(&self, path: &str) -> Result<bool, FileError> {
        let place = self.place(path).await?;
        match fs::remove_file(&place).await {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == IoErrorKind::NotFound => Ok(false),
            Err(error) => Err(said(error, path)),
        }
    }

    /// Where a path leads. Refuses what would lead out, also through a link that somebody else put there.
    async fn place(&self, path: &str) -> Result<PathBuf, FileError> {
        let wrong = |reason| FileError::Path { path: path.to_owned(), reason };
        if path.is_empty() || path.len() > MAX_PATH_BYTES {
            return Err(wrong("it is empty or too long"));
        }
        let mut place = self.root.clone();
        for name in path.split('/') {
            match name {
                "" => return Err(wrong("it begins or ends with a slash, or has two in a row")),
                "." | ".." => return Err(wrong("it holds a dot segment")),
                name if name.len() > MAX_NAME_BYTES => {
                    return Err(wrong("a name in it is too long"));
                }
                name if name.starts_with(PARTIAL) => return Err(wrong("a name in it is reserved")),
                name if name.contains('\\') || name.chars().any(char::is_control) => {
                    return Err(wrong("it holds a backslash or a control character"));
                }
                name => place.push(name),
            }
            if fs::symlink_metadata(&place).await.is_ok_and(|found| found.is_symlink()) {
                return Err(wrong("a name in it is a link"));
            }
        }
        Ok(place)
    }
}

fn said(error: std::io::Error, path: &str) -> FileError {
    match error.kind() {
        IoErrorKind::NotFound => FileError::NotFound(path.to_owned()),
        IoErrorKind::NotADirectory | IoErrorKind::IsADirectory | IoErrorKind::AlreadyExists => {
            FileError::NotAFile(path.to_owned())
        }
        IoErrorKind::StorageFull | IoErrorKind::QuotaExceeded => FileError::DiskFull,
        _ => FileError::System(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(name: &str) -> FileSpace {
        let all =
            std::env::temp_dir().join(format!("ledgerline-files-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&all);
        FileSpace::new(&all, Uuid::nil())
    }

    #[tokio::test]
    async fn files_are_written_appended_read_listed_and_deleted() {
        let (space, turns) = (space("round"), AppendTurns::default());
        assert_eq!(space.write("reports/a.md", b"one\n").await.unwrap(), 4);
        assert_eq!(space.append("reports/a.md", b"two\n", &turns).await.unwrap(), 8);
        assert_eq!(space.append("b.txt", b"b", &turns).await.unwrap(), 1);
        assert_eq!(space.read("reports/a.md").await.unwrap(), b"one\ntwo\n");
        let (found, more) = space.list("").await.unwrap();
        assert_eq!(
            found.iter().map(|entry| entry.path.as_str()).collect::<Vec<_>>(),
            ["b.txt", "reports/a.md"]
        );
        assert!(!more);
        assert!(space.delete("b.txt").await.unwrap() && !space.delete("b.txt").await.unwrap());
        assert!(matches!(space.read("b.txt").await, Err(FileError::NotFound(_))));
        assert!(matches!(space.read("reports").await, Err(FileError::NotAFile(_))));
        assert!(matches!(space.write("reports/a.md/x", b"").await, Err(FileError::NotAFile(_))));
    }

    #[tokio::test]
    async fn a_listing_is_cut_after_the_first_by_path() {
        let space = space("many");
        space.write("a/0", b"").await.unwrap();
        for n in 0..MAX_ENTRIES {
            std::fs::write(space.root.join("a").join(format!("1-{n:04}")), b"x").unwrap();
        }
        let (found, more) = space.list("").await.unwrap();
        assert!(more && found.len() == MAX_ENTRIES, "{} {more}", found.len());
        assert_eq!(found[0], FileEntry { path: "a/0".to_owned(), size_bytes: 0 });
        assert_eq!(found[MAX_ENTRIES - 1].path, "a/1-0998");
        assert!(found.is_sorted_by_key(|entry| &entry.path));
        std::fs::remove_dir_all(&space.root).unwrap();
    }

    #[tokio::test]
    async fn appends_beside_each_other_lose_nothing() {
        let (space, turns) = (space("beside"), AppendTurns::default());
        let appends = (0..20).map(|_| space.append("a", b"x", &turns));
        for appended in futures_util::future::join_all(appends).await {
            appended.unwrap();
        }
        assert_eq!(space.read("a").await.unwrap().len(), 20);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn appends_of_two_processes_lose_nothing() {
        let space = space("processes");
        // Turns of its own are what a process has; the lock on the file is all that they share.
        let processes = [AppendTurns::default(), AppendTurns::default()];
        let appends = (0..40).map(|n| space.append("a", b"x", &processes[n % 2]));
        for appended in futures_util::future::join_all(appends).await {
            appended.unwrap();
        }
        assert_eq!(space.read("a").await.unwrap().len(), 40);
        let (found, _) = space.list("").await.unwrap();
        assert_eq!(found.len(), 1, "the locks are no files of the space: {found:?}");
    }

    #[tokio::test]
    async fn no_path_leads_out() {
        let space = space("out");
        space.write("a", b"").await.unwrap();
        std::os::unix::fs::symlink("/etc", space.root.join("link")).unwrap();
        for path in [
            "../x",
            "/etc/passwd",
            "a/../../x",
            ".",
            "",
            "a//b",
            "a\\..\\b",
            "link/passwd",
            "x\0y",
            ".partial-1",
            "a/",
        ] {
            assert!(matches!(space.read(path).await, Err(FileError::Path { .. })), "{path:?}");
            assert!(
                matches!(space.write(path, b"x").await, Err(FileError::Path { .. })),
                "{path:?}"
            );
            assert!(matches!(space.delete(path).await, Err(FileError::Path { .. })), "{path:?}");
        }
    }
}
