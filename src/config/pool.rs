//! `[pool.NAME]`, checked: the targets of one application, and how they are treated.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use ipnet::IpNet;

use super::{ZoneName, tls};

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
    /// Version of HTTP that is spoken with the targets. Default HTTP/1.1.
    pub protocol: TargetProtocol,
    /// Whether connections to the targets begin with a PROXY header (version 2) that names the client. Default off.
    pub proxy_protocol: bool,
    /// TLS to the targets; `None`, the default, for plain connections.
    pub tls: Option<tls::UpstreamTls>,
    /// Targets written in the file; may be empty only when something else adds targets at run time.
    pub targets: Vec<StaticTarget>,
    /// Names in DNS whose records are targets; no two ask the same.
    pub discover: Vec<Discover>,
}

/// Version of HTTP that is spoken with targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2; without TLS it is not asked whether the target knows it.
    H2,
    /// What the target chooses (ALPN), HTTP/2 rather than HTTP/1.1. There is TLS.
    Auto,
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
    /// Whether a check begins with a PROXY header, which says that the connection is our own.
    pub proxy_protocol: bool,
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
    /// `grpc.health.v1.Health/Check` over HTTP/2, answered with `SERVING`.
    Grpc {
        /// Service that is asked about. Default: none, which stands for the whole target.
        service: Box<str>,
        /// `:authority`; `None` sends the target's address.
        host: Option<HeaderValue>,
    },
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
