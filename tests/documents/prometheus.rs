//! A real Prometheus, in a process of its own, that scrapes what a test names. Dropping it ends it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Client, eventually};

pub(crate) struct Prometheus {
    address: SocketAddr,
    child: Child,
    _folder: TempDir,
}

impl Prometheus {
    /// One that scrapes these twice a second, as job `selvedge`, and follows these rules.
    pub(crate) async fn scraping(addresses: &[SocketAddr], rules: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let targets: Vec<_> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
        write("rules.yml", rules);
        write(
            "prometheus.yml",
            &format!(
                "global: {{ scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms }}\n\
                 rule_files: [\"rules.yml\"]\n\
                 scrape_configs:\n  - job_name: selvedge\n    static_configs: [{{ targets: [{}] }}]\n",
                targets.join(", ")
            ),
        );
        // Held until just before it is started, as it cannot be given a socket.
        let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap();
        drop(held);
        let child = start(folder.path(), address);
        let this = Self { address, child, _folder: folder };
        eventually("Prometheus to be ready", async || {
            let answer = Client::to(address).try_request("GET", "/-/ready", &[], b"").await;
            answer.is_ok_and(|answer| answer.status == 200)
        })
        .await;
        this
    }

    /// The data of its answer to `GET /api/v1/…`.
    pub(crate) async fn api(&self, path: &str) -> Value {
        let answer = Client::to(self.address).get(&format!("/api/v1/{path}")).await;
        let mut json: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(json["status"], "success", "{path}: {json}");
        json["data"].take()
    }

    /// The series that a query gives now.
    pub(crate) async fn query(&self, query: &str) -> Vec<Value> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric();
        let encode =
            |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
        let encoded: String = query.bytes().map(encode).collect();
        let data = self.api(&format!("query?query={encoded}")).await;
        data["result"].as_array().unwrap().clone()
    }
}

fn start(folder: &Path, address: SocketAddr) -> Child {
    let mut command = Command::new("prometheus");
    command.arg(format!("--config.file={}", folder.join("prometheus.yml").display()));
    command.arg(format!("--storage.tsdb.path={}", folder.join("data").display()));
    command.arg(format!("--web.listen-address={address}"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("prometheus is installed: see tests/run.sh")
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
