//! `[[listener]]`: where clients connect.

use std::sync::Arc;

use super::{Compiler, DAY, STAND_IN, millis, plain, seconds};
use crate::config::file::{self, At, Field, OrOff, Place, RequestsPer};
use crate::config::units::Size;
use crate::config::{Http2, Listener, PerClient, Protocol, ProxyProtocol, RequestRate};

impl Compiler<'_> {
    pub(super) fn listeners(&mut self, file: Field<Vec<At<file::Listener>>>) -> Vec<Listener> {
        if file.peek().is_some_and(|at| at.value.is_empty()) || file.is_absent() {
            let hint = "write [[listener]] and below it address = \"0.0.0.0:8080\"";
            self.problems.add(
                &Place::default().key("listener"),
                "there is none, so no client could connect",
                hint,
            );
        }
        let tables = file.or(Vec::new());
        let names = tables.iter().filter_map(|at| at.value.name.peek());
        self.unique(names, "give each listener its own name");
        let addresses = tables.iter().filter_map(|at| at.value.address.peek());
        let addresses = addresses.filter(|at| at.value.port() != 0);
        self.unique(addresses, "give each listener its own address or port");
        tables.into_iter().map(|At { value, place }| self.listener(value, &place)).collect()
    }

    fn listener(&mut self, file: file::Listener, place: &Place) -> Listener {
        if file.address.is_absent() {
            self.problems.add(&place.key("address"), "is missing", "write address = \"0.0.0.0:8080\"");
        }
        let address = file.address.or(STAND_IN);
        let anyone = || ["0.0.0.0/0", "::/0"].iter().filter_map(|net| net.parse().ok()).collect();
        let head_size = Size(1 << 10)..=Size(1 << 20);
        Listener {
            name: file.name.given().map_or_else(|| address.to_string().into(), |at| at.value.0),
            address,
            allow: self.filled(
                file.allow,
                anyone(),
                "list who may connect, or leave the key out to allow everyone",
            ),
            trusted: plain(file.trusted.or(Vec::new())),
            trace_sources: plain(file.trace_sources.or(Vec::new())),
            max_connections: self.within(file.max_connections, 65_536, 1..=10_000_000) as usize,
            backlog: self.backlog(file.backlog),
            per_client: self.per_client(file.per_client),
            head_timeout: self.within(file.head_timeout, seconds(10), millis(10)..=seconds(600)),
            keep_alive: self.within(file.keep_alive, seconds(60), millis(10)..=DAY),
            idle: self.within(file.idle, seconds(60), millis(10)..=DAY),
            max_head: self.within(file.max_head, Size(32 << 10), head_size).0 as usize,
            max_fields: self.within(file.max_fields, 100, 1..=256) as usize,
            max_body: match file.max_body.or(OrOff::Off) {
                OrOff::Off => None,
                OrOff::On(Size(bytes)) => Some(bytes),
            },
            redirect_to_https: self.https_port(file.redirect_to_https, &file.tls),
            proxy_protocol: self.proxy_protocol(file.proxy_protocol),
            protocols: self.protocols(file.protocols),
            http2: self.http2(file.http2.or_default()),
            tls: self.listener_tls(file.tls).map(Arc::new),
        }
    }

    fn backlog(&mut self, file: Field<i64>) -> u32 {
        let place = file.peek().map(|at| at.place.clone());
        let backlog = self.within(file, 4096, 1..=1_000_000) as u32;
        if let (Some(place), Some(most)) = (place, most_of_the_kernel())
            && backlog > most
        {
            let key = place.key;
            self.warnings
                .push(format!("{key}: the kernel makes {most} of {backlog}; raise net.core.somaxconn"));
        }
        backlog
    }

    fn per_client(&mut self, file: Field<file::PerClient>) -> Option<PerClient> {
        let At { value: file, place } = file.given()?;
        let burst = file.burst.peek().map(|at| at.place.clone());
        let on = self.within(file.burst, 0, 1..=1_000_000) as u32;
        let rate = match file.rate {
            Field::Given(At { value: OrOff::On(RequestsPer(count, per)), place }) => {
                let requests = self.within(Field::Given(At { value: count, place }), 1, 1..=1_000_000) as u32;
                // What comes in a second, unless it is said.
                let usual = (f64::from(requests) / per.as_secs_f64()).ceil() as u32;
                Some(RequestRate { requests, per, burst: if on > 0 { on } else { usual } })
            }
            _ => None,
        };
        if let Some(burst) = burst.filter(|_| rate.is_none()) {
            self.problems.add(&burst, "has no meaning without a rate", "write rate = \"100/s\" beside it");
        }
        let max_connections = match file.max_connections {
            Field::Given(At { value: OrOff::On(most), place }) => {
                Some(self.within(Field::Given(At { value: most, place }), 1, 1..=10_000_000) as u32)
            }
            _ => None,
        };
        let rules = PerClient {
            max_connections,
            rate,
            ipv4_prefix: self.within(file.ipv4_prefix, 32, 0..=32) as u8,
            ipv6_prefix: self.within(file.ipv6_prefix, 64, 0..=128) as u8,
            exempt: plain(file.exempt.or(Vec::new())),
        };
        if rules.max_connections.is_none() && rules.rate.is_none() {
            if !rules.exempt.is_empty() {
                let what = "exempts from limits that are all off";
                self.problems.add(&place.key("exempt"), what, "write rate or max_connections beside it");
            }
            return None;
        }
        Some(rules)
    }

    fn proxy_protocol(&mut self, file: Field<file::ProxyProtocol>) -> Option<ProxyProtocol> {
        let At { value: file, place } = file.given()?;
        let hint = "list the proxies in front that send the header, such as from = [\"10.0.0.0/24\"]";
        if file.from.is_absent() {
            self.problems.add(&place.key("from"), "is missing", hint);
        }
        let from = self.filled(file.from, Vec::new(), hint);
        if let Some(all) = from.iter().find(|net| net.prefix_len() == 0) {
            self.warnings.push(format!(
                "{}: {all} is every address, so any client can claim to be any other; list the proxies in front only",
                place.key("from").key
            ));
        }
        Some(ProxyProtocol {
            from,
            timeout: self.within(file.timeout, seconds(5), millis(10)..=seconds(600)),
        })
    }

    fn protocols(&mut self, field: Field<Vec<At<Protocol>>>) -> Vec<Protocol> {
        self.unique(field.peek().iter().flat_map(|at| &at.value), "write each protocol once");
        let all = Protocol::ALL.to_vec();
        self.filled(field, all, "list what clients may speak, or leave the key out to allow everything")
    }

    fn http2(&mut self, file: file::Http2) -> Http2 {
        // What the protocol allows, or what is sane if that is less.
        let (window, connection) = (Size(16 << 10)..=Size(16 << 20), Size(64 << 10)..=Size(256 << 20));
        let frame = Size(16 << 10)..=Size(1 << 20);
        Http2 {
            max_concurrent_streams: self.within(file.max_concurrent_streams, 128, 1..=10_000) as u32,
            stream_window: self.within(file.stream_window, Size(256 << 10), window).0 as u32,
            connection_window: self.within(file.connection_window, Size(1 << 20), connection).0 as u32,
            max_frame_size: self.within(file.max_frame_size, Size(16 << 10), frame).0 as u32,
            max_buffered: self.within(file.max_buffered, Size(1 << 20), Size(64 << 10)..=Size(1 << 30)).0
                as usize,
        }
    }

    fn https_port(&mut self, field: Field<OrOff<i64>>, tls: &Field<file::ListenerTls>) -> Option<u16> {
        let Some(At { value: OrOff::On(port), place }) = field.given() else { return None };
        if !tls.is_absent() {
            self.problems.add(
                &place,
                "has no meaning on a listener with TLS",
                "write it on the one without TLS",
            );
        }
        Some(self.within(Field::Given(At { value: port, place }), 443, 1..=65_535) as u16)
    }
}

/// The longest queue that the kernel allows a listening socket.
fn most_of_the_kernel() -> Option<u32> {
    std::fs::read_to_string("/proc/sys/net/core/somaxconn").ok()?.trim().parse().ok()
}
