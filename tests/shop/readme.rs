//! Every command of the README of the example works.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use crate::browser::Browser;
use crate::group::ask;
use crate::processes::{Instance, System, run_to_end, until};
use hickory_server::proto::rr::RecordType;
use http::Method;
use serde_json::Value;
use tokio::process::Command;

/// For one command: longer than a request waits that meets the hung instance (`first_byte`, 30 seconds) before another one answers it.
const LONG: Duration = Duration::from_secs(60);

/// The commands in its shell blocks, each on one line and without comments.
fn readme_commands() -> Vec<String> {
    let readme = include_str!("../../examples/myclothes/README.md").replace("\\\n", " ");
    let blocks = readme.split("```").skip(1).step_by(2).filter_map(|block| block.strip_prefix("sh\n"));
    let lines = blocks.flat_map(str::lines).map(|line| line.split("  #").next().unwrap().trim());
    lines.filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_of_the_readme_works() {
    let system = System::start().await;
    until("all instances are found", async || {
        let answer = Browser::new(system.admin).try_send(Method::GET, "/v1/pools", &[], "").await.ok()?;
        (answer.text().matches("\"status\":\"healthy\"").count() == system.instances().len()).then_some(())
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let instance = Instance::start(folder.path(), 1).await;
    let at_system = |command: &str| {
        let admin = format!(" --admin http://{}", system.admin);
        let is_client = command.starts_with("cargo run --release --bin selvedge -- ");
        let here = command
            .replace("127.0.0.1:8080", &system.proxy.to_string())
            .replace(":9001", &format!(":{}", system.port))
            .replace("cargo run --release --bin selvedge --", env!("CARGO_BIN_EXE_selvedge"));
        here + if is_client { &admin } else { "" }
    };
    let mut found = [0; 4];
    for command in readme_commands() {
        if command.starts_with("curl ") && !command.contains('|') {
            found[0] += 1;
            let here = command.replace("127.0.1.1:9001", &instance.address.to_string());
            let output = shell(&at_system(&here), folder.path()).await;
            let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert!(answer.is_object() && answer["error"].is_null(), "{command}: {answer}");
        } else if let Some(question) = command.strip_prefix("dig @127.0.0.1 -p 5353 +short ") {
            found[1] += 1;
            let (name, kind) = match question.split_once(' ') {
                Some((name, "SRV")) => (name, RecordType::SRV),
                _ => (question, RecordType::A),
            };
            assert!(!ask(system.dns, &format!("{name}."), kind).await.is_empty(), "{command}");
        } else if let Some(args) = command.strip_prefix("cargo run --release --example myclothes") {
            found[2] += 1;
            let mut args: Vec<_> = args.strip_prefix(" -- ").unwrap_or_default().split_whitespace().collect();
            args.push("--help");
            let output = run_to_end(&args).await;
            assert!(output.status.success(), "{command}: {output:?}");
        } else {
            found[3] += 1;
            shell(&at_system(&command), folder.path()).await;
        }
    }
    assert!(found[0] >= 9 && found[1] >= 2 && found[2] >= 5 && found[3] >= 10, "{found:?}");
}

/// Runs a command of the README, which must succeed.
async fn shell(command: &str, folder: &Path) -> Output {
    let run = Command::new("sh").args(["-c", command]).current_dir(folder).kill_on_drop(true).output();
    let output = tokio::time::timeout(LONG, run).await.expect(command).unwrap();
    assert!(output.status.success(), "is curl installed? {command}: {output:?}");
    output
}
