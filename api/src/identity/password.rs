//! Passwords: Argon2id, one at a time for each permit, so that a flood of logins can't take all cores and memory.

use std::{sync::Arc, time::Duration};

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;

use crate::problem::{Problem, ProblemKind};

/// Memory in KiB: 64 MiB for each hash.
const MEMORY_KIB: u32 = 65_536;
const PASSES: u32 = 3;
const LANES: u32 = 4;

/// How long a login waits for its turn before it is answered 503.
const TURN_TIMEOUT: Duration = Duration::from_secs(5);

/// The hash of a random text that nobody knows: compared against when the address is unknown, so that the answer takes as long.
const NOBODY: &str = "$argon2id$v=19$m=65536,t=3,p=4$bGVkZ2VybGluZS1ub2JvZHk$WbNVnXQ8pGDmJZCT0tUG4G5VJ0NHb2CvyQXxf0aVxV4";

/// The hasher, with its permits.
#[derive(Clone, Debug)]
pub struct Passwords {
    permits: Arc<Semaphore>,
}

impl Passwords {
    /// A hasher that works on so many passwords at once.
    #[must_use]
    pub fn new(concurrency: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(concurrency)) }
    }

    /// The hash of a password in PHC form, with a salt of its own.
    ///
    /// # Errors
    /// 503 when too many others wait.
    pub async fn hash(&self, password: SecretString) -> Result<String, Problem> {
        self.run(move || {
            argon2()
                .hash_password(password.expose_secret().as_bytes())
                .map(|hash: argon2::password_hash::phc::PasswordHash| hash.to_string())
        })
        .await?
        .map_err(|error| Problem::internal(&error))
    }

    /// Whether a password has this hash. Without a hash the answer is no, after the same work.
    ///
    /// # Errors
    /// 503 when too many others wait.
    pub async fn verify(
        &self,
        password: SecretString,
        hash: Option<String>,
    ) -> Result<bool, Problem> {
        self.run(move || {
            let known = hash.is_some();
            let hash = hash.unwrap_or_else(|| NOBODY.to_owned());
            let same = PasswordHash::new(&hash).is_ok_and(|hash| {
                argon2().verify_password(password.expose_secret().as_bytes(), &hash).is_ok()
            });
            known && same
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let busy = || {
            Problem::new(ProblemKind::Overloaded, "too many people sign in at this moment")
                .with_retry_after(2)
        };
        let permit = tokio::time::timeout(TURN_TIMEOUT, Arc::clone(&self.permits).acquire_owned())
            .await
            .map_err(|_| busy())?
            .map_err(|_| busy())?;
        tokio::task::spawn_blocking(move || {
            let done = work();
            drop(permit);
            done
        })
        .await
        .map_err(|error| Problem::internal(&error))
    }
}

fn argon2() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None)
        .expect("the parameters are constants within Argon2's bounds");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_right_password_verifies_and_no_account_takes_the_same_work() {
        let passwords = Passwords::new(1);
        let hash = passwords.hash("correct horse battery".into()).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=65536,t=3,p=4$"), "{hash}");
        assert!(
            passwords.verify("correct horse battery".into(), Some(hash.clone())).await.unwrap()
        );
        assert!(!passwords.verify("correct horse batterx".into(), Some(hash)).await.unwrap());
        assert!(!passwords.verify("correct horse battery".into(), None).await.unwrap());
    }

    #[test]
    fn the_hash_of_nobody_costs_what_every_hash_costs() {
        let nobody = PasswordHash::new(NOBODY).unwrap();
        assert_eq!(Params::try_from(&nobody).unwrap().m_cost(), MEMORY_KIB);
        assert_eq!(Params::try_from(&nobody).unwrap().t_cost(), PASSES);
        assert_eq!(nobody.hash.unwrap().len(), Params::DEFAULT_OUTPUT_LEN);
    }
}
