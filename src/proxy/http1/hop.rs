//! What the fields of one head say of this hop: lengths, codings, `Connection`, `Host`, `Expect`, `Upgrade`.
//!
//! Gathered in one pass: what belongs to the connection is kept here, what is end to end goes into the list. Whether that
//! makes a message is asked afterwards, when the whole head is known. Lines and their splitting are not known here.

use http::header::{self, HeaderName, HeaderValue};
use http::{Method, StatusCode};

use super::framing::Framing;
use super::head::BadAnswer;
use super::lines::Field;
use super::names::Role;
use super::target::is_host;
use crate::pool::Refusal;
use crate::proxy::fields::Fields;

/// `Connection` names what it may not name.
pub(super) struct BadConnection;

/// What the fields of one head say, gathered in one pass.
pub(super) struct Hop<'a> {
    fields: &'a mut Fields,
    pub(super) content_length: Option<u64>,
    bad_length: bool,
    transfer_encoding: Option<Coding>,
    hosts: u32,
    connection: Vec<HeaderValue>,
    pub(super) upgrade: Option<HeaderValue>,
    pub(super) expect: Option<HeaderValue>,
    pub(super) accepts_trailers: bool,
    pub(super) claims_origin: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Coding {
    Chunked,
    /// A registered coding that is not supported here.
    Unsupported,
    Nonsense,
}

/// What `Connection` says.
pub(super) struct Connection {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
}

impl<'a> Hop<'a> {
    pub(super) fn new(fields: &'a mut Fields) -> Self {
        Self {
            fields,
            content_length: None,
            bad_length: false,
            transfer_encoding: None,
            hosts: 0,
            connection: Vec::new(),
            upgrade: None,
            expect: None,
            accepts_trailers: false,
            claims_origin: false,
        }
    }

    /// Takes a field in.
    pub(super) fn add(&mut self, Field { name, role, value }: Field) {
        match role {
            Role::EndToEnd => self.fields.append(name, value),
            Role::Host => {
                self.hosts += 1;
                self.fields.append(name, value);
            }
            Role::Origin => {
                self.claims_origin = true;
                self.fields.append(name, value);
            }
            Role::ContentLength => self.add_content_length(&value),
            Role::TransferEncoding => {
                let coding = Coding::of(value.as_bytes());
                // A second field makes a list, and a list is never exactly one `chunked`.
                self.transfer_encoding = Some(match self.transfer_encoding {
                    None => coding,
                    Some(_) => Coding::Nonsense,
                });
            }
            Role::Connection => self.connection.push(value),
            Role::Te => {
                self.accepts_trailers |= tokens(value.as_bytes()).any(|token| {
                    let name = token.split(|byte| *byte == b';').next().unwrap_or_default();
                    name.trim_ascii().eq_ignore_ascii_case(b"trailers")
                });
            }
            Role::Upgrade => self.upgrade = Some(value),
            Role::Expect => self.expect = Some(value),
            Role::Hop => {}
        }
    }

    /// One number, or the same number again (RFC 9110 §8.6).
    fn add_content_length(&mut self, value: &HeaderValue) {
        let digits = value.as_bytes();
        let number = (!digits.is_empty() && digits.iter().all(u8::is_ascii_digit))
            .then(|| std::str::from_utf8(digits).ok()?.parse().ok())
            .flatten();
        match (number, self.content_length) {
            (None, _) => self.bad_length = true,
            (Some(number), Some(before)) if number != before => self.bad_length = true,
            (Some(number), _) => self.content_length = Some(number),
        }
    }

    pub(super) fn request_framing(&self, http10: bool) -> Result<Framing, Refusal> {
        if self.bad_length {
            return Err(Refusal::ContentLength);
        }
        match (self.transfer_encoding, self.content_length) {
            (None, None) => Ok(Framing::None),
            (None, Some(length)) => Ok(Framing::Length(length)),
            (Some(_), Some(_)) => Err(Refusal::LengthConflict),
            (Some(_), None) if http10 => Err(Refusal::TransferEncoding),
            (Some(Coding::Chunked), None) => Ok(Framing::Chunked),
            (Some(Coding::Unsupported), None) => Err(Refusal::TransferCoding),
            (Some(Coding::Nonsense), None) => Err(Refusal::TransferEncoding),
        }
    }

    pub(super) fn answer_framing(
        &self,
        status: StatusCode,
        request: &Method,
        http10: bool,
    ) -> Result<Framing, BadAnswer> {
        if self.bad_length {
            return Err(BadAnswer("its Content-Length is not one number"));
        }
        let framing = match (self.transfer_encoding, self.content_length) {
            (None, None) => Framing::Close,
            (None, Some(length)) => Framing::Length(length),
            (Some(_), Some(_)) => return Err(BadAnswer("it has Content-Length and Transfer-Encoding")),
            (Some(Coding::Chunked), None) if !http10 => Framing::Chunked,
            (Some(_), None) => return Err(BadAnswer("its Transfer-Encoding is not exactly chunked")),
        };
        let bodiless = status.is_informational()
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED
            || request == Method::HEAD;
        Ok(if bodiless { Framing::None } else { framing })
    }

    /// The host that the request is for: exactly one, well formed, and the same wherever it is said.
    pub(super) fn host(&mut self, authority: Option<HeaderValue>, http10: bool) -> Result<(), Refusal> {
        if self.hosts > 1 || (self.hosts == 0 && !http10) {
            return Err(Refusal::Host);
        }
        let host = self.fields.get(header::HOST);
        for value in [host, authority.as_ref()].into_iter().flatten() {
            if !is_host(value.as_bytes()) {
                return Err(Refusal::Host);
            }
        }
        match (host, authority) {
            (Some(host), Some(authority)) if !host.as_bytes().eq_ignore_ascii_case(authority.as_bytes()) => {
                Err(Refusal::Host)
            }
            (None, Some(authority)) => {
                self.fields.append(header::HOST, authority);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Takes out of the list what `Connection` names.
    pub(super) fn connection(&mut self, of_request: bool) -> Result<Connection, BadConnection> {
        let mut connection = Connection { close: false, keep_alive: false, upgrade: false };
        for value in std::mem::take(&mut self.connection) {
            for token in tokens(value.as_bytes()) {
                if token.eq_ignore_ascii_case(b"close") {
                    connection.close = true;
                } else if token.eq_ignore_ascii_case(b"keep-alive") {
                    connection.keep_alive = true;
                } else if token.eq_ignore_ascii_case(b"upgrade") {
                    connection.upgrade = true;
                } else {
                    let name = HeaderName::from_bytes(token).map_err(|_| BadConnection)?;
                    let needed = [
                        header::HOST,
                        header::CONTENT_LENGTH,
                        header::COOKIE,
                        header::AUTHORIZATION,
                        header::SET_COOKIE,
                        header::TRANSFER_ENCODING,
                    ];
                    if needed.contains(&name) {
                        if of_request {
                            return Err(BadConnection);
                        }
                        continue;
                    }
                    self.fields.retain(|other, _| *other != name);
                }
            }
        }
        Ok(connection)
    }

    pub(super) fn asks_for_websocket(&self) -> bool {
        self.upgrade.as_ref().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
    }
}

impl Coding {
    fn of(value: &[u8]) -> Self {
        if value.eq_ignore_ascii_case(b"chunked") {
            return Self::Chunked;
        }
        let registered = |token: &[u8]| {
            [&b"gzip"[..], b"x-gzip", b"deflate", b"compress", b"x-compress"]
                .iter()
                .any(|coding| token.eq_ignore_ascii_case(coding))
        };
        let mut list: Vec<&[u8]> = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).collect();
        if list.last().is_some_and(|last| last.eq_ignore_ascii_case(b"chunked")) {
            list.pop();
        }
        if !list.is_empty() && list.into_iter().all(registered) { Self::Unsupported } else { Self::Nonsense }
    }
}

/// The members of a comma-separated list, without empty ones.
fn tokens(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}
