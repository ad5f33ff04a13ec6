//! What systemd is told of the node's life: the protocol of sd_notify(3), in own few lines.
//!
//! A message is one datagram of text to the socket that `NOTIFY_SOCKET` names; without it nothing is said. A message that
//! cannot be sent is not worth an end: it is logged once, and the node goes on. Not obvious: the watchdog is fed from the
//! control thread, and only while every worker has turned since it was fed last ([`Turning`]). Nothing is read here.

use std::cell::Cell;
use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::pool::{Lanes, WorkerLane};

/// How much longer a stop or a start may take than it was said last.
const EXTENSION: Duration = Duration::from_secs(10);

/// See the module's documentation.
pub struct Notify {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
    failed: Cell<bool>,
}

impl Notify {
    /// As the environment says: nobody is told without `NOTIFY_SOCKET`, and the watchdog is fed with `WATCHDOG_USEC`.
    pub fn from_env() -> Self {
        let nobody = Self { to: None, watchdog: None, failed: Cell::new(false) };
        let Some(name) = env::var_os("NOTIFY_SOCKET").and_then(|name| name.into_string().ok()) else {
            return nobody;
        };
        match Self::to(&name) {
            Ok(to) => Self { to: Some(to), watchdog: watchdog(), ..nobody },
            Err(error) => {
                tracing::warn!("systemd is not told anything: NOTIFY_SOCKET={name}: {error}");
                nobody
            }
        }
    }

    fn to(name: &str) -> io::Result<(UnixDatagram, SocketAddr)> {
        let address = match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(name)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok((socket, address))
    }

    /// Whether anybody listens.
    pub fn is_heard(&self) -> bool {
        self.to.is_some()
    }

    /// How often the watchdog is to be fed, if it is on: twice in the time that it waits.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// The node serves, or serves again after a reload.
    pub fn ready(&self, status: &str) {
        self.say(&format!("READY=1\nSTATUS={status}"));
    }

    /// What the node does, in words.
    pub fn status(&self, status: &str) {
        self.say(&format!("STATUS={status}"));
    }

    /// A reload begins; [`Notify::ready`] ends it.
    pub fn reloading(&self) {
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_us()));
    }

    /// The node stops.
    pub fn stopping(&self, status: &str) {
        self.say(&format!("STOPPING=1\nSTATUS={status}"));
    }

    /// Another process is the service from now on, and speaks for it.
    pub fn hand_over(&self, pid: u32) {
        self.say(&format!("MAINPID={pid}"));
    }

    /// All is well: the control thread asks for it, and the workers turn.
    pub fn feed_watchdog(&self) {
        if self.watchdog.is_some() {
            self.say("WATCHDOG=1");
        }
    }

    /// What is under way takes longer; to be said again within 5 s.
    pub fn extend_timeout(&self, status: &str) {
        self.say(&format!("EXTEND_TIMEOUT_USEC={}\nSTATUS={status}", EXTENSION.as_micros()));
    }

    fn say(&self, message: &str) {
        let Some((socket, address)) = &self.to else { return };
        if let Err(error) = socket.send_to_addr(message.as_bytes(), address)
            && !self.failed.replace(true)
        {
            tracing::warn!("systemd cannot be told what the node does: {error}");
        }
    }
}

/// Half of the time that the watchdog waits, if it waits for this process.
fn watchdog() -> Option<Duration> {
    let number = |name: &str| env::var(name).ok()?.parse::<u64>().ok();
    let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    let usec = number("WATCHDOG_USEC").filter(|usec| *usec > 0 && ours)?;
    Some(Duration::from_micros(usec) / 2)
}

/// The clock by which systemd tells the reload that it asked for from one before it.
fn monotonic_us() -> i64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| time.tv_sec() * 1_000_000 + time.tv_nsec() / 1000)
}

/// Whether the workers turn: each counts the looks it takes around, at least one in a second, or has ended.
#[derive(Default)]
pub struct Turning(Vec<u64>);

impl Turning {
    /// Whether every worker has turned since this was asked last, or has ended, as `ended` says of each in their order.
    pub fn all_have_turned(&mut self, workers: &Lanes<WorkerLane>, ended: &[bool]) -> bool {
        let now = (0..ended.len()).map(|worker| workers.of(worker).turns.get()).collect();
        let before = std::mem::replace(&mut self.0, now);
        let turned = |(worker, turns)| ended[worker] || before.get(worker) != Some(turns);
        self.0.iter().enumerate().all(turned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_stands_still_is_noticed_unless_it_has_ended() {
        let lanes = Lanes::<WorkerLane>::new(2);
        let mut turning = Turning::default();
        let turn = |worker: usize| lanes.of(worker).turns.bump();
        assert!(turning.all_have_turned(&lanes, &[false, false]), "nothing is known before the first look");
        turn(0);
        turn(1);
        assert!(turning.all_have_turned(&lanes, &[false, false]));
        turn(0);
        assert!(!turning.all_have_turned(&lanes, &[false, false]));
        turn(0);
        assert!(turning.all_have_turned(&lanes, &[false, true]));
    }
}
