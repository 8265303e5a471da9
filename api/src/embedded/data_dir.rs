//! The data directory: who may use it, what is where in it, and the secrets it keeps.
//!
//! ```text
//! lock               held by the one process that serves from here
//! password           of the database owner, mode 0600
//! postgres/          everything the Postgres user must reach: cluster/, run/ (socket), postgres.log
//! nats/              nats.conf (mode 0600: it holds the token), nats.pid, jetstream/
//! ```

use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{
    DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink,
};
use std::path::{Path, PathBuf};

use nix::unistd::{User, geteuid};
use secrecy::{ExposeSecret, SecretString};

use super::error::EmbeddedError;

/// Where root's clusters go when the data directory lies in a folder that is closed to other users.
const OPEN_FOLDER: &str = "/var/lib/ledgerline";

/// An opened and locked data directory.
pub(super) struct DataDir {
    /// Absolute, without links.
    pub(super) root: PathBuf,
    /// `<root>/postgres`, absolute and without links: somewhere else when root's Postgres could not reach the root.
    pub(super) postgres: PathBuf,
    /// As whom Postgres runs, when it may not run as us.
    pub(super) postgres_user: Option<ServerUser>,
    // The lock is on the open file: it goes when this process goes, however that happens.
    _lock: File,
}

/// An unprivileged user that root hands Postgres to.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServerUser {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl DataDir {
    /// Makes and locks the directory.
    pub(super) fn open(path: &Path) -> Result<Self, EmbeddedError> {
        let failed = |source| EmbeddedError::DataDir { path: path.to_owned(), source };
        let as_root = geteuid().is_root();
        // Root's Postgres is another user, who must be able to pass through; nobody else has business here.
        let mode = if as_root { 0o711 } else { 0o700 };
        DirBuilder::new().recursive(true).mode(mode).create(path).map_err(failed)?;
        let root = fs::canonicalize(path).map_err(failed)?;
        let lock = lock(&root)?;
        let postgres_user = if as_root { Some(server_user(&root)?) } else { None };
        let postgres = postgres_home(&root, postgres_user).map_err(failed)?;
        Ok(Self { root, postgres, postgres_user, _lock: lock })
    }

    /// The cluster itself.
    pub(super) fn cluster(&self) -> PathBuf {
        self.postgres.join("cluster")
    }

    /// The major version that made the cluster, or `None` when there is none yet.
    pub(super) fn cluster_major(&self) -> Option<u32> {
        fs::read_to_string(self.cluster().join("PG_VERSION")).ok()?.trim().parse().ok()
    }

    /// Gives a file or folder to the user Postgres runs as.
    pub(super) fn give_to_postgres(&self, path: &Path) -> io::Result<()> {
        match self.postgres_user {
            Some(user) => chown(path, Some(user.uid), Some(user.gid)),
            None => Ok(()),
        }
    }

    /// Reads the secret in this file, or `None` when there is no such file.
    pub(super) fn secret(&self, name: &str) -> Result<Option<SecretString>, EmbeddedError> {
        let path = self.root.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim_end().into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(EmbeddedError::DataDir { path, source }),
        }
    }

    /// Makes a random secret and keeps it in this file, complete or not at all.
    pub(super) fn new_secret(&self, name: &str) -> Result<SecretString, EmbeddedError> {
        let secret: SecretString = hex::encode(rand::random::<[u8; 24]>()).into();
        let path = self.root.join(name);
        let unfinished = self.root.join(format!("{name}.new"));
        write_private(&unfinished, secret.expose_secret())
            .and_then(|()| fs::rename(&unfinished, &path))
            .map_err(|source| EmbeddedError::DataDir { path, source })?;
        Ok(secret)
    }
}

/// Writes a file that only its owner can read, and flushes it.
pub(super) fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file =
        File::options().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    // The mode above counts only for a new file.
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Makes a folder that only its owner can enter, or takes the one that is there.
pub(super) fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn lock(root: &Path) -> Result<File, EmbeddedError> {
    let path = root.join("lock");
    let failed = |source| EmbeddedError::DataDir { path: path.clone(), source };
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
            writeln!(file, "{}", std::process::id()).map_err(failed)?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            Err(EmbeddedError::Locked { path: root.to_owned(), holder: holder.trim().to_owned() })
        }
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// The owner of the cluster when there is one, so that a cluster keeps its owner; else `postgres`, else `nobody`.
fn server_user(root: &Path) -> Result<ServerUser, EmbeddedError> {
    if let Ok(cluster) = fs::metadata(root.join("postgres/cluster"))
        && cluster.uid() != 0
    {
        return Ok(ServerUser { uid: cluster.uid(), gid: cluster.gid() });
    }
    for name in ["postgres", "nobody"] {
        if let Ok(Some(user)) = User::from_name(name) {
            return Ok(ServerUser { uid: user.uid.as_raw(), gid: user.gid.as_raw() });
        }
    }
    Err(EmbeddedError::DataDir {
        path: root.to_owned(),
        source: io::Error::other(
            "Postgres refuses to run as root, and there is no user postgres or nobody to hand it to; run as an ordinary user",
        ),
    })
}

/// Finds or makes the folder that holds everything of Postgres.
fn postgres_home(root: &Path, user: Option<ServerUser>) -> io::Result<PathBuf> {
    let home = root.join("postgres");
    if !home.exists() {
        if user.is_some() && !open_to_all(root) {
            // A new name each time: a data directory that was deleted and made again starts afresh.
            let name = format!("data-{}", hex::encode(rand::random::<[u8; 8]>()));
            let elsewhere = Path::new(OPEN_FOLDER).join(name);
            tracing::warn!(
                data_dir = %root.display(), postgres = %elsewhere.display(),
                "the data directory is closed to the user that Postgres must run as; its files go elsewhere"
            );
            DirBuilder::new().recursive(true).mode(0o711).create(&elsewhere)?;
            symlink(&elsewhere, &home)?;
        } else {
            DirBuilder::new().mode(0o700).create(&home)?;
        }
        if let Some(user) = user {
            chown(fs::canonicalize(&home)?, Some(user.uid), Some(user.gid))?;
        }
    }
    fs::canonicalize(&home)
}

/// Whether every user may pass through this folder and all above it.
pub(super) fn open_to_all(path: &Path) -> bool {
    path.ancestors()
        .all(|folder| fs::metadata(folder).is_ok_and(|folder| folder.mode() & 0o001 != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that root's Postgres user could enter, so that nothing is put elsewhere.
    fn open_folder() -> tempfile::TempDir {
        tempfile::Builder::new().permissions(Permissions::from_mode(0o711)).tempdir().unwrap()
    }

    #[test]
    fn a_second_opener_is_refused_and_told_who_holds_it() {
        let dir = open_folder();
        let first = DataDir::open(dir.path()).unwrap();
        let Err(EmbeddedError::Locked { holder, .. }) = DataDir::open(dir.path()) else {
            panic!("two processes share one data directory");
        };
        assert_eq!(holder, std::process::id().to_string());
        drop(first);
        DataDir::open(dir.path()).unwrap();
    }

    #[test]
    fn a_secret_is_kept_and_private() {
        let dir = open_folder();
        let data = DataDir::open(dir.path()).unwrap();
        assert!(data.secret("password").unwrap().is_none());
        let made = data.new_secret("password").unwrap();
        let read = data.secret("password").unwrap().unwrap();
        assert_eq!(made.expose_secret(), read.expose_secret());
        assert_eq!(made.expose_secret().len(), 48);
        assert_eq!(fs::metadata(dir.path().join("password")).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_closed_folder_is_noticed() {
        let dir = open_folder();
        let inner = dir.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
        assert!(!open_to_all(&inner));
        fs::set_permissions(dir.path(), Permissions::from_mode(0o711)).unwrap();
        assert!(open_to_all(&fs::canonicalize(&inner).unwrap()));
    }
}
