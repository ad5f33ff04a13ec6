//! `[pool.NAME]`: the targets of an application, and how they are treated.

use std::time::Duration;

use super::{Compiler, DAY, STAND_IN, millis, seconds};
use crate::config::file::{
    self, At, BalanceName, Field, HashOn, Name, Named, OrOff, Place, ProbeType, SendProxy, Statuses,
    Text as _,
};
use crate::config::units::{Percent, Quantity as _, Size};
use crate::config::{
    Balance, Drain, Health, HealthDrain, Listener, Outlier, Pool, Probe, Queue, Retry, StaticTarget,
    TargetProtocol, Timeouts, UpstreamKeepAlive, ZoneName,
};

const MS: Duration = millis(1);

impl Compiler<'_> {
    /// The pools in the order of their names, and these names: of wrong pools too, so that routes may refer to them.
    pub(super) fn pools(
        &mut self,
        file: Field<Named<file::Pool>>,
        listeners: &[Listener],
    ) -> (Vec<String>, Vec<Pool>) {
        let Named(mut tables) = file.or_default();
        tables.sort_by(|(a, ..), (b, ..)| a.cmp(b));
        let names = tables.iter().map(|(name, ..)| name.clone()).collect();
        let pools = tables.into_iter().filter_map(|(name, place, table)| {
            let name =
                Name::parse(&name).map_err(|wrong| self.problems.add(&place, wrong.what, wrong.hint)).ok();
            table.map(|table| self.pool(name.unwrap_or(Name("".into())), &place, table, listeners))
        });
        (names, pools.collect())
    }

    fn pool(&mut self, name: Name, place: &Place, file: file::Pool, listeners: &[Listener]) -> Pool {
        if is_empty(&file.target) && is_empty(&file.discover) {
            self.no_target(place);
        }
        let protocol = self.protocol(file.protocol, file.tls.is_absent(), place);
        let announces = file.proxy_protocol.or(SendProxy::Off) == SendProxy::V2;
        let health = self.health(file.health.or_default());
        // Another port is another server, of which it is not known that it wants a header.
        let other_port = health.port.is_some();
        if announces && protocol != TargetProtocol::Http1 {
            let hint = "leave protocol out, or proxy_protocol: with HTTP/2 the requests of many clients share a connection";
            self.problems.add(&place.key("proxy_protocol"), "needs protocol = \"http1\"", hint);
        }
        Pool {
            name: name.0,
            balance: self.balance(file.balance, file.hash_on, place),
            slow_start: self.within(file.slow_start, Duration::ZERO, Duration::ZERO..=seconds(3600)),
            max_requests: self.number_or_off(file.max_requests, i64::MAX).map(|number| number as u64),
            stickiness: self.stickiness(file.stickiness),
            zones: self.zones(file.zones.or_default(), place),
            health: Health { proxy_protocol: announces && !other_port, ..health },
            timeouts: self.timeouts(file.timeouts.or_default()),
            queue: self.queue(file.queue.or_default()),
            retry: self.retry(file.retry.or_default()),
            keep_alive: self.upstream_keep_alive(file.keep_alive.or_default()),
            outlier: self.outlier(file.outlier.or_default()),
            drain: self.drain(file.drain.or_default()),
            protocol,
            proxy_protocol: announces,
            tls: self.upstream_tls(file.tls, protocol),
            targets: self.targets(file.target.or(Vec::new()), listeners),
            discover: self.discover(file.discover.or(Vec::new())),
        }
    }

    fn no_target(&mut self, pool: &Place) {
        let key = &pool.key;
        if self.registers {
            self.warnings.push(format!("{key}: has no target but those that are registered at run time"));
        } else {
            let hint = format!(
                "write [[{key}.target]] and below it address = \"127.0.0.1:9001\", or [[{key}.discover]] and below it \
                 dns = \"_http._tcp.shop.internal\""
            );
            self.problems.add(pool, "has no target, so it could answer nothing", hint);
        }
    }

    fn protocol(&mut self, field: Field<TargetProtocol>, plain: bool, pool: &Place) -> TargetProtocol {
        if let Some(At { value: TargetProtocol::Auto, place }) = field.peek()
            && plain
        {
            let hint = format!(
                "write [{}.tls], or protocol = \"h2\" if all targets speak it, or \"http1\"",
                pool.key
            );
            self.problems.add(
                place,
                "is agreed on in a TLS handshake, and there is no TLS to the targets",
                hint,
            );
        }
        field.or(TargetProtocol::Http1)
    }

    fn balance(&mut self, name: Field<BalanceName>, hash_on: Field<HashOn>, pool: &Place) -> Balance {
        let place = name.peek().map(|at| at.place.clone());
        match (name.or(BalanceName::LeastOutstanding), hash_on) {
            (BalanceName::Hash, Field::Given(at)) => return Balance::Hash(at.value.0),
            (BalanceName::Hash, Field::Absent) => {
                let hint = "write what to hash: \"header:NAME\", \"cookie:NAME\", \"path\" or \"source\"";
                let at = place.unwrap_or_else(|| pool.clone());
                self.problems.add(&Place { line: at.line, ..pool.key("hash_on") }, "is missing", hint);
            }
            (_, Field::Given(at)) => {
                let hint = "remove it, or write balance = \"hash\"";
                self.problems.add(&at.place, "has a meaning only when balance = \"hash\"", hint);
            }
            (BalanceName::RoundRobin, _) => return Balance::RoundRobin,
            (BalanceName::PeakEwma, _) => return Balance::PeakEwma,
            _ => {}
        }
        Balance::LeastOutstanding
    }

    fn outlier(&mut self, file: file::Outlier) -> Outlier {
        let ejection = self.within(file.ejection, seconds(30), millis(100)..=DAY);
        let max_ejection = self.within(file.max_ejection, seconds(300).max(ejection), millis(100)..=DAY);
        Outlier {
            enabled: file.enabled.or(true),
            consecutive: self.within(file.consecutive, 5, 1..=1000) as u32,
            window: self.within(file.window, seconds(10), seconds(1)..=seconds(600)),
            min_requests: self.within(file.min_requests, 20, 1..=1_000_000) as u32,
            failures: self.within(file.failures, Percent(0.5), Percent(0.01)..=Percent(1.0)).0,
            latency: self.factor_or_off(file.latency, 5.0),
            ejection,
            max_ejection: max_ejection.max(ejection),
            max_ejected: self.share(file.max_ejected, 0.5),
        }
    }

    fn drain(&mut self, file: file::Drain) -> Drain {
        let deadline = self.within(file.deadline, seconds(300), Duration::ZERO..=7 * DAY);
        Drain { deadline, quiet: self.within(file.quiet, seconds(60), seconds(1)..=DAY) }
    }

    pub(super) fn health(&mut self, file: file::Health) -> Health {
        let interval = self.within(file.interval, seconds(5), millis(10)..=seconds(3600));
        if let Some(At { value, place }) = file.timeout.peek()
            && *value > interval
        {
            let what = format!("{} is longer than the interval of {}", value.written(), interval.written());
            self.problems.add(
                place,
                what,
                format!("write at most {}, or a longer interval", interval.written()),
            );
        }
        let port = file.port.peek().is_some().then(|| self.within(file.port, 1, 1..=65_535) as u16);
        Health {
            enabled: file.enabled.or(true),
            probe: self.probe(
                file.r#type.or(ProbeType::Http),
                (file.path, file.expect),
                file.host,
                file.service,
            ),
            interval,
            timeout: self.within(file.timeout, seconds(2).min(interval), MS..=seconds(3600)),
            healthy: self.within(file.healthy, 2, 1..=100) as u32,
            unhealthy: self.within(file.unhealthy, 2, 1..=100) as u32,
            port,
            drain: file.drain.or(HealthDrain::Header),
            proxy_protocol: false,
        }
    }

    fn probe(
        &mut self,
        r#type: ProbeType,
        (path, expect): (Field<file::UriPath>, Field<Vec<At<Statuses>>>),
        host: Field<file::Authority>,
        service: Field<String>,
    ) -> Probe {
        let (path_at, expect_at) = (path.peek().map(|at| &at.place), expect.peek().map(|at| &at.place));
        let (host_at, service_at) = (host.peek().map(|at| &at.place), service.peek().map(|at| &at.place));
        let (name, without) = match r#type {
            ProbeType::Http => ("http", vec![(service_at, "grpc")]),
            ProbeType::Tcp => {
                let of_http = [path_at, expect_at, host_at].map(|at| (at, "http"));
                ("tcp", of_http.into_iter().chain([(service_at, "grpc")]).collect())
            }
            ProbeType::Grpc => ("grpc", vec![(path_at, "http"), (expect_at, "http")]),
        };
        for (place, other) in without {
            let Some(place) = place else { continue };
            let what = format!("has no meaning when type = \"{name}\"");
            self.problems.add(place, what, format!("remove it, or write type = \"{other}\""));
        }
        let host = host.given().and_then(|at| http::HeaderValue::from_str(&at.value.0).ok());
        match r#type {
            ProbeType::Http => {
                let expect = self.filled(expect, vec![Statuses(200..=299)], "write expect = [\"200-299\"]");
                Probe::Http {
                    path: path.given().map_or_else(|| "/".into(), |at| at.value.0),
                    host,
                    expect: expect.into_iter().map(|statuses| statuses.0).collect(),
                }
            }
            ProbeType::Tcp => Probe::Tcp,
            ProbeType::Grpc => {
                Probe::Grpc { service: service.given().map(|at| at.value).unwrap_or_default().into(), host }
            }
        }
    }

    fn timeouts(&mut self, file: file::Timeouts) -> Timeouts {
        Timeouts {
            connect: self.within(file.connect, seconds(1), MS..=seconds(600)),
            first_byte: self.within(file.first_byte, seconds(30), MS..=DAY),
            idle: self.within(file.idle, seconds(60), MS..=DAY),
        }
    }

    fn queue(&mut self, file: file::Queue) -> Queue {
        Queue {
            length: self.within(file.length, 1024, 0..=1_000_000) as usize,
            timeout: self.within(file.timeout, seconds(5), MS..=seconds(600)),
        }
    }

    fn retry(&mut self, file: file::Retry) -> Retry {
        for At { value: Statuses(range), place } in file.statuses.peek().into_iter().flat_map(|at| &at.value)
        {
            if *range.start() < 400 || *range.end() > 599 {
                self.problems.add(
                    place,
                    "holds statuses that are no failures",
                    "write a range within \"400-599\"",
                );
            }
        }
        let statuses = file.statuses.given().map(|at| at.value.into_iter().map(|at| at.value.0).collect());
        Retry {
            attempts: self.within(file.attempts, 3, 1..=10) as u32,
            budget: self.share(file.budget, 0.2),
            budget_min: self.within(file.budget_min, 3, 0..=1_000_000) as u32,
            max_body: self.within(file.max_body, Size(64 << 10), Size(0)..=Size(16 << 20)).0 as usize,
            statuses: statuses.unwrap_or_else(|| vec![500..=500, 502..=504]),
        }
    }

    fn upstream_keep_alive(&mut self, file: file::KeepAlive) -> UpstreamKeepAlive {
        UpstreamKeepAlive {
            connections: self.within(file.connections, 128, 0..=65_536) as usize,
            timeout: self.within(file.timeout, seconds(50), millis(10)..=DAY),
        }
    }

    fn targets(&mut self, tables: Vec<At<file::Target>>, listeners: &[Listener]) -> Vec<StaticTarget> {
        let addresses = || tables.iter().filter_map(|at| at.value.address.peek());
        self.unique(addresses(), "write each address once; for a larger share give it a weight");
        for At { value: address, place } in addresses() {
            if address.port() == 0 {
                self.problems.add(place, "has port 0", "write the port the target listens on");
            } else if let Some(own) = listeners.iter().find(|listener| listener.address == *address) {
                let what = format!("is the listener {:?}, so requests would go round in circles", own.name);
                self.problems.add(place, what, "write the address of an instance of the application");
            }
        }
        tables.into_iter().map(|At { value, place }| self.target(value, &place)).collect()
    }

    fn target(&mut self, file: file::Target, place: &Place) -> StaticTarget {
        if file.address.is_absent() {
            self.problems.add(&place.key("address"), "is missing", "write address = \"127.0.0.1:9001\"");
        }
        let zone = file.zone.given().map_or_else(|| ZoneName::from("-"), |at| at.value.0);
        let weight = self.within(file.weight, 1, 0..=256) as u32;
        let max_connections = self.limit(file.max_connections);
        StaticTarget { address: file.address.or(STAND_IN), zone, weight, max_connections }
    }

    /// `max_connections` of a target.
    pub(super) fn limit(&mut self, field: Field<OrOff<i64>>) -> Option<u32> {
        self.number_or_off(field, i64::from(u32::MAX - 1)).map(|number| number as u32)
    }

    /// A number of at least one, or none.
    fn number_or_off(&mut self, field: Field<OrOff<i64>>, most: i64) -> Option<i64> {
        match field.given() {
            Some(At { value: OrOff::On(number), place }) => {
                Some(self.within(Field::Given(At { value: number, place }), 1, 1..=most))
            }
            _ => None,
        }
    }

    /// A factor above one, or none.
    pub(super) fn factor_or_off(&mut self, field: Field<OrOff<f64>>, default: f64) -> Option<f64> {
        match field.given() {
            Some(At { value: OrOff::Off, .. }) => None,
            Some(At { value: OrOff::On(number), place }) => {
                Some(self.within(Field::Given(At { value: number, place }), default, 1.1..=1000.0))
            }
            None => Some(default),
        }
    }

    /// A share of at most the whole.
    pub(super) fn share(&mut self, field: Field<Percent>, default: f64) -> f64 {
        self.within(field, Percent(default), Percent(0.0)..=Percent(1.0)).0
    }
}

/// Whether a list is not there, or there and empty.
fn is_empty<T>(list: &Field<Vec<T>>) -> bool {
    list.is_absent() || list.peek().is_some_and(|at| at.value.is_empty())
}
