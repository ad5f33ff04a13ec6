//! Which certificate a client is shown: by the name that it asks for, and by what it understands.

use std::sync::Arc;

use foldhash::HashMap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::config::tls::Certificate;

/// A listener's certificates by name.
#[derive(Debug)]
pub(super) struct Names {
    exact: HashMap<Box<str>, Vec<Arc<CertifiedKey>>>,
    /// By the part behind `*.`, which stands for one label.
    wildcard: HashMap<Box<str>, Vec<Arc<CertifiedKey>>>,
    /// For clients that ask for no name, or for one that is on no certificate.
    default: Vec<Arc<CertifiedKey>>,
}

impl Names {
    /// The first certificate is the default; with others of the same names, for clients that do not understand it.
    pub(super) fn new(certificates: &[Certificate]) -> Self {
        let mut names = Self { exact: HashMap::default(), wildcard: HashMap::default(), default: Vec::new() };
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

    /// The certificates for a name, which is in lower case.
    fn of(&self, name: Option<&str>) -> &[Arc<CertifiedKey>] {
        let found = name.and_then(|name| {
            let parent = || name.split_once('.').and_then(|(_, parent)| self.wildcard.get(parent));
            self.exact.get(name).or_else(parent)
        });
        found.unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asked = hello.server_name();
        let certificates = match asked {
            // Nearly all clients write names in lower case.
            Some(name) if name.bytes().any(|byte| byte.is_ascii_uppercase()) => {
                self.of(Some(&name.to_ascii_lowercase()))
            }
            name => self.of(name),
        };
        let understood =
            |one: &&Arc<CertifiedKey>| one.key.choose_scheme(hello.signature_schemes()).is_some();
        certificates.iter().find(understood).or(certificates.first()).cloned()
    }
}
