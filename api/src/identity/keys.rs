//! The keys that sign access tokens: Ed25519, shared by all processes through `signing_keys`, their private halves sealed.
//!
//! A token names its key (`kid`) and nothing else about how it is to be verified: the algorithm is EdDSA, whatever the token says.
//! A key signs for `auth.signing_key_days`; then the first process that notices makes the next one. A process that meets a
//! key it has not seen reads the table again, so rotation needs no coordination.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use ledgerline_domain::id::{SessionId, UserId};
use ledgerline_store::seal::{MasterKey, SealError, SealPurpose};
use moka::sync::Cache;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use sqlx::PgPool;
use utoipa::ToSchema;
use uuid::Uuid;

/// Who access tokens are for.
pub const AUDIENCE: &str = "ledgerline-api";

/// How far the clocks of processes may differ.
const LEEWAY: TimeDelta = TimeDelta::seconds(30);

/// How often an unknown `kid` may make the table be read again, so that forged tokens cannot load the database.
const REREAD_AFTER: TimeDelta = TimeDelta::seconds(1);

/// How many verified tokens are known at once, each some hundred bytes.
const MAX_VERIFIED: u64 = 10_000;

/// What an access token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The person.
    pub sub: UserId,
    /// The session: checked on every request, so that a token dies with it.
    pub sid: SessionId,
    /// The person's address when the token was made, for display.
    pub email: String,
    /// Always `access`: no other kind of token is accepted in its place.
    pub r#type: String,
    /// Who it is for.
    pub aud: String,
    /// Who made it: the deployment's public URL.
    pub iss: String,
    /// Until when it is good, in seconds since 1970.
    pub exp: i64,
    /// When it was made, in seconds since 1970.
    pub iat: i64,
    /// Its own id.
    pub jti: Uuid,
}

/// The public halves, for others who want to verify our tokens (RFC 7517).
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct KeySet {
    /// All keys whose tokens may still be good.
    pub keys: Vec<PublicKey>,
}

/// One public key (RFC 8037).
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PublicKey {
    /// Always `OKP`.
    pub kty: &'static str,
    /// Always `Ed25519`.
    pub crv: &'static str,
    /// The key, in base64url.
    pub x: String,
    /// Its name, as in the header of a token.
    pub kid: String,
    /// Always `EdDSA`.
    pub alg: &'static str,
    /// Always `sig`.
    pub r#use: &'static str,
}

/// Why a key could not be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The table cannot be read or written.
    #[error("failed to read the signing keys")]
    Database(#[from] sqlx::Error),
    /// The master key is not the one under which the keys were sealed.
    #[error("failed to open a signing key")]
    Sealed(#[from] SealError),
    /// The cryptographic library refuses.
    #[error("failed to make or use a signing key")]
    Crypto,
}

/// Why a token is not accepted. For the log; a caller only hears that it is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefused {
    /// Not a token, another algorithm, another audience or issuer, or a signature that does not fit.
    #[error("the access token is not valid")]
    Invalid,
    /// Made with a key that is not (or no longer) known.
    #[error("the access token was signed with an unknown key")]
    UnknownKey,
    /// Past its time.
    #[error("the access token has expired")]
    Expired,
}

/// The keys of this process.
#[derive(Debug)]
pub struct KeyRing {
    pool: PgPool,
    master: MasterKey,
    issuer: String,
    lifetime: TimeDelta,
    token_ttl: TimeDelta,
    keys: RwLock<Arc<Keys>>,
}

struct Keys {
    read_at: DateTime<Utc>,
    signing: Option<SigningKey>,
    verifying: HashMap<String, DecodingKey>,
    public: Vec<PublicKey>,
    /// Tokens whose signature these keys have verified, by their digest: a signature takes longer to verify than a small request.
    verified: Cache<[u8; 32], Claims>,
}

impl Keys {
    fn none(read_at: DateTime<Utc>) -> Self {
        let verified = Cache::builder().max_capacity(MAX_VERIFIED).name("verified tokens").build();
        Self { read_at, signing: None, verifying: HashMap::new(), public: Vec::new(), verified }
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("signing", &self.signing).finish_non_exhaustive()
    }
}

struct SigningKey {
    kid: String,
    created_at: DateTime<Utc>,
    key: EncodingKey,
}

/// What a token with a good signature says, when its time has come and is not over.
fn good_at(claims: Claims, now: DateTime<Utc>) -> Result<Claims, TokenRefused> {
    if claims.iat > (now + LEEWAY).timestamp() {
        return Err(TokenRefused::Invalid);
    }
    if claims.exp <= now.timestamp() {
        return Err(TokenRefused::Expired);
    }
    Ok(claims)
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl KeyRing {
    /// Reads the keys, and makes the first one of the deployment.
    ///
    /// # Errors
    /// When the table cannot be reached or was sealed under another master key.
    pub async fn open(
        pool: PgPool,
        master: MasterKey,
        issuer: String,
        lifetime: TimeDelta,
        token_ttl: TimeDelta,
        now: DateTime<Utc>,
    ) -> Result<Self, KeyError> {
        let keys = RwLock::new(Arc::new(Keys::none(now)));
        let ring = Self { pool, master, issuer, lifetime, token_ttl, keys };
        ring.upkeep(now).await?;
        Ok(ring)
    }

    /// Reads the table again, makes the next key when the present one has signed long enough, and forgets those whose last
    /// token has expired.
    ///
    /// # Errors
    /// As [`KeyRing::open`].
    pub async fn upkeep(&self, now: DateTime<Utc>) -> Result<(), KeyError> {
        self.reread(now).await?;
        let due =
            self.current().signing.as_ref().is_none_or(|key| now - key.created_at >= self.lifetime);
        if due {
            self.make_next(now).await?;
            self.reread(now).await?;
        }
        let gone = now - self.lifetime - self.token_ttl - TimeDelta::hours(1);
        sqlx::query!(
            "DELETE FROM signing_keys WHERE created_at < $1
             AND created_at < (SELECT max(created_at) FROM signing_keys)",
            gone
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Signs an access token.
    ///
    /// # Errors
    /// When there is no key, which [`KeyRing::open`] excludes.
    pub fn sign(
        &self,
        user: UserId,
        session: SessionId,
        email: &str,
        now: DateTime<Utc>,
    ) -> Result<String, KeyError> {
        let claims = Claims {
            sub: user,
            sid: session,
            email: email.to_owned(),
            r#type: "access".to_owned(),
            aud: AUDIENCE.to_owned(),
            iss: self.issuer.clone(),
            exp: (now + self.token_ttl).timestamp(),
            iat: now.timestamp(),
            jti: Uuid::now_v7(),
        };
        let keys = self.current();
        let signing = keys.signing.as_ref().ok_or(KeyError::Crypto)?;
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(signing.kid.clone());
        jsonwebtoken::encode(&header, &claims, &signing.key).map_err(|_| KeyError::Crypto)
    }

    /// What a token says, when it is ours and still good.
    ///
    /// # Errors
    /// [`TokenRefused`].
    pub async fn verify(&self, token: &str, now: DateTime<Utc>) -> Result<Claims, TokenRefused> {
        let digest = Sha256::digest(token).into();
        if let Some(claims) = self.current().verified.get(&digest) {
            return good_at(claims, now);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenRefused::Invalid)?;
        if header.alg != Algorithm::EdDSA {
            return Err(TokenRefused::Invalid);
        }
        let kid = header.kid.ok_or(TokenRefused::Invalid)?;
        let mut keys = self.current();
        if !keys.verifying.contains_key(&kid) && now - keys.read_at >= REREAD_AFTER {
            // A failed read leaves the keys as they are: the token is then refused as unknown.
            if let Err(error) = self.reread(now).await {
                tracing::warn!(%error, "the signing keys could not be read again");
            }
            keys = self.current();
        }
        let key = keys.verifying.get(&kid).ok_or(TokenRefused::UnknownKey)?;
        let claims = jsonwebtoken::decode::<Claims>(token, key, &self.validation())
            .map_err(|_| TokenRefused::Invalid)?
            .claims;
        if claims.r#type != "access" {
            return Err(TokenRefused::Invalid);
        }
        keys.verified.insert(digest, claims.clone());
        good_at(claims, now)
    }

    /// The public halves.
    #[must_use]
    pub fn public(&self) -> KeySet {
        KeySet { keys: self.current().public.clone() }
    }

    fn validation(&self) -> Validation {
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_audience(&[AUDIENCE]);
        validation.set_issuer(&[&self.issuer]);
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        // Compared with the clock that was handed in, not with the machine's.
        validation.validate_exp = false;
        validation
    }

    fn current(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    async fn reread(&self, now: DateTime<Utc>) -> Result<(), KeyError> {
        let rows = sqlx::query!(
            "SELECT kid, public_key, sealed_private_key, created_at FROM signing_keys
             WHERE retired_at IS NULL OR retired_at > $1 ORDER BY created_at, kid",
            now
        )
        .fetch_all(&self.pool)
        .await?;
        let mut keys = Keys::none(now);
        for row in rows {
            let x = URL_SAFE_NO_PAD.encode(&row.public_key);
            let verifying = DecodingKey::from_ed_components(&x).map_err(|_| KeyError::Crypto)?;
            keys.verifying.insert(row.kid.clone(), verifying);
            keys.public.push(PublicKey {
                kty: "OKP",
                crv: "Ed25519",
                x,
                kid: row.kid.clone(),
                alg: "EdDSA",
                r#use: "sig",
            });
            let private =
                self.master.open(SealPurpose::SigningKey, &row.kid, &row.sealed_private_key)?;
            keys.signing = Some(SigningKey {
                kid: row.kid,
                created_at: row.created_at,
                key: EncodingKey::from_ed_der(&private),
            });
        }
        *self.keys.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Arc::new(keys);
        Ok(())
    }

    async fn make_next(&self, now: DateTime<Utc>) -> Result<(), KeyError> {
        let pair = Ed25519KeyPair::generate().map_err(|_| KeyError::Crypto)?;
        let private = pair.to_pkcs8().map_err(|_| KeyError::Crypto)?;
        let kid = Uuid::now_v7().to_string();
        let sealed = self.master.seal(SealPurpose::SigningKey, &kid, private.as_ref())?;
        // Several processes may find a key due at once; the condition and the lock let one of them make it.
        let mut transaction = self.pool.begin().await?;
        sqlx::query!("LOCK TABLE signing_keys IN SHARE ROW EXCLUSIVE MODE")
            .execute(&mut *transaction)
            .await?;
        sqlx::query!(
            "INSERT INTO signing_keys (kid, public_key, sealed_private_key, created_at)
             SELECT $1, $2, $3, $4 WHERE NOT EXISTS (SELECT 1 FROM signing_keys WHERE created_at > $5)",
            kid,
            pair.public_key().as_ref(),
            sealed,
            now,
            now - self.lifetime
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }
}

/// Seals every signing key again under the present master key. Gives how many there are.
///
/// # Errors
/// When the table cannot be reached, or a key was sealed under a master key that is not among those configured; then nothing changed.
pub async fn rewrap(pool: &PgPool, master: &MasterKey) -> Result<u64, KeyError> {
    let mut transaction = pool.begin().await?;
    let rows =
        sqlx::query!("SELECT kid, sealed_private_key FROM signing_keys ORDER BY kid FOR UPDATE")
            .fetch_all(&mut *transaction)
            .await?;
    let mut count = 0;
    for row in rows {
        let private = master.open(SealPurpose::SigningKey, &row.kid, &row.sealed_private_key)?;
        sqlx::query!(
            "UPDATE signing_keys SET sealed_private_key = $2 WHERE kid = $1",
            row.kid,
            master.seal(SealPurpose::SigningKey, &row.kid, &private)?
        )
        .execute(&mut *transaction)
        .await?;
        count += 1;
    }
    transaction.commit().await?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use sqlx::postgres::PgPoolOptions;

    use super::*;

    struct Signer {
        ring: KeyRing,
        public: Vec<u8>,
        private: EncodingKey,
        now: DateTime<Utc>,
    }

    /// A ring with one key in memory. The pool is never connected: the keys were just read, so nothing reads them again.
    fn signer(kid: &str) -> Signer {
        let now: DateTime<Utc> = "2026-11-21T12:00:00Z".parse().unwrap();
        let pair = Ed25519KeyPair::generate().unwrap();
        let private = EncodingKey::from_ed_der(pair.to_pkcs8().unwrap().as_ref());
        let public = pair.public_key().as_ref().to_vec();
        let verifying = DecodingKey::from_ed_components(&URL_SAFE_NO_PAD.encode(&public)).unwrap();
        let keys = Keys {
            signing: Some(SigningKey {
                kid: kid.to_owned(),
                created_at: now,
                key: private.clone(),
            }),
            verifying: HashMap::from([(kid.to_owned(), verifying)]),
            ..Keys::none(now)
        };
        let ring = KeyRing {
            pool: PgPoolOptions::new().connect_lazy("postgres://nobody@127.0.0.1:1/none").unwrap(),
            master: MasterKey::new([1; 32]),
            issuer: "https://ledgerline.example".to_owned(),
            lifetime: TimeDelta::days(30),
            token_ttl: TimeDelta::minutes(15),
            keys: RwLock::new(Arc::new(keys)),
        };
        Signer { ring, public, private, now }
    }

    impl Signer {
        fn token(&self) -> String {
            let user = UserId(Uuid::now_v7());
            self.ring.sign(user, SessionId(Uuid::now_v7()), "a@b.co", self.now).unwrap()
        }

        fn claims(&self) -> Claims {
            let dangerous = jsonwebtoken::dangerous::insecure_decode::<Claims>(self.token());
            dangerous.unwrap().claims
        }

        async fn refused(&self, token: &str) -> TokenRefused {
            self.ring.verify(token, self.now).await.unwrap_err()
        }
    }

    fn header(algorithm: Algorithm, kid: Option<&str>) -> Header {
        let mut header = Header::new(algorithm);
        header.kid = kid.map(str::to_owned);
        header
    }

    #[tokio::test]
    async fn what_was_signed_is_what_is_read_until_it_expires() {
        let signer = signer("k1");
        let token = signer.token();
        let claims = signer.ring.verify(&token, signer.now).await.unwrap();
        assert_eq!((claims.exp - claims.iat, claims.r#type.as_str()), (900, "access"));
        let end = signer.now + TimeDelta::minutes(15);
        assert!(signer.ring.verify(&token, end - TimeDelta::seconds(1)).await.is_ok());
        assert_eq!(signer.ring.verify(&token, end).await, Err(TokenRefused::Expired));
        let early = signer.now - TimeDelta::minutes(5);
        assert_eq!(signer.ring.verify(&token, early).await, Err(TokenRefused::Invalid));
    }

    #[tokio::test]
    async fn the_public_key_is_no_secret_of_another_algorithm() {
        let signer = signer("k1");
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let header = header(algorithm, Some("k1"));
            let secret = EncodingKey::from_secret(&signer.public);
            let forged = jsonwebtoken::encode(&header, &signer.claims(), &secret).unwrap();
            assert_eq!(signer.refused(&forged).await, TokenRefused::Invalid);
        }
    }

    #[tokio::test]
    async fn a_key_counts_under_its_own_name_only() {
        let (ours, theirs) = (signer("k1"), signer("k2"));
        let sign = |kid: Option<&str>, key: &EncodingKey| {
            jsonwebtoken::encode(&header(Algorithm::EdDSA, kid), &ours.claims(), key).unwrap()
        };
        assert_eq!(ours.refused(&sign(Some("k1"), &theirs.private)).await, TokenRefused::Invalid);
        assert_eq!(ours.refused(&sign(Some("k2"), &ours.private)).await, TokenRefused::UnknownKey);
        assert_eq!(ours.refused(&sign(None, &ours.private)).await, TokenRefused::Invalid);
        assert_eq!(ours.refused(&theirs.token()).await, TokenRefused::UnknownKey);
        assert!(ours.ring.verify(&sign(Some("k1"), &ours.private), ours.now).await.is_ok());
    }

    #[tokio::test]
    async fn tokens_for_others_by_others_or_of_another_kind_are_refused() {
        let signer = signer("k1");
        let changes: [fn(&mut Claims); 3] = [
            |claims| claims.aud = "another-api".to_owned(),
            |claims| claims.iss = "https://another.example".to_owned(),
            |claims| claims.r#type = "refresh".to_owned(),
        ];
        for change in changes {
            let mut claims = signer.claims();
            change(&mut claims);
            let header = header(Algorithm::EdDSA, Some("k1"));
            let token = jsonwebtoken::encode(&header, &claims, &signer.private).unwrap();
            assert_eq!(signer.refused(&token).await, TokenRefused::Invalid);
        }
    }
}
