//! Certificates for tests, and a TLS client. Clients that were written by others (curl, openssl) are run as programs.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::wire::Wire;
use super::within;

/// A certificate authority of a test's own, with a folder for files.
pub struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
    folder: TempDir,
}

/// A certificate with its key, as files.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate, in PEM.
    pub cert: PathBuf,
    /// Its key, in PEM.
    pub key: PathBuf,
}

impl Authority {
    /// A fresh one.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name = named(name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.pem"), &pem).unwrap();
        Self { pem, issuer: Issuer::new(params, key), folder }
    }

    /// Its own certificate, as a file.
    pub fn bundle(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for these names, with the common name of the first; files are named `file.crt` and `file.key`.
    pub fn issue(&self, file: &str, names: &[&str]) -> Issued {
        self.issue_for(file, names, -1..=90)
    }

    /// The same, valid for these days from now.
    pub fn issue_for(&self, file: &str, names: &[&str], days: std::ops::RangeInclusive<i64>) -> Issued {
        let mut params =
            CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        params.distinguished_name = named(names[0]);
        params.distinguished_name.push(DnType::OrganizationName, "MyClothes, Inc.");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = day(*days.start()).into();
        params.not_after = day(*days.end()).into();
        let key = KeyPair::generate().unwrap();
        let issued = Issued { cert: self.path(file, "crt"), key: self.path(file, "key") };
        fs::write(&issued.cert, params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        fs::write(&issued.key, key.serialize_pem()).unwrap();
        fs::set_permissions(&issued.key, fs::Permissions::from_mode(0o600)).unwrap();
        issued
    }

    fn path(&self, file: &str, extension: &str) -> PathBuf {
        self.folder.path().join(format!("{file}.{extension}"))
    }

    /// Its folder.
    pub fn folder(&self) -> &TempDir {
        &self.folder
    }

    /// What believes it.
    pub fn roots(&self) -> rustls::RootCertStore {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        roots
    }

    /// A client that believes it and asks for `name`.
    pub fn dialer(&self, name: &str) -> Dialer {
        Dialer::believing(self.roots(), name)
    }

    /// A server with this certificate.
    pub fn server(&self, issued: &Issued) -> Arc<rustls::ServerConfig> {
        let (chain, key) = issued.read();
        Arc::new(rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap())
    }

    /// The same, for clients with a certificate of this authority only.
    pub fn strict_server(&self, issued: &Issued) -> Arc<rustls::ServerConfig> {
        let (chain, key) = issued.read();
        let verifier = rustls::server::WebPkiClientVerifier::builder(Arc::new(self.roots())).build().unwrap();
        let builder = rustls::ServerConfig::builder().with_client_cert_verifier(verifier);
        Arc::new(builder.with_single_cert(chain, key).unwrap())
    }
}

impl Issued {
    /// As an element of `certificates`.
    pub fn toml(&self) -> String {
        format!("{{ cert = \"{}\", key = \"{}\" }}", self.cert.display(), self.key.display())
    }

    /// The keys of `[listener.tls]` with this as the only certificate.
    pub fn listener(&self) -> String {
        format!("tls.certificates = [{}]", self.toml())
    }

    fn read(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = CertificateDer::pem_file_iter(&self.cert).unwrap().collect::<Result<_, _>>().unwrap();
        (chain, PrivateKeyDer::from_pem_file(&self.key).unwrap())
    }

    /// Takes the place of `other`, first the key and then the certificate, each by a rename.
    pub fn replace(&self, other: &Self) {
        fs::rename(&self.key, &other.key).unwrap();
        fs::rename(&self.cert, &other.cert).unwrap();
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn day(days: i64) -> SystemTime {
    let day = Duration::from_secs(days.unsigned_abs() * 86_400);
    if days < 0 { SystemTime::now() - day } else { SystemTime::now() + day }
}

/// Connects with TLS.
#[derive(Clone)]
pub struct Dialer {
    config: Arc<rustls::ClientConfig>,
    name: ServerName<'static>,
    /// Sent before the handshake.
    before: Vec<u8>,
}

impl Dialer {
    /// A client that believes these and asks for `name`.
    pub fn believing(roots: rustls::RootCertStore, name: &str) -> Self {
        let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Self {
            config: Arc::new(config),
            name: ServerName::try_from(name.to_owned()).unwrap(),
            before: Vec::new(),
        }
    }

    /// Shows this certificate to servers that ask.
    pub fn showing(&self, roots: &Authority, issued: &Issued) -> Self {
        let (chain, key) = issued.read();
        let builder = rustls::ClientConfig::builder().with_root_certificates(roots.roots());
        Self { config: Arc::new(builder.with_client_auth_cert(chain, key).unwrap()), ..self.clone() }
    }

    /// Offers these protocols.
    pub fn offering(&self, protocols: &[&str]) -> Self {
        let mut config = rustls::ClientConfig::clone(&self.config);
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self { config: Arc::new(config), ..self.clone() }
    }

    /// Sends these bytes before the handshake.
    pub fn after(&self, before: Vec<u8>) -> Self {
        Self { before, ..self.clone() }
    }

    /// A connection after its handshake.
    pub async fn dial(&self, address: SocketAddr) -> io::Result<Wire> {
        self.stream(address).await.map(Wire::over)
    }

    /// The same, for somebody else to speak on.
    pub async fn stream(
        &self,
        address: SocketAddr,
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let mut tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        tcp.write_all(&self.before).await?;
        let connector = TlsConnector::from(self.config.clone());
        within("a handshake", connector.connect(self.name.clone(), tcp)).await
    }

    /// Bytes of the certificate that the server at `address` shows. (A session that is resumed shows none.)
    pub async fn shown(&self, address: SocketAddr) -> Vec<u8> {
        let mut config = rustls::ClientConfig::clone(&self.config);
        config.resumption = rustls::client::Resumption::disabled();
        let fresh = Self { config: Arc::new(config), ..self.clone() };
        let wire = fresh.dial(address).await.unwrap();
        let (_, session) = wire.tls().unwrap().get_ref();
        session.peer_certificates().unwrap()[0].to_vec()
    }
}

/// What curl makes of `https://HOST:PORT/…` at this edge, believing `ca`: its exit code, and what it wrote.
pub async fn curl(address: SocketAddr, host: &str, ca: &Path, arguments: &[&str]) -> (i32, String) {
    let port = address.port();
    let mut command = tokio::process::Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "10", "--noproxy", "*"]);
    command.args(["--resolve", &format!("{host}:{port}:127.0.0.1")]).arg("--cacert").arg(ca);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = within("curl", command.output()).await.expect("curl is installed: see tests/run.sh");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
}

/// What `openssl s_client` says of a connection to this edge on which it sends `input`.
pub async fn s_client(address: SocketAddr, arguments: &[&str], input: &str) -> String {
    let mut command = tokio::process::Command::new("openssl");
    command.args(["s_client", "-connect", &address.to_string()]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("openssl is installed: see tests/run.sh");
    let mut stdin = child.stdin.take().unwrap();
    let _ = stdin.write_all(input.as_bytes()).await;
    let output = within("openssl", async {
        let output = child.wait_with_output().await;
        drop(stdin);
        output
    })
    .await
    .unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}
