//! What can go wrong with a request, in one type: its status, and the words for the person who sent it.
//!
//! A handler returns it without knowing who asked. The outermost layer ([`crate::instance`]) finds it on the response and
//! writes it as JSON below `/api/`, and as a page elsewhere. Details of internal failures go to the log, never to the client.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

/// When somebody who was answered 503 should ask again.
const RETRY_SECONDS: &str = "2";

/// Why a request was not done.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    /// 400: the request cannot be understood.
    Malformed(String),
    /// 401: it needs somebody who is logged in.
    LoginNeeded,
    /// 401: no such account, or not its password. Deliberately not which of the two.
    WrongPassword,
    /// 403: it does not come from one of the shop's own pages.
    Forbidden(&'static str),
    /// 404.
    NotFound,
    /// 405.
    WrongMethod,
    /// 408: the client took too long to send it, or the shop to answer it.
    TooSlow,
    /// 409: what it wants is no longer possible.
    Conflict(String),
    /// 412: the cart is not what `If-Match` says any more.
    CartChanged,
    /// 413: the body is larger than [`crate::instance::MAX_BODY`].
    TooLarge,
    /// 415: the body is of the wrong type; names the right one.
    WrongType(&'static str),
    /// 422: a value is not acceptable.
    Invalid(Invalid),
    /// 503: the database has too many others to serve.
    Busy,
    /// 503: the store of carts and logins does not answer, or too late. Never shown as an empty cart.
    CartsAway,
    /// 503: the database of accounts, orders and the catalogue does not answer, or too late. Never shown as an empty page.
    DatabaseAway,
    /// 500: the shop's own fault.
    Internal,
}

/// A value that is not acceptable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Invalid {
    /// Name of the JSON key or form field.
    pub(crate) field: &'static str,
    /// What is wrong with it and what would be right.
    pub(crate) message: String,
}

impl Failure {
    /// A value that is not acceptable.
    pub(crate) fn invalid(field: &'static str, message: impl Into<String>) -> Self {
        Self::Invalid(Invalid { field, message: message.into() })
    }

    /// The shop's own fault; the reason is logged here, because the client does not get to see it.
    pub(crate) fn internal(reason: impl std::fmt::Display) -> Self {
        eprintln!("myclothes: internal error: {reason}");
        Self::Internal
    }

    /// The store of carts cannot be asked. Logged once a second at most: while it is away, every request says so.
    pub(crate) fn carts_away(store: &str, reason: impl std::fmt::Display) -> Self {
        static LOGGED: AtomicI64 = AtomicI64::new(0);
        let now = crate::sessions::unix_now();
        if LOGGED.swap(now, Relaxed) != now {
            eprintln!("myclothes: the store of carts ({store}) cannot be asked: {reason}");
        }
        Self::CartsAway
    }

    /// The database cannot be asked. Logged once a second at most, as above.
    pub(crate) fn database_away(reason: impl std::fmt::Display) -> Self {
        static LOGGED: AtomicI64 = AtomicI64::new(0);
        let now = crate::sessions::unix_now();
        if LOGGED.swap(now, Relaxed) != now {
            eprintln!("myclothes: the database cannot be asked: {reason}");
        }
        Self::DatabaseAway
    }

    /// Status of the response.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::LoginNeeded | Self::WrongPassword => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::WrongMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::CartChanged => StatusCode::PRECONDITION_FAILED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::WrongType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Busy | Self::CartsAway | Self::DatabaseAway => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// One sentence for the person who sent the request.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::Malformed(message) | Self::Conflict(message) => message.clone(),
            Self::Invalid(invalid) => invalid.message.clone(),
            Self::LoginNeeded => "Log in first.".into(),
            Self::WrongPassword => "There is no account with this e-mail address and password.".into(),
            Self::Forbidden(message) => (*message).into(),
            Self::NotFound => "There is nothing at this address.".into(),
            Self::WrongMethod => "This address does not take that kind of request.".into(),
            Self::TooSlow => "The request took too long.".into(),
            Self::CartChanged => "The cart has changed meanwhile. Look at it again.".into(),
            Self::TooLarge => "The request is too large.".into(),
            Self::WrongType(wanted) => format!("The body must be {wanted}."),
            Self::Busy => "The shop is very busy. Try again in a moment.".into(),
            Self::CartsAway => "Your cart cannot be reached at the moment. What is in it is kept. Try again in a few seconds, and \
                                look into it before you repeat what you just did."
                .into(),
            Self::DatabaseAway => "The shop cannot look that up or write it down at the moment. Nothing is bought twice if you try again \
                                   in a few seconds."
                .into(),
            Self::Internal => "Something went wrong in the shop. It has been noted.".into(),
        }
    }

    /// The field that is to blame, if it is one field.
    pub(crate) fn field(&self) -> Option<&'static str> {
        match self {
            Self::Invalid(invalid) => Some(invalid.field),
            _ => None,
        }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => Self::Busy,
            _ => Self::internal(error),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        if response.status() == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(RETRY_SECONDS));
        }
        response.extensions_mut().insert(self);
        response
    }
}
