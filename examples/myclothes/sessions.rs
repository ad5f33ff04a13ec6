//! The shop's sessions: the `sid` cookie, what is stored for it, and the tokens that protect forms.
//!
//! A `sid` is 128 random bits and costs nothing: nothing is stored before there is something to remember (a cart, a
//! login), so a visitor who only looks around writes nothing to the database. Stored is a hash of the sid, never the
//! sid itself. Form tokens are derived from the sid with a secret that all instances share, so they need no
//! storage either. Which instance a visitor is sent to is not decided here: that is the balancer's own cookie.

use std::convert::Infallible;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::{digest, hmac};
use axum::extract::FromRequestParts;
use axum::http::header::{COOKIE, SET_COOKIE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponseParts, ResponseParts};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rusqlite::{Connection, Transaction, params};

use crate::failure::Failure;
use crate::store::optional;

/// Name of the cookie.
const COOKIE_NAME: &str = "sid";
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
        headers
            .get_all(COOKIE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .filter(|(name, _)| *name == COOKIE_NAME)
            .map(|(_, value)| value)
            .find(|value| BASE64_URL_SAFE_NO_PAD.decode(value).is_ok_and(|bytes| bytes.len() == 16))
            .map(|value| Self(value.to_owned()))
    }

    /// What is stored in its place.
    fn hash(&self) -> Vec<u8> {
        digest::digest(&digest::SHA256, self.0.as_bytes()).as_ref().to_vec()
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

/// Who sent a request, as far as its cookie tells. An extractor that never fails.
#[derive(Debug, Clone)]
pub(crate) struct Visitor {
    /// From the request, or a fresh one.
    pub(crate) sid: Sid,
    /// Whether the request brought it; if not, the answer may have to set it.
    known: bool,
    /// Whether the client's connection is encrypted, as the balancer says.
    secure: bool,
}

impl Visitor {
    /// The field that gives the visitor this session's cookie; nothing when the visitor has it already.
    pub(crate) fn cookie(&self) -> Option<SetSid> {
        (!self.known).then(|| self.cookie_for(&self.sid))
    }

    /// The field that replaces the visitor's cookie.
    pub(crate) fn cookie_for(&self, sid: &Sid) -> SetSid {
        let secure = if self.secure { "; Secure" } else { "" };
        SetSid(format!("{COOKIE_NAME}={}; Path=/; Max-Age={LIFETIME}; HttpOnly; SameSite=Lax{secure}", sid.0))
    }
}

impl<S: Sync> FromRequestParts<S> for Visitor {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let sid = Sid::in_cookies(&parts.headers);
        let secure = parts.headers.get("x-forwarded-proto").is_some_and(|scheme| scheme == "https");
        Ok(Self { known: sid.is_some(), sid: sid.unwrap_or_else(Sid::fresh), secure })
    }
}

/// A `Set-Cookie` field; part of a response.
#[derive(Debug)]
pub(crate) struct SetSid(String);

impl IntoResponseParts for SetSid {
    type Error = Infallible;

    fn into_response_parts(self, mut response: ResponseParts) -> Result<ResponseParts, Infallible> {
        let value = HeaderValue::from_str(&self.0)
            .unwrap_or_else(|_| unreachable!("base64url and constants are legal in a field"));
        let name: HeaderName = SET_COOKIE;
        response.headers_mut().append(name, value);
        Ok(response)
    }
}

/// A stored session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Session {
    /// Its row; the cart hangs on it. Stays the same when the sid is renewed.
    pub(crate) id: i64,
    /// Who is logged in.
    pub(crate) account: Option<i64>,
}

/// The session of this sid, if anything is stored for it.
pub(crate) fn find(connection: &Connection, sid: &Sid) -> Result<Option<Session>, Failure> {
    let mut select = connection.prepare_cached("SELECT id, account_id FROM sessions WHERE sid_hash = ?1")?;
    optional(select.query_row([sid.hash()], |row| Ok(Session { id: row.get(0)?, account: row.get(1)? })))
}

/// The session of this sid, made when there is none, and its age set back to zero.
pub(crate) fn open(transaction: &Transaction<'_>, sid: &Sid) -> Result<Session, Failure> {
    let mut upsert = transaction.prepare_cached(
        "INSERT INTO sessions (sid_hash, last_write) VALUES (?1, ?2)
         ON CONFLICT (sid_hash) DO UPDATE SET last_write = excluded.last_write
         RETURNING id, account_id",
    )?;
    Ok(upsert.query_row(params![sid.hash(), unix_now()], |row| {
        Ok(Session { id: row.get(0)?, account: row.get(1)? })
    })?)
}

/// Logs in: the session gets a new sid, so that one planted before the login is worth nothing, and keeps its cart.
pub(crate) fn renew(
    transaction: &Transaction<'_>,
    session: Session,
    fresh: &Sid,
    account: i64,
) -> Result<(), Failure> {
    transaction.execute(
        "UPDATE sessions SET sid_hash = ?2, account_id = ?3 WHERE id = ?1",
        params![session.id, fresh.hash(), account],
    )?;
    Ok(())
}

/// Logs out: the session and its cart are gone, so that the next person at this screen sees neither.
pub(crate) fn end(transaction: &Transaction<'_>, sid: &Sid) -> Result<(), Failure> {
    transaction.execute("DELETE FROM sessions WHERE sid_hash = ?1", [sid.hash()])?;
    Ok(())
}

/// Forgets up to 1000 sessions that have not been written to for [`LIFETIME`].
pub(crate) fn forget_old(transaction: &Transaction<'_>, now: i64) -> Result<usize, Failure> {
    Ok(transaction.execute(
        "DELETE FROM sessions WHERE id IN
            (SELECT id FROM sessions WHERE last_write < ?1 ORDER BY last_write LIMIT 1000)",
        [now - LIFETIME],
    )?)
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
