//! `[dns]`, checked: what this node answers for the balancer's own names.
//!
//! The same table stands on all nodes: each knows all nodes, checks them, and answers with those that are in service.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use super::{Health, ZoneName};

/// DNS name in lower case, without a dot at its end.
pub type DomainName = Box<str>;

/// The domain that this node is an authority for, and all that is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// Where questions are answered, over UDP and TCP alike; never empty. Port 0 takes a free one, which is logged.
    pub addresses: Vec<SocketAddr>,
    /// The domain. Questions about anything else are refused.
    pub domain: DomainName,
    /// Who to write to about the domain: `local@domain`. Default: hostmaster at the domain.
    pub contact: Box<str>,
    /// For how long resolvers may keep "there is no such name" and "nothing of that type". Default 60 s.
    pub negative_ttl: Duration,
    /// For how long resolvers may keep who is in charge of the domain: SOA, NS, addresses of name servers. Default 1 h.
    pub authority_ttl: Duration,
    /// Who is in charge of the domain; never empty. The first is the primary of the SOA record.
    pub name_servers: Vec<DnsServer>,
    /// Names that are answered with addresses of nodes; never empty, all in the domain.
    pub names: Vec<ServiceName>,
    /// The nodes; never empty.
    pub nodes: Vec<DnsNode>,
    /// Which zone is nearest to whom.
    pub nearest: Vec<(IpNet, ZoneName)>,
    /// How nodes are checked; [`DnsNode::check`] says where.
    pub health: Health,
    /// Bound of the answers to one neighbourhood over UDP; `None` for no limit.
    pub rate_limit: Option<RateLimit>,
    /// Open TCP connections; for one more, the one unused for longest is closed. Default 256.
    pub max_connections: usize,
    /// A TCP connection on which nothing is asked for this long is closed. Default 10 s.
    pub idle: Duration,
}

/// A server that is in charge of the domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsServer {
    /// Its name.
    pub name: DomainName,
    /// Its addresses: there are some if and only if the name is in the domain.
    pub addresses: Vec<IpAddr>,
}

/// A name that is answered with addresses of nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceName {
    /// The name. Default: the domain itself.
    pub name: DomainName,
    /// Which of the nodes an answer holds. Default: multivalue.
    pub policy: DnsPolicy,
    /// For how long resolvers may keep an answer. Default 10 s.
    pub ttl: Duration,
    /// Indices into [`Dns::nodes`]; never empty. Default: all of them.
    pub nodes: Vec<usize>,
}

/// Which of the nodes in service an answer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsPolicy {
    /// Up to eight, in random order.
    Multivalue,
    /// One, at random by weight.
    Weighted,
    /// Up to eight of those with the lowest priority number, in random order.
    Failover,
    /// Up to eight of the zone that is nearest to the client, in random order; of any zone if that has none.
    Nearest,
}

/// A node, as clients and as checks reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsNode {
    /// Answered to questions for A.
    pub ipv4: Option<Ipv4Addr>,
    /// Answered to questions for AAAA. A node has at least one of the two.
    pub ipv6: Option<Ipv6Addr>,
    /// Where it stands; `"-"` when the file names none.
    pub zone: ZoneName,
    /// Share relative to the others of a weighted name, 0 to 256. Default 1; 0 is answered only when all have 0.
    pub weight: u32,
    /// Class of a failover name, the lowest being the first choice. Default 0.
    pub priority: u16,
    /// Where checks connect to.
    pub check: SocketAddr,
}

impl DnsNode {
    /// The address that names the node to people: the first that it has.
    pub fn address(&self) -> IpAddr {
        let v6 = self.ipv6.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6);
        self.ipv4.map_or(v6, IpAddr::V4)
    }
}

/// Bound of the answers to one neighbourhood (an IPv4 /24, an IPv6 /56) over UDP, where a sender may be forged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit {
    /// Answers in a second. Default 200.
    pub responses: u32,
    /// Of the answers beyond that, one in so many is sent empty with "ask again over TCP"; 0 sends none. Default 2.
    pub slip: u32,
    /// Whose answers are not limited. Default: nobody's.
    pub exempt: Vec<IpNet>,
}
