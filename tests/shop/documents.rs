//! Every command of README.md and docs/ works: it is run while the whole system runs, as its reader would run it.
//!
//! What a page says of ports is replaced by those of the test. What takes a release build is not built: its name is looked for.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use http::Method;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::browser::Browser;
use crate::processes::{SOON, System, run_to_end, until};

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README.md and everything in docs/.
fn pages() -> Vec<PathBuf> {
    let docs = std::fs::read_dir(project().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut pages: Vec<_> = docs.filter(|path| path.extension().is_some_and(|end| end == "md")).collect();
    pages.sort();
    pages.insert(0, project().join("README.md"));
    pages
}

/// The commands in the shell blocks of a page, each on one line and without comments.
fn commands(page: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(page).unwrap().replace("\\\n", " ");
    let blocks = text.split("\n```").skip(1).step_by(2).filter_map(|block| block.strip_prefix("sh\n"));
    let lines = blocks.flat_map(str::lines).map(|line| line.split("  #").next().unwrap().trim());
    lines.filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// Where the commands are run: a folder with what is at the top of the project, and a running system.
struct Desk {
    system: System,
    folder: tempfile::TempDir,
}

impl Desk {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(project().join("config"), folder.path().join("config")).unwrap();
        Self { system: System::start().await, folder }
    }

    async fn all_are_healthy(&self) {
        until("all instances are healthy", async || {
            let answer =
                Browser::new(self.system.admin).try_send(Method::GET, "/v1/pools", &[], "").await.ok()?;
            let healthy = answer.text().matches("\"status\":\"healthy\"").count();
            (healthy == self.system.instances().len()).then_some(())
        })
        .await;
    }

    /// The command with this system's addresses.
    fn here(&self, command: &str) -> String {
        let System { proxy, admin, port, .. } = &self.system;
        let mut here = command
            .replace("cargo run --release --bin selvedge --", "selvedge")
            .replace("127.0.0.1:8080", &proxy.to_string())
            .replace("127.0.0.1:9900", &admin.to_string())
            .replace(":9001", &format!(":{port}"))
            .replace("curl ", "curl --fail --silent --show-error --max-time 10 ");
        let asks = ["status", "zone ", "target ", "reload", "explain ", "drain "];
        let is_client =
            here.strip_prefix("selvedge ").is_some_and(|rest| asks.iter().any(|asks| rest.starts_with(asks)));
        if is_client && !here.contains("--admin") {
            here += &format!(" --admin http://{admin}");
        }
        here
    }

    /// Runs it; it must succeed.
    async fn shell(&self, command: &str) {
        let program = Path::new(env!("CARGO_BIN_EXE_selvedge")).parent().unwrap();
        let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("bash");
        shell.args(["-c", command]).env("PATH", path).current_dir(self.folder.path());
        let run = shell.stdin(Stdio::null()).kill_on_drop(true).output();
        let output = tokio::time::timeout(SOON, run).await.expect(command).unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
    }

    /// Starts a node with this configuration on free ports, and ends it once it listens.
    async fn node(&self, config: &str) {
        let text = std::fs::read_to_string(project().join(config)).unwrap();
        let file = self.folder.path().join("free-ports.toml");
        let text = text.replace("127.0.0.1:8080", "127.0.0.1:0");
        std::fs::write(&file, text + "\n[admin]\naddress = \"127.0.0.1:0\"\n").unwrap();
        let mut node = Command::new(env!("CARGO_BIN_EXE_selvedge"));
        node.args(["run", "--config"]).arg(file).stderr(Stdio::piped()).kill_on_drop(true);
        let mut node = node.spawn().unwrap();
        let mut lines = BufReader::new(node.stderr.take().unwrap()).lines();
        let listening = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.contains("listening") {
                    return true;
                }
            }
            false
        };
        assert!(tokio::time::timeout(SOON, listening).await.unwrap(), "it ended instead of listening");
        node.kill().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_of_the_documents_works() {
    let desk = Desk::new().await;
    let manifest = std::fs::read_to_string(project().join("Cargo.toml")).unwrap();
    // In this order: run here, started, looked for.
    let mut found = [0; 3];
    for page in pages() {
        desk.all_are_healthy().await;
        for command in commands(&page) {
            let words: Vec<_> = command.split_whitespace().collect();
            let shown = page.display();
            match words.as_slice() {
                ["cargo", "run", "--release", "--example", "myclothes", rest @ ..] => {
                    found[1] += 1;
                    let mut arguments: Vec<_> = rest.iter().skip(1).copied().collect();
                    arguments.push("--help");
                    let output = run_to_end(&arguments).await;
                    assert!(output.status.success(), "{shown}: {command}: {output:?}");
                }
                ["selvedge", "run", "--config", config] => {
                    found[1] += 1;
                    desk.node(config).await;
                }
                ["cargo", "build", "--release", "--bin", "selvedge"] => found[2] += 1,
                ["cargo", "build", "--release", "--features", feature] => {
                    found[2] += 1;
                    assert!(manifest.contains(&format!("\n{feature} = [")), "{shown}: {command}");
                }
                ["cargo", "bench", "--bench", bench, ..] => {
                    found[2] += 1;
                    assert!(manifest.contains(&format!("name = \"{bench}\"")), "{shown}: {command}");
                }
                [script] | ["SELVEDGE_SOAK=1", script] if project().join(script).is_file() => found[2] += 1,
                ["selvedge" | "curl" | "kill" | "export" | "chmod", ..]
                | ["cargo", "run", "--release", "--bin", "selvedge", "--", ..] => {
                    found[0] += 1;
                    desk.shell(&desk.here(&command)).await;
                }
                _ => panic!("{shown}: {command}: tests/shop/documents.rs does not know how to run it"),
            }
        }
    }
    assert!(found[0] >= 30 && found[1] >= 4 && found[2] >= 3, "{found:?} commands are found");
}
