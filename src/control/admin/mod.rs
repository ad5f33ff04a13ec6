//! The admin API: HTTP/1.1 on loopback or a unix socket, for operators, monitoring and the dashboard.
//!
//! ```text
//! connection::serve ─▶ answer: which endpoint → may they ask → which method → do it
//! ```
//!
//! It must keep answering when the node is in trouble, so everything is bounded: connections, their life, heads,
//! bodies, and the time for one request. It shares the control thread with the checks, and does no work that waits, but for
//! the reload that it asks for.

mod change;
mod connection;
mod dashboard;
mod dns_view;
mod endpoint;
mod events;
mod explain;
mod guard;
mod listen;
mod register;
mod reload;
mod reply;
mod upgrade;
mod view;

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use serde::Deserialize;
use tokio::time::timeout;

use super::{Control, metrics};
use crate::telemetry::process::Process;
use crate::telemetry::prometheus;
pub(super) use connection::serve;
use dns_view::DnsView;
use endpoint::Endpoint;
use events::{Feed, Hold};
use guard::Guard;
pub use listen::{AdminListener, BindError, SocketFile};
use reply::{ApiError, JSON, Reply, TEXT, json, text};
use view::{NodeView, PoolView};

/// For the whole of a request's body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a request's body.
const BODY_MAX: usize = 64 * 1024;

/// What the API is, for programs that write clients.
const OPENAPI: &str = include_str!("openapi.json");

/// One connection to the API.
struct Link {
    guard: Guard,
    feed: Rc<Feed>,
    hold: Rc<Hold>,
}

/// Answers one request.
async fn answer(control: &Control, link: &Link, request: Request<Incoming>) -> Reply {
    let result = match admit(&link.guard, &request) {
        Ok(endpoint) => reply(control, link, endpoint, request).await,
        Err(error) => Err(error),
    };
    result.unwrap_or_else(Reply::from)
}

/// The endpoint that the request names, if it is there, the sender may use it, and it answers the method.
fn admit(guard: &Guard, request: &Request<Incoming>) -> Result<Endpoint, ApiError> {
    let endpoint = Endpoint::parse(request.uri().path());
    if !endpoint.as_ref().is_some_and(Endpoint::is_public) {
        guard.admit(request.headers())?;
    }
    let endpoint = endpoint.ok_or_else(|| {
        let message = "nothing is here: /v1/openapi.json lists what there is";
        ApiError::new(StatusCode::NOT_FOUND, "not_found", message)
    })?;
    if endpoint.answers(request.method()) {
        Ok(endpoint)
    } else {
        Err(ApiError::method_not_allowed(endpoint.methods()))
    }
}

async fn reply(
    control: &Control,
    link: &Link,
    endpoint: Endpoint,
    request: Request<Incoming>,
) -> Result<Reply, ApiError> {
    match endpoint {
        Endpoint::Dashboard => Ok(dashboard::page()),
        Endpoint::Livez => Ok(text(StatusCode::OK, TEXT, "ok\n")),
        Endpoint::Readyz => Ok(match control.ready() {
            Ok(()) => text(StatusCode::OK, TEXT, "ok\n"),
            Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, TEXT, reason + "\n"),
        }),
        Endpoint::Metrics => {
            let metrics = metrics::render(control, &Process::read());
            Ok(text(StatusCode::OK, prometheus::CONTENT_TYPE, metrics))
        }
        Endpoint::OpenApi => Ok(text(StatusCode::OK, JSON, OPENAPI)),
        Endpoint::Reload => reload::reload(control, request).await,
        Endpoint::Explain => explain::explain(control, &read_json(request).await?),
        Endpoint::Upgrade => upgrade::upgrade(control, read_json_or_nothing(request).await?).await,
        Endpoint::Dns => {
            let nodes = control.dns.as_ref().ok_or_else(no_dns)?;
            Ok(json(StatusCode::OK, &DnsView::of(nodes)))
        }
        Endpoint::Events => link.feed.begin(control, request.method(), &link.hold),
        Endpoint::Pools => Ok(json(StatusCode::OK, &NodeView::of(control))),
        Endpoint::Pool(name) => {
            let pool = control.pool(&name).ok_or_else(|| unknown_pool(&name))?;
            Ok(json(StatusCode::OK, &PoolView::of(&pool)))
        }
        Endpoint::TargetState { pool, target } => {
            change::set_state(control, &pool, &target, &read_json(request).await?).await
        }
        Endpoint::Target { pool, target } if request.method() == Method::DELETE => {
            register::deregister(control, &pool, &target).await
        }
        Endpoint::Target { pool, target } => {
            register::register(control, &pool, &target, read_json_or_nothing(request).await?).await
        }
        Endpoint::Shift(zone) if request.method() == Method::DELETE => {
            change::restore(control, &zone, is_dry_run(request.uri())?).await
        }
        Endpoint::Shift(zone) => change::shift(control, &zone, read_json(request).await?).await,
    }
}

/// Whether the query asks for nothing but what would happen.
fn is_dry_run(uri: &Uri) -> Result<bool, ApiError> {
    match uri.query() {
        None | Some("" | "dry_run=false") => Ok(false),
        Some("dry_run=true") => Ok(true),
        Some(_) => {
            let message = "the query may be dry_run=true and nothing else";
            Err(ApiError::new(StatusCode::BAD_REQUEST, "bad_query", message))
        }
    }
}

fn no_dns() -> ApiError {
    let message = "this node answers no DNS: its configuration has no [dns]";
    ApiError::new(StatusCode::NOT_FOUND, "no_dns", message)
}

fn unknown_pool(name: &str) -> ApiError {
    let message = format!("there is no pool {name:?}: GET /v1/pools lists them");
    ApiError::new(StatusCode::NOT_FOUND, "unknown_pool", message)
}

/// The body of a request that changes something.
async fn read_json<T: for<'de> Deserialize<'de>>(request: Request<Incoming>) -> Result<T, ApiError> {
    if !is_json(request.headers()) {
        let message = "send JSON, with \"Content-Type: application/json\"";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", message));
    }
    let body = read_body(request.into_body(), BODY_MAX).await?;
    serde_json::from_slice(&body).map_err(|error| {
        let message = format!("the body is not what it should be: {error}; see /v1/openapi.json");
        ApiError::new(StatusCode::BAD_REQUEST, "bad_body", message)
    })
}

/// The same where the body may be left out.
async fn read_json_or_nothing<T: for<'de> Deserialize<'de> + Default>(
    request: Request<Incoming>,
) -> Result<T, ApiError> {
    if request.body().is_end_stream() { Ok(T::default()) } else { read_json(request).await }
}

fn is_json(fields: &HeaderMap) -> bool {
    let value = fields.get(header::CONTENT_TYPE).and_then(|value: &HeaderValue| value.to_str().ok());
    let kind = value.and_then(|value| value.split(';').next());
    kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case(JSON))
}

async fn read_body(body: Incoming, max: usize) -> Result<Bytes, ApiError> {
    let too_late =
        |_| ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "the body did not arrive in time");
    let collected = timeout(BODY_TIMEOUT, Limited::new(body, max).collect()).await.map_err(too_late)?;
    let body = collected.map_err(|error| {
        if error.is::<LengthLimitError>() {
            let message = format!("the body is larger than {max} bytes");
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
        } else {
            ApiError::new(StatusCode::BAD_REQUEST, "broken_body", format!("the body broke off: {error}"))
        }
    })?;
    Ok(body.to_bytes())
}
