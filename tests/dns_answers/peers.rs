//! Other people's servers with the same domain: `knotd` and `named`, started on a free port with everything in
//! a temporary folder.

use std::net::{SocketAddr, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Signal, set_parent_process_death_signal};
use tempfile::TempDir;

use crate::ask::{Ask, SOA, try_udp};
use crate::program;
use crate::support::eventually;

/// The domain that all servers of these tests answer.
pub(crate) const DOMAIN: &str = "lb.shop.test";

/// The domain as a zone file.
const ZONE: &str = "$ORIGIN lb.shop.test.
@ 3600 SOA ns1 hostmaster 1 7200 900 1209600 60
@ 3600 NS ns1
@ 3600 NS ns.other.test.
ns1 3600 A 192.0.2.1
ns1 3600 AAAA 2001:db8::1
@ 10 A 192.0.2.10
@ 10 A 192.0.2.11
@ 10 AAAA 2001:db8::10
www.eu 10 A 192.0.2.10
www.eu 10 A 192.0.2.11
www.eu 10 AAAA 2001:db8::10
";

/// The same domain as a configuration of the program.
pub(crate) const SELVEDGE: &str = r#"
domain = "lb.shop.test"
rate_limit.responses = "off"
health.enabled = false
[[dns.name_server]]
name = "ns1.lb.shop.test"
addresses = ["192.0.2.1", "2001:db8::1"]
[[dns.name_server]]
name = "ns.other.test"
[[dns.name]]
name = "lb.shop.test"
[[dns.name]]
name = "www.eu.lb.shop.test"
[[dns.node]]
ipv4 = "192.0.2.10"
ipv6 = "2001:db8::10"
[[dns.node]]
ipv4 = "192.0.2.11"
"#;

/// A running server. Dropping it ends its process.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    child: Child,
    _folder: TempDir,
}

impl Peer {
    /// Debian's Knot DNS.
    pub(crate) async fn knot() -> Self {
        let program = program("knotd", "knot");
        let (address, folder) = (free_address("127.53.0.1"), folder());
        let path = folder.path().display();
        let config = format!(
            "server:\n  listen: {ip}@{port}\n  rundir: {path}\n\
             database:\n  storage: {path}\n\
             zone:\n  - domain: {DOMAIN}\n    file: {path}/zone\n    zonefile-sync: -1\n    journal-content: none\n",
            ip = address.ip(),
            port = address.port(),
        );
        let file = folder.path().join("knot.conf");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(program);
        command.arg("-c").arg(file);
        Self::run(command, address, folder).await
    }

    /// Debian's BIND, told to leave out what nobody asked for, as Knot does by itself.
    pub(crate) async fn bind() -> Self {
        let installed = program("named", "bind9");
        // It listens on addresses of interfaces only.
        let (address, folder) = (free_address("127.0.0.1"), folder());
        let path = folder.path().display();
        let config = format!(
            "options {{ directory \"{path}\"; listen-on port {port} {{ {ip}; }}; listen-on-v6 {{ none; }}; \
             recursion no; allow-transfer {{ none; }}; minimal-responses yes; minimal-any yes; answer-cookie no; \
             dnssec-validation no; notify no; pid-file none; session-keyfile none; }};\n\
             controls {{ }};\nzone \"{DOMAIN}\" {{ type primary; file \"{path}/zone\"; }};\n",
            ip = address.ip(),
            port = address.port(),
        );
        let file = folder.path().join("named.conf");
        std::fs::write(&file, config).unwrap();
        // A copy, because AppArmor keeps the installed one from reading this folder. Made by another process: a file that
        // this one writes cannot be run while some other test forks.
        let copy = folder.path().join("named");
        let copied = Command::new("cp").arg(installed).arg(&copy).status().unwrap();
        assert!(copied.success(), "named cannot be copied");
        let mut command = Command::new(copy);
        command.args(["-g", "-n", "1", "-c"]).arg(file);
        Self::run(command, address, folder).await
    }

    async fn run(mut command: Command, address: SocketAddr, folder: TempDir) -> Self {
        let log = folder.path().join("log");
        let output = std::fs::File::create(&log).unwrap();
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        // SAFETY: between fork and exec this makes one system call and touches no memory of the parent's.
        unsafe {
            // Tests that are killed leave no process behind.
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let mut peer = Self { address, child: command.spawn().unwrap(), _folder: folder };
        let query = Ask::new(DOMAIN, SOA).bytes();
        eventually("the other server to answer", async || {
            if let Some(status) = peer.child.try_wait().unwrap() {
                panic!("{command:?} ended with {status}:\n{}", std::fs::read_to_string(&log).unwrap());
            }
            let answer = try_udp(address, &query, Duration::from_millis(200)).await;
            answer.is_some_and(|answer| answer[3] & 0x0f == 0)
        })
        .await;
        peer
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that is free over UDP and TCP at this moment, if possible on an address that nobody else uses.
fn free_address(ip: &str) -> SocketAddr {
    for _ in 0..32 {
        let udp = UdpSocket::bind((ip, 0)).unwrap();
        let address = udp.local_addr().unwrap();
        if std::net::TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("{ip} has no port that is free over UDP and TCP");
}

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("zone"), ZONE).unwrap();
    folder
}
