//! Starting the shop's processes for a test, on addresses nobody else uses, and killing them.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use crate::browser::Browser;

/// For anything that should happen soon.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The example's program. Cargo names no variable for it, but builds it into a folder next to the tests.
pub(crate) fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().and_then(Path::parent).unwrap().join("examples/myclothes");
    assert!(program.exists(), "{} is not built: run `cargo build --example myclothes`", program.display());
    program
}

/// A port that is free on every address that the shop uses.
///
/// Below the ports that the system gives to outgoing connections, so that none of these takes it in the meantime.
pub(crate) fn free_port() -> u16 {
    const PORTS: std::ops::Range<u16> = 20_000..32_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    static START: Mutex<Option<u16>> = Mutex::new(None);
    let start = *START.lock().unwrap().get_or_insert_with(|| (std::process::id() % 12_000) as u16);
    for _ in PORTS {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + (start + step) % (PORTS.end - PORTS.start);
        let free =
            |ip: Ipv4Addr| TcpListener::bind((ip, port)).is_ok() && UdpSocket::bind((ip, port)).is_ok();
        let instances = (1..=3).flat_map(|net| (1..=4).map(move |number| Ipv4Addr::new(127, 0, net, number)));
        if instances.chain([Ipv4Addr::LOCALHOST]).all(free) {
            return port;
        }
    }
    panic!("no free port")
}

/// Waits until something is true, which must be soon.
pub(crate) async fn until<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    until_within(SOON, what, look).await
}

/// Waits until something is true.
pub(crate) async fn until_within<T>(
    limit: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Sends a signal to one process.
pub(crate) fn send_signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.cast_signed()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Whether a process runs; one that has ended and was not waited for does not.
pub(crate) fn runs(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'))
}

/// One instance, without a supervisor. Killed when dropped.
pub(crate) struct Instance {
    pub(crate) address: SocketAddr,
    pub(crate) child: Child,
    /// Ends when dropped, and the instance with it.
    pub(crate) input: Option<ChildStdin>,
}

impl Instance {
    /// Starts an instance of zone `az-a` with this number.
    pub(crate) async fn start(data: &Path, number: u8) -> Self {
        Self::start_with(data, number, &[]).await
    }

    /// The same with more options.
    pub(crate) async fn start_with(data: &Path, number: u8, options: &[&str]) -> Self {
        Self::start_in(data, number, options, &[]).await
    }

    /// The same with something in its environment.
    pub(crate) async fn start_in(
        data: &Path,
        number: u8,
        options: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let address = SocketAddr::from((Ipv4Addr::new(127, 0, 1, number), free_port()));
        let mut child = Command::new(program())
            .args(["instance", "--supervised", "--drain-delay", "1", "--zone", "az-a"])
            .args(["--name", &format!("az-a-{number}"), "--address", &address.to_string()])
            .arg("--data")
            .arg(data)
            .args(options)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        tokio::time::timeout(SOON, output.read_line(&mut line)).await.unwrap().unwrap();
        assert!(line.starts_with("ready"), "the instance did not start: {line:?}");
        let input = child.stdin.take();
        Self { address, child, input }
    }

    /// A visitor of this instance.
    pub(crate) fn browser(&self) -> Browser {
        Browser::new(self.address)
    }
}

/// The whole system. Killed when dropped; its parts end with it.
pub(crate) struct System {
    pub(crate) child: Child,
    pub(crate) proxy: SocketAddr,
    pub(crate) dns: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// Port of the instances.
    pub(crate) port: u16,
    /// Name and process id of each part, as announced.
    pub(crate) announced: Vec<(String, u32)>,
    pub(crate) data: tempfile::TempDir,
}

impl System {
    /// Starts everything with two instances in each of the zones, and waits for the announcement.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with more options.
    pub(crate) async fn start_with(options: &[&str]) -> Self {
        let data = tempfile::tempdir().unwrap();
        let [proxy, admin, dns] = [(); 3].map(|()| SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())));
        let port = free_port();
        let mut child = Command::new(program())
            .args(["--listen", &proxy.to_string(), "--admin", &admin.to_string(), "--dns", &dns.to_string()])
            .args(["--port", &port.to_string(), "--data"])
            .arg(data.path())
            .args(options)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut announced = Vec::new();
        loop {
            let line = tokio::time::timeout(SOON, lines.next_line()).await.unwrap().unwrap();
            let line = line.expect("the system ended instead of announcing itself");
            let words: Vec<_> = line.split_whitespace().collect();
            if let (Some(name), Some(Ok(pid))) = (words.first(), words.last().map(|word| word.parse()))
                && words.len() > 2
            {
                announced.push(((*name).to_owned(), pid));
            }
            if line.contains("Ctrl-C") {
                break;
            }
        }
        // Whoever writes into a pipe that nobody reads stops at some point.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { child, proxy, dns, admin, port, announced, data }
    }

    /// Names and addresses of the instances.
    pub(crate) fn instances(&self) -> Vec<(String, SocketAddr)> {
        let places = ["az-a", "az-b", "az-c"].into_iter().zip(1u8..);
        places
            .flat_map(|(zone, net)| (1..=2u8).map(move |number| (zone, net, number)))
            .map(|(zone, net, number)| {
                (
                    format!("{zone}-{number}"),
                    SocketAddr::from((Ipv4Addr::new(127, 0, net, number), self.port)),
                )
            })
            .collect()
    }

    /// Asks an instance itself for its process id; `None` while it is dead.
    pub(crate) async fn pid_of(&self, instance: SocketAddr) -> Option<u32> {
        let answer = Browser::new(instance).try_send(http::Method::GET, "/api/whoami", &[], "").await.ok()?;
        answer.json()["pid"].as_u64().map(|pid| u32::try_from(pid).unwrap())
    }
}

/// Runs the program to its end, which must come soon.
pub(crate) async fn run_to_end(args: &[&str]) -> Output {
    let child = Command::new(program()).args(args).stdin(Stdio::null()).kill_on_drop(true).output();
    tokio::time::timeout(SOON, child).await.expect("it still runs").unwrap()
}
