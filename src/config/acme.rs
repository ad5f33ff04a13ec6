//! Certificates that a node obtains by itself, as configured: from whom, for which names, and how it proves that they are its
//! own. What is done with this is in `control::acme`.

use std::path::PathBuf;
use std::time::Duration;

/// `[acme]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acme {
    /// Address of the authority's directory.
    pub directory: Box<str>,
    /// Addresses that the authority may write to, such as `mailto:ops@myclothes.test`.
    pub contacts: Vec<String>,
    /// How the node proves that a name leads to it. Default TLS-ALPN-01.
    pub challenge: Challenge,
    /// Folder for the account and the certificates.
    pub storage: PathBuf,
    /// File of the certificate that signs the directory's own; `None` for the system's authorities.
    pub ca: Option<PathBuf>,
    /// Wait after the first failure; doubled after each further one, up to 6 h. Default 1 min.
    pub retry: Duration,
    /// Account at the authority that the node's account is bound to, where the authority wants that.
    pub external_account: Option<ExternalAccount>,
    /// What to obtain: the names of one certificate each, lower case, never empty.
    pub certificates: Vec<Vec<Box<str>>>,
}

/// How the node proves that a name leads to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Challenge {
    /// A file at port 80 (RFC 8555 §8.3).
    Http01,
    /// A certificate at port 443 (RFC 8737).
    TlsAlpn01,
}

/// An account that exists at the authority already (RFC 8555 §7.3.4).
#[derive(Clone, PartialEq, Eq)]
pub struct ExternalAccount {
    /// Its number.
    pub key_id: String,
    /// Its secret.
    pub hmac_key: Vec<u8>,
}

impl std::fmt::Debug for ExternalAccount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ExternalAccount({})", self.key_id)
    }
}
