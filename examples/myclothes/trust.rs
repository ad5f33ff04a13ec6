//! How an instance knows that it is the balancer who asks: by the certificate that the balancer shows (mutual TLS).
//!
//! Being in the instances' network is not enough then: whoever shows no certificate of the balancers' authority does not get as far as
//! a request, health checks included. Two authorities, so that an instance's certificate does not pass for a balancer's. Which requests a
//! balancer may make is not decided here.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio_rustls::TlsAcceptor;

/// The name on the certificate of every instance, which the balancer looks for.
pub(crate) const INSTANCES: &str = "shop.internal";

/// Options of one instance. All or none of them.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub(crate) struct Options {
    /// Speak TLS, and only with balancers: the certificate of this instance, PEM
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "balancer_ca"])]
    tls_cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// The authority that signs the balancers' certificates, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    balancer_ca: Option<PathBuf>,
}

impl Options {
    /// What decides who may ask; `None` when everybody may. An error names the file.
    pub(crate) fn acceptor(&self) -> Result<Option<TlsAcceptor>, String> {
        let (Some(cert), Some(key), Some(ca)) = (&self.tls_cert, &self.tls_key, &self.balancer_ca) else {
            return Ok(None);
        };
        let mut roots = RootCertStore::empty();
        for authority in certificates(ca)? {
            roots.add(authority).map_err(|error| format!("{}: {error}", ca.display()))?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|error| format!("{}: {error}", ca.display()))?;
        let shown = PrivateKeyDer::from_pem_file(key)
            .map_err(|error| format!("the key {} cannot be used: {error}", key.display()))?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificates(cert)?, shown)
            .map_err(|error| format!("{} and {}: {error}", cert.display(), key.display()))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Some(TlsAcceptor::from(Arc::new(config))))
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |error| format!("the certificates in {} cannot be used: {error}", file.display());
    let found: Vec<_> =
        CertificateDer::pem_file_iter(file).map_err(wrong)?.collect::<Result<_, _>>().map_err(wrong)?;
    if found.is_empty() { Err(format!("there is no certificate in {}", file.display())) } else { Ok(found) }
}

/// The certificates of one system, as files in its data folder: made once, and used by everything in it.
#[derive(Debug, Clone)]
pub(crate) struct Certificates {
    /// What the balancer believes of instances, and instances of balancers.
    pub(crate) instance_ca: PathBuf,
    pub(crate) balancer_ca: PathBuf,
    pub(crate) instance: [PathBuf; 2],
    pub(crate) balancer: [PathBuf; 2],
}

impl Certificates {
    /// Makes those that are not there yet. The keys of the authorities are not kept, so nobody can sign another one.
    pub(crate) fn prepare(data: &Path) -> Result<Self, String> {
        let folder = data.join("tls");
        let file = |name: &str| folder.join(name);
        let all = Self {
            instance_ca: file("instances-ca.pem"),
            balancer_ca: file("balancers-ca.pem"),
            instance: [file("instance.pem"), file("instance.key")],
            balancer: [file("balancer.pem"), file("balancer.key")],
        };
        if all.balancer.iter().all(|file| file.exists()) {
            return Ok(all);
        }
        let made = || -> Result<(), Box<dyn std::error::Error>> {
            fs::create_dir_all(&folder)?;
            make(&all.instance_ca, &all.instance, INSTANCES, ExtendedKeyUsagePurpose::ServerAuth)?;
            make(&all.balancer_ca, &all.balancer, "balancer.internal", ExtendedKeyUsagePurpose::ClientAuth)
        };
        made().map_err(|error| format!("certificates cannot be made in {}: {error}", folder.display()))?;
        Ok(all)
    }

    /// The options of an instance that uses them.
    pub(crate) fn instance_options(&self) -> Vec<std::ffi::OsString> {
        let [cert, key] = &self.instance;
        let pairs = [("--tls-cert", cert), ("--tls-key", key), ("--balancer-ca", &self.balancer_ca)];
        pairs.into_iter().flat_map(|(option, file)| [option.into(), file.into()]).collect()
    }
}

/// An authority, and the one certificate that it signs.
fn make(
    ca: &Path,
    [cert, key]: &[PathBuf; 2],
    name: &str,
    purpose: ExtendedKeyUsagePurpose,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    authority.distinguished_name.push(DnType::CommonName, format!("authority of {name}"));
    let authority_key = KeyPair::generate()?;
    let authority_pem = authority.self_signed(&authority_key)?.pem();
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![purpose];
    let own_key = KeyPair::generate()?;
    let signed = params.signed_by(&own_key, &Issuer::new(authority, authority_key))?.pem();
    for (file, text) in [(ca, authority_pem), (cert, signed), (key, own_key.serialize_pem())] {
        let mut open = OpenOptions::new();
        open.write(true).create(true).truncate(true).mode(0o600).open(file)?.write_all(text.as_bytes())?;
    }
    Ok(())
}
