//! Replies as bytes: header, the question as it came, records, EDNS.
//!
//! Names are compressed in the one way that pays: the name that was asked for, and the domain at its end, stand in the
//! question and are referred to. What does not fit is not cut in the middle: the reply is then empty and says that it is
//! longer. Not obvious: EDNS is answered if and only if it was asked, whatever else happens.

use std::net::IpAddr;

use super::authority::{Content, Domain, Rcode, Reply, rtype};
use super::name::Name;
use super::query::{CLIENT_SUBNET, HEADER, OPT, Query, UDP_MIN};

/// Bytes of a reply over UDP at most, and what is offered to take: fits every path without fragments.
pub(super) const UDP_MAX: usize = 1232;

/// Bytes of a reply over TCP at most.
pub(super) const TCP_MAX: usize = 65_535;

/// Bits of the header's third byte.
const ANSWER: u8 = 0x80;
const AUTHORITATIVE: u8 = 0x04;
const TRUNCATED: u8 = 0x02;

/// Times of a SOA record by which secondary servers copy a domain, in seconds. There are none here: every node has the
/// domain from its configuration.
const SERIAL: u32 = 1;
const REFRESH: u32 = 7200;
const RETRY: u32 = 900;
const EXPIRE: u32 = 1_209_600;

/// Bytes of a question behind its name.
const TYPE_AND_CLASS: usize = 4;

/// A reference to the question's name.
const QUESTION_NAME: u16 = 0xc000 | HEADER as u16;

/// A reply in the making.
struct Writer<'w> {
    out: &'w mut Vec<u8>,
    /// Where the message begins.
    start: usize,
    /// Where it must end.
    end: usize,
    query: &'w Query<'w>,
    domain: &'w Domain,
}

/// Sections of a message, as their counts stand in the header.
#[derive(Clone, Copy)]
enum Section {
    Answer = 1,
    Authority = 2,
    Additional = 3,
}

/// Writes an empty reply that says that there is more over TCP.
pub(super) fn write_truncated(query: &Query<'_>, domain: &Domain, out: &mut Vec<u8>) {
    let empty = Reply::error(Rcode::NoError);
    let mut writer = Writer::begin(query, domain, &empty, UDP_MAX, out);
    writer.say_truncated();
    writer.edns(&empty);
}

/// Writes `reply` in at most `limit` bytes; whether it had to be truncated.
pub(super) fn write(
    reply: &Reply,
    query: &Query<'_>,
    domain: &Domain,
    limit: usize,
    out: &mut Vec<u8>,
) -> bool {
    let mut writer = Writer::begin(query, domain, reply, limit, out);
    let before = writer.out.len();
    match &reply.content {
        Content::Nothing => {}
        Content::Addresses { ttl, picked } => {
            picked.iter().for_each(|address| writer.address(Section::Answer, QUESTION_NAME, *ttl, *address));
        }
        Content::Soa => writer.soa(Section::Answer, domain.authority_ttl),
        Content::NameServers => writer.name_servers(),
        Content::Negative => {
            writer.soa(Section::Authority, domain.negative_ttl.min(domain.authority_ttl));
        }
    }
    let is_truncated = writer.out.len() + writer.edns_len() > writer.end;
    if is_truncated {
        writer.out.truncate(before);
        writer.say_truncated();
    } else if matches!(reply.content, Content::NameServers) {
        writer.glue();
    }
    writer.edns(reply);
    is_truncated
}

/// Bytes that a reply over UDP may have.
pub(super) fn udp_limit(query: &Query<'_>) -> usize {
    query.edns.map_or(UDP_MIN, |edns| edns.payload.min(UDP_MAX))
}

impl<'w> Writer<'w> {
    fn begin(
        query: &'w Query<'w>,
        domain: &'w Domain,
        reply: &Reply,
        limit: usize,
        out: &'w mut Vec<u8>,
    ) -> Self {
        let start = out.len();
        let authoritative = if reply.is_authoritative() { AUTHORITATIVE } else { 0 };
        let questions = u8::from(!query.question.is_empty());
        out.extend(query.head.id.to_be_bytes());
        out.push(ANSWER | query.head.opcode << 3 | authoritative | u8::from(query.head.recursion_desired));
        out.push(reply.rcode as u8 & 0x0f);
        out.extend([0, questions, 0, 0, 0, 0, 0, 0]);
        out.extend(query.question);
        Self { out, start, end: start + limit, query, domain }
    }

    fn say_truncated(&mut self) {
        self.out[self.start + 2] |= TRUNCATED;
        self.out[self.start + 4 + 2..self.start + HEADER].fill(0);
    }

    fn count(&mut self, section: Section) {
        let low = self.start + 4 + 2 * section as usize + 1;
        // Never more than 255: an answer is short.
        self.out[low] += 1;
    }

    fn u16(&mut self, value: u16) {
        self.out.extend(value.to_be_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.out.extend(value.to_be_bytes());
    }

    /// A reference to the domain in the question's name. Only for questions about names in it.
    fn apex(&self) -> u16 {
        let name = self.query.question.len() - TYPE_AND_CLASS;
        QUESTION_NAME + (name - self.domain.apex.len()) as u16
    }

    fn name(&mut self, name: &Name) {
        match name.before(&self.domain.apex) {
            Some(labels) => {
                self.out.extend(labels);
                self.u16(self.apex());
            }
            None => self.out.extend(&**name),
        }
    }

    /// A record whose data `data` writes.
    fn record(&mut self, section: Section, rtype: u16, ttl: u32, data: impl FnOnce(&mut Self)) {
        self.u16(rtype);
        self.u16(1);
        self.u32(ttl);
        let length_at = self.out.len();
        self.u16(0);
        data(self);
        let length = (self.out.len() - length_at - 2) as u16;
        self.out[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
        self.count(section);
    }

    fn address(&mut self, section: Section, owner: u16, ttl: u32, address: IpAddr) {
        self.u16(owner);
        self.address_of(section, ttl, address);
    }

    fn address_of(&mut self, section: Section, ttl: u32, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.record(section, rtype::A, ttl, |writer| writer.out.extend(v4.octets())),
            IpAddr::V6(v6) => self.record(section, rtype::AAAA, ttl, |writer| writer.out.extend(v6.octets())),
        }
    }

    fn soa(&mut self, section: Section, ttl: u32) {
        let domain = self.domain;
        self.u16(self.apex());
        self.record(section, rtype::SOA, ttl, |writer| {
            domain.soa.iter().for_each(|name| writer.name(name));
            for number in [SERIAL, REFRESH, RETRY, EXPIRE, domain.negative_ttl] {
                writer.u32(number);
            }
        });
    }

    fn name_servers(&mut self) {
        let domain = self.domain;
        for (name, _) in &domain.name_servers {
            self.u16(self.apex());
            self.record(Section::Answer, rtype::NS, domain.authority_ttl, |writer| writer.name(name));
        }
    }

    /// Addresses of the name servers, as many as there is room for: who asked can do without.
    fn glue(&mut self) {
        let domain = self.domain;
        for (name, addresses) in &domain.name_servers {
            for address in addresses {
                let before = self.out.len();
                let count = self.out[self.start + 11];
                self.name(name);
                self.address_of(Section::Additional, domain.authority_ttl, *address);
                if self.out.len() + self.edns_len() > self.end {
                    self.out.truncate(before);
                    self.out[self.start + 11] = count;
                    return;
                }
            }
        }
    }

    fn edns_len(&self) -> usize {
        let Some(edns) = &self.query.edns else { return 0 };
        11 + edns.subnet.map_or(0, |subnet| 4 + subnet.option.len())
    }

    fn edns(&mut self, reply: &Reply) {
        let Some(edns) = self.query.edns else { return };
        self.out.push(0);
        self.u16(OPT);
        self.u16(UDP_MAX as u16);
        let dnssec_ok = if edns.dnssec_ok { 0x80 } else { 0 };
        self.out.extend([(reply.rcode as u16 >> 4) as u8, 0, dnssec_ok, 0]);
        let length_at = self.out.len();
        self.u16(0);
        if let Some(subnet) = edns.subnet {
            self.u16(CLIENT_SUBNET);
            self.u16(subnet.option.len() as u16);
            let scope_at = self.out.len() + 3;
            self.out.extend(subnet.option);
            self.out[scope_at] = reply.scope;
        }
        let length = (self.out.len() - length_at - 2) as u16;
        self.out[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
        self.count(Section::Additional);
    }
}
