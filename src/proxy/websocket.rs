//! WebSocket frames in a stream of bytes (RFC 6455 §5.2), as far as a tunnel has to know them: where one ends, and whether
//! it was the last.
//!
//! Only heads are looked at; what is in a frame is passed over. Bytes that are no frames do no harm: the end that is found
//! in them is a wrong one, or none. Nothing is checked here that the two ends check themselves.

/// Opcode of the frame that ends a direction.
const CLOSE: u8 = 8;
const GOING_AWAY: u16 = 1001;
const REASON: &[u8] = b"going away";

/// Where one direction is in its frames.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Frames {
    /// What has come of the present frame's head, without its mask.
    head: [u8; 10],
    have: u8,
    /// Still to come of the present frame after that.
    left: u64,
    /// The present frame is a Close.
    is_close: bool,
    /// A Close has come to its end.
    closed: bool,
}

impl Frames {
    /// Whether the last byte was the last of its frame.
    pub(crate) fn is_between(&self) -> bool {
        self.have == 0 && self.left == 0
    }

    /// Whether a Close has passed: nothing may follow it.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// These bytes pass.
    pub(crate) fn pass(&mut self, bytes: &[u8]) {
        let mut bytes = bytes;
        while !bytes.is_empty() {
            bytes = &bytes[self.step(bytes)..];
        }
    }

    /// How many of `bytes`, which come next, belong to the frame that has begun; all of them if it goes on after them.
    pub(crate) fn rest_in(&self, bytes: &[u8]) -> usize {
        let mut ahead = *self;
        if ahead.is_between() { 0 } else { ahead.step(bytes) }
    }

    /// Passes bytes to the end of a frame at most; how many.
    fn step(&mut self, bytes: &[u8]) -> usize {
        let mut used = 0;
        while self.left == 0 {
            let Some(byte) = bytes.get(used) else { return used };
            self.head[usize::from(self.have)] = *byte;
            self.have += 1;
            used += 1;
            if self.take_head() && self.left == 0 {
                self.end();
                return used;
            }
        }
        let passed = self.left.min((bytes.len() - used) as u64);
        self.left -= passed;
        if self.left == 0 {
            self.end();
        }
        used + passed as usize
    }

    /// Whether the head is complete; it gives way to the length of what follows it then.
    fn take_head(&mut self) -> bool {
        let [first, second, ..] = self.head;
        let (size, length) = match (second & 0x7f, &self.head[2..]) {
            (126, [a, b, ..]) => (4, u64::from(u16::from_be_bytes([*a, *b]))),
            (127, rest) => (10, rest.iter().fold(0, |length, byte| length << 8 | u64::from(*byte))),
            (short, _) => (2, u64::from(short)),
        };
        if self.have < size || self.have < 2 {
            return false;
        }
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        self.left = length.saturating_add(mask);
        self.is_close = first & 0x0f == CLOSE;
        self.have = 0;
        true
    }

    fn end(&mut self) {
        self.closed |= std::mem::take(&mut self.is_close);
    }
}

/// The Close frame that says that an end goes away (1001); masked, as clients have to, with `mask`.
pub(crate) fn going_away(mask: Option<[u8; 4]>) -> Vec<u8> {
    let payload = [&GOING_AWAY.to_be_bytes()[..], REASON].concat();
    let length = payload.len() as u8;
    let mut frame = vec![0x80 | CLOSE, if mask.is_some() { 0x80 | length } else { length }];
    let mask = match mask {
        Some(mask) => {
            frame.extend_from_slice(&mask);
            mask
        }
        None => [0; 4],
    };
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(opcode: u8, masked: bool, payload: &[u8]) -> Vec<u8> {
        let bit = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x80 | opcode];
        match payload.len() {
            length @ 0..126 => frame.push(bit | length as u8),
            length @ 126..65_536 => {
                frame.push(bit | 126);
                frame.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                frame.push(bit | 127);
                frame.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        if masked {
            frame.extend_from_slice(&[1, 2, 3, 4]);
        }
        frame.extend_from_slice(payload);
        frame
    }

    #[test]
    fn frames_of_every_length_end_where_they_end() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
            for masked in [false, true] {
                let frame = frame(2, masked, &vec![0x88; length]);
                let mut frames = Frames::default();
                let (most, last) = frame.split_at(frame.len() - 1);
                frames.pass(most);
                assert!(!frames.is_between(), "{length}");
                assert_eq!(frames.rest_in(&[last, b"next"].concat()), 1);
                frames.pass(last);
                assert!(frames.is_between() && !frames.is_closed(), "{length}");
                assert_eq!(frames.rest_in(b"xy"), 0);
            }
        }
    }

    #[test]
    fn our_own_close_is_a_frame_and_the_last() {
        for mask in [None, Some([9, 8, 7, 6])] {
            let frame = going_away(mask);
            let mut frames = Frames::default();
            frames.pass(&frame);
            assert!(frames.is_between() && frames.is_closed());
            let mask = mask.unwrap_or_default();
            let payload = &frame[frame.len() - 12..];
            let plain: Vec<_> = payload.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b).collect();
            assert_eq!(plain, b"\x03\xe9going away");
        }
    }

    #[test]
    fn a_length_that_nobody_can_send_does_no_harm() {
        let mut frames = Frames::default();
        frames.pass(&[0x82, 0xff, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0]);
        assert!(!frames.is_between());
        assert_eq!(frames.rest_in(&[0; 100]), 100);
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_say_the_same(
            sizes in prop::collection::vec((0..300usize, any::<bool>()), 1..8), cuts in prop::collection::vec(1..40usize, 1..20),
        ) {
            let frame = |(size, masked): &(usize, bool)| frame(1, *masked, &vec![7; *size]);
            let all: Vec<Vec<u8>> = sizes.iter().map(frame).collect();
            let ends: Vec<_> = all.iter().scan(0, |at, frame| { *at += frame.len(); Some(*at) }).collect();
            let (bytes, mut at) = (all.concat(), 0);
            let mut frames = Frames::default();
            for cut in cuts.iter().cycle() {
                let end = (at + cut).min(bytes.len());
                frames.pass(&bytes[at..end]);
                at = end;
                prop_assert_eq!(frames.is_between(), ends.contains(&at));
                let next = ends.iter().find(|end| **end > at).copied().unwrap_or(at);
                if !frames.is_between() {
                    prop_assert_eq!(frames.rest_in(&bytes[at..]), next - at);
                }
                if at == bytes.len() { break }
            }
        }

        #[test]
        fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut frames = Frames::default();
            frames.pass(&bytes);
            prop_assert!(frames.rest_in(&bytes) <= bytes.len());
        }
    }
}
