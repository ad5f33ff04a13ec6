//! Bytes on their way out: a head and small bodies copied together, large bodies passed by reference, one system call
//! where one is enough.
//!
//! At most one frame is held, so whoever produces frames waits for the socket: that is all the back-pressure there is.
//! The buffer goes back to a stock of the thread whenever nothing is pending: idle connections hold none.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};

use super::super::io::Io;

/// Frames up to this size are copied behind what is already in the buffer: dearer than a pointer, cheaper than a second
/// piece for the kernel to walk.
const COPY_MAX: usize = 8 * 1024;
/// Buffers kept by a thread, and the largest that is kept.
const SPARE_COUNT: usize = 64;
const SPARE_SIZE: usize = 32 * 1024;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Outgoing {
    /// Sent first.
    buffer: Vec<u8>,
    /// Of `buffer`, sent already.
    sent: usize,
    /// Sent second.
    data: Bytes,
    /// Sent last.
    tail: &'static [u8],
    /// Something was written since [`Outgoing::take_progress`] was last asked.
    progress: bool,
    /// Bytes given to the socket since this was made.
    written: u64,
}

impl Outgoing {
    /// The buffer, to write heads and chunk lines into.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        debug_assert!(self.data.is_empty() && self.tail.is_empty());
        if self.buffer.capacity() == 0
            && let Some(spare) = SPARE.with_borrow_mut(Vec::pop)
        {
            self.buffer = spare;
        }
        &mut self.buffer
    }

    /// Adds part of a body as it is.
    pub(crate) fn push(&mut self, data: Bytes) {
        if data.len() <= COPY_MAX {
            self.buffer().extend_from_slice(&data);
        } else {
            debug_assert!(self.data.is_empty() && self.tail.is_empty());
            self.data = data;
        }
    }

    /// Adds part of a body as a chunk.
    pub(crate) fn push_chunk(&mut self, data: Bytes) {
        let buffer = self.buffer();
        push_hex(buffer, data.len());
        buffer.extend_from_slice(b"\r\n");
        self.push(data);
        if self.data.is_empty() {
            self.buffer().extend_from_slice(b"\r\n");
        } else {
            self.tail = b"\r\n";
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.buffer.len() == self.sent && self.data.is_empty() && self.tail.is_empty()
    }

    /// Whether another frame may be pushed before the next flush.
    pub(crate) fn takes_more(&self) -> bool {
        self.data.is_empty() && self.tail.is_empty() && self.buffer.len() < COPY_MAX
    }

    /// Whether the peer has taken anything since this was last asked.
    pub(crate) fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progress)
    }

    /// Bytes given to the socket.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Writes until nothing is left.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>, io: &Io) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let head = &self.buffer[self.sent..];
            let written = if self.data.is_empty() && self.tail.is_empty() {
                io.poll_write(cx, head)
            } else {
                let slices = [IoSlice::new(head), IoSlice::new(&self.data), IoSlice::new(self.tail)];
                io.poll_write_vectored(cx, &slices)
            };
            match written {
                Poll::Ready(Ok(count)) => self.advance(count),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        self.release();
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut count: usize) {
        self.progress = true;
        self.written += count as u64;
        let of_buffer = count.min(self.buffer.len() - self.sent);
        self.sent += of_buffer;
        count -= of_buffer;
        let of_data = count.min(self.data.len());
        self.data.advance(of_data);
        self.tail = &self.tail[count - of_data..];
    }

    fn release(&mut self) {
        self.sent = 0;
        self.data = Bytes::new();
        let mut buffer = std::mem::take(&mut self.buffer);
        if (1..=SPARE_SIZE).contains(&buffer.capacity()) {
            buffer.clear();
            SPARE.with_borrow_mut(|spare| {
                if spare.len() < SPARE_COUNT {
                    spare.push(buffer);
                }
            });
        }
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.release();
    }
}

fn push_hex(buffer: &mut Vec<u8>, number: usize) {
    let digits = (usize::BITS - number.leading_zeros()).div_ceil(4).max(1);
    buffer.extend((0..digits).rev().map(|digit| b"0123456789abcdef"[number >> (digit * 4) & 15]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_in_hexadecimal() {
        for number in [0, 1, 9, 10, 15, 16, 255, 256, 65_535, 65_536, usize::MAX] {
            let mut buffer = Vec::new();
            push_hex(&mut buffer, number);
            assert_eq!(String::from_utf8(buffer).unwrap(), format!("{number:x}"));
        }
    }

    #[test]
    fn partial_writes_lose_and_repeat_nothing() {
        for size in [10, COPY_MAX + 10] {
            let mut outgoing = Outgoing::default();
            outgoing.buffer().extend_from_slice(b"head ");
            outgoing.push_chunk(Bytes::from(vec![b'x'; size]));
            let mut wire = Vec::new();
            while !outgoing.is_empty() {
                let all = [&outgoing.buffer[outgoing.sent..], &outgoing.data, outgoing.tail].concat();
                let take = all.len().min(3);
                wire.extend_from_slice(&all[..take]);
                outgoing.advance(take);
            }
            assert_eq!(wire, [format!("head {size:x}\r\n").as_bytes(), &vec![b'x'; size], b"\r\n"].concat());
        }
    }
}
