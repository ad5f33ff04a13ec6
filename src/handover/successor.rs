//! The old process' side: it starts the new one, hands over to it, and goes on if anything is wrong with that.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::signal::unix::Signal;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::wire::Wire;
use super::{Failed, Offer, OfferedListener, Report, ToPredecessor, ToSuccessor, VARIABLE, VERSION};
use crate::control::inheritance::{Tallies, millis};
use crate::control::reloads::Trigger;
use crate::control::upgrades::{self, Refused, Request, Stage};
use crate::control::{Control, Phase};
use crate::proxy::Workers;

/// For a word to be taken.
const WORD: Duration = Duration::from_secs(5);

/// For the last steps of a process that is ready.
const TAKING: Duration = Duration::from_secs(15);

/// Between two reports of a process that drains.
pub const REPORT: Duration = Duration::from_secs(1);

/// What this process was started as: another one is started in the same way.
pub struct Program {
    /// Found at the start: later the file may be another one, or gone.
    file: PathBuf,
    arguments: Vec<OsString>,
}

/// Sockets beside those of the workers that are handed over.
#[derive(Default)]
pub struct Others {
    /// Of the admin API, with the address as the configuration writes it.
    pub admin: Option<(String, OwnedFd)>,
    /// Of DNS, over UDP and TCP, with the address as the configuration writes it.
    pub dns: Vec<(std::net::SocketAddr, OwnedFd, OwnedFd)>,
}

/// The process that serves now. This one tells it what it still counts.
pub struct Successor {
    /// Its number.
    pub pid: u32,
    /// Its version.
    pub version: String,
    reports: mpsc::Sender<ToSuccessor>,
    reporting: JoinHandle<()>,
    told: Tallies,
}

impl Program {
    /// This process as it was started.
    pub fn this() -> io::Result<Self> {
        Ok(Self { file: named(env::current_exe()?), arguments: env::args_os().skip(1).collect() })
    }

    fn start(&self, binary: Option<&Path>) -> Result<(Started, UnixStream), Refused> {
        let file = binary.unwrap_or(&self.file);
        let cannot =
            |error: io::Error| Refused::Program(format!("{} cannot be started: {error}", file.display()));
        let (ours, theirs) = UnixStream::pair().map_err(cannot)?;
        let mut command = Command::new(file);
        command.args(&self.arguments).stdin(Stdio::from(OwnedFd::from(theirs))).env(VARIABLE, "1");
        // These name the process that they are for, which is this one.
        for variable in ["WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
            command.env_remove(variable);
        }
        let child = command.spawn().map_err(cannot)?;
        Ok((Started(Some(child)), ours))
    }
}

/// The path of a program as it was started. When the file was replaced in the moment of the start, the kernel says so behind its
/// name.
fn named(file: PathBuf) -> PathBuf {
    let name = file.as_os_str().as_bytes().strip_suffix(b" (deleted)");
    let name = name.filter(|_| !file.exists()).map(|name| PathBuf::from(OsStr::from_bytes(name)));
    name.unwrap_or(file)
}

/// A process that is killed unless it has taken over.
struct Started(Option<Child>);

impl Started {
    fn pid(&self) -> u32 {
        self.0.as_ref().map_or(0, Child::id)
    }

    /// It serves: it lives on without us.
    fn release(mut self) {
        self.0 = None;
    }

    /// How it has ended, if it ends within a moment.
    fn ended(&mut self) -> Option<String> {
        let child = self.0.as_mut()?;
        for _ in 0..20 {
            if let Ok(Some(status)) = child.try_wait() {
                return Some(status.to_string());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            // It has been killed: this does not wait for anything it does.
            let _ = child.wait();
        }
    }
}

/// Does the upgrades of a node, one at a time.
pub struct Upgrader {
    /// Of this node.
    pub control: Rc<Control>,
    /// Who have the listeners' sockets.
    pub workers: Rc<Workers>,
    /// What is started without another one being named.
    pub program: Program,
    /// The other sockets.
    pub others: Others,
}

impl Upgrader {
    /// Tries it at SIGUSR2 and when the admin API asks, until one has been done.
    pub async fn run(&self, mut signal: Signal) -> Successor {
        let (_nobody, silence) = mpsc::channel(1);
        let mut requests = self.control.upgrades.requests().unwrap_or(silence);
        loop {
            let (binary, trigger, reply) = tokio::select! {
                Some(()) = signal.recv() => (None, Trigger::Signal, None),
                Some(Request { binary, reply }) = requests.recv() => (binary, Trigger::Api, Some(reply)),
            };
            let result = self.try_once(binary, trigger).await;
            if let Some(reply) = reply {
                let told = result
                    .as_ref()
                    .map(|new| upgrades::Successor { pid: new.pid, version: new.version.clone() });
                // Whoever asked may have left.
                let _ = reply.send(told.map_err(Clone::clone));
            }
            if let Ok(successor) = result {
                return successor;
            }
        }
    }

    async fn try_once(&self, binary: Option<PathBuf>, trigger: Trigger) -> Result<Successor, Refused> {
        let deadline = self.control.running().config.upgrade_deadline;
        let (control, workers) = (&self.control, &self.workers);
        let result =
            replace((control, workers), (&self.program, binary), &self.others, (trigger, deadline)).await;
        match &result {
            Ok(Successor { pid, version, .. }) => tracing::info!(pid, version, "another process serves now"),
            Err(refused) => {
                for line in refused.lines() {
                    tracing::error!(
                        trigger = trigger.as_str(),
                        "upgrade refused, this process goes on: {line}"
                    );
                }
                control.upgrades.refuse(trigger, refused);
            }
        }
        result
    }
}

/// Puts another process in the place of this one; `deadline` is what it has to become ready.
async fn replace(
    (control, workers): (&Control, &Workers),
    (program, binary): (&Program, Option<PathBuf>),
    others: &Others,
    (trigger, deadline): (Trigger, Duration),
) -> Result<Successor, Refused> {
    if control.phase() != Phase::Serving {
        return Err(Refused::NotNow("the node is stopping".to_owned()));
    }
    if std::process::id() == 1 {
        let why =
            "this process is the first of its container, which would end with it: replace the container";
        return Err(Refused::NotNow(why.to_owned()));
    }
    control.upgrades.reach(trigger, Stage::Starting);
    let (mut started, stream) = program.start(binary.as_deref())?;
    let pid = started.pid();
    tracing::info!(pid, trigger = trigger.as_str(), "a new process is started to take over");
    let (offer, sockets) =
        offer(control, workers, others).map_err(|error| broken(&mut started, &error, deadline))?;
    let first = spawn_blocking(move || -> io::Result<(Wire, ToPredecessor)> {
        let mut wire = Wire::new(stream)?;
        wire.send(&ToSuccessor::Offer(offer), WORD)?;
        let sockets: Vec<_> = sockets.iter().map(OwnedFd::as_fd).collect();
        wire.send_sockets(&sockets, WORD)?;
        let answer = wire.receive(Instant::now() + deadline)?;
        Ok((wire, answer))
    });
    let (mut wire, answer) = joined(first.await).map_err(|error| broken(&mut started, &error, deadline))?;
    let version = match answer {
        ToPredecessor::Ready { version } => version,
        ToPredecessor::Failed(Failed { config: true, lines }) => return Err(Refused::Config(lines)),
        ToPredecessor::Failed(Failed { lines, .. }) => return Err(Refused::Program(lines.join("\n"))),
        ToPredecessor::Serving => {
            return Err(Refused::Program("it did not wait for what it is left".to_owned()));
        }
    };
    if control.phase() != Phase::Serving {
        return Err(Refused::NotNow("the node is stopping".to_owned()));
    }
    control.upgrades.reach(trigger, Stage::TakingOver);
    let inheritance = control.leave();
    let told = inheritance.tallies.clone();
    let last = spawn_blocking(move || -> io::Result<(Wire, ToPredecessor)> {
        wire.send(&ToSuccessor::Take(Box::new(inheritance)), TAKING)?;
        let answer = wire.receive(Instant::now() + TAKING)?;
        Ok((wire, answer))
    });
    let (wire, answer) = joined(last.await).map_err(|error| broken(&mut started, &error, TAKING))?;
    match answer {
        ToPredecessor::Serving => {}
        ToPredecessor::Failed(failed) => return Err(Refused::Program(failed.lines.join("\n"))),
        ToPredecessor::Ready { .. } => return Err(Refused::Program("it was ready twice".to_owned())),
    }
    let (reports, reporting) = report_over(wire).map_err(|error| broken(&mut started, &error, TAKING))?;
    started.release();
    Ok(Successor { pid, version, reports, reporting, told })
}

fn joined<T>(result: Result<io::Result<T>, tokio::task::JoinError>) -> io::Result<T> {
    result.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// What went wrong, in words.
fn broken(started: &mut Started, error: &io::Error, deadline: Duration) -> Refused {
    Refused::Program(match error.kind() {
        io::ErrorKind::TimedOut => format!("the new process was not ready within {deadline:?}"),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
            match started.ended() {
                Some(status) => format!("the new process ended before it had taken over: {status}"),
                None => "the new process does not speak with this one: is it selvedge?".to_owned(),
            }
        }
        _ => format!("the new process cannot be spoken with: {error}"),
    })
}

/// All sockets, and what they are.
fn offer(control: &Control, workers: &Workers, others: &Others) -> io::Result<(Offer, Vec<OwnedFd>)> {
    let mut sockets = Vec::new();
    let mut listeners = Vec::new();
    for bound in workers.listeners().iter() {
        for socket in bound.sockets() {
            sockets.push(socket.as_fd().try_clone_to_owned()?);
        }
        listeners.push(OfferedListener {
            name: bound.config.name.to_string(),
            address: bound.config.address,
            sockets: bound.sockets().len(),
        });
    }
    if let Some((_, socket)) = &others.admin {
        sockets.push(socket.try_clone()?);
    }
    for (_, udp, tcp) in &others.dns {
        sockets.extend([udp.try_clone()?, tcp.try_clone()?]);
    }
    let running = control.running();
    let offer = Offer {
        version: VERSION,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        listeners,
        admin: others.admin.as_ref().map(|(address, _)| address.clone()),
        dns: others.dns.iter().map(|(address, ..)| *address).collect(),
        drain_ms: Some(millis(running.config.shutdown.deadline)),
        session_key: running.config.session_keys.ring.generated().map(|line| line.reveal().to_owned()),
    };
    Ok((offer, sockets))
}

/// A thread that tells the new process what it is given; it ends with the sender, or when nobody listens any more.
fn report_over(mut wire: Wire) -> io::Result<(mpsc::Sender<ToSuccessor>, JoinHandle<()>)> {
    let (reports, mut waiting) = mpsc::channel(4);
    let thread = std::thread::Builder::new().name("successor".into()).spawn(move || {
        while let Some(report) = waiting.blocking_recv() {
            if wire.send(&report, WORD).is_err() {
                return;
            }
        }
    })?;
    Ok((reports, thread))
}

impl Successor {
    /// Tells it what was counted since it was told last.
    pub async fn report(&mut self, control: &Control) {
        let tallies = control.tallies();
        let workers = &control.node.pools.workers;
        let report = Report {
            tallies: tallies.since(&self.told),
            connections: workers.sum(|lane| &lane.open),
            tunnels: workers.sum(|lane| &lane.tunnels),
        };
        // It may have ended, or be replaced itself: then nobody adds it up.
        if self.reports.send(ToSuccessor::Report(report)).await.is_ok() {
            self.told = tallies;
        }
    }

    /// Waits for the last report to be on its way.
    pub async fn finish(self) {
        let Self { reports, reporting, .. } = self;
        drop(reports);
        // Each word has its deadline.
        while !reporting.is_finished() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_was_replaced_as_it_started_is_found_at_its_place() {
        assert_eq!(named("/none/selvedge (deleted)".into()), Path::new("/none/selvedge"));
        assert_eq!(named("/none/selvedge".into()), Path::new("/none/selvedge"));
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join("selvedge (deleted)");
        std::fs::write(&odd, "").unwrap();
        assert_eq!(named(odd.clone()), odd);
    }
}
