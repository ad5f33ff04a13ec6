//! What the records of an answer say: addresses behind aliases, services, and the zone of each. Pure.
//!
//! Only what was asked for is looked at: records of other names and types are no part of the answer, whoever added them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

use crate::config::{self, Discover, ZoneName, ZoneOf};
use crate::control::sources::Listed;

/// Aliases that are followed from one name.
const ALIASES_MAX: usize = 8;

/// What is said of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// How long that may be kept.
    pub ttl: Duration,
    /// The host's own name: where the aliases of the name that was asked for lead.
    pub name: Name,
}

/// The addresses of `name` among `records`.
pub(super) fn host(records: &[Record], name: &Name, kind: RecordType) -> Host {
    let (mut name, mut ttl) = (name.clone(), u32::MAX);
    for _ in 0..ALIASES_MAX {
        let alias = records.iter().find_map(|record| match &record.data {
            RData::CNAME(alias) if record.name == name => Some((alias.0.clone(), record.ttl)),
            _ => None,
        });
        let Some((target, alias_ttl)) = alias else { break };
        (name, ttl) = (target, ttl.min(alias_ttl));
    }
    let mut addresses = Vec::new();
    for record in records.iter().filter(|record| record.name == name && record.record_type() == kind) {
        let ip = match &record.data {
            RData::A(ip) => IpAddr::V4(ip.0),
            RData::AAAA(ip) => IpAddr::V6(ip.0),
            _ => continue,
        };
        ttl = ttl.min(record.ttl);
        if is_host(ip) && !addresses.contains(&ip) {
            addresses.push(ip);
        }
    }
    Host { addresses, ttl: seconds(ttl), name }
}

/// Whether a connection to this address can lead to one host.
fn is_host(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !(ip.is_unspecified() || ip.is_multicast() || broadcast)
}

/// A service as an SRV record says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Service {
    /// Name of its host.
    pub host: Name,
    /// Never 0.
    pub port: u16,
    /// The lowest is to be used.
    pub priority: u16,
    /// Share among those of its priority.
    pub weight: u16,
}

/// The services of `name` among `records`, how long they may be kept, and the name where its aliases lead. The root as a
/// host means that there is no service.
pub(super) fn services(records: &[Record], name: &Name) -> (Vec<Service>, Duration, Name) {
    let Host { ttl, name, .. } = host(records, name, RecordType::SRV);
    let mut ttl = ttl;
    let mut services = Vec::new();
    for record in records.iter().filter(|record| record.name == name) {
        if let RData::SRV(srv) = &record.data {
            ttl = ttl.min(seconds(record.ttl));
            if srv.port != 0 && !srv.target.is_root() {
                let host = srv.target.to_lowercase();
                services.push(Service { host, port: srv.port, priority: srv.priority, weight: srv.weight });
            }
        }
    }
    (services, ttl, name)
}

impl Discover {
    /// The target at `ip`, which has no record but its address.
    pub(super) fn listed(&self, ip: IpAddr, port: u16) -> Listed {
        Listed {
            zone: zone(&self.zone, None, ip),
            address: SocketAddr::new(ip, port),
            weight: self.weight.unwrap_or(1),
            max_connections: self.max_connections,
            priority: 0,
        }
    }

    /// The target at `ip` that offers `service`.
    pub(super) fn listed_service(&self, service: &Service, ip: IpAddr) -> Listed {
        Listed {
            zone: zone(&self.zone, Some(&service.host), ip),
            // Zero is a weight in DNS, if the smallest; here it would mean no new sessions.
            weight: self.weight.unwrap_or(u32::from(service.weight.max(1))),
            priority: service.priority,
            ..self.listed(ip, service.port)
        }
    }
}

/// The zone of the target at `ip`, on a host of this name if it has one.
fn zone(of: &ZoneOf, host: Option<&Name>, ip: IpAddr) -> ZoneName {
    let found = match of {
        ZoneOf::One(zone) => Some(zone.clone()),
        ZoneOf::Label => host.and_then(second_label),
        ZoneOf::Range(ranges) => {
            ranges.iter().find(|(range, _)| range.contains(&ip)).map(|(_, zone)| zone.clone())
        }
    };
    found.unwrap_or_else(|| "-".into())
}

/// The second label of a name that has three or more, if it can be the name of a zone.
fn second_label(host: &Name) -> Option<ZoneName> {
    let label = host.iter().nth(1).filter(|_| host.num_labels() >= 3)?;
    let text = std::str::from_utf8(label).ok().filter(|text| config::is_zone(text))?;
    Some(text.to_ascii_lowercase().into())
}

fn seconds(ttl: u32) -> Duration {
    Duration::from_secs(ttl.into())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, SRV};

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn a(host: &str, ttl: u32, last: u8) -> Record {
        Record::from_rdata(name(host), ttl, RData::A(A(Ipv4Addr::new(10, 0, 0, last))))
    }

    fn cname(from: &str, ttl: u32, to: &str) -> Record {
        Record::from_rdata(name(from), ttl, RData::CNAME(CNAME(name(to))))
    }

    #[test]
    fn addresses_are_those_of_the_name_behind_its_aliases_with_the_shortest_ttl() {
        let records = [
            cname("shop.internal.", 60, "blue.internal."),
            a("Blue.internal.", 30, 1),
            cname("blue.internal.", 20, "blue-2.internal."),
            a("blue-2.internal.", 40, 2),
            a("blue-2.internal.", 40, 2),
            a("other.internal.", 1, 3),
            Record::from_rdata(name("blue-2.internal."), 1, RData::AAAA(AAAA(Ipv6Addr::LOCALHOST))),
        ];
        let found = host(&records, &name("shop.internal."), RecordType::A);
        assert_eq!(found.addresses, [IpAddr::from([10, 0, 0, 2])]);
        assert_eq!((found.ttl, found.name), (seconds(20), name("blue-2.internal.")));
    }

    #[test]
    fn aliases_in_a_circle_end() {
        let records = [cname("a.", 5, "b."), cname("b.", 5, "a.")];
        assert_eq!(host(&records, &name("a."), RecordType::A).addresses, [] as [IpAddr; 0]);
    }

    #[test]
    fn addresses_that_are_nobody_are_left_out() {
        let of = |ip: [u8; 4]| Record::from_rdata(name("a."), 1, RData::A(A(ip.into())));
        let records = [of([0, 0, 0, 0]), of([224, 0, 0, 1]), of([255, 255, 255, 255]), of([10, 0, 0, 1])];
        assert_eq!(host(&records, &name("a."), RecordType::A).addresses, [IpAddr::from([10, 0, 0, 1])]);
    }

    #[test]
    fn services_have_a_host_and_a_port() {
        let srv = |port, host: &str| {
            Record::from_rdata(name("_http._tcp.shop."), 9, RData::SRV(SRV::new(1, 2, port, name(host))))
        };
        let records = [srv(80, "A.shop."), srv(0, "b.shop."), srv(80, "."), a("a.shop.", 1, 1)];
        let (services, ttl, _) = services(&records, &name("_http._tcp.shop."));
        assert_eq!(services, [Service { host: name("a.shop."), port: 80, priority: 1, weight: 2 }]);
        assert_eq!(ttl, seconds(9));
    }

    #[test]
    fn zones_come_from_a_label_or_a_range() {
        let ip = |last| IpAddr::from([10, 0, 1, last]);
        let label = |host: &str| zone(&ZoneOf::Label, Some(&name(host)), ip(1)).to_string();
        assert_eq!(label("shop-1.AZ-a.internal."), "az-a");
        assert_eq!(label("shop-1.az-a.eu.internal."), "az-a");
        assert_eq!(label("shop-1.internal."), "-");
        assert_eq!(label("shop-1._tcp.internal."), "-");
        let ranges = ZoneOf::Range(vec![
            ("10.0.1.7/32".parse().unwrap(), "one".into()),
            ("10.0.1.0/24".parse().unwrap(), "many".into()),
        ]);
        assert_eq!(&*zone(&ranges, None, ip(7)), "one");
        assert_eq!(&*zone(&ranges, None, ip(8)), "many");
        assert_eq!(&*zone(&ranges, None, [10, 0, 2, 1].into()), "-");
    }
}
