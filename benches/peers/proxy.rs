//! A proxy under test: how it is found, configured and started. What differs between them is in a file for each.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use crate::process::Process;
use crate::{Result, client, handshakes};

/// A proxy that is installed.
pub(crate) struct Proxy {
    /// As it stands in the report.
    pub(crate) name: &'static str,
    /// What it says about itself.
    pub(crate) version: String,
    /// Its program.
    pub(crate) program: PathBuf,
    /// Whether it has sticky sessions; without, it runs as it is when sessions are on.
    pub(crate) sticky: bool,
    /// The text of its configuration.
    pub(crate) config: fn(&Setup) -> String,
    /// Its command line; writes further files if it needs some.
    pub(crate) arguments: fn(&Path, &Setup) -> Result<Vec<String>>,
}

/// What a proxy is asked to be.
pub(crate) struct Setup {
    /// For its configuration and everything it writes.
    pub(crate) folder: PathBuf,
    /// Where it listens.
    pub(crate) listen: SocketAddr,
    /// Where it listens for TLS.
    pub(crate) listen_tls: SocketAddr,
    /// Certificate, key, and both in one file; the same for all.
    pub(crate) certificate: [PathBuf; 3],
    /// Where it forwards to, in turn unless a session says otherwise.
    pub(crate) targets: Vec<SocketAddr>,
    /// Whether it keeps sessions.
    pub(crate) sessions: bool,
    /// Files that it may open.
    pub(crate) files: u64,
}

/// A proxy that answers.
pub(crate) struct Running {
    /// As it stands in the report.
    pub(crate) name: &'static str,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Where it listens for TLS.
    pub(crate) tls: SocketAddr,
    /// Its one process.
    pub(crate) process: Process,
}

impl Setup {
    /// Listens on free ports of 127.0.0.1, with the certificate that is in the folder `all`.
    pub(crate) fn new(
        folder: PathBuf,
        all: &Path,
        targets: Vec<SocketAddr>,
        sessions: bool,
        files: u64,
    ) -> Result<Self> {
        let (listen, listen_tls) = (free_address()?, free_address()?);
        let certificate = handshakes::certificate(all);
        Ok(Self { folder, listen, listen_tls, certificate, targets, sessions, files })
    }

    /// Where the configuration is written.
    pub(crate) fn config_file(&self) -> PathBuf {
        self.folder.join("config")
    }
}

impl Proxy {
    /// Writes its configuration, starts it on `core` and waits until it answers.
    pub(crate) fn start(&self, setup: &Setup, core: Option<usize>) -> Result<Running> {
        let explain =
            |error: std::io::Error| format!("cannot write into {}: {error}", setup.folder.display());
        fs::create_dir_all(&setup.folder).map_err(explain)?;
        fs::write(setup.config_file(), (self.config)(setup)).map_err(explain)?;
        let arguments = (self.arguments)(&self.program, setup)?;
        let log = setup.folder.join("output.log");
        let mut process = Process::spawn(self.name, &self.program, &arguments, core, log)?;
        client::wait_until_it_answers(setup.listen, &mut process)?;
        Ok(Running { name: self.name, address: setup.listen, tls: setup.listen_tls, process })
    }
}

/// An address that was free a moment ago: nginx and HAProxy cannot report which port they were given.
pub(crate) fn free_address() -> Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_err(|error| format!("cannot find a free port: {error}"))
}
