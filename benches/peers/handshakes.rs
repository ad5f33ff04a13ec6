//! Load of which each request needs a TLS handshake: a process of its own, like wrk, on the load's core.
//!
//! Prints what wrk's script prints. Clients keep tickets or do not; everything else is the same. The certificate that all
//! proxies show is made here too.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::Result;

/// First argument that makes this program the load.
pub(crate) const ARGUMENT: &str = "--handshakes";

/// Handshakes at a time.
const CLIENTS: usize = 16;
const NAME: &str = "bench.test";

/// Files of the certificate, its key, and both together.
pub(crate) fn certificate(folder: &Path) -> [PathBuf; 3] {
    ["cert.pem", "key.pem", "both.pem"].map(|file| folder.join(file))
}

/// Makes them.
pub(crate) fn write_certificate(folder: &Path) -> Result<()> {
    let explain = |error: rcgen::Error| format!("cannot make a certificate: {error}");
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(explain)?;
    let params = rcgen::CertificateParams::new(vec![NAME.to_owned()]).map_err(explain)?;
    let (cert, key) = (params.self_signed(&key).map_err(explain)?.pem(), key.serialize_pem());
    let both = format!("{cert}{key}");
    for (file, text) in certificate(folder).iter().zip([&cert, &key, &both]) {
        fs::write(file, text).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    }
    Ok(())
}

/// Arguments of this program for a load on `address`.
pub(crate) fn arguments(address: SocketAddr, folder: &Path, resumed: bool) -> Vec<String> {
    let [certificate, ..] = certificate(folder);
    let kind = if resumed { "resumed" } else { "full" };
    vec![ARGUMENT.into(), address.to_string(), certificate.display().to_string(), kind.into()]
}

/// What the load counts.
#[derive(Default)]
struct Counts {
    took_us: Vec<u64>,
    errors: u64,
}

/// Is the load: `--handshakes ADDRESS CERTIFICATE full|resumed --duration=5s`.
pub(crate) fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(2).collect();
    let [address, certificate, kind, duration] = &arguments[..] else {
        return Err("this is started by the bench".into());
    };
    let address: SocketAddr = address.parse().map_err(|error| format!("{address}: {error}"))?;
    let seconds = duration.trim_start_matches("--duration=").trim_end_matches('s').parse();
    let length = Duration::from_secs(seconds.map_err(|error| format!("{duration}: {error}"))?);
    let config = Arc::new(config(Path::new(certificate), kind == "resumed")?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let started = Instant::now();
    let mut all = runtime.block_on(async {
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..CLIENTS {
            clients.spawn(client(address, config.clone(), started + length, kind == "resumed"));
        }
        clients.join_all().await.into_iter().fold(Counts::default(), |mut sum, counts| {
            sum.took_us.extend(counts.took_us);
            sum.errors += counts.errors;
            sum
        })
    });
    let microseconds = started.elapsed().as_micros();
    all.took_us.sort_unstable();
    let at = |percent: usize| {
        let last = all.took_us.len().saturating_sub(1);
        all.took_us.get(last * percent / 100).copied().unwrap_or_default()
    };
    println!("counts {} {microseconds} {} {} {}", all.took_us.len(), at(50), at(99), all.errors);
    Ok(())
}

fn config(certificate: &Path, resumed: bool) -> Result<ClientConfig> {
    let explain = |error: &dyn std::fmt::Display| format!("{}: {error}", certificate.display());
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_file(certificate).map_err(|error| explain(&error))?;
    roots.add(root).map_err(|error| explain(&error))?;
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| explain(&error))?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.resumption = if resumed { Resumption::in_memory_sessions(4) } else { Resumption::disabled() };
    Ok(config)
}

/// One connection after the other, each for one request.
async fn client(address: SocketAddr, config: Arc<ClientConfig>, end: Instant, resumed: bool) -> Counts {
    let mut counts = Counts::default();
    // A store of its own, as a browser has: the first connection of each client brings its tickets.
    let mut config = ClientConfig::clone(&config);
    if resumed {
        config.resumption = Resumption::in_memory_sessions(4);
    }
    let connector = TlsConnector::from(Arc::new(config));
    let mut first = true;
    while Instant::now() < end {
        let begun = Instant::now();
        match request(address, &connector).await {
            Ok(kind) => {
                counts.took_us.push(begun.elapsed().as_micros() as u64);
                // A full handshake where a resumed one was meant would spoil the figure.
                let fits = (kind == HandshakeKind::Resumed) == resumed || first;
                counts.errors += u64::from(!fits);
            }
            Err(_) => counts.errors += 1,
        }
        first = false;
    }
    counts
}

async fn request(address: SocketAddr, connector: &TlsConnector) -> std::io::Result<HandshakeKind> {
    let name = ServerName::try_from(NAME).map_err(std::io::Error::other)?;
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let mut stream = connector.connect(name, tcp).await?;
    stream.write_all(b"GET /1k HTTP/1.1\r\nHost: bench.test\r\nConnection: close\r\n\r\n").await?;
    stream.flush().await?;
    let mut answer = Vec::with_capacity(4096);
    stream.read_to_end(&mut answer).await?;
    if !answer.starts_with(b"HTTP/1.1 200") || answer.len() < 1024 {
        return Err(std::io::Error::other("not the answer"));
    }
    stream.get_ref().1.handshake_kind().ok_or_else(|| std::io::Error::other("no handshake"))
}
