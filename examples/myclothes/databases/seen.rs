//! What a visitor has written, as a position in the database's log: whoever answers them next must have come so far.
//!
//! Replicas are behind the primary, mostly by milliseconds. So that nobody misses what they did themselves, each write notes the
//! position at which it is in the log, and the visitor keeps that in a cookie, signed, because a position far in the future would send
//! all reads to the primary. A database without replicas ignores all this. The cookie also says if the catalogue's cache could not be
//! told of a write: until it has forgotten what it knows, this visitor reads past it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use aws_lc_rs::hmac;
use axum::http::header::SET_COOKIE;
use axum::http::{HeaderMap, HeaderValue};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::sessions;

/// Name of the cookie.
const COOKIE_NAME: &str = "seen";
/// Seconds for which a browser keeps it. No replica is used that is so far behind.
const LIFETIME: i64 = 24 * 3600;

/// The position that a visitor's reads must have reached. Clones are the same position.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen(Arc<Marks>);

#[derive(Debug, Default)]
struct Marks {
    position: AtomicU64,
    /// Until when no cache is asked, in seconds since 1970.
    past_cache: AtomicI64,
}

impl Seen {
    fn new(position: u64, past_cache: i64) -> Self {
        Self(Arc::new(Marks { position: position.into(), past_cache: past_cache.into() }))
    }

    /// Beyond everything: only the primary will do.
    pub(crate) fn everything() -> Self {
        Self::new(u64::MAX, 0)
    }

    /// The position; 0 for a visitor who has written nothing.
    pub(crate) fn position(&self) -> u64 {
        self.0.position.load(Relaxed)
    }

    /// Notes a write.
    pub(crate) fn advance(&self, position: u64) {
        self.0.position.fetch_max(position, Relaxed);
    }

    /// Whether this visitor must not be answered by a cache.
    pub(crate) fn is_past_cache(&self, now: i64) -> bool {
        self.0.past_cache.load(Relaxed) > now
    }

    /// Lets no cache answer this visitor until then.
    pub(crate) fn go_past_cache(&self, until: i64) {
        self.0.past_cache.fetch_max(until, Relaxed);
    }

    fn marks(&self) -> (u64, i64) {
        (self.position(), self.0.past_cache.load(Relaxed))
    }
}

/// The cookie of one request, and what it has to become.
pub(crate) struct SeenCookie {
    pub(crate) seen: Seen,
    before: (u64, i64),
    secure: bool,
}

impl SeenCookie {
    /// What a request brings; nothing if that was not signed here.
    pub(crate) fn of(headers: &HeaderMap, secret: &[u8]) -> Self {
        let opened = sessions::cookies(headers, COOKIE_NAME).find_map(|value| open(value, secret));
        let before = opened.unwrap_or_default();
        let secure = headers.get("x-forwarded-proto").is_some_and(|scheme| scheme == "https");
        Self { seen: Seen::new(before.0, before.1), before, secure }
    }

    /// Adds the cookie to an answer, if the request has written.
    pub(crate) fn stamp(&self, headers: &mut HeaderMap, secret: &[u8]) {
        let now = self.seen.marks();
        if now == self.before {
            return;
        }
        let secure = if self.secure { "; Secure" } else { "" };
        let value = sign(now, secret);
        let cookie =
            format!("{COOKIE_NAME}={value}; Path=/; Max-Age={LIFETIME}; HttpOnly; SameSite=Lax{secure}");
        if let Ok(value) = HeaderValue::from_str(&cookie) {
            headers.append(SET_COOKIE, value);
        }
    }
}

fn signed((position, past_cache): (u64, i64)) -> [u8; 20] {
    let mut bytes = *b"seen\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    bytes[4..12].copy_from_slice(&position.to_be_bytes());
    bytes[12..].copy_from_slice(&past_cache.to_be_bytes());
    bytes
}

fn sign(marks: (u64, i64), secret: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let tag = hmac::sign(&key, &signed(marks));
    let (position, past_cache) = marks;
    format!("{position:x}.{past_cache:x}.{}", BASE64_URL_SAFE_NO_PAD.encode(tag))
}

fn open(value: &str, secret: &[u8]) -> Option<(u64, i64)> {
    let (position, rest) = value.split_once('.')?;
    let (past_cache, tag) = rest.split_once('.')?;
    let marks = (u64::from_str_radix(position, 16).ok()?, i64::from_str_radix(past_cache, 16).ok()?);
    let tag = BASE64_URL_SAFE_NO_PAD.decode(tag).ok()?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    hmac::verify(&key, &signed(marks), &tag).ok().map(|()| marks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_believed_only_if_it_was_signed_here() {
        let marks = (0x16_b374d848, 0x6929_0000);
        let value = sign(marks, b"secret");
        assert_eq!(open(&value, b"secret"), Some(marks));
        assert_eq!(open(&value, b"other"), None);
        assert_eq!(open(&value.replacen("16b", "17b", 1), b"secret"), None);
        assert_eq!(open(&value.replacen("6929", "7929", 1), b"secret"), None);
        for nonsense in ["", ".", "..", "0..", "zz.0.AA", "16b374d848", "16b374d848.0"] {
            assert_eq!(open(nonsense, b"secret"), None);
        }
    }

    #[test]
    fn only_an_answer_after_a_write_sets_the_cookie() {
        let mut headers = HeaderMap::new();
        let cookie = SeenCookie::of(&headers, b"secret");
        cookie.stamp(&mut headers, b"secret");
        assert!(headers.is_empty());
        cookie.seen.clone().advance(7);
        cookie.seen.advance(3);
        cookie.seen.go_past_cache(1000);
        cookie.seen.go_past_cache(500);
        cookie.stamp(&mut headers, b"secret");
        let set = headers[SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned();
        let mut next = HeaderMap::new();
        next.insert("cookie", set.parse().unwrap());
        let seen = SeenCookie::of(&next, b"secret").seen;
        assert_eq!(seen.position(), 7);
        assert!(seen.is_past_cache(999) && !seen.is_past_cache(1000));
    }
}
