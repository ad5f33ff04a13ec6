//! The socket as `h2` wants it, with somebody who watches what goes over it.
//!
//! `h2` bounds what it keeps; what it only looks at and forgets, such as a flood of PINGs or of streams taken back, it does
//! not count. Here every frame passes by. When a client overdraws an account ([`Ledger`]) nothing more is read, and the
//! connection's own loop, which is told, ends the connection. Also kept here: whether the socket takes what is written.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::{self, Ledger, PREFACE, Scanner};
use crate::pool::{Http2Fault, Refusal};
use crate::proxy::Worker;
use crate::proxy::io::Io;

/// What is seen of a connection.
pub(super) struct Watch {
    worker: &'static Worker,
    ledger: RefCell<Ledger>,
    fault: Cell<Option<Http2Fault>>,
    /// Why h2 has ended the connection.
    ended: Cell<Option<Http2Fault>>,
    /// The socket has not taken all that was written.
    blocked: Cell<bool>,
    /// Something was taken since that was last asked.
    progress: Cell<bool>,
    /// The connection's loop.
    waker: Cell<Option<Waker>>,
}

impl Watch {
    pub(super) fn new(worker: &'static Worker) -> Self {
        Self {
            worker,
            ledger: RefCell::new(Ledger::new(worker.deadlines.coarse_ticks())),
            fault: Cell::new(None),
            ended: Cell::new(None),
            blocked: Cell::new(false),
            progress: Cell::new(false),
            waker: Cell::new(None),
        }
    }

    /// What the client has done too often, if anything; the loop is woken when there is something.
    pub(super) fn poll_fault(&self, cx: &mut Context<'_>) -> Poll<Http2Fault> {
        if let Some(fault) = self.fault.get() {
            return Poll::Ready(fault);
        }
        self.waker.set(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// Why h2 has ended the connection, if it was not in good order.
    pub(super) fn ended(&self) -> Option<Http2Fault> {
        self.ended.get()
    }

    /// Whether the socket takes nothing just now.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.get()
    }

    /// Whether the socket has taken anything since this was last asked.
    pub(super) fn take_progress(&self) -> bool {
        self.progress.take()
    }

    /// A request was answered to its end.
    pub(super) fn answered(&self) {
        self.ledger.borrow_mut().answered();
    }

    /// An answer was given up because the client did not take it.
    pub(super) fn gave_up(&self) {
        let now = self.worker.deadlines.coarse_ticks();
        let fault = self.ledger.borrow_mut().spend(Http2Fault::ShutWindow, now);
        self.note(fault);
    }

    fn note(&self, fault: Option<Http2Fault>) {
        if fault.is_some() && self.fault.get().is_none() {
            self.fault.set(fault);
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }
    }

    fn received(&self, scanner: &mut Scanner, bytes: &[u8]) {
        let now = self.worker.deadlines.coarse_ticks();
        scanner.scan(bytes, |frame, _| {
            let fault = self.ledger.borrow_mut().received(frame, now);
            self.note(fault);
        });
    }

    fn sent(&self, scanner: &mut Scanner, bytes: &[u8]) {
        let now = self.worker.deadlines.coarse_ticks();
        scanner.scan(bytes, |frame, payload| {
            if let Some(fault) = frames::fault_of(frame, payload) {
                self.ended.set(Some(fault));
            }
            if frames::is_malformed(frame) {
                self.worker.lane().refusals[Refusal::Http2Message as usize].bump();
            }
            let fault = self.ledger.borrow_mut().sent(frame, now);
            self.note(fault);
        });
    }
}

/// See the module's documentation.
pub(super) struct Wire {
    io: Rc<Io>,
    watch: Rc<Watch>,
    /// What was read before the protocol was known.
    ahead: BytesMut,
    incoming: Scanner,
    outgoing: Scanner,
}

impl Wire {
    pub(super) fn new(io: Rc<Io>, ahead: BytesMut, watch: Rc<Watch>) -> Self {
        Self { io, watch, ahead, incoming: Scanner::after(PREFACE), outgoing: Scanner::after(0) }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { io, watch, ahead, incoming, .. } = self.get_mut();
        if watch.fault.get().is_some() {
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        if ahead.is_empty() {
            std::task::ready!(io.poll_read_into(cx, buffer))?;
        } else {
            let count = ahead.len().min(buffer.remaining());
            buffer.put_slice(&ahead[..count]);
            ahead.advance(count);
        }
        watch.received(incoming, &buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { io, watch, outgoing, .. } = self.get_mut();
        let written = io.poll_write_vectored(cx, slices);
        watch.blocked.set(written.is_pending());
        if let Poll::Ready(Ok(count)) = written {
            watch.progress.set(true);
            let mut left = count;
            for slice in slices {
                let part = &slice[..slice.len().min(left)];
                watch.sent(outgoing, part);
                left -= part.len();
            }
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_shutdown(cx)
    }
}
