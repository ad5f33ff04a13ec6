//! What arrives: a message taken apart as far as an authority needs it, and strictly.
//!
//! Records of a query are walked over and not read, but for the one that carries EDNS. Not obvious: a message that is no
//! query at all (too short, or itself an answer) gets no answer, because two servers could otherwise send each other
//! errors for ever. What the answer is, is not known here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::name::AskedName;

/// Bytes of a message's header.
pub(super) const HEADER: usize = 12;

/// Bytes that an answer over UDP may have without EDNS, and always (RFC 6891, section 6.2.3).
pub(super) const UDP_MIN: usize = 512;

/// Type of the record that carries EDNS.
pub(super) const OPT: u16 = 41;

/// EDNS option with the client's network (RFC 7871).
pub(super) const CLIENT_SUBNET: u16 = 8;

/// What an answer repeats of the header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) id: u16,
    /// 0 is a query; nothing else is known here.
    pub(super) opcode: u8,
    /// The client would like recursion. Repeated, never done.
    pub(super) recursion_desired: bool,
}

/// A query, as far as it could be read.
pub(super) struct Query<'m> {
    pub(super) head: Head,
    /// Name, type and class as they were sent; empty when there is not exactly one question.
    pub(super) question: &'m [u8],
    pub(super) edns: Option<Edns<'m>>,
    /// What is asked; `None` when anything of the message is broken.
    pub(super) asked: Option<Asked>,
}

/// What is asked.
pub(super) struct Asked {
    pub(super) name: AskedName,
    pub(super) rtype: u16,
    pub(super) class: u16,
}

/// EDNS of a query (RFC 6891).
#[derive(Debug, Clone, Copy)]
pub(super) struct Edns<'m> {
    /// 0 is the only one there is.
    pub(super) version: u8,
    /// Bytes that the client can take over UDP; at least [`UDP_MIN`].
    pub(super) payload: usize,
    /// The client understands DNSSEC. Repeated, and without effect: nothing is signed.
    pub(super) dnssec_ok: bool,
    pub(super) subnet: Option<ClientSubnet<'m>>,
}

/// The network of the client that a resolver asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClientSubnet<'m> {
    /// The option as it was sent, to be repeated.
    pub(super) option: &'m [u8],
    /// `None` when the resolver says that it will not tell.
    pub(super) network: Option<(IpAddr, u8)>,
}

/// Takes `message` apart; `None` when it is no query, and not to be answered.
pub(super) fn receive(message: &[u8]) -> Option<Query<'_>> {
    let (header, body) = message.split_at_checked(HEADER)?;
    let is_answer = header[2] & 0x80 != 0;
    if is_answer {
        return None;
    }
    let head = Head {
        id: u16::from_be_bytes([header[0], header[1]]),
        opcode: header[2] >> 3 & 0x0f,
        recursion_desired: header[2] & 1 != 0,
    };
    let counts = [4, 6, 8, 10].map(|at| u16::from_be_bytes([header[at], header[at + 1]]));
    let mut query = Query { head, question: &[], edns: None, asked: None };
    query.asked = query.read(body, counts);
    Some(query)
}

impl<'m> Query<'m> {
    /// Reads on, as far as that is possible. What is asked, when all is well.
    fn read(
        &mut self,
        body: &'m [u8],
        [questions, answers, authority, additional]: [u16; 4],
    ) -> Option<Asked> {
        let mut reader = Reader { rest: body };
        let asked = match questions {
            0 => None,
            1 => {
                let name = AskedName::read(body)?;
                self.question = reader.take(name.len() + 4)?;
                let [.., t0, t1, c0, c1] = *self.question else { return None };
                Some(Asked { name, rtype: u16::from_be_bytes([t0, t1]), class: u16::from_be_bytes([c0, c1]) })
            }
            _ => return None,
        };
        for _ in 0..u32::from(answers) + u32::from(authority) {
            if reader.record()?.rtype == OPT {
                return None;
            }
        }
        let mut edns = None;
        for _ in 0..additional {
            let record = reader.record()?;
            if record.rtype == OPT && edns.replace(record).is_some() {
                return None;
            }
        }
        if let Some(record) = edns {
            self.edns = Some(Edns::read(&record)?);
        }
        let subnet_is_good = self.edns.as_mut().is_none_or(Edns::read_subnet);
        asked.filter(|_| reader.rest.is_empty() && subnet_is_good)
    }
}

/// A record, walked over.
struct Record<'m> {
    at_root: bool,
    rtype: u16,
    class: u16,
    ttl: [u8; 4],
    data: &'m [u8],
}

struct Reader<'m> {
    rest: &'m [u8],
}

impl<'m> Reader<'m> {
    fn take(&mut self, count: usize) -> Option<&'m [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// Walks over a name; whether it is the root. Where a compressed name leads is of no interest.
    fn name(&mut self) -> Option<bool> {
        let mut labels = 0;
        loop {
            match self.take(1)?[0] {
                0 => return Some(labels == 0),
                length @ 1..=63 => drop(self.take(usize::from(length))?),
                0xc0.. => return self.take(1).map(|_| false),
                64..=191 => return None,
            }
            labels += 1;
        }
    }

    fn record(&mut self) -> Option<Record<'m>> {
        let at_root = self.name()?;
        let (rtype, class) = (self.u16()?, self.u16()?);
        let ttl = self.take(4)?.try_into().ok()?;
        let length = self.u16()?;
        Some(Record { at_root, rtype, class, ttl, data: self.take(usize::from(length))? })
    }
}

impl<'m> Edns<'m> {
    fn read(record: &Record<'m>) -> Option<Self> {
        let [_, version, flags, _] = record.ttl;
        let (payload, dnssec_ok) = (usize::from(record.class).max(UDP_MIN), flags & 0x80 != 0);
        let mut edns = Self { version, payload, dnssec_ok, subnet: None };
        // What options look like in a version to come, nobody knows.
        let mut options = Reader { rest: if version == 0 { record.data } else { &[] } };
        while !options.rest.is_empty() {
            let (code, length) = (options.u16()?, options.u16()?);
            let option = options.take(usize::from(length))?;
            if code == CLIENT_SUBNET && edns.subnet.is_none() {
                edns.subnet = Some(ClientSubnet { option, network: None });
            }
        }
        record.at_root.then_some(edns)
    }

    /// Reads the client's network, if there is one; one that breaks the rules is taken away, and `false`.
    fn read_subnet(&mut self) -> bool {
        let Some(ClientSubnet { option, .. }) = self.subnet else { return true };
        self.subnet = ClientSubnet::read(option);
        self.subnet.is_some()
    }
}

impl<'m> ClientSubnet<'m> {
    /// RFC 7871, section 6: no more bytes than the prefix needs, no bits beyond it, and no scope in a query.
    fn read(option: &'m [u8]) -> Option<Self> {
        let (&[f0, f1, prefix, scope], address) = option.split_first_chunk::<4>()?;
        if scope != 0 || address.len() != usize::from(prefix).div_ceil(8) {
            return None;
        }
        let mut bytes = [0; 16];
        bytes.get_mut(..address.len())?.copy_from_slice(address);
        let [a, b, c, d, ..] = bytes;
        let (address, bits) = match u16::from_be_bytes([f0, f1]) {
            // "Nothing to tell": there is no prefix of no family.
            0 if prefix == 0 => return Some(Self { option, network: None }),
            1 => (IpAddr::V4(Ipv4Addr::new(a, b, c, d)), 32),
            2 => (IpAddr::V6(Ipv6Addr::from(bytes)), 128),
            _ => return None,
        };
        let beyond = u128::from_be_bytes(bytes).checked_shl(u32::from(prefix)).unwrap_or(0);
        if prefix > bits || beyond != 0 {
            return None;
        }
        Some(Self { option, network: (prefix > 0).then_some((address, prefix)) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A query for A of `a.test` with these records behind the question.
    fn message(counts: [u16; 4], tail: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x12, 0x34, 1, 0];
        bytes.extend(counts.iter().flat_map(|count| count.to_be_bytes()));
        bytes.extend(b"\x01a\x04test\0\0\x01\0\x01");
        bytes.extend(tail);
        bytes
    }

    fn opt(class: u16, ttl: [u8; 4], data: &[u8]) -> Vec<u8> {
        let length = (data.len() as u16).to_be_bytes();
        [&[0, 0, 41][..], &class.to_be_bytes(), &ttl, &length, data].concat()
    }

    fn subnet(family: u16, prefix: u8, scope: u8, address: &[u8]) -> Vec<u8> {
        let body = [&family.to_be_bytes()[..], &[prefix, scope], address].concat();
        [&[0, 8][..], &(body.len() as u16).to_be_bytes(), &body].concat()
    }

    fn is_broken(bytes: &[u8]) -> bool {
        receive(bytes).is_some_and(|query| query.asked.is_none())
    }

    fn edns_of(bytes: &[u8]) -> Option<Edns<'_>> {
        receive(bytes).filter(|query| query.asked.is_some())?.edns
    }

    #[test]
    fn a_query_is_taken_apart() {
        let bytes = message([1, 0, 0, 1], &opt(1232, [0, 0, 0x80, 0], &[0, 10, 0, 1, 7]));
        let query = receive(&bytes).unwrap();
        let asked = query.asked.unwrap();
        assert_eq!((query.head.id, query.head.opcode, query.head.recursion_desired), (0x1234, 0, true));
        assert_eq!((&*asked.name, asked.rtype, asked.class), (&b"\x01a\x04test\0"[..], 1, 1));
        assert_eq!(query.question, &bytes[12..24]);
        let edns = query.edns.unwrap();
        assert_eq!(
            (edns.version, edns.payload, edns.dnssec_ok, edns.subnet.is_none()),
            (0, 1232, true, true)
        );
    }

    #[test]
    fn what_is_no_query_is_noise() {
        let mut answer = message([1, 0, 0, 0], &[]);
        answer[2] |= 0x80;
        for bytes in [&answer[..], b"", &message([1, 0, 0, 0], &[])[..11]] {
            assert!(receive(bytes).is_none(), "{bytes:?}");
        }
    }

    #[test]
    fn broken_messages_are_told_from_noise() {
        let good = message([1, 0, 0, 0], &[]);
        for cut in HEADER..good.len() {
            assert!(is_broken(&good[..cut]), "cut at {cut}");
        }
        let empty = opt(512, [0; 4], &[]);
        let elsewhere = [&b"\x01a"[..], &empty].concat();
        for (why, bytes) in [
            ("no question", message([0, 0, 0, 0], &[])),
            ("two questions", message([2, 0, 0, 0], b"\x01a\x04test\0\0\x01\0\x01")),
            ("bytes behind the end", message([1, 0, 0, 0], b"x")),
            ("a record that is not there", message([1, 0, 0, 1], &[])),
            ("EDNS twice", message([1, 0, 0, 2], &[&empty[..], &empty].concat())),
            ("EDNS among the answers", message([1, 1, 0, 0], &empty)),
            ("EDNS of a name", message([1, 0, 0, 1], &elsewhere)),
            ("an option that is cut", message([1, 0, 0, 1], &opt(512, [0; 4], &[0, 10, 0, 9, 1]))),
            ("65535 records", message([1, 0xffff, 0xffff, 0xffff], &empty)),
        ] {
            assert!(is_broken(&bytes), "{why}");
        }
    }

    #[test]
    fn what_was_understood_of_a_broken_message_is_repeated() {
        let parts = |bytes: &[u8]| {
            let query = receive(bytes).unwrap();
            assert!(query.asked.is_none(), "{bytes:?} is broken");
            (query.question.len(), query.edns.is_some())
        };
        let edns = opt(512, [0; 4], &[]);
        assert_eq!(parts(&message([1, 0, 0, 0], &edns)), (12, false), "bytes behind the end");
        assert_eq!(parts(&message([1, 0, 0, 1], &opt(512, [0; 4], &subnet(3, 8, 0, &[1])))), (12, true));
        assert_eq!(parts(&message([1, 0, 0, 2], &edns)), (12, false), "a record that is not there");
        assert_eq!(parts(&message([2, 0, 0, 0], b"\x01a\x04test\0\0\x01\0\x01")), (0, false));
        let mut nothing_asked = message([0, 0, 0, 1], &edns);
        nothing_asked.drain(12..24);
        assert_eq!(parts(&nothing_asked), (0, true));
    }

    #[test]
    fn options_of_another_version_are_not_looked_at() {
        let bytes = message([1, 0, 0, 1], &opt(512, [0, 1, 0, 0], &[1]));
        assert_eq!(edns_of(&bytes).map(|edns| edns.version), Some(1));
    }

    #[test]
    fn small_sizes_count_as_512() {
        let bytes = message([1, 0, 0, 1], &opt(0, [0; 4], &[]));
        assert_eq!(edns_of(&bytes).map(|edns| edns.payload), Some(512));
    }

    #[test]
    fn networks_of_clients_are_read_strictly() {
        let read = |option: &[u8]| {
            let bytes = message([1, 0, 0, 1], &opt(512, [0; 4], option));
            edns_of(&bytes).map(|edns| edns.subnet.unwrap().network)
        };
        let v4 = "192.0.2.0".parse().unwrap();
        let v6 = "2001:db8::".parse().unwrap();
        assert_eq!(read(&subnet(1, 24, 0, &[192, 0, 2])), Some(Some((v4, 24))));
        assert_eq!(read(&subnet(1, 23, 0, &[192, 0, 2])), Some(Some((v4, 23))));
        assert_eq!(read(&subnet(2, 32, 0, &[0x20, 1, 0x0d, 0xb8])), Some(Some((v6, 32))));
        assert_eq!(read(&subnet(1, 0, 0, &[])), Some(None));
        assert_eq!(read(&subnet(0, 0, 0, &[])), Some(None));
        for (why, option) in [
            ("a scope", subnet(1, 24, 24, &[192, 0, 2])),
            ("bits beyond the prefix", subnet(1, 22, 0, &[192, 0, 3])),
            ("too few bytes", subnet(1, 24, 0, &[192, 0])),
            ("too many bytes", subnet(1, 24, 0, &[192, 0, 2, 0])),
            ("a prefix of 33", subnet(1, 33, 0, &[192, 0, 2, 1, 0])),
            ("a prefix of 129", subnet(2, 129, 0, &[0; 17])),
            ("an unknown family", subnet(3, 8, 0, &[1])),
            ("a prefix of no family", subnet(0, 8, 0, &[1])),
            ("half an option", vec![0, 8, 0, 2, 0, 1]),
        ] {
            assert_eq!(read(&option), None, "{why}");
        }
    }

    proptest! {
        #[test]
        fn no_message_is_too_odd_to_be_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(query) = receive(&bytes) {
                prop_assert!(query.question.len() <= bytes.len());
            }
        }

        #[test]
        fn no_tail_is_too_odd_to_be_read(
            counts in prop::array::uniform4(0u16..4),
            tail in prop::collection::vec(prop_oneof![Just(0u8), Just(41), Just(8), any::<u8>()], 0..60),
        ) {
            prop_assert!(receive(&message(counts, &tail)).is_some());
        }
    }
}
