//! The collector: one POST, and what its answer means (OTLP/HTTP).
//!
//! Nothing here decides whether something is sent again; an answer only says whether that makes sense.

use std::error::Error;
use std::io;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message as _;
use rustls::{ClientConfig, RootCertStore};

use crate::config::otlp::Otlp;
use crate::config::tls::provider;

/// Bytes of an answer that are read.
const ANSWER_MAX: usize = 64 * 1024;

/// Longest rest that a collector may ask for.
const LONGEST_REST: Duration = Duration::from_secs(600);

pub(super) struct Collector {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    endpoint: Uri,
    fields: Vec<(HeaderName, HeaderValue)>,
    timeout: Duration,
}

/// What came of a try.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// It has the spans, but for those that it rejects; `why` is what it says about that.
    Taken { rejected: u64, why: String },
    /// It will never take them.
    Refused(String),
    /// It may take them another time: after so long, if it says so.
    Later { why: String, after: Option<Duration> },
}

impl Collector {
    /// An error says what is missing.
    pub(super) fn new(otlp: &Otlp) -> io::Result<Self> {
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls(otlp)?).https_or_http().enable_http1();
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector.build()),
            endpoint: otlp.endpoint.clone(),
            fields: otlp.fields.clone(),
            timeout: otlp.timeout,
        })
    }

    /// Sends a batch, in the configured time, or in `limit` if that is shorter.
    pub(super) async fn send(&self, body: Bytes, limit: Option<Duration>) -> Said {
        let limit = limit.map_or(self.timeout, |limit| limit.min(self.timeout));
        let why = match tokio::time::timeout(limit, self.exchange(body)).await {
            Ok(Ok(said)) => return said,
            Ok(Err(error)) => chain(&error),
            Err(_) => format!("no answer in {limit:?}"),
        };
        Said::Later { why: format!("{}: {why}", self.endpoint), after: None }
    }

    async fn exchange(&self, body: Bytes) -> Result<Said, hyper_util::client::legacy::Error> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let agent = concat!("selvedge/", env!("CARGO_PKG_VERSION"));
        headers.insert(USER_AGENT, HeaderValue::from_static(agent));
        headers.extend(self.fields.iter().cloned());
        let answer = self.client.request(request).await?;
        Ok(match answer.status() {
            status if status.is_success() => taken(answer).await,
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Said::Later {
                why: format!("{} answers {}", self.endpoint, answer.status()),
                after: answer.headers().get(RETRY_AFTER).and_then(|value| rest(value, SystemTime::now())),
            },
            status => Said::Refused(format!("{} answers {status}", self.endpoint)),
        })
    }
}

/// The status has said that the spans were taken; the body says which of them were not.
async fn taken(answer: Response<Incoming>) -> Said {
    let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await;
    // What cannot be read says nothing.
    let bytes = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let partial = ExportTraceServiceResponse::decode(bytes).unwrap_or_default().partial_success;
    let partial = partial.unwrap_or_default();
    Said::Taken {
        rejected: u64::try_from(partial.rejected_spans).unwrap_or_default(),
        why: partial.error_message,
    }
}

/// A `Retry-After`, as of `now`.
fn rest(value: &HeaderValue, now: SystemTime) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let rest = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(rest.min(LONGEST_REST))
}

fn tls(otlp: &Otlp) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    if otlp.endpoint.scheme_str() == Some("https") {
        let certificates = match &otlp.authorities {
            Some(certificates) => certificates.clone(),
            None => rustls_native_certs::load_native_certs().certs,
        };
        if roots.add_parsable_certificates(certificates).0 == 0 {
            let what =
                "otlp.endpoint: whom to believe is not known, as the system trusts nobody: write otlp.ca";
            return Err(io::Error::new(io::ErrorKind::NotFound, what));
        }
    }
    let client =
        ClientConfig::builder_with_provider(provider().clone()).with_safe_default_protocol_versions();
    Ok(client.map_err(io::Error::other)?.with_root_certificates(roots).with_no_client_auth())
}

/// An error with what is behind it.
fn chain(error: &dyn Error) -> String {
    let (mut text, mut behind) = (error.to_string(), error.source());
    while let Some(error) = behind {
        text += &format!(": {error}");
        behind = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_is_a_number_of_seconds_or_a_moment() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let rest = |text: &str| rest(&HeaderValue::from_str(text).unwrap(), now);
        let date = |moment| httpdate::fmt_http_date(moment);
        assert_eq!(rest("7"), Some(Duration::from_secs(7)));
        assert_eq!(rest("99999999"), Some(LONGEST_REST));
        assert_eq!(rest(&date(now + Duration::from_secs(30))), Some(Duration::from_secs(30)));
        assert_eq!(rest(&date(now - Duration::from_secs(30))), Some(Duration::ZERO));
        assert_eq!(rest("soon"), None);
    }
}
