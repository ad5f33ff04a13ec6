//! The session cookie: find it among others, open it, judge it, seal it, hide it from the target.
//!
//! ```text
//! value = base64url( version 1 · key id 4 · nonce 12 · AES-256-GCM-SIV{ target 8 · home 8 · session 8 · born 4 · seen 4 } · tag 16 )
//! ```
//!
//! 65 bytes, 87 characters without padding; the two bits left over are zero, so there is exactly one text for one value. The pool's name is
//! bound in as associated data. Everything a node needs is in the cookie and the key ring, so nothing is stored per session
//! and any node with the same keys honours it. Where a session goes when its target cannot keep it is not decided here:
//! see `balance`.

use std::cell::Cell;

use aws_lc_rs::aead::{Aad, Nonce};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::header::{self, HeaderValue};

use super::fields::Fields;
use crate::config::{self, KeyRing, SameSite, Secure};
use crate::pool::{TargetId, Verdict};

const VERSION: u8 = 1;
const NONCE: usize = 12;
const SEALED: usize = 32;
const TAG: usize = 16;
const RAW: usize = 1 + 4 + NONCE + SEALED + TAG;
/// Length of a cookie's value.
pub const TEXT: usize = (RAW * 4).div_ceil(3);

/// A session and the target it is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bond {
    /// Where its requests go.
    pub target: TargetId,
    /// The target it was bound to first; another than `target` when it has moved.
    pub home: TargetId,
    /// Which session it is; drawn at random at its birth, kept when it moves.
    pub session: u64,
    /// When it began, in seconds since 1970.
    pub born: u32,
    /// When it was last seen, in seconds since 1970, to within a tenth of the idle limit.
    pub seen: u32,
}

/// Opens a cookie's value that was sealed for `pool`.
pub fn open(ring: &KeyRing, pool: &str, text: &[u8]) -> Result<Bond, Verdict> {
    let mut raw = [0u8; RAW];
    if text.len() != TEXT || BASE64_URL_SAFE_NO_PAD.decode_slice(text, &mut raw) != Ok(RAW) {
        return Err(Verdict::Malformed);
    }
    let (head, sealed) = raw.split_at_mut(1 + 4 + NONCE);
    if head[0] != VERSION {
        return Err(Verdict::Malformed);
    }
    let key = ring.find(&head[1..5]).ok_or(Verdict::UnknownKey)?;
    let nonce = Nonce::try_assume_unique_for_key(&head[5..]).map_err(|_| Verdict::Malformed)?;
    let plain =
        key.aead.open_in_place(nonce, Aad::from(pool.as_bytes()), sealed).map_err(|_| Verdict::Forged)?;
    let number =
        |from: usize, to: usize| plain[from..to].iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    Ok(Bond {
        target: TargetId(number(0, 8)),
        home: TargetId(number(8, 16)),
        session: number(16, 24),
        born: number(24, 28) as u32,
        seen: number(28, 32) as u32,
    })
}

/// Seals a bond for `pool`. `nonce` should be random; repeating one only shows that two cookies hold the same bond.
pub fn seal(ring: &KeyRing, pool: &str, bond: &Bond, nonce: [u8; NONCE]) -> [u8; TEXT] {
    let key = ring.sealing();
    let mut raw = [0u8; RAW];
    raw[0] = VERSION;
    raw[1..5].copy_from_slice(&key.id);
    raw[5..17].copy_from_slice(&nonce);
    let (_, sealed) = raw.split_at_mut(17);
    let (plain, tag) = sealed.split_at_mut(SEALED);
    plain[..8].copy_from_slice(&bond.target.0.to_be_bytes());
    plain[8..16].copy_from_slice(&bond.home.0.to_be_bytes());
    plain[16..24].copy_from_slice(&bond.session.to_be_bytes());
    plain[24..28].copy_from_slice(&bond.born.to_be_bytes());
    plain[28..].copy_from_slice(&bond.seen.to_be_bytes());
    let nonce = Nonce::assume_unique_for_key(nonce);
    if let Ok(sum) = key.aead.seal_in_place_separate_tag(nonce, Aad::from(pool.as_bytes()), plain) {
        tag.copy_from_slice(sum.as_ref());
    }
    let mut text = [0u8; TEXT];
    let written = BASE64_URL_SAFE_NO_PAD.encode_slice(raw, &mut text);
    debug_assert_eq!(written, Ok(TEXT));
    text
}

/// Whether a bond in good order has expired by `now`, in seconds since 1970.
pub fn judge(bond: &Bond, stickiness: &config::Stickiness, now: u64) -> Verdict {
    // Another node's clock may be ahead of ours: nothing is older than now.
    let age = |since: u32| now.saturating_sub(u64::from(since));
    match stickiness.absolute {
        Some(absolute) if age(bond.born) > absolute.as_secs() => Verdict::AbsoluteExpired,
        _ if age(bond.seen) > stickiness.idle.as_secs() => Verdict::IdleExpired,
        _ => Verdict::Valid,
    }
}

/// Whether the client should be told anew when the session was last seen: after a tenth of the idle limit.
pub fn is_stale(bond: &Bond, stickiness: &config::Stickiness, now: u64) -> bool {
    now.saturating_sub(u64::from(bond.seen)) > stickiness.idle.as_secs() / 10
}

/// The values of all cookies called `name`, in order, without quotes.
pub fn find<'a>(headers: &'a Fields, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    headers
        .get_all(header::COOKIE)
        .flat_map(|field| pairs(field.as_bytes()))
        .filter_map(move |pair| value_of(pair, name))
}

/// Takes every cookie called `name` out of the request.
pub fn hide(headers: &mut Fields, name: &str) {
    headers.retain(|field, value| {
        let (mut hidden, mut others) = (false, false);
        if *field == header::COOKIE {
            for pair in pairs(value.as_bytes()) {
                match value_of(pair, name) {
                    Some(_) => hidden = true,
                    None => others |= !pair.is_empty(),
                }
            }
        }
        if hidden && others {
            *value = without(value, name);
        }
        others || !hidden
    });
}

/// The field without the cookies called `name`.
fn without(field: &HeaderValue, name: &str) -> HeaderValue {
    let mut kept: Vec<u8> = Vec::new();
    for pair in pairs(field.as_bytes()).filter(|pair| !pair.is_empty() && value_of(pair, name).is_none()) {
        if !kept.is_empty() {
            kept.extend_from_slice(b"; ");
        }
        kept.extend_from_slice(pair);
    }
    HeaderValue::from_maybe_shared(bytes::Bytes::from(kept))
        .unwrap_or_else(|_| unreachable!("parts of a field's value make a value"))
}

fn pairs(field: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(field);
    std::iter::from_fn(move || {
        let field = rest?;
        let (pair, after) = match memchr::memchr(b';', field) {
            Some(end) => (&field[..end], Some(&field[end + 1..])),
            None => (field, None),
        };
        rest = after;
        Some(pair.trim_ascii())
    })
}

fn value_of<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let value = pair.strip_prefix(name.as_bytes())?.trim_ascii_start().strip_prefix(b"=")?.trim_ascii_start();
    Some(value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value))
}

/// What an answer does with the application's own session cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApplicationCookie {
    /// Nothing.
    Absent,
    /// It begins, or goes on.
    Set,
    /// It ends.
    Deleted,
}

/// What an answer with these fields does with the cookie called `name`; the last word counts, as with browsers.
pub fn application_cookie(headers: &Fields, name: &str) -> ApplicationCookie {
    let mut fields = headers.get_all(header::SET_COOKIE).rev();
    let value = |field: &HeaderValue| -> Option<ApplicationCookie> {
        let mut parts = pairs(field.as_bytes());
        let value = value_of(parts.next()?, name)?;
        let ended = value.is_empty() || parts.any(is_over);
        Some(if ended { ApplicationCookie::Deleted } else { ApplicationCookie::Set })
    };
    fields.find_map(value).unwrap_or(ApplicationCookie::Absent)
}

/// Whether this attribute of `Set-Cookie` deletes the cookie.
fn is_over(attribute: &[u8]) -> bool {
    let Some((name, value)) = std::str::from_utf8(attribute).ok().and_then(|text| text.split_once('='))
    else {
        return false;
    };
    let (name, value) = (name.trim(), value.trim());
    if name.eq_ignore_ascii_case("max-age") {
        return value.parse::<i64>().is_ok_and(|seconds| seconds <= 0);
    }
    name.eq_ignore_ascii_case("expires")
        && httpdate::parse_http_date(value).is_ok_and(|at| at <= std::time::SystemTime::now())
}

/// Cookies that were opened lately, so that a shopper's next request costs a comparison instead of a decryption.
///
/// A fixed table: each text has one place, found by a part of it that is as good as random, and the newest stays. What is
/// remembered is what opening would give again; expiry is judged anew each time.
pub(crate) struct OpenedCookies(Box<[Cell<Option<Opened>>]>);

#[derive(Clone, Copy)]
struct Opened {
    pool: usize,
    text: [u8; TEXT],
    bond: Bond,
}

/// Places in the table: about half a megabyte.
const OPENED: usize = 4096;

impl OpenedCookies {
    pub(crate) fn new() -> Self {
        Self((0..OPENED).map(|_| Cell::new(None)).collect())
    }

    /// Forgets all: keys and indices of pools are others from now on.
    pub(crate) fn forget(&self) {
        self.0.iter().for_each(|place| place.set(None));
    }

    /// What [`open`] gives for this text as a cookie of the pool with this index.
    pub(crate) fn open(&self, config: &config::Config, pool: usize, text: &[u8]) -> Result<Bond, Verdict> {
        let text: &[u8; TEXT] = text.try_into().map_err(|_| Verdict::Malformed)?;
        // Characters 8 to 16 are in the nonce.
        let part = text[8..16].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let place = &self.0[(part.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as usize % OPENED];
        match place.get() {
            Some(opened) if opened.pool == pool && opened.text == *text => Ok(opened.bond),
            _ => {
                let bond = open(&config.session_keys.ring, &config.pools[pool].name, text)?;
                place.set(Some(Opened { pool, text: *text, bond }));
                Ok(bond)
            }
        }
    }
}

/// The parts of `Set-Cookie` that are the same for every session of a pool.
pub(crate) struct CookieForm {
    before: Box<[u8]>,
    after: Box<[u8]>,
    after_secure: Box<[u8]>,
}

impl CookieForm {
    pub(crate) fn new(stickiness: &config::Stickiness) -> Self {
        let mut after = String::from("; Path=/; HttpOnly; SameSite=");
        after.push_str(match stickiness.same_site {
            SameSite::Strict => "Strict",
            SameSite::Lax => "Lax",
            SameSite::None => "None",
        });
        if let Some(domain) = &stickiness.domain {
            after.push_str("; Domain=");
            after.push_str(domain);
        }
        if stickiness.partitioned {
            after.push_str("; Partitioned");
        }
        let secure = format!("{after}; Secure");
        let plain = if stickiness.secure == Secure::Always { secure.clone() } else { after.clone() };
        let over_tls = if stickiness.secure == Secure::Never { after } else { secure };
        Self {
            before: format!("{}=", stickiness.cookie).into_bytes().into(),
            after: plain.into_bytes().into(),
            after_secure: over_tls.into_bytes().into(),
        }
    }

    /// The field's value that ends the cookie.
    pub(crate) fn deletion(&self, secure: bool) -> Option<HeaderValue> {
        let after = if secure { &self.after_secure } else { &self.after };
        let value = [&self.before, &b"; Max-Age=0"[..], after].concat();
        HeaderValue::from_maybe_shared(bytes::Bytes::from(value)).ok()
    }

    /// The field's value for this cookie. `secure`: the client's connection is encrypted.
    pub(crate) fn set_cookie(&self, text: &[u8; TEXT], secure: bool) -> Option<HeaderValue> {
        let after = if secure { &self.after_secure } else { &self.after };
        let value = [&self.before, &text[..], after].concat();
        HeaderValue::from_maybe_shared(bytes::Bytes::from(value)).ok()
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
