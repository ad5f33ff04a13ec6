//! Carts that visitors keep themselves: the whole session in a cookie, sealed so that nobody else can read or change it.
//!
//! No instance keeps anything, so none that dies loses anything. The price: of two windows that change the cart at the same
//! moment, the answer that comes last counts, and the other change is lost; a copy of the cookie still works after a logout, until
//! it is [`sessions::LIFETIME`] old. A cart that was bought is not bought again by a copy of its cookie: its number is in it. A browser
//! takes no cookie above [`MAX_COOKIE`]: a change that would make a larger one is refused, and the cart stays as it is.

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::{CartStore, Held, Version, Written};
use crate::failure::Failure;
use crate::sessions::{self, Session, Visitor};

/// Bytes of a cookie that every browser keeps: name, value and attributes together (RFC 6265, section 6.1).
const MAX_COOKIE: usize = 4096;
/// What the largest attributes take, and the name.
const AROUND: usize = "cart=; Path=/; Max-Age=2592000; HttpOnly; SameSite=Lax; Secure".len();
/// What is left free before a login, which makes the cookie longer and must not fail because the cart is full.
const SPARE: usize = 64;

/// Seals and opens the cookies.
pub(crate) struct Cookie {
    key: LessSafeKey,
}

/// What is sealed.
#[derive(Serialize, Deserialize)]
struct Content {
    v: i64,
    s: Session,
}

impl Cookie {
    /// All instances with this secret open each other's cookies.
    pub(crate) fn new(secret: &[u8]) -> Result<Self, Failure> {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let derived = hmac::sign(&secret, b"carts in cookies, 1");
        let key = UnboundKey::new(&AES_256_GCM_SIV, derived.as_ref()).map_err(Failure::internal)?;
        Ok(Self { key: LessSafeKey::new(key) })
    }

    /// Bound to the visitor's sid: in another browser, or after the sid was renewed, it opens nothing.
    fn seal(&self, visitor: &Visitor, held: &Held) -> Result<String, Failure> {
        let content = Content { v: held.version.0, s: held.session.clone() };
        let mut sealed = serde_json::to_vec(&content).map_err(Failure::internal)?;
        let mut nonce = [0; NONCE_LEN];
        sessions::fill_random(&mut nonce);
        let bound = Aad::from(visitor.sid.hash());
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), bound, &mut sealed)
            .map_err(Failure::internal)?;
        Ok(BASE64_URL_SAFE_NO_PAD.encode([&nonce[..], &sealed].concat()))
    }

    /// `None` for whatever was not sealed here for this visitor.
    fn open(&self, visitor: &Visitor) -> Option<Held> {
        let sealed = BASE64_URL_SAFE_NO_PAD.decode(visitor.sealed.as_ref()?).ok()?;
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
        let (nonce, mut sealed) = (Nonce::try_assume_unique_for_key(nonce).ok()?, sealed.to_vec());
        let bound = Aad::from(visitor.sid.hash());
        let opened = self.key.open_in_place(nonce, bound, &mut sealed).ok()?;
        let Content { v, s } = serde_json::from_slice(opened).ok()?;
        Some(Held { version: Version(v), session: s })
    }
}

impl CartStore for Cookie {
    async fn load(&self, visitor: &Visitor) -> Result<Option<Held>, Failure> {
        Ok(self.open(visitor))
    }

    async fn save(&self, visitor: &Visitor, _: Option<Version>, new: &Held) -> Result<Written, Failure> {
        let sealed = self.seal(visitor, new)?;
        let spare = if new.session.account.is_none() { SPARE } else { 0 };
        if sealed.len() > MAX_COOKIE - AROUND - spare {
            return Err(Failure::Conflict(
                "Your cart is full: it is kept in your browser, which takes no more. Nothing in it was lost. Check out, or \
                 remove something first."
                    .into(),
            ));
        }
        Ok(Written::ByVisitor(sealed))
    }

    async fn remove(&self, _: &Visitor, _: Version) -> Result<Written, Failure> {
        Ok(Written::ByVisitor(String::new()))
    }

    async fn forget_old(&self, _: i64) -> Result<(), Failure> {
        Ok(())
    }
}
