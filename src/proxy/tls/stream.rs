//! TLS on a socket, polled as a plain one is: bytes of HTTP go in and out, records go over the wire.
//!
//! The one thing that isn't obvious: a write is answered when the wire has taken all of it, not when it has been sealed. Until
//! then it is pending, and whoever tries again has to begin with the same bytes. So nothing else has to be flushed, and
//! what the peer has taken is known as exactly as without TLS. An end of the stream without close_notify is an error, so
//! that nothing cut off looks complete. Holds no buffer of its own; rustls keeps 4 KiB for a connection that has read.

use std::io::{self, BufRead as _, ErrorKind, IoSlice, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use rustls::Connection;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::TcpStream;

/// Bytes that are sealed at a time, and then go to the wire in one system call.
const CHUNK: usize = 32 * 1024;
/// Bytes taken from the wire at a time where the body of a message is read. Smaller reads are rustls' own.
const WIRE_READ: usize = 32 * 1024;

/// See the module's documentation.
pub(crate) struct TlsStream {
    tcp: TcpStream,
    session: Connection,
    /// Of the write that is pending, bytes that have been sealed.
    accepted: usize,
    /// Bytes that the wire has taken, handshake included.
    written: u64,
    said_goodbye: bool,
    /// What the peer did wrong: nothing is read after that.
    broken: Option<rustls::Error>,
}

impl TlsStream {
    pub(crate) fn new(tcp: TcpStream, mut session: Connection) -> Self {
        session.set_buffer_limit(Some(CHUNK));
        Self { tcp, session, accepted: 0, written: 0, said_goodbye: false, broken: None }
    }

    /// Ready when both sides have agreed on keys.
    pub(crate) fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.session.is_handshaking() {
            self.not_broken()?;
            if self.session.wants_write() {
                ready!(self.poll_send(cx))?;
                continue;
            }
            if ready!(self.poll_receive(cx))? == 0 {
                return Poll::Ready(Err(ErrorKind::UnexpectedEof.into()));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// What the peer did wrong.
    pub(crate) fn fault(&self) -> Option<&rustls::Error> {
        self.broken.as_ref()
    }

    /// What was agreed on.
    pub(crate) fn session(&self) -> &Connection {
        &self.session
    }

    /// The socket alone, for an end without TLS.
    pub(crate) fn into_tcp(self) -> TcpStream {
        self.tcp
    }

    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Bytes that the wire has taken.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Ready when a read would not wait: for bytes, the end, or an error.
    pub(crate) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.session.reader().fill_buf() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // An end is for the read to report.
                _ => return Poll::Ready(Ok(())),
            }
            ready!(self.poll_receive(cx))?;
        }
    }

    /// Reads into the spare room of `buffer`, and beyond it by a record or two if there is room for much. 0 is the end that
    /// the peer has announced.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        loop {
            let room = buffer.capacity() - buffer.len();
            match self.take(buffer, room) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                taken => return Poll::Ready(taken),
            }
            if room < WIRE_READ {
                ready!(self.poll_receive(cx))?;
                continue;
            }
            let before = buffer.len();
            ready!(self.poll_receive_much(cx, buffer))?;
            if buffer.len() > before {
                return Poll::Ready(Ok(buffer.len() - before));
            }
        }
    }

    /// Reads what has been opened, as much as there is room for. Nothing is the end that the peer has announced.
    pub(crate) fn poll_read_into(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut reader = self.session.reader();
            match reader.fill_buf() {
                Ok(chunk) => {
                    let count = chunk.len().min(buffer.remaining());
                    buffer.put_slice(&chunk[..count]);
                    reader.consume(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            ready!(self.poll_receive(cx))?;
        }
    }

    /// Moves at most `most` bytes of what has been opened to `buffer`; `WouldBlock` when there is nothing.
    fn take(&mut self, buffer: &mut BytesMut, most: usize) -> io::Result<usize> {
        let mut taken = 0;
        loop {
            let mut reader = self.session.reader();
            let chunk = match reader.fill_buf() {
                Ok(chunk) => chunk,
                Err(_) if taken > 0 => return Ok(taken),
                Err(error) => return Err(error),
            };
            let count = chunk.len().min(most - taken);
            if count == 0 {
                return Ok(taken);
            }
            buffer.extend_from_slice(&chunk[..count]);
            reader.consume(count);
            taken += count;
        }
    }

    /// Takes a little from the wire; 0 at its end.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.not_broken()?;
        let received = self.session.read_tls(&mut Wire { tcp: &mut self.tcp, cx });
        match received {
            Ok(count) => {
                self.process();
                Poll::Ready(self.tell_if_broken(cx).map(|()| count))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(cx),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Takes much from the wire, and moves it to `buffer` record by record: one system call for several records.
    fn poll_receive_much(&mut self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<()>> {
        self.not_broken()?;
        let mut wire = [std::mem::MaybeUninit::uninit(); WIRE_READ];
        let mut wire = ReadBuf::uninit(&mut wire);
        match Pin::new(&mut self.tcp).poll_read(cx, &mut wire) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return self.wait(cx),
        }
        let before = buffer.len();
        let mut rest = wire.filled();
        loop {
            // Nothing is the end of the wire: that is how rustls hears of it.
            let count = self.session.read_tls(&mut rest)?;
            self.process();
            // An end is reported by the next read.
            let _ = self.take(buffer, usize::MAX);
            if rest.is_empty() || count == 0 || self.broken.is_some() {
                break;
            }
        }
        // What came before the fault is still the reader's.
        let told = self.tell_if_broken(cx);
        Poll::Ready(if buffer.len() > before { Ok(()) } else { told })
    }

    /// Nothing has come. Tickets and the like, which go with the next write, go now: there may be none.
    fn wait<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if self.session.wants_write() && self.accepted == 0 {
            let _ = self.poll_send(cx);
        }
        Poll::Pending
    }

    /// Opens what was received.
    fn process(&mut self) {
        if self.broken.is_none() {
            self.broken = self.session.process_new_packets().err();
        }
    }

    fn not_broken(&self) -> io::Result<()> {
        match &self.broken {
            Some(error) => Err(io::Error::new(ErrorKind::InvalidData, error.clone())),
            None => Ok(()),
        }
    }

    /// Sends the alert that says what is wrong, if something is.
    fn tell_if_broken(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.broken.is_some() {
            let _ = self.poll_send(cx);
        }
        self.not_broken()
    }

    /// Writes some of `slices`, in order.
    pub(crate) fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.accepted == 0 {
            self.accepted = self.session.writer().write_vectored(slices)?;
            if self.accepted == 0 {
                // Full of what is not ours to count.
                ready!(self.poll_send(cx))?;
                self.accepted = self.session.writer().write_vectored(slices)?;
            }
        }
        ready!(self.poll_send(cx))?;
        match std::mem::take(&mut self.accepted) {
            0 => Poll::Ready(Err(ErrorKind::WriteZero.into())),
            count => Poll::Ready(Ok(count)),
        }
    }

    /// Says that nothing more will be written: close_notify, then the end of the stream.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.goodbye();
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }

    /// Tells the peer that the end which is about to come is meant, if that can be done without waiting.
    pub(crate) fn say_goodbye(&mut self) {
        if !self.session.is_handshaking() && self.accepted == 0 {
            self.goodbye();
            let _ = self.session.write_tls(&mut Now(&self.tcp));
        }
    }

    fn goodbye(&mut self) {
        if !std::mem::replace(&mut self.said_goodbye, true) {
            self.session.send_close_notify();
        }
    }

    /// Whether the connection is open and has said nothing to HTTP. Tickets and the like are taken in.
    pub(crate) fn is_quiet(&mut self) -> bool {
        loop {
            match self.session.reader().fill_buf() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                _ => return false,
            }
            match self.session.read_tls(&mut Now(&self.tcp)) {
                Ok(_) => self.process(),
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
            if self.broken.is_some() {
                return false;
            }
        }
    }

    /// Gives the wire all that is sealed.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut Wire { tcp: &mut self.tcp, cx }) {
                Ok(0) => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                Ok(count) => self.written += count as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// The socket as rustls wants it: `WouldBlock` when somebody will be woken.
struct Wire<'a, 'b, 'c> {
    tcp: &'a mut TcpStream,
    cx: &'b mut Context<'c>,
}

impl Read for Wire<'_, '_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(buffer);
        match Pin::new(&mut *self.tcp).poll_read(self.cx, &mut buffer) {
            Poll::Ready(result) => result.map(|()| buffer.filled().len()),
            Poll::Pending => Err(ErrorKind::WouldBlock.into()),
        }
    }
}

impl Write for Wire<'_, '_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match Pin::new(&mut *self.tcp).poll_write(self.cx, bytes) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(ErrorKind::WouldBlock.into()),
        }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match Pin::new(&mut *self.tcp).poll_write_vectored(self.cx, slices) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The socket at this moment: `WouldBlock` without anybody being woken.
struct Now<'a>(&'a TcpStream);

impl Read for Now<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Now<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
