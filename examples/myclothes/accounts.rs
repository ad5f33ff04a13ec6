//! Accounts: e-mail address, password, name and address of people who sign up.
//!
//! Passwords are kept as Argon2id hashes with a salt each. Hashing takes 19 MiB and tens of milliseconds on purpose, so
//! only [`HASHES`] of them run at a time. A login for an unknown address hashes as well: its answer takes as long and says
//! the same as one with a wrong password. Who is logged in is kept by the session, not here;
//! where accounts are stored is the business of [`crate::databases`].

use argon2::Argon2;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use serde::Serialize;
use tokio::sync::Semaphore;

use crate::failure::{Failure, Invalid};

/// Passwords that one instance hashes at the same time.
const HASHES: usize = 2;
static HASHING: Semaphore = Semaphore::const_new(HASHES);

const MAX_EMAIL: usize = 254;
const PASSWORD: std::ops::RangeInclusive<usize> = 8..=128;
const MAX_NAME: usize = 100;
const MAX_ADDRESS: usize = 400;

/// An account, as its owner sees it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Account {
    #[serde(skip)]
    pub(crate) id: i64,
    /// In lower case; unique.
    pub(crate) email: String,
    /// May be empty until the owner writes it.
    pub(crate) name: String,
    /// May be empty until the owner writes it; several lines.
    pub(crate) address: String,
}

/// An e-mail address in lower case, checked for its form only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Email(String);

impl Email {
    /// The address.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Checks the form: one `@` with something before it and a domain with a dot behind it.
    pub(crate) fn parse(text: &str) -> Result<Self, Invalid> {
        let text = text.trim();
        let good = text.len() <= MAX_EMAIL
            && !text.contains(|c: char| c.is_whitespace() || c.is_control())
            && text.split_once('@').is_some_and(|(local, domain)| {
                !local.is_empty()
                    && !domain.contains('@')
                    && domain.contains('.')
                    && domain.split('.').all(|label| !label.is_empty())
            });
        if good {
            return Ok(Self(text.to_lowercase()));
        }
        let message = "Write an e-mail address such as ana@example.com.".into();
        Err(Invalid { field: "email", message })
    }
}

/// A password of acceptable length.
#[derive(Clone)]
pub(crate) struct Password(String);

impl Password {
    /// Checks the length, in characters.
    pub(crate) fn parse(text: &str) -> Result<Self, Invalid> {
        if PASSWORD.contains(&text.chars().count()) {
            return Ok(Self(text.to_owned()));
        }
        let message =
            format!("The password must have {} to {} characters.", PASSWORD.start(), PASSWORD.end());
        Err(Invalid { field: "password", message })
    }
}

/// Where parcels go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) name: String,
    pub(crate) address: String,
}

impl Delivery {
    /// Checks both parts; all that is wrong comes back together.
    pub(crate) fn parse(name: &str, address: &str) -> Result<Self, Vec<Invalid>> {
        match (parse_name(name), parse_address(address)) {
            (Ok(name), Ok(address)) => Ok(Self { name, address }),
            (name, address) => Err(name.err().into_iter().chain(address.err()).collect()),
        }
    }

    /// The same for a sign-up, where either part may be left for later.
    pub(crate) fn parse_optional(name: &str, address: &str) -> Result<Self, Vec<Invalid>> {
        let name = if name.trim().is_empty() { Ok(String::new()) } else { parse_name(name) };
        let address = if address.trim().is_empty() { Ok(String::new()) } else { parse_address(address) };
        match (name, address) {
            (Ok(name), Ok(address)) => Ok(Self { name, address }),
            (name, address) => Err(name.err().into_iter().chain(address.err()).collect()),
        }
    }
}

fn parse_name(text: &str) -> Result<String, Invalid> {
    let text = text.trim();
    if (1..=MAX_NAME).contains(&text.chars().count()) && !text.contains(char::is_control) {
        return Ok(text.to_owned());
    }
    let message = format!("Write your name, at most {MAX_NAME} characters.");
    Err(Invalid { field: "name", message })
}

fn parse_address(text: &str) -> Result<String, Invalid> {
    let text = text.trim().replace("\r\n", "\n");
    if (1..=MAX_ADDRESS).contains(&text.chars().count())
        && !text.contains(|c: char| c.is_control() && c != '\n')
    {
        return Ok(text);
    }
    let message = format!("Write your address, at most {MAX_ADDRESS} characters.");
    Err(Invalid { field: "address", message })
}

/// Hashes a password for storage.
pub(crate) async fn hash(password: Password) -> Result<String, Failure> {
    hashing(move || {
        let hash = Argon2::default().hash_password(password.0.as_bytes()).map_err(Failure::internal)?;
        Ok(hash.to_string())
    })
    .await
}

/// Whether this is the password of the stored hash; `None` stands for an account that does not exist.
pub(crate) async fn verify(password: String, stored: Option<String>) -> Result<bool, Failure> {
    if password.chars().count() > *PASSWORD.end() {
        return Ok(false);
    }
    hashing(move || {
        let Some(stored) = stored else {
            Argon2::default().hash_password(password.as_bytes()).map_err(Failure::internal)?;
            return Ok(false);
        };
        Ok(Argon2::default().verify_password(password.as_bytes(), stored.as_str()).is_ok())
    })
    .await
}

async fn hashing<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let Ok(turn) = HASHING.acquire().await else { return Err(Failure::Busy) };
    let done = tokio::task::spawn_blocking(work).await;
    drop(turn);
    done.unwrap_or_else(|panic| Err(Failure::internal(panic)))
}

/// The account that was to be made, if it is there with this hash: hashes are salted, so no other has the same.
pub(crate) fn made(found: Option<(Account, String)>, hash: &str) -> Result<Account, Failure> {
    match found {
        Some((account, stored)) if stored == hash => Ok(account),
        _ => Err(Failure::Conflict("There is an account with this e-mail address already.".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_email_address_is_checked_for_its_form() {
        for good in ["ana@example.com", " Ana.B+x@Mail.Example.org "] {
            assert_eq!(Email::parse(good).unwrap().0, good.trim().to_lowercase());
        }
        let long = format!("{}@example.com", "a".repeat(250));
        for bad in ["", "ana", "@example.com", "ana@", "ana@home", "a@b@c.d", "a b@c.de", "a@b..c", &long] {
            assert_eq!(Email::parse(bad).unwrap_err().field, "email", "{bad:?}");
        }
    }

    #[test]
    fn a_delivery_names_everything_that_is_wrong_with_it() {
        let wrong = Delivery::parse(" ", &"x".repeat(401)).unwrap_err();
        assert_eq!(wrong.iter().map(|w| w.field).collect::<Vec<_>>(), ["name", "address"]);
        let good = Delivery::parse(" Ana ", "1 Loom Street\nLeeds").unwrap();
        assert_eq!(good.name, "Ana");
        assert!(Delivery::parse("A\u{7}na", "1 Loom Street").is_err());
    }
}
