//! What a connection holds of answers that its client has not taken: counted, and bounded.
//!
//! A client may open many streams and keep their windows shut, or not read from the socket at all. Each piece of an answer is
//! counted from the moment it was read until the wire has it, whoever holds it in between (a stream, or `h2`'s queue): the
//! piece itself gives back when it is dropped. While there is too much, nobody of this connection reads from a target.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};

/// The account of one connection.
pub(super) struct Held {
    bytes: Cell<usize>,
    most: usize,
    waiting: RefCell<Vec<Waker>>,
}

impl Held {
    pub(super) fn new(most: usize) -> Rc<Self> {
        Rc::new(Self { bytes: Cell::new(0), most, waiting: RefCell::default() })
    }

    /// Ready when another piece may be read.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.bytes.get() < self.most {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.borrow_mut();
        // One entry for each stream, however often it asks.
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Counts a piece.
    pub(super) fn take(self: &Rc<Self>, bytes: Bytes) -> Piece {
        self.bytes.set(self.bytes.get() + bytes.len());
        Piece { counted: bytes.len(), bytes, held: self.clone() }
    }

    fn give_back(&self, count: usize) {
        self.bytes.set(self.bytes.get() - count);
        if self.bytes.get() < self.most {
            self.waiting.take().into_iter().for_each(Waker::wake);
        }
    }
}

/// A piece of an answer, counted until it is dropped.
pub(super) struct Piece {
    bytes: Bytes,
    counted: usize,
    held: Rc<Held>,
}

impl Piece {
    /// The first `count` bytes; the rest stays here.
    pub(super) fn split_to(&mut self, count: usize) -> Self {
        self.counted -= count;
        Self { bytes: self.bytes.split_to(count), counted: count, held: self.held.clone() }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.held.give_back(self.counted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl std::task::Wake for Nobody {
        fn wake(self: std::sync::Arc<Self>) {}
    }

    #[test]
    fn pieces_count_until_they_are_gone() {
        let held = Held::new(10);
        let waker = Waker::from(std::sync::Arc::new(Nobody));
        let mut cx = Context::from_waker(&waker);
        let mut piece = held.take(Bytes::from_static(b"0123456789"));
        assert!(held.poll_room(&mut cx).is_pending() && held.poll_room(&mut cx).is_pending());
        assert_eq!(held.waiting.borrow().len(), 1);
        let mut first = piece.split_to(4);
        first.advance(2);
        assert_eq!((held.bytes.get(), first.chunk(), piece.remaining()), (10, &b"23"[..], 6));
        drop(first);
        assert!(held.poll_room(&mut cx).is_ready() && held.waiting.borrow().is_empty());
        drop(piece);
        assert_eq!(held.bytes.get(), 0);
    }
}
