//! Spans of sampled requests, and the collector that is sent them (`[otlp]`). What a span holds is in `telemetry::spans`.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};
use rustls::pki_types::CertificateDer;

/// `[otlp]`, which is there to have spans exported. Only a program that was built with the feature `otlp` has one.
#[derive(Debug, Clone, PartialEq)]
pub struct Otlp {
    /// Where spans are sent, `http://` or `https://`. Default `http://127.0.0.1:4318/v1/traces`.
    pub endpoint: Uri,
    /// Fields that go with them, all marked as sensitive. Default: none.
    pub fields: Vec<(HeaderName, HeaderValue)>,
    /// Who may have signed the collector's certificate; `None` means whom the system trusts.
    pub authorities: Option<Vec<CertificateDer<'static>>>,
    /// Share of the requests that are sampled where no parent decides, 0.0 to 1.0. Default 0.01.
    pub sample: f64,
    /// Whose `traceparent` decides whether a request is sampled. Default: that of trusted proxies.
    pub parents: Parents,
    /// What spans say of their origin beside what the node knows by itself: the service's name first.
    pub resource: Vec<(String, String)>,
    /// Requests whose spans may wait. Default 2048.
    pub queue: usize,
    /// Requests whose spans are sent at once. Default 512.
    pub batch: usize,
    /// Longest time for which spans wait for others. Default 5 s.
    pub interval: Duration,
    /// Of one try to send. Default 10 s.
    pub timeout: Duration,
    /// From the first try to send a batch to the last. Default 1 min.
    pub give_up: Duration,
}

/// Whose `traceparent` decides whether a request is sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parents {
    /// That of `listener.trusted` proxies.
    Trusted,
    /// Everybody's.
    All,
    /// Nobody's.
    None,
}
