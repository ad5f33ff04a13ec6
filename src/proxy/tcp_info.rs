//! What the kernel knows about a TCP connection: how much of what we sent has arrived.
//!
//! `struct tcp_info` is only ever extended at its end, so the offset of a field never changes; the kernel says how much
//! of it it filled in.

use std::os::fd::AsRawFd as _;

use tokio::net::TcpStream;

/// Offset of `tcpi_bytes_acked` (Linux 4.1, RFC 4898 tcpEStatsAppHCThruOctetsAcked).
const BYTES_ACKED: usize = 120;

/// Bytes that the peer's kernel has acknowledged, the connection's SYN included; `None` if the kernel does not say.
///
/// It also answers for a connection that the peer has reset.
pub(crate) fn bytes_acked(socket: &TcpStream) -> Option<u64> {
    let mut info = [0u8; BYTES_ACKED + 8];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the descriptor is open while `socket` is borrowed, `info` is writable for `length` bytes, and the kernel
    // writes at most that many and sets `length` to what it wrote. Any bytes are a valid `[u8; N]`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 || (length as usize) < info.len() {
        return None;
    }
    info[BYTES_ACKED..].try_into().ok().map(u64::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    #[test]
    fn what_arrived_is_counted_and_what_was_refused_is_not() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut peer, _) = listener.accept().unwrap();
            (&stream).write_all(b"12345").unwrap();
            peer.read_exact(&mut [0; 5]).unwrap();
            stream.set_nonblocking(true).unwrap();
            let stream = TcpStream::from_std(stream).unwrap();
            let before = bytes_acked(&stream).unwrap();
            assert!((5..=6).contains(&before), "{before}");
            // A peer that is gone refuses the next bytes with a reset: they are never acknowledged.
            drop(peer);
            stream.writable().await.unwrap();
            assert_eq!(stream.try_write(b"67890").unwrap(), 5);
            stream.readable().await.unwrap();
            assert_eq!(bytes_acked(&stream).unwrap(), before);
        });
    }
}
