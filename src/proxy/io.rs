//! A socket that several parts of one connection share: read by the request's body, written by the answer.
//!
//! All methods take `&self` and finish within one poll, so that the cell inside is never borrowed across an await. Knows
//! nothing of HTTP, and has no deadline: who waits brings one.

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWrite as _};
use tokio::net::TcpStream;

/// Least room for a read that shares its buffer with others, and what is allocated at a time for many of them. A message
/// under way holds on to all of that.
pub(crate) const SHARED_READ: usize = 8 * 1024;
const SHARED_ROOM: usize = 16 * 1024;

thread_local! {
    /// Where the next message is read to, behind those that have been read before it.
    static ROOM: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// See the module's documentation.
pub(crate) struct Io(RefCell<TcpStream>);

impl Io {
    pub(crate) fn new(tcp: TcpStream) -> Self {
        Self(RefCell::new(tcp))
    }

    /// Ready when a read would not wait; needs no buffer.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow().poll_read_ready(cx)
    }

    /// Reads into the spare room of `buffer`, which must have some. 0 is the end of the stream.
    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        debug_assert!(buffer.capacity() > buffer.len());
        let mut tcp = self.0.borrow_mut();
        pin!(tcp.read_buf(buffer)).poll(cx)
    }

    /// Reads once, behind what is in `input`. Waits without a buffer. With `room` for no more than a head and nothing
    /// before it, what comes is read into a buffer that this thread's connections share: no allocation for each.
    pub(crate) fn poll_fill(
        &self,
        cx: &mut Context<'_>,
        input: &mut BytesMut,
        room: usize,
    ) -> Poll<io::Result<usize>> {
        if input.is_empty() && room <= SHARED_READ {
            *input = BytesMut::new();
            return ROOM.with_borrow_mut(|shared| {
                if shared.capacity() < SHARED_READ {
                    shared.reserve(SHARED_ROOM);
                }
                let count = ready!(self.poll_read(cx, shared))?;
                if count > 0 {
                    *input = shared.split();
                }
                Poll::Ready(Ok(count))
            });
        }
        if input.is_empty() && input.capacity() < room / 2 {
            ready!(self.poll_readable(cx))?;
        }
        if input.capacity() - input.len() < room / 2 {
            input.reserve(room);
        }
        self.poll_read(cx, input)
    }

    /// Writes some of `bytes`.
    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut tcp = self.0.borrow_mut();
        // Nearly always there is room, and then nobody needs to be woken.
        match tcp.try_write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Pin::new(&mut *tcp).poll_write(cx, bytes).map(never_zero)
            }
            written => Poll::Ready(never_zero(written)),
        }
    }

    /// Writes some of `slices`, in order.
    pub(crate) fn poll_write_vectored(
        &self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write_vectored(cx, slices).map(never_zero)
    }

    /// Says that nothing more will be written.
    pub(crate) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_shutdown(cx)
    }

    /// Whether the connection is open and has said nothing since it was last read. Does not wait, and makes no system
    /// call unless the kernel has reported something.
    pub(crate) fn is_quiet(&self) -> bool {
        let silence = self.0.borrow().try_read(&mut [0]);
        matches!(silence, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Makes closing the socket a reset instead of an orderly end, so that the peer takes nothing for complete.
    pub(crate) fn reset_on_close(&self) {
        // Best effort: if it fails the peer still sees that the length it was promised did not arrive.
        let _ = socket2::SockRef::from(&*self.0.borrow()).set_linger(Some(std::time::Duration::ZERO));
    }

    /// The socket itself, for questions to the kernel.
    pub(crate) fn with_socket<T>(&self, ask: impl FnOnce(&TcpStream) -> T) -> T {
        ask(&self.0.borrow())
    }
}

fn never_zero(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        other => other,
    }
}
