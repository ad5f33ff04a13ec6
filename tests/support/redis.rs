//! Redis servers of a test: on free ports, with their files in a temporary folder, killed when dropped.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// For a server to start, and for several to agree.
const SOON: Duration = Duration::from_secs(60);

/// One `redis-server`, as server or as Sentinel.
pub(crate) struct Server {
    pub(crate) port: u16,
    program: &'static str,
    child: Child,
    folder: tempfile::TempDir,
}

impl Server {
    /// Starts a server with these lines in its configuration, and waits until it answers.
    pub(crate) fn start(config: &str) -> Self {
        Self::start_as("redis-server", config)
    }

    fn start_as(program: &'static str, config: &str) -> Self {
        for _ in 0..5 {
            let folder = tempfile::tempdir().unwrap();
            let port = free_port();
            let mut text = format!("bind 127.0.0.1\nport {port}\ndir {}\n", folder.path().display());
            if program == "redis-server" {
                text += "save \"\"\nrepl-diskless-sync-delay 0\nrepl-timeout 5\n";
            }
            let file = folder.path().join("redis.conf");
            std::fs::write(&file, text + config).unwrap();
            let mut server = Self { port, program, child: run(program, &file), folder };
            if server.answers() {
                return server;
            }
        }
        panic!("{program} does not start")
    }

    /// Waits until it answers; `false` if it ends, as another process may have taken the port meanwhile.
    fn answers(&mut self) -> bool {
        let start = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            let answer = self.ask(&["PING"]).unwrap_or_default();
            if answer.contains("PONG") || answer.contains("NOAUTH") {
                return true;
            }
            assert!(start.elapsed() < SOON, "{} does not answer", self.program);
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    /// Sends one command; what came back within a second, as it is on the wire.
    pub(crate) fn ask(&self, command: &[&str]) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        let mut text = format!("*{}\r\n", command.len());
        for part in command {
            write!(text, "${}\r\n{part}\r\n", part.len()).ok()?;
        }
        stream.write_all(text.as_bytes()).ok()?;
        let mut answer = vec![0; 1 << 16];
        let length = stream.read(&mut answer).ok()?;
        Some(String::from_utf8_lossy(&answer[..length]).into_owned())
    }

    /// Asks until the answer holds something.
    pub(crate) fn ask_until(&self, command: &[&str], wanted: &str) {
        let start = Instant::now();
        loop {
            let answer = self.ask(command).unwrap_or_default();
            if answer.contains(wanted) {
                return;
            }
            assert!(start.elapsed() < SOON, "{command:?} never said {wanted}: {answer}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it at once.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again where it was, without what it had in memory.
    pub(crate) fn revive(&mut self) {
        let start = Instant::now();
        loop {
            self.child = run(self.program, &self.folder.path().join("redis.conf"));
            if self.answers() {
                return;
            }
            assert!(start.elapsed() < SOON, "{} does not start again", self.program);
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A primary with two replicas and three Sentinels.
pub(crate) struct Watched {
    pub(crate) servers: Vec<Server>,
    pub(crate) sentinels: Vec<Server>,
}

impl Watched {
    /// Starts all, and waits until everybody knows everybody.
    pub(crate) fn start() -> Self {
        let primary = Server::start("");
        let of = format!("replicaof 127.0.0.1 {}\nrepl-ping-replica-period 1\n", primary.port);
        let servers = vec![Server::start(&of), Server::start(&of)];
        let servers: Vec<_> = std::iter::once(primary).chain(servers).collect();
        for replica in &servers[1..] {
            // Only then does the primary wait for it.
            servers[0].ask_until(&["INFO", "replication"], &format!("port={},state=online", replica.port));
        }
        let config = format!(
            "sentinel monitor shop 127.0.0.1 {} 2\nsentinel down-after-milliseconds shop 2000\n\
             sentinel failover-timeout shop 10000\n",
            servers[0].port
        );
        let sentinels: Vec<_> = (0..3).map(|_| Server::start_as("redis-sentinel", &config)).collect();
        for sentinel in &sentinels {
            sentinel.ask_until(&["SENTINEL", "ckquorum", "shop"], "OK 3 usable");
            sentinel.ask_until(&["INFO", "sentinel"], "slaves=2,sentinels=3");
        }
        Self { servers, sentinels }
    }

    /// What `--carts` takes.
    pub(crate) fn place(&self) -> String {
        let sentinels: Vec<_> = self.sentinels.iter().map(Server::address).collect();
        format!("redis+sentinel://{}/shop", sentinels.join(","))
    }
}

fn run(program: &str, config: &Path) -> Child {
    Command::new(program)
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{program} (Debian: redis-server, redis-sentinel): {error}"))
}

fn free_port() -> u16 {
    // Below 55536, so that a server of a cluster has its second port too.
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if port < 55_000 {
            return port;
        }
    }
}
