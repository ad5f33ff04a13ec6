//! What is answered: one domain, its names, and for every question one decision.
//!
//! ```text
//! query ─▶ is it for us? ─▶ does the name exist? ─▶ has it something of that type? ─▶ Reply
//!          REFUSED          NXDOMAIN + SOA          no data: NOERROR + SOA
//! ```
//!
//! Pure: who sends it how is not known here. Not obvious: a name between the domain and a longer name exists, if only as
//! a branch, and has nothing of any type (RFC 8020). A question for "anything" is answered with one kind of record
//! (RFC 8482), because nobody needs more and forgers ask for it.

use std::collections::HashMap;
use std::net::IpAddr;

use super::choice::{Choices, Picked};
use super::name::Name;
use super::nearest::Nearest;
use super::query::{OPT, Query};
use super::view::Kinds;
use crate::config::{Dns, DnsPolicy};

/// The Internet's class: the only one here.
const IN: u16 = 1;

/// Types of records, and of questions about several of them.
pub(super) mod rtype {
    pub(in super::super) const A: u16 = 1;
    pub(in super::super) const NS: u16 = 2;
    pub(in super::super) const SOA: u16 = 6;
    pub(in super::super) const AAAA: u16 = 28;
    pub(super) const IXFR: u16 = 251;
    pub(super) const AXFR: u16 = 252;
    pub(super) const MAILB: u16 = 253;
    pub(super) const MAILA: u16 = 254;
    pub(super) const ANY: u16 = 255;
}

/// How an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rcode {
    /// It is answered, if only with "nothing of that type".
    NoError = 0,
    /// The query cannot be understood.
    FormErr = 1,
    /// There is no such name.
    NxDomain = 3,
    /// The query asks for something that is not built.
    NotImp = 4,
    /// Not our domain.
    Refused = 5,
    /// A version of EDNS that is not built.
    BadVers = 16,
}

impl Rcode {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::NoError, Self::FormErr, Self::NxDomain, Self::NotImp, Self::Refused, Self::BadVers];

    /// As metrics and the API write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoError => "noerror",
            Self::FormErr => "formerr",
            Self::NxDomain => "nxdomain",
            Self::NotImp => "notimp",
            Self::Refused => "refused",
            Self::BadVers => "badvers",
        }
    }
}

/// What is answered to one query.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) rcode: Rcode,
    pub(super) content: Content,
    /// For how large a network it holds (RFC 7871), if it depends on the client at all.
    pub(super) scope: u8,
}

/// The records of a reply.
#[derive(Debug)]
pub(super) enum Content {
    /// None: an error.
    Nothing,
    /// Addresses of the name that was asked for.
    Addresses { ttl: u32, picked: Picked },
    /// Who is in charge, and since when.
    Soa,
    /// Who is in charge, and where they are.
    NameServers,
    /// The word that there is nothing, which may be kept.
    Negative,
}

/// The domain, ready to be asked about.
pub(super) struct Domain {
    pub(super) apex: Name,
    /// Primary name server and contact of the SOA record.
    pub(super) soa: [Name; 2],
    pub(super) name_servers: Vec<(Name, Vec<IpAddr>)>,
    /// Seconds, as all times here.
    pub(super) authority_ttl: u32,
    pub(super) negative_ttl: u32,
    /// Every name that exists.
    names: HashMap<Box<[u8]>, Entry, foldhash::fast::RandomState>,
    services: Vec<(DnsPolicy, u32)>,
    nearest: Nearest,
}

/// What a name in the domain has.
#[derive(Debug, Clone, Copy)]
enum Entry {
    /// Nothing of its own.
    Branch,
    /// Addresses of nodes; an index into [`Dns::names`].
    Service(usize),
    /// Its own addresses; an index into the name servers.
    Server(usize),
}

impl Domain {
    /// The domain of the configuration.
    pub(super) fn new(config: &Dns) -> Self {
        let apex = Name::new(&config.domain);
        let seconds = |duration: std::time::Duration| duration.as_secs().min(i32::MAX as u64) as u32;
        let name_servers: Vec<_> = config
            .name_servers
            .iter()
            .map(|server| (Name::new(&server.name), server.addresses.clone()))
            .collect();
        let primary = name_servers.first().map_or_else(|| apex.clone(), |(name, _)| name.clone());
        let mut domain = Self {
            soa: [primary, Name::of_mailbox(&config.contact)],
            name_servers,
            authority_ttl: seconds(config.authority_ttl),
            negative_ttl: seconds(config.negative_ttl),
            names: HashMap::default(),
            services: config.names.iter().map(|name| (name.policy, seconds(name.ttl))).collect(),
            nearest: Nearest::new(&config.nearest),
            apex,
        };
        domain.add(&domain.apex.clone(), Entry::Branch);
        for index in 0..domain.name_servers.len() {
            domain.add(&domain.name_servers[index].0.clone(), Entry::Server(index));
        }
        for (index, name) in config.names.iter().enumerate() {
            domain.add(&Name::new(&name.name), Entry::Service(index));
        }
        domain
    }

    /// Adds a name and the branches that lead to it; names outside of the domain are not ours to add.
    fn add(&mut self, name: &Name, entry: Entry) {
        if name.before(&self.apex).is_none() {
            return;
        }
        let mut branch = name.clone();
        while let Some(parent) = branch.parent().filter(|parent| parent.before(&self.apex).is_some()) {
            self.names.entry(parent.to_vec().into()).or_insert(Entry::Branch);
            branch = parent;
        }
        self.names.insert(name.to_vec().into(), entry);
    }

    /// Decides what is answered, `names` being what there is to choose from for each of [`Dns::names`]. `draw(n)` gives a number below `n`, each with the same probability.
    pub(super) fn reply(
        &self,
        names: &[Kinds],
        query: &Query<'_>,
        source: IpAddr,
        draw: impl FnMut(usize) -> usize,
    ) -> Reply {
        if query.head.opcode != 0 {
            return Reply::error(Rcode::NotImp);
        }
        let Some(asked) = &query.asked else { return Reply::error(Rcode::FormErr) };
        if query.edns.is_some_and(|edns| edns.version > 0) {
            return Reply::error(Rcode::BadVers);
        }
        if asked.class != IN || !asked.name.is_in(&self.apex) {
            return Reply::error(Rcode::Refused);
        }
        match asked.rtype {
            rtype::AXFR | rtype::IXFR => return Reply::error(Rcode::Refused),
            rtype::MAILA | rtype::MAILB => return Reply::error(Rcode::NotImp),
            // Types that no record has (RFC 6895, section 3.1).
            OPT | 128..=250 => return Reply::error(Rcode::FormErr),
            _ => {}
        }
        let Some(entry) = self.names.get(&*asked.name) else {
            return Reply { rcode: Rcode::NxDomain, ..Reply::of(Content::Negative) };
        };
        match (asked.rtype, *entry) {
            (rtype::A | rtype::AAAA | rtype::ANY, Entry::Service(index)) => {
                self.of_nodes((index, &names[index]), asked.rtype, query, source, draw)
            }
            (rtype::A | rtype::AAAA | rtype::ANY, Entry::Server(index)) => {
                self.of_server(&self.name_servers[index].1, asked.rtype)
            }
            (rtype::SOA | rtype::ANY, _) if *asked.name == *self.apex => Reply::of(Content::Soa),
            (rtype::NS, _) if *asked.name == *self.apex => Reply::of(Content::NameServers),
            _ => Reply::of(Content::Negative),
        }
    }

    fn of_nodes(
        &self,
        (index, kinds): (usize, &Kinds),
        asked: u16,
        query: &Query<'_>,
        source: IpAddr,
        draw: impl FnMut(usize) -> usize,
    ) -> Reply {
        let choices: Option<&Choices> = match asked {
            rtype::A => kinds.v4.as_ref(),
            rtype::AAAA => kinds.v6.as_ref(),
            _ => kinds.v4.as_ref().or(kinds.v6.as_ref()),
        };
        let Some(choices) = choices else { return Reply::of(Content::Negative) };
        let (policy, ttl) = self.services[index];
        let (mut zone, mut scope) = (None, 0);
        if policy == DnsPolicy::Nearest {
            let told = query.edns.and_then(|edns| edns.subnet?.network);
            let (address, prefix) = told.unwrap_or((source, if source.is_ipv4() { 32 } else { 128 }));
            zone = self.nearest.zone(address, prefix);
            scope = told.map_or(0, |_| self.nearest.scope(address));
        }
        Reply { scope, ..Reply::of(Content::Addresses { ttl, picked: choices.pick(zone, draw) }) }
    }

    fn of_server(&self, addresses: &[IpAddr], asked: u16) -> Reply {
        let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = addresses.iter().partition(|address| address.is_ipv4());
        let of_type = match asked {
            rtype::A => v4,
            rtype::AAAA => v6,
            _ if v4.is_empty() => v6,
            _ => v4,
        };
        if of_type.is_empty() {
            return Reply::of(Content::Negative);
        }
        Reply::of(Content::Addresses { ttl: self.authority_ttl, picked: Picked::of(of_type) })
    }
}

impl Reply {
    fn of(content: Content) -> Self {
        Self { rcode: Rcode::NoError, content, scope: 0 }
    }

    /// A reply without records.
    pub(super) fn error(rcode: Rcode) -> Self {
        Self { rcode, ..Self::of(Content::Nothing) }
    }

    /// Whether it comes from the domain itself: the authoritative answer bit.
    pub(super) fn is_authoritative(&self) -> bool {
        !matches!(self.content, Content::Nothing)
    }
}
