//! The new process' side: it takes the sockets, proves itself ready, and takes the place of the process that started it.

use std::env;
use std::fs::File;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;

use super::passed::{Passed, PassedListener};
use super::wire::Wire;
use super::{Failed, Offer, Report, ToPredecessor, ToSuccessor, VARIABLE, VERSION};
use crate::config::Config;
use crate::control::Control;
use crate::control::inheritance::Inheritance;
use crate::control::upgrades;

/// For each word of the other process; it has nothing to do but to speak.
const PATIENCE: Duration = Duration::from_secs(60);

/// For a word to be taken.
const WORD: Duration = Duration::from_secs(5);

/// Longest life of a process that drains: no configuration allows more.
const DRAIN_MAX: Duration = Duration::from_secs(2 * 86_400);

/// The process that this one is to take the place of.
pub struct Predecessor {
    wire: Wire,
    offer: Offer,
    passed: Passed,
}

impl Predecessor {
    /// The process that started this one to hand over to it; `None` if whoever started it does not.
    pub fn from_env() -> Result<Option<Self>, String> {
        if env::var_os(VARIABLE).is_none() {
            return Ok(None);
        }
        Self::meet().map(Some).map_err(|error| {
            format!(
                "{VARIABLE} is set, but standard input is not the socket of a node that hands over: {error}"
            )
        })
    }

    fn meet() -> io::Result<Self> {
        let socket = io::stdin().as_fd().try_clone_to_owned()?;
        // Or the other process would not notice the end of this one as long as anybody has the descriptor.
        nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
        let mut wire = Wire::new(UnixStream::from(socket))?;
        let deadline = Instant::now() + PATIENCE;
        let ToSuccessor::Offer(offer) = wire.receive(deadline)? else {
            return Err(io::Error::other("it does not begin with an offer"));
        };
        let mut sockets = offer.listeners.iter().map(|listener| listener.sockets).sum::<usize>();
        sockets += usize::from(offer.admin.is_some()) + 2 * offer.dns.len();
        let sockets = wire.receive_sockets(sockets, deadline)?;
        let mut this = Self { passed: sort(&offer, sockets), wire, offer };
        if this.offer.version != VERSION {
            let why = format!("it hands over by version {}, this program by {VERSION}", this.offer.version);
            this.fail(false, vec![why.clone()]);
            return Err(io::Error::other(why));
        }
        Ok(this)
    }

    /// Goes on with what the other process had made for itself.
    pub fn keep_key(&self, config: &mut Config) {
        if let Some(line) = &self.offer.session_key
            && let Err(error) = config.inherit_key(line)
        {
            tracing::warn!("the session key of the process before cannot be used, its sessions end: {error}");
        }
    }

    /// The sockets.
    pub fn take_sockets(&mut self) -> Passed {
        std::mem::take(&mut self.passed)
    }

    /// Says why this process ends; the other one goes on.
    pub fn fail(&mut self, config: bool, lines: Vec<String>) {
        // If it cannot be told, it sees the end.
        let _ = self.wire.send(&ToPredecessor::Failed(Failed { config, lines }), WORD);
    }

    /// Says that this process could serve, and waits for what the other one leaves.
    pub fn take(&mut self) -> io::Result<Inheritance> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        self.wire.send(&ToPredecessor::Ready { version }, WORD)?;
        match self.wire.receive(Instant::now() + PATIENCE)? {
            ToSuccessor::Take(inheritance) => Ok(*inheritance),
            _ => Err(io::Error::other("something else was to come")),
        }
    }

    /// Says that this process serves. From then on `control` hears what is left of the other one.
    pub fn relieve(mut self, control: &Control) -> io::Result<Leftovers> {
        self.wire.send(&ToPredecessor::Serving, WORD)?;
        control.upgrades.succeed(upgrades::Predecessor {
            pid: self.offer.pid,
            version: self.offer.program.clone(),
            since: SystemTime::now(),
            until: self.offer.drain_ms.map(|ms| SystemTime::now() + Duration::from_millis(ms).min(DRAIN_MAX)),
            connections: 0,
            tunnels: 0,
            drains: true,
        });
        let (reports, leftovers) = mpsc::channel(4);
        let mut wire = self.wire;
        std::thread::Builder::new().name("predecessor".into()).spawn(move || {
            let end = Instant::now() + DRAIN_MAX;
            // Any error is its end, or as good as that.
            while let Ok(message) = wire.receive(end) {
                if let ToSuccessor::Report(report) = message
                    && reports.blocking_send(report).is_err()
                {
                    return;
                }
            }
        })?;
        Ok(Leftovers(leftovers))
    }
}

/// What comes of the process before while it drains.
pub struct Leftovers(mpsc::Receiver<Report>);

impl Leftovers {
    /// Adds up what it counts, to its end.
    pub async fn follow(mut self, control: &Control) {
        while let Some(report) = self.0.recv().await {
            control.count_inherited(&report.tallies);
            control.upgrades.update_predecessor(|predecessor| {
                (predecessor.connections, predecessor.tunnels) = (report.connections, report.tunnels);
            });
        }
        tracing::info!("the process before this one has ended");
        control.upgrades.update_predecessor(|predecessor| {
            (predecessor.connections, predecessor.tunnels, predecessor.drains) = (0, 0, false);
        });
    }
}

/// The sockets by their purpose.
fn sort(offer: &Offer, sockets: Vec<OwnedFd>) -> Passed {
    let mut sockets = sockets.into_iter();
    let listeners = offer.listeners.iter().map(|listener| PassedListener {
        name: listener.name.clone(),
        address: listener.address,
        sockets: sockets.by_ref().take(listener.sockets).map(TcpListener::from).collect(),
    });
    let listeners = listeners.collect();
    let admin = offer.admin.clone().and_then(|address| Some((address, sockets.next()?)));
    let dns = offer.dns.iter().filter_map(|address| {
        let (udp, tcp) = (sockets.next()?, sockets.next()?);
        Some((*address, UdpSocket::from(udp), TcpListener::from(tcp)))
    });
    Passed { listeners, admin, dns: dns.collect() }
}
