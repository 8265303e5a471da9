//! What somebody gives who registers, and what of it is refused.

use secrecy::{ExposeSecret, SecretString};

use super::code::Newcomer;
use crate::problem::{FieldError, Problem};

/// The shortest password.
pub const MIN_PASSWORD_CHARS: usize = 12;
/// The longest password: hashing takes longer with length, and nobody types more.
pub const MAX_PASSWORD_BYTES: usize = 1_024;
/// The longest name of a person.
pub const MAX_NAME_CHARS: usize = 255;
/// The longest address (RFC 5321).
pub const MAX_EMAIL_CHARS: usize = 254;

/// What somebody gives who registers.
#[derive(Debug)]
pub struct Registration {
    /// The address.
    pub email: String,
    /// The password; none for an account that is entered by codes alone.
    pub password: Option<SecretString>,
    /// The name.
    pub full_name: String,
}

impl Registration {
    /// What somebody gives who signs up with a code, checked.
    pub(super) fn of(email: &str, newcomer: Newcomer) -> Result<Self, Problem> {
        let Newcomer { full_name, password } = newcomer;
        let mut registration = Self { email: email.to_owned(), password, full_name };
        registration.check()?;
        Ok(registration)
    }

    /// Everything that is not valid, at once.
    pub(super) fn check(&mut self) -> Result<(), Problem> {
        let mut errors = Vec::new();
        self.email = self.email.trim().to_owned();
        if !is_address(&self.email) {
            errors.push(FieldError::new("/email", "invalid", "must be an email address"));
        }
        errors.extend(self.password.as_ref().and_then(|it| check_password("/password", it)));
        match clean_name(&self.full_name) {
            Ok(name) => self.full_name = name,
            Err(error) => errors.push(error),
        }
        if errors.is_empty() { Ok(()) } else { Err(Problem::invalid_values(errors)) }
    }
}

pub(super) fn check_password(pointer: &str, password: &SecretString) -> Option<FieldError> {
    let text = password.expose_secret();
    if text.chars().count() < MIN_PASSWORD_CHARS {
        let detail = format!("must have at least {MIN_PASSWORD_CHARS} characters");
        return Some(FieldError::new(pointer, "too_short", detail));
    }
    (text.len() > MAX_PASSWORD_BYTES).then(|| {
        FieldError::new(
            pointer,
            "too_long",
            format!("must have at most {MAX_PASSWORD_BYTES} bytes"),
        )
    })
}

pub(super) fn clean_name(name: &str) -> Result<String, FieldError> {
    let name = name.trim();
    let refuse = |code: &str, detail: &str| Err(FieldError::new("/full_name", code, detail));
    match name.chars().count() {
        0 => refuse("too_short", "must not be empty"),
        1..=MAX_NAME_CHARS if name.chars().any(char::is_control) => {
            refuse("invalid", "must not hold control characters")
        }
        1..=MAX_NAME_CHARS => Ok(name.to_owned()),
        _ => refuse("too_long", "must have at most 255 characters"),
    }
}

/// Whether a text has the form of an address. Whether mail arrives there only mail can tell.
pub(super) fn is_address(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    text.chars().count() <= MAX_EMAIL_CHARS
        && !text.chars().any(|c| c.is_whitespace() || c.is_control())
        && (1..=64).contains(&local.len())
        && !local.contains('@')
        && domain.split('.').all(|label| !label.is_empty() && !label.starts_with('-'))
}

/// The form in which two spellings of one address are equal.
pub(crate) fn address_key(email: &str) -> String {
    email.trim().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in
            ["a@b.co", "first.last+tag@sub.example.com", "me@localhost", "grüße@example.com"]
        {
            assert!(is_address(good), "{good}");
        }
        let long = format!("{}@example.com", "a".repeat(65));
        for bad in
            ["", "a", "@b.co", "a@", "a@b@c.d", "a b@c.d", "a@b..c", "a@-b.c", "a\u{0}@b.c", &long]
        {
            assert!(!is_address(bad), "{bad}");
        }
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let mut registration = Registration {
            email: "nobody".to_owned(),
            password: Some("short".into()),
            full_name: "  ".to_owned(),
        };
        let problem = registration.check().unwrap_err();
        let pointers: Vec<&str> = problem.errors().iter().map(|e| e.pointer.as_str()).collect();
        assert_eq!(pointers, ["/email", "/password", "/full_name"]);
    }

    #[test]
    fn a_password_counts_in_characters() {
        assert!(check_password("/password", &"ääääääääääää".into()).is_none());
        assert!(check_password("/password", &"äääääääääää".into()).is_some());
        assert!(check_password("/password", &"x".repeat(1_025).into()).is_some());
    }
}
