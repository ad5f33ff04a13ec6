//! The reference configuration names every key of the mirror, and the other way round.

use super::*;

const REFERENCE: &str = include_str!("../../../config/selvedge.toml");

/// The reference with the keys and tables behind `#` written out too.
fn reference_with_every_key() -> String {
    let is_key = |rest: &str| {
        rest.split_once(" = ").is_some_and(|(key, _)| {
            !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
        })
    };
    let is_table = |rest: &str| rest.starts_with('[') && rest.ends_with(']');
    let written = |line: &'static str| {
        line.strip_prefix('#').filter(|rest| is_key(rest) || is_table(rest)).unwrap_or(line)
    };
    REFERENCE.lines().map(written).collect::<Vec<_>>().join("\n")
}

/// The keys of the table (or of all tables of the list) at `path`, in which `*` is any name.
fn keys_at(document: &toml::Value, path: &str) -> Vec<String> {
    let mut found = vec![document];
    for step in path.split('.').filter(|step| !step.is_empty()) {
        let below = found.into_iter().flat_map(|value| match (step, value) {
            ("*", toml::Value::Table(table)) => table.values().collect(),
            (_, value) => value.get(step).into_iter().collect::<Vec<_>>(),
        });
        found = below
            .flat_map(|value| value.as_array().map_or(vec![value], |list| list.iter().collect()))
            .collect();
    }
    found.into_iter().filter_map(toml::Value::as_table).flat_map(|table| table.keys().cloned()).collect()
}

#[test]
fn the_reference_shows_every_key_in_its_table() {
    let document: toml::Value = toml::from_str(&reference_with_every_key()).unwrap();
    let tables = [
        ("", FileConfig::KEYS),
        ("listener", Listener::KEYS),
        ("listener.per_client", PerClient::KEYS),
        ("listener.http2", Http2::KEYS),
        ("listener.proxy_protocol", ProxyProtocol::KEYS),
        ("listener.tls", ListenerTls::KEYS),
        ("listener.tls.certificates", CertificateFiles::KEYS),
        ("listener.tls.hsts", Hsts::KEYS),
        ("route", Route::KEYS),
        ("route.headers", HeaderMatch::KEYS),
        ("route.query", QueryMatch::KEYS),
        ("route.pools", WeightedPool::KEYS),
        ("route.redirect", Redirect::KEYS),
        ("route.respond", Respond::KEYS),
        ("pool.*", Pool::KEYS),
        ("pool.shop.stickiness", Stickiness::KEYS),
        ("pool.shop.zones", Zones::KEYS),
        ("pool.shop.zones.gray", GrayZone::KEYS),
        ("pool.shop.outlier", Outlier::KEYS),
        ("pool.shop.drain", Drain::KEYS),
        ("pool.shop.health", Health::KEYS),
        ("pool.shop.timeouts", Timeouts::KEYS),
        ("pool.shop.queue", Queue::KEYS),
        ("pool.shop.retry", Retry::KEYS),
        ("pool.shop.keep_alive", KeepAlive::KEYS),
        ("pool.shop.tls", UpstreamTls::KEYS),
        ("pool.shop.target", Target::KEYS),
        ("pool.*.discover", Discover::KEYS),
        ("resolver", Resolver::KEYS),
        ("acme", Acme::KEYS),
        ("acme.external_account", ExternalAccount::KEYS),
        ("acme.certificate", AcmeCertificate::KEYS),
        ("session_keys", SessionKeys::KEYS),
        ("admin", Admin::KEYS),
        ("dns", Dns::KEYS),
        ("dns.rate_limit", RateLimit::KEYS),
        ("dns.name_server", DnsServer::KEYS),
        ("dns.name", ServiceName::KEYS),
        ("dns.node", DnsNode::KEYS),
        ("dns.nearest", Nearest::KEYS),
        ("forwarding", Forwarding::KEYS),
        ("limits", Limits::KEYS),
        ("shutdown", Shutdown::KEYS),
        ("upgrade", Upgrade::KEYS),
        ("log", Log::KEYS),
        ("access_log", AccessLog::KEYS),
        ("otlp", Otlp::KEYS),
    ];
    assert_eq!(tables.len(), TABLES.len(), "every table is in the list above: {TABLES:?}");
    for (path, keys) in tables {
        let shown = keys_at(&document, path);
        for key in keys {
            assert!(shown.iter().any(|shown| shown == key), "[{path}] {key} is not in config/selvedge.toml");
        }
    }
}

#[test]
fn the_examples_behind_a_hash_are_well_formed() {
    let (_, problems) = parse(&reference_with_every_key()).unwrap();
    assert_eq!(problems.into_sorted(), []);
}
