//! The shop's sessions: the `sid` cookie, what is stored for it, and the tokens that protect forms.
//!
//! A `sid` is 128 random bits and costs nothing: nothing is stored before there is something to remember (a cart, a
//! login), so a visitor who only looks around writes nothing anywhere. Stored is a hash of the sid, never the
//! sid itself. Form tokens are derived from the sid with a secret that all instances share, so they need no
//! storage either. Where sessions are stored is the business of [`crate::cart_stores`]; which instance a visitor is
//! sent to is not decided here at all: that is the balancer's own cookie.

use std::convert::Infallible;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::{digest, hmac};
use axum::extract::FromRequestParts;
use axum::http::header::{COOKIE, SET_COOKIE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponseParts, ResponseParts};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::carts::Basket;
use crate::databases::Seen;

/// Name of the cookie.
const COOKIE_NAME: &str = "sid";
/// Name of the cookie for sessions that visitors keep themselves.
pub(crate) const SEALED_NAME: &str = "cart";
/// Seconds for which a browser keeps the cookie, and after which a session without a write is forgotten: 30 days.
pub(crate) const LIFETIME: i64 = 30 * 24 * 3600;

/// The value of the cookie: 16 random bytes in base64url. Only the visitor knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sid(String);

impl Sid {
    /// A sid that nobody has seen.
    pub(crate) fn fresh() -> Self {
        Self(random_text())
    }

    /// The first `sid` of a request that looks like one of ours.
    fn in_cookies(headers: &HeaderMap) -> Option<Self> {
        cookies(headers, COOKIE_NAME)
            .find(|value| BASE64_URL_SAFE_NO_PAD.decode(value).is_ok_and(|bytes| bytes.len() == 16))
            .map(|value| Self(value.to_owned()))
    }

    /// What is stored in its place: 43 characters of base64url.
    pub(crate) fn hash(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, self.0.as_bytes()))
    }

    /// The token that every form shown to this visitor carries.
    pub(crate) fn form_token(&self, secret: &[u8]) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        BASE64_URL_SAFE_NO_PAD.encode(hmac::sign(&key, self.0.as_bytes()))
    }

    /// Whether a form was shown to this visitor by this shop. Takes the same time for every wrong token.
    pub(crate) fn accepts_form(&self, secret: &[u8], token: &str) -> bool {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        BASE64_URL_SAFE_NO_PAD
            .decode(token)
            .is_ok_and(|tag| hmac::verify(&key, self.0.as_bytes(), &tag).is_ok())
    }
}

/// The values of the cookies with this name.
pub(crate) fn cookies<'a>(headers: &'a HeaderMap, wanted: &'a str) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(move |(name, _)| *name == wanted)
        .map(|(_, value)| value)
}

/// Who sent a request, as far as its cookies tell. An extractor that never fails.
#[derive(Debug, Clone)]
pub(crate) struct Visitor {
    /// From the request, or a fresh one.
    pub(crate) sid: Sid,
    /// Whether the request brought it; if not, nothing is stored for it, and the answer may have to set it.
    pub(crate) known: bool,
    /// The session itself, sealed, where the visitor keeps it ([`crate::cart_stores::cookie`]). Not checked yet.
    pub(crate) sealed: Option<String>,
    /// What the visitor has written to the database, and must find there.
    pub(crate) seen: Seen,
    /// Whether the client's connection is encrypted, as the balancer says.
    secure: bool,
}

impl Visitor {
    /// The fields that give the visitor this session's cookie; none when the visitor has it already.
    pub(crate) fn cookies(&self) -> SetCookies {
        let new = (!self.known).then(|| self.cookie_with(COOKIE_NAME, &self.sid.0));
        SetCookies(new.into_iter().collect())
    }

    /// The same, and the session itself where the visitor keeps it.
    pub(crate) fn cookies_with(&self, sealed: Option<&str>) -> SetCookies {
        let SetCookies(mut cookies) = self.cookies();
        cookies.extend(sealed.map(|sealed| self.cookie_with(SEALED_NAME, sealed)));
        SetCookies(cookies)
    }

    /// This visitor with a new sid, for which nothing is stored.
    pub(crate) fn renewed(&self) -> Self {
        Self { sid: Sid::fresh(), known: false, sealed: None, seen: self.seen.clone(), secure: self.secure }
    }

    fn cookie_with(&self, name: &str, value: &str) -> String {
        let secure = if self.secure { "; Secure" } else { "" };
        // A session that is over leaves an empty value, and the browser forgets that.
        let age = if value.is_empty() { 0 } else { LIFETIME };
        format!("{name}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Lax{secure}")
    }
}

#[cfg(test)]
impl Visitor {
    /// Somebody who was never here.
    pub(crate) fn new() -> Self {
        Self { sid: Sid::fresh(), known: false, sealed: None, seen: Seen::default(), secure: true }
    }

    /// The same, with another sealed session.
    pub(crate) fn with_sealed(&self, sealed: impl Into<String>) -> Self {
        Self { sealed: Some(sealed.into()), ..self.clone() }
    }

    /// The same browser, after an answer with these cookies.
    pub(crate) fn after(&self, SetCookies(cookies): &SetCookies) -> Self {
        let mut next = self.clone();
        for cookie in cookies {
            assert!(cookie.len() <= 4096, "no browser keeps this: {} bytes", cookie.len());
            let (name, value) = cookie.split(';').next().and_then(|pair| pair.split_once('=')).unwrap();
            match name {
                COOKIE_NAME => (next.sid, next.known) = (Sid(value.to_owned()), true),
                SEALED_NAME => next.sealed = Some(value.to_owned()).filter(|value| !value.is_empty()),
                other => panic!("a cookie called {other}"),
            }
        }
        next
    }
}

impl<S: Sync> FromRequestParts<S> for Visitor {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let sid = Sid::in_cookies(&parts.headers);
        let sealed = cookies(&parts.headers, SEALED_NAME).find(|value| !value.is_empty()).map(str::to_owned);
        let secure = parts.headers.get("x-forwarded-proto").is_some_and(|scheme| scheme == "https");
        // Put there by whoever has checked its cookie.
        let seen = parts.extensions.get::<Seen>().cloned().unwrap_or_default();
        Ok(Self { known: sid.is_some(), sid: sid.unwrap_or_else(Sid::fresh), sealed, seen, secure })
    }
}

/// `Set-Cookie` fields; part of a response.
#[derive(Debug)]
pub(crate) struct SetCookies(Vec<String>);

impl IntoResponseParts for SetCookies {
    type Error = Infallible;

    fn into_response_parts(self, mut response: ResponseParts) -> Result<ResponseParts, Infallible> {
        for cookie in self.0 {
            let value = HeaderValue::from_str(&cookie)
                .unwrap_or_else(|_| unreachable!("base64url and constants are legal in a field"));
            response.headers_mut().append(SET_COOKIE, value);
        }
        Ok(response)
    }
}

/// What is stored for a visitor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Session {
    /// Orders hang on it. Stays the same when the sid is renewed; nobody outside the shop knows it.
    pub(crate) id: String,
    /// Who is logged in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) account: Option<i64>,
    pub(crate) basket: Basket,
    /// When it was last written, in seconds since 1970.
    pub(crate) written: i64,
}

impl Session {
    /// One in which nothing is remembered yet.
    pub(crate) fn fresh() -> Self {
        Self { id: random_text(), account: None, basket: Basket::default(), written: 0 }
    }

    /// Whether it was not written for so long that it counts no more.
    pub(crate) fn is_over(&self, now: i64) -> bool {
        self.written < now - LIFETIME
    }
}

/// Seconds since 1970.
pub(crate) fn unix_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed())
}

/// 128 random bits as text.
pub(crate) fn random_text() -> String {
    let mut bytes = [0u8; 16];
    fill_random(&mut bytes);
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// 64 random bits.
pub(crate) fn random_number() -> i64 {
    let mut bytes = [0u8; 8];
    fill_random(&mut bytes);
    i64::from_ne_bytes(bytes)
}

/// Bytes that nobody can guess.
pub(crate) fn fill_random(bytes: &mut [u8]) {
    aws_lc_rs::rand::fill(bytes).unwrap_or_else(|_| panic!("the operating system gives no random numbers"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sid_is_found_among_other_cookies_and_only_in_its_own_form() {
        let sid = Sid::fresh();
        let mut headers = HeaderMap::new();
        assert_eq!(Sid::in_cookies(&headers), None);
        headers.append(COOKIE, HeaderValue::from_static("a=b; sid=short; xsid=AAAAAAAAAAAAAAAAAAAAAA"));
        assert_eq!(Sid::in_cookies(&headers), None);
        headers.append(COOKIE, HeaderValue::from_str(&format!("c=d;sid={}", sid.0)).unwrap());
        assert_eq!(Sid::in_cookies(&headers), Some(sid));
    }

    #[test]
    fn a_form_token_belongs_to_one_sid_and_one_secret() {
        let (mine, yours) = (Sid::fresh(), Sid::fresh());
        let token = mine.form_token(b"secret");
        assert!(mine.accepts_form(b"secret", &token));
        assert!(!yours.accepts_form(b"secret", &token));
        assert!(!mine.accepts_form(b"other", &token));
        assert!(!mine.accepts_form(b"secret", ""));
    }
}
