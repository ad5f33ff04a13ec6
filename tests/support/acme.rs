//! An authority that gives certificates by ACME: Debian's `pebble`, in a process of its own, with names from a DNS server of the
//! test's. Dropping it ends it.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::json;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::{Authority, Dns, eventually, within};

/// An authority that is not running yet, but has its address.
pub struct Pebble {
    /// Signs what its directory shows of itself.
    pub own: Authority,
    directory: SocketAddr,
    management: SocketAddr,
    folder: TempDir,
    child: Option<Child>,
}

impl Pebble {
    /// One that does not answer yet.
    pub fn new() -> Self {
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let held = [free(), free()];
        let [directory, management] = [0, 1].map(|index: usize| held[index].local_addr().unwrap());
        let folder = tempfile::tempdir().unwrap();
        Self { own: Authority::new("pebble"), directory, management, folder, child: None }
    }

    /// The table that makes a node use it, with its certificates kept in `storage`.
    pub fn toml(&self, storage: &std::path::Path, more: &str) -> String {
        format!(
            "[acme]\ndirectory = \"https://{}/dir\"\nterms_of_service_agreed = true\ncontacts = [\"ops@shop.test\"]\n\
             retry = \"200ms\"\nstorage = \"{}\"\nca = \"{}\"\n{more}\n",
            self.directory,
            storage.display(),
            self.own.bundle().display()
        )
    }

    /// Begins to answer: looks for proofs at these ports of the addresses that `names` gives, and gives certificates that are
    /// valid for so many seconds.
    pub async fn start(&mut self, http: u16, tls: u16, names: &Dns, valid_seconds: u64) {
        let issued = self.own.issue("directory", &["127.0.0.1", "localhost"]);
        let config = json!({ "pebble": {
            "listenAddress": self.directory.to_string(),
            "managementListenAddress": self.management.to_string(),
            "certificate": issued.cert,
            "privateKey": issued.key,
            "httpPort": http,
            "tlsPort": tls,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
            "certificateValidityPeriod": valid_seconds,
        }});
        let file = self.folder.path().join("pebble.json");
        fs::write(&file, config.to_string()).unwrap();
        let mut command = Command::new("pebble");
        command.arg("-config").arg(&file).args(["-dnsserver", &names.address.to_string()]);
        // It sleeps for seconds before it looks otherwise; and a client has to bear that a nonce is refused now and then.
        command
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_WFE_NONCEREJECT", "10")
            .env("PEBBLE_AUTHZREUSE", "0");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        self.child = Some(command.spawn().expect("pebble is installed: see tests/run.sh"));
        eventually("pebble to answer", async || {
            tokio::net::TcpStream::connect(self.management).await.is_ok()
        })
        .await;
    }

    /// Stops answering.
    pub async fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().await.unwrap();
        }
    }

    /// The file of what signs its certificates.
    pub async fn root(&self) -> PathBuf {
        let mut command = Command::new("curl");
        command
            .args(["--silent", "--fail", "--max-time", "10", "--noproxy", "*", "--cacert"])
            .arg(self.own.bundle());
        command.arg(format!("https://{}/roots/0", self.management));
        let output = within("curl", command.output()).await.unwrap();
        assert!(output.status.success(), "{output:?}");
        let file = self.folder.path().join("root.pem");
        fs::write(&file, output.stdout).unwrap();
        file
    }
}
