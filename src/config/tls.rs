//! TLS as it is configured: certificates with their keys, who may connect, whom to believe. Checked and ready to use.
//!
//! What can be wrong with a certificate or a key is found when these are made, by `compile`: a key that belongs to another
//! certificate never gets here. Which certificate a client is shown is decided in `proxy::tls`.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, SupportedProtocolVersion};

use super::certificate::Facts;

/// TLS of a listener.
#[derive(Debug, Clone)]
pub struct ListenerTls {
    /// By the names that they hold; the first is shown to clients that ask for a name on none. Empty only with `acme`.
    pub certificates: Vec<Certificate>,
    /// Whether certificates that the node obtains by itself are shown too. Default off.
    pub acme: bool,
    /// Oldest version that is spoken. Default 1.2.
    pub min_version: MinVersion,
    /// Whether clients show certificates. Default off.
    pub clients: ClientCertificates,
    /// From the accept to the end of the handshake. Default 10 s.
    pub handshake_timeout: Duration,
    /// Handshakes under way at the same time, in each worker; others wait for one to end. Default 1024.
    pub max_handshakes: usize,
    /// Whether clients get tickets with which they resume a session, at any node with the same session keys. Default on.
    pub tickets: bool,
    /// Value of `Strict-Transport-Security` on answers that do not bring one; `None`, the default, for none.
    pub hsts: Option<http::HeaderValue>,
}

/// A certificate chain and its key.
#[derive(Clone)]
pub struct Certificate {
    /// Chain and key, which belong to each other.
    pub certified: Arc<CertifiedKey>,
    /// What the first certificate of the chain says.
    pub facts: Facts,
    /// File of the chain.
    pub file: PathBuf,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({}, {:?})", self.file.display(), self.facts.names)
    }
}

/// Oldest version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MinVersion {
    /// 1.2 and 1.3.
    Tls12,
    /// 1.3 only.
    Tls13,
}

impl MinVersion {
    /// The versions that are spoken.
    pub fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        const ALL: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
        match self {
            Self::Tls12 => ALL,
            Self::Tls13 => &ALL[..1],
        }
    }
}

/// Whether clients show certificates.
#[derive(Debug, Clone)]
pub enum ClientCertificates {
    /// They are not asked.
    Off,
    /// They are asked, and may have none. One that cannot be verified ends the handshake.
    Request(ClientAuthority),
    /// They are asked, and must have one.
    Require(ClientAuthority),
}

/// Who signs the certificates of clients.
#[derive(Debug, Clone)]
pub struct ClientAuthority {
    /// Verifies them; knows whether there must be one.
    pub verifier: Arc<dyn ClientCertVerifier>,
    /// Digest of the authorities: what was resumed under others is not resumed under these.
    pub digest: u64,
}

/// TLS to the targets of a pool.
#[derive(Clone)]
pub struct UpstreamTls {
    /// Ready to use; offers the protocols that the pool speaks (ALPN).
    pub client: Arc<ClientConfig>,
    /// The same for one protocol only: `http/1.1`, for what HTTP/2 does not carry, and `h2`, for checks that need it.
    pub http1: Arc<ClientConfig>,
    /// See [`UpstreamTls::http1`].
    pub h2: Arc<ClientConfig>,
    /// Sent to the target, and looked for on its certificate; `None` for the target's address, which is not sent.
    pub server_name: Option<ServerName<'static>>,
    /// Digest of all that was configured: connections made under another are not used again.
    pub digest: u64,
}

impl UpstreamTls {
    /// What the target at `address` is called.
    pub fn name_of(&self, address: std::net::SocketAddr) -> ServerName<'static> {
        self.server_name.clone().unwrap_or_else(|| ServerName::IpAddress(address.ip().into()))
    }
}

impl PartialEq for UpstreamTls {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl fmt::Debug for UpstreamTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UpstreamTls({:?}, {:016x})", self.server_name, self.digest)
    }
}

/// The one implementation of cryptography that everything here uses.
pub fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}
