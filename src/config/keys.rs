//! The session key ring: the keys that seal and open session cookies, shared by all nodes as a file.
//!
//! One key a line, `ID SECRET`: eight hexadecimal digits and the base64url form of 32 random bytes. The first line
//! seals, all lines open, so a key is rotated by putting a new line on top on every node, and removing the old line when
//! the sessions it sealed are over. `#` starts a comment. What a cookie holds is not known here: see `proxy::session`.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM_SIV, LessSafeKey, UnboundKey};
use aws_lc_rs::hkdf;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::units::Secret;

/// Keys by id; never empty.
pub struct KeyRing {
    keys: Vec<Key>,
    /// The line of a ring that was made here, for the process that takes the place of this one.
    generated: Option<Secret>,
}

/// One key of the ring.
pub struct Key {
    /// Names the key inside a cookie, in clear.
    pub id: [u8; 4],
    /// AES-256-GCM-SIV: nodes draw nonces independently, and a repeated nonce must not give a key away.
    pub aead: LessSafeKey,
    /// For keys that are not for cookies.
    root: hkdf::Prk,
}

/// HKDF's salt: sets keys that are derived here apart from any other use of the same secret.
const SALT: &[u8] = b"selvedge session keys";

impl Key {
    /// Another key of the same form, which this one and `purpose` determine: the same on every node.
    pub fn derive(&self, purpose: &[&[u8]]) -> Option<LessSafeKey> {
        let derived = self.root.expand(purpose, &AES_256_GCM_SIV).ok()?;
        Some(LessSafeKey::new(UnboundKey::from(derived)))
    }
}

/// Why a key file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A line is not `ID SECRET`.
    #[error("line {0} is not \"ID SECRET\" (8 hexadecimal digits, a space, 43 base64url characters)")]
    Line(usize),
    /// Two keys have one id.
    #[error("line {0} repeats the id of an earlier key")]
    Duplicate(usize),
    /// No key at all.
    #[error("it holds no key")]
    Empty,
}

impl KeyRing {
    /// Reads a ring from the text of a key file.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let mut keys: Vec<Key> = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let key = Key::parse(line).ok_or(KeyError::Line(number))?;
            if keys.iter().any(|other| other.id == key.id) {
                return Err(KeyError::Duplicate(number));
            }
            keys.push(key);
        }
        if keys.is_empty() { Err(KeyError::Empty) } else { Ok(Self { keys, generated: None }) }
    }

    /// A ring of one fresh key.
    pub fn generate() -> Self {
        let line = fresh_line();
        Self::of_generated(&line).unwrap_or_else(|error| unreachable!("a fresh line parses: {error}"))
    }

    /// The ring of one key that another process has generated: see [`KeyRing::generated`].
    pub fn of_generated(line: &str) -> Result<Self, KeyError> {
        Ok(Self { generated: Some(Secret::new(line.to_owned())), ..Self::parse(line)? })
    }

    /// The line of the key, if the ring was generated and not read.
    pub fn generated(&self) -> Option<&Secret> {
        self.generated.as_ref()
    }

    /// The key that seals.
    pub fn sealing(&self) -> &Key {
        &self.keys[0]
    }

    /// All keys, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter()
    }

    /// Ids of all keys, in the order of the file.
    pub fn ids(&self) -> impl Iterator<Item = u32> {
        self.keys.iter().map(|key| u32::from_be_bytes(key.id))
    }

    /// The key with this id.
    pub fn find(&self, id: &[u8]) -> Option<&Key> {
        self.keys.iter().find(|key| key.id == id)
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRing({} keys)", self.keys.len())
    }
}

impl Key {
    fn parse(line: &str) -> Option<Self> {
        let (id, secret) = line.split_once(char::is_whitespace)?;
        if id.len() != 8 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let id = u32::from_str_radix(id, 16).ok()?.to_be_bytes();
        let secret = BASE64_URL_SAFE_NO_PAD.decode(secret.trim()).ok()?;
        let aead = LessSafeKey::new(UnboundKey::new(&AES_256_GCM_SIV, &secret).ok()?);
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(&secret);
        Some(Self { id, aead, root })
    }
}

/// A line for a key file, with a key nobody has seen.
pub fn fresh_line() -> String {
    let (mut id, mut secret) = ([0u8; 4], [0u8; 32]);
    for bytes in [&mut id[..], &mut secret[..]] {
        aws_lc_rs::rand::fill(bytes)
            .unwrap_or_else(|_| panic!("the operating system gives no random numbers"));
    }
    format!("{:08x} {}", u32::from_be_bytes(id), BASE64_URL_SAFE_NO_PAD.encode(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_seals_and_all_lines_open() {
        let (first, second) = (fresh_line(), fresh_line());
        let ring =
            KeyRing::parse(&format!("# shared by all nodes\n\n{first}  # newest\n{second}\n")).unwrap();
        assert_eq!(format!("{:08x}", u32::from_be_bytes(ring.sealing().id)), first[..8]);
        let old = u32::from_str_radix(&second[..8], 16).unwrap().to_be_bytes();
        assert!(ring.find(&old).is_some());
    }

    #[test]
    fn a_bad_line_is_named_by_its_number() {
        let good = fresh_line();
        assert_eq!(KeyRing::parse("\nnonsense").unwrap_err(), KeyError::Line(2));
        assert_eq!(KeyRing::parse(&good[..good.len() - 2]).unwrap_err(), KeyError::Line(1));
        assert_eq!(KeyRing::parse(&format!("{good}\n{good}")).unwrap_err(), KeyError::Duplicate(2));
        assert_eq!(KeyRing::parse("# none yet\n").unwrap_err(), KeyError::Empty);
    }
}
