//! The same in a terminal: `selvedge top`, and the colours of `selvedge status`.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::events::two_zones;
use crate::support::tmux::Tmux;
use crate::support::{Edge, Gate, Origin, PATIENCE, Raw, eventually};

/// Runs `selvedge` with these arguments for this node in a terminal.
fn selvedge(command: &str, edge: &Edge) -> Tmux {
    let program = env!("CARGO_BIN_EXE_selvedge");
    Tmux::run(&format!("{command} --admin http://{}", edge.admin).replace("selvedge", program), 120, 30)
}

async fn target(edge: &Edge, index: usize) -> Value {
    let pool: Value = serde_json::from_slice(&edge.admin("/v1/pools/shop").await.body).unwrap();
    pool["targets"][index].clone()
}

#[tokio::test]
async fn a_target_is_drained_and_brought_back_with_keys_after_its_figures() {
    let (origins, setup) = two_zones().await;
    let edge = setup.start().await;
    let top = selvedge("selvedge top", &edge);
    top.shows("● live").await;
    top.shows(&format!("{}  healthy", origins[0].address)).await;
    top.press(&["Down", "Down", "d"]);
    top.shows(&format!("Drain az-a/{} of shop?", origins[0].address)).await;
    top.shows("1 of 2 targets take new sessions then, 2 do now").await;
    top.press(&["9", "m"]);
    top.shows("9m").await;
    top.shows("Enter do it").await;
    assert_eq!(target(&edge, 0).await["admin"], "up", "asking does nothing");
    top.press(&["Enter"]);
    top.shows("draining").await;
    top.shows("the operator set it from up to drain").await;
    assert_eq!(target(&edge, 0).await["admin"], "drain");
    top.press(&["u"]);
    top.shows("Enter do it").await;
    top.press(&["Enter"]);
    eventually("the target to be up", async || target(&edge, 0).await["admin"] == "up").await;
    top.resize(60, 12);
    top.shows("NAME").await;
    top.press(&["q"]);
    top.shows("ended 0.").await;
    assert_eq!(top.says("alternate_on"), "0", "the terminal is as it was");
}

#[tokio::test]
async fn a_zone_is_shifted_and_restored_with_keys() {
    let (_origins, setup) = two_zones().await;
    let edge = setup.start().await;
    let top = selvedge("selvedge top", &edge);
    top.shows("● live").await;
    top.press(&["Down", "s"]);
    top.shows("Shift zone az-a?").await;
    top.shows("Enter do it").await;
    top.press(&["Enter"]);
    top.shows("shifted until").await;
    assert_eq!(edge.metric("selvedge_zone_out{zone=\"az-a\"}").await, 1);
    top.press(&["r"]);
    top.shows("Restore zone az-a?").await;
    top.shows("Enter do it").await;
    top.press(&["Enter"]);
    eventually("the zone to be back", async || edge.metric("selvedge_zone_out").await == 0).await;
}

#[tokio::test]
async fn a_node_that_was_away_is_found_again() {
    let (_origins, setup) = two_zones().await;
    let text = setup.text();
    let mut edge = Edge::start(&text).await;
    let top = selvedge("selvedge top", &edge);
    top.shows("● live").await;
    edge.stop_gracefully().await;
    top.shows("The node is away").await;
    top.shows("is the node running").await;
    let admin = format!("[admin]\naddress = \"{}\"", edge.admin);
    let _again = Edge::start(&text.replace("[admin]\naddress = \"127.0.0.1:0\"", &admin)).await;
    top.shows("● live").await;
}

#[tokio::test]
async fn an_upgrade_and_the_process_that_drains_after_it_are_shown() {
    let gate = Gate::closed();
    let origin = Origin::holding(&gate, "finished").await;
    let edge = Edge::before(&origin).top("watch = false").start().await;
    let text = std::fs::read_to_string(edge.config()).unwrap();
    let top = selvedge("selvedge top", &edge);
    top.shows("● live").await;
    edge.write("nonsense");
    assert_eq!(edge.upgrade().await.status, 422);
    top.shows("was refused: ").await;
    edge.write(&text);
    let mut held = Raw::connect(&edge).await;
    held.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    origin.received(1).await;
    edge.is_upgraded().await;
    top.shows("which served before, drains: 1 connection is left, for ").await;
    gate.open();
    assert_eq!(held.response().await.text(), "finished");
    // It may have been answered before it was asked to leave.
    drop(held);
    top.lacks("which served before").await;
    top.shows("● live").await;
}

#[tokio::test]
async fn a_signal_leaves_the_terminal_as_it_was() {
    let (_origins, setup) = two_zones().await;
    let edge = setup.start().await;
    for signal in ["TERM", "HUP", "INT"] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        // The shell that becomes the program says its id first.
        let line = format!("sh -c 'echo $$ > {}; exec \"$@\"' sh selvedge top", file.display());
        let top = selvedge(&line, &edge);
        top.shows("● live").await;
        assert_eq!(top.says("alternate_on"), "1");
        let pid = std::fs::read_to_string(&file).unwrap();
        let sent = Command::new("kill").args(["-s", signal, pid.trim()]).status().unwrap();
        assert!(sent.success());
        top.shows("ended 0.").await;
        assert_eq!(top.says("alternate_on"), "0", "{signal}");
    }
}

#[tokio::test]
async fn a_terminal_that_is_gone_is_the_end() {
    let (_origins, setup) = two_zones().await;
    let edge = setup.start().await;
    // In a session of its own it hears of that by no signal.
    for session in ["", "setsid --wait "] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let line = format!("{session}sh -c 'echo $$ > {}; exec \"$@\"' sh selvedge top", file.display());
        let top = selvedge(&line, &edge);
        top.shows("● live").await;
        let pid = std::fs::read_to_string(&file).unwrap().trim().to_owned();
        top.vanish();
        let ended = async {
            eventually("it to end", async || {
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                stat.is_empty() || stat.contains(") Z ")
            })
            .await;
        };
        let ended = tokio::time::timeout(PATIENCE * 2 / 3, ended).await;
        if ended.is_err() {
            let _ = Command::new("kill").args(["-s", "KILL", &pid]).output();
        }
        assert!(ended.is_ok(), "{line} goes on without a terminal");
    }
}

#[tokio::test]
async fn colours_are_for_terminals_that_want_them() {
    let (_origins, setup) = two_zones().await;
    let edge = setup.start().await;
    for (command, seen, green) in [("top", "● live", "\u{1b}[38;5;2m"), ("status", "ended 0.", "\u{1b}[32m")]
    {
        let coloured = selvedge(&format!("selvedge {command}"), &edge);
        coloured.shows(seen).await;
        assert!(coloured.colours().contains(green), "{command}: {}", coloured.colours());
        let plain = selvedge(&format!("NO_COLOR=1 selvedge {command}"), &edge);
        plain.shows(seen).await;
        assert!(!plain.colours().contains(green), "{command}: {}", plain.colours());
    }
    let url = format!("http://{}", edge.admin);
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    let output = command.args(["status", "--admin", &url]).output().unwrap();
    assert!(!output.stdout.contains(&0x1b), "a pipe gets none");
}

#[test]
fn what_is_no_terminal_is_sent_to_status() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    let output = command.arg("top").stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        said,
        "selvedge: top needs a terminal that it can draw on; selvedge status prints the same once\n"
    );
}
