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

pub mod certificate;
pub mod changes;
mod compile;
mod dns;
pub mod error;
mod file;
pub mod keys;
pub mod tls;
pub mod units;

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use ipnet::IpNet;
use rustls::pki_types::CertificateDer;

pub use changes::Changes;
pub use dns::{Dns, DnsNode, DnsPolicy, DnsServer, DomainName, RateLimit, ServiceName};
pub use error::{ConfigErrors, Problem};
pub use keys::KeyRing;

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
    /// How a node stops.
    pub shutdown: Shutdown,
    /// What is logged, and how.
    pub log: Log,
    /// Who is asked about names.
    pub resolver: Arc<Resolver>,
    /// File that keeps what operators decide at run time; `None` keeps nothing.
    pub state: Option<PathBuf>,
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
    /// Open connections of this listener over all workers; more wait in the kernel's queue. Default 65536.
    pub max_connections: usize,
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
    /// Certificates and more, if clients speak TLS here. Default: they do not.
    pub tls: Option<Arc<tls::ListenerTls>>,
}

impl Listener {
    /// Whether `other` wants the socket that this one has: the options may differ.
    pub fn is_at_the_place_of(&self, other: &Self) -> bool {
        self.address == other.address && (self.address.port() != 0 || self.name == other.name)
    }
}

/// Which requests, and what to do with them.
#[derive(Debug, Clone)]
pub struct Route {
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

/// The set of targets of one application, and how it is treated.
#[derive(Debug, Clone)]
pub struct Pool {
    /// Unique; bound into every session cookie of the pool.
    pub name: Arc<str>,
    /// How a target is chosen for a request that has no session. Default: least outstanding.
    pub balance: Balance,
    /// From a tenth of its share to all of it, a target that comes into service takes this long. Default: none.
    pub slow_start: Duration,
    /// Requests of this pool in flight at this node, waiting ones included; one more is refused. `None`, the default, for
    /// no limit.
    pub max_requests: Option<u64>,
    /// Sticky sessions.
    pub stickiness: Stickiness,
    /// How zones share the load.
    pub zones: Zones,
    /// Active checks.
    pub health: Health,
    /// Deadlines of an attempt.
    pub timeouts: Timeouts,
    /// Where requests wait when no target can take them.
    pub queue: Queue,
    /// When a failed attempt is tried again.
    pub retry: Retry,
    /// Idle connections kept to each target.
    pub keep_alive: UpstreamKeepAlive,
    /// When a target is ejected for what it answers, whatever its checks say.
    pub outlier: Outlier,
    /// How a target leaves.
    pub drain: Drain,
    /// TLS to the targets; `None`, the default, for plain connections.
    pub tls: Option<tls::UpstreamTls>,
    /// Targets written in the file; may be empty only when something else adds targets at run time.
    pub targets: Vec<StaticTarget>,
    /// Names in DNS whose records are targets; no two ask the same.
    pub discover: Vec<Discover>,
}

/// Balancing policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Balance {
    /// In turn, smoothly by weight.
    RoundRobin,
    /// The less loaded of two random targets (power of two choices), load being requests in flight by weight.
    LeastOutstanding,
    /// The same with the load multiplied by the time to the first byte lately (peak-sensitive moving average).
    PeakEwma,
    /// By rendezvous hash of a part of the request: equal requests go to equal targets, on every node.
    Hash(HashOn),
}

/// What a hash is computed from; a request without it goes where least outstanding would send it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashOn {
    /// All values of this field.
    Header(HeaderName),
    /// The first cookie of this name.
    Cookie(Box<str>),
    /// Path and query.
    Path,
    /// The client's address.
    Source,
}

/// Sticky sessions of a pool.
#[derive(Debug, Clone)]
pub struct Stickiness {
    /// Whether and how sessions are kept. Default off.
    pub mode: StickinessMode,
    /// Name of the cookie.
    pub cookie: Box<str>,
    /// Name of the application's own session cookie, with which a bond begins and ends; empty unless the mode is
    /// [`StickinessMode::AppCookie`].
    pub application_cookie: Box<str>,
    /// Whether a session that has moved returns to its first target. Default never.
    pub failback: Failback,
    /// A session unused for this long is over. Default 1 d.
    pub idle: Duration,
    /// A session older than this is over; `None` for no limit. Default 7 d.
    pub absolute: Option<Duration>,
    /// `SameSite` attribute. Default `Lax`.
    pub same_site: SameSite,
    /// `Secure` attribute. Default: on connections with TLS.
    pub secure: Secure,
    /// `Partitioned` attribute (CHIPS). Default off; needs `secure`.
    pub partitioned: bool,
    /// `Domain` attribute. Default: none, so that the cookie belongs to the exact host.
    pub domain: Option<Box<str>>,
}

/// Who makes the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StickinessMode {
    /// No sessions.
    Off,
    /// The balancer sets a cookie of its own.
    LbCookie,
    /// The same, but a bond lives as long as the application's own session cookie.
    AppCookie,
}

/// Whether a session that has moved because its target was gone returns when that is back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failback {
    /// It stays where it is.
    Never,
    /// With its first request after a pause of at least a tenth of `idle`.
    Idle,
    /// With its next request.
    Always,
}

/// `SameSite` attribute of the session cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameSite {
    /// Sent on same-site requests only.
    Strict,
    /// Also on top-level navigation from elsewhere.
    Lax,
    /// Always; browsers then want `Secure`.
    None,
}

/// When the session cookie carries `Secure`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secure {
    /// When the client's connection has TLS, or a trusted proxy in front says so.
    Auto,
    /// On every answer.
    Always,
    /// Never.
    Never,
}

/// How zones share the load.
#[derive(Debug, Clone)]
pub struct Zones {
    /// Zone mode.
    pub mode: ZoneMode,
    /// Factor for the weights of a zone's targets; zones that are not named have 1.
    pub weights: Vec<(ZoneName, u32)>,
    /// Load that healthy targets are trusted to carry, as a multiple of their fair share. Default 1.4.
    pub overprovisioning: f64,
    /// A zone with fewer healthy targets counts as failed: it takes no new sessions while another zone does.
    pub min_healthy: MinHealthy,
    /// A zone is taken out (by a shift, or because it is gray) only if the healthy targets of the others are at least this
    /// share (0.0 to 1.0) of all. Default 0.5.
    pub shift_capacity: f64,
    /// Share of a shifted zone's sessions that move each second; infinite, the default, for all at once.
    pub evacuate: f64,
    /// When a zone is shifted because its failures or its latency stand out.
    pub gray: GrayZone,
    /// Below this share of healthy targets (0.0 to 1.0), health is ignored. Default 0.5; 0.0 disables.
    pub panic: f64,
}

/// Zone mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZoneMode {
    /// All targets of all zones alike (cross-zone on).
    Even,
    /// Targets of the node's own zone, as long as there is one that takes requests (cross-zone off).
    Local,
    /// Targets of the node's own zone up to what they can carry; what is beyond that goes to the others.
    Spill,
}

/// Healthy targets that a zone needs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MinHealthy {
    /// That many.
    Number(u32),
    /// That share of its targets (0.0 to 1.0). Default 0.0: a zone never counts as failed while it has one.
    Share(f64),
}

/// When a zone stands out against the others of its pool.
#[derive(Debug, Clone, Copy)]
pub struct GrayZone {
    /// Default on.
    pub enabled: bool,
    /// What is looked at. Default 5 s.
    pub window: Duration,
    /// Requests of a zone in the window without which nothing is decided. Default 50.
    pub min_requests: u32,
    /// The share of failed requests (0.0 to 1.0) by which a zone must exceed the others. Default 0.1.
    pub failures: f64,
    /// The multiple of the others' mean time to the first byte that a zone must exceed; `None` to look at failures only.
    /// Default 5.
    pub latency: Option<f64>,
    /// The zone is out for at most this long without having proved itself by its trickle. Default 5 min.
    pub expiry: Duration,
    /// Share of its usual new requests that the zone gets while it is out. Default 0.02.
    pub trickle: f64,
}

/// When a target stands out against its pool.
#[derive(Debug, Clone, Copy)]
pub struct Outlier {
    /// Default on.
    pub enabled: bool,
    /// Failures in a row that eject: gateway failures and answers of 500 to 599. Default 5.
    pub consecutive: u32,
    /// What the two rules below look at. Default 10 s.
    pub window: Duration,
    /// Requests of a target in the window without which they decide nothing. Default 20.
    pub min_requests: u32,
    /// Share of failed requests (0.0 to 1.0) that ejects, if the pool's other targets stay below half of it. Default 0.5.
    pub failures: f64,
    /// Multiple of the other targets' mean time to the first byte that takes a target out of new sessions; `None` for never.
    /// Default 5.
    pub latency: Option<f64>,
    /// First ejection; the n-th lasts n times as long. Default 30 s.
    pub ejection: Duration,
    /// Longest ejection. Default 300 s.
    pub max_ejection: Duration,
    /// Share of the pool's targets that may be ejected at the same time (0.0 to 1.0), but always one. Default 0.5.
    pub max_ejected: f64,
}

/// How a target leaves.
#[derive(Debug, Clone, Copy)]
pub struct Drain {
    /// Bound sessions stay for this long. Default 300 s.
    pub deadline: Duration,
    /// A draining target is safe to remove when no bound session was seen for this long. Default 60 s.
    pub quiet: Duration,
}

/// Active checks of a pool's targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// `false`: every target counts as healthy.
    pub enabled: bool,
    /// What a check is.
    pub probe: Probe,
    /// Between two checks of a target, ± 10 % jitter. Default 5 s.
    pub interval: Duration,
    /// A check that takes longer has failed. Default 2 s, or the interval if that is shorter.
    pub timeout: Duration,
    /// Passes in a row that make a failed target healthy. Default 2. A new target needs one.
    pub healthy: u32,
    /// Failures in a row that make a target unhealthy. Default 2.
    pub unhealthy: u32,
    /// Port to check; `None` is the target's own.
    pub port: Option<u16>,
    /// How a target asks to be drained by its answer to a check. Default by header.
    pub drain: HealthDrain,
}

/// How a target asks to be drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthDrain {
    /// An answer with `x-selvedge-drain: 1`, whatever its status.
    Header,
    /// That, or a 404.
    NotFound,
    /// It cannot.
    Off,
}

/// What a check is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// `GET path` and a status in one of `expect`.
    Http {
        /// Path and query. Default `/`.
        path: Box<str>,
        /// `Host` field; `None` sends the target's address.
        host: Option<HeaderValue>,
        /// Statuses that pass. Default 200 to 299.
        expect: Vec<RangeInclusive<u16>>,
    },
    /// A TCP connection that opens.
    Tcp,
}

/// Deadlines of one attempt.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// To an open connection. Default 1 s.
    pub connect: Duration,
    /// From the request's last byte sent to the answer's head. Default 30 s.
    pub first_byte: Duration,
    /// Between two bytes of a body or a tunnel, both ways. Default 60 s.
    pub idle: Duration,
}

/// Where requests wait when every target is full, or none is there.
#[derive(Debug, Clone, Copy)]
pub struct Queue {
    /// Waiting requests over all workers; one more is refused with 503. Default 1024; 0 refuses at once.
    pub length: usize,
    /// Longest wait; then 503. Default 5 s.
    pub timeout: Duration,
}

/// When a failed attempt is tried again.
#[derive(Debug, Clone)]
pub struct Retry {
    /// Attempts of one request in all, the first included. Default 3; 1 never retries. Refused connections do not
    /// count: nothing was sent.
    pub attempts: u32,
    /// Retries in flight, as a share of the requests in flight; or retries of the last ten seconds, as a share of the
    /// requests of that time: whichever allows more. Default 0.2.
    pub budget: f64,
    /// Retries in flight that are always allowed. Default 3.
    pub budget_min: u32,
    /// Bytes of a request body kept to be sent again. Default 64 KiB.
    pub max_body: usize,
    /// Statuses of a target that are tried elsewhere when the request may be repeated. Default 500, 502, 503, 504.
    pub statuses: Vec<RangeInclusive<u16>>,
}

/// Idle connections to each target.
#[derive(Debug, Clone, Copy)]
pub struct UpstreamKeepAlive {
    /// Kept by each worker for each target. Default 128; 0 opens a connection for every request.
    pub connections: usize,
    /// Closed after being unused for this long. Default 50 s: shorter than what servers commonly allow.
    pub timeout: Duration,
}

/// A target written in the file.
#[derive(Debug, Clone)]
pub struct StaticTarget {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where it stands; `"-"` when the file names none.
    pub zone: ZoneName,
    /// Share relative to the others, 0 to 256. Default 1; 0 takes no new sessions.
    pub weight: u32,
    /// Requests in flight from this node; `None` for no limit, which is the default.
    pub max_connections: Option<u32>,
}

/// A name in DNS whose records are targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discover {
    /// The name, complete and in lower case, without the dot at its end.
    pub dns: Box<str>,
    /// What is asked for. Default: SRV for a name that begins with `_`, else A.
    pub records: Records,
    /// Where the targets stand. Default: nowhere (`"-"`).
    pub zone: ZoneOf,
    /// Share of each target relative to the others, 0 to 256; `None` is what the SRV record says, and 1 for other records.
    pub weight: Option<u32>,
    /// Requests in flight to each target; `None` for no limit, which is the default.
    pub max_connections: Option<u32>,
    /// A shorter TTL counts as this. Default 1 s.
    pub min_ttl: Duration,
    /// A longer TTL counts as this. Default 300 s.
    pub max_ttl: Duration,
    /// An answer that there is nothing is believed when it has been given for this long. Default 30 s.
    pub hold: Duration,
}

impl Discover {
    /// What it asks, in one line that no other one of its pool has: `SRV _http._tcp.shop.internal`, or
    /// `A shop.internal:9001`.
    pub fn question(&self) -> String {
        match self.records {
            Records::Srv => format!("SRV {}", self.dns),
            Records::A { port } => format!("A {}:{port}", self.dns),
            Records::Aaaa { port } => format!("AAAA {}:{port}", self.dns),
        }
    }
}

/// Records that discovery asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Records {
    /// Hosts with port, priority and weight.
    Srv,
    /// IPv4 addresses of hosts that listen on this port.
    A {
        /// Never 0.
        port: u16,
    },
    /// IPv6 addresses of hosts that listen on this port.
    Aaaa {
        /// Never 0.
        port: u16,
    },
}

/// Where a target stands that was found in DNS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ZoneOf {
    /// All in this zone.
    One(ZoneName),
    /// The second label of the SRV record's target: `shop-1.az-a.internal` stands in `az-a`.
    Label,
    /// The zone of the first range that holds the address; the narrowest come first.
    Range(Vec<(IpNet, ZoneName)>),
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

/// How a node stops.
#[derive(Debug, Clone, Copy)]
pub struct Shutdown {
    /// From the signal to the end: requests in flight that are not done then are cut. Default 30 s.
    pub deadline: Duration,
    /// `/readyz` fails for this long before the listeners close, so that whoever sends traffic here can stop.
    /// Default 0 s.
    pub delay: Duration,
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
