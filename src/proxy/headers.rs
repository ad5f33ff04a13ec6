//! What Selvedge adds to a request and to its answer, and whose word it takes for it.
//!
//! Values that are the same for every request of a connection are made once per connection. Forwarding fields that a
//! client sends are dropped unless the client is a trusted proxy. Fields of the connection are gone before this: see
//! `http1::head`.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use bytes::Bytes;
use http::Version;
use http::header::{self, HeaderName, HeaderValue};

use super::Random;
use super::fields::Fields;
use super::request::Head;
use super::tls::{FAMILY, Identity};
use crate::config::{self, Forwarding};
use crate::decision::Trace;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Asks why a request goes where it goes, and says so.
pub(crate) const TRACE: HeaderName = HeaderName::from_static("x-selvedge-trace");
/// Longest answer to that.
const TRACE_MAX: usize = 4096;
/// Longest request id taken over from a trusted proxy.
const REQUEST_ID_MAX: usize = 128;

/// What is known of a connection's other end.
pub(crate) struct Origin {
    /// The client's address, as far as the connection tells.
    pub(crate) address: SocketAddr,
    /// Its forwarding fields are believed.
    trusted: bool,
    tls: bool,
    /// Who it is, if it was asked for its certificate.
    identity: Option<Rc<Identity>>,
    ip: HeaderValue,
    forwarded_for: HeaderValue,
}

impl Origin {
    pub(crate) fn new(
        listener: &config::Listener,
        address: SocketAddr,
        identity: Option<Rc<Identity>>,
    ) -> Self {
        let ip = address.ip().to_canonical();
        let text = ip.to_string();
        let node = if ip.is_ipv6() { format!("\"[{text}]\"") } else { text.clone() };
        let value = |text: String| {
            HeaderValue::from_maybe_shared(Bytes::from(text))
                .unwrap_or_else(|_| unreachable!("an address is printable"))
        };
        Self {
            address: SocketAddr::new(ip, address.port()),
            trusted: listener.trusted.iter().any(|net| net.contains(&ip)),
            tls: listener.tls.is_some(),
            identity,
            ip: value(text),
            forwarded_for: value(format!("for={node}")),
        }
    }

    /// Whether the client's own connection is encrypted, as far as we know and believe.
    pub(crate) fn is_secure(&self, headers: &Fields) -> bool {
        self.tls
            || (self.trusted
                && headers
                    .get(X_FORWARDED_PROTO)
                    .is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https")))
    }

    /// Whether it is a trusted proxy.
    pub(crate) fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// The address of the client that a trusted proxy names, or else that of the connection.
    pub(crate) fn source(&self, headers: &Fields) -> IpAddr {
        let named = || {
            let list = headers.get_all(X_FORWARDED_FOR).next_back()?.to_str().ok()?;
            list.rsplit(',').next()?.trim().parse::<IpAddr>().ok()
        };
        if self.trusted { named().unwrap_or(self.address.ip()) } else { self.address.ip() }
    }
}

/// The request's id: the client's if it is trusted and well formed, else a fresh one.
pub(crate) fn request_id(origin: &Origin, headers: &Fields, random: &Random) -> HeaderValue {
    if origin.trusted
        && let Some(id) = headers.get(X_REQUEST_ID)
    {
        let fine = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(byte);
        if (1..=REQUEST_ID_MAX).contains(&id.len()) && id.as_bytes().iter().all(fine) {
            return id.clone();
        }
    }
    hex_value(&[random.next(), random.next()])
}

/// An id for a request whose head could not be read.
pub(crate) fn fresh_request_id(random: &Random) -> HeaderValue {
    hex_value(&[random.next(), random.next()])
}

/// Readies a request's fields for any target.
pub(crate) fn forward(origin: &Origin, forwarding: &Forwarding, head: &mut Head, id: &HeaderValue) {
    let version = head.version;
    let headers = &mut head.headers;
    if head.claims_origin {
        // Whole families: applications also believe X-Forwarded-Port, -Prefix and -Ssl.
        headers.retain(|name, _| {
            let where_from = *name == header::FORWARDED || name.as_str().starts_with("x-forwarded-");
            !name.as_str().starts_with(FAMILY) && (origin.trusted || !where_from)
        });
    }
    for (name, value) in origin.identity.iter().flat_map(|identity| identity.fields()) {
        headers.append(name.clone(), value.clone());
    }
    // A scheme in the request's target would be the client's claim.
    const HTTP: HeaderValue = HeaderValue::from_static("http");
    const HTTPS: HeaderValue = HeaderValue::from_static("https");
    let proto = if origin.tls { HTTPS } else { HTTP };
    if forwarding.x_forwarded {
        append_to_list(headers, X_FORWARDED_FOR, &origin.ip);
        if !headers.contains(X_FORWARDED_PROTO) {
            headers.append(X_FORWARDED_PROTO, proto.clone());
        }
        if let Some(host) = headers.get(header::HOST)
            && !headers.contains(X_FORWARDED_HOST)
        {
            let host = host.clone();
            headers.append(X_FORWARDED_HOST, host);
        }
    }
    if forwarding.forwarded {
        let mut element = origin.forwarded_for.as_bytes().to_vec();
        element.extend_from_slice(b";proto=");
        element.extend_from_slice(proto.as_bytes());
        if let Some(host) = headers.get(header::HOST) {
            element.extend_from_slice(b";host=\"");
            element.extend_from_slice(host.as_bytes());
            element.push(b'"');
        }
        if let Ok(element) = HeaderValue::from_maybe_shared(Bytes::from(element)) {
            append_to_list(headers, header::FORWARDED, &element);
        }
    }
    if forwarding.via {
        append_to_list(headers, header::VIA, &via(version));
    }
    if forwarding.request_id {
        headers.insert(X_REQUEST_ID, id.clone());
    }
}

/// What is said to a client that asks why its request went where it did.
pub(crate) fn trace(trace: &Trace) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(trace.in_one_line(TRACE_MAX)))
        .unwrap_or_else(|_| unreachable!("it is printable"))
}

/// Readies an answer's fields for the client.
pub(crate) fn backward(forwarding: &Forwarding, version: Version, headers: &mut Fields) {
    if forwarding.via {
        append_to_list(headers, header::VIA, &via(version));
    }
}

/// Our entry: the protocol that the message came by (RFC 9110 §7.6.3), and our name.
fn via(version: Version) -> HeaderValue {
    const HTTP_10: HeaderValue = HeaderValue::from_static("1.0 selvedge");
    const HTTP_11: HeaderValue = HeaderValue::from_static("1.1 selvedge");
    const HTTP_2: HeaderValue = HeaderValue::from_static("2.0 selvedge");
    match version {
        Version::HTTP_10 => HTTP_10,
        Version::HTTP_2 => HTTP_2,
        _ => HTTP_11,
    }
}

/// Adds an element to a field that is a comma-separated list.
fn append_to_list(headers: &mut Fields, name: HeaderName, element: &HeaderValue) {
    if !headers.contains(&name) {
        return headers.append(name, element.clone());
    }
    let mut list = Vec::new();
    for value in headers.get_all(&name) {
        list.extend_from_slice(value.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(element.as_bytes());
    if let Ok(list) = HeaderValue::from_maybe_shared(Bytes::from(list)) {
        headers.insert(name, list);
    }
}

/// Numbers in lower-case hexadecimal.
fn hex_value(numbers: &[u64; 2]) -> HeaderValue {
    let mut text = Vec::with_capacity(32);
    for number in numbers {
        text.extend((0..16).rev().map(|digit| b"0123456789abcdef"[(number >> (digit * 4) & 15) as usize]));
    }
    HeaderValue::from_maybe_shared(Bytes::from(text))
        .unwrap_or_else(|_| unreachable!("hexadecimal is printable"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;
    use proptest::prelude::*;

    fn origin(trusted: bool) -> Origin {
        let text = "127.0.0.1".parse().unwrap();
        Origin {
            address: SocketAddr::new(text, 1),
            trusted,
            tls: false,
            identity: None,
            ip: HeaderValue::from_static("192.0.2.7"),
            forwarded_for: HeaderValue::from_static("for=192.0.2.7"),
        }
    }

    fn forwarded(trusted: bool, sent: &[(&'static str, &str)]) -> Fields {
        let mut headers = Fields::from_iter([(header::HOST, HeaderValue::from_static("shop.test"))]);
        for (name, value) in sent {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        let mut head = Head {
            version: http::Version::HTTP_11,
            method: Method::GET,
            path: "/".parse().unwrap(),
            headers,
            accepts_trailers: false,
            claims_origin: true,
            expect_continue: false,
            websocket: false,
        };
        let all =
            Forwarding { x_forwarded: true, forwarded: true, via: true, request_id: true, traceparent: true };
        let random = Random::seeded(1);
        let id = request_id(&origin(trusted), &head.headers, &random);
        forward(&origin(trusted), &all, &mut head, &id);
        head.headers
    }

    #[test]
    fn strangers_cannot_forge_where_a_request_comes_from() {
        let sent =
            [("x-forwarded-for", "10.0.0.1"), ("forwarded", "for=10.0.0.1"), ("x-forwarded-proto", "https")];
        let headers = forwarded(false, &sent);
        assert_eq!(headers["x-forwarded-for"], "192.0.2.7");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["forwarded"], "for=192.0.2.7;proto=http;host=\"shop.test\"");
    }

    #[test]
    fn numbers_are_written_in_hexadecimal() {
        for numbers in [[0, u64::MAX], [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210]] {
            assert_eq!(hex_value(&numbers), format!("{:016x}{:016x}", numbers[0], numbers[1]).as_str());
        }
    }

    #[test]
    fn a_trusted_proxy_is_believed_and_continued() {
        let sent = [
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-for", "10.0.0.2"),
            ("x-forwarded-proto", "https"),
            ("x-request-id", "abc-1"),
        ];
        let headers = forwarded(true, &sent);
        assert_eq!(headers["x-forwarded-for"], "10.0.0.1, 10.0.0.2, 192.0.2.7");
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers["x-request-id"], "abc-1");
    }

    proptest! {
        #[test]
        fn no_client_gets_a_forwarding_field_past_us(values in prop::collection::vec("[ -~]{0,30}", 0..5)) {
            let sent: Vec<_> = values.iter().map(|value| ("x-forwarded-for", value.as_str())).collect();
            let headers = forwarded(false, &sent);
            prop_assert_eq!(headers.get_all("x-forwarded-for").collect::<Vec<_>>(), ["192.0.2.7"]);
        }
    }
}
