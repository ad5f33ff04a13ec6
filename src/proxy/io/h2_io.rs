//! A socket as the `h2` crate wants it: tokio's traits over an [`Io`] that others may still ask questions of.
//!
//! Not obvious: it reads in large pieces into room that the thread's connections share, and hands them on in the small
//! ones that `h2` asks for, so that a large body costs a system call for 32 KiB (with TLS, for several records) and an
//! idle connection holds no buffer. Writes need no such thing: `h2` tries again with the same bytes first, as [`Io`] wants.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Io;

/// Bytes asked of the wire at a time.
const READ: usize = 32 * 1024;

thread_local! {
    static ROOM: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// See the module's documentation.
pub(crate) struct H2Io {
    io: Rc<Io>,
    /// Read from the wire, and not yet asked for.
    ahead: Bytes,
    traffic: Rc<Traffic>,
}

/// What has gone over a connection so far, for those who have given the connection away.
#[derive(Default)]
pub(crate) struct Traffic {
    /// Bytes read.
    pub(crate) read: Cell<u64>,
    /// Bytes written, before encryption.
    pub(crate) written: Cell<u64>,
    /// The peer has ended the stream in an orderly way.
    pub(crate) ended: Cell<bool>,
}

impl H2Io {
    pub(crate) fn new(io: Rc<Io>) -> Self {
        Self { io, ahead: Bytes::new(), traffic: Rc::default() }
    }

    /// Goes on counting after this has been given away.
    pub(crate) fn traffic(&self) -> Rc<Traffic> {
        self.traffic.clone()
    }

    fn count_written(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = &result {
            self.traffic.written.update(|written| written + *count as u64);
        }
        result
    }
}

impl AsyncRead for H2Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let count = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.ahead[..count]);
            self.ahead.advance(count);
            if self.ahead.is_empty() {
                self.ahead = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        ROOM.with_borrow_mut(|room| {
            room.clear();
            room.reserve(READ);
            match ready!(self.io.poll_read(cx, room))? {
                0 => self.traffic.ended.set(true),
                count => self.traffic.read.update(|read| read + count as u64),
            }
            let count = room.len().min(buffer.remaining());
            buffer.put_slice(&room[..count]);
            if count < room.len() {
                self.ahead = Bytes::copy_from_slice(&room[count..]);
            }
            Poll::Ready(Ok(()))
        })
    }
}

impl AsyncWrite for H2Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.count_written(self.io.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.count_written(self.io.poll_write_vectored(cx, slices))
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn what_is_read_ahead_arrives_in_whatever_pieces_it_is_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut ours = H2Io::new(Rc::new(Io::new(listener.accept().await.unwrap().0)));
        let sent: Vec<u8> = (0..100_000_u32).map(|number| (number % 251) as u8).collect();
        let writing = async {
            peer.write_all(&sent).await.unwrap();
            peer.shutdown().await.unwrap();
        };
        let reading = async {
            let (mut all, mut piece) = (Vec::new(), [0; 777]);
            loop {
                match ours.read(&mut piece).await.unwrap() {
                    0 => return all,
                    count => all.extend_from_slice(&piece[..count]),
                }
            }
        };
        let ((), received) = tokio::join!(writing, reading);
        assert_eq!(received, sent);
    }
}
