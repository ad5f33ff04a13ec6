//! TLS at a listener: from an accepted connection to one that speaks HTTP and whose client is known.
//!
//! A handshake has a deadline, and a worker does only so many at a time. What is configured (see `config::tls`) becomes
//! rustls' form once for all workers, with each configuration; connections that are open keep what they began with. What
//! serves a connection from then on is decided by the listener.

mod identity;
mod names;
mod stream;
mod tickets;

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustls::server::{NoServerSessionStorage, ServerConfig, ServerConnection};
use rustls::{Connection, HandshakeKind, PeerIncompatible, ProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

pub(crate) use identity::{FAMILY, Identity};
pub(crate) use stream::TlsStream;

use super::Worker;
use super::listener::Listening;
use crate::config::tls::{ClientCertificates, ListenerTls, provider};
use crate::config::{KeyRing, Protocol};
use crate::pool::{HandshakeFailure, Managed, TlsLane};
use crate::telemetry::access_log::Tls;

/// What handshakes are given to end when their listener closes.
const LAST_GRACE: Duration = Duration::from_secs(1);
/// How long, and for how many reads, a client is listened to after it was told what is wrong.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_READS: usize = 64;

const PLAIN_HTTP: &str = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 63\r\n\
     Connection: close\r\n\r\nThis address speaks HTTPS: ask it for https:// instead of http\n";

/// What an authority speaks that wants the proof that a name leads here, and nothing else (RFC 8737).
const ACME_TLS: &[u8] = b"acme-tls/1";

/// The form that rustls wants of a listener's TLS.
pub(crate) fn server_config(
    tls: &ListenerTls,
    protocols: &[Protocol],
    ring: &Arc<KeyRing>,
    managed: &Arc<Managed>,
) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(provider().clone())
        .with_protocol_versions(tls.min_version.versions())
        .unwrap_or_else(|error| unreachable!("the provider speaks every version: {error}"));
    let (builder, clients) = match &tls.clients {
        ClientCertificates::Off => (builder.with_no_client_auth(), Vec::new()),
        ClientCertificates::Request(authority) => {
            let clients = [&b"request"[..], &authority.digest.to_be_bytes()].concat();
            (builder.with_client_cert_verifier(authority.verifier.clone()), clients)
        }
        ClientCertificates::Require(authority) => {
            let clients = [&b"require"[..], &authority.digest.to_be_bytes()].concat();
            (builder.with_client_cert_verifier(authority.verifier.clone()), clients)
        }
    };
    let names = names::Names::new(&tls.certificates, tls.acme.then(|| managed.clone()));
    let mut config = builder.with_cert_resolver(Arc::new(names));
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_str().into()).collect();
    if tls.acme {
        config.alpn_protocols.push(ACME_TLS.to_vec());
    }
    // The provider's order, the strongest first, whatever a client prefers.
    config.ignore_client_order = true;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    if tls.tickets {
        config.ticketer = Arc::new(tickets::Tickets::new(ring.clone(), clients));
    } else {
        config.send_tls13_tickets = 0;
    }
    Arc::new(config)
}

/// A listener's TLS as one worker has it.
pub(crate) struct Acceptor {
    config: Arc<ServerConfig>,
    timeout: Duration,
    /// Whether clients are asked for certificates.
    asks: bool,
    /// Places for handshakes.
    places: Semaphore,
}

/// A connection after its handshake.
pub(crate) struct Accepted {
    pub(crate) stream: TlsStream,
    /// What was agreed on; `None` if the client does not say what it speaks.
    pub(crate) protocol: Option<Protocol>,
    /// What it is encrypted with.
    pub(crate) version: Tls,
    /// What is known of the client, if it was asked.
    pub(crate) identity: Option<Rc<Identity>>,
}

impl Acceptor {
    pub(crate) fn new(config: Arc<ServerConfig>, tls: &ListenerTls) -> Self {
        let asks = !matches!(tls.clients, ClientCertificates::Off);
        let places = Semaphore::new(tls.max_handshakes);
        Self { config, timeout: tls.handshake_timeout, asks, places }
    }

    /// Shakes hands; `None` if that fails, which has been counted and told to the client then.
    pub(crate) async fn accept(
        &self,
        worker: &'static Worker,
        listening: &Listening,
        tcp: TcpStream,
    ) -> Option<Accepted> {
        let lane = &worker.lane().tls;
        let deadline = worker.deadlines.register();
        deadline.set(self.timeout);
        let mut leaving = false;
        let mut shaking = pin!(self.shake_hands(worker, tcp));
        let result = poll_fn(|cx| {
            if let Poll::Ready(result) = shaking.as_mut().poll(cx) {
                return Poll::Ready(Some(result));
            }
            if listening.leaving().is_some() && !std::mem::replace(&mut leaving, true) {
                deadline.set(LAST_GRACE.min(self.timeout));
            }
            deadline.poll(cx).map(|_| None)
        })
        .await;
        let (failure, tcp) = match result {
            Some(Ok(mut stream)) => {
                if stream.session().alpn_protocol() == Some(ACME_TLS) {
                    // It has seen what it wanted to see.
                    stream.say_goodbye();
                    return None;
                }
                let session = stream.session();
                let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
                let newest = session.protocol_version() == Some(ProtocolVersion::TLSv1_3);
                lane.handshakes[usize::from(newest)][usize::from(resumed)].bump();
                let identity = self.asks.then(|| Rc::new(Identity::of(session)));
                let version = if newest { Tls::Tls13 } else { Tls::Tls12 };
                return Some(Accepted { protocol: agreed(session), version, identity, stream });
            }
            Some(Err((failure, tcp))) => (failure, tcp),
            None => (HandshakeFailure::Timeout, None),
        };
        lane.failures[failure as usize].bump();
        tracing::debug!(reason = failure.as_str(), "no handshake");
        if let Some(tcp) = tcp {
            let _ = deadline.limit(LINGER, end(tcp)).await;
        }
        None
    }

    async fn shake_hands(
        &self,
        worker: &'static Worker,
        tcp: TcpStream,
    ) -> Result<TlsStream, (HandshakeFailure, Option<TcpStream>)> {
        // Who says nothing takes no place.
        let tcp = match first_byte(tcp).await {
            Some((tcp, byte)) if byte.is_ascii_uppercase() => {
                // What does not fit into an empty socket is not worth a wait.
                let _ = tcp.try_write(PLAIN_HTTP.as_bytes());
                return Err((HandshakeFailure::PlainHttp, Some(tcp)));
            }
            Some((tcp, _)) => tcp,
            None => return Err((HandshakeFailure::Closed, None)),
        };
        // Never closed.
        let _place = self.places.acquire().await;
        let _under_way = UnderWay::count(&worker.lane().tls);
        let session =
            ServerConnection::new(self.config.clone()).map_err(|_| (HandshakeFailure::Violation, None))?;
        let mut stream = TlsStream::new(tcp, session.into());
        match poll_fn(|cx| stream.poll_handshake(cx)).await {
            Ok(()) => Ok(stream),
            Err(_) => match stream.fault().map(reason) {
                Some(reason) => Err((reason, Some(stream.into_tcp()))),
                None => Err((HandshakeFailure::Closed, None)),
            },
        }
    }
}

fn agreed(session: &Connection) -> Option<Protocol> {
    let name = session.alpn_protocol()?;
    Protocol::ALL.into_iter().find(|protocol| protocol.as_str().as_bytes() == name)
}

/// Waits for a client's first byte, and leaves it where it is; `None` when it leaves without one.
async fn first_byte(tcp: TcpStream) -> Option<(TcpStream, u8)> {
    let mut byte = [0];
    let peeked = poll_fn(|cx| tcp.poll_peek(cx, &mut ReadBuf::new(&mut byte))).await;
    peeked.is_ok_and(|count| count > 0).then_some((tcp, byte[0]))
}

/// Lets the client read why it failed: closing a socket with unread input would take it back.
async fn end(mut tcp: TcpStream) {
    let _ = tcp.shutdown().await;
    let mut scrap = [0; 1024];
    for _ in 0..LINGER_READS {
        if !tcp.read(&mut scrap).await.is_ok_and(|count| count > 0) {
            return;
        }
    }
}

/// What became of a handshake, by what rustls says.
fn reason(fault: &rustls::Error) -> HandshakeFailure {
    use rustls::Error as E;
    match fault {
        E::InvalidMessage(_) => HandshakeFailure::NotTls,
        E::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::SupportedVersionsExtensionRequired,
        ) => HandshakeFailure::Version,
        E::PeerIncompatible(_) => HandshakeFailure::NothingInCommon,
        E::NoApplicationProtocol => HandshakeFailure::Protocol,
        E::NoCertificatesPresented | E::InvalidCertificate(_) => HandshakeFailure::Certificate,
        E::AlertReceived(_) => HandshakeFailure::Alert,
        _ => HandshakeFailure::Violation,
    }
}

/// Counts a handshake as under way.
struct UnderWay<'a>(&'a TlsLane);

impl<'a> UnderWay<'a> {
    fn count(lane: &'a TlsLane) -> Self {
        lane.under_way.bump();
        Self(lane)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.drop_one();
    }
}
