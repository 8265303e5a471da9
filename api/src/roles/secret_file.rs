//! Secrets that a process makes for itself and keeps beside its data, readable by its owner alone.

use std::{
    fs::{self, File, Permissions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use secrecy::{ExposeSecret as _, SecretString};

/// The secret in a file; `make` makes it where there is no such file yet. Complete or not at all.
///
/// # Errors
/// When the file cannot be read or written.
pub fn read_or_make(path: &Path, make: impl FnOnce() -> SecretString) -> io::Result<SecretString> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.trim_end().into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let secret = make();
            write(path, secret.expose_secret())?;
            Ok(secret)
        }
        Err(error) => Err(error),
    }
}

/// Writes a file that only its owner can read, in one step: a reader sees the old one or the new one.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    let unfinished = path.with_extension(format!("new-{}", std::process::id()));
    let mut file =
        File::options().create(true).truncate(true).write(true).mode(0o600).open(&unfinished)?;
    // The mode above counts only for a new file.
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&unfinished, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_made_once_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let made = read_or_make(&path, || "first".into()).unwrap();
        let read = read_or_make(&path, || "second".into()).unwrap();
        assert_eq!((made.expose_secret(), read.expose_secret()), ("first", "first"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
