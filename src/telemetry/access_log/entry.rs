//! What is known of one request, and how it travels to the writer: numbers, then the pieces of text, each with its length.
//!
//! The request's path copies bytes and nothing else. Text is kept in one buffer, which is used for many requests in turn;
//! a piece that is longer than it may be is cut.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::config::AccessField;
use crate::pool::{Chosen, Decision, OwnTarget, Verdict, ZoneChoice};

/// What is known of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Bits of the [`Piece`]s that are gathered.
    wanted: u16,
    /// Who asks.
    pub client: IpAddr,
    /// Version of HTTP: 10, 11 or 20; 0 if that is not known.
    pub protocol: u8,
    /// Version of TLS, if it was spoken.
    pub tls: Tls,
    /// Status of the answer; 0 without one.
    pub status: u16,
    /// Bytes of the request's body that were read.
    pub bytes_in: u64,
    /// Bytes of the answer's body that were sent.
    pub bytes_out: u64,
    /// Until the end.
    pub duration: Duration,
    /// Until the answer's head.
    pub first_byte: Option<Duration>,
    /// How often it was sent.
    pub attempts: u32,
    /// What reading the session cookie found, if that was looked for.
    pub verdict: Option<Verdict>,
    /// The session has moved.
    pub moved: bool,
    /// How it came to its target, if a target was looked for.
    pub decision: Option<Decision>,
    /// Why it did not go well.
    pub reason: Option<&'static str>,
    /// Pieces of text, one after another.
    text: Vec<u8>,
    /// Where each ends, and whether it is there.
    ends: [u16; PIECES],
    present: u16,
    /// How far `ends` is known.
    known: usize,
}

/// Version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tls {
    /// None is spoken.
    #[default]
    None,
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// A piece of text of an entry. They are set in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// Method.
    Method,
    /// `Host`.
    Host,
    /// Path and query.
    Path,
    /// `User-Agent`.
    UserAgent,
    /// `Referer`.
    Referer,
    /// The request's id.
    RequestId,
    /// Name of the route.
    Route,
    /// Name of the pool.
    Pool,
    /// `zone/address` of the target.
    Target,
}

const PIECES: usize = 9;

/// Bytes of a piece at most.
const LONGEST: [usize; PIECES] = [64, 512, 4096, 2048, 4096, 256, 512, 128, 256];

/// Bytes of an encoded entry at most, roughly: its numbers, its reason, and all pieces.
pub(super) const MAX: usize = 16 * 1024;

impl Piece {
    #[cfg(test)]
    const ALL: [Self; PIECES] = [
        Self::Method,
        Self::Host,
        Self::Path,
        Self::UserAgent,
        Self::Referer,
        Self::RequestId,
        Self::Route,
        Self::Pool,
        Self::Target,
    ];

    /// Those that these fields are made of, as bits.
    pub(super) fn set_of(fields: &[AccessField]) -> u16 {
        let piece = |field: &AccessField| match field {
            AccessField::Method => Some(Self::Method),
            AccessField::Host => Some(Self::Host),
            AccessField::Path => Some(Self::Path),
            AccessField::UserAgent => Some(Self::UserAgent),
            AccessField::Referer => Some(Self::Referer),
            AccessField::RequestId => Some(Self::RequestId),
            AccessField::Route => Some(Self::Route),
            AccessField::Pool => Some(Self::Pool),
            AccessField::Zone | AccessField::Target => Some(Self::Target),
            _ => None,
        };
        fields.iter().filter_map(piece).fold(0, |set, piece| set | piece.bit())
    }

    fn bit(self) -> u16 {
        1 << self as u8
    }
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            wanted: 0,
            client: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            protocol: 0,
            tls: Tls::None,
            status: 0,
            bytes_in: 0,
            bytes_out: 0,
            duration: Duration::ZERO,
            first_byte: None,
            attempts: 0,
            verdict: None,
            moved: false,
            decision: None,
            reason: None,
            text: Vec::new(),
            ends: [0; PIECES],
            present: 0,
            known: 0,
        }
    }
}

impl Entry {
    /// Forgets everything, to be used for another request of which these pieces are wanted.
    pub(super) fn begin(&mut self, wanted: u16) {
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        *self = Self { wanted, text, ..Self::default() };
    }

    /// Wants all pieces from now on. Only while none was set.
    pub fn want_all(&mut self) {
        self.wanted = u16::MAX;
    }

    /// A piece of text, if it is there.
    pub fn piece(&self, piece: Piece) -> Option<&[u8]> {
        let at = piece as usize;
        if self.present & piece.bit() == 0 {
            return None;
        }
        let start = if at == 0 { 0 } else { usize::from(self.ends[at - 1]) };
        self.text.get(start..usize::from(self.ends[at]))
    }

    /// Takes a piece of text, if it is wanted. One that comes after a later one was set is left out.
    pub fn set(&mut self, piece: Piece, text: &[u8]) {
        let at = piece as usize;
        if self.wanted & piece.bit() == 0 || self.known > at {
            return;
        }
        self.pass_to(at);
        self.text.extend_from_slice(&text[..text.len().min(LONGEST[at])]);
        self.present |= piece.bit();
        self.pass_to(at + 1);
    }

    /// Where the pieces end that nobody has set.
    fn pass_to(&mut self, piece: usize) {
        let end = self.text.len() as u16;
        while self.known < piece {
            self.ends[self.known] = end;
            self.known += 1;
        }
    }

    /// Writes the entry behind what is in `into`. Its request began at `started`.
    pub(super) fn encode(&self, started: Instant, anchor: Instant, into: &mut Vec<u8>) {
        let after = started.saturating_duration_since(anchor).as_micros() as i64;
        let before = anchor.saturating_duration_since(started).as_micros() as i64;
        let mut numbers = [0u8; NUMBERS];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            numbers[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&(after - before).to_le_bytes());
        put(&(self.duration.as_micros() as u64).to_le_bytes());
        put(&self.first_byte.map_or(u64::MAX, |took| took.as_micros() as u64).to_le_bytes());
        put(&self.bytes_in.to_le_bytes());
        put(&self.bytes_out.to_le_bytes());
        let client = match self.client {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        put(&client.octets());
        put(&self.attempts.to_le_bytes());
        put(&self.status.to_le_bytes());
        put(&[self.protocol, self.tls as u8, self.verdict.map_or(u8::MAX, |verdict| verdict as u8)]);
        let codes = self.decision.map_or([u8::MAX; 3], |it| [it.chosen as u8, it.own as u8, it.zone as u8]);
        put(&codes);
        put(&[u8::from(self.moved), self.known as u8]);
        put(&self.present.to_le_bytes());
        self.ends.iter().for_each(|end| put(&end.to_le_bytes()));
        let reason = self.reason.unwrap_or_default().as_bytes();
        put(&[reason.len() as u8]);
        into.extend_from_slice(&numbers);
        into.extend_from_slice(reason);
        into.extend_from_slice(&self.text);
    }
}

/// Bytes of the numbers.
const NUMBERS: usize = 5 * 8 + 16 + 4 + 2 + 8 + 2 + 2 * PIECES + 1;

/// An entry as the writer reads it.
pub(super) struct Read<'a> {
    /// Microseconds from the batch's anchor to the request's begin.
    pub(super) started_us: i64,
    pub(super) duration_us: u64,
    pub(super) first_byte_us: Option<u64>,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) client: IpAddr,
    pub(super) attempts: u32,
    pub(super) status: u16,
    pub(super) protocol: u8,
    pub(super) tls: Tls,
    pub(super) verdict: Option<Verdict>,
    pub(super) moved: bool,
    pub(super) decision: Option<Decision>,
    pub(super) reason: &'a [u8],
    present: u16,
    ends: [u16; PIECES],
    text: &'a [u8],
}

impl<'a> Read<'a> {
    /// Takes the first entry off `bytes`; `None` when there is none.
    pub(super) fn take(bytes: &mut &'a [u8]) -> Option<Self> {
        let (numbers, rest) = bytes.split_first_chunk::<NUMBERS>()?;
        let mut left = &numbers[..];
        let started_us = i64::from_le_bytes(part(&mut left));
        let duration_us = u64::from_le_bytes(part(&mut left));
        let first_byte_us = u64::from_le_bytes(part(&mut left));
        let (bytes_in, bytes_out) =
            (u64::from_le_bytes(part(&mut left)), u64::from_le_bytes(part(&mut left)));
        let client = IpAddr::V6(Ipv6Addr::from(part::<16>(&mut left))).to_canonical();
        let attempts = u32::from_le_bytes(part(&mut left));
        let status = u16::from_le_bytes(part(&mut left));
        let [protocol, tls, verdict, chosen, own, zone, moved, known] = part(&mut left);
        let present = u16::from_le_bytes(part(&mut left));
        let ends: [u16; PIECES] = std::array::from_fn(|_| u16::from_le_bytes(part(&mut left)));
        let [reason] = part(&mut left);
        let (reason, rest) = rest.split_at_checked(usize::from(reason))?;
        let end = (known as usize).checked_sub(1).map_or(0, |last| usize::from(ends[last.min(PIECES - 1)]));
        let (text, rest) = rest.split_at_checked(end)?;
        *bytes = rest;
        Some(Self {
            started_us,
            duration_us,
            first_byte_us: (first_byte_us != u64::MAX).then_some(first_byte_us),
            bytes_in,
            bytes_out,
            client,
            attempts,
            status,
            protocol,
            tls: [Tls::None, Tls::Tls12, Tls::Tls13][usize::from(tls) % 3],
            verdict: Verdict::ALL.get(usize::from(verdict)).copied(),
            decision: decision([chosen, own, zone]),
            moved: moved != 0,
            reason,
            present,
            ends,
            text,
        })
    }

    /// A piece of text, if it is there.
    pub(super) fn piece(&self, piece: Piece) -> Option<&'a [u8]> {
        let at = piece as usize;
        let start = if at == 0 { 0 } else { usize::from(self.ends[at - 1]) };
        if self.present & piece.bit() == 0 {
            return None;
        }
        self.text.get(start..usize::from(self.ends[at]))
    }
}

fn decision([chosen, own, zone]: [u8; 3]) -> Option<Decision> {
    Some(Decision {
        chosen: *Chosen::ALL.get(usize::from(chosen))?,
        own: *OwnTarget::ALL.get(usize::from(own))?,
        zone: *ZoneChoice::ALL.get(usize::from(zone))?,
    })
}

fn part<const N: usize>(left: &mut &[u8]) -> [u8; N] {
    let (part, rest) = left.split_first_chunk::<N>().unwrap_or_else(|| unreachable!("NUMBERS is their sum"));
    *left = rest;
    *part
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pieces() -> impl Strategy<Value = Vec<Option<Vec<u8>>>> {
        prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..40)), PIECES)
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(
            entries in prop::collection::vec((pieces(), any::<u16>(), any::<u64>(), any::<u16>()), 1..20),
        ) {
            let anchor = Instant::now();
            let mut bytes = Vec::new();
            for (pieces, wanted, number, status) in &entries {
                let mut entry = Entry::default();
                entry.begin(*wanted);
                for (piece, text) in Piece::ALL.into_iter().zip(pieces) {
                    if let Some(text) = text {
                        entry.set(piece, text);
                    }
                }
                (entry.bytes_in, entry.status) = (*number, *status);
                entry.reason = (number % 2 == 0).then_some("no_target");
                entry.encode(anchor + Duration::from_micros(5), anchor, &mut bytes);
            }
            let mut left = &bytes[..];
            for (pieces, wanted, number, status) in &entries {
                let read = Read::take(&mut left).unwrap();
                prop_assert_eq!((read.bytes_in, read.status, read.started_us), (*number, *status, 5));
                prop_assert_eq!(read.reason, if number % 2 == 0 { &b"no_target"[..] } else { b"" });
                for (piece, text) in Piece::ALL.into_iter().zip(pieces) {
                    let expected = text.as_deref().filter(|_| wanted & piece.bit() != 0);
                    prop_assert_eq!(read.piece(piece), expected);
                }
            }
            prop_assert!(left.is_empty() && Read::take(&mut left).is_none());
        }
    }

    #[test]
    fn the_longest_pieces_are_cut_and_fit() {
        let mut entry = Entry::default();
        entry.begin(u16::MAX);
        Piece::ALL.into_iter().for_each(|piece| entry.set(piece, &[b'x'; 100_000]));
        entry.reason = Some("transfer_encoding");
        let (now, mut bytes) = (Instant::now(), Vec::new());
        entry.encode(now, now, &mut bytes);
        assert!(bytes.len() < MAX, "{}", bytes.len());
        let mut left = &bytes[..];
        assert_eq!(Read::take(&mut left).unwrap().piece(Piece::Path).unwrap().len(), 4096);
    }
}
