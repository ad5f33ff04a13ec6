//! Which certificate a client is shown: by the name that it asks for, and by what it understands.

use std::borrow::Cow;
use std::sync::Arc;

use foldhash::HashMap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::ACME_TLS;
use crate::config::tls::Certificate;
use crate::pool::Managed;

/// A listener's certificates by name.
#[derive(Debug)]
pub(super) struct Names {
    exact: HashMap<Box<str>, Vec<Arc<CertifiedKey>>>,
    /// By the part behind `*.`, which stands for one label.
    wildcard: HashMap<Box<str>, Vec<Arc<CertifiedKey>>>,
    /// For clients that ask for no name, or for one that is on no certificate.
    default: Vec<Arc<CertifiedKey>>,
    /// Certificates that the node obtains by itself; `None` when this listener does not show them.
    managed: Option<Arc<Managed>>,
}

impl Names {
    /// The first certificate is the default; with others of the same names, for clients that do not understand it.
    pub(super) fn new(certificates: &[Certificate], managed: Option<Arc<Managed>>) -> Self {
        let (exact, wildcard) = (HashMap::default(), HashMap::default());
        let mut names = Self { exact, wildcard, default: Vec::new(), managed };
        for certificate in certificates {
            for name in &certificate.facts.names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(suffix) => (&mut names.wildcard, suffix),
                    None => (&mut names.exact, &**name),
                };
                map.entry(name.into()).or_default().push(certificate.certified.clone());
            }
        }
        if let Some(first) = certificates.first() {
            let alike = certificates.iter().filter(|other| other.facts.names == first.facts.names);
            names.default = alike.map(|certificate| certificate.certified.clone()).collect();
        }
        names
    }

    /// The first of the certificates for a name, which is in lower case, that `understood` takes; or else the first.
    fn find(
        &self,
        name: Option<&str>,
        understood: impl Fn(&&Arc<CertifiedKey>) -> bool,
    ) -> Option<Arc<CertifiedKey>> {
        let best = |all: &[Arc<CertifiedKey>]| all.iter().find(&understood).or(all.first()).cloned();
        let managed = |name| self.managed.as_ref()?.certificate(name);
        let named = name.and_then(|name| {
            let exact = || self.exact.get(name).and_then(|all| best(all));
            let wildcard = || best(self.wildcard.get(name.split_once('.')?.1)?);
            exact().or_else(|| managed(Some(name))).or_else(wildcard)
        });
        named.or_else(|| best(&self.default)).or_else(|| managed(None))
    }

    /// What proves a name to an authority that asks for nothing else, if `hello` is from one.
    fn proof(&self, name: Option<&str>, hello: &ClientHello<'_>) -> Option<Option<Arc<CertifiedKey>>> {
        let managed = self.managed.as_ref()?;
        let mut protocols = hello.alpn()?;
        let asked = protocols.next() == Some(ACME_TLS) && protocols.next().is_none();
        asked.then(|| managed.tls_proof(name?))
    }
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Nearly all clients write names in lower case.
        let name = hello.server_name().map(|name| match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => Cow::Owned(name.to_ascii_lowercase()),
            false => Cow::Borrowed(name),
        });
        if let Some(proof) = self.proof(name.as_deref(), &hello) {
            return proof;
        }
        self.find(name.as_deref(), |one| one.key.choose_scheme(hello.signature_schemes()).is_some())
    }
}
