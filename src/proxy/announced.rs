//! Whose a connection is: its peer's, or that of the client which a proxy in front announces.
//!
//! A listed proxy must announce every connection, and nobody else can: from others a header is what any wrong first byte is.
//! Only the header is taken from the socket, so that whatever speaks next (TLS or HTTP) finds its own first byte. What a
//! header says is read in [`super::proxy_protocol`].

use std::future::{Future as _, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::net::TcpStream;

use super::Worker;
use super::listener::Listening;
use super::proxy_protocol::{Decoded, Ends, decode};
use crate::config;
use crate::pool::ProxyHeaderFailure as Fault;

/// What a header is given to arrive when its listener closes.
const LAST_GRACE: Duration = Duration::from_secs(1);
/// Looked at in one go. Nearly all headers are shorter.
const LOOK: usize = 512;

/// The ends of a connection from `peer`; `None` if it should have begun with a header and did not, which has been counted
/// then.
pub(crate) async fn ends(
    worker: &'static Worker,
    listening: &Listening,
    listener: &config::Listener,
    tcp: &TcpStream,
    peer: SocketAddr,
) -> Option<Ends> {
    let own = || Ends::new(peer, tcp.local_addr().unwrap_or(listener.address));
    let Some(rules) = rules(listener, peer.ip().to_canonical()) else { return Some(own()) };
    let deadline = worker.deadlines.register();
    deadline.set(rules.timeout);
    let mut leaving = false;
    let mut reading = pin!(read(tcp));
    let result = poll_fn(|cx| {
        if let Poll::Ready(result) = reading.as_mut().poll(cx) {
            return Poll::Ready(result);
        }
        if listening.leaving().is_some() && !std::mem::replace(&mut leaving, true) {
            deadline.set(LAST_GRACE.min(rules.timeout));
        }
        deadline.poll(cx).map(|_| Err(Fault::Timeout))
    })
    .await;
    match result {
        Ok(announced) => {
            worker.lane().proxy_headers.bump();
            Some(announced.unwrap_or_else(own))
        }
        Err(fault) => {
            worker.lane().proxy_header_failures[fault as usize].bump();
            tracing::debug!(%peer, reason = fault.as_str(), "no PROXY header");
            None
        }
    }
}

/// Whether connections from here begin with a header.
pub(crate) fn announces(listener: &config::Listener, source: IpAddr) -> bool {
    rules(listener, source).is_some()
}

fn rules(listener: &config::Listener, source: IpAddr) -> Option<&config::ProxyProtocol> {
    let rules = listener.proxy_protocol.as_ref()?;
    rules.from.iter().any(|net| net.contains(&source)).then_some(rules)
}

/// Takes a header from the socket, and not a byte more.
async fn read(tcp: &TcpStream) -> Result<Option<Ends>, Fault> {
    let mut header = Vec::new();
    loop {
        let before = header.len();
        header.resize(before + LOOK, 0);
        let seen = tcp.peek(&mut header[before..]).await.map_err(|_| Fault::Closed)?;
        if seen == 0 {
            return Err(Fault::Closed);
        }
        header.truncate(before + seen);
        let (decoded, length) = match decode(&header)? {
            Decoded::Complete { length, ends } => (Some(ends), length),
            // All of it belongs to the header.
            Decoded::Incomplete => (None, header.len()),
        };
        // It is there: it has been seen.
        let taken = tcp.try_read(&mut header[before..length]).map_err(|_| Fault::Closed)?;
        if taken != length - before {
            return Err(Fault::Closed);
        }
        if let Some(ends) = decoded {
            return Ok(ends);
        }
    }
}
