//! The program under test: the built binary in a process of its own, with a configuration of the test's.
//!
//! Everything binds to port 0 and is found in the log. Dropping an [`Edge`] ends its own process, those that have taken its place,
//! and no other, and fails the test if the program panicked anywhere on the way.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{
    Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit, set_parent_process_death_signal,
    setrlimit,
};
use tempfile::TempDir;

use super::client::Client;
use super::group::Group;
use super::message::Response;
use super::origin::{Origin, Refusing, Silent};
use super::{eventually, within};

/// The program as it was built.
const PROGRAM: &str = env!("CARGO_BIN_EXE_selvedge");

/// A running node.
pub struct Edge {
    /// Address of the listener called `web`.
    pub web: SocketAddr,
    /// Address of the admin API.
    pub admin: SocketAddr,
    child: Group,
    log: Log,
    folder: TempDir,
}

type Log = Arc<Mutex<Vec<String>>>;

/// A configuration in the making: one route to one pool called `shop`, no health checks and no sessions unless the pool's
/// lines say so, one worker unless the top's lines say so.
#[derive(Default)]
pub struct Setup {
    top: String,
    listener: String,
    route: String,
    pool: String,
    targets: String,
    rest: String,
    environment: Vec<(String, String)>,
    open_files: Option<u64>,
    program: Option<PathBuf>,
}

/// What a pool can name as a target.
pub trait Address {
    /// Where it is.
    fn address(&self) -> SocketAddr;
}

impl Address for SocketAddr {
    fn address(&self) -> SocketAddr {
        *self
    }
}

impl Address for Origin {
    fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Address for Refusing {
    fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Address for Silent {
    fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Setup {
    /// One more target.
    pub fn target(self, target: &impl Address) -> Self {
        self.target_with(target, "")
    }

    /// One more target, with more keys, such as `zone = "az-b"`.
    pub fn target_with(mut self, target: &impl Address, keys: &str) -> Self {
        let address = target.address();
        self.targets += &format!("[[pool.shop.target]]\naddress = \"{address}\"\n{keys}\n");
        self
    }

    /// One more name in DNS, with keys such as `dns = "shop.test"`.
    pub fn discover(mut self, keys: &str) -> Self {
        self.targets += &format!("[[pool.shop.discover]]\n{keys}\n");
        self
    }

    /// More keys before the first table.
    pub fn top(mut self, lines: &str) -> Self {
        self.top += &format!("{lines}\n");
        self
    }

    /// More keys of the listener.
    pub fn listener(mut self, lines: &str) -> Self {
        self.listener += &format!("{lines}\n");
        self
    }

    /// More keys of the route.
    pub fn route(mut self, lines: &str) -> Self {
        self.route += &format!("{lines}\n");
        self
    }

    /// More keys of the pool, such as `timeouts.idle = "300ms"`.
    pub fn pool(mut self, lines: &str) -> Self {
        self.pool += &format!("{lines}\n");
        self
    }

    /// Tables after all others.
    pub fn and(mut self, tables: &str) -> Self {
        self.rest += &format!("{tables}\n");
        self
    }

    /// One more variable of the program's environment.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// File descriptors that the program may have open, as `ulimit -n` sets it.
    pub fn open_files(mut self, most: u64) -> Self {
        self.open_files = Some(most);
        self
    }

    /// A copy of the program that is started instead of the one that was built.
    pub fn program(mut self, path: &Path) -> Self {
        self.program = Some(path.to_owned());
        self
    }

    /// The configuration's text.
    pub fn text(&self) -> String {
        let Self { top, listener, route, pool, targets, rest, .. } = self;
        let mut text = top.clone();
        if !top.contains("workers") {
            text += "workers = 1\n";
        }
        text += &format!("[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n{listener}\n");
        if !targets.is_empty() {
            text += &format!("[[route]]\npool = \"shop\"\n{route}\n[pool.shop]\n{pool}\n");
            if !pool.contains("health.") {
                text += "health.enabled = false\n";
            }
            if !pool.contains("stickiness.") {
                text += "stickiness.mode = \"off\"\n";
            }
            text += targets;
        }
        text += rest;
        if !rest.contains("[admin]") {
            text += "\n[admin]\naddress = \"127.0.0.1:0\"\n";
        }
        text
    }

    /// Starts it, and waits until it is ready.
    pub async fn start(self) -> Edge {
        let edge = self.start_unready().await;
        edge.ready().await;
        edge
    }

    /// Starts it, and waits until it listens.
    pub async fn start_unready(self) -> Edge {
        let program = self.program.as_deref().unwrap_or(Path::new(PROGRAM));
        Edge::start_in(program, &self.text(), &self.environment, Stdio::null(), self.open_files).await
    }
}

impl Edge {
    /// A configuration with this origin as its only target.
    pub fn before(origin: &impl Address) -> Setup {
        Setup::default().target(origin)
    }

    /// A configuration with these origins as targets.
    pub fn before_all(origins: &[&Origin]) -> Setup {
        origins.iter().fold(Setup::default(), |setup, origin| setup.target(*origin))
    }

    /// A configuration that sends `/0…` to the first origin, `/1…` to the second, and so on: each is the only target of
    /// a pool of its own, `p0`, `p1`, ….
    pub fn before_each(origins: &[Origin]) -> Setup {
        origins.iter().enumerate().fold(Setup::default(), |setup, (index, origin)| {
            setup.and(&format!(
                "[[route]]\npath = \"/{index}\"\npool = \"p{index}\"\n[pool.p{index}]\nhealth.enabled = false\n\
                 stickiness.mode = \"off\"\n[[pool.p{index}.target]]\naddress = \"{origin}\""
            ))
        })
    }

    /// A configuration whose targets are found in DNS by asking `servers`.
    pub fn asking(servers: &[SocketAddr]) -> Setup {
        let servers: Vec<_> = servers.iter().map(|server| format!("\"{server}\"")).collect();
        Setup::default().and(&format!("[resolver]\nnameservers = [{}]\n", servers.join(", ")))
    }

    /// A configuration without a pool.
    pub fn without_pool() -> Setup {
        Setup::default()
    }

    /// Starts the program with this configuration, and waits until it is ready.
    pub async fn start(config: &str) -> Self {
        let edge = Self::start_unready(config).await;
        edge.ready().await;
        edge
    }

    /// Starts the program with this configuration, and waits until it listens.
    pub async fn start_unready(config: &str) -> Self {
        Self::start_in(Path::new(PROGRAM), config, &[], Stdio::null(), None).await
    }

    /// The same with this standard output.
    pub async fn start_writing_to(stdout: Stdio, config: &str) -> Self {
        Self::start_in(Path::new(PROGRAM), config, &[], stdout, None).await
    }

    async fn start_in(
        program: &Path,
        config: &str,
        environment: &[(String, String)],
        stdout: Stdio,
        open_files: Option<u64>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = prepared(program, &folder, config, environment, stdout, open_files);
        let mut child = Group::spawn(&mut command);
        let log = Log::default();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let into = log.clone();
        std::thread::spawn(move || {
            for line in stderr.lines() {
                let Ok(line) = line else { break };
                into.lock().unwrap().push(plain(&line));
            }
        });
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut edge = Self { web: unknown, admin: unknown, child, log, folder };
        edge.web = edge.address_of("web").await;
        edge.admin = edge.logged_address(|line| line.contains("admin")).await;
        edge
    }

    /// Waits until `/readyz` says 200.
    pub async fn ready(&self) {
        eventually("/readyz to say 200", async || {
            let answer = self.admin_client().try_request("GET", "/readyz", &[], b"").await;
            answer.is_ok_and(|answer| answer.status == 200)
        })
        .await;
    }

    /// Where the listener of this name listens.
    pub async fn address_of(&mut self, listener: &str) -> SocketAddr {
        let name = format!("name={listener} ");
        self.logged_address(move |line| {
            line.contains("listening") && format!("{line} ").replace('"', "").contains(&name)
        })
        .await
    }

    /// Where it answers DNS.
    pub async fn dns_address(&mut self) -> SocketAddr {
        self.logged_address(|line| line.contains("answering DNS")).await
    }

    async fn logged_address(&mut self, of: impl Fn(&str) -> bool) -> SocketAddr {
        let mut found = None;
        eventually("the address of a listener in the log", async || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the program ended with {status}:\n{}", self.log());
            }
            let log = self.log.lock().unwrap();
            found = log.iter().filter(|line| of(line)).find_map(|line| address_in(line));
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    /// Number of its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Numbers of the processes that it has started to take its place.
    pub fn successors(&self) -> Vec<u32> {
        let log = self.log.lock().unwrap();
        let started = log.iter().filter(|line| line.contains("a new process is started to take over"));
        let pid = |line: &String| {
            let (_, rest) = line.split_once("pid=")?;
            rest.split_whitespace().next()?.parse::<u32>().ok()
        };
        started.filter_map(pid).collect()
    }

    /// Answer of the admin API to a request for an upgrade.
    pub async fn upgrade(&self) -> Response {
        self.admin_client().request("POST", "/v1/upgrade", &["Connection: close"], b"").await
    }

    /// The same; panics if it is refused.
    pub async fn is_upgraded(&self) {
        let answer = self.upgrade().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// Sends SIGUSR2.
    pub fn ask_for_upgrade(&self) {
        kill_process(Pid::from_child(&self.child), Signal::USR2).expect("SIGUSR2 can be sent");
    }

    /// Sends a signal to a process that has taken its place.
    pub fn signal_successor(&self, pid: u32, signal: Signal) {
        let _ = Pid::from_raw(pid as i32).map(|pid| kill_process(pid, signal));
    }

    /// Everything logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// Waits for a line of the log that contains all of these.
    pub async fn logged(&self, parts: &[&str]) {
        eventually(&format!("a log line with {parts:?}"), async || {
            self.log.lock().unwrap().iter().any(|line| parts.iter().all(|part| line.contains(part)))
        })
        .await;
    }

    /// Answer of the admin API to GET `target`.
    pub async fn admin(&self, target: &str) -> Response {
        self.admin_client().get_with(target, &["Connection: close"]).await
    }

    fn admin_client(&self) -> Client {
        let mut client = Client::to(self.admin);
        client.host = self.admin.to_string();
        client
    }

    /// Sum of the series that a selector such as `selvedge_refusals_total{reason="host"}` names; labels it does not
    /// mention may have any value. 0 when there is none.
    pub async fn metric(&self, selector: &str) -> u64 {
        let (name, wanted) = series(selector);
        let text = self.admin("/metrics").await.text();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let sum: f64 = lines
            .filter_map(|line| line.rsplit_once(' '))
            .filter(|(key, _)| {
                let (this, labels) = series(key);
                this == name && wanted.iter().all(|label| labels.contains(label))
            })
            .map(|(_, value)| value.parse::<f64>().unwrap())
            .sum();
        sum as u64
    }

    /// Waits until the series that `selector` names sum up to `count`: a count may follow the answer that it counts.
    pub async fn counts(&self, selector: &str, count: u64) {
        let mut last = 0;
        let reached = tokio::time::timeout(super::PATIENCE / 3, async {
            eventually("a count", async || {
                last = self.metric(selector).await;
                last == count
            })
            .await;
        })
        .await;
        assert!(reached.is_ok(), "{selector} is {last}, expected {count}");
    }

    /// The file that it was started with, `selvedge.toml`.
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("selvedge.toml")
    }

    /// Writes another configuration into that file.
    pub fn write(&self, config: &str) {
        std::fs::write(self.config(), config).unwrap();
    }

    /// Answer of the admin API to a request for a reload.
    pub async fn reload(&self) -> Response {
        self.admin_client().request("POST", "/v1/reload", &["Connection: close"], b"").await
    }

    /// Writes another configuration and has it reloaded; panics if it is refused.
    pub async fn becomes(&self, config: &str) {
        self.write(config);
        let answer = self.reload().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// How many configurations have run.
    pub async fn generation(&self) -> u64 {
        self.metric("selvedge_config_generation").await
    }

    /// Inodes of its sockets that listen on `port`, in order.
    pub fn listening(&self, port: u16) -> Vec<u64> {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let of_port = table.lines().skip(1).filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let here = fields[1].ends_with(&format!(":{port:04X}")) && fields[3] == "0A";
            here.then(|| fields[9].parse::<u64>().unwrap())
        });
        let inodes: Vec<_> = of_port.collect();
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        let links = open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
        let ours: Vec<_> = links.map(|link| link.to_string_lossy().into_owned()).collect();
        let mut inodes: Vec<_> =
            inodes.into_iter().filter(|inode| ours.contains(&format!("socket:[{inode}]"))).collect();
        inodes.sort_unstable();
        inodes
    }

    /// Resident memory of the process, in bytes.
    pub fn rss(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Lets it open so many file descriptors more than are open now.
    pub fn leave_descriptors(&self, count: u64) {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count() as u64;
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = Some(open + count);
        prlimit(Some(Pid::from_child(&self.child)), Resource::Nofile, limit).expect("limits can be lowered");
    }

    /// Sends SIGHUP.
    pub fn hang_up(&self) {
        kill_process(Pid::from_child(&self.child), Signal::HUP).expect("SIGHUP can be sent");
    }

    /// Sends SIGUSR1.
    pub fn log_was_moved(&self) {
        kill_process(Pid::from_child(&self.child), Signal::USR1).expect("SIGUSR1 can be sent");
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("SIGTERM can be sent");
    }

    /// Waits for the process to end by itself.
    pub async fn exit(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the program to end", async || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }

    /// Sends SIGTERM and waits for the end.
    pub async fn stop_gracefully(&mut self) -> ExitStatus {
        self.terminate();
        self.exit().await
    }

    /// Runs the program with a configuration that it cannot run with: its exit code, and what it wrote.
    pub async fn refuses(config: &str) -> (Option<i32>, String) {
        let folder = tempfile::tempdir().unwrap();
        let mut command = prepared(Path::new(PROGRAM), &folder, config, &[], Stdio::null(), None);
        let output = tokio::task::spawn_blocking(move || command.output());
        let output = within("the program to give up", output).await.unwrap().unwrap();
        (output.status.code(), plain(&String::from_utf8_lossy(&output.stderr)))
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.child.end();
        let log = self.log();
        if std::thread::panicking() {
            eprintln!("--- log of the edge\n{log}\n---");
        } else {
            assert!(!log.contains("panicked at"), "the edge panicked:\n{log}");
        }
    }
}

/// A program in the form of a shell script. Written by another process, as one that this process writes could not be started
/// while a fork of it holds it open.
pub fn script(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    let write = "printf '#!/bin/sh\n%s\n' \"$2\" > \"$1\" && chmod 755 \"$1\"";
    let written = Command::new("sh").args(["-c", write, "sh"]).arg(&path).arg(text).status().unwrap();
    assert!(written.success());
    path
}

/// A file for session keys with one fresh key, as `selvedge keys new` prints it.
pub fn session_keys(folder: &TempDir) -> PathBuf {
    let output = Command::new(env!("CARGO_BIN_EXE_selvedge")).args(["keys", "new"]).output().unwrap();
    assert!(output.status.success(), "keys new: {output:?}");
    let path = folder.path().join("session.keys");
    std::fs::write(&path, output.stdout).unwrap();
    path
}

/// The command that starts it.
fn prepared(
    program: &Path,
    folder: &TempDir,
    config: &str,
    environment: &[(String, String)],
    stdout: Stdio,
    open_files: Option<u64>,
) -> Command {
    let path = folder.path().join("selvedge.toml");
    std::fs::write(&path, config).unwrap();
    // Who the node becomes may read its configuration.
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new(program);
    command.args(["run", "--config"]).arg(path).env_remove("SELVEDGE_ZONE").env_remove("NOTIFY_SOCKET");
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
    // SAFETY: between fork and exec this makes two system calls and touches no memory of the parent's.
    unsafe {
        command.pre_exec(move || {
            if open_files.is_some() {
                setrlimit(Resource::Nofile, Rlimit { current: open_files, maximum: open_files })?;
            }
            // Tests that are killed leave no process behind.
            Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
        });
    }
    command
}

/// `line` without terminal colours.
fn plain(line: &str) -> String {
    let mut text = String::new();
    let mut parts = line.split("\u{1b}[");
    text += parts.next().unwrap_or_default();
    for part in parts {
        text += part.split_once('m').map_or(part, |(_, rest)| rest);
    }
    text
}

fn address_in(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("address=")?;
    rest.split_whitespace().next()?.trim_matches('"').parse().ok()
}

/// Name and labels of `name{label="value",…}`.
fn series(text: &str) -> (&str, Vec<(&str, &str)>) {
    let Some((name, labels)) = text.split_once('{') else { return (text, Vec::new()) };
    let labels = labels.trim_end_matches('}').split("\",").filter_map(|pair| pair.split_once("=\""));
    (name, labels.map(|(label, value)| (label.trim(), value.trim_end_matches('"'))).collect())
}
