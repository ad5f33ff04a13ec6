//! What requests bring: ids in paths, JSON bodies, forms. Checked here, so that a handler never sees an unchecked one.
//!
//! Three things keep other web sites from acting for a visitor. The cookie is `SameSite=Lax`. A request that changes something and
//! says where it comes from must come from this host ([`from_this_site`], asked for every request). And a form
//! must carry the token that was put into it when it was shown, while the API takes `application/json` only, which a foreign
//! page cannot send without being asked first.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::header::{CONTENT_TYPE, HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode};
use serde::de::DeserializeOwned;

use crate::failure::Failure;
use crate::instance::App;
use crate::sessions::Visitor;

/// The number at the end of a path. Anything else there is an address that does not exist.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Id(pub(crate) i64);

impl FromRequestParts<App> for Id {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Failure> {
        let Path(text) =
            Path::<String>::from_request_parts(parts, app).await.map_err(|_| Failure::NotFound)?;
        text.parse().map(Self).map_err(|_| Failure::NotFound)
    }
}

/// A JSON body. `None` when the request has no body.
pub(crate) struct Json<T>(pub(crate) Option<T>);

impl<T: DeserializeOwned> FromRequest<App> for Json<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, app: &App) -> Result<Self, Failure> {
        let typed = media_type(request.headers());
        let body = body(request, app).await?;
        match typed.as_deref() {
            Some("application/json") => {}
            None if body.is_empty() => {}
            _ => return Err(Failure::WrongType("application/json")),
        }
        if body.is_empty() {
            return Ok(Self(None));
        }
        serde_json::from_slice(&body)
            .map(|value| Self(Some(value)))
            .map_err(|error| Failure::Malformed(format!("The body cannot be used: {error}.")))
    }
}

impl<T> Json<T> {
    /// The body, where one is required.
    pub(crate) fn required(self) -> Result<T, Failure> {
        self.0.ok_or_else(|| Failure::Malformed("The request needs a JSON body.".into()))
    }
}

/// A form that was shown to this visitor.
pub(crate) struct Form {
    pub(crate) visitor: Visitor,
    fields: Vec<(String, String)>,
}

impl Form {
    /// The first field of this name; empty when there is none.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.fields.iter().find(|(field, _)| field == name).map_or("", |(_, value)| value)
    }

    /// A field that must be a whole number; text that is none becomes 0, which no field accepts.
    pub(crate) fn number(&self, name: &str) -> i64 {
        self.get(name).trim().parse().unwrap_or(0)
    }
}

impl FromRequest<App> for Form {
    type Rejection = Failure;

    async fn from_request(request: Request, app: &App) -> Result<Self, Failure> {
        const TYPE: &str = "application/x-www-form-urlencoded";
        if media_type(request.headers()).as_deref() != Some(TYPE) {
            return Err(Failure::WrongType(TYPE));
        }
        let (mut parts, body) = request.into_parts();
        let Ok(visitor) = Visitor::from_request_parts(&mut parts, app).await;
        let request = Request::from_parts(parts, body);
        let fields = match axum::Form::from_request(request, app).await {
            Ok(axum::Form(fields)) => fields,
            Err(error) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => return Err(Failure::TooLarge),
            Err(_) => return Err(Failure::Malformed("The form cannot be read.".into())),
        };
        let form = Self { visitor, fields };
        if form.visitor.sid.accepts_form(app.store.form_secret(), form.get("token")) {
            return Ok(form);
        }
        Err(Failure::Forbidden("This form is no longer valid. Go back, reload the page and try again."))
    }
}

/// Whether a request may change something: true unless it says that another site's page sent it.
pub(crate) fn from_this_site(method: &Method, headers: &HeaderMap) -> bool {
    if method.is_safe() {
        return true;
    }
    if headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site" || site == "same-site") {
        return false;
    }
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let origin_host = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    matches!((origin_host, host), (Some(origin), Some(host)) if origin.eq_ignore_ascii_case(host))
}

async fn body(request: Request, app: &App) -> Result<Bytes, Failure> {
    Bytes::from_request(request, app).await.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Failure::TooLarge,
        _ => Failure::Malformed("The body ended early.".into()),
    })
}

/// The `Content-Type` without parameters, in lower case.
fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().unwrap_or_default();
    Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_change_must_not_come_from_another_site() {
        let post = |fields: &[_]| from_this_site(&Method::POST, &headers(fields));
        assert!(post(&[("host", "shop.test:8080")]));
        assert!(post(&[("host", "shop.test:8080"), ("origin", "http://shop.test:8080")]));
        assert!(post(&[
            ("host", "shop.test"),
            ("origin", "https://Shop.test"),
            ("sec-fetch-site", "same-origin")
        ]));
        assert!(!post(&[("host", "shop.test:8080"), ("origin", "http://shop.test")]));
        assert!(!post(&[("host", "shop.test"), ("origin", "http://evil.test")]));
        assert!(!post(&[("host", "shop.test"), ("origin", "null")]));
        assert!(!post(&[("host", "shop.test"), ("sec-fetch-site", "cross-site")]));
        assert!(from_this_site(&Method::GET, &headers(&[("origin", "http://evil.test")])));
    }
}
