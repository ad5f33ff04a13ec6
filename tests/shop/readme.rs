//! Every command of the README of the example works.

use crate::group::ask;
use crate::processes::{Instance, SOON, System, run_to_end};
use hickory_server::proto::rr::RecordType;
use serde_json::Value;
use tokio::process::Command;

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
    let folder = tempfile::tempdir().unwrap();
    let instance = Instance::start(folder.path(), 1).await;
    let mut found = [0; 3];
    for command in readme_commands() {
        if command.starts_with("curl ") {
            found[0] += 1;
            let here = command
                .replace("127.0.0.1:8080", &system.proxy.to_string())
                .replace("127.0.1.1:9001", &instance.address.to_string());
            let shell = Command::new("sh").args(["-c", &here]).current_dir(folder.path()).output();
            let output = tokio::time::timeout(SOON, shell).await.unwrap().unwrap();
            assert!(output.status.success(), "is curl installed? {command}: {output:?}");
            let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert!(answer.is_object() && answer["error"].is_null(), "{command}: {answer}");
        } else if let Some(question) = command.strip_prefix("dig @127.0.0.1 -p 5353 +short ") {
            found[1] += 1;
            let (name, kind) = match question.split_once(' ') {
                Some((name, "SRV")) => (name, RecordType::SRV),
                _ => (question, RecordType::A),
            };
            assert!(!ask(system.dns, &format!("{name}."), kind).await.is_empty(), "{command}");
        } else {
            found[2] += 1;
            let args = command.strip_prefix("cargo run --release --example myclothes").expect(&command);
            let mut args: Vec<_> = args.strip_prefix(" -- ").unwrap_or_default().split_whitespace().collect();
            args.push("--help");
            let output = run_to_end(&args).await;
            assert!(output.status.success(), "{command}: {output:?}");
        }
    }
    assert!(found[0] >= 6 && found[1] >= 2 && found[2] >= 5, "{found:?}");
}
