//! The lab on paper: which machines there are, where they stand, and which of them may talk to which. Pure.
//!
//! A machine is a network namespace with one address, `10.77.ZONE.NUMBER`. It belongs to one security group, and all that it may be
//! asked follows from that: see [`RULES`], which are the case study's.

use std::net::{Ipv4Addr, SocketAddr};

/// The zones; the third number of the addresses of the first is 1, and so on. Each is a namespace too: the zone's router.
pub(crate) const ZONES: [&str; 3] = ["az-a", "az-b", "az-c"];
/// Instances for which each zone has machines. One more than the group may have, so that they can be replaced one by one.
pub(crate) const PLACES: u8 = 4;
/// Where the shoppers are.
pub(crate) const CLIENT: &str = "client";
/// Where the lab's own process is, which starts the instances and watches the nodes.
pub(crate) const CONTROL: &str = "control";

/// Ports, by what answers there.
pub(crate) const HTTP: u16 = 80;
pub(crate) const HTTPS: u16 = 443;
pub(crate) const DNS: u16 = 53;
pub(crate) const ADMIN: u16 = 9900;
pub(crate) const SHOP: u16 = 9001;
pub(crate) const REDIS: u16 = 6379;
pub(crate) const SENTINEL: u16 = 26379;
pub(crate) const POSTGRES: u16 = 5432;
/// Where nothing answers, but where things often do.
const IDLE: [u16; 3] = [22, 8080, 9100];

/// What a machine is for; its security group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Group {
    /// Selvedge.
    Edge,
    /// The shop.
    Instances,
    Redis,
    Postgres,
    /// The lab's own process.
    Control,
    /// Anybody else.
    Outside,
    /// A zone's router, which answers DNS for the zone's machines.
    Router,
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Its network namespace.
    pub(crate) name: String,
    pub(crate) group: Group,
    /// Place of its zone in [`ZONES`]; `None` outside of all zones.
    pub(crate) zone: Option<usize>,
    pub(crate) ip: Ipv4Addr,
}

/// What some may ask of a group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    pub(crate) to: Group,
    pub(crate) from: From,
    pub(crate) ports: &'static [u16],
    /// Whether it is so for UDP too.
    pub(crate) udp: bool,
}

/// Who may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    Anywhere,
    /// Machines of these groups.
    Groups(&'static [Group]),
    /// Machines of the same zone.
    Zone,
}

/// All that is allowed.
pub(crate) const RULES: [Rule; 6] = [
    Rule { to: Group::Edge, from: From::Anywhere, ports: &[HTTP, HTTPS], udp: false },
    Rule { to: Group::Edge, from: From::Anywhere, ports: &[DNS], udp: true },
    // Nodes ask each other whether they are ready; the Auto Scaling group asks how the instances are.
    Rule { to: Group::Edge, from: From::Groups(&[Group::Edge, Group::Control]), ports: &[ADMIN], udp: false },
    Rule { to: Group::Instances, from: From::Groups(&[Group::Edge]), ports: &[SHOP], udp: false },
    // Replicas ask their primary, Sentinels each other.
    Rule {
        to: Group::Redis,
        from: From::Groups(&[Group::Instances, Group::Redis]),
        ports: &[REDIS, SENTINEL],
        udp: false,
    },
    Rule {
        to: Group::Postgres,
        from: From::Groups(&[Group::Instances, Group::Postgres]),
        ports: &[POSTGRES],
        udp: false,
    },
];
/// What the machines of a zone may ask its router.
pub(crate) const ROUTER_RULE: Rule = Rule { to: Group::Router, from: From::Zone, ports: &[DNS], udp: true };

/// Ports that are probed: all that anything in the lab listens on, and some more.
pub(crate) fn probed_ports() -> Vec<u16> {
    let rules = RULES.iter().chain([&ROUTER_RULE]);
    let mut ports: Vec<u16> = rules.flat_map(|rule| rule.ports.iter().copied()).chain(IDLE).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// Whether a packet may open a conversation.
pub(crate) fn is_allowed(from: &Machine, to: &Machine, port: u16, udp: bool) -> bool {
    RULES.iter().chain([&ROUTER_RULE]).any(|rule| {
        let who = match rule.from {
            From::Anywhere => true,
            From::Groups(groups) => groups.contains(&from.group),
            From::Zone => from.zone.is_some() && from.zone == to.zone && from.group != Group::Router,
        };
        rule.to == to.group && who && rule.ports.contains(&port) && (!udp || rule.udp)
    })
}

impl Group {
    /// As the rules of nftables call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Instances => "instances",
            Self::Redis => "redis",
            Self::Postgres => "postgres",
            Self::Control => "control",
            Self::Outside => "outside",
            Self::Router => "router",
        }
    }
}

impl Machine {
    /// Its address with a port.
    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        (self.ip, port).into()
    }
}

fn ip(zone: usize, number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, zone as u8 + 1, number)
}

/// A zone's router.
pub(crate) fn router(zone: usize) -> Machine {
    Machine { name: ZONES[zone].to_owned(), group: Group::Router, zone: Some(zone), ip: ip(zone, 1) }
}

/// A zone's node of Selvedge.
pub(crate) fn edge(zone: usize) -> Machine {
    Machine { name: format!("{}-edge", ZONES[zone]), group: Group::Edge, zone: Some(zone), ip: ip(zone, 10) }
}

/// A zone's Redis.
pub(crate) fn redis(zone: usize) -> Machine {
    Machine {
        name: format!("{}-redis", ZONES[zone]),
        group: Group::Redis,
        zone: Some(zone),
        ip: ip(zone, 30),
    }
}

/// A zone's PostgreSQL.
pub(crate) fn postgres(zone: usize) -> Machine {
    let name = format!("{}-postgres", ZONES[zone]);
    Machine { name, group: Group::Postgres, zone: Some(zone), ip: ip(zone, 40) }
}

/// The machine for an instance of a zone, by its number from 1.
pub(crate) fn instance(zone: usize, number: u8) -> Machine {
    let name = format!("{}-{number}", ZONES[zone]);
    Machine { name, group: Group::Instances, zone: Some(zone), ip: ip(zone, 100 + number) }
}

/// Where the lab's own process is.
pub(crate) fn control() -> Machine {
    Machine { name: CONTROL.to_owned(), group: Group::Control, zone: None, ip: ip(7, 2) }
}

/// Where the shoppers are.
pub(crate) fn client() -> Machine {
    Machine { name: CLIENT.to_owned(), group: Group::Outside, zone: None, ip: ip(8, 2) }
}

/// The machines of one zone, without its router.
pub(crate) fn machines_of(zone: usize) -> Vec<Machine> {
    let mut machines = vec![edge(zone)];
    machines.extend((1..=PLACES).map(|number| instance(zone, number)));
    machines.extend([redis(zone), postgres(zone)]);
    machines
}

/// All machines: routers, those of the zones, those outside.
pub(crate) fn machines() -> Vec<Machine> {
    let zones = (0..ZONES.len()).flat_map(|zone| std::iter::once(router(zone)).chain(machines_of(zone)));
    zones.chain([control(), client()]).collect()
}

/// Those that hang directly on the network between the zones.
pub(crate) fn uplinks() -> Vec<Machine> {
    (0..ZONES.len()).map(router).chain([control(), client()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_case_study_allows_is_allowed() {
        let allowed = |from: &Machine, to: &Machine, port| is_allowed(from, to, port, false);
        assert!(allowed(&client(), &edge(0), 443) && is_allowed(&client(), &edge(0), 53, true));
        assert!(!allowed(&client(), &edge(0), 9900) && !is_allowed(&client(), &edge(0), 80, true));
        assert!(allowed(&edge(2), &instance(0, 1), 9001) && !allowed(&instance(0, 2), &instance(0, 1), 9001));
        assert!(allowed(&instance(0, 1), &redis(1), 6379) && !allowed(&edge(0), &redis(0), 6379));
        assert!(allowed(&instance(0, 1), &postgres(2), 5432) && !allowed(&control(), &postgres(0), 5432));
        assert!(allowed(&edge(0), &router(0), 53) && !allowed(&edge(0), &router(1), 53));
        assert!(!allowed(&client(), &client(), 80) && !allowed(&edge(0), &control(), 80));
    }

    #[test]
    fn every_machine_has_a_name_and_an_address_of_its_own() {
        let machines = machines();
        let names: std::collections::BTreeSet<_> = machines.iter().map(|machine| &machine.name).collect();
        let ips: std::collections::BTreeSet<_> = machines.iter().map(|machine| machine.ip).collect();
        assert_eq!((names.len(), ips.len()), (machines.len(), machines.len()));
        assert!(
            machines.iter().all(|machine| machine.name.len() <= 13),
            "a link is called v-NAME, 15 letters at most"
        );
    }
}
