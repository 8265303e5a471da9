//! Sealing of secrets at rest: AES-256-GCM under keys that are derived from the deployment's master key, one for each purpose.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    hkdf::{HKDF_SHA256, Salt},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret, SecretBox, SecretString};
use uuid::Uuid;

/// The file of an embedded deployment's master key, in its data folder.
const KEY_FILE: &str = "master.key";

/// What a sealed value is for. A value sealed for one purpose does not open for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealPurpose {
    /// The private halves of signing keys.
    SigningKey,
    /// The values of secrets that workflows use.
    Secret,
}

impl SealPurpose {
    const fn label(self) -> &'static [u8] {
        match self {
            Self::SigningKey => b"ledgerline signing key",
            Self::Secret => b"ledgerline secret",
        }
    }
}

/// Why a value could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
#[error("failed to open a sealed value: the master key is another one, or the value was altered")]
pub struct SealError;

impl From<aws_lc_rs::error::Unspecified> for SealError {
    fn from(_: aws_lc_rs::error::Unspecified) -> Self {
        Self
    }
}

/// The deployment's master key. Does not print.
#[derive(Clone)]
pub struct MasterKey(Arc<SecretBox<[u8; 32]>>);

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey([redacted])")
    }
}

impl MasterKey {
    /// Takes 32 random bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Arc::new(SecretBox::new(Box::new(bytes))))
    }

    /// Takes the key as it is configured, in base64. None when it is not 32 bytes.
    #[must_use]
    pub fn from_config(key: &SecretString) -> Option<Self> {
        crate::config::decode_key(key).map(Self::new)
    }

    /// The key that an embedded deployment keeps in its data folder, made when there is none. Only its owner can read the file.
    ///
    /// # Errors
    /// When the file cannot be read or written, or does not hold a key.
    pub fn kept_in(folder: &Path) -> io::Result<Self> {
        let path = folder.join(KEY_FILE);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => make_key_file(&path)?,
            read => read?,
        };
        Self::from_config(&SecretString::from(text)).ok_or_else(|| {
            let text = format!("{} does not hold 32 bytes in base64", path.display());
            io::Error::new(io::ErrorKind::InvalidData, text)
        })
    }

    /// Seals a value: nonce, ciphertext and tag in one. `name` is bound to it, so that two rows cannot be swapped.
    ///
    /// # Errors
    /// When the cipher refuses, which it has no reason to.
    pub fn seal(
        &self,
        purpose: SealPurpose,
        name: &str,
        plain: &[u8],
    ) -> Result<Vec<u8>, SealError> {
        let mut sealed = plain.to_vec();
        let nonce = self.key(purpose)?.seal_in_place_append_tag(Aad::from(name), &mut sealed)?;
        let mut out = nonce.as_ref().to_vec();
        out.extend_from_slice(&sealed);
        Ok(out)
    }

    /// Opens what [`MasterKey::seal`] sealed under the same purpose and name.
    ///
    /// # Errors
    /// When the master key, the purpose, the name or the value is another one.
    pub fn open(
        &self,
        purpose: SealPurpose,
        name: &str,
        sealed: &[u8],
    ) -> Result<Vec<u8>, SealError> {
        let (nonce, ciphertext) = sealed.split_at_checked(NONCE_LEN).ok_or(SealError)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce)?;
        let mut buffer = ciphertext.to_vec();
        let plain = self.key(purpose)?.open_in_place(nonce, Aad::from(name), &mut buffer)?;
        Ok(plain.to_vec())
    }

    fn key(&self, purpose: SealPurpose) -> Result<RandomizedNonceKey, SealError> {
        let mut bytes = [0_u8; 32];
        Salt::new(HKDF_SHA256, b"ledgerline")
            .extract(self.0.expose_secret())
            .expand(&[purpose.label()], HKDF_SHA256)?
            .fill(&mut bytes)?;
        Ok(RandomizedNonceKey::new(&AES_256_GCM, &bytes)?)
    }
}

/// Writes a new key beside its place and moves it there, so that a crash never leaves half a key. Of two processes that do so at
/// once the first one wins, and both read what it wrote.
fn make_key_file(path: &Path) -> io::Result<String> {
    let key = STANDARD.encode(rand::random::<[u8; 32]>());
    let draft = path.with_extension(format!("{}.new", Uuid::now_v7().simple()));
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(key.as_bytes())?;
    file.sync_all()?;
    let linked = fs::hard_link(&draft, path);
    fs::remove_file(&draft)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => fs::read_to_string(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_embedded_deployment_keeps_its_key() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let sealed = MasterKey::kept_in(folder.path())
            .unwrap()
            .seal(SealPurpose::Secret, "s", b"plain")
            .unwrap();
        let again = MasterKey::kept_in(folder.path()).unwrap();
        assert_eq!(again.open(SealPurpose::Secret, "s", &sealed).unwrap(), b"plain");
        let file = folder.path().join(KEY_FILE);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&file, "no key").unwrap();
        assert!(MasterKey::kept_in(folder.path()).is_err());
    }

    #[test]
    fn opens_only_under_the_same_key_purpose_and_name() {
        let key = MasterKey::new([7; 32]);
        let sealed = key.seal(SealPurpose::SigningKey, "k1", b"private").unwrap();
        assert_eq!(key.open(SealPurpose::SigningKey, "k1", &sealed).unwrap(), b"private");
        assert!(key.open(SealPurpose::SigningKey, "k2", &sealed).is_err());
        assert!(key.open(SealPurpose::Secret, "k1", &sealed).is_err());
        assert!(MasterKey::new([8; 32]).open(SealPurpose::SigningKey, "k1", &sealed).is_err());
        let mut altered = sealed;
        *altered.last_mut().unwrap() ^= 1;
        assert!(key.open(SealPurpose::SigningKey, "k1", &altered).is_err());
        assert!(key.open(SealPurpose::SigningKey, "k1", &[1, 2]).is_err());
    }
}
