//! Certificates that the node obtains by itself, and the proofs that its names lead to it: written by the control plane, read by
//! workers at handshakes and at the path of HTTP-01.
//!
//! No reload is needed when one comes: the next handshake finds it. There is at most one writer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use arc_swap::ArcSwap;
use bytes::Bytes;
use foldhash::HashMap;
use rustls::sign::CertifiedKey;

/// Where authorities look for the proof of HTTP-01.
const WELL_KNOWN: &str = "/.well-known/acme-challenge/";

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Managed {
    held: ArcSwap<Held>,
    /// Whether there is any proof at [`WELL_KNOWN`]: spares requests the look.
    proves_by_http: AtomicBool,
}

/// What there is at some moment.
#[derive(Debug, Default, Clone)]
pub struct Held {
    /// By each of their names, in lower case.
    pub certificates: HashMap<Box<str>, Arc<CertifiedKey>>,
    /// For clients that ask for no name.
    pub default: Option<Arc<CertifiedKey>>,
    /// What proves a name to who speaks `acme-tls/1`, by the name.
    pub tls_proofs: HashMap<Box<str>, Arc<CertifiedKey>>,
    /// What proves a name at [`WELL_KNOWN`], by the token.
    pub http_proofs: HashMap<Box<str>, Bytes>,
}

impl Managed {
    /// Changes what there is.
    pub fn change(&self, change: impl FnOnce(&mut Held)) {
        let mut held = Held::clone(&self.held.load());
        change(&mut held);
        self.proves_by_http.store(!held.http_proofs.is_empty(), Relaxed);
        self.held.store(Arc::new(held));
    }

    /// The certificate for a name in lower case, or for none.
    pub fn certificate(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let held = self.held.load();
        match name {
            Some(name) => held.certificates.get(name).cloned(),
            None => held.default.clone(),
        }
    }

    /// What proves a name, in lower case, to who speaks `acme-tls/1`.
    pub fn tls_proof(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.held.load().tls_proofs.get(name).cloned()
    }

    /// What proves a name at this path.
    pub fn http_proof(&self, path: &str) -> Option<Bytes> {
        if !self.proves_by_http.load(Relaxed) {
            return None;
        }
        self.held.load().http_proofs.get(path.strip_prefix(WELL_KNOWN)?).cloned()
    }
}
