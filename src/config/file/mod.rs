//! `FileConfig`: the TOML, table by table, without behaviour.
//!
//! What a key means, its unit and its default stand in `config/selvedge.toml`; what becomes of it, in the types of the
//! parent module. A key may be absent, wrong (noted already) or given: see [`Field`]. Nothing is defaulted here.

mod choices;
mod discovery;
mod document;
mod values;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use ipnet::IpNet;
use serde_json::Value;
use toml::de::DeValue;
use tracing::Level;

use super::acme::Challenge;
use super::otlp::Parents;
use super::tls::MinVersion;
use super::units::{Percent, Size};
use super::{
    AccessField, AccessFormat, AdminAddress, DnsPolicy, Failback, HealthDrain, HostPattern, LogFormat,
    NameServer, Problem, Protocol, SameSite, Secure, StickinessMode, TargetProtocol, ZoneMode,
};
pub(super) use choices::{BalanceName, ClientMode, ProbeType, RecordType, Scheme, SendProxy, Verify};
pub(super) use discovery::{DnsName, ZoneFrom};
pub(super) use document::{At, Field, Named, Place, Problems, nearest, quoted};
use document::{Entries, FromToml, Reader, schema_of_table};
pub(super) use values::{
    Authority, CookieName, DomainName, HashOn, HostName, Mailbox, Name, OrAuto, OrOff, OrShare, Rate,
    RequestsPer, Statuses, Text, UriPath, is_name,
};

/// Reads the text of a configuration file. Problems come with whatever could be read in spite of them; only a syntax
/// error leaves nothing to read.
pub(super) fn parse(text: &str) -> Result<(FileConfig, Problems), Problem> {
    document::read(text)
}

/// JSON Schema of the file: forms only, as what the keys mean does not stand here.
pub(super) fn schema() -> Value {
    FileConfig::schema()
}

/// Declares tables: a struct of [`Field`]s each, and how to read it. `later` are keys of the contract that this version
/// does not have.
macro_rules! tables {
    ($($(#[$doc:meta])* table $table:ident {
        $($key:ident: $type:ty,)*
    } $(later { $($later:ident),+ })?)+) => {
        $(
            $(#[$doc])*
            #[derive(Default)]
            pub(super) struct $table { $(pub(super) $key: Field<$type>,)* }

            impl $table {
                const KEYS: &[&str] = &[$(plain(stringify!($key))),*];
                const LATER: &[&str] = &[$($(stringify!($later)),+)?];
            }

            impl FromToml for $table {
                fn read(value: DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<Self> {
                    let mut entries = Entries::of(value, place, reader)?;
                    let table = Self { $($key: entries.take(plain(stringify!($key)), reader),)* };
                    entries.refuse_rest(Self::KEYS, Self::LATER, reader);
                    Some(table)
                }

                fn schema() -> Value {
                    schema_of_table(&[$((plain(stringify!($key)), <$type>::schema())),*])
                }
            }
        )+

        /// The names of all tables.
        #[cfg(test)]
        const TABLES: &[&str] = &[$(stringify!($table)),+];
    };
}

/// `type` is a key here and a keyword in Rust.
const fn plain(key: &str) -> &str {
    match key.as_bytes() {
        b"r#type" => "type",
        _ => key,
    }
}

tables! {
    /// The whole file.
    table FileConfig {
        zone: Name,
        workers: OrAuto,
        watch: bool,
        listener: Vec<At<Listener>>,
        route: Vec<At<Route>>,
        pool: Named<Pool>,
        session_keys: SessionKeys,
        admin: Admin,
        dns: Dns,
        forwarding: Forwarding,
        limits: Limits,
        shutdown: Shutdown,
        upgrade: Upgrade,
        log: Log,
        resolver: Resolver,
        acme: Acme,
        state: String,
        user: String,
        group: String,
        access_log: AccessLog,
        otlp: Otlp,
    }

    /// `[[listener]]`
    table Listener {
        name: Name,
        address: SocketAddr,
        allow: Vec<At<IpNet>>,
        trusted: Vec<At<IpNet>>,
        trace_sources: Vec<At<IpNet>>,
        max_connections: i64,
        backlog: i64,
        per_client: PerClient,
        head_timeout: Duration,
        keep_alive: Duration,
        idle: Duration,
        max_head: Size,
        max_fields: i64,
        max_body: OrOff<Size>,
        redirect_to_https: OrOff<i64>,
        protocols: Vec<At<Protocol>>,
        http2: Http2,
        proxy_protocol: ProxyProtocol,
        tls: ListenerTls,
    }

    /// `[listener.per_client]`
    table PerClient {
        max_connections: OrOff<i64>,
        rate: OrOff<RequestsPer>,
        burst: i64,
        ipv4_prefix: i64,
        ipv6_prefix: i64,
        exempt: Vec<At<IpNet>>,
    }

    /// `[listener.http2]`
    table Http2 {
        max_concurrent_streams: i64,
        stream_window: Size,
        connection_window: Size,
        max_frame_size: Size,
        max_buffered: Size,
    }

    /// `[listener.proxy_protocol]`
    table ProxyProtocol {
        from: Vec<At<IpNet>>,
        timeout: Duration,
    }

    /// `[listener.tls]`
    table ListenerTls {
        certificates: Vec<At<CertificateFiles>>,
        acme: bool,
        min_version: MinVersion,
        client_certificates: ClientMode,
        client_ca: String,
        handshake_timeout: Duration,
        max_handshakes: i64,
        tickets: bool,
        hsts: Hsts,
    }

    /// `[listener.tls]`, an element of `certificates`
    table CertificateFiles {
        cert: String,
        key: String,
    }

    /// `[listener.tls.hsts]`
    table Hsts {
        max_age: Duration,
        include_subdomains: bool,
        preload: bool,
    }

    /// `[[route]]`
    table Route {
        host: HostPattern,
        path: UriPath,
        methods: Vec<At<Method>>,
        headers: Vec<At<HeaderMatch>>,
        query: Vec<At<QueryMatch>>,
        sources: Vec<At<IpNet>>,
        pool: String,
        pools: Vec<At<WeightedPool>>,
        redirect: Redirect,
        respond: Respond,
    }

    /// `[[route]]`, an element of `headers`
    table HeaderMatch {
        name: HeaderName,
        value: HeaderValue,
    }

    /// `[[route]]`, an element of `query`
    table QueryMatch {
        name: String,
        value: String,
    }

    /// `[[route]]`, an element of `pools`
    table WeightedPool {
        pool: String,
        weight: i64,
    }

    /// `[route.redirect]`
    table Redirect {
        status: i64,
        scheme: Scheme,
        host: Authority,
        path: UriPath,
    }

    /// `[route.respond]`
    table Respond {
        status: i64,
        body: String,
        content_type: HeaderValue,
    }

    /// `[pool.NAME]`
    table Pool {
        balance: BalanceName,
        hash_on: HashOn,
        slow_start: Duration,
        max_requests: OrOff<i64>,
        stickiness: Stickiness,
        zones: Zones,
        health: Health,
        timeouts: Timeouts,
        queue: Queue,
        retry: Retry,
        keep_alive: KeepAlive,
        outlier: Outlier,
        drain: Drain,
        protocol: TargetProtocol,
        proxy_protocol: SendProxy,
        tls: UpstreamTls,
        target: Vec<At<Target>>,
        discover: Vec<At<Discover>>,
    }

    /// `[pool.NAME.stickiness]`
    table Stickiness {
        mode: StickinessMode,
        cookie: CookieName,
        application_cookie: CookieName,
        idle: Duration,
        absolute: OrOff<Duration>,
        failback: Failback,
        same_site: SameSite,
        secure: Secure,
        partitioned: bool,
        domain: HostName,
    }

    /// `[pool.NAME.zones]`
    table Zones {
        mode: ZoneMode,
        weights: Named<i64>,
        overprovisioning: f64,
        panic: Percent,
        min_healthy: OrShare,
        shift_capacity: Percent,
        evacuate: Rate,
        gray: GrayZone,
    }

    /// `[pool.NAME.zones.gray]`
    table GrayZone {
        enabled: bool,
        window: Duration,
        min_requests: i64,
        failures: Percent,
        latency: OrOff<f64>,
        expiry: Duration,
        trickle: Percent,
    }

    /// `[pool.NAME.outlier]`
    table Outlier {
        enabled: bool,
        consecutive: i64,
        window: Duration,
        min_requests: i64,
        failures: Percent,
        latency: OrOff<f64>,
        ejection: Duration,
        max_ejection: Duration,
        max_ejected: Percent,
    }

    /// `[pool.NAME.drain]`
    table Drain {
        deadline: Duration,
        quiet: Duration,
    }

    /// `[pool.NAME.health]`
    table Health {
        enabled: bool,
        r#type: ProbeType,
        path: UriPath,
        host: Authority,
        expect: Vec<At<Statuses>>,
        service: String,
        interval: Duration,
        timeout: Duration,
        healthy: i64,
        unhealthy: i64,
        port: i64,
        drain: HealthDrain,
    }

    /// `[pool.NAME.timeouts]`
    table Timeouts {
        connect: Duration,
        first_byte: Duration,
        idle: Duration,
    }

    /// `[pool.NAME.queue]`
    table Queue {
        length: i64,
        timeout: Duration,
    }

    /// `[pool.NAME.retry]`
    table Retry {
        attempts: i64,
        budget: Percent,
        budget_min: i64,
        max_body: Size,
        statuses: Vec<At<Statuses>>,
    }

    /// `[pool.NAME.keep_alive]`
    table KeepAlive {
        connections: i64,
        timeout: Duration,
    }

    /// `[pool.NAME.tls]`
    table UpstreamTls {
        ca: String,
        server_name: HostName,
        verify_name: HostName,
        verify: Verify,
        min_version: MinVersion,
        cert: String,
        key: String,
    }

    /// `[[pool.NAME.target]]`
    table Target {
        address: SocketAddr,
        zone: Name,
        weight: i64,
        max_connections: OrOff<i64>,
    }

    /// `[[pool.NAME.discover]]`
    table Discover {
        dns: DnsName,
        r#type: RecordType,
        port: i64,
        zone: Name,
        zone_from: ZoneFrom,
        weight: i64,
        max_connections: OrOff<i64>,
        min_ttl: Duration,
        max_ttl: Duration,
        hold: Duration,
    }

    /// `[resolver]`
    table Resolver {
        nameservers: Vec<At<NameServer>>,
        timeout: Duration,
        attempts: i64,
        ca_file: String,
    }

    /// `[acme]`
    table Acme {
        directory: String,
        contacts: Vec<At<Mailbox>>,
        terms_of_service_agreed: bool,
        challenge: Challenge,
        storage: String,
        ca: String,
        retry: Duration,
        external_account: ExternalAccount,
        certificate: Vec<At<AcmeCertificate>>,
    }

    /// `[acme.external_account]`
    table ExternalAccount {
        key_id: String,
        hmac_key_file: String,
    }

    /// `[[acme.certificate]]`
    table AcmeCertificate {
        names: Vec<At<DomainName>>,
    }

    /// `[session_keys]`
    table SessionKeys {
        file: String,
    }

    /// `[admin]`
    table Admin {
        enabled: bool,
        address: AdminAddress,
        token_file: String,
    }

    /// `[dns]`
    table Dns {
        addresses: Vec<At<SocketAddr>>,
        domain: DomainName,
        contact: Mailbox,
        ttl: Duration,
        negative_ttl: Duration,
        authority_ttl: Duration,
        policy: DnsPolicy,
        max_connections: i64,
        idle: Duration,
        rate_limit: RateLimit,
        health: Health,
        name_server: Vec<At<DnsServer>>,
        name: Vec<At<ServiceName>>,
        node: Vec<At<DnsNode>>,
        nearest: Vec<At<Nearest>>,
    }

    /// `[dns.rate_limit]`
    table RateLimit {
        responses: OrOff<i64>,
        slip: i64,
        exempt: Vec<At<IpNet>>,
    }

    /// `[[dns.name_server]]`
    table DnsServer {
        name: DomainName,
        addresses: Vec<At<IpAddr>>,
    }

    /// `[[dns.name]]`
    table ServiceName {
        name: DomainName,
        policy: DnsPolicy,
        ttl: Duration,
        zones: Vec<At<Name>>,
    }

    /// `[[dns.node]]`
    table DnsNode {
        ipv4: Ipv4Addr,
        ipv6: Ipv6Addr,
        zone: Name,
        weight: i64,
        priority: i64,
        check: SocketAddr,
    }

    /// `[[dns.nearest]]`
    table Nearest {
        zone: Name,
        subnets: Vec<At<IpNet>>,
    }

    /// `[forwarding]`
    table Forwarding {
        x_forwarded: bool,
        forwarded: bool,
        via: bool,
        request_id: bool,
        traceparent: bool,
    }

    /// `[limits]`
    table Limits {
        max_requests: OrOff<i64>,
        memory: OrOff<Size>,
    }

    /// `[shutdown]`
    table Shutdown {
        deadline: Duration,
        delay: Duration,
        spread: Duration,
    }

    /// `[upgrade]`
    table Upgrade {
        deadline: Duration,
    }

    /// `[log]`
    table Log {
        level: Level,
        format: LogFormat,
    }

    /// `[access_log]`
    table AccessLog {
        output: String,
        format: AccessFormat,
        fields: Vec<At<AccessField>>,
        max_size: OrOff<Size>,
        keep: i64,
        buffer: Size,
    }

    /// `[otlp]`
    table Otlp {
        endpoint: String,
        headers_file: String,
        ca: String,
        sample: Percent,
        parents: Parents,
        service: String,
        resource: Named<String>,
        queue: i64,
        batch: i64,
        interval: Duration,
        timeout: Duration,
        give_up: Duration,
    }
}

#[cfg(test)]
mod tests;
