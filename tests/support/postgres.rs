//! PostgreSQL servers of a test's own: a primary and streaming replicas, on free ports of 127.0.0.1, in a temporary folder.
//!
//! Commits wait for one replica, as in the lab, and a replica's `cluster_name` is its zone. PostgreSQL refuses to run as root, so root
//! runs it as Debian's user `postgres`. Everything is killed and removed when dropped.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// For one program, or for a server to be up.
const DEADLINE: Duration = Duration::from_secs(60);
/// Zone of each server: the primary's first.
const ZONES: [&str; 3] = ["az_a", "az_b", "az_c"];

/// Servers that follow each other.
pub(crate) struct Cluster {
    folder: tempfile::TempDir,
    owner: Option<(u32, u32)>,
    servers: Vec<Server>,
}

struct Server {
    port: u16,
    process: Child,
}

impl Cluster {
    /// Starts a primary in zone `az-a` and up to two replicas in the others.
    pub(crate) fn start(replicas: usize) -> Self {
        Self::start_with(replicas, None)
    }

    /// The same; with a certificate and its key (PEM), no connection that is not encrypted is taken.
    pub(crate) fn start_with(replicas: usize, tls: Option<(&str, &str)>) -> Self {
        let folder = tempfile::Builder::new().prefix("postgres-").tempdir().unwrap();
        let root = rustix::process::getuid().is_root();
        let owner = root.then(|| (id("-u"), id("-g")));
        let mut cluster = Self { folder, owner, servers: Vec::new() };
        cluster.give(cluster.folder.path());
        let data = cluster.data(0);
        cluster.run(
            "initdb",
            &["--no-sync", "--auth=trust", "--username=postgres", "--locale=C", "-E", "UTF8", "-D"],
            &data,
        );
        if let Some((certificate, key)) = tls {
            cluster.write(&data.join("server.crt"), certificate);
            cluster.write(&data.join("server.key"), key);
            cluster.write(&data.join("pg_hba.conf"), "local all all trust\nhostssl all all all trust\n");
            cluster.write(&data.join("postgresql.auto.conf"), "ssl = on\n");
        }
        cluster.up(0, replicas);
        for replica in 1..=replicas {
            let data = cluster.data(replica);
            let from = cluster.conninfo(0);
            let args = ["-d", &from, "--checkpoint=fast", "--write-recovery-conf", "--no-sync", "-D"];
            cluster.run("pg_basebackup", &args, &data);
            cluster.up(replica, replicas);
        }
        for zone in &ZONES[1..=replicas] {
            let following = format!(
                "SELECT count(*) FROM pg_stat_replication WHERE application_name = '{zone}' AND state = 'streaming'"
            );
            cluster.until(0, &following, "1");
        }
        cluster
    }

    /// `postgres://` with these servers, in this order.
    pub(crate) fn url(&self, servers: &[usize]) -> String {
        let hosts: Vec<_> =
            servers.iter().map(|server| format!("localhost:{}", self.servers[*server].port)).collect();
        format!("postgres://postgres@{}/postgres", hosts.join(","))
    }

    /// What a server answers to a statement: rows by line, columns by `|`.
    pub(crate) fn ask(&self, server: usize, sql: &str) -> String {
        self.try_ask(server, sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    fn try_ask(&self, server: usize, sql: &str) -> Result<String, String> {
        let output = Command::new("psql")
            .args(["-XAtq", "-U", "postgres", "-d", "postgres", "-v", "ON_ERROR_STOP=1", "-c", sql])
            .arg("-h")
            .arg(self.folder.path())
            .args(["-p", &self.servers[server].port.to_string()])
            .env("PGCONNECT_TIMEOUT", "5")
            .output()
            .unwrap();
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Waits until a server answers this.
    pub(crate) fn until(&self, server: usize, sql: &str, answer: &str) {
        let start = Instant::now();
        loop {
            let found = self.try_ask(server, sql);
            if found.as_deref() == Ok(answer) {
                return;
            }
            assert!(start.elapsed() < DEADLINE, "{sql} is {found:?} and not {answer}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Kills a server without a word.
    pub(crate) fn kill(&mut self, server: usize) {
        let process = &mut self.servers[server].process;
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Makes a replica the primary, and lets another replica follow it.
    pub(crate) fn promote(&self, server: usize, other: Option<usize>) {
        self.ask(server, "SELECT pg_promote(true, 30)");
        if let Some(other) = other {
            let conninfo = self.conninfo(server).replace('\'', "''");
            self.ask(other, &format!("ALTER SYSTEM SET primary_conninfo = '{conninfo}'"));
            self.ask(other, "SELECT pg_reload_conf()");
        }
    }

    fn data(&self, server: usize) -> PathBuf {
        self.folder.path().join(ZONES[server])
    }

    fn conninfo(&self, server: usize) -> String {
        format!("host={} port={} user=postgres", self.folder.path().display(), self.servers[server].port)
    }

    fn up(&mut self, server: usize, replicas: usize) {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let waits = if replicas == 0 { String::new() } else { format!("ANY 1 ({})", ZONES.join(", ")) };
        let settings = [
            format!("port={port}"),
            "listen_addresses=127.0.0.1".to_owned(),
            format!("unix_socket_directories={}", self.folder.path().display()),
            format!("cluster_name={}", ZONES[server]),
            format!("synchronous_standby_names={waits}"),
            "shared_preload_libraries=pg_stat_statements".to_owned(),
            "wal_retrieve_retry_interval=200ms".to_owned(),
            "shared_buffers=16MB".to_owned(),
            "fsync=off".to_owned(),
        ];
        let log = std::fs::File::create(self.folder.path().join(format!("{}.log", ZONES[server]))).unwrap();
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data(server));
        command.args(settings.iter().flat_map(|setting| ["-c", setting]));
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        self.servers.push(Server { port, process });
        self.until(server, "SELECT 1", "1");
    }

    /// Runs one of PostgreSQL's programs, whose last argument is a data folder.
    fn run(&self, program: &str, args: &[&str], data: &Path) {
        let output = self.command(program).args(args).arg(data).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn command(&self, program: &str) -> Command {
        let program = programs().join(program);
        let mut command = match self.owner {
            None => Command::new(program),
            Some((user, group)) => {
                let mut command = Command::new("setpriv");
                command.args([
                    format!("--reuid={user}"),
                    format!("--regid={group}"),
                    "--clear-groups".to_owned(),
                ]);
                command.arg(program);
                command
            }
        };
        command.current_dir("/");
        command
    }

    fn write(&self, file: &Path, text: &str) {
        std::fs::write(file, text).unwrap();
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
        self.give(file);
    }

    fn give(&self, file: &Path) {
        if let Some((user, group)) = self.owner {
            std::os::unix::fs::chown(file, Some(user), Some(group)).unwrap();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.process.kill();
            let _ = server.process.wait();
        }
    }
}

/// The newest version that is installed.
fn programs() -> PathBuf {
    let mut found: Vec<_> = std::fs::read_dir("/usr/lib/postgresql")
        .expect("PostgreSQL is not installed: run tests/run.sh, or apt-get install postgresql")
        .map(|version| version.unwrap().path().join("bin"))
        .filter(|programs| programs.join("initdb").exists())
        .collect();
    found.sort();
    found.pop().expect("PostgreSQL is not installed: run tests/run.sh, or apt-get install postgresql")
}

fn id(which: &str) -> u32 {
    let output = Command::new("id").args([which, "postgres"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().expect("there is no user called postgres")
}
