//! Sealing of secrets at rest: AES-256-GCM under keys that are derived from the deployment's master key, one for each purpose.

use std::sync::Arc;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    hkdf::{HKDF_SHA256, Salt},
};
use secrecy::{ExposeSecret, SecretBox, SecretString};

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

#[cfg(test)]
mod tests {
    use super::*;

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
