//! A socket that several parts of one connection share: read by the request's body, written by the answer.
//!
//! All methods take `&self` and finish within one poll, so that the cell inside is never borrowed across an await. Knows
//! nothing of HTTP, and has no deadline: who waits brings one. Whether there is TLS below is decided when it is made.

mod h2_io;

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWrite as _, ReadBuf};
use tokio::net::TcpStream;

use super::tls::TlsStream;
pub(crate) use h2_io::{H2Io, Traffic};

/// Least room for a read that shares its buffer with others, and what is allocated at a time for many of them. A message
/// under way holds on to all of that.
pub(crate) const SHARED_READ: usize = 8 * 1024;
const SHARED_ROOM: usize = 16 * 1024;

thread_local! {
    /// Where the next message is read to, behind those that have been read before it.
    static ROOM: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// See the module's documentation.
pub(crate) struct Io(RefCell<Socket>);

/// TLS is behind a pointer so that a plain connection does not pay for its size.
enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

impl Io {
    pub(crate) fn new(tcp: TcpStream) -> Self {
        Self(RefCell::new(Socket::Plain(tcp)))
    }

    /// A connection whose handshake is done.
    pub(crate) fn encrypted(tls: TlsStream) -> Self {
        Self(RefCell::new(Socket::Tls(Box::new(tls))))
    }

    /// Ready when a read would not wait; needs no buffer.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self.0.borrow_mut() {
            Socket::Plain(tcp) => tcp.poll_read_ready(cx),
            Socket::Tls(tls) => tls.poll_readable(cx),
        }
    }

    /// Reads into the spare room of `buffer`, which must have some. 0 is the end of the stream.
    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        debug_assert!(buffer.capacity() > buffer.len());
        match &mut *self.0.borrow_mut() {
            Socket::Plain(tcp) => pin!(tcp.read_buf(buffer)).poll(cx),
            Socket::Tls(tls) => tls.poll_read(cx, buffer),
        }
    }

    /// As [`Io::poll_read`], into memory that somebody else has made room in. Nothing read is the end of the stream.
    pub(crate) fn poll_read_into(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self.0.borrow_mut() {
            Socket::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Socket::Tls(tls) => tls.poll_read_into(cx, buffer),
        }
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
        let mut socket = self.0.borrow_mut();
        let tcp = match &mut *socket {
            Socket::Plain(tcp) => tcp,
            Socket::Tls(tls) => return tls.poll_write_vectored(cx, &[IoSlice::new(bytes)]),
        };
        // Nearly always there is room, and then nobody needs to be woken.
        match tcp.try_write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Pin::new(tcp).poll_write(cx, bytes).map(never_zero)
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
        match &mut *self.0.borrow_mut() {
            Socket::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices).map(never_zero),
            Socket::Tls(tls) => tls.poll_write_vectored(cx, slices),
        }
    }

    /// Says that nothing more will be written.
    pub(crate) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self.0.borrow_mut() {
            Socket::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Socket::Tls(tls) => tls.poll_shutdown(cx),
        }
    }

    /// Before a close that cuts nothing off: tells the peer so, where closing the socket does not. Does not wait.
    pub(crate) fn say_goodbye(&self) {
        if let Socket::Tls(tls) = &mut *self.0.borrow_mut() {
            tls.say_goodbye();
        }
    }

    /// Bytes that the wire has taken so far, where those are others than the ones that were written.
    pub(crate) fn wire_bytes(&self) -> Option<u64> {
        match &*self.0.borrow() {
            Socket::Plain(_) => None,
            Socket::Tls(tls) => Some(tls.written()),
        }
    }

    /// Whether the connection is open and has said nothing since it was last read. Does not wait, and makes no system
    /// call unless the kernel has reported something.
    pub(crate) fn is_quiet(&self) -> bool {
        let silence = match &mut *self.0.borrow_mut() {
            Socket::Plain(tcp) => tcp.try_read(&mut [0]),
            Socket::Tls(tls) => return tls.is_quiet(),
        };
        matches!(silence, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Makes closing the socket a reset instead of an orderly end, so that the peer takes nothing for complete.
    pub(crate) fn reset_on_close(&self) {
        // Best effort: if it fails the peer still sees that the length it was promised did not arrive.
        self.with_socket(|tcp| {
            let _ = socket2::SockRef::from(tcp).set_linger(Some(std::time::Duration::ZERO));
        });
    }

    /// The socket itself, for questions to the kernel.
    pub(crate) fn with_socket<T>(&self, ask: impl FnOnce(&TcpStream) -> T) -> T {
        match &*self.0.borrow() {
            Socket::Plain(tcp) => ask(tcp),
            Socket::Tls(tls) => ask(tls.tcp()),
        }
    }
}

fn never_zero(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        other => other,
    }
}
