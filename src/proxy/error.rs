//! Why a request has no answer of a target: what, whose fault, and the page that says so.
//!
//! One `match` from error to status. The page is text, JSON or HTML as the client prefers, and carries the request's id
//! so that a user's report can be found in the log. It never says which target failed: that is for the log.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{StatusCode, Version};

use super::body::{Answer, Body, Cut};
use super::fields::Fields;
use super::grpc;
use super::headers::X_REQUEST_ID;
use crate::pool::{Failure, Overload, Refusal};

/// See the module's documentation.
#[derive(Debug)]
pub(crate) enum ProxyError {
    /// The client's fault.
    Refused(Refusal),
    /// The client has left; nobody reads the answer.
    ClientGone,
    /// No target takes requests, and none did within the queue's deadline.
    NoTarget,
    /// Its client asks more often than it may; whole seconds until it may again.
    RateLimited { retry_after: u64 },
    /// The node has no room for it.
    NoRoom(Overload),
    /// The pool has as many requests in flight as it may.
    Overloaded,
    /// Every target is full and so is the queue.
    QueueFull,
    /// Every target stayed full for the queue's deadline.
    QueueTimeout,
    /// A target's fault.
    Target {
        failure: Failure,
        /// `zone/address`.
        target: String,
        /// In words, for the log.
        why: String,
    },
}

impl ProxyError {
    pub(crate) fn refused(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }

    pub(crate) fn client_gone() -> Self {
        Self::ClientGone
    }

    pub(crate) fn target(failure: Failure, target: String, why: String) -> Self {
        Self::Target { failure, target, why }
    }

    /// As the access log writes it.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.as_str(),
            Self::ClientGone => Cut::Gone.code(),
            Self::NoTarget => "no_target",
            Self::RateLimited { .. } => Refusal::RateLimited.as_str(),
            Self::NoRoom(_) => "no_room",
            Self::Overloaded => "overloaded",
            Self::QueueFull => "queue_full",
            Self::QueueTimeout => "queue_timeout",
            Self::Target { failure, .. } => failure.as_str(),
        }
    }

    /// Status, short code for machines, sentence for people.
    fn describe(&self) -> (StatusCode, &'static str, &'static str) {
        use Refusal as R;
        match self {
            Self::Refused(refusal) => match refusal {
                R::NoRoute => (StatusCode::NOT_FOUND, "no_route", "Nothing is served at this address."),
                R::Method => (StatusCode::METHOD_NOT_ALLOWED, "method", "This method is not allowed here."),
                R::Version => (
                    StatusCode::HTTP_VERSION_NOT_SUPPORTED,
                    "version",
                    "This version of HTTP is not supported.",
                ),
                R::Websocket => {
                    (StatusCode::NOT_IMPLEMENTED, "websocket", "This service cannot be reached by WebSocket.")
                }
                R::Expectation => {
                    (StatusCode::EXPECTATION_FAILED, "expectation", "Only 100-continue can be expected.")
                }
                R::HeadTooLarge => (
                    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                    "head_too_large",
                    "The request has too many or too large header fields, or too many cookies.",
                ),
                R::TargetTooLong => (StatusCode::URI_TOO_LONG, "target_too_long", "The address is too long."),
                R::BodyTooLarge => {
                    (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "The request is too large.")
                }
                R::TransferCoding => (
                    StatusCode::NOT_IMPLEMENTED,
                    "transfer_coding",
                    "Only the chunked transfer coding is supported.",
                ),
                R::HeadTimeout | R::BodyTimeout => {
                    (StatusCode::REQUEST_TIMEOUT, refusal.as_str(), "The request did not arrive in time.")
                }
                _ => (StatusCode::BAD_REQUEST, refusal.as_str(), "The request is malformed."),
            },
            Self::ClientGone => (StatusCode::BAD_REQUEST, "client_gone", "The client has left."),
            Self::NoTarget => (
                StatusCode::SERVICE_UNAVAILABLE,
                "no_target",
                "The service is not available. Please try again.",
            ),
            Self::RateLimited { .. } => {
                (StatusCode::TOO_MANY_REQUESTS, "rate_limited", "Too many requests. Please wait a little.")
            }
            Self::NoRoom(_) | Self::Overloaded | Self::QueueFull | Self::QueueTimeout => {
                (StatusCode::SERVICE_UNAVAILABLE, "overloaded", "The service is busy. Please try again.")
            }
            Self::Target { failure: Failure::FirstByteTimeout | Failure::ConnectTimeout, .. } => {
                (StatusCode::GATEWAY_TIMEOUT, "target_timeout", "The service did not answer in time.")
            }
            Self::Target { .. } => (
                StatusCode::BAD_GATEWAY,
                "target_failed",
                "The service gave no proper answer. Please try again.",
            ),
        }
    }

    /// The page for the client, in the form that it reads.
    pub(crate) fn into_answer(self, reader: &Reader, request_id: &HeaderValue) -> Answer {
        let (status, code, message) = self.describe();
        let retry_after = match self {
            Self::RateLimited { retry_after } => Some(HeaderValue::from(retry_after)),
            _ if status == StatusCode::SERVICE_UNAVAILABLE => Some(HeaderValue::from_static("1")),
            _ => None,
        };
        let id = request_id.to_str().unwrap_or_default();
        let mut headers = Fields::new();
        if reader.grpc {
            grpc::fail(&mut headers, status, message);
            headers.append(X_REQUEST_ID, request_id.clone());
            return Answer {
                version: Version::HTTP_11,
                status: StatusCode::OK,
                headers,
                body: Body::Empty,
                record: None,
            };
        }
        let (content_type, text) = match Form::preferred(reader.accept.as_ref()) {
            Form::Text => ("text/plain; charset=utf-8", text(status, message, id)),
            Form::Json => ("application/json", json(status, code, message, id)),
            Form::Html => ("text/html; charset=utf-8", html(status, message, id)),
        };
        headers.append(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.append(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.append(X_REQUEST_ID, request_id.clone());
        if let Some(retry_after) = retry_after {
            headers.append(header::RETRY_AFTER, retry_after);
        }
        if status == StatusCode::METHOD_NOT_ALLOWED {
            let allowed = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
            headers.append(header::ALLOW, allowed);
        }
        Answer {
            version: Version::HTTP_11,
            status,
            headers,
            body: Body::Full(Bytes::from(text)),
            record: None,
        }
    }
}

/// What the client that gets an error can read.
#[derive(Default)]
pub(crate) struct Reader {
    accept: Option<HeaderValue>,
    /// It calls a method of gRPC.
    grpc: bool,
}

impl Reader {
    /// Who sends a request with these fields.
    pub(crate) fn of(headers: &Fields) -> Self {
        Self::who_sends(headers.get(header::ACCEPT), headers.get(header::CONTENT_TYPE))
    }

    /// Who sends a request with these values of Accept and Content-Type.
    pub(crate) fn who_sends(accept: Option<&HeaderValue>, content_type: Option<&HeaderValue>) -> Self {
        Self { accept: accept.cloned(), grpc: grpc::is_call(content_type) }
    }
}

/// Form of an error page.
enum Form {
    Text,
    Json,
    Html,
}

impl Form {
    /// The form that `Accept` likes best, the first among equals; text when it names none of ours.
    fn preferred(accept: Option<&HeaderValue>) -> Self {
        let Some(accept) = accept.and_then(|value| value.to_str().ok()) else { return Self::Text };
        let mut best = (0.0, Self::Text);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let form = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
                "text/html" | "application/xhtml+xml" => Self::Html,
                "application/json" | "application/problem+json" | "application/*" => Self::Json,
                "text/plain" | "text/*" => Self::Text,
                _ => continue,
            };
            let quality =
                parts.find_map(|part| part.strip_prefix("q=")).map_or(Some(1.0), |q| q.parse().ok());
            if quality.is_some_and(|quality: f32| quality > best.0) {
                best = (quality.unwrap_or_default(), form);
            }
        }
        best.1
    }
}

fn text(status: StatusCode, message: &str, id: &str) -> String {
    format!("{} {}\n\n{message}\nRequest id: {id}\n", status.as_u16(), reason(status))
}

fn json(status: StatusCode, code: &str, message: &str, id: &str) -> String {
    // Nothing here needs escaping: all but the id is ours, and the id is checked where it comes in.
    format!(
        "{{\"error\":{{\"status\":{},\"code\":\"{code}\",\"message\":\"{message}\",\"request_id\":\"{id}\"}}}}\n",
        status.as_u16()
    )
}

fn html(status: StatusCode, message: &str, id: &str) -> String {
    let (code, reason) = (status.as_u16(), reason(status));
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{code} {reason}</title>\n\
         <style>body{{font:1rem/1.5 system-ui,sans-serif;max-width:36rem;margin:15vh auto;padding:0 1rem}}\
         small{{opacity:.75}}</style>\n\
         <h1>{code} {reason}</h1>\n<p>{message}</p>\n<p><small>Request id: {id}</small></p>\n</html>\n"
    )
}

fn reason(status: StatusCode) -> &'static str {
    status.canonical_reason().unwrap_or_default()
}
