//! Sockets that this process was given instead of binding them: by the process before it, or by systemd (sd_listen_fds(3),
//! in own few lines, as nobody else's takes the names).
//!
//! What systemd passes bears the name of a listener (`FileDescriptorName=`) and stands at its address. One that belongs to no
//! listener is a mistake: clients would wait there for ever.

use std::env;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::config::{AdminAddress, Config, Dns, Listener};

/// The first descriptor that systemd passes.
const FIRST: RawFd = 3;

/// See the module's documentation.
#[derive(Default)]
pub struct Passed {
    pub(super) listeners: Vec<PassedListener>,
    /// The address as the configuration writes it.
    pub(super) admin: Option<(String, OwnedFd)>,
    pub(super) dns: Vec<(SocketAddr, UdpSocket, TcpListener)>,
}

/// Of one listener.
pub(super) struct PassedListener {
    pub(super) name: String,
    /// As the configuration writes it.
    pub(super) address: SocketAddr,
    pub(super) sockets: Vec<TcpListener>,
}

impl Passed {
    /// What systemd passes to this process, or what is wrong with it. To be called once.
    pub fn by_systemd(config: &Config) -> Result<Self, String> {
        let number = |name: &str| env::var(name).ok()?.parse::<u32>().ok();
        if number("LISTEN_PID") != Some(std::process::id()) {
            return Ok(Self::default());
        }
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let names = names.split(':').chain(std::iter::repeat(""));
        let count = number("LISTEN_FDS").and_then(|count| RawFd::try_from(count).ok()).unwrap_or_default();
        let mut passed = Self::default();
        for (fd, name) in (FIRST..FIRST.saturating_add(count)).zip(names) {
            // SAFETY: by its protocol systemd has opened these descriptors for this process, nobody else here knows of them,
            // and each is taken once.
            let socket = unsafe { OwnedFd::from_raw_fd(fd) };
            passed.add(config, name, socket).map_err(|what| format!("socket {name:?} of systemd: {what}"))?;
        }
        Ok(passed)
    }

    fn add(&mut self, config: &Config, name: &str, socket: OwnedFd) -> Result<(), String> {
        let broken = |error: io::Error| format!("it cannot be used: {error}");
        fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(|error| broken(error.into()))?;
        let socket = TcpListener::from(socket);
        let address = socket.local_addr().map_err(broken)?;
        let stands = |listener: &&Listener| listener.address == address || listener.address.port() == 0;
        let named = config.listeners.iter().find(|listener| *listener.name == *name);
        let listener = match named {
            Some(listener) if stands(&listener) => listener,
            Some(listener) => {
                return Err(format!(
                    "it stands at {address}, and listener.address says {}",
                    listener.address
                ));
            }
            None => {
                config.listeners.iter().find(|listener| listener.address == address).ok_or_else(|| {
                    format!(
                        "no listener has that name, and none is at {address}: write FileDescriptorName=NAME"
                    )
                })?
            }
        };
        let is = |passed: &&mut PassedListener| *passed.name == *listener.name;
        match self.listeners.iter_mut().find(is) {
            Some(passed) => passed.sockets.push(socket),
            None => self.listeners.push(PassedListener {
                name: listener.name.to_string(),
                address: listener.address,
                sockets: vec![socket],
            }),
        }
        Ok(())
    }

    /// Those of this listener; none if it has to bind its own.
    pub fn listener(&mut self, wanted: &Listener) -> Vec<TcpListener> {
        let is = |passed: &PassedListener| {
            let named = wanted.address.port() != 0 || *passed.name == *wanted.name;
            passed.address == wanted.address && named && !passed.sockets.is_empty()
        };
        let found = self.listeners.iter().position(is);
        found.map(|at| self.listeners.swap_remove(at).sockets).unwrap_or_default()
    }

    /// That of the admin API.
    pub fn admin(&mut self, wanted: &AdminAddress) -> Option<OwnedFd> {
        self.admin.take_if(|(address, _)| *address == wanted.to_string()).map(|(_, socket)| socket)
    }

    /// Those for DNS, if they are at all of its addresses.
    pub fn dns(&mut self, wanted: &Dns) -> Option<Vec<(UdpSocket, TcpListener)>> {
        let same = self.dns.iter().map(|(address, ..)| address).eq(&wanted.addresses);
        (same && !self.dns.is_empty()).then(|| self.dns.drain(..).map(|(_, udp, tcp)| (udp, tcp)).collect())
    }
}
