//! The node as a service of systemd: what it tells, what it is passed, and the units that come with it.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{Client, Edge, Gate, Group, Origin, Raw, Reply, Setup, eventually};

/// What stands for systemd: the socket that `NOTIFY_SOCKET` names, and all that was told so far.
struct Systemd {
    folder: tempfile::TempDir,
    socket: UnixDatagram,
    told: Vec<String>,
    /// The same, and nothing is forgotten.
    ever: Vec<String>,
}

impl Systemd {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { folder, socket, told: Vec::new(), ever: Vec::new() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("notify")
    }

    /// `setup` as a service of this.
    fn runs(&self, setup: Setup) -> Setup {
        setup.environment("NOTIFY_SOCKET", self.path().to_str().unwrap())
    }

    fn listen(&mut self) {
        let mut message = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut message) {
            let told = String::from_utf8(message[..length].to_vec()).unwrap();
            self.ever.push(told.clone());
            self.told.push(told);
        }
    }

    /// Waits for a message with all of these lines, or beginnings of lines; forgets all before it.
    async fn is_told(&mut self, lines: &[&str]) -> String {
        let has = |message: &str, line: &&str| message.lines().any(|told| told.starts_with(*line));
        let mut found = None;
        eventually(&format!("systemd to be told {lines:?}"), async || {
            self.listen();
            found = self.told.iter().position(|told| lines.iter().all(|line| has(told, line)));
            found.is_some()
        })
        .await;
        self.told.drain(..=found.unwrap()).next_back().unwrap()
    }
}

#[tokio::test]
async fn systemd_is_told_of_start_reload_and_stop() {
    let gate = Gate::closed();
    let at_origin = gate.clone();
    let origin = Origin::raw(move |mut conn| {
        let gate = at_origin.clone();
        async move {
            while let Some(request) = conn.request().await {
                gate.pass().await;
                conn.send(Reply::ok("finished").bytes(&request.method)).await;
            }
        }
    })
    .await;
    let mut systemd = Systemd::new();
    let mut edge = systemd.runs(Edge::before(&origin).and("[shutdown]\ndeadline = \"60s\"")).start().await;
    systemd.is_told(&["READY=1", "STATUS=serving: 1 listeners, 1 pools, 1 of 1 targets in service"]).await;
    edge.hang_up();
    let reloading = systemd.is_told(&["RELOADING=1", "MONOTONIC_USEC="]).await;
    let at = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
    assert!(at.parse::<u64>().unwrap() > 0);
    systemd.is_told(&["READY=1", "STATUS=configuration 2 runs"]).await;
    edge.write("colour = \"red\"");
    edge.hang_up();
    systemd.is_told(&["RELOADING=1"]).await;
    systemd.is_told(&["READY=1", "STATUS=the last reload was refused"]).await;
    let mut raw = Raw::connect(&edge).await;
    raw.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    origin.received(1).await;
    edge.terminate();
    systemd.is_told(&["STOPPING=1", "STATUS=stopping: 1 connections"]).await;
    systemd.is_told(&["EXTEND_TIMEOUT_USEC=10000000", "STATUS=stopping"]).await;
    gate.open();
    assert_eq!(raw.response().await.status, 200);
    assert_eq!(edge.exit().await.code(), Some(0));
}

#[tokio::test]
async fn the_watchdog_is_fed_by_a_node_that_is_well() {
    let origin = Origin::start().await;
    let mut systemd = Systemd::new();
    let setup = systemd.runs(Edge::before(&origin)).environment("WATCHDOG_USEC", "4000000");
    let edge = setup.start().await;
    for _ in 0..3 {
        systemd.is_told(&["WATCHDOG=1"]).await;
    }
    assert!(!edge.log().contains("stands still"), "{}", edge.log());
}

#[tokio::test]
async fn the_watchdog_of_another_process_is_not_fed() {
    let origin = Origin::start().await;
    let mut systemd = Systemd::new();
    let setup = systemd.runs(Edge::before(&origin)).environment("WATCHDOG_USEC", "1000");
    let edge = setup.environment("WATCHDOG_PID", "1").start().await;
    systemd.is_told(&["READY=1"]).await;
    edge.hang_up();
    systemd.is_told(&["READY=1", "STATUS=configuration 2 runs"]).await;
    systemd.listen();
    assert!(!systemd.ever.iter().any(|told| told.contains("WATCHDOG")), "{:?}", systemd.ever);
}

/// Where sockets are on their way through a shell: beyond what else is open.
const FAR: i32 = 900;

/// Runs the program as systemd would run it with these sockets, named so; what it has written to its end, or until it listens.
fn activated(config: &Path, names: &str, count: usize, sockets: &[&TcpListener]) -> (Group, Vec<String>) {
    // The shell puts them where systemd does, and becomes the program, so that LISTEN_PID is right.
    let moves: Vec<_> = (0..sockets.len()).map(|at| format!("{}<&{}", 3 + at, FAR + at as i32)).collect();
    let moves = if moves.is_empty() { ":".to_owned() } else { format!("exec {}", moves.join(" ")) };
    let script = format!(
        "{moves}; LISTEN_PID=$$ LISTEN_FDS={count} LISTEN_FDNAMES={names} exec {} run --config {}",
        env!("CARGO_BIN_EXE_selvedge"),
        config.display()
    );
    let mut command = Command::new("bash");
    command.args(["-c", &script]).stdin(Stdio::null()).stderr(Stdio::piped()).env("NO_COLOR", "1");
    let raw: Vec<_> = sockets.iter().map(|socket| socket.as_raw_fd()).collect();
    // SAFETY: between fork and exec this makes system calls only.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            for (at, raw) in raw.iter().enumerate() {
                if libc::dup2(*raw, FAR + at as i32) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    let mut child = Group::spawn(&mut command);
    let mut lines = Vec::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        lines.push(line.unwrap());
        if lines[lines.len() - 1].contains("admin API") {
            break;
        }
    }
    (child, lines)
}

#[tokio::test]
async fn sockets_of_systemd_are_listeners_by_name_and_a_wrong_one_is_a_clear_error() {
    let origin = Origin::start().await;
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("selvedge.toml");
    let (web, other) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let at = |socket: &TcpListener| socket.local_addr().unwrap();
    // The workers share the one socket.
    std::fs::write(&config, Edge::before(&origin).top("workers = 3").text()).unwrap();
    let (mut child, lines) = activated(&config, "web", 1, &[&web]);
    assert!(lines.iter().any(|line| line.contains(&format!("{}", at(&web)))), "{lines:?}");
    for _ in 0..30 {
        assert_eq!(Client::to(at(&web)).get("/").await.status, 200);
    }
    child.end();
    // Without a name that fits it is found by its address.
    let text = Edge::before(&origin).text().replacen("127.0.0.1:0", &at(&web).to_string(), 1);
    std::fs::write(&config, text).unwrap();
    let (mut child, _) = activated(&config, "selvedge.socket", 1, &[&web]);
    assert_eq!(Client::to(at(&web)).get("/").await.status, 200);
    child.end();
    for (names, sockets, expected) in [
        ("web", vec![&other], "and listener.address says"),
        ("web:odd", vec![&web, &other], "no listener has that name"),
    ] {
        let (mut child, lines) = activated(&config, names, sockets.len(), &sockets);
        assert_eq!(child.wait().unwrap().code(), Some(1), "{lines:?}");
        assert!(lines.iter().any(|line| line.contains(expected)), "{expected}: {lines:?}");
    }
}

/// The unit called `name` with the built program in the place of the installed one.
fn unit(folder: &Path, name: &str) -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/systemd").join(name);
    let text = std::fs::read_to_string(from).unwrap();
    let path = folder.join(name);
    std::fs::write(&path, text.replace("/usr/bin/selvedge", env!("CARGO_BIN_EXE_selvedge"))).unwrap();
    path
}

/// Runs systemd-analyze; `None` where it is not installed.
fn analyze(arguments: &[&str]) -> Option<(bool, String)> {
    let output = Command::new("systemd-analyze").args(arguments).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8(text).unwrap()))
}

#[test]
fn the_units_are_good_and_the_service_is_hardened() {
    let Some((_, version)) = analyze(&["--version"]) else {
        println!("systemd-analyze is not installed");
        return;
    };
    let version: u32 = version.split_whitespace().nth(1).unwrap().parse().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let service = unit(folder.path(), "selvedge.service");
    let socket = unit(folder.path(), "selvedge.socket");
    let (service_path, socket_path) = (service.to_str().unwrap(), socket.to_str().unwrap());
    let (good, said) = analyze(&["verify", "--man=no", service_path, socket_path]).unwrap();
    // The unit is also good for older ones, which report the one word that they do not know.
    let unknown = |line: &&str| version < 253 && line.ends_with("ignoring: notify-reload");
    assert!(good && said.lines().all(|line| unknown(&line)), "{said}");
    let (good, said) =
        analyze(&["security", "--offline=true", "--threshold=20", service.to_str().unwrap()]).unwrap();
    assert!(good, "exposure at most 2.0 expected:\n{said}");
    assert!(said.contains("Overall exposure level"), "{said}");
}
