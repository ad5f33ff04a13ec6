//! The PROXY protocol: who a connection is really from, in a header before its first byte. Versions 1 and 2 are read,
//! version 2 is written.
//!
//! Not obvious: a header can be read without reading beyond it, because [`decode`] takes a prefix of a header for
//! [`Decoded::Incomplete`] and then everything so far belongs to the header. From whom a header is taken, and for how long
//! it is waited for, is decided in [`super::listener`]; what is in here is pure. Not done: addresses of Unix sockets and of
//! datagrams, which count as unknown, and what a proxy in front says of its own TLS.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::pool::ProxyHeaderFailure as Fault;

/// Longest header of version 1, its line end included, as the specification has it.
const V1_MAX: usize = 107;
/// Longest header of version 2 that is taken.
pub(crate) const V2_MAX: usize = 4096;
/// Begins version 2, and nothing else that anybody speaks.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of version 2 before the addresses.
const V2_HEAD: usize = 16;
const ALPN: u8 = 0x01;
const AUTHORITY: u8 = 0x02;
const CRC32C: u8 = 0x03;
const UNIQUE_ID: u8 = 0x05;
/// What applications and providers have for themselves.
const CUSTOM: std::ops::RangeInclusive<u8> = 0xe0..=0xef;
const UNIQUE_ID_MAX: usize = 128;

/// The ends of a client's connection, as targets are told of them. One for each connection: it stands for the client when
/// a connection to a target may serve no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ends {
    /// The client.
    pub(crate) source: SocketAddr,
    /// What it connected to.
    pub(crate) destination: SocketAddr,
    /// What a proxy in front said besides, as it is passed on: whole TLVs of the kinds that we pass on.
    pub(crate) tlvs: Box<[u8]>,
}

/// What the beginning of a connection is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    /// The beginning of a header, to the last byte.
    Incomplete,
    /// A header.
    Complete {
        /// Its bytes.
        length: usize,
        /// Who is announced; `None` for a connection that the proxy makes for itself, or whose client it does not know.
        ends: Option<Ends>,
    },
}

/// Reads a header at the beginning of `bytes`.
pub(crate) fn decode(bytes: &[u8]) -> Result<Decoded, Fault> {
    match bytes.first() {
        None => Ok(Decoded::Incomplete),
        Some(b'P') => decode_v1(bytes),
        Some(b'\r') => decode_v2(bytes),
        Some(_) => Err(Fault::Missing),
    }
}

fn decode_v1(bytes: &[u8]) -> Result<Decoded, Fault> {
    const BEGIN: &[u8] = b"PROXY ";
    let same = bytes.len().min(BEGIN.len());
    if bytes[..same] != BEGIN[..same] {
        return Err(Fault::Missing);
    }
    let within = &bytes[..bytes.len().min(V1_MAX)];
    let Some(end) = memchr::memchr(b'\r', within) else {
        let has_other_end = within.contains(&b'\n');
        return match within.len() {
            _ if has_other_end => Err(Fault::Malformed),
            V1_MAX => Err(Fault::TooLong),
            _ => Ok(Decoded::Incomplete),
        };
    };
    match within.get(end + 1) {
        Some(b'\n') => {}
        Some(_) => return Err(Fault::Malformed),
        None if within.len() == V1_MAX => return Err(Fault::TooLong),
        None => return Ok(Decoded::Incomplete),
    }
    let line = std::str::from_utf8(&within[BEGIN.len()..end]).map_err(|_| Fault::Malformed)?;
    let ends = match line.split(' ').collect::<Vec<_>>()[..] {
        // What follows is to be ignored.
        ["UNKNOWN", ..] => None,
        [family @ ("TCP4" | "TCP6"), source, destination, from, to] => {
            let address = |text: &str, port: &str| {
                let ip: IpAddr = match family {
                    "TCP4" => text.parse::<Ipv4Addr>().ok()?.into(),
                    _ => text.parse::<Ipv6Addr>().ok()?.into(),
                };
                Some(SocketAddr::new(ip, v1_port(port)?))
            };
            let ends = address(source, from).zip(address(destination, to));
            let (source, destination) = ends.ok_or(Fault::Malformed)?;
            Some(Ends { source, destination, tlvs: Box::default() })
        }
        _ => return Err(Fault::Malformed),
    };
    Ok(Decoded::Complete { length: end + 2, ends })
}

/// Digits only, and none in vain.
fn v1_port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

fn decode_v2(bytes: &[u8]) -> Result<Decoded, Fault> {
    let same = bytes.len().min(SIGNATURE.len());
    if bytes[..same] != SIGNATURE[..same] {
        return Err(Fault::Missing);
    }
    let Some(head) = bytes.get(SIGNATURE.len()..V2_HEAD) else { return Ok(Decoded::Incomplete) };
    let (command, family) = (head[0], head[1]);
    if command != 0x20 && command != 0x21 {
        return Err(Fault::Malformed);
    }
    let length = V2_HEAD + usize::from(u16::from_be_bytes([head[2], head[3]]));
    if length > V2_MAX {
        return Err(Fault::TooLong);
    }
    let Some(header) = bytes.get(..length) else { return Ok(Decoded::Incomplete) };
    if command == 0x20 {
        // LOCAL: the rest says nothing.
        return Ok(Decoded::Complete { length, ends: None });
    }
    if family >> 4 > 3 || family & 15 > 2 {
        return Err(Fault::Malformed);
    }
    let body = &header[V2_HEAD..];
    let (addresses, size) = match family {
        0x11 => (body.first_chunk().map(v4), 12),
        0x21 => (body.first_chunk().map(v6), 36),
        // Unknown, a Unix socket, or datagrams.
        _ => return Ok(Decoded::Complete { length, ends: None }),
    };
    let [source, destination] = addresses.ok_or(Fault::Malformed)?;
    let tlvs = kept_tlvs(header, V2_HEAD + size)?;
    Ok(Decoded::Complete { length, ends: Some(Ends { source, destination, tlvs }) })
}

fn v4(block: &[u8; 12]) -> [SocketAddr; 2] {
    let [a, b, c, d, e, f, g, h, ports @ ..] = *block;
    let [from, to] = two_ports(ports);
    [SocketAddr::from(([a, b, c, d], from)), SocketAddr::from(([e, f, g, h], to))]
}

fn v6(block: &[u8; 36]) -> [SocketAddr; 2] {
    let address = |at: usize| -> [u8; 16] { std::array::from_fn(|index| block[at + index]) };
    let [from, to] = two_ports(std::array::from_fn(|index| block[32 + index]));
    [SocketAddr::from((address(0), from)), SocketAddr::from((address(16), to))]
}

fn two_ports([a, b, c, d]: [u8; 4]) -> [u16; 2] {
    [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]
}

/// Checks the TLVs of a header, which begin at `at`; those that are passed on.
fn kept_tlvs(header: &[u8], at: usize) -> Result<Box<[u8]>, Fault> {
    let (mut kept, mut at, mut checked) = (Vec::new(), at, false);
    while at < header.len() {
        let [kind, high, low] = *header[at..].first_chunk().ok_or(Fault::Malformed)?;
        let end = at + 3 + usize::from(u16::from_be_bytes([high, low]));
        let value = header.get(at + 3..end).ok_or(Fault::Malformed)?;
        match kind {
            CRC32C => {
                let stated: [u8; 4] = value.try_into().map_err(|_| Fault::Malformed)?;
                if std::mem::replace(&mut checked, true) {
                    return Err(Fault::Malformed);
                }
                let rest = header[..at + 3].iter().chain(&[0; 4]).chain(&header[end..]);
                if crc32c(rest.copied()) != u32::from_be_bytes(stated) {
                    return Err(Fault::Checksum);
                }
            }
            UNIQUE_ID if value.len() > UNIQUE_ID_MAX => return Err(Fault::Malformed),
            ALPN | AUTHORITY | UNIQUE_ID => kept.extend_from_slice(&header[at..end]),
            kind if CUSTOM.contains(&kind) => kept.extend_from_slice(&header[at..end]),
            _ => {}
        }
        at = end;
    }
    Ok(kept.into())
}

/// CRC-32C (Castagnoli), as in iSCSI.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let (mut rest, mut bit) = (byte as u32, 0);
            while bit < 8 {
                rest = (rest >> 1) ^ (0x82f6_3b78 & (rest & 1).wrapping_neg());
                bit += 1;
            }
            table[byte] = rest;
            byte += 1;
        }
        table
    };
    !bytes.fold(!0, |crc, byte| (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)])
}

impl Ends {
    /// Ends of a connection that nobody announced.
    pub(crate) fn new(source: SocketAddr, destination: SocketAddr) -> Self {
        let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        Self { source: plain(source), destination: plain(destination), tlvs: Box::default() }
    }

    /// The header of version 2 that announces this client.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (family, size) = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(_), IpAddr::V4(_)) => (0x11, 12),
            _ => (0x21, 36),
        };
        let mut header = Vec::with_capacity(V2_HEAD + size + self.tlvs.len());
        header.extend_from_slice(SIGNATURE);
        header.extend_from_slice(&[0x21, family]);
        header.extend_from_slice(&((size + self.tlvs.len()) as u16).to_be_bytes());
        for address in [self.source, self.destination] {
            match address.ip() {
                IpAddr::V4(ip) if family == 0x11 => header.extend_from_slice(&ip.octets()),
                IpAddr::V4(ip) => header.extend_from_slice(&ip.to_ipv6_mapped().octets()),
                IpAddr::V6(ip) => header.extend_from_slice(&ip.octets()),
            }
        }
        for address in [self.source, self.destination] {
            header.extend_from_slice(&address.port().to_be_bytes());
        }
        header.extend_from_slice(&self.tlvs);
        header
    }
}

#[cfg(test)]
#[path = "proxy_protocol_tests.rs"]
mod tests;
