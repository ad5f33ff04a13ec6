//! A request as the exchange sees it, whatever protocol brought it.

use http::header::{self, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Version};

use super::fields::Fields;

/// What is end to end in a request, checked: fields of the connection are gone, Host is one and well formed.
#[derive(Debug)]
pub struct Head {
    /// Protocol that brought it.
    pub(crate) version: Version,
    /// Neither CONNECT nor TRACE.
    pub(crate) method: Method,
    /// Begins with `/`, or is `*`.
    pub(crate) path: PathAndQuery,
    /// End-to-end fields, Host included.
    pub(crate) headers: Fields,
    /// A field is there that says where the request comes from (`Forwarded` or one of its `X-Forwarded-` forebears), or from
    /// whom (`x-client-cert-…`).
    pub(crate) claims_origin: bool,
    /// The client can take trailers.
    pub(crate) accepts_trailers: bool,
    /// The client waits for 100 before it sends the body.
    pub(crate) expect_continue: bool,
    /// The client asks for a WebSocket.
    pub(crate) websocket: bool,
}

impl Head {
    /// A GET over HTTP/1.1 with no field but Host.
    pub fn get(host: HeaderValue, path: PathAndQuery) -> Self {
        Self {
            version: Version::HTTP_11,
            method: Method::GET,
            headers: Fields::from_iter([(header::HOST, host)]),
            path,
            claims_origin: false,
            accepts_trailers: false,
            expect_continue: false,
            websocket: false,
        }
    }

    /// Host as sent, with its port; `None` only from HTTP/1.0.
    pub(crate) fn host(&self) -> Option<&HeaderValue> {
        self.headers.get(header::HOST)
    }

    /// Whether doing it twice is the same as doing it once (RFC 9110 §9.2.2), or the client has said how to tell.
    pub(crate) fn is_repeatable(&self) -> bool {
        let safe = matches!(
            self.method,
            Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE
        );
        (safe && !self.websocket) || self.headers.contains("idempotency-key")
    }
}
