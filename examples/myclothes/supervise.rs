//! Keeping one process alive: start it, know when it is ready, start it again when it dies, stop it when asked.
//!
//! Every part of the system is this same program with a subcommand. Its standard input is a pipe that ends when this process
//! does, and that is also the only way in which a part is asked to stop ([`crate::parent`]). Parts run in process
//! groups of their own, so that Ctrl-C reaches only this process, which then stops them in the right order.

use std::ffi::OsString;
use std::fmt::Display;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// From the start of a process to its being ready.
const READY_DEADLINE: Duration = Duration::from_secs(10);
/// From the request to stop to the end; then the process is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(15);
/// Between two looks whether a starting process listens.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// For one line to a process.
const FEED_DEADLINE: Duration = Duration::from_secs(1);
/// A process that lives shorter than this has died at once.
const SHORT_LIFE: Duration = Duration::from_secs(2);
/// Pause before a process that died at once is started again; doubled each time it dies at once again.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A process that is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// Name for people.
    pub(crate) name: String,
    /// The program.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) args: Vec<OsString>,
    /// How it shows that it is ready.
    pub(crate) ready: Ready,
    /// What it has to know: the newest value is written to its standard input as a line, at its start and at each change.
    pub(crate) feed: Option<watch::Receiver<String>>,
}

/// How a process shows that it is ready.
#[derive(Debug, Clone)]
pub(crate) enum Ready {
    /// It writes a line to standard output.
    WritesLine,
    /// It accepts connections at this address.
    Accepts(SocketAddr),
    /// It accepts connections at this unix socket.
    AcceptsAt(PathBuf),
}

impl Ready {
    /// Completes when a connection is accepted.
    async fn accepts(&self) {
        loop {
            let tried = match self {
                Self::Accepts(address) => {
                    timeout(READY_DEADLINE, TcpStream::connect(address)).await.map(|tried| tried.map(drop))
                }
                Self::AcceptsAt(path) => {
                    timeout(READY_DEADLINE, UnixStream::connect(path)).await.map(|tried| tried.map(drop))
                }
                Self::WritesLine => return,
            };
            if matches!(tried, Ok(Ok(()))) {
                return;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// What happened to a process that is kept alive.
#[derive(Debug)]
pub(crate) enum Event {
    /// It ended without being asked.
    Died(ExitStatus),
    /// Another one has taken its place, this long after it died.
    Replaced {
        /// Process id of the new one.
        pid: u32,
        /// From the death to being ready.
        after: Duration,
    },
    /// It could not be started; it is tried again.
    StartFailed(String),
}

/// A process that is ready.
pub(crate) struct Running {
    child: Child,
    input: ChildStdin,
    /// Kept so that the process never writes into a closed pipe.
    _output: Option<BufReader<ChildStdout>>,
    since: Instant,
    /// Its process id.
    pub(crate) pid: u32,
}

impl Part {
    /// Starts the process and waits until it is ready.
    pub(crate) async fn start(&self) -> Result<Running, String> {
        let since = Instant::now();
        let captured = matches!(self.ready, Ready::WritesLine);
        let mut child = Command::new(&self.program)
            .args(&self.args)
            .stdin(Stdio::piped())
            .stdout(if captured { Stdio::piped() } else { Stdio::inherit() })
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{} cannot be started: {error}", self.name))?;
        let (Some(mut input), Some(pid)) = (child.stdin.take(), child.id()) else {
            return Err(format!("{} ended at once", self.name));
        };
        if let Some(feed) = &self.feed {
            let line = feed.borrow().clone();
            write_line(&mut input, &line).await;
        }
        let mut output = child.stdout.take().map(BufReader::new);
        let ready = async {
            match (&self.ready, &mut output) {
                (Ready::WritesLine, Some(output)) => {
                    // An error or the end of the stream is a process that ends: `wait` below sees it.
                    if output.read_line(&mut String::new()).await.is_ok_and(|length| length > 0) {
                        return;
                    }
                    std::future::pending().await
                }
                (Ready::WritesLine, None) => {}
                (Ready::Accepts(_) | Ready::AcceptsAt(_), _) => self.ready.accepts().await,
            }
        };
        tokio::select! {
            () = ready => {}
            status = child.wait() => {
                let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                return Err(format!("{} ended while starting ({status})", self.name));
            }
            () = tokio::time::sleep(READY_DEADLINE) => {
                return Err(format!("{} was not ready within {READY_DEADLINE:?}", self.name));
            }
        }
        Ok(Running { child, input, _output: output, since, pid })
    }
}

impl Running {
    /// Waits for its end.
    pub(crate) async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Asks it to finish what is in flight and end, and waits until it has.
    pub(crate) async fn stop(self) {
        let Self { child, input, .. } = self;
        drop(input);
        end(child).await;
    }

    /// Asks it to take leave of its balancers first (SIGTERM), and waits until it has ended.
    pub(crate) async fn leave(self) {
        use rustix::process::{Pid, Signal, kill_process};
        // The process has not been waited for, so the id is its own; an error says that it has ended already.
        if let Some(pid) = Pid::from_raw(self.pid.cast_signed()) {
            let _ = kill_process(pid, Signal::TERM);
        }
        end(self.child).await;
    }

    /// Kills it.
    pub(crate) async fn kill(mut self) {
        // Fails only when it has just ended.
        let _ = self.child.kill().await;
    }
}

async fn end(mut child: Child) {
    if timeout(STOP_DEADLINE, child.wait()).await.is_err() {
        // Fails only when it has just ended.
        let _ = child.kill().await;
    }
}

/// A process that is kept alive by a task of its own.
pub(crate) struct Kept {
    stop: oneshot::Sender<Kill>,
    task: JoinHandle<()>,
}

impl Kept {
    /// Asks the process to stop, and waits until it has.
    pub(crate) async fn stop(self) {
        drop(self.stop);
        // It ends by itself or is killed; a panic there was reported already.
        let _ = self.task.await;
    }

    /// Kills the process, and waits until it is gone.
    pub(crate) async fn kill(self) {
        // Nobody listens when the task has ended.
        let _ = self.stop.send(Kill);
        let _ = self.task.await;
    }
}

/// Asks for an end without a word.
struct Kill;

/// Keeps the process alive from now on, and says what happens to it.
pub(crate) fn keep(part: Part, running: Running, on_event: impl FnMut(Event) + Send + 'static) -> Kept {
    let (stop, stopped) = oneshot::channel();
    Kept { stop, task: tokio::spawn(keep_alive(part, running, on_event, stopped)) }
}

async fn keep_alive(
    mut part: Part,
    mut running: Running,
    mut on_event: impl FnMut(Event) + Send + 'static,
    mut stopped: oneshot::Receiver<Kill>,
) {
    let mut short_lives = 0;
    loop {
        let status = tokio::select! {
            status = live(&mut part, &mut running) => status,
            kill = &mut stopped => return match kill {
                Ok(Kill) => running.kill().await,
                Err(_) => running.stop().await,
            },
        };
        let died = Instant::now();
        short_lives = if running.since.elapsed() < SHORT_LIFE { short_lives + 1 } else { 0 };
        if let Ok(status) = status {
            on_event(Event::Died(status));
        }
        running = loop {
            tokio::select! {
                () = tokio::time::sleep(pause(short_lives)) => {}
                _ = &mut stopped => return,
            }
            let started = tokio::select! {
                started = part.start() => started,
                _ = &mut stopped => return,
            };
            match started {
                Ok(running) => break running,
                Err(reason) => on_event(Event::StartFailed(reason)),
            }
            short_lives += 1;
        };
        on_event(Event::Replaced { pid: running.pid, after: died.elapsed() });
    }
}

/// Waits for the end of the process, and tells it meanwhile what it has to know.
async fn live(part: &mut Part, running: &mut Running) -> std::io::Result<ExitStatus> {
    let Some(feed) = &mut part.feed else { return running.child.wait().await };
    loop {
        tokio::select! {
            status = running.child.wait() => return status,
            changed = feed.changed() => {
                if changed.is_err() {
                    return running.child.wait().await;
                }
                let line = feed.borrow_and_update().clone();
                write_line(&mut running.input, &line).await;
            }
        }
    }
}

/// Errors are not looked at: a process that does not read has ended, which is noticed elsewhere.
async fn write_line(input: &mut ChildStdin, line: &str) {
    let line = format!("{line}\n");
    let _ = timeout(FEED_DEADLINE, input.write_all(line.as_bytes())).await;
}

/// How long to wait before a process is started again that has died at once this many times in a row.
pub(crate) fn pause(short_lives: u32) -> Duration {
    match short_lives.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => (FIRST_PAUSE * 2u32.pow(doublings.min(10))).min(LONGEST_PAUSE),
    }
}

/// How a process ended, in words.
pub(crate) fn ending(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("killed by signal {signal}"),
        (None, Some(code)) => format!("it exited with status {code}"),
        (None, None) => status.to_string(),
    }
}

/// A line for the person who watches; nobody may be watching any more.
pub(crate) fn say(line: impl Display) {
    let mut output = std::io::stdout().lock();
    let _ = writeln!(output, "{line}").and_then(|()| output.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_that_dies_at_once_again_and_again_waits_long() {
        assert_eq!(pause(0), Duration::ZERO);
        assert_eq!(pause(1), Duration::from_millis(200));
        assert_eq!(pause(3), Duration::from_millis(800));
        assert_eq!(pause(6), LONGEST_PAUSE);
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
    }
}
