//! `[dns]`: what a node answers for the balancer's own names.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use super::{Compiler, STAND_IN, millis, plain, seconds};
use crate::config::file::{self, At, Field, OrOff, Place, ProbeType, UriPath};
use crate::config::units::Quantity as _;
use crate::config::{
    Dns, DnsNode, DnsPolicy, DnsServer, DomainName, Health, Listener, RateLimit, ServiceName, ZoneName,
};

/// Longest time to live that resolvers need: what is longer, many of them cut.
const TTL_MAX: Duration = Duration::from_secs(7 * 86_400);

/// Entries of the lists that a message must hold, or that are gone through for each change.
const NAME_SERVERS_MAX: usize = 16;
const SERVER_ADDRESSES_MAX: usize = 8;
const NODES_MAX: usize = 1000;

/// What is asked of a node that is checked over HTTP.
const READY: &str = "/readyz";

impl Compiler<'_> {
    pub(super) fn dns(&mut self, file: Field<file::Dns>, listeners: &[Listener]) -> Option<Dns> {
        let At { value: file, place } = file.given()?;
        if file.domain.is_absent() {
            self.problems.add(&place.key("domain"), "is missing", "write domain = \"lb.myclothes.test\"");
        }
        // In the place of a name that is missing or wrong, one that every name is in.
        let domain = file.domain.given().map_or_else(DomainName::default, |at| at.value.0);
        let ttl = self.ttl(file.ttl, seconds(10));
        let policy = file.policy.or(DnsPolicy::Multivalue);
        let health_is_on =
            file.health.peek().is_none_or(|at| at.value.enabled.peek().is_none_or(|at| at.value));
        let port = file.health.peek().is_some_and(|at| !at.value.port.is_absent());
        let health = self.node_health(file.health);
        let nodes = self.dns_nodes(file.node, &place, &health, health_is_on && !port);
        let zones: Vec<&ZoneName> = nodes.iter().map(|node| &node.zone).collect();
        let nearest = self.nearest(file.nearest, &zones);
        let names = self.service_names(file.name, &domain, &zones, (policy, ttl));
        self.nearest_is_known(&names, &nearest, &place);
        let name_servers = self.name_servers(file.name_server, &place, &domain);
        self.servers_are_no_services(&name_servers, &names);
        Some(Dns {
            addresses: self.dns_addresses(file.addresses, &place, listeners),
            contact: file
                .contact
                .given()
                .map_or_else(|| format!("hostmaster@{domain}").into(), |at| at.value.0),
            negative_ttl: self.ttl(file.negative_ttl, seconds(60)),
            authority_ttl: self.ttl(file.authority_ttl, seconds(3600)),
            name_servers: name_servers.into_iter().map(|at| at.value).collect(),
            names: names.into_iter().map(|at| at.value).collect(),
            nodes,
            nearest,
            health,
            rate_limit: self.rate_limit(file.rate_limit.or_default()),
            max_connections: self.within(file.max_connections, 256, 1..=65_536) as usize,
            idle: self.within(file.idle, seconds(10), millis(10)..=seconds(600)),
            domain,
        })
    }

    /// A time to live: whole seconds, as records hold it.
    fn ttl(&mut self, field: Field<Duration>, default: Duration) -> Duration {
        if let Some(At { value, place }) = field.peek()
            && value.subsec_nanos() > 0
        {
            let what = format!("{} is not a whole number of seconds", value.written());
            self.problems.add(place, what, "records hold seconds: write it such as \"10s\"");
        }
        self.within(field, default, Duration::ZERO..=TTL_MAX)
    }

    /// Notes a list that is longer than `most`.
    fn at_most<T>(&mut self, list: &Field<Vec<At<T>>>, most: usize) {
        if let Some(At { value, place }) = list.peek()
            && value.len() > most
        {
            self.problems.add(place, format!("has {} entries", value.len()), format!("write at most {most}"));
        }
    }

    fn dns_addresses(
        &mut self,
        file: Field<Vec<At<SocketAddr>>>,
        place: &Place,
        listeners: &[Listener],
    ) -> Vec<SocketAddr> {
        if file.is_absent() {
            let hint = "write addresses = [\"203.0.113.10:53\"]";
            self.problems.add(&place.key("addresses"), "is missing", hint);
        }
        let real = || file.peek().into_iter().flat_map(|at| &at.value).filter(|at| at.value.port() != 0);
        self.unique(real(), "write each address once");
        for At { value, place } in real() {
            if value.ip().is_unspecified() {
                self.warnings.push(format!(
                    "{}: on a machine with several addresses, answers may leave from another than was asked; write the \
                     addresses that clients ask",
                    place.key
                ));
            }
            if let Some(taken) = listeners.iter().find(|listener| listener.address == *value) {
                let what = format!("{value} is already taken by the listener {:?}", taken.name);
                self.problems.add(place, what, "give DNS its own address or port");
            }
        }
        self.filled(file, Vec::new(), "write addresses = [\"203.0.113.10:53\"]")
    }

    /// Like the checks of a pool, but of the node's own readiness unless the file says otherwise.
    fn node_health(&mut self, file: Field<file::Health>) -> Health {
        let mut file = file.or_default();
        let is_http = file.r#type.peek().is_none_or(|at| at.value == ProbeType::Http);
        if is_http && file.path.is_absent() {
            file.path = Field::Given(At { value: UriPath(READY.into()), place: Place::default() });
        }
        self.health(file)
    }

    fn dns_nodes(
        &mut self,
        file: Field<Vec<At<file::DnsNode>>>,
        place: &Place,
        health: &Health,
        needs_check: bool,
    ) -> Vec<DnsNode> {
        if file.is_absent() || file.peek().is_some_and(|at| at.value.is_empty()) {
            let hint = "write [[dns.node]] and below it ipv4 = \"203.0.113.10\", for each node";
            self.problems.add(place, "has no node, so it could answer nothing", hint);
        }
        self.at_most(&file, NODES_MAX);
        let tables = file.or(Vec::new());
        let once = "write each node once; for a larger share give it a weight";
        self.unique(tables.iter().filter_map(|at| at.value.ipv4.peek()), once);
        self.unique(tables.iter().filter_map(|at| at.value.ipv6.peek()), once);
        let node = |At { value, place }| self.dns_node(value, &place, health, needs_check);
        tables.into_iter().map(node).collect()
    }

    fn dns_node(
        &mut self,
        file: file::DnsNode,
        place: &Place,
        health: &Health,
        needs_check: bool,
    ) -> DnsNode {
        if file.ipv4.is_absent() && file.ipv6.is_absent() {
            let hint = "write ipv4 = \"203.0.113.10\" or ipv6 = \"2001:db8::10\", or both";
            self.problems.add(place, "has no address", hint);
        }
        let v4 = file.ipv4.peek().map(|at| (IpAddr::V4(at.value), &at.place));
        let v6 = file.ipv6.peek().map(|at| (IpAddr::V6(at.value), &at.place));
        for (address, place) in v4.into_iter().chain(v6) {
            if address.is_unspecified() || address.is_multicast() {
                let what = format!("{address} is not the address of one machine");
                self.problems.add(place, what, "write the address at which clients reach the node");
            }
        }
        if file.check.is_absent() && needs_check {
            let hint = "write the address of the node's admin API, such as check = \"10.0.1.10:9900\"; or one port for \
                        all nodes, dns.health.port";
            self.problems.add(&place.key("check"), "is missing", hint);
        }
        if let Some(At { value, place }) = file.check.peek()
            && value.port() == 0
        {
            self.problems.add(place, "has port 0", "write the port that answers checks");
        }
        let mut node = DnsNode {
            ipv4: file.ipv4.given().map(|at| at.value),
            ipv6: file.ipv6.given().map(|at| at.value),
            zone: file.zone.given().map_or_else(|| ZoneName::from("-"), |at| at.value.0),
            weight: self.within(file.weight, 1, 0..=256) as u32,
            priority: self.within(file.priority, 0, 0..=65_535) as u16,
            check: STAND_IN,
        };
        let own = SocketAddr::new(node.address(), health.port.unwrap_or_default());
        node.check = file.check.or(own);
        node
    }

    fn name_servers(
        &mut self,
        file: Field<Vec<At<file::DnsServer>>>,
        place: &Place,
        domain: &str,
    ) -> Vec<At<DnsServer>> {
        if file.is_absent() || file.peek().is_some_and(|at| at.value.is_empty()) {
            let hint = "write [[dns.name_server]] and below it name = \"ns1.myclothes.test\"";
            self.problems.add(place, "names nobody who is in charge of the domain", hint);
        }
        self.at_most(&file, NAME_SERVERS_MAX);
        let tables = file.or(Vec::new());
        let names = tables.iter().filter_map(|at| at.value.name.peek());
        self.unique(names, "write each name server once; it may have several addresses");
        let server = |At { value, place }| {
            let server = self.name_server(value, &place, domain);
            At { value: server, place }
        };
        tables.into_iter().map(server).collect()
    }

    fn name_server(&mut self, file: file::DnsServer, place: &Place, domain: &str) -> DnsServer {
        if file.name.is_absent() {
            self.problems.add(&place.key("name"), "is missing", "write name = \"ns1.myclothes.test\"");
        }
        self.at_most(&file.addresses, SERVER_ADDRESSES_MAX);
        let has_addresses = file.addresses.peek().is_some_and(|at| !at.value.is_empty());
        if let Some(At { value: file::DomainName(name), place }) = file.name.peek() {
            if is_in(name, domain) && file.addresses.is_absent() {
                let what = format!("{name} is in the domain, so nobody else could say where it is");
                self.problems.add(place, what, "write addresses = [\"203.0.113.10\"] below it");
            } else if !is_in(name, domain) && has_addresses {
                let what =
                    format!("{name} is not in the domain, so its addresses are not this node's to tell");
                self.problems.add(place, what, "remove addresses");
            }
        }
        DnsServer {
            name: file.name.given().map_or_else(DomainName::default, |at| at.value.0),
            addresses: self.filled(file.addresses, Vec::new(), "write addresses = [\"203.0.113.10\"]"),
        }
    }

    fn service_names(
        &mut self,
        file: Field<Vec<At<file::ServiceName>>>,
        domain: &str,
        zones: &[&ZoneName],
        (policy, ttl): (DnsPolicy, Duration),
    ) -> Vec<At<ServiceName>> {
        let all = || (0..zones.len()).collect();
        let Some(At { value: tables, .. }) = file.given().filter(|at| !at.value.is_empty()) else {
            let only = ServiceName { name: domain.into(), policy, ttl, nodes: all() };
            return vec![At { value: only, place: Place::default().key("dns").key("name") }];
        };
        let names = tables.iter().filter_map(|at| at.value.name.peek());
        self.unique(names, "write each name once");
        let mut names = Vec::new();
        for At { value: file, place } in tables {
            let name = self.service_name(file.name, &place, domain);
            let nodes = file.zones.given().map_or_else(all, |at| self.nodes_of(&at, zones));
            let ttl = if file.ttl.is_absent() { ttl } else { self.ttl(file.ttl, ttl) };
            let value = ServiceName { name, policy: file.policy.or(policy), ttl, nodes };
            names.push(At { value, place });
        }
        names
    }

    fn service_name(&mut self, field: Field<file::DomainName>, table: &Place, domain: &str) -> DomainName {
        if field.is_absent() {
            let hint = format!("write name = \"www.{domain}\"");
            self.problems.add(&table.key("name"), "is missing", hint);
        }
        let Some(At { value: file::DomainName(name), place }) = field.given() else { return domain.into() };
        if !is_in(&name, domain) {
            let what = format!("{name} is not in the domain {domain}");
            self.problems.add(&place, what, format!("write a name such as \"{name}.{domain}\""));
        }
        name
    }

    /// The nodes of these zones.
    fn nodes_of(&mut self, list: &At<Vec<At<file::Name>>>, zones: &[&ZoneName]) -> Vec<usize> {
        if list.value.is_empty() {
            self.problems.add(&list.place, "is empty", "list zones of nodes, or leave the key out for all");
        }
        for At { value: file::Name(zone), place } in &list.value {
            self.zone_has_nodes(zone, place, zones);
        }
        let wanted = |zone: &ZoneName| list.value.iter().any(|at| at.value.0 == *zone);
        zones.iter().enumerate().filter(|(_, zone)| wanted(zone)).map(|(index, _)| index).collect()
    }

    fn zone_has_nodes(&mut self, zone: &ZoneName, place: &Place, zones: &[&ZoneName]) {
        if !zones.contains(&zone) {
            let what = format!("no node of [[dns.node]] stands in {zone:?}");
            self.problems.add(place, what, "write the zone of a node");
        }
    }

    fn nearest(
        &mut self,
        file: Field<Vec<At<file::Nearest>>>,
        zones: &[&ZoneName],
    ) -> Vec<(IpNet, ZoneName)> {
        let mut nearest = Vec::new();
        let mut lines = HashMap::new();
        for At { value: file, place } in file.or(Vec::new()) {
            if file.zone.is_absent() {
                self.problems.add(&place.key("zone"), "is missing", "write zone = \"az-a\"");
            }
            if file.subnets.is_absent() {
                self.problems.add(&place.key("subnets"), "is missing", "write subnets = [\"10.1.0.0/16\"]");
            }
            let (Some(zone), Some(subnets)) = (file.zone.given(), file.subnets.given()) else { continue };
            self.zone_has_nodes(&zone.value.0, &zone.place, zones);
            for At { value: subnet, place } in subnets.value {
                let subnet = subnet.trunc();
                if let Some(line) = lines.insert(subnet, place.line) {
                    let what = format!("{subnet} is already in line {line}");
                    self.problems.add(&place, what, "give each range one zone");
                }
                nearest.push((subnet, zone.value.0.clone()));
            }
        }
        nearest
    }

    fn nearest_is_known(&mut self, names: &[At<ServiceName>], nearest: &[(IpNet, ZoneName)], dns: &Place) {
        let wanted = names.iter().find(|at| at.value.policy == DnsPolicy::Nearest);
        match wanted {
            Some(at) if nearest.is_empty() => {
                let place = if at.place.line > 0 { &at.place } else { dns };
                let hint =
                    "write [[dns.nearest]] and below it zone = \"az-a\" and subnets = [\"10.1.0.0/16\"]";
                self.problems.add(place, "nothing says which zone is nearest to whom", hint);
            }
            None if !nearest.is_empty() => {
                self.warnings.push("dns.nearest: no name has the policy \"nearest\"".to_owned());
            }
            _ => {}
        }
    }

    fn servers_are_no_services(&mut self, servers: &[At<DnsServer>], names: &[At<ServiceName>]) {
        for At { value: server, place } in servers {
            if !server.name.is_empty() && names.iter().any(|at| at.value.name == server.name) {
                let what = format!("{} is a name that is answered with nodes", server.name);
                self.problems.add(&place.key("name"), what, "give the name server a name of its own");
            }
        }
    }

    fn rate_limit(&mut self, file: file::RateLimit) -> Option<RateLimit> {
        let responses = match file.responses {
            Field::Given(At { value: OrOff::Off, .. }) => None,
            Field::Given(At { value: OrOff::On(value), place }) => {
                Some(self.within(Field::Given(At { value, place }), 200, 1..=1_000_000))
            }
            Field::Absent | Field::Wrong => Some(200),
        };
        let slip = self.within(file.slip, 2, 0..=100) as u32;
        let exempt = plain(file.exempt.or(Vec::new()));
        responses.map(|responses| RateLimit { responses: responses as u32, slip, exempt })
    }
}

/// Whether `name` is `domain` or below it.
fn is_in(name: &str, domain: &str) -> bool {
    domain.is_empty() || name.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
#[path = "dns_tests.rs"]
mod tests;
