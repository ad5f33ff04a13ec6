//! Configuration: text in, checked values out.
//!
//! ```text
//! selvedge.toml ──toml──▶ FileConfig ──compile──▶ Config
//!                         file/                   this file
//!                         mirrors the TOML,       typed, resolved, ready to run
//!                         no behaviour
//! ```
//!
//! No `String` that names a choice and no `Option` that means "default" survives `compile`. Every mistake in a
//! file is reported in one go, each with its line, its key, what is wrong and what to write instead.
//! Nothing here opens a socket: only `load` reads files (the configuration, session keys, certificates and their keys).

pub mod access_log;
pub mod acme;
pub mod certificate;
pub mod changes;
mod compile;
mod dns;
pub mod error;
mod file;
pub mod keys;
pub mod otlp;
mod page;
mod pool;
mod reference;
mod schema;
pub mod tls;
pub mod units;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use ipnet::IpNet;
use rustls::pki_types::CertificateDer;

pub use access_log::{AccessField, AccessFormat, AccessLog, AccessOutput};
pub use changes::Changes;
pub use dns::{Dns, DnsNode, DnsPolicy, DnsServer, DomainName, RateLimit, ServiceName};
pub use error::{ConfigErrors, Problem};
pub use keys::KeyRing;
pub use page::page;
pub use pool::{
    Balance, Discover, Drain, Failback, GrayZone, HashOn, Health, HealthDrain, MinHealthy, Outlier, Pool,
    Probe, Queue, Records, Retry, SameSite, Secure, StaticTarget, Stickiness, StickinessMode, TargetProtocol,
    Timeouts, UpstreamKeepAlive, ZoneMode, ZoneOf, Zones,
};
pub use schema::schema;

/// Name of an availability zone, such as `az-a`.
pub type ZoneName = Arc<str>;

/// Whether a zone can have this name: that of a zone, or `-` for none.
pub fn is_zone(name: &str) -> bool {
    name == "-" || file::is_name(name)
}

/// A whole configuration, checked: everything a node needs to start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Zone this node stands in; `None` when neither file, flag nor environment names one.
    pub zone: Option<ZoneName>,
    /// Data-plane threads, at least 1. `"auto"` has become the number of cores this process may use.
    pub workers: usize,
    /// Where clients connect; never empty.
    pub listeners: Vec<Listener>,
    /// In the order of the file; the route table sorts them.
    pub routes: Vec<Route>,
    /// Sorted by name. Routes refer to pools by their index in this list.
    pub pools: Vec<Arc<Pool>>,
    /// Keys that seal and open session cookies.
    pub session_keys: SessionKeys,
    /// The admin API; `None` when `[admin]` says `enabled = false`.
    pub admin: Option<Admin>,
    /// What this node answers as a DNS server; `None` without `[dns]`.
    pub dns: Option<Arc<Dns>>,
    /// What is written into forwarded requests and answers.
    pub forwarding: Forwarding,
    /// Whether a change of [`Source::read`] is taken up without being asked. Default on.
    pub watch: bool,
    /// What the whole node may use.
    pub limits: Limits,
    /// How a node stops.
    pub shutdown: Shutdown,
    /// What a process that is to take the place of this one has to become ready. Default 60 s.
    pub upgrade_deadline: Duration,
    /// What is logged, and how.
    pub log: Log,
    /// A line for each request; `None` without `[access_log]`.
    pub access_log: Option<AccessLog>,
    /// Where spans of sampled requests are sent; `None` without `[otlp]`.
    pub otlp: Option<otlp::Otlp>,
    /// Who is asked about names.
    pub resolver: Arc<Resolver>,
    /// Certificates that the node obtains by itself; `None` without `[acme]`.
    pub acme: Option<Arc<acme::Acme>>,
    /// File that keeps what operators decide at run time; `None` keeps nothing.
    pub state: Option<PathBuf>,
    /// Who the process is once its sockets are bound; `None`, the default, for who has started it.
    pub run_as: Option<RunAs>,
    /// Things that work but that their author would want to know; logged at start, printed by `check`.
    pub warnings: Vec<String>,
    /// Where all this was read.
    pub source: Source,
}

/// Where a configuration came from, to be read again.
#[derive(Debug, Clone)]
pub struct Source {
    /// The file.
    pub file: PathBuf,
    /// What it said.
    pub text: Arc<str>,
    /// What won over it.
    pub overrides: Overrides,
    /// All files that were read: that one, and those it names.
    pub read: Vec<PathBuf>,
}

impl Config {
    /// Reads, parses and compiles the file at `path`. All problems come back together.
    pub fn load(path: &Path, overrides: &Overrides) -> Result<Self, ConfigErrors> {
        compile::load(path, overrides)
    }

    /// What the same file says now. Session keys that this process made for itself stay.
    pub fn load_again(&self) -> Result<Self, ConfigErrors> {
        Ok(self.keeping_own_keys(compile::load(&self.source.file, &self.source.overrides)?))
    }

    /// What the same file would mean if it said `text`; as [`Config::load_again`].
    pub fn load_instead(&self, text: &str) -> Result<Self, ConfigErrors> {
        Ok(self.keeping_own_keys(compile::load_text(&self.source.file, text, &self.source.overrides)?))
    }

    /// Goes on with the session key that the process before this one had made for itself, if this one has none from a file.
    pub fn inherit_key(&mut self, line: &str) -> Result<(), keys::KeyError> {
        if self.session_keys.file.is_none() {
            self.session_keys.ring = Arc::new(KeyRing::of_generated(line)?);
        }
        Ok(())
    }

    fn keeping_own_keys(&self, mut next: Self) -> Self {
        if self.session_keys.file.is_none() && next.session_keys.file.is_none() {
            next.session_keys = self.session_keys.clone();
        }
        next
    }
}

/// Values that win over the file: command line first, then environment.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--zone` or `SELVEDGE_ZONE`.
    pub zone: Option<String>,
}

/// A user of this machine who is not root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunAs {
    /// As the file names it: a name or a number.
    pub user: Box<str>,
    /// Its number.
    pub uid: u32,
    /// The number of its group. Default: the user's own.
    pub gid: u32,
}

impl fmt::Display for RunAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user {} (uid {}, gid {})", self.user, self.uid, self.gid)
    }
}

/// An address that clients connect to.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Unique; labels metrics and log lines. Default: the address as text.
    pub name: Arc<str>,
    /// Where to bind. Port 0 takes a free one, which is logged.
    pub address: SocketAddr,
    /// Sources that may connect; all others are closed at accept. Default: everyone.
    pub allow: Vec<IpNet>,
    /// Sources whose forwarding fields (`X-Forwarded-*`, `Forwarded`) are believed. Default: none.
    pub trusted: Vec<IpNet>,
    /// Clients that are told why their requests went where they did, if they ask. Default: none.
    pub trace_sources: Vec<IpNet>,
    /// Open connections of this listener over all workers; more wait in the kernel's queue. Default 65536.
    pub max_connections: usize,
    /// Connections that the kernel completes while nobody accepts them, in each worker's queue; it may allow less
    /// (net.core.somaxconn). Default 4096.
    pub backlog: u32,
    /// What one client may use; `None`, the default, for no limit.
    pub per_client: Option<PerClient>,
    /// From a request's first byte (or the accept) to the end of its head. Default 10 s.
    pub head_timeout: Duration,
    /// Between an answer and the next request of a connection. Default 60 s.
    pub keep_alive: Duration,
    /// Between two bytes of a body, in both directions, on the client's side. Default 60 s.
    pub idle: Duration,
    /// Bytes of a request head, request line included. Default 32 KiB.
    pub max_head: usize,
    /// Fields of a request head. Default 100, at most 256.
    pub max_fields: usize,
    /// Bytes of a request body; `None` for no limit, which is the default.
    pub max_body: Option<u64>,
    /// Requests without TLS are redirected to this port; `None`, the default, to serve them.
    pub redirect_to_https: Option<u16>,
    /// What clients may speak, the preferred first; never empty. Default: all.
    pub protocols: Vec<Protocol>,
    /// Bounds of HTTP/2.
    pub http2: Http2,
    /// Who announces clients before they speak, if anybody. Default: nobody.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Certificates and more, if clients speak TLS here. Default: they do not.
    pub tls: Option<Arc<tls::ListenerTls>>,
}

/// What one client may use of a listener. At least one of the two limits is set.
#[derive(Debug, Clone)]
pub struct PerClient {
    /// Open connections; one more is closed. Default: no limit.
    pub max_connections: Option<u32>,
    /// Requests; one more is answered with 429. Default: no limit.
    pub rate: Option<RequestRate>,
    /// Bits of an IPv4 address that make a client. Default 32.
    pub ipv4_prefix: u8,
    /// The same of an IPv6 address. Default 64.
    pub ipv6_prefix: u8,
    /// Who is not limited. Default: nobody.
    pub exempt: Vec<IpNet>,
}

/// So many requests in such a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestRate {
    /// At least 1.
    pub requests: u32,
    /// A second, a minute or an hour.
    pub per: Duration,
    /// Requests that may come at once after a pause. Default: what the rate allows in a second, at least 1.
    pub burst: u32,
}

/// What a client may speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// `h2`: agreed on in the TLS handshake, or begun without asking where there is no TLS.
    Http2,
    /// `http/1.1`, which includes HTTP/1.0.
    Http1,
}

impl Protocol {
    /// All of them, the preferred first.
    pub const ALL: [Self; 2] = [Self::Http2, Self::Http1];

    /// As TLS calls it (ALPN).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http2 => "h2",
            Self::Http1 => "http/1.1",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Bounds of an HTTP/2 connection with a client.
#[derive(Debug, Clone, Copy)]
pub struct Http2 {
    /// Requests under way at the same time. Default 128.
    pub max_concurrent_streams: u32,
    /// Bytes of one request's body that may be on their way or wait for the target. Default 256 KiB.
    pub stream_window: u32,
    /// The same for all requests of the connection together. Default 1 MiB.
    pub connection_window: u32,
    /// Largest frame that is taken. Default 16 KiB.
    pub max_frame_size: u32,
    /// Bytes of answers that wait for the client to take them, over all requests: while there are more, no target is read
    /// from. Default 1 MiB.
    pub max_buffered: usize,
}

impl Listener {
    /// Whether `other` wants the socket that this one has: the options may differ.
    pub fn is_at_the_place_of(&self, other: &Self) -> bool {
        self.address == other.address && (self.address.port() != 0 || self.name == other.name)
    }
}

/// Proxies in front that say whom a connection is from.
#[derive(Debug, Clone)]
pub struct ProxyProtocol {
    /// Their addresses; never empty. Each of their connections must begin with a PROXY header, and those of others may not.
    pub from: Vec<IpNet>,
    /// From the accept to the end of the header. Default 5 s.
    pub timeout: Duration,
}

/// Which requests, and what to do with them.
#[derive(Debug, Clone)]
pub struct Route {
    /// Host and path as they are written, for people: `myclothes.test/cart`, `*/` for all.
    pub name: Box<str>,
    /// `None` matches any host.
    pub host: Option<HostPattern>,
    /// Prefix of the path, always beginning with `/`; matches at `/` boundaries only (`/a` matches `/a` and `/a/b`,
    /// not `/ab`).
    pub path: Box<str>,
    /// Empty means any method.
    pub methods: Vec<Method>,
    /// All must match.
    pub headers: Vec<HeaderMatch>,
    /// All must match.
    pub query: Vec<QueryMatch>,
    /// Empty means any source; else one must contain the client's address.
    pub sources: Vec<IpNet>,
    /// What happens to a request that this route wins.
    pub action: Action,
}

/// Host part of a route, lower case, without a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// `myclothes.test`.
    Exact(Box<str>),
    /// `*.myclothes.test`, stored as `.myclothes.test`: one or more labels before it.
    Wildcard(Box<str>),
}

/// A field that must be present, and its value if one is given.
#[derive(Debug, Clone)]
pub struct HeaderMatch {
    /// Field name.
    pub name: HeaderName,
    /// Exact value; `None` matches any.
    pub value: Option<HeaderValue>,
}

/// A query parameter that must be present, and its value if one is given (compared as sent, not decoded).
#[derive(Debug, Clone)]
pub struct QueryMatch {
    /// Parameter name.
    pub name: Box<str>,
    /// Exact value; `None` matches any.
    pub value: Option<Box<str>>,
}

/// What a route does.
#[derive(Debug, Clone)]
pub enum Action {
    /// Forward to one of these pools, by weight; never empty. One pool is the usual case.
    Pools(Vec<WeightedPool>),
    /// Answer with a redirect.
    Redirect(Redirect),
    /// Answer with fixed text.
    Respond(Respond),
}

/// One choice of a weighted route.
#[derive(Debug, Clone, Copy)]
pub struct WeightedPool {
    /// Index into [`Config::pools`].
    pub pool: usize,
    /// Share relative to the others of the route; 0 takes no new sessions.
    pub weight: u32,
}

/// A redirect; absent parts are those of the request.
#[derive(Debug, Clone)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308. Default 308.
    pub status: StatusCode,
    /// `http` or `https`.
    pub scheme: Option<Box<str>>,
    /// Host, with a port if one is wanted.
    pub host: Option<Box<str>>,
    /// Path that replaces the request's; the query is kept.
    pub path: Option<Box<str>>,
}

/// A fixed answer.
#[derive(Debug, Clone)]
pub struct Respond {
    /// 200 to 599.
    pub status: StatusCode,
    /// Body, sent as it is.
    pub body: bytes::Bytes,
    /// Default `text/plain; charset=utf-8`.
    pub content_type: HeaderValue,
}

/// Who is asked about names, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolver {
    /// In this order; empty means those of the system.
    pub nameservers: Vec<NameServer>,
    /// For one question to one name server. Default 2 s.
    pub timeout: Duration,
    /// Rounds through the name servers before a lookup has failed. Default 2.
    pub attempts: u32,
    /// Who may have signed the certificate of a name server that is asked over TLS; `None` means whom the system trusts.
    pub authorities: Option<Vec<CertificateDer<'static>>>,
}

/// A name server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameServer {
    /// Where it answers.
    pub address: SocketAddr,
    /// The name in its certificate if it is asked over TLS; else it is asked over UDP, and over TCP when an answer is too long.
    pub tls: Option<Arc<str>>,
}

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.tls {
            Some(name) => write!(f, "tls://{}#{name}", self.address),
            None => write!(f, "{}", self.address),
        }
    }
}

/// Where session keys come from.
#[derive(Debug, Clone)]
pub struct SessionKeys {
    /// The ring itself, already read.
    pub ring: Arc<KeyRing>,
    /// File it was read from; `None` when the ring was generated at start, so that sessions end with the process.
    pub file: Option<PathBuf>,
}

/// The admin API.
#[derive(Debug, Clone)]
pub struct Admin {
    /// Where it listens.
    pub address: AdminAddress,
    /// Bearer token that every request must carry, from `token_file`; required when the address is not loopback.
    pub token: Option<Arc<units::Secret>>,
}

/// Where the admin API listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddress {
    /// TCP. Default 127.0.0.1:9900.
    Tcp(SocketAddr),
    /// `unix:PATH`.
    Unix(PathBuf),
}

/// Fields added to forwarded requests.
#[derive(Debug, Clone)]
pub struct Forwarding {
    /// `X-Forwarded-For`, `-Proto`, `-Host`. Default on.
    pub x_forwarded: bool,
    /// `Forwarded` (RFC 7239). Default off.
    pub forwarded: bool,
    /// `Via` on requests and answers. Default on.
    pub via: bool,
    /// `X-Request-Id`: kept from trusted sources, else made. Default on.
    pub request_id: bool,
    /// `traceparent` (W3C): continued if sent, else started. Default off.
    pub traceparent: bool,
}

/// What the whole node may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Requests in flight over all pools, waiting ones included; one more is answered with 503. Default 65536.
    pub max_requests: Option<usize>,
    /// Bytes of resident memory above which requests are refused. Default: no limit.
    pub memory: Option<u64>,
}

/// How a node stops.
#[derive(Debug, Clone, Copy)]
pub struct Shutdown {
    /// From the signal to the end: requests in flight that are not done then are cut. Default 30 s.
    pub deadline: Duration,
    /// `/readyz` fails for this long before the listeners close, so that whoever sends traffic here can stop.
    /// Default 0 s.
    pub delay: Duration,
    /// Clients are asked to leave over this time, each at a moment of its own; at most half of `deadline` counts.
    /// Default 2 s.
    pub spread: Duration,
}

/// What is logged, and how.
#[derive(Debug, Clone)]
pub struct Log {
    /// Least severe level that is written. Default `info`.
    pub level: tracing::Level,
    /// Lines for people, or one JSON object a line.
    pub format: LogFormat,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}
