//! The way for interim answers (1xx) to reach the client before the exchange is over, whatever protocol it speaks.

use http::StatusCode;

use super::error::ProxyError;
use super::fields::Fields;
use super::{http1, http2};

/// See the module's documentation.
pub(crate) enum Inform<'a> {
    /// To an HTTP/1 connection.
    Http1(http1::Informer<'a>),
    /// To a stream of an HTTP/2 connection.
    Http2(&'a http2::Responder),
}

impl Inform<'_> {
    /// Passes a 1xx on.
    pub(crate) async fn send(&self, status: StatusCode, headers: &Fields) -> Result<(), ProxyError> {
        match self {
            Self::Http1(informer) => informer.send(status, headers).await,
            Self::Http2(responder) => responder.inform(status, headers),
        }
    }
}
