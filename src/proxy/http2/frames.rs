//! Frames as they pass by, and how many of them a client may make us look at (pure; time comes in as ticks).
//!
//! [`Scanner`] finds the nine bytes before each frame in a stream of bytes that somebody else reads or writes. [`Ledger`]
//! keeps an account for everything that costs us work and brings nobody an answer: what is spent fades with time, and is
//! earned back by useful work, so that a busy connection may do more than one that only makes noise. What frames mean is
//! not known here.

use crate::pool::Http2Fault;
use crate::proxy::deadline::Deadlines;

/// Bytes of the preface, which is no frame.
pub(super) const PREFACE: u32 = 24;

/// Types of frames (RFC 9113 §6, RFC 9218 §7.1).
pub(super) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const PRIORITY: u8 = 2;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
    pub(crate) const PRIORITY_UPDATE: u8 = 16;
}

/// What is known of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    /// Bytes of its payload.
    pub(super) length: u32,
    /// Of a RST_STREAM or a GOAWAY, the reason; else 0.
    pub(super) code: u32,
}

/// Bytes before each frame's payload.
const HEADER: usize = 9;
/// Bytes kept of the payload of a frame that says why something ends: all of a RST_STREAM, and the first words of a GOAWAY.
const KEPT: usize = 48;

/// Position in a stream of frames.
pub(super) struct Scanner {
    /// What has come of the present frame's header, and of its payload if that is kept.
    begun: [u8; HEADER + KEPT],
    filled: usize,
    /// Bytes that are none of our business.
    skip: u32,
}

impl Scanner {
    /// At a stream's beginning, before so many bytes that are no frames.
    pub(super) fn after(skip: u32) -> Self {
        Self { begun: [0; HEADER + KEPT], filled: 0, skip }
    }

    /// Goes on through `bytes`, and shows each frame once its header has come, and what is kept of its payload.
    pub(super) fn scan(&mut self, mut bytes: &[u8], mut seen: impl FnMut(Frame, &[u8])) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let count = bytes.len().min(self.skip as usize);
                self.skip -= count as u32;
                bytes = &bytes[count..];
                continue;
            }
            let wanted = self.wanted();
            let count = bytes.len().min(wanted - self.filled);
            self.begun[self.filled..self.filled + count].copy_from_slice(&bytes[..count]);
            self.filled += count;
            bytes = &bytes[count..];
            if self.filled < self.wanted() {
                continue;
            }
            let [a, b, c, kind, ..] = self.begun;
            let length = u32::from_be_bytes([0, a, b, c]);
            let kept = &self.begun[HEADER..self.filled];
            let code = match kind {
                kind::RST_STREAM => kept.get(..4),
                kind::GOAWAY => kept.get(4..8),
                _ => None,
            };
            let code = code.map_or(0, |code| code.iter().fold(0, |code, byte| code << 8 | u32::from(*byte)));
            seen(Frame { kind, length, code }, kept);
            self.skip = length - kept.len() as u32;
            self.filled = 0;
        }
    }

    /// Bytes that are wanted of the present frame, as far as that is known.
    fn wanted(&self) -> usize {
        let [a, b, c, kind, ..] = self.begun;
        match kind {
            _ if self.filled < HEADER => HEADER,
            kind::RST_STREAM | kind::GOAWAY => HEADER + KEPT.min(u32::from_be_bytes([0, a, b, c]) as usize),
            _ => HEADER,
        }
    }
}

/// What of one account may be spent at once, and how much of it fades in a second.
fn terms(account: Http2Fault) -> (f32, f32) {
    use Http2Fault as F;
    match account {
        F::Resets => (200.0, 20.0),
        F::ProvokedResets => (200.0, 10.0),
        F::Continuation => (200.0, 20.0),
        F::Settings => (50.0, 2.0),
        F::Ping => (200.0, 20.0),
        F::Priority => (500.0, 20.0),
        F::WindowUpdate => (2000.0, 500.0),
        F::OtherFrame => (100.0, 10.0),
        F::ShutWindow => (16.0, 0.5),
        _ => (f32::INFINITY, 0.0),
    }
}

/// One connection's accounts. See the module's documentation.
pub(super) struct Ledger {
    spent: [f32; Http2Fault::COUNT],
    /// When it was last looked at, in ticks of the worker.
    at: u64,
}

impl Ledger {
    pub(super) fn new(now: u64) -> Self {
        Self { spent: [0.0; Http2Fault::COUNT], at: now }
    }

    /// The client has sent a frame: the account that is overdrawn by it.
    pub(super) fn received(&mut self, frame: Frame, now: u64) -> Option<Http2Fault> {
        use Http2Fault as F;
        match frame.kind {
            kind::DATA => None,
            kind::HEADERS => {
                // With a request come its place in the tree, the window for its answer, and the rest of a large head.
                self.earn(F::Priority, 4.0);
                self.earn(F::WindowUpdate, 4.0);
                self.earn(F::Continuation, 4.0);
                None
            }
            kind::CONTINUATION => self.spend(F::Continuation, now),
            kind::PRIORITY | kind::PRIORITY_UPDATE => self.spend(F::Priority, now),
            kind::RST_STREAM => self.spend(F::Resets, now),
            kind::SETTINGS => self.spend(F::Settings, now),
            kind::PING => self.spend(F::Ping, now),
            kind::WINDOW_UPDATE => self.spend(F::WindowUpdate, now),
            _ => self.spend(F::OtherFrame, now),
        }
    }

    /// We have sent a frame: the account that is overdrawn by it.
    pub(super) fn sent(&mut self, frame: Frame, now: u64) -> Option<Http2Fault> {
        match frame.kind {
            kind::DATA => {
                // Who is sent much may open its window often, and measures how fast it comes.
                self.earn(Http2Fault::WindowUpdate, frame.length as f32 / 64.0);
                self.earn(Http2Fault::Ping, 1.0);
                None
            }
            kind::RST_STREAM if is_provoked(frame.code) => self.spend(Http2Fault::ProvokedResets, now),
            _ => None,
        }
    }

    /// A request was answered to its end.
    pub(super) fn answered(&mut self) {
        self.earn(Http2Fault::Resets, 1.0);
    }

    fn earn(&mut self, account: Http2Fault, amount: f32) {
        let spent = &mut self.spent[account as usize];
        *spent = (*spent - amount).max(0.0);
    }

    /// Takes one off an account; the account if that is too much.
    pub(super) fn spend(&mut self, account: Http2Fault, now: u64) -> Option<Http2Fault> {
        let seconds = now.saturating_sub(self.at) as f32 / Deadlines::TICKS_PER_SECOND as f32;
        if seconds > 0.0 {
            self.at = now;
            for account in Http2Fault::ALL {
                let (_, fades) = terms(*account);
                self.earn(*account, fades * seconds);
            }
        }
        let spent = &mut self.spent[account as usize];
        *spent += 1.0;
        (*spent > terms(account).0).then_some(account)
    }
}

/// Whether a stream was reset with this code because of what the client did, and not because of what became of its request:
/// PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM.
fn is_provoked(code: u32) -> bool {
    matches!(code, 1 | 3 | 5 | 6 | 7)
}

/// What a connection that we end with this frame is ended for; nothing if that is in good order. h2 has only one code for all
/// that is too much: its words tell more.
pub(super) fn fault_of(frame: Frame, payload: &[u8]) -> Option<Http2Fault> {
    use Http2Fault as F;
    if frame.kind != kind::GOAWAY || frame.code == 0 {
        return None;
    }
    let words = payload.get(8..).unwrap_or_default();
    let said = [
        (&b"continuations"[..], F::Continuation),
        (b"header_list", F::HeadSize),
        (b"data_frames", F::Data),
        (b"internal_resets", F::ProvokedResets),
        (b"resets", F::Resets),
    ];
    let said = said.into_iter().find(|(word, _)| memchr::memmem::find(words, word).is_some());
    Some(match (said, frame.code) {
        (Some((_, fault)), _) => fault,
        (None, 3) => F::FlowControl,
        (None, 6) => F::FrameSize,
        (None, 9) => F::Compression,
        (None, _) => F::Protocol,
    })
}

/// Whether a stream was reset with this code because what came on it makes no message.
pub(super) fn is_malformed(frame: Frame) -> bool {
    frame.kind == kind::RST_STREAM && frame.code == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wire(frames: &[(u8, u32, u32)]) -> Vec<u8> {
        let mut wire = vec![b'P'; PREFACE as usize];
        for (kind, length, code) in frames {
            wire.extend_from_slice(&length.to_be_bytes()[1..]);
            wire.extend_from_slice(&[*kind, 0, 0, 0, 0, 1]);
            let payload = wire.len();
            wire.resize(payload + *length as usize, 0xff);
            let at = payload + if *kind == kind::GOAWAY { 4 } else { 0 };
            if matches!(*kind, kind::RST_STREAM | kind::GOAWAY) {
                wire[at..at + 4].copy_from_slice(&code.to_be_bytes());
            }
        }
        wire
    }

    proptest! {
        #[test]
        fn frames_are_seen_however_the_bytes_arrive(
            frames in prop::collection::vec((0u8..12, 0u32..100), 0..20),
            step in 1usize..50,
        ) {
            let frames: Vec<_> = frames.into_iter().map(|(kind, length)| match kind {
                kind::RST_STREAM => (kind, 4, length),
                kind::GOAWAY => (kind, length + 8, length),
                _ => (kind, length, 0),
            }).collect();
            let (mut scanner, mut seen) = (Scanner::after(PREFACE), Vec::new());
            for piece in wire(&frames).chunks(step) {
                scanner.scan(piece, |frame, _| seen.push((frame.kind, frame.length, frame.code)));
            }
            prop_assert_eq!(seen, frames);
        }
    }

    const RESET: Frame = Frame { kind: kind::RST_STREAM, length: 4, code: 8 };

    fn resets_until_fault(ledger: &mut Ledger, most: usize, now: u64, answered: bool) -> Option<usize> {
        (0..most).find(|_| {
            if answered {
                ledger.answered();
            }
            ledger.received(RESET, now).is_some()
        })
    }

    #[test]
    fn what_is_only_taken_back_is_soon_too_much_and_what_is_answered_as_often_never() {
        assert_eq!(resets_until_fault(&mut Ledger::new(0), 100_000, 0, false), Some(200));
        assert_eq!(resets_until_fault(&mut Ledger::new(0), 100_000, 0, true), None);
    }

    #[test]
    fn the_words_of_a_goaway_tell_what_was_too_much() {
        let fault = |code: u32, words: &str| {
            let payload = [&[0; 4], &code.to_be_bytes()[..], words.as_bytes()].concat();
            let frame = Frame { kind: kind::GOAWAY, length: payload.len() as u32, code };
            fault_of(frame, &payload)
        };
        assert_eq!(fault(0, ""), None);
        assert_eq!(fault(11, "too_many_resets"), Some(Http2Fault::Resets));
        assert_eq!(fault(11, "too_many_internal_resets"), Some(Http2Fault::ProvokedResets));
        assert_eq!(fault(1, ""), Some(Http2Fault::Protocol));
        assert_eq!(fault(9, ""), Some(Http2Fault::Compression));
    }

    #[test]
    fn what_was_spent_fades() {
        let mut ledger = Ledger::new(0);
        assert_eq!(resets_until_fault(&mut ledger, 200, 0, false), None);
        assert_eq!(ledger.received(RESET, 0), Some(Http2Fault::Resets));
        assert_eq!(resets_until_fault(&mut ledger, 100, 1000, false), None);
    }

    #[test]
    fn a_reader_of_single_bytes_is_told_from_one_that_reads() {
        let update = Frame { kind: kind::WINDOW_UPDATE, length: 4, code: 0 };
        let read = |length: u32| {
            let mut ledger = Ledger::new(0);
            (0..10_000).any(|_| {
                ledger.sent(Frame { kind: kind::DATA, length, code: 0 }, 0);
                ledger.received(update, 0).is_some()
            })
        };
        assert!(read(1) && !read(1024));
    }
}
