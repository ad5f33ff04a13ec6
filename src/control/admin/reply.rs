//! Replies of the admin API: JSON, text, and errors that all have one form.
//!
//! `{"error":{"code":"unknown_pool","message":"…"}}`: the code is for programs and does not change, the message is for
//! people; a configuration that is refused adds `"problems"`, a line for each.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::{Either, Full};
use serde::Serialize;

use super::events::Pictures;
use super::guard::Denial;

/// Media type of JSON.
pub(super) const JSON: &str = "application/json";

/// Media type of plain text.
pub(super) const TEXT: &str = "text/plain; charset=utf-8";

/// An answer with its whole body, or one that goes on.
pub(super) type Reply = Response<Either<Full<Bytes>, Pictures>>;

/// A request that cannot be done.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// Everything that is wrong, where the message says only that something is.
    problems: Vec<String>,
    /// A field that the status asks for, such as `Allow`.
    field: Option<Box<(HeaderName, HeaderValue)>>,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: ErrorText<'a>,
}

#[derive(Serialize)]
struct ErrorText<'a> {
    code: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    problems: &'a [String],
}

/// An answer of this type, to be used now and not kept.
pub(super) fn text(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Either::Left(Full::new(body.into())));
    *reply.status_mut() = status;
    let fields = reply.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    reply
}

/// `value` as JSON.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Reply {
    match serde_json::to_vec(value) {
        Ok(body) => text(status, JSON, body),
        Err(error) => {
            tracing::error!(%error, "an answer of the admin API cannot be written as JSON");
            text(StatusCode::INTERNAL_SERVER_ERROR, JSON, "{}")
        }
    }
}

impl ApiError {
    /// An error with this status, code and message.
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), problems: Vec::new(), field: None }
    }

    /// The same with everything that is wrong.
    pub(super) fn with_problems(self, problems: Vec<String>) -> Self {
        Self { problems, ..self }
    }

    /// The method is not one of `allowed`.
    pub(super) fn method_not_allowed(allowed: &'static str) -> Self {
        let field = Some(Box::new((header::ALLOW, HeaderValue::from_static(allowed))));
        let message = format!("use {}", allowed.replace(", ", " or "));
        Self { field, ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message) }
    }
}

impl From<Denial> for ApiError {
    fn from(denial: Denial) -> Self {
        match denial {
            Denial::Token => {
                let challenge = HeaderValue::from_static("Bearer realm=\"selvedge\"");
                let message = "send the token of admin.token_file as \"Authorization: Bearer TOKEN\"";
                let error = Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message);
                Self { field: Some(Box::new((header::WWW_AUTHENTICATE, challenge))), ..error }
            }
            Denial::Host => Self::new(
                StatusCode::FORBIDDEN,
                "foreign_host",
                "the Host field does not name this API: use its address, or localhost",
            ),
            Denial::Origin => Self::new(
                StatusCode::FORBIDDEN,
                "foreign_origin",
                "pages of other origins may not use this API",
            ),
        }
    }
}

impl From<ApiError> for Reply {
    fn from(error: ApiError) -> Self {
        let body = ErrorBody {
            error: ErrorText { code: error.code, message: &error.message, problems: &error.problems },
        };
        let mut reply = json(error.status, &body);
        if let Some((name, value)) = error.field.map(|field| *field) {
            reply.headers_mut().insert(name, value);
        }
        reply
    }
}
