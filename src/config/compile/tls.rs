//! `[listener.tls]` and `[pool.NAME.tls]`: files become certificates, keys and authorities, and what is wrong with them
//! is found.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore};
use xxhash_rust::xxh3::Xxh3;

use super::verify::{Anyone, NamedOtherwise};
use super::{Compiler, millis, seconds};
use crate::config::acme::Acme;
use crate::config::certificate::{Facts, Validity};
use crate::config::file::{self, At, ClientMode, Field, HostName, Place, Verify};
use crate::config::tls::{
    Certificate, ClientAuthority, ClientCertificates, ListenerTls, MinVersion, UpstreamTls, provider,
};
use crate::config::{HostPattern, Listener, Route, TargetProtocol};

/// Names of protocols in a handshake (ALPN).
const ALPN_HTTP1: &[u8] = b"http/1.1";
const ALPN_H2: &[u8] = b"h2";

/// Longest time for which browsers may be told to insist on TLS.
const MAX_AGE: std::time::Duration = std::time::Duration::from_secs(10 * 365 * 86_400);

impl Compiler<'_> {
    pub(super) fn listener_tls(&mut self, field: Field<file::ListenerTls>) -> Option<ListenerTls> {
        let At { value: file, place } = field.given()?;
        let acme = file.acme.or(false);
        let certificates = match file.certificates {
            Field::Absent if acme => Vec::new(),
            certificates => self.certificates(certificates, &place),
        };
        Some(ListenerTls {
            certificates,
            acme,
            min_version: file.min_version.or(MinVersion::Tls12),
            clients: self.clients(file.client_certificates, file.client_ca, &place),
            handshake_timeout: self.within(file.handshake_timeout, seconds(10), millis(10)..=seconds(600)),
            max_handshakes: self.within(file.max_handshakes, 1024, 1..=1_000_000) as usize,
            tickets: file.tickets.or(true),
            hsts: self.hsts(file.hsts),
        })
    }

    fn certificates(
        &mut self,
        field: Field<Vec<At<file::CertificateFiles>>>,
        table: &Place,
    ) -> Vec<Certificate> {
        let hint = "write certificates = [{ cert = \"shop.crt\", key = \"shop.key\" }]";
        if field.is_absent() {
            self.problems.add(&table.key("certificates"), "is missing", hint);
        }
        let list = self.filled_at(field, hint);
        list.into_iter().filter_map(|At { value, place }| self.certificate(value, &place)).collect()
    }

    pub(super) fn filled_at<T>(&mut self, field: Field<Vec<At<T>>>, hint: &str) -> Vec<At<T>> {
        let Some(At { value, place }) = field.given() else { return Vec::new() };
        if value.is_empty() {
            self.problems.add(&place, "is empty", hint);
        }
        value
    }

    fn certificate(&mut self, file: file::CertificateFiles, place: &Place) -> Option<Certificate> {
        for (key, absent) in [("cert", file.cert.is_absent()), ("key", file.key.is_absent())] {
            if absent {
                let hint = "write { cert = \"shop.crt\", key = \"shop.key\" }";
                self.problems.add(&place.key(key), "is missing", hint);
            }
        }
        let chain = self.chain(file.cert);
        let key = self.private_key(file.key);
        let ((chain, path, cert_place), (key, key_path, key_place)) = (chain?, key?);
        let Some(facts) = Facts::read(&chain[0]) else {
            let what = format!("the first certificate of {} cannot be read", path.display());
            self.problems.add(
                &cert_place,
                what,
                "write the path of a PEM file, the server's own certificate first",
            );
            return None;
        };
        match CertifiedKey::from_der(chain, key, provider()) {
            Ok(certified) => {
                self.warn_of_validity(&facts, &path, &cert_place);
                Some(Certificate { certified: Arc::new(certified), facts, file: path })
            }
            Err(rustls::Error::InconsistentKeys(_)) => {
                let what = format!("{} is not the key of {}", key_path.display(), path.display());
                let hint = "write the key that the certificate was made for; the server's own certificate must be the first in its file";
                self.problems.add(&key_place, what, hint);
                None
            }
            Err(error) => {
                let what = format!("{} cannot be used: {error}", key_path.display());
                self.problems.add(
                    &key_place,
                    what,
                    "use an ECDSA (P-256, P-384), Ed25519 or RSA key (2048 to 8192 bits)",
                );
                None
            }
        }
    }

    /// The certificates of a PEM file; at least one.
    fn chain(&mut self, field: Field<String>) -> Option<(Vec<CertificateDer<'static>>, PathBuf, Place)> {
        let (text, path, place) = self.named_file(field)?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
        match chain {
            Ok(chain) if !chain.is_empty() => Some((chain, path, place)),
            Ok(_) => {
                let what = format!("{} holds no certificate", path.display());
                self.problems.add(
                    &place,
                    what,
                    "write the path of a file in PEM (-----BEGIN CERTIFICATE-----)",
                );
                None
            }
            Err(error) => {
                let what = format!("{} cannot be read: {error}", path.display());
                self.problems.add(
                    &place,
                    what,
                    "write the path of a file in PEM (-----BEGIN CERTIFICATE-----)",
                );
                None
            }
        }
    }

    fn private_key(&mut self, field: Field<String>) -> Option<(PrivateKeyDer<'static>, PathBuf, Place)> {
        let hint = |_: &std::path::Path| "write the path of the certificate's key, in PEM".to_owned();
        let (text, path, place) = self.secret_file(field, hint)?;
        match PrivateKeyDer::from_pem_slice(text.as_bytes()) {
            Ok(key) => Some((key, path, place)),
            Err(error) => {
                let what = format!("{} holds no key that can be used: {error}", path.display());
                let hint =
                    "write the path of a file in PEM (-----BEGIN PRIVATE KEY-----) that is not encrypted";
                self.problems.add(&place, what, hint);
                None
            }
        }
    }

    /// The text of a file that is no secret.
    fn named_file(&mut self, field: Field<String>) -> Option<(String, PathBuf, Place)> {
        let At { value, place } = field.given()?;
        let path = self.path(value);
        self.read.push(path.clone());
        match std::fs::read_to_string(&path) {
            Ok(text) => Some((text, path, place)),
            Err(error) => {
                let what = format!("{} cannot be read: {error}", path.display());
                self.problems.add(
                    &place,
                    what,
                    "write the path of a file in PEM that the user who runs selvedge may read",
                );
                None
            }
        }
    }

    fn warn_of_validity(&mut self, facts: &Facts, path: &std::path::Path, place: &Place) {
        let at = |moment| httpdate::fmt_http_date(moment);
        let (key, path) = (&place.key, path.display());
        match facts.validity(SystemTime::now()) {
            Validity::Valid => {}
            Validity::EndsSoon => {
                self.warnings.push(format!("{key}: {path} expires soon, {}", at(facts.not_after)));
            }
            Validity::Expired => {
                self.warnings.push(format!("{key}: {path} has expired, {}", at(facts.not_after)));
            }
            Validity::NotYet => {
                self.warnings
                    .push(format!("{key}: {path} is not valid yet, not before {}", at(facts.not_before)));
            }
        }
    }

    /// The certificates of a bundle as authorities, and a digest of them.
    fn bundle(&mut self, field: Field<String>) -> Option<(Arc<RootCertStore>, u64)> {
        let (certificates, path, place) = self.chain(field)?;
        let mut digest = Xxh3::new();
        certificates.iter().for_each(|certificate| digest.update(certificate));
        let mut store = RootCertStore::empty();
        let (added, ignored) = store.add_parsable_certificates(certificates);
        if added == 0 {
            let what = format!("{} holds no certificate that can be an authority", path.display());
            self.problems.add(&place, what, "write the path of the bundle of your certificate authority");
            return None;
        }
        if ignored > 0 {
            self.warnings.push(format!(
                "{}: {ignored} certificates of {} were ignored: they are no authorities",
                place.key,
                path.display()
            ));
        }
        Some((Arc::new(store), digest.digest()))
    }

    fn clients(&mut self, mode: Field<ClientMode>, ca: Field<String>, table: &Place) -> ClientCertificates {
        let mode = mode.or(ClientMode::Off);
        match (mode, &ca) {
            (ClientMode::Off, Field::Given(At { place, .. })) => {
                let hint = "remove it, or write client_certificates = \"require\"";
                self.problems.add(
                    place,
                    "has a meaning only when client_certificates is \"request\" or \"require\"",
                    hint,
                );
            }
            (ClientMode::Request | ClientMode::Require, Field::Absent) => {
                let hint =
                    "write client_ca = \"clients.pem\", the bundle of who signs the clients' certificates";
                self.problems.add(&table.key("client_ca"), "is missing", hint);
            }
            _ => {}
        }
        if mode == ClientMode::Off {
            return ClientCertificates::Off;
        }
        let place = ca.peek().map(|at| at.place.clone()).unwrap_or_default();
        let Some((roots, digest)) = self.bundle(ca) else { return ClientCertificates::Off };
        let builder = WebPkiClientVerifier::builder_with_provider(roots, provider().clone());
        let verifier = match mode {
            ClientMode::Request => builder.allow_unauthenticated().build(),
            _ => builder.build(),
        };
        match verifier {
            Ok(verifier) if mode == ClientMode::Request => {
                ClientCertificates::Request(ClientAuthority { verifier, digest })
            }
            Ok(verifier) => ClientCertificates::Require(ClientAuthority { verifier, digest }),
            Err(error) => {
                self.problems.add(
                    &place,
                    format!("cannot be used: {error}"),
                    "write the path of another bundle",
                );
                ClientCertificates::Off
            }
        }
    }

    fn hsts(&mut self, field: Field<file::Hsts>) -> Option<http::HeaderValue> {
        let At { value: file, place } = field.given()?;
        if file.max_age.is_absent() {
            self.problems.add(&place.key("max_age"), "is missing", "write hsts = { max_age = \"365d\" }");
        }
        let max_age = self.within(file.max_age, seconds(0), seconds(0)..=MAX_AGE).as_secs();
        let (subdomains, preload) = (file.include_subdomains.or(false), file.preload.peek());
        if let Some(At { value: true, place }) = preload
            && (!subdomains || max_age < 31_536_000)
        {
            let hint = "write max_age = \"365d\" or more, and include_subdomains = true";
            self.problems.add(
                place,
                "is refused by browsers' lists without subdomains or for less than a year",
                hint,
            );
        }
        let mut value = format!("max-age={max_age}");
        if subdomains {
            value += "; includeSubDomains";
        }
        if preload.is_some_and(|at| at.value) {
            value += "; preload";
        }
        http::HeaderValue::try_from(value).ok()
    }

    /// TLS to the targets of a pool.
    pub(super) fn upstream_tls(
        &mut self,
        field: Field<file::UpstreamTls>,
        protocol: TargetProtocol,
    ) -> Option<UpstreamTls> {
        let At { value: file, place } = field.given()?;
        let mut digest = Xxh3::new();
        let verify = file.verify.or(Verify::Full);
        let min_version = file.min_version.or(MinVersion::Tls12);
        digest.update(&[verify as u8, min_version as u8, protocol as u8]);
        let server_name = self.server_name(file.server_name, &mut digest);
        let named = self.server_name(file.verify_name, &mut digest);
        let client = ClientConfig::builder_with_provider(provider().clone())
            .with_protocol_versions(min_version.versions());
        let Ok(client) = client else { return None };
        let client = match verify {
            Verify::None => {
                let unused = [file.ca.peek().map(|at| &at.place), named.as_ref().map(|_| &place)];
                for unused in unused.into_iter().flatten() {
                    self.problems.add(
                        unused,
                        "has no meaning when verify = \"none\"",
                        "remove it, or write verify = \"full\"",
                    );
                }
                self.warnings.push(format!(
                    "{}: verify = \"none\" believes whoever answers at a target's address; write ca = \"…\" instead",
                    place.key
                ));
                client.dangerous().with_custom_certificate_verifier(Arc::new(Anyone::new(provider())))
            }
            Verify::Full => {
                if file.ca.is_absent() {
                    let hint = "write ca = \"targets.pem\", the bundle of who signs the targets' certificates (the system's is \
                                often /etc/ssl/certs/ca-certificates.crt)";
                    self.problems.add(&place.key("ca"), "is missing", hint);
                }
                let (roots, authorities) = self.bundle(file.ca)?;
                digest.update(&authorities.to_le_bytes());
                let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider().clone());
                let verifier = verifier.build().ok()?;
                match named {
                    Some(name) => client
                        .dangerous()
                        .with_custom_certificate_verifier(Arc::new(NamedOtherwise::new(verifier, name))),
                    None => client.with_webpki_verifier(verifier),
                }
            }
        };
        let client = match self.own_certificate(file.cert, file.key, &place, &mut digest) {
            Some(certified) => {
                client.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)))
            }
            None => client.with_no_client_auth(),
        };
        let [http1, h2] = [ALPN_HTTP1, ALPN_H2].map(|name| offering(&client, &[name]));
        let client = match protocol {
            TargetProtocol::Http1 => http1.clone(),
            TargetProtocol::H2 => h2.clone(),
            TargetProtocol::Auto => offering(&client, &[ALPN_H2, ALPN_HTTP1]),
        };
        Some(UpstreamTls { client, http1, h2, server_name, digest: digest.digest() })
    }

    fn server_name(&mut self, field: Field<HostName>, digest: &mut Xxh3) -> Option<ServerName<'static>> {
        let At { value: HostName(name), place } = field.given()?;
        digest.update(name.as_bytes());
        digest.update(b";");
        let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
        match ServerName::try_from(name) {
            Ok(name) => Some(name),
            Err(_) => {
                self.problems.add(
                    &place,
                    "cannot be the name of a server",
                    "write a host name or an IP address",
                );
                None
            }
        }
    }

    /// What this node shows to targets.
    fn own_certificate(
        &mut self,
        cert: Field<String>,
        key: Field<String>,
        table: &Place,
        digest: &mut Xxh3,
    ) -> Option<CertifiedKey> {
        if cert.is_absent() && key.is_absent() {
            return None;
        }
        let certificate = self.certificate(file::CertificateFiles { cert, key }, table)?;
        certificate.certified.cert.iter().for_each(|one| digest.update(one));
        Some(CertifiedKey::clone(&certificate.certified))
    }

    /// Hosts that routes name and that are on no certificate of a listener.
    pub(super) fn hosts_and_certificates_together(
        &mut self,
        listeners: &[Listener],
        acme: Option<&Acme>,
        routes: &[Route],
    ) {
        for listener in listeners {
            let Some(tls) = &listener.tls else { continue };
            let facts = || tls.certificates.iter().map(|certificate| &certificate.facts);
            let obtained = |host: &str| {
                tls.acme
                    && acme.is_some_and(|acme| acme.certificates.iter().flatten().any(|name| **name == *host))
            };
            let mut missing: Vec<String> = Vec::new();
            for host in routes.iter().filter_map(|route| route.host.as_ref()) {
                let (name, covered) = match host {
                    HostPattern::Exact(host) => {
                        (host.to_string(), facts().any(|facts| facts.covers(host)) || obtained(host))
                    }
                    HostPattern::Wildcard(suffix) => {
                        let wildcard = format!("*{suffix}");
                        let covered = facts().any(|facts| facts.names.iter().any(|name| **name == *wildcard));
                        (wildcard, covered)
                    }
                };
                if !covered && !missing.contains(&name) {
                    missing.push(name);
                }
            }
            let listener = &listener.name;
            self.warnings.extend(missing.into_iter().map(|name| {
                format!("listener {listener}: {name} is on none of its certificates, so browsers refuse what the route for it serves there")
            }));
        }
    }
}

/// The same TLS, offering these protocols.
fn offering(client: &ClientConfig, protocols: &[&[u8]]) -> Arc<ClientConfig> {
    let mut client = client.clone();
    client.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Arc::new(client)
}
