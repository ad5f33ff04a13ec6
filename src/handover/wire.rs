//! The socket between the two processes: frames of JSON, each behind its length, and file descriptors (SCM_RIGHTS).
//!
//! Blocking, with a deadline for every wait: the old process uses it on a thread of its own, the new one has nothing else to
//! do. What the messages mean is not known here.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes of a message: the state of ten thousand targets has some MiB.
const FRAME_MAX: usize = 256 << 20;

/// Descriptors in one piece; the kernel takes 253.
const PIECE: usize = 64;

/// See the module's documentation.
pub(super) struct Wire(UnixStream);

impl Wire {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        Ok(Self(stream))
    }

    /// Sends a message.
    pub(super) fn send(&mut self, message: &impl Serialize, limit: Duration) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        let length = u32::try_from(text.len()).map_err(|_| io::Error::other("the message is too large"))?;
        self.0.set_write_timeout(Some(limit))?;
        self.0.write_all(&length.to_be_bytes())?;
        self.0.write_all(&text)
    }

    /// The next message, whole before `deadline`.
    pub(super) fn receive<T: DeserializeOwned>(&mut self, deadline: Instant) -> io::Result<T> {
        let mut length = [0; 4];
        self.fill(&mut length, deadline)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > FRAME_MAX {
            return Err(io::Error::other(format!("a message of {length} bytes is too large")));
        }
        let mut text = vec![0; length];
        self.fill(&mut text, deadline)?;
        Ok(serde_json::from_slice(&text)?)
    }

    fn fill(&mut self, mut into: &mut [u8], deadline: Instant) -> io::Result<()> {
        while !into.is_empty() {
            self.wait_until(deadline)?;
            match self.0.read(into) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => into = &mut into[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn wait_until(&self, deadline: Instant) -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.0.set_read_timeout(Some(left))
    }

    /// Sends descriptors; the other side has to expect them.
    pub(super) fn send_sockets(&mut self, sockets: &[BorrowedFd<'_>], limit: Duration) -> io::Result<()> {
        self.0.set_write_timeout(Some(limit))?;
        for piece in sockets.chunks(PIECE) {
            let raw: Vec<RawFd> = piece.iter().map(|socket| socket.as_raw_fd()).collect();
            let rights = [ControlMessage::ScmRights(&raw)];
            let byte = [IoSlice::new(b"s")];
            sendmsg::<UnixAddr>(self.0.as_raw_fd(), &byte, &rights, MsgFlags::MSG_NOSIGNAL, None)?;
        }
        Ok(())
    }

    /// Receives so many descriptors.
    pub(super) fn receive_sockets(&mut self, count: usize, deadline: Instant) -> io::Result<Vec<OwnedFd>> {
        let mut sockets = Vec::new();
        while sockets.len() < count {
            self.wait_until(deadline)?;
            let mut byte = [0];
            let mut into = [IoSliceMut::new(&mut byte)];
            let mut space = nix::cmsg_space!([RawFd; PIECE]);
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let message = recvmsg::<UnixAddr>(self.0.as_raw_fd(), &mut into, Some(&mut space), flags)?;
            let before = sockets.len();
            for control in message.cmsgs()? {
                if let ControlMessageOwned::ScmRights(rights) = control {
                    // SAFETY: the kernel has just made these descriptors for this process, and nobody else knows them.
                    sockets.extend(rights.into_iter().map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }));
                }
            }
            if sockets.len() == before {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(sockets)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsFd as _;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn messages_and_sockets_arrive_in_their_order() {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut here, mut there) = (Wire::new(here).unwrap(), Wire::new(there).unwrap());
        let listeners: Vec<_> = (0..70).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let sockets: Vec<_> = listeners.iter().map(|listener| listener.as_fd()).collect();
        here.send(&"first", SECOND).unwrap();
        here.send_sockets(&sockets, SECOND).unwrap();
        here.send(&"last", SECOND).unwrap();
        let deadline = Instant::now() + 15 * SECOND;
        assert_eq!(there.receive::<String>(deadline).unwrap(), "first");
        let received = there.receive_sockets(70, deadline).unwrap();
        for (received, sent) in received.into_iter().zip(&listeners) {
            let address = TcpListener::from(received).local_addr().unwrap();
            assert_eq!(address, sent.local_addr().unwrap());
        }
        assert_eq!(there.receive::<String>(deadline).unwrap(), "last");
    }

    #[test]
    fn silence_an_end_and_nonsense_are_errors() {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut here, mut there) = (Wire::new(here).unwrap(), Wire::new(there).unwrap());
        let error = there.receive::<String>(Instant::now() + SECOND / 20).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        here.send(&7, SECOND).unwrap();
        assert!(there.receive::<String>(Instant::now() + 15 * SECOND).is_err());
        here.0.write_all(&[0xff; 4]).unwrap();
        let error = there.receive::<String>(Instant::now() + 15 * SECOND).unwrap_err();
        assert!(error.to_string().contains("too large"), "{error}");
        drop(here);
        let error = there.receive::<String>(Instant::now() + 15 * SECOND).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
