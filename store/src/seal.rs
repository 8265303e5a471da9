//! Sealing of secrets at rest: AES-256-GCM under keys that are derived from the deployment's master key, one for each purpose, and under
//! data keys that the master key wraps.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, RandomizedNonceKey, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret, SecretBox, SecretString};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// The file of an embedded deployment's master key, in its data folder.
const KEY_FILE: &str = "master.key";

/// What a sealed value is for. A value sealed for one purpose does not open for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealPurpose {
    /// The private halves of signing keys.
    SigningKey,
    /// The data keys of workspaces, under which secrets and connections are sealed.
    WorkspaceKey,
    /// The keys of people whom data in the log is about.
    SubjectKey,
    /// The secrets of authenticator apps.
    SecondFactor,
}

impl SealPurpose {
    const fn label(self) -> &'static [u8] {
        match self {
            Self::SigningKey => b"ledgerline signing key",
            Self::WorkspaceKey => b"ledgerline workspace key",
            Self::SubjectKey => b"ledgerline subject key",
            Self::SecondFactor => b"ledgerline second factor",
        }
    }
}

/// Under which label the nonce of a value is derived from the value.
const NONCE_OF_VALUE: &[u8] = b"ledgerline nonce of value";

/// Under which label [`MasterKey::fingerprint`] derives its key.
const FINGERPRINT: &[u8] = b"ledgerline fingerprint";

/// Why a value could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
#[error("failed to open a sealed value: the master key is another one, or the value was altered")]
pub struct SealError;

impl From<aws_lc_rs::error::Unspecified> for SealError {
    fn from(_: aws_lc_rs::error::Unspecified) -> Self {
        Self
    }
}

/// The deployment's master key, with those that it replaces while they are still needed to open. Does not print.
#[derive(Clone)]
pub struct MasterKey {
    current: Arc<SecretBox<[u8; 32]>>,
    previous: Vec<Arc<SecretBox<[u8; 32]>>>,
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey([redacted])")
    }
}

impl MasterKey {
    /// Takes 32 random bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self { current: Arc::new(SecretBox::new(Box::new(bytes))), previous: Vec::new() }
    }

    /// Takes the key as it is configured, in base64. None when it is not 32 bytes.
    #[must_use]
    pub fn from_config(key: &SecretString) -> Option<Self> {
        let bytes = STANDARD.decode(key.expose_secret().trim()).ok()?;
        Some(Self::new(bytes.try_into().ok()?))
    }

    /// The same key, which also opens what these have sealed. It seals nothing under them.
    #[must_use]
    pub fn replacing(mut self, previous: impl IntoIterator<Item = Self>) -> Self {
        self.previous.extend(previous.into_iter().map(|key| key.current));
        self
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
        seal(&derived(&self.current, purpose.label())?, name, plain)
    }

    /// Opens what [`MasterKey::seal`] sealed under the same purpose and name, with this key or one that it replaces.
    ///
    /// # Errors
    /// When the master key, the purpose, the name or the value is another one.
    pub fn open(
        &self,
        purpose: SealPurpose,
        name: &str,
        sealed: &[u8],
    ) -> Result<Vec<u8>, SealError> {
        let mut keys = std::iter::once(&self.current).chain(&self.previous);
        let opened = keys.find_map(|key| {
            let key = derived(key, purpose.label()).ok()?;
            open(&key, name, sealed).ok()
        });
        opened.ok_or(SealError)
    }

    /// A hash that only this deployment can make, for telling one value from another without a trace of what it is: a plain hash of
    /// something short can be guessed.
    ///
    /// # Errors
    /// When the cryptographic library refuses, which it has no reason to.
    pub fn fingerprint(&self, hash: [u8; 32]) -> Result<[u8; 32], SealError> {
        let mut out = [0_u8; 32];
        Salt::new(HKDF_SHA256, FINGERPRINT)
            .extract(self.current.expose_secret())
            .expand(&[&hash], HKDF_SHA256)?
            .fill(&mut out)?;
        Ok(out)
    }
}

fn derived(key: &SecretBox<[u8; 32]>, label: &[u8]) -> Result<RandomizedNonceKey, SealError> {
    let mut bytes = [0_u8; 32];
    Salt::new(HKDF_SHA256, b"ledgerline")
        .extract(key.expose_secret())
        .expand(&[label], HKDF_SHA256)?
        .fill(&mut bytes)?;
    Ok(RandomizedNonceKey::new(&AES_256_GCM, &bytes)?)
}

fn seal(key: &RandomizedNonceKey, name: &str, plain: &[u8]) -> Result<Vec<u8>, SealError> {
    let mut sealed = plain.to_vec();
    let nonce = key.seal_in_place_append_tag(Aad::from(name), &mut sealed)?;
    let mut out = nonce.as_ref().to_vec();
    out.extend_from_slice(&sealed);
    Ok(out)
}

fn open(key: &RandomizedNonceKey, name: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
    let (nonce, ciphertext) = sealed.split_at_checked(NONCE_LEN).ok_or(SealError)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce)?;
    let mut buffer = ciphertext.to_vec();
    let plain = key.open_in_place(nonce, Aad::from(name), &mut buffer)?;
    Ok(plain.to_vec())
}

/// A key that seals the values of one workspace, or about one person. It is kept only wrapped by the master key. Does not print.
pub struct DataKey(SecretBox<[u8; 32]>);

impl std::fmt::Debug for DataKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DataKey([redacted])")
    }
}

impl DataKey {
    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        Self(SecretBox::new(Box::new(rand::random())))
    }

    /// The key under the master key; `name` is bound to it.
    ///
    /// # Errors
    /// When the cipher refuses, which it has no reason to.
    pub fn wrapped(
        &self,
        master: &MasterKey,
        purpose: SealPurpose,
        name: &str,
    ) -> Result<Vec<u8>, SealError> {
        master.seal(purpose, name, self.0.expose_secret())
    }

    /// Unwraps what [`DataKey::wrapped`] gave for the same purpose and name.
    ///
    /// # Errors
    /// When the master key, the purpose or the name is another one, or the text was altered.
    pub fn unwrapped(
        master: &MasterKey,
        purpose: SealPurpose,
        name: &str,
        wrapped: &[u8],
    ) -> Result<Self, SealError> {
        let bytes = master.open(purpose, name, wrapped)?;
        Ok(Self(SecretBox::new(Box::new(bytes.try_into().map_err(|_| SealError)?))))
    }

    /// Seals a value; `name` is bound to it.
    ///
    /// # Errors
    /// When the cipher refuses, which it has no reason to.
    pub fn seal(&self, name: &str, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        seal(&RandomizedNonceKey::new(&AES_256_GCM, self.0.expose_secret())?, name, plain)
    }

    /// Seals a value so that the same one under the same name is sealed alike: its nonce and its ciphertext. Whoever sees both knows
    /// that they are the same value of the same person, and nothing else. The nonce follows from the value by a keyed hash, so that two
    /// values never share one.
    ///
    /// # Errors
    /// When the cipher refuses, which it has no reason to.
    pub fn seal_alike(
        &self,
        name: &str,
        plain: &[u8],
    ) -> Result<([u8; NONCE_LEN], Vec<u8>), SealError> {
        let mut hash = Sha256::new();
        hash.update(u64::try_from(name.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(name);
        hash.update(plain);
        let hash: [u8; 32] = hash.finalize().into();
        let mut derived = [0_u8; 32];
        Salt::new(HKDF_SHA256, NONCE_OF_VALUE)
            .extract(self.0.expose_secret())
            .expand(&[&hash], HKDF_SHA256)?
            .fill(&mut derived)?;
        let mut nonce = [0_u8; NONCE_LEN];
        nonce.copy_from_slice(&derived[..NONCE_LEN]);
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, self.0.expose_secret())?);
        let mut sealed = plain.to_vec();
        let once = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(once, Aad::from(name), &mut sealed)?;
        Ok((nonce, sealed))
    }

    /// Opens what [`DataKey::seal`] or [`DataKey::seal_alike`] sealed under the same name.
    ///
    /// # Errors
    /// When the key or the name is another one, or the value was altered.
    pub fn open(&self, name: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        open(&RandomizedNonceKey::new(&AES_256_GCM, self.0.expose_secret())?, name, sealed)
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
            .seal(SealPurpose::WorkspaceKey, "s", b"plain")
            .unwrap();
        let again = MasterKey::kept_in(folder.path()).unwrap();
        assert_eq!(again.open(SealPurpose::WorkspaceKey, "s", &sealed).unwrap(), b"plain");
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
        assert!(key.open(SealPurpose::WorkspaceKey, "k1", &sealed).is_err());
        assert!(MasterKey::new([8; 32]).open(SealPurpose::SigningKey, "k1", &sealed).is_err());
        let mut altered = sealed;
        *altered.last_mut().unwrap() ^= 1;
        assert!(key.open(SealPurpose::SigningKey, "k1", &altered).is_err());
        assert!(key.open(SealPurpose::SigningKey, "k1", &[1, 2]).is_err());
    }

    #[test]
    fn a_new_master_key_opens_what_the_one_before_sealed_and_seals_under_itself() {
        let old = MasterKey::new([7; 32]);
        let new = MasterKey::new([8; 32]).replacing([old.clone()]);
        let sealed = old.seal(SealPurpose::SigningKey, "k", b"x").unwrap();
        assert_eq!(new.open(SealPurpose::SigningKey, "k", &sealed).unwrap(), b"x");
        let again = new.seal(SealPurpose::SigningKey, "k", b"x").unwrap();
        assert!(old.open(SealPurpose::SigningKey, "k", &again).is_err());
        assert!(MasterKey::new([8; 32]).open(SealPurpose::SigningKey, "k", &again).is_ok());
    }

    #[test]
    fn a_data_key_opens_what_it_sealed_under_the_same_name_only() {
        let master = MasterKey::new([7; 32]);
        let key = DataKey::random();
        let purpose = SealPurpose::WorkspaceKey;
        let wrapped = key.wrapped(&master, purpose, "w/1").unwrap();
        assert!(DataKey::unwrapped(&master, purpose, "w/2", &wrapped).is_err());
        assert!(DataKey::unwrapped(&master, SealPurpose::SubjectKey, "w/1", &wrapped).is_err());
        assert!(DataKey::unwrapped(&MasterKey::new([1; 32]), purpose, "w/1", &wrapped).is_err());
        let again = DataKey::unwrapped(&master, purpose, "w/1", &wrapped).unwrap();
        let sealed = key.seal("name", b"value").unwrap();
        assert_eq!(again.open("name", &sealed).unwrap(), b"value");
        assert!(again.open("other", &sealed).is_err());
        assert_eq!(format!("{key:?} {master:?}"), "DataKey([redacted]) MasterKey([redacted])");
    }

    #[test]
    fn the_same_value_is_sealed_alike_and_no_two_values_share_a_nonce() {
        let key = DataKey::random();
        let (nonce, ct) = key.seal_alike("name", b"value").unwrap();
        assert_eq!(key.seal_alike("name", b"value").unwrap(), (nonce, ct.clone()));
        assert_ne!(key.seal_alike("name", b"other").unwrap().0, nonce);
        assert_ne!(key.seal_alike("namev", b"alue").unwrap().0, nonce);
        let sealed = [nonce.as_slice(), &ct].concat();
        assert_eq!(key.open("name", &sealed).unwrap(), b"value");
        assert!(key.open("other", &sealed).is_err());
        assert!(DataKey::random().open("name", &sealed).is_err());
    }

    #[test]
    fn a_fingerprint_is_the_deployments_own() {
        let (one, other) = (MasterKey::new([1; 32]), MasterKey::new([2; 32]));
        assert_eq!(one.fingerprint([9; 32]).unwrap(), one.fingerprint([9; 32]).unwrap());
        assert_ne!(one.fingerprint([9; 32]).unwrap(), one.fingerprint([8; 32]).unwrap());
        assert_ne!(one.fingerprint([9; 32]).unwrap(), other.fingerprint([9; 32]).unwrap());
    }
}
